"""Vocabulary that models speak and `train` understands: who minimises what.

A `Model` is a bundle of pure functions. For a `Phase` (what stays fixed while a compiled step runs) it returns
`Round`s: each is one forward pass that yields all losses of that pass, and a table saying which objective
moves which parameter groups. `train.step.make_train_step` turns rounds into one step for every model of the zoo.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Params = Mapping[str, Any]  # {group: tree}
ModelState = Mapping[str, Any]  # {group: tree}: batch statistics, running means
# Arrays: "image": uint8 [B, H, W, C], or "code": float32 [B, D]; "attributes": float32 [B, A] in {0, 1}; ...
Batch = Mapping[str, Any]
Schedule = Callable[[jax.Array], jax.Array]


class Posterior(NamedTuple):
    """Gaussian over latents with a diagonal covariance, as an encoder returns it: `mean, logvar = encode(...)`.

    Attributes:
        mean: [B, D].
        logvar: log variances, [B, D]; None for a deterministic encoder, whose code is `mean`.
    """

    mean: jax.Array
    logvar: jax.Array | None


class Partial(NamedTuple):
    """Numbers of the examples of a batch, of which some have none.

    Attributes:
        values: [B]; where there is none, anything.
        there: [B], bool, which examples have one.
    """

    values: jax.Array
    there: jax.Array

    def mean(self) -> Partial:
        """Means over the batch, []: of the values, 0 where there is none, and of `there`.

        Both may be averaged over devices and added over batches; their quotient is the mean of what is there.
        """
        return Partial(jnp.where(self.there, self.values, 0.0).mean(), self.there.mean(dtype=jnp.float32))


class Losses(NamedTuple):
    """Result of one forward pass of a round.

    Attributes:
        objectives: objective name -> scalar to minimise.
        metrics: flat dict of batch means, such as "discriminator/r1"; of a `Partial` its `mean()`.
        state: entries of `model_state` that this round replaces, only of groups that it trains.
    """

    objectives: Mapping[str, jax.Array]
    metrics: Mapping[str, jax.Array | Partial]
    state: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Round:
    """Objectives that are differentiated at the same parameters, over one forward pass.

    Attributes:
        trains: objective -> parameter groups that it moves; groups are disjoint within a round.
        losses: (params, model_state, batch, key, step) -> Losses. `step` counts from the phase's start.
        gates: metrics (means over the global batch) -> {objective: bool}. A false gate leaves the groups of that
            objective, their entries of `model_state` and their optimiser state as they were. A missing objective
            counts as true.
        every: the round runs in every `every`-th step of its phase (lazy penalties, several discriminator steps).
    """

    trains: Mapping[str, tuple[str, ...]]
    losses: Callable[[Params, ModelState, Batch, jax.Array, jax.Array], Losses]
    gates: Callable[[Mapping[str, Any]], Mapping[str, jax.Array]] | None = None
    every: int = 1

    def __post_init__(self) -> None:
        groups = [group for names in self.trains.values() for group in names]
        repeated = sorted({group for group in groups if groups.count(group) > 1})
        if repeated:
            raise ValueError(
                f"Round.trains moves {repeated} by more than one objective; a group may follow one objective "
                "per round: sum the objectives, or use two rounds."
            )
        if self.every < 1:
            raise ValueError(f"Round.every is {self.every}, expected at least 1.")


INCOMPARABLE = "the network that measures it trains too"  # why validation losses of a phase may say nothing


@dataclasses.dataclass(frozen=True)
class Phase:
    """Part of a run in which everything stays fixed that a compiled step depends on.

    Attributes:
        name: folder name of its checkpoints, unique within a run.
        steps: number of optimiser steps.
        start: step of the run at which the phase begins.
        batch_size: examples per step over all devices.
        image_size: height and width of the images in pixels; a pair if they differ, None of a model of codes.
        learning_rates: group -> rate, or a schedule of the step counted from the phase's start.
        weights: names of loss terms -> weights. A weight of zero removes the term, its networks and their cost.
        shuffle: visit the examples of every epoch in another order; otherwise always in that of the data set.
        parts: number of equal parts of a batch, of which one at a time is in the networks.
        options: the model's pocket for what else it fixes (resolution, length of a warm-up, ...); the model alone
            writes and reads it.
        ema_decay: decay per step of the exponential moving average of the parameters; None keeps none.
        reset_optimizers: forget the optimiser state when the phase begins.
        comparable: of two validation losses of the phase the lower one is better. Not where a network measures them
            that trains against the model, such as a discriminator: no checkpoint is then the best.
    """

    name: str
    steps: int
    start: int = 0
    batch_size: int = 16
    image_size: int | tuple[int, int] | None = 64
    learning_rates: Mapping[str, float | Schedule] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    shuffle: bool = True
    parts: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ema_decay: float | None = None
    reset_optimizers: bool = False
    comparable: bool = True

    @property
    def end(self) -> int:
        """Step of the run at which the phase is complete."""
        return self.start + self.steps


@dataclasses.dataclass(frozen=True)
class Model:
    """A bundle of pure functions; None where a model has no such function.

    A conditional model takes attributes, float32 [B, A], in encode and decode after the images or the latents, and in
    sample instead of the count: one image for every row.

    Attributes:
        init: (key, batch) -> (params, model_state), both keyed by group.
        rounds: (phase, axis_name=None) -> tuple of `Round`.
        optimizers: (phase) -> {group: optax transformation with unit learning rate}. A group without one is
            frozen: it is kept with the parameters and not trained.
        evaluate: (phase) -> function (params, model_state, batch, key) -> {name: [B]}, one number per example in
            evaluation mode, "loss" among them, or `Partial`: what validation reports.
        encode: (params, model_state, images [B, H, W, C] in [-1, 1]) -> `Posterior`.
        decode: (params, model_state, z) -> images [B, H, W, C] in [-1, 1].
        sample: (params, model_state, key, count) -> images of latents from the prior.
        functions: further functions by name, such as "encode_attributes", all starting (params, model_state, ...).
    """

    init: Callable[[jax.Array, Batch], tuple[Params, ModelState]]
    rounds: Callable[..., tuple[Round, ...]]
    optimizers: Callable[[Phase], Mapping[str, optax.GradientTransformation]]
    evaluate: Callable[[Phase], Callable[..., Mapping[str, jax.Array | Partial]]] | None = None
    encode: Callable[..., Posterior] | None = None
    decode: Callable[..., jax.Array] | None = None
    sample: Callable[..., jax.Array] | None = None
    functions: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
