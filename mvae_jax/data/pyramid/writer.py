"""Preparation of a pyramid: every resolution of all images, in shards, whatever interrupts it.

An image of a smaller size is made of 2 x 2 means of the next larger one. The means are kept as floating-point numbers
from the largest image down, and rounded once for each size, half to even; up to 1024 pixels they are exact.

A shard appears under its name when it is whole. The same command goes on after a kill, or mends what is damaged, and
ends with the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mvae_jax import files
from mvae_jax.data.formats.images import natural
from mvae_jax.data.pyramid.origins import Origin, open_origin
from mvae_jax.data.pyramid.reader import (
    FORMAT,
    MANIFEST,
    VERSION,
    Pyramid,
    load,
    read_manifest,
    shard_defect,
    shard_name,
)
from mvae_jax.data.pyramid.settings import SMALLEST, SPLITS, Settings
from mvae_jax.data.pyramid.stream import CHANNELS, open_shard, record

_logger = logging.getLogger(__name__)

_WRITER_OPTIONS = "group_size:1,uncompressed"
_SHARD_BYTES = 2**30  # of the largest images in a shard, or more where there would otherwise be
_MOST_SHARDS = 256  # of a split at one size: few enough that a process may have all of them open
_CHUNK_BYTES = 2**27  # of the largest images that are decoded at a time, but no more than
_CHUNK = 1024  # images
_MOST_NAMED = 100  # files that cannot be used, beyond those that are permitted, after which it makes no sense to go on


def levels(images: np.ndarray) -> dict[int, np.ndarray]:
    """Every resolution of images, from theirs down to 4 pixels.

    Args:
        images: uint8 [N, S, S, C], S being 4 times a power of 2.

    Returns:
        Size -> uint8 [N, size, size, C]. A pixel is the mean of the pixels of the largest image that it covers.
    """
    resolutions = {images.shape[1]: images}
    means: np.ndarray = images.astype(np.float32)
    while means.shape[1] > SMALLEST:
        means = (means[:, ::2, ::2] + means[:, ::2, 1::2] + means[:, 1::2, ::2] + means[:, 1::2, 1::2]) / 4
        resolutions[means.shape[1]] = np.rint(means).astype(np.uint8)
    return resolutions


class _Part(NamedTuple):
    """The images of one shard of each size."""

    split: str
    number: int
    total: int
    rows: np.ndarray

    def shard(self, size: int) -> str:
        return shard_name(self.split, size, self.number, self.total)


def prepare(
    source: str | Path,
    folder: str | Path,
    settings: Settings | None = None,
    *,
    most_skipped: int = 0,
    workers: int | None = None,
) -> Pyramid:
    """Makes a pyramid, or goes on with one that was begun; shards that are there are verified and kept.

    The shards are a function of images and settings: however often the work was interrupted, they have the same bytes.

    Args:
        source: a folder or a zip of JPEG, PNG or WebP images, at any depth, whose natural order is that of their names;
            CelebAMask-HQ, of which only the images are taken; CelebA, with the crop "alae"; or "rendered".
        folder: of the pyramid; it is made, or empty, or has this pyramid.
        settings: which images, and how large; None for the defaults.
        most_skipped: files that may be damaged, and are then left out.
        workers: threads that decode; None for one per core.

    Returns:
        The pyramid.

    Raises:
        FileNotFoundError: there is nothing at the source, or no images.
        OSError: a shard cannot be written.
        ValueError: images are damaged, not square or too small, there are others than the recipe's, or the folder
            has something else.
    """
    settings = settings or Settings()
    if most_skipped < 0:
        raise ValueError(f"most_skipped is {most_skipped}, expected at least 0.")
    folder = files.expanded(folder).absolute()
    with open_origin(source, settings, workers) as origin:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            parts = _parts(origin, settings)
            manifest = _begin(folder, source, origin, settings, parts)
            _fill(folder, manifest, origin, parts, most_skipped)
    return load(folder)


def _parts(origin: Origin, settings: Settings) -> list[_Part]:
    parts = []
    for split, rows in origin.splits.items():
        least = -(-len(rows) // _MOST_SHARDS)
        most = max(settings.shard_images or _SHARD_BYTES // (settings.sizes[-1] ** 2 * CHANNELS), least)
        total = -(-len(rows) // most)
        parts += [_Part(split, number, total, some) for number, some in enumerate(np.array_split(rows, total))]
    return parts


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out; the kernel lets go of the lock when this one ends, whatever ends it."""
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"Another process prepares {folder}: wait for it, or stop it.") from None
        yield


def _begin(
    folder: Path, source: str | Path, origin: Origin, settings: Settings, parts: Sequence[_Part]
) -> dict[str, Any]:
    """The manifest of what is there, or of a pyramid without shards."""
    chosen = dataclasses.asdict(settings) | {"image_size": settings.sizes[-1], "crop": settings.chosen_crop}
    manifest = read_manifest(folder) if (folder / MANIFEST).exists() else None
    if manifest and manifest["shards"]:
        before = manifest["settings"]
        differing = [
            f"{name} {before.get(name)!r}, not {value!r}" for name, value in chosen.items() if before.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{folder} is a pyramid with other settings: {'; '.join(differing)}. Go on with its own, or choose "
                "another folder."
            )
        if manifest["source"]["checksum"] != origin.checksum:
            raise ValueError(
                f"{folder} was made of other files than {source} has now: choose another folder, or remove this one."
            )
    else:
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others and not manifest:
            raise ValueError(f"{folder} holds no pyramid, but {others[0]}: choose a folder that is empty, or none yet.")
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "complete": False,
            "settings": chosen,
            "source": {
                "name": origin.title,
                "path": str(source),
                "images": sum(map(len, origin.splits.values())),
                "checksum": origin.checksum,
            },
            "sizes": list(settings.sizes),
            "parts": {split: sum(part.split == split for part in parts) for split in SPLITS},
            "counts": {},
            "shards": {},
            "skipped": [],
        }
        _write_manifest(folder, manifest)
    for path in (*folder.glob(".*.partial"), *folder.glob(".*.tmp")):  # a killed process left it
        path.unlink()
    return manifest


def _fill(folder: Path, manifest: dict[str, Any], origin: Origin, parts: Sequence[_Part], most_skipped: int) -> None:
    """Writes the shards that are not there, or damaged."""
    sizes, shards, began, written = manifest["sizes"], manifest["shards"], time.monotonic(), 0
    pixels = manifest["source"]["images"] * sum(size**2 for size in sizes) * CHANNELS
    _logger.info(
        "%s: %d images of %d to %d pixels in %d x %d shards, %.3g GiB.",
        *(folder, manifest["source"]["images"], sizes[0], sizes[-1], len(parts), len(sizes), pixels / 2**30),
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for place, part in enumerate(parts, start=1):
            names = [part.shard(size) for size in sizes]
            if all(name in shards and not shard_defect(folder, name, shards[name]) for name in names):
                _logger.info("part %d of %d is there", place, len(parts))
                continue
            takes = {size: len(part.rows) * size**2 * CHANNELS for size in sizes}
            files.check_room(folder / "shards", sum(takes.values()))
            with files.written(folder / part.shard(sizes[-1]), sum(takes.values())):
                notes, unusable = _write(folder, part, origin, takes, pool)
            shards |= notes
            mark = f"{part.split} {part.number}"
            manifest["skipped"] = [
                *(skipped for skipped in manifest["skipped"] if skipped["part"] != mark),
                *({"file": file, "reason": reason, "part": mark} for file, reason in unusable.items()),
            ]
            _write_manifest(folder, manifest)
            written += len(part.rows)
            rate = written / (time.monotonic() - began)
            _logger.info("part %d of %d is written, %.3g images/s", place, len(parts), rate)
            for reason in unusable.values():
                _logger.warning("%s", reason)
            if len(manifest["skipped"]) > most_skipped + _MOST_NAMED:
                break
    _check_skipped(manifest, most_skipped)
    counts = {
        split: sum(shards[shard_name(split, sizes[-1], number, total)]["images"] for number in range(total))
        for split, total in manifest["parts"].items()
    }
    if not all(counts.values()):
        raise ValueError(f"Of the images {counts} can be used, expected some in each split.")
    _write_manifest(folder, manifest | {"complete": True, "counts": counts})


def _check_skipped(manifest: Mapping[str, Any], most_skipped: int) -> None:
    """Raises ValueError if more files cannot be used than may be skipped."""
    skipped = manifest["skipped"]
    if len(skipped) > most_skipped:
        raise ValueError(
            f"{len(skipped)} of {manifest['source']['images']} images cannot be used, and most_skipped is "
            f"{most_skipped}. {' '.join(entry['reason'] for entry in skipped)} Fetch them again and begin anew in an "
            f"empty folder, or go on without them: with most_skipped {len(skipped)} or more "
            f"(--most-skipped={len(skipped)}) the same command keeps what is done."
        )


def _write(
    folder: Path, part: _Part, origin: Origin, takes: Mapping[int, int], pool: ThreadPoolExecutor
) -> tuple[dict[str, Any], dict[str, str]]:
    """Writes the shards of a part, one for each size, which take so many bytes.

    Returns:
        Name of a shard -> images, bytes and checksum, and file -> why it cannot be used.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    chunk = max(1, min(_CHUNK, _CHUNK_BYTES // (max(takes) ** 2 * CHANNELS)))
    partial = {size: folder / f".{part.shard(size)}.partial" for size in takes}
    writers = {size: ArrayRecordWriter(str(path), _WRITER_OPTIONS) for size, path in partial.items()}
    count, unusable = 0, dict[str, str]()
    try:
        for rows in np.split(part.rows, range(chunk, len(part.rows), chunk)):
            read = origin.read(rows)
            unusable |= read.unusable
            shares = [np.array_split(array, os.cpu_count() or 1) for array in (read.numbers, read.images)]
            for numbers, resolutions in zip(shares[0], pool.map(levels, shares[1]), strict=True):
                for size, images in resolutions.items():
                    for image, number in zip(images, numbers.tolist(), strict=True):
                        writers[size].write(record(image, number))
            count += len(read.images)
        for writer in writers.values():
            writer.close()
        notes = {part.shard(size): _note(path, count, takes[size]) for size, path in partial.items()}
        for size, path in partial.items():
            path.replace(folder / part.shard(size))
        files.sync(folder)
    finally:
        for size, path in partial.items():
            with contextlib.suppress(RuntimeError):  # it writes what is left, and the disk may be full
                if writers[size].is_open():
                    writers[size].close()
            path.unlink(missing_ok=True)
    return notes, unusable


def _note(path: Path, count: int, takes: int) -> dict[str, Any]:
    """Forces a new shard to disk, and returns what the manifest says of it."""
    try:
        open_shard(path, count)
    except ValueError as error:  # ArrayRecord says nothing of a write that failed
        raise files.DiskFull(path, takes, f"{error}: has the disk become full?") from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"images": count, "bytes": path.stat().st_size, "sha256": digest}


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replaces the manifest as a whole."""
    ordered = {
        **manifest,
        "shards": dict(sorted(manifest["shards"].items(), key=lambda item: natural(item[0]))),
        "skipped": sorted(manifest["skipped"], key=lambda entry: natural(entry["file"])),
    }
    files.atomic_write(folder / MANIFEST, json.dumps(ordered, indent=1))
