"""What BiGAN and the latent regressors share: networks, one phase, and the weights that tell them apart.

Groups: "generator", "encoder", "discriminator", all moved at once from the same pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mvae_jax import gaussian, images, losses, nets
from mvae_jax.models._checks import check_at_least, check_choice, check_positive, check_widths
from mvae_jax.nets.bigan import Discriminator, Encoder, Generator
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round
from mvae_jax.optimizers import adam_with_l2, constant_then_exponential

GROUPS = ("generator", "encoder", "discriminator")


@dataclasses.dataclass(frozen=True)
class Config:
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
        l2: what is added to the gradient, times the parameter; gains excepted.
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
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "compute_dtype", ("float32", "bfloat16"))
        check_widths(self, "widths")
        check_at_least(self, 1, "image_size", "channels", "latent_size", "epochs", "batch_size")
        check_at_least(self, 0, "decayed_epochs", "l2")
        check_positive(self, "learning_rate")
        if self.decayed_epochs > self.epochs:
            raise ValueError(f"decayed_epochs is {self.decayed_epochs}; expected at most epochs, {self.epochs}.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (self.image_size, self.image_size, self.channels)


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The one phase, "training"."""
    constant = (config.epochs - config.decayed_epochs) * steps_per_epoch
    rate = constant_then_exponential(config.learning_rate, constant, config.decayed_epochs * steps_per_epoch)
    return (
        Phase(
            name="training",
            steps=config.epochs * steps_per_epoch,
            batch_size=config.batch_size,
            image_size=config.image_size,
            learning_rates=dict.fromkeys(GROUPS, rate),
        ),
    )


def build(config: Config, *, joint: bool, regression: float = 0.0, stochastic: bool = False) -> Model:
    """Builds one of the three models.

    Args:
        config: networks and training.
        joint: the discriminator judges pairs of image and latent, and the encoder plays against it (BiGAN). Otherwise
            it judges images alone, and the encoder regresses the latents of generated ones.
        regression: weight of that regression, a mean over dimensions as released, in the generator's objective.
        stochastic: the encoder of a joint game draws from a Gaussian (ALI) rather than naming one latent.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, C]}. A regressor's `encode` returns the logits of
        (z + 1) / 2, which `decode` takes back; `sample` draws z. Further functions: features(params, model_state,
        images) -> the encoder's last hidden layer, [B, F]; discriminate(params, model_state, images) -> logits [B].
    """
    size = config.latent_size

    def networks(axis_name: str | None = None) -> dict[str, Generator | Encoder | Discriminator]:
        dtype = config.compute_dtype
        return {
            "generator": Generator(config.image_shape, config.widths[::-1], axis_name, dtype),
            "encoder": Encoder(size, config.widths, 2 if stochastic else 1, not joint, axis_name, dtype),
            "discriminator": Discriminator(config.widths, axis_name, dtype),
        }

    def init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        images.check_batch(batch, image=config.image_shape)
        x, z = images.to_unit_interval(batch["image"]), jnp.zeros((len(batch["image"]), size))
        inputs = {"generator": (z,), "encoder": (x,), "discriminator": (x, z) if joint else (x,)}
        found = {
            group: nets.init(net, jax.random.fold_in(key, number), *inputs[group])
            for number, (group, net) in enumerate(networks().items())
        }
        return {group: pair[0] for group, pair in found.items()}, {group: pair[1] for group, pair in found.items()}

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        mapped = networks(axis_name)

        def losses_of(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
            stats = dict(state)

            def run(name: str, *inputs: jax.Array) -> Any:
                output, stats[name] = nets.apply(mapped[name], params[name], stats[name], *inputs, train=True)
                return output

            x = images.to_unit_interval(batch["image"])
            z = 2.0 * gaussian.uniform(jax.random.fold_in(key, 1), (len(x), size), axis_name) - 1.0
            fake = jax.nn.sigmoid(run("generator", z))
            if joint:
                code, *logvar = run("encoder", x)
                if stochastic:
                    code = gaussian.sample(jax.random.fold_in(key, 2), code, logvar[0], axis_name)
                real_logits, fake_logits = run("discriminator", x, code), run("discriminator", fake, z)
                # The encoder wants its pairs to be taken for the generator's: the same game with the labels exchanged.
                exchanged = losses.logistic_discriminator(fake_logits, real_logits)
                objectives = {"generator": exchanged.real.mean() + exchanged.fake.mean()}
                metrics = {}
            else:
                (code,) = run("encoder", fake)
                real_logits, fake_logits = run("discriminator", x), run("discriminator", fake)
                error = losses.bernoulli_nll(code, (z + 1.0) / 2.0).mean() / size
                deceived = losses.non_saturating_generator(fake_logits).mean()
                # Without its weight the regression would still cost the generator a pass backwards.
                objectives = {"generator": deceived + regression * error if regression else deceived, "encoder": error}
                metrics = {"encoder/error": error}
            sides = losses.logistic_discriminator(real_logits, fake_logits)
            objectives["discriminator"] = sides.real.mean() + sides.fake.mean()
            metrics |= {
                "discriminator/real_error": sides.real.mean(),
                "discriminator/fake_error": sides.fake.mean(),
                "discriminator/real_accuracy": (real_logits > 0).mean(),
                "discriminator/fake_accuracy": (fake_logits < 0).mean(),
            }
            return Losses(objectives, metrics, stats)

        trains: dict[str, tuple[str, ...]] = {group: (group,) for group in GROUPS}
        if joint:
            trains = {"generator": ("generator", "encoder"), "discriminator": ("discriminator",)}
        return (Round(trains, losses_of),)

    def optimizers(phase: Phase) -> dict[str, optax.GradientTransformation]:
        return {group: adam_with_l2(0.5, 0.999, config.l2) for group in GROUPS}

    def run(name: str, params: Params, state: ModelState, *inputs: jax.Array) -> Any:
        return nets.apply(networks()[name], params[name], state[name], *inputs, train=False)[0]

    def encode(params: Params, state: ModelState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, *logvar = run("encoder", params, state, images.to_unit_interval(x))
        return mean, logvar[0] if stochastic else jnp.full_like(mean, -jnp.inf)

    def generate(params: Params, state: ModelState, z: jax.Array) -> jax.Array:
        return images.from_unit_interval(jax.nn.sigmoid(run("generator", params, state, z)))

    def decode(params: Params, state: ModelState, code: jax.Array) -> jax.Array:
        return generate(params, state, code if joint else 2.0 * jax.nn.sigmoid(code) - 1.0)

    def sample(params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
        return generate(params, state, 2.0 * gaussian.uniform(key, (count, size)) - 1.0)

    def features(params: Params, state: ModelState, x: jax.Array) -> jax.Array:
        net = networks()["encoder"]
        return nets.features(net, params["encoder"], state["encoder"], images.to_unit_interval(x))

    def discriminate(params: Params, state: ModelState, x: jax.Array) -> jax.Array:
        x = images.to_unit_interval(x)
        return run("discriminator", params, state, x, *(run("encoder", params, state, x)[:1] if joint else ()))

    def evaluate(phase: Phase) -> Callable[..., dict[str, jax.Array]]:
        def terms(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            output = decode(params, state, encode(params, state, batch["image"])[0])
            x = images.to_unit_interval(batch["image"])
            error = losses.squared_error(images.to_unit_interval(output), x) / x[0].size
            return {"loss": error, "mean_squared_error": error}

        return terms

    return Model(
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        sample=sample,
        functions={"features": features, "discriminate": discriminate},
    )
