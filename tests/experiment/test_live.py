"""The page of a run while it trains: what it says, what it costs, and that it changes nothing of what is computed."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import test_runner
from PIL import Image

from mvae_jax import experiment, runs
from mvae_jax.experiment import classifier, forecast, live, prior, runner, sheets
from mvae_jax.experiment.live import Live
from mvae_jax.experiment.stages import Stages
from mvae_jax.models import autoencoders
from mvae_jax.train import loop
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interrupted

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
VAE = autoencoders.VAEConfig(
    image_size=8, channels=1, network="dense", widths=(8,), latent_size=2, epochs=3, batch_size=12
)
STEPS = 3 * 3  # 36 images to train on


@pytest.fixture(autouse=True)
def first_pictures(monkeypatch):
    """The first pictures are thought to take a second."""
    monkeypatch.setattr(live, "_FIRST", 1.0)


class Clock:
    """A clock on which each step of the model and each picture takes as long as the test says."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def planned():
    return runs.plan("vae", VAE, {"image": IMAGES})


def page(folder):
    return (folder / "report.html").read_text()


def train(folder, planned, epoch=100.0, drawing=1.0, clock=None, log_every=1, **options):
    """Trains with a page: an epoch takes so many seconds, and the pictures of a validation so many."""
    folder.mkdir(exist_ok=True)
    clock = clock or Clock()
    watching = Live(folder, "A <VAE>", forecast.parts("", planned.phases), clock=clock, **options)
    pages = []

    def rows(run, examples, phase):
        clock.now += drawing
        return sheets.reconstructions_and_samples(run, examples, phase)

    with watching:
        draw = watching.on_validation("", planned, rows)

        def on_validation(state, phase, writer):
            clock.now += epoch
            draw(state, phase, writer)
            pages.append(page(folder) if (folder / "report.html").exists() else "")

        state = planned_fit(planned, folder, on_validation, watching.member(""), log_every)
    return state, watching, pages


def planned_fit(planned, folder, on_validation, observer, log_every=1):
    return loop.fit(
        planned.model,
        planned.phases,
        planned.batches,
        workdir=folder,
        seed=1,
        validation=planned.data.validation.arrays,
        settings=loop.Settings(log_every=log_every),
        placement=planned.placement,
        on_validation=on_validation,
        observer=observer,
    )


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))]


def test_each_validation_draws_and_the_page_says_how_far_the_run_is(tmp_path, planned):
    _, watching, pages = train(tmp_path, planned, notes=["The term is off."])
    assert len(pages) == 3
    for epoch, text in enumerate(pages, start=1):
        assert "<title>A &lt;VAE&gt;</title>" in text
        assert '<meta http-equiv="refresh" content="10">' in text
        assert "The term is off." in text
        assert f"Training: step {3 * epoch} of {STEPS}, " in text
        assert "dots of held-out ones" in text
        assert text.count("<img") == 2
        assert text.count("<source media=") == 2  # on a phone nothing scrolls
        assert f'<progress max="1" value="{epoch / 3:.4f}" aria-label="{100 * epoch / 3:.0f}% done">' in text
        assert "CPU core" in text
    seconds = 60 + 100 * 2  # measures and figures, and two epochs
    assert forecast.words(seconds) in pages[0]
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["split"] == "validation"]
    assert f"Validation loss {lines[0]['loss']:.4g} at step 3" in pages[0]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "while_training_curves.png",
        "while_training_images.png",
    ]
    with Image.open(tmp_path / "figures" / "while_training_images.png") as sheet:
        assert sheet.width > 4 * 96  # the validation split's four images side by side
    watching.finish()
    assert list((tmp_path / "figures").iterdir()) == []


def test_the_time_left_is_without_that_of_pictures(tmp_path, planned):
    """Of the second epoch the last one is left, a hundred seconds, and the minute of measures."""
    _, watching, pages = train(tmp_path, planned, epoch=100.0, drawing=100.0, share=1.0)
    assert watching.spent == 300
    assert "about 3 minutes left" in pages[1]


def test_the_sheet_shows_the_model_as_it_is(tmp_path, planned):
    """Originals and reconstructions of the held-out images by the state of that step."""
    seen = []

    def rows(run, examples, phase):
        seen.append((run.step, sheets.reconstructions_and_samples(run, examples, phase)))
        return seen[-1][1]

    clock = Clock()
    clock.now = 1000.0
    watching = Live(tmp_path, "", forecast.parts("", planned.phases), clock=lambda: clock.now)
    clock.now = 2000.0
    draw = watching.on_validation("", planned, rows)
    planned_fit(planned, tmp_path, draw, watching.member(""))
    assert [step for step, _ in seen] == [3, 6, 9]
    loaded = {"held-out images", "reconstructions", "samples"}
    assert all(set(rows) == loaded for _, rows in seen)
    first, last = (np.asarray(rows["reconstructions"]) for _, rows in (seen[0], seen[-1]))
    assert not np.array_equal(first, last)
    originals = planned.data.validation["image"] / 127.5 - 1
    for _, shown in seen:
        np.testing.assert_allclose(shown["held-out images"], originals, atol=1e-6)


def test_a_page_changes_nothing_of_what_is_computed(tmp_path, planned):
    with_page, _, _ = train(tmp_path / "with", planned)
    without = planned_fit(planned, tmp_path / "without", None, None)
    assert bits(with_page) == bits(without)
    ours, theirs = (
        [line for line in read_metrics(tmp_path / name / "metrics.jsonl") if line["split"] in ("train", "validation")]
        for name in ("with", "without")
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("epoch", "drawing", "drawn"),
    [
        (100.0, 1.0, 3),
        (20.0, 1.0, 2),  # at 40 s and at 60 s: .03 of 20 s is less than the second that the first is thought to take
        (100.0, 30.0, 1),  # too dear: once is known, a third of that would fit after 1,333 s
        (5.0, 0.1, 0),
    ],
)
def test_pictures_are_left_out_where_they_take_more_than_their_share(tmp_path, planned, epoch, drawing, drawn):
    _, watching, pages = train(tmp_path, planned, epoch=epoch, drawing=drawing)
    assert sum(f"makes of them, at step {3 * number}<" in text for number, text in enumerate(pages, start=1)) == drawn
    assert f"step {STEPS} of {STEPS}" in pages[-1]  # the page itself is written each time
    assert watching.spent == pytest.approx(drawn * drawing)


def test_models_have_names_for_people_and_a_loss_even_without_pictures(tmp_path, planned):
    """The model that trains comes first."""
    clock, pages = Clock(), []
    parts = [part for label in ("vae_1", "vae_2") for part in forecast.parts(label, planned.phases)]
    watching = Live(tmp_path, "", parts, clock=clock, lead="On <digits>.", title_of=lambda label: f"VAE {label[-1]}")
    for label in ("vae_1", "vae_2"):
        draw = watching.on_validation(label, planned, lambda run, examples, phase: pytest.fail("no time for pictures"))
        planned_fit(planned, tmp_path / label, draw, watching.member(label))
        pages.append(page(tmp_path))
    assert "On &lt;digits&gt;." in pages[0]
    assert f"Training: step {STEPS} of {2 * STEPS}, in VAE 1 (part 1 of 2), about 1 minute left" in pages[0]
    assert re.search(r">VAE 1</h2>\n<p>Validation loss [\d.]+ at step 9, the lowest\.<", pages[0])
    assert 0 < pages[1].index(">VAE 2</h2>") < pages[1].index(">VAE 1</h2>")
    assert "vae_1" not in pages[1]


@pytest.mark.parametrize(
    ("losses", "step", "text"),
    [
        ((2.0, 3.0), 2, "Validation loss 3 at step 2; the lowest so far in phase training was 2, at step 1."),
        ((2.0, 3.0), STEPS, f"Validation loss 3 at step {STEPS}; the lowest in phase training was 2, at step 1."),
        ((2.0, 2.0001), 2, "Validation loss 2 at step 2, the lowest so far in phase training."),
    ],
)
def test_a_loss_that_rises_is_said_beside_the_lowest_one(planned, losses, step, text):
    lines = [
        {"split": "validation", "phase": "training", "step": at, "loss": loss}
        for at, loss in zip((1, step), losses, strict=True)
    ]
    assert live._validation_loss(lines, *planned.phases, " in phase training") == [text]


def test_no_loss_is_the_lowest_where_what_measures_it_trains(planned):
    phase = dataclasses.replace(planned.phases[0], comparable=False)
    lines = [{"split": "validation", "phase": "training", "step": step, "loss": 3.0 - step} for step in (1, 2)]
    (text,) = live._validation_loss(lines, phase, "")
    assert (
        text == "Validation loss 1 at step 2. It compares with no other step: the network that measures it trains too."
    )


def test_a_page_says_that_its_time_stands_still_while_models_are_compiled(tmp_path, planned):
    watching = Live(tmp_path, "", forecast.parts("", planned.phases), clock=Clock())
    watching.compiling("", planned.phases[0], 0)
    assert f"Compiling, after step 0 of {STEPS}. As of" in page(tmp_path)
    assert "The next step may take some minutes, in which the time above stands still." in page(tmp_path)
    watching.started("", planned.phases[0], 0)
    assert "The next step may take some minutes, in which the time above stands still." in page(tmp_path)
    watching.later("", planned.phases[0], 3, 5.0)
    watching._write()
    assert "about 2 minutes left" in page(tmp_path)  # of six steps of five seconds, and a minute of measures
    assert "Where the time above has stood still for minutes, the run was ended" in page(tmp_path)
    watching.compiling("", planned.phases[0], 9)  # such as the next model
    assert f"Compiling, after step 9 of {STEPS}, about 2 minutes left" in page(tmp_path)
    assert "The next step may take some minutes" in page(tmp_path)


def test_a_stage_says_how_long_its_parts_have_taken():
    clock, said = Clock(), []
    stages = Stages(said.append, clock)
    with stages.stage("measures", "measuring: errors, samples") as begin:
        begin("measuring 1 of 2: errors")
        clock.now += 40
        begin("measuring 2 of 2: samples")
        clock.now += 90
    assert said == ["now the measures", "measuring 1 of 2: errors", "measuring 2 of 2: samples, after 40 seconds"]
    assert stages.seconds == {"measures": 130}


def test_a_curve_of_held_out_images_alone_is_said_to_be_that(tmp_path, planned):
    """As in a first epoch that has no record of its training yet."""
    _, _, pages = train(tmp_path, planned, log_every=1000)
    assert "Over the steps, of held-out images<" in pages[1]
    assert "dots of held-out ones" not in pages[1]


def test_whoever_follows_a_run_learns_that_it_waits_for_the_compiler(tmp_path, planned):
    seen = []

    class Noting(live.Observer):
        def compiling(self, phase, step):
            seen.append(("compiling", phase.name, step))

        def started(self, phase, step):
            seen.append(("started", phase.name, step))

    planned_fit(planned, tmp_path, None, Noting())
    assert seen == [("compiling", "training", 0), ("started", "training", 0)]


def test_the_log_says_where_the_page_is_before_anything_is_compiled(tmp_path, caplog):
    caplog.set_level("INFO", "experiment")
    with Live(tmp_path, "", []):
        assert caplog.messages == [f"compiling; how far the training is stands in {tmp_path / 'report.html'}"]
    with Live(tmp_path, "", [], share=0.0):
        assert len(caplog.messages) == 1


def test_no_share_is_no_page(tmp_path, planned):
    train(tmp_path, planned, share=0.0)
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "figures").exists()


def test_a_page_says_how_the_run_has_ended(tmp_path):
    for error, text in (
        (Interrupted(143), "Stopped: what was trained is saved, and the same command goes on."),
        (RuntimeError("x"), "Ended by an error, RuntimeError: the log says more."),
    ):
        with pytest.raises(type(error)), Live(tmp_path, "", []):
            raise error
        assert text in page(tmp_path)
        assert "refresh" not in page(tmp_path)


def test_a_picture_that_fails_ends_no_training(tmp_path, planned, caplog):
    clock = Clock()
    watching = Live(tmp_path, "", forecast.parts("", planned.phases), clock=clock)
    clock.now = 1000.0

    def broken(run, examples, phase):
        raise KeyError("no such font")

    state = planned_fit(planned, tmp_path, watching.on_validation("", planned, broken), watching.member(""))
    assert int(state.step) == STEPS
    assert caplog.text.count("No more pictures while this run trains") == 1


def test_a_full_disk_ends_the_training_with_its_state_saved(tmp_path, planned, monkeypatch):
    clock = Clock()
    watching = Live(tmp_path, "", forecast.parts("", planned.phases), clock=clock)
    clock.now = 1000.0

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live, "atomic_write", full)
    draw = watching.on_validation("", planned, lambda run, examples, phase: {})
    with pytest.raises(OSError, match="No space left"):
        planned_fit(planned, tmp_path, draw, live.Observer())
    assert (tmp_path / "checkpoints" / "training" / "3").is_dir()


def test_what_is_trained_beside_the_models_has_a_name():
    names = {
        "vae_1": "vae 1",
        classifier.FOLDER: "attribute classifier",
        prior.label(""): "learned prior",
        prior.label("vae_1"): "vae 1, learned prior",
    }
    assert {label: runner._title_of(test_runner.EXPERIMENT, label) for label in names} == names


def test_an_experiment_has_one_page_for_all_its_models(tmp_path, monkeypatch, capsys):
    """The finished report takes its place, and the pictures of the training go with it."""
    monkeypatch.chdir(tmp_path)
    pages, write = [], live.Live._write

    def noting(self, refresh=True):
        write(self, refresh)
        pages.append(page(tmp_path / "run"))

    monkeypatch.setattr(live.Live, "_write", noting)
    monkeypatch.setattr(live, "_FIRST", 0.0)
    arguments = ["--workdir=run", "--compilation-cache=", "--config.training.drawing_share=1"]
    experiment.run(test_runner.EXPERIMENT, ["experiments/two_autoencoders.py", "--verbose", *arguments])
    err = capsys.readouterr().err
    assert "Preparing: the models are compiled" in pages[0]
    steps = test_runner.STEPS
    for number, name in enumerate(("narrow", "wide"), start=1):
        text = f"Training: step {number * steps} of {2 * steps}, in {name}"
        assert any(text in each and "<img" in each for each in pages)
    lead = "2 models (narrow; wide), in training on "
    assert all(lead in each for each in pages)
    measures = test_runner.EXPERIMENT.measures
    for number, item in enumerate(measures, start=1):
        clause = f"Trained; measuring {number} of {len(measures)}: {item.title}"
        assert any(clause in each for each in pages)
    assert any("Trained; drawing figures, part 1 of 1" in each for each in pages)
    report = page(tmp_path / "run")
    assert "refresh" not in report
    assert "Reconstructions" in report
    assert [path.name for path in (tmp_path / "run" / "figures").iterdir()] == ["reconstructions.png"]
    assert re.search(r"the page and the pictures while it trained took \d+\.\d s, \d+\.\d % of the time", err)
    assert re.search(r"phase training, step 15: loss [\d.]+ in training, [\d.]+ in validation, the best so far", err)
    assert json.loads((tmp_path / "run" / "finished.json").read_text())["scores"]
