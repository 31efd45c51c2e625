"""GAN losses against hand values and cross-entropies; penalties against critics with known gradients."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import losses

REAL = jnp.array([[0.0, 2.0], [-3.0, 0.5]])  # two examples, two patches
FAKE = jnp.array([[1.0, -2.0], [0.0, 4.0], [-1.0, -1.0]])  # three examples


def softplus(x):
    return np.log1p(np.exp(np.asarray(x, np.float64)))


def images(seed, batch=4):
    return np.random.default_rng(seed).normal(size=(batch, 3, 3, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("discriminator", "real", "fake"),
    [
        (losses.logistic_discriminator, softplus(-REAL).sum(1), softplus(FAKE).sum(1)),
        (losses.hinge_discriminator, [1.0, 4.5], [2.0, 6.0, 0.0]),
        (losses.wasserstein_discriminator, [-2.0, 2.5], [-1.0, 4.0, -2.0]),
        (losses.least_squares_discriminator, [2.0, 16.25], [5.0, 16.0, 2.0]),
    ],
)
def test_discriminators(discriminator, real, fake):
    sides = discriminator(REAL, FAKE)
    np.testing.assert_allclose(sides.real, real, rtol=1e-6)
    np.testing.assert_allclose(sides.fake, fake, rtol=1e-6)


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        (losses.non_saturating_generator, softplus(-FAKE).sum(1)),
        (losses.saturating_generator, -softplus(FAKE).sum(1)),
        (losses.wasserstein_generator, [1.0, -4.0, 2.0]),
        (losses.least_squares_generator, [9.0, 10.0, 8.0]),
    ],
)
def test_generators(generator, expected):
    np.testing.assert_allclose(generator(FAKE), expected, rtol=1e-6)


def test_logistic_losses_are_cross_entropies_with_labels():
    sides = losses.logistic_discriminator(REAL, FAKE)
    np.testing.assert_allclose(sides.real, losses.bernoulli_nll(REAL, jnp.ones_like(REAL)), rtol=1e-6)
    np.testing.assert_allclose(sides.fake, losses.bernoulli_nll(FAKE, jnp.zeros_like(FAKE)), rtol=1e-6)
    np.testing.assert_allclose(
        losses.non_saturating_generator(FAKE), losses.bernoulli_nll(FAKE, jnp.ones_like(FAKE)), rtol=1e-6
    )
    np.testing.assert_allclose(losses.saturating_generator(FAKE), -sides.fake)


def test_the_best_logistic_discriminator_measures_the_jensen_shannon_divergence():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])
    logits = jnp.log(jnp.array(p / q))  # D = p / (p + q)
    sides = losses.logistic_discriminator(logits, logits)
    mixture = (p + q) / 2
    divergence = (p * np.log(p / mixture) + q * np.log(q / mixture)).sum() / 2
    assert (p * sides.real + q * sides.fake).sum() == pytest.approx(2 * math.log(2) - 2 * divergence, rel=1e-5)


def test_gradients_where_the_discriminator_wins():
    lost = jnp.array([-12.0])
    assert jax.grad(lambda x: losses.non_saturating_generator(x).sum())(lost)[0] == pytest.approx(-1.0, abs=1e-5)
    assert jax.grad(lambda x: losses.saturating_generator(x).sum())(lost)[0] == pytest.approx(-math.exp(-12), rel=1e-4)
    hinge = jax.grad(lambda real, fake: sum(x.sum() for x in losses.hinge_discriminator(real, fake)), (0, 1))
    assert hinge(-lost, lost) == (0.0, 0.0)


def test_epsilon_is_added_to_the_probabilities():
    """sigmoid(log 3) = 3/4 and sigmoid(-log 3) = 1/4."""
    logits = jnp.log(jnp.array([[3.0, 1.0], [1 / 3, 1 / 3]]))
    sides = losses.logistic_discriminator(logits, logits, epsilon=0.25)
    real = [-math.log(1.0) - math.log(0.75), -2 * math.log(0.5)]
    fake = [-math.log(0.5) - math.log(0.75), -2 * math.log(1.0)]
    np.testing.assert_allclose(sides.real, real, atol=1e-6)
    np.testing.assert_allclose(sides.fake, fake, atol=1e-6)
    np.testing.assert_array_equal(losses.saturating_generator(logits, epsilon=0.25), -sides.fake)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 1e-3])
def test_certain_verdicts_have_finite_losses_and_gradients(epsilon):
    """Right ones cost nothing; a wrong one costs 100 nats, or -log epsilon, at which it is given up."""
    certain = jnp.array([-100.0, 100.0])

    def of(function):
        return function(certain), jax.grad(lambda x: function(x).sum())(certain)

    worst, slope = (100.0, 1.0) if epsilon == 0 else (-math.log(epsilon), 0.0)
    real, real_slope = of(lambda x: losses.logistic_discriminator(x, x, epsilon=epsilon).real)
    fake, fake_slope = of(lambda x: losses.logistic_discriminator(x, x, epsilon=epsilon).fake)
    np.testing.assert_allclose(real, [worst, 0.0], rtol=1e-6, atol=1.1 * epsilon)
    np.testing.assert_allclose(fake, [0.0, worst], rtol=1e-6, atol=1.1 * epsilon)
    np.testing.assert_allclose(real_slope, [-slope, 0.0], atol=1e-7)
    np.testing.assert_allclose(fake_slope, [0.0, slope], atol=1e-7)
    generator, generator_slope = of(functools.partial(losses.saturating_generator, epsilon=epsilon))
    np.testing.assert_array_equal(generator, -fake)
    np.testing.assert_array_equal(generator_slope, -fake_slope)


def test_logits_of_different_patch_counts_are_refused():
    for fake in (jnp.zeros((2, 3)), jnp.zeros(2)):
        with pytest.raises(AssertionError):
            losses.logistic_discriminator(REAL, fake)


def test_r1_of_a_linear_critic_is_the_squared_norm_of_its_weights():
    a, x = images(0)[0], images(1)
    penalty = losses.r1_penalty(lambda x: (x * a[None]).sum((1, 2, 3)), x)
    np.testing.assert_allclose(penalty, np.full(4, jnp.square(a).sum()), rtol=1e-5)


def test_r1_of_a_quadratic_critic_is_the_squared_norm_of_the_image():
    x = images(2)
    penalty = losses.r1_penalty(lambda x: 0.5 * jnp.square(x).sum((1, 2, 3)), x)
    np.testing.assert_allclose(penalty, jnp.square(x).sum((1, 2, 3)), rtol=1e-5)


def test_r1_sums_over_patches_before_it_differentiates():
    x = images(3)
    penalty = losses.r1_penalty(lambda x: x.sum((1, 2, 3))[:, None] * jnp.array([[1.0, 2.0]]), x)
    np.testing.assert_allclose(penalty, np.full(4, 9.0 * 18), rtol=1e-6)  # gradient 3 at each of 18 values


def test_r1_sees_the_coupling_of_batch_statistics():
    # Outputs that sum to zero over the batch, whatever the images: no gradient is left.
    penalty = losses.r1_penalty(lambda x: x.sum((1, 2, 3)) - x.sum((1, 2, 3)).mean(), images(4))
    np.testing.assert_allclose(penalty, np.zeros(4), atol=1e-9)


def two_layers(parameters, x):
    first, second = parameters
    return jnp.tanh(x.reshape(len(x), -1) @ first) @ second


@pytest.mark.parametrize("fraction", [None, np.linspace(0.1, 0.9, 4)], ids=["r1", "gradient penalty"])
def test_penalties_can_be_differentiated_by_parameters(fraction):
    """A gradient of a gradient, along a direction, against the difference of penalties in float64."""
    x, y = images(5), images(6)
    rng = np.random.default_rng(0)
    parameters, direction = ((rng.normal(size=(18, 5)) / 4, rng.normal(size=(5, 2))) for _ in range(2))

    def penalty(parameters):
        critic = functools.partial(two_layers, parameters)
        between = () if fraction is None else (y, np.float32(fraction))
        return (losses.gradient_penalty if between else losses.r1_penalty)(critic, x, *between).sum()

    def reference(step):
        moved = [p + step * d for p, d in zip(parameters, direction, strict=True)]
        t = 1.0 if fraction is None else fraction.reshape(4, 1, 1, 1)
        slope = jax.grad(lambda v: two_layers(moved, v).sum())(t * np.float64(x) + (1 - t) * np.float64(y))
        squared = jnp.square(slope).sum((1, 2, 3))
        return (squared if fraction is None else jnp.square(jnp.sqrt(squared) - 1)).sum()

    gradient = jax.grad(penalty)(jax.tree.map(np.float32, parameters))
    along = sum((np.float64(g) * d).sum() for g, d in zip(gradient, direction, strict=True))
    with jax.enable_x64(True):
        expected = (reference(1e-5) - reference(-1e-5)) / 2e-5
        assert along == pytest.approx(float(expected), rel=1e-4)


def test_r1_gradient_by_the_weights_of_a_linear_critic():
    a, x = images(7)[0], images(8)
    gradient = jax.grad(lambda a: losses.r1_penalty(lambda x: (x * a[None]).sum((1, 2, 3)), x).mean())(a)
    np.testing.assert_allclose(gradient, 2 * a, rtol=1e-5)


@pytest.mark.parametrize("target", [1.0, 0.0, 2.5])
def test_gradient_penalty_of_a_linear_critic(target):
    a = images(9)[0]
    penalty = losses.gradient_penalty(
        lambda x: (x * a[None]).sum((1, 2, 3)), images(10), images(11), jnp.linspace(0.0, 1.0, 4), target=target
    )
    np.testing.assert_allclose(penalty, np.full(4, (jnp.linalg.norm(a) - target) ** 2), rtol=1e-5)


def test_gradient_penalty_looks_between_the_images():
    real, fake, fraction = images(12), images(13), jnp.array([1.0, 0.0, 0.25, 0.5])
    penalty = losses.gradient_penalty(lambda x: 0.5 * jnp.square(x).sum((1, 2, 3)), real, fake, fraction)
    points = [real[0], fake[1], 0.25 * real[2] + 0.75 * fake[2], 0.5 * (real[3] + fake[3])]
    expected = [(np.linalg.norm(np.ravel(point)) - 1) ** 2 for point in points]
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)


def test_gradient_penalty_of_a_flat_critic_is_finite():
    def penalty(scale):
        return losses.gradient_penalty(lambda x: scale * x.sum((1, 2, 3)), images(0), images(1), jnp.full(4, 0.5))

    np.testing.assert_allclose(penalty(0.0), np.ones(4))
    assert jax.grad(lambda scale: penalty(scale).sum())(0.0) == 0.0


def test_gradient_penalty_refuses_a_fraction_per_batch():
    with pytest.raises(AssertionError):
        losses.gradient_penalty(lambda x: x.sum((1, 2, 3)), images(0), images(1), jnp.array([0.5]))


def test_gradients_of_bounded_losses():
    """Of -log(D + epsilon), with D = sigmoid(logit): -D (1 - D) / (D + epsilon)."""
    slopes = jax.grad(lambda *sides: sum(x.sum() for x in losses.logistic_discriminator(*sides, epsilon=0.1)), (0, 1))
    for slope, logits, sign in zip(slopes(REAL, FAKE), (REAL, FAKE), (1, -1), strict=True):
        d = 1 / (1 + np.exp(-sign * np.float64(logits)))
        np.testing.assert_allclose(slope, -sign * d * (1 - d) / (d + 0.1), rtol=1e-5)
