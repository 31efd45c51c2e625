"""bfloat16 by one switch, for every model: what computes in it, what never does, and how far the numbers move."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr
from zoo import (
    ALAE,
    ATTRIBUTE_CLASSIFIER,
    AUTOENCODER,
    BATCH,
    BETA_TCVAE,
    BETA_VAE,
    BIGAN,
    CADA_VAE,
    CVAE,
    GAN,
    JMVAE,
    JOINT_LATENT_REGRESSOR,
    LATENT_FLOW,
    LATENT_REGRESSOR,
    MMVAE,
    MMVAE_PLUS,
    MOPOE,
    MULTIMODAL,
    MVAE,
    MVTCAE,
    STYLE_ALAE,
    TABLE,
    VAE,
    VAE_DIS,
    VAE_GAN,
)

from mvae_jax import nets
from mvae_jax.cpu import convolution
from mvae_jax.models import ZOO
from mvae_jax.nets import vgg
from mvae_jax.train import state as states
from mvae_jax.train.program import MetricSums
from mvae_jax.train.step import make_train_step

pytestmark = pytest.mark.slow  # compiles every model twice

# Batch norms of a handful of units enlarge what their products round away.
WIDER = {
    "augment": False,
    "decoder_widths": (12, 8),
    "grid_width": 12,
    "discriminator_widths": (8, 12, 12),
    "discriminator_hidden": 16,
}

CONFIGS = {
    "multimodal": dataclasses.replace(
        MULTIMODAL, encoder_widths=(4,), decoder_widths=(8,), discriminator_widths=(4, 4)
    ),
    "attribute_classifier": dataclasses.replace(ATTRIBUTE_CLASSIFIER, widths=(4, 8)),
    "latent_flow": LATENT_FLOW,
    "autoencoder": dataclasses.replace(AUTOENCODER, network="dense"),
    "vae": VAE,
    "beta_vae": dataclasses.replace(BETA_VAE, network="dense"),
    "beta_tcvae": BETA_TCVAE,
    "cvae": CVAE,
    "mvae": MVAE,
    "mmvae": MMVAE,
    "mopoe": MOPOE,
    "mvtcae": MVTCAE,
    "mmvae_plus": MMVAE_PLUS,
    "jmvae": dataclasses.replace(JMVAE, warmup_epochs=0),  # in whose first step encoders have no gradient
    "cada_vae": CADA_VAE,
    "alae": dataclasses.replace(ALAE, widths=(32, 24)),
    "style_alae": dataclasses.replace(STYLE_ALAE, first_width=32, most_width=32, latent_size=64),
    "bigan": dataclasses.replace(BIGAN, widths=(32, 24)),
    # The first images of these generators are alike: the published epsilon would show how bfloat16 rounds them.
    "latent_regressor": dataclasses.replace(LATENT_REGRESSOR, widths=(32, 24), norm_epsilon=1e-5),
    "joint_latent_regressor": dataclasses.replace(JOINT_LATENT_REGRESSOR, widths=(32, 24), norm_epsilon=1e-5),
    "vae_gan": dataclasses.replace(VAE_GAN, **WIDER),
    "gan": dataclasses.replace(GAN, **WIDER),
    "vae_dis": dataclasses.replace(VAE_DIS, **WIDER),
}
PHASES = [
    pytest.param(name, index, id=f"{name}-{phase.name}")
    for name, config in CONFIGS.items()
    for index, phase in enumerate(ZOO[name].phases(config, 3))
]
HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
ATTENTION = jax.lax.DotAlgorithmPreset.BF16_BF16_F32
# Of losses, statistics, softmax and the outputs' tanh.
DELICATE = {"exp", "exp2", "log", "log1p", "logistic", "tanh", "sqrt", "rsqrt", "erf_inv"}


def test_the_table_is_the_zoo():
    assert set(CONFIGS) == set(ZOO)


def change(name, **fields):
    return dataclasses.replace(CONFIGS[name], **fields)


@functools.cache
def vgg_weights():
    net = vgg.VGGFeatures((8, 8, 8, 8, 8))
    params, _ = nets.init(net, jax.random.key(1), jnp.zeros((1, 32, 32, 3)))
    return params, vgg.VGGDescription("", "", net.widths)


def build(name, config):
    return ZOO[name].build(config, *([vgg_weights()] if name == "multimodal" else []))


def batch(name):
    return jax.tree.map(jnp.asarray, TABLE[name].batch(BATCH))


def step_of(name, config, index):
    """A training step with the model's own optimisers, and a function that makes its first state."""
    model, phase = build(name, config), ZOO[name].phases(config, 3)[index]
    step = make_train_step(model.rounds(phase), model.optimizers(phase), phase)
    return step, lambda: states.create(model, phase, jax.random.key(0), batch(name))


def equations(jaxpr):
    """All equations of a jaxpr, those of the functions that it calls among them."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def operands(equation):
    return {variable.aval.dtype for variable in equation.invars}


def is_product(equation):
    """Convolutions, and products of matrices; the dot product in a schedule of learning rates is none.

    What asks for the highest precision is no network: statistics of the data, by which they are standardised.
    """
    name = equation.primitive.name
    of_matrices = name == "dot_general" and equation.invars[0].aval.ndim > 1
    return name == "conv_general_dilated" or (of_matrices and equation.params["precision"] != HIGHEST)


@pytest.mark.parametrize("formulation", ["canonical", "plain"])
@pytest.mark.parametrize(("name", "index"), PHASES)
def test_a_step_multiplies_in_bfloat16_and_sums_in_float32(name, index, formulation, monkeypatch):
    """Of everything that a step computes, with gradients, gradients of gradients, and VGG."""
    monkeypatch.setattr(convolution, "default_formulation", lambda: formulation)
    products = {}
    for dtype in ("float32", "bfloat16"):
        step, create = step_of(name, change(name, compute_dtype=dtype), index)
        found = list(equations(jax.make_jaxpr(step)(jax.eval_shape(create), batch(name)).jaxpr))
        products[dtype] = [equation for equation in found if is_product(equation)]
    assert [e.primitive for e in products["bfloat16"]] == [e.primitive for e in products["float32"]]
    assert len(products["bfloat16"]) > 10
    assert all(operands(equation) == {jnp.dtype("float32")} for equation in products["float32"])
    for equation in products["bfloat16"]:
        # The gradient of attention's float32 scores meets bfloat16 queries and keys, and is rounded to multiply.
        rounded = equation.primitive.name == "dot_general" and equation.params["precision"] == ATTENTION
        assert operands(equation) == {jnp.dtype("bfloat16")} or rounded, equation
    for equation in found:
        low = jnp.dtype("bfloat16") in operands(equation)
        if equation.primitive.name == "reduce_sum" and low:
            # A long sum in bfloat16 no longer grows beyond 256 times its terms; only ties of a pooling window may.
            assert equation.invars[0].aval.size <= 4 * equation.outvars[0].aval.size, equation
        assert not (equation.primitive.name in DELICATE and low), equation


@pytest.mark.parametrize(("name", "index"), PHASES)
def test_what_is_kept_and_reported_is_float32(name, index):
    kept = []
    for dtype in ("float32", "bfloat16"):
        step, create = step_of(name, change(name, compute_dtype=dtype), index)
        before = jax.eval_shape(create)
        after, metrics = jax.eval_shape(step, before, batch(name))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), before)
        assert {leaf.dtype for leaf in jax.tree.leaves(metrics)} == {jnp.dtype("float32")}
        kept.append(after)
    assert kept[0] == kept[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(kept[1].params)} == {jnp.dtype("float32")}


@functools.cache
def first_step(name, dtype):
    """A step of the last phase: its metrics, the gradients' directions (Adam's first moments), batch statistics."""
    step, create = step_of(name, change(name, compute_dtype=dtype), -1)
    state = jax.jit(create)()
    state, metrics = jax.jit(step)(state.replace(params=TABLE[name].start(state.params)), batch(name))
    assert metrics["step/finite"] == 1.0
    moments = {group: optax.tree.get(opt_state, "mu") for group, opt_state in state.opt_state.items()}
    return MetricSums.zeros(tuple(metrics)).add(metrics).means(), moments, state.model_state


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_statistics_agree_with_those_in_float32(name):
    (exact, _, exact_stats), (low, _, low_stats) = (first_step(name, dtype) for dtype in ("float32", "bfloat16"))
    assert set(low) == set(exact)
    for key, value in exact.items():
        tolerance = {"abs": 0.06} if key.endswith("accuracy") else {"rel": 0.02}
        assert low[key] == pytest.approx(value, **tolerance), key
    assert low != exact
    for (path, a), b in zip(jax.tree.leaves_with_path(low_stats), jax.tree.leaves(exact_stats), strict=True):
        np.testing.assert_allclose(a, b, atol=0.01 * np.abs(b).max(), err_msg=jax.tree_util.keystr(path))


COSINES = {
    "multimodal": {"vae": 0.99, "discriminator": 0.999},
    "attribute_classifier": {"classifier": 0.99},
    "autoencoder": {"encoder": 0.99, "decoder": 0.999},
    "vae": {"encoder": 0.99, "decoder": 0.999, "observation": 0.999},
    "beta_vae": {"encoder": 0.99, "decoder": 0.999},
    "beta_tcvae": {"encoder": 0.99, "decoder": 0.999},
    "cvae": {"encoder": 0.99, "decoder": 0.999, "prior": 0.99},
    **{
        name: {"encoders": 0.99, "decoders": 0.99}
        for name in ("mvae", "mmvae", "mopoe", "mvtcae", "mmvae_plus", "jmvae", "cada_vae")
    },
}


@pytest.mark.parametrize(
    ("name", "group", "cosine"),
    [(name, group, cosine) for name, groups in COSINES.items() for group, cosine in groups.items()],
)
def test_gradients_point_where_those_in_float32_do(name, group, cosine):
    """The discriminator's contain R1's, a gradient of a gradient."""
    exact, low = (flat(first_step(name, dtype)[1][group]) for dtype in ("float32", "bfloat16"))
    assert exact @ low > cosine * np.linalg.norm(exact) * np.linalg.norm(low)
