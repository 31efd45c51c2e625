"""The attribute classifier that reads generated images: trained on an experiment's training images, or named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvae_jax import images, runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import cross_modal
from mvae_jax.eval.batched import in_chunks, pixels
from mvae_jax.eval.features import Features
from mvae_jax.experiment import forecast, members, named
from mvae_jax.experiment.forecast import Part
from mvae_jax.experiment.members import Member
from mvae_jax.models import ZOO, attribute_classifier
from mvae_jax.train.observer import Observer
from mvae_jax.train.signals import Interruption

FOLDER = "classifier"  # within the experiment's workdir


@dataclasses.dataclass(frozen=True)
class Config:
    """The classifier of training images that reads attributes from generated ones.

    Attributes:
        workdir: folder of a trained attribute classifier; "" trains one on the training images, in the run's folder
            `classifier`.
        epochs: of that training; 0 measures without a classifier.
        image_size: side of the squares that it reads, to which other images are resized; 0 for that of the images.
    """

    workdir: str = dataclasses.field(default="", metadata=named.RUN)
    epochs: int = 5
    image_size: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"classifier.epochs is {self.epochs}; expected at least 0.")
        if self.image_size:
            attribute_classifier.Config(image_size=self.image_size)


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier of training images that reads attributes from generated ones.

    Attributes:
        run: the trained classifier.
        held_out: how well it reads the validation images.
    """

    run: runs.Run
    held_out: cross_modal.AttributeScores

    def __str__(self) -> str:
        return (
            f"attribute classifier: accuracy {self.held_out.accuracy:.3f}, exact match "
            f"{self.held_out.exact_match:.3f} on {self.held_out.count} images that it was not trained on"
        )

    @property
    def image_size(self) -> int:
        """Side of the squares that it reads, in pixels."""
        return self.run.config.image_size

    @property
    def origin(self) -> Features:
        """Of its features."""
        return Features("attribute classifier, last hidden layer", accuracy=self.held_out.accuracy)

    def logits(self, pictures: jax.Array) -> jax.Array:
        """Log odds of each attribute, [B, A], of images [B, H, W, 3] in [-1, 1] of any size."""
        return self.run.logits(squares(pictures, self.image_size))

    def features(self, pictures: jax.Array) -> jax.Array:
        """Activations of the last hidden layer, [B, F], of images [B, H, W, 3] in [-1, 1] of any size."""
        return self.run.features(squares(pictures, self.image_size))


def squares(pictures: jax.Array, size: int) -> jax.Array:
    """Images [B, H, W, C] as squares [B, size, size, C]: interpolated linearly, and antialiased."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    return jax.image.resize(pictures, (len(pictures), size, size, pictures.shape[3]), "linear", antialias=True)


def member(data: Splits, config: Config, seed: int) -> Member:
    """The classifier of the images and attributes of a data set, as a member of an experiment.

    Raises:
        ValueError: there can be no such classifier: the images have no attributes, are not square, or are too small.
    """
    if not data.attributes:
        raise ValueError("these images have no attributes for a classifier to read; expected a data set that has.")
    default, devices = attribute_classifier.Config(), jax.device_count()
    height, width = data.train["image"].shape[1:3]
    size = config.image_size or height
    if not config.image_size and height != width:
        raise ValueError(f"the images are {width} x {height} pixels; set classifier.image_size, to read squares of it.")
    chosen = dataclasses.replace(
        default,
        attributes=data.attributes,
        image_size=size,
        widths=default.widths[: max(1, size.bit_length() - 1)],  # images of 8 px can be halved three times
        epochs=config.epochs,
        batch_size=max(devices, min(default.batch_size, len(data.train)) // devices * devices),
    )
    return Member("attribute_classifier", chosen, seed)


def check(data: Splits, config: Config, seed: int) -> None:
    """Refuses a classifier that could not read these images, before anything is trained.

    Raises:
        ValueError: there can be none for these images, or the run that is named is of another model, of other
            attributes or sizes, or was trained on other splits.
        FileNotFoundError: there is no such run.
    """
    data = described(data)
    if config.workdir:
        _check_run(runs.load(config.workdir), data, config)
    elif config.epochs:
        member(data, config, seed)


def _check_run(run: runs.Run, data: Splits, config: Config) -> None:
    if run.settings["model"] != "attribute_classifier":
        raise ValueError(
            f"classifier.workdir is a run of the model {run.settings['model']!r}; expected 'attribute_classifier'."
        )
    size = config.image_size or data.train["image"].shape[1]
    if (tuple(run.config.attributes), run.config.image_size) != (data.attributes, size):
        raise ValueError(
            f"the classifier reads {', '.join(run.config.attributes)} from images of {run.config.image_size} px; "
            f"expected {', '.join(data.attributes)} from images of {size} px: name another one, or none to train one."
        )
    if run.settings["data_sha256"] != in_squares(data, size).sha256():
        raise ValueError(
            "the classifier was trained on other images, perhaps on some of those that it is to read; give the "
            "config.data that it was trained on, or another classifier."
        )


def described(data: Splits) -> Splits:
    """Those examples of which image and attributes are known, without masks; the data as they are where all are."""
    train, validation, calibration = (split.having("image", "attributes") for _, split in data)
    if (train, validation, calibration) == (data.train, data.validation, data.calibration):
        return data
    for name, left in (("training", train), ("validation", validation)):
        if not len(left):
            raise ValueError(
                f"no image for {name} has attributes that are known; expected some, to learn and to judge the "
                "classifier by: choose others, or leave it out with classifier.epochs=0."
            )
    return dataclasses.replace(data, train=train, validation=validation, calibration=calibration)


def in_squares(data: Splits, size: int) -> Splits:
    """The images as the classifier reads them; as they are where they have that size."""
    if data.train["image"].shape[1:3] == (size, size):
        return data

    def resized(split: Split) -> Split:
        small = in_chunks(lambda x: images.to_uint8(squares(images.to_float(x), size)), 64)(split["image"])
        return Split({**split.arrays, "image": np.asarray(small)})

    train, validation = resized(data.train), resized(data.validation)
    return dataclasses.replace(data, train=train, validation=validation, calibration=validation.first(0))


def parts(data: Splits, config: Config, seed: int) -> list[Part]:
    """What the training of the classifier adds to that of a run; nothing where none is wanted, or one that is trained.

    Its operations are counted from a forward pass, of which training takes about three.
    """
    if config.workdir or not config.epochs:
        return []
    data = described(data)
    chosen = member(data, config, seed)
    size, batch_size = chosen.config.image_size, chosen.config.batch_size
    steps = data.batches(data.train["image"].shape[1:3], batch_size, seed).steps_per_epoch
    model, image = chosen.build(), jax.ShapeDtypeStruct((batch_size, size, size, 3), np.float32)
    batch = {"image": np.zeros((1, size, size, 3), np.uint8), "attributes": np.zeros((1, len(data.attributes)), "f4")}
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))
    counted = jax.jit(model.functions["logits"]).lower(*shapes, image).cost_analysis()
    found = forecast.parts(FOLDER, ZOO[chosen.model].phases(chosen.config, steps))
    for part in found:
        part.flops = 3 * counted["flops"] if counted else None
    return found


def obtain(
    workdir: Path,
    data: Splits,
    config: Config,
    *,
    seed: int,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
) -> Classifier | None:
    """The classifier that the config names, or one that is trained in `workdir`/classifier; None if it wants none.

    The training goes on where it was stopped. Its folder is named after its settings: a classifier with others is
    trained beside it.

    Args:
        workdir: of the experiment.
        data: its images.
        config: which classifier.
        seed: of its training.
        interruption: see `train.loop.fit`.
        observer: likewise.
    """
    data = described(data)
    if config.workdir:
        run = runs.load(config.workdir)
        _check_run(run, data, config)
        return measured(run, in_squares(data, run.config.image_size))
    if not config.epochs:
        return None
    chosen = member(data, config, seed)
    data = in_squares(data, chosen.config.image_size)
    name = hashlib.sha256(json.dumps(chosen.settings(data), sort_keys=True).encode()).hexdigest()[:12]
    options: dict[str, Any] = {"interruption": interruption, "watched": {"observer": observer}}
    return measured(members.train_when_free(chosen, chosen.plan(data), data, workdir / FOLDER / name, **options), data)


def measured(run: runs.Run, data: Splits) -> Classifier:
    """A trained classifier with its scores on the validation images."""
    logits = in_chunks(run.logits)(pixels(data.validation))
    return Classifier(run, cross_modal.score_attributes(logits, data.validation["attributes"], data.attributes))
