"""Data sets as they are published, and a user's images: one module each, from an archive to arrays.

celebamask_hq:   CelebAMask-HQ
celeba:          CelebA
cub:             CUB-200-2011
mnist:           MNIST and data sets of its layout, and scikit-learn's digits
five_views:      five pictures of each digit, as modalities
folder:          a user's images with a CSV
images:          a user's images alone
catalogue:       CelebAMask-HQ and CelebA prepared for TensorFlow Datasets
delimited:       text files with columns, whatever program has saved them
listing:         annotation files with one row per image
"""

from mvae_jax import _lazy

__getattr__, __dir__ = _lazy.modules(__name__)
