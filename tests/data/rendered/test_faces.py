"""The rendered faces: reproducible, consistent, and showing what their attributes and factors say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from mvae_jax.data.rendered import faces

A = {name: i for i, name in enumerate(faces.ATTRIBUTES)}
F = {name: i for i, name in enumerate(faces.FACTORS)}

# rows and columns of a 64-pixel picture
EYES, MOUTH, LOWER_FACE, CROWN = np.s_[22:40, 10:54], np.s_[44:54, 22:42], np.s_[38:62, 14:50], np.s_[0:20, 14:50]


@pytest.fixture(scope="module")
def sample():
    return faces.sample(seed=3, count=2000)


def person(count=1, **values):
    """Attributes and factors of an average young woman with brown hair, with some columns replaced."""
    attributes = np.zeros((count, len(faces.ATTRIBUTES)), np.float32)
    attributes[:, [A["young"], A["female"]]] = 1.0
    factors = np.zeros((count, len(faces.FACTORS)), np.float32)
    factors[:, F["clutter"]] = factors[:, F["fringe"]] = factors[:, F["noise"]] = -1.0
    for name, value in values.items():
        if name in A:
            attributes[:, A[name]] = value
        else:
            factors[:, F[name]] = value
    attributes[:, A["female"]] = 1.0 - attributes[:, A["male"]]
    return attributes, factors


def picture(size=64, **values):
    return faces.render(*person(**values), size)[0].astype(np.float32)


def test_names():
    joined = "young male female smiling eyeglasses black_hair blond_hair bald mustache wearing_lipstick"
    assert " ".join(faces.ATTRIBUTES) == joined
    assert len(set(faces.FACTORS)) == len(faces.FACTORS)
    assert faces.FACTORS[:3] == ("yaw", "pitch", "roll")


def test_shapes_and_types():
    batch = faces.sample(seed=0, count=5, image_size=32)
    assert batch.images.shape == (5, 32, 32, 3)
    assert batch.images.dtype == np.uint8
    assert batch.attributes.shape == (5, 10)
    assert batch.factors.shape == (5, len(faces.FACTORS))
    assert batch.attributes.dtype == batch.factors.dtype == np.float32
    assert len(faces.sample(seed=0, count=0).images) == 0


def test_example_is_a_function_of_seed_and_index(sample):
    again = faces.sample(seed=3, count=20, first=90)
    for whole, part in zip(sample, again, strict=True):
        np.testing.assert_array_equal(whole[90:110], part)
    with ThreadPoolExecutor(3) as pool:
        singles = list(pool.map(lambda i: faces.sample(seed=3, count=1, first=i).images[0], range(5)))
    np.testing.assert_array_equal(sample.images[:5], singles)
    assert not np.array_equal(faces.sample(seed=4, count=1).factors, sample.factors[:1])


def test_render_is_what_sample_shows(sample):
    rows = [7, 1, 7, 300]
    np.testing.assert_array_equal(faces.render(sample.attributes[rows], sample.factors[rows]), sample.images[rows])


def test_attributes_are_consistent(sample):
    a = sample.attributes
    assert set(np.unique(a)) == {0.0, 1.0}
    np.testing.assert_array_equal(a[:, A["female"]], 1.0 - a[:, A["male"]])
    assert (a[:, [A["black_hair"], A["blond_hair"], A["bald"]]].sum(1) <= 1).all()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("young", 0.68, 0.79),
        ("male", 0.46, 0.54),
        ("smiling", 0.44, 0.55),
        ("eyeglasses", 0.09, 0.19),
        ("black_hair", 0.19, 0.31),
        ("blond_hair", 0.15, 0.25),
        ("bald", 0.04, 0.12),
        ("mustache", 0.08, 0.16),
        ("wearing_lipstick", 0.3, 0.4),
    ],
)
def test_marginals(sample, name, low, high):
    assert low < sample.attributes[:, A[name]].mean() < high


@pytest.mark.parametrize(
    ("one", "other", "sign"),
    [
        ("mustache", "male", 1),
        ("bald", "male", 1),
        ("bald", "young", -1),
        ("wearing_lipstick", "female", 1),
        ("smiling", "female", 1),
        ("eyeglasses", "young", -1),
        ("blond_hair", "female", 1),
        ("young", "female", 1),
    ],
)
def test_attributes_depend_on_one_another(sample, one, other, sign):
    # Three standard errors of a correlation of independent columns.
    assert sign * np.corrcoef(sample.attributes[:, A[one]], sample.attributes[:, A[other]])[0, 1] > 3 / 2000**0.5


def test_factors_are_independent_within_their_ranges(sample):
    limits = np.array([faces.POSE.get(name, 1.0) for name in faces.FACTORS])
    scaled = sample.factors / limits
    assert np.abs(scaled).max() <= 1.0
    expected = np.where(np.arange(len(limits)) < 3, 1 / 6, 1 / 3)  # variances of triangular and uniform densities
    np.testing.assert_allclose(scaled.var(0), expected, rtol=0.12)
    correlation = np.corrcoef(np.concatenate([scaled, sample.attributes[:, :1]], 1).T)
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 5 / 2000**0.5


@pytest.mark.parametrize(
    ("name", "base", "where"),
    [
        ("eyeglasses", {}, EYES),
        ("wearing_lipstick", {}, MOUTH),
        ("smiling", {}, LOWER_FACE),
        ("mustache", {"male": 1.0}, np.s_[37:51, 17:47]),
        ("bald", {"male": 1.0}, CROWN),
        ("black_hair", {"hair_shade": 1.0}, CROWN),
        ("blond_hair", {}, CROWN),
    ],
)
def test_attribute_changes_its_part_of_the_picture(name, base, where):
    change = np.abs(picture(**base, **{name: 1.0}) - picture(**base, **{name: 0.0})).max(-1)
    inside = np.zeros((64, 64), bool)
    inside[where] = True
    assert change[inside].mean() > 4.0, "hardly visible"
    assert change[inside].max() > 40.0
    if name in ("eyeglasses", "wearing_lipstick", "mustache"):
        assert change[~inside].max() <= 2.0, "visible elsewhere"
    else:
        assert change[inside].mean() > 3 * change[~inside].mean()


@pytest.mark.parametrize("name", ["young", "male"])
def test_age_and_sex_change_the_whole_face(name):
    change = np.abs(picture(**{name: 1.0}) - picture(**{name: 0.0})).max(-1)
    for part in (EYES, LOWER_FACE, CROWN):
        assert change[part].mean() > 4.0
    assert change[:, :3].mean() < 1.0  # the background stays


def test_colours_follow_the_attributes():
    def crown(**values):
        return picture(**values)[4:12, 24:40].mean((0, 1))

    black, blond, brown = crown(black_hair=1.0), crown(blond_hair=1.0), crown()
    assert black.mean() + 15 < brown.mean() < blond.mean() - 15
    assert blond[0] - blond[2] > 30  # yellow
    grey = crown(young=0.0)
    assert np.ptp(grey) < np.ptp(brown) - 5  # less colour
    lips, bare = (picture(wearing_lipstick=on)[48:51, 28:37].mean((0, 1)) for on in (1.0, 0.0))
    assert lips[0] / lips[1] > 1.2 * bare[0] / bare[1]  # redder
    teeth, closed = (picture(smiling=on, mouth_open=on)[46:50, 29:36].max((0, 1)) for on in (1.0, 0.0))
    assert teeth.min() > closed.min() + 20  # white


def centre(mask):
    rows, columns = np.nonzero(mask)
    return columns.mean(), rows.mean()


def test_pose_turns_the_head():
    still = picture(size=128)[74:90, 54:74]

    def nose(**pose):
        """How far the tip of the nose has moved, (right, down) in pixels of 128: the shift that matches it best."""
        turned = picture(size=128, **pose)
        shifts = [(dx, dy) for dx in range(-12, 13) for dy in range(-8, 9)]
        return min(shifts, key=lambda d: ((turned[74 + d[1] : 90 + d[1], 54 + d[0] : 74 + d[0]] - still) ** 2).sum())

    # The tip is about 0.2 (13 pixels) in front of the plane of eyes and mouth, which the crop keeps in place.
    assert nose() == (0, 0)
    assert -6 <= nose(yaw=15.0)[0] <= -2  # to the left
    assert 2 <= nose(yaw=-15.0)[0] <= 6
    assert -5 <= nose(pitch=12.0)[1] <= -1  # up
    assert 1 <= nose(pitch=-12.0)[1] <= 5


def test_frontal_face_is_symmetric_and_mirrored_by_yaw():
    plain = {"texture": -1.0, "gaze": 0.0, "background_gradient": 0.52}

    def difference(one, other):
        return np.abs(one - other[:, ::-1])[20:58, 14:50].mean()

    assert difference(picture(**plain), picture(**plain)) < 4.0
    assert difference(picture(**plain, yaw=15.0), picture(**plain, yaw=-15.0)) < 5.0
    assert difference(picture(**plain, yaw=15.0), picture(**plain, yaw=15.0)) > 10.0


def test_roll_rotates_clockwise():
    glasses = {"eyeglasses": 1.0, "glasses_weight": 1.0, "glasses_colour": -1.0, "lens_tint": -1.0}

    def slope(roll):
        rim = np.abs(picture(roll=roll, **glasses) - picture(roll=roll)).max(-1) > 60
        left, right = rim.copy(), rim.copy()
        left[:, 32:], right[:, :32] = False, False
        (x0, y0), (x1, y1) = centre(left), centre(right)
        return np.degrees(np.arctan2(y1 - y0, x1 - x0))

    assert abs(slope(0.0)) < 0.7
    assert slope(10.0) == pytest.approx(10.0, abs=1.2)
    assert slope(-10.0) == pytest.approx(-10.0, abs=1.2)


@pytest.mark.parametrize("size", [32, 128])
def test_sizes_show_the_same_face(sample, size):
    big, small = max(size, 64), min(size, 64)
    rows = slice(0, 24)
    attributes, factors = sample.attributes[rows], sample.factors[rows].copy()
    factors[:, F["noise"]] = -1.0
    large = faces.render(attributes, factors, big).astype(np.float32)
    pooled = large.reshape(len(large), small, 2, small, 2, 3).mean((2, 4))
    difference = np.abs(pooled - faces.render(attributes, factors, small))
    assert difference.mean() < 4.0
    assert np.percentile(difference, 99) < 30.0


def test_every_factor_is_visible():
    base = {
        "smiling": 1.0,
        "eyeglasses": 1.0,
        "wearing_lipstick": 1.0,
        "background_saturation": 1.0,
        "clutter": 0.5,
    }
    male = {**base, "male": 1.0, "mustache": 1.0, "wearing_lipstick": 0.0}
    people = [
        person(**{**who, name: step * faces.POSE.get(name, 1.0)})
        for name in faces.FACTORS
        for who in (base, male)
        for step in (-0.8, 0.8)
    ]
    attributes, factors = map(np.concatenate, zip(*people, strict=True))
    seen = faces.render(attributes, factors).astype(np.float32).reshape(len(faces.FACTORS), 2, 2, -1)
    change = np.abs(seen[:, :, 1] - seen[:, :, 0]).max((1, 2))
    assert dict(zip(faces.FACTORS, change > 5.0, strict=True)) == dict.fromkeys(faces.FACTORS, True)


def draw_bins(count, seed=0, **fixed):
    """Values of the factors in bins, uniform but for those that are fixed."""
    bins = np.random.default_rng(seed).integers(list(faces.BINS.values()), size=(count, len(faces.BINS)))
    for name, value in fixed.items():
        bins[:, list(faces.BINS).index(name)] = value
    return bins


@pytest.fixture(scope="module")
def binned():
    return faces.sample_bins(draw_bins(1000), seed=3, image_size=32)


def scaled_factors(drawn):
    return drawn.factors / np.array([faces.POSE.get(name, 1.0) for name in faces.FACTORS])


def test_bins_of_sampled_faces_are_uniform_and_independent(sample):
    bins = faces.bins_of(sample)
    assert (bins.shape, bins.dtype) == ((2000, len(faces.BINS)), np.int32)
    for column, size in zip(bins.T, faces.BINS.values(), strict=True):
        spread = np.sqrt(2000 / size * (1 - 1 / size))
        assert np.abs(np.bincount(column, minlength=size) - 2000 / size).max() < 5 * spread
    correlation = np.corrcoef(bins.T)
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 5 / 2000**0.5


def test_bins_are_those_of_equal_probability():
    attributes, factors = person(5)
    # The triangular density on [-20, 20] has an eighth of its mass beyond 20 (1 - sqrt(1 / 4)) = 10 degrees.
    factors[:, F["yaw"]] = -20.0, -10.1, -9.9, 9.9, 10.1
    factors[:, F["scale"]] = -1.0, -0.76, -0.74, 0.74, 1.0
    bins = faces.bins_of(faces.Faces(np.zeros((5, 32, 32, 3), np.uint8), attributes, factors))
    column = {name: values.tolist() for name, values in zip(faces.BINS, bins.T, strict=True)}
    assert column["yaw"] == [0, 0, 1, 6, 7]
    assert column["scale"] == [0, 0, 1, 6, 7]
    assert column["male"] == [0] * 5


def test_given_bins_are_drawn_and_all_else_as_ever(binned, sample):
    np.testing.assert_array_equal(faces.bins_of(binned), draw_bins(1000))
    free = [name not in faces.BINS for name in faces.FACTORS]
    np.testing.assert_array_equal(binned.factors[:, free], sample.factors[:1000, free])
    again = faces.sample_bins(faces.bins_of(sample)[90:100], seed=3, first=90)
    np.testing.assert_array_equal(again.attributes, sample.attributes[90:100])
    bins = draw_bins(1000)
    for part in (slice(0, 7), slice(7, 20)):
        continued = faces.sample_bins(bins[part], seed=3, image_size=32, first=part.start)
        np.testing.assert_array_equal(continued.images, binned.images[part])


def test_uniform_bins_give_the_distribution_of_sampled_faces(binned, sample):
    scaled = scaled_factors(binned)
    expected = np.where(np.arange(scaled.shape[1]) < 3, 1 / 6, 1 / 3)
    np.testing.assert_allclose(scaled.var(0), expected, rtol=0.12)
    assert np.abs(scaled.mean(0)).max() < 5 * np.sqrt(1 / 3 / 1000)
    mean = sample.attributes.mean(0)
    assert (np.abs(binned.attributes.mean(0) - mean) < 5 * np.sqrt(mean * (1 - mean) * (1 / 1000 + 1 / 2000))).all()


@pytest.mark.parametrize(("name", "value"), [("male", 1), ("yaw", 0), ("light_azimuth", 5)])
def test_fixing_a_factor_fixes_it_and_nothing_else(name, value):
    drawn = faces.sample_bins(draw_bins(300, seed=1, **{name: value}), seed=8, image_size=32)
    bins, column = faces.bins_of(drawn), list(faces.BINS).index(name)
    assert set(bins[:, column]) == {value}
    for size, values in zip(faces.BINS.values(), np.delete(bins, column, axis=1).T, strict=False):
        assert len(set(values)) >= min(size, 2)
    scaled = scaled_factors(drawn)
    fixed = [each == name for each in faces.FACTORS]
    assert scaled[:, np.logical_not(fixed)].std(0).min() > 0.35
    if name in F:
        assert np.ptp(scaled[:, F[name]]) < 0.51
    assert (drawn.attributes[:, [A["young"], A["smiling"], A["eyeglasses"]]].std(0) > 0).all()


def test_every_binned_factor_changes_every_face():
    for name, size in faces.BINS.items():
        low, high = (
            faces.sample_bins(draw_bins(16, seed=2, **{name: value}), seed=5, image_size=32).images.astype(float)
            for value in (0, size - 1)
        )
        assert np.abs(high - low).mean((1, 2, 3)).min() > 3.0, name


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        (np.zeros((2, 3), int), r"shape \(2, 3\), expected integers \[N, 11\]: male, yaw"),
        (np.zeros((2, 11)), "factors are float64"),
        (np.eye(11, dtype=int) * 8, "'male' of row 0 is 8, expected 0 to 1"),
        (-np.eye(11, dtype=int)[3:], "'roll' of row 0 is -1, expected 0 to 7"),
    ],
)
def test_bins_that_there_are_not_are_refused(bins, message):
    with pytest.raises(ValueError, match=message):
        faces.sample_bins(bins, seed=0)


def test_celebamask_hq_layout(tmp_path, sample):
    few = faces.Faces(*(array[:6] for array in sample))
    faces.write_celebamask_hq(tmp_path, few)
    root = tmp_path / "CelebAMask-HQ"
    lines = (root / "CelebAMask-HQ-attribute-anno.txt").read_text().splitlines()
    assert lines[0] == "6"
    names = lines[1].split(" ")
    assert len(names) == 40
    assert (names[0], names[4], names[20], names[39]) == ("5_o_Clock_Shadow", "Bald", "Male", "Young")
    assert lines[2].startswith("0.jpg  ")
    rows = np.array([line.split()[1:] for line in lines[2:]], int)
    assert set(np.unique(rows)) == {-1, 1}
    lower = [name.lower() for name in names]
    for name in set(faces.ATTRIBUTES) - {"female"}:
        np.testing.assert_array_equal((rows[:, lower.index(name)] + 1) / 2, few.attributes[:, A[name]])
    assert (rows[:, names.index("Wearing_Hat")] == -1).all()

    lines = (root / "CelebAMask-HQ-pose-anno.txt").read_text().splitlines()
    assert lines[0] == "6"
    assert len(lines[1].split()) == 3
    assert [line.split()[0] for line in lines[2:]] == [f"{i}.jpg" for i in range(6)]
    np.testing.assert_array_equal(np.array([line.split()[1:] for line in lines[2:]], np.float32), few.factors[:, :3])

    assert len(list((root / "CelebA-HQ-img").iterdir())) == 6
    for i in range(6):
        decoded = np.asarray(Image.open(root / "CelebA-HQ-img" / f"{i}.jpg"), np.float32)
        assert np.abs(decoded - few.images[i]).mean() < 5.0


def test_splits_are_consecutive_examples():
    names = ("smiling", "young", "bald")
    splits = faces.splits(5, subset_size=10, validation_size=3, calibration_size=2, image_size=32, attributes=names)
    drawn = faces.sample(5, 12, 32)
    for (_, split), part in zip(splits, (slice(0, 7), slice(7, 10), slice(10, 12)), strict=True):
        np.testing.assert_array_equal(split["image"], drawn.images[part])
        np.testing.assert_array_equal(split["attributes"], drawn.attributes[part][:, [A[name] for name in names]])
        np.testing.assert_array_equal(split["index"], np.arange(12)[part])
        assert (split["attributes"].dtype, split["index"].dtype) == (np.float32, np.int32)
    assert splits.attributes == names
    assert splits.provenance == {"source": "rendered faces", "seed": 5, "images": 12}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attributes": ("young", "gray_hair")}, "rendered faces have no attribute gray_hair; they have young, male"),
        ({"validation_size": 0}, "validation_size is 0 of subset_size 10"),
        ({"validation_size": 10}, "validation_size is 10 of subset_size 10"),
        ({"seed": -1}, "seed -1"),
        ({"image_size": 48}, "image_size is 48"),
    ],
)
def test_splits_that_cannot_be_drawn_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        faces.splits(**{"subset_size": 10, "validation_size": 3, "calibration_size": 2, "image_size": 32, **options})


def changed(array, column, value):
    array = array.copy()
    array[0, column] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda a, f: (a[0], f, 64), r"shape \(10,\)"),
        (lambda a, f: (a[:, :9], f, 64), r"expected \[N, 10\]"),
        (lambda a, f: (a, f[:, 1:], 64), "one column per name"),
        (lambda a, f: (a, np.concatenate([f, f]), 64), "one row per row"),
        (lambda a, f: (a, f, 48), r"image_size is 48, expected one of \(32, 64, 128\)"),
        (lambda a, f: (changed(a, A["smiling"], 0.5), f, 64), "contain 0.5, expected only 0 and 1"),
        (lambda a, f: (changed(a, A["male"], 1.0), f, 64), "female different from 1 - male"),
        (lambda a, f: (changed(changed(a, A["bald"], 1.0), A["black_hair"], 1.0), f, 64), "more than one of"),
        (lambda a, f: (a, changed(f, F["yaw"], 21.0), 64), r"'yaw' of row 0 is 21.0, expected within \+-20"),
        (lambda a, f: (a, changed(f, F["gaze"], np.nan), 64), "'gaze' of row 0 is nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        faces.render(*arguments(*person(count=1)))


@pytest.mark.parametrize("arguments", [{"seed": -1, "count": 1}, {"seed": 0, "count": -1}])
def test_sample_rejects_negative_numbers(arguments):
    with pytest.raises(ValueError, match="at least 0"):
        faces.sample(**arguments)


def test_attributes_can_be_learnt_but_not_trivially(sample):
    """A linear probe on quarter-size pictures beats guessing, and leaves something to learn."""
    pooled = sample.images.reshape(-1, 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(sample.images), -1)
    pooled = StandardScaler().fit_transform(pooled)
    for name in ("young", "male", "smiling", "wearing_lipstick"):
        train, test = np.split(sample.attributes[:, A[name]], [1500])
        probe = RidgeClassifier(alpha=1000.0).fit(pooled[:1500], train)
        accuracy, guess = probe.score(pooled[1500:], test), max(test.mean(), 1 - test.mean())
        assert guess + 0.02 < accuracy < 0.95, name
