"""Files of a data set, read from a folder or straight from a zip, never unpacked.

A name is the path inside the data set with forward slashes, such as "CelebA-HQ-img/0.jpg".
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

# No file of the data sets is larger; a member that claims to be would fill the memory.
MAX_BYTES = 2**28


class Archive(Protocol):
    """Common interface of a folder and a zip."""

    def where(self, name: str) -> str:
        """Returns how a message names the file."""

    def within(self, folder: str) -> Archive:
        """Returns the part of the archive below `folder`, which need not exist."""

    def files(self, folder: str) -> frozenset[str]:
        """Returns the names, without the folder, of the files directly in `folder`."""

    def folders(self) -> frozenset[str]:
        """Returns the names of the folders at the top."""

    def has(self, name: str) -> bool:
        """Returns whether there is such a file."""

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file. Safe to call from several threads.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or too large, or its name leads outside the archive.
        """

    def fingerprint(self, name: str) -> str:
        """Returns text that changes when the file does, without reading it."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """An archive that has been unpacked. Fingerprints are size and time of modification."""

    path: Path

    def where(self, name: str) -> str:  # noqa: D102
        return str(self.path / name)

    def within(self, folder: str) -> Folder:  # noqa: D102
        return Folder(self.path / folder)

    def files(self, folder: str) -> frozenset[str]:  # noqa: D102
        if not (self.path / folder).is_dir():
            return frozenset()
        with os.scandir(self.path / folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())

    def folders(self) -> frozenset[str]:  # noqa: D102
        if not self.path.is_dir():
            return frozenset()
        with os.scandir(self.path) as entries:
            return frozenset(entry.name for entry in entries if entry.is_dir())

    def has(self, name: str) -> bool:  # noqa: D102
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes:  # noqa: D102
        if leads_outside(name):
            raise ValueError(f"{name!r} leads outside {self.path}.")
        if not self.has(name):
            raise FileNotFoundError(f"There is no file {self.where(name)}.")
        check_size(self.where(name), (self.path / name).stat().st_size)
        return (self.path / name).read_bytes()

    def fingerprint(self, name: str) -> str:  # noqa: D102
        status = (self.path / name).stat()
        return f"{status.st_size} bytes, modified {status.st_mtime_ns}"


@dataclasses.dataclass(frozen=True)
class Zip:
    """A zip that is open. Fingerprints are size and CRC-32, so they do not change when the zip is copied."""

    path: Path
    file: zipfile.ZipFile
    prefix: str = ""

    def where(self, name: str) -> str:  # noqa: D102
        return f"{self.path}/{self.prefix}{name}"

    def within(self, folder: str) -> Zip:  # noqa: D102
        return dataclasses.replace(self, prefix=f"{self.prefix}{folder}/")

    def files(self, folder: str) -> frozenset[str]:  # noqa: D102
        start = f"{self.prefix}{folder}/" if folder else self.prefix
        below = (name.removeprefix(start) for name in self.file.namelist() if name.startswith(start))
        return frozenset(name for name in below if name and "/" not in name)

    def folders(self) -> frozenset[str]:  # noqa: D102
        below = (name.removeprefix(self.prefix) for name in self.file.namelist() if name.startswith(self.prefix))
        return frozenset(name.split("/")[0] for name in below if "/" in name)

    def has(self, name: str) -> bool:  # noqa: D102
        return self.prefix + name in self.file.NameToInfo

    def read(self, name: str) -> bytes:  # noqa: D102
        try:
            member = self.file.getinfo(self.prefix + name)
        except KeyError:
            raise FileNotFoundError(f"There is no file {self.where(name)}.") from None
        check_size(self.where(name), member.file_size)
        try:
            return self.file.read(member)  # compares the CRC-32
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise ValueError(f"{self.where(name)} is damaged ({error}): fetch the zip again.") from error

    def fingerprint(self, name: str) -> str:  # noqa: D102
        member = self.file.getinfo(self.prefix + name)
        return f"{member.file_size} bytes, CRC-32 {member.CRC:08x}"


@contextlib.contextmanager
def open_archive(path: str | Path) -> Iterator[Archive]:
    """Opens a folder or a zip for reading.

    Args:
        path: a folder or a zip; "~" is the home folder.

    Yields:
        The archive.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: the file is no zip, is damaged or encrypted, or has members that lead outside it.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        yield Folder(path)
        return
    if not path.is_file():
        raise FileNotFoundError(f"There is no folder or zip {path}: give the path of the data set on this machine.")
    with _open_zip(path) as file:
        yield Zip(path, file)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        with path.open("rb") as stream:
            beginning = stream.read(16)
        raise ValueError(
            f"{path} is not a whole zip ({error}): it has {path.stat().st_size} bytes and begins with "
            f"{beginning!r}. A refused download leaves a web page, a broken one a part of the file: fetch it again."
        ) from error
    problem = next(filter(None, map(_problem, file.infolist())), None)
    if problem:
        file.close()
        raise ValueError(f"{path}: {problem}.")
    return file


def _problem(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & 1:
        return f"{member.filename!r} is encrypted: unpack the zip with its password and give the folder"
    if leads_outside(member.filename):
        return f"{member.filename!r} leads outside the zip, as in no published data set: fetch another copy"
    return None


def leads_outside(name: str) -> bool:
    """Returns whether a name leads, or on some system could lead, outside its archive."""
    return name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/")


def check_size(where: str, size: int) -> None:
    """Raises ValueError if a file of `size` bytes is larger than any file of a data set."""
    if size > MAX_BYTES:
        raise ValueError(f"{where} has {size} bytes, expected at most {MAX_BYTES}: it is no file of the data set.")


def read_text(archive: Archive, name: str) -> str:
    """Returns the contents of a text file of a data set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    try:
        return archive.read(name).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} It is a part of the published data set: put it there.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{archive.where(name)} is no text ({error}): fetch the file again.") from error


def checksum(*inputs: Any) -> str:
    """Returns a checksum, hexadecimal, of values that JSON can hold."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class DefectError(ValueError):
    """Everything that is wrong with a text file of a data set; the message names the first.

    Attributes:
        problems: at least one sentence.
    """

    def __init__(self, problems: list[str]) -> None:
        more = f" ({len(problems) - 1} more: `mvae-jax data verify` lists them.)" if problems[1:] else ""
        super().__init__(problems[0] + more)
        self.problems = problems
