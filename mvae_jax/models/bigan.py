"""BiGAN (Donahue et al., 2017; ALI, Dumoulin et al., 2017) and its two baselines, the latent regressors.

BiGAN's discriminator tells pairs of image and latent apart: (x, E(x)) from (G(z), z). Encoder and generator together
minimise the same error with the labels exchanged. The encoder's output are logits: D and G see E(x) within the prior's
support, 2 sigmoid(E(x)) - 1.

A latent regressor is an ordinary GAN, and an encoder that regresses the latents of its images. In a joint latent
regressor the generator minimises the regression's error too. The encoder's running statistics are those of real images,
on which it is used, though it never learns from them.

`build` and `phases` take the config of any of them.

Groups: "generator", "encoder", "discriminator", all moved at once from the same pass.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from mvae_jax import gaussian, images, losses, nets, random
from mvae_jax.models import common
from mvae_jax.models.checks import check_at_least, check_choice, check_compute_dtype, check_positive, check_widths
from mvae_jax.models.common import Training
from mvae_jax.nets.bigan import EPSILON, Discriminator, Encoder, Generator
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Posterior, Round
from mvae_jax.optimizers import adam_with_l2, constant_then_exponential

_EARLIER_EPSILON = 1e-5  # of batch norms, in runs that were begun before it was a setting
GROUPS = ("generator", "encoder", "discriminator")


@dataclasses.dataclass(frozen=True)
class NetworksConfig(common.SquareImages):
    """Networks and training by BiGAN's settings for MNIST.

    Attributes:
        image_size: height and width of the images in pixels.
        channels: of the images.
        latent_size: dimensions of z, uniform in [-1, 1].
        widths: units of the hidden layers of each network; the generator has them in reverse.
        epochs: passes over the training images.
        decayed_epochs: the last of them, over which the learning rate falls exponentially to a hundredth.
        batch_size: examples per step.
        learning_rate: Adam's rate, with betas 0.5 and 0.999.
        l2: factor of the parameter that is added to the gradient; gains excepted.
        norm_epsilon: added to the variances of batch norms, as released (AL-12). With a larger one a discriminator,
            whose norms have neither gain nor bias, gives a collapsed batch logits near 0. In bfloat16 the differences
            within such a batch are rounding.
        mean_errors: the discriminator minimises the mean of its two errors, and so do BiGAN's generator and encoder of
            theirs, as released; else the sum, as the paper writes it (AL-15). Adam does not mind, but for `l2`, which
            weighs half as much beside a sum: the discriminator then wins within a few epochs.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations.
    """

    image_size: int = 28
    channels: int = 1
    latent_size: int = 50
    widths: tuple[int, ...] = (1024, 1024)
    epochs: int = 400
    decayed_epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 2e-4
    l2: float = 2.5e-5
    norm_epsilon: float = dataclasses.field(default=EPSILON, metadata={"before": _EARLIER_EPSILON})
    mean_errors: bool = dataclasses.field(default=True, metadata={"before": False})
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_compute_dtype(self)
        check_widths(self, "widths")
        check_at_least(self, 1, "image_size", "channels", "latent_size", "epochs", "batch_size")
        check_at_least(self, 0, "decayed_epochs", "l2")
        check_positive(self, "learning_rate", "norm_epsilon")
        if self.decayed_epochs > self.epochs:
            raise ValueError(f"decayed_epochs is {self.decayed_epochs}; expected at most epochs, {self.epochs}.")

    @property
    def joint(self) -> bool:
        """Whether the discriminator sees pairs of image and latent, and the encoder is trained against it."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether the encoder gives a Gaussian rather than one latent."""
        return False

    def latent(self, code: jax.Array) -> jax.Array:
        """What discriminator and generator see of the encoder's output, logits of (z + 1) / 2, [B, D]."""
        return 2.0 * jax.nn.sigmoid(code) - 1.0

    @classmethod
    def reference(cls) -> Self:
        """As the released code, which the defaults are (AL-10, AL-11, AL-12, AL-15)."""
        return cls()

    def networks(self, axis_name: str | None = None) -> dict[str, Generator | Encoder | Discriminator]:
        """Networks by group."""
        heads = 2 if self.stochastic else 1
        shared: dict[str, Any] = {"axis_name": axis_name, "dtype": self.compute_dtype, "epsilon": self.norm_epsilon}
        return {
            "generator": Generator(self.image_shape, self.widths[::-1], **shared),
            "encoder": Encoder(self.latent_size, self.widths, heads, not self.joint, **shared),
            "discriminator": Discriminator(self.widths, **shared),
        }


@dataclasses.dataclass(frozen=True)
class BiGANConfig(NetworksConfig):
    """BiGAN.

    Attributes:
        encoder: "deterministic", or "gaussian": the encoder gives mean and log variance of a Gaussian, as in ALI.
        squash_codes: discriminator and generator see 2 sigmoid(E(x)) - 1, within the prior's support, as released; else
            the encoder's output as it is, as the paper writes it (AL-10). The discriminator then tells pairs apart by
            |z| > 1 alone.
    """

    encoder: str = "deterministic"
    squash_codes: bool = dataclasses.field(default=True, metadata={"before": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "encoder", ("deterministic", "gaussian"))

    @property
    def joint(self) -> bool:
        """True: the discriminator sees pairs."""
        return True

    @property
    def stochastic(self) -> bool:
        """Whether the encoder gives a Gaussian rather than one latent."""
        return self.encoder == "gaussian"

    def latent(self, code: jax.Array) -> jax.Array:
        """What discriminator and generator see of the encoder's output, [B, D]."""
        return super().latent(code) if self.squash_codes else code


@dataclasses.dataclass(frozen=True)
class LatentRegressorConfig(NetworksConfig):
    """The latent regressor."""

    norm_epsilon: float = dataclasses.field(
        default=EPSILON,
        metadata={
            "before": _EARLIER_EPSILON,
            "unlike": "the encoder's running statistics were of generated images, and real ones count now (AL-11).",
        },
    )


@dataclasses.dataclass(frozen=True)
class JointLatentRegressorConfig(LatentRegressorConfig):
    """The joint latent regressor.

    Attributes:
        regression_weight: of the encoder's error in the generator's objective.
    """

    regression_weight: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "regression_weight")


# --- terms of the objectives ---------------------------------------------------------------------------------------


def joint_terms(real_logits: jax.Array, fake_logits: jax.Array) -> dict[str, jax.Array]:
    """Terms of BiGAN: what generator and encoder minimise is the discriminator's error with the labels exchanged.

    Args:
        real_logits: of images and their latents by the encoder, [B].
        fake_logits: of generated images and their latents, (G(z), z), [B].

    Returns:
        All [B]: "generator/error" and "encoder/error" in nats, and the discriminator metrics.
    """
    exchanged = losses.logistic_discriminator(fake_logits, real_logits)
    return {
        "generator/error": exchanged.real,
        "encoder/error": exchanged.fake,
        **common.discriminator_terms(real_logits, fake_logits),
    }


def regressor_terms(
    real_logits: jax.Array, fake_logits: jax.Array, code: jax.Array, z: jax.Array
) -> dict[str, jax.Array]:
    """Terms of both latent regressors.

    Args:
        real_logits: of images, [B].
        fake_logits: of generated images, [B].
        code: the encoder's logits of (z + 1) / 2 for the generated images, [B, D].
        z: their latents, [B, D] in [-1, 1].

    Returns:
        All [B]: "encoder/error", the cross-entropy of the latents, a sum over dimensions in nats; "generator/error" in
        nats; and the discriminator metrics.
    """
    return {
        "encoder/error": losses.bernoulli_nll(code, (z + 1.0) / 2.0),
        "generator/error": losses.non_saturating_generator(fake_logits),
        **common.discriminator_terms(real_logits, fake_logits),
    }


# --- training ------------------------------------------------------------------------------------------------------


def phases(config: NetworksConfig, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase, "training"."""
    constant = (config.epochs - config.decayed_epochs) * steps_per_epoch
    rate = constant_then_exponential(config.learning_rate, constant, config.decayed_epochs * steps_per_epoch)
    return common.training_phase(config, steps_per_epoch, dict.fromkeys(GROUPS, rate))


def optimizers(config: NetworksConfig, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """Adam with L2 for every group, at unit rate."""
    return dict.fromkeys(GROUPS, adam_with_l2(0.5, 0.999, config.l2))


def init(config: NetworksConfig, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
    """Draws the parameters of all networks."""
    images.check_batch(batch, image=config.image_shape)
    x, z = images.to_unit_interval(batch["image"]), jnp.zeros((len(batch["image"]), config.latent_size))
    inputs = {"generator": (z,), "encoder": (x,), "discriminator": (x, z) if config.joint else (x,)}
    params, state = {}, {}
    for number, (group, net) in enumerate(config.networks().items()):
        params[group], state[group] = nets.init(net, jax.random.fold_in(key, number), *inputs[group])
    return params, state


def training_losses(
    config: NetworksConfig, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> Losses:
    """The objectives "generator" and "discriminator", a regressor's "encoder", and new batch statistics."""
    axis_name, stats = training.axis_name, dict(state)
    networks = config.networks(axis_name)

    def run(group: str, *inputs: jax.Array, keep: bool = True) -> Any:
        output, new = nets.apply(networks[group], params[group], stats[group], *inputs, train=True)
        if keep:
            stats[group] = new
        return output

    share = 0.5 if config.mean_errors else 1.0
    x = images.to_unit_interval(batch["image"])
    z = 2.0 * random.uniform(jax.random.fold_in(key, 1), (len(x), config.latent_size), axis_name) - 1.0
    fake = jax.nn.sigmoid(run("generator", z))
    if config.joint:
        code, *logvar = run("encoder", x)
        if config.stochastic:
            code = gaussian.sample(jax.random.fold_in(key, 2), code, logvar[0], axis_name)
        real_logits, fake_logits = run("discriminator", x, config.latent(code)), run("discriminator", fake, z)
        means = common.means(joint_terms(real_logits, fake_logits))
        objectives = {"generator": share * (means.pop("generator/error") + means.pop("encoder/error"))}
    else:
        # Statistics of generated images would leave the codes of real ones far outside: hundreds instead of 2 (AL-11).
        (code,) = run("encoder", fake, keep=False)
        run("encoder", x)
        real_logits, fake_logits = run("discriminator", x), run("discriminator", fake)
        means = common.means(regressor_terms(real_logits, fake_logits, code, z))
        means["encoder/error"] /= config.latent_size  # a mean over dimensions, as released
        objectives = {"generator": means.pop("generator/error"), "encoder": means["encoder/error"]}
        # Without its weight the regression would still cost the generator a pass backwards.
        if isinstance(config, JointLatentRegressorConfig) and config.regression_weight:
            objectives["generator"] += config.regression_weight * means["encoder/error"]
    objectives["discriminator"] = share * (means["discriminator/real_error"] + means["discriminator/fake_error"])
    return Losses(objectives, means, stats)


def rounds(config: NetworksConfig, phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
    """One round, which moves all groups."""
    trains: dict[str, tuple[str, ...]] = {group: (group,) for group in GROUPS}
    if config.joint:
        trains = {"generator": ("generator", "encoder"), "discriminator": ("discriminator",)}
    return (common.training_round(config, phase, axis_name, training_losses, trains),)


# --- the trained model ---------------------------------------------------------------------------------------------


def encode(config: NetworksConfig, params: Params, state: ModelState, x: jax.Array) -> Posterior:
    """Codes of images [B, H, W, C] in [-1, 1]: logits of (z + 1) / 2, with `squash_codes` also BiGAN's."""
    mean, *logvar = _run(config, "encoder", params, state, images.to_unit_interval(x))
    return Posterior(mean, logvar[0] if config.stochastic else None)


def decode(config: NetworksConfig, params: Params, state: ModelState, code: jax.Array) -> jax.Array:
    """Images [B, H, W, C] in [-1, 1] of codes [B, D], as `encode` returns them."""
    return _generate(config, params, state, config.latent(code))


def sample(config: NetworksConfig, params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
    """Images of `count` draws of z, uniform in [-1, 1]."""
    return _generate(config, params, state, 2.0 * random.uniform(key, (count, config.latent_size)) - 1.0)


def features(config: NetworksConfig, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """The encoder's last hidden layer, [B, F], of images [B, H, W, C] in [-1, 1]."""
    encoder = config.networks()["encoder"]
    return nets.features(encoder, params["encoder"], state["encoder"], images.to_unit_interval(x))


def discriminate(config: NetworksConfig, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """Log odds of being real, [B], of images [B, H, W, C] in [-1, 1]; BiGAN's are of the images with their codes."""
    x = images.to_unit_interval(x)
    codes = (config.latent(_run(config, "encoder", params, state, x)[0]),) if config.joint else ()
    return _run(config, "discriminator", params, state, x, *codes)


def evaluate(
    config: NetworksConfig, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Squared errors of reconstructions, means over pixel values in [0, 1], [B]."""
    output = decode(config, params, state, encode(config, params, state, batch["image"]).mean)
    x = images.to_unit_interval(batch["image"])
    error = losses.squared_error(images.to_unit_interval(output), x) / x[0].size
    return {"loss": error, "mean_squared_error": error}


def build(config: NetworksConfig) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, C]}. `encode` returns the logits of (z + 1) / 2,
        which `decode` takes back; `sample` draws z. Further functions: features(params, model_state,
        images) -> the encoder's last hidden layer, [B, F]; discriminate(params, model_state, images) -> logits [B].
    """
    return common.bind(
        config,
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        sample=sample,
        functions={"features": features, "discriminate": discriminate},
    )


def _run(config: NetworksConfig, group: str, params: Params, state: ModelState, *inputs: jax.Array) -> Any:
    return nets.evaluate(config.networks()[group], params[group], state[group], *inputs)


def _generate(config: NetworksConfig, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """Images in [-1, 1] of latents in [-1, 1]."""
    return images.from_unit_interval(jax.nn.sigmoid(_run(config, "generator", params, state, z)))
