"""Multimodal VAE of faces and attribute captions (Kim, 2024): two VAEs that share one latent space.

An image VAE and a text VAE (the text is a vector of attribute bits) are trained in three phases: each for itself,
then aligned (cross-modal reconstruction, matching of the two posteriors), then with a patch discriminator on the
reconstructions. Every term of the published loss is a mean over pixels, bits or latent dimensions, so the
[B] sums of `mvae_jax.losses` are divided here and the published weights hold.

Groups: "vae" (both encoders, both decoders: one optimiser, one gradient clip), "discriminator", and "vgg", which is
there only if weights are given and is never trained.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mvae_jax import gaussian, images, losses, nets, random
from mvae_jax.models import common
from mvae_jax.models.common import Training
from mvae_jax.models.multimodal.config import Config, PhaseConfig
from mvae_jax.models.multimodal.networks import Networks, Reconstructions, init, reconstruct, training_images
from mvae_jax.models.multimodal.objective import (
    attribute_agreement,
    attribute_error,
    image_terms,
    posterior_terms,
    shared,
)
from mvae_jax.nets import vgg
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Posterior, Round
from mvae_jax.optimizers import clip_by_global_norm, rise_and_fall

# --- terms of the objective ----------------------------------------------------------------------------------------


def terms(
    networks: Networks,
    weights: Mapping[str, float],
    params: Params,
    state: ModelState,
    batch: Batch,
    key: jax.Array,
    *,
    train: bool,
) -> tuple[dict[str, jax.Array], ModelState]:
    """Terms of the objective.

    Args:
        networks: the networks.
        weights: names of the terms to compute, as `term_weights` returns them.
        params: parameters of all groups.
        state: batch statistics of all groups.
        batch: "image", uint8 [B, H, W, 3], and "attributes", float32 [B, A] in {0, 1}.
        key: a key that serves nothing else.
        train: whether z is sampled, and networks normalise by the statistics of the batch.

    Returns:
        The terms, [B], means over event axes; and new batch statistics of group "vae".
    """
    config, vae = networks.config, params["vae"]
    x = training_images(networks, batch, key) if train else images.to_float(batch["image"])
    a = batch["attributes"]
    outputs = reconstruct(networks, weights, vae, state["vae"], x, a, key, train=train)
    stats, said = outputs.stats, outputs.said
    share = None if said is None else said.mean(1)
    if train and config.released_averages:
        stats = _count_generated(networks, vae, stats, x, outputs)

    def decode_attributes(z: jax.Array) -> jax.Array:
        return networks.run("text_decoder", vae, stats, z[:, : config.shared_size], train=train)[0]

    def features(pixels: jax.Array) -> Any:
        assert networks.vgg_net is not None
        return networks.vgg_net.apply({"params": params["vgg"]}, pixels)

    def encode(pixels: jax.Array) -> jax.Array:
        # Statistics of generated images reach the encoder's running averages only as released, see above.
        (mean, _), _ = networks.run("image_encoder", vae, stats, pixels, train=train)
        return mean

    def compare_images(name: str, pixels: jax.Array) -> dict[str, jax.Array]:
        return image_terms(
            name,
            pixels,
            x,
            outputs.image[0],
            features=features if f"{name}_perceptual" in weights else None,
            encode=encode if f"{name}_identity" in weights else None,
        )

    # Gradients of an array with several readers are added in the order in which these stand here.
    text_logits = decode_attributes(outputs.z_text)
    values = compare_images("image_from_image", outputs.from_image)
    values["text_from_text"] = attribute_error(config, text_logits, a, said)
    if "image_from_text" in weights and outputs.from_text is not None:
        from_text = compare_images("image_from_text", outputs.from_text)
        values |= from_text if share is None else {name: share * value for name, value in from_text.items()}
    if "text_from_image" in weights or "attribute_agreement" in weights:
        crossed_logits = decode_attributes(outputs.z_image)
    if "text_from_image" in weights:
        values["text_from_image"] = attribute_error(config, crossed_logits, a)
    if "attribute_agreement" in weights:
        values["attribute_agreement"] = attribute_agreement(text_logits, crossed_logits, said)
    values |= posterior_terms(config, weights, outputs.image, outputs.text, networks.axis_name, share)
    if "adversarial" in weights:
        # The discriminator's statistics belong to its round: those of this pass are dropped.
        logits, _ = networks.run("discriminator", params, state, outputs.from_image, train=True)
        values["adversarial"] = losses.non_saturating_generator(logits) / logits[0].size
    return {name: value for name, value in values.items() if name in weights}, stats


def _count_generated(
    networks: Networks, params: Params, stats: ModelState, x: jax.Array, outputs: Reconstructions
) -> ModelState:
    """The statistics after the passes that the released code's identity terms make in every phase (MM-15).

    It encodes the images once more for each of the two terms, before the images that were generated.
    """
    assert outputs.from_text is not None
    for pixels in (x, outputs.from_image, x, outputs.from_text):
        _, new = networks.run("image_encoder", params, stats, pixels, train=True)
        stats = {**stats, "image_encoder": new}
    return stats


# --- training ------------------------------------------------------------------------------------------------------


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The three phases one after another; a phase of no epochs is left out."""
    parts: dict[str, PhaseConfig] = {name: getattr(config, name) for name in ("unimodal", "alignment", "adversarial")}
    steps = steps_per_epoch * sum(phase.epochs for phase in parts.values())
    rates = {"vae": config.learning_rate, "discriminator": config.discriminator_learning_rate}
    result: list[Phase] = []
    for name, phase in parts.items():
        if phase.epochs:
            start = result[-1].end if result else 0
            result.append(
                Phase(
                    name=name,
                    steps=phase.epochs * steps_per_epoch,
                    start=start,
                    batch_size=config.batch_size,
                    image_size=config.image_size,
                    learning_rates={
                        group: rise_and_fall(rate, steps, start) if config.cosine_decay else rate
                        for group, rate in rates.items()
                    },
                    weights=phase.weights(),
                    options={"steps_per_epoch": steps_per_epoch},
                )
            )
    return tuple(result)


def optimizers(networks: Networks, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """AdamW of clipped gradients, at unit rate: the same in all three phases, whose memory is carried over."""
    config = networks.config
    decays = {"vae": config.weight_decay, "discriminator": config.discriminator_weight_decay}
    return {
        group: optax.chain(
            clip_by_global_norm(config.gradient_clip),
            optax.adamw(1.0, b1=0.5, b2=0.999, weight_decay=decay),
        )
        for group, decay in decays.items()
    }


def vae_losses(
    networks: Networks, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> Losses:
    """The objective "vae": the weighted terms."""
    weights = networks.weights(training.phase)
    values, stats = terms(networks, weights, params, state, batch, key, train=True)
    means = common.means(values)
    weighted = {name: weights[name] * mean for name, mean in means.items()}
    # The adversarial loss is no measure of a model: "loss" is what validation reports as well.
    adversarial = weighted.pop("adversarial", 0.0)
    loss = sum(weighted.values(), start=jnp.zeros(()))
    return Losses({"vae": loss + adversarial}, {"loss": loss, **means}, {"vae": stats})


def discriminator_losses(
    networks: Networks, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> Losses:
    """The objective "discriminator": real against reconstructed patches, both noisy, and a gradient penalty."""
    config, (phase, axis_name, step) = networks.config, training
    weights = networks.weights(phase)
    real, attributes = training_images(networks, batch, key), batch["attributes"]
    outputs = reconstruct(networks, weights, params["vae"], state["vae"], real, attributes, key, train=True)
    fake = outputs.from_image  # what the other round is about to compute as well

    epoch = (step // phase.options["steps_per_epoch"]).astype(jnp.float32)
    deviation = config.instance_noise * config.instance_noise_decay**epoch
    noise = [
        deviation * random.standard_normal(jax.random.fold_in(key, number), real.shape, axis_name) for number in (3, 4)
    ]

    def discriminate(pixels: jax.Array, stats: ModelState) -> tuple[jax.Array, ModelState]:
        return nets.apply(networks.modules["discriminator"], params["discriminator"], stats, pixels, train=True)

    real_logits, stats = discriminate(real + noise[0], state["discriminator"])
    fake_logits, stats = discriminate(fake + noise[1], stats)

    def critic(pixels: jax.Array) -> jax.Array:
        logits, _ = discriminate(pixels, stats)
        if config.discriminator_penalty == "interpolation":
            return jax.nn.sigmoid(logits)
        return logits.mean((1, 2, 3))

    if config.discriminator_penalty == "interpolation":
        fraction = random.uniform(jax.random.fold_in(key, 5), (len(real),), axis_name)
        penalty = losses.gradient_penalty(critic, real, fake, fraction).mean()
    else:
        penalty = 0.5 * losses.r1_penalty(critic, real).mean()
    sides = losses.logistic_discriminator(real_logits, fake_logits)
    error = 0.5 * (sides.real.mean() + sides.fake.mean()) / real_logits[0].size
    objective = phase.weights["adversarial"] * (error + config.discriminator_penalty_weight * penalty)
    metrics = {
        "discriminator/error": error,
        "discriminator/penalty": penalty,
        **common.means(common.discriminator_accuracy(real_logits, fake_logits)),
    }
    return Losses({"discriminator": objective}, metrics, {"discriminator": stats})


def rounds(networks: Networks, phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
    """The round of "vae", after that of "discriminator" where the phase has one."""
    mapped = dataclasses.replace(networks, axis_name=axis_name)
    round_of = functools.partial(common.training_round, mapped, phase, axis_name)
    vae = round_of(vae_losses, {"vae": ("vae",)})
    if "adversarial" not in networks.weights(phase):
        return (vae,)
    return (round_of(discriminator_losses, {"discriminator": ("discriminator",)}), vae)


def evaluate(
    networks: Networks, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The terms in evaluation mode; "loss" is their weighted sum.

    The adversarial term is left out, and every example has a score of its own.
    """
    weights = networks.weights(phase)
    weights.pop("adversarial", None)
    networks = dataclasses.replace(networks, config=dataclasses.replace(networks.config, score_reduction="example"))
    values, _ = terms(networks, weights, params, state, batch, key, train=False)
    weighted = (weights[name] * value for name, value in values.items())
    return {"loss": sum(weighted, start=jnp.zeros(len(batch["image"]))), **values}


# --- the trained model ---------------------------------------------------------------------------------------------


def encode_image(networks: Networks, params: Params, state: ModelState, x: jax.Array) -> Posterior:
    """Posteriors of images [B, H, W, 3] in [-1, 1]."""
    return Posterior(*_run(networks, "image_encoder", params, state, x))


def encode_attributes(
    networks: Networks, params: Params, state: ModelState, attributes: jax.Array, said: jax.Array | None = None
) -> Posterior:
    """Posteriors of attributes [B, A] in [0, 1], of which a caption says those that are 1 in `said`, [B, A]; None: all.

    A model that was trained without unknown attributes takes what is not said as denied, see `Networks.caption`.
    """
    return Posterior(*_run(networks, "text_encoder", params, state, networks.caption(attributes, said)))


def shared_part(networks: Networks, params: Params, state: ModelState, posterior: Posterior) -> Posterior:
    """What is compared of the posteriors of image and text, each [..., D]: the dimensions that both share."""
    mean, logvar = posterior
    assert logvar is not None
    return Posterior(*shared(networks.config, (mean, logvar)))


def decode_image(networks: Networks, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """Images [B, H, W, 3] in [-1, 1] of latents [B, D]."""
    return _run(networks, "image_decoder", params, state, z)


def decode_attributes(networks: Networks, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """Log odds of attributes, [B, A], of latents [B, D]."""
    return _run(networks, "text_decoder", params, state, z[:, : networks.config.shared_size])


def fuse(
    networks: Networks,
    params: Params,
    state: ModelState,
    x: jax.Array,
    attributes: jax.Array,
    said: jax.Array | None = None,
) -> Posterior:
    """Product of the posteriors of images [B, H, W, 3] and attributes [B, A], and of the prior.

    `said` is that of `encode_attributes`.
    """
    image_mean, image_logvar = _run(networks, "image_encoder", params, state, x)
    text_mean, text_logvar = _run(networks, "text_encoder", params, state, networks.caption(attributes, said))
    return Posterior(*gaussian.product_of_experts([image_mean, text_mean], [image_logvar, text_logvar]))


def sample(networks: Networks, params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
    """Images of `count` draws from the prior, N(0, I)."""
    return decode_image(networks, params, state, random.standard_normal(key, (count, networks.config.latent_size)))


def build(config: Config, vgg_weights: tuple[Params, vgg.VGGDescription] | None = None) -> Model:
    """Builds the model's pure functions.

    Args:
        config: the model.
        vgg_weights: what `nets.vgg.load_vgg` returned; without it the perceptual terms are off.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, 3], "attributes": float32 [B, A]}. Its
        `functions` take (params, model_state, ...) and work in evaluation mode:
        encode_image(images in [-1, 1]) and encode_attributes(attributes, said=None) -> `Posterior`;
        shared(posterior) -> `Posterior` of the dimensions that image and text share;
        decode_image(z) -> images in [-1, 1]; decode_attributes(z) -> logits [B, A], which needs those dimensions alone;
        fuse(images, attributes, said=None) -> `Posterior`, the product of both posteriors and the prior.
    """
    vgg_params, vgg_net = None, None
    if vgg_weights is not None:
        vgg_params, description = vgg_weights
        vgg_net = vgg.VGGFeatures(description.widths, config.normalise_vgg_input, config.compute_dtype)
    return common.bind(
        Networks(config, vgg_params, vgg_net),
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        encode=encode_image,
        decode=decode_image,
        sample=sample,
        functions={
            "encode_image": encode_image,
            "encode_attributes": encode_attributes,
            "shared": shared_part,
            "decode_image": decode_image,
            "decode_attributes": decode_attributes,
            "fuse": fuse,
        },
    )


def _run(networks: Networks, name: str, params: Params, state: ModelState, value: jax.Array) -> Any:
    return networks.run(name, params["vae"], state["vae"], value, train=False)[0]
