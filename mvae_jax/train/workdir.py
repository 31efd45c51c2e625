"""The folder of one run: one process at a time, one configuration, and a mark when everything is done."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mvae_jax.files import atomic_write, sync, written
from mvae_jax.train import config_file


class WorkdirBusy(RuntimeError):  # noqa: N818
    """Another process trains in this workdir."""


def resolved(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a workdir; refuses one that cannot be a folder to write into, and makes nothing.

    Raises:
        ValueError: the path or a part of it is a file, or may not be written, or `folder_of` refuses it.
    """
    folder = folder_of(path)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir():
        raise ValueError(f"the workdir {folder} cannot be a folder: {there} is a file. Choose another workdir.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"the workdir {folder} cannot be written: {there} is read-only here. Choose another workdir.")
    return folder


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Absolute path of a run's folder, which need not exist.

    Raises:
        ValueError: the path is not UTF-8, which checkpoints and JSON need, or no path at all.
    """
    try:
        folder = Path(path).expanduser().resolve()
        str(folder).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{os.fspath(path)!a} is not UTF-8; expected a folder whose name is: rename it.") from None
    except RuntimeError as error:  # "~somebody" whom nobody knows; links that lead to each other
        raise ValueError(f"the workdir {os.fspath(path)} leads nowhere ({error}): choose another one.") from error
    return folder


def set_aside(path: Path, *, copy: bool = False) -> Path:
    """Renames what is damaged, so that nobody reads it and nothing is lost; or copies it. Returns the new path."""
    names = (path.with_name(f"{path.name}.damaged{number}") for number in ("", *(f"-{n}" for n in range(2, 10**6))))
    kept = next(name for name in names if not name.exists())
    if copy:
        shutil.copy2(path, kept)
    else:
        path.rename(kept)
    sync(path.parent)
    return kept


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested settings: {"a": {"b": 1}} becomes {"a.b": 1}. An empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= dotted(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


class Workdir:
    """Lock, configuration and finish mark of a run's folder.

    Of several processes that train one run, only the first locks and writes.

    Attributes:
        path: the folder, absolute; it is made if it does not exist.

    Raises:
        ValueError: there can be no such folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = resolved(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"the workdir {self.path} cannot be made: {error.strerror}. Choose another one."
            ) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes out for as long as the context, or this process, lives.

        The kernel holds the lock, so a process that is killed leaves none behind. The file `lock` stays, and tells
        who holds it.

        Raises:
            WorkdirBusy: another process holds the lock; the message names its pid and host.
        """
        if jax.process_index() != 0:
            yield
            return
        path = self.path / "lock"
        with path.open("ab+", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().decode().strip() or "a process that has just started"
                raise WorkdirBusy(
                    f"{self.path} is in use by {holder}. Wait for it, stop it, or choose another workdir."
                ) from None
            file.truncate(0)
            note = f"pid {os.getpid()} on host {socket.gethostname()} since {_now()}\n".encode()
            with written(path, len(note)):
                file.write(note)
            try:
                yield
            finally:
                file.truncate(0)

    def configure(
        self,
        config: Mapping[str, Any],
        *,
        may_change: Collection[str] = (),
        epochs: Sequence[str] = (),
        extend: bool = False,
    ) -> None:
        """Writes `config.json`, or checks that a resumed run has the settings that it started with.

        The file also has the run's id and a sum, see `config_file`.

        Args:
            config: settings of the run: nested mappings of what JSON can hold.
            may_change: dotted names of fields, or of groups of fields, that may differ from one start to the
                next ("log_every", "settings"). The file then holds their latest values.
            epochs: dotted names of the lengths of the run's phases, in their order; a phase of length 0 is none.
            extend: the last phase may have become longer, and phases may follow it. The run is then no longer
                finished. It ends as if it had been so long from the start, unless a phase depends on its length, as
                by a learning rate that is a schedule over its steps.

        Raises:
            ValueError: a field differs that may not change; the message lists each of them with both values. Or the
                file was changed since it was written.
        """
        if jax.process_index() != 0:
            return
        path, run = self.path / config_file.NAME, ""
        text = json.dumps(config, allow_nan=False)
        if path.exists():
            settings, run = config_file.read(path)
            before, now = dotted(settings), dotted(json.loads(text))
            if before.get("format", 1) != now.get("format", 1):
                raise ValueError(
                    f"{self.path} holds a run that another version began (format {before.get('format', 1)} of its "
                    f"config.json, this version writes {now.get('format', 1)}): end it with that version, or start a "
                    "run in another workdir from it (start_from)."
                )
            differing = [
                name
                for name in sorted(before.keys() | now.keys())
                if _show(before, name) != _show(now, name) and not _covers(may_change, name)
            ]
            longer = [name for name in differing if name in epochs and now.get(name, 0) > before.get(name, 0)]
            moving = [name for name in longer if any(before.get(later) for later in epochs[epochs.index(name) + 1 :])]
            growing = [name for name in longer if name not in moving]
            refused = [name for name in differing if not (extend and name in growing)]
            if refused:
                remedy = "Continue it with the settings it started with, or choose another workdir."
                if moving:
                    remedy += (
                        f" More of {', '.join(moving)} would move the phases after it: to train on, start from this "
                        "run (start_from) in another workdir."
                    )
                elif refused == growing:
                    remedy += " To go on with the longer phase, add --extend."
                raise ValueError(
                    f"{self.path} holds a run with other settings:\n"
                    + "".join(f"  {name}: {_show(before, name)} before, {_show(now, name)} now\n" for name in refused)
                    + remedy
                )
            if growing:  # the mark first: killed in between, the run is as it was, but may go on
                self._finished.unlink(missing_ok=True)
                sync(self.path)
        atomic_write(path, config_file.sealed(config, run))

    def finish(self, **results: Any) -> None:
        """Marks the run as finished. Call it last, when all its other files are closed.

        Args:
            **results: what JSON can hold, kept in `finished.json` beside the time.
        """
        if jax.process_index() == 0:
            atomic_write(self._finished, json.dumps({"finished": _now(), **results}, indent=2) + "\n")

    @property
    def is_finished(self) -> bool:
        """True once `finish` was called, by this process or an earlier one."""
        return self._finished.exists()

    @property
    def _finished(self) -> Path:
        return self.path / "finished.json"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _show(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name]) if name in fields else "absent"


def _covers(groups: Collection[str], name: str) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)
