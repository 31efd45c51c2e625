"""The multimodal VAE of faces and attribute captions (Kim, 2024).

    python experiments/celebahq_mvae.py
    python experiments/celebahq_mvae.py --preset=paper --config.data.source=CelebAMask-HQ.zip --workdir=runs/paper
    python experiments/celebahq_mvae.py --evaluate --workdir=runs/paper

Trains in three phases on rendered faces, on CelebAMask-HQ, or on your own images with a CSV of attributes; then judges
the model on held-out images and writes figures and `report.html` into the workdir. The same command resumes a run that
was stopped; with more epochs for the last phase and --extend it goes on with one that is finished.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import datasets
import jax
import jax.numpy as jnp
import judge
import launch
import multimodal_evaluation as evaluation
import numpy as np

from mvae_jax import images, runs
from mvae_jax.data.batches import Batches, Splits
from mvae_jax.eval import consistency
from mvae_jax.models import multimodal
from mvae_jax.nets.vgg import load_vgg
from mvae_jax.objective import Model, Phase
from mvae_jax.train import loop
from mvae_jax.train.logging import MetricWriter, read_metrics
from mvae_jax.train.signals import Interruption
from mvae_jax.train.state import TrainState
from mvae_jax.viz import report

_log = logging.getLogger("celebahq_mvae")


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """The classifier of training images that reads attributes from generated ones.

    Attributes:
        workdir: folder of a trained attribute classifier; "" trains one on the training images, in the run's folder
            `judge`.
        epochs: of that training; 0 judges without a classifier.
    """

    workdir: str = ""
    epochs: int = 5

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"judge.epochs is {self.epochs}; expected at least 0.")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a run.

    Attributes:
        seed: of the initialisation, of every draw and of the order of the images.
        vgg_weights: file with VGG's weights for the perceptual term, torchvision's .pth or .safetensors; "" leaves
            the term off.
        start_from: workdir of a run whose newest checkpoint gives the first parameters; "" starts anew.
        data: the images.
        model: the model and its three phases.
        judge: who judges generated images.
        training: how the run is watched and saved; may change when a run is resumed.
    """

    seed: int = 42
    vgg_weights: str = ""
    start_from: str = ""
    data: datasets.Config = datasets.Config()
    model: multimodal.Config = multimodal.Config()
    judge: JudgeConfig = JudgeConfig()
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
# Where files lie may change, what they hold may not; and the judge is no part of the training.
MAY_CHANGE = (
    *("config.training", "config.judge", "config.vgg_weights"),
    *(f"config.data.{name}" for name in ("source", "cache_folder", "crop", "partitions")),
)
EPOCHS = tuple(f"config.model.{name}.epochs" for name in ("unimodal", "alignment", "adversarial"))


def main(argv: list[str]) -> None:
    """Trains, judges and draws."""
    config, arguments = launch.parse(argv, PRESETS, workdir="runs/celebahq_mvae", description=__doc__ or "")
    if arguments.evaluate:
        judge_only(argv, config, Path(arguments.workdir))
        return
    with launch.errors():
        data = load_data(config)
        evaluation.check(data)
        check_judge(config, data)
        vgg_weights = load_vgg(config.vgg_weights) if config.vgg_weights else None
        model = multimodal.build(config.model, vgg_weights)
        steps_per_epoch = Batches(data.train, config.model.batch_size, config.seed).steps_per_epoch
        phases = multimodal.phases(config.model, steps_per_epoch)
        placement = config.training.place()
        loop.check_phases(phases, placement)
        example = data.train.take(np.arange(config.model.batch_size))
        found = dict(data.provenance)
        if config.start_from:
            start = loop.check_start(model, phases, example, start_from=config.start_from, workdir=arguments.workdir)
            found |= {"start": start} if start else {}
        plan = launch.plan(model, phases, example, found)
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
    session = launch.session(arguments.workdir, settings, MAY_CHANGE, epochs=EPOCHS, extend=arguments.extend)
    with session as (workdir, interruption):
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
            start_from=config.start_from,
        )
        run = runs.Run.of(model, config.model, state, phases[-1].name, settings)
        reader = judge_of(config, data, workdir.path, interruption)
        if not launch.is_first():
            return
        scores = judge_run(argv, run, data, reader, config, workdir.path, workdir.path, notes, interruption)
        workdir.finish(**scores.to_dict())
        _log.info("report: %s", workdir.path / "report.html")


def judge_only(argv: list[str], config: Config, workdir: Path) -> None:
    """Judges the newest checkpoint of a workdir, which may belong to a run that goes on meanwhile."""
    with launch.errors():
        run = runs.load(workdir)
        data = load_data(config)
        evaluation.check(data)
        folder, own = workdir / "evaluation", data.sha256() == run.settings.get("data_sha256")
        reader = judge_of(config, data, folder)
    notes = [f"Judged at step {run.step}, in phase {run.phase}."]
    if not own:
        notes.append("These are other images than those of the run, which may have been trained on some of them.")
    for note in notes:
        _log.warning(note)
    judge_run(argv, run, data, reader, config, workdir, folder, notes)
    _log.info("report: %s", folder / "report.html")


def published(data: Splits) -> bool:
    """Whether the paper has numbers for such images."""
    return data.provenance.get("data_set") == "CelebAMask-HQ"


def load_data(config: Config) -> Splits:
    """The images that the config asks for."""
    return datasets.load(config.data, config.model.attributes, config.model.image_size)


def judge_run(
    argv: list[str],
    run: runs.Run,
    data: Splits,
    reader: judge.Judge | None,
    config: Config,
    workdir: Path,
    folder: Path,
    notes: list[str],
    interruption: Interruption | None = None,
) -> evaluation.Scores:
    """Judges a model and writes numbers, figures and report into `folder`."""
    interruption = interruption or Interruption()
    scores = evaluation.evaluate(run, data, reader, seed=config.seed)
    interruption.check()
    records = read_metrics(workdir / "metrics.jsonl")
    figures = evaluation.draw(run, data, scores, reader, seed=config.seed, records=records)
    interruption.check()
    paths = report.save_figures(figures, folder / "figures")
    scores.write(folder / "scores.json")
    tables = evaluation.parts(scores, reader, latent_size=run.config.latent_size, published=published(data))
    report.write(
        folder / "report.html",
        f"Multimodal VAE of faces and captions: {workdir.name}",
        [
            *(report.note(text) for text in notes),
            *tables,
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in paths.items()),
            *launch.how_it_was_made(argv, run, data.provenance, config),
        ],
    )
    result = scores.benchmark.result
    _log.info("consistency F1 %.3f, image to text accuracy %.3f", result.rates.f1, scores.image_to_text.accuracy)
    return scores


def check_judge(config: Config, data: Splits) -> None:
    """Refuses a judge that could not judge these images, before anything is trained."""
    if config.judge.workdir:
        judge.check(runs.load(config.judge.workdir), data)
    elif config.judge.epochs:
        judge.config_for(data, config.judge.epochs)


def judge_of(
    config: Config, data: Splits, folder: Path, interruption: Interruption | None = None
) -> judge.Judge | None:
    """The judge that the config names, or one that is trained in `folder`/judge; None if it wants none."""
    if config.judge.workdir:
        run = runs.load(config.judge.workdir)
        judge.check(run, data)
    elif config.judge.epochs:
        _log.info("the judge of generated images, a classifier of the training images")
        judge_config = judge.config_for(data, config.judge.epochs)
        run = judge.train(folder / "judge", data, judge_config, seed=config.seed, interruption=interruption)
    else:
        return None
    return judge.Judge.of(run, data)


def _image_logger(model: Model, data: Splits) -> loop.OnValidation:
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
