"""Assertions of all losses, and reductions over event axes: all axes but the first, which counts examples."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mvae_jax import numerics


def assert_events(*arrays: jax.Array, least_rank: int = 2) -> None:
    """Asserts floating-point arrays of one shape, [B, ...]: examples of one axis at least, logits of none."""
    chex.assert_equal_shape(arrays)
    chex.assert_type(arrays, float)
    shape = jnp.shape(arrays[0])
    if len(shape) < least_rank:
        expected = "[B, D], [B, H, W, C] or the like" if least_rank == 2 else "[B] or [B, ...]"
        raise AssertionError(
            f"arrays have shape {list(shape)}, expected {expected}: a batch of examples. A loss needs no `jax.vmap`; "
            "within one give the batch x[None] of the one example x, and take the first of the results."
        )


def sum_events(x: jax.Array) -> jax.Array:
    """Sum over the event axes, [B, ...] -> [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def norm_events(x: jax.Array) -> jax.Array:
    """Euclidean norm over the event axes, [B, ...] -> [B], with gradient zero at zero."""
    return numerics.norm(x, tuple(range(1, x.ndim)))
