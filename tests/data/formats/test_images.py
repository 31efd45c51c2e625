"""A user's images alone: found, split, decoded and cut."""

import logging
import os
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from mvae_jax.data import decode, sources
from mvae_jax.data.batches import permutation
from mvae_jax.data.formats import folder, images
from mvae_jax.experiment import flags

COUNT = 12


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Images of one colour each, numbered 0 to 11 in natural order, in two folders; the first is wider than high."""
    root = tmp_path_factory.mktemp("alone")
    (root / "b").mkdir()
    for i in range(COUNT):
        name = root / f"{'b/' if i >= 8 else ''}{i}.{'png' if i % 2 else 'jpg'}"
        Image.new("RGB", (20 if i == 0 else 12, 12), (20 * i, 100, 0)).save(name)
    (root / ".hidden").mkdir()
    Image.new("RGB", (12, 12)).save(root / ".hidden/0.png")
    (root / "notes.txt").write_text("")
    return root


@pytest.fixture
def zipped(there, tmp_path):
    with zipfile.ZipFile(tmp_path / "alone.zip", "w") as file:
        for path in sorted(there.rglob("*.*")):
            if path.is_file():
                file.write(path, path.relative_to(there))
    return tmp_path / "alone.zip"


def test_images_of_all_folders_are_split_and_numbered(there, zipped, tmp_path, caplog):
    settings = images.Settings(image_size=8, validation_fraction=0.25, seed=3)
    with caplog.at_level(logging.INFO):
        data = images.load(there, settings, cache_folder=tmp_path)
    order = permutation(COUNT, 3)
    np.testing.assert_array_equal(data.train["index"], order[:9])
    np.testing.assert_array_equal(data.validation["index"], order[9:])
    assert (len(data.calibration), data.attributes) == (0, ())
    for _, split in data:
        assert split["image"].shape[1:] == (8, 8, 3)
        np.testing.assert_allclose(split["image"][:, 4, 4, 0], 20.0 * split["index"], atol=3)  # JPEG
    assert data.provenance["counts"] == {"listed": 12, "train": 9, "validation": 3}
    assert data.provenance["cropped"] == 1
    assert f"{there}: 12 images in 2 folders, 8 in itself, 4 in b. Attributes, if there are any, are not read." in (
        caplog.messages
    )
    assert any("left out are 1 .txt" in line for line in caplog.messages)
    again = images.load(zipped, settings, cache_folder=tmp_path)
    assert again.sha256() == data.sha256()


def test_other_kinds_come_first_and_those_who_need_attributes_say_how_to_give_them(there, zipped, tmp_path):
    assert sources.recognise(str(there)) is sources.recognise(str(zipped)) is images.SOURCE
    (there / "labels.csv").write_text("file,red\n0.jpg,1\n")
    try:
        assert sources.recognise(str(there)) is images.SOURCE
        assert sources.recognise(str(there), csv="labels.csv") is folder.SOURCE
    finally:
        os.unlink(there / "labels.csv")
    with pytest.raises(ValueError, match="is images alone") as error:
        flags.data_at(str(there), sources.with_attributes())
    for part in ("which this experiment does not take", "attributes.csv beside them", "celeba_vae.py"):
        assert part in str(error.value)
    assert "Looked for: " in str(error.value)  # of a published data set something may be missing
    config = flags.data_at(str(there), (*sources.with_attributes(), *sources.without_attributes()))
    with pytest.raises(ValueError, match=r"which has no attributes; .*'file,smiling,red_car'"):
        sources.load(config, attributes=("smiling",))


def test_two_data_sets_of_one_kind_are_not_taken_for_images_alone(there, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "attributes.csv").write_text("file,red\na.png,1\n")
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    with pytest.raises(FileNotFoundError, match=r"images with a CSV is in .*one and in .*other: give the path of one"):
        sources.recognise(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"validation_fraction": 0.01},
            "has 12 images, too few for validation_fraction 0.01: set validation_fraction to 0.1, which leaves 11 for "
            r"training and 1 for validation\.$",
        ),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"image_size": 0}, "image_size is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_mistakes(settings, message, there, tmp_path):
    with pytest.raises(ValueError, match=message):
        images.load(there, images.Settings(**settings), cache_folder=tmp_path)


@pytest.mark.parametrize("calibration", [0, 1, 9, 500])
@pytest.mark.parametrize("fraction", [0.1, 0.01, 0.99])
def test_the_settings_that_are_proposed_for_few_images_split_them(fraction, calibration):
    for count in (*range(1, 60), 499, 510):
        if images._sizes(count, fraction, calibration):
            continue
        with pytest.raises(ValueError, match="too few for") as error:
            images.random_split(count, fraction, calibration, 0, "here")
        refusal = str(error.value)
        if found := re.search(r"give at least (\d+)\.$", refusal):
            assert count < int(found[1]) == 2 + min(calibration, 1)
            continue
        proposed = dict(re.findall(r"(calibration_size|validation_fraction) to ([0-9.]+)", refusal))
        chosen = (
            float(proposed.get("validation_fraction", fraction)),
            int(proposed.get("calibration_size", calibration)),
        )
        order, sizes, _ = images.random_split(count, *chosen, 0, "here")
        assert sorted(order) == list(range(count))
        assert sum(sizes) == count
        assert min(sizes[:2]) > 0
        assert (sizes[2] > 0) == (calibration > 0)
        assert refusal.endswith(f"which leaves {sizes[0]} for training and {sizes[1]} for validation.")


def test_damage_is_told(there, tmp_path):
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:300])
    (defect,) = sources.verify(sources.without_attributes()[0].__class__(str(tmp_path)))
    assert defect.startswith(f"{tmp_path}/b.jpg")
    with pytest.raises(ValueError, match=r"b.jpg"):
        images.load(tmp_path, images.Settings(8, 0.5), cache_folder=tmp_path / "cache")


# --- the cache -------------------------------------------------------------------------------------------------------


def test_the_cache_keeps_what_was_used_last(tmp_path, monkeypatch):
    def names():
        return {file.name[0] for file in decode.cache_files(tmp_path)}

    def use(letter):
        name = f"{letter}-{'0' * 32}.npz"
        pictures = np.zeros((10, 8, 8, 3), np.uint8)
        decode.cached_images(tmp_path, name, 10, lambda: (pictures, np.full((10, 2), 8, np.int32)))
        clock[0] += 1
        os.utime(tmp_path / name, (clock[0], clock[0]))

    clock = [1e9]
    (tmp_path / "mine.npz").write_bytes(b"0" * 10_000)  # the folder may be one that the user keeps other files in
    use("a")
    monkeypatch.setattr(decode, "CACHE_BYTES", 3 * (tmp_path / f"a-{'0' * 32}.npz").stat().st_size)
    for letter in "bcad":  # a is used again before there are too many
        use(letter)
    assert names() == {"c", "a", "d"}
    monkeypatch.setattr(decode, "CACHE_BYTES", 1)
    use("e")
    assert names() == {"e"}
    assert (tmp_path / "mine.npz").exists()


def test_reading_the_cache_counts_as_use(tmp_path):
    name = f"a-{'0' * 32}.npz"
    arrays = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 2), 8, np.int32)
    decode.cached_images(tmp_path, name, 1, lambda: arrays)
    os.utime(tmp_path / name, (1e9, 1e9))
    decode.cached_images(tmp_path, name, 1, lambda: arrays)
    assert (tmp_path / name).stat().st_mtime > 1.5e9
