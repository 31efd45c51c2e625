"""Files change as a whole; a disk without room, a quota or a limit is told with file, bytes and free space."""

import contextlib
import errno
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mvae_jax import files
from mvae_jax.commands import data, use
from mvae_jax.data import decode, pyramid
from mvae_jax.viz import report

WHOLE = b"old" * 1000


@contextlib.contextmanager
def limited(size):
    """No file may become larger than so many bytes, as with ulimit -f."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)  # 12 KiB that cannot be compressed


def test_a_limit_keeps_the_old_file_and_says_why(tmp_path):
    (tmp_path / "a.txt").write_bytes(WHOLE)
    with limited(2000), pytest.raises(files.DiskFull) as caught:
        files.atomic_write(tmp_path / "a.txt", b"new" * 1000)
    free = files.readable(shutil.disk_usage(tmp_path).free)[-3:]
    assert str(caught.value).startswith(f"{tmp_path}/a.txt cannot be written: File too large (it takes 2.9 KiB, and ")
    assert str(caught.value).endswith(f"{free} are free). Raise the limit (ulimit -f), and give the command again.")
    assert (tmp_path / "a.txt").read_bytes() == WHOLE
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "a.txt").write_bytes(WHOLE)
    files.atomic_write(tmp_path / "a.txt", "é")
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, to_disk):
    files.atomic_write(tmp_path / "a.txt", "new")
    (first, temporary), *others = to_disk
    assert (first, os.path.dirname(temporary)) == ("fsync", str(tmp_path))
    assert temporary != str(tmp_path / "a.txt")
    assert others == [("replace", str(tmp_path / "a.txt")), ("fsync", str(tmp_path))]


def fill(path, **names):
    path.mkdir(parents=True, exist_ok=True)
    for name, content in names.items():
        (path / name).write_text(content)
    return path


def replace(path):
    with files.whole_folder(path) as new:
        (new / "new").write_text("new")


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    for name, target in (("link", fill(tmp_path / "real", old="old")), ("dangling", tmp_path / "later")):
        (tmp_path / name).symlink_to(target)
        replace(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert os.listdir(target) == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["dangling", "later", "link", "real"]


def test_what_killed_processes_left_of_a_folder_is_cleared(tmp_path):
    """One was killed between its renames, one while it wrote; a third is at work, and a fourth folder is nobody's."""
    with subprocess.Popen([sys.executable, "-c", KILLED.format(root=str(tmp_path))], env=os.environ) as process:
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "place").exists()
    fill(tmp_path / f".place.{os.getpid()}.tmp", mine="mine")
    with files.whole_folder(tmp_path / "place") as new:
        (new / "first").write_text("1")
        assert os.listdir(tmp_path / "place") == ["old"]
        replace(tmp_path / "place")
        assert (new / "first").exists()
    assert os.listdir(tmp_path / "place") == ["first"]
    assert sorted(os.listdir(tmp_path)) == [f".place.{os.getpid()}.tmp", "place"]


KILLED = """
import os, pathlib, signal
from mvae_jax import files
root = pathlib.Path({root!r})
(root / "place").mkdir()
(root / "place" / "old").write_text("old")
rename = pathlib.Path.rename
def killed(path, target):
    rename(path, target)
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.rename = killed
with files.whole_folder(root / "place") as new:
    pass
"""


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_error_of_a_rename_leaves_the_old_folder_or_the_new_one(failing, tmp_path, monkeypatch):
    """The error of the system is the one that is told, whichever of the renames and the last sync it is."""
    fill(tmp_path / "place", old="old")
    calls, rename, sync = [], pathlib.Path.rename, files.sync

    def counted(function, *arguments):
        calls.append(arguments)
        if len(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        return function(*arguments)

    monkeypatch.setattr(pathlib.Path, "rename", lambda *arguments: counted(rename, *arguments))
    last = lambda path: counted(sync, path) if path == tmp_path else sync(path)  # noqa: E731
    monkeypatch.setattr(files, "sync", last)
    with pytest.raises(OSError, match="Input/output error"):
        replace(tmp_path / "place")
    assert os.listdir(tmp_path / "place") == ["new" if failing == 3 else "old"]
    assert os.listdir(tmp_path) == ["place"]


def test_a_mount_point_is_refused_before_anything_is_written(small_disk):
    disk = small_disk(64)
    with pytest.raises(ValueError, match="disk is a mount point, which cannot be replaced as a whole"):
        replace(disk)
    assert os.listdir(disk) == []
    assert os.listdir(disk.parent) == ["disk"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**52, "4096.0 TiB"),
    ],
)
def test_bytes_for_people(count, text):
    assert files.readable(count) == text


def fail(path, error):
    with files.written(path, 2**20):
        raise error


def test_errors_that_libraries_tell_in_words_are_the_systems(tmp_path):
    tensorstore = "RESOURCE_EXHAUSTED: Failed to write 76 bytes: No space left on device [os_error_code='28']"
    array_record = "write() failed: File too large; writing a.array_record; at byte 20000"
    for error, words in ((ValueError(tensorstore), "No space left"), (RuntimeError(array_record), "File too large")):
        with pytest.raises(files.DiskFull, match=rf"{words}.* \(it takes 1\.0 MiB, and .* are free\)\."):
            fail(tmp_path / "state", error)
    with pytest.raises(OSError, match="Input/output error") as caught:
        fail(tmp_path / "state", ValueError("DATA_LOSS: Input/output error [os_error_code='5']"))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "state"))
    with pytest.raises(ValueError, match="other"):
        fail(tmp_path / "state", ValueError("other"))


def test_what_has_no_room_is_refused_before_it_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    files.check_room(tmp_path / "not" / "there", free // 2)
    with pytest.raises(files.DiskFull, match=r"no/there cannot be written: No space left on device \(it takes .*TiB"):
        files.check_room(tmp_path / "no" / "there", 2**60)


def test_notes_say_what_is_safe():
    def fail():
        with files.noting(lambda: "Step 3 is saved."):
            raise OSError("full")

    with pytest.raises(OSError, match="full") as caught:
        fail()
    assert caught.value.__notes__ == ["Step 3 is saved."]


def test_figures_and_pages_are_whole_or_not_there(tmp_path, pixels):
    figures = {"small": ("small", Image.fromarray(pixels[:4, :4])), "large": ("large", Image.fromarray(pixels))}
    with limited(4000), pytest.raises(files.DiskFull, match=r"figures/large\.png cannot be written: File too large"):
        report.save_figures(figures, tmp_path / "figures")
    assert os.listdir(tmp_path / "figures") == ["small.png"]
    with (
        limited(1000),
        pytest.raises(files.DiskFull, match=r"report.html cannot be written: File too large \(it takes"),
    ):
        report.write(tmp_path / "report.html", "title", [])
    assert os.listdir(tmp_path) == ["figures"]


@pytest.mark.parametrize("name", ["faces.png", "faces.jpg", "faces"])
def test_pictures_of_a_model_are_whole_or_not_there(tmp_path, pixels, name):
    with limited(1500), pytest.raises(files.DiskFull, match=r"faces\S* cannot be written: File too large"):
        use._save(tmp_path / name, pixels[None])
    assert not list(tmp_path.rglob("*.*"))
    use._save(tmp_path / name, pixels[None])
    (written,) = [path for path in tmp_path.rglob("*.*") if path.is_file()]
    with Image.open(written) as picture:
        assert picture.format == ("JPEG" if name.endswith("jpg") else "PNG")
        picture.load()


def test_a_preview_is_whole_or_not_there(tmp_path):
    command = ["preview", "digits", "--image-size=8", "-o", str(tmp_path / "sheet.png")]
    arguments = data._parser().parse_args(command)
    with limited(2000), pytest.raises(files.DiskFull, match=r"sheet\.png cannot be written: File too large"):
        data.preview(arguments)
    assert os.listdir(tmp_path) == []
    assert data.preview(arguments) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        sheet.load()


def test_a_cache_that_has_no_room_is_done_without(tmp_path, pixels, caplog):
    images, sizes = pixels[None], np.array([[64, 64]], np.int32)
    with limited(4000):
        found, _ = decode.cached_images(tmp_path, "a.npz", 1, lambda: (images, sizes))
    np.testing.assert_array_equal(found, images)
    assert "a.npz cannot be written: File too large (it takes 12.0 KiB" in caplog.text
    assert os.listdir(tmp_path) == []


def test_a_pyramid_goes_on_when_there_is_room(tmp_path, small_disk):
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(24):
        image = generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    settings = pyramid.Settings(image_size=64, shard_images=4, validation_fraction=0.25)
    whole = pyramid.prepare(tmp_path / "photos", tmp_path / "whole", settings)
    disk = small_disk(700)
    with pytest.raises(files.DiskFull, match=r"cannot be written: No space left on device \(it takes .* KiB, and"):
        pyramid.prepare(tmp_path / "photos", disk / "p", settings)
    done = sorted(path.name for path in (disk / "p").glob("*.array_record"))
    assert done
    assert not list((disk / "p").glob(".*.partial"))
    small_disk(64 * 1024)
    assert pyramid.prepare(tmp_path / "photos", disk / "p", settings).sha256() == whole.sha256()
