"""The multimodal VAE of faces and attribute captions (Kim, 2024).

    python experiments/celebahq_mvae.py
    python experiments/celebahq_mvae.py --preset=paper --config.data.source=CelebAMask-HQ.zip --workdir=runs/paper

Trains on rendered faces by default, or on CelebAMask-HQ, in three phases; then judges the model on held-out images
and writes figures and `report.html` into the workdir. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import launch
import numpy as np

from mvae_jax import gaussian, images, runs
from mvae_jax.data import captions, celebamask_hq, faces
from mvae_jax.data.batches import Batches, Split
from mvae_jax.eval import consistency, cross_modal, reconstruction
from mvae_jax.models import multimodal
from mvae_jax.nets.vgg import load_vgg
from mvae_jax.objective import Model, Phase
from mvae_jax.train import loop
from mvae_jax.train.devices import place
from mvae_jax.train.logging import MetricWriter, read_metrics
from mvae_jax.train.state import TrainState
from mvae_jax.viz import curves, grids, report

_log = logging.getLogger("celebahq_mvae")


# --- config --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images.

    Attributes:
        source: "rendered" draws faces; otherwise the path of CelebAMask-HQ, its folder or a zip.
        subset_size: images for training and validation together.
        validation_fraction: part of them that is only validated on.
        calibration_size: further images, from which the threshold of the consistency check is taken.
        minimum_attributes: CelebAMask-HQ: how many of the attributes an image must have (MM-10).
        seed: of the rendered faces, or of the choice of images.
        cache_folder: where decoded images are kept; "" for the user's cache folder.
    """

    source: str = "rendered"
    subset_size: int = 5000
    validation_fraction: float = 0.1
    calibration_size: int = 500
    minimum_attributes: int = 3
    seed: int = 42
    cache_folder: str = ""

    def __post_init__(self) -> None:
        if self.calibration_size < 1:
            raise ValueError(f"calibration_size is {self.calibration_size}; expected at least 1, for the threshold.")
        if not 1 <= round(self.subset_size * self.validation_fraction) < self.subset_size:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} of subset_size {self.subset_size}; expected to "
                "leave images for training and for validation."
            )
        if self.seed < 0:
            raise ValueError(f"data.seed is {self.seed}; expected at least 0.")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the initialisation, of every draw and of the order of the images.
        vgg_weights: file with VGG's weights for the perceptual term, torchvision's .pth or .safetensors; "" leaves
            the term off.
        data: the images.
        model: the model and its three phases.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    vgg_weights: str = ""
    data: DataConfig = DataConfig()
    model: multimodal.Config = multimodal.Config()
    training: loop.Settings = loop.Settings()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; expected a number from 0 to 2**32 - 1.")
        if not consistency.most_changes(self.model.attributes):
            raise ValueError(
                f"attributes are {self.model.attributes}; expected one that a mismatched caption can change, not only "
                f"{' and '.join(consistency.UNTOUCHED)}."
            )


def _laptop() -> Config:
    """Every kind of layer, loss and phase of the paper, at widths and lengths for two CPU cores."""
    paper = multimodal.Config()
    return Config(
        model=dataclasses.replace(
            paper,
            latent_size=128,
            encoder_widths=(32, 64, 64),
            decoder_widths=(96, 64, 32, 8),
            decoder_hidden=512,
            text_hidden=128,
            discriminator_widths=(16, 32, 64),
            learning_rate=3e-4,
            discriminator_learning_rate=3e-5,
            unimodal=dataclasses.replace(paper.unimodal, epochs=2),
            alignment=dataclasses.replace(paper.alignment, epochs=2),
            adversarial=dataclasses.replace(paper.adversarial, epochs=2),
        ),
    )


PRESETS = {"laptop": _laptop(), "paper": Config(), "reference": Config(model=multimodal.Config.reference())}


# --- data ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Data:
    """Three splits without common images, and where they came from."""

    train: Split
    validation: Split
    calibration: Split
    provenance: Mapping[str, Any]

    def sha256(self) -> str:
        """Of all images and attributes: a resumed run must see the same."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.calibration):
            for name in ("image", "attributes"):
                digest.update(split[name].tobytes())
        return digest.hexdigest()


def load_data(config: Config) -> Data:
    """Renders or reads the images."""
    data, model = config.data, config.model
    if data.source == "rendered":
        return _render(data, model)
    settings = celebamask_hq.Settings(
        image_size=model.image_size,
        attributes=model.attributes,
        minimum_attributes=data.minimum_attributes,
        subset_size=data.subset_size,
        validation_fraction=data.validation_fraction,
        calibration_size=data.calibration_size,
        seed=data.seed,
    )
    loaded = celebamask_hq.load(data.source, settings, cache_folder=data.cache_folder or None)
    return Data(loaded.train, loaded.validation, loaded.calibration, loaded.provenance)


def _render(data: DataConfig, model: multimodal.Config) -> Data:
    unknown = sorted(set(model.attributes) - set(faces.ATTRIBUTES))
    if unknown:
        raise ValueError(
            f"rendered faces have no attribute {', '.join(unknown)}; they have {', '.join(faces.ATTRIBUTES)}. "
            "Set --config.data.source to CelebAMask-HQ for others."
        )
    drawn = faces.sample(data.seed, data.subset_size + data.calibration_size, model.image_size)
    columns = [faces.ATTRIBUTES.index(name) for name in model.attributes]
    whole = Split({"image": drawn.images, "attributes": drawn.attributes[:, columns]})
    train = data.subset_size - round(data.subset_size * data.validation_fraction)
    borders = {
        "train": (0, train),
        "validation": (train, data.subset_size),
        "calibration": (data.subset_size, len(whole)),
    }
    splits = {name: Split(whole.take(np.arange(*border))) for name, border in borders.items()}
    provenance = {"source": "rendered faces", "seed": data.seed, "images": len(whole)}
    return Data(**splits, provenance=provenance)


# --- evaluation ----------------------------------------------------------------------------------------------------

PANELS = {
    "Total loss": ["loss"],
    "Images": ["image_from_*"],
    "Attributes": ["text_from_*", "attribute_agreement"],
    "Divergences": ["*_kl", "posterior_matching", "inconsistency"],
    "Discriminator": ["adversarial", "discriminator/error", "discriminator/*_accuracy"],
}


@dataclasses.dataclass(frozen=True)
class Scores:
    """The numbers of the evaluation, all on validation images."""

    consistency: consistency.Benchmark
    attributes: cross_modal.AttributeScores
    psnr: float
    psnr_from_text: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "consistency": self.consistency.result.to_dict(),
            "image_to_text": self.attributes.to_dict(),
            "psnr": self.psnr,
            "psnr_from_text": self.psnr_from_text,
        }


def evaluate(run: runs.Run, data: Data, config: Config) -> Scores:
    """Judges a trained model on images that it was not trained on."""
    names, x, a = config.model.attributes, _pixels(data.validation), data.validation["attributes"]
    encode_image, decode_image = (in_chunks(function) for function in (run.encode_image, run.decode_image))
    changes = min(4, consistency.most_changes(names))
    benchmark = consistency.benchmark(
        encode_image,
        run.encode_attributes,
        (_pixels(data.calibration), data.calibration["attributes"]),
        (x, a),
        names,
        seed=config.seed,
        minimum_changes=changes,
    )
    image_mean, _ = encode_image(x)
    text_mean, _ = run.encode_attributes(a)
    return Scores(
        benchmark,
        cross_modal.score_attributes(run.decode_attributes(image_mean), a, names),
        float(reconstruction.psnr(x, decode_image(image_mean)).mean()),
        float(reconstruction.psnr(x, decode_image(text_mean)).mean()),
    )


def in_chunks(function: Callable[[jax.Array], Any], size: int = 250) -> Callable[[jax.Array], Any]:
    """The function on `size` examples at a time: activations of a whole split need not fit into memory."""

    def chunked(values: jax.Array) -> Any:
        parts = [function(values[i : i + size]) for i in range(0, len(values), size)]
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)

    return chunked


def draw(run: runs.Run, data: Data, config: Config, workdir: Path, scores: Scores) -> dict[str, Path]:
    """Draws the figures into `workdir/figures`; returns {caption: file}."""
    names = config.model.attributes
    shown = data.validation.take(np.arange(min(18, len(data.validation))))
    x, sentences = images.to_float(jnp.asarray(shown["image"])), _sentences(shown["attributes"], names)
    posterior = run.encode_image(x)
    predicted = np.asarray(run.decode_attributes(posterior[0]) > 0, np.float32)

    _, first = np.unique(shown["attributes"], axis=0, return_index=True)
    texts = shown["attributes"][np.sort(first)[:8]]
    mean, logvar = run.encode_attributes(texts)
    draws = [mean, *(gaussian.sample(jax.random.key(i), mean, logvar) for i in range(5))]
    from_text = np.stack([_bytes(run.decode_image(z)) for z in draws], axis=1)

    records = read_metrics(workdir / "metrics.jsonl")
    result = scores.consistency
    pictures = {
        "Held-out images and their captions": grids.grid(shown["image"], sentences),
        "Reconstructions of held-out images, from the image and from its caption": grids.comparison(
            {
                "original": shown["image"],
                "from image": _bytes(run.decode_image(posterior[0])),
                "from text": _bytes(run.decode_image(run.encode_attributes(shown["attributes"])[0])),
            }
        ),
        "Text to image: the mean of the caption's posterior, then five draws": grids.text_to_image(
            _sentences(texts, names), from_text
        ),
        "Image to text: held-out images, their captions and the model's": grids.image_to_text(
            shown["image"], sentences, _sentences(predicted, names)
        ),
        "Samples from the prior": grids.grid(_bytes(run.sample(jax.random.key(config.seed), 18))),
        "Losses; dashed lines are phase borders": curves.losses(records, PANELS),
        "Consistency scores of matching and mismatched pairs": curves.score_distributions(
            result.match_scores, result.mismatch_scores, result.result.threshold
        ),
    }
    files = ("data", "reconstructions", "text_to_image", "image_to_text", "prior", "losses", "scores")
    (workdir / "figures").mkdir(exist_ok=True)
    paths = {}
    for (caption, picture), file in zip(pictures.items(), files, strict=True):
        paths[caption] = workdir / "figures" / f"{file}.png"
        picture.save(paths[caption])
    return paths


def write_report(
    workdir: Path,
    argv: list[str],
    config: Config,
    data: Data,
    notes: list[str],
    scores: Scores,
    figures: Mapping[str, Path],
) -> None:
    """Writes `workdir/report.html`."""
    result = scores.consistency.result
    confusion, rates = result.confusion, result.rates
    published = {128: (0.92, 0.90, 0.94, 0.92), 256: (0.89, 0.86, 0.92, 0.89), 512: (0.88, 0.86, 0.91, 0.88)}
    paper = None if config.data.source == "rendered" else published.get(config.model.latent_size)
    rows = [
        {
            "": who,
            "latent size": config.model.latent_size,
            "accuracy": values[0],
            "precision": values[1],
            "recall": values[2],
            "F1": values[3],
        }
        for who, values in (
            ("this run", (rates.accuracy, rates.precision, rates.recall, rates.f1)),
            ("paper, table 2", paper),
        )
        if values
    ]
    report.write(
        workdir / "report.html",
        "Multimodal VAE of faces and captions",
        [
            *(report.note(text) for text in notes),
            report.heading("Consistency of image and text"),
            f"{result.validation_images} held-out images, each with its own caption and with a curated mismatch; a "
            f"pair counts as a match if its score is above {result.threshold:.3f}, a threshold taken from "
            f"{result.calibration_images} further images. Match is the positive class. AUROC {result.auroc:.3f}.",
            report.table(rows),
            report.table(
                [
                    {
                        "": "actual mismatch",
                        "predicted mismatch": confusion.mismatches_rejected,
                        "predicted match": confusion.mismatches_accepted,
                    },
                    {
                        "": "actual match",
                        "predicted mismatch": confusion.matches_rejected,
                        "predicted match": confusion.matches_accepted,
                    },
                ]
            ),
            report.values(
                {name: f"{low:.3f} to {high:.3f}" for name, (low, high) in result.intervals.items()},
                "95 % intervals, bootstrap over images",
            ),
            f"The published mismatches give themselves away: the best rule that looks at one attribute of the text and "
            f"never at the image is right for {result.blind_accuracy:.1%} of these pairs.",
            report.heading("Image to text"),
            report.table([dataclasses.asdict(score) for score in scores.attributes.attributes]),
            report.values(
                {
                    "accuracy over all attributes": scores.attributes.accuracy,
                    "accuracy of the majority class": scores.attributes.majority_accuracy,
                    "exact match": scores.attributes.exact_match,
                    "PSNR of reconstructions, dB": scores.psnr,
                    "PSNR of images from text, dB": scores.psnr_from_text,
                }
            ),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in figures.items()),
            report.heading("How it was made"),
            report.code(shlex.join(["python", *argv])),
            report.values(data.provenance, "Data"),
            report.details("Config", [report.values(dataclasses.asdict(config))]),
            report.values(report.versions(), "Versions"),
        ],
    )


def _pixels(split: Split) -> jax.Array:
    return images.to_float(jnp.asarray(split["image"]))


def _bytes(pixels: jax.Array) -> np.ndarray:
    return np.asarray(images.to_uint8(pixels))


def _sentences(attributes: np.ndarray, names: tuple[str, ...]) -> list[str]:
    return [captions.write(row, names) for row in attributes]


# --- run -----------------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    """Trains, judges and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/celebahq_mvae", description=__doc__ or "")
    with launch.errors():
        data = load_data(config)
        vgg_weights = load_vgg(config.vgg_weights) if config.vgg_weights else None
        model = multimodal.build(config.model, vgg_weights)
        steps_per_epoch = Batches(data.train, config.model.batch_size, config.seed).steps_per_epoch
        phases = multimodal.phases(config.model, steps_per_epoch)
        placement = place()
        loop.check_phases(phases, placement)
        plan = launch.plan(model, phases, data.train.take(np.arange(config.model.batch_size)), data.provenance)
    notes = []
    if vgg_weights is None:
        notes.append("No VGG weights were given (--config.vgg_weights): the perceptual term is off.")
    elif vgg_weights[1].last_layer != "relu3_3":
        notes.append(f"The VGG weights end at {vgg_weights[1].last_layer}; the paper's perceptual term is at relu3_3.")
    for note in notes:
        _log.warning(note)
    if arguments.dry_run:
        print(plan)
        return
    settings = {
        "experiment": "celebahq_mvae",
        "model": "multimodal",
        "config": dataclasses.asdict(config),
        "data_sha256": data.sha256(),
        "vgg_sha256": vgg_weights[1].sha256 if vgg_weights else None,
    }
    # Where files lie may change, what they hold may not.
    may_change = ("config.training", "config.data.source", "config.data.cache_folder", "config.vgg_weights")
    with launch.session(arguments.workdir, settings, may_change) as (workdir, interruption):
        state = loop.fit(
            model,
            phases,
            lambda phase: Batches(data.train, phase.batch_size, config.seed, phase.start),
            workdir=workdir.path,
            seed=config.seed,
            validation=data.validation.arrays,
            settings=config.training,
            placement=placement,
            interruption=interruption,
            on_validation=_image_logger(model, data),
        )
        run = runs.Run.of(model, config.model, state, phases[-1].name, settings)
        scores = evaluate(run, data, config)
        interruption.check()
        figures = draw(run, data, config, workdir.path, scores)
        interruption.check()
        write_report(workdir.path, argv, config, data, notes, scores, figures)
        workdir.finish(**scores.to_dict())
        result = scores.consistency.result
        _log.info("consistency F1 %.3f, image to text accuracy %.3f", result.rates.f1, scores.attributes.accuracy)
        _log.info("report: %s", workdir.path / "report.html")


def _image_logger(model: Model, data: Data) -> loop.OnValidation:
    """Reconstructions from both modalities of a few held-out images, in TensorBoard after each validation."""
    shown = data.validation.take(np.arange(min(8, len(data.validation))))
    x, a = images.to_float(jnp.asarray(shown["image"])), jnp.asarray(shown["attributes"])

    @jax.jit
    def decoded(params: Any, model_state: Any) -> tuple[jax.Array, ...]:
        encoded = (
            model.functions["encode_image"](params, model_state, x)[0],
            model.functions["encode_attributes"](params, model_state, a)[0],
        )
        return tuple(images.to_uint8(model.functions["decode_image"](params, model_state, z)) for z in encoded)

    def log(state: TrainState, phase: Phase, writer: MetricWriter) -> None:
        from_image, from_text = decoded(state.params, state.model_state)
        sheet = np.concatenate(
            [np.concatenate(list(np.asarray(row)), axis=1) for row in (shown["image"], from_image, from_text)]
        )
        writer.write_images(int(state.step), {"original, from image, from text": sheet})

    return log


if __name__ == "__main__":
    main(sys.argv)
