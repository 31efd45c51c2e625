"""Fields of nested frozen dataclasses, such as Configs: names, values, meanings, and what earlier versions had of them.

A field that comes when runs exist already counts, in these, as its default. Where they did something else, its metadata
say what: `dataclasses.field(default=1e-8, metadata={"before": 1e-5})`. `as_now` reads such runs.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import inspect
import itertools
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_log = logging.getLogger(__name__)
# Names that fields of experiments had before, none of an item of a tuple; config.json of older runs and old commands
# have them.
RENAMED = {"judge": "classifier", "evaluation.judge_epochs": "classifier.epochs"}


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted name and value of each field that is no dataclass itself, and no constant, as a kind of data is."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not field.init:
            continue
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def meanings(config_class: type) -> dict[str, str]:
    """Reads the Attributes sections of a dataclass's docstring and of those that it inherits: {field: meaning}."""
    if sys.flags.optimize > 1:
        return collections.defaultdict(lambda: "(python -OO and PYTHONOPTIMIZE=2 leave out what a field means)")
    entries: dict[str, str] = {}
    for base in config_class.__bases__:
        entries |= meanings(base)
    # From Python 3.13 on the compiler takes the indentation away, which `cleandoc` does everywhere.
    section = inspect.cleandoc(config_class.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
    for line in section.splitlines():
        start = re.match(r" {4}(\w+): (.*)", line)
        if start:
            name = start[1]
            entries[name] = start[2]
        elif line.startswith(" " * 8) and entries:
            entries[name] += f" {line.strip()}"
        elif line.strip():
            break
    return entries


def renamed(name: str) -> str:
    """The name that a field, or a group of fields, has in this version; both dotted."""
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def as_now(
    config: Any, recorded: Any, *, file: object, name: str, ignore_removed: bool = False, warn: bool = True
) -> dict[str, Any]:
    """Settings that an earlier version recorded, as this one would have recorded them.

    Fields have the names of this version. Those that came later have the values that counted before. What is recorded
    of another kind of data than the config's is left as it is.

    Args:
        config: tells which fields there are; its values do not matter.
        recorded: nested mappings of what JSON holds, by the names of fields.
        file: which they are in, for messages.
        name: of all of them there, dotted, such as "config.model".
        ignore_removed: pass over what this version does not have.
        warn: say so in the log.

    Raises:
        ValueError: `recorded` is no mapping, or has fields that this version does not have; the message lists them with
            their values.
    """
    if not isinstance(recorded, Mapping):
        raise ValueError(f"{file} has {name} = {json.dumps(recorded)[:80]}; expected settings by name: restore it.")
    values = _with_new_names(config, recorded)
    removed = dict(_removed(config, values, f"{name}."))
    if removed:
        what = ", ".join(f"{field} = {json.dumps(value)}" for field, value in removed.items())
        if not ignore_removed:
            raise ValueError(
                f"{file} has {what}, which this version does not have: go on with the version that began the run, or "
                "without by --ignore-removed (from Python by ignore_removed=True)."
            )
        if warn:
            _log.warning("%s has %s, which this version does not have: passed over.", file, what)
    return _completed(config, values)


def unlike(config: Any, recorded: Mapping[str, Any]) -> list[str]:
    """What has changed beside fields that came later, and cannot be set: "unlike" of their metadata.

    Args:
        config: as for `as_now`.
        recorded: likewise.
    """
    found = []
    for field in dataclasses.fields(config):
        current, old = getattr(config, field.name), recorded.get(field.name)
        if field.name not in recorded and "unlike" in field.metadata:
            found.append(str(field.metadata["unlike"]))
        elif dataclasses.is_dataclass(current) and isinstance(old, Mapping):
            found += unlike(current, old)
        else:
            found += itertools.chain(*(unlike(kind, item) for kind, item in _items(current, old)))
    return found


def _with_new_names(config: Any, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which fields have the names of this version; what has its new name already stays."""
    values = copy.deepcopy(dict(recorded))
    for old, new in RENAMED.items():
        if hasattr(config, new.split(".")[0]):
            _move(values, old.split("."), new.split("."))
    return values


def _move(values: dict[str, Any], old: Sequence[str], new: Sequence[str]) -> None:
    """Moves an entry of nested dicts to its new name, unless there is one."""
    source = values if len(old) == 1 else values.get(old[0])
    if isinstance(source, dict) and old[-1] in source:
        target = values if len(new) == 1 else values.setdefault(new[0], {})
        if isinstance(target, dict) and new[-1] not in target:
            target[new[-1]] = source.pop(old[-1])


def _removed(config: Any, values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of what is no field of the config."""
    if _is_of_another_kind(config, values):
        return
    known = {field.name for field in dataclasses.fields(config)}
    for name, value in values.items():
        if name not in known:
            yield f"{prefix}{name}", value
        elif dataclasses.is_dataclass(getattr(config, name)) and isinstance(value, Mapping):
            yield from _removed(getattr(config, name), value, f"{prefix}{name}.")
        elif items := _items(getattr(config, name), value):
            for number, (kind, item) in enumerate(items):
                yield from _removed(kind, item, f"{prefix}{name}[{number}].")


def _completed(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those of the fields that are not there, and without what is no field."""
    known = {field.name for field in dataclasses.fields(config)}
    other = _is_of_another_kind(config, values)
    completed = {name: value for name, value in values.items() if other or name in known}
    for field in dataclasses.fields(config):
        current = getattr(config, field.name)
        if field.name not in values:
            value = _before(field) if field.init else dataclasses.MISSING
            if value is not dataclasses.MISSING:
                group = dataclasses.is_dataclass(value) and not isinstance(value, type)
                completed[field.name] = dataclasses.asdict(value) if group else value
        elif dataclasses.is_dataclass(current) and isinstance(values[field.name], Mapping):
            completed[field.name] = _completed(current, values[field.name])
        elif items := _items(current, values[field.name]):
            completed[field.name] = [_completed(kind, item) for kind, item in items]
    return completed


def _items(current: Any, recorded: Any) -> list[tuple[Any, Mapping[str, Any]]]:
    """Recorded items of a field that is a tuple of dataclasses, each with one that tells its fields; else nothing."""
    if not (isinstance(current, tuple) and current and dataclasses.is_dataclass(current[0])):
        return []
    if not isinstance(recorded, list | tuple) or not all(isinstance(item, Mapping) for item in recorded):
        return []
    return [(current[0], item) for item in recorded]


def _before(field: dataclasses.Field[Any]) -> Any:
    """What counted where a field is not there; MISSING for one that always was."""
    if "before" in field.metadata:
        return field.metadata["before"]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_of_another_kind(config: Any, values: Mapping[str, Any]) -> bool:
    """Whether constants, as the kind of data is, differ or are not there: then fields are not those of the config."""
    constants = [field.name for field in dataclasses.fields(config) if not field.init]
    return any(values.get(name) != getattr(config, name) for name in constants)
