"""Shapes of dSprites: images of which every generative factor is known, rendered or read from the published file.

One white square, ellipse or heart on black, 64 x 64 pixels, every combination of five independent factors once:

    shape         3   square, ellipse, heart
    scale         6   0.5 to 1
    orientation  40   0 to 2 pi, both included, clockwise
    x, y         32   0 to 1, left to right and top to bottom

`render` draws them as the published images were: a pixel is white if its centre is inside the shape, black if not,
without anti-aliasing, so both suit the same Bernoulli likelihood. They do not agree pixel by pixel, for the published
outlines are not documented: here the three shapes have one area, such that 4.25 % of all pixels are white, as there.
The position is their centroid, the corner of four pixels, 16 to 47 from the left and from the top: no shape is cut.

What of the orientation can be seen depends on the shape: a square looks the same after a quarter turn and an ellipse
after half a turn. A turn is 39 steps, which neither 2 nor 4 divides, so other indices give not the same but almost the
same ellipse or square, and of the coarse squares some are the same. Indices 0 and 39 are a whole turn apart and show
the same image of every shape. All count as different values, as in the published labels: nobody can read the
orientation off every image. All other factors can be read: no two images that differ in them are the same.

Reference:
    Matthey et al., 2017, https://github.com/google-deepmind/dsprites-dataset.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvae_jax.data import npy, source
from mvae_jax.data.archive import Archive, open_archive
from mvae_jax.data.batches import Splits, check_factors, permutation
from mvae_jax.data.source import Request
from mvae_jax.files import expanded

_logger = logging.getLogger(__name__)

RENDERED = "shapes"
FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"

# Name -> number of values; the index of an image counts the combinations, the last factor fastest.
FACTORS: dict[str, int] = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}

IMAGE_SIZES = (16, 32, 64)

_SIZE = 64  # of the full image
_AREA = 294.2  # of every shape at scale 1, in pixels: its mean over the scales is 4.25 % of the image
_REACH = 16  # pixels from a sprite's centre to the border of what is drawn of it; no shape reaches so far
_CHUNK = 2048  # images at a time: 8 MiB


# --- factors -------------------------------------------------------------------------------------------------------


def factors_of(index: np.ndarray) -> np.ndarray:
    """Returns the factors, int32 [N, 5], of the images `index`, int [N], of the data set.

    Raises:
        ValueError: an index is outside the data set.
    """
    index, count = np.asarray(index), _count()
    outside = (index < 0) | (index >= count)
    if outside.any():
        raise ValueError(f"index is {index[outside][0]}, expected 0 to {count - 1}, an image of the data set.")
    return np.stack(np.unravel_index(index, tuple(FACTORS.values())), axis=-1).astype(np.int32)


def _count() -> int:
    return math.prod(FACTORS.values())


# --- images --------------------------------------------------------------------------------------------------------


def render(factors: np.ndarray, image_size: int = _SIZE) -> np.ndarray:
    """Draws shapes; a pure function of its arguments, each image of its own row, to the same bits everywhere.

    Args:
        factors: indices of the factors, int [N, 5], columns `FACTORS`.
        image_size: height and width in pixels, one of `IMAGE_SIZES`. Below 64 each pixel is the mean of a block of
            the full image, so that all positions can still be told apart.

    Returns:
        uint8 [N, image_size, image_size, 1]: 0 and 255, below 64 pixels also grey between.

    Raises:
        ValueError: a factor is out of range, or the image size not possible.
    """
    shape, scale, orientation, x, y = check_factors(factors, FACTORS).T
    _check_size(image_size)
    # An image is the window of a sprite's canvas that the position says.
    windows = np.lib.stride_tricks.sliding_window_view(_sprites(), (_SIZE, _SIZE), axis=(-2, -1))
    rows, columns = FACTORS["y"] - 1 - y, FACTORS["x"] - 1 - x
    images = np.empty((len(shape), image_size, image_size, 1), np.uint8)
    for start in range(0, len(shape), _CHUNK):
        part = slice(start, start + _CHUNK)
        drawn = windows[shape[part], scale[part], orientation[part], rows[part], columns[part]]
        images[part, ..., 0] = _shrink(drawn, image_size)
    return images


@functools.cache
def _sprites() -> np.ndarray:
    """All sprites on canvases large enough for every position: read-only uint8 [3, 6, 40, 95, 95], 0 and 255."""
    scale = np.linspace(0.5, 1.0, 6)[:, None, None, None] * math.sqrt(_AREA)
    angle = np.linspace(0.0, 2.0 * np.pi, 40)[:, None, None]
    v, u = np.mgrid[-_REACH:_REACH, -_REACH:_REACH] + 0.5
    x, y = (np.cos(angle) * u + np.sin(angle) * v) / scale, (np.cos(angle) * v - np.sin(angle) * u) / scale
    # No pixel is so near an outline (test_shapes.py) that the rounding of sine and cosine could matter.
    sprites = np.stack([outline(x, y) < 0.0 for outline in (_square, _ellipse, _heart)])
    margins = (FACTORS["x"] - 1, _SIZE - 2 * _REACH)  # what the windows at the last and at the first position show
    sprites = np.pad(np.uint8(255) * sprites, [(0, 0)] * 3 + [margins] * 2)
    sprites.flags.writeable = False
    return sprites


# Shapes of area 1 with their centroid in the origin, x to the right and y down: negative inside, positive outside.


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.5


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Twice as wide as high."""
    return np.pi * (0.5 * x**2 + 2.0 * y**2) - 1.0


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square of side 2r on its tip, with half a disc of radius r on each of its upper sides."""
    r = 0.5 / math.sqrt(1.0 + np.pi / 4.0)
    # The centroid of half a disc is 4r / 3 pi from its straight side; together the two have 1 - 4r^2 of the area.
    y = y - (1.0 - 4.0 * r**2) * (r + 4.0 * r / (3.0 * np.pi)) / math.sqrt(2.0)
    right, left = (x - y) / math.sqrt(2.0), (-x - y) / math.sqrt(2.0)  # towards the two discs, from the square's centre
    square = np.maximum(np.abs(right), np.abs(left)) - r
    discs = (np.hypot(right - r, left) - r, np.hypot(right, left - r) - r)
    return np.minimum(square, np.minimum(*discs))


def _shrink(images: np.ndarray, size: int) -> np.ndarray:
    """Means of square blocks, rounded: uint8 [N, 64, 64] to [N, size, size]."""
    block = _SIZE // size
    if block == 1:
        return images
    rows = images.reshape(len(images), size, block, _SIZE).sum(2, dtype=np.uint16)
    total = rows.reshape(len(images), size, size, block).sum(3, dtype=np.uint16)
    return ((total + block**2 // 2) // block**2).astype(np.uint8)


def _check_size(image_size: int) -> None:
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image_size is {image_size}, expected one of {IMAGE_SIZES}.")


# --- data set ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    """Random choice of the combinations, none of them twice.

    Attributes:
        train_size: images for training.
        validation_size: others for validation.
        calibration_size: yet others; it may be 0.
        image_size: height and width in pixels, one of `IMAGE_SIZES`.
        seed: of the choice; not negative.
    """

    train_size: int = 50_000
    validation_size: int = 5_000
    calibration_size: int = 5_000
    image_size: int = _SIZE
    seed: int = 42

    def __post_init__(self) -> None:
        _check_size(self.image_size)
        if self.train_size < 1 or self.validation_size < 1 or self.calibration_size < 0:
            raise ValueError(
                f"train_size is {self.train_size}, validation_size {self.validation_size} and calibration_size "
                f"{self.calibration_size}, expected at least 1, 1 and 0."
            )
        if self.total > _count():
            raise ValueError(
                f"train_size {self.train_size}, validation_size {self.validation_size} and calibration_size "
                f"{self.calibration_size} are {self.total} images together, expected at most {_count()}: there are no "
                "more combinations."
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected a number that is not negative.")

    @property
    def total(self) -> int:
        """Images of all splits together."""
        return self.train_size + self.validation_size + self.calibration_size


def load(path: str | Path = RENDERED, settings: Settings | None = None) -> Splits:
    """Renders a choice of the images, or reads the same choice from the published file.

    Args:
        path: "shapes" renders; otherwise the path of the published file, or of the folder that holds it.
        settings: which images; None for the defaults.

    Returns:
        The three splits; "factors" is int32 [N, 5] with the columns `FACTORS`, "index" the number of the image.
        There are no attributes.

    Raises:
        FileNotFoundError: there is no file at the path.
        ValueError: the file is damaged, or is not the published one.
    """
    settings = settings or Settings()
    index = permutation(_count(), settings.seed)[: settings.total]
    factors = factors_of(index)
    provenance: dict[str, Any] = {"seed": settings.seed, "images": settings.total}
    if str(path) == RENDERED:
        provenance |= {"data_set": "rendered shapes"}
        images = render(factors, settings.image_size)
    else:
        path = _file_at(expanded(path))
        _logger.info("Reading %d images of %s: it unpacks to 3 GB, part by part.", settings.total, path)
        images = _read(path, index, settings.image_size)
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        provenance |= {"data_set": "dSprites", "path": str(path), "checksum": checksum}
    arrays = {"image": images, "factors": factors, "index": index}
    return Splits.cut(arrays, settings.train_size, settings.validation_size, (), provenance)


def _file_at(path: Path) -> Path:
    """Returns the published file, which is at the path or in the folder there."""
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}: fetch {FILE} from https://github.com/google-deepmind/dsprites-dataset, or give "
            f"{RENDERED!r} to render the shapes."
        )
    return path


def _read(path: Path, index: np.ndarray, size: int) -> np.ndarray:
    """Reads the images `index`, int [N], of the published file in one pass: uint8 [N, size, size, 1]."""
    images, order = np.empty((len(index), size, size, 1), np.uint8), np.argsort(index)
    ascending = index[order]
    with open_archive(path) as archive:
        for start, rows in _chunks(archive, "latents_classes", np.integer, (_count(), 1 + len(FACTORS))):
            expected = factors_of(np.arange(start, start + len(rows)))
            wrong = (rows[:, 1:] != expected).any(1)  # the first column is the colour, always white
            if wrong.any():
                row = wrong.argmax()
                raise ValueError(
                    f"{path}: 'latents_classes' of image {start + row} is {rows[row].tolist()}, expected "
                    f"{[0, *expected[row].tolist()]}: the images are not in the published order. Fetch the file again."
                )
        for start, rows in _chunks(archive, "imgs", np.uint8, (_count(), _SIZE, _SIZE)):
            part = slice(*np.searchsorted(ascending, (start, start + len(rows))))
            chosen = rows[ascending[part] - start]
            if rows.max() > 1:
                raise ValueError(f"{path}: 'imgs' contains {rows.max()}, expected only 0 and 1: fetch the file again.")
            images[order[part], ..., 0] = _shrink(np.uint8(255) * chosen, size)
    return images


def _chunks(archive: Archive, name: str, dtype: Any, shape: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields an array of the file, all of which may not fit into memory, as (first row, rows).

    Raises:
        ValueError: the array is missing, damaged, or of another type or shape.
    """
    member = f"{name}.npy"
    if not archive.has(member):
        names = ", ".join(sorted(file.removesuffix(".npy") for file in archive.files("")))
        raise ValueError(
            f"{archive.where('')} holds {names or 'nothing'}, not {name!r}: it is not {FILE}, fetch that one."
        )
    try:
        with archive.open(member) as stream:
            stored_dtype, stored_shape, fortran = npy.read_header(stream)
            if stored_shape == shape and not fortran and np.issubdtype(stored_dtype, dtype):
                row_bytes = stored_dtype.itemsize * math.prod(shape[1:])
                for start in range(0, shape[0], _CHUNK):
                    count = min(_CHUNK, shape[0] - start)
                    data = stream.read(count * row_bytes)
                    if len(data) < count * row_bytes:
                        raise EOFError(f"it ends within rows {start} to {start + count - 1} of {shape[0]}")
                    yield start, np.frombuffer(data, stored_dtype).reshape(count, *shape[1:])
                if stream.read(1):  # compares the CRC-32
                    raise ValueError(f"it goes on after {shape[0]} rows")
                return
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{archive.where(member)} is damaged ({error}): fetch the file again.") from error
    raise ValueError(
        f"{archive.where(member)} is {stored_dtype} of shape {stored_shape}{' in Fortran order' * fortran}, expected "
        f"{dtype.__name__} of shape {shape}: it is not {FILE}, fetch that one."
    )


def defects(path: str | Path) -> Iterator[str]:
    """Reads all of the published file and yields what is wrong with it: the first defect, for it is one file.

    Raises:
        FileNotFoundError: there is no file at the path.
    """
    path = _file_at(expanded(path))
    try:
        _read(path, np.arange(1), _SIZE)
    except ValueError as error:
        yield str(error)


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config(source.Factors):
    """Shapes of dSprites.

    Attributes:
        source: "shapes", which renders them, or the path of the published file, or of the folder that holds it.
    """

    source: str = RENDERED
    kind: str = dataclasses.field(init=False, default="dSprites")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings(Request())  # raises what is wrong with the sizes

    def settings(self, request: Request) -> Settings:
        """Returns the loader's settings."""
        return Settings(self.train_size, self.validation_size, 0, request.side(self.kind), self.seed)


def _holds(place: Archive, csv: str) -> bool:
    return place.has(FILE) or all(map(place.has, ("imgs.npy", "latents_classes.npy")))


def _verify(config: Config, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
    return iter(()) if config.source == RENDERED else defects(config.source)


SOURCE = source.Source(
    Config,
    lambda config, request: load(config.source, config.settings(request)),
    _verify,
    keywords=(RENDERED,),
    holds=_holds,
    looked_for=f"dSprites, {FILE} or a folder that holds it",
    has_attributes=False,
)
