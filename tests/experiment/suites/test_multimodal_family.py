"""Tables, curves and words of the comparison of multimodal VAEs, and the scores of models that are known by hand."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from mvae_jax import gaussian, runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import fid
from mvae_jax.eval.features import Features
from mvae_jax.experiment import pages
from mvae_jax.experiment.declaration import Trained
from mvae_jax.experiment.suites import family_figures, modalities
from mvae_jax.experiment.suites import multimodal_family as suite
from mvae_jax.experiment.suites.family_rows import KINDS, Comparison, Row, Spread, title_of, word
from mvae_jax.experiment.suites.modalities import Modalities
from mvae_jax.models import multimodal, multimodal_vaes

# --- rows -----------------------------------------------------------------------------------------------------------

SCORES = {
    ("mvae", 0.0): {1: (0.90, 0.80, 20.0), 2: (0.94, 0.70, 22.0)},
    ("mvae", 0.9): {1: (0.60, 0.60, 30.0), 2: (0.64, 0.60, 34.0)},
    ("multimodal", 0.0): {1: (0.80, 0.75, 40.0), 2: (0.80, 0.75, 40.0)},
    ("multimodal", 0.9): {1: (0.70, 0.50, 50.0), 2: (0.76, 0.50, 50.0)},
}
ROWS = {
    f"{model}/hidden_{share:g}": Row(
        model,
        share,
        {
            seed: {"image_to_text": read, "text_to_image": drawn, "frechet_given_1": distance}
            | ({"log_joint": 10.0 * seed} if model == "mvae" else {})
            for seed, (read, drawn, distance) in trials.items()
        },
    )
    for (model, share), trials in SCORES.items()
}
REFERENCES = {
    "always the more frequent answer": {"image_to_text": 0.65, "text_to_image": 0.65},
    "held-out images themselves": {"text_to_image": 0.95},
    "training images": {"frechet_given_0": 3.0},
}
WHOLE = Comparison(ROWS, REFERENCES)
RESULTS = {kind: WHOLE.of(kind) for kind in KINDS}
DATA = Splits.cut(
    {"image": np.zeros((8, 2, 2, 3), np.uint8), "attributes": np.float32(np.arange(16).reshape(8, 2) % 3 == 0)},
    *(4, 4, ("smiling", "red_car"), {}),
)


def trained(data=DATA, classifier=None, seeds=(1, 2), **evaluation):
    settings = modalities.Evaluation(**{"images": 4, "likelihood_samples": 2, **evaluation})
    config = SimpleNamespace(seed=0, seeds=seeds, evaluation=settings, models=("mvae", "multimodal"))
    return Trained(config, {}, data, classifier, {})


def test_a_spread_is_the_mean_and_the_deviation_of_a_sample():
    spread = ROWS["mvae/hidden_0"].spread("image_to_text")
    assert (spread.mean, spread.n) == (pytest.approx(0.92), 2)
    assert spread.deviation == pytest.approx(0.04 / np.sqrt(2))  # two values lie half of it from their mean, n - 1 = 1
    assert Spread.of([0.5]) == Spread(0.5, None, 1)
    assert ROWS["multimodal/hidden_0"].spread("log_joint") is None


def test_a_table_has_means_deviations_and_what_to_compare_them_with():
    rows = suite.table(RESULTS["agreement"], 0.9)
    read, drawn = word("image_to_text"), word("text_to_image")
    assert rows == [
        {"model": "MVAE", read: "0.6200 ± 0.0283", drawn: "0.60 ± 0.00", "n": 2},
        {"model": "Kim's model", read: "0.7300 ± 0.0424", drawn: "0.50 ± 0.00", "n": 2},
        {"model": "always the more frequent answer", read: "0.6500", drawn: "0.65", "n": None},
        {"model": "held-out images themselves", read: None, drawn: "0.95", "n": None},
    ]
    joint = word("log_joint")
    assert suite.table(RESULTS["likelihoods"], 0.0) == [
        {"model": "MVAE", joint: "15.00 ± 7.07", "n": 2},
        {"model": "Kim's model", joint: None, "n": 2},
    ]


def test_a_table_of_one_seed_has_numbers():
    single = Comparison(
        {label: dataclasses.replace(row, trials={1: row.trials[1]}) for label, row in ROWS.items()}, REFERENCES
    )
    first, *_ = suite.table(single.of("agreement"), 0.0)
    assert first == {"model": "MVAE", word("image_to_text"): 0.90, word("text_to_image"): 0.80, "n": 1}


def test_scores_have_spreads_trials_and_references():
    found = pages.plain(RESULTS["distances"])
    assert found["rows"]["mvae/hidden_0.9"] == {
        "model": "mvae",
        "hidden": 0.9,
        "frechet_given_1": {"mean": 32.0, "deviation": pytest.approx(np.sqrt(8)), "n": 2},
    }
    assert found["trials"]["mvae/hidden_0.9"] == {"1": {"frechet_given_1": 30.0}, "2": {"frechet_given_1": 34.0}}
    assert found["references"] == {"training images": {"frechet_given_0": 3.0}}
    whole = Comparison.joined(RESULTS)
    assert {label: row.trials for label, row in whole.rows.items()} == {n: row.trials for n, row in ROWS.items()}
    assert whole.references == REFERENCES


def test_curves_have_every_seed_at_every_share():
    curves = family_figures.curves_of(WHOLE)
    assert curves == {
        word("image_to_text"): {
            "MVAE": {0.0: [0.90, 0.94], 0.9: [0.60, 0.64]},
            "Kim's model": {0.0: [0.80, 0.80], 0.9: [0.70, 0.76]},
        },
        word("text_to_image"): {
            "MVAE": {0.0: [0.80, 0.70], 0.9: [0.60, 0.60]},
            "Kim's model": {0.0: [0.75, 0.75], 0.9: [0.50, 0.50]},
        },
        "Frechet distance, given 1 other": {
            "MVAE": {0.0: [20.0, 22.0], 0.9: [30.0, 34.0]},
            "Kim's model": {0.0: [40.0, 40.0], 0.9: [50.0, 50.0]},
        },
    }


def test_problems_name_models_that_are_no_better_than_guessing():
    found = suite.problems(trained(), RESULTS)
    assert found == [
        "Image to text, accuracy: no better than the baseline of 0.650 are MVAE, 90% hidden.",
        "Text to image, accuracy: no better than the baseline of 0.650 are MVAE, 90% hidden; Kim's model, 90% hidden.",
    ]
    one = Comparison({"mvae/hidden_0.9": ROWS["mvae/hidden_0.9"]}, REFERENCES)
    assert suite.problems(trained(), {kind: one.of(kind) for kind in KINDS}) == [
        "Image to text, accuracy; text to image, accuracy: no better than the baseline of 0.650 are all models.",
    ]
    digits = {
        f"{model}/hidden_0": Row(model, 0.0, {1: {"coherence_joint": 1.0, "coherence_classes": classes}})
        for model, classes in {"mvae": 1.1, "jmvae": 7.0}.items()
    }
    assert suite.problems(trained(), {kind: Comparison(digits, {}).of(kind) for kind in KINDS}) == [
        "Draws from the prior show fewer than 2 digits in the mean, so that it says nothing whether all views agree: "
        "MVAE, 0% hidden.",
    ]
    blind = {**REFERENCES, "held-out images themselves": {"text_to_image": 0.6}}
    results = {kind: Comparison(ROWS, blind).of(kind) for kind in KINDS}
    *_, unreadable, chance = suite.problems(trained(seeds=(1,)), results)
    assert unreadable.startswith("The classifier reads real images no better (0.600) than the baseline (0.650)")
    assert chance.startswith("Each model was trained from one seed")


def test_the_headline_is_of_the_largest_share_beside_guessing():
    first, second = suite.headline(trained(), RESULTS).numbers
    assert (first.value, first.better) == ("73.0%", True)
    assert first.text.startswith("of the attributes are right as Kim's model reads them from images; it saw those of 1")
    assert first.baseline == "guessing: 65.0%; the best with 0% hidden: 92.0%"
    assert (second.value, second.better) == ("60.0%", False)
    assert second.text.startswith("of the attributes in images that the MVAE draws from attributes")
    assert second.baseline == "guessing: 65.0%; real images: 95.0%; the best with 0% hidden: 75.0%"
    assert suite.headline(trained(), RESULTS).picture == family_figures.ALL_MODELS


def test_names_are_words_for_people():
    assert title_of("mmvae_plus/hidden_0.9/seed_3") == "MMVAE+, 90% hidden, seed 3"
    assert title_of("multimodal") == "Kim's model"
    assert word("coherence_given_3") == word("frechet_given_3") == "given 3 others"
    assert word("frechet_given_1") == "given 1 other"


# --- scores of a model ----------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
FACES = Splits.cut(
    {
        "image": RNG.integers(0, 256, (72, 2, 2, 3)).astype(np.uint8),
        "attributes": RNG.integers(0, 2, (72, 2)).astype(np.float32),
        "pose": RNG.normal(size=(72, 3)).astype(np.float32),
    },
    *(40, 16, ("smiling", "red_car"), {}),
)
X = FACES.validation["image"].reshape(16, 12) / 127.5 - 1
A = FACES.validation["attributes"]


def encode(values):
    """Twelve dimensions that both share: pixels of an image, and of attributes the same number in six each."""
    mean = jnp.zeros((len(next(iter(values.values()))), 12))
    if "image" in values:
        mean += values["image"].reshape(-1, 12)
    if "attributes" in values:
        mean += jnp.repeat(2 * values["attributes"] - 1, 6, axis=1)
    return mean, jnp.full(mean.shape, -2.0)


HAND = Modalities(
    ("image", "attributes", "pose"),
    encode,
    lambda key, values: gaussian.sample(key, *encode(values)),
    {
        "image": lambda z: jnp.tanh(z).reshape(-1, 2, 2, 3),
        "attributes": lambda z: z.reshape(-1, 2, 6).mean(2),
        "pose": lambda z: z[:, :3],
    },
    lambda posterior: posterior,
    12,
    lambda values, z: {name: -jnp.square(z).sum(1) * (1 + n) for n, name in enumerate(values)},
)


class Reader:
    """Reads the first attribute from how bright the first six values are, and the second from the others."""

    origin = Features("by hand")
    held_out = SimpleNamespace(accuracy=0.75)
    run = SimpleNamespace(config=SimpleNamespace(hidden=3))

    def logits(self, pictures):
        return jnp.asarray(pictures).reshape(-1, 2, 6).mean(2)

    def features(self, pictures):
        return jnp.asarray(pictures).reshape(-1, 12)[:, :3]


def values():
    return modalities.values_of(FACES.validation, HAND.names)


def test_attributes_and_pose_are_read_at_the_mean_of_the_images_posterior():
    found = modalities.read_from_images(HAND, values(), FACES.attributes)
    right = (X.reshape(-1, 2, 6).mean(2) > 0) == (A == 1)
    assert found["image_to_text"] == pytest.approx(right.mean())
    degrees = 30 * np.abs(X[:, :3] - FACES.validation["pose"])
    assert found["pose_error"] == pytest.approx(degrees.mean(), rel=1e-5)


def test_drawn_images_are_compared_by_how_much_was_given():
    key = jax.random.key(3)
    model = dataclasses.replace(HAND, encode=lambda v: encode({n: x for n, x in v.items() if n != "pose"} or PRIOR))
    model = dataclasses.replace(model, draw=lambda k, v: gaussian.sample(k, *model.encode(v)))
    found = modalities.drawn_images(model, values(), FACES, {"image": Reader()}, key)
    assert list(found) == ["text_to_image", *(f"frechet_given_{given}" for given in ("0", "1", "2", "image"))]
    # The sets in their order: nothing, attributes, pose, both, the image.
    codes = [
        model.codes(jax.random.fold_in(key, number), {name: values()[name] for name in given}, 16)
        for number, given in enumerate([(), ("attributes",), ("pose",), ("attributes", "pose"), ("image",)])
    ]

    def distance(code):
        return fid.frechet_distance(np.tanh(code)[:, :3], X[:, :3], features=Reader.origin).value

    expected = [distance(codes[0]), (distance(codes[1]) + distance(codes[2])) / 2, *map(distance, codes[3:])]
    assert list(found.values())[1:] == pytest.approx(expected, rel=1e-4)
    right = (np.tanh(codes[1]).reshape(-1, 2, 6).mean(2) > 0) == (A == 1)
    assert found["text_to_image"] == pytest.approx(right.mean())
    assert modalities.drawn_images(model, values(), FACES, {}, key) == {}


PRIOR = {"attributes": jnp.full((16, 2), 0.5)}


def test_conditional_likelihoods_are_differences_of_bounds():
    key = jax.random.key(1)
    found = modalities.likelihoods(HAND, values(), key, samples=3)

    def bound(*names):
        chosen = {name: values()[name] for name in names}
        return modalities.multimodal.subset_log_likelihood(
            HAND.encode, HAND.log_likelihood, chosen, key, of=names, samples=3
        ).mean()

    joint = bound("image", "attributes", "pose")
    assert found == pytest.approx(
        {
            "log_joint": joint,
            "log_image": joint - bound("attributes", "pose"),
            "log_others": joint - bound("image"),
        },
        rel=1e-5,
    )


def test_references_are_what_looks_at_nothing():
    found = modalities.references(trained(FACES, Reader(), images=16))
    shares = A.mean(0)
    majority = np.maximum(shares, 1 - shares).mean()
    assert found["always the more frequent answer"] == pytest.approx(dict.fromkeys(READ, majority))
    assert found["held-out images themselves"] == {"text_to_image": 0.75}
    error = np.abs(FACES.validation["pose"] - FACES.train["pose"].mean(0)).mean()
    assert found["always the mean pose"]["pose_error"] == pytest.approx(30 * error, rel=1e-5)
    others = FACES.train["image"][:16].reshape(16, 12)[:, :3] / 127.5 - 1
    distance = fid.frechet_distance(others, X[:, :3], features=Reader.origin).value
    assert found["training images"]["frechet_given_0"] == pytest.approx(distance, rel=1e-4)


READ = ("image_to_text", "text_to_image")


def test_scores_of_digits_are_coherences():
    labels = np.arange(20, dtype=np.int32) % 10
    bright = np.broadcast_to(np.uint8(25 * labels)[:, None, None, None], (20, 2, 2, 3)).copy()
    digits = Splits.cut({**{name: bright for name in ("image", "stripes", "checks")}, "label": labels}, 10, 10, (), {})
    assert modalities.view_names(digits) == ("image", "stripes", "checks")
    decode = lambda z: jnp.broadcast_to(z[:, :1, None, None], (len(z), 2, 2, 3))  # noqa: E731

    def of_all(given):
        return sum(value.mean((1, 2, 3)) for value in given.values())[:, None] / len(given)

    model = Modalities(
        ("image", "stripes", "checks"),
        lambda given: (of_all(given), jnp.zeros((10, 1))),
        # From one view it draws zeros, whose class is 5; from two it draws what they show.
        lambda key, given: of_all(given) * (len(given) > 1),
        dict.fromkeys(("image", "stripes", "checks"), decode),
        lambda posterior: posterior,
        1,
    )

    class Brightness:
        def logits(self, pictures):
            read = jnp.round((pictures.mean((1, 2, 3)) + 1) * 127.5 / 25)
            return -jnp.abs(jnp.arange(10)[None] - read[:, None])

    read = dict.fromkeys(model.names, Brightness())
    seen = modalities.values_of(digits.validation, model.names)
    found = modalities.coherences(model, seen, digits.validation["label"], read, jax.random.key(0))
    from_prior = Brightness().logits(decode(model.codes(jax.random.fold_in(jax.random.key(0), 1), {}, 10))).argmax(1)
    shares = np.bincount(from_prior)[np.unique(from_prior)] / 10
    assert found == pytest.approx(
        {
            "coherence_given_1": 0.1,
            "coherence_given_2": 1.0,
            "coherence_joint": 1.0,  # all views are decoded alike
            "coherence_classes": np.exp(-(shares * np.log(shares)).sum()),
        }
    )
    assert modalities.coherences(model, seen, digits.validation["label"], {}, jax.random.key(0)) == {}
    # The probe reads the class from one number that grows with it, from as many examples of each.
    assert modalities.probe(model, digits, digits.validation, most=10) > 0.1
    assert modalities.reads_right(Brightness(), digits.validation, "stripes").all()


def test_evaluation_refuses_what_cannot_be_counted():
    with pytest.raises(ValueError, match=r"evaluation\.images is 3; expected at least 4\."):
        modalities.Evaluation(images=3)


def test_data_without_attributes_or_views_are_refused():
    data = Splits.cut({"image": np.zeros((8, 2, 2, 3), np.uint8)}, 4, 4, (), {})
    with pytest.raises(ValueError, match="the data have neither attributes nor several views of digits; expected"):
        suite.check(SimpleNamespace(), data)
    views = {name: Split({"image": np.zeros((4, 2, 2, 3), np.uint8)}) for name in ("train", "validation")}
    both = {
        name: Split({**split.arrays, "stripes": split["image"], "label": np.arange(4, dtype=np.int32)})
        for name, split in views.items()
    }
    digits = dataclasses.replace(data, **both)
    config = SimpleNamespace(classifier=SimpleNamespace(workdir="runs/reader"))
    with pytest.raises(ValueError, match=r"classifier.workdir is runs/reader, one classifier, but each view of digits"):
        suite.check(config, digits)


# --- models of the zoo ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "build"), [("multimodal", multimodal.build), ("mmvae_plus", multimodal_vaes.build)])
def test_models_of_both_kinds_have_the_same_functions(name, build):
    config = zoo.MULTIMODAL if name == "multimodal" else zoo.MMVAE_PLUS
    model = build(config)
    size = config.image_size
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (8, size, size, 3)).astype(np.uint8),
        "attributes": np.random.default_rng(1).integers(0, 2, (8, 10)).astype(np.float32),
        "pose": np.zeros((8, 3), np.float32),
    }
    params, state = jax.jit(model.init)(jax.random.key(0), batch)
    run = runs.Run.imported(name, config, params, state, "by hand")
    found = Modalities.of(run)
    assert found.names == (("image", "attributes") if name == "multimodal" else config.names)
    assert (found.log_likelihood is None) == (name == "multimodal")
    given = modalities.values_of(Split(batch), ("image", "attributes"))
    both = found.means(given)
    expected = run.fuse(*given.values()) if name == "multimodal" else run.encode_subset(given)
    for part, other in zip(both, expected, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.means({"attributes": given["attributes"]})[0],
        run.encode_attributes(given["attributes"])[0],
        rtol=1e-4,
        atol=1e-5,
    )
    codes = found.codes(jax.random.key(1), given, 8)
    assert codes.shape == found.codes(jax.random.key(1), {}, 8).shape == (8, found.code_size)
    assert found.decode["image"](codes).shape == (8, size, size, 3)
    assert found.shared(both)[0].shape == (8, config.latent_size)
