"""A look at a data set before a model sees it: is every file whole, what is in it, what do captions say?

    mvae-jax data verify mydata/
    mvae-jax data statistics CelebAMask-HQ.zip
    mvae-jax data preview mydata.zip -o sheet.png
    mvae-jax data catalogue CelebAMask-HQ.zip ~/tensorflow_datasets
    mvae-jax data pyramid images1024x1024/ ffhq/ --recipe=ffhq
    mvae-jax data cache --clear

SOURCE is what --config.data.source of an experiment takes: "rendered"; CelebAMask-HQ or CelebA, its folder, a zip or
what `catalogue` has prepared; CUB-200-2011, its folder or a zip; MNIST, the "digits" of scikit-learn, or "five_views"
of either (--digits); "shapes" or "faces"; or your own images, a folder or a zip, alone or with a CSV of attributes. A
tar, also a compressed one, is read like a zip:

    mydata/attributes.csv     file,smiling,red_car,split
                              a.jpg,1,0,train
                              holiday/b.png,0,1,validation

`pyramid` takes any folder or zip of JPEG, PNG or WebP images, and `verify` what it has made. Images of files are
decoded once and kept; `cache` says how much that takes, and where.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mvae_jax import exits
from mvae_jax.commands import _pictures
from mvae_jax.commands._parser import Parser, output_folder
from mvae_jax.data import captions, decode, pyramid, sources
from mvae_jax.data.batches import Split, Splits
from mvae_jax.data.formats import catalogue, celeba, folder
from mvae_jax.data.source import Request
from mvae_jax.fields import meanings
from mvae_jax.terminal import echo, start_logging
from mvae_jax.viz import grids

NOTABLE = 8  # most pairs of attributes that `statistics` names


# --- verify --------------------------------------------------------------------------------------------------------


def verify(arguments: argparse.Namespace) -> int:
    """Prints what is wrong with a data set; 1 if anything is."""
    if arguments.limit < 1:
        raise ValueError(f"limit is {arguments.limit}, expected at least 1.")
    config = _config(arguments)
    defects = itertools.islice(sources.verify(config, arguments.attributes), arguments.limit)
    count = 0
    for defect in defects:
        echo(defect)
        count += 1
    if count == arguments.limit:
        echo(f"stopped after {count}: --limit={2 * count} shows more.")
    else:
        for remark in () if count else sources.remarks(config, arguments.attributes):
            echo(remark)
        echo(f"{count or 'no'} defect{'' if count == 1 else 's'} in {arguments.source}")
    return int(count > 0)


# --- statistics ----------------------------------------------------------------------------------------------------


def statistics(arguments: argparse.Namespace) -> int:
    """Prints what is in the splits."""
    splits = _load(arguments)
    for name, value in splits.provenance.items():
        echo(f"{name}: {_in_words(value)}")
    echo("image_size: {} x {} pixels\n".format(*splits.train["image"].shape[1:3]))
    echo("\n".join(counts(splits)))
    if not splits.attributes:
        return 0
    whole = np.concatenate([_attributes(split) for _, split in splits])
    lines = [*constants(splits), *notable_pairs(whole, splits.attributes)]
    if lines:
        echo("\n" + "\n".join(lines))
    return 0


def counts(splits: Splits) -> list[str]:
    """A table: images per split, and for each attribute how many have it and what part they are."""
    gaps = ["with attributes"] if any("present/attributes" in split.arrays for _, split in splits) else []
    width = max(map(len, ("images", *gaps, *splits.attributes)))
    lines = [f"{'':{width}}" + "".join(f"{name:>18}" for name, _ in splits)]
    lines.append(f"{'images':{width}}" + "".join(f"{len(split):11}{'':7}" for _, split in splits))
    for name in gaps:
        lines.append(f"{name:{width}}" + "".join(f"{len(_attributes(split)):11}{'':7}" for _, split in splits))
    for column, name in enumerate(splits.attributes):
        cells = [_attributes(split)[:, column] for _, split in splits]
        texts = [f"{int(cell.sum()):11}" + (f" {cell.mean():6.1%}" if len(cell) else " " * 7) for cell in cells]
        lines.append(f"{name:{width}}" + "".join(texts))
    return [line.rstrip() for line in lines]


def constants(splits: Splits) -> list[str]:
    """Attributes that no, or every, image of a split has: nothing can be learnt, or scored, there."""
    lines = []
    for name, split in splits:
        for column, attribute in enumerate(splits.attributes):
            present = _attributes(split)[:, column]
            if len(present) and present.min() == present.max():
                lines.append(f"{'every' if present[0] else 'no'} image of the {name} split has {attribute}")
    return lines


def _attributes(split: Split) -> np.ndarray:
    """Attributes of those examples that have any, [N, A]."""
    return split["attributes"][split.present("attributes")]


def notable_pairs(attributes: np.ndarray, names: Sequence[str]) -> list[str]:
    """The pairs of attributes that depend on one another most, by the correlation of the two columns.

    Args:
        attributes: [N, A] in {0, 1}.
        names: the A names.

    Returns:
        At most `NOTABLE` lines, the strongest first; pairs within three standard errors of none are left out.
    """
    varying = [column for column in range(len(names)) if attributes[:, column].std() > 0]
    pairs = [
        (float(np.corrcoef(attributes[:, i], attributes[:, j])[0, 1]), i, j)
        for i, j in itertools.combinations(varying, 2)
    ]
    lines = []
    for correlation, i, j in sorted(pairs, key=lambda pair: -abs(pair[0]))[:NOTABLE]:
        if abs(correlation) * len(attributes) ** 0.5 > 3:
            one, other = attributes[:, i] > 0, attributes[:, j] > 0
            lines.append(
                f"{names[i]} and {names[j]}: correlation {correlation:+.2f}; {other[one].mean():.1%} of images with "
                f"{names[i]} have {names[j]}, {other[~one].mean():.1%} of those without"
            )
    return lines


def _in_words(value: object) -> str:
    return ", ".join(f"{name} {number}" for name, number in value.items()) if isinstance(value, dict) else str(value)


# --- preview -------------------------------------------------------------------------------------------------------


def preview(arguments: argparse.Namespace) -> int:
    """Writes a sheet of images with the captions of their attributes."""
    if arguments.count < 1:
        raise ValueError(f"count is {arguments.count}, expected at least 1.")
    splits = _load(arguments)
    split = dict(splits)[arguments.split]
    if not len(split):
        others = " or ".join(f"--split={name}" for name, other in splits if len(other))
        raise ValueError(f"the {arguments.split} split of {arguments.source} is empty, expected images: give {others}.")
    shown = split.first(arguments.count)
    numbers = shown.arrays.get("index", np.arange(len(shown)))
    rows = shown.arrays.get("attributes", np.zeros((len(shown), 0)))
    known = shown.present("attributes") & bool(splits.attributes)
    texts = [
        f"{number}: {_describe(row, splits.attributes)}" if described else str(number)
        for number, row, described in zip(numbers, rows, known, strict=True)
    ]
    pictures = {name: array for name, array in shown.arrays.items() if array.dtype == np.uint8 and array.ndim == 4}
    title = f"{arguments.source}, {arguments.split}: {len(texts)} of {len(split)} images"
    sheet = (
        grids.comparison(pictures, headings=texts, title=title)
        if len(pictures) > 1
        else grids.grid(shown["image"], texts, title=title)
    )
    _pictures.write(arguments.output, sheet)
    return 0


def _describe(row: np.ndarray, names: Sequence[str]) -> str:
    """A caption, or, where there is none for such names, as of birds, the names of what is present, the last first."""
    try:
        captions.check_names(names)
    except ValueError:
        present = [name for name, value in zip(names, row, strict=True) if value]
        return textwrap.shorten(", ".join(reversed(present)), 80)
    return captions.write(row, names)


# --- catalogue -----------------------------------------------------------------------------------------------------


def prepare(arguments: argparse.Namespace) -> int:
    """Prepares CelebAMask-HQ or CelebA for TFDS."""
    begin = time.perf_counter()
    path = catalogue.prepare(arguments.source, arguments.data_dir, arguments.image_size, arguments.crop)
    size = sum(file.stat().st_size for file in path.iterdir())
    echo(f"{path}: {size / 2**20:.0f} MiB, {time.perf_counter() - begin:.0f} s")
    echo(f"train on it with --config.data.source={arguments.data_dir}")
    return 0


# --- pyramid -------------------------------------------------------------------------------------------------------


def grow(arguments: argparse.Namespace) -> int:
    """Prepares images at every resolution."""
    begin = time.perf_counter()
    settings = pyramid.Settings(
        **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(pyramid.Settings)}
    )
    images = pyramid.prepare(arguments.source, arguments.folder, settings, most_skipped=arguments.most_skipped)
    for skipped in images.manifest["skipped"]:
        echo(f"skipped: {skipped['reason']}")
    size = sum(note["bytes"] for note in images.manifest["shards"].values())
    counts = " and ".join(f"{count} {split}" for split, count in images.counts.items())
    echo(
        f"{images.path}: {counts} images of {images.sizes[0]} to {images.sizes[-1]} pixels, {size / 2**20:.0f} MiB, "
        f"{time.perf_counter() - begin:.0f} s"
    )
    return 0


# --- cache ---------------------------------------------------------------------------------------------------------


def cache(arguments: argparse.Namespace) -> int:
    """Says how large the cache of decoded images is, and where; or empties it."""
    place = decode.default_cache_folder()
    files = decode.cache_files(place)
    size = sum(file.stat().st_size for file in files)
    if arguments.clear:
        for file in files:
            file.unlink(missing_ok=True)
    most = f"; at most {decode.CACHE_BYTES / 2**20:.0f} MiB are kept"
    echo(f"{place}: {len(files)} files, {size / 2**20:.0f} MiB{', removed' if arguments.clear else most}")
    return 0


# --- command line --------------------------------------------------------------------------------------------------


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _settings() -> dict[str, list[tuple[str, Any, str]]]:
    """The settings of all kinds of data sets but their source: {field: [(kind, default, meaning)]}."""
    fields: dict[str, list[tuple[str, Any, str]]] = {}
    for entry in sources.SOURCES.values():
        texts = meanings(entry.config)
        for field in dataclasses.fields(entry.config):
            if field.init and field.name != "source":
                fields.setdefault(field.name, []).append((entry.name, field.default, texts[field.name]))
    return fields


def _explained(uses: Sequence[tuple[str, Any, str]]) -> str:
    """Help of a setting: its meaning and default, and the kinds of data sets that have it, where these differ."""
    kinds: dict[str, list[str]] = {}
    for kind, default, meaning in uses:
        shown = "" if default in ("", 0) else f" (default: {default})"
        kinds.setdefault(meaning.rstrip(".") + shown, []).append(kind)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in kinds.items()).replace("%", "%%")


def _config(arguments: argparse.Namespace) -> sources.Config:
    """The settings of the data set that the command line names; one that its kind does not have is refused."""
    given = {name: getattr(arguments, name) for name in _settings() if hasattr(arguments, name)}
    entry = sources.recognise(arguments.source, **{name: given[name] for name in ("csv",) if name in given})
    known = sources.fields_of(entry.config)
    for name in given:
        if name not in known:
            raise ValueError(
                f"--{name.replace('_', '-')} is a setting of {', '.join(sources.users_of(name))}, and "
                f"{arguments.source} is {entry.name}: leave it out."
            )
    return entry.config(source=arguments.source, **given)


def _load(arguments: argparse.Namespace) -> Splits:
    asked = arguments.image_size
    splits = sources.load(
        _config(arguments),
        image_size=Request.image_size if asked is None else asked,
        attributes=arguments.attributes,
        missing_attributes=True,
        empty_splits=True,
    )
    assert isinstance(splits, Splits)  # all others are for models that grow
    height, width = splits.train["image"].shape[1:3]
    if asked not in (None, height):
        raise ValueError(
            f"--image-size is {asked}, but images of {arguments.source} have {height} x {width} pixels and keep their "
            "size: leave it out."
        )
    return splits


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mvae-jax data", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str, source: bool = True
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        if source:
            added.add_argument("source", metavar="SOURCE", help="the data set, see the list of commands")
        return added

    def option(added: argparse.ArgumentParser, name: str, default: Any, text: str) -> None:
        text = f"{text.rstrip('.')} (default: {default})" if default else text
        added.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=text, metavar="X")

    def attributes(added: argparse.ArgumentParser) -> None:
        text = "names, separated by commas (default: all, of CelebAMask-HQ the ten of the multimodal VAE)"
        added.add_argument("--attributes", type=_names, help=text, metavar="X")

    def settings(added: argparse.ArgumentParser, *names: str) -> None:
        for name, uses in _settings().items():
            if name in names or not names:
                flag, default = f"--{name.replace('_', '-')}", uses[0][1]
                kind = _truth if isinstance(default, bool) else type(default)  # bool("false") is true
                # One that is not given keeps the default of the kind of data set.
                added.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=_explained(uses), metavar="X")

    def selection(added: argparse.ArgumentParser) -> None:
        attributes(added)
        text = f"height and width of the images in pixels (default: {Request.image_size}; digits keep their own)"
        added.add_argument("--image-size", type=int, help=text, metavar="X")
        settings(added)

    one = command("verify", verify, "Read and decode every file, and list what is wrong; status 1 if anything is.")
    option(one, "limit", 100, "defects after which to stop")
    settings(one, "csv", "digits")
    attributes(one)
    one = command("statistics", statistics, "Count images and attributes of each split; name what goes together.")
    selection(one)
    one = command("preview", preview, "Draw a sheet of images with the captions of their attributes.")
    one.add_argument(
        "-o", "--output", type=_pictures.path, required=True, help="the sheet, a .png, .jpg or .webp", metavar="X"
    )
    one.add_argument("--split", choices=folder.SPLITS, default="train", help="which split (default: train)")
    option(one, "count", 18, "images on the sheet")
    selection(one)
    one = command("catalogue", prepare, "Prepare CelebAMask-HQ or CelebA for TFDS: decoded once.")
    one.add_argument(
        "data_dir", metavar="DATA_DIR", type=output_folder, help="folder of the catalogue; made where there is none"
    )
    option(one, "image_size", 64, "height and width of the images in pixels")
    option(one, "crop", celeba.Settings.crop, f"CelebA: part of the picture, one of {', '.join(celeba.CROPS)}")
    one = command("pyramid", grow, "Prepare images at every resolution from 4 pixels on, for models that grow.")
    one.add_argument(
        "folder", metavar="FOLDER", type=output_folder, help="where to; a folder that was begun is gone on with"
    )
    option(one, "most_skipped", 0, "damaged files that may be left out (default: 0)")
    of_pyramids = meanings(pyramid.Settings)
    for field in dataclasses.fields(pyramid.Settings):
        option(one, field.name, field.default, of_pyramids[field.name])
    one = command("cache", cache, "Say how large the cache of decoded images is, and where.", source=False)
    one.add_argument("--clear", action="store_true", help="empty it; images are decoded again when they are needed")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    start_logging(logging.INFO, "%(message)s")
    for chatty in ("absl", "jax"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with exits.errors():
        return parsed.function(parsed)
