"""Errors and likelihoods against SciPy's distributions and hand values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mvae_jax import losses

RNG = np.random.default_rng(1)
SHAPE = (3, 4, 2, 2)
PREDICTION, TARGET, SPREAD = RNG.normal(size=(3, *SHAPE)).astype(np.float32)
LABELS = RNG.integers(0, 2, size=SHAPE).astype(np.float32)


def per_example(elements):
    return elements.reshape(len(elements), -1).sum(-1)


def test_errors_by_hand():
    prediction, target = jnp.array([[1.0, -2.0], [0.0, 0.5]]), jnp.array([[0.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(losses.squared_error(prediction, target), [10.0, 0.25])
    np.testing.assert_allclose(losses.absolute_error(prediction, target), [4.0, 0.5])


def test_a_sum_is_the_mean_times_the_number_of_values():
    mean_error = np.mean((PREDICTION - TARGET) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(losses.squared_error(PREDICTION, TARGET), 16 * mean_error, rtol=1e-6)


def test_bernoulli_nll_equals_scipy():
    probabilities = 1 / (1 + np.exp(-PREDICTION.astype(np.float64)))
    expected = per_example(-scipy.stats.bernoulli.logpmf(LABELS, probabilities))
    np.testing.assert_allclose(losses.bernoulli_nll(PREDICTION, LABELS), expected, rtol=1e-5)


def test_bernoulli_nll_of_soft_targets_is_the_cross_entropy():
    nll = losses.bernoulli_nll(jnp.zeros((1, 1)), jnp.array([[0.3]]))
    assert nll[0] == pytest.approx(math.log(2.0))
    logit = math.log(0.3 / 0.7)  # the best prediction has the target's own entropy
    entropy = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    assert losses.bernoulli_nll(jnp.array([[logit]]), jnp.array([[0.3]]))[0] == pytest.approx(entropy, rel=1e-6)


def test_bernoulli_nll_keeps_its_digits_for_large_logits():
    logits = jnp.array([[20.0], [-20.0], [500.0], [-500.0]])
    right, wrong = jnp.array([[1.0], [0.0], [1.0], [0.0]]), jnp.array([[0.0], [1.0], [0.0], [1.0]])
    np.testing.assert_allclose(losses.bernoulli_nll(logits, right), [math.exp(-20)] * 2 + [0.0] * 2, rtol=1e-5)
    np.testing.assert_allclose(losses.bernoulli_nll(logits, wrong), [20.0, 20.0, 500.0, 500.0], rtol=1e-6)
    gradient = jax.grad(lambda x: losses.bernoulli_nll(x, right).sum())(logits)
    np.testing.assert_allclose(gradient[:2, 0], [-math.exp(-20), math.exp(-20)], rtol=1e-4)


def test_penalised_bernoulli_nll_by_hand():
    # Cross-entropies 0.1 (below), 0.2 (above the default threshold): -log sigmoid(l) = b at l = -log(e^b - 1).
    logits = -jnp.log(jnp.expm1(jnp.array([[0.1, 0.2]])))
    targets = jnp.ones((1, 2))
    assert losses.bernoulli_nll(logits, targets)[0] == pytest.approx(0.3, rel=1e-5)
    assert losses.penalised_bernoulli_nll(logits, targets)[0] == pytest.approx(0.1 + 8 * 0.2, rel=1e-5)
    assert losses.penalised_bernoulli_nll(logits, targets, threshold=0.05, factor=2.0)[0] == pytest.approx(
        0.6, rel=1e-5
    )
    assert losses.penalised_bernoulli_nll(logits, targets, threshold=0.25)[0] == pytest.approx(0.3, rel=1e-5)
    gradient = jax.grad(lambda x: losses.penalised_bernoulli_nll(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, (jax.nn.sigmoid(logits) - 1) * jnp.array([[1.0, 8.0]]), rtol=1e-5)


def test_a_penalty_factor_of_one_is_no_penalty():
    np.testing.assert_allclose(
        losses.penalised_bernoulli_nll(PREDICTION, LABELS, factor=1.0), losses.bernoulli_nll(PREDICTION, LABELS)
    )


def test_gaussian_nll_equals_scipy():
    expected = per_example(-scipy.stats.norm.logpdf(TARGET, PREDICTION, np.exp(0.5 * SPREAD)))
    np.testing.assert_allclose(losses.gaussian_nll(TARGET, PREDICTION, SPREAD), expected, rtol=1e-5)


def test_laplace_nll_equals_scipy():
    expected = per_example(-scipy.stats.laplace.logpdf(TARGET, PREDICTION, np.exp(SPREAD)))
    np.testing.assert_allclose(losses.laplace_nll(TARGET, PREDICTION, SPREAD), expected, rtol=1e-5)


@pytest.mark.parametrize("nll", [losses.gaussian_nll, losses.laplace_nll])
@pytest.mark.parametrize("as_scalar", [float, jnp.float32])
def test_one_spread_serves_all_elements(nll, as_scalar):
    np.testing.assert_allclose(
        nll(TARGET, PREDICTION, as_scalar(-0.5)),
        nll(TARGET, PREDICTION, np.full(SHAPE, -0.5, np.float32)),
        rtol=1e-6,
    )


def test_likelihoods_are_errors_plus_constants():
    squared, absolute = losses.squared_error(PREDICTION, TARGET), losses.absolute_error(PREDICTION, TARGET)
    half_variance = losses.gaussian_nll(TARGET, PREDICTION, -math.log(2.0))
    np.testing.assert_allclose(half_variance - squared, np.full(3, 8 * math.log(math.pi)), rtol=1e-5)
    unit_variance = losses.gaussian_nll(TARGET, PREDICTION, 0.0)
    np.testing.assert_allclose(unit_variance - squared / 2, np.full(3, 8 * math.log(2 * math.pi)), rtol=1e-5)
    unit_scale = losses.laplace_nll(TARGET, PREDICTION, 0.0)
    np.testing.assert_allclose(unit_scale - absolute, np.full(3, 16 * math.log(2.0)), rtol=1e-5)


@pytest.mark.parametrize("nll", [losses.gaussian_nll, losses.laplace_nll])
def test_a_spread_of_another_shape_is_refused(nll):
    with pytest.raises(AssertionError):
        nll(TARGET, PREDICTION, jnp.zeros(3))


@pytest.mark.parametrize(
    "loss", [losses.squared_error, losses.absolute_error, losses.bernoulli_nll, losses.penalised_bernoulli_nll]
)
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(AssertionError):
        loss(jnp.zeros((3, 1)), jnp.zeros((3, 4)))
