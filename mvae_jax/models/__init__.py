"""One file per model: a Config, and `build(config, ...)` that returns an `objective.Model`."""

from mvae_jax.models import attribute_classifier, autoencoder, beta_tcvae, beta_vae, cvae, multimodal, vae

ZOO = {
    "multimodal": multimodal,
    "attribute_classifier": attribute_classifier,
    "autoencoder": autoencoder,
    "vae": vae,
    "beta_vae": beta_vae,
    "beta_tcvae": beta_tcvae,
    "cvae": cvae,
}
