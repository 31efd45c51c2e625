"""Autoencoder, VAE, beta-VAE and beta-TCVAE side by side (Schik's overview).

    python experiments/celeba_vae.py
    python experiments/celeba_vae.py --preset=paper --config.data.source=CelebA --workdir=runs/celeba_vae

Trains each model on the same images, rendered faces, CelebA or your own, in a folder of its own within the workdir;
then measures likelihood, reconstructions, samples and latent space on held-out images, and draws latent traversals,
samples and reconstructions over beta. The same command resumes a run that was stopped.

The models of the first command take 5 minutes on two CPU cores, the classifier about one more. In ten epochs of 6,000
faces of CelebA at these widths autoencoder and VAE have 19.1 dB PSNR, beta-VAE and beta-TCVAE of weight 5 have 18.1
and 18.0.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.formats import celeba
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import ClassifierConfig, Measure, Member, PriorConfig
from mvae_jax.experiment.suites import autoencoders as suite
from mvae_jax.experiment.suites import priors
from mvae_jax.models import autoencoders

_MOST = 10  # models
_LEAST_SIZE = 11  # pixels, of the window of SSIM


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        data: the images.
        model: the VAE; the others are like it but for what follows, and the autoencoder has no likelihood.
        autoencoder_output: "sigmoid", which bounds the autoencoder's images as the VAE's are bounded, or "linear", as
            released (SC-06).
        beta: weight of the KL divergence in the beta-VAE.
        total_correlation_weights: of the beta-TCVAEs, each of which is a model of its own.
        classifier: in whose features samples are compared with held-out images.
        prior: over the codes of images, learned once the models are trained; its samples are compared with those of the
            model's own prior and of a mixture of Gaussians. 0 epochs, the default here, learn none.
        evaluation: how they are measured and drawn.
    """

    data: sources.Config = faces.Config()
    model: autoencoders.VAEConfig = autoencoders.VAEConfig()
    autoencoder_output: str = dataclasses.field(default="sigmoid", metadata={"before": "linear"})
    beta: float = 5.0
    total_correlation_weights: tuple[float, ...] = (20.0, 5.0, 50.0)
    classifier: ClassifierConfig = ClassifierConfig()
    prior: PriorConfig = PriorConfig(epochs=0)
    evaluation: suite.Evaluation = suite.Evaluation()

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = [f"{weight:g}" for weight in self.total_correlation_weights]
        others = len(models_of(self)) - len(set(weights))
        if len(set(weights)) < len(weights) or others + len(weights) > _MOST:
            raise ValueError(
                f"total_correlation_weights are {self.total_correlation_weights}; expected at most {_MOST - others}, "
                "and none twice to six digits: each is a model of its own."
            )


def models_of(config: Config) -> dict[str, tuple[str, Any]]:
    """The models: folder -> name in the zoo and config."""
    common = dataclasses.asdict(config.model)
    without = {field.name for field in dataclasses.fields(autoencoders.AutoencoderConfig)}
    shared = {name: value for name, value in common.items() if name in without}
    plain = autoencoders.AutoencoderConfig(**shared, output=config.autoencoder_output)
    models: dict[str, tuple[str, Any]] = {
        "autoencoder": ("autoencoder", plain),
        "vae": ("vae", config.model),
        f"beta_vae_{config.beta:g}": ("beta_vae", autoencoders.BetaVAEConfig(**common, beta=config.beta)),
    }
    for weight in config.total_correlation_weights:
        weighted = autoencoders.BetaTCVAEConfig(**common, total_correlation_weight=weight)
        models[f"beta_tcvae_{weight:g}"] = ("beta_tcvae", weighted)
    return models


def members(config: Config, data: Any) -> dict[str, Member]:
    """The models by folder."""
    return {name: Member(*model, config.seed) for name, model in models_of(config).items()}


def check(config: Config, data: Any) -> None:
    """Refuses images that are too few or too small to measure on."""
    if len(data.validation) < 2 or config.model.image_size < _LEAST_SIZE:
        raise ValueError(
            f"there are {len(data.validation)} held-out images of {config.model.image_size} px to measure on; "
            f"expected at least 2, of {_LEAST_SIZE} px."
        )


def _laptop() -> Config:
    """All models at widths and lengths for two CPU cores."""
    model = autoencoders.VAEConfig(widths=(16, 32, 32, 64, 128), epochs=6, batch_size=32, learning_rate=1e-3)
    return Config(model=model, total_correlation_weights=(20.0, 5.0))


# Schik trains on all images; the test partition is kept to measure on.
_ALL = celeba.Config(source="CelebA", crop="schik", subset_size=0, partitions="train+validation/test")
# The released code's script never passes beta (SC-01).
_REFERENCE = Config(
    data=_ALL,
    model=autoencoders.VAEConfig.reference(),
    autoencoder_output=autoencoders.AutoencoderConfig.reference().output,
    beta=1.0,
    total_correlation_weights=(1.0,),
)

EXPERIMENT = experiment.Experiment(
    name="celeba_vae",
    title="Autoencoders of images",
    description=__doc__ or "",
    presets={"laptop": _laptop(), "paper": Config(data=_ALL), "reference": _REFERENCE},
    data=(*sources.with_attributes("schik"), *sources.without_attributes()),
    model="vae",
    members=members,
    check=check,
    headline=suite.headline,
    curves=("kl", "mean_squared_error"),
    title_of=suite.title_of,
    measures=(
        Measure(
            "models",
            suite.measure,
            title="Likelihood, reconstructions and latent space on held-out images",
            reading="PSNR, SSIM, ELBO and bound are better the higher they are, the squared error the lower. KL is "
            "what the codes tell of an image.",
            text=suite.explain,
            figures=("reconstructions*", "traversals*"),
            words=suite.WORDS,
        ),
        Measure(
            "samples",
            suite.sample_distances,
            title="Samples (figure 2)",
            reading="The Frechet distance of samples from held-out images: lower is closer, and no sample can be "
            "expected to be closer than training images are.",
            text=suite.explain_samples,
            figures=("samples", "samples_*"),
            words=suite.SAMPLE_WORDS,
        ),
        Measure(
            "common_features",
            suite.common_features,
            title="Dimensions that follow an attribute (figure 1)",
            reading="Of each model, the dimension whose codes of held-out images correlate most with the attribute, "
            "and the correlation. Attributes are in the order of the least of the models'.",
            figures=("common_features",),
            parts=suite.feature_parts,
            lines=lambda trained, features: (),
        ),
        Measure(
            "divergence_weights",
            suite.weights,
            title="What beta weighs",
            reading="A weight stands beside sums over pixels and over latent dimensions. Beside means, as other code "
            "has them, it would be the effective weight.",
            parts=suite.weight_parts,
            lines=lambda trained, weights: (),
        ),
        priors.measure_of(suite.title_of),
    ),
    figures=(
        suite.reconstructions,
        suite.samples_and_traversals,
        suite.feature_sheet,
        suite.learning_curves,
        priors.figures_of(suite.title_of),
    ),
    problems=suite.problems,
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
