"""Path lengths in closed form: generators that are linear in their latents, and a squared error as the distance."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mvae_jax import gaussian
from mvae_jax.eval.perceptual_path import (
    SquaredPixelDistance,
    arc_step,
    comparable,
    lengths_of_both_spaces,
    line_step,
    perceptual_path_length,
    trimmed_mean,
)
from mvae_jax.nets.lpips import load_perceptual_distance

KEY = jax.random.key(7)
EVERY = (0, 100)


@dataclasses.dataclass(frozen=True)
class SquaredError:
    name: str = "squared error"
    sha256: tuple[str, ...] = ()

    def __call__(self, a, b):
        return jnp.square(a - b).sum((1, 2, 3))


def linear(matrix):
    """A generator of images of 4 x 4 x 3 from its matrix [D, 48]."""
    return jax.jit(lambda latents, keys: (latents @ matrix).reshape(-1, 4, 4, 3))


def matrix_of(size, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 0.2, (size, 48)), jnp.float32)


def normal(size):
    return jax.jit(jax.vmap(lambda key: jax.random.normal(key, (size,))))


def fixed(start, end):
    """All pairs are the same two latents; those of the starts are asked for before those of the ends."""
    return lambda keys: jnp.repeat(jnp.stack([start, end]).astype(jnp.float32), len(keys) // 2, axis=0)


def latents(seed, size):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, size)), jnp.float32)


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["full", "end"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_line_through_a_linear_generator(sampling, seed):
    """|A (b - a)|^2 of every pair, wherever on the line, but for the rounding of images in float32."""
    matrix, (a, b) = matrix_of(64), latents(seed, 64)
    found = perceptual_path_length(
        linear(matrix), fixed(a, b), SquaredError(), key=KEY, sampling=sampling, pairs=20, percentiles=EVERY
    )
    expected = np.square((np.float64(b) - np.float64(a)) @ np.float64(matrix)).sum()
    assert found.value == pytest.approx(expected, rel=2e-3)
    assert found.standard_error * 20**0.5 < 2e-3 * expected  # the spread over places


@pytest.mark.parametrize("sampling", ["full", "end"])
def test_lines_between_normal_latents_have_a_mean_of_twice_the_squared_norm(sampling):
    """E |A (b - a)|^2 = 2 |A|_F^2 for independent a, b from N(0, I)."""
    matrix = matrix_of(6)
    found = perceptual_path_length(
        linear(matrix),
        normal(6),
        SquaredError(),
        key=KEY,
        sampling=sampling,
        pairs=4000,
        batch_size=1000,
        percentiles=EVERY,
    )
    expected = 2 * float(jnp.square(matrix).sum())
    assert found.value == pytest.approx(expected, abs=4 * found.standard_error)
    assert found.standard_error < 0.02 * expected
    assert found.kept == found.pairs == 4000


@pytest.mark.parametrize("sampling", ["full", "end"])
@pytest.mark.parametrize("angle", [1e-3, 1.0, np.pi / 2, 3.0])
def test_an_arc_has_constant_speed(sampling, angle):
    """D (2 sin(epsilon w / 2) / epsilon)^2, D w^2 almost, for two latents of any norms at the angle w."""
    isometry = jnp.eye(3, 48)
    a, b = (
        5.0 * np.array([0.6, 0.8, 0.0]),
        0.2 * (np.cos(angle) * np.array([0.6, 0.8, 0.0]) + np.sin(angle) * np.array([0.8, -0.6, 0.0])),
    )
    found = perceptual_path_length(
        linear(isometry),
        fixed(jnp.asarray(a), jnp.asarray(b)),
        SquaredError(),
        key=KEY,
        space="slerp",
        sampling=sampling,
        epsilon=0.01,
        pairs=20,
        percentiles=EVERY,
    )
    expected = 3 * (2 * np.sin(0.01 * angle / 2) / 0.01) ** 2
    assert found.value == pytest.approx(expected, rel=1e-3 if angle > 0.1 else 0.05)


@pytest.mark.parametrize(("size", "mean_square_angle"), [(2, np.pi**2 / 3), (3, (np.pi**2 - 4) / 2)])
def test_arcs_between_normal_latents(size, mean_square_angle):
    """Angles are uniform on [0, pi] in the plane and have density sin(w) / 2 in space."""
    found = perceptual_path_length(
        linear(jnp.eye(size, 48)),
        normal(size),
        SquaredError(),
        key=KEY,
        space="slerp",
        epsilon=1e-3,
        pairs=4000,
        batch_size=4000,
        percentiles=EVERY,
    )
    assert found.value == pytest.approx(size * mean_square_angle, abs=4 * found.standard_error)
    assert found.standard_error < 0.02 * found.value


def test_both_spaces_of_a_linear_generator():
    """With w = c z and an isometry: c^2 D w^2 / 4 along arcs at the angle w, c^2 |b - a|^2 / 4 along lines.

    A quarter, for differences of pixels in [-1, 1] count half.
    """
    scale, (a, b) = 0.5, latents(3, 3)
    lengths = lengths_of_both_spaces(
        linear(jnp.eye(3, 48)),
        lambda z: scale * z,
        fixed(a, b),
        SquaredPixelDistance(),
        key=KEY,
        epsilon=1e-2,
        pairs=4,
        percentiles=EVERY,
    )
    cosine = float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))
    arc, line = scale**2 * 3 * np.arccos(cosine) ** 2 / 4, scale**2 * float(jnp.square(b - a).sum()) / 4
    assert abs(arc / line - 1) > 0.2
    expected = {"z_full": arc, "z_end": arc, "w_full": line, "w_end": line}
    assert {name: length.value for name, length in lengths.items()} == pytest.approx(expected, rel=1e-3)
    described = [(length.space, length.sampling) for length in lengths.values()]
    assert described == [("slerp", "full"), ("slerp", "end"), ("lerp", "full"), ("lerp", "end")]
    assert lengths["w_end"].distance == "squared difference of pixel values in [0, 1], summed"


def double_precision_points(space, start, end, place):
    start, end, place = np.float64(start), np.float64(end), np.float64(place)
    if space == "lerp":
        return (1 - place) * start + place * end
    u, to = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (start, end))
    angle = np.arccos((u * to).sum(-1, keepdims=True))
    circle = (np.sin((1 - place) * angle) * u + np.sin(place * angle) * to) / np.sin(angle)
    return np.sqrt(start.shape[-1]) * circle


@pytest.mark.parametrize(("space", "step"), [("lerp", line_step), ("slerp", arc_step)])
def test_steps_against_double_precision(space, step):
    """Squared lengths are right to 1e-4, on average to 1e-6; differences of two points in float32 are not."""
    start, end = jax.random.normal(KEY, (2, 200, 512))
    if space == "slerp":  # which `gaussian.slerp` does not do
        start, end = (512**0.5 * x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (start, end))
    place, epsilon = jax.random.uniform(jax.random.key(1), (200, 1)), 1e-4
    found = [np.float64(point) for point in jax.jit(step)(start, end, place, epsilon)]
    expected = [double_precision_points(space, start, end, np.float64(place) + e) for e in (0.0, epsilon)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    true = expected[1] - expected[0]
    length = np.square(true).sum(-1)
    error = np.square(found[1] - found[0]).sum(-1) / length - 1
    assert np.abs(error).max() < 2e-4
    assert np.abs(error.mean()) < 5e-6
    assert np.square(found[1] - found[0] - true).sum(-1).max() < 1e-6 * length.min()
    naive = getattr(gaussian, space)
    difference = np.float64(naive(start, end, place + epsilon)) - np.float64(naive(start, end, place))
    error = np.square(difference).sum(-1) / length - 1
    assert np.abs(error).max() > 4e-4
    assert error.mean() > 1e-4


def test_equal_latents_make_no_step():
    a = latents(0, 8)[:1]
    for step in (line_step, arc_step):
        point, ahead = step(a, a, 0.3, 1e-4)
        np.testing.assert_allclose(point, ahead, atol=1e-10)
    np.testing.assert_allclose(point, a * np.sqrt(8) / np.linalg.norm(a), rtol=1e-6)


# --- noise, keys and batches ------------------------------------------------------------------------------------


def test_noise_is_constant_along_a_path():
    matrix, draw = matrix_of(16), linear(matrix_of(16))

    def noisy(latents, keys):
        return draw(latents, keys) + 0.1 * jax.vmap(lambda key: jax.random.normal(key, (4, 4, 3)))(keys)

    def scaled(latents, keys):
        return draw(latents, keys) * jax.vmap(jax.random.normal)(keys)[:, None, None, None]

    a, b = latents(0, 16)
    measure = functools.partial(
        perceptual_path_length,
        sample_latents=fixed(a, b),
        distance=SquaredError(),
        key=KEY,
        epsilon=1e-3,
        pairs=400,
        batch_size=400,
        percentiles=EVERY,
    )
    expected = float(jnp.square((b - a) @ matrix).sum())
    assert measure(noisy).value == pytest.approx(expected, rel=1e-3)
    varied = measure(scaled)  # each pair its own: E noise^2 = 1 with variance 2
    assert varied.value == pytest.approx(expected, abs=4 * varied.standard_error)
    assert varied.standard_error == pytest.approx(expected * (2 / 400) ** 0.5, rel=0.3)


@pytest.mark.parametrize("space", ["lerp", "slerp"])
def test_a_pair_is_the_same_in_any_batch(space):
    """Also when batches do not divide the pairs. Latents of several layers have a place for each pair."""

    def layered(keys):
        return jax.vmap(lambda key: jax.random.normal(key, (2, 5)))(keys)

    matrix = matrix_of(10)

    def draw(latents, keys):
        return (jnp.tanh(latents.reshape(-1, 10)) @ matrix).reshape(-1, 4, 4, 3)

    measure = functools.partial(
        perceptual_path_length, draw, layered, SquaredError(), space=space, epsilon=0.01, pairs=7
    )
    found = [measure(key=KEY, batch_size=size).value for size in (7, 3, 100)]
    np.testing.assert_allclose(found[1:], found[0], rtol=1e-4)
    assert abs(measure(key=jax.random.key(8)).value / found[0] - 1) > 0.01


def test_products_have_full_precision():
    """Where the platform would round to TF32 or bfloat16."""
    seen = []

    @jax.jit
    def draw(latents, keys):
        seen.append(jax.config.jax_default_matmul_precision)
        return (latents @ jnp.eye(8, 48)).reshape(-1, 4, 4, 3)

    draw(jnp.zeros((4, 8)), None)  # compiled before, with the default
    perceptual_path_length(draw, normal(8), SquaredError(), key=KEY, pairs=2)
    assert seen[0] is None
    assert set(seen[1:]) == {"highest"}


# --- what is compared -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "crop", "rows", "columns"),
    [
        (64, "face", (24, 56), (16, 48)),
        (128, "face", (48, 112), (32, 96)),
        (128, "celeba", (41, 119), (25, 103)),
        (16, None, (0, 16), (0, 16)),
    ],
)
def test_crops(side, crop, rows, columns):
    """Rows 3c to 7c and columns 2c to 6c with c = side / 8; "celeba" as the released code's integers come out."""
    places = jnp.stack(jnp.meshgrid(jnp.arange(side), jnp.arange(side), indexing="ij"), -1)[None].astype(jnp.float32)
    found = np.asarray(comparable(places, crop))[0]
    np.testing.assert_array_equal(found[:, 0, 0], np.arange(*rows))
    np.testing.assert_array_equal(found[0, :, 1], np.arange(*columns))


def test_large_images_are_compared_by_means_of_pixels():
    images = np.random.default_rng(0).uniform(-1, 1, (1, 1024, 1024, 1)).astype(np.float32)
    part = images[:, 384:896, 256:768]
    expected = (part[:, ::2, ::2] + part[:, ::2, 1::2] + part[:, 1::2, ::2] + part[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(comparable(images, "face"), expected, atol=1e-6)
    assert comparable(images[:, :511, :800], None).shape == (1, 511, 800, 1)
    blocks = images[0, :513, :800, 0][:512].reshape(256, 2, 400, 2)
    np.testing.assert_allclose(comparable(images[:, :513, :800], None)[0, ..., 0], blocks.mean((1, 3)), atol=1e-6)


def test_the_crop_is_what_is_measured():
    """Of a generator that changes one pixel outside of the crop and one inside."""

    def draw(latents, keys):
        images = jnp.zeros((len(latents), 32, 32, 1))
        return images.at[:, 0, 0, 0].set(100 * latents[:, 0]).at[:, 20, 16, 0].set(latents[:, 0])

    measure = functools.partial(
        perceptual_path_length, draw, fixed(jnp.zeros(1), jnp.full(1, 3.0)), SquaredError(), key=KEY, pairs=4
    )
    assert measure().value == pytest.approx(9 * 10001, rel=2e-3)
    found = measure(crop="face")
    assert found.value == pytest.approx(9, rel=2e-3)
    assert found.pixels == (16, 16)


# --- trimming ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentiles", [(1, 99), (0, 100), (10, 80.5)])
@pytest.mark.parametrize("count", [2, 50, 101, 1000])
def test_trimmed_mean_equals_a_loop(count, percentiles):
    values = np.random.default_rng(count).lognormal(size=count)
    ordered = sorted(values)
    low = ordered[int(np.floor(percentiles[0] / 100 * (count - 1)))]
    high = ordered[int(np.ceil(percentiles[1] / 100 * (count - 1)))]
    kept = [value for value in values if low <= value <= high]
    clipped = [min(max(value, low), high) for value in values]
    centre = sum(clipped) / count
    deviation = (sum((value - centre) ** 2 for value in clipped) / (count - 1)) ** 0.5
    mean, error, number = trimmed_mean(values, percentiles)
    assert number == len(kept)
    assert mean == pytest.approx(sum(kept) / len(kept), rel=1e-12)
    assert error == pytest.approx(deviation * count**0.5 / len(kept), rel=1e-12)


@pytest.mark.parametrize("percentiles", [(1, 99), (0, 100), (5, 80)])
def test_the_standard_error_is_the_spread_over_keys(percentiles):
    sets = np.random.default_rng(0).lognormal(0, 1, (2000, 400))
    means, errors, _ = zip(*(trimmed_mean(values, percentiles) for values in sets), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.08)


def test_outliers_are_left_out_of_a_path_length():
    """Every fiftieth latent or so is far away."""

    def heavy(keys):
        def one(key):
            far = jax.random.uniform(jax.random.fold_in(key, 1)) < 0.002
            return jax.random.normal(key, (4,)) * jnp.where(far, 1e3, 1.0)

        return jax.vmap(one)(keys)

    measure = functools.partial(
        perceptual_path_length, linear(jnp.eye(4, 48)), heavy, SquaredError(), key=KEY, pairs=3000, batch_size=3000
    )
    found = measure()
    assert found.value == pytest.approx(8, rel=0.05)
    assert found.kept == 3000 - 2 * 29  # of ranks 0 to 2999, those from 29 to 2970 remain
    assert measure(percentiles=EVERY).value > 100


# --- results and refusals ---------------------------------------------------------------------------------------


def test_with_a_perceptual_distance(tmp_path):
    """A constant generator has length 0; another one, about what a tenfold step gives, outside of this function."""
    random, arrays, channels = np.random.default_rng(0), {}, 3
    for place, width in ((0, 4), (2, 4), (5, 6), (7, 6), (10, 8)):
        arrays[f"features.{place}.weight"] = random.normal(0, 0.3, (width, channels, 3, 3)).astype(np.float32)
        arrays[f"features.{place}.bias"] = random.uniform(0.5, 1, width).astype(np.float32)
        channels = width
    save_file(arrays, tmp_path / "vgg")
    distance, (a, b) = load_perceptual_distance(tmp_path / "vgg"), latents(0, 16)
    matrix = jnp.asarray(random.normal(0, 0.2, (16, 16 * 16 * 3)), jnp.float32)

    def draw(latents, keys, change):
        return jnp.tanh(change * (latents @ matrix) + 0.1).reshape(-1, 16, 16, 3)

    measure = functools.partial(
        perceptual_path_length,
        sample_latents=fixed(a, b),
        distance=distance,
        key=KEY,
        sampling="end",
        crop="face",
        pairs=2,
        percentiles=EVERY,
    )
    assert measure(functools.partial(draw, change=0.0)).value == 0.0
    found = measure(functools.partial(draw, change=1.0), epsilon=1e-3)
    points = a[None], (a + 1e-2 * (b - a))[None]
    coarse = float(distance(*(draw(point, None, 1.0)[:, 6:14, 4:12] for point in points))[0]) / 1e-4
    assert found.value == pytest.approx(coarse, rel=0.1)
    assert found.value > 0.01
    assert json.loads(json.dumps(found.to_dict())) == {
        "value": found.value,
        "standard_error": found.standard_error,
        "pairs": 2,
        "kept": 2,
        "percentiles": [0, 100],
        "space": "lerp",
        "sampling": "end",
        "epsilon": 1e-3,
        "crop": "face",
        "pixels": [8, 8],
        "distance": "VGG relu1_2, relu2_2, relu3_1, uniform weights",
        "sha256": list(distance.sha256),
    }


def test_half_precision_is_refused():
    """Even deep within a generator that returns float32."""

    @jax.jit
    def draw(latents, keys):
        h = jax.lax.scan(lambda c, _: ((c.astype(jnp.bfloat16) * 1.0).astype(jnp.float32), None), latents, length=2)[0]
        return (h @ jnp.eye(8, 48)).reshape(-1, 4, 4, 3)

    with pytest.raises(ValueError, match=r"compute in bf16, .* compute_dtype='float32'"):
        perceptual_path_length(draw, normal(8), SquaredError(), key=KEY, pairs=2)
    with pytest.raises(ValueError, match="compute in f16"):
        perceptual_path_length(
            linear(matrix_of(8)), lambda keys: normal(8)(keys).astype(jnp.float16), SquaredError(), key=KEY, pairs=2
        )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"space": "w"}, "space is 'w', expected one of 'lerp', 'slerp'"),
        ({"sampling": "middle"}, "sampling is 'middle', expected one of 'full', 'end'"),
        ({"crop": "ffhq"}, "crop is 'ffhq', expected one of None, 'face', 'celeba'"),
        ({"pairs": 1}, "pairs is 1, .* expected at least 2"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"epsilon": 0.0}, "epsilon 0,"),
        ({"crop": "face"}, r"shape \(4, 4, 3\), expected a square with a side that is a multiple of 8"),
        ({"percentiles": (99, 1)}, r"percentiles are \(99, 1\), expected a lower and a higher one"),
        (
            {"draw": lambda latents, keys: jnp.full((len(latents), 4, 4, 3), jnp.nan)},
            "4 of 4 values of distances are not finite",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, match):
    options = {"draw": linear(matrix_of(8)), "pairs": 4} | changes
    with pytest.raises(ValueError, match=match):
        perceptual_path_length(sample_latents=normal(8), distance=SquaredError(), key=KEY, **options)
