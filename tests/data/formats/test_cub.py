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
from PIL import Image

from mvae_jax.data import decode
from mvae_jax.data.formats import cub
from mvae_jax.data.formats.cub import IMAGE_ATTRIBUTES, SPECIES_ATTRIBUTES, Settings, cut, load

SPECIES = {1: "001.Black_footed_Albatross", 2: "002.Laysan_Albatross", 4: "004.Groove_billed_Ani"}
ATTRIBUTES = ["has_bill_shape::dagger", "has_bill_shape::curved_(up_or_down)", "has_size::small_(5_-_9_in)"]
ROOT = "CUB_200_2011/"
SMALL = Settings(image_size=8)
# Per cent of the images of each of the four species in classes.txt.
PERCENT = np.array([[0, 49.9, 50], [100, 0, 0], [100, 100, 100], [50.1, 1.5, 99]])
# Image -> species, trained on, width and height.
IMAGES = {
    5: (4, 1, (40, 30)),
    1: (1, 1, (40, 20)),
    2: (1, 0, (20, 40)),
    3: (1, 1, (30, 30)),
    9: (2, 0, (33, 17)),
    12: (2, 1, (24, 24)),
}
Files = dict[str, bytes]


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def picture(number: int) -> Image.Image:
    """Image N is grey, and its left half 10 N; image 9 has a single channel."""
    width, height = IMAGES[number][2]
    pixels = np.full((height, width), 128, np.uint8)
    pixels[:, : width // 2] = 10 * number
    return Image.fromarray(pixels) if number == 9 else Image.fromarray(np.stack([pixels] * 3, -1))


def image_name(number: int) -> str:
    return f"{SPECIES[IMAGES[number][0]]}/bird_{number}.jpg"


def present(number: int, attribute: int) -> int:
    """Attribute k = 1, 2, 3 of image N is the bit k of N + 3."""
    return number + 3 >> attribute & 1


def make_files(of_images: bool = True) -> Files:
    texts = {
        "images.txt": [f"{n} {image_name(n)}" for n in IMAGES],
        "image_class_labels.txt": [f"{n} {species}" for n, (species, _, _) in IMAGES.items()],
        "train_test_split.txt": [f"{n} {trains}" for n, (_, trains, _) in IMAGES.items()],
        "bounding_boxes.txt": [f"{n} 4.0 2.5 12.0 10.0" for n in IMAGES],
        "classes.txt": [f"{i} {name}" for i, name in (SPECIES | {3: "003.Sooty_Albatross"}).items()],
        "attributes/attributes.txt": [f"{i} {name}" for i, name in enumerate(ATTRIBUTES, start=1)],
        SPECIES_ATTRIBUTES: [" ".join(map(str, row)) for row in PERCENT],
    }
    if of_images:
        # Rows of some images of the published file have two columns more.
        texts[IMAGE_ATTRIBUTES] = [
            f"{n} {k} {present(n, k)} 3 " + ("0 0 1.509" if n == 2 else "27.708") for n in IMAGES for k in (1, 2, 3)
        ]
    files = {ROOT + name: ("\n".join(lines) + "\n").encode() for name, lines in texts.items()}
    return files | {f"{ROOT}images/{image_name(n)}": jpeg(picture(n)) for n in IMAGES}


FILES = make_files()


def write_folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def without(*names: str, files: Files = FILES) -> Files:
    return {name: data for name, data in files.items() if name.removeprefix(ROOT) not in names}


def changed(name: str, old: str, new: str, files: Files = FILES) -> Files:
    text = files[ROOT + name].decode()
    assert old in text
    return files | {ROOT + name: text.replace(old, new, 1).encode()}


OF_SPECIES = make_files(of_images=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), FILES)


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


# --- reading -------------------------------------------------------------------------------------------------------


def test_splits_and_vectors_are_the_official_ones(folder, cache, caplog):
    with caplog.at_level(logging.INFO):
        data = load(folder, SMALL, cache_folder=cache)
    assert sorted(data.train["index"].tolist()) == [1, 3, 5, 12]
    assert sorted(data.validation["index"].tolist()) == [2, 9]
    assert len(data.calibration) == 0
    assert data.attributes == (*ATTRIBUTES, *SPECIES.values())
    for split in (data.train, data.validation):
        assert (split["image"].dtype, split["attributes"].dtype, split["index"].dtype) == (
            np.uint8,
            np.float32,
            np.int32,
        )
        for image, vector, n in zip(split["image"], split["attributes"], split["index"].tolist(), strict=True):
            assert vector.tolist() == [
                *(present(n, k) for k in (1, 2, 3)),
                *(float(i == IMAGES[n][0]) for i in SPECIES),
            ]
            assert image.shape == (8, 8, 3)
            assert np.abs(image[:, :2].astype(int) - 10 * n).max() < 12  # the left half, through JPEG and Lanczos
            assert np.abs(image[:, 6:].astype(int) - 128).max() < 12
    json.dumps(data.provenance)
    assert data.provenance["counts"] == {"species": 3, "train": 4, "validation": 2}
    assert data.provenance["attributes_of"] == "images"
    assert data.provenance["image_files"] == "from 33 x 17 to 40 x 30 pixels"
    assert "is not there" not in caplog.text


def test_without_attributes_of_images_those_of_half_of_the_species_count(tmp_path, cache, caplog):
    path = write_folder(tmp_path / "a", OF_SPECIES)
    with caplog.at_level(logging.INFO):
        data = load(path, SMALL, cache_folder=cache)
    assert f"{IMAGE_ATTRIBUTES} is not there: images have the attributes that half of their species have" in caplog.text
    assert data.provenance["attributes_of"] == "species (at least half of its images)"
    expected = {1: [0, 0, 1], 2: [1, 0, 0], 4: [1, 0, 1]}
    for split in (data.train, data.validation):
        for vector, n in zip(split["attributes"], split["index"].tolist(), strict=True):
            assert vector[:3].tolist() == expected[IMAGES[n][0]]


def test_every_layout_gives_the_same(folder, tmp_path):
    expected = load(folder, SMALL, cache_folder=tmp_path / "cache")
    inner = without("attributes/attributes.txt")
    names = FILES[ROOT + "attributes/attributes.txt"]
    published = write_folder(tmp_path / "published", inner | {"attributes.txt": names})
    paths = [
        folder / "CUB_200_2011",
        published,
        published / "CUB_200_2011",
        write_folder(tmp_path / "beside", inner | {f"{ROOT}attributes.txt": names}),
        write_zip(tmp_path / "a.zip", FILES),
        write_zip(tmp_path / "b.zip", inner | {"attributes.txt": names}),
        write_zip(tmp_path / "c.zip", {name.removeprefix(ROOT): data for name, data in FILES.items()}),
    ]
    for number, path in enumerate(paths):
        assert load(path, SMALL, cache_folder=tmp_path / f"cache{number}").sha256() == expected.sha256()
        assert list(cub.defects(path)) == []


def test_attributes_and_species_may_be_chosen(folder, cache):
    names = (SPECIES[4], ATTRIBUTES[1])
    data = load(folder, dataclasses.replace(SMALL, attributes=names), cache_folder=cache)
    assert data.attributes == names
    expected = [[float(IMAGES[n][0] == 4), present(n, 2)] for n in data.train["index"].tolist()]
    np.testing.assert_array_equal(data.train["attributes"], expected)
    for name, near in (("004.Groove_billed", SPECIES[4]), ("has_size::small", ATTRIBUTES[2])):
        with pytest.raises(ValueError, match=f"Unknown attribute '{name}': did you mean .*{near[:12]}"):
            load(folder, dataclasses.replace(SMALL, attributes=(name,)), cache_folder=cache)
    with pytest.raises(ValueError, match=r"Unknown attribute '003\.Sooty_Albatross'"):  # of which there is no image
        load(folder, dataclasses.replace(SMALL, attributes=("003.Sooty_Albatross",)), cache_folder=cache)


# --- crops ---------------------------------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)


@pytest.mark.parametrize(
    ("crop", "box", "expected"),
    [
        ("none", (1, 2, 3, 4), NOISE),
        ("square", (1, 2, 3, 4), NOISE[:, 10:40]),
        ("box", (7.0, 3.0, 20.0, 11.0), NOISE[3:14, 7:27]),
        ("box", (-2.0, 25.0, 20.0, 11.0), NOISE[25:, :18]),  # beyond the image there is nothing
        ("box", (45.0, -1.0, 20.0, 11.0), NOISE[:10, 45:]),
    ],
)
def test_crops(crop, box, expected):
    np.testing.assert_array_equal(cut(Image.fromarray(NOISE), crop, expected.shape[:2], box), expected)


def test_boxes_may_end_between_pixels():
    ramp = Image.fromarray(np.broadcast_to(np.arange(0, 200, 4, np.uint8), (30, 50)).copy())
    result = np.asarray(cut(ramp, "box", (8, 8), (10.5, 3.25, 16.0, 20.0)))[0, 2:-2, 0]
    assert np.abs(result - 4 * (10.5 + (np.arange(2, 6) + 0.5) * 2 - 0.5)).max() <= 1


def test_a_box_outside_the_image_is_reported(tmp_path, cache):
    files = changed("bounding_boxes.txt", "9 4.0 2.5", "9 33.0 2.5")
    path = write_folder(tmp_path / "a", files)
    boxes = Settings(8, "box")
    with pytest.raises(
        ValueError, match=r"bird_9.jpg .* its bounding box \(33.0, 2.5, 12.0, 10.0\) has nothing of the 33 x 17"
    ):
        load(path, boxes, cache_folder=cache)
    load(path, SMALL, cache_folder=cache)
    (message,) = cub.defects(path)
    assert "bird_9.jpg" in message


def test_every_image_has_its_own_box(tmp_path, cache):
    files = FILES
    for number in IMAGES:  # the left half of odd images and the right half of even ones
        width, height = IMAGES[number][2]
        box = f"{number} {0 if number % 2 else width / 2 + 2} 0 {width / 2 - 2} {height}"
        files = changed("bounding_boxes.txt", f"{number} 4.0 2.5 12.0 10.0", box, files)
    data = load(write_folder(tmp_path / "a", files), Settings(8, "box"), cache_folder=cache)
    for split in (data.train, data.validation):
        for image, n in zip(split["image"], split["index"].tolist(), strict=True):
            assert np.abs(image.astype(int) - (10 * n if n % 2 else 128)).max() < 12


@pytest.mark.parametrize(("size", "shape"), [(9, (9, 9)), ((9, 12), (9, 12)), (Settings().image_size, (244, 244))])
def test_sizes(size, shape, folder, cache):
    assert load(folder, Settings(size), cache_folder=cache).train["image"].shape == (4, *shape, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "schik"}, "crop is 'schik', expected 'none', 'square', 'box'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"attributes": ()}, "at least one name"),
        ({"attributes": ("a", "a")}, "each name once"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


# --- damaged text files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            changed("images.txt", "\n1 001.", "\n1 ../001."),
            "images.txt, line 2 has '../001.*expected a file in the folder",
        ),
        (
            changed("images.txt", "\n1 ", "\none "),
            "images.txt, line 2 begins with 'one', expected an image such as '17'",
        ),
        (changed("images.txt", "\n1 ", "\n5 "), "images.txt, line 2 repeats 5 of line 1"),
        (changed("images.txt", "bird_1.jpg", "bird_1.jpg x"), "images.txt, line 2 .1. has 2 values, expected 1"),
        (FILES | {ROOT + "images.txt": b""}, "images.txt lists no images"),
        (
            changed("image_class_labels.txt", "1 1\n", ""),
            "images.txt without .*image_class_labels.txt: 1, .* image 1 in line 2",
        ),
        (
            changed("image_class_labels.txt", "1 1\n", "1 77\n"),
            "image_class_labels.txt, line 2 has '77', expected a number of",
        ),
        (
            changed("train_test_split.txt", "1 1\n", "1 2\n"),
            "train_test_split.txt, line 2 has '2', expected 1 to train on or 0",
        ),
        (
            changed("train_test_split.txt", "1 1\n", "1 1\n8 1\n"),
            "train_test_split.txt without .*images.txt: 1, .* image 8",
        ),
        (
            changed("bounding_boxes.txt", "1 4.0 2.5 12.0", "1 4.0 2.5"),
            "bounding_boxes.txt, line 2 .1. has 3 values, expected 4",
        ),
        (
            changed("bounding_boxes.txt", "1 4.0 2.5 12.0", "1 4.0 2.5 -1"),
            "bounding_boxes.txt, line 2 has '4.0 2.5 -1 10.0', exp",
        ),
        (changed("bounding_boxes.txt", "1 4.0 2.5", "1 nan 2.5"), "bounding_boxes.txt, line 2 has 'nan"),
        (changed("bounding_boxes.txt", "1 4.0 2.5", "1 4,0 2.5"), "bounding_boxes.txt, line 2 has '4,0"),
        (changed("classes.txt", "2 002.Laysan", "4 002.Laysan"), "classes.txt, line 3 repeats 4 of line 2|repeats 4"),
        (changed("classes.txt", SPECIES[2], SPECIES[1]), "has a name twice"),
        (changed(IMAGE_ATTRIBUTES, "2 2 1", "2 2 2"), "has the value 2 for image 2 and attribute 2, expected 0 or 1"),
        (changed(IMAGE_ATTRIBUTES, "2 2 1 3 0 0 1.509\n", ""), "1 pairs .* image 2 and attribute 2, 0 times"),
        (changed(IMAGE_ATTRIBUTES, "2 2 1", "2 1 1"), "2 pairs .* image 2 and attribute 1, 2 times"),
        (changed(IMAGE_ATTRIBUTES, "2 2 1", "7 2 1"), "has the image 7, which is not in the list"),
        (changed(IMAGE_ATTRIBUTES, "2 2 1", "2 4 1"), "has the attribute 4, which is not in the list"),
        (changed(IMAGE_ATTRIBUTES, "2 2 1", "99 2 1"), "has the image 99, which"),
        (changed(IMAGE_ATTRIBUTES, "2 2 1", "2 x 1"), "image_attribute_labels.txt is malformed .*'x'"),
        (changed(IMAGE_ATTRIBUTES, "2 2 1 3 0 0 1.509", "2 2"), "image_attribute_labels.txt is malformed"),
        (FILES | {ROOT + IMAGE_ATTRIBUTES: b"\n"}, "image_attribute_labels.txt is malformed .it is empty"),
        (FILES | {ROOT + IMAGE_ATTRIBUTES: b"\xff\xfe"}, "image_attribute_labels.txt is not UTF-8 text"),
        (changed(SPECIES_ATTRIBUTES, "49.9", "x", OF_SPECIES), "class_attribute_labels_continuous.txt is malformed"),
        (changed(SPECIES_ATTRIBUTES, "49.9", "-1", OF_SPECIES), "line 1 has the value -1.0, expected 0 to 100"),
        (changed(SPECIES_ATTRIBUTES, "49.9", "nan", OF_SPECIES), "line 1 has the value nan"),
        (changed(SPECIES_ATTRIBUTES, " 49.9", "", OF_SPECIES), "continuous.txt is malformed"),
        (
            changed(SPECIES_ATTRIBUTES, "0.0 49.9 50.0\n", "", OF_SPECIES),
            "has 3 rows of 3 numbers, expected 4 of 3: one for each species and attribute",
        ),
        (
            changed("train_test_split.txt", "9 0", "9 1", changed("train_test_split.txt", "2 0", "2 1")),
            "has 6 images to train on",
        ),
    ],
)
def test_damaged_text_files_are_reported(files, message, tmp_path, cache):
    path = write_zip(tmp_path / "a.zip", files)
    with pytest.raises(ValueError, match=message):
        load(path, SMALL, cache_folder=cache)
    if "to train on" not in message or "expected 1" in message:
        assert len(list(cub.defects(path))) >= 1


# --- missing and damaged files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (without("classes.txt"), "no file .*CUB_200_2011/classes.txt. It is a part of the published data set"),
        (without("train_test_split.txt"), "no file .*train_test_split.txt"),
        (without("bounding_boxes.txt"), "no file .*bounding_boxes.txt"),
        (without("attributes/attributes.txt"), "no file .*attributes/attributes.txt"),
        (without(SPECIES_ATTRIBUTES, files=OF_SPECIES), f"no file .*{SPECIES_ATTRIBUTES}"),
        (
            without(*(f"images/{image_name(n)}" for n in IMAGES)),
            r"6 of 6 images are missing from .*images: 001.*bird_1.jpg, .*bird_3.jpg and 3 more\. Fetch",
        ),
        (
            without(f"images/{image_name(9)}"),
            r"1 of 6 images are missing from .*: 002.Laysan_Albatross/bird_9.jpg\. Fetch",
        ),
        (without("images.txt"), "does not hold CUB-200-2011: expected images.txt"),
        ({"notes.txt": b""}, r"does not hold CUB-200-2011: expected images.txt, .* in it or in one folder in it"),
    ],
)
def test_missing_files_are_reported(files, message, as_zip, tmp_path, cache):
    path = write_zip(tmp_path / "a.zip", files) if as_zip else write_folder(tmp_path / "a", files)
    with pytest.raises(FileNotFoundError, match=message):
        load(path, SMALL, cache_folder=cache)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FILES[f"{ROOT}images/{image_name(9)}"][:-20], "bird_9.jpg .* cannot be used: .*truncated"),
        (b"", "bird_9.jpg .0 bytes. cannot be used: it is no JPEG, PNG or WebP image"),
    ],
)
def test_damaged_images_are_reported(data, message, as_zip, tmp_path, cache):
    files = FILES | {f"{ROOT}images/{image_name(9)}": data}
    path = write_zip(tmp_path / "a.zip", files) if as_zip else write_folder(tmp_path / "a", files)
    with pytest.raises(ValueError, match=message):
        load(path, SMALL, cache_folder=cache)
    assert not cache.exists()
    (defect,) = cub.defects(path)
    assert "bird_9.jpg" in defect


def test_what_is_no_zip_is_reported(tmp_path, cache):
    (tmp_path / "CUB_200_2011.tgz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(ValueError, match=r"CUB_200_2011.tgz is not a whole zip"):
        load(tmp_path / "CUB_200_2011.tgz", SMALL, cache_folder=cache)


def test_defects_lists_everything(tmp_path):
    files = changed("train_test_split.txt", "1 1\n", "1 2\n", changed("bounding_boxes.txt", "5 4.0", "5 nan"))
    found = list(cub.defects(write_zip(tmp_path / "a.zip", files)))
    assert ["line 2 has '2'" in found[0], "line 1 has 'nan" in found[1], len(found)] == [True, True, 2]
    files = without(f"images/{image_name(9)}") | {f"{ROOT}images/{image_name(1)}": b""}
    found = list(cub.defects(write_folder(tmp_path / "b", files)))
    assert [name in message for name, message in zip(("bird_9.jpg", "bird_1.jpg"), found, strict=True)] == [True, True]


# --- cache ---------------------------------------------------------------------------------------------------------


def test_the_cache_depends_on_crop_size_and_the_boxes_that_are_used(folder, tmp_path, cache, monkeypatch):
    decoded = []
    decode_images = decode.decode_images
    monkeypatch.setattr(decode, "decode_images", lambda *a, **k: decoded.append(0) or decode_images(*a, **k))
    path = write_zip(tmp_path / "a.zip", FILES)
    moved = write_zip(tmp_path / "b.zip", changed("bounding_boxes.txt", "1 4.0", "1 5.0"))
    for settings in (SMALL, Settings(9), Settings((8, 9)), Settings(8, "square"), Settings(8, "box")):
        for attributes in (None, (ATTRIBUTES[0],)):
            load(path, dataclasses.replace(settings, attributes=attributes), cache_folder=cache)
    assert len(decoded) == len(list(cache.iterdir())) == 5
    load(moved, SMALL, cache_folder=cache)
    assert len(decoded) == 5
    load(moved, Settings(8, "box"), cache_folder=cache)
    assert len(decoded) == len(list(cache.iterdir())) == 6


# --- the real data set, where there is one -------------------------------------------------------------------------


@pytest.mark.skipif("MVAE_JAX_DATA" not in os.environ, reason="MVAE_JAX_DATA names no folder with data sets")
def test_real_data_set(cache):
    path = Path(os.environ["MVAE_JAX_DATA"]) / "CUB-10-species.zip"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    data = load(path, Settings(32), cache_folder=cache)
    assert [len(split) for _, split in data] == [300, 243, 0]
    assert len(data.attributes) == 312 + 10
    for split in (data.train, data.validation):
        assert (split["attributes"][:, 312:].sum(1) == 1).all()
        assert (split["attributes"][:12, 312:].sum(0) > 0).sum() > 3  # the first images are not of one species
    assert (data.train["attributes"][:, 312:].sum(0) == 30).all()
