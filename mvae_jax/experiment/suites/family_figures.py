"""Figures of the comparison of multimodal VAEs: scores over the hidden share, and what each model draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from mvae_jax import runs
from mvae_jax.data.batches import Split
from mvae_jax.eval.batched import pixels, to_bytes
from mvae_jax.experiment.declaration import Figures, Results, Trained, plain
from mvae_jax.experiment.suites import modalities
from mvae_jax.experiment.suites.family_rows import MODELS, Comparison, folder, heading, share_words
from mvae_jax.experiment.suites.modalities import ATTRIBUTES, IMAGE, Modalities
from mvae_jax.experiment.suites.multimodal_figures import write
from mvae_jax.objective import Phase
from mvae_jax.viz import grids, sweeps

ALL_MODELS = "all_models"  # the figure of what all draw

# Panels of the figure over the hidden share, as far as the data have them. Not coherence from nothing: that is highest
# where all draws are alike.
_CURVES = ("image_to_text", "text_to_image", "consistency_accuracy", "coherence_given_1", "probe")
_DISTANCE = "frechet_given_1"
_SHOWN = 6  # examples of a sheet
_BESIDE = 10  # examples of the sheet of all models, which have a row each
_SIDE = 64  # pixels that a picture has there, about


def hidden_words(trained: Trained) -> str:
    """What is hidden, in words."""
    return ATTRIBUTES if trained.data.attributes else "all views but the first"


def figures(trained: Trained, results: Results) -> Figures:
    """Scores over the hidden share, and what each model draws from each modality at the least and the largest."""
    comparison = Comparison.joined(results)
    found: dict[str, tuple[str, Any]] = {}
    if curves := curves_of(comparison):
        baselines = {heading(key): value for key in comparison.keys if (value := comparison.reference(key)) is not None}
        found["over_hidden_share"] = (
            f"Over the share of the training examples of which {hidden_words(trained)} were hidden: means of the seeds "
            "with a standard deviation to either side where there are several; dashed, what guessing has",
            sweeps.panels(
                curves,
                xlabel="hidden share",
                baselines={name: value for name, value in baselines.items() if name in curves},
            ),
        )
    models = list(dict.fromkeys(row.model for row in comparison.rows.values()))
    found[ALL_MODELS] = sheet_of_all(trained, comparison, models)
    for model in models:
        found[f"sheet_{model}"] = drawn_sheet(trained, comparison, model)
    return found


def curves_of(comparison: Comparison) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Panel -> model -> share -> value of each seed, of the scores that are drawn over the share."""
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for key in (*_CURVES, _DISTANCE):
        for row in comparison.rows.values():
            if values := row.values(key):
                lines_of = found.setdefault(heading(key), {})
                lines_of.setdefault(MODELS[row.model], {})[row.hidden] = values
    return found


def sheet_of_all(trained: Trained, comparison: Comparison, models: Sequence[str]) -> tuple[str, Any]:
    """The images that each model draws from one other modality of the same examples, at the least hidden share."""
    shown, key = modalities.complete(trained).validation.first(_BESIDE), jax.random.key(trained.config.seed)
    given = ATTRIBUTES if trained.data.attributes else modalities.view_names(trained.data)[1]
    versions: dict[str, Any] = {"held-out": shown[IMAGE]}
    if given != ATTRIBUTES:
        versions[f"held-out, {plain(given)}"] = shown[given]
    values, share = modalities.values_of(shown, (given,)), comparison.shares[0]
    for model in models:
        drawn = _model(trained, comparison, model, share)
        versions[MODELS[model]] = to_bytes(drawn.decode[IMAGE](drawn.codes(key, values, len(shown))))
    caption = f"What each model draws from the {plain(given)} of held-out examples; {share_words(share)}"
    return caption, grids.comparison(versions, columns=_BESIDE, scale=max(1, _SIDE // shown[IMAGE].shape[1]))


def _model(trained: Trained, comparison: Comparison, model: str, share: float) -> Modalities:
    """A model of a share, of its first seed."""
    row = next(row for row in comparison.at(share).values() if row.model == model)
    trial = folder(model, share, next(iter(row.trials)))
    return Modalities.of(trained.runs[trial], trained.priors.get(trial))


def drawn_sheet(trained: Trained, comparison: Comparison, model: str) -> tuple[str, Any]:
    """What a model draws from each modality and from nothing, at the least and the largest share; its first seed."""
    shown, key = modalities.complete(trained).validation.first(_SHOWN), jax.random.key(trained.config.seed)
    versions: dict[str, Any] = {"held-out": shown[IMAGE]}
    captions: dict[str, list[str]] = {}
    names = trained.data.attributes
    if names:
        captions["held-out"] = write(shown[ATTRIBUTES], names)
    for share in dict.fromkeys((comparison.shares[0], comparison.shares[-1])):
        drawn = _model(trained, comparison, model, share)
        values = modalities.values_of(shown, drawn.names)
        targets = (IMAGE,) if names else drawn.names
        given_sets = [(IMAGE,), *((name,) for name in drawn.others if names), *([] if names else [drawn.others]), ()]
        for number, given in enumerate(given_sets):
            known = {name: values[name] for name in given}
            codes = drawn.codes(jax.random.fold_in(key, number), known, len(shown))
            for target in targets if len(given) < 2 else (IMAGE,):
                row = _row_words(given, target if not names else "", share)
                versions[row] = to_bytes(drawn.decode[target](codes))
            if ATTRIBUTES in drawn.decode and ATTRIBUTES not in given:
                captions[row] = write(drawn.decode[ATTRIBUTES](codes) > 0, names)
    caption = (
        f"{MODELS[model]}: what it draws given one modality of held-out examples, or nothing"
        + (", and the attributes that it says of the same draw" * bool(names))
        + f"; {hidden_words(trained)} were hidden of the share of the training examples that each row names"
    )
    return caption, grids.comparison(versions, columns=_SHOWN, captions=captions or None)


def _row_words(given: Sequence[str], target: str, share: float) -> str:
    source = "nothing" if not given else "all others" if len(given) > 1 else f"the {plain(given[0])}"
    return f"from {source}{f' to {plain(target)}' if target else ''}, {share_words(share)}"


def sheet(run: runs.Run, examples: Split, phase: Phase) -> dict[str, Any]:
    """A few held-out images while a model trains, decoded from the mean given each modality alone."""
    model = Modalities.of(run)
    values = modalities.values_of(examples, model.names)
    return {"held-out images": pixels(examples)} | {
        f"from the {plain(name)}": model.decode[IMAGE](model.encode({name: values[name]})[0]) for name in model.names
    }
