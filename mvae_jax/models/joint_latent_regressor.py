"""Joint latent regressor: a latent regressor whose generator helps the encoder (Donahue et al., 2017)."""

from __future__ import annotations

import dataclasses

from mvae_jax.models import _bigan
from mvae_jax.models._bigan import phases
from mvae_jax.models._checks import check_at_least
from mvae_jax.objective import Model

__all__ = ["Config", "build", "phases"]


@dataclasses.dataclass(frozen=True)
class Config(_bigan.Config):
    """The joint latent regressor.

    Attributes:
        regression_weight: of the encoder's error in the generator's objective.
    """

    regression_weight: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "regression_weight")


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `Model`."""
    return _bigan.build(config, joint=False, regression=config.regression_weight)
