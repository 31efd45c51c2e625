"""Frechet distances over many images: of models whose samples and reconstructions have known moments."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mvae_jax.data import pyramid
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import fid
from mvae_jax.eval.features import Features
from mvae_jax.experiment import listing
from mvae_jax.experiment.suites import style as suite
from mvae_jax.experiment.suites import style_frechet
from mvae_jax.experiment.suites.style_frechet import Protocol

CENTRE, SCALE = np.array([0.3, -0.1, 0.2, 0.0]), np.array([0.2, 0.1, 0.05, 0.15])
CORNERS = np.stack(np.meshgrid(*[[-1, 1]] * 4), -1).reshape(16, 4)


class Affine:
    """A model of 4 pixels that samples N(CENTRE, SCALE^2), and whose reconstructions are half as far, plus .1."""

    def __init__(self, size=4):
        self.phase, self.config = f"stabilise_{size}", types.SimpleNamespace(image_size=size, latent_size=4)

    def map(self, z):
        return jnp.asarray(CENTRE[None], jnp.float32) + z * jnp.asarray(SCALE[None], jnp.float32)

    def encode(self, x):
        return x[:, 0, :, 0] / 2 + 0.1, None

    def draw(self, w, keys):
        return pictures_of(w[:, 0])


class Layers(Affine):
    """A model whose picture shows the latents of its layers, one in each pair of rows, and which truncates none."""

    def truncate(self, w, psi):
        return w

    def draw(self, w, keys):
        return jnp.tile(w.repeat(2, 1), (1, 1, 2))[..., None].repeat(3, -1)


def pictures_of(values):
    """Pictures [N, 4, 4, 3] with four values in each row."""
    return jnp.broadcast_to(values[:, None, :, None], (len(values), 4, 4, 3))


def features_of(x):
    return np.asarray(x)[:, 0, :, 0]


def split_of(values):
    """Pictures of uint8 values [N, 4]."""
    return Split({"image": np.asarray(pictures_of(np.asarray(values, np.uint8)))})


# The mean of the training images is .5 / 127.5, of held-out ones 40.5 / 127.5; their deviations are 12 and 24 of 127.5.
DATA = Splits(
    split_of(np.tile(128 + 12 * CORNERS, (4, 1))), split_of(168 + 24 * CORNERS), split_of(np.zeros((0, 4))), (), {}
)
MOMENTS = {"training": (0.5 / 127.5, 12 / 127.5, 64), "held-out": (40.5 / 127.5, 24 / 127.5, 16)}


def evaluator(protocol, run=None, data=DATA, extract=features_of, features=None, **settings):
    extractors = [(extract, features or Features("pixels"))]
    settings = suite.Evaluation(images=16, frechet=protocol, **settings)
    return suite.Evaluator(run or Affine(), data, None, extractors, None, settings, 42)


def measured(*arguments, **named):
    return style_frechet.measure(evaluator(*arguments, **named), lambda: None)


@pytest.mark.parametrize("reference", ["training", "held-out"])
def test_distances_of_known_moments_are_those_in_closed_form(reference):
    """|m - m'|^2 + |s - s'|^2: of samples as far as 8,000 draws go, of reconstructions of all images to all digits."""
    protocol = Protocol(8000, reference, 0, reference, 0, mirrored=0.0)
    found = measured(protocol)
    mean, deviation, count = MOMENTS[reference]
    deviation *= np.sqrt(count / (count - 1))  # the unbiased one
    assert (found.samples["images"], found.samples["reference_images"]) == (8000, count)
    expected = np.square(CENTRE - mean).sum() + np.square(SCALE - deviation).sum()
    assert found.samples["frechet_distance"] == pytest.approx(expected, rel=0.04)
    expected = 4 * (mean / 2 + 0.1 - mean) ** 2 + 4 * (deviation / 2) ** 2
    assert found.reconstructions["frechet_distance"] == pytest.approx(expected, rel=1e-5)


def test_samples_are_measured_by_their_own_moments():
    """Those of the very draws, to all digits, by NumPy."""
    draws = evaluator(Protocol(500, mirrored=0.0, style_mixing=0.0))
    found = style_frechet.measure(draws, lambda: None)
    drawn = CENTRE + SCALE * np.asarray(draws.latents(draws.keys(1, 500)), np.float64)
    real = np.asarray(DATA.train["image"], np.float64)[:, 0, :, 0] / 127.5 - 1
    expected = fid.frechet_distance_of_moments(
        drawn.mean(0), np.cov(drawn, rowvar=False), real.mean(0), np.cov(real, rowvar=False)
    )
    assert found.samples["frechet_distance"] == pytest.approx(expected, rel=1e-5)


def test_counts_are_those_asked_for_and_blocks_are_small(monkeypatch):
    """No more images than fit into a block are ever together, and the blocks do not change the numbers."""
    protocol, sizes, pauses = Protocol(50, "training", 36, "held-out", 8), [], []
    monkeypatch.setattr(suite, "_CHUNK_PIXELS", 7 * 16)

    def extract(x):
        sizes.append(len(x))
        return features_of(x)

    found = style_frechet.measure(evaluator(protocol, extract=extract), lambda: pauses.append(len(sizes)))
    assert sizes == [7] * 5 + [1] + [7] * 7 + [1] + [7, 1]  # reference, samples, reconstructions
    assert pauses == list(range(1, 17))
    monkeypatch.undo()
    whole = measured(protocol)
    for name, images in (("samples", 50), ("reconstructions", 8)):
        row, expected = getattr(found, name), getattr(whole, name)
        assert (row["images"], row["reference_images"]) == (images, 36)
        assert row["frechet_distance"] == pytest.approx(expected["frechet_distance"], rel=1e-6)


def test_work_ends_where_it_is_interrupted():
    """After the first block, by what the pause raises."""
    blocks = []

    def pause():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        style_frechet.measure(evaluator(Protocol(50), extract=lambda x: blocks.append(x) or features_of(x)), pause)
    assert len(blocks) == 1


def values_of(blocks):
    return np.rint(np.concatenate([np.asarray(block)[:, 0, 0, 0] for block in blocks]) * 127.5 + 127.5).astype(int)


class Same(Affine):
    """A model whose reconstructions are the images."""

    def encode(self, x):
        return x[:, 0, :, 0], None


@pytest.mark.parametrize(("counts", "shared"), [((30, 34), 0), ((40, 40), 16), ((0, 0), 64)])
def test_reference_and_reconstructed_images_are_others_as_far_as_there_are_others(counts, shared):
    data = dataclasses.replace(DATA, train=split_of(np.arange(64)[:, None].repeat(4, 1)))
    one, other = counts
    draws = evaluator(Protocol(2, reference_images=one, reconstructions=other), Same(), data)
    reference, again = values_of(style_frechet.reference_images(draws)), values_of(style_frechet.reconstructions(draws))
    assert [len(set(part.tolist())) for part in (reference, again)] == [one or 64, other or 64]
    assert len({*reference.tolist()} & {*again.tolist()}) == shared
    if one:
        assert sorted(reference) != list(range(one))  # at random, not the first ones


def test_images_of_the_data_are_mirrored_as_often_as_asked():
    ramp = np.tile([10, 20, 30, 40], (400, 1))
    data = dataclasses.replace(DATA, train=split_of(ramp))
    for share, low, high in ((0.0, 0, 0), (0.5, 160, 240), (1.0, 400, 400)):
        draws = evaluator(Protocol(2, mirrored=share), Same(), data)
        for blocks in (style_frechet.reference_images(draws), style_frechet.reconstructions(draws)):
            values = values_of(blocks)
            assert set(values.tolist()) <= {10, 40}
            assert low <= (values == 40).sum() <= high


def test_styles_are_mixed_in_samples_of_this_protocol_alone():
    """Three of the four cuts of four layers change something: .9 * 3 / 4 of 2,000 samples."""
    pictures = {}
    for share in (0.9, 0.0):
        draws = evaluator(Protocol(2000, style_mixing=share), Layers(8))
        pictures[share] = np.concatenate(list(style_frechet.samples(draws)))
        mixed = (pictures[share][:, 0] != pictures[share][:, -1]).any((1, 2))
        assert mixed.mean() == pytest.approx(share * 3 / 4, abs=4 * 0.0105)
    np.testing.assert_array_equal(pictures[0.9][:, 0], pictures[0.0][:, 0])  # the first layer keeps its latent
    few = evaluator(Protocol(2000), Layers(8), Splits(*[split_of(np.zeros((16, 4)))] * 3, (), {})).samples
    np.testing.assert_allclose(few, pictures[0.0][:16], atol=1e-6)


def test_a_pyramid_is_measured_on_all_of_its_held_out_images(tmp_path):
    """Also on those that are not kept in memory, at the size that the model has reached."""
    draws = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(60):
        image = Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8))
        image.save(tmp_path / "images" / f"{number}.png")
    made = pyramid.prepare(
        tmp_path / "images", tmp_path / "pyramid", pyramid.Settings(image_size=8, validation_fraction=0.5)
    )
    data = pyramid.PyramidData.of(made, 8, held_out=16)
    for reference, split in (("training", "train"), ("held-out", "validation")):
        evaluated = evaluator(Protocol(40, reference, 0, reference, mirrored=0.0), data=data)
        blocks = np.concatenate(list(style_frechet.reference_images(evaluated)))
        np.testing.assert_allclose(blocks, made.split(split, 4)["image"] / 127.5 - 1, atol=1e-6)
        assert style_frechet.measure(evaluated, lambda: None).reconstructions["images"] == 30


def test_fewer_images_than_features_are_a_problem():
    found = measured(Protocol(3, reconstructions=8))
    (problem,) = found.problems
    assert problem.startswith("The Frechet distance compares 3 images in 4 features, expected at least as many")
    assert measured(Protocol(8, reconstructions=8)).problems == ()
    results = {name: types.SimpleNamespace(problems=()) for name in ("stability", "quality")}
    config = suite.style_alae.Config(image_size=4, last_images=1)
    run = types.SimpleNamespace(step=1, config=config, phase="stabilise_4")
    assert suite.problems(types.SimpleNamespace(run=run), {**results, "frechet_distances": found}) == [problem]


def test_inception_compares_few_images_only_where_it_does_not_compare_many():
    inception = Features("Inception", sha256="0")
    for samples in (0, 40):
        evaluated = evaluator(Protocol(samples), features=inception)
        few = evaluated.compared(evaluated.held_out)
        assert ("inception_frechet_distance" in few) == (not samples)
        assert "inception_kernel_distance" in few
    found = style_frechet.measure(evaluated, lambda: None)
    assert list(found.samples) == ["images", "reference_images", "inception_frechet_distance"]


def test_words_say_how_it_was_measured():
    protocol = Protocol(40, "held-out", 0, "training", 20)
    found = measured(protocol)
    text = style_frechet.explain(protocol, found)
    for words in (
        "40 samples",
        "90% of them",
        "of 20 training images",
        "beside 16 held-out images",
        "50% are mirrored",
    ):
        assert words in text
    assert style_frechet.explain(Protocol(), measured(Protocol())) == ""
    bare = dataclasses.replace(evaluator(protocol), extractors=())
    assert "evaluation.inception" in style_frechet.explain(protocol, style_frechet.measure(bare, lambda: None))
    notes = suite.notes(suite.Evaluation(frechet=protocol, path_crop="face"))
    for name, note in zip(("evaluation.inception", "evaluation.vgg"), notes, strict=True):
        assert name in note
    assert suite.notes(suite.Evaluation(frechet=protocol, path_crop="face", inception="i", vgg="v")) == ()
    assert suite.notes(suite.Evaluation()) == ()


def test_a_crop_is_compared_by_vgg_alone():
    classifier = suite.ClassifierDistance(types.SimpleNamespace(features=features_of))
    evaluated = dataclasses.replace(evaluator(Protocol(), path_crop="face"), perceived=classifier)
    assert evaluated.path_lengths() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 1}, "frechet.samples is 1; expected at least 2, or 0 for none"),
        ({"reconstructions": -1}, "frechet.reconstructions is -1; expected at least 2, or 0 for all"),
        ({"reference": "test"}, "frechet.reference is 'test'; expected 'training' or 'held-out'"),
        ({"reconstructed": ""}, "frechet.reconstructed is ''; expected 'training' or 'held-out'"),
        ({"style_mixing": 1.1}, "frechet.style_mixing is 1.1; expected from 0 to 1"),
        ({"mirrored": -0.5}, "frechet.mirrored is -0.5; expected from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**settings)


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (
            Protocol(9, reference_images=65),
            "reference_images is 65, but there are 64 training images; expected at most",
        ),
        (Protocol(9, "held-out", 17), "reference_images is 17, but there are 16 held-out images; expected at most"),
        (Protocol(9, reconstructions=65), "reconstructions is 65, but there are 64 training images"),
        (Protocol(9, "training", 64, "held-out", 50_000), "reconstructions is 50000, but there are 16 held-out images"),
    ],
)
def test_more_images_than_there_are_are_refused_before_training(protocol, message):
    with pytest.raises(ValueError, match=message):
        suite.check(DATA, suite.Evaluation(frechet=protocol), 4)
    suite.check(DATA, suite.Evaluation(frechet=dataclasses.replace(protocol, samples=0)), 4)  # nothing is compared
    suite.check(DATA, suite.Evaluation(frechet=Protocol(9, "training", 64, "held-out", 16)), 4)


# --- presets -------------------------------------------------------------------------------------------------------

PRESETS = {
    "ffhq": (1024, (16, 32, 64, 128, 256, 512, 512, 512, 512), (2e-3, 3e-3, 3e-3), 50_000, "face"),
    "lsun_bedroom": (256, (32, 64, 128, 256, 512, 512, 512), (2e-3,), 50_000, ""),
    "celebahq256": (256, (64, 128, 256, 512, 512, 512, 512), (1.5e-3,), 0, "face"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_published_presets_have_the_published_settings(name):
    config = listing.load("stylealae").presets[name]
    size, widths, last_rates, count, crop = PRESETS[name]
    model, evaluation = config.model, config.evaluation
    assert (model.image_size, model.widths[::-1], model.latent_size, model.mapping_layers) == (size, widths, 512, 8)
    levels = range(model.levels)
    rates = [model.at(level, "learning_rates") for level in levels]
    assert rates == [*[1.5e-3] * (model.levels - len(last_rates)), *last_rates]
    assert [model.at(level, "batch_sizes") for level in levels] == [512, 256, 128, 64, *[32] * (model.levels - 4)]
    assert (model.r1_weight, model.style_mixing, model.flip) == (10.0, 0.9, 0.5)
    assert evaluation.frechet == Protocol(50_000, "training", count, "training", count, 0.9, 0.5)
    assert (evaluation.path_pairs, evaluation.path_seeds, evaluation.path_crop) == (50_000, 1, crop)


def test_small_presets_measure_no_more_than_before():
    for name in ("laptop", "celeba"):
        assert listing.load("stylealae").presets[name].evaluation.frechet.samples == 0


def test_celeba_hq_by_its_recipe_serves_its_preset():
    """27,000 images to train on, fewer than 50,000: all of them."""

    class Recipe:
        validation = range(1000)

        def examples(self, split, size):
            recipe = pyramid.RECIPES["celeba_hq"]
            return range(recipe.train if split == "train" else recipe.validation)

    evaluation = listing.load("stylealae").presets["celebahq256"].evaluation
    suite.check(Recipe(), evaluation, 256)
    published = dataclasses.replace(evaluation.frechet, reference_images=50_000)
    with pytest.raises(ValueError, match="is 50000, but there are 27000 training images"):
        suite.check(Recipe(), dataclasses.replace(evaluation, frechet=published), 256)
