"""A trained model taken out of its workdir: a folder of weights, settings, compiled functions and a card.

    weights.safetensors   parameters and batch statistics, float32, by names such as params/encoder/Conv_0/kernel
    config.json           settings and provenance, as in the run's workdir
    export.json           phase and step, the functions with their shapes, a sum of every file
    scores.json           what the run's evaluation measured of this checkpoint, if anything
    functions/NAME.jax    the model's functions for CPU, CUDA and TPU, which `jax.export` reads
    README.md             the model's card
    latent_flow/          likewise, of the learned prior over the model's codes, if there is one

`runs.Run.export` and `mvae-jax export` write such a folder, and `runs.load` reads it: weights, settings and sums alone,
never the functions. Those are for programs that have JAX and not this package.
"""

from mvae_jax.export.folder import (
    MANIFEST,
    PRIOR,
    Export,
    check_prior,
    check_replaceable,
    check_weights,
    is_export,
    prior,
    read,
    scores,
    write,
)

__all__ = [
    "MANIFEST",
    "PRIOR",
    "Export",
    "check_prior",
    "check_replaceable",
    "check_weights",
    "is_export",
    "prior",
    "read",
    "scores",
    "write",
]
