"""Sharpness: fine detail in images, against that in real ones. Images are [N, H, W, C], float in [-1, 1]."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mvae_jax.eval._arguments import device_measure


@device_measure()
def sharpness(images: jax.Array) -> jax.Array:
    """Mean absolute Laplacian: of |left + right + above + below - 4 centre| over inner pixels and channels.

    A wave of wavelength w pixels along one axis counts 2 - 2 cos(2 pi / w) times its amplitude: an edge much, a slow
    change of shade next to nothing. It is proportional to contrast and blind to brightness.

    Args:
        images: [N, H, W, C], float in [-1, 1], with H and W at least 3.

    Returns:
        One value per image, [N], in units of intensity.

    Raises:
        ValueError: the images have no inner pixel, or a value is not finite.
    """
    chex.assert_rank(images, 4)
    chex.assert_type(images, float)
    if min(images.shape[1:3]) < 3:
        raise ValueError(f"images are {images.shape[1]} x {images.shape[2]} pixels, expected at least 3 x 3.")
    across = images[:, 1:-1, :-2] + images[:, 1:-1, 2:]
    down = images[:, :-2, 1:-1] + images[:, 2:, 1:-1]
    return jnp.abs(across + down - 4.0 * images[:, 1:-1, 1:-1]).mean(axis=(1, 2, 3))


@device_measure()
def sharpness_ratio(images: jax.Array, real: jax.Array) -> float:
    """Mean sharpness of a set of images, relative to that of real ones of the same size.

    1 is right, below is blur, and above about 1.2 is noise or patterns that real images do not have. Only amounts are
    compared: blur and noise together may give 1, so look at the images too.

    Args:
        images: reconstructions or samples, [N, H, W, C], float in [-1, 1].
        real: [M, H, W, C], float in [-1, 1].

    Raises:
        ValueError: sizes differ, a value is not finite, or the real images are all of one shade.
    """
    if images.shape[1:] != real.shape[1:]:
        raise ValueError(
            f"images have shape {images.shape} and real ones {real.shape}, expected the same height, width and "
            "channels: detail per pixel depends on the size."
        )
    reference = float(sharpness(real).mean())
    if reference == 0.0:
        raise ValueError("the real images have no detail at all, each is of one shade: give others.")
    return float(sharpness(images).mean()) / reference
