"""One file per model: a Config, and `build(config, ...)` that returns an `objective.Model`."""

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

ZOO = {
    "multimodal": multimodal,
    "attribute_classifier": attribute_classifier,
    "autoencoder": autoencoder,
    "vae": vae,
    "beta_vae": beta_vae,
    "beta_tcvae": beta_tcvae,
    "cvae": cvae,
    "alae": alae,
    "style_alae": style_alae,
    "bigan": bigan,
    "latent_regressor": latent_regressor,
    "joint_latent_regressor": joint_latent_regressor,
    "vae_gan": vae_gan,
    "gan": gan,
    "vae_dis": vae_dis,
}
