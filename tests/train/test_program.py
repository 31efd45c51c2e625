"""Many steps in one call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mvae_jax.objective import Partial
from mvae_jax.train import state as states
from mvae_jax.train.devices import place
from mvae_jax.train.program import MetricSums, compile_evaluation, compile_step
from mvae_jax.train.step import make_train_step

PHASE = toy.phases(first={"weights": {"critic": 0.1}, "ema_decay": 0.9})[0]
INDICES = np.random.default_rng(0).integers(0, len(toy.TRAIN), (6, toy.BATCH)).astype(np.int32)


def train(count=1, parts=(6,), signals=(0.0,)):
    """The state after six steps, sent in parts, and the last dispatch."""
    model, placement = toy.build(), place(jax.devices()[:count])
    arrays = placement.spread(toy.TRAIN.arrays)
    state = states.create(model, PHASE, jax.random.key(0), dict(toy.TRAIN.arrays))
    step = make_train_step(model.rounds(PHASE), model.optimizers(PHASE), PHASE)
    program = compile_step(
        step, placement, jax.eval_shape(lambda: state), arrays, toy.BATCH, most_steps=8, signal_count=len(signals)
    )
    state, sums = jax.device_put(state, placement.replicated), program.zeros
    for indices in np.split(INDICES, np.cumsum(parts)[:-1]):
        out = program(state, sums, arrays, indices, np.array(signals, np.float32))
        state, sums = out.state, out.sums
    return state, out


def bits(tree):
    tree = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("parts", [(1, 1, 1, 1, 1, 1), (2, 3, 1)], ids=str)
def test_a_chunk_gives_bit_for_bit_what_single_steps_give(parts):
    (whole, last), (state, end) = train(), train(parts=parts)
    assert bits(state) == bits(whole)
    assert bits(end.sums) == bits(last.sums)
    assert int(whole.step) == 6


def test_a_chunk_equals_steps_compiled_alone():
    model = toy.build()
    state = states.create(model, PHASE, jax.random.key(0), dict(toy.TRAIN.arrays))
    step = jax.jit(make_train_step(model.rounds(PHASE), model.optimizers(PHASE), PHASE))
    losses = []
    for indices in INDICES:
        state, metrics = step(state, toy.TRAIN.take(indices))
        losses.append(float(metrics["loss"]))
    got, out = train()
    for expected, value in zip(jax.tree.leaves(state.params), jax.tree.leaves(got.params), strict=True):
        np.testing.assert_allclose(expected, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.sums.means()["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_array_equal(out.finite, [1] * 6 + [0, 0])


@pytest.mark.parametrize("count", [1, 4])
def test_signals_come_back(count):
    _, out = train(count, signals=(0.0, 143.0, 0.25))
    np.testing.assert_array_equal(out.signals, [0.0, 143.0, 0.25])


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match="batch size 6 cannot be split over 4 devices"):
        compile_step(None, place(jax.devices()[:4]), None, {}, 6)


def test_sums_leave_out_what_is_not_finite():
    sums = MetricSums.zeros(("kl", "loss", "never"))
    for loss, kl in ((1.0, 2.0), (jnp.nan, 4.0), (3.0, jnp.inf)):
        sums = sums.add({"loss": jnp.float32(loss), "kl": jnp.float32(kl), "never": jnp.float32(jnp.nan)})
    assert list(sums.means().items()) == [("loss", 2.0), ("kl", 3.0)]


def test_sums_are_means_over_the_examples_that_have_a_value():
    """However they are spread over batches, of which some have none."""
    numbers, there = np.float32([1, 2, 3, np.nan, np.nan, 5]), np.bool_([True, True, True, False, False, True])
    sums = MetricSums.zeros(("never", "part"))
    for rows in (slice(0, 2), slice(3, 5), slice(2, 5, 2), slice(4, 6)):
        part, nothing = Partial(numbers[rows], there[rows]), np.zeros(2, bool)
        sums = sums.add({"part": part.mean(), "never": Partial(numbers[rows], nothing).mean()})
    assert sums.means() == {"part": 11 / 4}


def test_an_evaluation_is_the_mean_over_the_examples_that_have_a_value():
    numbers = np.arange(10, dtype=np.float32)
    examples = {"x": numbers, "there": numbers > 6}

    def terms(params, state, batch, key):
        hidden = Partial(jnp.where(batch["there"], batch["x"], jnp.nan), batch["there"])
        return {"loss": batch["x"], "part": hidden, "none": Partial(batch["x"], batch["x"] < 0)}

    placement = place(jax.devices()[:1])
    state = placement.replicate(states.create(toy.build(), PHASE, jax.random.key(0), dict(toy.TRAIN.arrays)))
    means = compile_evaluation(terms, placement, state, examples, 4)(state, placement.spread(examples))
    assert means == {"loss": 4.5, "part": 8.0}


@pytest.mark.parametrize("count", [1, 4])
def test_an_evaluation_is_the_mean_of_all_examples(count):
    model, placement = toy.build(), place(jax.devices()[:count])
    state = placement.replicate(states.create(model, PHASE, jax.random.key(0), dict(toy.TRAIN.arrays)))
    examples = toy.VALIDATION.arrays
    judge = compile_evaluation(model.evaluate(PHASE), placement, state, examples, toy.BATCH)
    means = judge(state, placement.spread(examples))
    batch = jax.tree.map(jnp.asarray, dict(toy.VALIDATION.arrays))
    terms = model.evaluate(PHASE)({**state.params, **state.ema}, state.model_state, batch, jax.random.key(1))
    assert set(means) == set(terms)
    for name, values in terms.items():
        np.testing.assert_allclose(means[name], np.mean(values), rtol=1e-5)
