"""Networks of VAE/GAN: published sizes, layers in order by an independent path, where the features are taken."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import nets
from mvae_jax.nets.larsen import Decoder, Discriminator, Encoder

ENCODER = functools.partial(Encoder, latent_size=3, widths=(4, 5), hidden=6)
DECODER = functools.partial(Decoder, channels=2, image_size=8, widths=(5, 4), grid_width=3)
DISCRIMINATOR = functools.partial(Discriminator, widths=(4, 5, 6), hidden=7)
SMALL = {
    "encoder": (ENCODER, (4, 8, 8, 2)),
    "decoder": (DECODER, (4, 3)),
    "discriminator": (DISCRIMINATOR, (4, 8, 8, 2)),
}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def abstract(net, *shape):
    """Shapes of parameters, batch statistics and outputs."""

    def run(x):
        params, stats = nets.init(net, jax.random.key(0), x)
        return params, stats, nets.apply(net, params, stats, x, train=True)[0]

    return jax.eval_shape(run, jnp.zeros(shape))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_published_parameter_counts():
    """Without batch statistics, of which there are two per scale."""
    params, stats, heads = abstract(Encoder(), 2, 64, 64, 3)
    trunk = {name: layer for name, layer in params.items() if name not in ("mean", "logvar")}
    assert (count(trunk), count(params) - count(trunk)) == (17_808_960, 262_400)
    assert count(stats) == 2 * (64 + 128 + 256 + 1024)
    assert [head.shape for head in heads] == [(2, 128)] * 2
    params, stats, image = abstract(Decoder(), 2, 128)
    assert (count(params), count(stats)) == (4_693_155, 2 * (16_384 + 256 + 128 + 32))
    assert image.shape == (2, 64, 64, 3)
    params, stats, (logits, features) = abstract(Discriminator(), 2, 64, 64, 3)
    assert (count(params), count(stats)) == (10_953_857, 2 * (128 + 256 + 256 + 512))
    assert (logits.shape, features.shape) == ((2,), (2, 8, 8, 256))


@pytest.mark.parametrize(("size", "widths"), [(8, (5,)), (12, (5, 4)), (24, (6, 5, 4)), (32, (4,) * 5)])
def test_other_sizes_start_from_another_grid(size, widths):
    params, _, image = abstract(Decoder(channels=1, image_size=size, widths=widths, grid_width=7), 2, 3)
    grid = size // 2 ** len(widths)
    assert params["Dense_0"]["kernel"].shape == (3, grid * grid * 7)
    assert image.shape == (2, size, size, 1)
    _, _, heads = abstract(Encoder(3, widths, 6), 2, size, size, 1)
    assert [head.shape for head in heads] == [(2, 3)] * 2
    _, _, (_, features) = abstract(Discriminator((2, *widths), 6), 2, size, size, 1)
    assert features.shape == (2, grid, grid, widths[-1])


@pytest.mark.parametrize(("size", "widths"), [(20, (5, 4, 4)), (0, (5,)), (7, (5,))])
def test_sizes_that_no_grid_makes_are_refused(size, widths):
    with pytest.raises(ValueError, match=rf"image_size is {size}; expected a multiple of {2 ** len(widths)} for the"):
        abstract(Decoder(image_size=size, widths=widths), 2, 3)


@functools.cache
def variables(name):
    """No longer zeros and ones where initialisation left those."""
    net, shape = SMALL[name]
    generator = np.random.default_rng(3)
    params, stats = nets.init(net(), jax.random.key(0), normal(*shape))
    params = jax.tree.map(lambda p: p + 0.2 * generator.normal(size=p.shape).astype(np.float32), params)
    return params, jax.tree.map(lambda s: s + generator.uniform(0.1, 0.5, s.shape).astype(np.float32), stats)


def run(name, train=False, **fields):
    net, shape = SMALL[name]
    return jax.jit(functools.partial(nets.apply, net(**fields), train=train))(*variables(name), normal(*shape))


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


class Layers:
    """The layers of a network in NumPy; batch statistics that training leaves."""

    def __init__(self, name, train):
        (self.params, self.stats), self.train, self.new = variables(name), train, {}

    def kernel(self, layer):
        return np.asarray(self.params[layer]["kernel"], np.float64)

    def bias(self, layer):
        return np.asarray(self.params[layer].get("bias", 0.0), np.float64)

    def conv(self, number, x, stride):
        """Windows of 5x5 pixels, one more of padding at the end than at the beginning where the stride is 2."""
        size, kernel = x.shape[1] // stride, self.kernel(f"Conv_{number}")
        padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))[:, stride - 1 :, stride - 1 :]
        y = np.zeros((len(x), size, size, kernel.shape[3]))
        for i in range(size):
            for j in range(size):
                window = padded[:, stride * i : stride * i + 5, stride * j : stride * j + 5]
                y[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
        return y + self.bias(f"Conv_{number}")

    def conv_transpose(self, number, x):
        """Every pixel paints the kernel around twice its place."""
        size, kernel = x.shape[1], self.kernel(f"ConvTranspose_{number}")
        y = np.zeros((len(x), 2 * size + 3, 2 * size + 3, kernel.shape[3]))
        for i in range(size):
            for j in range(size):
                y[:, 2 * i : 2 * i + 5, 2 * j : 2 * j + 5] += np.einsum("bc,hwco->bhwo", x[:, i, j], kernel)
        return y[:, 1:-2, 1:-2]

    def dense(self, layer, x):
        return x @ self.kernel(layer) + self.bias(layer)

    def activated(self, number, x):
        """Batch norm of channels or units, and ReLU."""
        name = f"BatchNorm_{number}"
        own, old = self.params[name], self.stats[name]
        mean, variance = np.asarray(old["mean"]), np.asarray(old["var"])
        if self.train:
            size, axes = x[..., 0].size, tuple(range(x.ndim - 1))
            mean, variance = x.mean(axes), x.var(axes)
            self.new[name] = {
                "mean": 0.9 * old["mean"] + 0.1 * mean,
                "var": 0.9 * old["var"] + 0.1 * variance * size / (size - 1),
            }
        y = (x - mean) / np.sqrt(variance + (1e-6 if x.ndim == 4 else 1e-5))
        return np.maximum(y * np.asarray(own["scale"]) + np.asarray(own["bias"]), 0)

    def check_statistics(self, stats):
        jax.tree.map(close, dict(stats), self.new if self.train else self.stats)


@pytest.mark.parametrize("train", [False, True])
def test_the_encoder_is_its_layers_in_order(train):
    layers, h = Layers("encoder", train), np.asarray(normal(4, 8, 8, 2), np.float64)
    for stage in range(2):
        h = layers.activated(stage, layers.conv(stage, h, stride=2))
    h = layers.activated(2, layers.dense("Dense_0", h.reshape(4, -1)))
    heads, stats = run("encoder", train)
    for name, head in zip(("mean", "logvar"), heads, strict=True):
        close(head, layers.dense(name, h))
    layers.check_statistics(stats)
    if not train:
        close(jax.jit(functools.partial(nets.features, ENCODER()))(*variables("encoder"), normal(4, 8, 8, 2)), h)


@pytest.mark.parametrize("train", [False, True])
def test_the_decoder_is_its_layers_in_order(train):
    layers, h = Layers("decoder", train), np.asarray(normal(4, 3), np.float64)
    h = layers.activated(0, layers.dense("Dense_0", h)).reshape(4, 2, 2, 3)
    for stage in range(2):
        h = layers.activated(stage + 1, layers.conv_transpose(stage, h))
    image, stats = run("decoder", train)
    close(image, layers.conv(0, h, stride=1))
    layers.check_statistics(stats)


@pytest.mark.parametrize("train", [False, True])
def test_the_discriminator_is_its_layers_in_order(train):
    """The features are in front of the last convolution's batch norm."""
    layers, h = Layers("discriminator", train), np.asarray(normal(4, 8, 8, 2), np.float64)
    h = np.maximum(layers.conv(0, h, stride=1), 0)
    h = layers.activated(0, layers.conv(1, h, stride=2))
    expected_features = h = layers.conv(2, h, stride=2)
    h = layers.activated(1, h).reshape(4, -1)
    h = layers.activated(2, layers.dense("Dense_0", h))
    (logits, features), stats = run("discriminator", train)
    close(features, expected_features)
    close(logits, layers.dense("Dense_1", h)[:, 0])
    layers.check_statistics(stats)


@pytest.mark.parametrize("train", [False, True])
def test_features_alone_are_the_same_and_cost_less(train):
    (_, expected), _ = run("discriminator", train)
    features, _ = run("discriminator", train, features_only=True)
    np.testing.assert_allclose(features, expected, rtol=1e-6, atol=1e-6)
    params, stats, shape = abstract(DISCRIMINATOR(features_only=True), 4, 8, 8, 2)
    assert (set(params), set(stats)) == ({"Conv_0", "Conv_1", "Conv_2", "BatchNorm_0"}, {"BatchNorm_0"})
    assert shape.shape == features.shape


def test_one_head_is_the_mean_alone():
    (mean,), _ = run("encoder", heads=1)
    np.testing.assert_array_equal(mean, run("encoder")[0][0])


@pytest.mark.parametrize("name", SMALL)
def test_initialisation(name):
    """Kernels uniform with a deviation of 1 / (3 sqrt(fan-in)); a transposed convolution's fan-in is of its outputs."""
    net, shape = SMALL[name]
    params, stats = nets.init(net(), jax.random.key(0), normal(*shape))
    for path, leaf in jax.tree.leaves_with_path(params):
        if path[-1].key != "kernel":
            np.testing.assert_array_equal(leaf, 1.0 if path[-1].key == "scale" else 0.0)
            continue
        fan_in = leaf.size / leaf.shape[-2 if path[-2].key.startswith("ConvTranspose") else -1]
        bound = np.sqrt(3) / (3 * np.sqrt(fan_in))
        size = np.abs(leaf)
        assert size.max() <= bound
        assert abs(np.asarray(size).mean() - bound / 2) < 4 * bound / np.sqrt(12 * leaf.size), path
    assert all((leaf == (path[-1].key == "var")).all() for path, leaf in jax.tree.leaves_with_path(stats))


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_keeps_parameters_and_outputs_in_float32(name):
    net, shape = SMALL[name]
    params, stats, outputs = abstract(net(dtype=jnp.bfloat16), *shape)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats, outputs))} == {jnp.dtype("float32")}
    exact, low = jax.tree.leaves(run(name)[0]), jax.tree.leaves(run(name, dtype=jnp.bfloat16)[0])
    for a, b in zip(exact, low, strict=True):
        assert 0 < jnp.abs(a - b).max() < 0.05 * jnp.abs(a).max()
