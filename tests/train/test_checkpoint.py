"""Checkpoints: what is saved comes back bit by bit, what is damaged does not, and kills leave one to go on from."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from snapshots import sums

from mvae_jax.train.checkpoint import Checkpoints, DamagedCheckpoint, _finish, check_parts, find, load_parts
from mvae_jax.train.config_file import DamagedRun
from mvae_jax.train.workdir import Workdir


class State(struct.PyTreeNode):
    step: Any
    key: Any
    params: Any
    opt_state: Any
    ema: Any
    skipped: Any


def make_state(step=0, width=4, optimizer=None, ema=False):
    params = {
        "encoder": {"kernel": jax.random.normal(jax.random.key(step), (3, width)), "bias": jnp.zeros(width)},
        "decoder": {"kernel": jnp.full((width, 3), 0.1, jnp.bfloat16)},
    }
    optimizer = optimizer or optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1.0))
    return State(
        step=jnp.int32(step),
        key=jax.random.key(7),
        params=params,
        opt_state={group: optimizer.init(params[group]) for group in params},
        ema=params if ema else None,
        skipped=jnp.int32(2),
    )


def abstract(state, sharding=None):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def host(state):
    """Bytes of all arrays, keys as their data."""
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(state)
    ]
    return [np.array(leaf).tobytes() for leaf in leaves]


def save_all(workdir, saves, phase="vae", **options):
    """Saves (step, validation loss, final) one after another; returns the open checkpoints."""
    checkpoints = Checkpoints(workdir, ["gan", "vae"], **options)
    for step, loss, final in saves:
        checkpoints.save(phase, make_state(step), validation_loss=loss, final=final)
    checkpoints.wait()
    return checkpoints


def step_folder(workdir, step, phase="vae"):
    return workdir / "checkpoints" / phase / str(step)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with complete checkpoints of steps 1 and 2; tests that change it take a copy."""
    workdir = tmp_path_factory.mktemp("saved")
    Workdir(workdir).configure({"model": "toy"})
    save_all(workdir, [(1, 0.5, False), (2, 0.7, False)]).close()
    return workdir


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def test_round_trip_returns_the_same_bits_and_types(saved):
    state = make_state(2)
    with Checkpoints(saved, ["gan", "vae"]) as checkpoints:
        assert checkpoints.latest() == ("vae", 2)
        restored = checkpoints.restore("vae", 2, abstract(state))
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        assert [leaf.dtype for leaf in jax.tree.leaves(restored)] == [leaf.dtype for leaf in jax.tree.leaves(state)]
        assert host(restored) == host(state)
        assert isinstance(restored.opt_state["encoder"], tuple)
        assert jax.random.bits(restored.key) == jax.random.bits(state.key)


def test_metadata_lies_beside_the_state_as_json(saved):
    metadata = json.loads((step_folder(saved, 2) / "manifest.json").read_text())
    assert (metadata["phase"], metadata["step"], metadata["skipped"]) == ("vae", 2, 2)
    assert metadata["run_id"] == json.loads((saved / "config.json").read_text())["run_id"]
    assert metadata["validation_loss"] == 0.7
    assert metadata["final"] is False
    assert metadata["versions"]["jax"] == jax.__version__
    assert metadata["arrays"]["params/decoder/kernel"] == "bfloat16[4,3]"
    assert metadata["arrays"]["key"] == "key<fry>[]"
    with Checkpoints(saved, ["vae"]) as checkpoints:
        assert checkpoints.metadata("vae", 2)["versions"] == metadata["versions"]


def test_relative_workdir(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    with Checkpoints(saved.name, ["vae"]) as checkpoints:
        assert checkpoints.steps("vae") == [1, 2]
        assert int(checkpoints.restore("vae", 1, abstract(make_state())).step) == 1


def test_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    replicated = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())
    advance = jax.jit(
        lambda state: state.replace(step=state.step + 1, params=jax.tree.map(lambda x: -x - 1, state.params)),
        donate_argnums=0,
        out_shardings=replicated,
    )
    state = jax.device_put(make_state(width=20_000), replicated)
    expected = {}
    with Checkpoints(tmp_path, ["vae"], keep=3) as checkpoints:
        for _ in range(3):
            step = int(state.step)
            expected[step] = host(advance(jax.tree.map(jnp.copy, state)))
            checkpoints.save("vae", state)
            state = advance(state)
            assert host(state) == expected[step]
    with Checkpoints(tmp_path, ["vae"]) as checkpoints:
        for step, after in expected.items():
            assert host(advance(checkpoints.restore("vae", step, abstract(state, replicated)))) == after


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 2)])
def test_restores_on_another_number_of_devices(tmp_path, before, after):
    def shardings(state, devices):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        specs = jax.tree.map(lambda leaf: PartitionSpec(), state)
        specs = specs.replace(
            params={
                **specs.params,
                "encoder": {"kernel": PartitionSpec(None, "data"), "bias": PartitionSpec("data")},
            }
        )
        return jax.tree.map(lambda leaf, spec: NamedSharding(mesh, spec), state, specs)

    state = make_state(5)
    with Checkpoints(tmp_path, ["vae"]) as checkpoints:
        checkpoints.save("vae", jax.device_put(state, shardings(state, before)))
        checkpoints.wait()
        wanted = shardings(state, after)
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state, wanted
        )
        restored = checkpoints.restore("vae", 5, target)
        assert host(restored) == host(state)
        assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, restored, wanted))
        plain = checkpoints.restore("vae", 5, abstract(state))
        assert {leaf.sharding for leaf in jax.tree.leaves(plain)} == {SingleDeviceSharding(jax.devices()[0])}


def test_keeps_newest_best_and_final(tmp_path):
    saves = [(1, float("inf"), False), (2, 0.25, False), (3, 0.5, False), (4, float("nan"), False), (5, None, True)]
    with save_all(tmp_path, saves, phase="gan") as checkpoints:
        assert checkpoints.steps("gan") == [2, 4, 5]
        assert checkpoints.best("gan") == 2
        assert checkpoints.metadata("gan", 4)["validation_loss"] is None
        assert checkpoints.best("vae") is None
        for step in (6, 7, 8):
            checkpoints.save("gan", make_state(step), validation_loss=1.0)
        checkpoints.save("vae", make_state(9))
        checkpoints.wait()
        assert checkpoints.steps("gan") == [2, 5, 7, 8]
        assert sorted(os.listdir(tmp_path / "checkpoints" / "gan")) == ["2", "5", "7", "8"]
        assert checkpoints.latest() == ("vae", 9)
        checkpoints.save("gan", make_state(10), validation_loss=0.125)
        checkpoints.wait()
        assert checkpoints.steps("gan") == [5, 8, 10]
        assert checkpoints.best("gan") == 10
        with pytest.raises(DamagedCheckpoint, match=r"no manifest.json: there is no such checkpoint"):
            checkpoints.metadata("gan", 2)


def test_saving_a_step_again_adds_to_what_is_known_about_it(tmp_path):
    with save_all(tmp_path, [(1, None, False)], keep=1) as checkpoints:
        payload = [path for path in step_folder(tmp_path, 1).rglob("*") if path.is_file() and path.suffix != ".json"]
        inodes = [path.stat().st_ino for path in payload]
        checkpoints.save("vae", make_state(1), validation_loss=0.0)
    with Checkpoints(tmp_path, ["vae"]) as checkpoints:
        assert checkpoints.resume(lambda phase: abstract(make_state()))[:2] == ("vae", 1)
        checkpoints.save("vae", make_state(1), final=True)
        checkpoints.wait()
        metadata = checkpoints.metadata("vae", 1)
        assert (metadata["validation_loss"], metadata["final"], metadata["skipped"]) == (0.0, True, 2)
        assert [path.stat().st_ino for path in payload] == inodes
        checkpoints.restore("vae", 1, abstract(make_state()))


def test_run_continued_from_an_earlier_step_replaces_what_lies_ahead(copied):
    with Checkpoints(copied, ["vae"]) as checkpoints:
        other = make_state(2).replace(skipped=jnp.int32(9))
        checkpoints.save("vae", other)
        checkpoints.wait()
        assert int(checkpoints.restore("vae", 2, abstract(other)).skipped) == 9


def test_mismatch_lists_every_array(saved):
    other = make_state(2, width=5, ema=True, optimizer=optax.sgd(1.0, momentum=0.9))
    other = other.replace(params={**other.params, "encoder": {"kernel": jnp.zeros((3, 5), jnp.float16)}})
    with Checkpoints(saved, ["vae"]) as checkpoints, pytest.raises(ValueError, match="does not fit") as error:
        checkpoints.restore("vae", 2, abstract(other))
    message = str(error.value)
    assert "params/encoder/kernel: checkpoint has float32[3,4], this model float16[3,5]" in message
    assert "params/encoder/bias: checkpoint has float32[4], this model nothing" in message
    assert "params/decoder/kernel: checkpoint has bfloat16[4,3], this model bfloat16[5,3]" in message
    assert "ema/encoder/kernel: checkpoint has nothing, this model float32[3,5]" in message
    assert "opt_state/encoder/1/0/mu/kernel: checkpoint has float32[3,4], this model nothing" in message
    assert "settings that the run was started with" in message
    saved_paths, paths = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): (leaf.shape, leaf.dtype) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (make_state(2), other))
    )
    differing = {path for path in saved_paths.keys() | paths.keys() if saved_paths.get(path) != paths.get(path)}
    assert f"{len(differing)} arrays differ" in message
    assert {line.split(":")[0].strip() for line in message.splitlines()[1:-1]} == differing


def test_parameters_of_64_bits_are_said_to_be_such(tmp_path):
    state = make_state(2)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state.params)
        with Checkpoints(tmp_path, ["vae"]) as checkpoints:
            checkpoints.save("vae", state.replace(params=wide))
    expected = f"^{step_folder(tmp_path, 2)} has float64 parameters, 2 arrays of 64 bits: an older version trained it "
    with Checkpoints(tmp_path, ["vae"]) as checkpoints:
        with pytest.raises(ValueError, match=expected) as error:
            checkpoints.restore("vae", 2, abstract(state))
        assert str(error.value).endswith("this one trains in float32: choose another workdir.")
        with pytest.raises(ValueError, match="does not fit this model; 3 arrays differ"):
            checkpoints.restore("vae", 2, abstract(state.replace(skipped=state.params["encoder"]["bias"])))


def test_find_takes_the_newest_of_a_workdir_or_the_one_that_is_named(copied):
    save_all(copied, [(10, None, False)], phase="gan").close()
    shutil.copytree(step_folder(copied, 2), step_folder(copied, "11_backup"))
    step_folder(copied, "12.saving").mkdir()
    assert find(str(copied)) == step_folder(copied, 10, "gan")
    assert find(step_folder(copied, 1)) == step_folder(copied, 1)
    for folder in ("/", copied / "checkpoints"):
        with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
            find(folder)


def payload_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flip_bit(path, byte, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def test_any_flipped_bit_is_refused(copied):
    folder = step_folder(copied, 2)
    rng = np.random.default_rng(0)
    with Checkpoints(copied, ["vae"]) as checkpoints:
        for path in payload_files(folder):
            content = path.read_bytes()
            for byte in {0, len(content) - 2, int(rng.integers(len(content)))}:
                flip_bit(path, byte, int(rng.integers(8)))
                with pytest.raises(DamagedCheckpoint, match=path.name):
                    checkpoints.restore("vae", 2, abstract(make_state()))
                path.write_bytes(content)
        checkpoints.restore("vae", 2, abstract(make_state()))


def lose_payload(folder):
    max(payload_files(folder / "state"), key=lambda path: path.stat().st_size).unlink()


def half_delete(folder):
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "state")


DAMAGE = {
    "flipped bit": lambda folder: flip_bit(payload_files(folder / "state" / "d")[0], 40),
    "lost file": lose_payload,
    "truncated file": lambda folder: os.truncate(payload_files(folder / "state" / "d")[0], 10),
    "lost manifest": lambda folder: (folder / "manifest.json").unlink(),
    "truncated manifest": lambda folder: os.truncate(folder / "manifest.json", 20),
    "manifest of another kind": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "half deleted": half_delete,
    "empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_resume_falls_back_to_the_checkpoint_before(copied, damage, caplog):
    damage(step_folder(copied, 2))
    as_it_was = sums(step_folder(copied, 2))
    for killed in ("3.orbax-checkpoint-tmp", "4.saving.orbax-checkpoint-tmp", "4.saving", "1.deleting"):
        (copied / "checkpoints" / "vae" / killed).mkdir()
    (copied / "checkpoints" / "vae" / "notes.txt").write_text("mine")
    with Checkpoints(copied, ["gan", "vae", "later"]) as checkpoints:
        phase, step, state = checkpoints.resume(lambda phase: {"vae": abstract(make_state())}[phase])
        assert (phase, step) == ("vae", 1)
        assert host(state) == host(make_state(1))
        assert [f"{step_folder(copied, 2)} " in message for message in caplog.messages] == [True]
        kept = step_folder(copied, "2.damaged")
        assert caplog.messages[0].endswith(f" It is kept as {kept}, and the checkpoints before it count.")
        assert checkpoints.latest() == ("vae", 1)
        # The run goes on and reaches the damaged step again.
        checkpoints.save("vae", make_state(2))
        checkpoints.wait()
        assert checkpoints.steps("vae") == [1, 2]
        assert host(checkpoints.restore("vae", 2, abstract(state))) == host(make_state(2))
        checkpoints.save("vae", make_state(3), validation_loss=0.1)
        checkpoints.save("vae", make_state(4))
        checkpoints.wait()
        assert sorted(os.listdir(copied / "checkpoints" / "vae")) == ["2.damaged", "3", "4", "notes.txt"]
        assert sums(kept) == as_it_was


def test_fields_of_a_state_are_read_alone(tmp_path):
    state = make_state(3, ema=True)
    with Checkpoints(tmp_path, ["vae"]) as checkpoints:
        checkpoints.save("vae", state)
        checkpoints.wait()
        everything = checkpoints.restore("vae", 3)
        some = checkpoints.restore("vae", 3, parts=("params", "ema"))
    assert {"opt_state", "key", "step"} <= set(everything)
    assert set(some) == {"params", "ema"}
    assert host(some) == host({part: everything[part] for part in some})
    assert host(some) == host({"params": state.params, "ema": state.ema})


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_where_none_is_intact_all_stays_as_it_is(copied, damage):
    for step in (1, 2):
        damage(step_folder(copied, step))
    before = sums(copied)
    with Checkpoints(copied, ["gan", "vae"]) as checkpoints:
        for refuse in (checkpoints.check, lambda: checkpoints.resume(lambda phase: pytest.fail("restored"))):
            with pytest.raises(DamagedRun, match=f"^{copied}/checkpoints has no checkpoint that is intact") as error:
                refuse()
            assert "restore one from a copy, or, to begin anew, move" in str(error.value)
            assert f"Of the newest: {step_folder(copied, 2)} " in str(error.value)
        assert sums(copied) == before


def test_a_damaged_checkpoint_that_a_save_meets_is_kept(copied, caplog):
    with Checkpoints(copied, ["vae"]) as checkpoints:
        half_delete(step_folder(copied, 1))
        as_it_was = sums(step_folder(copied, 1))
        checkpoints.save("vae", make_state(3))
        checkpoints.wait()
        assert checkpoints.steps("vae") == [2, 3]
        assert sums(step_folder(copied, "1.damaged")) == as_it_was
        assert f"It is kept as {step_folder(copied, '1.damaged')}" in caplog.text


def test_a_run_that_was_killed_in_its_first_save_begins_anew(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, Checkpoints(tmp_path, ["gan", "vae"]) as checkpoints:
        patch.setattr("mvae_jax.train.manifests.write", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        checkpoints.save("gan", make_state(1))
        with pytest.raises(OSError, match="killed"):
            checkpoints.wait()
    assert os.listdir(tmp_path / "checkpoints" / "gan") == ["1.saving"]
    with Checkpoints(tmp_path, ["gan", "vae"]) as checkpoints:
        checkpoints.check()
        assert checkpoints.resume(lambda phase: pytest.fail("nothing to restore")) is None
        assert checkpoints.latest() is None
        checkpoints.save("vae", make_state(2))
        checkpoints.wait()
        assert os.listdir(tmp_path / "checkpoints" / "gan") == []


def other_run(workdir, tmp_path):
    """Puts step 3 of another run into a workdir; returns what the error says."""
    Workdir(tmp_path / "other").configure({"model": "toy"})
    save_all(tmp_path / "other", [(3, None, False)]).close()
    shutil.copytree(step_folder(tmp_path / "other", 3), step_folder(workdir, 3))
    return f"vae/3 is of another run than {workdir}/config.json"


def other_step(workdir, tmp_path):
    shutil.copytree(step_folder(workdir, 2), step_folder(workdir, 3))
    return "vae/3 holds step 2 of phase vae"


def other_phase(workdir, tmp_path):
    save_all(workdir, [(3, None, False)], phase="gan").close()
    step_folder(workdir, 3, "gan").rename(step_folder(workdir, 3))
    return "vae/3 holds step 3 of phase gan"


@pytest.mark.parametrize("bring", [other_run, other_step, other_phase])
def test_every_reader_refuses_what_is_another_checkpoint(copied, tmp_path, bring, caplog):
    message = bring(copied, tmp_path)
    folder, target = step_folder(copied, 3), abstract(make_state())
    wanted = {"params": target.params, "model_state": {}}
    with Checkpoints(copied, ["vae"]) as checkpoints:
        assert checkpoints.latest() == ("vae", 3)
        readers = {
            "restore": lambda: checkpoints.restore("vae", 3, target),
            "restore as it is": lambda: checkpoints.restore("vae", 3),
            "metadata": lambda: checkpoints.metadata("vae", 3),
            "best": lambda: checkpoints.best("vae"),
            "find": lambda: find(copied),
            "find itself": lambda: find(folder),
            "check_parts": lambda: check_parts(folder, wanted),
            "load_parts": lambda: load_parts(folder, wanted),
        }
        for reader, read in readers.items():
            with pytest.raises(DamagedCheckpoint, match=message):
                pytest.fail(f"{reader} believed it: {read()}")
        assert checkpoints.resume(lambda phase: target)[:2] == ("vae", 2)
        assert re.search(f"{message}.* It is kept as {folder}.damaged", caplog.text)
    assert find(copied) == step_folder(copied, 2)


def test_a_workdir_with_the_settings_of_another_run_is_refused(copied, tmp_path):
    Workdir(tmp_path / "other").configure({"model": "toy"})
    shutil.copy(tmp_path / "other" / "config.json", copied)
    before = sums(copied)
    with Checkpoints(copied, ["vae"]) as checkpoints, pytest.raises(DamagedRun, match=r"of another run than .*config"):
        checkpoints.resume(lambda phase: pytest.fail("restored"))
    assert sums(copied) == before


def test_a_run_whose_settings_are_lost_is_read_and_not_gone_on_with(copied):
    (copied / "config.json").unlink()
    with Checkpoints(copied, ["vae"]) as checkpoints:
        assert int(checkpoints.restore("vae", 2, abstract(make_state())).step) == 2
        with pytest.raises(DamagedRun, match=r"config.json is missing, .*: restore it from a copy, or choose another"):
            checkpoints.check()
    assert find(copied) == step_folder(copied, 2)


def as_an_earlier_version_wrote(workdir):
    """Takes the run's id from all its files."""
    for path in [workdir / "config.json", *workdir.glob("checkpoints/*/*/manifest.json")]:
        content = json.loads(path.read_text())
        del content["run_id"], content["sha256"]
        if path.name == "manifest.json":
            body = json.dumps(content, sort_keys=True).encode()
            content["sha256"] = hashlib.sha256(body).hexdigest()
        path.write_text(json.dumps(content))


def test_checkpoints_of_earlier_versions_are_read(copied):
    as_an_earlier_version_wrote(copied)
    target = abstract(make_state())
    for configured in (False, True):
        if configured:  # the run goes on with this version
            Workdir(copied).configure({"model": "toy"})
        with Checkpoints(copied, ["vae"]) as checkpoints:
            assert "run_id" not in checkpoints.metadata("vae", 2)
            assert host(checkpoints.restore("vae", 2, target)) == host(make_state(2))
            assert checkpoints.best("vae") == 1
            assert find(copied) == step_folder(copied, 2)
            assert check_parts(step_folder(copied, 2), {"params": target.params, "model_state": {}})
            assert checkpoints.resume(lambda phase: target)[:2] == ("vae", 2)
            checkpoints.check()
    with save_all(copied, [(3, 0.6, False)]) as checkpoints:
        assert checkpoints.metadata("vae", 3)["run_id"] == json.loads((copied / "config.json").read_text())["run_id"]
        assert checkpoints.best("vae") == 1


def test_failed_save_raises_at_the_next_call(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, ["vae"])
    with monkeypatch.context() as patch:
        patch.setattr("mvae_jax.train.manifests.write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        checkpoints.save("vae", make_state(1))
        with pytest.raises(OSError, match="disk full"):
            checkpoints.wait()
    assert checkpoints.latest() is None
    checkpoints.save("vae", make_state(1))
    checkpoints.close()
    assert checkpoints.latest() == ("vae", 1)


def test_a_save_outlasts_a_long_sleep(tmp_path, monkeypatch):
    """A clock that jumps by a week is all that a process sees of having been stopped for that long."""
    asleep, clock = 0.0, time.time
    monkeypatch.setattr(time, "time", lambda: clock() + asleep)
    state = make_state(1, width=400_000)  # takes longer to write than the clock to jump
    with Checkpoints(tmp_path, ["vae"]) as checkpoints:
        saving = checkpoints.save("vae", state)
        asleep = 7 * 24 * 3600.0
        assert not saving.done()
        saving.result()
        assert host(checkpoints.restore("vae", 1, abstract(state))) == host(state)


def test_a_save_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("mvae_jax.train.checkpoint._PATIENCE", 2)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=f"^{tmp_path} is not written after 2 s: see whether its disk"):
        _finish(Future(), tmp_path)
    assert time.monotonic() - begin == pytest.approx(2, abs=1.5)


@pytest.mark.parametrize("failure", [TimeoutError("Connection timed out: '/disk'"), OSError("No space left")])
def test_a_save_that_fails_says_why(tmp_path, failure):
    """A network's disk may give a timeout of its own."""
    failed = Future()
    failed.set_exception(failure)
    with pytest.raises(type(failure)) as error:
        _finish(failed, tmp_path)
    assert error.value is failure


@pytest.mark.parametrize(
    ("phases", "keep", "message"), [(["a/b"], 2, "phase name 'a/b'"), ([".."], 2, "'..'"), (["a"], 0, "keep is 0")]
)
def test_impossible_arguments_are_refused(tmp_path, phases, keep, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path, phases, keep=keep)


def test_unknown_phase_is_refused(saved):
    with Checkpoints(saved, ["vae"]) as checkpoints, pytest.raises(ValueError, match="unknown phase 'gan'"):
        checkpoints.restore("gan", 1, abstract(make_state()))


SAVER = textwrap.dedent("""
    import collections
    import sys
    import jax
    import jax.numpy as jnp
    from mvae_jax.train.checkpoint import Checkpoints

    State = collections.namedtuple("State", "step skipped weights")
    target = State(jnp.int32(0), jnp.int32(0), {str(i): jnp.zeros(50_000) for i in range(8)})
    with Checkpoints(sys.argv[1], ["vae"], keep=1) as checkpoints:
        resumed = checkpoints.resume(lambda phase: target)
        step, state = (0, target) if resumed is None else resumed[1:]
        assert all((weights == step).all() for weights in state.weights.values()), "mixed states"
        assert int(state.step) == step
        print("from", step, flush=True)
        while True:
            step += 1
            weights = jax.tree.map(lambda array: jnp.full_like(array, step), target.weights)
            checkpoints.save("vae", State(jnp.int32(step), jnp.int32(0), weights))
            print("saving", step, flush=True)
""")


def test_a_checkpoint_is_on_the_disk_before_it_counts(tmp_path, to_disk):
    save_all(tmp_path, [(1, None, False)]).close()
    folder = step_folder(tmp_path, 1)
    saving = folder.with_name("1.saving")
    before = to_disk[: to_disk.index(("replace", str(saving / "manifest.json")))]
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    payload = {str(saving / path) for path in files}
    assert payload <= {path for event, path in before if event == "fsync"}
    assert payload


def test_a_kill_at_any_moment_leaves_a_checkpoint_to_go_on_from(tmp_path):
    rng = np.random.default_rng(3)
    announced = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SAVER, tmp_path], stdout=subprocess.PIPE, text=True)
        began = int(process.stdout.readline().split()[1])
        # When the save of a step is announced, the one before it is complete.
        assert announced - 1 <= began <= announced
        lines = iter(process.stdout.readline, "")
        for _ in range(int(rng.integers(2, 5))):
            announced = int(next(lines).split()[1])
        try:
            process.wait(timeout=rng.uniform(0.0, 0.08))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        announced = max([announced, *(int(line.split()[1]) for line in lines)])
        process.stdout.close()
    with Checkpoints(tmp_path, ["vae"]) as checkpoints:
        assert announced - 1 <= checkpoints.latest()[1] <= announced
