"""Training through phases: what it computes does not depend on how often it was stopped, nor on how it is watched."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import signal

import jax
import numpy as np
import optax
import pytest
import toy
from snapshots import sums

from mvae_jax.files import DiskFull
from mvae_jax.train import loop
from mvae_jax.train.checkpoint import Checkpoints, DamagedCheckpoint
from mvae_jax.train.config_file import DamagedRun
from mvae_jax.train.devices import place
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interrupted, Interruption
from mvae_jax.train.workdir import Workdir

LAST = toy.phases()[-1].end
WATCHED = loop.Settings(log_every=1, checkpoint_every=4)
ALONE = place(jax.devices()[:1])
TOGETHER = place(jax.devices()[:4])


def fit(
    workdir,
    *,
    model=None,
    phases=None,
    batches=toy.batches,
    seed=toy.SEED,
    settings=WATCHED,
    validation=toy.VALIDATION,
    **options,
):
    return loop.fit(
        model or toy.build(),
        phases or toy.phases(),
        batches,
        workdir=workdir,
        seed=seed,
        validation=validation.arrays if validation else None,
        settings=settings,
        **options,
    )


def bits(state):
    """{path: bytes} of all leaves."""
    leaves = jax.tree.leaves_with_path(state.replace(key=jax.random.key_data(state.key)))
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def records(workdir, split, metric=None):
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == split]
    return lines if metric is None else {line["step"]: line[metric] for line in lines}


def newest(workdir):
    """Step of the newest checkpoint, 0 without one."""
    with Checkpoints(workdir, ["first", "second"]) as checkpoints:
        return (checkpoints.latest() or (None, 0))[1]


def restored(workdir, phases, name, step):
    shapes = loop.abstract_state(toy.build(), phases, name, dict(toy.TRAIN.arrays))
    with Checkpoints(workdir, [phase.name for phase in phases]) as checkpoints:
        return checkpoints.restore(name, step, shapes)


class Watched:
    """Batches that note which steps were asked for, and call `then` before the batch of step `at`."""

    def __init__(self, at=-1, then=lambda: None):
        self.at, self.then, self.asked = at, then, []

    def __call__(self, phase):
        source, watch = toy.batches(phase), self

        class Source:
            arrays, steps_per_epoch = source.arrays, source.steps_per_epoch

            def indices_at(self, step):
                watch.asked.append(step)
                if step == watch.at:
                    watch.then()
                return source.indices_at(step)

        return Source()


class Crash(Exception):  # noqa: N818
    pass


def crash():
    raise Crash


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Workdir and final state of a run that nobody stops."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, fit(workdir)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_host_that_computes_itself_is_not_said_to_be_waited_for(tmp_path, caplog, asynchronous):
    caplog.set_level(logging.DEBUG)
    jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
    try:
        fit(tmp_path, placement=place(jax.devices()[:1]))
    finally:
        jax.config.update("jax_cpu_enable_async_dispatch", True)
    (first, *_) = [message for message in caplog.messages if "steps/s" in message]
    assert ("the device waited for the host" in first) == asynchronous


def test_all_that_a_run_remembers_is_at_stake(undisturbed):
    state = undisturbed[1]
    before = toy.build().init(jax.random.split(jax.random.key(toy.SEED))[0], None)
    assert int(state.step) == LAST
    assert set(state.opt_state) == set(state.ema) == {"vae", "critic"}
    assert int(state.model_state["vae"]["steps"]) == LAST
    moved = {group: not np.array_equal(*map(flat, (before[0][group], state.params[group]))) for group in state.params}
    assert moved == {"vae": True, "critic": True, "frozen": False}
    assert not np.array_equal(flat(state.ema["vae"]), flat(state.params["vae"]))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# --- stopped and resumed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [[0, 4, 6], [5, 12, LAST - 1]], ids=str)
def test_a_run_that_was_interrupted_and_resumed_ends_with_the_same_bits(tmp_path, undisturbed, stops):
    begin = 0
    for stop in stops:
        batches = Watched(stop, terminate)
        with pytest.raises(Interrupted) as stopped, Interruption() as interruption:
            fit(tmp_path, batches=batches, interruption=interruption)
        assert stopped.value.code == 143
        assert batches.asked == list(range(begin, stop + 1))
        begin = newest(tmp_path)
        assert begin == stop + 1
    batches = Watched()
    assert bits(fit(tmp_path, batches=batches)) == bits(undisturbed[1])
    assert batches.asked == list(range(begin, LAST))
    # With a record per step nothing is averaged, and all records are as if nothing had happened.
    for split in ("train", "validation"):
        assert records(tmp_path, split) == records(undisturbed[0], split)


@pytest.mark.parametrize("crashes", [[2, 5, 5, 10], [6, 13]], ids=str)
def test_a_run_that_crashed_goes_on_from_the_newest_checkpoint_with_the_same_bits(tmp_path, undisturbed, crashes):
    for step in crashes:
        begin, batches = newest(tmp_path), Watched(step, crash)
        with pytest.raises(Crash):
            fit(tmp_path, batches=batches)
        assert batches.asked == list(range(begin, step + 1))
        assert step - 3 <= newest(tmp_path) <= step
    begin, batches = newest(tmp_path), Watched()
    assert bits(fit(tmp_path, batches=batches)) == bits(undisturbed[1])
    assert batches.asked == list(range(begin, LAST))
    for split in ("train", "validation"):
        assert records(tmp_path, split) == records(undisturbed[0], split)


def crashed(workdir, step=10):
    """A run of this kind, ended by an error before a step, with checkpoints of steps 6, 9 (the best) and 10."""
    Workdir(workdir).configure({"model": "toy"})
    with pytest.raises(Crash):
        fit(workdir, batches=Watched(step, crash))


def damage(folder):
    for path in folder.rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")


def lines_to(workdir, step):
    """Lines of the log up to a step, as they are on the disk."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line for line in lines if json.loads(line)["step"] <= step]


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(tmp_path, undisturbed, caplog):
    crashed(tmp_path)
    damage(folder_of(tmp_path, "second", 10))
    files, log, batches = sums(folder_of(tmp_path, "second", 10)), lines_to(tmp_path, 9), Watched()
    assert lines_to(tmp_path, 10) != log
    assert bits(fit(tmp_path, batches=batches)) == bits(undisturbed[1])
    kept = tmp_path / "checkpoints" / "second" / "10.damaged"
    assert sums(kept) == files
    assert re.search(rf"second/10 is damaged: .*\(changed\).* It is kept as {kept},", caplog.text)
    # The log lost the lines of the steps that were trained again, and no others; a line tells of one step here.
    assert batches.asked == list(range(9, LAST))
    *kept_lines, setup = lines_to(tmp_path, 9)
    assert (kept_lines, json.loads(setup)["split"]) == (log, "setup")
    for split in ("train", "validation"):
        assert records(tmp_path, split) == records(undisturbed[0], split)


def test_an_older_checkpoint_of_which_nobody_knows_the_loss_stops_no_run(tmp_path, undisturbed):
    crashed(tmp_path)
    (folder_of(tmp_path, "second", 9) / "manifest.json").write_text("{")
    assert bits(fit(tmp_path)) == bits(undisturbed[1])


def test_a_run_without_an_intact_checkpoint_is_refused_and_left_as_it_is(tmp_path):
    crashed(tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/*"):
        damage(path)
    before, batches = sums(tmp_path), Watched()
    with pytest.raises(DamagedRun) as error:
        fit(tmp_path, batches=batches)
    root = tmp_path / "checkpoints"
    assert str(error.value).startswith(
        f"{root} has no checkpoint that is intact: restore one from a copy, or, to begin anew, move that folder away "
        f"or choose another workdir. Of the newest: {root}/second/10 is damaged: "
    )
    assert (sums(tmp_path), batches.asked) == (before, [])


def test_a_run_of_other_phases_is_refused_and_left_as_it_is(tmp_path):
    crashed(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "checkpoints" / name).rename(tmp_path / "checkpoints" / f"{name}_")
    before = sums(tmp_path)
    with pytest.raises(DamagedRun, match=r"of the phases first_, second_, and none of this run's, first, second:"):
        fit(tmp_path)
    assert sums(tmp_path) == before


def test_a_run_that_was_moved_or_copied_goes_on_to_the_same_bits(tmp_path, undisturbed):
    crashed(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    (tmp_path / "run").rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        Workdir(tmp_path / name).configure({"model": "toy"})
        batches = Watched()
        assert bits(fit(tmp_path / name, batches=batches)) == bits(undisturbed[1])
        assert batches.asked == list(range(10, LAST))


def test_what_the_log_says_is_on_the_disk_before_the_checkpoint(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noting(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    fit(tmp_path)
    flushed = saved = 0
    for name in synced:
        flushed += name == "metrics.jsonl"
        saved += "manifest.json" in name
        assert flushed >= saved, "a resumed run would drop lines that nobody writes again"
    assert saved > 3


def test_the_record_after_a_resume_averages_the_steps_since_then(tmp_path, undisturbed):
    every_step = records(undisturbed[0], "train", "loss")
    for step in (1, 8):  # in the middle of a phase's first interval and of its second
        with pytest.raises(Interrupted), Interruption() as interruption:
            fit(
                tmp_path,
                settings=loop.Settings(log_every=4),
                batches=Watched(step, terminate),
                interruption=interruption,
            )
    fit(tmp_path, settings=loop.Settings(log_every=4))
    intervals = {4: (3, 4), 6: (5, 6), 10: (10,), 14: (11, 12, 13, 14), 15: (15,)}
    got = records(tmp_path, "train", "loss")
    assert list(got) == list(intervals)
    for end, steps in intervals.items():
        np.testing.assert_allclose(got[end], np.mean([every_step[step] for step in steps]), rtol=1e-6)
    assert records(tmp_path, "validation") == records(undisturbed[0], "validation")


def test_how_a_run_is_watched_changes_nothing(tmp_path, undisturbed):
    unwatched = loop.Settings(log_every=7, validate_every=2, checkpoint_minutes=0.0)
    assert bits(fit(tmp_path, settings=unwatched, validation=None)) == bits(undisturbed[1])
    assert records(tmp_path, "validation") == []


def test_a_finished_run_returns_its_state_without_training(tmp_path, undisturbed):
    workdir = shutil.copytree(undisturbed[0], tmp_path / "run")
    batches = Watched()
    assert bits(fit(workdir, batches=batches)) == bits(undisturbed[1])
    assert batches.asked == []
    assert read_metrics(workdir / "metrics.jsonl") == read_metrics(undisturbed[0] / "metrics.jsonl")


def test_a_run_resumes_on_another_number_of_devices(tmp_path, undisturbed):
    with pytest.raises(Crash):
        fit(tmp_path, batches=Watched(11, crash), placement=TOGETHER)
    state = fit(tmp_path, placement=ALONE)
    np.testing.assert_allclose(flat(state.params), flat(undisturbed[1].params), atol=1e-4)


def test_a_checkpoint_of_other_phases_is_refused(tmp_path):
    with pytest.raises(Crash):
        fit(tmp_path, batches=Watched(5, crash), settings=loop.Settings(checkpoint_every=5))
    with pytest.raises(ValueError, match=r"phase 'first' at step 5, but that phase goes from 0 to 3"):
        fit(tmp_path, phases=toy.phases(first={"steps": 3}))


@pytest.mark.parametrize("where", ["save", "metrics"])
def test_a_full_disk_ends_the_run_and_leaves_a_checkpoint_to_go_on_from(tmp_path, undisturbed, monkeypatch, where):
    target = {"save": "mvae_jax.train.manifests.atomic_write", "metrics": "mvae_jax.train.loop.MetricWriter.flush"}

    def fail(*_):
        monkeypatch.undo()
        raise OSError(28, "No space left on device")

    def fill():
        monkeypatch.setattr(target[where], fail)

    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, batches=Watched(7, fill))
    assert newest(tmp_path) in (4, 6)  # the save of step 6 may still be under way when the disk fills
    assert bits(fit(tmp_path)) == bits(undisturbed[1])
    assert records(tmp_path, "train") == records(undisturbed[0], "train")


def test_a_disk_without_room_for_a_checkpoint_is_refused_before_anything_is_compiled(small_disk, caplog):
    disk, watched = small_disk(64), Watched()
    with contextlib.suppress(OSError), (disk / "other").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(DiskFull, match=r"/run/checkpoints cannot be written: No space .* \(it takes "),
    ):
        fit(disk / "run", batches=watched)
    assert watched.asked == []
    assert "compiled" not in caplog.text


# --- longer than it was ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shorter", [toy.phases()[:1], toy.phases(second={"steps": 3})], ids=["first", "second"])
def test_a_run_that_goes_on_after_its_end_equals_one_that_was_so_long_from_the_start(tmp_path, undisturbed, shorter):
    assert int(fit(tmp_path, phases=shorter).step) == shorter[-1].end
    first, second = Watched(11, crash), Watched()
    with pytest.raises(Crash):
        fit(tmp_path, batches=first)
    begin = newest(tmp_path)
    assert bits(fit(tmp_path, batches=second)) == bits(undisturbed[1])
    assert (first.asked, second.asked) == (list(range(shorter[-1].end, 12)), list(range(begin, LAST)))
    for split in ("train", "validation"):
        assert records(tmp_path, split) == records(undisturbed[0], split)


# --- started from another run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started(undisturbed, tmp_path_factory):
    """Final state of a run with another seed that started from the undisturbed one, and was not disturbed either."""
    return fit(tmp_path_factory.mktemp("started"), seed=8, start_from=undisturbed[0])


def folder_of(workdir, phase, step):
    return workdir / "checkpoints" / phase / str(step)


@pytest.mark.parametrize(("phase", "step", "part"), [(None, LAST, "ema"), ("first", 6, "params")])
def test_a_start_takes_what_is_trained_and_nothing_else(tmp_path, undisturbed, caplog, phase, step, part):
    caplog.set_level(logging.INFO)
    other = undisturbed[0]
    start_from = folder_of(other, phase, step) if phase else other
    with pytest.raises(Crash):
        fit(tmp_path, seed=8, start_from=start_from, batches=Watched(0, crash))
    assert f"starting from step {step} of phase {phase or 'second'} of {other}" in caplog.messages
    state = restored(tmp_path, toy.phases(), "first", 0)
    source = restored(other, toy.phases(), phase or "second", step)
    own = loop.initial_state(toy.build(), toy.phases(), 8, dict(toy.TRAIN.arrays))
    given = getattr(source, part)
    expected = own.replace(
        params={**own.params, "vae": given["vae"], "critic": given["critic"]}, model_state=source.model_state
    )
    assert bits(state) == bits(expected)
    assert not np.array_equal(flat(source.params["frozen"]), flat(state.params["frozen"]))


def fail_to_save(monkeypatch):
    def fail(*_):
        monkeypatch.undo()
        raise Crash

    monkeypatch.setattr("mvae_jax.train.manifests.write", fail)


@pytest.mark.parametrize("step", [None, 0, 5], ids=["while the start is saved", "before step 0", "before step 5"])
def test_a_run_that_started_from_another_resumes_with_the_same_bits(
    tmp_path, undisturbed, started, monkeypatch, caplog, step
):
    caplog.set_level(logging.INFO)
    other, workdir = shutil.copytree(undisturbed[0], tmp_path / "other"), tmp_path / "run"
    if step is None:
        fail_to_save(monkeypatch)
    with pytest.raises(Crash):
        fit(workdir, seed=8, start_from=other, batches=Watched(step, crash))
    if step is not None:
        shutil.rmtree(other)
    begin, batches = newest(workdir), Watched()
    assert bits(fit(workdir, seed=8, start_from=other, batches=batches)) == bits(started) != bits(undisturbed[1])
    assert batches.asked == list(range(begin, LAST))
    ignored = f"not starting from {other}: this run has checkpoints of its own" in caplog.messages
    assert ignored == (step is not None)


def test_what_a_start_gives_reaches_optimisers_and_averages():
    memory = optax.GradientTransformation(lambda params: params, lambda updates, state, params: (updates, state))
    model, phase = toy.build(lambda: memory), toy.phases()[1]
    params = jax.tree.map(lambda leaf: leaf + 5, model.init(jax.random.key(0), None)[0])
    start = {"params": {"vae": params["vae"]}, "model_state": {}}
    state = loop.initial_state(model, [phase], 8, dict(toy.TRAIN.arrays), start)
    for tree in (state.params["vae"], state.opt_state["vae"], state.ema["vae"]):
        np.testing.assert_array_equal(flat(tree), flat(params["vae"]))


def changed_model(change):
    """The toy, with other parameters."""
    model = toy.build()

    def init(key, batch):
        params, state = model.init(key, batch)
        return change(params), state

    return dataclasses.replace(model, init=init)


def other_critic(params):
    return {**params, "critic": {"kernel": np.zeros((16, 2), np.float32), "scale": np.zeros(3, np.float32)}}


def other_frozen(params):
    return {**params, "frozen": {"other": np.zeros(2, np.float32)}}


def check(workdir, start_from, model=None, phases=None):
    phases = phases or toy.phases()
    return loop.check_start(
        model or toy.build(), phases, dict(toy.TRAIN.arrays), start_from=start_from, workdir=workdir
    )


def test_a_start_that_does_not_fit_is_refused_with_all_differences(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(loop, "initial_state", lambda *_: pytest.fail("compiled"))
    folder = folder_of(undisturbed[0], "second", LAST)
    message = (
        f"{folder} does not fit this model; 3 arrays differ:\n"
        "  params/critic/bias: checkpoint has float32[1], this model nothing\n"
        "  params/critic/kernel: checkpoint has float32[16,1], this model float32[16,2]\n"
        "  params/critic/scale: checkpoint has nothing, this model float32[3]\n"
        "Build the model with the settings that the run was started with, or start from another one."
    )
    for refuse in (check, lambda workdir, start_from, model: fit(workdir, start_from=start_from, model=model)):
        with pytest.raises(ValueError, match="does not fit") as error:
            refuse(tmp_path, undisturbed[0], changed_model(other_critic))
        assert str(error.value) == message
    assert os.listdir(tmp_path) == []
    # What nobody trains need not be there.
    assert check(tmp_path, undisturbed[0], changed_model(other_critic), toy.phases()[:1]) == folder
    assert check(tmp_path, undisturbed[0], changed_model(other_frozen)) == folder


def damaged(folder):
    for path in folder_of(folder, "second", LAST).rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("change", "where", "kind", "message"),
    [
        (shutil.rmtree, "", FileNotFoundError, "run does not exist; expected the workdir of a run, or one of its"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "", FileNotFoundError, "run has no checkpoint yet"),
        (damaged, "", DamagedCheckpoint, r"second/15 is damaged: .*\(changed\)"),
        (
            lambda folder: (folder / "checkpoints/first/6/manifest.json").unlink(),
            "checkpoints/first/6",
            DamagedCheckpoint,
            "first/6 has no manifest.json: restore it from a copy",
        ),
    ],
)
def test_a_start_from_nothing_is_refused(tmp_path, undisturbed, change, where, kind, message):
    change(shutil.copytree(undisturbed[0], tmp_path / "run"))
    with pytest.raises(kind, match=message):
        check(tmp_path / "new", tmp_path / "run" / where)


def test_a_start_from_another_kind_of_model_is_refused(tmp_path, undisturbed):
    other = dataclasses.replace(
        toy.build(), init=lambda *_: ({"classifier": {}}, {}), optimizers=lambda _: {"classifier": optax.sgd(1.0)}
    )
    with pytest.raises(
        ValueError, match=r"another model: its groups are \['critic', .*'vae'\], expected \['classifier'\]"
    ):
        check(tmp_path, undisturbed[0], other)


def test_a_run_with_checkpoints_has_no_start_to_check(undisturbed):
    assert check(undisturbed[0], "nowhere") is None


# --- phases ----------------------------------------------------------------------------------------------------------


def counts(state):
    """Steps that each group's Adam remembers."""
    return {group: int(optax.tree.get(opt_state, "count")) for group, opt_state in state.opt_state.items()}


@pytest.mark.parametrize("reset", [False, True])
def test_optimisers_are_handed_over_or_reset(tmp_path, reset):
    phases = toy.phases(second={"reset_optimizers": reset})
    one, two = phases
    state = fit(tmp_path, phases=phases)
    assert counts(state) == {"vae": two.steps if reset else one.steps + two.steps, "critic": two.steps}
    # The same by hand from the first phase's last state, which is kept.
    with Checkpoints(tmp_path, ["first", "second"]) as checkpoints:
        assert checkpoints.metadata("first", one.end)["final"]
    handed = restored(tmp_path, phases, "first", one.end)
    assert counts(handed) == {"vae": one.steps}
    step = jax.jit(loop.make_train_step(toy.build().rounds(two), toy.build().optimizers(two), two))
    handed = loop.states.start_phase(handed, toy.build(), two)
    for number in range(two.start, two.end):
        handed, _ = step(handed, toy.batches(two).batch_at(number))
    np.testing.assert_allclose(flat(handed.params), flat(state.params), atol=2e-5)
    np.testing.assert_allclose(flat(handed.ema), flat(state.ema), atol=2e-5)
    assert counts(handed) == counts(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one, two: (one, dataclasses.replace(two, start=7)), "'second' starts at step 7; expected 6"),
        (lambda one, two: (two,), "'second' starts at step 6; expected 0"),
        (lambda one, two: (one, dataclasses.replace(two, name="first")), "expected no name twice"),
        (lambda one, two: (dataclasses.replace(one, steps=0), two), "'first' has 0 steps"),
        (lambda one, two: (), "no phase"),
        (lambda one, two: (one, dataclasses.replace(two, batch_size=6)), "batch size 6 cannot be split over 4 devices"),
    ],
)
def test_phases_that_cannot_be_trained_are_refused_before_anything_is_done(tmp_path, change, message):
    model = dataclasses.replace(toy.build(), init=lambda *_: pytest.fail("initialised"))
    with pytest.raises(ValueError, match=message):
        loop.fit(model, change(*toy.phases()), toy.batches, workdir=tmp_path, seed=0, placement=TOGETHER)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "wrong", [{"log_every": 0}, {"validate_every": 0}, {"checkpoint_every": -1}, {"most_refused_steps": 0}], ids=str
)
def test_impossible_settings_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; expected at least"):
        loop.Settings(**wrong)


def test_a_batch_is_a_function_of_seed_and_step(undisturbed):
    seen = records(undisturbed[0], "train", "examples")
    for phase in toy.phases():
        source = toy.batches(phase)
        for step in range(phase.start, phase.end):
            assert seen[step + 1] == source.indices_at(step).mean()
    per_epoch = np.reshape([seen[step] for step in range(1, LAST + 1)], (-1, 3))
    assert len({tuple(epoch) for epoch in per_epoch}) == len(per_epoch)


def test_one_device_equals_four(tmp_path):
    model = toy.build(lambda: optax.sgd(1.0))
    alone, together = (
        fit(tmp_path / str(placement.mesh.size), model=model, placement=placement) for placement in (ALONE, TOGETHER)
    )
    for part in ("params", "model_state", "ema"):
        np.testing.assert_allclose(flat(getattr(alone, part)), flat(getattr(together, part)), rtol=0, atol=1e-6)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(together)} == {4}


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 11])
def test_validation_is_the_exact_mean_over_all_examples(tmp_path, count):
    phases, validation = toy.phases()[:1], toy.split(count, seed=1)
    state = fit(tmp_path, phases=phases, validation=validation)
    per_example = toy.build().evaluate(phases[0])(state.params, state.model_state, validation.arrays, None)
    got = records(tmp_path, "validation")[-1]
    assert got["number"] == (count - 1) / 2
    for name, values in per_example.items():
        assert values.shape == (count,)
        np.testing.assert_allclose(got[name], np.mean(values), rtol=1e-5)


def test_validation_judges_the_moving_average(tmp_path, undisturbed):
    state = undisturbed[1]
    evaluate = toy.build().evaluate(toy.phases()[1])
    losses = [
        np.mean(evaluate(params, state.model_state, toy.VALIDATION.arrays, None)["loss"])
        for params in ({**state.params, **state.ema}, state.params)
    ]
    got = records(undisturbed[0], "validation", "loss")[LAST]
    np.testing.assert_allclose(got, losses[0], rtol=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_validation_comes_after_epochs_and_at_the_end_of_a_phase(tmp_path):
    seen = []

    def on_validation(state, phase, writer):
        seen.append((int(state.step), phase.name))
        writer.write_scalars(int(state.step), {"mine": 1.0}, split="mine")

    phases = toy.phases(first={"steps": 7}, second={"steps": 6})
    fit(tmp_path, phases=phases, settings=loop.Settings(validate_every=2), on_validation=on_validation)
    assert seen == [(6, "first"), (7, "first"), (13, "second")]
    assert list(records(tmp_path, "validation", "loss")) == list(records(tmp_path, "mine", "mine")) == [6, 7, 13]


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path):
    phases = toy.phases(second={"steps": 15, "options": {"best_after": 9}})
    fit(tmp_path, phases=phases, settings=loop.Settings(checkpoint_every=2))
    with Checkpoints(tmp_path, ["first", "second"]) as checkpoints:
        assert checkpoints.best("second") == 9
        assert checkpoints.steps("second") == [9, 20, 21]
        best, last = (checkpoints.metadata("second", step) for step in (9, 21))
        losses = records(tmp_path, "validation", "loss")
        assert best["validation_loss"] == losses[9] == min(loss for step, loss in losses.items() if step > 6)
        assert (last["validation_loss"], last["final"], best["final"]) == (losses[21], True, False)
    assert int(restored(tmp_path, phases, "second", 9).model_state["vae"]["steps"]) == 9


def test_no_checkpoint_is_the_best_where_losses_do_not_compare(tmp_path, caplog):
    caplog.set_level("INFO")
    phases = toy.phases(second={"steps": 15, "options": {"best_after": 9}, "comparable": False})
    fit(tmp_path, phases=phases, settings=loop.Settings(checkpoint_every=2))
    with Checkpoints(tmp_path, ["first", "second"]) as checkpoints:
        assert checkpoints.best("first") == 6
        assert checkpoints.best("second") is None
        assert checkpoints.steps("second") == [20, 21]  # as the newest ones
        assert checkpoints.metadata("second", 21)["validation_loss"] is None
    told = [line for line in caplog.messages if "in validation" in line]
    assert all(("the best" in line) == line.startswith("phase first") for line in told)
    assert told[-1].endswith(
        "in validation, which compares with no other step: the network that measures it trains too"
    )


def test_a_run_without_validation_keeps_the_last(tmp_path):
    fit(tmp_path, validation=None, settings=loop.Settings())
    with Checkpoints(tmp_path, ["first", "second"]) as checkpoints:
        assert {phase: checkpoints.steps(phase) for phase in ("first", "second")} == {"first": [6], "second": [15]}
        assert checkpoints.best("second") is None


# --- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Crash("mine"), SystemExit(3)], ids=repr)
def test_what_a_callback_fails_with_is_raised_when_the_state_is_saved(tmp_path, undisturbed, error):
    def on_validation(state, phase, writer):
        if int(state.step) == 12:
            raise error

    options = {
        "phases": toy.phases(second={"options": {"best_after": 9}}),  # no other reason to save at step 12
        "settings": loop.Settings(log_every=1),
    }
    with pytest.raises(type(error)) as raised:
        fit(tmp_path, on_validation=on_validation, **options)
    assert raised.value is error
    assert newest(tmp_path) == 12
    watched = Watched()
    assert bits(fit(tmp_path, batches=watched, **options)) == bits(undisturbed[1])
    assert min(watched.asked) == 12
    assert list(records(tmp_path, "train", "loss")) == list(range(1, LAST + 1))


def test_a_callback_that_fails_amid_refused_steps_saves_nothing(tmp_path):
    def on_validation(state, phase, writer):
        raise Crash

    with pytest.raises(Crash):
        fit(tmp_path, phases=toy.phases(first={"options": {"poison": (1, 5)}}), on_validation=on_validation)
    assert newest(tmp_path) == 0


def test_a_damaged_log_stops_no_run(tmp_path, undisturbed):
    with pytest.raises(Crash):
        fit(tmp_path, batches=Watched(10, crash))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b'"step"', b'"stop"'), *lines[3:]]))
    assert bits(fit(tmp_path)) == bits(undisturbed[1])
    assert (tmp_path / "metrics.jsonl.damaged").exists()
    assert max(records(tmp_path, "train", "loss")) == LAST


# --- steps that are not finite ---------------------------------------------------------------------------------------


def test_refused_steps_are_counted_and_change_nothing(tmp_path):
    phases = toy.phases(first={"options": {"poison": (2, 5)}})
    state = fit(tmp_path, phases=phases)
    assert (int(state.step), int(state.skipped)) == (LAST, 3)
    assert int(state.model_state["vae"]["steps"]) == LAST - 3
    assert counts(state)["vae"] == LAST - 3
    assert np.isfinite(flat(state.params)).all()
    finite = records(tmp_path, "train", "step/finite")
    assert [step for step, share in finite.items() if share == 0] == [3, 4, 5]
    assert all("loss" not in line for line in records(tmp_path, "train") if line["step"] in (3, 4, 5))


@pytest.mark.parametrize(
    ("phase", "first", "newest"),
    [("first", 1, None), ("second", 0, ("first", 6)), ("second", 3, ("second", 9))],
)
def test_too_many_refused_steps_end_the_run(tmp_path, phase, first, newest):
    phases = toy.phases(**{phase: {"options": {"poison": (first, 99)}}})
    good = {"first": 0, "second": 6}[phase] + first
    for _ in range(2):  # started again, it comes to the same end
        with pytest.raises(loop.TrainingDiverged) as error:
            fit(tmp_path, phases=phases, settings=dataclasses.replace(WATCHED, most_refused_steps=2))
        message = str(error.value)
        assert f"phase {phase!r}, step {good + 2}: the last 2 steps were refused" in message
        with Checkpoints(tmp_path, ["first", "second"]) as checkpoints:
            assert checkpoints.latest() == newest
    if newest is None:
        assert "newest checkpoint" not in message
    else:
        assert f"newest checkpoint is step {newest[1]} of phase {newest[0]}." in message
        state = restored(tmp_path, phases, *newest)
        assert (int(state.skipped), int(state.model_state["vae"]["steps"])) == (0, newest[1])
        assert np.isfinite(flat(state.params)).all()


def test_single_refused_steps_do_not_add_up(tmp_path):
    phases = toy.phases(first={"options": {"poison": (1, 3)}}, second={"options": {"poison": (2, 4)}})
    state = fit(tmp_path, phases=phases, settings=dataclasses.replace(WATCHED, most_refused_steps=3))
    assert int(state.skipped) == 4
