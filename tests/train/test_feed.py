"""Examples that stay on the devices and examples that come in blocks make the same steps."""

import contextlib

import jax
import numpy as np
import pytest
import toy

from mvae_jax.train import feed, loop
from mvae_jax.train.devices import place
from mvae_jax.train.feed import Feed, arrays_like

ALONE, TOGETHER = place(jax.devices()[:1]), place(jax.devices()[:4])


class Streamed:
    """The toy's batches, one after the other; notes what was read, and `stops` early if told so."""

    def __init__(self, phase, stops=10**6):
        self.order, self.stops, self.open, self.read = toy.batches(phase), stops, 0, []
        self.steps_per_epoch = self.order.steps_per_epoch
        self.example = {name: array[:1] for name, array in toy.TRAIN.arrays.items()}

    @contextlib.contextmanager
    def stream(self, first_step, end_step, chunk, rows):
        assert rows.tolist() == list(range(chunk * toy.BATCH))  # one host has all devices
        self.open += 1
        yield self._chunks(first_step, end_step, chunk)
        self.open -= 1

    def _chunks(self, first_step, end_step, chunk):
        for start in range(first_step, min(end_step, self.stops), chunk):
            steps = range(start, min(end_step, start + chunk))
            self.read.append(tuple(steps))
            batches = [self.order.batch_at(step) for step in steps]
            yield {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def fit(workdir, batches, placement=ALONE, checkpoint_every=0):
    settings = loop.Settings(log_every=2, steps_per_dispatch=2, checkpoint_every=checkpoint_every)
    return loop.fit(
        toy.build(),
        toy.phases(),
        batches,
        workdir=workdir,
        seed=toy.SEED,
        settings=settings,
        placement=placement,
    )


def bits(state):
    leaves = jax.tree.leaves_with_path(state.replace(key=jax.random.key_data(state.key)))
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def batch_bytes():
    return toy.BATCH * sum(array[:1].nbytes for array in toy.TRAIN.arrays.values())


@pytest.mark.parametrize(("steps", "placement"), [(1, ALONE), (4, TOGETHER), (64, ALONE)], ids=["1", "4", "64"])
def test_a_streamed_run_has_the_bits_of_a_resident_one(steps, placement, tmp_path, monkeypatch):
    """Blocks of one step, of four, which end within phases of 6 and 9 steps and between records, and of a phase."""
    monkeypatch.setattr(feed, "_BLOCK_BYTES", steps * batch_bytes())
    sources = []
    resident = fit(tmp_path / "resident", toy.batches, placement)
    streamed = fit(tmp_path / "streamed", lambda phase: sources.append(Streamed(phase)) or sources[-1], placement)
    assert bits(streamed) == bits(resident)
    assert all(source.open == 0 for source in sources)
    read = [blocks for source in sources if (blocks := source.read)]
    assert [step for blocks in read for block in blocks for step in block] == list(range(15))
    assert max(len(block) for blocks in read for block in blocks) == min(steps, 9)


def failing(error):
    """Streams that fail with the second block, of steps 4 and 5, of the first phase."""

    class Failing(Streamed):
        def _chunks(self, first_step, end_step, chunk):
            yield next(super()._chunks(first_step, end_step, chunk))
            raise error

    return Failing


def goes_on(workdir, resident):
    """The first steps that the same run reads, made again with streams that do not fail; it ends with the same bits."""
    sources = []
    again = fit(workdir, lambda phase: sources.append(Streamed(phase)) or sources[-1])
    assert bits(again) == bits(resident)
    return min(block for source in sources for block in source.read)


@pytest.fixture(scope="module")
def resident(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("resident"), toy.batches)


def test_a_streamed_run_goes_on_within_a_block(tmp_path, monkeypatch, resident):
    """It ends amid the second block as by a kill, without a save; the last checkpoint is that of step 3."""
    monkeypatch.setattr(feed, "_BLOCK_BYTES", 4 * batch_bytes())
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, failing(KeyboardInterrupt()), checkpoint_every=3)
    assert goes_on(tmp_path, resident) == (3, 4, 5)


@pytest.mark.parametrize("error", [OSError("the disk is gone"), ValueError("the shard is damaged")], ids=repr)
def test_a_stream_that_fails_ends_the_run_when_the_state_is_saved(error, tmp_path, monkeypatch, resident):
    monkeypatch.setattr(feed, "_BLOCK_BYTES", 4 * batch_bytes())
    with pytest.raises(type(error)) as raised:
        fit(tmp_path, failing(error))  # no other reason to save before step 6
    assert raised.value is error
    assert error.__notes__ == [
        "The examples of the steps after step 4 cannot be read.",
        "It goes on from step 4 of phase first, which is saved.",
    ]
    assert goes_on(tmp_path, resident) == (4, 5)


def test_a_stream_that_fails_at_its_beginning_saves_nothing_anew(tmp_path, monkeypatch, resident):
    """Of the second phase: what is saved is the end of the first."""
    monkeypatch.setattr(feed, "_BLOCK_BYTES", 4 * batch_bytes())

    class Failing(Streamed):
        def _chunks(self, first_step, end_step, chunk):
            if first_step == 6:
                raise OSError("the disk is gone")
            yield from super()._chunks(first_step, end_step, chunk)

    with pytest.raises(OSError, match="the disk is gone") as raised:
        fit(tmp_path, Failing)
    assert raised.value.__notes__[-1] == "It goes on from step 6 of phase first, which is saved."
    assert goes_on(tmp_path, resident) == (6, 7, 8, 9)


def test_arrays_of_a_stream_hold_nothing(monkeypatch):
    phase = toy.phases()[0]
    monkeypatch.setattr(feed, "_BLOCK_BYTES", 5 * batch_bytes() + 1)
    like = arrays_like(Streamed(phase), toy.BATCH, 64)
    assert {name: array.shape for name, array in like.items()} == {"image": (20, 4, 4, 1), "index": (20,)}
    assert all(array.strides[0] == 0 for array in like.values())
    assert len(arrays_like(Streamed(phase), toy.BATCH, 3)["index"]) == 12
    assert arrays_like(toy.batches(phase), toy.BATCH, 64) is toy.batches(phase).arrays


def test_a_stream_that_ends_early_is_told(monkeypatch):
    monkeypatch.setattr(feed, "_BLOCK_BYTES", 2 * batch_bytes())
    phase = toy.phases()[0]
    with Feed(Streamed(phase, stops=2), ALONE, toy.BATCH, 64, 0, 6) as fed:
        assert fed.advance(0) is None
        assert fed.room(0) == 2
        assert fed.advance(1) is None
        assert fed.room(1) == 1
        assert "ended before step 2; it should go to 6" in str(fed.advance(2))
