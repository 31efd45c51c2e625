"""One file per model: a Config, and `build(config, ...)` that returns an `objective.Model`."""

from mvae_jax.models import multimodal

ZOO = {"multimodal": multimodal}
