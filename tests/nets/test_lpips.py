"""LPIPS against a NumPy transcription, on tiny weights in files of the real layouts."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets.test_vgg import PLACES_19, WIDTHS, numpy_vgg, vgg_arrays, write
from safetensors.numpy import save_file

from mvae_jax.nets.lpips import LAYERS, activation_distance, load_perceptual_distance

CHANNELS = tuple(WIDTHS[i] for i in (1, 3, 6, 9, 12))


def linear_arrays():
    random = np.random.default_rng(5)
    return {
        f"lin{i}.model.1.weight": random.uniform(0, 1, (1, c, 1, 1)).astype(np.float32) for i, c in enumerate(CHANNELS)
    }


def images(seed, shape=(3, 16, 32, 3)):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def numpy_lpips(a, b, arrays, layers, weights):
    """With the constants of LPIPS's scaling layer, pixel by pixel."""

    def activations(x):
        scaled = (np.float64(x) - (-0.030, -0.088, -0.188)) / (0.458, 0.448, 0.450)
        return numpy_vgg(scaled, arrays, normalise=False)

    found, totals = (activations(a), activations(b)), np.zeros(len(a))
    for layer, weight in zip(layers, weights, strict=True):
        for n in range(len(a)):
            pixels = []
            for i, j in np.ndindex(found[0][layer].shape[1:3]):
                p, q = (h[layer][n, i, j] / (np.sqrt((h[layer][n, i, j] ** 2).sum()) + 1e-10) for h in found)
                pixels.append((weight * (p - q) ** 2).sum())
            totals[n] += np.mean(pixels)
    return totals


@pytest.mark.parametrize("layout", ["archive", "stream"])
def test_lpips_equals_a_numpy_transcription(tmp_path, layout):
    arrays, linear = vgg_arrays(13), linear_arrays()
    write(layout, tmp_path / "vgg16.pth", arrays | {"classifier.0.bias": np.zeros(4, np.float32)})
    write(layout, tmp_path / "vgg.pth", linear | {"net.slice1.0.bias": np.zeros(2, np.float32)})
    distance = load_perceptual_distance(tmp_path / "vgg16.pth", tmp_path / "vgg.pth")
    assert distance.name == "LPIPS, VGG-16"
    files = [(tmp_path / name).read_bytes() for name in ("vgg16.pth", "vgg.pth")]
    assert distance.sha256 == tuple(hashlib.sha256(content).hexdigest() for content in files)
    a, b = images(0), images(1)
    b[1] = a[1]
    found = distance(a, b)
    expected = numpy_lpips(a, b, arrays, LAYERS, [weight.reshape(-1) for weight in linear.values()])
    assert found.shape == (3,)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[1] == 0.0
    assert min(found[0], found[2]) > 0.1
    np.testing.assert_array_equal(distance(b, a), found)


@pytest.mark.parametrize(
    ("count", "places", "name", "layers"),
    [
        (13, None, "VGG-16 relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, uniform weights", LAYERS),
        (11, None, "VGG-16 relu1_2, relu2_2, relu3_3, relu4_3, relu5_1, uniform weights", (*LAYERS[:4], "relu5_1")),
        (5, None, "VGG relu1_2, relu2_2, relu3_1, uniform weights", ("relu1_2", "relu2_2", "relu3_1")),
        (16, PLACES_19, "VGG-19 relu1_2, relu2_2, relu3_3, uniform weights", LAYERS[:3]),
    ],
)
def test_without_linear_weights_the_last_relu_of_each_block_counts(tmp_path, count, places, name, layers):
    arrays = vgg_arrays(count, places, (*WIDTHS[:7], *(3,) * 9)) if places else vgg_arrays(count)
    save_file(arrays, tmp_path / "vgg")
    distance = load_perceptual_distance(tmp_path / "vgg")
    assert distance.name == name
    assert len(distance.sha256) == 1
    if count == 11:
        return  # its values are those of another cut
    a, b = images(0, (1, 16, 16, 3)), images(1, (1, 16, 16, 3))
    shared = {key: value for key, value in arrays.items() if not places or int(key.split(".")[1]) < 16}
    expected = numpy_lpips(a, b, shared, layers, [1.0] * len(layers))
    np.testing.assert_allclose(distance(a, b), expected, rtol=1e-5)


def test_weights_of_one_give_cosine_distances_by_hand():
    """Right angle at one pixel, equal direction at the other: (2 + 0) / 2; and a zero beside a unit vector: 1 + 0."""
    a = {"relu1_2": jnp.array([[[[3.0, 0.0], [1.0, 1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])}
    b = {"relu1_2": jnp.array([[[[0.0, 0.1], [5.0, 5.0]]], [[[0.0, 7.0], [0.0, 0.0]]]]), "relu2_2": jnp.ones(1)}
    np.testing.assert_allclose(activation_distance(a, b, {"relu1_2": jnp.ones(2)}), [1.0, 0.5], rtol=1e-6)
    # Only the second channel, twice: 2 * (0 - 1)^2 / 2 pixels.
    np.testing.assert_allclose(activation_distance(a, b, {"relu1_2": jnp.array([0.0, 2.0])}), [1.0, 1.0], rtol=1e-6)


def test_gradients_are_finite_and_those_of_differences(tmp_path):
    """Also of equal images, and where no unit of a pixel is active."""
    arrays = vgg_arrays(5)
    arrays["features.2.bias"] -= 1.0
    save_file(arrays, tmp_path / "vgg")
    distance = load_perceptual_distance(tmp_path / "vgg")
    a, b, direction = (jnp.asarray(images(seed, (1, 8, 8, 3))) for seed in (0, 1, 2))
    active = numpy_vgg(a, arrays, normalise=True)["relu1_2"].any(-1)
    assert 0.05 < active.mean() < 0.95
    gradient = jax.jit(jax.grad(lambda x, y: distance(x, y).sum()))
    step = 1e-3 * direction
    slope = (distance(a + step, b) - distance(a - step, b)).sum() / 2
    np.testing.assert_allclose((gradient(a, b) * step).sum(), slope, rtol=2e-2)
    # Of equal images nothing is left but the rounding by which the two passes may differ.
    np.testing.assert_allclose(gradient(a, a), np.zeros_like(a), atol=1e-4 * np.abs(gradient(a, b)).max())


def test_it_is_a_pytree(tmp_path):
    """Handed to a jitted function, its parameters are arguments and not constants of the program."""
    save_file(vgg_arrays(5), tmp_path / "vgg")
    distance = load_perceptual_distance(tmp_path / "vgg")
    a, b = images(0, (2, 8, 8, 3)), images(1, (2, 8, 8, 3))
    halved = jax.tree.map(lambda leaf: leaf / 2, distance)
    assert (halved.name, halved.sha256) == (distance.name, distance.sha256)
    evaluate = jax.jit(lambda distance, a, b: distance(a, b))
    np.testing.assert_allclose(evaluate(distance, a, b), distance(a, b), rtol=1e-6)
    assert abs(evaluate(halved, a, b) / evaluate(distance, a, b) - 1).min() > 0.1


def test_what_does_not_belong_together_is_refused(tmp_path):
    vgg, linear = tmp_path / "vgg", tmp_path / "lin"
    save_file(vgg_arrays(13), vgg)

    def refuses(match, **changes):
        kept = {key: value for key, value in (linear_arrays() | changes).items() if value is not None}
        save_file(kept, linear)
        with pytest.raises(ValueError, match=match) as caught:
            load_perceptual_distance(vgg, linear)
        assert str(vgg if "expected VGG-16" in match else linear) in str(caught.value)

    weight = linear_arrays()["lin2.model.1.weight"]
    refuses(r"lin2\.model\.1\.weight has values that are negative", **{"lin2.model.1.weight": weight - 0.9})
    refuses("negative or not finite", **{"lin2.model.1.weight": weight * np.float32("nan")})
    refuses(r"lin3\.model\.1\.weight has no such array, expected \(1, 5, 1, 1\)", **{"lin3.model.1.weight": None})
    alexnet = np.ones((1, 192, 1, 1), np.float32)
    refuses(r"lin1\.model\.1\.weight has shape \(1, 192, 1, 1\), expected \(1, 3", **{"lin1.model.1.weight": alexnet})
    save_file(vgg_arrays(12), vgg)
    refuses("VGG-16 up to relu5_2, expected VGG-16 up to relu5_3")
    save_file(vgg_arrays(16, PLACES_19, (2,) * 16), vgg)
    refuses("VGG-19 up to relu3_3, expected VGG-16 up to relu5_3")
    with pytest.raises(FileNotFoundError):
        load_perceptual_distance(tmp_path / "none")


def test_images_too_small_for_the_pools_are_refused(tmp_path):
    save_file(vgg_arrays(13), tmp_path / "vgg")
    distance = load_perceptual_distance(tmp_path / "vgg")
    small = images(0, (1, 32, 15, 3))
    with pytest.raises(ValueError, match=r"shape \(32, 15, 3\), expected at least 16 x 16 pixels"):
        distance(small, small)
