"""The page of a run while it trains: how far it is, its curves, and the same held-out images at every validation.

`report.html` says so and has itself loaded anew every few seconds; the report of the finished run takes its place.
Nothing here changes what is computed, and pictures are left out where they would take more than their share of time.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvae_jax import runs
from mvae_jax.eval.batched import to_bytes
from mvae_jax.experiment import forecast, provenance, session
from mvae_jax.experiment.declaration import plain
from mvae_jax.experiment.forecast import Forecast, Part
from mvae_jax.experiment.sheets import Rows
from mvae_jax.files import atomic_write
from mvae_jax.objective import INCOMPARABLE, Phase
from mvae_jax.train import loop
from mvae_jax.train.logging import MetricWriter, read_metrics
from mvae_jax.train.observer import Observer
from mvae_jax.train.signals import Interrupted
from mvae_jax.train.state import TrainState
from mvae_jax.viz import curves, grids, report

_log = logging.getLogger("experiment")
_PREFIX = "while_training"  # of the names of the pictures, which the finished report does without
_REFRESH = 10  # seconds after which a browser loads the page anew
_STALE = 30.0  # seconds after which the page is written anew between validations
_FIRST = 4.0  # seconds that the first pictures take on two cores: imports, and compilation of what draws them
_SHOWN = 8  # held-out images
_CURVES = "Over the steps, a line of training images and dots of held-out ones"
_HELD_OUT_CURVE = "Over the steps, of held-out images"
_IMAGES = "The same held-out images each time, and what the model makes of them"
_AFTER = 60.0  # seconds of measures and figures, of a laptop's preset on two cores


class Live:
    """Writes the page of a run that trains; of several processes the first does, and the others do nothing.

    As a context it says on the page how the run has ended, if it does not finish.

    Args:
        folder: the run's workdir.
        title: of the page.
        parts: what it trains, in that order.
        lead: what is trained on which data.
        title_of: label of a part -> its name for people.
        share: most of the time that all this may take, from 0 to 1; 0 writes nothing.
        notes: what the reader must know.
        clock: seconds, from any origin.

    Attributes:
        spent: seconds that page and pictures have taken so far.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        parts: Sequence[Part],
        *,
        lead: str = "",
        title_of: Callable[[str], str] = plain,
        share: float = 0.03,
        notes: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._title, self._share, self._notes = folder, title, share, notes
        self._lead, self._title_of = lead, title_of
        self._clock, self._began = clock, clock()
        self._active = session.is_first() and share > 0
        self._places = {(part.label, part.phase): place for place, part in enumerate(parts)}
        self.forecast = Forecast(parts, _AFTER)
        self.spent = 0.0
        self._costs: list[float] = []  # of the pictures of each validation
        self._written = -math.inf
        self._since = 0.0, 0  # when the phase began, or went on, less what was spent by then; and at which step
        self._pictures: dict[str, list[report.Part | str]] = {}
        self._texts: dict[str, list[str]] = {}  # of each model that has been validated, the latest first
        self._left: float | None = None
        self._status = ""
        self._waits = True  # something is going on of which nothing is heard before it ends
        self._done: float | None = None  # share of the steps of the whole run, from 0 to 1
        self._start = provenance.text(provenance.start())

    def __enter__(self) -> Live:
        self.tell("Preparing: the models are compiled")
        if self._active:  # nothing else is said for as long as XLA compiles
            _log.info("compiling; how far the training is stands in %s", self._folder / "report.html")
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            return
        status = f"Ended by an error, {type(error).__name__}: the log says more"
        if isinstance(error, Interrupted):
            status = "Stopped: what was trained is saved, and the same command goes on"
        with contextlib.suppress(OSError):  # the error itself may be a full disk
            self.tell(status, refresh=False)

    # --- what the runner calls ---

    def member(self, label: str) -> Observer:
        """The observer of the phases of one model, by its folder; of the classifier by its name."""
        return _Following(self, label)

    def on_validation(self, label: str, planned: runs.Plan, sheet: Rows) -> loop.OnValidation:
        """What draws at each validation of a model.

        Args:
            label: folder of the model within the workdir.
            planned: its training.
            sheet: the rows of a sheet of held-out images.
        """
        shown = planned.data.validation.first(_SHOWN)

        def draw(state: TrainState, phase: Phase, writer: MetricWriter) -> None:
            if not self._active:
                return
            began = self._clock()
            elapsed = began - self._began
            self._note_validation(label, phase, int(state.step))
            records = read_metrics(self._folder / label / "metrics.jsonl")
            # The model that trains comes first.
            self._texts = {label: _validation_loss(records, phase, self._of_phase(label, phase))} | {
                other: texts for other, texts in self._texts.items() if other != label
            }
            if self.spent + self._expected() <= self._share * elapsed:
                run = runs.Run.of(planned.model, planned.config, state, phase.name, {})
                self._draw(label, phase, run, sheet(run, shown, phase), records, writer)
                self._costs.append(self._clock() - began)
            self._write()
            self.spent += self._clock() - began

        def guarded(state: TrainState, phase: Phase, writer: MetricWriter) -> None:
            try:
                draw(state, phase, writer)
            except OSError:  # of a disk: the run would not come far either
                raise
            except Exception:
                # A picture is no reason to end a training, which would fail in the same place when it goes on.
                self._active = False
                _log.warning("No more pictures while this run trains: drawing them has failed.", exc_info=True)

        return guarded

    def tell(self, status: str, refresh: bool = True) -> None:
        """Says on the page what the run does now.

        Args:
            status: a clause.
            refresh: whether the page is to show itself anew, since more will follow.
        """
        self._status, self._left, self._done, self._waits = status, None, None, True
        self._timed_write(refresh)

    def finish(self) -> None:
        """Takes the pictures away, once the report of the finished run has taken the page's place."""
        if session.is_first():
            for path in (self._folder / "figures").glob(f"{_PREFIX}*"):
                path.unlink()
        elapsed = self._clock() - self._began
        if self.spent:
            _log.debug(
                "the page and the pictures while it trained took %.1f s, %.1f %% of the time",
                *(self.spent, 100 * self.spent / elapsed),
            )

    # --- what observers call ---

    def compiled(self, label: str, phase: Phase, flops: float | None) -> None:
        """See `Observer.compiled`."""
        self.forecast.parts[self._places[label, phase.name]].flops = flops

    def compiling(self, label: str, phase: Phase, step: int) -> None:
        """See `Observer.compiling`."""
        self._waits = True
        self._place(label, phase, step, "Compiling, after")
        self._timed_write()

    def started(self, label: str, phase: Phase, step: int) -> None:
        """See `Observer.started`."""
        self._since = self._clock() - self.spent, step
        self._waits = True  # for the compiler; the time left is that of before
        self._place(label, phase, step)
        self._timed_write()

    def later(self, label: str, phase: Phase, step: int, step_seconds: float) -> float:
        """See `Observer.later`."""
        after = self.forecast.later(self._places[label, phase.name], step_seconds)
        self._place(label, phase, step)
        self._left, self._waits = (phase.end - step) * step_seconds + after, False
        if self._clock() - self._written > _STALE:
            self._timed_write()
        return after

    # --- the page ---

    def _place(self, label: str, phase: Phase, step: int, doing: str = "Training:") -> None:
        index = self._places[label, phase.name]
        done = self.forecast.steps_before(index) + step - phase.start
        labels = list(dict.fromkeys(other for other, _ in self._places))
        where = [self._title_of(label)] if label else []
        if len(self._phases(label)) > 1:  # the name of the only one tells nothing
            where.append(f"phase {phase.name.replace('_', ' ')}")
        of_all = f" (part {labels.index(label) + 1} of {len(labels)})" if label and len(labels) > 1 else ""
        self._status = f"{doing} step {done:,} of {self.forecast.steps:,}"
        self._status += f", in {', '.join(where)}{of_all}" if where else ""
        self._done = done / max(1, self.forecast.steps)

    def _phases(self, label: str) -> list[str]:
        return [phase for other, phase in self._places if other == label]

    def _of_phase(self, label: str, phase: Phase) -> str:
        """Of which phase something is, where a model has several."""
        return f" in phase {phase.name.replace('_', ' ')}" if len(self._phases(label)) > 1 else ""

    def _note_validation(self, label: str, phase: Phase, step: int) -> None:
        then, first = self._since
        seconds = (self._clock() - self.spent - then) / max(1, step - first)  # pictures are not drawn in each step
        self._place(label, phase, step)
        after = self.forecast.later(self._places[label, phase.name], seconds)
        self._left, self._waits = (phase.end - step) * seconds + after, False

    def _expected(self) -> float:
        """Seconds that the next pictures will take: the first ones compile what draws them."""
        if len(self._costs) < 2:
            return self._costs[0] / 3 if self._costs else _FIRST
        return self._costs[-1]

    def _draw(
        self,
        label: str,
        phase: Phase,
        run: runs.Run,
        rows: Mapping[str, Any],
        records: Sequence[Mapping[str, Any]],
        writer: MetricWriter,
    ) -> None:
        parts: list[report.Part | str] = []
        name = "_".join(filter(None, (_PREFIX, *label.split("/"))))
        where = f"step {run.step:,}{self._of_phase(label, phase)}"
        if sum(math.isfinite(line.get("loss", math.nan)) for line in records) > 1:  # of one point there is no curve
            picture = curves.losses(records, {"Loss": ["loss"], "Accuracy": ["accuracy"]})
            trained = any(line["split"] == "train" and "loss" in line for line in records)
            parts += self._figure(f"{name}_curves", picture, _CURVES if trained else _HELD_OUT_CURVE)
        if rows:
            sheet = grids.comparison({row: to_bytes(images) for row, images in rows.items()}, columns=_SHOWN)
            writer.write_images(run.step, {"held-out images": np.asarray(sheet)})
            parts += self._figure(f"{name}_images", sheet, f"{_IMAGES}, at {where}")
        self._pictures[label] = parts

    def _figure(self, name: str, picture: Any, caption: str) -> list[report.Part | str]:
        path = self._folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, report.encoded(picture))
        return [report.figure(picture, caption)]

    def _timed_write(self, refresh: bool = True) -> None:
        if self._active:
            began = self._clock()
            self._write(refresh)
            self.spent += self._clock() - began

    def _write(self, refresh: bool = True) -> None:
        left = f", {forecast.words(self._left)}" if self._left is not None else ""
        now = datetime.datetime.now().strftime("%H:%M:%S")
        parts: list[report.Part | str] = [report.lead(self._lead)] if self._lead else []
        status = f"{self._status}{left}. As of {now}."
        parts.append(report.status(status, self._done) if refresh else report.note(status))
        if refresh:
            still = (
                "The next step may take some minutes, in which the time above stands still."
                if self._waits
                else "Where the time above has stood still for minutes, the run was ended: the same command goes on."
            )
            parts.append(f"This page shows itself anew every {_REFRESH} seconds. {still}")
        parts += map(report.note, self._notes)
        for label, texts in self._texts.items():
            parts += [report.heading(self._title_of(label) or "So far"), *texts, *self._pictures.get(label, [])]
        parts += [report.heading("Where it runs"), report.code(self._start)]
        page = report.page(self._title, parts)
        if refresh:
            page = page.replace("<title>", f'<meta http-equiv="refresh" content="{_REFRESH}">\n<title>', 1)
        atomic_write(self._folder / "report.html", page)
        self._written = self._clock()


def _validation_loss(records: Sequence[Mapping[str, Any]], phase: Phase, of_phase: str) -> list[str]:
    """The newest validation loss, and where they compare the lowest one of the phase; none where none is measured."""
    lines = [line for line in records if line.get("split") == "validation" and "loss" in line]
    if not lines:
        return []
    newest = f"{lines[-1]['loss']:.4g}"
    text = f"Validation loss {newest} at step {lines[-1]['step']:,}"
    if not phase.comparable:
        return [f"{text}. It compares with no other step: {INCOMPARABLE}."]
    finite = [line for line in lines if line["phase"] == phase.name and math.isfinite(line["loss"])]
    if not finite:
        return [f"{text}."]
    best = min(finite, key=lambda line: line["loss"])
    lowest = f"the lowest{'' if lines[-1]['step'] == phase.end else ' so far'}{of_phase}"
    if newest == f"{best['loss']:.4g}":  # in the digits that are shown
        return [f"{text}, {lowest}."]
    return [f"{text}; {lowest} was {best['loss']:.4g}, at step {best['step']:,}."]


class _Following(Observer):
    """The observer of one model of a run."""

    def __init__(self, live: Live, label: str) -> None:
        self._live, self._label = live, label

    def compiled(self, phase: Phase, flops: float | None) -> None:
        self._live.compiled(self._label, phase, flops)

    def compiling(self, phase: Phase, step: int) -> None:
        self._live.compiling(self._label, phase, step)

    def started(self, phase: Phase, step: int) -> None:
        self._live.started(self._label, phase, step)

    def later(self, phase: Phase, step: int, step_seconds: float) -> float:
        return self._live.later(self._label, phase, step, step_seconds)
