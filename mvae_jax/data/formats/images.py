"""A user's images alone, in a folder or a zip: data for every model that needs no attributes.

JPEG, PNG and WebP files of any size at any depth, whatever their names: their central squares are used. They are split
at random. Numbers in names count by their value, so image 10 comes after image 9 on every machine. Files of other
kinds are left out, and a line of the log counts them.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mvae_jax.data import decode, source
from mvae_jax.data.archive import Archive, checksum, open_archive
from mvae_jax.data.batches import Splits, permutation
from mvae_jax.data.names import is_hidden

_logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "calibration")

_SHOWN = 5  # folders in a line of the log
_CACHE_FORMAT = 1  # raise it when the same inputs give other pixels


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choice of images.

    Attributes:
        image_size: height and width to which the central squares are resized (Lanczos), in pixels.
        validation_fraction: part of the images that is kept for validation, in (0, 1).
        seed: of the split; not negative.
    """

    image_size: int = 64
    validation_fraction: float = 0.1
    seed: int = 42

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}, expected a number of pixels such as 64.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}, expected a part between 0 and 1.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected a number that is not negative.")


def load(
    path: str | Path,
    settings: Settings | None = None,
    *,
    cache_folder: str | Path | None = None,
    workers: int | None = None,
) -> Splits:
    """Loads the images; they are decoded once and then come from a cache, see `squares`.

    Args:
        path: the folder, a zip or a tar.
        settings: the defaults for None.
        cache_folder: where decoded images are kept; None for the user's cache folder.
        workers: threads that decode; None for one per core.

    Returns:
        The splits, of which calibration is empty, without attributes; "index" is an image's place in natural order.

    Raises:
        FileNotFoundError: there is nothing at the path, or no image.
        ValueError: an image is damaged, or there are too few of them.
    """
    settings = settings or Settings()
    with open_archive(path) as archive:
        names = image_names(archive)
        _logger.info("%s: %s. Attributes, if there are any, are not read.", path, _folders(names))
        order, sizes, how = random_split(len(names), settings.validation_fraction, 0, settings.seed, str(path))
        decoded = squares(archive, names, settings.image_size, cache_folder=cache_folder, workers=workers)
    provenance = {
        "data_set": Config.kind,
        "path": str(path),
        "checksum": checksum(decoded.checksum, settings.validation_fraction, settings.seed),
        "counts": {"listed": len(names), **dict(zip(SPLITS[:2], sizes, strict=False))},
        "split": how,
        **decoded.provenance,
    }
    arrays = {"image": decoded.images[order], "index": order.astype(np.int32)}
    return Splits.cut(arrays, sizes[0], sizes[1], (), provenance)


def defects(path: str | Path, *, workers: int | None = None) -> Iterator[str]:
    """Reads every image and yields what is wrong with it.

    Raises:
        FileNotFoundError: there is nothing at the path, or no image.
        ValueError: the file is no zip, or damaged as a whole.
    """
    with open_archive(path) as archive:
        yield from decode.defects(archive, image_names(archive), lambda image: decode.square(image, 1), workers=workers)


# --- shared with images that a CSV lists, and with pyramids ----------------------------------------------------------


class Squares(NamedTuple):
    """Central squares of N files.

    Attributes:
        images: uint8 [N, S, S, 3].
        checksum: of the images' size and of the files, unread.
        provenance: what a report says of the files: their sizes, how many were cropped or enlarged.
    """

    images: np.ndarray
    checksum: str
    provenance: dict[str, Any]


def squares(
    archive: Archive,
    names: Sequence[str],
    size: int,
    *,
    cache_folder: str | Path | None = None,
    workers: int | None = None,
) -> Squares:
    """Decodes files, or takes them from a cache.

    The cache is one file, named by a checksum of the image size, and of name, size and CRC-32 (zip) or time of
    modification (folder) of all images. It may be deleted at any time.

    Args:
        archive: where they are.
        names: of the N files, each of which is there.
        size: S, height and width of the result, in pixels.
        cache_folder: where decoded images are kept; None for the user's cache folder.
        workers: threads that decode; None for one per core.

    Raises:
        ValueError: an image is damaged.
    """
    fingerprints = checksum(_CACHE_FORMAT, size, [(name, archive.fingerprint(name)) for name in names])

    def build() -> tuple[np.ndarray, np.ndarray]:
        _logger.info("Decoding %d images of %s, once.", len(names), archive.where(""))
        return decode.decode_images(archive, names, lambda image: decode.square(image, size), workers=workers)

    pictures, pixels = decode.cached_images(cache_folder, f"folder-{fingerprints[:32]}.npz", len(names), build)
    cropped, enlarged = int((pixels[:, 0] != pixels[:, 1]).sum()), int((pixels.min(1) < size).sum())
    if cropped:
        _logger.info("%d of %d images are not square: cropped to their central square.", cropped, len(names))
    if enlarged:
        _logger.info("%d of %d images have fewer than %d pixels.", enlarged, len(names), size)
    provenance = {
        "image_files": f"{decode.describe_sizes(pixels)} pixels",
        "cropped": cropped,
        "enlarged": enlarged,
    }
    return Squares(pictures, fingerprints, provenance)


def random_split(
    count: int, validation_fraction: float, calibration: int, seed: int, where: str
) -> tuple[np.ndarray, list[int], str]:
    """Draws images for training, for validation and for calibration; equal arguments draw the same ones.

    Args:
        count: of all images.
        validation_fraction: part of those that are not for calibration.
        calibration: images that are.
        seed: of the draw.
        where: how messages name what has the images.

    Returns:
        The images' numbers, split after split; the sizes of the three splits; and how they were chosen, in words.

    Raises:
        ValueError: there are too few.
    """
    sizes = _sizes(count, validation_fraction, calibration)
    if not sizes:
        wanted = f"calibration_size {calibration} and " if calibration else ""
        of_rest = " of the rest" if calibration else ""
        raise ValueError(
            f"{where} has {count} image{'' if count == 1 else 's'}, too few for {wanted}validation_fraction "
            f"{validation_fraction}{of_rest}: {_remedy(count, validation_fraction, calibration)}."
        )
    how = f"drawn at random by seed {seed}"
    log_sizes(where, sizes, how)
    if calibration > sizes[0]:
        _logger.warning("%s: a smaller calibration_size than %d leaves more for training.", where, calibration)
    return permutation(count, seed), sizes, how


def log_sizes(where: str, sizes: Sequence[int], how: str) -> None:
    """Logs how many images the splits have.

    Args:
        where: what has them.
        sizes: of the three splits.
        how: they were chosen.
    """
    counts = [f"{size} for {name}" for size, name in zip(sizes, ("training", *SPLITS[1:]), strict=True) if size]
    _logger.info("%s: of %d images %s, %s.", where, sum(sizes), ", ".join(counts), how)


def _sizes(count: int, validation_fraction: float, calibration: int) -> list[int]:
    """How many images are for training, validation and calibration; none if one of the first two has none."""
    rest = count - calibration
    validation = round(rest * validation_fraction)
    return [rest - validation, validation, calibration] if 0 < validation < rest else []


def _remedy(count: int, validation_fraction: float, calibration: int) -> str:
    """The settings with which a number of images can be split that those given do not split."""
    fewer = min(calibration, max(1, count // 10))
    calibrations = [calibration] * (calibration <= count // 2) + [fewer]
    fractions = (validation_fraction, 0.1, 0.4)  # the last one divides any two images
    for size, fraction in itertools.product(calibrations, fractions):
        if sizes := _sizes(count, fraction, size):
            changed = [f"calibration_size to {size}"] * (size != calibration)
            changed += [f"validation_fraction to {fraction}"] * (fraction != validation_fraction)
            return f"set {' and '.join(changed)}, which leaves {sizes[0]} for training and {sizes[1]} for validation"
    return f"give at least {2 + fewer}"


def image_names(archive: Archive) -> list[str]:
    """Returns the names of all JPEG, PNG and WebP files of an archive, at any depth, in natural order, but hidden ones.

    Folders within a folder that are links are not followed. A line of the log counts the other files, if there are any.

    Raises:
        FileNotFoundError: there are no images.
        OSError: a folder cannot be read.
    """
    seen = [name for name in archive.walk() if not is_hidden(name)]
    images = sorted(filter(_is_image, seen), key=natural)
    others = sorted(set(seen) - set(images))
    if not images:
        there = f"; it has {sorted(seen)[0]} and the like" if seen else ""
        raise FileNotFoundError(
            f"There are no images in {archive.where('')}: expected files whose names end with "
            f"{', '.join(decode.SUFFIXES)}{there}."
        )
    if others:
        _logger.warning("%s: read are %s; left out are %s.", archive.where(""), *map(_counts, (images, others)))
    return images


def natural(name: str) -> tuple[Any, ...]:
    """A key by which names are sorted as people do, numbers by their value: 2.png, 10.png, a/1.png."""
    parts = re.split(r"([0-9]+)", name)  # text and digits by turns
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def _is_image(name: str) -> bool:
    return name.lower().endswith(decode.SUFFIXES)


def _counts(files: Sequence[str]) -> str:
    """How many files have each suffix, in words."""
    suffixes = collections.Counter(PurePosixPath(file).suffix.lower() or "without a suffix" for file in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))


def _folders(names: Sequence[str]) -> str:
    """How many images are in each folder, in words: of masks among the images one learns here."""
    counts = collections.Counter(posixpath.dirname(name) for name in names)
    if len(counts) == 1:
        return f"{len(names)} images"
    shown = ", ".join(f"{count} in {folder or 'itself'}" for folder, count in counts.most_common(_SHOWN))
    return f"{len(names)} images in {len(counts)} folders, {shown}{' ...' if len(counts) > _SHOWN else ''}"


# --- as a source -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config(source.Cached):
    """A user's images without attributes, of which all are used.

    Attributes:
        source: the folder, or a zip.
        validation_fraction: part of the images that is only validated on.
        seed: of their choice.
    """

    kind: str = dataclasses.field(init=False, default="images alone")
    validation_fraction: float = 0.1
    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings(source.Request())  # raises what is wrong with the fraction or the seed

    def settings(self, request: source.Request) -> Settings:
        """Returns the loader's settings."""
        return Settings(request.side(self.kind), self.validation_fraction, self.seed)


def _load(config: Config, request: source.Request) -> Splits:
    return load(config.source, config.settings(request), cache_folder=config.cache_folder or None)


SOURCE = source.Source(
    Config,
    _load,
    verify=lambda config, attributes=None: defects(config.source),
    holds=lambda place, csv: any(_is_image(name) and not is_hidden(name) for name in place.walk()),
    fallback=True,
    named_by_path=True,
    has_attributes=False,
)
