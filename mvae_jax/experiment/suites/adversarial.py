"""VAE/GAN and its family: samples and reconstructions, signs of collapse, and edits along attribute vectors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import runs
from mvae_jax.eval import directions, fid, reconstruction, sharpness
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.eval.stability import Stability, assess_stability
from mvae_jax.experiment.classifier import Config as ClassifierConfig
from mvae_jax.experiment.declaration import Figures, Headline, Number, Results, Trained, check_least, plain
from mvae_jax.experiment.suites import collapse, latents
from mvae_jax.viz import curves, grids, report
from mvae_jax.viz.traversals import Strips

TITLES = {"gan": "GAN", "vae": "VAE", "vae_dis": "VAE, learned distance", "vae_gan": "VAE/GAN"}
WORDS = {
    **TITLES,
    "frechet_distance_of_samples": "Frechet distance of samples",
    "sharpness_of_samples": "sharpness of samples",
    "frechet_distance_of_reconstructions": "Frechet distance of reconstructions",
    "classifier_accuracy": "accuracy of the classifier",
    "sharpness_of_reconstructions": "sharpness of reconstructions",
    "squared_error": "squared error per value",
    "psnr": "PSNR, dB",
    # edits
    "images": "images without it",
    "read_before": "read from reconstructions",
    "read_after": "read from edited ones",
    "others_unchanged": "other attributes unchanged",
    "classifier_recall": "recall of the classifier",
}
# The 18 of Larsen et al., by CelebA's names in small letters. Of other data all attributes are taken.
ATTRIBUTES = (
    *("bald", "bangs", "black_hair", "blond_hair", "bushy_eyebrows", "eyeglasses", "gray_hair", "heavy_makeup"),
    *("high_cheekbones", "male", "mustache", "pale_skin", "rosy_cheeks", "smiling", "straight_hair", "wavy_hair"),
    *("wearing_lipstick", "young"),
)
_NOISE = 1.2  # sharpness, of that of real images
_SHOWN = 8
_EDITS = 9  # attributes of one sheet
_PAIRS = 10  # of attribute vectors in the report
_CHUNK = 250  # codes that are decoded and read at a time


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the trained models are measured and drawn.

    Attributes:
        images: held-out images, and as many samples of each model, at most. Frechet distances are of half of them.
        vector_images: training images from which attribute vectors are taken, at most; 0 for all (VG-05).
        sampled_vectors: take vectors from samples of the posteriors, as released, instead of their means (VG-05).
        edited_images: held-out images from which the classifier reads edits, at most, and not more than `images`.
        sliders: edits go from minus to plus this many attribute vectors.
    """

    images: int = 1000
    vector_images: int = 0
    sampled_vectors: bool = False
    edited_images: int = 1000
    sliders: float = 1.5

    def __post_init__(self) -> None:
        check_least(self, images=4, vector_images=0, edited_images=1)


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeVectors:
    """Directions of a latent space that stand for attributes.

    Attributes:
        vectors: attribute -> [D], in units of the codes; without attributes that all training images have, or none.
        edits: attribute -> numbers, with the keys of `WORDS`: what the classifier reads from held-out images without
            it when its vector is added to their codes, and how well it reads real ones.
    """

    vectors: Mapping[str, np.ndarray]
    edits: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Cosines of the angles between two vectors, in [-1, 1]; those farthest from 0 first."""
        if len(self.vectors) < 2:
            return []
        cosines, names = directions.cosines(np.stack(list(self.vectors.values()))), list(self.vectors)
        pairs = sorted(itertools.combinations(range(len(names)), 2), key=lambda pair: -abs(cosines[pair]))
        return [{"first": names[a], "second": names[b], "cosine": float(cosines[a, b])} for a, b in pairs]

    def to_dict(self) -> dict[str, Any]:
        """Cosines and edits, ready for JSON."""
        return {"cosines": self.pairs, "edits": self.edits}


def check(data: Any, classifier: ClassifierConfig) -> None:
    """Refuses images that cannot be measured on: they are too few, or no classifier of their attributes is wanted.

    Raises:
        ValueError: there are fewer held-out images than sheets show, or attributes and no classifier of them.
    """
    if len(data.validation) < _SHOWN:
        raise ValueError(f"there are {len(data.validation)} held-out images; expected at least {_SHOWN}.")
    if data.attributes and not (classifier.epochs or classifier.workdir):
        raise ValueError(
            "classifier.epochs is 0 and classifier.workdir is empty, but models are compared in the features of a "
            "classifier; expected at least 1 epoch, or the folder of a classifier."
        )


# --- numbers ---------------------------------------------------------------------------------------------------------


def count(trained: Trained) -> int:
    """Number of held-out images that are compared, and of samples."""
    return min(trained.config.evaluation.images, len(trained.data.validation))


def draw_samples(run: runs.Run, trained: Trained) -> jax.Array:
    """Samples from the prior, [N, H, W, C] in [-1, 1]; the same draws for all models."""
    z = jax.random.normal(jax.random.key(trained.config.seed), (count(trained), run.config.latent_size))
    return in_chunks(run.decode)(z)


def headline(trained: Trained, results: Results) -> Headline:
    """Likeness of reconstructions, sharpness of samples, and how often an added attribute is read."""
    rows, numbers = results["models"], []
    known = latents.mean_image_psnr(trained.data, trained.run.config.image_size)
    if encoding := {label: row["psnr"] for label, row in rows.items() if "psnr" in row}:
        best = max(encoding, key=encoding.__getitem__)
        numbers.append(
            Number(
                f"{encoding[best]:.1f} dB",
                f"is the likeness (PSNR) of held-out images that the {TITLES[best]} reconstructs; higher is better",
                f"the mean training image for every image: {known:.1f} dB",
                encoding[best] > known,
            )
        )
    first = "vae_gan" if "vae_gan" in rows else next(iter(rows))
    numbers.append(
        Number(
            f"{rows[first]['sharpness_of_samples']:.2f}",
            f"is the sharpness of images that the {TITLES[first]} makes up",
            "real images: 1; blurred ones have less, and above 1.2 is noise",
        )
    )
    if results["attribute_vectors"].edits:
        mean = _mean_edit(results["attribute_vectors"])
        numbers.append(
            Number(
                f"{mean['read_after']:.1%}",
                "of images show an attribute that was added to their code, as a classifier reads them",
                f"before: {mean['read_before']:.1%}; real images that have it: {mean['classifier_recall'] or 0:.1%}",
                (mean["read_after"] or 0) > (mean["read_before"] or 0),
            )
        )
    return Headline(numbers, "reconstructions" if encoding else f"samples_{first}")


def measure(trained: Trained) -> dict[str, dict[str, float]]:
    """Numbers of each model on held-out images, with the keys of `WORDS`; those of reconstructions where it encodes."""
    rows = {}
    for label, run in trained.runs.items():
        rows[label] = measure_run(run, trained)
        trained.interruption.check()
    return rows


def measure_run(run: runs.Run, trained: Trained) -> dict[str, float]:
    """Numbers of one model.

    Sets are compared by the first half of the pictures and the second half of the held-out images: reconstructions and
    their own originals would be closer than any two sets of images are. Without a classifier they are not compared.
    """
    classifier, half = trained.classifier, count(trained) // 2
    x, samples = pixels(trained.data.validation.first(count(trained))), draw_samples(run, trained)

    def distance(name: str, pictures: jax.Array) -> dict[str, float]:
        if classifier is None:
            return {}
        read = in_chunks(classifier.features)
        sets = read(pictures[:half]), read(x[half:])
        return {name: fid.frechet_distance(*sets, features=classifier.origin, split="held-out images").value}

    numbers = {
        **({"classifier_accuracy": classifier.held_out.accuracy} if classifier else {}),
        **distance("frechet_distance_of_samples", samples),
        "sharpness_of_samples": sharpness.sharpness_ratio(samples, x),
    }
    if run.model.encode is None:
        return numbers
    output = in_chunks(run.decode)(in_chunks(run.encode)(x)[0])
    return numbers | {
        **distance("frechet_distance_of_reconstructions", output),
        "sharpness_of_reconstructions": sharpness.sharpness_ratio(output, x),
        "squared_error": float(jnp.square((x - output) / 2).mean()),
        "psnr": float(reconstruction.psnr(x, output).mean()),
    }


def explain(trained: Trained, rows: Any) -> str:
    """How the numbers were measured, in words."""
    distances = (
        "The Frechet distance is that of the last hidden layer of a classifier of the training images "
        f"({trained.classifier}), of half of the samples, or of the reconstructions of half of the held-out images, "
        "from the other held-out images: lower is closer, but the numbers compare only within this table."
        if trained.classifier
        else "These images have no attributes, so no classifier of them compares sets of images."
    )
    return (
        f"Of {count(trained)} held-out images, reconstructed from the means of their posteriors, and as many samples "
        f"from the prior. {distances} Sharpness, the mean absolute Laplacian, is relative to real images: 1 is right, "
        "above 1.2 is noise."
    )


def stability(trained: Trained) -> dict[str, Stability]:
    """Signs of collapse of each model."""
    held_out = pixels(trained.data.validation)
    return {
        label: assess_stability(draw_samples(run, trained), held_out, trained.records[label])
        for label, run in trained.runs.items()
    }


def stability_parts(trained: Trained, signs: Mapping[str, Stability]) -> list[report.Part | str]:
    """Table of `stability`."""
    return collapse.parts(TITLES, signs)


def problems(trained: Trained, results: Results) -> list[str]:
    """Signs of collapse, samples that are noise, and too few images to compare, a sentence each."""
    few = fid.too_few(count(trained) // 2, trained.classifier.run.config.hidden) if trained.classifier else ()
    noisy = [
        f"{TITLES[label]}: samples have {row['sharpness_of_samples']:.3g} times the sharpness of real images; what is "
        f"above {_NOISE:g} is noise."
        for label, row in results["models"].items()
        if row["sharpness_of_samples"] > _NOISE
    ]
    return [*collapse.problems(TITLES, results["stability"]), *noisy, *few]


def attribute_vectors(trained: Trained) -> AttributeVectors:
    """The vectors of VAE/GAN, from training images, and their edits; none without it, or without attributes."""
    settings, data, run = trained.config.evaluation, trained.data, trained.runs.get("vae_gan")
    if run is None or not data.attributes:
        return AttributeVectors({})
    chosen = data.train.first(settings.vector_images or len(data.train))
    names = ATTRIBUTES if set(ATTRIBUTES) <= set(data.attributes) else data.attributes
    bits = chosen["attributes"][:, [data.attributes.index(name) for name in names]]
    varied = [column for column in range(len(names)) if 0 < bits[:, column].sum() < len(bits)]
    if not varied:
        return AttributeVectors({})
    key = jax.random.fold_in(jax.random.key(trained.config.seed), 1) if settings.sampled_vectors else None
    differences = directions.attribute_vectors(run.encode, pixels(chosen), bits[:, varied], key=key)
    vectors = {names[column]: vector for column, vector in zip(varied, differences, strict=True)}
    return AttributeVectors(vectors, measure_edits(run, trained, vectors))


def measure_edits(
    run: runs.Run, trained: Trained, vectors: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float | None]]:
    """Numbers of the edits of held-out images along the vectors of a model; {} without a classifier."""
    classifier, names = trained.classifier, trained.data.attributes
    if classifier is None:
        return {}
    logits = in_chunks(lambda codes: classifier.logits(run.decode(codes)), _CHUNK)

    def read(codes: np.ndarray) -> np.ndarray:
        whole = np.pad(codes, ((0, -len(codes) % _CHUNK), (0, 0)))  # so that nothing is compiled for a rest
        return logits(whole)[: len(codes)]

    z = in_chunks(run.encode)(pixels(trained.data.validation.first(count(trained))))[0]
    few = trained.data.validation.first(min(len(z), trained.config.evaluation.edited_images))
    edits = {}
    for name, score in directions.edit_scores(read, z[: len(few)], few["attributes"], vectors, names).items():
        real = classifier.held_out.attributes[names.index(name)]
        edits[name] = {
            **dataclasses.asdict(score),
            "classifier_accuracy": real.accuracy,
            "classifier_recall": real.recall,
        }
    return edits


def attribute_vector_parts(trained: Trained, result: AttributeVectors) -> list[report.Part | str]:
    """The pairs of vectors that are most alike or most opposed, and a table of the edits."""
    parts: list[report.Part | str] = []
    if result.pairs:
        parts += [
            "Pairs whose vectors are most alike or most opposed: what goes together in the images cannot be edited "
            "alone.",
            report.table(
                [
                    {"first": plain(pair["first"]), "second": plain(pair["second"]), "cosine": pair["cosine"]}
                    for pair in result.pairs[:_PAIRS]
                ]
            ),
        ]
    if result.edits:
        rows = [{"attribute": plain(name), **row} for name, row in {**result.edits, "mean": _mean_edit(result)}.items()]
        parts += [
            report.subheading("Edits"),
            "Shares of the images from which the classifier reads the attribute, before and after its vector was "
            "added, and of the other attributes that are read as before. The recall of the classifier is what real "
            "images reach.",
            report.table([{WORDS.get(key, key): value for key, value in row.items()} for row in rows]),
        ]
    return parts or ["There are no vectors: VAE/GAN is not among the models, or all training images are alike."]


def explain_edits(trained: Trained, result: AttributeVectors) -> str:
    """How edits were measured, in words."""
    return (
        "VAE/GAN: held-out images without an attribute, reconstructed from the means of their posteriors, and edited "
        "by adding the attribute's vector to these (figure 5). What excludes the attribute ought to change. The "
        "classifier's accuracy is that on all held-out images; its recall is the share of those with the attribute "
        "from which it reads it."
    )


def attribute_vector_lines(trained: Trained, result: AttributeVectors) -> list[str]:
    """Means over the edits, in the log."""
    if not result.edits:
        return []
    mean = _mean_edit(result)
    numbers = ", ".join(f"{WORDS[key]} {value:.3f}" for key, value in mean.items() if value is not None)
    return [f"VAE/GAN, attribute vectors added, mean over {len(result.edits)} attributes: {numbers}"]


def _mean_edit(result: AttributeVectors) -> dict[str, float | None]:
    """Mean over attributes of each share, where there is one."""
    rows, means = list(result.edits.values()), {}
    for key in [key for key in rows[0] if key != "images"]:
        known = [value for row in rows if (value := row[key]) is not None]
        means[key] = float(np.mean(known)) if known else None
    return means


# --- figures ---------------------------------------------------------------------------------------------------------


def samples(trained: Trained, results: Results) -> Figures:
    """Samples of each model."""
    return {
        f"samples_{label}": (
            f"{TITLES[label]}: samples from the prior (figure 3)",
            grids.grid(to_bytes(draw_samples(run, trained)[: 5 * _SHOWN]), columns=_SHOWN),
        )
        for label, run in trained.runs.items()
    }


def reconstructions(trained: Trained, results: Results) -> Figures:
    """Held-out images and what each model makes of them, of the models that encode."""
    shown = trained.data.validation.first(_SHOWN)
    x = pixels(shown)
    decoded = {
        TITLES[label]: to_bytes(run.decode(run.encode(x)[0]))
        for label, run in trained.runs.items()
        if run.model.encode is not None
    }
    if not decoded:
        return {}
    caption = (
        f"Held-out images, and beneath them what comes back from {', '.join(decoded)}: the means of their posteriors, "
        "decoded (figure 4)"
    )
    return {"reconstructions": (caption, grids.comparison({"original": shown["image"]} | decoded, columns=_SHOWN))}


def edits(trained: Trained, results: Results) -> Figures:
    """Held-out images with attribute vectors added to their codes, and one of them moved along each vector."""
    chosen = dict(itertools.islice(results["attribute_vectors"].vectors.items(), _EDITS))
    if not chosen:
        return {}
    run, shown = trained.runs["vae_gan"], trained.data.validation.first(_SHOWN)
    z, reach = run.encode(pixels(shown))[0], trained.config.evaluation.sliders
    rows = {"original": shown["image"], "reconstruction": to_bytes(run.decode(z))}
    rows |= {
        plain(name): to_bytes(directions.edited(run.decode, z, vector, [1.0])[0]) for name, vector in chosen.items()
    }
    place = latents.typical(trained.data.validation["image"])
    moved = run.encode(pixels(trained.data.validation.take(np.array([place]))))[0]
    strengths = np.linspace(-reach, reach, 9)
    sliders = {
        plain(name): to_bytes(directions.edited(run.decode, moved, vector, strengths)[:, 0])
        for name, vector in chosen.items()
    }
    return {
        "edits": (
            "VAE/GAN: held-out images, their reconstructions, and with attribute vectors added (figure 5)",
            grids.comparison(rows, columns=_SHOWN),
        ),
        "sliders": (
            f"VAE/GAN: one held-out image from {-reach:g} to {reach:g} times each attribute vector; 0 is its "
            f"reconstruction",
            Strips(sliders, latents.values_of(strengths), len(strengths) - 1),
        ),
    }


def learning_curves(trained: Trained, results: Results) -> Figures:
    """Discriminator and gradients over training, and the squared error of the models that encode."""
    panels = {
        "Errors of the discriminator": ["discriminator/*_error"],
        "Accuracies of the discriminator": ["discriminator/*_accuracy"],
        "Shares of steps in which a player moves": ["*/updated"],
        "Gradient norms": ["*/gradient_norm"],
    }
    figures: dict[str, tuple[str, Any]] = {
        f"players_{label}": (
            f"{TITLES[label]}: the players over training; a discriminator that is always right, or never, teaches "
            f"nothing",
            curves.losses(lines, panels),
        )
        for label, lines in trained.records.items()
        if any("discriminator/real_error" in line for line in lines)
    }
    errors = {TITLES[label]: lines for label, lines in trained.records.items() if label != "gan"}
    if errors:
        caption = (
            "Squared error of reconstructions, per value in [0, 1]: lines without dots are of training images, those "
            "with dots of held-out ones"
        )
        figures["squared_error"] = (
            caption,
            curves.runs(errors, "mean_squared_error", ylabel="squared error per value"),
        )
    return figures
