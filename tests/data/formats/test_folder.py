from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mvae_jax.data import archive, decode
from mvae_jax.data.batches import Splits, permutation
from mvae_jax.data.formats import folder
from mvae_jax.data.formats.folder import Settings, load, parse

COUNT = 20
SMALL = Settings(image_size=8, calibration_size=4, validation_fraction=0.25, seed=3)
NAMES = [f"{'deep/er/' if i % 3 else ''}{i}.{'jpg' if i % 2 else 'png'}" for i in range(COUNT)]
ROWS = [(name, i % 2, i // 5 % 2) for i, name in enumerate(NAMES)]
HEADER = "file,red_car,smiling"
TEXT = "\n".join([HEADER, *(f"{name},{a},{b}" for name, a, b in ROWS)]) + "\n"
Files = dict[str, bytes]


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=95)
    return stream.getvalue()


def make_files() -> Files:
    """Images of one colour each, (10i, 200 - 10i, 100); some are wider than high."""
    files = {"attributes.csv": TEXT.encode()}
    for i, name in enumerate(NAMES):
        image = Image.new("RGB", (12 + 4 * (i % 4 == 0), 12), (10 * i, 200 - 10 * i, 100))
        files[name] = encoded(image, "JPEG" if i % 2 else "PNG")
    return files


FILES = make_files()


def write_folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: Files, root: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(root + name, data)
    return path


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("own") / "mydata", FILES)


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def assert_equal(one: Splits, other: Splits) -> None:
    assert one.attributes == other.attributes
    for (_, split), (_, second) in zip(one, other, strict=True):
        for array in ("image", "attributes", "index"):
            np.testing.assert_array_equal(split[array], second[array])


# --- reading -------------------------------------------------------------------------------------------------------


def test_splits_hold_the_right_images_and_attributes(there, cache, caplog):
    with caplog.at_level(logging.INFO):
        data = load(there, SMALL, cache_folder=cache)
    assert "5 of 20 images are not square: cropped to their central square." in caplog.text
    assert "pixels." not in caplog.text  # none is enlarged
    assert [len(split) for _, split in data] == [12, 4, 4]
    assert data.attributes == ("red_car", "smiling")
    seen = []
    for _, split in data:
        assert (split["image"].dtype, split["attributes"].dtype, split["index"].dtype) == (
            np.uint8,
            np.float32,
            np.int32,
        )
        i = split["index"] - 2  # the first image is in line 2
        seen += i.tolist()
        colour = np.stack([10 * i, 200 - 10 * i, np.full_like(i, 100)], -1)
        assert np.abs(split["image"] - colour[:, None, None].astype(float)).max() <= 2  # JPEG's own error
        np.testing.assert_array_equal(split["attributes"], np.stack([i % 2, i // 5 % 2], 1))
    assert sorted(seen) == list(range(COUNT))
    json.dumps(data.provenance)
    assert data.provenance["counts"] == {"listed": 20, "train": 12, "validation": 4, "calibration": 4}
    assert (data.provenance["cropped"], data.provenance["enlarged"]) == (5, 0)
    assert data.provenance["image_files"] == "from 12 x 12 to 16 x 12 pixels"


def test_random_split_is_a_permutation_of_the_sorted_files(there, cache):
    data = load(there, SMALL, cache_folder=cache)
    order = sorted(range(COUNT), key=NAMES.__getitem__)
    expected = np.array(order)[permutation(COUNT, 3)] + 2
    np.testing.assert_array_equal(np.concatenate([split["index"] for _, split in data]), expected)
    other = load(there, dataclasses.replace(SMALL, seed=4), cache_folder=cache)
    assert set(other.train["index"]) != set(data.train["index"])


def test_enlarged_images_are_told(there, cache, caplog):
    with caplog.at_level(logging.INFO):
        data = load(there, dataclasses.replace(SMALL, image_size=16), cache_folder=cache)
    assert "20 of 20 images have fewer than 16 pixels" in caplog.text
    assert data.provenance["enlarged"] == 20


def test_folder_its_parent_and_zips_give_the_same(there, tmp_path):
    expected = load(there, SMALL, cache_folder=tmp_path / "cache")
    for number, path in enumerate(
        [
            str(there) + "/",
            there.parent,
            write_zip(tmp_path / "flat.zip", FILES),
            write_zip(tmp_path / "of_the_folder.zip", FILES, "mydata/"),
            write_zip(tmp_path / "mac.zip", {f"mydata/{n}": d for n, d in FILES.items()} | {"__MACOSX/._x": b"1"}),
        ]
    ):
        assert_equal(load(path, SMALL, cache_folder=tmp_path / f"cache{number}"), expected)


LINES = TEXT.splitlines()


@pytest.mark.parametrize(
    "text",
    [
        "\n".join([HEADER, *reversed(LINES[1:])]),
        "\r\n".join(LINES) + "\r\n",
        "\ufeff" + TEXT,
        "\ufeff" + "\r\n".join(LINES).replace(",", ";"),
        TEXT.replace(",", "\t"),
        "\n".join(",".join(reversed(line.split(","))) for line in LINES),  # order of the columns
        "\n\n".join(LINES) + "\n\n",
        "\n".join([f"{LINES[0]},note", *(f'{line},"a ""quoted"", text;\n in two lines"' for line in LINES[1:])]),
        TEXT.replace(",", " , "),
        TEXT.replace("\n", "\n./", 3),
        "\n".join(['"file","red_car","smiling"', *LINES[1:]]),
    ],
)
def test_order_separators_line_ends_and_byte_order_mark_do_not_matter(text, there, tmp_path):
    other = write_folder(tmp_path / "other", FILES | {"attributes.csv": text.encode()})
    settings = dataclasses.replace(SMALL, attributes=("red_car", "smiling"))
    expected = load(there, settings, cache_folder=tmp_path / "a")
    data = load(other, settings, cache_folder=tmp_path / "b")
    assert data.sha256() == expected.sha256()


def test_attributes_are_the_chosen_columns_in_their_order(there, cache):
    both = load(there, SMALL, cache_folder=cache)
    swapped = load(there, dataclasses.replace(SMALL, attributes=("smiling", "red_car")), cache_folder=cache)
    np.testing.assert_array_equal(swapped.train["attributes"], both.train["attributes"][:, ::-1])
    one = load(there, dataclasses.replace(SMALL, attributes=("smiling",)), cache_folder=cache)
    np.testing.assert_array_equal(one.train["attributes"], both.train["attributes"][:, 1:])
    assert len(list(cache.iterdir())) == 1, "the images are the same"


def test_columns_that_are_not_chosen_may_hold_anything(there, tmp_path, cache):
    text = "\n".join(f"{line},{'Age (years)' if n == 0 else 30 + n}" for n, line in enumerate(LINES))
    path = write_folder(tmp_path / "own", FILES | {"attributes.csv": text.encode()})
    data = load(path, dataclasses.replace(SMALL, attributes=("smiling",)), cache_folder=cache)
    assert data.attributes == ("smiling",)


def test_images_may_have_no_attributes_where_the_model_says_so(there, tmp_path, cache):
    gaps = ("?,?", "nan,NaN", ",", "?,")
    lines = [f"{name},{a},{b}" if i > 3 else f"{name},{gaps[i]}" for i, (name, a, b) in enumerate(ROWS)]
    path = write_folder(tmp_path / "own", FILES | {"attributes.csv": "\n".join([HEADER, *lines]).encode()})
    settings = dataclasses.replace(SMALL, missing_attributes=True)
    whole, part = (load(place, settings, cache_folder=cache) for place in (there, path))
    for (_, split), (_, other) in zip(part, whole, strict=True):
        missing = split["index"] < 6  # the header is line 1
        assert "present/attributes" not in other.arrays
        assert split["present/attributes"].dtype == np.float32
        np.testing.assert_array_equal(split.present("attributes"), ~missing)
        np.testing.assert_array_equal(split["image"], other["image"])
        np.testing.assert_array_equal(split["attributes"], np.where(missing[:, None], 0, other["attributes"]))
    assert (part.provenance["without_attributes"], "without_attributes" in whole.provenance) == (4, False)
    with pytest.raises(ValueError, match=r"line 2 has no attributes, and this model needs those .*\(3 more"):
        load(path, SMALL, cache_folder=cache)
    # A column that is not chosen says nothing of those that are.
    assert parse(csv_with(5, "3.jpg,,1"), ("red_car",), missing=True).present.sum() == COUNT - 1
    with pytest.raises(ValueError, match=r"here.csv, line 5 has 'NaN' for 'red_car', .*: fill it in, or empty all"):
        parse(csv_with(5, "3.jpg,NaN,1"), where="here.csv", missing=True)
    with pytest.raises(ValueError, match=r"here.csv has attributes of no image, expected 0 and 1 in at least one"):
        parse("file,hat\n1.png,?", where="here.csv", missing=True)


def test_csv_of_another_name(there, tmp_path, cache):
    files = {name: data for name, data in FILES.items() if name != "attributes.csv"}
    path = write_folder(tmp_path / "own", files | {"labels.csv": TEXT.encode()})
    assert_equal(
        load(path, dataclasses.replace(SMALL, csv="labels.csv"), cache_folder=cache),
        load(there, SMALL, cache_folder=cache),
    )
    with pytest.raises(
        FileNotFoundError, match=r"/own does not hold .* attributes.csv .* If labels.csv does, name it as csv"
    ):
        load(path, SMALL, cache_folder=cache)


def with_splits(*names: str) -> Files:
    lines = [f"{LINES[0]},split", *(f"{line},{names[n % len(names)]}" for n, line in enumerate(LINES[1:]))]
    return FILES | {"attributes.csv": "\n".join(lines).encode()}


def test_column_split_decides(tmp_path, cache):
    path = write_zip(tmp_path / "a.zip", with_splits("train", "train", "validation", "calibration"))
    data = load(path, SMALL, cache_folder=cache)
    for (name, split), rests in zip(data, ({0, 1}, {2}, {3}), strict=True):
        assert set((split["index"] - 2) % 4) == rests, name
    assert [len(split) for _, split in data] == [10, 5, 5]
    assert_equal(load(path, dataclasses.replace(SMALL, seed=9, calibration_size=7), cache_folder=cache), data)

    path = write_zip(tmp_path / "b.zip", with_splits("train", "validation"))
    with pytest.raises(ValueError, match=r"csv has no image whose split is 'calibration', .*: give some this split"):
        load(path, SMALL, cache_folder=cache)
    data = load(path, dataclasses.replace(SMALL, calibration_size=0), cache_folder=cache)
    assert [len(split) for _, split in data] == [10, 10, 0]
    with pytest.raises(ValueError, match=r"no image whose split is 'validation'"):
        load(write_zip(tmp_path / "c.zip", with_splits("train", "calibration")), SMALL, cache_folder=cache)


def test_images_are_seen_as_meant(tmp_path, cache):
    """Turned, transparent, grey, with a palette, in 16 bits, of any size: each as `decode.square` sees it."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)).save(stream, "JPEG", exif=exif)
    images = {
        "turned.jpg": stream.getvalue(),
        "clear.png": encoded(Image.fromarray(rng.integers(0, 256, (9, 30, 4), np.uint8)), "PNG"),
        "grey.jpg": encoded(Image.fromarray(rng.integers(0, 256, (40, 40), np.uint8)), "JPEG"),
        "palette.png": encoded(Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).convert("P"), "PNG"),
        "deep.png": encoded(Image.fromarray(rng.integers(0, 65536, (12, 7)).astype(np.uint16)), "PNG"),
    }
    text = "file,hat\n" + "\n".join(f"{name},1" for name in images)
    path = write_folder(tmp_path / "own", {**images, "attributes.csv": text.encode()})
    data = load(path, Settings(image_size=8, calibration_size=1, validation_fraction=0.3), cache_folder=cache)
    for _, split in data:
        for index, image in zip(split["index"], split["image"], strict=True):
            source = Image.open(io.BytesIO(list(images.values())[index - 2]))
            np.testing.assert_array_equal(image, decode.square(source, 8))
    assert data.provenance["cropped"] == 4


# --- defects -------------------------------------------------------------------------------------------------------


def csv_with(line: int, text: str) -> str:
    """The CSV with another line 1, 2, ...."""
    return "\n".join([*LINES[: line - 1], text, *LINES[line:]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 names no columns, expected 'file' among them"),
        ("\n\n", "line 1 names no columns"),
        (HEADER, "lists no images, expected a line for each"),
        ("\n".join(LINES[1:]), "line 1 names the columns '0.png', '0', '0', expected 'file' among them"),
        (csv_with(1, "File,red_car,smiling"), "line 1 names the columns 'File', 'red_car', 'smiling', expected 'file'"),
        (csv_with(1, "file,smiling,smiling"), "line 1 names 'smiling' twice: remove one"),
        ("file\na.jpg", "line 1 names no attribute, expected one"),
        ("file,split\na.jpg,train", "line 1 names no attribute"),
        (
            csv_with(1, "file,red_car,"),
            r"line 2 has '0' in column 3, which has no name in the first line: name it there, or .* \(19 more",
        ),
        (csv_with(1, "file,red_car,<b>smiling</b>"), "line 1: The attribute '<b>smiling</b>' cannot be said"),
        (csv_with(1, "file,red_car,$\\frac{$"), "line 1: The attribute .* cannot be said"),
        (csv_with(1, "file,red_car,no_hat"), "line 1: The name of the attribute 'no_hat' contains 'no'"),
        (csv_with(5, "3.jpg,1"), "line 5 has 2 values, expected 3, one for each of file, red_car, smiling"),
        (csv_with(5, "deep/er/3.jpg,1,0,0"), "line 5 has 4 values, expected 3"),
        (csv_with(5, "a,b.jpg,1,0"), "line 5 has 4 values, expected 3"),
        (csv_with(5, "3.jpg,1,yes"), "line 5 has 'yes' for 'smiling', expected 1 if the image has the attribute and 0"),
        (csv_with(5, "3.jpg,-1,1"), "line 5 has '-1' for 'red_car', expected 1"),
        (csv_with(5, "3.jpg,1.0,1"), "line 5 has '1.0' for 'red_car'"),
        (csv_with(5, "3.jpg,,1"), "line 5 has '' for 'red_car'"),
        (csv_with(5, "3.jpg,,1"), "line 5 has .*: fill it in, or empty all attributes of the line"),
        (csv_with(5, "3.jpg,,nan"), "line 5 has no attributes, and this model needs those .*: fill them in, remove"),
        (csv_with(5, ",1,1"), "line 5 names no file"),
        (csv_with(5, "0.png,1,1"), "line 5 repeats the file '0.png' of line 2: remove one"),
        (csv_with(5, "deep/../0.png,1,1"), "line 5 names the file 'deep/../0.png', which leads outside"),
        (csv_with(5, "../secret.png,1,1"), "line 5 names the file '../secret.png', which leads outside"),
        (csv_with(5, "/etc/passwd,1,1"), "line 5 names the file '/etc/passwd', which leads outside"),
        (csv_with(5, "deep\\3.jpg,1,1"), r"line 5 names the file 'deep\\\\3.jpg', which .* forward slashes"),
        (csv_with(5, '"3.jpg,1,1'), r"line \d+ is malformed .unexpected end of data.: look for a stray quote"),
        (csv_with(5, '"3".jpg,1,1'), "line 5 is malformed"),
        ("file,hat,split\n1.png,1,test", "line 2 has the split 'test', expected train, validation or calibration"),
        ("file,hat,split\n1.png,1,", "line 2 has the split '', expected train"),
    ],
)
def test_malformed_csvs_are_reported(text, message):
    with pytest.raises(ValueError, match=f"^here.csv,? {message}"):
        parse(text, where="here.csv")


def test_unknown_attributes_are_reported_with_near_matches():
    message = "here.csv has no attribute 'smileing': did you mean 'smiling'? It has 'red_car', 'smiling'"
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        parse(TEXT, ("smileing",), "here.csv")
    with pytest.raises(ValueError, match=r"no attribute 'file': .*It has 'red_car', 'smiling'"):
        parse(TEXT, ("file",))


def test_text_that_is_not_utf_8_is_refused(tmp_path, cache):
    for encoding in ("utf-16", "latin-1"):
        text = csv_with(5, "größe.jpg,1,0").encode(encoding)
        path = write_zip(tmp_path / f"{encoding}.zip", FILES | {"attributes.csv": text})
        with pytest.raises(ValueError, match=r"attributes.csv is not UTF-8 text .*save it as UTF-8, in Excel as"):
            load(path, SMALL, cache_folder=cache)


@pytest.mark.parametrize("as_zip", [False, True])
def test_missing_files_are_reported(as_zip, tmp_path, cache):
    def write(name: str, files: Files) -> Path:
        return write_zip(tmp_path / f"{name}.zip", files) if as_zip else write_folder(tmp_path / name, files)

    missing = {name: data for name, data in FILES.items() if name not in (NAMES[4], NAMES[7])}
    with pytest.raises(
        FileNotFoundError,
        match=r"^2 of 20 images are missing. There is no file .*deep/er/4.png, which "
        r".*attributes.csv, line 6 names. Put them there, or remove",
    ):
        load(write("images", missing), SMALL, cache_folder=cache)
    with pytest.raises(
        FileNotFoundError,
        match=r"does not hold your images with a CSV: there is no file attributes.csv in it or in one",
    ):
        load(write("csv", {"x/y.png": b"1"}), SMALL, cache_folder=cache)
    two = {f"{part}/{name}": data for name, data in FILES.items() for part in ("one", "two")}
    with pytest.raises(FileNotFoundError, match=r"two.* holds several, .*/one/? and .*/two/?: give the path of one"):
        load(write("two", two), SMALL, cache_folder=cache)
    with pytest.raises(FileNotFoundError, match="no folder or zip"):
        load(tmp_path / "nowhere", SMALL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FILES[NAMES[7]][:-2], r"deep/er/7.jpg \(.* cannot be used: .*truncated"),
        (b"", r"deep/er/7.jpg \(0 bytes\) cannot be used: it is no JPEG, PNG or WebP image"),
        (encoded(Image.new("RGB", (4, 4)), "GIF"), "it is no JPEG, PNG or WebP image"),
    ],
)
def test_damaged_images_are_reported(data, message, tmp_path, cache):
    for path in (
        write_folder(tmp_path / "own", FILES | {NAMES[7]: data}),
        write_zip(tmp_path / "own.zip", FILES | {NAMES[7]: data}),
    ):
        with pytest.raises(ValueError, match=message):
            load(path, SMALL, cache_folder=cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration_size": 20}, "has 20 images, too few for calibration_size 20"),
        (
            {"calibration_size": 500},
            "has 20 images, too few for calibration_size 500 and validation_fraction 0.25 of the rest: set "
            r"calibration_size to 2, which leaves 14 for training and 4 for validation\.$",
        ),
        ({"calibration_size": 18}, "too few"),
        ({"validation_fraction": 0.01}, "too few"),
    ],
)
def test_too_few_images_are_reported(change, message, there, cache):
    with pytest.raises(ValueError, match=message):
        load(there, dataclasses.replace(SMALL, **change), cache_folder=cache)
    assert not cache.exists(), "nothing is decoded before"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"attributes": ()}, "at least one name"),
        ({"attributes": ("hat", "hat")}, "each name once"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"calibration_size": -1}, "calibration_size is -1"),
        ({"seed": -1}, "seed -1"),
        ({"csv": "../attributes.csv"}, "csv is '../attributes.csv'"),
        ({"csv": ""}, "csv is ''"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_all_problems_are_collected(tmp_path):
    text = csv_with(5, "../3.jpg,yes,1").replace("deep/er/7.jpg,1,1", "deep/er/7.jpg,1")
    with pytest.raises(archive.DefectError, match=r"line 5 names the file .*\(2 more: `mvae-jax data verify`"):
        parse(text)
    path = write_folder(tmp_path / "own", FILES | {"attributes.csv": text.encode()})
    for message, start in zip(folder.defects(path), ["5 names the file", "5 has 'yes'", "9 has 2 values"], strict=True):
        assert message.startswith(f"{path / 'attributes.csv'}, line {start}")
    path = write_folder(tmp_path / "images", FILES | {NAMES[7]: b"", NAMES[2]: b"<html>"})
    (path / NAMES[3]).unlink()
    found = list(folder.defects(path))
    assert [message.split(" (")[0].split(", which")[0] for message in found] == [
        f"There is no file {path / NAMES[3]}",
        str(path / NAMES[2]),
        str(path / NAMES[7]),
    ]
    assert list(folder.defects(write_zip(tmp_path / "a.zip", FILES))) == []
    (message,) = folder.defects(write_zip(tmp_path / "b.zip", {"attributes.csv": b"file\xff"}))
    assert "not UTF-8" in message


# --- cache ---------------------------------------------------------------------------------------------------------


def test_images_are_decoded_once(there, cache, monkeypatch):
    first = load(there, SMALL, cache_folder=cache)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode_images", None)
        again = load(there, SMALL, cache_folder=cache)
    assert_equal(first, again)
    assert first.provenance == again.provenance
    load(there, dataclasses.replace(SMALL, image_size=9), cache_folder=cache)
    assert len(list(cache.iterdir())) == 2


def test_changed_images_are_decoded_again(tmp_path, cache):
    path = write_folder(tmp_path / "own", FILES)
    first = load(path, SMALL, cache_folder=cache)
    changed = path / NAMES[first.train["index"][0] - 2]
    changed.write_bytes(encoded(Image.new("RGB", (9, 9), (255, 255, 255)), "PNG"))
    os.utime(changed, ns=(0, 0))
    second = load(path, SMALL, cache_folder=cache)
    assert second.train["image"][0].min() == 255
    np.testing.assert_array_equal(first.train["image"][1:], second.train["image"][1:])
    assert first.provenance["checksum"] != second.provenance["checksum"]


def test_the_checksum_changes_with_the_settings_that_are_used(tmp_path, cache):
    def checksum(**change):
        return load(path, dataclasses.replace(SMALL, **change), cache_folder=cache).provenance["checksum"]

    path = write_folder(tmp_path / "own", FILES)
    chosen = {"seed": 4}, {"validation_fraction": 0.5}, {"calibration_size": 5}
    drawn = [checksum(), *(checksum(**change) for change in chosen), checksum(attributes=("smiling",))]
    assert len(set(drawn)) == len(drawn)
    header, *rows = TEXT.splitlines()
    parts = ("train", "train", "validation", "calibration")
    lines = [f"{header},split", *(f"{row},{parts[i % 4]}" for i, row in enumerate(rows))]
    (path / "attributes.csv").write_text("\n".join(lines))
    assert checksum() == checksum(attributes=("red_car", "smiling"))
    for change in chosen:
        assert checksum(**change) == checksum()  # the column says what is in each split
