from __future__ import annotations

import hashlib
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import atom, name, tensor

from mvae_jax.nets.torch_weights import read_tensors
from mvae_jax.nets.vgg import VGGFeatures, load_vgg

MAGIC = 0x1950A86A20F9469CFC6C
WIDTHS = (2, 3, 4, 3, 5, 4, 3, 4, 2, 5, 3, 4, 6)
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
PLACES_19 = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
LAYERS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")


# --- PyTorch's two layouts, in the pickle protocol 2 ---


def state_dict(arrays, stream=False, **options):
    """An OrderedDict with the `_metadata` attribute that `Module.state_dict()` gives it."""
    items = b"".join(
        atom(key) + tensor(array, str(i), stream, **options) for i, (key, array) in enumerate(arrays.items())
    )
    attributes = atom({"_metadata": {"": {"version": 1}}})
    return name("collections", "OrderedDict") + b")R(" + items + b"u" + attributes + b"b"


def write_archive(path, pickled, arrays):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vgg16/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("vgg16/byteorder", "little")
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"vgg16/data/{i}", array.tobytes())
        archive.writestr("vgg16/version", "3\n")


def write_stream(path, pickled, arrays):
    with path.open("wb") as file:
        for value in (MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(value, file, protocol=2)
        file.write(b"\x80\x02" + pickled + b".")
        pickle.dump([str(i) for i in range(len(arrays))], file, protocol=2)
        for array in arrays.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


def write(layout, path, arrays):
    if layout == "safetensors":
        save_file(arrays, path)
    elif layout == "archive":
        write_archive(path, state_dict(arrays), arrays)
    else:
        write_stream(path, state_dict(arrays, stream=True), arrays)


def vgg_arrays(layers=7, places=PLACES, widths=WIDTHS):
    random = np.random.default_rng(0)
    arrays, channels = {}, 3
    for place, width in list(zip(places, widths, strict=True))[:layers]:
        scale = (channels * 9) ** -0.5
        arrays[f"features.{place}.weight"] = random.normal(0, scale, (width, channels, 3, 3)).astype(np.float32)
        arrays[f"features.{place}.bias"] = random.normal(size=width).astype(np.float32)
        channels = width
    return arrays


def numpy_vgg(images, arrays, normalise):
    """A transcription of the network, NCHW, one output pixel at a time; the activations by layer."""
    x = np.asarray(images, np.float64).transpose(0, 3, 1, 2)
    if normalise:
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        x = ((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    found = {}
    for layer, place in zip(LAYERS, PLACES, strict=True):
        if f"features.{place}.weight" not in arrays:
            break
        if place in (5, 10, 17, 24):
            x = np.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).max(0)
        weight, bias = arrays[f"features.{place}.weight"], arrays[f"features.{place}.bias"]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        x = np.empty((len(x), len(bias), *x.shape[2:]))
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                x[:, :, i, j] = np.einsum("ncab,ocab->no", padded[:, :, i : i + 3, j : j + 3], weight) + bias
        x = np.maximum(x, 0)
        found[f"relu{layer}"] = x.transpose(0, 2, 3, 1)
    return found


@pytest.mark.parametrize(
    ("layout", "layers", "last"),
    [("archive", 7, "relu3_3"), ("stream", 7, "relu3_3"), ("safetensors", 5, "relu3_1")],
)
@pytest.mark.parametrize("normalise", [True, False])
def test_features_equal_a_numpy_transcription(tmp_path, layout, layers, last, normalise):
    arrays, path = vgg_arrays(layers), tmp_path / "vgg"
    extra = {"features.17.weight": np.zeros((2, 3), np.float32), "classifier.0.bias": np.zeros(4, np.float32)}
    write(layout, path, arrays | extra)
    params, description = load_vgg(path)
    assert description.last_layer == last
    assert description.widths == WIDTHS[:layers]
    assert description.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    images = np.random.default_rng(1).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    net = VGGFeatures(description.widths, normalise=normalise)
    features = jax.jit(net.apply)({"params": params}, images)
    expected = numpy_vgg(images, arrays, normalise)[last]
    assert features.shape == (2, 2, 3, WIDTHS[layers - 1])
    np.testing.assert_allclose(features, expected, atol=2e-5 * expected.max())
    low = jax.jit(net.clone(dtype=jnp.bfloat16).apply)({"params": params}, images)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, expected, atol=0.05 * expected.max())


@pytest.mark.parametrize("layers", range(5, 14))
def test_vgg16_cut_anywhere_and_all_its_activations(tmp_path, layers):
    arrays = vgg_arrays(layers)
    save_file(arrays, tmp_path / "vgg")
    params, description = load_vgg(tmp_path / "vgg", "relu5_3")
    assert description.last_layer == f"relu{LAYERS[layers - 1]}"
    assert description.network == ("VGG-16" if layers > 7 else "VGG")
    assert list(params) == [f"conv{layer}" for layer in LAYERS[:layers]]
    if layers not in (8, 13):
        return
    images = np.random.default_rng(1).uniform(-1, 1, (2, 16, 32, 3)).astype(np.float32)
    net = VGGFeatures(description.widths)
    found = jax.jit(lambda params, images: net.apply({"params": params}, images, method="activations"))(params, images)
    expected = numpy_vgg(images, arrays, normalise=True)
    assert sorted(found) == sorted(expected)
    assert min(value.max() for value in expected.values()) > 0
    for layer, value in expected.items():
        np.testing.assert_allclose(found[layer], value, atol=1e-5 * value.max(), err_msg=layer)
    np.testing.assert_array_equal(jax.jit(net.apply)({"params": params}, images), found[description.last_layer])


def test_vgg16_is_read_as_far_as_asked(tmp_path):
    arrays = vgg_arrays(13)
    save_file(arrays, tmp_path / "vgg")
    assert load_vgg(tmp_path / "vgg")[1].widths == WIDTHS[:7]
    params, description = load_vgg(tmp_path / "vgg", "relu4_2")
    assert (description.last_layer, description.widths, description.network) == ("relu4_2", WIDTHS[:9], "VGG-16")
    kernel = arrays["features.19.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["conv4_2"]["kernel"], kernel)
    with pytest.raises(ValueError, match=r"up_to is 'relu2_2', expected one of relu3_1, .*, relu5_3\."):
        load_vgg(tmp_path / "vgg", "relu2_2")


def test_vgg19_is_not_taken_for_vgg16(tmp_path):
    """Places 19, 21 and 28 hold convolutions of both, and with equal widths even their shapes agree."""
    arrays = vgg_arrays(16, PLACES_19, (2,) * 16)
    save_file(arrays, tmp_path / "vgg")
    for up_to in ("relu3_3", "relu5_3"):
        params, description = load_vgg(tmp_path / "vgg", up_to)
        assert (description.network, description.last_layer, description.widths) == ("VGG-19", "relu3_3", (2,) * 7)
        np.testing.assert_array_equal(params["conv3_3"]["bias"], arrays["features.14.bias"])


def test_gradient_reaches_the_images():
    """By finite differences; ties and kinks have measure zero."""
    net = VGGFeatures((2, 2, 3))
    images = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (1, 4, 4, 3)), jnp.float32)
    params = net.init(jax.random.key(0), images)["params"]

    @jax.jit
    def loss(images):
        return (net.apply({"params": params}, images) ** 2).sum()

    direction = jnp.asarray(np.random.default_rng(3).normal(size=images.shape), jnp.float32)
    slope = (loss(images + 1e-3 * direction) - loss(images - 1e-3 * direction)) / 2e-3
    np.testing.assert_allclose((jax.grad(loss)(images) * direction).sum(), slope, rtol=1e-2)


@pytest.mark.parametrize(
    ("widths", "count"),
    [((64, 64, 128, 128, 256, 256, 256), 1_735_488), ((64,) * 2 + (128,) * 2 + (256,) * 3 + (512,) * 6, 14_714_688)],
)
def test_parameter_count_of_vgg16(widths, count):
    assert VGGFeatures().widths == (64, 64, 128, 128, 256, 256, 256)
    shapes = jax.eval_shape(VGGFeatures(widths).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


# --- files that PyTorch wrote -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["archive", "stream", "safetensors"])
def test_tensors_survive_and_are_read_by_choice(tmp_path, layout):
    arrays = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "unwanted": np.ones((4, 5), np.float32),
        "count": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }
    write(layout, tmp_path / "x", arrays)
    read = read_tensors(tmp_path / "x", lambda key: key != "unwanted")
    assert sorted(read) == ["count", "empty", "half"]
    for key, array in read.items():
        assert array.dtype == arrays[key].dtype
        np.testing.assert_array_equal(array, arrays[key])


@pytest.mark.parametrize("stream", [False, True])
def test_strided_views_of_a_storage(tmp_path, stream):
    """A transposed view, as a channels-last kernel is saved."""
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    (write_stream if stream else write_archive)(tmp_path / "x", state_dict(arrays, stream, strides=(1, 2)), arrays)
    np.testing.assert_array_equal(read_tensors(tmp_path / "x")["x"], [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(
    "options", [{"offset": 1}, {"offset": -1}, {"strides": (3, 2)}, {"strides": (10**6, 1)}, {"strides": (-3, 1)}]
)
def test_a_view_cannot_leave_its_storage(tmp_path, options):
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    write_archive(tmp_path / "x", state_dict(arrays, **options), arrays)
    with pytest.raises(ValueError, match="exceeds its storage"):
        read_tensors(tmp_path / "x")


@pytest.mark.parametrize("layout", ["archive", "stream"])
def test_a_pickle_that_would_run_a_command_is_refused_unrun(tmp_path, layout):
    marker = tmp_path / "marker"

    def malicious(path):
        return name("os", "system") + b"(" + atom(f"touch {path}") + b"tR"

    pickle.loads(b"\x80\x02" + malicious(marker) + b".")  # it does run where it is let
    assert marker.exists()
    marker.unlink()
    arrays = vgg_arrays()
    payload = b"(" + state_dict(arrays, layout == "stream") + malicious(marker) + b"0t"
    (write_stream if layout == "stream" else write_archive)(tmp_path / "x", payload, arrays)
    with pytest.raises(ValueError, match=r"asks for os\.system, and only tensors are admitted"):
        load_vgg(tmp_path / "x")
    assert not marker.exists()


@pytest.mark.parametrize(
    "wanted",
    [
        ("builtins", "eval"),
        ("torch._utils", "_rebuild_tensor.__globals__"),
        ("torch", "load"),
        ("collections", "abc"),
    ],
)
def test_only_names_of_tensors_are_admitted(tmp_path, wanted):
    write_archive(tmp_path / "x", atom(wanted[0]) + atom(wanted[1]) + b"\x93", {})  # STACK_GLOBAL
    with pytest.raises(ValueError, match="only tensors are admitted"):
        read_tensors(tmp_path / "x")


def test_errors_name_the_file_and_what_is_wrong(tmp_path):
    def fails(path, match):
        with pytest.raises(ValueError, match=match) as caught:
            load_vgg(path)
        assert str(path) in str(caught.value)

    with pytest.raises(FileNotFoundError):
        load_vgg(tmp_path / "none.pth")

    text = tmp_path / "page.pth"
    text.write_text("<html>Not found</html>")
    fails(text, "neither safetensors nor")

    arrays = vgg_arrays()
    whole = tmp_path / "whole"
    for layout in ("archive", "stream", "safetensors"):
        write(layout, whole, arrays)
        cut = tmp_path / f"cut_{layout}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        fails(cut, "cannot be read")

    def without(*names):
        path = tmp_path / "without"
        save_file({key: array for key, array in arrays.items() if key not in names}, path)
        return path

    fails(without("features.5.weight"), r"has no features\.5\.weight:")
    fails(without("features.14.bias"), r"has no features\.14\.bias:")
    short = [f"features.{place}.{part}" for place in (10, 12, 14) for part in ("weight", "bias")]
    fails(without(*short), r"has no features\.10\.weight, features\.10\.bias: .* at least up to conv3_1")
    fails(without(*arrays), "has no features.0.weight")

    save_file(arrays | {"features.2.weight": np.zeros((3, 9, 3, 3), np.float32)}, whole)
    fails(whole, r"features\.2 has weight \(3, 9, 3, 3\) .* expected \(C, 2, 3, 3\)")

    write_archive(whole, atom([1, 2]), {})
    fails(whole, "holds a list, expected a state dict")
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("word/document.xml", "")
    fails(whole, "without a single data.pkl")
    write_stream(whole, state_dict(arrays, stream=True), arrays)
    whole.write_bytes(whole.read_bytes().replace(struct.pack("<H", 1001), struct.pack("<H", 1002), 1))
    fails(whole, "version 1002 on system")

    with pytest.raises(ValueError, match="14 widths, expected at most 13"):
        VGGFeatures((1,) * 14).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
