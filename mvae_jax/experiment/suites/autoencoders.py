"""Autoencoders and variational autoencoders of images: likelihood, reconstructions and latent space."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from mvae_jax import runs
from mvae_jax.data.batches import Splits
from mvae_jax.eval import likelihood, reconstruction
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.experiment.declaration import Figures, Results, Trained
from mvae_jax.experiment.suites import latents
from mvae_jax.viz import curves, grids, report

WORDS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "squared_error": "squared error per value",
    "elbo": "ELBO",
    "bound": "importance-weighted bound",
    "kl": "KL",
    "active_dimensions": "active dimensions",
    "dimension_wise_kl": "dimension-wise KL",
    "dependence": "mutual information + total correlation",
    "mutual_information": "mutual information",
    "total_correlation": "total correlation",
}
_SHOWN = 8


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


def measure(trained: Trained) -> dict[str, dict[str, Any]]:
    """Numbers of each model on held-out images, with the keys of `WORDS`; those of densities where it has any."""
    rows = {}
    for label, run in trained.runs.items():
        rows[label] = measure_run(run, trained.data, trained.config.evaluation, trained.config.seed)
        trained.interruption.check()
    return rows


def measure_run(run: runs.Run, data: Splits, settings: Evaluation, seed: int) -> dict[str, Any]:
    """Numbers of one model."""
    x = pixels(data.validation)
    mean = in_chunks(run.encode)(x)[0]
    output = jnp.clip(in_chunks(run.decode)(mean), -1, 1)  # that of an autoencoder has no bound
    numbers = {
        "psnr": float(reconstruction.psnr(x, output).mean()),
        "ssim": float(in_chunks(reconstruction.ssim)(x, output).mean()),
        "squared_error": float(jnp.square((x - output) / 2).mean()),
    }
    if "log_likelihood" not in run.functions:
        return numbers
    key = jax.random.key(seed)
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
    return numbers | {
        "elbo": float(bounds.elbo.mean()),
        "bound": float(bounds.bound.mean()),
        "kl": float(bounds.kl.mean()),
        "active_dimensions": int(likelihood.active_units(mean).sum()),
        "dimension_wise_kl": aggregate.dimension_wise_kl.value,
        "dependence": aggregate.dependence,
        "mutual_information": aggregate.mutual_information.value if aggregate.resolved else None,
        "total_correlation": aggregate.total_correlation.value if aggregate.resolved else None,
    }


def explain(trained: Trained, rows: Any) -> str:
    """How the numbers were measured, in words."""
    settings, data = trained.config.evaluation, trained.data
    posteriors = min(settings.posteriors, len(data.train))
    return (
        f"Likelihoods are of pixel values in [0, 1], in nats: the importance-weighted bound of log p(x) from "
        f"{settings.samples} samples for {min(settings.images, len(data.validation))} images. "
        f"The aggregated posterior is that of {posteriors} training images. Its mutual information cannot exceed "
        f"log {posteriors} = {math.log(posteriors):.2f}; where it comes within one nat of that, the images are too "
        "few to tell it from the total correlation, and only the sum of the two is shown. A dimension is active if "
        "the variance of its posterior means over the held-out images is above 0.01."
    )


def weights(trained: Trained) -> dict[str, dict[str, dict[str, float]]]:
    """Weight of each model's divergences, and what it would be beside means: model -> divergence -> both."""
    return {
        label: {
            name: {"weight": weight, "effective": run.config.effective_weight(weight)}
            for name, weight in getattr(run.config, "divergence_weights", {}).items()
        }
        for label, run in trained.runs.items()
    }


def weight_parts(trained: Trained, by_model: Any) -> list[report.Part | str]:
    """Table of `weights`."""
    return [
        report.table(
            [
                {"model": label, "divergence": name, **row}
                for label, divergences in by_model.items()
                for name, row in divergences.items()
            ]
        )
    ]


def reconstructions(trained: Trained, results: Results) -> Figures:
    """Held-out images and what each model makes of them, of the beta-TCVAE also over its weight."""
    shown = trained.data.validation.first(_SHOWN)
    x, originals = pixels(shown), {"original": shown["image"]}
    decoded = {label: to_bytes(run.decode(run.encode(x)[0])) for label, run in trained.runs.items()}
    figures: dict[str, tuple[str, Any]] = {
        "reconstructions": (
            "Held-out images and what each model makes of them",
            grids.comparison(originals | decoded, columns=_SHOWN),
        ),
    }
    weight_of = {label: getattr(run.config, "total_correlation_weight", 1.0) for label, run in trained.runs.items()}
    titles = {
        label: f"beta {weight:g}" if "tcvae" in label else "beta 1, the VAE" for label, weight in weight_of.items()
    }
    over_beta = sorted((name for name in trained.runs if name == "vae" or "tcvae" in name), key=weight_of.__getitem__)
    if len(over_beta) > 1:
        figures["reconstructions_over_beta"] = (
            "Reconstructions of the beta-TCVAE over the weight of the total correlation (figure 3)",
            grids.comparison(originals | {titles[label]: decoded[label] for label in over_beta}, columns=_SHOWN),
        )
    return figures


def samples_and_traversals(trained: Trained, results: Results) -> Figures:
    """Samples from the prior and traversals of each model that has a prior."""
    settings, key = trained.config.evaluation, jax.random.key(trained.config.seed)
    x, span = pixels(trained.data.validation), f"from {-settings.traversal_range:g} to {settings.traversal_range:g}"
    figures: dict[str, tuple[str, Any]] = {}
    for label, run in trained.runs.items():
        if run.model.sample is None:
            continue
        figures[f"samples_{label}"] = (
            f"{label}: samples from the prior (figure 2)",
            grids.grid(to_bytes(run.sample(key, 25)), columns=5),
        )
        caption = f"{label}: one latent dimension at a time {span}, those of the largest KL first (figure 1)"
        figures |= latents.traversal_figures(
            f"traversals_{label}", caption, run, x[:1], x, settings.traversal_range, settings.traversal_steps
        )
    return figures


def learning_curves(trained: Trained, results: Results) -> Figures:
    """KL and squared error of the variational models over training."""
    variational = {label: lines for label, lines in trained.records.items() if any("kl" in line for line in lines)}
    panels = {"KL, nats": "kl", "Squared error per value": "mean_squared_error"} if variational else {}
    return {metric: (f"{title} of each model", curves.runs(variational, metric)) for title, metric in panels.items()}
