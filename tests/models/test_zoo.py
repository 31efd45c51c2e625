"""What every model must do, whatever its paper."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import BATCH, TABLE

from mvae_jax.models import ZOO
from mvae_jax.train import state as states
from mvae_jax.train.devices import place
from mvae_jax.train.step import make_train_step

ROWS = [
    pytest.param(name, index, id=f"{name}-{phase.name}")
    for name, row in TABLE.items()
    for index, phase in enumerate(row.phases())
]


def test_the_table_is_the_zoo():
    assert set(TABLE) == set(ZOO)


@functools.cache
def prepared(name):
    """Model, batch and a state that has left its initialisation."""
    row = TABLE[name]
    model, batch = row.model(), jax.tree.map(jnp.asarray, row.batch(BATCH))
    create = jax.jit(lambda key, batch: states.create(model, row.phases()[0], key, batch))
    return model, batch, create(jax.random.key(0), batch)


def sgd(model, phase):
    """Adam turns the rounding noise of a zero gradient into a step of the learning rate; SGD compares cleanly."""
    return {group: optax.sgd(1.0) for group in model.optimizers(phase)}


def with_sgd(state, optimizers):
    return state.replace(opt_state={group: tx.init(state.params[group]) for group, tx in optimizers.items()})


def changed(old, new):
    """{group: whether any leaf changed}."""
    return {
        group: any(bool((a != b).any()) for a, b in zip(jax.tree.leaves(old[group]), jax.tree.leaves(new[group]), strict=True))
        for group in old
    }


@pytest.mark.parametrize(("name", "index"), ROWS)
def test_a_step_moves_the_groups_of_its_phase_and_stays_finite(name, index):
    model, batch, state = prepared(name)
    phase = TABLE[name].phases()[index]
    rounds = model.rounds(phase)
    compilations = []
    listener = lambda event, duration, **_: compilations.append(event) if "backend_compile" in event else None
    step = jax.jit(make_train_step(rounds, model.optimizers(phase), phase))
    first, metrics = step(state, batch)
    jax.monitoring.register_event_duration_secs_listener(listener)
    second, _ = step(first, batch)
    jax.monitoring.unregister_event_duration_listener(listener)
    assert not compilations
    assert metrics["step/finite"] == 1.0
    trained = {group for round_ in rounds for groups in round_.trains.values() for group in groups}
    assert changed(first.params, second.params) == {group: group in trained for group in state.params}
    for group, moved in changed(first.model_state, second.model_state).items():
        assert not moved or group in trained


@pytest.mark.parametrize(("name", "index"), ROWS)
def test_an_objective_moves_only_its_groups(name, index):
    model, batch, state = prepared(name)
    phase = TABLE[name].phases()[index]
    key = jax.random.key(1)
    for round_ in model.rounds(phase):

        def objectives(params, round_=round_):
            return round_.losses(params, state.model_state, batch, key, jnp.array(0)).objectives

        values = jax.eval_shape(objectives, state.params)
        assert set(values) == set(round_.trains)
        # Frozen groups and groups of other rounds take no part in the update, whatever their gradient is.
        rest = [other for other in phase.learning_rates if all(other not in g for g in round_.trains.values())]
        step = jax.jit(make_train_step([round_], model.optimizers(phase), phase))
        after, _ = step(state, batch)
        for group in rest:
            assert not changed(state.params, after.params)[group]
            assert not changed(state.opt_state, after.opt_state)[group]


@pytest.mark.parametrize(("name", "index"), ROWS)
def test_sharded_and_pmapped_equal_one_device(name, index):
    model, batch, state = prepared(name)
    phase = TABLE[name].phases()[index]
    optimizers = sgd(model, phase)
    phase = dataclasses.replace(phase, learning_rates=dict.fromkeys(phase.learning_rates, 1e-2))
    state = with_sgd(state, optimizers)
    step = make_train_step(model.rounds(phase), optimizers, phase)
    alone, metrics = jax.jit(step)(state, batch)

    placement = place(jax.devices()[:4])
    sharded = jax.jit(step, out_shardings=placement.replicated)(
        placement.replicate(state), jax.device_put(batch, placement.split)
    )
    mapped_step = make_train_step(model.rounds(phase, axis_name="data"), optimizers, phase, axis_name="data")
    split = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)
    mapped = jax.pmap(mapped_step, "data", in_axes=(None, 0), out_axes=None)(state, split)
    for other, other_metrics in (sharded, mapped):
        assert_close((alone.params, alone.model_state), (other.params, other.model_state), 2e-6)
        assert_close(metrics, other_metrics, 2e-5)


def assert_close(expected, got, tolerance):
    for (path, a), b in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(got), strict=True):
        scale = max(1.0, float(jnp.abs(a).max()))
        np.testing.assert_allclose(a / scale, np.asarray(b) / scale, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", TABLE)
def test_evaluation_gives_one_number_per_example_and_ignores_its_neighbours(name):
    model, batch, state = prepared(name)
    if model.evaluate is None:
        pytest.skip("no evaluation")
    evaluate = jax.jit(model.evaluate(TABLE[name].phases()[-1]))
    whole = evaluate(state.params, state.model_state, batch, jax.random.key(0))
    half = evaluate(state.params, state.model_state, jax.tree.map(lambda x: x[: BATCH // 2], batch), jax.random.key(0))
    assert "loss" in whole
    for term, values in whole.items():
        assert values.shape == (BATCH,)
        np.testing.assert_allclose(values[: BATCH // 2], half[term], rtol=2e-5, atol=1e-6, err_msg=term)
