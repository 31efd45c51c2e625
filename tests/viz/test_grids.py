import io

import numpy as np
import pytest
from PIL import Image

from mvae_jax.viz import grids

HOSTILE = [
    r"$\frac{$",
    r"\N{dollar} ^_{ \u0000",
    "<b>bold</b> & \"quotes\" 'both'",
    "tab\tline\nfeed\x00\x07\x1b[31m",
    "\ud800 lone surrogate",
    "\U0001f9d1\u200d\U0001f680 日本語 العربية",
    "x" * 3000,
    "word " * 3000,
    "",
    "   ",
]
RED, BLUE = (196, 22, 42), (20, 92, 200)


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


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_can_be_drawn(text):
    images = pixels(1, 64, 64, 3)
    sheets = [
        grids.grid(images, [text], title=text),
        grids.comparison({text: images}),
        grids.text_to_image([text], images[None]),
        grids.image_to_text(images, [text], ["a man"]),
        grids.image_to_text(images, ["a man"], [text]),
    ]
    for sheet in sheets:
        file = io.BytesIO()
        sheet.save(file, "PNG")
        with Image.open(io.BytesIO(file.getvalue())) as decoded:
            np.testing.assert_array_equal(decoded, sheet)
        assert sheet.height < 1400  # a caption and a title of 400 characters at most


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
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8, 3\), expected \[R, S, H, W, C\]"):
        grids.text_to_image(["one", "two"], images)
