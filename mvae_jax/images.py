"""Images outside the networks are uint8; inside networks and losses they are float32 in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def check_batch(batch: Mapping[str, jax.Array], image_size: int, attributes: int) -> None:
    """Refuses a batch that is not of a model's image size and number of attributes.

    Raises:
        ValueError: "image" is not [B, S, S, 3], or "attributes" not [B, A].
    """
    for name, shape in {"image": (image_size, image_size, 3), "attributes": (attributes,)}.items():
        if batch[name].shape[1:] != shape:
            raise ValueError(
                f"batch[{name!r}] has shape {batch[name].shape}; expected (B, {', '.join(map(str, shape))}), as the "
                "model's image_size and attributes say."
            )


def to_float(images: jax.Array) -> jax.Array:
    """Maps uint8 [..., H, W, C] in [0, 255] to float32 in [-1, 1]: x / 127.5 - 1."""
    if images.dtype != jnp.uint8:
        raise ValueError(f"images have dtype {images.dtype}, expected uint8 in [0, 255].")
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: jax.Array) -> jax.Array:
    """Maps float [..., H, W, C] in [-1, 1] to the nearest uint8 in [0, 255]; values outside are clipped."""
    return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
