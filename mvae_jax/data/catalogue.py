"""CelebAMask-HQ as an entry of the TensorFlow Datasets (TFDS) catalogue, prepared and read without TensorFlow.

`prepare` writes all images, resized, with all annotations; `load` then gives the very splits that
`celebamask_hq.load` gives for the same settings. Preparing it once pays when many selections are drawn from the
data set: nothing is decoded again, and every record has a checksum. Other programs read it as

    tfds.data_source("celebamask_hq/64px", data_dir=..., split="train")

TFDS is imported where it is used: it is heavy, and not every machine that trains has it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvae_jax.data import celebamask_hq
from mvae_jax.data.batches import Splits

_logger = logging.getLogger(__name__)

_CHUNK = 256  # records that are read at a time
_ENTRY = re.compile(r"/celebamask_hq/([1-9][0-9]*)px/[0-9]+\.[0-9]+\.[0-9]+$")


def prepare(source: str | Path, data_dir: str | Path, image_size: int = 64) -> Path:
    """Writes the entry, unless it is there already.

    Args:
        source: the folder `CelebAMask-HQ`, the folder that contains it, or the zip.
        data_dir: folder of the catalogue, TFDS's `data_dir`; one of it may hold entries of several image sizes.
        image_size: height and width of the images in pixels.

    Returns:
        The folder of the entry, `data_dir/celebamask_hq/64px/1.0.0`.

    Raises:
        FileNotFoundError: the source, an annotation file or an image is missing.
        ValueError: the source is damaged, or the entry there was made of other files.
    """
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}, expected a number of pixels such as 64.")
    from mvae_jax.data._celebamask_hq_builder import Builder, tfds

    with celebamask_hq.open_source(source) as opened:
        checksum = opened.checksum(np.arange(len(opened.table.index)))
    builder = Builder.of(image_size, source=source, data_dir=Path(data_dir).expanduser())
    folder = Path(builder.data_dir)
    if folder.exists():
        with _whole(folder):
            same = _metadata(folder)["source_checksum"] == checksum
        if not same:
            raise ValueError(f"{folder} was made of other files than {source}: remove it, or choose another folder.")
        _logger.info("%s is there already.", folder)
    else:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
            builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    return folder


def load(path: str | Path, settings: celebamask_hq.Settings | None = None) -> Splits:
    """Loads the splits that `celebamask_hq.load` gives for the same settings, to the same bits.

    Args:
        path: folder of the catalogue, of the entry, or one between.
        settings: which images and attributes; None for the defaults. `image_size` must be one that was prepared.

    Returns:
        The three splits; "index" is the number of the image.

    Raises:
        FileNotFoundError: there is no entry.
        ValueError: the entry is damaged or of another image size, an attribute is unknown, or too few images are
            eligible.
    """
    settings = settings or celebamask_hq.Settings()
    size, entries = settings.image_size, _found(path)
    if size not in entries:
        raise ValueError(
            f"{path} was prepared for images of {' and '.join(map(str, sorted(entries)))} pixels, but image_size is "
            f"{size}: prepare it for that size too (`tools/prepare_data.py catalogue --image-size={size}`)."
        )
    with _whole(entries[size]):
        metadata, table = _metadata(entries[size]), _table(entries[size])
    selection = celebamask_hq.select(table, settings)
    images = np.empty((len(selection.rows), size, size, 3), np.uint8)
    with _whole(entries[size]):
        for place, record in enumerate(_read(_records(entries[size]), selection.rows.tolist())):
            images[place] = record["image"]
    provenance = {
        "data_set": "CelebAMask-HQ, prepared for TFDS",
        "path": str(entries[size]),
        "source_checksum": metadata["source_checksum"],
        "annotations_checksum": metadata["annotations_checksum"],
        "counts": dict(selection.counts),
        "image_files": f"{metadata['image_files']} pixels",
    }
    return celebamask_hq.assemble(table, selection, images, settings.attributes, provenance)


def find(path: str | Path) -> dict[int, Path]:
    """Returns the folders of all entries at or below a path, by image size; {} if there are none."""
    entries = {}
    for depth in range(4):
        for file in sorted(Path(path).expanduser().resolve().glob("*/" * depth + "dataset_info.json")):
            match = _ENTRY.search(file.parent.as_posix())
            if match:
                entries[int(match[1])] = file.parent
    return entries


def defects(path: str | Path) -> Iterator[str]:
    """Reads every record of every entry and yields what is wrong.

    Raises:
        FileNotFoundError: there is no entry.
    """
    for folder in _found(path).values():
        try:
            with _whole(folder):
                _metadata(folder)
                _table(folder)
                for _ in _read(_records(folder)):
                    pass
        except ValueError as error:
            yield str(error)


def _found(path: str | Path) -> dict[int, Path]:
    entries = find(path)
    if not entries:
        raise FileNotFoundError(
            f"{path} holds no prepared CelebAMask-HQ, expected celebamask_hq/64px/1.0.0/dataset_info.json or the like: "
            "`tools/prepare_data.py catalogue` prepares it."
        )
    return entries


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # TFDS and ArrayRecord raise anything, and whatever it is, the cure is the same
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder} is damaged ({reason}): remove it and prepare it again.") from error


def _metadata(folder: Path) -> Mapping[str, Any]:
    metadata = json.loads((folder / "metadata.json").read_text())
    missing = {"attributes", "image_files", "source_checksum", "annotations_checksum"} - metadata.keys()
    if missing:
        raise ValueError(f"metadata.json lacks {', '.join(sorted(missing))}")
    return metadata


def _records(folder: Path, *, images: bool = True) -> Any:
    """A TFDS data source: a sequence of {"image", "attributes", "pose", "index"}, images as bytes unless decoded."""
    import tensorflow_datasets as tfds

    decoders = None if images else {"image": tfds.decode.SkipDecoding()}
    return tfds.builder_from_directory(folder).as_data_source("train", decoders=decoders)


def _read(records: Any, rows: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
    """Yields records, all by default; read many at a time, which is faster, but not so many that they fill memory."""
    rows = range(len(records)) if rows is None else rows
    for start in range(0, len(rows), _CHUNK):
        yield from records.__getitems__(rows[start : start + _CHUNK])


def _table(folder: Path) -> celebamask_hq.Table:
    rows = [(record["index"], record["attributes"], record["pose"]) for record in _read(_records(folder, images=False))]
    index, attributes, pose = (np.array(column) for column in zip(*rows, strict=True))
    names = tuple(_metadata(folder)["attributes"])
    if attributes.shape != (len(index), len(names)) or (np.diff(index) <= 0).any():
        raise ValueError(f"{len(index)} records have attributes {attributes.shape}, expected {len(names)} in order")
    return celebamask_hq.Table(index.astype(np.int32), names, attributes, pose)
