"""Sheets of pictures with text: samples, reconstructions, text to image, image to text, pairs, interpolations.

Pictures come in as uint8 [..., H, W, C] with one or three channels and are shown enlarged by a whole factor.
Captions may hold any text: it is drawn as it is and wrapped to its column. A sheet is built of blocks, small images
that are stacked or put side by side.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mvae_jax.viz import _narrow
from mvae_jax.viz._text import drawable, load_font

Item = TypeVar("Item")
Colour = tuple[int, int, int]

_PAPER, _INK, _FAINT = (255, 255, 255), (28, 28, 30), (110, 110, 115)
_WRONG, _MISSED, _RIGHT = (196, 22, 42), (20, 92, 200), (0, 112, 96)
_TEXT, _TITLE = 15, 20  # font sizes in pixels
_GAP, _MARGIN = 12, 16
_SMALLEST_PICTURE = 160  # pixels on the sheet, so that a caption beneath finds room
_SMALLEST_ALONE = 96  # of pictures without captions: a page shows a wider sheet the smaller, and its labels too
_COLUMN, _WIDE_COLUMN = 230, 300  # pixels of text beside a picture
_SMALLEST_NARROW = 64  # of pictures that stand in rows of a narrow sheet
_FEW = 5  # pictures without captions in a row of a narrow sheet
_NARROW = 440  # pixels that a narrow sheet has for pictures, so that its text is legible on a phone


class _Word(NamedTuple):
    text: str
    colour: Colour = _INK
    underlined: bool = False
    struck: bool = False


@_narrow.versions
def grid(
    images: npt.ArrayLike,
    captions: Sequence[str] | None = None,
    *,
    columns: int = 6,
    title: str = "",
    scale: int | None = None,
) -> Image.Image:
    """Pictures in rows, each with its caption beneath; the narrow version has fewer in a row.

    Args:
        images: uint8 [N, H, W, C].
        captions: N texts; None for none.
        columns: pictures per row.
        title: heading of the sheet.
        scale: enlargement; None chooses one that leaves room for captions.

    Returns:
        The sheet.

    Raises:
        ValueError: images are not uint8 [N, H, W, C] with N > 0, or captions are not N.
    """
    cells = _pictures(images, scale)
    if captions is not None:
        cells = _captioned(cells, captions, "captions")
        columns = _columns(columns, cells)
    elif _narrow.asked():  # there is nothing to read: they may be smaller
        columns = min(columns, _FEW)
    return _sheet(title, [_beside(row) for row in _chunks(cells, columns)])


@_narrow.versions
def comparison(
    versions: Mapping[str, npt.ArrayLike],
    *,
    columns: int = 6,
    title: str = "",
    scale: int | None = None,
    headings: Sequence[str] | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Image.Image:
    """Examples in several versions, one row beneath the other, such as originals above reconstructions.

    The narrow version has the labels above the rows, and as many of the examples as fit there, which it says;
    of examples with headings or captions there is none.

    Args:
        versions: label of the row -> uint8 [N, H, W, C], from top to bottom; N is the same in all.
        columns: examples side by side; more of them continue in a further block of rows.
        title: heading of the sheet.
        scale: enlargement; None chooses one.
        headings: N texts above the examples; None for none.
        captions: label of the row -> N texts beneath its pictures; None for none.

    Returns:
        The sheet.

    Raises:
        ValueError: images are not uint8 [N, H, W, C] with N > 0, the versions differ in N, or texts are not N.
    """
    if not versions:
        raise ValueError("there are no versions to compare, expected at least one.")
    narrow = _narrow.asked() and headings is None and captions is None
    least = _SMALLEST_NARROW if narrow else _SMALLEST_PICTURE if captions or headings else _SMALLEST_ALONE
    pictures = {label: _pictures(images, scale, least) for label, images in versions.items()}
    count = len(next(iter(pictures.values())))
    for label, row in pictures.items():
        _check_count(f"images of {label!r}", row, count)
    if narrow:
        return _narrow_comparison(pictures, columns, title)
    width = int(min(_COLUMN, max(load_font(_TEXT).getlength(drawable(label)) for label in pictures) + 1))
    for label, texts in (captions or {}).items():
        pictures[label] = _captioned(pictures[label], texts, f"captions of {label!r}")
    rows = {label: (_paragraph(_words(label), width), row) for label, row in pictures.items()}
    if headings is not None:
        _check_count("headings", headings, count)
        rows = {"": (_paragraph([], width), _above(headings, next(iter(pictures.values())))), **rows}
    blocks = [
        _stack(
            [
                _beside([_centred(label, row[indices[0]].height), *(row[i] for i in indices)])
                for label, row in rows.values()
            ],
            gap=4,
        )
        for indices in _chunks(range(count), columns)
    ]
    return _sheet(title, blocks)


def _narrow_comparison(pictures: Mapping[str, Sequence[Image.Image]], columns: int, title: str) -> Image.Image:
    first = next(iter(pictures.values()))
    shown = _columns(min(columns, len(first)), first)
    rows = [
        _stack([_paragraph(_words(label), max(_COLUMN, _NARROW // 2)), _beside(row[:shown])], gap=4)
        for label, row in pictures.items()
    ]
    if shown == len(first):
        return _sheet(title, rows)
    note = f"The first {shown} of {len(first)}: a wider window shows all."
    rows.append(_paragraph([word._replace(colour=_FAINT) for word in _words(note)], rows[0].width))
    return _narrow.part(_sheet(title, rows))


def _columns(columns: int, pictures: Sequence[Image.Image]) -> int:
    """How many of these pictures stand beside one another: so many, or as many of them as fit into a narrow sheet."""
    if not _narrow.asked():
        return columns
    return max(1, min(columns, (_NARROW + _GAP) // (max(picture.width for picture in pictures) + _GAP)))


@_narrow.versions
def text_to_image(
    captions: Sequence[str],
    images: npt.ArrayLike,
    *,
    title: str = "",
    scale: int | None = None,
    headings: Sequence[str] | None = None,
) -> Image.Image:
    """Texts, each above a row of pictures drawn from it.

    Args:
        captions: R texts.
        images: S samples of each, uint8 [R, S, H, W, C].
        title: heading of the sheet.
        scale: enlargement; None chooses one.
        headings: S texts above the columns, such as the model that drew each sample; None for none.

    Returns:
        The sheet.

    Raises:
        ValueError: images are not uint8 [R, S, H, W, C] with R, S > 0, captions are not R, or headings are not S.
    """
    samples = np.asarray(images)
    if samples.ndim != 5 or not len(samples):
        raise ValueError(f"images have shape {samples.shape}, expected [R, S, H, W, C]: S samples of each caption.")
    _check_count("captions", captions, len(samples))
    narrow = _narrow.asked() and headings is None
    pictures = [_pictures(row, scale, _SMALLEST_NARROW if narrow else _SMALLEST_PICTURE) for row in samples]
    above = []
    if headings is not None:
        _check_count("headings", headings, samples.shape[1])
        above = [_beside(_above(headings, pictures[0]))]
    columns = samples.shape[1]
    if narrow:
        columns = -(-columns // -(-columns // _columns(columns, pictures[0])))  # rows of one length
        room = (_NARROW + _GAP) // columns - _GAP
        pictures = [_pictures(row, scale, room - room % samples.shape[3]) for row in samples]
    rows = [_stack([_beside(part) for part in _chunks(row, columns)]) for row in pictures]
    return _sheet(
        title,
        [
            *above,
            *(
                _stack([_paragraph(_words(caption), max(row.width, _COLUMN)), row], gap=4)
                for caption, row in zip(captions, rows, strict=True)
            ),
        ],
    )


@_narrow.versions
def image_to_text(
    images: npt.ArrayLike,
    captions: Sequence[str],
    predictions: Sequence[str],
    *,
    columns: int = 2,
    title: str = "",
    scale: int | None = None,
) -> Image.Image:
    """Pictures, each beside its true and its predicted text; the words in which the two differ are marked.

    Args:
        images: uint8 [N, H, W, C].
        captions: N true texts.
        predictions: N predicted texts.
        columns: pictures per row.
        title: heading of the sheet.
        scale: enlargement; None chooses one.

    Returns:
        The sheet.

    Raises:
        ValueError: images are not uint8 [N, H, W, C] with N > 0, or captions or predictions are not N.
    """
    pictures = _pictures(images, scale)
    _check_count("captions", captions, len(pictures))
    _check_count("predictions", predictions, len(pictures))
    cells = []
    for picture, caption, prediction in zip(pictures, captions, predictions, strict=True):
        paragraphs = [
            _paragraph([_Word(f"{heading}:", _FAINT), *words], _COLUMN)
            for heading, words in zip(("true", "predicted"), _marked(caption, prediction), strict=True)
        ]
        cells.append(_beside([picture, _stack(paragraphs)]))
    rows = [_beside(row, gap=2 * _GAP) for row in _chunks(cells, _columns(columns, cells))]
    key = [
        *_words("Marked words:"),
        _Word("predicted", _WRONG, underlined=True),
        *_words("though not true, and"),
        _Word("true", _MISSED, underlined=True),
        *_words("though not predicted."),
    ]
    return _sheet(title, [_paragraph(key, rows[0].width), *rows])


@_narrow.versions
def consistency_pairs(
    images: npt.ArrayLike,
    captions: Mapping[str, Sequence[str]],
    scores: Mapping[str, npt.ArrayLike],
    threshold: float,
    *,
    columns: int = 2,
    title: str = "",
    scale: int | None = None,
) -> Image.Image:
    """Pictures, each beside its own text and texts that do not fit it, and what a model says of each pair.

    A pair with a score above the threshold is called a match. Words that a text has and the own one lacks are
    underlined, and those that it lacks are struck out.

    Args:
        images: uint8 [N, H, W, C].
        captions: kind of text -> N texts; the first kind is the pictures' own, the others are mismatches.
        scores: the same kinds -> consistency of picture and text, [N], finite.
        threshold: the decision border.
        columns: pictures per row.
        title: heading of the sheet.
        scale: enlargement; None chooses one.

    Returns:
        The sheet.

    Raises:
        ValueError: images are not uint8 [N, H, W, C] with N > 0, there are no captions, captions and scores are not
            of the same kinds or not N of each, or scores or the threshold are not finite.

    Reference:
        Kim, 2024, figure 5.
    """
    pictures = _pictures(images, scale)
    if not captions or list(captions) != list(scores):
        raise ValueError(f"there are captions of {list(captions)} and scores of {list(scores)}; expected the same.")
    points = {kind: np.asarray(values, np.float64) for kind, values in scores.items()}
    for kind, texts in captions.items():
        _check_count(f"captions of {kind!r}", texts, len(pictures))
        if points[kind].shape != (len(pictures),) or not np.isfinite([*points[kind], threshold]).all():
            raise ValueError(
                f"scores of {kind!r} have shape {points[kind].shape} and the threshold is {threshold}, expected finite "
                f"numbers, [{len(pictures)}] and one."
            )
    own = next(iter(captions))
    cells = []
    for number, picture in enumerate(pictures):
        paragraphs = []
        for kind, texts in captions.items():
            score = points[kind][number]
            right = bool(score > threshold) == (kind == own)
            colour, call = _RIGHT if right else _WRONG, "match," if score > threshold else "mismatch,"
            head = [word._replace(colour=_FAINT) for word in _words(f"{kind}: score {score:.3f},")]
            head += [_Word(call, colour), _Word("right" if right else "wrong", colour, underlined=not right)]
            text = _changed(captions[own][number], texts[number])
            width = _COLUMN if _narrow.asked() else _WIDE_COLUMN
            paragraphs.append(_stack([_paragraph(words, width) for words in (head, text)], gap=0))
        cells.append(_beside([picture, _stack(paragraphs)]))
    rows = [_beside(row, gap=2 * _GAP) for row in _chunks(cells, _columns(columns, cells))]
    key = [
        *_words(f"A pair with a score above {threshold:.3f} is called a match. Each call is"),
        _Word("right", _RIGHT),
        *_words("or"),
        _Word("wrong.", _WRONG, underlined=True),
        *_words("Underlined words do not fit the picture, and struck ones are left out."),
    ]
    return _sheet(title, [_paragraph(key, max(rows[0].width, _COLUMN)), *rows])


def interpolation(
    start_captions: Sequence[str],
    end_captions: Sequence[str],
    images: npt.ArrayLike,
    *,
    fractions: Sequence[float] | None = None,
    title: str = "",
    scale: int | None = None,
) -> Image.Image:
    """Rows of pictures on the way between two texts: the first above the left end, the other above the right end.

    Args:
        start_captions: R texts, at fraction 0.
        end_captions: R texts, at fraction 1.
        images: S steps of each, uint8 [R, S, H, W, C], S from 2.
        fractions: S places on the way, which stand beneath the pictures; None for equal steps from 0 to 1.
        title: heading of the sheet.
        scale: enlargement; None chooses one.

    Returns:
        The sheet.

    Raises:
        ValueError: images are not uint8 [R, S, H, W, C] with R > 0 and S > 1, captions are not R, or fractions are
            not S finite numbers.
    """
    steps = np.asarray(images)
    if steps.ndim != 5 or not len(steps) or steps.shape[1] < 2:
        raise ValueError(
            f"images have shape {steps.shape}, expected [R, S, H, W, C]: S > 1 steps between the two texts of a row."
        )
    _check_count("start captions", start_captions, len(steps))
    _check_count("end captions", end_captions, len(steps))
    places = np.linspace(0.0, 1.0, steps.shape[1]) if fractions is None else np.asarray(fractions, np.float64)
    if places.shape != steps.shape[1:2] or not np.isfinite(places).all():
        raise ValueError(f"fractions are {places.tolist()}, expected {steps.shape[1]} finite numbers, one per step.")
    blocks = []
    for start, end, row in zip(start_captions, end_captions, steps, strict=True):
        cells = [
            _stack([picture, _paragraph([_Word(f"{place:.2f}", _FAINT)], picture.width)], gap=4)
            for picture, place in zip(_pictures(row, scale), places, strict=True)
        ]
        strip = _beside(cells)
        half = (strip.width - 2 * _GAP) // 2
        texts = _beside([_paragraph(_words(start), half), _paragraph(_words(end), half, right=True)], gap=2 * _GAP)
        blocks.append(_stack([texts, strip], gap=4))
    return _sheet(title, blocks)


def _captioned(pictures: Sequence[Image.Image], captions: Sequence[str], name: str) -> list[Image.Image]:
    """Pictures with texts beneath, as wide as they; `name` says what the texts are if they are not as many."""
    _check_count(name, captions, len(pictures))
    texts = _above(captions, pictures)
    return [_stack([picture, text], gap=4) for picture, text in zip(pictures, texts, strict=True)]


def _above(headings: Sequence[str], row: Sequence[Image.Image]) -> list[Image.Image]:
    """Texts as wide as the pictures that they stand above."""
    return [_paragraph(_words(text), picture.width) for text, picture in zip(headings, row, strict=True)]


def _marked(truth: str, prediction: str) -> tuple[list[_Word], list[_Word]]:
    """The words of both texts; those outside their longest common runs are marked."""
    true_words, predicted_words = _words(truth), _words(prediction)
    for equal, true_run, predicted_run in _runs(true_words, predicted_words):
        if not equal:
            true_words[true_run] = [_Word(word.text, _MISSED, underlined=True) for word in true_words[true_run]]
            predicted_words[predicted_run] = [
                _Word(word.text, _WRONG, underlined=True) for word in predicted_words[predicted_run]
            ]
    return true_words, predicted_words


def _changed(truth: str, text: str) -> list[_Word]:
    """The words of a text: those that its true one lacks underlined, and those that only the true one has struck."""
    true_words, words, changed = _words(truth), _words(text), list[_Word]()
    for equal, true_run, run in _runs(true_words, words):
        changed += words[run] if equal else [word._replace(struck=True, colour=_FAINT) for word in true_words[true_run]]
        changed += [] if equal else [word._replace(underlined=True) for word in words[run]]
    return changed


def _runs(first: Sequence[_Word], second: Sequence[_Word]) -> Iterator[tuple[bool, slice, slice]]:
    """Runs of words of two texts: whether they are equal, but for case and stops, and where they are in both."""
    a, b = ([word.text.strip(".,;:!?").lower() for word in words] for words in (first, second))
    for kind, start, end, other_start, other_end in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        yield kind == "equal", slice(start, end), slice(other_start, other_end)


def _pictures(images: npt.ArrayLike, scale: int | None, least: int = _SMALLEST_PICTURE) -> list[Image.Image]:
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3) or not array.size:
        raise ValueError(
            f"images are {array.dtype} {array.shape}, expected uint8 [N, H, W, C] with N > 0 and one or three "
            "channels; convert floats with mvae_jax.images.to_uint8."
        )
    if scale is not None and scale < 1:
        raise ValueError(f"scale is {scale}, expected a whole factor from 1, or None.")
    height, width = array.shape[1:3]
    factor = scale or -(-least // width)
    return [
        # Pixels stay visible as squares: smoothing would flatter the model.
        Image.fromarray(picture).resize((width * factor, height * factor), Image.Resampling.NEAREST)
        for picture in np.broadcast_to(array, (*array.shape[:3], 3))
    ]


def _check_count(name: str, items: Sequence[object], expected: int) -> None:
    if len(items) != expected:
        raise ValueError(f"got {len(items)} {name}, expected {expected}: one for each picture or row.")


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    if size < 1:
        raise ValueError(f"columns is {size}, expected at least 1.")
    return (items[start : start + size] for start in range(0, len(items), size))


def _sheet(title: str, blocks: Sequence[Image.Image]) -> Image.Image:
    width = max(block.width for block in blocks)
    heading = [_paragraph(_words(title), max(width, _COLUMN), _TITLE)] if title else []
    body = _stack([*heading, *blocks], gap=_GAP)
    sheet = Image.new("RGB", (body.width + 2 * _MARGIN, body.height + 2 * _MARGIN), _PAPER)
    sheet.paste(body, (_MARGIN, _MARGIN))
    return sheet


def _stack(blocks: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
    stack, y = Image.new("RGB", (max(block.width for block in blocks), height), _PAPER), 0
    for block in blocks:
        stack.paste(block, (0, y))
        y += block.height + gap
    return stack


def _beside(blocks: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    width = sum(block.width for block in blocks) + gap * (len(blocks) - 1)
    row, x = Image.new("RGB", (width, max(block.height for block in blocks)), _PAPER), 0
    for block in blocks:
        row.paste(block, (x, 0))
        x += block.width + gap
    return row


def _centred(block: Image.Image, height: int) -> Image.Image:
    taller = Image.new("RGB", (block.width, max(height, block.height)), _PAPER)
    taller.paste(block, (0, (taller.height - block.height) // 2))
    return taller


def _paragraph(words: Sequence[_Word], width: int, size: int = _TEXT, *, right: bool = False) -> Image.Image:
    """Words on as many lines of `width` pixels as they need; `right` sets them flush right."""
    font, line_height = load_font(size), round(1.35 * size)
    lines = _lines(words, width, font)
    block = Image.new("RGB", (width, line_height * len(lines)), _PAPER)
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        x, baseline = 0.0, number * line_height + size
        if right:
            x = width - font.getlength(" ".join(word.text for word in line))
        for word in line:
            draw.text((x, baseline), word.text, word.colour, font, anchor="ls")
            end = x + font.getlength(word.text)
            if word.underlined:
                draw.line([(x, baseline + 3), (end - 1, baseline + 3)], word.colour)
            if word.struck:
                draw.line([(x, baseline - size // 3), (end - 1, baseline - size // 3)], word.colour)
            x = end + font.getlength(" ")
    return block


def _lines(words: Sequence[_Word], width: int, font: ImageFont.FreeTypeFont) -> list[list[_Word]]:
    lines: list[list[_Word]] = []
    room = 0.0
    for word in words:
        for piece in _pieces(word.text, width, font):
            length = font.getlength(piece)
            if not lines or length > room:
                lines.append([])
                room = width
            lines[-1].append(word._replace(text=piece))
            room -= length + font.getlength(" ")
    return lines


def _pieces(text: str, width: int, font: ImageFont.FreeTypeFont) -> Iterator[str]:
    """Parts of a word none of which is wider than a line."""
    start = 0
    for end in range(2, len(text) + 1):
        if end - start > 1 and font.getlength(text[start:end]) > width:
            yield text[start : end - 1]
            start = end - 1
    yield text[start:]


def _words(text: str) -> list[_Word]:
    return [_Word(word) for word in drawable(text).split()]
