"""Sets of features are checked before they are compared; images become Inception's features in chunks."""

import json

import numpy as np
import pytest
from numpy_inception import NumpyInception
from safetensors.numpy import save_file

from mvae_jax.eval.features import Comparison, Features, check_pair, inception_features
from mvae_jax.nets.inception import load_inception


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(stored images, features of them by a transcription, weight file)."""
    images = np.random.default_rng(0).integers(1, 256, (3, 299, 299, 3)).astype(np.uint8)
    net, path = NumpyInception(16), tmp_path_factory.mktemp("features") / "weights.safetensors"
    features = net((images - 128.0) / 128.0)
    save_file(net.file(), path)
    return images, features, path


def test_images_become_features_in_chunks(small):
    """Floats round as stored images do: 0.4 below a value is that value, where truncation makes it the one below."""
    images, expected, path = small
    extract, features = inception_features(path, chunk=2)
    found = extract(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(extract((images - np.float32(0.4)) / 127.5 - 1), found)
    outside = np.where(images == 255, 3.0, images / 127.5 - 1)  # as decoders without a tanh have it
    np.testing.assert_array_equal(extract(outside), found)
    np.testing.assert_array_equal(extract(images[::-1]), found[::-1])
    assert features == Features("Inception-v3 of 2015-12-05, pool_3", load_inception(path)[1].sha256, "tensorflow1")


def test_the_way_of_resizing_is_a_part_of_the_description(small):
    assert inception_features(small[2], preprocessing="pytorch_fid")[1].preprocessing == "pytorch_fid"


def test_other_images_are_refused(small):
    extract, _ = inception_features(small[2])
    for images, match in (
        (np.zeros((2, 8, 8, 1), np.uint8), r"shape \(2, 8, 8, 1\), expected \[N, H, W, 3\]; grey"),
        (np.zeros((0, 8, 8, 3)), r"shape \(0, 8, 8, 3\)"),
        (np.zeros((2, 8, 8, 3), int), "images are int64, expected uint8, or float"),
        (np.full((2, 8, 8, 3), np.nan), "384 of 384 values of images are not finite"),
    ):
        with pytest.raises(ValueError, match=match):
            extract(images)
    with pytest.raises(ValueError, match="chunk is 0"):
        inception_features(small[2], chunk=0)


def test_a_comparison_carries_what_it_depends_on():
    a, b = check_pair(np.ones((5, 3)), np.zeros((4, 3), np.float32))
    found = Comparison.of(a, b, Features("mean colour", sha256="ab"), "test").to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "features": {"network": "mean colour", "sha256": "ab", "preprocessing": None, "accuracy": None},
        "split": "test",
        "dimensions": 3,
        "count_a": 5,
        "count_b": 4,
    }


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), r"shape \(1, 3\), expected \[N, F\] with at least 2"),
        (np.zeros((5, 3)), np.zeros(3), r"shape \(3,\), expected \[N, F\]"),
        (np.zeros((5, 0)), np.zeros((5, 0)), r"shape \(5, 0\)"),
        (np.zeros((5, 3)), np.full((5, 3), np.inf), "15 of 15 values of features_b are not finite"),
        (np.zeros((5, 3)), np.zeros((5, 4)), r"shapes \(5, 3\) and \(5, 4\), expected as many"),
    ],
)
def test_bad_features_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        check_pair(a, b)
