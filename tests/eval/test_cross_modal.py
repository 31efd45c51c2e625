import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from scipy import integrate, linalg, stats
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support, roc_auc_score

from mvae_jax.eval import consistency, cross_modal


def test_by_hand():
    logits = [[2.0, -1.0], [-3.0, -2.0], [1.0, 4.0], [0.5, -0.5]]
    attributes = [[1, 0], [1, 0], [0, 1], [1, 0]]
    scores = cross_modal.score_attributes(logits, attributes, ("smiling", "bald"))
    assert scores.count == 4
    assert scores.accuracy == 6 / 8
    assert scores.majority_accuracy == 6 / 8
    assert scores.exact_match == 2 / 4
    assert scores.majority_exact_match == 3 / 4
    smiling, bald = scores.attributes
    assert (smiling.name, smiling.prevalence, smiling.accuracy, smiling.majority_accuracy) == (
        "smiling",
        0.75,
        0.5,
        0.75,
    )
    assert smiling.balanced_accuracy == pytest.approx((2 / 3 + 0) / 2)
    assert smiling.auroc == pytest.approx(1 / 3)
    assert (bald.accuracy, bald.balanced_accuracy, bald.auroc) == (1.0, 1.0, 1.0)
    # Said to smile: examples 0, 2 and 3, of whom 0 and 3 do; example 1 does as well.
    assert (smiling.precision, smiling.recall, smiling.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (bald.precision, bald.recall, bald.f1) == (1.0, 1.0, 1.0)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
    assert scores.blind_macro_f1 == pytest.approx((1.5 / 1.75 + 0.5 / 1.25) / 2)


def test_equals_scikit_learn():
    rng = np.random.default_rng(0)
    attributes = (rng.random((200, 3)) < (0.1, 0.5, 0.8)).astype(np.float32)
    logits = np.round(attributes + rng.normal(size=attributes.shape) - 0.5, 1)  # rounded: ties
    scores = cross_modal.score_attributes(logits, attributes, "abc")
    for column, score in enumerate(scores.attributes):
        truth, predicted = attributes[:, column], logits[:, column] > 0
        assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
        assert score.auroc == pytest.approx(roc_auc_score(truth, logits[:, column]))
    ours = [(score.precision, score.recall, score.f1) for score in scores.attributes]
    *theirs, _ = precision_recall_fscore_support(attributes, logits > 0)
    np.testing.assert_allclose(ours, np.transpose(theirs))
    assert scores.macro_f1 == pytest.approx(theirs[2].mean())


def test_blind_f1_is_that_of_always_yes():
    attributes = np.random.default_rng(0).random((50, 3)) < (0.1, 0.5, 0.8)
    scores = cross_modal.score_attributes(np.ones((50, 3)), attributes, "abc")
    assert scores.macro_f1 == pytest.approx(scores.blind_macro_f1)


def test_one_class_has_no_balanced_accuracy():
    scores = cross_modal.score_attributes([[1.0, 1.0], [-1.0, 1.0]], [[0, 1], [0, 1]], ["bald", "male"])
    bald, male = scores.attributes
    assert (bald.balanced_accuracy, bald.auroc, male.balanced_accuracy, male.auroc) == (None,) * 4
    assert (bald.precision, bald.recall, bald.f1) == (None,) * 3
    assert (male.precision, male.recall, male.f1) == (1.0,) * 3
    assert scores.macro_f1 == 1.0  # of the men alone
    assert json.loads(json.dumps(scores.to_dict()))["attributes"][0]["auroc"] is None


def test_never_saying_yes_has_no_f1_to_show():
    scores = cross_modal.score_attributes([[-1.0], [-1.0]], [[0], [1]], ["bald"])
    assert (scores.attributes[0].precision, scores.attributes[0].recall, scores.macro_f1) == (0.0, 0.0, 0.0)
    nobody = cross_modal.score_attributes([[-1.0], [-1.0]], [[0], [0]], ["bald"])
    assert (nobody.macro_f1, nobody.blind_macro_f1) == (None, None)


@pytest.mark.parametrize(
    ("logits", "attributes", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), r"logits have shape \(2, 3\) and attributes \(2, 2\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), r"expected both \[N, 2\]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "at least one row"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "4 of 4 values of logits are not numbers"),
    ],
)
def test_wrong_input_is_refused(logits, attributes, message):
    with pytest.raises(ValueError, match=message):
        cross_modal.score_attributes(logits, attributes, ("a", "b"))


def test_well_formed_by_hand():
    names = ("Male", "female", "smiling", "black_hair", "blond_hair", "bald")
    verdicts = {
        (1, 0, 0, 0, 0, 0): True,
        (0, 1, 1, 0, 1, 0): True,
        (1, 1, 0, 0, 0, 0): False,  # both
        (0, 0, 1, 1, 0, 0): False,  # neither
        (1, 0, 0, 1, 1, 0): False,  # two colours
        (1, 0, 0, 1, 0, 1): False,  # black and bald
        (0, 1, 0, 1, 1, 1): False,
    }
    assert cross_modal.well_formed(list(verdicts), names).tolist() == list(verdicts.values())
    # All 2^6 vectors: two genders, no hair or one of three, smiling or not.
    assert cross_modal.well_formed(list(itertools.product((0, 1), repeat=6)), names).sum() == 2 * 4 * 2


def test_well_formed_knows_only_the_names_it_has():
    every = np.array(list(itertools.product((False, True), repeat=2)))
    assert cross_modal.well_formed(every, ("male", "smiling")).all()
    assert cross_modal.well_formed(every, ("male", "female")).tolist() == [False, True, True, False]
    assert cross_modal.well_formed(every, ("bald", "blond_hair")).tolist() == [True, True, True, False]
    assert cross_modal.well_formed(every, ("male", "bald")).all()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [([[0.5, 0.0]], "pass the bits, not logits"), ([[0, 1, 0]], r"shape \(1, 3\), expected \[N, 2\]")],
)
def test_well_formed_refuses(attributes, message):
    with pytest.raises(ValueError, match=message):
        cross_modal.well_formed(attributes, ("male", "female"))


def loop_distance(sets):
    """Root mean squared difference per value over all pairs within each set."""
    squares = [np.square(a - b).mean() for examples in sets for a, b in itertools.combinations(examples, 2)]
    return math.sqrt(np.mean(squares))


@pytest.mark.parametrize("features", [(4, 5, 3), (7,)])
def test_diversity_equals_loop_over_pairs(features):
    rng = np.random.default_rng(0)
    # Far from the origin, where sums of squares would lose the digits of the difference.
    samples = 1e3 + rng.normal(size=(3, 4, *features)) * rng.uniform(0.1, 1, (3, 1, *[1] * len(features)))
    reference = rng.normal(size=(6, *features))
    score = cross_modal.diversity(samples, reference)
    assert score.within == pytest.approx(loop_distance(samples))
    assert score.reference == pytest.approx(loop_distance([reference]))
    assert score.ratio == pytest.approx(loop_distance(samples) / loop_distance([reference]))
    assert (score.captions, score.draws, score.references) == (3, 4, 6)


def test_diversity_by_hand():
    # Two draws 0.3 apart in each of two captions; real values -1 and 1 at distance 2.
    samples = np.array([0.0, 0.3, 0.5, 0.8], np.float32).reshape(2, 2, 1) * np.ones(5, np.float32)
    reference = np.array([[-1.0], [1.0]]) * np.ones(5)
    score = cross_modal.diversity(samples, reference).to_dict()
    assert score == pytest.approx(
        {"within": 0.3, "reference": 2.0, "ratio": 0.15, "captions": 2, "draws": 2, "references": 2}
    )
    assert json.loads(json.dumps(score)) == score


def test_diversity_ends():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(400, 50)).astype(np.float32)
    # One picture per caption, however much captions differ: none. Draws like the data: as much as the data.
    copies = np.repeat(reference[:5, None], 3, axis=1)
    assert cross_modal.diversity(copies, reference).ratio < 1e-12
    fresh = rng.normal(size=(100, 4, 50)).astype(np.float32)
    assert cross_modal.diversity(fresh, reference).ratio == pytest.approx(1.0, abs=0.02)


def test_squared_ratio_is_the_variance_that_captions_leave_open():
    # A caption fixes a mean of variance 3 and leaves variance 1: ratio^2 = 1 / (1 + 3).
    rng = np.random.default_rng(0)

    def data(captions, draws):
        return math.sqrt(3) * rng.normal(size=(captions, 1, 20)) + rng.normal(size=(captions, draws, 20))

    score = cross_modal.diversity(data(300, 2), data(2000, 1)[:, 0])
    assert score.ratio**2 == pytest.approx(0.25, abs=0.01)


def test_diversity_does_not_care_how_many_draws_there_are():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2000, 6, 3))
    few, many = (cross_modal.diversity(draws[:, :count], draws[:, 0]).within for count in (2, 6))
    assert few == pytest.approx(many, rel=0.03)


@pytest.mark.parametrize(
    ("samples", "reference", "message"),
    [
        (np.zeros((2, 3, 4)), np.ones((5, 3)), r"shape \(2, 3, 4\) and reference \(5, 3\)"),
        (np.zeros((0, 3, 4)), np.ones((5, 4)), r"shape \(0, 3, 4\)"),
        (np.zeros((2, 1, 4)), np.ones((5, 4)), "1 draws per caption and 5 real images"),
        (np.zeros((2, 3, 4)), np.ones((1, 4)), "3 draws per caption and 1 real images"),
        (np.zeros((2, 3, 4)), np.ones((5, 4)), "all real images are equal"),
        (np.full((2, 3, 4), np.nan), np.eye(4), "not finite"),
    ],
)
def test_diversity_refuses(samples, reference, message):
    with pytest.raises(ValueError, match=message):
        cross_modal.diversity(samples, reference)


ATTRIBUTES = np.array([[0, 1], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]])  # three texts: 3, 2 and 1 times


def example_posteriors(dimensions=4, seed=0):
    """Posteriors of images at random, of texts a function of the attributes."""
    rng = np.random.default_rng(seed)
    image = tuple(rng.normal(size=(len(ATTRIBUTES), dimensions)).astype(np.float32) for _ in range(2))
    by_text = rng.normal(size=(2, 4, dimensions)).astype(np.float32)
    code = ATTRIBUTES @ (2, 1)
    return image, (by_text[0, code], by_text[1, code])


def loop_distances(mean_p, logvar_p, mean_q, logvar_q):
    """KL both ways and 2-Wasserstein from the formulas for full covariance matrices, and distance of means."""
    p, q = np.diag(np.exp(logvar_p.astype(np.float64))), np.diag(np.exp(logvar_q.astype(np.float64)))
    shift = mean_q.astype(np.float64) - mean_p

    def kl(p, q):
        log_determinants = np.linalg.slogdet(q)[1] - np.linalg.slogdet(p)[1]
        inverse = np.linalg.inv(q)
        return 0.5 * (np.trace(inverse @ p) + shift @ inverse @ shift - len(shift) + log_determinants)

    root = linalg.sqrtm(p)
    cross = linalg.sqrtm(root @ q @ root).real
    return kl(p, q), kl(q, p), np.sqrt(shift @ shift + np.trace(p + q - 2 * cross)), np.linalg.norm(shift)


@pytest.mark.parametrize("name", ["matching", "mismatched"])
def test_posterior_distance_equals_loop_over_pairs(name):
    image, text = example_posteriors()
    rows = {"matching": [], "mismatched": []}
    for i, own in enumerate(ATTRIBUTES):
        for j, other in enumerate(ATTRIBUTES):
            distances = loop_distances(image[0][i], image[1][i], text[0][j], text[1][j])
            if i == j:
                rows["matching"].append(distances)
            elif (own != other).any():
                rows["mismatched"].append(distances)
    forward, backward, wasserstein, means = np.mean(rows[name], axis=0)
    expected = {
        "kl_image_text": forward,
        "kl_text_image": backward,
        "jeffreys": forward + backward,
        "kl_image_text_per_dimension": forward / 4,
        "kl_text_image_per_dimension": backward / 4,
        "jeffreys_per_dimension": (forward + backward) / 4,
        "wasserstein": wasserstein,
        "means": means,
    }
    result = cross_modal.posterior_distance(image, text, ATTRIBUTES)
    assert dataclasses.asdict(getattr(result, name)) == pytest.approx(expected, rel=1e-5)
    assert (result.count, result.dimensions, result.texts) == (6, 4, 3)


def test_posterior_distance_in_one_dimension_equals_integrals():
    (mean_p, logvar_p), (mean_q, logvar_q) = (0.3, -1.0), (-0.6, 0.5)
    p, q = stats.norm(mean_p, np.exp(logvar_p / 2)), stats.norm(mean_q, np.exp(logvar_q / 2))

    def column(value, other=0.0):  # a second example, of another text, at the standard normal
        return np.array([[value], [other]], np.float32)

    result = cross_modal.posterior_distance(
        (column(mean_p), column(logvar_p)), (column(mean_q), column(logvar_q)), [[0], [1]]
    ).matching
    forward, _ = integrate.quad(lambda z: p.pdf(z) * (p.logpdf(z) - q.logpdf(z)), -8, 8)
    backward, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -12, 12)
    # On the line the optimal transport pairs quantiles.
    transport, _ = integrate.quad(lambda u: (p.ppf(u) - q.ppf(u)) ** 2, 0, 1)
    halved = forward / 2, backward / 2, np.sqrt(transport) / 2, 0.9 / 2  # mean with the second example's zeros
    assert (result.kl_image_text, result.kl_text_image, result.wasserstein, result.means) == pytest.approx(
        halved, rel=1e-4
    )


def test_equal_posteriors_have_no_distance():
    _, text = example_posteriors()
    result = cross_modal.posterior_distance(text, text, ATTRIBUTES)
    assert set(dataclasses.asdict(result.matching).values()) == {0.0}
    assert min(dataclasses.asdict(result.mismatched).values()) > 0.1
    assert (result.recall_at_1, result.median_rank) == (1.0, 1.0)


def test_ranks_of_texts_by_hand():
    # Unit variances: KL = half the squared distance. Texts at 0, 1 and 10; every attribute row is a text's.
    attributes = np.array([[0, 0], [0, 1], [1, 0], [0, 0], [0, 0]])
    texts = np.array([0.0, 1.0, 10.0, 0.0, 0.0], np.float32)[:, None]
    images = np.array([0.2, 0.3, 9.0, 0.9, 20.0], np.float32)[:, None]  # ranks 1, 2, 1, 2, 3
    zeros = np.zeros_like(texts)
    result = cross_modal.posterior_distance((images, zeros), (texts, zeros), attributes)
    assert (result.recall_at_1, result.median_rank) == (2 / 5, 2.0)
    assert result.majority_recall_at_1 == 3 / 5
    assert result.matching.means == pytest.approx((0.2 + 0.7 + 1 + 0.9 + 20) / 5)
    # Image 1 has four other texts, at 0 three times and at 10.
    others = [0.8, 9.8, *[0.3] * 3, 9.7, *[9.0] * 3, 8.0, 0.1, 9.1, 19.0, 10.0]
    assert result.mismatched.means == pytest.approx(np.mean(others))


def test_rank_follows_the_consistency_score():
    # Where the variances differ the two directions rank differently: KL(image || text) is the score's.
    image, text = example_posteriors(seed=3)
    result = cross_modal.posterior_distance(image, text, ATTRIBUTES)
    _, first, own = np.unique(ATTRIBUTES, axis=0, return_index=True, return_inverse=True)
    ranks = {}
    for direction in ("img||txt", "txt||img"):
        scores = np.stack(
            [
                consistency.consistency_score(
                    image, [np.repeat(values[[t]], 6, axis=0) for values in text], direction=direction
                )
                for t in first
            ],
            axis=1,
        )
        ranks[direction] = (scores >= scores[np.arange(6), own][:, None]).sum(axis=1)
    assert np.median(ranks["img||txt"]) != np.median(ranks["txt||img"])
    assert result.recall_at_1 == pytest.approx((ranks["img||txt"] == 1).mean())
    assert result.median_rank == np.median(ranks["img||txt"])


def test_texts_that_all_look_alike_find_nothing():
    image, text = example_posteriors()
    alike = tuple(np.repeat(values[:1], 6, axis=0) for values in text)
    result = cross_modal.posterior_distance(image, alike, ATTRIBUTES)
    assert (result.recall_at_1, result.median_rank) == (0.0, 3.0)


def test_shuffles_give_the_mismatched_distance_on_average():
    image, text = example_posteriors()
    expected = cross_modal.posterior_distance(image, text, ATTRIBUTES).mismatched.kl_image_text
    rng, distances = np.random.default_rng(0), []
    for _ in range(2000):
        i, j = rng.integers(6, size=2)
        if (ATTRIBUTES[i] != ATTRIBUTES[j]).any():
            distances.append(loop_distances(image[0][i], image[1][i], text[0][j], text[1][j])[0])
    assert abs(np.mean(distances) - expected) < 3 * stats.sem(distances)


def test_posterior_distance_in_plain_numbers():
    result = cross_modal.posterior_distance(*example_posteriors(), ATTRIBUTES).to_dict()
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (ATTRIBUTES[:5], r"shape \(5, 2\), expected \[6, A\]"),
        (np.zeros((6, 2)), "all 6 examples have the same attributes"),
    ],
)
def test_wrong_attributes_are_refused(attributes, message):
    with pytest.raises(ValueError, match=message):
        cross_modal.posterior_distance(*example_posteriors(), attributes)


def test_a_point_is_no_distance_from_itself():
    points = ATTRIBUTES * np.float32(1e-19), np.full(ATTRIBUTES.shape, -90, np.float32)
    result = cross_modal.posterior_distance(points, points, ATTRIBUTES)
    assert (result.matching.jeffreys, result.matching.wasserstein, result.recall_at_1) == (0.0, 0.0, 1.0)
    assert result.mismatched.jeffreys > 0


def test_broken_posteriors_are_refused():
    image, text = example_posteriors()
    image[1][2, 0] = 200.0  # exp overflows
    with pytest.raises(ValueError, match="a distance is not finite"):
        cross_modal.posterior_distance(image, text, ATTRIBUTES)


def test_distinct_rows_come_in_the_order_of_their_first_appearance():
    rows = np.array([[1, 0], [0, 1], [1, 0], [0, 0], [0, 1]], np.float32)
    np.testing.assert_array_equal(cross_modal.distinct_rows(rows), [[1, 0], [0, 1], [0, 0]])
