"""VAE/GAN and its family: errors measured by a discriminator instead of pixels, faces edited along attribute vectors.

    python experiments/celeba_vaegan.py
    python experiments/celeba_vaegan.py --config.models=gan,vae,vae_dis,vae_gan --workdir=runs/vaegan_family
    python experiments/celeba_vaegan.py --preset=paper --config.data.source=CelebA --workdir=runs/celeba_vaegan

Trains VAE/GAN, and the models that it is compared with where `models` names them, on the same images, rendered faces or
CelebA, each in a folder of its own within the workdir. Then compares samples and reconstructions with held-out images,
in the features of a classifier that is trained on the training images; looks for signs of collapse; and draws samples,
reconstructions and edits along attribute vectors. The same command resumes a run that was stopped.

Reference:
    Larsen et al., 2016, Autoencoding beyond pixels using a learned similarity metric, arXiv:1512.09300.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import sys
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

from mvae_jax import runs
from mvae_jax.data.batches import Splits
from mvae_jax.eval import attributes, fid, reconstruction, sharpness, stability
from mvae_jax.eval.features import Features
from mvae_jax.models import gan, vae, vae_dis, vae_gan
from mvae_jax.train import loop
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, grids, report, traversals

_log = logging.getLogger("celeba_vaegan")

MODELS = {"gan": "GAN", "vae": "VAE", "vae_dis": "VAE, learned distance", "vae_gan": "VAE/GAN"}
# The paper's 18, by CelebA's names in small letters. Of other data all attributes are taken.
ATTRIBUTES = (
    *("bald", "bangs", "black_hair", "blond_hair", "bushy_eyebrows", "eyeglasses", "gray_hair", "heavy_makeup"),
    *("high_cheekbones", "male", "mustache", "pale_skin", "rosy_cheeks", "smiling", "straight_hair", "wavy_hair"),
    *("wearing_lipstick", "young"),
)
_SHOWN = 8
_EDITS = 9  # attributes of one sheet


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the trained models are measured and drawn.

    Attributes:
        images: held-out images, and as many samples of each model, at most.
        judge_epochs: of the classifier in whose features they are compared.
        vector_images: training images from which attribute vectors are taken, at most; 0 for all (VG-05).
        sampled_vectors: take vectors from samples of the posteriors, as released, instead of their means (VG-05).
        sliders: edits go from minus to plus this many attribute vectors.
    """

    images: int = 1000
    judge_epochs: int = 5
    vector_images: int = 0
    sampled_vectors: bool = False
    sliders: float = 1.5

    def __post_init__(self) -> None:
        for name, least in {"images": 2, "judge_epochs": 1, "vector_images": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"evaluation.{name} is {getattr(self, name)}; expected at least {least}.")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the initialisation, of every draw and of the order of the images.
        data: the images.
        models: those to train: "vae_gan", "gan", "vae" and "vae_dis".
        model: VAE/GAN. The others have its networks, training and number of epochs, of which the VAE with the learned
            distance spends half on its GAN; but the VAE, whose error is that of pixels, has Adam, and no augmentation.
        gan_margin: margin of the gates of the GAN, also where it is a phase.
        vae_learning_rate: Adam's rate.
        evaluation: how they are measured and drawn.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    data: datasets.Config = datasets.Config(crop="larsen")
    models: tuple[str, ...] = ("vae_gan",)
    model: vae_gan.Config = vae_gan.Config()
    gan_margin: float = 0.4
    vae_learning_rate: float = 3e-4
    evaluation: Evaluation = Evaluation()
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected a number from 0 to 2**32 - 1.")
        if not self.models or len(set(self.models)) != len(self.models) or set(self.models) - set(MODELS):
            raise ValueError(f"models are {self.models}; expected some of {', '.join(MODELS)}, and none twice.")
        if "vae_dis" in self.models and self.model.epochs < 2:
            raise ValueError(f"model.epochs is {self.model.epochs}; expected at least 2, for vae_dis has two phases.")
        self.members()

    def members(self) -> dict[str, Member]:
        """The models by folder."""
        common = {field.name: getattr(self.model, field.name) for field in dataclasses.fields(vae_dis.Config)[:-1]}
        common["margin"] = self.gan_margin
        first, own = self.model.epochs // 2, self.model
        of_gan = {field.name for field in dataclasses.fields(gan.Config)}
        made = {
            "gan": lambda: gan.Config(**{name: value for name, value in common.items() if name in of_gan}),
            "vae": self._vae,
            "vae_dis": lambda: vae_dis.Config(**common | {"epochs": own.epochs - first, "adversarial_epochs": first}),
            "vae_gan": lambda: own,
        }
        return {name: Member(name, made[name](), self.seed) for name in self.models}

    def _vae(self) -> vae.Config:
        own = self.model
        found = vae.Config(
            image_size=own.image_size,
            channels=own.channels,
            network="larsen",
            widths=own.encoder_widths,
            latent_size=own.latent_size,
            observation_scale=0.5,  # half the squared error of values in [-1, 1]
            epochs=own.epochs,
            batch_size=own.batch_size,
            learning_rate=self.vae_learning_rate,
            compute_dtype=own.compute_dtype,
        )
        if found.decoder() != own.decoder() or found.encoder(2) != own.encoder():
            raise ValueError(
                f"model.decoder_widths are {own.decoder_widths}, grid_width {own.grid_width} and encoder_hidden "
                f"{own.encoder_hidden}; expected {found.decoder().widths}, {found.decoder().grid_width} and "
                f"{found.encoder(2).hidden}, to which the VAE is bound by encoder_widths: change them, or leave the "
                "VAE out of models."
            )
        return found


def _laptop() -> Config:
    """VAE/GAN at a quarter of the widths, for two CPU cores.

    In so few steps the published gamma would leave reconstructions to the encoder alone.
    """
    model = vae_gan.Config(
        latent_size=64,
        encoder_widths=(16, 32, 64),
        encoder_hidden=256,
        decoder_widths=(64, 32, 8),
        grid_width=64,
        discriminator_widths=(8, 32, 64, 64),
        discriminator_hidden=128,
        gamma=1e-3,
        epochs=4,
        batch_size=16,
        learning_rate=7e-4,
    )
    return Config(model=model)


_ALL = datasets.Config(crop="larsen", subset_size=0, partitions="train+validation/test")
PRESETS = {
    "laptop": _laptop(),
    "paper": Config(data=_ALL, models=tuple(MODELS)),
    "reference": Config(
        data=_ALL,
        model=vae_gan.Config.reference(),
        evaluation=Evaluation(vector_images=10_000, sampled_vectors=True),
    ),
}
# Where files lie may change, what they hold may not; and the evaluation is no part of the training.
MAY_CHANGE = ("config.training", "config.evaluation", "config.data.source", "config.data.cache_folder")


def main(argv: list[str]) -> None:
    """Trains, compares and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/celeba_vaegan", description=__doc__ or "")
    with launch.errors():
        data = datasets.load(config.data, None, config.model.image_size)
        if len(data.validation) < _SHOWN:
            raise ValueError(f"there are {len(data.validation)} held-out images; expected at least {_SHOWN}.")
        reads = judge.config_for(data, config.evaluation.judge_epochs)

    def evaluated(
        trained: dict[str, runs.Run], workdir: Path, folder: Path, interruption: Interruption
    ) -> dict[str, Any]:
        _log.info("the judge, a classifier of the training images, in whose features images are compared")
        own = judge.train(workdir / "judge", data, reads, seed=config.seed, interruption=interruption)
        if not launch.is_first():
            return {}
        return {"scores": evaluate(argv, trained, data, Judge.of(own, data), config, workdir, folder, interruption)}

    members = config.members()
    training.run_members(
        argv, arguments, config, members, data, model="vae_gan", may_change=MAY_CHANGE, evaluate=evaluated
    )


def evaluate(
    argv: list[str],
    trained: dict[str, runs.Run],
    data: Splits,
    reader: Judge,
    config: Config,
    workdir: Path,
    folder: Path,
    interruption: Interruption,
) -> dict[str, Any]:
    """Measures and draws all models, and writes numbers, figures and report into `folder`."""
    records = {label: read_metrics(workdir / label / "metrics.jsonl") for label in trained}
    rows: dict[str, dict[str, Any]] = {}
    signs: dict[str, stability.Stability] = {}
    problems: list[str] = []
    for label, run in trained.items():
        samples = draw_samples(run, data, config)
        rows[label] = measure(run, samples, data, reader, config)
        signs[label] = stability.assess_stability(samples, pixels(data.validation), records[label])
        problems += [f"{MODELS[label]}: {problem}" for problem in signs[label].problems]
        _log.info("%s: %s", label, ", ".join(f"{name} {value:.4g}" for name, value in rows[label].items()))
        interruption.check()
    for problem in problems:
        _log.warning(problem)
    notes = training.notes(next(iter(trained.values())), data)
    vectors = attribute_vectors(trained["vae_gan"], data, config) if "vae_gan" in trained else {}
    paths = report.save_figures(figures(trained, data, records, vectors, config), folder / "figures")
    scores = {"models": rows, "stability": {label: each.to_dict() for label, each in signs.items()}}
    atomic_write(folder / "scores.json", json.dumps(scores, indent=2) + "\n")
    report.write(
        folder / "report.html",
        f"VAE/GAN: {folder.name}",
        [
            *(report.note(note) for note in (*notes, *problems)),
            report.heading("Samples and reconstructions"),
            f"Of {count(data, config)} held-out images, reconstructed from the means of their posteriors, and as many "
            "samples from the prior. The Frechet distance is that of the last hidden layer of a classifier of the "
            f"training images ({reader}): lower is closer, but the numbers compare only within this table. Sharpness, "
            "the mean absolute Laplacian, is relative to real images: 1 is right, above 1.2 is noise.",
            report.table([{"model": MODELS[label], **row} for label, row in rows.items()]),
            report.heading("Stability"),
            "Spread is the variety of samples relative to real images. The discriminator's accuracies and the shares "
            "of steps in which gates let a player move are of the last tenth of the steps; gradient norms are medians.",
            report.table([_signs_row(MODELS[label], each) for label, each in signs.items()]),
            *_cosines(vectors),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *launch.how_it_was_made(argv, next(iter(trained.values())), data.provenance, config),
        ],
    )
    _log.info("report: %s", folder / "report.html")
    return scores


# --- numbers ---------------------------------------------------------------------------------------------------------


def count(data: Splits, config: Config) -> int:
    """How many held-out images and samples are compared."""
    return min(config.evaluation.images, len(data.validation))


def draw_samples(run: runs.Run, data: Splits, config: Config) -> jax.Array:
    """Samples from the prior, [N, H, W, C] in [-1, 1]; the same draws for all models."""
    z = jax.random.normal(jax.random.key(config.seed), (count(data, config), config.model.latent_size))
    return in_chunks(run.decode)(z)


def measure(run: runs.Run, samples: jax.Array, data: Splits, reader: Judge, config: Config) -> dict[str, Any]:
    """Numbers of one model on held-out images."""
    x = pixels(data.validation.first(count(data, config)))
    read = in_chunks(reader.run.features)

    def distance(pictures: jax.Array) -> float:
        judged = Features("attribute classifier, last hidden layer")
        return fid.frechet_distance(read(pictures), read(x), features=judged, split="held-out images").value

    found = {
        "Frechet distance of samples": distance(samples),
        "sharpness of samples": sharpness.sharpness_ratio(samples, x),
    }
    if run.model.encode is None:
        return found
    output = in_chunks(run.decode)(in_chunks(run.encode)(x)[0])
    return found | {
        "Frechet distance of reconstructions": distance(output),
        "sharpness of reconstructions": sharpness.sharpness_ratio(output, x),
        "squared error per value": float(jnp.square((x - output) / 2).mean()),
        "PSNR, dB": float(reconstruction.psnr(x, output).mean()),
    }


def _signs_row(name: str, signs: stability.Stability) -> dict[str, Any]:
    row = {"model": name, "spread": signs.spread, "known real": signs.real_accuracy, "known fake": signs.fake_accuracy}
    row |= {f"{objective} moves": share for objective, share in signs.updated_late.items()}
    return row | {f"{group}, gradient norm": norm.median for group, norm in signs.gradient_norms.items()}


def attribute_vectors(run: runs.Run, data: Splits, config: Config) -> dict[str, np.ndarray]:
    """Attribute -> vector in the latent space, from training images; attributes that all or none have are left out."""
    chosen = data.train.first(config.evaluation.vector_images or len(data.train))
    names = ATTRIBUTES if set(ATTRIBUTES) <= set(data.attributes) else data.attributes
    columns = [data.attributes.index(name) for name in names]
    bits = chosen["attributes"][:, columns]
    varied = [column for column in range(len(columns)) if 0 < bits[:, column].sum() < len(bits)]
    if not varied:
        return {}
    key = jax.random.fold_in(jax.random.key(config.seed), 1) if config.evaluation.sampled_vectors else None
    found = attributes.attribute_vectors(run.encode, pixels(chosen), bits[:, varied], key=key)
    return {names[column]: vector for column, vector in zip(varied, found, strict=True)}


def _cosines(vectors: dict[str, np.ndarray]) -> list[report.Part | str]:
    if len(vectors) < 2:
        return []
    angles = attributes.cosines(np.stack(list(vectors.values())))
    pairs = sorted(itertools.combinations(range(len(vectors)), 2), key=lambda pair: -abs(angles[pair]))
    names = list(vectors)
    return [
        report.heading("Attribute vectors"),
        "Pairs whose vectors are most alike or most opposed: what goes together in the images cannot be edited alone.",
        report.table([{"": names[a], " ": names[b], "cosine": float(angles[a, b])} for a, b in pairs[:10]]),
    ]


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(
    trained: dict[str, runs.Run],
    data: Splits,
    records: dict[str, Any],
    vectors: dict[str, np.ndarray],
    config: Config,
) -> dict[str, tuple[str, Any]]:
    """The figures: {file name: (caption, picture)}."""
    shown = data.validation.first(_SHOWN)
    x, originals = pixels(shown), {"original": shown["image"]}
    drawn: dict[str, tuple[str, Any]] = {}
    for label, run in trained.items():
        sheet = grids.grid(to_bytes(draw_samples(run, data, config)[: 5 * _SHOWN]), columns=_SHOWN)
        drawn[f"samples_{label}"] = (f"{MODELS[label]}: samples from the prior (figure 3)", sheet)
    decoded = {
        MODELS[label]: to_bytes(run.decode(run.encode(x)[0]))
        for label, run in trained.items()
        if run.model.encode is not None
    }
    if decoded:
        caption = "Held-out images and what each model makes of the means of their posteriors (figure 4)"
        drawn["reconstructions"] = (caption, grids.comparison(originals | decoded, columns=_SHOWN))
    if vectors:
        drawn |= edits(trained["vae_gan"], x, originals, vectors, config)
    for label, lines in records.items():
        if any("discriminator/real_error" in line for line in lines):
            panels = {
                "Errors of the discriminator": ["discriminator/*_error"],
                "What the discriminator knows": ["discriminator/*_accuracy"],
                "Shares of steps in which a player moves": ["*/updated"],
                "Gradient norms": ["*/gradient_norm"],
            }
            drawn[f"game_{label}"] = (f"{MODELS[label]}: the game", curves.losses(lines, panels))
    errors = {MODELS[label]: lines for label, lines in records.items() if label != "gan"}
    if errors:
        drawn["squared_error"] = (
            "Squared error of reconstructions, per value in [0, 1]",
            curves.runs(errors, "mean_squared_error"),
        )
    return drawn


def edits(
    run: runs.Run, x: jax.Array, originals: dict[str, Any], vectors: dict[str, np.ndarray], config: Config
) -> dict[str, tuple[str, Any]]:
    """Held-out images with attribute vectors added to their codes, and one of them moved along each vector."""
    z = run.encode(x)[0]
    chosen = dict(itertools.islice(vectors.items(), _EDITS))
    edited = {name: to_bytes(attributes.edited(run.decode, z, vector, [1.0])[0]) for name, vector in chosen.items()}
    reach = config.evaluation.sliders
    strengths = np.linspace(-reach, reach, 7)
    sliders = {
        name: to_bytes(attributes.edited(run.decode, z[:1], vector, strengths)[:, 0]) for name, vector in chosen.items()
    }
    return {
        "edits": (
            "VAE/GAN: held-out images, their reconstructions, and with attribute vectors added (figure 5)",
            grids.comparison(originals | {"reconstruction": to_bytes(run.decode(z))} | edited, columns=_SHOWN),
        ),
        "sliders": (
            f"VAE/GAN: one held-out image from {-reach:g} to {reach:g} times each attribute vector",
            traversals.sheet(sliders),
        ),
    }


if __name__ == "__main__":
    main(sys.argv)
