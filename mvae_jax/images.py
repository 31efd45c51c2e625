"""Images outside the networks are uint8; inside networks and losses they are float32 in [-1, 1]."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def to_float(images: jax.Array) -> jax.Array:
    """Maps uint8 [..., H, W, C] in [0, 255] to float32 in [-1, 1]: x / 127.5 - 1."""
    if images.dtype != jnp.uint8:
        raise ValueError(f"images have dtype {images.dtype}, expected uint8 in [0, 255].")
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: jax.Array) -> jax.Array:
    """Maps float [..., H, W, C] in [-1, 1] to the nearest uint8 in [0, 255]; values outside are clipped."""
    return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
