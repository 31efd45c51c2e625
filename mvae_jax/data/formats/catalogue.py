"""CelebAMask-HQ and CelebA in the catalogue of TensorFlow Datasets (TFDS), prepared and read without TensorFlow.

`prepare` writes all images, cropped and resized, with all annotations; `load` then gives the very splits that
`celebamask_hq.load` or `celeba.load` gives for the same settings. Preparing a data set once pays when many selections
are drawn from it: nothing is decoded again, and every record has a checksum. Other programs read it as

    tfds.data_source("celebamask_hq/64px", data_dir=..., split="train")
    tfds.data_source("celeba/larsen_64x64", data_dir=..., split="validation")

TFDS is imported where it is used: it is heavy, and not every machine that trains has it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvae_jax import _json, files
from mvae_jax.data import source
from mvae_jax.data.archive import Archive, Folder, locate, open_archive
from mvae_jax.data.batches import Splits
from mvae_jax.data.formats import celeba, celebamask_hq, listing

_logger = logging.getLogger(__name__)

CELEBAMASK_HQ, CELEBA = "celebamask_hq", "celeba"
Settings = celebamask_hq.Settings | celeba.Settings

_CHUNK = 256  # records that are read at a time
_ENTRY = re.compile(r"/(celebamask_hq|celeba)/([^/]+)/[0-9]+\.[0-9]+\.[0-9]+$")


def prepare(
    published: str | Path,
    data_dir: str | Path,
    image_size: int | tuple[int, int] = 64,
    crop: str = celeba.Settings.crop,
) -> Path:
    """Writes the entry, unless it is there already.

    Args:
        published: what `celebamask_hq.load` or `celeba.load` reads.
        data_dir: folder of the catalogue, TFDS's `data_dir`; one of it may hold entries of several image sizes.
        image_size: as in the settings of the data set: for CelebAMask-HQ one number of pixels.
        crop: CelebA: part of the picture, see `celeba.CROPS`.

    Returns:
        The folder of the entry, such as `data_dir/celebamask_hq/64px/1.0.0`.

    Raises:
        FileNotFoundError: the data set, an annotation file or an image is missing.
        ValueError: the data set is damaged, or the entry there was made of other files.
    """
    from mvae_jax.data.formats import _builders

    with open_archive(published) as archive:
        aligned = not locate(archive, celebamask_hq.holds) and bool(locate(archive, celeba.holds))
    options: Any = {"source": published, "data_dir": files.expanded(data_dir)}
    if aligned:
        settings = celeba.Settings(image_size, crop)
        config = _builders.Config(name=_config(settings), size=settings.size, crop=crop)
        builder: Any = _builders.CelebA.of(config, **options)
    else:
        if not isinstance(image_size, int):
            raise ValueError(
                f"image_size is {image_size}, expected one number: the images of CelebAMask-HQ are square."
            )
        name = _config(celebamask_hq.Settings(image_size))
        builder = _builders.CelebAMaskHQ.of(_builders.Config(name=name, size=(image_size, image_size)), **options)
    with builder.open() as opened:
        checksum = opened.checksum(np.arange(len(opened.table.index)))
    folder = Path(builder.data_dir)
    if folder.exists():
        with _whole(folder):
            same = _metadata(folder)["source_checksum"] == checksum
        if not same:
            raise ValueError(f"{folder} was made of other files than {published}: remove it, or choose another folder.")
        _logger.info("%s is there already.", folder)
    else:
        import tensorflow_datasets as tfds

        takes = len(opened.table.index) * math.prod(builder.builder_config.size) * 3
        files.check_room(folder, takes)
        # TFDS announces a download.
        with files.written(folder, takes), contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    return folder


def load(path: str | Path, settings: Settings | None = None, *, pose: bool = False) -> Splits:
    """Loads the splits that `celebamask_hq.load` or `celeba.load` gives for the same settings, to the same bits.

    Args:
        path: folder of the catalogue, of the entry, or one between.
        settings: which images and attributes, and thereby of which data set; None for the defaults of CelebAMask-HQ.
            Image size and crop must be ones that were prepared.
        pose: of CelebAMask-HQ, as for `celebamask_hq.load`.

    Returns:
        The three splits; "index" is the number of the image.

    Raises:
        FileNotFoundError: there is no entry.
        ValueError: the entry is damaged or of another image size, an attribute is unknown, or too few images are
            eligible.
    """
    settings = settings or celebamask_hq.Settings()
    data_set, title, module = _data_set(settings)
    if pose and data_set != CELEBAMASK_HQ:
        raise ValueError(f"pose is asked for of {title}, which has none; expected settings of CelebAMask-HQ.")
    entries, config = _entries(path, data_set), _config(settings)
    if config not in entries:
        raise ValueError(
            f"{path} was prepared as {' and '.join(sorted(entries))}, but {config} is asked for: choose image size and "
            "crop that were prepared, or prepare these too (`mvae-jax data catalogue`)."
        )
    folder = entries[config]
    with _whole(folder):
        metadata, table = _metadata(folder), _table(folder, module.Table)
    selection = module.select(table, settings)
    with _whole(folder):
        records = _records(folder)
        images = np.empty((len(selection.rows), *records[0]["image"].shape), np.uint8)
        for place, record in enumerate(_read(records, selection.rows.tolist())):
            images[place] = record["image"]
    provenance = {
        "data_set": f"{title}, prepared for TFDS",
        "path": str(folder),
        "source_checksum": metadata["source_checksum"],
        "annotations_checksum": metadata["annotations_checksum"],
        "counts": dict(selection.counts),
        "image_files": f"{metadata['image_files']} pixels",
    }
    further = table.scaled_pose() if pose else {}
    return listing.assemble(table, selection, images, settings.attributes, provenance, further)


def find(path: str | Path, data_set: str = CELEBAMASK_HQ) -> dict[str, Path]:
    """Returns the folders of all entries of a data set at or below a path, by config; {} if there are none."""
    entries = {}
    for depth in range(4):
        for file in sorted(files.expanded(path).resolve().glob("*/" * depth + "dataset_info.json")):
            match = _ENTRY.search(file.parent.as_posix())
            if match and match[1] == data_set:
                entries[match[2]] = file.parent
    return entries


def _data_set(settings: Settings) -> tuple[str, str, Any]:
    """Name, title and module of the data set to which settings belong."""
    if isinstance(settings, celeba.Settings):
        return CELEBA, "CelebA", celeba
    return CELEBAMASK_HQ, "CelebAMask-HQ", celebamask_hq


def _config(settings: Settings) -> str:
    """TFDS's name for an image size and crop."""
    if isinstance(settings, celeba.Settings):
        return "{}_{}x{}".format(settings.crop, *settings.size)
    return f"{settings.image_size}px"


def defects(path: str | Path, data_set: str = CELEBAMASK_HQ) -> Iterator[str]:
    """Reads every record of every entry of a data set and yields what is wrong.

    Raises:
        FileNotFoundError: there is no entry.
    """
    table = celeba.Table if data_set == CELEBA else celebamask_hq.Table
    for folder in _entries(path, data_set).values():
        try:
            with _whole(folder):
                _table(folder, table)
                for _ in _read(_records(folder)):
                    pass
        except ValueError as error:
            yield str(error)


def _entries(path: str | Path, data_set: str) -> dict[str, Path]:
    entries = find(path, data_set)
    if not entries:
        example, title = ("larsen_64x64", "CelebA") if data_set == CELEBA else ("64px", "CelebAMask-HQ")
        raise FileNotFoundError(
            f"{path} holds no prepared {title}, expected {data_set}/{example}/1.0.0/dataset_info.json or the like: "
            "`mvae-jax data catalogue` prepares it."
        )
    return entries


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # TFDS and ArrayRecord raise anything, and whatever it is, the cure is the same
        if isinstance(error, ImportError) and error.name != "tensorflow":  # which no entry of ours needs
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{folder} is damaged ({reason}): remove it and prepare it again.") from error


def _metadata(folder: Path) -> Mapping[str, Any]:
    metadata = _json.load(folder / "metadata.json")
    missing = {"attributes", "image_files", "source_checksum", "annotations_checksum"} - metadata.keys()
    if missing:
        raise ValueError(f"metadata.json lacks {', '.join(sorted(missing))}")
    return metadata


def _records(folder: Path, *, images: bool = True) -> Any:
    """A TFDS data source: a sequence of records with the columns of the table, images as bytes unless decoded."""
    import tensorflow_datasets as tfds

    decoders = None if images else {"image": tfds.decode.SkipDecoding()}
    builder = tfds.builder_from_directory(folder)
    return builder.as_data_source("+".join(builder.info.splits), decoders=decoders)


def _read(records: Any, rows: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
    """Yields records, all by default; read many at a time, which is faster, but not so many that they fill memory."""
    rows = range(len(records)) if rows is None else rows
    for start in range(0, len(rows), _CHUNK):
        yield from records.__getitems__(rows[start : start + _CHUNK])


def _table(folder: Path, table: type) -> Any:
    columns = [field.name for field in dataclasses.fields(table) if field.name != "names"]
    rows = [[record[name] for name in columns] for record in _read(_records(folder, images=False))]
    arrays: dict[str, Any] = dict(zip(columns, map(np.array, zip(*rows, strict=True)), strict=True))
    arrays |= {name: array.astype(np.int32) for name, array in arrays.items() if array.dtype.kind == "i"}
    names = tuple(map(str, _metadata(folder)["attributes"]))
    shape, numbers = arrays["attributes"].shape, np.unique(arrays["index"])
    if shape != (len(numbers), len(names)):
        raise ValueError(f"{len(rows)} records have attributes {shape}, expected {len(names)} for each image, once")
    return table(names=names, **arrays)


# --- as sources ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CelebAMaskHQConfig(celebamask_hq.Choice):
    """CelebAMask-HQ that was prepared.

    Attributes:
        source: folder that `mvae-jax data catalogue` has made.
    """

    kind: str = dataclasses.field(init=False, default="CelebAMask-HQ prepared for TFDS")


@dataclasses.dataclass(frozen=True)
class CelebAConfig(celeba.Choice):
    """CelebA that was prepared, with the crop and the image size that are asked for.

    Attributes:
        source: folder that `mvae-jax data catalogue` has made.
    """

    kind: str = dataclasses.field(init=False, default="CelebA prepared for TFDS")


PREPARED = (CelebAMaskHQConfig, CelebAConfig)  # each has the settings of the published data set but for the cache


def _load(config: CelebAMaskHQConfig | CelebAConfig, request: source.Request) -> Splits:
    return load(config.source, config.settings(request), pose=request.pose)


def _source(config: type[source.Config], data_set: str, example: str, *, of_aligned: bool) -> source.Source:
    def holds(archive: Archive, csv: str) -> bool:
        return isinstance(archive, Folder) and bool(find(archive.path, data_set))

    def verify(config: source.Config, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
        return defects(config.source, data_set)

    looked_for = f"{config.kind}, {data_set}/{example}/1.0.0/dataset_info.json or the like"
    return source.Source(
        *(config, _load, verify), holds=holds, looked_for=looked_for, any_shape=of_aligned, has_pose=not of_aligned
    )


CELEBAMASK_HQ_SOURCE = _source(CelebAMaskHQConfig, CELEBAMASK_HQ, "64px", of_aligned=False)
CELEBA_SOURCE = _source(CelebAConfig, CELEBA, "larsen_64x64", of_aligned=True)
