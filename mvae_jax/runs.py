"""A trained run in one line: `run = load("runs/celebahq_mvae")`, then `run.encode_image(images)`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec

from mvae_jax.models import ZOO
from mvae_jax.objective import Model, ModelState, Params
from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.state import TrainState

ConfigT = TypeVar("ConfigT")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A model with the parameters of a checkpoint.

    The model's functions are attributes, compiled, and hold parameters and state already: `run.encode(images)`,
    `run.decode(z)`, `run.sample(key, count)`, and those of `run.model.functions`, such as `run.encode_image`.

    Attributes:
        model: the model's pure functions.
        config: the model's Config.
        params: {group: parameters}; the moving average where the run kept one.
        model_state: {group: batch statistics}.
        phase: name of the checkpoint's phase.
        step: steps done at the checkpoint.
        settings: what config.json says of the run.
    """

    model: Model
    config: Any
    params: Params
    model_state: ModelState
    phase: str
    step: int
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model, config: Any, state: TrainState, phase: str, settings: Mapping[str, Any]) -> Run:
        """A run from a state in memory, on the first device as if it had been loaded; on all hosts at once."""

        def first(leaf: jax.Array) -> jax.Array:
            if not leaf.is_fully_replicated:
                leaf = jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))  # type: ignore[attr-defined]
            return leaf.addressable_data(0)

        params, model_state = jax.tree.map(first, ({**state.params, **(state.ema or {})}, state.model_state))
        return cls(model, config, params, model_state, phase, int(state.step), settings)

    @functools.cached_property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The model's functions by name, compiled, with parameters and state filled in."""
        model = self.model
        plain = {"encode": model.encode, "decode": model.decode, **model.functions}
        compiled = {name: jax.jit(function) for name, function in plain.items() if function is not None}
        if model.sample is not None:
            sized = ("size",) if "size" in inspect.signature(model.sample).parameters else ()
            compiled["sample"] = jax.jit(model.sample, static_argnums=3, static_argnames=sized)  # these are shapes
        return {name: functools.partial(function, self.params, self.model_state) for name, function in compiled.items()}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in self.functions:
            raise AttributeError(f"this run has no function {name!r}; it has {', '.join(sorted(self.functions))}.")
        return self.functions[name]


def load(workdir: str | os.PathLike[str], *, phase: str | None = None, best: bool = False) -> Run:
    """Restores a run's model, finished or not; a run that is being trained may be loaded too.

    Args:
        workdir: folder of the run.
        phase: a phase's name; by default the newest that has a checkpoint.
        best: take the phase's checkpoint with the lowest validation loss instead of its last.

    Raises:
        FileNotFoundError: there is no run in that folder, or it has no such checkpoint yet.
        ValueError: the run's model, a setting of it or the phase is unknown, or a file is damaged.
    """
    folder = Path(workdir).expanduser().resolve()
    settings = read_settings(folder)
    module = ZOO[settings["model"]]
    config = rebuild(module.Config(), settings["config"]["model"])
    names = [phase.name for phase in module.phases(config, steps_per_epoch=1)]
    if phase is not None and phase not in names:
        raise ValueError(f"{folder} has no phase {phase!r}; its phases are {', '.join(names)}.")
    with Checkpoints(folder, names) as checkpoints:
        name, step, saved = _restore(folder, checkpoints, phase, best)
    params = {**saved["params"], **(saved["ema"] or {})}
    return Run(module.build(config), config, params, saved["model_state"], name, step, settings)


def read_settings(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """What config.json says of a run: "model", a name of the zoo, "config" with the model's as "model", and more.

    Raises:
        FileNotFoundError: there is no run in that folder.
        ValueError: the file is damaged, or of a model that this version does not have.
    """
    path = Path(workdir).expanduser().resolve() / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected the workdir of a run.")
    try:
        settings = json.loads(path.read_text())
        model, _ = settings["model"], settings["config"]["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not that of a run of a model of the zoo ({error!r}).") from error
    if model not in ZOO:
        raise ValueError(f"{path} is of the model {model!r}; this version has {', '.join(ZOO)}.")
    return settings


def _restore(folder: Path, checkpoints: Checkpoints, phase: str | None, best: bool) -> tuple[str, int, Any]:
    """Chooses a checkpoint and restores it: phase, step and state."""
    failed = None
    while True:
        name = phase or (checkpoints.latest() or ("any phase", 0))[0]
        step = checkpoints.best(name) if best else max(checkpoints.steps(name), default=None)
        if step is None:
            within = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("*/**/config.json"))
            hint = f" It holds runs of its own: {', '.join(within)}." if within else ""
            raise FileNotFoundError(f"{folder} has no {'best ' if best else ''}checkpoint of {name} yet.{hint}")
        try:
            return name, step, checkpoints.restore(name, step)
        except Exception:
            if failed == (name, step):
                raise
            failed = name, step  # unless it is damaged, the process that trains has just put another in its place


def rebuild(default: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """A nested frozen dataclass from nested mappings, such as JSON gives: the inverse of `dataclasses.asdict`.

    Args:
        default: an instance, which tells the types and what `values` does not say.
        values: field -> value; lists become tuples.

    Raises:
        ValueError: `values` has a field that the dataclass does not have.
    """
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(default)})  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"{type(default).__qualname__} has no field {', '.join(unknown)}: another version wrote it.")
    changes = {}
    for field in dataclasses.fields(default):  # type: ignore[arg-type]
        if field.name in values:
            old, new = getattr(default, field.name), values[field.name]
            changes[field.name] = rebuild(old, new) if dataclasses.is_dataclass(old) else _frozen(new)
    return dataclasses.replace(default, **changes)  # type: ignore[type-var]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
