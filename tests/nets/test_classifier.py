"""The image classifier: its layers in order, pooling, and dropout that belongs to the example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import nets, testing
from mvae_jax.nets.blocks import Conv, max_pool
from mvae_jax.nets.classifier import ImageClassifier, dropout
from mvae_jax.random import example_keys

SMALL = functools.partial(ImageClassifier, 5, widths=(4, 6), hidden=7, dropout=0.5)
KEYS = example_keys(jax.random.key(1), 4)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


IMAGES = normal(4, 8, 8, 3)


@functools.cache
def variables():
    return nets.init(SMALL(), jax.random.key(0), IMAGES)


def run(net, *inputs, train):
    return jax.jit(functools.partial(nets.apply, net, train=train))(*variables(), *inputs)


def test_parameter_count_of_the_default():
    def count(image_size):
        shape = jnp.zeros((1, image_size, image_size, 3))
        params, _ = jax.eval_shape(lambda x: nets.init(ImageClassifier(10), jax.random.key(0), x), shape)
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 96 + 96 * 128)
    norms, dense = 2 * (32 + 64 + 96 + 128), (4 * 4 * 128 + 1) * 128
    assert count(64) == convolutions + norms + dense + 129 * 10 == 449_386
    assert count(32) == 449_386 - 12 * 128 * 128


def test_the_network_is_its_layers_in_order():
    """In evaluation with fresh statistics: batch norm divides by sqrt(1 + 1e-5)."""
    params, _ = variables()

    def dense(x, layer):
        return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    h = np.asarray(Conv(4, use_bias=False, stride=2).apply({"params": params["Conv_0"]}, IMAGES))
    h = jnp.asarray(np.maximum(h / np.sqrt(1 + 1e-5), 0))
    h = np.asarray(Conv(6, use_bias=False).apply({"params": params["Conv_1"]}, h))
    h = np.stack([[h[:, i : i + 2, j : j + 2].max((1, 2)) for j in (0, 2)] for i in (0, 2)]).transpose(2, 0, 1, 3)
    h = np.maximum(h / np.sqrt(1 + 1e-5), 0)
    features = np.maximum(dense(h.reshape(4, -1), params["features"]), 0)
    (logits, got), _ = run(SMALL(), IMAGES, train=False)
    np.testing.assert_allclose(got, features, atol=1e-5)
    np.testing.assert_allclose(logits, dense(features, params["logits"]), atol=1e-5)


def test_statistics_move_in_training_only_and_outputs_are_float32():
    (logits, _), stats = run(SMALL(), IMAGES, train=False)
    (trained, _), updated = run(SMALL(), IMAGES, train=True)
    jax.tree.map(np.testing.assert_array_equal, stats, variables()[1])
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(updated), strict=True))
    assert (logits != trained).any()
    coarse = jax.eval_shape(
        lambda x: nets.apply(SMALL(dtype=jnp.bfloat16), *variables(), x, train=False)[0], jnp.zeros((2, 8, 8, 3))
    )
    assert [(leaf.shape, leaf.dtype) for leaf in coarse] == [((2, 5), jnp.float32), ((2, 7), jnp.float32)]


def test_dropout_is_before_both_dense_layers_and_in_training_only():
    params, _ = variables()
    (logits, features), _ = run(SMALL(), IMAGES, KEYS, train=True)
    sites = [jax.vmap(jax.random.fold_in, (0, None))(KEYS, site) for site in (0, 1)]
    dropped = dropout(sites[1], features, 0.5)
    expected = dropped @ params["logits"]["kernel"] + params["logits"]["bias"][None]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert (dropped == 0).sum() > (features == 0).sum()

    (_, undropped), _ = run(SMALL(), IMAGES, train=True)
    assert (features != undropped).any()
    (_, same), _ = run(SMALL(dropout=0.0), IMAGES, KEYS, train=True)
    np.testing.assert_allclose(same, undropped, atol=1e-6)
    for a, b in zip(run(SMALL(), IMAGES, KEYS, train=False)[0], run(SMALL(), IMAGES, train=False)[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_keeps_the_expectation():
    keys, x = example_keys(jax.random.key(2), 64), normal(64, 200)
    dropped = np.asarray(dropout(keys, x, 0.2))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], np.asarray(x)[kept] / 0.8, rtol=1e-6)
    assert abs(kept.mean() - 0.8) < 4 * np.sqrt(0.2 * 0.8 / kept.size)
    np.testing.assert_array_equal(dropout(keys, x, 0.0), x)
    assert len(np.unique(kept, axis=0)) == 64


def test_dropout_belongs_to_the_example_and_not_to_the_batch():
    x = normal(4, 30)
    np.testing.assert_array_equal(dropout(KEYS[2:], x[2:], 0.5), dropout(KEYS, x, 0.5)[2:])


def test_max_pool():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(image)[0, :, :, 0], [[5, 7], [13, 15]])
    # Also gradients of the gradient, by the cotangent; odd sizes lose their last row and column.
    for shape in (2, 4, 6, 3), (2, 5, 7, 3):
        x, g = normal(*shape), normal(2, shape[1] // 2, shape[2] // 2, 3)
        testing.check_gradients(max_pool, x)
        testing.check_gradients(lambda g, x=x: jax.vjp(max_pool, x)[1](g)[0], g, order=2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_first_of_equal_pixels_takes_the_gradient_of_a_pool(dtype):
    fours = np.array([[1, 1, 1, 1], [0, 2, 2, 1], [0, 1, 3, 3], [0, 1, 2, 5]])
    image = jnp.asarray(fours.reshape(4, 2, 2, 1), dtype)
    gradient = jax.jit(jax.grad(lambda x: max_pool(x).sum()))(image)
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient.reshape(4, 4), np.eye(4))


@pytest.mark.parametrize("shape", [(1, 8, 10, 3), (1, 6, 8, 3), (8, 8, 3)])
def test_images_that_cannot_be_halved_are_refused(shape):
    with pytest.raises(ValueError, match="H and W multiples of 4"):
        nets.init(SMALL(), jax.random.key(0), jnp.zeros(shape))
