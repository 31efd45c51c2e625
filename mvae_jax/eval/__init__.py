"""Measures of trained models: from arrays, or from pure encode functions that the caller passes in.

Of images: `reconstruction`, `sharpness`, `fid`, `kernel_distance`, `manifold`. Of latent spaces: `likelihood`,
`disentanglement`, `directions`, `perceptual_path`, `probes`. Of images and attributes: `classification`, `consistency`,
`cross_modal`, `partial_captions`; `disturbances` changes images for them. Of any modalities: `multimodal`. `features`
are those in which sets of images are compared; `stability` sees whether adversarial training has collapsed; `batched`
applies a model's functions to whole splits.

A measure refuses arguments that hold values that are not finite, unless its docstring says otherwise, and computes in
float32 at least.
"""

from mvae_jax import _lazy

__getattr__, __dir__ = _lazy.modules(__name__)
