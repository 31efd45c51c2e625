"""StyleALAE: samples and reconstructions over its growth, perceptual path lengths, styles mixed, and edits."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import gaussian, random, runs
from mvae_jax.data.batches import Split
from mvae_jax.eval import directions, fid, perceptual_path, reconstruction
from mvae_jax.eval.batched import in_chunks, pixels, to_bytes
from mvae_jax.eval.features import Features, inception_features
from mvae_jax.eval.kernel_distance import kernel_distance
from mvae_jax.eval.manifold import precision_and_recall
from mvae_jax.eval.stability import Stability, assess_stability
from mvae_jax.experiment import named
from mvae_jax.experiment.classifier import Classifier
from mvae_jax.experiment.declaration import Figures, Headline, Number, Results, Trained, check_least, plain
from mvae_jax.experiment.suites import latents, style_frechet
from mvae_jax.experiment.suites.style_frechet import prefix_of
from mvae_jax.images import to_float
from mvae_jax.models.alae import style as style_alae
from mvae_jax.models.alae.style import layered, shrunk
from mvae_jax.nets.lpips import load_perceptual_distance
from mvae_jax.objective import Phase
from mvae_jax.viz import curves, grids, report, traversals
from mvae_jax.viz.traversals import Strips

FOLDER = "style_alae"  # of the model, within the workdir
TITLE = "StyleALAE"
STYLES = {"coarse": (0, 4), "middle": (4, 8), "fine": (8, None)}  # layers of the generator
LEAST = 16  # held-out images, of which sheets show as many, and halves are compared
WORDS = {
    "frechet_distance": "Frechet distance",
    "classifier_accuracy": "accuracy of the classifier",
    "kernel_distance": "kernel distance",
    "standard_error_of_kernel_distance": "standard error of kernel distance",
    "inception_frechet_distance": "Frechet distance, Inception",
    "inception_kernel_distance": "kernel distance, Inception",
    "inception_standard_error_of_kernel_distance": "standard error of kernel distance, Inception",
    "inception_precision": "precision, Inception",
    "inception_recall": "recall, Inception",
    "psnr": "PSNR, dB",
    "squared_error": "squared error per value",
    "perceptual_distance": "perceptual distance",
    "ssim": "SSIM",
    # growth
    "step": "step of the run",
    "batch_size": "batch",
    "images_per_second": "images/s",
    "frechet_distance_of_samples": "Frechet distance of samples",
    **latents.PATHS,
    "standard_error": "standard error of one",
}
_SHOWN = 8
_STEPS = 7  # of an interpolation, and of an edit
_MIXED = 4  # faces whose styles are mixed with one another
_EDITS = 9  # attributes of one sheet
_CHUNK_PIXELS = 2**22  # of the images that are in the networks at a time
_SSIM_WINDOW = 11  # pixels

Pictures = TypeVar("Pictures", jax.Array, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How much is measured and drawn.

    Attributes:
        images: held-out images, at most, and as many samples: those of every measure without counts of its own.
        frechet: Frechet distances over as many images as published.
        truncation: of the latents of the sheet of truncated samples; 1 for none.
        direction_images: samples, labelled by the classifier, from which the directions of attributes are learned.
        sliders: edits go from minus to plus this many standard deviations along a direction.
        path_pairs: pairs of latents of each perceptual path length.
        path_seeds: how often it is measured.
        path_crop: part of the images that VGG compares along paths: "face" for aligned faces, "celeba" for CelebA at
            128 px, or "" for all (AL-14).
        inception: weights of the FID's Inception, a file, in whose features images are compared as well; "" for none.
        vgg: weights of VGG, a file, for perceptual distances; "" for features of the classifier instead.
        lpips: weights of LPIPS, a file, in addition to those of VGG-16.
    """

    images: int = 1000
    frechet: style_frechet.Protocol = style_frechet.Protocol()
    truncation: float = 0.7
    direction_images: int = 5000
    sliders: float = 3.0
    path_pairs: int = 10_000
    path_seeds: int = 3
    path_crop: str = ""
    inception: str = dataclasses.field(default="", metadata=named.WEIGHTS)
    vgg: str = dataclasses.field(default="", metadata=named.WEIGHTS)
    lpips: str = dataclasses.field(default="", metadata=named.WEIGHTS)

    def __post_init__(self) -> None:
        check_least(self, images=LEAST, direction_images=2, path_pairs=2, path_seeds=1)
        if not 0 <= self.truncation <= 1:
            raise ValueError(f"evaluation.truncation is {self.truncation}; expected from 0 to 1.")
        if self.path_crop not in ("", *perceptual_path.CROPS):
            known = ", ".join(map(repr, perceptual_path.CROPS))
            raise ValueError(f"evaluation.path_crop is {self.path_crop!r}; expected {known} or ''.")
        if self.lpips and not self.vgg:
            raise ValueError("evaluation.lpips goes with VGG; give the file of its weights, evaluation.vgg.")

    def perceptual_distance(self) -> perceptual_path.Distance | None:
        """The distance whose weights are named; None if none are. Raises as `load_perceptual_distance` does."""
        return load_perceptual_distance(self.vgg, self.lpips or None) if self.vgg else None

    def inception_features(self) -> tuple[Callable[[Any], Any], Features] | None:
        """The features whose weights are named; None if none are. Raises as `inception_features` does."""
        return inception_features(self.inception) if self.inception else None


def title_of(folder: str) -> str:
    """The name of a model for people, by its folder."""
    return TITLE if folder == FOLDER else plain(folder)


def check(data: Any, settings: Evaluation, image_size: int) -> None:
    """Refuses what cannot be measured, before anything is trained.

    Args:
        data: the images.
        settings: how they are measured.
        image_size: largest height and width of the model's images.

    Raises:
        ValueError: there are fewer images than are compared.
    """
    if len(data.validation) < LEAST:
        raise ValueError(f"there are {len(data.validation)} held-out images; expected at least {LEAST}.")
    style_frechet.check(data, settings.frechet, image_size)


def check_files(settings: Evaluation, image_size: int) -> None:
    """Refuses files of weights with which such images cannot be compared, before any image is read.

    Args:
        settings: which files.
        image_size: as for `check`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is of another network, or images are too small for the network that compares them.
    """
    settings.inception_features()
    distance = settings.perceptual_distance()
    if distance is None:
        return

    def compared(x: jax.Array) -> jax.Array:
        part = perceptual_path.comparable(x, settings.path_crop or None)
        return distance(part, part) + distance(x, x)

    jax.eval_shape(compared, jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32))  # by shapes alone


def notes(settings: Evaluation) -> tuple[str, ...]:
    """What is not measured for want of a file, a sentence each."""
    cropped = "No perceptual path length is measured: its crop needs the weights of VGG, evaluation.vgg."
    return (
        *style_frechet.notes(settings.frechet, settings.inception),
        *((cropped,) if settings.path_crop and not settings.vgg else ()),
    )


def sheet(run: runs.Run, examples: Split, phase: Phase) -> dict[str, Any]:
    """Held-out images at a phase's resolution, their reconstructions, and samples of the same latents each time."""
    size = run.config.sizes[phase.options["level"]]
    x = shrunk(pixels(examples), size)
    reconstructed = run.decode(layered(run.encode(x)[0], size))
    z = random.standard_normal(jax.random.key(0), (len(x), run.config.latent_size))
    samples = run.decode(layered(run.map(z), size))
    return {
        "held-out images": x,
        **{
            row: jnp.clip(pictures, -1, 1)
            for row, pictures in (("reconstructions", reconstructed), ("samples", samples))
        },
    }


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierDistance:
    """Squared distance of two images in the last hidden layer of a classifier: for want of a perceptual one.

    Attributes:
        classifier: of images.
    """

    classifier: Classifier
    name: str = "features of the attribute classifier, squared distance"
    sha256: tuple[str, ...] = ()

    def __call__(self, images_a: jax.Array, images_b: jax.Array) -> jax.Array:
        """Distances of images [B, H, W, C] and others, [B]."""
        features = self.classifier.features
        return jnp.square(features(images_a) - features(images_b)).sum(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """A trained model at the resolution that it has reached, with all that it is measured with.

    Attributes:
        run: the model.
        data: the images.
        classifier: reads attributes from images; None where there is none.
        extractors: functions from images to the features in which sets of them are compared, and what these are.
        perceived: the distance of two images; None if there is none.
        settings: how much is measured.
        seed: of all draws.
    """

    run: runs.Run
    data: Any
    classifier: Classifier | None
    extractors: Sequence[tuple[Callable[[Any], Any], Features]]
    perceived: perceptual_path.Distance | None
    settings: Evaluation
    seed: int

    @classmethod
    def of(cls, trained: Trained) -> Evaluator:
        """The evaluator of the model of an experiment; loads the networks that compare its images."""
        settings, classifier = trained.config.evaluation, trained.classifier
        inception, distance = settings.inception_features(), settings.perceptual_distance()
        extractors = [(classifier.features, classifier.origin)] if classifier else []
        return cls(
            trained.run,
            trained.data,
            classifier,
            [*extractors, *([inception] if inception else [])],
            distance or (ClassifierDistance(classifier) if classifier else None),
            settings,
            trained.config.seed,
        )

    # --- images ---

    @property
    def count(self) -> int:
        """Number of held-out images, and of samples."""
        return min(self.settings.images, len(self.data.validation))

    @property
    def size(self) -> int:
        """Height and width of the model's images."""
        return size_of(self.run)

    @property
    def chunk(self) -> int:
        """Images that are in the networks at a time."""
        return max(1, min(250, _CHUNK_PIXELS // self.size**2))

    def in_chunks(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function on so many examples at a time."""
        return in_chunks(function, self.chunk)

    def keys(self, stream: int, count: int) -> jax.Array:
        """Keys of examples, [N]."""
        return random.example_keys(jax.random.fold_in(jax.random.key(self.seed), stream), count)

    def latents(self, keys: jax.Array) -> jax.Array:
        """Draws from the prior, [N, D]."""
        return jax.vmap(lambda key: jax.random.normal(key, (self.run.config.latent_size,)))(keys)

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """Held-out images, [N, S, S, C] in [-1, 1]."""
        images = self.data.validation.first(self.count)["image"]
        return self.in_chunks(lambda x: shrunk(to_float(x), self.size))(images)

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """As many from the prior; not truncated, not mixed, with noise."""
        return self.sampled(self.run, self.count)

    @functools.cached_property
    def reconstructions(self) -> np.ndarray:
        """The held-out images from their codes."""
        return self.in_chunks(self.reconstructed)(self.held_out, self.keys(2, self.count))

    def reconstructed(self, x: jax.Array, keys: jax.Array) -> jax.Array:
        """Images [B, S, S, C] from their codes, with noise, as the paper measures them."""
        return jnp.clip(self.run.draw(layered(self.run.encode(x)[0], self.size), keys), -1, 1)

    def sampled(self, run: runs.Run, count: int, truncation: float = 1.0) -> np.ndarray:
        """Samples of a stage of growth at its resolution; the same draws for all stages."""

        def draw(z: jax.Array, keys: jax.Array) -> jax.Array:
            return jnp.clip(run.draw(run.truncate(layered(run.map(z), size_of(run)), truncation), keys), -1, 1)

        return self.in_chunks(draw)(self.latents(self.keys(1, count)), self.keys(2, count))

    # --- numbers ---

    @functools.cached_property
    def _features_of_others(self) -> list[Any]:
        """Features of the second half of the held-out images."""
        return [self.features(extract, self.held_out[self.count // 2 :]) for extract, _ in self.extractors]

    def features(self, extract: Callable[[Any], Any], pictures: Any) -> Any:
        """Features [N, F] of pictures [N, S, S, C] at the full resolution, for which the classifier was trained."""
        full = self.run.config.image_size
        return self.in_chunks(lambda x: extract(enlarged(x, full)))(pictures)

    def compared(self, pictures: np.ndarray) -> dict[str, float]:
        """Distances of pictures, the first half of a set, from the second half of the held-out images."""
        numbers: dict[str, float] = {}
        for (extract, features), real in zip(self.extractors, self._features_of_others, strict=True):
            generated = self.features(extract, pictures[: self.count // 2])
            origin: dict[str, Any] = {"features": features, "split": "held-out images"}
            manifold = precision_and_recall(real, generated, **origin)
            kernel = kernel_distance(generated, real, **origin)
            prefix = prefix_of(features)
            if self._compares_few(features):
                numbers[f"{prefix}frechet_distance"] = fid.frechet_distance(generated, real, **origin).value
            numbers |= {
                f"{prefix}kernel_distance": kernel.value,
                f"{prefix}standard_error_of_kernel_distance": kernel.standard_error,
                f"{prefix}precision": manifold.precision,
                f"{prefix}recall": manifold.recall,
            }
            if features.accuracy is not None:
                numbers["classifier_accuracy"] = features.accuracy
        return numbers

    def _compares_few(self, features: Features) -> bool:
        """Whether these features serve for Frechet distances of half of the images, where more are not measured."""
        return not (features.sha256 and self.settings.frechet.samples)

    @property
    def problems(self) -> tuple[str, ...]:
        """Sets that are too small for the features in which they are compared, a sentence each."""
        pairs = zip(self.extractors, self._features_of_others, strict=True)
        sizes = {values.shape[1] for (_, origin), values in pairs if self._compares_few(origin)}
        return tuple(problem for size in sorted(sizes) for problem in fid.too_few(self.count // 2, size))

    def of_reconstructions(self) -> dict[str, float]:
        """Numbers of the reconstructions, of which those of pairs are means over all held-out images."""
        pairs = (self.held_out, self.reconstructions)
        errors: dict[str, Callable[..., Any]] = {
            "psnr": reconstruction.psnr,
            "squared_error": lambda x, y: jnp.square((x - y) / 2).mean((1, 2, 3)),
        }
        if self.perceived:
            distance, full = self.perceived, self.run.config.image_size
            errors["perceptual_distance"] = lambda x, y: distance(enlarged(x, full), enlarged(y, full))
        if self.size >= _SSIM_WINDOW:
            errors["ssim"] = jax.jit(reconstruction.ssim)
        means = {name: float(self.in_chunks(error)(*pairs).mean()) for name, error in errors.items()}
        return self.compared(self.reconstructions) | means

    def of_stage(self, stage: runs.Run, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Numbers of the model at the end of a phase."""
        phase = next(phase for phase in style_alae.phases(stage.config, 1) if phase.name == stage.phase)
        speeds = [line for line in records if line.get("split") == "speed" and line.get("phase") == stage.phase]
        row: dict[str, Any] = {
            "step": stage.step,
            "batch_size": phase.batch_size,
            "images_per_second": round(speeds[-1]["images_per_second"], 1) if speeds else None,
        }
        if self.extractors:
            (extract, features), *_ = self.extractors
            if features.accuracy is not None:
                row["classifier_accuracy"] = features.accuracy
            if self._compares_few(features):
                pictures = self.samples if stage is self.run else self.sampled(stage, self.count)
                row["frechet_distance_of_samples"] = fid.frechet_distance(
                    self.features(extract, pictures[: self.count // 2]),
                    self._features_of_others[0],
                    features=features,
                    split="held-out images",
                ).value
        return row

    def path_lengths(self) -> dict[str, dict[str, Any]]:
        """Perceptual path lengths in Z and in W, over the whole path and at its ends; {} without a distance.

        Nor is there one for a crop without VGG: the classifier knows whole images alone.
        """
        if self.perceived is None or (self.settings.path_crop and isinstance(self.perceived, ClassifierDistance)):
            return {}
        # The effect of a step is smaller than bfloat16's rounding.
        exact = style_alae.build(dataclasses.replace(self.run.config, compute_dtype="float32"))
        run = dataclasses.replace(self.run, model=exact)

        def draw(w: jax.Array, keys: jax.Array) -> jax.Array:
            return enlarged(run.draw(layered(w, self.size), keys), run.config.image_size)

        lengths = [
            perceptual_path.lengths_of_both_spaces(
                draw,
                run.map,
                self.latents,
                self.perceived,
                key=jax.random.fold_in(jax.random.key(self.seed), 100 + number),
                pairs=self.settings.path_pairs,
                crop=self.settings.path_crop or None,
            )
            for number in range(self.settings.path_seeds)
        ]
        rows = {}
        for name, first in lengths[0].items():
            values = [of_seed[name].value for of_seed in lengths]
            rows[name] = {
                "mean": float(np.mean(values)),
                "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "standard_error": first.standard_error,
                "pairs": self.settings.path_pairs,
                "distance": self.perceived.name,
            }
        return rows

    def directions(self) -> dict[str, np.ndarray]:
        """Attribute -> direction in W, as long as the codes' standard deviation along it, from labelled samples."""
        if self.classifier is None:
            return {}
        read, count, full = self.classifier.logits, self.settings.direction_images, self.run.config.image_size

        def labels(w: jax.Array, keys: jax.Array) -> jax.Array:
            return read(enlarged(jnp.clip(self.run.draw(layered(w, self.size), keys), -1, 1), full)) > 0

        w = self.in_chunks(self.run.map)(self.latents(self.keys(3, count)))
        bits = self.in_chunks(labels)(w, self.keys(4, count))
        return directions.svm_directions(w, bits, self.data.attributes)


# All measures and figures of one model share its pictures and their features.
evaluator = functools.lru_cache(maxsize=1)(Evaluator.of)


def size_of(run: runs.Run) -> int:
    """Height and width of the images of a stage of growth."""
    return int(run.phase.split("_")[-1])


def enlarged(pictures: Pictures, size: int) -> Pictures:
    """Images in which every pixel is repeated, [B, size, size, C]."""
    factor = size // pictures.shape[1]
    return pictures.repeat(factor, 1).repeat(factor, 2)


# --- measures --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Quality:
    """Pictures beside held-out images.

    Attributes:
        images: number of held-out images, and of samples.
        features: those in which sets of images are compared.
        samples: numbers of the samples, by the keys of `WORDS`.
        reconstructions: likewise.
        perceptual_distance: name of the distance of two images; None without one.
        problems: sets that are too small for their features, a sentence each.
    """

    images: int
    features: tuple[Features, ...]
    samples: Mapping[str, float]
    reconstructions: Mapping[str, float]
    perceptual_distance: str | None
    problems: tuple[str, ...]


def quality(trained: Trained) -> Quality:
    """Samples and reconstructions beside held-out images."""
    measured = evaluator(trained)
    return Quality(
        measured.count,
        tuple(features for _, features in measured.extractors),
        measured.compared(measured.samples),
        measured.of_reconstructions(),
        measured.perceived.name if measured.perceived else None,
        measured.problems,
    )


def explain_quality(trained: Trained, result: Quality) -> str:
    """How samples and reconstructions were measured, in words."""
    text = (
        f"{result.images} held-out images, reconstructed from their codes, and as many samples from the prior, without "
        f"truncation or mixing, with noise. {_how_compared(trained.classifier, result)}"
    )
    return f"{text} The perceptual distance: {result.perceptual_distance}." if result.perceptual_distance else text


def _how_compared(classifier: Classifier | None, result: Quality) -> str:
    if not result.features:
        return (
            "Without a classifier of their attributes no sets of images are compared; the weights of Inception "
            "(evaluation.inception) would compare samples with them."
        )
    networks = f"a classifier of the training images ({classifier})" if classifier else "Inception"
    if classifier and result.features[1:]:
        networks += " and, where a column says so, by that of Inception"
    return (
        "Half of the samples, and the reconstructions of half of the held-out images, are compared with the other "
        f"{result.images // 2} held-out images by the last hidden layer of {networks}. Frechet and kernel distances "
        "are the better the lower, precision and recall the higher. With so few images the Frechet distance is too "
        "large, and published ones are of 50,000 training images: the numbers compare only within this report."
    )


def frechet_distances(trained: Trained) -> style_frechet.Distances:
    """Frechet distances by the published protocol."""
    return style_frechet.measure(evaluator(trained), trained.interruption.check)


def explain_frechet_distances(trained: Trained, result: style_frechet.Distances) -> str:
    """How they were measured, in words."""
    return style_frechet.explain(trained.config.evaluation.frechet, result)


def growth(trained: Trained) -> dict[str, dict[str, Any]]:
    """Numbers of the model at the end of each phase."""
    records = trained.records[FOLDER]
    return {phase: evaluator(trained).of_stage(stage, records) for phase, stage in trained.stages[FOLDER].items()}


def path_lengths(trained: Trained) -> dict[str, dict[str, Any]]:
    """Perceptual path lengths in Z and in W, over the whole path and at its ends; {} without a distance of images."""
    return evaluator(trained).path_lengths()


def explain_path_lengths(trained: Trained, rows: Mapping[str, Any]) -> str:
    """How path lengths were measured, in words."""
    if not rows:
        return "Without weights of VGG (evaluation.vgg) no perceptual path length is measured."
    return (
        f"Means and standard deviations of {trained.config.evaluation.path_seeds} measurements with other draws. "
        "Latents of Z are walked along arcs, those of W along lines: where W is the less entangled space, its paths "
        "are the shorter ones."
    )


def headline(trained: Trained, results: Results) -> Headline:
    """Likeness of reconstructions, distance of samples, and which of the two latent spaces is the smoother one."""
    quality, paths, size = results["quality"], results["path_lengths"], trained.run.config.image_size
    known = latents.mean_image_psnr(trained.data, size, min(1000, evaluator(trained).count))
    numbers = [
        Number(
            f"{quality.reconstructions['psnr']:.1f} dB",
            "is the likeness (PSNR) of reconstructed held-out images; higher is better",
            f"the mean training image for every image: {known:.1f} dB",
            quality.reconstructions["psnr"] > known,
        )
    ]
    distance = "frechet_distance" if "frechet_distance" in quality.samples else "inception_frechet_distance"
    if distance in quality.samples:
        first = results["growth"][next(iter(results["growth"]))].get("frechet_distance_of_samples")
        shown = report.written([quality.samples[distance], *([first] if first else [])])
        numbers.append(
            Number(
                shown[0],
                "is the Frechet distance of images that it makes up from held-out images; lower is better",
                f"at the end of the first phase of growth: {shown[1]}" if first else "",
                not first or quality.samples[distance] < first,
            )
        )
    if paths:
        ratio = paths["w_full"]["mean"] / paths["z_full"]["mean"]
        text = "is the length of paths in its intermediate space W, relative to those in Z: shorter is smoother"
        numbers.append(Number(f"{ratio:.2f}", text, "1, if the mapping from Z to W were of no use", ratio < 1))
    return Headline(numbers, "samples")


def stability(trained: Trained) -> Stability:
    """Signs of collapse."""
    measured = evaluator(trained)
    return assess_stability(measured.samples, measured.held_out, trained.records[FOLDER])


def problems(trained: Trained, results: Results) -> list[str]:
    """Signs of collapse, too few images to compare, and whether the model has come to its end, a sentence each."""
    run = trained.run
    unfinished = run.step < style_alae.phases(run.config, 1)[-1].end
    text = f"The model is still growing: it draws images of {size_of(run)} px, as if the newest size were blended in."
    measured = (results[name] for name in ("stability", "quality", "frechet_distances"))
    return [*([text] if unfinished else []), *(problem for result in measured for problem in result.problems)]


# --- figures ---------------------------------------------------------------------------------------------------------


def pictures(trained: Trained, results: Results) -> Figures:
    """Samples, reconstructions, styles mixed, interpolations, and samples of each stage of growth."""
    measured = evaluator(trained)
    run, settings = measured.run, measured.settings
    x, again = measured.held_out[:LEAST], measured.reconstructions[:LEAST]
    several = min(measured.count, 5 * _SHOWN)
    stages = {
        plain(name): to_bytes(enlarged(measured.sampled(stage, _SHOWN), run.config.image_size))
        for name, stage in trained.stages[FOLDER].items()
    }
    return {
        "samples": (
            "Images that the model makes up, which should look like those held out: samples from the prior, with noise",
            grids.grid(to_bytes(measured.samples[:several]), columns=_SHOWN),
        ),
        "truncated": (
            f"The same samples with truncation {settings.truncation:g}: nearer to the mean image, less varied, cleaner",
            grids.grid(to_bytes(measured.sampled(run, several, settings.truncation)), columns=_SHOWN),
        ),
        "reconstructions": (
            "Held-out images and what comes back from their codes, with noise (figure 4)",
            grids.comparison({"original": to_bytes(x), "reconstruction": to_bytes(again)}, columns=_SHOWN),
        ),
        "mixing": (
            "Held-out images above and at the left; in the rest, those at the left with styles of those above, without "
            "noise (figure 9). Coarse styles carry pose and shape, fine ones colours",
            traversals.sheet(mixed(run, x)),
        ),
        "interpolations": (
            "From one held-out image to another, between their codes, without noise",
            Strips(
                interpolated(run, x),
                ["original", *(f"{step / (_STEPS - 1):.0%}" for step in range(_STEPS)), "other original"],
            ),
        ),
        "growth": (
            "Growth: the same latents at the end of each phase, with noise",
            Strips(grown(stages), list(stages), len(stages) - 1, plays=True)
            if len(stages) > 1
            else grids.comparison(stages, columns=_SHOWN),
        ),
    }


def grown(stages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures of each latent from phase to phase, [V, S, S, C], from those of all latents by phase, [N, S, S, C]."""
    return {
        f"latent {number + 1}": np.stack(pictures) for number, pictures in enumerate(zip(*stages.values(), strict=True))
    }


def learning_curves(trained: Trained, results: Results) -> Figures:
    """Discriminator, and errors in W and of reconstructions, over training."""
    panels = {
        "Errors of the discriminator": ["discriminator/*_error"],
        "Accuracies of the discriminator": ["discriminator/*_accuracy"],
        "R1": ["discriminator/r1"],
        "Squared error in W": ["reciprocity/error", "latent_error"],
        "Squared error of reconstructions": ["mean_squared_error"],
    }
    caption = (
        "The players over training, from resolution to resolution: lines without dots are of training images, those "
        "with dots of held-out ones. A discriminator that is always right, or never, teaches nothing"
    )
    return {"players": (caption, curves.losses(trained.records[FOLDER], panels))}


def edits(trained: Trained, results: Results) -> Figures:
    """A held-out image, moved along the directions of attributes."""
    measured = evaluator(trained)
    vectors, reach = measured.directions(), measured.settings.sliders
    if not vectors:
        return {}
    caption = (
        f"A held-out image, moved from {-reach:g} to {reach:g} standard deviations along the direction of each "
        "attribute, without noise; 0 is its reconstruction"
    )
    shown = measured.held_out[latents.typical(measured.held_out)][None]
    rows = edited(measured.run, shown, vectors, reach)
    steps = latents.values_of(np.linspace(-reach, reach, _STEPS))
    return {"edits": (caption, Strips({plain(name): row for name, row in rows.items()}, steps, _STEPS - 1))}


def edited(
    run: runs.Run, x: np.ndarray, vectors: Mapping[str, np.ndarray], reach: float, steps: int = _STEPS
) -> dict[str, np.ndarray]:
    """An image moved along directions in W: direction -> uint8 [V, S, S, C].

    Args:
        run: the model.
        x: the image, [1, S, S, C] in [-1, 1].
        vectors: direction -> [D]; the first ones are taken.
        reach: the image goes from minus to plus this many of each.
        steps: V, pictures per direction.
    """
    w, strengths = run.encode(x)[0], np.linspace(-reach, reach, steps)
    return {
        name: to_bytes(directions.edited(lambda w: decoded(run, w), w, vector, strengths)[:, 0])
        for name, vector in itertools.islice(vectors.items(), _EDITS)
    }


def decoded(run: runs.Run, w: jax.Array) -> jax.Array:
    """Images of latents [B, D] at the resolution of a stage of growth."""
    return run.decode(layered(w, size_of(run)))


def mixed(run: runs.Run, x: np.ndarray) -> dict[str, np.ndarray]:
    """Faces with coarse, middle or fine styles of others: rows of pictures, first those that styles are taken from."""
    above, left = x[:_MIXED], x[_MIXED : 2 * _MIXED]
    sources, others = (layered(run.encode(faces)[0], x.shape[1]) for faces in (above, left))
    blank, layer = jnp.ones_like(above[:1]), jnp.arange(sources.shape[1])
    rows = {"styles of": to_bytes(jnp.concatenate([blank, above]))}
    for name, (first, end) in STYLES.items():
        taken = (layer >= first) & (layer < (end or len(layer)))
        if not taken.any():
            continue
        for number in range(len(left)):
            w = jnp.where(taken[None, :, None], sources, others[number][None])
            rows[f"{name} {number + 1}"] = to_bytes(jnp.concatenate([left[number : number + 1], run.decode(w)]))
    return rows


def interpolated(run: runs.Run, x: np.ndarray, steps: int = _STEPS) -> dict[str, np.ndarray]:
    """Pairs of faces and what lies between their codes."""
    rows = {}
    for number in range(_MIXED):
        ends = run.encode(x[2 * number : 2 * number + 2])[0]
        between = gaussian.lerp(ends[:1], ends[1:], jnp.linspace(0.0, 1.0, steps)[:, None])
        faces = jnp.concatenate([x[2 * number][None], decoded(run, between), x[2 * number + 1][None]])
        rows[f"pair {number + 1}"] = to_bytes(faces)
    return rows
