"""Photographs that are not like the training images: moved, enlarged, grey, dark, compressed, noisy, without a face."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mvae_jax import augmentation, random
from mvae_jax.images import to_float, to_uint8

JPEG_QUALITY = 15
_NOISE = 0.2  # standard deviation, of pixel values in [-1, 1]


def _shifted(x: jax.Array, key: jax.Array) -> jax.Array:
    offset = jnp.array([0, x.shape[2] // 8])
    return jax.vmap(lambda image: augmentation.shift(image, offset))(x)


def _zoomed(x: jax.Array, key: jax.Array) -> jax.Array:
    return jax.vmap(lambda image: augmentation.warp(image, jnp.zeros(2), 4 / 3))(x)


def _grey(x: jax.Array, key: jax.Array) -> jax.Array:
    return jax.vmap(lambda image: augmentation.saturate(image, 0.0))(x)


def _darker(x: jax.Array, key: jax.Array) -> jax.Array:
    return 0.5 * (x + 1.0) - 1.0  # half of the values in [0, 1]


def _compressed(x: jax.Array, key: jax.Array) -> jax.Array:
    def compress(picture: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
        return np.asarray(Image.open(file))

    return to_float(jnp.asarray(np.stack([compress(picture) for picture in np.asarray(to_uint8(x))])))


def _noisy(x: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.clip(x + _NOISE * random.standard_normal(key, x.shape), -1.0, 1.0)


def _no_face(x: jax.Array, key: jax.Array) -> jax.Array:
    return 2.0 * random.uniform(key, x.shape) - 1.0


# Name -> (images [N, H, W, 3] in [-1, 1], key) -> such images.
DISTURBANCES: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "undisturbed": lambda x, key: x,
    "moved to the right by an eighth of its width": _shifted,
    "enlarged by 4/3": _zoomed,
    "grey": _grey,
    "half as bright": _darker,
    f"JPEG of quality {JPEG_QUALITY}": _compressed,
    f"noise of deviation {_NOISE / 2:g} added to values in [0, 1]": _noisy,
    "no face: uniform noise": _no_face,
}
