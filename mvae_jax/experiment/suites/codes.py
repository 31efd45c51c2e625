"""Codes of digits, read by simple classifiers: table 2 of ALAE. Labels of what the models draw, and their path lengths.

Each row of the table is a model, trained from several seeds (`trials`).

Reference:
    Pidhorskyi et al., 2020, Adversarial latent autoencoders, arXiv:2004.04467, section 5.1.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import _json, gaussian, images, runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.data.formats import mnist
from mvae_jax.eval import perceptual_path, probes
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.eval.stability import Stability, assess_stability
from mvae_jax.experiment.declaration import Figures, Headline, Number, Results, Trained, plain
from mvae_jax.experiment.suites import collapse, latents, trials
from mvae_jax.models.alae import mlp
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, grids, report
from mvae_jax.viz.traversals import Strips

_log = logging.getLogger("experiment")

_PROBES: dict[str, Callable[..., probes.ProbeScore]] = {
    "nearest_neighbour": probes.nearest_neighbour_accuracy,
    "svm": probes.linear_svm_accuracy,
    "standardised_svm": functools.partial(probes.linear_svm_accuracy, standardise=True),  # of codes alone
}


def _keys(kind: str) -> dict[str, tuple[str, str]]:
    """Accuracies of one kind: key -> by which classifier, on images of the same or of different writers."""
    return {
        f"{probe}_{split.lower()}_{kind}": (probe, split)
        for split in ("SW", "DW")
        for probe in _PROBES
        if kind == "short" or probe != "standardised_svm"
    }


# From the code ("short") or from the encoder's last hidden layer ("long").
_NAMES = {"nearest_neighbour": "1NN", "svm": "SVM", "standardised_svm": "standardised SVM"}
WORDS = {
    key: f"{_NAMES[probe]} {split} {kind}" for kind in ("short", "long") for key, (probe, split) in _keys(kind).items()
}
LABELS = {"labels_kept": "labels kept"}
_COLUMNS = WORDS | LABELS
# Table 2 of the paper, accuracies in percent: row -> key of `WORDS` -> mean of five trials. Which autoencoder is which
# is not certain.
PUBLISHED: dict[str, dict[str, float]] = {
    row: dict(zip([key for key in WORDS if "standardised" not in key], (*short, *long), strict=True))
    for row, (short, long) in {
        "autoencoder_l1": ((97.15, 88.71, 96.84, 89.78), (97.43, 97.27, 96.80, 97.72)),
        "autoencoder_l2": ((97.52, 88.78, 97.05, 89.78), (97.37, 97.23, 96.77, 97.72)),
        "latent_regressor": ((92.79, 89.74, 91.90, 90.03), (97.28, 97.56, 96.69, 97.80)),
        "joint_latent_regressor": ((92.54, 89.23, 91.97, 90.82), (97.02, 97.19, 96.45, 97.62)),
        "bigan": ((95.83, 90.52, 95.38, 91.34), (97.14, 97.59, 96.81, 97.74)),
        "alae": ((93.79, 93.47, 94.59, 94.23), (97.61, 98.20, 97.47, 98.64)),
    }.items()
}
TITLES = {
    "autoencoder_l1": "autoencoder, l1",
    "autoencoder_l2": "autoencoder, l2",
    "latent_regressor": "latent regressor",
    "joint_latent_regressor": "joint latent regressor",
    "bigan": "BiGAN",
    "alae": "ALAE",
}
STABILITY = (
    f"{collapse.TEXT} The error of reconstructions is 0 where they are right and 1 where they tell nothing of their "
    "images. Samples have the label of the training image that is nearest in pixels."
)
_LEAST = 60  # training images, a sixth of which is left out of a classifier's
_COMPARED = 1000  # held-out images, and samples, in which signs of collapse are looked for
_LABELLED = 10_000  # training images by which samples are labelled
_SHOWN = 10  # digits of a sheet
_SAMPLES = 50
_STEPS = 9  # of an interpolation
_PATHS = 5000  # pairs of latents of a path length
_PATHS_AT_ONCE = 1000

Rows = Mapping[str, Mapping[int, Mapping[str, float]]]  # row -> seed -> key of `_COLUMNS` -> accuracy


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is classified.

    Attributes:
        long_features: also classify the encoder's last hidden layer, which takes most of the time.
    """

    long_features: bool = True


def check(data: Splits) -> None:
    """Refuses images from which no classifier can learn.

    Raises:
        ValueError: there are too few images, or all of a split have one label.
    """
    if len(data.train) < _LEAST or min(len(np.unique(split["label"])) for split in (data.train, data.validation)) < 2:
        raise ValueError(
            f"there are {len(data.train)} images to train on and {len(data.validation)} held out; expected at "
            f"least {_LEAST} to train on, and in both images of at least two labels, to be told apart."
        )


# --- accuracies ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Readings:
    """How well classifiers read the digits from codes.

    Attributes:
        scores: row -> seed -> key of `WORDS` -> accuracy, and how it was taken.
    """

    scores: Mapping[str, Mapping[int, Mapping[str, probes.ProbeScore]]]

    @property
    def accuracies(self) -> Rows:
        """The accuracies alone, in [0, 1]."""
        return {
            row: {seed: {key: score.accuracy for key, score in by_key.items()} for seed, by_key in by_seed.items()}
            for row, by_seed in self.scores.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The accuracies, and what they say of the paper's claim."""
        return {"accuracies": self.accuracies, "statement": claim(self.accuracies)}


def measure(trained: Trained) -> Readings:
    """Accuracies of the classifiers on the codes of all trials; kept beside each of them, for some take minutes."""
    scores: dict[str, dict[int, dict[str, probes.ProbeScore]]] = {}
    for row, by_seed in trials.by_name(trained.runs).items():
        scores[row] = {}
        for seed, run in by_seed.items():
            folder = trials.folder(row, seed)
            path = trained.workdir / folder / f"probes_{trained.data.sha256()[:12]}.json"
            scores[row][seed] = probed(run, trained.data, trained.config.evaluation, path)
            accuracies = (f"{WORDS[key]} {100 * score.accuracy:.2f}" for key, score in scores[row][seed].items())
            _log.info("%s: %s", folder, ", ".join(accuracies))
            trained.interruption.check()
    return Readings(scores)


def probed(run: runs.Run, data: Splits, settings: Evaluation, path: Path) -> dict[str, probes.ProbeScore]:
    """Accuracies of the classifiers on the codes of one trial: key of `WORDS` -> score.

    Args:
        run: a trained model with codes.
        data: the digits.
        settings: what is classified.
        path: JSON file in which the scores are kept. They count only for the same step and images.
    """
    of = {"step": run.step, "data_sha256": data.sha256()}
    scores = _kept(path, of)
    kinds: dict[str, Callable[[jax.Array], jax.Array]] = {"short": lambda x: run.encode(x)[0]}
    if settings.long_features:
        kinds["long"] = run.features
    wanted = {kind: _keys(kind) for kind in kinds}
    missing = {kind: function for kind, function in kinds.items() if not wanted[kind].keys() <= scores.keys()}
    labels, (inner, outer) = data.train["label"], mnist.split_same_writers(len(data.train))
    for kind, function in missing.items():
        train, test = (_features(function, split) for split in (data.train, data.validation))
        examples = {
            "SW": (train[inner], labels[inner], train[outer], labels[outer]),
            "DW": (train, labels, test, data.validation["label"]),
        }
        for key, (probe, split) in wanted[kind].items():
            if key not in scores:
                scores[key] = _PROBES[probe](*examples[split], split=split)
    if missing:
        contents = {"of": of, "scores": {key: score.to_dict() for key, score in scores.items()}}
        atomic_write(path, json.dumps(contents, indent=2) + "\n")
    return {key: scores[key] for keys in wanted.values() for key in keys}


def _features(function: Callable[[jax.Array], jax.Array], split: Split) -> np.ndarray:
    return np.asarray(in_chunks(lambda x: function(images.to_float(x)), 1000)(jnp.asarray(split["image"])))


def _kept(path: Path, of: Mapping[str, Any]) -> dict[str, probes.ProbeScore]:
    """The scores in a file; none if there is no such file, or if it is damaged or of something else."""
    keys = {key: key for key in WORDS} | {title: key for key, title in WORDS.items()}  # older files have the titles
    try:
        contents = _json.load(path)
        scores = {keys[name]: probes.ProbeScore(**score) for name, score in contents["scores"].items()}
        return scores if contents["of"] == of and all(0 <= score.accuracy <= 1 for score in scores.values()) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def titles(folders: Iterable[str]) -> dict[str, str]:
    """Names of trials for people, by folder."""
    return {folder: title_of(folder) for folder in folders}


def stability(trained: Trained) -> dict[str, Stability]:
    """Signs of collapse of each trial, by folder."""
    train, held_out = trained.data.train.first(_LABELLED), trained.data.validation.first(_COMPARED)
    labelled = _flat(pixels(train)), train["label"]
    real, key, signs = np.asarray(pixels(held_out)), jax.random.key(trained.config.seed), {}
    for folder, run in trained.runs.items():
        samples, labels = None, None
        if run.model.sample is not None:
            samples = np.asarray(run.sample(key, len(real)))
            if np.isfinite(samples).all():  # others have no nearest image, and are named for that
                labels = probes.nearest_labels(*labelled, _flat(samples)), held_out["label"]
        again = in_chunks(run.decode)(in_chunks(lambda x, run=run: run.encode(x)[0])(real))
        records = trained.records[folder]
        signs[folder] = assess_stability(samples, real, records, reconstructions=again, labels=labels)
        trained.interruption.check()
    return signs


def _flat(pictures: jax.Array | np.ndarray) -> np.ndarray:
    return np.asarray(pictures).reshape(len(pictures), -1)


def problems(trained: Trained, results: Results) -> list[str]:
    """Signs of collapse, and a note for each classifier that has not converged."""
    collapsed = collapse.problems(titles(results["stability"]), results["stability"])
    return collapsed + [
        f"{title_of(trials.folder(row, seed))}, {WORDS[key]}: the SVM has not converged; its accuracy may be too low."
        for row, by_seed in results["codes"].scores.items()
        for seed, by_key in by_seed.items()
        for key, score in by_key.items()
        if score.converged is False
    ]


def title_of(folder: str) -> str:
    """The name of a row for people, or of a trial."""
    row, _, trial = folder.partition("/")
    return ", ".join(filter(None, (TITLES.get(row, row), plain(trial))))


def headline(trained: Trained, results: Results) -> Headline:
    """How well digits are read from codes and from reconstructions."""
    rows, kept = results["codes"].accuracies, results["labels"]
    first = "alae" if "alae" in rows else next(iter(rows))
    _, counts = np.unique(trained.data.validation["label"], return_counts=True)

    def mean(by_seed: Mapping[int, Mapping[str, float]], key: str) -> float:
        return float(np.mean([accuracies[key] for accuracies in by_seed.values()]))

    numbers = []
    for key, words in (
        ("svm_dw_short", "a linear classifier"),
        ("nearest_neighbour_dw_short", "the nearest neighbour"),
    ):
        others = {row: mean(by_seed, key) for row, by_seed in rows.items() if row != first}
        best = max(others, key=others.__getitem__, default="")
        compared = f"; best other model, {TITLES[best]}: {others[best]:.1%}" if best else ""
        numbers.append(
            Number(
                f"{mean(rows[first], key):.1%}",
                f"of held-out digits are read rightly from the codes of {TITLES[first]} by {words}",
                f"always the most frequent digit: {counts.max() / counts.sum():.1%}{compared}",
                mean(rows[first], key) > counts.max() / counts.sum(),
            )
        )
    numbers.append(
        Number(
            f"{mean(kept.reconstructions[first], 'labels_kept'):.1%}",
            f"of held-out digits still look like themselves when {TITLES[first]} has reconstructed them",
            f"always the most frequent digit: {counts.max() / counts.sum():.1%}; the digits themselves, read in the "
            f"same way: {kept.originals.accuracy:.1%}",
            mean(kept.reconstructions[first], "labels_kept") > counts.max() / counts.sum(),
        )
    )
    return Headline(numbers, "reconstructions")


# --- report ----------------------------------------------------------------------------------------------------------


def explain(trained: Trained, readings: Readings) -> str:
    """How the accuracies were taken, in words."""
    config = trained.config
    return (
        f"Accuracies in percent, mean and standard deviation over {len(config.seeds)} trials. 1NN: nearest "
        "neighbour, Euclidean; SVM: linear, C 0.02, squared hinge loss, as published, and on standardised codes: at so "
        "small a C, codes of a small scale hide what they tell. SW: trained on five sixths of the training "
        "images and tested on the others; DW: trained on all of them and tested on the held-out ones. Short: the "
        f"code, {config.model.latent_size} numbers. Long: the encoder's last hidden layer, {config.model.widths[-1]}."
    )


def parts(trained: Trained, readings: Readings) -> list[report.Part | str]:
    """Table and claim; beside accuracies on MNIST the paper's."""
    rows = readings.accuracies
    return [report.table(table(rows, published=trained.data.provenance["data_set"] == "MNIST")), claim(rows)]


def lines(trained: Trained, readings: Readings) -> list[str]:
    """The claim."""
    return [claim(readings.accuracies)]


def table(rows: Rows, *, published: bool) -> list[dict[str, Any]]:
    """Rows of a report.

    Args:
        rows: the accuracies.
        published: whether the paper's values stand beside ours.
    """
    table_rows = []
    for row, by_seed in rows.items():
        cells: dict[str, Any] = {"model": TITLES[row]}
        for key in next(iter(by_seed.values())):
            values = [100 * accuracies[key] for accuracies in by_seed.values()]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            paper = f" ({PUBLISHED[row][key]:.2f})" if published and key in PUBLISHED[row] else ""
            cells[_COLUMNS[key]] = f"{np.mean(values):.2f}{spread}{paper}"
        table_rows.append(cells)
    return table_rows


def claim(rows: Rows) -> str:
    """Whether the paper's claim holds: ALAE's codes are the best for a linear classifier."""
    if "alae" not in rows or len(rows) < 2:
        return "The paper's claim needs ALAE and another row."
    comparisons = []
    for split in ("SW", "DW"):
        key = f"svm_{split.lower()}_short"
        means = {
            row: float(np.mean([accuracies[key] for accuracies in by_seed.values()])) for row, by_seed in rows.items()
        }
        mean = means.pop("alae")
        best = max(means, key=means.__getitem__)
        comparisons.append(
            f"{split}: {100 * mean:.2f} against {100 * means[best]:.2f} of {TITLES[best]}, the best other row, "
            f"so it {'holds' if mean > means[best] else 'does not hold'}"
        )
    return f"The paper's claim, that a linear SVM reads ALAE's codes best: {'; '.join(comparisons)}."


# --- labels of reconstructions ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Labels:
    """Held-out digits whose label a classifier reads from their reconstructions.

    Attributes:
        originals: how well it reads the digits themselves.
        reconstructions: row -> seed -> "labels_kept" -> share of the digits, in [0, 1].
    """

    originals: probes.ProbeScore
    reconstructions: Rows


def labels(trained: Trained) -> Labels:
    """Labels that the nearest training image, in pixels, gives to held-out digits and to their reconstructions.

    So the classifier knows no model. A reconstruction that is not finite has no label.
    """
    train, held_out = trained.data.train, trained.data.validation
    known, truth = (_flat(pixels(train)), train["label"]), held_out["label"]
    x = np.asarray(pixels(held_out))
    kept: dict[str, dict[int, dict[str, float]]] = {}
    for row, by_seed in trials.by_name(trained.runs).items():
        kept[row] = {}
        for seed, run in by_seed.items():
            again = _flat(in_chunks(run.decode)(in_chunks(lambda x, run=run: run.encode(x)[0])(x)))
            finite = np.isfinite(again).all(axis=1)
            read = probes.nearest_labels(*known, np.where(finite[:, None], again, 0))
            kept[row][seed] = {"labels_kept": float(((read == truth) & finite).mean())}
            trained.interruption.check()
    return Labels(probes.nearest_neighbour_accuracy(*known, _flat(x), truth, split="DW"), kept)


def explain_labels(trained: Trained, result: Labels) -> str:
    """How they were read, in words."""
    score = result.originals
    return (
        f"Share of {score.test_examples} held-out digits, in percent, whose label is that of the training image "
        f"({score.train_examples} of them) nearest to their reconstruction in pixels: mean and standard deviation over "
        "the trials. The first row is the accuracy of this classifier on the digits themselves. It has learnt nothing "
        "from the models, but it sees as they do who are trained by errors of pixels."
    )


def label_rows(result: Labels) -> list[dict[str, Any]]:
    """Rows of a report, the originals first."""
    originals = {"model": "originals", _COLUMNS["labels_kept"]: f"{100 * result.originals.accuracy:.2f}"}
    return [originals, *table(result.reconstructions, published=False)]


def label_parts(trained: Trained, result: Labels) -> list[report.Part | str]:
    """Table of the rows."""
    return [report.table(label_rows(result))]


def label_lines(trained: Trained, result: Labels) -> list[str]:
    """The rows in the log."""
    return [f"{row['model']}: labels kept {row[_COLUMNS['labels_kept']]} %" for row in label_rows(result)]


# --- path lengths ----------------------------------------------------------------------------------------------------


def path_lengths(trained: Trained) -> dict[str, dict[str, float]]:
    """Path lengths of each trial of ALAE, by folder, and their "mean"; {} without ALAE.

    The keys are those of `latents.PATHS`. Squared distances are of pixels, and the draws the same for all trials.
    """
    key, rows = jax.random.fold_in(jax.random.key(trained.config.seed), 1), {}
    for seed, run in trials.by_name(trained.runs).get("alae", {}).items():
        rows[trials.folder("alae", seed)] = _path_lengths_of(run, key)
        trained.interruption.check()
    if rows:
        rows["mean"] = {name: float(np.mean([row[name] for row in rows.values()])) for name in latents.PATHS}
    return rows


def _path_lengths_of(run: runs.Run, key: jax.Array) -> dict[str, float]:
    # The effect of a step is smaller than bfloat16's rounding.
    exact = dataclasses.replace(run, model=mlp.build(dataclasses.replace(run.config, compute_dtype="float32")))

    def draw(w: jax.Array, keys: jax.Array) -> jax.Array:
        return exact.decode(w)

    lengths = perceptual_path.lengths_of_both_spaces(
        draw,
        exact.map,
        functools.partial(_latents, size=run.config.latent_size),
        perceptual_path.SquaredPixelDistance(),
        key=key,
        pairs=_PATHS,
        batch_size=_PATHS_AT_ONCE,
    )
    return {name: length.value for name, length in lengths.items()}


@functools.partial(jax.jit, static_argnames="size")
def _latents(keys: jax.Array, size: int) -> jax.Array:
    """Draws from N(0, I), one of each key, [B, size]."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def explain_path_lengths(trained: Trained, rows: Mapping[str, Mapping[str, float]]) -> str:
    """How path lengths were measured, in words, and whether W is the smoother space."""
    if not rows:
        return "ALAE alone has two spaces of latents, and is not among these models."
    of_trials = [row for name, row in rows.items() if name != "mean"]
    shorter = sum(row["w_full"] < row["z_full"] for row in of_trials)
    return (
        f"ALAE's digits between {_PATHS} pairs of draws, along arcs in Z and along lines in W: mean over pairs of the "
        "squared difference of two neighbouring images on the way, by the square of the step, a ten thousandth of the "
        "path. Differences are of pixel values in [0, 1], summed: an even fade from one digit to the other would have "
        f"the shortest path. Whole paths are shorter in W in {shorter} of {len(of_trials)} trials."
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def _firsts(trained: Trained) -> dict[str, tuple[str, runs.Run]]:
    """The first trial of each row: row -> folder and run."""
    return {
        row: (trials.folder(row, seed), run)
        for row, by_seed in trials.by_name(trained.runs).items()
        for seed, run in [next(iter(by_seed.items()))]
    }


def reconstructions(trained: Trained, results: Results) -> Figures:
    """Held-out digits, and what each row makes of them."""
    shown = trained.data.validation.first(_SHOWN)
    versions = {"original": shown["image"]}
    for row, (_, run) in _firsts(trained).items():
        versions[TITLES[row]] = to_bytes(run.decode(run.encode(pixels(shown))[0]))
    return {
        "reconstructions": (
            f"Held-out digits, and beneath them what comes back from {', '.join(list(versions)[1:])}, of each the "
            "first trial (figure 3)",
            grids.comparison(versions, columns=_SHOWN),
        )
    }


def samples(trained: Trained, results: Results) -> Figures:
    """Images of random draws, of each row that has a prior."""
    key = jax.random.key(trained.config.seed)
    return {
        f"samples_{row}": (
            f"{TITLES[row]}: images of random draws",
            grids.grid(to_bytes(run.sample(key, _SAMPLES)), columns=_SHOWN),
        )
        for row, (_, run) in _firsts(trained).items()
        if run.model.sample is not None
    }


def interpolation_sheet(trained: Trained, results: Results) -> Figures:
    """ALAE between random draws, still and with sliders; nothing without ALAE."""
    firsts = _firsts(trained)
    if "alae" not in firsts:
        return {}
    _, run = firsts["alae"]
    pictures = interpolations(run, jax.random.key(trained.config.seed))
    rows = pictures.reshape(-1, _STEPS, *pictures.shape[1:])
    labels = [f"pair {number // 2 + 1}, along {'zw'[number % 2]}" for number in range(len(rows))]
    return {
        "interpolations": (
            "ALAE: from one draw to another, along z and along w; the steps between should be digits too (figure 4)",
            Strips(dict(zip(labels, rows, strict=True)), [f"{step / (_STEPS - 1):.0%}" for step in range(_STEPS)]),
        )
    }


def interpolations(run: runs.Run, key: jax.Array, count: int = 4) -> np.ndarray:
    """Pictures between pairs of draws, along z and along w.

    Args:
        run: an ALAE.
        key: of the draws.
        count: P, pairs.

    Returns:
        uint8 [P * 2 * S, H, W, C]: of each pair S steps along z, then S along w.
    """
    ends = jax.random.normal(key, (2, count, run.config.latent_size))
    fractions = jnp.linspace(0.0, 1.0, _STEPS)[:, None, None]
    along_z = run.map(gaussian.lerp(ends[0][None], ends[1][None], fractions).reshape(-1, run.config.latent_size))
    along_w = gaussian.lerp(run.map(ends[0])[None], run.map(ends[1])[None], fractions)
    codes = jnp.stack([along_z.reshape(along_w.shape), along_w])  # [2, S, P, D]
    return to_bytes(run.decode(codes.transpose(2, 0, 1, 3).reshape(-1, run.config.latent_size)))


def reconstruction_error(trained: Trained, results: Results) -> Figures:
    """Errors of held-out digits over training."""
    records = {
        TITLES[row]: errors_per_pixel(run, trained.records[folder]) for row, (folder, run) in _firsts(trained).items()
    }
    return {
        "reconstruction_error": (
            "Squared error of held-out digits, per pixel, from their codes: lines with dots; those without are of "
            "training digits, where that is what is trained. Of the autoencoder trained by absolute differences, it is "
            "its error",
            curves.runs(records, "loss", ylabel="squared error per pixel"),
        )
    }


def errors_per_pixel(run: runs.Run, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of a trial, with the mean over pixels for "loss": an autoencoder's is the sum."""
    pixel_count = run.config.image_size**2 if run.settings["model"] == "autoencoder" else 1
    return [{**record, "loss": record["loss"] / pixel_count} if "loss" in record else {**record} for record in records]
