"""Every loss and every function of Gaussians in float32, at ordinary and at extreme arguments, against float64."""

from __future__ import annotations

import inspect
import math

import float64
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import gaussian, losses

CASES = [pytest.param(module, name, id=name) for module, name in float64.NAMES]
# Differences of large numbers at the extremes: densities that differ by e^40 and more, nearly opposite directions.
ILL_CONDITIONED = {"kl_terms", "total_correlation", "slerp", "mixture_log_prob"}


@pytest.mark.parametrize("module", float64.REFERENCES, ids=lambda module: module.__name__)
def test_the_table_covers_the_public_functions(module):
    assert sorted(float64.REFERENCES[module]) == sorted(float64.public_functions(module))


@pytest.mark.parametrize(("module", "name"), CASES)
def test_values_and_gradients_equal_those_in_float64(module, name):
    arrays = float64.moderate(module, name)
    got, expected = (
        float64.differentiated(float64.function(module, name), arrays),
        float64.reference(module, name, arrays),
    )
    for parts, references in zip(got, expected, strict=True):
        for part, reference in zip(parts, references, strict=True):
            assert part.dtype == np.float32
            np.testing.assert_allclose(part, reference, rtol=2e-5, atol=2e-5)


def assert_equal_within_range(got, expected, rtol, atol):
    """Close where float32 has the number; infinite, with its sign, where it has not, or a part of it is too large."""
    size = np.abs(expected)
    beyond = (size > float64.LARGEST) | ((size > float64.LARGEST / 4) & np.isinf(got))
    np.testing.assert_array_equal(got[beyond], np.sign(expected[beyond]) * np.inf)
    np.testing.assert_allclose(got[~beyond], expected[~beyond], rtol=rtol, atol=atol)


@pytest.mark.parametrize(("module", "name"), CASES)
def test_extremes(module, name):
    """Log variances from -100 to 60, means and logits to 1e4, infinite logits."""
    arrays = float64.extremes(module, name)
    (values, gradients), (expected, slopes) = (
        float64.differentiated(float64.function(module, name), arrays),
        float64.reference(module, name, arrays),
    )
    if name in ILL_CONDITIONED:
        assert all(np.isfinite(part).all() for part in (*values, *gradients))
        return
    for value, reference in zip(values, expected, strict=True):
        assert_equal_within_range(value, reference, rtol=2e-5, atol=2e-4)
    if "bernoulli" in name:  # by the target it is the logit, or 0 where that is infinite and right
        gradients[1], slopes[1] = (slope[np.isfinite(arrays[0])] for slope in (gradients[1], slopes[1]))
    if name == "cosine_distance":  # which is 1 / length times a difference of directions
        lengths = [np.linalg.norm(np.float64(vectors), axis=1, keepdims=True) for vectors in arrays]
        gradients, slopes = ([g * n for g, n in zip(parts, lengths, strict=True)] for parts in (gradients, slopes))
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert_equal_within_range(gradient, slope, rtol=1e-4, atol=1e-4)


def test_an_exact_reconstruction_by_hand():
    """-log N(x | x, e^-100) = (log 2 pi - 100) / 2, whose slope in the log variance is 1 / 2; Laplace log 2 - 100."""
    x, tight = jnp.ones((1, 1)), jnp.full((1, 1), -100.0)
    assert losses.gaussian_nll(x, x, tight)[0] == pytest.approx((math.log(2 * math.pi) - 100) / 2)
    assert losses.laplace_nll(x, x, tight)[0] == pytest.approx(math.log(2) - 100)
    for nll, slope in ((losses.gaussian_nll, 0.5), (losses.laplace_nll, 1.0)):
        gradients = jax.grad(lambda *arrays, nll=nll: nll(*arrays).sum(), (0, 1, 2))(x, x, tight)
        np.testing.assert_array_equal(gradients, np.float32([0.0, 0.0, slope]).reshape(3, 1, 1))


def test_an_infinite_logit_costs_nothing_if_it_is_right():
    logits = jnp.array([[jnp.inf, -jnp.inf], [jnp.inf, 0.0], [jnp.inf, 0.0]])
    targets = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.5]])
    for nll in (losses.bernoulli_nll, losses.penalised_bernoulli_nll):
        np.testing.assert_array_equal(nll(logits, targets), [0.0, np.inf, np.inf])
    slopes = jax.grad(lambda logits: losses.bernoulli_nll(logits, targets).sum())(logits)
    np.testing.assert_array_equal(slopes, [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]])


@pytest.mark.parametrize("epsilon", [1e-8, 1e-3])
def test_epsilon_bounds_the_loss_of_an_infinite_logit(epsilon):
    logits = jnp.array([-jnp.inf, -1e4, 1e4, jnp.inf])

    def worst(logits):
        sides = losses.logistic_discriminator(logits, logits, epsilon=epsilon)
        return jnp.concatenate([*sides, -losses.saturating_generator(logits, epsilon=epsilon)])

    bound, sure = -math.log(epsilon), -math.log1p(epsilon)
    expected = [bound, bound, sure, sure, *[sure, sure, bound, bound] * 2]
    np.testing.assert_allclose(worst(logits), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(jax.grad(lambda logits: worst(logits).sum())(logits), np.zeros(4))


def test_a_sample_that_its_posterior_excludes_has_no_terms():
    """Its density is below exp(-3.4e38): a difference of two such logarithms is not a number, and a step is refused."""
    far = losses.kl_terms(jnp.full((2, 1), 1e4), jnp.zeros((2, 1)), jnp.full((2, 1), -100.0), dataset_size=9)
    assert jnp.isnan(far.mutual_information).all()
    assert (gaussian.log_prob(jnp.float32(1e4), 0.0, -100.0) == -jnp.inf).all()


def test_every_argument_has_extremes():
    for module, name in float64.NAMES:
        assert set(float64.array_names(module, name)) <= set(float64.EXTREMES), inspect.getsource(getattr(module, name))


def exponentials(function, *arrays):
    """How many exponentials and logarithms are taken, names in order."""
    names = [equation.primitive.name for equation in jax.make_jaxpr(function)(*arrays).jaxpr.eqns]
    return sorted(name for name in names if name in {"exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh"})


def test_no_element_takes_more_exponentials_than_it_needs():
    x = jnp.ones((2, 3))
    assert exponentials(gaussian.log_prob, x, x, x) == ["exp"]
    assert exponentials(losses.laplace_nll, x, x, x) == ["exp"]
    assert exponentials(gaussian.kl_divergence, x, x, x, x) == ["exp", "expm1"]
    assert exponentials(losses.bernoulli_nll, x, x) == ["exp", "log1p"]
