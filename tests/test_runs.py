"""A trained run in one line: what `load` gives is what was trained, or an error that says what is wrong."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import zoo

from mvae_jax import runs
from mvae_jax.models import multimodal
from mvae_jax.train import state as states
from mvae_jax.train.checkpoint import Checkpoints, DamagedCheckpoint
from mvae_jax.train.devices import place
from mvae_jax.train.workdir import Workdir

PHASES = ("unimodal", "alignment", "adversarial")
SETTINGS = {"model": "multimodal", "config": {"model": dataclasses.asdict(zoo.MULTIMODAL), "seed": 5}}
MODEL = multimodal.build(zoo.MULTIMODAL)


@functools.cache
def shapes():
    phase, batch = multimodal.phases(zoo.MULTIMODAL, 3)[0], zoo.faces(2)
    state = jax.eval_shape(lambda key: states.create(MODEL, phase, key, batch), jax.random.key(0))
    return state.params, state.model_state, state.opt_state


def make_state(step, ema=False):
    """What training would leave after some steps: random numbers in the right places."""
    rng = np.random.default_rng(step)
    params, model_state, opt_state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 0.3, leaf.shape), leaf.dtype), shapes()
    )
    return states.TrainState(
        step=jnp.int32(step),
        key=jax.random.key(5),
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        ema={"vae": jax.tree.map(lambda leaf: leaf / 2, params["vae"])} if ema else None,
        skipped=jnp.int32(0),
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run in its second phase: steps 3, then 4, 5 (the best) and 6; trained on four devices."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    Workdir(folder).configure(SETTINGS)
    placement = place(jax.devices()[:4])
    with Checkpoints(folder, PHASES) as checkpoints:
        checkpoints.save("unimodal", placement.replicate(make_state(3)), final=True)
        for step, loss in ((4, 0.5), (5, 0.2), (6, 0.3)):
            checkpoints.save("alignment", placement.replicate(make_state(step)), validation_loss=loss)
    return folder


@pytest.fixture
def copied(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "run")


def assert_equal(expected, got):
    assert jax.tree.structure(expected) == jax.tree.structure(got)
    jax.tree.map(np.testing.assert_array_equal, expected, got)


def test_a_loaded_run_is_the_run_that_was_trained(workdir):
    run, state = runs.load(workdir), make_state(6)
    assert (run.phase, run.step, run.config) == ("alignment", 6, zoo.MULTIMODAL)
    assert run.settings == json.loads(json.dumps(SETTINGS))
    assert_equal(state.params, run.params)
    assert_equal(state.model_state, run.model_state)
    assert {leaf.device for leaf in jax.tree.leaves(run.params)} == {jax.devices()[0]}


def test_functions_equal_those_of_the_model_in_memory(workdir):
    run, state = runs.load(workdir), make_state(6)
    memory = runs.Run.of(MODEL, zoo.MULTIMODAL, state, "alignment", SETTINGS)
    batch, z = zoo.faces(3), np.random.default_rng(0).normal(size=(3, zoo.MULTIMODAL.latent_size)).astype(np.float32)
    x, bits, key = batch["image"] / np.float32(127.5) - 1, batch["attributes"], jax.random.key(1)
    calls = {
        "encode": (x,),
        "decode": (z,),
        "sample": (key, 2),
        "encode_image": (x,),
        "encode_attributes": (bits,),
        "decode_image": (z,),
        "decode_attributes": (z,),
        "fuse": (x, bits),
    }
    assert set(run.functions) == set(calls)
    for name, arguments in calls.items():
        assert_equal(getattr(memory, name)(*arguments), getattr(run, name)(*arguments))
    for name in ("encode_attributes", "decode_attributes"):
        plain = MODEL.functions[name](state.params, state.model_state, *calls[name])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), plain, getattr(run, name)(*calls[name]))
    assert_equal(run.encode_image(x), run.encode(x))
    assert run.sample(key, 2).shape == (2, 32, 32, 3)
    with pytest.raises(AttributeError, match=r"no function 'encode_text'; it has decode, .*, sample"):
        _ = run.encode_text
    assert not hasattr(run, "_repr_html_")


@pytest.mark.parametrize(
    ("wanted", "phase", "step"),
    [
        ({"best": True}, "alignment", 5),
        ({"phase": "alignment"}, "alignment", 6),
        ({"phase": "unimodal"}, "unimodal", 3),
        ({"phase": "alignment", "best": True}, "alignment", 5),
    ],
    ids=str,
)
def test_phase_and_best_choose_the_checkpoint(workdir, wanted, phase, step):
    run = runs.load(workdir, **wanted)
    assert (run.phase, run.step) == (phase, step)
    assert_equal(make_state(step).params, run.params)


def test_relative_workdir_and_moving_average(copied, monkeypatch):
    state = make_state(7, ema=True)
    with Checkpoints(copied, PHASES) as checkpoints:
        checkpoints.save("adversarial", state)
    monkeypatch.chdir(copied.parent)
    for run in (runs.load("run"), runs.Run.of(MODEL, zoo.MULTIMODAL, state, "adversarial", {})):
        assert (run.phase, run.step) == ("adversarial", 7)
        assert_equal({**state.params, "vae": state.ema["vae"]}, run.params)


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    epochs: int = 1


def test_any_model_of_the_zoo_is_loaded(tmp_path, monkeypatch):
    def read(params, state, x):
        return x @ params["critic"]["kernel"] + state["vae"]["mean"].sum()

    model = dataclasses.replace(toy.build(), functions={"read": read})
    phases = toy.phases()[:1]
    module = types.SimpleNamespace(
        Config=ToyConfig, phases=lambda config, steps_per_epoch: phases, build=lambda config: model
    )
    monkeypatch.setitem(runs.ZOO, "toy", module)
    Workdir(tmp_path).configure({"model": "toy", "config": {"model": {"epochs": 7}}})
    state = states.create(model, phases[0], jax.random.key(2), dict(toy.TRAIN.arrays))
    with Checkpoints(tmp_path, ["first"]) as checkpoints:
        checkpoints.save("first", state)  # of step 0, as a run that starts from another has it
    run = runs.load(tmp_path)
    assert (run.phase, run.step, run.config, set(run.functions)) == ("first", 0, ToyConfig(7), {"read"})
    assert_equal(state.params, run.params)
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    np.testing.assert_allclose(run.read(x), x @ np.asarray(state.params["critic"]["kernel"]), rtol=1e-5)


def no_checkpoint(folder):
    shutil.rmtree(folder / "checkpoints")


def damaged(folder):
    for path in (folder / "checkpoints/alignment/6/state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")


def settings(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "arguments", "kind", "message"),
    [
        (shutil.rmtree, {}, FileNotFoundError, r"run/config\.json does not exist; expected the workdir of a run"),
        (no_checkpoint, {}, FileNotFoundError, "run has no checkpoint of any phase yet"),
        (None, {"phase": "adversarial"}, FileNotFoundError, "run has no checkpoint of adversarial yet"),
        (None, {"phase": "unimodal", "best": True}, FileNotFoundError, "run has no best checkpoint of unimodal yet"),
        (None, {"phase": "alignement"}, ValueError, "no phase 'alignement'; its phases are unimodal, alignment, adv"),
        (damaged, {}, DamagedCheckpoint, r"alignment/6 is damaged: state/.* \(changed\)"),
        (
            settings(model="vaegan"),
            {},
            ValueError,
            r"config\.json is of the model 'vaegan'; this version has .*multimodal",
        ),
        (settings(config={"model": {"width": 3}}), {}, ValueError, "Config has no field width: another version"),
        (settings(config=3), {}, ValueError, r"config\.json is not that of a run of a model of the zoo"),
        (lambda folder: (folder / "config.json").write_text("{"), {}, ValueError, r"config\.json is not that of a run"),
    ],
)
def test_errors_say_what_is_wrong(copied, change, arguments, kind, message):
    if change:
        change(copied)
    with pytest.raises(kind, match=message):
        runs.load(copied, **arguments)


LOADER = """
    import sys
    import jax
    from mvae_jax import runs
    run = runs.load(sys.argv[1])
    print(run.step, len(jax.devices()), float(sum(abs(leaf).sum() for leaf in jax.tree.leaves(run.params))))
"""


def test_a_run_of_four_devices_loads_where_there_is_one(workdir):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(LOADER), workdir]
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True, check=True)
    step, devices, size = done.stdout.split()
    assert (step, devices) == ("6", "1")
    expected = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(make_state(6).params))
    np.testing.assert_allclose(float(size), expected, rtol=1e-5)
    assert done.stderr == ""


TRAINER = """
    import itertools
    import sys
    import time
    import jax
    import jax.numpy as jnp
    from mvae_jax.train.checkpoint import Checkpoints
    from mvae_jax.train.state import TrainState
    from mvae_jax.train.workdir import Workdir
    with Workdir(sys.argv[1]).lock(), Checkpoints(sys.argv[1], ["unimodal", "alignment", "adversarial"]) as checkpoints:
        state = TrainState(**checkpoints.restore("alignment", 6))
        for step in itertools.count(7):
            params = jax.tree.map(lambda leaf: jnp.full_like(leaf, step), state.params)
            state = state.replace(step=jnp.int32(step), params=params)
            checkpoints.save("adversarial", state)
            print(step, flush=True)
            time.sleep(0.5)
"""


# Where the trainer deletes what is being read, Orbax gives up, and late callbacks of its readers find its event loop
# closed: they print that, nobody can catch it, and the load tries the next checkpoint.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_run_that_is_being_trained_can_be_loaded(copied):
    command = [sys.executable, "-c", textwrap.dedent(TRAINER), copied]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert [trainer.stdout.readline() for _ in range(2)] == ["7\n", "8\n"]
        steps = []
        for _ in range(4):
            run = runs.load(copied)
            assert {float(value) for leaf in jax.tree.leaves(run.params) for value in np.unique(leaf)} == {run.step}
            steps.append(run.step)
        assert trainer.poll() is None
        trainer.kill()
    assert 7 <= steps[0] < steps[-1]
    assert steps == sorted(steps)


def test_a_checkpoint_that_the_trainer_replaces_meanwhile_is_no_error(copied, monkeypatch):
    restore = Checkpoints.restore

    def replaced(self, phase, step):
        monkeypatch.undo()
        shutil.rmtree(copied / "checkpoints" / phase / str(step))
        with Checkpoints(copied, PHASES) as trainer:
            trainer.save("alignment", make_state(7), validation_loss=0.1)
        return restore(self, phase, step)

    monkeypatch.setattr(Checkpoints, "restore", replaced)
    assert runs.load(copied, best=True).step == 7


def test_rebuild_is_the_inverse_of_asdict():
    config = dataclasses.replace(zoo.MULTIMODAL, attributes=("young", "bald"), encoder_widths=(5,))
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert runs.rebuild(multimodal.Config(), values) == config
    assert runs.rebuild(config, {}) == config
    changed = runs.rebuild(config, {"unimodal": {"epochs": 9}})
    assert changed == dataclasses.replace(config, unimodal=dataclasses.replace(config.unimodal, epochs=9))
    with pytest.raises(ValueError, match="PhaseConfig has no field epoch:"):
        runs.rebuild(config, {"unimodal": {"epoch": 9}})


def test_a_conditional_model_samples_from_attributes():
    model, batch = zoo.TABLE["cvae"].model(), zoo.TABLE["cvae"].batch(4)
    params, state = model.init(jax.random.key(0), batch)
    run = runs.Run(model, zoo.CVAE, params, state, "training", 0, {})
    drawn = run.sample(jax.random.key(1), batch["attributes"])
    expected = model.functions["sample"](params, state, jax.random.key(1), batch["attributes"])
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert drawn.shape == (4, *zoo.CVAE.image_size, 3)
