"""MNIST's layout in all its forms, every defect of its files, and the digits that need no file."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mvae_jax.data.batches import Batches, Split, Splits
from mvae_jax.data.formats import mnist
from mvae_jax.data.formats.mnist import DIGITS, IDX_FILES, load, split_same_writers

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX_FILES


def arrays(height: int = 5, width: int = 3) -> list[np.ndarray]:
    """Images and labels, 12 to train on and 7 to test; not square, so that no axis can be mistaken for the other."""
    rng = np.random.default_rng(0)
    return [
        array
        for count in (12, 7)
        for array in (rng.integers(0, 256, (count, height, width), np.uint8), rng.integers(0, 10, count, np.uint8))
    ]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents(name: str = "{}", pack=lambda data: data) -> dict[str, bytes]:
    return {name.format(file): pack(idx(array)) for file, array in zip(IDX_FILES, arrays(), strict=True)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def write_npz(path: Path, **changes: np.ndarray | None) -> Path:
    named = dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays(), strict=True)) | changes
    np.savez_compressed(path, **{name: array for name, array in named.items() if array is not None})
    return path


FORMS = {
    "plain": lambda folder: write(folder, contents()),
    "gz": lambda folder: write(folder, contents("{}.gz", gzip.compress)),
    "dotted": lambda folder: write(
        folder, {name.replace("-idx", ".idx"): data for name, data in contents("{}.gz", gzip.compress).items()}
    ),
    "mixed": lambda folder: write(folder, contents() | {f"{TEST_IMAGES}.gz": b"not read: the plain file comes first"}),
    "unpacked by a browser": lambda folder: write(folder, contents("{}.gz")),
    "packed under the plain name": lambda folder: write(folder, contents(pack=gzip.compress)),
    "folder within": lambda folder: write(folder, contents("raw/{}") | {"other/readme": b""}),
    "zip": lambda folder: write_zip(folder / "mnist.zip", contents()),
    "zip of a folder": lambda folder: write_zip(folder / "mnist.zip", contents("raw/{}.gz", gzip.compress)),
    "npz": lambda folder: write_npz(folder / "mnist.npz"),
    "npz with other integers": lambda folder: write_npz(folder / "mnist.npz", y_test=arrays()[3].astype(np.int64)),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same(tmp_path, form):
    data = load(FORMS[form](tmp_path))
    train_images, train_labels, test_images, test_labels = arrays()
    for split, images, labels in (
        (data.train, train_images, train_labels),
        (data.validation, test_images, test_labels),
    ):
        np.testing.assert_array_equal(split["image"], images[..., None])
        np.testing.assert_array_equal(split["label"], labels)
        assert (split["image"].dtype, split["label"].dtype, split["index"].dtype) == (np.uint8, np.int32, np.int32)
    assert data.train["index"].tolist() == list(range(12))
    assert data.validation["index"].tolist() == list(range(12, 19))
    assert len(data.calibration) == 0
    assert data.attributes == ()


def test_provenance_tells_source_counts_and_contents(tmp_path):
    data = load(str(write(tmp_path, contents())))
    images = np.concatenate(arrays()[::2]).tobytes()
    labels = np.concatenate(arrays()[1::2]).astype(np.int32).tobytes()
    checksum = hashlib.sha256(images + labels + np.arange(19, dtype=np.int32).tobytes()).hexdigest()
    assert data.provenance == {
        "data_set": "images with labels 0 to 9",
        "path": str(tmp_path),
        "checksum": checksum,
        "counts": {"train": 12, "validation": 7},
    }
    json.dumps(data.provenance)


def test_labels_are_in_batches_and_in_the_checksum(tmp_path):
    data = load(write(tmp_path, contents()))
    batch = Batches(data.train, 4, seed=0).batch_at(1)
    np.testing.assert_array_equal(batch["label"], arrays()[1][batch["index"]])
    labels = data.train["label"].copy()
    labels[3] = (labels[3] + 1) % 10
    other = Splits(
        Split({**data.train.arrays, "label": labels}), data.validation, data.calibration, (), data.provenance
    )
    assert other.sha256() != data.sha256()
    assert load(tmp_path).sha256() == data.sha256()


def changed(file: str, data: bytes, **others: bytes):
    return lambda folder: write(folder, contents() | {file: data} | others)


def with_array(file: str, array: np.ndarray):
    return changed(file, idx(array))


PACKED = gzip.compress(contents()[TEST_IMAGES])
DEFECTS = {
    "labels instead of images": (
        changed(TRAIN_IMAGES, contents()[TRAIN_LABELS]),
        r"train-images-idx3-ubyte begins with b'\\x00\\x00\\x08\\x01.*, expected magic number 2051, "
        r"b'\\x00\\x00\\x08\\x03', and 3 sizes: it is not the idx file of images",
    ),
    "images instead of labels": (
        changed(TEST_LABELS, contents()[TEST_IMAGES]),
        r"t10k-labels-idx1-ubyte begins with .*, expected magic number 2049, .* and 1 size: .* file of labels",
    ),
    "floats": (
        changed(TRAIN_LABELS, b"\0\0\x0d\1" + contents()[TRAIN_LABELS][4:]),
        r"train-labels.* begins with b'\\x00\\x00\\r.*, expected magic number 2049",
    ),
    "web page": (changed(TEST_IMAGES, b"<!DOCTYPE html><html>"), r"begins with b'<!DOCTYPE html>.*Fetch it again"),
    "empty file": (changed(TEST_LABELS, b""), r"t10k-labels.* begins with b'', expected magic number 2049"),
    "only part of the header": (
        changed(TEST_IMAGES, contents()[TEST_IMAGES][:10]),
        "t10k-images.* expected magic number 2051, .* and 3 sizes",
    ),
    "cut off": (
        changed(TRAIN_IMAGES, contents()[TRAIN_IMAGES][:-1]),
        r"train-images.* is cut off: it has 195 bytes, expected 196 for an array \(12, 5, 3\)\. Fetch it again",
    ),
    "goes on": (
        changed(TRAIN_LABELS, contents()[TRAIN_LABELS] + b"\0"),
        r"train-labels.* goes on after its data: it has 21 bytes, expected 20 for an array \(12,\)",
    ),
    "no images": (
        with_array(TEST_IMAGES, np.zeros((0, 5, 3), np.uint8)),
        r"t10k-images.* has shape \(0, 5, 3\), expected at least one",
    ),
    "no pixels": (with_array(TEST_IMAGES, np.zeros((7, 0, 3), np.uint8)), r"t10k-images.* has shape \(7, 0, 3\)"),
    "fewer labels": (
        with_array(TRAIN_LABELS, np.zeros(11, np.uint8)),
        r"train-images-idx3-ubyte has 12 images but .*train-labels-idx1-ubyte 11 labels, expected one for each",
    ),
    "label 10": (
        with_array(TEST_LABELS, np.array([0, 9, 10, 3, 3, 3, 255], np.uint8)),
        "t10k-labels-idx1-ubyte: the label of image 2 is 10, expected 0 to 9",
    ),
    "two sizes": (
        with_array(TEST_IMAGES, np.zeros((7, 5, 4), np.uint8)),
        r"images of .*t10k-images-idx3-ubyte are 5 x 4 pixels and those of .*train-images-idx3-ubyte 5 x 3, expected",
    ),
    "gzip cut off": (changed(TEST_IMAGES, PACKED[:-9]), r"t10k-images-idx3-ubyte is damaged \(Compressed file ended"),
    "gzip that contradicts its checksum": (
        changed(TEST_IMAGES, PACKED[:-5] + bytes([PACKED[-5] ^ 1]) + PACKED[-4:]),
        r"t10k-images-idx3-ubyte is damaged \(CRC check failed.*fetch it again",
    ),
    "gzip that cannot be unpacked": (
        changed(TEST_IMAGES, PACKED[:12] + b"\xff" * 20 + PACKED[32:]),
        r"t10k-images-idx3-ubyte is damaged \(Error -3",
    ),
    "gzip with a tail": (changed(TEST_IMAGES, PACKED + b"more"), r"is damaged \(Not a gzipped file"),
    "no such array": (
        lambda folder: write_npz(folder / "m.npz", x_test=None),
        r"m.npz/ does not hold x_test.npy\. Fetch .*or give 'digits'",
    ),
    "float images": (
        lambda folder: write_npz(folder / "m.npz", x_train=np.zeros((12, 5, 3))),
        r"m.npz/x_train.npy is float64 of shape \(12, 5, 3\), expected uint8 \[N, H, W\]",
    ),
    "images with channels": (
        lambda folder: write_npz(folder / "m.npz", x_test=np.zeros((7, 5, 3, 1), np.uint8)),
        r"x_test.npy is uint8 of shape \(7, 5, 3, 1\), expected uint8 \[N, H, W\]",
    ),
    "labels as vectors": (
        lambda folder: write_npz(folder / "m.npz", y_train=np.eye(12, 10, dtype=int)),
        r"y_train.npy is int64 of shape \(12, 10\), expected integers \[N\]",
    ),
    "float labels": (
        lambda folder: write_npz(folder / "m.npz", y_train=np.zeros(12)),
        r"y_train.npy is float64 of shape \(12,\), expected integers",
    ),
    "negative label": (
        lambda folder: write_npz(folder / "m.npz", y_train=np.full(12, -1)),
        "y_train.npy: the label of image 0 is -1, expected 0 to 9",
    ),
    "no array": (
        lambda folder: write_zip(folder / "m.npz", dict.fromkeys(mnist.NPZ_FILES, b"\x93NUMPY\1\0")),
        r"x_train.npy is no array of numbers \(.*fetch the file again",
    ),
    "no zip": (lambda folder: write(folder, {"m.npz": b"PK"}) / "m.npz", "m.npz is not a whole zip"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_its_message(tmp_path, defect):
    make, message = DEFECTS[defect]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(make(tmp_path))


@pytest.mark.parametrize("missing", [IDX_FILES[:1], IDX_FILES[1:3], IDX_FILES])
def test_missing_files_are_named(tmp_path, missing):
    folder = write(tmp_path, {name: data for name, data in contents().items() if name not in missing})
    message = rf"{tmp_path} does not hold {', '.join(missing)}\. Fetch .* from https://.*, or give 'digits'"
    with pytest.raises(FileNotFoundError, match=message):
        load(folder)


def test_missing_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder or file .*digit\. Fetch .* or give 'digits'"):
        load(tmp_path / "digit")


def test_two_folders_of_which_either_might_be_meant(tmp_path):
    write(tmp_path, contents("mnist/{}") | contents("fashion/{}"))
    with pytest.raises(
        FileNotFoundError, match=f"^{tmp_path} holds several, {tmp_path}/fashion and {tmp_path}/mnist: give"
    ):
        load(tmp_path)
    assert len(load(tmp_path / "fashion").train) == 12


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    with pytest.raises(ValueError, match=r"y_test.npy is no array of numbers \(it holds Python objects, which are not"):
        load(write_npz(tmp_path / "trap.npz", y_test=np.array([Trap()] * 7, dtype=object)))
    assert not (tmp_path / "sprung").exists()


def test_gzip_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "MAX_BYTES", 10_000)
    monkeypatch.setattr("mvae_jax.data.archive.MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match="unpacked, has 10001 bytes, expected at most 10000"):
        load(changed(TEST_IMAGES, gzip.compress(bytes(100_000)))(tmp_path))


# --- digits --------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_cut_by_label():
    data = load()
    published = load_digits()
    assert [len(split) for _, split in data] == [1500, 297, 0]
    index = np.concatenate([data.train["index"], data.validation["index"]])
    np.testing.assert_array_equal(np.sort(index), np.arange(1797))
    for split in (data.train, data.validation):
        assert (split["image"].dtype, split["image"].shape[1:]) == (np.uint8, (8, 8, 1))
        np.testing.assert_array_equal(split["label"], published["target"][split["index"]])
        exact = published["images"][split["index"]] * 255 / 16
        assert np.abs(split["image"][..., 0] - exact).max() <= 0.5
    assert (data.train["image"].min(), data.train["image"].max()) == (0, 255)
    shares = np.bincount(data.validation["label"]) - np.bincount(published["target"]) * 297 / 1797
    assert np.abs(shares).max() < 1
    assert len(set(data.validation["label"][:30].tolist())) > 6  # what is shown first is not of one label
    assert data.provenance["data_set"] == "digits of scikit-learn"
    assert "path" not in data.provenance
    assert load(DIGITS).sha256() == data.sha256()


# --- the published protocol ----------------------------------------------------------------------------------------


def test_same_writers_are_a_sixth():
    train, test = split_same_writers(60_000)
    assert (len(train), len(test)) == (50_000, 10_000)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(60_000))
    assert abs(test.mean() - 29_999.5) < 5 * 60_000 / np.sqrt(12 * 10_000)  # of all of them, not of the last
    np.testing.assert_array_equal(split_same_writers(60_000)[1], test)
    assert (split_same_writers(60_000, seed=1)[1] != test).any()
    with pytest.raises(ValueError, match="count is 5, expected at least 6"):
        split_same_writers(5)


# --- the real data set, where there is one -------------------------------------------------------------------------


@pytest.mark.skipif("MVAE_JAX_DATA" not in os.environ, reason="MVAE_JAX_DATA names no folder with data sets")
def test_real_data_set():
    path = Path(os.environ["MVAE_JAX_DATA"]) / "mnist"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    data = load(path)
    assert [len(split) for _, split in data] == [60_000, 10_000, 0]
    assert data.train["image"].shape[1:] == (28, 28, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.train["label"]).tolist() == counts
    assert data.train["label"][:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(data.train["image"].mean() / 255 - 0.1307) < 5e-5  # the well-known mean
    assert data.provenance["data_set"] == "MNIST"
