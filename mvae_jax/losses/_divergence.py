"""Divergences of diagonal Gaussians and of their aggregate q(z) = mean over the data set of q(z | x).

Results are [B], in nats, summed over dimensions; papers that average divide by D.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from mvae_jax import gaussian, meshes
from mvae_jax.losses._events import assert_events, sum_events
from mvae_jax.numerics import in_float32

Estimator = Literal["mws", "mss"]


@in_float32
def kl_standard_normal(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(q || N(0, I)) for the diagonal Gaussian q = N(mean, exp(logvar)).

    Summed over dimensions, (exp(logvar) - 1 - logvar + mean^2) / 2. For one example, of which `jax.vmap` would make a
    batch of numbers: `kl_standard_normal(mean[None], logvar[None])[0]`.

    Args:
        mean: [B, ...].
        logvar: log variances, [B, ...].

    Returns:
        One divergence per example, [B], in nats.

    Reference:
        Kingma and Welling, 2014, arXiv:1312.6114, appendix B.
    """
    assert_events(mean, logvar)
    return sum_events(gaussian.kl_divergence(mean, logvar, 0.0, 0.0))


@in_float32
def kl_diag_gaussians(mean_p: jax.Array, logvar_p: jax.Array, mean_q: jax.Array, logvar_q: jax.Array) -> jax.Array:
    """KL(p || q) between diagonal Gaussians: the expectation under p, the first, of log p - log q.

    It is large where p has mass and q has none. KL(q || p) is another number: swap the pairs of arguments.

    Args:
        mean_p: [B, ...].
        logvar_p: log variances of p, [B, ...].
        mean_q: [B, ...].
        logvar_q: log variances of q, [B, ...].

    Returns:
        One divergence per example, [B], in nats.
    """
    assert_events(mean_p, logvar_p, mean_q, logvar_q)
    return sum_events(gaussian.kl_divergence(mean_p, logvar_p, mean_q, logvar_q))


class KLTerms(NamedTuple):
    """The parts of log q(z | x) - log p(z) with p = N(0, I), each [B], in nats; their expectation is the KL.

    Attributes:
        mutual_information: log q(z | x) - log q(z), between an example and its latent.
        total_correlation: log q(z) - sum_d log q(z_d), the dependence between dimensions.
        dimension_wise_kl: sum_d (log q(z_d) - log p(z_d)), of the marginals to the prior.
    """

    mutual_information: jax.Array
    total_correlation: jax.Array
    dimension_wise_kl: jax.Array


@in_float32
def kl_terms(
    z: jax.Array,
    mean: jax.Array,
    logvar: jax.Array,
    *,
    dataset_size: int,
    estimator: Estimator = "mws",
    axis_name: meshes.AxisName | None = None,
) -> KLTerms:
    """Splits KL(q(z | x) || N(0, I)) into mutual information, total correlation and dimension-wise KL.

    The sum of the three is exactly log q(z | x) - log p(z) at the given sample, whatever the estimator of log q(z)
    and log q(z_d); only the split is estimated. Estimators and their bias: `total_correlation`.

    Args:
        z: one sample from each posterior, [B, D]; where its own gives it less than exp(-1e38), terms are NaN.
        mean: posterior means, [B, D].
        logvar: posterior log variances, [B, D].
        dataset_size: N, examples in the training set (not in the batch).
        estimator: "mws" or "mss", as in `total_correlation`.
        axis_name: as in `total_correlation`.

    Returns:
        Three estimates per example, each [B], in nats.

    Raises:
        ValueError: the batch is empty, N is not a whole number of at least 1, the estimator is unknown, or it is "mss"
            and not 2 <= M <= N.

    Reference:
        Chen et al., 2018, arXiv:1802.04942, equation 2.
    """
    assert_events(z, mean, logvar)
    chex.assert_rank([z, mean, logvar], 2)
    if not dataset_size >= 1 or dataset_size % 1:
        raise ValueError(f"dataset_size is {dataset_size}, expected a whole number of examples, at least 1.")
    if not len(z):
        raise ValueError("the batch has no example, expected at least one: q(z) is estimated from its posteriors.")
    drawn_from = jnp.arange(z.shape[0])
    means, logvars = meshes.whole(mean), meshes.whole(logvar)
    if axis_name is not None:
        drawn_from = drawn_from + jax.lax.axis_index(axis_name) * z.shape[0]
        means, logvars = jax.lax.all_gather((means, logvars), axis_name, tiled=True)
    log_weights = _log_weights(estimator, drawn_from, means.shape[0], int(dataset_size))  # [B, M]
    pairs = gaussian.log_prob(z[:, None], means[None], logvars[None])  # [B, M, D]
    log_joint = jax.nn.logsumexp(log_weights + pairs.sum(-1), axis=1)
    log_marginals = jax.nn.logsumexp(log_weights[..., None] + pairs, axis=1).sum(-1)
    return KLTerms(
        mutual_information=gaussian.log_prob(z, mean, logvar).sum(-1) - log_joint,
        total_correlation=log_joint - log_marginals,
        dimension_wise_kl=log_marginals - gaussian.log_prob(z, 0.0, 0.0).sum(-1),
    )


@in_float32
def total_correlation(
    z: jax.Array,
    mean: jax.Array,
    logvar: jax.Array,
    *,
    dataset_size: int,
    estimator: Estimator = "mws",
    axis_name: meshes.AxisName | None = None,
) -> jax.Array:
    """Estimate of KL(q(z) || prod_d q(z_d)) from the M posteriors of one batch.

    Both densities are weighted sums over the batch, q(z) = sum_m w_m q(z | x_m) and each q(z_d) likewise:

    * "mws", minibatch-weighted: w_m = 1 / (M N). The usual training signal, but far off in value, with a bias that
      depends on how posteriors overlap: if all equal N(0, I) it returns (D - 1) log N, not 0. Compare curves only
      at equal M and N.
    * "mss", minibatch-stratified: 1 / N for the posterior that z was drawn from, (N - M + 1) / (N (M - 1)) for the
      next one of the batch (cyclically) and 1 / (M - 1) for the others. The weights sum to 1 and both densities are
      unbiased for a batch drawn without replacement; their logarithms are biased low. The number to report.

    Args:
        z: one sample from each posterior, [B, D].
        mean: posterior means, [B, D].
        logvar: posterior log variances, [B, D].
        dataset_size: N, examples in the training set (not in the batch).
        estimator: "mws" or "mss".
        axis_name: mapped axis over which the batch is split, as within `shard_map`, or several: M is B times their
            size, and the posteriors of all devices are gathered. None if `z` is the whole batch, as under `jit` with
            sharded arrays; within `shard_map` that would be another estimate, from the M = B posteriors of the device.

    Returns:
        One estimate per example, [B], in nats.

    Raises:
        ValueError: the batch is empty, N is not a whole number of at least 1, the estimator is unknown, or it is "mss"
            and not 2 <= M <= N.

    Reference:
        Chen et al., 2018, arXiv:1802.04942, equation 3 and appendix C (mws, mss).
    """
    terms = kl_terms(z, mean, logvar, dataset_size=dataset_size, estimator=estimator, axis_name=axis_name)
    return terms.total_correlation


def _log_weights(estimator: str, drawn_from: jax.Array, batch_size: int, dataset_size: int) -> jax.Array:
    """Log weights of the M posteriors of a batch for each sample; `drawn_from` [B] says which one gave it."""
    if estimator == "mws":
        return jnp.full((drawn_from.shape[0], batch_size), -math.log(batch_size * dataset_size), jnp.float32)
    if estimator != "mss":
        raise ValueError(f"estimator is {estimator!r}, expected 'mws' or 'mss'.")
    if not 2 <= batch_size <= dataset_size:
        raise ValueError(
            f"estimator 'mss' got a batch of {batch_size} and dataset_size={dataset_size}, expected "
            "2 <= batch <= dataset_size: only then are its weights positive. Use 'mws', or another batch size."
        )
    others = batch_size - 1
    ahead = (jnp.arange(batch_size)[None] - drawn_from[:, None]) % batch_size
    weights = [1 / dataset_size, (dataset_size - others) / (dataset_size * others), 1 / others]
    return jnp.log(jnp.array(weights, jnp.float32))[jnp.minimum(ahead, 2)]
