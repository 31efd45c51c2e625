import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from mvae_jax import testing
from mvae_jax.attributes import FACE as NAMES
from mvae_jax.eval import consistency
from mvae_jax.eval.classification import Confusion, Rates, Spread, auroc, bootstrap_intervals

COLUMN = {name: index for index, name in enumerate(NAMES)}
ITEMS = (
    "young",
    "male/female",
    "smiling",
    "eyeglasses",
    "black_hair",
    "blond_hair",
    "bald",
    "mustache",
    "wearing_lipstick",
)
HAIR = [COLUMN[name] for name in ("black_hair", "blond_hair", "bald")]


@pytest.mark.parametrize("direction", ["img||txt", "txt||img"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_score_equals_loop_in_both_directions(direction, reduction):
    rng = np.random.default_rng(0)
    image, text = (tuple(rng.normal(size=(2, 3, 5)).astype(np.float32)) for _ in range(2))
    scores = consistency.consistency_score(image, text, direction=direction, reduction=reduction)
    p, q = (image, text) if direction == "img||txt" else (text, image)
    for row, score in enumerate(np.asarray(scores)):
        kl = testing.kl_divergence(p[0][row], p[1][row], q[0][row], q[1][row]).sum()
        np.testing.assert_allclose(score, 1 / (1 + kl / (5 if reduction == "mean" else 1)), rtol=1e-5)


def test_score_by_hand():
    # KL(N(0, 1) || N(2, 1)) = 2 in each of two dimensions.
    zeros = np.zeros((1, 2), np.float32)
    np.testing.assert_allclose(consistency.consistency_score((zeros, zeros), (zeros + 2, zeros)), [1 / 3])
    np.testing.assert_allclose(
        consistency.consistency_score((zeros, zeros), (zeros + 2, zeros), reduction="sum"), [1 / 5]
    )
    np.testing.assert_allclose(consistency.consistency_score((zeros, zeros), (zeros, zeros)), [1.0])
    point = zeros + 1, zeros - 100  # equal however tight; nothing else is close to it
    np.testing.assert_array_equal(consistency.consistency_score(point, point), [1.0])
    np.testing.assert_array_equal(consistency.consistency_score((zeros, zeros), point), [0.0])


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


@pytest.mark.parametrize("seed", range(8))
def test_the_most_accurate_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    # Few different values make ties within and between the classes.
    match, mismatch = rng.integers(3, 12, 40) / 12, rng.integers(1, 9, 30) / 12
    tried = sorted({0.0, *match, *mismatch})
    right = [sum(s > t for s in match) + sum(s <= t for s in mismatch) for t in tried]
    found = consistency.most_accurate_threshold(match, mismatch)
    assert sum(match > found) + sum(mismatch <= found) == max(right)
    lowest = tried[right.index(max(right))]  # between it and the next score decisions are the same
    assert lowest <= found < min(s for s in (*match, *mismatch, 2.0) if s > lowest)


def test_the_most_accurate_threshold_by_hand():
    assert consistency.most_accurate_threshold([0.8, 0.9], [0.1, 0.3]) == pytest.approx(0.55)  # halfway
    assert consistency.most_accurate_threshold([0.8, 0.9], [0.1, 0.85]) == pytest.approx(0.45)  # the lowest of two
    assert consistency.most_accurate_threshold([0.4], [0.4]) == 0.2  # all are accepted
    assert consistency.most_accurate_threshold([0.1], [0.5, 0.6]) == 0.6  # none is
    upper = np.nextafter(0.5, 1)
    assert consistency.most_accurate_threshold([upper], [0.5]) == 0.5


@pytest.mark.parametrize(("match", "mismatch"), [([], [0.1]), ([0.1], [])])
def test_a_threshold_needs_pairs_of_both_kinds(match, mismatch):
    message = f"there are {len(match)} matching and {len(mismatch)} mismatched pairs; expected at least one of each"
    with pytest.raises(ValueError, match=message):
        consistency.most_accurate_threshold(match, mismatch)


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
    assert result.confusion == Confusion(60, 0, 0, 60)
    assert result.rates == Rates(1.0, 1.0, 1.0, 1.0)
    assert (result.auroc, result.mean_match_score) == (1.0, 1.0)
    assert (result.calibration_images, result.validation_images, result.seed) == (40, 60, 5)
    assert result.curations == 20
    assert set(result.intervals.values()) == {(1.0, 1.0)}
    assert set(result.over_curations.values()) == {Spread(1.0, 0.0, 1.0, 1.0)}
    for item in result.sensitivity:
        for part in (item.overall, item.added, item.removed):
            assert (part.mean_score, part.auroc, part.paired) == (1.0, 1.0, 1.0), item.name
    written = json.loads(json.dumps(result.to_dict()))
    assert written["confusion"]["mismatches_rejected"] == 60
    assert written["intervals"]["f1"] == [1.0, 1.0]
    assert written["over_curations"]["f1"]["mean"] == 1.0
    assert [item["name"] for item in written["sensitivity"]] == list(ITEMS)
    assert written["sensitivity"][0]["added"]["auroc"] == 1.0


def noisy(attributes, seed=0):
    """Images that show their attributes roughly."""
    return attributes + np.random.default_rng(seed).normal(scale=0.7, size=attributes.shape).astype(np.float32)


def test_every_curation_has_its_own_threshold_and_stream():
    calibration, validation = people(3, seed=1), people(200, seed=2)  # few: thresholds differ
    images = {"calibration": noisy(calibration), "validation": noisy(validation, seed=1)}
    result, match, mismatch, mismatches = consistency.benchmark(
        encode,
        encode,
        (images["calibration"], calibration),
        (images["validation"], validation),
        NAMES,
        seed=7,
        curations=3,
    )

    def scores(shown, texts):
        return 1 / (1 + np.square(shown - texts).mean(1, dtype=np.float64) / 2)

    thresholds, rows, rates = [], [], []
    for curation in range(3):
        texts = [
            consistency.curate_mismatches(bits, NAMES, seed=(7, stream, curation))
            for stream, bits in enumerate((calibration, validation))
        ]
        thresholds.append(
            consistency.threshold(scores(images["calibration"], calibration), scores(images["calibration"], texts[0]))
        )
        rows.append(scores(images["validation"], texts[1]))
        rates.append(
            dataclasses.asdict(Confusion.at(thresholds[-1], match, rows[-1]).rates())
            | {"auroc": auroc(match, rows[-1])}
        )
        if curation == 0:
            np.testing.assert_array_equal(mismatches, texts[1])
            of_calibration = [scores(images["calibration"], bits) for bits in (calibration, texts[0])]
    assert match.dtype == mismatch.dtype == np.float64
    np.testing.assert_allclose(match, scores(images["validation"], validation), rtol=1e-6)
    np.testing.assert_allclose(mismatch, rows[0], rtol=1e-6)
    assert result.threshold == pytest.approx(thresholds[0], rel=1e-6)
    assert dataclasses.asdict(result.rates) | {"auroc": result.auroc} == pytest.approx(rates[0], rel=1e-6)
    most_accurate = consistency.most_accurate_threshold(*of_calibration)
    assert result.most_accurate_threshold == pytest.approx(most_accurate, rel=1e-6)
    assert result.most_accurate_confusion == Confusion.at(result.most_accurate_threshold, match, mismatch)
    assert result.most_accurate_rates == result.most_accurate_confusion.rates() != result.rates
    for name, spread in result.over_curations.items():
        values = [row[name] for row in rates]
        expected = (np.mean(values), np.std(values), min(values), max(values))
        assert dataclasses.astuple(spread) == pytest.approx(expected, rel=1e-6), name
    assert all(spread.standard_deviation > 0 for spread in result.over_curations.values())
    expected = bootstrap_intervals(thresholds, match, rows, seed=(7, 2))
    for name, ends in result.intervals.items():
        assert ends == pytest.approx(expected[name], rel=1e-6), name


def test_first_curation_does_not_depend_on_the_others():
    calibration, validation = people(30, seed=1), people(50, seed=2)
    pairs = (noisy(calibration), calibration), (noisy(validation, seed=1), validation)
    (one, *arrays), (several, *same) = (
        consistency.benchmark(encode, encode, *pairs, NAMES, seed=3, curations=curations) for curations in (1, 4)
    )
    for array, other in zip(arrays, same, strict=True):
        np.testing.assert_array_equal(array, other)
    anew = {"curations", "intervals", "over_curations"}
    kept = {field.name for field in dataclasses.fields(one)} - anew
    assert {name: getattr(one, name) for name in kept} == {name: getattr(several, name) for name in kept}
    for name, spread in one.over_curations.items():
        value = one.auroc if name == "auroc" else getattr(one.rates, name)
        assert dataclasses.astuple(spread) == pytest.approx((value, 0.0, value, value)), name


def test_benchmark_encodes_the_images_of_a_split_once():
    calls = []

    def counted(images):
        calls.append(len(images))
        return encode(images)

    pairs = (people(8),) * 2, (people(9),) * 2
    consistency.benchmark(counted, encode, *pairs, NAMES, seed=0, curations=5)
    assert calls == [8, 9]


def test_benchmark_of_poor_encoders_counts_their_errors():
    attributes = people(90, seed=2)
    images = attributes.copy()
    images[::3] = people(30, seed=3)  # a third of the images show somebody else
    result, match, mismatch, mismatches = consistency.benchmark(
        encode, encode, (people(40),) * 2, (images, attributes), NAMES, seed=0
    )
    accepted, wrongly_accepted = sum(match > result.threshold), sum(mismatch > result.threshold)
    assert result.confusion == Confusion(90 - wrongly_accepted, wrongly_accepted, 90 - accepted, accepted)
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
    mismatches = consistency.curate_mismatches(calibration[1], NAMES, seed=(0, 0, 0))
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
    with pytest.raises(ValueError, match="50 of 100 values of image_posterior are not finite"):
        consistency.benchmark(lambda images: encode(images * np.nan), encode, good, good, NAMES, seed=0)
    with pytest.raises(ValueError, match="curations is 0, expected at least 1"):
        consistency.benchmark(encode, encode, good, good, NAMES, seed=0, curations=0)


@pytest.mark.parametrize("names", [("red", "round", "small", "striped"), ("Bald", "Male", "Young", "Bangs")])
def test_benchmarks_of_other_attribute_lists(names):
    attributes = np.random.default_rng(0).integers(0, 2, (40, 4))
    pairs = noisy(attributes), attributes
    changes = consistency.most_changes(names)
    result, *_ = consistency.benchmark(encode, encode, pairs, pairs, names, seed=0, minimum_changes=changes)
    assert tuple(item.name for item in result.sensitivity) == names
    assert all(item.overall.paired > 0.6 for item in result.sensitivity)
    assert result.auroc > 0.8
    assert consistency.released_benchmark(encode, encode, pairs, names, seed=0).auroc > 0.8


# --- the released code's protocol ----------------------------------------------------------------------------------


def test_released_mismatches_start_from_the_previous_example_of_a_permutation():
    # Every bit three times: any two of the 16 vectors differ in three already, so that nothing is flipped.
    attributes = np.repeat([bits for bits in itertools.product((0, 1), repeat=4)], 3, axis=1)
    names = [f"bit {index}" for index in range(12)]
    mismatches = consistency.released_mismatches(attributes, names, seed=0)
    previous = [int(np.flatnonzero((attributes == row).all(1))[0]) for row in mismatches]
    seen, index = [], 0
    for _ in range(16):
        seen.append(index)
        index = previous[index]
    assert sorted(seen) == list(range(16))  # one cycle through everybody
    assert previous != [(index - 1) % 16 for index in range(16)]


@pytest.mark.parametrize("attributes", [people(500), people(1), women(bald=1), people(40).astype(bool)])
def test_released_mismatches_differ_in_three_bits_at_least(attributes):
    before = attributes.copy()
    mismatches = consistency.released_mismatches(attributes, NAMES, seed=1)
    np.testing.assert_array_equal(attributes, before)
    assert mismatches.dtype == attributes.dtype
    assert set(np.unique(mismatches.astype(int))) <= {0, 1}
    assert ((mismatches != attributes).sum(1) >= 3).all()


def test_released_mismatches_flip_any_bit_and_nothing_forces_the_rest():
    woman = np.tile(women()[:1], (4000, 1))
    mismatches = consistency.released_mismatches(woman, NAMES, seed=0)
    changed = mismatches != woman
    assert (changed.sum(1) == 3).all()
    # Each bit in 3 of 10 mismatches, within four standard deviations.
    np.testing.assert_allclose(changed.mean(0), 0.3, atol=4 * math.sqrt(0.3 * 0.7 / 4000))
    assert (mismatches[:, HAIR].sum(1) > 1).any()
    assert (mismatches[:, 1] == mismatches[:, 2]).any()


def test_released_mismatches_are_a_function_of_the_seed():
    first, again, other = (consistency.released_mismatches(people(100), NAMES, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_released_mismatches_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="minimum_changes is 11, expected at most the 10 attributes"):
        consistency.released_mismatches(people(3), NAMES, seed=0, minimum_changes=11)
    with pytest.raises(ValueError, match="other values than 0 and 1"):
        consistency.released_mismatches(people(3) + 0.5, NAMES, seed=0)


@pytest.mark.parametrize("count", [60, 1200])
def test_released_benchmark_fits_its_threshold_to_the_pairs_it_judges(count):
    attributes = people(count, seed=2)
    images = noisy(attributes)
    result = consistency.released_benchmark(encode, encode, (images, attributes), NAMES, seed=4, threshold_weight=0.7)
    rng = np.random.default_rng((4, 3))
    mismatches = consistency.released_mismatches(attributes, NAMES, seed=rng)
    chosen = rng.choice(count, min(count, 1000), replace=False)
    match, mismatch = (
        1 / (1 + np.square(images - bits).mean(1, dtype=np.float64) / 2) for bits in (attributes, mismatches)
    )
    threshold = consistency.threshold(match[chosen], mismatch[chosen], 0.7)
    assert result.threshold == pytest.approx(threshold, rel=1e-6)
    if count > 1000:
        assert result.threshold != pytest.approx(consistency.threshold(match, mismatch, 0.7), rel=1e-6)
    assert result.confusion == Confusion.at(threshold, match, mismatch)
    assert result.auroc == pytest.approx(auroc(match, mismatch))
    assert (result.threshold_images, result.validation_images) == (min(count, 1000), count)
    assert (result.minimum_changes, result.threshold_weight, result.seed) == (3, 0.7, 4)
    assert result.rates == result.confusion.rates("match")
    assert result.rates_mismatch_positive == result.confusion.rates("mismatch") != result.rates
    assert all(name in result.protocol for name in ("MM-04", "MM-06", "MM-07"))
    assert json.loads(json.dumps(result.to_dict()))["rates_mismatch_positive"]["f1"] < 1


def test_released_benchmark_of_perfect_encoders():
    attributes = people(60)
    result = consistency.released_benchmark(encode, encode, (attributes, attributes), NAMES, seed=0)
    assert result.confusion == Confusion(60, 0, 0, 60)
    assert result.rates == result.rates_mismatch_positive == Rates(1.0, 1.0, 1.0, 1.0)
    assert (result.auroc, result.mean_match_score) == (1.0, 1.0)


def test_released_benchmark_with_fewer_than_three_attributes_changes_them_all():
    attributes = people(20)[:, :2]
    result = consistency.released_benchmark(encode, encode, (attributes, attributes), ("round", "red"), seed=0)
    assert result.minimum_changes == 2
    assert result.mean_mismatch_score == pytest.approx(1 / (1 + 0.5))


def test_released_benchmark_refuses_broken_input():
    with pytest.raises(ValueError, match="validation has 5 images and 4 rows"):
        consistency.released_benchmark(encode, encode, (people(5), people(4)), NAMES, seed=0)


# --- one thing wrong -----------------------------------------------------------------------------------------------


def test_single_edits_change_one_thing_of_one_person():
    attributes = people(200)
    attributes[:, HAIR] = np.eye(4)[np.random.default_rng(1).integers(4, size=200), :3]
    edits, items = consistency.single_edits(attributes, NAMES)
    assert items == ITEMS
    assert edits.shape == (9, 200, 10)
    assert edits.dtype == attributes.dtype
    for item, edited in zip(items, edits, strict=True):
        changed = (edited != attributes).sum(1)
        assert (edited[:, 1] + edited[:, 2] == 1).all()
        assert (edited[:, HAIR].sum(1) <= 1).all()
        named = [COLUMN[name] for name in item.split("/")]
        np.testing.assert_array_equal(edited[:, named], 1 - attributes[:, named])
        if item in ("black_hair", "blond_hair", "bald"):
            recoloured = (attributes[:, COLUMN[item]] == 0) & (attributes[:, HAIR].sum(1) == 1)
            np.testing.assert_array_equal(changed, 1 + recoloured)
        else:
            assert (changed == len(named)).all()


def test_single_edits_mend_what_is_not_well_formed():
    nobody, both = np.zeros(10, int), np.ones(10, int)
    edits, items = consistency.single_edits(np.stack([nobody, both]), NAMES)
    np.testing.assert_array_equal(edits[items.index("male/female")][:, 1:3], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(edits[items.index("bald")][:, HAIR], [[0, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("names", "items"),
    [
        (("Female", "Bald", "Male"), ("Bald", "Male/Female")),
        (("female", "bald", "smiling"), ("female", "bald", "smiling")),
        (("red", "round", "striped"), ("red", "round", "striped")),
    ],
)
def test_single_edits_of_other_attribute_lists(names, items):
    attributes = np.array([[1, 1, 0], [0, 1, 1]], np.uint8)
    edits, found = consistency.single_edits(attributes, names)
    assert found == items
    for item, edited in zip(items, edits, strict=True):
        columns = [names.index(name) for name in item.split("/")]
        np.testing.assert_array_equal((edited != attributes).sum(0), [2 * (index in columns) for index in range(3)])


WEIGHTS = np.linspace(0.5, 2.5, len(NAMES), dtype=np.float32)


def weighted(attributes):
    mean = np.asarray(attributes, np.float32) * WEIGHTS
    return mean, np.zeros_like(mean)


def off_by_a_quarter(attributes):
    mean, logvar = weighted(attributes)
    return mean + 0.25, logvar


def score(*distances):
    """Score of posteriors with unit variances a quarter apart, but for some dimensions."""
    rest = len(NAMES) - len(distances)
    return 1 / (1 + (rest * 0.25**2 + np.square(distances).sum()) / 2 / len(NAMES))


def test_sensitivity_has_closed_form():
    attributes = np.concatenate([women(smiling=1)[:7], women(smiling=0)[:5], women(bald=1)[:4]])
    found = consistency.sensitivity(weighted, off_by_a_quarter(attributes), attributes, NAMES, threshold=0.85)
    assert tuple(item.name for item in found) == ITEMS
    items = {item.name: item for item in found}

    smiling, weight = items["smiling"], WEIGHTS[COLUMN["smiling"]]
    added, removed = score(0.25 - weight), score(0.25 + weight)  # about 0.93 and 0.88
    assert (smiling.overall.images, smiling.added.images, smiling.removed.images) == (16, 9, 7)
    assert smiling.added.mean_edited_score == pytest.approx(added, rel=1e-6)
    assert smiling.removed.mean_edited_score == pytest.approx(removed, rel=1e-6)
    assert smiling.overall.mean_edited_score == pytest.approx((9 * added + 7 * removed) / 16, rel=1e-6)
    for part in (smiling.overall, smiling.added, smiling.removed):
        assert (part.mean_score, part.auroc) == (pytest.approx(score(), rel=1e-6), 1.0)

    women_as_men = score(0.25 - WEIGHTS[1], 0.25 + WEIGHTS[2])
    assert items["male/female"].removed is None
    assert items["male/female"].added == items["male/female"].overall
    assert items["male/female"].overall.mean_edited_score == pytest.approx(women_as_men, rel=1e-6)

    blond = items["blond_hair"]  # the four bald ones have hair now
    other_hair = score(0.25 - WEIGHTS[6]), score(0.25 - WEIGHTS[6], 0.25 + WEIGHTS[7])
    assert blond.removed is None
    assert blond.added.mean_edited_score == pytest.approx((12 * other_hair[0] + 4 * other_hair[1]) / 16, rel=1e-6)


def test_sensitivity_rejects_at_the_threshold():
    attributes = np.concatenate([women(smiling=1)[:7], women(smiling=0)[:9]])
    weight = WEIGHTS[COLUMN["smiling"]]
    between = (score(0.25 - weight) + score(0.25 + weight)) / 2
    found = consistency.sensitivity(weighted, off_by_a_quarter(attributes), attributes, NAMES, threshold=between)
    smiling = found[ITEMS.index("smiling")]
    assert (smiling.added.rejected, smiling.removed.rejected, smiling.overall.rejected) == (0.0, 1.0, 7 / 16)


def test_sensitivity_compares_images_in_pairs_and_at_large():
    # Image i lies (i + 1) / 10 from its own text and 0.45 further from the text without the smile: further than its
    # own text always, but not than the own text of image i + 5.
    attributes = women(smiling=1)[:8]

    def encode_smile(bits):
        mean = np.asarray(bits, np.float32)[:, [COLUMN["smiling"]]] * 0.45
        return mean, np.zeros_like(mean)

    distances = (np.arange(8, dtype=np.float32) + 1) / 10
    posterior = (distances + 0.45)[:, None], np.zeros((8, 1), np.float32)
    found = consistency.sensitivity(encode_smile, posterior, attributes, NAMES, threshold=0.5)
    smiling = found[ITEMS.index("smiling")].removed
    assert smiling.paired == 1.0
    assert smiling.auroc == 1 - (3 + 2 + 1) / 64


@pytest.mark.parametrize("ignored", ITEMS)
def test_encoder_that_ignores_an_attribute_is_insensitive_to_it(ignored):
    columns = [COLUMN[name] for name in ignored.split("/")]
    attributes = people(60)
    attributes[:, HAIR] = 0  # a colour more does not take another away

    def blind(bits):
        mean, logvar = weighted(bits)
        mean[:, columns] = 0.0
        return mean, logvar

    posterior = encode(noisy(attributes))
    result, *_ = consistency.benchmark(
        encode,
        blind,
        (noisy(attributes), attributes),
        (noisy(attributes), attributes),
        NAMES,
        seed=0,
    )
    assert result.sensitivity == consistency.sensitivity(
        blind, posterior, attributes, NAMES, threshold=result.threshold
    )
    for item in result.sensitivity:
        if item.name == ignored:
            for part in (item.overall, item.added, item.removed):
                if part:
                    assert (part.auroc, part.paired) == (0.5, 0.5)
                    assert part.mean_edited_score == part.mean_score
        else:
            assert item.overall.paired > 0.5
            assert item.overall.mean_edited_score < item.overall.mean_score
