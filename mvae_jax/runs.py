"""A trained run in one line: `run = load("runs/celebahq_mvae")`, then `run.encode_image(images)`."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

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
        """A run from a state in memory."""
        params = {**state.params, **(state.ema or {})}
        return cls(model, config, params, state.model_state, phase, int(state.step), settings)

    @functools.cached_property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The model's functions by name, compiled, with parameters and state filled in."""
        plain = {name: getattr(self.model, name) for name in ("encode", "decode", "sample")}
        static = {"sample": 3}  # the number of samples is a shape
        return {
            name: functools.partial(
                jax.jit(function, static_argnums=static.get(name, ())), self.params, self.model_state
            )
            for name, function in {**plain, **self.model.functions}.items()
            if function is not None
        }

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
        ValueError: the run's model is unknown to this version, or its checkpoint is damaged.
    """
    folder = Path(workdir).expanduser().resolve()
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} has no config.json: expected the workdir of a run.")
    settings = json.loads((folder / "config.json").read_text())
    if settings["model"] not in ZOO:
        raise ValueError(f"{folder} holds a {settings['model']!r}; this version has {', '.join(ZOO)}.")
    module = ZOO[settings["model"]]
    config = rebuild(module.Config(), settings["config"]["model"])
    names = [phase.name for phase in module.phases(config, steps_per_epoch=1)]
    with Checkpoints(folder, names) as checkpoints:
        newest = checkpoints.latest()
        name = phase or (newest[0] if newest else names[0])
        steps = checkpoints.steps(name)
        step = checkpoints.best(name) if best else (steps[-1] if steps else None)
        if step is None:
            raise FileNotFoundError(f"{folder} has no {'best ' if best else ''}checkpoint of phase {name!r} yet.")
        saved = checkpoints.restore(name, step)
    params = {**saved["params"], **(saved["ema"] or {})}
    return Run(module.build(config), config, params, saved["model_state"], name, step, settings)


def rebuild(default: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """A nested frozen dataclass from nested mappings, such as JSON gives: the inverse of `dataclasses.asdict`.

    Args:
        default: an instance, which tells the types and what `values` does not say.
        values: field -> value; lists become tuples.
    """
    changes = {}
    for field in dataclasses.fields(default):  # type: ignore[arg-type]
        if field.name in values:
            old, new = getattr(default, field.name), values[field.name]
            changes[field.name] = rebuild(old, new) if dataclasses.is_dataclass(old) else _frozen(new)
    return dataclasses.replace(default, **changes)  # type: ignore[type-var]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
