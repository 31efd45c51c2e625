"""The beta-VAE (Higgins et al., 2017), in the networks of Schik by default.

Minimises -log p(x | z) + beta KL(q(z | x) || N(0, I)), sums over pixels and dimensions in nats, means over the batch.
"""

from __future__ import annotations

import dataclasses

from mvae_jax.models import _autoencoding
from mvae_jax.models._autoencoding import phases
from mvae_jax.models._checks import check_at_least
from mvae_jax.objective import Model

__all__ = ["Config", "build", "phases"]


@dataclasses.dataclass(frozen=True)
class Config(_autoencoding.VariationalConfig):
    """The beta-VAE; defaults are the paper's, repaired where paper and released code disagree.

    Attributes:
        beta: weight of the KL divergence, whose sum over latent dimensions stands beside a sum over pixels.
    """

    beta: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "beta")

    @classmethod
    def reference(cls) -> Config:
        """As the released code (SC-01, SC-02, SC-04): its script never passes beta, which stays 1."""
        return cls(**_autoencoding.RELEASED, beta=1.0)

    @property
    def divergence_weights(self) -> dict[str, float]:
        """What the objective's divergences are multiplied by."""
        return {"kl": self.beta}


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `Model`."""
    return _autoencoding.build(config, kl_weight=config.beta)
