import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import testing
from mvae_jax.eval import likelihood
from mvae_jax.eval.likelihood import active_units, aggregate_posterior, estimate_likelihood, importance_bound

KEY = jax.random.key(0)
LATENT, OBSERVED, SCALE = 3, 6, 0.7  # of the models below


STANDARD = testing.LinearGaussianVAE()
SHIFTED = testing.LinearGaussianVAE((1.0, -2.0, 0.5), (0.3, 2.0, 1.0))


def test_importance_bound_equals_loop():
    log_weights = np.random.default_rng(0).normal(-3, 2, (5, 4))
    expected = [math.log(np.mean([math.exp(value) for value in column])) for column in log_weights.T]
    np.testing.assert_allclose(importance_bound(jnp.asarray(log_weights)), expected, rtol=1e-5)
    # Far from what exp can hold.
    np.testing.assert_allclose(importance_bound(jnp.full((7, 2), -5e4)), [-5e4, -5e4], rtol=1e-7)
    np.testing.assert_array_equal(importance_bound(jnp.array([[1.5, -2.0]])), [1.5, -2.0])


@pytest.mark.parametrize("model", [STANDARD, SHIFTED], ids=["standard prior", "conditional prior"])
@pytest.mark.parametrize("samples", [1, 5])
def test_bound_with_the_exact_posterior_is_the_evidence(model, samples):
    x = model.draw(20)
    prior = None if model is STANDARD else model.prior
    result = estimate_likelihood(model.encoder(), model.log_likelihood, x, KEY, samples=samples, prior=prior)
    np.testing.assert_allclose(result.bound, model.log_evidence(x), rtol=2e-5)


def test_bound_rises_to_the_evidence():
    x = STANDARD.draw(300)
    evidence = STANDARD.log_evidence(x)
    encode, log_likelihood = STANDARD.encoder(shift=0.7, stretch=1.5), jax.jit(STANDARD.log_likelihood)
    gaps = []
    for samples in (1, 8, 64, 400):
        result = estimate_likelihood(encode, log_likelihood, x, KEY, samples=samples, batch_size=300)
        gap = likelihood.Estimate.of(result.bound - evidence)
        assert gap.value < 4 * gap.standard_error
        gaps.append(gap.value)
    # For one sample the bound is the ELBO: less than the evidence by the divergence.
    assert gaps[0] == pytest.approx(-STANDARD.divergence(shift=0.7, stretch=1.5), abs=0.4)
    assert sorted(gaps) == gaps
    assert gaps[0] < 8 * gaps[1] < 0
    assert abs(gaps[-1]) < 0.02


@pytest.mark.parametrize("model", [STANDARD, SHIFTED], ids=["standard prior", "conditional prior"])
def test_elbo_is_evidence_minus_divergence(model):
    x = model.draw(50)
    prior = None if model is STANDARD else model.prior
    encode = model.encoder(shift=0.5, stretch=1.3)
    result = estimate_likelihood(encode, jax.jit(model.log_likelihood), x, KEY, samples=500, prior=prior)
    difference = likelihood.Estimate.of(result.elbo - model.elbo(x, shift=0.5, stretch=1.3))
    assert abs(difference.value) < 4 * difference.standard_error < 0.1
    np.testing.assert_allclose(result.elbo, result.expected_log_likelihood - result.kl)

    mean, variance = np.asarray(encode(x)[0], np.float64), model.variance * 1.3**2
    kl = testing.kl_divergence(mean, np.log(variance), model.prior_mean, np.log(model.prior_variance))
    np.testing.assert_allclose(result.kl, kl.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(result.kl_per_dimension, kl.mean(axis=0), rtol=1e-5)
    expected = np.asarray(model.log_likelihood(x, mean)) - 0.5 * variance @ np.square(model.weights).sum(0) / SCALE**2
    assert result.expected_log_likelihood.mean() == pytest.approx(expected.mean(), abs=0.05)


def test_batches_do_not_change_the_numbers_nor_the_shapes():
    x, shapes = STANDARD.draw(20), []

    def log_likelihood(batch, z):
        shapes.append((batch.shape, z.shape))
        return STANDARD.log_likelihood(batch, z)

    encode = STANDARD.encoder(shift=0.5)
    whole = estimate_likelihood(encode, log_likelihood, x, KEY, samples=3, batch_size=1000)
    assert shapes == [((20, OBSERVED), (20, LATENT))] * 3
    shapes.clear()
    parts = estimate_likelihood(encode, log_likelihood, x, KEY, samples=3, batch_size=7)
    assert shapes == [((7, OBSERVED), (7, LATENT))] * 9
    for name in ("expected_log_likelihood", "kl", "kl_per_dimension", "bound"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5, err_msg=name)
    assert len(parts.bound) == 20
    again = estimate_likelihood(encode, log_likelihood, x, KEY, samples=3, batch_size=7)
    np.testing.assert_array_equal(again.bound, parts.bound)
    other = estimate_likelihood(encode, log_likelihood, x, jax.random.key(1), samples=3, batch_size=7)
    assert (other.bound != parts.bound).all()


def test_examples_may_be_a_tree():
    x = SHIFTED.draw(9)
    examples = {"image": x, "prior": tuple(np.asarray(value) for value in SHIFTED.prior(x))}
    result = estimate_likelihood(
        lambda batch: SHIFTED.encoder()(batch["image"]),
        lambda batch, z: SHIFTED.log_likelihood(batch["image"], z),
        examples,
        KEY,
        samples=2,
        batch_size=4,
        prior=lambda batch: batch["prior"],
    )
    np.testing.assert_allclose(result.bound, SHIFTED.log_evidence(x), rtol=2e-5)


def test_noise_differs_between_examples_and_samples():
    drawn = []

    def log_likelihood(batch, z):
        drawn.append(np.asarray(z))
        return jnp.zeros(len(batch))

    zeros = np.zeros((200, 4), np.float32)
    result = estimate_likelihood(lambda batch: (batch, batch), log_likelihood, zeros, KEY, samples=50, batch_size=50)
    z = np.concatenate(drawn)
    assert len(np.unique(z)) > 0.99 * z.size
    assert z.mean() == pytest.approx(0, abs=4 / math.sqrt(z.size))
    assert z.var() == pytest.approx(1, abs=4 * math.sqrt(2 / z.size))
    np.testing.assert_allclose(result.bound, 0, atol=1e-5)  # posterior and prior are the same


def test_summary_by_hand():
    result = likelihood.Likelihood(
        expected_log_likelihood=np.array([-1.0, -3.0]),
        kl=np.array([1.0, 2.0]),
        kl_per_dimension=np.array([1.5, 0.0]),
        bound=np.array([-1.0, -4.0]),
        samples=7,
        observed_dimensions=5,
        key=(0, 1),
    )
    summary = json.loads(json.dumps(result.to_dict()))
    assert summary["elbo"] == pytest.approx({"value": -3.5, "standard_error": 1.5})
    assert summary["bound"] == pytest.approx({"value": -2.5, "standard_error": 1.5})
    assert summary["kl"] == pytest.approx({"value": 1.5, "standard_error": 0.5})
    assert summary["bits_per_dimension"] == pytest.approx(2.5 / 5 / math.log(2))
    assert (summary["examples"], summary["samples"], summary["key"]) == (2, 7, [0, 1])
    assert dataclasses.replace(result, observed_dimensions=None).to_dict()["bits_per_dimension"] is None
    assert likelihood.Estimate.of(np.ones(1)) == likelihood.Estimate(1.0, None)


@pytest.mark.parametrize("options", [{"samples": 0}, {"samples": 1, "batch_size": 0}])
def test_nothing_to_average_is_refused(options):
    with pytest.raises(ValueError, match="expected at least one each"):
        estimate_likelihood(STANDARD.encoder(), STANDARD.log_likelihood, STANDARD.draw(3), KEY, **options)
    with pytest.raises(ValueError, match="0 examples"):
        estimate_likelihood(STANDARD.encoder(), STANDARD.log_likelihood, STANDARD.draw(3)[:0], KEY, samples=1)


def test_likelihood_per_pixel_is_refused():
    with pytest.raises(AssertionError, match="shape"):
        estimate_likelihood(STANDARD.encoder(), lambda x, z: x, STANDARD.draw(3), KEY, samples=1)


def test_active_units():
    phases = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    amplitudes = np.array([1.0, 0.15, 0.13, 0.0])  # variances 0.5, 0.01125, 0.00845, 0
    means = jnp.asarray(np.sin(phases)[:, None] * amplitudes + [0.0, 5.0, 9.0, 3.0], jnp.float32)
    np.testing.assert_array_equal(active_units(means), [True, True, False, False])
    np.testing.assert_array_equal(active_units(means, threshold=0.008), [True, True, True, False])
    with pytest.raises(ValueError, match="expected at least two"):
        active_units(means[:1])


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_aggregate_posterior_of_a_correlated_gaussian(correlation):
    # Means ~ N(0, R - v I) and posterior variance v: the aggregate is N(0, R).
    known = testing.CorrelatedGaussian(dims=2, correlation=correlation, variance=0.3)
    half = np.random.default_rng(0).normal(size=(2000, 2))
    half = half @ np.linalg.inv(np.linalg.cholesky(np.cov(half.T, ddof=0))).T  # exact second moments
    mean = known.means(np.concatenate([half, -half]))
    result = aggregate_posterior(mean, jnp.full_like(mean, math.log(known.variance)), KEY, samples=4000, chunk_size=32)
    assert known.total_correlation == pytest.approx(-0.5 * math.log(1 - correlation**2))
    expected = {
        "total_correlation": known.total_correlation,
        "mutual_information": known.mutual_information,
        "dimension_wise_kl": 0.0,
    }
    for name, value in expected.items():
        estimate = getattr(result, name)
        assert estimate.value == pytest.approx(value, abs=4 * estimate.standard_error + 0.005), name
        assert estimate.standard_error < 0.02


def test_parts_sum_to_the_divergence():
    rng = np.random.default_rng(0)
    mean, logvar = (rng.normal(size=(200, 4)).astype(np.float32) for _ in range(2))
    result = aggregate_posterior(jnp.asarray(mean), jnp.asarray(logvar - 1), KEY, samples=20_000, chunk_size=200)
    parts = (result.mutual_information, result.total_correlation, result.dimension_wise_kl)
    closed = testing.kl_divergence(mean, logvar - 1, 0, 0).sum(axis=1).mean()
    assert result.kl == pytest.approx(closed, rel=1e-5)
    assert sum(part.value for part in parts) == pytest.approx(
        closed, abs=3 * sum(part.standard_error for part in parts)
    )
    assert sum(part.standard_error for part in parts) < 0.1


def test_separate_clumps_in_closed_form():
    # Eight posteriors far apart in both dimensions: which example and which coordinate tell the same, log 8.
    mean = jnp.stack([100.0 * jnp.arange(8), -50.0 * jnp.arange(8)], axis=1)
    result = aggregate_posterior(mean, jnp.zeros_like(mean), KEY, samples=16)
    assert result.mutual_information.value == pytest.approx(math.log(8), rel=1e-4)
    assert result.total_correlation.value == pytest.approx(math.log(8), rel=1e-4)
    assert not result.resolved
    assert result.dependence == pytest.approx(2 * math.log(8), rel=1e-4)
    assert result.total_correlation.standard_error < 1e-3
    # Apart in one dimension only: no dependence.
    result = aggregate_posterior(mean * jnp.array([[1.0, 0.0]]), jnp.zeros_like(mean), KEY, samples=16)
    assert result.mutual_information.value == pytest.approx(math.log(8), rel=1e-4)
    assert result.total_correlation.value == pytest.approx(0, abs=1e-3)


def test_points_in_closed_form():
    """Posteriors that have collapsed: each coordinate names the example, log 8 three times."""
    mean = jnp.stack([1.0 + jnp.arange(8), 2.0 + jnp.arange(8), -3.0 - jnp.arange(8)], axis=1)
    result = aggregate_posterior(mean, jnp.full_like(mean, -100.0), KEY, samples=16)
    assert result.mutual_information.value == pytest.approx(math.log(8), rel=1e-4)
    assert result.total_correlation.value == pytest.approx(2 * math.log(8), rel=1e-4)
    assert result.kl == pytest.approx(float((0.5 * (99 + jnp.square(mean))).sum(1).mean()), rel=1e-6)
    assert math.isfinite(result.dimension_wise_kl.value)


def test_equal_posteriors_hold_no_information():
    mean, logvar = jnp.full((50, 3), 0.5), jnp.full((50, 3), -1.0)
    result = aggregate_posterior(mean, logvar, KEY, samples=30_000, chunk_size=500)
    assert result.mutual_information.value == pytest.approx(0, abs=1e-5)
    assert result.total_correlation.value == pytest.approx(0, abs=1e-5)
    assert result.dimension_wise_kl.value == pytest.approx(result.kl, abs=4 * result.dimension_wise_kl.standard_error)
    assert result.kl == pytest.approx(3 * 0.5 * (math.exp(-1) - 1 + 1 + 0.25), rel=1e-5)


def test_chunks_do_not_change_the_numbers():
    mean = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)), jnp.float32)
    results = [aggregate_posterior(mean, mean - 1, KEY, samples=50, chunk_size=size) for size in (1, 7, 50, 1000)]
    for result in results[1:]:
        for name in ("mutual_information", "total_correlation", "dimension_wise_kl"):
            assert getattr(result, name).value == pytest.approx(getattr(results[0], name).value, rel=1e-4, abs=1e-5)
    assert (results[0].examples, results[0].samples, results[0].key) == (40, 50, (0, 0))
    assert json.loads(json.dumps(results[0].to_dict()))["total_correlation"].keys() == {"value", "standard_error"}


def test_aggregate_of_nothing_is_refused():
    mean = jnp.zeros((4, 2))
    for options in ({"samples": 0}, {"chunk_size": 0}):
        with pytest.raises(ValueError, match="expected at least one each"):
            aggregate_posterior(mean, mean, KEY, **options)
    with pytest.raises(ValueError, match="0 examples"):
        aggregate_posterior(mean[:0], mean[:0], KEY)
