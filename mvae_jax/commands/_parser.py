"""Parser of all commands: mistakes end with one line on standard error and status 2."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from mvae_jax.exits import fail


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose help keeps the lines of the description, and which takes no abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the program for a mistake in the command line."""
        fail(f"{message}; `{self.prog} --help` shows how.")
