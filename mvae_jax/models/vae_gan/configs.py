"""Configs of the GAN, the VAE with a learned similarity, and VAE/GAN."""

from __future__ import annotations

import dataclasses
from typing import Any

from mvae_jax.augmentation import Perturbation
from mvae_jax.models import common
from mvae_jax.models.checks import check_at_least, check_choice, check_compute_dtype, check_positive, check_widths
from mvae_jax.nets import larsen

# What all released code of the family does.
_RELEASED: dict[str, Any] = {
    "batch_reduction": "sum",
    "shuffle": False,
    "augmentation": Perturbation(flip_batches=True),
}


@dataclasses.dataclass(frozen=True)
class AdversarialConfig(common.SquareImages):
    """Decoder, discriminator and their training against each other.

    Attributes:
        image_size: height and width of the images in pixels; a multiple of 2 for each of `decoder_widths`.
        channels: of the images.
        latent_size: dimensions of the latent space.
        decoder_widths: channels of the decoder's transposed convolutions.
        grid_width: channels of the decoder's first grid.
        discriminator_widths: channels of the discriminator's convolutions; all but the first halve the image, and what
            the last one puts out is the space in which images are compared.
        discriminator_hidden: units of the discriminator's dense layer.
        epsilon: added to probabilities inside logarithms.
        real_weight: weight of the real images in the discriminator's error; generated ones have the rest.
        gating: leave a network out of a step in which it is too far ahead or behind (VG-04): the discriminator if an
            error of its two sides is below equilibrium - margin, the decoder if one is above equilibrium + margin, and
            none if both would be left out.
        equilibrium: the error of a side around which both networks move, in nats.
        margin: how far an error may be from it.
        augment: change images at random in training.
        augmentation: how.
        shuffle: visit the training images of every epoch in another order, not always in theirs (VG-07).
        epochs: passes over the training images.
        batch_size: examples per step.
        learning_rate: RMSProp's rate at the beginning, r_0.
        final_learning_rate: its rate at the end, r_1.
        rate_power: p; after a fraction e of the steps the rate is r_0 - e^p (r_0 - r_1), in 250 stairs.
        weight_decay: w; the gradient of 2 w times the kernels but the heads' is added to that of the sum of all
            errors of a batch.
        batch_reduction: "mean", or "sum" over the batch in the objectives, as released. What RMSProp adds to its
            roots and the decay are converted, so that both make the same steps.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; parameters, statistics
            and losses are float32 with either, so that a run can be loaded with the other.
    """

    image_size: int = 64
    channels: int = 3
    latent_size: int = 128
    decoder_widths: tuple[int, ...] = (256, 128, 32)
    grid_width: int = 256
    discriminator_widths: tuple[int, ...] = (32, 128, 256, 256)
    discriminator_hidden: int = 512
    epsilon: float = 1e-3
    real_weight: float = 0.5
    gating: bool = True
    equilibrium: float = 0.68
    margin: float = 0.35
    augment: bool = True
    augmentation: Perturbation = Perturbation()
    shuffle: bool = True
    epochs: int = 22
    batch_size: int = 64
    learning_rate: float = 0.025 / 64
    final_learning_rate: float = 1e-5 / 64
    rate_power: float = 0.75
    weight_decay: float = 1e-5
    batch_reduction: str = "mean"
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_compute_dtype(self)
        check_choice(self, "batch_reduction", ("mean", "sum"))
        check_widths(self, "decoder_widths", "discriminator_widths")
        if len(self.discriminator_widths) < 2:
            raise ValueError(f"discriminator_widths are {self.discriminator_widths}; expected at least two.")
        check_at_least(self, 1, "channels", "latent_size", "grid_width", "discriminator_hidden", "epochs", "batch_size")
        check_at_least(self, 0, "epsilon", "margin", "final_learning_rate", "weight_decay")
        check_positive(self, "learning_rate", "rate_power")
        if not 0 < self.real_weight < 1:
            raise ValueError(
                f"real_weight is {self.real_weight}; expected between 0 and 1: generated images have the rest."
            )
        larsen.check_image_size(self.image_size, self.decoder_widths)
        if self.augment and self.channels != 3 and (self.augmentation.contrast or self.augmentation.hue):
            raise ValueError(
                f"channels is {self.channels}, but contrast and hue are of 3 channels: set augmentation.contrast and "
                "augmentation.hue to 0, or augment to False."
            )

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups of the networks that the model has."""
        return ("decoder", "discriminator")

    def decoder(self, axis_name: str | None = None) -> larsen.Decoder:
        """Network from latents to images, without a bound."""
        return larsen.Decoder(
            channels=self.channels,
            image_size=self.image_size,
            widths=self.decoder_widths,
            grid_width=self.grid_width,
            axis_name=axis_name,
            dtype=self.compute_dtype,
        )

    def discriminator(self, axis_name: str | None = None, *, features_only: bool = False) -> larsen.Discriminator:
        """Network from images to logits and features, or to features alone."""
        return larsen.Discriminator(
            widths=self.discriminator_widths,
            hidden=self.discriminator_hidden,
            features_only=features_only,
            axis_name=axis_name,
            dtype=self.compute_dtype,
        )


@dataclasses.dataclass(frozen=True)
class EncodingConfig(AdversarialConfig):
    """Encoder of a model that has one.

    Attributes:
        encoder_widths: channels of the encoder's convolutions, each of which halves the image.
        encoder_hidden: units of the encoder's dense layer.
    """

    encoder_widths: tuple[int, ...] = (64, 128, 256)
    encoder_hidden: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(self, "encoder_widths")
        check_at_least(self, 1, "encoder_hidden")

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups of the networks that the model has."""
        return ("encoder", *super().groups)

    def encoder(self, axis_name: str | None = None) -> larsen.Encoder:
        """Network from images to mean and log variance."""
        return larsen.Encoder(
            latent_size=self.latent_size,
            widths=self.encoder_widths,
            hidden=self.encoder_hidden,
            axis_name=axis_name,
            dtype=self.compute_dtype,
        )


@dataclasses.dataclass(frozen=True)
class GANConfig(AdversarialConfig):
    """The GAN; defaults are those of the released code, with shuffled images."""

    margin: float = 0.4

    @classmethod
    def reference(cls) -> GANConfig:
        """As the released code (VG-07)."""
        return cls(**_RELEASED)


@dataclasses.dataclass(frozen=True)
class VAEDisConfig(EncodingConfig):
    """The VAE with a learned similarity; no code was released for it, so what is not the GAN's is our choice.

    Attributes:
        adversarial_epochs: passes over the training images in phase "adversarial"; `epochs` are those of phase
            "similarity".
    """

    margin: float = 0.4
    adversarial_epochs: int = 22

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "adversarial_epochs")


@dataclasses.dataclass(frozen=True)
class VAEGANConfig(EncodingConfig):
    """VAE/GAN; defaults are those of the released code, with shuffled images and one set of statistics.

    Attributes:
        gamma: weight of the similarity in the decoder's objective (VG-02).
        complement: weight the decoder's adversarial loss by 1 - gamma, as released; the paper has 1 (VG-02).
        discriminate_reconstructions: the discriminator also sees reconstructions as generated images, as the paper has
            it and the released code for faces has not (VG-01).
        separate_statistics: decode codes of images and draws from the prior one after the other, each normalised by
            its statistics, and keep the running ones of the codes, as released. Otherwise they are one batch (VG-06).
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
    def reference(cls) -> VAEGANConfig:
        """As the released code (VG-06, VG-07)."""
        return cls(**_RELEASED, separate_statistics=True)
