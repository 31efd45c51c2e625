"""Terms of the multimodal VAE's objective, each [B] and a mean over pixels, bits or dimensions, and their weights.

Captions that leave attributes open (`Config.unknown_attributes`). Many images fit such a caption, so its posterior has
to be wide: it stands for all their codes. What the terms ask of it follows from that.

- Texts from the text's code are compared in what was said. A hidden attribute is one thing in one image and another in
  the next: to ask for it would be to ask each draw of the wide posterior for what its caption does not know, which a
  narrow posterior around an average answers best. From the image's code all attributes are asked: the image shows them.
- Images from text count by the share of the attributes that was said, for the same reason: a draw for a caption that
  says nothing may be any face, and the more it says, the more it is this one.
- Matching is KL(image || text). With the images' codes given, the text posterior that minimises its mean over the
  images of a caption has the mean of their codes, and as variance the codes' own plus that of their means: as wide as
  what the caption leaves open. But its gradient also pulls each code towards the average of faces that the caption does
  not tell apart, and its minimum over the codes is where they know no more than the caption, which may be nothing. So
  the image's side of that gradient is multiplied by the share that was said, and the text's side is whole: whole
  captions pull as in the paper, and one that says nothing learns the distribution of all codes and pulls none.
"""

from __future__ import annotations

import functools
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


def shared(config: Config, posterior: Gaussian) -> Gaussian:
    """The part of a posterior, each [..., D], that image and text share; what is compared of the two."""
    mean, logvar = posterior
    return mean[..., : config.shared_size], logvar[..., : config.shared_size]


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


def attribute_error(
    config: Config, logits: jax.Array, attributes: jax.Array, said: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of attributes that were said, per attribute that there is: [B], in nats.

    Where the config says so, an attribute's cross-entropy above a limit is multiplied by a factor (MM-03).

    Args:
        config: the model.
        logits: log odds, [B, A].
        attributes: [B, A] in {0, 1}.
        said: which of them count, [B, A] in {0, 1}; None for all. The sum is divided by A all the same: a caption of
            one word asks for one word, and does not count as much as one of A words.
    """
    likelihood: Callable[[jax.Array, jax.Array], jax.Array] = losses.bernoulli_nll
    if config.penalise_text_errors:
        likelihood = functools.partial(
            losses.penalised_bernoulli_nll, threshold=config.text_error_limit, factor=config.text_error_factor
        )
    if said is None:
        error = likelihood(logits, attributes)
    else:
        each = likelihood(logits.reshape(-1, 1), attributes.reshape(-1, 1)).reshape(logits.shape)
        error = (said * each).sum(1)
    return error / attributes.shape[1]


def attribute_agreement(first_logits: jax.Array, second_logits: jax.Array, said: jax.Array | None = None) -> jax.Array:
    """Mean squared difference of two probabilities of attributes, [B], from logits [B, A] (MM-12).

    Args:
        first_logits: log odds read from one latent.
        second_logits: those read from the other.
        said: which attributes count, [B, A] in {0, 1}, divided by A as in `attribute_error`; None for all.
    """
    first, second = jax.nn.sigmoid(first_logits), jax.nn.sigmoid(second_logits)
    if said is not None:
        first, second = said * first, said * second
    return losses.squared_error(first, second) / first_logits.shape[1]


def inconsistency(config: Config, image: Gaussian, text: Gaussian, axis_name: str | None = None) -> jax.Array:
    """One minus the consistency score, 1 / (1 + KL per dimension), of two posteriors: [B], in [0, 1).

    Args:
        config: direction of the divergence (MM-02), and whether the score is that of every example or of the batch's
            mean divergence (MM-14).
        image: posteriors of images.
        text: posteriors of attributes.
        axis_name: mapped axis over which the batch is split.
    """
    image, text = shared(config, image), shared(config, text)
    first, second = (image, text) if config.score_direction == "img||txt" else (text, image)
    divergence = losses.kl_diag_gaussians(*first, *second) / config.shared_size
    if config.score_reduction == "batch":
        mean = divergence.mean()
        divergence = jnp.full_like(divergence, mean if axis_name is None else jax.lax.pmean(mean, axis_name))
    return 1.0 - 1.0 / (1.0 + divergence)


def posterior_terms(
    config: Config,
    weights: Mapping[str, float],
    image: Gaussian,
    text: Gaussian,
    axis_name: str | None = None,
    share: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Divergences of the two posteriors from each other and from the prior, per latent dimension.

    Args:
        config: the model.
        weights: names of the terms to compute.
        image: posteriors of images.
        text: posteriors of attributes.
        axis_name: mapped axis over which the batch is split.
        share: of the attributes that each caption said, [B]: the part of the gradient of matching and score that the
            image's posterior gets, as the module explains; None for all of it.

    Returns:
        Those of "posterior_matching", "inconsistency", "image_kl" and "text_kl" that have a weight, [B].
    """
    terms, pulled = {}, image
    if share is not None:
        mean, logvar = image
        pulled = _scale_gradient(mean, share[:, None]), _scale_gradient(logvar, share[:, None])
    if "posterior_matching" in weights:
        both = (*shared(config, pulled), *shared(config, text))
        terms["posterior_matching"] = losses.kl_diag_gaussians(*both) / config.shared_size
        if config.private_size:
            theirs = (part[:, config.shared_size :] for part in jax.lax.stop_gradient(image))
            ours = (part[:, config.shared_size :] for part in text)
            terms["posterior_matching"] += losses.kl_diag_gaussians(*theirs, *ours) / config.private_size
    if "inconsistency" in weights:
        terms["inconsistency"] = inconsistency(config, pulled, text, axis_name)
    if "image_kl" in weights:
        terms["image_kl"] = losses.kl_standard_normal(*image) / config.latent_size
        terms["text_kl"] = losses.kl_standard_normal(*shared(config, text)) / config.shared_size
    return terms


def _scale_gradient(value: jax.Array, factor: jax.Array) -> jax.Array:
    """The value itself, whose gradient is multiplied by the factor."""
    fixed = jax.lax.stop_gradient(value)
    return fixed + factor * (value - fixed)
