"""The GAN that VAE/GAN is compared with (Larsen et al., 2016): its decoder and discriminator without the encoder.

The decoder minimises log(1 - D(decode(z))), z from N(0, I), as in the minimax game (Goodfellow et al., 2014); the
discriminator the cross-entropy of both. A player that is too far ahead waits for the other.

Groups: "decoder", "discriminator".
"""

from __future__ import annotations

import dataclasses

from mvae_jax.models import _larsen
from mvae_jax.objective import Model, Phase, Round


@dataclasses.dataclass(frozen=True)
class Config(_larsen.Config):
    """The GAN; defaults are those of the released code, with shuffled images."""

    margin: float = 0.4

    @classmethod
    def reference(cls) -> Config:
        """As the released code (VG-07)."""
        return cls(**_larsen.RELEASED)


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The one phase, "training"."""
    return (_larsen.phase(config, "training", ("decoder", "discriminator"), config.epochs * steps_per_epoch),)


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `_larsen.model` for those beside decode and sample.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, S, S, C]}. It cannot encode. Validation's "loss" is the
        discriminator's error, which rises when the discriminator learns its images by heart; it is no measure of the
        samples.
    """

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        return (_larsen.game_round(config, phase, axis_name),)

    return _larsen.model(config, rounds, lambda phase: _larsen.evaluate_game(config))
