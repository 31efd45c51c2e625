"""Pictures that commands write, as their suffix says; a name that cannot be written is refused before any work."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from mvae_jax import files, terminal
from mvae_jax.commands._parser import output_file
from mvae_jax.viz import report

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_QUALITY = 95  # of JPEG and WebP


def path(text: str) -> Path:
    """The name of a picture to write, as an argument of a command."""
    if Path(text).suffix.lower() not in _FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end with {', '.join(_FORMATS)}, which say the format")
    return output_file(text)


def write(name: Path, picture: Image.Image) -> None:
    """Writes a picture, into a folder that is made if need be, and prints its name."""
    name.parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write(name, report.encoded(picture, _FORMATS[name.suffix.lower()], quality=_QUALITY))
    terminal.echo(name)
