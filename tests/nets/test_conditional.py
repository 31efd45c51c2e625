"""Networks of the attribute CVAE: layers in order, images of any size, where attributes enter."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import nets
from mvae_jax.cpu.convolution import convolution, transposed_convolution
from mvae_jax.nets.blocks import max_pool
from mvae_jax.nets.conditional import ConditionalDecoder, ConditionalEncoder, ConditionalPrior

LATENT, WIDTHS, ATTRIBUTES = 3, (4, 6), 5
ODD = (7, 10)  # padded to 8 x 12
SMALL = {
    "encoder": (ConditionalEncoder(LATENT, WIDTHS), ((2, *ODD, 3), (2, ATTRIBUTES))),
    "decoder": (ConditionalDecoder((*ODD, 3), WIDTHS), ((2, LATENT), (2, ATTRIBUTES))),
    "prior": (ConditionalPrior(LATENT, 7), ((2, ATTRIBUTES),)),
}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs(name):
    return [normal(*shape, seed=seed) for seed, shape in enumerate(SMALL[name][1])]


@functools.cache
def variables(name):
    """Parameters, no longer zeros where initialisation left those."""
    generator = np.random.default_rng(3)
    params, stats = nets.init(SMALL[name][0], jax.random.key(0), *inputs(name))
    assert stats == {}
    return jax.tree.map(lambda p: p + 0.2 * generator.normal(size=p.shape).astype(np.float32), params)


@functools.cache
def compiled(name):
    return jax.jit(lambda params, *inputs: nets.apply(SMALL[name][0], params, {}, *inputs, train=False)[0])


def run(name, *values):
    return compiled(name)(variables(name), *(values or inputs(name)))


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def dense(x, layer):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def product(function, layer, x, **options):
    y = function(jnp.asarray(x, jnp.float32), layer["kernel"], **options)
    return np.asarray(y, np.float64) + np.asarray(layer["bias"], np.float64)


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


@pytest.mark.parametrize(
    ("size", "attributes", "quarter"),
    [((218, 178), 40, (55, 45)), ((244, 244), 512, (61, 61)), ((16, 20), 1, (4, 5)), ((5, 6), 3, (2, 2))],
)
def test_layers_of_the_paper_at_any_size(size, attributes, quarter):
    """CelebA's images are padded to 220 x 180 and cut again (CV-02)."""
    pixels = 64 * quarter[0] * quarter[1]

    def run(x, a, z):
        encoder, decoder, prior = ConditionalEncoder(), ConditionalDecoder((*size, 3)), ConditionalPrior()
        given = ((encoder, (x, a)), (decoder, (z, a)), (prior, (a,)))
        found = [nets.init(net, jax.random.key(0), *values)[0] for net, values in given]
        outputs = nets.apply(encoder, found[0], {}, x, a, train=False)[0]
        return found, outputs, nets.apply(decoder, found[1], {}, z, a, train=False)[0]

    (encoder, decoder, prior), posterior, image = jax.eval_shape(
        run, jnp.zeros((2, *size, 3)), jnp.zeros((2, attributes)), jnp.zeros((2, 128))
    )
    assert shapes(encoder) == {
        "Conv_0": {"kernel": (3, 3, 3 + attributes, 32), "bias": (32,)},
        "Conv_1": {"kernel": (3, 3, 32, 64), "bias": (64,)},
        "mean": {"kernel": (pixels, 128), "bias": (128,)},
        "logvar": {"kernel": (pixels, 128), "bias": (128,)},
    }
    assert shapes(decoder) == {
        "Dense_0": {"kernel": (128 + attributes, pixels), "bias": (pixels,)},
        "ConvTranspose_0": {"kernel": (4, 4, 64, 32), "bias": (32,)},
        "ConvTranspose_1": {"kernel": (4, 4, 32, 3), "bias": (3,)},
    }
    assert shapes(prior) == {
        "Dense_0": {"kernel": (attributes, 256), "bias": (256,)},
        "mean": {"kernel": (256, 128), "bias": (128,)},
        "logvar": {"kernel": (256, 128), "bias": (128,)},
    }
    assert shapes(posterior) == ((2, 128), (2, 128))
    assert image.shape == (2, *size, 3)


@pytest.mark.parametrize("widths", [(4,), (4, 6, 8)])
def test_other_numbers_of_stages(widths):
    x, a, z = jnp.zeros((2, 9, 17, 3)), jnp.zeros((2, 5)), jnp.zeros((2, 7))
    factor = 2 ** len(widths)
    rows, columns = -(-9 // factor), -(-17 // factor)
    encoder = jax.eval_shape(lambda: nets.init(ConditionalEncoder(7, widths), jax.random.key(0), x, a)[0])
    assert encoder["mean"]["kernel"].shape == (rows * columns * widths[-1], 7)
    net = ConditionalDecoder((9, 17, 3), widths)
    image, decoder = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), z, a))
    assert image.shape == (2, 9, 17, 3)
    kernels = [decoder["params"][f"ConvTranspose_{stage}"]["kernel"].shape[2:] for stage in range(len(widths))]
    assert kernels == list(zip(widths[::-1], (*widths[-2::-1], 3), strict=True))


def test_the_encoder_is_its_layers_in_order():
    """Attributes stand at every pixel of the image; where it is padded there is nothing, not even attributes."""
    params, (x, a) = variables("encoder"), map(np.asarray, inputs("encoder"))
    h = np.zeros((2, 8, 12, 3 + ATTRIBUTES))
    for row in range(ODD[0]):
        for column in range(ODD[1]):
            h[:, row, column] = np.concatenate([x[:, row, column], a], axis=1)
    for stage in range(2):
        h = np.maximum(product(convolution, params[f"Conv_{stage}"], h), 0)
        h = np.maximum.reduce([h[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    assert h.shape == (2, 2, 3, 6)
    for head, name in zip(run("encoder"), ("mean", "logvar"), strict=True):
        close(head, dense(h.reshape(2, -1), params[name]))


def tiled(params, x, a):
    """The encoder's heads of a picture in which the attributes stand at every pixel."""
    h = jnp.concatenate([x, jnp.broadcast_to(a[:, None, None], (*x.shape[:3], a.shape[1]))], axis=-1)
    h = jnp.pad(h, ((0, 0), (0, 1), (0, 2), (0, 0)))
    for stage in range(2):
        layer = params[f"Conv_{stage}"]
        h = max_pool(jax.nn.relu(convolution(h, layer["kernel"]) + layer["bias"].reshape(1, 1, 1, -1)))
    h = h.reshape(len(h), -1)
    return tuple(h @ params[name]["kernel"] + params[name]["bias"].reshape(1, -1) for name in ("mean", "logvar"))


def test_gradients_are_those_of_tiled_attributes():
    """By parameters, images and attributes, and of a gradient's square, as R1 has it."""

    def derivatives(encode):
        def loss(params, x, a):
            return sum(jnp.sum(jnp.sin(head)) for head in encode(params, x, a))

        def penalty(params, x, a):
            return sum(jnp.sum(slope**2) for slope in jax.grad(loss, (1, 2))(params, x, a))

        return jax.jit(lambda *given: [jax.grad(f, (0, 1, 2))(*given) for f in (loss, penalty)])

    given = (variables("encoder"), *inputs("encoder"))
    ours, expected = (derivatives(encode)(*given) for encode in (compiled("encoder"), tiled))
    for got, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_the_cost_does_not_depend_on_the_number_of_attributes():
    """By XLA's count: 512 attributes, tiled, would take some 170 times the work of the first layer."""

    def work(attributes):
        x, a = jnp.zeros((2, 64, 64, 3)), jnp.zeros((2, attributes))
        net = ConditionalEncoder(8, (32, 64))
        params = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), x, a)[0])
        lowered = jax.jit(lambda params: nets.apply(net, params, {}, x, a, train=False)[0]).lower(params)
        return lowered.cost_analysis()["flops"]

    assert work(512) < 1.1 * work(1)


def test_the_decoder_is_its_layers_in_order():
    """Without ReLU between the dense layer and the first transposed convolution, and without one at the end."""
    params, (z, a) = variables("decoder"), map(np.asarray, inputs("decoder"))
    h = dense(np.concatenate([z, a], axis=1), params["Dense_0"]).reshape(2, 2, 3, 6)
    h = np.maximum(product(transposed_convolution, params["ConvTranspose_0"], h), 0)
    h = product(transposed_convolution, params["ConvTranspose_1"], h)
    assert h.shape == (2, 8, 12, 3)
    close(run("decoder"), h[:, :7, :10])
    assert run("decoder").min() < 0


def test_the_prior_is_its_layers_in_order():
    params, (a,) = variables("prior"), map(np.asarray, inputs("prior"))
    h = np.maximum(dense(a, params["Dense_0"]), 0)
    for head, name in zip(run("prior"), ("mean", "logvar"), strict=True):
        close(head, dense(h, params[name]))


def test_every_pixel_counts_up_to_the_last_row_and_column():
    """CV-02: an odd side is padded before pooling would drop its end, and every pixel that is decoded is learned."""
    x, a = inputs("encoder")
    params = variables("encoder")
    slope = jax.jit(jax.grad(lambda x: sum(jnp.sum(jnp.sin(head)) for head in compiled("encoder")(params, x, a))))(x)
    reached = np.abs(slope).max((0, 3)) > 0
    # A maximum takes one pixel of four, whose 3x3 window is seen: all rows and columns, if not all pixels.
    assert reached.any(0).all()
    assert reached.any(1).all()
    z, a = inputs("decoder")
    moved = run("decoder", z + 1.0, a)
    assert (moved != run("decoder", z, a)).all()


@pytest.mark.parametrize("name", ["encoder", "decoder", "prior"])
def test_attributes_change_the_output_of_their_own_example(name):
    *others, a = inputs(name)
    before, after = run(name), run(name, *others, a.at[0, 2].add(1.0))
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old[0] != new[0]).any()
        np.testing.assert_array_equal(old[1], new[1])


def test_initialisation():
    """Kaiming's normal of variance 2 / fan-in, biases zero.

    PyTorch's fan-in of a transposed convolution counts the output channels. The prior begins as N(0, I).
    """
    x, a, z = normal(2, 8, 8, 3), normal(2, ATTRIBUTES), normal(2, 40)
    for net, given in (
        (ConditionalEncoder(40, (16, 24)), (x, a)),
        (ConditionalDecoder((8, 8, 3), (16, 24)), (z, a)),
        (ConditionalPrior(40, 64), (a,)),
    ):
        params, _ = nets.init(net, jax.random.key(0), *given)
        for name, layer in params.items():
            np.testing.assert_array_equal(layer["bias"], 0.0)
            kernel = np.asarray(layer["kernel"], np.float64)
            if isinstance(net, ConditionalPrior) and name != "Dense_0":
                np.testing.assert_array_equal(kernel, 0.0)
                continue
            channels = kernel.shape[-1] if "Transpose" in name else kernel.shape[-2]
            fan_in = channels * np.prod(kernel.shape[:-2])
            error = 4 / np.sqrt(2 * kernel.size)  # four standard errors of a standard deviation
            assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=error), name
            assert np.abs(kernel).max() > 2.5 * np.sqrt(2 / fan_in)  # not truncated
    for head in nets.apply(net, params, {}, a, train=False)[0]:
        np.testing.assert_array_equal(head, 0.0)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_is_inside_only(name):
    net = SMALL[name][0].clone(dtype=jnp.bfloat16)
    low = jax.jit(lambda params, *given: nets.apply(net, params, {}, *given, train=True)[0])(
        variables(name), *inputs(name)
    )
    for a, b in zip(jax.tree.leaves(run(name)), jax.tree.leaves(low), strict=True):
        assert b.dtype == jnp.float32
        assert (a != b).any()
        np.testing.assert_allclose(a, b, atol=0.03 * float(jnp.abs(a).max()))
