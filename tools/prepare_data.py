"""Looks at a data set before a model does: is every file whole, what is in it, what do captions say?

    python tools/prepare_data.py verify mydata/
    python tools/prepare_data.py statistics CelebAMask-HQ.zip
    python tools/prepare_data.py preview mydata.zip -o sheet.png
    python tools/prepare_data.py catalogue CelebAMask-HQ.zip ~/tensorflow_datasets
    python tools/prepare_data.py pyramid images1024x1024/ ffhq/ --recipe=ffhq

SOURCE is what --config.data.source of an experiment takes: "rendered"; CelebAMask-HQ or CelebA, its folder, a zip or
what `catalogue` has prepared; CUB-200-2011, its folder or a zip; or your own images with a CSV of attributes, a folder
or a zip:

    mydata/attributes.csv     file,smiling,red_car,split
                              a.jpg,1,0,train
                              holiday/b.png,0,1,validation

`pyramid` takes any folder or zip of JPEG, PNG or WebP images besides, and `verify` what it has made.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))  # a script finds its own folder only

import datasets
import launch

from mvae_jax.data import captions, catalogue, celeba, celebamask_hq, cub, folder, origins, pyramid
from mvae_jax.data.batches import Splits
from mvae_jax.viz import grids

NOTABLE = 8  # pairs of attributes that `statistics` names


# --- verify --------------------------------------------------------------------------------------------------------


def verify(arguments: argparse.Namespace) -> int:
    """Prints what is wrong with a data set; 1 if anything is."""
    if arguments.limit < 1:
        raise ValueError(f"limit is {arguments.limit}, expected at least 1.")
    found = 0
    for defect in itertools.islice(_defects(arguments), arguments.limit):
        print(defect)
        found += 1
    if found == arguments.limit:
        print(f"stopped after {found}: --limit={2 * found} shows more.")
    else:
        print(f"{found or 'no'} defect{'' if found == 1 else 's'} in {arguments.source}")
    return 1 if found else 0


def _defects(arguments: argparse.Namespace) -> Iterator[str]:
    config = datasets.Config(source=arguments.source, csv=arguments.csv)
    kind = datasets.recognise(config)
    if kind == datasets.PYRAMID:
        return pyramid.defects(config.source)
    if kind == datasets.FOLDER:
        return folder.defects(config.source, datasets.folder_settings(config, arguments.attributes))
    if kind == datasets.CELEBAMASK_HQ:
        return celebamask_hq.defects(config.source)
    if kind == datasets.CELEBA:
        return celeba.defects(config.source)
    if kind == datasets.CUB:
        return cub.defects(config.source)
    if kind == datasets.PREPARED:
        return catalogue.defects(config.source)
    if kind == datasets.PREPARED_CELEBA:
        return catalogue.defects(config.source, catalogue.CELEBA)
    return iter(())  # rendered faces have no files


# --- statistics ----------------------------------------------------------------------------------------------------


def statistics(arguments: argparse.Namespace) -> int:
    """Prints what is in the splits."""
    splits = _load(arguments)
    for name, value in splits.provenance.items():
        print(f"{name}: {_in_words(value)}")
    print("image_size: {} x {} pixels\n".format(*splits.train["image"].shape[1:3]))
    print("\n".join(counts(splits)))
    if not splits.attributes:
        return 0
    whole = np.concatenate([split["attributes"] for _, split in splits])
    lines = [*constants(splits), *notable_pairs(whole, splits.attributes)]
    if lines:
        print("\n" + "\n".join(lines))
    return 0


def counts(splits: Splits) -> list[str]:
    """A table: images per split, and for each attribute how many have it and what part they are."""
    width = max(map(len, ("images", *splits.attributes)))
    lines = [f"{'':{width}}" + "".join(f"{name:>18}" for name, _ in splits)]
    lines.append(f"{'images':{width}}" + "".join(f"{len(split):11}{'':7}" for _, split in splits))
    for column, name in enumerate(splits.attributes):
        cells = [split["attributes"][:, column] for _, split in splits]
        texts = [f"{int(cell.sum()):11}" + (f" {cell.mean():6.1%}" if len(cell) else " " * 7) for cell in cells]
        lines.append(f"{name:{width}}" + "".join(texts))
    return [line.rstrip() for line in lines]


def constants(splits: Splits) -> list[str]:
    """Attributes that no, or every, image of a split has: nothing can be learnt, or scored, there."""
    lines = []
    for name, split in splits:
        for column, attribute in enumerate(splits.attributes):
            present = split["attributes"][:, column]
            if len(present) and present.min() == present.max():
                lines.append(f"{'every' if present[0] else 'no'} image of the {name} split has {attribute}")
    return lines


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
        raise ValueError(f"the {arguments.split} split is empty.")
    shown = split.take(np.arange(min(arguments.count, len(split))))
    rows = shown.get("attributes", np.zeros((len(shown["index"]), 0)))
    texts = [
        f"{index}: {_describe(row, splits.attributes)}" if splits.attributes else str(index)
        for index, row in zip(shown["index"], rows, strict=True)
    ]
    title = f"{arguments.source}, {arguments.split}: {len(texts)} of {len(split)} images"
    grids.grid(shown["image"], texts, title=title).save(arguments.output, "PNG")
    print(arguments.output)
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
    print(f"{path}: {size / 2**20:.0f} MiB, {time.perf_counter() - begin:.0f} s")
    print(f"train on it with --config.data.source={arguments.data_dir}")
    return 0


# --- pyramid -------------------------------------------------------------------------------------------------------


def grow(arguments: argparse.Namespace) -> int:
    """Prepares images at every resolution."""
    begin = time.perf_counter()
    settings = origins.Settings(
        **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(origins.Settings)}
    )
    made = pyramid.prepare(arguments.source, arguments.folder, settings, most_skipped=arguments.most_skipped)
    for skipped in made.manifest["skipped"]:
        print(f"skipped: {skipped['reason']}")
    size = sum(note["bytes"] for note in made.manifest["shards"].values())
    images = " and ".join(f"{count} {split}" for split, count in made.counts.items())
    print(
        f"{made.path}: {images} images of {made.sizes[0]} to {made.sizes[-1]} pixels, {size / 2**20:.0f} MiB, "
        f"{time.perf_counter() - begin:.0f} s"
    )
    return 0


# --- command line --------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        launch.fail(f"{message}; {self.prog} --help shows how.")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _load(arguments: argparse.Namespace) -> Splits:
    fields = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(datasets.Config)}
    return datasets.load(datasets.Config(**fields), arguments.attributes, arguments.image_size)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    meanings = launch.meanings(datasets.Config)

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(function=function)
        added.add_argument("source", metavar="SOURCE", help="the data set, see the list of commands")
        return added

    def option(added: argparse.ArgumentParser, name: str, default: Any, text: str) -> None:
        text = f"{text.rstrip('.')} (default: {default})" if default else text
        added.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=text, metavar="X")

    def attributes(added: argparse.ArgumentParser) -> None:
        text = "names, separated by commas (default: all, of CelebAMask-HQ the ten of the multimodal VAE)"
        added.add_argument("--attributes", type=_names, help=text, metavar="X")

    def selection(added: argparse.ArgumentParser) -> None:
        attributes(added)
        option(added, "image_size", 64, "height and width of the images in pixels")
        for field in dataclasses.fields(datasets.Config):
            if field.name != "source":
                option(added, field.name, field.default, meanings[field.name])

    one = command("verify", verify, "Read and decode every file, and list what is wrong; status 1 if anything is.")
    option(one, "limit", 100, "defects after which to stop")
    option(one, "csv", datasets.Config.csv, meanings["csv"])
    attributes(one)
    one = command("statistics", statistics, "Count images and attributes of each split; name what goes together.")
    selection(one)
    one = command("preview", preview, "Draw a sheet of images with the captions of their attributes.")
    one.add_argument("-o", "--output", type=Path, required=True, help="the sheet, a PNG", metavar="X")
    one.add_argument("--split", choices=folder.SPLITS, default="train", help="which split (default: train)")
    option(one, "count", 18, "images on the sheet")
    selection(one)
    one = command("catalogue", prepare, "Prepare CelebAMask-HQ or CelebA for TFDS: decoded once.")
    one.add_argument(
        "data_dir", metavar="DATA_DIR", type=Path, help="folder of the catalogue; made where there is none"
    )
    option(one, "image_size", 64, "height and width of the images in pixels")
    option(one, "crop", celeba.Settings.crop, f"CelebA: part of the picture, one of {', '.join(celeba.CROPS)}")
    one = command("pyramid", grow, "Prepare images at every resolution from 4 pixels on, for models that grow.")
    one.add_argument("folder", metavar="FOLDER", type=Path, help="where to; a folder that was begun is gone on with")
    option(one, "most_skipped", 0, "damaged files that may be left out (default: 0)")
    of_pyramids = launch.meanings(origins.Settings)
    for field in dataclasses.fields(origins.Settings):
        option(one, field.name, field.default, of_pyramids[field.name])
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    arguments = _parser().parse_args(argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for chatty in ("absl", "jax"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        return arguments.function(arguments)
    except (ValueError, OSError) as error:
        launch.fail(str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
