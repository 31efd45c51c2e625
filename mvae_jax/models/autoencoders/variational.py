"""Variational autoencoders, in the networks of Schik by default.

VAE (Kingma and Welling, 2014): the negative evidence lower bound, -log p(x | z) + KL(q(z | x) || N(0, I)).

beta-VAE (Higgins et al., 2017): -log p(x | z) + beta KL(q(z | x) || N(0, I)).

beta-TCVAE (Chen et al., 2018): the KL divergence from the prior is, on average over the data, the sum of three parts:
the mutual information of example and latent, the total correlation of the aggregated posterior, and the KL divergence
of its marginals. This model gives each its own weight,

    -log p(x | z) + alpha MI + beta TC + gamma (dimension-wise KL),

and is trained as KL + (alpha - 1) MI + (beta - 1) TC + (gamma - 1) DW, so that what has weight 1 is not estimated: the
closed-form KL has no noise.

All are sums over pixels and dimensions in nats, means over the batch.

Groups: "encoder", "decoder", and "observation", the log scale of the observations where it is learned.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from mvae_jax import gaussian, images, losses, nets, random
from mvae_jax.models import common
from mvae_jax.models.autoencoders import networks
from mvae_jax.models.autoencoders.networks import NetworksConfig
from mvae_jax.models.checks import check_at_least, check_choice, check_positive
from mvae_jax.models.common import Training
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase, Posterior

LIKELIHOODS = ("gaussian", "laplace", "bernoulli")
# Schik's code for probabilistic models (SC-02, SC-04); its constant scale of .01 goes through a softplus.
_RELEASED: dict[str, Any] = {
    "batch_statistics": False,
    "kl": "one_sample",
    "posterior_scale": "softplus",
    "observation_scale": math.log1p(math.exp(0.01)),
}


@dataclasses.dataclass(frozen=True)
class VariationalConfig(NetworksConfig):
    """Likelihood and divergence of a variational autoencoder.

    Attributes:
        likelihood: of a pixel value in [0, 1] given the decoder's mean: "gaussian", "laplace" or "bernoulli".
        observation_scale: standard deviation of the Gaussian, or scale of the Laplace distribution. 1 / sqrt(2) makes
            the negative log-likelihood the sum of squared errors, up to a constant.
        learn_scale: learn one such scale for all pixels, from `observation_scale` on (sigma-VAE).
        kl: "closed_form", or "one_sample", log q(z | x) - log p(z) at the sample that is decoded, as released.
        free_bits: nats that each latent dimension may use, on average over the batch, without paying for them.
        warmup_epochs: epochs over which the weight of the divergence rises from 0 to its value.
        posterior_scale: standard deviation from the encoder's second output s: "exponential", exp(s / 2), or
            "softplus", softplus(exp(s)), which cannot fall below log 2, as released (SC-02).
    """

    heads: ClassVar[int] = 2
    likelihood: str = "gaussian"
    observation_scale: float = 2**-0.5
    learn_scale: bool = False
    kl: str = "closed_form"
    free_bits: float = 0.0
    warmup_epochs: int = 0
    posterior_scale: str = "exponential"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "likelihood", LIKELIHOODS)
        check_choice(self, "kl", ("closed_form", "one_sample"))
        check_choice(self, "posterior_scale", ("exponential", "softplus"))
        check_at_least(self, 0, "free_bits", "warmup_epochs")
        check_positive(self, "observation_scale")
        if self.learn_scale and self.likelihood == "bernoulli":
            raise ValueError("learn_scale is true, but a Bernoulli likelihood has no scale: use another likelihood.")

    @property
    def groups(self) -> tuple[str, ...]:
        """Parameter groups that are trained."""
        return (*super().groups, "observation") if self.learn_scale else super().groups

    @property
    def kl_weight(self) -> float:
        """Weight of the KL divergence from the prior."""
        return 1.0

    @property
    def divergence_weights(self) -> dict[str, float]:
        """Weights of the objective's divergences."""
        return {"kl": self.kl_weight}

    def effective_weight(self, weight: float) -> float:
        """A divergence's weight as it would be were all errors and divergences means instead of sums.

        That is the weight of the divergence per latent dimension against the error per pixel value, which says how
        strong it is at any image and latent size: weight * L / (H W C), times 2 scale^2 for a Gaussian likelihood,
        whose negative logarithm is the squared error by that, and times the scale for a Laplace one; where the
        scale is learned, at the scale that it starts from.
        """
        error = {"gaussian": 2 * self.observation_scale**2, "laplace": self.observation_scale, "bernoulli": 1.0}
        return weight * error[self.likelihood] * self.latent_size / math.prod(self.image_shape)


@dataclasses.dataclass(frozen=True)
class VAEConfig(VariationalConfig):
    """The variational autoencoder; defaults are the paper's, repaired where paper and released code disagree."""

    @classmethod
    def reference(cls) -> VAEConfig:
        """As the released code (SC-02, SC-04)."""
        return cls(**_RELEASED)


@dataclasses.dataclass(frozen=True)
class BetaVAEConfig(VariationalConfig):
    """The beta-VAE; defaults are the paper's, repaired where paper and released code disagree.

    Attributes:
        beta: weight of the KL divergence, whose sum over latent dimensions stands beside a sum over pixels.
    """

    beta: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "beta")

    @classmethod
    def reference(cls) -> BetaVAEConfig:
        """As the released code (SC-01, SC-02, SC-04): its script never passes beta, which stays 1."""
        return cls(**_RELEASED, beta=1.0)

    @property
    def kl_weight(self) -> float:
        """Weight of the KL divergence from the prior."""
        return self.beta


@dataclasses.dataclass(frozen=True)
class BetaTCVAEConfig(VariationalConfig):
    """The beta-TCVAE; defaults are Schik's, repaired where paper and released code disagree.

    Attributes:
        mutual_information_weight: alpha, of the mutual information.
        total_correlation_weight: beta, of the total correlation.
        dimension_wise_kl_weight: gamma, of the dimension-wise KL divergence.
        estimator: of the aggregated posterior: "mws", minibatch-weighted, or "mss", minibatch-stratified sampling. The
            metrics show "mss" for either, because the value of "mws" is far off, and always of the true posterior.
        variance_as_scale: take the posterior's variance for its standard deviation in the estimator, as released
            (SC-03).
    """

    mutual_information_weight: float = 1.0
    total_correlation_weight: float = 20.0
    dimension_wise_kl_weight: float = 1.0
    estimator: str = "mws"
    variance_as_scale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "estimator", ("mws", "mss"))
        check_at_least(self, 0, *(f"{name}_weight" for name in losses.KLTerms._fields))
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; expected at least 2, to estimate a total correlation.")

    @classmethod
    def reference(cls) -> BetaTCVAEConfig:
        """As the released code (SC-01 to SC-04): its script never passes beta, which stays 1."""
        return cls(**_RELEASED, total_correlation_weight=1.0, variance_as_scale=True)

    @property
    def divergence_weights(self) -> dict[str, float]:
        """Weights of the objective's divergences."""
        return {name: getattr(self, f"{name}_weight") for name in losses.KLTerms._fields}


# --- terms of the objective ----------------------------------------------------------------------------------------


def log_likelihood(
    config: VariationalConfig, logits: jax.Array, x: jax.Array, log_scale: jax.Array | float
) -> jax.Array:
    """Log p(x | z) of images under the config's likelihood.

    Args:
        config: the model.
        logits: the decoder's output, [B, H, W, C]; its sigmoid is the mean of the pixel values.
        x: the images, [B, H, W, C] in [0, 1].
        log_scale: logarithm of the scale of the observations, []; a Bernoulli likelihood has none.

    Returns:
        Log densities summed over pixels and channels, [B], in nats of pixel values in [0, 1].
    """
    if config.likelihood == "bernoulli":
        return -losses.bernoulli_nll(logits, x)
    if config.likelihood == "laplace":
        return -losses.laplace_nll(x, jax.nn.sigmoid(logits), log_scale)
    return -losses.gaussian_nll(x, jax.nn.sigmoid(logits), 2 * log_scale)


def divergence(config: VariationalConfig, z: jax.Array, mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(q(z | x) || N(0, I)) by dimension, in closed form or from one sample.

    Args:
        config: the model.
        z: one sample from each posterior, [B, D].
        mean: posterior means, [B, D].
        logvar: posterior log variances, [B, D].

    Returns:
        Divergences, [B, D], in nats; those of one sample may be negative.
    """
    if config.kl == "closed_form":
        return gaussian.kl_divergence(mean, logvar, 0.0, 0.0)
    return gaussian.log_prob(z, mean, logvar) - gaussian.log_prob(z, 0.0, 0.0)


def terms(
    config: VariationalConfig, logits: jax.Array, x: jax.Array, kl: jax.Array, log_scale: jax.Array | float
) -> dict[str, jax.Array]:
    """Terms of the evidence lower bound of images, and the error of their reconstructions.

    Args:
        config: the model.
        logits: the decoder's output, [B, H, W, C].
        x: the images, [B, H, W, C] in [0, 1].
        kl: `divergence` of each dimension, [B, D].
        log_scale: as for `log_likelihood`.

    Returns:
        "reconstruction", -log p(x | z), and "kl", both [B] in nats; "mean_squared_error", [B], of pixel values in
        [0, 1].
    """
    error = losses.squared_error(jax.nn.sigmoid(logits), x) / math.prod(config.image_shape)
    return {
        "reconstruction": -log_likelihood(config, logits, x, log_scale),
        "mean_squared_error": error,
        "kl": kl.sum(1),
    }


def decomposition(
    config: BetaTCVAEConfig,
    z: jax.Array,
    mean: jax.Array,
    logvar: jax.Array,
    *,
    dataset_size: int,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Parts of the divergence of a beta-TCVAE.

    Args:
        config: the model.
        z: one sample from each posterior, [B, D].
        mean: posterior means, [B, D].
        logvar: posterior log variances, [B, D].
        dataset_size: examples in the training set.
        axis_name: mapped axis over which the batch is split.

    Returns:
        The sum of the parts, each with its weight minus 1, [B] in nats, to be added to the KL divergence; and the parts
        by name, [B] in nats, estimated by "mss" from the true posterior.
    """

    def parts(logvar: jax.Array, estimator: Any) -> dict[str, jax.Array]:
        return losses.kl_terms(
            z, mean, logvar, dataset_size=dataset_size, estimator=estimator, axis_name=axis_name
        )._asdict()

    trained = parts(2 * logvar if config.variance_as_scale else logvar, config.estimator)
    excess = sum(
        ((weight - 1.0) * trained[name] for name, weight in config.divergence_weights.items() if weight != 1.0),
        jnp.zeros(len(z)),
    )
    return excess, parts(logvar, "mss")


def mean_beyond_free_bits(kl: jax.Array, free_bits: float, axis_name: str | None = None) -> jax.Array:
    """Mean over the batch of the divergence, [B, D] to [], of which each dimension has some for free.

    Reference:
        Kingma et al., 2016, Improved variational inference with inverse autoregressive flow, equation 15.
    """
    if not free_bits:
        return kl.sum(1).mean()
    used = kl.mean(0) if axis_name is None else lax.pmean(kl.mean(0), axis_name)
    return jnp.maximum(used, free_bits).sum()


# --- training ------------------------------------------------------------------------------------------------------


def phases(config: VariationalConfig, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase, "training"."""
    options = {
        "warmup_steps": config.warmup_epochs * steps_per_epoch,
        "dataset_size": steps_per_epoch * config.batch_size,  # what an epoch visits: all but a part of a batch
    }
    return networks.phases(config, steps_per_epoch, options=options)


def init(config: VariationalConfig, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
    """Draws the parameters of all groups."""
    params, state = networks.init(config, key, batch)
    if config.learn_scale:
        params["observation"] = {"log_scale": jnp.log(jnp.float32(config.observation_scale))}
    return params, state


def training_terms(
    config: VariationalConfig, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> common.Terms:
    """The terms in training, and new batch statistics."""
    phase, axis_name, step = training
    encoder, decoder = config.encoder(config.heads, axis_name), config.decoder(axis_name)
    train = config.batch_statistics
    x = images.to_unit_interval(batch["image"])
    outputs, encoder_stats = nets.apply(encoder, params["encoder"], state["encoder"], x, train=train)
    mean, logvar = _gaussian(config, *outputs)
    z = gaussian.sample(jax.random.fold_in(key, 1), mean, logvar, axis_name)
    logits, decoder_stats = nets.apply(decoder, params["decoder"], state["decoder"], z, train=train)
    kl = divergence(config, z, mean, logvar)
    values = terms(config, logits, x, kl, _log_scale(config, params))
    penalty = config.kl_weight * mean_beyond_free_bits(kl, config.free_bits, axis_name)
    if isinstance(config, BetaTCVAEConfig):
        size = phase.options["dataset_size"]
        excess, parts = decomposition(config, z, mean, logvar, dataset_size=size, axis_name=axis_name)
        penalty, values = penalty + excess.mean(), {**values, **parts}
    if warmup := phase.options["warmup_steps"]:
        penalty *= jnp.minimum(1.0, step / warmup)
    loss = values["reconstruction"].mean() + penalty
    values = {"loss": loss, **values}
    if config.learn_scale:
        values["observation_scale"] = jnp.exp(_log_scale(config, params))
    return values, {"encoder": encoder_stats, "decoder": decoder_stats}


def _gaussian(config: VariationalConfig, mean: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance from the encoder's two outputs, [B, D]."""
    return mean, s if config.posterior_scale == "exponential" else 2 * jnp.log(jax.nn.softplus(jnp.exp(s)))


def _log_scale(config: VariationalConfig, params: Params) -> jax.Array | float:
    return params["observation"]["log_scale"] if config.learn_scale else math.log(config.observation_scale)


# --- the trained model ---------------------------------------------------------------------------------------------


def encode(config: VariationalConfig, params: Params, state: ModelState, x: jax.Array) -> Posterior:
    """Posteriors q(z | x) of images [B, H, W, C] in [-1, 1]."""
    return Posterior(*_gaussian(config, *networks.run_encoder(config, params, state, x)))


def decode(config: VariationalConfig, params: Params, state: ModelState, z: jax.Array) -> jax.Array:
    """Means of p(x | z) of latents [B, D]: images [B, H, W, C] in [-1, 1]."""
    return images.from_unit_interval(jax.nn.sigmoid(networks.run_decoder(config, params, state, z)))


def sample(config: VariationalConfig, params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
    """Images of `count` draws from the prior, N(0, I)."""
    return decode(config, params, state, random.standard_normal(key, (count, config.latent_size)))


def image_log_likelihood(
    config: VariationalConfig, params: Params, state: ModelState, x: jax.Array, z: jax.Array
) -> jax.Array:
    """Log p(x | z) of images [B, H, W, C] in [-1, 1] and latents [B, D]: [B], in nats of pixel values in [0, 1]."""
    logits = networks.run_decoder(config, params, state, z)
    return log_likelihood(config, logits, images.to_unit_interval(x), _log_scale(config, params))


def evaluate(
    config: VariationalConfig, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The terms in evaluation mode; "loss" leaves out what couples examples: free bits, and a beta-TCVAE's parts."""
    mean, logvar = _gaussian(config, *networks.run_encoder(config, params, state, batch["image"]))
    z = gaussian.sample(key, mean, logvar)
    logits = networks.run_decoder(config, params, state, z)
    kl = divergence(config, z, mean, logvar)
    values = terms(config, logits, images.to_unit_interval(batch["image"]), kl, _log_scale(config, params))
    return {"loss": values["reconstruction"] + config.kl_weight * values["kl"], **values}


def build(config: VariationalConfig) -> Model:
    """Builds the model's pure functions.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, C]}. Besides `encode`, `decode` and `sample` it has,
        in evaluation mode, log_likelihood(params, model_state, images in [-1, 1], z) -> log p(x | z), [B] in nats; and
        features(params, model_state, images) -> the encoder's last hidden layer, [B, F].
    """
    return common.bind(
        config,
        init=init,
        rounds=common.one_round("vae", training_terms),
        optimizers=networks.optimizers,
        evaluate=evaluate,
        encode=encode,
        decode=decode,
        sample=sample,
        functions={"log_likelihood": image_log_likelihood, "features": networks.features},
    )
