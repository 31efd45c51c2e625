"""What ALAE and StyleALAE share: the three rounds of their game (Pidhorskyi et al., 2020, algorithm 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mvae_jax import gaussian, losses
from mvae_jax.objective import Batch, Losses, ModelState, Params, Round

SLOWED = 0.1  # factor of the learning rate of the networks between latents


@dataclasses.dataclass(frozen=True)
class Players:
    """The four networks as functions; `step` counts from the phase's start.

    Attributes:
        real: (batch, key, step) -> the images of a batch as the encoder sees them, [B, H, W, C].
        to_latent: F, (params, z) -> w, [B, D].
        draws: (key, B, mix) -> what G needs besides w, arrays [B, ...]; with `mix` it may mix styles.
        generate: G, (params, w, draws, step) -> images.
        to_code: E, (params, images, step) -> w, [B, D].
        to_logit: D, (params, w) -> [B].
        groups: parameter groups of "mapping", "generator", "encoder" and "discriminator".
        latent_size: D.
    """

    real: Callable[[Batch, jax.Array, jax.Array], jax.Array]
    to_latent: Callable[[Params, jax.Array], jax.Array]
    draws: Callable[[jax.Array, int, bool], Any]
    generate: Callable[[Params, jax.Array, Any, jax.Array], jax.Array]
    to_code: Callable[[Params, jax.Array, jax.Array], jax.Array]
    to_logit: Callable[[Params, jax.Array], jax.Array]
    groups: Mapping[str, tuple[str, ...]]
    latent_size: int


def rounds(
    players: Players,
    *,
    r1_weight: float,
    mean_latent_decay: float,
    move_mapping: bool,
    r1_every: int = 1,
    parts: int = 1,
    axis_name: str | None = None,
) -> tuple[Round, ...]:
    """E and D tell real from generated images; F and G make that hard; E and G make E(G(w)) give back w.

    Args:
        players: the networks.
        r1_weight: gamma, of which half multiplies the R1 penalty on real images (AL-01).
        mean_latent_decay: per step, of the running mean of w, model_state["mapping"]["mean_latent"].
        move_mapping: the third round moves F too (AL-02).
        r1_every: steps between penalties, each of which then weighs as many times as much, in a round of its own.
        parts: of the batch, of which one at a time is in the networks: their gradients add up.
        axis_name: mapped axis over which the batch is split.
    """
    groups, size = players.groups, players.latent_size

    def drawn(number: int, batch: Batch, key: jax.Array, *, mix: bool = True) -> tuple[jax.Array, Any]:
        """Draws of a round: z [B, D], and what the generator needs besides."""
        count = len(batch["image"])
        z = gaussian.standard_normal(jax.random.fold_in(key, number), (count, size), axis_name)
        return z, players.draws(jax.random.fold_in(key, 10 + number), count, mix)

    def judge(params: Params, x: jax.Array, step: jax.Array) -> jax.Array:
        return players.to_logit(params, players.to_code(params, x, step))

    def penalty(params: Params, x: jax.Array, step: jax.Array) -> jax.Array:
        return losses.r1_penalty(lambda pixels: judge(params, pixels, step), x)

    def discriminate(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        with_penalty = r1_weight > 0 and r1_every == 1

        def made(z: jax.Array, draws: Any) -> jax.Array:
            return players.generate(params, players.to_latent(params, z), draws, step)

        def terms(x: jax.Array, fake: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            r1 = penalty(params, x, step) if with_penalty else jnp.zeros(len(x))
            return judge(params, x, step), judge(params, fake, step), r1

        fake = in_parts(made, parts, *drawn(1, batch, key))  # by itself: no backward pass needs to make it anew
        real_logits, fake_logits, r1 = in_parts(terms, parts, players.real(batch, key, step), fake)
        sides = losses.logistic_discriminator(real_logits, fake_logits)
        error = sides.real.mean() + sides.fake.mean()
        metrics = {
            "discriminator/real_error": sides.real.mean(),
            "discriminator/fake_error": sides.fake.mean(),
            "discriminator/real_accuracy": (real_logits > 0).mean(),
            "discriminator/fake_accuracy": (fake_logits < 0).mean(),
        }
        if with_penalty:
            metrics["discriminator/r1"] = r1.mean()
            error += 0.5 * r1_weight * r1.mean()
        return Losses({"discriminator": error}, metrics, {})

    def regularise(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        r1 = in_parts(lambda x: penalty(params, x, step), parts, players.real(batch, key, step)).mean()
        return Losses({"r1": 0.5 * r1_weight * r1_every * r1}, {"discriminator/r1": r1}, {})

    def generate(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        z, draws = drawn(2, batch, key)
        w = players.to_latent(params, z)
        logits = in_parts(lambda w, d: judge(params, players.generate(params, w, d, step), step), parts, w, draws)
        error = losses.non_saturating_generator(logits).mean()
        mean = jax.lax.stop_gradient(w).mean(0)
        mean_latent = gaussian.lerp(mean, state["mapping"]["mean_latent"], mean_latent_decay)
        return Losses({"generator": error}, {"generator/error": error}, {"mapping": {"mean_latent": mean_latent}})

    def reciprocate(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        z, draws = drawn(3, batch, key, mix=False)
        w = players.to_latent(params, z)
        again = in_parts(
            lambda w, d: players.to_code(params, players.generate(params, w, d, step), step), parts, w, draws
        )
        # F moves only where the round trains it, so that its gradient needs no stop on the way through G.
        error = losses.squared_error(again, jax.lax.stop_gradient(w)).mean() / size
        return Losses({"reciprocity": error}, {"reciprocity/error": error}, {})

    critics = (*groups["encoder"], *groups["discriminator"])
    lazy = (Round({"r1": critics}, regularise, every=r1_every),) if r1_weight and r1_every > 1 else ()
    reciprocal = (*groups["encoder"], *groups["generator"], *(groups["mapping"] if move_mapping else ()))
    return (
        Round({"discriminator": critics}, discriminate),
        *lazy,
        Round({"generator": (*groups["mapping"], *groups["generator"])}, generate),
        Round({"reciprocity": reciprocal}, reciprocate),
    )


def errors(
    x: jax.Array,
    to_code: Callable[[jax.Array], jax.Array],
    generate: Callable[[jax.Array], jax.Array],
    span: float = 1.0,
) -> dict[str, jax.Array]:
    """What validation tells of images [B, H, W, C]: squared errors of reconstructions and of the codes of these, [B].

    Args:
        x: the images.
        to_code: E, images -> w, [B, D].
        generate: G, w -> images.
        span: of the images' values; errors are per value in [0, 1].
    """
    w = to_code(x)
    output = generate(w)
    error = losses.squared_error(output, x) / (span**2 * x[0].size)
    again = losses.squared_error(to_code(output), w) / w.shape[1]
    return {"loss": error, "mean_squared_error": error, "latent_error": again}


def in_parts(function: Callable[..., Any], parts: int, *trees: Any) -> Any:
    """function(*trees), one part of the batch after another; a backward pass computes each part anew.

    So gradients of parameters add up over the parts while the activations of one alone are in memory. Every part takes
    examples from the whole batch, at equal distances: spread over devices, each keeps its share of every part.

    Args:
        function: of arrays [b, ...] -> arrays [b, ...], which treats examples alone, of any number b.
        parts: how many; 1 applies the function as it is.
        *trees: arrays [B, ...], B a multiple of `parts`.

    Raises:
        ValueError: B is not.
    """
    if parts == 1:
        return function(*trees)

    def cut(x: jax.Array) -> jax.Array:
        if len(x) % parts:
            raise ValueError(f"a batch of {len(x)} examples cannot be cut into {parts} equal parts.")
        return jnp.moveaxis(x.reshape(len(x) // parts, parts, *x.shape[1:]), 1, 0)

    found = jax.lax.map(jax.checkpoint(lambda part: function(*part)), jax.tree.map(cut, trees))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), found)
