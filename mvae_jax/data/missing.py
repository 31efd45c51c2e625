"""Data of which a part is hidden, or of which complete examples alone count: how much a model needs of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from mvae_jax.data.batches import Split, Splits, permutation


def hide(data: Splits, shares: Mapping[str, float], seed: int) -> Splits:
    """Takes some modalities from some training examples.

    The masks "present/NAME" say which have them, and zeros stand in place of what is hidden. The examples are chosen
    for each modality by itself; of a larger share all are hidden that are hidden of a smaller one. Validation and
    calibration examples keep all that they have.

    Args:
        data: whose splits are in memory.
        shares: name of the modality -> share of the training examples that lose it, in [0, 1].
        seed: not negative.

    Returns:
        The data with masks, to which those that they had still apply; their provenance says what was hidden.

    Raises:
        ValueError: a share is not in [0, 1], the data have no such modality, or something was hidden of them before.
    """
    if "hidden" in data.provenance:
        raise ValueError(
            f"of the data {data.provenance['hidden']} is hidden already; expected those of which nothing is: hide all "
            "at once."
        )
    for name, share in shares.items():
        if name not in data.train.arrays or name.startswith("present/") or not 0 <= share <= 1:
            raise ValueError(
                f"shares say {name}: {share}; expected a share from 0 to 1 of one of the data's arrays, "
                f"{', '.join(sorted(data.train.arrays))}."
            )

    def masked(split: Split, hidden: Mapping[str, float]) -> Split:
        arrays = dict(split.arrays)
        for name in shares:
            mask = np.array(arrays.get(f"present/{name}", np.ones(len(split))), np.float32)
            order = permutation(len(split), seed, *name.encode())
            mask[order[: round(hidden.get(name, 0.0) * len(split))]] = 0
            arrays[f"present/{name}"] = mask
            arrays[name] = np.where(_beside(mask, arrays[name]) != 0, arrays[name], np.zeros((), arrays[name].dtype))
        return Split(arrays)

    return dataclasses.replace(
        data,
        train=masked(data.train, shares),
        validation=masked(data.validation, {}),
        calibration=masked(data.calibration, {}),
        provenance={**data.provenance, "hidden": dict(shares), "hidden_seed": seed},
    )


def complete(data: Splits, names: Collection[str]) -> Splits:
    """Puts complete training examples in the place of those that lack something.

    A model that needs all modalities then sees what it could see of such data, and trains for as many steps as one that
    does without: the examples of which all is there stand again and again until there are as many as before.

    Args:
        data: whose splits are in memory, with masks "present/NAME" where something may be missing.
        names: of the modalities that have to be there.

    Returns:
        The data, those given where nothing is missing; validation and calibration examples as they were.

    Raises:
        ValueError: no training example is complete.
    """
    there = np.all([data.train.present(name) for name in names], axis=0)
    if there.all():
        return data
    if not there.any():
        raise ValueError(
            f"of {len(data.train)} training examples none has all of {', '.join(names)}; expected at least one: hide "
            "less, or train a model that does without."
        )
    return dataclasses.replace(data, train=Split(data.train.take(np.resize(np.flatnonzero(there), len(data.train)))))


def _beside(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    return mask.reshape(len(mask), *(1,) * (values.ndim - 1))
