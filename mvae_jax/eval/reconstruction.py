"""Similarity of a reconstruction and its image. Images are [B, H, W, C], float in [-1, 1], results [B]."""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax.eval._arguments import device_measure

PEAK = 2.0  # width of [-1, 1]


@device_measure()
def psnr(image: jax.Array, reconstruction: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / mean squared error) with peak 2, the width of [-1, 1].

    Args:
        image: [B, H, W, C], float in [-1, 1].
        reconstruction: [B, H, W, C], float in [-1, 1].

    Returns:
        Ratios, [B], in decibel; infinite for equal images.

    Raises:
        ValueError: a value is not finite.
    """
    _assert_images(image, reconstruction)
    error = jnp.square(image - reconstruction).mean(axis=(1, 2, 3))
    return 20.0 * math.log10(PEAK) - 10.0 * jnp.log10(error)


@device_measure()
def ssim(image: jax.Array, reconstruction: jax.Array, *, window: int = 11, sigma: float = 1.5) -> jax.Array:
    """Structural similarity: agreement of local mean, contrast and structure, the mean over windows and channels.

    Within each window, with means m, variances v and covariance c weighted by a Gaussian that sums to 1, it is
    (2 m_x m_y + C1) (2 c + C2) / ((m_x^2 + m_y^2 + C1) (v_x + v_y + C2)) with C1 = (0.01 peak)^2, C2 = (0.03 peak)^2
    and peak 2, of intensities in [0, 2], the images plus 1. Only valid windows count, those that lie wholly within the
    image: with the default (H - 10) x (W - 10) of them. Every channel is compared by itself; the paper has grey images.

    Args:
        image: [B, H, W, C], float in [-1, 1], with H and W at least `window`.
        reconstruction: [B, H, W, C], float in [-1, 1].
        window: side of the window in pixels.
        sigma: standard deviation of its weights in pixels.

    Returns:
        Similarities, [B], in [-1, 1]; 1 only for equal images.

    Raises:
        ValueError: the images are smaller than the window, or a value is not finite.

    Reference:
        Wang et al., 2004, Image quality assessment: from error visibility to structural similarity, equation 13.
    """
    _assert_images(image, reconstruction)
    height, width = image.shape[1:3]
    if min(height, width) < window:
        raise ValueError(
            f"images are {height} x {width} pixels, expected at least the window's {window} x {window}; use larger "
            "images or a smaller window."
        )
    down, across = _gaussian_windows(height, window, sigma), _gaussian_windows(width, window, sigma)

    def local_mean(values: jax.Array) -> jax.Array:
        # Variances are differences of such means: accelerators must not round the factors.
        return jnp.einsum("ih,jw,bhwc->bijc", down, across, values, precision="highest")

    # The luminance term is defined for intensities from 0 on, and is another one for signed values.
    x, y = image + 1.0, reconstruction + 1.0
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(jnp.square(x)) - jnp.square(mean_x)
    variance_y = local_mean(jnp.square(y)) - jnp.square(mean_y)
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (jnp.square(mean_x) + jnp.square(mean_y) + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean(axis=(1, 2, 3))


def _gaussian_windows(size: int, window: int, sigma: float) -> jax.Array:
    """Weights of every valid window along one axis of an image, [size - window + 1, size]; each row sums to 1."""
    place = np.arange(size) - np.arange(size - window + 1)[:, None]  # of the pixel within the window
    weights = np.exp(-0.5 * np.square((place - (window - 1) / 2) / sigma)) * ((place >= 0) & (place < window))
    return jnp.asarray(weights / weights.sum(axis=1, keepdims=True), jnp.float32)


def _assert_images(image: jax.Array, reconstruction: jax.Array) -> None:
    chex.assert_rank([image, reconstruction], 4)
    chex.assert_equal_shape([image, reconstruction])
    chex.assert_type([image, reconstruction], float)
