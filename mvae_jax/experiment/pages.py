"""Results of an experiment as log lines, as JSON, and as a page for people."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvae_jax import runs
from mvae_jax.experiment import provenance
from mvae_jax.experiment.declaration import Experiment, Figures, Measure, Results, Trained
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import report
from mvae_jax.viz.report import Part

_log = logging.getLogger("experiment")


def lines(measure: Measure, trained: Trained, result: Any) -> Sequence[str]:
    """A measure's result in the log."""
    if measure.lines:
        return measure.lines(trained, result)
    return [
        f"{label}: " + ", ".join(f"{measure.words.get(key, key)} {_rounded(value)}" for key, value in row.items())
        for label, row in rows(plain(result)).items()
    ]


def parts(measure: Measure, trained: Trained, result: Any) -> list[Part | str]:
    """A measure's result in a report."""
    text = measure.text(trained, result) if callable(measure.text) else measure.text
    head: list[Part | str] = [report.heading(measure.title)] if measure.title else []
    head += [text] if text else []
    if measure.parts:
        return [*head, *measure.parts(trained, result)]
    numbers = rows(plain(result))
    return [*head, *([report.table(table(measure, numbers))] if numbers else [])]


def rows(result: Any) -> dict[str, Mapping[str, Any]]:
    """The rows of a result: its entries that hold numbers by key, those that are empty left out."""
    entries = result.items() if isinstance(result, Mapping) else ()
    return {label: row for label, row in entries if isinstance(row, Mapping) and row}


def table(measure: Measure, rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for people: the label of each and its numbers, in the measure's words."""
    return [
        {measure.label: measure.words.get(name, name)}
        | {measure.words.get(key, key): value for key, value in row.items()}
        for name, row in rows.items()
    ]


def plain(value: Any) -> Any:
    """A result as what JSON can hold."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value


def scores(trained: Trained, results: Results) -> dict[str, Any]:
    """Content of scores.json: which checkpoints were measured, and the result of each measure by its name."""
    checkpoints = {
        folder: {"model": run.settings["model"], "phase": run.phase, "step": run.step}
        for folder, run in trained.runs.items()
    }
    return {"checkpoints": checkpoints} | {name: plain(result) for name, result in results.items()}


def newest(loaded: Mapping[str, runs.Run]) -> list[str]:
    """A note on the checkpoints that are measured."""
    folders: dict[tuple[str, int], list[str]] = {}
    for folder, run in loaded.items():
        folders.setdefault((run.phase, run.step), []).append(folder)
    if len(folders) == 1:
        ((phase, step),) = folders
        return [f"Measured at step {step}, in phase {phase}."]
    return [
        f"Measured at step {step}, in phase {phase}: {', '.join(names)}." for (phase, step), names in folders.items()
    ]


def other_images(trained: Trained) -> list[str]:
    """A note where the images are not those of the run."""
    if trained.run.settings["data_sha256"] == trained.data.sha256():
        return []
    return ["These are other images than those of the run, which may have been trained on some of them."]


def write(
    experiment: Experiment,
    argv: Sequence[str],
    trained: Trained,
    results: Results,
    scores: Mapping[str, Any],
    figures: Figures,
    folder: Path,
    notes: Sequence[str],
) -> None:
    """Writes scores.json, the figures and report.html."""
    paths = report.save_figures(figures, folder / "figures")
    atomic_write(folder / "scores.json", json.dumps(scores, indent=2) + "\n")
    report.write(
        folder / "report.html",
        title(experiment, trained.workdir),
        [
            *map(report.note, notes),
            *(part for measure in experiment.measures for part in parts(measure, trained, results[measure.name])),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *how_it_was_made(argv, trained),
        ],
    )
    _log.info("report: %s", folder / "report.html")


def title(experiment: Experiment, workdir: Path) -> str:
    """Title of a run's report."""
    return f"{experiment.title}: {workdir.resolve().name}"


def how_it_was_made(argv: Sequence[str], trained: Trained) -> list[Part | str]:
    """The last parts of a report: what is needed to make it again."""
    run, program = trained.run, ["python", argv[0]] if argv[0].endswith(".py") else argv[0].split()
    return [
        report.heading("How it was made"),
        report.code(shlex.join([*program, *argv[1:]])),
        report.values({"phase": run.phase, "step": run.step, "seed": run.settings["config"]["seed"]}, "Checkpoint"),
        *([report.values(where, "Where and when")] if (where := provenance.table(trained.provenance)) else []),
        report.values(trained.data.provenance, "Data"),
        report.details("Config", [report.values(dataclasses.asdict(trained.config))]),
        report.values(report.versions(), "Versions"),
    ]


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
