"""A trained run in one line: `run = load("runs/celebahq_mvae")`, then `run.encode_image(images)`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from mvae_jax.models import ZOO
from mvae_jax.objective import Model, ModelState, Params

ConfigT = TypeVar("ConfigT")


@dataclasses.dataclass(frozen=True)
class Run:
    """A model with the parameters of a checkpoint.

    The model's functions are attributes that already hold parameters and state: `run.encode(images)`,
    `run.decode(z)`, `run.sample(key, count)`, and those of `run.model.functions`, such as `run.encode_image`.

    Attributes:
        model: the model's pure functions.
        config: the model's Config.
        params: {group: parameters}; the moving average where the run kept one.
        model_state: {group: batch statistics}.
        phase: name of the phase of the checkpoint.
        step: steps done at the checkpoint.
        settings: the run's config.json.
    """

    model: Model
    config: Any
    params: Params
    model_state: ModelState
    phase: str
    step: int
    settings: Mapping[str, Any]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        functions = dict(self.model.functions)
        for common in ("encode", "decode", "sample"):
            functions.setdefault(common, getattr(self.model, common))
        if functions.get(name) is None:
            raise AttributeError(
                f"this model has no function {name!r}; it has {sorted(f for f in functions if functions[f])}."
            )
        static = (3,) if name == "sample" else ()
        return functools.partial(jax.jit(functions[name], static_argnums=static), self.params, self.model_state)
