from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import json
import logging
import os
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mvae_jax.data import archive, decode
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import celebamask_hq
from mvae_jax.data.formats.celebamask_hq import Settings, Table, load, parse, select

COUNT = 40
SMALL = Settings(image_size=16, subset_size=20, calibration_size=4)
HEADER = "Bald Black_Hair Blond_Hair Eyeglasses Male Mustache Smiling Wavy_Hair Wearing_Lipstick Young"
NAMES = HEADER.split()
ATTRIBUTE_FILE, POSE_FILE = celebamask_hq.ATTRIBUTE_FILE, celebamask_hq.POSE_FILE
Files = dict[str, bytes]


def jpeg(image: Image.Image, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=95)
    return stream.getvalue()


def make_files() -> Files:
    """Images 0 ... 39 in the published format. Odd ones show men; image N has the colour (5N, 200 - 5N, 100)."""
    attributes, pose = [f"{COUNT}", HEADER], [f"{COUNT}", "Yaw Pitch Raw"]
    files = {}
    for i in range(COUNT):
        present = {"Smiling", "Young"} | ({"Male"} if i % 2 else set())
        attributes.append(f"{i}.jpg  " + " ".join("1" if name in present else "-1" for name in NAMES))
        pose.append(f"{i}.jpg {i % 20 - 10}.5 -3.25 1e-1")
        files[f"CelebA-HQ-img/{i}.jpg"] = jpeg(Image.new("RGB", (64, 64), (5 * i, 200 - 5 * i, 100)))
    files[ATTRIBUTE_FILE] = ("\n".join(attributes) + "\n").encode()
    files[POSE_FILE] = ("\n".join(pose) + "\n").encode()
    return files


FILES = make_files()


def write_folder(path: Path, files: Files) -> Path:
    (path / "CelebA-HQ-img").mkdir(parents=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: Files, root: str = "CelebAMask-HQ/") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(root + name, data)
    return path


def changed(name: str, old: str, new: str) -> Files:
    text = FILES[name].decode()
    assert old in text
    return FILES | {name: text.replace(old, new, 1).encode()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "CelebAMask-HQ", FILES)


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def assert_equal(one: Splits, other: Splits) -> None:
    for name in ("train", "validation", "calibration"):
        for array in ("image", "attributes", "index"):
            np.testing.assert_array_equal(getattr(one, name)[array], getattr(other, name)[array])


# Reading


def test_splits_hold_the_right_images_and_attributes(folder, cache):
    data = load(folder, SMALL, cache_folder=cache)
    assert [len(s) for s in (data.train, data.validation, data.calibration)] == [18, 2, 4]
    assert data.attributes == SMALL.attributes
    for split in (data.train, data.validation, data.calibration):
        index = split["index"]
        assert (split["image"].dtype, split["attributes"].dtype, index.dtype) == (np.uint8, np.float32, np.int32)
        assert split["image"].shape == (len(split), 16, 16, 3)
        colour = np.stack([5 * index, 200 - 5 * index, np.full_like(index, 100)], -1)
        assert np.abs(split["image"] - colour[:, None, None].astype(float)).max() <= 2  # JPEG's own error
        expected = {"young": 1, "smiling": 1, "male": index % 2, "female": 1 - index % 2}
        for column, name in enumerate(data.attributes):
            np.testing.assert_array_equal(split["attributes"][:, column], expected.get(name, 0) + 0 * index)
    json.dumps(data.provenance)
    assert data.provenance["image_files"] == "64 x 64 pixels"
    assert data.provenance["counts"] == {
        "annotated": 40,
        "frontal": 40,
        "eligible": 40,
        "eligible_female": 20,
        "eligible_male": 20,
        "train": 18,
        "validation": 2,
        "calibration": 4,
    }


def test_folder_its_parent_and_zips_give_the_same(folder, tmp_path):
    paths = [
        folder.parent,
        str(folder),
        write_zip(tmp_path / "published.zip", FILES),
        write_zip(tmp_path / "flat.zip", FILES, root=""),
    ]
    expected = load(folder, SMALL, cache_folder=tmp_path / "cache")
    for number, path in enumerate(paths):
        assert_equal(load(path, SMALL, cache_folder=tmp_path / f"cache{number}"), expected)


def test_order_of_rows_line_ends_and_byte_order_mark_do_not_matter(folder, tmp_path):
    lines = FILES[ATTRIBUTE_FILE].decode().splitlines()
    attributes = "\r\n".join([*lines[:2], *reversed(lines[2:]), "", ""])
    files = FILES | {ATTRIBUTE_FILE: attributes.encode(), POSE_FILE: b"\xef\xbb\xbf" + FILES[POSE_FILE]}
    other = write_folder(tmp_path / "other", files)
    assert_equal(load(other, SMALL, cache_folder=tmp_path / "a"), load(folder, SMALL, cache_folder=tmp_path / "b"))


@pytest.mark.parametrize("size", [32, 64, 128])
def test_images_are_resized(size, tmp_path):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    data = jpeg(coarse.resize((64, 64), Image.Resampling.BICUBIC))
    path = write_folder(tmp_path / "CelebAMask-HQ", FILES | {f"CelebA-HQ-img/{i}.jpg": data for i in range(COUNT)})
    settings = dataclasses.replace(SMALL, image_size=size)
    image = load(path, settings, cache_folder=tmp_path / "cache").train["image"][0]
    np.testing.assert_array_equal(image, decode.square(Image.open(io.BytesIO(data)), size))


# Selection


def make_table(count: int = 400) -> Table:
    rng = np.random.default_rng(7)
    return Table(
        index=np.arange(count, dtype=np.int32) * 3,
        names=tuple(name.lower() for name in NAMES),
        attributes=rng.random((count, len(NAMES))) < 0.4,
        pose=rng.normal(size=(count, 3)) * [15, 10, 10],
    )


def test_selection_follows_the_rule():
    table, settings = make_table(), Settings(subset_size=60, calibration_size=10)
    chosen = select(table, settings)

    eligible = []
    for row in range(len(table.index)):
        yaw, pitch, roll = table.pose[row]
        has = dict(zip(table.names, table.attributes[row], strict=True))
        listed = sum(has.get(name, False) for name in settings.attributes) + (not has["male"])
        if abs(yaw) <= 20 and abs(pitch) <= 15 and abs(roll) <= 15 and listed >= 3:
            eligible.append(row)
    male = table.attributes[:, NAMES.index("Male")]
    assert chosen.counts == {
        "annotated": 400,
        "frontal": int((np.abs(table.pose) <= (20, 15, 15)).all(1).sum()),
        "eligible": len(eligible),
        "eligible_female": int((~male[eligible]).sum()),
        "eligible_male": int(male[eligible].sum()),
        "train": 54,
        "validation": 6,
        "calibration": 10,
    }
    subset = np.concatenate([chosen.train, chosen.validation])
    assert (len(chosen.train), len(chosen.validation), len(chosen.calibration)) == (54, 6, 10)
    assert len(set(subset) | set(chosen.calibration)) == 70
    assert set(subset) | set(chosen.calibration) <= set(eligible)
    assert male[subset].sum() == 30
    assert male[chosen.calibration].sum() == 5


def eligible_rows(table, settings):
    """The rule in a loop."""
    rows = []
    for row in range(len(table.index)):
        has = dict(zip(table.names, table.attributes[row], strict=True))
        has["female"] = not has["male"]
        limits = settings.maximum_yaw, settings.maximum_pitch, settings.maximum_roll
        frontal = all(abs(angle) <= limit for angle, limit in zip(table.pose[row], limits, strict=True))
        if frontal and sum(has.get(name, False) for name in settings.attributes) >= settings.minimum_attributes:
            rows.append(row)
    return rows


@pytest.mark.parametrize(
    "limits", [{}, {"maximum_yaw": 8.0}, {"maximum_pitch": 5.0, "maximum_roll": 180.0}, {"minimum_attributes": 0}]
)
def test_all_eligible_images_can_be_chosen(limits):
    table, settings = make_table(), Settings(balanced=False, subset_size=0, calibration_size=11, **limits)
    chosen, eligible = select(table, settings), eligible_rows(table, settings)
    assert chosen.counts["eligible"] == len(eligible)
    assert sorted(chosen.rows.tolist()) == eligible
    assert len(chosen.calibration) == 11
    assert len(chosen.validation) == round((len(eligible) - 11) * 0.1)
    assert chosen.counts["train"] == len(chosen.train) == len(eligible) - 11 - len(chosen.validation)
    balanced = select(table, dataclasses.replace(settings, balanced=True, calibration_size=10))
    fewest = min(chosen.counts["eligible_female"], chosen.counts["eligible_male"])
    assert len(balanced.rows) == 2 * fewest < len(eligible)
    men = table.attributes[:, NAMES.index("Male")]
    assert men[balanced.rows].sum() == fewest
    assert men[balanced.calibration].sum() == 5


def test_without_balance_everybody_is_as_likely():
    table = dataclasses.replace(make_table(40), pose=np.zeros((40, 3)), attributes=np.ones((40, len(NAMES)), bool))
    table.attributes[:30, NAMES.index("Male")] = False
    settings = Settings(balanced=False, subset_size=9, calibration_size=3)
    times = collections.Counter(
        row for seed in range(400) for row in select(table, dataclasses.replace(settings, seed=seed)).rows.tolist()
    )
    # Each is drawn with probability 12/40: mean 120, standard deviation 9.2.
    assert min(times[row] for row in range(40)) > 120 - 5 * 9.2
    assert max(times.values()) < 120 + 5 * 9.2
    more = select(table, dataclasses.replace(settings, calibration_size=20))
    np.testing.assert_array_equal(more.train, select(table, settings).train)


def test_all_eligible_images_of_an_archive(folder, cache):
    everybody = dataclasses.replace(SMALL, balanced=False, subset_size=0, calibration_size=3)
    # Yaw runs from -10.5 to -1.5 degrees and from 0.5 to 9.5, twice.
    yaw = [float(line.split()[1]) for line in FILES[POSE_FILE].decode().splitlines()[2:]]
    for limit, count in ((20.0, 40), (3.5, 14)):
        data = load(folder, dataclasses.replace(everybody, maximum_yaw=limit), cache_folder=cache)
        assert data.provenance["counts"]["eligible"] == count
        index = np.concatenate([split["index"] for split in (data.train, data.validation, data.calibration)])
        assert sorted(index.tolist()) == [i for i in range(COUNT) if abs(yaw[i]) <= limit]


def test_limits_of_the_pose_are_inclusive():
    table = make_table(12)
    limits = np.array([20.0, 15.0, 15.0])
    pose = np.concatenate([np.diag(limits), -np.diag(limits), np.diag(np.nextafter(limits, 99)), np.zeros((3, 3))])
    table = dataclasses.replace(table, pose=pose, attributes=np.ones_like(table.attributes))
    table.attributes[::2, NAMES.index("Male")] = False
    assert select(table, Settings(subset_size=2, validation_fraction=0.5, calibration_size=0)).counts["frontal"] == 9


def test_everybody_is_chosen_equally_often():
    table = dataclasses.replace(make_table(40), pose=np.zeros((40, 3)), attributes=np.ones((40, len(NAMES)), bool))
    table.attributes[:20, NAMES.index("Male")] = False
    times = collections.Counter(
        itertools.chain.from_iterable(
            select(table, Settings(subset_size=10, calibration_size=0, seed=seed)).train.tolist() for seed in range(400)
        )
    )
    # Each is drawn with probability 1/4 and trained on with 9/10: mean 90, standard deviation 8.4.
    assert min(times[row] for row in range(40)) > 90 - 5 * 8.4
    assert max(times.values()) < 90 + 5 * 8.4


def test_calibration_size_leaves_the_subset_alone():
    small = select(make_table(), Settings(subset_size=40, calibration_size=0))
    large = select(make_table(), Settings(subset_size=40, calibration_size=20))
    np.testing.assert_array_equal(small.train, large.train)
    np.testing.assert_array_equal(small.validation, large.validation)
    assert len(small.calibration) == 0


def test_selection_depends_on_the_seed_alone():
    settings = Settings(subset_size=40, calibration_size=20)
    again = select(make_table(), settings)
    np.testing.assert_array_equal(select(make_table(), settings).train, again.train)
    assert set(select(make_table(), dataclasses.replace(settings, seed=43)).train) != set(again.train)


def test_attributes_may_be_any_of_the_file():
    table = make_table(5)
    np.testing.assert_array_equal(
        table.vectors(("female", "wavy_hair")), np.stack([~table.attributes[:, 4], table.attributes[:, 7]], 1)
    )
    with pytest.raises(ValueError, match="Unknown attribute 'eye_glasses': did you mean 'eyeglasses'"):
        table.column("eye_glasses")


@pytest.mark.parametrize("balanced", [True, False])
def test_advice_names_settings_that_exist(balanced):
    with pytest.raises(ValueError, match="women and") as error:
        select(make_table(), Settings(subset_size=800, balanced=balanced))
    advice = str(error.value).partition(": choose")[2]
    names = set(re.findall(r"[a-z]+_[a-z]+", advice)) | ({"balanced"} if balanced else set())
    assert {"minimum_attributes", "maximum_yaw", "maximum_pitch", "maximum_roll"} <= names
    assert names <= {field.name for field in dataclasses.fields(celebamask_hq.Config)}
    assert ("set balanced=false" in advice) == balanced


def test_a_minimum_above_the_number_of_attributes_says_so():
    settings = Settings(attributes=("young", "smiling"), minimum_attributes=3)
    with pytest.raises(
        ValueError,
        match=r"minimum_attributes is 3, expected at most 2, the number of attributes \(young, smiling\): lower",
    ):
        select(make_table(), settings)
    assert select(make_table(), dataclasses.replace(settings, minimum_attributes=2, subset_size=10, calibration_size=0))


def test_all_images_must_be_enough_for_every_split():
    with pytest.raises(ValueError, match=r"subset_size 0 and calibration_size 398 need 400 images: choose"):
        select(make_table(), Settings(balanced=False, subset_size=0, calibration_size=398))
    with pytest.raises(ValueError, match=r"subset_size 0 and calibration_size 398 need 200 of each: choose"):
        select(make_table(), Settings(subset_size=0, calibration_size=398))


def test_too_few_images_are_reported_with_the_remedy():
    message = "need 175 of each: choose sizes that add up to at most"
    with pytest.raises(ValueError, match=message) as error:
        select(make_table(), Settings(subset_size=300, calibration_size=50))
    counts = select(make_table(), Settings(subset_size=2, validation_fraction=0.5, calibration_size=0)).counts
    assert f"{counts['eligible_female']} women and {counts['eligible_male']} men are eligible" in str(error.value)
    most = 2 * min(counts["eligible_female"], counts["eligible_male"])
    assert f"at most {most}," in str(error.value)
    assert len(select(make_table(), Settings(subset_size=most, calibration_size=0)).train) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"attributes": ("male", "male")}, "each name once"),
        ({"attributes": ()}, "at least one name"),
        ({"subset_size": 11}, "subset_size is 11"),
        ({"calibration_size": 3}, "calibration_size 3"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"maximum_pitch": float("nan")}, "maximum_pitch is nan, expected degrees"),
        ({"subset_size": 1, "balanced": False}, "subset_size is 1 .*expected at least 2 for the subset, or 0 for all"),
        ({"subset_size": -2}, "subset_size is -2 .*expected at least 2"),
        ({"calibration_size": -2}, "calibration_size -2, expected at least 2 for the subset, .* and at least 0"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_defaults_give_the_published_sizes():
    assert (Settings().subset_size, Settings().validation_of(5000)) == (5000, 500)


# Damaged annotations: which file, which line, what to do

ROW_7 = "7.jpg  -1 -1 -1 -1 1 -1 1 -1 -1 1"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (changed(ATTRIBUTE_FILE, "40", "41"), f"{ATTRIBUTE_FILE}, line 1 announces 41 images, but 40 rows"),
        (changed(POSE_FILE, "40", "39"), f"{POSE_FILE}, line 1 announces 39 images, but 40 rows"),
        (changed(ATTRIBUTE_FILE, "40", "<html>"), "line 1 is '<html>', expected the number of images"),
        (FILES | {POSE_FILE: b""}, f"{POSE_FILE}, line 1 is '', expected the number"),
        (FILES | {POSE_FILE: b"\xff\xfe\x00"}, f"{POSE_FILE} is not UTF-8 text"),
        (changed(ATTRIBUTE_FILE, "Male", "Bald"), "line 2 has a name twice"),
        (changed(ATTRIBUTE_FILE, "Male", "Man"), "line 2 does not name the attribute 'Male'"),
        (changed(ATTRIBUTE_FILE, "Eyeglasses", "Eyeglass"), "Unknown attribute 'eyeglasses': .*'eyeglass'"),
        (changed(POSE_FILE, "Yaw Pitch", "Pitch Yaw"), f"{POSE_FILE}, line 2 is 'Pitch Yaw Raw'"),
        (changed(ATTRIBUTE_FILE, ROW_7, ROW_7 + " 1"), "line 10 .7.jpg. has 11 values, expected 10"),
        (changed(ATTRIBUTE_FILE, ROW_7, ROW_7[:-2]), "line 10 .7.jpg. has 9 values, expected 10"),
        (changed(ATTRIBUTE_FILE, ROW_7, ""), "line 1 announces .* images, but .* rows follow"),
        (changed(ATTRIBUTE_FILE, ROW_7, ROW_7[:-1] + "0"), "line 10 has the value '0', expected -1 or 1"),
        (changed(ATTRIBUTE_FILE, "\n7.jpg", "\n6.jpg"), "line 10 repeats 6.jpg of line 9"),
        (
            changed(POSE_FILE, "\n7.jpg", "\n77.jpg"),
            f"{ATTRIBUTE_FILE} without a counterpart in .*{POSE_FILE}: 1, .* 7.jpg",
        ),
        (changed(ATTRIBUTE_FILE, "\n7.jpg", "\n../7.jpg"), r"line 10 begins with '\.\./7\.jpg'"),
        (changed(POSE_FILE, "\n7.jpg", "\n7.png"), f"{POSE_FILE}, line 10 begins with '7.png'"),
        (changed(POSE_FILE, "7.jpg -3.5", "7.jpg nan"), f"{POSE_FILE}, line 10 has the values .*three angles"),
        (changed(POSE_FILE, "7.jpg -3.5", "7.jpg x"), f"{POSE_FILE}, line 10 has the values .*three angles"),
        (changed(POSE_FILE, "7.jpg -3.5", "7.jpg"), "line 10 .7.jpg. has 2 values, expected 3"),
    ],
)
def test_damaged_annotations_are_reported(files, message, tmp_path, cache):
    with pytest.raises(ValueError, match=message):
        load(write_folder(tmp_path / "CelebAMask-HQ", files), SMALL, cache_folder=cache)


def test_row_of_one_file_alone_is_reported_with_its_line():
    pose = changed(POSE_FILE, "40\n", "41\n")[POSE_FILE].decode() + "40.jpg 0 0 0\n"
    with pytest.raises(
        ValueError, match=r"Rows of pose without a counterpart in attributes: 1, the first for 40.jpg in line 43"
    ):
        parse(FILES[ATTRIBUTE_FILE].decode(), pose, "attributes", "pose")


def test_checksum_of_the_annotations_is_of_what_they_say(folder, tmp_path):
    def checksum(path: Path) -> str:
        return load(path, SMALL, cache_folder=tmp_path / "cache").provenance["annotations_checksum"]

    assert checksum(write_zip(tmp_path / "a.zip", FILES)) == checksum(folder)
    for file, old, new in ((POSE_FILE, "-3.25", "-3.5"), (ATTRIBUTE_FILE, "Wavy_Hair", "Wavy_Bangs")):
        assert checksum(write_folder(tmp_path / file, changed(file, old, new))) != checksum(folder)


def test_load_tells_the_first_problem_and_their_number():
    text = FILES[ATTRIBUTE_FILE].decode().replace("\n7.jpg", "\nseven.jpg").replace("\n9.jpg  -1", "\n9.jpg  0")
    with pytest.raises(ValueError, match=r"line 10 begins with 'seven.jpg'.*\.$"):
        parse(text, FILES[POSE_FILE].decode())
    text = FILES[ATTRIBUTE_FILE].decode().replace("\n9.jpg  -1", "\n9.jpg  0").replace("\n11.jpg  -1", "\n11.jpg  2")
    with pytest.raises(archive.DefectError, match=r"line 12 has the value '0'.* \(1 more: ") as error:
        parse(text, FILES[POSE_FILE].decode())
    assert len(error.value.problems) == 2


@pytest.mark.parametrize("as_zip", [False, True])
def test_defects_lists_everything(as_zip, tmp_path):
    files = changed(ATTRIBUTE_FILE, ROW_7, ROW_7 + " 1")
    files[POSE_FILE] = changed(POSE_FILE, "\n9.jpg -1.5", "\n9.jpg nan")[POSE_FILE]
    files |= {"CelebA-HQ-img/3.jpg": b"", "CelebA-HQ-img/5.jpg": jpeg(Image.new("RGB", (64, 60)))}
    path = write_zip(tmp_path / "a.zip", files) if as_zip else write_folder(tmp_path / "CelebAMask-HQ", files)
    found = list(celebamask_hq.defects(path))
    for message, part in zip(
        found, ["line 10 (7.jpg) has 11 values", "img/3.jpg (0 bytes)", "img/5.jpg"], strict=True
    ):  # the row of 9.jpg is looked at when all rows have their columns
        assert part in message

    files = changed(POSE_FILE, "\n9.jpg -1.5", "\n9.jpg nan")
    files[ATTRIBUTE_FILE] = changed(ATTRIBUTE_FILE, ROW_7, ROW_7[:-1] + "0")[ATTRIBUTE_FILE]
    found = list(celebamask_hq.defects(write_zip(tmp_path / "b.zip", files)))
    assert [message.split(" has ")[0][-7:] for message in found] == ["line 10", "line 12"]

    path = write_zip(tmp_path / "c.zip", without("CelebA-HQ-img/7.jpg", "CelebA-HQ-img/9.jpg"))
    assert [message[-10:] for message in celebamask_hq.defects(path)] == ["img/7.jpg.", "img/9.jpg."]
    (message,) = celebamask_hq.defects(write_zip(tmp_path / "d.zip", without(POSE_FILE)))
    assert f"There is no file {tmp_path}/d.zip/CelebAMask-HQ/{POSE_FILE}" in message
    assert list(celebamask_hq.defects(write_zip(tmp_path / "e.zip", FILES))) == []


# Missing and damaged files


def without(*names: str) -> Files:
    return {name: data for name, data in FILES.items() if name not in names}


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (without(ATTRIBUTE_FILE), f"no file .*{ATTRIBUTE_FILE}"),
        (without(POSE_FILE), f"no file .*{POSE_FILE}"),
        (without("CelebA-HQ-img/7.jpg", "CelebA-HQ-img/9.jpg"), "2 of 40 images are missing, first .*img/7.jpg"),
        (without(*FILES), "does not hold CelebAMask-HQ: expected"),
    ],
)
def test_missing_files_are_reported(files, message, as_zip, tmp_path, cache):
    path = write_zip(tmp_path / "a.zip", files) if as_zip else write_folder(tmp_path / "CelebAMask-HQ", files)
    with pytest.raises(FileNotFoundError, match=message):
        load(path, SMALL, cache_folder=cache)


def test_missing_path_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder or zip .*nowhere.zip: give the path"):
        load(tmp_path / "nowhere.zip", SMALL)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FILES["CelebA-HQ-img/7.jpg"][:-40], "img/7.jpg .* cannot be used: .*truncated"),
        (FILES["CelebA-HQ-img/7.jpg"][:-2], "img/7.jpg .* cannot be used: .*truncated"),
        (b"", "img/7.jpg .0 bytes. cannot be used: it is no JPEG, PNG or WebP image"),
        (b"<html>quota exceeded</html>", "img/7.jpg .* cannot be used: it is no JPEG, PNG or WebP image"),
        (jpeg(Image.new("RGB", (64, 60))), "img/7.jpg .* cannot be used: it is 64 x 60 pixels, expected a square"),
    ],
)
def test_damaged_images_are_reported(data, message, as_zip, tmp_path, cache):
    files = FILES | {"CelebA-HQ-img/7.jpg": data}
    path = write_zip(tmp_path / "a.zip", files) if as_zip else write_folder(tmp_path / "CelebAMask-HQ", files)
    everybody = dataclasses.replace(SMALL, subset_size=40, calibration_size=0)
    with pytest.raises(ValueError, match=message):
        load(path, everybody, cache_folder=cache)
    assert not cache.exists()


def test_reading_truncated_images_must_not_be_allowed(folder, cache, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES is set"):
        load(folder, SMALL, cache_folder=cache)


# Zips


def test_what_is_no_zip_is_reported(tmp_path, cache):
    page = tmp_path / "page.zip"
    page.write_bytes(b"<!DOCTYPE html><title>Quota exceeded</title>")
    with pytest.raises(
        ValueError, match=r"page.zip is not a whole zip .* begins with b'<!DOCTYPE html>.*fetch it again"
    ):
        load(page, SMALL, cache_folder=cache)
    whole = write_zip(tmp_path / "whole.zip", FILES).read_bytes()
    part = tmp_path / "part.zip"
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"part.zip is not a whole zip"):
        load(part, SMALL, cache_folder=cache)


def test_flipped_bit_in_a_zip_is_noticed(tmp_path, cache):
    path = write_zip(tmp_path / "a.zip", FILES)
    data = bytearray(path.read_bytes())
    data[data.index(FILES["CelebA-HQ-img/8.jpg"]) + 300] ^= 1
    path.write_bytes(data)
    everybody = dataclasses.replace(SMALL, subset_size=40, calibration_size=0)
    with pytest.raises(ValueError, match=r"img/8.jpg is damaged .*CRC"):
        load(path, everybody, cache_folder=cache)


def test_encrypted_zip_is_refused(tmp_path, cache):
    path = write_zip(tmp_path / "a.zip", FILES)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")  # first entry of the directory; its flags are 8 bytes further on
    struct.pack_into("<H", data, entry + 8, struct.unpack_from("<H", data, entry + 8)[0] | 1)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"'CelebAMask-HQ/CelebA-HQ-img/0.jpg' is encrypted: unpack"):
        load(path, SMALL, cache_folder=cache)


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil", "a/../../evil", "C:\\evil", "..\\evil"])
def test_zip_with_members_that_lead_outside_is_refused(name, tmp_path, cache):
    path = write_zip(tmp_path / "a.zip", FILES)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"")
    with pytest.raises(ValueError, match=r"evil.* leads outside the zip"):
        load(path, SMALL, cache_folder=cache)


def test_names_that_lead_outside_a_folder_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"1")
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=r"'\.\./secret' leads outside"):
        archive.Folder(tmp_path / "data").read("../secret")


def test_oversized_members_are_refused(folder, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    for path in (folder, write_zip(tmp_path / "a.zip", FILES)):
        with pytest.raises(ValueError, match=f"{ATTRIBUTE_FILE} has .* bytes, expected at most 1000"):
            load(path, SMALL, cache_folder=cache)


# Cache


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Grows by the number of images whenever images are decoded."""
    counts: list[int] = []
    decode_images = decode.decode_images

    def counting(archive_, names, *args, **kwargs):
        counts.append(len(names))
        return decode_images(archive_, names, *args, **kwargs)

    monkeypatch.setattr(decode, "decode_images", counting)
    return counts


def test_images_are_decoded_once_and_only_the_selected_ones(folder, cache, decoded):
    first = load(folder, SMALL, cache_folder=cache)
    (file,) = cache.iterdir()
    inode = file.stat().st_ino  # another one if it were written again
    second = load(folder, SMALL, cache_folder=cache)
    assert decoded == [24]
    assert_equal(first, second)
    assert first.provenance == second.provenance
    assert [f.stat().st_ino for f in cache.iterdir()] == [inode]
    assert first.provenance["checksum"][:32] in file.name
    with np.load(file) as arrays:
        assert {name: array.shape for name, array in arrays.items()} == {"image": (24, 16, 16, 3), "size": (24, 2)}


@pytest.mark.parametrize(
    "change", [{"image_size": 8}, {"seed": 1}, {"attributes": ("male", "young", "smiling")}, {"maximum_yaw": 19.0}]
)
def test_other_settings_have_another_cache_file(change, folder, cache, decoded):
    load(folder, SMALL, cache_folder=cache)
    settings = dataclasses.replace(SMALL, minimum_attributes=2)
    load(folder, dataclasses.replace(settings, **change), cache_folder=cache)
    assert len(decoded) == len(list(cache.iterdir())) == 2


def test_changed_data_are_decoded_again(tmp_path, cache, decoded):
    path = write_folder(tmp_path / "CelebAMask-HQ", FILES)
    first = load(path, SMALL, cache_folder=cache)
    image = path / "CelebA-HQ-img" / f"{first.train['index'][0]}.jpg"
    image.write_bytes(jpeg(Image.new("RGB", (64, 64), (255, 255, 255))))
    os.utime(image, ns=(0, 0))
    second = load(path, SMALL, cache_folder=cache)
    assert decoded == [24, 24]
    assert second.train["image"][0].min() == 255
    np.testing.assert_array_equal(first.train["image"][1:], second.train["image"][1:])
    (path / POSE_FILE).write_bytes(changed(POSE_FILE, "-3.25", "-3.5")[POSE_FILE])
    load(path, SMALL, cache_folder=cache)
    assert decoded == [24, 24, 24]


def test_copy_of_a_zip_finds_the_cache_but_another_image_does_not(tmp_path, cache, decoded):
    path = write_zip(tmp_path / "a.zip", FILES)
    data = load(path, SMALL, cache_folder=cache)
    copy = shutil.copy(path, tmp_path / "b.zip")
    assert load(copy, SMALL, cache_folder=cache).provenance["checksum"] == data.provenance["checksum"]
    assert decoded == [24]
    other = FILES | {f"CelebA-HQ-img/{data.train['index'][0]}.jpg": FILES["CelebA-HQ-img/0.jpg"]}
    if data.train["index"][0] == 0:
        other = FILES | {"CelebA-HQ-img/0.jpg": FILES["CelebA-HQ-img/1.jpg"]}
    load(write_zip(tmp_path / "c.zip", other), SMALL, cache_folder=cache)
    assert decoded == [24, 24]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:],
        lambda data: b"\x93NUMPY" + data,
    ],
)
def test_damaged_cache_is_rebuilt_and_reported(damage, folder, cache, decoded, caplog):
    expected = load(folder, SMALL, cache_folder=cache)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert_equal(load(folder, SMALL, cache_folder=cache), expected)
    assert "is damaged" in caplog.text
    assert str(file) in caplog.text
    load(folder, SMALL, cache_folder=cache)
    assert decoded == [24, 24]


def test_cache_that_cannot_be_written_is_no_obstacle(folder, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    data = load(folder, SMALL, cache_folder=tmp_path / "file")
    assert len(data.train) == 18
    assert "The cache is left out" in caplog.text


def test_failed_write_leaves_nothing_behind(folder, cache, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    load(folder, SMALL, cache_folder=cache)
    assert list(cache.iterdir()) == []


def test_default_cache_is_the_users(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load(folder, SMALL)
    assert len(list((tmp_path / "mvae_jax").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert decode.default_cache_folder() == tmp_path / "home" / ".cache" / "mvae_jax"


# The real data set, where there is one


@pytest.mark.skipif("MVAE_JAX_DATA" not in os.environ, reason="MVAE_JAX_DATA names no folder with data sets")
def test_real_data_set(cache):
    path = Path(os.environ["MVAE_JAX_DATA"]) / "CelebAMask-HQ-64px.zip"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    data = load(path, cache_folder=cache)
    assert [len(s) for s in (data.train, data.validation, data.calibration)] == [4500, 500, 500]
    index = np.concatenate([s["index"] for s in (data.train, data.validation, data.calibration)])
    assert len(set(index.tolist())) == 5500
    assert data.provenance["counts"]["annotated"] == 24000
    assert data.provenance["counts"]["eligible"] == 13253
    with celebamask_hq.open_published(path) as published:
        everybody = select(published.table, Settings(balanced=False, subset_size=0))
    assert len(everybody.rows) == 13253
    male = data.attributes.index("male")
    attributes = np.concatenate([data.train["attributes"], data.validation["attributes"]])
    assert attributes[:, male].sum() == 2500
    assert data.calibration["attributes"][:, male].sum() == 250
    assert attributes.sum(1).min() >= 3
    assert data.train["image"].shape == (4500, 64, 64, 3)
    assert 40 < data.train["image"].std() < 90
