"""One file per model: a Config, and `build(config, ...)` that returns an `objective.Model`."""

from mvae_jax.models import attribute_classifier, multimodal

ZOO = {"multimodal": multimodal, "attribute_classifier": attribute_classifier}
