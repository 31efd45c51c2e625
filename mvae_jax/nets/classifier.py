"""Convolutional classifier of images."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets.blocks import BatchNorm, Conv, Dense, max_pool


class ImageClassifier(nn.Module):
    """Images to logits, and to the features that the logits are linear in.

    One [Conv3, 2x2 max pooling, BN, ReLU] per width, the first with stride 2 in the place of pooling; then dropout,
    Dense(hidden), ReLU, dropout, Dense(outputs).

    Attributes:
        outputs: number of logits A.
        widths: channels of each stage; each halves the image.
        hidden: number of features F.
        dropout: fraction of activations that training sets to zero.
        axis_name: mapped axis over which the batch is split; None if arrays are the whole batch.
        dtype: of the computation.
    """

    outputs: int
    widths: tuple[int, ...] = (32, 64, 96, 128)
    hidden: int = 128
    dropout: float = 0.1
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, keys: jax.Array | None = None, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Images [B, H, W, 3] in [-1, 1] to (logits, features), float32 [B, A] and [B, F].

        Dropout draws with one of `keys`, [B], per example, whatever device that is on. Without keys, and in
        evaluation, there is none; the features returned are those before dropout.
        """

        def drop(h: jax.Array, site: int) -> jax.Array:
            if keys is None or not train:
                return h
            return dropout(jax.vmap(jax.random.fold_in, (0, None))(keys, site), h, self.dropout)

        factor = 2 ** len(self.widths)
        if images.ndim != 4 or images.shape[1] % factor or images.shape[2] % factor:
            raise ValueError(f"images have shape {images.shape}, expected [B, H, W, C], H and W multiples of {factor}.")
        h = images
        for stage, width in enumerate(self.widths):
            h = Conv(width, use_bias=False, stride=1 if stage else 2, dtype=self.dtype)(h)
            h = max_pool(h) if stage else h  # before the norm, which is left with a quarter of the pixels
            h = nn.relu(BatchNorm(self.axis_name, dtype=self.dtype)(h, train))
        h = drop(h.reshape(h.shape[0], -1), 0)
        features = nn.relu(Dense(self.hidden, dtype=self.dtype, name="features")(h))
        logits = Dense(self.outputs, dtype=self.dtype, name="logits")(drop(features, 1))
        return logits.astype(jnp.float32), features.astype(jnp.float32)


def dropout(keys: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Sets a fraction of the activations to zero and scales the others, so that the expectation stays.

    Args:
        keys: one key per example, [B], that serves nothing else.
        x: activations, [B, ...].
        rate: probability of a zero, in [0, 1).

    Reference:
        Srivastava et al., 2014, Dropout.
    """
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), 0.0)
