"""Verdicts on captions that leave things open: hand values, and readers of which it is known what they decide."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax.eval import partial_captions
from mvae_jax.eval.classification import Share, share

NAMES = ("young", "male", "female", "black_hair", "blond_hair", "mustache")
#       young, male, female, black, blond, mustache
FACES = np.array([[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]], np.float32)
SAID = np.array([[1, 1, 1, 0, 1, 0], [0, 1, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0]], bool)


def test_a_word_is_as_likely_as_the_decoder_reads_its_value():
    logits = [[0.0, np.log(3), -np.log(3), np.inf, -np.inf, 800.0]]
    found = partial_captions.word_probabilities(logits, [[1, 1, 1, 1, 1, 0]])
    np.testing.assert_allclose(found, [[0.5, 0.75, 0.25, 1.0, 0.0, 0.0]], rtol=1e-12)
    no = partial_captions.word_probabilities(logits, [[0, 0, 0, 0, 0, 1]])
    np.testing.assert_allclose(no, [[0.5, 0.25, 0.75, 0.0, 1.0, 1.0]], rtol=1e-12)


def test_a_caption_is_as_likely_as_the_least_likely_of_its_words():
    logits = np.log([[3.0, 1 / 3, 9.0]] * 4)
    said = [[1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 0, 0]]
    found = partial_captions.caption_probability(logits, [[1, 1, 1]] * 4, said)
    np.testing.assert_allclose(found, [0.75, 0.25, 0.9, 1.0], rtol=1e-12)


def test_leaving_out_words_never_makes_a_caption_less_likely():
    rng = np.random.default_rng(0)
    logits, values = rng.normal(size=(200, 6)), rng.integers(0, 2, (200, 6))
    said = rng.random((200, 6)) < 0.7
    previous = partial_captions.caption_probability(logits, values, said)
    for count in range(1, 6):
        less = partial_captions.leave_out(said, NAMES, count, seed=count)
        assert (less <= said).all()
        assert (partial_captions.caption_probability(logits, values, less) >= previous).all()
    assert (partial_captions.caption_probability(logits, values, np.zeros_like(said)) == 1).all()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            "word_probabilities",
            ([[0.0, 1.0]], [[1]]),
            r"shape \(1, 2\) and attributes \(1, 1\); expected both \[N, A\]",
        ),
        ("caption_probability", ([[0.0]], [[1]], [1]), r"said has shape \(1,\); expected \(1, 1\)"),
        ("acceptance_threshold", ([0.5], 1.0), "acceptance is 1.0; expected a share above 0 and below 1"),
        ("acceptance_threshold", ([], 0.9), "there is no score; expected those of at least one true pair"),
    ],
)
def test_mistakes_are_named(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(partial_captions, function)(*arguments)


@pytest.mark.parametrize(
    ("count", "acceptance", "threshold"),
    [(18, 0.95, 0.0), (19, 0.95, 1.0), (38, 0.95, 1.0), (39, 0.95, 2.0), (9, 0.5, 5.0), (99, 0.9, 10.0)],
)
def test_the_threshold_is_the_lowest_score_that_may_be_refused(count, acceptance, threshold):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert partial_captions.acceptance_threshold(scores, acceptance) == threshold


@pytest.mark.parametrize(("total", "acceptance"), [(20, 0.95), (31, 0.95), (50, 0.9), (7, 0.5)])
def test_of_equally_likely_pairs_each_is_accepted_by_the_others_as_often_as_is_asked(total, acceptance):
    """One left out after the other: the share is 1 - k / (M + 1), less than 1 / (M + 1) above what is asked."""
    scores = np.random.default_rng(1).permutation(total) + 1.0
    accepted = np.mean(
        [
            scores[one] > partial_captions.acceptance_threshold(np.delete(scores, one), acceptance)
            for one in range(total)
        ]
    )
    assert acceptance - 1e-12 <= accepted < acceptance + 1 / total


def test_words_are_left_out_at_random_and_the_genders_are_one():
    said = np.repeat(SAID[:1], 4000, axis=0)  # young, woman, blond
    for count, left in ((0, 3), (1, 2), (2, 1), (3, 0), (4, 0)):
        less = partial_captions.leave_out(said, NAMES, count, seed=0)
        words = less[:, [0, 1, 4]]
        assert (less[:, 1] == less[:, 2]).all()
        assert not less[:, [3, 5]].any()
        assert (words.sum(axis=1) == left).all()
        # Each word as often as the others: five standard deviations.
        assert np.abs(words.mean(axis=0) - left / 3).max() < 5 * np.sqrt(2 / 9 / 4000)
    again = partial_captions.leave_out(said, NAMES, 1, seed=0)
    np.testing.assert_array_equal(again, partial_captions.leave_out(said, NAMES, 1, seed=0))
    assert (again != partial_captions.leave_out(said, NAMES, 1, seed=1)).any()


def test_one_wrong_word_is_said_beside_the_true_ones():
    values, said, items = partial_captions.wrong_words(FACES, SAID, NAMES)
    assert items == ("young", "male/female", "black_hair", "blond_hair", "mustache")

    def stated(item, face):
        pairs = zip(NAMES, values[items.index(item), face], said[items.index(item), face], strict=True)
        return {name: int(value) for name, value, spoken in pairs if spoken}

    woman = {"male": 0, "female": 1}
    assert stated("mustache", 0) == woman | {"young": 1, "blond_hair": 1, "mustache": 1}
    assert stated("mustache", 1) == {"male": 1, "female": 0, "black_hair": 1, "mustache": 0}  # "no mustache"
    assert stated("male/female", 0) == {"male": 1, "female": 0, "young": 1, "blond_hair": 1}
    assert stated("black_hair", 0) == woman | {"young": 1, "black_hair": 1}  # in place of blond
    assert stated("black_hair", 3) == woman | {"black_hair": 0}
    assert stated("young", 3) == woman | {"young": 1, "black_hair": 1}


def test_one_gender_that_is_listed_is_a_word_of_its_own():
    names = ("young", "male")
    values, said, items = partial_captions.wrong_words([[1, 0]], [[1, 1]], names)
    assert items == ("young", "male")
    assert values.tolist() == [[[0, 0]], [[1, 1]]]
    assert said.all()


# Models of which it is known what they decide. A code is the attributes of the image.


def encode(values, said):
    """The mean is the values, what is not said is 0, as of the paper's captions; unit variances."""
    mean = jnp.asarray(values * said)
    return mean, jnp.zeros_like(mean)


def judge_of(read, **thresholds):
    chosen = partial_captions.Thresholds(0.5, 0.5, 0.5, 0.95, 0, "img||txt", "mean")
    return partial_captions.Judge(read, encode, dataclasses.replace(chosen, **thresholds))


def benchmark(read, **thresholds):
    return partial_captions.benchmark(
        judge_of(read, **thresholds),
        (FACES, np.zeros_like(FACES)),
        FACES,
        SAID,
        NAMES,
        mismatches=1 - FACES,
        mismatches_said=SAID,
        seed=0,
    )


def perfect(z):
    return 20 * (2 * jnp.asarray(z) - 1)


def test_a_perfect_reader_accepts_every_true_caption_and_rejects_every_wrong_word():
    result = benchmark(perfect)
    assert {each.captions: each.words.value for each in result.true} == dict.fromkeys(
        [
            *("every attribute said, yes or no", "its own caption", "1 word left out", "2 words left out"),
            "gender alone",
        ],
        1.0,
    )
    assert [each.words.count for each in result.true] == [4, 4, 4, 2, 4]  # two captions have two words
    assert {each.captions: each.words.value for each in result.wrong} == dict.fromkeys(
        [*("young", "male/female", "black_hair", "blond_hair", "mustache"), "gender, alone"], 1.0
    )
    assert result.wrong_mean["words"] == Share(1.0, 1.0, 1.0, 4)
    assert result.curated["words"].rates.f1 == 1
    assert result.curated["words"].intervals["f1"] == (1, 1)


def test_a_reader_that_is_blind_to_one_attribute_notices_all_other_words():
    def blind(z):
        return perfect(z).at[:, 5].set(1.0)  # always rather a mustache: 0.73

    rows = {each.captions: each.words.value for each in benchmark(blind, words=0.2).wrong}
    assert rows == {name: 1.0 for name in rows} | {"mustache": 0.0}
    assert benchmark(blind, words=0.2).wrong_mean["words"].value == pytest.approx(4 / 5)
    assert benchmark(blind, words=0.2).true[0].words.value == 1.0
    # Three faces have none, and "no mustache" is then below the threshold.
    assert benchmark(blind, words=0.3).true[0].words.value == pytest.approx(1 / 4)
    assert benchmark(blind, words=0.3).true[1].words.value == 1.0  # captions do not say what is not there


def test_the_score_takes_a_word_that_is_left_out_for_a_wrong_one():
    """A word left out and a word too many are one squared difference each: 1 / (1 + 1 / (2 A))."""
    one, two = 1 / (1 + 1 / 12), 1 / (1 + 2 / 12)
    result = benchmark(perfect, score=one + 1e-4, score_at_acceptance=two + 1e-4)
    true = {each.captions: each for each in result.true}
    assert (true["its own caption"].score.value, true["its own caption"].words.value) == (1.0, 1.0)
    assert (true["1 word left out"].score.value, true["1 word left out"].words.value) == (0.0, 1.0)
    assert true["1 word left out"].score_at_acceptance.value == 1.0
    wrong = {each.captions: each for each in result.wrong}
    assert (wrong["mustache"].score.value, wrong["mustache"].score_at_acceptance.value) == (1.0, 0.0)
    assert wrong["male/female"].score_at_acceptance.value == 1.0  # two values differ


def test_thresholds_come_from_the_own_captions_of_calibration_images():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 60, 6)).astype(np.float32)
    values, said = rng.integers(0, 2, (60, 6)), rng.random((60, 6)) < 0.6
    judge = partial_captions.Judge.calibrated(
        jnp.asarray, encode, (mean, logvar), values, said, score_threshold=0.3, acceptance=0.9, reduction="sum"
    )
    probabilities = [
        min([1.0, *(1 / (1 + np.exp(-m if v else m)) for m, v, s in zip(*rows, strict=True) if s)])
        for rows in zip(mean.astype(float), values, said, strict=True)
    ]
    variance, difference = np.exp(logvar.astype(float)), mean - values * said
    divergence = 0.5 * (variance + difference**2 - 1 - logvar).sum(axis=1)
    chosen = judge.thresholds
    assert chosen.words == pytest.approx(sorted(probabilities)[5], rel=1e-5)  # the 6th of 60: 61 / 10 is 6.1
    assert chosen.score_at_acceptance == pytest.approx(sorted(1 / (1 + divergence))[5], rel=1e-5)
    assert (chosen.score, chosen.acceptance, chosen.calibration_images, chosen.reduction) == (0.3, 0.9, 60, "sum")
    accepted = judge.accepts((mean, logvar), values, said)
    assert [int(accepted[name].sum()) for name in ("words", "score_at_acceptance")] == [54, 54]
    np.testing.assert_array_equal(accepted["score"], 1 / (1 + divergence) > 0.3)


def test_the_result_is_plain_numbers():
    result = benchmark(perfect).to_dict()
    assert result["thresholds"]["words"] == 0.5
    assert result["true"][1]["captions"] == "its own caption"
    assert result["true"][1]["words"] == dataclasses.asdict(share([True] * 4))
