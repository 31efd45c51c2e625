"""The beta-TCVAE (Chen et al., 2018), in the networks of Schik by default.

The KL divergence from the prior is, on average over the data, the sum of three parts: the mutual information of example
and latent, the total correlation of the aggregated posterior, and the KL divergence of its marginals. This model gives
each its own weight,

    -log p(x | z) + alpha MI + beta TC + gamma (dimension-wise KL),

sums over pixels and dimensions in nats, means over the batch. It is trained as KL + (alpha - 1) MI + (beta - 1) TC +
(gamma - 1) DW, so that what has weight 1 is not estimated: the closed-form KL has no noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mvae_jax import losses
from mvae_jax.models import _autoencoding
from mvae_jax.models._autoencoding import phases
from mvae_jax.models._checks import check_at_least, check_choice
from mvae_jax.objective import Model

__all__ = ["Config", "build", "phases"]


@dataclasses.dataclass(frozen=True)
class Config(_autoencoding.VariationalConfig):
    """The beta-TCVAE; defaults are Schik's, repaired where paper and released code disagree.

    Attributes:
        mutual_information_weight: alpha, of the mutual information.
        total_correlation_weight: beta, of the total correlation.
        dimension_wise_kl_weight: gamma, of the dimension-wise KL divergence.
        estimator: of the aggregated posterior: "mws", minibatch-weighted, or "mss", minibatch-stratified sampling. The
            metrics show "mss" for either, because the value of "mws" is far off, and always of the true posterior.
        variance_as_scale: take the posterior's variance for its standard deviation in the estimator, as released
            (SC-03).
    """

    mutual_information_weight: float = 1.0
    total_correlation_weight: float = 20.0
    dimension_wise_kl_weight: float = 1.0
    estimator: str = "mws"
    variance_as_scale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "estimator", ("mws", "mss"))
        check_at_least(self, 0, *(f"{name}_weight" for name in losses.KLTerms._fields))
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; expected at least 2, to estimate a total correlation.")

    @classmethod
    def reference(cls) -> Config:
        """As the released code (SC-01 to SC-04): its script never passes beta, which stays 1."""
        return cls(**_autoencoding.RELEASED, total_correlation_weight=1.0, variance_as_scale=True)

    @property
    def divergence_weights(self) -> dict[str, float]:
        """What the objective's divergences are multiplied by."""
        return {name: getattr(self, f"{name}_weight") for name in losses.KLTerms._fields}


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `Model`."""

    def regulariser(
        z: jax.Array, mean: jax.Array, logvar: jax.Array, dataset_size: int, axis_name: str | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        def parts(logvar: jax.Array, estimator: Any) -> dict[str, jax.Array]:
            found = losses.kl_terms(
                z, mean, logvar, dataset_size=dataset_size, estimator=estimator, axis_name=axis_name
            )
            return found._asdict()

        trained = parts(2 * logvar if config.variance_as_scale else logvar, config.estimator)
        extra = sum(
            ((weight - 1.0) * trained[name] for name, weight in config.divergence_weights.items() if weight != 1.0),
            jnp.zeros(len(z)),
        )
        return extra, parts(logvar, "mss")

    return _autoencoding.build(config, kl_weight=1.0, regulariser=regulariser)
