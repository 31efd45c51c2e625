"""Diagonal Gaussians, given by `mean` and `logvar` (the log variance) of every dimension.

Densities and divergences are elementwise: summing over dimensions is left to the caller. However tight a Gaussian is,
they and their gradients are exact up to rounding, or infinite where they exceed what float32 holds, 1e38. All is
computed and returned in float32, whatever comes in.
"""

from __future__ import annotations

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


def _squared_deviation(difference: jax.Array, logvar: jax.Array | float) -> jax.Array:
    """difference^2 / exp(logvar), in squared standard deviations."""
    # Scaled before it is squared: below a log variance of -88.7 its inverse is infinite, and 0 * inf is NaN.
    return jnp.square(difference * jnp.exp(-0.5 * logvar))


@numerics.in_float32
def product_of_experts(
    means: Sequence[jax.Array], logvars: Sequence[jax.Array], *, prior: bool = True
) -> tuple[jax.Array, jax.Array]:
    """The normalised product of Gaussian densities: precisions add, means are averaged by precision.

    A missing modality is an expert left out of both sequences. To leave it out for some examples only, set its
    log variance to infinity there (its mean must stay finite); some other expert must remain.

    Args:
        means: one array [...] per expert.
        logvars: one array [...] per expert.
        prior: whether N(0, I) is one more expert.

    Returns:
        Mean and log variance of the product, each [...].

    Raises:
        ValueError: no expert is given, or the sequences differ in length.

    Reference:
        Wu and Goodman, 2018, arXiv:1802.05335, section 2.2.
    """
    if not len(means) == len(logvars) > 0:
        raise ValueError(
            f"product_of_experts got {len(means)} means and {len(logvars)} logvars, expected equally many and at "
            "least one: the product of no experts has no shape."
        )
    chex.assert_equal_shape([*means, *logvars])
    priors = [jnp.zeros_like(means[0])] if prior else []
    log_precisions = -jnp.stack([*logvars, *priors])
    shares = jax.nn.softmax(log_precisions, axis=0)
    return (shares * jnp.stack([*means, *priors])).sum(0), -jax.nn.logsumexp(log_precisions, axis=0)


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
