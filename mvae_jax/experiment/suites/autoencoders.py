"""Autoencoders and variational autoencoders of images: likelihood, reconstructions, samples and latent space.

The autoencoder has no prior. Its samples are of codes from N(0, I), as the overview draws them, and in a row of their
own, `autoencoder_fitted`, of codes from a Gaussian fitted to those of training images.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from mvae_jax import random, runs
from mvae_jax.data.batches import Splits
from mvae_jax.eval import fid, likelihood, reconstruction
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.experiment.declaration import Figures, Headline, Number, Results, Trained, check_least, plain
from mvae_jax.experiment.suites import latents
from mvae_jax.viz import curves, grids, report, traversals

WORDS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "squared_error": "squared error per value",
    "elbo": "ELBO, nats",
    "bound": "importance-weighted bound, nats",
    "kl": "KL, nats",
    "active_dimensions": "active dimensions",
    "dimension_wise_kl": "dimension-wise KL",
    "dependence": "mutual information + total correlation",
    "mutual_information": "mutual information",
    "total_correlation": "total correlation",
}
TRAINING = "training_images"  # row of distances
DIVERGENCES = {"kl": "KL", "dimension_wise_kl": "dimension-wise KL"}
SAMPLE_WORDS = {"frechet_distance": "Frechet distance of samples"}
_NAMES = {"autoencoder": "autoencoder", "beta_vae": "beta-VAE", "beta_tcvae": "beta-TCVAE", "vae": "VAE"}
_FITTED = "_fitted"  # ends the row of samples from a Gaussian fitted to codes
_SHOWN = 8
_FEATURES = 6  # of figure 1, at most


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the trained models are measured and drawn.

    Attributes:
        samples: per image of the importance-weighted bound.
        images: held-out images of that bound, at most.
        posteriors: training images whose posteriors make up the aggregated one, and to whose codes a Gaussian is
            fitted for an autoencoder, at most.
        traversal_range: traversals go from minus to plus this many standard deviations: of the prior, which has 1, or
            of an autoencoder's codes.
        traversal_steps: pictures per traversal.
    """

    samples: int = 50
    images: int = 100
    posteriors: int = 2000
    traversal_range: float = 3.0
    traversal_steps: int = 6

    def __post_init__(self) -> None:
        check_least(self, samples=1, images=1, posteriors=2, traversal_steps=2)


def title_of(folder: str) -> str:
    """The name of a model for people: "beta_vae_5" is the beta-VAE whose weight is 5."""
    folder, fitted, _ = folder.partition(_FITTED)
    model = max((name for name in _NAMES if folder.startswith(name)), key=len, default="")
    weight = folder[len(model) :].strip("_")
    if not model:
        return plain(folder)
    return _NAMES[model] + f" of weight {weight}" * bool(weight) + ", codes from a fitted Gaussian" * bool(fitted)


def headline(trained: Trained, results: Results) -> Headline:
    """The best likeness of reconstructions, the best likelihood and the best samples."""
    rows, data = results["models"], trained.data
    best = max(rows, key=lambda label: rows[label]["psnr"])
    known = latents.mean_image_psnr(data, trained.run.config.image_size)
    numbers = [
        Number(
            f"{rows[best]['psnr']:.1f} dB",
            f"is the best likeness (PSNR) of reconstructed held-out images, by the {title_of(best)}",
            f"the mean training image for every image: {known:.1f} dB",
            rows[best]["psnr"] > known,
        )
    ]
    if bounds := {label: row["bound"] for label, row in rows.items() if "bound" in row}:
        best, worst = (choose(bounds, key=bounds.__getitem__) for choose in (max, min))
        text = f"is the highest bound of the log-likelihood of a held-out image, by the {title_of(best)}"
        others = f"the lowest one, of the {title_of(worst)}: {bounds[worst]:,.0f}" if worst != best else ""
        numbers.append(Number(f"{bounds[best]:,.0f} nats", text, others))
    if distances := {label: row["frechet_distance"] for label, row in results["samples"].items()}:
        shown = dict(zip(distances, report.written(list(distances.values())), strict=True))
        del distances[TRAINING]
        best = min(distances, key=distances.__getitem__)
        numbers.append(
            Number(
                shown[best],
                f"is the smallest Frechet distance of samples from held-out images, by the {title_of(best)}; lower is "
                "better",
                f"training images: {shown[TRAINING]}",
            )
        )
    return Headline(numbers, "reconstructions")


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


# --- samples ---------------------------------------------------------------------------------------------------------


def drawn_codes(run: runs.Run, trained: Trained, count: int) -> dict[str, jax.Array]:
    """Codes to sample images from, [count, D], by the ending of the row; the same noise for all models.

    Those of the prior under "". A model without one has N(0, I) there, and under "_fitted" the Gaussian that has the
    mean and the covariance of its codes of training images.
    """
    noise = random.standard_normal(jax.random.key(trained.config.seed), (count, run.config.latent_size))
    if run.model.sample is not None:
        return {"": noise}
    examples = pixels(trained.data.train.first(trained.config.evaluation.posteriors))
    return {"": noise, _FITTED: latents.fitted_codes(in_chunks(run.encode)(examples)[0], noise)}


def draw_samples(trained: Trained, count: int) -> dict[str, jax.Array]:
    """Samples of every model, row -> [count, H, W, C] in [-1, 1]."""
    return {
        f"{label}{ending}": jnp.clip(in_chunks(run.decode)(z), -1, 1)  # an autoencoder's may have no bound
        for label, run in trained.runs.items()
        for ending, z in drawn_codes(run, trained, count).items()
    }


def sample_distances(trained: Trained) -> dict[str, dict[str, float]]:
    """Frechet distance of samples from held-out images, of which there are as many; {} without a classifier.

    The row `TRAINING` is of as many training images: what samples that are as good as real images would have.
    """
    if trained.classifier is None:
        return {}
    x, read = pixels(trained.data.validation), in_chunks(trained.classifier.features)
    held_out, origin = read(x), trained.classifier.origin
    compared = draw_samples(trained, len(x)) | {TRAINING: pixels(trained.data.train.first(len(x)))}
    return {
        label: {
            "frechet_distance": fid.frechet_distance(
                read(pictures), held_out, features=origin, split="held-out images"
            ).value
        }
        for label, pictures in compared.items()
    }


def explain_samples(trained: Trained, rows: Any) -> str:
    """How the distances were measured, in words."""
    if trained.classifier is None:
        return (
            "Not measured: samples are compared in the features of an attribute classifier, and there is none, because "
            "the images have no attributes or classifier.epochs is 0."
        )
    return (
        f"As many samples, or training images, as held-out images, {len(trained.data.validation)}, in the last hidden "
        f"layer of a classifier of the training images ({trained.classifier}): the numbers compare only within this "
        "table. The autoencoder has no prior: it samples from N(0, I), and in a row of its own from a Gaussian with "
        "mean and covariance of its codes of training images."
    )


def problems(trained: Trained, results: Results) -> list[str]:
    """Too few images to compare, a sentence."""
    if trained.classifier is None:
        return []
    return list(fid.too_few(len(trained.data.validation), trained.classifier.run.config.hidden))


# --- features that latent dimensions follow --------------------------------------------------------------------------


def common_features(trained: Trained) -> dict[str, dict[str, dict[str, Any]]]:
    """Attributes that a dimension of every model follows, see `latents.common_features`; {} without attributes."""
    data = trained.data
    if not data.attributes:
        return {}
    x = pixels(data.validation)
    codes = {label: in_chunks(run.encode)(x)[0] for label, run in trained.runs.items()}
    return latents.common_features(codes, data.validation["attributes"], data.attributes, _FEATURES)


def feature_parts(trained: Trained, features: Any) -> list[report.Part | str]:
    """Table of `common_features`."""
    if not features:
        return [report.note("These images have no attributes that a dimension could be compared with.")]
    rows = [
        {"attribute": plain(name)}
        | {title_of(label): f"z{best['dimension']}, {best['correlation']:.2f}" for label, best in row.items()}
        for name, row in features.items()
    ]
    return [report.table(rows)]


def feature_sheet(trained: Trained, results: Results) -> Figures:
    """One sheet of all models: the dimension of each that follows an attribute, from less of it to more."""
    features, settings = results["common_features"], trained.config.evaluation
    if not features:
        return {}
    x, shown = pixels(trained.data.validation), latents.typical(trained.data.validation["image"])
    rows: dict[str, dict[str, tuple[str, Any]]] = {plain(name): {} for name in features}
    for label, run in trained.runs.items():
        mean, logvar = in_chunks(run.encode)(x)
        low, high = latents.ends(mean, logvar, settings.traversal_range)
        for name, row in features.items():
            dimension, sign = row[label]["dimension"], row[label]["correlation"]
            start, end = (float(side[dimension]) for side in ((low, high) if sign > 0 else (high, low)))
            text = f"z{dimension} ({start:.3g}, {end:.3g}), correlation {sign:.2f}"
            rows[plain(name)][title_of(label)] = (
                text,
                latents.along(run, mean[shown], dimension, start, end, settings.traversal_steps),
            )
    caption = (
        "The dimension of each model that follows an attribute best, of one held-out image from less of it to more; in "
        "brackets where it starts and ends (figure 1)"
    )
    return {"common_features": (caption, traversals.by_model(rows))}


# --- weights and figures ---------------------------------------------------------------------------------------------


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
                {"model": title_of(label), "divergence": DIVERGENCES.get(name, plain(name)), "weight": row["weight"]}
                | {"effective weight": row["effective"]}
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
            f"Held-out images, and beneath them what comes back from {', '.join(map(title_of, decoded))}",
            grids.comparison(originals | {title_of(name): rows for name, rows in decoded.items()}, columns=_SHOWN),
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
    """Samples of every model, on one sheet and on sheets of their own, and traversals of each."""
    settings = trained.config.evaluation
    x, reach = pixels(trained.data.validation), settings.traversal_range
    base = x[latents.typical(trained.data.validation["image"])][None]
    drawn = {label: to_bytes(pictures) for label, pictures in draw_samples(trained, 25).items()}
    figures: dict[str, tuple[str, Any]] = {
        "samples": (
            "Samples of each model, of the same noise; the autoencoder's, which has no prior, of codes from N(0, I) "
            "and from a Gaussian fitted to its codes (figure 2)",
            grids.comparison({title_of(label): pictures[:_SHOWN] for label, pictures in drawn.items()}, columns=_SHOWN),
        )
    }
    for label, pictures in drawn.items():
        origin = "a Gaussian fitted to its codes" if label.endswith(_FITTED) else "N(0, I)"
        caption = f"{title_of(label.removesuffix(_FITTED))}: samples of codes from {origin} (figure 2)"
        figures[f"samples_{label}"] = caption, grids.grid(pictures, columns=5)
    for label, run in trained.runs.items():
        prior = run.model.sample is not None
        unit = "" if prior else " standard deviations of its codes"
        order = "largest KL" if prior else "largest deviation"
        caption = (
            f"{title_of(label)}: one latent dimension at a time from {-reach:g} to {reach:g}{unit}, those of the "
            f"{order} first; what else changes with it is entangled with it"
        )
        figures |= latents.traversal_figures(
            f"traversals_{label}", caption, run, base, x, reach, settings.traversal_steps
        )
    return figures


def learning_curves(trained: Trained, results: Results) -> Figures:
    """KL and squared error of the variational models over training."""
    variational = {
        title_of(label): lines for label, lines in trained.records.items() if any("kl" in line for line in lines)
    }
    panels = {"KL, nats": "kl", "Squared error per value": "mean_squared_error"} if variational else {}
    return {
        metric: (
            f"{title} of each model: lines without dots are of training images, those with dots of held-out ones",
            curves.runs(variational, metric, ylabel=title),
        )
        for title, metric in panels.items()
    }
