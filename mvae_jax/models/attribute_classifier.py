"""Attribute classifier: which attributes does an image show? It judges what generative models draw.

A convolutional network with one logit per attribute, trained by the mean binary cross-entropy on images that are
changed at random in each step, so that it looks at shapes more than at light, colour and sharpness, in which
generated images differ from photographs. Its penultimate activations serve as features for distances between sets
of images.

Group: "classifier".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import optax

from mvae_jax import attributes as face_attributes
from mvae_jax import augmentation, gaussian, images, losses, nets
from mvae_jax.augmentation import Augmentation
from mvae_jax.models._checks import check_at_least, check_attributes, check_choice, check_positive, check_widths
from mvae_jax.nets.classifier import ImageClassifier
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round


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
        check_choice(self, "compute_dtype", ("float32", "bfloat16"))
        check_attributes(self)


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The one phase, "training"."""
    steps = config.epochs * steps_per_epoch
    return (
        Phase(
            name="training",
            steps=steps,
            batch_size=config.batch_size,
            image_size=config.image_size,
            learning_rates={"classifier": optax.cosine_onecycle_schedule(steps, config.learning_rate)},
        ),
    )


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Args:
        config: the model.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, 3], "attributes": float32 [B, A]}. Its
        `functions` take (params, model_state, images in [-1, 1]) and work in evaluation mode: logits(...) -> [B, A],
        the log odds of each attribute; features(...) -> [B, F], the activations of the last hidden layer.
    """

    def network(axis_name: str | None = None) -> ImageClassifier:
        return ImageClassifier(
            len(config.attributes), config.widths, config.hidden, config.dropout, axis_name, config.compute_dtype
        )

    def init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        size = config.image_size
        images.check_batch(batch, image=(size, size, 3), attributes=(len(config.attributes),))
        params, stats = nets.init(network(), key, images.to_float(batch["image"]))
        return {"classifier": params}, {"classifier": stats}

    def scores(logits: jax.Array, attributes: jax.Array) -> dict[str, jax.Array]:
        return {
            "loss": losses.bernoulli_nll(logits, attributes) / attributes.shape[1],
            "accuracy": ((logits > 0) == (attributes > 0.5)).mean(1),
        }

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        net = network(axis_name)

        def classifier_losses(
            params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array
        ) -> Losses:
            augmenting, dropping = (
                gaussian.example_keys(jax.random.fold_in(key, draw), len(batch["image"]), axis_name) for draw in (1, 2)
            )
            x = augmentation.augment(augmenting, images.to_float(batch["image"]), config.augmentation)
            (logits, _), stats = nets.apply(net, params["classifier"], state["classifier"], x, dropping, train=True)
            means = {name: values.mean() for name, values in scores(logits, batch["attributes"]).items()}
            return Losses({"classifier": means["loss"]}, means, {"classifier": stats})

        return (Round({"classifier": ("classifier",)}, classifier_losses),)

    def optimizers(phase: Phase) -> dict[str, optax.GradientTransformation]:
        return {"classifier": optax.adamw(1.0, weight_decay=config.weight_decay)}

    def run(params: Params, state: ModelState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nets.apply(network(), params["classifier"], state["classifier"], x, train=False)[0]

    def logits(params: Params, state: ModelState, x: jax.Array) -> jax.Array:
        return run(params, state, x)[0]

    def features(params: Params, state: ModelState, x: jax.Array) -> jax.Array:
        return run(params, state, x)[1]

    def evaluate(phase: Phase) -> Callable[..., dict[str, jax.Array]]:
        def terms(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            return scores(logits(params, state, images.to_float(batch["image"])), batch["attributes"])

        return terms

    return Model(
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        functions={"logits": logits, "features": features},
    )
