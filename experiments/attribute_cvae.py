"""Images from attributes: the attribute CVAE, one model per beta (Debbagh, 2023).

    python experiments/attribute_cvae.py
    python experiments/attribute_cvae.py --preset=celeba --config.data.source=CelebA --workdir=runs/cvae_celeba
    python experiments/attribute_cvae.py --preset=cub --config.data.source=CUB_200_2011 --workdir=runs/cvae_cub

Trains a CVAE for each of `betas` on the same images, rendered faces, CelebA or CUB-200-2011, in a folder of its own
within the workdir; all attributes that the data set has, or those named in `model.attributes`. Then measures squared
error and KL on held-out images, has a classifier read the attributes of images drawn from them, and draws samples,
edits and reconstructions. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import jax
import judge
import launch
import numpy as np
import training
from judge import Judge
from multimodal_evaluation import different
from training import Member, in_chunks, pixels, to_bytes

from mvae_jax import attributes as face_attributes
from mvae_jax import gaussian, images, losses, runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import consistency, cross_modal
from mvae_jax.models import attribute_classifier, cvae
from mvae_jax.train import loop
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, grids, report
from mvae_jax.viz import scores as score_figures

_log = logging.getLogger("attribute_cvae")

# Table 1 of the paper: data set -> beta -> "MSE" and KL.
PUBLISHED = {
    "CelebA": {0.9: (82787, 9515), 0.75: (81157, 10033), 0.5: (73137, 15845), 0.25: (70444, 27107)},
    "CUB-200-2011": {0.9: (20129, 482), 0.75: (13446, 2315), 0.5: (13256, 3677), 0.25: (12093, 4957)},
}
HELD_OUT, TRAINING = "held-out images", "training images"
ALL = ("all",)  # attributes
_SHOWN = 6  # examples of a sheet, and samples from one attribute vector
_EDITS = 10  # of one sheet, at most
_BARS = 40  # attributes of one chart, at most
_CHUNK = 64  # examples at a time: images may be large
_SPECIES = re.compile(r"\d{3}\..+")  # as in 001.Black_footed_Albatross


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """The classifier of training images that reads attributes from generated ones.

    Attributes:
        image_size: side of the squares that it reads; images of other shapes are resized for it.
        epochs: of its training; 0 judges without a classifier.
    """

    image_size: int = 64
    epochs: int = 5

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"judge.epochs is {self.epochs}; expected at least 0.")
        attribute_classifier.Config(image_size=self.image_size)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the initialisation, of every draw and of the order of the images.
        data: the images.
        model: the CVAE; the models differ in beta alone, and its attributes ("all",) are those of the data set.
        betas: weights of the KL divergence, each of which is a model of its own; the squared error has 1 - beta.
        judge: who judges generated images.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    data: datasets.Config = datasets.Config(crop="none", partitions="train/test", subset_size=0)
    model: cvae.Config = cvae.Config(attributes=ALL)
    betas: tuple[float, ...] = (0.9, 0.75, 0.5, 0.25)
    judge: JudgeConfig = JudgeConfig()
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected a number from 0 to 2**32 - 1.")
        if self.model.beta != cvae.Config.beta:
            raise ValueError(f"model.beta is {self.model.beta}; expected --config.betas={self.model.beta:g} instead.")
        if not 1 <= len(self.betas) <= 10 or len(self.members(self.model.attributes)) < len(self.betas):
            raise ValueError(f"betas are {self.betas}; expected one to ten, and none twice: each is a model.")

    def members(self, attributes: tuple[str, ...]) -> dict[str, cvae.Config]:
        """The models, from the largest beta to the smallest: folder -> config."""
        return {
            f"beta_{beta:g}": dataclasses.replace(self.model, attributes=attributes, beta=beta)
            for beta in sorted(self.betas, reverse=True)
        }


def _laptop() -> Config:
    """All models at widths and lengths for two CPU cores."""
    model = dataclasses.replace(
        Config().model,
        image_size=(64, 64),
        latent_size=64,
        widths=(16, 32, 64),
        epochs=8,
        batch_size=16,
        learning_rate=2e-3,
    )
    return Config(data=datasets.Config(), model=model)


def _cub() -> Config:
    model = dataclasses.replace(Config().model, image_size=(244, 244), epochs=200)
    return Config(data=datasets.Config(), model=model)


PRESETS = {"laptop": _laptop(), "celeba": Config(), "cub": _cub()}
_OF_PRESETS = {"celeba": "CelebA", "cub": "CUB-200-2011"}
# Where files lie may change, what they hold may not; and the judge is no part of the training.
MAY_CHANGE = ("config.training", "config.judge", "config.data.source", "config.data.cache_folder")


def main(argv: list[str]) -> None:
    """Trains, judges and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/attribute_cvae", description=__doc__ or "")
    with launch.errors():
        if arguments.preset in _OF_PRESETS and config.data.source == datasets.RENDERED:
            raise ValueError(
                f"--preset={arguments.preset} is of {_OF_PRESETS[arguments.preset]}, and data.source is "
                f"{datasets.RENDERED!r}; give the path of its folder or zip, --config.data.source=PATH."
            )
        data = load_data(config)
        members = {
            label: Member("cvae", model, config.seed) for label, model in config.members(data.attributes).items()
        }

    def evaluated(
        trained: dict[str, runs.Run], workdir: Path, folder: Path, interruption: Interruption
    ) -> dict[str, Any]:
        reader = judge_of(config, data, folder, interruption)
        if not launch.is_first():
            return {}
        return evaluate(argv, trained, data, reader, config, workdir, folder, interruption)

    training.run_members(
        argv, arguments, config, members, data, model="cvae", may_change=MAY_CHANGE, evaluate=evaluated
    )


def load_data(config: Config) -> Splits:
    """The images that the config asks for, and their attributes: all of the data set, or those that it names."""
    size: int | tuple[int, int] = config.model.image_size
    of_any_shape = (datasets.CELEBA, datasets.PREPARED_CELEBA, datasets.CUB)
    if len(set(config.model.image_size)) == 1 and datasets.recognise(config.data) not in of_any_shape:
        size = config.model.image_size[0]
    return datasets.load(config.data, None if config.model.attributes == ALL else config.model.attributes, size)


# --- the judge -------------------------------------------------------------------------------------------------------


def judge_of(config: Config, data: Splits, folder: Path, interruption: Interruption | None = None) -> Judge | None:
    """A judge that is trained on the training images, in `folder`/judge; None if the config wants none."""
    if not config.judge.epochs:
        return None
    _log.info("the judge of generated images, a classifier of the training images")
    train, validation = (_in_squares(split, config.judge.image_size) for split in (data.train, data.validation))
    resized = dataclasses.replace(data, train=train, validation=validation, calibration=validation.first(0))
    own = judge.config_for(resized, config.judge.epochs)
    run = judge.train(folder / "judge", resized, own, seed=config.seed, interruption=interruption)
    return Judge.of(run, resized)


def _in_squares(split: Split, size: int) -> Split:
    resized = in_chunks(lambda x: images.to_uint8(squares(images.to_float(x), size)))(split["image"])
    return Split({**split.arrays, "image": np.asarray(resized)})


def squares(pictures: jax.Array, size: int) -> jax.Array:
    """Images [N, H, W, C] as the judge sees them, [N, size, size, C]: interpolated linearly, and antialiased."""
    return jax.image.resize(pictures, (len(pictures), size, size, pictures.shape[3]), "linear", antialias=True)


# --- numbers ---------------------------------------------------------------------------------------------------------


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
    def of(cls, logits: jax.Array, attributes: np.ndarray, names: Sequence[str]) -> Species | None:
        """Compares, both [N, A]; None if the attributes do not say each image's species."""
        columns = species_of(names)
        if len(columns) < 2 or (attributes[:, columns].sum(axis=1) != 1).any():
            return None
        truth, answers = (np.asarray(values)[:, columns].argmax(axis=1) for values in (attributes, logits))
        return cls(float((answers == truth).mean()), float(np.bincount(truth).max() / len(truth)), 1 / len(columns))


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What the judge reads from images, against the attributes that they were drawn from.

    Attributes:
        attributes: one by one, and together.
        balanced_accuracy: mean over the attributes that some images have and some have not; guessing gives 0.5.
        species: None where the attributes do not say it.
    """

    attributes: cross_modal.AttributeScores
    balanced_accuracy: float | None
    species: Species | None

    @classmethod
    def of(cls, logits: jax.Array, attributes: np.ndarray, names: Sequence[str]) -> Agreement:
        """Compares, both [N, A]."""
        found = cross_modal.score_attributes(logits, attributes, names)
        shares = [each.balanced_accuracy for each in found.attributes if each.balanced_accuracy is not None]
        return cls(found, float(np.mean(shares)) if shares else None, Species.of(logits, attributes, names))

    def row(self) -> dict[str, float | None]:
        """Name -> share, for a table."""
        row = {
            "accuracy": self.attributes.accuracy,
            "majority class": self.attributes.majority_accuracy,
            "balanced accuracy": self.balanced_accuracy,
            "all attributes right": self.attributes.exact_match,
        }
        if self.species:
            row |= {
                "species": self.species.accuracy,
                "most frequent species": self.species.majority_accuracy,
                "guessed species": self.species.chance,
            }
        return row


@dataclasses.dataclass(frozen=True)
class Scores:
    """The numbers of the evaluation; models from the largest beta to the smallest.

    Attributes:
        terms: images -> model -> what `measure` found.
        orderings: images -> what should hold -> whether it does, see `orderings`; empty with one model.
        agreements: `HELD_OUT`, the real images, and models -> what the judge reads; empty without a judge.
    """

    terms: Mapping[str, Mapping[str, Mapping[str, float]]]
    orderings: Mapping[str, Mapping[str, bool]]
    agreements: Mapping[str, Agreement]


def species_of(names: Sequence[str]) -> list[int]:
    """Columns of the attributes that are species."""
    return [column for column, name in enumerate(names) if _SPECIES.fullmatch(name)]


def score(
    trained: Mapping[str, runs.Run], data: Splits, reader: Judge | None, seed: int, interruption: Interruption
) -> Scores:
    """Measures all models on held-out images, and their error and KL on as many training images too."""
    keys = [jax.random.fold_in(jax.random.key(seed), draw) for draw in range(2)]
    splits = {HELD_OUT: data.validation, TRAINING: data.train.first(len(data.validation))}
    terms: dict[str, dict[str, dict[str, float]]] = {name: {} for name in splits}
    logits = {HELD_OUT: read(reader, None, data.validation, keys[1])} if reader else {}
    for label, run in trained.items():
        for name, split in splits.items():
            terms[name][label] = measure(run, split, keys[0])
        if reader:
            logits[label] = read(reader, run, data.validation, keys[1])
        interruption.check()
    return Scores(
        terms,
        {name: orderings(list(found.values())) for name, found in terms.items() if len(found) > 1},
        {label: Agreement.of(each, data.validation["attributes"], data.attributes) for label, each in logits.items()},
    )


def measure(run: runs.Run, split: Split, key: jax.Array) -> dict[str, float]:
    """Squared error of pixels in [0, 1], with a code drawn from each image's posterior, and KL; means over images."""

    def of_chunk(x: Any, a: Any, keys: jax.Array) -> dict[str, jax.Array]:
        x = images.to_float(x)
        posterior = run.encode(x, a)
        output = run.decode(gaussian.sample(keys[0], *posterior), a)
        return {
            "squared_error": losses.squared_error(images.to_unit_interval(output), images.to_unit_interval(x)),
            "kl": losses.kl_diag_gaussians(*posterior, *run.prior(a)),
        }

    values = in_chunks(of_chunk, _CHUNK)(split["image"], split["attributes"], jax.random.split(key, len(split)))
    found = {name: float(each.mean()) for name, each in values.items()}
    return found | {"mean_squared_error": found["squared_error"] / math.prod(run.config.image_shape)}


def orderings(terms: Sequence[Mapping[str, float]]) -> dict[str, bool]:
    """Whether the error falls and the KL rises from each model to the next, as in table 1 of the paper."""
    pairs = list(itertools.pairwise(terms))
    return {
        "squared error falls": all(after["squared_error"] < before["squared_error"] for before, after in pairs),
        "KL rises": all(after["kl"] > before["kl"] for before, after in pairs),
    }


def read(reader: Judge, run: runs.Run | None, split: Split, key: jax.Array) -> jax.Array:
    """The judge's logits, [N, A], of a sample for each attribute vector of a split; without a run, of its images."""

    def of_chunk(x: Any, a: Any, keys: jax.Array) -> jax.Array:
        pictures = sample(run, keys[0], a) if run else images.to_float(x)
        return reader.run.logits(squares(pictures, reader.run.config.image_size))

    return in_chunks(of_chunk, _CHUNK)(split["image"], split["attributes"], jax.random.split(key, len(split)))


def sample(run: runs.Run, key: jax.Array, attributes: np.ndarray) -> jax.Array:
    """An image drawn from each attribute vector; of the same noise for the same key, if the prior is N(0, I)."""
    return run.decode(gaussian.sample(key, *run.prior(attributes)), attributes)


# --- pictures --------------------------------------------------------------------------------------------------------


def draw(
    trained: Mapping[str, runs.Run], data: Splits, scores: Scores, records: Mapping[str, Any], seed: int
) -> dict[str, tuple[str, Any]]:
    """The figures: {name of the file: (caption, picture)}."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2), _SHOWN)
    vectors = different(data.validation["attributes"])
    vectors = vectors[_places(len(vectors))]
    texts = [describe(row, data.attributes) for row in vectors]
    samples = {
        label: np.stack([to_bytes(sample(run, key, vectors)) for key in keys], axis=1) for label, run in trained.items()
    }
    betas = ", ".join(f"{run.config.beta:g}" for run in trained.values())
    figures: dict[str, tuple[str, Any]] = {
        "samples_over_beta": (
            f"Samples from held-out attribute vectors: beta {betas} from left to right, the same noise (figure 3)",
            grids.text_to_image(texts, np.stack([pictures[:, 0] for pictures in samples.values()], axis=1)),
        )
    }
    for title, name, split in (
        ("Held-out images", "reconstructions", data.validation),
        ("Training images", "reconstructions_training", data.train),
    ):
        shown = spread(split)
        decoded = {
            _plain(label): to_bytes(run.decode(run.encode(pixels(shown), shown["attributes"])[0], shown["attributes"]))
            for label, run in trained.items()
        }
        caption = f"{title} and what each model makes of them (figure 4)"
        figures[name] = caption, grids.comparison({"original": shown["image"]} | decoded)
    for label, run in trained.items():
        figures[f"samples_{label}"] = (
            f"{_plain(label)}: {_SHOWN} samples from each of some held-out attribute vectors (figure 5)",
            grids.text_to_image(texts, samples[label]),
        )
        figures[f"edits_{label}"] = (
            f"{_plain(label)}: held-out images, decoded from their own latent code with other attributes (figure 5)",
            grids.comparison(edits(run, data)),
        )
    for title, metric in {"KL, nats": "kl", "Squared error per value": "mean_squared_error"}.items():
        figures[metric] = (
            f"{title} of each model",
            curves.runs({_plain(label): lines for label, lines in records.items()}, metric),
        )
    if scores.agreements:
        figures["agreement"] = _agreement_bars(scores.agreements, data)
    return figures


def edits(run: runs.Run, data: Splits) -> dict[str, np.ndarray]:
    """Held-out images, reconstructed and edited.

    Attributes are inverted one at a time: those of the ten that rendered faces have, then those that split the
    training images most evenly. Birds also get all attributes of another species.
    """
    shown, known, names = spread(data.validation), data.train["attributes"], data.attributes
    x, own = pixels(shown), shown["attributes"]
    species = [column for column in species_of(names) if known[:, column].any()]
    vectors = {
        f"attributes of {_plain(names[column])}": np.broadcast_to(known[known[:, column].argmax()], own.shape)
        for column in np.array(species, int)[_places(len(species))]
    }
    imbalance = dict(zip(names, np.abs(known.mean(axis=0) - 0.5), strict=True))
    inverted = {}
    for attributes, item in zip(*consistency.single_edits(own, names), strict=True):
        name = item.split("/")[0]  # of the two of "male/female"
        if not _SPECIES.fullmatch(name):
            inverted[name not in face_attributes.FACE, imbalance[name], item] = attributes
    for key in sorted(inverted)[: _EDITS - len(vectors)]:
        vectors[f"{_plain(key[-1])} inverted"] = inverted[key]
    code, _ = run.encode(x, own)
    pictures = {label: to_bytes(run.decode(code, a)) for label, a in {"reconstruction": own, **vectors}.items()}
    return {"original": shown["image"], **pictures}


def spread(split: Split) -> Split:
    """Some examples from all parts of a split, which may be in the order of species."""
    return Split(split.take(_places(len(split))))


def _places(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(_SHOWN, count)).astype(int)


def describe(row: np.ndarray, names: Sequence[str]) -> str:
    """The attributes that an image has, or its species."""
    present = [names[column] for column in species_of(names) if row[column]]
    present = present or [name for name, value in zip(names, row, strict=True) if value]
    return _plain(", ".join(present)) or "none of the attributes"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _agreement_bars(agreements: Mapping[str, Agreement], data: Splits) -> tuple[str, Any]:
    imbalance = np.abs(data.validation["attributes"].mean(axis=0) - 0.5)
    chosen = np.sort(np.argsort(imbalance, kind="stable")[:_BARS])
    by_label = {label: [agreement.attributes.attributes[i] for i in chosen] for label, agreement in agreements.items()}
    labels = list(by_label)
    shown = dict.fromkeys([HELD_OUT, labels[1], labels[-1]])  # the largest and the smallest beta
    return (
        "Attributes that the judge reads from real images and from samples"
        + (f": the {_BARS} that split the images most evenly" if len(chosen) < len(data.attributes) else ""),
        score_figures.attribute_bars(
            {_plain(label): {each.name: each.accuracy for each in by_label[label]} for label in shown},
            baseline={each.name: each.majority_accuracy for each in by_label[HELD_OUT]},
            baseline_label="majority class",
            xlabel="accuracy",
        ),
    )


# --- report ----------------------------------------------------------------------------------------------------------


def evaluate(
    argv: list[str],
    trained: Mapping[str, runs.Run],
    data: Splits,
    reader: Judge | None,
    config: Config,
    workdir: Path,
    folder: Path,
    interruption: Interruption | None = None,
) -> dict[str, Any]:
    """Measures and draws all models, and writes numbers, figures and report into `folder`."""
    interruption = interruption or Interruption()
    scores = score(trained, data, reader, config.seed, interruption)
    for line in describe_scores(scores):
        _log.info("%s", line)
    records = {label: read_metrics(workdir / label / "metrics.jsonl") for label in trained}
    paths = report.save_figures(draw(trained, data, scores, records, config.seed), folder / "figures")
    found, any_run = dataclasses.asdict(scores), next(iter(trained.values()))
    notes = training.notes(any_run, data)
    for note in notes:
        _log.warning(note)
    atomic_write(folder / "scores.json", json.dumps(found, indent=2) + "\n")
    report.write(
        folder / "report.html",
        f"Attribute CVAE: {workdir.name}",
        [
            *map(report.note, notes),
            *parts(trained, data, scores, reader),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *launch.how_it_was_made(argv, any_run, data.provenance, config),
        ],
    )
    _log.info("report: %s", folder / "report.html")
    return found


def describe_scores(scores: Scores) -> list[str]:
    """What the log says."""
    lines = [
        f"{_plain(label)}, held-out images: squared error {found['squared_error']:.1f}, KL {found['kl']:.2f} nats"
        for label, found in scores.terms[HELD_OUT].items()
    ]
    lines += [describe_orderings(name, kept) for name, kept in scores.orderings.items()]
    for label, agreement in scores.agreements.items():
        shares = ", ".join(f"{name} {share:.3f}" for name, share in agreement.row().items() if share is not None)
        lines.append(f"the judge reads {'' if label == HELD_OUT else 'samples of '}{_plain(label)}: {shares}")
    return lines


def describe_orderings(name: str, kept: Mapping[str, bool]) -> str:
    """Whether the paper's orderings hold."""
    said = " and ".join(f"the {what}: {'yes' if holds else 'no'}" for what, holds in kept.items())
    return f"As beta falls, on {name}, {said}."


def parts(
    trained: Mapping[str, runs.Run], data: Splits, scores: Scores, reader: Judge | None
) -> list[report.Part | str]:
    """The tables of a report."""
    published = PUBLISHED.get(data.provenance.get("data_set", ""), {})
    rows = {
        name: [
            {
                "beta": run.config.beta,
                "squared error per image": found[label]["squared_error"],
                "per value": found[label]["mean_squared_error"],
                "KL, nats": found[label]["kl"],
            }
            for label, run in trained.items()
        ]
        for name, found in scores.terms.items()
    }
    for row in rows[HELD_OUT] if published else ():
        row["paper: MSE"], row["paper: KL"] = published.get(row["beta"], (None, None))
    paper = "In the paper the squared error falls and the KL rises as beta falls."
    if published:
        paper += (
            " Its numbers are sums over an unknown number of images, perhaps of training images: only orderings can be "
            "compared."
        )
    return [
        report.heading("Squared error and KL (table 1)"),
        f"Means over {len(data.validation)} images that were not trained on, with a code drawn from the posterior of "
        "each. The error is the sum over an image's pixel values in [0, 1]; per value, their mean.",
        report.table(rows[HELD_OUT], "Held-out images"),
        paper,
        *(describe_orderings(name, kept) for name, kept in scores.orderings.items()),
        report.table(rows[TRAINING], "As many training images"),
        report.subheading("What beta weighs"),
        "In the objective, (1 - beta) and beta stand beside sums over pixel values and over latent dimensions. Beside "
        "means, as other code has them, the KL's weight relative to the error's would be the effective beta.",
        report.table(
            [
                {
                    "beta": run.config.beta,
                    "effective beta": run.config.effective_weight(run.config.divergence_weights["kl"]),
                }
                for run in trained.values()
            ]
        ),
        *_agreement_parts(scores.agreements, reader, data),
    ]


def _agreement_parts(
    agreements: Mapping[str, Agreement], reader: Judge | None, data: Splits
) -> list[report.Part | str]:
    heading = report.heading("Attributes of samples, as a classifier reads them")
    if reader is None:
        return [heading, report.note("No judge: images were not read by a classifier.")]
    size = reader.run.config.image_size
    resized = data.validation["image"].shape[1:3] != (size, size)
    by_attribute = [
        {
            "attribute": real.name,
            "share of images": real.prevalence,
            "majority class": real.majority_accuracy,
            **{_plain(label): agreement.attributes.attributes[i].accuracy for label, agreement in agreements.items()},
        }
        for i, real in enumerate(agreements[HELD_OUT].attributes.attributes)
    ]
    return [
        heading,
        f"The {reader}. One sample is drawn from the attributes of each. How well it reads the real images tells how "
        "far it can be trusted."
        + (f" For the judge, all images are resized to {size} x {size} pixels." if resized else ""),
        report.table([{"": _plain(label), **agreement.row()} for label, agreement in agreements.items()]),
        report.details("Accuracy by attribute", [report.table(by_attribute)]),
    ]


if __name__ == "__main__":
    main(sys.argv)
