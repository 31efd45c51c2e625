"""Inception-v3 against a transcription in NumPy, at a sixteenth of its widths, and files with its real names."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_inception import NumpyInception, average, largest, resized
from safetensors.numpy import save_file

from mvae_jax.nets import inception
from mvae_jax.nets.inception import BLOCKS, Block, InceptionV3, load_inception, resize_bilinear

CHANNELS = {"5b": 192, "5c": 256, "5d": 288, "6a": 288, "6b": 768, "6e": 768, "7a": 768, "7b": 1280, "7c": 2048}
PUBLISHED = InceptionV3()
IMAGES = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.uint8)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(images, transcription, its features by preprocessing, weight file)."""
    images = np.random.default_rng(1).integers(0, 256, (2, 40, 33, 3)).astype(np.uint8)
    net, path = NumpyInception(16), tmp_path_factory.mktemp("inception") / "weights.safetensors"
    features = {
        "tensorflow1": net((resized(images, 299, half_pixel_centres=False) - 128) / 128),
        "pytorch_fid": net(2 * resized(images / 255, 299, half_pixel_centres=True) - 1),
    }
    save_file(net.file(), path)
    return images, net, features, path


def arrays_of(net, name):
    """The arrays of one block, as Flax has them."""
    params, stats = {}, {}
    for full, array in net.arrays.items():
        block, layer, *part = full.split(".")
        if block == name:
            own, running = params.setdefault(layer, {"bn": {}}), stats.setdefault(layer, {"bn": {}})
            match part:
                case "conv", "weight":
                    own["kernel"] = array.transpose(2, 3, 1, 0)
                case "bn", "weight" | "bias" as which:
                    own["bn"]["scale" if which == "weight" else "bias"] = array
                case "bn", "running_mean" | "running_var" as which:
                    running["bn"][which.removeprefix("running_")] = array
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("name", CHANNELS)
def test_block_equals_a_transcription(name):
    block, channels = f"Mixed_{name}", CHANNELS[name] // 16
    x = np.random.default_rng(2).normal(size=(2, channels, 6, 5))  # with signs, so that padding by zeros would show
    net = NumpyInception(16)
    expected = net.block(block, x).transpose(0, 2, 3, 1)
    apply = jax.jit(Block(BLOCKS[block], 16).apply)
    found = apply(arrays_of(net, block), jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("way", ["tensorflow1", "pytorch_fid"])
def test_network_equals_a_transcription(small, way):
    images, net, features, path = small
    variables, description = load_inception(path)
    assert description.divisor == 16
    assert description.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    found = jax.jit(InceptionV3(way, 16).apply)(variables, images)
    assert found.shape == (2, 128)
    assert found.dtype == jnp.float32
    expected, spread = features[way], np.ptp(np.concatenate(list(features.values())), axis=0).max()
    assert spread > 1e-3 * expected.max()  # images and ways differ in them
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
    assert len(net.arrays) == 94 * 6


@pytest.mark.parametrize("half_pixel_centres", [False, True])
@pytest.mark.parametrize(("height", "width", "size"), [(5, 6, 7), (9, 4, 6), (8, 8, 8), (1, 2, 3), (64, 37, 13)])
def test_resizing_equals_a_loop(height, width, size, half_pixel_centres):
    images = np.random.default_rng(3).uniform(0, 255, (2, height, width, 3)).astype(np.float32)
    found = resize_bilinear(jnp.asarray(images), size, half_pixel_centres=half_pixel_centres)
    np.testing.assert_allclose(found, resized(images, size, half_pixel_centres), atol=2e-3)
    if height == width == size:
        np.testing.assert_array_equal(found, images)


def test_resizing_by_hand():
    """A ramp 0, 1, 2 doubled: TensorFlow 1 reads it at 0, 1/2, 1, ..., the port at -1/4, 1/4, 3/4, ..."""
    ramp = jnp.arange(3.0).reshape(1, 1, 3, 1)
    found = [resize_bilinear(ramp, 6, half_pixel_centres=half)[0, 0, :, 0] for half in (False, True)]
    np.testing.assert_allclose(found[0], [0, 0.5, 1, 1.5, 2, 2], atol=1e-6)
    np.testing.assert_allclose(found[1], [0, 0.25, 0.75, 1.25, 1.75, 2], atol=1e-6)


def test_pools_equal_windows():
    x = np.random.default_rng(4).normal(size=(2, 3, 7, 6)).astype(np.float32) - 1
    images = jnp.asarray(x.transpose(0, 2, 3, 1))
    for found, expected in (
        (inception.max_pool(images), largest(x, 1, 1)),
        (inception.max_pool(images, stride=2), largest(x, 2, 0)),
        (inception.average_pool(images), average(x)),
    ):
        np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=1e-6)


def test_parameters_are_as_many_as_published():
    """Keras's InceptionV3 without its top has 21,802,784 numbers, of which a bias, mean and variance for each of 17,216
    channels; torchvision's 23,834,568 parameters are kernels, gains, biases, and 1000 classes of 2048 + 1.
    """
    shapes = jax.eval_shape(PUBLISHED.init, jax.random.key(0), IMAGES)
    parameters, statistics = (
        sum(leaf.size for leaf in jax.tree.leaves(shapes[name])) for name in ("params", "batch_stats")
    )
    assert parameters + 1000 * 2049 == 23_834_568
    assert parameters + statistics - 17_216 == 21_802_784
    assert statistics == 2 * 17_216
    assert jax.eval_shape(PUBLISHED.apply, shapes, IMAGES).shape == (1, 2048)


def test_errors_name_the_layer_and_what_was_expected(small, tmp_path):
    arrays, path = small[1].file(), tmp_path / "x.safetensors"

    def fails(changed, match):
        save_file({name: array for name, array in (arrays | changed).items() if array is not None}, path)
        with pytest.raises(ValueError, match=match) as caught:
            load_inception(path)
        assert str(path) in str(caught.value)

    layer = "Mixed_6c.branch7x7dbl_4"
    fails({f"{layer}.bn.running_var": None}, rf"has no {layer}\.bn\.running_var: expected the layers of Inception-v3")
    turned = arrays[f"{layer}.conv.weight"].swapaxes(2, 3).copy()
    fails(
        {f"{layer}.conv.weight": turned}, rf"{layer}\.conv\.weight has shape \(10, 10, 1, 7\), expected \(10, 10, 7, 1"
    )
    fails({"fc.bias": np.zeros(1000, np.float32)}, "tells 1000 classes apart .* expected 1008")
    fails({"fc.bias": None}, "tells 0 classes apart")
    fails(dict.fromkeys(arrays) | {"x": np.zeros(1)}, "has no Conv2d_1a_3x3.* and 466 more")
    with pytest.raises(FileNotFoundError):
        load_inception(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("net", "images", "match"),
    [
        (PUBLISHED, jnp.zeros((1, 8, 8, 3)), "images are float32"),
        (PUBLISHED, jnp.zeros((1, 8, 8, 1), jnp.uint8), r"uint8 \(1, 8, 8, 1\), expected uint8 \[B, H, W, 3\]"),
        (InceptionV3("keras"), IMAGES, "preprocessing is 'keras', expected one of tensorflow1, pytorch_fid"),
    ],
)
def test_other_inputs_are_refused(net, images, match):
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(functools.partial(net.init, jax.random.key(0)), images)
