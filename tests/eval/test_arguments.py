"""What holds for every measure: values that are not numbers are refused, and no type of arrays is too low."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mvae_jax import eval as measures
from mvae_jax.eval import partial_captions
from mvae_jax.eval._arguments import check_finite, measure

RNG = np.random.default_rng(0)
NAMES = ("male", "smiling", "eyeglasses", "young", "mustache")
BITS = RNG.integers(0, 2, (12, 5)).astype(np.float32)
CODES, OTHERS = RNG.normal(size=(2, 12, 3)).astype(np.float32)
FACTORS = np.stack([np.arange(12) % 2, np.arange(12) // 6], axis=1)
FACES, PICTURES = np.tanh(RNG.normal(size=(2, 4, 12, 12, 1))).astype(np.float32)
LABELS = np.arange(12) % 2
SCORES, CURATED = RNG.random(6, np.float32), RNG.random((2, 6), np.float32)
MEAN, COVARIANCE = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)


def encode(x):
    mean = jnp.asarray(x, jnp.float32).reshape(len(x), -1)[:, :3]
    return mean, 0.1 * mean


def encode_bits(bits):
    return jnp.asarray(bits, jnp.float32), jnp.zeros(np.shape(bits), jnp.float32)


def moments():
    from mvae_jax.eval.fid import RunningMoments

    filled = RunningMoments()
    filled.add(CODES)
    return filled


def two_sets(**options):
    from mvae_jax.eval.features import Features

    return {"features_a": CODES, "features_b": OTHERS, "features": Features("pixels"), **options}


class Distance:
    name, sha256 = "squares", ()

    def __call__(self, a, b):
        return jnp.square(a - b).mean((1, 2, 3))


TRAINED = {"train_features": CODES, "train_labels": LABELS}
PROBED = TRAINED | {"test_features": OTHERS, "test_labels": LABELS}
POSTERIORS = {"image_posterior": (CODES, OTHERS), "text_posterior": (OTHERS, CODES)}
SIDES = {"match_scores": SCORES, "mismatch_scores": SCORES[::-1]}
KEY = jax.random.key(0)
PAIRS = FACES.repeat(3, 0), BITS
JUDGE = partial_captions.Judge(
    lambda z: jnp.asarray(z) - 0.5,
    lambda attributes, said: encode_bits(attributes * said),
    partial_captions.Thresholds(0.5, 0.5, 0.5, 0.95, 0, "img||txt", "mean"),
)
JUDGED = {"self": JUDGE, "posterior": encode_bits(BITS), "attributes": BITS, "said": BITS}
# Measure -> arguments with which it works, all of its arrays of numbers among them.
ARGUMENTS = {
    "classification.Confusion.at": {"threshold": 0.5, **SIDES},
    "classification.auroc": {"positive_scores": SCORES, "negative_scores": CURATED[0]},
    "classification.bootstrap_intervals": {
        "thresholds": SCORES[:2],
        "match_scores": SCORES,
        "mismatch_scores": CURATED,
        "seed": 0,
        "draws": 20,
    },
    "classification.spreads": {"thresholds": SCORES[:2], "match_scores": SCORES, "mismatch_scores": CURATED},
    "classification.share": {"decisions": SCORES > 0.5},
    "consistency.benchmark": {
        "encode_images": lambda x: encode_bits(np.asarray(x).reshape(len(x), -1)[:, :5]),
        "encode_attributes": encode_bits,
        "calibration": PAIRS,
        "validation": PAIRS,
        "names": NAMES,
        "seed": 0,
        "minimum_changes": 1,
        "curations": 2,
    },
    "consistency.checked_bits": {"attributes": BITS, "names": NAMES},
    "consistency.consistency_score": POSTERIORS,
    "consistency.curate_mismatches": {"attributes": BITS, "names": NAMES, "seed": 0, "minimum_changes": 1},
    "consistency.most_accurate_threshold": SIDES,
    "consistency.released_benchmark": {
        "encode_images": lambda x: encode_bits(np.asarray(x).reshape(len(x), -1)[:, :5]),
        "encode_attributes": encode_bits,
        "validation": PAIRS,
        "names": NAMES,
        "seed": 0,
    },
    "consistency.released_mismatches": {"attributes": BITS, "names": NAMES, "seed": 0},
    "consistency.sensitivity": {
        "encode_attributes": encode_bits,
        "image_posterior": encode_bits(BITS),
        "attributes": BITS,
        "names": NAMES,
        "threshold": 0.5,
    },
    "consistency.single_edits": {"attributes": BITS, "names": NAMES},
    "consistency.threshold": SIDES,
    "cross_modal.distinct_rows": {"attributes": BITS},
    "cross_modal.diversity": {"samples": FACES[None], "reference": PICTURES},
    "cross_modal.posterior_distance": POSTERIORS | {"attributes": BITS},
    "cross_modal.score_attributes": {"logits": BITS - 0.5, "attributes": BITS, "names": NAMES},
    "cross_modal.well_formed": {"attributes": BITS, "names": NAMES},
    "directions.attribute_vectors": {
        "encode": encode,
        "images": FACES,
        "attributes": BITS[:4, :1] * 0 + [[0], [1]] * 2,
    },
    "directions.cosines": {"vectors": CODES},
    "directions.edit_scores": {
        "read": lambda z: z[:, :2],
        "z": CODES,
        "attributes": FACTORS,
        "vectors": {"a": MEAN},
        "names": ("a", "b"),
    },
    "directions.edited": {"decode": lambda z: z, "z": CODES, "vector": MEAN, "strengths": SCORES},
    "directions.svm_directions": {"codes": CODES, "attributes": FACTORS, "names": ("a", "b"), "least": 1},
    "disentanglement.dci": {"codes": CODES, "factors": FACTORS, "estimator": "random_forest", "trees": 2},
    "disentanglement.factor_vae_score": {
        "codes_of": lambda factors: factors * 1.0,
        "factor_sizes": (2, 3),
        "batch_size": 4,
        "train_votes": 4,
        "test_votes": 4,
        "scale_samples": 8,
    },
    "disentanglement.mig": {"codes": CODES, "factors": FACTORS, "bins": 3},
    "disentanglement.sap": {"codes": CODES, "factors": FACTORS},
    "disentanglement.threshold_gap": {"codes": CODES, "factors": FACTORS},
    "features.check_features": {"features": CODES},
    "features.check_pair": {"features_a": CODES, "features_b": OTHERS},
    "fid.RunningMoments.add": {"self": moments(), "features": CODES},
    "fid.frechet_distance": two_sets(),
    "fid.frechet_distance_of_moments": {
        "mean_a": MEAN,
        "covariance_a": COVARIANCE,
        "mean_b": MEAN,
        "covariance_b": COVARIANCE,
    },
    "fid.moments_of": {"features": CODES},
    "kernel_distance.kernel_distance": two_sets(subsets=2),
    "kernel_distance.squared_mmd": {"features_a": CODES, "features_b": OTHERS},
    "likelihood.Estimate.of": {"values": SCORES},
    "likelihood.active_units": {"means": CODES},
    "likelihood.aggregate_posterior": {"mean": CODES, "logvar": OTHERS, "key": KEY, "samples": 4},
    "likelihood.estimate_likelihood": {
        "encode": encode,
        "log_likelihood": lambda x, z: -jnp.square(z).sum(-1),
        "examples": FACES,
        "key": KEY,
        "samples": 2,
    },
    "likelihood.importance_bound": {"log_weights": CODES},
    "manifold.precision_and_recall": {"real": CODES, "generated": OTHERS, "features": two_sets()["features"]},
    "multimodal.coherence": {
        "draw_subset": lambda key, values: next(iter(values.values())),
        "decode": {"a": lambda z: z},
        "classify": {"a": lambda x: np.asarray(x)[:, 0] > 0},
        "values": {"a": CODES, "b": OTHERS},
        "labels": LABELS,
        "prior_codes": OTHERS,
        "key": KEY,
    },
    "multimodal.subset_log_likelihood": {
        "encode_subset": lambda values: encode(next(iter(values.values()))),
        "log_likelihood": lambda values, z: {name: -jnp.square(z).sum(-1) for name in values},
        "values": {"a": CODES, "b": OTHERS},
        "key": KEY,
        "of": ("a",),
        "given": ("b",),
        "samples": 2,
    },
    "perceptual_path.arc_step": {"start": CODES, "end": OTHERS, "place": SCORES[0], "epsilon": 0.1},
    "perceptual_path.lengths_of_both_spaces": {
        "draw": lambda w, keys: jnp.tanh(w)[:, :, None, None],
        "to_w": lambda z: 2 * z,
        "sample_z": jax.vmap(lambda key: jax.random.normal(key, (3,), jnp.float32)),
        "distance": Distance(),
        "key": KEY,
        "pairs": 20,
        "batch_size": 10,
    },
    "perceptual_path.line_step": {"start": CODES, "end": OTHERS, "place": SCORES[0], "epsilon": 0.1},
    "perceptual_path.perceptual_path_length": {
        "draw": lambda latents, keys: latents.reshape(-1, 2, 2, 1),
        "sample_latents": jax.vmap(lambda key: jax.random.normal(key, (4,), jnp.float32)),
        "distance": Distance(),
        "key": KEY,
        "pairs": 4,
        "percentiles": (0.0, 100.0),
    },
    "partial_captions.Judge.accepts": JUDGED,
    "partial_captions.Judge.calibrated": {
        "decode_attributes": JUDGE.decode_attributes,
        "encode_attributes": JUDGE.encode_attributes,
        **{name: value for name, value in JUDGED.items() if name != "self"},
        "score_threshold": 0.5,
    },
    "partial_captions.Judge.scores": JUDGED,
    "partial_captions.acceptance_threshold": {"scores": SCORES, "acceptance": 0.5},
    "partial_captions.benchmark": {
        "judge": JUDGE,
        **{name: value for name, value in JUDGED.items() if name != "self"},
        "names": NAMES,
        "mismatches": 1 - BITS,
        "mismatches_said": BITS,
        "seed": 0,
    },
    "partial_captions.caption_probability": {"logits": BITS - 0.5, "attributes": BITS, "said": BITS},
    "partial_captions.leave_out": {"said": BITS, "names": NAMES, "count": 1, "seed": 0},
    "partial_captions.word_probabilities": {"logits": BITS - 0.5, "attributes": BITS},
    "partial_captions.wrong_words": {"attributes": BITS, "said": BITS, "names": NAMES},
    "perceptual_path.trimmed_mean": {"values": SCORES, "percentiles": (0.0, 100.0)},
    "probes.linear_discriminant": {"train_features": CODES, "train_attributes": BITS, "features": OTHERS},
    "probes.linear_svm_accuracy": PROBED,
    "probes.nearest_labels": TRAINED | {"features": OTHERS},
    "probes.nearest_neighbour_accuracy": PROBED,
    "reconstruction.psnr": {"image": FACES, "reconstruction": PICTURES},
    "reconstruction.ssim": {"image": FACES, "reconstruction": PICTURES},
    "sharpness.sharpness": {"images": FACES},
    "sharpness.sharpness_ratio": {"images": FACES, "real": PICTURES},
    "stability.assess_stability": {
        "samples": FACES,
        "real": PICTURES,
        "records": ({"step": 1, "split": "train", "loss": 1.0},),
        "reconstructions": PICTURES,
    },
}
# They judge no arrays.
OTHERS_OF_EVAL = {
    # Change the form of their arguments.
    *("batched.in_chunks", "batched.pixels", "batched.to_bytes", "perceptual_path.comparable"),
    *("features.inception_features", "features.Comparison.of", "fid.frechet_distance_of_sets", "fid.too_few"),
    *("classification.Confusion.rates", "classification.with_interval", "consistency.most_changes"),
    "multimodal.Coherence.by_count",
}
# A value that is not finite is what it looks for.
SIGNS = {("stability.assess_stability", name) for name in ("samples", "reconstructions", "records")}


def public(module):
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name
        elif inspect.isclass(value) and not getattr(value, "_is_protocol", False):
            for method, function in vars(value).items():
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function) and not method.startswith("_") and method != "to_dict":
                    yield f"{name}.{method}"


def find(name):
    module, *path = name.split(".")
    value = importlib.import_module(f"mvae_jax.eval.{module}")
    for part in path:
        value = getattr(value, part)
    return value


def test_the_table_covers_the_public_measures():
    modules = [item.name for item in pkgutil.iter_modules(measures.__path__) if not item.name.startswith("_")]
    names = {f"{module}.{name}" for module in modules for name in public(find(module))}
    assert names == set(ARGUMENTS) | OTHERS_OF_EVAL


def run(name):
    """The measure with its arguments, changed as given."""
    return lambda **changed: find(name)(**ARGUMENTS[name] | changed)


def places():
    """All arrays of numbers among the arguments, within tuples too: measure, argument, and which of its leaves."""
    for name, arguments in ARGUMENTS.items():
        for argument, value in arguments.items():
            for index, leaf in enumerate(jax.tree.leaves(value)):
                number = isinstance(leaf, np.ndarray | jax.Array | float) and not jnp.issubdtype(
                    getattr(leaf, "dtype", float), jax.dtypes.prng_key
                )
                if number and (name, argument) not in SIGNS:
                    yield pytest.param(name, argument, index, id=f"{name}-{argument}-{index}")


def with_nan(value, index):
    """The value with one NaN, and how many numbers it has."""
    leaves, structure = jax.tree.flatten(value)
    broken = np.array(leaves[index], float)
    broken.flat[-1] = np.nan
    leaves[index] = broken if np.ndim(broken) else float(broken)
    floats = [leaf for leaf in leaves if jnp.issubdtype(np.asarray(leaf).dtype, jnp.floating)]
    return jax.tree.unflatten(structure, leaves), sum(map(np.size, floats))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_arguments_of_the_table_work(name):
    run(name)()


@pytest.mark.parametrize(("name", "argument", "index"), [*places()])
def test_a_value_that_is_not_a_number_is_refused(name, argument, index):
    broken, count = with_nan(ARGUMENTS[name][argument], index)
    with pytest.raises(ValueError, match=rf"1 of {count} values of {argument} are not (finite|numbers)"):
        run(name)(**{argument: broken})


def numbers(result):
    """The numbers of a result, whatever holds them."""
    if dataclasses.is_dataclass(result):
        return [number for field in dataclasses.fields(result) for number in numbers(getattr(result, field.name))]
    if isinstance(result, dict):
        return [number for value in result.values() for number in numbers(value)]
    if isinstance(result, tuple | list):
        return [number for value in result for number in numbers(value)]
    return [] if result is None or isinstance(result, str) else [np.asarray(result)]


def assert_equal(got, expected):
    for value, other in zip(numbers(got), numbers(expected), strict=True):
        np.testing.assert_array_equal(value, other)


def cast(arguments, to):
    def one(leaf):
        return leaf.astype(to) if getattr(leaf, "dtype", None) == np.float32 and np.ndim(leaf) else leaf

    return {name: jax.tree.map(one, value) for name, value in arguments.items() if name != "self"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - {"fid.RunningMoments.add"}))
def test_what_is_less_than_float32_is_measured_in_float32(name, dtype):
    rounded = cast(ARGUMENTS[name], dtype)
    got, expected = run(name)(**rounded), run(name)(**widened(rounded))
    assert_equal(got, expected)
    assert np.dtype(dtype) not in {number.dtype for number in numbers(got)}


def widened(arguments):
    def one(leaf):
        return leaf.astype(np.float32) if getattr(leaf, "itemsize", 4) == 2 else leaf

    return {name: jax.tree.map(one, value) for name, value in arguments.items()}


@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - {"fid.RunningMoments.add"}))
def test_the_flag_of_float64_changes_nothing(name):
    expected = run(name)()
    with jax.enable_x64(True):
        got = run(name)()
    assert_equal(got, expected)
    for value, other in zip(numbers(got), numbers(expected), strict=True):
        assert value.dtype == other.dtype


def test_float64_arrays_are_measured_by_the_device_in_float32():
    from mvae_jax.eval import likelihood, reconstruction

    with jax.enable_x64(True):
        assert reconstruction.psnr(jnp.float64(FACES), jnp.float64(PICTURES)).dtype == jnp.float32
        assert likelihood.importance_bound(jnp.float64(CODES)).dtype == jnp.float32


def test_infinite_values_are_numbers_where_only_their_order_counts():
    from mvae_jax.eval.classification import auroc

    assert auroc([np.inf, 1.0], [0.0, -np.inf]) == 1.0
    with pytest.raises(ValueError, match="1 of 2 values of mean are not finite"):
        find("likelihood.aggregate_posterior")(np.array([[np.inf, 0]]), np.zeros((1, 2)), KEY)


def test_values_that_jit_does_not_know_are_not_looked_at():
    ratios = jax.jit(find("reconstruction.psnr"))(FACES * np.float32([1, 1, 1, np.nan]).reshape(4, 1, 1, 1), PICTURES)
    np.testing.assert_array_equal(np.isfinite(ratios), [True, True, True, False])


def test_float64_is_looked_at_as_it_is():
    check_finite(np.array([1e300, 1e-300]), "scores")
    with pytest.raises(ValueError, match=re.escape("2 of 3 values of scores are not finite; look at the model")):
        check_finite({"a": np.array([np.nan, 1.0]), "b": np.arange(3), "c": [np.inf]}, "scores")


def test_a_measure_keeps_name_and_signature():
    def share(scores, *, threshold=0.5):
        return (np.asarray(scores) > threshold).mean()

    measured = measure()(share)
    assert (measured.__name__, inspect.signature(measured)) == ("share", inspect.signature(share))
    assert measured(np.ones(3)) == 1.0
    with pytest.raises(ValueError, match="1 of 1 values of threshold are not numbers"):
        measured(np.ones(3), threshold=np.nan)
