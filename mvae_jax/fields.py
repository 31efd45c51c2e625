"""Fields of nested frozen dataclasses, such as Configs: their names, values and meanings."""

from __future__ import annotations

import collections
import dataclasses
import re
import sys
from collections.abc import Iterator
from typing import Any


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
    section = (config_class.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
    for line in section.splitlines():
        start = re.match(r" {8}(\w+): (.*)", line)
        if start:
            name = start[1]
            entries[name] = start[2]
        elif line.startswith(" " * 12) and entries:
            entries[name] += f" {line.strip()}"
        elif line.strip():
            break
    return entries
