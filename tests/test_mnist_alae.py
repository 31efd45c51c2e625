"""ALAE beside its baselines, from end to end on scikit-learn's digits and on files in MNIST's layout."""

import dataclasses
import html
import json
import struct

import jax
import mnist_alae
import numpy as np
import pytest
from commands import assert_close, check_pictures, refused, run_all
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from mvae_jax import runs
from mvae_jax.data import mnist
from mvae_jax.eval import probes
from mvae_jax.models import ZOO

SCRIPT = "experiments/mnist_alae.py"
TINY = ["--config.model.widths=6,5", "--config.model.latent_size=3", "--config.model.epochs=1"]
DIGITS = [SCRIPT, *TINY, "--config.model.batch_size=250", "--config.seeds=7", "--config.baseline_learning_rate=0.05"]
FILES = [
    SCRIPT,
    "--preset=paper",
    *TINY,
    "--config.model.batch_size=20",
    "--config.models=alae",
    "--config.seeds=3,4",
    "--config.evaluation.long_features=false",
]
MODELS = {row: "autoencoder" if row.startswith("autoencoder") else row for row in mnist_alae.PUBLISHED}
COLUMNS = [
    f"{probe} {split} {kind}" for kind in ("short", "long") for split in ("SW", "DW") for probe in ("1NN", "SVM")
]


def write_mnist(folder, seed):
    """Files of MNIST's layout: 60 images of 5 x 5 pixels to train on and 24 to test, brighter by their label."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    for name, count in (("train", 60), ("t10k", 24)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = (20 * labels[:, None, None] + generator.integers(0, 60, (count, 5, 5))).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All rows on the digits, two trials of ALAE on files, and what the commands said."""
    folder = tmp_path_factory.mktemp("alae")
    for name, seed in (("mnist", 0), ("other", 1)):
        write_mnist(folder / name, seed)
    run, judged = [*DIGITS, "--workdir=run"], [SCRIPT, "--evaluate", "--workdir=run"]
    commands = {
        "plan": [*DIGITS, "--dry-run", "--workdir=none"],
        "run": run,
        "again": run,
        "changed": [*run, "--config.seeds=8"],
        "changed learning rate": [*run, "--config.model.r1_weight=3.0"],
        "some": [*judged, "--config.models=bigan,alae", "--config.evaluation.long_features=false"],
        "evaluated": judged,
        "misfit": [*judged, "--config.model.latent_size=5"],
        "untrained": [*judged, "--config.seeds=7,8"],
        "files": [*FILES, "--config.data.source=mnist", "--workdir=files"],
        "elsewhere": [SCRIPT, "--evaluate", "--workdir=files", "--config.data.source=other"],
        "without files": [*FILES, "--workdir=none"],
    }
    return folder, dict(zip(commands, run_all(folder, *commands.values()), strict=True))


def scores_of(folder):
    return json.loads((folder / "scores.json").read_text())


# --- on the digits --------------------------------------------------------------------------------------------------


def test_all_rows_are_trained_and_classified(trained):
    folder, results = trained
    assert results["run"]["code"] == 0
    scores = scores_of(folder / "run")
    assert list(scores["accuracies"]) == list(MODELS)
    for row, model in MODELS.items():
        run = runs.load(folder / "run" / row / "seed_7")
        assert (run.settings["model"], run.settings["config"]["seed"], run.step) == (model, 7, 6)
        assert (run.config.image_size, run.config.channels, run.config.widths) == (8, 1, (6, 5))
        if model != "alae":
            assert run.config.learning_rate == 0.05
        (seed,) = scores["accuracies"][row]
        assert seed == "7"
        accuracies = scores["accuracies"][row][seed]
        assert list(accuracies) == COLUMNS
        assert all(0 <= value <= 1 for value in accuracies.values())
        said = ", ".join(f"{column} {100 * value:.2f}" for column, value in accuracies.items())
        assert f"{row}/seed_7: {said}" in results["run"]["err"]
    assert runs.load(folder / "run" / "autoencoder_l1" / "seed_7").config.error == "l1"


def test_scores_are_those_of_scikit_learn(trained):
    folder = trained[0] / "run"
    data, run = mnist.load("digits"), runs.load(folder / "alae" / "seed_7")
    found = scores_of(folder)["accuracies"]["alae"]["7"]
    inner, outer = mnist.split_same_writers(1500)
    assert (len(inner), len(outer), len(data.validation)) == (1250, 250, 297)
    for kind, function in (("short", lambda x: run.encode(x)[0]), ("long", run.features)):
        train, test = (
            np.asarray(function(split["image"] / np.float32(127.5) - 1)) for split in (data.train, data.validation)
        )
        assert train.shape[1] == {"short": 3, "long": 5}[kind]
        labels, test_labels = data.train["label"], data.validation["label"]
        for split, cut in (
            ("SW", (train[inner], labels[inner], train[outer], labels[outer])),
            ("DW", (train, labels, test, test_labels)),
        ):
            for probe, classifier in (
                ("1NN", KNeighborsClassifier(1, algorithm="brute")),
                ("SVM", LinearSVC(C=0.02, max_iter=5000, dual=False)),
            ):
                expected = classifier.fit(*cut[:2]).score(*cut[2:])
                assert found[f"{probe} {split} {kind}"] == pytest.approx(expected, abs=1.5 / len(cut[2]))
    # What little was learnt is more than guessing.
    assert found["1NN DW long"] > 0.2


def test_the_report_shows_table_claim_and_figures(trained):
    folder, results = trained
    check_pictures(folder / "run", 7)
    names = {path.stem for path in (folder / "run" / "figures").iterdir()}
    assert names == {"reconstructions", "interpolations", "reconstruction_error"} | {
        f"samples_{row}" for row in list(MODELS)[2:]
    }
    report, scores = (folder / "run" / "report.html").read_text(), scores_of(folder / "run")
    for row, trials in scores["accuracies"].items():
        assert mnist_alae._TITLES[row] in report
        for value in trials["7"].values():
            assert f"{100 * value:.2f}" in report
    assert "(97.15)" not in report  # the paper's values are of other images
    assert html.escape(scores["statement"]) in report
    assert scores["statement"] in results["run"]["err"]
    assert "python experiments/mnist_alae.py" in report


@pytest.mark.parametrize("row", ["autoencoder_l1", "autoencoder_l2", "latent_regressor"])
def test_curves_are_errors_per_pixel(trained, row):
    folder = trained[0] / "run" / row / "seed_7"
    run, x = runs.load(folder), mnist.load("digits").validation["image"] / np.float32(255)
    difference = np.asarray(run.decode(run.encode(2 * x - 1)[0])) / 2 + 0.5 - x
    expected = np.abs(difference).mean() if row == "autoencoder_l1" else (difference**2).mean()
    records = mnist_alae.errors_per_pixel(run, folder)
    (found,) = [record["loss"] for record in records if record["split"] == "validation"]
    assert found == pytest.approx(expected, rel=1e-4)
    if run.settings["model"] == "autoencoder":
        (other,) = [r["loss"] for r in mnist_alae.read_metrics(folder / "metrics.jsonl") if r["split"] == "validation"]
        assert other == pytest.approx(64 * expected, rel=1e-4)


def test_interpolations_meet_at_both_ends(trained):
    run = runs.load(trained[0] / "run" / "alae" / "seed_7")
    pictures = mnist_alae.interpolations(run, jax.random.key(1), count=2).reshape(2, 2, 9, 8, 8, 1)
    codes = run.map(jax.random.normal(jax.random.key(1), (2, 2, 3)).reshape(4, 3))
    ends = mnist_alae.to_bytes(run.decode(codes)).reshape(2, 2, 8, 8, 1)  # [end, pair]
    for pair in range(2):
        for step, end in ((0, 0), (-1, 1)):
            for path in range(2):
                difference = pictures[pair, path, step].astype(int) - ends[end, pair]
                assert np.abs(difference).max() <= 1
        middle = np.asarray(codes).reshape(2, 2, 3)[:, pair].mean(0)
        expected = mnist_alae.to_bytes(run.decode(middle[None]))[0].astype(int)
        assert np.abs(pictures[pair, 1, 4] - expected).max() <= 1
    assert (pictures[:, 0] != pictures[:, 1]).any()


# --- once more ------------------------------------------------------------------------------------------------------


def test_a_finished_run_keeps_its_settings(trained):
    folder, results = trained
    assert results["again"]["out"].startswith(f"{folder / 'run'} is finished")
    assert (results["changed"]["code"], results["changed learning rate"]["code"]) == (2, 2)
    assert "config.seeds: [7] before, [8] now" in results["changed"]["err"]
    assert "config.model.r1_weight: 0.3 before, 3.0 now" in results["changed learning rate"]["err"]
    settings = runs.read_settings(folder / "run")
    assert (settings["experiment"], settings["model"]) == ("mnist_alae", "alae")
    assert (
        json.loads((folder / "run" / "finished.json").read_text())["statement"]
        == scores_of(folder / "run")["statement"]
    )


def test_a_run_is_measured_again_with_the_same_numbers(trained):
    folder, results = trained
    assert (results["some"]["code"], results["evaluated"]["code"]) == (0, 0)
    assert_close(scores_of(folder / "run" / "evaluation"), scores_of(folder / "run"))
    done = (folder / "run" / "scores.json").stat().st_mtime_ns
    for row in MODELS:
        (kept,) = (folder / "run" / row / "seed_7").glob("probes_*.json")
        assert kept.stat().st_mtime_ns <= done
    assert "other images" not in results["evaluated"]["err"]
    check_pictures(folder / "run" / "evaluation", 7)


def test_models_are_taken_as_they_are(trained):
    folder, results = trained
    assert (results["misfit"]["code"], results["untrained"]["code"]) == (2, 2)
    assert "was trained with other latent_size than is asked for: 3, not 5" in results["misfit"]["err"]
    assert "seed_8" in results["untrained"]["err"]
    assert not (folder / "run" / "alae" / "seed_8").exists()


def test_a_dry_run_plans_every_row_and_makes_nothing(trained):
    folder, results = trained
    assert results["plan"]["code"] == 0
    for row in MODELS:
        assert f"{row}/seed_7\nparameters:" in results["plan"]["out"]
    # E: 64 pixels to 6, 5 and 3 units.
    assert "encoder: 443" in results["plan"]["out"]
    assert not (folder / "none").exists()


def rewritten(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "half": lambda path: path.write_text(path.read_text()[:40]),
    "empty": lambda path: path.write_text(""),
    "no object": lambda path: path.write_text("[1]"),
    "no key": lambda path: rewritten(path, lambda content: content.pop("of")),
    "no numbers": lambda path: rewritten(path, lambda content: content.update(scores=None)),
    "text": lambda path: rewritten(path, lambda content: content["scores"]["1NN SW short"].update(accuracy="none")),
    "too much": lambda path: rewritten(path, lambda content: content["scores"]["1NN SW short"].update(accuracy=7)),
    "other field": lambda path: rewritten(path, lambda content: content["scores"]["1NN SW short"].update(shade=7)),
    "other step": lambda path: rewritten(path, lambda content: content["of"].update(step=5)),
    "other images": lambda path: rewritten(path, lambda content: content["of"].update(data_sha256="0")),
}


def test_probes_are_kept_for_the_same_alone(trained, tmp_path, monkeypatch):
    run, data = runs.load(trained[0] / "files" / "alae" / "seed_3"), mnist.load(trained[0] / "mnist")
    settings, path, calls = mnist_alae.Evaluation(long_features=False), tmp_path / "probes.json", []

    def measure(*arguments, split):
        calls.append(split)
        return probes.nearest_neighbour_accuracy(*arguments, split=split)

    monkeypatch.setattr(mnist_alae, "_PROBES", {"1NN": measure})
    first = mnist_alae.probed(run, data, settings, path)
    assert calls == ["SW", "DW"]
    assert list(first) == ["1NN SW short", "1NN DW short"]
    details = json.loads(path.read_text())["scores"]["1NN SW short"]
    assert (details["train_examples"], details["test_examples"], details["features"]) == (50, 10, 3)
    rewritten(path, lambda content: content["scores"]["1NN SW short"].update(accuracy=0.125))
    assert mnist_alae.probed(run, data, settings, path) == {**first, "1NN SW short": 0.125}
    assert len(calls) == 2
    more = mnist_alae.probed(run, data, mnist_alae.Evaluation(), path)
    assert (len(calls), more["1NN SW short"], len(more)) == (4, 0.125, 4)  # what was there is not measured again
    assert list(mnist_alae.probed(run, data, settings, path)) == list(first)
    calls.clear()
    path.unlink()
    mnist_alae.probed(run, data, settings, path)
    for count, (name, damage) in enumerate(DAMAGES.items(), start=2):
        damage(path)
        assert mnist_alae.probed(run, data, settings, path) == first, name
        assert len(calls) == 2 * count, name


# --- on files -------------------------------------------------------------------------------------------------------


def test_files_in_the_layout_of_mnist_will_do(trained):
    folder, results = trained
    assert results["files"]["code"] == 0
    scores = scores_of(folder / "files")
    assert list(scores["accuracies"]) == ["alae"]
    trials = scores["accuracies"]["alae"]
    assert list(trials) == ["3", "4"]
    assert list(trials["3"]) == COLUMNS[:4]
    trained_runs = [runs.load(folder / "files" / "alae" / f"seed_{seed}") for seed in (3, 4)]
    for run in trained_runs:
        assert (run.config.image_size, run.config.mapping_layers, run.step) == (5, 6, 3)
    first, second = (run.params["encoder"]["Dense_0"]["kernel"] for run in trained_runs)
    assert (first != second).all()
    report = (folder / "files" / "report.html").read_text()
    values = [100 * trial["SVM DW short"] for trial in trials.values()]
    assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in report
    assert scores["statement"] == "The paper's claim needs ALAE and another row."
    check_pictures(folder / "files", 4)


def test_other_images_are_told(trained):
    folder, results = trained
    assert results["elsewhere"]["code"] == 0
    note = "These are other images than those of the run, which may have been trained on some of them."
    assert note in results["elsewhere"]["err"]
    assert note in (folder / "files" / "evaluation" / "report.html").read_text()
    assert note not in results["files"]["err"]


def test_the_paper_is_of_mnist(trained):
    folder, results = trained
    assert results["without files"]["code"] == 2
    assert "--preset=paper is of MNIST, and data.source is 'digits'; give the path" in results["without files"]["err"]
    assert not (folder / "none").exists()


# --- what needs no training -----------------------------------------------------------------------------------------


def accuracies(**means):
    """Two trials, one percent above and below."""
    return {
        row: {
            seed: {f"SVM {split} short": mean + sign / 100 for split in ("SW", "DW")}
            for seed, sign in ((0, 1), (1, -1))
        }
        for row, mean in means.items()
    }


def test_the_table_by_hand():
    rows = accuracies(alae=0.94)
    (line,) = mnist_alae.table(rows, published=False)
    assert line == {"model": "ALAE", "SVM SW short": "94.00 ± 1.41", "SVM DW short": "94.00 ± 1.41"}
    (line,) = mnist_alae.table(rows, published=True)
    assert line["SVM DW short"] == "94.00 ± 1.41 (94.23)"
    (line,) = mnist_alae.table({"bigan": {5: {"1NN SW long": 0.5}}}, published=True)
    assert line == {"model": "BiGAN", "1NN SW long": "50.00 (97.14)"}


def test_the_claim_is_judged_against_the_best_other_row():
    rows = accuracies(bigan=0.90, alae=0.93, latent_regressor=0.92)
    rows["latent_regressor"][0]["SVM DW short"] = 0.98
    assert mnist_alae.claim(rows) == (
        "The paper's claim, that a linear SVM reads ALAE's codes best: "
        "SW: 93.00 against 92.00 of LR, the best other row, so it holds; "
        "DW: 93.00 against 94.50 of LR, the best other row, so it does not hold."
    )
    for rows in (accuracies(alae=0.9), accuracies(bigan=0.9, latent_regressor=0.8)):
        assert mnist_alae.claim(rows) == "The paper's claim needs ALAE and another row."


def test_the_published_settings():
    config = mnist_alae.PRESETS["paper"]
    assert config.seeds == (0, 1, 2, 3, 4)
    assert config.model == ZOO["alae"].Config()
    data = mnist.load("digits")
    members = config.members(data)
    assert members["bigan/seed_0"].config.encoder == "deterministic"
    ali = dataclasses.replace(config, stochastic_bigan=True).members(data)
    assert {folder.split("/")[0] for folder in members if members[folder] != ali[folder]} == {"bigan"}
    assert ali["bigan/seed_0"].config.encoder == "gaussian"
    assert list(members)[:7] == [*(f"{row}/seed_0" for row in MODELS), "autoencoder_l1/seed_1"]
    assert len(members) == 30
    for folder, member in members.items():
        row, seed = folder.split("/seed_")
        assert (member.model, member.seed) == (MODELS[row], int(seed))
        own = member.config
        assert (own.image_size, own.epochs, own.batch_size, own.latent_size) == (8, 400, 128, 50)
        assert own.learning_rate == (2e-3 if row == "alae" else 2e-4)
        if row in ("bigan", "latent_regressor", "joint_latent_regressor"):
            assert own.decayed_epochs == 200
        if member.model == "autoencoder":
            assert (own.network, own.optimizer, own.output) == ("bigan", "bigan", "sigmoid")
            assert own.error == row.removeprefix("autoencoder_")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--extend"], "--extend: start another workdir, in which all models are trained for longer"),
        (["--config.models=vae"], "models has 'vae'; choose from autoencoder_l1, autoencoder_l2, latent_regressor"),
        (["--config.models=alae,alae"], "models are ('alae', 'alae'); expected at least one, and none twice"),
        (["--config.seeds=1,1"], "seeds are (1, 1); expected at least one, and none twice"),
        (["--config.seeds=-1"], "expected numbers from 0 to 2**32 - 1"),
        (["--config.seed=-1"], "seed is -1"),
        (["--config.data.source="], "data.source is empty; expected 'digits' or a path"),
        (["--config.data.source=nowhere"], "There is no folder or file nowhere"),
        (["--config.model.widths=4"], "encoder_slopes are (0.2, 0.2, 0.01); expected 2 of them for 1 widths"),
        (["--config.model.batch_size=1501"], "batch_size is 1501, expected between 1 and the 1500 examples"),
        (["--config.baseline_learning_rate=0.0"], "learning_rate is 0.0; expected a number above 0"),
        (["--evaluate"], "config.json does not exist; expected the workdir of a run"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_end_with_a_message_before_anything_is_made(tmp_path, capsys, arguments, message):
    assert message in refused(capsys, mnist_alae, tmp_path / "run", *DIGITS[1:], *arguments)
    assert not (tmp_path / "run").exists()
