"""The VAE of `tools/whole_runs.py` as a user of Flax writes it: stock layers, Optax, a jitted step in a loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _whole_run
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from flax.training import train_state

_glorot = nn.initializers.glorot_uniform()


class TrainState(train_state.TrainState):
    """Parameters and optimiser, and the running statistics of batch norm."""

    batch_stats: Any


def _activated(x: jax.Array, train: bool) -> jax.Array:
    x = nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3)(x)
    return nn.leaky_relu(x, 0.3)


class Encoder(nn.Module):
    """Images [B, S, S, C] to means and log variances, each [B, D]."""

    latent_size: int
    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Strided convolutions down to one pixel, then two linear heads."""
        for width in self.widths:
            x = nn.Conv(width, (4, 4), strides=2, use_bias=False, kernel_init=_glorot)(x)
            x = _activated(x, train)
        x = nn.Conv(self.latent_size, (4, 4), strides=2, use_bias=False, kernel_init=_glorot)(x)
        x = x.reshape(len(x), -1)
        mean = nn.Dense(self.latent_size, kernel_init=_glorot)(x)
        return mean, nn.Dense(self.latent_size, kernel_init=_glorot)(x)


class Decoder(nn.Module):
    """Latents [B, D] to images [B, S, S, C] in [0, 1]."""

    channels: int
    widths: Sequence[int]

    @nn.compact
    def __call__(self, z: jax.Array, train: bool) -> jax.Array:
        """Transposed convolutions from one pixel on, and a last convolution."""
        x = z[:, None, None, :]
        x = nn.ConvTranspose(self.widths[-1], (1, 1), use_bias=False, kernel_init=_glorot)(x)
        x = _activated(x, train)
        widths = [*self.widths[-2::-1], self.channels]
        for stage, width in enumerate(widths):
            stride, padding = (2, "SAME") if stage else (1, "VALID")
            bias = stage == len(widths) - 2
            x = nn.ConvTranspose(
                width, (4, 4), strides=(stride, stride), padding=padding, use_bias=bias, kernel_init=_glorot
            )(x)
            x = _activated(x, train)
        return nn.sigmoid(nn.Conv(self.channels, (5, 5), use_bias=False, kernel_init=_glorot)(x))


class VAE(nn.Module):
    """Encoder, one sample, decoder."""

    latent_size: int
    channels: int
    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array, key: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reconstructions, means and log variances."""
        mean, logvar = Encoder(self.latent_size, self.widths)(x, train)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        return Decoder(self.channels, self.widths)(z, train), mean, logvar


def loss_of(reconstruction: jax.Array, x: jax.Array, mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """Half of the squared errors and the divergence, summed over an image; the mean over the batch."""
    error = 0.5 * jnp.sum((reconstruction - x) ** 2, axis=(1, 2, 3))
    divergence = -0.5 * jnp.sum(1 + logvar - mean**2 - jnp.exp(logvar), axis=1)
    return jnp.mean(error + divergence)


@jax.jit
def train_step(state: TrainState, x: jax.Array, key: jax.Array) -> tuple[TrainState, jax.Array]:
    """One step of Adam."""

    def forward(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        (y, mean, logvar), updated = state.apply_fn(variables, x, key, train=True, mutable=["batch_stats"])
        return loss_of(y, x, mean, logvar), updated["batch_stats"]

    (loss, stats), gradients = jax.value_and_grad(forward, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients, batch_stats=stats), loss


@jax.jit
def validation_step(state: TrainState, x: jax.Array, key: jax.Array) -> jax.Array:
    """The loss by running statistics."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    y, mean, logvar = state.apply_fn(variables, x, key, train=False)
    return loss_of(y, x, mean, logvar)


def main() -> None:
    """Trains and saves, or only counts the parameters."""
    settings = _whole_run.settings()
    config = settings["config"]
    size, batch_size = config["image_size"], config["batch_size"]
    model = VAE(config["latent_size"], config["channels"], config["widths"])
    key, init_key = jax.random.split(jax.random.key(0))
    example = jnp.zeros((1, size, size, config["channels"]))
    losses, ends = [], []
    if settings["count_only"]:
        params = jax.eval_shape(lambda key: model.init(key, example, key, train=False), init_key)["params"]
    else:
        images = _whole_run.images(settings).astype(np.float32) / 255
        images, held_out = images[: settings["train"]], images[settings["train"] :]
        variables = model.init(init_key, example, init_key, train=False)
        state = TrainState.create(
            apply_fn=model.apply,
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            tx=optax.adam(config["learning_rate"], eps=1e-7),
        )
        generator, step = np.random.default_rng(0), 0
        for _ in range(config["epochs"]):
            order, step_losses = generator.permutation(len(images)), []
            for begin in range(0, len(images), batch_size):
                batch = images[order[begin : begin + batch_size]]
                state, loss = train_step(state, batch, jax.random.fold_in(key, step))
                step_losses.append(loss)
                step += 1
            for begin in range(0, len(held_out), batch_size):
                validation_step(state, held_out[begin : begin + batch_size], key).block_until_ready()
            losses.append(float(np.mean(jax.device_get(step_losses))))
            ends.append(time.perf_counter())
        Path(settings["folder"], "model.msgpack").write_bytes(serialization.to_bytes(state))
        params = state.params
    _whole_run.answer(settings, (leaf.size for leaf in jax.tree.leaves(params)), losses, ends)


if __name__ == "__main__":
    main()
