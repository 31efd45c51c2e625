"""The oracles themselves: against SciPy and sampling, and that checks fail where they should."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mvae_jax import losses, testing


def test_densities_and_divergences_equal_scipy():
    x, mean, logvar, other = np.random.default_rng(0).normal(size=(4, 3, 2))
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(0.5 * logvar))
    np.testing.assert_allclose(testing.log_prob(x, mean, logvar), expected, rtol=1e-12)
    grid = np.linspace(-30, 30, 60_001)
    log_p, log_q = testing.log_prob(grid, 0.3, -0.7), testing.log_prob(grid, -0.4, 0.5)
    kl = np.trapezoid(np.exp(log_p) * (log_p - log_q), grid)
    assert testing.kl_divergence(0.3, -0.7, -0.4, 0.5) == pytest.approx(kl, rel=1e-9)
    np.testing.assert_allclose(testing.kl_divergence(x, other, x, other), np.zeros((3, 2)), atol=1e-12)


@pytest.mark.parametrize("estimator", ["mws", "mss"])
def test_one_posterior_of_the_loops_by_hand(estimator):
    """Two posteriors, one dimension: q(z) is their weighted sum, whose weights are written out."""
    z, mean, logvar = np.array([[0.5], [2.0]]), np.array([[0.0], [1.0]]), np.zeros((2, 1))
    own, next_one = (1 / 20, 1 / 20) if estimator == "mws" else (1 / 10, 9 / 10)
    densities = scipy.stats.norm.pdf(0.5, [0.0, 1.0])
    q = own * densities[0] + next_one * densities[1]
    terms = testing.kl_terms(z, mean, logvar, dataset_size=10, estimator=estimator)[:, 0]
    expected = [math.log(densities[0] / q), 0.0, math.log(q / scipy.stats.norm.pdf(0.5))]
    np.testing.assert_allclose(terms, expected, atol=1e-12)


def test_an_unknown_estimator_is_named():
    with pytest.raises(ValueError, match="estimator is 'exact', expected 'mws' or 'mss'"):
        testing.kl_terms(*testing.random_posteriors(), dataset_size=10, estimator="exact")


def test_samples_of_a_correlated_gaussian_have_its_moments():
    known = testing.CorrelatedGaussian(dims=4, correlation=0.5, variance=0.3)
    z, mean, logvar = known.posteriors(jax.random.key(0), 20_000)
    np.testing.assert_allclose(np.cov(z.T), known.covariance, atol=0.05)
    np.testing.assert_allclose(np.cov(mean.T), known.covariance - 0.3 * np.eye(4), atol=0.05)
    np.testing.assert_allclose(logvar, np.full((20_000, 4), math.log(0.3)), rtol=1e-6)
    normal = scipy.stats.multivariate_normal(np.zeros(4), known.covariance)
    log_ratio = normal.logpdf(z) - scipy.stats.norm.logpdf(z).sum(-1)
    assert log_ratio.mean() == pytest.approx(known.total_correlation, abs=4 * log_ratio.std() / math.sqrt(20_000))
    information = testing.log_prob(z, mean, logvar).sum(-1) - normal.logpdf(z)
    error = 4 * information.std() / math.sqrt(20_000)
    assert information.mean() == pytest.approx(known.mutual_information, abs=error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correlation": 1.0}, "correlation is 1.0, expected above -0.111111 and below 1"),
        ({"correlation": -0.2}, "correlation is -0.2, expected above -0.111111"),
        ({"variance": 0.7}, "variance is 0.7, expected above 0 and below 0.7"),
        ({"variance": 0.0}, "variance is 0.0, expected above 0"),
    ],
)
def test_gaussians_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        testing.CorrelatedGaussian(**options)


def test_the_posterior_of_a_linear_vae_is_that_of_bayes():
    """log p(x, z) - log p(x) is the log density of the posterior, wherever x and z lie."""
    vae = testing.LinearGaussianVAE((1.0, -2.0), (0.3, 2.0), observed=4, scale=0.6, seed=5)
    x, z = vae.draw(6), np.random.default_rng(2).normal(size=(6, 2))
    prior, (mean, logvar) = testing.log_prob(z, vae.prior_mean, np.log(vae.prior_variance)).sum(-1), vae.encoder()(x)
    joint = np.float64(vae.log_likelihood(x, z)) + prior
    np.testing.assert_allclose(joint - vae.log_evidence(x), testing.log_prob(z, mean, logvar).sum(-1), rtol=1e-4)
    covariance = vae.weights @ np.diag(vae.prior_variance) @ vae.weights.T + 0.6**2 * np.eye(4)
    normal = scipy.stats.multivariate_normal(vae.weights @ vae.prior_mean + vae.offset, covariance)
    np.testing.assert_allclose(vae.log_evidence(x), normal.logpdf(x), rtol=1e-6)
    moved, wide = vae.encoder(shift=0.5, stretch=1.3)(x)
    kl = testing.kl_divergence(moved, wide, mean, logvar).sum(-1)
    np.testing.assert_allclose(kl, np.full(6, vae.divergence(0.5, 1.3)), rtol=1e-5)
    np.testing.assert_allclose(vae.log_evidence(x) - vae.elbo(x, 0.5, 1.3), kl, rtol=1e-5)


def test_a_linear_vae_observes_as_much_as_it_has_latents():
    with pytest.raises(ValueError, match="observed is 2, expected at least 3"):
        testing.LinearGaussianVAE(observed=2)


@jax.custom_vjp
def biased(x):
    """x^2 whose gradient is off by a part in a hundred."""
    return x**2


biased.defvjp(lambda x: (x**2, x), lambda x, g: (2.02 * x * g,))


@jax.custom_vjp
def biased_slope(x):
    """x^2 whose gradient is right, and the gradient of that is not."""
    return x**2


biased_slope.defvjp(lambda x: (x**2, x), lambda x, g: (_slope(x) * g,))


@jax.custom_vjp
def _slope(x):
    return 2 * x


_slope.defvjp(lambda x: (2 * x, None), lambda _, g: (3 * g,))


def test_wrong_gradients_are_found():
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    testing.check_gradients(losses.squared_error, x, 2 * x, order=2)
    with pytest.raises(AssertionError, match=r"along direction 0 the gradient is .* and the finite difference"):
        testing.check_gradients(biased, x)
    testing.check_gradients(biased_slope, x)
    with pytest.raises(AssertionError, match="the finite difference"):
        testing.check_gradients(biased_slope, x, order=2)
    with pytest.raises(AssertionError, match="the finite difference"):
        testing.check_gradients(lambda x: jnp.where(x > 0, jnp.nan, x), x)  # what is no number agrees with nothing
    with pytest.raises(ValueError, match="order is 3, expected 1 or 2"):
        testing.check_gradients(biased, x, order=3)


def test_every_argument_and_every_result_counts():
    x, y = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    testing.check_gradients(lambda x, y: {"a": jnp.sin(x), "b": (x * y,)}, x, y)
    for wrong in (
        lambda x, y: {"a": biased(x), "b": (x * y,)},
        lambda x, y: {"a": x, "b": (x * biased(y),)},
    ):
        with pytest.raises(AssertionError, match="the finite difference"):
            testing.check_gradients(wrong, x, y)


def test_public_functions_are_documented():
    for name in dir(testing):
        value = getattr(testing, name)
        if getattr(value, "__module__", "") == testing.__name__ and not name.startswith("_"):
            assert value.__doc__, name
            members = (
                [member for key, member in vars(value).items() if not key.startswith("_")]
                if isinstance(value, type)
                else []
            )
            assert all(member.__doc__ for member in members if callable(member) or isinstance(member, property)), name
