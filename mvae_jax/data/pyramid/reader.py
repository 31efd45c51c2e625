"""Pyramids that are complete, read one resolution at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mvae_jax import _json
from mvae_jax.data.archive import checksum
from mvae_jax.data.batches import Split, Splits
from mvae_jax.data.pyramid.settings import SPLITS
from mvae_jax.data.pyramid.stream import Records
from mvae_jax.files import expanded

MANIFEST = "manifest.json"
FORMAT, VERSION = "mvae_jax pyramid", 1
_BEGINNING = 2**12  # bytes of a manifest in which its format is named

_FIELDS = ("format", "version", "complete", "settings", "source", "sizes", "parts", "counts", "shards", "skipped")
_SHARD_FIELDS = ("images", "bytes", "sha256")
_KEYS = {"source": ("name", "path", "checksum"), "settings": ("recipe", "crop", "image_size")}  # that are shown
_MOST = 2**48


def shard_name(split: str, size: int, number: int, total: int) -> str:
    """Returns the name of a shard's file: the images `number` of `total` parts of a split, at one size."""
    return f"{split}_{size}-{number:05}-of-{total:05}.array_record"


@dataclasses.dataclass(frozen=True, eq=False)
class Pyramid:
    """A pyramid that is complete.

    Attributes:
        path: its folder.
        manifest: what `manifest.json` says.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The resolutions in pixels, the smallest first."""
        return tuple(self.manifest["sizes"])

    @property
    def counts(self) -> dict[str, int]:
        """Images in each split."""
        return dict(self.manifest["counts"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Origin of the images, for reports."""
        source, settings = self.manifest["source"], self.manifest["settings"]
        return {
            "data_set": f"{source['name']}, a pyramid",
            "path": str(self.path),
            "source": source["path"],
            "source_checksum": source["checksum"],
            "recipe": settings["recipe"] or "none",
            "crop": settings["crop"],
            "image_size": settings["image_size"],
            "counts": self.counts,
            "skipped": len(self.manifest["skipped"]),
        }

    def sha256(self) -> str:
        """Returns a checksum, hexadecimal, of the shards: a resumed run must see them."""
        return checksum({name: note["sha256"] for name, note in self.manifest["shards"].items()})

    def records(self, split: str, size: int) -> Records:
        """Returns the examples of a split at one size, unread.

        Raises:
            ValueError: there is no such split or size.
        """
        if split not in self.counts:
            raise ValueError(f"split is {split!r}, expected {' or '.join(self.counts)}.")
        if size not in self.sizes:
            raise ValueError(
                f"{self.path} has no images of {size} pixels, only of {', '.join(map(str, self.sizes))}: choose one of "
                "these, or prepare it with another image_size."
            )
        total = self.manifest["parts"][split]
        names = [shard_name(split, size, number, total) for number in range(total)]
        counts = tuple(self.manifest["shards"][name]["images"] for name in names)
        return Records(tuple(self.path / name for name in names), counts, size)

    def split(self, name: str, size: int) -> Split:
        """Reads a split at one size: "image", uint8 [N, S, S, 3], and "index", int32 [N], numbers in the data set.

        Raises:
            ValueError: there is no such split or size, or a shard is damaged.
        """
        return Split(self.records(name, size).arrays)

    def splits(self, size: int) -> Splits:
        """Reads both splits at one size; there is no calibration split, so it is empty."""
        train, validation = (self.split(name, size) for name in SPLITS)
        return Splits(train, validation, validation.first(0), (), self.provenance)


def load(path: str | Path) -> Pyramid:
    """Opens a pyramid; sees to it that all shards are there with their sizes, but does not read them.

    Raises:
        FileNotFoundError: there is no pyramid.
        ValueError: the pyramid is not complete, damaged, or of another version.
    """
    folder = expanded(path).absolute()
    manifest = read_manifest(folder)
    problems = list(_problems(folder, manifest))
    if problems:
        more = f" ({len(problems) - 1} more: `mvae-jax data verify` lists them.)" if problems[1:] else ""
        raise ValueError(problems[0] + more)
    return Pyramid(folder, manifest)


def is_pyramid(path: str | Path) -> bool:
    """Returns whether a folder has a pyramid, complete or not."""
    file = expanded(path) / MANIFEST
    if not file.is_file():
        return False
    with file.open("rb") as manifest:
        return FORMAT.encode() in manifest.read(_BEGINNING)


def defects(path: str | Path) -> Iterator[str]:
    """Reads all shards and yields what is wrong.

    Raises:
        FileNotFoundError: there is no pyramid.
    """
    folder = expanded(path).absolute()
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        yield str(error)
    else:
        yield from _problems(folder, manifest, shard_defect)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the contents of a pyramid's manifest.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: the manifest is damaged, or of another version.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no pyramid, expected {MANIFEST} and shards in it: `mvae-jax data pyramid` makes them."
        )
    try:
        manifest = _json.load(file)
        kind = manifest["format"], manifest["version"]
        if kind == (FORMAT, VERSION):
            manifest = {name: manifest[name] for name in _FIELDS}
            manifest["shards"] = {
                name: {field: note[field] for field in _SHARD_FIELDS} for name, note in manifest["shards"].items()
            }
            _check(manifest)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} is damaged ({reason}): remove {folder} and prepare it again.") from error
    if kind != (FORMAT, VERSION):
        raise ValueError(
            f"{file} is version {kind[1]} of {kind[0]!r}, expected version {VERSION} of {FORMAT!r}: prepare the "
            "images again in another folder."
        )
    return manifest


def _check(manifest: Mapping[str, Any]) -> None:
    """Raises ValueError, LookupError or TypeError unless the fields of a manifest have their types and fit together."""
    for name, keys in _KEYS.items():
        if not all(isinstance(manifest[name][key], str | int | None) for key in keys):
            raise TypeError(f"{name} is {manifest[name]}")
    sizes, parts, counts, shards = (manifest[name] for name in ("sizes", "parts", "counts", "shards"))
    numbers = [*sizes, *parts.values(), *counts.values()]
    numbers += [note[field] for note in shards.values() for field in ("images", "bytes")]
    if not all(isinstance(number, int) and 0 <= number < _MOST for number in numbers):
        raise TypeError("a count is no whole number")
    whole = len(shards) == sum(parts.values()) * len(sizes) and all(
        shard_name(split, size, number, total) in shards
        for split, total in parts.items()
        for size in sizes
        for number in range(total)
    )
    if not isinstance(manifest["skipped"], list) or set(parts) != set(SPLITS):
        raise TypeError("there are other splits, or no list of what was skipped")
    if manifest["complete"] and not (whole and set(counts) == set(SPLITS)):
        raise ValueError("splits, sizes and shards do not belong together")


def _size_defect(folder: Path, name: str, note: Mapping[str, Any]) -> str | None:
    """Likewise, by its size alone."""
    file = folder / name
    if not file.is_file():
        return f"There is no file {file}"
    size = file.stat().st_size
    return f"{file} has {size} bytes, expected {note['bytes']}" if size != note["bytes"] else None


def shard_defect(folder: Path, name: str, note: Mapping[str, Any]) -> str | None:
    """Returns what is wrong with a shard, as the beginning of a sentence; None if it is whole."""
    defect = _size_defect(folder, name, note)
    if defect is None:
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != note["sha256"]:
                defect = f"{folder / name} is damaged: it has another checksum than when it was written"
    return defect


def _problems(
    folder: Path,
    manifest: Mapping[str, Any],
    look: Callable[[Path, str, Mapping[str, Any]], str | None] = _size_defect,
) -> Iterator[str]:
    """Sentences that say what is wrong with a pyramid, and the remedy."""
    remedy = "The command that prepared it, given again, mends it."
    shards = manifest["shards"]
    if not manifest["complete"]:
        total = sum(manifest["parts"].values()) * len(manifest["sizes"])
        yield f"{folder} is not complete: {len(shards)} of {total} shards are there. {remedy}"
    for name, note in shards.items():
        defect = look(folder, name, note)
        if defect:
            yield f"{defect}. {remedy}"
