"""Files that change as a whole, and errors of full disks that name the file, what it takes and what is free."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A disk without room, a quota that is used up, and a limit on the size of files (ulimit -f).
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(OSError):  # noqa: N818
    """A file has no room: the message names it, the bytes that it takes and those that are free.

    Args:
        path: file or folder that is written.
        takes: bytes of all that is to be written, at most; 0 if nobody knows.
        reason: what the system says.
    """

    def __init__(self, path: str | os.PathLike[str], takes: int = 0, reason: str = os.strerror(errno.ENOSPC)) -> None:
        free = f"{readable(_usage(path).free)} are free"
        room = f"it takes {readable(takes)}, and {free}" if takes else free
        remedy = "Raise the limit (ulimit -f)" if reason == os.strerror(errno.EFBIG) else "Make room"
        super().__init__(f"{path} cannot be written: {reason} ({room}). {remedy}, and give the command again.")


@contextlib.contextmanager
def written(path: str | os.PathLike[str], takes: int = 0) -> Iterator[None]:
    """Around the writing of a file or folder: where the system has no room for it, the error says so.

    TensorStore and ArrayRecord tell errors of the system as others, in the system's words: these become OSErrors.

    Args:
        path: file or folder that is written.
        takes: bytes of all that is to be written, at most; 0 if nobody knows.

    Raises:
        DiskFull: the system has no room for it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFull(path, takes, os.strerror(error.errno)) from error
    except (ValueError, RuntimeError) as error:
        for number in (*_FULL, errno.EIO, errno.EROFS, errno.EACCES):
            if os.strerror(number) in str(error):
                if number in _FULL:
                    raise DiskFull(path, takes, os.strerror(number)) from error
                raise OSError(number, os.strerror(number), os.fspath(path)) from error
        raise


def check_room(path: str | os.PathLike[str], takes: int) -> None:
    """Refuses to write so many bytes where they have no room, before anything is written.

    Raises:
        DiskFull: there is less room than that.
    """
    usage = _usage(path)
    if usage.total and usage.free < takes:  # some network file systems say nothing of their size
        raise DiskFull(path, takes)


def _usage(path: str | os.PathLike[str]) -> Any:
    """Total, used and free bytes of the disk on which a path is, or would be."""
    return shutil.disk_usage(next(folder for folder in Path(path).absolute().parents if folder.is_dir()))


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path that somebody has typed, with the home folder that a "~" stands for.

    Args:
        path: of a file or folder, which need not exist.

    Raises:
        ValueError: it is empty, has a null byte, or begins with the home of a user whom nobody knows.
    """
    text = os.fsdecode(path)
    if not text or "\0" in text:
        defect = "has a null byte" if text else "is empty"
        raise ValueError(f"the path {text!a} {defect}: give that of a file or folder.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text} leads nowhere ({str(error).rstrip('.')}): choose another path.") from error


def check_output(path: Path, *, folder: bool = False) -> None:
    """Refuses what cannot be written, before there is any work for it; makes nothing.

    Args:
        path: file or folder to write; neither it nor the folders above it need exist.
        folder: it is a folder.

    Raises:
        ValueError: a folder has the name of the file, or a file that of the folder or of one above it; or the user
            may not write there.
    """
    kind, other = ("folder", "file") if folder else ("file", "folder")
    path = path.absolute()
    if path.exists() and path.is_dir() != folder:
        raise ValueError(f"{path} is a {other}, expected a {kind} to write: choose another name.")
    # A file is replaced as a whole: whether its folder may be written decides.
    place = next(place for place in ((path, *path.parents) if folder else path.parents) if os.path.exists(place))
    if not place.is_dir():
        raise ValueError(f"{path} cannot be written, for {place} is no folder: choose another place.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written, for {place} is read-only here: choose another place.")


@contextlib.contextmanager
def noting(note: Callable[[], str]) -> Iterator[None]:
    """Adds to the errors of disks what is safe, whatever has failed."""
    try:
        yield
    except OSError as error:
        error.add_note(note())
        raise


def readable(count: int) -> str:
    """A number of bytes for people: "512 bytes", "1.5 MiB"."""
    size, units = float(count), iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Replaces a file as a whole: after an error, a crash or a power failure it holds the old content or the new.

    Args:
        path: file to write; its folder exists.
        content: bytes, or text to be encoded as UTF-8.

    Raises:
        DiskFull: the system has no room for it.
    """
    path, data = Path(path), content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with written(path, len(data)):
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)  # the new name is durable only once its folder is
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Replaces a folder as a whole: after an error it holds the old files or the new ones.

    The new folder is filled within `.NAME.*.tmp` beside it, and the old one lies there between the two renames. A
    process that is killed just then leaves no folder of the name: the next call puts the old one back first.

    Args:
        path: folder to write, or a link to it; the folders above it are made.

    Yields:
        An empty folder, whose files are forced to disk before it gets the name.

    Raises:
        DiskFull: the system has no room for it.
        ValueError: the folder is a mount point, which cannot be renamed.
    """
    path = Path(path).resolve()
    if os.path.ismount(path):
        raise ValueError(f"{path} is a mount point, which cannot be replaced as a whole: choose a folder within it.")
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        beside = Path(tempfile.mkdtemp(".tmp", f".{path.name}.", path.parent))
        new, old = beside / "new", beside / "old"
        try:
            with _locked(beside / "lock", "xb"):
                new.mkdir()
                yield new
                for entry in [*new.rglob("*"), new]:
                    sync(entry)
                if path.exists():
                    path.rename(old)
                new.rename(path)
                sync(path.parent)
        finally:
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(beside, ignore_errors=True)


def _clear_leftovers(path: Path) -> None:
    """Removes what killed processes have left of their `whole_folder` of a path, and puts back what they had moved."""
    for beside in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), _locked(beside / "lock", "r+b"):  # who has it works on it still
            if (beside / "old").exists() and not path.exists():
                (beside / "old").rename(path)
            shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, mode: str) -> Iterator[None]:
    """Holds the kernel's lock of a file, which ends with the process.

    Raises:
        OSError: another process has it, or the file cannot be opened so.
    """
    with path.open(mode) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def sync(folder: Path) -> None:
    """Forces the names in a folder, or the content of a file, to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
