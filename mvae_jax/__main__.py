"""The command line: `mvae-jax COMMAND ...`, or `python -m mvae_jax COMMAND ...`.

A command is a module with `main(arguments) -> exit status`; it is imported when it is used, so `--help` is quick.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import mvae_jax
from mvae_jax import exits
from mvae_jax.commands._parser import Parser


class Command(NamedTuple):
    """An entry of `COMMANDS`.

    Attributes:
        module: name of the module with its `main`.
        summary: one line of `mvae-jax --help`.
    """

    module: str
    summary: str


COMMANDS = {
    "use": Command("mvae_jax.commands.use", "Apply a trained multimodal VAE: generate, caption, check, fuse, ..."),
    "data": Command("mvae_jax.commands.data", "Look at data sets and prepare them: verify, statistics, preview, ..."),
    "compare": Command("mvae_jax.commands.compare", "Put several runs of one experiment on one page."),
    "export": Command(
        "mvae_jax.commands.export", "Take a trained model out of its workdir: weights, functions, a card."
    ),
    "push": Command("mvae_jax.commands.push", "Upload an exported model to the Hugging Face Hub."),
    "pull": Command("mvae_jax.commands.pull", "Download a model that was pushed."),
    "experiments": Command("mvae_jax.commands.experiments", "List the experiments, or run one by its name."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: words of the command line after the program's name; by default those of this process.

    Returns:
        The exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with exits.program():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        return importlib.import_module(COMMANDS[arguments[0]].module).main(arguments[1:])
    parser = Parser(
        prog="mvae-jax",
        description="Commands of mvae_jax, generative autoencoders in JAX.",
        epilog="`mvae-jax COMMAND --help` shows more.",
    )
    parser.add_argument("--version", action="version", version=f"mvae-jax {mvae_jax.__version__}")
    listed = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        listed.add_parser(name, help=command.summary)
    parser.parse_args(arguments)  # shows help or version, or refuses
    return 0


if __name__ == "__main__":
    sys.exit(main())
