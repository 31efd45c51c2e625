from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mvae_jax import testing
from mvae_jax.cpu import convolution as module
from mvae_jax.cpu.convolution import convolution, transposed_convolution

GEOMETRIES = [  # kernel size, stride, padding
    (1, 1, "SAME"),
    (1, 2, "VALID"),
    (2, 1, "SAME"),
    (2, 2, ((1, 0), (0, 1))),
    (3, 1, "SAME"),
    (3, 1, "VALID"),
    (3, 1, ((2, 2), (2, 2))),  # the output is larger than the image
    (3, 1, ((2, 0), (1, 1))),
    (3, 2, "SAME"),
    (4, 1, ((1, 1), (1, 1))),
    (4, 2, "SAME"),
    (4, 2, ((2, 0), (0, 1))),
    (5, 1, "VALID"),
    (5, 2, "SAME"),
    (5, 2, "VALID"),
]


def normal(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def reference_convolution(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def painted(x, kernel, stride, padding):
    """The definition of the transposed convolution: a copy of the kernel at every pixel, then a crop."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    (b, h, w, _), (kh, kw, _, o) = x.shape, kernel.shape
    size = [stride * (n - 1) + k for n, k in ((h, kh), (w, kw))]
    if padding == "SAME":
        totals = [max(k - stride, 0) for k in (kh, kw)]
        padding, wanted = [(t // 2, t - t // 2) for t in totals], (stride * h, stride * w)
    else:
        padding = [(0, 0), (0, 0)] if padding == "VALID" else padding
        wanted = tuple(n - sum(pair) for n, pair in zip(size, padding, strict=True))
    canvas = np.zeros((b, size[0] + stride, size[1] + stride, o))
    for i in range(h):
        for j in range(w):
            stamp = np.einsum("nc,abco->nabo", x[:, i, j], kernel)
            canvas[:, stride * i : stride * i + kh, stride * j : stride * j + kw] += stamp
    (top, _), (left, _) = padding
    return canvas[:, top : top + wanted[0], left : left + wanted[1]]


def derivatives(function, x, kernel):
    """Value, gradients, and the gradients of a squared gradient norm (as in R1)."""

    def loss(x, kernel):
        return jnp.sin(function(x, kernel)).sum()

    def penalty(x, kernel):
        return sum((g**2).sum() for g in jax.grad(loss, (0, 1))(x, kernel))

    return function(x, kernel), *jax.grad(loss, (0, 1))(x, kernel), *jax.grad(penalty, (0, 1))(x, kernel)


def assert_same_derivatives(function, reference, x, kernel):
    ours, expected = jax.jit(lambda x, k: (derivatives(function, x, k), derivatives(reference, x, k)))(x, kernel)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * (1 + float(jnp.abs(b).max())))


@pytest.mark.parametrize(("size", "stride", "padding"), GEOMETRIES)
def test_convolution_and_its_derivatives_equal_plain_xla(size, stride, padding):
    x, kernel = normal(2, 7, 8, 3), normal(size, size, 3, 2, seed=1) / size
    options = {"stride": stride, "padding": padding}
    canonical = functools.partial(convolution, **options, formulation="canonical")
    reference = functools.partial(reference_convolution, **options)
    assert_same_derivatives(canonical, reference, x, kernel)
    np.testing.assert_array_equal(convolution(x, kernel, **options, formulation="plain"), reference(x, kernel))


@pytest.mark.parametrize(
    ("size", "channels", "features", "padding"),
    [
        *((3, 3, 3, "SAME"), (3, 8, 1, "SAME"), (3, 1, 4, ((2, 0), (0, 2))), (3, 2, 3, ((-1, 3), (1, 1)))),
        *((5, 3, 3, "SAME"), (5, 1, 1, ((4, 0), (1, 3))), (5, 8, 8, "SAME")),
    ],
)
def test_few_channels_in_blocks_of_pixels(size, channels, features, padding):
    x, kernel = normal(2, 8, 6, channels), normal(size, size, channels, features, seed=1) / size
    canonical = functools.partial(convolution, padding=padding, formulation="canonical")
    (found,) = convolutions(jax.make_jaxpr(canonical)(x, kernel).jaxpr)
    assert [variable.aval.shape[2:] for variable in found.invars] == [(3, 4 * channels), (4 * channels, 4 * features)]
    assert_same_derivatives(canonical, functools.partial(reference_convolution, stride=1, padding=padding), x, kernel)


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 8, 8, 8), (3, 3, 8, 8), {}),  # more channels
        ((2, 8, 8, 16), (3, 3, 16, 1), {}),  # many on one side
        ((2, 8, 8, 1), (5, 5, 1, 64), {}),
        ((2, 7, 8, 3), (3, 3, 3, 3), {}),  # odd sizes
        ((2, 8, 8, 3), (3, 3, 3, 3), {"stride": 2}),
        ((2, 8, 8, 3), (3, 3, 3, 3), {"padding": "VALID"}),
        ((2, 8, 8, 3), (1, 1, 3, 3), {}),
    ],
)
def test_other_convolutions_are_not_cut_into_blocks(shape, kernel, options):
    traced = jax.make_jaxpr(functools.partial(convolution, **options, formulation="canonical"))
    (found,) = convolutions(traced(normal(*shape), normal(*kernel)).jaxpr)
    assert found.invars[1].aval.shape == kernel


@pytest.mark.parametrize(("size", "stride", "padding"), GEOMETRIES)
def test_transposed_convolution_paints_kernels(size, stride, padding):
    x, kernel = normal(2, 4, 5, 2), normal(size, size, 2, 3, seed=1) / size
    options = {"stride": stride, "padding": padding}
    canonical = functools.partial(transposed_convolution, **options, formulation="canonical")
    plain = functools.partial(transposed_convolution, **options, formulation="plain")
    np.testing.assert_allclose(plain(x, kernel), painted(x, kernel, stride, padding), atol=1e-5)
    assert_same_derivatives(canonical, plain, x, kernel)


@pytest.mark.parametrize("threshold", [0, 256])
def test_both_forms_of_the_strided_adjoint(monkeypatch, threshold):
    monkeypatch.setattr(module, "_SUBPIXEL_CHANNELS", threshold)
    x, kernel = normal(1, 3, 3, 2), normal(5, 5, 2, 3, seed=1)
    y = transposed_convolution(x, kernel, stride=3, padding="SAME", formulation="canonical")
    np.testing.assert_allclose(y, painted(x, kernel, 3, "SAME"), atol=1e-5)


def test_transposed_convolution_by_hand():
    """One pixel of value 2 paints twice the kernel, unflipped; padding 1 crops its border."""
    kernel = jnp.arange(16.0).reshape(4, 4, 1, 1)
    y = transposed_convolution(jnp.full((1, 1, 1, 1), 2.0), kernel, stride=2, padding=((1, 1), (1, 1)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[10.0, 12.0], [18.0, 20.0]])


@pytest.mark.parametrize(("size", "stride", "padding"), [(4, 2, "SAME"), (5, 2, "SAME"), (3, 1, ((1, 0), (0, 1)))])
@pytest.mark.parametrize("formulation", ["canonical", "plain"])
def test_adjoint_identity(size, stride, padding, formulation):
    x, kernel = normal(2, 8, 8, 3), normal(size, size, 3, 4, seed=1)
    options = {"stride": stride, "padding": padding, "formulation": formulation}
    y = normal(*convolution(x, kernel, **options).shape, seed=2)
    left = (convolution(x, kernel, **options) * y).sum()
    right = (x * transposed_convolution(y, kernel.swapaxes(2, 3), **options)).sum()
    np.testing.assert_allclose(left, right, rtol=1e-4)


def test_gradients_by_finite_differences_to_second_order():
    with jax.enable_x64(True):
        shapes = (1, 3, 4, 2), (3, 3, 2, 2), (4, 4, 2, 1)

        @jax.jit
        def function(x, small, large):
            h = jnp.tanh(convolution(x, small, stride=2, formulation="canonical"))
            return jnp.tanh(transposed_convolution(h, large, formulation="canonical"))

        arrays = (normal(*shape, dtype=float) for shape in shapes)
        testing.check_gradients(function, *arrays, order=2, step=1e-3, rtol=1e-7, atol=1e-8)


def network(parameters, x, formulation="canonical"):
    """A discriminator's shape: down, up, level in blocks, down; with the R1 penalty, thus a gradient of a gradient."""

    def logits(x):
        h = jnp.tanh(convolution(x, parameters[0], stride=2, formulation=formulation))
        h = jnp.tanh(transposed_convolution(h, parameters[1], formulation=formulation))
        h = jnp.tanh(convolution(h, parameters[2], formulation=formulation))
        return convolution(h, parameters[3], padding="VALID", formulation=formulation).mean((1, 2, 3))

    r1 = (jax.grad(lambda x: logits(x).sum())(x) ** 2).sum((1, 2, 3))
    return logits(x), r1


PARAMETERS = (
    *(normal(4, 4, 3, 4), normal(4, 4, 4, 3, seed=1)),
    *(normal(3, 3, 3, 3, seed=4) / 5, normal(3, 3, 3, 1, seed=2)),
)
IMAGES = normal(8, 8, 8, 3, seed=3)


def loss(parameters, x, formulation="canonical"):
    logits, r1 = network(parameters, x, formulation)
    return logits.mean() + r1.mean()


@functools.cache
def expected_gradient():
    return jax.jit(jax.grad(functools.partial(loss, formulation="plain")))(PARAMETERS, IMAGES)


def assert_trees_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), a, b)


def convolutions(jaxpr):
    """All convolutions of a program, in order."""
    for equation in jaxpr.eqns:
        if equation.primitive is lax.conv_general_dilated_p:
            yield equation
        for sub in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")):
            if hasattr(sub, "jaxpr"):
                yield from convolutions(sub.jaxpr)


def test_every_product_of_all_derivatives_is_canonical():
    """What keeps them fast on CPU: NHWC x HWIO, and no image dilated by the stride."""
    found = list(convolutions(jax.make_jaxpr(jax.grad(loss))(PARAMETERS, IMAGES).jaxpr))
    assert len(found) >= 20
    assert 12 in [equation.invars[0].aval.shape[3] for equation in found]  # 2x2 pixels of 3 channels
    for params in (equation.params for equation in found):
        assert params["dimension_numbers"].lhs_spec == (0, 3, 1, 2)
        assert params["dimension_numbers"].rhs_spec == (3, 2, 0, 1)
        assert params["dimension_numbers"].out_spec == (0, 3, 1, 2)
        assert params["lhs_dilation"] == (1, 1)
        assert params["batch_group_count"] == 1


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 2), (2, 2))])
@pytest.mark.parametrize(("channels", "features"), [(9, 4), (4, 9)])
def test_kernel_gradients_cut_up_fewer_channels_but_never_fewer_pixels(padding, channels, features):
    """In a product with more weights than image pixels, XLA lets them change places and loses the fast path."""
    kernel = normal(3, 3, channels, features)

    def square(kernel):
        return (convolution(normal(2, 8, 8, channels), kernel, padding=padding, formulation="canonical") ** 2).sum()

    *_, product = convolutions(jax.make_jaxpr(jax.grad(square))(kernel).jaxpr)
    images, weights = (variable.aval.shape for variable in product.invars)
    assert images[1] * images[2] >= weights[0] * weights[1]
    if padding == "SAME":
        assert images[0] == min(channels, features)


def test_dividing_by_ones_that_xla_cannot_foresee_changes_no_bit():
    x = jnp.asarray([0.0, -0.0, 1.1, -3e38, 1e-37, np.inf, -np.inf, np.nan], jnp.float32)
    for low in (x, x.astype(jnp.bfloat16)):
        same = jax.jit(module._computed_once)(low)
        assert same.dtype == low.dtype
        np.testing.assert_array_equal(np.signbit(same), np.signbit(low))
        np.testing.assert_array_equal(np.asarray(same, np.float32), np.asarray(low, np.float32))


def test_linearize_then_transpose_once_per_objective():
    def objectives(parameters):
        logits, r1 = network(parameters, IMAGES)
        return {"logits": logits.mean(), "r1": r1.mean()}, logits

    @jax.jit
    def gradients(parameters):
        values, linear, _ = jax.linearize(objectives, parameters, has_aux=True)
        transpose = jax.linear_transpose(linear, parameters)
        return [transpose({name: jnp.float32(name == wanted) for name in values})[0] for wanted in values]

    logits, r1 = gradients(PARAMETERS)
    plain = jax.jit(jax.grad(lambda parameters: network(parameters, IMAGES, "plain")[1].mean()))
    assert_trees_close(r1, plain(PARAMETERS))
    assert_trees_close(jax.tree.map(jnp.add, logits, r1), expected_gradient())


def test_inside_scan_cond_and_switch():
    @jax.jit
    def accumulate(parameters):
        def body(total, x):
            branches = [lambda: jax.tree.map(jnp.zeros_like, total), lambda: jax.grad(loss)(parameters, x)]
            finite = x.sum() > -jnp.inf
            gradient = lax.cond(finite, lambda: lax.switch(finite.astype(int), branches), branches[0])
            return jax.tree.map(jnp.add, total, gradient), None

        return lax.scan(body, jax.tree.map(jnp.zeros_like, parameters), IMAGES.reshape(2, 4, 8, 8, 3))[0]

    halves = jax.tree.map(lambda g: g / 2, accumulate(PARAMETERS))
    assert_trees_close(halves, expected_gradient())

    def inside(parameters):  # the custom derivative applies to the scan as a whole
        return lax.scan(lambda total, x: (total + loss(parameters, x), None), 0.0, IMAGES.reshape(2, 4, 8, 8, 3))[0] / 2

    assert_trees_close(jax.jit(jax.grad(inside))(PARAMETERS), expected_gradient())


def test_batch_sharded_over_four_devices():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    images = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec("data")))
    parameters = jax.device_put(PARAMETERS, NamedSharding(mesh, PartitionSpec()))
    assert_trees_close(jax.jit(jax.grad(loss))(parameters, images), expected_gradient())


def test_shard_map():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("data")), out_specs=PartitionSpec()
    )
    def gradient(parameters, x):
        return jax.grad(lambda parameters: lax.pmean(loss(parameters, x), "data"))(parameters)

    assert_trees_close(gradient(PARAMETERS, IMAGES), expected_gradient())


def test_pmap_and_vmap():
    def mean_gradient(x):
        return lax.pmean(jax.grad(loss)(PARAMETERS, x), "batch")

    by_device = jax.pmap(mean_gradient, "batch")(IMAGES.reshape(4, 2, 8, 8, 3))
    assert_trees_close(jax.tree.map(lambda g: g[0], by_device), expected_gradient())
    by_example = jax.jit(jax.vmap(lambda x: jax.grad(loss)(PARAMETERS, x[None])))(IMAGES)
    assert_trees_close(jax.tree.map(lambda g: g.mean(0), by_example), expected_gradient())


@pytest.mark.parametrize(
    ("height", "size", "stride", "padding"),
    [*((7, *geometry) for geometry in GEOMETRIES), (8, 3, 1, "SAME"), (8, 5, 1, "SAME")],  # the last in blocks
)
@pytest.mark.parametrize("function", [convolution, transposed_convolution])
def test_bfloat16_stays_within_its_precision(function, height, size, stride, padding):
    x, kernel = normal(2, height, 6, 3), normal(size, size, 3, 2, seed=1)

    def gradients(x, kernel, formulation):
        def loss(x, kernel):
            y = function(x, kernel, stride=stride, padding=padding, formulation=formulation)
            return (y.astype(jnp.float32) ** 2).mean()

        return jax.grad(loss, (0, 1))(x, kernel)

    low = jax.jit(lambda x, k: gradients(x, k, "canonical"))(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    exact = jax.jit(lambda x, k: gradients(x, k, "plain"))(x, kernel)
    for rounded, g in zip(low, exact, strict=True):
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_allclose(rounded.astype(jnp.float32), g, atol=0.03 * float(jnp.abs(g).max()))


def test_one_place_chooses_the_formulation(monkeypatch):
    assert module.default_formulation() == "canonical"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert module.default_formulation() == "plain"
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: convolution(x, PARAMETERS[0], stride=2))(IMAGES))


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: convolution(x, PARAMETERS[0], formulation="canonical"), (IMAGES,), (IMAGES,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convolution(IMAGES, PARAMETERS[1]), r"\[kh, kw, C, O\]"),
        (lambda: convolution(IMAGES[0], PARAMETERS[0]), r"\[B, H, W, C\]"),
        (lambda: convolution(IMAGES, PARAMETERS[0], stride=0), "stride is 0"),
        (lambda: transposed_convolution(IMAGES, PARAMETERS[2], padding="same"), 'padding is "same", expected "SAME"'),
        (lambda: convolution(IMAGES[:, :2], PARAMETERS[0], padding="VALID"), "smaller than the kernel"),
        (lambda: transposed_convolution(IMAGES[:, :1], PARAMETERS[2], padding=((2, 2), (0, 0))), "crops away all"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
