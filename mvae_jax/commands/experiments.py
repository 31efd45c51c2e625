"""The experiments: without a name they are listed; with one, it is run with the flags that follow.

mvae-jax experiments
mvae-jax experiments celeba_vae --help
mvae-jax experiments celeba_vae --config.data.source=CelebA.zip --workdir=runs/celeba_vae
"""

from __future__ import annotations

from collections.abc import Sequence

from mvae_jax.commands._parser import Parser
from mvae_jax.experiment import listing, runner, session


def main(arguments: Sequence[str]) -> int:
    """Lists the experiments or runs one; returns the exit status."""
    if arguments and not arguments[0].startswith("-"):
        with session.errors():
            experiment = listing.load(arguments[0])
        runner.run(experiment, [f"mvae-jax experiments {experiment.name}", *arguments[1:]])
        return 0
    Parser(prog="mvae-jax experiments", usage="mvae-jax experiments [NAME [FLAGS]]", description=__doc__).parse_args(
        arguments
    )
    for name in listing.names():
        experiment = listing.load(name)
        lines = experiment.description.strip().splitlines() or [experiment.title]  # python -OO leaves descriptions out
        print(f"{name:22} {lines[0]}")
    return 0
