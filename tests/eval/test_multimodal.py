"""Likelihoods of subsets on a linear-Gaussian model, of which all are known; coherence of a model made by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mvae_jax import gaussian
from mvae_jax.eval import multimodal

NAMES, SLOPES, SCALES = ("a", "b", "c"), {"a": 0.8, "b": -1.5, "c": 0.4}, {"a": 0.7, "b": 1.0, "c": 0.5}
VALUES = dict(zip(NAMES, np.random.default_rng(0).normal(size=(3, 6, 1)).astype(np.float32), strict=True))
KEY = jax.random.key(3)


def encode_subset(values):
    """The exact posterior of z ~ N(0, 1) given x_m ~ N(a_m z, s_m^2)."""
    precision = 1 + sum(SLOPES[n] ** 2 / SCALES[n] ** 2 for n in values)
    mean = sum(SLOPES[n] * x / SCALES[n] ** 2 for n, x in values.items()) / precision
    return jnp.asarray(mean), jnp.full(mean.shape, -np.log(precision), jnp.float32)


def rough(values):
    mean, logvar = encode_subset(values)
    return mean + 0.3, logvar + 0.5


def log_likelihood(values, z):
    return {n: gaussian.log_prob(x, SLOPES[n] * z, 2 * np.log(SCALES[n]))[:, 0] for n, x in values.items()}


def evidence(names):
    slopes, scales = np.array([SLOPES[n] for n in names]), np.array([SCALES[n] for n in names])
    covariance = np.outer(slopes, slopes) + np.diag(scales**2)
    return scipy.stats.multivariate_normal.logpdf(np.concatenate([VALUES[n] for n in names], 1), cov=covariance)


@pytest.mark.parametrize(("of", "given"), [(NAMES, ()), (("b",), ()), (("b",), ("a", "c")), (("a", "b"), ("c",))])
def test_one_sample_of_exact_posteriors_gives_the_likelihood(of, given):
    got = multimodal.subset_log_likelihood(
        encode_subset, log_likelihood, VALUES, KEY, of=of, given=given, samples=1, batch_size=4
    )
    expected = evidence((*given, *of)) - (evidence(given) if given else 0)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_other_posteriors_come_near_from_below():
    many = {name: np.tile(x, (50, 1)) for name, x in VALUES.items()}
    first, second = (
        multimodal.subset_log_likelihood(
            rough, log_likelihood, many, KEY, of=NAMES, samples=samples, batch_size=300
        ).mean()
        for samples in (1, 20)
    )
    assert first + 0.1 < second < evidence(NAMES).mean() + 0.02
    assert second == pytest.approx(evidence(NAMES).mean(), abs=0.03)


@pytest.mark.parametrize(("of", "given"), [((), ("a",)), (("a",), ("a",)), (("d",), ())])
def test_names_are_checked(of, given):
    with pytest.raises(ValueError, match=r"expected names of a, b, c, none twice"):
        multimodal.subset_log_likelihood(encode_subset, log_likelihood, VALUES, KEY, of=of, given=given, samples=1)


def test_examples_that_lack_something_are_refused():
    def measure(**masks):
        return multimodal.subset_log_likelihood(
            encode_subset, log_likelihood, {**VALUES, **masks}, KEY, of=("a",), given=("b",), samples=1
        )

    some = np.float32([1, 1, 0, 1, 1, 1])
    np.testing.assert_array_equal(measure(**{"present/a": np.ones(6), "present/c": some}), measure())
    with pytest.raises(ValueError, match=r"b are missing in some examples, .*: take the rows where all are present"):
        measure(**{"present/b": some})
    with pytest.raises(ValueError, match="c are missing in some examples"):
        measured(values={**CLASSES, "present/c": np.arange(10)})
    assert measured(values={**CLASSES, "present/c": np.ones(10)}) == measured()


def test_images_and_what_is_decoded_are_read_in_one_range():
    with pytest.raises(ValueError, match="values of a are uint8; expected the range that decoders give"):
        measured(values={**CLASSES, "a": CLASSES["a"].astype(np.uint8)})


# Codes are classes. "a" holds the class; "b" holds it but for each fifth example; "c" is always drawn as class 0.
LABELS = np.arange(10) % 2
SHOWN = np.where(np.arange(10) % 5 == 4, 1 - LABELS, LABELS)
CLASSES = {"a": np.float32(LABELS)[:, None], "b": np.float32(SHOWN)[:, None], "c": np.float32(LABELS)[:, None]}


def draw_subset(key, values):
    """The class that the first of the given modalities shows."""
    return next(iter(values.values()))


def read(x):
    return (np.asarray(x)[:, 0] > 0.5).astype(int)


def measured(**changes):
    arguments = {
        "draw_subset": draw_subset,
        "decode": {"a": lambda z: z, "b": lambda z: z, "c": lambda z: 0 * z},
        "classify": dict.fromkeys(CLASSES, read),
        "values": CLASSES,
        "labels": LABELS,
        "prior_codes": np.float32([[0], [0], [1], [0]]),
        "key": KEY,
        "batch_size": 4,
    }
    return multimodal.coherence(**arguments | changes)


def test_coherence_counts_what_is_read_from_what_is_drawn():
    result = measured()
    assert result.classifiers == {"a": 1.0, "b": 0.8, "c": 1.0}
    assert result.cross == {
        "a": {"b": 1.0, "c": 0.5},
        "b": {"a": 0.8, "c": 0.5},
        "c": {"a": 1.0, "b": 1.0},
        "a+b": {"c": 0.5},
        "a+c": {"b": 1.0},
        "b+c": {"a": 0.8},
    }
    assert result.joint == 0.75  # of class 1 the third modality is drawn as class 0
    # A quarter of the draws is of the other class in two modalities, none in the third.
    two = np.exp(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))
    assert result.joint_classes == pytest.approx((2 * two + 1) / 3)
    assert measured(prior_codes=np.float32([[1], [1]])).joint_classes == 1.0
    assert result.by_count() == {1: pytest.approx(4.8 / 6), 2: pytest.approx(2.3 / 3)}
    assert (result.examples, result.to_dict()["by_count"]["2"]) == (10, pytest.approx(2.3 / 3))


def test_a_modality_without_a_classifier_is_given_and_never_a_target():
    result = measured(classify={"a": read, "b": read})
    assert {given: [*targets] for given, targets in result.cross.items()} == {
        "a": ["b"],
        "b": ["a"],
        "c": ["a", "b"],
        "a+c": ["b"],
        "b+c": ["a"],
    }
    assert result.joint == 1.0


def test_coherence_names_what_is_wrong():
    with pytest.raises(ValueError, match="classifiers are of d; expected some of a, b, c"):
        measured(classify={"d": read})
    with pytest.raises(ValueError, match=r"labels have shape \(9,\); expected \(10,\)"):
        measured(labels=LABELS[:9])
