"""Several runs of one experiment on one page, measured on the same images."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvae_jax import runs
from mvae_jax.experiment import flags, listing, members, pages, runner
from mvae_jax.experiment.declaration import Experiment, Figures, Results, Trained, capitalized, plain
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, report
from mvae_jax.viz.report import Part

_log = logging.getLogger("experiment")
_CURVES = 10  # of one figure


def load(
    workdirs: Sequence[Path],
    source: str = "",
    interruption: Interruption | None = None,
    *,
    ignore_removed: bool = False,
) -> tuple[Experiment, dict[str, Trained]]:
    """The runs in some workdirs with what they are measured with: label -> trained models.

    Args:
        workdirs: of one experiment.
        source: images to measure on; "" for those of the first run.
        interruption: whose context lives, if any does.
        ignore_removed: pass over settings of the runs that this version does not have.

    Raises:
        FileNotFoundError: there is no run in a folder.
        ValueError: a run is named twice, two are of different experiments, or want different images.
    """
    if len({path.resolve() for path in workdirs}) < len(workdirs):
        raise ValueError(f"a run is named twice among {', '.join(map(str, workdirs))}; name each once.")
    names = {path: runs.read_settings(path).get("experiment", "") for path in workdirs}
    for path, name in names.items():
        if not name:
            parents = (parent for parent in path.resolve().parents if _experiment(parent))
            whole = f"{next(parents, 'the --workdir of its command')}, with all of its models"
            raise ValueError(f"{path} is a run of one model, and runs of experiments are compared: give {whole}.")
        if name != names[workdirs[0]]:
            raise ValueError(
                f"{path} is a run of the experiment {name!r}, {workdirs[0]} of {names[workdirs[0]]!r}; expected runs "
                "of one experiment."
            )
    experiment = listing.load(names[workdirs[0]])
    default = next(iter(experiment.presets.values()))
    options: dict[str, Any] = {"ignore_removed": ignore_removed}
    configs = {_label(path, workdirs): flags.config_of(path, default, **options) for path in workdirs}
    first, *_ = configs.values()
    if source:
        first = dataclasses.replace(first, data=flags.data_at(source, (*experiment.data, first.data)))
    for label, config in configs.items():
        if experiment.request(config) != experiment.request(first):
            raise ValueError(
                f"{label} wants {experiment.request(config)}, the first run {experiment.request(first)}; the same "
                "inputs need the same of both."
            )
    data = runner.load(experiment, first)
    trained: dict[str, Trained] = {}
    for path, (label, config) in zip(workdirs, configs.items(), strict=True):
        chosen = experiment.members(config, data)
        fitted = {folder: members.load(member, path / folder, **options) for folder, member in chosen.items()}
        trained[label] = runner.gather(experiment, config, fitted, data, path, interruption)
    # One classifier reads the images of all.
    reader = next(iter(trained.values())).classifier
    return experiment, {label: dataclasses.replace(each, classifier=reader) for label, each in trained.items()}


def _experiment(folder: Path) -> str:
    """Name of the experiment whose workdir a folder is, "" of any other folder."""
    try:
        return str(runs.read_settings(folder).get("experiment", ""))
    except (OSError, ValueError):
        return ""


def _label(path: Path, others: Sequence[Path]) -> str:
    """The folder's name, or the whole path where two folders have one name."""
    names = [other.resolve().name for other in others]
    return path.resolve().name if names.count(path.resolve().name) == 1 else str(path)


def write(experiment: Experiment, trained: Mapping[str, Trained], folder: Path, command: str) -> None:
    """Measures all runs, and writes scores.json, figures and report.html.

    Args:
        experiment: of all runs.
        trained: label -> trained models.
        folder: where to write.
        command: what the page gives as the command that made it.
    """
    results, drawn = {}, {}
    for label, each in trained.items():
        _log.info("%s", label)
        results[label] = runner.measure(experiment, each)
        drawn[label] = runner.draw(experiment, each, results[label])
    parts, figures = (experiment.comparison or _tables(experiment))(trained, results)
    of_runs = {
        f"{name}_{number}": (f"{label}: {caption}", picture)
        for number, (label, figures_of_run) in enumerate(drawn.items(), start=1)
        for name, (caption, picture) in figures_of_run.items()
    }
    losses = loss_curves(experiment, trained)
    report.save_figures(losses | dict(figures) | of_runs, folder / "figures")
    scores = {label: pages.scores(each, results[label]) for label, each in trained.items()}
    atomic_write(folder / "scores.json", json.dumps(scores, indent=2) + "\n")
    data = next(iter(trained.values())).data
    notes = [
        f"{label} was trained on other images, and may have seen some of these."
        for label, each in trained.items()
        if pages.other_images(each)
    ]
    names = list(dict.fromkeys(name for each in drawn.values() for name in each))
    training = [name for pattern in experiment.curves for name in fnmatch.filter(names, pattern)]
    body: list[Part | str] = [
        report.heading("Training"),
        *(report.figure(picture, caption) for caption, picture in losses.values()),
        *_side_by_side(training, drawn),
        *parts,
        report.heading("Pictures side by side"),
        *(report.figure(picture, caption) for caption, picture in figures.values()),
        *_side_by_side([name for name in names if name not in training], drawn),
        report.heading("How it was made"),
        report.code(command),
        report.values(pages.worded(data.provenance), "Data"),
        *(
            report.details(f"Config of {label}", [report.values(dataclasses.asdict(each.config))])
            for label, each in trained.items()
        ),
        report.values(report.versions(), "Versions"),
    ]
    report.write(
        folder / "report.html",
        "Comparison of " + ", ".join(trained),
        [
            report.lead(
                f"{len(trained)} runs of one experiment, {experiment.title}, measured on the same "
                f"{len(data.validation):,} images."
            ),
            report.beside(_headlines(experiment, trained, results)),
            *map(report.note, notes),
            report.contents(body),
            *body,
        ],
    )
    _log.info("report: %s", folder / "report.html")


def _headlines(
    experiment: Experiment, trained: Mapping[str, Trained], results: Mapping[str, Results]
) -> list[list[Part | str]]:
    """What was trained and the headline numbers, a column of each run."""
    return [
        [
            report.subheading(label),
            pages.subject(experiment, each),
            report.headline(map(pages.card, experiment.headline(each, results[label]).numbers)),
        ]
        for label, each in trained.items()
    ]


def _side_by_side(names: Sequence[str], drawn: Mapping[str, Figures]) -> list[Part]:
    """Figures of each of these names, those of all runs beside each other."""
    return [
        report.beside(
            report.figure(figures[name][1], f"{label}: {figures[name][0]}", narrow=True)
            for label, figures in drawn.items()
            if name in figures and pages.is_shown(figures, name)
        )
        for name in dict.fromkeys(names)
    ]


def loss_curves(experiment: Experiment, trained: Mapping[str, Trained]) -> dict[str, tuple[str, Any]]:
    """The loss of each model of each run, ten in a figure.

    Args:
        experiment: of all runs.
        trained: label -> trained models.
    """
    lines = [
        (", ".join(filter(None, (label, experiment.title_of(folder)))), records)
        for label, each in trained.items()
        for folder, records in each.records.items()
        if any("loss" in record for record in records)
    ]
    return {
        f"losses_{start // _CURVES + 1}" if start else "losses": (
            "Loss of each run",
            curves.runs(dict(lines[start : start + _CURVES]), "loss"),
        )
        for start in range(0, len(lines), _CURVES)
    }


def _tables(experiment: Experiment) -> Any:
    """A comparison of any experiment: the results of each measure, a row for each run and model."""

    def compare(trained: Mapping[str, Trained], results: Mapping[str, Results]) -> tuple[list[Part | str], Figures]:
        parts: list[Part | str] = []
        for measure in experiment.measures:
            rows = [
                {"run": label} | row
                for label in trained
                for row in pages.table(experiment, measure, _rows(pages.plain(results[label][measure.name])))
            ]
            if not any(row.get(measure.label) for row in rows):  # one row of each run needs no name
                rows = [{key: value for key, value in row.items() if key != measure.label} for row in rows]
            if rows:
                parts += [report.heading(measure.title or capitalized(plain(measure.name))), report.table(rows)]
        return parts, {}

    return compare


def _rows(result: Any) -> dict[str, dict[str, Any]]:
    """Rows of numbers of a result of any shape: those at the lowest level, named by their path."""
    if not isinstance(result, Mapping):
        return {}
    numbers = {key: value for key, value in result.items() if isinstance(value, (int, float, str, type(None)))}
    rows = {"": numbers} if numbers else {}
    for key, value in result.items():
        for name, row in _rows(value).items():
            rows[" ".join(filter(None, (key, name)))] = row
    return rows
