"""Images that are drawn here, with known attributes and factors.

faces:          shaded portraits with attributes and factors
binned_faces:   the same with factors in bins, for scores of disentanglement
shapes:         shapes of dSprites, rendered or read from the published file
"""

from mvae_jax import _lazy

__getattr__, __dir__ = _lazy.modules(__name__)
