"""Collapsed runs are named, sound ones are not."""

import json

import numpy as np
import pytest

from mvae_jax.eval.stability import GradientNorm, assess_stability
from mvae_jax.train.logging import MetricWriter, read_metrics

SOUND = {
    "discriminator/real_accuracy": 0.8,
    "discriminator/fake_accuracy": 0.75,
    "generator/updated": 0.6,
    "discriminator/updated": 0.4,
    "generator/gradient_norm": 2.0,
    "step/finite": 1.0,
}


def images(count=50, spread=1.0, seed=0):
    return spread * np.random.default_rng(seed).uniform(-1, 1, (count, 6, 5, 3)).astype(np.float32) + 0.1


def run(*changes, every=10):
    """Records of a run, each of `every` steps, with what changes from the sound one."""
    return [
        {"step": every * (number + 1), "phase": "gan", "split": "train", **SOUND, **change}
        for number, change in enumerate(changes)
    ]


def test_a_sound_run_has_no_problem_and_its_numbers():
    found = assess_stability(images(seed=1), images(), run(*[{}] * 20))
    assert found.problems == ()
    assert found.spread == pytest.approx(1.0, abs=0.05)
    assert (found.real_accuracy, found.fake_accuracy, found.refused) == (0.8, 0.75, 0.0)
    assert found.updated == found.updated_late == {"generator": 0.6, "discriminator": 0.4}
    assert found.gradient_norms == {"generator": GradientNorm(2.0, 2.0)}
    assert json.loads(json.dumps(found.to_dict()))["gradient_norms"]["generator"]["last"] == 2.0


@pytest.mark.parametrize(("spread", "collapsed"), [(0.0, True), (0.09, True), (0.11, False), (0.5, False)])
def test_spread_is_relative_to_real_images(spread, collapsed):
    found = assess_stability(images(spread=0.5 * spread), images(spread=0.5), run({}))
    assert found.spread == pytest.approx(spread, abs=1e-6)
    assert bool(found.problems) == collapsed
    if collapsed:
        assert found.problems == (
            f"The samples are nearly one image: they differ {spread:.1%} as much as real images, expected at least "
            "10%.",
        )


@pytest.mark.parametrize(
    ("share", "collapsed"), [(0.0, True), (0.1, False), (0.5, False)], ids=["grey", "hints", "halfway"]
)
def test_reconstructions_that_tell_nothing_are_named(share, collapsed):
    """Grey, and a share of the image: the error is a loop over pairs."""
    real = images()
    pictures = share * real
    own = np.mean([np.square(a - b).mean() for a, b in zip(pictures, real, strict=True)])
    others = np.mean([np.square(a - b).mean() for i, a in enumerate(pictures) for j, b in enumerate(real) if i != j])
    found = assess_stability(None, real, run({}), reconstructions=pictures)
    assert found.spread is None
    assert found.reconstruction_error == pytest.approx(own / others, rel=1e-5)
    assert found.reconstruction_error == pytest.approx({0.0: 1.0, 0.1: 0.80, 0.5: 0.20}[share], abs=0.02)
    assert bool(found.problems) == collapsed
    if collapsed:
        assert found.problems == (
            "The reconstructions tell nothing of their images: their squared error is 100.0% of that from other "
            "images, expected at most 95%.",
        )


def test_samples_of_one_digit_are_named():
    """Halfway from a fifth to all of the images is .6."""
    real = np.arange(50) % 5
    for most, problem in ((30, False), (31, True)):
        called = np.concatenate([np.zeros(most, int), 1 + np.arange(50 - most) % 4])
        found = assess_stability(images(seed=1), images(), run({}), labels=(called, real))
        assert found.label_share == most / 50
        assert bool(found.problems) == problem
    assert found.problems == (
        "The samples are nearly all of one kind: 62.0% are called 0, which 20.0% of the real images are, expected at "
        "most 60%.",
    )


def test_reconstructions_are_checked():
    with pytest.raises(ValueError, match=r"reconstructions have shape \(49, 6, 5, 3\) and real \(50, 6, 5, 3\)"):
        assess_stability(None, images(), run({}), reconstructions=images()[:49])
    broken = images()
    broken[3, 0] = np.nan
    found = assess_stability(None, images(), run({}), reconstructions=broken)
    assert (found.reconstruction_error, found.problems) == (
        None,
        ("1 of 50 reconstructions hold values that are not finite.",),
    )


@pytest.mark.parametrize(
    ("real", "fake", "saturated"), [(0.995, 0.999, True), (0.995, 0.98, False), (0.5, 1.0, False), (0.99, 0.99, False)]
)
def test_saturation_is_of_both_sides_over_the_last_tenth(real, fake, saturated):
    late = {"discriminator/real_accuracy": real, "discriminator/fake_accuracy": fake}
    found = assess_stability(images(), images(), run(*[{}] * 18, *[late] * 2))
    assert (found.real_accuracy, found.fake_accuracy) == pytest.approx((real, fake))
    assert bool(found.problems) == saturated
    if saturated:
        assert "it knew 99.5% of the real and 99.9% of the generated images" in found.problems[0]
    # Earlier it does not count.
    assert assess_stability(images(), images(), run(*[late] * 18, *[{}] * 2)).problems == ()


def test_a_player_at_rest_is_named():
    at_rest = {"generator/updated": 0.0}
    found = assess_stability(images(), images(), run(*[{}] * 15, *[at_rest] * 5))
    assert found.updated["generator"] == pytest.approx(0.45)
    assert found.updated_late == {"generator": 0.0, "discriminator": 0.4}
    assert found.problems == (
        "'generator' is hardly updated: in 0.0% of the last tenth of the steps and 45.0% of all, expected at least 5%.",
    )
    assert assess_stability(images(), images(), run(*[{"generator/updated": 0.06}] * 20)).problems == ()


def test_means_count_steps_not_records():
    """30 steps in one record and 10 in the other; a phase before has no such metric."""
    records = [
        {"step": 100, "split": "train", "loss": 1.0},
        {"step": 130, "split": "train", "a/updated": 0.2, "step/finite": 1.0, "g/gradient_norm": 1.0},
        {"step": 130, "split": "validation", "a/updated": 7.0},
        {"step": 140, "split": "train", "a/updated": 1.0, "step/finite": 0.5, "g/gradient_norm": 5.0},
    ]
    found = assess_stability(images(), images(), records)
    assert found.updated == {"a": pytest.approx(0.4)}
    assert found.updated_late == {"a": 1.0}
    assert found.refused == pytest.approx(0.125)
    assert found.gradient_norms == {"g": GradientNorm(3.0, 5.0)}
    assert found.problems == ("12.5% of the steps were refused because something was not finite, expected at most 1%.",)


@pytest.mark.parametrize(("refused", "accident"), [(0.1, True), (0.3, False)])
def test_a_few_refused_steps_are_no_problem(refused, accident):
    found = assess_stability(images(), images(), run(*[{}] * 19, {"step/finite": 1.0 - refused}))
    assert found.refused == pytest.approx(refused / 20)
    assert (found.problems == ()) == accident


def test_what_is_not_finite_is_named():
    samples = images()
    samples[3, 2, 1, 0] = np.nan
    samples[7] = np.inf
    records = run({}, {"loss": np.inf}, {"loss": np.nan}, {})
    found = assess_stability(samples, images(), records)
    assert found.spread is None
    assert found.problems == (
        "2 of 50 samples hold values that are not finite.",
        "'loss' is not finite, first at step 20.",
    )


def test_runs_without_a_discriminator_or_records():
    found = assess_stability(images(), images(), [])
    assert (found.real_accuracy, found.refused, found.updated, found.problems) == (None, None, {}, ())


def test_records_are_those_of_a_run(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write_scalars(0, {"compile_seconds": 3.5}, phase="gan", split="setup")
        for step in (10, 20):
            late = {"discriminator/real_accuracy": 1.0, "discriminator/fake_accuracy": 1.0, "generator/updated": 0.0}
            writer.write_scalars(step, SOUND | late, phase="gan", split="train")
        writer.write_scalars(20, {"loss": np.nan}, phase="gan", split="validation")
    found = assess_stability(images(spread=0.0), images(), read_metrics(tmp_path / "metrics.jsonl"))
    assert [problem.split()[0] for problem in found.problems] == ["The", "The", "'generator'", "'loss'"]


def test_bad_images_are_refused():
    with pytest.raises(ValueError, match="expected"):
        assess_stability(images()[:, :3], images(), [])
    with pytest.raises(ValueError, match="all real images are equal"):
        assess_stability(images(), images(spread=0.0), [])
