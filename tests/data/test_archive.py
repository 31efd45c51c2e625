"""Data sets however they are packed and whoever has named the files, and what is not a data set."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import logging
import lzma
import os
import struct
import tarfile
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published import write_celeba, write_cub

from mvae_jax.data import archive, names, packed, sources
from mvae_jax.data.archive import Folder, open_archive
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import folder, images, mnist
from mvae_jax.data.rendered import faces

Files = dict[str, bytes]


def write_folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(zipfile.ZipInfo(name), data)
    return path


def write_tar(path: Path, files: Files, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def read_folder(path: Path) -> Files:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def png(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 6), (colour, 200 - colour, 100)).save(stream, "PNG")
    return stream.getvalue()


def own(*images: str, listed: tuple[str, ...] = ()) -> Files:
    rows = [f"{name},{i % 2},{i // 2 % 2}" for i, name in enumerate(listed or images)]
    text = "\n".join(["file,smiling,red_car", *rows])
    return {"attributes.csv": text.encode()} | {name: png(10 * i) for i, name in enumerate(images)}


OWN = folder.Settings(image_size=4, calibration_size=2, validation_fraction=0.3)


# --- one rule for all data sets ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Files]:
    """The files of each kind of data set, directly below its folder, small enough to be loaded a hundred times."""
    root, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 3), np.uint8)
    attributes = np.zeros((12, len(faces.ATTRIBUTES)), np.float32)
    attributes[:, faces.ATTRIBUTES.index("male")] = np.arange(12) % 2
    attributes[:, faces.ATTRIBUTES.index("female")] = 1 - np.arange(12) % 2
    attributes[:, faces.ATTRIBUTES.index("young")] = np.arange(12) % 3 > 0
    faces.write_celebamask_hq(root, faces.Faces(images, attributes, np.zeros((12, len(faces.FACTORS)), np.float32)))
    write_celeba(root / "celeba", rng)
    write_cub(root / "cub", rng)
    arrays = [images[:8, :, :, 0], np.arange(8), images[8:, :, :, 0], np.arange(4)]
    digits = {
        name: struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
        for name, array in zip(mnist.IDX_FILES, arrays, strict=True)
    }
    return {
        "CelebAMask-HQ": read_folder(root / "CelebAMask-HQ"),
        "CelebA": read_folder(root / "celeba"),
        "CUB-200-2011": read_folder(root / "cub"),
        "MNIST": digits,
        "images with a CSV": own(*(f"deep/{i}.png" for i in range(8))),
    }


def load(path: Path, kind: str, cache: Path) -> Splits:
    entry = sources.recognise(str(path))
    assert entry.name == kind
    settings = {
        "CelebAMask-HQ": {
            "subset_size": 6,
            "validation_fraction": 0.34,
            "calibration_size": 2,
            "minimum_attributes": 1,
        },
        "CelebA": {"subset_size": 12, "validation_fraction": 0.25, "calibration_size": 4},
        "images with a CSV": {"validation_fraction": 0.3, "calibration_size": 2},
    }.get(kind, {})
    if kind != "MNIST":
        settings = {"cache_folder": str(cache), **settings}
    config = entry.config(str(path), **settings)
    assert list(sources.verify(config)) == []
    splits = sources.load(config, image_size=8)
    assert isinstance(splits, Splits)
    return splits


def under(prefix: str, files: Files, separator: str = "/") -> Files:
    return {f"{prefix}{name}".replace("/", separator): data for name, data in files.items()}


LAYOUTS: dict[str, Callable[[Path, Files], Path]] = {
    "folder of another name": lambda path, files: write_folder(path, under("renamed (1)/", files)),
    "folder in a folder": lambda path, files: write_folder(path, under("Extracted/Extracted/", files)),
    "three deep beside others": lambda path, files: write_folder(
        path, under("home/me/data/", files) | {"home/notes.txt": b"", "home/me/@eaDir/attributes.csv": b"file,hat"}
    ),
    "zip": lambda path, files: write_zip(path, files),
    "zip of ./": lambda path, files: write_zip(path, under("./", files)),
    "zip of ./ of a folder": lambda path, files: write_zip(path, under("./data/./", files)),
    "zip of backslashes": lambda path, files: write_zip(path, under("data/", files, "\\")),
    "zip of a folder in a folder": lambda path, files: write_zip(path, under("data/raw/", files)),
    "zip of macOS": lambda path, files: write_zip(
        path, under("data/", files) | under("__MACOSX/data/._", dict.fromkeys(files, b"?"))
    ),
    "tar": lambda path, files: write_tar(path, under("./data/", files)),
    "tgz": lambda path, files: write_tar(path, under("data/", files), "w:gz"),
    "tar.bz2": lambda path, files: write_tar(path, under("data/", files), "w:bz2"),
    "tar.xz": lambda path, files: write_tar(path, files, "w:xz"),
}


@pytest.mark.parametrize("kind", ["CelebAMask-HQ", "CelebA", "CUB-200-2011", "MNIST", "images with a CSV"])
def test_every_data_set_is_read_however_it_is_packed(kind, kinds, tmp_path):
    expected = load(write_folder(tmp_path / "plain", kinds[kind]), kind, tmp_path / "cache").sha256()
    for number, (layout, write) in enumerate(LAYOUTS.items()):
        path = write(tmp_path / f"packed{number}", kinds[kind])
        assert load(path, kind, tmp_path / f"cache{number}").sha256() == expected, layout


@pytest.mark.parametrize("kind", ["CelebAMask-HQ", "CelebA", "CUB-200-2011", "MNIST", "images with a CSV"])
def test_of_two_data_sets_neither_is_taken(kind, kinds, tmp_path):
    both = write_folder(tmp_path / "both", under("a/", kinds[kind]) | under("b/", kinds[kind]))
    with pytest.raises(FileNotFoundError, match=f"{kind} is in {both}/a and in {both}/b: give the path of one"):
        sources.recognise(str(both))
    with pytest.raises(FileNotFoundError, match=f"^{both} holds several, {both}/a and {both}/b: give the path of one"):
        sources.load(sources.SOURCES[kind].config(str(both)), image_size=8)
    assert sources.recognise(str(both / "b")).name == kind
    above = write_folder(both, {"c/" + name: b"" for name in ("notes.txt",)} | kinds[kind])
    assert sources.recognise(str(above)).name == kind, "the one that is least deep"


def test_the_least_deep_kind_is_recognised(kinds, tmp_path):
    files = kinds["CelebA"] | under("extra/", kinds["images with a CSV"])
    assert sources.recognise(str(write_folder(tmp_path / "celeba", files))).name == "CelebA"


@pytest.mark.parametrize("form", ["torchvision", "folders of their names", "folders of unpacked files", "Kaggle"])
def test_layouts_of_mnist(form, kinds, tmp_path):
    digits = kinds["MNIST"]
    files = {
        "torchvision": under(
            "MNIST/raw/", digits | {f"{name}.gz": gzip.compress(data) for name, data in digits.items()}
        ),
        "folders of their names": {f"{name}/{name}": data for name, data in digits.items()},
        "folders of unpacked files": {f"{name}/{name}.gz": gzip.compress(data) for name, data in digits.items()},
        "Kaggle": {name.replace("-idx", ".idx"): data for name, data in digits.items()}
        | {f"{name}/{name}": data for name, data in digits.items()},
    }[form]
    expected = load(write_folder(tmp_path / "plain", digits), "MNIST", tmp_path).sha256()
    assert load(write_folder(tmp_path / "folder", files), "MNIST", tmp_path).sha256() == expected
    assert load(write_zip(tmp_path / "a.zip", files), "MNIST", tmp_path).sha256() == expected


def test_lists_of_celeba_in_folders_of_their_names(kinds, tmp_path):
    files = {f"{name}/{name}" if name.endswith("txt") else name: data for name, data in kinds["CelebA"].items()}
    expected = load(write_folder(tmp_path / "plain", kinds["CelebA"]), "CelebA", tmp_path / "a").sha256()
    assert load(write_folder(tmp_path / "folders", files), "CelebA", tmp_path / "b").sha256() == expected


# --- names ---------------------------------------------------------------------------------------------------------

WORDS = ("é", "ü/å", "한국", "ñandú/ʻokina", "plain")  # composed; in folders too


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_the_same(form, listed, tmp_path):
    images = [f"{word}{i}.png" for word in WORDS for i in range(2)]
    spelled, typed = ([unicodedata.normalize(kind, name) for name in images] for kind in (form, listed))
    files = own(*spelled, listed=tuple(typed))
    plain = own(*(f"{i}.png" for i in range(len(images))))
    expected = folder.load(write_folder(tmp_path / "plain", plain), OWN, cache_folder=tmp_path / "cache")
    colours = {
        line: image[0, 0].tolist()
        for _, split in expected
        for line, image in zip(split["index"], split["image"], strict=True)
    }
    for number, path in enumerate(
        [
            write_folder(tmp_path / "folder", files),
            write_zip(tmp_path / "a.zip", files),
            write_tar(tmp_path / "a.tar", files),
            write_zip(tmp_path / "unflagged.zip", files)
            if form == ""
            else unflagged(tmp_path / "b.zip", files, "utf-8"),
        ]
    ):
        assert list(folder.defects(path)) == []
        data = folder.load(path, OWN, cache_folder=tmp_path / f"cache{number}")
        for _, split in data:
            for line, image in zip(split["index"], split["image"], strict=True):
                assert image[0, 0].tolist() == colours[line]
        with open_archive(path) as opened:
            assert sorted(opened.walk()) == sorted(["attributes.csv", *images])
            assert opened.within("ü").files("") == {"å0.png", "å1.png"}
            assert "ü" in opened.folders()
            assert all(map(opened.has, images))
            assert not opened.has("è0.png")


def unflagged(path: Path, files: Files, encoding: str) -> Path:
    """A zip whose names are in an encoding that it does not state."""
    codes = {f"{i:04}".ljust(len(name.encode(encoding)), "~"): name for i, name in enumerate(files)}
    data = write_zip(path, {code: files[name] for code, name in codes.items()}).read_bytes()
    for code, name in codes.items():
        data = data.replace(code.encode(), name.encode(encoding))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("encoding", "word"), [("shift_jis", "日本"), ("gbk", "图片"), ("cp437", "Größe"), ("big5", "圖")]
)
def test_names_in_an_encoding_that_a_zip_does_not_state(encoding, word, tmp_path):
    images = [f"{word}{i}.png" for i in range(4)] + ["a.png", "b.png"]
    path = unflagged(tmp_path / "old.zip", own(*images), encoding)
    if encoding == "cp437":  # the one that the format has
        assert list(folder.defects(path)) == []
        return
    remark = (
        f"4 names in {path} do not state their encoding, and are read as {'UTF-8' if encoding == 'gbk' else 'code'}"
    )
    found = list(folder.defects(path))
    assert found[0].startswith(f"There is no file {path}/{word}0.png, which")
    assert (len(found), found[4].startswith(remark)) == (5, True)
    with pytest.raises(
        FileNotFoundError,
        match=r"4 of 6 images are missing.* --metadata-encoding ENCODING -e old.zip",
    ):
        folder.load(path, OWN)
    with zipfile.ZipFile(path, metadata_encoding=encoding) as file:  # which is what the command does
        file.extractall(tmp_path / "unpacked")
    assert list(folder.defects(tmp_path / "unpacked")) == []


def test_two_spellings_of_one_name_are_not_chosen_between(tmp_path):
    for number, (one, other) in enumerate([("é.png", "e\u0301.png"), ("a.png", "./a.png"), ("d/a.png", "d\\a.png")]):
        path = write_zip(tmp_path / f"{number}.zip", {one: b"1", other: b"2"})
        if "\\" in other:  # both are the same name once backslashes are read as slashes: the last one counts
            with open_archive(path) as opened:
                assert opened.read("d/a.png") == b"2"
            continue
        with pytest.raises(ValueError, match=r"has two files of one name, .* and .*: unpack it and give the folder"):
            contextlib.ExitStack().enter_context(open_archive(path))
    both = write_folder(tmp_path / "both", {"é.png": b"1", "e\u0301.png": b"22"})
    assert [Folder(both).read(name) for name in ("é.png", "e\u0301.png")] == [b"1", b"22"]


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "C:\\evil", "..\\evil", "./../evil", "C:/evil", "\\\\host\\evil"]
)
def test_names_that_lead_outside_are_refused_in_a_zip_and_in_a_tar(name, tmp_path):
    files = own("a.png") | {name: b""}
    for path in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar", files)):
        with pytest.raises(ValueError, match=r"evil.* leads outside the (zip|tar)"):
            contextlib.ExitStack().enter_context(open_archive(path))


@pytest.mark.parametrize("write", [write_folder, write_zip, write_tar])
def test_a_name_breaks_no_line_of_a_message(write, tmp_path):
    packed_files = write(tmp_path / "packed", {"a/b.txt": b""})
    with open_archive(packed_files) as opened, pytest.raises(FileNotFoundError) as error:
        opened.within("a").read("c\nerror: d\x1b\u2028.txt")
    assert str(error.value).endswith(r"/a/c\nerror: d\x1b\u2028.txt.")
    assert str(error.value).isprintable()


def test_a_colon_leads_nowhere(tmp_path):
    images = [f"2024-01-01T12:3{i}:00.png" for i in range(8)]
    for path in (write_folder(tmp_path / "own", own(*images)), write_zip(tmp_path / "a.zip", own(*images))):
        assert list(folder.defects(path)) == []


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        *((name, True) for name in (".DS_Store", "@eaDir/a.jpg", "x/__MACOSX/._a.jpg", ".@__thumb/a.jpg")),
        *((name, True) for name in ("#recycle/a.jpg", "$RECYCLE.BIN/a.jpg", "x/@Recycle/b/a.jpg")),
        *((name, False) for name in ("a.jpg", "x/@me.jpg", "eaDir/a.jpg", "a.b/c.jpg")),
    ],
)
def test_hidden_files(name, hidden, tmp_path):
    assert names.is_hidden(name) is hidden
    for path in (
        write_folder(tmp_path / "a", {name: b"", "z.jpg": b""}),
        write_zip(tmp_path / "a.zip", {name: b"", "z.jpg": b""}),
    ):
        with open_archive(path) as opened:
            assert len(images.image_names(opened)) == 1 + (not hidden)


# --- what is no data set -------------------------------------------------------------------------------------------

UNPACK, AGAIN = "npack it and give the folder", "fetch it again"


@pytest.mark.parametrize(
    ("data", "kind", "remedy"),
    [
        (b"7z\xbc\xaf'\x1c\0\4" + bytes(60), "a 7z archive", UNPACK),
        (b"Rar!\x1a\7\1\0" + bytes(60), "a RAR archive", UNPACK),
        (b"Rar!\x1a\7\0" + bytes(60), "a RAR archive", UNPACK),
        (b"\x28\xb5\x2f\xfd" + bytes(60), "packed by zstd", UNPACK),
        (gzip.compress(b"no tar"), "packed by gzip, .* no whole tar", "If it is whole, unpack it"),
        (bz2.compress(b"no tar"), "packed by gzip, bzip2 or xz", "If it is whole, unpack it"),
        (lzma.compress(b"no tar"), "packed by .* xz", "If it is whole, unpack it"),
        (gzip.compress(bytes(10_000))[:12], "packed by gzip", AGAIN),
        (b"PK\7\x08PK\3\4" + bytes(60), "the first part of a zip", UNPACK),
        (b"PK\3\4" + bytes(60), "the beginning of a zip", f"{AGAIN}. If it is one of several parts"),
        (b"MATLAB 5.0 MAT-file" + bytes(60), "of MATLAB or HDF5", "Write the images into files"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "of MATLAB or HDF5", "Write the images into files"),
        (b"\x93NUMPY\1\0" + bytes(60), "an array of NumPy", "Write the images into files"),
        (png(3), "an image", "Give the folder that holds it"),
        (b"\0\0\x08\3\0\0\0\1", r"one of MNIST's files", "Give the folder that holds it"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS", "git lfs pull"),
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "a web page", AGAIN),
        (b"\n <html>", "a web page", AGAIN),
        (b'{"error": {"code": 403}}', "JSON", AGAIN),
        (b"", "empty", AGAIN),
        (b"label,1x1,1x2\n5,0,0\n", r"a table \(CSV\)", "Give the folder that holds it"),
        (b"\xef\xbb\xbffile;hat\r\na.png;1\r\n", r"a table \(CSV\)", "Give the folder that holds it"),
        ("bild\tgröße\n".encode(), r"a table \(CSV\)", "Give the folder that holds it"),
        (b"some words\n", "text", "Give the folder that holds it"),
        (bytes(range(1, 250)), "something unknown", AGAIN),
    ],
)
def test_what_is_not_a_zip_is_told_by_its_first_bytes(data, kind, remedy, tmp_path):
    path = tmp_path / "download.zip"
    path.write_bytes(data)
    message = f"^{path} is not a whole zip .* but {kind}.*: it has {len(data)} bytes and begins with b.*{remedy}"
    with pytest.raises(ValueError, match=message) as error:
        sources.recognise(str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"^{path} is not a whole zip"):
        mnist.load(path)


def test_the_last_part_of_a_zip_in_several_is_told(tmp_path):
    whole = write_zip(tmp_path / "whole.zip", own(*(f"{i}.png" for i in range(8)))).read_bytes()
    second = whole.index(b"PK\3\4", 4)
    (tmp_path / "last.zip").write_bytes(whole[second:])  # the offsets are those of the whole
    data = bytearray(whole)
    struct.pack_into("<H", data, whole.rindex(b"PK\1\2") + 34, 1)  # the number of the part in which a file begins
    (tmp_path / "numbered.zip").write_bytes(data)
    for name in ("last.zip", "numbered.zip"):
        refused(tmp_path / name, f"{name} is the last part of a zip in several: unpack them and give the folder")


# --- defences ------------------------------------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message), open_archive(path):
        pass


def of_type(kind: bytes, **fields) -> tarfile.TarInfo:
    member = tarfile.TarInfo("data/evil.png")
    member.type = kind
    for name, value in fields.items():
        setattr(member, name, value)
    return member


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        (of_type(tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
        (of_type(tarfile.SYMTYPE, linkname="a.png"), "a link"),
        (of_type(tarfile.LNKTYPE, linkname="data/a.png"), "a link"),
        (of_type(tarfile.CHRTYPE), "neither a file nor a folder"),
        (of_type(tarfile.BLKTYPE), "neither a file nor a folder"),
        (of_type(tarfile.FIFOTYPE), "neither a file nor a folder"),
        (of_type(tarfile.GNUTYPE_SPARSE), "neither a file nor a folder"),
    ],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_and_devices_in_a_tar_are_refused(member, kind, mode, tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as file:
        file.addfile(tarfile.TarInfo("data/a.png"))
        file.addfile(member)
    refused(path, rf"a.tar: 'data/evil.png' is {kind}: unpack the tar and give the folder")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_is_cut_off_or_damaged_is_refused(pack, tmp_path):
    whole = write_tar(tmp_path / "whole.tar", own(*(f"{i}.png" for i in range(8)))).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(pack(whole))
    with open_archive(path) as opened:
        assert len(list(opened.walk())) == 9
    header = 2048  # of the second image
    assert whole[header : header + 5] == b"1.png"
    damages = {
        "within a file": whole[: header + 520],
        "within a header": whole[: header + 100],
        "after a file": whole[:header],
        "a header": whole[:header] + b"9" + whole[header + 1 :],
        "no tar after a file": whole[:header] + b"\xff" * 2000,
    }
    for damage, data in damages.items():
        path.write_bytes(pack(data))
        with pytest.raises(ValueError, match=r"a.tar is damaged \(.*: fetch it again") as error, open_archive(path):
            pass
        assert str(path) in str(error.value), damage
    if pack is not bytes:
        path.write_bytes(pack(whole)[:-3])
        refused(path, r"a.tar is damaged \(.*: fetch it again")


def test_sizes_in_a_tar_that_cannot_be_are_refused(tmp_path):
    """A negative size sends `tarfile` round in circles, and a header of a GiB into memory."""

    def tar(*members: tarfile.TarInfo, **pax: str) -> Path:
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
            file.addfile(tarfile.TarInfo("before.png"))
        data = path.read_bytes()[:512]
        for member in members:
            data += member.tobuf(tarfile.GNU_FORMAT)
        path.write_bytes(data + bytes(1024))
        return path

    def member(kind: bytes, size: int) -> tarfile.TarInfo:
        return of_type(kind, size=size)

    for evil in (
        member(tarfile.REGTYPE, -512),
        member(tarfile.REGTYPE, -1024),
        member(tarfile.XHDTYPE, -1024),
        member(tarfile.GNUTYPE_LONGNAME, -1024),
        member(tarfile.REGTYPE, 2**60),
        member(tarfile.XHDTYPE, 2**30),
        member(tarfile.GNUTYPE_LONGNAME, 2**40),
    ):
        refused(tar(evil), r"a.tar is damaged \(")


def test_what_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MAX_SMALL", 2**20)
    files = {"a.bin": bytes(2**21)}
    refused(
        write_tar(tmp_path / "bomb.tgz", files, "w:gz"), r"bomb.tgz has \d+ bytes and unpacks to more than 1048576, as"
    )
    noise = {"a.bin": np.random.default_rng(0).bytes(2**21)}
    with open_archive(write_tar(tmp_path / "noise.tgz", noise, "w:gz")) as opened:
        assert opened.read("a.bin") == noise["a.bin"]


def test_more_files_than_any_data_set_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MAX_FILES", 8)
    files = own(*(f"{i}.png" for i in range(8)))
    for path in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar", files)):
        refused(path, f"{path} has more than 8 files: unpack what you need of it")
    monkeypatch.setattr(packed, "MAX_FILES", 9)
    with open_archive(tmp_path / "a.tar") as opened:
        assert len(list(opened.walk())) == 9


def peak(function: Callable[[], object]) -> int:
    """Bytes that a function has at once, beyond what there was before."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_member_that_states_too_small_a_size_takes_no_more_than_that(tmp_path):
    """64 MiB of zeros are 64 KB when packed."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("attributes.csv", bytes(2**26))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 24, 1000)
    path.write_bytes(data)
    with open_archive(path) as opened:

        def read() -> None:
            with pytest.raises(ValueError, match=r"bomb.zip/attributes.csv is damaged \(.*: fetch the zip again"):
                opened.read("attributes.csv")

        assert peak(read) < 2**21


def test_a_member_that_states_too_large_a_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"attributes.csv": b"file,hat\n"})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 24, 2**27)
    path.write_bytes(data)
    with open_archive(path) as opened:

        def read() -> None:
            with pytest.raises(ValueError, match=r"a.zip/attributes.csv is damaged \("):
                opened.read("attributes.csv")

        assert peak(read) < 2**21


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_that_unpack_any_amount_at_once_are_refused(method, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.png", bytes(100))
    refused(
        path, r"a.zip: 'a.png' is compressed by '(bzip2|lzma)', expected 'deflate': unpack the zip and give the folder"
    )


def test_a_list_of_more_bytes_than_any_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_TEXT", 100)
    for path in (
        write_folder(tmp_path / "own", {"a.txt": bytes(101)}),
        write_zip(tmp_path / "a.zip", {"a.txt": bytes(101)}),
    ):
        with (
            open_archive(path) as opened,
            pytest.raises(ValueError, match=r"a.txt has 101 bytes, expected at most 100"),
        ):
            archive.read_text(opened, "a.txt")


def test_a_tar_of_the_same_names_and_sizes_is_another_one(tmp_path):
    """Tars have no checksums, and programs write them with no time of modification."""
    one, other = (write_tar(tmp_path / f"{i}.tar", {"a.bin": bytes([i])}) for i in range(2))
    os.utime(one, ns=(10, 10))
    os.utime(other, ns=(20, 20))
    with open_archive(one) as first, open_archive(other) as second:
        assert first.fingerprint("a.bin") != second.fingerprint("a.bin")


def test_a_tar_is_read_where_it_lies_unless_it_is_compressed(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        for mode in ("w", "w:gz"):
            with open_archive(write_tar(tmp_path / "a", {"a.bin": b"12", "b/c.bin": b"3"}, mode)) as opened:
                assert (opened.read("a.bin"), opened.within("b").read("c.bin")) == (b"12", b"3")
                assert opened.where("a.bin") == f"{tmp_path}/a/a.bin"
                with pytest.raises(FileNotFoundError, match=r"There is no file .*a/d.bin"):
                    opened.read("d.bin")
    assert caplog.text.count("into a temporary file") == 1


def test_a_disk_without_room_for_the_unpacked_tar(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data) -> int:
            raise OSError(28, "No space left on device")

    path = write_tar(tmp_path / "a.tgz", {"a.bin": b"1"}, "w:gz")
    monkeypatch.setattr(packed.tempfile, "TemporaryFile", Full)
    with pytest.raises(OSError, match=r"a.tgz cannot be unpacked into .*No space left.*TMPDIR"), open_archive(path):
        pass
