"""A trained model taken out of its workdir, as a folder that needs no workdir and, in part, no mvae_jax:

    mvae-jax export runs/celebahq_mvae faces
    mvae-jax export runs/celeba_vae/beta_tcvae_6 faces_tcvae --best --license=apache-2.0

The folder holds weights as safetensors, settings and provenance as JSON, what the evaluation of that checkpoint
measured, the model's functions for CPU, CUDA and TPU as `jax.export` writes them, and a card, README.md; and in
latent_flow/ the same of the learned prior over the codes of that checkpoint, if the run has one. `runs.load` and
`mvae-jax use` take it in place of a workdir. Settings and provenance name commands and paths of the machine that
trained: look at config.json before you pass a folder on.
"""

from __future__ import annotations

from collections.abc import Sequence

from mvae_jax import exits, runs
from mvae_jax.commands._parser import Parser, output_folder, typed_path
from mvae_jax.experiment import evaluations, prior
from mvae_jax.export import check_replaceable, is_export
from mvae_jax.files import readable
from mvae_jax.terminal import echo


def main(arguments: Sequence[str]) -> int:
    """Exports a run; returns the exit status."""
    parser = Parser(prog="mvae-jax export", description=__doc__)
    parser.add_argument("run", type=typed_path, help="folder of a run, finished or still training")
    parser.add_argument("folder", type=output_folder, help="folder to write; an export that nobody changed is replaced")
    parser.add_argument("--phase", help="take this phase's checkpoint; by default the newest")
    parser.add_argument("--best", action="store_true", help="the checkpoint with the lowest validation loss")
    parser.add_argument("--license", default="", help="of the weights, such as apache-2.0; by default none is stated")
    parser.add_argument("--weights-only", action="store_true", help="no functions for programs without mvae_jax")
    text = "pass over settings of the run that this version does not have"
    parser.add_argument("--ignore-removed", action="store_true", help=text)
    parsed = parser.parse_args(arguments)
    with exits.errors():
        check_replaceable(parsed.folder)
        options = {"phase": parsed.phase, "best": parsed.best, "ignore_removed": parsed.ignore_removed}
        run = runs.load(parsed.run, **options)
        member, scores = next(evaluations.of_checkpoint(run, parsed.run), ("", None))
        learned = prior.load(parsed.run, run)
        folder = run.export(
            parsed.folder,
            prior=learned.run if learned else None,
            scores=scores,
            member=member,
            license=parsed.license,
            with_functions=not parsed.weights_only,
        )
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                echo(f"{path}: {readable(path.stat().st_size)}")
        begun = prior.folder_of(parsed.run.resolve(), run)
        if begun.is_dir() and not learned and not is_export(parsed.run):
            echo(f"The learned prior in {begun} is not exported: its training has not come to its end.")
    return 0
