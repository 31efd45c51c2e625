"""`config.json`: the settings of a run, its id, and a sum of both, by which a change of the file is noticed.

The id is random, written once, and stated by all checkpoints of the run. A run that is moved or copied keeps it. The
sum is of what the JSON says, not of its bytes. Files of earlier versions have neither.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvae_jax import _json

NAME = "config.json"
EXPORT = "export.json"  # what `export` writes beside it: such a folder is no workdir


class DamagedRun(ValueError):  # noqa: N818
    """A file of a run is not as it was written."""


def sealed(settings: Mapping[str, Any], run: str = "") -> str:
    """Text of a config.json.

    Args:
        settings: nested mappings of what JSON can hold.
        run: the run's id; "" for that of a new run.
    """
    content = json.loads(json.dumps({**settings, "run_id": run or secrets.token_hex(16)}, allow_nan=False))
    return json.dumps(_json.with_sum(content), indent=2, sort_keys=True) + "\n"


def opened(path: Path, content: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Settings and the run's id, "" in files of earlier versions, of what the JSON in a file says.

    Raises:
        DamagedRun: the file was changed since it was written.
    """
    settings = {name: value for name, value in content.items() if name not in ("run_id", _json.SUM)}
    if settings == content:
        return settings, ""
    # Who changes settings on purpose takes the sum away by a word that damage does not write.
    if content.get(_json.SUM, "") is not None and not _json.has_its_sum(content):
        raise DamagedRun(
            f"{path} was changed since the run wrote it, so that its settings may not be those of the checkpoints: "
            f"restore it from a copy, or, if the change is meant, put null in place of its {_json.SUM}."
        )
    return settings, str(content.get("run_id", ""))


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Settings and the run's id, "" in files of earlier versions.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DamagedRun: it is no JSON object, or was changed since it was written.
    """
    try:
        content = _json.load(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except ValueError as error:
        raise DamagedRun(f"{path} is not JSON ({error}); restore it, or choose another workdir.") from error
    return opened(path, content)


def refuse_export(folder: Path) -> None:
    """Refuses the folder of an exported model where a workdir is expected.

    Raises:
        ValueError: it is one.
    """
    if (folder / EXPORT).is_file():
        raise ValueError(
            f"{folder} is an exported model, which has no checkpoints to train from or to go on with: give the workdir "
            "of a run."
        )


def run_of(workdir: Path) -> str | None:
    """Id of the run in a workdir: "" if an earlier version began it, None if the workdir has no config.json.

    Raises:
        DamagedRun: config.json is not as it was written.
    """
    path = workdir / NAME
    return read(path)[1] if path.exists() else None
