"""Pictures that commands write, as their suffix says; a name that cannot be written is refused before any work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from PIL import Image

from mvae_jax import files, terminal
from mvae_jax.viz import report

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_QUALITY = 95  # of JPEG and WebP


def path(text: str) -> Path:
    """The name of a picture, as an argument of a command."""
    name = Path(text).expanduser()
    if name.suffix.lower() not in _FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end with {', '.join(_FORMATS)}, which say the format")
    return name


def check(name: Path) -> None:
    """Raises OSError if a picture of this name cannot be written; its folder need not exist."""
    if name.is_dir():
        raise IsADirectoryError(f"{name} is a folder, expected the name of a picture.")
    place = next(folder for folder in name.absolute().parents if folder.exists())
    if not place.is_dir():
        raise NotADirectoryError(f"{name} cannot be written, for {place} is no folder.")
    if not os.access(name if name.exists() else place, os.W_OK):
        raise PermissionError(f"{name} cannot be written, for want of a permission.")


def write(name: Path, picture: Image.Image) -> None:
    """Writes a picture, into a folder that is made if need be, and prints its name."""
    name.parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write(name, report.encoded(picture, _FORMATS[name.suffix.lower()], quality=_QUALITY))
    terminal.echo(name)
