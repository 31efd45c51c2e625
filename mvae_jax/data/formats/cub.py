"""CUB-200-2011: birds of 200 species with 312 attributes, in the official split into training and test images.

Reads what is published, from a folder, a zip or the .tgz:

    CUB_200_2011/images.txt                 "1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    CUB_200_2011/images/
    CUB_200_2011/image_class_labels.txt     image, species
    CUB_200_2011/train_test_split.txt       image, 1 to train on or 0 to test
    CUB_200_2011/bounding_boxes.txt         image, left, top, width, height in pixels
    CUB_200_2011/classes.txt                species, name
    attributes.txt                          attribute, name; here, in CUB_200_2011/ or in its attributes/
    CUB_200_2011/attributes/image_attribute_labels.txt                image, attribute, 0 or 1, and more, not used
    CUB_200_2011/attributes/class_attribute_labels_continuous.txt     a row per species: per cent of its images

Attributes are those of the image. Where that file is missing, an image has the attributes that at least half of the
images of its species have; a line of the log and the provenance say so. The species are attributes too, one of them 1:
with all 200, the vector has 512 elements.

Of a part of the data set, images.txt and its companions name the images that are there.

Reference:
    Wah et al., 2011, The Caltech-UCSD Birds-200-2011 Dataset (for research).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvae_jax.data import decode, source
from mvae_jax.data.archive import Archive, DefectError, checksum, leads_outside, only, open_archive, read_text
from mvae_jax.data.batches import Splits, permutation
from mvae_jax.data.formats import delimited, listing

_logger = logging.getLogger(__name__)

CROPS = ("none", "square", "box")
IMAGE_LIST = "images.txt"
IMAGE_FOLDER = "images"
IMAGE_ATTRIBUTES = "attributes/image_attribute_labels.txt"
SPECIES_ATTRIBUTES = "attributes/class_attribute_labels_continuous.txt"

_SPECIES_OF, _SPLIT, _BOXES = "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"
_SPECIES, _ATTRIBUTES = "classes.txt", "attributes.txt"
_NUMBER = re.compile(r"([1-9][0-9]{0,8})")
_MAX_PAIRS = 2**26  # of images and attributes; the published files have 6 million
_CACHE_FORMAT = 1  # raise it when the same inputs give other pixels


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choice of a part of the pictures and of attributes.

    Attributes:
        image_size: height and width in pixels; a number alone is both.
        crop: "none", the whole picture, squeezed to the size; "square", its central square; or "box", the bird's
            bounding box, squeezed.
        attributes: names in the order of the vector, of attributes and of species; None for all attributes and, one
            after the other, the species of which there are images.
    """

    image_size: int | tuple[int, int] = 244
    crop: str = "none"
    attributes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop is {self.crop!r}, expected {', '.join(map(repr, CROPS))}.")
        listing.check_chosen(self.attributes)
        decode.height_and_width(self.image_size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return decode.height_and_width(self.image_size)


@dataclasses.dataclass(frozen=True, eq=False)
class Table(listing.Table):
    """Facts about the images, in the order of their numbers; `names` are attributes, then species.

    Attributes:
        files: the images, relative to `IMAGE_FOLDER`.
        trains: bool [N], whether the official split trains on it.
        boxes: float64 [N, 4]: left, top, width, height, in pixels.
        of_images: whether the attributes are those of the image, not of its species.
    """

    files: tuple[str, ...]
    trains: np.ndarray
    boxes: np.ndarray
    of_images: bool


def load(
    path: str | Path,
    settings: Settings | None = None,
    *,
    cache_folder: str | Path | None = None,
    workers: int | None = None,
) -> Splits:
    """Loads the data set; images are decoded once and then come from a cache.

    The cache is one file per crop and size, named by a checksum of these, of the boxes that are used, and of size and
    CRC-32 (zip) or size and time of modification (folder) of the images. It may be deleted at any time.

    Args:
        path: a folder, a zip, or the .tgz; the data set is in it or in one folder in it.
        settings: which part of the pictures and which attributes; None for the defaults.
        cache_folder: where decoded images are kept; None for the user's cache folder.
        workers: threads that decode; None for one per core.

    Returns:
        The official training images, the official test images as the validation split, both in a random order that is
        always the same, and no calibration images; "index" is the image's number. Their provenance holds the path, a
        checksum, crop, whose attributes they are, the number of images and species, and the size of the files.

    Raises:
        FileNotFoundError: the path, a text file or an image is missing.
        ValueError: a text file or an image is damaged, an attribute is unknown, or there is no image to train on or
            none to test.
    """
    settings = settings or Settings()
    with _open(path) as (archive, outer):
        table, texts = _read(archive, outer)
        missing = _missing(archive, table)
        if missing:
            raise FileNotFoundError(
                f"{listing.describe_missing(missing, len(table.files), archive.where(IMAGE_FOLDER))} Fetch them, or "
                f"remove their rows from {IMAGE_LIST} and its companions."
            )
        names = settings.attributes or table.names
        vectors = table.vectors(names)
        trained_on = int(table.trains.sum())
        # Shuffled, since the files are sorted by species and the first images of a split are those that are shown.
        shuffled = permutation(len(table.files), 0)
        order = shuffled[np.argsort(~table.trains[shuffled], kind="stable")]
        if not 0 < trained_on < len(order):
            raise ValueError(
                f"{archive.where(_SPLIT)} has {trained_on} images to train on and {len(order) - trained_on} to test, "
                "expected at least one of each."
            )
        files = [f"{IMAGE_FOLDER}/{table.files[row]}" for row in order]
        boxes = table.boxes[order]
        pictures = checksum(
            _CACHE_FORMAT,
            *(settings.crop, settings.size, boxes.tolist() if settings.crop == "box" else None),
            [(file, archive.fingerprint(file)) for file in files],
        )

        def build() -> tuple[np.ndarray, np.ndarray]:
            _logger.info("Decoding %d images of %s, once.", len(files), path)
            cuts = [functools.partial(cut, crop=settings.crop, size=settings.size, box=box) for box in boxes.tolist()]
            return decode.decode_images(archive, files, cuts, workers=workers)

        images, sizes = decode.cached_images(cache_folder, f"cub-{pictures[:32]}.npz", len(files), build)
    if not table.of_images:
        _logger.info("%s is not there: images have the attributes that half of their species have.", IMAGE_ATTRIBUTES)
    provenance = {
        "data_set": "CUB-200-2011",
        "path": str(path),
        "checksum": checksum(pictures, texts, dataclasses.asdict(settings)),
        "crop": settings.crop,
        "attributes_of": "images" if table.of_images else "species (at least half of its images)",
        "counts": {
            "species": len({file.partition("/")[0] for file in table.files}),
            "train": trained_on,
            "validation": len(order) - trained_on,
        },
        "image_files": f"{decode.describe_sizes(sizes)} pixels",
    }
    arrays = {"image": images, "attributes": vectors[order].astype(np.float32), "index": table.index[order]}
    return Splits.cut(arrays, trained_on, len(order) - trained_on, names, provenance)


def defects(path: str | Path, *, workers: int | None = None) -> Iterator[str]:
    """Reads every text file and every image that they list, and yields what is wrong with them.

    Args:
        path: as for `load`.
        workers: threads that decode; None for one per core.

    Raises:
        FileNotFoundError: there is no CUB-200-2011 at the path.
        ValueError: the file is no zip, or damaged as a whole.
    """
    with _open(path) as (archive, outer):
        try:
            table, _ = _read(archive, outer)
        except (ValueError, FileNotFoundError) as error:
            yield from DefectError.sentences(error)
            return
        missing = _missing(archive, table)
        yield from (f"There is no file {archive.where(f'{IMAGE_FOLDER}/{file}')}." for file in missing)
        there = [row for row, file in enumerate(table.files) if file not in set(missing)]
        files = [f"{IMAGE_FOLDER}/{table.files[row]}" for row in there]
        cuts = [functools.partial(cut, crop="box", size=(1, 1), box=box) for box in table.boxes[there].tolist()]
        yield from decode.defects(archive, files, cuts, workers=workers)


def cut(image: Image.Image, crop: str, size: tuple[int, int], box: Sequence[float]) -> Image.Image:
    """Returns a part of an image as RGB, resized by Lanczos' kernel.

    Args:
        image: any mode and size.
        crop: one of `CROPS`.
        size: height and width of the result.
        box: left, top, width and height; what lies beyond the image is left out.

    Raises:
        ValueError: the box lies outside the image.
    """
    image = decode.to_rgb(image)
    width, height = image.size
    if crop == "square":
        side = min(image.size)
        box = ((width - side) // 2, (height - side) // 2, side, side)
    elif crop == "none":
        box = (0, 0, width, height)
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[0] + box[2], width), min(box[1] + box[3], height)
    if right <= left or bottom <= top:
        raise ValueError(f"its bounding box {tuple(box)} has nothing of the {width} x {height} pixels in it")
    return image.resize(size[::-1], Image.Resampling.LANCZOS, box=(left, top, right, bottom))


# --- text files ----------------------------------------------------------------------------------------------------


def _read(archive: Archive, outer: Archive) -> tuple[Table, dict[str, str]]:
    """Reads the text files; also returns their contents by name."""
    texts = {name: read_text(archive, name) for name in (IMAGE_LIST, _SPECIES_OF, _SPLIT, _BOXES, _SPECIES)}
    places = ((archive, f"attributes/{_ATTRIBUTES}"), (archive, _ATTRIBUTES), (outer, _ATTRIBUTES))
    texts[_ATTRIBUTES] = read_text(*next((place for place in places if place[0].has(place[1])), places[0]))
    problems: list[str] = []
    images, species_of, split, boxes, species, attributes = (
        _rows(text, archive.where(name), 4 if name == _BOXES else 1, problems) for name, text in texts.items()
    )
    if problems:  # a malformed row has no counterpart either
        raise DefectError(problems)
    listed = archive.where(IMAGE_LIST)
    if not images:
        raise ValueError(f"{listed} lists no images, expected a line '1 001.Black_footed_Albatross/....jpg' for each.")
    for name, rows in ((_SPECIES_OF, species_of), (_SPLIT, split), (_BOXES, boxes)):
        problems += listing.unmatched(images, listed, rows, archive.where(name), "image {}")
        problems += listing.unmatched(rows, archive.where(name), images, listed, "image {}")
    known = {str(number) for number in species}
    problems += _strange(images, listed, lambda text: not leads_outside(text), "a file in the folder of its species")
    problems += _strange(species_of, archive.where(_SPECIES_OF), known.__contains__, f"a number of {_SPECIES}")
    problems += _strange(split, archive.where(_SPLIT), {"0", "1"}.__contains__, "1 to train on or 0 to test")
    problems += _strange(boxes, archive.where(_BOXES), _is_box, "left, top, width and height in pixels")
    if problems:
        raise DefectError(problems)
    index, kinds = sorted(images), sorted(species)
    if len(index) * (len(attributes) + len(kinds)) > _MAX_PAIRS:
        raise ValueError(
            f"{listed} has {len(index)} images, and there are {len(attributes)} attributes and {len(kinds)} species, "
            f"expected at most {_MAX_PAIRS} pairs: it is not CUB-200-2011."
        )
    species_at = np.array([kinds.index(int(species_of[i].text)) for i in index])
    shape = (len(index), len(attributes))
    if archive.has(IMAGE_ATTRIBUTES):
        texts[IMAGE_ATTRIBUTES] = read_text(archive, IMAGE_ATTRIBUTES)
        present = _of_images(texts[IMAGE_ATTRIBUTES], archive.where(IMAGE_ATTRIBUTES), index, sorted(attributes))
    else:
        texts[SPECIES_ATTRIBUTES] = read_text(archive, SPECIES_ATTRIBUTES)
        percent = _of_species(texts[SPECIES_ATTRIBUTES], archive.where(SPECIES_ATTRIBUTES), (len(kinds), shape[1]))
        present = percent[species_at] >= 50
    there = np.unique(species_at)
    table = Table(
        index=np.array(index, np.int32),
        names=tuple(attributes[i].text for i in sorted(attributes)) + tuple(species[kinds[i]].text for i in there),
        attributes=np.concatenate([present, species_at[:, None] == there], axis=1),
        files=tuple(images[i].text for i in index),
        trains=np.array([split[i].text == "1" for i in index]),
        boxes=np.array([list(map(float, boxes[i].values)) for i in index]),
        of_images=IMAGE_ATTRIBUTES in texts,
    )
    if len(set(table.names)) < len(table.names):
        raise ValueError(f"{archive.where(_SPECIES)} or {_ATTRIBUTES} has a name twice: fetch it again.")
    return table, texts


def _rows(text: str, file: str, width: int, problems: list[str]) -> dict[int, listing.Row]:
    """Reads rows "NUMBER value ..."."""
    return listing.parse_rows(delimited.rows(text, file), width, file, problems, pattern=_NUMBER, example="17")


def _strange(rows: dict[int, listing.Row], file: str, good: Any, expected: str) -> Iterator[str]:
    for row in rows.values():
        if not good(row.text):
            yield f"{file}, line {row.line} has {row.text!r}, expected {expected}."


def _is_box(text: str) -> bool:
    try:
        left, top, width, height = map(float, text.split())
    except ValueError:
        return False
    return all(map(math.isfinite, (left, top, width, height))) and width > 0 and height > 0


def _numbers(text: str, file: str, expected: str, **options: Any) -> np.ndarray:
    """Reads rows of numbers, [rows, columns]."""
    try:
        if not text.strip():
            raise ValueError("it is empty")
        return np.loadtxt(io.StringIO(text), comments=None, ndmin=2, **options)
    except ValueError as error:
        raise ValueError(f"{file} is malformed ({error}): expected {expected}.") from None


def _of_images(text: str, file: str, index: list[int], attributes: list[int]) -> np.ndarray:
    """Attributes of the images, bool [N, A].

    Some rows of the published file have two columns more than the others: only the first three are read.
    """
    expected = "'image attribute 0' or '... 1' in each row"
    image, attribute, value = _numbers(text, file, expected, dtype=np.int64, usecols=(0, 1, 2)).T
    rows, places = np.searchsorted(index, image), np.searchsorted(attributes, attribute)
    for name, numbers, known, positions in (
        ("image", image, index, rows),
        ("attribute", attribute, attributes, places),
    ):
        wrong = np.flatnonzero(np.append(known, -1)[positions] != numbers)
        if len(wrong):
            raise ValueError(f"{file} has the {name} {numbers[wrong[0]]}, which is not in the list of these.")
    wrong = np.flatnonzero((value != 0) & (value != 1))
    if len(wrong):
        raise ValueError(
            f"{file} has the value {value[wrong[0]]} for image {image[wrong[0]]} and attribute {attribute[wrong[0]]}, "
            "expected 0 or 1."
        )
    times = np.zeros((len(index), len(attributes)), np.int32)
    np.add.at(times, (rows, places), 1)
    pairs = np.argwhere(times != 1)
    if len(pairs):
        row, place = pairs[0]
        raise ValueError(
            f"{file} has {len(pairs)} pairs of image and attribute not just once, the first of image {index[row]} and "
            f"attribute {attributes[place]}, {times[row, place]} times: fetch it again."
        )
    present = np.zeros(times.shape, bool)
    present[rows, places] = value == 1
    return present


def _of_species(text: str, file: str, shape: tuple[int, int]) -> np.ndarray:
    """Part of the images of a species that have an attribute, in per cent, float64 [S, A]."""
    percent = _numbers(text, file, "a row of numbers for each species")
    if percent.shape != shape:
        raise ValueError(
            f"{file} has {percent.shape[0]} rows of {percent.shape[1]} numbers, expected {shape[0]} of {shape[1]}: one "
            "for each species and attribute."
        )
    if not ((percent >= 0) & (percent <= 100)).all():
        row, column = np.argwhere(~((percent >= 0) & (percent <= 100)))[0]
        raise ValueError(f"{file}, line {row + 1} has the value {percent[row, column]}, expected 0 to 100 per cent.")
    return percent


# --- files ---------------------------------------------------------------------------------------------------------


def holds(place: Archive) -> bool:
    """Returns whether a folder has CUB-200-2011 directly in it."""
    return place.has(IMAGE_LIST) and place.has(_SPECIES_OF)


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[tuple[Archive, Archive]]:
    """Opens the data set; also yields what is one level up, where the .tgz has attributes.txt."""
    expected = (
        f"does not hold CUB-200-2011: expected {IMAGE_LIST}, {_SPECIES_OF} and {IMAGE_FOLDER}/ in it or in one folder "
        "in it."
    )
    with open_archive(path) as outer:
        archive = only(outer, holds, expected)
        yield archive, archive.above()


def _missing(archive: Archive, table: Table) -> list[str]:
    there = {
        f"{folder}/{file}"
        for folder in {file.rpartition("/")[0] for file in table.files}
        for file in archive.files(f"{IMAGE_FOLDER}/{folder}")
    }
    return [file for file in table.files if file not in there]


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config(source.Cached):
    """CUB-200-2011, of which all images are used, in the official splits.

    Attributes:
        source: its folder, a zip or the .tgz.
        crop: part of the picture, "none" (squeezed), "square" (the central one) or "box" (the bird's); "" for the
            first of them.
    """

    kind: str = dataclasses.field(init=False, default="CUB-200-2011")
    crop: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings(source.Request())  # raises what is wrong with the crop

    def settings(self, request: source.Request) -> Settings:
        """Returns the loader's settings."""
        return Settings(request.image_size, self.crop or Settings.crop, request.attributes)


SOURCE = source.published(
    Config,
    load,
    defects,
    holds=holds,
    looked_for=f"CUB-200-2011, {IMAGE_LIST}, {_SPECIES_OF} and {IMAGE_FOLDER}/",
    any_shape=True,
)
