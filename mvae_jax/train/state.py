"""Everything that a training run remembers between two steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mvae_jax.objective import Batch, Model, Phase


class TrainState(struct.PyTreeNode):
    """State of a run, as a checkpoint holds it; with data and code it determines the rest of the run.

    Attributes:
        step: optimiser steps done in this run, over all phases.
        key: the run's key. It never changes; step t draws from fold_in(key, t).
        params: {group: parameters}; a group without optimiser is frozen.
        model_state: {group: batch statistics and the like}.
        opt_state: {group: optimiser state}.
        ema: exponential moving average of the trained groups' parameters; None in a phase that keeps none.
        skipped: steps refused because something was not finite.
    """

    step: jax.Array
    key: jax.Array
    params: dict[str, Any]
    model_state: dict[str, Any]
    opt_state: dict[str, Any]
    ema: dict[str, Any] | None
    skipped: jax.Array


def create(
    model: Model, phase: Phase, key: jax.Array, batch: Batch, start: Mapping[str, Mapping[str, Any]] | None = None
) -> TrainState:
    """Initialises a run at its first phase.

    Args:
        model: the model to train.
        phase: its first phase.
        key: the run's typed key.
        batch: one batch, for shapes only.
        start: {"params": {group: tree}, "model_state": {group: tree}} to start from; by default, and for groups
            that are not in it, what the model draws.

    Raises:
        ValueError: an optimiser is given for a group that the model does not have.
    """
    init_key, key = jax.random.split(key)
    params, model_state = (dict(part) for part in model.init(init_key, batch))
    if start is not None:
        params, model_state = {**params, **start["params"]}, {**model_state, **start["model_state"]}
    optimizers = model.optimizers(phase)
    unknown = sorted(set(optimizers) - set(params))
    if unknown:
        raise ValueError(f"optimizers for unknown groups {unknown}; the model's groups are {sorted(params)}.")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        model_state=model_state,
        opt_state=_fresh_optimizers(optimizers, params),
        ema=_copy(params, optimizers) if phase.ema_decay is not None else None,
        skipped=jnp.zeros((), jnp.int32),
    )


def start_phase(state: TrainState, model: Model, phase: Phase) -> TrainState:
    """Hands a state over to the next phase; the optimisers remember unless the phase says otherwise."""
    optimizers = model.optimizers(phase)
    if phase.reset_optimizers or set(optimizers) != set(state.opt_state):
        fresh = _fresh_optimizers(optimizers, state.params)
        kept = {} if phase.reset_optimizers else state.opt_state
        state = state.replace(opt_state={group: kept.get(group, fresh[group]) for group in fresh})
    if phase.ema_decay is None:
        return state.replace(ema=None)  # an average that nobody updates is no average of this phase
    new = set(optimizers) - set(state.ema or {})  # groups that no phase before this one has trained
    return state.replace(ema={**(state.ema or {}), **_copy(state.params, sorted(new))})


def _fresh_optimizers(
    optimizers: Mapping[str, optax.GradientTransformation], params: Mapping[str, Any]
) -> dict[str, Any]:
    return {group: optimizer.init(params[group]) for group, optimizer in optimizers.items()}


def _copy(params: Mapping[str, Any], groups: Iterable[str]) -> dict[str, Any]:
    return {group: jax.tree.map(jnp.copy, params[group]) for group in groups}
