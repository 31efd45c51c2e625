"""Pyramids: prepared from any images, after any interruption the same, and read as resident data are."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from published import write_celeba

from mvae_jax.data import decode, pyramid
from mvae_jax.data.archive import open_archive
from mvae_jax.data.batches import Batches
from mvae_jax.data.formats import celeba, images
from mvae_jax.data.pyramid import Settings, stream, writer
from mvae_jax.data.pyramid import settings as recipes
from mvae_jax.data.pyramid.stream import StreamedBatches
from mvae_jax.data.rendered import faces
from mvae_jax.train import devices, feed

COUNT, SIZE = 53, 16


def write_images(folder: Path, count: int = COUNT, size: int = SIZE) -> dict[str, np.ndarray]:
    """Images of noise with names whose natural order is not that of their letters; returns them in natural order."""
    rng, images = np.random.default_rng(0), {}
    for i in range(count):
        name = f"{i // 20}/Image {i}.{'PNG' if i % 3 else 'png'}"
        images[name] = rng.integers(0, 256, (size, size, 3), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[name]).save(folder / name)
    return images


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("source")
    images = write_images(folder)
    (folder / "LICENSE.txt").write_text("free")
    (folder / ".hidden.png").write_text("no image")
    return folder, images


SETTINGS = Settings(image_size=SIZE, validation_fraction=0.2, shard_images=11)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> pyramid.Pyramid:
    """42 images in 4 shards and 11 in one, at 4, 8 and 16 pixels."""
    return pyramid.prepare(source[0], tmp_path_factory.mktemp("made") / "pyramid", SETTINGS)


@pytest.fixture
def copy(made, tmp_path) -> pyramid.Pyramid:
    return pyramid.load(shutil.copytree(made.path, tmp_path / "copy"))


def shards(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.array_record")}


def flip(file: Path, at: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 1
    file.write_bytes(data)


# --- the images ----------------------------------------------------------------------------------------------------


def mean_by_loop(image: np.ndarray, size: int) -> np.ndarray:
    """Each pixel is the mean of those that it covers, rounded half to even."""
    step, result = len(image) // size, np.zeros((size, size, 3), np.uint8)
    for y in range(size):
        for x in range(size):
            for channel in range(3):
                total = 0
                for row in range(step):
                    for column in range(step):
                        total += int(image[y * step + row, x * step + column, channel])
                result[y, x, channel] = round(total / step**2)
    return result


def test_levels_are_means_of_the_largest_image_rounded_once():
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    images[1, :8, :8] = np.array([[2, 3], [3, 2]], np.uint8).repeat(4, 0).repeat(4, 1)[..., None]
    images[1, 8:12, :4] = [[[3], [4], [4], [3]]] * 4  # 3.5 becomes 4, and 2.5 becomes 2
    levels = pyramid.levels(images)
    assert sorted(levels) == [4, 8, 16, 32]
    assert levels[32] is images
    for size in (4, 8, 16):
        assert levels[size].dtype == np.uint8
        for image, level in zip(images, levels[size], strict=True):
            np.testing.assert_array_equal(level, mean_by_loop(image, size))
    assert (levels[4][1, 0, 0] == 2).all()
    assert (levels[8][1, 2, 0] == 4).all()
    assert pyramid.levels(images[:, :4, :4]).keys() == {4}


def test_levels_of_1024_pixels_are_exact():
    image = np.random.default_rng(2).integers(250, 256, (1, 1024, 1024, 1), np.uint8)
    expected = np.rint(image.reshape(4, 256, 4, 256).astype(np.int64).sum((1, 3)) / 256**2)
    np.testing.assert_array_equal(pyramid.levels(image)[4][0, ..., 0], expected)


def test_every_image_is_in_one_split_with_its_number(made, source):
    images = list(source[1].values())
    assert made.sizes == (4, 8, 16)
    assert made.counts == {"train": 42, "validation": 11}
    numbers = []
    for split in ("train", "validation"):
        for size in made.sizes:
            read = made.split(split, size)
            assert (read["image"].dtype, read["image"].shape) == (np.uint8, (made.counts[split], size, size, 3))
            for image, number in zip(read["image"], read["index"].tolist(), strict=True):
                whole = images[number]
                np.testing.assert_array_equal(image, whole if size == SIZE else mean_by_loop(whole, size))
        numbers += read["index"].tolist()
        assert read["index"].tolist() == sorted(read["index"].tolist())
    assert sorted(numbers) == list(range(COUNT))
    assert len(made.manifest["shards"]) == (4 + 1) * 3
    assert {note["images"] for note in made.manifest["shards"].values()} == {10, 11}


def test_splits_and_provenance(made, source):
    splits = made.splits(8)
    np.testing.assert_array_equal(splits.train["image"], made.split("train", 8)["image"])
    assert [len(split) for _, split in splits] == [42, 11, 0]
    assert splits.attributes == ()
    provenance = splits.provenance
    assert provenance["data_set"] == "images, a pyramid"
    assert (provenance["path"], provenance["source"]) == (str(made.path), str(source[0]))
    assert (provenance["counts"], provenance["skipped"], provenance["recipe"]) == (made.counts, 0, "none")
    assert (provenance["image_size"], provenance["crop"]) == (16, "none")


def test_the_random_split_has_a_seed(source, made, tmp_path):
    other = pyramid.prepare(source[0], tmp_path / "p", Settings(image_size=4, validation_fraction=0.2, seed=43))
    assert other.counts == made.counts
    assert set(other.split("train", 4)["index"]) != set(made.split("train", 4)["index"])
    assert other.sha256() != made.sha256()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b10.png", "b9.webp", "b09.png", "a/2.JPG", "a/10.jpeg"], ["a/2.JPG", "a/10.jpeg", "b09.png", "b9.webp"]),
        (["1.png1.png", "1.png", "01.png", "1.png.png"], ["01.png", "1.png", "1.png1.png", "1.png.png"]),
        (["10.png", "9.png", "x.txt", ".a.png", "__MACOSX/1.png", "d/.e/1.png"], ["9.png", "10.png"]),
    ],
)
def test_names_come_in_natural_order_from_folders_and_zips(names, expected, tmp_path):
    for name in names:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_bytes(b"")
    shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "all")
    for path in (tmp_path / "all", tmp_path / "all.zip"):
        with open_archive(path) as archive:
            assert images.image_names(archive)[: len(expected)] == expected


def test_a_zip_gives_the_same_shards(source, made, tmp_path):
    shutil.make_archive(str(tmp_path / "all"), "zip", source[0])
    assert shards(pyramid.prepare(tmp_path / "all.zip", tmp_path / "p", SETTINGS).path) == shards(made.path)


def test_larger_images_shrink_and_rectangles_are_cut(tmp_path):
    (tmp_path / "s").mkdir()
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 20 + i, 3), np.uint8)) for i in range(4)]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"s/{i}.png")
    with pytest.raises(ValueError, match=r"s/1.png .* it is 21 x 20 pixels, expected a square: crop it, or .*'center'"):
        pyramid.prepare(tmp_path / "s", tmp_path / "p", Settings(image_size=8, validation_fraction=0.4))
    settings = Settings(image_size=8, crop="center", validation_fraction=0.5)
    made = pyramid.prepare(tmp_path / "s", tmp_path / "p", settings)  # nothing was there yet that has other settings
    assert made.manifest["settings"]["crop"] == "center"
    for split in ("train", "validation"):
        read = made.split(split, 8)
        for image, number in zip(read["image"], read["index"].tolist(), strict=True):
            np.testing.assert_array_equal(image, decode.square(pictures[number], 8))
    with pytest.raises(
        ValueError, match=r"20 x 20 pixels, and no image is enlarged to image_size 32: choose a smaller"
    ):
        pyramid.prepare(
            tmp_path / "s",
            tmp_path / "r",
            Settings(image_size=32, crop="center", validation_fraction=0.5),
            most_skipped=9,
        )


def test_rendered_faces(tmp_path):
    settings = Settings(image_size=32, count=10, seed=3, validation_fraction=0.3, shard_images=4)
    made = pyramid.prepare("rendered", tmp_path / "p", settings)
    drawn = faces.sample(3, 10, 32).images
    np.testing.assert_array_equal(made.split("train", 32)["image"], drawn[:7])
    np.testing.assert_array_equal(made.split("validation", 32)["image"], drawn[7:])
    assert made.split("validation", 4)["index"].tolist() == [7, 8, 9]
    with pytest.raises(ValueError, match="image_size is 256, but faces are rendered with 32, 64, 128 pixels"):
        pyramid.prepare("rendered", tmp_path / "q", Settings())


# --- recipes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Recipes of data sets that a test can write."""
    own = {
        "ffhq": recipes.Recipe(16, 40, 13),
        "celeba_hq": recipes.Recipe(8, 4, 2),
        "lsun_bedroom": recipes.Recipe(16, None, 13, "center"),
        "celeba": recipes.Recipe(128, 30, 10, "alae"),
    }
    assert own.keys() == recipes.RECIPES.keys()
    monkeypatch.setattr(recipes, "RECIPES", own)


def test_recipes_are_those_of_the_papers():
    counts = {name: (recipe.image_size, recipe.train, recipe.validation) for name, recipe in recipes.RECIPES.items()}
    assert counts == {
        "ffhq": (1024, 60_000, 10_000),
        "celeba_hq": (256, 27_000, 3_000),
        "lsun_bedroom": (256, None, 10_000),
        "celeba": (128, 182_637, 19_962),
    }
    assert Settings("ffhq").sizes == (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert (Settings("ffhq", image_size=4).sizes, Settings().sizes[-1]) == ((4,), 256)
    assert Settings(crop="alae").sizes[-1] == 128
    assert [Settings(name).chosen_crop for name in recipes.RECIPES] == ["none", "none", "center", "alae"]


@pytest.mark.parametrize("recipe", ["ffhq", "lsun_bedroom"])
def test_a_recipe_cuts_the_natural_order(recipe, small, source, tmp_path):
    made = pyramid.prepare(source[0], tmp_path / "p", Settings(recipe))
    assert made.split("train", 4)["index"].tolist() == list(range(40))
    assert made.split("validation", 4)["index"].tolist() == list(range(40, 53))
    assert made.provenance["recipe"] == recipe


def test_celeba_has_its_partitions_and_the_crop_of_alae(small, tmp_path):
    write_celeba(tmp_path / "celeba", np.random.default_rng(0))
    settings = Settings("celeba", image_size=32)
    made = pyramid.prepare(tmp_path / "celeba", tmp_path / "p", settings)
    assert made.split("train", 32)["index"].tolist() == list(range(1, 31))
    assert made.split("validation", 32)["index"].tolist() == list(range(31, 41))
    assert made.provenance["data_set"] == "CelebA, a pyramid"
    image = Image.open(tmp_path / "celeba/img_align_celeba/000031.jpg")
    np.testing.assert_array_equal(made.split("validation", 32)["image"][0], celeba.cut(image, "alae", (32, 32)))
    lists = (tmp_path / "celeba/list_eval_partition.txt").read_text()
    (tmp_path / "celeba/list_eval_partition.txt").write_text(lists.replace("000040.jpg 2", "000040.jpg 1"))
    with pytest.raises(
        ValueError, match=r"recipe 'celeba' is for 30 .* and 10 .* has 40 images, 31 and 9: .*'alae' in"
    ):
        pyramid.prepare(tmp_path / "celeba", tmp_path / "p", settings)
    part = pyramid.prepare(tmp_path / "celeba", tmp_path / "q", Settings(crop="alae", image_size=32))
    assert part.counts == {"train": 31, "validation": 9}
    (tmp_path / "celeba/list_eval_partition.txt").write_text(lists)
    with pytest.raises(ValueError, match="was made of other files than"):
        pyramid.prepare(tmp_path / "celeba", tmp_path / "q", Settings(crop="alae", image_size=32))


def test_celebamask_hq_gives_its_images_alone(small, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    attributes = np.zeros((12, len(faces.ATTRIBUTES)), np.float32)
    factors = np.zeros((12, len(faces.FACTORS)), np.float32)
    faces.write_celebamask_hq(tmp_path, faces.Faces(images, attributes, factors))
    for i in range(6, 12):
        (tmp_path / f"CelebAMask-HQ/CelebA-HQ-img/{i}.jpg").rename(tmp_path / f"CelebAMask-HQ/mask{i}.jpg")
    made = pyramid.prepare(tmp_path, tmp_path / "p", Settings("celeba_hq"))
    assert (made.counts, made.provenance["data_set"]) == ({"train": 4, "validation": 2}, "CelebAMask-HQ, a pyramid")


# --- damaged images ------------------------------------------------------------------------------------------------


def test_damaged_images_are_named_all_and_may_be_skipped(source, tmp_path):
    folder = Path(shutil.copytree(source[0], tmp_path / "source"))
    bad = ["0/Image 3.png", "1/Image 20.PNG", "2/Image 52.PNG"]
    for name in bad:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2] if name != bad[1] else b"<html>")
    with pytest.raises(ValueError, match="3 of 53 images cannot be used, and most_skipped is 0") as refused:
        pyramid.prepare(folder, tmp_path / "p", SETTINGS)
    for name in bad:
        assert f"{folder / name} (" in str(refused.value)
    assert "(--most-skipped=3) the same command keeps what is done" in str(refused.value)
    with pytest.raises(ValueError, match=r"p is not complete: 15 of 15 shards"):
        pyramid.load(tmp_path / "p")
    with pytest.raises(ValueError, match="and most_skipped is 2"):
        pyramid.prepare(folder, tmp_path / "p", SETTINGS, most_skipped=2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.array_record")}
    made = pyramid.prepare(folder, tmp_path / "p", SETTINGS, most_skipped=3)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.array_record")}
    assert [entry["file"] for entry in made.manifest["skipped"]] == bad
    assert "it is no JPEG, PNG or WebP image" in made.manifest["skipped"][1]["reason"]
    assert sum(made.counts.values()) == 50
    numbers = np.concatenate([split["index"] for _, split in made.splits(4)])
    assert sorted(numbers) == [i for i in range(COUNT) if i not in (3, 20, 52)]
    other = pyramid.prepare(folder, tmp_path / "q", SETTINGS, most_skipped=9)
    assert shards(other.path) == shards(made.path)
    assert other.manifest["skipped"] == made.manifest["skipped"]
    flip(other.path / "train_8-00000-of-00004.array_record")
    mended = pyramid.prepare(folder, other.path, SETTINGS, most_skipped=3)
    assert (shards(other.path), mended.manifest) == (shards(made.path), made.manifest)
    streamed = StreamedBatches(made.records("train", 4), 8, seed=0)
    np.testing.assert_array_equal(
        streamed.batch_at(1)["image"], Batches(made.split("train", 4), 8, 0).batch_at(1)["image"]
    )


def test_much_damage_ends_early(source, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(source[0], tmp_path / "source"))
    for path in folder.glob("*/*.*"):
        path.write_bytes(b"")
    monkeypatch.setattr(writer, "_MOST_NAMED", 20)
    with pytest.raises(ValueError, match=r"21 of 53|22 of 53"):
        pyramid.prepare(folder, tmp_path / "p", SETTINGS)
    assert len(shards(tmp_path / "p")) == 6
    with pytest.raises(ValueError, match=r"Of the images \{'train': 0, 'validation': 0\} can be used"):
        pyramid.prepare(folder, tmp_path / "p", SETTINGS, most_skipped=53)


# --- interruptions -------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from mvae_jax.data import pyramid
from mvae_jax.data.pyramid import Settings, writer

def slowly(*arguments, write=writer._write):  # or it might be done before it is killed
    time.sleep(0.02)
    return write(*arguments)

writer._write = slowly
pyramid.prepare(sys.argv[1], sys.argv[2], Settings(image_size=32, shard_images=4), workers=1)
"""


def test_a_killed_process_is_gone_on_with_and_ends_with_the_same_shards(tmp_path):
    write_images(tmp_path / "source", 300, 32)
    settings = Settings(image_size=32, shard_images=4)
    expected = pyramid.prepare(tmp_path / "source", tmp_path / "whole", settings)
    folder = tmp_path / "killed"
    for after in ("train_4-00000-of-00068.array_record", "train_32-00020-of-00068.array_record"):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path / "source", folder])
        while process.poll() is None and not (folder / after).exists():
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with pytest.raises(ValueError, match=r"killed is not complete: \d+ of 304 shards are there"):
            pyramid.load(folder)
        assert pyramid.is_pyramid(folder)
    kept = {path: path.stat().st_ino for path in folder.glob("*.array_record")}
    assert 20 * 4 < len(kept) < 304
    (folder / ".train_4-00050-of-00068.array_record.partial").write_bytes(b"half")
    made = pyramid.prepare(tmp_path / "source", folder, settings)
    assert shards(folder) == shards(expected.path)
    assert made.manifest == expected.manifest
    assert made.sha256() == expected.sha256()
    assert sum(path.stat().st_ino == inode for path, inode in kept.items()) >= 20 * 4
    assert not list(folder.glob("*.partial"))
    assert list(pyramid.defects(folder)) == []


def test_what_is_damaged_is_made_anew_and_what_is_whole_is_kept(copy, made, source):
    names = sorted(shards(copy.path))
    flip(copy.path / names[0])
    (copy.path / names[1]).unlink()
    (copy.path / names[2]).write_bytes(b"")
    whole = copy.path / "validation_4-00000-of-00001.array_record"
    before = whole.stat().st_ino
    mended = pyramid.prepare(source[0], copy.path, SETTINGS)
    assert shards(copy.path) == shards(made.path)
    assert (mended.manifest, whole.stat().st_ino) == (made.manifest, before)


def test_a_folder_belongs_to_one_pyramid(copy, source, tmp_path):
    with pytest.raises(ValueError, match=r"a pyramid with other settings: seed 42, not 1\. Go on with its own, or"):
        pyramid.prepare(
            source[0], copy.path, Settings(image_size=SIZE, validation_fraction=0.2, shard_images=11, seed=1)
        )
    other = Path(shutil.copytree(source[0], tmp_path / "other"))
    os.utime(other / "0/Image 0.png", ns=(0, 0))
    with pytest.raises(ValueError, match=f"was made of other files than {other} has now: choose another folder"):
        pyramid.prepare(other, copy.path, SETTINGS)
    with pytest.raises(ValueError, match=f"{other} holds no pyramid, but 0: choose a folder that is empty"):
        pyramid.prepare(source[0], other, SETTINGS)
    with (copy.path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=f"Another process prepares {copy.path}: wait for it, or stop it"):
            pyramid.prepare(source[0], copy.path, SETTINGS)


def test_a_shard_that_cannot_be_written_is_no_shard(source, tmp_path, monkeypatch):
    class Full:
        """Says nothing of the write that failed, as ArrayRecord does on a full disk."""

        def __init__(self, path: str, options: str) -> None:
            self.opened = Path(path).open("wb")  # noqa: SIM115

        def write(self, data: bytes) -> None:
            self.opened.write(data[:1])

        def is_open(self) -> bool:
            return not self.opened.closed

        def close(self) -> None:
            self.opened.close()

    from array_record.python import array_record_module

    with monkeypatch.context() as patch:
        patch.setattr(array_record_module, "ArrayRecordWriter", Full)
        with pytest.raises(OSError, match=r"partial cannot be written: it cannot be opened: has the disk"):
            pyramid.prepare(source[0], tmp_path / "p", SETTINGS)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [".lock", "manifest.json"]
    pyramid.prepare(source[0], tmp_path / "p", SETTINGS)


# --- streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("seed", "start", "batch_size"), [(0, 0, 8), (5, 7, 8), (5, 0, 42), (123, 1000, 5)])
def test_a_stream_has_the_batches_of_resident_data(seed, start, batch_size, shuffle, made):
    resident = Batches(made.split("train", 8), batch_size, seed, start, shuffle)
    streamed = StreamedBatches(made.records("train", 8), batch_size, seed, start, shuffle=shuffle)
    assert streamed.steps_per_epoch == resident.steps_per_epoch
    steps = 2 * streamed.steps_per_epoch + 3  # into a third epoch
    for step in (start, start + steps):
        assert streamed.epoch_at(step) == resident.epoch_at(step)
        np.testing.assert_array_equal(streamed.indices_at(step), resident.indices_at(step))
    first, taken = start + 1, start + 1
    with streamed.stream(first, first + steps, chunk=4) as chunks:
        for chunk in chunks:
            count = min(4, first + steps - taken)
            expected = [resident.batch_at(step) for step in range(taken, taken + count)]
            assert chunk.keys() == {"image", "index"}
            for name, array in chunk.items():
                assert type(array) is np.ndarray
                np.testing.assert_array_equal(array, np.concatenate([batch[name] for batch in expected]))
            taken += count
    assert taken == first + steps


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_rows_of_hosts_make_the_whole_stream(workers, made):
    """Chunks of 4 x 6 examples, of which one host has rows that lie apart; of the last two steps one host has all."""
    streamed = StreamedBatches(made.records("train", 16), 6, seed=1, workers=workers)
    with streamed.stream(2, 12, chunk=4) as chunks:
        whole = list(chunks)
    assert [len(chunk["index"]) for chunk in whole] == [24, 24, 12]
    shares = np.arange(12), np.r_[12:15, 18:24], np.arange(15, 18)
    parts = []
    for rows in shares:
        with streamed.stream(2, 12, 4, rows) as chunks:
            parts.append(list(chunks))
    for number, chunk in enumerate(whole):
        for name, array in chunk.items():
            joined = np.zeros((24, *array.shape[1:]), array.dtype)
            for rows, part in zip(shares, parts, strict=True):
                joined[rows[: len(part[number][name])]] = part[number][name]
            np.testing.assert_array_equal(joined[: len(array)], array)
    assert [[len(chunk["index"]) for chunk in part] for part in parts] == [[12, 12, 12], [9, 9, 0], [3, 3, 0]]


def test_large_records_are_read_one_by_one_to_the_same_examples(made, monkeypatch):
    records, indices = made.records("train", 8), np.array([40, 3, 3, 17])
    expected = records.take(indices)
    monkeypatch.setattr(stream, "_LARGE", records.example_bytes)
    for name, array in records.take(indices).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_stream_may_end_before_it_is_read(made):
    streamed = StreamedBatches(made.records("validation", 16), 3, seed=1)
    with streamed.stream(5, 5) as chunks:
        assert list(chunks) == []
    threads = threading.active_count()
    with streamed.stream(0, 9) as chunks:
        assert len(next(chunks)["index"]) == 3
    with streamed.stream(0, 9):
        pass
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 43}, "batch_size is 43, expected between 1 and the 42 examples"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": -1}, "workers is -1, expected at least 0"),
    ],
)
def test_impossible_batches_are_refused(arguments, message, made):
    with pytest.raises(ValueError, match=message):
        StreamedBatches(made.records("train", 4), **{"batch_size": 2, "seed": 0, **arguments})


@pytest.mark.parametrize(
    ("split", "size", "message"),
    [
        ("test", 4, "split is 'test', expected train or validation"),
        ("train", 32, "has no images of 32 pixels, only of 4, 8, 16: choose one of these, or prepare it with"),
    ],
)
def test_records_that_are_not_there_are_refused(split, size, message, made):
    with pytest.raises(ValueError, match=message):
        made.records(split, size)


def test_impossible_steps_are_refused(made):
    streamed = StreamedBatches(made.records("train", 4), 2, seed=0, start=5)
    with pytest.raises(ValueError, match="step is 4, before these batches start at step 5"):
        streamed.stream(4, 9)
    for arguments in ((6, 5), (6, 9, 0)):
        with pytest.raises(ValueError, match="expected an end that is not before the first step"):
            streamed.stream(*arguments)
    with pytest.raises(IndexError, match="positions are from 3 to 42, expected 0 to 41"):
        made.records("train", 4).take(np.array([3, 42]))
    with pytest.raises(IndexError, match="positions are from -1"):
        made.records("train", 4).take(np.array([-1]))


# --- damage --------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_an_error_that_names_the_shard(copy):
    path = copy.records("train", 16).paths[2]
    flip(path)
    assert pyramid.load(copy.path).sizes == (4, 8, 16)
    message = f"^{path} is damaged .*: the command that prepared it, given again, makes it anew"
    with pytest.raises(ValueError, match=message):
        copy.split("train", 16)
    batches = StreamedBatches(copy.records("train", 16), 42, seed=0)
    with pytest.raises(ValueError, match=message):
        batches.batch_at(0)
    with batches.stream(0, 2) as chunks, pytest.raises(ValueError, match=message):
        next(chunks)
    assert len(copy.split("train", 8)) == 42
    assert list(pyramid.defects(copy.path)) == [
        f"{path} is damaged: it has another checksum than when it was written. The command that prepared it, given "
        "again, mends it."
    ]


def test_no_flipped_bit_is_read(copy):
    """Whatever bit of the file's head and of its 11 records is flipped, images are right or refused."""
    path = copy.records("validation", 8).paths[0]
    data, expected = path.read_bytes(), copy.split("validation", 8)["image"]
    refused, places = 0, range(0, 11 * expected[0].nbytes, 31)
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(copy.split("validation", 8)["image"], expected)
        except ValueError:
            refused += 1
    assert refused > len(places) // 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "There is no file {path}. The command that prepared it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "{path} has .* bytes, expected "),
    ],
)
def test_missing_and_truncated_shards_are_noticed_when_a_pyramid_is_opened(damage, message, copy):
    paths = [copy.records("train", size).paths[1] for size in (8, 16)]
    for path in paths:
        damage(path)
    found = list(pyramid.defects(copy.path))
    with pytest.raises(ValueError, match=message.format(path=paths[0]) + r".*\(1 more: `mvae-jax data verify`"):
        pyramid.load(copy.path)
    assert [str(path) in line for path, line in zip(paths, found, strict=True)] == [True, True]
    with pytest.raises(ValueError, match=f"{paths[0]} is damaged"):
        copy.split("train", 8)


def test_a_shard_of_other_images_is_noticed(copy):
    first, *_, last = copy.records("train", 8).paths
    shutil.copy(last, first)
    with pytest.raises(ValueError, match=f"{first} is damaged .it has 10 records, expected 11"):
        copy.split("train", 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "manifest.json is damaged .*: remove .*copy and prepare it again"),
        (lambda text: text.replace('"counts"', '"count"'), "is damaged .KeyError: 'counts'"),
        (lambda text: text.replace('"sha256"', '"sha1"', 1), "is damaged .KeyError: 'sha256'"),
        (lambda text: "[]", "is damaged"),
        (
            lambda text: text.replace('"version": 1', '"version": 2'),
            "is version 2 of .* expected version 1 .*: prepare",
        ),
        (lambda text: text.replace("mvae_jax pyramid", "album"), "is version 1 of 'album', expected"),
        (lambda text: text.replace('"complete": true', '"complete": false'), "is not complete: 15 of 15 shards"),
    ],
)
def test_bad_manifests_are_reported(change, message, copy):
    file = copy.path / "manifest.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=message):
        pyramid.load(copy.path)
    assert len(list(pyramid.defects(copy.path))) == 1


def test_folders_without_a_pyramid(source, made):
    assert pyramid.is_pyramid(made.path)
    for path in (source[0], source[0] / "nowhere", source[0] / "0/Image 0.png"):
        assert not pyramid.is_pyramid(path)
        for look in (pyramid.load, lambda path: list(pyramid.defects(path))):
            with pytest.raises(FileNotFoundError, match=f"{path} holds no pyramid, expected manifest.json"):
                look(path)


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "faces"}, "recipe is 'faces', expected ffhq, celeba_hq, lsun_bedroom, celeba, or none"),
        ({"crop": "left"}, "crop is 'left', expected none, center, alae"),
        ({"image_size": 48}, "image_size is 48, expected 4 times a power of 2"),
        ({"image_size": 2}, "image_size is 2, expected"),
        ({"image_size": -4}, "image_size is -4, expected"),
        (
            {"image_size": 256, "crop": "alae"},
            "image_size is 256, but the crop 'alae' has 128 pixels: choose at most 128",
        ),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0, expected a part between 0 and 1"),
        ({"count": 1}, "count is 1"),
        ({"seed": -1}, "seed -1"),
        ({"shard_images": -1}, "shard_images -1, expected at least 2 faces and no negative number"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_sources_that_do_not_fit_are_refused(source, tmp_path):
    with pytest.raises(
        ValueError, match=r"recipe 'ffhq' is for 60000 .* and 10000 to validate on, but .* has 53 images"
    ):
        pyramid.prepare(source[0], tmp_path / "p", Settings("ffhq"))
    with pytest.raises(ValueError, match=r"'lsun_bedroom' is for one or more .* give all images .* for any.*no recipe"):
        pyramid.prepare(source[0], tmp_path / "p", Settings("lsun_bedroom"))
    with pytest.raises(FileNotFoundError, match="does not hold CelebA"):
        pyramid.prepare(source[0], tmp_path / "p", Settings("celeba"))
    with pytest.raises(
        ValueError, match="has 53 images, which leaves 53 to train on and 0 to validate on, expected some"
    ):
        pyramid.prepare(source[0], tmp_path / "p", Settings(image_size=4, validation_fraction=0.001))
    with pytest.raises(ValueError, match="most_skipped is -1"):
        pyramid.prepare(source[0], tmp_path / "p", most_skipped=-1)
    with pytest.raises(FileNotFoundError, match="no folder or zip"):
        pyramid.prepare(tmp_path / "nowhere", tmp_path / "p")
    (tmp_path / "gif").mkdir()
    (tmp_path / "gif/a.gif").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no images in .*gif: expected .*\.jpg, .* it has a.gif and the like"):
        pyramid.prepare(tmp_path / "gif", tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_imports_are_light(made):
    code = f"""
import sys
from mvae_jax.data.pyramid import stream
assert not {{"jax", "array_record", "flax"}} & set(sys.modules)
from mvae_jax.data import pyramid
made = pyramid.load({str(made.path)!r})
assert not {{"array_record", "flax", "tensorflow"}} & set(sys.modules)
made.split("train", 4)
assert not {{"jax", "tensorflow"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- for models that grow ------------------------------------------------------------------------------------------


def test_each_phase_has_images_of_its_size_on_the_devices_or_on_the_disk(made):
    """42 images take 42 * 3 * 64 bytes at 8 pixels: on the devices; and four times as many at 16: on the disk."""
    splits = pyramid.PyramidData.of(made, 16, held_out=5, resident_bytes=42 * 3 * 64)
    assert (len(splits.calibration), splits.attributes, splits.provenance) == (0, (), made.provenance)
    np.testing.assert_array_equal(splits.validation["image"], made.split("validation", 16)["image"][:5])
    assert splits.sha256() == made.sha256() != made.splits(16).sha256()
    resident, streamed = (splits.batches(size, 6, 3, start=7) for size in (8, 16))
    assert (type(resident), type(streamed)) == (Batches, StreamedBatches)
    assert "arrays" not in resident.split.__dict__  # nothing is read before it is asked for
    np.testing.assert_array_equal(resident.arrays["image"], made.split("train", 8)["image"])
    assert splits.batches(8, 4, 3).arrays is resident.arrays  # phases share what is read
    whole = made.splits(16).batches(16, 6, 3, start=7)
    for step in (7, 13, 20):
        np.testing.assert_array_equal(streamed.batch_at(step)["image"], whole.batch_at(step)["image"])
        np.testing.assert_array_equal(streamed.indices_at(step), resident.indices_at(step))
    for name, array in streamed.example.items():
        taken = whole.batch_at(7)[name]
        assert (array.shape[1:], array.dtype) == (taken.shape[1:], taken.dtype)
    with pytest.raises(ValueError, match="expected one number: the images of a pyramid are square"):
        splits.batches((16, 8), 6, 3)


def test_all_examples_of_a_split_stay_on_the_disk(made):
    """Also the held-out ones that are not read at the beginning."""
    splits = pyramid.PyramidData.of(made, 16, held_out=5)
    for split, count in (("train", 42), ("validation", 11)):
        found = splits.examples(split, 8)
        assert (len(found), "arrays" in found.__dict__) == (count, False)
        expected = made.split(split, 8)["image"]
        np.testing.assert_array_equal(found.take(np.array([2, 0, 9]))["image"], expected[[2, 0, 9]])
    assert splits.batches(8, 4, 3).split is splits.examples("train", 8)  # a phase shares its open shards
    with pytest.raises(ValueError, match="split is 'calibration', expected train or validation"):
        splits.examples("calibration", 8)


def test_a_run_has_the_same_batches_from_the_disk_and_from_the_devices(made):
    """Through the feed of the training loop, in blocks whose steps do not divide those of the phase."""
    resident = Batches(made.split("train", 8), 6, 3, 4)
    streamed = StreamedBatches(made.records("train", 8), 6, 3, 4)
    placement = devices.place(jax.devices()[:1])
    assert isinstance(streamed, feed.Streamed)
    with (
        feed.Feed(resident, placement, 6, 5, 6, 23) as one,
        feed.Feed(streamed, placement, 6, 5, 6, 23) as other,
    ):
        step = 6
        while step < 23:
            assert one.advance(step) is other.advance(step) is None
            steps = min(3, other.room(step), one.room(step))
            found = []
            for each in (one, other):
                arrays, rows = each.take(step, steps)
                found.append({name: np.asarray(array)[rows] for name, array in arrays.items()})
            for name, values in found[0].items():
                np.testing.assert_array_equal(values, found[1][name])
            step += steps
