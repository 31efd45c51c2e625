"""The table of the zoo's tests: every model with nets small enough to compile in seconds."""

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from mvae_jax.models import (
    alae,
    attribute_classifier,
    autoencoder,
    beta_tcvae,
    beta_vae,
    bigan,
    cvae,
    gan,
    joint_latent_regressor,
    latent_regressor,
    multimodal,
    style_alae,
    vae,
    vae_dis,
    vae_gan,
)
from mvae_jax.objective import Model, Phase

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """A model, its phases, one batch on which everything is tried, and what is done to drawn parameters first."""

    model: Callable[[], Model]
    phases: Callable[[], tuple[Phase, ...]]
    batch: Callable[[int], Mapping[str, np.ndarray]]
    start: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict


MULTIMODAL = multimodal.Config(
    image_size=32,
    latent_size=8,
    encoder_widths=(4, 8, 8),
    decoder_widths=(8, 8, 4, 4),
    decoder_hidden=16,
    text_hidden=16,
    discriminator_widths=(4, 8, 8),
    attention_heads=2,
    batch_size=BATCH,
    learning_rate=1e-3,
    discriminator_learning_rate=1e-3,
    unimodal=dataclasses.replace(multimodal.Config().unimodal, epochs=1),
    alignment=dataclasses.replace(multimodal.Config().alignment, epochs=1),
    adversarial=dataclasses.replace(multimodal.Config().adversarial, epochs=1, adversarial=0.1),
)

ATTRIBUTE_CLASSIFIER = attribute_classifier.Config(
    image_size=32, widths=(4, 8, 8), hidden=16, epochs=1, batch_size=BATCH, learning_rate=1e-3
)


SMALL = {"image_size": 16, "widths": (4, 8, 8), "latent_size": 4, "epochs": 1, "batch_size": BATCH}
AUTOENCODER = autoencoder.Config(**SMALL)
VAE = vae.Config(**SMALL, learn_scale=True)
BETA_VAE = beta_vae.Config(**SMALL, free_bits=0.05, warmup_epochs=1)
BETA_TCVAE = beta_tcvae.Config(**SMALL)
CVAE = cvae.Config(
    image_size=(18, 14), latent_size=4, widths=(4, 8), prior="conditional", prior_hidden=8, epochs=1, batch_size=BATCH
)

TINY = {"image_size": 8, "channels": 3, "latent_size": 4, "widths": (8, 6), "epochs": 1, "batch_size": BATCH}
ALAE = alae.Config(**TINY)
STYLE_ALAE = style_alae.Config(
    image_size=8,
    latent_size=4,
    first_width=4,
    most_width=6,
    mapping_layers=2,
    batch_sizes=(BATCH,),
    learning_rates=(1e-3,),
    fade_images=3 * BATCH,
    stabilise_images=3 * BATCH,
    last_images=0,
)
BIGAN = bigan.Config(**TINY, decayed_epochs=1, encoder="gaussian")
LATENT_REGRESSOR = latent_regressor.Config(**TINY, decayed_epochs=0)
JOINT_LATENT_REGRESSOR = joint_latent_regressor.Config(**TINY, decayed_epochs=1)

LARSEN = {
    "image_size": 8,
    "latent_size": 4,
    "decoder_widths": (6, 4),
    "grid_width": 6,
    "discriminator_widths": (4, 6, 6),
    "discriminator_hidden": 8,
    "epochs": 1,
    "batch_size": BATCH,
}
ENCODING = {"encoder_widths": (4, 6), "encoder_hidden": 8}
GAN = gan.Config(**LARSEN)
VAE_GAN = vae_gan.Config(**LARSEN, **ENCODING, gamma=0.1)
VAE_DIS = vae_dis.Config(**LARSEN, **ENCODING, adversarial_epochs=1)


def faces(count: int, size: int | tuple[int, int] = 32, attributes: int = 10) -> dict[str, np.ndarray]:
    """Noise with a brightness that depends on the attributes."""
    generator, sides = np.random.default_rng(0), (size, size) if isinstance(size, int) else size
    bits = generator.integers(0, 2, (count, attributes)).astype(np.float32)
    noise = generator.integers(0, 128, (count, *sides, 3)).astype(np.float32)
    return {"image": (noise + 12 * bits.sum(1)[:, None, None, None]).astype(np.uint8), "attributes": bits}


def small_faces(count: int) -> dict[str, np.ndarray]:
    """The same on 16x16 pixels."""
    return faces(count, 16)


def tiny_faces(count: int) -> dict[str, np.ndarray]:
    """The same on 8x8 pixels."""
    return faces(count, 8)


def with_relief(params: Mapping[str, Any]) -> dict[str, Any]:
    """StyleALAE with noise on its constant: drawn as ones, it is flat, and instance norm divides rounding by 1e-4."""
    block = params["generator_4"]["block"]
    noise = np.random.default_rng(1).normal(size=block["constant"].shape).astype(np.float32)
    own = {**params["generator_4"], "block": {**block, "constant": block["constant"] + noise}}
    return {**params, "generator_4": own}


def row(module: ModuleType, config: Any, batch: Callable[[int], Mapping[str, np.ndarray]]) -> Row:
    """A row of the table from a module of the zoo and its config."""
    return Row(lambda: module.build(config), lambda: module.phases(config, steps_per_epoch=3), batch)


TABLE = {
    "multimodal": row(multimodal, MULTIMODAL, faces),
    "attribute_classifier": row(attribute_classifier, ATTRIBUTE_CLASSIFIER, faces),
    "autoencoder": row(autoencoder, AUTOENCODER, small_faces),
    "vae": row(vae, VAE, small_faces),
    "beta_vae": row(beta_vae, BETA_VAE, small_faces),
    "beta_tcvae": row(beta_tcvae, BETA_TCVAE, small_faces),
    "cvae": row(cvae, CVAE, lambda count: faces(count, CVAE.image_size)),
    "alae": row(alae, ALAE, tiny_faces),
    "style_alae": Row(  # the phase that does all that others do
        lambda: style_alae.build(STYLE_ALAE), lambda: style_alae.phases(STYLE_ALAE, 1)[1:2], tiny_faces, with_relief
    ),
    "bigan": row(bigan, BIGAN, tiny_faces),
    "latent_regressor": row(latent_regressor, LATENT_REGRESSOR, tiny_faces),
    "joint_latent_regressor": row(joint_latent_regressor, JOINT_LATENT_REGRESSOR, tiny_faces),
    "vae_gan": row(vae_gan, VAE_GAN, tiny_faces),
    "gan": row(gan, GAN, tiny_faces),
    "vae_dis": row(vae_dis, VAE_DIS, tiny_faces),
}
