"""ALAE with MLPs on MNIST beside its baselines: what do their codes tell a simple classifier? (ALAE, table 2)

    python experiments/mnist_alae.py
    python experiments/mnist_alae.py --preset=paper --config.data.source=mnist --workdir=runs/mnist_alae
    python experiments/mnist_alae.py --config.models=alae --config.seeds=0 --workdir=runs/alae

Trains each of `models` for each of `seeds` on the same digits, MNIST or the 1,797 small ones of scikit-learn, in a
folder of its own within the workdir. Then classifies digits by the nearest neighbour and by a linear SVM on their
codes, and draws reconstructions, samples and interpolations. The same command resumes a run that was stopped.

The trials of a model are trained one after another and share its program by the compilation cache.

Reference:
    Pidhorskyi et al., 2020, Adversarial latent autoencoders, arXiv:2004.04467, section 5.1.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import launch
import numpy as np
import training
from training import Member, in_chunks, pixels, to_bytes

from mvae_jax import gaussian, images, runs
from mvae_jax.data import mnist
from mvae_jax.data.batches import Split, Splits
from mvae_jax.eval import probes
from mvae_jax.models import alae, autoencoder, bigan, joint_latent_regressor, latent_regressor
from mvae_jax.train import loop
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, grids, report

_log = logging.getLogger("mnist_alae")

# Table 2 of the paper, accuracies in percent: row -> column -> (short, long features). Which autoencoder is which is
# not certain.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    row: dict(zip(("1NN SW", "SVM SW", "1NN DW", "SVM DW"), values, strict=True))
    for row, values in {
        "autoencoder_l1": ((97.15, 97.43), (88.71, 97.27), (96.84, 96.80), (89.78, 97.72)),
        "autoencoder_l2": ((97.52, 97.37), (88.78, 97.23), (97.05, 96.77), (89.78, 97.72)),
        "latent_regressor": ((92.79, 97.28), (89.74, 97.56), (91.90, 96.69), (90.03, 97.80)),
        "joint_latent_regressor": ((92.54, 97.02), (89.23, 97.19), (91.97, 96.45), (90.82, 97.62)),
        "bigan": ((95.83, 97.14), (90.52, 97.59), (95.38, 96.81), (91.34, 97.74)),
        "alae": ((93.79, 97.61), (93.47, 98.20), (94.59, 97.47), (94.23, 98.64)),
    }.items()
}
_TITLES = {
    "autoencoder_l1": "AE, l1",
    "autoencoder_l2": "AE, l2",
    "latent_regressor": "LR",
    "joint_latent_regressor": "JLR",
    "bigan": "BiGAN",
    "alae": "ALAE",
}
_SHOWN = 10  # digits of a sheet
_SAMPLES = 50
_STEPS = 9  # of an interpolation
_LEAST = 60  # training images, a sixth of which is left out of a classifier's


@dataclasses.dataclass(frozen=True)
class Data:
    """Which digits.

    Attributes:
        source: "digits", those of scikit-learn, 8 x 8 pixels, or a path: folder or zip with the official files of
            MNIST, or of a data set of the same layout, or Keras's mnist.npz.
    """

    source: str = mnist.DIGITS

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(f"data.source is empty; expected {mnist.DIGITS!r} or a path.")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is classified.

    Attributes:
        long_features: also classify the encoder's last hidden layer, which takes most of the time.
    """

    long_features: bool = True


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the draws of the evaluation.
        seeds: of initialisation, draws and order of the images in training; a trial each.
        data: the digits.
        models: the rows of the table, all or some.
        model: ALAE; its image size and channels are those of the data. The baselines have its widths, latent size,
            batch size, epochs and precision.
        baseline_learning_rate: of the baselines, Adam's; it falls to a hundredth over the second half of the epochs.
        stochastic_bigan: BiGAN's encoder draws from a Gaussian, as in ALI.
        evaluation: what is classified.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    data: Data = Data()
    models: tuple[str, ...] = tuple(PUBLISHED)
    model: alae.Config = alae.Config()
    baseline_learning_rate: float = 2e-4
    stochastic_bigan: bool = False
    evaluation: Evaluation = Evaluation()
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        for name in ("seeds", "models"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} are {values}; expected at least one, and none twice.")
        if not all(0 <= seed < 2**32 for seed in (self.seed, *self.seeds)):
            raise ValueError(f"seed is {self.seed} and seeds are {self.seeds}; expected numbers from 0 to 2**32 - 1.")
        unknown = [name for name in self.models if name not in PUBLISHED]
        if unknown:
            raise ValueError(f"models has {unknown[0]!r}; choose from {', '.join(PUBLISHED)}.")

    def members(self, data: Splits) -> dict[str, Member]:
        """The trials: folder -> model."""
        _, image_size, _, channels = data.train["image"].shape
        own = dataclasses.replace(self.model, image_size=image_size, channels=channels)
        names = ("image_size", "channels", "widths", "latent_size", "batch_size", "epochs", "compute_dtype")
        common: dict[str, Any] = {name: getattr(own, name) for name in names}
        common["learning_rate"] = self.baseline_learning_rate
        game = common | {"decayed_epochs": own.epochs // 2}
        plain = common | {"network": "bigan", "optimizer": "bigan", "output": "sigmoid"}
        found = {
            "autoencoder_l1": ("autoencoder", autoencoder.Config(**plain, error="l1")),
            "autoencoder_l2": ("autoencoder", autoencoder.Config(**plain, error="l2")),
            "latent_regressor": ("latent_regressor", latent_regressor.Config(**game)),
            "joint_latent_regressor": ("joint_latent_regressor", joint_latent_regressor.Config(**game)),
            "bigan": ("bigan", bigan.Config(**game, encoder="gaussian" if self.stochastic_bigan else "deterministic")),
            "alae": ("alae", own),
        }
        return {f"{row}/seed_{seed}": Member(*found[row], seed) for seed in self.seeds for row in self.models}


def _laptop() -> Config:
    """All rows on the small digits, at widths and lengths for two CPU cores.

    So few pixels lie closer together: the paper's weight of R1 would keep the discriminator from telling them apart.
    """
    own = alae.Config(widths=(256, 256), latent_size=16, r1_weight=0.3, epochs=100, batch_size=64)
    return Config(seeds=(0, 1, 2), model=own)


PRESETS = {"laptop": _laptop(), "paper": Config()}
# Where files lie may change, what they hold may not; and the evaluation is no part of the training.
MAY_CHANGE = ("config.training", "config.evaluation", "config.data.source")


Rows = dict[str, dict[int, dict[str, float]]]  # row -> seed -> column -> accuracy
_PROBES: dict[str, Callable[..., probes.ProbeScore]] = {
    "1NN": probes.nearest_neighbour_accuracy,
    "SVM": probes.linear_svm_accuracy,
}


def main(argv: list[str]) -> None:
    """Trains, classifies and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/mnist_alae", description=__doc__ or "")
    with launch.errors():
        if arguments.preset == "paper" and config.data.source == mnist.DIGITS and not arguments.evaluate:
            raise ValueError(
                f"--preset=paper is of MNIST, and data.source is {mnist.DIGITS!r}; give the path of its folder, "
                "--config.data.source=PATH."
            )
        data = mnist.load(config.data.source)
        members = config.members(data)
        if len(data.train) < _LEAST or min(len(np.unique(split["label"])) for _, split in list(data)[:2]) < 2:
            raise ValueError(
                f"there are {len(data.train)} images to train on and {len(data.validation)} held out; expected at "
                f"least {_LEAST} to train on, and in both images of at least two labels, to be told apart."
            )

    def evaluated(
        trained: dict[str, runs.Run], workdir: Path, folder: Path, interruption: Interruption
    ) -> Mapping[str, Any]:
        return evaluate(argv, trained, data, config, workdir, folder, interruption) if launch.is_first() else {}

    training.run_members(
        argv, arguments, config, members, data, model="alae", may_change=MAY_CHANGE, evaluate=evaluated
    )


def evaluate(
    argv: list[str],
    trained: dict[str, runs.Run],
    data: Splits,
    config: Config,
    workdir: Path,
    folder: Path,
    interruption: Interruption,
) -> dict[str, Any]:
    """Classifies and draws, and writes numbers, figures and report into `folder`."""
    rows: Rows = {}
    for name, run in trained.items():
        scores = probed(run, data, config.evaluation, workdir / name / f"probes_{data.sha256()[:12]}.json")
        rows.setdefault(_row_of(name), {})[int(run.settings["config"]["seed"])] = scores
        _log.info("%s: %s", name, ", ".join(f"{column} {100 * value:.2f}" for column, value in scores.items()))
        interruption.check()
    notes = training.notes(next(iter(trained.values())), data)
    for note in notes:
        _log.warning(note)
    statement = claim(rows)
    _log.info("%s", statement)
    records = {name: errors_per_pixel(run, workdir / name) for name, run in _firsts(trained).items()}
    paths = report.save_figures(figures(trained, data, records, config), folder / "figures")
    is_mnist = data.provenance["data_set"] == "MNIST"
    found = {"accuracies": rows, "statement": statement}
    atomic_write(folder / "scores.json", json.dumps(found, indent=2) + "\n")
    report.write(
        folder / "report.html",
        f"ALAE and its baselines: {folder.name}",
        [
            *(report.note(note) for note in notes),
            report.heading("Digits read from codes (table 2)"),
            f"Accuracies in percent, mean and standard deviation over {len(config.seeds)} trials. 1NN: nearest "
            "neighbour, Euclidean; SVM: linear, C 0.02, squared hinge loss. SW: trained on five sixths of the training "
            "images and tested on the others; DW: trained on all of them and tested on the held-out ones. Short: the "
            f"code, {config.model.latent_size} numbers. Long: the encoder's last hidden layer, "
            f"{config.model.widths[-1]}.",
            report.table(table(rows, published=is_mnist)),
            statement,
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *launch.how_it_was_made(argv, next(iter(trained.values())), data.provenance, config),
        ],
    )
    _log.info("report: %s", folder / "report.html")
    return found


def probed(run: runs.Run, data: Splits, settings: Evaluation, path: Path) -> dict[str, float]:
    """Accuracies of the probes, column of the table -> share; kept in `path`, for some take minutes.

    What is kept counts only for the same step and images.
    """
    of = {"step": run.step, "data_sha256": data.sha256()}
    scores = _kept(path, of)
    kinds: dict[str, Callable[[jax.Array], jax.Array]] = {"short": lambda x: run.encode(x)[0]}
    if settings.long_features:
        kinds["long"] = run.features
    missing = {kind: function for kind, function in kinds.items() if not any(name.endswith(kind) for name in scores)}
    labels, (inner, outer) = data.train["label"], mnist.split_same_writers(len(data.train))
    for kind, function in missing.items():
        train, test = (_features(function, split) for split in (data.train, data.validation))
        for split, examples in {
            "SW": (train[inner], labels[inner], train[outer], labels[outer]),
            "DW": (train, labels, test, data.validation["label"]),
        }.items():
            for probe, measure in _PROBES.items():
                scores[f"{probe} {split} {kind}"] = measure(*examples, split=split).to_dict()
    if missing:
        atomic_write(path, json.dumps({"of": of, "scores": scores}, indent=2) + "\n")
    asked = {name: score for name, score in scores.items() if name.rsplit(" ", 1)[1] in kinds}
    for name, score in asked.items():
        if score["converged"] is False:
            _log.warning("%s, %s: the SVM has not converged; its accuracy may be too low", path.parent, name)
    return {name: score["accuracy"] for name, score in asked.items()}


def _features(function: Callable[[jax.Array], jax.Array], split: Split) -> np.ndarray:
    return np.asarray(in_chunks(lambda x: function(images.to_float(x)), 1000)(jnp.asarray(split["image"])))


def _kept(path: Path, of: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores in `path`; none if there is no such file, or if it is damaged or of something else."""
    try:
        found = json.loads(path.read_text())
        probes_of = {name: probes.ProbeScore(**score).to_dict() for name, score in found["scores"].items()}
        return probes_of if found["of"] == of and all(0 <= s["accuracy"] <= 1 for s in probes_of.values()) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def errors_per_pixel(run: runs.Run, folder: Path) -> list[dict[str, Any]]:
    """The records of a trial, with the mean over pixels for "loss": an autoencoder's is the sum."""
    records = read_metrics(folder / "metrics.jsonl")
    if run.settings["model"] != "autoencoder":
        return records
    pixel_count = run.config.image_size**2
    return [{**record, "loss": record["loss"] / pixel_count} if "loss" in record else record for record in records]


def table(rows: Rows, *, published: bool) -> list[dict[str, Any]]:
    """Rows for a report; with `published` the paper's values, mean of five trials, beside ours."""
    found = []
    for row, trials in rows.items():
        line: dict[str, Any] = {"model": _TITLES[row]}
        for column in next(iter(trials.values())):
            values = [100 * scores[column] for scores in trials.values()]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            line[column] = f"{np.mean(values):.2f}{spread}"
            if published:
                name, kind = column.rsplit(" ", 1)
                line[column] += f" ({PUBLISHED[row][name][kind == 'long']:.2f})"
        found.append(line)
    return found


def claim(rows: Rows) -> str:
    """Whether the paper's claim holds: ALAE's codes are the best for a linear classifier."""
    if "alae" not in rows or len(rows) < 2:
        return "The paper's claim needs ALAE and another row."
    parts = []
    for split in ("SW", "DW"):
        column = f"SVM {split} short"
        means = {row: float(np.mean([scores[column] for scores in trials.values()])) for row, trials in rows.items()}
        own, best = means.pop("alae"), max(means, key=means.__getitem__)
        parts.append(
            f"{split}: {100 * own:.2f} against {100 * means[best]:.2f} of {_TITLES[best]}, the best other row, "
            f"so it {'holds' if own > means[best] else 'does not hold'}"
        )
    return f"The paper's claim, that a linear SVM reads ALAE's codes best: {'; '.join(parts)}."


def _row_of(folder: str) -> str:
    return folder.split("/")[0]


def _firsts(trained: Mapping[str, runs.Run]) -> dict[str, runs.Run]:
    """The first trial of each row: folder -> model."""
    found: dict[str, str] = {}
    for name in trained:
        found.setdefault(_row_of(name), name)
    return {name: trained[name] for name in found.values()}


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(
    trained: Mapping[str, runs.Run], data: Splits, records: Mapping[str, Any], config: Config
) -> dict[str, tuple[str, Any]]:
    """The figures: {file name: (caption, picture)}."""
    firsts, key = _firsts(trained), jax.random.key(config.seed)
    shown = data.validation.first(_SHOWN)
    versions = {"original": shown["image"]}
    drawn: dict[str, tuple[str, Any]] = {}
    for name, run in firsts.items():
        versions[_TITLES[_row_of(name)]] = to_bytes(run.decode(run.encode(pixels(shown))[0]))
    drawn["reconstructions"] = (
        "Held-out digits, and what the first trial of each row makes of their codes (figure 3)",
        grids.comparison(versions, columns=_SHOWN),
    )
    for name, run in firsts.items():
        row = _row_of(name)
        if run.model.sample is not None:
            caption = f"{_TITLES[row]}: images of random draws"
            drawn[f"samples_{row}"] = (caption, grids.grid(to_bytes(run.sample(key, _SAMPLES)), columns=_SHOWN))
    if (alae_run := next((run for name, run in firsts.items() if _row_of(name) == "alae"), None)) is not None:
        drawn["interpolations"] = (
            "ALAE: between two draws, along z (upper of each two rows) and along w (lower; figure 4)",
            grids.grid(interpolations(alae_run, key), columns=_STEPS),
        )
    curve = {_TITLES[_row_of(name)]: lines for name, lines in records.items()}
    drawn["reconstruction_error"] = (
        "Squared error of held-out digits, per pixel, from their codes; of the autoencoder trained by absolute "
        "differences, that is its error",
        curves.runs(curve, "loss"),
    )
    return drawn


def interpolations(run: runs.Run, key: jax.Array, count: int = 4) -> np.ndarray:
    """Pictures between pairs of draws, along z and along w, uint8 [count * 2 * steps, H, W, C]."""
    ends = jax.random.normal(key, (2, count, run.config.latent_size))
    fractions = jnp.linspace(0.0, 1.0, _STEPS)[:, None, None]
    along_z = run.map(gaussian.lerp(ends[0][None], ends[1][None], fractions).reshape(-1, run.config.latent_size))
    along_w = gaussian.lerp(run.map(ends[0])[None], run.map(ends[1])[None], fractions)
    codes = jnp.stack([along_z.reshape(along_w.shape), along_w])  # [2, steps, count, D]
    return to_bytes(run.decode(codes.transpose(2, 0, 1, 3).reshape(-1, run.config.latent_size)))


if __name__ == "__main__":
    main(sys.argv)
