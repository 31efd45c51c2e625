"""Five views of digits: one class, five pictures, from a seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from sklearn.datasets import load_digits

from mvae_jax.data import views

DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images[:60] * 15.9).astype(np.uint8), DIGITS.target[:60]


def test_each_view_shows_a_digit_of_the_class():
    """Read back: where a view's background has one colour, its distance from that is the digit's ink."""
    arrays = views.five_views(PIXELS, LABELS, seed=3)
    assert [*arrays] == [*views.VIEWS, "label"]
    for name in views.VIEWS:
        assert arrays[name].dtype == np.uint8
        assert arrays[name].shape == (60, 8, 8, 3)
    dark = np.float64(arrays["image"])
    ink = (dark - dark.min((1, 2), keepdims=True)).sum(-1)
    assert all(np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99 for a, b in zip(ink, PIXELS, strict=True))
    bright = np.float64(arrays["inverted"])
    ink = (bright.max((1, 2), keepdims=True) - bright).sum(-1).reshape(60, -1)
    nearest = [np.argmax([np.corrcoef(one, other.ravel())[0, 1] for other in PIXELS]) for one in ink]
    np.testing.assert_array_equal(LABELS[nearest], LABELS)
    assert sorted(nearest) == [*range(60)]  # every digit once, and mostly not the example's own
    assert np.mean(nearest == np.arange(60)) < 0.5


def test_a_seed_draws_the_same_views_and_another_one_others():
    first, again, other = (views.five_views(PIXELS, LABELS, seed) for seed in (3, 3, 4))
    for name in views.VIEWS:
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any()


def test_pictures_are_turned_as_by_scipy():
    angles = np.array([0.5, -0.7, 0.0])
    ink = np.pad(PIXELS[:3], ((0, 0), (4, 4), (4, 4))).astype(np.float64)
    expected = [
        scipy.ndimage.rotate(picture, np.degrees(angle), reshape=False, order=1)
        for picture, angle in zip(ink, angles, strict=True)
    ]
    np.testing.assert_allclose(views._rotated(ink, angles), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("digits", "labels", "message"),
    [
        (PIXELS / 255, LABELS, r"digits are float64 of shape \(60, 8, 8\); expected uint8"),
        (PIXELS, LABELS[:5], r"labels are int64 of shape \(5,\); expected integers \(60,\)"),
        (PIXELS, LABELS / 2, "labels are float64"),
    ],
)
def test_other_arrays_are_refused(digits, labels, message):
    with pytest.raises(ValueError, match=message):
        views.five_views(digits, labels, seed=0)
