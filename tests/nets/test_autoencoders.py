"""Encoders and decoders of single images: published sizes, layers in order, what mirrors what."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import nets
from mvae_jax.cpu.convolution import convolution, transposed_convolution
from mvae_jax.nets.autoencoders import ConvolutionalDecoder, ConvolutionalEncoder, DenseDecoder, DenseEncoder

WIDTHS, LATENT = (4, 6), 3  # images of 8x8
ENCODER = functools.partial(ConvolutionalEncoder, LATENT, WIDTHS)
DECODER = functools.partial(ConvolutionalDecoder, 3, WIDTHS)
DENSE_ENCODER = functools.partial(DenseEncoder, LATENT, (7, 5))
DENSE_DECODER = functools.partial(DenseDecoder, (4, 6, 2), (7, 5))
HEADS = ("mean", "logvar")
SMALL = {
    "convolutional encoder": (ENCODER, (4, 8, 8, 3)),
    "convolutional decoder": (DECODER, (4, LATENT)),
    "dense encoder": (DENSE_ENCODER, (4, 4, 6, 2)),
    "dense decoder": (DENSE_DECODER, (4, LATENT)),
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


def shapes(params, layer):
    """Shapes of the kernels, and of the biases, of all layers of one kind, in order."""
    found = [params[f"{layer}_{number}"] for number in range(sum(name.startswith(f"{layer}_") for name in params))]
    return [tuple(leaf.shape for leaf in (own["kernel"], *([own["bias"]] if "bias" in own else []))) for own in found]


def test_published_parameter_counts():
    """With batch statistics and without; a deterministic encoder has one head of 32 * 32 + 32 less."""
    params, stats, _ = abstract(ConvolutionalEncoder(), 1, 64, 64, 3)
    assert (count(params) + count(stats), count(params)) == (3_286_336, 3_284_160)
    params, stats, _ = abstract(ConvolutionalDecoder(), 1, 32)
    assert (count(params) + count(stats), count(params)) == (3_038_765, 3_036_583)
    params, stats, _ = abstract(ConvolutionalEncoder(heads=1), 1, 64, 64, 3)
    assert (count(params), count(stats)) == (3_284_160 - 1056, 2 * (64 + 128 + 128 + 256 + 512))


def test_published_layers():
    encoder, _, heads = abstract(ConvolutionalEncoder(), 2, 64, 64, 3)
    assert shapes(encoder, "Conv") == [
        ((4, 4, 3, 64),),
        ((4, 4, 64, 128),),
        ((4, 4, 128, 128),),
        ((4, 4, 128, 256),),
        ((4, 4, 256, 512),),
        ((4, 4, 512, 32),),
    ]
    assert [encoder[name]["kernel"].shape for name in HEADS] == [(32, 32)] * 2
    assert [encoder[name]["bias"].shape for name in HEADS] == [(32,)] * 2
    assert [leaf["scale"].shape[0] for name, leaf in encoder.items() if "Norm" in name] == [64, 128, 128, 256, 512]
    assert [head.shape for head in heads] == [(2, 32), (2, 32)]

    decoder, _, image = abstract(ConvolutionalDecoder(), 2, 32)
    assert shapes(decoder, "ConvTranspose") == [
        ((1, 1, 32, 512),),
        ((4, 4, 512, 256),),
        ((4, 4, 256, 128),),
        ((4, 4, 128, 128),),
        ((4, 4, 128, 64), (64,)),
        ((4, 4, 64, 3),),
    ]
    assert decoder["Conv_0"]["kernel"].shape == (5, 5, 3, 3)
    assert "bias" not in decoder["Conv_0"]
    assert [leaf["scale"].shape[0] for name, leaf in decoder.items() if "Norm" in name] == [512, 256, 128, 128, 64, 3]
    assert image.shape == (2, 64, 64, 3)


@pytest.mark.parametrize(("widths", "channels"), [((5,), 1), ((4, 6), 3), ((4, 6, 8), 2), ((4,) * 6, 3)])
def test_the_decoder_mirrors_the_encoder(widths, channels):
    size = 2 ** (len(widths) + 1)
    encoder, _, heads = abstract(ConvolutionalEncoder(7, widths), 2, size, size, channels)
    assert [head.shape for head in heads] == [(2, 7)] * 2
    decoder, _, image = abstract(ConvolutionalDecoder(channels, widths), 2, 7)
    assert image.shape == (2, size, size, channels)
    down = [kernel[2:] for kernel, *_ in shapes(encoder, "Conv")]
    up = shapes(decoder, "ConvTranspose")
    assert [kernel[2:] for kernel, *_ in up] == [pair[::-1] for pair in down[::-1]]
    assert [len(layer) for layer in up] == [1] * (len(widths) - 1) + [2, 1]  # only the last but one has a bias


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
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def dense(x, layer):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


class Layers:
    """The layers of a network in NumPy, but for the products; batch statistics that training leaves."""

    def __init__(self, name, train):
        (self.params, self.stats), self.train, self.new = variables(name), train, {}

    def product(self, function, layer, x, **options):
        own = self.params[layer]
        y = np.asarray(function(jnp.asarray(x, jnp.float32), own["kernel"], **options), np.float64)
        return y + np.asarray(own.get("bias", 0.0), np.float64)

    def activated(self, number, x):
        """Batch norm and leaky ReLU, with Keras's momentum, epsilon and slope."""
        name = f"BatchNorm_{number}"
        own, old = self.params[name], self.stats[name]
        mean, variance = np.asarray(old["mean"]), np.asarray(old["var"])
        if self.train:
            size = x[..., 0].size
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.new[name] = {
                "mean": 0.99 * old["mean"] + 0.01 * mean,
                "var": 0.99 * old["var"] + 0.01 * variance * size / (size - 1),
            }
        y = (x - mean) / np.sqrt(variance + 1e-3) * np.asarray(own["scale"]) + np.asarray(own["bias"])
        return np.where(y > 0, y, 0.3 * y)


@pytest.mark.parametrize("train", [False, True])
def test_the_convolutional_encoder_is_its_layers_in_order(train):
    layers, h = Layers("convolutional encoder", train), np.asarray(normal(4, 8, 8, 3))
    for stage in range(2):
        h = layers.activated(stage, layers.product(convolution, f"Conv_{stage}", h, stride=2))
    h = layers.product(convolution, "Conv_2", h, stride=2)
    assert h.shape == (4, 1, 1, LATENT)
    heads, stats = run("convolutional encoder", train)
    for name, head in zip(HEADS, heads, strict=True):
        close(head, dense(h[:, 0, 0], layers.params[name]))
    jax.tree.map(close, dict(stats), layers.new if train else layers.stats)


@pytest.mark.parametrize("train", [False, True])
def test_the_convolutional_decoder_is_its_layers_in_order(train):
    """The image's channels are normalised and rectified before the last convolution (SC-04, SC-05)."""
    layers, h = Layers("convolutional decoder", train), np.asarray(normal(4, LATENT))[:, None, None]
    options = [{"stride": 1, "padding": "VALID"}] * 2 + [{"stride": 2}]
    for stage, (option, size) in enumerate(zip(options, (1, 4, 8), strict=True)):
        h = layers.activated(stage, layers.product(transposed_convolution, f"ConvTranspose_{stage}", h, **option))
        assert h.shape[1:3] == (size, size)
    image, stats = run("convolutional decoder", train)
    close(image, layers.product(convolution, "Conv_0", h))
    jax.tree.map(close, dict(stats), layers.new if train else layers.stats)


def test_dense_networks_are_their_layers_in_order():
    params, _ = variables("dense encoder")
    h = np.asarray(normal(4, 4, 6, 2)).reshape(4, -1)
    for number in range(2):
        h = np.maximum(dense(h, params[f"Dense_{number}"]), 0)
    assert h.shape == (4, 5)
    for name, head in zip(HEADS, run("dense encoder")[0], strict=True):
        close(head, dense(h, params[name]))

    params, _ = variables("dense decoder")
    h = np.asarray(normal(4, LATENT))
    for number, width in enumerate((5, 7)):
        h = np.maximum(dense(h, params[f"Dense_{number}"]), 0)
        assert h.shape == (4, width)
    close(run("dense decoder")[0], dense(h, params["Dense_2"]).reshape(4, 4, 6, 2))


@pytest.mark.parametrize("name", ["convolutional encoder", "dense encoder"])
def test_one_head_is_the_mean_alone(name):
    (mean,), _ = run(name, heads=1)
    np.testing.assert_array_equal(mean, run(name)[0][0])


@pytest.mark.parametrize("name", SMALL)
def test_initialisation_is_that_of_keras(name):
    """Kernels uniform in +-sqrt(6 / (fan in + fan out)), biases zero, scales one."""
    net, shape = SMALL[name]
    params, stats = nets.init(net(), jax.random.key(0), normal(*shape))
    for path, leaf in jax.tree.leaves_with_path(params):
        if path[-1].key == "kernel":
            inputs, outputs = leaf.shape[-2:]
            bound = np.sqrt(6 / ((inputs + outputs) * leaf.size / (inputs * outputs)))
            size = np.abs(leaf)
            assert size.max() <= bound
            assert abs(np.asarray(size).mean() - bound / 2) < 4 * bound / np.sqrt(12 * leaf.size), path
        else:
            np.testing.assert_array_equal(leaf, 1.0 if path[-1].key == "scale" else 0.0)
    assert {
        (path[-1].key, float(leaf.min()), float(leaf.max())) for path, leaf in jax.tree.leaves_with_path(stats)
    } in (
        {("mean", 0.0, 0.0), ("var", 1.0, 1.0)},
        set(),
    )


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_is_inside_only(name):
    exact, low = (run(name, dtype=dtype)[0] for dtype in (jnp.float32, jnp.bfloat16))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(low), strict=True):
        assert b.dtype == jnp.float32
        assert (a != b).any()
        np.testing.assert_allclose(a, b, atol=0.03 * float(jnp.abs(a).max()))
