"""What two rounds have in common is computed once, and the result stays the same."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from mvae_jax.objective import Losses, Phase, Round
from mvae_jax.train.sharing import merge_repeated
from mvae_jax.train.state import TrainState
from mvae_jax.train.step import make_train_step

X = jnp.linspace(0.1, 2.0, 12).reshape(3, 4)


@jax.custom_jvp
def cube(x):
    return x**3


cube.defjvp(lambda primals, tangents: (cube(*primals), 3 * primals[0] ** 2 * tangents[0]))


def operations(function, *arguments):
    """How often each primitive occurs, calls opened."""
    counts = collections.Counter()

    def count(jaxpr):
        for equation in jaxpr.eqns:
            inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
            counts[equation.primitive.name] += not inner
            for each in inner:
                count(each)

    count(jax.make_jaxpr(function)(*arguments).jaxpr)
    return counts


def test_equal_operations_are_done_once():
    def twice(x):
        first = jnp.sin(x) @ x.T
        second = jax.jit(lambda x: jnp.sin(x) @ x.T)(x)  # a call of its own
        return first + second, jnp.cos(x), jax.grad(lambda x: jnp.sin(x).sum())(x)

    assert {name: operations(twice, X)[name] for name in ("sin", "dot_general", "cos")} == {
        "sin": 3,
        "dot_general": 2,
        "cos": 2,
    }
    merged = operations(merge_repeated(twice), X)
    assert {name: merged[name] for name in ("sin", "dot_general", "cos")} == {"sin": 1, "dot_general": 1, "cos": 1}
    for expected, got in zip(twice(X), merge_repeated(twice)(X), strict=True):
        np.testing.assert_array_equal(expected, got)


def test_on_meshes_whose_axes_change_types():
    @merge_repeated
    def function(x):
        return jnp.cos(x) + jax.sharding.auto_axes(lambda x: jnp.sin(x) + jnp.sin(x), out_sharding=P("data"))(x)

    for types in (AxisType.Auto, AxisType.Explicit, AxisType.Auto):
        with jax.set_mesh(jax.make_mesh((3,), ("data",), axis_types=(types,))):
            got = jax.jit(function)(jax.device_put(X, P("data")))
        np.testing.assert_allclose(got, np.cos(X) + 2 * np.sin(X), rtol=1e-6)


def test_a_differentiated_call_is_the_same_as_the_plain_one():
    def both(x):
        value, backward = jax.vjp(cube, x)
        return cube(x) + value, backward(x)

    assert operations(merge_repeated(both), X)["integer_pow"] == 2  # the cube and its derivative's square
    for expected, got in zip(both(X), merge_repeated(both)(X), strict=True):
        np.testing.assert_array_equal(expected, got)


def test_what_differs_is_kept_apart():
    def different(x, key):
        same, other = jax.random.split(key)
        draws = [jax.random.uniform(k, (3,)) for k in (same, other, same)]
        sums = x.sum(0), x.sum(1), x.astype(jnp.bfloat16).sum(0)
        scaled = x * 2.0, x * 3.0, x.astype(jnp.int32) * 2, x.reshape(12) * 2.0
        loops = [lax.fori_loop(0, 3, lambda _, y, by=by: y * by, x) for by in (2.0, 3.0)]
        chosen = lax.cond(x.sum() > 0, lambda: x, lambda: -x), lax.cond(x.sum() > 0, lambda: -x, lambda: x)
        return draws, sums, scaled, loops, chosen

    expected, got = (f(X, jax.random.key(0)) for f in (different, jax.jit(merge_repeated(different))))
    jax.tree.map(np.testing.assert_array_equal, expected, got)


def test_effects_are_not_merged(capsys):
    def tell(x):
        jax.debug.print("x is {}", x)
        jax.debug.print("x is {}", x)
        return x

    merge_repeated(tell)(jnp.float32(1))
    jax.effects_barrier()
    assert capsys.readouterr().out == "x is 1.0\nx is 1.0\n"


def test_trees_and_typed_keys_pass():
    def swap(tree, key):
        return {"b": tree["a"], "key": key, "none": None}, 3.0

    out, number = merge_repeated(swap)({"a": X}, jax.random.key(4))
    assert out["key"] == jax.random.key(4)
    assert out["none"] is None
    assert number == 3.0
    np.testing.assert_array_equal(out["b"], X)


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_forward_pass_that_rounds_share_is_computed_once(rounds):
    """A critic's round, which does not differentiate the generator, and the generator's, which does."""

    def fake(params, batch):
        return jnp.tanh(batch["image"] @ params["generator"])

    def critic(params, state, batch, key, step):
        loss = (fake(params, batch) @ params["critic"]).mean()
        return Losses({"critic": loss}, {}, {})

    def generator(params, state, batch, key, step):
        loss = -(fake(params, batch) @ params["critic"]).mean()
        return Losses({"generator": loss}, {}, {})

    both = (Round({"critic": ("critic",)}, critic), Round({"generator": ("generator",)}, generator))
    params = {"generator": jnp.ones((4, 5)), "critic": jnp.ones((5, 1))}
    optimizers = {group: optax.sgd(1.0) for group in params}
    phase = Phase("only", steps=1, learning_rates=dict.fromkeys(params, 0.1))
    zero = jnp.zeros((), jnp.int32)
    opt_state = {group: tx.init(params[group]) for group, tx in optimizers.items()}
    state = TrainState(zero, jax.random.key(0), params, {}, opt_state, None, zero)
    step = make_train_step(both[:rounds], optimizers, phase)
    assert operations(step, state, {"image": X})["tanh"] == 1
