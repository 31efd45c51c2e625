"""StyleALAE: a style-based autoencoder that grows from 4 pixels to the resolution asked for.

    python experiments/stylealae.py
    python experiments/stylealae.py --preset=celeba --config.data.source=CelebA --workdir=runs/stylealae_celeba
    python experiments/stylealae.py --preset=ffhq --config.data.source=ffhq --workdir=runs/stylealae_ffhq

Trains on rendered faces, on other data sets of faces with attributes, or on a folder that `tools/prepare_data.py
pyramid` has made of any images. Then compares samples and reconstructions with held-out images, at every stage of
growth; measures perceptual path lengths in Z and in W; and draws samples, reconstructions, styles mixed from two faces,
interpolations, and edits along attribute directions. The same command resumes a run that was stopped.

Reference:
    Pidhorskyi et al., 2020, Adversarial latent autoencoders, arXiv:2004.04467.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import judge
import launch
import style_evaluation
import training
from judge import Judge
from style_evaluation import JudgeDistance, Measures, figures
from training import Member

from mvae_jax import runs
from mvae_jax.eval import perceptual_path, stability
from mvae_jax.eval.features import Features, inception_features
from mvae_jax.models import style_alae
from mvae_jax.nets.lpips import load_perceptual_distance
from mvae_jax.train import loop
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import report

_log = logging.getLogger("stylealae")

MODEL = "style_alae"


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the initialisation, of every draw and of the order of the images.
        data: the images.
        model: StyleALAE.
        evaluation: how it is measured and drawn.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    data: datasets.Config = datasets.Config(crop="alae")
    model: style_alae.Config = style_alae.Config()
    evaluation: style_evaluation.Settings = style_evaluation.Settings()
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected a number from 0 to 2**32 - 1.")
        if self.model.channels != 3:
            raise ValueError(f"model.channels is {self.model.channels}; expected 3, of faces.")


def _laptop() -> Config:
    """Rendered faces up to 32 pixels, narrow and short, for two CPU cores."""
    model = style_alae.Config(
        image_size=32,
        latent_size=64,
        first_width=16,
        most_width=64,
        mapping_layers=4,
        batch_sizes=(64, 64, 32, 16),
        learning_rates=(0.003,),
        fade_images=6_000,
        stabilise_images=6_000,
        last_images=12_000,
        r1_weight=1.0,
        ema_half_life=500.0,
    )
    return Config(model=model, evaluation=style_evaluation.Settings(path_pairs=1000))


def _celeba() -> Config:
    """CelebA at 128 pixels, each phase as long as in the released code, but for a shorter beginning at 4."""
    model = style_alae.Config(
        image_size=128,
        latent_size=256,
        first_width=64,
        most_width=256,
        learning_rates=(0.0015,),
        fade_images=548_000,  # three epochs
        stabilise_images=548_000,
        last_images=8_580_000,
    )
    data = datasets.Config(crop="alae", subset_size=0, partitions="train+validation/test")
    return Config(data=data, model=model)


PRESETS = {"laptop": _laptop(), "celeba": _celeba(), "ffhq": Config()}
# Where files lie, and how they are read, may change, what they hold may not; the evaluation is no part of the training.
# What saves memory changes no result, and a resolution may turn out to need it.
MAY_CHANGE = (
    *("config.training", "config.evaluation", "config.data.source", "config.data.cache_folder"),
    *("config.data.resident_gib", "config.data.workers"),
    *("config.model.examples_at_once", "config.model.recomputed_from"),
)


def main(argv: list[str]) -> None:
    """Trains, measures and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/stylealae", description=__doc__ or "")
    measured = config.evaluation
    with launch.errors():
        data = datasets.load(config.data, None, config.model.image_size, growing=True)
        if len(data.validation) < style_evaluation.LEAST:
            raise ValueError(
                f"there are {len(data.validation)} held-out images; expected at least {style_evaluation.LEAST}."
            )
        reads = judge.config_for(data, measured.judge_epochs) if data.attributes else None
        distance = load_perceptual_distance(measured.vgg, measured.lpips or None) if measured.vgg else None
        if distance:
            _check_pixels(distance, config)
        inception = inception_features(measured.inception) if measured.inception else None

    def evaluated(
        trained: dict[str, runs.Run], workdir: Path, folder: Path, interruption: Interruption
    ) -> dict[str, Any]:
        own = None
        if reads:
            _log.info("the judge, a classifier of the training images, in whose features images are compared")
            own = judge.train(workdir / "judge", data, reads, seed=config.seed, interruption=interruption)
        grown = stages(trained[MODEL], workdir / MODEL)  # on all hosts, as long as each has its part of a checkpoint
        if not launch.is_first():
            return {}
        reader = Judge.of(own, data) if own else None
        extractors = [inception] if inception else []
        if reader:
            extractors.insert(0, (reader.run.features, Features("attribute classifier, last hidden layer")))
        perceived = distance or (JudgeDistance(reader) if reader else None)
        found = Measures(trained[MODEL], data, reader, extractors, perceived, measured, config.seed)
        return {"scores": evaluate(argv, found, grown, config, workdir, folder, interruption)}

    members = {MODEL: Member(MODEL, config.model, config.seed)}
    training.run_members(argv, arguments, config, members, data, model=MODEL, may_change=MAY_CHANGE, evaluate=evaluated)


def _check_pixels(distance: perceptual_path.Distance, config: Config) -> None:
    """Refuses images that are too small for the network that compares them, by their shapes alone."""

    def compared(x: jax.Array) -> jax.Array:
        part = perceptual_path.comparable(x, config.evaluation.path_crop or None)
        return distance(part, part) + distance(x, x)

    jax.eval_shape(compared, jax.ShapeDtypeStruct((1, *[config.model.image_size] * 2, 3), jnp.float32))


def evaluate(
    argv: list[str],
    found: Measures,
    grown: Mapping[str, runs.Run],
    config: Config,
    workdir: Path,
    folder: Path,
    interruption: Interruption,
) -> dict[str, Any]:
    """Measures and draws, and writes numbers, figures and report into `folder`."""
    run, records = found.run, read_metrics(workdir / MODEL / "metrics.jsonl")
    growth = [found.of_stage(stage, records) for stage in grown.values()]
    interruption.check()
    scores: dict[str, Any] = {
        "images": found.count,
        "samples": found.compared(found.samples),
        "reconstructions": found.of_reconstructions(),
        "growth": growth,
        "path lengths": found.path_lengths(),
        "features": [dataclasses.asdict(features) for _, features in found.extractors],
    }
    interruption.check()
    signs = stability.assess_stability(found.samples, found.held_out, records)
    notes = [*training.notes(run, found.data), *_unfinished(run), *signs.problems]
    for note in notes:
        _log.warning(note)
    for row in (*growth, *scores["path lengths"]):
        _log.info(", ".join(f"{name} {value}" for name, value in row.items()))
    paths = report.save_figures(figures(found, grown, records, found.directions()), folder / "figures")
    atomic_write(folder / "scores.json", json.dumps({**scores, "stability": signs.to_dict()}, indent=2) + "\n")
    report.write(
        folder / "report.html",
        f"StyleALAE: {folder.name}",
        [
            *map(report.note, notes),
            report.heading("Samples and reconstructions"),
            f"{found.count} held-out images, reconstructed from their codes, and as many samples from the prior, "
            f"without truncation or mixing, with noise. {found.how_compared()}",
            report.table([{"": name, **scores[name]} for name in ("samples", "reconstructions")]),
            report.heading("Growth"),
            "Of the last checkpoint of each phase; pictures of smaller resolutions are enlarged to be compared with "
            "images at full size. Speeds are those since the last start, with validations and checkpoints.",
            report.table(growth),
            *_path_lengths(scores["path lengths"], config),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *launch.how_it_was_made(argv, run, found.data.provenance, config),
        ],
    )
    _log.info("report: %s", folder / "report.html")
    return scores


def _unfinished(run: runs.Run) -> list[str]:
    """What a report must say of a run that has not come to its end."""
    if run.step == style_alae.phases(run.config, 1)[-1].end:
        return []
    return [
        f"Judged at step {run.step}, in phase {run.phase}, at {style_evaluation.size_of(run)} px, as if the newest "
        "resolution were blended in."
    ]


def _path_lengths(rows: list[dict[str, Any]], config: Config) -> list[report.Part | str]:
    if not rows:
        return [report.note("Without weights of VGG (evaluation.vgg) no perceptual path length is measured.")]
    return [
        report.heading("Perceptual path length"),
        f"Means and standard deviations of {config.evaluation.path_seeds} measurements with other draws. Latents of Z "
        "are walked along arcs, those of W along lines: where W is the less entangled space, its paths are the shorter "
        "ones.",
        report.table(rows),
    ]


def stages(run: runs.Run, workdir: Path) -> dict[str, runs.Run]:
    """The model at the end of each phase up to that of the run."""
    names = [phase.name for phase in style_alae.phases(run.config, 1)]
    names = names[: names.index(run.phase)]
    return {name: runs.load(workdir, phase=name) for name in names} | {run.phase: run}


if __name__ == "__main__":
    main(sys.argv)
