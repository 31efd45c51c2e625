"""Gradient transformations against optax, closed forms and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvae_jax import optimizers

GRADIENTS = {"a": jnp.array([3.0, -4.0]), "b": {"c": jnp.array([[12.0]])}}  # global norm 13


@pytest.mark.parametrize("max_norm", [1.0, 6.5, 12.99])
def test_clipped_gradients_have_the_largest_norm_and_their_direction(max_norm):
    clip = optimizers.clip_by_global_norm(max_norm)
    clipped, _ = clip.update(GRADIENTS, clip.init(GRADIENTS))
    jax.tree.map(lambda c, g: np.testing.assert_allclose(c, g * max_norm / 13, rtol=1e-6), clipped, GRADIENTS)
    theirs, _ = optax.clip_by_global_norm(max_norm).update(GRADIENTS, optax.EmptyState())
    jax.tree.map(lambda c, t: np.testing.assert_allclose(c, t, rtol=1e-6), clipped, theirs)


@pytest.mark.parametrize("max_norm", [13.0, 14.0, 1e9])
def test_small_gradients_keep_every_bit(max_norm):
    clip = optimizers.clip_by_global_norm(max_norm)
    clipped, _ = clip.update(GRADIENTS, clip.init(GRADIENTS))
    jax.tree.map(np.testing.assert_array_equal, clipped, GRADIENTS)
    zeros = jax.tree.map(jnp.zeros_like, GRADIENTS)
    jax.tree.map(np.testing.assert_array_equal, clip.update(zeros, clip.init(zeros))[0], zeros)


def test_dtypes_are_kept():
    clip = optimizers.clip_by_global_norm(1.0)
    gradient = {"a": jnp.full(4, 2.0, jnp.bfloat16)}
    assert clip.update(gradient, clip.init(gradient))[0]["a"].dtype == jnp.bfloat16


# --- equalised learning rates ---------------------------------------------------------------------------------------

SHAPES = {
    "Dense_0": {"kernel": (5, 4), "bias": (4,)},
    "block": {"ToRGB_3": {"kernel": (1, 1, 8, 3), "bias": (3,)}, "Conv_1": {"kernel": (3, 3, 2, 4), "noise": (4,)}},
    "constant": (1, 4, 4, 2),
}
# How much of a stored parameter of unit variance is used at run time: gain / sqrt(fan-in), but for others than kernels.
USED = {
    "Dense_0": {"kernel": (2 / 5) ** 0.5, "bias": 1.0},
    "block": {"ToRGB_3": {"kernel": 0.03 / 8**0.5, "bias": 1.0}, "Conv_1": {"kernel": (2 / 18) ** 0.5, "noise": None}},
    "constant": None,
}


def is_shape(node):
    return isinstance(node, tuple)


def draws(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: scale * generator.normal(size=shape), SHAPES, is_leaf=is_shape)


def to_float32(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


@pytest.mark.parametrize("multiplier", [1.0, 0.1])
def test_equalised_adam_is_adam_on_parameters_that_are_scaled_at_run_time(multiplier):
    """Those are of variance 1 / multiplier^2, and used times multiplier * gain / sqrt(fan-in)."""
    used = jax.tree.map(lambda c: 1.0 if c is None else multiplier * c, USED, is_leaf=lambda c: c is None)
    stored, target = draws(0, 1 / multiplier), draws(1)
    tx = optimizers.equalised_adam(multiplier=multiplier, gains={"ToRGB": 0.03})
    params = to_float32(jax.tree.map(np.multiply, used, stored))
    state, update = tx.init(params), jax.jit(tx.update)
    second = jax.tree.map(np.zeros_like, stored)
    rate, decay = 0.05, 0.99
    for step in range(1, 6):
        curvature = jax.tree.map(np.abs, draws(10 + step))  # of the losses, one per step

        gradient = jax.tree.map(lambda a, p, t: a * (np.asarray(p, np.float64) - t), curvature, params, target)
        updates, state = update(to_float32(gradient), state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: rate * u, updates))

        gradient = jax.tree.map(lambda a, c, s, t: c * a * (c * s - t), curvature, used, stored, target)
        second = jax.tree.map(lambda v, g: decay * v + (1 - decay) * g**2, second, gradient)
        corrected = rate * np.sqrt(1 - decay**step)
        stored = jax.tree.map(lambda s, g, v, r=corrected: s - r * g / np.sqrt(v), stored, gradient, second)
    expected = jax.tree.map(np.multiply, used, stored)
    for (path, got), value, c in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(expected), jax.tree.leaves(used), strict=True
    ):
        np.testing.assert_allclose(got / c, value / c, atol=2e-5 / c, err_msg=jax.tree_util.keystr(path))
        assert np.abs(value / c - np.asarray(stored_at_start(path)) / multiplier).max() > rate


def stored_at_start(path):
    return functools.reduce(lambda tree, entry: tree[entry.key], path, draws(0))


def test_coefficients_by_hand():
    ones = to_float32(jax.tree.map(np.ones, SHAPES, is_leaf=is_shape))
    tx = optimizers.equalise_learning_rates(multiplier=0.1, gain=3.0, gains={"Conv_1": 6.0, "ToRGB": 0.5})
    found, _ = tx.update(ones, tx.init(ones))
    expected = {
        "Dense_0": {"kernel": 0.1 * 3 / 5**0.5, "bias": 0.1},
        "block": {
            "ToRGB_3": {"kernel": 0.1 * 0.5 / 8**0.5, "bias": 0.1},
            "Conv_1": {"kernel": 0.1 * 6 / 18**0.5, "noise": 1.0},
        },
        "constant": 1.0,
    }
    jax.tree.map(lambda leaf, c: np.testing.assert_allclose(leaf, np.full(leaf.shape, c), rtol=1e-6), found, expected)
    tx = optimizers.equalise_learning_rates()
    found, _ = tx.update(ones["Dense_0"], tx.init(ones))  # a layer of its own, without a name
    np.testing.assert_allclose(found["kernel"], np.full((5, 4), (2 / 5) ** 0.5), rtol=1e-6)
    assert (found["bias"] == 1.0).all()


def test_the_first_step_of_equalised_adam_is_the_sign_of_the_gradient():
    """Its rate is corrected for the zeros that averages begin with, and a gradient of zero moves nothing."""
    tx = optimizers.equalised_adam(multiplier=0.1)
    params = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
    gradient = {"kernel": jnp.array([[1e3, -1e-3, 0.0], [-2.0, 5.0, 0.0]]), "bias": jnp.array([-7.0, 0.0, 1e-4])}
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * np.sign(gradient["kernel"]), rtol=1e-4)
    np.testing.assert_allclose(updates["bias"], -0.1 * np.sign(gradient["bias"]), rtol=2e-4)


# --- Adam with L2 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_l2_enters_the_moments_and_spares_gains(l2):
    b1, b2, generator = 0.5, 0.999, np.random.default_rng(0)
    shapes = {"Dense_0": {"kernel": (3, 2), "bias": (2,)}, "BatchNorm_0": {"scale": (2,), "bias": (2,)}}
    params = jax.tree.map(lambda shape: generator.normal(size=shape), shapes, is_leaf=is_shape)
    weights = {"Dense_0": {"kernel": l2, "bias": l2}, "BatchNorm_0": {"scale": 0.0, "bias": l2}}
    tx = optimizers.adam_with_l2(b1, b2, l2)
    ours = to_float32(params)
    state, update = tx.init(ours), jax.jit(tx.update)
    mean = square = jax.tree.map(np.zeros_like, params)
    for step in range(1, 5):
        gradient = jax.tree.map(lambda p: generator.normal(size=p.shape), params)
        updates, state = update(to_float32(gradient), state, ours)
        ours = optax.apply_updates(ours, jax.tree.map(lambda u: 0.1 * u, updates))

        gradient = jax.tree.map(lambda g, w, p: g + w * p, gradient, weights, params)
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mean, gradient)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, square, gradient)
        params = jax.tree.map(
            lambda p, m, v, step=step: p - 0.1 * (m / (1 - b1**step)) / (np.sqrt(v / (1 - b2**step)) + 1e-8),
            params,
            mean,
            square,
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, params)


# --- learning rates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1.0), (99, 1.0), (100, 1.0), (101, 0.01 ** (1 / 40)), (120, 0.1), (140, 0.01)]
)
def test_rates_are_constant_and_fall_to_a_hundredth(step, share):
    schedule = jax.jit(optimizers.constant_then_exponential(2e-4, 100, 40))
    assert schedule(jnp.int32(step)) == pytest.approx(2e-4 * share, rel=1e-5)


def test_rates_without_a_fall_or_with_nothing_else():
    constant = optimizers.constant_then_exponential(0.5, 7, 0)
    assert [float(constant(jnp.int32(step))) for step in range(8)] == [0.5] * 8
    falling = optimizers.constant_then_exponential(0.5, 0, 4)
    np.testing.assert_allclose([falling(jnp.int32(step)) for step in (0, 2, 4)], [0.5, 0.05, 0.005], rtol=1e-5)
