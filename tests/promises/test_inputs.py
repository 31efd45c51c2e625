"""Files with random damage: every reader refuses what it cannot read by a sentence of its own that names the file.

And it takes no more memory than its limits say. The damage is the same at every run. What a reader does not notice is
no mistake here: most formats have no checksum.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import pickle
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published import write_cub
from safetensors.numpy import save

from mvae_jax.data import decode, pyramid
from mvae_jax.data.archive import levels, open_archive
from mvae_jax.data.formats import celeba, cub, folder, mnist
from mvae_jax.nets.torch_weights import read_tensors

pytestmark = pytest.mark.promise
MEMORY = 2**30  # bytes that the reader of a file of a few kilobytes may take
WORDS = (b"\0", b"\xff" * 4, b"(", b"[" * 60, b"-1", b"9" * 40, b'"', b"'", b",", b"\n", b"../", b"NaN", b"{}", b"null")
SIZES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, left out, repeated, cut off, or replaced by others that mean something."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = int(rng.integers(len(changed) or 1))
        part = int(rng.choice([1, 2, 4, 30]))
        match rng.integers(6):
            case 0:
                changed[place : place + 1] = bytes([rng.integers(256)])
            case 1:
                del changed[place : place + part]
            case 2:
                changed[place:place] = changed[place // 2 : place // 2 + part]
            case 3:
                del changed[place:]
            case 4:
                changed[place : place + part] = WORDS[rng.integers(len(WORDS))]
            case 5:
                changed[place : place + 4] = struct.pack("<I" if rng.integers(2) else ">I", SIZES[rng.integers(5)])
    return bytes(changed)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


ARRAYS = dict(zip(mnist.IDX_FILES, (np.zeros((5, 4, 4)), np.arange(5), np.ones((4, 4, 4)), np.arange(4)), strict=True))


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def tarred(files: dict[str, bytes], style: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=style) as file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def images() -> list[bytes]:
    pixels, exif, files = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8), Image.Exif(), []
    exif[274] = 6
    for kind, mode in itertools.product(("PNG", "JPEG", "WEBP"), ("RGB", "RGBA", "L")):
        if (kind, mode) != ("JPEG", "RGBA"):
            stream = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(stream, kind, exif=exif)
            files.append(stream.getvalue())
    return files


def weights() -> list[bytes]:
    """In both layouts of `torch.save`, and as safetensors."""

    def pickled(view: bytes) -> bytes:
        storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\4" + view + b"tQ"
        tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\2K\2\x86K\2K\1\x86\x89}tR"
        return b"\x80\x02}X\1\0\0\0w" + tensor + b"s."

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", pickled(b""))
        file.writestr("x/data/0", bytes(16))
    values = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    head = b"".join(pickle.dumps(value, protocol=2) for value in values)
    stream = head + pickled(b"N") + pickle.dumps(["0"], protocol=2) + struct.pack("<q", 4) + bytes(16)
    return [archive.getvalue(), stream, save({"w": np.zeros((2, 2), np.float32)})]


def read_archive(path: Path) -> None:
    with open_archive(path) as opened:
        assert all(place.folders() is not None for level in levels(opened) for place in level)
        for name in opened.walk():
            assert opened.fingerprint(name)
            opened.read(name)


def read_digits(path: Path) -> None:
    for name, array in list(ARRAYS.items())[1:]:
        (path.parent / name).write_bytes(idx(array))
    path.replace(path.parent / mnist.IDX_FILES[0])
    mnist.load(path.parent)


def read_own(path: Path) -> None:
    path.replace(path.parent / "attributes.csv")
    list(folder.defects(path.parent))
    folder.load(path.parent)


def read_celeba(path: Path) -> None:
    (path.parent / "img_align_celeba").mkdir(exist_ok=True)
    (path.parent / "img_align_celeba/000001.jpg").write_bytes(b"")
    (path.parent / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    path.replace(path.parent / "list_attr_celeba.txt")
    list(celeba.defects(path.parent))
    celeba.load(path.parent)


def read_birds(path: Path) -> None:
    rng = np.random.default_rng(len(path.read_bytes()))
    if not (path.parent / "images").exists():
        write_cub(path.parent, rng)
    texts = sorted(path.parent.rglob("*.txt"))
    whole = {file: file.read_bytes() for file in texts}
    chosen = texts[rng.integers(len(texts))]
    chosen.write_bytes(damaged(whole[chosen], rng))
    try:
        list(cub.defects(path.parent))
        cub.load(path.parent, cub.Settings(8), cache_folder=path.parent / "cache")
    finally:
        chosen.write_bytes(whole[chosen])


CSV = "file,smiling,red_car,split\n" + "".join(f"{i}.png,{i % 2},{i // 2 % 2},train\n" for i in range(8))
LIST = "3\nMale Young\n" + "".join(f"{i:06}.jpg 1 -1\n" for i in range(1, 4))
TEXTS = {f"./a/{'é' * (1 + 100 * (i == 2))}{i}.txt": b"x" * 300 for i in range(4)}
KERAS = {name: array.astype(np.uint8) for name, array in zip(mnist.NPZ_FILES, ARRAYS.values(), strict=True)}


def keras(save: Callable) -> bytes:
    stream = io.BytesIO()
    save(stream, **{name.removesuffix(".npy"): array for name, array in KERAS.items()})
    return stream.getvalue()


def shards(path: Path) -> None:
    path.replace(path.parent / "manifest.json")
    list(pyramid.defects(path.parent))
    pyramid.load(path.parent).split("train", 4)


SPLITS = ("train", "validation")
SHARD = {"images": 1, "bytes": 2, "sha256": "a"}
MANIFEST = {
    **{"format": "mvae_jax pyramid", "version": 1, "complete": True, "sizes": [4], "skipped": []},
    **{"parts": dict.fromkeys(SPLITS, 1), "counts": dict.fromkeys(SPLITS, 1)},
    "settings": {"recipe": "", "crop": "none", "image_size": 4},
    "source": {"name": "x", "path": "y", "checksum": "z", "images": 2},
    "shards": {f"{split}_4-00000-of-00001.array_record": SHARD for split in SPLITS},
}
READERS: dict[str, tuple[list[bytes], Callable[[Path], object]]] = {
    "zip": ([zipped(TEXTS)], read_archive),
    "tar": ([tarred(TEXTS, tarfile.PAX_FORMAT), tarred(TEXTS, tarfile.GNU_FORMAT)], read_archive),
    "tgz": ([gzip.compress(tarred(TEXTS, tarfile.GNU_FORMAT))], read_archive),
    "npz": ([keras(np.savez), keras(np.savez_compressed)], mnist.load),
    "idx": ([idx(ARRAYS[mnist.IDX_FILES[0]]), gzip.compress(idx(ARRAYS[mnist.IDX_FILES[0]]))], read_digits),
    "csv": ([CSV.encode(), CSV.replace(",", ";").encode(), CSV.encode("utf-16")], read_own),
    "lists": ([LIST.encode(), LIST[2:].replace(" ", ",").encode()], read_celeba),
    "birds": ([b"1"], read_birds),
    "images": (images(), lambda path: decode.read_image(path, 8)),
    "weights": (weights(), read_tensors),
    "manifest": ([json.dumps(MANIFEST).encode()], shards),
}


@contextlib.contextmanager
def little_memory():
    """The process may take no more than `MEMORY` bytes besides those that it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def wrong(error: Exception, folder: Path) -> str:
    """What is wrong with a refusal; "" for nothing."""
    text, cause = str(error), error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return f"it took more than {MEMORY} bytes"
        cause = cause.__cause__ or cause.__context__
    if not isinstance(error, (ValueError, FileNotFoundError)) or isinstance(error, UnicodeDecodeError):
        return f"it is a {type(error).__name__}"
    if str(folder) not in text:
        return "it does not name the file"
    return "it is no sentence" if "\n" in text or len(text) >= 4000 else ""


@pytest.mark.parametrize("kind", READERS)
def test_damage_is_refused_by_a_sentence_that_names_the_file(kind, tmp_path, count, promise):
    whole, read = READERS[kind]
    of = count(60, 2000)
    rng, refused, broken = np.random.default_rng(sum(kind.encode())), 0, []
    for number in range(of):
        path = tmp_path / f"file{number}"
        path.write_bytes(damaged(whole[number % len(whole)], rng))
        try:
            with little_memory():
                read(path)
        except Exception as error:
            refused += 1
            if fault := wrong(error, tmp_path):
                broken.append(f"{kind} {number}: {fault}: {error}")
        path.unlink(missing_ok=True)
    assert refused > of // 8
    promise(f"hostile inputs, {kind}", of, broken, f"{refused} refused")
