"""ALAE with MLPs on MNIST beside its baselines: what do their codes tell a simple classifier? (ALAE, table 2)

    python experiments/mnist_alae.py
    python experiments/mnist_alae.py --preset=paper --config.data.source=mnist --workdir=runs/mnist_alae
    python experiments/mnist_alae.py --config.models=alae --config.seeds=0 --workdir=runs/alae

Trains each of `models` for each of `seeds` on the same digits, MNIST or the 1,797 small ones of scikit-learn, in a
folder of its own within the workdir. Then classifies digits by the nearest neighbour and by a linear SVM on their
codes, reads labels from reconstructions, measures ALAE's path lengths in Z and W, looks for signs of collapse, and
draws reconstructions, samples and interpolations. The same command resumes a run that was stopped.

The first command takes 5 minutes on two CPU cores. Of the second, 20 epochs instead of the paper's 400 read MNIST's
test digits from ALAE's short codes by 90.4 % (nearest neighbour) and 86.3 % (SVM).

The trials of a model are trained one after another and share its program by the compilation cache.

Reference:
    Pidhorskyi et al., 2020, Adversarial latent autoencoders, arXiv:2004.04467, section 5.1.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.formats import mnist
from mvae_jax.experiment import Measure, Member
from mvae_jax.experiment.suites import codes as suite
from mvae_jax.experiment.suites import collapse, latents, trials
from mvae_jax.models import alae, autoencoders, bigan


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        seed: of the draws of the evaluation.
        seeds: of initialisation, draws and order of the images in training; a trial each.
        data: the digits.
        models: the rows of the table, all or some.
        model: ALAE; its image size and channels are those of the data. The baselines have its widths, latent size,
            batch size, epochs and precision.
        baseline_learning_rate: of the baselines, Adam's; it falls to a hundredth over the second half of the epochs.
        baseline_norm_epsilon: added to the variances of batch norms, of the baselines with a discriminator (AL-12).
        baseline_mean_errors: baselines with a discriminator minimise means of its two errors, not sums (AL-15).
        stochastic_bigan: BiGAN's encoder draws from a Gaussian, as in ALI.
        evaluation: what is classified.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    data: sources.Config = mnist.Config()
    models: tuple[str, ...] = tuple(suite.PUBLISHED)
    model: alae.ALAEConfig = alae.ALAEConfig()
    baseline_learning_rate: float = 2e-4
    baseline_norm_epsilon: float = dataclasses.field(
        default=1e-8,
        metadata={
            "before": 1e-5,
            "unlike": "batch norms of the autoencoders had the epsilon 1e-5 too, and now have 1e-8 (AL-12).",
        },
    )
    baseline_mean_errors: bool = dataclasses.field(default=True, metadata={"before": False})
    stochastic_bigan: bool = False
    evaluation: suite.Evaluation = suite.Evaluation()

    def __post_init__(self) -> None:
        super().__post_init__()
        trials.check_seeds(self.seeds)
        trials.check_distinct(models=self.models)
        unknown = [name for name in self.models if name not in suite.PUBLISHED]
        if unknown:
            raise ValueError(f"models has {unknown[0]!r}; choose from {', '.join(suite.PUBLISHED)}.")


def members(config: Config, data: Any) -> dict[str, Member]:
    """The trials by folder."""
    _, image_size, _, channels = data.train["image"].shape
    first = dataclasses.replace(config.model, image_size=image_size, channels=channels)
    names = ("image_size", "channels", "widths", "latent_size", "batch_size", "epochs", "compute_dtype")
    common: dict[str, Any] = {name: getattr(first, name) for name in names}
    common["learning_rate"] = config.baseline_learning_rate
    adversarial = common | {
        "decayed_epochs": first.epochs // 2,
        "norm_epsilon": config.baseline_norm_epsilon,
        "mean_errors": config.baseline_mean_errors,
    }
    plain = common | {"network": "bigan", "optimizer": "bigan", "output": "sigmoid"}
    encoder = "gaussian" if config.stochastic_bigan else "deterministic"
    models: dict[str, tuple[str, Any]] = {
        "autoencoder_l1": ("autoencoder", autoencoders.AutoencoderConfig(**plain, error="l1")),
        "autoencoder_l2": ("autoencoder", autoencoders.AutoencoderConfig(**plain, error="l2")),
        "latent_regressor": ("latent_regressor", bigan.LatentRegressorConfig(**adversarial)),
        "joint_latent_regressor": ("joint_latent_regressor", bigan.JointLatentRegressorConfig(**adversarial)),
        "bigan": ("bigan", bigan.BiGANConfig(**adversarial, encoder=encoder)),
        "alae": ("alae", first),
    }
    return {trials.folder(row, seed): Member(*models[row], seed) for seed in config.seeds for row in config.models}


# All rows on the small digits, at widths and lengths for two CPU cores. So few pixels lie closer together: the paper's
# weight of R1 would keep the discriminator from telling them apart.
_LAPTOP = Config(
    seeds=(0, 1, 2),
    model=alae.ALAEConfig(widths=(256, 256), latent_size=16, r1_weight=0.3, epochs=100, batch_size=64),
)

EXPERIMENT = experiment.Experiment(
    name="mnist_alae",
    title="ALAE and its baselines",
    description=__doc__ or "",
    presets={"laptop": _LAPTOP, "paper": Config(data=mnist.Config(source="mnist"))},
    data=(mnist.Config(),),
    model="alae",
    members=members,
    check=lambda config, data: suite.check(data),
    headline=suite.headline,
    curves=("reconstruction_error",),
    title_of=suite.title_of,
    measures=(
        Measure(
            "codes",
            suite.measure,
            title="Digits read from codes (table 2)",
            reading="Percent of digits read rightly, by the nearest neighbour (1NN) and by linear classifiers (SVM), "
            "from codes (short) or from the encoder's last hidden layer (long): higher is better. SW: digits of the "
            "same writers, a part of the training images; DW: of different ones, the held-out images.",
            text=suite.explain,
            words=suite.WORDS,
            parts=suite.parts,
            lines=suite.lines,
        ),
        Measure(
            "labels",
            suite.labels,
            title="Labels of reconstructions (figure 3)",
            reading="Percent of digits that are still read as themselves after reconstruction; the originals come "
            "first.",
            figures=("reconstructions",),
            text=suite.explain_labels,
            words=suite.LABELS,
            parts=suite.label_parts,
            lines=suite.label_lines,
        ),
        Measure(
            "path_lengths",
            suite.path_lengths,
            title="Path lengths (figure 4)",
            reading="The shorter a path, the more smoothly one digit turns into another along it.",
            figures=("interpolations",),
            text=suite.explain_path_lengths,
            words=latents.PATHS,
            label="trial",
        ),
        Measure(
            "stability",
            suite.stability,
            title="Signs of collapse",
            reading="A spread of 1 is the variety of real images, 0 one image over and over.",
            figures=("samples_*",),
            text=suite.STABILITY,
            parts=lambda trained, signs: collapse.parts(suite.titles(signs), signs),
            lines=lambda trained, signs: (),
        ),
    ),
    problems=suite.problems,
    figures=(suite.reconstructions, suite.samples, suite.interpolation_sheet, suite.reconstruction_error),
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
