"""The attribute classifier of an experiment: which images it learns from."""

from __future__ import annotations

import numpy as np
import pytest

from mvae_jax.data.batches import Splits
from mvae_jax.experiment import classifier


def test_it_sees_those_images_alone_of_which_the_attributes_are_known():
    arrays = {
        "image": np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8),
        "attributes": np.eye(2, dtype=np.float32)[np.arange(10) % 2],
    }
    whole = Splits.cut(arrays, 6, 3, ("hat", "smiling"), {})
    assert classifier.described(whole) is whole
    masked = Splits.cut(
        {**arrays, "present/attributes": np.float32([1, 0, 1, 1, 0, 1, 0, 1, 1, 1])}, 6, 3, ("hat", "smiling"), {}
    )
    known = classifier.described(masked)
    assert [split["image"][:, 0, 0, 0].tolist() for _, split in known] == [[0, 2, 3, 5], [7, 8], [9]]
    assert [split["attributes"][:, 1].tolist() for _, split in known] == [[0, 0, 1, 1], [1, 0], [1]]
    assert known.train.arrays.keys() == {"image", "attributes"}
    (part,) = classifier.parts(masked, classifier.Config(epochs=3), seed=0)
    (same,) = classifier.parts(known, classifier.Config(epochs=3), seed=0)
    assert part.flops == same.flops
    for hidden, name in ((slice(0, 6), "training"), (slice(6, 9), "validation")):
        there = np.ones(10, np.float32)
        there[hidden] = 0
        none = Splits.cut({**arrays, "present/attributes": there}, 6, 3, ("hat", "smiling"), {})
        with pytest.raises(ValueError, match=f"no image for {name} has attributes that are known"):
            classifier.check(none, classifier.Config(epochs=3), seed=0)
