"""Whole runs: sides train the same network from a command to the disk, and what differs or is missing is refused."""

import argparse
import json
import os
import sys

import _benchmark_worker as worker
import numpy as np
import pytest
import whole_runs
from _measuring import Disagreement

from mvae_jax.models import autoencoders

pytestmark = pytest.mark.slow  # serves the repository

PYTHAE = os.environ.get("MVAE_JAX_PYTHAE_PYTHON", "")
TINY = autoencoders.VAEConfig(
    image_size=16, widths=(4, 8, 8), latent_size=4, epochs=2, batch_size=8, learning_rate=1e-3, observation_scale=1.0
)


def measured(*sides, python=sys.executable):
    """A round of a tiny model at any load."""
    arguments = argparse.Namespace(rounds=1, patience=0, most_load=1.0, images=20)
    return whole_runs.measure(arguments, TINY, {side: python if side == "pythae" else sys.executable for side in sides})


def test_ours_and_flax_train_the_same_network(tmp_path):
    record = measured("ours", "flax")
    assert list(record["sides"]) == ["ours, cold", "ours, cached", "flax"]
    # Kernels, gains and biases of encoder and decoder, by hand.
    encoder = 16 * (3 * 4 + 4 * 8 + 8 * 8 + 8 * 4) + 2 * (4 + 8 + 8) + 2 * (4 * 4 + 4)
    decoder = 4 * 8 + 16 * (8 * 8 + 8 * 4 + 4 * 3) + 4 + 25 * 3 * 3 + 2 * (8 + 8 + 4 + 3)
    assert record["parameters"] == encoder + decoder
    assert record["images"] == 24  # three whole batches
    cold, cached, flax = record["sides"].values()
    assert cold["ratios"]["ours, cached"] > 1
    assert cold["loss"] == cached["loss"] == pytest.approx(flax["loss"], rel=0.3)
    assert 5 < flax["loss"] < 100
    for side in record["sides"].values():
        assert side["images_per_second"] > 0
        assert side["peak_bytes"] > 2**27
    lines = [*whole_runs.describe(record), *whole_runs.markdown(record)]
    assert f"{encoder + decoder:,} parameters, 2 epochs of 24 images of 16 px" in lines[0]
    assert lines[-1].startswith("| flax | ")
    json.dumps(record)


@pytest.mark.skipif(not PYTHAE, reason="MVAE_JAX_PYTHAE_PYTHON names no interpreter that has PyTorch and pythae")
def test_pythae_trains_the_same_network():
    ours, _, theirs = measured("ours", "pythae", python=PYTHAE)["sides"].values()
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=0.3)


def test_images_fill_whole_batches_and_a_tenth_is_held_out(tmp_path):
    for asked, train in ((1, 8), (8, 8), (20, 24), (80, 80)):
        settings = whole_runs.settings_of(TINY, asked, tmp_path)
        images = np.load(settings["images"])["image"]
        data = worker.runs.plan("vae", TINY, {"image": images}).data
        assert settings["train"] == len(data.train) == train
        assert images.shape[1:] == (16, 16, 3)
        assert images.std() > 30


def test_a_script_that_fails_shows_what_it_printed(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)_our_run.py ended with status 1:.*KeyError: 'programs'"):
        whole_runs.run_side(sys.executable, "_our_run.py", {})


def test_sides_must_train_the_same():
    assert whole_runs.check_counts({"ours": 5, "flax": 5}) == 5
    with pytest.raises(Disagreement, match="ours 5,000, flax 5,001 parameters: not the same model"):
        whole_runs.check_counts({"ours": 5000, "flax": 5001})
    whole_runs.check_losses({"ours": 3.0, "flax": 5.0})
    for theirs in (7.0, 1.4, float("nan")):
        with pytest.raises(Disagreement, match="within a factor of two"):
            whole_runs.check_losses({"ours": 3.0, "flax": theirs})


def test_summary_takes_ratios_within_quiet_rounds():
    def turn(quiet, **seconds):
        run = {"epoch_ends": [3.0, 4.0, 5.0], "losses": [9.0, 7.0], "peak_bytes": 1}
        return {"quiet": quiet, "sides": {name: run | {"seconds": value} for name, value in seconds.items()}}

    names = ("ours, cold", "ours, cached", "flax")
    rounds = [
        turn(quiet, **dict(zip(names, seconds, strict=True)))
        for quiet, seconds in ((True, (4, 2, 8)), (True, (8, 8, 8)), (False, (1, 1, 90)))
    ]
    found = whole_runs.summarise(rounds, 100)
    assert (found["quiet_rounds"], found["used_rounds"]) == (2, 2)
    flax = found["sides"]["flax"]
    assert flax["ratios"] == {"ours, cold": 1.5, "ours, cached": 2.5}
    assert (flax["median"], flax["images_per_second"], flax["loss"]) == (8, 100, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the side pythae needs --pythae-python"),
        (["--pythae-python=/no/such/python"], "does not run"),
        ([f"--pythae-python={sys.executable}"], "has no torch; expected torch==2.13.0 and pythae==0.1.2"),
        (["--sides=ours,keras"], "--sides has 'keras'; choose of ours, pythae, flax"),
        (["--sides=ours", "--epochs=1"], "--epochs is 1; expected at least 2"),
        (["--sides=ours", "--images=0"], "--images is 0; expected at least 1"),
        (["--sides=ours", "--rounds=0"], "--rounds is 0; expected at least 1"),
    ],
)
def test_mistakes_end_with_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        whole_runs.main(arguments)
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
