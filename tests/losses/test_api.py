"""What holds for every public loss: one number per example, documented, typed, pure, and light to import."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_table import ARRAYS, BATCH, LOSSES

from mvae_jax import losses, testing

FUNCTIONS = [name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))]
COMPILED = {name: jax.jit(loss) for name, loss in LOSSES.items()}


def test_the_table_covers_the_public_functions():
    assert sorted(ARRAYS) == sorted(FUNCTIONS)
    assert losses.__all__ == sorted(losses.__all__)
    assert not [name for name in dir(losses) if not name.startswith("_") and name not in losses.__all__]


@pytest.mark.parametrize("name", ARRAYS)
def test_a_loss_is_one_finite_number_per_example(name):
    for part in jax.tree.leaves(COMPILED[name](*ARRAYS[name])):
        assert part.shape == (BATCH,)
        assert part.dtype == jnp.float32
        assert np.isfinite(part).all()


@pytest.mark.parametrize("name", ARRAYS)
def test_permuting_the_examples_permutes_the_losses(name):
    order = [2, 0, 3, 1]
    permuted = COMPILED[name](*(x[order] for x in ARRAYS[name]))
    expected = jax.tree.map(lambda part: np.asarray(part)[order], COMPILED[name](*ARRAYS[name]))
    np.testing.assert_allclose(permuted, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(ARRAYS) - {"kl_terms", "total_correlation"}))
def test_examples_do_not_touch_each_other(name):
    others = [np.concatenate([x[:1], 0.5 * x[1:]]) for x in ARRAYS[name]]
    before, after = (jax.tree.leaves(COMPILED[name](*arrays)) for arrays in (ARRAYS[name], others))
    for part, changed in zip(before, after, strict=True):
        assert part[0] == changed[0]


@pytest.mark.parametrize("name", [name for name in ARRAYS if name != "doubly_reparameterised_bound"])
def test_gradients_equal_finite_differences(name):  # the other one is an estimate of another gradient on purpose
    testing.check_gradients(LOSSES[name], *ARRAYS[name])


@pytest.mark.parametrize("name", ARRAYS)
def test_gradients_are_finite_at_zero(name):
    zeros = [np.zeros_like(x) for x in ARRAYS[name]]

    @functools.partial(jax.grad, argnums=range(len(zeros)))
    def gradient(*arrays):
        return sum(part.sum() for part in jax.tree.leaves(LOSSES[name](*arrays)))

    gradients = jax.jit(gradient)(*zeros)
    assert all(np.isfinite(part).all() for part in gradients)


@pytest.mark.parametrize("name", ARRAYS)
def test_integers_are_refused(name):
    arrays = ARRAYS[name]
    for index in range(len(arrays)):
        with pytest.raises(AssertionError):
            LOSSES[name](*(x.astype(np.int32) if i == index else x for i, x in enumerate(arrays)))


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_without_a_batch_are_refused(name):
    with pytest.raises(AssertionError):
        LOSSES[name](*(x[0, 0] if x.ndim == 2 else x.reshape(-1)[0] for x in ARRAYS[name]))


# One number per example is a batch of logits, and of nothing else.
RANK_ONE = {name for name in FUNCTIONS if name.endswith(("_discriminator", "_generator"))}


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - RANK_ONE))
def test_an_example_alone_is_refused(name):
    """As a loss that is mapped over examples sees it: its axis would be taken for that of the batch."""
    for loss in (LOSSES[name], jax.vmap(LOSSES[name])):
        arrays = [x.reshape(BATCH, -1)[:, :3] for x in ARRAYS[name]]
        if name == "gradient_penalty":
            arrays[2] = np.full((BATCH, 1), 0.5, np.float32)
        if loss is LOSSES[name]:
            arrays = [x[0] for x in arrays]
        with pytest.raises(AssertionError, match=r"shape \[3\], expected \[B, D\], .* give the batch x\[None\]"):
            loss(*arrays)


@pytest.mark.parametrize("name", sorted(RANK_ONE))
def test_logits_are_one_for_each_example_or_more(name):
    arrays = [x[:, 0, 0] for x in ARRAYS[name]]
    flat, patches = LOSSES[name](*arrays), LOSSES[name](*(x[:, None] for x in arrays))
    for part, other in zip(jax.tree.leaves(flat), jax.tree.leaves(patches), strict=True):
        np.testing.assert_array_equal(part, other)
    with pytest.raises(AssertionError, match=r"shape \[\], expected \[B\] or \[B, ...\]"):
        jax.vmap(LOSSES[name])(*arrays)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"kl_terms", "total_correlation"}))
def test_a_loss_of_one_example_is_that_of_a_batch_of_one(name):
    """The form under `jax.vmap` that the docstring gives."""
    mapped = jax.vmap(lambda *x: jax.tree.map(lambda part: part[0], LOSSES[name](*(one[None] for one in x))))
    for part, whole in zip(*map(jax.tree.leaves, (mapped(*ARRAYS[name]), LOSSES[name](*ARRAYS[name]))), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures(name):
    signature = inspect.signature(getattr(losses, name))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.name not in {"reduction", "weight", "probabilities"}
        is_option = parameter.default is not inspect.Parameter.empty
        assert not is_option or parameter.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", losses.__all__)
def test_docstrings(name):
    public = getattr(losses, name)
    lines = inspect.getdoc(public).splitlines()
    assert lines[0].endswith(".")
    assert len(lines) == 1 or not lines[1]
    if inspect.isclass(public):
        assert [line.split(":")[0].strip() for line in lines if line.startswith("    ")] == list(public._fields)
        return
    assert "Returns:" in lines
    start = lines.index("Args:")
    documented = [line.split(":")[0].strip() for line in lines[start + 1 : lines.index("Returns:")]]
    for parameter in inspect.signature(public).parameters:
        assert parameter in documented


def test_importing_losses_loads_no_framework():
    heavy = ("flax", "optax", "orbax", "tensorflow", "tensorflow_datasets")
    program = f"import sys, mvae_jax.losses; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
