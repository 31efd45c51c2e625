import itertools

import numpy as np
import pytest

from mvae_jax.viz import scores


def bars(axis):
    """(attribute, value) of every bar, series after series."""
    names = [label.get_text() for label in axis.get_yticklabels()]
    return [
        [(names[round(bar.get_y() + bar.get_height() / 2)], bar.get_width()) for bar in container]
        for container in axis.containers
    ]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_score_distributions_counts_pairs(figures):
    picture = scores.score_distributions([0.8, 0.9, 0.9], [0.1, 0.2, 0.85, 0.1], 0.6, title="Scores")
    assert picture.size == (990, int((1.3 * 2.6 + 0.6) * 110))
    (axis,) = figures[0].axes
    assert [sum(bar.get_height() for bar in bars) for bars in axis.containers] == [3, 4]
    (line,) = axis.get_lines()
    assert set(line.get_xdata()) == {0.6}


def test_equal_scores_can_be_drawn():
    scores.score_distributions([1.0, 1.0], [1.0], 1.0)


def test_confusion_matrix_shows_counts_and_shares_of_rows(figures):
    scores.confusion_matrix([[427, 73], [40, 460]])
    (axis,) = figures[0].axes
    # Kim, 2024, table 1.
    assert texts(axis) == ["427\n85.4% of row", "73\n14.6% of row", "40\n8.0% of row", "460\n92.0% of row"]
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.854, 0.146], [0.08, 0.92]])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["actual mismatch", "actual match"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["predicted mismatch", "predicted match"]


def test_a_class_without_examples_has_no_shares(figures):
    scores.confusion_matrix([[0, 0, 0], [1000, 0, 3000]], ["no", "yes"], ["a", "b", "c"])
    assert texts(figures[0].axes[0]) == ["0\n–"] * 3 + ["1,000\n25.0% of row", "0\n0.0% of row", "3,000\n75.0% of row"]


def test_attribute_bars_stand_beside_their_attribute(figures):
    values = {"model": {"young": 0.9, "bald": 0.25, "male": None}, "text alone": {"bald": 0.5, "male": 1.0}}
    scores.attribute_bars(
        values, baseline={"bald": 0.75, "young": None}, intervals={"model": {"young": (0.8, 0.95)}}, xlabel="accuracy"
    )
    (axis,) = figures[0].axes
    assert bars(axis) == [[("young", 0.9), ("bald", 0.25)], [("bald", 0.5), ("male", 1.0)]]
    assert texts(axis) == ["0.900", "0.250", "0.500", "1.000"]
    model, text = axis.containers
    # The numbers and the interval lie level with their bars, and bars of one attribute do not overlap.
    centres = [bar.get_y() + bar.get_height() / 2 for bar in [*model, *text]]
    np.testing.assert_allclose([text.get_position()[1] for text in axis.texts], centres)
    assert model[1].get_y() + model[1].get_height() < text[0].get_y()
    (interval,) = axis.get_lines()
    np.testing.assert_allclose(interval.get_xydata(), [(0.8, centres[0]), (0.95, centres[0])])
    (mark,) = axis.collections[0].get_segments()
    np.testing.assert_allclose(mark, [(0.75, 0.54), (0.75, 1.46)])  # bald is the second attribute
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["model", "text alone", "baseline"]


def test_one_baseline_stands_for_all_attributes(figures):
    scores.attribute_bars({"model": {"a": 0.1, "b": 0.2}}, baseline=0.5, baseline_label="chance")
    (axis,) = figures[0].axes
    marks = [segment for lines in axis.collections for segment in lines.get_segments()]
    np.testing.assert_allclose(marks, [[(0.5, -0.46), (0.5, 0.46)], [(0.5, 0.54), (0.5, 1.46)]])
    scores.attribute_bars({"model": {"a": 0.1}})
    assert not figures[1].axes[0].collections


def test_a_legend_takes_another_row_before_it_cuts_a_name(figures):
    names = ["image to text", "classifier, held-out images", "classifier, text to image"]
    scores.attribute_bars({name: {"a": 0.5} for name in names}, baseline=0.5, baseline_label="majority class")
    legend = figures[0].axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [*names, "majority class"]
    assert 0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= 990


def test_any_number_of_attributes_finds_room(figures):
    for count in (1, 10, 40):
        values = {name: {f"attribute {i}": i / count for i in range(count)} for name in ("first", "second", "third")}
        scores.attribute_bars(values)
        renderer = figures[-1].canvas.get_renderer()
        axis = figures[-1].axes[0]
        boxes = sorted((text.get_window_extent(renderer) for text in axis.texts), key=lambda box: -box.y0)
        assert len(boxes) == 3 * count
        assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))
        assert all(box.x0 >= 0 and box.x1 <= 990 for box in boxes)


def test_any_text_can_be_drawn(hostile, figures):
    scores.score_distributions([0.5], [0.2], 0.3, title=hostile)
    scores.confusion_matrix([[1, 2], [3, 4]], [hostile, "b"], ["a", hostile], title=hostile)
    scores.attribute_bars(
        {hostile: {hostile: 0.5, "b": 0.2}, "other": {"b": 0.3}},
        baseline={hostile: 0.5},
        baseline_label=hostile,
        intervals={hostile: {hostile: (0.4, 0.6)}},
        xlabel=hostile,
        title=hostile,
    )
    assert len(figures[2].axes[0].get_legend().get_texts()) == 3  # names that are alike do not hide one another
    for figure in figures:
        box = figure.axes[0].get_window_extent()
        assert box.width > 300  # names leave room for what they name
    legend = figures[2].axes[0].get_legend().get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= 990


@pytest.mark.parametrize(
    ("match", "mismatch", "threshold", "message"),
    [
        ([], [0.5], 0.5, r"matching pairs have shape \(0,\), expected \[N\] with N > 0"),
        ([0.5], [[0.5]], 0.5, r"mismatched pairs have shape \(1, 1\)"),
        ([0.5], [np.nan], 0.5, "mismatched pairs .* all finite"),
        ([0.5], [0.5], np.inf, "threshold is inf"),
    ],
)
def test_wrong_scores_are_refused(match, mismatch, threshold, message):
    with pytest.raises(ValueError, match=message):
        scores.score_distributions(match, mismatch, threshold)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, 2]], r"shape \(1, 2\), expected \[2, 2\]"),
        ([[1, 2], [3, -1]], "expected whole numbers from 0"),
        ([[0.9, 0.1], [0.2, 0.8]], "not shares"),
        ([[1, 2], [3, np.nan]], "expected whole numbers"),
        ([["a", "b"], ["c", "d"]], "expected whole numbers"),
    ],
)
def test_wrong_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        scores.confusion_matrix(counts)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({}, {}, "got 0 series, expected 1 to 4"),
        ({str(i): {"a": 0.5} for i in range(5)}, {}, "got 5 series"),
        ({"s": {"a": None}}, {}, r"none of the series \['s'\] has a value"),
        ({"s": {"a": 97.0}}, {}, "'s' of 'a' is 97.0, expected a share from 0 to 1"),
        ({"s": {"a": float("nan")}}, {}, "'s' of 'a' is nan"),
        ({"s": {"a": 0.5}}, {"baseline": {"b": 0.5}}, r"the baseline has \['b'\]"),
        ({"s": {"a": 0.5}}, {"baseline": {"a": -0.5}}, "'baseline' of 'a' is -0.5"),
        ({"s": {"a": 0.5}}, {"baseline": 50.0}, "'baseline' of 'a' is 50.0"),
        ({"s": {"a": 0.5}}, {"intervals": {"s": {"a": (0.6, 0.4)}}}, r"'s' for 'a' is \(0.6, 0.4\)"),
        ({"s": {"a": 0.5}}, {"intervals": {"s": {"b": (0.4, 0.6)}}}, "'s' for 'b'.*attribute with a value"),
        ({"s": {"a": 0.5}}, {"intervals": {"t": {"a": (0.4, 0.6)}}}, r"intervals of \['t'\]"),
    ],
)
def test_wrong_bars_are_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        scores.attribute_bars(values, **options)
