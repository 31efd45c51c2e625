"""The probes against loops, closed forms and scikit-learn's own."""

import json

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from mvae_jax.eval import probes
from mvae_jax.eval.probes import linear_discriminant, linear_svm_accuracy, nearest_neighbour_accuracy

PROBES = [nearest_neighbour_accuracy, linear_svm_accuracy]


def clusters(count, features=6, labels=4, spread=1.0, seed=0):
    """Overlapping clusters, one per label."""
    centres = np.random.default_rng(0).normal(size=(labels, features))
    rng = np.random.default_rng(seed)
    label = rng.integers(labels, size=count)
    return (centres[label] + spread * rng.normal(size=(count, features))).astype(np.float32), label


def loop(train, train_labels, test, test_labels):
    right = 0
    for query, label in zip(test.astype(np.float64), test_labels, strict=True):
        distances = [np.square(point - query).sum() for point in train.astype(np.float64)]
        right += train_labels[int(np.argmin(distances))] == label
    return right / len(test)


# --- nearest neighbour ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 150])  # fewer and more than are compared anew
@pytest.mark.parametrize("chunk", [1, 32, 1000])
def test_nearest_neighbour_equals_a_loop_and_scikit_learn(count, chunk):
    train, test = clusters(count), clusters(70, seed=1)
    score = nearest_neighbour_accuracy(*train, *test, chunk=chunk)
    assert score.accuracy == loop(*train, *test)
    assert (probes.nearest_labels(*train, test[0], chunk=chunk) == test[1]).mean() == score.accuracy
    assert score.accuracy == KNeighborsClassifier(1).fit(*train).score(*test)
    assert count == 3 or 0.4 < score.accuracy < 0.9  # neither chance nor all


@pytest.mark.parametrize(("offset", "scale"), [(1000.0, 0.01), (-1e5, 1.0), (0.0, 1e-6), (3.0, 1e6)])
def test_nearest_neighbour_survives_offsets_and_scales(offset, scale):
    """|q|^2 - 2 q.t + |t|^2 of float32 would be all rounding here."""
    (train, train_labels), (test, test_labels) = clusters(150, 40), clusters(60, 40, seed=1)
    train, test = (np.float32(offset) + np.float32(scale) * values for values in (train, test))
    score = nearest_neighbour_accuracy(train, train_labels, test, test_labels)
    assert score.accuracy == loop(train, train_labels, test, test_labels)


def test_rounding_decides_nothing():
    """All distances are 290,000 and less than a millionth: float32 sums have no digits left to tell them apart."""
    near = np.zeros((13, 30), np.float32)
    near[:, 0] = np.linspace(1.0, 1.0 + 12 * 2.0**-12, 13)
    train = near[np.random.default_rng(0).permutation(13)]
    queries = near + np.float32([2.0**-15] + [100.0] * 29)
    nearest = probes._nearest_neighbours(train, queries, 5)
    np.testing.assert_array_equal(train[nearest], near)


def test_first_of_different_points_at_one_distance_counts():
    """The same differences from the query in other orders; float32 products round their distances differently."""
    rng = np.random.default_rng(0)
    for query in rng.integers(-9, 10, (20, 30)).astype(np.float32):
        difference = rng.integers(-9, 10, 30)
        train = query + np.stack([rng.permutation(difference) for _ in range(10)]).astype(np.float32)
        assert probes._nearest_neighbours(train, query[None], 1)[0] == 0


def test_first_of_equal_neighbours_counts():
    others, _ = clusters(500)
    query = np.full((1, 6), 0.7, np.float32)
    points = np.concatenate([others, np.repeat(query, 9, axis=0)])[np.random.default_rng(1).permutation(509)]
    copies = np.flatnonzero((points == query).all(axis=1))
    assert len(copies) == 9
    assert probes._nearest_neighbours(points, query, 4)[0] == copies[0]
    assert probes._nearest_neighbours(points, query + np.float32(0.01), 4)[0] == copies[0]
    # Two different points at the same distance, in both orders, and nothing but copies.
    pair = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    for points in (pair, pair[::-1], np.ones((50, 2), np.float32)):
        assert probes._nearest_neighbours(points, np.array([[0.25, 0.25]], np.float32), 4)[0] == 0


def test_nearest_neighbour_of_a_collapsed_representation_is_the_first_label():
    labels = np.arange(100) % 10
    same = np.full((100, 5), 0.3, np.float32)
    assert nearest_neighbour_accuracy(same, labels, same, labels).accuracy == 0.1


# --- linear SVM ----------------------------------------------------------------------------------------------------


def test_svm_separates_what_a_line_separates():
    x = np.linspace(-3, 3, 40, dtype=np.float32)[:, None]
    score = linear_svm_accuracy(x, (x[:, 0] > 0).astype(int), x, (x[:, 0] > 0).astype(int))
    assert (score.accuracy, score.converged) == (1.0, True)
    # Labels by distance from 0: no line tells the inner from both outer parts, a neighbour does.
    inner = (np.abs(x[:, 0]) < 1.5).astype(int)
    assert linear_svm_accuracy(x, inner, x, inner).accuracy < 0.8
    assert nearest_neighbour_accuracy(x, inner, x, inner).accuracy == 1.0


def test_svm_equals_the_published_call():
    train, test = clusters(300), clusters(500, seed=1)
    published = LinearSVC(C=0.02, max_iter=5000, dual=True, random_state=0, tol=1e-6).fit(*train)
    score = linear_svm_accuracy(*train, *test)
    assert score.accuracy == pytest.approx(published.score(*test), abs=0.004)
    assert score.converged
    assert 0.5 < score.accuracy < 0.9


def test_svm_weighs_losses_by_c():
    """Nine examples at 1/2 and one, of the other label, at -1/2.

    The objective is (w^2 + b^2) / 2 + C (9 (1 - w/2 - b)^2 + (1 - w/2 + b)^2). For small C, w = 10 C and b = 16 C, so
    all are called the more frequent label; for large C, w = 2 and b = 0.
    """
    x = np.array([[0.5]] * 9 + [[-0.5]], np.float32)
    label = np.array([1] * 9 + [0])
    assert linear_svm_accuracy(x, label, x, label, C=1e-3).accuracy == 0.9
    assert linear_svm_accuracy(x, label, x, label, C=10.0).accuracy == 1.0


def test_standardising_shows_what_a_small_scale_hides():
    """Codes a thousand times as small: at C 0.02 the penalty hides what they tell; standardised, they have no scale."""
    (train, labels), (test, test_labels) = clusters(300), clusters(500, seed=1)
    mean, deviation = train.mean(0), train.std(0)
    published = LinearSVC(C=0.02, dual=False).fit((train - mean) / deviation, labels)
    expected = published.score((test - mean) / deviation, test_labels)
    small = {scale: (scale * train, labels, scale * test, test_labels) for scale in (1, np.float32(1e-3))}
    scores = {scale: linear_svm_accuracy(*arrays, standardise=True) for scale, arrays in small.items()}
    assert [score.accuracy for score in scores.values()] == pytest.approx([expected] * 2, abs=0.004)
    assert linear_svm_accuracy(*small[np.float32(1e-3)]).accuracy < expected - 0.1
    assert scores[1].method == "linear SVM, C 0.02, squared hinge loss, standardised features"


def test_svm_tells_that_it_was_stopped():
    train, test = clusters(200), clusters(50, seed=1)
    score = linear_svm_accuracy(*train, *test, max_iter=1)
    assert score.converged is False
    assert json.loads(json.dumps(score.to_dict()))["converged"] is False


# --- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", PROBES)
def test_scores_carry_what_they_depend_on(probe):
    train, test = clusters(60), clusters(20, seed=1)
    score = probe(*train, *test, split="same writers")
    assert (score.train_examples, score.test_examples, score.features) == (60, 20, 6)
    assert score.split == "same writers"
    assert (score.converged is None) == (probe is nearest_neighbour_accuracy)
    assert ("C 0.02" in score.method) == (probe is linear_svm_accuracy)
    assert json.loads(json.dumps(score.to_dict()))["accuracy"] == score.accuracy


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": np.zeros((9, 3))}, r"train_features have shape \(9, 3\) and train_labels \(10,\)"),
        ({"test_labels": np.zeros((4, 1), int)}, r"test_features have shape \(4, 3\) and test_labels \(4, 1\)"),
        ({"test_features": np.zeros((0, 3)), "test_labels": np.zeros(0, int)}, r"shape \(0, 3\) .* at least one row"),
        ({"test_features": np.zeros((4, 2))}, "train_features have 3 features and test_features 2, expected as many"),
        ({"train_features": np.full((10, 3), np.nan)}, "30 of 30 values of train_features are not finite"),
        ({"test_labels": np.zeros(4)}, "test_labels are float64, expected integers"),
    ],
)
def test_bad_input_is_refused(probe, change, message):
    rng = np.random.default_rng(0)
    given = {
        "train_features": rng.normal(size=(10, 3)),
        "train_labels": np.arange(10) % 2,
        "test_features": rng.normal(size=(4, 3)),
        "test_labels": np.arange(4) % 2,
    }
    with pytest.raises(ValueError, match=message):
        probe(**given | change)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_neighbours_at_any_scale(scale, dtype):
    (train, labels), (test, test_labels) = clusters(60), clusters(20, seed=1)
    expected = probes.nearest_labels(train, labels, test)
    np.testing.assert_array_equal(probes.nearest_labels(dtype(scale * train), labels, dtype(scale * test)), expected)
    accuracy = nearest_neighbour_accuracy(dtype(scale * train), labels, dtype(scale * test), test_labels).accuracy
    assert accuracy == (expected == test_labels).mean()


def test_neighbours_far_from_the_origin():
    """float64 has eight digits of the differences left, float32 none."""
    points = np.random.default_rng(0).normal(size=(200, 8))
    labels = np.arange(200)
    near = probes.nearest_labels(points[:100], labels[:100], points[100:])
    np.testing.assert_array_equal(probes.nearest_labels(points[:100] + 1e8, labels[:100], points[100:] + 1e8), near)
    assert nearest_neighbour_accuracy(points + 1e8, labels, points + 1e8, labels).accuracy == 1.0
    fine, side = 1 + 1e-9 * points, (points[:, 0] > 0).astype(int)
    assert linear_svm_accuracy(fine, side, fine, side, standardise=True).accuracy > 0.9


def test_whole_numbers_are_features():
    rows = np.array([[2**24 + 1, 0], [2**24, 0]])
    np.testing.assert_array_equal(probes.nearest_labels(rows, np.arange(2), rows), [0, 1])


def test_what_only_one_probe_refuses():
    x = np.zeros((4, 2))
    with pytest.raises(ValueError, match="all 4 training examples have the label 3, expected two at least"):
        linear_svm_accuracy(x, np.full(4, 3), x, np.arange(4))
    with pytest.raises(ValueError, match="chunk is 0"):
        nearest_neighbour_accuracy(x, np.arange(4), x, np.arange(4), chunk=0)


# --- linear discriminant ---------------------------------------------------------------------------------------------


def coded_attributes(count, seed):
    """Codes of four dimensions: the second holds the first attribute, none the others, of which the last is rare."""
    rng = np.random.default_rng(seed)
    attributes = (rng.random((count, 3)) < [0.5, 0.5, 0.05]).astype(np.float32)
    codes = rng.normal(size=(count, 4)) * [1, 0.3, 1000, 0.001]
    codes[:, 1] += 3 * attributes[:, 0]
    return codes.astype(np.float32), attributes


def test_a_discriminant_reads_what_codes_contain_and_nothing_else():
    train, (codes, truth) = coded_attributes(4000, 0), coded_attributes(2000, 1)
    read = linear_discriminant(*train, codes) > 0
    balanced = [np.mean([(read[truth[:, a] == bit, a] == bit).mean() for bit in (0, 1)]) for a in range(3)]
    assert balanced[0] == 1.0
    np.testing.assert_allclose(balanced[1:], 0.5, atol=0.06)
    assert 0.2 < read[:, 2].mean() < 0.8  # however rare it is


def test_a_discriminant_equals_scikit_learns_of_equal_priors():
    (train, labels), (test, _) = clusters(300, labels=2), clusters(200, labels=2, seed=1)
    theirs = LinearDiscriminantAnalysis(priors=[0.5, 0.5]).fit(train[:200], labels[:200])
    scores = linear_discriminant(train[:200], labels[:200, None], test)[:, 0]
    expected = theirs.decision_function(test)
    np.testing.assert_array_equal(scores > 0, expected > 0)
    assert np.corrcoef(scores, expected)[0, 1] == pytest.approx(1)


def test_attributes_and_features_that_never_vary_tell_nothing():
    codes, attributes = np.full((6, 2), 7.0), np.array([[0, 1, i % 2] for i in range(6)])
    np.testing.assert_array_equal(linear_discriminant(codes, attributes, codes), [[-1, 1, 0]] * 6)
    with pytest.raises(ValueError, match=r"expected \[N, A\] with values in \{0, 1\}"):
        linear_discriminant(codes, 2 * attributes, codes)
    with pytest.raises(ValueError, match="train_features have shape"):
        linear_discriminant(codes, attributes[:5], codes)
