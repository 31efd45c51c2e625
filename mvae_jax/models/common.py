"""Parts of several models of the zoo: images' shape, phases, rounds, discriminator metrics, binding of functions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mvae_jax import losses, meshes
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round, Schedule

# Terms of a batch, [B] or `Partial`, or their means, [], "loss" among them; and the entries of `model_state` that
# training replaces.
Terms = tuple[Mapping[str, Any], Mapping[str, Any]]


class SquareImages:
    """Base of the Configs of images with `image_size` pixels on every side and `channels`."""

    image_size: int
    channels: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (self.image_size, self.image_size, self.channels)


def training_phase(
    config: Any, steps_per_epoch: int, learning_rates: Mapping[str, float | Schedule], **fields: Any
) -> tuple[Phase]:
    """The single phase, "training", of `config.epochs`.

    Args:
        config: a model's config.
        steps_per_epoch: optimiser steps per pass over the training images.
        learning_rates: parameter group -> rate, or a schedule of the step.
        **fields: further fields of `Phase`.
    """
    return (
        Phase(
            name="training",
            steps=config.epochs * steps_per_epoch,
            batch_size=config.batch_size,
            image_size=config.image_size,
            learning_rates=learning_rates,
            **fields,
        ),
    )


def discriminator_accuracy(real_logits: jax.Array, fake_logits: jax.Array) -> dict[str, jax.Array]:
    """Shares of right decisions of a discriminator, 1 or 0 for every logit; a positive logit says "real".

    Args:
        real_logits: of real examples, [B, ...].
        fake_logits: of generated examples, [B', ...].
    """
    return {
        "discriminator/real_accuracy": (real_logits > 0).astype(jnp.float32),
        "discriminator/fake_accuracy": (fake_logits < 0).astype(jnp.float32),
    }


def discriminator_terms(
    real_logits: jax.Array, fake_logits: jax.Array, *, epsilon: float = 0.0
) -> dict[str, jax.Array]:
    """Discriminator metrics of every example: cross-entropies of the two sides in nats, and accuracies.

    Args:
        real_logits: of real examples, [B].
        fake_logits: of generated examples, [B'].
        epsilon: as for `losses.logistic_discriminator`.

    Returns:
        "discriminator/real_error" and "discriminator/real_accuracy", [B]; "discriminator/fake_error" and
        "discriminator/fake_accuracy", [B'].
    """
    sides = losses.logistic_discriminator(real_logits, fake_logits, epsilon=epsilon)
    return {
        "discriminator/real_error": sides.real,
        "discriminator/fake_error": sides.fake,
        **discriminator_accuracy(real_logits, fake_logits),
    }


def means(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the batch of terms, [B] to []; of a `Partial` as it has them."""
    return {name: values.mean() for name, values in terms.items()}


class Training(NamedTuple):
    """On what the losses of a round depend besides parameters, batch and key.

    Attributes:
        phase: of which the round is.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        step: counted from the phase's start, [].
    """

    phase: Phase
    axis_name: str | None
    step: jax.Array


def training_round(
    first: Any,
    phase: Phase,
    axis_name: str | None,
    losses: Callable[..., Losses],
    trains: Mapping[str, tuple[str, ...]],
    gates: Callable[..., Mapping[str, jax.Array]] | None = None,
) -> Round:
    """A `Round` of a function (first, training, params, model_state, batch, key) -> `Losses`.

    Args:
        first: its first argument.
        phase: see `Training`.
        axis_name: see `Training`.
        losses: the function.
        trains: as of `Round`.
        gates: as of `Round`.
    """

    def run(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        return losses(first, Training(phase, axis_name, step), params, state, batch, key)

    return Round(trains, run, gates)


def one_round(objective: str, terms: Callable[..., Terms]) -> Callable[..., tuple[Round]]:
    """`rounds` of a model all of whose groups minimise the mean of one term, "loss".

    Args:
        objective: its name.
        terms: (first, training, params, model_state, batch, key) -> `Terms`.
    """

    def losses(*arguments: Any) -> Losses:
        values, state = terms(*arguments)
        averages = means(values)
        return Losses({objective: averages["loss"]}, averages, state)

    def rounds(first: Any, phase: Phase, axis_name: str | None = None) -> tuple[Round]:
        return (training_round(first, phase, axis_name, losses, {objective: tuple(phase.learning_rates)}),)

    return rounds


def bind(
    first: Any,
    *,
    init: Callable[..., Any],
    rounds: Callable[..., tuple[Round, ...]],
    optimizers: Callable[..., Any],
    evaluate: Callable[..., Any] | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    **fields: Callable[..., Any] | None,
) -> Model:
    """A `Model` of module-level functions, whose first argument is filled in, and which any mesh may surround.

    Args:
        first: that argument, such as the model's config.
        init: as of `Model`; so are `rounds` and `optimizers`.
        rounds: see `init`.
        optimizers: see `init`.
        evaluate: (first, phase, params, model_state, batch, key) -> {name: [B] or `Partial`}; None where the model has
            no such function.
        functions: the model's further functions by name.
        **fields: the other functions of `Model` by name; None where the model has no such function.
    """

    def filled(function: Callable[..., Any]) -> Callable[..., Any]:
        partial = functools.partial(function, first)
        partial.__doc__ = function.__doc__
        return partial

    def of_phase(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        return tuple(
            dataclasses.replace(round_, losses=_on_any_mesh(round_.losses, of_examples=False))
            for round_ in rounds(first, phase, axis_name)
        )

    return Model(
        init=_on_any_mesh(filled(init), of_examples=False),
        rounds=of_phase,
        optimizers=filled(optimizers),
        evaluate=evaluate and (lambda phase: _on_any_mesh(functools.partial(evaluate, first, phase))),
        functions={name: _on_any_mesh(filled(function)) for name, function in (functions or {}).items()},
        **{name: _on_any_mesh(filled(function)) for name, function in fields.items() if function},
    )


def _on_any_mesh(function: Callable[..., Any], *, of_examples: bool = True) -> Callable[..., Any]:
    """A model's function with Explicit axes handled by `meshes.automatic`.

    Args:
        function: (params, model_state, examples, ...) -> results.
        of_examples: results are of one example each, and are split as the examples; otherwise they are whole.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        examples = [leaf for leaf in jax.tree.leaves((arguments[2:], named)) if jnp.ndim(leaf)] if of_examples else []
        return meshes.automatic(
            lambda arguments, named: function(*arguments, **named), arguments, named, batch=next(iter(examples), None)
        )

    return run
