"""What an experiment leaves that was disturbed and has gone on to its end: the bits of one that nobody disturbed."""

import json

import jax
import numpy as np
from PIL import Image

from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.logging import read_metrics

OF_THE_LOG = ("gradient_norms", "images_per_second")


def states(workdir):
    """The state at the end of every phase of every model: {path: arrays by name}."""
    found = {}
    for path in sorted(workdir.rglob("checkpoints/*/*/manifest.json")):
        phase, step = path.parts[-3], int(path.parts[-2])
        with Checkpoints(path.parents[3], [phase]) as checkpoints:
            if checkpoints.metadata(phase, step)["final"]:
                state = checkpoints.restore(phase, step)
                found[str(path.parent.relative_to(workdir))] = {
                    jax.tree_util.keystr(name): np.asarray(leaf)
                    for name, leaf in jax.tree.leaves_with_path({**state, "key": jax.random.key_data(state["key"])})
                }
    return found


def validations(workdir):
    """What was measured while the models trained: {path: records}."""
    return {
        str(path.relative_to(workdir)): [line for line in read_metrics(path) if line["split"] == "validation"]
        for path in sorted(workdir.rglob("metrics.jsonl"))
    }


def scores(workdir):
    """Content of scores.json, without what comes from lines of the log, whose means begin anew with each start."""

    def timeless(value):
        if not isinstance(value, dict):
            return value
        return {key: timeless(entry) for key, entry in value.items() if key not in OF_THE_LOG}

    return timeless(json.loads((workdir / "scores.json").read_text()))


def check_same(workdir, undisturbed):
    """States, records and scores are those of the other workdir, bit by bit."""
    expected, found = states(undisturbed), states(workdir)
    assert found.keys() == expected.keys() != set()
    for path, arrays in expected.items():
        assert found[path].keys() == arrays.keys()
        for leaf, array in arrays.items():
            np.testing.assert_array_equal(found[path][leaf], array, err_msg=f"{path} {leaf}")
    assert validations(workdir) == validations(undisturbed)
    assert scores(workdir) == scores(undisturbed)


def check_whole(workdir, undisturbed):
    """All is there that `stopped` leaves when nobody disturbs it, with those scores, and nothing half written."""
    assert json.loads((workdir / "scores.json").read_text()) == undisturbed
    assert json.loads((workdir / "finished.json").read_text())["scores"] == undisturbed
    with Image.open(workdir / "figures" / "reconstructions.png") as picture:
        picture.load()
    assert "What comes back" in (workdir / "report.html").read_text()
    assert not list(workdir.rglob(".*"))
