import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from mvae_jax.eval import consistency

NAMES = (
    "young",
    "male",
    "female",
    "smiling",
    "eyeglasses",
    "black_hair",
    "blond_hair",
    "bald",
    "mustache",
    "wearing_lipstick",
)
COLUMN = {name: index for index, name in enumerate(NAMES)}
HAIR = [COLUMN[name] for name in ("black_hair", "blond_hair", "bald")]
TABLE_1 = consistency.Confusion(427, 73, 40, 460)


def loop_kl(mean_p, logvar_p, mean_q, logvar_q):
    total = 0.0
    for mp, lp, mq, lq in zip(mean_p, logvar_p, mean_q, logvar_q, strict=True):
        total += 0.5 * (lq - lp + (math.exp(lp) + (mp - mq) ** 2) / math.exp(lq) - 1)
    return total


@pytest.mark.parametrize("direction", ["img||txt", "txt||img"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_score_equals_loop_in_both_directions(direction, reduction):
    rng = np.random.default_rng(0)
    image, text = (tuple(rng.normal(size=(2, 3, 5)).astype(np.float32)) for _ in range(2))
    scores = consistency.consistency_score(image, text, direction=direction, reduction=reduction)
    p, q = (image, text) if direction == "img||txt" else (text, image)
    for row, score in enumerate(np.asarray(scores)):
        kl = loop_kl(p[0][row], p[1][row], q[0][row], q[1][row])
        np.testing.assert_allclose(score, 1 / (1 + kl / (5 if reduction == "mean" else 1)), rtol=1e-5)


def test_score_by_hand():
    # KL(N(0, 1) || N(2, 1)) = 2 in each of two dimensions.
    zeros = np.zeros((1, 2), np.float32)
    np.testing.assert_allclose(consistency.consistency_score((zeros, zeros), (zeros + 2, zeros)), [1 / 3])
    np.testing.assert_allclose(
        consistency.consistency_score((zeros, zeros), (zeros + 2, zeros), reduction="sum"), [1 / 5]
    )
    np.testing.assert_allclose(consistency.consistency_score((zeros, zeros), (zeros, zeros)), [1.0])


@pytest.mark.parametrize("option", ["direction", "reduction"])
def test_unknown_option_is_named(option):
    zeros = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match=f"{option} is 'both'; choose one of "):
        consistency.consistency_score((zeros, zeros), (zeros, zeros), **{option: "both"})


def people(count, seed=0, hair="any"):
    """Random vectors with one gender each; hair of any kind, with impossible combinations."""
    attributes = np.random.default_rng(seed).integers(0, 2, (count, len(NAMES))).astype(np.float32)
    attributes[:, 2] = 1 - attributes[:, 1]
    if hair != "any":
        attributes[:, HAIR] = hair
    return attributes


def women(**bits):
    row = np.zeros(len(NAMES), np.float32)
    row[COLUMN["female"]] = 1
    for name, value in bits.items():
        row[COLUMN[name]] = value
    return np.tile(row, (17, 1))


@pytest.mark.parametrize(
    "attributes",
    [
        people(2000),
        people(200, hair=0),
        people(200, hair=1),
        people(200, hair=(0, 0, 1)),
        people(1),
        women(),
        women(mustache=1),
        women(mustache=1, bald=1, black_hair=1, young=1),
        1 - women(female=0, male=1),
        people(50).astype(bool),
        people(50).astype(np.uint8),
    ],
    ids=[
        "random",
        "no hair",
        "every hair",
        "all bald",
        "one",
        "women",
        "mustached",
        "odd",
        "full",
        "bool",
        "uint8",
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_mismatches_keep_the_protocol(attributes, seed):
    before = attributes.copy()
    mismatches = consistency.curate_mismatches(attributes, NAMES, seed=seed)
    assert mismatches.shape == attributes.shape
    assert mismatches.dtype == attributes.dtype
    np.testing.assert_array_equal(attributes, before)
    own, other = attributes.astype(int), mismatches.astype(int)
    assert set(np.unique(other)) <= {0, 1}
    np.testing.assert_array_equal(other[:, 0], own[:, 0])
    np.testing.assert_array_equal(other[:, 1], 1 - own[:, 1])
    np.testing.assert_array_equal(other[:, 2], 1 - own[:, 2])
    assert (other[:, HAIR].sum(1) <= 1).all()
    assert ((own != other).sum(1) >= 4).all()
    for group in consistency.GROUPS:
        columns = [COLUMN[name] for name in group]
        assert (own[:, columns] != other[:, columns]).any(1).all(), group


def test_mismatches_start_from_the_next_example():
    man = np.array([0, 1, 0, 1, 0, 0, 0, 1, 0, 0])
    woman = np.array([1, 0, 1, 0, 1, 1, 0, 0, 1, 1])
    # Every rule holds between the two already: only `young` has to stay as it is.
    expected = np.stack([np.r_[man[0], woman[1:]], np.r_[woman[0], man[1:]]])
    np.testing.assert_array_equal(consistency.curate_mismatches(np.stack([man, woman]), NAMES, seed=0), expected)


def test_hair_of_the_next_example_stays_where_it_may():
    attributes = people(300, seed=4)
    hair, following = attributes[:, HAIR], np.roll(attributes, -1, axis=0)[:, HAIR]
    mismatched = consistency.curate_mismatches(attributes, NAMES, seed=0)[:, HAIR]
    kept = (following.sum(1) <= 1) & (following != hair).any(1)
    np.testing.assert_array_equal(mismatched[kept], following[kept])
    several = (following.sum(1) > 1) & (hair.sum(1) != 1)  # one of the next example's colours, never another
    assert (mismatched[several].sum(1) == 1).all()
    assert (mismatched[several] <= following[several]).all()
    assert min(kept.sum(), several.sum()) > 50


def test_curation_is_a_function_of_the_seed():
    first, again, other = (consistency.curate_mismatches(people(100), NAMES, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("names", "most"),
    [
        (NAMES, 7),
        (("Young", "Male", "Female", "Smiling", "Mustache"), 4),
        (("Male", "Black_Hair", "Blond_Hair", "Bald", "Eyeglasses", "Wearing_Hat"), 4),
        (("male", "female", "big_nose", "wearing_hat", "oval_face", "bangs"), 6),
        (("red", "round", "small", "striped"), 4),
    ],
)
def test_other_attribute_lists(names, most):
    assert consistency.most_changes(names) == most
    lower = [name.lower() for name in names]
    attributes = np.array([bits for bits in itertools.product((0, 1), repeat=min(len(names), 6))])
    attributes = np.pad(attributes, ((0, 0), (0, len(names) - attributes.shape[1])))
    if "female" in lower:
        attributes[:, lower.index("female")] = 1 - attributes[:, lower.index("male")]
    mismatches = consistency.curate_mismatches(attributes, names, seed=0, minimum_changes=most)
    assert ((mismatches != attributes).sum(1) >= most).all()
    with pytest.raises(ValueError, match=f"only {most} can differ at once.*minimum_changes={most + 1}"):
        consistency.curate_mismatches(attributes, names, seed=0, minimum_changes=most + 1)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (people(3)[:, :9], r"shape \(3, 9\), expected \[N, 10\]"),
        (people(3) + 0.5, "other values than 0 and 1"),
        (people(3) * 0, "example 0 is both or neither male and female"),
    ],
)
def test_wrong_attributes_are_refused(attributes, message):
    with pytest.raises(ValueError, match=message):
        consistency.curate_mismatches(attributes, NAMES, seed=0)


def test_threshold_by_hand():
    assert consistency.threshold([0.8, 1.0], [0.1, 0.3]) == pytest.approx(0.6 * 0.9 + 0.4 * 0.2)
    assert consistency.threshold([0.8, 1.0], [0.1, 0.3], weight=0.5) == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("positive", "published"),
    [("match", (0.887, 0.863, 0.920, 0.891)), ("mismatch", (0.887, 0.914, 0.854, 0.883))],
)
def test_published_table(positive, published):
    rates = dataclasses.astuple(TABLE_1.rates(positive=positive))
    assert tuple(round(rate, 3) for rate in rates) == published


def test_rates_of_nothing_accepted_are_zero():
    assert consistency.Confusion(5, 0, 5, 0).rates() == consistency.Rates(0.5, 0.0, 0.0, 0.0)


def test_unknown_positive_class():
    with pytest.raises(ValueError, match="positive is 'Match'; choose one of 'match', 'mismatch'"):
        TABLE_1.rates("Match")


def test_confusion_counts_scores_above_the_border():
    confusion = consistency.Confusion.at(0.5, [0.5, 0.6, 0.9], [0.1, 0.5, 0.7, 0.8])
    assert confusion == consistency.Confusion(2, 2, 1, 2)


def test_auroc_counts_pairs_and_halves_ties():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(2, 9, 40), rng.integers(0, 7, 30)
    pairs = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(positive, negative)]
    assert consistency.auroc(positive, negative) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert consistency.auroc([1, 2], [0, 0.5]) == 1.0
    assert consistency.auroc([1, 1], [1]) == 0.5


def test_bootstrap_interval_of_accuracy_is_the_binomial_one():
    # 300 images, both pairs right or both wrong together: accuracy is a mean of 300 coin tosses of 0.8.
    right = np.arange(300) < 240
    intervals = consistency.bootstrap_intervals(0.5, right * 1.0, (~right) * 1.0, seed=0)
    deviation = math.sqrt(0.8 * 0.2 / 300)
    np.testing.assert_allclose(intervals["accuracy"], (0.8 - 1.96 * deviation, 0.8 + 1.96 * deviation), atol=0.006)
    assert set(intervals) == {"accuracy", "precision", "recall", "f1", "auroc"}


def encode(attributes):
    """A code that keeps all bits: log variance 0, so that KL per dimension is half a squared difference."""
    attributes = np.asarray(attributes, np.float32)
    return attributes, np.zeros_like(attributes)


def test_benchmark_of_perfect_encoders():
    calibration, validation = people(40, seed=1), people(60, seed=2)
    result, match, mismatch, mismatches = consistency.benchmark(
        encode, encode, (calibration, calibration), (validation, validation), NAMES, seed=5
    )
    changes = (mismatches != validation).sum(1)
    np.testing.assert_allclose(match, 1.0)
    np.testing.assert_allclose(mismatch, 1 / (1 + changes / 2 / len(NAMES)), rtol=1e-6)
    assert result.confusion == consistency.Confusion(60, 0, 0, 60)
    assert result.rates == consistency.Rates(1.0, 1.0, 1.0, 1.0)
    assert (result.auroc, result.mean_match_score) == (1.0, 1.0)
    assert (result.calibration_images, result.validation_images, result.seed) == (40, 60, 5)
    assert json.loads(json.dumps(result.to_dict()))["confusion"]["mismatches_rejected"] == 60


def test_benchmark_of_poor_encoders_counts_their_errors():
    attributes = people(90, seed=2)
    images = attributes.copy()
    images[::3] = people(30, seed=3)  # a third of the images show somebody else
    result, match, mismatch, mismatches = consistency.benchmark(
        encode, encode, (people(40),) * 2, (images, attributes), NAMES, seed=0
    )
    accepted, wrongly_accepted = sum(match > result.threshold), sum(mismatch > result.threshold)
    assert result.confusion == consistency.Confusion(90 - wrongly_accepted, wrongly_accepted, 90 - accepted, accepted)
    assert 60 <= accepted < 70
    assert result.rates.precision == accepted / (accepted + wrongly_accepted)
    assert result.rates.recall == accepted / 90
    assert result.auroc == pytest.approx((match[:, None] > mismatch).mean() + (match[:, None] == mismatch).mean() / 2)
    texts, truth = np.concatenate([attributes, mismatches]), np.arange(180) < 90
    rules = [np.mean((texts[:, bit] == value) == truth) for bit in range(10) for value in (0, 1)]
    assert result.blind_accuracy == pytest.approx(max(rules))
    low, high = result.intervals["recall"]
    assert low < result.rates.recall < high


def test_benchmark_takes_the_threshold_from_calibration_alone():
    def blind(images):
        mean, logvar = encode(images)
        return mean + 1.0, logvar + 0.5

    calibration = people(40, seed=1), people(40, seed=1)
    (first, *_), (second, *_) = (
        consistency.benchmark(
            blind, encode, calibration, (people(50, seed=seed),) * 2, NAMES, seed=0, direction="txt||img"
        )
        for seed in (2, 3)
    )
    assert first.threshold == second.threshold
    assert first.mean_mismatch_score != second.mean_mismatch_score
    mean, _ = blind(calibration[0])
    mismatches = consistency.curate_mismatches(calibration[1], NAMES, seed=(0, 0))
    # KL(text || image) of unit variances and variances exp(0.5), averaged over dimensions.
    match, mismatch = (
        1 / (1 + 0.5 * (0.5 - 1 + np.exp(-0.5) * (1 + np.square(mean - bits))).mean(1))
        for bits in (calibration[1], mismatches)
    )
    assert first.threshold == pytest.approx(0.6 * match.mean() + 0.4 * mismatch.mean(), rel=1e-6)


def test_benchmark_refuses_broken_input():
    good = (people(5), people(5))
    with pytest.raises(ValueError, match="calibration has 5 images and 4 rows"):
        consistency.benchmark(encode, encode, (good[0], good[1][:4]), good, NAMES, seed=0)
    with pytest.raises(ValueError, match="5 of the 5 calibration images have a score that is not finite"):
        consistency.benchmark(lambda images: encode(images * np.nan), encode, good, good, NAMES, seed=0)
