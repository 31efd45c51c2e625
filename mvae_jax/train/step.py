"""One train step for the whole zoo: rounds in, a pure function (state, batch) -> (state, metrics) out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mvae_jax.objective import Batch, Losses, Params, Partial, Phase, Round
from mvae_jax.train.sharing import merge_repeated
from mvae_jax.train.state import TrainState

Metrics = dict[str, jax.Array | Partial]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    rounds: Sequence[Round],
    optimizers: Mapping[str, optax.GradientTransformation],
    phase: Phase,
    *,
    axis_name: str | None = None,
) -> Step:
    """Returns the step of one phase.

    The rounds follow one another, each seeing the parameters that the last one left; all of them get the same
    batch and the same key, fold_in(state.key, state.step). The step is all or nothing: if a loss, the norm of a
    gradient, a learning rate or a new statistic is not finite, the old parameters, statistics, optimiser state and
    averages stay, `step` advances and `skipped` counts. From finite gradients an optimiser is trusted to make finite
    updates: to look at these would cost more than to make them, see `_all_finite`.

    Args:
        rounds: those that `Model.rounds(phase, axis_name)` returns.
        optimizers: those that `Model.optimizers(phase)` returns, with unit learning rate.
        phase: the phase; its learning rates multiply the optimisers' updates.
        axis_name: mapped axis over which the batch is split; None if the step sees the whole batch, as under
            `jit` with sharded arrays.

    Returns:
        A function (state, batch) -> (state, metrics). Metrics are scalars, or the means of a `Partial`; those of a
        round that was not due (`Round.every`) are NaN. "step/finite" is 1 if the step was taken and 0 if it was
        refused.

    Raises:
        ValueError: a trained group has no optimiser or no learning rate.
    """
    trained = {group for round_ in rounds for groups in round_.trains.values() for group in groups}
    for what, given in (("optimizer", optimizers), ("learning rate", phase.learning_rates)):
        missing = sorted(trained - set(given))
        if missing:
            raise ValueError(
                f"phase {phase.name!r} trains {missing} but has no {what} for them, only for {sorted(given)}."
            )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)  # derived, not carried: a resumed run draws the same
        since_start = state.step - phase.start
        carry: _Carry = (state.params, state.model_state, state.opt_state)
        metrics: Metrics = {}
        finite = jnp.array(True)
        for round_ in rounds:
            apply = functools.partial(
                _apply_round,
                round_,
                optimizers,
                phase,
                batch=batch,
                key=key,
                since_start=since_start,
                axis_name=axis_name,
            )
            # The next round sees the parameters of this one. If any round is not finite, all of them are undone below.
            carry, new_metrics, round_finite = _when_due(round_.every, since_start, apply, carry, axis_name)
            metrics |= new_metrics
            finite &= round_finite
        ema = state.ema
        if phase.ema_decay is not None and ema is not None:
            ema = optax.incremental_update({group: carry[0][group] for group in ema}, ema, 1.0 - phase.ema_decay)

        old = (state.params, state.model_state, state.opt_state, state.ema)
        params, model_state, opt_state, ema = _select(finite, (*carry, ema), old)
        state = state.replace(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=ema,
            skipped=state.skipped + (~finite).astype(jnp.int32),
        )
        return state, metrics | {"step/finite": finite.astype(jnp.float32)}

    return merge_repeated(step)


_Carry = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # params, model_state, opt_state


def _when_due(
    every: int,
    since_start: jax.Array,
    apply: Callable[[_Carry], tuple[_Carry, Metrics, jax.Array]],
    carry: _Carry,
    axis_name: str | None,
) -> tuple[_Carry, Metrics, jax.Array]:
    """Applies a round in each `every`-th step; otherwise the carry passes and the metrics are NaN."""
    if every == 1:
        return apply(carry)
    due = since_start % every == 0
    if axis_name is not None:  # a collective inside `cond` is not portable: compute, then choose
        new, metrics, finite = apply(carry)
        metrics = jax.tree.map(lambda value: jnp.where(due, value, jnp.nan), metrics)
        return _select(due, new, carry), metrics, finite | ~due

    def skip(carry: _Carry) -> tuple[_Carry, Metrics, jax.Array]:
        metrics = jax.eval_shape(apply, carry)[1]
        return carry, jax.tree.map(lambda m: jnp.full(m.shape, jnp.nan, m.dtype), metrics), jnp.array(True)

    return lax.cond(due, apply, skip, carry)


def _apply_round(
    round_: Round,
    optimizers: Mapping[str, optax.GradientTransformation],
    phase: Phase,
    carry: _Carry,
    *,
    batch: Batch,
    key: jax.Array,
    since_start: jax.Array,
    axis_name: str | None,
) -> tuple[_Carry, Metrics, jax.Array]:
    """One forward pass, one gradient per objective, all groups of the round moved together."""
    params, model_state, opt_state = (dict(part) for part in carry)
    out, gradients = _gradients(round_, params, model_state, batch, key, since_start)
    if axis_name is not None:  # before gates and norms, which are to be those of the whole batch
        out, gradients = lax.pmean((out, gradients), axis_name)
    gates = round_.gates(out.metrics) if round_.gates else {}
    metrics: Metrics = dict(out.metrics)
    new_state = dict(out.state)
    checked: list[Any] = [*out.objectives.values(), out.state]
    for objective, groups in round_.trains.items():
        metrics[f"{objective}/objective"] = out.objectives[objective]
        if objective in gates:
            metrics[f"{objective}/updated"] = gates[objective].astype(jnp.float32)
        for group in groups:
            gradient = gradients[objective][group]
            norm = optax.tree.norm(gradient)
            metrics[f"{group}/gradient_norm"] = norm
            schedule = phase.learning_rates[group]
            rate = schedule(since_start) if callable(schedule) else schedule
            # A gradient behind a closed gate is not applied, so it may be anything.
            checked.append((jnp.where(gates[objective], norm, 0.0) if objective in gates else norm, rate))
            updates, new_opt = optimizers[group].update(gradient, opt_state[group], params[group])
            new = optax.apply_updates(params[group], jax.tree.map(lambda update, rate=rate: rate * update, updates))
            if objective in gates:  # closed, it keeps parameters, optimiser state and statistics alike
                new, new_opt = _select(gates[objective], (new, new_opt), (params[group], opt_state[group]))
                if group in new_state:
                    new_state[group] = _select(gates[objective], new_state[group], model_state[group])
            params[group], opt_state[group] = new, new_opt
    return (params, model_state | new_state, opt_state), metrics, _all_finite(checked)


def _gradients(
    round_: Round, params: Params, model_state: dict, batch: Batch, key: jax.Array, since_start: jax.Array
) -> tuple[Losses, dict[str, dict[str, Any]]]:
    """The round's losses, and {objective: {group: gradient}}.

    The forward pass is traced once and transposed once per objective. One `jax.grad` per objective would run
    it again for each: XLA does not merge the copies when a norm layer in training mode stands between.
    """
    trained = {group: params[group] for groups in round_.trains.values() for group in groups}

    def forward(trained: Params) -> tuple[dict[str, jax.Array], Losses]:
        out = round_.losses({**params, **trained}, model_state, batch, key, since_start)
        _check(round_, out, trained)
        return {objective: out.objectives[objective] for objective in round_.trains}, out

    _, linear, out = jax.linearize(forward, trained, has_aux=True)
    gradients = {}
    for objective, groups in round_.trains.items():
        transpose = jax.linear_transpose(lambda tangent, objective=objective: linear(tangent)[objective], trained)
        (gradient,) = transpose(jnp.ones_like(out.objectives[objective]))
        gradients[objective] = {group: gradient[group] for group in groups}
    return out, gradients


def _check(round_: Round, out: Losses, trained: Params) -> None:
    if set(out.objectives) != set(round_.trains):
        raise ValueError(f"a round trains by {sorted(round_.trains)}, but its losses return {sorted(out.objectives)}.")
    foreign = sorted(set(out.state) - set(trained))
    if foreign:
        raise ValueError(
            f"a round that trains {sorted(trained)} replaces the state of {foreign}; drop what it returns for them."
        )


def _all_finite(tree: Any) -> jax.Array:
    """True if all floating-point leaves of `tree` are finite.

    Meant for scalars and statistics, before anything large is written: parameters and optimiser state are then
    read once, updated, chosen and written in place by one loop each. A decision that depends on their new values
    costs three more passes over them, and memory for a second copy.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    norms = [optax.tree.norm(leaf) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    # A sort, because XLA does not fuse it. Anything else it would compute again inside the select of every leaf,
    # and compile in quadratic time.
    return ~jnp.sort(~jnp.isfinite(jnp.stack(norms)))[-1]


def _select(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: n if n is o else jnp.where(condition, n, o), new, old)
