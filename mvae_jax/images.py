"""Images outside the networks are uint8; inside networks and losses they are float32 in [-1, 1].

Floats are converted in float32, whatever comes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mvae_jax.numerics import in_float32


def check_batch(batch: Mapping[str, Any], **shapes: tuple[int, ...]) -> None:
    """Refuses a batch whose arrays are not of the shapes that a model's Config says.

    Args:
        batch: arrays [B, ...].
        **shapes: name -> shape of one example, such as image=(64, 64, 3).

    Raises:
        ValueError: an array is missing, or the shape of an example is not the expected one.
    """
    for name, shape in shapes.items():
        if name not in batch:
            raise ValueError(f"the data have {', '.join(map(repr, batch))}; the model learns from {name!r} as well.")
        if batch[name].shape[1:] != shape:
            raise ValueError(
                f"batch[{name!r}] has shape {batch[name].shape}; expected (B, {', '.join(map(str, shape))}), as the "
                "model's config says."
            )


def to_float(images: jax.Array) -> jax.Array:
    """Maps uint8 [..., H, W, C] in [0, 255] to float32 in [-1, 1]: x / 127.5 - 1.

    Raises:
        ValueError: `images` are not uint8.
    """
    if images.dtype != jnp.uint8:
        raise ValueError(f"images have dtype {images.dtype}, expected uint8 in [0, 255].")
    return images.astype(jnp.float32) / 127.5 - 1.0


@in_float32
def to_uint8(images: jax.Array) -> jax.Array:
    """Maps float [..., H, W, C] in [-1, 1] to the nearest uint8 in [0, 255]; values outside are clipped.

    Raises:
        ValueError: `images` are not floats.
    """
    _check_float(images, "in [-1, 1]")
    return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


@in_float32
def to_unit_interval(images: jax.Array) -> jax.Array:
    """Maps uint8, or float in [-1, 1], to float32 in [0, 1], where some papers' likelihoods live.

    Raises:
        ValueError: `images` are of another integer type.
    """
    return (images if jnp.issubdtype(images.dtype, jnp.floating) else to_float(images)) * 0.5 + 0.5


@in_float32
def from_unit_interval(images: jax.Array) -> jax.Array:
    """Maps float in [0, 1] to float32 in [-1, 1].

    Raises:
        ValueError: `images` are not floats.
    """
    _check_float(images, "in [0, 1]")
    return 2.0 * images - 1.0


def _check_float(images: jax.Array, values: str) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images have dtype {images.dtype}, expected floats {values}; `to_float` converts from uint8.")
