"""Rows of the comparison of multimodal VAEs: a model at a share of hidden data, trained from several seeds (`trials`).

`modalities` has the scores of one trial.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mvae_jax.experiment.declaration import Trained, plain
from mvae_jax.experiment.suites import modalities, trials
from mvae_jax.experiment.suites.modalities import KIM, UNIMODAL, Modalities

_log = logging.getLogger("experiment")

# Rows of the tables: name in the zoo, but for that of a VAE and a flow -> name for people.
MODELS = {
    "mvae": "MVAE",
    "mmvae": "MMVAE",
    "mopoe": "MoPoE-VAE",
    "mvtcae": "MVTCAE",
    "mmvae_plus": "MMVAE+",
    "jmvae": "JMVAE",
    "cada_vae": "CADA-VAE",
    KIM: "Kim's model",
    UNIMODAL: "VAE and flow",
}
WORDS = {
    "image_to_text": "image to text, accuracy",
    "text_to_image": "text to image, accuracy",
    "consistency_accuracy": "pairs told apart, accuracy",
    "consistency_f1": "pairs, F1",
    "consistency_auroc": "pairs, AUROC",
    "pose_error": "image to pose, degrees off",
    "coherence_joint": "of draws from the prior",
    "coherence_classes": "digits among these draws",
    "log_joint": "log p of all",
    "log_image": "log p of the image given the others",
    "log_others": "log p of the others given the image",
    "frechet_given_0": "given nothing",
    "frechet_given_image": "given the image",
    "probe": "linear probe",
}
# Measure -> beginnings of the keys that it has.
KINDS = {
    "agreement": ("image_to", "text_to", "consistency", "pose", "coherence"),
    "distances": ("frechet",),
    "likelihoods": ("log",),
    "probes": ("probe",),
}


def folder(model: str, share: float, seed: int) -> str:
    """Folder of a trial within the workdir."""
    return trials.folder(f"{model}/hidden_{share:g}", seed)


def title_of(name: str) -> str:
    """The name of a trial, a row or a model for people: "mvae/hidden_0.9/seed_1" is the MVAE, 90% hidden, seed 1."""
    model, *rest = name.split("/")
    words = [share_words(float(part[7:])) if part.startswith("hidden_") else plain(part) for part in rest]
    return ", ".join([MODELS.get(model, plain(model)), *words])


def share_words(share: float) -> str:
    """A hidden share in words."""
    return f"{100 * share:g}% hidden"


def word(key: str) -> str:
    """A score in words, a column of the tables."""
    given = re.fullmatch(r"(?:coherence|frechet)_given_(\d+)", key)
    return WORDS.get(key) or (f"given {given[1]} other{'s' * (given[1] != '1')}" if given else plain(key))


def heading(key: str) -> str:
    """A score in words where no table says what it is of."""
    begin = {"coherence": "coherence", "frechet": "Frechet distance"}.get(key.partition("_")[0])
    return f"{begin}, {word(key)}" if begin else word(key)


# --- results --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spread:
    """A score over the seeds of a row.

    Attributes:
        mean: over the seeds.
        deviation: their standard deviation, with n - 1 in the divisor; None of one seed.
        n: how many there are.
    """

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), deviation, len(values))


@dataclasses.dataclass(frozen=True)
class Row:
    """A model at a share, trained from several seeds.

    Attributes:
        model: key of `MODELS`.
        hidden: share of the training examples that lost a modality.
        trials: seed -> scores by key.
    """

    model: str
    hidden: float
    trials: Mapping[int, Mapping[str, float]]

    def values(self, key: str) -> list[float]:
        """A score of each trial; [] where the model cannot have it."""
        return [scores[key] for scores in self.trials.values() if key in scores]

    def spread(self, key: str) -> Spread | None:
        """Mean and standard deviation of a score over the trials; None where the model cannot have it."""
        return Spread.of(values) if (values := self.values(key)) else None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Scores of all rows.

    Attributes:
        rows: label, "MODEL/hidden_SHARE" -> row.
        references: what to compare with: name -> key -> value.
    """

    rows: Mapping[str, Row]
    references: Mapping[str, Mapping[str, float]]

    @classmethod
    def joined(cls, results: Mapping[str, Comparison]) -> Comparison:
        """The whole again, of the results of all measures of `KINDS`."""
        parts = [results[kind] for kind in KINDS]
        rows = {
            label: dataclasses.replace(
                row,
                trials={
                    seed: {key: value for part in parts for key, value in part.rows[label].trials[seed].items()}
                    for seed in row.trials
                },
            )
            for label, row in parts[0].rows.items()
        }
        names = dict.fromkeys(name for part in parts for name in part.references)
        return cls(
            rows,
            {name: {k: v for part in parts for k, v in part.references.get(name, {}).items()} for name in names},
        )

    @property
    def keys(self) -> list[str]:
        """Of all scores, in their order."""
        return list(dict.fromkeys(key for row in self.rows.values() for one in row.trials.values() for key in one))

    @property
    def shares(self) -> list[float]:
        """The hidden shares, from the least."""
        return sorted({row.hidden for row in self.rows.values()})

    def of(self, kind: str) -> Comparison:
        """The scores of one measure alone, see `KINDS`."""

        def chosen(scores: Mapping[str, float]) -> dict[str, float]:
            return {key: value for key, value in scores.items() if key.startswith(KINDS[kind])}

        rows = {
            label: dataclasses.replace(row, trials={seed: chosen(one) for seed, one in row.trials.items()})
            for label, row in self.rows.items()
        }
        references = {name: chosen(values) for name, values in self.references.items()}
        return Comparison(rows, {name: values for name, values in references.items() if values})

    def at(self, share: float) -> dict[str, Row]:
        """The rows of one share, by label."""
        return {label: row for label, row in self.rows.items() if row.hidden == share}

    def reference(self, key: str, *, real: bool = False) -> float | None:
        """What guessing has of a score, or, with `real`, what real examples have; None where nothing is known."""
        found = [values[key] for name, values in self.references.items() if key in values and real == _is_real(name)]
        return found[0] if found else None

    def best(self, key: str, share: float) -> tuple[Row, Spread] | None:
        """The row of a share with the highest mean of a score."""
        found = [(row, spread) for row in self.at(share).values() if (spread := row.spread(key))]
        return max(found, key=lambda pair: pair[1].mean, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Spreads and all trials of each row, and the references."""
        return {
            "rows": {
                label: {"model": row.model, "hidden": row.hidden, **{key: row.spread(key) for key in self.keys}}
                for label, row in self.rows.items()
            },
            "references": self.references,
            "trials": {label: row.trials for label, row in self.rows.items()},
        }


def _is_real(name: str) -> bool:
    return "themselves" in name or name == "training images"


@functools.lru_cache(maxsize=4)
def evaluate(trained: Trained) -> Comparison:
    """Scores of all trials; once, however many measures ask for them."""
    found: dict[str, Row] = {}
    compiled: dict[Any, Any] = {}  # trials that differ in what was hidden have the same functions
    references = modalities.references(trained)
    for label, by_seed in trials.by_name(trained.runs).items():
        scored, name = {}, label.partition("/")[0]
        share = max(next(iter(by_seed.values())).settings["hidden"].values())
        for seed, run in by_seed.items():
            model = compiled.setdefault((run.settings["model"], run.config), run.model)
            learned = trained.priors.get(folder(name, share, seed))
            if name == UNIMODAL and learned is None:
                _log.warning("left out: %s, seed %d, whose prior is not learned yet", title_of(label), seed)
                continue
            numbers = modalities.scores(Modalities.of(dataclasses.replace(run, model=model), learned), trained)
            if "consistency_blind" in numbers:  # of the pairs, not of the model
                blind = {"consistency_accuracy": numbers.pop("consistency_blind")}
                references.setdefault("one word, no image", blind)
            scored[seed] = numbers
            _log.info("measured: %s, seed %d", title_of(label), seed)
            trained.interruption.check()
        if scored:
            found[label] = Row(name, share, scored)
    return Comparison(found, references)
