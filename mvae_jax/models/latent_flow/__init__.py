"""Learned prior over the codes of a trained model, a rectified flow (Liu et al., 2023; Lipman et al., 2023).

The mathematics of its paths is in `paths`; `model` has the velocity, its error, and how codes are drawn.
"""

from __future__ import annotations

from mvae_jax.models.latent_flow.config import Config
from mvae_jax.models.latent_flow.model import (
    build,
    codes_of_noise,
    from_data,
    phases,
    sample_codes,
    statistics,
    terms,
    velocity,
)
from mvae_jax.models.latent_flow.paths import gaussian_velocity, guided, point, transport, velocity_error

__all__ = [
    "Config",
    "build",
    "codes_of_noise",
    "from_data",
    "gaussian_velocity",
    "guided",
    "phases",
    "point",
    "sample_codes",
    "statistics",
    "terms",
    "transport",
    "velocity",
    "velocity_error",
]
