"""Assertions of all losses, and reductions over event axes: all axes but the first, which counts examples."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mvae_jax import numerics


def assert_events(*arrays: jax.Array) -> None:
    """Asserts floating-point arrays of one shape, [B, ...]."""
    chex.assert_shape(arrays, (None, ...))
    chex.assert_equal_shape(arrays)
    chex.assert_type(arrays, float)


def sum_events(x: jax.Array) -> jax.Array:
    """Sum over the event axes, [B, ...] -> [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def norm_events(x: jax.Array) -> jax.Array:
    """Euclidean norm over the event axes, [B, ...] -> [B], with gradient zero at zero."""
    return numerics.norm(x, tuple(range(1, x.ndim)))
