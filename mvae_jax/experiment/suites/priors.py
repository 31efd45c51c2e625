"""Priors over the codes of one model beside each other: its own, a mixture of Gaussians, a text's posterior, a flow."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mvae_jax import gaussian
from mvae_jax.data import captions
from mvae_jax.data.batches import Split
from mvae_jax.eval import cross_modal, fid, manifold
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.experiment import prior
from mvae_jax.experiment.declaration import Figures, Measure, Results, Trained, capitalized
from mvae_jax.experiment.sheets import given_attributes
from mvae_jax.viz import grids

PRIORS = {
    "training": "training images",
    "reconstruction": "posteriors of held-out images",
    "prior": "the model's own prior",
    "mixture": "mixture of Gaussians of its codes",
    "flow": "learned prior",
    "text_posterior": "captions: posterior of the text",
    "flow_captions": "captions: learned prior",
    "flow_captions_guided": f"captions: learned prior, guidance {prior.GUIDANCE:g}",
}
WORDS = {
    "frechet_distance": "Frechet distance",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy against the caption",
    "diversity": "diversity of a caption's draws (real images: 1)",
    "images": "images",
}
_LEAST_DRAWS = 1000  # images of each row, at least
_COMPONENTS, _PER_COMPONENT = 10, 2  # of the mixture: Gaussians, and codes for each dimension of one at least
_CAPTIONS, _DRAWS = 40, 6  # whose diversity is measured
_SHOWN, _SHOWN_DRAWS = 6, 8  # of a sheet

Draw = Callable[[jax.Array, np.ndarray], Any]  # (key, attributes [B, A]) -> codes [B, D]


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """Draws codes.

    Attributes:
        draw: the function.
        of_captions: whether it minds the attributes.
    """

    draw: Draw
    of_captions: bool


@functools.lru_cache(maxsize=4)
def drawings(trained: Trained) -> dict[str, _Drawing]:
    """Ways to draw codes of the first model: key of `PRIORS` -> function."""
    (folder, run), seed = next(iter(trained.runs.items())), trained.config.seed
    learned = trained.priors[folder]
    train = prior.encode((trained.workdir / folder).resolve(), run, trained.data, trained.config.prior.codes).train
    codes = _draws(train, 1, seed).astype(np.float64)
    mixture = _mixture(codes, seed)
    factors = np.linalg.cholesky(mixture.covariances_)

    def of_mixture(key: jax.Array, attributes: np.ndarray) -> Any:
        generator = np.random.default_rng(int(jax.random.bits(key)))
        chosen = generator.choice(len(factors), len(attributes), p=mixture.weights_ / mixture.weights_.sum())
        drawn = generator.standard_normal((len(attributes), codes.shape[1]))
        for component, (mean, factor) in enumerate(zip(mixture.means_, factors, strict=True)):
            rows = chosen == component
            drawn[rows] = mean + drawn[rows] @ factor.T
        return drawn.astype(np.float32)

    def given(key: jax.Array, attributes: np.ndarray, guidance: float = 1.0) -> Any:
        return learned.sample(key, attributes, np.ones_like(attributes), guidance=guidance)

    ways = {
        "mixture": _Drawing(of_mixture, of_captions=False),
        "flow": _Drawing(lambda key, attributes: learned.sample_freely(key, len(attributes)), of_captions=False),
    }
    if "encode_attributes" in run.functions:

        def of_text(key: jax.Array, attributes: np.ndarray) -> Any:
            return gaussian.sample(key, *run.encode_attributes(attributes))

        ways["text_posterior"] = _Drawing(of_text, of_captions=True)
    if trained.data.attributes:
        ways["flow_captions"] = _Drawing(given, of_captions=True)
        guided = functools.partial(given, guidance=prior.GUIDANCE)
        ways["flow_captions_guided"] = _Drawing(guided, of_captions=True)
    return ways


def _mixture(codes: np.ndarray, seed: int) -> Any:
    """Scikit-learn's mixture of Gaussians with full covariances, as many as the codes determine."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    components = max(1, min(_COMPONENTS, len(codes) // (_PER_COMPONENT * codes.shape[1])))
    mixture = GaussianMixture(components, reg_covar=1e-6 * float(codes.var(0).max()), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # more steps would change the likelihood by little
        return mixture.fit(codes)


def measure(trained: Trained) -> dict[str, dict[str, float]]:
    """Samples of each prior against held-out images, at equal counts; {} without a prior or a classifier.

    Of training images there may be fewer. Examples whose image or attributes are missing are left out.

    Returns:
        Key of `PRIORS` -> key of `WORDS` -> number. What only a caption gives is missing where there is none, and the
        diversity where no caption has several training images.
    """
    classifier = trained.classifier
    if classifier is None or not trained.priors:
        return {}
    (folder, run), data, key = next(iter(trained.runs.items())), trained.data, jax.random.key(trained.config.seed)
    training, validation = (split.having("image", "attributes") for split in (data.train, data.validation))
    x, a = pixels(validation), validation["attributes"]
    times = -(-_LEAST_DRAWS // len(a))
    rows, decode, results = np.tile(a, (times, 1)), _decoder(run), {}
    read, logits = in_chunks(classifier.features), in_chunks(classifier.logits)
    held_out = read(x)
    texts, several = _several_images(training, a)

    def row(pictures: Any, attributes: np.ndarray | None = None) -> dict[str, float]:
        features: Any = read(pictures)
        origin: dict[str, Any] = {"features": classifier.origin, "split": "held-out images"}
        both = manifold.precision_and_recall(held_out, features[: len(held_out)], **origin)
        scores = {
            "frechet_distance": fid.frechet_distance(features, held_out, **origin).value,
            **{"precision": both.precision, "recall": both.recall},
        }
        if attributes is not None:
            scores["accuracy"] = cross_modal.score_attributes(logits(pictures), attributes, data.attributes).accuracy
        trained.interruption.check()
        return {**scores, "images": len(features)}

    def within(pictures: Any) -> float:
        """Distance of two images of one of the captions."""
        features: Any = read(pictures)
        return cross_modal.diversity(features.reshape(len(texts), _DRAWS, -1), held_out).within

    others = training.first(len(rows))
    results["training"] = row(pixels(others), others["attributes"])
    unlike = within(pixels(training.take(several))) if len(texts) else 0.0
    codes = prior.encode((trained.workdir / folder).resolve(), run, data, trained.config.prior.codes)
    posteriors = codes.validation.having("attributes")
    results["reconstruction"] = row(decode(_draws(posteriors, times, trained.config.seed), rows), rows)
    if run.model.sample:
        drawn = [run.sample(jax.random.fold_in(key, part), *_for_sample(run, a)) for part in range(times)]
        results["prior"] = row(np.concatenate(drawn))
    for number, (name, drawing) in enumerate(drawings(trained).items()):
        own = jax.random.fold_in(key, 100 + number)
        results[name] = row(decode(drawing.draw(own, rows), rows), rows if drawing.of_captions else None)
        if drawing.of_captions and unlike:
            again = np.repeat(texts, _DRAWS, axis=0)
            results[name]["diversity"] = within(decode(drawing.draw(jax.random.fold_in(own, 1), again), again)) / unlike
    return {name: results[name] for name in PRIORS if name in results}


def _several_images(training: Split, attributes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Captions [R, A] of which there are several training images, and the positions of these, [R S]."""
    texts: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    for text in cross_modal.distinct_rows(attributes):
        of_text = np.flatnonzero((training["attributes"] == text).all(1))[:_DRAWS]
        if len(of_text) == _DRAWS and len(texts) < _CAPTIONS:
            texts.append(text)
            positions.append(of_text)
    return np.array(texts), np.array(positions, int).ravel()


def _draws(codes: Any, times: int, seed: int) -> np.ndarray:
    """Codes of a split, [N, D], so many draws of each posterior: [times N, D]; means where there is no posterior."""
    mean = np.tile(codes["code"], (times, 1))
    if "deviation" not in codes.arrays:
        return mean
    noise = np.random.default_rng(seed).standard_normal(mean.shape).astype(np.float32)
    return mean + np.tile(codes["deviation"], (times, 1)) * noise


def _for_sample(run: Any, attributes: np.ndarray) -> tuple[Any, ...]:
    return given_attributes(run.sample, {"attributes": attributes}) or (len(attributes),)


def _decoder(run: Any) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Images of codes [B, D] and, of a conditional model, of attributes [B, A]."""

    def decode(codes: Any, attributes: np.ndarray) -> Any:
        return run.decode(codes, *given_attributes(run.decode, {"attributes": attributes}))

    return in_chunks(decode)


def figures(trained: Trained, results: Results) -> Figures:
    """A sheet for each way to draw from captions: a caption in a row, several draws of each."""
    if not trained.priors or not trained.data.attributes:
        return {}
    texts = cross_modal.distinct_rows(trained.data.validation.having("attributes")["attributes"])[:_SHOWN]
    rows, decode = np.repeat(texts, _SHOWN_DRAWS, axis=0), _decoder(trained.run)
    sentences, sheets = [captions.write(row, trained.data.attributes) for row in texts], {}
    for name, drawing in drawings(trained).items():
        if drawing.of_captions:
            pictures = decode(drawing.draw(jax.random.key(trained.config.seed), rows), rows)
            sheet = to_bytes(pictures).reshape(len(texts), _SHOWN_DRAWS, *pictures.shape[1:])
            sheets[f"priors_{name}"] = (
                f"{capitalized(PRIORS[name])}: {_SHOWN_DRAWS} draws of each; they should agree in what the caption "
                "says, and differ in all else",
                grids.text_to_image(sentences, sheet),
            )
    return sheets


def explain(trained: Trained, rows: Any) -> str:
    """How samples were measured, in words."""
    if not rows:
        return "Not measured: there is no attribute classifier, or no learned prior (classifier.epochs, prior.epochs)."
    held_out = trained.data.validation.having("image", "attributes")
    return (
        f"In the last hidden layer of a classifier of the training images ({trained.classifier}), against "
        f"{len(held_out)} held-out images; precision and recall of as many samples as these. Captions "
        "are those of the held-out images. Diversity is the distance between draws of one caption, root mean square "
        f"over pairs and over {_CAPTIONS} captions at most, divided by that between training images of the same "
        "captions. The mixture has full covariances, and like the learned prior the codes of the training images "
        f"({trained.config.prior.codes}). {_by_learned(trained)}"
    )


def _by_learned(trained: Trained) -> str:
    learned = next(iter(trained.priors.values())).run
    free = ""
    if learned.config.attributes and learned.config.attribute_rows:
        free = (
            "; without a caption attributes are drawn first, as the training images have them, then a code of these "
            f"with guidance {prior.FREE_GUIDANCE:g}"
        )
    return f"The learned prior is a rectified flow ({learned.step:,} steps, {learned.config.solver}){free}."


MEASURE = Measure(
    "priors",
    measure,
    title="Drawing codes: the prior, and learned ones",
    reading="Lower Frechet distances are closer to held-out images. Accuracy says whether draws show what the caption "
    "says, diversity whether they differ in the rest: a good prior has both.",
    text=explain,
    figures=("priors_*",),
    words={**WORDS, **PRIORS},
    label="codes from",
)
