"""Models that are trained several times, from different seeds: a trial each, in the folder `NAME/seed_N`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvae_jax import runs


def folder(name: str, seed: int) -> str:
    """Folder of a trial within the workdir."""
    return f"{name}/seed_{seed}"


def by_name(trained: Mapping[str, runs.Run]) -> dict[str, dict[int, runs.Run]]:
    """The trials of each model, name -> seed -> run, of runs by folder."""
    trials: dict[str, dict[int, runs.Run]] = {}
    for path, run in trained.items():
        trials.setdefault(path.rpartition("/")[0], {})[run.settings["config"]["seed"]] = run
    return trials


def check_distinct(**fields: Sequence[Any]) -> None:
    """Refuses fields that list the settings to train, where they do not.

    Raises:
        ValueError: a field is empty, or a value occurs twice.
    """
    for name, values in fields.items():
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name} are {values}; expected at least one, and none twice.")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuses seeds that are not distinct numbers of 32 bits.

    Raises:
        ValueError: there is none, one occurs twice, or one is out of range.
    """
    check_distinct(seeds=seeds)
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds are {seeds}; expected numbers from 0 to 2**32 - 1.")
