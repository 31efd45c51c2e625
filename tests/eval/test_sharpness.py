"""Sharpness of waves, noise and what blur leaves of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.eval.sharpness import sharpness, sharpness_ratio


def wave(length, axis, amplitude=0.5, size=(26, 38)):
    """sin along one axis, of a length that does not divide the size, so that all phases occur."""
    place = np.mgrid[: size[0], : size[1]][axis]
    return jnp.asarray(amplitude * np.sin(2 * np.pi * place / length + 0.3)[None, :, :, None], jnp.float32)


def blurred(images):
    """Weights 1/4, 1/2, 1/4 along both axes; a wave keeps (1 + cos(2 pi / length)) / 2 of its amplitude."""
    for axis in (1, 2):
        images = (jnp.roll(images, 1, axis) + 2 * images + jnp.roll(images, -1, axis)) / 4
    return images[:, 1:-1, 1:-1]


def test_one_bright_pixel_by_hand():
    image = np.zeros((1, 5, 6, 2), np.float32)
    image[0, 2, 3, 1] = 1.0
    # |-4| at the pixel and 1 at its four neighbours, of 3 x 4 inner pixels and 2 channels.
    np.testing.assert_allclose(sharpness(jnp.asarray(image)), [8 / 24], rtol=1e-6)


def test_border_pixels_count_as_neighbours_only():
    image = np.zeros((1, 3, 3, 1), np.float32)
    image[0, 0, 1] = 0.5
    assert sharpness(jnp.asarray(image)) == 0.5
    image[0, 0, 0] = 1.0  # corners are no neighbours
    assert sharpness(jnp.asarray(image)) == 0.5


def test_equals_a_loop_and_each_image_by_itself():
    images = np.random.default_rng(0).uniform(-1, 1, (3, 5, 7, 2)).astype(np.float32)
    expected = [
        np.mean(
            [
                abs(x[i - 1, j, c] + x[i + 1, j, c] + x[i, j - 1, c] + x[i, j + 1, c] - 4 * x[i, j, c])
                for i in range(1, 4)
                for j in range(1, 6)
                for c in range(2)
            ]
        )
        for x in images.astype(float)
    ]
    np.testing.assert_allclose(sharpness(jnp.asarray(images)), expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("length", [2.7, 5.3, 11.1])
def test_waves_and_what_blur_leaves_of_them(axis, length):
    image = wave(length, axis)
    response = 2 - 2 * np.cos(2 * np.pi / length)
    inner = np.abs(image[:, 1:-1, 1:-1]).mean()
    np.testing.assert_allclose(sharpness(image), [response * inner], rtol=1e-4)
    kept = (1 + np.cos(2 * np.pi / length)) / 2
    assert sharpness_ratio(blurred(image), image[:, 1:-1, 1:-1]) == pytest.approx(kept, rel=1e-3)


def test_contrast_counts_and_brightness_does_not():
    image = wave(5.3, 0)
    assert sharpness_ratio(0.3 * image, image) == pytest.approx(0.3, rel=1e-5)
    assert sharpness_ratio(image + 0.4, image) == pytest.approx(1.0, rel=1e-5)
    gradient = jnp.linspace(-1, 1, 38)[None, None, :, None] * jnp.ones((1, 26, 1, 1))
    assert sharpness_ratio(image + gradient, image) == pytest.approx(1.0, rel=1e-5)


def test_white_noise_has_the_known_sharpness_and_raises_it():
    """The Laplacian of N(0, s^2) has variance (4 + 16) s^2, and |N(0, t^2)| has mean t sqrt(2 / pi)."""
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(40, 26, 38, 1)), jnp.float32)
    expected = np.sqrt(20 * 2 / np.pi)
    assert float(sharpness(0.1 * noise).mean()) == pytest.approx(0.1 * expected, rel=0.01)
    image = wave(11.1, 1)
    assert sharpness_ratio(image + 0.1 * noise, image) > 1.2


def test_ratio_is_that_of_the_means():
    images = jnp.concatenate([wave(5.3, 0), 2 * wave(5.3, 0), 0 * wave(5.3, 0)])
    assert sharpness_ratio(images, images[:1]) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("images", "real", "message"),
    [
        (jnp.zeros((1, 2, 9, 1)), jnp.zeros((1, 2, 9, 1)), "images are 2 x 9 pixels, expected at least 3 x 3"),
        (jnp.zeros((1, 9, 9, 1)), jnp.zeros((1, 9, 8, 1)), r"shape \(1, 9, 9, 1\) and real ones \(1, 9, 8, 1\)"),
        (wave(5.3, 0), 0 * wave(5.3, 0), "real images have no detail"),
    ],
)
def test_what_cannot_be_compared_is_refused(images, real, message):
    with pytest.raises(ValueError, match=message):
        sharpness_ratio(images, real)


def test_bytes_are_refused():
    with pytest.raises(AssertionError):
        sharpness(jnp.zeros((1, 8, 8, 1), jnp.uint8))
