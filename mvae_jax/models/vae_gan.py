"""VAE/GAN (Larsen et al., 2016): a VAE whose decoder is a GAN's generator and whose errors are its discriminator's.

All three networks move at once, from one forward pass. With the discriminator's features Dis_l, x~ the reconstruction
and x_p a sample from the prior:

    encoder:       KL(q(z | x) || N(0, I)) + |Dis_l(x~) - Dis_l(x)|^2 / 2
    decoder:       gamma |Dis_l(x~) - Dis_l(x)|^2 / 2 + (1 - gamma) log(1 - D(x_p))
    discriminator: -(log D(x) + log(1 - D(x_p))) / 2

sums over dimensions, means over the batch. A player of the game that is too far ahead waits for the other.

Groups: "encoder", "decoder", "discriminator".
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mvae_jax import gaussian
from mvae_jax.models import _larsen
from mvae_jax.models._larsen import Networks
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round


@dataclasses.dataclass(frozen=True)
class Config(_larsen.AutoencodingConfig):
    """VAE/GAN; defaults are those of the released code, with shuffled images and one set of statistics.

    Attributes:
        gamma: weight of the similarity in the decoder's objective (VG-02).
        complement: weight the decoder's side of the game by 1 - gamma, as released; the paper has 1 (VG-02).
        discriminate_reconstructions: the discriminator also sees reconstructions as generated images, as the paper has
            it and the released code for faces has not (VG-01).
        separate_statistics: decode codes of images and draws from the prior one after the other, each normalised by
            statistics of its own, and keep the running ones of the codes, as released. Otherwise they are one batch
            (VG-06).
    """

    gamma: float = 1e-6
    complement: bool = True
    discriminate_reconstructions: bool = False
    separate_statistics: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}; expected between 0 and 1.")

    @classmethod
    def reference(cls) -> Config:
        """As the released code (VG-06, VG-07)."""
        return cls(**_larsen.RELEASED, separate_statistics=True)


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The one phase, "training"."""
    groups = ("encoder", "decoder", "discriminator")
    return (_larsen.phase(config, "training", groups, config.epochs * steps_per_epoch),)


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `_larsen.model` for those beside encode, decode and sample.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, S, S, C]}. Validation's "loss" is the encoder's objective,
        measured by the discriminator of the moment: it compares validation with training, but not one epoch with
        another, for which there is the mean squared error.
    """

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        def vae_gan_losses(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
            networks = Networks(config, params, state, train=True, axis_name=axis_name)
            x = _larsen.training_images(config, batch, key, axis_name)
            (mean, logvar), encoder_stats = networks.encode(x)
            z = gaussian.sample(jax.random.fold_in(key, 3), mean, logvar, axis_name)
            z_prior = gaussian.standard_normal(jax.random.fold_in(key, 4), z.shape, axis_name)
            if config.separate_statistics:
                reconstruction, decoder_stats = networks.decode(z)
                generated, _ = networks.decode(z_prior)  # nobody would read its running statistics
            else:
                decoded, decoder_stats = networks.decode(jnp.concatenate([z, z_prior]))
                reconstruction, generated = jnp.split(decoded, 2)
            # The discriminator is normalised once among x~ and x, up to Dis_l, and once among x and x_p, as released.
            # Only the second pass, the one that trains it and reaches all its layers, leaves running statistics:
            # so those of one layer are of the same images as those of the next.
            found = _larsen.errors(networks, x, reconstruction, mean, logvar)
            fakes = (generated, reconstruction) if config.discriminate_reconstructions else (generated,)
            game = _larsen.play(networks, x, *fakes)
            metrics = {name: values.mean() for name, values in found.items()}
            loss = metrics["similarity"] + metrics["kl"]
            adversarial = 1.0 - config.gamma if config.complement else 1.0
            objectives = {
                "encoder": loss,
                "decoder": config.gamma * metrics["similarity"] + adversarial * game.decoder,
                "discriminator": game.discriminator,
            }
            return Losses(
                _larsen.reduced(config, phase, objectives),
                {"loss": loss, **metrics, **game.metrics},
                {"encoder": encoder_stats, "decoder": decoder_stats, "discriminator": game.stats},
            )

        return (Round({group: (group,) for group in phase.learning_rates}, vae_gan_losses, _larsen.gates(config)),)

    return _larsen.model(config, rounds, lambda phase: _larsen.evaluate_reconstructions(config))
