"""Phases one after another: train, validate, save, resume. Knows no model."""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from mvae_jax.objective import Batch, Model, Phase
from mvae_jax.train import checkpoint
from mvae_jax.train import state as states
from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.devices import CompiledStep, MetricSums, Placement, compile_step, place
from mvae_jax.train.logging import MetricWriter, Progress
from mvae_jax.train.signals import Interruption
from mvae_jax.train.state import TrainState
from mvae_jax.train.step import make_train_step

_log = logging.getLogger(__name__)
_IN_FLIGHT = 2  # steps that the host may be ahead of the device
_VALIDATION_DRAWS = 2**31 - 1  # fold_in data that no training step uses


class Batches(Protocol):
    """A resident data set and the order in which a phase visits it."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The data, {name: [N, ...]}."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps per pass over the data."""

    def indices_at(self, step: int) -> np.ndarray:
        """Examples of the batch of a step of the run, int32 [B]."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run is watched and saved; none of this changes what it computes.

    Attributes:
        log_every: steps between training records in metrics.jsonl and TensorBoard.
        progress_seconds: seconds between progress lines.
        validate_every: epochs between validations; a phase's last step always validates.
        checkpoint_minutes: minutes between checkpoints; a phase's last step always saves.
        checkpoint_every: steps between checkpoints; 0 leaves it to the minutes.
        most_refused_steps: consecutive steps refused as not finite after which the run stops.
    """

    log_every: int = 50
    progress_seconds: float = 5.0
    validate_every: int = 1
    checkpoint_minutes: float = 5.0
    checkpoint_every: int = 0
    most_refused_steps: int = 10

    def __post_init__(self) -> None:
        least = {"log_every": 1, "validate_every": 1, "checkpoint_every": 0, "most_refused_steps": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {bound}.")


OnValidation = Callable[[TrainState, Phase, MetricWriter], None]


class TrainingDiverged(RuntimeError):  # noqa: N818
    """Too many steps in a row were refused because something was not finite."""


def check_phases(phases: Sequence[Phase], placement: Placement) -> None:
    """Refuses phases that cannot be trained, before anything is compiled or written.

    Raises:
        ValueError: there is no phase, one has no steps, they do not follow one another from step 0 on, two have
            one name, or a batch cannot be split over the devices.
    """
    if not phases:
        raise ValueError("there is no phase to train; give at least one of them some epochs.")
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise ValueError(f"phases are named {names}; expected no name twice.")
    begin = 0
    for phase in phases:
        if phase.steps < 1:
            raise ValueError(f"phase {phase.name!r} has {phase.steps} steps; expected at least 1.")
        if phase.start != begin:
            raise ValueError(
                f"phase {phase.name!r} starts at step {phase.start}; expected {begin}: the first phase starts at 0, "
                "and each other one where the phase before it ends."
            )
        begin = phase.end
        placement.check_batch_size(phase.batch_size)


def check_start(
    model: Model,
    phases: Sequence[Phase],
    batch: Batch,
    *,
    start_from: str | os.PathLike[str],
    workdir: str | os.PathLike[str],
) -> Path | None:
    """Refuses another run's checkpoint from which `fit` could not start, before anything is compiled or written.

    Args:
        model: the model of the run that is to start.
        phases: its phases.
        batch: one batch, for shapes only.
        start_from: as for `fit`.
        workdir: folder of the run that is to start; it need not exist.

    Returns:
        Folder of the checkpoint, `.../checkpoints/<phase>/<step>`; None if `workdir` has checkpoints of its own, from
        which `fit` would go on.

    Raises:
        FileNotFoundError: there is no such folder, or no checkpoint in it yet.
        ValueError: the checkpoint is incomplete, of another model, or its arrays have other shapes than this
            model's; the message lists each parameter that differs with both.
    """
    with Checkpoints(workdir, [phase.name for phase in phases]) as own:
        if own.latest():
            return None
    folder = checkpoint.find(start_from)
    checkpoint.check_parts(folder, _trained_parts(model, phases, batch))
    return folder


def initial_state(
    model: Model,
    phases: Sequence[Phase],
    seed: int,
    batch: Batch,
    start: Mapping[str, Mapping[str, Any]] | None = None,
) -> TrainState:
    """The state before the first step; jit-compiled, since eager initialisation is several times slower."""
    create = jax.jit(lambda key, batch, start: states.create(model, phases[0], key, batch, start))
    return create(jax.random.key(seed), batch, start)


def abstract_state(model: Model, phases: Sequence[Phase], name: str, batch: Batch) -> TrainState:
    """Shapes and dtypes of the state during the phase of that name, for restoring it."""
    names = [phase.name for phase in phases]

    def during(key: jax.Array, batch: Batch) -> TrainState:
        state = states.create(model, phases[0], key, batch)
        for earlier in phases[: names.index(name) + 1]:
            state = states.start_phase(state, model, earlier)
        return state

    return jax.eval_shape(during, jax.random.key(0), batch)


def _trained_parts(model: Model, phases: Sequence[Phase], batch: Batch) -> dict[str, dict[str, Any]]:
    """Shapes of what another run's checkpoint may give: the groups that an optimiser moves in some phase."""
    state = abstract_state(model, phases, phases[0].name, batch)
    groups = {group for phase in phases for group in model.optimizers(phase)}
    return {
        part: {group: tree for group, tree in trees.items() if group in groups}
        for part, trees in (("params", state.params), ("model_state", state.model_state))
    }


def fit(
    model: Model,
    phases: Sequence[Phase],
    batches: Callable[[Phase], Batches],
    *,
    workdir: Any,
    seed: int,
    validation: Mapping[str, np.ndarray] | None = None,
    settings: Settings | None = None,
    placement: Placement | None = None,
    interruption: Interruption | None = None,
    on_validation: OnValidation | None = None,
    start_from: str | os.PathLike[str] | None = None,
) -> TrainState:
    """Trains through all phases, resuming from the newest checkpoint in `workdir` if there is one.

    The state after the last step is a function of model, phases, batches, seed and the parameters to start from
    alone: a run that was killed at any moment and started again ends with the same bits. So does one whose last phase
    was given more steps after its end, unless the phase depends on its length, as by a learning rate that is a
    schedule over its steps: such a phase goes on with the rates of the longer one.

    Args:
        model: the model.
        phases: its phases, one after another: each starts at the step where the one before ends.
        batches: phase -> the resident data set and its order during that phase.
        workdir: folder of this run: checkpoints/, metrics.jsonl, events.*.
        seed: seed of initialisation and of every draw.
        validation: arrays of the validation examples; None validates nothing.
        settings: how the run is watched and saved.
        placement: devices; all of them by default.
        interruption: polled after each step; if requested, the state is saved and `Interrupted` raised.
        on_validation: called after each validation, for instance to write image grids.
        start_from: workdir of another run, whose newest checkpoint gives the parameters to start with, or the folder
            of one of its checkpoints. Groups that an optimiser moves in some phase get their parameters, the moving
            average where that checkpoint has one, and their batch statistics; all else is this run's own: other
            groups, key, optimisers, step 0. What was taken is saved as this run's checkpoint of step 0, and from then
            on `start_from` is not looked at.

    Returns:
        The state after the last phase, on the devices.

    Raises:
        ValueError: `check_phases` or `check_start` refuses what is given, or the checkpoint in `workdir` is of other
            phases.
        TrainingDiverged: too many consecutive steps were not finite; the checkpoints before stay.
        Interrupted: the interruption was requested and the state is saved.
    """
    settings, placement = settings or Settings(), placement or place()
    check_phases(phases, placement)
    example: Batch = {name: array[: phases[0].batch_size] for name, array in batches(phases[0]).arrays.items()}

    def target(shapes: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement.replicated), shapes)

    with Checkpoints(workdir, [phase.name for phase in phases]) as checkpoints:
        resumed = checkpoints.resume(lambda name: target(abstract_state(model, phases, name, example)))
        if resumed:
            name, step, state = resumed
            (phase,) = (phase for phase in phases if phase.name == name)
            if not phase.start < step <= phase.end and step > 0:
                raise ValueError(
                    f"{workdir} has a checkpoint of phase {name!r} at step {step}, but that phase goes from "
                    f"{phase.start} to {phase.end}. Continue with the phases that the run was started with, or choose "
                    "another workdir."
                )
            _log.info("resuming at step %d, in phase %s", step, name)
            if start_from:
                _log.info("not starting from %s: this run has checkpoints of its own", start_from)
        else:
            start = None
            if start_from:
                folder = checkpoint.find(start_from)
                start = checkpoint.load_parts(folder, target(_trained_parts(model, phases, example)))
                _log.info("starting from step %s of phase %s of %s", folder.name, folder.parent.name, folder.parents[2])
            state = placement.replicate(initial_state(model, phases, seed, example, start))
            if start:
                checkpoints.save(phases[0].name, state)
                checkpoints.wait()  # from here on the other run is not needed
        with (
            MetricWriter(workdir, resume_step=int(state.step)) as writer,
            Progress(interval=settings.progress_seconds) as progress,
        ):
            run = _Run(
                model,
                placement,
                settings,
                checkpoints,
                writer,
                progress,
                interruption or Interruption(),
                on_validation,
            )
            for phase in phases:
                if state.step == phase.start:
                    state = placement.replicate(states.start_phase(state, model, phase))
                if state.step < phase.end:
                    state = run.train_phase(phase, state, batches(phase), validation)
    return state


@dataclasses.dataclass
class _Run:
    """What the phases of one call of `fit` share."""

    model: Model
    placement: Placement
    settings: Settings
    checkpoints: Checkpoints
    writer: MetricWriter
    progress: Progress
    interruption: Interruption
    on_validation: OnValidation | None

    def train_phase(
        self, phase: Phase, state: TrainState, source: Batches, validation: Mapping[str, np.ndarray] | None
    ) -> TrainState:
        """Trains from `state`, which lies within the phase, to the phase's end."""
        settings, placement = self.settings, self.placement
        first = int(state.step)
        arrays = placement.replicate(dict(source.arrays))
        run, zeros = self._compile(phase, state, arrays)
        validate = self._validator(phase, validation)
        sums = placement.replicate(zeros)
        in_flight: collections.deque[jax.Array] = collections.deque()
        refused, saved_at = 0, time.monotonic()
        self.progress.start(phase.name, phase.end, phase.batch_size)
        for done in range(first + 1, phase.end + 1):
            indices = jax.device_put(source.indices_at(done - 1), placement.split)
            state, sums, finite = run(state, sums, arrays, indices)
            in_flight.append(finite)
            last, since_start = done == phase.end, done - phase.start
            epochs, rest = divmod(since_start, source.steps_per_epoch)
            to_validate = last or (rest == 0 and epochs % settings.validate_every == 0)
            on_time = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
            on_step = settings.checkpoint_every > 0 and since_start % settings.checkpoint_every == 0
            pause = to_validate or on_time or on_step
            while len(in_flight) > (0 if pause else _IN_FLIGHT):  # the host waits for the device here
                refused = 0 if in_flight.popleft() else refused + 1
                if refused == settings.most_refused_steps:
                    self.checkpoints.wait()
                    newest = self.checkpoints.latest()
                    raise TrainingDiverged(_diverged(phase, done - len(in_flight), refused, newest))
            self.progress.update(done, functools.partial(_shown, sums))
            if since_start % settings.log_every == 0 or last:
                self.writer.write_scalars(done, sums.means(), phase=phase.name, split="train")
                sums = placement.replicate(zeros)

            loss = self._validate(validate, phase, state, done) if validate and to_validate else None
            requested = self.interruption.requested
            # Not amid refused steps: a run that goes on from there would count them anew.
            due = refused == 0 and (on_time or on_step or self._is_best(phase, loss))
            if last or requested or due:
                self.writer.flush()  # what the checkpoint implies has been told before it exists
                self.checkpoints.save(phase.name, state, validation_loss=loss, final=last)
                saved_at = time.monotonic()
            if requested:
                self.checkpoints.wait()
                _log.info("saved at step %d; the same command goes on from there", done)
                self.interruption.check()
        return state

    def _compile(
        self, phase: Phase, state: TrainState, arrays: Mapping[str, jax.Array]
    ) -> tuple[CompiledStep, MetricSums]:
        began = time.monotonic()
        train_step = make_train_step(self.model.rounds(phase), self.model.optimizers(phase), phase)
        compiled = compile_step(train_step, self.placement, state, arrays, phase.batch_size)
        seconds = time.monotonic() - began
        _log.info(
            "phase %s: steps %d to %d of %d examples, compiled in %.1f s",
            phase.name,
            phase.start,
            phase.end,
            phase.batch_size,
            seconds,
        )
        self.writer.write_scalars(int(state.step), {"compile_seconds": seconds}, phase=phase.name, split="setup")
        return compiled

    def _validator(
        self, phase: Phase, validation: Mapping[str, np.ndarray] | None
    ) -> Callable[[TrainState], dict[str, float]] | None:
        if self.model.evaluate is None or not validation:
            return None
        arrays = self.placement.replicate(dict(validation))
        count = len(next(iter(arrays.values())))
        evaluate = self.model.evaluate(phase)

        @jax.jit
        def terms(state: TrainState, arrays: Mapping[str, jax.Array], indices: jax.Array) -> Mapping[str, jax.Array]:
            batch = {name: array[indices] for name, array in arrays.items()}
            params = {**state.params, **(state.ema or {})}
            key = jax.random.fold_in(jax.random.fold_in(state.key, _VALIDATION_DRAWS), indices[0])
            return evaluate(params, state.model_state, batch, key)

        def means(state: TrainState) -> dict[str, float]:
            parts = []
            for begin in range(0, count, phase.batch_size):
                # One shape for all: the last batch is filled up, and what fills it is dropped.
                indices = np.minimum(np.arange(begin, begin + phase.batch_size), count - 1)
                out = terms(state, arrays, jax.device_put(indices, self.placement.split))
                parts.append({name: values[: count - begin] for name, values in out.items()})
            parts = jax.device_get(parts)
            return {name: float(np.concatenate([part[name] for part in parts]).mean()) for name in parts[0]}

        return means

    def _validate(
        self, validate: Callable[[TrainState], dict[str, float]], phase: Phase, state: TrainState, step: int
    ) -> float:
        means = validate(state)
        self.writer.write_scalars(step, means, phase=phase.name, split="validation")
        if self.on_validation is not None:
            self.on_validation(state, phase, self.writer)
        return means["loss"]

    def _is_best(self, phase: Phase, loss: float | None) -> bool:
        if loss is None or not np.isfinite(loss):
            return False
        self.checkpoints.wait()
        best = self.checkpoints.best(phase.name)
        return best is None or loss < self.checkpoints.metadata(phase.name, best)["validation_loss"]


def _shown(sums: MetricSums) -> dict[str, float]:
    """What a progress line has room for: a step that was taken need not say so."""
    means = sums.means()
    return {name: value for name, value in means.items() if name != "step/finite" or value < 1}


def _diverged(phase: Phase, step: int, refused: int, checkpoint: tuple[str, int] | None) -> str:
    kept = f"The newest checkpoint is step {checkpoint[1]} of phase {checkpoint[0]}." if checkpoint else ""
    return (
        f"phase {phase.name!r}, step {step}: the last {refused} steps were refused because a loss or a gradient "
        f"was not finite. Their parameters were not used. {kept} Lower the learning rate or the loss weights, "
        "look for bad values in the data, and use a new workdir."
    )
