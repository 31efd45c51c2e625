"""A user's images with a CSV, in a folder or a zip: data for every model that takes attributes.

    mydata/attributes.csv     file,smiling,red_car,split
                              a.jpg,1,0,train
                              holiday/b.png,0,1,validation
    mydata/a.jpg
    mydata/holiday/b.png

The first line names the columns: `file`, relative to the folder of the CSV and with forward slashes; attributes,
0 or 1; and, if the splits are to be fixed, `split`: train, validation or calibration. Otherwise the images are
split at random. Where no attribute of an image is known, all of its cells are empty, "?" or "nan": models of several
modalities take it, others need the attributes of every image. The order of rows and columns does not matter, and
columns that are not used may hold anything.
Commas, semicolons or tabs separate; the text is UTF-8. What spreadsheets and pandas add means nothing, see `delimited`.
Images are JPEG, PNG or WebP of any size: their central square is used.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import posixpath
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mvae_jax.data import captions, decode, source
from mvae_jax.data.archive import DEPTH, Archive, DefectError, checksum, leads_outside, only, open_archive, read_text
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import delimited, images, listing
from mvae_jax.data.formats.images import SPLITS
from mvae_jax.data.names import normal

CSV = "attributes.csv"

GAPS = ("", "?", "nan")  # cells of what is not known, in lower case

_SHOWN = 2000  # characters of a list of names in a message


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choice of images and attributes.

    Attributes:
        image_size: height and width to which the central squares are resized (Lanczos), in pixels.
        attributes: names in the order of the attribute vector; None for all columns of the CSV.
        validation_fraction: without a column `split`: part of the images, calibration images aside, that is kept
            for validation, in (0, 1).
        calibration_size: without a column `split`: images, neither trained on nor validated on, from which
            thresholds are calibrated. With the column it says only whether there must be any.
        seed: of the random split; not negative.
        csv: name of the CSV in the folder.
        missing_attributes: whether images may have no attributes.
        empty_splits: whether the column `split` may name no image of a split.
    """

    image_size: int = 64
    attributes: tuple[str, ...] | None = None
    validation_fraction: float = 0.1
    calibration_size: int = 500
    seed: int = 42
    csv: str = CSV
    missing_attributes: bool = False
    empty_splits: bool = False

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}, expected a number of pixels such as 64.")
        listing.check_chosen(self.attributes)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}, expected a part between 0 and 1.")
        if self.calibration_size < 0 or self.seed < 0:
            raise ValueError(
                f"calibration_size is {self.calibration_size} and seed {self.seed}, expected neither to be negative."
            )
        if not self.csv or leads_outside(self.csv):
            raise ValueError(f"csv is {self.csv!r}, expected the name of a file in the folder, such as {CSV!r}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The CSV, sorted by file.

    Attributes:
        files: N names relative to the folder.
        names: the A attributes.
        attributes: bool [N, A].
        present: bool [N], whether attributes of an image are known; where not, its row of `attributes` is False.
        splits: N of `SPLITS`; None without that column.
        lines: int32 [N], the line of each file; that of the header is 1.
    """

    files: tuple[str, ...]
    names: tuple[str, ...]
    attributes: np.ndarray
    present: np.ndarray
    splits: tuple[str, ...] | None
    lines: np.ndarray


def load(
    path: str | Path,
    settings: Settings | None = None,
    *,
    cache_folder: str | Path | None = None,
    workers: int | None = None,
) -> Splits:
    """Loads the data set; images are decoded once and then come from a cache, see `images.squares`.

    Args:
        path: the folder that holds the CSV, the folder that contains only that one, or a zip of either.
        settings: which images and attributes; None for the defaults.
        cache_folder: where decoded images are kept; None for the user's cache folder.
        workers: threads that decode; None for one per core.

    Returns:
        The three splits; "index" is the line of the CSV, and "present/attributes" is there where some images have no
        attributes. Their provenance holds path, checksum, the number of images
        in each split, how many were cropped or enlarged, and the size of the files.

    Raises:
        FileNotFoundError: the path, the CSV or an image is missing.
        ValueError: the CSV or an image is damaged, an attribute is unknown or cannot be said in a caption, or there
            are too few images.
    """
    settings = settings or Settings()
    with open_archive(path) as outer:
        archive = _part_of(outer, settings.csv)
        text, where = read_text(archive, settings.csv), archive.where(settings.csv)
        table = parse(text, settings.attributes, where, missing=settings.missing_attributes)
        missing = list(_missing(archive, table, where))
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(table.files)} images are missing. {missing[0]} "
                f"{archive.remark or 'Put them there, or remove their lines.'}"
            )
        order, sizes, choice, how = _split(table, settings, where)
        decoded = images.squares(archive, table.files, settings.image_size, cache_folder=cache_folder, workers=workers)
    provenance = {
        "data_set": Config.kind,
        "path": str(path),
        "csv": settings.csv,
        "checksum": checksum(decoded.checksum, text, table.names, *choice),
        "counts": {"listed": len(table.files), **dict(zip(SPLITS, sizes, strict=True))},
        "split": how,
        **decoded.provenance,
    }
    arrays = {
        "image": decoded.images[order],
        "attributes": table.attributes[order].astype(np.float32),
        "index": table.lines[order],
    }
    if not table.present.all():
        arrays["present/attributes"] = table.present[order].astype(np.float32)
        provenance["without_attributes"] = int((~table.present).sum())
    return Splits.cut(arrays, sizes[0], sizes[1], table.names, provenance)


def defects(path: str | Path, settings: Settings | None = None, *, workers: int | None = None) -> Iterator[str]:
    """Reads the CSV and every image that it lists, and yields what is wrong with them.

    Args:
        path: as for `load`.
        settings: which CSV and attributes; None for the defaults.
        workers: threads that decode; None for one per core.

    Raises:
        FileNotFoundError: there is no CSV at the path.
        ValueError: the file is no zip, or damaged as a whole.
    """
    settings = settings or Settings()
    with open_archive(path) as outer:
        archive = _part_of(outer, settings.csv)
        where = archive.where(settings.csv)
        try:
            table = parse(read_text(archive, settings.csv), settings.attributes, where, missing=True)
        except ValueError as error:
            yield from DefectError.sentences(error)
            return
        present = [file for file in table.files if archive.has(file)]
        yield from _missing(archive, table, where)
        if archive.remark and len(present) < len(table.files):
            yield archive.remark
        yield from decode.defects(archive, present, lambda image: decode.square(image, 1), workers=workers)


def parse(text: str, attributes: Sequence[str] | None = None, where: str = CSV, *, missing: bool = False) -> Table:
    """Reads the CSV.

    Args:
        text: its contents.
        attributes: the columns to read, in their order; None for all but `file` and `split`.
        where: how messages name it.
        missing: whether images may have no attributes.

    Returns:
        One row per image.

    Raises:
        ValueError: the CSV is malformed; names line, value and remedy. `DefectError` if rows are malformed.
    """
    problems: list[str] = []
    first, header, lines = delimited.table(text, where, problems, blanks=False)
    names = _columns(header, attributes, where, f"{where}, line {first}")
    # By file: its line, its split, a byte for each attribute, and whether they are known.
    rows: dict[str, tuple[int, str, bytes, bool]] = {}
    for line, cells in lines:
        if len(problems) >= delimited.MAX_PROBLEMS:
            break
        if len(cells) != len(header):
            problems.append(
                f"{where}, line {line} has {len(cells)} values, expected {len(header)}, one for each of "
                f"{_listed(header)}."
            )
            continue
        values = dict(zip(header, cells, strict=True))
        known = not all(values[name].lower() in GAPS for name in names)
        problems += (f"{where}, line {line} {problem}" for problem in _problems(values, names, missing, known))
        file = normal(posixpath.normpath(values["file"]))
        row = line, sys.intern(values.get("split", "")), bytes(values[name] == "1" for name in names), known
        earlier, *_ = rows.setdefault(file, row)
        if earlier != line:
            problems.append(f"{where}, line {line} repeats the file {file!r} of line {earlier}: remove one of them.")
    if problems:
        raise DefectError(problems)
    if not rows:
        raise ValueError(f"{where} lists no images, expected a line for each below the names of the columns.")
    if not any(known for *_, known in rows.values()):
        raise ValueError(f"{where} has attributes of no image, expected 0 and 1 in at least one line.")
    files = sorted(rows)
    return Table(
        files=tuple(files),
        names=names,
        attributes=np.frombuffer(b"".join(rows[file][2] for file in files), bool).reshape(len(files), -1),
        present=np.array([rows[file][3] for file in files]),
        splits=tuple(rows[file][1] for file in files) if "split" in header else None,
        lines=np.array([rows[file][0] for file in files], np.int32),
    )


def _part_of(outer: Archive, name: str) -> Archive:
    there = sorted(file for file in outer.files("") if file.lower().endswith(".csv"))
    expected = (
        f"does not hold your images with a CSV: there is no file {name} in it or in one folder in it, to list them."
        + (f" If {' or '.join(there)} does, name it as csv." if there else "")
    )
    return only(outer, lambda place: place.has(name), expected)


def _columns(header: list[str], attributes: Sequence[str] | None, where: str, line: str) -> tuple[str, ...]:
    """Checks the names of the columns; returns the attributes."""
    if "file" not in header:
        raise ValueError(
            f"{line} names {f'the columns {_listed(map(repr, header))}' if header else 'no columns'}, expected 'file' "
            "among them, then the attributes, such as 'file,smiling,red_car'."
        )
    repeated = sorted(name for name, count in collections.Counter(header).items() if count > 1)
    if repeated:
        raise ValueError(f"{line} names {_listed(map(repr, repeated))} twice: remove one of the columns.")
    there = [name for name in header if name not in ("file", "split")]
    for name in attributes or ():
        if name not in there:
            close = difflib.get_close_matches(name, there)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            raise ValueError(
                f"{where} has no attribute {name!r}: {hint}It has {_listed(map(repr, there))}; name some of them as "
                "attributes."
            )
    names = tuple(there if attributes is None else attributes)
    if not names:
        raise ValueError(f"{line} names no attribute, expected one such as in 'file,smiling,red_car'.")
    try:
        captions.check_names(names)
    except ValueError as error:
        raise ValueError(f"{line}: {error}") from None
    return names


def _listed(names: Iterable[str]) -> str:
    """Names with commas between, as many as can be read."""
    return textwrap.shorten(", ".join(names), _SHOWN, placeholder=" ...")


def _problems(values: dict[str, str], names: Sequence[str], missing: bool, known: bool) -> Iterator[str]:
    """Yields what is wrong with a row, of which attributes may be missing, as words that go on from "line 7"."""
    file = values["file"]
    if not file:
        yield "names no file: give the path of an image, or remove the line."
    elif leads_outside(file):
        yield (
            f"names the file {file!r}, which leads outside the folder: expected a path relative to the folder, with "
            "forward slashes."
        )
    if not known and not missing:
        yield (
            "has no attributes, and this model needs those of every image: fill them in, remove the line, or train a "
            "multimodal VAE to which they may be missing."
        )
    for name in names if known else ():
        if values[name] not in ("0", "1"):
            gap = values[name].lower() in GAPS
            remedy = ": fill it in, or empty all attributes of the line" if gap else ""
            yield f"has {values[name]!r} for {name!r}, expected 1 if the image has the attribute and 0 if not{remedy}."
    if values.get("split", "train") not in SPLITS:
        yield f"has the split {values['split']!r}, expected {', '.join(SPLITS[:-1])} or {SPLITS[-1]}."


def _missing(archive: Archive, table: Table, where: str) -> Iterator[str]:
    for file, line in zip(table.files, table.lines.tolist(), strict=True):
        if not archive.has(file):
            yield f"There is no file {archive.where(file)}, which {where}, line {line} names."


def _split(table: Table, settings: Settings, where: str) -> tuple[np.ndarray, list[int], tuple[float, ...], str]:
    """Rows of the table, split after split; the splits' sizes, the settings on which they depend, and how, in words."""
    count = len(table.files)
    if table.splits is not None:
        chosen = [[row for row in range(count) if table.splits[row] == name] for name in SPLITS]
        for name, rows in zip(SPLITS, chosen, strict=True):
            may_be_empty = settings.empty_splits or (name == "calibration" and not settings.calibration_size)
            if not rows and not may_be_empty:
                raise ValueError(
                    f"{where} has no image whose split is {name!r}, expected at least one: give some this split, or "
                    "leave the column out."
                )
        sizes, how = list(map(len, chosen)), "as the column split says"
        images.log_sizes(where, sizes, how)
        return np.concatenate(chosen).astype(np.int64), sizes, (), how
    choice = settings.validation_fraction, settings.calibration_size, settings.seed
    order, sizes, how = images.random_split(count, *choice, where)
    return order, sizes, choice, how


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config(source.Cached, source.Split):
    """A user's images with a CSV, of which all are used.

    Attributes:
        source: the folder, or a zip.
        validation_fraction: without a column "split": part of the images, calibration images aside, that is only
            validated on.
        calibration_size: without a column "split": further images, from which the threshold of the consistency check is
            taken.
        csv: name of the CSV, with columns "file", attributes (0 or 1, or all empty where they are not known) and, if
            wanted, "split".
    """

    kind: str = dataclasses.field(init=False, default="images with a CSV")
    csv: str = CSV

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings(source.Request())  # raises what is wrong with the fraction and the name

    def settings(self, request: source.Request) -> Settings:
        """Returns the loader's settings."""
        return Settings(
            image_size=request.side(self.kind),
            attributes=request.attributes,
            validation_fraction=self.validation_fraction,
            calibration_size=self.calibration_size,
            seed=self.seed,
            csv=self.csv,
            missing_attributes=request.missing_attributes,
            empty_splits=request.empty_splits,
        )


def _load(config: Config, request: source.Request) -> Splits:
    return load(config.source, config.settings(request), cache_folder=config.cache_folder or None)


def _verify(config: Config, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
    return defects(config.source, config.settings(source.Request(attributes=attributes)))


def _remarks(config: Config, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
    with open_archive(config.source) as outer:
        archive = _part_of(outer, config.csv)
        where = archive.where(config.csv)
        table = parse(read_text(archive, config.csv), attributes, where, missing=True)
    lines = table.lines[~table.present]
    if len(lines):
        yield (
            f"{len(lines)} of {len(table.files)} images have no attributes in {where}, the first in line "
            f"{lines.min()}: multimodal VAEs take them, models that need all attributes refuse them."
        )


SOURCE = source.Source(
    Config,
    _load,
    _verify,
    _remarks,
    holds=lambda place, csv: place.has(csv),
    depth=DEPTH,
    looked_for="your own images, {csv} (the setting csv gives another name)",
    named_by_path=True,
)
