"""Phases one after another: train, validate, save, resume. Knows no model."""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax.objective import Batch, Model, Phase
from mvae_jax.train import state as states
from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.devices import Placement, compile_step, place
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


class TrainingDiverged(RuntimeError):
    """Too many steps in a row were refused because something was not finite."""


def initial_state(model: Model, phases: Sequence[Phase], seed: int, batch: Batch) -> TrainState:
    """The state before the first step; jit-compiled, since eager initialisation is several times slower."""
    return jax.jit(lambda key, batch: states.create(model, phases[0], key, batch))(jax.random.key(seed), batch)


def abstract_state(model: Model, phases: Sequence[Phase], phase: Phase, batch: Batch) -> TrainState:
    """Shapes and dtypes of the state during `phase`, for restoring it."""

    def during(key: jax.Array, batch: Batch) -> TrainState:
        state = states.create(model, phases[0], key, batch)
        for earlier in phases[: phases.index(phase) + 1]:
            state = states.start_phase(state, model, earlier)
        return state

    return jax.eval_shape(during, jax.random.key(0), batch)


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
    on_validation: Callable[[TrainState, Phase, MetricWriter], None] | None = None,
) -> TrainState:
    """Trains through all phases, resuming from the newest checkpoint in `workdir` if there is one.

    The state after the last step is a function of model, phases, batches and seed alone: a run that was killed
    at any moment and started again ends with the same bits.

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

    Returns:
        The state after the last phase, on the devices.

    Raises:
        ValueError: the phases do not follow one another, or a batch cannot be split over the devices.
        TrainingDiverged: too many consecutive steps were not finite; the checkpoints before stay.
        Interrupted: the interruption was requested and the state is saved.
    """
    for before, after in zip(phases, phases[1:], strict=False):
        if after.start != before.end:
            raise ValueError(f"phase {after.name!r} starts at step {after.start}, but {before.name!r} ends at {before.end}.")
    settings, placement = settings or Settings(), placement or place()
    for phase in phases:
        placement.check_batch_size(phase.batch_size)
    example = _first_examples(batches(phases[0]).arrays, phases[0].batch_size)
    with Checkpoints(workdir, [phase.name for phase in phases]) as checkpoints:
        state = _resume(model, phases, checkpoints, example, placement)
        if state is None:
            state = placement.replicate(initial_state(model, phases, seed, example))
        with MetricWriter(workdir, resume_step=int(state.step)) as writer:
            run = _Run(model, placement, settings, checkpoints, writer, interruption, validation, on_validation)
            for phase in phases:
                if state.step == phase.start:
                    state = placement.replicate(states.start_phase(state, model, phase))
                if state.step < phase.end:
                    state = run.train_phase(phase, state, batches(phase))
    return state


def _first_examples(arrays: Mapping[str, np.ndarray], count: int) -> Batch:
    return {name: np.asarray(array[:count]) for name, array in arrays.items()}


def _resume(
    model: Model, phases: Sequence[Phase], checkpoints: Checkpoints, example: Batch, placement: Placement
) -> TrainState | None:
    def target(name: str) -> TrainState:
        (phase,) = (phase for phase in phases if phase.name == name)
        shapes = abstract_state(model, phases, phase, example)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement.replicated), shapes)

    restored = checkpoints.restore_latest(target)
    if restored is None:
        return None
    name, state = restored
    _log.info("resuming at step %d, phase %s", int(state.step), name)
    return state


@dataclasses.dataclass
class _Run:
    """What stays the same over the phases of one call of `fit`."""

    model: Model
    placement: Placement
    settings: Settings
    checkpoints: Checkpoints
    writer: MetricWriter
    interruption: Interruption | None
    validation: Mapping[str, np.ndarray] | None
    on_validation: Callable[[TrainState, Phase, MetricWriter], None] | None

    def train_phase(self, phase: Phase, state: TrainState, source: Batches) -> TrainState:
        """Trains from `state`, which lies within the phase, to the phase's end."""
        settings, placement = self.settings, self.placement
        arrays = placement.replicate(dict(source.arrays))
        began = time.monotonic()
        train_step = make_train_step(self.model.rounds(phase), self.model.optimizers(phase), phase)
        run, zeros = compile_step(train_step, placement, state, arrays, phase.batch_size)
        validate = self._validator(phase)
        seconds = time.monotonic() - began
        _log.info("phase %s: %d steps of %d examples, compiled in %.1f s", phase.name, phase.steps, phase.batch_size, seconds)
        first = int(state.step)
        self.writer.write_scalars(first, {"compile_seconds": seconds}, phase=phase.name, split="setup")

        sums = placement.replicate(zeros)
        in_flight: collections.deque[jax.Array] = collections.deque()
        refused, saved_at = 0, time.monotonic()
        progress = Progress(phase.name, first=first, last=phase.end, examples_per_step=phase.batch_size, seconds=settings.progress_seconds)
        for step in range(first, phase.end):
            indices = jax.device_put(source.indices_at(step), placement.split)
            state, sums, finite = run(state, sums, arrays, indices)
            in_flight.append(finite)
            if len(in_flight) > _IN_FLIGHT:  # the host waits here for the device, and reads a step that is done
                refused = 0 if in_flight.popleft() else refused + 1
                self._check_finite(refused, phase, step)
            done = step + 1
            since_start, last = done - phase.start, done == phase.end
            if progress.due() or last:
                progress.show(done, sums.means())
            if since_start % settings.log_every == 0 or last:
                self.writer.write_scalars(done, sums.means(), phase=phase.name, split="train")
                sums = placement.replicate(zeros)
            epoch, rest = divmod(since_start, source.steps_per_epoch)
            loss = None
            if last or (rest == 0 and epoch % settings.validate_every == 0):
                loss = self._validate(validate, phase, state, done)
            requested = self.interruption is not None and self.interruption.requested
            overdue = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
            on_step = settings.checkpoint_every and since_start % settings.checkpoint_every == 0
            if last or requested or overdue or on_step or self._is_best(phase, loss):
                self.checkpoints.save(phase.name, state, validation_loss=loss, final=last)
                saved_at = time.monotonic()
            if requested:
                self.checkpoints.wait()
                self.interruption.stop()
        while in_flight:
            refused = 0 if in_flight.popleft() else refused + 1
        self._check_finite(refused, phase, phase.end)
        return state
