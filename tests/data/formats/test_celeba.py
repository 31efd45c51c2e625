from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvae_jax.data import archive, decode
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import celeba
from mvae_jax.data.formats.celeba import CROPS, Settings, cut, load, parse, select

NAMES = ["5_o_Clock_Shadow", "Bald", "Male", "Smiling", "Young"]
PARTITION = [0] * 20 + [1] * 6 + [2] * 4
COUNT = len(PARTITION)
SMALL = Settings(image_size=8, crop="alae")
ATTRIBUTES, PARTITIONS, IDENTITIES = "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"
Files = dict[str, bytes]


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def signs(number: int) -> list[int]:
    """Attribute k of image N is the bit k of N."""
    return [1 if number >> k & 1 else -1 for k in range(len(NAMES))]


def image_name(number: int) -> str:
    return f"img_align_celeba/{number:06}.jpg"


def make_files() -> Files:
    """Images 3, 6 ... 90 in the published format; image N is (2N, 200 - 2N, 100) all over and shows person 100 - N."""
    numbers = range(3, 3 * COUNT + 1, 3)
    attributes = [f"{COUNT}", " ".join(NAMES) + " "]  # sic, as published
    attributes += [f"{n:06}.jpg " + " ".join(f"{sign:2}" for sign in signs(n)) for n in numbers]
    partitions = [f"{n:06}.jpg {p}" for n, p in zip(numbers, PARTITION, strict=True)]
    identities = [f"{n:06}.jpg {100 - n}" for n in numbers]
    lists = {ATTRIBUTES: attributes, PARTITIONS: partitions, IDENTITIES: identities}
    return {name: ("\n".join(lines) + "\n").encode() for name, lines in lists.items()} | {
        image_name(n): jpeg(Image.new("RGB", (178, 218), (2 * n, 200 - 2 * n, 100))) for n in numbers
    }


FILES = make_files()
IMAGES = {name: data for name, data in FILES.items() if name.endswith("jpg")}
LISTS = {name: data for name, data in FILES.items() if name.endswith("txt")}


def write_folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: Files, root: str = "celeba/") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(root + name, data)
    return path


def changed(name: str, old: str, new: str) -> Files:
    text = FILES[name].decode()
    assert old in text
    return FILES | {name: text.replace(old, new, 1).encode()}


def without(*names: str) -> Files:
    return {name: data for name, data in FILES.items() if name not in names}


def kaggle() -> Files:
    """Without the count, with commas, with other names of columns, and without identities."""
    attributes, partitions = (FILES[name].decode().splitlines() for name in (ATTRIBUTES, PARTITIONS))
    rows = [",".join(line.split()) for line in attributes[2:]]
    return {
        "list_attr_celeba.csv": "\r\n".join([",".join(["image_id", *NAMES]), *rows, ""]).encode(),
        "list_eval_partition.csv": "\n".join(
            ["image_id,partition", *(",".join(p.split()) for p in partitions)]
        ).encode(),
    } | {f"img_align_celeba/{name}": data for name, data in IMAGES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "celeba", FILES)


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


# --- reading -------------------------------------------------------------------------------------------------------


def test_splits_are_the_official_partitions(folder, cache):
    data = load(folder, SMALL, cache_folder=cache)
    assert [len(split) for _, split in data] == [20, 6, 4]
    assert data.attributes == tuple(name.lower() for name in NAMES)
    for partition, (_, split) in enumerate(data):
        index = split["index"]
        assert sorted(index) == [3 * (i + 1) for i in range(COUNT) if PARTITION[i] == partition]
        assert len(split) < 5 or list(index) != sorted(index)
        assert (split["image"].dtype, split["attributes"].dtype, index.dtype) == (np.uint8, np.float32, np.int32)
        colour = np.stack([2 * index, 200 - 2 * index, np.full_like(index, 100)], -1)
        assert np.abs(split["image"] - colour[:, None, None].astype(float)).max() <= 2  # JPEG's own error
        np.testing.assert_array_equal(split["attributes"], index[:, None] >> np.arange(5) & 1)
        np.testing.assert_array_equal(split["identity"], 100 - index)
    json.dumps(data.provenance)
    assert data.provenance["counts"] == {"annotated": 30, "train": 20, "validation": 6, "calibration": 4}
    assert data.provenance["image_files"] == "178 x 218 pixels"
    assert (data.provenance["data_set"], data.provenance["crop"]) == ("CelebA", "alae")


def layouts(root: Path) -> list[Path]:
    """Folders and zips as they are published and handed on, without identities."""
    lists = {name: data for name, data in LISTS.items() if name != IDENTITIES}
    folders = {"Anno": ATTRIBUTES, "Eval": PARTITIONS}
    official = {f"{folder}/{name}": FILES[name] for folder, name in folders.items()}
    in_zip, below, at_top = (write_folder(root / name, lists) for name in ("in_zip", "below/celeba", "at_top"))
    for path, prefix in ((in_zip, ""), (below, "")):
        write_zip(path / "img_align_celeba.zip", IMAGES, prefix)
    write_zip(at_top / "img_align_celeba.zip", {name[-10:]: data for name, data in IMAGES.items()}, "img_align_celeba/")
    write_zip(write_folder(root / "official", official) / "Img/img_align_celeba.zip", IMAGES, "")
    return [
        write_zip(root / "celeba.zip", lists | IMAGES),
        write_zip(root / "flat.zip", lists | IMAGES, ""),
        *(in_zip, below.parent, below, at_top, root / "official"),
        write_folder(root / "official_unpacked", official | {f"Img/{name}": data for name, data in IMAGES.items()}),
        write_folder(root / "kaggle", kaggle()),
        write_zip(root / "kaggle.zip", kaggle(), ""),
    ]


def test_every_layout_gives_the_same(folder, tmp_path):
    expected = load(folder, SMALL, cache_folder=tmp_path / "cache")
    for number, path in enumerate(layouts(tmp_path)):
        data = load(path, SMALL, cache_folder=tmp_path / f"cache{number}")
        assert data.sha256() == expected.sha256(), path
        assert "identity" not in data.train.arrays
        assert list(celeba.defects(path)) == []


def test_order_of_rows_line_ends_and_byte_order_mark_do_not_matter(folder, tmp_path):
    lines = FILES[ATTRIBUTES].decode().splitlines()
    text = "\r\n".join([*lines[:2], *reversed(lines[2:]), ""])
    other = write_folder(tmp_path / "other", FILES | {ATTRIBUTES: b"\xef\xbb\xbf" + text.encode()})
    digests = {load(path, SMALL, cache_folder=tmp_path / path.name).sha256() for path in (folder, other)}
    assert len(digests) == 1


def test_attributes_may_be_chosen(folder, cache):
    data = load(folder, dataclasses.replace(SMALL, attributes=("female", "young", "male")), cache_folder=cache)
    assert data.attributes == ("female", "young", "male")
    index = data.train["index"]
    expected = np.stack([1 - (index >> 2 & 1), index >> 4 & 1, index >> 2 & 1], 1)
    np.testing.assert_array_equal(data.train["attributes"], expected)
    with pytest.raises(ValueError, match="Unknown attribute 'smile': did you mean 'smiling' or 'male'"):
        load(folder, dataclasses.replace(SMALL, attributes=("smile",)), cache_folder=cache)


# --- selection -----------------------------------------------------------------------------------------------------


def make_table(partition: np.ndarray) -> celeba.Table:
    count = len(partition)
    index = np.random.default_rng(0).permutation(count).astype(np.int32)
    return celeba.Table(index, ("bald",), np.zeros((count, 1), bool), partition, np.zeros(count, np.int32))


def numbers(table: celeba.Table, rows: np.ndarray) -> list[int]:
    return table.index[rows].tolist()


def test_smaller_splits_are_parts_of_larger_ones():
    table = make_table(np.arange(300) % 3)
    whole = select(table, Settings())
    part = select(table, Settings(train_size=30, validation_size=7, calibration_size=0))
    assert [len(part.train), len(part.validation), len(part.calibration)] == [30, 7, 0]
    np.testing.assert_array_equal(part.train, whole.train[:30])
    np.testing.assert_array_equal(part.validation, whole.validation[:7])
    assert part.counts == {"annotated": 300, "train": 30, "validation": 7, "calibration": 0}


def test_partitions_may_be_put_together():
    table = make_table(np.arange(300) % 3)
    chosen = select(table, Settings(train=("validation", "train"), validation=("test",), calibration=()))
    assert set(chosen.train) == set(np.flatnonzero(table.partition < 2))
    assert set(chosen.validation) == set(np.flatnonzero(table.partition == 2))
    assert len(chosen.calibration) == 0


def test_the_choice_depends_on_seed_and_numbers_alone():
    table = make_table(np.arange(300) % 3)
    shuffled = np.random.default_rng(1).permutation(300)
    columns = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    other = celeba.Table(**{name: c if name == "names" else c[shuffled] for name, c in columns.items()})
    one, two, three = (
        numbers(t, select(t, Settings(train_size=20, seed=seed)).train)
        for t, seed in ((table, 1), (other, 1), (table, 2))
    )
    assert one == two
    assert set(one) != set(three)


def test_every_image_is_chosen_equally_often():
    table = make_table(np.repeat([0, 1, 2], [40, 1, 1]))
    times = np.zeros(42)
    for seed in range(400):
        times[select(table, Settings(train_size=10, seed=seed)).train] += 1
    # Drawn with probability 1/4: mean 100, standard deviation 8.7.
    assert np.abs(times[:40] - 100).max() < 5 * 8.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_size": 101}, "train_size is 101, but the lists have 100 images of the partition train: choose fewer"),
        ({"calibration_size": 101}, "calibration_size is 101, but"),
        ({"calibration": (), "calibration_size": 1}, "0 images of the partition none"),
    ],
)
def test_too_few_images_are_reported(change, message):
    with pytest.raises(ValueError, match=message):
        select(make_table(np.arange(300) % 3), Settings(**change))


def test_no_image_of_a_partition_is_reported():
    with pytest.raises(
        ValueError, match="validation_size is all, but the lists have 0 images of the partition validation"
    ):
        select(make_table(np.arange(300) % 2 * 2), Settings())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "center"}, "crop is 'center', expected 'schik'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": (64, 0)}, r"image_size is \(64, 0\)"),
        ({"attributes": ("male", "male")}, "each name once"),
        ({"attributes": ()}, "at least one name"),
        ({"train": ("train", "test")}, "expected each of train, validation, test at most once"),
        ({"train": ("training",)}, "partitions are .'training'"),
        ({"train": ()}, "one to train on"),
        ({"validation": ()}, "one to validate on"),
        ({"train_size": 0}, "train_size is 0"),
        ({"validation_size": -1}, "validation_size -1"),
        ({"calibration_size": -1}, "calibration_size is -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


# --- crops ---------------------------------------------------------------------------------------------------------

# Every pixel tells its column (red) and row (green).
COORDINATES = np.stack(np.broadcast_arrays(np.arange(178), np.arange(218)[:, None], 0), -1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [
        ("schik", slice(50, 168), slice(30, 148)),
        ("schik_nearest", slice(50, 168), slice(30, 148)),
        ("alae", slice(60, 188), slice(25, 153)),
        ("none", slice(0, 218), slice(0, 178)),
    ],
)
def test_crops_are_the_papers(crop, rows, columns):
    expected = NOISE[rows, columns]
    np.testing.assert_array_equal(cut(Image.fromarray(NOISE), crop, expected.shape[:2]), expected)
    assert CROPS[crop].proportions == expected.shape[:2]


def test_nearest_takes_single_pixels_and_the_others_do_not():
    half = np.asarray(cut(Image.fromarray(COORDINATES), "schik_nearest", (59, 59)))
    np.testing.assert_array_equal(half, COORDINATES[51:168:2, 31:148:2])
    checks = (np.indices((218, 178)).sum(0) % 2 * 255).astype(np.uint8)
    image = Image.fromarray(np.stack([checks] * 3, -1))
    assert np.asarray(cut(image, "schik_nearest", (59, 59))).std() == 0
    for crop in ("schik", "alae", "none", "larsen"):
        inner = np.asarray(cut(image, crop, (32, 32)))[4:-4, 4:-4]
        assert np.abs(inner - 127.5).max() < 8, crop


@pytest.mark.parametrize("size", [(64, 64), (32, 48)])
def test_larsen_blurs_and_takes_cubic_samples(size):
    part = NOISE[40:188, 15:163].astype(float)

    def weight(distance: float) -> float:
        x = abs(distance)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def one_axis(lines: np.ndarray, count: int) -> np.ndarray:
        deviation = math.sqrt(148 / count) / 2
        padded = np.pad(lines, ((20, 20), *[(0, 0)] * (lines.ndim - 1)), "edge")
        taps = range(-8, 9)
        gaussian = np.array([math.exp(-(tap**2) / (2 * deviation**2)) for tap in taps])
        shifted = (padded[8 + tap : len(padded) - 8 + tap] for tap in taps)
        blurred = sum(part * lines for part, lines in zip(gaussian / gaussian.sum(), shifted, strict=True))
        rows = []
        for i in range(count):
            centre = (i + 0.5) * 148 / count - 0.5 + 12
            near = range(math.floor(centre) - 2, math.floor(centre) + 4)
            rows.append(sum(weight(centre - j) * blurred[j] for j in near))
        return np.stack(rows)

    rows = one_axis(part, size[0])
    expected = one_axis(rows.transpose(1, 0, 2), size[1]).transpose(1, 0, 2).clip(0, 255)
    result = np.asarray(cut(Image.fromarray(NOISE), "larsen", size))
    assert result.shape == (*size, 3)
    assert np.abs(result - expected).max() < 0.52  # rounding, and a Gaussian that ends at four deviations


def test_larsen_leaves_gradients_where_they_are():
    result = np.asarray(cut(Image.fromarray(COORDINATES), "larsen", (64, 64)))[4:-4, 4:-4].astype(float)
    centres = (np.arange(4, 60) + 0.5) * 148 / 64 - 0.5
    assert np.abs(result[..., 0] - (15 + centres)).max() <= 0.51
    assert np.abs(result[..., 1] - (40 + centres)[:, None]).max() <= 0.51


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (Settings(), (64, 64)),
        (Settings(crop="none", image_size=218), (218, 178)),
        (Settings(crop="none", image_size=109), (109, 89)),
        (Settings(crop="none", image_size=(112, 88)), (112, 88)),
        (Settings(crop="schik", image_size=(32, 16)), (32, 16)),
    ],
)
def test_sizes(settings, size, folder, cache):
    assert settings.size == size
    few = dataclasses.replace(settings, train_size=1, validation_size=1, calibration_size=0)
    assert load(folder, few, cache_folder=cache).train["image"].shape == (1, *size, 3)


# --- damaged lists -------------------------------------------------------------------------------------------------

ROW_9 = "000009.jpg  1 -1 -1  1 -1"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (changed(ATTRIBUTES, "30", "31"), f"{ATTRIBUTES}, line 1 announces 31 images, but 30 rows"),
        (changed(ATTRIBUTES, "30", "<html>"), "line 1 is '<html>', expected the number of images"),
        (FILES | {ATTRIBUTES: b""}, f"{ATTRIBUTES}, line 1 is ''"),
        (FILES | {ATTRIBUTES: b"\xff\xfe\x00"}, f"{ATTRIBUTES} is not UTF-8 text"),
        (changed(ATTRIBUTES, "Male", "Bald"), "line 2 has a name twice"),
        (changed(ATTRIBUTES, ROW_9, ROW_9 + " 1"), "line 5 .000009.jpg. has 6 values, expected 5"),
        (changed(ATTRIBUTES, ROW_9, ROW_9[:-2]), "line 5 .000009.jpg. has 4 values, expected 5"),
        (changed(ATTRIBUTES, ROW_9, ""), f"{ATTRIBUTES}, line 1 announces 30 images, but 29 rows"),
        (changed(ATTRIBUTES, ROW_9, ROW_9[:-2] + "0"), "line 5 has the value '0', expected -1 or 1"),
        (changed(ATTRIBUTES, "000009.jpg", "9.jpg"), "line 5 begins with '9.jpg'"),
        (changed(ATTRIBUTES, "000009.jpg", "000006.jpg"), "line 5 repeats 000006.jpg of line 4"),
        (
            changed(PARTITIONS, "000009.jpg 0", "000009.jpg 3"),
            f"{PARTITIONS}, line 3 has the value '3', expected 0 .train",
        ),
        (changed(PARTITIONS, "000009.jpg 0", "000009.jpg"), f"{PARTITIONS}, line 3 .* has 0 values, expected 1"),
        (
            changed(PARTITIONS, "000009.jpg 0\n", ""),
            f"Rows of .*{ATTRIBUTES} without .*{PARTITIONS}: 1, .* 000009.jpg in line 5",
        ),
        (changed(PARTITIONS, "000009.jpg", "000007.jpg"), "1, the first for 000009.jpg in line 5"),
        (changed(PARTITIONS, "000009.jpg", "000006.jpg"), f"{PARTITIONS}, line 3 repeats 000006.jpg of line 2"),
        (
            FILES | {PARTITIONS: FILES[PARTITIONS] + b"000100.jpg 0\n"},
            f"Rows of .*{PARTITIONS} without .* 000100.jpg in line 31",
        ),
        (FILES | {PARTITIONS: b""}, f"without a counterpart in .*{PARTITIONS}: 30, the first for 000003.jpg in line 3"),
        (
            changed(IDENTITIES, "000009.jpg 91", "000009.jpg 0"),
            f"{IDENTITIES}, line 3 has the value '0', expected the number",
        ),
        (changed(IDENTITIES, "000009.jpg", "000008.jpg"), f"without a counterpart in .*{IDENTITIES}: 1"),
    ],
)
def test_damaged_lists_are_reported(files, message, tmp_path, cache):
    with pytest.raises(ValueError, match=message):
        load(write_folder(tmp_path / "celeba", files), SMALL, cache_folder=cache)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_attr_celeba.csv", "000009.jpg,1", "000009.jpg,1,1", "line 4 .000009.jpg. has 6 values, expected 5"),
        ("list_attr_celeba.csv", "Male", "Bald", "line 1 has a name twice"),
        ("list_eval_partition.csv", "000009.jpg,0", "000009.jpg,3", "line 4 has the value '3'"),
    ],
)
def test_lines_of_csv_files_are_counted_with_the_header(name, old, new, message, tmp_path, cache):
    files = kaggle()
    files[name] = files[name].replace(old.encode(), new.encode(), 1)
    with pytest.raises(ValueError, match=message):
        load(write_folder(tmp_path / "kaggle", files), SMALL, cache_folder=cache)


def test_all_problems_are_collected():
    text = FILES[PARTITIONS].decode().replace("000009.jpg 0", "000009.jpg 5").replace("000012.jpg 0", "000012.jpg -1")
    with pytest.raises(archive.DefectError, match=r"line 3 has the value '5'.* \(1 more: ") as error:
        parse((ATTRIBUTES, FILES[ATTRIBUTES].decode()), (PARTITIONS, text))
    assert len(error.value.problems) == 2


# --- missing and damaged files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (without(ATTRIBUTES), f"no file .*{ATTRIBUTES}. It is a part of the published data set"),
        (without(PARTITIONS), f"no file .*{PARTITIONS}"),
        (
            without(*map(image_name, range(3, 16, 3))),
            r"5 of 30 images are missing from .*: 000003.jpg, 000006.jpg, 000009.jpg and 2 more\. Fetch them",
        ),
        (without(image_name(9)), r"1 of 30 images are missing from .*: 000009.jpg\. Fetch"),
        (LISTS, "There are no images in .*: expected img_align_celeba/000001.jpg and so on"),
        ({"notes.txt": b""}, "does not hold CelebA: expected img_align_celeba/, list_attr_celeba.txt and"),
    ],
)
def test_missing_files_are_reported(files, message, as_zip, tmp_path, cache):
    path = write_zip(tmp_path / "a.zip", files) if as_zip else write_folder(tmp_path / "celeba", files)
    with pytest.raises(FileNotFoundError, match=message):
        load(path, SMALL, cache_folder=cache)


def test_a_zip_within_a_zip_is_reported_with_the_remedy(tmp_path, cache):
    inner = write_zip(tmp_path / "img_align_celeba.zip", IMAGES, "").read_bytes()
    path = write_zip(tmp_path / "a.zip", LISTS | {"img_align_celeba.zip": inner})
    with pytest.raises(FileNotFoundError, match=r"zip within the zip: unpack .*a.zip/celeba/img_align_celeba.zip"):
        load(path, SMALL, cache_folder=cache)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IMAGES[image_name(9)][:-40], "000009.jpg .* cannot be used: .*truncated"),
        (b"", "000009.jpg .0 bytes. cannot be used: it is no JPEG, PNG or WebP image"),
        (b"<html>quota exceeded</html>", "000009.jpg .* cannot be used: it is no JPEG, PNG or WebP image"),
        (
            jpeg(Image.new("RGB", (409, 687))),
            "000009.jpg .* cannot be used: it is 409 x 687 pixels, expected 178 x 218 as the aligned images are",
        ),
    ],
)
def test_damaged_images_are_reported(data, message, as_zip, tmp_path, cache):
    files = FILES | {image_name(9): data}
    path = write_zip(tmp_path / "a.zip", files) if as_zip else write_folder(tmp_path / "celeba", files)
    with pytest.raises(ValueError, match=message):
        load(path, SMALL, cache_folder=cache)
    assert not cache.exists()
    (defect,) = celeba.defects(path)
    assert "000009.jpg" in defect


def test_bad_zips_are_reported(tmp_path, cache):
    path = write_folder(tmp_path / "celeba", LISTS)
    (path / "img_align_celeba.zip").write_bytes(b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
    for source in (path, path / "img_align_celeba.zip"):
        with pytest.raises(
            ValueError, match=r"img_align_celeba.zip is not a whole zip .* begins with b'<!DOCTYPE html>"
        ):
            load(source, SMALL, cache_folder=cache)
    whole = write_zip(path / "img_align_celeba.zip", IMAGES, "").read_bytes()
    flipped = bytearray(whole)
    flipped[flipped.index(IMAGES[image_name(9)]) + 300] ^= 1
    (path / "img_align_celeba.zip").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"000009.jpg is damaged .*CRC"):
        load(path, SMALL, cache_folder=cache)
    (path / "img_align_celeba.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"img_align_celeba.zip is not a whole zip"):
        load(path, SMALL, cache_folder=cache)
    entry = whole.index(b"PK\x01\x02")
    encrypted = bytearray(whole)
    struct.pack_into("<H", encrypted, entry + 8, struct.unpack_from("<H", whole, entry + 8)[0] | 1)
    (path / "img_align_celeba.zip").write_bytes(encrypted)
    with pytest.raises(ValueError, match=r"is encrypted"):
        load(path, SMALL, cache_folder=cache)


def test_defects_lists_everything(tmp_path):
    files = changed(PARTITIONS, "000009.jpg 0", "000009.jpg 7") | {image_name(12): b"", image_name(15): b"x"}
    found = list(celeba.defects(write_zip(tmp_path / "a.zip", files)))
    for message, part in zip(
        found, ["line 3 has the value '7'", "000012.jpg (0 bytes)", "000015.jpg (1 b"], strict=True
    ):
        assert part in message
    path = write_folder(tmp_path / "b", without(image_name(12), image_name(15)))
    assert [message[-11:] for message in celeba.defects(path)] == ["000012.jpg.", "000015.jpg."]
    (message,) = celeba.defects(write_folder(tmp_path / "c", without(ATTRIBUTES)))
    assert f"no file {tmp_path}/c/{ATTRIBUTES}" in message


# --- cache ---------------------------------------------------------------------------------------------------------


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


def test_images_are_decoded_once_whatever_the_attributes(folder, cache, decoded):
    first = load(folder, SMALL, cache_folder=cache)
    again = load(folder, SMALL, cache_folder=cache)
    other = load(folder, dataclasses.replace(SMALL, attributes=("bald",)), cache_folder=cache)
    assert decoded == [30]
    assert first.sha256() == again.sha256()
    assert first.provenance == again.provenance
    assert other.provenance["checksum"] != first.provenance["checksum"]
    np.testing.assert_array_equal(other.train["image"], first.train["image"])


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 9},
        {"image_size": (8, 9)},
        {"crop": "schik"},
        {"crop": "none", "image_size": (8, 8)},
        {"seed": 1},
        {"train_size": 10},
        {"train": ("test",), "calibration": ("train",)},
    ],
)
def test_other_images_have_another_cache_file(change, folder, cache, decoded):
    one = load(folder, SMALL, cache_folder=cache)
    two = load(folder, dataclasses.replace(SMALL, **change), cache_folder=cache)
    assert len(decoded) == len(list(cache.iterdir())) == 2
    assert one.provenance["checksum"] != two.provenance["checksum"]


def test_changed_images_are_decoded_again(tmp_path, cache, decoded):
    path = write_folder(tmp_path / "celeba", FILES)
    first = load(path, SMALL, cache_folder=cache)
    image = path / image_name(first.train["index"][0])
    image.write_bytes(jpeg(Image.new("RGB", (178, 218), "white")))
    os.utime(image, ns=(0, 0))
    second = load(path, SMALL, cache_folder=cache)
    assert decoded == [30, 30]
    assert second.train["image"][0].min() == 255
    np.testing.assert_array_equal(first.train["image"][1:], second.train["image"][1:])


# --- the real data set, where there is one -------------------------------------------------------------------------


@pytest.mark.skipif("MVAE_JAX_DATA" not in os.environ, reason="MVAE_JAX_DATA names no folder with data sets")
def test_real_data_set(cache):
    path = Path(os.environ["MVAE_JAX_DATA"]) / "CelebA-subset.zip"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    data: Splits = load(path, Settings(image_size=16), cache_folder=cache)
    assert [len(split) for _, split in data] == [6000, 1000, 1000]
    assert len(data.attributes) == 40
    # Official partitions: to 162,770 and to 182,637.
    assert [split["index"].max() <= last for (_, split), last in zip(data, (162770, 182637, 202599), strict=True)] == [
        True
    ] * 3
    assert data.validation["index"].min() > 162770
    assert data.calibration["index"].min() > 182637
    part = data.train["attributes"].mean(0)[data.attributes.index("male")]
    assert 0.38 < part < 0.46  # of all 202,599 it is 0.417
