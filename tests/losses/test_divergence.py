"""Divergences against Monte Carlo, NumPy loops, closed forms and identities."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mvae_jax import gaussian, losses, testing
from mvae_jax.losses._divergence import _log_weights
from mvae_jax.testing import random_posteriors as posteriors

N = 100
ESTIMATORS = ("mws", "mss")


@functools.partial(jax.jit, static_argnames=("dataset_size", "estimator"))
def kl_terms(z, mean, logvar, dataset_size=N, estimator="mws"):
    return losses.kl_terms(z, mean, logvar, dataset_size=dataset_size, estimator=estimator)


def test_kl_standard_normal_by_hand():
    mean, logvar = jnp.array([[0.0, 0.0], [1.0, -2.0], [0.0, 1.0]]), jnp.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    expected = [0.0, 2.5, (math.e - 2) / 2 + 0.5]
    np.testing.assert_allclose(losses.kl_standard_normal(mean, logvar), expected, rtol=1e-6)


def test_kl_diag_gaussians_equals_monte_carlo():
    (mean_p, mean_q), (logvar_p, logvar_q) = jax.random.normal(jax.random.key(0), (2, 2, 2, 3))
    x = gaussian.sample(
        jax.random.key(1), jnp.broadcast_to(mean_p, (50_000, 2, 3)), jnp.broadcast_to(logvar_p, (50_000, 2, 3))
    )
    log_ratio = gaussian.log_prob(x, mean_p[None], logvar_p[None]) - gaussian.log_prob(x, mean_q[None], logvar_q[None])
    log_ratio = np.asarray(log_ratio.sum(-1), np.float64)
    kl = losses.kl_diag_gaussians(mean_p, logvar_p, mean_q, logvar_q)
    standard_error = log_ratio.std(0) / math.sqrt(50_000)
    assert (np.abs(log_ratio.mean(0) - kl) < 4 * standard_error).all()
    assert (standard_error < 0.02 * kl).all()


def test_kl_has_a_direction():
    narrow, wide = (jnp.zeros((1, 1)), jnp.log(jnp.full((1, 1), 0.25))), (jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    # KL(N(0, s^2) || N(0, 1)) = (s^2 - 1) / 2 - log s, and with 1 / s for s the other way.
    assert losses.kl_diag_gaussians(*narrow, *wide)[0] == pytest.approx(-0.375 + math.log(2.0), rel=1e-6)
    assert losses.kl_diag_gaussians(*wide, *narrow)[0] == pytest.approx(1.5 - math.log(2.0), rel=1e-6)


def test_kl_to_the_standard_normal_is_a_special_case():
    _, mean, logvar = posteriors()
    zeros = np.zeros_like(mean)
    kl = losses.kl_standard_normal(mean, logvar)
    np.testing.assert_allclose(kl, losses.kl_diag_gaussians(mean, logvar, zeros, zeros), rtol=1e-6)
    np.testing.assert_allclose(losses.kl_diag_gaussians(mean, logvar, mean, logvar), np.zeros(8), atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_kl_terms_equal_loops(estimator):
    z, mean, logvar = posteriors()
    terms = kl_terms(z, mean, logvar, estimator=estimator)
    np.testing.assert_allclose(
        terms, testing.kl_terms(z, mean, logvar, dataset_size=N, estimator=estimator), rtol=1e-4, atol=1e-5
    )
    alone = losses.total_correlation(z, mean, logvar, dataset_size=N, estimator=estimator)
    np.testing.assert_allclose(alone, terms.total_correlation, rtol=1e-5, atol=1e-5)


def test_the_default_estimator_is_minibatch_weighted():
    z, mean, logvar = posteriors()
    default = losses.total_correlation(z, mean, logvar, dataset_size=N)
    np.testing.assert_allclose(default, testing.kl_terms(z, mean, logvar, dataset_size=N)[1], rtol=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_kl_terms_telescope(estimator):
    z, mean, logvar = posteriors(batch=16, dims=5)
    terms = kl_terms(z, mean, logvar, estimator=estimator)
    log_ratio = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * logvar)) - scipy.stats.norm.logpdf(z)
    np.testing.assert_allclose(np.sum(terms, axis=0), log_ratio.sum(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_dimension_has_no_total_correlation(estimator):
    tc = kl_terms(*posteriors(dims=1), estimator=estimator).total_correlation
    np.testing.assert_array_equal(tc, np.zeros(8))


@pytest.mark.parametrize(("estimator", "expected"), [("mws", 9 * math.log(4000)), ("mss", 0.0)])
def test_total_correlation_if_all_posteriors_are_the_prior(estimator, expected):
    z = np.random.default_rng(0).normal(size=(32, 10)).astype(np.float32)
    zeros = np.zeros_like(z)
    tc = kl_terms(z, zeros, zeros, dataset_size=4000, estimator=estimator).total_correlation
    np.testing.assert_allclose(tc, np.full(32, expected), rtol=1e-5, atol=2e-5)  # 74.646 for mws


def test_stratified_weights():
    matrix = jnp.exp(_log_weights("mss", jnp.arange(4), 4, 100))
    own, following, other = 0.01, 97 / 300, 1 / 3
    expected = [
        [own, following, other, other],
        [other, own, following, other],
        [other, other, own, following],
        [following, other, other, own],
    ]
    np.testing.assert_allclose(matrix, expected, rtol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), np.ones(4), rtol=1e-6)


def test_stratified_density_is_unbiased():
    # All 12 ordered batches of 3 from a data set of 5 that hold example 0 first; its latent is fixed.
    z, mean, logvar = posteriors(batch=5, dims=2)
    batches = np.array([(0, *others) for others in itertools.permutations(range(1, 5), 2)])
    terms = jax.vmap(functools.partial(kl_terms, dataset_size=5, estimator="mss"))(
        z[batches], mean[batches], logvar[batches]
    )
    own = scipy.stats.norm.logpdf(z[0], mean[0], np.exp(0.5 * np.float64(logvar[0]))).sum()
    estimates = np.exp(own - np.float64(terms.mutual_information[:, 0]))
    aggregate = scipy.stats.norm.pdf(z[0], mean, np.exp(0.5 * np.float64(logvar))).prod(-1).mean()
    assert estimates.mean() == pytest.approx(aggregate, rel=1e-6)
    assert estimates.std() > 0.01 * aggregate


def test_total_correlation_of_a_known_gaussian():
    known = testing.CorrelatedGaussian(dims=10, correlation=0.3, variance=0.2)
    assert known.total_correlation == pytest.approx(0.951, abs=1e-3)

    @jax.jit
    def estimates(key):
        arrays = known.posteriors(key, 1024)
        both = [losses.total_correlation(*arrays, dataset_size=10_000, estimator=name) for name in ESTIMATORS]
        return [estimate.mean() for estimate in both]

    weighted, stratified = np.mean([estimates(jax.random.key(seed)) for seed in range(20)], axis=0)
    assert weighted == pytest.approx(85.0, abs=0.3)
    assert stratified == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_shards_equal_the_whole_batch(estimator):
    arrays = posteriors(batch=8)
    terms = functools.partial(losses.kl_terms, dataset_size=N, estimator=estimator)
    whole = kl_terms(*arrays, estimator=estimator)
    shards = jax.jit(jax.vmap(functools.partial(terms, axis_name="data"), axis_name="data"))(
        *(x.reshape(4, 2, 3) for x in arrays)
    )
    for part, expected in zip(shards, whole, strict=True):
        np.testing.assert_allclose(part.reshape(8), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_devices_equal_the_whole_batch(estimator):
    arrays = posteriors(batch=8)
    tc = functools.partial(losses.total_correlation, dataset_size=N, estimator=estimator)
    whole = kl_terms(*arrays, estimator=estimator).total_correlation
    mapped = jax.pmap(functools.partial(tc, axis_name="data"), axis_name="data")(*(x.reshape(4, 2, 3) for x in arrays))
    np.testing.assert_allclose(mapped.reshape(8), whole, rtol=1e-5, atol=1e-5)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    np.testing.assert_allclose(jax.jit(tc)(*jax.device_put(arrays, split)), whole, rtol=1e-5, atol=1e-5)


def test_gradients_under_a_mapped_axis_equal_those_of_the_whole_batch():
    arrays = posteriors(batch=8)
    tc = functools.partial(losses.total_correlation, dataset_size=N, estimator="mss")
    expected = jax.jit(jax.grad(lambda *x: tc(*x).mean(), (0, 1, 2)))(*arrays)

    def shard_gradient(*x):
        # Summed over shards by the transposed gather; the mean over four shards is left.
        return jax.grad(lambda *x: tc(*x, axis_name="data").mean() / 4, (0, 1, 2))(*x)

    shards = jax.pmap(shard_gradient, axis_name="data")(*(x.reshape(4, 2, 3) for x in arrays))
    for part, whole in zip(shards, expected, strict=True):
        np.testing.assert_allclose(part.reshape(8, 3), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "dataset_size", "estimator", "message"),
    [
        (4, 3, "mss", "batch of 4 and dataset_size=3"),
        (1, 9, "mss", "batch of 1 and dataset_size=9"),
        (4, 9, "weighted", "'weighted', expected 'mws' or 'mss'"),
        *(
            (4, size, "mws", f"dataset_size is {size}, expected a whole number")
            for size in (0, -5, 2.5, math.nan, math.inf)
        ),
        (0, 9, "mws", "the batch has no example"),
    ],
)
def test_wrong_settings_are_named(batch, dataset_size, estimator, message):
    with pytest.raises(ValueError, match=message):
        losses.total_correlation(*posteriors(batch=batch), dataset_size=dataset_size, estimator=estimator)


def test_a_large_data_set_does_not_overflow():
    arrays, size = posteriors(batch=8), 400_000_000
    for estimator in ESTIMATORS:
        terms = functools.partial(losses.total_correlation, *arrays, estimator=estimator)
        np.testing.assert_array_equal(terms(dataset_size=np.int32(size)), terms(dataset_size=size))
        expected = testing.kl_terms(*arrays, dataset_size=size, estimator=estimator)[1]
        np.testing.assert_allclose(terms(dataset_size=size), expected, rtol=1e-4)


def test_posteriors_that_would_broadcast_are_refused():
    z, mean, logvar = posteriors()
    with pytest.raises(AssertionError):
        losses.total_correlation(z, mean, logvar[:, :1], dataset_size=N)
    with pytest.raises(AssertionError):
        losses.kl_standard_normal(mean, logvar[:, 0])
