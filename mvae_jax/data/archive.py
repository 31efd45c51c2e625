"""Files of a data set, read from a folder or straight from a zip or a tar, never unpacked into a folder.

A name is the path inside the data set with forward slashes, such as "CelebA-HQ-img/0.jpg", in the one spelling that
`names` describes. A data set may lie in a folder of any name, and that again in one: `locate` finds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from mvae_jax.data import names
from mvae_jax.data.names import leads_outside
from mvae_jax.data.packed import Contents, open_packed
from mvae_jax.files import expanded

# No file of the data sets is larger; a member that claims to be would fill the memory.
MAX_BYTES = 2**28
MAX_TEXT = 2**27  # bytes of a list of images: the largest published one has 26 MB
DEPTH = 3  # folders between what a user names and the data set


class Archive(Protocol):
    """Common interface of a folder, a zip and a tar."""

    @property
    def remark(self) -> str:
        """What is to be said where a file is missing, a sentence; "" for nothing."""

    def where(self, name: str) -> str:
        """Returns how a message names the file."""

    def within(self, folder: str) -> Archive:
        """Returns the part of the archive below `folder`, which need not exist."""

    def above(self) -> Archive:
        """Returns what is one level up; of the top of a zip or a tar that itself."""

    def files(self, folder: str) -> frozenset[str]:
        """Returns the names, without the folder, of the files directly in `folder`."""

    def folders(self) -> frozenset[str]:
        """Returns the names of the folders at the top."""

    def walk(self) -> Iterator[str]:
        """Yields the names of all files, at any depth. Folders within a folder that are links are not followed.

        Raises:
            OSError: a folder cannot be read.
        """

    def has(self, name: str) -> bool:
        """Returns whether there is such a file."""

    def open(self, name: str) -> IO[bytes]:
        """Opens a file, of any size. Safe to call from several threads.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the name leads outside the archive.
        """

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Returns the bytes of a file. Safe to call from several threads.

        Args:
            name: of the file.
            limit: bytes that it may have; None for `MAX_BYTES`.

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
    # Of folders in which a name is spelled in another way than it is asked for: theirs by ours.
    _spellings: dict[Path, dict[str, str]] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    remark = ""

    def where(self, name: str) -> str:  # noqa: D102
        return str(self.path / names.shown(name))

    def within(self, folder: str) -> Folder:  # noqa: D102
        return Folder(self._at(folder), self._spellings)

    def above(self) -> Folder:  # noqa: D102
        return Folder(self.path.resolve().parent)

    def files(self, folder: str) -> frozenset[str]:  # noqa: D102
        return self._listed(self._at(folder), os.DirEntry.is_file)

    def folders(self) -> frozenset[str]:  # noqa: D102
        return self._listed(self.path, os.DirEntry.is_dir)

    def walk(self) -> Iterator[str]:  # noqa: D102
        for folder, _, files in os.walk(self.path, onerror=_refuse):
            for file in files:
                yield names.normal((Path(folder).relative_to(self.path) / file).as_posix())

    def has(self, name: str) -> bool:  # noqa: D102
        return self._at(name).is_file()

    def open(self, name: str) -> IO[bytes]:  # noqa: D102
        if leads_outside(name):
            raise ValueError(f"{name!r} leads outside {self.path}.")
        if not self.has(name):
            raise FileNotFoundError(f"There is no file {self.where(name)}.")
        return self._at(name).open("rb")

    def read(self, name: str, limit: int | None = None) -> bytes:  # noqa: D102
        with self.open(name) as file:
            check_size(self.where(name), os.fstat(file.fileno()).st_size, limit)
            return file.read()

    def fingerprint(self, name: str) -> str:  # noqa: D102
        status = self._at(name).stat()
        return f"{status.st_size} bytes, modified {status.st_mtime_ns}"

    def _at(self, name: str) -> Path:
        """Where a file or a folder is, however its name is spelled."""
        path = self.path / name
        if name.isascii() or path.exists():
            return path
        path = self.path
        for part in name.split("/"):
            if not (path / part).exists():
                if path not in self._spellings:
                    there = os.listdir(path) if path.is_dir() else []
                    self._spellings[path] = {names.normal(spelling): spelling for spelling in there}
                part = self._spellings[path].get(part, part)
            path /= part
        return path

    @staticmethod
    def _listed(path: Path, kind: Callable[[os.DirEntry], bool]) -> frozenset[str]:
        if not path.is_dir():
            return frozenset()
        with os.scandir(path) as entries:
            return frozenset(names.normal(entry.name) for entry in entries if kind(entry))


def _refuse(error: OSError) -> None:
    raise error


@dataclasses.dataclass(frozen=True)
class Packed:
    """A zip or a tar that is open. Fingerprints of a zip do not change when it is copied."""

    path: Path
    contents: Contents
    tree: Mapping[str, tuple[set[str], set[str]]]  # folder -> names of the files and of the folders in it
    prefix: str = ""

    @classmethod
    def of(cls, path: Path, contents: Contents) -> Packed:
        """The whole of an archive."""
        tree: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}

        def entered(folder: str) -> tuple[set[str], set[str]]:
            if folder not in tree:
                above, _, name = folder.rpartition("/")
                entered(above)[1].add(name)
                tree[folder] = (set(), set())
            return tree[folder]

        for name in contents.entries:
            folder, _, file = name.rpartition("/")
            entered(folder)[0].add(file)
        for folder in contents.folders:
            entered(folder)
        return cls(path, contents, tree)

    @property
    def remark(self) -> str:  # noqa: D102
        return self.contents.remark

    def where(self, name: str) -> str:  # noqa: D102
        return f"{self.path}/{names.shown(self.prefix + name)}"

    def within(self, folder: str) -> Packed:  # noqa: D102
        return dataclasses.replace(self, prefix=f"{self.prefix}{folder}/")

    def above(self) -> Packed:  # noqa: D102
        above, slash, _ = self.prefix.removesuffix("/").rpartition("/")
        return dataclasses.replace(self, prefix=above + slash)

    def files(self, folder: str) -> frozenset[str]:  # noqa: D102
        return frozenset(self._listed(folder)[0])

    def folders(self) -> frozenset[str]:  # noqa: D102
        return frozenset(self._listed("")[1])

    def walk(self) -> Iterator[str]:  # noqa: D102
        inside = (name for name in self.contents.entries if name.startswith(self.prefix))
        yield from (name.removeprefix(self.prefix) for name in inside)

    def has(self, name: str) -> bool:  # noqa: D102
        return self.prefix + name in self.contents.entries

    def open(self, name: str) -> IO[bytes]:  # noqa: D102
        if not self.has(name):
            raise FileNotFoundError(f"There is no file {self.where(name)}.")
        return self.contents.entries[self.prefix + name].open()

    def read(self, name: str, limit: int | None = None) -> bytes:  # noqa: D102
        size = self.contents.entries[self.prefix + name].size if self.has(name) else 0
        check_size(self.where(name), size, limit)
        try:
            with self.open(name) as file:
                data = file.read(size + 1)  # no more than it states, for it may be more than fits into memory
                if len(data) != size:
                    raise EOFError(f"it has {len(data)} bytes, expected {size}")
        except FileNotFoundError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
            raise ValueError(f"{self.where(name)} is damaged ({error}): fetch the zip again.") from error
        return data

    def fingerprint(self, name: str) -> str:  # noqa: D102
        return self.contents.entries[self.prefix + name].fingerprint()

    def _listed(self, folder: str) -> tuple[set[str], set[str]]:
        return self.tree.get(f"{self.prefix}{folder}".removesuffix("/"), (set(), set()))


@contextlib.contextmanager
def open_archive(path: str | Path) -> Iterator[Archive]:
    """Opens a folder, a zip or a tar for reading.

    Args:
        path: a folder, a zip, a tar or one that gzip, bzip2 or xz has compressed; "~" is the home folder.

    Yields:
        The archive.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: the file is neither zip nor tar, is damaged or encrypted, or has members that lead outside it or
            are links.
    """
    path = expanded(path)
    if path.is_dir():
        yield Folder(path)
        return
    if not path.is_file():
        raise FileNotFoundError(f"There is no folder or zip {path}: give the path of the data set on this machine.")
    with open_packed(path) as contents:
        yield Packed.of(path, contents)


# --- finding a data set --------------------------------------------------------------------------------------------


def levels(outer: Archive) -> Iterator[list[Archive]]:
    """Yields the archive alone, then the folders in it, then those in these, and so on to `DEPTH`; no hidden ones."""
    level = [outer]
    for depth in range(DEPTH + 1):
        yield level
        if depth < DEPTH:
            level = [
                place.within(name) for place in level for name in sorted(place.folders()) if not names.is_hidden(name)
            ]


def locate(outer: Archive, holds: Callable[[Archive], bool]) -> list[Archive]:
    """Returns the places in an archive that hold a data set: of those at the least depth all, for it may be several.

    Args:
        outer: what the user has named.
        holds: (place) -> whether the data set is in this very folder.
    """
    return next(filter(None, ([place for place in level if holds(place)] for level in levels(outer))), [])


def only(outer: Archive, holds: Callable[[Archive], bool], expected: str) -> Archive:
    """Returns the one place in an archive that holds a data set.

    Args:
        outer: as for `locate`, like the next one.
        holds: the condition.
        expected: what there should be, as words that go on from the path.

    Raises:
        FileNotFoundError: there is none, or several could be meant.
    """
    places = locate(outer, holds)
    if not places:
        raise FileNotFoundError(f"{outer.where('')} {expected}")
    if len(places) > 1:
        raise FileNotFoundError(
            f"{outer.where('')} holds several, {' and '.join(place.where('') for place in places[:2])}"
            f"{' among them' if places[2:] else ''}: give the path of one."
        )
    return places[0]


def one_of(place: Archive, *files: str) -> str | None:
    """Returns the first of several files that is there, or in a folder of its name, where 7-Zip and Kaggle put it."""
    variants = ((file, f"{file}/{file}", f"{file.partition('.')[0]}/{file}") for file in files)
    return next((variant for some in variants for variant in some if place.has(variant)), None)


# --- contents ------------------------------------------------------------------------------------------------------


def check_size(where: str, size: int, limit: int | None = None) -> None:
    """Raises ValueError if a file of `size` bytes is larger than any file of a data set, or than a limit."""
    limit = MAX_BYTES if limit is None else limit
    if size > limit:
        raise ValueError(f"{where} has {size} bytes, expected at most {limit}: it is no file of the data set.")


def read_text(archive: Archive, name: str) -> str:
    """Returns the contents of a text file of a data set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, too large or not UTF-8.
    """
    try:
        return archive.read(name, min(MAX_TEXT, MAX_BYTES)).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} It is a part of the published data set: put it there.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{archive.where(name)} is not UTF-8 text ({error}): save it as UTF-8, in Excel as 'CSV UTF-8', or "
            "fetch the file again."
        ) from error


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

    @classmethod
    def sentences(cls, error: Exception) -> list[str]:
        """All that an error says of a data set: the message of one that is no `DefectError`."""
        return error.problems if isinstance(error, cls) else [str(error)]
