"""How close a reconstruction is to its image."""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp


def psnr(image: jax.Array, reconstruction: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / mean squared error) with peak 2, the width of [-1, 1].

    Args:
        image: [B, H, W, C], float in [-1, 1].
        reconstruction: [B, H, W, C], float in [-1, 1].

    Returns:
        Ratios, [B], in decibel; infinite for equal images.
    """
    chex.assert_rank([image, reconstruction], 4)
    chex.assert_equal_shape([image, reconstruction])
    chex.assert_type([image, reconstruction], float)
    error = jnp.square(image - reconstruction).mean(axis=(1, 2, 3))
    return 20.0 * math.log10(2.0) - 10.0 * jnp.log10(error)
