"""Residual MLP of a flow's velocity: of vectors, times and conditions."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mvae_jax.nets.blocks import Dense, LayerNorm

_FREQUENCIES = 16  # of the sinusoids of the time


class VelocityMLP(nn.Module):
    """Vectors, times and conditions to velocities.

    Each block is x + gate * Dense(SiLU(Dense(shift + (1 + scale) * LayerNorm(x)))), where shift, scale and gate are
    linear in an embedding of time and condition. The output layer and all gates start at zero, so that the network
    begins as the zero function.

    Attributes:
        width: channels of the blocks and of the embedding.
        blocks: number of blocks.
        expansion: factor of the width between the two layers of a block.
        dtype: of the products.

    Reference:
        Peebles and Xie, 2023, arXiv:2212.09748, section 3.2 (adaLN-Zero).
    """

    width: int = 256
    blocks: int = 4
    expansion: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: jax.Array, *, train: bool) -> jax.Array:
        """[B, D], times [B] in [0, 1] and conditions [B, C] to float32 [B, D]; training and evaluation are alike."""
        embedding = jnp.concatenate([sinusoids(t), condition], axis=1)
        for layer in ("embedding", "embedding_hidden"):
            embedding = nn.silu(self._dense(self.width, layer)(embedding))
        h = self._dense(self.width, "input")(x)
        for block in range(self.blocks):
            adapted = self._dense(3 * self.width, f"adaptation_{block}", zeros=True)(embedding)
            shift, scale, gate = jnp.split(adapted, 3, axis=1)
            inner = self._dense(self.expansion * self.width, f"expanded_{block}")(shift + (1 + scale) * _norm(h))
            h = h + gate * self._dense(self.width, f"contracted_{block}")(nn.silu(inner))
        shift, scale = jnp.split(self._dense(2 * self.width, "adaptation_output", zeros=True)(embedding), 2, axis=1)
        return self._dense(x.shape[1], "output", zeros=True)(shift + (1 + scale) * _norm(h))

    def _dense(self, features: int, name: str, *, zeros: bool = False) -> Callable[[jax.Array], jax.Array]:
        """A layer that multiplies in `dtype`; all that is not a product is float32."""
        start = nn.initializers.zeros if zeros else None
        layer = Dense(features, kernel_init=start, bias_init=start, dtype=self.dtype, name=name)
        return lambda x: layer(x).astype(jnp.float32)


def _norm(h: jax.Array) -> jax.Array:
    return LayerNorm(use_scale=False, use_bias=False)(h)


def sinusoids(t: jax.Array) -> jax.Array:
    """Sines and cosines of times [B] in [0, 1], of 1 to 1,000 radians per unit of time in equal ratios: [B, 32]."""
    angles = t[:, None] * 1000.0 ** (jnp.arange(_FREQUENCIES)[None] / (_FREQUENCIES - 1))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
