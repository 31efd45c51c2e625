"""Files that change as a whole, and errors of full disks that name the file, what it takes and what is free."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
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
    """Replaces a folder as a whole: after an error or a crash it holds the old files or the new ones.

    Between its two renames the old folder has the name `.NAME.PID.old`, and comes back after an error.

    Args:
        path: folder to write; the folders above it are made.

    Yields:
        An empty folder beside it, whose files are forced to disk before it gets the name.

    Raises:
        DiskFull: the system has no room for it.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{suffix}") for suffix in ("tmp", "old"))
    try:
        with written(path):
            temporary.mkdir()
            yield temporary
            for entry in [*temporary.rglob("*"), temporary]:
                sync(entry)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync(folder: Path) -> None:
    """Forces the names in a folder, or the content of a file, to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
