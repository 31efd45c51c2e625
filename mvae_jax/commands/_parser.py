"""Parser of all commands: mistakes end with one line on standard error and status 2."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mvae_jax import files
from mvae_jax.exits import fail, message


def typed_path(text: str, check: Callable[[Path], None] = lambda path: None) -> Path:
    """A file or folder, as an argument of a command; what `check` raises is a mistake in this argument."""
    try:
        path = files.expanded(text)
        check(path)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(message(error).rstrip(".")) from error
    return path


def output_file(text: str) -> Path:
    """The name of a file to write, as an argument; one that cannot be written is refused before any work."""
    return typed_path(text, files.check_output)


def output_folder(text: str) -> Path:
    """The name of a folder to write into; likewise."""
    return typed_path(text, functools.partial(files.check_output, folder=True))


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose help keeps the lines of the description, and which takes no abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the program for a mistake in the command line."""
        fail(f"{message}; `{self.prog} --help` shows how.")
