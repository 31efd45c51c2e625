"""Priors beside each other, on a run and a classifier that are as small as can be."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import zoo

from mvae_jax import runs
from mvae_jax.data.batches import Split
from mvae_jax.experiment import classifier, prior
from mvae_jax.experiment.declaration import Trained, capitalized
from mvae_jax.experiment.suites import multimodal_figures
from mvae_jax.experiment.suites import priors as suite

READER = dataclasses.replace(zoo.ATTRIBUTE_CLASSIFIER, epochs=20, hidden=32)
UNIMODAL = dataclasses.replace(
    zoo.MULTIMODAL,
    alignment=dataclasses.replace(zoo.MULTIMODAL.alignment, epochs=0),
    adversarial=dataclasses.replace(zoo.MULTIMODAL.adversarial, epochs=0),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A multimodal VAE with a learned prior, of images with eight captions of which each has several."""
    folder = tmp_path_factory.mktemp("priors")
    arrays = zoo.faces(120)
    arrays["attributes"][:, 3:] = 0
    data = runs.split(arrays, UNIMODAL.attributes)
    run = runs.train(folder, "multimodal", UNIMODAL, data)
    reader = runs.train(folder / "classifier", "attribute_classifier", READER, data)
    config = SimpleNamespace(seed=3, prior=prior.Config(epochs=2))
    learned = prior.train(folder, data, config.prior, run=run)
    measured = Trained(config, {"": run}, data, classifier.measured(reader, data), {"": []}, workdir=folder)
    return dataclasses.replace(measured, priors={"": learned})


@pytest.fixture(scope="module")
def rows(trained):
    return suite.measure(trained)


def test_every_prior_is_measured_with_as_many_samples(rows):
    assert list(rows) == list(suite.PRIORS)
    assert {row["images"] for name, row in rows.items() if name != "training"} == {1008}
    assert {name for name, row in rows.items() if "diversity" in row} == {
        *("text_posterior", "flow_captions", "flow_captions_guided")
    }
    for row in rows.values():
        assert set(row) <= set(suite.WORDS)
        assert np.isfinite(list(row.values())).all()


def test_what_is_missing_is_left_out(trained, rows):
    """Examples without image or attributes change no number, whatever stands in their place."""

    def gaps(split):
        """The split, and four examples more of which something is missing."""
        some, arrays = split.first(4).arrays, {}
        for name, array in split.arrays.items():
            arrays[name] = np.concatenate([np.zeros_like(some[name]), array])
        for name, of in (("image", [0, 0, 1, 1]), ("attributes", [1, 0, 0, 0])):
            arrays[f"present/{name}"] = np.float32([*of, *np.ones(len(split))])
        return Split(arrays)

    data = dataclasses.replace(trained.data, validation=gaps(trained.data.validation), train=gaps(trained.data.train))
    others = dataclasses.replace(trained, data=data)
    rows, expected = suite.measure(others), rows
    assert "against 12 held-out images" in suite.explain(others, rows)
    assert list(rows) == list(expected)
    for name in rows.keys() - {"mixture"}:  # it learns the codes of images without attributes, too
        assert rows[name] == pytest.approx(expected[name], rel=1e-3), name
    assert suite.figures_of()(others, {}).keys() == suite.figures_of()(trained, {}).keys()


def test_sheets_show_captions_in_rows(trained):
    drawn = suite.figures_of()(trained, {})
    assert list(drawn) == ["priors", "captions_text_posterior", "captions_flow", "captions_flow_guided"]
    assert drawn["captions_text_posterior"][0].startswith("Captions: posterior of the text: 8 draws of each")


def test_a_title_keeps_the_capitals_of_names():
    assert capitalized(suite.PRIORS["mixture"]) == "Mixture of Gaussians of its codes"
    assert capitalized("") == ""


def test_the_first_picture_of_a_multimodal_run_is_drawn_by_its_learned_prior_where_it_has_one(trained):
    learned = multimodal_figures.drawn_from_captions(trained)
    without = multimodal_figures.drawn_from_captions(dataclasses.replace(trained, priors={}))
    assert list(learned) == list(without) == ["overview", "text_to_image"]
    for name, (caption, picture) in learned.items():
        other_caption, other = without[name]
        assert "by the learned prior with guidance 2" in caption
        assert "from the caption's posterior" in other_caption
        assert picture.size == other.size
        assert np.abs(np.asarray(picture, int) - np.asarray(other, int)).max() > 0
        # The words are the same: all but the pictures.
        np.testing.assert_array_equal(np.asarray(picture)[:10], np.asarray(other)[:10])


def test_without_a_classifier_or_a_prior_nothing_is_measured(trained):
    for missing in ({"classifier": None}, {"priors": {}}):
        without = dataclasses.replace(trained, **missing)
        assert suite.measure(without) == {}
        assert "Not measured" in suite.explain(without, {})


def test_the_mixture_has_the_mean_and_covariance_of_the_codes(trained):
    train = prior.encode(trained.workdir.resolve(), trained.run, trained.data).train
    drawn = suite.drawings(trained)["mixture"].draw(jax.random.key(0), np.zeros((20_000, 10), np.float32))
    np.testing.assert_allclose(drawn.mean(0), train["code"].mean(0), atol=0.35)
    variances = train["code"].var(0) + np.square(train["deviation"]).mean(0)
    np.testing.assert_allclose(drawn.var(0), variances, rtol=0.4)


def test_posteriors_are_drawn_and_means_repeated():
    code, deviation = np.float32([[1, -2], [0, 3]]), np.float32([[0.5, 2], [1, 0]])
    drawn = suite._draws(Split({"code": code, "deviation": deviation}), 20_000, 0).reshape(20_000, 2, 2)
    np.testing.assert_allclose(drawn.mean(0), code, atol=0.05)
    np.testing.assert_allclose(drawn.std(0), deviation, atol=0.05)
    np.testing.assert_array_equal(suite._draws(Split({"code": code}), 2, 0), np.tile(code, (2, 1)))


def test_captions_are_compared_of_which_there_are_several_images():
    attributes = np.repeat(np.eye(4, dtype=np.float32), (6, 5, 9, 0), axis=0)
    texts, positions = suite._several_images(Split({"attributes": attributes}), np.eye(4, dtype=np.float32))
    assert sorted(texts.tolist()) == [[0, 0, 1, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(attributes[positions], np.repeat(texts, 6, axis=0))


def test_draws_of_priors_differ_and_depend_on_captions_where_they_mind_them(trained):
    rows = np.repeat(np.eye(10, dtype=np.float32)[:2], 3, axis=0)
    for name, drawing in suite.drawings(trained).items():
        first, again, other = (
            np.asarray(drawing.draw(key, rows)) for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2))
        )
        assert first.shape == (6, UNIMODAL.latent_size), name
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).min() > 0
        swapped = np.asarray(drawing.draw(jax.random.key(1), rows[::-1].copy()))
        assert (np.abs(swapped - first).max() > 0) == drawing.of_captions, name


def test_each_model_of_several_has_its_rows(trained, rows):
    """The numbers of a model in a folder are those that it has in the workdir itself, in a table of its own."""
    learned = trained.priors[""]
    several = dataclasses.replace(
        trained, runs={"gan": trained.run, "one": trained.run}, priors={"one": learned}, workdir=trained.workdir
    )
    measure, found = suite.measure_of(str.upper), suite.measure(several)
    assert list(found) == ["one"]
    assert {name: row["frechet_distance"] for name, row in found["one"].items()} == pytest.approx(
        {name: row["frechet_distance"] for name, row in rows.items()}, rel=1e-3
    )
    two = {"one": rows, "two": rows}
    assert [str(part).count("TWO") for part in measure.parts(several, two)] == [0, 1]
    (table,) = measure.parts(trained, rows)
    assert suite.PRIORS["flow"] in str(table)
    assert measure.lines(trained, {"flow": {"recall": 0.5, "images": 7}}) == ["flow: recall 0.5, images 7"]
    assert measure.lines(several, {"one": {"flow": {"recall": 0.5}}}) == ["one flow: recall 0.5"]
    drawn = suite.figures_of(str.upper)(several, {})
    assert drawn["priors_one"][0].startswith("Draws of each prior of ONE, without a caption")
    assert drawn["captions_flow"][0].startswith("Captions: learned prior of ONE: 8 draws of each")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory, trained):
    """A CVAE with a learned prior, of images with eight captions, read by the other model's classifier."""
    folder = tmp_path_factory.mktemp("conditional")
    arrays = zoo.faces(120, zoo.CVAE.image_size)
    arrays["attributes"][:, 3:] = 0
    data = runs.split(arrays, zoo.CVAE.attributes)
    run = runs.train(folder / "cvae", "cvae", zoo.CVAE, data)
    learned = prior.train(folder / "cvae", data, trained.config.prior, run=run)
    return dataclasses.replace(trained, runs={"cvae": run}, data=data, priors={"cvae": learned}, workdir=folder)


def test_a_decoder_that_takes_attributes_is_told_those_of_the_captions_whoever_draws(conditional):
    rows = suite.measure(conditional)["cvae"]
    assert list(rows) == [
        *("training", "reconstruction", "prior", "mixture", "flow_captions", "flow_captions_guided")
    ]  # none of codes that were drawn of other attributes
    assert all("accuracy" in row for row in rows.values())
    assert {name for name, row in rows.items() if "diversity" not in row} == {"training", "reconstruction"}
    assert "The decoder is told the captions" in suite.explain(conditional, rows)
    run, drawing = conditional.run, suite.drawings(conditional, "cvae")["flow_captions"]
    texts = np.eye(10, dtype=np.float32)[:3]
    codes = conditional.priors["cvae"].sample(jax.random.key(1), texts, np.ones_like(texts))
    np.testing.assert_array_equal(drawing.draw(jax.random.key(1), texts), codes)
    np.testing.assert_allclose(suite._decoder(run)(codes, texts), run.decode(codes, texts), atol=1e-6)
    assert list(suite.figures_of()(conditional, {})) == [
        "captions_mixture",
        "captions_flow",
        "captions_flow_guided",
    ]


def test_images_without_attributes_have_a_sheet_and_no_numbers(tmp_path, trained):
    data = runs.split({"image": zoo.small_faces(40)["image"]})
    run = runs.train(tmp_path / "vae", "vae", zoo.VAE, data)
    learned = prior.train(tmp_path / "vae", data, trained.config.prior, run=run)
    without = dataclasses.replace(
        trained, runs={"vae": run}, data=data, priors={"vae": learned}, workdir=tmp_path, classifier=None
    )
    assert suite.measure(without) == {}
    assert list(suite.figures_of()(without, {})) == ["priors_vae"]


def test_names_that_no_sentence_can_say_stand_for_themselves():
    rows = np.float32([[1, 0, 1], [0, 0, 0]])
    assert suite._sentences(rows, ("has_wing_color::brown", "b", "017.Cardinal")) == [
        "has_wing_color::brown, 017.Cardinal",
        "nothing",
    ]
    assert suite._sentences(rows, ("smiling", "young", "male"))[0] == "a man who is smiling"


def test_nothing_is_said_of_priors_that_nobody_asked_for(trained):
    config = SimpleNamespace(seed=3, prior=prior.Config(epochs=0))
    assert suite.explain(dataclasses.replace(trained, priors={}, config=config), {}) == ""
