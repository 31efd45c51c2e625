"""Configs of the multimodal VAEs: modalities, latent space, training, and what each model adds.

Where a paper is silent, a default is that of MultiVae (Senellart et al., 2025), or was chosen here: so the weights of
the likelihoods (MF-06), and lengths of training, which are short.
"""

from __future__ import annotations

import dataclasses

from mvae_jax import attributes as face_attributes
from mvae_jax.models.checks import check_at_least, check_choice, check_compute_dtype, check_positive, check_widths
from mvae_jax.models.multimodal_vaes.modality import Modality

FACES = (
    Modality(),
    Modality("attributes", (10,), "bernoulli", network="dense", widths=(512,), labels=face_attributes.FACE),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Modalities and training of a multimodal VAE.

    Attributes:
        modalities: what a batch holds, in order; any of them may be missing in any example.
        latent_size: dimensions of the latent space that all modalities share.
        epochs: passes over the training examples.
        batch_size: examples per step.
        learning_rate: Adam's rate.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; parameters and losses are
            float32 with either, so that a run can be loaded with the other.
    """

    modalities: tuple[Modality, ...] = FACES
    latent_size: int = 64
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-3
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_compute_dtype(self)
        check_at_least(self, 1, "latent_size", "epochs", "batch_size")
        check_positive(self, "learning_rate")
        if not all(isinstance(modality, Modality) for modality in self.modalities):
            raise ValueError(f"modalities are {self.modalities}; expected a tuple of Modality, such as (Modality(),).")
        if len(self.modalities) < 2 or len(set(self.names)) != len(self.names):
            raise ValueError(
                f"modalities are {', '.join(self.names) or 'none'}; expected at least two, and no name twice."
            )
        self._check_private()

    def _check_private(self) -> None:
        private = [modality.name for modality in self.modalities if modality.private_size]
        if private:
            raise ValueError(
                f"private_size of {', '.join(private)} is not 0, but {type(self).__name__} has no private dimensions: "
                "use MMVAEPlusConfig, or leave it out."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(modality.name for modality in self.modalities)

    @property
    def code_size(self) -> int:
        """Dimensions of a code: those that all modalities share, then the private ones of each."""
        return self.latent_size + sum(modality.private_size for modality in self.modalities)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the log-likelihoods by name, MF-06."""
        largest = max(modality.size for modality in self.modalities)
        return {m.name: largest / m.size if m.weight is None else m.weight for m in self.modalities}

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups, all of which are trained."""
        return ("encoders", "decoders")

    @property
    def image_size(self) -> int | tuple[int, int] | None:
        """Height and width of the modality "image" in pixels, one number if they agree; None if there is none."""
        for modality in self.modalities:
            if modality.name == "image" and modality.is_image:
                height, width, _ = modality.shape
                return height if height == width else (height, width)
        return None

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the values of the modality "attributes", where it has any."""
        return next((modality.labels for modality in self.modalities if modality.name == "attributes"), ())


@dataclasses.dataclass(frozen=True)
class DivergenceConfig(Config):
    """A model whose divergences have a closed form and a weight.

    Attributes:
        beta: weight of the divergences.
        warmup_epochs: epochs over which the weights of the divergences rise from 0 to their values.
    """

    beta: float = 1.0
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "beta", "warmup_epochs")


@dataclasses.dataclass(frozen=True)
class MVAEConfig(DivergenceConfig):
    """The MVAE of Wu and Goodman (2018): a product of experts, trained on subsets of the modalities.

    Attributes:
        unimodal: the bounds of each modality alone count as well.
        subsets: further subsets, of 2 to M - 1 modalities, whose bounds count; drawn anew for each example.
        warmup_epochs: as in `DivergenceConfig`; the paper has such a rise too.
    """

    unimodal: bool = True
    subsets: int = 0
    warmup_epochs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        most = 2 ** len(self.modalities) - 2 - len(self.modalities)
        if not 0 <= self.subsets <= most:
            raise ValueError(
                f"subsets is {self.subsets}; expected 0 to {most}, which is how many sets of more than one and not all "
                f"of {len(self.modalities)} modalities there are."
            )


@dataclasses.dataclass(frozen=True)
class MoPoEConfig(DivergenceConfig):
    """The MoPoE-VAE of Sutter et al. (2021): a mixture of the products of experts of all subsets."""


@dataclasses.dataclass(frozen=True)
class MVTCAEConfig(DivergenceConfig):
    """The MVTCAE of Hwang et al. (2021): a product of experts without the prior, and a bound of total correlation.

    Attributes:
        alpha: share of the divergences KL(joint || one modality) against that of KL(joint || prior).
    """

    alpha: float = 0.1
    beta: float = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; expected a share of at least 0 and at most 1.")


@dataclasses.dataclass(frozen=True)
class JMVAEConfig(DivergenceConfig):
    """The JMVAE of Suzuki et al. (2016): a joint encoder, and encoders of single modalities that are drawn to it.

    Attributes:
        alpha: weight of the divergences KL(joint || one modality).
        joint_widths: units of the hidden layers that join the modalities.
        warmup_epochs: as in `DivergenceConfig`, of both divergences.
    """

    alpha: float = 0.1
    joint_widths: tuple[int, ...] = (512, 512)
    warmup_epochs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "alpha")
        check_widths(self, "joint_widths")

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups, all of which are trained."""
        return (*super().groups, "joint_encoder")


@dataclasses.dataclass(frozen=True)
class CADAVAEConfig(DivergenceConfig):
    """The CADA-VAE of Schönfeld et al. (2019): a VAE of each modality, whose latent spaces are aligned.

    Defaults of the weights are those of the released code.

    Attributes:
        gamma: weight of the errors with which each modality is decoded from the latents of each other one.
        delta: weight of the 2-Wasserstein distances of the modalities' posteriors.
        warmup_epochs: epochs over which all three weights rise; the released code has a rise for each (MF-10).
    """

    beta: float = 0.25
    gamma: float = 2.37
    delta: float = 8.13
    warmup_epochs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "gamma", "delta")


@dataclasses.dataclass(frozen=True)
class MMVAEConfig(Config):
    """The MMVAE of Shi et al. (2019): a mixture of experts; here with Gaussians and the prior N(0, I), see MF-05.

    Attributes:
        samples: K, samples of each expert in the importance-weighted bound; 1 is the ELBO.
        estimator: of the gradient by the encoders: "dreg", doubly reparameterised as in the paper, biased for more than
            one sample (MF-02), or "iwae", which is not biased and has more variance.
    """

    samples: int = 10
    estimator: str = "dreg"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "samples")
        check_choice(self, "estimator", ("dreg", "iwae"))


@dataclasses.dataclass(frozen=True)
class MMVAEPlusConfig(MMVAEConfig):
    """The MMVAE+ of Palumbo et al. (2023): an MMVAE whose modalities have private dimensions too.

    What one modality says of another is decoded with private dimensions from an auxiliary prior, of learned scale.

    Attributes:
        modalities: at least one has a `private_size`.
        beta: weight of log p(z) - log q(z | x).
    """

    modalities: tuple[Modality, ...] = (dataclasses.replace(FACES[0], private_size=32), FACES[1])
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "beta")

    def _check_private(self) -> None:
        if self.code_size == self.latent_size:
            raise ValueError(
                f"private_size of {', '.join(self.names)} is 0; expected private dimensions of at least one of them: "
                "without any this is MMVAEConfig."
            )

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups, all of which are trained."""
        return (*super().groups, "auxiliary_priors")
