"""Norms whose gradients are numbers everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def norm(x: jax.Array, axis: int | Sequence[int], *, keepdims: bool = False) -> jax.Array:
    """Euclidean norm over some axes, with gradient zero at zero.

    Of float32: below 1e-19, where squares vanish, it is zero, and above 1e19 infinite.

    Args:
        x: [...].
        axis: over which.
        keepdims: keep these axes, of length 1.

    Returns:
        Norms, in the units of `x`.
    """
    squared = jnp.sum(jnp.square(x), axis=axis, keepdims=keepdims)
    # The root has an infinite slope at zero, and 0 * inf in the unselected branch would still give NaN.
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
