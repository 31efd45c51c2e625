"""What ALAE and StyleALAE share: the three rounds of their game (Pidhorskyi et al., 2020, algorithm 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax

from mvae_jax import gaussian, losses
from mvae_jax.objective import Batch, Losses, ModelState, Params, Round

SLOWED = 0.1  # factor of the learning rate of the networks between latents


@dataclasses.dataclass(frozen=True)
class Players:
    """The four networks as functions; `step` counts from the phase's start.

    Attributes:
        real: (batch, key, step) -> the images of a batch as the encoder sees them, [B, H, W, C].
        to_latent: F, (params, z) -> w, [B, D].
        generate: G, (params, w, key, step, mix) -> images; with `mix` it may mix styles.
        to_code: E, (params, images, step) -> w, [B, D].
        to_logit: D, (params, w) -> [B].
        groups: parameter groups of "mapping", "generator", "encoder" and "discriminator".
        latent_size: D.
    """

    real: Callable[[Batch, jax.Array, jax.Array], jax.Array]
    to_latent: Callable[[Params, jax.Array], jax.Array]
    generate: Callable[[Params, jax.Array, jax.Array, jax.Array, bool], jax.Array]
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
    axis_name: str | None = None,
) -> tuple[Round, ...]:
    """E and D tell real from generated images; F and G make that hard; E and G make E(G(w)) give back w.

    Args:
        players: the networks.
        r1_weight: gamma, of which half multiplies the R1 penalty on real images (AL-01).
        mean_latent_decay: per step, of the running mean of w, model_state["mapping"]["mean_latent"].
        move_mapping: the third round moves F too (AL-02).
        r1_every: steps between penalties, each of which then weighs as many times as much, in a round of its own.
        axis_name: mapped axis over which the batch is split.
    """
    groups, size = players.groups, players.latent_size

    def generated(
        number: int, params: Params, batch: Batch, key: jax.Array, step: jax.Array, *, mix: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        """Latents and images of the draws of a round."""
        z = gaussian.standard_normal(jax.random.fold_in(key, number), (len(batch["image"]), size), axis_name)
        w = players.to_latent(params, z)
        return w, players.generate(params, w, jax.random.fold_in(key, 10 + number), step, mix)

    def judge(params: Params, x: jax.Array, step: jax.Array) -> jax.Array:
        return players.to_logit(params, players.to_code(params, x, step))

    def penalty(params: Params, x: jax.Array, step: jax.Array) -> jax.Array:
        return losses.r1_penalty(lambda pixels: judge(params, pixels, step), x).mean()

    def discriminate(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        x, (_, fake) = players.real(batch, key, step), generated(1, params, batch, key, step)
        fake_logits, real_logits = judge(params, fake, step), judge(params, x, step)
        sides = losses.logistic_discriminator(real_logits, fake_logits)
        error, metrics = sides.real.mean() + sides.fake.mean(), {}
        if r1_weight and r1_every == 1:
            metrics["discriminator/r1"] = penalty(params, x, step)
            error += 0.5 * r1_weight * metrics["discriminator/r1"]
        metrics |= {
            "discriminator/real_error": sides.real.mean(),
            "discriminator/fake_error": sides.fake.mean(),
            "discriminator/real_accuracy": (real_logits > 0).mean(),
            "discriminator/fake_accuracy": (fake_logits < 0).mean(),
        }
        return Losses({"discriminator": error}, metrics, {})

    def regularise(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        r1 = penalty(params, players.real(batch, key, step), step)
        return Losses({"r1": 0.5 * r1_weight * r1_every * r1}, {"discriminator/r1": r1}, {})

    def generate(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        w, fake = generated(2, params, batch, key, step)
        error = losses.non_saturating_generator(judge(params, fake, step)).mean()
        mean = jax.lax.stop_gradient(w).mean(0)
        mean_latent = gaussian.lerp(mean, state["mapping"]["mean_latent"], mean_latent_decay)
        return Losses({"generator": error}, {"generator/error": error}, {"mapping": {"mean_latent": mean_latent}})

    def reciprocate(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
        w, fake = generated(3, params, batch, key, step, mix=False)
        again = players.to_code(params, fake, step)
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
