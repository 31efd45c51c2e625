"""One HTML file that tells what a run did: it needs no network and no other file.

A page is a list of parts: plain strings are paragraphs, the functions here make headings, tables and figures. Every
text is escaped on its way in. Pictures are WebP, and no larger than a page needs them.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import html
import io
import json
import math
import numbers
import os
import pathlib
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata, resources
from typing import Any

from PIL import Image

from mvae_jax import files
from mvae_jax.viz import _narrow
from mvae_jax.viz.traversals import Strips

Picture = Image.Image | bytes | str | os.PathLike[str]

_PHONE, _DESKTOP = 360, 1000  # pixels that a wide picture has at least and at most before it scrolls
_PHONE_SCREEN = "(max-width: 34rem)"  # as in page.css
_PHONES = 512  # pixels of the page on any phone: a picture that has more scrolls there, and says so
_MOST_WIDE, _MOST_HIGH = 2400, 16_000  # pixels of a picture within a page; WebP ends at 16,383
_MOST_FRAME = 256  # pixels of one picture of a slider
_SIDE, _ONE_SIDE = 160, 480  # pixels on the page of a picture among several sliders, and of the only one
_LEAST_SIDE = 88  # of one among as many as are to stand in a row
_ROW, _GAP = 1056, 16  # pixels of the page on a desk, and between two sliders, as in page.css
_QUALITY = 88  # of WebP with losses
_FEW_COLOURS = 4096  # of drawings, which may be smaller without losses
_LONG_TEXT = 30  # characters of a cell of a table that takes room
_LONGEST = 12  # rows of a table that is not folded
_MANY = 8  # columns of a table, beyond which its text is smaller
_PACKAGES = ("mvae-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a page.

    Attributes:
        html: markup in which every text is escaped already.
        title: of a section's heading, for `contents`; else "".
    """

    html: str
    title: str = ""


def lead(text: str) -> Part:
    """What the page is about, in a sentence or two."""
    return Part(f'<p class="lead">{_escape(text)}</p>')


def headline(items: Iterable[tuple[str, str, str]]) -> Part:
    """The numbers that a reader has to know.

    Args:
        items: of each number its value with its unit, what it is, and what it is to be compared with.
    """
    cells = "\n".join(
        f"<li><strong>{_escape(value)}</strong> {_escape(text)}"
        f"{f' <small>{_escape(baseline)}</small>' if baseline else ''}</li>"
        for value, text, baseline in items
    )
    return Part(f'<ul class="numbers">\n{cells}\n</ul>')


def heading(text: str) -> Part:
    """The heading of a section."""
    return Part(f'<h2 id="{_anchor(text)}">{_escape(text)}</h2>', text)


def subheading(text: str) -> Part:
    """A heading within a section."""
    return Part(f"<h3>{_escape(text)}</h3>")


def contents(parts: Iterable[Part | str]) -> Part:
    """Links to the sections among some parts."""
    titles = [part.title for part in parts if isinstance(part, Part) and part.title]
    links = "\n".join(f'<li><a href="#{_anchor(title)}">{_escape(title)}</a></li>' for title in titles)
    return Part(f'<nav aria-label="Contents"><ul>\n{links}\n</ul></nav>')


def note(text: str) -> Part:
    """Something the reader must know, such as a loss term that was off because its weights were not given."""
    return Part(f'<p class="note" role="note">{_escape(text)}</p>')


def status(text: str, done: float | None = None) -> Part:
    """What is going on now.

    Args:
        text: a sentence.
        done: which share of it is done, from 0 to 1, drawn as a bar; None for no bar.
    """
    bar = (
        "" if done is None else f'<progress max="1" value="{done:.4f}" aria-label="{100 * done:.0f}% done"></progress>'
    )
    return Part(f'<div class="status" role="status"><p>{_escape(text)}</p>{bar}</div>')


def code(text: str) -> Part:
    """Text as it was typed, such as the command line."""
    return Part(f"<pre><code>{_escape(text)}</code></pre>")


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> Part:
    """A table of results; one of more than twelve rows is folded.

    Args:
        rows: column -> value, one mapping per row. Columns are those of all rows, in order of appearance; a value
            that is missing or None shows as a dash. The numbers of a column have one format, see `_format_of`.
        caption: text above the table.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {c for c in columns if all(_is_number(row.get(c)) or row.get(c) is None for row in rows)}
    classes = {column: ' class="number"' if column in numeric else "" for column in columns}
    for column in columns[1:]:  # a phone would break a text into a word a line
        if column not in numeric and any(len(_text(row.get(column, ""))) > _LONG_TEXT for row in rows):
            classes[column] = ' class="text"'
    formats = {c: _format_of([row.get(c) for row in rows]) if c in numeric else _text for c in columns}
    head = "".join(f'<th scope="col"{classes[c]}>{_escape(c)}</th>' for c in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{classes[c]}>{_escape('–' if row.get(c) is None else formats[c](row[c]))}</td>" for c in columns)
        + "</tr>\n"
        for row in rows
    )
    many = len(columns) > _MANY
    shown = _scrolling_table(
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>", caption, kind="many" if many else ""
    )
    return details(f"{caption or 'Table'}: {len(rows)} rows", [shown]) if len(rows) > _LONGEST else shown


def values(mapping: Mapping[str, Any], caption: str = "") -> Part:
    """Names and their values, exact: a config, seeds, versions; more than twelve with a caption are folded.

    Args:
        mapping: name -> value; names within nested mappings are joined by dots.
        caption: text above the table.
    """
    rows = [
        f'<tr><th scope="row">{_escape(name)}</th><td>{_escape(value)}</td></tr>\n' for name, value in _flat(mapping)
    ]
    folded = bool(caption) and len(rows) > _LONGEST
    shown = _scrolling_table(f"<tbody>\n{''.join(rows)}</tbody>", "" if folded else caption, kind="values")
    return details(caption, [shown]) if folded else shown


def written(numbers: Sequence[float]) -> list[str]:
    """Numbers as a table would show them in one column, to stand in a text beside it."""
    return [*map(_format_of(numbers), numbers)]


def figure(
    picture: Picture | Strips, caption: str = "", *, fits: bool = False, narrow: bool = False, first: bool = False
) -> Part:
    """A picture, embedded, or rows of pictures with sliders.

    A drawing or sheet of `mvae_jax.viz` that has a version for narrow screens is shown by it there. Of another wide
    sheet the text stays legible on a narrow screen: it shrinks to two thirds, and scrolls.

    Args:
        picture: an image, the bytes of a PNG or GIF, or the path of one; or rows of pictures.
        caption: text above, which also describes the picture to those who cannot see it.
        fits: the sheet shrinks to the width of any screen, for what has no text that is to be read.
        narrow: the picture stands in a narrow column: on any screen it is shown by its narrow version,
            if it has one on which nothing is left out, and else shrinks.
        first: the picture is the first of the page. One that fits is no higher on a desk than leaves room, on the first
            screen, for what is above it and for the contents beneath; up to ten sliders stand in one row.

    Raises:
        ValueError: the bytes, or those of the file, are neither a PNG nor a GIF.
    """
    if isinstance(picture, Strips):
        return _sliders(picture, caption, first)
    smaller = _narrow.version(picture, whole=narrow) if isinstance(picture, Image.Image) else None
    if smaller and narrow:
        picture, smaller = smaller, None
    with Image.open(io.BytesIO(_file(picture))) if not isinstance(picture, Image.Image) else picture.copy() as opened:
        (width, height), data = opened.size, _webp(opened.convert("RGB"))
    narrowest = 0 if fits or narrow or smaller else min(width, max(_PHONE, min(2 * width // 3, _DESKTOP)))
    text = _escape(caption)
    of_kind = ' class="wide"' if narrowest > _PHONES else ' class="first"' if first and fits else ""
    image = f'<img alt="{text}" width="{width}" height="{height}" style="min-width: {narrowest}px" src="{_uri(data)}">'
    if smaller:
        image = (
            f'<picture><source media="{_PHONE_SCREEN}" width="{smaller.width}" height="{smaller.height}" '
            f'srcset="{_uri(_webp(smaller.convert("RGB")))}">{image}</picture>'
        )
    return Part(
        f"<figure{of_kind}>{f'<figcaption>{text}</figcaption>' if text else ''}"
        f'<div class="scroll" tabindex="0">{image}</div></figure>'
    )


def beside(columns: Iterable[Part | str | Sequence[Part | str]]) -> Part:
    """Parts side by side where there is room, such as the same figure of several runs; or lists of parts."""
    lists = (column if isinstance(column, Sequence) and not isinstance(column, str) else [column] for column in columns)
    cells = "\n".join(f"<div>{_join(column)}</div>" for column in lists)
    return Part(f'<div class="beside">\n{cells}\n</div>')


def turned(parts: Iterable[Part | str]) -> Part:
    """Parts one beneath the other, on a phone in reverse order, as where the first one is less pressing there."""
    return Part(f'<div class="turned">\n{_join(parts)}\n</div>')


def details(summary: str, parts: Iterable[Part | str]) -> Part:
    """Parts that stay folded until the reader opens them, such as a long config."""
    return Part(f"<details><summary>{_escape(summary)}</summary>\n{_join(parts)}\n</details>")


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of Python and of installed packages, for `values`; packages that are not installed are left out."""
    installed = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def page(title: str, parts: Iterable[Part | str]) -> str:
    """The whole document.

    Args:
        title: title and first heading.
        parts: what the functions of this module return; a plain string becomes a paragraph.

    Returns:
        HTML that loads nothing: a content security policy within forbids it. The one script that it allows, by its
        hash, moves sliders, and is there only with them.
    """
    body, script, policy = _join(parts), "", "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if _SLIDERS in body:  # of our own: in a text its quotes would be escaped
        script = f"<script>{_asset('page.js')}</script>\n"
        digest = base64.b64encode(hashlib.sha256(_asset("page.js").encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{_escape(title)}</h1>\n{body}\n</main>\n{script}</body>\n</html>\n"
    )


def write(path: str | os.PathLike[str], title: str, parts: Iterable[Part | str]) -> None:
    """Writes `page` to a file: readers see the old file or the new one, never half of it."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write(path, page(title, parts))


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture's file, to be written by `files`: Pillow cuts a JPEG off on a full disk and says nothing.

    Args:
        picture: any picture.
        kind: Pillow's name of the format.
        **options: of that format.
    """
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def save_figures(
    figures: Mapping[str, tuple[str, Image.Image | bytes | Strips]], folder: pathlib.Path
) -> dict[str, pathlib.Path]:
    """Writes pictures and the sheets of rows of pictures, as PNG, and the bytes of animations, as GIF.

    Args:
        figures: name of the file without its ending -> (caption, picture, rows or animation).
        folder: where to, made if it is not there.

    Returns:
        {caption: file}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, (caption, picture) in figures.items():
        paths[caption] = folder / f"{name}.{'gif' if isinstance(picture, bytes) else 'png'}"
        files.atomic_write(paths[caption], _file(picture.sheet() if isinstance(picture, Strips) else picture))
    return paths


# --- pictures --------------------------------------------------------------------------------------------------------

_SLIDERS = '<figure class="sliders"'


def _sliders(strips: Strips, caption: str, first: bool) -> Part:
    """Rows of pictures as one WebP; each row has a slider, and all together a button that moves them."""
    count, side = len(strips.steps), _SIDE if len(strips.rows) > 1 else _ONE_SIDE
    height, width = strips.shape
    in_a_row = max(_LEAST_SIDE, (_ROW + _GAP) // len(strips.rows) - _GAP)
    frames = strips.frames()
    scale = min(1.0, _MOST_FRAME / width, _MOST_HIGH / frames.width, _MOST_HIGH / frames.height)
    if scale < 1:
        smaller = (max(1, int(width * scale)) * count, max(1, int(height * scale)) * len(strips.rows))
        frames = frames.resize(smaller, Image.Resampling.LANCZOS)
    side = width * max(1, round(side / width)) if width < side else side  # whole pixels where they are shown larger
    smooth = first and in_a_row < side and in_a_row < 2 * width  # whole pixels would leave it too small
    if first and in_a_row < side:
        side = in_a_row if smooth else in_a_row // width * width
    of_group = {
        "sheet": f"url({_uri(_webp(frames, _MOST_HIGH))})",
        "count": count,
        "side": f"{side}px",
        "rendering": "auto" if smooth else "pixelated",
        "sheet-height": f"{100 * len(strips.rows)}%",
        "one": f"{width} / {height}",
        "whole": f"{count * width} / {height}",
    }
    steps = json.dumps([_clean(step) for step in strips.steps])
    cells = []
    for number, label in enumerate(strips.rows):
        top = 100 * number / max(1, len(strips.rows) - 1)
        text = f"{label}: {count} pictures, from {strips.steps[0]} to {strips.steps[-1]}"
        cells.append(
            f'<div class="cell"><div class="strip" role="img" aria-label="{_escape(text)}" '
            f'style="--top: {top:.4f}%"></div>\n<label>{_escape(label)} '
            '<span class="control value" aria-hidden="true"></span>'
            f'<input class="control" type="range" min="0" max="{count - 1}" value="{strips.start}"></label></div>'
        )
    style = "; ".join(f"--{name}: {value}" for name, value in of_group.items())
    plays = ' data-plays="yes"' if strips.plays else ""
    return Part(
        f'{_SLIDERS} data-steps="{html.escape(steps)}"{plays} style="{style}">\n'
        f"<figcaption>{_escape(caption)}</figcaption>\n"
        '<button class="control" type="button">Play</button>\n<div class="cells">\n' + "\n".join(cells) + "\n</div>\n"
        "</figure>"
    )


def _webp(picture: Image.Image, most_wide: int = _MOST_WIDE) -> bytes:
    """A picture as WebP, no larger than a page needs it; without losses if it is a drawing and smaller so."""
    scale = min(1.0, most_wide / picture.width, _MOST_HIGH / picture.height)
    if scale < 1:
        size = max(1, int(picture.width * scale)), max(1, int(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    lossy = encoded(picture, "WEBP", quality=_QUALITY)
    if picture.getcolors(_FEW_COLOURS) is None:
        return lossy
    return min(encoded(picture, "WEBP", lossless=True), lossy, key=len)


def _uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _file(picture: Picture) -> bytes:
    if isinstance(picture, Image.Image):
        return encoded(picture)
    data = picture if isinstance(picture, bytes) else pathlib.Path(picture).read_bytes()
    if not data.startswith((b"\x89PNG\r\n\x1a\n", b"GIF8")):
        name = "the bytes" if isinstance(picture, bytes) else os.fspath(picture)
        raise ValueError(f"{name} begins with {data[:8]!r}, expected a PNG or a GIF; save the picture as one.")
    return data


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("mvae_jax.viz") / name).read_text(encoding="utf-8")


# --- texts and numbers -----------------------------------------------------------------------------------------------


def _join(parts: Iterable[Part | str]) -> str:
    return "\n".join(f"<p>{_escape(part)}</p>" if isinstance(part, str) else part.html for part in parts)


def _scrolling_table(rows: str, caption: str, *, kind: str = "") -> Part:
    # Above the box that scrolls: a caption of the table itself would be as narrow, or as wide, as the table.
    title = f"<figcaption>{_escape(caption)}</figcaption>\n" if caption else ""
    of_kind = f' class="{kind}"' if kind else ""
    return Part(f'<figure>{title}<div class="scroll" tabindex="0"><table{of_kind}>\n{rows}\n</table></div></figure>')


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)  # NumPy's scalars too


def _format_of(values: Iterable[Any]) -> Callable[[Any], str]:
    """The format of a column of numbers; that of integers is exact.

    Others have at most four significant digits: as many decimals as give the largest number four, less the zeros in
    which all end. Where that would leave the smallest one without two, all have three significant digits instead.
    Those that are not finite have no say.
    """
    given = [value for value in values if value is not None]
    if all(isinstance(value, numbers.Integral) for value in given):
        return lambda value: f"{value:,}"
    finite = [value for value in given if math.isfinite(value)]
    sizes = [math.floor(math.log10(abs(_rounded(value, 4)))) for value in finite if value]
    decimals = max(0, 3 - max(sizes)) if sizes else 0
    if sizes and (decimals > 6 or decimals < 1 - min(sizes)):
        return _significant
    written = [f"{value:.{decimals}f}" for value in finite]
    while decimals and all(text.endswith("0") for text in written):
        decimals, written = decimals - 1, [text[:-1] for text in written]
    # Rounded once: to digits where there are no decimals, else to these.
    return lambda value: f"{value if decimals else _rounded(value, 4):,.{decimals}f}"


def _significant(value: Any) -> str:
    value = _rounded(value, 3)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def _rounded(value: Any, digits: int) -> float:
    return float(f"{float(value):.{digits}g}")


def _text(value: Any) -> str:
    """A value of a column that is not of numbers alone."""
    return f"{value:.4g}" if _is_number(value) and not isinstance(value, numbers.Integral) else str(value)


def _clean(value: Any) -> str:
    # Lone surrogates cannot be encoded, and control characters are not HTML.
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def _escape(value: Any) -> str:
    return html.escape(_clean(value), quote=True)


def _anchor(title: str) -> str:
    return "part-" + re.sub(r"[^a-z0-9]+", "-", title.lower())[:60].strip("-")
