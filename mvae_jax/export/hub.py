"""Exported models on the Hugging Face Hub, or on any server that speaks its protocol (HF_ENDPOINT).

These two functions are all of this package that opens a connection. What is pulled is read as any export is: weights by
the reader of safetensors, the rest as JSON, with sums compared.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvae_jax import files
from mvae_jax.export import folder as folders

_READ = (folders.WEIGHTS, "config.json", folders.MANIFEST, folders.SCORES, folders.CARD)
_FUNCTIONS = f"{folders.FUNCTIONS}/*.jax"


def push(folder: Path, repository: str, *, public: bool = False, revision: str | None = None) -> str:
    """Uploads an exported folder, as one commit, to a repository that is made if need be.

    Args:
        folder: the export, as it was written.
        repository: "OWNER/NAME".
        public: a repository that is made can be seen by all; otherwise by its owner.
        revision: branch; by default the main one.

    Returns:
        The address of the commit.

    Raises:
        OSError: the server cannot be reached, or refuses.
        ValueError: the folder is no export, a file of it was changed, or huggingface_hub is not installed.
    """
    hub = _hub()
    folders.verify(folder)
    with _errors(repository, "pushed to"):
        api = hub.HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        message = f"mvae_jax {folders.FORMAT}: {folder.name}"
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, revision=revision, delete_patterns="*"
        )
    return str(done.commit_url)


def pull(repository: str, folder: Path, *, revision: str | None = None, with_functions: bool = False) -> Path:
    """Downloads an exported model, through the Hub's cache, and checks it before it gets its name.

    Args:
        repository: "OWNER/NAME".
        folder: the folder to write, in place of nothing or of an export that nobody changed.
        revision: branch, tag or commit; by default the main branch.
        with_functions: the functions for programs without this package, too, which this package never reads.

    Returns:
        The folder.

    Raises:
        FileExistsError: there is something else.
        OSError: the server cannot be reached, or has no such repository.
        ValueError: it holds no export, one that is damaged, or huggingface_hub is not installed.
    """
    hub = _hub()
    folders.check_replaceable(folder)
    patterns = [*_READ, *([_FUNCTIONS] if with_functions else [])]
    with _errors(repository, "pulled from"):
        snapshot = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    if not folders.is_export(snapshot):
        raise ValueError(f"{repository} has no {folders.MANIFEST}: expected a model that `mvae-jax push` put there.")
    with files.whole_folder(folder) as new:
        for path in snapshot.rglob("*"):
            if path.is_file() and path.parent.name in (snapshot.name, folders.FUNCTIONS):
                copy = new / path.relative_to(snapshot)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)  # the cache holds links
        folders.verify(new)
        folders.read(new)
    return folder


def _hub() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise ValueError(
            "huggingface_hub is not installed, by which models are pushed and pulled: pip install 'mvae-jax[hub]'."
        ) from error
    logging.set_verbosity_error()  # what it warns of, our errors say
    return huggingface_hub


@contextmanager
def _errors(repository: str, done: str) -> Iterator[None]:
    """What the Hub's library raises, of many kinds, as an OSError of one line."""
    try:
        yield
    except files.DiskFull:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        server = os.environ.get("HF_ENDPOINT", "the Hugging Face Hub")
        raise OSError(
            f"{repository} cannot be {done} {server} ({reason}): check the name OWNER/NAME, the connection, and "
            "`hf auth login`."
        ) from error
