"""The multimodal VAE: a counterpart to each table and figure of Kim, 2024."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, random, runs
from mvae_jax.data import captions
from mvae_jax.data.batches import Split
from mvae_jax.eval import consistency, cross_modal, disturbances, partial_captions, reconstruction
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.eval.classification import Share, share, with_interval
from mvae_jax.experiment import prior, typical
from mvae_jax.experiment.declaration import Figures, Headline, Measure, Number, Results, Trained, capitalized, plain
from mvae_jax.experiment.suites import classification, latents
from mvae_jax.objective import Phase
from mvae_jax.viz import curves, grids, projections, report
from mvae_jax.viz import scores as score_figures
from mvae_jax.viz.report import Part

# Table 2 of the paper: latent size -> accuracy, precision, recall, F1.
PUBLISHED = {128: (0.92, 0.90, 0.94, 0.92), 256: (0.89, 0.86, 0.92, 0.89), 512: (0.88, 0.86, 0.91, 0.88)}
PUBLISHED_THRESHOLDS = {256: 0.621}  # section 7.1.1
PANELS = {
    "Total loss": ["loss"],
    "Images": ["image_from_*"],
    "Attributes": ["text_from_*", "attribute_agreement"],
    "Divergences": ["*_kl", "posterior_matching", "inconsistency"],
    "Discriminator": ["adversarial", "discriminator/error", "discriminator/*_accuracy"],
}
_SHOWN = 18  # examples of a sheet
_DRAWS = 6  # pictures of one caption
_TEXTS = 8  # captions of a sheet
_NOTICED, _VARIED = 0.5, 0.5  # share and ratio below which a report says what is wrong
_SLIDERS = 12  # attributes, at most
_FRACTIONS = np.linspace(0, 1, 8)  # of an interpolation
# What the classifier reads: key in scores.json -> words.
PICTURES = {
    "held_out": "held-out images",
    "reconstruction": "reconstruction",
    "text_to_image": "text to image, mean of the caption's posterior",
    "text_to_image_draw": "text to image, one draw per caption",
    "prior": "image and text drawn together from the prior",
}
QUALITY = {
    "psnr": "PSNR of reconstructions, dB",
    "ssim": "SSIM of reconstructions",
    "psnr_from_text": "PSNR of images from text, dB",
    "ssim_from_text": "SSIM of images from text",
    "well_formed": "texts from the prior with one gender and at most one hair colour",
}
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
DIVERSITY = {"pixels": "pixels", "classifier_features": "the attribute classifier's features"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How image and text are compared.

    Attributes:
        direction: divergence of the consistency score, "img||txt" for KL(image || text) or "txt||img" (MM-01).
        reduction: of that divergence over the latent dimensions, "mean" or "sum" (MM-01).
        acceptance: share of true captions that the verdict by words is to accept, above 0 and below 1; it gives the
            threshold. More of it lets more wrong words pass.
    """

    direction: str = "img||txt"
    reduction: str = "mean"
    acceptance: float = 0.95

    def __post_init__(self) -> None:
        choices = {"direction": consistency.DIRECTIONS, "reduction": consistency.REDUCTIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"evaluation.{name} is {getattr(self, name)!r}; choose one of {', '.join(map(repr, allowed))}."
                )
        if not 0 < self.acceptance < 1:
            raise ValueError(
                f"evaluation.acceptance is {self.acceptance}; expected a share above 0 and below 1, such as 0.95."
            )


# --- numbers --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scores:
    """Numbers of a trained model, all on validation images.

    Attributes:
        benchmark: matching against mismatched pairs.
        released: the same by the released code's protocol.
        image_to_text: attributes decoded from the image's latent.
        classified: `PICTURES` -> what the classifier reads from them; empty without a classifier.
        quality: `QUALITY` -> PSNR and SSIM of images decoded from the image's and from the caption's latent, and the
            share of the texts drawn from the prior that are of one gender and at most one hair colour.
        posteriors: distance of the two posteriors of a pair.
        diversity: `DIVERSITY` -> of several images drawn from one caption.
    """

    benchmark: consistency.Benchmark
    released: consistency.ReleasedResult
    image_to_text: cross_modal.AttributeScores
    classified: Mapping[str, cross_modal.AttributeScores]
    quality: Mapping[str, float]
    posteriors: cross_modal.PosteriorDistance
    diversity: Mapping[str, cross_modal.Diversity]


def check(data: Any) -> None:
    """Refuses images that are too few to judge a model on, before it is trained.

    Raises:
        ValueError: fewer than four validation images, or all with one caption; or a caption that has no mismatch.
    """
    count, texts = len(data.validation), len(cross_modal.distinct_rows(data.validation["attributes"]))
    if count < 4 or texts < 2:
        raise ValueError(
            f"there are {count} validation images with {texts} different captions; expected at least 4 and 2: use "
            "more images, or more of them for validation."
        )
    for name, split in (("validation", data.validation), ("calibration", data.calibration)):
        try:
            consistency.curate_mismatches(
                split["attributes"], data.attributes, seed=0, minimum_changes=least_changes(data.attributes)
            )
        except ValueError as error:
            raise ValueError(f"the {name} images cannot be judged: {error}") from error


def least_changes(names: Sequence[str]) -> int:
    """Four attributes of a mismatch differ (MM-04), or as many as can."""
    return min(4, consistency.most_changes(names))


@functools.lru_cache(maxsize=32)
def evaluate(trained: Trained) -> Scores:
    """Measures a trained model on images that it was not trained on; once, however many measures ask for it."""
    run, data, classifier, seed = trained.run, trained.data, trained.classifier, trained.config.seed
    names, x, a = data.attributes, pixels(data.validation), data.validation["attributes"]
    codes, decode_image = _codes(trained, run)["validation"], in_chunks(run.decode_image)
    posterior, text_posterior = _apart(codes), run.encode_attributes(a)
    keys = [jax.random.fold_in(jax.random.key(seed), draw) for draw in range(3)]
    draws = gaussian.sample(keys[0], *text_posterior)
    prior = random.standard_normal(keys[1], draws.shape)
    prior_logits = run.decode_attributes(prior)
    decoded = {
        "reconstruction": decode_image(posterior[0]),
        "text_to_image": decode_image(text_posterior[0]),
        "text_to_image_draw": decode_image(draws),
    }
    joint = decode_image(prior)
    several, _ = _several(run, a, keys[2])
    diversity = {"pixels": cross_modal.diversity(several, x)}
    classified = {}
    if classifier:
        logits = in_chunks(classifier.logits)
        classified = {"held_out": classifier.held_out} | {
            name: cross_modal.score_attributes(logits(pictures), a, names) for name, pictures in decoded.items()
        }
        classified["prior"] = cross_modal.score_attributes(logits(joint), prior_logits > 0, names)
        features = in_chunks(classifier.features)
        flat = features(several.reshape(-1, *several.shape[2:])).reshape(*several.shape[:2], -1)
        diversity["classifier_features"] = cross_modal.diversity(flat, features(x))
    from_image, from_text = list(decoded.values())[:2]
    return Scores(
        benchmark=_benchmark(trained, run),
        released=consistency.released_benchmark(*_compared(run), (codes, a), names, seed=seed),
        image_to_text=cross_modal.score_attributes(run.decode_attributes(posterior[0]), a, names),
        classified=classified,
        quality={
            "psnr": float(reconstruction.psnr(x, from_image).mean()),
            "ssim": float(reconstruction.ssim(x, from_image).mean()),
            "psnr_from_text": float(reconstruction.psnr(x, from_text).mean()),
            "ssim_from_text": float(reconstruction.ssim(x, from_text).mean()),
            "well_formed": float(cross_modal.well_formed(prior_logits > 0, names).mean()),
        },
        posteriors=cross_modal.posterior_distance(run.shared(posterior), run.shared(text_posterior), a),
        diversity=diversity,
    )


@functools.lru_cache(maxsize=32)
def _codes(trained: Trained, run: runs.Run) -> dict[str, np.ndarray]:
    """Posteriors of the images of both splits, mean and log variance [N, 2, D]; encoded once, whoever asks for them."""
    splits = {"calibration": trained.data.calibration, "validation": trained.data.validation}
    encode = in_chunks(run.encode_image)
    return {name: np.stack(encode(pixels(split)), axis=1) for name, split in splits.items()}


def _apart(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return codes[:, 0], codes[:, 1]


def _compared(run: runs.Run) -> tuple[Callable[[np.ndarray], Any], Callable[..., Any]]:
    """What is judged: codes of images, and captions, to posteriors of the dimensions that image and text share."""
    return (
        lambda codes: run.shared(_apart(codes)),
        lambda *caption: run.shared(run.encode_attributes(*caption)),
    )


def _benchmark(trained: Trained, run: runs.Run, curations: int = 20) -> consistency.Benchmark:
    """The benchmark of a model; its codes stand for the images."""
    data, settings, codes = trained.data, trained.config.evaluation, _codes(trained, run)
    return consistency.benchmark(
        *_compared(run),
        (codes["calibration"], data.calibration["attributes"]),
        (codes["validation"], data.validation["attributes"]),
        data.attributes,
        seed=trained.config.seed,
        direction=settings.direction,
        reduction=settings.reduction,
        minimum_changes=least_changes(data.attributes),
        curations=curations,
    )


@functools.lru_cache(maxsize=32)
def _judge(trained: Trained) -> partial_captions.Judge:
    """The verdicts of a model, with thresholds from the calibration images' own captions."""
    run, data, settings = trained.run, trained.data, trained.config.evaluation
    attributes, (of_images, of_texts) = data.calibration["attributes"], _compared(run)
    return partial_captions.Judge.calibrated(
        run.decode_attributes,
        of_texts,
        of_images(_codes(trained, run)["calibration"]),
        attributes,
        captions.said(attributes, data.attributes),
        score_threshold=evaluate(trained).benchmark.result.threshold,
        acceptance=settings.acceptance,
        direction=settings.direction,
        reduction=settings.reduction,
    )


def verdicts(trained: Trained) -> partial_captions.Result:
    """Both verdicts on captions that leave words out, or say one wrong."""
    names, attributes = trained.data.attributes, trained.data.validation["attributes"]
    mismatches = evaluate(trained).benchmark.mismatches
    return partial_captions.benchmark(
        _judge(trained),
        _compared(trained.run)[0](_codes(trained, trained.run)["validation"]),
        attributes,
        captions.said(attributes, names),
        names,
        mismatches=mismatches,
        mismatches_said=captions.said(mismatches, names),
        seed=trained.config.seed,
    )


def disturbed(trained: Trained) -> dict[str, dict[str, Share]]:
    """Held-out images with their own captions, disturbed in each way of `disturbances.DISTURBANCES`.

    Returns:
        Way -> share of the pairs that each verdict accepts, and, as "unlike", share of the images that are unlike the
        training images, of which `mvae-jax use` warns.
    """
    run, names, attributes = trained.run, trained.data.attributes, trained.data.validation["attributes"]
    limits = next(iter(typical.limits(trained).values()))
    x, said, rows = pixels(trained.data.validation), captions.said(attributes, names), {}
    for number, (name, disturb) in enumerate(disturbances.DISTURBANCES.items()):
        trained.interruption.check()
        pictures = disturb(x, jax.random.fold_in(jax.random.key(trained.config.seed), 100 + number))
        accepted = _judge(trained).accepts(run.shared(in_chunks(run.encode_image)(pictures)), attributes, said)
        values = in_chunks(lambda images: typical.terms(run, images))(pictures)
        unlike = np.any([values[word] > limits[word] for word in typical.WORDS], axis=0)
        rows[name] = {verdict: share(accepts) for verdict, accepts in accepted.items()} | {"unlike": share(unlike)}
    return rows


def _several(run: runs.Run, attributes: np.ndarray, key: jax.Array, most: int = 20) -> tuple[jax.Array, np.ndarray]:
    """Several images of each of the first different captions, [R, S, H, W, C], and the captions' attributes."""
    texts = cross_modal.distinct_rows(attributes)[:most]
    mean, logvar = run.encode_attributes(texts)
    draws = [gaussian.sample(jax.random.fold_in(key, draw), mean, logvar) for draw in range(_DRAWS)]
    return jnp.stack([run.decode_image(z) for z in draws], axis=1), texts


def phases(trained: Trained) -> dict[str, dict[str, Any]]:
    """Numbers of the model at the end of each phase; the paper's claim is that they improve (section 8.1)."""
    rows = {}
    for phase, stage in trained.stages[""].items():
        trained.interruption.check()
        result, image_to_text, text_to_image = _of_stage(trained, stage)
        rows[phase] = {
            "step": stage.step,
            "threshold": result.threshold,
            **{name: getattr(result.rates, name) for name in ("accuracy", "precision", "recall", "f1")},
            "auroc": result.auroc,
            "image_to_text": image_to_text.accuracy,
            **({"text_to_image": text_to_image.accuracy} if text_to_image else {}),
        }
    return rows


def _of_stage(
    trained: Trained, stage: runs.Run
) -> tuple[consistency.Result, cross_modal.AttributeScores, cross_modal.AttributeScores | None]:
    """Consistency, attributes of texts from images, and of images from texts; the latter None without a classifier.

    At the end of the run these are its scores. Of an earlier phase nothing else is computed: it is a row of a table.
    """
    if stage is trained.run:
        scores = evaluate(trained)
        return scores.benchmark.result, scores.image_to_text, scores.classified.get("text_to_image")
    a, names, classifier = trained.data.validation["attributes"], trained.data.attributes, trained.classifier
    means, text_to_image = _codes(trained, stage)["validation"][:, 0], None
    if classifier:
        pictures = in_chunks(stage.decode_image)(stage.encode_attributes(a)[0])
        text_to_image = cross_modal.score_attributes(in_chunks(classifier.logits)(pictures), a, names)
    return (
        _benchmark(trained, stage, curations=1).result,
        cross_modal.score_attributes(stage.decode_attributes(means), a, names),
        text_to_image,
    )


# --- pictures -------------------------------------------------------------------------------------------------------


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
    of_images, of_texts = _compared(run)
    image_codes = of_images(_codes(trained, run)["validation"])[0]
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
        rows = np.repeat(texts, _DRAWS, axis=0)
        drawn = run.decode_image(learned.sample(key, rows, np.ones_like(rows), guidance=prior.GUIDANCE))
        several = drawn.reshape(len(texts), _DRAWS, *drawn.shape[1:])
        by = f"by the learned prior with guidance {prior.GUIDANCE:g}"
    else:
        several, by = _several(run, texts, key)[0], "from the caption's posterior"
    sentences, pictures = write(texts, names), to_bytes(several)
    return {
        "overview": (
            f"Faces that the model drew from captions, {_DRAWS} of each {by}: {'; '.join(sentences[:2])}",
            grids.text_to_image(sentences[:2], pictures[:2]),
        ),
        "text_to_image": (
            f"Text to image: {_DRAWS} draws of each caption, {by}; all should show what the caption says, and differ "
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
    of_images, of_texts = _compared(run)
    posterior = of_images(_codes(trained, run)["validation"][:count])
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
                f"Diversity of {_DRAWS} images drawn from one caption; a ratio of 1 is that of the held-out images",
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
    return parts, _same_inputs(trained)


def _same_inputs(trained: Mapping[str, Trained], shown: int = 12, most_texts: int = 6) -> Figures:
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


# --- while it trains ------------------------------------------------------------------------------------------------


def sheet(run: runs.Run, examples: Split, phase: Phase) -> dict[str, Any]:
    """A few held-out images, decoded from the image's and from the caption's latent."""
    x, a = pixels(examples), examples["attributes"]
    return {
        "held-out images": x,
        "from image": run.decode_image(run.encode_image(x)[0]),
        "from text": run.decode_image(run.encode_attributes(a)[0]),
    }
