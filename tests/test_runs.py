"""Models trained and loaded in one line: the same bits whenever it is stopped, or an error that says what is wrong."""

import dataclasses
import functools
import inspect
import json
import os
import pydoc
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import zoo
from jax.sharding import PartitionSpec

from mvae_jax import runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.models import ZOO, Entry, multimodal, multimodal_vaes
from mvae_jax.train import loop
from mvae_jax.train import state as states
from mvae_jax.train.checkpoint import Checkpoints, DamagedCheckpoint
from mvae_jax.train.config_file import DamagedRun
from mvae_jax.train.devices import place
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interrupted, Interruption
from mvae_jax.train.workdir import Workdir, WorkdirBusy

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
        "shared": ((z, z),),
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
    entry = Entry(ToyConfig, build=lambda config: model, phases=lambda config, steps_per_epoch: phases)
    monkeypatch.setitem(runs.ZOO, "toy", entry)
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


def damaged_manifest(folder):
    path = folder / "checkpoints/alignment/6/manifest.json"
    path.write_text(path.read_text().replace('"skipped": 0', '"skipped": 1'))


def lost_manifest(folder):
    (folder / "checkpoints/alignment/6/manifest.json").unlink()


def other_step(folder):
    shutil.copytree(folder / "checkpoints/alignment/6", folder / "checkpoints/alignment/9")


def other_run(folder):
    (folder / "config.json").unlink()
    Workdir(folder).configure(SETTINGS)


def settings(**changes):
    """A change of the settings that is meant."""

    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": None, **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "arguments", "kind", "message"),
    [
        (shutil.rmtree, {}, FileNotFoundError, r"run/config\.json does not exist; expected the workdir of a run"),
        (no_checkpoint, {}, FileNotFoundError, "run has no checkpoint of any phase yet. Wait until"),
        (None, {"phase": "adversarial"}, FileNotFoundError, "run has no checkpoint of adversarial yet"),
        (None, {"phase": "unimodal", "best": True}, FileNotFoundError, "run has no best checkpoint of unimodal yet"),
        (None, {"phase": "alignement"}, ValueError, "no phase 'alignement'; its phases are unimodal, alignment, adv"),
        (damaged, {}, DamagedCheckpoint, r"alignment/6 is damaged: state/.* \(changed\)"),
        (damaged_manifest, {}, DamagedCheckpoint, r"alignment/6 has a damaged manifest.json: restore it from a copy"),
        (damaged_manifest, {"best": True}, DamagedCheckpoint, "alignment/6 has a damaged manifest"),
        (lost_manifest, {}, DamagedCheckpoint, r"alignment/6 has no manifest.json: restore it from a copy"),
        (other_step, {}, DamagedCheckpoint, "alignment/9 holds step 6 of phase alignment"),
        (other_run, {}, DamagedCheckpoint, r"alignment/6 is of another run than .*run/config\.json"),
        (settings(sha256="0"), {}, DamagedRun, r"run/config\.json was changed since the run wrote it"),
        (
            settings(model="vaegan"),
            {},
            ValueError,
            r"config\.json is of the model 'vaegan'; this version has .*multimodal",
        ),
        (
            settings(config={"model": {"width": 3}}),
            {},
            ValueError,
            r"config\.model\.width = 3, which this version does not have: go on with .* by ignore_removed=True",
        ),
        (settings(config=3), {}, ValueError, r"config\.json is not that of a run of a model of the zoo"),
        (lambda folder: (folder / "config.json").write_text("{"), {}, ValueError, r"config\.json is not that of a run"),
    ],
)
def test_errors_say_what_is_wrong(copied, change, arguments, kind, message):
    if change:
        change(copied)
    with pytest.raises(kind, match=message):
        runs.load(copied, **arguments)


def test_flipped_bits_of_the_settings_are_refused_or_change_nothing(copied):
    path, rng = copied / "config.json", np.random.default_rng(0)
    content, expected = path.read_bytes(), runs.read_settings(copied)
    refused = same = 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            same += runs.read_settings(copied) == expected
        except ValueError as error:
            refused += str(error).startswith(str(path))
    assert (refused + same, refused > 290) == (300, True)


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

    def replaced(self, phase, step, **options):
        monkeypatch.undo()
        shutil.rmtree(copied / "checkpoints" / phase / str(step))
        with Checkpoints(copied, PHASES) as trainer:
            trainer.save("alignment", make_state(7), validation_loss=0.1)
        return restore(self, phase, step, **options)

    monkeypatch.setattr(Checkpoints, "restore", replaced)
    assert runs.load(copied, best=True).step == 7


def test_no_checkpoint_of_a_gan_is_the_best(tmp_path):
    settings = {"model": "gan", "config": {"model": dataclasses.asdict(zoo.GAN), "seed": 5}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"no best checkpoint of phase training, .* trains too\. Leave out"):
        runs.load(tmp_path, phase="training", best=True)


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
    expected = model.sample(params, state, jax.random.key(1), batch["attributes"])
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert drawn.shape == (4, *zoo.CVAE.image_size, 3)


# --- what a run shows of itself -------------------------------------------------------------------------------------


def test_functions_are_completed_and_explained(workdir):
    run = runs.load(workdir)
    assert set(run.functions) <= set(dir(run))
    assert {"load", "encode_attributes", "params", "phase"} - set(dir(run)) == {"load"}
    plain = {"encode": MODEL.encode, "decode": MODEL.decode, "sample": MODEL.sample, **MODEL.functions}
    for name, function in run.functions.items():
        names = list(inspect.signature(plain[name]).parameters)
        assert list(inspect.signature(function).parameters) == names[2:]
        assert function.__name__ == name
        described = getattr(plain[name], "func", plain[name])
        assert function.__doc__ == (inspect.getdoc(described) or runs._MEANINGS.get(name))
    page = pydoc.render_doc(run.sample, renderer=pydoc.plaintext)
    assert "sample(key: 'jax.Array', count: 'int')" in page
    assert "from the prior" in page
    assert repr(run).startswith("<run of multimodal: phase alignment, step 6; functions decode, decode_attributes")


def test_a_partial_function_is_explained_by_what_it_is_of():
    def scaled(scale, params, state, x):
        """Scales x."""
        return scale * params["a"]["w"] * x

    model = dataclasses.replace(toy.build(), functions={"scaled": functools.partial(scaled, 3.0)})
    run = runs.Run(model, None, {"a": {"w": 2.0}}, {}, "first", 0, {})
    assert (run.scaled.__doc__, list(inspect.signature(run.scaled).parameters)) == ("Scales x.", ["x"])
    assert float(run.scaled(x=5.0)) == 30.0
    assert run.sample if "sample" in run.functions else "sample" not in dir(run)


# --- training -------------------------------------------------------------------------------------------------------

VAE = ZOO["vae"].config(
    image_size=4, channels=1, network="dense", widths=(8,), latent_size=2, epochs=2, batch_size=8, learning_rate=1e-2
)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
OFTEN = loop.Settings(checkpoint_every=1, log_every=1)
STEPS = 2 * (36 // 8)  # a tenth of the images is validated on


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "runs" / "vae"
    return folder, runs.train(folder, "vae", VAE, {"image": IMAGES}, seed=3)


def test_what_is_trained_is_what_is_loaded(trained):
    folder, run = trained
    loaded = runs.load(folder)
    assert (run.phase, run.step, run.config) == (loaded.phase, loaded.step, loaded.config) == ("training", STEPS, VAE)
    assert run.settings == loaded.settings
    assert_equal((run.params, run.model_state), (loaded.params, loaded.model_state))
    assert run.sample(jax.random.key(0), 3).shape == (3, 4, 4, 1)
    content = json.loads((folder / "config.json").read_text())
    assert len(content.pop("run_id")) == 32
    assert len(content.pop("sha256")) == 64
    assert content == {
        "format": 2,
        "model": "vae",
        "config": {"seed": 3, "model": json.loads(json.dumps(dataclasses.asdict(VAE)))},
        "data_sha256": runs.plan("vae", VAE, {"image": IMAGES}, seed=3).data.sha256(),
    }


@pytest.mark.parametrize("axis", [jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto])
def test_a_mesh_that_the_caller_has_set_changes_nothing(axis, trained, tmp_path):
    key, images = jax.random.key(0), (IMAGES / 127.5 - 1).astype(np.float32)
    with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(axis,))):
        run = runs.train(tmp_path, "vae", VAE, {"image": IMAGES}, seed=3)
        split = jax.device_put(images, PartitionSpec("data"))
        inside = run.sample(key, 4), run.encode(split), runs.load(tmp_path).encode(split)
    assert_equal(trained[1].params, run.params)
    outside = run.sample(key, 4), *[run.encode(images)] * 2
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), outside, inside)


def test_training_is_the_loops_on_the_same_splits(trained, tmp_path):
    order = np.random.Philox(np.random.SeedSequence(0, spawn_key=())).random_raw(40).argsort(kind="stable")
    held_out = sorted(order[:4])
    train = Split({"image": IMAGES[[index for index in range(40) if index not in held_out]]})
    data = Splits(train, Split({"image": IMAGES[held_out]}), train.first(0), (), {})
    module = ZOO["vae"]
    state = loop.fit(
        module.build(VAE),
        module.phases(VAE, 4),
        lambda phase: data.batches(4, 8, 3, phase.start),
        workdir=tmp_path / "loop",
        seed=3,
        validation=data.validation.arrays,
    )
    assert_equal(state.params, trained[1].params)
    same = runs.train(tmp_path / "splits", "vae", VAE, data, seed=3)
    assert_equal(same.params, trained[1].params)
    validations = [
        [record["loss"] for record in read_metrics(folder / "metrics.jsonl") if record["split"] == "validation"]
        for folder in (tmp_path / "loop", tmp_path / "splits", trained[0])
    ]
    assert validations[0] == validations[1] == validations[2] != []


def stop_halfway(folder):
    """A run that was stopped after its first epoch."""
    assert stop(folder, "vae", VAE, {"image": IMAGES}) == [STEPS // 2]
    assert STEPS // 2 <= runs.load(folder).step < STEPS


def stop(folder, model, config, arrays):
    """Stops a run at its first validation; the steps at which there was one."""
    steps = []

    def end_process(state, phase, writer):
        steps.append(int(state.step))
        os.kill(os.getpid(), signal.SIGTERM)

    with Interruption() as interruption, pytest.raises(Interrupted) as end:
        runs.train(
            folder,
            model,
            config,
            arrays,
            seed=3,
            settings=OFTEN,
            interruption=interruption,
            on_validation=end_process,
        )
    assert end.value.code == 143
    return steps


def test_the_same_call_goes_on_to_the_same_bits(trained, tmp_path):
    folder, (_, expected) = tmp_path / "run", trained
    stop_halfway(folder)
    assert_equal(expected.params, runs.train(folder, "vae", VAE, {"image": IMAGES}, seed=3).params)
    before = (folder / "metrics.jsonl").read_bytes()
    assert_equal(expected.params, runs.train(folder, "vae", VAE, {"image": IMAGES}, seed=3).params)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_hidden_attributes_and_changed_images_are_the_same_when_a_run_goes_on(tmp_path):
    config = dataclasses.replace(
        zoo.MULTIMODAL,
        unknown_attributes=0.4,
        augment=True,
        unimodal=dataclasses.replace(zoo.MULTIMODAL.unimodal, epochs=0),
        alignment=dataclasses.replace(zoo.MULTIMODAL.alignment, epochs=2),
        adversarial=dataclasses.replace(zoo.MULTIMODAL.adversarial, epochs=0),
    )
    arrays = zoo.faces(20)
    whole = runs.train(tmp_path / "whole", "multimodal", config, arrays, seed=3)
    assert stop(tmp_path / "stopped", "multimodal", config, arrays) == [2]
    assert_equal(whole.params, runs.train(tmp_path / "stopped", "multimodal", config, arrays, seed=3).params)


IN_FLOAT64 = """
import sys
import jax
import numpy as np
from test_runs import IMAGES, VAE
from mvae_jax import runs
assert jax.numpy.ones(1).dtype == "float64"
for folder in sys.argv[1:]:
    run = runs.train(folder, "vae", VAE, {"image": IMAGES}, seed=3)
codes = run.encode(np.linspace(-1, 1, 32).reshape(2, 4, 4, 1))
decoded, drawn = run.decode(jax.numpy.ones((2, VAE.latent_size))), run.sample(jax.random.key(0), 3)
np.savez(folder + "/out", mean=codes.mean, logvar=codes.logvar, decoded=decoded, drawn=drawn)
"""


def test_the_flag_of_float64_changes_nothing(trained, tmp_path):
    """A run goes on with it, or is trained with it, to the same bits, and its functions return the same."""
    folders = [tmp_path / "stopped", tmp_path / "whole"]
    stop_halfway(folders[0])
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", IN_FLOAT64, *folders], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = trained[1]
    for folder in folders:
        assert_equal(run.params, runs.load(folder).params)
    mean, logvar = run.encode(np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4, 1))
    expected = {"mean": mean, "logvar": logvar, "decoded": run.decode(jnp.ones((2, VAE.latent_size)))}
    expected["drawn"] = run.sample(jax.random.key(0), 3)
    with np.load(folders[1] / "out.npz") as got:
        for name, value in expected.items():
            assert got[name].dtype == value.dtype == np.float32
            np.testing.assert_array_equal(got[name], value)


def test_a_longer_last_phase_is_an_extension(trained, tmp_path):
    folder, longer = tmp_path / "run", dataclasses.replace(VAE, epochs=3)
    shutil.copytree(trained[0], folder)
    with pytest.raises(ValueError, match=r"config.model.epochs: 2 before, 3 now"):
        runs.train(folder, "vae", longer, {"image": IMAGES}, seed=3)
    run = runs.train(folder, "vae", longer, {"image": IMAGES}, seed=3, extend=True)
    whole = runs.train(tmp_path / "whole", "vae", longer, {"image": IMAGES}, seed=3)
    assert run.step == 12
    assert_equal(whole.params, run.params)
    falling = dataclasses.replace(VAE, optimizer="bigan")
    with pytest.raises(ValueError, match=r"'training' cannot be extended: the learning rate of encoder, decoder is a"):
        runs.train(tmp_path / "other", "vae", falling, {"image": IMAGES}, extend=True)
    assert not (tmp_path / "other").exists()


def test_a_run_starts_from_another(trained, tmp_path):
    slow = dataclasses.replace(VAE, epochs=1, learning_rate=1e-9)
    data = {"image": IMAGES}
    for start in (trained[0], trained[0] / "checkpoints" / "training" / str(STEPS)):
        run = runs.train(tmp_path / start.name, "vae", slow, data, start_from=start)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained[1].params, run.params)
        assert run.settings["config"]["start_from"] == str(start)
    with pytest.raises(ValueError, match=r"config.start_from: .* before, absent now"):
        runs.train(tmp_path / start.name, "vae", slow, data)
    wider = dataclasses.replace(slow, latent_size=3)
    with pytest.raises(ValueError, match=r"does not fit this model; 5 arrays differ"):
        runs.train(tmp_path / "wider", "vae", wider, data, start_from=trained[0])
    assert not (tmp_path / "wider").exists()


def test_a_run_of_the_first_format_is_loaded_but_not_trained_on_and_a_later_one_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    path = folder / "config.json"
    old = json.loads(path.read_text()) | {"sha256": None}
    del old["format"]
    path.write_text(json.dumps(old))
    assert runs.load(folder).step == STEPS
    with pytest.raises(ValueError, match=r"holds a run that another version began \(format 1 of its config.json"):
        runs.train(folder, "vae", VAE, {"image": IMAGES}, seed=3)
    assert json.loads(path.read_text()) == old
    settings(format=3)(folder)
    with pytest.raises(ValueError, match=r"has format 3; this version reads up to 2: install a later one"):
        runs.load(folder)


def test_attributes_of_arrays_are_those_of_the_config(tmp_path):
    config = dataclasses.replace(zoo.ATTRIBUTE_CLASSIFIER, attributes=("dark", "light"), image_size=8, widths=(4,))
    arrays = zoo.faces(24, 8, attributes=2)
    run = runs.train(tmp_path, "attribute_classifier", config, {**arrays, "attributes": arrays["attributes"] > 0})
    assert run.step == 22 // 8
    assert run.logits(jnp.zeros((1, 8, 8, 3))).shape == (1, 2)
    named = runs.plan("vae", dataclasses.replace(VAE, image_size=8, channels=3), arrays).data
    assert named.attributes == ("attribute_0", "attribute_1")


ATTRIBUTES = np.zeros((40, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vea"}, "model is 'vea'; did you mean 'vae'?"),
        ({"model": "transformer!"}, "the zoo has multimodal, "),
        ({"config": ZOO["gan"].config()}, "GANConfig(image_size"),
        (
            {"config": None},
            "expected a mvae_jax.models.autoencoders.variational.VAEConfig, as 'vae' has it",
        ),
        ({"seed": -1}, "seed is -1; expected a number from 0 to 2**32 - 1."),
        ({"data": {"image": IMAGES / 255}}, "'image' is float64 of shape (40, 4, 4, 1), expected uint8 [N, H, W, C]."),
        ({"data": IMAGES}, "data are a ndarray; expected arrays by name, {'image': uint8 [N, H, W, C]}, or what"),
        ({"data": {"image": IMAGES[..., 0]}}, "'image' is uint8 of shape (40, 4, 4), expected uint8 [N, H, W, C]."),
        ({"data": {"pictures": IMAGES}}, "the data have 'pictures'; the model learns from 'image' as well"),
        ({"data": {"image": IMAGES[:8]}}, "batch_size is 8, expected between 1 and the 7 examples of the split"),
        ({"data": {"image": IMAGES[:0]}}, "no image"),
        ({"data": {"image": IMAGES, "label": np.arange(39)}}, "have lengths {'image': 40, 'label': 39}"),
        ({"data": {"image": IMAGES.repeat(2, 1)}}, "has shape (8, 8, 4, 1); expected (B, 4, 4, 1)"),
        ({"data": {"image": IMAGES, "attributes": ATTRIBUTES + 3}}, "'attributes' hold 3; expected 0 or 1"),
        ({"settings": loop.Settings(transform="pmap", shard_state=True)}, "not work with a sharded state"),
        ({"start_from": "nowhere"}, "nowhere"),
        (
            {"model": "attribute_classifier", "config": zoo.ATTRIBUTE_CLASSIFIER},
            ", and the data have none; expected the same in the same order",
        ),
        (
            {
                "model": "attribute_classifier",
                "config": zoo.ATTRIBUTE_CLASSIFIER,
                "data": {"image": IMAGES, "attributes": ATTRIBUTES},
            },
            "'attributes' of the train split has shape (36, 2), expected (36, 10)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_trained_is_refused_before_there_is_a_folder(changes, message, tmp_path):
    arguments = {"model": "vae", "config": VAE, "data": {"image": IMAGES}, **changes}
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        runs.train(tmp_path / "run", **arguments)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_or_of_another_run_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    with Workdir(folder).lock(), pytest.raises(WorkdirBusy, match="is in use by pid"):
        runs.train(folder, "vae", VAE, {"image": IMAGES}, seed=3)
    with pytest.raises(ValueError, match=r"config.seed: 3 before, 4 now"):
        runs.train(folder, "vae", VAE, {"image": IMAGES}, seed=4)
    with pytest.raises(ValueError, match=r"data_sha256: .* before"):
        runs.train(folder, "vae", VAE, {"image": IMAGES[::-1]}, seed=3)


def test_attributes_that_are_missing_may_be_nan():
    attributes, mask = np.float32([[0, 1], [np.nan, np.nan], [1, 1]]), np.float32([1, 0, 1])
    data = runs.split({"attributes": attributes, "present/attributes": mask})
    assert len(data.train) + len(data.validation) == 3
    with pytest.raises(ValueError, match="'attributes' hold nan; expected 0 or 1"):
        runs.split({"attributes": attributes})


SOUNDS = multimodal_vaes.MoPoEConfig(
    modalities=(
        multimodal_vaes.Modality("sound", (4,), network="dense", widths=(5,)),
        multimodal_vaes.Modality("word", (3,), "categorical", network="dense", widths=(5,)),
        multimodal_vaes.Modality("bits", (2,), "bernoulli", network="dense", widths=(5,)),
        multimodal_vaes.Modality("second", (8, 8, 3), network="dense", widths=(5,)),
    ),
    batch_size=4,
)


def sounds(**changes):
    """Modalities of which none is an image called so, and of which the first example lacks all that may be missing."""
    masks = {f"present/{name}": np.float32(np.arange(20) > 0) for name in ("sound", "word", "bits")}
    values = {
        "sound": np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32),
        "word": np.eye(3, dtype=np.float32)[np.arange(20) % 3],
        "bits": np.float32(np.arange(40).reshape(20, 2) % 2),
        "second": np.zeros((20, 8, 8, 3), np.uint8),
    }
    for name in ("sound", "word", "bits"):
        values[name][0] = np.nan
    return {**values, **masks, **changes}


def test_a_model_of_any_modalities_is_planned_without_an_image():
    assert "  training: steps 0 to 200, 4 examples" in str(runs.plan("mopoe", SOUNDS, sounds())).splitlines()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second": np.zeros((20, 8, 8, 3), np.float32)}, "'second' is float32 .*; expected uint8 in"),
        ({"word": np.eye(3)[np.arange(20) % 3] * 255}, "'word' holds 255; expected one-hot rows"),
        ({"word": np.arange(20) % 3}, r"'word' is int64 of shape \(18,\); expected one-hot rows"),
        ({"bits": np.full((20, 2), -0.5)}, r"'bits' holds -0.5; expected values in \[0, 1\]"),
        ({"present/sound": np.ones(20, np.float32)}, "'sound' holds nan; expected finite numbers"),
    ],
)
def test_values_that_a_likelihood_is_not_for_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        runs.plan("mopoe", SOUNDS, sounds(**changes))


def test_a_plan_says_parameters_memory_phases_and_data():
    batch = toy.TRAIN.take(range(4))
    lines = runs.describe(toy.build(), toy.phases(), batch, {"source": "noise", "images": 14}).splitlines()
    vae, critic, frozen = 16 * 6 + 6 + 3 * 16 + 16, 16 + 1, 16
    assert [line for line in lines if not line.startswith(("    ", "memory"))] == [
        "parameters:",
        f"  vae: {vae}",
        f"  critic: {critic}",
        f"  frozen (frozen): {frozen}",
        "phases:",
        "  first: steps 0 to 6, 4 images of 64 px",
        "  second: steps 6 to 15, 4 images of 64 px",
        "data:",
        "  source: noise",
        "  images: 14",
    ]
    lines = str(runs.plan("vae", VAE, {"image": IMAGES})).splitlines()
    assert f"  training: steps 0 to {STEPS}, 8 images of 4 px" in lines
    assert "  counts: {'train': 36, 'validation': 4}" in lines


@pytest.mark.parametrize("value", ["image", "attributes"])
def test_models_that_need_all_values_refuse_data_in_which_some_are_missing(value):
    data = zoo.faces(24, zoo.CVAE.image_size)
    there = np.ones(24, np.float32)
    arrays = {**data, f"present/{value}": there}
    runs.plan("cvae", zoo.CVAE, arrays)  # a mask of ones is none
    there[::2] = 0
    with pytest.raises(
        ValueError, match=rf"{value} of \d+ of the \d+ examples for train are missing, .* 'cvae' needs all"
    ):
        runs.plan("cvae", zoo.CVAE, arrays)
