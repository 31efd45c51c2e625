"""Logs of a run: metrics.jsonl and TensorBoard events for later, a line of progress for now."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from PIL import Image

from mvae_jax import _json, files
from mvae_jax.train.trackers import Tracker
from mvae_jax.train.workdir import atomic_write, folder_of, set_aside

_log = logging.getLogger(__name__)
_LOG_WIDTH = 160  # columns of a progress line that does not go to a terminal
_VALUES = (int, float, str)  # of a record
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # JSON has no such numbers: written as text


class MetricWriter:
    """Writes `metrics.jsonl` and TensorBoard's `events.*` into a run's folder.

    Method names are those of `clu.metric_writers`. Without tensorboardX only `metrics.jsonl` is written. A
    `metrics.jsonl` with damaged lines goes on without them, and is kept as `metrics.jsonl.damaged`.

    Args:
        workdir: folder of the run.
        resume_step: step from which the run goes on. What was written after it is dropped, for the run writes it
            again. None keeps everything and appends.
        tracker: is told all of it as well, and closed with the files.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], *, resume_step: int | None = None, tracker: Tracker | None = None
    ) -> None:
        self._tracker = tracker
        self._folder = folder = folder_of(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        if path.exists():
            lines, damaged = _read(path)
            if damaged:
                kept = set_aside(path, copy=True)
                _log.warning("%s Going on without them; the file as it was is kept as %s.", damaged, kept.name)
            if resume_step is not None:
                lines = [line for line in lines if line["step"] <= resume_step]
            atomic_write(path, "".join(_to_json(line) for line in lines))
        self._jsonl = path.open("a", encoding="utf-8", buffering=1)  # by line: a kill loses half a line at most
        try:
            self._events: _Events | None = _Events(folder, resume_step)
        except ImportError:
            _log.warning("tensorboardX is not installed: no TensorBoard events, only %s.", path)
            self._events = None

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with contextlib.suppress(OSError) if isinstance(error, OSError) else contextlib.nullcontext():
            self.close()

    def write_scalars(self, step: int, scalars: Mapping[str, Any], **fields: str) -> None:
        """Writes numbers that belong to one step.

        Args:
            step: step of the run.
            scalars: name -> number or scalar array, fetched from the device in one go.
            **fields: what else the line says, such as phase="vae" or split="validation". In TensorBoard `split`
                becomes the first part of the names, which keeps training and validation apart.

        Raises:
            ValueError: a value is not a scalar.
        """
        values = {name: _number(name, value) for name, value in _fetch(scalars).items()}
        line = _to_json(dict(step=int(step), **fields, **values))
        with files.written(self._jsonl.name, len(line)):
            self._jsonl.write(line)
            prefix = f"{fields['split']}/" if "split" in fields else ""
            named = {prefix + name: value for name, value in values.items()}
            if self._events is not None:
                self._events.scalars(step, named)
        if self._tracker is not None:
            self._tracker.write_scalars(int(step), named)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes images to TensorBoard.

        Args:
            step: step of the run.
            images: name -> uint8 [H, W, C] or [N, H, W, C] in [0, 255], with 1, 3 or 4 channels.

        Raises:
            ValueError: an array is not uint8 [H, W, C] or [N, H, W, C] with 1, 3 or 4 channels.
        """
        frames: dict[str, np.ndarray] = {}
        for name, array in _fetch(images).items():
            if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, 4):
                raise ValueError(
                    f"image {name!r} is {array.dtype} {array.shape}, expected uint8 [H, W, C] or [N, H, W, C] with "
                    "1, 3 or 4 channels; mvae_jax.images.to_uint8 converts from [-1, 1]."
                )
            frames |= {name: array} if array.ndim == 3 else {f"{name}/{n}": frame for n, frame in enumerate(array)}
        if self._events is not None:
            with files.written(self._folder / "events", sum(frame.nbytes for frame in frames.values())):
                self._events.images(step, frames)
        if self._tracker is not None:
            self._tracker.write_images(int(step), frames)

    def flush(self) -> None:
        """Forces everything written so far to disk."""
        with files.written(self._jsonl.name):
            self._jsonl.flush()
            os.fsync(self._jsonl.fileno())
        if self._events is not None:
            with files.written(self._folder / "events"):
                self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        if not self._jsonl.closed:
            with contextlib.ExitStack() as files_of_run:  # each is closed, whatever becomes of the others
                files_of_run.callback(self._jsonl.close)
                if self._tracker is not None:
                    files_of_run.callback(self._tracker.close)
                if self._events is not None:
                    files_of_run.callback(self._events.close)
                self.flush()


class SilentWriter(MetricWriter):
    """Writes nothing: for all processes of a run but one."""

    def __init__(self) -> None:
        pass

    def write_scalars(self, step: int, scalars: Mapping[str, Any], **fields: str) -> None:
        """Does nothing."""

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a metrics.jsonl, one dict per line, with numbers that are not finite restored.

    Damaged lines are passed over with a warning, and a last line that a killed process left unfinished without one.

    Args:
        path: the file.
    """
    records, damaged = _read(Path(path))
    if damaged:
        _log.warning("%s They are passed over.", damaged)
    return records


def _read(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The intact records of a metrics.jsonl, and a sentence that tells which lines are damaged, "" if none is."""
    lines = path.read_bytes().split(b"\n")
    records, damaged = [], []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break is unfinished
        try:
            record = {name: _from_json(value) for name, value in _json.loads(line).items()}
        except (ValueError, AttributeError, RecursionError):
            record = {}
        if type(record.get("step")) is int and all(isinstance(value, _VALUES) for value in record.values()):
            records.append(record)
        else:
            damaged.append(number)
    if not damaged:
        return records, ""
    first = lines[damaged[0] - 1].decode(errors="replace")[:80]
    numbers = ", ".join(map(str, damaged[:10])) + (", ..." if len(damaged) > 10 else "")
    return records, (
        f"{path} has {len(damaged)} damaged line{'s' if len(damaged) > 1 else ''} ({numbers}): expected a JSON object "
        f"with a step, a whole number, found {first!r}."
    )


class _Events:
    """TensorBoard's file format, through tensorboardX's synchronous writer.

    Its `SummaryWriter` sends events through a queue and a thread, so that a kill would lose up to two minutes.
    """

    _FLUSH_SECONDS = 10.0  # for those who watch; forcing each event to disk would cost too much

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2, summary_pb2
        # The suffix tells apart two writers of one second; names stay in the order in which TensorBoard reads them.
        self._writer = event_file_writer.EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._flushed = time.monotonic()
        if resume_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(resume_step + 1, session_log=start)  # hides earlier events from this step on

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._write_values(step, [dict(tag=name, simple_value=float(value)) for name, value in scalars.items()])

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._write_values(step, [dict(tag=name, image=self._encode(image)) for name, image in images.items()])

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()

    def _encode(self, image: np.ndarray) -> Any:
        height, width, channels = image.shape
        png = io.BytesIO()
        Image.fromarray(image[..., 0] if channels == 1 else image).save(png, format="PNG")
        return self._summary.Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue()
        )

    def _write_values(self, step: int, values: list[dict[str, Any]]) -> None:
        summary = self._summary.Summary
        self._write(step, summary=summary(value=[summary.Value(**value) for value in values]))

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._event.Event(step=int(step), wall_time=time.time(), **content))
        if time.monotonic() - self._flushed >= self._FLUSH_SECONDS:
            self.flush()


class Progress:
    """Says every few seconds how far a phase is: a line each time, or on a terminal one line that is updated.

    Args:
        interval: seconds between lines.
        silent: say nothing.
        stream: where to write; standard error by default.
        clock: seconds, from any origin.
    """

    def __init__(
        self,
        *,
        interval: float = 5.0,
        silent: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = math.inf if silent else interval
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._in_place = self._stream.isatty()
        self._open_line = False
        self._gone = contextlib.suppress(OSError)  # a terminal or a reader that has gone: the run does without

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(
        self, phase: str, end: int, batch_size: int, later: Callable[[int, float], float] = lambda step, seconds: 0.0
    ) -> None:
        """Begins a phase.

        Args:
            phase: its name.
            end: step at which it ends.
            batch_size: examples per step.
            later: (step, seconds per step) -> seconds that the run takes after the phase.
        """
        self.close()
        self._later = later
        self._phase, self._end, self._batch_size = phase, end, batch_size
        # Speed is that of the last minute or so. It counts from the first update, which comes after compilation.
        self._marks: collections.deque[tuple[float, int]] = collections.deque(maxlen=12)

    def update(self, step: int, metrics: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None) -> None:
        """Writes a line if one is due; otherwise costs next to nothing.

        Args:
            step: steps of the run that are done.
            metrics: name -> number or scalar array, the most important first, or a function that returns them;
                those that fit are shown. They are fetched from the device only for a line that is written.
        """
        if not self._marks:
            self._marks.append((self._clock(), step))
        elif self._clock() - self._marks[-1][0] >= self._interval:
            values = _fetch(
                (metrics() if callable(metrics) else metrics) or {}
            )  # waits for the device, so the clock is read after it
            self._marks.append((self._clock(), step))
            (begun, first), (now, last) = self._marks[0], self._marks[-1]
            self._write(step, (last - first) / (now - begun), values)

    def close(self) -> None:
        """Ends the line that was updated in place, if there is one."""
        if self._open_line:
            with self._gone:
                self._stream.write("\n")
                self._stream.flush()
            self._open_line = False

    def _write(self, step: int, rate: float, metrics: Mapping[str, Any]) -> None:
        width = shutil.get_terminal_size().columns - 1 if self._in_place else _LOG_WIDTH
        line = format_progress(
            self._phase,
            step,
            self._end,
            rate=rate,
            batch_size=self._batch_size,
            metrics=metrics,
            width=width,
            bar=self._in_place,
            later=self._later(step, 1 / rate) if rate > 0 else 0.0,
        )
        with self._gone:
            self._stream.write(f"\r{line}\x1b[K" if self._in_place else f"{line}\n")
            self._stream.flush()
        self._open_line = self._in_place


def format_progress(
    phase: str,
    step: int,
    end: int,
    *,
    rate: float,
    batch_size: int,
    metrics: Mapping[str, Any],
    width: int,
    bar: bool = False,
    later: float = 0.0,
) -> str:
    """One line of progress.

    Args:
        phase: name of the phase.
        step: steps of the run that are done.
        end: step at which the phase ends.
        rate: steps per second.
        batch_size: examples per step.
        metrics: name -> number; from the first on as many as fit.
        width: columns that the line may take.
        bar: whether to draw a bar, where there is room for it.
        later: seconds that the run takes after the phase.

    Returns:
        A line of at most `width` characters.
    """
    remaining = (end - step) / rate + later if rate > 0 else math.inf
    line = f"{phase} {step}/{end}  {rate * batch_size:.4g} images/s  ETA {format_duration(remaining)}"
    cells = 20
    if bar and len(line) + cells + 3 <= width:
        done = min(cells, cells * step // max(end, 1))
        line = f"[{'#' * done}{'.' * (cells - done)}] {line}"
    for name, value in metrics.items():
        longer = f"{line}  {name} {float(value):.4g}"
        if len(longer) > width:
            break
        line = longer
    return line[:width]


def format_duration(seconds: float) -> str:
    """Formats a duration: "0:05", "1:02:03", "2d 3:04:05"; "?" if it is not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _fetch(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Fetches all values at once, and unlike `jax.device_get` of a dict keeps their order."""
    return dict(zip(arrays, jax.device_get(list(arrays.values())), strict=True))


def _number(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.ndim:
        raise ValueError(f"metric {name!r} has shape {array.shape}, expected a scalar.")
    return array.item()


def _from_json(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _to_json(record: Mapping[str, Any]) -> str:
    finite = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
