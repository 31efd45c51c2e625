"""The multimodal VAE: a counterpart to each table and figure of Kim, 2024."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mvae_jax.eval import consistency, cross_modal, partial_captions
from mvae_jax.eval.classification import Share, with_interval
from mvae_jax.experiment import typical
from mvae_jax.experiment.declaration import Figures, Headline, Measure, Number, Results, Trained, plain
from mvae_jax.experiment.suites import classification, latents
from mvae_jax.experiment.suites.multimodal_figures import same_inputs
from mvae_jax.experiment.suites.multimodal_scores import (
    DIVERSITY,
    DRAWS,
    PICTURES,
    QUALITY,
    disturbed,
    evaluate,
    phases,
    verdicts,
)
from mvae_jax.viz import report
from mvae_jax.viz.report import Part

# Table 2 of the paper: latent size -> accuracy, precision, recall, F1.
PUBLISHED = {128: (0.92, 0.90, 0.94, 0.92), 256: (0.89, 0.86, 0.92, 0.89), 512: (0.88, 0.86, 0.91, 0.88)}
PUBLISHED_THRESHOLDS = {256: 0.621}  # section 7.1.1
_NOTICED, _VARIED = 0.5, 0.5  # share and ratio below which a report says what is wrong
PHASES = {
    "image_to_text": "image to text, accuracy",
    "text_to_image": "text to image, accuracy by the classifier",
    "auroc": "AUROC",
    "f1": "F1",
}
_RATES = {"f1": "F1"}
DISTANCES = {
    "kl_image_text": "KL(image || text), nats",
    "kl_text_image": "KL(text || image), nats",
    "jeffreys": "sum of both, nats",
    "wasserstein": "2-Wasserstein",
    "means": "between the means",
}


def headline(trained: Trained, results: Results) -> Headline:
    """How well pairs are judged, attributes read and drawn, and images reconstructed."""
    scores, data = evaluate(trained), trained.data
    result, read = scores.benchmark.result, scores.image_to_text
    numbers = [
        Number(
            f"{result.rates.accuracy:.1%}",
            "of pairs of a face and a caption are judged rightly as fitting or not",
            f"guessing: 50%; best rule that never looks at the face: {result.blind_accuracy:.1%}",
            result.rates.accuracy > max(0.5, result.blind_accuracy),
        ),
        Number(
            f"{read.accuracy:.1%}",
            "of the attributes in captions that it writes for held-out faces are right",
            f"always the more frequent answer: {read.majority_accuracy:.1%}",
            read.accuracy > read.majority_accuracy,
        ),
    ]
    if drawn := scores.classified.get("text_to_image"):
        real = scores.classified["held_out"]
        numbers.append(
            Number(
                f"{drawn.accuracy:.1%}",
                "of the attributes in the mean faces of captions are as the caption says, as a classifier reads them",
                f"always the more frequent answer: {drawn.majority_accuracy:.1%}; real faces: {real.accuracy:.1%}",
                drawn.accuracy > drawn.majority_accuracy,
            )
        )
    known = latents.mean_image_psnr(data, trained.run.config.image_size)
    psnr = Number(
        f"{scores.quality['psnr']:.1f} dB",
        "is the likeness (PSNR) of reconstructed held-out faces; higher is better",
        f"the mean training face for every face: {known:.1f} dB",
        scores.quality["psnr"] > known,
    )
    return Headline((*numbers, psnr), "overview")


def problems(trained: Trained, results: Results) -> list[str]:
    """What the headline numbers hide: mismatches of one word, and images that are all alike; a sentence each."""
    found = []
    rejected = float(np.mean([item.overall.rejected for item in results["consistency"].sensitivity]))
    if rejected < _NOTICED:
        found.append(
            f"One wrong word is seldom noticed by the paper's score: of texts with one attribute wrong, {rejected:.0%} "
            "are called a mismatch. The pairs of the first number have several words wrong."
        )
    ratio = results["diversity"]["pixels"].ratio
    if ratio < _VARIED:
        found.append(
            f"Images drawn from a caption's posterior are much alike: they differ {ratio:.2f} times as much as held-out"
            " images do."
        )
    return found


# --- report ---------------------------------------------------------------------------------------------------------


def published(data: Any) -> bool:
    """Whether the paper has numbers for such images."""
    return data.provenance.get("data_set") == "CelebAMask-HQ"


def consistency_row(label: str, trained: Trained) -> dict[str, Any]:
    """A row of table 2, with 95 % intervals."""
    result = evaluate(trained).benchmark.result
    row: dict[str, Any] = {"": label, "latent size": trained.run.config.latent_size, "divergence": _divergence(result)}
    row["threshold"] = result.threshold
    for name, value in dataclasses.asdict(result.rates).items():
        row["F1" if name == "f1" else name] = with_interval(value, *result.intervals[name])
    return row | {"AUROC": result.auroc, "one word, no image": result.blind_accuracy}


def _divergence(result: consistency.Result) -> str:
    """The divergence of the score in words."""
    first, second = ("image", "text") if result.direction == "img||txt" else ("text", "image")
    return f"{result.reduction} KL({first} || {second})"


def most_accurate_row(label: str, trained: Trained) -> dict[str, Any]:
    """The same decisions at the threshold that is right for most calibration pairs (MM-16)."""
    result = evaluate(trained).benchmark.result
    rates = {
        "F1" if name == "f1" else name: f"{value:.3f}"  # as those that have an interval
        for name, value in dataclasses.asdict(result.most_accurate_rates).items()
    }
    head = {"": f"{label}, most accurate threshold", "latent size": trained.run.config.latent_size}
    return head | {"divergence": _divergence(result), "threshold": result.most_accurate_threshold} | rates


def published_rows(data: Any, latent_sizes: Sequence[int]) -> list[dict[str, Any]]:
    """The paper's rows of table 2 for these latent sizes, where it has numbers for such images."""
    names, sizes = ("accuracy", "precision", "recall", "F1"), sorted(set(latent_sizes) & set(PUBLISHED))
    return [
        {"": "paper", "latent size": size, "threshold": PUBLISHED_THRESHOLDS.get(size)}
        | dict(zip(names, PUBLISHED[size], strict=True))
        for size in (sizes if published(data) else ())
    ]


def explain_consistency(trained: Trained, result: consistency.Result) -> str:
    """How pairs were judged, in words."""
    return (
        f"{result.validation_images} held-out images, each with its own caption and with a curated mismatch; a pair "
        f"counts as a match if its score, 1 / (1 + {_divergence(result)}), is above {result.threshold:.3f}, the "
        f"published weighted mean of the scores of {result.calibration_images} further images. The paper also says "
        f"that its threshold was selected for accuracy; {result.most_accurate_threshold:.3f} is right for most pairs "
        "of these further images. Match is the positive class. Intervals are 95 %, by bootstrap over images and over "
        f"{result.curations} curations of the mismatches. The best rule that looks at one attribute of the text and "
        f"never at the image is right for {result.blind_accuracy:.1%} of these pairs; 50 % is chance. What is above "
        "it, the mismatches give away. With one attribute wrong at a time, AUROC is that of the images' own texts "
        "against such texts, 0.5 is chance; paired is the share of the images that score higher with their own text."
    )


def _consistency_parts(trained: Trained, result: consistency.Result) -> list[Part | str]:
    return [
        report.table(
            [
                consistency_row("this run", trained),
                most_accurate_row("this run", trained),
                *published_rows(trained.data, [trained.run.config.latent_size]),
            ]
        ),
        report.details(
            "Over several curations of the mismatches",
            [
                report.table(
                    [
                        {"": "F1" if name == "f1" else plain(name)}
                        | {plain(key): value for key, value in dataclasses.asdict(spread).items()}
                        for name, spread in result.over_curations.items()
                    ],
                    f"Over {result.curations} curations of the mismatches, the same images",
                )
            ],
        ),
        report.subheading("One attribute of the text wrong at a time"),
        "Rejected: the share of such texts that are called a mismatch. AUROC: how well scores tell them from the "
        "images' own texts, of which 0.5 is chance. Paired: the share of images that score higher with their own text.",
        report.table([_sensitivity_row(item) for item in result.sensitivity]),
    ]


def _sensitivity_row(item: consistency.Sensitivity) -> dict[str, Any]:
    row = {"": plain(item.name), "rejected": item.overall.rejected}
    row |= {"AUROC": item.overall.auroc, "paired": item.overall.paired}
    for change, part in (("added", item.added), ("removed", item.removed)):
        row |= {f"{change}: images": part and part.images, f"{change}: AUROC": part and part.auroc}
    return row


def _released_parts(trained: Trained, released: consistency.ReleasedResult) -> list[Part | str]:
    rows = [
        {"positive class": name, **{_RATES.get(key, key): value for key, value in dataclasses.asdict(rates).items()}}
        for name, rates in (("match", released.rates), ("mismatch", released.rates_mismatch_positive))
    ]
    protocol = re.sub(r" \([A-Z]{2}-\d\d\)", "", released.protocol)  # ids of choices, which this page does not explain
    return [report.details("By the released code's protocol", [f"{protocol}.", report.table(rows)])]


def explain_verdicts(trained: Trained, result: partial_captions.Result) -> str:
    """How captions were judged, in words."""
    chosen = result.thresholds
    return (
        "By words: the text decoder reads the image, and a caption is as likely as the least likely of the words that "
        f"it says, which has to be above {chosen.words:.3f}. By the score: as in the table above, above "
        f"{chosen.score:.3f}. To compare both at equal acceptance, the score also with a threshold that is chosen as "
        f"that of the words, {chosen.score_at_acceptance:.3f}: so that at least {chosen.acceptance:.0%} of further "
        f"true captions are accepted, from the own captions of {chosen.calibration_images} calibration images, which "
        "say the gender and what an image has. A caption fits by words whenever one that says more does. Words are "
        "left out at random of captions that have more. A wrong word is one that is not in the image, or the denial "
        "of one that is; the rest of the caption is true. Intervals are 95 %: Wilson's of shares, by bootstrap over "
        "images of means and of the last table."
    )


def _verdict_parts(trained: Trained, result: partial_captions.Result) -> list[Part | str]:
    def rows(head: str, decisions: Sequence[partial_captions.Decisions]) -> list[dict[str, Any]]:
        return [
            {head: plain(each.captions), "images": each.words.count}
            | {word: str(getattr(each, verdict)) for verdict, word in partial_captions.VERDICTS.items()}
            for each in decisions
        ]

    mean = {"one word wrong": "mean over the words", "images": next(iter(result.wrong_mean.values())).count} | {
        word: str(result.wrong_mean[verdict]) for verdict, word in partial_captions.VERDICTS.items()
    }
    curated = []
    for verdict, word in partial_captions.VERDICTS.items():
        each = result.curated[verdict]
        row: dict[str, Any] = {"own captions and curated mismatches": word}
        for name, value in dataclasses.asdict(each.rates).items():
            row[_RATES.get(name, name)] = with_interval(value, *each.intervals[name])
        curated.append(row)
    return [
        report.table(rows("accepted: true captions", result.true)),
        report.table([*rows("one word wrong", result.wrong), mean], "Rejected: captions with one word wrong"),
        report.table(curated, "Own captions and curated mismatches"),
    ]


def _disturbance_parts(trained: Trained, rows: Mapping[str, Mapping[str, Share]]) -> list[Part | str]:
    words = partial_captions.VERDICTS | {"unlike": "called unlike the training images"}
    return [
        report.table(
            [{"images": name} | {words[key]: str(value) for key, value in row.items()} for name, row in rows.items()]
        )
    ]


def _reading_parts(trained: Trained, image_to_text: cross_modal.AttributeScores) -> list[Part | str]:
    """Both readings of attributes: by the text decoder, and by the classifier."""
    classified = evaluate(trained).classified
    rows = {"image to text": image_to_text} | {f"classifier: {PICTURES[key]}": row for key, row in classified.items()}
    note = report.note("No attribute classifier: generated images were not read by one.")

    def of_attributes(scores: cross_modal.AttributeScores) -> Part:
        return report.table(
            [
                {classification.WORDS[key]: value for key, value in dataclasses.asdict(score).items()}
                | {classification.WORDS["name"]: plain(score.name)}
                for score in scores.attributes
            ]
        )

    return [
        *([] if trained.classifier else [note]),
        report.table(
            [
                {
                    "": name,
                    "accuracy": scores.accuracy,
                    "majority class": scores.majority_accuracy,
                    "all attributes right": scores.exact_match,
                    "most frequent text": scores.majority_exact_match,
                    "mean F1": scores.macro_f1,
                    "mean F1, always yes": scores.blind_macro_f1,
                }
                for name, scores in rows.items()
            ]
        ),
        report.details("Image to text, attribute by attribute", [of_attributes(image_to_text)]),
        *(
            report.details(f"Classifier, {PICTURES[key]}, attribute by attribute", [of_attributes(row)])
            for key, row in classified.items()
        ),
    ]


def _posterior_parts(trained: Trained, posteriors: cross_modal.PosteriorDistance) -> list[Part | str]:
    pairs = {"of an image and its own text": posteriors.matching, "and the text of another": posteriors.mismatched}
    return [
        report.table(
            [
                {"distance of the posteriors": name} | {word: getattr(pair, key) for key, word in DISTANCES.items()}
                for name, pair in pairs.items()
            ]
        ),
        f"Of {posteriors.texts} texts, the closest one to an image is its own for {posteriors.recall_at_1:.1%} of the "
        f"images; always the most frequent text would be right for {posteriors.majority_recall_at_1:.1%}. The median "
        f"rank of the own text is {posteriors.median_rank:g}; guessing gives {(posteriors.texts + 1) / 2:g}.",
        *(
            []
            if posteriors.dimensions > 1
            else [report.note("Image and text share one dimension, of which there is no picture in the plane.")]
        ),
    ]


MEASURES = (
    Measure(
        "consistency",
        lambda trained: evaluate(trained).benchmark.result,
        title="Does a text fit an image? (table 2)",
        reading="Shares of right decisions over fitting and unfitting pairs, with 95 % intervals: 0.5 is guessing. One "
        "word, no image: what the best rule reaches that looks at one word of the text and never at the image.",
        text=explain_consistency,
        figures=("consistency", "scores", "confusion", "sensitivity"),
        parts=_consistency_parts,
        lines=lambda trained, result: [f"consistency F1 {result.rates.f1:.3f}"],
    ),
    Measure(
        "released_protocol", lambda trained: evaluate(trained).released, parts=_released_parts, lines=lambda *_: ()
    ),
    Measure(
        "verdicts",
        verdicts,
        title="Captions that leave things open",
        reading="Shares of right decisions, with 95 % intervals: true captions are to be accepted however little they "
        "say, and captions with one wrong word rejected.",
        text=explain_verdicts,
        parts=_verdict_parts,
        lines=lambda trained, result: [
            f"true captions accepted by words {result.true[1].words.value:.3f}, by the score "
            f"{result.true[1].score.value:.3f}; one wrong word rejected by words "
            f"{result.wrong_mean['words'].value:.3f}, by the score {result.wrong_mean['score'].value:.3f}"
        ],
    ),
    Measure(
        "disturbances",
        disturbed,
        title="Photographs that are not like the training images",
        reading="Own captions accepted, with 95 % intervals, of held-out images that were changed; the captions stay "
        "true but for the last row, which shows no face. The last column says of how many `mvae-jax use` warns.",
        parts=_disturbance_parts,
        lines=lambda *_: (),
    ),
    Measure(
        "image_to_text",
        lambda trained: evaluate(trained).image_to_text,
        title="From images to texts and from texts to images",
        reading="Accuracy is the share of attributes that are right, to be compared with the majority class: always "
        "the more frequent answer. The classifier reads drawn images; on held-out images it shows what it can read.",
        text=lambda trained, result: str(trained.classifier or ""),
        figures=("overview", "text_to_image", "sliders", "image_to_text", "attributes", "interpolation"),
        parts=_reading_parts,
        lines=lambda trained, result: [f"image to text accuracy {result.accuracy:.3f}"],
    ),
    Measure("classified", lambda trained: evaluate(trained).classified, parts=lambda *_: (), lines=lambda *_: ()),
    Measure(
        "quality",
        lambda trained: evaluate(trained).quality,
        title="Likeness of images",
        reading="PSNR and SSIM compare decoded held-out images with the originals, pixel by pixel: higher is closer.",
        figures=("reconstructions", "prior"),
        words=QUALITY,
        parts=lambda trained, quality: [
            report.table([{"": QUALITY[name], "value": value} for name, value in quality.items()])
        ],
    ),
    Measure(
        "diversity",
        lambda trained: evaluate(trained).diversity,
        words=DIVERSITY,
        parts=lambda trained, diversity: [
            report.table(
                [
                    {"measured in": DIVERSITY[name]} | {plain(key): each for key, each in value.to_dict().items()}
                    for name, value in diversity.items()
                ],
                f"Diversity of {DRAWS} images drawn from one caption; a ratio of 1 is that of the held-out images",
            )
        ],
        lines=lambda *_: (),
    ),
    Measure(typical.NAME, typical.limits, parts=lambda *_: (), lines=lambda *_: ()),
    Measure(
        "posteriors",
        lambda trained: evaluate(trained).posteriors,
        title="The latent space that both share",
        reading="An image and its own text should lie much closer together than an image and another's text.",
        figures=("latent_space",),
        parts=_posterior_parts,
        lines=lambda *_: (),
    ),
    Measure(
        "phases",
        phases,
        title="From phase to phase (section 8.1)",
        reading="The paper finds that every phase improves on the one before.",
        text="Each phase by its last checkpoint, on the same images, mismatches and calibration images, with a "
        "threshold of its own.",
        words=PHASES,
        label="phase",
    ),
)


# --- comparison of runs ---------------------------------------------------------------------------------------------


def compare(trained: Mapping[str, Trained], results: Mapping[str, Results]) -> tuple[list[Part | str], Figures]:
    """Rows of table 2 and of what each model generates, and what they make of the same inputs."""
    first = next(iter(trained.values()))
    result, sizes = evaluate(first).benchmark.result, [each.run.config.latent_size for each in trained.values()]
    generated = []
    for label, each in trained.items():
        scores = evaluate(each)
        generated.append(
            {"": label, "latent size": each.run.config.latent_size, "step": each.run.step, "phase": each.run.phase}
            | {"image to text, accuracy": scores.image_to_text.accuracy}
            | {"exact match": scores.image_to_text.exact_match}
            | {f"classifier: {PICTURES[name]}": row.accuracy for name, row in scores.classified.items()}
            | {"PSNR, dB": scores.quality["psnr"], "SSIM": scores.quality["ssim"]}
            | {f"diversity in {DIVERSITY[name]}": value.ratio for name, value in scores.diversity.items()}
        )
    parts: list[Part | str] = [
        report.heading("Consistency of image and text (table 2)"),
        f"The same {result.validation_images} images, mismatches and {result.calibration_images} calibration images "
        "for all. Match is the positive class; 95 % intervals over images and curations.",
        report.table(
            [
                row
                for label, each in trained.items()
                for row in (consistency_row(label, each), most_accurate_row(label, each))
            ]
            + published_rows(first.data, sizes)
        ),
        report.heading("From one modality to the other"),
        *([str(first.classifier)] if first.classifier else []),
        report.table(generated),
    ]
    return parts, same_inputs(trained)
