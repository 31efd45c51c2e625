"""An experiment as data: what it trains, measures and draws, and the words that go with its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mvae_jax.data import sources
from mvae_jax.experiment import named
from mvae_jax.experiment.classifier import Classifier
from mvae_jax.experiment.members import Member
from mvae_jax.experiment.prior import Prior
from mvae_jax.runs import Run
from mvae_jax.train import loop
from mvae_jax.train.signals import Interruption
from mvae_jax.viz.report import Part


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields that the configs of all experiments have.

    Attributes:
        seed: of the initialisation, of every draw and of the order of the images.
        start_from: workdir of a run whose newest checkpoint gives the first parameters; "" starts anew.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    start_from: str = dataclasses.field(default="", metadata=named.RUN)
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected a number from 0 to 2**32 - 1.")


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The trained models of an experiment, and all that they are measured with.

    Attributes:
        config: of the experiment.
        runs: folder -> model.
        data: the images.
        classifier: reads attributes from images; None where there is none.
        records: folder -> lines of metrics.jsonl up to the model's step.
        stages: folder -> phase -> the model at the end of that phase; empty unless the experiment asks for it.
        priors: folder -> the learned prior over the model's codes, of models that have one.
        interruption: polled where a measure trains something or takes long.
        workdir: where the models lie, each in its folder.
        provenance: where, when and from what they were computed, see `provenance.summary`; filled in when all is
            measured and drawn.
    """

    config: Any
    runs: Mapping[str, Run]
    data: Any
    classifier: Classifier | None
    records: Mapping[str, Sequence[Mapping[str, Any]]]
    stages: Mapping[str, Mapping[str, Run]] = dataclasses.field(default_factory=dict)
    priors: Mapping[str, Prior] = dataclasses.field(default_factory=dict)
    interruption: Interruption = dataclasses.field(default_factory=Interruption)
    workdir: Path = Path()
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def run(self) -> Run:
        """The first model, of experiments with one the only one."""
        return next(iter(self.runs.values()))


Results = Mapping[str, Any]  # a measure's name -> its result


@dataclasses.dataclass(frozen=True)
class Number:
    """A number of a report's first screen.

    Attributes:
        value: as it is shown, with its unit.
        text: what it is.
        baseline: what it is to be compared with, such as guessing or real images.
        better: whether it is better than its baseline; a report says where it is not.
    """

    value: str
    text: str
    baseline: str
    better: bool = True


@dataclasses.dataclass(frozen=True)
class Headline:
    """The first screen of a report.

    Attributes:
        numbers: how well the models do, in words; few.
        picture: name of the figure that shows best what they do; without it the first figure.
        fits: it has no text that is to be read, and may shrink to the width of a phone.
    """

    numbers: Sequence[Number] = ()
    picture: str = ""
    fits: bool = True


def check_least(evaluation: Any, **least: int) -> None:
    """Refuses settings of an evaluation, fields of the config's `evaluation`, that are below their least values.

    Raises:
        ValueError: there is one.
    """
    for name, bound in least.items():
        if not getattr(evaluation, name) >= bound:
            raise ValueError(f"evaluation.{name} is {getattr(evaluation, name)}; expected at least {bound}.")


def plain(name: str) -> str:
    """A name that programs use as words for people."""
    return name.replace("_", " ").replace("/", ", ")


def capitalized(text: str) -> str:
    """A text as a sentence begins; unlike `str.capitalize` it leaves capitals within alone, such as those of names."""
    return text[:1].upper() + text[1:]


@dataclasses.dataclass(frozen=True)
class Measure:
    """Numbers of the trained models, and the words that go with them.

    Attributes:
        name: key of the result in scores.json.
        measure: (trained models) -> the result: rows {model: {key: number}}, a dataclass, or what has `to_dict`. Its
            keys are snake_case; programs may rely on them.
        title: heading in the report; "" goes on with the section of the measure before.
        reading: a sentence that says how to read the table.
        text: how it was measured, which a report folds, or a function (trained, result) -> that.
        figures: names of the figures that belong to it, with the wildcards of `fnmatch`; a report shows them before
            the table, those of one pattern side by side.
        words: key of a row -> its column in the table and in the log; label of a row -> the same in the table. Others
            have the words of `plain`, and of rows those of `Experiment.title_of`.
        label: heading of the table's first column, what a row is.
        parts: (trained, result) -> parts of the report in place of the table of rows.
        lines: (trained, result) -> lines of the log in place of one for each row.
    """

    name: str
    measure: Callable[[Trained], Any]
    title: str = ""
    reading: str = ""
    text: str | Callable[[Trained, Any], str] = ""
    figures: Sequence[str] = ()
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label: str = "model"
    parts: Callable[[Trained, Any], Sequence[Part | str]] | None = None
    lines: Callable[[Trained, Any], Sequence[str]] | None = None


Figures = Mapping[str, tuple[str, Any]]  # name of the file -> caption and picture


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment as data.

    Attributes:
        name: of its file, `experiments/NAME.py`.
        title: of its report, followed by the workdir's name.
        description: first lines of `--help`: what it does, its commands, how long they take, which scores to expect.
        presets: name -> config; the first one is the default.
        data: the kinds of data that it takes, with its defaults for each.
        members: (config, data) -> the models, folder within the workdir -> member. An experiment with one model
            may have it in the workdir itself, under the name "".
        measures: in the order of the report.
        figures: functions (trained, results) -> figures. A picture is an image, `viz.traversals.Strips`, or the bytes
            of an animation, which is a file alone.
        headline: (trained, results) -> the first screen of the report.
        curves: names of the figures that show the training, with the wildcards of `fnmatch`; they come first.
        title_of: folder of a model -> its name for people.
        model: name in the zoo of the model that the config's field `model` is of.
        request: (config) -> what the models want of the data; by default the image size of the config's field `model`.
        check: (config, data) -> None; raises ValueError for what cannot be measured, before anything is trained.
        check_files: (config) -> checksums of files of weights that a resumed run must have again, as in the members'
            `digests`. Raises OSError or ValueError for files that are not what they should be, before any image is
            drawn or read; that they are there is known by then, of fields with `named.WEIGHTS`.
        notes: (config) -> what log and report must say, such as a loss term that is off.
        problems: (trained, results) -> likewise, of the trained models.
        may_change: dotted names of settings that may differ when a run is resumed, besides `runner.MAY_CHANGE`.
        stages: measure the model at the end of every phase too.
        learns_prior: folder of a model -> whether a prior of its codes is learned, if the config has the field `prior`.
        comparison: (label -> trained, label -> results) -> parts and figures of a page that compares runs, in place of
            tables of all results.
    """

    name: str
    title: str
    description: str
    presets: Mapping[str, Any]
    data: Sequence[sources.Config]
    members: Callable[[Any, Any], Mapping[str, Member]]
    measures: Sequence[Measure]
    figures: Sequence[Callable[[Trained, Results], Figures]]
    model: str
    headline: Callable[[Trained, Results], Headline] = lambda trained, results: Headline()
    curves: Sequence[str] = ()
    title_of: Callable[[str], str] = plain
    request: Callable[[Any], sources.Request] = lambda config: sources.Request(config.model.image_size)
    check: Callable[[Any, Any], None] = lambda config, data: None
    check_files: Callable[[Any], Mapping[str, str | None]] = lambda config: {}
    notes: Callable[[Any], Sequence[str]] = lambda config: ()
    problems: Callable[[Trained, Results], Sequence[str]] = lambda trained, results: ()
    may_change: Sequence[str] = ()
    stages: bool = False
    learns_prior: Callable[[str], bool] = lambda folder: True
    comparison: (
        Callable[[Mapping[str, Trained], Mapping[str, Results]], tuple[Sequence[Part | str], Figures]] | None
    ) = None
