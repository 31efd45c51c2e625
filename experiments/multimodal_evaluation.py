"""Judges, draws and reports a trained multimodal VAE: a counterpart to each table and figure of Kim, 2024."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from judge import Judge
from training import in_chunks, pixels, to_bytes

from mvae_jax import gaussian, runs
from mvae_jax.data import captions
from mvae_jax.data.batches import Splits
from mvae_jax.eval import consistency, cross_modal, reconstruction
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, grids, projections, report
from mvae_jax.viz import scores as score_figures

# Table 2 of the paper: latent size -> accuracy, precision, recall, F1.
PUBLISHED = {128: (0.92, 0.90, 0.94, 0.92), 256: (0.89, 0.86, 0.92, 0.89), 512: (0.88, 0.86, 0.91, 0.88)}
PANELS = {
    "Total loss": ["loss"],
    "Images": ["image_from_*"],
    "Attributes": ["text_from_*", "attribute_agreement"],
    "Divergences": ["*_kl", "posterior_matching", "inconsistency"],
    "Discriminator": ["adversarial", "discriminator/error", "discriminator/*_accuracy"],
}
_SHOWN = 18  # examples of a sheet
_DRAWS = 6  # pictures of one caption
_FRACTIONS = np.linspace(0, 1, 8)  # of an interpolation
_HELD_OUT = "held-out images"
_FROM_TEXT = "text to image, mean of the caption's posterior"


# --- numbers --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scores:
    """The numbers of the evaluation, all on validation images.

    Attributes:
        phase: phase of the checkpoint.
        step: its step.
        benchmark: matching against mismatched pairs.
        released: the same by the released code's protocol.
        image_to_text: attributes decoded from the image's latent.
        judged: what the judge reads from held-out and from generated images; empty without a judge.
        quality: PSNR and SSIM of images decoded from the image's and from the caption's latent.
        posteriors: distance of the two posteriors of a pair.
        diversity: of several images drawn from one caption.
        well_formed: share of the texts drawn from the prior that are of one gender and at most one hair colour.
    """

    phase: str
    step: int
    benchmark: consistency.Benchmark
    released: consistency.ReleasedResult
    image_to_text: cross_modal.AttributeScores
    judged: Mapping[str, cross_modal.AttributeScores]
    quality: Mapping[str, float]
    posteriors: cross_modal.PosteriorDistance
    diversity: Mapping[str, cross_modal.Diversity]
    well_formed: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "phase": self.phase,
            "step": self.step,
            "consistency": self.benchmark.result.to_dict(),
            "released_protocol": self.released.to_dict(),
            "image_to_text": self.image_to_text.to_dict(),
            "judged": {name: scores.to_dict() for name, scores in self.judged.items()},
            **self.quality,
            "posteriors": self.posteriors.to_dict(),
            "diversity": {name: value.to_dict() for name, value in self.diversity.items()},
            "well_formed": self.well_formed,
        }

    def write(self, path: Path) -> None:
        """Writes them as JSON."""
        atomic_write(path, json.dumps(self.to_dict(), indent=2) + "\n")


def check(data: Splits) -> None:
    """Refuses images that are too few to judge a model on, before it is trained.

    Raises:
        ValueError: fewer than four validation images, or all with one caption; or a caption that has no mismatch.
    """
    count, texts = len(data.validation), len(different(data.validation["attributes"]))
    if count < 4 or texts < 2:
        raise ValueError(
            f"there are {count} validation images with {texts} different captions; expected at least 4 and 2: use "
            "more images, or more of them for validation."
        )
    for name, split in (("validation", data.validation), ("calibration", data.calibration)):
        try:
            consistency.curate_mismatches(
                split["attributes"], data.attributes, seed=0, minimum_changes=_changes(data.attributes)
            )
        except ValueError as error:
            raise ValueError(f"the {name} images cannot be judged: {error}") from error


def _changes(names: Sequence[str]) -> int:
    """Four attributes of a mismatch differ (MM-04), or as many as can."""
    return min(4, consistency.most_changes(names))


def evaluate(run: runs.Run, data: Splits, judge: Judge | None, *, seed: int) -> Scores:
    """Judges a trained model on images that it was not trained on."""
    names, x, a = data.attributes, pixels(data.validation), data.validation["attributes"]
    encode_image, decode_image = in_chunks(run.encode_image), in_chunks(run.decode_image)
    benchmark = consistency.benchmark(
        encode_image,
        run.encode_attributes,
        (pixels(data.calibration), data.calibration["attributes"]),
        (x, a),
        names,
        seed=seed,
        minimum_changes=_changes(names),
    )
    posterior, text_posterior = encode_image(x), run.encode_attributes(a)
    keys = [jax.random.fold_in(jax.random.key(seed), draw) for draw in range(3)]
    drawn = gaussian.sample(keys[0], *text_posterior)
    prior = gaussian.standard_normal(keys[1], drawn.shape)
    prior_logits = run.decode_attributes(prior)
    decoded = {
        "reconstruction": decode_image(posterior[0]),
        _FROM_TEXT: decode_image(text_posterior[0]),
        "text to image, one draw per caption": decode_image(drawn),
    }
    joint = decode_image(prior)
    several, _ = _several(run, a, keys[2])
    diversity = {"pixels": cross_modal.diversity(several, x)}
    judged = {}
    if judge:
        logits = in_chunks(judge.run.logits)
        judged = {_HELD_OUT: judge.held_out} | {
            name: cross_modal.score_attributes(logits(pictures), a, names) for name, pictures in decoded.items()
        }
        judged["image and text drawn together from the prior"] = cross_modal.score_attributes(
            logits(joint), prior_logits > 0, names
        )
        features = in_chunks(judge.run.features)
        flat = features(several.reshape(-1, *several.shape[2:])).reshape(*several.shape[:2], -1)
        diversity["the judge's features"] = cross_modal.diversity(flat, features(x))
    from_image, from_text = list(decoded.values())[:2]
    return Scores(
        phase=run.phase,
        step=run.step,
        benchmark=benchmark,
        released=consistency.released_benchmark(encode_image, run.encode_attributes, (x, a), names, seed=seed),
        image_to_text=cross_modal.score_attributes(run.decode_attributes(posterior[0]), a, names),
        judged=judged,
        quality={
            "psnr": float(reconstruction.psnr(x, from_image).mean()),
            "ssim": float(reconstruction.ssim(x, from_image).mean()),
            "psnr_from_text": float(reconstruction.psnr(x, from_text).mean()),
            "ssim_from_text": float(reconstruction.ssim(x, from_text).mean()),
        },
        posteriors=cross_modal.posterior_distance(posterior, text_posterior, a),
        diversity=diversity,
        well_formed=float(cross_modal.well_formed(prior_logits > 0, names).mean()),
    )


def _several(run: runs.Run, attributes: np.ndarray, key: jax.Array, most: int = 20) -> tuple[jax.Array, np.ndarray]:
    """Several images of each of the first different captions, [R, S, H, W, C], and the captions' attributes."""
    texts = different(attributes)[:most]
    mean, logvar = run.encode_attributes(texts)
    draws = [gaussian.sample(jax.random.fold_in(key, draw), mean, logvar) for draw in range(_DRAWS)]
    return jnp.stack([run.decode_image(z) for z in draws], axis=1), texts


def different(attributes: np.ndarray) -> np.ndarray:
    """The different vectors among attributes, [R, A], in the order of their first appearance."""
    _, first = np.unique(attributes, axis=0, return_index=True)
    return attributes[np.sort(first)]


# --- pictures -------------------------------------------------------------------------------------------------------


def draw(
    run: runs.Run, data: Splits, scores: Scores, judge: Judge | None, *, seed: int, records: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[str, Any]]:
    """Draws the figures: {name of the file: (caption, picture)}.

    Args:
        run: the trained model.
        data: its images.
        scores: what `evaluate` returned.
        judge: likewise.
        seed: of the draws.
        records: the lines of the run's metrics.jsonl.
    """
    names = data.attributes
    shown = data.validation.first(_SHOWN)
    x, a, sentences = pixels(shown), shown["attributes"], write(shown["attributes"], names)
    means = {"from image": run.encode_image(x)[0], "from text": run.encode_attributes(a)[0]}
    predicted = run.decode_attributes(means["from image"]) > 0
    keys = [jax.random.fold_in(jax.random.key(seed), draw) for draw in range(3)]
    several, texts = _several(run, data.validation["attributes"], keys[2], most=8)
    half = max(1, len(texts) // 2)
    ends = texts[:half], texts[-half:]
    start, end = (run.encode_attributes(texts)[0] for texts in ends)
    between = [run.decode_image(gaussian.lerp(start, end, fraction)) for fraction in _FRACTIONS]
    prior = gaussian.standard_normal(keys[1], (_SHOWN, means["from image"].shape[1]))

    benchmark = scores.benchmark
    result = benchmark.result
    count = min(_SHOWN // 2, len(data.validation))
    pair_scores = np.concatenate([benchmark.match_scores[:count], benchmark.mismatch_scores[:count]])
    image_codes = in_chunks(run.encode_image)(pixels(data.validation))[0]
    text_codes = run.encode_attributes(data.validation["attributes"])[0]
    confusion = result.confusion
    figures = {
        "data": ("Held-out images and their captions (figure 2)", grids.grid(shown["image"], sentences)),
        "consistency": (
            "Pairs that match and pairs that do not, and the verdict (figure 5)",
            grids.consistency_pairs(
                np.concatenate([shown["image"][:count]] * 2),
                [*sentences[:count], *write(benchmark.mismatches[:count], names)],
                pair_scores,
                pair_scores > result.threshold,
                np.arange(2 * count) < count,
                result.threshold,
            ),
        ),
        "image_to_text": (
            "Image to text: held-out images, their captions and the model's (figure 6)",
            grids.image_to_text(shown["image"], sentences, write(predicted, names)),
        ),
        "text_to_image": (
            f"Text to image: {_DRAWS} draws from each caption's posterior (figure 7)",
            grids.text_to_image(write(texts, names), to_bytes(several)),
        ),
        "latent_space": (
            "Both modalities in the latent space, t-SNE (figure 9); lines join the two of a pair",
            projections.modalities(image_codes, text_codes, _groups(data.validation["attributes"], names), seed=seed),
        ),
        "reconstructions": (
            "Held-out images, decoded from the image's and from the caption's latent",
            grids.comparison(
                {"original": shown["image"]}
                | {label: to_bytes(run.decode_image(mean)) for label, mean in means.items()}
            ),
        ),
        "interpolation": (
            "Between the means of two captions",
            grids.interpolation(
                write(ends[0], names),
                write(ends[1], names),
                np.stack([to_bytes(pictures) for pictures in between], axis=1),
            ),
        ),
        "prior": (
            "Image and text drawn together from the prior",
            grids.grid(to_bytes(run.decode_image(prior)), write(run.decode_attributes(prior) > 0, names)),
        ),
        "confusion": (
            "Decisions (table 1)",
            score_figures.confusion_matrix(
                [
                    [confusion.mismatches_rejected, confusion.mismatches_accepted],
                    [confusion.matches_rejected, confusion.matches_accepted],
                ]
            ),
        ),
        "scores": (
            "Consistency scores of matching and mismatched pairs",
            score_figures.score_distributions(benchmark.match_scores, benchmark.mismatch_scores, result.threshold),
        ),
        "sensitivity": (
            "One attribute of the text wrong: area under the ROC curve of own against edited texts",
            score_figures.attribute_bars(
                {"one attribute wrong": {item.name: item.overall.auroc for item in result.sensitivity}},
                baseline=0.5,
                baseline_label="chance",
                xlabel="area under the ROC curve",
            ),
        ),
        "attributes": (
            "Attributes read from images" + (f" ({judge})" if judge else ""),
            score_figures.attribute_bars(
                {
                    label: {each.name: each.accuracy for each in read.attributes}
                    for label, read in _accuracies(scores).items()
                },
                baseline={each.name: each.majority_accuracy for each in scores.image_to_text.attributes},
                baseline_label="majority class",
                xlabel="accuracy",
            ),
        ),
    }
    if any("loss" in record for record in records):  # a run that has just started has none yet
        figures["losses"] = ("Losses; dashed lines are phase borders (figure 8)", curves.losses(records, PANELS))
    return figures


def _accuracies(scores: Scores) -> dict[str, cross_modal.AttributeScores]:
    series = {"image to text": scores.image_to_text}
    for label, name in (("judge, held-out images", _HELD_OUT), ("judge, text to image", _FROM_TEXT)):
        if name in scores.judged:
            series[label] = scores.judged[name]
    return series


def _groups(attributes: np.ndarray, names: Sequence[str]) -> list[str]:
    """The genders, as in the paper's figure; without them the first attribute."""
    name = "male" if "male" in names else names[0]
    others = "female" if name == "male" else f"not {name}"
    return [name if value else others for value in attributes[:, list(names).index(name)]]


def write(attributes: Any, names: Sequence[str]) -> list[str]:
    """Captions of attribute vectors, [N, A]."""
    return [captions.write(row, names) for row in np.asarray(attributes, np.float32)]


# --- report ---------------------------------------------------------------------------------------------------------


def _sensitivity_row(item: consistency.Sensitivity) -> dict[str, Any]:
    row = {"": item.name, "rejected": item.overall.rejected, "AUROC": item.overall.auroc, "paired": item.overall.paired}
    for change, part in (("added", item.added), ("removed", item.removed)):
        row |= {f"{change}: images": part and part.images, f"{change}: AUROC": part and part.auroc}
    return row


def consistency_row(label: str, scores: Scores, latent_size: int) -> dict[str, Any]:
    """A row of table 2, with 95 % intervals."""
    result = scores.benchmark.result
    row: dict[str, Any] = {"": label, "latent size": latent_size}
    for name, value in dataclasses.asdict(result.rates).items():
        low, high = result.intervals[name]
        row["F1" if name == "f1" else name] = f"{value:.3f} ({low:.3f} to {high:.3f})"
    return row | {"AUROC": result.auroc, "one word, no image": result.blind_accuracy}


def published_row(latent_size: int) -> dict[str, Any]:
    """The paper's row of table 2."""
    names = ("accuracy", "precision", "recall", "F1")
    return {"": "paper", "latent size": latent_size} | dict(zip(names, PUBLISHED[latent_size], strict=True))


def parts(scores: Scores, judge: Judge | None, *, latent_size: int, published: bool) -> list[report.Part | str]:
    """The tables of a report.

    Args:
        scores: what `evaluate` returned.
        judge: likewise.
        latent_size: L of the model.
        published: show the paper's row of the same latent size, where there is one.
    """
    result, released = scores.benchmark.result, scores.released
    rows = [consistency_row("this run", scores, latent_size)]
    if published and latent_size in PUBLISHED:
        rows.append(published_row(latent_size))
    quality = {
        "PSNR of reconstructions, dB": scores.quality["psnr"],
        "SSIM of reconstructions": scores.quality["ssim"],
        "PSNR of images from text, dB": scores.quality["psnr_from_text"],
        "SSIM of images from text": scores.quality["ssim_from_text"],
        "texts from the prior with one gender and at most one hair colour": scores.well_formed,
    }
    read = {"image to text": scores.image_to_text} | {f"judge: {name}": s for name, s in scores.judged.items()}
    return [
        report.heading("Consistency of image and text (table 2)"),
        f"{result.validation_images} held-out images, each with its own caption and with a curated mismatch; a pair "
        f"counts as a match if its score is above {result.threshold:.3f}, a threshold taken from "
        f"{result.calibration_images} further images. Match is the positive class. Intervals are 95 %, by bootstrap "
        f"over images and over {result.curations} curations of the mismatches.",
        report.table(rows),
        f"The best rule that looks at one attribute of the text and never at the image is right for "
        f"{result.blind_accuracy:.1%} of these pairs; 50 % is chance. What is above it, the mismatches give away.",
        report.table(
            [{"": name} | dataclasses.asdict(spread) for name, spread in result.over_curations.items()],
            f"Over {result.curations} curations of the mismatches, the same images",
        ),
        report.subheading("One attribute of the text wrong at a time"),
        report.table([_sensitivity_row(item) for item in result.sensitivity]),
        "AUROC of the images' own texts against texts with this one attribute wrong; 0.5 is chance. Paired: share of "
        "the images that score higher with their own text.",
        report.subheading("The released code's protocol"),
        released.protocol,
        report.table(
            [
                {"positive class": name} | dataclasses.asdict(rates)
                for name, rates in (("match", released.rates), ("mismatch", released.rates_mismatch_positive))
            ]
        ),
        report.heading("From one modality to the other"),
        *([str(judge)] if judge else [report.note("No judge: generated images were not read by a classifier.")]),
        report.table(
            [
                {
                    "": name,
                    "accuracy": scores.accuracy,
                    "majority class": scores.majority_accuracy,
                    "exact match": scores.exact_match,
                    "most frequent text": scores.majority_exact_match,
                    "mean F1": scores.macro_f1,
                    "mean F1, always yes": scores.blind_macro_f1,
                }
                for name, scores in read.items()
            ]
        ),
        report.table([dataclasses.asdict(score) for score in scores.image_to_text.attributes], "Image to text"),
        *(
            report.details(f"The judge, {name}", [report.table([dataclasses.asdict(s) for s in read.attributes])])
            for name, read in scores.judged.items()
        ),
        report.values(quality),
        report.table(
            [{"measured in": name} | value.to_dict() for name, value in scores.diversity.items()],
            f"Diversity of {_DRAWS} images drawn from one caption; 1 is that of the held-out images",
        ),
        report.values(scores.posteriors.to_dict(), "Distance of the two posteriors of a pair"),
    ]
