"""Sheets of the same held-out images while a model trains."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mvae_jax.data.batches import Split
from mvae_jax.eval.batched import pixels
from mvae_jax.objective import Phase
from mvae_jax.runs import Run

# (model as it is, held-out images, phase) -> rows of a sheet: label -> images [N, H, W, C] in [-1, 1].
Rows = Callable[[Run, Split, Phase], Mapping[str, Any]]


def reconstructions_and_samples(run: Run, examples: Split, phase: Phase) -> dict[str, Any]:
    """Held-out images, their reconstructions by a model that encodes, and as many samples of one that draws.

    A conditional model takes the attributes of the images for both. The samples are of the same latents each time.
    """
    x, rows = pixels(examples), {}
    if run.model.encode and run.model.decode:
        given = given_attributes(run.encode, examples.arrays)
        rows = {"held-out images": x, "reconstructions": run.decode(run.encode(x, *given)[0], *given)}
    if run.model.sample:
        given = given_attributes(run.sample, examples.arrays) or (len(examples),)
        rows["samples"] = run.sample(jax.random.key(0), *given)
    return rows


def given_attributes(function: Callable[..., Any], examples: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a function of a conditional model takes besides, of examples by name; () of another one."""
    return (examples["attributes"],) if "attributes" in inspect.signature(function).parameters else ()
