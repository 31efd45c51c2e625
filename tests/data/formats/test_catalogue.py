"""CelebAMask-HQ and CelebA through TFDS: the same splits, to the bit, without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mvae_jax.data import sources
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import catalogue, celeba, celebamask_hq
from mvae_jax.data.formats.celebamask_hq import Settings
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import flags

COUNT = 60
SMALL = Settings(image_size=16, subset_size=16, calibration_size=4, minimum_attributes=2)
NAMES = ["Bald", "Black_Hair", "Blond_Hair", "Eyeglasses", "Male", "Mustache", "Smiling", "Wearing_Lipstick", "Young"]

tfds.disable_progress_bar()


def write(path: Path, seed: int = 0) -> Path:
    """The published layout, with gaps between the numbers and angles that float32 cannot hold."""
    rng = np.random.default_rng(seed)
    images = path / "CelebAMask-HQ" / "CelebA-HQ-img"
    images.mkdir(parents=True)
    attributes, pose = [f"{COUNT}", " ".join(NAMES)], [f"{COUNT}", "Yaw Pitch Raw"]
    for index in range(0, 3 * COUNT, 3):
        signs = 2 * (rng.random(len(NAMES)) < 0.6) - 1
        attributes.append(f"{index}.jpg  {' '.join(map(str, signs))}")
        # Just within and beyond the limit of 20 degrees, where rounding to float32 would move both onto it.
        yaw = rng.choice(["20", "20.000000001", "19.999999999", "-20.00000000001", "0.1"])
        pose.append(f"{index}.jpg {yaw} -3.3 1e-1")
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(images / f"{index}.jpg")
    (images.parent / celebamask_hq.ATTRIBUTE_FILE).write_text("\n".join(attributes))
    (images.parent / celebamask_hq.POSE_FILE).write_text("\n".join(pose))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory) -> Path:
    data_dir = tmp_path_factory.mktemp("catalogue")
    assert catalogue.prepare(source, data_dir, 16) == data_dir / "celebamask_hq/16px/1.0.0"
    return data_dir


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    """A catalogue to damage; the folder of its entry."""
    return Path(shutil.copytree(prepared, tmp_path / "copy")) / "celebamask_hq/16px/1.0.0"


def assert_same(data: Splits, expected: Splits) -> None:
    assert data.attributes == expected.attributes
    for (_, split), (_, other) in zip(data, expected, strict=True):
        assert split.arrays.keys() == other.arrays.keys()
        for name, array in split.arrays.items():
            assert array.dtype == other[name].dtype
            np.testing.assert_array_equal(array, other[name])
    assert data.sha256() == expected.sha256()
    json.dumps(data.provenance)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"seed": 7, "attributes": ("female", "smiling", "bald"), "minimum_attributes": 1},
        {"subset_size": 10, "validation_fraction": 0.3, "calibration_size": 0, "maximum_yaw": 19.9999999995},
    ],
)
def test_splits_are_the_very_same(change, source, prepared, tmp_path):
    settings = dataclasses.replace(SMALL, **change)
    expected = celebamask_hq.load(source, settings, cache_folder=tmp_path)
    data = catalogue.load(prepared, settings)
    assert_same(data, expected)
    for name in ("counts", "image_files", "annotations_checksum"):
        assert data.provenance[name] == expected.provenance[name]


def test_every_folder_of_the_entry_may_be_given(prepared):
    expected = catalogue.load(prepared, SMALL).sha256()
    entry = prepared / "celebamask_hq/16px/1.0.0"
    for path in (str(prepared), entry.parent.parent, entry.parent, entry):
        assert catalogue.load(path, SMALL).sha256() == expected
        assert catalogue.find(path) == {"16px": entry}


def test_other_programs_read_the_entry(source, prepared):
    records = tfds.data_source("celebamask_hq/16px", data_dir=prepared, split="train[:50%]")
    assert len(records) == COUNT // 2
    file = source / "CelebAMask-HQ/CelebA-HQ-img/12.jpg"
    assert records[4]["index"] == 12
    np.testing.assert_array_equal(records[4]["image"], celebamask_hq.resize(Image.open(file), 16))
    metadata = json.loads((prepared / "celebamask_hq/16px/1.0.0/metadata.json").read_text())
    assert metadata["attributes"] == [name.lower() for name in NAMES]
    line = (source / "CelebAMask-HQ" / celebamask_hq.ATTRIBUTE_FILE).read_text().splitlines()[6].split()
    assert line[0] == "12.jpg"
    np.testing.assert_array_equal(records[4]["attributes"], [value == "1" for value in line[1:]])


def test_it_is_prepared_once_for_each_size_and_source(source, prepared, tmp_path, capsys):
    shutil.copytree(prepared, tmp_path / "data")
    entry = tmp_path / "data/celebamask_hq/16px/1.0.0"
    before = {file: file.stat().st_mtime_ns for file in entry.iterdir()}
    assert catalogue.prepare(source, tmp_path / "data", 16) == entry
    assert {file: file.stat().st_mtime_ns for file in entry.iterdir()} == before
    with pytest.raises(ValueError, match=f"{entry} was made of other files than {tmp_path / 'other'}: remove it, or"):
        catalogue.prepare(write(tmp_path / "other", seed=1), tmp_path / "data", 16)

    with pytest.raises(ValueError, match=r"was prepared as 16px, but 8px is asked for: choose image size"):
        catalogue.load(tmp_path / "data", dataclasses.replace(SMALL, image_size=8))
    catalogue.prepare(source, tmp_path / "data", 8)
    assert sorted(catalogue.find(tmp_path / "data")) == ["16px", "8px"]
    data = catalogue.load(tmp_path / "data", dataclasses.replace(SMALL, image_size=8))
    assert data.train["image"].shape[1:] == (8, 8, 3)
    assert capsys.readouterr().out == ""


def test_damaged_sources_leave_no_entry(source, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    (tmp_path / "source/CelebAMask-HQ/CelebA-HQ-img/30.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"30.jpg \(8 bytes\) cannot be used: it is no JPEG, PNG or WebP image"):
        catalogue.prepare(tmp_path / "source", tmp_path / "data", 16)
    assert catalogue.find(tmp_path / "data") == {}
    shutil.copy(source / "CelebAMask-HQ/CelebA-HQ-img/30.jpg", tmp_path / "source/CelebAMask-HQ/CelebA-HQ-img/30.jpg")
    catalogue.prepare(tmp_path / "source", tmp_path / "data", 16)
    assert list(catalogue.defects(tmp_path / "data")) == []
    with pytest.raises(FileNotFoundError, match="no folder or zip"):
        catalogue.prepare(tmp_path / "nowhere", tmp_path / "data")
    with pytest.raises(ValueError, match="image_size is 0"):
        catalogue.prepare(source, tmp_path / "data", 0)


# --- CelebA --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligned(tmp_path_factory) -> Path:
    """CelebA as published: 30 images of noise in partitions that alternate, with people, numbered with gaps."""
    path, rng = tmp_path_factory.mktemp("celeba"), np.random.default_rng(0)
    (path / "img_align_celeba").mkdir()
    lists: dict[str, list[str]] = {"list_attr_celeba": ["30", " ".join(NAMES)]}
    for number in range(2, 62, 2):
        image = f"{number:06}.jpg"
        signs = 2 * (rng.random(len(NAMES)) < 0.5) - 1
        lists["list_attr_celeba"].append(f"{image} {' '.join(map(str, signs))}")
        lists.setdefault("list_eval_partition", []).append(f"{image} {number // 2 % 3}")
        lists.setdefault("identity_CelebA", []).append(f"{image} {number % 7 + 1}")
        pixels = rng.integers(0, 256, (20, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((178, 218)).save(path / "img_align_celeba" / image)
    for name, lines in lists.items():
        (path / f"{name}.txt").write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def prepared_celeba(aligned, tmp_path_factory) -> Path:
    data_dir = tmp_path_factory.mktemp("catalogue_of_celeba")
    assert catalogue.prepare(aligned, data_dir, 16) == data_dir / "celeba/larsen_16x16/1.0.0"
    assert catalogue.prepare(aligned, data_dir, 20, "none") == data_dir / "celeba/none_20x16/1.0.0"
    return data_dir


@pytest.mark.parametrize(
    "settings",
    [
        celeba.Settings(16),
        celeba.Settings(
            16, attributes=("female", "young"), train_size=4, validation_size=3, calibration_size=0, seed=9
        ),
        celeba.Settings((20, 16), "none", train=("train", "validation"), validation=("test",), calibration=()),
    ],
)
def test_splits_of_celeba_are_the_very_same(settings, aligned, prepared_celeba, tmp_path):
    expected = celeba.load(aligned, settings, cache_folder=tmp_path)
    data = catalogue.load(prepared_celeba, settings)
    assert "identity" in data.train.arrays
    assert_same(data, expected)
    for name in ("counts", "image_files", "annotations_checksum"):
        assert data.provenance[name] == expected.provenance[name]
    assert catalogue.load(catalogue.find(prepared_celeba, "celeba")["larsen_16x16"], celeba.Settings(16)).attributes
    assert catalogue.find(prepared_celeba) == {}


def test_other_programs_find_the_official_partitions(aligned, prepared_celeba):
    records = tfds.data_source("celeba/larsen_16x16", data_dir=prepared_celeba, split="validation")
    assert [record["index"] for record in records] == list(range(2, 62, 6))
    image = Image.open(aligned / "img_align_celeba/000002.jpg")
    np.testing.assert_array_equal(records[0]["image"], celeba.cut(image, "larsen", (16, 16)))


def test_missing_and_damaged_entries_of_celeba_are_reported(prepared_celeba, prepared, tmp_path):
    assert list(catalogue.defects(prepared_celeba, "celeba")) == []
    with pytest.raises(ValueError, match="was prepared as larsen_16x16 and none_20x16, but schik_16x16 is asked for"):
        catalogue.load(prepared_celeba, celeba.Settings(16, "schik"))
    with pytest.raises(FileNotFoundError, match=r"no prepared CelebA, expected celeba/larsen_64x64/1\.0\.0"):
        catalogue.load(prepared, celeba.Settings(16))
    entry = Path(shutil.copytree(prepared_celeba, tmp_path / "copy")) / "celeba/larsen_16x16/1.0.0"
    (records,) = entry.glob("*-test.array_record-*")
    flip(records)
    with pytest.raises(ValueError, match=f"^{entry} is damaged"):
        catalogue.load(entry, celeba.Settings(16))
    (message,) = catalogue.defects(entry, "celeba")
    assert message.startswith(f"{entry} is damaged")


def test_sizes_of_celebamask_hq_are_square(source, tmp_path):
    with pytest.raises(ValueError, match=r"image_size is \(16, 8\), expected one number"):
        catalogue.prepare(source, tmp_path, (16, 8))


# --- damage --------------------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*.array_record-*", flip),
        ("*.array_record-*", lambda file: file.write_bytes(file.read_bytes()[:-500])),
        ("*.array_record-*", Path.unlink),
        ("metadata.json", lambda file: file.write_text("{}")),
        ("metadata.json", Path.unlink),
        ("features.json", lambda file: file.write_text("{")),
        ("features.json", Path.unlink),
        ("dataset_info.json", lambda file: file.write_text("<html>")),
    ],
)
def test_damaged_entries_are_reported(pattern, damage, copy):
    (file,) = copy.glob(pattern)
    damage(file)
    with pytest.raises(ValueError, match=f"^{copy} is damaged .*: remove it and prepare it again"):
        catalogue.load(copy, SMALL)
    (message,) = catalogue.defects(copy)
    assert message.startswith(f"{copy} is damaged")


def test_missing_tfds_is_no_damage(prepared, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match="tensorflow_datasets"):
        catalogue.load(prepared, SMALL)


def test_no_entry_is_reported(tmp_path, source):
    for path in (tmp_path, source, tmp_path / "nowhere", source / "CelebAMask-HQ" / celebamask_hq.POSE_FILE):
        assert catalogue.find(path) == {}
        with pytest.raises(FileNotFoundError, match=f"^{path} holds no prepared CelebAMask-HQ"):
            catalogue.load(path, SMALL)
    with pytest.raises(FileNotFoundError):
        list(catalogue.defects(tmp_path))


def test_selections_that_are_impossible_are_no_damage(prepared):
    with pytest.raises(ValueError, match="women and"):
        catalogue.load(prepared, dataclasses.replace(SMALL, subset_size=60))
    with pytest.raises(ValueError, match="Unknown attribute 'tall'"):
        catalogue.load(prepared, dataclasses.replace(SMALL, attributes=("tall",)))


def test_neither_preparing_nor_reading_loads_tensorflow(source, tmp_path):
    code = f"""
import sys
from mvae_jax.data import sources
from mvae_jax.data.formats import catalogue, celeba, celebamask_hq
from mvae_jax.data.batches import Splits
assert "tensorflow_datasets" not in sys.modules
catalogue.prepare({str(source)!r}, {str(tmp_path)!r}, 16)
settings = celebamask_hq.Settings(image_size=16, subset_size=16, calibration_size=4, minimum_attributes=2)
print(catalogue.load({str(tmp_path)!r}, settings).sha256())
assert "tensorflow_datasets" in sys.modules
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == celebamask_hq.load(source, SMALL, cache_folder=tmp_path / "cache").sha256()
    assert "Warning" not in done.stderr


def test_an_experiment_takes_prepared_data_with_its_settings_of_the_published_ones(prepared_celeba, tmp_path):
    choices = (*sources.with_attributes("none"), celeba.Config("CelebA", crop="none", subset_size=7, seed=3))
    settings = flags.data_at(str(prepared_celeba), choices)
    assert settings == catalogue.CelebAConfig(str(prepared_celeba), crop="none", subset_size=7, seed=3)
    with pytest.raises(ValueError, match="is CelebA prepared for TFDS, which this experiment does not take"):
        flags.data_at(str(prepared_celeba), (faces.Config(), faces.Config()))
