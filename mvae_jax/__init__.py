"""Generative autoencoders in JAX: one set of pure functions for encoders, decoders, discriminators and losses.

A room is loaded when it is first used: `import mvae_jax; mvae_jax.losses` or `from mvae_jax import losses`.

    losses, gaussian, random    mathematics: arrays in, arrays out
    meshes, numerics            how its arrays lie on a mesh; what keeps its numbers finite
    testing                     oracles for loss mathematics, and gradient checks
    images, attributes          value ranges of images; names of face attributes
    nets                        Flax networks
    objective                   the vocabulary of models: who minimises what
    models                      the zoo: one family of models per file or folder
    optimizers, augmentation    gradient transformations; random changes of training images
    data                        data sets, from bytes to batches
    train                       steps, devices, checkpoints and logs; knows no model
    cpu                         what makes XLA's CPU backend fast
    eval, viz                   measures and pictures of trained models
    experiment                  one way from a command line to a report
    export                      trained models taken out of their workdirs
    runs                        training and loading from Python
    fields                      names, values and meanings of the fields of Configs
    files, exits, terminal      files that change as a whole; how programs end; lines for a terminal
    commands                    the console script `mvae-jax`

`docs/architecture.md` in the repository has the whole picture.
"""

from mvae_jax import _lazy

__version__ = "0.1.0"
__getattr__, __dir__ = _lazy.modules(__name__)
