"""Members that train on a part of the data: which part, what config.json says of it, and what resumption needs."""

import dataclasses
import json

import numpy as np
import pytest

from mvae_jax import runs
from mvae_jax.data import missing
from mvae_jax.data.batches import Splits
from mvae_jax.experiment import Member, members
from mvae_jax.models import autoencoders, multimodal_vaes
from mvae_jax.models.multimodal_vaes import Modality
from mvae_jax.train import loop

NAMES = ("smiling", "red_car")
RNG = np.random.default_rng(0)
DATA = Splits.cut(
    {
        "image": RNG.integers(0, 256, (40, 4, 4, 1)).astype(np.uint8),
        "attributes": RNG.integers(0, 2, (40, 2)).astype(np.float32),
    },
    *(32, 6, NAMES, {"data_set": "by hand"}),
)
CONFIG = multimodal_vaes.MVAEConfig(
    modalities=(
        Modality("image", (4, 4, 1), network="dense", widths=(3,)),
        Modality("attributes", (2,), "bernoulli", network="dense", widths=(3,), labels=NAMES),
    ),
    latent_size=2,
    epochs=1,
    batch_size=16,
    warmup_epochs=0,
)
HALF = Member("mvae", CONFIG, 3, hidden={"attributes": 0.5})
SETTINGS = loop.Settings()


def train(member, folder):
    return members.train_in_folder(member, members.plan({"": member}, DATA, SETTINGS)[""], DATA, folder)


def test_members_see_their_own_part_of_the_data():
    images = autoencoders.AutoencoderConfig(image_size=4, channels=1, network="dense", widths=(3,), epochs=1)
    images = dataclasses.replace(images, latent_size=2, batch_size=16)
    plans = members.plan(
        {
            "half": HALF,
            "other_half": dataclasses.replace(HALF, seed=4),
            "all": dataclasses.replace(HALF, hidden={}),
            "most": dataclasses.replace(HALF, hidden={"attributes": 0.75}),
            "complete": Member("autoencoder", images, 3, hidden={"attributes": 0.75}, needs=("attributes",)),
            "images": Member("autoencoder", images, 3, hidden={"attributes": 0.75}),
        },
        DATA,
        SETTINGS,
    )
    there = {name: plan.data.train.present("attributes") for name, plan in plans.items()}
    assert {name: mask.sum() for name, mask in there.items()} == {
        **{"half": 16, "other_half": 16, "all": 32, "most": 8, "complete": 32, "images": 8}
    }
    hidden = missing.hide(DATA, {"attributes": 0.5}, 3).train
    for name, array in plans["half"].data.train.arrays.items():
        np.testing.assert_array_equal(array, hidden[name])
    assert (there["half"] != there["other_half"]).any()
    assert plans["all"].data is DATA
    assert plans["images"].data is plans["most"].data  # the same part is in memory once
    # Those that differ in their seed alone are checked once; the share makes another program of it.
    assert plans["half"].model is plans["other_half"].model
    assert plans["half"].model is not plans["most"].model
    assert [plan.seed for plan in plans.values()] == [3, 4, 3, 3, 3, 3]
    # As many steps of the complete examples, which stand again and again.
    assert plans["complete"].phases[-1].end == plans["images"].phases[-1].end == 2
    kept = {image.tobytes() for image in plans["most"].data.train["image"][there["most"]]}
    assert {image.tobytes() for image in plans["complete"].data.train["image"]} == kept
    assert "hidden: {'attributes': 0.5}" in members.describe(plans, {})
    assert "needs: ['attributes']" in members.describe(plans, {})


def test_the_share_is_recorded_and_refused_when_another_one_goes_on(tmp_path):
    run = train(HALF, tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["hidden"] == {"attributes": 0.5}
    assert recorded["data_sha256"] == DATA.sha256()  # of the whole data, of which the part is a function
    assert run.step == 2
    np.testing.assert_array_equal(
        *(each.params["encoders"]["image"]["mean"]["kernel"] for each in (run, runs.load(tmp_path / "run")))
    )
    for hidden, needs, message in (
        ({"attributes": 0.25}, (), "hidden.attributes: 0.5 before, 0.25 now"),
        ({}, (), "hidden.attributes: 0.5 before, absent now"),
        ({"attributes": 0.5, "image": 0.1}, (), "hidden.image: absent before, 0.1 now"),
        ({"attributes": 0.5}, ("attributes",), 'needs: absent before, ["attributes"] now'),
    ):
        other = dataclasses.replace(HALF, hidden=hidden, needs=needs)
        with pytest.raises(ValueError, match=f"holds a run with other settings:\n  {message}".replace("[", r"\[")):
            train(other, tmp_path / "run")
        with pytest.raises(ValueError, match="other settings"):
            members.check_begun({"run": other}, DATA, tmp_path)
        with pytest.raises(ValueError, match=r"trained on a part of the data .*0.5.*; --evaluate takes models as they"):
            members.load(other, tmp_path / "run")
    members.check_begun({"run": HALF}, DATA, tmp_path)
    assert members.load(HALF, tmp_path / "run").step == 2


def test_a_part_of_what_is_not_in_memory_is_refused():
    class Streamed:
        train = None

    with pytest.raises(ValueError, match=r"a model is to see a part of Streamed; expected data that are in memory"):
        HALF.seen(Streamed())
    with pytest.raises(ValueError, match=r"shares say voice: 0\.5"):
        dataclasses.replace(HALF, hidden={"voice": 0.5}).seen(DATA)
