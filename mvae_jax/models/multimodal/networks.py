"""Networks of the multimodal VAE, and the pass through them that both of its rounds share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mvae_jax import attributes as face_attributes
from mvae_jax import augmentation, gaussian, images, nets, random
from mvae_jax.models.multimodal.config import Config
from mvae_jax.models.multimodal.objective import Gaussian, term_weights
from mvae_jax.nets import multimodal as modules
from mvae_jax.nets import vgg
from mvae_jax.objective import Batch, ModelState, Params, Phase


@dataclasses.dataclass(frozen=True)
class Networks:
    """The model's networks and what they are run with.

    Attributes:
        config: the model.
        vgg_params: parameters of VGG, or None.
        vgg_net: VGG, or None: then the perceptual terms are off.
        axis_name: mapped axis over which the batch is split.
    """

    config: Config
    vgg_params: Params | None = None
    vgg_net: vgg.VGGFeatures | None = None
    axis_name: str | None = None

    @functools.cached_property
    def modules(self) -> dict[str, Any]:
        """Flax modules by name."""
        config, axis_name, dtype = self.config, self.axis_name, self.config.compute_dtype
        return {
            "image_encoder": modules.GaussianImageEncoder(
                config.latent_size,
                config.encoder_widths,
                config.coarse_size,
                config.initial_logvar,
                axis_name,
                dtype,
            ),
            "text_encoder": modules.GaussianAttributeEncoder(
                config.latent_size, config.text_hidden, config.initial_logvar, dtype
            ),
            "image_decoder": modules.AttentionImageDecoder(
                config.image_size,
                config.decoder_widths,
                config.decoder_hidden,
                config.attention,
                config.attention_heads,
                config.coarse_size,
                config.icnr,
                axis_name,
                dtype,
            ),
            "text_decoder": modules.AttributeDecoder(len(config.attributes), config.text_hidden, dtype),
            "discriminator": modules.PatchDiscriminator(config.discriminator_widths, axis_name, dtype),
        }

    def run(self, name: str, params: Params, stats: ModelState, value: jax.Array, *, train: bool) -> tuple[Any, Any]:
        """Output of one network and its new batch statistics."""
        return nets.apply(self.modules[name], params[name], stats[name], value, train=train)

    def caption(self, attributes: jax.Array, said: jax.Array | None = None) -> jax.Array:
        """What the text encoder sees of a caption.

        Args:
            attributes: values, [B, A] in {0, 1}.
            said: which of them the caption says, [B, A] in {0, 1}; None for all.

        Returns:
            Values and `said` side by side, [B, 2 A], where the model knows of unknown attributes; a value that is not
            said is 0. Otherwise the values alone, [B, A]: as in the paper, what is not said is denied.
        """
        if said is not None:
            said = jnp.asarray(said, attributes.dtype)
            attributes = attributes * said
        if not self.config.unknown_attributes:
            return attributes
        return jnp.concatenate([attributes, jnp.ones_like(attributes) if said is None else said], axis=1)

    def weights(self, phase: Phase) -> dict[str, float]:
        """Weights of the terms of a phase."""
        return term_weights(self.config, phase.weights, perceptual=self.vgg_net is not None)


def init(networks: Networks, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
    """Draws the parameters of all networks; those of VGG are the ones that were given."""
    config, size = networks.config, networks.config.image_size
    images.check_batch(batch, image=(size, size, 3), attributes=(len(config.attributes),))
    x, a = images.to_float(batch["image"]), batch["attributes"]
    z = jnp.zeros((len(x), config.latent_size))
    inputs = {
        "image_encoder": x,
        "text_encoder": networks.caption(a),
        "image_decoder": z,
        "text_decoder": z[:, : config.shared_size],
        "discriminator": x,
    }
    params, stats = {}, {}
    for number, (name, value) in enumerate(inputs.items()):
        params[name], stats[name] = nets.init(networks.modules[name], jax.random.fold_in(key, number), value)
    groups = {"discriminator": params.pop("discriminator"), "vae": params}
    if networks.vgg_params is not None:
        groups["vgg"] = jax.tree.map(jnp.asarray, networks.vgg_params)
    return groups, {"discriminator": stats.pop("discriminator"), "vae": stats}


def training_images(networks: Networks, batch: Batch, key: jax.Array) -> jax.Array:
    """Images of a batch, [B, H, W, 3] in [-1, 1], changed at random where the config says so.

    Args:
        networks: the networks.
        batch: with "image", uint8 [B, H, W, 3].
        key: the key of the step, the same in both rounds, so that both see the same images.
    """
    x, config = images.to_float(batch["image"]), networks.config
    if not config.augment:
        return x
    keys = random.example_keys(jax.random.fold_in(key, 7), len(x), networks.axis_name)
    return augmentation.perturb(keys, x, config.augmentation, jax.random.fold_in(key, 8))


def draw_said(networks: Networks, key: jax.Array, count: int) -> jax.Array | None:
    """Draws which attributes each caption of a training batch says.

    Each is hidden with probability p, `unknown_attributes`. Were they hidden independently, nearly all captions would
    hide about p A of their A attributes, and the text encoder would hardly meet one that says a single word, or all.
    So every caption draws a rate of its own, U^((1 - p) / p) of a uniform U, whose mean is p, and hides each attribute
    at that rate. With p = 1/2 the rate is uniform, and so is the number of hidden attributes, from 0 to A. A caption
    that says nothing occurs too. Male and female are hidden together, as one word says both.

    Args:
        networks: the networks.
        key: the key of the step, the same in both rounds.
        count: B, captions held here.

    Returns:
        [B, A] in {0, 1}; None where captions say everything, as in the paper: then nothing is drawn.
    """
    probability = networks.config.unknown_attributes
    if not probability:
        return None
    items = face_attributes.items(networks.config.attributes)
    draws = random.uniform(jax.random.fold_in(key, 6), (count, 2 + max(items)), networks.axis_name)
    rate = draws[:, :1] ** ((1.0 - probability) / probability)
    return (draws[:, 1:] >= rate).astype(jnp.float32)[:, jnp.array(items)]


class Reconstructions(NamedTuple):
    """Posteriors of a batch, latents, images decoded from them, new batch statistics, and what captions said.

    `said` is [B, A] in {0, 1}, None if it is everything.
    """

    image: Gaussian
    text: Gaussian
    z_image: jax.Array
    z_text: jax.Array
    from_image: jax.Array
    from_text: jax.Array | None
    stats: ModelState
    said: jax.Array | None = None


def reconstruct(
    networks: Networks,
    weights: Mapping[str, float],
    params: Params,
    stats: ModelState,
    x: jax.Array,
    attributes: jax.Array,
    key: jax.Array,
    *,
    train: bool,
) -> Reconstructions:
    """Encodes both modalities and decodes images; z is sampled in training, and the mean in evaluation.

    Only in training are attributes hidden from the text encoder: validation is of whole captions.

    Args:
        networks: the networks.
        weights: names of the terms to compute: without "image_from_text" no image is decoded from text, unless the
            decoder's running statistics count those images (MM-15).
        params: parameters of group "vae".
        stats: its batch statistics.
        x: images, [B, H, W, 3] in [-1, 1].
        attributes: [B, A] in {0, 1}.
        key: a key that serves nothing else.
        train: whether z is sampled, and normalised by the statistics of the batch.
    """
    new_stats = dict(stats)

    def run(name: str, value: jax.Array) -> Any:
        out, new_stats[name] = networks.run(name, params, new_stats, value, train=train)
        return out

    def latent(number: int, mean: jax.Array, logvar: jax.Array) -> jax.Array:
        if not train:
            return mean
        return gaussian.sample(jax.random.fold_in(key, number), mean, logvar, networks.axis_name)

    said = draw_said(networks, key, len(x)) if train else None
    image, text = run("image_encoder", x), run("text_encoder", networks.caption(attributes, said))
    z_image, z_text = latent(1, *image), latent(2, *text)
    # The private part of an image that is decoded from its text is the image's own: with another one the decoder would
    # be taught to look past it.
    shared = networks.config.shared_size
    z_text = jnp.concatenate([z_text[:, :shared], z_image[:, shared:]], axis=1)
    needed = "image_from_text" in weights
    from_text: jax.Array | None = None
    if needed and networks.config.joint_decoding:
        from_image, from_text = jnp.split(run("image_decoder", jnp.concatenate([z_image, z_text])), 2)
    else:
        from_image = run("image_decoder", z_image)
        if needed or (train and networks.config.released_averages):
            from_text = run("image_decoder", z_text)
    return Reconstructions(image, text, z_image, z_text, from_image, from_text, new_stats, said)
