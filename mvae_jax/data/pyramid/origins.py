"""Images of which a pyramid is made: published data sets by their recipes, a user's files, rendered faces.

A data set is a folder or a zip, of which nothing is unpacked, of JPEG, PNG and WebP files at any depth, whatever their
names. Numbers in names count by their value, so image 10 comes after image 9 on every machine. See `pyramid`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mvae_jax.data import decode
from mvae_jax.data.archive import Archive, checksum, locate, open_archive
from mvae_jax.data.batches import permutation
from mvae_jax.data.formats import celeba, celebamask_hq
from mvae_jax.data.formats.images import image_names
from mvae_jax.data.pyramid.settings import SPLITS, Settings
from mvae_jax.data.pyramid.stream import CHANNELS
from mvae_jax.data.rendered import faces


class UnsuitableError(ValueError):
    """An image is whole, but not one that these settings can use; what is true of one is often true of all."""


class Read(NamedTuple):
    """Images, uint8 [n, S, S, 3], their numbers in the data set, int32 [n], and file -> why it cannot be used."""

    images: np.ndarray
    numbers: np.ndarray
    unusable: dict[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Images of which a pyramid is made.

    Attributes:
        title: what it is.
        checksum: changes when the images do, or their order.
        splits: name of a split -> its rows, increasing.
        read: rows -> their images.
    """

    title: str
    checksum: str
    splits: Mapping[str, np.ndarray]
    read: Callable[[np.ndarray], Read]


@dataclasses.dataclass(frozen=True, eq=False)
class _Files:
    """Image files.

    Attributes:
        archive: where they are.
        names: of all of them; row i is names[i].
        numbers: int32, their numbers in the data set.
        cut: makes an image of the final size, of a file's.
        size: of the result.
        workers: threads that decode; None for one per core.
    """

    archive: Archive
    names: Sequence[str]
    numbers: np.ndarray
    cut: Callable[[Image.Image], Image.Image]
    size: int
    workers: int | None

    def read(self, rows: np.ndarray) -> Read:
        """Decodes files; of several of which one cannot be used, bisection tells which.

        Raises:
            ValueError: one of them is unsuitable.
        """
        files = [self.names[row] for row in rows]
        try:
            images, _ = decode.decode_images(self.archive, files, self.cut, workers=self.workers)
            return Read(images, self.numbers[rows], {})
        except ValueError as error:  # an error of the disk is no damage: it ends the work, which can go on later
            if isinstance(error.__cause__, UnsuitableError):
                raise
            if len(rows) == 1:
                nothing = np.empty((0, self.size, self.size, CHANNELS), np.uint8)
                return Read(nothing, self.numbers[:0], {files[0]: str(error)})
        one, other = map(self.read, np.array_split(rows, 2))
        return Read(
            np.concatenate([one.images, other.images]),
            np.concatenate([one.numbers, other.numbers]),
            one.unusable | other.unusable,
        )


@contextlib.contextmanager
def open_origin(source: str | Path, settings: Settings, workers: int | None) -> Iterator[Origin]:
    """Opens a data set.

    Raises:
        FileNotFoundError: there is nothing at the source, or an image is missing.
        ValueError: the data set is damaged, or has too few images, or others than the recipe's.
    """
    size, crop = settings.sizes[-1], settings.chosen_crop
    if str(source) == faces.RENDERED:
        yield _rendered(settings)
    elif crop == "alae":
        with celeba.open_published(source) as opened:
            test = opened.table.partition == celeba.PARTITIONS.index("test")
            splits = {"train": np.flatnonzero(~test), "validation": np.flatnonzero(test)}
            _check_splits(splits, settings, source)
            rows = np.arange(len(test))
            files = _Files(
                opened.archive,
                opened.files(rows),
                opened.table.index,
                lambda image: celeba.cut(image, "alae", (size, size)),
                size,
                workers,
            )
            yield Origin("CelebA", opened.checksum(rows), splits, files.read)
    else:
        with open_archive(source) as outer:
            published = locate(outer, celebamask_hq.holds)
            archive = published[0].within(celebamask_hq.IMAGE_FOLDER) if len(published) == 1 else outer
            names = image_names(archive)
            splits = _split(settings, permutation(len(names), settings.seed))
            _check_splits(splits, settings, source)
            rows = np.arange(len(names), dtype=np.int32)
            files = _Files(archive, names, rows, lambda image: _cut(image, size, crop), size, workers)
            fingerprints = checksum([(name, archive.fingerprint(name)) for name in names])
            yield Origin("images" if archive is outer else "CelebAMask-HQ", fingerprints, splits, files.read)


def _rendered(settings: Settings) -> Origin:
    size = settings.sizes[-1]
    if size not in faces.IMAGE_SIZES:
        raise ValueError(
            f"image_size is {size}, but faces are rendered with {', '.join(map(str, faces.IMAGE_SIZES))} pixels: "
            "choose one of these."
        )

    def read(rows: np.ndarray) -> Read:  # neighbours: the faces are random, so the splits need not be
        images = faces.sample(settings.seed, len(rows), size, first=int(rows[0])).images
        return Read(images, rows.astype(np.int32), {})

    splits = _split(settings, np.arange(settings.count))
    _check_splits(splits, settings, faces.RENDERED)
    return Origin("rendered faces", checksum(faces.RENDERED, settings.seed, settings.count), splits, read)


def _cut(image: Image.Image, size: int, crop: str) -> Image.Image:
    """A square of the final size; raises UnsuitableError if the image has none."""
    if crop == "none" and image.width != image.height:
        raise UnsuitableError(
            f"it is {image.width} x {image.height} pixels, expected a square: crop it, or take the central squares of "
            "all with the crop 'center' (--crop=center)"
        )
    if min(image.size) < size:
        raise UnsuitableError(
            f"it is {image.width} x {image.height} pixels, and no image is enlarged to image_size {size}: choose a "
            "smaller one, or leave this file out"
        )
    return decode.square(image, size)


def _split(settings: Settings, order: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each split: the last ones are validated on, of the order or, with a recipe, of the natural one."""
    count, recipe = len(order), settings.published
    validation = recipe.validation if recipe else round(count * settings.validation_fraction)
    train, rest = np.split(np.arange(count) if recipe else order, [max(count - validation, 0)])
    return {"train": np.sort(train), "validation": np.sort(rest)}


def _check_splits(splits: Mapping[str, np.ndarray], settings: Settings, source: str | Path) -> None:
    """Raises ValueError unless the splits are the recipe's, or one's own and not empty."""
    counts, recipe = [len(splits[name]) for name in SPLITS], settings.published
    if recipe and counts != [recipe.train or max(counts[0], 1), recipe.validation]:
        instead = "the crop 'alae' in place of the recipe" if recipe.crop == "alae" else "no recipe"
        raise ValueError(
            f"recipe {settings.recipe!r} is for {recipe.train or 'one or more'} images to train on and "
            f"{recipe.validation} to validate on, but {source} has {sum(counts)} images, {counts[0]} and {counts[1]}: "
            f"give all images of the data set and no others; for any images, give {instead}."
        )
    if not all(counts):
        raise ValueError(
            f"{source} has {sum(counts)} images, which leaves {counts[0]} to train on and {counts[1]} to validate on, "
            "expected some of both: give more images, or another validation_fraction."
        )
