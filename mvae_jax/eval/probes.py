"""Probes of a representation, how much of the class it shows: the nearest neighbour, and linear classifiers.

Features are [N, F] and labels integers [N]. The scale of the features is a part of them: neither the neighbour nor the
SVM standardises, but that the SVM may be asked to. For attributes, many of which are rare, there is the discriminant.

The published protocol probes codes and the activations before them, from the encoder of images that are not augmented,
by both probes; once on the images to test, and once on a sixth of the training images against the other five
(`data.formats.mnist.split_same_writers`).

Reference:
    Pidhorskyi et al., 2020, arXiv:2004.04467, section 4.1 and table 2; Donahue et al., 2017, arXiv:1605.09782.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mvae_jax.eval import _results
from mvae_jax.eval._arguments import measure

_CANDIDATES = 16  # neighbours that are compared anew, without rounding


@dataclasses.dataclass(frozen=True)
class ProbeScore(_results.Result):
    """Score of a probe, with its conditions.

    Attributes:
        accuracy: share of the test examples whose label it got right.
        method: which probe.
        split: which examples were to train on and which to test, in the caller's words.
        train_examples: how many it was given with their labels.
        test_examples: how many gave the accuracy.
        features: F, numbers per example.
        converged: whether the solver reached its tolerance; None for a probe that solves nothing.
    """

    accuracy: float
    method: str
    split: str
    train_examples: int
    test_examples: int
    features: int
    converged: bool | None = None


def nearest_neighbour_accuracy(
    train_features: npt.ArrayLike,
    train_labels: npt.ArrayLike,
    test_features: npt.ArrayLike,
    test_labels: npt.ArrayLike,
    *,
    split: str = "",
    chunk: int = 256,
) -> ProbeScore:
    """Accuracy of giving each example the label of the closest training example, by Euclidean distance.

    Matrix products on the device, |t|^2 / 2 - q.t, name the 16 closest; these are compared by sums of squared
    differences in double precision, so that rounding decides nothing. Of equally close ones, the first counts. (Should
    there be more than 16 that float32 cannot tell apart, 16 of them are compared.)

    Args:
        train_features: [N, F].
        train_labels: integers, [N].
        test_features: [M, F].
        test_labels: integers, [M].
        split: what the two sets are, for reports.
        chunk: test examples at a time; the device holds chunk * N distances.

    Returns:
        The score.

    Raises:
        ValueError: shapes disagree, a set is empty, features are not finite, or labels are not integers.
    """
    train, train_labels, test, test_labels = _checked(train_features, train_labels, test_features, test_labels)
    nearest = _nearest_neighbours(train, test, chunk)
    return ProbeScore(
        accuracy=float((train_labels[nearest] == test_labels).mean()),
        method="1 nearest neighbour, Euclidean",
        split=split,
        train_examples=len(train),
        test_examples=len(test),
        features=train.shape[1],
    )


@measure()
def nearest_labels(
    train_features: npt.ArrayLike, train_labels: npt.ArrayLike, features: npt.ArrayLike, *, chunk: int = 256
) -> np.ndarray:
    """Label of the closest training example, [M], of each of `features`, [M, F].

    Arguments and errors are those of `nearest_neighbour_accuracy`.
    """
    unknown = np.zeros(len(np.asarray(features)), int)
    train, labels, test, _ = _checked(train_features, train_labels, features, unknown)
    return labels[_nearest_neighbours(train, test, chunk)]


def linear_svm_accuracy(
    train_features: npt.ArrayLike,
    train_labels: npt.ArrayLike,
    test_features: npt.ArrayLike,
    test_labels: npt.ArrayLike,
    *,
    split: str = "",
    C: float = 0.02,
    standardise: bool = False,
    max_iter: int = 5000,
) -> ProbeScore:
    """Accuracy of linear support vector machines, one label against the rest, with squared hinge loss.

    Their optimum is unique. It is sought in the primal problem, which makes no random choices and takes few iterations
    whatever the scale of the features; the dual one, which was the default when the tables were made, takes thousands
    where features are large.

    Args:
        train_features: [N, F].
        train_labels: integers, [N], of at least two values.
        test_features: [M, F].
        test_labels: integers, [M].
        split: what the two sets are, for reports.
        C: weight of the losses, summed over examples, against that of the weights' squared norm / 2.
        standardise: shift and scale each feature to mean 0 and deviation 1 over the training examples first. As
            published it is not done; at so small a C, features of a small scale then hide what they tell.
        max_iter: most iterations of the solver; whether they were enough, the score tells.

    Returns:
        The score.

    Raises:
        ValueError: shapes disagree, a set is empty, features are not finite, or labels are not integers or, to train
            on, of one value only.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    train, train_labels, test, test_labels = _checked(train_features, train_labels, test_features, test_labels)
    if (train_labels == train_labels[0]).all():
        raise ValueError(f"all {len(train)} training examples have the label {train_labels[0]}, expected two at least.")
    if standardise:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    model = LinearSVC(C=C, max_iter=max_iter, dual=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the score tells
        model.fit(train, train_labels)
    return ProbeScore(
        accuracy=float(model.score(test, test_labels)),
        method=f"linear SVM, C {C:g}, squared hinge loss" + ", standardised features" * standardise,
        split=split,
        train_examples=len(train),
        test_examples=len(test),
        features=train.shape[1],
        converged=bool(model.n_iter_ < max_iter),
    )


@measure()
def linear_discriminant(
    train_features: npt.ArrayLike, train_attributes: npt.ArrayLike, features: npt.ArrayLike
) -> np.ndarray:
    """Scores by which a linear probe reads attributes, each by itself: Fisher's discriminant.

    For each attribute w = S^+ (m_1 - m_0), with the means m of the training examples that have it and that have not,
    and S the covariance of all of them, which gives the direction that the covariance within the classes gives. The
    border lies halfway between the means: the optimum of two Gaussians of one covariance and equal prior probability,
    so that how rare an attribute is does not matter. In closed form, without a penalty or a scale.

    Args:
        train_features: [N, F].
        train_attributes: [N, A] in {0, 1}.
        features: [M, F].

    Returns:
        Scores, float64 [M, A], positive where the attribute is read; to be compared with the truth by balanced
        accuracy, of which guessing gives .5. Those of an attribute that all training examples have, or none, are 1,
        or -1.

    Raises:
        ValueError: shapes disagree, a set is empty, a value is not finite, or an attribute is neither 0 nor 1.

    Reference:
        Fisher, 1936; Bishop, 2006, section 4.1.4.
    """
    has = np.asarray(train_attributes)
    if has.ndim != 2 or not np.isin(has, (0, 1)).all():
        raise ValueError(f"train_attributes have shape {has.shape}, expected [N, A] with values in {{0, 1}} alone.")
    unknown = np.zeros(len(np.asarray(features)), int)
    train, _, test, _ = _checked(train_features, np.arange(len(has)), features, unknown)
    train, test, has = train.astype(np.float64), test.astype(np.float64), has > 0.5
    counts = np.stack([(~has).sum(0), has.sum(0)])
    means = np.stack([(~has).T @ train, has.T @ train]) / np.maximum(counts, 1)[..., None]
    centred = train - train.mean(0)
    weights = (means[1] - means[0]) @ np.linalg.pinv(centred.T @ centred / len(train), hermitian=True)
    scores = test @ weights.T - (weights * means.mean(0)).sum(1)
    return np.where(counts.min(0) > 0, scores, np.where(counts[1] > 0, 1.0, -1.0))


def _nearest_neighbours(train: np.ndarray, test: np.ndarray, chunk: int) -> np.ndarray:
    """Row of `train` [N, F] that is closest to each of `test` [M, F], int [M]."""
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, expected at least one example at a time.")
    # Far from the origin, products of float32 would lose the differences, and far from 1 exceed or vanish in its range.
    # A power of two rounds nothing.
    centre = train.mean(axis=0, dtype=np.float64).astype(train.dtype)
    _, exponent = np.frexp(np.abs(train - centre).max())

    def prepared(rows: np.ndarray) -> jax.Array:
        return jnp.asarray(np.ldexp(rows - centre, -exponent), jnp.float32)

    points = prepared(train)
    half_squares = 0.5 * jnp.square(points).sum(axis=1)
    nearest = []
    for start in range(0, len(test), chunk):
        queries = test[start : start + chunk]
        closest_rows = _candidates(points, half_squares, prepared(queries), min(_CANDIDATES, len(train)))
        candidates = np.sort(np.asarray(closest_rows), axis=1)  # so that the first of equal ones is that of least index
        differences = np.ldexp(train[candidates].astype(np.float64) - queries[:, None], -exponent)
        closest = np.einsum("nkf,nkf->nk", differences, differences).argmin(axis=1)
        nearest.append(candidates[np.arange(len(queries)), closest])
    return np.concatenate(nearest)


@functools.partial(jax.jit, static_argnames="count")
def _candidates(points: jax.Array, half_squares: jax.Array, queries: jax.Array, count: int) -> jax.Array:
    """Indices of the `count` points of [N, F] that are closest to each query [n, F], up to rounding; [n, count]."""
    # (|q|^2 - |q - t|^2) / 2, the largest where the distance is the smallest.
    closeness = jnp.matmul(queries, points.T, precision=jax.lax.Precision.HIGHEST) - half_squares[None]
    return jax.lax.top_k(closeness, count)[1]


@measure()
def _checked(
    train_features: npt.ArrayLike, train_labels: npt.ArrayLike, test_features: npt.ArrayLike, test_labels: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All four as arrays, features float32 or, if given so, float64; a ValueError names the one that does not fit."""
    train, test = np.asarray(train_features), np.asarray(test_features)
    dtype = np.result_type(train, test, np.float32)
    train, test = train.astype(dtype, copy=False), test.astype(dtype, copy=False)
    labels = {"train": np.asarray(train_labels), "test": np.asarray(test_labels)}
    for name, features in (("train", train), ("test", test)):
        classes = labels[name]
        if features.ndim != 2 or classes.shape != features.shape[:1] or not features.size:
            raise ValueError(
                f"{name}_features have shape {features.shape} and {name}_labels {classes.shape}, expected [N, F] and "
                "[N] with at least one row."
            )
        if not np.issubdtype(classes.dtype, np.integer):
            raise ValueError(f"{name}_labels are {classes.dtype}, expected integers: the number of each class.")
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"train_features have {train.shape[1]} features and test_features {test.shape[1]}, expected as many: give "
            "both the output of one encoder."
        )
    return train, labels["train"], test, labels["test"]
