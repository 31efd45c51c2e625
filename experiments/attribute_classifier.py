"""The attribute classifier of images, which reads the attributes of those that generators draw.

    python experiments/attribute_classifier.py --config.data.source=CelebAMask-HQ.zip --workdir=runs/classifier
    python experiments/attribute_classifier.py --preset=long --config.data.source=CelebAMask-HQ.zip

Trains a classifier on rendered faces, on a published data set with attributes, or on your own images with a CSV, and
measures it on held-out images. Other experiments train one on their own training images; one that is trained here for
longer (`--preset=long`), on the same images, is named by their `--config.classifier.workdir`. One of other splits is
refused there: it may have seen the images that it is to read. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import Measure, Member
from mvae_jax.experiment.suites import classification as suite
from mvae_jax.models import attribute_classifier


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        data: the images.
        model: the classifier.
    """

    data: sources.Config = faces.Config()
    model: attribute_classifier.Config = attribute_classifier.Config()


def members(config: Config, data: Any) -> dict[str, Member]:
    """The one model, in the workdir itself."""
    return {"": Member("attribute_classifier", config.model, config.seed)}


EXPERIMENT = experiment.Experiment(
    name="attribute_classifier",
    title="Attribute classifier",
    description=__doc__ or "",
    presets={"laptop": Config(), "long": Config(model=attribute_classifier.Config(epochs=30))},
    data=sources.with_attributes(),
    model="attribute_classifier",
    members=members,
    request=lambda config: sources.Request(config.model.image_size, config.model.attributes),
    headline=suite.headline,
    curves=("losses",),
    measures=(
        Measure(
            "held_out",
            suite.measure,
            title="Attributes of held-out images",
            reading="Accuracy is to be compared with the majority class: always the more frequent answer.",
            text=suite.explain,
            figures=("attributes", "data"),
            words=suite.WORDS,
            parts=suite.parts,
            lines=lambda trained, scores: [suite.explain(trained, scores)],
        ),
    ),
    figures=(suite.figures,),
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
