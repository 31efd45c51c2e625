"""Autoencoder, VAE, beta-VAE and beta-TCVAE side by side (Schik's overview).

    python experiments/celeba_vae.py
    python experiments/celeba_vae.py --preset=paper --config.data.source=CelebA --workdir=runs/celeba_vae

Trains each model on the same images, rendered faces or CelebA, in a folder of its own within the workdir; then measures
likelihood, reconstructions and latent space on held-out images, and draws latent traversals, samples from the prior and
reconstructions over beta. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import launch
import training
from training import Member, in_chunks, pixels, to_bytes, traversal

from mvae_jax import runs
from mvae_jax.data.batches import Splits
from mvae_jax.eval import likelihood, reconstruction
from mvae_jax.models import autoencoder, beta_tcvae, beta_vae, vae
from mvae_jax.train import loop
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, grids, report, traversals

_log = logging.getLogger("celeba_vae")
_SHOWN = 8
_MOST = 10  # models
_LEAST_SIZE = 11  # pixels, of the window of SSIM


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the trained models are measured and drawn.

    Attributes:
        samples: per image of the importance-weighted bound.
        images: held-out images of that bound, at most.
        posteriors: training images whose posteriors make up the aggregated one, at most.
        traversal_range: traversals go from minus to plus this value; the prior's standard deviation is 1.
        traversal_steps: pictures per traversal.
    """

    samples: int = 50
    images: int = 100
    posteriors: int = 2000
    traversal_range: float = 3.0
    traversal_steps: int = 6

    def __post_init__(self) -> None:
        for name, least in {"samples": 1, "images": 1, "posteriors": 2, "traversal_steps": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"evaluation.{name} is {getattr(self, name)}; expected at least {least}.")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the initialisation, of every draw and of the order of the images.
        data: the images.
        model: the VAE; the others are like it but for what follows, and the autoencoder has no likelihood.
        beta: weight of the KL divergence in the beta-VAE.
        total_correlation_weights: of the beta-TCVAEs, each of which is a model of its own.
        evaluation: how they are measured and drawn.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    data: datasets.Config = datasets.Config(crop="schik")
    model: vae.Config = vae.Config()
    beta: float = 5.0
    total_correlation_weights: tuple[float, ...] = (20.0, 5.0, 50.0)
    evaluation: Evaluation = Evaluation()
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected a number from 0 to 2**32 - 1.")
        if len(self.members()) != 3 + len(self.total_correlation_weights) or len(self.members()) > _MOST:
            raise ValueError(
                f"total_correlation_weights are {self.total_correlation_weights}; expected at most {_MOST - 3}, and "
                "none twice to six digits: each is a model of its own."
            )

    def members(self) -> dict[str, Member]:
        """The models by folder."""
        common = dataclasses.asdict(self.model)
        without = {field.name for field in dataclasses.fields(autoencoder.Config)}
        found: dict[str, tuple[str, Any]] = {
            "autoencoder": (
                "autoencoder",
                autoencoder.Config(**{name: value for name, value in common.items() if name in without}),
            ),
            "vae": ("vae", self.model),
            f"beta_vae_{self.beta:g}": ("beta_vae", beta_vae.Config(**common, beta=self.beta)),
        }
        for weight in self.total_correlation_weights:
            config = beta_tcvae.Config(**common, total_correlation_weight=weight)
            found[f"beta_tcvae_{weight:g}"] = ("beta_tcvae", config)
        return {folder: Member(name, model, self.seed) for folder, (name, model) in found.items()}


def _laptop() -> Config:
    """All models at widths and lengths for two CPU cores."""
    model = vae.Config(widths=(16, 32, 32, 64, 128), epochs=6, batch_size=32, learning_rate=1e-3)
    return Config(model=model, total_correlation_weights=(20.0, 5.0))


# Schik trains on all images; the test partition is kept to measure on.
_ALL = datasets.Config(crop="schik", subset_size=0, partitions="train+validation/test")


def _reference() -> Config:
    """As the released code, whose script never passes beta (SC-01)."""
    return Config(data=_ALL, model=vae.Config.reference(), beta=1.0, total_correlation_weights=(1.0,))


PRESETS = {"laptop": _laptop(), "paper": Config(data=_ALL), "reference": _reference()}
# Where files lie may change, what they hold may not; and the evaluation is no part of the training.
MAY_CHANGE = ("config.training", "config.evaluation", "config.data.source", "config.data.cache_folder")


def main(argv: list[str]) -> None:
    """Trains, measures and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/celeba_vae", description=__doc__ or "")
    with launch.errors():
        data = datasets.load(config.data, None, config.model.image_size)
        if len(data.validation) < 2 or config.model.image_size < _LEAST_SIZE:
            raise ValueError(
                f"there are {len(data.validation)} held-out images of {config.model.image_size} px to measure on; "
                f"expected at least 2, of {_LEAST_SIZE} px."
            )

    def evaluated(
        trained: dict[str, runs.Run], workdir: Path, folder: Path, interruption: Interruption
    ) -> dict[str, Any]:
        if not launch.is_first():
            return {}
        return {"scores": evaluate(argv, trained, data, config, workdir, folder, interruption)}

    members = config.members()
    training.run_members(argv, arguments, config, members, data, model="vae", may_change=MAY_CHANGE, evaluate=evaluated)


def evaluate(
    argv: list[str],
    trained: dict[str, runs.Run],
    data: Splits,
    config: Config,
    workdir: Path,
    folder: Path,
    interruption: Interruption | None = None,
) -> dict[str, Any]:
    """Measures and draws all models, and writes numbers, figures and report into `folder`."""
    interruption, rows = interruption or Interruption(), {}
    posteriors = min(config.evaluation.posteriors, len(data.train))
    for label, run in trained.items():
        rows[label] = measure(run, data, config)
        interruption.check()
        _log.info("%s: PSNR %.2f dB", label, rows[label]["PSNR, dB"])
    notes = training.notes(next(iter(trained.values())), data)
    for note in notes:
        _log.warning(note)
    records = {label: read_metrics(workdir / label / "metrics.jsonl") for label in trained}
    paths = report.save_figures(draw(trained, data, records, config), folder / "figures")
    atomic_write(folder / "scores.json", json.dumps(rows, indent=2) + "\n")
    report.write(
        folder / "report.html",
        f"Autoencoders of images: {workdir.name}",
        [
            *(report.note(note) for note in notes),
            report.heading("Likelihood, reconstructions and latent space on held-out images"),
            f"Likelihoods are of pixel values in [0, 1], in nats: the importance-weighted bound of log p(x) from "
            f"{config.evaluation.samples} samples for {min(config.evaluation.images, len(data.validation))} images. "
            f"The aggregated posterior is that of {posteriors} training images. Its mutual information cannot exceed "
            f"log {posteriors} = {math.log(posteriors):.2f}; where it comes within one nat of that, the images are too "
            "few to tell it from the total correlation, and only the sum of the two is shown. A dimension is active if "
            "the variance of its posterior means over the held-out images is above 0.01.",
            report.table([{"model": label, **row} for label, row in rows.items()]),
            report.heading("What beta weighs"),
            "A weight stands beside sums over pixels and over latent dimensions. Beside means, as other code has them, "
            "it would be the effective weight.",
            report.table(
                [
                    {"model": label, "divergence": name, "weight": weight}
                    | {"effective": member.config.effective_weight(weight)}
                    for label, member in config.members().items()
                    for name, weight in getattr(member.config, "divergence_weights", {}).items()
                ]
            ),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *launch.how_it_was_made(argv, next(iter(trained.values())), data.provenance, config),
        ],
    )
    _log.info("report: %s", folder / "report.html")
    return rows


def measure(run: runs.Run, data: Splits, config: Config) -> dict[str, Any]:
    """Numbers of one model on held-out images."""
    settings, x = config.evaluation, pixels(data.validation)
    mean, _ = in_chunks(run.encode)(x)
    output = jnp.clip(in_chunks(run.decode)(mean), -1, 1)  # that of an autoencoder has no bound
    found = {
        "PSNR, dB": float(reconstruction.psnr(x, output).mean()),
        "SSIM": float(in_chunks(reconstruction.ssim)(x, output).mean()),
        "squared error per value": float(jnp.square((x - output) / 2).mean()),
    }
    if "log_likelihood" not in run.functions:
        return found
    key = jax.random.key(config.seed)
    bounds = likelihood.estimate_likelihood(
        run.encode,
        run.log_likelihood,
        x[: settings.images],
        jax.random.fold_in(key, 0),
        samples=settings.samples,
    )
    posterior_mean, posterior_logvar = in_chunks(run.encode)(pixels(data.train.first(settings.posteriors)))
    aggregate = likelihood.aggregate_posterior(
        posterior_mean, posterior_logvar, jax.random.fold_in(key, 1), samples=500
    )
    return found | {
        "ELBO": float(bounds.elbo.mean()),
        "importance-weighted bound": float(bounds.bound.mean()),
        "KL": float(bounds.kl.mean()),
        "active dimensions": int(likelihood.active_units(mean).sum()),
        "dimension-wise KL": aggregate.dimension_wise_kl.value,
        "mutual information + total correlation": aggregate.dependence,
        "mutual information": aggregate.mutual_information.value if aggregate.resolved else None,
        "total correlation": aggregate.total_correlation.value if aggregate.resolved else None,
    }


def draw(
    trained: dict[str, runs.Run], data: Splits, records: dict[str, Any], config: Config
) -> dict[str, tuple[str, Any]]:
    """The figures: {file name: (caption, picture)}."""
    shown = data.validation.first(_SHOWN)
    x, key = pixels(shown), jax.random.key(config.seed)
    originals = {"original": shown["image"]}
    decoded = {label: to_bytes(run.decode(run.encode(x)[0])) for label, run in trained.items()}
    weights = {label: getattr(run.config, "total_correlation_weight", 1.0) for label, run in trained.items()}
    titles = {label: f"beta {weight:g}" if "tcvae" in label else "beta 1, the VAE" for label, weight in weights.items()}
    over_beta = sorted((label for label in trained if label == "vae" or "tcvae" in label), key=weights.__getitem__)
    figures: dict[str, tuple[str, Any]] = {
        "reconstructions": (
            "Held-out images and what each model makes of them",
            grids.comparison(originals | decoded, columns=_SHOWN),
        ),
    }
    if len(over_beta) > 1:
        figures["reconstructions_over_beta"] = (
            "Reconstructions of the beta-TCVAE over the weight of the total correlation (figure 3)",
            grids.comparison(originals | {titles[label]: decoded[label] for label in over_beta}, columns=_SHOWN),
        )
    for label, run in trained.items():
        if run.model.sample is None:
            continue
        figures[f"samples_{label}"] = (
            f"{label}: samples from the prior (figure 2)",
            grids.grid(to_bytes(run.sample(key, 25)), columns=5),
        )
        reach, steps = config.evaluation.traversal_range, config.evaluation.traversal_steps
        rows = traversal(run, x[:1], pixels(data.validation), reach, steps)
        span = f"from {-reach:g} to {reach:g}"
        caption = f"{label}: one latent dimension at a time {span}, those of the largest KL first (figure 1)"
        figures[f"traversals_{label}"] = (caption, traversals.sheet(rows))
        figures[f"traversals_{label}_animated"] = (f"{caption}, animated", traversals.animation(rows))
    panels = {"KL, nats": "kl", "Squared error per value": "mean_squared_error"}
    variational = {label: lines for label, lines in records.items() if any("kl" in line for line in lines)}
    for title, metric in panels.items() if variational else ():
        figures[metric] = (f"{title} of each model", curves.runs(variational, metric))
    return figures


if __name__ == "__main__":
    main(sys.argv)
