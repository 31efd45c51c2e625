"""Bounds of log p(x) on linear-Gaussian models, of which posterior, evidence and gradients are known in closed form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mvae_jax import gaussian, losses

BATCH, SAMPLES, DIMS, VALUES, VARIANCE = 3, 5, 2, 4, 0.7
RNG = np.random.default_rng(0)
# Orthogonal columns: the exact posterior of z given x = W z + b + noise is then a diagonal Gaussian.
W = np.linalg.qr(RNG.normal(size=(VALUES, DIMS)))[0] * np.array([1.5, 0.6])
B = RNG.normal(size=VALUES)
X = RNG.normal(size=(BATCH, VALUES)).astype(np.float32)
NOISE = RNG.normal(size=(BATCH, SAMPLES, DIMS)).astype(np.float32)
MODEL = {"w": np.float32(W), "b": np.float32(B), "logvar": np.float32(math.log(VARIANCE))}


def evidence(model):
    """log p(x), [B], by the density of N(b, W W^T + variance I)."""
    covariance = model["w"] @ model["w"].T + jnp.exp(model["logvar"]) * jnp.eye(VALUES)
    deviation = X - model["b"][None]
    squared = (deviation * jnp.linalg.solve(covariance, deviation.T).T).sum(1)
    return -0.5 * (VALUES * jnp.log(2 * jnp.pi) + jnp.linalg.slogdet(covariance)[1] + squared)


def posterior(model):
    """Mean and log variance of p(z | x), each [B, D]."""
    precision = 1 + (model["w"] ** 2).sum(0) / jnp.exp(model["logvar"])
    mean = ((X - model["b"][None]) @ model["w"]) / jnp.exp(model["logvar"]) / precision[None]
    return mean, jnp.broadcast_to(-jnp.log(precision), mean.shape)


def log_joint(model, z):
    """log p(x, z), [B, K], of z [B, K, D]."""
    mean = z @ model["w"].T + model["b"][None, None]
    observed = gaussian.log_prob(jnp.asarray(X)[:, None], mean, model["logvar"]).sum(-1)
    return observed + gaussian.log_prob(z, 0.0, 0.0).sum(-1)


def draw(mean, logvar, noise=NOISE):
    return mean[:, None] + jnp.exp(0.5 * logvar)[:, None] * noise


def bound(model, mean, logvar, noise=NOISE):
    z = draw(mean, logvar, noise)
    log_weights = log_joint(model, z) - gaussian.log_prob(z, mean[:, None], logvar[:, None]).sum(-1)
    return losses.importance_weighted_bound(log_weights)


def doubly_reparameterised(model, mean, logvar, noise=NOISE):
    fixed = jax.lax.stop_gradient

    def log_weight(z):
        return log_joint(model, z) - gaussian.log_prob(z, fixed(mean)[:, None], fixed(logvar)[:, None]).sum(-1)

    return losses.doubly_reparameterised_bound(log_weight, draw(mean, logvar, noise))


def gradients(function, model, mean, logvar):
    return jax.jit(jax.grad(lambda *arguments: function(*arguments).sum(), (0, 1, 2)))(model, mean, logvar)


def off(mean, logvar):
    """A posterior that is not the exact one."""
    return mean + 0.4, logvar + 0.3


def test_the_model_is_what_scipy_says():
    covariance = W @ W.T + VARIANCE * np.eye(VALUES)
    expected = scipy.stats.multivariate_normal.logpdf(X, B, covariance)
    np.testing.assert_allclose(evidence(MODEL), expected, rtol=1e-5)


@pytest.mark.parametrize("of", [bound, doubly_reparameterised])
def test_with_the_exact_posterior_every_sample_gives_the_evidence(of):
    np.testing.assert_allclose(of(MODEL, *posterior(MODEL)), evidence(MODEL), rtol=1e-5)


def test_the_gradient_by_the_model_is_that_of_the_evidence():
    """With the posterior that follows the model, the bound is the evidence, and so is its gradient."""
    got = jax.grad(lambda model: bound(model, *posterior(model)).sum())(MODEL)
    expected = jax.grad(lambda model: evidence(model).sum())(MODEL)
    for name in ("b", "logvar"):  # at another W the columns are not orthogonal, and the exact posterior is not diagonal
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-4)


def test_the_exact_posterior_has_no_gradient_if_it_is_doubly_reparameterised():
    _, *by_posterior = gradients(doubly_reparameterised, MODEL, *posterior(MODEL))
    for gradient in by_posterior:
        np.testing.assert_allclose(gradient, 0, atol=1e-5)
    _, by_mean, _ = gradients(bound, MODEL, *posterior(MODEL))
    assert np.abs(by_mean).max() > 0.1  # the plain estimate is zero on average alone


def test_the_two_bounds_differ_in_their_gradient_by_the_posterior_alone():
    guess = off(*posterior(MODEL))
    np.testing.assert_allclose(doubly_reparameterised(MODEL, *guess), bound(MODEL, *guess), rtol=1e-6)
    plain, doubly = (gradients(of, MODEL, *guess) for of in (bound, doubly_reparameterised))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain[0], doubly[0])
    assert np.abs(plain[1] - doubly[1]).max() > 1e-2


def test_the_gradient_by_a_sample_has_its_weight_squared():
    """As Tucker et al. have it, of a weight that is a polynomial."""
    z = jnp.asarray(NOISE)
    log_weights, slopes = (z**2).sum(-1) - z.sum(-1), 2 * z - 1
    weights = scipy.special.softmax(log_weights, axis=1)[..., None]
    got = jax.grad(lambda z: losses.doubly_reparameterised_bound(lambda z: (z**2 - z).sum(-1), z).sum())(z)
    np.testing.assert_allclose(got, weights**2 * slopes, rtol=1e-5, atol=1e-6)


# --- expectations, by Gauss-Hermite quadrature ----------------------------------------------------------------------

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
SLOPE, X1, MEAN1, LOGVAR1 = 0.8, 1.1, -0.3, -0.4


def one(mean, logvar, noise, doubly, beta=1.0):
    """Bounds of p(x = 1.1) with z ~ N(0, 1), x ~ N(.8 z, 1), [N], for noise [N, K]; beta is that of p(z) / q(z)."""
    z = mean + jnp.exp(0.5 * logvar) * noise
    fixed = jax.lax.stop_gradient if doubly else lambda value: value

    def log_weight(z):
        divergence = gaussian.log_prob(z, fixed(mean), fixed(logvar)) - gaussian.log_prob(z, 0.0, 0.0)
        return gaussian.log_prob(X1, SLOPE * z, 0.0) - beta * divergence

    if doubly:
        return losses.doubly_reparameterised_bound(log_weight, z, posterior_weight=beta)
    return losses.importance_weighted_bound(log_weight(z))


def expected(noise, weights, doubly, beta=1.0):
    """Value and gradient by mean and log variance of the expected bound."""

    def mean_bound(parameters):
        return (weights * one(*parameters, noise, doubly, beta)).sum()

    value, gradient = jax.jit(jax.value_and_grad(mean_bound))((jnp.float32(MEAN1), jnp.float32(LOGVAR1)))
    return float(value), gradient


@pytest.mark.parametrize("doubly", [False, True])
def test_one_sample_is_on_average_the_elbo_in_closed_form(doubly):
    def elbo(parameters):
        mean, logvar = parameters
        variance = jnp.exp(logvar)
        squared = (X1 - SLOPE * mean) ** 2 + SLOPE**2 * variance
        return -0.5 * (jnp.log(2 * jnp.pi) + squared) - gaussian.kl_divergence(mean, logvar, 0.0, 0.0)

    value, slopes = jax.value_and_grad(elbo)((jnp.float32(MEAN1), jnp.float32(LOGVAR1)))
    got, gradient = expected(np.float32(NODES[:, None]), np.float32(NODE_WEIGHTS), doubly)
    assert got == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-5)


PAIRS = np.float32(np.stack(np.meshgrid(NODES, NODES), -1).reshape(-1, 2))
PAIR_WEIGHTS = np.float32(np.outer(NODE_WEIGHTS, NODE_WEIGHTS).reshape(-1))


@pytest.mark.parametrize("beta", [0.3, 2.5])
def test_with_another_weight_of_the_posterior_both_gradients_agree_on_average(beta):
    (plain, by_plain), (doubly, by_doubly) = (expected(PAIRS, PAIR_WEIGHTS, way, beta) for way in (False, True))
    assert plain == pytest.approx(doubly, rel=1e-6)
    np.testing.assert_allclose(by_doubly, by_plain, rtol=2e-3)


def test_two_samples_have_on_average_the_same_gradient_either_way_and_a_tighter_bound():
    (plain, by_plain), (doubly, by_doubly) = (expected(PAIRS, PAIR_WEIGHTS, way) for way in (False, True))
    single, _ = expected(np.float32(NODES[:, None]), np.float32(NODE_WEIGHTS), False)
    exact = scipy.stats.norm.logpdf(X1, 0, math.sqrt(1 + SLOPE**2))
    assert single + 0.01 < plain < exact
    assert plain == pytest.approx(doubly, rel=1e-6)
    np.testing.assert_allclose(by_plain, by_doubly, rtol=1e-3)


def test_what_log_weight_says_beside_it_is_handed_on():
    def log_weight(z):
        return (z**2).sum(-1), {"twice": 2 * z}

    def bound(z):
        value, aux = losses.doubly_reparameterised_bound(log_weight, z, has_aux=True)
        return value.sum() + aux["twice"].sum(), aux

    gradient, aux = jax.grad(bound, has_aux=True)(jnp.asarray(NOISE))
    np.testing.assert_array_equal(aux["twice"], 2 * NOISE)
    plain = jax.grad(lambda z: losses.doubly_reparameterised_bound(lambda z: (z**2).sum(-1), z).sum())(NOISE)
    np.testing.assert_allclose(gradient, plain, rtol=1e-6)


def test_a_log_weight_of_another_shape_is_refused():
    with pytest.raises(AssertionError, match="shape"):
        losses.doubly_reparameterised_bound(lambda z: z.sum(1), jnp.zeros((2, 3, 4)))
