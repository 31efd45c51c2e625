"""Attribute classifier: the attributes that an image shows, also of images that generative models draw.

A convolutional network with one logit per attribute, trained by the mean binary cross-entropy on images that are
changed at random in each step, so that it looks at shapes more than at light, colour and sharpness, in which
generated images differ from photographs. Its penultimate activations serve as features for distances between sets
of images.

Group: "classifier".
"""

from __future__ import annotations

import dataclasses

import jax
import optax

from mvae_jax import attributes as face_attributes
from mvae_jax import augmentation, images, losses, nets, random
from mvae_jax.augmentation import Augmentation
from mvae_jax.models import common
from mvae_jax.models.checks import (
    check_at_least,
    check_attributes,
    check_compute_dtype,
    check_positive,
    check_widths,
)
from mvae_jax.models.common import Training
from mvae_jax.nets.classifier import ImageClassifier
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase


@dataclasses.dataclass(frozen=True)
class Config:
    """The attribute classifier.

    Attributes:
        image_size: height and width of the images in pixels; a multiple of 2 for each of `widths`.
        attributes: names of the attribute bits, in order.
        widths: channels of the convolutions; each halves the image, by its stride or by max pooling.
        hidden: units of the dense layer whose activations are the features.
        dropout: fraction of the inputs of both dense layers that is dropped in training.
        augmentation: how images are changed in training.
        epochs: passes over the training images.
        batch_size: examples per step.
        learning_rate: AdamW's largest rate. It rises to it over the first 30 % of the steps and falls to almost zero,
            both along half a cosine.
        weight_decay: AdamW's decay.
        compute_dtype: "float32", or "bfloat16" for the network's products and activations; parameters, statistics
            and losses are float32 with either, so that a run can be loaded with the other.
    """

    image_size: int = 64
    attributes: tuple[str, ...] = face_attributes.FACE
    widths: tuple[int, ...] = (32, 64, 96, 128)
    hidden: int = 128
    dropout: float = 0.1
    augmentation: Augmentation = Augmentation()
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_widths(self, "widths")
        factor = 2 ** len(self.widths)
        if self.image_size < 1 or self.image_size % factor:
            raise ValueError(
                f"image_size is {self.image_size}; expected a multiple of {factor} for {len(self.widths)} widths, "
                "each of which halves the image."
            )
        check_at_least(self, 1, "hidden", "epochs", "batch_size")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected at least 0, for none, and less than 1.")
        check_positive(self, "learning_rate")
        check_at_least(self, 0, "weight_decay")
        check_compute_dtype(self)
        check_attributes(self)

    def network(self, axis_name: str | None = None) -> ImageClassifier:
        """Network from images to logits [B, A] and features [B, F]."""
        return ImageClassifier(
            len(self.attributes), self.widths, self.hidden, self.dropout, axis_name, self.compute_dtype
        )


def terms(logits: jax.Array, attributes: jax.Array) -> dict[str, jax.Array]:
    """Error and accuracy of classified images.

    Args:
        logits: log odds of the attributes, [B, A].
        attributes: the images' attributes, [B, A] in {0, 1}.

    Returns:
        "loss", the cross-entropy in nats per attribute, and "accuracy", in [0, 1]; both [B], means over attributes.
    """
    return {
        "loss": losses.bernoulli_nll(logits, attributes) / attributes.shape[1],
        "accuracy": ((logits > 0) == (attributes > 0.5)).mean(1),
    }


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase, "training"."""
    schedule = optax.cosine_onecycle_schedule(config.epochs * steps_per_epoch, config.learning_rate)
    return common.training_phase(config, steps_per_epoch, {"classifier": schedule})


def optimizers(config: Config, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """AdamW, at unit rate."""
    return {"classifier": optax.adamw(1.0, weight_decay=config.weight_decay)}


def init(config: Config, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
    """Draws the network's parameters."""
    size = config.image_size
    images.check_batch(batch, image=(size, size, 3), attributes=(len(config.attributes),))
    params, stats = nets.init(config.network(), key, images.to_float(batch["image"]))
    return {"classifier": params}, {"classifier": stats}


def training_terms(
    config: Config, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> common.Terms:
    """The terms of augmented images, and new batch statistics."""
    net = config.network(training.axis_name)
    augmenting, dropping = (
        random.example_keys(jax.random.fold_in(key, draw), len(batch["image"]), training.axis_name) for draw in (1, 2)
    )
    x = augmentation.augment(augmenting, images.to_float(batch["image"]), config.augmentation)
    (logits, _), stats = nets.apply(net, params["classifier"], state["classifier"], x, dropping, train=True)
    return terms(logits, batch["attributes"]), {"classifier": stats}


def logits(config: Config, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """Log odds of each attribute, [B, A], for images [B, H, W, 3] in [-1, 1]."""
    return nets.evaluate(config.network(), params["classifier"], state["classifier"], x)[0]


def features(config: Config, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """Activations of the last hidden layer, [B, F], for images [B, H, W, 3] in [-1, 1]."""
    return nets.evaluate(config.network(), params["classifier"], state["classifier"], x)[1]


def evaluate(
    config: Config, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The terms in evaluation mode, of images as they are."""
    return terms(logits(config, params, state, images.to_float(batch["image"])), batch["attributes"])


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, 3], "attributes": float32 [B, A]}. Its
        `functions` take (params, model_state, images in [-1, 1]) and work in evaluation mode: logits(...) -> [B, A],
        the log odds of each attribute; features(...) -> [B, F], the activations of the last hidden layer.
    """
    return common.bind(
        config,
        init=init,
        rounds=common.one_round("classifier", training_terms),
        optimizers=optimizers,
        evaluate=evaluate,
        functions={"logits": logits, "features": features},
    )
