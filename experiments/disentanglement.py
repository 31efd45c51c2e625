"""beta-VAE against beta-TCVAE: how much disentanglement does a weight buy, at what loss of reconstruction?

    python experiments/disentanglement.py
    python experiments/disentanglement.py --preset=long --workdir=runs/disentanglement_long
    python experiments/disentanglement.py --config.data.source=faces --config.model.channels=3 --workdir=runs/faces

Trains both models for several weights and seeds on images of which the generative factors are known, rendered shapes
or faces, each in a folder of its own within the workdir; then scores latent spaces and reconstructions, and compares
the two where they reconstruct equally well. The same command resumes a run that was stopped.

The seeds of a setting are trained one after another and share its program by the compilation cache. As one program, by
vmap, they would take longer on a CPU: 55 ms per step of three dense models instead of 3 x 18 ms, 141 ms of three
convolutional ones instead of 3 x 31 ms.

Reference:
    Chen et al., 2018, Isolating sources of disentanglement in variational autoencoders, arXiv:1802.04942.
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
from training import Member, in_chunks, pixels, to_bytes, traversal

from mvae_jax import gaussian, images, runs
from mvae_jax.data import faces, shapes
from mvae_jax.data.batches import Splits
from mvae_jax.eval import disentanglement, likelihood
from mvae_jax.models import beta_tcvae, beta_vae, vae
from mvae_jax.train import loop
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import grids, report, scores, tradeoff, traversals

_log = logging.getLogger("disentanglement")

SHAPES, FACES = "shapes", "faces"
FACTORS: dict[str, Mapping[str, int]] = {SHAPES: shapes.FACTORS, FACES: faces.BINS}
CHANNELS = {SHAPES: 1, FACES: 3}
METHODS = {"beta_vae": "beta-VAE", "beta_tcvae": "beta-TCVAE"}
ERROR = "squared error per value"
EQUAL = 0.05  # relative difference of the squared errors of models that reconstruct equally well
_SHOWN = 8
_REACH, _STEPS = 2.0, 9  # of traversals


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images; all are drawn, so that there are images of any combination of factors.

    Attributes:
        source: "shapes", those of dSprites, or "faces".
        train_size: images for training.
        validation_size: others, from which all scores are taken, but the FactorVAE score.
    """

    source: str = SHAPES
    train_size: int = 64_000
    validation_size: int = 5000

    def __post_init__(self) -> None:
        if self.source not in FACTORS:
            raise ValueError(f"data.source is {self.source!r}; choose one of {', '.join(map(repr, FACTORS))}.")
        if self.train_size < 1 or self.validation_size < 100:
            raise ValueError(
                f"data.train_size is {self.train_size} and data.validation_size {self.validation_size}; expected at "
                "least 1, and 100 to take scores from."
            )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the trained models are scored.

    Attributes:
        trees: of the random forest of DCI.
        votes: of the FactorVAE score, to fit and as many to judge by.
        scale_samples: images from which it takes the scale of each dimension.
        posterior_samples: of the aggregated posterior, for its total correlation.
    """

    trees: int = 10
    votes: int = 800
    scale_samples: int = 10_000
    posterior_samples: int = 1000

    def __post_init__(self) -> None:
        for name, least in {"trees": 1, "votes": 10, "scale_samples": 2, "posterior_samples": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"evaluation.{name} is {getattr(self, name)}; expected at least {least}.")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the images, and of the draws of the evaluation.
        seeds: of initialisation, draws and order of the images in training; a model each.
        data: the images.
        model: what all models share.
        betas: of the beta-VAE, weights of the KL divergence.
        total_correlation_weights: of the beta-TCVAE, its beta.
        evaluation: how the models are scored.
        training: how they are watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    seeds: tuple[int, ...] = (0, 1, 2)
    data: Data = Data()
    model: vae.Config = vae.Config(
        image_size=32,
        channels=1,
        network="dense",
        widths=(128, 128),
        latent_size=10,
        epochs=5,
        batch_size=64,
        learning_rate=3e-3,
        likelihood="bernoulli",
    )
    betas: tuple[float, ...] = (2.0, 6.0)
    total_correlation_weights: tuple[float, ...] = (2.0, 8.0)
    evaluation: Evaluation = Evaluation()
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        for name in ("seeds", "betas", "total_correlation_weights"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} are {values}; expected at least one, and none twice.")
        if not all(0 <= seed < 2**32 for seed in (self.seed, *self.seeds)):
            raise ValueError(f"seed is {self.seed} and seeds are {self.seeds}; expected numbers from 0 to 2**32 - 1.")
        if self.model.channels != CHANNELS[self.data.source]:
            raise ValueError(
                f"model.channels is {self.model.channels}; expected {CHANNELS[self.data.source]} for images of "
                f"{self.data.source}."
            )
        if len(self.models()) != len(self.betas) + len(self.total_correlation_weights):
            raise ValueError(
                f"betas are {self.betas} and total_correlation_weights {self.total_correlation_weights}; expected "
                "values that differ in six digits."
            )
        if self.model.latent_size < 2:
            raise ValueError(f"model.latent_size is {self.model.latent_size}; expected at least 2, to be compared.")
        factors = len(FACTORS[self.data.source])
        if self.evaluation.votes < factors:
            raise ValueError(
                f"evaluation.votes is {self.evaluation.votes}; expected at least one per factor, {factors}."
            )

    def models(self) -> dict[str, tuple[str, Any]]:
        """The settings that are compared, each a model per seed: label -> (name in the zoo, config)."""
        common = dataclasses.asdict(self.model)
        found: dict[str, tuple[str, Any]] = {}
        for beta in self.betas:
            found[f"beta_vae_{beta:g}"] = ("beta_vae", beta_vae.Config(**common, beta=beta))
        for weight in self.total_correlation_weights:
            config = beta_tcvae.Config(**common, total_correlation_weight=weight)
            found[f"beta_tcvae_{weight:g}"] = ("beta_tcvae", config)
        return found

    def folders(self) -> dict[str, dict[int, str]]:
        """Where the models are: label -> seed -> folder within the workdir."""
        return {label: {seed: f"{label}/seed_{seed}" for seed in self.seeds} for label in self.models()}


Models = dict[str, dict[int, runs.Run]]  # label -> seed -> trained model
Rows = dict[str, dict[int, dict[str, float]]]  # label -> seed -> score -> value


def beta_of(model: beta_vae.Config | beta_tcvae.Config) -> float:
    """The weight that is varied."""
    return model.beta if isinstance(model, beta_vae.Config) else model.total_correlation_weight


def _long() -> Config:
    """More weights and seeds, and training until position and scale lie along dimensions of their own."""
    laptop = Config()
    return dataclasses.replace(
        laptop,
        seeds=(0, 1, 2, 3, 4),
        data=dataclasses.replace(laptop.data, train_size=256_000),
        model=dataclasses.replace(laptop.model, epochs=5),
        betas=(1.0, 2.0, 4.0, 6.0, 8.0),
        total_correlation_weights=(2.0, 4.0, 8.0, 12.0, 16.0),
    )


PRESETS = {"laptop": Config(), "long": _long()}
MAY_CHANGE = ("config.training", "config.evaluation")


def main(argv: list[str]) -> None:
    """Trains, scores, compares and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/disentanglement", description=__doc__ or "")
    with launch.errors():
        data = load(config)

    def evaluated(
        trained: dict[str, runs.Run], workdir: Path, folder: Path, interruption: Interruption
    ) -> dict[str, Any]:
        if not launch.is_first():
            return {}
        models = {
            label: {seed: trained[path] for seed, path in folders.items()}
            for label, folders in config.folders().items()
        }
        return {"scores": evaluate(argv, models, data, config, folder, interruption)}

    members = {
        path: Member(*config.models()[label], seed)
        for label, folders in config.folders().items()
        for seed, path in folders.items()
    }
    training.run_members(argv, arguments, config, members, data, model="vae", may_change=MAY_CHANGE, evaluate=evaluated)


# --- images ----------------------------------------------------------------------------------------------------------


def load(config: Config) -> Splits:
    """Draws the images; "factors" are the columns of `FACTORS`."""
    sizes, image_size = config.data, config.model.image_size
    if sizes.source == SHAPES:
        chosen = shapes.Settings(sizes.train_size, sizes.validation_size, 0, image_size, config.seed)
        return shapes.load(shapes.RENDERED, chosen)
    count = sizes.train_size + sizes.validation_size
    drawn = faces.sample(config.seed, count, image_size)
    arrays = {"image": drawn.images, "factors": faces.bins_of(drawn), "index": np.arange(count, dtype=np.int32)}
    provenance = {"source": "rendered faces", "seed": config.seed, "images": count}
    return Splits.cut(arrays, sizes.train_size, sizes.validation_size, (), provenance)


def artist(config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """Draws images with given factors, [n, F] to uint8 [n, H, W, C]: the same ones whoever asks for these again."""
    drawn: dict[bytes, np.ndarray] = {}
    unseen = config.data.train_size + config.data.validation_size

    def draw(factors: np.ndarray) -> np.ndarray:
        name = factors.tobytes()
        if name not in drawn and config.data.source == SHAPES:
            drawn[name] = shapes.render(factors, config.model.image_size)
        elif name not in drawn:
            first = unseen + len(drawn) * len(factors)  # what is no factor is that of faces which no model has seen
            drawn[name] = faces.sample_bins(factors, config.seed, config.model.image_size, first).images
        return drawn[name]

    return draw


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluate(
    argv: list[str],
    trained: Models,
    data: Splits,
    config: Config,
    folder: Path,
    interruption: Interruption | None = None,
) -> dict[str, Any]:
    """Scores, compares and draws all models, and writes numbers, figures and report into `folder`."""
    interruption, draw = interruption or Interruption(), artist(config)
    rows: Rows = {}
    details: dict[str, Any] = {}
    for label, members in trained.items():
        rows[label], details[label] = {}, {}
        for seed, run in members.items():
            rows[label][seed], details[label][seed] = measure(run, data, draw, config)
            interruption.check()
            _log.info("%s, seed %d: MIG %.3f", label, seed, rows[label][seed]["MIG"])
    first = next(iter(trained.values()))[config.seeds[0]]
    notes = training.notes(first, data)
    for note in notes:
        _log.warning(note)
    models, summary = config.models(), summarise(rows)
    pairs = equal_pairs(summary, models)
    statement = state(pairs)
    _log.info("%s", statement)
    paths = report.save_figures(figures(trained, data, rows, details, config), folder / "figures")
    found = {"settings": summary, "equal_reconstruction": pairs, "statement": statement, "models": details}
    atomic_write(folder / "scores.json", json.dumps(found, indent=2) + "\n")
    report.write(
        folder / "report.html",
        f"Disentanglement: {folder.name}",
        [
            *(report.note(note) for note in notes),
            report.heading("Disentanglement, reconstruction and divergence"),
            f"Medians over {len(config.seeds)} seeds, in brackets the lowest and the highest value. "
            + _how(next(iter(details.values()))[config.seeds[0]], data, config),
            report.table([_table_row(models[label], medians) for label, medians in summary.items()]),
            report.heading("At equal reconstruction"),
            statement,
            report.table(pairs),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *launch.how_it_was_made(argv, first, data.provenance, config),
        ],
    )
    _log.info("report: %s", folder / "report.html")
    return found


def measure(
    run: runs.Run, data: Splits, draw: Callable[[np.ndarray], np.ndarray], config: Config
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores of one model, and the same with how they were taken."""
    x, factors, settings = pixels(data.validation), data.validation["factors"], config.evaluation
    keys = jax.random.split(jax.random.key(config.seed))
    mean, logvar = in_chunks(run.encode)(x)
    z = gaussian.sample(keys[0], mean, logvar)
    codes = np.asarray(mean)
    mig, sap = disentanglement.mig(codes, factors), disentanglement.sap(codes, factors)
    dci = disentanglement.dci(codes, factors, trees=settings.trees)
    factor_vae = disentanglement.factor_vae_score(
        lambda values: run.encode(images.to_float(jnp.asarray(draw(values))))[0],
        list(FACTORS[config.data.source].values()),
        train_votes=settings.votes,
        test_votes=settings.votes,
        scale_samples=settings.scale_samples,
        seed=config.seed,
    )
    aggregate = likelihood.aggregate_posterior(mean, logvar, keys[1], samples=settings.posterior_samples)
    row = {
        "MIG": mig.value,
        "DCI disentanglement": dci.disentanglement,
        "DCI completeness": dci.completeness,
        "DCI informativeness": dci.informativeness,
        "SAP": sap.value,
        "FactorVAE score": factor_vae.value,
        "NLL": -float(in_chunks(run.log_likelihood)(x, z).mean()),
        ERROR: float(jnp.square((x - in_chunks(run.decode)(mean)) / 2).mean()),
        "KL": aggregate.kl,
        "total correlation": aggregate.total_correlation.value,
        "active dimensions": float(likelihood.active_units(mean).sum()),
    }
    taken: dict[str, Any] = {
        "mig": mig,
        "dci": dci,
        "sap": sap,
        "factor_vae_score": factor_vae,
        "aggregate_posterior": aggregate,
    }
    return row, row | {name: dataclasses.asdict(result) for name, result in taken.items()}


def summarise(rows: Rows) -> dict[str, dict[str, dict[str, float]]]:
    """Over the seeds of each setting: label -> score -> {"median", "lowest", "highest"}."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": float(np.median(values)), "lowest": min(values), "highest": max(values)}

    return {
        label: {name: spread([row[name] for row in members.values()]) for name in next(iter(members.values()))}
        for label, members in rows.items()
    }


def equal_pairs(summary: Mapping[str, Any], models: Mapping[str, tuple[str, Any]]) -> list[dict[str, Any]]:
    """For each beta-TCVAE, each beta-VAE with the same median squared error up to `EQUAL`; None where there is none.

    The squared error and not the negative log-likelihood, for this has a part that no model can lower where pixels
    are grey, and the same share of it would be a wider gap.
    """
    betas = {
        method: {label: beta_of(model) for label, (name, model) in models.items() if name == method}
        for method in METHODS
    }
    pairs: list[dict[str, Any]] = []
    for label, weight in betas["beta_tcvae"].items():
        error = summary[label][ERROR]["median"]
        row = {"beta-TCVAE": weight, f"its {ERROR}": error, "its MIG": summary[label]["MIG"]["median"]}
        near = [other for other in betas["beta_vae"] if abs(summary[other][ERROR]["median"] / error - 1.0) <= EQUAL]
        for other in near:
            pairs.append(
                row
                | {"beta-VAE": betas["beta_vae"][other], ERROR: summary[other][ERROR]["median"]}
                | {"MIG": summary[other]["MIG"]["median"]}
            )
        if not near:
            pairs.append(row | {"beta-VAE": None, ERROR: None, "MIG": None})
    return pairs


def state(pairs: list[dict[str, Any]]) -> str:
    """What `equal_pairs` say, in words."""
    rule = f"Two settings reconstruct equally well if the medians of their {ERROR} differ by at most {EQUAL:.0%}."
    equal = [pair for pair in pairs if pair["beta-VAE"] is not None]
    if not equal:
        return f"{rule} No beta-VAE reconstructs equally well as a beta-TCVAE: there is nothing to compare."
    higher = sum(pair["its MIG"] > pair["MIG"] for pair in equal)
    each = ", ".join(
        f"{pair['its MIG']:.3f} at beta {pair['beta-TCVAE']:g} against {pair['MIG']:.3f} at {pair['beta-VAE']:g}"
        for pair in equal
    )
    alone = [f"{pair['beta-TCVAE']:g}" for pair in pairs if pair["beta-VAE"] is None]
    return (
        f"{rule} In {higher} of {len(equal)} such pairs the beta-TCVAE has the higher median MIG: {each}."
        + f" No beta-VAE reconstructs as the beta-TCVAE of beta {', '.join(alone)} does." * bool(alone)
    )


def _how(details: Mapping[str, Any], data: Splits, config: Config) -> str:
    """How the scores were taken, in words."""
    mig, dci, sap, votes = (details[name] for name in ("mig", "dci", "sap", "factor_vae_score"))
    factors = FACTORS[config.data.source]
    return (
        f"Codes are posterior means of {mig['samples']} held-out images of random combinations of {len(factors)} "
        f"factors: {', '.join(factors)}. MIG: {mig['estimator']}, {mig['bins']} bins. DCI: {dci['estimator']}, "
        f"{dci['train_samples']} samples to fit and {dci['test_samples']} to test. SAP: {sap['estimator']}, "
        f"{sap['train_samples']} and {sap['test_samples']}. FactorVAE score: {votes['train_votes']} votes to fit and "
        f"{votes['test_votes']} to judge by, of {votes['batch_size']} images each, drawn for it, and "
        f"{votes['scale_samples']} for the scale; guessing gives {1 / len(factors):.2f}. Reconstruction is of the same "
        f"{len(data.validation)} held-out images: NLL, -log p(x | z) of one sample of the posterior, in nats per "
        f"image, and the squared error of pixel values in [0, 1] from the posterior mean. KL and total correlation, in "
        "nats, are those of the posteriors of these images; where the KL nears the logarithm of their number, "
        f"{np.log(len(data.validation)):.1f}, they are too few and the total correlation is too large. Effective beta "
        "is the weight that beta would be beside means over pixels and dimensions instead of sums."
    )


def _table_row(setting: tuple[str, Any], medians: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    name, model = setting
    beta = beta_of(model)
    spread = {score: f"{m['median']:.3g} ({m['lowest']:.3g}–{m['highest']:.3g})" for score, m in medians.items()}
    return {"model": METHODS[name], "beta": beta, "effective beta": model.effective_weight(beta), **spread}


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(
    trained: Models, data: Splits, rows: Rows, details: Mapping[str, Any], config: Config
) -> dict[str, tuple[str, Any]]:
    """The figures: {file name: (caption, picture)}."""
    models, seeds = config.models(), len(config.seeds)
    typical = {label: _typical(members) for label, members in rows.items()}

    def points(x: Callable[[Any, Mapping[str, float]], float]) -> dict[str, dict[str, list[tuple[float, float]]]]:
        found: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for label, (name, model) in models.items():
            members = [(x(model, row), row["MIG"]) for row in rows[label].values()]
            found.setdefault(METHODS[name], {})[f"{beta_of(model):g}"] = members
        return found

    over = f"medians of {seeds} seeds with the lowest and the highest value, beta beside them"
    drawn: dict[str, tuple[str, Any]] = {
        "mig_over_reconstruction": (
            f"MIG against reconstruction: {over}",
            tradeoff.medians(points(lambda _, row: row[ERROR]), xlabel=ERROR, ylabel="MIG"),
        ),
        "mig_over_beta": (
            f"MIG against beta: {over}",
            tradeoff.medians(points(lambda model, _: beta_of(model)), xlabel="beta", ylabel="MIG"),
        ),
    }
    ranking = sorted(rows, key=lambda label: float(np.median([row["MIG"] for row in rows[label].values()])))
    chosen = {"best": ranking[-1], "worst": ranking[0]}
    names = list(FACTORS[config.data.source])
    gaps = {
        label: dict(zip(names, details[label][typical[label]]["mig"]["per_factor"], strict=True))
        for label in dict.fromkeys(chosen.values())
    }
    drawn["gaps"] = (
        "Mutual information gap of each factor, in the models of median MIG of the best and of the worst setting",
        scores.attribute_bars(gaps, xlabel="gap"),
    )
    for rank, label in chosen.items():
        seed = typical[label]
        run, dimensions = trained[label][seed], details[label][seed]["mig"]["dimensions"]
        sheet = traversal(run, pixels(data.validation.first(1)), pixels(data.validation), _REACH, _STEPS)
        tells = ", ".join(f"{name} z{dimension}" for name, dimension in zip(names, dimensions, strict=True))
        caption = (
            f"{label}, of the {rank} median MIG, seed {seed}, the one of that MIG: one latent dimension at a time from "
            f"{-_REACH:g} to {_REACH:g}, those of the largest KL first; most "
            f"informative of each factor: {tells}"
        )
        drawn[f"traversals_{rank}"] = (caption, traversals.sheet(sheet))
        drawn[f"traversals_{rank}_animated"] = (f"{caption}, animated", traversals.animation(sheet))
    shown = data.validation.first(_SHOWN)
    versions = {"original": shown["image"]}
    for label, seed in typical.items():
        run = trained[label][seed]
        versions[label] = to_bytes(run.decode(run.encode(pixels(shown))[0]))
    drawn["reconstructions"] = (
        "Held-out images and what the model of median MIG of each setting makes of them",
        grids.comparison(versions, columns=_SHOWN),
    )
    return drawn


def _typical(members: Mapping[int, Mapping[str, float]]) -> int:
    """The seed of median MIG, of two the lower one."""
    return sorted(members, key=lambda seed: members[seed]["MIG"])[(len(members) - 1) // 2]


if __name__ == "__main__":
    main(sys.argv)
