"""Trackio and Weights & Biases, where they are installed, offline: what they keep is what a run has told them."""

import json
import os
import sqlite3
import struct
import subprocess
import sys

import pytest
from command_lines import ROOT

from mvae_jax.train import loop, trackers

# In a process of its own: both keep threads, and read their folders from the environment when they are imported.
TELL = """
import sys
import numpy as np
from pathlib import Path
from mvae_jax.train import trackers
from mvae_jax.train.logging import MetricWriter
name, folder = sys.argv[1:]
sheet = np.zeros((8, 16, 3), np.uint8)
with MetricWriter(folder, tracker=trackers.start(name, Path(folder))) as writer:
    writer.write_scalars(2, {"loss": 0.5}, phase="vae", split="train")
    writer.write_scalars(3, {"loss": 0.25}, phase="vae", split="validation")
    writer.write_images(3, {"held-out images": sheet})
# It was killed after step 2, and goes on.
with MetricWriter(folder, resume_step=2, tracker=trackers.start(name, Path(folder))) as writer:
    writer.write_scalars(3, {"loss": 0.125}, phase="vae", split="validation")
"""


def tell(name, folder, environment):
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment}
    command = [sys.executable, "-c", TELL, name, str(folder)]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_trackio_keeps_what_it_is_told(tmp_path):
    pytest.importorskip("trackio")
    folder = tmp_path / "run"
    folder.mkdir()
    tell("trackio", folder, {"TRACKIO_DIR": str(tmp_path / "kept"), "HF_HUB_OFFLINE": "1"})
    (database,) = (tmp_path / "kept").glob("*.db")
    with sqlite3.connect(database) as kept:
        rows = [
            (run, step, json.loads(metrics))
            for run, step, metrics in kept.execute("select run_name, step, metrics from metrics order by id")
        ]
    assert {run for run, _, _ in rows} == {trackers._name(folder)}
    scalars = [(step, name, value) for _, step, metrics in rows for name, value in metrics.items() if "/" in name]
    assert scalars == [(2, "train/loss", 0.5), (3, "validation/loss", 0.25), (3, "validation/loss", 0.125)]
    assert any("held-out images" in metrics for _, _, metrics in rows)
    assert list((tmp_path / "kept").rglob("*.png"))


def test_weights_and_biases_keeps_what_it_is_told(tmp_path):
    wandb = pytest.importorskip("wandb")
    folder = tmp_path / "run"
    folder.mkdir()
    tell("wandb", folder, {"WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    assert wandb.__version__
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {path.stem.removeprefix("run-") for path in files} == {trackers._name(folder)}
    rows = [row for path in files for row in history(path)]
    scalars = [(row["step"], name, row[name]) for row in rows for name in row if name.endswith("/loss")]
    assert scalars == [(2, "train/loss", 0.5), (3, "validation/loss", 0.25), (3, "validation/loss", 0.125)]
    assert list(folder.glob("wandb/offline-run-*/files/media/images/held-out images*.png"))


def history(path):
    """Rows that a file of Weights & Biases keeps: blocks of LevelDB's log, each record a message of protobuf."""
    from wandb.proto import wandb_internal_pb2

    data, place, record, rows = path.read_bytes(), 7, b"", []
    while place + 7 < len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record()
            message.ParseFromString(record)
            record = b""
            if message.WhichOneof("record_type") == "history":
                items = message.history.item
                rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_a_tracker_that_is_unknown_or_not_there_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="tracker is 'mlflow'; expected 'trackio', 'wandb', or '' for none"):
        loop.Settings(tracker="mlflow")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="tracker is 'wandb', which is not installed: pip install wandb"):
        loop.Settings(tracker="wandb")


def test_without_one_nothing_is_told(tmp_path):
    assert trackers.start("", tmp_path) is None
    assert loop.Settings().tracker == ""


def test_runs_have_names_of_their_own(tmp_path):
    one, other = (trackers._name(tmp_path / place / "vae") for place in ("a", "b"))
    assert one != other
    assert one == trackers._name(tmp_path / "a" / ".." / "a" / "vae")
    assert one.startswith("a-vae-")
