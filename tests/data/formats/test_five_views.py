"""Five views as a source: drawn from the digits that it names, of each split by itself."""

from __future__ import annotations

import numpy as np
import pytest

from mvae_jax.data import sources
from mvae_jax.data.formats import five_views, mnist
from mvae_jax.data.views import VIEWS


@pytest.fixture(scope="module")
def keras(tmp_path_factory) -> str:
    """Digits of MNIST's layout, 12 to train on and 7 to test."""
    path = tmp_path_factory.mktemp("keras") / "mnist.npz"
    train, test = np.arange(12) % 4, np.arange(7) % 4
    images = np.random.default_rng(0).integers(0, 256, (19, 6, 5), np.uint8)
    np.savez(path, x_train=images[:12], y_train=train, x_test=images[12:], y_test=test)
    return str(path)


def test_views_of_a_file_keep_its_splits_labels_and_size(keras):
    digits, views = mnist.load(keras), sources.load(five_views.Config(digits=keras))
    for name, split in views:
        plain = dict(digits)[name]
        assert split.arrays.keys() == {*VIEWS, "label", "index"}
        np.testing.assert_array_equal(split["label"], plain["label"])
        np.testing.assert_array_equal(split["index"], plain["index"])
        for view in VIEWS:
            assert (split[view].dtype, split[view].shape) == (np.uint8, (len(plain), 6, 5, 3))
    assert [len(split) for _, split in views] == [12, 7, 0]
    assert views.provenance == {
        **digits.provenance,
        **{"data_set": "five views of digits", "digits": "images with labels 0 to 9", "seed": 42},
    }


def test_a_seed_draws_each_split_by_itself():
    first, again, other = (sources.load(five_views.Config(seed=seed)) for seed in (3, 3, 4))
    assert first.sha256() == again.sha256() != other.sha256()
    assert first.provenance["digits"] == "digits of scikit-learn"
    corners = [split["image"][:297, 0, 0] for split in (first.train, first.validation)]  # backgrounds alone
    assert (corners[0] != corners[1]).any(1).mean() > 0.9


def test_a_path_without_digits_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\. Fetch the files .* or give 'digits', which needs none"):
        sources.load(five_views.Config(digits=str(tmp_path / "nowhere")))
