"""Parameters and batch statistics by flat names, such as params/encoder/Conv_0/kernel, and their file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from mvae_jax import files

ROOTS = ("params", "model_state")
_DEEPEST = 32  # branches within branches; whoever visits more of them recurs too deeply


def flat(params: Mapping[str, Any], model_state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Arrays of both trees.

    Args:
        params: {group: parameters}.
        model_state: {group: batch statistics}.

    Returns:
        Name -> array, in the order of the names; and the names of branches without any, such as those of a group that
        has no batch norm.
    """
    arrays: dict[str, Any] = {}
    empty: list[str] = []

    def visit(prefix: str, tree: Any) -> None:
        if not isinstance(tree, Mapping):
            arrays[prefix] = tree
        elif not tree:
            empty.append(prefix)
        for name, branch in tree.items() if isinstance(tree, Mapping) else ():
            visit(f"{prefix}/{name}", branch)

    for root, tree in zip(ROOTS, (params, model_state), strict=True):
        visit(root, tree)
    return dict(sorted(arrays.items())), sorted(empty)


def nested(arrays: Mapping[str, Any], empty: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and batch statistics, the trees of which `flat` made what is given.

    Raises:
        ValueError: no trees have such names.
    """
    trees: dict[str, Any] = {}
    for name, array in [*arrays.items(), *((name, {}) for name in empty)]:
        if name.count("/") > _DEEPEST:
            raise ValueError(f"the name {name[:40]!r}... has more than {_DEEPEST} parts")
        *path, leaf = name.split("/")
        place = trees
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name!r:.80} lies within an array")
        if leaf in place:
            raise ValueError(f"{name!r:.80} is an array and a branch, or is named twice")
        place[leaf] = array
    if trees.keys() != {*ROOTS}:
        raise ValueError(f"it has {', '.join(sorted(trees))[:80] or 'nothing'}, expected {' and '.join(ROOTS)}")
    return trees["params"], trees["model_state"]


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes a file of safetensors.

    Raises:
        DiskFull: the system has no room for it.
    """
    from safetensors.numpy import save

    files.atomic_write(path, save({name: np.asarray(array, order="C") for name, array in arrays.items()}))


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write` wrote.

    Raises:
        ValueError: the file is damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="numpy") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except Exception as error:  # whatever a damaged file provokes, the reader learns which file it was
        raise ValueError(f"{path} cannot be read as safetensors ({error}): copy it again.") from error
