from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mvae_jax.data.batches import Batches, Split, Splits, permutation


def split_of(count: int) -> Split:
    image = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return Split({"image": image, "index": np.arange(count, dtype=np.int32) + 100})


def test_permutation_is_a_fixed_order():
    """A change of these numbers would change every selection and every run."""
    assert permutation(8, 42).tolist() == [0, 1, 4, 2, 6, 5, 7, 3]
    assert permutation(8, 42, 0).tolist() == [2, 0, 6, 5, 4, 3, 1, 7]
    assert permutation(8, 42, 0, 1).tolist() == [0, 2, 5, 3, 4, 1, 6, 7]


def test_permutation_streams_are_distinct_uniform_orders():
    orders = np.array([permutation(6, seed, stream) for seed in range(40) for stream in range(40)])
    assert (np.sort(orders) == np.arange(6)).all()
    # Each of the 36 (place, value) counts is Binomial(1600, 1/6): mean 266.7, standard deviation 14.9.
    counts = (orders[:, :, None] == np.arange(6)).sum(0)
    assert np.abs(counts - 1600 / 6).max() < 5 * 14.9
    assert len({tuple(order) for order in orders}) > 600  # expected: 720 (1 - exp(-1600 / 720)) = 642


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(10, 3, 3), (12, 4, 3), (5, 5, 1), (7, 1, 7)])
def test_an_epoch_visits_distinct_examples(count, batch_size, steps):
    batches = Batches(split_of(count), batch_size, seed=3)
    assert batches.steps_per_epoch == steps
    for epoch in range(4):
        drawn = np.concatenate([batches.indices_at(epoch * steps + step) for step in range(steps)])
        assert drawn.dtype == np.int32
        assert len(drawn) == steps * batch_size == len(set(drawn.tolist()))
        assert set(drawn.tolist()) <= set(range(count))


def test_dropped_remainder_differs_between_epochs():
    batches = Batches(split_of(10), 3, seed=0)
    left_out = [
        set(range(10)) - {int(i) for step in range(3) for i in batches.indices_at(3 * epoch + step)}
        for epoch in range(30)
    ]
    assert all(len(left) == 1 for left in left_out)
    assert len(set.union(*left_out)) > 5


def test_a_batch_is_a_function_of_seed_and_step():
    forwards = Batches(split_of(20), 6, seed=1)
    in_order = [forwards.indices_at(step) for step in range(30)]
    elsewhere = Batches(split_of(20), 6, seed=1)
    for step in np.random.default_rng(0).permutation(30).tolist():
        np.testing.assert_array_equal(elsewhere.indices_at(step), in_order[step])


def test_epochs_seeds_and_starts_have_orders_of_their_own():
    def epoch(seed: int, start: int, number: int) -> tuple[int, ...]:
        return tuple(Batches(split_of(50), 50, seed, start).indices_at(start + number).tolist())

    orders = {epoch(seed, start, number) for seed in (0, 1) for start in (0, 50, 51) for number in (0, 1, 50)}
    assert len(orders) == 2 * 3 * 3


def test_epochs_count_from_the_start_of_the_phase():
    batches = Batches(split_of(10), 5, seed=0, start=7)
    assert [batches.epoch_at(step) for step in (7, 8, 9, 10, 11)] == [0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="step is 6, before these batches start at step 7"):
        batches.indices_at(6)


def test_without_shuffling_every_epoch_is_in_order():
    """And leaves out the same examples, whatever seed and start."""
    for seed, start in ((0, 0), (3, 7)):
        batches = Batches(split_of(10), 4, seed, start, shuffle=False)
        drawn = [batches.indices_at(start + step) for step in range(5)]
        assert {indices.dtype for indices in drawn} == {np.dtype(np.int32)}
        assert [indices.tolist() for indices in drawn] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2 + [[0, 1, 2, 3]]
        assert [batches.epoch_at(start + step) for step in range(5)] == [0, 0, 1, 1, 2]
        np.testing.assert_array_equal(batches.batch_at(start + 3)["index"], [104, 105, 106, 107])


def test_batch_at_gathers_every_array():
    batches = Batches(split_of(10), 4, seed=5)
    batch = batches.batch_at(9)
    indices = batches.indices_at(9)
    assert batches.arrays is batches.split.arrays
    np.testing.assert_array_equal(batch["index"], indices + 100)
    np.testing.assert_array_equal(batch["index"], batches.arrays["index"][indices])
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], indices)
    assert batch["image"].shape == (4, 2, 2, 3)


def test_indices_cannot_be_changed_by_their_reader():
    with pytest.raises(ValueError, match="read-only"):
        Batches(split_of(4), 2, seed=0).indices_at(0)[0] = 1


def test_a_split_has_any_arrays_and_knows_which_values_are_there():
    split = Split({"pose": np.zeros((3, 2)), "voice": np.zeros(3), "present/pose": np.float32([1, 0, 1])})
    assert split.present("pose").tolist() == [True, False, True]
    assert split.present("voice").all()


@pytest.mark.parametrize("batch_size", [0, 5])
def test_batch_size_must_fit(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}, expected between 1 and the 4 examples"):
        Batches(split_of(4), batch_size, seed=0)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed is -1"):
        Batches(split_of(4), 2, seed=-1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((2, 4, 4, 3), np.uint8), "index": np.zeros(3)}, "lengths {'image': 2, 'index': 3}"),
        ({"present/pose": np.ones(3, np.float32)}, r"'present/pose' has no 'pose' beside it"),
        *(
            ({"pose": np.zeros((3, 2)), "present/pose": mask}, r"'present/pose' is .* expected float32 \[N\] of 0")
            for mask in (np.ones(3), np.ones((3, 1), np.float32), np.float32([1, np.nan, 0]), np.float32([1, 0.3, 0]))
        ),
        ({"image": np.zeros((2, 4, 4, 3), np.float32)}, "'image' is float32 of shape"),
        ({"image": np.zeros((2, 4, 4), np.uint8)}, r"expected uint8 \[N, H, W, C\]"),
        ({}, "lengths {}"),
    ],
)
def test_malformed_splits_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        Split(arrays)


# Splits


def arrays_of(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {
        "image": rng.integers(0, 256, (count, 2, 2, 3), np.uint8),
        "attributes": rng.integers(0, 2, (count, 2)).astype(np.float32),
        "index": np.arange(count, dtype=np.int32),
    }


def test_cut_makes_three_splits_in_order():
    arrays = arrays_of(9)
    splits = Splits.cut(arrays, 5, 1, ("a", "b"), {"source": "here"})
    assert [(name, split["index"].tolist()) for name, split in splits] == [
        ("train", [0, 1, 2, 3, 4]),
        ("validation", [5]),
        ("calibration", [6, 7, 8]),
    ]
    assert (splits.attributes, splits.provenance) == (("a", "b"), {"source": "here"})
    np.testing.assert_array_equal(splits.calibration["image"], arrays["image"][6:])
    assert len(Splits.cut(arrays, 5, 4, ("a", "b"), {}).calibration) == 0


def test_examples_of_a_split_are_all_of_it():
    splits = Splits.cut(arrays_of(9), 5, 1, ("a", "b"), {})
    assert {name: splits.examples(name, 2) for name, _ in splits} == dict(splits)
    with pytest.raises(ValueError, match="split is 'held-out', expected train, validation, calibration"):
        splits.examples("held-out", 2)


def test_sha256_is_of_images_and_attributes():
    arrays = arrays_of(6)
    splits = Splits.cut(arrays, 3, 2, ("a", "b"), {})
    borders = (slice(0, 3), slice(3, 5), slice(5, 6))
    text = b"".join(arrays[name][part].tobytes() for part in borders for name in ("image", "attributes"))
    assert splits.sha256() == hashlib.sha256(text).hexdigest()
    for name in ("image", "attributes"):
        for place in (0, 4, 5):
            other = {**arrays, name: arrays[name].copy()}
            other[name][place] += 1
            assert Splits.cut(other, 3, 2, ("a", "b"), {}).sha256() != splits.sha256()
    for numbers in ({"index": arrays["index"] + 1}, {"identity": np.arange(6, dtype=np.int32)}):
        assert Splits.cut({**arrays, **numbers}, 3, 2, ("a", "b"), {}).sha256() == splits.sha256()


def test_sha256_is_of_other_modalities_and_of_what_is_missing_too():
    poses = {"pose": np.ones((6, 3), np.float32), "present/pose": np.ones(6, np.float32)}
    arrays = {**arrays_of(6), **poses}
    sums = {Splits.cut(arrays_of(6), 3, 2, ("a", "b"), {}).sha256(), Splits.cut(arrays, 3, 2, ("a", "b"), {}).sha256()}
    for name in poses:
        sums.add(Splits.cut({**arrays, name: 0 * arrays[name]}, 3, 2, ("a", "b"), {}).sha256())
    assert len(sums) == 4


@pytest.mark.parametrize(
    ("names", "without", "message"),
    [
        (("a",), "", r"'attributes' of the train split has shape \(3, 2\), expected \(3, 1\): .* each of a"),
        (("a", "b"), "attributes", r"'attributes' of the train split has shape None, expected \(3, 2\)"),
    ],
)
def test_malformed_attributes_are_refused(names, without, message):
    arrays = {name: array for name, array in arrays_of(6).items() if name != without}
    with pytest.raises(ValueError, match=message):
        Splits.cut(arrays, 3, 2, names, {})


def test_examples_that_have_all_values_lose_their_masks():
    arrays = {"a": np.arange(4), "b": np.arange(4), "c": np.arange(4)}
    masks = {f"present/{name}": np.float32(mask) for name, mask in {"a": [1, 0, 1, 1], "b": [1, 1, 0, 1]}.items()}
    split = Split({**arrays, **masks})
    both = split.having("a", "b", "c")
    assert {name: array.tolist() for name, array in both.arrays.items()} == {key: [0, 3] for key in "abc"}
    assert sorted(split.having("a").arrays) == ["a", "b", "c", "present/b"]
    assert split.having("c") is split
