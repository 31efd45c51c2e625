"""metrics.jsonl and TensorBoard events hold what was written, also after a kill; progress fits its line."""

import io
import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from event_files import read_events, shown
from PIL import Image
from tensorboardX.proto.event_pb2 import SessionLog

from mvae_jax.train.logging import (
    MetricWriter,
    Progress,
    format_duration,
    format_progress,
    read_metrics,
)


def test_scalars_are_written_to_both(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write_scalars(3, {"loss": jnp.float32(0.1), "gan/r1": 2}, phase="vae", split="validation")
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1  # line-buffered: nothing waits for a flush
        writer.write_scalars(4, {"loss": np.float64(0.25)})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 3, "phase": "vae", "split": "validation", "loss": float(np.float32(0.1)), "gan/r1": 2},
        {"step": 4, "loss": 0.25},
    ]
    first, *events = read_events(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert [(event.step, [(value.tag, value.simple_value) for value in event.summary.value]) for event in events] == [
        (3, [("validation/loss", np.float32(0.1)), ("validation/gan/r1", 2.0)]),
        (4, [("loss", 0.25)]),
    ]


def test_numbers_that_are_not_finite_leave_valid_json(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write_scalars(1, {"a": jnp.nan, "b": np.inf, "c": -math.inf, "d": True})
    line = (tmp_path / "metrics.jsonl").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(line, parse_constant=refuse) == {"step": 1, "a": "nan", "b": "inf", "c": "-inf", "d": True}
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(record["a"])
    assert (record["b"], record["c"]) == (math.inf, -math.inf)
    values = {value.tag: value.simple_value for value in read_events(tmp_path)[1].summary.value}
    assert math.isnan(values["a"])
    assert (values["b"], values["d"]) == (math.inf, 1.0)


def test_only_scalars_are_scalars(tmp_path):
    with MetricWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match=r"'loss' has shape \(2,\)"):
            writer.write_scalars(1, {"loss": jnp.zeros(2)})
        with pytest.raises(TypeError, match="phase"):
            writer.write_scalars(1, {"phase": 1.0}, phase="vae")
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("torn", ["", '{"step": 40, "loss": 0.', '{"step": 4'])
def test_resume_drops_what_came_after_the_checkpoint(tmp_path, torn):
    with MetricWriter(tmp_path, resume_step=0) as writer:
        for step in (10, 20, 30):
            writer.write_scalars(step, {"loss": step / 8 if step < 30 else jnp.nan})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with MetricWriter(tmp_path, resume_step=20) as writer:
        writer.write_scalars(30, {"loss": 0.5})
    expected = [{"step": 10, "loss": 1.25}, {"step": 20, "loss": 2.5}, {"step": 30, "loss": 0.5}]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    events = read_events(tmp_path)
    assert len(list(tmp_path.glob("events.*"))) == 2
    starts = [event.step for event in events if event.session_log.status == SessionLog.START]
    assert starts == [1, 21]
    assert shown(tmp_path) == {(10, "loss"): 1.25, (20, "loss"): 2.5, (30, "loss"): 0.5}


def test_appending_keeps_all_but_a_torn_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": "nan"}\n{"step": 2, "a"')
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    with MetricWriter(tmp_path) as writer:
        writer.write_scalars(3, {"a": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": "nan"}\n{"step": 3, "a": 1.0}\n'


DAMAGE = {
    "no JSON": b"nonsense",
    "no object": b"[1]",
    "no step": b'{"sdep": 2, "loss": 0.5}',
    "a step that is no number": b'{"step": "2", "loss": 0.5}',
    "a step that is no whole number": b'{"step": 2.5, "loss": 0.5}',
    "a value that is none": b'{"step": 2, "loss": null}',
    "two lines in one": b'{"step": 2, "loss": 0.5}{"step": 3, "loss": 0.5}',
    "no text": b'{"step": 2, "lo\xff\x80": 0.5',
    "zeros": bytes(40),
    "nothing": b"",
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("line", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_line_stops_nobody_and_is_kept(tmp_path, caplog, line):
    path = tmp_path / "metrics.jsonl"
    damaged = b'{"step": 1, "loss": "nan"}\n' + line + b'\n{"step": 4, "loss": 0.25}\n'
    path.write_bytes(damaged)
    assert [record["step"] for record in read_metrics(path)] == [1, 4]
    assert f"{path} has 1 damaged line (2): expected a JSON object with a step" in caplog.text
    assert path.read_bytes() == damaged  # who only reads changes nothing
    for _ in range(2):
        with MetricWriter(tmp_path, resume_step=4) as writer:
            writer.write_scalars(5, {"loss": 0.5})
    assert [record["step"] for record in read_metrics(path)] == [1, 4, 5]
    assert "the file as it was is kept as metrics.jsonl.damaged." in caplog.text
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damaged
    assert len(list(tmp_path.glob("metrics.jsonl*"))) == 2


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_come_back(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, channels), np.uint8)
    with MetricWriter(tmp_path) as writer:
        writer.write_images(7, {"samples": jnp.array(images), "grid": images[0]})
    event = read_events(tmp_path)[1]
    assert event.step == 7
    expected = {"samples/0": images[0], "samples/1": images[1], "grid": images[0]}
    assert [value.tag for value in event.summary.value] == list(expected)
    for value in event.summary.value:
        assert (value.image.height, value.image.width, value.image.colorspace) == (5, 4, channels)
        decoded = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
        np.testing.assert_array_equal(decoded.reshape(5, 4, channels), expected[value.tag])


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8)]
)
def test_other_arrays_are_no_images(tmp_path, array):
    with MetricWriter(tmp_path) as writer, pytest.raises(ValueError, match=r"image 'grid' is .* expected uint8"):
        writer.write_images(1, {"grid": array})


def test_without_tensorboardx_the_numbers_are_still_written(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with MetricWriter(tmp_path) as writer:
        writer.write_scalars(1, {"loss": 0.5})
        writer.write_images(1, {"grid": np.zeros((2, 2, 3), np.uint8)})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
    assert "no TensorBoard events" in caplog.text
    assert not list(tmp_path.glob("events.*"))


def test_tensorflow_stays_out():
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (86400 * 2 + 3 * 3600 + 4 * 60 + 5, "2d 3:04:05"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


METRICS = {"loss": 12.34567, "kl": float("nan"), "r1": 1e-7}


def test_format_progress():
    line = format_progress("vae", 300, 1000, rate=10.0, batch_size=16, metrics=METRICS, width=160)
    assert line == "vae 300/1000  160 images/s  ETA 1:10  loss 12.35  kl nan  r1 1e-07"
    line = format_progress("vae", 300, 1000, rate=10.0, batch_size=16, metrics=METRICS, width=49)
    assert line == "vae 300/1000  160 images/s  ETA 1:10  loss 12.35"
    line = format_progress("vae", 300, 1000, rate=0.0, batch_size=16, metrics={}, width=160, bar=True)
    assert line == "[######..............] vae 300/1000  0 images/s  ETA ?"


def test_the_time_left_is_that_of_the_whole_run():
    asked = []

    def later(step, step_seconds):
        asked.append((step, step_seconds))
        return 100.0

    stream, now = io.StringIO(), [0.0]
    progress = Progress(interval=5.0, stream=stream, clock=lambda: now[0])
    progress.start("vae", end=30, batch_size=16, later=later)
    for step in range(1, 22):
        now[0] += 0.5
        progress.update(step, {})
    assert asked == [(11, 0.5), (21, 0.5)]
    assert stream.getvalue().splitlines() == [
        "vae 11/30  32 images/s  ETA 1:50",  # 19 steps of half a second, and what follows
        "vae 21/30  32 images/s  ETA 1:44",
    ]


@pytest.mark.parametrize("step", [0, 1000, 1200])
@pytest.mark.parametrize("width", [0, 1, 9, 40, 59, 60, 61, 80])
def test_progress_never_exceeds_the_width(width, step):
    line = format_progress("vae", step, 1000, rate=10.0, batch_size=16, metrics=METRICS, width=width, bar=True)
    assert len(line) <= width
    assert line.count("[") == line.count("]")
    assert f"vae {step}/1000"[:width] in line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def watch(stream, seconds_per_step, steps):
    now = [0.0]
    progress = Progress(interval=5.0, stream=stream, clock=lambda: now[0])
    progress.start("vae", end=1000, batch_size=16)
    for step in range(1, steps + 1):
        # The first step takes long, as if it were compiled.
        now[0] += seconds_per_step if step > 1 else 1000.0
        progress.update(step, {"loss": jnp.float32(step), "kl": 0.5})
    return progress


def test_progress_writes_a_line_every_few_seconds():
    stream = io.StringIO()
    watch(stream, seconds_per_step=0.5, steps=25).close()
    assert stream.getvalue().splitlines() == [
        "vae 11/1000  32 images/s  ETA 8:14  loss 11  kl 0.5",
        "vae 21/1000  32 images/s  ETA 8:10  loss 21  kl 0.5",
    ]


def test_progress_updates_one_line_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    progress = watch(stream, seconds_per_step=0.5, steps=25)
    progress.start("gan", end=10, batch_size=1)
    progress.close()
    text = stream.getvalue()
    assert text.count("\n") == 1
    first, second, third = text.split("\r")
    assert first == ""
    assert third.endswith("\x1b[K\n")
    assert all(len(line.split("\x1b")[0]) < 60 for line in (second, third))
    assert third.startswith("[....................] vae 21/1000  32 images/s")


def test_metrics_are_fetched_only_for_a_line():
    fetched = []

    class Scalar:
        def __array__(self, dtype=None, copy=None):
            fetched.append(None)
            return np.float32(1.0)

    now = [0.0]
    progress = Progress(interval=5.0, stream=io.StringIO(), clock=lambda: now[0])
    progress.start("vae", end=100, batch_size=1)
    for step in range(1, 13):
        now[0] += 1.0
        progress.update(step, {"loss": Scalar()})
    assert len(fetched) == 2
