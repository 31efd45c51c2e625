"""Config of the learned prior over codes."""

from __future__ import annotations

import dataclasses

from mvae_jax import attributes as face_attributes
from mvae_jax.models.checks import (
    check_at_least,
    check_attributes,
    check_choice,
    check_compute_dtype,
    check_positive,
)
from mvae_jax.models.latent_flow.paths import SOLVERS
from mvae_jax.nets.velocity import VelocityMLP


@dataclasses.dataclass(frozen=True)
class Config:
    """The learned prior.

    Attributes:
        latent_size: dimensions of the codes.
        attributes: names of the attribute bits, in order; () for codes without attributes.
        standardise: "whiten" makes the covariance of the training codes the identity, so that the flow begins as that
            of their best Gaussian; "scale" their variances alone.
        width: channels of the residual blocks.
        blocks: number of residual blocks.
        unconditional: share of the training examples of which no attribute is known. Of each other one every attribute
            is hidden with a probability that is drawn from [0, 1] for that example.
        attribute_rows: rows of attributes of training examples that the model keeps, from which unknown attributes are
            drawn, see `model.completed`; 0 keeps none, and codes are drawn given what is known alone.
        solver: "heun" or "euler", how codes are drawn.
        epochs: passes over the training codes.
        batch_size: examples per step.
        learning_rate: Adam's largest rate. It rises to it over the first 5 % of the steps and falls to 0 along half a
            cosine.
        ema_decay: decay per step of the moving average of the parameters, with which codes are drawn.
        compute_dtype: "float32", or "bfloat16" for the network's products; parameters, statistics, times, paths and
            losses are float32 with either, so that a run can be loaded with the other.
    """

    latent_size: int = 128
    attributes: tuple[str, ...] = face_attributes.FACE
    standardise: str = "whiten"
    width: int = 256
    blocks: int = 3
    unconditional: float = 0.2
    attribute_rows: int = dataclasses.field(default=1000, metadata={"before": 0})
    solver: str = "heun"
    epochs: int = 40
    batch_size: int = 128
    learning_rate: float = 1e-3
    ema_decay: float = 0.995
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "standardise", ("whiten", "scale"))
        check_choice(self, "solver", SOLVERS)
        check_compute_dtype(self)
        check_at_least(self, 1, "latent_size", "width", "blocks", "epochs", "batch_size")
        check_at_least(self, 0, "attribute_rows")
        check_positive(self, "learning_rate")
        for name in ("unconditional", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0 and less than 1.")
        if self.attributes:
            check_attributes(self)

    @property
    def image_size(self) -> None:
        """None: codes have no size in pixels."""

    def network(self) -> VelocityMLP:
        """Network from standardised codes [B, D], times [B] and conditions [B, 2 A] to velocities [B, D]."""
        return VelocityMLP(self.width, self.blocks, dtype=self.compute_dtype)
