"""Whether an image is like those that a model was trained on: its error and its divergence beside those of such images.

A model says something of any image, and of one that is unlike its training images with as much confidence. Here an
image counts as unlike them if its reconstruction error or the KL divergence of its posterior from the prior is above
that of 99 % of the calibration images, which are of the same kind and were not trained on. That it is below is no proof
that the image is like them: a model of rendered faces finds 58 % of 200 photos of CelebA unlike its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mvae_jax import images, losses, runs
from mvae_jax.eval.batched import in_chunks, pixels
from mvae_jax.experiment.declaration import Trained

NAME = "typical_images"  # of the measure, and of its result in scores.json
QUANTILE = 0.99
WORDS = {"reconstruction_error": "reconstruction error", "kl": "KL divergence from the prior"}
_CHUNK = 64  # examples at a time: images may be large


def terms(run: runs.Run, x: jax.Array, attributes: Any = None) -> dict[str, jax.Array]:
    """Error and divergence of images.

    Args:
        run: a multimodal VAE, or a CVAE, which takes attributes.
        x: images [B, H, W, C] in [-1, 1].
        attributes: those of the images, [B, A].

    Returns:
        Keys of `WORDS` -> [B]: the mean squared error of the decoded mean, of pixel values in [0, 1], and nats.
    """
    if "encode_image" in run.functions:
        posterior = run.encode_image(x)
        decoded, kl = run.decode_image(posterior[0]), losses.kl_standard_normal(*posterior)
    else:
        posterior = run.encode(x, attributes)
        decoded = run.decode(posterior[0], attributes)
        kl = losses.kl_diag_gaussians(*posterior, *run.prior(attributes))
    error = losses.squared_error(images.to_unit_interval(decoded), images.to_unit_interval(x))
    return {"reconstruction_error": error / np.prod(x.shape[1:]), "kl": kl}


@functools.lru_cache(maxsize=32)
def limits(trained: Trained) -> dict[str, dict[str, float]]:
    """What 99 % of the calibration images do not exceed: {model: {key of `WORDS`: limit}}, and how many there are.

    Measured once, whoever asks for it. Where there are no calibration images, they are those for validation.
    """
    split = trained.data.calibration if len(trained.data.calibration) else trained.data.validation
    rows = {}
    for folder, run in trained.runs.items():
        values = in_chunks(lambda x, a, run=run: terms(run, x, a), _CHUNK)(pixels(split), split["attributes"])
        rows[folder] = {name: float(np.quantile(value, QUANTILE)) for name, value in values.items()}
        rows[folder]["images"] = len(split)
        trained.interruption.check()
    return rows


def excess(values: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    """In what an image is unlike the training images, a phrase each; empty if it is like them.

    Args:
        values: `terms` of the image, [1].
        limits: a row of `limits`.
    """
    found = []
    for name, word in WORDS.items():
        value, limit = float(values[name][0]), float(limits[name])
        if not value <= limit:
            found.append(f"its {word} is {value:.3g}, that of {QUANTILE:.0%} of such images at most {limit:.3g}")
    return found
