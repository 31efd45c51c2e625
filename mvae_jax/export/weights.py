"""Parameters and batch statistics by flat names, such as params/encoder/Conv_0/kernel, and their file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mvae_jax import files
from mvae_jax.nets import torch_weights

ROOTS = ("params", "model_state")


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
    """Parameters and batch statistics, the trees of which `flat` made what is given."""
    trees: dict[str, Any] = {}
    for name, array in [*arrays.items(), *((name, {}) for name in empty)]:
        *path, leaf = name.split("/")
        place = trees
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = array
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
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    return torch_weights.read_tensors(path)
