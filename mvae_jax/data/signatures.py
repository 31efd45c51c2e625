"""Files told by their first bytes, where a data set was expected: what they are, and what to do with them."""

from __future__ import annotations

import re
from pathlib import Path

GZIP, BZIP2, XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"

_UNPACK = "Unpack it and give the folder."
_AGAIN = "A broken download leaves such a file: fetch it again."
_PAGE = "A refused download leaves such a file: fetch it again."
_ONE = "Give the folder that holds it and its companions."
# Beginning, what it is, and the remedy; the first that fits counts.
_KINDS = [
    (re.compile(beginning, re.DOTALL), kind, remedy)
    for beginning, kind, remedy in (
        (rb"7z\xbc\xaf'\x1c", "a 7z archive", _UNPACK),
        (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
        (rb"\x28\xb5\x2f\xfd|\x1f\x9d", "packed by zstd or compress", _UNPACK),
        (
            rb"\x1f\x8b|BZh|\xfd7zXZ\0",
            "packed by gzip, bzip2 or xz, and no whole tar",
            f"{_AGAIN} If it is whole, unpack it. {_ONE}",
        ),
        (rb"PK(\x07\x08|00)", "the first part of a zip in several", _UNPACK),
        (rb"PK", "the beginning of a zip", f"{_AGAIN} If it is one of several parts, unpack them and give the folder."),
        (rb"MATLAB|\x89HDF\r\n\x1a\n", "of MATLAB or HDF5", "Write the images into files, and give their folder."),
        (rb"\x93NUMPY", "an array of NumPy", "Write the images into files, and give their folder."),
        (rb"\xff\xd8\xff|\x89PNG|GIF8|II\*\0|MM\0\*|RIFF.{4}WEBP", "an image", "Give the folder that holds it."),
        (rb"\0\0\x08[\x01-\x04]", "one of MNIST's files (idx)", _ONE),
        (rb"version https://git-lfs", "a pointer of Git LFS", "`git lfs pull` fetches the file itself."),
        (rb"\s*<", "a web page", _PAGE),
        (rb"\s*[{\[]", "JSON", _PAGE),
        (rb"\Z", "empty", _AGAIN),
    )
]


def explain(path: Path) -> str:
    """Says what a file is that is no whole zip, and what to do, as words that follow "... is not a whole zip"."""
    with path.open("rb") as file:
        beginning = file.read(256)
    kind, remedy = next(
        ((kind, remedy) for pattern, kind, remedy in _KINDS if pattern.match(beginning)), _unknown(beginning)
    )
    return f" but {kind}: it has {path.stat().st_size} bytes and begins with {beginning[:16]!r}. {remedy}"


def _unknown(beginning: bytes) -> tuple[str, str]:
    """A table, another text, or neither; the beginning may end within a letter."""
    text = beginning.decode("utf-8-sig", "ignore").replace("\r", "\n").replace("\t", ",")
    if len(text.encode()) < len(beginning) - 8 or not text.replace("\n", "").isprintable():
        return "something unknown", f"{_AGAIN} If it is whole, unpack it and give the folder."
    line = text.split("\n")[0]
    return ("a table (CSV)" if "," in line or ";" in line else "text"), _ONE
