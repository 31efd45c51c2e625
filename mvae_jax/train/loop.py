"""Phases one after another: train, validate, save, resume. Knows no model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mvae_jax import files
from mvae_jax.cpu.memory import return_freed_memory, runs_inline
from mvae_jax.cpu.xla import compile_lowered
from mvae_jax.numerics import in_32_bits
from mvae_jax.objective import INCOMPARABLE, Batch, Model, Phase
from mvae_jax.train import checkpoint, trackers
from mvae_jax.train import state as states
from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.devices import Placement, failed_anywhere, place, without_mesh
from mvae_jax.train.dispatch import Dispatcher, HostSignals, Result
from mvae_jax.train.feed import Feed, Source, arrays_like
from mvae_jax.train.logging import MetricWriter, Progress, SilentWriter
from mvae_jax.train.observer import Observer
from mvae_jax.train.program import Evaluation, MetricSums, Program, compile_evaluation, compile_step
from mvae_jax.train.signals import Interrupted, Interruption
from mvae_jax.train.state import TrainState
from mvae_jax.train.step import make_train_step

_log = logging.getLogger(__name__)
MOST_STEPS = 64  # in one dispatch; the same for all, because another program may round otherwise


@dataclasses.dataclass(frozen=True)
class Settings:
    """Logging, saving and placement of a run; none of this changes what it computes.

    Attributes:
        log_every: steps between training records in metrics.jsonl and TensorBoard.
        progress_seconds: seconds between progress lines.
        validate_every: epochs between validations; a phase's last step always validates.
        checkpoint_minutes: minutes between checkpoints; a phase's last step always saves.
        checkpoint_every: steps between checkpoints; 0 leaves it to the minutes.
        most_refused_steps: consecutive steps refused as not finite after which the run stops.
        steps_per_dispatch: steps that the device takes in one go, at most 64; 0 takes as many as fill 0.2 s.
        transform: "jit" compiles steps in global view; "pmap" maps them over the devices of one host.
        shard_state: split large parameters and their optimiser state over the devices, for models that do not fit
            into one; only with "jit".
        drawing_share: most of the time that pictures and page of a run that trains may take, from 0 to 1: those of a
            validation are left out where they would take more.
        tracker: what is told the metrics besides the run's files, "trackio" or "wandb"; "" for nothing.
    """

    log_every: int = 50
    progress_seconds: float = 5.0
    validate_every: int = 1
    checkpoint_minutes: float = 5.0
    checkpoint_every: int = 0
    most_refused_steps: int = 10
    steps_per_dispatch: int = 0
    transform: str = "jit"
    shard_state: bool = False
    drawing_share: float = 0.03
    tracker: str = ""

    def __post_init__(self) -> None:
        least = {
            "log_every": 1,
            "validate_every": 1,
            "checkpoint_every": 0,
            "most_refused_steps": 1,
            "steps_per_dispatch": 0,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {bound}.")
        if not 0 <= self.drawing_share <= 1:
            raise ValueError(f"drawing_share is {self.drawing_share}; expected from 0 to 1.")
        trackers.check(self.tracker)
        if self.steps_per_dispatch > MOST_STEPS:
            raise ValueError(f"steps_per_dispatch is {self.steps_per_dispatch}; expected at most {MOST_STEPS}.")

    def place(self, devices: Sequence[jax.Device] | None = None) -> Placement:
        """Lays the run over the given devices, by default all of them, of all hosts.

        Raises:
            ValueError: `transform` is unknown, or does not go with `shard_state` or with several hosts.
        """
        return place(devices, transform=self.transform, shard_state=self.shard_state)


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
    names = [phase.name for phase in phases]  # of folders of checkpoints
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


@in_32_bits
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
    with Checkpoints(workdir, [phase.name for phase in phases]) as checkpoints:
        if checkpoints.latest():  # the run goes on from there, whatever has become of the other one
            return None
    folder = checkpoint.find(start_from)
    checkpoint.check_parts(folder, _trained_parts(model, phases, batch))
    return folder


@in_32_bits
def initial_state(
    model: Model,
    phases: Sequence[Phase],
    seed: int,
    batch: Batch,
    start: Mapping[str, Mapping[str, Any]] | None = None,
    placement: Placement | None = None,
) -> TrainState:
    """The state before the first step; compiled, since eager initialisation is several times slower."""

    def create(key: np.ndarray, batch: Batch, start: Any) -> TrainState:
        return states.create(model, phases[0], jax.random.wrap_key_data(jnp.asarray(key)), batch, start)

    key = np.asarray(jax.random.key_data(jax.random.key(seed)))  # of no device, so that all hosts may give it
    placement = placement or place()
    shardings = placement.shardings(abstract_state(model, phases, phases[0].name, batch))
    lowered = jax.jit(create, out_shardings=shardings).lower(key, batch, start)
    return compile_lowered(lowered, placement.mesh, runs_once=True)(key, batch, start)


def abstract_state(model: Model, phases: Sequence[Phase], name: str, batch: Batch) -> TrainState:
    """Shapes and dtypes of the state during the phase of that name, for restoring it."""
    names = [phase.name for phase in phases]

    def during(key: jax.Array, batch: Batch) -> TrainState:
        # Through every phase before it: optimiser state that a phase hands over depends on those that it came through.
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


@in_32_bits
def fit(
    model: Model,
    phases: Sequence[Phase],
    batches: Callable[[Phase], Source],
    *,
    workdir: Any,
    seed: int,
    validation: Mapping[str, np.ndarray] | None = None,
    settings: Settings | None = None,
    placement: Placement | None = None,
    interruption: Interruption | None = None,
    on_validation: OnValidation | None = None,
    start_from: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
) -> TrainState:
    """Trains through all phases, resuming from the newest checkpoint in `workdir` if there is one.

    The state after the last step is a function of model, phases, batches, seed and the parameters to start from
    alone: a run that was killed at any moment and started again ends with the same bits. So does one whose last phase
    was given more steps after its end, unless the phase depends on its length, as by a learning rate that is a
    schedule over its steps: such a phase goes on with the rates of the longer one. `jax_enable_x64` changes nothing.

    Args:
        model: the model.
        phases: its phases, one after another: each starts at the step where the one before ends.
        batches: phase -> the data set and its order during that phase, see `feed`. If a stream fails on some host, the
            state is saved, and its error raised: the same call goes on with the examples that could not be read.
        workdir: folder of this run: checkpoints/, metrics.jsonl, events.*.
        seed: seed of initialisation and of every draw.
        validation: arrays of the validation examples; None validates nothing.
        settings: logging and saving; by default `Settings()`.
        placement: devices; by default as `settings` say.
        interruption: held while there are steps that are only in memory, and polled at each dispatch: if requested, the
            state is saved and `Interrupted` raised. Several hosts hold it all the time, since they end together.
        on_validation: called after each validation, for instance to write image grids, on all hosts. If it fails, the
            state is saved, and its error raised: the same call goes on after that validation.
        start_from: workdir of another run, whose newest checkpoint gives the parameters to start with, or the folder
            of one of its checkpoints. Groups that an optimiser moves in some phase get their parameters, the moving
            average where that checkpoint has one, and their batch statistics; all else is this run's own: other
            groups, key, optimisers, step 0. What was taken is saved as this run's checkpoint of step 0, and from then
            on `start_from` is not looked at.
        observer: is told how far the run is, and tells what comes after its phases, for the time that is left.

    Returns:
        The state after the last phase, on the devices.

    Raises:
        ValueError: `check_phases` or `check_start` refuses what is given, or the checkpoint in `workdir` is of other
            phases.
        DamagedRun: `workdir` has checkpoints, and none is intact; nothing is changed there.
        TrainingDiverged: too many consecutive steps were not finite; the checkpoints before stay.
        Interrupted: the interruption was requested and the state is saved.
        DiskFull: there is no room for a checkpoint, before anything is compiled, or for what is written later.
    """
    settings = settings or Settings()
    placement = placement or settings.place()
    check_phases(phases, placement)
    batch = example(batches(phases[0]), phases[0])
    interruption, observer = interruption or Interruption(), observer or Observer()

    with (
        files.noting(lambda: _safe(checkpoints.latest())),
        Checkpoints(workdir, [phase.name for phase in phases]) as checkpoints,
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(without_mesh())
        if jax.process_count() > 1:
            stack.enter_context(interruption.held())
        resumed = checkpoints.resume(lambda name: placement.targets(abstract_state(model, phases, name, batch)))
        name, step, state = resumed or ("", 0, None)
        if resumed:
            # Step 0 is that of a run that starts from another one; all others lie within their phase.
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

        # The first phase compiles while the state is made, and a later one while those before it train. By one
        # thread, so that they are ready in the order in which they are needed.
        compiler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compile")
        stack.callback(compiler.shutdown, cancel_futures=True)
        remaining = [phase for phase in phases if step < phase.end]
        if remaining:
            checkpoints.check_room(abstract_state(model, phases, remaining[-1].name, batch))
        compiling = [
            compiler.submit(_compile, model, phases, phase, batches(phase), validation, placement)
            for phase in remaining
        ]
        for phase, future in zip(remaining, compiling, strict=True):
            future.add_done_callback(functools.partial(_tell_compiled, observer, phase))
        if remaining:
            observer.compiling(remaining[0], step)
        if state is None:
            start = None
            if start_from:
                folder = checkpoint.find(start_from)
                start = checkpoint.load_parts(folder, placement.targets(_trained_parts(model, phases, batch)))
                _log.info("starting from step %s of phase %s of %s", folder.name, folder.parent.name, folder.parents[2])
            state = initial_state(model, phases, seed, batch, start, placement)
            if start:
                checkpoints.save(phases[0].name, state)
                checkpoints.wait()  # from here on the other run is not needed

        logs = jax.process_index() == 0  # all processes compute the same numbers, and one of them writes
        writer = stack.enter_context(_writer(workdir, step, settings.tracker) if logs else SilentWriter())
        progress = stack.enter_context(Progress(interval=settings.progress_seconds, silent=not logs))
        # Validation is compiled in global view under "pmap" too, see `compile_evaluation`; so its arrays lie like that.
        examples = dataclasses.replace(placement, transform="jit").spread(validation or {})
        run = _Run(placement, settings, checkpoints, writer, progress, interruption, on_validation, examples, observer)
        for phase, programs in zip(remaining, compiling, strict=True):
            if phase is not remaining[0] and not programs.done():
                observer.compiling(phase, step)
            # A state from within this phase has its optimisers already, one from the end of the phase before has not.
            if phase is not phases[0] and step == phase.start:
                state = _start_phase(state, model, phase, placement)
            state, step = run.train_phase(phase, programs, state, batches(phase)), phase.end
    return state


def _writer(workdir: Any, resume_step: int, tracker: str) -> MetricWriter:
    return MetricWriter(workdir, resume_step=resume_step, tracker=trackers.start(tracker, Path(workdir)))


def _start_phase(state: TrainState, model: Model, phase: Phase, placement: Placement) -> TrainState:
    """The state of one phase as that of the next, on all hosts at once."""

    def start(state: TrainState) -> TrainState:
        return states.start_phase(state, model, phase)

    shardings = placement.shardings(jax.eval_shape(start, state))
    return jax.jit(start, out_shardings=shardings, donate_argnums=0)(state)


def example(source: Source, phase: Phase) -> Batch:
    """A batch, for shapes only."""
    return {name: array[: phase.batch_size] for name, array in arrays_like(source, phase.batch_size, 1).items()}


def _tell_compiled(observer: Observer, phase: Phase, compiling: Future[_Compiled]) -> None:
    if not (compiling.cancelled() or compiling.exception()):
        observer.compiled(phase, compiling.result().train.flops)


class _Compiled(NamedTuple):
    """The programs of a phase."""

    train: Program
    evaluate: Evaluation | None
    seconds: float  # that it took to compile them


@in_32_bits  # of a thread's own, since the flag is
def _compile(
    model: Model,
    phases: Sequence[Phase],
    phase: Phase,
    source: Source,
    validation: Mapping[str, np.ndarray] | None,
    placement: Placement,
) -> _Compiled:
    """Compiles the programs of a phase from shapes alone: before its state and its data are there."""
    began = time.monotonic()
    state = abstract_state(model, phases, phase.name, example(source, phase))
    rounds = model.rounds(phase, axis_name=placement.axis_name)
    step = make_train_step(rounds, model.optimizers(phase), phase, axis_name=placement.axis_name)
    shapes = placement.spread_targets(arrays_like(source, phase.batch_size, MOST_STEPS))
    train = compile_step(
        step, placement, state, shapes, phase.batch_size, most_steps=MOST_STEPS, signal_count=len(HostSignals._fields)
    )
    evaluate = None
    if model.evaluate is not None and validation:
        evaluate = compile_evaluation(model.evaluate(phase), placement, state, validation, phase.batch_size)
    return_freed_memory()
    seconds = time.monotonic() - began
    _log.debug("phase %s: compiled in %.1f s", phase.name, seconds)
    return _Compiled(train, evaluate, seconds)


@dataclasses.dataclass
class _Run:
    """Devices, settings and files that the phases of one call of `fit` share."""

    placement: Placement
    settings: Settings
    checkpoints: Checkpoints
    writer: MetricWriter
    progress: Progress
    interruption: Interruption
    on_validation: OnValidation | None
    validation: Mapping[str, jax.Array]
    observer: Observer

    def train_phase(self, phase: Phase, compiling: Future[_Compiled], state: TrainState, source: Source) -> TrainState:
        """Trains from `state`, which lies within the phase, to the phase's end."""
        with Feed(source, self.placement, phase.batch_size, MOST_STEPS, int(state.step), phase.end) as feed:
            began = time.monotonic()
            compiled = compiling.result()
            waited = time.monotonic() - began
            with self.interruption.held():
                self._write(phase, int(state.step), "setup", compile_seconds=compiled.seconds, compile_wait=waited)
                return self._train_phase(phase, compiled, state, feed, source.steps_per_epoch)

    def _train_phase(
        self, phase: Phase, compiled: _Compiled, state: TrainState, feed: Feed, steps_per_epoch: int
    ) -> TrainState:
        # `done` counts steps that were sent. Results arrive a few dispatches later, in `on_result`.
        settings = self.settings
        refused = 0  # steps in a row, up to the last one whose result is here
        newest: MetricSums | None = None  # of the steps since the last record
        first = done = int(state.step)
        _log.info("phase %s: steps %d to %d of %d examples", phase.name, phase.start, phase.end, phase.batch_size)
        self.observer.started(phase, done)
        self.progress.start(
            phase.name, phase.end, phase.batch_size, later=functools.partial(self.observer.later, phase)
        )
        lowest = self.checkpoints.lowest(phase.name) if done > phase.start else None
        began = saved_at = noted_at = time.monotonic()

        def host_signals() -> HostSignals:
            save = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
            return HostSignals(self.interruption.exit_code, save)

        def on_result(result: Result) -> None:
            nonlocal refused, newest
            newest = result.sums
            for step, taken in enumerate(result.finite, start=result.end - len(result.finite) + 1):
                refused = 0 if taken else refused + 1
                if refused == settings.most_refused_steps:
                    self.checkpoints.wait()  # the message is to name the one in flight
                    raise TrainingDiverged(_diverged(phase, step, refused, self.checkpoints.latest()))
            self.progress.update(result.end, functools.partial(_progress_metrics, result.sums))
            if result.complete:
                self._write(phase, result.end, "train", **result.sums.means())

        def save(loss: float | None = None) -> None:
            nonlocal noted_at, saved_at
            # Up to what is saved: what a killed process did after that is done again, and counts then.
            now = time.monotonic()
            self._write(phase, done, "clock", seconds=now - noted_at)
            noted_at = now
            self.writer.flush()  # a resumed run drops later records: those up to here must be on disk first
            compared = loss if phase.comparable else None
            saved = self.checkpoints.save(phase.name, state, validation_loss=compared, final=done == phase.end)
            self.interruption.hold_until(saved)
            saved_at = time.monotonic()

        inline = runs_inline(self.placement.mesh)
        dispatcher = Dispatcher(compiled.train, settings.steps_per_dispatch, host_signals, on_result, inline)
        validation_steps = settings.validate_every * steps_per_epoch
        periods = (settings.log_every, validation_steps, settings.checkpoint_every or phase.steps)
        while done < phase.end:
            # A dispatch ends where something is due, so that it happens at the same step however many steps are sent.
            unread = feed.advance(done)
            if unread:
                dispatcher.drain()
                if done > first and refused == 0:
                    save()
                    self.checkpoints.wait()
                unread.add_note(f"The examples of the steps after step {done} cannot be read.")
                if not isinstance(unread, OSError):  # `fit` adds this to the errors of disks
                    unread.add_note(_safe(self.checkpoints.latest()))
                raise unread
            to_border = (period - (done - phase.start) % period for period in periods)
            steps = min(feed.room(done), *to_border, dispatcher.steps_at_once)
            arrays, indices = feed.take(done, steps)
            done += steps
            last = done == phase.end
            record, to_validate, on_step = (last or (done - phase.start) % period == 0 for period in periods)
            state = dispatcher.send(state, arrays, indices, end=done, complete=record)
            agreed = dispatcher.agreed  # not this host's signals alone: all hosts must take the same branch
            if not (to_validate or on_step or agreed.save or agreed.exit_code):
                continue
            dispatcher.drain()  # `refused` is now that of step `done`
            loss = self._validate(compiled.evaluate, phase, state, done) if to_validate else None
            if loss is not None:
                lowest = self._tell_validation(phase, done, newest, loss, lowest)
            failed = self._call_back(phase, state) if loss is not None else None
            # Not amid refused steps: a run that goes on from there would count them anew.
            due = refused == 0 and (failed or agreed.save or on_step or self._is_best(phase, loss))
            if last or agreed.exit_code or due:
                save(loss)
            if failed:
                self.checkpoints.wait()
                raise failed
            if agreed.exit_code:
                self.checkpoints.wait()  # it is written in the background, and the process is about to end
                _log.info("saved at step %d; the same command goes on from there", done)
                raise Interrupted(agreed.exit_code, agreed=True)
        # The last dispatch was drained, so this counts steps that are done; without the wait for the compiler.
        speed = (done - first) / (time.monotonic() - began)
        measured = {"steps": done - first, "steps_per_second": speed, "images_per_second": speed * phase.batch_size}
        self._write(phase, done, "speed", **measured)
        starved = f"{100 * dispatcher.starved / dispatcher.dispatches:.0f} % of {dispatcher.dispatches} dispatches"
        # Where the host itself computes, neither waits for the other.
        waits = "" if inline else f"; the device waited for the host before {starved}"
        _log.debug("phase %s: %.4g steps/s%s", phase.name, speed, waits)
        return state

    def _validate(self, evaluation: Evaluation | None, phase: Phase, state: TrainState, step: int) -> float | None:
        """Evaluates and writes the record; returns the mean loss, None without an evaluation."""
        if evaluation is None:
            return None
        means = evaluation(state, self.validation)
        self._write(phase, step, "validation", **means)
        return means["loss"]

    def _tell_validation(
        self, phase: Phase, step: int, sums: MetricSums | None, loss: float, lowest: tuple[float, int] | None
    ) -> tuple[float, int]:
        """Logs a validation, and whether it is the best where losses compare; returns the lowest loss and its step."""
        training = sums.means().get("loss") if sums else None
        of_training = "" if training is None else f"{training:.4g} in training, "
        best = lowest is None or loss < lowest[0]
        if not phase.comparable:
            verdict = f"which compares with no other step: {INCOMPARABLE}"
        elif best or lowest is None:
            verdict = "the best so far"
        else:
            verdict = f"the best was {lowest[0]:.4g} at step {lowest[1]}"
        self.progress.close()
        _log.info("phase %s, step %d: loss %s%.4g in validation, %s", phase.name, step, of_training, loss, verdict)
        return (loss, step) if best or lowest is None else lowest

    def _call_back(self, phase: Phase, state: TrainState) -> BaseException | None:
        """Calls `on_validation`; returns what it failed with on this host or, in words, on another one."""
        if self.on_validation is None:
            return None
        whole = {name: self.placement.gather(getattr(state, name)) for name in ("params", "ema", "model_state")}
        failed: BaseException | None = None
        try:
            self.on_validation(state.replace(**whole), phase, self.writer)
        except (Exception, SystemExit) as error:
            failed = error
        return failed_anywhere(failed, "on_validation")

    def _is_best(self, phase: Phase, loss: float | None) -> bool:
        """True if no checkpoint of the phase has a validation loss as low as this one; the same on all hosts."""
        if loss is None or not phase.comparable or not np.isfinite(loss):
            return False
        self.checkpoints.wait()
        lowest = self.checkpoints.lowest(phase.name)  # of those that are kept, among which the best one always is
        better = lowest is None or loss < lowest[0]
        # One host decides: the others may see a manifest that is about to change.
        return bool(multihost_utils.broadcast_one_to_all(np.array(better)))

    def _write(self, phase: Phase, step: int, split: str, **scalars: float) -> None:
        self.writer.write_scalars(step, scalars, phase=phase.name, split=split)


def _progress_metrics(sums: MetricSums) -> dict[str, float]:
    """Metrics for a progress line, without the share of steps taken if that is all of them."""
    means = sums.means()
    return {name: value for name, value in means.items() if name != "step/finite" or value < 1}


def _safe(checkpoint: tuple[str, int] | None) -> str:
    if jax.process_index() != 0:  # the first process completes checkpoints, perhaps at this moment
        return "It goes on from what process 0 has saved."
    if checkpoint is None:
        return "Nothing was saved before."
    return "It goes on from step {1} of phase {0}, which is saved.".format(*checkpoint)


def _diverged(phase: Phase, step: int, refused: int, checkpoint: tuple[str, int] | None) -> str:
    kept = "The newest checkpoint is step {1} of phase {0}.".format(*checkpoint) if checkpoint else ""
    return (
        f"phase {phase.name!r}, step {step}: the last {refused} steps were refused because a loss or a gradient "
        f"was not finite. Their parameters were not used. {kept} Lower the learning rate or the loss weights, "
        "look for bad values in the data, and use a new workdir."
    )
