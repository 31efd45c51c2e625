"""Pictures of trained models: every figure is a `PIL.Image.Image`; a report gathers them in one HTML file.

`grids` and `traversals` show images, `projections` latent spaces, `curves`, `scores`, `sweeps` and `tradeoff` numbers;
`report` writes the page.
"""

from mvae_jax import _lazy

__getattr__, __dir__ = _lazy.modules(__name__)
