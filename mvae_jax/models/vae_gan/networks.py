"""Networks of the GAN, the VAE with a learned similarity, and VAE/GAN, with their parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mvae_jax import images, nets
from mvae_jax.models.vae_gan.configs import AdversarialConfig, EncodingConfig
from mvae_jax.objective import Batch, ModelState, Params


def init(config: AdversarialConfig, key: jax.Array, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws the parameters of all networks that the config has."""
    images.check_batch(batch, image=config.image_shape)
    x = images.to_float(batch["image"])
    networks = {
        "decoder": (config.decoder(), jnp.zeros((len(x), config.latent_size))),
        "discriminator": (config.discriminator(), x),
    }
    if isinstance(config, EncodingConfig):
        networks = {"encoder": (config.encoder(), x), **networks}
    params, state = {}, {}
    for key_of_group, (group, (net, example)) in zip(
        jax.random.split(key, len(networks)), networks.items(), strict=True
    ):
        params[group], state[group] = nets.init(net, key_of_group, example)
    return params, state


class Networks(NamedTuple):
    """The networks with their parameters and batch statistics, in training or in evaluation mode.

    Methods that return a pair return new batch statistics second; in evaluation mode these are the old ones.
    """

    config: Any  # AdversarialConfig, or EncodingConfig to encode
    params: Params
    state: ModelState
    train: bool = False
    axis_name: str | None = None

    def encode(self, x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Any]:
        """Mean and log variance, each [B, D]."""
        return self._run("encoder", self.config.encoder(self.axis_name), x)

    def decode(self, z: jax.Array) -> tuple[jax.Array, Any]:
        """Images [B, S, S, C] in [-1, 1]."""
        output, stats = self._run("decoder", self.config.decoder(self.axis_name), z)
        return jnp.tanh(output), stats

    def discriminate(self, x: jax.Array) -> tuple[jax.Array, Any]:
        """Logits [B], positive for "real"."""
        (logits, _), stats = self._run("discriminator", self.config.discriminator(self.axis_name), x)
        return logits, stats

    def features(self, x: jax.Array) -> jax.Array:
        """Dis_l, [B, S', S', C']."""
        return self._run("discriminator", self.config.discriminator(self.axis_name, features_only=True), x)[0]

    def _run(self, group: str, net: nn.Module, value: jax.Array) -> tuple[Any, Any]:
        return nets.apply(net, self.params[group], self.state[group], value, train=self.train)
