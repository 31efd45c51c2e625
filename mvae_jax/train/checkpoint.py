"""Checkpoints that survive kills and notice damage.

Orbax writes and reads the arrays of a state. This module adds what Orbax does not have: a manifest with the sha256
sums of a checkpoint's files, a comparison that names every array that does not fit, and the choice of what to keep.

A folder has the name `checkpoints/<phase>/<step>` only while it is complete: it gets that name last, with the manifest
in it, and loses it first. So a process that is killed while it saves or deletes leaves a folder of another name, which
is never read and which the next save clears away; and what has such a name and no manifest was damaged.

The manifest states the run, as `config.json` does, the phase and the step. A folder that it does not fit is another's.
What is damaged or another's is never deleted: the run goes on from the checkpoint before it, and it is kept under
another name. Where no checkpoint is left, the run is refused.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mvae_jax import files
from mvae_jax.train import config_file, manifests
from mvae_jax.train.config_file import DamagedRun
from mvae_jax.train.manifests import DamagedCheckpoint
from mvae_jax.train.workdir import set_aside, sync

_log = logging.getLogger(__name__)
_SAVING, _DELETING = ".saving", ".deleting"
_LEFT = re.compile(r"[0-9]+\.(saving|deleting|orbax-checkpoint-tmp)\S*")  # by a process that was killed
_NONE, _REFUSED = -1, -2  # in place of a step
_PATIENCE = 1200  # seconds in which this process runs, after which a save counts as hung
_NO_LIMIT = 10**8  # seconds


class Checkpoints:
    """Saves and restores the states of one run.

    Only one process may save; any number may look and restore meanwhile. With several hosts all of them call
    every method with the same arguments, on a shared file system.

    Args:
        workdir: folder of the run; checkpoints lie in its subfolder `checkpoints`.
        phases: names of the run's phases in their order.
        keep: how many of the newest checkpoints of each phase to keep. The one with the lowest validation loss
            and the final one of each phase are kept besides.

    Raises:
        ValueError: `keep` is below 1, or a phase's name cannot be the name of a folder.
    """

    def __init__(self, workdir: str | os.PathLike[str], phases: Sequence[str], *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1 checkpoint per phase.")
        for phase in phases:
            if not re.fullmatch(r"\w[\w.-]*", phase):
                raise ValueError(f"phase name {phase!r} cannot name a folder; use letters, digits, '_', '-' and '.'.")
        self._root = files.expanded(workdir).resolve() / "checkpoints"  # Orbax refuses relative paths
        self._phases = tuple(phases)
        self._keep = keep
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._newest: tuple[str, int] | None = None  # saved or resumed last
        logging.getLogger("absl").addFilter(_quiet)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def save(
        self, phase: str, state: Any, *, validation_loss: float | None = None, final: bool = False
    ) -> Future[None]:
        """Saves a state in the background.

        Returns when the arrays are copied to the host, so that the state may be donated afterwards. One save is in
        flight at a time: a second one waits for the first. Saving the same step again only adds what is new about
        it, for the state at a step is always the same.

        Args:
            phase: name of the phase that the state belongs to.
            state: a tree of arrays with attributes `step` and `skipped`.
            validation_loss: loss of this state on the validation set. None, or a loss that is not finite, takes no
                part in the choice of the best checkpoint.
            final: whether this is the last step of the phase.

        Returns:
            Done when the checkpoint is complete, or has failed.

        Raises:
            Exception: the save before this one failed; it is the error of that save.
        """
        self.wait()
        step = int(state.step)
        changes: dict[str, Any] = {"final": True} if final else {}
        if validation_loss is not None and math.isfinite(validation_loss):
            changes["validation_loss"] = float(validation_loss)
        written = None
        if self._newest != (phase, step):
            context = _orbax().Context()
            # Orbax's limits go by the clock, also while the process is stopped or the machine sleeps: `_finish` has one
            # that does not. Nor does a single process wait, within a limit of its own, for folders that are there.
            context.asynchronous.timeout_secs = _NO_LIMIT
            context.asynchronous.create_directories_asynchronously = False
            with context:  # overwrites what a killed process has left there
                written = _orbax().save_async(_unfinished(self._folder(phase, step)), state, overwrite=True)
            changes = {
                **({"run_id": self._run} if self._run else {}),
                "phase": phase,
                "step": step,
                "final": False,
                "validation_loss": None,
                "skipped": int(state.skipped),
                "versions": manifests.versions(),
                "arrays": _describe(state),
                **changes,
            }
        self._pending = self._executor.submit(self._commit, phase, step, written, changes, _size(state))
        self._newest = phase, step
        return self._pending

    def check_room(self, state: Any) -> None:
        """Refuses a disk on which a state, of arrays or of their shapes, has no room.

        Raises:
            DiskFull: there is less room than a checkpoint takes.
        """
        if jax.process_index() == 0:
            files.check_room(self._root, _size(state))

    def wait(self) -> None:
        """Waits until the save in flight is complete, and raises what it failed with."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            try:
                pending.result()
            except BaseException:
                self._newest = None  # nothing is known to be there
                raise

    def close(self) -> None:
        """Waits for the save in flight; no other can follow."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()

    def steps(self, phase: str) -> list[int]:
        """Steps of a phase's complete checkpoints, in ascending order; also of those that are damaged by now."""
        return sorted(self._folders(phase))

    def latest(self) -> tuple[str, int] | None:
        """Phase and step of the newest complete checkpoint, damaged or not; None if there is none."""
        return next(((phase, steps[-1]) for phase in reversed(self._phases) if (steps := self.steps(phase))), None)

    def best(self, phase: str) -> int | None:
        """Step with the lowest validation loss among a phase's checkpoints; None if none has a loss.

        Raises:
            DamagedCheckpoint: nobody knows the loss of one of them.
        """
        intact, damaged = self._manifests(phase)
        for error in damaged.values():
            raise error
        return _best(intact)

    def lowest(self, phase: str) -> tuple[float, int] | None:
        """Lowest validation loss among a phase's checkpoints that can be read, and its step; None if none has one."""
        intact, _ = self._manifests(phase)
        best = _best(intact)
        return None if best is None else (intact[best]["validation_loss"], best)

    def metadata(self, phase: str, step: int) -> dict[str, Any]:
        """Manifest of a checkpoint: run_id, phase, step, final, validation_loss, skipped, versions, arrays, files.

        There is no run_id where the workdir has no config.json, or where an earlier version has saved.

        Raises:
            DamagedCheckpoint: there is no checkpoint of that step, or it is another's.
        """
        return manifests.read(self._folder(phase, step), self._run)

    def restore(self, phase: str, step: int, abstract_state: Any = None, *, parts: Collection[str] = ()) -> Any:
        """Restores a state bit by bit, on the devices that `abstract_state` asks for.

        Args:
            phase: name of its phase.
            step: its step.
            abstract_state: a tree of `jax.ShapeDtypeStruct` or arrays, each with the sharding that the restored
                array shall have; without one it goes to the first device. The number of devices may differ from
                that of the run which saved. None takes arrays as they were saved, to the first device.
            parts: names of the fields to take of a state without `abstract_state`, such as "params"; by default all.
                What is left out is not read, only checked.

        Returns:
            The state, in the structure of `abstract_state`, or in nested dicts and lists without one.

        Raises:
            DamagedCheckpoint: there is no such checkpoint, its files are not those that were saved, or it is another's.
            ValueError: arrays of the checkpoint and of `abstract_state` differ; the message lists all of them.
        """
        folder = self._folder(phase, step)
        manifest = manifests.verify(folder, self._run)
        if abstract_state is None:
            # Without the shardings of the run that saved: its devices need not exist here.
            saved = _orbax().metadata(folder).metadata
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)
            return _load_targets(folder, {part: tree for part, tree in shapes.items() if part in parts or not parts})
        return _load(folder, manifest, abstract_state)

    def resume(self, abstract_state: Callable[[str], Any]) -> tuple[str, int, Any] | None:
        """Restores the newest checkpoint that is intact, and keeps those after it under other names.

        For the process that trains.

        Args:
            abstract_state: phase name -> what `restore` takes for a state of that phase.

        Returns:
            Phase, step and state; None if there is no checkpoint at all.

        Raises:
            DamagedRun: `check` refuses the workdir, or all checkpoints are of other phases.
            ValueError: the newest intact checkpoint does not fit `abstract_state`.
        """
        self.wait()
        index, step = 0, _NONE
        refusal: DamagedRun | None = None
        if jax.process_index() == 0:
            try:
                index, step = self._fall_back()
            except DamagedRun as error:
                step, refusal = _REFUSED, error
        # One host chooses, lest two of them see a shared file system differently and restore different steps.
        chosen = multihost_utils.broadcast_one_to_all(np.array((index, step), np.int32))
        index, step = (int(number) for number in chosen)
        if step == _REFUSED:
            raise refusal or DamagedRun(f"{self._root} is refused: the first process tells why.")
        if step == _NONE:
            return None
        phase = self._phases[index]
        folder = self._folder(phase, step)
        state = _load(folder, manifests.read(folder, self._run), abstract_state(phase))
        self._newest = phase, step
        return phase, step, state

    def check(self) -> None:
        """Refuses a workdir from which `resume` could not go on; changes nothing.

        Raises:
            DamagedRun: there are checkpoints of the phases, and none of them is intact and of this run; or
                `config.json` is missing or not as it was written.
        """
        if jax.process_index() == 0:
            self._newest_intact()

    @functools.cached_property
    def _run(self) -> str | None:
        """Id of the workdir's run. Read when it is first needed: the first process may be about to write it."""
        return config_file.run_of(self._root.parent)

    def _folder(self, phase: str, step: int) -> Path:
        if phase not in self._phases:
            raise ValueError(f"unknown phase {phase!r}; the phases are {list(self._phases)}.")
        return self._root / phase / str(step)

    def _folders(self, phase: str) -> dict[int, Path]:
        """Folders of a phase's complete checkpoints by step, whatever has become of them since."""
        return {int(folder.name): folder for folder in _steps(self._root / phase)}

    def _manifests(self, phase: str) -> tuple[dict[int, dict[str, Any]], dict[Path, DamagedCheckpoint]]:
        """Manifests of a phase's checkpoints by step, and what is wrong with those that have none of their own."""
        intact, damaged = {}, {}
        for step, folder in self._folders(phase).items():
            try:
                intact[step] = manifests.read(folder, self._run)
            except DamagedCheckpoint as error:
                if folder.is_dir():  # the process that trains may have deleted it
                    damaged[folder] = error
        return intact, damaged

    def _newest_intact(self) -> tuple[int, int, dict[Path, DamagedCheckpoint]]:
        """Index of the phase and step of the newest intact checkpoint, and those after it with what is wrong.

        (0, _NONE) if there is no checkpoint at all; raises what `check` does.
        """
        damaged: dict[Path, DamagedCheckpoint] = {}
        for index, phase in reversed(list(enumerate(self._phases))):
            for step, folder in sorted(self._folders(phase).items(), reverse=True):
                try:
                    manifest = manifests.verify(folder, self._run)
                except DamagedCheckpoint as error:
                    damaged[folder] = error
                    continue
                if self._run is None and "run_id" in manifest:
                    raise DamagedRun(
                        f"{self._root.parent / config_file.NAME} is missing, which says what the checkpoints beside it "
                        "are of: restore it from a copy, or choose another workdir."
                    )
                return index, step, damaged
        if damaged:
            newest = next(iter(damaged.values()))
            raise DamagedCheckpoint(
                f"{self._root} has no checkpoint that is intact: restore one from a copy, or, to begin anew, move that "
                f"folder away or choose another workdir. Of the newest: {newest}"
            )
        return 0, _NONE, {}

    def _fall_back(self) -> tuple[int, int]:
        """Index of the phase and step of the newest intact checkpoint, from now on the newest of all."""
        index, step, damaged = self._newest_intact()
        others = sorted(path.name for path in self._root.glob("*") if path.name not in self._phases and _steps(path))
        if step == _NONE and others:
            raise DamagedRun(
                f"{self._root} has checkpoints of the phases {', '.join(others)}, and none of this run's, "
                f"{', '.join(self._phases)}: give them their names back, or choose another workdir."
            )
        for folder, error in damaged.items():
            _keep(folder, error)
        return index, step

    def _commit(self, phase: str, step: int, written: Any, changes: Mapping[str, Any], size: int) -> None:
        """Completes a checkpoint in the background: files, manifest, name, then what it makes superfluous."""
        folder = self._folder(phase, step)
        if written is not None:
            with files.written(folder, size):
                _finish(written, folder)  # of all hosts
        if jax.process_index() != 0:
            return
        if written is None:
            manifests.write(folder, {**manifests.read(folder, self._run), **changes})
        else:
            unfinished = _unfinished(folder)
            manifests.write(unfinished, {"files": manifests.sums(unfinished, durable=True), **changes})
            if folder.exists():  # of a run that was continued from an earlier step
                _delete(folder)
            _rename(unfinished, folder)
        self._sweep(phase)

    def _sweep(self, phase: str) -> None:
        """Deletes what a phase need not keep, and what killed processes left. Nothing is being written."""
        for folder in self._root.glob("*/*"):
            if _LEFT.fullmatch(folder.name):
                shutil.rmtree(folder)
        intact, damaged = self._manifests(phase)
        for folder, error in damaged.items():
            _keep(folder, error)
        kept = {*sorted(intact)[-self._keep :], _best(intact)}
        kept |= {step for step, manifest in intact.items() if manifest["final"]}
        for step in intact.keys() - kept:
            _delete(self._folder(phase, step))


def _steps(phase: Path) -> list[Path]:
    """Folders of the complete checkpoints in the folder of a phase."""
    return [path for path in phase.glob("*") if re.fullmatch("[0-9]+", path.name) and path.is_dir()]


def _unfinished(folder: Path) -> Path:
    """What a checkpoint is called until it is complete."""
    return folder.with_name(folder.name + _SAVING)


def _finish(written: Any, folder: Path) -> None:
    """Waits until a checkpoint is written, in steps of a second, each of which counts as one however long it takes."""
    outcome: Future[None] = Future()  # the save's own error may be a timeout too

    def follow() -> None:
        try:
            outcome.set_result(written.result())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=follow, daemon=True).start()
    for _ in range(_PATIENCE):
        if wait({outcome}, timeout=1.0).done:
            return outcome.result()
    raise TimeoutError(
        f"{folder} is not written after {_PATIENCE} s: see whether its disk answers, end the process if it does not "
        "end by itself, and give the command again, which goes on from the checkpoint before."
    )


def _rename(folder: Path, to: Path) -> None:
    folder.rename(to)
    sync(to.parent)


def _delete(folder: Path) -> None:
    """Deletes a checkpoint, its name first."""
    deleting = folder.with_name(folder.name + _DELETING)
    if deleting.exists():
        shutil.rmtree(deleting)
    _rename(folder, deleting)
    shutil.rmtree(deleting)


def _keep(folder: Path, error: DamagedCheckpoint) -> None:
    """Keeps what is damaged or another's under a name by which it is no checkpoint, and says so."""
    _log.warning("%s It is kept as %s, and the checkpoints before it count.", error, set_aside(folder))


def find(path: str | os.PathLike[str]) -> Path:
    """Folder of the checkpoint that a path means: its own, or the newest of the run whose workdir it is.

    Raises:
        FileNotFoundError: there is no such folder, or no checkpoint in it.
        ValueError: it is an exported model.
        DamagedRun: the checkpoint, or the workdir's config.json, is damaged, or the checkpoint another's.
    """
    folder = files.expanded(path).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; expected the workdir of a run, or one of its checkpoints.")
    config_file.refuse_export(folder)
    if folder.parent.parent.name != "checkpoints":
        complete = {int(path.name): path for phase in folder.glob("checkpoints/*") for path in _steps(phase)}
        if not complete:
            raise FileNotFoundError(f"{folder} has no checkpoint yet; expected the workdir of a run that has one.")
        folder = complete[max(complete)]  # steps count over all phases
    manifests.read(folder, manifests.run_of(folder))
    return folder


def check_parts(folder: Path, wanted: Mapping[str, Any]) -> dict[str, str]:
    """Refuses a checkpoint that is damaged, or whose arrays in the wanted groups are not those wanted.

    Args:
        folder: what `find` returned.
        wanted: {"params": {group: tree}, "model_state": {group: tree}} of shapes. Other groups of the checkpoint
            are not looked at.

    Returns:
        {path: "float32[3,4]"} of all arrays of the checkpoint.

    Raises:
        DamagedRun: the checkpoint's files or the workdir's config.json are not as they were written, or the checkpoint
            is another's.
        ValueError: arrays of these groups differ; the message lists all of them.
    """
    saved: dict[str, str] = manifests.verify(folder, manifests.run_of(folder))["arrays"]
    groups = tuple(f"{part}/{group}/" for part, trees in wanted.items() for group in trees)
    common = {name: array for name, array in saved.items() if f"{name}/".startswith(groups)}
    if not common:
        saved_groups = sorted({name.split("/")[1] for name in saved if name.startswith("params/")})
        raise ValueError(
            f"{folder} is of another model: its groups are {saved_groups}, expected {sorted(wanted['params'])}."
        )
    _check_fit(folder, common, _describe(wanted), "start from another one")
    return saved


def load_parts(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Loads groups of a checkpoint that `check_parts` accepts, with the same arguments and errors.

    Parameters are the moving average where the checkpoint has one. Arrays go where the shardings of `wanted` say.
    """
    saved = check_parts(folder, wanted)
    plain, averaged = dict(wanted["params"]), {}
    for group in wanted["params"]:
        if any(f"{name}/".startswith(f"ema/{group}/") for name in saved):
            averaged[group] = plain.pop(group)
    parts = {"params": plain, "ema": averaged, "model_state": wanted["model_state"]}
    loaded = _load_targets(folder, {part: trees for part, trees in parts.items() if trees})
    return {
        "params": {**loaded.get("params", {}), **loaded.get("ema", {})},
        "model_state": loaded.get("model_state", {}),
    }


def _orbax() -> Any:
    """Orbax, loaded by what reads or writes checkpoints and by nothing else: it is slow to import."""
    from orbax.checkpoint import v1

    return v1


def _best(intact: Mapping[int, Mapping[str, Any]]) -> int | None:
    losses = {step: manifest["validation_loss"] for step, manifest in intact.items()}
    return min(
        (step for step in losses if losses[step] is not None), key=lambda step: (losses[step], step), default=None
    )


def _load(folder: Path, manifest: Mapping[str, Any], abstract_state: Any) -> Any:
    _check_fit(folder, manifest["arrays"], _describe(abstract_state), "choose another workdir")
    return _load_targets(folder, abstract_state)


def _load_targets(folder: Path, abstract_state: Any) -> Any:
    """Loads a whole state, or those of its fields that are asked for."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or first, abstract_state)
    targets = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )
    context = _orbax().Context()
    context.pytree.loading.partial_load = True
    with context:
        loaded = _orbax().load(folder, targets)
    # Orbax may give a key the sharding of its data, which has one axis more; nothing else is moved here.
    return jax.device_put(loaded, shardings)


def _size(state: Any) -> int:
    """Bytes of all arrays of a state."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _describe(state: Any) -> dict[str, str]:
    """{path: "float32[3,4]"} of every array of a state."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_fit(folder: Path, saved: Mapping[str, str], wanted: Mapping[str, str], remedy: str) -> None:
    differing = [
        f"  {path}: checkpoint has {saved.get(path, 'nothing')}, this model {wanted.get(path, 'nothing')}"
        for path in sorted(saved.keys() | wanted.keys())
        if saved.get(path) != wanted.get(path)
    ]
    if differing and all(saved.get(path, "").replace("64[", "32[") == wanted.get(path) for path in {*saved, *wanted}):
        raise ValueError(
            f"{folder} has float64 parameters, {len(differing)} arrays of 64 bits: an older version trained it under "
            f"jax_enable_x64. Go on with that version; this one trains in float32: {remedy}."
        )
    if differing:
        raise ValueError(
            f"{folder} does not fit this model; {len(differing)} arrays differ:\n"
            + "\n".join(differing)
            + f"\nBuild the model with the settings that the run was started with, or {remedy}."
        )


def _quiet(record: logging.LogRecord) -> bool:
    """Keeps the dozens of information lines that Orbax logs per save out of a run's log, and its threads' errors.

    These errors are raised to who waits for the save as well.
    """
    telling = record.levelno >= logging.WARNING and not record.exc_info
    return telling or f"{os.sep}orbax{os.sep}" not in record.pathname
