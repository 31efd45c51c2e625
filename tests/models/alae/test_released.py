"""StyleALAE's released checkpoints: random weights in that layout, and the released networks written in it."""

import math
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from torch_files import atom, mapping, name, tensor

from mvae_jax import runs
from mvae_jax.models.alae import released
from mvae_jax.nets import style

LATENT, LEVELS, FIRST, MOST, CHANNELS, LAYERS = 5, 6, 1, 3, 3, 2  # of 128 pixels, from which convolutions are fused
WIDTHS = style.widths(LEVELS, FIRST, MOST)  # from 4 pixels on


def networks(seed):
    """Tensors of the four networks by PyTorch's names, as the released code's modules have them."""
    rng = np.random.default_rng(seed)

    def drawn(*shape):
        return (rng.normal(size=shape) / math.sqrt(max(1, math.prod(shape[1:])))).astype(np.float32)

    def linear(prefix, size, features):
        return {f"{prefix}.weight": drawn(features, size), f"{prefix}.bias": drawn(features)}

    generator, encoder = {"const": drawn(1, WIDTHS[0], 4, 4)}, {}
    for level, width in enumerate(WIDTHS):
        block, before = f"decode_block.{level}", WIDTHS[level - 1]
        if level:
            fused = 4 * 2**level >= 128
            generator[f"{block}.conv_1.weight"] = drawn(*((before, width) if fused else (width, before)), 3, 3)
        generator[f"{block}.conv_2.weight"] = drawn(width, width, 3, 3)
        generator[f"{block}.blur.weight"] = drawn(width, 1, 3, 3)  # a buffer of constants, which is not read
        for layer in (1, 2):
            generator[f"{block}.noise_weight_{layer}"] = drawn(1, width, 1, 1)
            generator[f"{block}.bias_{layer}"] = drawn(1, width, 1, 1)
            generator |= linear(f"{block}.style_{layer}", LATENT, 2 * width)
        rgb = f"to_rgb.{level}.to_rgb"
        generator |= {f"{rgb}.weight": drawn(CHANNELS, width, 1, 1), f"{rgb}.bias": drawn(CHANNELS)}
        index, after = LEVELS - 1 - level, WIDTHS[max(level - 1, 0)]
        block = f"encode_block.{index}"
        for layer, (size, features) in enumerate(((width, width), (width, after)), start=1):
            encoder[f"{block}.conv_{layer}.weight"] = drawn(features, size, 3, 3)
            encoder[f"{block}.bias_{layer}"] = drawn(1, features, 1, 1)
            encoder |= linear(f"{block}.style_{layer}", 2 * features, LATENT)
        rgb = f"from_rgb.{index}.from_rgb"
        encoder |= {f"{rgb}.weight": drawn(width, CHANNELS, 1, 1), f"{rgb}.bias": drawn(width)}
    mapping_fl, mapping_tl = {}, {}
    for layer in range(LAYERS):
        mapping_fl |= linear(f"map_blocks.{layer}.fc", LATENT, LATENT)
    for layer, features in enumerate((LATENT, LATENT, 2 * LATENT)):
        mapping_tl |= linear(f"map_blocks.{layer}", LATENT, features)
    return {"generator": generator, "discriminator": encoder, "mapping_fl": mapping_fl, "mapping_tl": mapping_tl}


TRAINED, AVERAGED = networks(0), networks(1)
MEAN = np.random.default_rng(2).normal(size=(1, LATENT)).astype(np.float32).repeat(2 * LEVELS, 0)


def write(path, trained=TRAINED, averaged=AVERAGED):
    """A checkpoint as `torch.save` writes it, with what else a released one holds: optimisers, a tracker's object."""
    models = {**trained, **{f"{key}_s": value for key, value in averaged.items()}, "dlatent_avg": {"buff": MEAN}}
    storages = []

    def state_dict(arrays):
        entries = {}
        for key, array in arrays.items():
            entries[key] = tensor(array, str(len(storages)), stream=False)
            storages.append(array)
        return mapping(entries)

    tracker = name("tracker", "RunningMean") + b")\x81}(" + atom("count") + atom(3) + b"ub"
    optimizer = mapping({"state": mapping({0: atom(0.5)}), "param_groups": b"](" + atom(1) + b"e"})
    content = mapping(
        {
            "models": mapping({key: state_dict(arrays) for key, arrays in models.items()}),
            "auxiliary": mapping({"tracker": mapping({"loss": tracker}), "decoder_optimizer": optimizer}),
            "epoch": atom(157),
        }
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + content + b".")
        for number, array in enumerate(storages):
            archive.writestr(f"model/data/{number}", array.tobytes())
    return path


# --- the released networks in PyTorch's layout, images [B, C, H, W] --------------------------------------------------


def conv(x, weight, stride=1, padding=1):
    return lax.conv_general_dilated(x, weight, (stride,) * 2, ((padding, padding),) * 2)


def conv_transposed(x, weight):
    """F.conv_transpose2d of weight [in, out, 4, 4] with stride 2 and padding 1."""
    flipped = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return lax.conv_general_dilated(x, flipped, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2))


def summed(weight):
    """The four copies of a 3x3 kernel, a pixel apart, in a 4x4 one: transform_kernel."""
    w = jnp.pad(weight, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return w[:, :, 1:, 1:] + w[:, :, :-1, 1:] + w[:, :, 1:, :-1] + w[:, :, :-1, :-1]


def blurred(x):
    kernel = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    channels = x.shape[1]
    weight = np.broadcast_to(kernel, (channels, 1, 3, 3))
    return lax.conv_general_dilated(x, weight, (1, 1), ((1, 1), (1, 1)), feature_group_count=channels)


def leaky(x):
    return jnp.where(x > 0, x, 0.2 * x)


def normed(x, epsilon):
    """Instance norm and statistics, whose deviation has an epsilon here: flat images need it (AL-B1)."""
    mean, variance = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon), jnp.concatenate([mean, jnp.sqrt(variance + epsilon)], 1)[
        :, :, 0, 0
    ]


def decode(t, w):
    """Images of latents [B, D], without noise: with the bump that the released code adds instead."""
    x = jnp.broadcast_to(t["const"], (len(w), *t["const"].shape[1:]))
    for level in range(LEVELS):
        block = f"decode_block.{level}"
        if level:
            weight = t[f"{block}.conv_1.weight"]
            x = conv_transposed(x, summed(weight)) if 4 * 2**level >= 128 else conv(x.repeat(2, 2).repeat(2, 3), weight)
            x = blurred(x)
        for layer in (1, 2):
            if layer == 2:
                x = conv(x, t[f"{block}.conv_2.weight"])
            s = math.sqrt(level + 1)
            x = x + s * jnp.exp(-x * x / (2.0 * s * s)) / math.sqrt(2 * math.pi) * 0.8 + t[f"{block}.bias_{layer}"]
            x, _ = normed(leaky(x), 1e-8)
            affine = w @ t[f"{block}.style_{layer}.weight"].T + t[f"{block}.style_{layer}.bias"][None]
            scale, shift = affine.reshape(len(w), 2, -1, 1, 1).transpose(1, 0, 2, 3, 4)
            x = x * (scale + 1) + shift
    rgb = f"to_rgb.{LEVELS - 1}.to_rgb"
    return conv(x, t[f"{rgb}.weight"], padding=0) + t[f"{rgb}.bias"][None, :, None, None]


def encode(t, x):
    x = conv(x, t["from_rgb.0.from_rgb.weight"], padding=0) + t["from_rgb.0.from_rgb.bias"][None, :, None, None]
    x, w = leaky(leaky(x)), 0.0
    for index in range(LEVELS):
        block = f"encode_block.{index}"
        for layer in (1, 2):
            weight = t[f"{block}.conv_{layer}.weight"]
            if layer == 1:
                x = conv(x, weight)
            elif x.shape[2] >= 128:
                x = conv(blurred(x), summed(weight) / 4, stride=2)
            else:
                x = conv(blurred(x), weight)
                x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))
            x, statistics = normed(leaky(x + t[f"{block}.bias_{layer}"]), 1e-5)
            w = w + statistics @ t[f"{block}.style_{layer}.weight"].T + t[f"{block}.style_{layer}.bias"][None]
    return w


def dense(t, x, inner, activation):
    for layer in range(len(t) // 2):
        x = activation(x @ t[f"map_blocks.{layer}{inner}.weight"].T + t[f"map_blocks.{layer}{inner}.bias"][None])
    return x


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("released") / "model_157.pth")


@pytest.mark.parametrize(("averaged", "weights"), [(True, AVERAGED), (False, TRAINED)], ids=["averaged", "trained"])
def test_networks_equal_the_released_ones(averaged, weights, checkpoint):
    config, params, state = released.load(checkpoint, averaged=averaged)
    sizes = (config.image_size, config.latent_size, config.first_width, config.most_width, config.mapping_layers)
    assert sizes == (128, LATENT, FIRST, MOST, LAYERS)
    run = runs.Run.imported("style_alae", config, params, state, "a checkpoint")
    rng = np.random.default_rng(4)
    z, x = rng.normal(size=(2, LATENT)).astype(np.float32), rng.uniform(-1, 1, (2, 128, 128, 3)).astype(np.float32)

    normal = z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(run.map(z), dense(weights["mapping_fl"], normal, ".fc", leaky), rtol=1e-4, atol=1e-5)
    codes = jax.jit(encode)(weights["discriminator"], x.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(run.encode(x).mean, codes, rtol=1e-3, atol=1e-4)
    logits = dense(weights["mapping_tl"], codes, "", lambda x: x)[:, LATENT]
    np.testing.assert_allclose(run.discriminate(x), logits, rtol=1e-3, atol=1e-4)

    generator = style.Generator(config.widths, config.channels)
    own = [params[group] for group in config.groups("generator")]
    layers = jnp.broadcast_to(z[:, None], (2, 2 * LEVELS, LATENT))
    images = jax.jit(lambda own, w: generator(own, w, style.Noise(bump=True)))(own, layers)
    expected = jax.jit(decode)(weights["generator"], z).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(state["mapping"]["mean_latent"], MEAN[0])
    for level, group in enumerate(config.groups("generator")):
        noise = weights["generator"][f"decode_block.{level}.noise_weight_1"].ravel()
        np.testing.assert_array_equal(params[group]["block"]["noise_1"], noise)


def test_an_imported_model_may_be_exported(checkpoint, tmp_path):
    config, params, state = released.load(checkpoint)
    run = runs.Run.imported("style_alae", config, params, state, "a checkpoint")
    folder = run.export(tmp_path / "ffhq", with_functions=False)
    loaded = runs.load(folder)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, run.params)
    assert (loaded.phase, loaded.config) == ("imported", config)
    assert "- data set: a checkpoint" in (folder / "README.md").read_text()


def test_other_files_are_named(tmp_path):
    missing = {**AVERAGED, "mapping_tl": {}}
    with pytest.raises(ValueError, match=r"has no models/mapping_tl_s/map_blocks"):
        released.load(write(tmp_path / "missing.pth", averaged=missing))
    other = {**AVERAGED["discriminator"], "encode_block.5.style_2.weight": np.zeros((LATENT, 3), np.float32)}
    with pytest.raises(ValueError, match=r"\['encoder_4'\]\['block'\]\['style_2'\]\['kernel'\] of shape \(3, 5\)"):
        released.load(write(tmp_path / "other.pth", averaged={**AVERAGED, "discriminator": other}))
    flat = {**AVERAGED["generator"], "const": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"flat\.pth is no checkpoint of StyleALAE"):
        released.load(write(tmp_path / "flat.pth", averaged={**AVERAGED, "generator": flat}))
    deeper = {**AVERAGED["mapping_tl"], "map_blocks.3.weight": np.zeros((3, 3), np.float32)}
    with pytest.raises(ValueError, match=r"models/mapping_tl_s/map_blocks\.3\.weight and 0 more tensors, which no"):
        released.load(write(tmp_path / "deeper.pth", averaged={**AVERAGED, "mapping_tl": deeper}))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        released.load(tmp_path / "nowhere.pth")
