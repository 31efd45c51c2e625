"""What evaluations have measured of a checkpoint, found in the workdir of its run or in an exported folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvae_jax import _json, export, runs
from mvae_jax.files import expanded


def of_checkpoint(run: runs.Run, workdir: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the results of each evaluation of this checkpoint, newest first, and under which key they have the model.

    They lie in the workdir, or in that of an experiment which has the workdir as the folder of one of its models. An
    export has one file of its own, whose sum is compared first.

    Args:
        run: the model with its checkpoint.
        workdir: the folder from which it was loaded.

    Raises:
        FileNotFoundError: a file of the export is missing.
        ValueError: a file of the export is not as it was exported.
    """
    folder = expanded(workdir).resolve()
    for key, path in _exported(folder) if export.is_export(folder) else _evaluated(folder, run.phase):
        try:
            content = _json.load(path)
            scores = content.get("scores", content)  # finished.json has them beside the time
            checkpoint = scores.get("checkpoints", {"": scores})[key]  # in the first format, they are scores
            if (checkpoint["phase"], checkpoint["step"]) == (run.phase, run.step):
                yield key, scores
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or of another program
            continue


def _exported(folder: Path) -> Iterator[tuple[str, Path]]:
    key, path = export.scores(folder)
    if path:
        yield key, path


def _evaluated(folder: Path, phase: str) -> Iterator[tuple[str, Path]]:
    """Files that may have scores of a run, newest first, and the key under which they have its model."""
    for root, key in ((folder, ""), (folder.parent, folder.name)):
        evaluation = root / "evaluation"
        paths = (
            *(root / name for name in ("finished.json", "scores.json")),
            *(evaluation / "scores.json", evaluation / phase / "scores.json"),
        )
        for path in sorted(filter(Path.exists, paths), key=lambda path: path.stat().st_mtime, reverse=True):
            yield key, path
