"""Diagonal Gaussians, given by `mean` and `logvar` (the log variance) of every dimension.

Densities and divergences are elementwise: summing over dimensions is left to the caller, but for that of a mixture,
which is no product over dimensions. However tight a Gaussian is, they and their gradients are exact up to rounding, or
infinite where they exceed what float32 holds, 1e38. All is computed and returned in float32, whatever comes in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from mvae_jax import meshes, numerics, random


@numerics.in_float32
def log_prob(x: jax.Array, mean: jax.Array | float, logvar: jax.Array | float) -> jax.Array:
    """Elementwise log N(x | mean, exp(logvar)) = -(log 2 pi + logvar + (x - mean)^2 / exp(logvar)) / 2.

    Args:
        x: values, [...].
        mean: broadcastable against `x`.
        logvar: broadcastable against `x`.

    Returns:
        Log densities, [...], in nats.
    """
    return -0.5 * (math.log(2 * math.pi) + logvar + _squared_deviation(x - mean, logvar))


@numerics.in_float32
def sample(key: jax.Array, mean: jax.Array, logvar: jax.Array, axis_name: meshes.AxisName | None = None) -> jax.Array:
    """Reparameterised draws: mean + exp(logvar / 2) * noise, differentiable in mean and logvar.

    Args:
        key: a key that serves nothing else.
        mean: [B, ...].
        logvar: [B, ...].
        axis_name: as in `random.example_keys`.

    Returns:
        One draw per example, [B, ...].

    Reference:
        Kingma and Welling, 2014, arXiv:1312.6114, section 2.4.
    """
    chex.assert_equal_shape([mean, logvar])
    return mean + jnp.exp(0.5 * logvar) * random.standard_normal(key, mean.shape, axis_name)


@numerics.in_float32
def kl_divergence(
    mean_p: jax.Array,
    logvar_p: jax.Array,
    mean_q: jax.Array | float,
    logvar_q: jax.Array | float,
) -> jax.Array:
    """KL(p || q) of every dimension: the expectation under p of log p - log q.

    With d = logvar_p - logvar_q it is (exp(d) - 1 - d + (mean_p - mean_q)^2 / exp(logvar_q)) / 2.

    Args:
        mean_p: means of p, over which the expectation runs, [...].
        logvar_p: log variances of p, [...].
        mean_q: means of q, broadcastable against `mean_p`.
        logvar_q: log variances of q, broadcastable against `mean_p`.

    Returns:
        Divergences, [...], in nats.
    """
    log_ratio = logvar_p - logvar_q
    # expm1 keeps the digits that exp(d) - 1 loses where the two variances nearly agree.
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + _squared_deviation(mean_p - mean_q, logvar_q))


@numerics.in_float32
def wasserstein_distance(mean_p: jax.Array, logvar_p: jax.Array, mean_q: jax.Array, logvar_q: jax.Array) -> jax.Array:
    """2-Wasserstein distance of Gaussians p and q with diagonal covariances, with gradient zero where they are equal.

    It is sqrt(|mean_p - mean_q|^2 + |s_p - s_q|^2) with the standard deviations s, over the last axis.

    Args:
        mean_p: means of p, [..., D].
        logvar_p: log variances of p, [..., D].
        mean_q: means of q, broadcastable against `mean_p`.
        logvar_q: log variances of q, broadcastable against `logvar_p`.

    Returns:
        Distances, [...], in the units of the means.

    Reference:
        Dowson and Landau, 1982, The Fréchet distance between multivariate normal distributions.
    """
    deviations = jnp.exp(0.5 * logvar_p) - jnp.exp(0.5 * logvar_q)
    apart = jnp.stack(jnp.broadcast_arrays(mean_p - mean_q, deviations))
    # Squares of small deviations would vanish, were they not scaled.
    largest = jax.lax.stop_gradient(jnp.abs(apart).max((0, -1), keepdims=True))
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale[0, ..., 0] * numerics.norm(apart / scale, (0, -1))


def _squared_deviation(difference: jax.Array, logvar: jax.Array | float) -> jax.Array:
    """difference^2 / exp(logvar), in squared standard deviations."""
    # Scaled before it is squared: below a log variance of -88.7 its inverse is infinite, and 0 * inf is NaN.
    return jnp.square(difference * jnp.exp(-0.5 * logvar))


@numerics.in_float32
def product_of_experts(
    means: Sequence[jax.Array],
    logvars: Sequence[jax.Array],
    *,
    present: Sequence[jax.Array] | None = None,
    prior: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """The normalised product of Gaussian densities: precisions add, means are averaged by precision.

    A missing modality is an expert left out of both sequences, or, for some examples only, one whose `present` is 0:
    its mean and log variance are then not looked at, and may be anything. An infinite log variance leaves an expert out
    as well, if its mean is finite and some other expert remains.

    Args:
        means: one array [...] per expert.
        logvars: one array [...] per expert.
        present: one array per expert, with the first axes of its mean, such as [B]: 0 where the expert is missing, else
            1; None if all are there. Where none is and there is no prior, the result is N(0, I).
        prior: whether N(0, I) is one more expert.

    Returns:
        Mean and log variance of the product, each [...].

    Raises:
        ValueError: no expert is given, or the sequences differ in length.

    Reference:
        Wu and Goodman, 2018, arXiv:1802.05335, section 2.2.
    """
    _check_experts("product_of_experts", means, logvars, present)
    chex.assert_equal_shape([*means, *logvars])
    # N(0, I) is an expert like the others: always, never, or where there is no other.
    alone = [jnp.zeros_like(means[0])] if prior or present is not None else []
    log_precisions = [-logvar for logvar in logvars] + alone
    if present is not None:
        known = [_over_dimensions(mask, mean) for mask, mean in zip(present, means, strict=True)]
        means, logvars = _without_missing(means, logvars, known)
        log_precisions = [jnp.where(mask, -logvar, -jnp.inf) for mask, logvar in zip(known, logvars, strict=True)]
        nobody = ~functools.reduce(jnp.logical_or, known)
        log_precisions.append(alone[0] if prior else jnp.where(nobody, alone[0], -jnp.inf))
    stacked = jnp.stack(log_precisions)
    shares = jax.nn.softmax(stacked, axis=0)
    return (shares * jnp.stack([*means, *alone])).sum(0), -jax.nn.logsumexp(stacked, axis=0)


@numerics.in_float32
def mixture_log_prob(
    x: jax.Array,
    means: Sequence[jax.Array],
    logvars: Sequence[jax.Array],
    *,
    present: Sequence[jax.Array] | None = None,
) -> jax.Array:
    """Log density of a mixture of experts, log((1 / M) sum_m prod_d N(x_d | mean_md, exp(logvar_md))).

    Args:
        x: values, [..., D].
        means: one array [..., D] per expert, of any axes that are broadcast against those of `x`, such as [B, 1, D].
        logvars: one array per expert, of the shape of its mean.
        present: as in `product_of_experts`; the mean is over the experts that are there. Where none is, the density is
            0, with gradient 0.

    Returns:
        Log densities, [...], summed over the last axis, in nats.

    Raises:
        ValueError: no expert is given, or the sequences differ in length.

    Reference:
        Shi et al., 2019, arXiv:1911.03393 (mixture of experts).
    """
    _check_experts("mixture_log_prob", means, logvars, present)
    known = None
    if present is not None:
        known = [_over_dimensions(mask, mean) for mask, mean in zip(present, means, strict=True)]
        means, logvars = _without_missing(means, logvars, known)
    log_probs = jnp.stack([log_prob(x, *expert).sum(-1) for expert in zip(means, logvars, strict=True)])
    if known is None:
        return jax.nn.logsumexp(log_probs, axis=0) - math.log(len(means))
    there = jnp.stack([jnp.broadcast_to(mask[..., 0], log_probs.shape[1:]) for mask in known])
    anybody = there.any(0)
    # The logarithm of nothing is taken of something else, or its gradient would be 0 / 0.
    log_probs = jnp.where(there, log_probs, jnp.where(anybody, -jnp.inf, 0.0)[None])
    total = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(jnp.maximum(there.sum(0), 1).astype(jnp.float32))
    return jnp.where(anybody, total, -jnp.inf)


def _check_experts(
    name: str, means: Sequence[jax.Array], logvars: Sequence[jax.Array], present: Sequence[jax.Array] | None
) -> None:
    if not len(means) == len(logvars) > 0:
        raise ValueError(
            f"{name} got {len(means)} means and {len(logvars)} logvars, expected equally many and at least one: "
            "without experts there is no shape."
        )
    if present is not None and len(present) != len(means):
        raise ValueError(
            f"{name} got {len(present)} masks of presence for {len(means)} experts, expected one for each: give ones "
            "for an expert that is always there."
        )


def _over_dimensions(mask: jax.Array, mean: jax.Array) -> jax.Array:
    """Where an expert is there, bool [..., 1] of the rank of its mean."""
    return mask.reshape(mask.shape + (1,) * (mean.ndim - mask.ndim)) != 0


def _without_missing(
    means: Sequence[jax.Array], logvars: Sequence[jax.Array], known: Sequence[jax.Array]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Zeros for what is missing, before anything is computed of it: NaN times a gradient of 0 would be NaN."""
    return tuple(  # type: ignore[return-value]
        [jnp.where(mask, array, 0.0) for mask, array in zip(known, arrays, strict=True)] for arrays in (means, logvars)
    )


@numerics.in_float32
def lerp(start: jax.Array, end: jax.Array, fraction: jax.Array | float) -> jax.Array:
    """Linear interpolation, (1 - fraction) * start + fraction * end; exact at both ends.

    Args:
        start: [...].
        end: [...].
        fraction: scalar, or of the rank of `start` and broadcastable against it, such as [B, 1]; 0 is `start`.

    Returns:
        Points on the segment, [...].
    """
    return (1.0 - fraction) * start + fraction * end


@numerics.in_float32
def slerp(start: jax.Array, end: jax.Array, fraction: jax.Array | float) -> jax.Array:
    """Spherical interpolation over the last axis, at constant angular speed.

    With the angle w between the two it is (sin((1 - t) w) start + sin(t w) end) / sin(w): for vectors of equal norm
    the great circle, on which samples of N(0, I) in many dimensions keep their typical norm. Where the angle
    defines no circle (parallel, opposite or zero vectors) the result is `lerp`, and so is its gradient.

    Args:
        start: [..., D].
        end: [..., D].
        fraction: t; scalar, or of the rank of `start` and broadcastable against it, such as [B, 1]; 0 is `start`.

    Returns:
        Points on the arc, [..., D].

    Reference:
        Shoemake, 1985, Animating rotation with quaternion curves; White, 2016, arXiv:1609.04468.
    """
    start_norm, end_norm = (numerics.norm(x, -1, keepdims=True) for x in (start, end))
    from_, to = (x / jnp.where(norm > 0, norm, 1.0) for x, norm in ((start, start_norm), (end, end_norm)))
    # Half-angle form: unlike arccos of the inner product it keeps its digits for nearly parallel vectors.
    angle = 2 * jnp.arctan2(*(numerics.norm(side, -1, keepdims=True) for side in (to - from_, to + from_)))
    on_circle = (jnp.sin(angle) > 1e-6) & (start_norm > 0) & (end_norm > 0)
    sine = jnp.where(on_circle, jnp.sin(angle), 1.0)
    start_weight = jnp.where(on_circle, jnp.sin((1.0 - fraction) * angle) / sine, 1.0 - fraction)
    end_weight = jnp.where(on_circle, jnp.sin(fraction * angle) / sine, fraction)
    return start_weight * start + end_weight * end
