"""Files and runs that settings name: what is not there is refused by the setting's name, before anything is read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mvae_jax.files import expanded

# Metadata of the field of a config that holds a path, "" for none: what is to be there, and words for it.
WEIGHTS = {"is_there": os.path.isfile, "expected": "a file of weights, .pth or .safetensors"}
RUN = {"is_there": os.path.isdir, "expected": "the workdir of a run"}


def check(config: Any, *, but: Collection[str] = ()) -> None:
    """Refuses a config that names a file or a run that is not there, or may not be read.

    Args:
        config: nested dataclasses.
        but: dotted names of fields that are not looked at.

    Raises:
        ValueError: there is such a field; the message names all of them.
    """
    wrong = []
    for name, meaning, path in _named(config):
        defect = "" if name in but else _defect(expanded(path), meaning["is_there"])
        if defect:
            wrong.append(f"--config.{name}: {path} {defect}; expected {meaning['expected']}.")
    if wrong:
        raise ValueError("\n".join(wrong))


def _named(config: Any, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yields dotted name, metadata and path of each field that names something."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _named(value, f"{prefix}{field.name}.")
        elif value and "is_there" in field.metadata:
            yield f"{prefix}{field.name}", field.metadata, value


def _defect(path: Path, is_there: Callable[[Path], bool]) -> str:
    """What is wrong with a path, in words that go on from it; "" for nothing."""
    if not path.exists():
        return "does not exist"
    if not is_there(path):
        return "is a folder" if path.is_dir() else "is no folder"
    return "" if os.access(path, os.R_OK) else "may not be read"
