"""Annotation files with one row per image, as CelebA and its relatives have them, and the splits of their images."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from mvae_jax.data.archive import Archive, checksum
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import delimited


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Attributes of N images.

    Attributes:
        index: int32 [N], the numbers of the images.
        names: the attributes.
        attributes: bool [N, len(names)].
    """

    index: np.ndarray
    names: tuple[str, ...]
    attributes: np.ndarray

    @property
    def further(self) -> Mapping[str, np.ndarray]:
        """Further arrays of the splits, besides attributes and index, name -> [N]."""
        return {}

    def column(self, name: str) -> np.ndarray:
        """Returns which images have an attribute, bool [N]; `female`, where it is not annotated, is not `male`."""
        if name == "female" and "male" in self.names and "female" not in self.names:
            return ~self.column("male")
        if name not in self.names:
            known = (*self.names, "female") if "male" in self.names else self.names
            close = difflib.get_close_matches(name, known) or known
            raise ValueError(f"Unknown attribute {name!r}: did you mean {' or '.join(map(repr, close))}?")
        return self.attributes[:, self.names.index(name)]

    def vectors(self, names: tuple[str, ...]) -> np.ndarray:
        """Returns the attribute vectors of all images, bool [N, len(names)]."""
        return np.stack([self.column(name) for name in names], axis=1)


_COUNT = re.compile(r"[0-9]{1,9}")
AnyTable = TypeVar("AnyTable", bound=Table)


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """Rows of the table for each split, int [n], and how many images each stage left."""

    train: np.ndarray
    validation: np.ndarray
    calibration: np.ndarray
    counts: Mapping[str, int]

    @property
    def rows(self) -> np.ndarray:
        """Rows of all splits, one after the other."""
        return np.concatenate([self.train, self.validation, self.calibration])


@dataclasses.dataclass(frozen=True, eq=False)
class Published(Generic[AnyTable]):
    """The published files, open for reading.

    Attributes:
        archive: the images.
        table: the annotations; every image in it is there, though it may be damaged.
        texts: contents of the annotation files by name.
        image_file: the name in `archive` of the image of a number.
    """

    archive: Archive
    table: AnyTable
    texts: Mapping[str, str]
    image_file: Callable[[int], str]

    @property
    def annotations_checksum(self) -> str:
        """Checksum of the annotation files."""
        return checksum(self.texts)

    def files(self, rows: np.ndarray) -> list[str]:
        """Returns the names of the images in some rows."""
        return [self.image_file(index) for index in self.table.index[rows].tolist()]

    def fingerprints(self, rows: np.ndarray) -> list[tuple[str, str]]:
        """Returns name and fingerprint of the images in some rows, unread."""
        return [(file, self.archive.fingerprint(file)) for file in self.files(rows)]

    def checksum(self, rows: np.ndarray, *further: Any) -> str:
        """Returns a checksum of the annotations, of the images in some rows, unread, and of further values."""
        return checksum(self.texts, self.fingerprints(rows), *further)


def assemble(
    table: Table,
    selection: Selection,
    images: np.ndarray,
    attributes: tuple[str, ...] | None,
    provenance: Mapping[str, Any],
    further: Mapping[str, np.ndarray] | None = None,
) -> Splits:
    """Puts the splits together.

    Args:
        table: the annotations.
        selection: rows of the table.
        images: the images of these rows, in their order, uint8 [n, H, W, 3].
        attributes: names in the order of the attribute vector; None for all of the table.
        provenance: where they came from.
        further: arrays besides those of the table, name -> [N, ...], of its rows.
    """
    rows, names = selection.rows, attributes or table.names
    arrays = {
        "image": images,
        "attributes": table.vectors(names)[rows].astype(np.float32),
        "index": table.index[rows],
        **{name: column[rows] for name, column in {**table.further, **(further or {})}.items()},
    }
    return Splits.cut(arrays, len(selection.train), len(selection.validation), names, provenance)


def check_chosen(attributes: Sequence[str] | None) -> None:
    """Raises ValueError if no attribute is chosen, or one twice; None is a choice of all."""
    if attributes is not None and (not attributes or len(set(attributes)) < len(attributes)):
        raise ValueError(f"attributes are {attributes}, expected at least one name and each name once.")


# --- reading -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """The line of a file, counted from 1, and what follows the image in it."""

    line: int
    text: str

    @property
    def values(self) -> list[str]:
        """The values, separated by blanks."""
        return self.text.split()


def parse_rows(
    lines: Iterable[tuple[int, list[str]]],
    width: int,
    file: str,
    problems: list[str],
    *,
    pattern: re.Pattern[str],
    example: str,
) -> dict[int, Row]:
    """Reads a row "IMAGE value ..." per image.

    Args:
        lines: the rows as `delimited` reads them.
        width: values in each row.
        file: how messages name the file.
        problems: what is wrong with rows is added here, and the rows are left out.
        pattern: what an image is called; its first group is the image's number.
        example: of such a name, for messages.
    """
    rows: dict[int, Row] = {}
    for number, cells in lines:
        if len(problems) >= delimited.MAX_PROBLEMS:
            break
        image, *rest = cells or [""]
        row = Row(number, " ".join(rest))
        match = pattern.fullmatch(image)
        if not match:
            problems.append(f"{file}, line {number} begins with {image!r}, expected an image such as {example!r}.")
        elif len(row.values) != width:
            problems.append(f"{file}, line {number} ({image}) has {len(row.values)} values, expected {width}.")
        elif int(match[1]) in rows:
            repeated = rows[int(match[1])].line
            problems.append(f"{file}, line {number} repeats {image} of line {repeated}: remove one of them.")
        else:
            rows[int(match[1])] = row
    return rows


def parse_counted(
    text: str, file: str, problems: list[str], *, pattern: re.Pattern[str], example: str
) -> tuple[list[str], dict[int, Row]]:
    """Reads a line with the count, one with the names of the columns, and a row per image; see `parse_rows`.

    Raises:
        ValueError: there is no count, or a name is there twice.
    """
    lines = delimited.rows(text, file)
    (_, count), (_, columns) = next(lines, (1, [])), next(lines, (2, []))
    if not (columns and len(count) == 1 and _COUNT.fullmatch(count[0])):
        raise ValueError(
            f"{file}, line 1 is {' '.join(count)[:40]!r}, expected the number of images, then a line of names and a "
            "row per image: fetch the file again."
        )
    check_columns(columns, f"{file}, line 2")
    before = len(problems)
    rows = parse_rows(lines, len(columns), file, problems, pattern=pattern, example=example)
    following = len(rows) + len(problems) - before
    if int(count[0]) != following and len(problems) < delimited.MAX_PROBLEMS:  # else there may be more rows
        problems.insert(
            before,
            f"{file}, line 1 announces {int(count[0])} images, but {following} rows follow: fetch the file again, or "
            "correct the count.",
        )
    return columns, rows


def check_columns(columns: list[str], where: str) -> None:
    """Raises ValueError if there is no column, or if two have one name."""
    if not columns:
        raise ValueError(f"{where} names no attributes, expected a name for each column.")
    if len({column.lower() for column in columns}) < len(columns):
        raise ValueError(f"{where} has a name twice, expected the names of the columns.")


def unmatched(rows: Mapping[int, Row], file: str, others: Mapping[int, Row], other_file: str, name: str) -> list[str]:
    """Returns a sentence if one file has rows for images that another lacks; `name` formats the number of an image."""
    alone = sorted(rows.keys() - others.keys())
    if not alone:
        return []
    return [
        f"Rows of {file} without a counterpart in {other_file}: {len(alone)}, the first for {name.format(alone[0])} "
        f"in line {rows[alone[0]].line}. Both files must list the same images."
    ]


def describe_missing(missing: Sequence[str], total: int, where: str) -> str:
    """Returns how many of the images are missing from where, and names the first three, as a sentence."""
    more = f" and {len(missing) - 3} more" if missing[3:] else ""
    return f"{len(missing)} of {total} images are missing from {where}: {', '.join(missing[:3])}{more}."


def sign_problems(rows: Mapping[int, Row], file: str) -> Iterator[str]:
    """Yields sentences about values of attributes that are not possible."""
    for row in rows.values():
        strange = set(row.values) - {"-1", "1"}
        if strange:
            yield f"{file}, line {row.line} has the value {min(strange)!r}, expected -1 or 1."
