"""The one runner, on an experiment that is as small as one can be: what all experiments have in common."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_lines import ROOT, assert_close, environment

from mvae_jax import experiment, runs
from mvae_jax.data import sources
from mvae_jax.data.formats import mnist
from mvae_jax.data.rendered import faces
from mvae_jax.eval import reconstruction
from mvae_jax.eval.batched import pixels, to_bytes
from mvae_jax.experiment import Measure, Member, PriorConfig, compare, listing, members, named, provenance
from mvae_jax.experiment.suites import priors
from mvae_jax.models import autoencoders
from mvae_jax.nets.torch_weights import read_tensors
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.workdir import Workdir
from mvae_jax.viz import grids

STEPS = 15  # an epoch: 1,500 digits, 100 at a time


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Two autoencoders of digits.

    Attributes:
        data: the digits.
        model: what both share.
        widths: of the wider one.
        shown: digits of the sheet.
        weights: a file that nothing is made of.
    """

    data: sources.Config = mnist.Config(source="digits")
    model: autoencoders.AutoencoderConfig = autoencoders.AutoencoderConfig(
        image_size=8, channels=1, network="dense", widths=(4,), latent_size=2, epochs=1, batch_size=100
    )
    widths: tuple[int, ...] = (6,)
    weights: str = dataclasses.field(default="", metadata=named.WEIGHTS)


def two(config, data):
    size = data.train["image"].shape[1]
    narrow = dataclasses.replace(config.model, image_size=size)
    wide = dataclasses.replace(narrow, widths=config.widths)
    return {"narrow": Member("autoencoder", narrow, config.seed), "wide": Member("autoencoder", wide, config.seed)}


def psnr(trained):
    x = pixels(trained.data.validation)
    return {
        label: {"psnr": float(reconstruction.psnr(x, run.decode(run.encode(x)[0])).mean())}
        for label, run in trained.runs.items()
    }


def sheet(trained, results):
    shown = trained.data.validation.first(8)
    decoded = {label: to_bytes(run.decode(run.encode(pixels(shown))[0])) for label, run in trained.runs.items()}
    return {"reconstructions": ("What comes back", grids.comparison({"original": shown["image"]} | decoded))}


EXPERIMENT = experiment.Experiment(
    name="two_autoencoders",
    title="Two autoencoders",
    description="Two autoencoders of digits.",
    presets={"small": Config()},
    data=(mnist.Config(source="digits"), faces.Config()),
    model="autoencoder",
    members=two,
    measures=(Measure("models", psnr, title="Reconstructions", text="Of digits.", words={"psnr": "PSNR, dB"}),),
    figures=(sheet,),
    notes=lambda config: ["Digits are small."],
    check_files=lambda config: {"weights": sorted(read_tensors(config.weights))[0]} if config.weights else {},
)


@dataclasses.dataclass(frozen=True)
class WithPriors(Config):
    """The same, with priors over the codes for whoever asks for them.

    Attributes:
        prior: over the codes.
    """

    prior: PriorConfig = PriorConfig(epochs=0)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own: status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def of_arguments(*arguments):
        try:
            experiment.run(EXPERIMENT, ["experiments/two_autoencoders.py", "--compilation-cache=", *arguments])
            status = 0
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return of_arguments


def test_a_run_that_is_finished_gets_priors_from_its_evaluation(run, tmp_path, monkeypatch):
    presets, figures = {"small": WithPriors()}, (sheet, priors.figures_of())
    monkeypatch.setitem(globals(), "EXPERIMENT", dataclasses.replace(EXPERIMENT, presets=presets, figures=figures))
    workdir = tmp_path / "runs" / "two_autoencoders"
    assert run()[0] == 0
    assert run("--evaluate")[0] == 0
    assert not (workdir / "narrow/latent_flow").exists()
    assert run("--evaluate", "--config.prior.epochs=1")[0] == 0
    for name in ("narrow", "wide"):
        assert runs.load(workdir / name / f"latent_flow/training_{STEPS}").config.latent_size == 2
        assert (workdir / f"evaluation/figures/priors_{name}.png").exists()
        assert runs.load(workdir / name).step == STEPS
    status, _, err = run("--evaluate", "--config.prior.epochs=2")
    assert (status, err.count("Traceback")) == (2, 0)
    assert "has a learned prior of 1 epochs; the settings ask for prior.epochs=2" in err


def test_all_members_are_trained_measured_drawn_and_reported(run, tmp_path):
    status, out, err = run()
    workdir = tmp_path / "runs" / "two_autoencoders"
    assert (status, out) == (0, ""), err
    settings = json.loads((workdir / "config.json").read_text())
    assert (settings["format"], settings["experiment"], settings["model"]) == (2, "two_autoencoders", "autoencoder")
    assert settings["config"]["data"] == {"source": "digits", "kind": mnist.Config(source="digits").kind}
    scores = json.loads((workdir / "scores.json").read_text())
    checkpoint = {"model": "autoencoder", "phase": "training", "step": STEPS}
    assert scores["checkpoints"] == {"narrow": checkpoint, "wide": checkpoint}
    for name, widths in (("narrow", (4,)), ("wide", (6,))):
        loaded = runs.load(workdir / name)
        assert loaded.config.widths == widths
        x = pixels(sources.load(Config().data).validation)
        error = np.square((np.asarray(loaded.decode(loaded.encode(x)[0])) - np.asarray(x)) / 2).mean((1, 2, 3))
        assert scores["models"][name]["psnr"] == pytest.approx(float((-10 * np.log10(error)).mean()), rel=1e-5)
        assert f"{name}: PSNR, dB {scores['models'][name]['psnr']:.4g}" in err
    assert json.loads((workdir / "finished.json").read_text()).keys() == {"finished", "scores", "provenance"}
    assert json.loads((workdir / "finished.json").read_text())["scores"] == scores
    report = (workdir / "report.html").read_text()
    for text in (
        "Two autoencoders: two_autoencoders",
        "Digits are small.",
        "PSNR, dB",
        "What comes back",
        "Of digits.",
    ):
        assert text in report
    assert "python experiments/two_autoencoders.py --compilation-cache=" in report
    assert report.count("<img") == 1
    # Again, changed, and measured anew.
    status, out, err = run()
    assert (status, out) == (0, f"{workdir} is finished; its report is {workdir / 'report.html'}.\n")
    status, out, err = run("--config.seed=43", "--config.model.latent_size=3")
    assert (status, out) == (2, "")
    assert "config.seed: 42 before, 43 now" in err
    assert "config.model.latent_size: 2 before, 3 now" in err
    status, out, err = run("--evaluate")
    assert status == 0
    assert_close(json.loads((workdir / "evaluation" / "scores.json").read_text()), scores)
    assert f"Measured at step {STEPS}, in phase training." in (workdir / "evaluation" / "report.html").read_text()
    # The end of a phase, in a folder of its own.
    assert run("--evaluate", "--phase=training")[0] == 0
    assert_close(json.loads((workdir / "evaluation" / "training" / "scores.json").read_text()), scores)
    assert "Two autoencoders: two_autoencoders" in (workdir / "evaluation" / "training" / "report.html").read_text()
    status, _, err = run("--evaluate", "--phase=alignment")
    assert status == 2
    assert "has no phase 'alignment'; its phases are training." in err
    assert (
        "was trained with other latent_size than is asked for: 2, not 3"
        in run("--evaluate", "--config.model.latent_size=3")[2]
    )
    # Longer, to the bits of a run that was so long from the start.
    assert "add --extend" in run("--config.model.epochs=2")[2]
    assert run("--config.model.epochs=2", "--extend")[0] == 0
    assert run("--config.model.epochs=2", "--workdir=long")[0] == 0
    for name in ("narrow", "wide"):
        longer, extended = runs.load(tmp_path / "long" / name), runs.load(workdir / name)
        assert longer.step == extended.step == 2 * STEPS
        for a, b in zip(*(map(np.asarray, _leaves(each)) for each in (longer, extended)), strict=True):
            np.testing.assert_array_equal(a, b)
    # Both on one page, with the tables that any experiment has.
    compare.write(EXPERIMENT, *_gathered(tmp_path, "long", "runs/two_autoencoders"), "mvae-jax compare")
    page = json.loads((tmp_path / "page" / "scores.json").read_text())
    assert page["long"]["models"] == page["two_autoencoders"]["models"]
    assert "What comes back" in (tmp_path / "page" / "report.html").read_text()


def test_a_run_says_where_when_and_from_what_it_was_computed(run, tmp_path):
    assert run("--config.start_from=")[0] == 0
    workdir = tmp_path / "runs" / "two_autoencoders"
    settings = json.loads((workdir / "config.json").read_text())["provenance"]
    assert settings["data"]["data_set"] == "digits of scikit-learn"
    (start,) = settings["starts"]
    assert start["devices"] == provenance.devices()
    assert start["commit"] == provenance.commit()["commit"]
    found = json.loads((workdir / "finished.json").read_text())["provenance"]
    assert found["starts"] == [start]
    assert found["seconds"].keys() == {"narrow, training", "wide, training", "measures", "figures"}
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert found["peak_memory_bytes"]["host"] > 2**25
    assert start["started"] <= found["ended"]
    report = (workdir / "report.html").read_text()
    for text in (
        provenance.describe(start["devices"]),
        start["commit"][:12],
        "time, narrow, training",
        "peak memory, host",
    ):
        assert text in report
    # A start by other code on other devices goes on, and stands beside the first.
    for folder in (workdir, workdir / "narrow"):
        path = folder / "config.json"
        settings = json.loads(path.read_text())
        settings["provenance"]["starts"][0] |= {"commit": "older", "devices": {}}
        path.write_text(json.dumps(settings | {"sha256": None}))
    (workdir / "finished.json").unlink()
    assert run()[0] == 0
    for folder in (workdir, workdir / "narrow"):
        first, second = json.loads((folder / "config.json").read_text())["provenance"]["starts"]
        assert (first["commit"], second["commit"]) == ("older", start["commit"])


def test_the_first_line_says_where_it_computes_and_stages_are_announced(run):
    _, _, err = run()
    lines = [line.split(" ", 1)[1] for line in err.splitlines()]
    assert lines[0] == provenance.describe(provenance.devices())
    assert "measuring: models" in lines
    assert "drawing the figures" in lines
    assert "steps/s" not in err
    assert "compiled in" not in err
    _, _, err = run("--verbose", "--workdir=verbose")
    assert "phase training: compiled in" in err
    assert "steps/s" in err


def test_workdir_and_files_are_checked_before_any_image_is_read(run, tmp_path, monkeypatch):
    assert run()[0] == 0
    monkeypatch.setattr(sources, "load", lambda *_, **__: pytest.fail("images were read"))
    status, out, _ = run()
    assert (status, "is finished" in out) == (0, True)
    status, _, err = run("--config.seed=43")
    assert (status, "config.seed: 42 before, 43 now" in err) == (2, True)
    with Workdir(tmp_path / "runs" / "two_autoencoders").lock():
        status, _, err = run()
    assert (status, "is in use by pid" in err) == (2, True)
    status, _, err = run("--workdir=new", "--config.start_from=nowhere")
    assert (status, "--config.start_from: nowhere does not exist; expected the workdir of a run." in err) == (2, True)
    (tmp_path / "folder").mkdir()
    for path, message in (("none.pth", "does not exist"), ("folder", "is a folder")):
        status, _, err = run("--workdir=new", f"--config.weights={path}")
        assert (status, f"--config.weights: {path} {message}; expected a file of weights" in err) == (2, True)
    (tmp_path / "text.pth").write_text("text")
    status, _, err = run("--workdir=new", "--config.weights=text.pth")
    assert (status, "text.pth is neither safetensors nor written by" in err) == (2, True)
    assert not (tmp_path / "new").exists()


def _leaves(loaded):
    import jax

    return jax.tree.leaves(loaded.params)


def _gathered(folder, *names):
    from mvae_jax.experiment import runner

    data = runner.load(EXPERIMENT, Config())
    trained = {}
    for name in names:
        fitted = {label: members.load(member, folder / name / label) for label, member in two(_long(), data).items()}
        trained[Path(name).name] = runner.gather(EXPERIMENT, _long(), fitted, data, folder / name)
    (folder / "page" / "figures").mkdir(parents=True)
    return trained, folder / "page"


def _long():
    return Config(model=dataclasses.replace(Config().model, epochs=2))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run, tmp_path):
    status, out, _ = run("--dry-run")
    assert status == 0
    assert list(tmp_path.iterdir()) == []
    for text in ("narrow\nparameters:", "wide\nparameters:", f"  training: steps 0 to {STEPS}, 100 images of 8 px"):
        assert text in out
    parameters = {width: 64 * width + width + 2 * width + 2 for width in (4, 6)}
    for encoder in parameters.values():
        assert f"  encoder: {encoder:,}" in out
    assert (
        f"devices: {provenance.describe(provenance.devices())}\ncode: commit {provenance.commit()['commit'][:12]}"
        in out
    )


def test_members_start_from_those_of_another_run(run, tmp_path):
    assert run()[0] == 0
    status, _, err = run("--workdir=next", "--config.start_from=runs/two_autoencoders", "--config.seed=7")
    assert status == 0
    for name in ("narrow", "wide"):
        assert f"starting from step {STEPS} of phase training of {tmp_path / 'runs/two_autoencoders' / name}" in err
    status, _, err = run("--workdir=other", "--config.start_from=runs/two_autoencoders", "--config.model.latent_size=3")
    assert status == 2
    assert "checkpoint has float32[4,2], this model float32[4,3]" in err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.model.image_size=99"], "--config.model.image_size changes none of the models that are trained"),
        (["--config.data.crop=nonsense"], "--config.data.crop is a setting of CelebA"),
        (["--config.data.subset_size=3"], "--config.data.subset_size is a setting of"),
        (["--config.data.source=shapes"], "which this experiment does not take"),
        (["--config.data.source=nowhere"], "no folder or zip nowhere"),
        (["--config.model.batch_size=2000"], "batch_size is 2000"),
        (["--config.start_from=nowhere"], "--config.start_from: nowhere does not exist"),
        (["--evaluate"], "config.json does not exist"),
        (["--config.model.optimizer=bigan", "--extend"], "cannot be extended"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_end_with_a_message_before_anything_is_made(run, tmp_path, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("error: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_settings_of_the_chosen_data_and_all_if_asked(run):
    status, out, _ = run("--help")
    assert status == 0
    assert "--config.data.source='digits'" in out
    assert "--config.data.subset_size" not in out
    assert "--config.data.subset_size=5000" in run("--help", "--config.data.source=rendered")[1]
    assert "--config.data.subset_size=5000" in run("--help=all")[1]


def test_a_run_of_an_earlier_layout_is_measured_but_not_trained_on(run, tmp_path):
    assert run()[0] == 0
    path = tmp_path / "runs" / "two_autoencoders" / "config.json"
    settings = json.loads(path.read_text())
    del settings["format"], settings["run_id"], settings["sha256"]
    settings["config"]["data"] = {"source": "digits", "crop": "", "subset_size": 5000}  # one layout for all data
    path.write_text(json.dumps(settings))
    assert run("--evaluate")[0] == 0
    status, _, err = run()
    assert status == 2
    assert err[err.index("error: ") :].count("\n") == 1
    assert "holds a run that another version began" in err


def test_settings_that_were_removed_are_named_and_can_be_passed_over(run, tmp_path):
    assert run()[0] == 0
    workdir = tmp_path / "runs" / "two_autoencoders"
    files = {folder: workdir / folder / "config.json" for folder in (".", "wide")}
    written = {folder: file.read_text() for folder, file in files.items()}

    def change(folder, **settings):
        content = json.loads(written[folder])
        content["config"]["model"] |= settings
        files[folder].write_text(json.dumps(content | {"sha256": None}))

    for folder in files:
        change(folder, spin=0.5)
        # That the run is finished is said before its models are looked at.
        for command in ((), ("--evaluate",)) if folder == "." else (("--evaluate",),):
            status, _, err = run(*command)
            assert status == 2
            (line,) = [line for line in err.splitlines() if "error: " in line]
            assert "config.json has config.model.spin = 0.5, which this version does not have: go on with" in line
            assert "--ignore-removed" in line
        status, _, err = run("--evaluate", "--ignore-removed")
        assert (status, "config.model.spin = 0.5, which this version does not have: passed over." in err) == (0, True)
        status, out, err = run("--ignore-removed")
        assert (status, "is finished" in out) == (0, True)
        assert "passed over" not in err  # nothing goes on
        files[folder].write_text(written[folder])


def test_a_member_of_other_settings_is_refused_before_any_is_trained(run, tmp_path):
    """As one that an earlier version began, whose settings no setting of the experiment tells."""
    assert run("--config.model.epochs=2")[0] == 0
    workdir = tmp_path / "runs" / "two_autoencoders"
    path = workdir / "wide" / "config.json"
    content = json.loads(path.read_text())
    content["config"]["model"]["error"] = "l1"
    path.write_text(json.dumps(content | {"sha256": None}))
    status, _, err = run("--config.model.epochs=3", "--extend")
    assert status == 2
    assert f"{workdir / 'wide'} holds a run with other settings" in err
    assert 'config.model.error: "l1" before, "l2" now' in err
    assert runs.load(workdir / "narrow").step == 2 * STEPS
    assert (workdir / "finished.json").exists()


def test_settings_that_a_run_began_with_are_named_and_accepted(run, tmp_path):
    assert run("--config.seed=7", "--config.model.latent_size=3")[0] == 0
    status, _, err = run("--config.seed=7")
    assert status == 2
    assert "Continue it with the settings it started with (--config.model.latent_size=3), or choose another" in err
    # Also one that changes no model: its value is not that of the preset because a version had another.
    path = tmp_path / "runs" / "two_autoencoders" / "config.json"
    content = json.loads(path.read_text())
    content["config"]["model"]["image_size"] = 4
    path.write_text(json.dumps(content | {"sha256": None}))
    given = ("--config.seed=7", "--config.model.latent_size=3")
    status, _, err = run(*given)
    assert (status, "with (--config.model.image_size=4), or" in err) == (2, True)
    status, out, _ = run(*given, "--config.model.image_size=4")
    assert (status, "is finished" in out) == (0, True)
    assert "changes none of the models" in run(*given, "--config.model.image_size=5", "--workdir=runs/another")[2]


def test_a_lost_or_damaged_log_stops_no_measure(run, tmp_path):
    assert run()[0] == 0
    workdir = tmp_path / "runs" / "two_autoencoders"
    with (workdir / "narrow" / "metrics.jsonl").open("a") as file:
        file.write("nonsense\n")
    (workdir / "wide" / "metrics.jsonl").unlink()
    status, _, err = run("--evaluate")
    assert status == 0
    assert "narrow/metrics.jsonl has 1 damaged line" in err
    assert "wide/metrics.jsonl does not exist" in err


TERMINATED = """
import sys
sys.path.insert(0, {tests!r})
import test_runner
from mvae_jax import experiment
experiment.run(test_runner.EXPERIMENT, ["experiments/two_autoencoders.py", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_terminated_run_goes_on_to_the_same_bits(run, tmp_path):
    arguments = ["--config.model.epochs=40", "--config.training.checkpoint_every=10"]
    code = TERMINATED.format(tests=str(ROOT / "tests" / "experiment"))
    tests = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, *arguments, "--workdir=killed"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment() | tests, stderr=subprocess.PIPE, text=True
    ) as process:
        log = ""
        while "phase training: steps" not in log:
            log += process.stderr.readline() or pytest.fail(log)
        process.send_signal(signal.SIGTERM)
        log += process.stderr.read()
    assert process.returncode == 143, log
    assert "the same command goes on from there" in log
    assert not (tmp_path / "killed" / "finished.json").exists()
    for workdir in ("killed", "whole"):
        subprocess.run(
            [*command[:-1], f"--workdir={workdir}"], cwd=tmp_path, env=environment() | tests, check=True, timeout=300
        )
    for name in ("narrow", "wide"):
        whole, killed = (runs.load(tmp_path / workdir / name) for workdir in ("whole", "killed"))
        for a, b in zip(*(map(np.asarray, _leaves(each)) for each in (whole, killed)), strict=True):
            np.testing.assert_array_equal(a, b)
        lines = [read_metrics(tmp_path / workdir / name / "metrics.jsonl") for workdir in ("whole", "killed")]
        losses = [[line["loss"] for line in each if line["split"] == "validation"] for each in lines]
        assert losses[0] == losses[1]


def test_every_experiment_has_what_it_needs(run):
    assert len(listing.names()) == 9
    for name in listing.names():
        declared = listing.load(name)
        assert declared.name == name
        assert declared.description.startswith(declared.description.strip())
        assert {type(config.data) for config in declared.presets.values()} <= {type(each) for each in declared.data}
        assert len({measure.name for measure in declared.measures}) == len(declared.measures) > 0
        for measure in declared.measures:
            assert measure.name.isidentifier()
            assert measure.name.islower()
