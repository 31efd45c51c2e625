"""What a report says and in which order, of an experiment that has trained nothing."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.batches import Split, Splits
from mvae_jax.experiment import Headline, Measure, Number, Trained, compare, pages, provenance, runner
from mvae_jax.viz.traversals import Strips

RECORDS = [
    {"step": 20, "phase": "first", "split": "train", "loss": 1.0},
    {"step": 100, "phase": "first", "split": "clock", "seconds": 50.0},
    {"step": 160, "phase": "second", "split": "train", "loss": 1.0},
    {"step": 400, "phase": "second", "split": "clock", "seconds": 300.0},
]
HERE = provenance.describe(provenance.devices())
SPLIT = Split({"image": np.zeros((7, 8, 8, 1), np.uint8)})


def grey(value, size=(40, 30)):
    return Image.new("RGB", size, (value,) * 3)


def figures(trained, results):
    rows = np.zeros((3, 8, 8, 1), np.uint8)
    return {
        "other": ("Another picture", grey(1)),
        "loss": ("The curve", grey(2)),
        "best": ("The best picture", grey(3)),
        "shares_a": ("Picture of shares", grey(4)),
        "shares_b": ("Another of them", grey(5)),
        "rows": ("A dimension", Strips({"z0": rows}, ["-1", "0", "1"])),
        "moving": ("Moving", b"GIF89a"),
    }


EXPERIMENT = experiment.Experiment(
    name="nothing",
    title="Two models",
    description="",
    presets={},
    data=(),
    members=lambda config, data: {},
    measures=(
        Measure(
            "shares",
            lambda trained: {"model_a": {"right_answers": 0.5}, "model_b": {"right_answers": 0.25}},
            title="Shares",
            reading="Higher is better.",
            text="By counting.",
            figures=("shares_*", "rows"),
            words={"model_a": "A"},
        ),
        Measure("more", lambda trained: {}, text="Not measured.", parts=lambda *_: ()),
    ),
    figures=(figures,),
    model="autoencoder",
    headline=lambda trained, results: Headline([Number("50%", "are right", "guessing: 10%")], "best"),
    curves=("loss*",),
)


def model(steps, weights):
    return SimpleNamespace(
        config=SimpleNamespace(image_size=8),
        step=steps,
        phase="second",
        params={"encoder": np.zeros(weights)},
        settings={"model": "autoencoder", "config": {"seed": 0}, "data_sha256": DATA.sha256()},
    )


DATA = Splits(SPLIT, SPLIT.first(5), SPLIT.first(0), (), {"data_set": "squares"})


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of nothing."""

    seed: int = 0


def trained(folder=Path(), records=RECORDS):
    models = {"model_a": model(400, 1_500_000), "model_b": model(400, 500_000)}
    return Trained(Config(), models, DATA, None, dict.fromkeys(models, records), workdir=folder)


def text_of(path):
    page = path.read_text().partition("<main>")[2]
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<script.*", " ", page, flags=re.DOTALL)).split())


def written(folder, notes=(), declared=EXPERIMENT):
    each = trained(folder / "run")
    results = runner.measure(declared, each)
    drawn = runner.draw(declared, each, results)
    pages.write(declared, ["nothing.py"], each, results, {}, drawn, folder, notes)
    return folder / "report.html"


@pytest.mark.parametrize(
    ("folders", "text"),
    [
        ([""], "One model"),
        (["vae", "gan"], "2 models (vae; gan)"),
        (["vae/seed_1", "vae/seed_2"], "2 trials of one model (vae)"),
        (["vae/seed_1", "vae/seed_2", "gan/seed_1", "gan/seed_2"], "4 trials of 2 models (vae; gan)"),
    ],
)
def test_trials_are_no_models(folders, text):
    assert pages._models(EXPERIMENT, folders) == text


def test_own_images_are_named_by_their_folder(monkeypatch):
    """Those of each kind of data set whose entry says that its images are a user's own."""

    def words(kind):
        data = Splits(SPLIT, SPLIT.first(5), SPLIT.first(0), (), {"data_set": kind, "path": "/data/birds.zip"})
        return pages._images(data, SimpleNamespace(image_size=8))

    assert words("images with a CSV") == words("images alone") == "7 images (birds.zip, 8 pixels)"
    assert words("CelebA") == "7 images (CelebA, 8 pixels)"
    monkeypatch.setitem(sources.SOURCES, "CelebA", dataclasses.replace(sources.SOURCES["CelebA"], named_by_path=True))
    assert words("CelebA") == "7 images (birds.zip, 8 pixels)"


def test_there_is_no_heading_above_nothing():
    nothing = Measure("nothing", lambda trained: {}, title="Nothing")
    assert pages.section(EXPERIMENT, nothing, trained(), {}) == []
    assert len(pages.section(EXPERIMENT, dataclasses.replace(nothing, text="Why."), trained(), {})) == 2


def test_no_key_is_shown():
    provenance = {"data_set": "squares", "counts": {"of_train": 7, "kinds": {"a_b": 1}}}
    assert pages.worded(provenance) == {"data set": "squares", "counts, of train": 7, "counts, kinds, a b": 1}
    loaded = {"style_alae": SimpleNamespace(phase="stabilise_16", step=1252)}
    assert pages.newest(loaded) == ["Measured at step 1,252, in phase stabilise 16."]


def test_large_numbers_are_words():
    assert [pages._rough(count) for count in (7_223, 99_999, 11_530_001)] == ["7,220", "100,000", "11.5 million"]


def test_a_report_begins_with_what_was_trained_and_how_well(tmp_path):
    text = text_of(written(tmp_path, ["Beware."]))
    order = [
        "Two models: run",
        "2 models (model a; model b), 2 million parameters in all, trained for 800 steps on 7 images (squares, 8 pix",
        f"in 12 minutes on {HERE}. Measured on 5 images that were not trained on.",  # twice 50 s and 300 s
        "50% are right guessing: 10%",
        "The best picture",
        "What to keep in mind Training Shares More pictures How it was made",
        "What to keep in mind Beware.",
        "Training The curve",
        "Shares Picture of shares Another of them A dimension",
        "Higher is better. model right answers A 0.50 model b 0.25",
        "How it was measured By counting.",
        "Not measured.",
        "More pictures Another picture How it was made python nothing.py",
    ]
    places = [text.find(part) for part in order]
    assert min(places) >= 0, order[places.index(-1)]
    assert places == sorted(places)
    assert text.count("The best picture") == 1


def test_a_picture_with_text_to_be_read_follows_the_contents(tmp_path):
    """It may be of any height; another one is limited, and comes first."""
    for fits in (True, False):
        headline = Headline((), "best", fits)
        declared = dataclasses.replace(EXPERIMENT, headline=lambda trained, results, headline=headline: headline)
        page = written(tmp_path, declared=declared).read_text()
        assert (page.index("<nav") > page.index("The best picture")) == fits
        assert ('<figure class="first">' in page) == fits


def test_figures_of_one_pattern_stand_side_by_side(tmp_path):
    (beside,) = written(tmp_path).read_text().split('<div class="beside">')[1:]
    assert beside.index("Picture of shares") < beside.index("Another of them") < beside.index("</div>\n</div>")


def test_what_is_no_better_than_its_baseline_is_said(tmp_path):
    poor = Headline([Number("9%", "are right", "guessing: 10%", better=False), Number("90%", "are short", "")], "best")
    each = trained(tmp_path / "run")
    results = runner.measure(EXPERIMENT, each)
    shown = dataclasses.replace(EXPERIMENT, headline=lambda trained, results: poor)
    pages.write(shown, ["nothing.py"], each, results, {}, runner.draw(shown, each, results), tmp_path, [])
    text = text_of(tmp_path / "report.html")
    assert "9% are right guessing: 10%. It is no better than that. 90% are short" in text
    assert "What to keep in mind 9% are right: that is no better than the baseline (guessing: 10%)." in text


def test_animations_are_files_alone(tmp_path):
    page = written(tmp_path).read_text()
    assert (tmp_path / "figures" / "moving.gif").read_bytes() == b"GIF89a"
    assert "image/gif" not in page
    assert page.count("<img") + page.count('class="sliders"') == 6


def test_many_notes_are_folded(tmp_path):
    page = written(tmp_path, [f"Note {number}." for number in range(7)]).read_text()
    assert page.count('class="note"') == 7
    assert "<summary>3 more</summary>" in page
    assert page.index("Note 3.") < page.index("3 more") < page.index("Note 4.")


def test_the_devices_are_those_that_trained_and_the_time_is_left_out_where_it_is_not_known():
    each = trained(records=RECORDS[:1])
    each.provenance["starts"] = [{"devices": provenance.devices() | {"platform": "gpu", "kind": "H200", "count": 8}}]
    assert "(squares, 8 pixels) on 8 x H200. Measured" in pages.subject(EXPERIMENT, each)


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(0.78, "47 seconds"), (7.24, "7.2 minutes"), (12.4, "12 minutes"), (150, "2.5 hours"), (6000, "100 hours")],
)
def test_times_are_said_in_words(minutes, words):
    assert pages.duration(minutes) == words


def test_the_losses_of_many_models_take_several_figures():
    """Each is named as on the other pages."""
    lines = [{"step": step, "phase": "training", "split": "train", "loss": 1.0} for step in (1, 2)]
    runs = {
        label: SimpleNamespace(records={f"model_{number}": lines for number in range(6)} | {"other": []})
        for label in ("one", "two")
    }
    assert list(compare.loss_curves(EXPERIMENT, runs)) == ["losses", "losses_2"]
    assert list(compare.loss_curves(EXPERIMENT, {"one": runs["one"]})) == ["losses"]


def test_runs_stand_side_by_side(tmp_path):
    both = {"one": trained(tmp_path / "one"), "two": trained(tmp_path / "two")}
    compare.write(EXPERIMENT, both, tmp_path, "mvae-jax compare one two")
    page = (tmp_path / "report.html").read_text()
    text = text_of(tmp_path / "report.html")
    assert "Comparison of one, two 2 runs of one experiment, Two models, measured on the same 5 images." in text
    for label in both:
        assert f"{label} 2 models (model a; model b)" in text
    assert text.count("50% are right guessing: 10%") == 2
    for name, caption in (("loss", "The curve"), ("shares_a", "Picture of shares"), ("rows", "A dimension")):
        beside = next(part for part in page.split('<div class="beside">')[2:] if caption in part)
        assert f"one: {caption}" in beside
        assert f"two: {caption}" in beside
        assert {path.name for path in (tmp_path / "figures").glob(f"{name}_*.png")} == {
            f"{name}_1.png",
            f"{name}_2.png",
        }
    assert "Shares run model right answers one A 0.50 one model b 0.25 two A 0.50 two model b 0.25" in text
    assert text.index("Loss of each run") < text.index("Shares run") < text.rindex("Pictures side by side")
