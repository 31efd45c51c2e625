"""The models: one file or folder per family, with Configs, `phases`, and `build`, which returns an `objective.Model`.

A family's public functions are its mathematics: `terms` are pure, {name: [B]}, and `build` binds the others to a
config. `checks` and `common` hold what stands in several families. `ZOO` names every model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mvae_jax.models import (
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


class ZooModel(Protocol):
    """Contract of the zoo: what trains, loads and measures a model knows nothing else of it."""

    @property
    def config(self) -> Callable[..., Any]:
        """Class of the config: a frozen dataclass whose fields all have defaults and are JSON values or dataclasses.

        It has `image_size`, None of a model of codes, and `batch_size`, and refuses impossible values by a ValueError.
        """

    @property
    def build(self) -> Callable[..., Model]:
        """(config) -> the model's pure functions."""

    @property
    def phases(self) -> Callable[[Any, int], tuple[Phase, ...]]:
        """(config, steps_per_epoch) -> the phases of training, in their order."""

    @property
    def lengths(self) -> tuple[str, ...]:
        """Fields of the config that are lengths of the phases, in their order; "a.b" is field b of field a.

        They may change after training: a run goes on if the last one grows.
        """

    @property
    def from_data(self) -> Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] | None:
        """(config, training examples by name) -> arguments of `build` that the data give; None if they give none.

        A loaded run is built without: what they were is in its state.
        """

    @property
    def takes_missing(self) -> bool:
        """Whether values of a batch may be missing, as "present/NAME" says."""

    @property
    def check_data(self) -> Callable[[Any, Mapping[str, Any]], None] | None:
        """(config, examples by name) refuses, by a ValueError, values that it is not for; None if shapes say all."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the zoo; its attributes are those of `ZooModel`."""

    config: Callable[..., Any]
    build: Callable[..., Model]
    phases: Callable[[Any, int], tuple[Phase, ...]]
    lengths: tuple[str, ...] = ("epochs",)
    from_data: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] | None = None
    check_data: Callable[[Any, Mapping[str, Any]], None] | None = None
    takes_missing: bool = False


def _of_modalities(config: Callable[..., Any]) -> Entry:
    family = multimodal_vaes
    return Entry(config, family.build, family.phases, check_data=family.check_data, takes_missing=True)


ZOO: dict[str, ZooModel] = {
    "multimodal": Entry(
        multimodal.Config,
        multimodal.build,
        multimodal.phases,
        lengths=("unimodal.epochs", "alignment.epochs", "adversarial.epochs"),
    ),
    "attribute_classifier": Entry(attribute_classifier.Config, attribute_classifier.build, attribute_classifier.phases),
    "latent_flow": Entry(
        *(latent_flow.Config, latent_flow.build, latent_flow.phases),
        from_data=latent_flow.from_data,
        takes_missing=True,
    ),
    "autoencoder": Entry(autoencoders.AutoencoderConfig, autoencoders.build, autoencoders.phases),
    "vae": Entry(autoencoders.VAEConfig, autoencoders.build, autoencoders.phases),
    "beta_vae": Entry(autoencoders.BetaVAEConfig, autoencoders.build, autoencoders.phases),
    "beta_tcvae": Entry(autoencoders.BetaTCVAEConfig, autoencoders.build, autoencoders.phases),
    "cvae": Entry(cvae.Config, cvae.build, cvae.phases),
    "mvae": _of_modalities(multimodal_vaes.MVAEConfig),
    "mmvae": _of_modalities(multimodal_vaes.MMVAEConfig),
    "mopoe": _of_modalities(multimodal_vaes.MoPoEConfig),
    "mvtcae": _of_modalities(multimodal_vaes.MVTCAEConfig),
    "mmvae_plus": _of_modalities(multimodal_vaes.MMVAEPlusConfig),
    "jmvae": _of_modalities(multimodal_vaes.JMVAEConfig),
    "cada_vae": _of_modalities(multimodal_vaes.CADAVAEConfig),
    "alae": Entry(alae.ALAEConfig, alae.mlp.build, alae.mlp.phases),
    "style_alae": Entry(alae.StyleALAEConfig, alae.style.build, alae.style.phases, lengths=("last_images",)),
    "bigan": Entry(bigan.BiGANConfig, bigan.build, bigan.phases),
    "latent_regressor": Entry(bigan.LatentRegressorConfig, bigan.build, bigan.phases),
    "joint_latent_regressor": Entry(bigan.JointLatentRegressorConfig, bigan.build, bigan.phases),
    "vae_gan": Entry(vae_gan.VAEGANConfig, vae_gan.build, vae_gan.phases),
    "gan": Entry(vae_gan.GANConfig, vae_gan.build, vae_gan.phases),
    "vae_dis": Entry(vae_gan.VAEDisConfig, vae_gan.build, vae_gan.phases, lengths=("adversarial_epochs", "epochs")),
}
