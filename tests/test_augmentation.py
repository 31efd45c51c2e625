"""Random changes of images: what each does by hand values and loops, and how its draws are distributed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.augmentation import Augmentation, augment, blur, saturate, shift
from mvae_jax.gaussian import example_keys

NONE = Augmentation(0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
COUNT = 256
KEYS = example_keys(jax.random.key(3), COUNT)
SMALL = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (5, 7, 3)), jnp.float32)
augmented = jax.jit(augment, static_argnums=2)


def draws(image, **strengths):
    """The image, changed in as many ways as there are keys."""
    return np.asarray(augmented(KEYS, jnp.tile(image, (COUNT, 1, 1, 1)), dataclasses.replace(NONE, **strengths)))


def flat(value, size=4):
    return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (size, size, 3))


def test_no_strength_is_the_identity():
    np.testing.assert_array_equal(draws(SMALL), np.broadcast_to(SMALL, (COUNT, *SMALL.shape)))


def test_flip_mirrors_its_share_of_the_images():
    np.testing.assert_array_equal(draws(SMALL, flip=1.0), np.broadcast_to(SMALL[:, ::-1], (COUNT, *SMALL.shape)))
    flipped = (draws(SMALL, flip=0.25) == np.asarray(SMALL)[None, :, ::-1]).all((1, 2, 3))
    assert abs(flipped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / COUNT)


@pytest.mark.parametrize("offset", [(0, 0), (1, 0), (0, -2), (-4, 3), (9, -9)])
def test_shift_moves_pixels_and_repeats_the_border(offset):
    got = shift(SMALL, jnp.array(offset))
    for i in range(5):
        for j in range(7):
            source = min(max(i - offset[0], 0), 4), min(max(j - offset[1], 0), 6)
            np.testing.assert_array_equal(got[i, j], SMALL[source])


def test_all_shifts_up_to_the_largest_are_equally_likely():
    coordinates = jnp.stack([*jnp.meshgrid(jnp.arange(9.0), jnp.arange(9.0), indexing="ij"), jnp.zeros((9, 9))], -1)
    moved = draws(coordinates, shift=1)
    offsets = 4 - moved[:, 4, 4, :2]  # what has come to the middle
    for image, offset in zip(moved, offsets, strict=True):
        np.testing.assert_array_equal(image, shift(coordinates, jnp.asarray(offset, jnp.int32)))
    _, counts = np.unique(offsets, axis=0, return_counts=True)
    assert len(counts) == 9
    assert np.square(counts - COUNT / 9).sum() / (COUNT / 9) < 26.1  # chi squared, 8 degrees, p = 0.001


def test_contrast_and_colour_are_log_normal_factors_and_normal_offsets():
    def spread(values):
        return values.std() / np.sqrt(values.size), values.std()

    gains = np.log(draws(flat(0.5), contrast=0.3)[:, 0, 0] / 0.5)
    np.testing.assert_allclose(gains, np.repeat(gains[:, :1], 3, 1), atol=1e-6)  # of all channels alike
    gains_of_channels = np.log(draws(flat(0.5), colour_contrast=0.2)[:, 0, 0] / 0.5)
    offsets = draws(flat(0.5), colour_offset=0.1)[:, 0, 0] - 0.5
    for values, deviation in ((gains[:, 0], 0.3), (gains_of_channels, 0.2), (offsets, 0.1)):
        error, measured = spread(values)
        assert abs(values.mean()) < 4 * error
        assert abs(measured / deviation - 1) < 4 / np.sqrt(2 * values.size)
    for values in (gains_of_channels, offsets):
        assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 4 / np.sqrt(COUNT)


def test_saturation():
    image = flat((0.0, 0.3, 0.9))
    np.testing.assert_allclose(saturate(image, 0.5)[0, 0], (0.2, 0.35, 0.65), atol=1e-7)
    np.testing.assert_allclose(saturate(image, 0.0)[0, 0], (0.4, 0.4, 0.4), atol=1e-7)
    factors = (draws(image, saturation=0.6)[:, 0, 0] - 0.4) / np.array([-0.4, -0.1, 0.5])
    np.testing.assert_allclose(factors, np.repeat(factors[:, :1], 3, 1), atol=1e-5)
    assert 0.4 <= factors.min() < 0.43
    assert 1.57 < factors.max() <= 1.6 + 1e-6


def test_blur_is_a_share_of_the_mean_of_the_neighbours():
    bordered = np.pad(SMALL, ((1, 1), (1, 1), (0, 0)), "edge")
    means = np.stack([[bordered[i : i + 3, j : j + 3].mean((0, 1)) for j in range(7)] for i in range(5)])
    np.testing.assert_allclose(blur(SMALL, 1.0), means, atol=1e-6)
    np.testing.assert_allclose(blur(SMALL, 0.25), 0.75 * SMALL + 0.25 * means, atol=1e-6)
    difference = means - np.asarray(SMALL)
    changed = draws(SMALL, blur=0.8) - np.asarray(SMALL)
    shares = (changed * difference).sum((1, 2, 3)) / np.square(difference).sum()
    assert abs((shares == 0).mean() - 0.5) < 4 * np.sqrt(0.25 / COUNT)
    assert 0.75 < shares.max() <= 0.8


def test_noise_has_a_level_per_image():
    levels = draws(flat(0.0, 16), noise=0.1).std((1, 2, 3))
    assert levels.min() < 0.005
    assert 0.095 < levels.max() < 0.11
    assert abs(levels.mean() - 0.05) < 4 * 0.1 / np.sqrt(12 * COUNT)


def test_draws_belong_to_the_example_and_not_to_the_batch():
    x = jnp.tile(SMALL, (8, 1, 1, 1))
    whole = augmented(KEYS[:8], x, Augmentation())
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(augmented(KEYS[4:8], x[4:], Augmentation()), whole[4:], atol=1e-6)
    distances = np.abs(whole[:, None] - whole[None]).max((2, 3, 4)) + np.eye(8)
    assert distances.min() > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": 1.5}, "augmentation.flip is 1.5; expected a number between 0 and 1, and 0 for none"),
        ({"blur": -0.1}, "augmentation.blur is -0.1; expected a number between 0 and 1"),
        ({"shift": -1}, "augmentation.shift is -1; expected a number at least 0"),
        ({"noise": float("nan")}, "augmentation.noise is nan; expected a number at least 0"),
    ],
)
def test_strengths_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**change)
