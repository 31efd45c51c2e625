"""ALAE beside its baselines, from end to end on scikit-learn's digits and on files in MNIST's layout."""

import dataclasses
import html
import json
import struct

import jax
import numpy as np
import pytest
from command_lines import assert_close, check_pictures, refused, script
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from mvae_jax import experiment, runs
from mvae_jax.data.formats import mnist
from mvae_jax.eval.batched import to_bytes
from mvae_jax.experiment import listing
from mvae_jax.experiment.suites import codes as suite
from mvae_jax.models import ZOO
from mvae_jax.train.logging import read_metrics

pytestmark = pytest.mark.slow  # trains a whole experiment

TINY = [
    "--compilation-cache=",
    "--config.model.widths=6,5",
    "--config.model.latent_size=3",
    "--config.model.epochs=1",
]
DIGITS = [*TINY, "--config.model.batch_size=300", "--config.seeds=7", "--config.baseline_learning_rate=0.05"]
MODELS = {row: "autoencoder" if row.startswith("autoencoder") else row for row in suite.PUBLISHED}
SHORT = [
    f"{probe}_{split}_short" for split in ("sw", "dw") for probe in ("nearest_neighbour", "svm", "standardised_svm")
]
KEYS = [*SHORT, *(key.replace("short", "long") for key in SHORT if "standardised" not in key)]


def run(*arguments):
    experiment.run(listing.load("mnist_alae"), ["experiments/mnist_alae.py", *arguments])


def write_mnist(folder):
    """Files of MNIST's layout: 60 images of 5 x 5 pixels to train on and 24 to test, brighter by their label."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", 60), ("t10k", 24)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = (20 * labels[:, None, None] + generator.integers(0, 60, (count, 5, 5))).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """All rows on the digits."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    run(*DIGITS, f"--workdir={folder}")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two trials of ALAE on files."""
    folder = tmp_path_factory.mktemp("files")
    write_mnist(folder / "mnist")
    run(
        "--preset=paper",
        *TINY,
        "--config.model.batch_size=20",
        "--config.models=alae",
        "--config.seeds=3,4",
        "--config.evaluation.long_features=false",
        f"--config.data.source={folder / 'mnist'}",
        f"--workdir={folder / 'run'}",
    )
    return folder / "run"


def scores_of(folder):
    return json.loads((folder / "scores.json").read_text())["codes"]


# --- on the digits --------------------------------------------------------------------------------------------------


def test_all_rows_are_trained_and_classified(digits):
    scores = scores_of(digits)
    assert list(scores["accuracies"]) == list(MODELS)
    for row, model in MODELS.items():
        trained = runs.load(digits / row / "seed_7")
        assert (trained.settings["model"], trained.settings["config"]["seed"], trained.step) == (model, 7, 5)
        assert (trained.config.image_size, trained.config.channels, trained.config.widths) == (8, 1, (6, 5))
        if model != "alae":
            assert trained.config.learning_rate == 0.05
        (seed,) = scores["accuracies"][row]
        assert seed == "7"
        assert list(scores["accuracies"][row][seed]) == KEYS
    assert runs.load(digits / "autoencoder_l1" / "seed_7").config.error == "l1"


def test_scores_are_those_of_scikit_learn(digits):
    data, alae = mnist.load("digits"), runs.load(digits / "alae" / "seed_7")
    accuracies = scores_of(digits)["accuracies"]["alae"]["7"]
    inner, outer = mnist.split_same_writers(1500)
    assert (len(inner), len(outer), len(data.validation)) == (1250, 250, 297)
    for kind, function in (("short", lambda x: alae.encode(x)[0]), ("long", alae.features)):
        train, test = (
            np.asarray(function(split["image"] / np.float32(127.5) - 1)) for split in (data.train, data.validation)
        )
        assert train.shape[1] == {"short": 3, "long": 5}[kind]
        labels, test_labels = data.train["label"], data.validation["label"]
        for split, cut in (
            ("sw", (train[inner], labels[inner], train[outer], labels[outer])),
            ("dw", (train, labels, test, test_labels)),
        ):
            for probe, classifier in (
                ("nearest_neighbour", KNeighborsClassifier(1, algorithm="brute")),
                ("svm", LinearSVC(C=0.02, max_iter=5000, dual=False)),
            ):
                expected = classifier.fit(*cut[:2]).score(*cut[2:])
                assert accuracies[f"{probe}_{split}_{kind}"] == pytest.approx(expected, abs=1.5 / len(cut[2]))
    # What little was learnt is more than guessing.
    assert accuracies["nearest_neighbour_dw_long"] > 0.2


def test_labels_of_reconstructions_are_those_of_scikit_learn(digits):
    data = mnist.load("digits")
    x, test = (split["image"] / np.float32(127.5) - 1 for split in (data.train, data.validation))
    classifier = KNeighborsClassifier(1, algorithm="brute").fit(x.reshape(1500, -1), data.train["label"])
    scores = json.loads((digits / "scores.json").read_text())["labels"]
    report, tolerance = (digits / "report.html").read_text(), 1.5 / 297
    expected = classifier.score(test.reshape(297, -1), data.validation["label"])
    assert scores["originals"]["accuracy"] == pytest.approx(expected, abs=tolerance)
    assert expected > 0.95
    assert list(scores["reconstructions"]) == list(MODELS)
    for row, by_seed in scores["reconstructions"].items():
        trained = runs.load(digits / row / "seed_7")
        again = np.asarray(trained.decode(trained.encode(test)[0])).reshape(297, -1)
        (share,) = by_seed["7"].values()
        assert share == pytest.approx(classifier.score(again, data.validation["label"]), abs=tolerance)
        assert f"{100 * share:.2f}" in report


def test_path_lengths_are_in_scores_and_report(digits, files):
    report = (digits / "report.html").read_text()
    lengths = json.loads((digits / "scores.json").read_text())["path_lengths"]
    assert list(lengths) == ["alae/seed_7", "mean"]
    assert lengths["mean"] == lengths["alae/seed_7"]
    assert min(lengths["mean"].values()) > 0
    assert "Whole paths are shorter in W in" in report
    assert "W, its start" in report
    several = json.loads((files / "scores.json").read_text())["path_lengths"]
    assert list(several) == ["alae/seed_3", "alae/seed_4", "mean"]
    assert several["alae/seed_3"]["w_full"] != several["alae/seed_4"]["w_full"]


def test_the_report_shows_table_claim_and_figures(digits):
    check_pictures(digits, 7)
    names = {path.stem for path in (digits / "figures").iterdir()}
    assert names == {"reconstructions", "interpolations", "reconstruction_error"} | {
        f"samples_{row}" for row in list(MODELS)[2:]
    }
    report, scores = (digits / "report.html").read_text(), scores_of(digits)
    for row, trials in scores["accuracies"].items():
        assert suite.TITLES[row] in report
        for value in trials["7"].values():
            assert f"{100 * value:.2f}" in report
    assert "(97.15)" not in report  # the paper's values are of other images
    assert html.escape(scores["statement"]) in report
    # After five steps reconstructions tell nothing, which the report says.
    signs = json.loads((digits / "scores.json").read_text())["stability"]
    assert list(signs) == [f"{row}/seed_7" for row in MODELS]
    assert [row.split("/")[0] for row, sign in signs.items() if sign["spread"] is None] == list(MODELS)[:2]
    noted = {row: problem for row, sign in signs.items() for problem in sign["problems"]}
    assert "latent_regressor/seed_7" in noted
    for row, problem in noted.items():
        assert html.escape(f"{suite.TITLES[row.split('/')[0]]}, seed 7: {problem}") in report


@pytest.mark.parametrize("row", ["autoencoder_l1", "autoencoder_l2", "latent_regressor"])
def test_curves_are_errors_per_pixel(digits, row):
    folder = digits / row / "seed_7"
    trained, x = runs.load(folder), mnist.load("digits").validation["image"] / np.float32(255)
    difference = np.asarray(trained.decode(trained.encode(2 * x - 1)[0])) / 2 + 0.5 - x
    expected = np.abs(difference).mean() if row == "autoencoder_l1" else (difference**2).mean()
    records = read_metrics(folder / "metrics.jsonl")
    (error,) = [line["loss"] for line in suite.errors_per_pixel(trained, records) if line["split"] == "validation"]
    assert error == pytest.approx(expected, rel=1e-4)
    if trained.settings["model"] == "autoencoder":
        (loss,) = [line["loss"] for line in records if line["split"] == "validation"]
        assert loss == pytest.approx(64 * expected, rel=1e-4)


def test_interpolations_meet_at_both_ends(digits):
    alae = runs.load(digits / "alae" / "seed_7")
    pictures = suite.interpolations(alae, jax.random.key(1), count=2).reshape(2, 2, 9, 8, 8, 1)
    codes = alae.map(jax.random.normal(jax.random.key(1), (2, 2, 3)).reshape(4, 3))
    ends = to_bytes(alae.decode(codes)).reshape(2, 2, 8, 8, 1)  # [end, pair]
    for pair in range(2):
        for step, end in ((0, 0), (-1, 1)):
            for path in range(2):
                difference = pictures[pair, path, step].astype(int) - ends[end, pair]
                assert np.abs(difference).max() <= 1
        middle = np.asarray(codes).reshape(2, 2, 3)[:, pair].mean(0)
        expected = to_bytes(alae.decode(middle[None]))[0].astype(int)
        assert np.abs(pictures[pair, 1, 4] - expected).max() <= 1
    assert (pictures[:, 0] != pictures[:, 1]).any()


def test_some_rows_are_measured_again_from_the_probes_that_were_kept(digits):
    kept = {row: next((digits / row / "seed_7").glob("probes_*.json")) for row in MODELS}
    before = {row: path.stat().st_mtime_ns for row, path in kept.items()}
    run(
        "--compilation-cache=",
        "--evaluate",
        f"--workdir={digits}",
        "--config.models=bigan,alae",
        "--config.evaluation.long_features=false",
    )
    accuracies = scores_of(digits / "evaluation")["accuracies"]
    first = scores_of(digits)["accuracies"]
    assert list(accuracies) == ["bigan", "alae"]
    for row in accuracies:
        assert_close(accuracies[row]["7"], {key: first[row]["7"][key] for key in SHORT})
    assert {row: path.stat().st_mtime_ns for row, path in kept.items()} == before
    check_pictures(digits / "evaluation", 5)


def test_a_trial_that_was_not_trained_cannot_be_measured(digits, capsys):
    message = refused(capsys, "mnist_alae", digits, "--compilation-cache=", "--evaluate", "--config.seeds=7,8")
    assert "seed_8" in message
    assert not (digits / "alae" / "seed_8").exists()


# --- on files -------------------------------------------------------------------------------------------------------


def test_files_in_the_layout_of_mnist_will_do(files):
    scores = scores_of(files)
    assert list(scores["accuracies"]) == ["alae"]
    trials = scores["accuracies"]["alae"]
    assert list(trials) == ["3", "4"]
    assert list(trials["3"]) == SHORT
    trained = [runs.load(files / "alae" / f"seed_{seed}") for seed in (3, 4)]
    for alae in trained:
        assert (alae.config.image_size, alae.config.mapping_layers, alae.step) == (5, 6, 3)
    first, second = (alae.params["encoder"]["Dense_0"]["kernel"] for alae in trained)
    assert (first != second).all()
    report = (files / "report.html").read_text()
    values = [100 * trial["svm_dw_short"] for trial in trials.values()]
    assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in report
    assert scores["statement"] == "The paper's claim needs ALAE and another row."
    check_pictures(files, 4)


# --- what needs no training -----------------------------------------------------------------------------------------


def test_the_published_settings():
    module = script("mnist_alae")
    config, data = module.EXPERIMENT.presets["paper"], mnist.load("digits")
    assert config.seeds == (0, 1, 2, 3, 4)
    assert config.model == ZOO["alae"].config()
    members = module.members(config, data)
    assert members["bigan/seed_0"].config.encoder == "deterministic"
    ali = module.members(dataclasses.replace(config, stochastic_bigan=True), data)
    assert {folder.split("/")[0] for folder in members if members[folder] != ali[folder]} == {"bigan"}
    assert ali["bigan/seed_0"].config.encoder == "gaussian"
    assert list(members)[:7] == [*(f"{row}/seed_0" for row in MODELS), "autoencoder_l1/seed_1"]
    assert len(members) == 30
    for folder, member in members.items():
        row, seed = folder.split("/seed_")
        assert (member.model, member.seed) == (MODELS[row], int(seed))
        chosen = member.config
        assert (chosen.image_size, chosen.epochs, chosen.batch_size, chosen.latent_size) == (8, 400, 128, 50)
        assert chosen.learning_rate == (2e-3 if row == "alae" else 2e-4)
        if row in ("bigan", "latent_regressor", "joint_latent_regressor"):
            assert (chosen.decayed_epochs, chosen.norm_epsilon) == (200, 1e-8)
        if member.model == "autoencoder":
            assert (chosen.network, chosen.optimizer, chosen.output) == ("bigan", "bigan", "sigmoid")
            assert chosen.error == row.removeprefix("autoencoder_")


def test_the_size_is_that_of_the_digits(tmp_path, capsys):
    run(*DIGITS, "--config.model.image_size=8", "--dry-run", f"--workdir={tmp_path / 'run'}")
    plan = capsys.readouterr().out
    for row in MODELS:
        assert f"{row}/seed_7" in plan
    assert "encoder: 443" in plan  # E: 64 pixels to 6, 5 and 3 units
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.model.image_size=99"], "--config.model.image_size changes none of the models that are trained"),
        (
            ["--config.stochastic_bigan=true", "--config.models=autoencoder_l1"],
            "--config.stochastic_bigan changes none of the",
        ),
        (["--extend"], "cannot be extended"),
        (["--preset=paper"], "There is no folder or zip mnist"),
        (["--config.models=vae"], "models has 'vae'; choose from autoencoder_l1, autoencoder_l2, latent_regressor"),
        (["--config.models=alae,alae"], "models are ('alae', 'alae'); expected at least one, and none twice"),
        (["--config.seeds=1,1"], "seeds are (1, 1); expected at least one, and none twice"),
        (["--config.seeds=-1"], "expected numbers from 0 to 2**32 - 1"),
        (["--config.seed=-1"], "seed is -1"),
        (["--config.data.source="], "data.source is empty; expected"),
        (["--config.model.widths=4"], "encoder_slopes are (0.2, 0.2, 0.01); expected 2 of them for 1 widths"),
        (["--config.model.batch_size=1501"], "batch_size is 1501, expected between 1 and the 1500 examples"),
        (["--config.baseline_norm_epsilon=0.0"], "norm_epsilon is 0.0; expected a number above 0"),
        (["--config.baseline_learning_rate=0.0"], "learning_rate is 0.0; expected a number above 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_end_with_a_message_before_anything_is_made(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "mnist_alae", tmp_path / "run", *DIGITS, *arguments)
    assert list(tmp_path.iterdir()) == []
