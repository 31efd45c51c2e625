"""JSON files that anybody may have written or damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 2**26  # the largest of ours lists the shards of a pyramid or the files of a checkpoint
SUM = "sha256"  # name of the entry of an object that is the sum of the others
MAX_DEPTH = 32  # of values within values; with more, whoever visits them all recurs too deeply


def loads(text: str | bytes) -> Any:
    """Reads a text.

    Raises:
        ValueError: the text is no JSON, or nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return value


def load(path: Path) -> Any:
    """Reads a file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: the file is no JSON, nested too deeply, or larger than any of ours; the message does not name it.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"it has {size} bytes, expected at most {MAX_BYTES}")
    return loads(path.read_bytes())


def with_sum(content: Mapping[str, Any]) -> dict[str, Any]:
    """An object as JSON reads it, with a sum of its entries beside them, in place of any that it has."""
    entries = {name: value for name, value in content.items() if name != SUM}
    return {**entries, SUM: hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()}


def has_its_sum(content: Mapping[str, Any]) -> bool:
    """Whether the entries of an object are those of which it has the sum."""
    return SUM in content and content[SUM] == with_sum(content)[SUM]
