"""Several runs of one experiment on one page, measured on the same images.

    mvae-jax compare runs/L128 runs/L256 runs/L512 --output=runs/comparison

The images are those of the first run (or of --source), for all runs. Runs may be finished or not. The page in the
output folder shows the scores of each, their loss curves, and what they make of the same inputs.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mvae_jax.commands._parser import Parser, output_folder, typed_path
from mvae_jax.experiment import compare, session
from mvae_jax.experiment.session import Interruption


def main(arguments: Sequence[str]) -> int:
    """Measures the runs and writes the page; returns the exit status."""
    parser = Parser(prog="mvae-jax compare", description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=typed_path, help="folders of the runs, in the order of the page")
    parser.add_argument("--output", type=output_folder, default="runs/comparison", help="folder of the page")
    parser.add_argument("--source", default="", help="images to measure on; by default those of the first run")
    text = "pass over settings of the runs that this version does not have"
    parser.add_argument("--ignore-removed", action="store_true", help=text)
    parsed = parser.parse_args(arguments)
    session.start_logging()
    with Interruption() as interruption:
        with session.errors():
            experiment, trained = compare.load(
                parsed.workdirs, parsed.source, interruption, ignore_removed=parsed.ignore_removed
            )
            (parsed.output / "figures").mkdir(parents=True, exist_ok=True)
        with session.failures():
            compare.write(experiment, trained, parsed.output, shlex.join(["mvae-jax", "compare", *arguments]))
    return 0
