"""Functions of a trained model applied to whole splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import images


def in_chunks(function: Callable[..., Any], size: int = 250) -> Callable[..., Any]:
    """The function on `size` examples at a time, its results on the host: a whole split need not fit on the device.

    Args:
        function: of arrays [B, ...] -> a tree of arrays [B, ...].
        size: most examples at a time.
    """

    def chunked(*values: Any) -> Any:
        starts = range(0, len(values[0]), size)
        parts = [jax.device_get(function(*(value[start : start + size] for value in values))) for start in starts]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    return chunked


def pixels(split: Mapping[str, np.ndarray] | Any) -> jax.Array:
    """The images of a split, [N, H, W, C] in [-1, 1]."""
    return images.to_float(jnp.asarray(split["image"]))


def to_bytes(pictures: jax.Array | np.ndarray) -> np.ndarray:
    """Images in [-1, 1] as uint8 on the host."""
    return np.asarray(images.to_uint8(jnp.asarray(pictures)))
