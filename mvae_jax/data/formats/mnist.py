"""MNIST and data sets of the same layout, such as Fashion-MNIST: grey images with a label from 0 to 9.

Reads what is published, from a folder, a zip or a tar (or from a folder in it, if that alone has the files),

    train-images-idx3-ubyte    train-labels-idx1-ubyte    60,000 images of 28 x 28 pixels to train on
    t10k-images-idx3-ubyte     t10k-labels-idx1-ubyte     10,000 to test

each as it is or compressed by gzip, also with ".gz" after the name, with ".idx" instead of "-idx" or in a folder of its
name; or from Keras's mnist.npz with the arrays x_train, y_train, x_test and y_test. Any number and size of images will
do. All of it is read as bytes and numbers; nothing is unpickled.

Without a file there are the digits that scikit-learn brings: 1,797 real ones, 8 x 8 pixels.

Reference:
    LeCun et al., 1998, Gradient-based learning applied to document recognition.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mvae_jax.data import npy, source
from mvae_jax.data.archive import DEPTH, MAX_BYTES, Archive, check_size, one_of, only, open_archive
from mvae_jax.data.batches import Splits, permutation
from mvae_jax.files import expanded

DIGITS = "digits"
LABELS = 10

# Images and labels to train on, images and labels to test.
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NPZ_FILES = ("x_train.npy", "y_train.npy", "x_test.npy", "y_test.npy")

_REMEDY = (
    f"Fetch the files {', '.join(f'{name}.gz' for name in IDX_FILES)} of MNIST, for instance from "
    f"https://storage.googleapis.com/cvdf-datasets/mnist/, or give {DIGITS!r}, which needs none."
)
# Of the published images and labels. Others of the same layout are not called MNIST.
_CHECKSUM = "0edc847b177889d925563b65d1c0c23fac942d7719e09ccf4a12c4ce514c7083"
_DIGITS_TO_VALIDATE = 297  # of 1,797: a sixth, as of MNIST's 70,000 a seventh


def load(path: str | Path = DIGITS) -> Splits:
    """Loads a data set of this layout, or scikit-learn's digits.

    The published images to train on are the training split, those to test the validation split, in the published
    order. Of the digits, which are published as one set, 1,500 are for training and 297 for validation: a random
    choice, always the same, that has its share of each label; the same people wrote both.

    Args:
        path: "digits"; otherwise a folder, a zip, a tar or an .npz.

    Returns:
        The two splits, and no calibration images. "label" is int32 [N] in 0 to 9, "index" the image's number, from 0
        on, with those to test after those to train on. There are no attributes. Their provenance holds the source, a
        checksum of images and labels, and how many there are.

    Raises:
        FileNotFoundError: the path or a file in it is missing.
        ValueError: a file is damaged or is of another layout, or images and labels do not fit together.
    """
    if str(path) == DIGITS:
        return _digits()
    path = expanded(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or file {path}. {_REMEDY}")
    with open_archive(path) as archive:
        if any(map(archive.has, NPZ_FILES)):
            files, parse = _files(archive, NPZ_FILES), _parse_npy
        else:
            archive = only(archive, _has_idx, f"does not hold {', '.join(IDX_FILES)}. {_REMEDY}")
            files, parse = _files(archive, IDX_FILES), _parse_idx
        parts = [
            _Part(archive.where(file), parse(archive.read(file), archive.where(file), dimensions))
            for file, dimensions in zip(files, (3, 1, 3, 1), strict=True)
        ]
    _check(*parts)
    train_images, train_labels, test_images, test_labels = (part.values for part in parts)
    return _splits(
        np.concatenate([train_images, test_images]),
        np.concatenate([train_labels, test_labels]),
        np.arange(len(train_images) + len(test_images)),
        len(train_images),
        {"path": str(path)},
    )


def split_same_writers(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the training images in two: five sixths, and one sixth by the same writers.

    Different people wrote MNIST's training and test images. What has been learnt of the former is therefore also
    judged by a part of them (of 60,000 by 10,000) that was left out. The published split is Python's shuffle; this one
    is as random, and the same everywhere.

    Args:
        count: training images, at least 6.
        seed: of the choice; not negative.

    Returns:
        Indices, int32 [count - count // 6] and [count // 6].

    Raises:
        ValueError: too few images.

    Reference:
        Pidhorskyi et al., 2020, arXiv:2004.04467, table 2, "SW".
    """
    if count < 6:
        raise ValueError(f"count is {count}, expected at least 6 images: a sixth of them is left out.")
    order = permutation(count, seed)
    return order[: count - count // 6], order[count - count // 6 :]


def _digits() -> Splits:
    from sklearn.datasets import load_digits  # takes a second to import, and files do not need it

    images, labels = load_digits(return_X_y=True)
    images = images.astype(int).reshape(-1, 8, 8)
    shuffled = permutation(len(images), 0)
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Evenly spaced in that order, so that each label has its share up to one image.
    validates = np.zeros(len(images), bool)
    validates[by_label[np.arange(_DIGITS_TO_VALIDATE) * len(images) // _DIGITS_TO_VALIDATE]] = True
    order = shuffled[np.argsort(validates[shuffled], kind="stable")]
    return _splits(
        ((images[order] * 255 + 8) // 16).astype(np.uint8),  # 0 to 16
        labels[order],
        order,
        len(images) - _DIGITS_TO_VALIDATE,
        {"data_set": "digits of scikit-learn"},
    )


def _splits(images: np.ndarray, labels: np.ndarray, index: np.ndarray, train: int, origin: dict[str, Any]) -> Splits:
    """Splits of images [N, H, W], labels [N] and their numbers [N], of which the first `train` are to train on."""
    arrays = {"image": images[..., None], "label": labels.astype(np.int32), "index": index.astype(np.int32)}
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array.tobytes())
    checksum, validation = digest.hexdigest(), len(images) - train
    name = "MNIST" if checksum == _CHECKSUM else "images with labels 0 to 9"
    counts = {"train": train, "validation": validation}
    provenance = {"data_set": name, **origin, "checksum": checksum, "counts": counts}
    return Splits.cut(arrays, train, validation, (), provenance)


# --- files ---------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """The array of a file."""

    where: str  # how messages name the file
    values: np.ndarray


def _variant(place: Archive, name: str) -> str | None:
    """Under which name a file is there."""
    dotted = name.replace("-idx", ".idx")
    return one_of(place, *dict.fromkeys((name, f"{name}.gz", dotted, f"{dotted}.gz")))


def _has_idx(place: Archive) -> bool:
    """Whether any of the idx files is in a folder."""
    return any(_variant(place, name) for name in IDX_FILES)


def _files(archive: Archive, names: tuple[str, ...]) -> list[str]:
    """Under which name each file is there."""
    files = [_variant(archive, name) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        raise FileNotFoundError(f"{archive.where('')} does not hold {', '.join(missing)}. {_REMEDY}")
    return [file for file in files if file is not None]


def _parse_idx(data: bytes, where: str, dimensions: int) -> np.ndarray:
    """Returns the bytes of an idx file: magic number, sizes of the dimensions, values, all big-endian."""
    if data[:2] == b"\x1f\x8b":  # whatever the name says: browsers unpack and keep the name
        data = _unpacked(data, where)
    magic, header = 0x800 + dimensions, 4 + 4 * dimensions
    if len(data) < header or int.from_bytes(data[:4], "big") != magic:
        raise ValueError(
            f"{where} begins with {data[:16]!r}, expected magic number {magic}, {magic.to_bytes(4, 'big')!r}, and "
            f"{dimensions} {'size' if dimensions == 1 else 'sizes'}: it is not the idx file of "
            f"{'labels' if dimensions == 1 else 'images'} that its name says. Fetch it again."
        )
    shape = tuple(np.frombuffer(data, ">u4", dimensions, offset=4).tolist())
    expected = header + math.prod(shape)
    if len(data) != expected:
        defect = "is cut off" if len(data) < expected else "goes on after its data"
        raise ValueError(
            f"{where} {defect}: it has {len(data)} bytes, expected {expected} for an array {shape}. Fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _unpacked(data: bytes, where: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            content = stream.read(MAX_BYTES + 1)  # at the end it compares the CRC-32
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{where} is damaged ({error}): fetch it again.") from error
    check_size(f"{where}, unpacked,", len(content))
    return content


def _parse_npy(data: bytes, where: str, dimensions: int) -> np.ndarray:
    try:
        values = npy.from_bytes(data)
    except ValueError as error:
        raise ValueError(f"{where} is no array of numbers ({error}): fetch the file again.") from error
    dtype = np.integer if dimensions == 1 else np.uint8
    if values.ndim != dimensions or not np.issubdtype(values.dtype, dtype):
        expected = "integers [N]" if dimensions == 1 else "uint8 [N, H, W]"
        raise ValueError(
            f"{where} is {values.dtype} of shape {values.shape}, expected {expected}: it is not that of MNIST, fetch "
            "the file again."
        )
    return values


def _check(train_images: _Part, train_labels: _Part, test_images: _Part, test_labels: _Part) -> None:
    """Raises ValueError if the arrays do not fit together."""
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if not images.values.size:
            raise ValueError(f"{images.where} has shape {images.values.shape}, expected at least one image.")
        if len(images.values) != len(labels.values):
            raise ValueError(
                f"{images.where} has {len(images.values)} images but {labels.where} {len(labels.values)} labels, "
                "expected one for each: fetch both again."
            )
        outside = (labels.values < 0) | (labels.values >= LABELS)
        if outside.any():
            image = outside.argmax()
            raise ValueError(
                f"{labels.where}: the label of image {image} is {labels.values[image]}, expected 0 to {LABELS - 1}: "
                "fetch the file again, or choose a data set of ten classes."
            )
    sizes = [part.values.shape[1:] for part in (train_images, test_images)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"images of {test_images.where} are {sizes[1][0]} x {sizes[1][1]} pixels and those of "
            f"{train_images.where} {sizes[0][0]} x {sizes[0][1]}, expected one size: they are of different data sets."
        )


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config(source.Config):
    """MNIST, a data set of its layout, or scikit-learn's digits.

    Attributes:
        source: "digits", those of scikit-learn, 8 x 8 pixels, or a path: folder or zip with the official files of
            MNIST, or of a data set of the same layout, or Keras's mnist.npz.
    """

    source: str = DIGITS
    kind: str = dataclasses.field(init=False, default="MNIST")


def _load(config: Config, request: source.Request) -> Splits:
    return load(config.source)


def _verify(config: Config, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
    """Yields the first defect: with so few files it is soon mended, and the next one seen."""
    try:
        load(config.source)
    except (ValueError, FileNotFoundError) as error:
        yield str(error)


SOURCE = source.Source(
    Config,
    _load,
    _verify,
    keywords=(DIGITS,),
    holds=lambda place, csv: _has_idx(place) or any(map(place.has, NPZ_FILES)),
    depth=DEPTH,
    looked_for=f"MNIST, {IDX_FILES[0]} and its companions, or Keras's mnist.npz",
    has_attributes=False,
)
