"""Learned prior over the codes of a trained model: a rectified flow, given attributes of which any may be unknown.

A small network learns the velocity of straight paths from noise to codes (Liu et al., 2023, arXiv:2209.03003; Lipman
et al., 2023, arXiv:2210.02747). In training each attribute is hidden at random, so that one network draws given any
subset of them, and without any, on which classifier-free guidance rests (Ho and Salimans, 2022, arXiv:2207.12598).
Attributes that are unknown when codes are drawn are drawn first, from rows of the training examples: attributes and
code are then a draw from p(attributes) p(code | attributes), the model of both.

Codes are standardised by statistics of the training codes, which are kept in the model's state. The velocity is that
of the paths to N(0, I), which is known, and a correction that is learned: with "whiten" the flow begins as that of the
best Gaussian of the codes.

Group: "flow".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mvae_jax import images, nets, random
from mvae_jax.models import common
from mvae_jax.models.common import Training
from mvae_jax.models.latent_flow import paths
from mvae_jax.models.latent_flow.config import Config
from mvae_jax.objective import Batch, Model, ModelState, Params, Phase
from mvae_jax.optimizers import rise_and_fall

PRESENT = "present/attributes"
_STEPS = 16  # of the solver
_LEAST_VARIANCE = 1e-6  # of a direction, as a share of the largest one: what never varied is not blown up

# --- statistics of the training codes ------------------------------------------------------------------------------


def statistics(config: Config, examples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics by which codes are standardised, in float64 on the host.

    Args:
        config: says which.
        examples: "code" [N, D], "deviation" [N, D] where codes are drawn from posteriors, "attributes" [N, A], and
            "present/attributes" [N] where some have none.

    Returns:
        "mean" [D], and "scale" [D, D]: a code is mean + scale @ its standardised form; "inverse" is that of the scale.
        With posteriors they are those of the mixture of all of them. "attributes", [R, A], if some are kept: of
        examples chosen at random, each about as often where there are fewer than `Config.attribute_rows`.

    Raises:
        ValueError: rows are to be kept, and no example has attributes.
    """
    images.check_batch(examples, code=(config.latent_size,))
    code = np.asarray(examples["code"], np.float64)
    mean = code.mean(0)
    covariance = np.atleast_2d(np.cov(code, rowvar=False, bias=True))
    if "deviation" in examples:
        covariance = covariance + np.diag(np.square(np.asarray(examples["deviation"], np.float64)).mean(0))
    if config.standardise == "scale":
        variances, directions = np.diag(covariance), np.eye(len(mean))
    else:
        variances, directions = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(variances, max(_LEAST_VARIANCE * variances.max(), np.finfo(np.float32).tiny)))
    result = {"mean": mean, "scale": directions * deviations, "inverse": (directions / deviations).T}
    if _keeps_rows(config):
        there = np.flatnonzero(examples[PRESENT]) if PRESENT in examples else np.arange(len(code))
        if not len(there):
            raise ValueError(
                f"{PRESENT} is 0 of all {len(code)} training examples; expected attributes of some, or a config "
                "without any, attributes=()."
            )
        order = np.random.default_rng(0).permutation(there)
        result["attributes"] = np.asarray(examples["attributes"])[np.resize(order, config.attribute_rows)]
    return {name: value.astype(np.float32) for name, value in result.items()}


def _keeps_rows(config: Config) -> bool:
    return bool(config.attributes and config.attribute_rows)


def standardised(state: ModelState, code: jax.Array) -> jax.Array:
    """Codes [B, D] in units in which the training codes have mean 0 and variance 1."""
    return _product(code - state["flow"]["mean"][None], state["flow"]["inverse"])


def restored(state: ModelState, x: jax.Array) -> jax.Array:
    """Codes [B, D] from their standardised form: the inverse of `standardised`."""
    return state["flow"]["mean"][None] + _product(x, state["flow"]["scale"])


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Product x matrix^T in float32 on every device: fewer bits would lose directions of little variance."""
    return jnp.matmul(x, matrix.T, precision=jax.lax.Precision.HIGHEST)


# --- the velocity, and its error -----------------------------------------------------------------------------------


def velocity(
    config: Config,
    params: Params,
    state: ModelState,
    x: jax.Array,
    t: jax.Array,
    attributes: jax.Array,
    known: jax.Array,
) -> jax.Array:
    """Velocity of the flow, of standardised codes.

    Args:
        config: the model.
        params: its parameters.
        state: its state.
        x: points of the paths, [B, D].
        t: times in [0, 1], [B].
        attributes: [B, A] in [0, 1]; the value of one that is unknown does not count.
        known: which attributes are known, [B, A] in {0, 1}.

    Returns:
        [B, D].
    """
    values = jnp.where(known != 0, 2 * attributes - 1, 0.0)  # not a product, which NaN would survive
    condition = jnp.concatenate([values, known], axis=1)
    correction = nets.evaluate(config.network(), params["flow"], {}, x, t, condition)
    return paths.gaussian_velocity(x, t) + correction


def hidden_at_random(config: Config, key: jax.Array, count: int, axis_name: str | None = None) -> jax.Array:
    """Masks of the attributes that a training example's condition knows, see `Config.unconditional`: [B, A] in {0, 1}.

    Args:
        config: the model.
        key: a key that serves nothing else.
        count: B.
        axis_name: as in `random.example_keys`.
    """
    draws = random.uniform(key, (count, len(config.attributes) + 2), axis_name)
    shown = draws[:, 2:] >= draws[:, :1]
    return (shown & (draws[:, 1:2] >= config.unconditional)).astype(jnp.float32)


def terms(
    config: Config,
    params: Params,
    state: ModelState,
    batch: Batch,
    key: jax.Array,
    known: jax.Array,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """Error of the velocity at a random time of a random path of each example.

    Args:
        config: the model.
        params: its parameters.
        state: its state.
        batch: "code" [B, D]; "deviation" [B, D] where codes are drawn from posteriors; "attributes" [B, A], and
            "present/attributes" [B] in {0, 1} where some have none.
        key: a key that serves nothing else.
        known: which attributes are known, [B, A] in {0, 1}.
        axis_name: as in `random.example_keys`.

    Returns:
        "loss", [B]: the squared error of `paths.velocity_error`, a mean over dimensions, in which the standardised
        codes have variance 1. It does not fall to 0.
    """
    keys = [jax.random.fold_in(key, draw) for draw in range(3)]
    code = batch["code"]
    if "deviation" in batch:
        code = code + batch["deviation"] * random.standard_normal(keys[0], code.shape, axis_name)
    code = standardised(state, code)
    noise = random.standard_normal(keys[1], code.shape, axis_name)
    t = random.uniform(keys[2], code.shape[:1], axis_name)
    if PRESENT in batch:
        known = known * batch[PRESENT][:, None]
    predicted = velocity(config, params, state, paths.point(noise, code, t), t, _attributes(config, batch), known)
    return {"loss": paths.velocity_error(predicted, noise, code) / config.latent_size}


def _attributes(config: Config, batch: Batch) -> jax.Array:
    return batch["attributes"] if config.attributes else jnp.zeros((len(batch["code"]), 0))


# --- training ------------------------------------------------------------------------------------------------------


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The single phase, "training"."""
    steps = config.epochs * steps_per_epoch
    # The average begins with the first parameters, of which nothing is to be left at the end of a short training.
    decay = min(config.ema_decay, max(0.0, 1.0 - 20.0 / steps))
    rate = rise_and_fall(config.learning_rate, steps)
    return common.training_phase(config, steps_per_epoch, {"flow": rate}, ema_decay=decay)


def optimizers(config: Config, phase: Phase) -> dict[str, optax.GradientTransformation]:
    """Adam, at unit rate."""
    return {"flow": optax.adam(1.0)}


def init(
    config: Config, statistics: Mapping[str, np.ndarray] | None, key: jax.Array, batch: Batch
) -> tuple[Params, ModelState]:
    """Draws the network's parameters; the state holds the statistics, by default those of N(0, I)."""
    shape, count = (config.latent_size,), len(config.attributes)
    images.check_batch(batch, code=shape, **({"attributes": (count,)} if count else {}))
    code = batch["code"]
    params, _ = nets.init(config.network(), key, code, code[:, 0], jnp.zeros((len(code), 2 * count)))
    identity = {"mean": jnp.zeros(shape), "scale": jnp.eye(*shape), "inverse": jnp.eye(*shape)}
    if _keeps_rows(config):
        identity["attributes"] = jnp.zeros((config.attribute_rows, count))
    return {"flow": params}, {"flow": jax.tree.map(jnp.asarray, dict(statistics or identity))}


def training_terms(
    config: Config, training: Training, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> common.Terms:
    """The term, with attributes hidden at random."""
    known = hidden_at_random(config, jax.random.fold_in(key, 3), len(batch["code"]), training.axis_name)
    return terms(config, params, state, batch, key, known, training.axis_name), {}


def evaluate(
    config: Config, phase: Phase, params: Params, state: ModelState, batch: Batch, key: jax.Array
) -> dict[str, jax.Array]:
    """The term with attributes hidden at random, and "unconditional", with none known."""
    count = len(batch["code"])
    known = hidden_at_random(config, jax.random.fold_in(key, 3), count)
    shown = terms(config, params, state, batch, key, known)
    return {**shown, "unconditional": terms(config, params, state, batch, key, jnp.zeros_like(known))["loss"]}


# --- the trained model ---------------------------------------------------------------------------------------------


def completed(
    config: Config, state: ModelState, key: jax.Array, attributes: jax.Array, known: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws what is unknown of rows of attributes from p(unknown | known), as the training examples have it.

    Each row takes it from one of the kept rows, chosen at random of those that agree with it in all that it knows; of
    those that agree in most where none does so in all.

    Args:
        config: the model.
        state: its state.
        key: a key that serves nothing else.
        attributes: [B, A] in {0, 1}; the value of one that is unknown does not count.
        known: which attributes are known, [B, A] in {0, 1}.

    Returns:
        Attributes and which are known, each [B, A]: all, but as they were given if the model keeps no rows.
    """
    if not _keeps_rows(config):
        return attributes, known
    kept, said = state["flow"]["attributes"], known != 0
    has, lacks = (jnp.where(said, value, 0.0) for value in (attributes, 1 - attributes))
    unlike = _product(has, 1 - kept) + _product(lacks, kept)  # in how many a row differs from a kept one, [B, R]
    nearest = unlike <= unlike.min(1, keepdims=True) + 0.5
    chosen = jnp.argmax(jnp.where(nearest, random.uniform(key, unlike.shape), -1.0), axis=1)
    return jnp.where(said, attributes, kept[chosen]), jnp.ones_like(known)


def sample_codes(
    config: Config,
    params: Params,
    state: ModelState,
    key: jax.Array,
    attributes: jax.Array,
    known: jax.Array,
    steps: int | jax.Array = _STEPS,
    guidance: float | jax.Array = 1.0,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
    """One code for each row of attributes, of which those that are unknown are drawn first, see `completed`.

    Args:
        config: the model.
        params: its parameters.
        state: its state.
        key: a key that serves nothing else.
        attributes: [B, A] in {0, 1}; the value of one that is unknown does not count. A may be 0.
        known: which attributes are known, [B, A] in {0, 1}; the others are drawn at any temperature.
        steps: of the solver, at least 1.
        guidance: see `paths.guided`; another one than 1 takes twice the time.
        temperature: scale of the noise from which the codes are carried.

    Returns:
        Codes [B, D].
    """
    row_key, noise_key = jax.random.split(key)
    attributes, known = completed(config, state, row_key, attributes, known)
    x = temperature * random.standard_normal(noise_key, (len(attributes), config.latent_size))
    return _integrated(config, params, state, x, attributes, known, steps, guidance)


def codes_of_noise(
    config: Config,
    params: Params,
    state: ModelState,
    noise: jax.Array,
    attributes: jax.Array,
    known: jax.Array,
    guidance: float | jax.Array = 1.0,
) -> jax.Array:
    """Codes to which the flow carries points from N(0, I): `sample_codes` without what it draws.

    Attributes that are unknown stay so. Who wants them drawn draws a row that agrees of the model's state, see
    `completed`, and gives it as known.

    Args:
        config: the model.
        params: its parameters.
        state: its state.
        noise: [B, D].
        attributes: [B, A] in {0, 1}; the value of one that is unknown does not count. A may be 0.
        known: which attributes are known, [B, A] in {0, 1}.
        guidance: see `paths.guided`; another one than 1 takes twice the time.

    Returns:
        Codes [B, D].
    """
    return _integrated(config, params, state, noise, attributes, known, _STEPS, guidance)


def _integrated(
    config: Config,
    params: Params,
    state: ModelState,
    x: jax.Array,
    attributes: jax.Array,
    known: jax.Array,
    steps: int | jax.Array,
    guidance: float | jax.Array,
) -> jax.Array:
    def given(x: jax.Array, t: jax.Array, known: jax.Array) -> jax.Array:
        return velocity(config, params, state, x, t, attributes, known)

    def field(x: jax.Array, t: jax.Array) -> jax.Array:
        plain = given(x, t, known)
        return jax.lax.cond(
            jnp.asarray(guidance == 1.0),
            lambda: plain,
            lambda: paths.guided(plain, given(x, t, jnp.zeros_like(known)), guidance),
        )

    return restored(state, paths.transport(field, x, steps, config.solver))


def build(config: Config, statistics: Mapping[str, np.ndarray] | None = None) -> Model:
    """Builds the model's pure functions.

    Args:
        config: the model.
        statistics: what `statistics` returned for the training codes; a loaded run has them in its state.

    Returns:
        A `Model` that trains on batches {"code": float32 [B, D], "attributes": float32 [B, A]}, and "deviation",
        float32 [B, D], where codes are drawn anew in each step from posteriors with these standard deviations; where
        some have no attributes, "present/attributes", float32 [B] in {0, 1}, as well. Further functions:
        sample_codes(params, model_state, key, attributes, known, ...) -> codes [B, D];
        codes_of_noise(params, model_state, noise, attributes, known, guidance) -> codes [B, D].
    """

    def init_with_statistics(config: Config, key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        return init(config, statistics, key, batch)

    return common.bind(
        config,
        init=init_with_statistics,
        rounds=common.one_round("flow", training_terms),
        optimizers=optimizers,
        evaluate=evaluate,
        functions={"sample_codes": sample_codes, "codes_of_noise": codes_of_noise},
    )


def from_data(config: Config, train: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `build` that the training examples give."""
    return {"statistics": statistics(config, train)}
