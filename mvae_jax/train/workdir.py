"""The folder of one run: one process at a time, one configuration, and a mark when everything is done."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mvae_jax import fields
from mvae_jax.files import atomic_write, check_output, expanded, sync, written
from mvae_jax.train import config_file

_log = logging.getLogger(__name__)
_MOST_FLAGS = 8  # in one message; whoever differs in more has forgotten a preset
PROVENANCE = "provenance"  # entry of config.json that tells of the starts of a run, and is no setting


class WorkdirBusy(RuntimeError):  # noqa: N818
    """Another process trains in this workdir."""


def resolved(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a workdir; refuses one that cannot be a folder to write into, and makes nothing.

    Raises:
        ValueError: the path or a part of it is a file, or may not be written, or `folder_of` refuses it.
    """
    folder = folder_of(path)
    check_output(folder, folder=True)
    return folder


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Absolute path of a run's folder, which need not exist.

    Raises:
        ValueError: the path is not UTF-8, which checkpoints and JSON need, or no path at all.
    """
    try:
        folder = expanded(path).resolve()
        str(folder).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{os.fspath(path)!a} is not UTF-8; expected a folder whose name is: rename it.") from None
    except RuntimeError as error:  # links that lead to each other
        raise ValueError(f"{os.fspath(path)} leads nowhere ({str(error).rstrip('.')}): choose another path.") from error
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


def check_format(path: Path, settings: Mapping[str, Any], latest: int) -> int:
    """The format of a config.json; files without a number are of the first.

    Args:
        path: of the file, for the message.
        settings: its content.
        latest: the format that this version writes.

    Raises:
        ValueError: a later version wrote the file, or the format is no number.
    """
    found = settings.get("format", 1)
    if type(found) is not int or found < 1:
        raise ValueError(f"{path} has format {json.dumps(found)}; expected 1 to {latest}: restore the file.")
    if found > latest:
        raise ValueError(f"{path} has format {found}; this version reads up to {latest}: install a later one.")
    return found


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
        ValueError: there can be no such folder, or it is an exported model.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = resolved(path)
        config_file.refuse_export(self.path)
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
        configs: Mapping[str, Any] | None = None,
        may_change: Collection[str] = (),
        epochs: Sequence[str] = (),
        extend: bool = False,
        ignore_removed: bool = False,
        flag: Callable[[str, Any], str] = lambda name, value: "",
        check: Callable[[], None] = lambda: None,
        write: bool = True,
    ) -> None:
        """Writes `config.json`, or checks that a resumed run has the settings that it started with.

        The file also has the run's id and a sum, see `config_file`. An earlier version may have begun the run: a field
        that it did not have counts as `fields.as_now` says, and the file then has it.

        Args:
            config: settings of the run: nested mappings of what JSON can hold.
            configs: dotted name -> the Config, a dataclass, of which `config` has the fields there.
            may_change: dotted names of fields, or of groups of fields, that may differ from one start to the
                next ("log_every", "settings"). The file then holds their latest values.
            epochs: dotted names of the lengths of the run's phases, in their order; a phase of length 0 is none.
            extend: the last phase may have become longer, and phases may follow it. The run is then no longer
                finished. It ends as if it had been so long from the start, unless a phase depends on its length, as
                by a learning rate that is a schedule over its steps.
            ignore_removed: pass over, with a warning, fields of the file that the Configs do not have.
            flag: (dotted name, value) -> the argument of the command line that sets a field so; "" if none does.
            check: refuses, by raising, a run that has these settings; called before anything is written.
            write: False only checks, in any process, also while another one trains; it writes neither file nor log.

        Raises:
            ValueError: a field differs that may not change; the message lists each of them with both values. Or the
                file was changed since it was written, has fields that this version does not have, or another format.
        """
        if write and jax.process_index() != 0:
            return
        path, run, notes, growing = self.path / config_file.NAME, "", list[str](), False
        text = json.dumps(config, allow_nan=False)
        if path.exists():
            recorded, run = config_file.read(path)
            latest = config.get("format", 1)
            found = check_format(path, recorded, latest)
            if found != latest:
                raise ValueError(
                    f"{self.path} holds a run that another version began (format {found} of its config.json, this "
                    f"version writes {latest}): end it with that version, or start a run in another workdir from it "
                    "(start_from)."
                )
            before, notes = _as_now(recorded, configs or {}, path, ignore_removed=ignore_removed, warn=write)
            unsaid = dotted(before).keys() - dotted(recorded)
            free = (PROVENANCE, *may_change)
            difference = _Difference(dotted(before), dotted(json.loads(text)), unsaid, free, epochs, extend)
            if difference.refused:
                raise ValueError(f"{self.path} holds a run with other settings:\n{difference.describe(flag)}")
            growing = bool(difference.growing)
        check()
        if not write:
            return
        if growing:  # the mark first: killed in between, the run is as it was, but may go on
            self._finished.unlink(missing_ok=True)
            sync(self.path)
        for note in () if self.is_finished else notes:
            _log.warning("%s goes on, but not to the bits of the version that began it: %s", self.path, note)
        atomic_write(path, config_file.sealed(config, run))

    def finish(self, **results: Any) -> None:
        """Marks the run as finished. Call it last, when all its other files are closed.

        Args:
            **results: what JSON can hold, kept in `finished.json` beside the time.
        """
        if jax.process_index() == 0:
            atomic_write(self._finished, json.dumps({"finished": _now(), **results}, indent=2) + "\n")

    @property
    def entries(self) -> frozenset[str]:
        """Names of the entries of `config.json`; none where it is not there or damaged, which `configure` tells."""
        try:
            return frozenset(config_file.read(self.path / config_file.NAME)[0])
        except (OSError, config_file.DamagedRun):
            return frozenset()

    @property
    def is_finished(self) -> bool:
        """True once `finish` was called, by this process or an earlier one."""
        return self._finished.exists()

    @property
    def _finished(self) -> Path:
        return self.path / "finished.json"


class _Difference:
    """What differs between the settings of a run and those that are asked for.

    Args:
        before: dotted names and values of the run.
        now: of what is asked for.
        unsaid: names of which config.json does not tell the value before.
        may_change: see `Workdir.configure`, like the next ones.
        epochs: likewise.
        extend: likewise.

    Attributes:
        growing: names of lengths that are greater, without an effect on the phases before.
        refused: names that differ and may not.
    """

    def __init__(
        self,
        before: Mapping[str, Any],
        now: Mapping[str, Any],
        unsaid: Collection[str],
        may_change: Collection[str],
        epochs: Sequence[str],
        extend: bool,
    ) -> None:
        self._before, self._now, self._unsaid = before, now, unsaid
        differing = [
            name
            for name in sorted(before.keys() | now.keys())
            if _show(before, name) != _show(now, name) and not _covers(may_change, name)
        ]
        self._longer = [name for name in differing if name in epochs and _length(now, name) > _length(before, name)]
        self._moving = [
            name for name in self._longer if any(before.get(later) for later in epochs[epochs.index(name) + 1 :])
        ]
        self.growing = [name for name in self._longer if name not in self._moving]
        self.refused = [name for name in differing if not (extend and name in self.growing)]

    def describe(self, flag: Callable[[str, Any], str]) -> str:
        """Lines for what is refused, and the remedy; `flag` as of `Workdir.configure`."""
        lines = [
            f"  {name}: {_show(self._before, name)} before"
            + " (which config.json does not say)" * (name in self._unsaid)
            + f", {_show(self._now, name)} now"
            for name in self.refused
        ]
        known = self._before.keys() & self._now
        arguments = [flag(name, self._before[name]) if name in known else "" for name in self.refused]
        named = all(arguments) and not self._longer and len(arguments) <= _MOST_FLAGS
        how = f" ({' '.join(arguments)})" if named else ""
        remedy = f"Continue it with the settings it started with{how}, or choose another workdir."
        if self._moving:
            remedy += (
                f" More of {', '.join(self._moving)} would move the phases after it: to train on, start from this "
                "run (start_from) in another workdir."
            )
        elif self.refused == self.growing:
            remedy += " To go on with the longer phase, add --extend."
        return "\n".join([*lines, remedy])


def _as_now(
    recorded: Mapping[str, Any], configs: Mapping[str, Any], path: Path, **options: bool
) -> tuple[dict[str, Any], list[str]]:
    """Content of an earlier version's config.json as this one would have written it, and what cannot be as it was."""
    completed, notes = dict(recorded), []
    for name, config in configs.items():

        def translated(values: Any, name: str = name, config: Any = config) -> dict[str, Any]:
            now = fields.as_now(config, values, file=path, name=name, **options)
            notes.extend(fields.unlike(config, values))
            return now

        completed = _replaced(completed, name.split("."), translated)
    return completed, notes


def _replaced(settings: Any, names: Sequence[str], function: Callable[[Any], Any]) -> Any:
    """A copy of nested mappings with another value at a place, if there is one."""
    name, *inner = names
    if not isinstance(settings, Mapping) or name not in settings:
        return settings
    value = settings[name]
    return {**settings, name: _replaced(value, inner, function) if inner else function(value)}


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _show(fields: Mapping[str, Any], name: str) -> str:
    # Of items of a tuple the file has its own order of names.
    return json.dumps(fields[name], sort_keys=True) if name in fields else "absent"


def _length(settings: Mapping[str, Any], name: str) -> int:
    length = settings.get(name, 0)
    return length if isinstance(length, int) else 0  # of a file that somebody has edited


def _covers(groups: Collection[str], name: str) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)
