from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import nets
from mvae_jax.cpu.convolution import convolution
from mvae_jax.nets.blocks import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    ResidualBlock,
    ResidualDense,
    SelfAttention,
    fan_in_uniform,
    icnr,
)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in"),
    [
        (Dense(300), (1, 50), 50),
        (Conv(40, kernel_size=3), (1, 4, 4, 20), 180),
        (ConvTranspose(40, kernel_size=4), (1, 2, 2, 20), 640),  # PyTorch counts the output channels here
    ],
)
def test_default_initialisation_is_uniform_within_one_over_root_fan_in(layer, shape, fan_in):
    params = layer.init(jax.random.key(0), jnp.zeros(shape))["params"]
    bound = fan_in**-0.5
    kernel = np.asarray(params["kernel"])
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.03)
    np.testing.assert_allclose(kernel.mean(), 0.0, atol=0.03 * bound)
    assert 0.8 * bound < np.abs(params["bias"]).max() <= bound


def test_layers_by_hand_and_without_bias():
    x = jnp.asarray([[1.0, -2.0]])
    params = {"kernel": jnp.asarray([[3.0, 0.0], [1.0, 4.0]]), "bias": jnp.asarray([0.5, 0.0])}
    np.testing.assert_array_equal(Dense(2).apply({"params": params}, x), [[1.5, -8.0]])
    assert set(Conv(2, use_bias=False).init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))["params"]) == {"kernel"}
    ones = {"params": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.asarray([10.0])}}
    np.testing.assert_array_equal(
        Conv(1).apply(ones, jnp.ones((1, 3, 3, 1)))[0, :, :, 0], [[14, 16, 14], [16, 19, 16], [14, 16, 14]]
    )
    ones["params"]["kernel"] = jnp.ones((4, 4, 1, 1))
    up = ConvTranspose(1).apply(ones, jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(
        up[0, :, :, 0], [[11, 12, 12, 11], [12, 14, 14, 12], [12, 14, 14, 12], [11, 12, 12, 11]]
    )


def test_a_transposed_convolution_that_starts_as_upsampling_and_a_convolution():
    x, key = normal(2, 5, 4, 3), jax.random.key(1)
    up = ConvTranspose(6, use_bias=False, kernel_init=icnr).apply({"params": {"kernel": icnr(key, (4, 4, 3, 6))}}, x)
    copies = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    kernel = fan_in_uniform(27)(key, (3, 3, 3, 6))
    np.testing.assert_allclose(up, convolution(copies, kernel[::-1, ::-1]), atol=1e-5)


def test_own_initialisers():
    init = {"kernel_init": nn.initializers.constant(2.0), "bias_init": nn.initializers.ones}
    params = Dense(3, **init).init(jax.random.key(0), jnp.zeros((1, 2)))["params"]
    np.testing.assert_array_equal(params["kernel"], np.full((2, 3), 2.0))
    np.testing.assert_array_equal(params["bias"], np.ones(3))


def batch_norm_variables(x, norm):
    variables = norm.init(jax.random.key(0), x, False)
    params = {"scale": normal(x.shape[-1], seed=1), "bias": normal(x.shape[-1], seed=2)}
    return {"params": params, "batch_stats": variables["batch_stats"]}


@pytest.mark.parametrize("shape", [(6, 3), (2, 4, 5, 3)])
def test_batch_norm_in_numpy(shape):
    x, norm = 2.0 + 3.0 * normal(*shape), BatchNorm()
    variables = batch_norm_variables(x, norm)
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    flat = np.asarray(x, np.float64).reshape(-1, 3)
    scale, bias = (np.asarray(variables["params"][name]) for name in ("scale", "bias"))
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(np.reshape(y, (-1, 3)), expected, atol=1e-5)
    stats = jax.tree.map(np.asarray, updated["batch_stats"])
    np.testing.assert_allclose(stats["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)

    running = {"params": variables["params"], "batch_stats": stats}
    expected = (flat - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * scale + bias
    np.testing.assert_allclose(np.reshape(norm.apply(running, x, False), (-1, 3)), expected, atol=1e-5)


def test_batch_norm_without_gain_and_bias():
    """It has no parameters, and is that with a gain of one and a bias of zero, also in its statistics."""
    x, plain = 2.0 + 3.0 * normal(6, 3), BatchNorm(affine=False)
    variables = plain.init(jax.random.key(0), x, False)
    assert set(variables) == {"batch_stats"}
    full = {"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}, **variables}
    found = plain.apply(variables, x, True, mutable=["batch_stats"])
    expected = BatchNorm().apply(full, x, True, mutable=["batch_stats"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    flat = np.asarray(x, np.float64)
    np.testing.assert_allclose(found[0], (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-5)
    np.testing.assert_allclose(plain.apply(variables, x, False), flat / np.sqrt(1 + 1e-5), atol=1e-5)


def test_batch_norm_gradient_equals_that_of_flax():
    x = 1.0 + normal(3, 2, 2, 4)
    ours, theirs = BatchNorm(), nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    variables = batch_norm_variables(x, ours)

    def gradients(norm, *arguments):
        def loss(params, x):
            full = {"params": params, "batch_stats": variables["batch_stats"]}
            return jnp.sin(norm.apply(full, x, *arguments, mutable=["batch_stats"])[0]).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(variables["params"], x)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients(ours, True), gradients(theirs))


def test_batch_norm_over_a_mapped_axis_sees_the_whole_batch():
    x, whole, split = normal(8, 2, 3), BatchNorm(), BatchNorm(axis_name="batch")
    variables = batch_norm_variables(x, whole)
    y, stats = whole.apply(variables, x, True, mutable=["batch_stats"])
    parts, split_stats = jax.vmap(
        lambda x: split.apply(variables, x, True, mutable=["batch_stats"]), axis_name="batch"
    )(x.reshape(4, 2, 2, 3))
    np.testing.assert_allclose(parts.reshape(x.shape), y, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-6), split_stats, stats)
    split.init(jax.random.key(0), x, True)  # initialising needs no mapped axis


def test_residual_blocks_are_x_plus_a_branch():
    x = normal(2, 4, 4, 3)
    params, stats = nets.init(ResidualBlock(), jax.random.key(0), x)
    np.testing.assert_allclose(
        nets.apply(ResidualBlock(), jax.tree.map(jnp.zeros_like, params), stats, x, train=True)[0], x
    )
    y, _ = nets.apply(ResidualBlock(), params, stats, x, train=False)
    h = Conv(3).apply({"params": params["Conv_0"]}, x) / np.sqrt(1 + 1e-5)
    h = jnp.where(h > 0, h, 0.2 * h)
    np.testing.assert_allclose(y, x + Conv(3).apply({"params": params["Conv_1"]}, h) / np.sqrt(1 + 1e-5), atol=1e-5)

    x = normal(2, 3)
    params = ResidualDense().init(jax.random.key(0), x)["params"]
    h = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None]
    expected = x + np.where(h > 0, h, 0.2 * h) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"][None]
    np.testing.assert_allclose(ResidualDense().apply({"params": params}, x), expected, atol=1e-5)


def test_self_attention_in_numpy():
    x, net = normal(2, 5, 6), SelfAttention(heads=2)
    params = net.init(jax.random.key(0), x)["params"]
    joint, output = params["queries_keys_values"], params["output"]
    assert np.abs(joint["kernel"]).max() <= (6 / (6 + 18)) ** 0.5
    assert not joint["bias"].any()
    assert not output["bias"].any()
    expected = np.zeros(x.shape)
    for b in range(2):
        queries, keys, values = np.split(np.asarray(x[b] @ joint["kernel"]), 3, axis=1)
        for head in (slice(0, 3), slice(3, 6)):
            scores = np.exp(queries[:, head] @ keys[:, head].T / 3**0.5)
            expected[b, :, head] = scores / scores.sum(1, keepdims=True) @ values[:, head]
    np.testing.assert_allclose(net.apply({"params": params}, x), expected @ output["kernel"], atol=1e-5)
    with pytest.raises(ValueError, match="6 channels do not split into 4"):
        SelfAttention(heads=4).init(jax.random.key(0), x)


@pytest.mark.parametrize("layer", [Dense(4), Conv(4), ConvTranspose(4), BatchNorm(), ResidualBlock(), SelfAttention(2)])
def test_bfloat16_computes_low_and_keeps_parameters_float32(layer):
    shape = (2, 4, 4) if isinstance(layer, SelfAttention) else (2, 4, 4, 4)
    arguments = (False,) if isinstance(layer, BatchNorm | ResidualBlock) else ()
    low = layer.clone(dtype=jnp.bfloat16)
    variables = low.init(jax.random.key(0), normal(*shape), *arguments)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    y = low.apply(variables, normal(*shape).astype(jnp.bfloat16), *arguments)
    assert y.dtype == jnp.bfloat16
    exact = layer.apply(variables, normal(*shape), *arguments)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)
