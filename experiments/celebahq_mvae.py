"""The multimodal VAE of faces and attribute captions (Kim, 2024).

    python experiments/celebahq_mvae.py
    python experiments/celebahq_mvae.py --preset=paper --config.data.source=CelebAMask-HQ.zip --workdir=runs/paper
    python experiments/celebahq_mvae.py --evaluate --workdir=runs/paper
    python experiments/celebahq_mvae.py --evaluate --phase=alignment --workdir=runs/paper

Trains in three phases on rendered faces, on CelebAMask-HQ, or on your own images with a CSV of attributes; then learns
a prior over the codes of the images, by which faces are drawn (--config.prior.epochs=0 leaves it out), and
measures the model on held-out images and writes figures and `report.html` into the workdir. The same command resumes a
run that was stopped; with more epochs for the last phase and --extend it goes on with one that is finished and whose
learning rates are constant. That is not so in the preset `laptop_private`, the default; `laptop` has the paper's model.

The first command takes 8 to 15 minutes on two CPU cores. Expected on rendered faces: consistency F1 .994, image to text
.964 where the majority class has .706, PSNR of reconstructions 24.2 dB.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.rendered import faces
from mvae_jax.eval import consistency
from mvae_jax.experiment import ClassifierConfig, Member, PriorConfig, named
from mvae_jax.experiment.suites import multimodal as suite
from mvae_jax.experiment.suites import multimodal_figures, multimodal_scores, priors
from mvae_jax.models import multimodal
from mvae_jax.nets.vgg import load_vgg

_load_vgg = functools.lru_cache(maxsize=1)(load_vgg)  # half a gigabyte is read once


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        vgg_weights: file with VGG's weights for the perceptual term, torchvision's .pth or .safetensors; "" leaves
            the term off.
        data: the images.
        model: the model and its three phases.
        classifier: what reads attributes from generated images.
        prior: over the codes of images, learned once the model is trained.
        evaluation: how image and text are compared.
    """

    vgg_weights: str = dataclasses.field(default="", metadata=named.WEIGHTS)
    data: sources.Config = faces.Config()
    model: multimodal.Config = multimodal.Config()
    classifier: ClassifierConfig = ClassifierConfig()
    prior: PriorConfig = PriorConfig()
    evaluation: multimodal_scores.Evaluation = multimodal_scores.Evaluation()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not consistency.most_changes(self.model.attributes):
            raise ValueError(
                f"attributes are {self.model.attributes}; expected one that a mismatched caption can change, not only "
                f"{' and '.join(consistency.UNTOUCHED)}."
            )


def members(config: Config, data: Any) -> dict[str, Member]:
    """The one model, in the workdir itself."""
    weights = _load_vgg(config.vgg_weights) if config.vgg_weights else None
    return {
        "": Member(
            *("multimodal", config.model, config.seed, {"vgg_weights": weights}, checksums(config)),
            sheet=multimodal_figures.sheet,
        )
    }


def checksums(config: Config) -> dict[str, str | None]:
    """Of VGG's weights; refuses a file that does not hold them."""
    return {"vgg_sha256": _load_vgg(config.vgg_weights)[1].sha256 if config.vgg_weights else None}


def notes(config: Config) -> list[str]:
    """What is missing of the perceptual term."""
    if not config.vgg_weights:
        return ["No VGG weights were given (--config.vgg_weights): the perceptual term is off."]
    last = _load_vgg(config.vgg_weights)[1].last_layer
    if last != "relu3_3":
        return [f"The VGG weights end at {last}; the paper's perceptual term is at relu3_3."]
    return []


def _laptop() -> Config:
    """Every kind of layer, loss and phase of the paper, at widths and lengths for two CPU cores."""
    paper = multimodal.Config()
    return Config(
        model=dataclasses.replace(
            paper,
            latent_size=128,
            encoder_widths=(32, 64, 64),
            decoder_widths=(96, 64, 32, 8),
            decoder_hidden=512,
            text_hidden=128,
            discriminator_widths=(16, 32, 64),
            learning_rate=3e-4,
            discriminator_learning_rate=3e-5,
            unimodal=dataclasses.replace(paper.unimodal, epochs=2),
            alignment=dataclasses.replace(paper.alignment, epochs=2),
            adversarial=dataclasses.replace(paper.adversarial, epochs=2),
        ),
    )


def _laptop_private() -> Config:
    """The same widths and lengths, and what the paper's model has not: so short a training draws faces with it."""
    config = _laptop()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model,
            private_size=96,
            coarse_size=16,
            icnr=True,
            initial_logvar=-3.0,
            learning_rate=1e-3,
            cosine_decay=True,
            # By these terms the decoder learns dots to which the encoder answers.
            identity_weight=0.0,
            cross_identity_weight=0.0,
            unimodal=dataclasses.replace(config.model.unimodal, kl=0.01),
            alignment=dataclasses.replace(config.model.alignment, kl=0.01),
        ),
    )


def _paper() -> Config:
    """The paper's model, with the penalised cross-entropy that it says it employs (MM-03)."""
    return Config(model=multimodal.Config(penalise_text_errors=True))


EXPERIMENT = experiment.Experiment(
    name="celebahq_mvae",
    title="Multimodal VAE of faces and captions",
    description=__doc__ or "",
    presets={
        "laptop_private": _laptop_private(),
        "laptop": _laptop(),
        "paper": _paper(),
        "reference": Config(model=multimodal.Config.reference()),
    },
    data=sources.with_attributes(),
    model="multimodal",
    members=members,
    request=lambda config: sources.Request(config.model.image_size, config.model.attributes),
    check=lambda config, data: multimodal_scores.check(data),
    check_files=checksums,
    notes=notes,
    headline=suite.headline,
    curves=("losses",),
    measures=(*suite.MEASURES, priors.measure_of()),
    figures=(multimodal_figures.figures, priors.figures_of()),
    problems=suite.problems,
    comparison=suite.compare,
    may_change=("config.vgg_weights",),
    stages=True,
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
