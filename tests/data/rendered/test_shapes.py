"""Shapes: rendered as their factors say, and read from a file of the published layout."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import zipfile

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from mvae_jax.data.batches import Batches, Split, Splits, permutation
from mvae_jax.data.rendered import shapes
from mvae_jax.data.rendered.shapes import FACTORS, Settings, factors_of, load, render

SQUARE, ELLIPSE, HEART = range(3)
AREA = 294.2  # of every shape at scale 1
SCALES = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
ANGLES = 2 * np.pi * np.arange(40) / 39
COUNT = 3 * 6 * 40 * 32 * 32


@pytest.fixture(scope="module")
def sprites():
    """The centred shapes as float {0, 1}, [3, 6, 40, 32, 32]: the position is in the middle."""
    factors = np.array([(*kind, 15, 15) for kind in itertools.product(range(3), range(6), range(40))])
    return (render(factors)[:, 15:47, 15:47, 0] / 255.0).reshape(3, 6, 40, 32, 32)


def grid():
    """Distance of the pixels from a sprite's centre, x to the right + i y down."""
    line = np.arange(-16, 16) + 0.5
    return line + 1j * line[:, None]


# --- factors -------------------------------------------------------------------------------------------------------


def test_factors_are_those_of_the_published_file():
    assert FACTORS == {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
    assert np.prod(list(FACTORS.values())) == COUNT == 737_280


def test_index_counts_all_combinations_the_last_factor_fastest():
    everything = factors_of(np.arange(COUNT))
    assert everything.dtype == np.int32
    ranges = (range(size) for size in (3, 6, 40, 32, 32))
    assert everything[:3000].tolist() == [list(row) for row in itertools.islice(itertools.product(*ranges), 3000)]
    assert everything[-1].tolist() == [2, 5, 39, 31, 31]
    np.testing.assert_array_equal(everything @ [6 * 40 * 1024, 40 * 1024, 1024, 32, 1], np.arange(COUNT))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: factors_of(np.array([5, COUNT])), "index is 737280, expected 0 to 737279"),
        (lambda: factors_of(np.array([-1])), "index is -1, expected 0"),
        (lambda: render(np.array([[0, 0, 0, 0, 0], [0, 6, 0, 0, 0]])), "'scale' of row 1 is 6, expected 0 to 5"),
        (lambda: render(np.array([[0, 0, 0, 0, -1]])), "'y' of row 0 is -1, expected 0 to 31"),
        (lambda: render(np.array([[0, 0, 0, 0]])), r"shape \(1, 4\), expected integers \[N, 5\]: shape, scale, orient"),
        (lambda: render(np.zeros(5, int)), r"shape \(5,\), expected integers"),
        (lambda: render(np.zeros((1, 5))), "factors are float64"),
        (lambda: render(np.zeros((1, 5), int), 48), r"image_size is 48, expected one of \(16, 32, 64\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- images --------------------------------------------------------------------------------------------------------


def outline(shape: int) -> np.ndarray:
    """A shape of area 1 as a polygon of complex numbers, x to the right + i y down, its centroid found numerically."""
    t = np.linspace(0.0, 1.0, 1000, endpoint=False)
    if shape == SQUARE:
        points = np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j])
    elif shape == ELLIPSE:
        points = 2 * np.cos(2 * np.pi * t) + 1j * np.sin(2 * np.pi * t)
    else:  # tip at 0, then half a circle on each of the two upper sides of the square above it
        left, top, right = np.exp(-0.75j * np.pi), -np.sqrt(2) * 1j, np.exp(-0.25j * np.pi)
        arcs = [(a + b) / 2 + (a - b) / 2 * np.exp(1j * np.pi * t) for a, b in ((left, top), (top, right))]
        points = np.concatenate([[0], *arcs, [right]])
    after = np.roll(points, -1)
    cross = points.real * after.imag - after.real * points.imag
    area = cross.sum() / 2
    centroid = ((points + after) * cross).sum() / (6 * area)
    return (points - centroid) / np.sqrt(abs(area))


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_pixels_are_white_where_their_centre_is_inside(shape):
    rng = np.random.default_rng(shape)
    factors = np.column_stack([np.full(24, shape), *(rng.integers(size, size=24) for size in (6, 40, 32, 32))])
    u, v = (axis.ravel() for axis in np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5))
    for row, image in zip(factors, render(factors), strict=True):
        _, scale, orientation, x, y = row
        size, turn = np.sqrt(AREA) * SCALES[scale], np.exp(1j * ANGLES[orientation])
        placed = size * turn * outline(shape) + (16 + x) + 1j * (16 + y)
        inside = Outline(np.column_stack([placed.real, placed.imag])).contains_points(np.column_stack([u, v]))
        np.testing.assert_array_equal(image.ravel(), 255 * inside)


def test_images_are_binary_and_those_of_any_batch():
    factors = factors_of(np.random.default_rng(0).integers(COUNT, size=2500))
    images = render(factors)
    assert (images.shape, images.dtype) == ((2500, 64, 64, 1), np.uint8)
    assert np.unique(images).tolist() == [0, 255]
    np.testing.assert_array_equal(render(factors), images)
    np.testing.assert_array_equal(np.concatenate([render(factors[:7]), render(factors[7:])]), images)
    np.testing.assert_array_equal(render(factors[::-1].astype(np.int8)), images[::-1])
    assert render(np.zeros((0, 5), int), 32).shape == (0, 32, 32, 1)


def test_sprites_are_fixed(sprites):
    """A change of this number would change every data set."""
    digest = hashlib.sha256(sprites.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "29889f123550b431f32b5e84670ad6904339bb0f724d55a93bc2d918dcce2465"


@pytest.mark.parametrize("function", [shapes._square, shapes._ellipse, shapes._heart])
def test_rounding_cannot_change_a_pixel(function):
    """No centre of a pixel is so near an outline that another sine or cosine could move it to the other side."""
    turned = grid() * np.exp(-1j * ANGLES)[:, None, None] / (np.sqrt(AREA) * SCALES[:, None, None, None])
    assert np.abs(function(turned.real, turned.imag)).min() > 1e-6


def test_no_shape_is_cut(sprites):
    for x, y in itertools.product((0, 31), (0, 31)):
        kinds = np.array([(*kind, x, y) for kind in itertools.product(range(3), range(6), range(40))])
        images = render(kinds)[..., 0] / 255.0
        np.testing.assert_array_equal(images.sum((1, 2)), sprites.sum((-2, -1)).ravel())
        ring = np.ones((64, 64), bool)
        ring[2:-2, 2:-2] = False
        assert not images[:, ring].any()


def test_area_grows_with_the_square_of_the_scale(sprites):
    area = sprites[:, :, :39].sum((-2, -1))
    exact = AREA * SCALES**2
    np.testing.assert_allclose(area.mean(2), exact * np.ones((3, 1)), rtol=0.02)
    # Upright squares err most: the side is off by less than one pixel.
    error = np.abs(area - exact[:, None])
    assert (error < 2 * np.sqrt(exact)[:, None] + 1).all()
    assert error[[ELLIPSE, HEART]].max() < 9
    # The published images have 0.042494 on average.
    assert sprites.sum((-2, -1)).mean() / 64**2 == pytest.approx(0.042494, abs=2e-5)


def test_centroid_is_linear_in_the_position(sprites):
    area = sprites.sum((-2, -1))
    centroid = (sprites * grid()).sum((-2, -1)) / area
    assert np.abs(centroid[[SQUARE, ELLIPSE]]).max() < 1e-12
    assert np.abs(centroid[HEART]).max() < 0.3
    rng = np.random.default_rng(1)
    factors = factors_of(rng.integers(COUNT, size=500))
    images = render(factors)[..., 0] / 255.0
    pixels = np.arange(64) + 0.5
    shape, scale, orientation, x, y = factors.T
    total, offset = images.sum((1, 2)), centroid[shape, scale, orientation]
    np.testing.assert_allclose((images.sum(1) @ pixels) / total, 16 + x + offset.real, rtol=1e-12)
    np.testing.assert_allclose((images.sum(2) @ pixels) / total, 16 + y + offset.imag, rtol=1e-12)


def test_a_step_in_x_or_y_is_one_pixel():
    factors = factors_of(np.random.default_rng(2).integers(COUNT, size=200)) % [3, 6, 40, 31, 31]
    images = render(factors)
    np.testing.assert_array_equal(render(factors + np.array([0, 0, 0, 1, 0])), np.roll(images, 1, axis=2))
    np.testing.assert_array_equal(render(factors + np.array([0, 0, 0, 0, 1])), np.roll(images, 1, axis=1))


def test_second_moments_are_those_of_square_and_ellipse(sprites):
    """Per area: side^2 / 12 along both axes of a square; a^2 / 4 and b^2 / 4 of an ellipse, pi a b = AREA, a = 2b."""
    z = grid() * np.exp(-1j * ANGLES)[:, None, None]
    area = sprites[:2, -1].sum((-2, -1))
    along = (sprites[:2, -1] * z.real**2).sum((-2, -1)) / area
    across = (sprites[:2, -1] * z.imag**2).sum((-2, -1)) / area
    np.testing.assert_allclose(along.mean(1), [AREA / 12, 2 * AREA / np.pi / 4], rtol=0.005)
    np.testing.assert_allclose(across.mean(1), [AREA / 12, AREA / 2 / np.pi / 4], rtol=0.005)


@pytest.mark.parametrize(("shape", "m"), [(SQUARE, 4), (ELLIPSE, 2), (HEART, 3)])
def test_orientation_turns_clockwise_by_a_39th_of_a_turn(sprites, shape, m):
    """sum z^m |z|^2 over a shape with m corners, or nearly so, turns m times as fast as the shape."""
    moment = (sprites[shape, -1] * grid() ** m * np.abs(grid()) ** 2).sum((-2, -1))
    turned = np.angle(moment / moment[0] * np.exp(-1j * m * ANGLES)) / m
    assert np.degrees(np.abs(turned)).max() < 4  # of a step of 9.2


def test_symmetries(sprites):
    quarter, half = np.rot90(sprites, axes=(-2, -1)), sprites[..., ::-1, ::-1]
    np.testing.assert_array_equal(sprites[SQUARE], quarter[SQUARE])
    np.testing.assert_array_equal(sprites[ELLIPSE], half[ELLIPSE])
    assert (sprites != quarter)[ELLIPSE].sum((-2, -1)).min() > 20
    assert (sprites != half)[HEART].sum((-2, -1)).min() > 10
    np.testing.assert_array_equal(sprites[:, :, ::-1], sprites[..., ::-1])  # k and 39 - k are mirror images
    upright = sprites[HEART, -1, 0].sum(1)
    assert upright[upright > 0][-1] == 2, "the tip is at the bottom"
    assert np.ptp(np.flatnonzero(upright)) < np.ptp(np.flatnonzero(sprites[HEART, -1, 0].sum(0))), "wider than high"


def test_orientations_that_show_the_same(sprites):
    """0 and 39 are a whole turn apart; apart from that only squares of one scale coincide."""
    different = [[len(np.unique(each.reshape(40, -1), axis=0)) for each in scales] for scales in sprites]
    assert different == [[25, 28, 26, 36, 39, 37], [39] * 6, [39] * 6]
    np.testing.assert_array_equal(sprites[:, :, 39], sprites[:, :, 0])
    assert len(np.unique(sprites.reshape(720, -1), axis=0)) == np.sum(different) == 659


@pytest.mark.parametrize("size", [16, 32])
def test_smaller_images_are_means_of_blocks(size):
    factors = factors_of(np.random.default_rng(3).integers(COUNT, size=300))
    block = 64 // size
    means = render(factors).astype(float).reshape(-1, size, block, size, block).mean((2, 4))
    small = render(factors, size)
    assert (small.shape, small.dtype) == ((300, size, size, 1), np.uint8)
    np.testing.assert_array_equal(small[..., 0], np.floor(means + 0.5))
    positions = np.array([(SQUARE, 0, 0, x, y) for x in range(32) for y in range(32)])
    assert len(np.unique(render(positions, size).reshape(1024, -1), axis=0)) == 1024


# --- data set ------------------------------------------------------------------------------------------------------


SMALL = Settings(train_size=20, validation_size=6, calibration_size=4, seed=3)


def arrays_of(splits: Splits, name: str) -> np.ndarray:
    return np.concatenate([split[name] for _, split in splits])


@pytest.mark.parametrize("size", [32, 64])
def test_rendered_splits_are_a_random_choice_of_the_combinations(size):
    data = load("shapes", dataclasses.replace(SMALL, image_size=size))
    assert [(name, len(split)) for name, split in data] == [("train", 20), ("validation", 6), ("calibration", 4)]
    index, factors = arrays_of(data, "index"), arrays_of(data, "factors")
    np.testing.assert_array_equal(index, permutation(COUNT, 3)[:30])
    np.testing.assert_array_equal(factors, factors_of(index))
    np.testing.assert_array_equal(arrays_of(data, "image"), render(factors, size))
    assert (factors.dtype, index.dtype) == (np.int32, np.int32)
    assert len(set(index.tolist())) == 30
    assert data.attributes == ()
    assert data.provenance == {"data_set": "rendered shapes", "seed": 3, "images": 30}
    assert set(load("shapes", dataclasses.replace(SMALL, seed=4)).train["index"]) != set(data.train["index"])


def test_all_combinations_can_be_chosen_and_are_drawn_evenly():
    index = arrays_of(
        load("shapes", Settings(train_size=8000, validation_size=1, calibration_size=0, image_size=16)), "index"
    )
    for column, size in zip(factors_of(index).T, FACTORS.values(), strict=True):
        expected, spread = 8001 / size, np.sqrt(8001 / size * (1 - 1 / size))
        assert np.abs(np.bincount(column, minlength=size) - expected).max() < 5 * spread
    assert Settings(train_size=COUNT - 1, validation_size=1, calibration_size=0).total == COUNT


def test_splits_without_attributes_are_batched_and_checksummed():
    data = load("shapes", SMALL)
    batch = Batches(data.train, 5, seed=0).batch_at(2)
    np.testing.assert_array_equal(render(batch["factors"]), batch["image"])
    factors = data.train["factors"].copy()
    factors[0, 0] = (factors[0, 0] + 1) % 3
    other = dataclasses.replace(data, train=Split({**data.train.arrays, "factors": factors}))
    assert other.sha256() != data.sha256()
    assert load("shapes", SMALL).sha256() == data.sha256()
    with pytest.raises(ValueError, match=r"'attributes' of the train split has shape None, expected \(20, 1\)"):
        dataclasses.replace(data, attributes=("round",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "train_size is 0, validation_size 5000"),
        ({"validation_size": 0}, "validation_size 0"),
        ({"calibration_size": -1}, "calibration_size -1"),
        ({"train_size": COUNT - 9_999}, "are 737281 images together, expected at most 737280"),
        ({"image_size": 28}, "image_size is 28"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


# --- the published file --------------------------------------------------------------------------------------------

SIZES = {"shape": 3, "scale": 2, "orientation": 3, "x": 2, "y": 2}  # of files small enough for a test


@pytest.fixture
def few(monkeypatch):
    """Fewer values per factor, read in several chunks of which the last is not full."""
    monkeypatch.setattr(shapes, "FACTORS", SIZES)
    monkeypatch.setattr(shapes, "_CHUNK", 10)


def contents() -> dict[str, np.ndarray]:
    """The arrays of a file of `SIZES`, as published, with pickled metadata among them."""
    classes = np.array(list(itertools.product([0], *map(range, SIZES.values()))))
    return {
        "metadata": np.array({"title": "dSprites dataset"}, dtype=object),
        "imgs": np.random.default_rng(0).integers(0, 2, (72, 64, 64), np.uint8),
        "latents_classes": classes,
        "latents_values": classes.astype(float),
    }


def write(path, arrays, save=np.savez_compressed):
    save(path, **arrays)
    return path


CHOICE = Settings(train_size=20, validation_size=5, calibration_size=7, seed=1)


@pytest.mark.parametrize("save", [np.savez_compressed, np.savez])
@pytest.mark.parametrize("size", [32, 64])
def test_published_file(few, tmp_path, save, size):
    arrays = contents()
    path = write(tmp_path / shapes.FILE, arrays, save)
    data = load(path, dataclasses.replace(CHOICE, image_size=size))
    assert [len(split) for _, split in data] == [20, 5, 7]
    index = arrays_of(data, "index")
    np.testing.assert_array_equal(index, permutation(72, 1)[:32])
    np.testing.assert_array_equal(arrays_of(data, "factors"), arrays["latents_classes"][index, 1:])
    block = 64 // size
    means = 255.0 * arrays["imgs"][index].reshape(-1, size, block, size, block).mean((2, 4))
    np.testing.assert_array_equal(arrays_of(data, "image")[..., 0], np.floor(means + 0.5))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = {"data_set": "dSprites", "path": str(path), "checksum": checksum, "seed": 1, "images": 32}
    assert data.provenance == expected
    json.dumps(data.provenance)
    assert load(tmp_path, dataclasses.replace(CHOICE, image_size=size)).sha256() == data.sha256()


def replaced(**arrays):
    return {**contents(), **arrays}


def without(name):
    return {key: array for key, array in contents().items() if key != name}


def changed(name, place, value):
    array = contents()[name].copy()
    array[place] = value
    return replaced(**{name: array})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("imgs"), "holds latents_classes, latents_values, metadata, not 'imgs': it is not dsprites_ndarray"),
        (without("latents_classes"), "holds imgs, latents_values, metadata, not 'latents_classes'"),
        (
            replaced(imgs=np.zeros((71, 64, 64), np.uint8)),
            r"imgs.npy is uint8 of shape \(71, 64, 64\), expected uint8 of ",
        ),
        (replaced(imgs=np.zeros((72, 64, 64))), r"float64 of shape \(72, 64, 64\), expected uint8"),
        (replaced(imgs=np.asfortranarray(contents()["imgs"])), "in Fortran order, expected"),
        (replaced(imgs=np.full((72, 64, 64), 255, np.uint8)), "'imgs' contains 255, expected only 0 and 1"),
        (
            replaced(latents_classes=np.zeros((72, 5), int)),
            r"int64 of shape \(72, 5\), expected integer of shape \(72, 6\)",
        ),
        (replaced(latents_classes=contents()["latents_values"]), "latents_classes.npy is float64"),
        (
            changed("latents_classes", (33, 5), 0),
            r"'latents_classes' of image 33 is \[0, 1, 0, 2, 0, 0\], expected \[0, 1, 0, 2, 0, 1\]: .* published order",
        ),
        (replaced(imgs=np.array({}, dtype=object)), "imgs.npy is object of shape"),
    ],
)
def test_other_files_are_refused(few, tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "other.npz", arrays), CHOICE)


def test_file_must_have_all_combinations(tmp_path):
    message = (
        r"integer of shape \(737280, 6\): it is not dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz, fetch that one"
    )
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "small.npz", contents()), CHOICE)


@pytest.mark.parametrize("save", [np.savez_compressed, np.savez])
def test_every_damage_is_noticed(few, tmp_path, save):
    """Bytes flipped anywhere in the images, and the file cut anywhere."""
    path = write(tmp_path / "whole.npz", contents(), save)
    whole, broken = path.read_bytes(), tmp_path / "broken.npz"
    with zipfile.ZipFile(path) as file:
        member = file.getinfo("imgs.npy")
    first = member.header_offset + 80
    rng = np.random.default_rng(0)
    for place in rng.integers(first, first + member.compress_size - 80, 20).tolist():
        broken.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"broken.npz.* is damaged \(.*fetch the file again|expected only 0 and 1"):
            load(broken, CHOICE)
    for length in (0, 1, 1000, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"broken.npz is not a whole zip"):
            load(broken, CHOICE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-4096], r"damaged \(it ends within rows 70 to 71 of 72\)"),
        (lambda data: data + b"0", r"damaged \(it goes on after 72 rows\)"),
        (lambda data: b"\x93NUMPZ" + data[6:], r"damaged \(the magic string is not correct"),
    ],
)
def test_array_that_contradicts_its_header_is_refused(few, tmp_path, change, message):
    path, stream = tmp_path / "changed.npz", io.BytesIO()
    np.save(stream, contents()["imgs"])
    write(path, without("imgs"))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("imgs.npy", change(stream.getvalue()))
    with pytest.raises(ValueError, match=f"imgs.npy is {message}"):
        load(path, CHOICE)


@pytest.mark.parametrize(("name", "named"), [("absent.npz", "absent.npz"), ("", shapes.FILE)])
def test_missing_file_is_named_with_a_remedy(tmp_path, name, named):
    message = f"There is no file .*{named}: fetch dsprites.* from https://github.com/.*, or give 'shapes' to render"
    with pytest.raises(FileNotFoundError, match=message):
        load(tmp_path / name, CHOICE)
