"""Disturbed images: what happens to pixels of which it is known where they go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.eval.disturbances import DISTURBANCES

KEY = jax.random.key(0)
WAYS = dict(zip(("none", "moved", "enlarged", "grey", "dark", "jpeg", "noise", "no face"), DISTURBANCES, strict=True))


def images():
    rng = np.random.default_rng(0)
    smooth = jax.image.resize(jnp.asarray(rng.uniform(-1, 1, (2, 4, 4, 3)), jnp.float32), (2, 16, 16, 3), "cubic")
    return jnp.clip(smooth, -1, 1)


def disturbed(way):
    return np.asarray(DISTURBANCES[WAYS[way]](images(), KEY))


def test_columns_move_by_an_eighth_of_the_width():
    x, y = np.asarray(images()), disturbed("moved")
    np.testing.assert_array_equal(y[:, :, 2:], x[:, :, :-2])
    np.testing.assert_array_equal(y[:, :, :2], x[:, :, :1].repeat(2, 2))
    np.testing.assert_array_equal(disturbed("none"), x)


def test_a_slope_is_less_steep_by_three_quarters_when_enlarged():
    slope = jnp.broadcast_to(jnp.linspace(-0.9, 0.9, 16)[:, None, None], (1, 16, 16, 3))
    y = DISTURBANCES[WAYS["enlarged"]](slope, KEY)
    np.testing.assert_allclose(y, 0.75 * slope, atol=1e-6)


def test_grey_has_equal_channels_of_the_same_mean():
    x, y = np.asarray(images()), disturbed("grey")
    np.testing.assert_allclose(y, x.mean(-1, keepdims=True).repeat(3, -1), atol=1e-6)


def test_brightness_is_halved_in_the_unit_interval():
    np.testing.assert_allclose(disturbed("dark") + 1, (np.asarray(images()) + 1) / 2, atol=1e-6)


def test_jpeg_is_near_and_not_equal():
    difference = np.abs(disturbed("jpeg") - np.asarray(images())).mean()
    assert 0.01 < difference < 0.3


def test_noise_has_its_deviation_and_stays_in_range():
    grey = jnp.zeros((4, 32, 32, 3))
    y = np.asarray(DISTURBANCES[WAYS["noise"]](grey, KEY))
    assert y.std() == pytest.approx(0.2, rel=0.03)  # 12,288 draws: five standard deviations
    assert y.mean() == pytest.approx(0, abs=0.01)


def test_no_face_is_uniform_noise_whatever_the_image():
    y = np.asarray(DISTURBANCES[WAYS["no face"]](jnp.zeros((4, 32, 32, 3)), KEY))
    assert y.std() == pytest.approx(1 / np.sqrt(3), rel=0.03)
    np.testing.assert_array_equal(y, DISTURBANCES[WAYS["no face"]](jnp.ones((4, 32, 32, 3)), KEY))


@pytest.mark.parametrize("way", WAYS)
def test_images_remain_images(way):
    y = disturbed(way)
    assert (y.shape, y.dtype) == ((2, 16, 16, 3), np.float32)
    assert -1 <= y.min() <= y.max() <= 1
    np.testing.assert_array_equal(y, disturbed(way))
