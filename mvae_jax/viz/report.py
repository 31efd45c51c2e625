"""One HTML file that tells what a run did: it needs no network and no other file.

A page is a list of parts: plain strings are paragraphs, the functions here make headings, tables and figures. Every
text is escaped on its way in.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
import numbers
import os
import pathlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from PIL import Image

from mvae_jax import files

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --faint: #6b6b70; --paper: #ffffff; --panel: #f3f3f5;
  --line: #d8d8dc; --warn: #8a5a00; --warn-panel: #fff4d9; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececee; --faint: #a0a0a8; --paper: #17171a; --panel: #232327;
  --line: #3a3a40; --warn: #f2c56b; --warn-panel: #3a2e14; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .75rem; }
h1 { margin-top: .5rem; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
figure { margin: 1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
figcaption { color: var(--faint); padding: .25rem 0; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  max-width: min(32rem, 65vw); overflow-wrap: break-word; }
:is(th, td):first-child { min-width: 6rem; }
.number { text-align: right; white-space: nowrap; }
pre { background: var(--panel); padding: .75rem; border-radius: .4rem; white-space: pre-wrap; }
.note { background: var(--warn-panel); color: var(--warn); border-left: 4px solid var(--warn); padding: .6rem .9rem;
  margin: 1rem 0; border-radius: .2rem; }
img { display: block; max-width: 100%; height: auto; border-radius: .3rem; }
summary { cursor: pointer; color: var(--faint); }
""".strip()

_PHONE, _DESKTOP = 360, 1000  # pixels that a wide picture has at least and at most before it scrolls
_PACKAGES = ("mvae-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a page.

    Attributes:
        html: markup in which every text is escaped already.
    """

    html: str


def heading(text: str) -> Part:
    """The heading of a section."""
    return Part(f"<h2>{_escape(text)}</h2>")


def subheading(text: str) -> Part:
    """A heading within a section."""
    return Part(f"<h3>{_escape(text)}</h3>")


def note(text: str) -> Part:
    """Something the reader must know, such as a loss term that was off because its weights were not given."""
    return Part(f'<p class="note" role="note">{_escape(text)}</p>')


def code(text: str) -> Part:
    """Text as it was typed, such as the command line."""
    return Part(f"<pre><code>{_escape(text)}</code></pre>")


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> Part:
    """A table of results.

    Args:
        rows: column -> value, one mapping per row. Columns are those of all rows, in order of appearance; a value
            that is missing or None shows as a dash. The numbers of a column have one format, see `_format_of`.
        caption: text above the table.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {c for c in columns if all(_is_number(row.get(c)) or row.get(c) is None for row in rows)}
    classes = {column: ' class="number"' if column in numeric else "" for column in columns}
    formats = {c: _format_of([row.get(c) for row in rows]) if c in numeric else None for c in columns}
    head = "".join(f'<th scope="col"{classes[c]}>{_escape(c)}</th>' for c in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{classes[c]}>{_escape(_written(row.get(c), formats[c]))}</td>" for c in columns)
        + "</tr>\n"
        for row in rows
    )
    return _scrolling_table(f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>", caption)


def values(mapping: Mapping[str, Any], caption: str = "") -> Part:
    """Names and their values, exact: a config, seeds, versions.

    Args:
        mapping: name -> value; names within nested mappings are joined by dots.
        caption: text above the table.
    """
    body = "".join(
        f'<tr><th scope="row">{_escape(name)}</th><td>{_escape(value)}</td></tr>\n' for name, value in _flat(mapping)
    )
    return _scrolling_table(f"<tbody>\n{body}</tbody>", caption)


def figure(picture: Image.Image | bytes | str | os.PathLike[str], caption: str = "") -> Part:
    """A picture, embedded.

    On a narrow screen a wide sheet shrinks to two thirds, so that its text stays legible, and scrolls.

    Args:
        picture: an image, the bytes of a PNG or GIF, or the path of one.
        caption: text beneath, which also describes the picture to those who cannot see it.

    Raises:
        ValueError: the bytes, or those of the file, are neither a PNG nor a GIF.
    """
    data = _encoded(picture)
    with Image.open(io.BytesIO(data)) as opened:
        (width, height), kind = opened.size, str(opened.format).lower()
    narrowest = min(width, max(_PHONE, min(2 * width // 3, _DESKTOP)))
    text = _escape(caption)
    return Part(
        f'<figure><div class="scroll" tabindex="0"><img alt="{text}" width="{width}" height="{height}" '
        f'style="min-width: {narrowest}px" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
        f"</div>{f'<figcaption>{text}</figcaption>' if text else ''}</figure>"
    )


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
        HTML that loads nothing: a content security policy within forbids it.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{_escape(title)}</h1>\n{_join(parts)}\n</main>\n</body>\n</html>\n"
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
    figures: Mapping[str, tuple[str, Image.Image | bytes]], folder: pathlib.Path
) -> dict[str, pathlib.Path]:
    """Writes pictures, as PNG, and the bytes of animations, as GIF.

    Args:
        figures: name of the file without its ending -> (caption, picture or animation).
        folder: where to, made if it is not there.

    Returns:
        {caption: file}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, (caption, picture) in figures.items():
        paths[caption] = folder / f"{name}.{'gif' if isinstance(picture, bytes) else 'png'}"
        files.atomic_write(paths[caption], _encoded(picture))
    return paths


def _join(parts: Iterable[Part | str]) -> str:
    return "\n".join(f"<p>{_escape(part)}</p>" if isinstance(part, str) else part.html for part in parts)


def _scrolling_table(rows: str, caption: str) -> Part:
    # Above the box that scrolls: a caption of the table itself would be as narrow, or as wide, as the table.
    title = f"<figcaption>{_escape(caption)}</figcaption>\n" if caption else ""
    return Part(f'<figure>{title}<div class="scroll" tabindex="0"><table>\n{rows}\n</table></div></figure>')


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)  # NumPy's scalars too


def _format_of(values: Iterable[Any]) -> str | None:
    """The format of a column of numbers, None for integers, which are exact.

    As many decimals as give the largest number four significant digits, and the smallest two, less the zeros in which
    all end; with an exponent where that is more than six decimals. Those that are not finite have no say.
    """
    given = [value for value in values if value is not None]
    if all(isinstance(value, numbers.Integral) for value in given):
        return None
    sizes = [math.floor(math.log10(abs(value))) for value in given if value and math.isfinite(value)]
    decimals = max(0, 3 - max(sizes), 1 - min(sizes)) if sizes else 0
    if decimals > 6:
        return ".3e"
    written = [f"{value:.{decimals}f}" for value in given if math.isfinite(value)]
    while decimals and all(text.endswith("0") for text in written):
        decimals, written = decimals - 1, [text[:-1] for text in written]
    return f".{decimals}f"


def _written(value: Any, form: str | None) -> Any:
    if value is None:
        return "–"
    if form:
        return format(float(value), form)
    return f"{value:.4g}" if _is_number(value) and not isinstance(value, numbers.Integral) else value


def _escape(value: Any) -> str:
    # Lone surrogates cannot be encoded, and control characters are not HTML.
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else " " for c in text), quote=True)


def _encoded(picture: Image.Image | bytes | str | os.PathLike[str]) -> bytes:
    if isinstance(picture, Image.Image):
        return encoded(picture)
    data = picture if isinstance(picture, bytes) else pathlib.Path(picture).read_bytes()
    if not data.startswith((b"\x89PNG\r\n\x1a\n", b"GIF8")):
        name = "the bytes" if isinstance(picture, bytes) else os.fspath(picture)
        raise ValueError(f"{name} begins with {data[:8]!r}, expected a PNG or a GIF; save the picture as one.")
    return data
