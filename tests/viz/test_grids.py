import io

import numpy as np
import pytest
from PIL import Image

from mvae_jax.viz import _narrow, grids

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


def test_text_to_image_may_have_headings_above_its_columns():
    samples = pixels(2, 3, 64, 64, 3)
    bare = np.asarray(grids.text_to_image(["a man", "a woman"], samples))
    sheet = np.asarray(grids.text_to_image(["a man", "a woman"], samples, headings=["beta 1", "", "beta 2"]))
    np.testing.assert_array_equal(sheet[16 + 20 + 12 :], bare[16:])
    ink = [(sheet[16:36, left : left + 192] < 128).any() for left in (16, 16 + 204, 16 + 2 * 204)]
    assert ink == [True, False, True]
    with pytest.raises(ValueError, match="got 2 headings, expected 3"):
        grids.text_to_image(["a man", "a woman"], samples, headings=["a", "b"])


def narrow(sheet):
    return np.asarray(_narrow.version(sheet))


def test_on_a_phone_a_comparison_shows_what_fits_and_says_so():
    """Labels stand above their rows."""
    rows = {"original": pixels(8, 32, 32, 3), "copy": pixels(8, 32, 32, 3)}
    wide = grids.comparison(rows, columns=8)
    sheet = narrow(wide)
    assert sheet.shape[1] == 16 + 5 * 64 + 4 * 12 + 16
    for number, images in enumerate(rows.values()):
        top = 16 + number * (20 + 4 + 64 + 12)
        assert (sheet[top : top + 20] < 128).any()  # the label
        for index in range(5):
            left = 16 + index * (64 + 12)
            shown = sheet[top + 24 : top + 24 + 64, left : left + 64]
            np.testing.assert_array_equal(shown, enlarged(images[index], 2))
    assert (sheet[-16 - 20 : -16] < 160).any()  # that it is five of eight
    assert _narrow.version(wide, whole=True) is None
    few = grids.comparison({label: images[:5] for label, images in rows.items()})
    assert _narrow.version(few, whole=True).size == (sheet.shape[1], 16 + 2 * (20 + 4 + 64) + 12 + 16)
    # Of texts above or beneath the examples none may be missing: such a sheet scrolls.
    assert _narrow.version(grids.comparison(rows, columns=8, headings=["text"] * 8)) is None


def test_on_a_phone_fewer_pictures_stand_in_a_row():
    samples, texts = pixels(10, 32, 32, 3), ["a woman with brown hair"] * 10
    bare = grids.grid(samples, columns=8)
    assert narrow(bare).shape == (16 + 2 * 160 + 12 + 16, 16 + 5 * 160 + 4 * 12 + 16, 3)
    assert narrow(grids.grid(samples, texts)).shape[1] == 16 + 2 * 160 + 12 + 16
    assert narrow(grids.text_to_image(texts[:2], samples.reshape(2, 5, 32, 32, 3))).shape == (
        16 + 2 * (20 + 4 + 64) + 12 + 16,
        16 + 5 * 64 + 4 * 12 + 16,
        3,
    )
    six = narrow(grids.text_to_image(texts[:1], pixels(6, 64, 64, 3)[None]))
    assert six.shape == (16 + 20 + 4 + 2 * 128 + 12 + 16, 16 + 3 * 128 + 2 * 12 + 16, 3)  # not five and one
    of_pairs = {"matching": texts, "mismatched": texts}
    sheets = (
        grids.image_to_text(samples, texts, texts),
        grids.consistency_pairs(samples, of_pairs, dict.fromkeys(of_pairs, np.zeros(10)), 0.5),
    )
    assert [narrow(sheet).shape[1] for sheet in sheets] == [16 + 160 + 12 + 230 + 16] * 2


def test_sheets_without_captions_are_narrow_enough_for_their_labels_to_be_read():
    """A page of 1056 pixels shows eight pictures of 64 pixels at more than three quarters of their size."""
    rows = {"original": pixels(8, 64, 64, 3), "beta-TCVAE of weight 20": pixels(8, 64, 64, 3)}
    assert grids.comparison(rows, columns=8).width <= 1056 / 0.75


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
    """Arguments of two pictures, each with its own caption and one that does not fit: right calls and wrong ones."""
    arguments = {
        "images": np.full((2, 64, 64, 3), 128, np.uint8),
        "captions": {"its own": ["a man", "a man"], "one word wrong": ["a woman", "a"]},
        "scores": {"its own": [0.9, 0.2], "one word wrong": [0.1, 0.8]},
        "threshold": 0.5,
    }
    return arguments | changes


def test_consistency_pairs_tell_right_from_wrong():
    images = pixels(2, 64, 64, 3)
    sheet = np.asarray(grids.consistency_pairs(**pairs(images=images)))
    cells = sheet[-(16 + 192) : -16, 16:]
    for index, right in enumerate([True, False]):
        cell = cells[:, index * (192 + 12 + 300 + 24) :][:, : 192 + 12 + 300]
        np.testing.assert_array_equal(cell[:, :192], enlarged(images[index], 3))
        assert has_colour(cell[:, 204:], GREEN) == right
        assert has_colour(cell[:, 204:], RED) == (not right)


def test_calls_are_words():
    """Right and wrong calls differ in shape, not only in colour, and so do the two calls."""

    def call(score, kind):
        scores = {"its own": [0.9], "one word wrong": [0.1], kind: [score]}
        sheet = grids.consistency_pairs(np.full((1, 64, 64, 3), 128, np.uint8), captions, scores, 0.5)
        top = 16 + 20 * key_lines + 12 + (0 if kind == "its own" else 2 * 20 + 12)
        return (np.asarray(sheet)[top : top + 20, 16 + 192 + 12 :] < 200).any(-1)[:, 160:]

    captions = {"its own": ["a"], "one word wrong": ["a"]}
    height = grids.consistency_pairs(
        np.full((1, 64, 64, 3), 128, np.uint8), captions, {"its own": [0.9], "one word wrong": [0.1]}, 0.5
    ).height
    key_lines = (height - 16 - 12 - 192 - 16) // 20
    for kind in captions:
        accepted, rejected = call(0.9, kind), call(0.1, kind)
        assert accepted.any()
        assert (accepted != rejected).any()


def test_words_that_do_not_fit_are_underlined_and_missing_ones_struck_out():
    def words(own, other):
        return [(word.text, word.underlined, word.struck) for word in grids._changed(own, other)]

    assert words("a smiling man", "a man") == [("a", False, False), ("smiling", False, True), ("man", False, False)]
    assert words("a man", "a woman") == [("a", False, False), ("man", False, True), ("woman", True, False)]
    text = {"its own": ["a smiling man"], "one word wrong": ["a man"]}
    scores = {"its own": [0.9], "one word wrong": [0.1]}
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    struck = grids.consistency_pairs(grey, text, scores, 0.5)
    plain = grids.consistency_pairs(grey, text | {"its own": ["a man"]}, scores, 0.5)
    assert (np.asarray(struck) < 200).sum() > (np.asarray(plain) < 200).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"captions": {"its own": ["a", "b"]}},
            r"captions of \['its own'\] and scores of \['its own', 'one word wrong'\]",
        ),
        ({"captions": {}, "scores": {}}, "expected the same"),
        ({"captions": {"its own": ["a"], "one word wrong": ["a", "b"]}}, "got 1 captions of 'its own', expected 2"),
        ({"scores": {"its own": [0.9], "one word wrong": [0.1, 0.2]}}, r"scores of 'its own' have shape \(1,\)"),
        ({"scores": {"its own": [0.9, np.nan], "one word wrong": [0.1, 0.2]}}, "expected finite"),
        ({"threshold": np.inf}, "threshold is inf"),
    ],
)
def test_wrong_pairs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        grids.consistency_pairs(**pairs(**changes))


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
        grids.consistency_pairs(images, {"own": ["a man"], text: [text]}, {"own": [0.5], text: [0.5]}, 0.3),
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
