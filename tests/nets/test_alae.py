"""Networks of the adversarial latent autoencoder: sizes, draws, and their outputs in NumPy."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import nets
from mvae_jax.nets import alae
from mvae_jax.nets.alae import DenseEncoder, DenseGenerator, LatentDiscriminator, Mapping

SMALL = {
    "mapping": (Mapping(3, 2), (4, 3)),
    "discriminator": (LatentDiscriminator(5, 3), (4, 3)),
    "steep discriminator": (LatentDiscriminator(5, 3, "leaky_relu"), (4, 3)),
    "generator": (DenseGenerator((2, 3, 2), (6, 5), (0.1, 0.3)), (4, 3)),
    "encoder": (DenseEncoder(3, (6, 5), (0.3, 0.1, 0.05)), (4, 2, 3, 2)),
}


@functools.cache
def variables(name):
    """A network, its parameters with biases that are not zero, and its input."""
    net, shape = SMALL[name]
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=shape), jnp.float32)
    params, stats = nets.init(net, jax.random.key(0), x)
    assert stats == {}
    params = jax.tree.map(lambda p: p + jnp.asarray(0.3 * generator.normal(size=p.shape), jnp.float32), params)
    return net, params, x


def layers(params):
    """(kernel, bias) of each dense layer in order, float64."""
    return [
        tuple(np.asarray(params[f"Dense_{i}"][name], np.float64) for name in ("kernel", "bias"))
        for i in range(len(params))
    ]


def stack(h, params, slopes):
    """What each layer puts out; a slope of 1 is no activation."""
    h, found = np.asarray(h, np.float64).reshape(len(h), -1), []
    for (kernel, bias), slope in zip(layers(params), slopes, strict=True):
        h = h @ kernel + bias
        h = np.where(h > 0, h, slope * h)
        found.append(h)
    return found


def normed(z):
    z = np.asarray(z, np.float64)
    return z / np.sqrt((z**2).mean(-1, keepdims=True) + 1e-8)


# --- sizes and draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        (Mapping(), (1, 50), 6 * (50 * 50 + 50)),
        (LatentDiscriminator(), (1, 50), 2 * (50 * 50 + 50) + 51),
        (LatentDiscriminator(outputs=50), (1, 50), 3 * (50 * 50 + 50)),  # as published, with 49 idle units
        (DenseEncoder(), (1, 28, 28, 1), (784 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 50 + 50)),
        (DenseGenerator(), (1, 50), (50 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 784 + 784)),
    ],
)
def test_the_published_sizes(net, shape, expected):
    params, _ = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), jnp.zeros(shape)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Mapping(200, 2), (1, 200)),
        (LatentDiscriminator(200, 2, outputs=200), (1, 200)),
        (DenseEncoder(90, (300, 100)), (1, 20, 10, 1)),
        (DenseGenerator((20, 10, 1), (300, 100)), (1, 90)),
    ],
)
def test_kernels_are_drawn_for_equalised_rates(net, shape):
    """N(0, 2 / fan-in), not truncated; biases are zero."""
    params, _ = nets.init(net, jax.random.key(1), jnp.zeros(shape))
    drawn = []
    for kernel, bias in layers(params):
        normalised = kernel * math.sqrt(len(kernel) / 2)
        assert abs(normalised.std() - 1) < 4 / math.sqrt(2 * kernel.size)
        assert abs(normalised.mean()) < 4 / math.sqrt(kernel.size)
        assert np.abs(normalised).max() > 3
        assert not bias.any()
        drawn.append(kernel.ravel()[:9])
    assert len(np.unique(np.stack(drawn), axis=0)) == len(drawn)  # each layer has its own


def test_a_gain_scales_the_draws():
    kernel = alae.equalised_normal(0.03)(jax.random.key(0), (100, 300))
    assert kernel.std() == pytest.approx(0.03 / 10, rel=0.02)


# --- what they compute ----------------------------------------------------------------------------------------------


def test_pixel_norm_by_hand():
    found = alae.pixel_norm(jnp.array([[3.0, -4.0], [300.0, -400.0], [0.0, 0.0]]))
    unit = np.array([3.0, -4.0]) / math.sqrt(12.5)
    np.testing.assert_allclose(found, [unit, unit, [0, 0]], rtol=1e-6)
    zero = jax.grad(lambda z: alae.pixel_norm(z)[0])(jnp.zeros(2))
    np.testing.assert_allclose(zero, [1e4, 0], rtol=1e-5)  # finite: 1 / sqrt(1e-8)


def test_the_mapping_in_numpy():
    net, params, z = variables("mapping")
    expected = stack(normed(z), params, (0.2, 0.2))[-1]
    assert (expected < 0).any()
    np.testing.assert_allclose(net.apply({"params": params}, z), expected, atol=1e-5)
    np.testing.assert_allclose(net.apply({"params": params}, 7 * z), expected, atol=1e-5)  # only directions count


def test_the_encoder_in_numpy():
    net, params, x = variables("encoder")
    *_, hidden, expected = stack(x, params, net.slopes)
    assert (expected < 0).any()  # the last layer has an activation too
    np.testing.assert_allclose(net.apply({"params": params}, x), expected, atol=1e-5)
    found = nets.features(net, params, {}, x)
    assert found.shape == (4, 5)
    np.testing.assert_allclose(found, hidden, atol=1e-5)


def test_the_generator_in_numpy():
    net, params, w = variables("generator")
    expected = stack(w, params, (*net.slopes, 1.0))[-1].reshape(4, 2, 3, 2)
    np.testing.assert_allclose(net.apply({"params": params}, w), expected, atol=1e-5)
    assert np.abs(net.apply({"params": params}, 100 * w)).max() > 10  # without a bound


@pytest.mark.parametrize(("name", "slope"), [("discriminator", 1.0), ("steep discriminator", 0.2)])
def test_the_discriminator_in_numpy(name, slope):
    net, params, w = variables(name)
    expected = stack(w, params, (slope, slope, 1.0))[-1]
    assert expected.shape == (4, 1)
    np.testing.assert_allclose(net.apply({"params": params}, w), expected[:, 0], atol=1e-5)


def test_the_published_discriminator_is_affine():
    ends = jnp.asarray(np.random.default_rng(1).normal(size=(2, 50, 3)), jnp.float32)
    between = 0.3 * ends[0] + 0.7 * ends[1]
    for name, affine in (("discriminator", True), ("steep discriminator", False)):
        net, params, _ = variables(name)
        first, second, found = (net.apply({"params": params}, w) for w in (*ends, between))
        error = float(jnp.abs(found - (0.3 * first + 0.7 * second)).max())
        assert error < 1e-5 if affine else error > 0.1


@pytest.mark.parametrize("outputs", [1, 4, 7])
def test_the_middle_unit_is_the_logit(outputs):
    net, w = LatentDiscriminator(5, 2, outputs=outputs), variables("discriminator")[2]
    params, _ = nets.init(net, jax.random.key(2), w)
    expected = stack(w, params, (1.0, 1.0))[-1]
    assert expected.shape == (4, outputs)
    np.testing.assert_allclose(net.apply({"params": params}, w), expected[:, outputs // 2], atol=1e-5)


def test_numbers_of_layers():
    for count in (1, 4):
        for net, width in ((Mapping(3, count), 3), (LatentDiscriminator(3, count), 1)):
            params, _ = nets.init(net, jax.random.key(0), jnp.zeros((1, 3)))
            assert len(params) == count
            assert params[f"Dense_{count - 1}"]["kernel"].shape == (3, width)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_low_and_keeps_parameters_float32(name):
    net, params, x = variables(name)
    low = net.clone(dtype="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nets.init(low, jax.random.key(0), x)[0]))
    exact, rough = (one.apply({"params": params}, x) for one in (net, low))
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.05 * float(jnp.abs(exact).max()))
    assert (rough != exact).any()
    if name == "encoder":
        assert nets.features(low, params, {}, x).dtype == jnp.float32
