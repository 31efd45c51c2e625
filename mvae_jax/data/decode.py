"""Image files to uint8 arrays; a data set's are decoded once and then read from a cache."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from mvae_jax import files
from mvae_jax.data.archive import Archive, check_size

_logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")  # of the files that are read as images
MAX_PIXELS = 2**26  # 8192 x 8192; a file that claims more is no photograph of a data set
_LARGE = 2**24  # pixels; of images with more, one is decoded at a time, however many threads there are
_STRIP = 2**20  # pixels
_large = threading.Lock()


# --- one image -----------------------------------------------------------------------------------------------------


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as it is meant to be seen: upright, in colour, on white where it is transparent.

    Args:
        image: any mode; 16-bit grey loses its low byte.

    Returns:
        Mode RGB, turned as its EXIF orientation says.
    """
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    result = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):  # each strip for itself, or there would be four copies of a large image
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if strip.mode.startswith("I"):  # `convert` would clip at 255
            strip = Image.fromarray((np.asarray(strip).clip(0, 65535) // 257).astype(np.uint8))
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        result.paste(strip.convert("RGB"), (0, top))
    return result


def square(image: Image.Image, size: int) -> Image.Image:
    """The central square of the image as it is meant to be seen, resized by Lanczos' kernel.

    Args:
        image: any mode and size.
        size: height and width of the result, in pixels.

    Returns:
        Mode RGB, size x size.
    """
    return central(image, (size, size))


def central(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest central part of the image, as it is meant to be seen, that has the proportions of a size, resized.

    Args:
        image: any mode and size.
        size: height and width of the result, in pixels.

    Returns:
        Mode RGB, by Lanczos' kernel.
    """
    image = to_rgb(image)
    width, height = _part(image.size, size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if (width, height) != image.size:
        image = image.crop((left, top, left + width, top + height))
    return image.resize(size[::-1], Image.Resampling.LANCZOS)


def _part(whole: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the largest part of an image, of whole width and height, with the proportions of a size."""
    (width, height), (rows, columns) = whole, size
    return min(width, max(1, round(height * columns / rows))), min(height, max(1, round(width * rows / columns)))


def height_and_width(size: int | tuple[int, int], proportions: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """The size of images in full.

    Args:
        size: height and width in pixels; a number alone is the height, and the width follows from `proportions`.
        proportions: height and width of what is resized.

    Raises:
        ValueError: a side has no pixel.
    """
    height, width = (size, max(1, round(size * proportions[1] / proportions[0]))) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"image_size is {size}, expected a number of pixels such as 64, or height and width.")
    return height, width


def read_image(path: str | os.PathLike[str], size: int | tuple[int, int]) -> tuple[np.ndarray, str]:
    """Reads a user's image for a model, whatever its size.

    Args:
        path: a JPEG, PNG or WebP.
        size: height and width of the result, in pixels; a number alone is both.

    Returns:
        uint8 [H, W, 3], and what was done to the image, such as "cropped 640 x 480 to the central 480 x 480,
        resized to 64 x 64", width first; "" for nothing.

    Raises:
        FileNotFoundError: there is no such file, or it is a folder.
        ValueError: the file is no JPEG, PNG or WebP, damaged or too large.
    """
    path = files.expanded(path)
    expected = "give the path of a JPEG, PNG or WebP image"
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder, expected a file: {expected}, such as one in it.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: {expected}.")
    check_size(str(path), path.stat().st_size)
    sides = height_and_width(size)
    try:
        with _opened(path.read_bytes(), str(path)) as image:
            return np.asarray(central(image, sides)), ", ".join(_changes(image, sides))
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')}: {expected} that is whole.") from error


def _changes(image: Image.Image, size: tuple[int, int]) -> Iterator[str]:
    """Yields what `central` does to an image, in words."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        yield "turned upright as its EXIF orientation says"
    if image.has_transparency_data:
        yield "put on white where it is transparent"
    whole = ImageOps.exif_transpose(image).size
    part, result = _part(whole, size), size[::-1]
    if part != whole:
        yield "cropped {} x {} to the central {} x {}".format(*whole, *part)
    if part != result:
        yield "{} to {} x {}".format("resized {} x {}".format(*part) if part == whole else "resized", *result)


@contextlib.contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """Opens a file's bytes; whatever is wrong with them, now or when they are decoded, names the file."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so a truncated image would be read as a grey one: "
            "set it to False before loading data."
        )
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels, expected at most {MAX_PIXELS}")
        with _large if image.width * image.height > _LARGE else contextlib.nullcontext():
            yield image
    except Exception as error:  # Pillow raises anything on damaged files, TypeError for a bad EXIF tag among it
        reason = "it is no JPEG, PNG or WebP image" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{where} ({len(data)} bytes) cannot be used: {reason}.") from error


# --- many images ---------------------------------------------------------------------------------------------------

Transform = Callable[[Image.Image], Image.Image]
Transforms = Transform | Sequence[Transform]  # one for all files, or one for each


def _one_for_each(transform: Transforms, count: int) -> Sequence[Transform]:
    return [transform] * count if callable(transform) else transform


def decode_images(
    archive: Archive, names: Sequence[str], transform: Transforms, *, workers: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes images in parallel.

    Threads serve: Pillow decodes and resizes outside the interpreter lock (files of 512 x 512 pixels took 3.1 ms
    each with one thread and 1.7 ms with two on two cores; processes 2.2 ms).

    Args:
        archive: where the files are.
        names: N files, at least one.
        transform: maps an image of any mode and size to an RGB one of the final size [H, W], the same for all; or
            one such function for each file. A ValueError that it raises is reported with the name of the file.
        workers: threads; None for one per core.

    Returns:
        Images, uint8 [N, H, W, 3], and the width and height of the files, int32 [N, 2].

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated, damaged, too large or no image, or has another size than the first.
    """
    transforms = _one_for_each(transform, len(names))
    first, _ = _decode(archive, names[0], transforms[0])
    images, sizes = np.empty((len(names), *first.shape), np.uint8), np.empty((len(names), 2), np.int32)

    def fill(position: int) -> None:
        image, sizes[position] = _decode(archive, names[position], transforms[position])
        if image.shape != first.shape:
            where = archive.where(names[position])
            raise ValueError(f"{where} gives an image {image.shape}, expected {first.shape} as the first.")
        images[position] = image

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for _ in pool.map(fill, range(len(names))):  # raises what a worker raised and cancels the rest
            pass
    return images, sizes


def defects(
    archive: Archive, names: Sequence[str], transform: Transforms, *, workers: int | None = None
) -> Iterator[str]:
    """Decodes images in parallel and keeps none; yields what is wrong with those that cannot be used.

    Args:
        archive: where the files are.
        names: the files.
        transform: as for `decode_images`.
        workers: threads; None for one per core.
    """

    def defect(name: str, transform: Transform) -> str | None:
        try:
            _decode(archive, name, transform)
        except (ValueError, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        yield from filter(None, pool.map(defect, names, _one_for_each(transform, len(names))))


def _decode(archive: Archive, name: str, transform: Transform) -> tuple[np.ndarray, tuple[int, int]]:
    with _opened(archive.read(name), archive.where(name)) as image:
        return np.asarray(transform(image)), image.size


def describe_sizes(sizes: np.ndarray) -> str:
    """Returns the sizes of files, int [N, 2], in words: "512 x 512" or "from 40 x 30 to 800 x 600"."""
    order = np.argsort(sizes.prod(1), kind="stable")
    ends = dict.fromkeys("{} x {}".format(*sizes[row]) for row in (order[0], order[-1]))
    return f"from {' to '.join(ends)}" if len(ends) > 1 else next(iter(ends))


# --- cache ---------------------------------------------------------------------------------------------------------

CACHE_BYTES = 4 * 2**30
_CACHE_FILE = re.compile(r"[a-z_-]+-[0-9a-f]{32}(\.npz|.*\.part)")


def default_cache_folder() -> Path:
    """Returns the user's cache folder: $XDG_CACHE_HOME/mvae_jax, or ~/.cache/mvae_jax.

    Raises:
        ValueError: the user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvae_jax"
    except RuntimeError as error:
        raise ValueError(
            f"there is no home folder, where a cache is kept ({error}): set HOME or XDG_CACHE_HOME to a folder."
        ) from error


def cached_images(
    folder: str | Path | None, name: str, count: int, build: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images from a cache file, which is built when it is missing or damaged.

    The file is an uncompressed .npz with the arrays "image" and "size", whose CRC-32 are compared at every reading.
    It appears under its name only when it is whole. It may be deleted at any time, and is once the cache has more than
    `CACHE_BYTES` and this file was not used for the longest time.

    Args:
        folder: where cache files are; None for the user's cache folder.
        name: the file's name; it holds a checksum of everything that `build` depends on.
        count: N, expected images.
        build: () -> what `decode_images` returns.

    Returns:
        Images, uint8 [N, H, W, 3], and the width and height of their files, int32 [N, 2].
    """
    file = (files.expanded(folder) if folder else default_cache_folder()) / name
    if file.exists():
        try:
            cached = _read_cache(file, count)
            with contextlib.suppress(OSError):  # somebody else's, who let us read it
                os.utime(file)  # used now
            return cached
        except Exception as error:  # a damaged file can raise anything, and whatever it is, the cure is the same
            _logger.warning("%s is damaged (%s: %s): decoding again.", file, type(error).__name__, error)
    images, sizes = build()
    try:
        _write_cache(file, images, sizes)
        _trim(file)
    except OSError as error:
        _logger.warning("The cache is left out: %s Images will be decoded again next time.", error)
    return images, sizes


def cache_files(folder: Path) -> list[Path]:
    """Files of a cache, the one that was not used for the longest time first; also those not written to the end."""
    found = {}
    for file in folder.glob("*") if folder.is_dir() else ():
        if _CACHE_FILE.fullmatch(file.name):
            with contextlib.suppress(FileNotFoundError):  # another process has deleted it
                found[file] = file.stat().st_mtime
    return sorted(found, key=lambda file: found[file])


def _trim(newest: Path) -> None:
    """Deletes files of the cache of which `newest` is one, until no more than `CACHE_BYTES` are left, or that alone."""
    there = [file for file in cache_files(newest.parent) if file != newest and file.suffix == newest.suffix]
    sizes = {file: file.stat().st_size for file in there}
    excess = sum(sizes.values()) + newest.stat().st_size - CACHE_BYTES
    for file in there:
        if excess <= 0:
            return
        _logger.info("The cache of decoded images is full: %s, the longest unused, is deleted.", file)
        file.unlink(missing_ok=True)
        excess -= sizes[file]


def _read_cache(file: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        images, sizes = arrays["image"], arrays["size"]
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count or sizes.shape != (count, 2):
        raise ValueError(
            f"it holds {images.dtype} {images.shape} and {sizes.shape}, expected uint8 [{count}, H, W, 3] and "
            f"[{count}, 2]"
        )
    return images, sizes


def _write_cache(file: Path, images: np.ndarray, sizes: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".part")
    try:
        with files.written(file, images.nbytes + sizes.nbytes), os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, image=images, size=sizes)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
