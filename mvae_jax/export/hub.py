"""Exported models on the Hugging Face Hub, or on any server that speaks its protocol (HF_ENDPOINT).

These two functions are all of this package that opens a connection. What is pulled is read as any export is: weights by
the reader of safetensors, the rest as JSON, with sums compared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mvae_jax
from mvae_jax import files
from mvae_jax.export import folder as folders
from mvae_jax.train import config_file

_MODEL = (folders.WEIGHTS, config_file.NAME, folders.MANIFEST, folders.SCORES, folders.CARD)
_READ = (*_MODEL, *(f"{folders.PRIOR}/{name}" for name in _MODEL))
_FUNCTIONS = tuple(f"{folder}/*.jax" for folder in folders.ALL_FUNCTIONS)
_OF_THE_SERVER = {".gitattributes"}  # what a repository has from the beginning


def push(folder: Path, repository: str, *, public: bool = False, revision: str | None = None) -> str:
    """Uploads an exported folder, as one commit, to a repository that is made if need be.

    An export that is there is replaced, and other files beside it stay.

    Args:
        folder: the export, as it was written.
        repository: "OWNER/NAME".
        public: all may see it: a repository that is made is public, and one that is public is taken. Otherwise it is
            made for its owner.
        revision: branch; by default the main one.

    Returns:
        The address of the commit.

    Raises:
        OSError: the server cannot be reached, or refuses.
        ValueError: the folder is no export, or a file of it was changed; the repository has files of another kind, or
            is public though `public` is not said; or huggingface_hub is not installed.
    """
    hub, folder = _hub(), files.expanded(folder).resolve()
    folders.verify(folder)
    api, there = hub.HfApi(), None
    with _errors(repository, "pushed to"), contextlib.suppress(hub.errors.RepositoryNotFoundError):
        there = api.model_info(repository, revision=revision)
    if there:
        _check_replaceable(repository, there, public)
    with _errors(repository, "pushed to"):
        if not there:
            api.create_repo(repository, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"{folder.name}, exported by mvae_jax {mvae_jax.__version__}",
            revision=revision,
            delete_patterns=[*_READ, *_FUNCTIONS],
        )
    return str(done.commit_url)


def _check_replaceable(repository: str, there: Any, public: bool) -> None:
    held = {file.rfilename for file in there.siblings or ()} - _OF_THE_SERVER
    if held and folders.MANIFEST not in held:
        raise ValueError(
            f"{repository} has files and is no export ({', '.join(sorted(held))[:80]}): choose another repository, or "
            "empty it."
        )
    if not there.private and not public:
        raise ValueError(
            f"{repository} is public: give --public (from Python public=True) if all may see the model, or choose "
            "another repository."
        )


def pull(repository: str, folder: Path, *, revision: str | None = None, with_functions: bool = False) -> str:
    """Downloads an exported model, through the Hub's cache, and checks it before it gets its name.

    Args:
        repository: "OWNER/NAME".
        folder: the folder to write, in place of nothing or of an export that nobody changed.
        revision: branch, tag or commit; by default the main branch.
        with_functions: the functions for programs without this package, too, which this package never reads.

    Returns:
        The commit that the folder now has, 40 hexadecimal digits.

    Raises:
        DiskFull: the system has no room for it.
        FileExistsError: there is something else.
        OSError: the server cannot be reached, or has no such repository.
        ValueError: it holds no export, one that is damaged, or huggingface_hub is not installed.
    """
    hub, folder = _hub(), folders.check_replaceable(folder)
    patterns = [*_READ, *(_FUNCTIONS if with_functions else ())]
    with _errors(repository, "pulled from"), files.written(hub.constants.HF_HUB_CACHE):
        # Asked first: without an answer the library would take what it has, of whatever age.
        commit = str(hub.HfApi().model_info(repository, revision=revision).sha)
        snapshot = Path(hub.snapshot_download(repository, revision=commit, allow_patterns=patterns))
    if not folders.is_export(snapshot):
        raise ValueError(f"{repository} has no {folders.MANIFEST}: expected a model that `mvae-jax push` put there.")
    with files.whole_folder(folder) as new:
        # By name: other programs may have put more of the repository into the cache.
        for path in sorted(path for pattern in patterns for path in snapshot.glob(pattern)):
            if path.is_file():
                copy = new / path.relative_to(snapshot)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)  # the cache holds links
        try:
            folders.verify(new, "pull it again, or report the repository")
            folders.read(new)
            if within := folders.prior(new):
                folders.read(within)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"{repository}, commit {commit}: {str(error).replace(f'{new}/', '')}") from error
    return commit


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


@contextlib.contextmanager
def _errors(repository: str, done: str) -> Iterator[None]:
    """What the Hub's library raises, of many kinds, as an OSError of one line."""
    try:
        yield
    except files.DiskFull:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        server = os.environ.get("HF_ENDPOINT", "the Hugging Face Hub")
        remedy = "check the name OWNER/NAME, the connection, and `hf auth login`"
        if type(error).__name__ == "RevisionNotFoundError":
            remedy = "give a --revision that is there"
        raise OSError(f"{repository} cannot be {done} {server} ({reason}): {remedy}.") from error
