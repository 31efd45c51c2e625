"""Diagonal Gaussians against quadrature, SciPy and hand values; noise: one key per example."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mvae_jax import gaussian, random

KEY = jax.random.key(7)
GRID = np.linspace(-30.0, 30.0, 60_001)


def density(mean, logvar):
    return scipy.stats.norm.pdf(GRID, mean, math.exp(0.5 * logvar))


def integrate(values):
    return np.trapezoid(values, GRID)


def test_log_prob_equals_scipy():
    x, mean, logvar = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(0.5 * logvar))
    np.testing.assert_allclose(gaussian.log_prob(x, mean, logvar), expected, rtol=1e-5, atol=1e-6)
    assert gaussian.log_prob(jnp.zeros(()), 0.0, 0.0) == pytest.approx(-0.9189385)


def test_sample_is_reparameterised():
    mean, logvar = jnp.full((3, 2), 4.0), jnp.full((3, 2), 2 * math.log(3.0))
    noise = random.standard_normal(KEY, (3, 2))
    np.testing.assert_allclose(gaussian.sample(KEY, mean, logvar), 4 + 3 * noise, rtol=1e-6)
    by_mean, by_logvar = jax.grad(lambda m, v: gaussian.sample(KEY, m, v).sum(), argnums=(0, 1))(mean, logvar)
    np.testing.assert_allclose(by_mean, np.ones((3, 2)))
    np.testing.assert_allclose(by_logvar, 1.5 * noise, rtol=1e-6)


def test_sample_shards_equal_the_whole_batch():
    mean, logvar = jax.random.normal(KEY, (2, 8, 3))
    shards = jax.vmap(lambda m, v: gaussian.sample(KEY, m, v, "data"), axis_name="data")(
        mean.reshape(4, 2, 3), logvar.reshape(4, 2, 3)
    )
    np.testing.assert_allclose(shards.reshape(8, 3), gaussian.sample(KEY, mean, logvar), rtol=1e-6)


@pytest.mark.parametrize(
    ("mean_p", "logvar_p", "mean_q", "logvar_q"),
    [(0.3, -0.7, -0.4, 0.5), (-0.4, 0.5, 0.3, -0.7), (1.0, 0.0, 0.0, 0.0)],
)
def test_kl_divergence_equals_quadrature(mean_p, logvar_p, mean_q, logvar_q):
    log_ratio = 0.5 * (logvar_q - logvar_p) + 0.5 * (
        (GRID - mean_q) ** 2 * math.exp(-logvar_q) - (GRID - mean_p) ** 2 * math.exp(-logvar_p)
    )
    expected = integrate(density(mean_p, logvar_p) * log_ratio)
    kl = gaussian.kl_divergence(*map(jnp.float32, (mean_p, logvar_p, mean_q, logvar_q)))
    assert kl == pytest.approx(expected, rel=1e-5)


def test_kl_divergence_keeps_its_digits_near_equality():
    logvar = jnp.float32(1e-3)  # KL is logvar^2 / 4 + O(logvar^3), 2.5e-7; exp(x) - 1 - x would lose it in rounding
    assert gaussian.kl_divergence(jnp.float32(0), logvar, 0.0, 0.0) == pytest.approx(2.5008e-7, rel=1e-3)


def test_wasserstein_distance_is_that_of_quantile_functions():
    """In one dimension its square is the integral of the squared difference of these; dimensions add up."""
    mean_p, logvar_p, mean_q, logvar_q = np.float32([[0.3, -1.0], [-0.7, 0.4], [-0.4, -1.0], [0.5, -2.0]])
    shares = (np.arange(200_000) + 0.5) / 200_000
    squared = sum(
        np.square(
            scipy.stats.norm.ppf(shares, mean_p[d], np.exp(logvar_p[d] / 2))
            - scipy.stats.norm.ppf(shares, mean_q[d], np.exp(logvar_q[d] / 2))
        ).mean()
        for d in range(2)
    )
    distance = gaussian.wasserstein_distance(mean_p, logvar_p, mean_q, logvar_q)
    assert distance == pytest.approx(math.sqrt(squared), rel=1e-4)
    tight = gaussian.wasserstein_distance(mean_p, np.float32([-99, -99]), mean_p, np.float32([-97, -99]))
    assert tight == pytest.approx(math.exp(-48.5) - math.exp(-49.5), rel=1e-5)  # whose square float32 does not hold
    gradient = jax.grad(gaussian.wasserstein_distance, (0, 1))(mean_p, logvar_p, mean_p, logvar_p)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("prior", [True, False])
def test_product_of_experts_equals_the_normalised_product_of_densities(prior):
    means, logvars = [0.8, -1.5], [-0.3, 0.9]
    product = density(means[0], logvars[0]) * density(means[1], logvars[1])
    if prior:
        product = product * density(0.0, 0.0)
    product = product / integrate(product)
    expected_mean = integrate(product * GRID)
    expected_variance = integrate(product * (GRID - expected_mean) ** 2)
    mean, logvar = gaussian.product_of_experts(
        [jnp.full((2, 3), m) for m in means], [jnp.full((2, 3), v) for v in logvars], prior=prior
    )
    np.testing.assert_allclose(mean, np.full((2, 3), expected_mean), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(logvar), np.full((2, 3), expected_variance), rtol=1e-5)


def test_product_of_one_expert():
    mean, logvar = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    alone = gaussian.product_of_experts([mean], [logvar], prior=False)
    np.testing.assert_allclose(alone, (mean, logvar), rtol=1e-5, atol=1e-6)
    variance = np.exp(logvar)
    with_prior = gaussian.product_of_experts([mean], [logvar])
    np.testing.assert_allclose(with_prior[0], mean / (1 + variance), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(with_prior[1], np.log(variance / (1 + variance)), rtol=1e-5, atol=1e-6)


def test_infinite_variance_drops_an_expert_for_one_example():
    means, logvars = np.random.default_rng(0).normal(size=(2, 2, 4, 3)).astype(np.float32)
    logvars[1, 0] = np.inf
    product = gaussian.product_of_experts(means, logvars)
    without = gaussian.product_of_experts(means[:1], logvars[:1])
    np.testing.assert_allclose(product[0][0], without[0][0], rtol=1e-6)
    np.testing.assert_allclose(product[1][0], without[1][0], rtol=1e-6)
    assert (np.abs(product[1] - without[1])[1:] > 1e-3).all()

    def total(m, v):
        return sum(x.sum() for x in gaussian.product_of_experts(list(m), list(v)))

    by_means, by_logvars = jax.jit(jax.grad(total, (0, 1)))(means, logvars)
    assert np.isfinite(by_means).all()
    assert np.isfinite(by_logvars).all()
    np.testing.assert_array_equal(by_means[1, 0], np.zeros(3))


def experts(seed=0):
    """Two experts of four examples of three dimensions; the second is missing in the first two, the first in one."""
    means, logvars = np.random.default_rng(seed).normal(size=(2, 2, 4, 3)).astype(np.float32)
    present = np.float32([[1, 0, 1, 1], [0, 0, 1, 1]])
    return means, logvars, present


def with_nan(values, present):
    return np.where(present[..., None] != 0, values, np.float32(np.nan))


@pytest.mark.parametrize("prior", [True, False])
def test_a_missing_expert_is_not_looked_at(prior):
    means, logvars, present = experts()

    def product(means, logvars):
        return gaussian.product_of_experts(list(means), list(logvars), present=present, prior=prior)

    hidden = with_nan(means, present), with_nan(logvars, present)
    got = product(*hidden)
    alone = gaussian.product_of_experts([means[0]], [logvars[0]], prior=prior)
    both = gaussian.product_of_experts(list(means), list(logvars), prior=prior)
    for part, first, second in zip(got, alone, both, strict=True):
        np.testing.assert_allclose(part[0], first[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(part[1], np.zeros(3))  # N(0, I), with the prior and without
        np.testing.assert_allclose(part[2:], second[2:], rtol=1e-5, atol=1e-6)

    gradients = jax.grad(lambda *x: sum(jnp.sin(part).sum() for part in product(*x)), (0, 1))
    for seen, other in zip(gradients(*hidden), gradients(means, logvars), strict=True):
        np.testing.assert_array_equal(seen, other)
        np.testing.assert_array_equal(seen[present == 0], 0.0)
        assert (seen[present == 1] != 0).all()


def test_mixture_is_the_mean_of_densities():
    means, logvars, _ = experts()
    x = np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)
    scales = np.exp(0.5 * np.float64(logvars))
    densities = [scipy.stats.norm.pdf(x, m[:, None], s[:, None]).prod(-1) for m, s in zip(means, scales, strict=True)]
    got = gaussian.mixture_log_prob(x, list(means[:, :, None]), list(logvars[:, :, None]))
    np.testing.assert_allclose(got, np.log(np.mean(densities, 0)), rtol=1e-5, atol=1e-5)


def test_a_mixture_of_those_that_are_there():
    means, logvars, present = experts()
    x = np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)

    def mixture(x, means, logvars):
        masks = list(present[:, :, None])
        return gaussian.mixture_log_prob(x, list(means[:, :, None]), list(logvars[:, :, None]), present=masks)

    hidden = x, with_nan(means, present), with_nan(logvars, present)
    got = mixture(*hidden)
    whole = gaussian.mixture_log_prob(x, list(means[:, :, None]), list(logvars[:, :, None]))
    np.testing.assert_allclose(got[0], gaussian.log_prob(x[0], means[0, :1], logvars[0, :1]).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(got[1], np.full(5, -np.inf))
    np.testing.assert_allclose(got[2:], whole[2:], rtol=1e-6)

    def total(*arrays):
        values = mixture(*arrays)
        return jnp.where(jnp.isfinite(values), values, 0.0).sum()

    for seen, other in zip(
        jax.grad(total, (0, 1, 2))(*hidden), jax.grad(total, (0, 1, 2))(x, *hidden[1:]), strict=True
    ):
        np.testing.assert_array_equal(seen, other)
        assert np.isfinite(seen).all()


def test_experts_and_masks_go_together():
    means, logvars, present = experts()
    for function in (gaussian.product_of_experts, lambda *x, **y: gaussian.mixture_log_prob(means[0], *x, **y)):
        with pytest.raises(ValueError, match="1 masks of presence for 2 experts"):
            function(list(means), list(logvars), present=present[:1])


@pytest.mark.parametrize(("means", "logvars"), [(0, 0), (2, 1)])
def test_product_of_experts_names_what_is_wrong(means, logvars):
    with pytest.raises(ValueError, match=f"{means} means and {logvars} logvars"):
        gaussian.product_of_experts([jnp.zeros(2)] * means, [jnp.zeros(2)] * logvars)


@pytest.mark.parametrize("interpolate", [gaussian.lerp, gaussian.slerp])
def test_interpolation_starts_and_ends_where_it_says(interpolate):
    start, end = jax.random.normal(KEY, (2, 4, 8))
    np.testing.assert_allclose(interpolate(start, end, 0.0), start, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(interpolate(start, end, 1.0), end, rtol=1e-5, atol=1e-6)


def test_interpolation_by_hand():
    start, end = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 3.0]])
    fraction = jnp.array([[0.5], [1 / 3]])
    np.testing.assert_allclose(gaussian.lerp(start, end, fraction), [[0.5, 0.5], [2 / 3, 1.0]], rtol=1e-6)
    half = math.sqrt(0.5)  # sin 45; the second row takes 60 degrees of start and 30 of three times the other axis
    np.testing.assert_allclose(gaussian.slerp(start, end, fraction), [[half, half], [math.sqrt(0.75), 1.5]], rtol=1e-5)


def test_slerp_walks_the_sphere_at_constant_speed():
    start, end = jax.random.normal(KEY, (2, 1, 64))
    start, end = start / jnp.linalg.norm(start), end / jnp.linalg.norm(end)
    fractions = jnp.linspace(0.0, 1.0, 11)[:, None]
    path = np.asarray(gaussian.slerp(start, end, fractions))
    np.testing.assert_allclose(np.linalg.norm(path, axis=-1), np.ones(11), rtol=1e-5)
    steps = np.arccos((path[1:] * path[:-1]).sum(-1))
    np.testing.assert_allclose(steps, np.full(10, math.acos((start * end).sum()) / 10), rtol=1e-2)


def test_slerp_near_a_line_is_lerp():
    start = jnp.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    end = jnp.array([[2.0, 4.0], [1.0, 2.0001], [-1.0, -2.0], [1.0, 2.0]])
    np.testing.assert_allclose(gaussian.slerp(start, end, 0.25), gaussian.lerp(start, end, 0.25), rtol=1e-5)


@pytest.mark.parametrize(
    ("start", "end"),
    [(1.0, 1.0), (1.0, -1.0), (1.0, 3.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)],
    ids=["equal", "opposite", "parallel", "zero start", "zero end", "zero"],
)
def test_slerp_has_the_gradient_of_lerp_where_it_is_lerp(start, end):
    ends = jnp.full((2, 3), start), jnp.full((2, 3), end)
    slopes = [
        jax.grad(lambda a, b, t, of=of: (of(a, b, t) * jnp.arange(6.0).reshape(2, 3)).sum(), (0, 1, 2))(*ends, 0.25)
        for of in (gaussian.slerp, gaussian.lerp)
    ]
    for slope, expected in zip(*slopes, strict=True):
        np.testing.assert_allclose(slope, expected, rtol=1e-6)
