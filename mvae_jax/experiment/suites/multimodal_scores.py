"""Numbers of the multimodal VAE of images and captions: consistency, attributes read and drawn, verdicts, phases."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, random, runs
from mvae_jax.data import captions
from mvae_jax.eval import consistency, cross_modal, disturbances, partial_captions, reconstruction
from mvae_jax.eval.batched import in_chunks, pixels
from mvae_jax.eval.classification import Share, share
from mvae_jax.experiment import typical
from mvae_jax.experiment.declaration import Trained

DRAWS = 6  # pictures of one caption
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
    codes, decode_image = encoded(trained, run)["validation"], in_chunks(run.decode_image)
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
    several, _ = draws_of(run, a, keys[2])
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
        released=consistency.released_benchmark(*compared(run), (codes, a), names, seed=seed),
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
def encoded(trained: Trained, run: runs.Run) -> dict[str, np.ndarray]:
    """Posteriors of the images of both splits, mean and log variance [N, 2, D]; encoded once, whoever asks for them."""
    splits = {"calibration": trained.data.calibration, "validation": trained.data.validation}
    encode = in_chunks(run.encode_image)
    return {name: np.stack(encode(pixels(split)), axis=1) for name, split in splits.items()}


def _apart(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return codes[:, 0], codes[:, 1]


def compared(run: runs.Run) -> tuple[Callable[[np.ndarray], Any], Callable[..., Any]]:
    """What is judged: codes of images, and captions, to posteriors of the dimensions that image and text share."""
    return (
        lambda codes: run.shared(_apart(codes)),
        lambda *caption: run.shared(run.encode_attributes(*caption)),
    )


def _benchmark(trained: Trained, run: runs.Run, curations: int = 20) -> consistency.Benchmark:
    """The benchmark of a model; its codes stand for the images."""
    data, settings, codes = trained.data, trained.config.evaluation, encoded(trained, run)
    return consistency.benchmark(
        *compared(run),
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
    attributes, (of_images, of_texts) = data.calibration["attributes"], compared(run)
    return partial_captions.Judge.calibrated(
        run.decode_attributes,
        of_texts,
        of_images(encoded(trained, run)["calibration"]),
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
        compared(trained.run)[0](encoded(trained, trained.run)["validation"]),
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


def draws_of(run: runs.Run, attributes: np.ndarray, key: jax.Array, most: int = 20) -> tuple[jax.Array, np.ndarray]:
    """Several images of each of the first different captions, [R, S, H, W, C], and the captions' attributes."""
    texts = cross_modal.distinct_rows(attributes)[:most]
    mean, logvar = run.encode_attributes(texts)
    draws = [gaussian.sample(jax.random.fold_in(key, draw), mean, logvar) for draw in range(DRAWS)]
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
    means, text_to_image = encoded(trained, stage)["validation"][:, 0], None
    if classifier:
        pictures = in_chunks(stage.decode_image)(stage.encode_attributes(a)[0])
        text_to_image = cross_modal.score_attributes(in_chunks(classifier.logits)(pictures), a, names)
    return (
        _benchmark(trained, stage, curations=1).result,
        cross_modal.score_attributes(stage.decode_attributes(means), a, names),
        text_to_image,
    )
