"""A model of a few hundred parameters with everything that a run must remember, for tests of the training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mvae_jax.data.batches import Batches, Split
from mvae_jax.objective import Losses, Model, Phase, Round

BATCH = 4
SEED = 3
_PIXELS, _LATENT = 16, 3


def split(count: int, seed: int = 0) -> Split:
    """Images of two brightnesses, with their numbers."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 128, (count, 4, 4, 1)) + 100 * generator.integers(0, 2, (count, 1, 1, 1))
    return Split({"image": images.astype(np.uint8), "index": np.arange(count, dtype=np.int32)})


TRAIN, VALIDATION = split(14), split(11, seed=1)  # three batches and a rest: three steps per epoch


def phases(first: Mapping = {}, second: Mapping = {}) -> tuple[Phase, ...]:
    """Two epochs of a VAE, then three with a critic and a moving average; both may be changed."""
    rates = {"vae": 0.01, "critic": lambda step: 0.01 / (1 + step)}
    one = Phase("first", steps=6, batch_size=BATCH, learning_rates=rates, weights={"critic": 0.0})
    two = Phase("second", steps=9, batch_size=BATCH, learning_rates=rates, weights={"critic": 0.1}, ema_decay=0.9)
    one = dataclasses.replace(one, **first)
    return one, dataclasses.replace(two, start=one.end, **second)


def batches(phase: Phase) -> Batches:
    return Batches(TRAIN, phase.batch_size, SEED, phase.start)


def build(optimizer=lambda: optax.adam(1.0)) -> Model:
    """A VAE with a KL warm-up and running statistics, a critic of its reconstructions, and a frozen group.

    Of `Phase.options`, `poison` = (first, last) makes the loss NaN in these steps of the phase, and `best_after` the
    validation loss smallest after that many steps of the run.
    """

    def init(key, batch):
        keys = iter(jax.random.split(key, 4))

        def dense(inputs, outputs):
            return {"kernel": 0.3 * jax.random.normal(next(keys), (inputs, outputs)), "bias": jnp.zeros(outputs)}

        params = {
            "vae": {"encoder": dense(_PIXELS, 2 * _LATENT), "decoder": dense(_LATENT, _PIXELS)},
            "critic": dense(_PIXELS, 1),
            "frozen": {"scale": 1.0 + jax.random.uniform(next(keys), (_PIXELS,))},
        }
        return params, {"vae": {"mean": jnp.zeros(_PIXELS), "steps": jnp.zeros(())}, "critic": {}}

    def forward(params, mean, batch, noise):
        x = batch["image"].reshape(-1, _PIXELS) / 255.0
        h = _apply(params["vae"]["encoder"], (x - mean[None]) * params["frozen"]["scale"][None])
        posterior, logvar = h[:, :_LATENT], h[:, _LATENT:]
        y = jax.nn.sigmoid(_apply(params["vae"]["decoder"], posterior + jnp.exp(0.5 * logvar) * noise))
        kl = 0.5 * (posterior**2 + jnp.exp(logvar) - 1 - logvar).sum(1)
        return x, y, jnp.square(x - y).sum(1), kl

    def rounds(phase, axis_name=None):
        first, last = phase.options.get("poison", (0, 0))

        def vae(params, state, batch, key, step):
            noise = jax.random.normal(key, (len(batch["image"]), _LATENT))
            mean = (batch["image"].reshape(-1, _PIXELS) / 255.0).mean(0)
            _, y, error, kl = forward(params, mean, batch, noise)
            warm = jnp.minimum(1.0, (1 + step) / 10)
            verdict = -phase.weights["critic"] * _apply(params["critic"], y).mean()
            loss = (error + warm * kl).mean() + verdict
            loss = jnp.where((first <= step) & (step < last), jnp.nan, loss)
            old = state["vae"]
            new = {"mean": 0.9 * old["mean"] + 0.1 * mean, "steps": old["steps"] + 1}
            metrics = {"loss": loss, "kl": kl.mean(), "examples": batch["index"].astype(jnp.float32).mean()}
            return Losses({"vae": loss}, metrics, {"vae": new})

        def critic(params, state, batch, key, step):
            noise = jax.random.normal(key, (len(batch["image"]), _LATENT))
            x, y, _, _ = forward(params, state["vae"]["mean"], batch, noise)
            gap = (_apply(params["critic"], y) - _apply(params["critic"], x)).mean()
            return Losses({"critic": gap}, {"gap": gap}, {})

        players = (Round({"vae": ("vae",)}, vae),)
        if phase.weights["critic"]:
            players = (Round({"critic": ("critic",)}, critic), *players)
        return players

    def optimizers(phase):
        groups = ("vae", "critic") if phase.weights["critic"] else ("vae",)
        return {group: optax.chain(optax.clip_by_global_norm(1.0), optimizer()) for group in groups}

    def evaluate(phase):
        def terms(params, state, batch, key):
            _, _, error, kl = forward(params, state["vae"]["mean"], batch, 0.0)
            best = phase.options.get("best_after")
            distance = 0.0 if best is None else jnp.square(state["vae"]["steps"] - best)
            return {"loss": error + kl + distance, "kl": kl, "number": batch["index"].astype(jnp.float32)}

        return terms

    return Model(init=init, rounds=rounds, optimizers=optimizers, evaluate=evaluate)


def _apply(dense, x):
    return x @ dense["kernel"] + dense["bias"][None]
