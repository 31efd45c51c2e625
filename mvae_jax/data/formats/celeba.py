"""CelebA, aligned: faces with 40 attributes, in the official partitions, cropped as papers do.

Reads what is published, from a folder or straight from a zip:

    img_align_celeba/000001.jpg ... 202599.jpg    178 x 218 pixels; in a folder also img_align_celeba.zip
    list_attr_celeba.txt       count; 40 names; "000001.jpg v1 ... v40" with v in {-1, 1}
    list_eval_partition.txt    "000001.jpg p" with p = 0 (train), 1 (validation) or 2 (test)
    identity_CelebA.txt        "000001.jpg k" with k > 0, the person; need not be there

The lists may lie in Anno/ and Eval/ and the images in Img/, as in the published folder, or be Kaggle's .csv files, also
saved anew with other separators. Of a
part of the data set, the lists name the images that are there.

`CROPS` has the part of the picture that each of the papers uses.

Reference:
    Liu et al., 2015, arXiv:1411.7766 (the data set, for non-commercial research).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvae_jax.data import decode, source
from mvae_jax.data.archive import (
    Archive,
    DefectError,
    Folder,
    checksum,
    one_of,
    only,
    open_archive,
    read_text,
)
from mvae_jax.data.batches import Splits, permutation
from mvae_jax.data.formats import delimited, listing
from mvae_jax.data.formats.folder import SPLITS
from mvae_jax.data.formats.listing import Selection

_logger = logging.getLogger(__name__)

PARTITIONS = ("train", "validation", "test")
ATTRIBUTE_LIST, PARTITION_LIST, IDENTITY_LIST = "list_attr_celeba", "list_eval_partition", "identity_CelebA"

_LIST_FOLDERS = ("", "Anno/", "Eval/")
_IMAGE_FOLDERS = ("img_align_celeba", "Img/img_align_celeba", "img_align_celeba/img_align_celeba")
_IMAGE_ZIPS = ("img_align_celeba.zip", "Img/img_align_celeba.zip")
_IMAGE_NAME = re.compile(r"([0-9]{6})\.jpg")
_IMAGES: Any = {"pattern": _IMAGE_NAME, "example": "000017.jpg"}
_SIZE = (178, 218)  # width and height of an aligned image
_CACHE_FORMAT = 1  # raise it when the same inputs give other pixels


# --- crops ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Crop:
    """A part of the picture, and how it is resized.

    Attributes:
        box: left, top, right and bottom, in pixels of the aligned image.
        resize: (the part, (height, width)) -> the part of that size.
    """

    box: tuple[int, int, int, int]
    resize: Callable[[Image.Image, tuple[int, int]], Image.Image]

    @property
    def proportions(self) -> tuple[int, int]:
        """Height and width."""
        left, top, right, bottom = self.box
        return bottom - top, right - left


def _lanczos(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size[::-1], Image.Resampling.LANCZOS)


def _nearest(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size[::-1], Image.Resampling.NEAREST)


def _blurred(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Blurs by a Gaussian of standard deviation sqrt(scale) / 2, then takes values between pixels by a cubic kernel."""
    pixels = np.asarray(image, np.float32)
    for count in size:
        sources, weights = _blur_and_sample(len(pixels), count)
        # Not as a product of matrices: its threads and those that decode would wait for each other.
        pixels = np.einsum("ts,ts...->s...", weights, pixels[sources]).swapaxes(0, 1)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


@functools.cache
def _blur_and_sample(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Blur and resize of one axis: of which pixels, and with what weights, each of `size` new ones is made.

    Returns:
        Positions in [0, length), beyond which the outermost pixels are repeated, and weights, both [T, size].
    """
    scale = length / size
    deviation = math.sqrt(scale) / 2
    reach = math.ceil(4 * deviation)
    blur = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    centres = (np.arange(size) + 0.5) * scale - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((len(blur) + 3, size))
    for tap in range(4):
        weights[tap : tap + len(blur)] += np.outer(blur / blur.sum(), _cubic(np.abs(centres - first - tap)))
    sources = first - reach + np.arange(len(weights))[:, None]
    return sources.clip(0, length - 1), weights.astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel (a = -1/2) at distances x in [0, 2]."""
    return np.where(x <= 1, (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


# "schik" is resized with an anti-aliasing kernel. Keras, which the paper used, takes the nearest pixel, and so does
# "schik_nearest". "larsen" blurs and resizes as the paper does; "alae" is 128 x 128, as large as the paper's images.
CROPS: Mapping[str, Crop] = {
    "schik": Crop((30, 50, 148, 168), _lanczos),
    "schik_nearest": Crop((30, 50, 148, 168), _nearest),
    "larsen": Crop((15, 40, 163, 188), _blurred),
    "alae": Crop((25, 60, 153, 188), _lanczos),
    "none": Crop((0, 0, *_SIZE), _lanczos),
}


def cut(image: Image.Image, crop: str, size: tuple[int, int]) -> Image.Image:
    """Returns a part of an aligned image as RGB.

    Args:
        image: 178 x 218 pixels.
        crop: one of `CROPS`.
        size: height and width of the result.

    Raises:
        ValueError: the image has another size.
    """
    if image.size != _SIZE:
        raise ValueError("it is {} x {} pixels, expected {} x {} as the aligned images are".format(*image.size, *_SIZE))
    return CROPS[crop].resize(decode.to_rgb(image).crop(CROPS[crop].box), size)


# --- settings ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choice of images, of a part of them and of attributes.

    The images of a split are put into a random order that depends on `seed` and on the images of its partitions
    alone, and the first of them are used: a smaller split is a part of a larger one.

    Attributes:
        image_size: height and width in pixels. A number alone is the height; the width is as large for a square crop,
            and follows the picture's proportions for the crop "none": 218 is 218 x 178, and 109 is 109 x 89.
        crop: one of `CROPS`.
        attributes: names in the order of the attribute vector: any of the list's 40 in snake case, and `female`,
            which is not `male`; None for the 40 in the order of the list.
        train: `PARTITIONS` to train on.
        validation: partitions that are only validated on.
        calibration: partitions from which thresholds are calibrated; () for none.
        train_size: images to train on; None for all of the partitions.
        validation_size: images to validate on; None for all.
        calibration_size: images for calibration; None for all.
        seed: of the random choice; not negative.
    """

    image_size: int | tuple[int, int] = 64
    crop: str = "larsen"
    attributes: tuple[str, ...] | None = None
    train: tuple[str, ...] = ("train",)
    validation: tuple[str, ...] = ("validation",)
    calibration: tuple[str, ...] = ("test",)
    train_size: int | None = None
    validation_size: int | None = None
    calibration_size: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop is {self.crop!r}, expected {', '.join(map(repr, CROPS))}.")
        decode.height_and_width(self.image_size)
        listing.check_chosen(self.attributes)
        named = [*self.train, *self.validation, *self.calibration]
        if not (self.train and self.validation) or set(named) - set(PARTITIONS) or len(set(named)) < len(named):
            raise ValueError(
                f"the partitions are {self.train}, {self.validation} and {self.calibration}, expected each of "
                f"{', '.join(PARTITIONS)} at most once, and one to train on and one to validate on."
            )
        if any(size is not None and size < 1 for size in (self.train_size, self.validation_size)):
            raise ValueError(
                f"train_size is {self.train_size} and validation_size {self.validation_size}, expected at least 1, or "
                "None for all."
            )
        if (self.calibration_size or 0) < 0 or self.seed < 0:
            raise ValueError(
                f"calibration_size is {self.calibration_size} and seed {self.seed}, expected neither to be negative."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return decode.height_and_width(self.image_size, CROPS[self.crop].proportions)


@dataclasses.dataclass(frozen=True, eq=False)
class Table(listing.Table):
    """The lists, one row per image.

    Attributes:
        partition: int32 [N], positions in `PARTITIONS`.
        identity: int32 [N], the person's number; 0 where there is no list.
    """

    partition: np.ndarray
    identity: np.ndarray

    @property
    def further(self) -> Mapping[str, np.ndarray]:
        """Identities, if they are known."""
        return {"identity": self.identity} if self.identity.any() else {}


Published = listing.Published[Table]


# --- loading -------------------------------------------------------------------------------------------------------


def load(
    path: str | Path,
    settings: Settings | None = None,
    *,
    cache_folder: str | Path | None = None,
    workers: int | None = None,
) -> Splits:
    """Loads the data set; the selected images are decoded once and then come from a cache.

    The cache is one file per choice of images, crop and size, named by a checksum of these and of size and CRC-32
    (zip) or size and time of modification (folder) of the images. It may be deleted at any time.

    Args:
        path: a folder or a zip; the data set is in it or in one folder in it.
        settings: which images and attributes; None for the defaults.
        cache_folder: where decoded images are kept; None for the user's cache folder.
        workers: threads that decode; None for one per core.

    Returns:
        The three splits; "index" is the N of N.jpg, and "identity", int32 [N], the person, if there is the list. Their
        provenance holds the path, checksums, crop, partitions, the number of images and the size of the files.

    Raises:
        FileNotFoundError: the path, a list or an image is missing.
        ValueError: a list or an image is damaged, an attribute is unknown, or there are too few images.
    """
    settings = settings or Settings()
    with open_published(path) as published:
        selection = select(published.table, settings)
        pictures = checksum(_CACHE_FORMAT, settings.crop, settings.size, published.fingerprints(selection.rows))

        def build() -> tuple[np.ndarray, np.ndarray]:
            _logger.info("Decoding %d images of %s, once.", len(selection.rows), path)
            files = published.files(selection.rows)
            return decode.decode_images(
                published.archive, files, lambda image: cut(image, settings.crop, settings.size), workers=workers
            )

        images, sizes = decode.cached_images(cache_folder, f"celeba-{pictures[:32]}.npz", len(selection.rows), build)
        provenance = {
            "data_set": "CelebA",
            "path": str(path),
            "checksum": checksum(pictures, published.texts, dataclasses.asdict(settings)),
            "annotations_checksum": published.annotations_checksum,
            "crop": settings.crop,
            "partitions": {name: "+".join(getattr(settings, name)) or "none" for name in SPLITS},
            "counts": dict(selection.counts),
            "image_files": f"{decode.describe_sizes(sizes)} pixels",
        }
        return listing.assemble(published.table, selection, images, settings.attributes, provenance)


@contextlib.contextmanager
def open_published(path: str | Path) -> Iterator[Published]:
    """Opens a folder or a zip and reads the lists.

    Raises:
        FileNotFoundError: the path, a list or an image is missing.
        ValueError: a zip or a list is damaged.
    """
    with open_archive(path) as outer:
        root = _part_of(outer)
        table, texts = _read_lists(root)
        with _open_images(root) as images:
            missing = _missing(images, table)
            if missing:
                raise FileNotFoundError(
                    f"{listing.describe_missing(missing, len(table.index), images.where(''))} Fetch them, or remove "
                    f"their rows from all lists and correct the count in {ATTRIBUTE_LIST}.txt, line 1."
                )
            yield Published(images, table, texts, image_file)


def defects(path: str | Path, *, workers: int | None = None) -> Iterator[str]:
    """Reads every file of the data set and yields what is wrong with it.

    Args:
        path: as for `load`.
        workers: threads that decode; None for one per core.

    Raises:
        FileNotFoundError: there is no CelebA at the path, or no images.
        ValueError: the file is no zip, or damaged as a whole.
    """
    with open_archive(path) as outer:
        root = _part_of(outer)
        with _open_images(root) as images:
            try:
                table, _ = _read_lists(root)
            except (ValueError, FileNotFoundError) as error:
                yield from DefectError.sentences(error)
            else:
                yield from (f"There is no file {images.where(name)}." for name in _missing(images, table))
            names = sorted(filter(_IMAGE_NAME.fullmatch, images.files("")))
            yield from decode.defects(images, names, lambda image: cut(image, "none", (1, 1)), workers=workers)


def select(table: Table, settings: Settings) -> Selection:
    """Chooses the images of each split; see `Settings`.

    Args:
        table: the lists, in any order.
        settings: the rule.

    Returns:
        Rows of the table for each split, in random order.

    Raises:
        ValueError: there are too few images, or an attribute is unknown.
    """
    for name in settings.attributes or ():
        table.column(name)
    counts = {"annotated": len(table.index)}
    chosen = {}
    for split in SPLITS:
        partitions, size = getattr(settings, split), getattr(settings, f"{split}_size")
        rows = np.flatnonzero(np.isin(table.partition, [PARTITIONS.index(name) for name in partitions]))
        if len(rows) < (int(split != "calibration") if size is None else size):
            raise ValueError(
                f"{split}_size is {size or 'all'}, but the lists have {len(rows)} images of the partition "
                f"{'+'.join(partitions) or 'none'}: choose fewer, or other partitions."
            )
        rows = rows[np.argsort(table.index[rows])]
        chosen[split] = rows[permutation(len(rows), settings.seed)][:size]
        counts[split] = len(chosen[split])
    return Selection(**chosen, counts=counts)


# --- the lists -----------------------------------------------------------------------------------------------------


def parse(attributes: tuple[str, str], partitions: tuple[str, str], identities: tuple[str, str] | None = None) -> Table:
    """Reads the lists, each given as how messages name it and its contents, as published or Kaggle's .csv.

    Returns:
        One row per image, in the order of the numbers.

    Raises:
        ValueError: a list is malformed, or they do not name the same images; names file and line. `DefectError` if it
            is about rows.
    """
    problems: list[str] = []
    names, attribute_rows = _parse_attributes(*attributes, problems)
    numbers = {file: _parse_numbers(file, text, problems) for file, text in filter(None, (partitions, identities))}
    if problems:  # a malformed row has no counterpart either
        raise DefectError(problems)
    problems += listing.sign_problems(attribute_rows, attributes[0])
    for file, rows in numbers.items():
        problems += listing.unmatched(attribute_rows, attributes[0], rows, file, "{:06}.jpg")
        problems += listing.unmatched(rows, file, attribute_rows, attributes[0], "{:06}.jpg")
        known, meaning = (
            (re.compile("[012]"), "0 (train), 1 (validation) or 2 (test)")
            if file == partitions[0]
            else (re.compile("[1-9][0-9]{0,8}"), "the number of a person")
        )
        problems += [
            f"{file}, line {row.line} has the value {row.text.strip()!r}, expected {meaning}."
            for row in rows.values()
            if not known.fullmatch(row.text.strip())
        ]
    if problems:
        raise DefectError(problems)
    index = sorted(attribute_rows)
    partition, identity = (
        np.array([int(numbers[given[0]][i].text) if given else 0 for i in index], np.int32)
        for given in (partitions, identities)
    )
    return Table(
        index=np.array(index, np.int32),
        names=tuple(name.lower() for name in names),
        attributes=np.array([[value == "1" for value in attribute_rows[i].values] for i in index]),
        partition=partition,
        identity=identity,
    )


def _parse_attributes(file: str, text: str, problems: list[str]) -> tuple[list[str], dict[int, listing.Row]]:
    if not delimited.separator(text):
        return listing.parse_counted(text, file, problems, **_IMAGES)
    line, header, rows = delimited.table(text, file, problems)
    columns = header[1:]  # the first is that of the images
    listing.check_columns(columns, f"{file}, line {line}")
    return columns, listing.parse_rows(rows, len(columns), file, problems, **_IMAGES)


def _parse_numbers(file: str, text: str, problems: list[str]) -> dict[int, listing.Row]:
    """Reads "000001.jpg number" per image."""
    _, (first, *_) = next(delimited.rows(text, file), (1, [""]))
    named = delimited.separator(text) and not _IMAGE_NAME.fullmatch(first)
    *_, rows = delimited.table(text, file, problems) if named else (delimited.rows(text, file),)
    return listing.parse_rows(rows, 1, file, problems, **_IMAGES)


def _read_lists(root: Archive) -> tuple[Table, dict[str, str]]:
    files = {stem: _find_list(root, stem) for stem in (ATTRIBUTE_LIST, PARTITION_LIST, IDENTITY_LIST)}
    if not files[IDENTITY_LIST]:
        del files[IDENTITY_LIST]
    texts = {stem: read_text(root, file or f"{stem}.txt") for stem, file in files.items()}
    return parse(*((root.where(files[stem] or ""), text) for stem, text in texts.items())), texts


def _find_list(root: Archive, stem: str) -> str | None:
    return one_of(root, *(f"{folder}{stem}{suffix}" for folder in _LIST_FOLDERS for suffix in (".txt", ".csv")))


# --- files ---------------------------------------------------------------------------------------------------------


def holds(place: Archive) -> bool:
    """Returns whether a folder has CelebA, or a part of it, directly in it."""
    return bool(
        _find_list(place, ATTRIBUTE_LIST)
        or _find_list(place, PARTITION_LIST)
        or _image_folder(place)
        or any(map(place.has, _IMAGE_ZIPS))
    )


def _part_of(outer: Archive) -> Archive:
    expected = (
        f"does not hold CelebA: expected {_IMAGE_FOLDERS[0]}/, {ATTRIBUTE_LIST}.txt and {PARTITION_LIST}.txt in it or "
        "in one folder in it."
    )
    return only(outer, holds, expected)


@contextlib.contextmanager
def _open_images(root: Archive) -> Iterator[Archive]:
    """Opens the folder or the zip of images."""
    folder = _image_folder(root)
    zipped = next(filter(root.has, _IMAGE_ZIPS), None)
    if folder is not None:
        yield root.within(folder)
    elif zipped and isinstance(root, Folder):
        with open_archive(root.path / zipped) as inner:
            yield inner.within(_image_folder(inner) or _IMAGE_FOLDERS[0])
    else:
        raise FileNotFoundError(
            f"There are no images in {root.where('')}: expected {_IMAGE_FOLDERS[0]}/000001.jpg and so on."
            + (f" They are in a zip within the zip: unpack {root.where(zipped)}." if zipped else "")
        )


def _image_folder(root: Archive) -> str | None:
    folders = (name for name in _IMAGE_FOLDERS if any(map(_IMAGE_NAME.fullmatch, root.files(name))))
    return next(folders, None)


def _missing(images: Archive, table: Table) -> list[str]:
    there = images.files("")
    return [name for name in map(image_file, table.index.tolist()) if name not in there]


def image_file(index: int) -> str:
    """Returns the name of an image."""
    return f"{index:06}.jpg"


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Choice(source.Subset):
    """Images of CelebA, however they are stored.

    Attributes:
        subset_size: images for training and validation together; 0 for all of the partitions.
        crop: part of the picture, "larsen" (148 x 148, blurred before it shrinks), "schik" (118 x 118),
            "schik_nearest", "alae" (128 x 128) or "none" (218 x 178); "" for the first of them.
        partitions: the official partitions for training, for validation and, if wanted, for calibration;
            "train+validation/test" trains on two and validates on the third.
    """

    crop: str = ""
    partitions: str = "train/validation/test"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings(source.Request())  # raises what is wrong with crop and partitions

    def settings(self, request: source.Request) -> Settings:
        """Returns the loader's settings."""
        parts = [tuple(part.split("+")) for part in self.partitions.split("/")]
        if len(parts) not in (2, 3):
            raise ValueError(
                f"data.partitions is {self.partitions!r}; expected those for training, for validation and, if wanted, "
                "for calibration, such as 'train/validation/test' or 'train+validation/test'."
            )
        train, validation, calibration = (*parts, ())[:3]
        return Settings(
            image_size=request.image_size,
            crop=self.crop or Settings.crop,
            attributes=request.attributes,
            train=train,
            validation=validation,
            calibration=calibration,
            train_size=self.subset_size - self.validation_size or None,
            validation_size=self.validation_size or None,
            calibration_size=self.calibration_size if calibration else None,
            seed=self.seed,
        )


@dataclasses.dataclass(frozen=True)
class Config(source.Cached, Choice):
    """CelebA as it is published.

    Attributes:
        source: its folder, or a zip.
    """

    kind: str = dataclasses.field(init=False, default="CelebA")


SOURCE = source.published(
    Config,
    load,
    defects,
    holds=holds,
    looked_for=f"CelebA, {ATTRIBUTE_LIST}.txt, {PARTITION_LIST}.txt and {_IMAGE_FOLDERS[0]}/",
    any_shape=True,
)
