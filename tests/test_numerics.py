"""Float32 whatever comes in, and norms that have a gradient."""

from __future__ import annotations

import inspect

import float64
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import numerics

CASES = [pytest.param(module, name, id=name) for module, name in float64.NAMES]


def compiled(module, name):
    return jax.jit(float64.function(module, name))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(("module", "name"), CASES)
def test_every_function_computes_in_float32(module, name, dtype):
    """Bit by bit what it computes of the same numbers in float32."""
    with jax.enable_x64(dtype == "float64"):
        arrays = [jnp.asarray(x).astype(dtype) for x in float64.moderate(module, name)]
        of_type = compiled(module, name)(*arrays)
        of_float32 = compiled(module, name)(*(x.astype(jnp.float32) for x in arrays))
    for got, expected in zip(*map(jax.tree.leaves, (of_type, of_float32)), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("module", "name"), CASES)
def test_the_flag_of_float64_changes_nothing(module, name):
    arrays = float64.moderate(module, name)
    expected = compiled(module, name)(*arrays)
    with jax.enable_x64(True):
        got = compiled(module, name)(*arrays)
    for value, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, other)


def test_gradients_have_the_type_of_what_came_in():
    x = jnp.ones((2, 3), jnp.bfloat16)
    gradient = jax.grad(lambda x: float64.losses.squared_error(x, 0 * x).sum())(x)
    np.testing.assert_array_equal(gradient, 2 * x)
    assert gradient.dtype == jnp.bfloat16


def test_only_floating_point_arrays_are_cast():
    @numerics.in_float32
    def types(*values, **named):
        return jax.tree.map(lambda leaf: str(getattr(leaf, "dtype", type(leaf).__name__)), (values, named))

    halves = jnp.ones(2, jnp.float16), np.ones(2), jnp.arange(2), jax.random.key(0), 0.5, "mean"
    got = types(halves, None, tree={"a": np.float64(3)})
    assert got == ((("float32", "float32", "int32", "key<fry>", "float", "str"), None), {"tree": {"a": "float32"}})
    assert inspect.signature(types) == inspect.signature(lambda *values, **named: None)


def test_32_bits_are_those_of_a_process_without_the_flag():
    @numerics.in_32_bits
    def draws():
        return jax.random.normal(jax.random.key(0), (3,)), jax.random.randint(jax.random.key(1), (3,), 0, 10**6)

    expected = draws()
    with jax.enable_x64(True):
        got = draws()
        assert jnp.ones(1).dtype == jnp.float64
    for value, other in zip(got, expected, strict=True):
        assert value.dtype == other.dtype
        np.testing.assert_array_equal(value, other)


def test_norms_and_their_gradients():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]])
    np.testing.assert_allclose(numerics.norm(x, -1), [5.0, 0.0, 1e-12], rtol=1e-6)
    np.testing.assert_allclose(numerics.norm(x, (0, 1), keepdims=True), [[5.0]], rtol=1e-6)
    gradient = jax.grad(lambda x: numerics.norm(x, -1).sum())(x)
    np.testing.assert_allclose(gradient, [[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)


def test_dictionaries_keep_their_order():
    @numerics.in_float32
    def names(tree, **named):
        return [*tree, *tree["b"], *named]

    half = jnp.ones(2, jnp.float16)
    assert names({"b": {"d": half, "c": 1}, "a": half}, z=half, y=half) == ["b", "a", "d", "c", "z", "y"]
