"""VAE/GAN (Larsen et al., 2016) and the two models that it is compared with.

The GAN is VAE/GAN's decoder and discriminator without the encoder. The decoder minimises log(1 - D(decode(z))), z from
N(0, I), as in the minimax game (Goodfellow et al., 2014); the discriminator the cross-entropy of both. A network that
is too far ahead waits for the other.

VAE_Dis_l is a VAE with a learned similarity. In phase "adversarial" decoder and discriminator train as the GAN does.
In phase "similarity" the encoder joins the decoder, which goes on from there, and both minimise KL(q(z | x) || N(0, I))
and half the squared distance between image and reconstruction in the discriminator's features. The discriminator is
frozen and normalises by its running statistics, which the paper leaves open.

VAE/GAN is a VAE whose decoder is a GAN's generator and whose errors are its discriminator's. All three networks move at
once, from one forward pass. With the discriminator's features Dis_l, x~ the reconstruction and x_p a sample from the
prior:

    encoder:       KL(q(z | x) || N(0, I)) + |Dis_l(x~) - Dis_l(x)|^2 / 2
    decoder:       gamma |Dis_l(x~) - Dis_l(x)|^2 / 2 + (1 - gamma) log(1 - D(x_p))
    discriminator: -(log D(x) + log(1 - D(x_p))) / 2

Images are float32 [B, S, S, C] in [-1, 1]. Terms are sums over dimensions in nats, means over the batch.

Groups: "encoder" but for the GAN, "decoder", "discriminator".
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mvae_jax import augmentation, gaussian, images, losses, random
from mvae_jax.models import common
from mvae_jax.models.common import Training
from mvae_jax.models.vae_gan.configs import AdversarialConfig, EncodingConfig, GANConfig, VAEDisConfig, VAEGANConfig
from mvae_jax.models.vae_gan.networks import Networks, init
from mvae_jax.nets import larsen
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Posterior, Round

_RATES = 250  # the learning rate falls in as many equal steps as the published run has periods


# --- terms of the objectives ---------------------------------------------------------------------------------------


def terms(
    x: jax.Array,
    reconstruction: jax.Array,
    x_features: jax.Array,
    features: jax.Array,
    mean: jax.Array,
    logvar: jax.Array,
) -> dict[str, jax.Array]:
    """Terms of the variational objective with a learned similarity.

    No gradient flows through the features of the original images.

    Args:
        x: images, [B, S, S, C] in [-1, 1].
        reconstruction: their reconstructions, likewise.
        x_features: Dis_l of the images, [B, S', S', C'].
        features: Dis_l of the reconstructions, likewise.
        mean: posterior means, [B, D].
        logvar: posterior log variances, [B, D].

    Returns:
        All [B]: "similarity", half the squared distance of the features; "kl", to N(0, I), in nats;
        "mean_squared_error" of pixel values in [0, 1].
    """
    return {
        "similarity": 0.5 * losses.feature_distance(features, lax.stop_gradient(x_features)),
        "kl": losses.kl_standard_normal(mean, logvar),
        "mean_squared_error": losses.squared_error(reconstruction, x) / (4 * math.prod(x.shape[1:])),
    }


def discriminator_terms(
    config: AdversarialConfig, real_logits: jax.Array, fake_logits: jax.Array
) -> dict[str, jax.Array]:
    """Discriminator metrics, one number per logit; see `common.discriminator_terms`."""
    return common.discriminator_terms(real_logits, fake_logits, epsilon=config.epsilon)


def discriminator_error(config: AdversarialConfig, metrics: Mapping[str, jax.Array]) -> jax.Array:
    """The discriminator's objective: the weighted errors of both sides."""
    real, fake = metrics["discriminator/real_error"], metrics["discriminator/fake_error"]
    return config.real_weight * real + (1.0 - config.real_weight) * fake


def reconstruction_terms(
    networks: Networks, x: jax.Array, reconstruction: jax.Array, mean: jax.Array, logvar: jax.Array
) -> dict[str, jax.Array]:
    """The `terms` in the features of the networks' discriminator, which sees both kinds of images as one batch."""
    features, x_features = jnp.split(networks.features(jnp.concatenate([reconstruction, x])), 2)
    return terms(x, reconstruction, x_features, features, mean, logvar)


class AdversarialLosses(NamedTuple):
    """Objectives of discriminator and decoder, [], discriminator metrics, and the discriminator's batch statistics."""

    discriminator: jax.Array
    decoder: jax.Array
    metrics: Mapping[str, jax.Array]
    stats: Any


def adversarial_losses(networks: Networks, real: jax.Array, *fakes: jax.Array) -> AdversarialLosses:
    """Losses of real images [B, ...] against one or more batches of generated ones [B, ...], normalised all together.

    The decoder minimises log(1 - D) of its images, summed over `fakes`: the saturating side of the minimax game.
    """
    config = networks.config
    logits, stats = networks.discriminate(jnp.concatenate([real, *fakes]))
    real_logits, fake_logits = logits[: len(real)], logits[len(real) :]
    metrics = common.means(discriminator_terms(config, real_logits, fake_logits))
    decoder = len(fakes) * losses.saturating_generator(fake_logits, epsilon=config.epsilon).mean()
    return AdversarialLosses(discriminator_error(config, metrics), decoder, metrics, stats)


# --- phases and optimisers -----------------------------------------------------------------------------------------


def phases(config: AdversarialConfig, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase "training"; of VAE_Dis_l, first "adversarial", then "similarity"."""
    steps = config.epochs * steps_per_epoch
    if not isinstance(config, VAEDisConfig):
        return (_phase(config, "training", config.groups, steps),)
    adversarial = _phase(
        config, "adversarial", ("decoder", "discriminator"), config.adversarial_epochs * steps_per_epoch
    )
    similarity = _phase(config, "similarity", ("encoder", "decoder"), steps, start=adversarial.end)
    # The mean squared gradients of the adversarial losses say nothing about those of another objective.
    return adversarial, dataclasses.replace(similarity, reset_optimizers=True)


def _phase(config: AdversarialConfig, name: str, groups: Sequence[str], steps: int, start: int = 0) -> Phase:
    """A phase that trains the groups, all at the published rates of its steps."""

    def rate(step: jax.Array) -> jax.Array:
        fraction = jnp.clip(jnp.floor(_RATES * jnp.asarray(step, jnp.float32) / steps) / _RATES, 0.0, 1.0)
        return config.learning_rate - fraction**config.rate_power * (config.learning_rate - config.final_learning_rate)

    return Phase(
        name=name,
        steps=steps,
        start=start,
        batch_size=config.batch_size,
        image_size=config.image_size,
        learning_rates=dict.fromkeys(groups, rate),
        shuffle=config.shuffle,
        comparable="discriminator" not in groups,  # it measures the validation loss
    )


def optimizers(config: AdversarialConfig, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """RMSProp of the gradient and an L2 decay, for every group that the phase trains.

    Published are sums over the batch. Dividing the objectives, the decay and the epsilon by the batch's size divides
    gradients, their roots and the epsilon alike, and leaves the steps as they are.
    """
    size = phase.batch_size if config.batch_reduction == "mean" else 1

    def decayed(params: Params) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: path[-1].key == "kernel" and path[-2].key not in larsen.HEADS, params
        )

    rmsprop = optax.chain(
        optax.add_decayed_weights(2 * config.weight_decay / size, mask=decayed),
        optax.scale_by_rms(decay=0.9, eps=1e-8 / size, eps_in_sqrt=False),
        optax.scale(-1.0),
    )
    return dict.fromkeys(phase.learning_rates, rmsprop)


# --- training ------------------------------------------------------------------------------------------------------


def gates(config: AdversarialConfig, metrics: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Whether discriminator and decoder move, from the means of the discriminator metrics (VG-04)."""
    low, high = config.equilibrium - config.margin, config.equilibrium + config.margin
    real, fake = metrics["discriminator/real_error"], metrics["discriminator/fake_error"]
    ahead, behind = jnp.minimum(real, fake) < low, jnp.maximum(real, fake) > high
    return {"discriminator": ~ahead | behind, "decoder": ~behind | ahead}


def training_images(config: AdversarialConfig, batch: Batch, key: jax.Array, axis_name: str | None) -> jax.Array:
    """The images of a batch, changed at random."""
    x = images.to_float(batch["image"])
    if not config.augment:
        return x
    keys = random.example_keys(jax.random.fold_in(key, 1), len(x), axis_name)
    return augmentation.perturb(keys, x, config.augmentation, jax.random.fold_in(key, 2))


def gan_losses(
    config: AdversarialConfig, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> Losses:
    """The objectives "decoder" and "discriminator" of samples against images."""
    phase, axis_name, _ = training
    networks = Networks(config, params, state, train=True, axis_name=axis_name)
    x = training_images(config, batch, key, axis_name)
    z = random.standard_normal(jax.random.fold_in(key, 4), (len(x), config.latent_size), axis_name)
    generated, decoder_stats = networks.decode(z)
    adversarial = adversarial_losses(networks, x, generated)
    objectives = {"decoder": adversarial.decoder, "discriminator": adversarial.discriminator}
    return Losses(
        _reduced(config, phase, objectives),
        {"loss": adversarial.discriminator, **adversarial.metrics},
        {"decoder": decoder_stats, "discriminator": adversarial.stats},
    )


def similarity_losses(
    config: VAEDisConfig, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> Losses:
    """The objective "vae", measured by the frozen discriminator."""
    phase, axis_name, _ = training
    networks = Networks(config, params, state, train=True, axis_name=axis_name)
    x = training_images(config, batch, key, axis_name)
    (mean, logvar), encoder_stats = networks.encode(x)
    z = gaussian.sample(jax.random.fold_in(key, 3), mean, logvar, axis_name)
    reconstruction, decoder_stats = networks.decode(z)
    frozen = Networks(config, params, state)
    metrics = common.means(reconstruction_terms(frozen, x, reconstruction, mean, logvar))
    loss = metrics["similarity"] + metrics["kl"]
    return Losses(
        _reduced(config, phase, {"vae": loss}),
        {"loss": loss, **metrics},
        {"encoder": encoder_stats, "decoder": decoder_stats},
    )


def vae_gan_losses(
    config: VAEGANConfig, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> Losses:
    """The objectives "encoder", "decoder" and "discriminator" from one forward pass."""
    phase, axis_name, _ = training
    networks = Networks(config, params, state, train=True, axis_name=axis_name)
    x = training_images(config, batch, key, axis_name)
    (mean, logvar), encoder_stats = networks.encode(x)
    z = gaussian.sample(jax.random.fold_in(key, 3), mean, logvar, axis_name)
    z_prior = random.standard_normal(jax.random.fold_in(key, 4), z.shape, axis_name)
    if config.separate_statistics:
        reconstruction, decoder_stats = networks.decode(z)
        generated, _ = networks.decode(z_prior)  # its running statistics are not kept
    else:
        decoded, decoder_stats = networks.decode(jnp.concatenate([z, z_prior]))
        reconstruction, generated = jnp.split(decoded, 2)
    # The discriminator is normalised once among x~ and x, up to Dis_l, and once among x and x_p, as released.
    # Only the second pass, the one that trains it and reaches all its layers, leaves running statistics:
    # so those of one layer are of the same images as those of the next.
    similarity = reconstruction_terms(networks, x, reconstruction, mean, logvar)
    fakes = (generated, reconstruction) if config.discriminate_reconstructions else (generated,)
    adversarial = adversarial_losses(networks, x, *fakes)
    metrics = common.means(similarity)
    loss = metrics["similarity"] + metrics["kl"]
    weight = 1.0 - config.gamma if config.complement else 1.0
    objectives = {
        "encoder": loss,
        "decoder": config.gamma * metrics["similarity"] + weight * adversarial.decoder,
        "discriminator": adversarial.discriminator,
    }
    return Losses(
        _reduced(config, phase, objectives),
        {"loss": loss, **metrics, **adversarial.metrics},
        {"encoder": encoder_stats, "decoder": decoder_stats, "discriminator": adversarial.stats},
    )


def rounds(config: AdversarialConfig, phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
    """One round: of the GAN, of the learned similarity, or of VAE/GAN."""
    trains = {group: (group,) for group in phase.learning_rates}
    gated = functools.partial(gates, config) if config.gating else None
    round_of = functools.partial(common.training_round, config, phase, axis_name)
    if isinstance(config, VAEGANConfig):
        return (round_of(vae_gan_losses, trains, gated),)
    if isinstance(config, VAEDisConfig) and phase.name == "similarity":
        return (round_of(similarity_losses, {"vae": tuple(trains)}),)
    return (round_of(gan_losses, trains, gated),)


def _reduced(config: AdversarialConfig, phase: Phase, objectives: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Objectives by the config's reduction, from means over the batch."""
    factor = 1 if config.batch_reduction == "mean" else phase.batch_size
    return {name: factor * value for name, value in objectives.items()}


# --- the trained model ---------------------------------------------------------------------------------------------


def encode(config: AdversarialConfig, params: Params, state: ModelState, x: jax.Array) -> Posterior:
    """Posteriors q(z | x) of images [B, S, S, C] in [-1, 1]."""
    return Posterior(*Networks(config, params, state).encode(x)[0])


def decode(config: AdversarialConfig, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """Images [B, S, S, C] in [-1, 1] of latents [B, D]."""
    return Networks(config, params, state).decode(z)[0]


def sample(config: AdversarialConfig, params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
    """Images of `count` draws from the prior, N(0, I)."""
    return decode(config, params, state, random.standard_normal(key, (count, config.latent_size)))


def discriminate(config: AdversarialConfig, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """Log odds of being real, [B], of images [B, S, S, C] in [-1, 1]."""
    return Networks(config, params, state).discriminate(x)[0]


def similarity_features(config: AdversarialConfig, params: Params, state: ModelState, x: jax.Array) -> jax.Array:
    """Dis_l, [B, S', S', C'], of images [B, S, S, C] in [-1, 1]."""
    return Networks(config, params, state).features(x)


def adversarial_evaluation_terms(
    config: AdversarialConfig, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """Discriminator metrics of every image and of one sample; "loss" is the discriminator's error."""
    networks, x = Networks(config, params, state), images.to_float(batch["image"])
    generated, _ = networks.decode(random.standard_normal(key, (len(x), config.latent_size)))
    values = discriminator_terms(config, networks.discriminate(x)[0], networks.discriminate(generated)[0])
    return {"loss": discriminator_error(config, values), **values}


def evaluation_terms(
    config: AdversarialConfig, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The terms of every image; "loss" is the encoder's objective, measured by the discriminator of the moment."""
    networks, x = Networks(config, params, state), images.to_float(batch["image"])
    (mean, logvar), _ = networks.encode(x)
    reconstruction, _ = networks.decode(gaussian.sample(key, mean, logvar))
    values = reconstruction_terms(networks, x, reconstruction, mean, logvar)
    return {"loss": values["similarity"] + values["kl"], **values}


def evaluate(
    config: AdversarialConfig, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The terms of validation in a phase."""
    adversarial = isinstance(config, GANConfig) or phase.name == "adversarial"
    return (adversarial_evaluation_terms if adversarial else evaluation_terms)(config, params, state, batch, key)


def build(config: AdversarialConfig) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, S, S, C]}; the GAN cannot encode. Its `functions` take
        (params, model_state, images in [-1, 1]) and work in evaluation mode: discriminate(...) -> [B], the log odds of
        being real; similarity_features(...) -> [B, S', S', C'], Dis_l.

        Validation's "loss" of the GAN and of phase "adversarial" is the discriminator's error, which rises when the
        discriminator learns its images by heart; it is no measure of the samples. Otherwise it is the encoder's
        objective, measured by the discriminator of the moment: it compares validation with training, but not one epoch
        of VAE/GAN with another, for which there is the mean squared error. Losses of phase "similarity", where the
        discriminator is frozen, compare.
    """
    return common.bind(
        config,
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        encode=encode if isinstance(config, EncodingConfig) else None,
        decode=decode,
        sample=sample,
        functions={"discriminate": discriminate, "similarity_features": similarity_features},
    )
