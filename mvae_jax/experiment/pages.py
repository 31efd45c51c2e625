"""Results of an experiment as log lines, as JSON, and as a page for people."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvae_jax import runs
from mvae_jax.data import sources
from mvae_jax.experiment import provenance
from mvae_jax.experiment.declaration import Experiment, Figures, Headline, Measure, Number, Results, Trained
from mvae_jax.experiment.declaration import plain as words
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import report
from mvae_jax.viz.report import Part
from mvae_jax.viz.traversals import Strips

_log = logging.getLogger("experiment")
_NOTES = 4  # that are not folded


def lines(measure: Measure, trained: Trained, result: Any) -> Sequence[str]:
    """A measure's result in the log."""
    if measure.lines:
        return measure.lines(trained, result)
    named = {
        label: [
            f"{measure.words.get(key) or words(key)} {_rounded(value)}"
            for key, value in row.items()
            if value is not None
        ]
        for label, row in rows(plain(result)).items()
    }
    return [f"{label}: {', '.join(numbers)}" for label, numbers in named.items()]


def section(
    experiment: Experiment, measure: Measure, trained: Trained, result: Any, pictures: Sequence[Part] = ()
) -> list[Part | str]:
    """A measure's result in a report: heading, pictures, how to read it, table, and how it was measured."""
    text = measure.text(trained, result) if callable(measure.text) else measure.text
    numbers = rows(plain(result))
    shown: Sequence[Part | str] = [report.table(table(experiment, measure, numbers))] if numbers else []
    if measure.parts:
        shown = measure.parts(trained, result)
    if not (pictures or shown or text):  # a heading above nothing would be read as a fault
        return []
    return [
        *([report.heading(measure.title)] if measure.title else []),
        *pictures,
        *([measure.reading] if measure.reading and shown else []),
        *shown,
        *([report.details("How it was measured", [text]) if shown else text] if text else []),
    ]


def rows(result: Any) -> dict[str, Mapping[str, Any]]:
    """The rows of a result: its entries that hold numbers by key, those that are empty left out."""
    entries = result.items() if isinstance(result, Mapping) else ()
    return {label: row for label, row in entries if isinstance(row, Mapping) and row}


def table(experiment: Experiment, measure: Measure, rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for people: the label of each and its numbers, in the measure's words."""
    return [
        {measure.label: measure.words.get(name) or experiment.title_of(name)}
        | {measure.words.get(key) or words(key): value for key, value in row.items()}
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
        return [f"Measured at step {step:,}, in phase {words(phase)}."]
    return [
        f"Measured at step {step:,}, in phase {words(phase)}: {', '.join(names)}."
        for (phase, step), names in folders.items()
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
    report.save_figures(figures, folder / "figures")
    atomic_write(folder / "scores.json", json.dumps(scores, indent=2) + "\n")
    headline = experiment.headline(trained, results)
    notes = [*_shortcomings(headline), *notes]
    shown = [name for name in figures if is_shown(figures, name)]
    first = next((name for name in (headline.picture, *shown) if name in shown), "")
    body = [*sections(experiment, trained, results, figures, notes, first), *how_it_was_made(experiment, argv, trained)]
    contents = report.contents(body)
    top = [report.figure(*reversed(figures[first]), fits=headline.fits, first=True)] if first else []
    # A picture that may shrink leaves room for the contents. One with text that is to be read may be of any height.
    top = [*top, contents] if headline.fits else [report.turned([contents, *top])]
    report.write(
        folder / "report.html",
        title(experiment, trained.workdir),
        [
            report.lead(subject(experiment, trained)),
            *([report.headline(map(card, headline.numbers))] if headline.numbers else []),
            *top,
            *body,
        ],
    )
    _log.info("report: %s", folder / "report.html")


def title(experiment: Experiment, workdir: Path) -> str:
    """Title of a run's report."""
    return f"{experiment.title}: {workdir.resolve().name}"


def card(number: Number) -> tuple[str, str, str]:
    """A number of the first screen, for `report.headline`."""
    return number.value, number.text, number.baseline + ". It is no better than that." * (not number.better)


def _shortcomings(headline: Headline) -> list[str]:
    return [
        f"{number.value} {number.text}: that is no better than the baseline ({number.baseline})."
        for number in headline.numbers
        if not number.better
    ]


def sections(
    experiment: Experiment, trained: Trained, results: Results, figures: Figures, notes: Sequence[str], first: str = ""
) -> list[Part | str]:
    """The parts of a report: what to beware of, the training, a section for each measure, and the other figures.

    Args:
        experiment: the experiment.
        trained: its models.
        results: of all measures.
        figures: all of them.
        notes: what the reader must know.
        first: name of a figure that is shown elsewhere.
    """
    left = {name: figures[name] for name in figures if name != first and is_shown(figures, name)}

    def taken(patterns: Sequence[str]) -> list[Part]:
        parts: list[Part] = []
        for pattern in patterns:
            found = [left.pop(name) for name in fnmatch.filter(left, pattern)]
            alike = len(found) > 1 and not any(isinstance(picture, Strips) for _, picture in found)
            shown = [report.figure(picture, caption, narrow=alike) for caption, picture in found]
            parts += [report.beside(shown)] if alike else shown
        return parts

    parts: list[Part | str] = []
    if notes:
        parts += [report.heading("What to keep in mind"), *map(report.note, notes[:_NOTES])]
        if rest := notes[_NOTES:]:
            parts.append(report.details(f"{len(rest)} more", map(report.note, rest)))
    if curves := taken(experiment.curves):
        parts += [report.heading("Training"), *curves]
    for measure in experiment.measures:
        parts += section(experiment, measure, trained, results[measure.name], taken(measure.figures))
    if left:
        parts += [report.heading("More pictures"), *taken(list(left))]
    return parts


def is_shown(figures: Figures, name: str) -> bool:
    """Whether a figure is on the page: an animation that cannot be stopped is a file alone."""
    return not isinstance(figures[name][1], bytes)


def subject(experiment: Experiment, trained: Trained) -> str:
    """What was trained on which data, on which device, in how many minutes, and measured on what."""
    count = sum(sum(leaf.size for leaf in jax.tree.leaves(run.params)) for run in trained.runs.values())
    several = len(trained.runs) > 1
    models, in_all = (f"{_models(experiment, trained.runs)}, ", " in all") if several else ("", "")
    steps = sum(run.step for run in trained.runs.values())
    return (
        f"{models}{_rough(count)} parameters{in_all}, trained for {steps:,} steps on "
        f"{_images(trained.data, trained.run.config)}{circumstances(trained)}. Measured on "
        f"{len(trained.data.validation):,} images that were not trained on."
    )


def plan(experiment: Experiment, configs: Mapping[str, Any], data: Any) -> str:
    """What a run trains on which data and device, while it does.

    Args:
        experiment: the experiment.
        configs: folder -> config of each model.
        data: the images.
    """
    return (
        f"{_models(experiment, configs)}, in training on {_images(data, next(iter(configs.values())))}, computed on "
        f"{provenance.describe(provenance.devices())}; {len(data.validation):,} images are held out."
    )


def _models(experiment: Experiment, folders: Iterable[str]) -> str:
    """How many models there are, and which; trials of one are counted apart."""
    count = len(folders := list(folders))
    names = "; ".join(kinds := list(dict.fromkeys(experiment.title_of(folder.partition("/")[0]) for folder in folders)))
    if count == 1:
        return "One model"
    if len(kinds) == count:
        return f"{count} models ({names})"
    return (
        f"{count} trials of {len(kinds)} models ({names})"
        if len(kinds) > 1
        else f"{count} trials of one model ({names})"
    )


def _rough(count: int) -> str:
    """A large number to three digits."""
    return f"{count / 1e6:.3g} million" if count >= 1e6 else f"{float(f'{count:.3g}'):,.0f}"


def _images(data: Any, model: Any) -> str:
    """How many training images there are, and of what."""
    size = model.image_size
    origin = [data.provenance.get("data_set") or data.provenance.get("source") or data.provenance.get("path", "")]
    if (kind := sources.SOURCES.get(origin[0])) and kind.named_by_path:
        origin = [Path(data.provenance["path"]).name]
    origin += [f"{size} pixels" if isinstance(size, int) else f"{size[1]} x {size[0]} pixels"]
    origin += [f"{len(data.attributes)} attributes"] if data.attributes else []
    return f"{len(data.examples('train', size)):,} images ({', '.join(origin)})"


def circumstances(trained: Trained) -> str:
    """On which devices the models were trained, and how long where it is known."""
    minutes = sum(provenance.phase_seconds(trained.records).values()) / 60
    starts = trained.provenance.get("starts")
    devices = starts[-1]["devices"] if starts else provenance.devices()
    return f"{f' in {duration(minutes)}' if minutes else ''} on {provenance.describe(devices)}"


def duration(minutes: float) -> str:
    """A time in words, to two digits."""
    seconds = round(60 * minutes)
    if seconds < 60:
        return f"{seconds} second{'s' * (seconds != 1)}"
    if minutes >= 90:
        return f"{minutes / 60:.0f} hours" if minutes >= 600 else f"{minutes / 60:.1f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 10 else f"{minutes:.1f} minutes"


def how_it_was_made(experiment: Experiment, argv: Sequence[str], trained: Trained) -> list[Part | str]:
    """The last parts of a report: what is needed to make it again."""
    run, program = trained.run, ["python", argv[0]] if argv[0].endswith(".py") else argv[0].split()
    return [
        report.heading("How it was made"),
        report.code(shlex.join([*program, *argv[1:]])),
        report.values(
            {"phase": words(run.phase), "step": run.step, "seed": run.settings["config"]["seed"]}, "Checkpoint"
        ),
        *(
            [report.values(where, "Where and when")]
            if (where := provenance.table(trained.provenance, experiment.title_of))
            else []
        ),
        report.values(worded(trained.data.provenance), "Data"),
        report.details("Config", [report.values(dataclasses.asdict(trained.config))]),
        report.values(report.versions(), "Versions"),
    ]


def worded(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with words for keys; a mapping within has its own keys after those of where it is."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        inner = worded(value) if isinstance(value, Mapping) else None
        flat |= (
            {words(key): value} if inner is None else {f"{words(key)}, {name}": each for name, each in inner.items()}
        )
    return flat


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
