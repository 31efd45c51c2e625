"""Rows of the text files that list images, whoever has saved them: the published ones, Excel's and those of pandas.

Commas, semicolons or tabs separate, else blanks; texts may be quoted; lines end as on any system. What spreadsheets add
means nothing: a line "sep=;", empty lines, empty columns at the end, and columns of row numbers, which have no name.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

MAX_ROWS = 2**21
MAX_COLUMNS = 2**12
MAX_CELL = 2**14  # characters
MAX_PROBLEMS = 1000  # sentences about one file: more would not be read, and of a file of another kind there is no end

_SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t])"?\s*')
_NAMELESS = re.compile(r"(Unnamed: [0-9.]+)?")  # so pandas names them, when such a file is read and saved again


def separator(text: str) -> str:
    """Returns what separates the cells by the first line that is not blank; "" for blanks."""
    line = next((line for line in io.StringIO(text) if line.strip()), "")
    stated = _SEPARATOR_LINE.fullmatch(line)
    mark = stated[1] if stated else max(_SEPARATORS, key=line.count)
    return mark if mark in line else ""


def rows(text: str, where: str, *, blanks: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of every line that is not blank, and its cells; of a row with line breaks, its last line.

    Args:
        text: contents of the file.
        where: how messages name it.
        blanks: whether blanks separate where nothing else does; otherwise there is one column.

    Raises:
        ValueError: there is a stray quote, or more rows or columns than any list of images has.
    """
    mark = separator(text) or ("" if blanks else ",")
    lines = io.StringIO(text, newline="")
    cells_of = csv.reader(lines, delimiter=mark, strict=True) if mark else map(str.split, lines)
    count = 0
    try:
        for number, cells in enumerate(cells_of, start=1):
            number = cells_of.line_num if mark else number  # type: ignore[union-attr]
            if not any(map(str.strip, cells)) or (number == 1 and _SEPARATOR_LINE.fullmatch(mark.join(cells))):
                continue
            count += 1
            if count > MAX_ROWS or len(cells) > MAX_COLUMNS:
                raise ValueError(
                    f"{where}, line {number} is row {count} and has {len(cells)} cells, expected at most {MAX_ROWS} "
                    f"rows of {MAX_COLUMNS}: it is no list of images."
                )
            longest = max(map(len, cells))
            if longest > MAX_CELL:
                raise ValueError(
                    f"{where}, line {number} has a cell of {longest} characters, expected at most {MAX_CELL}: look "
                    "for a stray quote there or above."
                )
            yield number, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise ValueError(
            f"{where}, line {cells_of.line_num} is malformed ({error}): look for a stray quote there or above."  # type: ignore[union-attr]
        ) from error


def table(
    text: str, where: str, problems: list[str], *, blanks: bool = True
) -> tuple[int, list[str], Iterator[tuple[int, list[str]]]]:
    """Reads a file whose first row names the columns.

    Args:
        text: contents of the file.
        where: how messages name it.
        problems: sentences about columns without a name that hold anything but row numbers are added here.
        blanks: as for `rows`.

    Returns:
        The line of the names, the names, and the rows of these columns, as `rows` yields them; a row may have more or
        fewer cells than there are names.

    Raises:
        ValueError: as for `rows`.
    """
    found = rows(text, where, blanks=blanks)
    line, header = next(found, (1, []))
    named = [place for place, name in enumerate(header) if not _NAMELESS.fullmatch(name)]
    nameless = sorted({*range(len(header))} - {*named}) if named else []

    def kept() -> Iterator[tuple[int, list[str]]]:
        for number, cells in found:
            while len(cells) > len(header) and not cells[-1]:
                cells.pop()
            if nameless:
                problems.extend(
                    f"{where}, line {number} has {cells[place]!r} in column {place + 1}, which has no name in the "
                    "first line: name it there, or remove the column."
                    for place in nameless
                    if place < len(cells) and cells[place] and (place > named[0] or not cells[place].isdecimal())
                )
                cells = [cells[place] for place in named if place < len(cells)] + cells[len(header) :]
            yield number, cells

    return line, [header[place] for place in named], kept()
