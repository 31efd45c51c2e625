"""Pictures of the multimodal VAE of images and captions: a counterpart to each figure of Kim, 2024."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mvae_jax import gaussian, random, runs
from mvae_jax.data import captions
from mvae_jax.data.batches import Split
from mvae_jax.eval import consistency, cross_modal
from mvae_jax.eval.batched import pixels, to_bytes
from mvae_jax.experiment import prior
from mvae_jax.experiment.declaration import Figures, Results, Trained, capitalized, plain
from mvae_jax.experiment.suites import latents
from mvae_jax.experiment.suites.multimodal_scores import DRAWS, Scores, compared, draws_of, encoded, evaluate
from mvae_jax.objective import Phase
from mvae_jax.viz import curves, grids, projections
from mvae_jax.viz import scores as score_figures

PANELS = {
    "Total loss": ["loss"],
    "Images": ["image_from_*"],
    "Attributes": ["text_from_*", "attribute_agreement"],
    "Divergences": ["*_kl", "posterior_matching", "inconsistency"],
    "Discriminator": ["adversarial", "discriminator/error", "discriminator/*_accuracy"],
}
_SHOWN = 18  # examples of a sheet
_TEXTS = 8  # captions of a sheet
_SLIDERS = 12  # attributes, at most
_FRACTIONS = np.linspace(0, 1, 8)  # of an interpolation


def figures(trained: Trained, results: Results) -> Figures:
    """The figures of a report."""
    run, data, records = trained.run, trained.data, next(iter(trained.records.values()))
    scores, seed = evaluate(trained), trained.config.seed
    names = data.attributes
    shown = data.validation.first(_SHOWN)
    x, a, sentences = pixels(shown), shown["attributes"], write(shown["attributes"], names)
    means = {"from image": run.encode_image(x)[0], "from text": run.encode_attributes(a)[0]}
    predicted = run.decode_attributes(means["from image"]) > 0
    texts = cross_modal.distinct_rows(data.validation["attributes"])[:_TEXTS]
    half = max(1, len(texts) // 2)
    ends = texts[:half], texts[-half:]
    start, end = (run.encode_attributes(texts)[0] for texts in ends)
    between = [run.decode_image(gaussian.lerp(start, end, fraction)) for fraction in _FRACTIONS]
    z = random.standard_normal(jax.random.fold_in(jax.random.key(seed), 1), (_SHOWN, means["from image"].shape[1]))

    benchmark = scores.benchmark
    result = benchmark.result
    of_images, of_texts = compared(run)
    image_codes = of_images(encoded(trained, run)["validation"])[0]
    text_codes = of_texts(data.validation["attributes"])[0]
    confusion = result.confusion
    figures: dict[str, tuple[str, Any]] = {
        **drawn_from_captions(trained),
        "sliders": (
            f"{capitalized(write(_person(names)[None], names)[0])}, drawn from a caption with each attribute off and "
            "on: a slider goes from the one to the other, and half as far beyond either",
            attribute_sliders(trained),
        ),
        "data": ("Held-out images and their captions (figure 2)", grids.grid(shown["image"], sentences)),
        "consistency": (
            "Does the text fit? Held-out faces, each with its own caption and with three that do not fit (figure 5)",
            consistency_sheet(trained),
        ),
        "image_to_text": (
            "Image to text: held-out faces, their captions and the model's; coloured words are wrong or missing "
            "(figure 6)",
            grids.image_to_text(shown["image"], sentences, write(predicted, names)),
        ),
        "reconstructions": (
            "Held-out images, decoded from the image's and from the caption's latent: the second row should be the "
            "same face, the third one with the same attributes",
            grids.comparison(
                {"original": shown["image"]}
                | {label: to_bytes(run.decode_image(mean)) for label, mean in means.items()}
            ),
        ),
        "interpolation": (
            "From one caption to another: the steps between should look like people too",
            grids.interpolation(
                write(ends[0], names),
                write(ends[1], names),
                np.stack([to_bytes(pictures) for pictures in between], axis=1),
            ),
        ),
        "prior": (
            "Images and texts that the model makes up together: each text should fit its image",
            grids.grid(to_bytes(run.decode_image(z)), write(run.decode_attributes(z) > 0, names)),
        ),
        "confusion": (
            "Decisions about all pairs: right ones lie on the diagonal (table 1)",
            score_figures.confusion_matrix(
                [
                    [confusion.mismatches_rejected, confusion.mismatches_accepted],
                    [confusion.matches_rejected, confusion.matches_accepted],
                ]
            ),
        ),
        "scores": (
            "Consistency scores of fitting and unfitting pairs: the less the two hills overlap, the better",
            score_figures.score_distributions(benchmark.match_scores, benchmark.mismatch_scores, result.threshold),
        ),
        "sensitivity": (
            "Which single wrong attribute of a text is noticed: 1 always, 0.5 never (area under the ROC curve of own "
            "against edited texts)",
            score_figures.attribute_bars(
                {"one attribute wrong": {plain(item.name): item.overall.auroc for item in result.sensitivity}},
                baseline=0.5,
                baseline_label="chance",
                xlabel="area under the ROC curve",
            ),
        ),
        "attributes": (
            "Accuracy by attribute: bars should be longer than the black mark, always the more frequent answer",
            score_figures.attribute_bars(
                {
                    label: {plain(item.name): item.accuracy for item in read.attributes}
                    for label, read in _accuracies(scores).items()
                },
                baseline={plain(item.name): item.majority_accuracy for item in scores.image_to_text.attributes},
                baseline_label="majority class",
                xlabel="accuracy",
            ),
        ),
    }
    if image_codes.shape[1] > 1:  # one dimension has no plane, as the report says
        figures["latent_space"] = (
            "Images and texts in the latent space, drawn in two dimensions by t-SNE: lines join an image and its own "
            "text, and should be short (figure 9)",
            projections.modalities(image_codes, text_codes, _groups(data.validation["attributes"], names), seed=seed),
        )
    if any("loss" in record for record in records):  # a run that has just started has none yet
        figures["losses"] = (
            "What is minimised, and its terms: lines without dots are of training images, those with dots of held-out "
            "ones. The weights of the terms change at the dashed borders of the phases (figure 8)",
            curves.losses(records, PANELS),
        )
    return figures


def drawn_from_captions(trained: Trained) -> Figures:
    """Several images of each of a few captions, drawn by the learned prior where there is one, and of two of them."""
    run, names, key = trained.run, trained.data.attributes, jax.random.fold_in(jax.random.key(trained.config.seed), 2)
    texts = cross_modal.distinct_rows(trained.data.validation["attributes"])[:_TEXTS]
    if learned := trained.priors.get(next(iter(trained.runs))):
        rows = np.repeat(texts, DRAWS, axis=0)
        drawn = run.decode_image(learned.sample(key, rows, np.ones_like(rows), guidance=prior.GUIDANCE))
        several = drawn.reshape(len(texts), DRAWS, *drawn.shape[1:])
        by = f"by the learned prior with guidance {prior.GUIDANCE:g}"
    else:
        several, by = draws_of(run, texts, key)[0], "from the caption's posterior"
    sentences, pictures = write(texts, names), to_bytes(several)
    return {
        "overview": (
            f"Faces that the model drew from captions, {DRAWS} of each {by}: {'; '.join(sentences[:2])}",
            grids.text_to_image(sentences[:2], pictures[:2]),
        ),
        "text_to_image": (
            f"Text to image: {DRAWS} draws of each caption, {by}; all should show what the caption says, and differ "
            "in what it leaves open (figure 7)",
            grids.text_to_image(sentences, pictures),
        ),
    }


def consistency_sheet(trained: Trained, shown: int = 6) -> Any:
    """Held-out images, each with its own caption and with mismatches of three kinds, and what the model says of each.

    The kinds: several words wrong, as the benchmark has them; one word wrong, another one for each image; and the
    caption of another image.
    """
    benchmark, run, names = evaluate(trained).benchmark, trained.run, trained.data.attributes
    count = min(shown, len(trained.data.validation))
    examples = trained.data.validation.first(count)
    every, own = trained.data.validation["attributes"], examples["attributes"]
    edits, items = consistency.single_edits(own, names)
    others = [next(row for row in np.roll(every, -n - 1, axis=0) if (row != own[n]).any()) for n in range(count)]
    texts = {
        "its own caption": own,
        "several words wrong": benchmark.mismatches[:count],
        "one word wrong": np.stack([edits[(n + 3) % len(items), n] for n in range(count)]),
        "another face's caption": np.stack(others),
    }
    of_images, of_texts = compared(run)
    posterior = of_images(encoded(trained, run)["validation"][:count])
    settings = trained.config.evaluation
    scores = {
        kind: np.asarray(
            consistency.consistency_score(
                posterior,
                of_texts(attributes),
                direction=settings.direction,
                reduction=settings.reduction,
            )
        )
        for kind, attributes in texts.items()
    }
    captions = {kind: write(attributes, names) for kind, attributes in texts.items()}
    return grids.consistency_pairs(examples["image"], captions, scores, benchmark.result.threshold)


def attribute_sliders(trained: Trained) -> Any:
    """A person drawn from a caption, along each attribute: from the code of the caption without it to that with it."""
    run, names = trained.run, trained.data.attributes
    ends = {
        item: (run.encode_attributes(without[None])[0][0], run.encode_attributes(having[None])[0][0])
        for item, (without, having) in itertools.islice(latents.attribute_ends(_person(names), names).items(), _SLIDERS)
    }
    return latents.attribute_strips(run.decode_image, ends)


def _person(names: Sequence[str]) -> np.ndarray:
    """Attributes of a young woman, as far as there are such attributes, [A]."""
    return np.array([name in ("young", "female") for name in names], np.float32)


def _accuracies(scores: Scores) -> dict[str, cross_modal.AttributeScores]:
    series = {"image to text": scores.image_to_text}
    for name, label in (("held_out", "classifier, held-out images"), ("text_to_image", "classifier, text to image")):
        if name in scores.classified:
            series[label] = scores.classified[name]
    return series


def _groups(attributes: np.ndarray, names: Sequence[str]) -> list[str]:
    """The genders, as in the paper's figure; without them the first attribute."""
    name = "male" if "male" in names else names[0]
    others = "female" if name == "male" else f"not {name}"
    return [name if value else others for value in attributes[:, list(names).index(name)]]


def write(attributes: Any, names: Sequence[str]) -> list[str]:
    """Captions of attribute vectors, [N, A]."""
    return [captions.write(row, names) for row in np.asarray(attributes, np.float32)]


def same_inputs(trained: Mapping[str, Trained], shown: int = 12, most_texts: int = 6) -> Figures:
    """What several models make of the same images and captions."""
    data = next(iter(trained.values())).data
    examples = data.validation.first(shown)
    x, texts = pixels(examples), cross_modal.distinct_rows(examples["attributes"])[:most_texts]

    def decoded(run: runs.Run, posterior: Any) -> np.ndarray:
        return to_bytes(run.decode_image(posterior[0]))

    from_image = {label: decoded(each.run, each.run.encode_image(x)) for label, each in trained.items()}
    from_text = {label: decoded(each.run, each.run.encode_attributes(texts)) for label, each in trained.items()}
    return {
        "reconstructions": (
            "Reconstructions of the same held-out images",
            grids.comparison({"original": examples["image"]} | from_image),
        ),
        "from_text": (
            "The same captions, decoded from the mean of their posteriors: " + "; ".join(write(texts, data.attributes)),
            grids.comparison(from_text),
        ),
    }


def sheet(run: runs.Run, examples: Split, phase: Phase) -> dict[str, Any]:
    """A few held-out images, decoded from the image's and from the caption's latent."""
    x, a = pixels(examples), examples["attributes"]
    return {
        "held-out images": x,
        "from image": run.decode_image(run.encode_image(x)[0]),
        "from text": run.decode_image(run.encode_attributes(a)[0]),
    }
