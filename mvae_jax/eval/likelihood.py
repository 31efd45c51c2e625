"""Fit of a latent-variable model to held-out data, and contents of its latent space.

Bounds of log p(x), active dimensions and the parts of the divergence of the posteriors from the prior. The model comes
in as functions or arrays; they are called as they are, so pass compiled ones. Posteriors are diagonal Gaussians given
by mean and log variance, [N, D]; all values are in nats.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, random
from mvae_jax.eval import _results
from mvae_jax.eval._arguments import check_finite, device_measure, measure
from mvae_jax.losses import KLTerms, importance_weighted_bound

Gaussian = tuple[jax.Array, jax.Array]  # (mean, logvar), each [B, D]


@device_measure(infinite=("log_weights",))
def importance_bound(log_weights: jax.Array) -> jax.Array:
    """`losses.importance_weighted_bound` of weights that are finite numbers or infinite, one sample per row.

    Args:
        log_weights: log p(x | z_k) + log p(z_k) - log q(z_k | x) of z_k ~ q(z | x), [K, B].

    Returns:
        One bound per example, [B], in nats.

    Raises:
        ValueError: a weight is not a number.

    Reference:
        Burda et al., 2016, arXiv:1509.00519, equation 8.
    """
    return importance_weighted_bound(log_weights.T)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and how far it may be off.

    Attributes:
        value: the mean.
        standard_error: of the mean, from the spread of what was averaged; None for a single value.
    """

    value: float
    standard_error: float | None

    @classmethod
    @measure(infinite=("values",))
    def of(cls, values: np.ndarray) -> Estimate:
        """The mean of independent values, [N]."""
        values = np.asarray(values, np.float64)
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
        return cls(float(values.mean()), error)


@dataclasses.dataclass(frozen=True, eq=False)
class Likelihood:
    """Bounds of log p(x) per example, in nats.

    Attributes:
        expected_log_likelihood: mean of log p(x | z) over K samples z ~ q(z | x), [N].
        kl: KL(q(z | x) || p(z)), closed form, summed over dimensions, [N].
        kl_per_dimension: the same per dimension, mean over examples, [D].
        bound: importance-weighted bound from the same samples, [N].
        samples: K.
        observed_dimensions: values per example that log p(x | z) counts; None if not given.
        key: the words of the random key.
    """

    expected_log_likelihood: np.ndarray
    kl: np.ndarray
    kl_per_dimension: np.ndarray
    bound: np.ndarray
    samples: int
    observed_dimensions: int | None
    key: tuple[int, ...]

    @property
    def elbo(self) -> np.ndarray:
        """Evidence lower bound, expected log-likelihood minus KL, [N]."""
        return self.expected_log_likelihood - self.kl

    @property
    def bits_per_dimension(self) -> float | None:
        """Mean of -bound / (log 2 * observed dimensions); None if their number is not known.

        For a density it depends on the scale of the data: in [0, 1] it is about 8 less than in [0, 255], and in [-1, 1]
        about 7 less.
        """
        if self.observed_dimensions is None:
            return None
        return float(-self.bound.mean(dtype=np.float64) / (math.log(2) * self.observed_dimensions))

    def to_dict(self) -> dict[str, Any]:
        """Means over examples with their standard errors, as plain numbers ready for JSON."""
        means = {name: getattr(self, name) for name in ("elbo", "expected_log_likelihood", "kl", "bound")}
        return {name: dataclasses.asdict(Estimate.of(values)) for name, values in means.items()} | {
            "kl_per_dimension": self.kl_per_dimension.tolist(),
            "bits_per_dimension": self.bits_per_dimension,
            "estimator": f"importance-weighted bound, {self.samples} samples from the posterior",
            "examples": len(self.bound),
            "samples": self.samples,
            "key": self.key,
        }


@device_measure()
def estimate_likelihood(
    encode: Callable[[Any], Gaussian],
    log_likelihood: Callable[[Any, jax.Array], jax.Array],
    examples: Any,
    key: jax.Array,
    *,
    samples: int,
    batch_size: int = 100,
    prior: Callable[[Any], Gaussian] | None = None,
    observed_dimensions: int | None = None,
) -> Likelihood:
    """ELBO and importance-weighted bound of every example, from K samples of its posterior.

    One sample of one batch is decoded at a time. The noise belongs to the example, whatever the batch size.

    Args:
        encode: batch -> mean and log variance of q(z | x), each [B, D].
        log_likelihood: batch and z [B, D] -> log p(x | z) summed over what is observed, [B].
        examples: images, [N, ...], or any tree of arrays with N rows, such as images and labels; a batch is B rows
            of it.
        key: a key that serves nothing else.
        samples: K.
        batch_size: B; the last batch is filled up with copies, so that shapes stay the same.
        prior: batch -> mean and log variance of p(z | condition), each [B, D]; None for N(0, I).
        observed_dimensions: values per example that the likelihood counts, such as H * W * C, for bits per dimension.

    Returns:
        The bounds.

    Raises:
        ValueError: there are no examples, `samples` or `batch_size` is below 1, examples or posteriors are not finite,
            or a likelihood is not a number.

    Reference:
        Burda et al., 2016, arXiv:1509.00519.
    """
    count = len(jax.tree.leaves(examples)[0])
    if min(count, samples, batch_size) < 1:
        raise ValueError(f"{count} examples, samples={samples}, batch_size={batch_size}: expected at least one each.")
    keys, batch_size, parts = random.example_keys(key, count), min(batch_size, count), []
    for start in range(0, count, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), count - 1)
        batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples)
        posterior = encode(batch)
        reference = prior(batch) if prior else tuple(map(jnp.zeros_like, posterior))
        chex.assert_equal_shape([*posterior, *reference])
        check_finite((posterior, reference), "posterior and prior")
        kl = gaussian.kl_divergence(*posterior, *reference)
        likelihoods, ratios = [], []
        for sample in range(samples):
            z, ratio = _draw(keys[rows], sample, posterior, reference)
            likelihood = log_likelihood(batch, z)
            chex.assert_shape(likelihood, (batch_size,))
            check_finite(likelihood, "log_likelihood", infinite=True)
            # Waiting for the numbers keeps no more than one decoder pass in memory.
            likelihoods.append(np.asarray(likelihood, np.float32))
            ratios.append(np.asarray(ratio))
        stacked = np.stack(likelihoods)
        bound = importance_bound(jnp.asarray(stacked + np.stack(ratios)))
        parts.append((stacked.mean(axis=0, dtype=np.float64), np.asarray(kl, np.float64), np.asarray(bound)))
    expected, kl_terms, bounds = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    return Likelihood(
        expected_log_likelihood=expected,
        kl=kl_terms.sum(axis=-1),
        kl_per_dimension=kl_terms.mean(axis=0),
        bound=bounds,
        samples=samples,
        observed_dimensions=observed_dimensions,
        key=_words(key),
    )


@jax.jit
def _draw(keys: jax.Array, sample: jax.Array, posterior: Gaussian, prior: Gaussian) -> tuple[jax.Array, jax.Array]:
    """The given sample of each example, [B, D], and its log p(z) - log q(z | x), [B]."""
    mean, logvar = posterior
    own_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, sample)
    noise = jax.vmap(lambda own_key: jax.random.normal(own_key, mean.shape[1:], jnp.float32))(own_keys)
    z = mean + jnp.exp(0.5 * logvar) * noise
    return z, (gaussian.log_prob(z, *prior) - gaussian.log_prob(z, mean, logvar)).sum(axis=-1)


@device_measure()
def active_units(means: jax.Array, threshold: float = 0.01) -> jax.Array:
    """Latent dimensions that the data move: Var_x(E_q(z | x)[z_d]) > threshold.

    Args:
        means: posterior means, [N, D].
        threshold: variance, of the scale of a N(0, I) prior.

    Returns:
        Whether a dimension is active, [D], bool; their sum is the number of active units.

    Raises:
        ValueError: there are fewer than two examples, or means are not finite.

    Reference:
        Burda et al., 2016, arXiv:1509.00519, section 5.
    """
    chex.assert_rank(means, 2)
    if len(means) < 2:
        raise ValueError(f"got {len(means)} posterior means, expected at least two: one alone does not vary.")
    return jnp.var(means, axis=0) > threshold


@dataclasses.dataclass(frozen=True)
class AggregatePosterior(_results.Result):
    """The parts of the mean KL(q(z | x) || N(0, I)) over a data set, in nats.

    Attributes:
        mutual_information: between example and latent; at most log N.
        total_correlation: the dependence between dimensions of the aggregate posterior.
        dimension_wise_kl: of its marginals from the prior, summed over dimensions.
        kl: the mean KL in closed form; the three estimate it together.
        estimator: how.
        examples: N.
        samples: S.
        key: the words of the random key.
    """

    mutual_information: Estimate
    total_correlation: Estimate
    dimension_wise_kl: Estimate
    kl: float
    estimator: str
    examples: int
    samples: int
    key: tuple[int, ...]

    @property
    def dependence(self) -> float:
        """Mutual information and total correlation together, what the KL has beyond its dimension-wise part."""
        return self.mutual_information.value + self.total_correlation.value

    @property
    def resolved(self) -> bool:
        """True if the N posteriors are enough to tell mutual information from total correlation.

        Where each example is a clump of its own, mutual information is log N whatever the data, and total correlation
        is what remains. Here: mutual information is at least one nat below log N.
        """
        return self.mutual_information.value <= math.log(self.examples) - 1.0


@device_measure()
def aggregate_posterior(
    mean: jax.Array, logvar: jax.Array, key: jax.Array, *, samples: int = 2000, chunk_size: int = 8
) -> AggregatePosterior:
    """Mutual information, total correlation and dimension-wise KL of q(z) = mean of q(z | x) over all N examples.

    Monte Carlo over z ~ q(z), with both q(z) and its marginals evaluated over all N posteriors: unlike estimates from
    minibatches it has no bias, only the standard errors that it states. q(z) is the mixture over these N examples.
    Where N posteriors are too few to fill the space (many dimensions, small variances) mutual information nears its
    ceiling log N, and total correlation is that of N separate clumps, not that of the distribution behind the data:
    10,000 posteriors of variance 0.2 in 10 dimensions, with means such that this is N(0, I), give 0.6 instead of 0.

    Args:
        mean: posterior means, [N, D].
        logvar: posterior log variances, [N, D].
        key: a key that serves nothing else.
        samples: S, of different examples as far as there are enough.
        chunk_size: samples at a time; memory grows with chunk_size * N * D.

    Returns:
        The estimates.

    Raises:
        ValueError: there are no examples, `samples` or `chunk_size` is below 1, or posteriors are not finite.

    Reference:
        Chen et al., 2018, arXiv:1802.04942, equation 2.
    """
    chex.assert_rank([mean, logvar], 2)
    chex.assert_equal_shape([mean, logvar])
    count = len(mean)
    if min(count, samples, chunk_size) < 1:
        raise ValueError(f"{count} examples, samples={samples}, chunk_size={chunk_size}: expected at least one each.")
    order_key, noise_key = jax.random.split(key)
    drawn_from = jax.random.permutation(order_key, count)[jnp.arange(samples) % count]
    z = gaussian.sample(noise_key, mean[drawn_from], logvar[drawn_from])
    terms = _aggregate_terms(z, drawn_from, mean, logvar, chunk_size)
    return AggregatePosterior(
        **{name: Estimate.of(values) for name, values in terms._asdict().items()},
        kl=float(gaussian.kl_divergence(mean, logvar, 0.0, 0.0).sum(axis=-1).mean()),
        estimator="Monte Carlo, densities over all posteriors",
        examples=count,
        samples=samples,
        key=_words(key),
    )


@partial(jax.jit, static_argnames="chunk_size")
def _aggregate_terms(
    z: jax.Array, drawn_from: jax.Array, mean: jax.Array, logvar: jax.Array, chunk_size: int
) -> KLTerms:
    """The three terms at each sample z [S, D] of the posterior with index `drawn_from` [S]; each [S]."""

    def terms(sample: tuple[jax.Array, jax.Array]) -> KLTerms:
        z, drawn_from = sample
        densities = gaussian.log_prob(z[None], mean, logvar)  # [N, D]
        log_joint = jax.nn.logsumexp(densities.sum(axis=-1)) - math.log(len(mean))
        log_marginals = (jax.nn.logsumexp(densities, axis=0) - math.log(len(mean))).sum()
        return KLTerms(
            mutual_information=densities[drawn_from].sum() - log_joint,
            total_correlation=log_joint - log_marginals,
            dimension_wise_kl=log_marginals - gaussian.log_prob(z, 0.0, 0.0).sum(),
        )

    return jax.lax.map(terms, (z, drawn_from), batch_size=chunk_size)


def _words(key: jax.Array) -> tuple[int, ...]:
    return tuple(jax.random.key_data(key).tolist())
