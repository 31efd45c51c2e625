"""Rows of pictures along a latent dimension, still and animated."""

import io

import numpy as np
import pytest
from PIL import Image

from mvae_jax.viz import grids, traversals

VALUES = np.arange(20, 60, 10, np.uint8)[:, None, None, None]
ROWS = {f"z{row}": np.broadcast_to(VALUES + 40 * row, (4, 8, 8, 3)) for row in range(3)}


def test_a_sheet_has_a_row_per_dimension():
    assert traversals.sheet(ROWS).tobytes() == grids.comparison(ROWS, columns=4).tobytes()


def test_strips_are_a_sheet_on_paper_and_frames_on_a_page():
    strips = traversals.Strips(ROWS, ["a", "b", "c", "d"])
    assert strips.shape == (8, 8)
    assert strips.sheet().tobytes() == grids.comparison(ROWS, columns=4, headings=["a", "b", "c", "d"]).tobytes()
    frames = np.asarray(strips.frames())
    assert frames.shape == (24, 32, 3)
    np.testing.assert_array_equal(frames[::8, ::8, 0], [VALUES[:, 0, 0, 0] + 40 * row for row in range(3)])


@pytest.mark.parametrize(
    ("rows", "steps", "start"),
    [
        ({}, ["a", "b"], 0),
        ({"a": np.zeros((1, 8, 8, 3), np.uint8)}, ["a"], 0),
        ({"a": np.zeros((2, 8, 8, 3), np.uint8)}, ["a"], 0),
        ({"a": np.zeros((2, 8, 8, 3), np.uint8)}, ["a", "b"], 2),
        ({"a": np.zeros((2, 8, 8, 3), np.uint8), "b": np.zeros((2, 8, 9, 3), np.uint8)}, ["a", "b"], 0),
        ({"a": np.zeros((2, 8, 8, 4), np.uint8)}, ["a", "b"], 0),
        ({"a": np.zeros((2, 8, 8, 3))}, ["a", "b"], 0),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(rows, steps, start):
    with pytest.raises(ValueError, match="expected"):
        traversals.Strips(rows, steps, start)


def test_an_animation_goes_there_and_back_for_ever():
    with Image.open(io.BytesIO(traversals.animation(ROWS))) as animation:
        assert animation.info["loop"] == 0
        assert animation.n_frames == 6  # four values there, two on the way back
        frames = []
        for frame in range(6):
            animation.seek(frame)
            frames.append(np.asarray(animation.convert("L"), float))
    brightness = [frame.mean() for frame in frames]
    assert brightness[:4] == sorted(set(brightness))
    for there, back in ((1, 5), (2, 4)):
        np.testing.assert_array_equal(frames[there], frames[back])


def test_a_sheet_of_several_models_has_a_row_per_feature_and_a_column_per_model():
    rows = {
        feature: {
            model: (f"z{row} of {model}", np.full((3, 8, 6, 3), 50 * row + 20 * column, np.uint8))
            for column, model in enumerate(("vae", "beta_vae"))
        }
        for row, feature in enumerate(("bald", "smiling"))
    }
    strips = {
        feature: [np.concatenate(list(strip), axis=1) for _, strip in row.values()] for feature, row in rows.items()
    }
    expected = grids.comparison(
        strips,
        columns=2,
        scale=8,
        headings=["vae", "beta_vae"],
        captions={"bald": ["z0 of vae", "z0 of beta_vae"], "smiling": ["z1 of vae", "z1 of beta_vae"]},
    )
    assert traversals.by_model(rows).tobytes() == expected.tobytes()


def test_models_that_find_no_room_side_by_side_follow_beneath():
    """Text of a sheet that is four times as wide as the page could not be read."""
    pictures = np.zeros((6, 64, 64, 3), np.uint8)  # 384 pixels
    of = {number: {f"model {model}": ("z0", pictures) for model in range(number)} for number in (3, 5, 6)}
    three, five, six = (traversals.by_model({"bald": models}) for models in of.values())
    assert three.width == five.width == six.width < 1400
    assert five.height == six.height > 1.8 * three.height
