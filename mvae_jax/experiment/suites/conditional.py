"""Images from attributes: error and KL, attributes of samples and in codes, and edits.

These are table 1, section 5.3 and figures 3 to 5 of Debbagh, 2023.

Models come in the order from the largest beta to the smallest.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import attributes as face_attributes
from mvae_jax import gaussian, images, losses, runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import consistency, cross_modal, probes
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.experiment.classifier import Classifier
from mvae_jax.experiment.declaration import Figures, Headline, Number, Results, Trained
from mvae_jax.experiment.suites import latents
from mvae_jax.viz import grids, report, scores

# Table 1 of the paper: data set -> beta -> "MSE" and KL.
PUBLISHED = {
    "CelebA": {0.9: (82787, 9515), 0.75: (81157, 10033), 0.5: (73137, 15845), 0.25: (70444, 27107)},
    "CUB-200-2011": {0.9: (20129, 482), 0.75: (13446, 2315), 0.5: (13256, 3677), 0.25: (12093, 4957)},
}
HELD_OUT, TRAINING = "held_out", "training"
WORDS = {
    HELD_OUT: "held-out images",
    TRAINING: "training images",
    "squared_error": "squared error per image",
    "mean_squared_error": "per value",
    "kl": "KL, nats",
    "squared_error_falls": "the squared error falls",
    "kl_rises": "the KL rises",
    "accuracy": "accuracy",
    "majority_accuracy": "majority class",
    "balanced_accuracy": "balanced accuracy",
    "exact_match": "all attributes right",
    "species": "species",
    "majority_species": "most frequent species",
    "guessed_species": "guessed species",
}
_SHOWN = 6  # examples of a sheet, and samples from one attribute vector
_EDITS = 10  # of one sheet, at most
_CHAIN = 5  # attributes that are added and removed one after the other, at most
_PROBED = 5000  # training images that a probe learns from, at most
_BARS = 40  # attributes of one chart, at most
_CHUNK = 64  # examples at a time: images may be large
_SPECIES = re.compile(r"\d{3}\..+")  # as in 001.Black_footed_Albatross


def headline(trained: Trained, results: Results) -> Headline:
    """Attributes of samples, likeness of reconstructions, and attributes that are left in the codes."""
    terms, agreements, probed = (results[name] for name in ("terms", "agreements", "probe"))
    errors = {label: row["mean_squared_error"] for label, row in terms.held_out.items()}
    closest = min(errors, key=errors.__getitem__)
    of_mean = latents.mean_image_errors(trained.data.train["image"], trained.data.validation["image"]).mean()
    smallest, known = report.written([errors[closest], of_mean])
    numbers, shown = [], closest
    if HELD_OUT in agreements:
        drawn = {label: agreements[label].attributes.accuracy for label in trained.runs}
        best, real = max(drawn, key=drawn.__getitem__), agreements[HELD_OUT].attributes
        shown = best  # sliders are to show how attributes are followed
        numbers.append(
            Number(
                f"{drawn[best]:.1%}",
                f"of the attributes in images drawn from attributes are as asked for, as a classifier reads them "
                f"({_words(best)})",
                f"always the more frequent answer: {real.majority_accuracy:.1%}; real images: {real.accuracy:.1%}",
                drawn[best] > real.majority_accuracy,
            )
        )
    numbers.append(
        Number(
            smallest,
            f"is the smallest squared error per value, from 0 to 1, of reconstructed held-out images "
            f"({_words(closest)})",
            f"the mean training image for every image: {known}",
            bool(errors[closest] < of_mean),
        )
    )
    left = {label: agreement.balanced_accuracy for label, agreement in probed.items() if agreement.balanced_accuracy}
    if left:
        least = min(left, key=left.__getitem__)
        text = f"balanced accuracy of reading the attributes from codes, which should be free of them ({_words(least)})"
        numbers.append(Number(f"{left[least]:.1%}", text, "guessing: 50%"))
    return Headline(numbers, f"sliders_{shown}")


# --- error and KL ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Terms:
    """Squared error and KL of each model.

    Attributes:
        held_out: model -> what `measure_run` returns, of images that were not trained on.
        training: likewise, of as many training images.
        orderings: "held_out" and "training" -> what `orderings` returns; empty with one model.
    """

    held_out: Mapping[str, Mapping[str, float]]
    training: Mapping[str, Mapping[str, float]]
    orderings: Mapping[str, Mapping[str, bool]]


def measure(trained: Trained) -> Terms:
    """Measures all models on held-out images, and on as many training images."""
    data, key = trained.data, _key(trained, 0)
    splits = {HELD_OUT: data.validation, TRAINING: data.train.first(len(data.validation))}
    rows: dict[str, dict[str, dict[str, float]]] = {name: {} for name in splits}
    for label, run in trained.runs.items():
        for name, split in splits.items():
            rows[name][label] = measure_run(run, split, key)
        trained.interruption.check()
    ordered = {name: orderings(list(by_model.values())) for name, by_model in rows.items() if len(by_model) > 1}
    return Terms(rows[HELD_OUT], rows[TRAINING], ordered)


def _key(trained: Trained, draw: int) -> jax.Array:
    """The key of one kind of draws: 0 of codes, 1 of samples that are read, 2 of samples shown, 3 of codes probed."""
    return jax.random.fold_in(jax.random.key(trained.config.seed), draw)


def measure_run(run: runs.Run, split: Split, key: jax.Array) -> dict[str, float]:
    """Squared error and KL of one model, means over images.

    Args:
        run: the model.
        split: the images and their attributes.
        key: of the code that is drawn from each image's posterior.

    Returns:
        "squared_error", summed over pixel values in [0, 1], "kl" in nats, and "mean_squared_error", per pixel value.
    """

    def of_chunk(x: Any, a: Any, keys: jax.Array) -> dict[str, jax.Array]:
        x = images.to_float(x)
        posterior = run.encode(x, a)
        output = run.decode(gaussian.sample(keys[0], *posterior), a)
        return {
            "squared_error": losses.squared_error(images.to_unit_interval(output), images.to_unit_interval(x)),
            "kl": losses.kl_diag_gaussians(*posterior, *run.prior(a)),
        }

    values = in_chunks(of_chunk, _CHUNK)(split["image"], split["attributes"], jax.random.split(key, len(split)))
    means = {name: float(value.mean()) for name, value in values.items()}
    return means | {"mean_squared_error": means["squared_error"] / math.prod(run.config.image_shape)}


def orderings(rows: Sequence[Mapping[str, float]]) -> dict[str, bool]:
    """Whether the error falls and the KL rises from each model to the next, as in table 1 of the paper."""
    pairs = list(itertools.pairwise(rows))
    return {
        "squared_error_falls": all(after["squared_error"] < before["squared_error"] for before, after in pairs),
        "kl_rises": all(after["kl"] > before["kl"] for before, after in pairs),
    }


def term_lines(trained: Trained, terms: Terms) -> list[str]:
    """`terms` in the log."""
    return [
        *(
            f"{_words(label)}, held-out images: squared error {row['squared_error']:.1f}, KL {row['kl']:.2f} nats"
            for label, row in terms.held_out.items()
        ),
        *_ordering_lines(terms),
    ]


def _ordering_lines(terms: Terms) -> list[str]:
    sentences = []
    for name, kept in terms.orderings.items():
        clauses = [f"{WORDS[ordering]}: {'yes' if holds else 'no'}" for ordering, holds in kept.items()]
        sentences.append(f"As beta falls, on {WORDS[name]}, {' and '.join(clauses)}.")
    return sentences


def explain_terms(trained: Trained, terms: Terms) -> str:
    """How error and KL were measured, in words."""
    return (
        f"Means over {len(trained.data.validation)} images that were not trained on, with a code drawn from the "
        "posterior of each. The error is the sum over an image's pixel values in [0, 1]; per value, their mean."
    )


def term_parts(trained: Trained, terms: Terms) -> list[report.Part | str]:
    """Tables of `terms`, beside the paper's numbers where it has some, and of what beta weighs."""
    published = PUBLISHED.get(trained.data.provenance.get("data_set", ""), {})
    rows = {
        name: _term_rows(trained, by_model)
        for name, by_model in ((HELD_OUT, terms.held_out), (TRAINING, terms.training))
    }
    paper = "In the paper the squared error falls and the KL rises as beta falls."
    if published:
        for row in rows[HELD_OUT]:
            row["paper: MSE"], row["paper: KL"] = published.get(row["beta"], (None, None))
        paper += (
            " Its numbers are sums over an unknown number of images, perhaps of training images: only orderings can be "
            "compared."
        )
    weights = [
        {"beta": run.config.beta, "effective beta": run.config.effective_weight(run.config.divergence_weights["kl"])}
        for run in trained.runs.values()
    ]
    return [
        report.table(rows[HELD_OUT], "Held-out images"),
        *_ordering_lines(terms),
        paper,
        report.details("As many training images", [report.table(rows[TRAINING], "As many training images")]),
        report.subheading("What beta weighs"),
        "In the objective, (1 - beta) and beta stand beside sums over pixel values and over latent dimensions. Beside "
        "means, as other code has them, the KL's weight relative to the error's would be the effective beta.",
        report.table(weights),
    ]


def _term_rows(trained: Trained, by_model: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    keys = ("squared_error", "mean_squared_error", "kl")
    return [
        {"beta": trained.runs[label].config.beta} | {WORDS[key]: row[key] for key in keys}
        for label, row in by_model.items()
    ]


# --- attributes of samples -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Species:
    """How often the species with the largest logit is the right one, in [0, 1].

    Attributes:
        accuracy: share of the images.
        majority_accuracy: of always answering the most frequent species of these images.
        chance: of guessing.
    """

    accuracy: float
    majority_accuracy: float
    chance: float

    @classmethod
    def of(cls, logits: jax.Array | np.ndarray, attributes: np.ndarray, names: Sequence[str]) -> Species | None:
        """Compares, both [N, A]; None if the attributes do not say each image's species."""
        columns = species_of(names)
        if len(columns) < 2 or (attributes[:, columns].sum(axis=1) != 1).any():
            return None
        truth, answers = (np.asarray(values)[:, columns].argmax(axis=1) for values in (attributes, logits))
        return cls(float((answers == truth).mean()), float(np.bincount(truth).max() / len(truth)), 1 / len(columns))


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Attributes that the classifier reads from images, against those that the images were drawn from.

    Attributes:
        attributes: one by one, and together.
        balanced_accuracy: mean over the attributes that some images have and some have not; guessing gives 0.5.
        species: None where the attributes do not say it.
    """

    attributes: cross_modal.AttributeScores
    balanced_accuracy: float | None
    species: Species | None

    @classmethod
    def of(cls, logits: jax.Array | np.ndarray, attributes: np.ndarray, names: Sequence[str]) -> Agreement:
        """Compares, both [N, A]."""
        scored = cross_modal.score_attributes(logits, attributes, names)
        shares = [score.balanced_accuracy for score in scored.attributes if score.balanced_accuracy is not None]
        return cls(scored, float(np.mean(shares)) if shares else None, Species.of(logits, attributes, names))

    def row(self) -> dict[str, float | None]:
        """Words -> share, for a table."""
        row = {
            "accuracy": self.attributes.accuracy,
            "majority_accuracy": self.attributes.majority_accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "exact_match": self.attributes.exact_match,
        }
        if self.species:
            row |= {
                "species": self.species.accuracy,
                "majority_species": self.species.majority_accuracy,
                "guessed_species": self.species.chance,
            }
        return {WORDS[key]: share for key, share in row.items()}


def species_of(names: Sequence[str]) -> list[int]:
    """Columns of the attributes that are species."""
    return [column for column, name in enumerate(names) if _SPECIES.fullmatch(name)]


def agreements(trained: Trained) -> dict[str, Agreement]:
    """Attributes that the classifier reads: "held_out", the real images, and model -> agreement; {} without it."""
    classifier, data, key = trained.classifier, trained.data, _key(trained, 1)
    if classifier is None:
        return {}
    logits = {HELD_OUT: read(classifier, None, data.validation, key)}
    for label, run in trained.runs.items():
        logits[label] = read(classifier, run, data.validation, key)
        trained.interruption.check()
    return {
        label: Agreement.of(values, data.validation["attributes"], data.attributes) for label, values in logits.items()
    }


def read(classifier: Classifier, run: runs.Run | None, split: Split, key: jax.Array) -> jax.Array:
    """Logits, [N, A], of a sample for each attribute vector of a split; without a run, of the split's images."""

    def of_chunk(x: Any, a: Any, keys: jax.Array) -> jax.Array:
        return classifier.logits(sample(run, keys[0], a) if run else images.to_float(x))

    return in_chunks(of_chunk, _CHUNK)(split["image"], split["attributes"], jax.random.split(key, len(split)))


def sample(run: runs.Run, key: jax.Array, attributes: np.ndarray) -> jax.Array:
    """An image drawn from each attribute vector; of the same noise for the same key, if the prior is N(0, I)."""
    return run.decode(gaussian.sample(key, *run.prior(attributes)), attributes)


def agreement_lines(trained: Trained, by_label: Mapping[str, Agreement]) -> list[str]:
    """`agreements` in the log."""
    lines = []
    for label, agreement in by_label.items():
        shares = ", ".join(f"{name} {share:.3f}" for name, share in agreement.row().items() if share is not None)
        lines.append(f"the classifier reads {'' if label == HELD_OUT else 'samples of '}{_words(label)}: {shares}")
    return lines


def explain_agreements(trained: Trained, by_label: Mapping[str, Agreement]) -> str:
    """How the attributes were read, in words."""
    classifier = trained.classifier
    if classifier is None:
        return ""
    size = classifier.image_size
    resized = trained.data.validation["image"].shape[1:3] != (size, size)
    return (
        f"The {classifier}. One sample is drawn from the attributes of each. How well it reads the real images tells "
        "how far it can be trusted."
        + (f" For the classifier, all images are resized to {size} x {size} pixels." if resized else "")
    )


def agreement_parts(trained: Trained, by_label: Mapping[str, Agreement]) -> list[report.Part | str]:
    """Tables of `agreements`, of all attributes together and of each."""
    classifier = trained.classifier
    if classifier is None:
        return [report.note("No attribute classifier: generated images were not read by one.")]
    by_attribute = [
        {
            "attribute": _plain(real.name),
            "share of images": real.prevalence,
            "majority class": real.majority_accuracy,
            **{_words(label): agreement.attributes.attributes[i].accuracy for label, agreement in by_label.items()},
        }
        for i, real in enumerate(by_label[HELD_OUT].attributes.attributes)
    ]
    return [
        report.table([{"": _words(label), **agreement.row()} for label, agreement in by_label.items()]),
        report.details("Accuracy by attribute", [report.table(by_attribute)]),
    ]


# --- attributes in codes ---------------------------------------------------------------------------------------------


def probe(trained: Trained) -> dict[str, Agreement]:
    """Attributes that a linear probe reads from codes of held-out images, model -> agreement (section 5.3).

    A code is drawn from the posterior: what the noise hides is not in z, however well the mean would tell it.
    """
    data, keys = trained.data, jax.random.split(_key(trained, 3))
    train = data.train.first(_PROBED)
    agreements = {}
    for label, run in trained.runs.items():
        codes = [drawn_codes(run, split, key) for split, key in zip((train, data.validation), keys, strict=True)]
        read = probes.linear_discriminant(codes[0], train["attributes"], codes[1])
        agreements[label] = Agreement.of(read, data.validation["attributes"], data.attributes)
        trained.interruption.check()
    return agreements


def drawn_codes(run: runs.Run, split: Split, key: jax.Array) -> np.ndarray:
    """One code from the posterior of each image of a split and its attributes, [N, D]."""

    def of_chunk(x: Any, a: Any, keys: jax.Array) -> jax.Array:
        return gaussian.sample(keys[0], *run.encode(images.to_float(x), a))

    return in_chunks(of_chunk, _CHUNK)(split["image"], split["attributes"], jax.random.split(key, len(split)))


def probe_lines(trained: Trained, by_label: Mapping[str, Agreement]) -> list[str]:
    """`probe` in the log."""
    return [
        f"a linear probe reads from z of {_words(label)}: balanced accuracy {agreement.balanced_accuracy:.3f}"
        for label, agreement in by_label.items()
        if agreement.balanced_accuracy is not None
    ]


def probe_parts(trained: Trained, by_label: Mapping[str, Agreement]) -> list[report.Part | str]:
    """Tables of `probe`, of all attributes together and of each."""
    names = trained.data.attributes
    scored = {_words(label): agreement.attributes.attributes for label, agreement in by_label.items()}
    by_attribute = [
        {"attribute": _plain(name)} | {label: scores[i].balanced_accuracy for label, scores in scored.items()}
        for i, name in enumerate(names)
    ]
    rows = [
        {"beta": trained.runs[label].config.beta, WORDS["balanced_accuracy"]: agreement.balanced_accuracy}
        for label, agreement in by_label.items()
    ]
    return [
        report.table(rows),
        report.details("Balanced accuracy by attribute", [report.table(by_attribute)]),
    ]


def explain_probe(trained: Trained, by_label: Mapping[str, Agreement]) -> str:
    """How the probe reads, in words."""
    train = min(_PROBED, len(trained.data.train))
    return (
        f"Fisher's linear discriminant learns each attribute from codes of {train} training images and reads it from "
        f"those of {len(trained.data.validation)} held-out ones, a code drawn from the posterior of each. The decoder "
        "is told the attributes, so that a code need not hold them: an edit has to overcome what is above .5."
    )


# --- pictures --------------------------------------------------------------------------------------------------------


def samples(trained: Trained, results: Results) -> Figures:
    """Samples from some held-out attribute vectors: one of each model side by side, and several of each."""
    data, keys = trained.data, jax.random.split(_key(trained, 2), _SHOWN)
    vectors = cross_modal.distinct_rows(data.validation["attributes"])
    vectors = vectors[_places(len(vectors))]
    texts = [describe(row, data.attributes) for row in vectors]
    pictures = {
        label: np.stack([to_bytes(sample(run, key, vectors)) for key in keys], axis=1)
        for label, run in trained.runs.items()
    }
    betas = [f"beta {run.config.beta:g}" for run in trained.runs.values()]
    over_beta = np.stack([drawn[:, 0] for drawn in pictures.values()], axis=1)
    return {
        "samples_over_beta": (
            "Samples from held-out attribute vectors, each column by another model, of the same noise (figure 3)",
            grids.text_to_image(texts, over_beta, headings=betas),
        )
    } | {
        f"samples_{label}": (
            f"{_words(label)}: {_SHOWN} samples from each of some held-out attribute vectors",
            grids.text_to_image(texts, drawn),
        )
        for label, drawn in pictures.items()
    }


def reconstructions(trained: Trained, results: Results) -> Figures:
    """Held-out and training images, and what each model makes of them."""
    figures: dict[str, tuple[str, Any]] = {}
    for title, name, split in (
        ("Held-out images", "reconstructions", trained.data.validation),
        ("Training images", "reconstructions_training", trained.data.train),
    ):
        shown = spread(split)
        decoded = {
            _words(label): to_bytes(run.decode(run.encode(pixels(shown), shown["attributes"])[0], shown["attributes"]))
            for label, run in trained.runs.items()
        }
        caption = f"{title} and what each model makes of them (figure 4)"
        figures[name] = caption, grids.comparison({"original": shown["image"]} | decoded)
    return figures


def edits(trained: Trained, results: Results) -> Figures:
    """Held-out images with other attributes, by each model."""
    return {
        f"edits_{label}": (
            f"{_words(label)}: held-out images, decoded from their own latent code with other attributes",
            grids.comparison(edited(run, trained.data)),
        )
        for label, run in trained.runs.items()
    }


def edited(run: runs.Run, data: Splits) -> dict[str, np.ndarray]:
    """Held-out images, reconstructed and edited: row -> uint8 [N, H, W, 3].

    Attributes are inverted one at a time: those of the ten that rendered faces have, then those that split the
    training images most evenly. Birds also get all attributes of another species.
    """
    shown, known, names = spread(data.validation), data.train["attributes"], data.attributes
    x, present = pixels(shown), shown["attributes"]
    species = [column for column in species_of(names) if known[:, column].any()]
    vectors = {
        f"attributes of {_plain(names[column])}": np.broadcast_to(known[known[:, column].argmax()], present.shape)
        for column in np.array(species, int)[_places(len(species))]
    }
    edits, items = consistency.single_edits(present, names)
    inverted = dict(zip(items, edits, strict=True))
    for item in telling(inverted, data)[: _EDITS - len(vectors)]:
        vectors[f"{_plain(item)} inverted"] = inverted[item]
    code, _ = run.encode(x, present)
    pictures = {label: to_bytes(run.decode(code, a)) for label, a in {"reconstruction": present, **vectors}.items()}
    return {"original": shown["image"], **pictures}


def telling(items: Iterable[str], data: Splits) -> list[str]:
    """Items of `consistency.single_edits` without species, in the order in which they are worth looking at.

    Those of the ten attributes that rendered faces have come first, then those that split the training images most
    evenly.
    """
    imbalance = dict(zip(data.attributes, np.abs(data.train["attributes"].mean(axis=0) - 0.5), strict=True))
    first = {item: item.split("/")[0] for item in items}  # of the two of "male/female"
    free = [item for item, name in first.items() if not _SPECIES.fullmatch(name)]
    return sorted(free, key=lambda item: (first[item] not in face_attributes.FACE, imbalance[first[item]], item))


def sliders(trained: Trained, results: Results) -> Figures:
    """One held-out image along each of some attributes, by each model."""
    data, place = trained.data, latents.typical(trained.data.validation["image"])
    shown = Split(data.validation.take(np.array([place])))
    present = shown["attributes"][0]
    ends = latents.attribute_ends(present, data.attributes)
    chosen = {item: ends[item] for item in telling(ends, data)[:_EDITS]}
    figures: dict[str, tuple[str, Any]] = {}
    for label, run in trained.runs.items() if chosen else ():
        code = run.encode(pixels(shown), shown["attributes"])[0]

        def draw(attributes: jax.Array, run: runs.Run = run, code: jax.Array = code) -> jax.Array:
            return run.decode(jnp.repeat(code, len(attributes), axis=0), attributes)

        figures[f"sliders_{label}"] = (
            f"{_words(label)}: one held-out image, its code kept, without and with each attribute; a slider goes from "
            "the one to the other, and half as far beyond either",
            latents.attribute_strips(draw, chosen),
        )
    return figures


def added_and_removed(trained: Trained, results: Results) -> Figures:
    """Attributes added one after the other, and removed again, at a fixed z: a row per model, all of the same noise."""
    data, key = trained.data, jax.random.fold_in(_key(trained, 2), 1)
    columns = chain_columns(data)
    if not columns:
        return {}
    vectors = chain(data.validation["attributes"][0], columns)
    names = [_plain(data.attributes[column]) for column in columns]
    rows = {}
    for label, run in trained.runs.items():
        z = np.repeat(gaussian.sample(key, *run.prior(vectors[:1])), len(vectors), axis=0)
        rows[_words(label)] = to_bytes(run.decode(z, vectors))
    headings = ["without them", *(f"+ {name}" for name in names), *(f"- {name}" for name in names)]
    caption = (
        f"Attributes added one after the other, and removed again, at a fixed z; besides them: "
        f"{describe(vectors[0], data.attributes)} (figure 5)"
    )
    return {"added_and_removed": (caption, grids.comparison(rows, columns=len(vectors), headings=headings))}


def chain_columns(data: Splits) -> list[int]:
    """Attributes that can be added to any image: no gender, hair colour or species, of which others would be untrue.

    Those of the ten that rendered faces have come first, then those that split the training images most evenly.
    """
    names, imbalance = data.attributes, np.abs(data.train["attributes"].mean(axis=0) - 0.5)
    free = [
        column
        for column, name in enumerate(names)
        if name not in (*consistency.GENDER, *consistency.HAIR) and not _SPECIES.fullmatch(name)
    ]
    return sorted(free, key=lambda column: (names[column] not in face_attributes.FACE, imbalance[column]))[:_CHAIN]


def chain(present: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Attributes [A] with K columns added one after the other, and removed in the same order: [2 K + 1, A]."""
    vectors = np.repeat(present[None], 2 * len(columns) + 1, axis=0)
    for place, column in enumerate(columns):
        vectors[:, column] = 0
        vectors[place + 1 : place + 1 + len(columns), column] = 1
    return vectors


def agreement_bars(trained: Trained, results: Results) -> Figures:
    """Accuracy of the classifier by attribute, on real images and on samples of the largest and the smallest beta."""
    by_label, validation = results["agreements"], trained.data.validation
    if not by_label:
        return {}
    imbalance = np.abs(validation["attributes"].mean(axis=0) - 0.5)
    chosen = np.sort(np.argsort(imbalance, kind="stable")[:_BARS])
    scored = {label: [agreement.attributes.attributes[i] for i in chosen] for label, agreement in by_label.items()}
    labels = list(scored)
    caption = "Attributes that the classifier reads from real images and from samples"
    if len(chosen) < len(imbalance):
        caption += f": the {_BARS} that split the images most evenly"
    bars = scores.attribute_bars(
        {
            _words(label): {_plain(score.name): score.accuracy for score in scored[label]}
            for label in dict.fromkeys([HELD_OUT, labels[1], labels[-1]])
        },
        baseline={_plain(score.name): score.majority_accuracy for score in scored[HELD_OUT]},
        baseline_label="majority class",
        xlabel="accuracy",
    )
    return {"agreement": (caption, bars)}


def spread(split: Split) -> Split:
    """Some examples from all parts of a split, which may be in the order of species."""
    return Split(split.take(_places(len(split))))


def _places(count: int) -> np.ndarray:
    """Places of some of `count` things, from the first to the last."""
    return np.linspace(0, count - 1, min(_SHOWN, count)).astype(int)


def describe(row: np.ndarray, names: Sequence[str]) -> str:
    """The attributes that an image has, or its species."""
    present = [names[column] for column in species_of(names) if row[column]]
    present = present or [name for name, value in zip(names, row, strict=True) if value]
    return _plain(", ".join(present)) or "none of the attributes"


def _words(label: str) -> str:
    """The name of the held-out images or of a model for people."""
    return WORDS[HELD_OUT] if label == HELD_OUT else _plain(label)


def _plain(name: str) -> str:
    return name.replace("_", " ")
