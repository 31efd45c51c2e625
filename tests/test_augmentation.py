"""Random changes of images: what each does by hand values and loops, and how its draws are distributed."""

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.augmentation import (
    Augmentation,
    Perturbation,
    augment,
    blur,
    from_hsv,
    perturb,
    saturate,
    shift,
    to_hsv,
    warp,
)
from mvae_jax.random import example_keys

NONE = Augmentation(0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
COUNT = 256
KEYS = example_keys(jax.random.key(3), COUNT)
SMALL = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (5, 7, 3)), jnp.float32)
augmented = jax.jit(augment, static_argnums=2)

STILL = Perturbation(flip=0.0, translation=0.0, scale=0.0, rotation=0.0, gamma=0.0, contrast=0.0, hue=0.0)
BATCH_KEY = jax.random.key(4)
perturbed = jax.jit(perturb, static_argnums=2)


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


# --- perturbations of photographs -----------------------------------------------------------------------------------


def changes(image, batch_key=BATCH_KEY, **strengths):
    """The image, perturbed in as many ways as there are keys."""
    images = jnp.tile(image, (COUNT, 1, 1, 1))
    return np.asarray(perturbed(KEYS, images, dataclasses.replace(STILL, **strengths), batch_key))


def coordinates(size):
    """Row and column of each pixel, from the centre, in [-1, 1]; its third channel is 0."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return jnp.stack([*jnp.meshgrid(line, line, indexing="ij"), jnp.zeros((size, size))], -1)


def assert_normal(values, mean, deviation):
    """Within four standard errors, for the deviation as well."""
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - mean) < 4 * deviation / np.sqrt(values.size)
    assert abs(values.std() / deviation - 1) < 4 / np.sqrt(2 * values.size)


def test_no_perturbation_is_the_identity():
    np.testing.assert_array_equal(changes(SMALL), np.broadcast_to(SMALL, (COUNT, *SMALL.shape)))
    np.testing.assert_array_equal(warp(SMALL, jnp.zeros(2)), SMALL)


@pytest.mark.parametrize("offset", [(1, 0), (0, -2), (-4, 3), (9, -9)])
def test_warp_by_whole_pixels_is_a_shift(offset):
    np.testing.assert_allclose(warp(SMALL, jnp.array(offset, jnp.float32)), shift(SMALL, jnp.array(offset)), atol=1e-6)


def test_warp_interpolates_between_four_pixels_and_repeats_the_border():
    got, image = np.asarray(warp(SMALL, jnp.array([0.75, -0.5]))), np.asarray(SMALL)
    for i in range(5):
        for j in range(7):
            above, beside = max(i - 1, 0), min(j + 1, 6)
            rows = 0.25 * image[i] + 0.75 * image[above] if i else image[0]
            np.testing.assert_allclose(got[i, j], 0.5 * rows[j] + 0.5 * rows[beside], atol=1e-6)


def test_warp_by_right_angles_turns_counter_clockwise():
    square = SMALL[:, :5]
    for turns in (1, 2, 3):
        turned = warp(square, jnp.zeros(2), angle=turns * np.pi / 2)
        np.testing.assert_allclose(turned, np.rot90(square, turns), atol=1e-5)


def test_warp_is_a_similarity():
    """Coordinates, a linear function, are interpolated exactly: each pixel tells where it came from."""
    size, offset, factor, angle = 21, np.array([1.3, -0.6]), 1.1, 0.2
    line = np.arange(size) - (size - 1) / 2
    target = np.stack(np.meshgrid(line, line, indexing="ij"), -1) - offset
    turn_back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / factor
    source = np.clip(target @ turn_back.T / ((size - 1) / 2), -1, 1)
    got = warp(coordinates(size), jnp.asarray(offset, jnp.float32), factor, angle)
    np.testing.assert_allclose(got[..., :2], source, atol=1e-5)


def test_place_size_and_angle_are_normal():
    """Read off the middle of the coordinates, and off their slopes."""
    size = 33
    places = changes(coordinates(size), translation=0.02)[:, 16, 16, :2]
    for axis in (0, 1):  # in sides of the image, of which the coordinates span 2 over size - 1 pixels
        assert_normal(-places[:, axis] * (size - 1) / (2 * size), 0.0, 0.02)
    assert abs(np.corrcoef(places.T)[0, 1]) < 4 / np.sqrt(COUNT)

    def slopes(images):
        middle = (size - 1) / 2
        return (images[:, 20, 16, :2] - images[:, 12, 16, :2]) * middle / 8  # by the row

    grown = slopes(changes(coordinates(size), scale=0.02))
    assert_normal(1 / grown[:, 0], 1.0, 0.02)
    np.testing.assert_allclose(grown[:, 1], 0, atol=1e-5)
    turned = slopes(changes(coordinates(size), rotation=0.03))
    assert_normal(-np.arcsin(turned[:, 1]), 0.0, 0.03)


def test_gamma_and_contrast_are_powers():
    colour = np.array([0.2, 0.5, 0.8])
    image = flat(2 * colour - 1, 2)

    def assert_powers(exponents, spread):
        assert_normal(np.log(exponents) * np.log(2.0), spread**2, spread)

    powers = np.log((changes(image, gamma=0.1)[:, 0, 0] + 1) / 2) / np.log(colour)
    np.testing.assert_allclose(powers, np.repeat(powers[:, :1], 3, 1), atol=1e-4)
    assert_powers(powers[:, 0], 0.1)

    hsv = np.stack([colorsys.rgb_to_hsv(*(pixel / 2 + 0.5)) for pixel in changes(image, contrast=0.1)[:, 0, 0]])
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    np.testing.assert_allclose(hsv[:, 0], hue, atol=1e-5)
    powers = np.log(hsv[:, 1:]) / np.log([saturation, value])
    np.testing.assert_allclose(powers[:, 0], powers[:, 1], atol=1e-4)
    assert_powers(powers[:, 0], 0.1)


def test_hue_turns_around_the_circle():
    image = flat(2 * np.array([0.9, 0.31, 0.3]) - 1, 2)  # its hue is close to 0
    hsv = np.stack([colorsys.rgb_to_hsv(*(pixel / 2 + 0.5)) for pixel in changes(image, hue=0.05)[:, 0, 0]])
    hue, saturation, value = colorsys.rgb_to_hsv(0.9, 0.31, 0.3)
    turns = (hsv[:, 0] - hue + 0.5) % 1 - 0.5
    assert_normal(turns, 0.0, 0.05)
    np.testing.assert_allclose(hsv[:, 1:], np.broadcast_to([saturation, value], (COUNT, 2)), atol=1e-5)


def test_hsv_is_that_of_the_standard_library_and_back():
    corners = np.stack(np.meshgrid(*[[0.0, 0.4, 1.0]] * 3), -1).reshape(9, 3, 3)
    image = jnp.asarray(np.concatenate([corners, np.random.default_rng(1).uniform(size=(9, 3, 3))]), jnp.float32)
    hue, saturation, value = to_hsv(image)
    got = np.stack([np.asarray(hue) % 1.0, saturation, value], -1)
    expected = [colorsys.rgb_to_hsv(*pixel) for pixel in np.asarray(image, np.float64).reshape(-1, 3)]
    np.testing.assert_allclose(got.reshape(-1, 3), expected, atol=1e-6)
    for turns in (0.0, 1.0, -2.0):
        np.testing.assert_allclose(from_hsv(hue + turns, saturation, value), image, atol=2e-6)


def test_mirror_images_of_examples_or_of_whole_batches():
    mirrored = np.broadcast_to(SMALL[:, ::-1], (COUNT, *SMALL.shape))
    np.testing.assert_array_equal(changes(SMALL, flip=1.0), mirrored)
    flipped = (changes(SMALL, flip=0.25) == mirrored).all((1, 2, 3))
    assert abs(flipped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / COUNT)
    decided = []
    for number in range(16):
        own = (changes(SMALL, jax.random.key(number), flip=0.5, flip_batches=True) == mirrored).all((1, 2, 3))
        assert own.all() or not own.any()
        decided.append(own[0])
    assert 2 < np.sum(decided) < 14


def test_perturbations_stay_in_range_and_belong_to_the_example():
    x = jnp.tile(jnp.sign(SMALL), (8, 1, 1, 1))  # black, white and pure colours
    strong = Perturbation(translation=0.2, scale=0.2, rotation=0.5, gamma=0.5, contrast=0.5, hue=0.3)
    whole = perturbed(KEYS[:8], x, strong, BATCH_KEY)
    assert np.isfinite(whole).all()
    assert np.abs(whole).max() <= 1 + 1e-6
    np.testing.assert_allclose(perturbed(KEYS[4:8], x[4:], strong, BATCH_KEY), whole[4:], atol=1e-5)
    distances = np.abs(whole[:, None] - whole[None]).max((2, 3, 4)) + np.eye(8)
    assert distances.min() > 0.05


def test_defaults_are_those_of_the_released_code():
    """Deviations of 2 pixels of 148, 1 %, .01 radians, .05 and .01 turns; every second image is mirrored."""
    expected = {"translation": 2 / 148, "scale": 0.01, "rotation": 0.01, "gamma": 0.05, "contrast": 0.05, "hue": 0.01}
    assert dataclasses.asdict(Perturbation()) == {"flip": 0.5, "flip_batches": False, **expected}


def test_grey_images_may_be_moved_and_brightened():
    grey = changes(SMALL[..., :1], translation=0.1, gamma=0.1, flip=0.5)
    assert grey.shape == (COUNT, 5, 7, 1)
    assert np.isfinite(grey).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": 1.5}, "augmentation.flip is 1.5; expected a number between 0 and 1, and 0 for none"),
        ({"rotation": -0.1}, "augmentation.rotation is -0.1; expected a number at least 0"),
    ],
)
def test_perturbations_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        Perturbation(**change)
