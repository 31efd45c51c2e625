"""Data sets: from bytes on a disk, or from a renderer, to batches.

sources:      every kind of data set by its name or by what is in a folder or zip: recognised, loaded, verified
source:       contract of a kind, and the settings that kinds share
batches:      contract of training data, splits in memory, and the order in which a run visits them
missing:      modalities that are hidden from a share of the training examples
views:        five pictures of each digit, as modalities
captions:     attributes as sentences, and back
formats:      data sets as they are published, and a user's images with a CSV
rendered:     faces and shapes that are drawn here
pyramid:      images at every resolution, for models that grow
archive:      files in a folder, a zip or a tar
packed:       files within a zip or a tar
names:        names of files in one spelling
signatures:   what a file is by its first bytes, and what to do with it
npy:          arrays of NumPy, of which nothing is believed or evaluated
decode:       image files to arrays, and the cache of these

`from mvae_jax import data` imports none of them; a module is imported when it is asked for.
"""

from mvae_jax import _lazy

__getattr__, __dir__ = _lazy.modules(__name__)
