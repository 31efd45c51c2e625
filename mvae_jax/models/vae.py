"""The variational autoencoder (Kingma and Welling, 2014), in the networks of Schik by default.

Minimises the negative evidence lower bound, -log p(x | z) + KL(q(z | x) || N(0, I)), sums over pixels and dimensions in
nats, means over the batch.
"""

from __future__ import annotations

import dataclasses

from mvae_jax.models import _autoencoding
from mvae_jax.models._autoencoding import phases
from mvae_jax.objective import Model

__all__ = ["Config", "build", "phases"]


@dataclasses.dataclass(frozen=True)
class Config(_autoencoding.VariationalConfig):
    """The variational autoencoder; defaults are the paper's, repaired where paper and released code disagree."""

    @classmethod
    def reference(cls) -> Config:
        """As the released code (SC-02, SC-04)."""
        return cls(**_autoencoding.RELEASED)

    @property
    def divergence_weights(self) -> dict[str, float]:
        """What the objective's divergences are multiplied by."""
        return {"kl": 1.0}


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `Model`."""
    return _autoencoding.build(config, kl_weight=1.0)
