"""Images from attributes: the attribute CVAE, one model per beta (Debbagh, 2023).

    python experiments/attribute_cvae.py
    python experiments/attribute_cvae.py --preset=celeba --config.data.source=CelebA --workdir=runs/cvae_celeba
    python experiments/attribute_cvae.py --preset=cub --config.data.source=CUB_200_2011 --workdir=runs/cvae_cub

Trains a CVAE for each of `betas` on the same images, rendered faces, CelebA or CUB-200-2011, in a folder of its own
within the workdir; all attributes that the data set has, or those named in `model.attributes`. Then measures squared
error and KL on held-out images, has a classifier read the attributes of images drawn from them and a linear probe
those that are left in the codes, and draws samples, edits and reconstructions. The same command resumes a run that was
stopped; `mvae-jax use generate` and `mvae-jax use edit` apply a model.

The first command takes four minutes on two CPU cores. Expected of beta .9, .75, .5 and .25: squared errors 187.7,
136.2, 103.7 and 71.8; KL 8.1, 17.0, 33.4 and 72.2 nats; accuracies of the attributes of samples .798, .791, .771 and
.757, where real images have .964 and the majority class .706.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.formats import celeba, cub
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import ClassifierConfig, Measure, Member, PriorConfig, typical
from mvae_jax.experiment.suites import autoencoders, priors
from mvae_jax.experiment.suites import conditional as suite
from mvae_jax.models import cvae

ALL = ("all",)  # attributes


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        data: the images.
        model: the CVAE; the models differ in beta alone, and its attributes ("all",) are those of the data set.
        betas: weights of the KL divergence, each of which is a model of its own; the squared error has 1 - beta.
        classifier: what reads attributes from generated images.
        prior: over the codes of images, learned once the models are trained; its samples are compared with those of the
            model's own prior and of a mixture of Gaussians. 0 epochs, the default here, learn none.
    """

    data: sources.Config = faces.Config()
    model: cvae.Config = cvae.Config(attributes=ALL)
    betas: tuple[float, ...] = (0.9, 0.75, 0.5, 0.25)
    classifier: ClassifierConfig = ClassifierConfig(image_size=64)
    prior: PriorConfig = PriorConfig(epochs=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.beta != cvae.Config.beta:
            raise ValueError(f"model.beta is {self.model.beta}; expected --config.betas={self.model.beta:g} instead.")
        if not 1 <= len(self.betas) <= 10 or len(models_of(self)) < len(self.betas):
            raise ValueError(f"betas are {self.betas}; expected one to ten, and none twice: each is a model.")


def models_of(config: Config) -> dict[str, cvae.Config]:
    """The models, from the largest beta to the smallest: folder -> config."""
    return {
        f"beta_{beta:g}": dataclasses.replace(config.model, beta=beta) for beta in sorted(config.betas, reverse=True)
    }


def members(config: Config, data: Any) -> dict[str, Member]:
    """The models by folder, with the attributes of the data."""
    return {
        name: Member("cvae", dataclasses.replace(model, attributes=data.attributes), config.seed)
        for name, model in models_of(config).items()
    }


def request(config: Config) -> sources.Request:
    """Images of the model's size, with the attributes that it names or all of the data set."""
    attributes = config.model.attributes
    return sources.Request(config.model.image_size, None if attributes == ALL else attributes)


def check(config: Config, data: Any) -> None:
    """Refuses images without attributes."""
    if not data.attributes:
        raise ValueError("these images have no attributes to draw them from; expected a data set that has.")


def _laptop() -> Config:
    """All models at widths and lengths for two CPU cores."""
    sizes: dict[str, Any] = {"image_size": (64, 64), "latent_size": 64, "widths": (16, 32, 64)}
    model = cvae.Config(attributes=ALL, **sizes, epochs=8, batch_size=16, learning_rate=2e-3)
    return Config(model=model)


def _celeba() -> Config:
    """The paper's images of faces, all of them and whole."""
    return Config(data=celeba.Config(source="CelebA", crop="none", partitions="train/test", subset_size=0))


def _cub() -> Config:
    """The paper's images of birds."""
    model = cvae.Config(attributes=ALL, image_size=(244, 244), epochs=200)
    return Config(data=cub.Config(source="CUB_200_2011"), model=model)


EXPERIMENT = experiment.Experiment(
    name="attribute_cvae",
    title="Attribute CVAE",
    description=__doc__ or "",
    presets={"laptop": _laptop(), "celeba": _celeba(), "cub": _cub()},
    data=sources.with_attributes(),
    model="cvae",
    members=members,
    request=request,
    check=check,
    headline=suite.headline,
    curves=("kl", "mean_squared_error"),
    measures=(
        Measure(
            "terms",
            suite.measure,
            title="Squared error and KL (table 1)",
            reading="The smaller beta is, the closer should images come back, and the more do their codes tell of "
            "them.",
            text=suite.explain_terms,
            figures=("reconstructions*",),
            parts=suite.term_parts,
            lines=suite.term_lines,
        ),
        Measure(
            "agreements",
            suite.agreements,
            title="Attributes of samples, as a classifier reads them",
            reading="Accuracy lies between the majority class, always the more frequent answer, and that on real "
            "images.",
            text=suite.explain_agreements,
            figures=("samples*", "sliders*", "agreement"),
            parts=suite.agreement_parts,
            lines=suite.agreement_lines,
        ),
        Measure(
            "probe",
            suite.probe,
            title="Attributes that a linear probe reads from z (section 5.3)",
            reading="Codes should be free of what the decoder is told: guessing gives .5.",
            text=suite.explain_probe,
            figures=("edits*", "added_and_removed"),
            parts=suite.probe_parts,
            lines=suite.probe_lines,
        ),
        priors.measure_of(),
        Measure(typical.NAME, typical.limits, parts=lambda *_: (), lines=lambda *_: ()),
    ),
    figures=(
        suite.samples,
        suite.reconstructions,
        suite.sliders,
        suite.edits,
        suite.added_and_removed,
        autoencoders.learning_curves,
        suite.agreement_bars,
        priors.figures_of(),
    ),
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
