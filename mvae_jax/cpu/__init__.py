"""Formulations and switches without which XLA's CPU backend, or the C library below it, is slow.

Nothing here changes what is computed beyond rounding; accelerators get plain XLA. `convolution` has the formulations of
convolutions, `memory` the allocator's switches, `xla` the compiler's options.
"""

from mvae_jax import _lazy

__getattr__, __dir__ = _lazy.modules(__name__)
