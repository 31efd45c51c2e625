"""The attribute CVAE (Debbagh, 2023): images from attributes, and a latent code for what attributes do not say.

Minimises (1 - beta) SSE + beta KL(q(z | image, attributes) || prior), sums over pixel values in [0, 1] and over latent
dimensions in nats, means over the batch (equations 9 and 10). The prior is N(0, I), or by name the p(z | attributes)
of equation 5, which is learned (CV-01).

Groups: "encoder", "decoder", and "prior" where it is learned.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mvae_jax import attributes as face_attributes
from mvae_jax import gaussian, images, losses, nets
from mvae_jax.models._checks import check_at_least, check_attributes, check_choice, check_positive, check_widths
from mvae_jax.nets.conditional import ConditionalDecoder, ConditionalEncoder, ConditionalPrior
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round


@dataclasses.dataclass(frozen=True)
class Config:
    """The attribute CVAE; what the paper does not say is our choice: all but image sizes, attributes and beta.

    Attributes:
        image_size: height and width of the images in pixels. CelebA's 218, 178 are padded to multiples of 2 per
            stage within the networks, and cut again (CV-02).
        attributes: names of the attributes, in order.
        latent_size: dimensions of the latent space.
        widths: channels of the encoder's convolutions, each of which is followed by a pooling that halves the image;
            the decoder has them in reverse.
        prior: "standard", N(0, I), or "conditional", learned from the attributes (CV-01).
        prior_hidden: units of the hidden layer of the conditional prior.
        beta: weight of the KL divergence; the squared error has 1 - beta. The paper has 0.25, 0.5, 0.75 and 0.9.
        epochs: passes over the training images.
        batch_size: examples per step.
        learning_rate: Adam's rate.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; parameters and losses are
            float32 with either, so that a run can be loaded with the other.
    """

    image_size: tuple[int, int] = (218, 178)
    attributes: tuple[str, ...] = face_attributes.FACE
    latent_size: int = 128
    widths: tuple[int, ...] = (32, 64)
    prior: str = "standard"
    prior_hidden: int = 256
    beta: float = 0.5
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-3
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "prior", ("standard", "conditional"))
        check_choice(self, "compute_dtype", ("float32", "bfloat16"))
        check_at_least(self, 1, "latent_size", "prior_hidden", "epochs", "batch_size")
        check_widths(self, "widths")
        if len(self.image_size) != 2 or min(self.image_size) < 2 ** len(self.widths):
            raise ValueError(
                f"image_size is {self.image_size}; expected height and width, each at least {2 ** len(self.widths)} "
                f"for {len(self.widths)} widths, each of which halves the image."
            )
        if not 0 < self.beta < 1:
            raise ValueError(f"beta is {self.beta}; expected between 0 and 1: the squared error is weighted 1 - beta.")
        check_positive(self, "learning_rate")
        check_attributes(self)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (*self.image_size, 3)

    @property
    def divergence_weights(self) -> dict[str, float]:
        """What the divergence is multiplied by where the squared error has weight 1."""
        return {"kl": self.beta / (1 - self.beta)}

    def effective_weight(self, weight: float) -> float:
        """A divergence's weight were error and divergence means instead of sums: weight * L / (H W C)."""
        return weight * self.latent_size / math.prod(self.image_shape)


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The one phase, "training"."""
    groups = ("encoder", "decoder", *(("prior",) if config.prior == "conditional" else ()))
    return (
        Phase(
            name="training",
            steps=config.epochs * steps_per_epoch,
            batch_size=config.batch_size,
            image_size=config.image_size,
            learning_rates=dict.fromkeys(groups, config.learning_rate),
        ),
    )


def build(config: Config) -> Model:
    """Builds the model's pure functions.

    Args:
        config: the model.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, 3], "attributes": float32 [B, A]}. All its functions
        also take attributes, float [B, A] in [0, 1], and so are in `functions`; they work in evaluation mode:
        encode(params, model_state, images in [-1, 1], attributes) -> (mean, logvar), each [B, D];
        decode(params, model_state, z, attributes) -> images in [-1, 1];
        prior(params, model_state, attributes) -> (mean, logvar), each [B, D];
        sample(params, model_state, key, attributes) -> one image for each row of attributes.
        To edit an image, decode its mean with other attributes.
    """
    encoder = ConditionalEncoder(config.latent_size, config.widths, config.compute_dtype)
    decoder = ConditionalDecoder(config.image_shape, config.widths, config.compute_dtype)
    prior_net = ConditionalPrior(config.latent_size, config.prior_hidden, config.compute_dtype)

    def init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        images.check_batch(batch, image=config.image_shape, attributes=(len(config.attributes),))
        keys, a = jax.random.split(key, 3), batch["attributes"]
        x, z = images.to_unit_interval(batch["image"]), jnp.zeros((len(a), config.latent_size))
        params = {
            "encoder": nets.init(encoder, keys[0], x, a)[0],
            "decoder": nets.init(decoder, keys[1], z, a)[0],
        }
        if config.prior == "conditional":
            params["prior"] = nets.init(prior_net, keys[2], a)[0]
        return params, {group: {} for group in params}

    def encode(params: Params, state: ModelState, x: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nets.apply(encoder, params["encoder"], {}, images.to_unit_interval(x), a, train=False)[0]

    def prior(params: Params, state: ModelState, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        if config.prior == "conditional":
            return nets.apply(prior_net, params["prior"], {}, a, train=False)[0]
        zeros = jnp.zeros((len(a), config.latent_size))
        return zeros, zeros

    def decode_unit(params: Params, z: jax.Array, a: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(nets.apply(decoder, params["decoder"], {}, z, a, train=False)[0])

    def decode(params: Params, state: ModelState, z: jax.Array, a: jax.Array) -> jax.Array:
        return images.from_unit_interval(decode_unit(params, z, a))

    def sample(params: Params, state: ModelState, key: jax.Array, a: jax.Array) -> jax.Array:
        return decode(params, state, gaussian.sample(key, *prior(params, state, a)), a)

    def terms(
        params: Params, state: ModelState, batch: Batch, key: jax.Array, axis_name: str | None = None
    ) -> dict[str, jax.Array]:
        x, a = images.to_unit_interval(batch["image"]), batch["attributes"]
        mean, logvar = encode(params, state, batch["image"], a)
        output = decode_unit(params, gaussian.sample(key, mean, logvar, axis_name), a)
        error = losses.squared_error(output, x)
        kl = losses.kl_diag_gaussians(mean, logvar, *prior(params, state, a))
        return {
            "loss": (1 - config.beta) * error + config.beta * kl,
            "squared_error": error,  # the paper's "MSE" is this sum; the mean stands beside it (CV-03)
            "mean_squared_error": error / math.prod(config.image_shape),
            "kl": kl,
        }

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        def cvae_losses(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
            found = terms(params, state, batch, jax.random.fold_in(key, 1), axis_name)
            means = {name: values.mean() for name, values in found.items()}
            return Losses({"cvae": means["loss"]}, means, {})

        return (Round({"cvae": tuple(phase.learning_rates)}, cvae_losses),)

    def optimizers(phase: Phase) -> dict[str, optax.GradientTransformation]:
        return {group: optax.adam(1.0) for group in phase.learning_rates}

    def evaluate(phase: Phase) -> Callable[..., dict[str, jax.Array]]:
        return terms

    return Model(
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        functions={"encode": encode, "decode": decode, "prior": prior, "sample": sample},
    )
