"""Kinds of data sets: recognised by what is in them, loaded and verified as their settings say."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from published import write_celeba, write_cub

from mvae_jax.data import pyramid, sources
from mvae_jax.data.archive import Archive
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import catalogue, celeba, celebamask_hq, cub, five_views, folder, mnist
from mvae_jax.data.rendered import binned_faces, faces, shapes

tfds.disable_progress_bar()

CSV = {"validation_fraction": 0.25, "calibration_size": 4}
SIZES = {"subset_size": 12, **CSV}
NAMES = ("smiling", "young", "male", "female")
DEGREES = np.random.default_rng(1).uniform(-15, 15, (40, 3)).astype(np.float32)  # yaw, pitch, roll of image N


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Every kind of data set, with images of noise."""
    root, rng = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    attributes = np.zeros((40, len(faces.ATTRIBUTES)), np.float32)
    column = dict(zip(faces.ATTRIBUTES, attributes.T, strict=True))
    column["male"][::2], column["female"][1::2], column["young"][:30], column["smiling"][5:] = 1, 1, 1, 1
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    factors = np.zeros((40, len(faces.FACTORS)), np.float32)
    factors[:, :3] = DEGREES
    faces.write_celebamask_hq(root / "published", faces.Faces(images, attributes, factors))
    shutil.make_archive(str(root / "published"), "zip", root / "published")
    catalogue.prepare(root / "published", root / "prepared", 8)
    (root / "own").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / "own" / f"{i}.png")
    lines = [f"{i}.png,{i % 2},{i // 20},{i % 3 % 2}" for i in range(40)]
    (root / "own" / "attributes.csv").write_text("\n".join(["file,red_car,smiling,hat", *lines]))
    (root / "own" / "other.csv").write_text("\n".join(["file,tree", *(f"{i}.png,{i // 10 % 2}" for i in range(12))]))
    shutil.make_archive(str(root / "own"), "zip", root, "own")
    write_celeba(root / "celeba", rng)
    shutil.make_archive(str(root / "celeba"), "zip", root, "celeba")
    catalogue.prepare(root / "celeba", root / "prepared_celeba", 8)
    write_cub(root / "CUB_200_2011", rng)
    shutil.make_archive(str(root / "cub"), "zip", root, "CUB_200_2011")
    pyramid.prepare("rendered", root / "pyramid", pyramid.Settings(image_size=32, validation_fraction=0.25, count=12))
    (root / "mnist").mkdir()
    arrays = [images[:12, :, :, 0], np.arange(12) % 10, images[12:20, :, :, 0], np.arange(8)]
    for name, array in zip(mnist.IDX_FILES, arrays, strict=True):
        magic = (0x800 + array.ndim).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (root / "mnist" / name).write_bytes(magic + array.astype(np.uint8).tobytes())
    shutil.make_archive(str(root / "mnist"), "zip", root, "mnist")
    keras = {name.removesuffix(".npy"): array for name, array in zip(mnist.NPZ_FILES, arrays, strict=True)}
    np.savez(root / "keras.npz", **keras)
    (root / "dsprites").mkdir()
    np.savez(
        root / "dsprites" / shapes.FILE, imgs=np.zeros((3, 64, 64), np.uint8), latents_classes=np.zeros((3, 6), int)
    )
    return root


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "cache")


# --- the contract ----------------------------------------------------------------------------------------------------


def meanings(config: type) -> dict[str, str]:
    """Field -> meaning, of the Attributes sections of a dataclass and of those that it inherits."""
    entries: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        section = (kind.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        entries |= dict(re.findall(r"^ {8}(\w+): (.+)", section, re.MULTILINE))
    return entries


@pytest.mark.parametrize("name", sources.SOURCES)
def test_every_field_has_a_meaning_and_no_other_is_documented(name):
    fields = dataclasses.fields(sources.SOURCES[name].config)
    assert meanings(sources.SOURCES[name].config).keys() == {field.name for field in fields}
    assert [field.name for field in fields][:2] == ["source", "kind"]


def test_the_kind_is_recorded_and_follows_from_the_class():
    for name, entry in sources.SOURCES.items():
        config = entry.config((*entry.keywords, "path")[0])
        assert dataclasses.asdict(config)["kind"] == entry.name == config.kind == name
        assert sources.of(config) is entry
        with pytest.raises(TypeError):
            entry.config("path", kind=name)  # type: ignore[call-arg]


def test_kinds_have_the_fields_that_they_use():
    drawn = {"source", "validation_fraction", "calibration_size", "seed", "subset_size"}
    cached = {*drawn, "cache_folder"}
    factors = {"source", "train_size", "validation_size", "seed"}
    frontal = {"minimum_attributes", "maximum_yaw", "maximum_pitch", "maximum_roll", "balanced"}
    expected = {
        "rendered faces": drawn,
        "faces with factors": factors,
        "images at every resolution": {"source", "held_out", "resident_gib", "workers"},
        "CelebAMask-HQ prepared for TFDS": {*drawn, *frontal},
        "CelebA prepared for TFDS": {*drawn, "crop", "partitions"},
        "images with a CSV": {*cached, "csv"} - {"subset_size"},
        "CelebAMask-HQ": {*cached, *frontal},
        "CUB-200-2011": {"source", "cache_folder", "crop"},
        "CelebA": {*cached, "crop", "partitions"},
        "dSprites": factors,
        "MNIST": {"source"},
        "five views of digits": {"source", "digits", "seed"},
        "images alone": {"source", "cache_folder", "validation_fraction", "seed"},
    }
    assert {name: set(sources.fields_of(entry.config)) for name, entry in sources.SOURCES.items()} == expected


def test_a_field_of_other_kinds_is_named():
    assert sources.users_of("crop") == ("CelebA prepared for TFDS", "CUB-200-2011", "CelebA")
    assert sources.users_of("resident_gib") == ("images at every resolution",)
    assert sources.users_of("source") == tuple(sources.SOURCES)
    assert sources.users_of("kind") == sources.users_of("crops") == ()


def test_defaults_are_these():
    rendered = faces.Config()
    assert (rendered.source, rendered.subset_size, rendered.validation_fraction) == ("rendered", 5000, 0.1)
    assert (rendered.calibration_size, rendered.seed, rendered.validation_size) == (500, 42, 500)
    published = celeba.Config("x")
    assert (published.crop, published.partitions, published.cache_folder) == ("", "train/validation/test", "")
    assert (celebamask_hq.Config("x").minimum_attributes, folder.Config("x").csv) == (3, "attributes.csv")
    grown = pyramid.Config("x")
    assert (grown.held_out, grown.resident_gib, grown.workers) == (1000, 2.0, 0)
    for drawn, word in ((shapes.Config(), "shapes"), (binned_faces.Config(), "faces")):
        assert (drawn.source, drawn.train_size, drawn.validation_size, drawn.seed) == (word, 64_000, 5000, 42)
    assert mnist.Config().source == "digits"


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        *((entry.config, {"source": ""}, "data.source is empty") for entry in sources.SOURCES.values()),
        (faces.Config, {"calibration_size": 0}, "calibration_size is 0; expected at least 1"),
        (folder.Config, {"calibration_size": 0}, "calibration_size is 0; expected at least 1"),
        (celeba.Config, {"validation_fraction": 0.0}, "validation_fraction is 0.0 of subset_size 5000"),
        (faces.Config, {"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        (folder.Config, {"validation_fraction": 1.0}, "validation_fraction is 1.0, expected a part between 0 and 1"),
        *(
            (faces.Config, {"validation_fraction": float(part)}, f"validation_fraction is {part} of subset_size 5000")
            for part in ("nan", "inf")
        ),
        (faces.Config, {"subset_size": 10**12}, "data.subset_size is 1000000000000; expected at most 4194304"),
        (folder.Config, {"calibration_size": 10**12}, "data.calibration_size is 1000000000000; expected at most"),
        (binned_faces.Config, {"train_size": 10**12}, "data.train_size is 1000000000000; expected at most"),
        (folder.Config, {"csv": "../a.csv"}, "csv is '../a.csv', expected the name of a file in the folder"),
        (celebamask_hq.Config, {"subset_size": 4}, "of subset_size 4"),
        (celebamask_hq.Config, {"subset_size": 21}, "subset_size is 21 .*, expected even numbers"),
        (faces.Config, {"seed": -1}, "data.seed is -1"),
        (binned_faces.Config, {"seed": -1}, "data.seed is -1"),
        (five_views.Config, {"seed": -1}, "data.seed is -1"),
        (five_views.Config, {"digits": ""}, "data.digits is empty; expected 'digits' or the path of MNIST"),
        (celeba.Config, {"crop": "box"}, "crop is 'box', expected 'schik'"),
        (cub.Config, {"crop": "schik"}, "crop is 'schik', expected 'none', 'square', 'box'"),
        *((celeba.Config, {"partitions": text}, r"partitions (is|are)") for text in ("train", "a/b/c/d", "train/", "")),
        (pyramid.Config, {"held_out": 0}, "data.held_out is 0, .*expected at least 1"),
        (pyramid.Config, {"workers": -1}, "and data.workers -1; expected"),
        (shapes.Config, {"train_size": 0}, "data.train_size is 0 .*; expected at least 1, and 100"),
        (binned_faces.Config, {"validation_size": 99}, "data.validation_size 99; expected at least 1, and 100"),
        (shapes.Config, {"train_size": 737_280}, "there are no more combinations"),
        (faces.Config, {"subset_size": 0}, r"subset_size is 0, all images of CelebA .*source=PATH, or a number"),
        *(
            (kind, change, message)
            for kind in (celebamask_hq.Config, catalogue.CelebAMaskHQConfig)
            for change, message in (
                ({"maximum_yaw": -1.0}, "maximum_yaw is -1.0, expected degrees from 0 to 180"),
                ({"maximum_roll": 181.0}, "maximum_roll is 181.0, expected degrees from 0 to 180"),
                ({"minimum_attributes": -1}, "minimum_attributes is -1, expected at least 0"),
                ({"calibration_size": 3}, "calibration_size 3, expected even numbers: .*unless balanced=false"),
                ({"subset_size": 0, "validation_fraction": 1.0}, "validation_fraction is 1.0 of subset_size 0"),
            )
        ),
    ],
)
def test_settings_are_checked(config, change, message):
    with pytest.raises(ValueError, match=message):
        config(**{"source": "x", **change})


# --- recognition -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "config"),
    [
        ("published", celebamask_hq.Config),
        ("published/CelebAMask-HQ", celebamask_hq.Config),
        ("published.zip", celebamask_hq.Config),
        ("prepared", catalogue.CelebAMaskHQConfig),
        ("prepared/celebamask_hq/8px", catalogue.CelebAMaskHQConfig),
        ("own", folder.Config),
        ("own.zip", folder.Config),
        ("celeba", celeba.Config),
        ("celeba.zip", celeba.Config),
        ("prepared_celeba", catalogue.CelebAConfig),
        ("CUB_200_2011", cub.Config),
        ("cub.zip", cub.Config),
        ("pyramid", pyramid.Config),
        ("mnist", mnist.Config),
        ("mnist.zip", mnist.Config),
        ("keras.npz", mnist.Config),
        ("dsprites", shapes.Config),
        (f"dsprites/{shapes.FILE}", shapes.Config),
    ],
)
def test_sources_are_recognised_by_what_is_in_them(source, config, root):
    assert sources.recognise(str(root / source)).config is config


@pytest.mark.parametrize(
    ("source", "config"),
    [
        ("rendered", faces.Config),
        ("faces", binned_faces.Config),
        ("shapes", shapes.Config),
        ("digits", mnist.Config),
        ("five_views", five_views.Config),
    ],
)
def test_sources_are_recognised_by_name(source, config):
    assert sources.recognise(source).config is config


@pytest.mark.parametrize("drawn", [faces.Config(), binned_faces.Config(), five_views.Config()])
@pytest.mark.parametrize("use", [sources.load, sources.verify, sources.remarks])
def test_a_path_is_not_taken_for_what_is_drawn(use, drawn):
    message = f"data.source is 'photos', but {drawn.kind} are drawn, and read from no file; expected '{drawn.source}'."
    with pytest.raises(ValueError, match=re.escape(message)):
        use(dataclasses.replace(drawn, source="photos"))


def test_a_csv_is_put_there_deliberately(root, tmp_path):
    """Of CelebAMask-HQ with a CSV beside the images, the CSV counts."""
    shutil.copytree(root / "published", tmp_path / "both")
    shutil.copytree(root / "own", tmp_path / "both", dirs_exist_ok=True)
    assert sources.recognise(str(tmp_path / "both")) is folder.SOURCE
    assert sources.recognise(str(tmp_path / "both"), csv="none.csv") is celebamask_hq.SOURCE


def test_the_message_for_what_is_not_recognised_names_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path, "notes.txt")
    for path in (tmp_path, tmp_path / "zipped.zip"):
        with pytest.raises(FileNotFoundError, match=f"^{path} does not hold CelebAMask-HQ, nor anything") as error:
            sources.recognise(str(path), csv="labels.csv")
        looked_for = (
            *("labels.csv", celebamask_hq.ATTRIBUTE_FILE, "CelebA-HQ-img/", "celebamask_hq/64px/1.0.0"),
            *("celeba/larsen_64x64/1.0.0", "list_attr_celeba.txt", "img_align_celeba/", "images.txt", "manifest.json"),
            *(shapes.FILE, mnist.IDX_FILES[0], "`mvae-jax data pyramid`"),
        )
        for part in looked_for:
            assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no folder or zip render: give the path .* or 'rendered', .*'digits'"):
        sources.recognise("render")
    with pytest.raises(ValueError, match=r"data.source is empty; expected the path of .* or 'rendered'"):
        sources.recognise("")
    with pytest.raises(ValueError, match=r"notes.txt is not a whole zip"):
        sources.recognise(str(tmp_path / "notes.txt"))


# --- loading ---------------------------------------------------------------------------------------------------------


def test_logs_name_kind_and_path(root, caplog):
    with caplog.at_level(logging.INFO):
        sources.load(mnist.Config(str(root / "mnist")))
        sources.load(mnist.Config())
    assert [line for line in caplog.messages if line.startswith("data: ")] == [
        f"data: MNIST, {root / 'mnist'}",
        "data: digits",
    ]


def test_every_form_of_celebamask_hq_gives_the_same(root, cache):
    choice: dict[str, Any] = {"seed": 5, "minimum_attributes": 2, **SIZES}
    published = celebamask_hq.Config(str(root / "published"), cache_folder=cache, **choice)
    forms = (
        published,
        dataclasses.replace(published, source=str(root / "published.zip")),
        catalogue.CelebAMaskHQConfig(str(root / "prepared"), **choice),
    )
    digests = {sources.load(form, attributes=NAMES, image_size=8).sha256() for form in forms}
    settings = celebamask_hq.Settings(8, NAMES, **choice)
    assert digests == {celebamask_hq.load(root / "published", settings, cache_folder=cache).sha256()}
    for change in ({"minimum_attributes": 3}, {"balanced": False}):
        other = dataclasses.replace(published, **change)
        assert sources.load(other, attributes=NAMES, image_size=8).sha256() not in digests


def test_who_asks_has_the_pose_of_each_face(root, cache):
    choice: dict[str, Any] = {"seed": 5, "minimum_attributes": 2, **SIZES}
    forms = (
        celebamask_hq.Config(str(root / "published"), cache_folder=cache, **choice),
        catalogue.CelebAMaskHQConfig(str(root / "prepared"), **choice),
    )
    for form in forms:
        plain, posed = (sources.load(form, attributes=NAMES, image_size=8, pose=pose) for pose in (False, True))
        assert plain.sha256() != posed.sha256()
        assert plain.provenance == posed.provenance
        for (_, split), (_, other) in zip(posed, plain, strict=True):
            assert split.arrays.keys() - other.arrays.keys() == {"pose"}
            np.testing.assert_array_equal(split["index"], other["index"])
            assert split["pose"].dtype == np.float32
            np.testing.assert_allclose(split["pose"], DEGREES[split["index"]] / 30, rtol=1e-6)
    drawn = sources.load(faces.Config(seed=3, **SIZES), attributes=NAMES, image_size=32, pose=True)
    expected = faces.sample(3, 16, 32).factors[:, :3] / 30
    np.testing.assert_allclose(np.concatenate([split["pose"] for _, split in drawn]), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="MNIST, which has no pose; expected one of rendered faces, CelebAMask-HQ"):
        sources.load(mnist.Config(), pose=True)


def test_every_form_of_celeba_gives_the_same(root, cache):
    published = celeba.Config(str(root / "celeba"), cache_folder=cache, seed=5, **SIZES)
    forms = (
        published,
        dataclasses.replace(published, source=str(root / "celeba.zip")),
        catalogue.CelebAConfig(str(root / "prepared_celeba"), seed=5, **SIZES),
    )
    digests = {sources.load(form, attributes=NAMES, image_size=8).sha256() for form in forms}
    settings = celeba.Settings(8, attributes=NAMES, train_size=9, validation_size=3, calibration_size=4, seed=5)
    assert digests == {celeba.load(root / "celeba", settings, cache_folder=cache).sha256()}


@pytest.mark.parametrize(
    ("change", "sizes", "partitions"),
    [
        ({}, [9, 3, 4], [{0}, {1}, {2}]),
        ({"subset_size": 0}, [20, 10, 4], [{0}, {1}, {2}]),
        ({"subset_size": 0, "partitions": "train+validation/test"}, [30, 10, 0], [{0, 1}, {2}, set()]),
        ({"partitions": "validation/test/train"}, [9, 3, 4], [{1}, {2}, {0}]),
    ],
)
def test_partitions_of_celeba(change, sizes, partitions, root, cache):
    splits = sources.load(celeba.Config(str(root / "celeba"), cache_folder=cache, **(SIZES | change)), image_size=8)
    assert splits.attributes == ("smiling", "young", "male")
    assert [len(split) for _, split in splits] == sizes
    for (_, split), expected in zip(splits, partitions, strict=True):
        assert {max(0, (n - 1) // 10 - 1) for n in split["index"].tolist()} == expected


def test_crops_and_sizes_go_to_celeba_and_to_cub(root, cache):
    whole = celeba.Config(str(root / "celeba"), cache_folder=cache, crop="none", **SIZES)
    assert sources.load(whole, image_size=109).validation["image"].shape == (3, 109, 89, 3)
    assert sources.load(whole, image_size=(20, 10)).validation["image"].shape == (3, 20, 10, 3)
    assert sources.load(dataclasses.replace(whole, crop=""), image_size=8).provenance["crop"] == "larsen"
    for source in ("CUB_200_2011", "cub.zip"):
        published = cub.Config(str(root / source), cache_folder=cache)
        birds = sources.load(published, image_size=(9, 12))
        assert [len(split) for _, split in birds] == [3, 3, 0]
        assert birds.attributes == ("has_wings::yes", "001.Bird", "002.Bird")
        assert sorted(birds.train["attributes"].tolist()) == [[0, 1, 0], [1, 0, 1], [1, 0, 1]]
        boxed = sources.load(dataclasses.replace(published, crop="box"), attributes=("002.Bird",), image_size=(5, 6))
        np.testing.assert_array_equal(boxed.validation["image"], birds.validation["image"][:, 2:7, 2:8])


def test_square_images_have_one_size(root, cache):
    configs = (
        celebamask_hq.Config(str(root / "published"), **SIZES),
        catalogue.CelebAMaskHQConfig(str(root / "prepared"), **SIZES),
        folder.Config(str(root / "own"), cache_folder=cache, **CSV),
        faces.Config(**SIZES),
        pyramid.Config(str(root / "pyramid")),
        shapes.Config(),
        binned_faces.Config(),
    )
    for config in configs:
        assert not sources.of(config).any_shape
        message = rf"image_size is \(8, 9\); expected one number: images of {config.kind} are square"
        with pytest.raises(ValueError, match=message):
            sources.load(config, image_size=(8, 9))
    names = ("smiling",)
    pair, number = (sources.load(configs[2], attributes=names, image_size=size) for size in ((8, 8), 8))
    assert pair.sha256() == number.sha256()
    assert pair.provenance == number.provenance
    any_shape = {name for name, entry in sources.SOURCES.items() if entry.any_shape}
    assert any_shape == {"CelebA", "CelebA prepared for TFDS", "CUB-200-2011"}


def test_images_with_a_csv(root, cache):
    config = folder.Config(str(root / "own"), cache_folder=cache, seed=5, **CSV)
    splits = sources.load(config, image_size=8)
    assert splits.attributes == ("red_car", "smiling", "hat")
    assert [len(split) for _, split in splits] == [27, 9, 4]
    settings = folder.Settings(8, None, 0.25, 4, 5)
    assert splits.sha256() == folder.load(root / "own", settings, cache_folder=cache).sha256()
    other = sources.load(dataclasses.replace(config, csv="other.csv"), attributes=["tree"], image_size=8)
    assert (len(other.validation), len(other.calibration)) == (2, 4)
    with pytest.raises(ValueError, match="no attribute 'young'"):
        sources.load(config, attributes=NAMES, image_size=8)


def test_rendered_faces():
    splits = sources.load(faces.Config(seed=3, **SIZES), attributes=NAMES, image_size=32)
    expected = faces.splits(3, 12, 3, 4, image_size=32, attributes=NAMES)
    assert splits.sha256() == expected.sha256()
    assert splits.provenance == expected.provenance
    with pytest.raises(ValueError, match="rendered faces have no attribute red_car"):
        sources.load(faces.Config(**SIZES), attributes=("red_car",))


def test_faces_with_factors_are_the_rendered_ones():
    splits = sources.load(binned_faces.Config(train_size=4, validation_size=100, seed=3), image_size=32)
    drawn = faces.sample(3, 6, 32)
    np.testing.assert_array_equal(splits.train["image"], drawn.images[:4])
    np.testing.assert_array_equal(splits.validation["image"][:2], drawn.images[4:])
    np.testing.assert_array_equal(splits.train["factors"], faces.bins_of(drawn)[:4])
    np.testing.assert_array_equal(splits.validation["factors"][:2], faces.bins_of(drawn)[4:])
    assert splits.provenance == {"source": "rendered faces", "seed": 3, "images": 104}
    assert (len(splits.validation), len(splits.calibration), splits.attributes) == (100, 0, ())


def test_shapes_and_digits():
    drawn = sources.load(shapes.Config(train_size=9, validation_size=100, seed=3), image_size=16)
    assert drawn.sha256() == shapes.load(settings=shapes.Settings(9, 100, 0, 16, 3)).sha256()
    digits = sources.load(mnist.Config())
    assert digits.sha256() == mnist.load().sha256()
    assert digits.validation["image"].shape == (297, 8, 8, 1)


@pytest.mark.parametrize(
    "config",
    [mnist.Config(), shapes.Config(), binned_faces.Config(), five_views.Config()],
)
def test_attributes_are_refused_where_there_are_none(config):
    with pytest.raises(ValueError, match=f"data.source is {config.source}, {config.kind}, which has no attributes"):
        sources.load(config, attributes=("young",))


def test_pyramids_have_images_alone(root):
    path = root / "pyramid"
    config = pyramid.Config(str(path), resident_gib=0.0, workers=1)
    whole = sources.load(config, image_size=4)
    assert (len(whole.train), len(whole.validation), whole.attributes) == (9, 3, ())
    growing = sources.load(dataclasses.replace(config, held_out=2), image_size=32, growing=True)
    assert isinstance(growing, pyramid.PyramidData)
    assert (len(growing.validation), growing.sha256()) == (2, pyramid.load(path).sha256())
    assert (growing.attributes, len(growing.calibration), growing.provenance) == ((), 0, whole.provenance)
    streamed = growing.batches(8, 2, 0)
    assert (streamed.workers, streamed.steps_per_epoch) == (1, 4)
    with pytest.raises(ValueError, match="which has no attributes; expected a data set that has"):
        sources.load(config, attributes=("young",), image_size=8)


# --- verification ----------------------------------------------------------------------------------------------------


def test_whole_data_sets_have_no_defects(root):
    names = ("published", "prepared", "own", "celeba", "prepared_celeba", "CUB_200_2011", "pyramid", "mnist")
    for source in (*(str(root / name) for name in names), "rendered", "faces", "shapes", "digits", "five_views"):
        config = sources.recognise(source).config(source)
        assert list(sources.verify(config)) == [], source


def test_defects_are_those_of_the_kind(root, tmp_path):
    damaged = Path(shutil.copytree(root / "mnist", tmp_path / "mnist"))
    (damaged / mnist.IDX_FILES[0]).unlink()
    defects = list(sources.verify(mnist.Config(str(damaged))))
    assert len(defects) == 1
    assert f"does not hold {mnist.IDX_FILES[0]}" in defects[0]
    assert list(sources.verify(five_views.Config(digits=str(damaged)))) == defects
    (defect,) = sources.verify(shapes.Config(str(root / "dsprites")))
    assert "latents_classes.npy is int64 of shape (3, 6), expected integer of shape (737280, 6)" in defect
    csv = folder.Config(str(root / "own"))
    assert list(sources.verify(csv, ["hat"])) == []
    (defect,) = sources.verify(csv, ["hatt"])
    assert "has no attribute 'hatt': did you mean 'hat'" in defect


# --- records of runs -------------------------------------------------------------------------------------------------


def test_a_config_is_restored_from_its_record():
    configs = (
        faces.Config(seed=7),
        celeba.Config("nowhere", crop="schik", subset_size=0),
        pyramid.Config("nowhere", held_out=3),
        mnist.Config("nowhere"),
    )
    for config in configs:
        assert sources.restore(dataclasses.asdict(config)) == config
    with pytest.raises(ValueError, match=r"data.kind is 'birds'; expected one of 'rendered faces', "):
        sources.restore({"source": "x", "kind": "birds"})
    with pytest.raises(ValueError, match="CUB-200-2011 has no setting csv, seed; expected source, cache_folder, crop"):
        sources.restore({"source": "x", "kind": "CUB-200-2011", "seed": 1, "csv": "a"})


# Fields that a run recorded before there were kinds, whatever its data.
FLAT = {
    **{"source": "rendered", "csv": "attributes.csv", "crop": "larsen", "partitions": "train/validation/test"},
    **{"subset_size": 300, "validation_fraction": 0.2, "calibration_size": 40, "minimum_attributes": 2, "seed": 9},
    **{"cache_folder": "cache", "held_out": 12, "resident_gib": 0.5, "workers": 3},
}


def test_a_record_without_a_kind_is_recognised_by_its_source(root):
    chosen: dict[str, Any] = {"validation_fraction": 0.2, "calibration_size": 40, "seed": 9}
    assert sources.restore(FLAT) == faces.Config(subset_size=300, **chosen)
    expected = {
        "celeba": celeba.Config(str(root / "celeba"), subset_size=300, cache_folder="cache", crop="larsen", **chosen),
        "own": folder.Config(str(root / "own"), cache_folder="cache", **chosen),
        "prepared": catalogue.CelebAMaskHQConfig(
            str(root / "prepared"), subset_size=300, minimum_attributes=2, **chosen
        ),
        "pyramid": pyramid.Config(str(root / "pyramid"), held_out=12, resident_gib=0.5, workers=3),
    }
    for name, config in expected.items():
        assert sources.restore({**FLAT, "source": str(root / name)}) == config
    renamed = sources.restore({**FLAT, "source": str(root / "own"), "csv": "other.csv"})
    assert renamed == folder.Config(str(root / "own"), cache_folder="cache", csv="other.csv", **chosen)
    assert sources.restore({"source": "shapes", "train_size": 5, "validation_size": 100}) == shapes.Config(
        train_size=5, validation_size=100
    )
    assert sources.restore({"source": "digits"}) == mnist.Config()
    with pytest.raises(FileNotFoundError, match="no folder or zip nowhere"):
        sources.restore({**FLAT, "source": "nowhere"})


# --- another kind ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Stripes(sources.Config):
    """Striped images, one a text file.

    Attributes:
        source: folder with files of zeros and ones.
        widths: how many pixels the stripes of each split have.
    """

    kind: str = dataclasses.field(init=False, default="stripes")
    widths: tuple[int, ...] = (1, 2)


def _load_stripes(config: Stripes, request: sources.Request) -> Splits:
    side = request.side(config.kind)
    bits = np.array([int(bit) for bit in (Path(config.source) / "stripes.txt").read_text()], np.uint8)
    images = np.stack([np.resize(np.repeat(255 * bits, width), (side, side, 1)) for width in config.widths])
    return Splits.cut({"image": images, "index": np.arange(len(images))}, 1, 1, (), {"data_set": "stripes"})


def _verify_stripes(config: Stripes, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
    strange = set((Path(config.source) / "stripes.txt").read_text()) - {"0", "1"}
    yield from (f"stripes.txt contains {character!r}, expected 0 and 1." for character in sorted(strange))


def _has_stripes(place: Archive, csv: str) -> bool:
    return place.has("stripes.txt")


STRIPES = sources.Source(
    Stripes,
    _load_stripes,
    _verify_stripes,
    holds=_has_stripes,
    looked_for="stripes, stripes.txt in it",
    has_attributes=False,
)


def test_a_data_set_is_added_by_one_entry(tmp_path, monkeypatch):
    (tmp_path / "stripes.txt").write_text("01")
    with pytest.raises(FileNotFoundError, match="nor anything else") as error:
        sources.recognise(str(tmp_path))
    assert "stripes, " not in str(error.value)
    monkeypatch.setitem(sources.SOURCES, STRIPES.name, STRIPES)
    entry = sources.recognise(str(tmp_path))
    assert entry is STRIPES
    config = entry.config(str(tmp_path))
    data = sources.load(config, image_size=4)
    assert data.validation["image"][0, 0, :, 0].tolist() == [0, 0, 255, 255]
    assert data.batches(4, 1, 0).steps_per_epoch == 1
    with pytest.raises(ValueError, match="stripes, which has no attributes"):
        sources.load(config, attributes=("red",))
    assert list(sources.verify(config)) == []
    (tmp_path / "stripes.txt").write_text("012")
    assert list(sources.verify(config)) == ["stripes.txt contains '2', expected 0 and 1."]
    assert sources.users_of("widths") == ("stripes",)
    record = {"source": str(tmp_path), "kind": "stripes", "widths": [3, 4]}
    assert sources.restore(record) == Stripes(str(tmp_path), widths=(3, 4))
    (tmp_path / "stripes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Looked for: .*stripes, stripes.txt in it\. If"):
        sources.recognise(str(tmp_path))
