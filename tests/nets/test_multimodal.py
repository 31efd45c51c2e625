"""The five networks of the multimodal VAE."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import nets
from mvae_jax.cpu import convolution
from mvae_jax.nets.blocks import Conv, ConvTranspose, Dense, ResidualDense, SelfAttention
from mvae_jax.nets.multimodal import (
    AttentionImageDecoder,
    AttributeDecoder,
    GaussianAttributeEncoder,
    GaussianImageEncoder,
    PatchDiscriminator,
)

SMALL_ENCODER = functools.partial(GaussianImageEncoder, latent_size=5, widths=(4, 6))
SMALL_DECODER = functools.partial(AttentionImageDecoder, image_size=16, widths=(8, 4), hidden=12, heads=2)
SMALL_DISCRIMINATOR = functools.partial(PatchDiscriminator, widths=(4, 6))
SMALL = {
    "image encoder": (SMALL_ENCODER, (4, 16, 16, 3)),
    "image decoder": (SMALL_DECODER, (4, 5)),
    "discriminator": (SMALL_DISCRIMINATOR, (4, 16, 16, 3)),
    "attribute encoder": (functools.partial(GaussianAttributeEncoder, latent_size=5, hidden=7), (4, 10)),
    "attribute decoder": (functools.partial(AttributeDecoder, hidden=7), (4, 5)),
}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def parameter_count(net, *shape):
    params, _ = jax.eval_shape(lambda x: nets.init(net, jax.random.key(0), x), jnp.zeros(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("latent_size", "image_encoder", "attribute_encoder", "image_decoder", "attribute_decoder"),
    [
        (128, 4_854_336, 203_776, 39_716_995, 72_202),
        (256, 9_048_896, 531_968, 39_979_139, 137_738),
        (512, 17_438_016, 1_581_568, 40_503_427, 268_810),
    ],
)
def test_parameter_counts_of_the_paper(latent_size, image_encoder, attribute_encoder, image_decoder, attribute_decoder):
    assert parameter_count(GaussianImageEncoder(latent_size), 1, 64, 64, 3) == image_encoder
    assert parameter_count(GaussianAttributeEncoder(latent_size), 1, 10) == attribute_encoder
    assert parameter_count(AttentionImageDecoder(), 1, latent_size) == image_decoder
    assert parameter_count(AttributeDecoder(), 1, latent_size) == attribute_decoder


def test_parameter_counts_of_discriminator_and_attention():
    assert parameter_count(PatchDiscriminator(), 1, 64, 64, 3) == 663_745
    without = parameter_count(AttentionImageDecoder(attention=False), 1, 128)
    assert without == 39_716_995 - 4 * (512 * 512 + 512)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_shapes_at_every_image_size(size):
    def shapes(net, *shape):
        def run(x):
            params, stats = nets.init(net, jax.random.key(0), x)
            return nets.apply(net, params, stats, x, train=True)[0]

        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jax.eval_shape(run, jnp.zeros(shape)))

    for dtype in (jnp.float32, jnp.bfloat16):
        encoder = GaussianImageEncoder(5, widths=(16, 32, 64), dtype=dtype)
        assert shapes(encoder, 2, size, size, 3) == (((2, 5), jnp.float32),) * 2
        decoder = AttentionImageDecoder(size, widths=(64, 32, 16, 16), hidden=128, heads=4, dtype=dtype)
        assert shapes(decoder, 2, 5) == ((2, size, size, 3), jnp.float32)
        discriminator = PatchDiscriminator(widths=(16, 32, 64), dtype=dtype)
        assert shapes(discriminator, 2, size, size, 3) == ((2, size // 8 - 1, size // 8 - 1, 1), jnp.float32)


def test_attribute_nets_in_numpy():
    def dense(x, layer):
        return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)

    def hidden(x, params):
        h = dense(x, params["Dense_0"])
        h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
        return np.maximum(h, 0)  # the norm's scale is 1, its bias 0

    for name in ("attribute encoder", "attribute decoder"):
        make, shape = SMALL[name]
        x = normal(*shape)
        params, stats = nets.init(make(), jax.random.key(1), x)
        outputs, _ = nets.apply(make(), params, stats, x, train=True)
        h = dense(hidden(np.asarray(x, np.float64), params), params["Dense_1"])
        expected = (dense(h, params["mean"]), dense(h, params["logvar"])) if name == "attribute encoder" else h
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), outputs, expected)


def test_image_nets_are_their_layers_in_order():
    """In evaluation with fresh statistics: batch norm divides by sqrt(1 + 1e-5)."""

    def leaky_norm(h, norm=True):
        h = h / np.sqrt(1 + 1e-5) if norm else h
        return jnp.where(h > 0, h, 0.2 * h)

    def encode(params, h):
        for stage, width in enumerate((4, 6)):
            h = leaky_norm(Conv(width, kernel_size=4, stride=2).apply({"params": params[f"Conv_{stage}"]}, h))
        return tuple(Dense(5).apply({"params": params[name]}, h.reshape(4, -1)) for name in ("mean", "logvar"))

    def decode(params, z):
        h = leaky_norm(Dense(12).apply({"params": params["Dense_0"]}, z), norm=False)
        h = ResidualDense().apply({"params": params["ResidualDense_0"]}, h)
        h = leaky_norm(Dense(128).apply({"params": params["Dense_1"]}, h), norm=False).reshape(4, 16, 8)
        h = h + SelfAttention(2).apply({"params": params["SelfAttention_0"]}, h)
        h = h.reshape(4, 4, 4, 8)
        for stage, width in enumerate((8, 4)):
            h = leaky_norm(ConvTranspose(width).apply({"params": params[f"ConvTranspose_{stage}"]}, h))
            block = params[f"ResidualBlock_{stage}"]
            branch = leaky_norm(Conv(width).apply({"params": block["Conv_0"]}, h))
            h = h + Conv(width).apply({"params": block["Conv_1"]}, branch) / np.sqrt(1 + 1e-5)
        return jnp.tanh(Conv(3).apply({"params": params["Conv_0"]}, h))

    def discriminate(params, h):
        for stage, width in enumerate((4, 6)):
            h = Conv(width, kernel_size=4, stride=2).apply({"params": params[f"Conv_{stage}"]}, h)
            h = leaky_norm(h, norm=stage > 0)
        return Conv(1, kernel_size=4, padding=((1, 1), (1, 1))).apply({"params": params["Conv_2"]}, h)

    for name, reference in {"image encoder": encode, "image decoder": decode, "discriminator": discriminate}.items():
        make, shape = SMALL[name]
        params, stats = nets.init(make(), jax.random.key(0), normal(*shape))
        ours = jax.jit(functools.partial(nets.apply, make(), params, stats, train=False))(normal(*shape))[0]
        expected = jax.jit(functools.partial(reference, params))(normal(*shape))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def test_a_coarse_image_beside_the_stages():
    """The decoder adds it before the tanh, and starts without; the encoder's heads see it."""
    z, x = normal(4, 5), normal(4, 16, 16, 3)
    decoder = functools.partial(SMALL_DECODER, coarse_size=4)
    params, stats = nets.init(decoder(), jax.random.key(0), z)
    np.testing.assert_array_equal(params["Dense_2"]["kernel"], np.zeros((5, 48)))
    params["Dense_2"] = {"kernel": normal(5, 48, seed=3), "bias": normal(48, seed=4)}
    small = Dense(48).apply({"params": params["Dense_2"]}, z).reshape(4, 4, 4, 3)
    without, _ = nets.apply(SMALL_DECODER(), params, stats, z, train=False)
    found, _ = nets.apply(decoder(), params, stats, z, train=False)
    enlarged = jax.image.resize(small, (4, 16, 16, 3), "linear")
    np.testing.assert_allclose(found, jnp.tanh(jnp.arctanh(without) + enlarged), atol=1e-5)

    encoder = SMALL_ENCODER(coarse_size=4, initial_logvar=-2.0)
    params, stats = nets.init(encoder, jax.random.key(0), x)
    for name in ("mean", "logvar"):  # as if the 96 numbers of the last feature map were not there
        params[name]["kernel"] = params[name]["kernel"].at[:96].set(0.0)
    (mean, logvar), _ = nets.apply(encoder, params, stats, x, train=False)
    blocks = np.asarray(x, np.float64).reshape(4, 4, 4, 4, 4, 3).mean((2, 4)).reshape(4, 48)
    for found, name, offset in ((mean, "mean", 0.0), (logvar, "logvar", -2.0)):
        kernel, bias = (np.asarray(params[name][part]) for part in ("kernel", "bias"))
        np.testing.assert_allclose(found, blocks @ kernel[96:] + bias + offset, atol=1e-5)


def test_discriminator_has_no_norm_on_its_first_layer():
    net = PatchDiscriminator(widths=(4, 6, 8))
    params, stats = jax.eval_shape(lambda x: nets.init(net, jax.random.key(0), x), jnp.zeros((1, 32, 32, 3)))
    assert [stats[name]["mean"].shape for name in sorted(stats)] == [(6,), (8,)]
    assert sorted(params) == ["BatchNorm_0", "BatchNorm_1", "Conv_0", "Conv_1", "Conv_2", "Conv_3"]


@pytest.mark.parametrize("name", SMALL)
def test_apply_updates_statistics_in_training_only(name):
    make, shape = SMALL[name]
    x = normal(*shape)
    params, stats = nets.init(make(), jax.random.key(0), x)
    assert bool(stats) == ("attribute" not in name)

    @jax.jit
    def run(x):
        evaluated, same = nets.apply(make(), params, stats, x, train=False)
        assert same is stats
        return evaluated, *nets.apply(make(), params, stats, x, train=True)

    evaluated, output, updated = run(x)
    assert jax.tree.structure(updated) == jax.tree.structure(stats)
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(updated), strict=True))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((evaluated, output)))
    normalises = any((a != b).any() for a, b in zip(jax.tree.leaves(evaluated), jax.tree.leaves(output), strict=True))
    assert normalises == bool(stats)
    if name == "image decoder":
        assert jnp.abs(output).max() <= 1.0


ENCODER = functools.partial(GaussianImageEncoder, latent_size=5, widths=(4,))
DECODER = functools.partial(AttentionImageDecoder, image_size=8, widths=(4,), hidden=12, heads=2)
DISCRIMINATOR = functools.partial(PatchDiscriminator, widths=(4, 6))


def objectives(params, stats, images, axis_name=None):
    """One forward through encoder, attention decoder and discriminator, with R1: a gradient within the gradient."""
    encoder, decoder = ENCODER(axis_name=axis_name), DECODER(axis_name=axis_name)
    discriminator = DISCRIMINATOR(axis_name=axis_name)
    (mean, logvar), encoder_stats = nets.apply(encoder, params["encoder"], stats["encoder"], images, train=True)
    reconstruction, decoder_stats = nets.apply(decoder, params["decoder"], stats["decoder"], mean, train=True)

    def logits(images):
        return nets.apply(discriminator, params["discriminator"], stats["discriminator"], images, train=True)[0]

    r1 = (jax.grad(lambda images: logits(images).sum())(images) ** 2).sum((1, 2, 3))
    values = {
        "generator": ((reconstruction - images) ** 2).mean() + (logvar**2).mean() - logits(reconstruction).mean(),
        "discriminator": jax.nn.softplus(logits(reconstruction)).mean() + r1.mean(),
    }
    return values, {"encoder": encoder_stats, "decoder": decoder_stats}


@pytest.fixture(scope="module")
def system():
    images = jnp.tanh(normal(8, 8, 8, 3))
    drawn = {
        "encoder": nets.init(ENCODER(), jax.random.key(0), images),
        "decoder": nets.init(DECODER(), jax.random.key(1), jnp.zeros((1, 5))),
        "discriminator": nets.init(DISCRIMINATOR(), jax.random.key(2), images),
    }
    params, stats = ({name: pair[part] for name, pair in drawn.items()} for part in (0, 1))
    return params, stats, images


def gradients_by_transposition(params, stats, images, axis_name=None):
    values, linear, aux = jax.linearize(lambda p: objectives(p, stats, images, axis_name), params, has_aux=True)
    transpose = jax.linear_transpose(linear, params)
    return {name: transpose({n: jnp.float32(n == name) for n in values})[0] for name in values}, aux


def assert_trees_close(a, b):
    def close(a, b):  # relative to the largest entry: a bias before batch norm has a gradient of rounding noise
        np.testing.assert_allclose(a, b, atol=3e-5 * max(float(jnp.abs(b).max()), 1.0))

    jax.tree.map(close, a, b)


def test_one_linearisation_serves_every_objective(system):
    """Through convolutions, batch norm, attention and the double backward of R1."""
    by_transposition, _ = jax.jit(gradients_by_transposition)(*system)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient_of(name, params, *rest):
        return jax.grad(lambda params: objectives(params, *rest)[0][name])(params)

    by_grad = {name: gradient_of(name, *system) for name in by_transposition}
    assert_trees_close(by_transposition, by_grad)
    for name in ("encoder", "decoder"):
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(by_grad["generator"][name])) > 1e-3


@pytest.mark.parametrize("formulation", ["canonical", "plain"])
def test_the_gradient_of_r1_in_bfloat16(system, formulation, monkeypatch):
    """A gradient of a gradient, through a batch norm in training mode."""
    monkeypatch.setattr(convolution, "default_formulation", lambda: formulation)
    (params, stats), images = (part["discriminator"] for part in system[:2]), system[2]

    def gradient(dtype):
        def penalty(params):
            def mean_logits(images):
                return (
                    nets.apply(DISCRIMINATOR(dtype=dtype), params, stats, images, train=True)[0].mean((1, 2, 3)).sum()
                )

            return (jax.grad(mean_logits)(images) ** 2).sum()

        value, gradient = jax.jit(jax.value_and_grad(penalty))(params)
        return value, np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

    (exact, expected), (low, got) = gradient(jnp.float32), gradient(jnp.bfloat16)
    assert got.dtype == np.float32
    np.testing.assert_allclose(low, exact, rtol=0.02)
    assert 1e-7 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.05


def test_the_gradient_of_a_bias_in_bfloat16_counts_every_pixel():
    """Of the decoder's last layer: d tanh(u) / du = 1 - tanh(u)^2, over 8192 pixels."""
    net, z = SMALL_DECODER(image_size=32, dtype=jnp.bfloat16), normal(8, 5)
    params, stats = nets.init(net, jax.random.key(0), z)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
        images, _ = nets.apply(net, params, stats, z, train=False)
        return images.sum(), images

    gradients, images = gradient(params)
    expected = (1.0 - np.asarray(images, np.float64) ** 2).sum((0, 1, 2))
    assert expected.min() > 1000
    np.testing.assert_allclose(gradients["Conv_0"]["bias"], expected, rtol=0.01)


def test_pmap_with_axis_name_equals_one_device(system):
    params, stats, images = system

    def of_one_device(images):
        gradients, aux = gradients_by_transposition(params, stats, images, "batch")
        return jax.lax.pmean(gradients["generator"], "batch"), aux

    gradients, aux = jax.pmap(of_one_device, "batch")(images.reshape(4, 2, 8, 8, 3))
    expected, expected_aux = jax.jit(gradients_by_transposition)(*system)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], gradients), expected["generator"])
    assert_trees_close(jax.tree.map(lambda leaf: leaf[3], aux), expected_aux)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (SMALL_ENCODER(), (1, 18, 16, 3), "multiples of 4"),
        (SMALL_DECODER(image_size=18), (1, 5), "image_size is 18, expected a multiple of 4"),
        (SMALL_DECODER(heads=3), (1, 5), "8 channels do not split into 3"),
    ],
)
def test_errors_name_what_is_wrong(net, shape, message):
    with pytest.raises(ValueError, match=message):
        nets.init(net, jax.random.key(0), jnp.zeros(shape))
