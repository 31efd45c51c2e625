"""Hidden modalities: as many as were asked for, the same for a seed, and none of those that are validated on."""

from __future__ import annotations

import numpy as np
import pytest

from mvae_jax.data.batches import Splits
from mvae_jax.data.missing import complete, hide

RNG = np.random.default_rng(0)
ARRAYS = {
    "image": RNG.integers(1, 256, (30, 2, 2, 3)).astype(np.uint8),
    "attributes": np.ones((30, 4), np.float32),
    "pose": np.ones((30, 3), np.float32),
    "present/pose": np.float32(np.arange(30) % 10 != 0),
}
ARRAYS["pose"][ARRAYS["present/pose"] == 0] = np.nan
DATA = Splits.cut(ARRAYS, 20, 6, ("a", "b", "c", "d"), {"data_set": "by hand"})


def test_the_share_is_hidden_of_training_alone():
    data = hide(DATA, {"attributes": 0.9, "pose": 0.25}, seed=1)
    mask = data.train["present/attributes"]
    assert (mask == 0).sum() == 18
    np.testing.assert_array_equal(data.train["attributes"], np.repeat(mask[:, None], 4, 1))
    kept = data.train["present/pose"]
    assert not kept[ARRAYS["present/pose"][:20] == 0].any()  # what was missing still is
    assert 13 <= kept.sum() <= 15
    np.testing.assert_array_equal(data.train["pose"], np.repeat(kept[:, None], 3, 1))  # no NaN is left
    np.testing.assert_array_equal(data.train["image"], DATA.train["image"])
    for name in ("validation", "calibration"):
        split = getattr(data, name)
        assert split["present/attributes"].all()
        np.testing.assert_array_equal(split["present/pose"], getattr(DATA, name)["present/pose"])
        np.testing.assert_array_equal(split["attributes"], getattr(DATA, name)["attributes"])
    assert data.provenance == {
        "data_set": "by hand",
        "hidden": {"attributes": 0.9, "pose": 0.25},
        "hidden_seed": 1,
    }
    assert data.sha256() != DATA.sha256()


def test_a_seed_hides_the_same_and_a_larger_share_all_of_a_smaller_one():
    few, again, many, other = (
        hide(DATA, {"attributes": share}, seed).train["present/attributes"] == 0
        for share, seed in ((0.3, 1), (0.3, 1), (0.6, 1), (0.3, 2))
    )
    np.testing.assert_array_equal(few, again)
    assert many[few].all()
    assert (few != other).any()
    apart = hide(DATA, {"attributes": 0.5, "image": 0.5}, 1).train
    assert (apart["present/attributes"] != apart["present/image"]).any()


@pytest.mark.parametrize(("shares", "message"), [({"voice": 0.5}, "voice: 0.5"), ({"pose": 1.5}, "pose: 1.5")])
def test_what_cannot_be_hidden_is_refused(shares, message):
    with pytest.raises(
        ValueError, match=f"shares say {message}; expected a share from 0 to 1 of one of the data's arrays"
    ):
        hide(DATA, shares, 0)


def test_masks_are_no_modality_and_nothing_is_hidden_twice():
    with pytest.raises(ValueError, match=r"shares say present/pose: 0.5; expected a share"):
        hide(DATA, {"present/pose": 0.5}, seed=1)
    with pytest.raises(ValueError, match=r"of the data {'pose': 0.5} is hidden already"):
        hide(hide(DATA, {"pose": 0.5}, seed=1), {"attributes": 0.5}, seed=2)


def test_complete_examples_stand_in_for_the_others():
    data = hide(DATA, {"attributes": 0.9}, seed=1)
    there = np.flatnonzero(data.train["present/attributes"])
    assert len(there) == 2
    alone = complete(data, ("image", "attributes"))
    for name, array in alone.train.arrays.items():
        np.testing.assert_array_equal(array, data.train[name][np.resize(there, 20)])
    assert alone.train["attributes"].all()
    assert (alone.validation, alone.calibration) == (data.validation, data.calibration)
    assert complete(DATA, ("image", "attributes")) is DATA
    # Of those that have attributes, one lacks the pose.
    both = complete(hide(DATA, {"attributes": 0.5}, seed=1), ("attributes", "pose")).train
    assert both["present/attributes"].all()
    assert both["present/pose"].all()
    assert len(both) == 20


def test_without_a_complete_example_there_is_nothing_to_train_on():
    with pytest.raises(ValueError, match="of 20 training examples none has all of image, attributes; expected at"):
        complete(hide(DATA, {"attributes": 1.0}, seed=1), ("image", "attributes"))
