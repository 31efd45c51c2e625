"""The table of the zoo's tests: every model with nets small enough to compile in seconds."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mvae_jax.models import (
    ZOO,
    alae,
    attribute_classifier,
    autoencoders,
    bigan,
    cvae,
    latent_flow,
    multimodal,
    multimodal_vaes,
    vae_gan,
)
from mvae_jax.objective import Model, Phase

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """A model, its phases, one batch to try everything on, what is done to drawn parameters first, its config."""

    model: Callable[[], Model]
    phases: Callable[[], tuple[Phase, ...]]
    batch: Callable[[int], Mapping[str, np.ndarray]]
    start: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    config: Any = None


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
AUTOENCODER = autoencoders.AutoencoderConfig(**SMALL)
VAE = autoencoders.VAEConfig(**SMALL, learn_scale=True)
BETA_VAE = autoencoders.BetaVAEConfig(**SMALL, free_bits=0.05, warmup_epochs=1)
BETA_TCVAE = autoencoders.BetaTCVAEConfig(**SMALL)
CVAE = cvae.Config(
    image_size=(18, 14), latent_size=4, widths=(4, 8), prior="conditional", prior_hidden=8, epochs=1, batch_size=BATCH
)

LATENT_FLOW = latent_flow.Config(latent_size=6, width=8, blocks=2, epochs=1, batch_size=BATCH)

TINY = {"image_size": 8, "channels": 3, "latent_size": 4, "widths": (8, 6), "epochs": 1, "batch_size": BATCH}
ALAE = alae.ALAEConfig(**TINY)
STYLE_ALAE = alae.StyleALAEConfig(
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
BIGAN = bigan.BiGANConfig(**TINY, decayed_epochs=1, encoder="gaussian")
LATENT_REGRESSOR = bigan.LatentRegressorConfig(**TINY, decayed_epochs=0)
JOINT_LATENT_REGRESSOR = bigan.JointLatentRegressorConfig(**TINY, decayed_epochs=1)

MODALITIES = (
    multimodal_vaes.Modality("image", (8, 8, 3), "laplace", 0.75, widths=(4, 6)),
    multimodal_vaes.Modality("attributes", (10,), "bernoulli", network="dense", widths=(8,)),
    multimodal_vaes.Modality("pose", (3,), network="dense", widths=(8,), weight=2.0),
)
WITH_PRIVATE = tuple(dataclasses.replace(m, private_size=size) for m, size in zip(MODALITIES, (3, 0, 2), strict=True))
FAMILY = {"modalities": MODALITIES, "latent_size": 4, "epochs": 1, "batch_size": BATCH}
MVAE = multimodal_vaes.MVAEConfig(**FAMILY, subsets=1)
MMVAE = multimodal_vaes.MMVAEConfig(**FAMILY, samples=3)
MOPOE = multimodal_vaes.MoPoEConfig(**FAMILY)
MVTCAE = multimodal_vaes.MVTCAEConfig(**FAMILY)
MMVAE_PLUS = multimodal_vaes.MMVAEPlusConfig(**{**FAMILY, "modalities": WITH_PRIVATE}, samples=3)
JMVAE = multimodal_vaes.JMVAEConfig(**FAMILY, joint_widths=(8,))
CADA_VAE = multimodal_vaes.CADAVAEConfig(**FAMILY)

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
GAN = vae_gan.GANConfig(**LARSEN)
VAE_GAN = vae_gan.VAEGANConfig(**LARSEN, **ENCODING, gamma=0.1)
VAE_DIS = vae_gan.VAEDisConfig(**LARSEN, **ENCODING, adversarial_epochs=1)


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


def codes(count: int) -> dict[str, np.ndarray]:
    """Codes that depend on their attributes, with the deviations of their posteriors."""
    generator, bits = np.random.default_rng(0), faces(count, 1)["attributes"]
    mixed = bits @ generator.normal(size=(bits.shape[1], LATENT_FLOW.latent_size))
    deviation = np.full_like(mixed, 0.1, np.float32)
    return {"code": mixed.astype(np.float32), "deviation": deviation, "attributes": bits}


def posed_faces(count: int) -> dict[str, np.ndarray]:
    """The same with a pose, of which the first example has none, and nor have its neighbours some of the rest."""
    generator, numbers = np.random.default_rng(2), np.arange(count)
    pose = generator.normal(size=(count, 3)).astype(np.float32)
    pose[::4] = np.nan
    present = {
        "present/image": numbers % 5 != 1,
        "present/attributes": numbers % 3 != 2,
        "present/pose": numbers % 4 != 0,
    }
    return {**tiny_faces(count), "pose": pose, **{name: mask.astype(np.float32) for name, mask in present.items()}}


def with_relief(params: Mapping[str, Any]) -> dict[str, Any]:
    """StyleALAE with noise on its constant: drawn as ones, it is flat, and instance norm divides rounding by 1e-4."""
    block = params["generator_4"]["block"]
    noise = np.random.default_rng(1).normal(size=block["constant"].shape).astype(np.float32)
    own = {**params["generator_4"], "block": {**block, "constant": block["constant"] + noise}}
    return {**params, "generator_4": own}


def row(name: str, config: Any, batch: Callable[[int], Mapping[str, np.ndarray]]) -> Row:
    """A row of the table from a name of the zoo and a config."""
    return Row(lambda: ZOO[name].build(config), lambda: ZOO[name].phases(config, 3), batch, config=config)


TABLE = {
    name: row(name, config, batch)
    for name, config, batch in (
        ("multimodal", MULTIMODAL, faces),
        ("attribute_classifier", ATTRIBUTE_CLASSIFIER, faces),
        ("latent_flow", LATENT_FLOW, codes),
        ("autoencoder", AUTOENCODER, small_faces),
        ("vae", VAE, small_faces),
        ("beta_vae", BETA_VAE, small_faces),
        ("beta_tcvae", BETA_TCVAE, small_faces),
        ("cvae", CVAE, lambda count: faces(count, CVAE.image_size)),
        ("mvae", MVAE, posed_faces),
        ("mmvae", MMVAE, posed_faces),
        ("mopoe", MOPOE, posed_faces),
        ("mvtcae", MVTCAE, posed_faces),
        ("mmvae_plus", MMVAE_PLUS, posed_faces),
        ("jmvae", JMVAE, posed_faces),
        ("cada_vae", CADA_VAE, posed_faces),
        ("alae", ALAE, tiny_faces),
        ("bigan", BIGAN, tiny_faces),
        ("latent_regressor", LATENT_REGRESSOR, tiny_faces),
        ("joint_latent_regressor", JOINT_LATENT_REGRESSOR, tiny_faces),
        ("vae_gan", VAE_GAN, tiny_faces),
        ("gan", GAN, tiny_faces),
        ("vae_dis", VAE_DIS, tiny_faces),
    )
}
TABLE["style_alae"] = Row(  # the phase that does all that others do
    lambda: alae.style.build(STYLE_ALAE),
    lambda: alae.style.phases(STYLE_ALAE, 1)[1:2],
    tiny_faces,
    with_relief,
    STYLE_ALAE,
)
