"""Files in a zip or a tar, read where they lie: never unpacked into a folder.

A tar that is compressed cannot be read at random, so it is unpacked as a whole into a temporary file, which vanishes.

Whoever has packed it may be mistaken or hostile. Refused are members that are encrypted, that lead outside, that are
links or devices, two of one name, more than `MAX_FILES`, sizes that are not true, and tars that unpack to much more
than they are.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import logging
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, Protocol

from mvae_jax.data import names, signatures

_logger = logging.getLogger(__name__)

MAX_FILES = 2**22  # the largest published data set of images in one archive has 3,033,042
MAX_RATIO, MAX_SMALL = 100, 2**28  # a tar may unpack to so many times its size; a small one, to so many bytes

_BLOCK, _HEADER = 512, 2**20  # bytes: of a tar, and of the largest header of a member that is not hostile
_PIECE = 2**20  # bytes that are unpacked at a time
_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    signatures.GZIP: lambda file: gzip.GzipFile(fileobj=file),
    signatures.BZIP2: bz2.BZ2File,
    signatures.XZ: lzma.LZMAFile,
}


class Entry(Protocol):
    """A file in an archive."""

    @property
    def size(self) -> int:
        """Bytes, as the archive states them."""

    def fingerprint(self) -> str:
        """Text that changes when the file does."""

    def open(self) -> IO[bytes]:
        """Opens it for reading from its beginning; may be done in several threads."""


class Contents(NamedTuple):
    """What is in an archive.

    Attributes:
        entries: its files by their names.
        folders: names of the folders that it states, which may be empty.
        remark: a sentence for messages about a file that is missing; "" for none.
    """

    entries: dict[str, Entry]
    folders: set[str]
    remark: str = ""


@contextlib.contextmanager
def open_packed(path: Path) -> Iterator[Contents]:
    """Opens a zip, a tar, or a tar that gzip, bzip2 or xz has compressed.

    Raises:
        ValueError: the file is neither, or damaged, encrypted or hostile; names what it is, and the remedy.
        OSError: it cannot be read, or there is no room for the temporary file.
    """
    with path.open("rb") as file, contextlib.ExitStack() as stack:
        opener = next((opener for start, opener in _OPENERS.items() if file.peek(8).startswith(start)), None)
        if _begins_as_tar(file, opener):
            yield _tar(path, stack.enter_context(_unpacked(path, file, opener)) if opener else file)
        else:
            yield _zip(path, stack)


# --- zip -----------------------------------------------------------------------------------------------------------


class _Zipped:
    """A member of a zip; its fingerprint stays the same when the zip is copied."""

    __slots__ = ("_file", "_member")

    def __init__(self, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self._file, self._member = file, member

    @property
    def size(self) -> int:
        return self._member.file_size

    def fingerprint(self) -> str:
        return f"{self._member.file_size} bytes, CRC-32 {self._member.CRC:08x}"

    def open(self) -> IO[bytes]:
        return self._file.open(self._member)  # compares the CRC-32 at the end


def _zip(path: Path, stack: contextlib.ExitStack) -> Contents:
    try:
        file = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is not a whole zip ({error}){signatures.explain(path)}") from error
    members = file.infolist()
    spelled, unstated, encoding = names.in_zip(members)
    for member in members:
        if member.volume or member.header_offset < 0:
            raise ValueError(f"{path} is the last part of a zip in several: unpack them and give the folder.")
        if member.flag_bits & 1:
            raise ValueError(
                f"{path}: {member.filename!r} is encrypted: unpack the zip with its password and give the folder."
            )
        # Of others zipfile unpacks any amount at once.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = zipfile.compressor_names.get(member.compress_type, member.compress_type)  # type: ignore[attr-defined]
            raise ValueError(
                f"{path}: {member.filename!r} is compressed by {method!r}, expected 'deflate': unpack the zip and give "
                "the folder."
            )
    remark = (
        f"{unstated} names in {path} do not state their encoding, and are read as {encoding}. If that is wrong, "
        f"`python -m zipfile --metadata-encoding ENCODING -e {path.name} FOLDER` unpacks it, with an ENCODING such as "
        "shift_jis or gbk: give the folder."
    )
    pairs = ((name, _Zipped(file, member)) for name, member in zip(spelled, members, strict=True))
    return _contents(path, pairs, remark if unstated else "")


# --- tar -----------------------------------------------------------------------------------------------------------


class _Tarred:
    """A member of a tar; its fingerprint is that of the tar besides, for there are no checksums."""

    __slots__ = ("_descriptor", "_offset", "_size", "_stamp")

    def __init__(self, descriptor: int, offset: int, size: int, stamp: int) -> None:
        self._descriptor, self._offset, self._size, self._stamp = descriptor, offset, size, stamp

    @property
    def size(self) -> int:
        return self._size

    def fingerprint(self) -> str:
        return f"{self._size} bytes, of a tar modified {self._stamp}"

    def open(self) -> IO[bytes]:
        return io.BytesIO(os.pread(self._descriptor, self._size, self._offset))


class _Headers(io.RawIOBase):
    """The bytes of a tar for `tarfile`, which is to read headers alone: a longer piece is a hostile one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER:
            raise ValueError(f"a header has {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _begins_as_tar(file: io.BufferedReader, opener: Callable[[BinaryIO], Any] | None) -> bool:
    """Whether a file, unpacked if need be, begins with the header of a tar; leaves the file at its beginning."""
    try:
        with contextlib.nullcontext(file) if opener is None else opener(file) as stream:
            block = stream.read(_BLOCK)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return False
    finally:
        file.seek(0)
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _unpacked(path: Path, file: BinaryIO, opener: Callable[[BinaryIO], Any]) -> Iterator[IO[bytes]]:
    """A temporary file with what a compressed file holds."""
    packed = path.stat().st_size
    limit, size = max(MAX_SMALL, MAX_RATIO * packed), 0
    _logger.info("Unpacking %s into a temporary file; a folder or a zip is read where it is.", path)
    with tempfile.TemporaryFile() as temporary, opener(file) as stream:
        while piece := _damaged(path, lambda: stream.read(_PIECE)):
            size += len(piece)
            if size > limit:
                raise ValueError(
                    f"{path} has {packed} bytes and unpacks to more than {limit}, as no data set of images does: fetch "
                    "another copy."
                )
            try:
                temporary.write(piece)
            except OSError as error:
                raise OSError(
                    f"{path} cannot be unpacked into {tempfile.gettempdir()} ({error}): name a folder with more room "
                    "as TMPDIR, or unpack it and give the folder."
                ) from error
        temporary.seek(0)
        yield temporary


def _damaged(path: Path, read: Callable[[], Any]) -> Any:
    """What a function returns; whatever a damaged file provokes, the reader learns which file it is."""
    try:
        return read()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of what is on it
            raise
        raise ValueError(f"{path} is damaged ({error}): fetch it again.") from error


def _tar(path: Path, file: IO[bytes]) -> Contents:
    descriptor, stamp = file.fileno(), path.stat().st_mtime_ns
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    archive = _damaged(path, lambda: tarfile.TarFile(fileobj=_Headers(file)))
    pairs, before = [], -1
    while (member := _damaged(path, archive.next)) is not None:
        archive.members.clear()  # or it would keep them all
        name = member.name + "/" * member.isdir()
        if not (member.isdir() or member.isreg()) or member.issparse():
            kind = "a link" if member.islnk() or member.issym() else "neither a file nor a folder"
            raise ValueError(f"{path}: {member.name!r} is {kind}: unpack the tar and give the folder.")
        size = 0 if member.isdir() else member.size
        if size < 0 or archive.offset <= before or member.offset_data + size > end:
            raise ValueError(f"{path} is damaged (it ends within {member.name!r}): fetch it again.")
        before = archive.offset
        pairs.append((name, _Tarred(descriptor, member.offset_data, size, stamp)))
        if len(pairs) > MAX_FILES:
            break  # `_contents` says so
    # Anything but zeros there is a header that tarfile has not understood, and takes for the end.
    if len(pairs) <= MAX_FILES and os.pread(descriptor, _BLOCK, archive.offset) != bytes(_BLOCK):
        raise ValueError(f"{path} is damaged (it has no end after {len(pairs)} files): fetch it again.")
    return _contents(path, pairs, "")


# --- both ----------------------------------------------------------------------------------------------------------


def _contents(path: Path, pairs: Iterable[tuple[str, Entry]], remark: str) -> Contents:
    """Sorts out the names, of which those of folders end with a slash."""
    contents, spellings = Contents({}, set(), remark), dict[str, str]()
    for spelling, entry in pairs:
        if names.leads_outside(spelling):
            raise ValueError(
                f"{path}: {spelling!r} leads outside the {'tar' if isinstance(entry, _Tarred) else 'zip'}, as in no "
                "published data set: fetch another copy."
            )
        name = names.normal(spelling)
        if spelling.endswith("/"):
            contents.folders.add(name)
            continue
        # The very same name once more is a newer version, as in a zip or a tar that was added to.
        if name in contents.entries and spellings.get(name, name) != spelling:
            raise ValueError(
                f"{path} has two files of one name, {spellings.get(name, name)!r} and {spelling!r}: unpack it and give "
                "the folder."
            )
        if spelling != name:
            spellings[name] = spelling
        contents.entries[name] = entry
        if len(contents.entries) > MAX_FILES:
            raise ValueError(f"{path} has more than {MAX_FILES} files: unpack what you need of it and give the folder.")
    return contents
