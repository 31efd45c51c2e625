"""Disentanglement of latent spaces, on images of which the generative factors are known: beta-VAE and beta-TCVAE.

Each setting, a model with a weight, is trained from several seeds (`trials`). Settings are compared by the medians of
their scores, and where they reconstruct equally well.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, images, runs
from mvae_jax.data.batches import Splits
from mvae_jax.data.rendered import binned_faces, faces, shapes
from mvae_jax.eval import disentanglement, likelihood
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.experiment.declaration import Figures, Headline, Number, Results, Trained, check_least, plain
from mvae_jax.experiment.suites import latents, trials
from mvae_jax.models import autoencoders
from mvae_jax.viz import curves, grids, report, scores, tradeoff

_log = logging.getLogger("experiment")

# Data that are drawn, so that there are images of any combination of factors: source -> factor -> number of values.
FACTORS: dict[str, Mapping[str, int]] = {shapes.RENDERED: shapes.FACTORS, binned_faces.RENDERED: faces.BINS}
METHODS = {"beta_vae": "beta-VAE", "beta_tcvae": "beta-TCVAE"}
EQUAL = 0.05  # relative difference of the squared errors of models that reconstruct equally well
WORDS = {
    "mig": "MIG",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "sap": "SAP",
    "factor_vae_score": "FactorVAE score",
    "nll": "NLL",
    "squared_error": "squared error per value",
    "kl": "KL",
    "total_correlation": "total correlation",
    "active_dimensions": "active dimensions",
}
PAIR_WORDS = {
    "beta_tcvae": "beta-TCVAE",
    "beta_tcvae_squared_error": f"its {WORDS['squared_error']}",
    "beta_tcvae_mig": "its MIG",
    "beta_vae": "beta-VAE",
    "beta_vae_squared_error": WORDS["squared_error"],
    "beta_vae_mig": "MIG",
}
_DCI = ("gradient_boosting", "random_forest")
_NO_GAP = 0.05  # of mutual information, below which no dimension stands for a factor
_SHOWN = 8
_MOST_CURVES = 10  # settings of one chart
_REACH, _STEPS = 2.0, 9  # of traversals


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the trained models are scored.

    Attributes:
        dci: its estimator, "gradient_boosting" as in the literature, or "random_forest", which is forty times as quick.
        trees: rounds of boosting, or trees of the forest.
        votes: of the FactorVAE score, to fit and as many to test.
        scale_samples: images from which it takes the scale of each dimension.
        posterior_samples: of the aggregated posterior, for its total correlation.
    """

    dci: str = dataclasses.field(default="gradient_boosting", metadata={"before": "random_forest"})
    trees: int = 100
    votes: int = 800
    scale_samples: int = 10_000
    posterior_samples: int = 1000

    def __post_init__(self) -> None:
        if self.dci not in _DCI:
            raise ValueError(f"evaluation.dci is {self.dci!r}; choose one of {', '.join(map(repr, _DCI))}.")
        check_least(self, trees=1, votes=10, scale_samples=2, posterior_samples=1)


# --- results ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of one model.

    Attributes:
        numbers: key of `WORDS` -> score.
        details: the results that they were taken from, with estimators and sample counts.
    """

    numbers: Mapping[str, float]
    details: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The numbers by key, and the details under "details"."""
        return {**self.numbers, "details": self.details}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model with a weight, trained from several seeds.

    Attributes:
        method: name of the model in the zoo.
        beta: the weight that is varied.
        effective_beta: what it would be beside means over pixels and dimensions.
        trials: seed -> scores.
    """

    method: str
    beta: float
    effective_beta: float
    trials: Mapping[int, Scores]

    def values(self, key: str) -> list[float]:
        """A score of each trial."""
        return [scores.numbers[key] for scores in self.trials.values()]

    def median(self, key: str) -> float:
        """Median of a score over the trials."""
        return float(np.median(self.values(key)))

    def summary(self) -> dict[str, dict[str, float]]:
        """Spread of each score over the trials: key -> {"median", "lowest", "highest"}."""
        return {
            key: {"median": self.median(key), "lowest": min(self.values(key)), "highest": max(self.values(key))}
            for key in next(iter(self.trials.values())).numbers
        }

    @property
    def typical(self) -> int:
        """Seed of the trial of median MIG, of two the one of the lower MIG."""
        return sorted(self.trials, key=lambda seed: self.trials[seed].numbers["mig"])[(len(self.trials) - 1) // 2]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A beta-TCVAE and a beta-VAE that reconstructs equally well; None where there is none.

    Attributes:
        beta_tcvae: weight of the beta-TCVAE.
        beta_tcvae_squared_error: its median squared error.
        beta_tcvae_mig: its median MIG.
        beta_vae: weight of the beta-VAE.
        beta_vae_squared_error: its median squared error.
        beta_vae_mig: its median MIG.
    """

    beta_tcvae: float
    beta_tcvae_squared_error: float
    beta_tcvae_mig: float
    beta_vae: float | None = None
    beta_vae_squared_error: float | None = None
    beta_vae_mig: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All settings, and those that reconstruct equally well.

    Attributes:
        settings: label -> setting.
    """

    settings: Mapping[str, Setting]

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """See `equal_pairs`."""
        return equal_pairs(self.settings)

    def may_be_chance(self, pair: Pair) -> bool:
        """Whether the MIGs of the seeds of a pair overlap; not where it has no beta-VAE."""
        spreads = [
            setting.summary()["mig"]
            for setting in self.settings.values()
            if (setting.method, setting.beta) in (("beta_vae", pair.beta_vae), ("beta_tcvae", pair.beta_tcvae))
        ]
        highest_low, lowest_high = (
            choose(spread[end] for spread in spreads) for choose, end in ((max, "lowest"), (min, "highest"))
        )
        return len(spreads) == 2 and highest_low <= lowest_high

    def to_dict(self) -> dict[str, Any]:
        """Spreads over the seeds, pairs, what the pairs say in words, and the scores of each model."""
        return {
            "settings": {label: setting.summary() for label, setting in self.settings.items()},
            "equal_reconstruction": self.pairs,
            "statement": statement(self.pairs),
            "models": {label: setting.trials for label, setting in self.settings.items()},
        }


def equal_pairs(settings: Mapping[str, Setting]) -> list[Pair]:
    """For each beta-TCVAE, each beta-VAE with the same median squared error up to `EQUAL`, or none.

    The squared error and not the negative log-likelihood, for this has a part that no model can lower where pixels
    are grey, and the same share of it would be a wider gap.
    """
    pairs = []
    for setting in (setting for setting in settings.values() if setting.method == "beta_tcvae"):
        error = setting.median("squared_error")
        first = Pair(setting.beta, error, setting.median("mig"))
        equal = [
            dataclasses.replace(
                first,
                beta_vae=other.beta,
                beta_vae_squared_error=other.median("squared_error"),
                beta_vae_mig=other.median("mig"),
            )
            for other in settings.values()
            if other.method == "beta_vae" and abs(other.median("squared_error") / error - 1.0) <= EQUAL
        ]
        pairs += equal or [first]
    return pairs


def statement(pairs: Sequence[Pair]) -> str:
    """What `equal_pairs` say, in words."""
    rule = (
        f"Two settings reconstruct equally well if the medians of their {WORDS['squared_error']} differ by at most "
        f"{EQUAL:.0%}."
    )
    equal = [(pair, pair.beta_vae_mig) for pair in pairs if pair.beta_vae_mig is not None]
    if not equal:
        return f"{rule} No beta-VAE reconstructs equally well as a beta-TCVAE: there is nothing to compare."
    higher = sum(pair.beta_tcvae_mig > other for pair, other in equal)
    gaps = ", ".join(
        f"{pair.beta_tcvae_mig:.3f} at beta {pair.beta_tcvae:g} against {other:.3f} at {pair.beta_vae:g}"
        for pair, other in equal
    )
    alone = [f"{pair.beta_tcvae:g}" for pair in pairs if pair.beta_vae is None]
    return (
        f"{rule} In {higher} of {len(equal)} such pairs the beta-TCVAE has the higher median MIG: {gaps}."
        + f" No beta-VAE reconstructs as the beta-TCVAE of beta {', '.join(alone)} does." * bool(alone)
    )


# --- measure ---------------------------------------------------------------------------------------------------------


def measure(trained: Trained) -> Comparison:
    """Scores of all models."""
    config = trained.config
    render = renderer(config.data, config.model.image_size)
    settings = {}
    for label, by_seed in trials.by_name(trained.runs).items():
        scored = {}
        for seed, run in by_seed.items():
            scored[seed] = score(run, trained.data, render, FACTORS[config.data.source], config.evaluation, config.seed)
            _log.info("%s, seed %d: MIG %.3f", label, seed, scored[seed].numbers["mig"])
            trained.interruption.check()
        beta = beta_of(run.config)
        settings[label] = Setting(run.settings["model"], beta, run.config.effective_weight(beta), scored)
    return Comparison(settings)


def beta_of(model: autoencoders.BetaVAEConfig | autoencoders.BetaTCVAEConfig) -> float:
    """The weight that is varied."""
    return model.beta if isinstance(model, autoencoders.BetaVAEConfig) else model.total_correlation_weight


def renderer(data: shapes.Config | binned_faces.Config, image_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that draws images with given factors, int [n, F] to uint8 [n, H, W, C].

    The same factors give the same images, which are drawn once: all models are scored on them.

    Args:
        data: the images that the models were trained on.
        image_size: H and W, in pixels.
    """
    drawn: dict[bytes, np.ndarray] = {}
    unseen = data.train_size + data.validation_size

    def render(factors: np.ndarray) -> np.ndarray:
        name = factors.tobytes()
        if name not in drawn and data.source == shapes.RENDERED:
            drawn[name] = shapes.render(factors, image_size)
        elif name not in drawn:
            first = unseen + len(drawn) * len(factors)  # what is no factor is that of faces which no model has seen
            drawn[name] = faces.sample_bins(factors, data.seed, image_size, first).images
        return drawn[name]

    return render


def score(
    run: runs.Run,
    data: Splits,
    render: Callable[[np.ndarray], np.ndarray],
    factors: Mapping[str, int],
    settings: Evaluation,
    seed: int,
) -> Scores:
    """Scores of one model.

    Args:
        run: a trained variational autoencoder.
        data: images with factors, of which the held-out ones are scored.
        render: see `renderer`.
        factors: name -> number of values.
        settings: how it is scored.
        seed: of the draws.
    """
    x, values = pixels(data.validation), data.validation["factors"]
    keys = jax.random.split(jax.random.key(seed))
    mean, logvar = in_chunks(run.encode)(x)
    z = gaussian.sample(keys[0], mean, logvar)
    codes = np.asarray(mean)
    mig, sap = disentanglement.mig(codes, values), disentanglement.sap(codes, values)
    predictor: dict[str, Any] = {"estimator": settings.dci, "trees": settings.trees}
    dci = disentanglement.dci(codes, values, **predictor)
    factor_vae = disentanglement.factor_vae_score(
        lambda drawn: run.encode(images.to_float(jnp.asarray(render(drawn))))[0],
        list(factors.values()),
        train_votes=settings.votes,
        test_votes=settings.votes,
        scale_samples=settings.scale_samples,
        seed=seed,
    )
    aggregate = likelihood.aggregate_posterior(mean, logvar, keys[1], samples=settings.posterior_samples)
    numbers = {
        "mig": mig.value,
        "dci_disentanglement": dci.disentanglement,
        "dci_completeness": dci.completeness,
        "dci_informativeness": dci.informativeness,
        "sap": sap.value,
        "factor_vae_score": factor_vae.value,
        "nll": -float(in_chunks(run.log_likelihood)(x, z).mean()),
        "squared_error": float(jnp.square((x - in_chunks(run.decode)(mean)) / 2).mean()),
        "kl": aggregate.kl,
        "total_correlation": aggregate.total_correlation.value,
        "active_dimensions": float(likelihood.active_units(mean).sum()),
    }
    details = {
        "mig": mig,
        "dci": dci,
        "sap": sap,
        "factor_vae_score": factor_vae,
        "aggregate_posterior": aggregate,
    }
    return Scores(numbers, details)


# --- report ----------------------------------------------------------------------------------------------------------


def explain(trained: Trained, comparison: Comparison) -> str:
    """How the scores were taken, in words."""
    setting = next(iter(comparison.settings.values()))
    details = next(iter(setting.trials.values())).details
    mig, dci, sap, votes = (details[name] for name in ("mig", "dci", "sap", "factor_vae_score"))
    factors, held_out = FACTORS[trained.config.data.source], len(trained.data.validation)
    return (
        f"Codes are posterior means of {mig.samples} held-out images of random combinations of {len(factors)} "
        f"factors: {', '.join(factors)}. MIG: {mig.estimator}, {mig.bins} bins. DCI: {dci.estimator}, "
        f"{dci.train_samples} samples to fit and {dci.test_samples} to test. SAP: {sap.estimator}, "
        f"{sap.train_samples} and {sap.test_samples}. FactorVAE score: {votes.train_votes} votes to fit and "
        f"{votes.test_votes} to test, of {votes.batch_size} images each, drawn for it, and "
        f"{votes.scale_samples} for the scale; guessing gives {1 / len(factors):.2f}. Reconstruction is of the same "
        f"{held_out} held-out images: NLL, -log p(x | z) of one sample of the posterior, in nats per "
        f"image, and the squared error of pixel values in [0, 1] from the posterior mean. KL and total correlation, in "
        "nats, are those of the posteriors of these images; where the KL nears the logarithm of their number, "
        f"{np.log(held_out):.1f}, they are too few and the total correlation is too large."
    )


def parts(trained: Trained, comparison: Comparison) -> list[report.Part | str]:
    """Tables of the settings and of the pairs."""

    def rows(statistic: str) -> list[dict[str, Any]]:
        return [
            {"model": METHODS[setting.method], "beta": setting.beta}
            | {WORDS[key]: spread[statistic] for key, spread in setting.summary().items()}
            for setting in comparison.settings.values()
        ]

    weights = [
        {"model": METHODS[setting.method], "beta": setting.beta, "effective beta": setting.effective_beta}
        for setting in comparison.settings.values()
    ]
    seeds = _trial_count(comparison.settings)
    pairs = [{PAIR_WORDS[key]: value for key, value in dataclasses.asdict(pair).items()} for pair in comparison.pairs]
    return [
        report.table(rows("median"), f"Medians over {seeds} seeds"),
        report.details(
            "Lowest and highest of the seeds, and what beta weighs",
            [
                report.table(rows("lowest"), "Lowest"),
                report.table(rows("highest"), "Highest"),
                report.table(weights, "Effective beta: the weight beside means over pixels and dimensions"),
            ],
        ),
        report.subheading("At equal reconstruction"),
        statement(comparison.pairs),
        report.table(pairs),
    ]


def problems(trained: Trained, results: Results) -> list[str]:
    """Factors that no dimension stands for, and differences that may be chance, a sentence each."""
    comparison = results["disentanglement"]
    best = max(comparison.settings, key=lambda label: comparison.settings[label].median("mig"))
    setting, names = comparison.settings[best], [*map(plain, FACTORS[trained.config.data.source])]
    gaps = setting.trials[setting.typical].details["mig"].per_factor
    found = []
    if without := [name for name, gap in zip(names, gaps, strict=True) if gap < _NO_GAP]:
        found.append(
            f"No dimension alone stands for {', '.join(without)}: even in the best setting, the {title_of(best)}, its "
            f"gap of mutual information is below {_NO_GAP:g} of 1."
        )
    if chance := sum(map(comparison.may_be_chance, comparison.pairs)):
        found.append(
            f"In {chance} of {sum(pair.beta_vae is not None for pair in comparison.pairs)} pairs that reconstruct "
            f"equally well, the MIGs of the two models' seeds overlap: which is the better one may be chance. More "
            "seeds would tell (--config.seeds)."
        )
    return found


def title_of(folder: str) -> str:
    """The name of a setting or of a trial for people: "beta_vae_2/seed_0" is the beta-VAE of beta 2, seed 0."""
    setting, _, trial = folder.partition("/")
    method = next((name for name in METHODS if setting.startswith(f"{name}_")), "")
    words = f"{METHODS[method]} of beta {setting[len(method) + 1 :]}" if method else plain(setting)
    return ", ".join(filter(None, (words, plain(trial))))


def headline(trained: Trained, results: Results) -> Headline:
    """How disentangled the best setting is, and what the weight costs."""
    settings = results["disentanglement"].settings
    best = max(settings, key=lambda label: settings[label].median("mig"))
    worst = min(settings, key=lambda label: settings[label].median("mig"))
    chance = 1 / len(FACTORS[trained.config.data.source])
    numbers = [
        Number(
            f"{settings[best].median('mig'):.2f}",
            f"is the median gap of mutual information (MIG) of the {title_of(best)}, the best setting: 1 is a "
            "dimension for every factor, 0 none",
            f"the worst one, the {title_of(worst)}: {settings[worst].median('mig'):.2f}",
        ),
        Number(
            f"{settings[best].median('factor_vae_score'):.1%}",
            "of votes on which factor was held fixed are right from its codes (FactorVAE score)",
            f"guessing: {chance:.0%}",
            settings[best].median("factor_vae_score") > chance,
        ),
    ]
    equal = [pair for pair in results["disentanglement"].pairs if pair.beta_vae_mig is not None]
    if equal:
        higher = sum(pair.beta_tcvae_mig > pair.beta_vae_mig for pair in equal)
        text = "pairs that reconstruct equally well is the beta-TCVAE the more disentangled one"
        numbers.append(Number(f"In {higher} of {len(equal)}", text, "half of them, if both were alike"))
    return Headline(numbers, "traversals_best")


def lines(trained: Trained, comparison: Comparison) -> list[str]:
    """What the pairs say."""
    return [statement(comparison.pairs)]


# --- figures ---------------------------------------------------------------------------------------------------------


def learning_curves(trained: Trained, results: Results) -> Figures:
    """KL and squared error over training, of the model of median MIG of each setting."""
    records = {
        title_of(label): trained.records[trials.folder(label, setting.typical)]
        for label, setting in results["disentanglement"].settings.items()
    }
    records = dict(list(records.items())[:_MOST_CURVES])
    if not all(any("kl" in line for line in lines) for lines in records.values()):  # of a run that has just started
        return {}
    return {
        metric: (
            f"{title}: lines without dots are of training images, those with dots of held-out ones",
            curves.runs(records, metric, ylabel=title),
        )
        for metric, title in {"kl": "KL, nats", "mean_squared_error": "Squared error per value"}.items()
    }


def tradeoffs(trained: Trained, results: Results) -> Figures:
    """MIG against reconstruction, and against the weight."""
    settings = results["disentanglement"].settings
    over = f"medians of {_trial_count(settings)} seeds with the lowest and the highest value, beta beside them"

    def points(x: Callable[[Setting], list[float]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
        by_method: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for setting in settings.values():
            pairs = list(zip(x(setting), setting.values("mig"), strict=True))
            by_method.setdefault(METHODS[setting.method], {})[f"{setting.beta:g}"] = pairs
        return by_method

    error = WORDS["squared_error"]
    return {
        "mig_over_reconstruction": (
            f"MIG against reconstruction: the higher and the further left, the better; {over}",
            tradeoff.medians(points(lambda setting: setting.values("squared_error")), xlabel=error, ylabel="MIG"),
        ),
        "mig_over_beta": (
            f"MIG against beta: {over}",
            tradeoff.medians(points(lambda setting: [setting.beta] * len(setting.trials)), xlabel="beta", ylabel="MIG"),
        ),
    }


def gaps_and_traversals(trained: Trained, results: Results) -> Figures:
    """Gaps of the factors and latent dimensions, of the settings of the best and of the worst median MIG."""
    settings, data = results["disentanglement"].settings, trained.data
    ranking = sorted(settings, key=lambda label: settings[label].median("mig"))
    extremes = {"best": ranking[-1], "worst": ranking[0]}
    names = list(FACTORS[trained.config.data.source])
    mig = {label: settings[label].trials[settings[label].typical].details["mig"] for label in extremes.values()}
    gaps = {
        title_of(label): dict(zip(map(plain, names), result.per_factor, strict=True)) for label, result in mig.items()
    }
    figures: dict[str, tuple[str, Any]] = {
        "gaps": (
            "Mutual information gap of each factor, in the models of median MIG of the best and of the worst setting",
            scores.attribute_bars(gaps, xlabel="gap"),
        )
    }
    for rank, label in extremes.items():
        seed = settings[label].typical
        dimensions = ", ".join(f"{name} z{best}" for name, best in zip(names, mig[label].dimensions, strict=True))
        caption = (
            f"The setting of the {rank} median MIG, {title_of(label)}, in its typical trial, seed {seed}: one latent "
            f"dimension at a time from {-_REACH:g} to {_REACH:g}, those of the largest KL first. Each should change "
            f"one thing. The dimension that tells most of each factor: {dimensions}"
        )
        figures |= latents.traversal_figures(
            f"traversals_{rank}",
            caption,
            trained.runs[trials.folder(label, seed)],
            pixels(data.validation.first(1)),
            pixels(data.validation),
            _REACH,
            _STEPS,
        )
    return figures


def reconstructions(trained: Trained, results: Results) -> Figures:
    """Held-out images, and what each setting makes of them."""
    shown = trained.data.validation.first(_SHOWN)
    versions = {"original": shown["image"]}
    for label, setting in results["disentanglement"].settings.items():
        run = trained.runs[trials.folder(label, setting.typical)]
        versions[title_of(label)] = to_bytes(run.decode(run.encode(pixels(shown))[0]))
    return {
        "reconstructions": (
            "Held-out images, and what comes back from the model of median MIG of each setting",
            grids.comparison(versions, columns=_SHOWN),
        )
    }


def _trial_count(settings: Mapping[str, Setting]) -> int:
    return len(next(iter(settings.values())).trials)
