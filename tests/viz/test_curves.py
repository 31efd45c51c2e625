import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from mvae_jax.viz import _figure, _narrow, curves

BLUE, ORANGE = _figure.COLOURS[:2]

RECORDS = [
    {"step": 0, "phase": "first", "split": "setup", "compile_seconds": 9.0},
    {"step": 10, "phase": "first", "split": "train", "loss": 3.0, "image_kl": 100.0},
    {"step": 20, "phase": "first", "split": "train", "loss": 2.0, "image_kl": 1.0},
    {"step": 20, "phase": "first", "split": "validation", "loss": 2.5},
    {"step": 30, "phase": "second", "split": "train", "loss": 1.0, "image_kl": 0.5, "text_kl": float("nan")},
    {"step": 30, "phase": "second", "split": "train", "loss": 1.5, "text_kl": None},
]


def points(axis):
    """(colour, steps, values) of the curves, without the borders of phases."""
    lines = (line for line in axis.get_lines() if line.get_linestyle() == "-")
    return [(to_hex(line.get_color()), list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def test_losses_draws_the_numbers(figures):
    picture = curves.losses(RECORDS, {"Total": ["loss"], "KL": ["*_kl"], "Images": ["image_from_*"]}, title="Run")
    assert picture.mode == "RGB"
    assert picture.size == (990, int((2 * 2.6 + 0.6) * 110))
    total, divergence = figures[0].axes  # the third panel has no values
    blue = BLUE
    # No line leads from one phase to the next: other weights, another objective.
    assert points(total) == [(blue, [10, 20], [3.0, 2.0]), (blue, [30], [1.5]), (blue, [20], [2.5])]
    assert points(divergence) == [(blue, [10, 20], [100.0, 1.0]), (blue, [30], [0.5])]
    assert (total.get_ylabel(), divergence.get_ylabel()) == ("loss", "image KL, log scale")
    assert divergence.get_xlabel() == "step"
    assert [text.get_text() for text in divergence.get_legend().get_texts()] == ["image KL"]
    assert (total.get_yscale(), divergence.get_yscale()) == ("linear", "log")
    assert [text.get_text() for text in total.get_legend().get_texts()] == ["training", "validation"]
    for axis in (total, divergence):
        (border,) = (line for line in axis.get_lines() if line.get_linestyle() == "--")
        assert set(border.get_xdata()) == {20}
    assert [text.get_text() for text in total.texts] == ["first", "second"]


def test_the_only_phase_is_not_named(figures):
    curves.losses(RECORDS[:4], {"Total": ["loss"]})
    assert list(figures[0].axes[0].texts) == []


def test_signed_values_have_a_linear_axis(figures):
    curves.losses([{"step": 1, "loss": -1.0}, {"step": 2, "loss": 100.0}], {"Total": ["loss"]})
    assert figures[0].axes[0].get_yscale() == "linear"


def test_shares_have_a_linear_axis_too(figures):
    records = [{"step": step, "real_accuracy": step / 100, "loss": step / 100} for step in (1, 20, 99)]
    curves.losses(records, {"Accuracy": ["real_accuracy"], "Loss": ["loss"]})
    accuracy, loss = figures[0].axes
    assert (accuracy.get_yscale(), loss.get_yscale()) == ("linear", "log")


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0.15, 6.0), {"0.2", "0.5", "1", "2", "5"}), ((2.0, 4000.0), {"10", "100", "1,000"})],
)
def test_the_numbers_of_a_logarithmic_axis_are_written_out(figures, values, expected):
    curves.losses([{"step": step, "kl": value} for step, value in enumerate(values)], {"KL": ["kl"]})
    (axis,) = figures[0].axes
    low, high = axis.get_ylim()
    ticks = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    assert {label.get_text() for place, label in ticks if low <= place <= high} == expected
    assert not any(label.get_text() for label in axis.get_yticklabels(minor=True))


def test_the_legend_names_only_what_is_drawn(figures):
    """Curves without validation are no pale companions of others."""
    curves.losses(RECORDS[:3], {"Loss": ["loss"]})
    (axis,) = figures[0].axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["training"]
    assert {line.get_alpha() for line in axis.get_lines()} == {0.9}


def test_a_single_value_of_training_is_a_dot(figures):
    curves.losses([RECORDS[1], RECORDS[3]], {"Loss": ["loss"]})
    (axis,) = figures[0].axes
    assert all(line.get_marker() not in ("", "None", None) for line in axis.get_lines())


def test_a_narrow_figure_has_its_legend_beneath(narrow_figures):
    picture = curves.losses(RECORDS, {"Total": ["loss"], "KL": ["*_kl"]}, title="Run")
    narrow = _narrow.version(picture)
    assert (narrow.width, picture.width) == (484, 990)
    figure = narrow_figures[0]
    renderer = figure.canvas.get_renderer()
    for axis in figure.axes:
        box, place = axis.get_legend().get_window_extent(renderer), axis.get_window_extent(renderer)
        assert place.width > 350
        assert box.y1 < place.y0
        assert box.x0 >= 0
        assert box.x1 <= 484
        assert box.y0 >= 0
    upper, lower = figure.axes
    assert upper.get_legend().get_window_extent(renderer).y0 >= lower.title.get_window_extent(renderer).y1


def test_any_name_can_be_drawn(figures):
    name = "_$\\frac{$ \U0001f9d1 日本\n\x00\ud800"
    records = [{"step": step, "phase": f"{name}{step // 5}", name: float(step)} for step in range(1, 12)]
    picture = curves.losses(records, {name: ["*"]}, title=name)
    assert (np.asarray(picture) < 128).any()
    assert figures[0].axes[0].get_ylabel() == "$\\frac{$ � �� ��, log scale"


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match=r"none of the panels .*'Text'.* of the 6 records.*\['image_kl', 'loss'\]"):
        curves.losses(RECORDS, {"Text": ["text_*"]})
    with pytest.raises(ValueError, match="panel 'All' has 11 metrics, expected at most 10"):
        curves.losses([{"step": 1} | {f"m{i}": 1.0 for i in range(11)}], {"All": ["m*"]})


def run(borders, scale=1.0):
    """Records of three phases that end at these steps."""
    start, records = 0, []
    for phase, end in zip(("first", "second", "third"), borders, strict=True):
        for step in range(start + 10, end + 1, 10):
            records += [
                {"step": step, "phase": phase, "split": "train", "loss": scale / step, "other": 1.0},
                {"step": step, "phase": phase, "split": "validation", "loss": 2 * scale / step},
            ]
        start = end
    return records


def borders(axis):
    return [
        (to_hex(line.get_color()), line.get_xdata()[0]) for line in axis.get_lines() if line.get_linestyle() == "--"
    ]


def test_runs_share_an_axis_and_their_borders(figures):
    picture = curves.runs({"128": run((20, 40, 60)), "256": run((20, 40, 60), 3.0)}, "loss", title="Sizes")
    assert picture.width == 990
    (axis,) = figures[0].axes
    phases = [(10, 20), (30, 40), (50, 60)]
    drawn = {(colour, tuple(steps), tuple(values)) for colour, steps, values in points(axis)}
    assert drawn == {
        (colour, steps, tuple(factor * scale / step for step in steps))
        for colour, scale in ((BLUE, 1.0), (ORANGE, 3.0))
        for factor in (1, 2)
        for steps in phases
    }
    assert borders(axis) == [(to_hex("0.45"), 20), (to_hex("0.45"), 40)]
    assert [text.get_text() for text in axis.texts] == ["first", "second", "third"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["128", "256", "training", "validation"]
    assert axis.get_ylabel() == "loss, log scale"
    # The runs differ in the shape of their points too.
    assert len({line.get_marker() for line in axis.get_lines() if line.get_linestyle() == "-"}) == 3


def test_runs_with_other_borders_show_them_in_their_colour(figures):
    curves.runs({"128": run((20, 40, 60)), "256": run((10, 50, 60))}, "loss")
    (axis,) = figures[0].axes
    assert sorted(borders(axis)) == sorted([(BLUE, 20), (BLUE, 40), (ORANGE, 10), (ORANGE, 50)])
    rows = {}
    for text in axis.texts:
        rows.setdefault(text.xyann[1], []).append((text.get_text(), text.xy[0]))
    upper, lower = (rows[height] for height in sorted(rows, reverse=True))
    assert [start for _, start in upper[1:]] == [20, 40]
    assert [start for _, start in lower[1:]] == [10, 50]
    assert lower[1][0] == "second"


def test_any_run_can_be_drawn(hostile, figures):
    records = [{"step": step, "phase": f"{hostile}{step // 5}", f"x{hostile}": float(step)} for step in range(1, 12)]
    curves.runs({hostile: records, "training": records[:9]}, f"x{hostile}", title=hostile)
    curves.losses(records, {hostile: ["*"]}, title=hostile)
    (axis,) = figures[0].axes
    assert len(axis.get_legend().get_texts()) == 3  # a run may have the name of a split
    assert axis.get_window_extent().width > 300


def test_runs_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="got 0 runs, expected 1 to 10"):
        curves.runs({}, "loss")
    with pytest.raises(ValueError, match="got 11 runs"):
        curves.runs({str(i): RECORDS for i in range(11)}, "loss")
    with pytest.raises(
        ValueError, match=r"run 'b' has no finite value of 'other'; .* 6 records hold \['image_kl', 'loss'\]"
    ):
        curves.runs({"a": run((20, 40, 60)), "b": RECORDS}, "other")


def test_no_global_state_of_matplotlib_changes():
    before = dict(matplotlib.rcParams)
    curves.losses(RECORDS, {"Total": ["loss"]})
    assert dict(matplotlib.rcParams) == before
    code = "import sys, mvae_jax.viz.curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
