"""StyleALAE: a style-based autoencoder that grows from 4 pixels to the resolution asked for.

    python experiments/stylealae.py
    python experiments/stylealae.py --config.data.source=faces.zip --config.model.image_size=64 --workdir=runs/faces64
    python experiments/stylealae.py --preset=celeba --config.data.source=CelebA --workdir=runs/stylealae_celeba

Trains on rendered or real faces. Then compares samples and reconstructions with held-out images, at every stage of
growth; measures perceptual path lengths in Z and in W; and draws samples, reconstructions, styles mixed from two faces,
interpolations, and edits along attribute directions. The same command resumes a run that was stopped.

Reference:
    Pidhorskyi et al., 2020, Adversarial latent autoencoders, arXiv:2004.04467.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import judge
import launch
import numpy as np
import training
from judge import Judge
from training import Member, in_chunks, pixels, to_bytes

from mvae_jax import gaussian, runs
from mvae_jax.data.batches import Splits
from mvae_jax.eval import attributes, fid, perceptual_path, reconstruction, stability
from mvae_jax.eval.features import Features, inception_features
from mvae_jax.eval.kernel_distance import kernel_distance
from mvae_jax.eval.manifold import precision_and_recall
from mvae_jax.models import style_alae
from mvae_jax.nets.lpips import load_perceptual_distance
from mvae_jax.train import loop
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, grids, report, traversals

_log = logging.getLogger("stylealae")

MODEL = "style_alae"
STYLES = {"coarse": (0, 4), "middle": (4, 8), "fine": (8, None)}  # layers of the generator
_SHOWN = 8
_MIXED = 4  # faces whose styles are mixed with one another
_EDITS = 9  # attributes of one sheet


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the trained model is measured and drawn.

    Attributes:
        images: held-out images, and as many samples, at most.
        judge_epochs: of the classifier in whose features they are compared.
        truncation: of the latents of the sheet of truncated samples; 1 for none.
        direction_images: samples, labelled by the classifier, that tell the directions of attributes.
        sliders: edits go from minus to plus this many standard deviations along a direction.
        path_pairs: pairs of latents of each perceptual path length.
        path_seeds: how often it is measured.
        path_crop: part of the images that is compared along paths: "face" for aligned faces, "celeba" for CelebA at 128
            px, or "" for all.
        inception: weights of the FID's Inception, a file, in whose features images are compared as well; "" for none.
        vgg: weights of VGG, a file, for perceptual distances; "" for features of the classifier instead.
        lpips: weights of LPIPS, a file, in addition to those of VGG-16.
    """

    images: int = 1000
    judge_epochs: int = 5
    truncation: float = 0.7
    direction_images: int = 5000
    sliders: float = 3.0
    path_pairs: int = 1000
    path_seeds: int = 3
    path_crop: str = ""
    inception: str = ""
    vgg: str = ""
    lpips: str = ""

    def __post_init__(self) -> None:
        least_of = {"images": 2, "judge_epochs": 1, "direction_images": 2, "path_pairs": 2, "path_seeds": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(f"evaluation.{name} is {getattr(self, name)}; expected at least {least}.")
        if not 0 <= self.truncation <= 1:
            raise ValueError(f"evaluation.truncation is {self.truncation}; expected from 0 to 1.")
        if self.path_crop not in ("", *perceptual_path.CROPS):
            known = ", ".join(map(repr, perceptual_path.CROPS))
            raise ValueError(f"evaluation.path_crop is {self.path_crop!r}; expected {known} or ''.")
        if not self.vgg and (self.lpips or self.path_crop):
            raise ValueError(
                "evaluation.lpips and evaluation.path_crop go with VGG; give the file of its weights, evaluation.vgg."
            )


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
    evaluation: Evaluation = Evaluation()
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
    return Config(model=model)


def _celeba() -> Config:
    """The paper's CelebA at 128 pixels."""
    model = style_alae.Config(
        image_size=128,
        latent_size=256,
        first_width=64,
        most_width=256,
        learning_rates=(0.0015,),
    )
    data = datasets.Config(crop="alae", subset_size=0, partitions="train+validation/test")
    return Config(data=data, model=model)


PRESETS = {"laptop": _laptop(), "celeba": _celeba(), "ffhq": Config()}
# Where files lie, and how they are read, may change, what they hold may not; the evaluation is no part of the training.
MAY_CHANGE = (
    *("config.training", "config.evaluation", "config.data.source", "config.data.cache_folder"),
    *("config.data.resident_gib", "config.data.workers"),
)


def main(argv: list[str]) -> None:
    """Trains, measures and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/stylealae", description=__doc__ or "")
    with launch.errors():
        data = datasets.load(config.data, None, config.model.image_size, held_out=config.evaluation.images)
        if len(data.validation) < _SHOWN:
            raise ValueError(f"there are {len(data.validation)} held-out images; expected at least {_SHOWN}.")
        reads = judge.config_for(data, config.evaluation.judge_epochs) if data.attributes else None
        measures = config.evaluation
        distance = load_perceptual_distance(measures.vgg, measures.lpips or None) if measures.vgg else None
        inception = inception_features(measures.inception) if measures.inception else None

    def evaluated(
        trained: dict[str, runs.Run], workdir: Path, folder: Path, interruption: Interruption
    ) -> dict[str, Any]:
        reader, extractors = None, []
        if reads:
            _log.info("the judge, a classifier of the training images, in whose features images are compared")
            run = judge.train(folder / "judge", data, reads, seed=config.seed, interruption=interruption)
            if launch.is_first():
                reader = Judge.of(run, data)
                features = Features("attribute classifier, last hidden layer")
                extractors.append((in_chunks(run.features), features))
        if not launch.is_first():
            return {}
        if inception:
            extractors.append(inception)
        perceived = distance or (JudgeDistance(reader) if reader else None)
        found = Measures(trained[MODEL], data, reader, extractors, perceived, config)
        return {"scores": evaluate(argv, found, workdir, folder, interruption)}

    members = {MODEL: Member(MODEL, config.model, config.seed)}
    training.run_members(argv, arguments, config, members, data, model=MODEL, may_change=MAY_CHANGE, evaluate=evaluated)


def evaluate(
    argv: list[str], found: Measures, workdir: Path, folder: Path, interruption: Interruption
) -> dict[str, Any]:
    """Measures and draws, and writes numbers, figures and report into `folder`."""
    run, records = found.run, read_metrics(workdir / MODEL / "metrics.jsonl")
    grown = stages(run, workdir / MODEL)
    growth = [found.of_stage(stage, records) for stage in grown.values()]
    interruption.check()
    scores: dict[str, Any] = {
        "samples": found.of_samples(),
        "reconstructions": found.of_reconstructions(),
        "growth": growth,
        "path lengths": found.path_lengths(),
        "features": [dataclasses.asdict(features) for _, features in found.extractors],
    }
    interruption.check()
    signs = stability.assess_stability(found.samples, found.held_out, records)
    for problem in signs.problems:
        _log.warning(problem)
    for row in (*growth, *scores["path lengths"]):
        _log.info(", ".join(f"{name} {value}" for name, value in row.items()))
    vectors = found.directions()
    paths = report.save_figures(figures(found, grown, records, vectors), folder / "figures")
    atomic_write(folder / "scores.json", json.dumps({**scores, "stability": signs.to_dict()}, indent=2) + "\n")
    report.write(
        folder / "report.html",
        f"StyleALAE: {folder.name}",
        [
            *(report.note(note) for note in (*training.notes(run, found.data), *signs.problems)),
            report.heading("Samples and reconstructions"),
            f"Of {found.count} held-out images, reconstructed from their codes, and as many samples from the prior, "
            "without truncation or mixing, with noise. " + found.how_compared(),
            report.table([{"": name, **scores[name]} for name in ("samples", "reconstructions")]),
            report.heading("Growth"),
            "Of the last checkpoint of each phase; pictures of smaller resolutions are enlarged to be compared with "
            "the held-out images at full size.",
            report.table(growth),
            *_path_lengths(scores["path lengths"], found.config),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *launch.how_it_was_made(argv, run, found.data.provenance, found.config),
        ],
    )
    _log.info("report: %s", folder / "report.html")
    return scores


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


# --- numbers ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class JudgeDistance:
    """Squared distance of two images in the last hidden layer of a classifier: for want of a perceptual one.

    Attributes:
        reader: the classifier.
    """

    reader: Judge
    name: str = "features of the attribute classifier, squared distance"
    sha256: tuple[str, ...] = ()

    def __call__(self, images_a: jax.Array, images_b: jax.Array) -> jax.Array:
        """Distances of images [B, H, W, C] and others, [B]."""
        features = self.reader.run.features
        return jnp.square(features(images_a) - features(images_b)).sum(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Measures:
    """What is measured of a trained model.

    Attributes:
        run: the model.
        data: the images.
        reader: the classifier that reads attributes; None for images without.
        extractors: functions from images to the features in which sets of them are compared, and what these are.
        perceived: the distance of two images; None if there is none.
        config: how much is measured.
    """

    run: runs.Run
    data: Splits
    reader: Judge | None
    extractors: Sequence[tuple[Callable[[Any], Any], Features]]
    perceived: perceptual_path.Distance | None
    config: Config

    @property
    def count(self) -> int:
        """How many held-out images and samples are compared."""
        return min(self.config.evaluation.images, len(self.data.validation))

    @functools.cached_property
    def held_out(self) -> jax.Array:
        """Held-out images, [N, H, W, C] in [-1, 1]."""
        return pixels(self.data.validation.first(self.count))

    @functools.cached_property
    def samples(self) -> jax.Array:
        """As many from the prior; not truncated, not mixed, with noise."""
        return self.sampled(self.run, self.count, self.config.model.image_size)

    @functools.cached_property
    def reconstructions(self) -> jax.Array:
        """The held-out images from their codes, with noise, as the paper measures them."""

        def again(x: jax.Array, keys: jax.Array) -> jax.Array:
            return self.run.draw(layered(self.run.encode(x)[0], x.shape[1]), keys)

        return jnp.clip(in_chunks(again)(self.held_out, self.keys(2, self.count)), -1, 1)

    def keys(self, stream: int, count: int) -> jax.Array:
        """Keys of examples, [N]."""
        return gaussian.example_keys(jax.random.fold_in(jax.random.key(self.config.seed), stream), count)

    def sampled(self, run: runs.Run, count: int, size: int, truncation: float = 1.0) -> jax.Array:
        """Samples of a resolution; the same draws for all stages of growth."""
        z = jax.vmap(lambda key: jax.random.normal(key, (self.config.model.latent_size,)))(self.keys(1, count))

        def drawn(z: jax.Array, keys: jax.Array) -> jax.Array:
            return run.draw(run.truncate(layered(run.map(z), size), truncation), keys)

        return jnp.clip(in_chunks(drawn)(z, self.keys(2, count)), -1, 1)

    def how_compared(self) -> str:
        """What a report must say of the comparison of sets of images."""
        if not self.extractors:
            return (
                "Images without attributes have no classifier; the weights of Inception (evaluation.inception) would "
                "compare samples with them."
            )
        by = f"a classifier of the training images ({self.reader})" if self.reader else "Inception"
        return (
            f"Sets are compared by the last hidden layer of {by}: the numbers compare only within this report. Frechet "
            "and kernel distances are the better the lower, precision and recall the higher."
        )

    @functools.cached_property
    def _features_of_held_out(self) -> list[Any]:
        return [extract(self.held_out) for extract, _ in self.extractors]

    def frechet(self, pictures: jax.Array, number: int = 0) -> fid.FrechetDistance:
        """Frechet distance of pictures from the held-out images, by the features of one extractor."""
        (extract, features), real = self.extractors[number], self._features_of_held_out[number]
        return fid.frechet_distance(extract(pictures), real, features=features, split="held-out images")

    def compared(self, pictures: jax.Array) -> dict[str, float]:
        """Distances of pictures from the held-out images: by the classifier's features, then by Inception's, if any."""
        found: dict[str, float] = {}
        for number, (extract, features) in enumerate(self.extractors):
            real, made = self._features_of_held_out[number], extract(pictures)
            told: dict[str, Any] = {"features": features, "split": "held-out images"}
            manifold, name = precision_and_recall(real, made, **told), ", Inception" if number else ""
            found |= {
                f"Frechet distance{name}": fid.frechet_distance(made, real, **told).value,
                f"kernel distance{name}": kernel_distance(made, real, **told).value,
                f"precision{name}": manifold.precision,
                f"recall{name}": manifold.recall,
            }
        return found

    def of_samples(self) -> dict[str, float]:
        """Numbers of the samples."""
        return self.compared(self.samples)

    def of_reconstructions(self) -> dict[str, float]:
        """Numbers of the reconstructions."""
        x, again = self.held_out, self.reconstructions
        found = self.compared(again) | {
            "PSNR, dB": float(reconstruction.psnr(x, again).mean()),
            "squared error per value": float(jnp.square((x - again) / 2).mean()),
        }
        if self.perceived:
            found[self.perceived.name] = float(in_chunks(self.perceived)(x, again).mean())
        if x.shape[1] >= 11:  # pixels of its window
            found["SSIM"] = float(in_chunks(reconstruction.ssim)(x, again).mean())
        return found

    def of_stage(self, stage: runs.Run, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Numbers of the model at the end of a phase."""
        phase = next(phase for phase in style_alae.phases(stage.config, 1) if phase.name == stage.phase)
        speeds = [line for line in records if line["split"] == "speed" and line["phase"] == stage.phase]
        pictures = enlarged(self.sampled(stage, self.count, _size(stage)), self.config.model.image_size)
        row: dict[str, Any] = {
            "phase": stage.phase,
            "steps": stage.step,
            "batch": phase.batch_size,
            "images/s": round(speeds[-1]["images_per_second"], 1) if speeds else None,
        }
        if self.extractors:
            row["Frechet distance of samples"] = self.frechet(pictures).value
        return row

    def path_lengths(self) -> list[dict[str, Any]]:
        """Perceptual path lengths in Z and in W, over the whole path and at its ends."""
        if self.perceived is None:
            return []
        settings, size = self.config.evaluation, self.config.model.image_size
        latent_size = self.config.model.latent_size

        def of_keys(keys: jax.Array) -> jax.Array:
            return jax.vmap(lambda key: jax.random.normal(key, (latent_size,)))(keys)

        def draw(w: jax.Array, keys: jax.Array) -> jax.Array:
            return self.run.draw(layered(w, size), keys)

        spaces = {
            "Z": ("slerp", lambda z, keys: draw(self.run.map(z), keys), of_keys),
            "W": ("lerp", draw, lambda keys: self.run.map(of_keys(keys))),
        }
        rows = []
        for (name, (space, drawn, sampled)), sampling in itertools.product(spaces.items(), perceptual_path.SAMPLINGS):
            lengths = [
                perceptual_path.perceptual_path_length(
                    drawn,
                    sampled,
                    self.perceived,
                    key=jax.random.fold_in(jax.random.key(self.config.seed), 100 + number),
                    space=space,
                    sampling=sampling,
                    pairs=settings.path_pairs,
                    crop=settings.path_crop or None,
                )
                for number in range(settings.path_seeds)
            ]
            values = [each.value for each in lengths]
            rows.append(
                {
                    "space": name,
                    "part": sampling,
                    "mean": float(np.mean(values)),
                    "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "standard error of one": lengths[0].standard_error,
                    "pairs": settings.path_pairs,
                    "distance": self.perceived.name,
                }
            )
        return rows

    def directions(self) -> dict[str, np.ndarray]:
        """Attribute -> direction in W, as long as the codes' standard deviation along it, from labelled samples."""
        if self.reader is None:
            return {}
        count = self.config.evaluation.direction_images
        z = jax.vmap(lambda key: jax.random.normal(key, (self.config.model.latent_size,)))(self.keys(3, count))
        w, size = in_chunks(self.run.map)(z), self.config.model.image_size
        drawn = in_chunks(lambda w, keys: self.run.draw(layered(w, size), keys))(w, self.keys(4, count))
        bits = np.asarray(in_chunks(self.reader.run.logits)(jnp.clip(drawn, -1, 1)) > 0)
        return attributes.svm_directions(w, bits, self.data.attributes)


def layered(w: jax.Array, size: int) -> jax.Array:
    """One latent for all layers of a resolution, [B, D] to [B, L, D]."""
    return jnp.repeat(w[:, None], 2 * (size.bit_length() - 2), axis=1)


def enlarged(pictures: jax.Array, size: int) -> jax.Array:
    """Every pixel several times."""
    factor = size // pictures.shape[1]
    return pictures.repeat(factor, 1).repeat(factor, 2)


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(
    found: Measures, grown: dict[str, runs.Run], records: list[dict[str, Any]], vectors: dict[str, np.ndarray]
) -> dict[str, tuple[str, Any]]:
    """The figures: {file name: (caption, picture)}."""
    run, size = found.run, found.config.model.image_size
    psi = found.config.evaluation.truncation
    x, again = found.held_out[: 2 * _SHOWN], found.reconstructions[: 2 * _SHOWN]
    drawn = {
        "samples": ("Samples from the prior", grids.grid(to_bytes(found.samples[: 5 * _SHOWN]), columns=_SHOWN)),
        "truncated": (
            f"The same samples with truncation {psi:g}",
            grids.grid(to_bytes(found.sampled(run, min(found.count, 5 * _SHOWN), size, psi)), columns=_SHOWN),
        ),
        "reconstructions": (
            "Held-out images and what comes back from their codes (figure 4)",
            grids.comparison({"original": to_bytes(x), "reconstruction": to_bytes(again)}, columns=_SHOWN),
        ),
        "mixing": (
            "Held-out images above and at the left; styles of those above in the rest (figure 9)",
            traversals.sheet(mixed(run, x)),
        ),
        "interpolations": (
            "Between the codes of held-out images",
            traversals.sheet(interpolated(run, x)),
        ),
        "growth": (
            "The same latents at the end of each phase",
            grids.comparison(
                {
                    name: to_bytes(enlarged(found.sampled(stage, _SHOWN, _size(stage)), size))
                    for name, stage in grown.items()
                },
                columns=_SHOWN,
            ),
        ),
        "game": (
            "The game",
            curves.losses(
                records,
                {
                    "Errors of the discriminator": ["discriminator/*_error"],
                    "What the discriminator knows": ["discriminator/*_accuracy"],
                    "R1": ["discriminator/r1"],
                    "Squared error in W": ["reciprocity/error", "latent_error"],
                    "Squared error of reconstructions": ["mean_squared_error"],
                },
            ),
        ),
    }
    if vectors:
        reach = found.config.evaluation.sliders
        strengths = np.linspace(-reach, reach, 7)
        w = run.encode(x[:1])[0]
        rows = {
            name: to_bytes(attributes.edited(run.decode, w, vector, strengths)[:, 0])
            for name, vector in itertools.islice(vectors.items(), _EDITS)
        }
        drawn["edits"] = (
            f"A held-out image, moved from {-reach:g} to {reach:g} standard deviations along each direction",
            traversals.sheet(rows),
        )
    return drawn


def _size(stage: runs.Run) -> int:
    return int(stage.phase.split("_")[-1])


def mixed(run: runs.Run, x: jax.Array) -> dict[str, np.ndarray]:
    """Faces with coarse, middle or fine styles of others: rows of pictures, first those that styles are taken from."""
    above, left = x[:_MIXED], x[_MIXED : 2 * _MIXED]
    size = x.shape[1]
    sources, others = (layered(run.encode(faces)[0], size) for faces in (above, left))
    blank = jnp.ones_like(above[:1])
    rows = {"styles of": to_bytes(jnp.concatenate([blank, above]))}
    for name, (first, end) in STYLES.items():
        own = (jnp.arange(sources.shape[1]) >= first) & (jnp.arange(sources.shape[1]) < (end or sources.shape[1]))
        if not own.any():
            continue
        for number in range(len(left)):
            w = jnp.where(own[None, :, None], sources, others[number][None])
            rows[f"{name} {number + 1}"] = to_bytes(jnp.concatenate([left[number : number + 1], run.decode(w)]))
    return rows


def interpolated(run: runs.Run, x: jax.Array, steps: int = 7) -> dict[str, np.ndarray]:
    """Pairs of faces and what lies between their codes."""
    rows = {}
    for number in range(_MIXED):
        ends = run.encode(x[2 * number : 2 * number + 2])[0]
        between = gaussian.lerp(ends[:1], ends[1:], jnp.linspace(0.0, 1.0, steps)[:, None])
        faces = jnp.concatenate([x[2 * number][None], run.decode(between), x[2 * number + 1][None]])
        rows[f"pair {number + 1}"] = to_bytes(faces)
    return rows


if __name__ == "__main__":
    main(sys.argv)
