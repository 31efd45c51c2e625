"""The manifest of a checkpoint: what it is, of which run, phase and step, and the sha256 sums of its files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mvae_jax
from mvae_jax import _json
from mvae_jax.files import atomic_write
from mvae_jax.train import config_file
from mvae_jax.train.config_file import DamagedRun

NAME = "manifest.json"
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


class DamagedCheckpoint(DamagedRun):
    """A checkpoint's files are not those that were saved, or are of another run, phase or step."""


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest of a checkpoint, or writes it anew: it changes as a whole."""
    atomic_write(folder / NAME, json.dumps(_json.with_sum(content), indent=1) + "\n")


def read(folder: Path, run: str | None) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Args:
        folder: of the checkpoint.
        run: what `run_of` says. Nothing is compared with None, nor with manifests of earlier versions.

    Raises:
        DamagedCheckpoint: there is none, or it is not as it was written, or it is of another run, phase or step than
            the folder's place says.
    """
    try:
        manifest = _json.load(folder / NAME)
        intact = _json.has_its_sum(manifest)
        phase, step = manifest["phase"], manifest["step"]
    except FileNotFoundError:
        there = folder.is_dir()
        raise DamagedCheckpoint(
            f"{folder} has no {NAME}: {'restore it from a copy' if there else 'there is no such checkpoint'}."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise DamagedCheckpoint(f"{folder} has a damaged {NAME}: restore it from a copy.")
    if (phase, str(step)) != (folder.parent.name, folder.name):
        raise DamagedCheckpoint(
            f"{folder} holds step {step} of phase {phase}: it was copied or renamed; give it the place that it is of."
        )
    if run is not None and manifest.get("run_id", run) != run:
        raise DamagedCheckpoint(
            f"{folder} is of another run than {folder.parents[2] / config_file.NAME}: put back whichever of them was "
            "replaced."
        )
    del manifest[_json.SUM]
    return manifest


def verify(folder: Path, run: str | None) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are as they were saved.

    Args:
        folder: of the checkpoint.
        run: as for `read`.

    Raises:
        DamagedCheckpoint: `read` refuses it, or files are missing or changed.
    """
    manifest = read(folder, run)
    expected, actual = manifest["files"], sums(folder)
    wrong = sorted(name for name in expected if actual.get(name) != expected[name])
    if wrong:
        listing = ", ".join(f"{name} ({'changed' if name in actual else 'missing'})" for name in wrong)
        raise DamagedCheckpoint(f"{folder} is damaged: {listing}; restore its files from a copy.")
    return manifest


def sums(folder: Path, *, durable: bool = False) -> dict[str, str]:
    """Sums of all files of a checkpoint but the manifest, {path: sha256}; `durable` forces them to disk before."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME):
        with path.open("rb") as file:
            if durable:
                os.fsync(file.fileno())
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def run_of(folder: Path) -> str | None:
    """Id of the run in whose workdir a checkpoint lies, see `config_file.run_of`."""
    return config_file.run_of(folder.parents[2])


def versions() -> dict[str, str]:
    """Versions of Python and of all that a checkpoint may depend on."""
    installed = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "mvae_jax": mvae_jax.__version__, **installed}
