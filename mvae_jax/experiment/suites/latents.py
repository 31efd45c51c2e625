"""Latent spaces drawn: one dimension at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, runs
from mvae_jax.eval.batched import in_chunks, to_bytes
from mvae_jax.viz import traversals


def traversal(
    run: runs.Run, x: jax.Array, examples: jax.Array, reach: float, steps: int, rows: int = 6
) -> dict[str, np.ndarray]:
    """Pictures along the latent dimensions with the largest KL, from the code of one image.

    Args:
        run: a trained variational autoencoder.
        x: the image, [1, H, W, C] in [-1, 1].
        examples: images that tell the KL of each dimension, [N, H, W, C].
        reach: each dimension goes from minus to plus this value; the prior's standard deviation is 1.
        steps: V, pictures per dimension.
        rows: how many dimensions.

    Returns:
        {name and KL of the dimension: uint8 [V, H, W, C]}.
    """
    mean, logvar = in_chunks(run.encode)(examples)
    kl = np.asarray(gaussian.kl_divergence(mean, logvar, 0.0, 0.0).mean(0))
    values, code = jnp.linspace(-reach, reach, steps), run.encode(x)[0][0]
    pictures = {}
    for dimension in np.argsort(-kl)[:rows]:
        codes = jnp.tile(code, (steps, 1)).at[:, dimension].set(values)
        pictures[f"z{dimension}, KL {kl[dimension]:.2f}"] = to_bytes(run.decode(codes))
    return pictures


def traversal_figures(
    name: str, caption: str, run: runs.Run, x: jax.Array, examples: jax.Array, reach: float, steps: int
) -> dict[str, tuple[str, Any]]:
    """A sheet and an animation of `traversal`, under a name and with a caption."""
    rows = traversal(run, x, examples, reach, steps)
    return {
        name: (caption, traversals.sheet(rows)),
        f"{name}_animated": (f"{caption}, animated", traversals.animation(rows)),
    }
