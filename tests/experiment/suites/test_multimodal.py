"""What the multimodal VAE's experiment declares and measures, on a run that is as small as one can be."""

import collections
import dataclasses
import html
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import zoo
from command_lines import script

from mvae_jax import runs
from mvae_jax.data import captions, sources
from mvae_jax.data.rendered import faces
from mvae_jax.eval import consistency, disturbances, partial_captions
from mvae_jax.eval.batched import pixels
from mvae_jax.experiment import Member, members, runner, typical
from mvae_jax.experiment.declaration import Trained
from mvae_jax.experiment.pages import plain
from mvae_jax.experiment.suites import multimodal as suite
from mvae_jax.experiment.suites import multimodal_figures, multimodal_scores

EXPERIMENT = script("celebahq_mvae").EXPERIMENT
MODEL = dataclasses.replace(zoo.MULTIMODAL, adversarial=dataclasses.replace(zoo.MULTIMODAL.adversarial, epochs=0))


@pytest.fixture(scope="module")
def data():
    chosen = faces.Config(subset_size=48, validation_fraction=0.25, calibration_size=12)
    return sources.load(chosen, image_size=32, attributes=MODEL.attributes)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data):
    """A run of two phases."""
    folder = tmp_path_factory.mktemp("multimodal") / "run"
    runs.train(folder, "multimodal", MODEL, data)
    return folder


def trained(run, data, **evaluation):
    config = SimpleNamespace(seed=3, evaluation=multimodal_scores.Evaluation(**evaluation))
    return Trained(config, {"": run}, data, None, {"": []})


@pytest.mark.parametrize(("preset", "penalised"), [("laptop", False), ("paper", True), ("reference", False)])
def test_the_papers_preset_alone_penalises_errors_of_texts(preset, penalised):
    model = EXPERIMENT.presets[preset].model
    assert (model.penalise_text_errors, model.text_error_factor, model.text_error_limit) == (penalised, 8.0, 0.15)


@pytest.mark.parametrize("evaluation", [{}, {"direction": "txt||img"}, {"direction": "txt||img", "reduction": "sum"}])
def test_direction_and_reduction_of_the_score_are_settings(workdir, data, evaluation):
    run = runs.load(workdir)
    measured = multimodal_scores.evaluate(trained(run, data, **evaluation)).benchmark
    expected, match, mismatch, _ = consistency.benchmark(
        run.encode_image,
        run.encode_attributes,
        *((pixels(split), split["attributes"]) for split in (data.calibration, data.validation)),
        data.attributes,
        seed=3,
        **evaluation,
    )
    assert (measured.result.direction, measured.result.reduction) == (expected.direction, expected.reduction)
    assert measured.match_scores == pytest.approx(match, rel=1e-5)
    assert measured.mismatch_scores == pytest.approx(mismatch, rel=1e-5)
    assert measured.result.threshold == pytest.approx(expected.threshold, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"direction": "both"}, r"evaluation\.direction is 'both'; choose one of 'img\|\|txt', 'txt\|\|img'\."),
        ({"reduction": "max"}, r"evaluation\.reduction is 'max'; choose one of 'mean', 'sum'\."),
        ({"acceptance": 1.0}, r"evaluation\.acceptance is 1\.0; expected a share above 0 and below 1, such as 0\.95\."),
    ],
)
def test_other_scores_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        multimodal_scores.Evaluation(**fields)


def test_scores_of_a_phase_are_those_of_its_last_checkpoint(workdir, data):
    last = runs.load(workdir)
    stages = {"": {"unimodal": runs.load(workdir, phase="unimodal"), "alignment": last}}
    rows = multimodal_scores.phases(dataclasses.replace(trained(last, data), stages=stages))
    assert list(rows) == ["unimodal", "alignment"]
    for phase, row in rows.items():
        scores = multimodal_scores.evaluate(trained(runs.load(workdir, phase=phase), data))
        result = scores.benchmark.result
        expected = dataclasses.asdict(result.rates) | {
            "threshold": result.threshold,
            "auroc": result.auroc,
            "image_to_text": scores.image_to_text.accuracy,
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert "text_to_image" not in row  # without a classifier
    steps = len(data.train) // zoo.BATCH
    assert [row["step"] for row in rows.values()] == [steps, 2 * steps]
    assert rows["unimodal"]["auroc"] != rows["alignment"]["auroc"]


class Counted:
    """A run that counts the examples that each of its functions is given."""

    def __init__(self, run):
        self.run, self.examples = run, collections.Counter()

    def __getattr__(self, name):
        value = getattr(self.run, name)
        if name not in self.run.functions:
            return value

        def counted(examples):
            self.examples[name] += len(examples)
            return value(examples)

        return counted


def test_an_earlier_phase_costs_one_coding_of_each_image_and_no_image_is_decoded_that_nobody_reads(workdir, data):
    """The scores of the run itself take more: their images are encoded once for all of them, too."""
    last, first = Counted(runs.load(workdir)), Counted(runs.load(workdir, phase="unimodal"))
    measured = dataclasses.replace(trained(last, data), stages={"": {"unimodal": first, "alignment": last}})
    multimodal_scores.phases(measured)
    images = len(data.validation) + len(data.calibration)
    assert (last.examples["encode_image"], first.examples["encode_image"]) == (images, images)
    assert (last.examples["decode_image"] > 0, first.examples["decode_image"]) == (True, 0)


def test_a_run_is_gathered_with_the_ends_of_its_phases(workdir, data):
    config = SimpleNamespace(seed=3, evaluation=multimodal_scores.Evaluation())
    for phase, expected in (("", ["unimodal", "alignment"]), ("unimodal", ["unimodal"])):
        fitted = {"": members.load(Member("multimodal", MODEL, 42), workdir, phase)}
        gathered = runner.gather(EXPERIMENT, config, fitted, data, workdir)
        assert list(gathered.stages[""]) == expected
        assert gathered.run.phase == expected[-1]
        # Functions of the same model are compiled once, whatever the parameters.
        assert all(stage.model is gathered.run.model for stage in gathered.stages[""].values())
        assert max(line["step"] for line in gathered.records[""]) == gathered.run.step


def test_both_thresholds_stand_in_the_table(workdir, data):
    measured = trained(runs.load(workdir), data)
    result = multimodal_scores.evaluate(measured).benchmark.result
    rows = [row("run", measured) for row in (suite.consistency_row, suite.most_accurate_row)]
    assert [row["threshold"] for row in rows] == [result.threshold, result.most_accurate_threshold]
    assert rows[1]["accuracy"] == f"{result.most_accurate_rates.accuracy:.3f}"
    assert rows[0]["accuracy"].startswith(f"{result.rates.accuracy:.3f} (")  # in one format
    assert [row["divergence"] for row in rows] == ["mean KL(image || text)"] * 2


def test_a_face_stands_beside_its_own_caption_and_mismatches_of_three_kinds(workdir, data, monkeypatch):
    measured = trained(runs.load(workdir), data)
    drawn = {}
    monkeypatch.setattr(
        multimodal_figures.grids, "consistency_pairs", lambda *arguments: drawn.update(arguments=arguments)
    )
    multimodal_figures.consistency_sheet(measured, shown=5)
    images, captions, scores, threshold = drawn["arguments"]
    benchmark, own = multimodal_scores.evaluate(measured).benchmark, data.validation["attributes"][:5]
    assert (len(images), threshold) == (5, benchmark.result.threshold)
    assert list(captions) == ["its own caption", "several words wrong", "one word wrong", "another face's caption"]
    assert captions["its own caption"] == multimodal_figures.write(own, data.attributes)
    assert scores["its own caption"] == pytest.approx(benchmark.match_scores[:5], rel=1e-5)
    assert scores["several words wrong"] == pytest.approx(benchmark.mismatch_scores[:5], rel=1e-5)
    others = multimodal_figures.write(data.validation["attributes"], data.attributes)
    for number, caption in enumerate(captions["its own caption"]):
        assert captions["one word wrong"][number] != caption
        assert captions["another face's caption"][number] in set(others) - {caption}
    edits, _ = consistency.single_edits(own, data.attributes)
    for number, caption in enumerate(captions["one word wrong"]):
        assert caption in multimodal_figures.write(edits[:, number], data.attributes)


def test_the_headline_says_what_is_no_better_than_guessing(workdir, data):
    measured = trained(runs.load(workdir), data)
    pairs, texts, likeness = suite.headline(measured, {}).numbers
    scores = multimodal_scores.evaluate(measured)
    assert pairs.value == f"{scores.benchmark.result.rates.accuracy:.1%}"
    assert pairs.better == (scores.benchmark.result.rates.accuracy > max(0.5, scores.benchmark.result.blind_accuracy))
    assert texts.better == (scores.image_to_text.accuracy > scores.image_to_text.majority_accuracy)
    assert not likeness.better  # after so few steps the mean face is the closer one
    assert f"{scores.quality['psnr']:.1f} dB" == likeness.value


def test_the_verdict_by_words_is_that_of_the_text_decoder_at_the_images_codes(workdir, data):
    measured = trained(runs.load(workdir), data, acceptance=0.7)
    result, run = multimodal_scores.verdicts(measured), measured.run
    logits = {
        name: np.asarray(run.decode_attributes(run.encode_image(pixels(split))[0]), np.float64)
        for name, split in (("calibration", data.calibration), ("validation", data.validation))
    }

    def least(split, name):
        """Lowest probability of what the caption of each image says."""
        return [
            min(
                1 / (1 + np.exp(-logit if value else logit))
                for logit, value, said in zip(row, *captions.read(captions.write(values, names), names), strict=True)
                if said
            )
            for row, values in zip(logits[name], split["attributes"], strict=True)
        ]

    names = data.attributes
    expected = partial_captions.acceptance_threshold(least(data.calibration, "calibration"), 0.7)
    assert expected > 0
    assert result.thresholds.words == pytest.approx(expected, rel=1e-5)
    assert result.thresholds.score == multimodal_scores.evaluate(measured).benchmark.result.threshold
    own = next(each for each in result.true if each.captions == "its own caption")
    accepted = np.array(least(data.validation, "validation")) > expected
    assert (own.words.value, own.words.count) == (pytest.approx(accepted.mean()), len(data.validation))
    # Whoever leaves words out is accepted whenever the whole caption is.
    shares = [each.words.value for each in result.true if each.words.count == len(data.validation)]
    assert shares == sorted(shares)
    # What the paper says of its own captions and mismatches is what the score says here.
    assert result.curated["score"].rates == multimodal_scores.evaluate(measured).benchmark.result.rates
    assert multimodal_scores.verdicts(measured).to_dict() == result.to_dict()


def test_disturbed_images_are_judged_as_others_are(workdir, data):
    measured = trained(runs.load(workdir), data)
    rows, result = multimodal_scores.disturbed(measured), multimodal_scores.verdicts(measured)
    assert list(rows) == list(disturbances.DISTURBANCES)
    own = next(each for each in result.true if each.captions == "its own caption")
    assert {name: rows["undisturbed"][name] for name in partial_captions.VERDICTS} == {
        name: getattr(own, name) for name in partial_captions.VERDICTS
    }
    limits = typical.limits(measured)[""]
    for number, (name, disturb) in enumerate(disturbances.DISTURBANCES.items()):
        if name not in ("undisturbed", "grey"):
            continue
        x = disturb(pixels(data.validation), jax.random.fold_in(jax.random.key(3), 100 + number))
        warned = [bool(typical.excess(typical.terms(measured.run, x[n : n + 1]), limits)) for n in range(len(x))]
        assert rows[name]["unlike"].value == pytest.approx(np.mean(warned))
        logits = measured.run.decode_attributes(measured.run.encode_image(x)[0])
        said = captions.said(data.validation["attributes"], data.attributes)
        likely = partial_captions.caption_probability(logits, data.validation["attributes"], said)
        assert rows[name]["words"].value == pytest.approx((likely > result.thresholds.words).mean())


def test_verdicts_and_disturbances_are_tables_of_the_report(workdir, data):
    measured = trained(runs.load(workdir), data)
    for name, measure in (("verdicts", multimodal_scores.verdicts), ("disturbances", multimodal_scores.disturbed)):
        declared = next(each for each in EXPERIMENT.measures if each.name == name)
        result = measure(measured)
        text = html.unescape("".join(part.html for part in declared.parts(measured, result)))
        assert json.dumps(plain(result))
        for word in partial_captions.VERDICTS.values():
            assert word in text
        assert ("mustache" in text) == (name == "verdicts")


def test_a_model_whose_image_and_text_share_one_dimension_is_trained_and_reported(tmp_path, data):
    none = dataclasses.replace(MODEL.unimodal, epochs=0)
    run = runs.train(tmp_path, "multimodal", dataclasses.replace(MODEL, latent_size=1, unimodal=none), data)
    measured = trained(run, data)
    assert not {"latent_space"} & multimodal_figures.figures(measured, {}).keys()
    declared = next(each for each in EXPERIMENT.measures if each.name == "posteriors")
    text = "".join(getattr(part, "html", part) for part in declared.parts(measured, declared.measure(measured)))
    assert "Image and text share one dimension, of which there is no picture in the plane." in text


@pytest.mark.parametrize(
    ("rejected", "ratio", "said"),
    [
        (
            (0.2, 0.4),
            0.35,
            ["with one attribute wrong, 30% are called a mismatch", "differ 0.35 times"],
        ),
        ((0.2, 0.9), 0.35, ["Images drawn from a caption's posterior are much alike"]),
        ((0.2, 0.9), 0.6, []),
    ],
)
def test_a_report_says_what_its_headline_hides(rejected, ratio, said):
    items = [SimpleNamespace(overall=SimpleNamespace(rejected=share)) for share in rejected]
    results = {
        "consistency": SimpleNamespace(sensitivity=items),
        "diversity": {"pixels": SimpleNamespace(ratio=ratio)},
    }
    found = suite.problems(None, results)
    assert len(found) == len(said)
    assert all(text in problem for text, problem in zip(said, found, strict=True))
