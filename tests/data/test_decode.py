from __future__ import annotations

import io
import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from mvae_jax.data import archive, decode

RNG = np.random.default_rng(0)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


def lanczos(image: np.ndarray, size: int) -> np.ndarray:
    """Shrinks the first axis with Lanczos' kernel of three lobes, stretched by the scale."""
    scale = len(image) / size
    places = (np.arange(len(image)) + 0.5)[None] - (np.arange(size)[:, None] + 0.5) * scale
    weights = np.sinc(places / scale) * np.sinc(places / scale / 3) * (np.abs(places / scale) < 3)
    return np.tensordot(weights / weights.sum(1, keepdims=True), image, 1)


# --- one image -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((12, 20), np.s_[:, 4:16]),
        ((20, 12), np.s_[4:16]),
        ((12, 17), np.s_[:, 2:14]),  # of an odd margin the larger half is on the right
        ((12, 12), np.s_[:]),
        ((1, 9), np.s_[:, 4:5]),
    ],
)
def test_square_is_the_centre(shape, part):
    pixels = noise(*shape)
    side = min(shape)
    np.testing.assert_array_equal(decode.square(Image.fromarray(pixels), side), pixels[part])


def test_square_resizes_the_centre_by_lanczos():
    # Smooth and away from the ends of the range, where Pillow's rounding between its two passes would clip.
    coarse = RNG.integers(90, 170, (6, 9, 3), np.uint8)
    image = Image.fromarray(coarse).resize((72, 48), Image.Resampling.BICUBIC)
    centre = np.asarray(image, float)[:, 12:60]
    expected = np.swapaxes(lanczos(np.swapaxes(lanczos(centre, 16), 0, 1), 16), 0, 1)
    result = decode.square(image, 16)
    assert (result.mode, result.size) == ("RGB", (16, 16))
    assert np.abs(np.asarray(result, float) - expected).max() <= 1.01


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_are_turned_upright(orientation, kind):
    """A file that was turned, and says how, is seen as it was before."""
    upright = np.asarray(Image.fromarray(noise(3, 2)).resize((32, 48), Image.Resampling.BILINEAR))
    # What the camera stored, by EXIF's definition: where its row 0 and column 0 are in the upright image.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    image = Image.open(io.BytesIO(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)))
    seen = np.asarray(decode.to_rgb(image), float)
    assert seen.shape == upright.shape
    assert np.abs(seen - upright).max() <= (12 if kind == "JPEG" else 0)


def test_transparency_is_put_on_white():
    pixels = noise(5, 7, 4)
    colour, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    expected = colour * alpha + 255 * (1 - alpha)
    seen = decode.to_rgb(Image.open(io.BytesIO(encoded(Image.fromarray(pixels)))))
    assert np.abs(np.asarray(seen) - expected).max() <= 1

    grey = Image.fromarray(pixels).convert("LA")
    level, alpha = np.moveaxis(np.asarray(grey, float), -1, 0)
    expected = level * alpha / 255 + 255 - alpha
    assert np.abs(np.asarray(decode.to_rgb(grey)) - expected[..., None]).max() <= 1


def test_palettes_colour_keys_and_bits_become_colours():
    palette = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colours = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [10, 20, 30]]])
    np.testing.assert_array_equal(decode.to_rgb(Image.open(io.BytesIO(encoded(palette)))), colours)
    keyed = Image.open(io.BytesIO(encoded(palette, transparency=0)))
    np.testing.assert_array_equal(
        decode.to_rgb(keyed), np.where(np.eye(2, dtype=bool)[..., None], 255, colours), err_msg="colour 0 is clear"
    )
    bits = np.array([[True, False]])
    np.testing.assert_array_equal(
        decode.to_rgb(Image.open(io.BytesIO(encoded(Image.fromarray(bits))))), [[[255] * 3, [0] * 3]]
    )


def whole(image: Image.Image) -> Image.Image:
    """What `to_rgb` does in strips, at once."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "keyed RGB", "keyed P", "PA"])
@pytest.mark.parametrize("strip", [1, 70, 2**20])
def test_strips_are_parts_of_the_whole(mode, strip, monkeypatch):
    monkeypatch.setattr(decode, "_STRIP", strip)
    pixels = Image.fromarray(noise(31, 23, 4))
    kind, options = ("JPEG" if mode == "CMYK" else "PNG"), {}
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 2**16, (31, 23)).astype(np.uint16))
    elif mode.startswith("keyed"):
        image = pixels.convert(mode.removeprefix("keyed "))
        options = {"transparency": image.getpixel((3, 4))}
    elif mode == "PA":
        image, options = pixels.convert("P"), {"transparency": RNG.bytes(256)}
    else:
        image = pixels.convert(mode)
    data = encoded(image, kind, **options)
    one, other = (Image.open(io.BytesIO(data)) for _ in range(2))
    np.testing.assert_array_equal(decode.to_rgb(one), whole(other))
    for size in ((31, 23), (16, 16), (40, 8)):
        np.testing.assert_array_equal(decode.central(one, size), decode.central(whole(other), size))


LARGE = """
import resource, sys
from mvae_jax.data import decode
def peak(path):
    decode.read_image(path, 16)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small = peak(sys.argv[1])
print((peak(sys.argv[2]) - small) / float(sys.argv[3]))
"""


@pytest.mark.parametrize(("mode", "most"), [("RGBA", 11), ("P", 8), ("RGB", 7)])
def test_a_large_image_takes_few_bytes_for_each_pixel(mode, most, tmp_path):
    """Four are those of the decoded image, four those of a copy on white; it took up to 24."""
    for name, side in (("small.png", 64), ("large.png", 4000)):
        Image.new("RGBA", (side, side), (200, 100, 50, 128)).convert(mode).save(tmp_path / name, compress_level=1)
    command = [sys.executable, "-c", LARGE, tmp_path / "small.png", tmp_path / "large.png", str(4000**2)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < most


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    archive_of, active, most = folder_of(tmp_path, **{f"i{n}": noise(9, 9) for n in range(8)}), [], []

    def slow(image: Image.Image) -> Image.Image:
        active.append(1)
        time.sleep(0.01)
        most.append(len(active))
        active.pop()
        return decode.to_rgb(image)

    for limit, expected in ((80, 1), (81, 4)):
        most.clear()
        monkeypatch.setattr(decode, "_LARGE", limit)
        decode.decode_images(archive_of, [f"i{n}" for n in range(8)], slow, workers=4)
        assert max(most) <= expected
    assert max(most) > 1


def test_16_bit_grey_keeps_its_range():
    levels = np.array([[0, 257, 256 * 90, 65535]], np.uint16)
    seen = decode.to_rgb(Image.open(io.BytesIO(encoded(Image.fromarray(levels)))))
    np.testing.assert_array_equal(np.asarray(seen)[0], np.repeat([[0], [1], [89], [255]], 3, 1))


@pytest.mark.parametrize(
    ("shape", "size", "note"),
    [
        ((480, 640), 64, "cropped 640 x 480 to the central 480 x 480, resized to 64 x 64"),
        ((100, 100), 64, "resized 100 x 100 to 64 x 64"),
        ((30, 20), 64, "cropped 20 x 30 to the central 20 x 20, resized to 64 x 64"),
        ((64, 80), 64, "cropped 80 x 64 to the central 64 x 64"),
        ((64, 64), 64, ""),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_read_image_says_what_was_done(shape, size, note, kind, tmp_path):
    image = Image.new("RGB", shape[::-1], (200, 100, 50))
    (tmp_path / "a b.file").write_bytes(encoded(image, kind, lossless=True))  # of which only WebP takes notice
    pixels, said = decode.read_image(tmp_path / "a b.file", size)
    assert (pixels.dtype, pixels.shape, said) == (np.uint8, (size, size, 3), note)
    assert np.abs(pixels - np.array([200.0, 100, 50])).max() <= 2


@pytest.mark.parametrize(
    ("shape", "size", "part", "note"),
    [
        ((20, 20), (10, 8), np.s_[:, 2:18], "cropped 20 x 20 to the central 16 x 20, resized to 8 x 10"),
        ((20, 16), (10, 8), np.s_[:], "resized 16 x 20 to 8 x 10"),
        ((30, 16), (10, 8), np.s_[5:25], "cropped 16 x 30 to the central 16 x 20, resized to 8 x 10"),
        ((12, 8), (10, 8), np.s_[1:11], "cropped 8 x 12 to the central 8 x 10"),
        ((10, 8), (10, 8), np.s_[:], ""),
    ],
)
def test_read_image_takes_the_central_part_of_the_sizes_proportions(shape, size, part, note, tmp_path):
    pixels = noise(*shape)
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(pixels)))
    read, said = decode.read_image(tmp_path / "a.png", size)
    expected = Image.fromarray(pixels[part]).resize(size[::-1], Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(read, np.asarray(expected))
    assert said == note


def test_read_image_says_that_it_turned_and_filled(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = noise(8, 10, 4)
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(pixels), exif=exif))
    read, note = decode.read_image(str(tmp_path / "a.png"), 8)
    assert note == (
        "turned upright as its EXIF orientation says, put on white where it is transparent, "
        "cropped 8 x 10 to the central 8 x 8"
    )
    np.testing.assert_array_equal(read, decode.square(Image.open(tmp_path / "a.png"), 8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a.png \(0 bytes\) cannot be used: it is no JPEG, PNG or WebP image"),
        (b"<html>", r"a.png \(6 bytes\) cannot be used: it is no JPEG, PNG or WebP image"),
        (encoded(Image.new("RGB", (4, 4)), "GIF"), "it is no JPEG, PNG or WebP image"),
        (encoded(Image.fromarray(noise(50, 50)))[:-400], r"a.png .* cannot be used: .*truncated"),
        (encoded(Image.fromarray(noise(50, 50)), "JPEG")[:-400], r"a.png .* cannot be used: .*truncated"),
    ],
)
def test_read_image_refuses_what_is_no_whole_image(data, message, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        decode.read_image(tmp_path / "a.png", 8)


def test_read_image_refuses_missing_files_folders_and_huge_images(tmp_path, monkeypatch):
    said = {tmp_path / "none.png": "There is no file {}:", tmp_path: "{} is a folder, expected a file:"}
    for path, begin in said.items():
        with pytest.raises(FileNotFoundError, match=f"{begin.format(path)} give the path of a JPEG, PNG or WebP"):
            decode.read_image(path, 8)
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (8, 8))))
    monkeypatch.setattr(decode, "MAX_PIXELS", 63)
    with pytest.raises(ValueError, match=r"a.png .* cannot be used: it has 8 x 8 pixels, expected at most 63"):
        decode.read_image(tmp_path / "a.png", 8)
    monkeypatch.setattr(archive, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"a.png has \d+ bytes, expected at most 10"):
        decode.read_image(tmp_path / "a.png", 8)


def test_damaged_files_raise_nothing_but_value_errors(tmp_path):
    """Flipped bytes in headers, EXIF and data: an image is read or refused by name."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.ImageDescription] = 6, "text"
    image = Image.fromarray(noise(9, 12, 4))
    sources = [encoded(image.convert("RGB"), "JPEG", exif=exif), encoded(image, exif=exif), encoded(image.convert("P"))]
    messages = []
    for number, data in itertools.product(range(200), sources):
        damaged = bytearray(data)
        for place in RNG.integers(0, len(data) if number % 2 else 200, 2):
            damaged[place] = RNG.integers(256)
        (tmp_path / "a.png").write_bytes(damaged)
        try:
            assert decode.read_image(tmp_path / "a.png", 4)[0].shape == (4, 4, 3)
        except ValueError as error:
            messages.append(str(error))
    assert 100 < len(messages) < 600
    assert all(message.startswith(f"{tmp_path / 'a.png'} (") for message in messages)


# --- many images ---------------------------------------------------------------------------------------------------


def folder_of(path: Path, **images: np.ndarray) -> archive.Folder:
    for name, image in images.items():
        (path / name).write_bytes(encoded(Image.fromarray(image)))
    return archive.Folder(path)


def test_images_come_in_order_with_the_sizes_of_their_files(tmp_path):
    pixels = {f"{i}": noise(6 + i % 3, 9) for i in range(30)}
    images, sizes = decode.decode_images(
        folder_of(tmp_path, **pixels), list(pixels), lambda image: decode.square(image, 5), workers=4
    )
    assert (images.dtype, images.shape, sizes.dtype) == (np.uint8, (30, 5, 5, 3), np.int32)
    np.testing.assert_array_equal(sizes, [[9, 6 + i % 3] for i in range(30)])
    for image, source in zip(images, pixels.values(), strict=True):
        np.testing.assert_array_equal(image, decode.square(Image.fromarray(source), 5))
    assert decode.describe_sizes(sizes) == "from 9 x 6 to 9 x 8"
    assert decode.describe_sizes(sizes[:1]) == "9 x 6"


def test_defects_names_every_image_that_cannot_be_used(tmp_path):
    pixels = {f"{i}": noise(6, 6) for i in range(20)}
    there = folder_of(tmp_path, **pixels)
    for name in ("3", "11"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "7").unlink()
    found = list(decode.defects(there, list(pixels), decode.to_rgb))
    assert [message.split(" (")[0] for message in found] == [
        str(tmp_path / "3"),
        f"There is no file {tmp_path / '7'}.",
        str(tmp_path / "11"),
    ]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_truncations_are_noticed(kind, tmp_path):
    data = encoded(Image.new("RGB", (64, 64), (35, 165, 100)), kind)
    for length in [*range(0, len(data), 10), *range(len(data) - 20, len(data))]:
        (tmp_path / "a.jpg").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"a.jpg .* cannot be used"):
            decode.decode_images(archive.Folder(tmp_path), ["a.jpg"], decode.to_rgb, workers=1)


def test_images_of_unequal_size_and_huge_ones_are_refused(tmp_path, monkeypatch):
    there = folder_of(tmp_path, a=noise(8, 8), b=noise(9, 9))
    with pytest.raises(ValueError, match=r"b gives an image \(9, 9, 3\), expected \(8, 8, 3\)"):
        decode.decode_images(there, ["a", "b"], decode.to_rgb)
    monkeypatch.setattr(decode, "MAX_PIXELS", 63)
    with pytest.raises(ValueError, match=r"a .* 8 x 8 pixels, expected at most 63"):
        decode.decode_images(there, ["a"], decode.to_rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow warns above it, and raises above its double
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=f"{name} .* cannot be used"):
            decode.decode_images(there, [name], decode.to_rgb)


# --- cache ---------------------------------------------------------------------------------------------------------


def test_no_flipped_bit_of_the_cache_passes(tmp_path):
    """Whatever bit is flipped, the images are the right ones: read as they are, or built again."""
    expected = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3), np.array([[5, 6], [7, 8]], np.int32)
    builds = []

    def build() -> tuple[np.ndarray, np.ndarray]:
        builds.append(1)
        return expected

    decode.cached_images(tmp_path, "a.npz", 2, build)
    data = (tmp_path / "a.npz").read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        (tmp_path / "a.npz").write_bytes(flipped)
        for array, original in zip(decode.cached_images(tmp_path, "a.npz", 2, build), expected, strict=True):
            np.testing.assert_array_equal(array, original)
    assert len(builds) > len(expected[0].tobytes())


@pytest.mark.parametrize(
    "arrays",
    [
        {"image": np.zeros((3, 4, 4, 3), np.uint8), "size": np.zeros((3, 2), np.int32)},
        {"image": np.zeros((2, 4, 4, 3), np.uint8), "size": np.zeros((3, 2), np.int32)},
        {"image": np.zeros((2, 4, 4, 3), np.uint8)},
    ],
)
def test_cache_of_another_shape_is_rebuilt(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    expected = np.ones((2, 4, 4, 3), np.uint8), np.full((2, 2), 4, np.int32)
    images, sizes = decode.cached_images(tmp_path, "a.npz", 2, lambda: expected)
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(sizes, expected[1])
