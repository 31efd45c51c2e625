"""Checkpoints that survive kills and notice damage.

Orbax writes and reads the arrays of a state. This module adds what Orbax does not have: a manifest with the sha256
sums of a checkpoint's files, a comparison that names every array that does not fit, and the choice of what to keep.

A folder `checkpoints/<phase>/<step>/` is a checkpoint if and only if it holds a readable `manifest.json`. The
manifest is written last, atomically, and removed first. So a process that is killed while it saves or deletes
leaves a folder without manifest, which is never restored and which the next save of that phase clears away.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import mvae_jax
from mvae_jax import _json, files
from mvae_jax.train.workdir import atomic_write

_log = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


class DamagedCheckpoint(ValueError):  # noqa: N818
    """A checkpoint is incomplete, or its files are not those that were saved."""


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
        self._root = Path(workdir).expanduser().resolve() / "checkpoints"  # Orbax refuses relative paths
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
            # Overwrites what a killed process, or a run that was continued from an earlier step, has left there.
            written = _orbax().save_async(self._folder(phase, step), state, overwrite=True)
            changes = {
                "phase": phase,
                "step": step,
                "final": False,
                "validation_loss": None,
                "skipped": int(state.skipped),
                "versions": _versions(),
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
        """Steps of a phase's complete checkpoints, in ascending order."""
        return sorted(self._manifests(phase))

    def latest(self) -> tuple[str, int] | None:
        """Phase and step of the newest complete checkpoint; None if there is none."""
        return next(((phase, steps[-1]) for phase in reversed(self._phases) if (steps := self.steps(phase))), None)

    def best(self, phase: str) -> int | None:
        """Step with the lowest validation loss among a phase's checkpoints; None if none has a loss."""
        return _best(self._manifests(phase))

    def metadata(self, phase: str, step: int) -> dict[str, Any]:
        """Manifest of a checkpoint: phase, step, final, validation_loss, skipped, versions, arrays, files.

        Raises:
            DamagedCheckpoint: there is no complete checkpoint of that step.
        """
        return _read_manifest(self._folder(phase, step))

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
            DamagedCheckpoint: the checkpoint is incomplete, or its files are not those that were saved.
            ValueError: arrays of the checkpoint and of `abstract_state` differ; the message lists all of them.
        """
        folder = self._folder(phase, step)
        manifest = _verify(folder)
        if abstract_state is None:
            # Without the shardings of the run that saved: its devices need not exist here.
            saved = _orbax().metadata(folder).metadata
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)
            return _load_targets(folder, {part: tree for part, tree in shapes.items() if part in parts or not parts})
        return _load(folder, manifest, abstract_state)

    def resume(self, abstract_state: Callable[[str], Any]) -> tuple[str, int, Any] | None:
        """Restores the newest checkpoint that is intact, and gives up those after it.

        For the process that trains: a damaged checkpoint loses its manifest, and is cleared away by the next save.

        Args:
            abstract_state: phase name -> what `restore` takes for a state of that phase.

        Returns:
            Phase, step and state; None if no phase has an intact checkpoint.

        Raises:
            ValueError: the newest intact checkpoint does not fit `abstract_state`.
        """
        self.wait()
        newest = self._newest_intact() if jax.process_index() == 0 else (0, -1)
        # One host chooses, lest two of them see a shared file system differently and restore different steps.
        index, step = (int(number) for number in multihost_utils.broadcast_one_to_all(np.array(newest, np.int32)))
        if step < 0:
            return None
        phase = self._phases[index]
        folder = self._folder(phase, step)
        state = _load(folder, _read_manifest(folder), abstract_state(phase))
        self._newest = phase, step
        return phase, step, state

    def _folder(self, phase: str, step: int) -> Path:
        if phase not in self._phases:
            raise ValueError(f"unknown phase {phase!r}; the phases are {list(self._phases)}.")
        return self._root / phase / str(step)

    def _folders(self, phase: str) -> dict[int, Path]:
        """All step folders of a phase, complete or not."""
        folder = self._root / phase
        names = os.listdir(folder) if folder.is_dir() else []
        return {int(name): folder / name for name in names if re.fullmatch("[0-9]+", name)}

    def _manifests(self, phase: str) -> dict[int, dict[str, Any]]:
        manifests = {}
        for step, folder in self._folders(phase).items():
            try:
                manifests[step] = _read_manifest(folder)
            except DamagedCheckpoint:
                continue
        return manifests

    def _newest_intact(self) -> tuple[int, int]:
        """Index of the phase and step of the newest intact checkpoint, (0, -1) if there is none."""
        for index, phase in reversed(list(enumerate(self._phases))):
            for step, folder in sorted(self._folders(phase).items(), reverse=True):
                try:
                    _verify(folder)
                except DamagedCheckpoint as error:
                    _log.warning("%s Falling back to the checkpoint before it.", error)
                    (folder / _MANIFEST).unlink(missing_ok=True)
                else:
                    return index, step
        return 0, -1

    def _commit(self, phase: str, step: int, written: Any, changes: Mapping[str, Any], size: int) -> None:
        """Completes a checkpoint in the background: files, then manifest, then what it makes superfluous."""
        folder = self._folder(phase, step)
        if written is not None:
            with files.written(folder, size):
                written.result()  # of all hosts
        if jax.process_index() != 0:
            return
        before = {"files": _sums(folder, durable=True)} if written is not None else _read_manifest(folder)
        _write_manifest(folder, {**before, **changes})
        self._sweep(phase)

    def _sweep(self, phase: str) -> None:
        """Deletes what a phase need not keep, and what killed processes left. Nothing of it is being written."""
        manifests = self._manifests(phase)
        kept = {*sorted(manifests)[-self._keep :], _best(manifests)}
        kept |= {step for step, manifest in manifests.items() if manifest["final"]}
        for step, folder in self._folders(phase).items():
            if step not in kept:
                (folder / _MANIFEST).unlink(missing_ok=True)  # from here on it is no checkpoint
                shutil.rmtree(folder)
        for folder in (self._root / phase).glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(folder)


def find(path: str | os.PathLike[str]) -> Path:
    """Folder of the checkpoint that a path means: its own, or the newest of the run whose workdir it is.

    Raises:
        FileNotFoundError: there is no such folder, or no checkpoint in it.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; expected the workdir of a run, or one of its checkpoints.")
    if folder.parent.parent.name == "checkpoints":
        return folder
    folders = [manifest.parent for manifest in folder.glob(f"checkpoints/*/*/{_MANIFEST}")]
    complete = {int(checkpoint.name): checkpoint for checkpoint in folders if checkpoint.name.isdecimal()}
    if not complete:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; expected the workdir of a run that has one.")
    return complete[max(complete)]  # steps count over all phases


def check_parts(folder: Path, wanted: Mapping[str, Any]) -> dict[str, str]:
    """Refuses a checkpoint that is damaged, or whose arrays in the wanted groups are not those wanted.

    Args:
        folder: what `find` returned.
        wanted: {"params": {group: tree}, "model_state": {group: tree}} of shapes. Other groups of the checkpoint
            are not looked at.

    Returns:
        {path: "float32[3,4]"} of all arrays of the checkpoint.

    Raises:
        DamagedCheckpoint: the checkpoint is incomplete, or its files are not those that were saved.
        ValueError: arrays of these groups differ; the message lists all of them.
    """
    saved: dict[str, str] = _verify(folder)["arrays"]
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


def _best(manifests: Mapping[int, Mapping[str, Any]]) -> int | None:
    losses = {step: manifest["validation_loss"] for step, manifest in manifests.items()}
    return min(
        (step for step in losses if losses[step] is not None), key=lambda step: (losses[step], step), default=None
    )


def _sums(folder: Path, *, durable: bool = False) -> dict[str, str]:
    """Sums of all files of a checkpoint but the manifest, {path: sha256}; `durable` forces them to disk before."""
    sums = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST):
        with path.open("rb") as file:
            if durable:
                os.fsync(file.fileno())
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    body = {name: value for name, value in content.items() if name != "sha256"}
    atomic_write(folder / _MANIFEST, json.dumps({**body, "sha256": _digest(body)}, indent=1) + "\n")


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = _json.load(folder / _MANIFEST)
        intact = manifest.pop("sha256") == _digest(manifest)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{folder} has no {_MANIFEST}: it was never completed.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise DamagedCheckpoint(f"{folder} has a damaged {_MANIFEST}.")
    return manifest


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are as they were saved."""
    manifest = _read_manifest(folder)
    expected, actual = manifest["files"], _sums(folder)
    wrong = sorted(name for name in expected if actual.get(name) != expected[name])
    if wrong:
        listing = ", ".join(f"{name} ({'changed' if name in actual else 'missing'})" for name in wrong)
        raise DamagedCheckpoint(f"{folder} is damaged: {listing}.")
    return manifest


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
    if differing:
        raise ValueError(
            f"{folder} does not fit this model; {len(differing)} arrays differ:\n"
            + "\n".join(differing)
            + f"\nBuild the model with the settings that the run was started with, or {remedy}."
        )


def _versions() -> dict[str, str]:
    installed = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "mvae_jax": mvae_jax.__version__, **installed}


def _quiet(record: logging.LogRecord) -> bool:
    """Keeps the dozens of information lines that Orbax logs per save out of a run's log, and its threads' errors.

    These errors are raised to who waits for the save as well.
    """
    telling = record.levelno >= logging.WARNING and not record.exc_info
    return telling or f"{os.sep}orbax{os.sep}" not in record.pathname
