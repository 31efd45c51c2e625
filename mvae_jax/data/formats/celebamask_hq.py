"""CelebAMask-HQ: frontal faces with attributes, as many women as men or all of them, for training and evaluation.

Reads the layout as published, from a folder or straight from the zip:

    CelebAMask-HQ/CelebA-HQ-img/N.jpg
    CelebAMask-HQ/CelebAMask-HQ-attribute-anno.txt    count; 40 names; "N.jpg v1 ... v40" with v in {-1, 1}
    CelebAMask-HQ/CelebAMask-HQ-pose-anno.txt         count; "Yaw Pitch Raw"; "N.jpg yaw pitch roll" in degrees

The subset follows the rule of the multimodal VAE (MM-10). Its images are not the very ones of the published run:
that run drew them with Python's `random` and PyTorch's generator, we draw them with `batches.permutation`.

Reference:
    Lee et al., 2020, arXiv:1907.11922 (the data set, for non-commercial research).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvae_jax.data import decode, source
from mvae_jax.data.archive import Archive, DefectError, only, open_archive, read_text
from mvae_jax.data.batches import Splits, permutation
from mvae_jax.data.formats import listing
from mvae_jax.data.formats.listing import Selection
from mvae_jax.data.rendered import faces

_logger = logging.getLogger(__name__)

ATTRIBUTE_FILE = "CelebAMask-HQ-attribute-anno.txt"
POSE_FILE = "CelebAMask-HQ-pose-anno.txt"
IMAGE_FOLDER = "CelebA-HQ-img"

_IMAGE_NAME = re.compile(r"(0|[1-9][0-9]{0,8})\.jpg")
_CACHE_FORMAT = 2  # raise it when the same inputs give other pixels
_FEMALE, _MALE, _SUBSET, _CALIBRATION, _EVERYBODY = range(5)  # streams of the selection's draws
_LIMITS = ("maximum_yaw", "maximum_pitch", "maximum_roll")  # in the order of the pose


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choice of images and attributes; the defaults are those of the multimodal VAE (MM-10).

    Attributes:
        image_size: height and width to which images are resized (Lanczos), in pixels.
        attributes: names in the order of the attribute vector: any of the file's 40 in snake case, and `female`,
            which the data set understands as not `male`.
        maximum_yaw: largest |yaw| of the head, in degrees, from 0 to 180.
        maximum_pitch: largest |pitch|, likewise.
        maximum_roll: largest |roll|, likewise.
        minimum_attributes: how many of `attributes` an image must have, at least 0. Where both `male` and `female` are
            listed, gender is one that everybody has.
        balanced: choose as many women as men; otherwise everybody is as likely.
        subset_size: images for training and validation together; 0 for all that are eligible, but for those of the
            calibration. If balanced even, half of them men.
        validation_fraction: part of the subset that is kept for validation, in (0, 1).
        calibration_size: further images, neither trained on nor scored, from which thresholds are calibrated; if
            balanced even, half of them men.
        seed: of the random choice; not negative.
    """

    image_size: int = 64
    attributes: tuple[str, ...] = faces.ATTRIBUTES
    maximum_yaw: float = 20.0
    maximum_pitch: float = 15.0
    maximum_roll: float = 15.0
    minimum_attributes: int = 3
    balanced: bool = True
    subset_size: int = 5000
    validation_fraction: float = 0.1
    calibration_size: int = 500
    seed: int = 42

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}, expected a number of pixels such as 64.")
        listing.check_chosen(self.attributes)
        for name in _LIMITS:
            if not 0 <= getattr(self, name) <= 180:
                raise ValueError(f"{name} is {getattr(self, name)}, expected degrees from 0 to 180, which is no limit.")
        if self.minimum_attributes < 0:
            raise ValueError(
                f"minimum_attributes is {self.minimum_attributes}, expected at least 0, which is no limit."
            )
        sizes = f"subset_size is {self.subset_size} and calibration_size {self.calibration_size}"
        if self.subset_size < 0 or self.subset_size == 1 or self.calibration_size < 0:
            raise ValueError(
                f"{sizes}, expected at least 2 for the subset, or 0 for all eligible images, and at least 0."
            )
        if self.balanced and (self.subset_size % 2 or self.calibration_size % 2):
            raise ValueError(f"{sizes}, expected even numbers: half of the images show men, unless balanced=false.")
        if not 0 < self.validation_fraction < 1 or self.subset_size:
            self.validation_of(self.subset_size)
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected a number that is not negative.")

    def validation_of(self, subset_size: int) -> int:
        """Images of a subset of this size that are for validation.

        Raises:
            ValueError: none would be left for training, or for validation.
        """
        size = round(subset_size * self.validation_fraction)
        if not 1 <= size < subset_size:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} of subset_size {subset_size}, expected to leave "
                "images for training and for validation: choose it between 0 and 1."
            )
        return size


@dataclasses.dataclass(frozen=True, eq=False)
class Table(listing.Table):
    """The two annotation files, one row per image, in the order of the image numbers.

    Attributes:
        index: int32 [N], the N of N.jpg, increasing.
        names: the file's attribute names in snake case.
        attributes: bool [N, len(names)].
        pose: float64 [N, 3]: yaw, pitch, roll, in degrees.
    """

    pose: np.ndarray

    def scaled_pose(self) -> dict[str, np.ndarray]:
        """The array "pose" of splits, see `faces.in_pose_units`, by name."""
        return {"pose": faces.in_pose_units(self.pose)}


Published = listing.Published[Table]


def load(
    path: str | Path,
    settings: Settings | None = None,
    *,
    pose: bool = False,
    cache_folder: str | Path | None = None,
    workers: int | None = None,
) -> Splits:
    """Loads the data set; the selected images are decoded once and then come from a cache.

    The cache is one file per choice of data and settings, named by a checksum of the annotation files, of size and
    CRC-32 (zip) or size and time of modification (folder) of the selected images, and of the settings. Cache files
    may be deleted at any time.

    Args:
        path: a folder, a zip or a tar; the data set is in it or in one folder in it.
        settings: which images and attributes; None for the defaults.
        pose: whether the splits have "pose" too, yaw, pitch and roll, float32 [N, 3] in units of 30 degrees.
        cache_folder: where decoded images are kept; None for the user's cache folder.
        workers: threads that decode; None for one per core.

    Returns:
        The three splits; "index" is the N of N.jpg. Their provenance holds the path, checksums of everything and of
        the annotations alone, the number of images that each stage left, and the size of the image files.

    Raises:
        FileNotFoundError: the path, an annotation file or an image is missing.
        ValueError: an annotation file or an image is damaged, an attribute is unknown, or too few images are
            eligible.
    """
    settings = settings or Settings()
    with open_published(path) as published:
        selection = select(published.table, settings)
        files = published.files(selection.rows)
        checksum = published.checksum(selection.rows, _CACHE_FORMAT, dataclasses.asdict(settings))

        def build() -> tuple[np.ndarray, np.ndarray]:
            _logger.info("Decoding %d images of %s, once.", len(files), path)
            return decode.decode_images(
                published.archive, files, lambda image: resize(image, settings.image_size), workers=workers
            )

        name = f"celebamask_hq-{checksum[:32]}.npz"
        images, sizes = decode.cached_images(cache_folder, name, len(files), build)
    provenance = {
        "data_set": "CelebAMask-HQ",
        "path": str(path),
        "checksum": checksum,
        "annotations_checksum": published.annotations_checksum,
        "counts": dict(selection.counts),
        "image_files": f"{decode.describe_sizes(sizes)} pixels",
    }
    table = published.table
    further = table.scaled_pose() if pose else {}
    return listing.assemble(table, selection, images, settings.attributes, provenance, further)


@contextlib.contextmanager
def open_published(path: str | Path) -> Iterator[Published]:
    """Opens a folder, a zip or a tar, and reads the annotations.

    Raises:
        FileNotFoundError: the path, an annotation file or an image is missing.
        ValueError: the zip or an annotation file is damaged.
    """
    with open_archive(path) as outer:
        archive = _part_of(outer)
        table, texts = _read_annotations(archive)
        missing = _missing(archive, table)
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(table.index)} images are missing, first {archive.where(missing[0])}: fetch "
                "them, or remove their rows from both annotation files and correct the counts in line 1."
            )
        yield Published(archive, table, texts, image_file)


def defects(path: str | Path, *, workers: int | None = None) -> Iterator[str]:
    """Reads every file of the data set and yields what is wrong with it.

    Args:
        path: as for `load`.
        workers: threads that decode; None for one per core.

    Raises:
        FileNotFoundError: there is no CelebAMask-HQ at the path.
        ValueError: the file is no zip, or damaged as a whole.
    """
    with open_archive(path) as outer:
        archive = _part_of(outer)
        try:
            table, _ = _read_annotations(archive)
        except (ValueError, FileNotFoundError) as error:
            yield from DefectError.sentences(error)
        else:
            yield from (f"There is no file {archive.where(name)}." for name in _missing(archive, table))
        images = sorted(name for name in archive.files(IMAGE_FOLDER) if _IMAGE_NAME.fullmatch(name))
        names = [f"{IMAGE_FOLDER}/{name}" for name in images]
        yield from decode.defects(archive, names, lambda image: resize(image, 1), workers=workers)


def select(table: Table, settings: Settings) -> Selection:
    """Chooses the images of each split.

    Eligible are frontal faces with enough attributes. Balanced, women and men are each put into a random order; the
    first `subset_size` / 2 of both are the subset and the next `calibration_size` / 2 the calibration images; otherwise
    all are put into one order, and subset and calibration follow each other in it. A random part of the subset is the
    validation split, so only subset and calibration are balanced exactly. `calibration_size` changes neither training
    nor validation images, unless the subset is all others.

    Args:
        table: the annotations.
        settings: the rule.

    Returns:
        Rows of the table for each split, in random order.

    Raises:
        ValueError: too few images are eligible, the minimum is greater than the number of attributes, or an attribute
            is unknown.
    """
    frontal = np.all(np.abs(table.pose) <= [getattr(settings, name) for name in _LIMITS], axis=1)
    vectors = table.vectors(settings.attributes)
    if settings.minimum_attributes > vectors.shape[1]:
        raise ValueError(
            f"minimum_attributes is {settings.minimum_attributes}, expected at most {vectors.shape[1]}, the number of "
            f"attributes ({', '.join(settings.attributes)}): lower it, or choose more attributes."
        )
    eligible = frontal & (vectors.sum(axis=1) >= settings.minimum_attributes)
    male = table.column("male")
    rows = {_FEMALE: np.flatnonzero(eligible & ~male), _MALE: np.flatnonzero(eligible & male)}
    counts = {
        "annotated": len(table.index),
        "frontal": int(frontal.sum()),
        "eligible": int(eligible.sum()),
        "eligible_female": len(rows[_FEMALE]),
        "eligible_male": len(rows[_MALE]),
    }
    if not settings.balanced:
        rows = {_EVERYBODY: np.flatnonzero(eligible)}
    groups = len(rows)
    fewest, further = min(map(len, rows.values())), settings.calibration_size // groups
    share = settings.subset_size // groups or fewest - further
    least = 1 if settings.balanced else 2  # of each group, for a subset of two images
    if not least <= share <= fewest - further:
        needed = f"{max(share, least) + further} {'of each' if settings.balanced else 'images'}"
        raise ValueError(
            f"{counts['eligible_female']} women and {counts['eligible_male']} men are eligible (of "
            f"{counts['annotated']} images {counts['frontal']} are frontal, {counts['eligible']} of these have "
            f"{settings.minimum_attributes} or more of the attributes), but subset_size {settings.subset_size} and "
            f"calibration_size {settings.calibration_size} need {needed}: choose sizes that add up to at most "
            f"{groups * fewest}, or relax minimum_attributes, {_LIMITS[0]}, {_LIMITS[1]} or {_LIMITS[2]}"
            f"{', or set balanced=false' if settings.balanced else ''}."
        )
    order = {stream: rows[stream][permutation(len(rows[stream]), settings.seed, stream)] for stream in rows}
    subset = np.concatenate([order[stream][:share] for stream in order])
    subset = subset[permutation(len(subset), settings.seed, _SUBSET)]
    train, validation = np.split(subset, [len(subset) - settings.validation_of(len(subset))])
    calibration = np.concatenate([order[stream][share : share + further] for stream in order])
    calibration = calibration[permutation(len(calibration), settings.seed, _CALIBRATION)]
    counts |= {"train": len(train), "validation": len(validation), "calibration": len(calibration)}
    return Selection(train, validation, calibration, counts)


def parse(
    attribute_text: str, pose_text: str, attribute_file: str = ATTRIBUTE_FILE, pose_file: str = POSE_FILE
) -> Table:
    """Reads the two annotation files.

    Args:
        attribute_text: contents of the attribute file.
        pose_text: contents of the pose file.
        attribute_file: how messages name the attribute file.
        pose_file: how messages name the pose file.

    Returns:
        One row per image; the files may list them in any order.

    Raises:
        ValueError: a file is malformed, or the two do not have the same images; names file and line. `DefectError` if
            it is about rows.
    """
    problems: list[str] = []
    images: Any = {"pattern": _IMAGE_NAME, "example": "17.jpg"}
    names, attribute_rows = listing.parse_counted(attribute_text, attribute_file, problems, **images)
    angles, pose_rows = listing.parse_counted(pose_text, pose_file, problems, **images)
    if "Male" not in names:
        raise ValueError(f"{attribute_file}, line 2 does not name the attribute 'Male', expected the 40 names.")
    if [angle.lower() for angle in angles] not in (["yaw", "pitch", "raw"], ["yaw", "pitch", "roll"]):
        raise ValueError(f"{pose_file}, line 2 is {' '.join(angles)!r}, expected 'Yaw Pitch Raw'.")
    if problems:  # a malformed row has no counterpart either
        raise DefectError(problems)
    problems += listing.unmatched(attribute_rows, attribute_file, pose_rows, pose_file, "{}.jpg")
    problems += listing.sign_problems(attribute_rows, attribute_file)
    problems += listing.unmatched(pose_rows, pose_file, attribute_rows, attribute_file, "{}.jpg")
    problems += _pose_problems(pose_rows, pose_file)
    if problems:
        raise DefectError(problems)
    index = sorted(attribute_rows)
    return Table(
        index=np.array(index, np.int32),
        names=tuple(name.lower() for name in names),
        attributes=np.array([attribute_rows[i].values for i in index]) == "1",
        pose=np.array([list(map(float, pose_rows[i].values)) for i in index]),
    )


def _pose_problems(rows: Mapping[int, listing.Row], file: str) -> Iterator[str]:
    for row in rows.values():
        try:
            finite = all(math.isfinite(float(value)) for value in row.values)
        except ValueError:
            finite = False
        if not finite:
            yield f"{file}, line {row.line} has the values {row.values}, expected three angles in degrees."


def holds(place: Archive) -> bool:
    """Returns whether a folder has CelebAMask-HQ, or a part of it, directly in it."""
    return any(map(place.has, (ATTRIBUTE_FILE, POSE_FILE))) or bool(place.files(IMAGE_FOLDER))


def _part_of(outer: Archive) -> Archive:
    expected = (
        f"does not hold CelebAMask-HQ: expected {ATTRIBUTE_FILE}, {POSE_FILE} and {IMAGE_FOLDER}/ in it or in one "
        "folder in it. If the data set is still zipped, give the path of the zip."
    )
    return only(outer, holds, expected)


def _read_annotations(archive: Archive) -> tuple[Table, dict[str, str]]:
    texts = {name: read_text(archive, name) for name in (ATTRIBUTE_FILE, POSE_FILE)}
    table = parse(texts[ATTRIBUTE_FILE], texts[POSE_FILE], archive.where(ATTRIBUTE_FILE), archive.where(POSE_FILE))
    return table, texts


def image_file(index: int) -> str:
    """Returns the name of an image within the data set."""
    return f"{IMAGE_FOLDER}/{index}.jpg"


def _missing(archive: Archive, table: Table) -> list[str]:
    files = archive.files(IMAGE_FOLDER)
    return [image_file(i) for i in table.index.tolist() if f"{i}.jpg" not in files]


def resize(image: Image.Image, size: int) -> Image.Image:
    """Returns the image as RGB, size x size; ValueError unless it is a square, as the published ones are."""
    if image.width != image.height:
        raise ValueError(f"it is {image.width} x {image.height} pixels, expected a square")
    return decode.square(image, size)


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Choice(source.Subset):
    """Images of CelebAMask-HQ, however they are stored.

    Attributes:
        subset_size: images for training and validation together, 0 for all eligible ones; if balanced even.
        calibration_size: further images, from which the threshold of the consistency check is taken; if balanced even.
        minimum_attributes: how many of the attributes an image must have (MM-10).
        maximum_yaw: largest |yaw| of the head in degrees, 180 for no limit (MM-10).
        maximum_pitch: largest |pitch|, likewise (MM-10).
        maximum_roll: largest |roll|, likewise (MM-10).
        balanced: choose as many women as men; otherwise everybody is as likely (MM-10).
    """

    minimum_attributes: int = Settings.minimum_attributes
    maximum_yaw: float = Settings.maximum_yaw
    maximum_pitch: float = Settings.maximum_pitch
    maximum_roll: float = Settings.maximum_roll
    balanced: bool = Settings.balanced

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings(source.Request())  # raises what is wrong with sizes and limits

    def settings(self, request: source.Request) -> Settings:
        """Returns the loader's settings."""
        shared = {field.name for field in dataclasses.fields(Settings)} - {"image_size", "attributes"}
        return Settings(
            image_size=request.side(self.kind),
            attributes=faces.ATTRIBUTES if request.attributes is None else request.attributes,
            **{name: getattr(self, name) for name in shared},
        )


@dataclasses.dataclass(frozen=True)
class Config(source.Cached, Choice):
    """CelebAMask-HQ as it is published.

    Attributes:
        source: its folder, or a zip.
    """

    kind: str = dataclasses.field(init=False, default="CelebAMask-HQ")


SOURCE = source.published(
    Config,
    load,
    defects,
    holds=holds,
    looked_for=f"CelebAMask-HQ, {ATTRIBUTE_FILE}, {POSE_FILE} and {IMAGE_FOLDER}/",
    has_pose=True,
)
