"""Terms of the multimodal VAE's objective, each [B] and a mean over pixels, bits or dimensions, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mvae_jax import losses
from mvae_jax.models.multimodal.config import Config

Gaussian = tuple[jax.Array, jax.Array]  # mean and log variance, each [B, D]


def term_weights(config: Config, weights: Mapping[str, float], perceptual: bool) -> dict[str, float]:
    """Weight of each loss term in a phase; terms of weight zero are absent, and are not computed.

    Args:
        config: the model.
        weights: the phase's weights, as `PhaseConfig.weights` names them.
        perceptual: whether VGG weights are there.
    """
    reconstruction, cross, consistency = weights["reconstruction"], weights["cross"], weights["consistency"]
    table = {
        "image_from_image": reconstruction,
        "image_from_image_perceptual": reconstruction * config.perceptual_weight * perceptual,
        "image_from_image_identity": reconstruction * config.identity_weight,
        "text_from_text": weights["text"],
        "text_from_image": cross,
        "image_from_text": cross,
        "image_from_text_perceptual": cross * config.cross_perceptual_weight * perceptual,
        "image_from_text_identity": cross * config.cross_identity_weight,
        "attribute_agreement": consistency,
        "posterior_matching": consistency,
        "inconsistency": consistency,
        "image_kl": weights["kl"],
        "text_kl": weights["kl"],
        "adversarial": weights["adversarial"],
    }
    return {name: weight for name, weight in table.items() if weight}


def image_terms(
    name: str,
    output: jax.Array,
    x: jax.Array,
    mean: jax.Array,
    *,
    features: Callable[[jax.Array], jax.Array] | None = None,
    encode: Callable[[jax.Array], jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """Errors of reconstructed images.

    Args:
        name: of the term.
        output: the reconstructions, [B, H, W, 3] in [-1, 1].
        x: the images, likewise.
        mean: posterior means of the images, [B, D].
        features: images -> feature map for the perceptual term; None for no such term.
        encode: images -> posterior means for the identity term; None for no such term.

    Returns:
        All [B]: `name`, the squared error per pixel value; f"{name}_perceptual", that of the features;
        f"{name}_identity", the cosine distance of the posterior means.
    """
    terms = {name: losses.squared_error(output, x) / x[0].size}
    if features is not None:
        theirs, ours = features(x), features(output)
        terms[f"{name}_perceptual"] = losses.feature_distance(ours, theirs) / ours[0].size
    if encode is not None:
        terms[f"{name}_identity"] = losses.cosine_distance(mean, encode(output))
    return terms


def attribute_error(config: Config, logits: jax.Array, attributes: jax.Array) -> jax.Array:
    """Cross-entropy per attribute of logits [B, A] and attributes [B, A] in {0, 1}: [B], in nats.

    Where the config says so, an attribute's cross-entropy above a limit is multiplied by a factor (MM-03).
    """
    if config.penalise_text_errors:
        penalty = {"threshold": config.text_error_limit, "factor": config.text_error_factor}
        error = losses.penalised_bernoulli_nll(logits, attributes, **penalty)
    else:
        error = losses.bernoulli_nll(logits, attributes)
    return error / attributes.shape[1]


def attribute_agreement(first_logits: jax.Array, second_logits: jax.Array) -> jax.Array:
    """Mean squared difference of two probabilities of attributes, [B], from logits [B, A] (MM-12)."""
    difference = losses.squared_error(jax.nn.sigmoid(first_logits), jax.nn.sigmoid(second_logits))
    return difference / first_logits.shape[1]


def inconsistency(config: Config, image: Gaussian, text: Gaussian, axis_name: str | None = None) -> jax.Array:
    """One minus the consistency score, 1 / (1 + KL per dimension), of two posteriors: [B], in [0, 1).

    Args:
        config: direction of the divergence (MM-02), and whether the score is that of every example or of the batch's
            mean divergence (MM-14).
        image: posteriors of images.
        text: posteriors of attributes.
        axis_name: mapped axis over which the batch is split.
    """
    first, second = (image, text) if config.score_direction == "img||txt" else (text, image)
    divergence = losses.kl_diag_gaussians(*first, *second) / config.latent_size
    if config.score_reduction == "batch":
        mean = divergence.mean()
        divergence = jnp.full_like(divergence, mean if axis_name is None else jax.lax.pmean(mean, axis_name))
    return 1.0 - 1.0 / (1.0 + divergence)


def posterior_terms(
    config: Config, weights: Mapping[str, float], image: Gaussian, text: Gaussian, axis_name: str | None = None
) -> dict[str, jax.Array]:
    """Divergences of the two posteriors from each other and from the prior, per latent dimension.

    Args:
        config: the model.
        weights: names of the terms to compute.
        image: posteriors of images.
        text: posteriors of attributes.
        axis_name: mapped axis over which the batch is split.

    Returns:
        Those of "posterior_matching", "inconsistency", "image_kl" and "text_kl" that have a weight, [B].
    """
    terms = {}
    if "posterior_matching" in weights:
        terms["posterior_matching"] = losses.kl_diag_gaussians(*image, *text) / config.latent_size
    if "inconsistency" in weights:
        terms["inconsistency"] = inconsistency(config, image, text, axis_name)
    if "image_kl" in weights:
        terms["image_kl"] = losses.kl_standard_normal(*image) / config.latent_size
        terms["text_kl"] = losses.kl_standard_normal(*text) / config.latent_size
    return terms
