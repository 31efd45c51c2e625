"""beta-VAE against beta-TCVAE: how much disentanglement does a weight buy, at what loss of reconstruction?

    python experiments/disentanglement.py
    python experiments/disentanglement.py --preset=long --workdir=runs/disentanglement_long
    python experiments/disentanglement.py --config.data.source=faces --workdir=runs/faces

Trains both models for several weights and seeds on images of which the generative factors are known, rendered shapes
or faces, each in a folder of its own within the workdir; then scores latent spaces and reconstructions, and compares
the two where they reconstruct equally well. The same command resumes a run that was stopped.

The first command takes 4 minutes on two CPU cores. At equal reconstruction expect a median MIG of about .17 of the
beta-TCVAE against .05 (both of beta 2) and .10 (8 and 6) of the beta-VAE.

The seeds of a setting are trained one after another and share its program by the compilation cache. As one program, by
vmap, they would take longer on a CPU: 55 ms per step of three dense models instead of 3 x 18 ms, 141 ms of three
convolutional ones instead of 3 x 31 ms.

Reference:
    Chen et al., 2018, Isolating sources of disentanglement in variational autoencoders, arXiv:1802.04942.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.rendered import binned_faces, shapes
from mvae_jax.experiment import Measure, Member
from mvae_jax.experiment.suites import disentanglement as suite
from mvae_jax.experiment.suites import trials
from mvae_jax.models import autoencoders


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        seed: of the draws of the evaluation.
        seeds: of initialisation, draws and order of the images in training; a model each.
        data: the images; all are drawn, so that there are images of any combination of factors.
        model: what all models share; its channels are those of the images.
        betas: of the beta-VAE, weights of the KL divergence.
        total_correlation_weights: of the beta-TCVAE, its beta.
        evaluation: how the models are scored.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    data: sources.Config = shapes.Config()
    model: autoencoders.VAEConfig = autoencoders.VAEConfig(
        image_size=32,
        channels=1,
        network="dense",
        widths=(128, 128),
        latent_size=10,
        epochs=5,
        batch_size=64,
        learning_rate=3e-3,
        likelihood="bernoulli",
    )
    betas: tuple[float, ...] = (2.0, 6.0)
    total_correlation_weights: tuple[float, ...] = (2.0, 8.0)
    evaluation: suite.Evaluation = suite.Evaluation()

    def __post_init__(self) -> None:
        super().__post_init__()
        trials.check_seeds(self.seeds)
        trials.check_distinct(betas=self.betas, total_correlation_weights=self.total_correlation_weights)
        if len(models_of(self, self.model)) != len(self.betas) + len(self.total_correlation_weights):
            raise ValueError(
                f"betas are {self.betas} and total_correlation_weights {self.total_correlation_weights}; expected "
                "values that differ in six digits."
            )
        if self.model.latent_size < 2:
            raise ValueError(f"model.latent_size is {self.model.latent_size}; expected at least 2, to be compared.")
        if self.data.source not in suite.FACTORS:
            raise ValueError(
                f"data.source is {self.data.source!r}; choose one of {', '.join(map(repr, suite.FACTORS))}, for the "
                "FactorVAE score draws further images."
            )
        factors = len(suite.FACTORS[self.data.source])
        if self.evaluation.votes < factors:
            raise ValueError(
                f"evaluation.votes is {self.evaluation.votes}; expected at least one per factor, {factors}."
            )


def models_of(config: Config, shared: autoencoders.VAEConfig) -> dict[str, tuple[str, Any]]:
    """The settings that are compared, each a model per seed: label -> name in the zoo and config."""
    common = dataclasses.asdict(shared)
    models: dict[str, tuple[str, Any]] = {}
    for beta in config.betas:
        models[f"beta_vae_{beta:g}"] = ("beta_vae", autoencoders.BetaVAEConfig(**common, beta=beta))
    for weight in config.total_correlation_weights:
        weighted = autoencoders.BetaTCVAEConfig(**common, total_correlation_weight=weight)
        models[f"beta_tcvae_{weight:g}"] = ("beta_tcvae", weighted)
    return models


def members(config: Config, data: Any) -> dict[str, Member]:
    """A model per setting and seed, by folder."""
    shared = dataclasses.replace(config.model, channels=data.train["image"].shape[-1])
    return {
        trials.folder(label, seed): Member(*model, seed)
        for label, model in models_of(config, shared).items()
        for seed in config.seeds
    }


# Boosting, as the literature has DCI, takes half a minute for one factor of 32 values: longer than the training.
_LAPTOP = Config(evaluation=suite.Evaluation(dci="random_forest", trees=10))
# More weights and seeds, and training until position and scale lie along dimensions of their own.
_LONG = Config(
    seeds=(0, 1, 2, 3, 4),
    data=shapes.Config(train_size=256_000),
    betas=(1.0, 2.0, 4.0, 6.0, 8.0),
    total_correlation_weights=(2.0, 4.0, 8.0, 12.0, 16.0),
)

EXPERIMENT = experiment.Experiment(
    name="disentanglement",
    title="Disentanglement",
    description=__doc__ or "",
    presets={"laptop": _LAPTOP, "long": _LONG},
    data=(shapes.Config(), binned_faces.Config()),
    model="vae",
    members=members,
    headline=suite.headline,
    curves=("kl", "mean_squared_error"),
    title_of=suite.title_of,
    measures=(
        Measure(
            "disentanglement",
            suite.measure,
            title="Disentanglement, reconstruction and divergence",
            reading="Scores of disentanglement lie between 0 and 1, and are the better the higher; NLL and squared "
            "error are the better the lower.",
            figures=("mig_over_reconstruction", "mig_over_beta", "gaps", "traversals*", "reconstructions"),
            text=suite.explain,
            words=suite.WORDS,
            parts=suite.parts,
            lines=suite.lines,
        ),
    ),
    problems=suite.problems,
    figures=(suite.learning_curves, suite.tradeoffs, suite.gaps_and_traversals, suite.reconstructions),
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
