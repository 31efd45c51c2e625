"""Priors over the codes of a model beside each other: its own, a mixture of Gaussians, a text's posterior, a flow."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian
from mvae_jax.data import captions
from mvae_jax.data.batches import Split
from mvae_jax.eval import cross_modal, fid, manifold
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.experiment import prior
from mvae_jax.experiment.classifier import Classifier
from mvae_jax.experiment.declaration import Figures, Measure, Results, Trained, capitalized, plain
from mvae_jax.experiment.sheets import given_attributes
from mvae_jax.viz import grids, report
from mvae_jax.viz.report import Part

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
_LEAST_DRAWS, _MOST_HELD_OUT = 1000, 5000  # images of each row, at least; held-out images, at most
_COMPONENTS, _PER_COMPONENT = 10, 2  # of the mixture: Gaussians, and codes for each dimension of one at least
_CAPTIONS, _DRAWS = 40, 6  # whose diversity is measured
_SHOWN, _SHOWN_DRAWS = 6, 8  # of a sheet
_BESIDE_DRAWS = 5  # of the sheets of several models, which stand side by side

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
def drawings(trained: Trained, folder: str = "") -> dict[str, _Drawing]:
    """Ways to draw codes of a model: key of `PRIORS` -> function.

    None draws freely for a decoder that takes attributes, as the codes would be of others than those.
    """
    run, seed, learned = trained.runs[folder], trained.config.seed, trained.priors[folder]
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

    def freely(key: jax.Array, attributes: np.ndarray) -> Any:
        return learned.sample_freely(key, len(attributes))

    ways = {"mixture": _Drawing(of_mixture, of_captions=False)}
    if not _is_conditional(run):
        ways["flow"] = _Drawing(freely, of_captions=False)
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Comparison:
    """Held-out images, with which samples are compared in the features of a classifier.

    Of them, and of training images, those whose image and attributes are there.
    """

    trained: Trained
    classifier: Classifier

    @functools.cached_property
    def attributes(self) -> np.ndarray:
        """Captions of the held-out images, [N, A]."""
        return self._held_out["attributes"]

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """Captions of the samples, [T N, A]: those of the held-out images again and again."""
        return np.tile(self.attributes, (self.times, 1))

    @property
    def times(self) -> int:
        """T."""
        return -(-_LEAST_DRAWS // len(self.attributes))

    @functools.cached_property
    def _held_out(self) -> Split:
        return self.trained.data.validation.having("image", "attributes").first(_MOST_HELD_OUT)

    @functools.cached_property
    def _training(self) -> Split:
        return self.trained.data.train.having("image", "attributes")

    @functools.cached_property
    def _features(self) -> Any:
        return self._read(pixels(self._held_out))

    def _read(self, pictures: Any) -> Any:
        return in_chunks(self.classifier.features)(pictures)

    @functools.cached_property
    def _several(self) -> tuple[np.ndarray, np.ndarray]:
        return _several_images(self._training, self.attributes)

    @functools.cached_property
    def _unlike(self) -> float:
        """Distance between training images of one caption; 0 if no caption has several."""
        texts, positions = self._several
        return self._within(pixels(self._training.take(positions))) if len(texts) else 0.0

    def _within(self, pictures: Any) -> float:
        """Distance of two images of one of the captions."""
        features = self._read(pictures).reshape(len(self._several[0]), _DRAWS, -1)
        return cross_modal.diversity(features, self._features).within

    @functools.cached_property
    def training(self) -> dict[str, float]:
        """Numbers of training images."""
        others = self._training.first(len(self.rows))
        return self.row(pixels(others), others["attributes"])

    def row(self, pictures: Any, attributes: np.ndarray | None = None) -> dict[str, float]:
        """Numbers of samples; with attributes, what is read of those."""
        features = self._read(pictures)
        origin: dict[str, Any] = {"features": self.classifier.origin, "split": "held-out images"}
        both = manifold.precision_and_recall(self._features, features[: len(self._features)], **origin)
        scores = {
            "frechet_distance": fid.frechet_distance(features, self._features, **origin).value,
            **{"precision": both.precision, "recall": both.recall},
        }
        if attributes is not None:
            logits = in_chunks(self.classifier.logits)(pictures)
            scores["accuracy"] = cross_modal.score_attributes(logits, attributes, self.trained.data.attributes).accuracy
        self.trained.interruption.check()
        return {**scores, "images": len(features)}

    def drawn(self, draw: Draw, key: jax.Array, of_captions: bool) -> dict[str, float]:
        """Numbers of samples that a function draws, and the diversity of a caption's, if it minds them."""
        scores = self.row(draw(key, self.rows), self.rows if of_captions else None)
        if of_captions and self._unlike:
            again = np.repeat(self._several[0], _DRAWS, axis=0)
            scores["diversity"] = self._within(draw(jax.random.fold_in(key, 1), again)) / self._unlike
        return scores


def measure(trained: Trained) -> dict[str, Any]:
    """Samples of each prior of each model against held-out images, at equal counts.

    Of training images there may be fewer. Examples whose image or attributes are missing are left out.

    Returns:
        Key of `PRIORS` -> key of `WORDS` -> number, of a model in the workdir itself; of others folder -> that. What
        only a caption gives is missing where there is none, and the diversity where no caption has several training
        images. {} without a prior or a classifier.
    """
    if trained.classifier is None or not trained.priors:
        return {}
    comparison = _Comparison(trained, trained.classifier)
    found = {folder: _measured(trained, folder, comparison) for folder in trained.priors}
    return found.get("", found)


def _measured(trained: Trained, folder: str, comparison: _Comparison) -> dict[str, dict[str, float]]:
    run, rows, seed = trained.runs[folder], comparison.rows, trained.config.seed
    decode, conditional, key = _decoder(run), _is_conditional(run), jax.random.key(trained.config.seed)
    results = {"training": comparison.training}
    codes = prior.encode((trained.workdir / folder).resolve(), run, trained.data, trained.config.prior.codes)
    posteriors = codes.validation.having("attributes").first(len(comparison.attributes))
    results["reconstruction"] = comparison.row(decode(_draws(posteriors, comparison.times, seed), rows), rows)
    if run.model.sample:
        results["prior"] = comparison.drawn(
            functools.partial(_of_own_prior, run), jax.random.fold_in(key, 99), conditional
        )
    for number, (name, drawing) in enumerate(drawings(trained, folder).items()):

        def draw(key: jax.Array, rows: np.ndarray, drawing: _Drawing = drawing) -> Any:
            return decode(drawing.draw(key, rows), rows)

        results[name] = comparison.drawn(
            draw, jax.random.fold_in(key, 100 + number), drawing.of_captions or conditional
        )
    return {name: results[name] for name in PRIORS if name in results}


def _of_own_prior(run: Any, key: jax.Array, rows: np.ndarray) -> np.ndarray:
    """Images by the model's own prior, [B, H, W, C]."""
    parts = [rows[start : start + _LEAST_DRAWS] for start in range(0, len(rows), _LEAST_DRAWS)]
    drawn = [run.sample(jax.random.fold_in(key, part), *_for_sample(run, some)) for part, some in enumerate(parts)]
    return np.concatenate([np.clip(pictures, -1, 1) for pictures in drawn])


def _is_conditional(run: Any) -> bool:
    """Whether the decoder takes attributes besides codes, so that whatever draws the codes, images are of captions."""
    return bool(given_attributes(run.decode, {"attributes": None}))


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
        pictures = run.decode(codes, *given_attributes(run.decode, {"attributes": attributes}))
        return jnp.clip(pictures, -1, 1)  # an autoencoder's may have no bound

    return in_chunks(decode)


def figures_of(title_of: Callable[[str], str] = plain) -> Callable[[Trained, Results], Figures]:
    """Sheets of draws: without captions one for each model, with captions one for each way of the first model.

    In the latter a caption has a row of several draws.

    Args:
        title_of: as for `measure_of`.

    Returns:
        A function of `Experiment.figures`.
    """

    def figures(trained: Trained, results: Results) -> Figures:
        return _figures(trained, {folder: f" of {title_of(folder)}" if folder else "" for folder in trained.priors})

    return figures


def _figures(trained: Trained, models: Mapping[str, str]) -> Figures:
    sheets: dict[str, tuple[str, Any]] = {}
    for folder, model in models.items():
        if not _is_conditional(trained.runs[folder]):
            count = _SHOWN_DRAWS if len(models) == 1 else _BESIDE_DRAWS
            sheets["_".join(filter(None, ("priors", folder)))] = _free_sheet(trained, folder, model, count)
    if not trained.priors or not trained.data.attributes:
        return sheets
    folder = next(iter(trained.priors))
    run, key = trained.runs[folder], jax.random.key(trained.config.seed)
    texts = cross_modal.distinct_rows(trained.data.validation.having("attributes")["attributes"])[:_SHOWN]
    rows, decode = np.repeat(texts, _SHOWN_DRAWS, axis=0), _decoder(run)
    sentences = _sentences(texts, trained.data.attributes)
    for name, drawing in drawings(trained, folder).items():
        if drawing.of_captions or _is_conditional(run):
            pictures = decode(drawing.draw(key, rows), rows)
            sheet = to_bytes(pictures).reshape(len(texts), _SHOWN_DRAWS, *pictures.shape[1:])
            sheets[f"captions_{name.replace('flow_captions', 'flow')}"] = (
                f"{capitalized(PRIORS[name])}{models[folder]}: {_SHOWN_DRAWS} draws of each; they should agree in "
                "what the caption says, and differ in all else",
                grids.text_to_image(sentences, sheet),
            )
    return sheets


def _sentences(rows: np.ndarray, names: Sequence[str]) -> list[str]:
    """A caption for each row of attributes, or the names of what is there where no sentence can say them."""
    try:
        captions.check_names(names)
    except ValueError:
        there = ([name for name, value in zip(names, row, strict=True) if value] for row in rows)
        return [textwrap.shorten(", ".join(having) or "nothing", 100, placeholder=", ...") for having in there]
    return [captions.write(row, names) for row in rows]


def _free_sheet(trained: Trained, folder: str, model: str, count: int) -> tuple[str, Any]:
    """So many draws of each prior that minds no caption, in a row each."""
    run, key = trained.runs[folder], jax.random.key(trained.config.seed)
    rows, decode = np.zeros((count, len(trained.data.attributes)), np.float32), _decoder(run)
    drawn = {PRIORS["prior"]: to_bytes(_of_own_prior(run, key, rows))} if run.model.sample else {}
    for name, drawing in drawings(trained, folder).items():
        if not drawing.of_captions:
            drawn[PRIORS[name]] = to_bytes(decode(drawing.draw(key, rows), rows))
    text = f"Draws of each prior{model}, without a caption: each image should be whole, and differ from the others"
    return text, grids.comparison(drawn, columns=count)


def explain(trained: Trained, rows: Any) -> str:
    """How samples were measured, in words."""
    if not trained.config.prior.epochs:
        return ""
    if not rows:
        return "Not measured: there is no attribute classifier, or no learned prior (classifier.epochs, prior.epochs)."
    held_out = trained.data.validation.having("image", "attributes").first(_MOST_HELD_OUT)
    conditional = (
        "The decoder is told the captions, whoever draws the codes. "
        if any(_is_conditional(trained.runs[folder]) for folder in trained.priors)
        else ""
    )
    return (
        f"In the last hidden layer of a classifier of the training images ({trained.classifier}), against "
        f"{len(held_out)} held-out images; precision and recall of as many samples as these. Captions "
        f"are those of the held-out images. {conditional}Diversity is the distance between draws of one caption, root "
        f"mean square over pairs and over {_CAPTIONS} captions at most, divided by that between training images of the "
        "same captions. The mixture has full covariances, and like the learned prior the codes of the training images "
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


_LABEL = "codes from"


def by_model(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """What `measure` returned by the folders of the models, "" for that of the workdir itself."""
    return {"": result} if result.keys() & PRIORS.keys() else result


def measure_of(title_of: Callable[[str], str] = plain) -> Measure:
    """The measure of an experiment.

    Args:
        title_of: folder of a model -> its name for people, see `Experiment.title_of`.
    """

    def named(row: Mapping[str, float]) -> dict[str, float]:
        return {WORDS[key]: value for key, value in row.items()}

    def parts(trained: Trained, result: Mapping[str, Any]) -> list[Part | str]:
        found = by_model(result)
        return [
            report.table(
                [{_LABEL: PRIORS[name], **named(row)} for name, row in rows.items()],
                title_of(folder) if len(found) > 1 else "",
            )
            for folder, rows in found.items()
        ]

    def lines(trained: Trained, result: Mapping[str, Any]) -> list[str]:
        return [
            f"{' '.join(filter(None, (folder, name)))}: "
            + ", ".join(f"{word} {value:.4g}" for word, value in named(row).items())
            for folder, rows in by_model(result).items()
            for name, row in rows.items()
        ]

    return Measure(
        "priors",
        measure,
        title="Drawing codes: the prior, and learned ones",
        reading="Lower Frechet distances are closer to held-out images. Accuracy says whether draws show what the "
        "caption says, diversity whether they differ in the rest: a good prior has both.",
        text=explain,
        figures=("priors", "priors_*", "captions_*"),
        words={**WORDS, **PRIORS},
        label=_LABEL,
        parts=parts,
        lines=lines,
    )
