"""Attribute vectors of encoders that are known, and what is done with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import gaussian
from mvae_jax.eval.directions import attribute_vectors, cosines, edit_scores, edited, svm_directions

SHAPE = (4, 3, 2)


def scene(count=60, size=5):
    """Images that are a sum of patterns, one per attribute, and a linear encoder: image and encoder weights known."""
    rng = np.random.default_rng(0)
    patterns, weights = rng.normal(size=(3, *SHAPE)), rng.normal(size=(np.prod(SHAPE), size))
    attributes = rng.integers(0, 2, (count, 3))
    images = np.einsum("na,ahwc->nhwc", attributes, patterns) + 5.0
    return images.astype(np.float32), attributes, patterns, weights.astype(np.float32)


def linear(weights):
    def encode(x):
        mean = x.reshape(len(x), -1) @ weights
        return mean, jnp.full_like(mean, -jnp.inf)

    return encode


def every_combination():
    """As many images of each combination of three attributes, so that they are independent."""
    return np.stack(np.meshgrid(*[[0, 1]] * 3), axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("batch_size", [1, 3, 250])
def test_independent_attributes_give_their_own_patterns(batch_size):
    _, _, patterns, weights = scene()
    attributes = every_combination()
    images = (np.einsum("na,ahwc->nhwc", attributes, patterns) + 5.0).astype(np.float32)
    vectors = attribute_vectors(linear(weights), images, attributes, batch_size=batch_size)
    np.testing.assert_allclose(vectors, patterns.reshape(3, -1) @ weights, atol=2e-4)
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, 5))


def test_vectors_equal_a_loop_over_attributes():
    images, attributes, _, weights = scene()
    images += np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    codes = images.reshape(60, -1).astype(float) @ weights
    expected = [codes[has == 1].mean(0) - codes[has == 0].mean(0) for has in attributes.T]
    vectors = attribute_vectors(linear(weights), jnp.asarray(images), attributes.astype(np.float32), batch_size=7)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_a_key_draws_one_sample_of_each_posterior():
    """The draws are those of `gaussian.sample` on the whole set, whatever the batches."""
    images, attributes, _, weights = scene()
    key = jax.random.key(3)

    def encode(x):
        mean, _ = linear(weights)(x)
        return mean, 0.1 * mean

    z = np.asarray(gaussian.sample(key, *encode(jnp.asarray(images))), float)
    expected = [z[has == 1].mean(0) - z[has == 0].mean(0) for has in attributes.T]
    for batch_size in (7, 60):
        vectors = attribute_vectors(encode, images, attributes, key=key, batch_size=batch_size)
        np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(attribute_vectors(encode, images, attributes) - expected).max() > 0.1
    same = attribute_vectors(linear(weights), images, attributes, key=key)  # of no variance: the means
    np.testing.assert_allclose(same, attribute_vectors(linear(weights), images, attributes), atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "names", "message"),
    [
        (np.zeros((8, 3)), ("bald", "male", "young"), "all or none of the 8 images have the attributes bald, male, yo"),
        (every_combination() * [1, 1, 0] + [0, 0, 1], ("bald", "male", "young"), "have the attributes young: leave"),
        (every_combination() * [1, 0, 1], None, "have the attributes 1: leave these out or give more"),
        (every_combination() * 2 - 1, None, "attributes hold -1, expected only 0 and 1"),
        (every_combination() * np.nan, None, "24 of 24 values of attributes are not finite"),
        (every_combination()[1:], None, r"shape \(7, 3\), expected \[8, A\]"),
        (every_combination(), ("bald", "male"), r"shape \(8, 3\), expected \[8, 2\]"),
        (np.zeros(8), None, r"shape \(8,\), expected \[8, A\]"),
    ],
)
def test_attributes_without_a_vector_are_named(attributes, names, message):
    with pytest.raises(ValueError, match=message):
        attribute_vectors(linear(np.ones((24, 2))), np.zeros((8, *SHAPE)), attributes, names=names)


def test_cosines_by_hand():
    vectors = np.array([[2.0, 0.0], [-1.0, 0.0], [3.0, 3.0], [0.0, 1e-30]])
    r = np.sqrt(0.5)
    expected = [[1, -1, r, 0], [-1, 1, -r, 0], [r, -r, 1, r], [0, 0, r, 1]]
    np.testing.assert_allclose(cosines(vectors), expected, atol=1e-12)
    assert np.abs(cosines(np.random.default_rng(0).normal(size=(30, 3)))).max() <= 1.0
    with pytest.raises(ValueError, match="vector 1 is zero"):
        cosines([[1.0, 2.0], [0.0, 0.0]])


def test_edits_follow_the_vector():
    """With a linear decoder an edit adds strength times the vector's image."""
    rng = np.random.default_rng(0)
    weights, z, vector = (rng.normal(size=size).astype(np.float32) for size in ((5, 24), (6, 5), (5,)))

    def decode(codes):
        return (codes @ weights).reshape(len(codes), *SHAPE)

    strengths = [-1.0, 0.0, 0.5, 2.0]
    images = edited(decode, jnp.asarray(z), vector, strengths)
    assert images.shape == (4, 6, *SHAPE)
    step = (vector @ weights).reshape(SHAPE)
    for strength, row in zip(strengths, images, strict=True):
        np.testing.assert_allclose(row, decode(z) + strength * step, atol=1e-5)
    with pytest.raises(AssertionError):
        edited(decode, jnp.asarray(z), np.ones((2, 5)), strengths)


def test_an_edit_that_sets_the_pixel_of_its_attribute_is_always_read():
    """Code, image and logits are one: an attribute is read from its own pixel alone."""
    has = every_combination()
    z = jnp.asarray(has - 0.5, jnp.float32)
    vectors = {"bald": np.array([1.0, 0, 0]), "young": np.array([0, -1.0, 1.0]), "male": np.zeros(3)}
    scores = edit_scores(lambda codes: codes, z, has, vectors, ("bald", "male", "young"))
    assert [(s.images, s.read_before, s.read_after) for s in scores.values()] == [(4, 0, 1), (4, 0, 1), (4, 0, 0)]
    # The second takes "male" from the half of its images that have it.
    assert [s.others_unchanged for s in scores.values()] == [1, 0.75, 1]
    (alone,) = edit_scores(lambda codes: codes, z[:, :1], has[:, :1], {"bald": [1.0]}, ("bald",)).values()
    assert (alone.read_after, alone.others_unchanged) == (1, None)


def test_edits_equal_a_loop_over_images():
    """With a linear decoder and classifier that read attributes wrongly too; an attribute that all have is left out."""
    rng = np.random.default_rng(0)
    z, weights = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    has = rng.integers(0, 2, (50, 3))
    has[:, 1] = 1
    names, vectors = ("a", "b", "c"), dict(zip("cba", rng.normal(size=(3, 4)), strict=True))
    shapes = []

    def read(codes):
        shapes.append(codes.shape)
        return codes @ weights

    scores = edit_scores(read, jnp.asarray(z), has, vectors, names)
    assert list(scores) == ["c", "a"]
    assert shapes == [(50 + sum(score.images for score in scores.values()), 4)]
    for name, score in scores.items():
        column = names.index(name)
        before, after, same = [], [], []
        for code, bits in zip(z.astype(float), has, strict=True):
            if not bits[column]:
                plain, changed = (x @ weights > 0 for x in (code, code + vectors[name]))
                before.append(plain[column])
                after.append(changed[column])
                same += [plain[other] == changed[other] for other in range(3) if other != column]
        expected = (np.mean(before), np.mean(after), np.mean(same))
        assert score.images == len(before)
        np.testing.assert_allclose((score.read_before, score.read_after, score.others_unchanged), expected, atol=1e-12)
        assert 0 < score.read_before != score.read_after
    with pytest.raises(ValueError, match="there is a vector of 'd', expected vectors of some of a, b, c"):
        edit_scores(read, jnp.asarray(z), has, {"d": np.zeros(4)}, names)
    with pytest.raises(ValueError, match=r"attributes have shape \(49, 3\), expected \[50, 3\]"):
        edit_scores(read, jnp.asarray(z), has[1:], vectors, names)


def test_svm_directions_are_the_normals_of_planes_between_codes():
    """Two attributes that go together: means differ along both, each plane has its own normal."""
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(2, 4000))
    second = 0.8 * first + 0.6 * second
    codes = np.stack([first, second, rng.normal(size=4000)], 1) * [2.0, 1.0, 3.0] + 7.0
    has = np.stack([first > 0, second > 0, np.ones(4000) > 0], 1)
    found = svm_directions(codes, has, ("one", "other", "always"))
    assert list(found) == ["one", "other"]
    assert svm_directions(codes[:30], has[:30], ("one", "other", "always"), least=31) == {}
    for axis, (vector, length) in enumerate(zip(found.values(), (2.0, 1.0), strict=True)):
        assert np.linalg.norm(vector) == pytest.approx(length, rel=0.05)
        assert vector[axis] / np.linalg.norm(vector) > 0.99
    means = attribute_vectors(lambda x: (x, x), jnp.asarray(codes, jnp.float32), has[:, :2])
    assert means[0, 0] / np.linalg.norm(means[0]) < 0.96  # what goes together is in the difference of means


def test_labels_that_svms_cannot_read_are_refused():
    with pytest.raises(ValueError, match=r"attributes have shape \(3,\), expected \[3, 1\]"):
        svm_directions(np.zeros((3, 2)), [0, 1, 1], ["a"])
    with pytest.raises(ValueError, match="attributes hold 2, expected only 0 and 1"):
        svm_directions(np.zeros((2, 2)), [[0], [2]], ["a"])
