"""A model that `mvae-jax push` uploaded, in a folder that commands and `runs.load` take in place of a workdir:

    mvae-jax pull OWNER/faces faces
    mvae-jax use generate faces "a smiling young woman"

It needs `pip install 'mvae-jax[hub]'`. Weights are read by the reader of safetensors and the rest as JSON: nothing of
what is pulled is run.
"""

from __future__ import annotations

from collections.abc import Sequence

from mvae_jax import exits
from mvae_jax.commands._parser import Parser, output_folder
from mvae_jax.export import hub
from mvae_jax.terminal import echo


def main(arguments: Sequence[str]) -> int:
    """Downloads an export; returns the exit status."""
    parser = Parser(prog="mvae-jax pull", description=__doc__)
    parser.add_argument("repository", metavar="OWNER/NAME", help="on the Hub, or on the server that HF_ENDPOINT names")
    parser.add_argument("folder", type=output_folder, help="folder to write; an export that nobody changed is replaced")
    parser.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    text = "the functions for programs without mvae_jax, too; mvae_jax does not read them"
    parser.add_argument("--functions", action="store_true", help=text)
    parsed = parser.parse_args(arguments)
    with exits.errors():
        options = {"revision": parsed.revision, "with_functions": parsed.functions}
        commit = hub.pull(parsed.repository, parsed.folder, **options)
        echo(f"{parsed.folder}: commit {commit}")
    return 0
