import io

import numpy as np
import pytest
from PIL import Image

from mvae_jax.viz import grids

RED, BLUE, GREEN = (196, 22, 42), (20, 92, 200), (0, 112, 96)


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def enlarged(image, factor):
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def has_colour(image, colour):
    return (np.asarray(image) == colour).all(-1).any()


def test_grid_shows_every_pixel():
    images = pixels(5, 64, 64, 3)
    sheet = np.asarray(grids.grid(images, columns=3))
    assert sheet.shape == (16 + 192 + 12 + 192 + 16, 16 + 3 * 192 + 2 * 12 + 16, 3)
    for index, image in enumerate(images):
        top, left = 16 + (index // 3) * (192 + 12), 16 + (index % 3) * (192 + 12)
        np.testing.assert_array_equal(sheet[top : top + 192, left : left + 192], enlarged(image, 3))
    assert (sheet[16 + 192 + 12 :, 16 + 2 * (192 + 12) :] == 255).all()  # no sixth picture


@pytest.mark.parametrize(("size", "factor"), [(28, 6), (64, 3), (128, 2), (256, 1)])
def test_grid_enlarges_small_pictures_for_their_captions(size, factor):
    images = pixels(1, size, size, 1)
    sheet = np.asarray(grids.grid(images))
    assert sheet.shape == (32 + size * factor, 32 + size * factor, 3)
    grey = np.broadcast_to(images[0], (size, size, 3))
    np.testing.assert_array_equal(sheet[16:-16, 16:-16], enlarged(grey, factor))


def test_captions_stand_beneath_their_picture_and_wrap():
    images = np.full((3, 64, 64, 3), 255, np.uint8)
    sheet = np.asarray(grids.grid(images, ["", "short", "five words that need lines to be drawn"], columns=3))
    assert sheet.shape[0] == 16 + 192 + 4 + 2 * 20 + 16
    ink = (sheet < 128).all(-1)
    assert not ink[: 16 + 192].any()
    first, second, third = (ink[16 + 192 + 4 : -16, left : left + 192] for left in (16, 220, 424))
    assert not first.any()
    assert second[:20].any()
    assert not second[20:].any()
    assert third[:20].any()
    assert third[20:].any()
    assert ink.sum() == second.sum() + third.sum()  # nothing outside the columns


def test_a_long_word_is_broken_without_loss():
    def drawn(caption):
        return (np.asarray(grids.grid(np.full((1, 64, 64, 3), 255, np.uint8), [caption])) < 128).all(-1)

    # 192 pixels take a whole number of such letters per line; three lines hold three times the ink.
    per_line = next(count for count in range(1, 60) if drawn("n" * (count + 1)).shape != drawn("n").shape)
    three = drawn("n" * (3 * per_line))
    assert three.shape[0] == drawn("n").shape[0] + 40
    assert three.sum() == pytest.approx(3 * drawn("n" * per_line).sum(), rel=0.02)


def test_title_adds_a_heading():
    images = pixels(2, 64, 64, 3)
    plain, titled = grids.grid(images), grids.grid(images, title="Samples")
    assert titled.size == (plain.width, plain.height + 27 + 12)


def test_comparison_puts_versions_above_each_other():
    original, reconstruction = pixels(2, 3, 64, 64, 3)
    sheet = np.asarray(grids.comparison({"original": original, "copy": reconstruction}, columns=2, scale=1))
    left = sheet.shape[1] - 16 - 2 * 64 - 12
    for index in range(3):
        top, start = 16 + (index // 2) * (2 * 64 + 4 + 12), left + (index % 2) * (64 + 12)
        np.testing.assert_array_equal(sheet[top : top + 64, start : start + 64], original[index])
        top += 64 + 4
        np.testing.assert_array_equal(sheet[top : top + 64, start : start + 64], reconstruction[index])
    assert (sheet[16 : 16 + 64, 16 : left - 12] < 128).any()  # the label


def test_a_comparison_may_have_headings_and_captions():
    images = pixels(2, 64, 64, 3)
    texts = {"headings": ["first", "second"], "captions": {"row": ["left", "right"]}}
    sheet = np.asarray(grids.comparison({"row": images}, columns=2, scale=1, **texts))
    plain = np.asarray(grids.comparison({"row": images}, columns=2, scale=1))
    assert sheet.shape == (plain.shape[0] + (20 + 4) + (4 + 20), plain.shape[1], 3)
    left = sheet.shape[1] - 16 - 2 * 64 - 12
    for column, start in enumerate((left, left + 64 + 12)):
        cell = sheet[16:-16, start : start + 64]
        assert (cell[:20] < 128).any()
        np.testing.assert_array_equal(cell[24 : 24 + 64], images[column])
        assert (cell[24 + 64 + 4 :] < 128).any()
    with pytest.raises(ValueError, match="got 1 headings, expected 2"):
        grids.comparison({"row": images}, headings=["first"])
    with pytest.raises(ValueError, match="got 1 captions of 'row', expected 2"):
        grids.comparison({"row": images}, captions={"row": ["left"]})


def test_text_to_image_puts_samples_under_their_caption():
    samples = pixels(2, 3, 64, 64, 3)
    sheet = np.asarray(grids.text_to_image(["a man", "a woman"], samples))
    assert sheet.shape == (16 + 2 * (20 + 4 + 192) + 12 + 16, 16 + 3 * 192 + 2 * 12 + 16, 3)
    for row in range(2):
        top = 16 + row * (20 + 4 + 192 + 12)
        assert (sheet[top : top + 20] < 128).any()
        for column in range(3):
            left = 16 + column * (192 + 12)
            shown = sheet[top + 24 : top + 24 + 192, left : left + 192]
            np.testing.assert_array_equal(shown, enlarged(samples[row, column], 3))


@pytest.mark.parametrize(
    ("caption", "prediction", "missed", "wrong"),
    [
        ("a man with black hair", "a man with black hair", False, False),
        ("A man, smiling", "a man smiling.", False, False),
        ("a man with black hair", "a man with blond hair", True, True),
        ("a young man", "a man", True, False),
        ("a man", "a young man", False, True),
        ("", "a man", False, True),
    ],
)
def test_image_to_text_marks_the_words_that_differ(caption, prediction, missed, wrong):
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    sheet = grids.image_to_text(grey, [caption], [prediction], title="Captions")
    text = np.asarray(sheet)[-(192 + 16) :, 16 + 192 :]  # without the key above, which shows both colours
    assert has_colour(text, BLUE) == missed
    assert has_colour(text, RED) == wrong


def pairs(**changes):
    """Arguments of four pairs: a match called so, a mismatch called so, and the two mistakes."""
    arguments = {
        "images": np.full((4, 64, 64, 3), 128, np.uint8),
        "captions": ["a", "b", "c", "d"],
        "scores": [0.9, 0.1, 0.8, 0.2],
        "accepted": [True, False, True, False],
        "true_match": [True, False, False, True],
        "threshold": 0.5,
    }
    return arguments | changes


def test_consistency_pairs_tell_right_from_wrong():
    images = pixels(4, 64, 64, 3)
    sheet = np.asarray(grids.consistency_pairs(**pairs(images=images), columns=4))
    cells = sheet[-(16 + 192 + 9 + 3 * 24 - 4 + 4) : -16]
    assert sheet.shape == (16 + 20 + 12 + 192 + 9 + 3 * 24 + 16, 16 + 4 * 192 + 3 * 12 + 16, 3)
    for index, right in enumerate([True, True, False, False]):
        cell = cells[:, 16 + index * 204 :][:, :192]
        np.testing.assert_array_equal(cell[:192], enlarged(images[index], 3))
        assert has_colour(cell[192:], GREEN) == right
        assert has_colour(cell[192:], RED) == (not right)
        assert (cell[196:201] == (GREEN if right else RED)).all()  # the bar


def test_verdicts_are_words():
    """A match called so and a mistaken match differ in shape, not only in colour, and so do the two calls."""

    def verdict(sheet, index):
        ink = (np.asarray(sheet)[16 + 20 + 12 + 192 + 9 + 24 :][:20] < 200).any(-1)
        return ink[:, 16 + index * 204 :][:, :192]

    sheet = grids.consistency_pairs(**pairs(), columns=4)
    shapes = [verdict(sheet, index).tobytes() for index in range(4)]
    assert len(set(shapes)) == 4
    twin = grids.consistency_pairs(**pairs(scores=[0.7, 0.3, 0.6, 0.4]), columns=4)
    assert [verdict(twin, index).tobytes() for index in range(4)] == shapes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": ["a"]}, "got 1 captions, expected 4"),
        ({"scores": [0.9, 0.1]}, r"scores have shape \(2,\)"),
        ({"scores": [0.9, 0.1, np.nan, 0.2]}, "expected finite numbers"),
        ({"threshold": np.inf}, "threshold is inf"),
        ({"accepted": [1, 0, 1, 0]}, r"accepted is int64 \(4,\), expected booleans \[4\]"),
        ({"true_match": [True]}, r"true_match is bool \(1,\)"),
        ({"accepted": [True, False, False, False]}, "pair 2 has the score 0.8000 at the threshold 0.5000 but accepted"),
        ({"threshold": 0.85}, "pair 2"),
    ],
)
def test_wrong_pairs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        grids.consistency_pairs(**pairs(**changes))


def test_rounding_of_the_border_is_no_contradiction():
    threshold = 0.1  # greater in float32
    grids.consistency_pairs(**pairs(scores=np.float32([0.9, threshold, 0.8, 0.05]), threshold=threshold))


def test_interpolation_shows_every_step_between_its_texts():
    images = pixels(2, 3, 64, 64, 3)
    sheet = np.asarray(grids.interpolation(["start", ""], ["", "end"], images))
    width, row = 3 * 192 + 2 * 12, 20 + 4 + 192 + 4 + 20
    assert sheet.shape == (16 + 2 * row + 12 + 16, 16 + width + 16, 3)
    for index in range(2):
        top = 16 + index * (row + 12)
        ink = (sheet[top : top + 20, 16:-16] < 128).all(-1)
        assert ink[:, : width // 2].any() == (index == 0)
        assert ink[:, width // 2 :].any() == (index == 1)
        assert ink[:, :3].any() == (index == 0)  # flush left
        assert ink[:, -3:].any() == (index == 1)  # flush right
        for step in range(3):
            left = 16 + step * 204
            shown = sheet[top + 24 : top + 24 + 192, left : left + 192]
            np.testing.assert_array_equal(shown, enlarged(images[index, step], 3))
            assert (sheet[top + 24 + 196 :][:20, left : left + 192] < 160).any()  # the fraction


def test_fractions_are_even_unless_given():
    images = pixels(1, 3, 64, 64, 3)
    even = np.asarray(grids.interpolation(["a"], ["b"], images))
    np.testing.assert_array_equal(even, grids.interpolation(["a"], ["b"], images, fractions=[0, 0.5, 1]))
    other = np.asarray(grids.interpolation(["a"], ["b"], images, fractions=[0, 0.25, 1]))
    rows, columns = (even != other).any(-1).nonzero()
    assert rows.min() >= 16 + 24 + 196
    assert 16 + 204 <= columns.min() <= columns.max() < 16 + 204 + 192


@pytest.mark.parametrize(
    ("starts", "ends", "shape", "fractions", "message"),
    [
        (["a"], ["b"], (1, 1, 8, 8, 3), None, r"shape \(1, 1, 8, 8, 3\), expected \[R, S, H, W, C\]: S > 1"),
        (["a"], ["b"], (2, 8, 8, 3), None, r"expected \[R, S, H, W, C\]"),
        ([], [], (0, 2, 8, 8, 3), None, r"expected \[R, S, H, W, C\]"),
        (["a", "b"], ["b"], (1, 2, 8, 8, 3), None, "got 2 start captions, expected 1"),
        (["a"], [], (1, 2, 8, 8, 3), None, "got 0 end captions, expected 1"),
        (["a"], ["b"], (1, 2, 8, 8, 3), [0.5], r"fractions are \[0.5\], expected 2 finite"),
        (["a"], ["b"], (1, 2, 8, 8, 3), [0.0, np.nan], "expected 2 finite"),
    ],
)
def test_wrong_interpolations_are_refused(starts, ends, shape, fractions, message):
    with pytest.raises(ValueError, match=message):
        grids.interpolation(starts, ends, np.zeros(shape, np.uint8), fractions=fractions)


def test_any_text_can_be_drawn(hostile):
    text, images = hostile, pixels(1, 64, 64, 3)
    sheets = [
        grids.grid(images, [text], title=text),
        grids.comparison({text: images}),
        grids.text_to_image([text], images[None]),
        grids.image_to_text(images, [text], ["a man"]),
        grids.image_to_text(images, ["a man"], [text]),
        grids.consistency_pairs(images, [text], [0.5], [True], [False], 0.3),
        grids.interpolation([text], ["a man"], np.stack([images, images], axis=1)),
        grids.interpolation(["a man"], [text], np.stack([images, images], axis=1)),
    ]
    for sheet in sheets:
        file = io.BytesIO()
        sheet.save(file, "PNG")
        with Image.open(io.BytesIO(file.getvalue())) as decoded:
            np.testing.assert_array_equal(decoded, sheet)
        assert sheet.height < 2000  # a caption and a title of 400 characters at most


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"images are float32 \(2, 8, 8, 3\), expected uint8.*to_uint8"),
        (np.zeros((8, 8, 3), np.uint8), r"uint8 \(8, 8, 3\), expected uint8 \[N, H, W, C\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), "one or three channels"),
        (np.zeros((0, 8, 8, 3), np.uint8), "N > 0"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        grids.grid(images)


def test_wrong_counts_are_refused():
    images = pixels(2, 8, 8, 3)
    with pytest.raises(ValueError, match="got 1 captions, expected 2"):
        grids.grid(images, ["one"])
    with pytest.raises(ValueError, match="got 1 predictions, expected 2"):
        grids.image_to_text(images, ["one", "two"], ["one"])
    with pytest.raises(ValueError, match="got 1 images of 'copy', expected 2"):
        grids.comparison({"original": images, "copy": images[:1]})
    with pytest.raises(ValueError, match="columns is 0, expected at least 1"):
        grids.grid(images, columns=0)
    with pytest.raises(ValueError, match="scale is 0, expected a whole factor from 1"):
        grids.grid(images, scale=0)
    with pytest.raises(ValueError, match="no versions to compare"):
        grids.comparison({})
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8, 3\), expected \[R, S, H, W, C\]"):
        grids.text_to_image(["one", "two"], images)
