"""The judge of generated images: an attribute classifier of those that generators learn from.

    python experiments/judge.py --config.data.source=CelebAMask-HQ.zip --workdir=runs/judge

Other experiments train one on their own training images; one that is trained here for longer (`--preset=long`), on
the same images, is named by their `--config.judge.workdir`. One of other splits is refused: it may have seen the images
that it is to judge.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import sys
from pathlib import Path

import datasets
import jax
import launch
import training

from mvae_jax import runs
from mvae_jax.data.batches import Splits
from mvae_jax.eval import cross_modal
from mvae_jax.models import attribute_classifier
from mvae_jax.train import loop
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interruption
from mvae_jax.viz import curves, grids, report, scores

_log = logging.getLogger("judge")


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """A classifier of training images that reads attributes from generated ones.

    Attributes:
        run: the trained classifier.
        held_out: how well it reads the validation images.
    """

    run: runs.Run
    held_out: cross_modal.AttributeScores

    @classmethod
    def of(cls, run: runs.Run, data: Splits) -> Judge:
        """Measures a classifier on the validation images."""
        logits = training.in_chunks(run.logits)(training.pixels(data.validation))
        held_out = cross_modal.score_attributes(logits, data.validation["attributes"], data.attributes)
        return cls(run, held_out)

    def __str__(self) -> str:
        return (
            f"judge: accuracy {self.held_out.accuracy:.3f}, exact match {self.held_out.exact_match:.3f} on "
            f"{self.held_out.count} images that it was not trained on"
        )


def config_for(data: Splits, epochs: int) -> attribute_classifier.Config:
    """A judge of the images and attributes of a data set.

    Raises:
        ValueError: there can be no such judge, for instance because the images are too small.
    """
    if not data.attributes:
        raise ValueError("these images have no attributes for a classifier to read; expected a data set that has.")
    default, devices, size = attribute_classifier.Config(), jax.device_count(), data.train["image"].shape[1]
    return dataclasses.replace(
        default,
        attributes=data.attributes,
        image_size=size,
        widths=default.widths[: max(1, size.bit_length() - 1)],  # images of 8 px can be halved three times
        epochs=epochs,
        batch_size=max(devices, min(default.batch_size, len(data.train)) // devices * devices),
    )


def train(
    folder: str | Path,
    data: Splits,
    config: attribute_classifier.Config,
    *,
    seed: int,
    interruption: Interruption | None = None,
) -> runs.Run:
    """Trains a judge on the training images; goes on where it was stopped.

    Its workdir is a folder in `folder` that is named after its settings: another judge is trained beside it.
    """
    settings = training.settings_of("attribute_classifier", config, data, seed)
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return training.train(Path(folder) / name, settings, config, data, interruption=interruption)


def check(run: runs.Run, data: Splits) -> None:
    """Refuses a run that cannot judge such images.

    Raises:
        ValueError: it is another model, or was trained for other attributes or sizes, or on other splits.
    """
    if run.settings["model"] != "attribute_classifier":
        raise ValueError(f"the judge is a run of the model {run.settings['model']!r}; expected 'attribute_classifier'.")
    size = data.train["image"].shape[1]
    if (tuple(run.config.attributes), run.config.image_size) != (data.attributes, size):
        raise ValueError(
            f"the judge reads {', '.join(run.config.attributes)} from images of {run.config.image_size} px; expected "
            f"{', '.join(data.attributes)} from images of {size} px: name another judge, or none to train one."
        )
    if run.settings["data_sha256"] != data.sha256():
        raise ValueError(
            "the judge was trained on other images, perhaps on some of those that it is to judge; give the config.data "
            "that it was trained on, or another judge."
        )


# --- the experiment -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the initialisation, of every draw and of the order of the images.
        data: the images.
        model: the classifier.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    data: datasets.Config = datasets.Config()
    model: attribute_classifier.Config = attribute_classifier.Config()
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected a number from 0 to 2**32 - 1.")


PRESETS = {"laptop": Config(), "long": Config(model=attribute_classifier.Config(epochs=30))}
MAY_CHANGE = ("config.training", "config.data.source", "config.data.cache_folder")


def main(argv: list[str]) -> None:
    """Trains and reports."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/judge", description=__doc__ or "")
    with launch.errors():
        if arguments.extend:
            raise ValueError("--extend: a judge's learning rate depends on its length; train another one instead.")
        run = runs.load(arguments.workdir) if arguments.evaluate else None
        data = datasets.load(config.data, config.model.attributes, config.model.image_size)
        if run:
            check(run, data)
        plan = training.plan("attribute_classifier", config.model, data, config.seed, config.training)
    if arguments.dry_run:
        print(plan)
        return
    if run:
        _report(argv, run, data, config, Path(arguments.workdir), Path(arguments.workdir) / "evaluation")
        return
    settings = {
        "experiment": "judge",
        "model": "attribute_classifier",
        "config": dataclasses.asdict(config),
        "data_sha256": data.sha256(),
    }
    with launch.session(arguments.workdir, settings, MAY_CHANGE) as (workdir, interruption):
        run = training.fit(workdir.path, settings, config.model, data, config.training, interruption)
        if not launch.is_first():
            return
        judge = _report(argv, run, data, config, workdir.path, workdir.path)
        workdir.finish(**judge.held_out.to_dict())


def _report(argv: list[str], run: runs.Run, data: Splits, config: Config, workdir: Path, folder: Path) -> Judge:
    judge = Judge.of(run, data)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    by_name = {each.name: each for each in judge.held_out.attributes}
    figures = {
        "Held-out images": grids.grid(data.validation["image"][:18]),
        "Accuracy on held-out images": scores.attribute_bars(
            {"accuracy": {name: each.accuracy for name, each in by_name.items()}},
            baseline={name: each.majority_accuracy for name, each in by_name.items()},
            baseline_label="majority class",
        ),
        "Loss and accuracy": curves.losses(
            read_metrics(workdir / "metrics.jsonl"), {"Loss": ["loss"], "Accuracy": ["accuracy"]}
        ),
    }
    for name, picture in zip(("data", "attributes", "losses"), figures.values(), strict=True):
        picture.save(folder / "figures" / f"{name}.png")
    report.write(
        folder / "report.html",
        f"Attribute classifier: {workdir.name}",
        [
            str(judge),
            report.table([dataclasses.asdict(each) for each in by_name.values()]),
            *(report.figure(picture, caption) for caption, picture in figures.items()),
            *launch.how_it_was_made(argv, run, data.provenance, config),
        ],
    )
    _log.info("%s; report: %s", judge, folder / "report.html")
    return judge


if __name__ == "__main__":
    main(sys.argv)
