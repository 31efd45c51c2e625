"""Scores of one trained model of several modalities, whichever of them are faces with attributes or views of digits.

A model comes as `Modalities`, functions of values by name, so that Kim's model of image and text has them too.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, images, random, runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.data.rendered.faces import POSE_UNIT
from mvae_jax.data.views import VIEWS
from mvae_jax.eval import consistency, cross_modal, fid, multimodal, probes
from mvae_jax.eval.batched import in_chunks
from mvae_jax.experiment import classifier as classifiers
from mvae_jax.experiment.classifier import Classifier
from mvae_jax.experiment.declaration import Trained, check_least
from mvae_jax.experiment.prior import GUIDANCE, Prior
from mvae_jax.experiment.suites.multimodal_scores import least_changes
from mvae_jax.models import multimodal as kim
from mvae_jax.objective import Posterior

KIM = "multimodal"  # its name in the zoo
UNIMODAL = "unimodal"  # VAEs that nothing aligns, of which that of images has a flow
IMAGE, ATTRIBUTES, POSE = "image", "attributes", "pose"
_CHUNK = 250  # examples at a time
_CLASSES = 10  # of digits

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the trained models are scored.

    Attributes:
        images: held-out examples that are measured on, at most.
        likelihood_images: of these, how many have their likelihoods estimated, at most.
        likelihood_samples: importance samples of each posterior.
        probed: training examples from which the linear probe learns, at most.
    """

    images: int = 2000
    likelihood_images: int = 500
    likelihood_samples: int = 100
    probed: int = 5000

    def __post_init__(self) -> None:
        check_least(self, images=4, likelihood_images=1, likelihood_samples=1, probed=2)


# --- a model as functions -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Modalities:
    """A trained model as functions of any of its modalities, by name; images are in [-1, 1].

    Attributes:
        names: of the modalities, "image" first.
        encode: values of some, [B, ...] -> mean and log variance, each [B, D].
        draw: a key and such values -> one code for each example, [B, D].
        decode: name -> codes [B, D] -> values.
        shared: a posterior -> the dimensions of it that all modalities share.
        code_size: D.
        log_likelihood: values and codes -> {name: [B]}; None of a model that has no likelihood.
        draw_freely: a key and a number -> as many codes given nothing; None for those of N(0, I).
    """

    names: tuple[str, ...]
    encode: Callable[[Values], Posterior]
    draw: Callable[[jax.Array, Values], jax.Array]
    decode: Mapping[str, Callable[[Any], jax.Array]]
    shared: Callable[[Any], Posterior]
    code_size: int
    log_likelihood: Callable[[Values, jax.Array], Mapping[str, jax.Array]] | None = None
    draw_freely: Callable[[jax.Array, int], jax.Array] | None = None

    @classmethod
    def of(cls, run: runs.Run, learned: Prior | None = None) -> Modalities:
        """The functions of a run of a model of `models.multimodal_vaes`, or of Kim's; with a learned prior, by that."""
        if learned:
            return _by_flow(run, learned)
        if isinstance(run.config, kim.Config):
            return _kim(run)
        names = run.config.names
        decode = {name: getattr(run, f"decode_{name}") for name in names}
        shapes = {modality.name: modality.shape for modality in run.config.modalities}

        def masked(values: Values) -> tuple[Values, Values]:
            """All modalities with masks: one compiled program serves every set of them."""
            count = len(next(iter(values.values())))
            whole = {name: values[name] if name in values else jnp.zeros((count, *shapes[name])) for name in names}
            return whole, {name: jnp.full(count, float(name in values)) for name in names}

        def encode(values: Values) -> Posterior:
            return run.encode_subset(*masked(values))

        def draw(key: jax.Array, values: Values) -> jax.Array:
            return run.draw_subset(key, *masked(values))

        sizes: dict[str, Any] = {"code_size": run.config.code_size, "log_likelihood": run.log_likelihood}
        return cls(names, encode, draw, decode, run.shared, **sizes)

    @property
    def others(self) -> tuple[str, ...]:
        """All modalities but the image."""
        return tuple(name for name in self.names if name != IMAGE)

    def codes(self, key: jax.Array, values: Values, count: int) -> np.ndarray:
        """One code for each of `count` examples given some of their values, or from the prior given none; [N, D]."""
        if not values:
            free = self.draw_freely or (lambda key, count: random.standard_normal(key, (count, self.code_size)))
            return np.asarray(free(key, count))
        parts = [
            self.draw(jax.random.fold_in(key, start), rows(values, start, _CHUNK)) for start in range(0, count, _CHUNK)
        ]
        return np.concatenate([np.asarray(part) for part in parts])

    def means(self, values: Values) -> Posterior:
        """Posteriors of all examples given some of their values, each [N, D]; on the host."""
        names = tuple(values)
        encode = in_chunks(lambda *parts: self.encode(dict(zip(names, parts, strict=True))), _CHUNK)
        return Posterior(*encode(*values.values()))


def _kim(run: runs.Run) -> Modalities:
    """Kim's model: the posterior of both modalities is the product of their posteriors and of the prior."""

    def encode(values: Values) -> Posterior:
        if set(values) == {IMAGE, ATTRIBUTES}:
            return run.fuse(values[IMAGE], values[ATTRIBUTES])
        ((name, value),) = values.items()
        return {IMAGE: run.encode_image, ATTRIBUTES: run.encode_attributes}[name](value)

    def draw(key: jax.Array, values: Values) -> jax.Array:
        mean, logvar = encode(values)
        assert logvar is not None
        return gaussian.sample(key, mean, logvar)

    decode = {IMAGE: run.decode_image, ATTRIBUTES: run.decode_attributes}
    return Modalities((IMAGE, ATTRIBUTES), encode, draw, decode, run.shared, run.config.latent_size)


def _by_flow(run: runs.Run, learned: Prior) -> Modalities:
    """A VAE of images, and a flow over its codes that knows the attributes: it draws by them and reads none."""

    def encode(values: Values) -> Posterior:
        return run.encode(values[IMAGE])

    def draw(key: jax.Array, values: Values) -> jax.Array:
        if IMAGE in values:
            mean, logvar = encode(values)
            assert logvar is not None
            return gaussian.sample(key, mean, logvar)
        attributes = values[ATTRIBUTES]
        return learned.sample(key, attributes, jnp.ones_like(attributes), guidance=GUIDANCE)

    return Modalities(
        (IMAGE, ATTRIBUTES),
        encode,
        draw,
        {IMAGE: run.decode},
        run.shared,
        run.config.code_size,
        draw_freely=learned.sample_freely,
    )


@functools.lru_cache(maxsize=4)
def complete(trained: Trained) -> Splits:
    """The examples of which the attributes are known, on which models are measured; all where all are."""
    return classifiers.described(trained.data)


def values_of(split: Split, names: Sequence[str]) -> dict[str, Any]:
    """The modalities of a split as models take them: images float in [-1, 1], others as they are."""
    found = {name: jnp.asarray(split[name]) for name in names}
    return {name: images.to_float(value) if value.dtype == jnp.uint8 else value for name, value in found.items()}


def rows(values: Values, start: int, count: int) -> dict[str, Any]:
    """Some examples of all values."""
    return {name: value[start : start + count] for name, value in values.items()}


# --- classifiers ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def readers(trained: Trained) -> dict[str, Classifier]:
    """What reads drawn images: of faces the run's attribute classifier, of digits a classifier of each view.

    Those of digits are attribute classifiers too, whose attributes are the ten classes. They lie in the run's folder
    `classifier`, each in a folder of its own, and are trained once. {} where none is wanted.
    """
    data, config = trained.data, trained.config
    if data.attributes:
        return {IMAGE: trained.classifier} if trained.classifier else {}
    settings, found = config.classifier, {}
    side = data.train[IMAGE].shape[1]
    if not settings.image_size and side & (side - 1):  # it halves images several times: 28 pixels are read as 32
        settings = dataclasses.replace(settings, image_size=max(16, 1 << side.bit_length()))
    for name in view_names(data):
        reader = classifiers.obtain(
            trained.workdir,
            _of_view(data, name),
            settings,
            seed=config.seed,
            interruption=trained.interruption,
        )
        if reader is not None:
            found[name] = reader
        trained.interruption.check()
    return found


def view_names(data: Splits) -> tuple[str, ...]:
    """The views of digits that the data have."""
    return tuple(name for name in VIEWS if name in data.train.arrays)


def _of_view(data: Splits, name: str) -> Splits:
    """The images of one view, with the classes as attributes."""

    def of(split: Split) -> Split:
        classes = np.eye(_CLASSES, dtype=np.float32)[split["label"]]
        return Split({IMAGE: split[name], ATTRIBUTES: classes})

    names = tuple(f"digit_{digit}" for digit in range(_CLASSES))
    provenance = {**data.provenance, "view": name}
    return Splits(of(data.train), of(data.validation), of(data.calibration), names, provenance)


# --- scores ---------------------------------------------------------------------------------------------------------


def scores(model: Modalities, trained: Trained) -> dict[str, float]:
    """All scores of a model, by keys of which `multimodal_family.word` has the words; what it cannot have is left out.

    Args:
        model: the model.
        trained: the experiment, for its data, its classifiers and its settings.
    """
    data, settings = complete(trained), trained.config.evaluation
    held_out, key = data.validation.first(settings.images), jax.random.key(trained.config.seed)
    values = values_of(held_out, model.names)
    found: dict[str, float] = {}
    if ATTRIBUTES in model.decode:
        found |= read_from_images(model, values, data.attributes)
    if not data.attributes:
        found |= coherences(model, values, held_out["label"], readers(trained), jax.random.fold_in(key, 0))
    trained.interruption.check()
    found |= drawn_images(model, values, data, readers(trained), jax.random.fold_in(key, 1))
    if ATTRIBUTES in model.decode:
        found |= pairs(model, data, held_out, trained.config.seed)
    trained.interruption.check()
    if model.log_likelihood:
        first = rows(values, 0, settings.likelihood_images)
        found |= likelihoods(model, first, jax.random.fold_in(key, 2), settings.likelihood_samples)
    return found | {"probe": probe(model, data, held_out, settings.probed)}


def read_from_images(model: Modalities, values: Values, names: Sequence[str]) -> dict[str, float]:
    """Attributes, and the pose where the model has it, in degrees, decoded at the mean of the image's posterior."""
    mean, _ = model.means({IMAGE: values[IMAGE]})
    logits = np.asarray(in_chunks(model.decode[ATTRIBUTES])(mean))
    found = {"image_to_text": cross_modal.score_attributes(logits, values[ATTRIBUTES], names).accuracy}
    if POSE in model.names:
        error = np.asarray(in_chunks(model.decode[POSE])(mean)) - np.asarray(values[POSE])
        found["pose_error"] = float(POSE_UNIT * np.abs(error).mean())
    return found


def pairs(model: Modalities, data: Splits, held_out: Split, seed: int) -> dict[str, float]:
    """Kim's benchmark by the model's own score, the divergence of its two posteriors of the shared dimensions.

    "consistency_blind" is the accuracy of the best rule that never sees the image, of the same pairs.
    """

    def split(examples: Split) -> tuple[Any, np.ndarray]:
        return values_of(examples, [IMAGE])[IMAGE], examples[ATTRIBUTES]

    def posterior(name: str, values: Any) -> Any:
        return model.shared(model.means({name: jnp.asarray(values)}))

    result = consistency.benchmark(
        functools.partial(posterior, IMAGE),
        functools.partial(posterior, ATTRIBUTES),
        split(data.calibration),
        split(held_out),
        data.attributes,
        seed=seed,
        minimum_changes=least_changes(data.attributes),
        curations=1,
    ).result
    return {
        "consistency_accuracy": result.rates.accuracy,
        "consistency_f1": result.rates.f1,
        "consistency_auroc": result.auroc,
        "consistency_blind": result.blind_accuracy,
    }


def coherences(
    model: Modalities, values: Values, labels: np.ndarray, read: Mapping[str, Classifier], key: jax.Array
) -> dict[str, float]:
    """Coherence of views drawn from 1, 2, ... other views, means over all sets of that many, and of the prior's draws.

    {} without classifiers.
    """
    if not read:
        return {}
    found = multimodal.coherence(
        model.draw,
        model.decode,
        {name: functools.partial(_class, reader) for name, reader in read.items()},
        values,
        labels,
        model.codes(jax.random.fold_in(key, 1), {}, len(labels)),
        key,
        batch_size=_CHUNK,
    )
    by_count = {f"coherence_given_{count}": rate for count, rate in found.by_count().items()}
    return {**by_count, "coherence_joint": found.joint, "coherence_classes": found.joint_classes}


def _class(reader: Classifier, pictures: Any) -> jax.Array:
    return reader.logits(pictures).argmax(axis=1)


def given_sets(model: Modalities) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What an image may be drawn from: key of the distance -> names; the image itself comes last."""
    for size in range(len(model.others) + 1):
        for names in itertools.combinations(model.others, size):
            yield f"frechet_given_{size}", names
    yield "frechet_given_image", (IMAGE,)


def drawn_images(
    model: Modalities, values: Values, data: Splits, read: Mapping[str, Classifier], key: jax.Array
) -> dict[str, float]:
    """Frechet distances of images that are drawn given some modalities, and attributes of those drawn from attributes.

    Distances are between held-out images and as many that are drawn, one given each of them; "frechet_given_1" is the
    mean over all other modalities, one at a time. {} without a classifier, in whose features they are taken.
    """
    if IMAGE not in read:
        return {}
    reader = read[IMAGE]
    features, count = in_chunks(reader.features), len(values[IMAGE])
    real = features(values[IMAGE])
    distances: dict[str, list[float]] = {}
    found = {}
    for number, (name, given) in enumerate(given_sets(model)):
        known = {each: values[each] for each in given}
        codes = model.codes(jax.random.fold_in(key, number), known, count)
        pictures = in_chunks(model.decode[IMAGE])(codes)
        distance = fid.frechet_distance(features(pictures), real, features=reader.origin, split="held-out images")
        distances.setdefault(name, []).append(distance.value)
        if given == (ATTRIBUTES,):
            logits = in_chunks(reader.logits)(pictures)
            agreement = cross_modal.score_attributes(logits, values[ATTRIBUTES], data.attributes)
            found["text_to_image"] = agreement.accuracy
    return found | {name: float(np.mean(each)) for name, each in distances.items()}


def likelihoods(model: Modalities, values: Values, key: jax.Array, samples: int) -> dict[str, float]:
    """Log-likelihoods in nats, means over examples: of all modalities, of the image given the others, and of these.

    The conditional ones are differences of two bounds, see `eval.multimodal.subset_log_likelihood`.
    """
    assert model.log_likelihood
    encode: Any = model.encode
    bounds = (
        multimodal.subset_log_likelihood(encode, model.log_likelihood, values, key, of=names, samples=samples)
        for names in (model.names, model.others, (IMAGE,))
    )
    everything, others, image = (float(bound.mean(dtype=np.float64)) for bound in bounds)
    return {"log_joint": everything, "log_image": everything - others, "log_others": everything - image}


def probe(model: Modalities, data: Splits, held_out: Split, most: int) -> float:
    """Accuracy of a linear probe of the shared dimensions given the image alone.

    Of attributes it is the balanced accuracy of Fisher's discriminant, .5 for guessing, of digits the accuracy of a
    linear SVM. It learns from complete training examples, whatever was hidden of the model.
    """
    known = data.train.first(most)
    train, test = (np.asarray(model.shared(model.means(values_of(split, [IMAGE])))[0]) for split in (known, held_out))
    if not data.attributes:
        return probes.linear_svm_accuracy(train, known["label"], test, held_out["label"], standardise=True).accuracy
    read = probes.linear_discriminant(train, known[ATTRIBUTES], test)
    scored = cross_modal.score_attributes(read, held_out[ATTRIBUTES], data.attributes).attributes
    shares = [score.balanced_accuracy for score in scored if score.balanced_accuracy is not None]
    return float(np.mean(shares)) if shares else 0.5


def references(trained: Trained) -> dict[str, dict[str, float]]:
    """What the scores are to be compared with: name -> key of a score -> value."""
    data, read = complete(trained), readers(trained)
    held_out = data.validation.first(trained.config.evaluation.images)
    found: dict[str, dict[str, float]] = {}
    if data.attributes:
        shares = held_out[ATTRIBUTES].mean(axis=0)
        majority = float(np.maximum(shares, 1 - shares).mean())
        found["always the more frequent answer"] = {"image_to_text": majority, "text_to_image": majority}
        found["guessing"] = {"probe": 0.5}
        if IMAGE in read:
            found["held-out images themselves"] = {"text_to_image": read[IMAGE].held_out.accuracy}
        if POSE in held_out.arrays:
            error = float(POSE_UNIT * np.abs(held_out[POSE] - data.train[POSE].mean(axis=0)).mean())
            found["always the mean pose"] = {"pose_error": error}
    else:
        counts = [f"coherence_given_{count}" for count in range(1, len(view_names(data)))]
        frequent = float(np.bincount(held_out["label"]).max() / len(held_out))
        found["always the most frequent digit"] = dict.fromkeys([*counts, "probe"], frequent)
        if read:
            real = [reads_right(reader, held_out, name).mean() for name, reader in read.items()]
            found["held-out views themselves"] = dict.fromkeys(counts, float(np.mean(real)))
    if IMAGE in read:
        reader, count = read[IMAGE], min(len(data.train), len(held_out))
        features = in_chunks(lambda x: reader.features(images.to_float(x)))
        real, others = features(held_out[IMAGE]), features(data.train.first(count)[IMAGE])
        distance = fid.frechet_distance(others, real, features=reader.origin, split="training images").value
        found["training images"] = {"frechet_given_0": distance}
    return found


def reads_right(reader: Classifier, held_out: Split, name: str) -> np.ndarray:
    """Of which real examples of a view the classifier reads the digit, bool [N]."""
    read = in_chunks(lambda x: _class(reader, images.to_float(x)))(held_out[name])
    return np.asarray(read == held_out["label"])
