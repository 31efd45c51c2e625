"""Table, claim, and accuracies that are kept beside a trial."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from mvae_jax import experiment, runs
from mvae_jax.data.batches import Split, Splits
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
        "SW: 93.00 against 92.00 of latent regressor, the best other row, so it holds; "
        "DW: 93.00 against 94.50 of latent regressor, the best other row, so it does not hold."
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
        "ALAE, seed 4, SVM SW short: the SVM has not converged; its accuracy may be too low."
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
    assert first.startswith("BiGAN, seed 3: The samples are nearly all of one kind: 100.0% are called 0")
    assert second.startswith("autoencoder, l1, seed 3: The reconstructions tell nothing of their images")
    copies.sample = lambda key, count: np.full((count, 4, 4, 1), np.nan)
    assert suite.stability(of_both)["bigan/seed_3"].problems == ("20 of 20 samples hold values that are not finite.",)


# --- labels of reconstructions ---------------------------------------------------------------------------------------


def coder(decode, seed=3):
    """A run whose codes are images."""
    return types.SimpleNamespace(
        encode=lambda x: (x, None), decode=decode, settings={"config": {"seed": seed}}, model=types.SimpleNamespace()
    )


def labelled(**decoders):
    """Labels of digits whose held-out ones have their true neighbour among the training images in nine of ten cases."""
    data = digits(train=60, validation=20)
    images = data.train["image"][:20].copy()
    images[0, 0, 0] ^= 1
    truth = data.train["label"][:20].copy()
    truth[[4, 9]] += 1
    data = dataclasses.replace(data, validation=Split({"image": images, "label": truth}))
    fitted = {f"{row}/seed_{seed}": coder(decode, seed) for row, of in decoders.items() for seed, decode in of.items()}
    of_all = experiment.Trained(None, fitted, data, None, {})
    return of_all, suite.labels(of_all)


def test_what_gives_back_the_original_keeps_as_many_labels_as_the_classifier_reads():
    def one_is_another(x):
        """The first digit is drawn as the second; the others are brighter."""
        return np.concatenate([x[1:2], x[1:] + 0.01])

    def broken(x):
        return np.where(np.arange(len(x))[:, None, None, None] < 5, np.nan, x)

    trained, result = labelled(alae={3: lambda x: x}, bigan={1: one_is_another, 2: lambda x: 0 * x, 4: broken})
    assert (result.originals.accuracy, result.originals.train_examples, result.originals.test_examples) == (0.9, 60, 20)
    kept = {row: [share["labels_kept"] for share in of.values()] for row, of in result.reconstructions.items()}
    x, truth = trained.data.train["image"].reshape(60, -1) / 127.5 - 1, trained.data.validation["label"]
    grey = trained.data.train["label"][np.square(x).sum(1).argmin()]
    assert kept == {"alae": [0.9], "bigan": [0.85, (truth == grey).mean(), (20 - 5 - 1) / 20]}
    assert kept["bigan"][1] < 0.3
    rows = suite.label_rows(result)
    assert rows[:2] == [{"model": "originals", "labels kept": "90.00"}, {"model": "ALAE", "labels kept": "90.00"}]
    spread = 100 * np.std(kept["bigan"], ddof=1)
    assert rows[2]["labels kept"].endswith(f" ± {spread:.2f}")
    assert suite.label_lines(trained, result)[1] == "ALAE: labels kept 90.00 %"
    plain = pages.plain(result)
    assert plain["originals"]["method"] == "1 nearest neighbour, Euclidean"
    assert plain["reconstructions"]["alae"] == {"3": {"labels_kept": 0.9}}


# --- path lengths ----------------------------------------------------------------------------------------------------


def test_path_lengths_of_a_linear_generator_are_those_of_a_loop():
    """G(w) = A w / 2 in [0, 1] has the length |A (b - a)|^2 everywhere on a line; in Z the bends of F count as well."""
    config = alae.ALAEConfig(
        image_size=4, channels=1, widths=(6, 5), generator_slopes=(1.0, 1.0), latent_size=3, compute_dtype="bfloat16"
    )
    model, batch = alae.mlp.build(config), digits().train.first(2).arrays
    fitted = {}
    for seed in (3, 4):
        params, state = jax.jit(model.init)(jax.random.key(seed), batch)
        settings = {"model": "alae", "config": {"seed": seed}}
        fitted[f"alae/seed_{seed}"] = runs.Run(model, config, params, state, "training", 0, settings)
    of_both = experiment.Trained(types.SimpleNamespace(seed=0), fitted, None, None, {})
    rows = suite.path_lengths(of_both)
    assert list(rows) == ["alae/seed_3", "alae/seed_4", "mean"]
    for folder, run in fitted.items():
        kernels = [np.float64(run.params["generator"][f"Dense_{layer}"]["kernel"]) for layer in range(3)]
        matrix = kernels[0] @ kernels[1] @ kernels[2]
        z = np.random.default_rng(0).normal(size=(2, 100_000, 3))
        along_z = z / np.linalg.norm(z, axis=-1, keepdims=True)
        a, b = (mapped(run, end) for end in along_z)
        expected = trimmed(np.square((b - a) @ matrix).sum(1))
        assert rows[folder]["w_full"] == pytest.approx(expected, rel=0.05)
        assert rows[folder]["w_end"] == pytest.approx(rows[folder]["w_full"], rel=2e-3)
        # Z, at the start: the step of an arc of 1e-3 of the way, in double precision.
        u, to = along_z
        angle = np.arccos((u * to).sum(1, keepdims=True))
        across = (to - np.cos(angle) * u) / np.sin(angle)
        ahead = np.cos(1e-3 * angle) * u + np.sin(1e-3 * angle) * across
        steps = np.square((mapped(run, ahead) - mapped(run, u)) @ matrix).sum(1) / 1e-6
        assert rows[folder]["z_end"] == pytest.approx(trimmed(steps), rel=0.2)  # speeds have a heavy tail
        assert abs(rows[folder]["z_end"] / rows[folder]["w_end"] - 1) > 0.1
    for name in ("z_full", "z_end", "w_full", "w_end"):
        assert rows["mean"][name] == pytest.approx((rows["alae/seed_3"][name] + rows["alae/seed_4"][name]) / 2)


def mapped(run, z):
    """F in double precision: pixel norm and six layers with leaky ReLUs of slope .2."""
    h = z / np.sqrt(np.square(z).mean(1, keepdims=True) + 1e-8)
    for layer in range(6):
        dense = {name: np.float64(value) for name, value in run.params["mapping"][f"Dense_{layer}"].items()}
        h = h @ dense["kernel"] + dense["bias"]
        h = np.where(h > 0, h, 0.2 * h)
    return h


def trimmed(values):
    """Mean of those within the first and the last percent."""
    ordered = np.sort(values)
    return ordered[len(values) // 100 : -len(values) // 100].mean()


def test_only_alae_has_two_spaces_of_latents():
    of_bigan = experiment.Trained(types.SimpleNamespace(seed=0), {"bigan/seed_3": coder(None)}, None, None, {})
    assert suite.path_lengths(of_bigan) == {}
    assert suite.explain_path_lengths(of_bigan, {}).startswith("ALAE alone has two spaces of latents")
    lengths = {"alae/seed_3": {"z_full": 2.0, "w_full": 1.0}, "alae/seed_4": {"z_full": 1.0, "w_full": 2.0}}
    text = suite.explain_path_lengths(of_bigan, lengths | {"mean": {"z_full": 1.5, "w_full": 1.5}})
    assert "Whole paths are shorter in W in 1 of 2 trials." in text
