"""What is measured and drawn of a trained StyleALAE, for `stylealae.py`."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import training
from judge import Judge
from training import to_bytes

from mvae_jax import gaussian, runs
from mvae_jax.data.batches import Splits
from mvae_jax.eval import attributes, fid, perceptual_path, reconstruction
from mvae_jax.eval.features import Features
from mvae_jax.eval.kernel_distance import kernel_distance
from mvae_jax.eval.manifold import precision_and_recall
from mvae_jax.images import to_float
from mvae_jax.models import style_alae
from mvae_jax.models.style_alae import layered, shrunk
from mvae_jax.viz import curves, grids, traversals

STYLES = {"coarse": (0, 4), "middle": (4, 8), "fine": (8, None)}  # layers of the generator
LEAST = 16  # held-out images, of which sheets show as many, and halves are compared
_SHOWN = 8
_MIXED = 4  # faces whose styles are mixed with one another
_EDITS = 9  # attributes of one sheet
_CHUNK_PIXELS = 2**22  # of the images that are in the networks at a time

Pictures = TypeVar("Pictures", jax.Array, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured and drawn.

    Attributes:
        images: held-out images, at most, and as many samples.
        judge_epochs: of the classifier in whose features they are compared.
        truncation: of the latents of the sheet of truncated samples; 1 for none.
        direction_images: samples, labelled by the classifier, that tell the directions of attributes.
        sliders: edits go from minus to plus this many standard deviations along a direction.
        path_pairs: pairs of latents of each perceptual path length.
        path_seeds: how often it is measured.
        path_crop: part of the images that is compared along paths: "face" for aligned faces, "celeba" for CelebA at 128
            px, or "" for all.
        inception: weights of the FID's Inception, a file, in whose features images are compared as well; "" for none.
        vgg: weights of VGG, a file, for perceptual distances; "" for features of the classifier instead.
        lpips: weights of LPIPS, a file, in addition to those of VGG-16.
    """

    images: int = 1000
    judge_epochs: int = 5
    truncation: float = 0.7
    direction_images: int = 5000
    sliders: float = 3.0
    path_pairs: int = 10_000
    path_seeds: int = 3
    path_crop: str = ""
    inception: str = ""
    vgg: str = ""
    lpips: str = ""

    def __post_init__(self) -> None:
        least_of = {"images": LEAST, "judge_epochs": 1, "direction_images": 2, "path_pairs": 2, "path_seeds": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(f"evaluation.{name} is {getattr(self, name)}; expected at least {least}.")
        if not 0 <= self.truncation <= 1:
            raise ValueError(f"evaluation.truncation is {self.truncation}; expected from 0 to 1.")
        if self.path_crop not in ("", *perceptual_path.CROPS):
            known = ", ".join(map(repr, perceptual_path.CROPS))
            raise ValueError(f"evaluation.path_crop is {self.path_crop!r}; expected {known} or ''.")
        if not self.vgg and (self.lpips or self.path_crop):
            raise ValueError(
                "evaluation.lpips and evaluation.path_crop go with VGG; give the file of its weights, evaluation.vgg."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class JudgeDistance:
    """Squared distance of two images in the last hidden layer of a classifier: for want of a perceptual one.

    Attributes:
        reader: the classifier.
    """

    reader: Judge
    name: str = "features of the attribute classifier, squared distance"
    sha256: tuple[str, ...] = ()

    def __call__(self, images_a: jax.Array, images_b: jax.Array) -> jax.Array:
        """Distances of images [B, H, W, C] and others, [B]."""
        features = self.reader.run.features
        return jnp.square(features(images_a) - features(images_b)).sum(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Measures:
    """What is measured of a trained model, at the resolution that it has reached.

    Attributes:
        run: the model.
        data: the images.
        reader: the classifier that reads attributes; None for images without.
        extractors: functions from images to the features in which sets of them are compared, and what these are.
        perceived: the distance of two images; None if there is none.
        settings: how much is measured.
        seed: of all draws.
    """

    run: runs.Run
    data: Splits
    reader: Judge | None
    extractors: Sequence[tuple[Callable[[Any], Any], Features]]
    perceived: perceptual_path.Distance | None
    settings: Settings
    seed: int

    # --- images ---

    @property
    def count(self) -> int:
        """How many held-out images and samples there are."""
        return min(self.settings.images, len(self.data.validation))

    @property
    def size(self) -> int:
        """Height and width of the model's images."""
        return size_of(self.run)

    def in_chunks(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function on as many examples at a time as have so many pixels."""
        return training.in_chunks(function, max(1, min(250, _CHUNK_PIXELS // self.size**2)))

    def keys(self, stream: int, count: int) -> jax.Array:
        """Keys of examples, [N]."""
        return gaussian.example_keys(jax.random.fold_in(jax.random.key(self.seed), stream), count)

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
        """The held-out images from their codes, with noise, as the paper measures them."""

        def again(x: jax.Array, keys: jax.Array) -> jax.Array:
            return jnp.clip(self.run.draw(layered(self.run.encode(x)[0], self.size), keys), -1, 1)

        return self.in_chunks(again)(self.held_out, self.keys(2, self.count))

    def sampled(self, run: runs.Run, count: int, truncation: float = 1.0) -> np.ndarray:
        """Samples of a stage of growth at its resolution; the same draws for all stages."""

        def drawn(z: jax.Array, keys: jax.Array) -> jax.Array:
            return jnp.clip(run.draw(run.truncate(layered(run.map(z), size_of(run)), truncation), keys), -1, 1)

        return self.in_chunks(drawn)(self.latents(self.keys(1, count)), self.keys(2, count))

    # --- numbers ---

    def how_compared(self) -> str:
        """What a report must say of the comparison of sets of images."""
        if not self.extractors:
            return (
                "Images without attributes have no classifier; the weights of Inception (evaluation.inception) would "
                "compare samples with them."
            )
        by = f"a classifier of the training images ({self.reader})" if self.reader else ""
        by += " and, where a column says so, by that of " * bool(by and self.extractors[1:])
        by += "Inception" * bool(self.extractors[1:] or not self.reader)
        return (
            f"Half of the samples, and the reconstructions of half of the held-out images, are compared with the other "
            f"{self.count // 2} held-out images by the last hidden layer of {by}. Frechet and kernel distances are the "
            "better the lower, precision and recall the higher. With so few images the Frechet distance is too large, "
            "and published ones are of 50,000 training images: the numbers compare only within this report."
        )

    @functools.cached_property
    def _features_of_others(self) -> list[Any]:
        """Features of the second half of the held-out images."""
        return [self._features(extract, self.held_out[self.count // 2 :]) for extract, _ in self.extractors]

    def _features(self, extract: Callable[[Any], Any], pictures: np.ndarray) -> Any:
        """Features at the full resolution, for which the classifier was trained."""
        full = self.run.config.image_size
        return self.in_chunks(lambda x: extract(enlarged(x, full)))(pictures)

    def compared(self, pictures: np.ndarray) -> dict[str, float]:
        """Distances of pictures, the first half of a set, from the second half of the held-out images."""
        found: dict[str, float] = {}
        for number, (extract, features) in enumerate(self.extractors):
            real, made = self._features_of_others[number], self._features(extract, pictures[: self.count // 2])
            told: dict[str, Any] = {"features": features, "split": "held-out images"}
            manifold, kernel = precision_and_recall(real, made, **told), kernel_distance(made, real, **told)
            name = ", Inception" if features.sha256 else ""
            found |= {
                f"Frechet distance{name}": fid.frechet_distance(made, real, **told).value,
                f"kernel distance{name}": kernel.value,
                f"standard error of kernel distance{name}": kernel.standard_error,
                f"precision{name}": manifold.precision,
                f"recall{name}": manifold.recall,
            }
        return found

    def of_reconstructions(self) -> dict[str, float]:
        """Numbers of the reconstructions, of which those of pairs are means over all held-out images."""
        found, pairs = self.compared(self.reconstructions), (self.held_out, self.reconstructions)
        measured: dict[str, Callable[..., Any]] = {
            "PSNR, dB": reconstruction.psnr,
            "squared error per value": lambda x, y: jnp.square((x - y) / 2).mean((1, 2, 3)),
        }
        if self.perceived:
            seen, full = self.perceived, self.run.config.image_size
            measured[seen.name] = lambda x, y: seen(enlarged(x, full), enlarged(y, full))
        if self.size >= 11:  # pixels of its window
            measured["SSIM"] = jax.jit(reconstruction.ssim)
        return found | {name: float(self.in_chunks(each)(*pairs).mean()) for name, each in measured.items()}

    def of_stage(self, stage: runs.Run, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Numbers of the model at the end of a phase."""
        phase = next(phase for phase in style_alae.phases(stage.config, 1) if phase.name == stage.phase)
        speeds = [line for line in records if line["split"] == "speed" and line["phase"] == stage.phase]
        row: dict[str, Any] = {
            "phase": stage.phase,
            "step of the run": stage.step,
            "batch": phase.batch_size,
            "images/s": round(speeds[-1]["images_per_second"], 1) if speeds else None,
        }
        if self.extractors:
            (extract, features), *_ = self.extractors
            pictures = self.samples if stage is self.run else self.sampled(stage, self.count)
            made = self._features(extract, pictures[: self.count // 2])
            row["Frechet distance of samples"] = fid.frechet_distance(
                made, self._features_of_others[0], features=features, split="held-out images"
            ).value
        return row

    def path_lengths(self) -> list[dict[str, Any]]:
        """Perceptual path lengths in Z and in W, over the whole path and at its ends."""
        if self.perceived is None:
            return []
        # The effect of a step is smaller than bfloat16's rounding.
        exact = style_alae.build(dataclasses.replace(self.run.config, compute_dtype="float32"))
        run = dataclasses.replace(self.run, model=exact)

        def draw(w: jax.Array, keys: jax.Array) -> jax.Array:
            return enlarged(run.draw(layered(w, self.size), keys), run.config.image_size)

        spaces = {
            "Z": ("slerp", lambda z, keys: draw(run.map(z), keys), self.latents),
            "W": ("lerp", draw, lambda keys: run.map(self.latents(keys))),
        }
        rows = []
        for (name, (space, drawn, sampled)), sampling in itertools.product(spaces.items(), perceptual_path.SAMPLINGS):
            lengths = [
                perceptual_path.perceptual_path_length(
                    drawn,
                    sampled,
                    self.perceived,
                    key=jax.random.fold_in(jax.random.key(self.seed), 100 + number),
                    space=space,
                    sampling=sampling,
                    pairs=self.settings.path_pairs,
                    crop=self.settings.path_crop or None,
                )
                for number in range(self.settings.path_seeds)
            ]
            values = [each.value for each in lengths]
            rows.append(
                {
                    "space": name,
                    "part": sampling,
                    "mean": float(np.mean(values)),
                    "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "standard error of one": lengths[0].standard_error,
                    "pairs": self.settings.path_pairs,
                    "distance": self.perceived.name,
                }
            )
        return rows

    def directions(self) -> dict[str, np.ndarray]:
        """Attribute -> direction in W, as long as the codes' standard deviation along it, from labelled samples."""
        if self.reader is None:
            return {}
        read, count, full = self.reader.run.logits, self.settings.direction_images, self.run.config.image_size

        def labels(w: jax.Array, keys: jax.Array) -> jax.Array:
            return read(enlarged(jnp.clip(self.run.draw(layered(w, self.size), keys), -1, 1), full)) > 0

        w = self.in_chunks(self.run.map)(self.latents(self.keys(3, count)))
        bits = self.in_chunks(labels)(w, self.keys(4, count))
        return attributes.svm_directions(w, bits, self.data.attributes)


def size_of(run: runs.Run) -> int:
    """Height and width of the images of a stage of growth."""
    return int(run.phase.split("_")[-1])


def enlarged(pictures: Pictures, size: int) -> Pictures:
    """Every pixel several times."""
    factor = size // pictures.shape[1]
    return pictures.repeat(factor, 1).repeat(factor, 2)


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(
    found: Measures,
    grown: Mapping[str, runs.Run],
    records: Sequence[Mapping[str, Any]],
    vectors: Mapping[str, np.ndarray],
) -> dict[str, tuple[str, Any]]:
    """The figures: {file name: (caption, picture)}."""
    run, settings = found.run, found.settings
    x, again, several = found.held_out[:LEAST], found.reconstructions[:LEAST], min(found.count, 5 * _SHOWN)
    growth = {
        name: to_bytes(enlarged(found.sampled(stage, _SHOWN), run.config.image_size)) for name, stage in grown.items()
    }
    drawn = {
        "samples": (
            "Samples from the prior, with noise",
            grids.grid(to_bytes(found.samples[:several]), columns=_SHOWN),
        ),
        "truncated": (
            f"The same samples with truncation {settings.truncation:g}",
            grids.grid(to_bytes(found.sampled(run, several, settings.truncation)), columns=_SHOWN),
        ),
        "reconstructions": (
            "Held-out images and what comes back from their codes, with noise (figure 4)",
            grids.comparison({"original": to_bytes(x), "reconstruction": to_bytes(again)}, columns=_SHOWN),
        ),
        "mixing": (
            "Held-out images above and at the left; in the rest, those at the left with styles of those above, without "
            "noise (figure 9)",
            traversals.sheet(mixed(run, x)),
        ),
        "interpolations": (
            "Between the codes of held-out images, without noise",
            traversals.sheet(interpolated(run, x)),
        ),
        "growth": ("The same latents at the end of each phase, with noise", grids.comparison(growth, columns=_SHOWN)),
        "game": (
            "The game",
            curves.losses(
                records,
                {
                    "Errors of the discriminator": ["discriminator/*_error"],
                    "What the discriminator knows": ["discriminator/*_accuracy"],
                    "R1": ["discriminator/r1"],
                    "Squared error in W": ["reciprocity/error", "latent_error"],
                    "Squared error of reconstructions": ["mean_squared_error"],
                },
            ),
        ),
    }
    if vectors:
        reach, w = settings.sliders, run.encode(x[:1])[0]
        strengths = np.linspace(-reach, reach, 7)
        rows = {
            name: to_bytes(attributes.edited(lambda w: decoded(run, w), w, vector, strengths)[:, 0])
            for name, vector in itertools.islice(vectors.items(), _EDITS)
        }
        drawn["edits"] = (
            f"A held-out image, moved from {-reach:g} to {reach:g} standard deviations along each direction, without "
            "noise",
            traversals.sheet(rows),
        )
    return drawn


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
        own = (layer >= first) & (layer < (end or len(layer)))
        if not own.any():
            continue
        for number in range(len(left)):
            w = jnp.where(own[None, :, None], sources, others[number][None])
            rows[f"{name} {number + 1}"] = to_bytes(jnp.concatenate([left[number : number + 1], run.decode(w)]))
    return rows


def interpolated(run: runs.Run, x: np.ndarray, steps: int = 7) -> dict[str, np.ndarray]:
    """Pairs of faces and what lies between their codes."""
    rows = {}
    for number in range(_MIXED):
        ends = run.encode(x[2 * number : 2 * number + 2])[0]
        between = gaussian.lerp(ends[:1], ends[1:], jnp.linspace(0.0, 1.0, steps)[:, None])
        faces = jnp.concatenate([x[2 * number][None], decoded(run, between), x[2 * number + 1][None]])
        rows[f"pair {number + 1}"] = to_bytes(faces)
    return rows
