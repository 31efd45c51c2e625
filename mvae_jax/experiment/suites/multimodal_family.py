"""VAEs of several modalities beside each other, trained with a share of the modalities hidden.

`family_rows` has the rows of the tables, `family_figures` the figures, `modalities` the scores of one trained model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mvae_jax.eval import fid
from mvae_jax.experiment import classifier
from mvae_jax.experiment.declaration import Headline, Measure, Number, Results, Trained, capitalized
from mvae_jax.experiment.suites import family_figures, modalities, multimodal_scores
from mvae_jax.experiment.suites.family_rows import MODELS, Comparison, evaluate, heading, share_words, title_of, word
from mvae_jax.experiment.suites.modalities import IMAGE, KIM, UNIMODAL
from mvae_jax.viz import report

_ALIKE = 2.0  # digits among a model's draws, by their entropy, below which the draws are called alike

KIM_ALONE = (
    "Kim's model needs image and attributes of every example: where some lack them, it is trained on the others alone, "
    "again and again, for as many steps as the other models."
)

FLOW = (
    "VAE and flow: a VAE of the images alone, on the same networks, and a learned prior of its codes, which knows the "
    "attributes of the examples that have them. It draws by attributes, and reads none."
)


def parts(trained: Trained, comparison: Comparison) -> list[report.Part | str]:
    """A table for each share: a row for each model, and rows of what to compare it with."""
    return [
        report.table(table(comparison, share), f"{_hidden(trained)} {share_words(share)} in training")
        for share in comparison.shares
        if comparison.keys
    ]


def _hidden(trained: Trained) -> str:
    return "Attributes" if trained.data.attributes else "Each view but the first"


def table(comparison: Comparison, share: float) -> list[dict[str, Any]]:
    """The rows of one share: means, with standard deviations where there are several seeds, and how many these are."""
    rows = comparison.at(share)
    several = any(len(row.trials) > 1 for row in rows.values())
    cells: dict[str, dict[str, Any]] = {label: {} for label in [*rows, *comparison.references]}
    for key in comparison.keys:
        spreads = {label: spread for label, row in rows.items() if (spread := row.spread(key))}
        known = {name: values[key] for name, values in comparison.references.items() if key in values}
        if not spreads:
            continue
        if not several:
            found: dict[str, Any] = {label: spread.mean for label, spread in spreads.items()} | known
        else:
            deviations = [spread.deviation or 0.0 for spread in spreads.values()]
            texts = report.written([*(spread.mean for spread in spreads.values()), *known.values(), *deviations])
            found = dict(zip([*spreads, *known], texts, strict=False))
            for (label, spread), text in zip(spreads.items(), texts[len(found) :], strict=True):
                found[label] += f" ± {text}" if spread.deviation is not None else ""
        for label in cells:
            cells[label][word(key)] = found.get(label)
    named = {label: {"model": MODELS[row.model], **cells[label], "n": len(row.trials)} for label, row in rows.items()}
    others = {
        name: {"model": name, **cells[name], "n": None}
        for name in comparison.references
        if any(value is not None for value in cells[name].values())
    }
    return [*named.values(), *others.values()]


def lines(trained: Trained, comparison: Comparison) -> list[str]:
    """The means of each row."""
    found = []
    for label, row in comparison.rows.items():
        means = [f"{word(key)} {spread.mean:.4g}" for key in comparison.keys if (spread := row.spread(key))]
        found += [f"{title_of(label)}: {', '.join(means)}"] if means else []
    return found


def _seeds(trained: Trained) -> str:
    count = len(trained.config.seeds)
    return f"Means over {count} seeds ± their standard deviation" if count > 1 else "Of one seed"


def explain_agreement(trained: Trained, comparison: Comparison) -> str:
    """How modalities were drawn from each other and read, in words."""
    data = modalities.complete(trained)
    count = len(data.validation.first(trained.config.evaluation.images))
    steps = max(run.step for run in trained.runs.values())
    start = f"{_seeds(trained)}, of {count} held-out examples of which nothing is hidden. Each model had {steps} steps."
    if not data.attributes:
        read = {name: reader.held_out for name, reader in modalities.readers(trained).items()}
        rates = ", ".join(f"{name} {_rate(trained, name):.1%}" for name in read)
        return (
            f"{start} Each view that a model draws given some of the others, one draw for each example, is read by a "
            "classifier of that view; it is coherent if it is read as the digit that the others show. Means are over "
            "all sets of as many given views and all views that are drawn. Draws from the prior are coherent if all "
            "views are read as one digit, as all are of a model that draws one picture: beside it stands as how many "
            "digits they are read (exp of the entropy of the shares, mean over views). "
            f"Of real held-out views the classifiers read rightly: {rates or 'none'}."
        )
    text = (
        f"{start} Image to text: attributes decoded at the mean of the image's posterior. Text to image: one draw "
        f"given each example's attributes, read by the {trained.classifier or 'classifier, of which there is none'}. "
        "Pairs: an image with its own attributes against one with curated wrong ones, told apart by 1 / (1 + KL) of "
        "the model's posteriors given the image and given the attributes, of the dimensions that both share; the "
        "threshold is from calibration images."
    )
    models = trained.config.models
    return " ".join([text, *[KIM_ALONE] * (KIM in models), *[FLOW] * (UNIMODAL in models)])


def _rate(trained: Trained, name: str) -> float:
    held_out = modalities.complete(trained).validation.first(trained.config.evaluation.images)
    return float(modalities.reads_right(modalities.readers(trained)[name], held_out, name).mean())


def explain_distances(trained: Trained, comparison: Comparison) -> str:
    """How distances of images were measured, in words."""
    if not modalities.readers(trained).get(IMAGE):
        return "There is no classifier in whose features images could be compared."
    return (
        f"{_seeds(trained)}. Held-out images against as many that are drawn, one given each example's other "
        "modalities, its image, or nothing, in the features of the classifier of images. Where there are several sets "
        "of as many other modalities, the mean over them. Training images stand beside them, as many."
    )


def explain_likelihoods(trained: Trained, comparison: Comparison) -> str:
    """How likelihoods were estimated, and which of them do not compare."""
    settings = trained.config.evaluation
    count = len(modalities.complete(trained).validation.first(min(settings.images, settings.likelihood_images)))
    return (
        f"{_seeds(trained)}, in nats for each of {count} examples. Importance-weighted bounds of "
        f"{settings.likelihood_samples} samples of the posterior of what is there; a conditional one is the difference "
        "of two bounds, and may be too high or too low. MMVAE, MMVAE+ and CADA-VAE are sampled by one Gaussian with "
        "the moments of their mixture: where experts disagree, that bounds loosely, and does not compare with others. "
        "Images have a Gaussian likelihood of the scale in the settings. Kim's model has no likelihood."
    )


def explain_probes(trained: Trained, comparison: Comparison) -> str:
    """How the probe was trained, in words."""
    known = len(modalities.complete(trained).train.first(trained.config.evaluation.probed))
    what = (
        "Fisher's discriminant of each attribute, mean balanced accuracy" if trained.data.attributes else "linear SVM"
    )
    return (
        f"{_seeds(trained)}. {what}, on the shared dimensions of the mean given the image alone. The probe learns from "
        f"{known} complete training examples, whatever was hidden of the model."
    )


def check(config: Any, data: Any) -> None:
    """Refuses data that cannot be measured on, before anything is trained."""
    if data.attributes:
        multimodal_scores.check(classifier.described(data))
        return
    if len(modalities.view_names(data)) < 2 or "label" not in data.train.arrays:
        raise ValueError(
            "the data have neither attributes nor several views of digits; expected images with attributes, or "
            "--config.data.source=five_views."
        )
    if config.classifier.workdir:
        raise ValueError(
            f"classifier.workdir is {config.classifier.workdir}, one classifier, but each view of digits has its own: "
            "leave it out, and they are trained."
        )


def problems(trained: Trained, results: Results) -> list[str]:
    """Models no better than guessing or whose draws are alike, too few images, differences that may be chance."""
    comparison, weak = Comparison.joined(results), dict[tuple[float, str], list[str]]()
    for key in comparison.keys:
        baseline = comparison.reference(key)
        if baseline is None or key.startswith("frechet"):
            continue
        higher = key != "pose_error"
        worse = [
            label
            for label, row in comparison.rows.items()
            if (spread := row.spread(key)) and (spread.mean <= baseline if higher else spread.mean >= baseline)
        ]
        if worse:
            names = "; ".join(map(title_of, worse)) if len(worse) < len(comparison.rows) else "all models"
            weak.setdefault((baseline, names), []).append(heading(key))
    found = [
        f"{capitalized('; '.join(headings))}: no better than the baseline of {baseline:.3f} are {names}."
        for (baseline, names), headings in weak.items()
    ]
    if alike := [
        label
        for label, row in comparison.rows.items()
        if (spread := row.spread("coherence_classes")) and spread.mean < _ALIKE
    ]:
        found.append(
            f"Draws from the prior show fewer than {_ALIKE:g} digits in the mean, so that it says nothing whether all "
            f"views agree: {'; '.join(map(title_of, alike))}."
        )
    for key in ("text_to_image", "coherence_given_1"):
        real, baseline = comparison.reference(key, real=True), comparison.reference(key)
        if real is not None and baseline is not None and real <= baseline:
            found.append(
                f"The classifier reads real images no better ({real:.3f}) than the baseline ({baseline:.3f}): what it "
                "reads from drawn ones says nothing."
            )
    if reader := modalities.readers(trained).get(IMAGE):
        count = len(modalities.complete(trained).validation.first(trained.config.evaluation.images))
        found += fid.too_few(count, reader.run.config.hidden)
    if len(trained.config.seeds) == 1:
        found.append(
            "Each model was trained from one seed: which of two is the better one may be chance. More seeds would tell "
            "(--config.seeds)."
        )
    return found


def headline(trained: Trained, results: Results) -> Headline:
    """What the best model does at the largest hidden share, beside guessing."""
    comparison = Comparison.joined(results)
    share = comparison.shares[-1]
    seen = f"of {100 * (1 - share):g}% of its training examples"
    texts = {
        "image_to_text": f"of the attributes are right as {{model}} reads them from images; it saw those {seen}",
        "text_to_image": "of the attributes in images that {model} draws from attributes are as asked for, as a "
        "classifier reads them",
        "consistency_accuracy": "of fitting and unfitting pairs of image and text {model} tells rightly by its "
        "posteriors",
        "coherence_given_1": "of the views that {model} draws from one other view show its digit; it saw each view but "
        f"the first {seen}",
        "probe": "of digits are read by a linear probe from the codes of {model}",
    }
    if trained.data.attributes:
        del texts["probe"]
    numbers = []
    for key, text in texts.items():
        best = comparison.best(key, share)
        if best is None:
            continue
        row, spread = best
        name = MODELS[row.model] if row.model == KIM else f"the {MODELS[row.model]}"
        baseline, real = comparison.reference(key), comparison.reference(key, real=True)
        words = [f"guessing: {baseline:.1%}"] if baseline is not None else []
        words += [f"real images: {real:.1%}"] if real is not None else []
        if len(comparison.shares) > 1 and (first := comparison.best(key, comparison.shares[0])):
            words.append(f"the best with {share_words(comparison.shares[0])}: {first[1].mean:.1%}")
        better = baseline is None or spread.mean > baseline
        numbers.append(Number(f"{spread.mean:.1%}", text.format(model=name), "; ".join(words), better))
    return Headline(numbers, family_figures.ALL_MODELS)


def _measure(name: str, title: str, reading: str, text: Callable[..., str], figures: Sequence[str] = ()) -> Measure:
    """The scores of one of `family_rows.KINDS`."""
    return Measure(
        name,
        lambda trained: evaluate(trained).of(name),
        title=title,
        reading=reading,
        text=text,
        figures=figures,
        parts=parts,
        lines=lines,
    )


MEASURES = (
    _measure(
        "agreement",
        "From one modality to the others",
        "Shares of what is right: 1 is all, to be compared with the last rows.",
        explain_agreement,
        ("over_hidden_share", "sheet_*"),
    ),
    _measure(
        "distances",
        "Images by how much is given",
        "Frechet distances of drawn images from held-out ones: lower is closer.",
        explain_distances,
    ),
    _measure(
        "likelihoods",
        "Likelihoods",
        "Log-likelihoods in nats: higher is better, but those of MMVAE, MMVAE+ and CADA-VAE may be loose.",
        explain_likelihoods,
    ),
    _measure(
        "probes",
        "What the shared codes of images tell",
        "Accuracy of a linear probe: higher is better.",
        explain_probes,
    ),
)
