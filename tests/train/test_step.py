"""The train step on models small enough to follow by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvae_jax.objective import Losses, Partial, Phase, Round
from mvae_jax.train import step as steps
from mvae_jax.train.state import TrainState

SGD = {"a": optax.sgd(1.0), "b": optax.sgd(1.0)}
PHASE = Phase("p", 10, learning_rates={"a": 0.1, "b": 0.01})


def make_state(a=2.0, b=3.0, optimizers=SGD, ema=False, step=0):
    params = {"a": {"w": jnp.array(a)}, "b": {"w": jnp.array(b)}, "frozen": {"w": jnp.array(5.0)}}
    return TrainState(
        step=jnp.array(step),
        key=jax.random.key(0),
        params=params,
        model_state={"a": {"mean": jnp.array(1.0)}, "b": {"mean": jnp.array(1.0)}},
        opt_state={group: tx.init(params[group]) for group, tx in optimizers.items()},
        ema={group: jax.tree.map(jnp.copy, params[group]) for group in ("a", "b")} if ema else None,
        skipped=jnp.array(0),
    )


def players(params, state, batch, key, step):
    """Two players of one product: a minimises x a b, b minimises -x a b, at the same parameters."""
    product = batch["x"].mean() * params["a"]["w"] * params["b"]["w"]
    return Losses({"a": product, "b": -product}, {"product": product}, {"a": {"mean": state["a"]["mean"] + 1}})


BOTH = Round({"a": ("a",), "b": ("b",)}, players)
BATCH = {"x": jnp.array([1.0, 3.0, 1.0, 3.0])}  # mean 2


def test_objectives_of_a_round_move_together():
    state, metrics = jax.jit(steps.make_train_step([BOTH], SGD, PHASE))(make_state(), BATCH)
    # d(x a b)/da = 2*3 = 6, d(-x a b)/db = -2*2 = -4, both at the old parameters
    np.testing.assert_allclose(state.params["a"]["w"], 2.0 - 0.1 * 6.0, rtol=1e-6)
    np.testing.assert_allclose(state.params["b"]["w"], 3.0 + 0.01 * 4.0, rtol=1e-6)
    assert state.params["frozen"]["w"] == 5.0
    assert state.model_state["a"]["mean"] == 2.0
    assert state.model_state["b"]["mean"] == 1.0
    assert state.step == 1
    assert state.skipped == 0
    np.testing.assert_allclose(metrics["a/gradient_norm"], 6.0)
    np.testing.assert_allclose(metrics["b/objective"], -12.0)


def test_rounds_see_what_the_last_one_left():
    first, second = Round({"a": ("a",)}, _only("a", 1.0)), Round({"b": ("b",)}, _only("b", -1.0))
    state, _ = steps.make_train_step([first, second], SGD, PHASE)(make_state(), BATCH)
    a = 2.0 - 0.1 * 6.0
    np.testing.assert_allclose(state.params["a"]["w"], a, rtol=1e-6)
    np.testing.assert_allclose(state.params["b"]["w"], 3.0 + 0.01 * 2.0 * a, rtol=1e-6)


def _only(name, sign):
    def losses(params, state, batch, key, step):
        return Losses({name: sign * batch["x"].mean() * params["a"]["w"] * params["b"]["w"]}, {}, {})

    return losses


def test_all_rounds_draw_with_the_key_of_the_step():
    def draws(params, state, batch, key, step):
        return Losses({"a": params["a"]["w"]}, {"draw": jax.random.uniform(key)}, {})

    step = steps.make_train_step([Round({"a": ("a",)}, draws)], SGD, PHASE)
    state = make_state(step=7)
    _, metrics = step(state, BATCH)
    assert metrics["draw"] == jax.random.uniform(jax.random.fold_in(state.key, 7))


def test_learning_rate_schedule_counts_from_the_start_of_the_phase():
    phase = Phase("p", 10, start=4, learning_rates={"a": lambda step: 0.1 * step, "b": 0.0})
    state, _ = jax.jit(steps.make_train_step([BOTH], SGD, phase))(make_state(step=6), BATCH)
    np.testing.assert_allclose(state.params["a"]["w"], 2.0 - 0.2 * 6.0, rtol=1e-6)


@pytest.mark.parametrize("open_", [True, False])
def test_a_closed_gate_freezes_parameters_statistics_and_optimiser(open_):
    adam = {"a": optax.adam(1.0), "b": optax.adam(1.0)}
    gated = Round(BOTH.trains, players, gates=lambda metrics: {"a": (metrics["product"] > 0) == open_})
    before = make_state(optimizers=adam)
    after, metrics = jax.jit(steps.make_train_step([gated], adam, PHASE))(before, BATCH)
    moved = after.params["a"]["w"] != before.params["a"]["w"]
    assert moved == open_
    assert after.model_state["a"]["mean"] == (2.0 if open_ else 1.0)
    assert after.opt_state["a"][0].count == int(open_)
    assert after.opt_state["b"][0].count == 1
    assert metrics["a/updated"] == float(open_)


def test_every_second_step():
    def losses(params, state, batch, *rest):
        out = players(params, state, batch, *rest)
        return out._replace(metrics={**out.metrics, "large": Partial(batch["x"], batch["x"] > 2).mean()})

    lazy = Round(BOTH.trains, losses, every=2)
    step = jax.jit(steps.make_train_step([lazy], SGD, PHASE))
    zero, one = make_state(), make_state(step=1)
    moved, metrics = step(zero, BATCH)
    assert moved.params["a"]["w"] != zero.params["a"]["w"]
    assert np.isfinite(metrics["product"])
    assert metrics["large"] == (1.5, 0.5)
    kept, metrics = step(one, BATCH)
    assert kept.params["a"]["w"] == one.params["a"]["w"]
    assert kept.step == 2
    assert np.isnan([metrics["product"], *metrics["large"]]).all()
    assert metrics["step/finite"] == 1.0


def test_moving_average():
    phase = Phase("p", 10, learning_rates=PHASE.learning_rates, ema_decay=0.75)
    state, _ = steps.make_train_step([BOTH], SGD, phase)(make_state(ema=True), BATCH)
    np.testing.assert_allclose(state.ema["a"]["w"], 0.75 * 2.0 + 0.25 * state.params["a"]["w"], rtol=1e-6)


@pytest.mark.parametrize("poison", ["batch", "loss", "statistics", "rate"])
def test_a_step_that_is_not_finite_changes_nothing(poison):
    def losses(params, state, batch, key, step):
        out = players(params, state, batch, key, step)
        bad = jnp.where(batch["x"][0] > 1e6, jnp.inf, 0.0)
        if poison == "loss":  # an infinite constant: the gradients stay finite
            return out._replace(objectives={**out.objectives, "b": out.objectives["b"] + bad})
        if poison == "statistics":
            return out._replace(state={"a": {"mean": state["a"]["mean"] + bad}})
        return out

    rates = dict(PHASE.learning_rates)
    if poison == "rate":
        rates["a"] = lambda step: jnp.where(step == 0, jnp.inf, 0.1)
    phase = Phase("p", 10, learning_rates=rates, ema_decay=0.75)
    adam = {"a": optax.adam(1.0), "b": optax.adam(1.0)}
    step = jax.jit(steps.make_train_step([Round(BOTH.trains, losses)], adam, phase))
    before = make_state(optimizers=adam, ema=True)
    value = jnp.nan if poison == "batch" else 1e7
    after, metrics = step(before, {"x": BATCH["x"].at[0].set(value)})
    assert metrics["step/finite"] == 0.0
    assert after.step == 1
    assert after.skipped == 1
    for name in ("params", "model_state", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    recovered, metrics = step(after, BATCH)
    assert metrics["step/finite"] == 1.0
    assert recovered.skipped == 1
    assert recovered.params["a"]["w"] != before.params["a"]["w"]


def test_pmap_equals_one_device():
    alone = jax.jit(steps.make_train_step([BOTH], SGD, PHASE))(make_state(), BATCH)[0]
    step = steps.make_train_step([BOTH], SGD, PHASE, axis_name="data")
    split = {"x": BATCH["x"].reshape(4, 1)}
    mapped, _ = jax.pmap(step, "data", in_axes=(None, 0), out_axes=None)(make_state(), split)
    np.testing.assert_allclose(mapped.params["a"]["w"], alone.params["a"]["w"], rtol=1e-6)
    np.testing.assert_allclose(mapped.params["b"]["w"], alone.params["b"]["w"], rtol=1e-6)


def test_errors_name_the_group():
    with pytest.raises(ValueError, match=r"\['a'\] by more than one objective"):
        Round({"x": ("a",), "y": ("a", "b")}, players)
    with pytest.raises(ValueError, match=r"trains \['b'\] but has no optimizer"):
        steps.make_train_step([BOTH], {"a": SGD["a"]}, PHASE)
    with pytest.raises(ValueError, match=r"trains \['b'\] but has no learning rate"):
        steps.make_train_step([BOTH], SGD, Phase("p", 1, learning_rates={"a": 1.0}))
    foreign = Round({"b": ("b",)}, _foreign)
    with pytest.raises(ValueError, match=r"replaces the state of \['a'\]"):
        steps.make_train_step([foreign], SGD, PHASE)(make_state(), BATCH)


def _foreign(params, state, batch, key, step):
    return Losses({"b": params["b"]["w"]}, {}, {"a": state["a"]})
