"""Table, claim, and accuracies that are kept beside a trial."""

import json
import types

import numpy as np
import pytest

from mvae_jax import experiment, runs
from mvae_jax.data.batches import Splits
from mvae_jax.eval import probes
from mvae_jax.experiment import pages
from mvae_jax.experiment.suites import codes as suite
from mvae_jax.models import alae


def digits(train=60, validation=20, labels=10):
    """Random images of 4 x 4 pixels."""
    count, generator = train + validation, np.random.default_rng(0)
    arrays = {
        "image": generator.integers(0, 256, (count, 4, 4, 1), np.uint8),
        "label": (np.arange(count) % labels).astype(np.int32),
        "index": np.arange(count, dtype=np.int32),
    }
    return Splits.cut(arrays, train, validation, (), {"data_set": "random images"})


def accuracies(**means):
    """Two trials, one percent above and below."""
    return {
        row: {
            seed: {f"svm_{split}_short": mean + sign / 100 for split in ("sw", "dw")}
            for seed, sign in ((0, 1), (1, -1))
        }
        for row, mean in means.items()
    }


def test_the_table_by_hand():
    rows = accuracies(alae=0.94)
    (line,) = suite.table(rows, published=False)
    assert line == {"model": "ALAE", "SVM SW short": "94.00 ± 1.41", "SVM DW short": "94.00 ± 1.41"}
    (line,) = suite.table(rows, published=True)
    assert line["SVM SW short"] == "94.00 ± 1.41 (93.47)"
    assert line["SVM DW short"] == "94.00 ± 1.41 (94.23)"
    (line,) = suite.table({"bigan": {5: {"nearest_neighbour_sw_long": 0.5}}}, published=True)
    assert line == {"model": "BiGAN", "1NN SW long": "50.00 (97.14)"}
    (line,) = suite.table({"bigan": {5: {"standardised_svm_dw_short": 0.5}}}, published=True)
    assert line == {"model": "BiGAN", "standardised SVM DW short": "50.00"}


def test_the_claim_is_of_the_best_other_row():
    rows = accuracies(bigan=0.90, alae=0.93, latent_regressor=0.92)
    rows["latent_regressor"][0]["svm_dw_short"] = 0.98
    assert suite.claim(rows) == (
        "The paper's claim, that a linear SVM reads ALAE's codes best: "
        "SW: 93.00 against 92.00 of LR, the best other row, so it holds; "
        "DW: 93.00 against 94.50 of LR, the best other row, so it does not hold."
    )
    for rows in (accuracies(alae=0.9), accuracies(bigan=0.9, latent_regressor=0.8)):
        assert suite.claim(rows) == "The paper's claim needs ALAE and another row."


def test_an_svm_that_has_not_converged_is_a_problem():
    labels = np.arange(40) % 2
    codes = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    score = probes.linear_svm_accuracy(codes, labels, codes, labels, split="SW")
    assert score.converged
    stopped = probes.ProbeScore(**score.to_dict() | {"converged": False})
    readings = suite.Readings({"alae": {3: {"svm_sw_short": score}, 4: {"svm_sw_short": stopped}}})
    assert suite.problems(None, {"codes": readings, "stability": {}}) == [
        "alae/seed_4, SVM SW short: the SVM has not converged; its accuracy may be too low."
    ]
    plain = pages.plain(readings)
    assert plain["accuracies"] == {"alae": {seed: {"svm_sw_short": score.accuracy} for seed in ("3", "4")}}
    assert plain["statement"] == "The paper's claim needs ALAE and another row."


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 59}, "there are 59 images to train on and 20 held out; expected at least 60"),
        ({"labels": 1}, "in both images of at least two labels"),
        ({"validation": 1}, "in both images of at least two labels"),
    ],
)
def test_images_that_cannot_be_told_apart_are_refused(sizes, message):
    suite.check(digits())
    with pytest.raises(ValueError, match=message):
        suite.check(digits(**sizes))


# --- accuracies that are kept ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny ALAE on random images."""
    config = alae.ALAEConfig(image_size=4, channels=1, widths=(6, 5), latent_size=3, epochs=1, batch_size=20)
    data = digits()
    return runs.train(tmp_path_factory.mktemp("alae"), "alae", config, data, seed=3), data


def rewritten(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


KEY = "nearest_neighbour_sw_short"
DAMAGES = {
    "missing": lambda path: path.unlink(),
    "half": lambda path: path.write_text(path.read_text()[:40]),
    "empty": lambda path: path.write_text(""),
    "no object": lambda path: path.write_text("[1]"),
    "no key": lambda path: rewritten(path, lambda content: content.pop("of")),
    "no numbers": lambda path: rewritten(path, lambda content: content.update(scores=None)),
    "text": lambda path: rewritten(path, lambda content: content["scores"][KEY].update(accuracy="none")),
    "too much": lambda path: rewritten(path, lambda content: content["scores"][KEY].update(accuracy=7)),
    "other field": lambda path: rewritten(path, lambda content: content["scores"][KEY].update(shade=7)),
    "other name": lambda path: rewritten(path, lambda content: content["scores"].update(knn=content["scores"][KEY])),
    "other step": lambda path: rewritten(path, lambda content: content["of"].update(step=5)),
    "other images": lambda path: rewritten(path, lambda content: content["of"].update(data_sha256="0")),
}


def test_probes_are_kept_for_the_same_alone(trained, tmp_path, monkeypatch):
    run, data = trained
    settings, path, calls = suite.Evaluation(long_features=False), tmp_path / "probes.json", []

    def accuracy(*arguments, split):
        calls.append(split)
        return probes.nearest_neighbour_accuracy(*arguments, split=split)

    monkeypatch.setattr(suite, "_PROBES", {"nearest_neighbour": accuracy})
    first = suite.probed(run, data, settings, path)
    assert calls == ["SW", "DW"]
    assert list(first) == [KEY, "nearest_neighbour_dw_short"]
    assert (first[KEY].train_examples, first[KEY].test_examples, first[KEY].features) == (50, 10, 3)
    rewritten(path, lambda content: content["scores"][KEY].update(accuracy=0.125))
    again = suite.probed(run, data, settings, path)
    assert (again[KEY].accuracy, len(calls)) == (0.125, 2)
    # Older files name the accuracies as the table does.
    rewritten(path, lambda content: content["scores"].update({"1NN SW short": content["scores"].pop(KEY)}))
    assert suite.probed(run, data, settings, path) == again
    assert len(calls) == 2
    more = suite.probed(run, data, suite.Evaluation(), path)
    assert (len(calls), more[KEY].accuracy, len(more)) == (4, 0.125, 4)  # what was there is not measured again
    assert suite.probed(run, data, settings, path) == again
    # What an older file has not is added.
    rewritten(path, lambda content: content["scores"].pop("nearest_neighbour_dw_short"))
    assert suite.probed(run, data, settings, path) == again
    assert (len(calls), calls[-1]) == (5, "DW")
    calls.clear()
    path.unlink()
    suite.probed(run, data, settings, path)
    for count, (name, damage) in enumerate(DAMAGES.items(), start=2):
        damage(path)
        assert suite.probed(run, data, settings, path) == first, name
        assert len(calls) == 2 * count, name


def test_the_accuracies_lie_beside_each_trial(trained, tmp_path):
    run, data = trained
    config = type("Config", (), {"evaluation": suite.Evaluation(long_features=False)})
    folder = tmp_path / "alae" / "seed_3"
    folder.mkdir(parents=True)
    readings = suite.measure(experiment.Trained(config, {"alae/seed_3": run}, data, None, {}, workdir=tmp_path))
    contents = json.loads((folder / f"probes_{data.sha256()[:12]}.json").read_text())
    assert contents["of"] == {"step": 3, "data_sha256": data.sha256()}
    scores = {key: score.to_dict() for key, score in readings.scores["alae"][3].items()}
    assert contents["scores"] == scores
    assert list(scores) == list(suite.WORDS)[:6]


def test_a_generator_of_one_digit_and_grey_reconstructions_are_named():
    """Random images of ten labels; samples are copies of those of label 0, reconstructions are grey."""
    data = digits()
    zeros = data.train["image"][data.train["label"] == 0] / np.float32(127.5) - 1
    copies = types.SimpleNamespace(
        model=types.SimpleNamespace(sample=True),
        sample=lambda key, count: np.resize(zeros, (count, 4, 4, 1)),
        encode=lambda x: (x, None),
        decode=lambda codes: codes,
    )
    grey = types.SimpleNamespace(
        model=types.SimpleNamespace(sample=None), encode=lambda x: (x, None), decode=lambda codes: 0 * codes
    )
    fitted = {"bigan/seed_3": copies, "autoencoder_l1/seed_3": grey}
    config = types.SimpleNamespace(seed=0)
    of_both = experiment.Trained(config, fitted, data, None, dict.fromkeys(fitted, ()))
    signs = suite.stability(of_both)
    assert (signs["bigan/seed_3"].label_share, signs["bigan/seed_3"].reconstruction_error) == (1, 0)
    first, second = suite.problems(of_both, {"codes": suite.Readings({}), "stability": signs})
    assert first.startswith("BiGAN, seed_3: The samples are nearly all of one kind: 100.0% are called 0")
    assert second.startswith("AE, l1, seed_3: The reconstructions tell nothing of their images")
    copies.sample = lambda key, count: np.full((count, 4, 4, 1), np.nan)
    assert suite.stability(of_both)["bigan/seed_3"].problems == ("20 of 20 samples hold values that are not finite.",)
