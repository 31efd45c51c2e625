"""The source of an experiment's images: recognised by what is in it, and loaded as the config says."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import datasets
import launch
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from published import write_celeba, write_cub

from mvae_jax.data import catalogue, celeba, celebamask_hq, faces, folder, origins, pyramid

tfds.disable_progress_bar()

SIZES = {"subset_size": 12, "validation_fraction": 0.25, "calibration_size": 4}
NAMES = ("smiling", "young", "male", "female")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Every kind of source, with images of noise."""
    root, rng = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    attributes = np.zeros((40, len(faces.ATTRIBUTES)), np.float32)
    column = dict(zip(faces.ATTRIBUTES, attributes.T, strict=True))
    column["male"][::2], column["female"][1::2], column["young"][:30], column["smiling"][5:] = 1, 1, 1, 1
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    faces.write_celebamask_hq(
        root / "published", faces.Faces(images, attributes, np.zeros((40, len(faces.FACTORS)), np.float32))
    )
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
    return root


@pytest.fixture
def cache(tmp_path) -> str:
    return str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("published", datasets.CELEBAMASK_HQ),
        ("published/CelebAMask-HQ", datasets.CELEBAMASK_HQ),
        ("published.zip", datasets.CELEBAMASK_HQ),
        ("prepared", datasets.PREPARED),
        ("prepared/celebamask_hq/8px", datasets.PREPARED),
        ("own", datasets.FOLDER),
        ("own.zip", datasets.FOLDER),
        ("celeba", datasets.CELEBA),
        ("celeba.zip", datasets.CELEBA),
        ("prepared_celeba", datasets.PREPARED_CELEBA),
    ],
)
def test_sources_are_recognised_by_what_is_in_them(source, kind, sources, cache, caplog):
    config = datasets.Config(source=str(sources / source), cache_folder=cache, **SIZES)
    names = ("smiling",) if kind == datasets.FOLDER else NAMES
    with caplog.at_level(logging.INFO):
        splits = datasets.load(config, names, 8)
    assert f"data: {kind}, {sources / source}" in caplog.text
    assert splits.attributes == names
    assert len(splits.calibration) == 4
    assert splits.train["image"].shape[1:] == (8, 8, 3)


def test_every_form_of_celebamask_hq_gives_the_same(sources, cache):
    config = datasets.Config(cache_folder=cache, seed=5, minimum_attributes=2, **SIZES)
    digests = {
        datasets.load(dataclasses.replace(config, source=str(sources / source)), NAMES, 8).sha256()
        for source in ("published", "published.zip", "prepared")
    }
    settings = celebamask_hq.Settings(8, NAMES, minimum_attributes=2, seed=5, **SIZES)
    assert digests == {celebamask_hq.load(sources / "published", settings, cache_folder=cache).sha256()}
    other = dataclasses.replace(config, source=str(sources / "published"), minimum_attributes=3)
    assert datasets.load(other, NAMES, 8).sha256() not in digests


def test_every_form_of_celeba_gives_the_same(sources, cache):
    config = datasets.Config(cache_folder=cache, seed=5, **SIZES)
    forms = [
        dataclasses.replace(config, source=str(sources / name)) for name in ("celeba", "celeba.zip", "prepared_celeba")
    ]
    digests = {datasets.load(form, NAMES, 8).sha256() for form in forms}
    settings = celeba.Settings(8, attributes=NAMES, train_size=9, validation_size=3, calibration_size=4, seed=5)
    assert digests == {celeba.load(sources / "celeba", settings, cache_folder=cache).sha256()}


@pytest.mark.parametrize(
    ("change", "sizes", "partitions"),
    [
        ({}, [9, 3, 4], [{0}, {1}, {2}]),
        ({"subset_size": 0}, [20, 10, 4], [{0}, {1}, {2}]),
        ({"subset_size": 0, "partitions": "train+validation/test"}, [30, 10, 0], [{0, 1}, {2}, set()]),
        ({"partitions": "validation/test/train"}, [9, 3, 4], [{1}, {2}, {0}]),
    ],
)
def test_partitions_of_celeba(change, sizes, partitions, sources, cache):
    config = datasets.Config(source=str(sources / "celeba"), cache_folder=cache, **(SIZES | change))
    splits = datasets.load(config, image_size=8)
    assert splits.attributes == ("smiling", "young", "male")
    assert [len(split) for _, split in splits] == sizes
    for (_, split), expected in zip(splits, partitions, strict=True):
        assert {max(0, (n - 1) // 10 - 1) for n in split["index"].tolist()} == expected


def test_crops_and_sizes_go_to_celeba_and_to_cub(sources, cache):
    config = datasets.Config(source=str(sources / "celeba"), cache_folder=cache, crop="none", **SIZES)
    assert datasets.load(config, image_size=109).train["image"].shape == (9, 109, 89, 3)
    assert datasets.load(config, image_size=(20, 10)).train["image"].shape == (9, 20, 10, 3)
    larsen = dataclasses.replace(config, crop="")
    assert datasets.load(larsen, image_size=8).provenance["crop"] == "larsen"
    for source in ("CUB_200_2011", "cub.zip"):
        whole = datasets.Config(source=str(sources / source), cache_folder=cache)
        birds = datasets.load(whole, image_size=(9, 12))
        assert [len(split) for _, split in birds] == [3, 3, 0]
        assert birds.attributes == ("has_wings::yes", "001.Bird", "002.Bird")
        assert sorted(birds.train["attributes"].tolist()) == [[0, 1, 0], [1, 0, 1], [1, 0, 1]]
        boxed = datasets.load(dataclasses.replace(whole, crop="box"), ("002.Bird",), (5, 6))
        np.testing.assert_array_equal(boxed.train["image"], birds.train["image"][:, 2:7, 2:8])
    with pytest.raises(ValueError, match="crop is 'box', expected 'schik'"):
        datasets.load(dataclasses.replace(config, crop="box"))


@pytest.mark.parametrize("source", ["published", "prepared", "own", "rendered"])
def test_what_only_celeba_has_is_refused_elsewhere(source, sources, cache):
    path = source if source == "rendered" else str(sources / source)
    config = datasets.Config(source=path, cache_folder=cache, **SIZES)
    with pytest.raises(ValueError, match=r"image_size is \(8, 9\); expected one number: images of .* are square"):
        datasets.load(config, image_size=(8, 9))
    if source != "own":
        with pytest.raises(ValueError, match=r"subset_size is 0, all images of CelebA, .*source=PATH, or a number"):
            datasets.load(dataclasses.replace(config, subset_size=0))


@pytest.mark.parametrize("partitions", ["train", "a/b/c/d", "train/valid", ""])
def test_partitions_are_checked(partitions, sources):
    config = datasets.Config(source=str(sources / "celeba"), partitions=partitions)
    with pytest.raises(ValueError, match=r"partitions (is|are)"):
        datasets.load(config)


def test_own_images(sources, cache):
    config = datasets.Config(source=str(sources / "own"), cache_folder=cache, seed=5, **SIZES)
    splits = datasets.load(config, image_size=8)
    assert splits.attributes == ("red_car", "smiling", "hat")
    assert [len(split) for _, split in splits] == [27, 9, 4]
    settings = folder.Settings(8, None, 0.25, 4, 5)
    assert splits.sha256() == folder.load(sources / "own", settings, cache_folder=cache).sha256()
    other = datasets.load(dataclasses.replace(config, csv="other.csv"), ["tree"], 8)
    assert [len(split) for _, split in other] == [6, 2, 4]
    with pytest.raises(ValueError, match="no attribute 'young'"):
        datasets.load(config, NAMES, 8)


def test_rendered_faces():
    splits = datasets.load(datasets.Config(seed=3, **SIZES), NAMES, 32)
    expected = faces.splits(3, 12, 3, 4, image_size=32, attributes=NAMES)
    assert splits.sha256() == expected.sha256()
    assert [len(split) for _, split in splits] == [9, 3, 4]
    with pytest.raises(ValueError, match="rendered faces have no attribute red_car"):
        datasets.load(datasets.Config(**SIZES), ("red_car",))


def test_pyramids_have_images_alone(sources, tmp_path):
    settings = origins.Settings(image_size=32, validation_fraction=0.25)
    made = pyramid.prepare("rendered", tmp_path / "made", dataclasses.replace(settings, count=12))
    config = datasets.Config(str(tmp_path / "made"), resident_gib=0.0, workers=1)
    assert datasets.recognise(config) == datasets.PYRAMID
    whole = datasets.load(config, image_size=4)
    assert (len(whole.train), len(whole.validation), whole.attributes) == (9, 3, ())
    growing = datasets.load(dataclasses.replace(config, held_out=2), image_size=32, growing=True)
    assert (len(growing.train), len(growing.validation), growing.sha256()) == (0, 2, made.sha256())
    streamed = growing.batches(8, 2, 0)
    assert (streamed.workers, streamed.steps_per_epoch) == (1, 4)
    with pytest.raises(ValueError, match="a pyramid, which has no attributes"):
        datasets.load(config, ("young",), 8)


def test_a_csv_is_put_there_deliberately(sources, tmp_path, cache):
    """Of CelebAMask-HQ with a CSV beside the images, the CSV counts."""
    shutil.copytree(sources / "published", tmp_path / "both")
    shutil.copytree(sources / "own", tmp_path / "both", dirs_exist_ok=True)
    assert datasets.recognise(datasets.Config(source=str(tmp_path / "both"))) == datasets.FOLDER
    config = datasets.Config(source=str(tmp_path / "both"), csv="none.csv")
    assert datasets.recognise(config) == datasets.CELEBAMASK_HQ


def test_what_is_not_recognised_is_told_with_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path, "notes.txt")
    for path in (tmp_path, tmp_path / "zipped.zip"):
        with pytest.raises(FileNotFoundError, match=f"^{path} does not hold CelebAMask-HQ, nor anything") as error:
            datasets.load(datasets.Config(source=str(path), csv="labels.csv"))
        looked_for = (
            "CelebA-HQ-img/",
            "celebamask_hq/64px/1.0.0",
            "list_attr_celeba.txt",
            "img_align_celeba/",
            "images.txt",
        )
        for part in ("labels.csv", celebamask_hq.ATTRIBUTE_FILE, *looked_for):
            assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no folder or zip render: give the path .* or 'rendered'"):
        datasets.load(datasets.Config(source="render"))
    with pytest.raises(ValueError, match=r"notes.txt is not a whole zip"):
        datasets.load(datasets.Config(source=str(tmp_path / "notes.txt")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": ""}, "data.source is empty"),
        ({"calibration_size": 0}, "calibration_size is 0; expected at least 1"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0 of subset_size 5000"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"subset_size": 4}, "of subset_size 4"),
        ({"seed": -1}, "data.seed is -1"),
    ],
)
def test_the_config_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        datasets.Config(**change)


def test_every_field_has_a_meaning():
    assert list(launch.meanings(datasets.Config)) == [field.name for field in dataclasses.fields(datasets.Config)]
