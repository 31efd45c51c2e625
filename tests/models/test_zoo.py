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
from mvae_jax.train import devices
from mvae_jax.train import state as states
from mvae_jax.train.devices import place
from mvae_jax.train.program import MetricSums, compile_step
from mvae_jax.train.step import make_train_step

ROWS = [
    pytest.param(name, index, id=f"{name}-{phase.name}")
    for name, row in TABLE.items()
    for index, phase in enumerate(row.phases())
]
ADVERSARIAL = [
    row for row in ROWS if any("discriminator" in phase.learning_rates for phase in TABLE[row.values[0]].phases())
]
# One whose rounds follow each other, and one whose loss compares the examples of a batch, are enough to tell at once
# that devices do not agree; `make test-all` has every model.
QUICK = ("alae", "beta_tcvae")
SPREAD = [
    pytest.param(*row.values, mode, id=f"{row.id}-{mode}", marks=() if quick else pytest.mark.slow)
    for row in ROWS
    for mode in ("shard_state", "pmap")
    for quick in [mode == "shard_state" and row.values[0] in QUICK]
]
RATE = 1e-2


def test_the_table_is_the_zoo():
    assert set(TABLE) == set(ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_lengths_are_fields_that_make_the_phases_longer(name):
    entry = ZOO[name]
    default = entry.config()
    for field in entry.lengths:
        first, *rest = field.split(".")
        part = getattr(default, first)
        longer = dataclasses.replace(part, **{rest[0]: getattr(part, rest[0]) + 10}) if rest else part + 10_000
        phases, more = (
            entry.phases(config, 3) for config in (default, dataclasses.replace(default, **{first: longer}))
        )
        assert [phase.name for phase in more] == [phase.name for phase in phases]
        assert more[-1].end > phases[-1].end


@functools.cache
def prepared(name):
    """Model, batch and initial state."""
    row = TABLE[name]
    model, batch = row.model(), jax.tree.map(jnp.asarray, row.batch(BATCH))
    create = jax.jit(lambda key, batch: states.create(model, row.phases()[0], key, batch))
    state = create(jax.random.key(0), batch)
    return model, batch, state.replace(params=row.start(state.params))


def with_sgd(name, index):
    """Phase, optimisers and state for plain gradient descent.

    Adam turns the rounding noise of a zero gradient, such as that of a bias before batch norm, into a step of the
    learning rate; SGD compares cleanly.
    """
    model, batch, state = prepared(name)
    phase = TABLE[name].phases()[index]
    optimizers = {group: optax.sgd(1.0) for group in model.optimizers(phase)}
    phase = dataclasses.replace(phase, learning_rates=dict.fromkeys(phase.learning_rates, RATE))
    opt_state = {group: tx.init(state.params[group]) for group, tx in optimizers.items()}
    return model, batch, state.replace(opt_state=opt_state), phase, optimizers


@functools.cache
def two_steps(name, index):
    """On one device: the state after one and two steps, the metrics of the first, what the second compiled, FLOPs."""
    model, batch, state, phase, optimizers = with_sgd(name, index)
    step = jax.jit(make_train_step(model.rounds(phase), optimizers, phase))
    first, metrics = step(state, batch)
    compiled = []

    def listen(event, duration, **_):
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    second, _ = step(first, batch)
    jax.monitoring.unregister_event_duration_listener(listen)
    return first, metrics, second, compiled, step.lower(state, batch).cost_analysis()["flops"]


def changed(old, new):
    """{group: whether any leaf changed}."""
    leaves = {group: zip(jax.tree.leaves(old[group]), jax.tree.leaves(new[group]), strict=True) for group in old}
    return {group: any(bool((a != b).any()) for a, b in pairs) for group, pairs in leaves.items()}


@pytest.mark.parametrize(("name", "index"), ROWS)
def test_a_step_is_finite_compiles_once_and_moves_only_its_groups(name, index):
    model, _, state, phase, _ = with_sgd(name, index)
    first, metrics, second, compiled, _ = two_steps(name, index)
    assert metrics["step/finite"] == 1.0
    assert not compiled
    trained = {group for round_ in model.rounds(phase) for groups in round_.trains.values() for group in groups}
    # After two steps: a network behind a layer that starts at zero has no gradient in the first.
    assert changed(state.params, second.params) == {group: group in trained for group in state.params}
    assert {group for group, moved in changed(first.model_state, second.model_state).items() if moved} <= trained


@pytest.mark.parametrize(("name", "index", "mode"), SPREAD)
def test_several_devices_equal_one(name, index, mode, monkeypatch):
    monkeypatch.setattr(devices, "_LEAST_SHARDED", 64)  # these models have no large arrays
    model, batch, state, phase, optimizers = with_sgd(name, index)
    expected, expected_metrics, *_ = two_steps(name, index)
    options = {"shard_state": True} if mode == "shard_state" else {"transform": "pmap"}
    placement = place(jax.devices()[:4], **options)
    step = make_train_step(
        model.rounds(phase, axis_name=placement.axis_name), optimizers, phase, axis_name=placement.axis_name
    )
    arrays = placement.spread(jax.tree.map(np.asarray, dict(batch)))
    program = compile_step(step, placement, state, arrays, BATCH)
    placed = jax.device_put(jax.tree.map(jnp.copy, state), placement.shardings(state))  # the program takes it over
    assert mode == "pmap" or not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(placed))
    out = program(placed, program.zeros, arrays, np.arange(BATCH, dtype=np.int32)[None], np.zeros(1, np.float32))
    assert_close((expected.params, expected.model_state), (out.state.params, out.state.model_state), 2e-6)
    assert_close(MetricSums.zeros(out.sums.names).add(expected_metrics).means(), out.sums.means(), 2e-5)


@pytest.mark.parametrize("name", ["alae", "bigan"])
def test_each_device_does_its_part_of_what_is_made_of_draws(name):
    """Not with a split state, which alone makes the compiler split products."""
    model, batch, state, phase, optimizers = with_sgd(name, 0)
    *_, flops = two_steps(name, 0)
    placement = place(jax.devices()[:4])
    arrays = placement.spread(jax.tree.map(np.asarray, dict(batch)))
    program = compile_step(make_train_step(model.rounds(phase), optimizers, phase), placement, state, arrays, BATCH)
    assert program.compiled.cost_analysis()["flops"] < 0.6 * flops


def assert_close(expected, got, tolerance):
    """Differences relative to the largest entry of each leaf, or to 1 if that is smaller."""
    for (path, a), b in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(got), strict=True):
        scale = max(1.0, float(jnp.abs(a).max()))
        message = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a / scale, np.asarray(b) / scale, rtol=0, atol=tolerance, err_msg=message)


@pytest.mark.parametrize(("name", "index"), ADVERSARIAL)
def test_losses_compare_where_no_discriminator_that_trains_measures_them(name, index):
    model, batch, state = prepared(name)
    phase = TABLE[name].phases()[index]
    evaluate = jax.jit(lambda *variables: model.evaluate(phase)(*variables, batch, jax.random.key(0))["loss"])
    moved = {**state.params, "discriminator": jax.tree.map(lambda leaf: leaf + 0.1, state.params["discriminator"])}
    before, after = (evaluate(params, state.model_state) for params in (state.params, moved))
    trained = {group for round_ in model.rounds(phase) for groups in round_.trains.values() for group in groups}
    assert phase.comparable == (bool((before == after).all()) or "discriminator" not in trained)


@pytest.mark.parametrize("name", TABLE)
def test_evaluation_gives_one_number_per_example_that_ignores_its_neighbours(name):
    model, batch, state = prepared(name)
    if model.evaluate is None:
        pytest.skip("no evaluation")
    evaluate = jax.jit(model.evaluate(TABLE[name].phases()[-1]))
    whole = evaluate(state.params, state.model_state, batch, jax.random.key(0))
    others = jax.tree.map(lambda x: x.at[BATCH // 2 :].set(x[0]), batch)
    half = evaluate(state.params, state.model_state, others, jax.random.key(0))
    assert "loss" in whole
    for (path, values), others in zip(jax.tree.leaves_with_path(whole), jax.tree.leaves(half), strict=True):
        assert values.shape == (BATCH,)
        first, again = values[: BATCH // 2], others[: BATCH // 2]
        np.testing.assert_allclose(first, again, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))
