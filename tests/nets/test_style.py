"""StyleALAE's networks: published sizes, resampling, blending, and what must not happen to flat images."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.nets import alae, style

LATENT, CHANNELS = 5, 3
WIDTHS = style.widths(3, 4, 6)  # 16, 8 and 4 pixels


def size_of(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# Latent size, levels, first and most channels, layers of F, colours; parameters of F, G, E and D.
PUBLISHED = {
    "FFHQ": ((512, 9, 16, 512, 8, 3), (2_101_248, 24_118_379, 26_974_352, 1_050_624)),
    "LSUN bedroom": ((512, 7, 32, 512, 8, 3), (2_101_248, 18_305_717, 21_145_888, 1_050_624)),
    "CelebA-HQ 256": ((512, 7, 64, 512, 8, 3), (2_101_248, 23_984_981, 26_789_952, 1_050_624)),
    "CelebA 128": ((256, 6, 64, 256, 8, 3), (526_336, 5_944_402, 6_625_600, 263_168)),
    "MNIST": ((32, 4, 64, 256, 4, 1), (4_224, 2_422_980, 3_017_920, 4_224)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes(name):
    (size, levels, first, most, layers, channels), expected = PUBLISHED[name]
    widths, key, z = style.widths(levels, first, most), jax.random.key(0), jnp.zeros((1, size))

    def draw(key):
        mapping = alae.Mapping(size, layers).init(key, z)["params"]
        discriminator = alae.LatentDiscriminator(size, outputs=2 * size).init(key, z)["params"]
        generator, encoder = style.Generator(widths, channels), style.Encoder(widths, size)
        return mapping, generator.init(key, size), encoder.init(key, channels), discriminator

    assert tuple(size_of(params) for params in jax.eval_shape(draw, key)) == expected


# --- resampling ------------------------------------------------------------------------------------------------------


def pictures(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("resampled", [style.convolved_up, style.convolved_down])
def test_fused_resampling_is_the_plain_one_with_its_gradients(resampled):
    x, kernel = pictures(2, 8, 6, 3), pictures(3, 3, 3, 4, seed=1)

    def weighted(fused, x, kernel):
        y = resampled(x, kernel, fused=fused)
        return (y * pictures(*y.shape, seed=2)).sum(), y

    (_, plain), plain_gradients = jax.value_and_grad(functools.partial(weighted, False), (0, 1), has_aux=True)(
        x, kernel
    )
    (_, fused), fused_gradients = jax.value_and_grad(functools.partial(weighted, True), (0, 1), has_aux=True)(x, kernel)
    factor = 2 if resampled is style.convolved_up else 0.5
    assert plain.shape == (2, 8 * factor, 6 * factor, 4)
    np.testing.assert_allclose(fused, plain, atol=2e-5)
    for a, b in zip(fused_gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_blur_is_a_binomial_filter_with_zeros_outside():
    x, expected = pictures(1, 4, 5, 2), np.zeros((1, 4, 5, 2))
    filter_ = np.outer([1, 2, 1], [1, 2, 1]) / 16
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(4):
        for j in range(5):
            expected[0, i, j] = (padded[0, i : i + 3, j : j + 3] * filter_[..., None]).sum((0, 1))
    np.testing.assert_allclose(style.blur(x), expected, atol=1e-6)


def test_upsampling_repeats_and_downsampling_averages():
    x = pictures(2, 4, 6, 3)
    np.testing.assert_array_equal(style.upsample(x), np.asarray(x).repeat(2, 1).repeat(2, 2))
    np.testing.assert_allclose(style.downsample(style.upsample(x)), x, atol=1e-6)
    np.testing.assert_allclose(style.downsample(x)[1, 1, 2], np.asarray(x)[1, 2:4, 4:6].mean((0, 1)), atol=1e-6)


# --- networks --------------------------------------------------------------------------------------------------------


@functools.cache
def drawn():
    """Generator and encoder with parameters, no longer zeros and ones where initialisation left those."""
    generator, encoder, rng = style.Generator(WIDTHS), style.Encoder(WIDTHS, LATENT), np.random.default_rng(3)
    params = jax.device_get(jax.jit(lambda key: (generator.init(key, LATENT), encoder.init(key)))(jax.random.key(0)))
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.3 * rng.normal(size=p.shape), jnp.float32), params)
    return generator, encoder, *params


def latents(count, resolutions):
    return pictures(count, 2 * resolutions, LATENT, seed=4)


def test_sizes_grow_with_the_parameters():
    generator, encoder, own, theirs = drawn()
    assert WIDTHS == (6, 6, 4)
    for resolutions in (1, 2, 3):
        images = generator(own[:resolutions], latents(2, resolutions))
        assert images.shape == (2, 2 * 2**resolutions, 2 * 2**resolutions, CHANNELS)
        assert encoder(theirs[:resolutions], images).shape == (2, LATENT)


def test_blend_0_is_the_resolution_before_and_1_the_grown_network():
    generator, encoder, own, theirs = drawn()
    w, x = latents(2, 3), pictures(2, 16, 16, CHANNELS, seed=5)
    np.testing.assert_array_equal(generator(own, w, blend=0.0), style.upsample(generator(own[:2], w[:, :4])))
    np.testing.assert_allclose(encoder(theirs, x, blend=0.0), encoder(theirs[:2], style.downsample(x)), atol=1e-5)
    old, new = (np.asarray(generator(own, w, blend=blend)) for blend in (0.0, 1.0))
    np.testing.assert_array_equal(generator(own, w), new)
    np.testing.assert_array_equal(encoder(theirs, x), encoder(theirs, x, blend=1.0))
    np.testing.assert_allclose(generator(own, w, blend=0.25), 0.75 * old + 0.25 * new, atol=1e-5)


def normed(h, epsilon):
    mean, variance = h.mean((1, 2), keepdims=True), h.var((1, 2), keepdims=True)
    return (h - mean) / np.sqrt(variance + epsilon), np.concatenate([mean, np.sqrt(variance + epsilon)], 3)[:, 0, 0]


def convolved(x, kernel):
    """A 3x3 convolution with zeros outside, in loops over taps."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    return sum(padded[:, a : a + h, b : b + w] @ kernel[a, b] for a in range(3) for b in range(3))


def rectified(x):
    return np.where(x > 0, x, 0.2 * x)


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize("kind", ["bump", "drawn"])
def test_the_generator_in_numpy(kind):
    generator, _, own, _ = drawn()
    noise = style.Noise(jax.random.split(jax.random.key(8), 2)) if kind == "drawn" else style.Noise(bump=True)
    maps = noise.maps(2)
    params, w, h = in_float64(own[:2]), np.asarray(latents(2, 2), np.float64), None
    for number, each in enumerate(params):
        block = each["block"]
        if h is None:
            h = np.repeat(block["constant"][None], 2, 0)
        else:
            h = np.asarray(style.blur(jnp.asarray(convolved(h.repeat(2, 1).repeat(2, 2), block["conv_1"]["kernel"]))))
        for layer in (1, 2):
            if layer == 2:
                h = convolved(h, block["conv_2"]["kernel"])
            s = math.sqrt(number + 1)
            if kind == "drawn":
                h = h + np.asarray(maps[number][layer - 1], np.float64) * block[f"noise_{layer}"]
            else:
                h = h + 0.8 * s / math.sqrt(2 * math.pi) * np.exp(-(h**2) / (2 * s**2))  # the bump of AL-09
            h, _ = normed(rectified(h + block[f"bias_{layer}"]), 1e-8)
            scale, shift = np.split(
                w[:, 2 * number + layer - 1] @ block[f"style_{layer}"]["kernel"] + block[f"style_{layer}"]["bias"], 2, 1
            )
            h = h * (1 + scale[:, None, None]) + shift[:, None, None]
    expected = h @ params[-1]["to_rgb"]["to_rgb"]["kernel"][0, 0] + params[-1]["to_rgb"]["bias"]
    np.testing.assert_allclose(generator(own[:2], latents(2, 2), noise), expected, rtol=1e-3, atol=1e-4)


def test_the_encoder_in_numpy():
    _, encoder, _, theirs = drawn()
    params, x = in_float64(theirs[:2]), np.asarray(pictures(2, 8, 8, CHANNELS, seed=6), np.float64)
    own = params[-1]["from_rgb"]
    h, expected = x @ own["from_rgb"]["kernel"][0, 0] + own["bias"], 0.0
    h = np.where(h > 0, h, 0.04 * h)
    for each in params[::-1]:
        block = each["block"]
        for layer in (1, 2):
            if layer == 2:
                h = np.asarray(style.blur(jnp.asarray(h)))
            h = convolved(h, block[f"conv_{layer}"]["kernel"])
            if layer == 2:
                b, height, width, c = h.shape
                h = h.reshape(b, height // 2, 2, width // 2, 2, c).mean((2, 4))
            h, statistics = normed(rectified(h + block[f"bias_{layer}"]), 1e-5)
            expected = expected + statistics @ block[f"style_{layer}"]["kernel"] + block[f"style_{layer}"]["bias"]
    np.testing.assert_allclose(encoder(theirs[:2], jnp.asarray(x, jnp.float32)), expected, rtol=1e-3, atol=1e-3)


def test_flat_images_have_finite_latents_and_gradients():
    _, encoder, _, theirs = drawn()

    def total(params, x):
        return jnp.square(encoder(params, x)).sum()

    def penalty(params, x):
        return jnp.square(jax.grad(total, 1)(params, x)).sum()

    for function in (total, penalty):
        found = jax.jit(jax.value_and_grad(function, (0, 1)))(theirs, jnp.full((2, 16, 16, 3), 0.5))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))


# --- noise -----------------------------------------------------------------------------------------------------------


def test_noise_is_of_its_kind_and_weighted():
    generator, _, own, _ = drawn()
    w, keys = jnp.repeat(latents(1, 2), 3, 0), jax.random.split(jax.random.key(7), 3)
    kinds = {"each": style.Noise(keys), "all": style.Noise(keys[:1]), "bump": style.Noise(bump=True)}
    found = {kind: np.asarray(generator(own[:2], w, noise)) for kind, noise in kinds.items()}
    found["none"] = np.asarray(generator(own[:2], w))
    for kind in ("all", "bump", "none"):
        np.testing.assert_allclose(found[kind][0], found[kind][2], atol=1e-5)
    assert np.abs(found["each"][0] - found["each"][1]).max() > 1e-2
    np.testing.assert_allclose(found["each"][0], found["all"][0], atol=1e-5)  # an image's noise is that of its key
    assert all(np.abs(found[kind] - found["none"]).max() > 1e-2 for kind in ("all", "bump"))


def test_every_layer_has_noise_of_its_own():
    noise = style.Noise(jax.random.split(jax.random.key(9), 40))
    maps = [each for both in noise.maps(3) for each in both]
    assert [each.shape for each in maps] == [(40, size, size, 1) for size in (4, 4, 8, 8, 16, 16)]
    for number, each in enumerate(maps):
        assert (float(each.mean()), float(each.std())) == (pytest.approx(0, abs=0.1), pytest.approx(1, rel=0.1))
        for other in maps[:number]:
            shared = np.asarray(each)[:, :4, :4] * np.asarray(other)[:, :4, :4]
            assert abs(shared.mean()) < 0.15
    for smaller, larger in zip(noise.maps(1)[0], maps, strict=False):
        np.testing.assert_array_equal(smaller, larger)  # a stage of growth has the noise of those after it
    assert style.NO_NOISE.maps(3) == [None] * 3


def test_bfloat16_computes_low_and_returns_float32():
    _, _, own, theirs = drawn()
    generator, encoder = style.Generator(WIDTHS, dtype="bfloat16"), style.Encoder(WIDTHS, LATENT, dtype="bfloat16")
    exact, low = drawn()[0](own, latents(2, 3)), generator(own, latents(2, 3))
    assert (low.dtype, encoder(theirs, low).dtype) == (jnp.float32, jnp.float32)
    assert 1e-5 < float(jnp.abs(low - exact).max()) < 0.1 * float(jnp.abs(exact).max())
