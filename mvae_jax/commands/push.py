"""An exported model, uploaded to the Hugging Face Hub, or to the server that HF_ENDPOINT names:

    mvae-jax export runs/celebahq_mvae faces
    mvae-jax push faces OWNER/faces

It needs `pip install 'mvae-jax[hub]'` and `hf auth login`. A repository that is made is private unless
--public makes it for all, one that is public is taken with --public alone, and one with files of another kind is not
taken. Settings and provenance name commands and paths of the machine that trained: look at config.json before you push.
"""

from __future__ import annotations

from collections.abc import Sequence

from mvae_jax import exits
from mvae_jax.commands._parser import Parser, typed_path
from mvae_jax.export import hub
from mvae_jax.terminal import echo


def main(arguments: Sequence[str]) -> int:
    """Uploads an export; returns the exit status."""
    parser = Parser(prog="mvae-jax push", description=__doc__)
    parser.add_argument("folder", type=typed_path, help="folder that `mvae-jax export` wrote")
    parser.add_argument("repository", metavar="OWNER/NAME", help="made if there is none")
    parser.add_argument("--public", action="store_true", help="all may see the model")
    parser.add_argument("--revision", help="branch (default: the main one)")
    parsed = parser.parse_args(arguments)
    with exits.errors():
        echo(hub.push(parsed.folder, parsed.repository, public=parsed.public, revision=parsed.revision))
    return 0
