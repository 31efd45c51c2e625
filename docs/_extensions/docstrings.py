"""Docstrings as they are written here, plain text with `names` in backticks, as reStructuredText that autodoc reads.

What reStructuredText would take for markup is escaped, and indented blocks stay as they were typed.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_SPAN = re.compile(r"``.*?``|`([^`]+)`")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_SECTION = re.compile(r"\s*[A-Z][A-Za-z]*:\s*$")
_ITEM = re.compile(r"\s*[*-] ")
_COLUMNS = re.compile(r"^\S.*\S {3,}\S")  # a table typed by hand


def _escape(text: str) -> str:
    text = re.sub(r"(?<!\\)([*|\\])", r"\\\1", text)
    return re.sub(r"_(?=\W|$)", r"\\_", text)


def _span(match: re.Match[str]) -> str:
    """`a_name` stays, and may become a link; any other code is literal."""
    code = match.group(1)
    return match.group(0) if code is None or _NAME.fullmatch(code) else f"``{code}``"


def _line(line: str) -> str:
    end = match.end() if (match := _ITEM.match(line)) else 0
    parts = [line[:end]]
    for match in _SPAN.finditer(line):
        parts += [_escape(line[end : match.start()]), _span(match)]
        end = match.end()
        if line[end : end + 1].isalnum():  # `name`s: markup ends where a word ends
            parts.append("\\ ")
    return "".join([*parts, _escape(line[end:])])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def translate(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    result: list[str] = []
    last, literal = "", None  # the line before that was not blank; indentation of the literal block
    for number, line in enumerate(lines):
        if not line.strip():
            result.append("")
            continue
        columns = bool(_COLUMNS.match(line))
        if literal is not None and (_indent(line) >= literal if literal else columns):
            result.append(line if literal else f"    {line}")
        else:
            literal = None
            after_blank = not number or not lines[number - 1].strip()
            if after_blank and last and _indent(line) > _indent(last) and not _SECTION.match(last):
                literal = _indent(line)
                result += [" " * _indent(last) + "::", "", line]
            elif columns and after_blank:
                literal = 0
                result += ["::", "", f"    {line}"]
            else:
                result.append(_line(line))
        last = line
    return result


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    theirs = what == "data" and lines and (type(obj).__doc__ or "").startswith(lines[0])  # of `dict` and the like
    lines[:] = [] if theirs else translate(lines)


def _untyped(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """What a function returns has no type here: "All [B]: the error" is one sentence, which napoleon cuts in two."""
    lines[:] = [re.sub(r"^:returns: \*(.+)\* -- ", r":returns: \1: ", line) for line in lines]


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Fields of NamedTuples, which their class describes, need no entry of their own."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Comes before napoleon, which turns the sections into fields."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-process-docstring", _untyped, priority=900)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}
