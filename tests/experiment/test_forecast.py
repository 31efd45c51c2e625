"""The time that a run has left, of all that it trains and of what follows."""

import pytest
import toy

from mvae_jax.experiment import forecast
from mvae_jax.experiment.forecast import Forecast, Part


def test_phases_are_parts_with_the_pixel_values_of_a_step():
    first, second = forecast.parts("vae", toy.phases(second={"image_size": (8, 4)}))
    assert (str(first), first.steps, first.values) == ("vae, first", 6, 4 * 64 * 64)
    assert (second.steps, second.values) == (9, 4 * 8 * 4)
    assert str(*forecast.parts("", toy.phases()[:1])) == "first"


def test_what_is_to_come_takes_its_operations_at_the_measured_speed():
    parts = [Part("", "a", 10, 100.0, 5.0), Part("", "b", 4, 100.0, 15.0), Part("", "c", 2, 100.0, 2.5)]
    expected = 4 * 0.2 * 3 + 2 * 0.2 / 2 + 7
    assert Forecast(parts, after=7.0).later(0, 0.2) == pytest.approx(expected)
    assert Forecast(parts, after=7.0).later(1, 0.6) == pytest.approx(2 * 0.6 / 6 + 7)
    assert Forecast(parts, after=7.0).later(2, 9.0) == 7


def test_without_operations_it_takes_its_pixels_at_the_speeds_measured_so_far():
    parts = [Part("a", "p", 10, 100.0), Part("b", "p", 10, 200.0), Part("c", "p", 10, 100.0)]
    times = Forecast(parts)
    assert times.later(0, 1.0) == pytest.approx(10 * 2.0 + 10 * 1.0)
    assert times.later(1, 6.0) == pytest.approx(10 * (0.01 + 0.03) / 2 * 100)


def test_steps_count_over_all_parts():
    times = Forecast([Part("", "a", 10, 1.0), Part("", "b", 4, 1.0)])
    assert (times.steps, times.steps_before(0), times.steps_before(1)) == (14, 0, 10)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (20, "less than a minute left"),
        (61, "about 1 minute left"),
        (250, "about 4 minutes left"),
        (5399, "about 90 minutes left"),
        (7300, "about 2 hours left"),
    ],
)
def test_the_time_left_is_as_precise_as_it_can_be_known(seconds, text):
    assert forecast.words(seconds) == text
