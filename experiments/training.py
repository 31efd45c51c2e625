"""Training models of the zoo inside an experiment, and applying trained ones to whole splits."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import launch
import numpy as np

from mvae_jax import gaussian, images, runs
from mvae_jax.data.batches import Split, Splits
from mvae_jax.models import ZOO
from mvae_jax.objective import Phase
from mvae_jax.train import loop
from mvae_jax.train.feed import Source
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import Workdir

_log = logging.getLogger("training")


@dataclasses.dataclass(frozen=True)
class Member:
    """A model that an experiment trains beside others.

    Attributes:
        model: its name in the zoo.
        config: its config.
        seed: of its initialisation, its draws and the order of its images.
    """

    model: str
    config: Any
    seed: int


Evaluate = Callable[[dict[str, runs.Run], Path, Path, Interruption], Mapping[str, Any]]


def run_members(
    argv: list[str],
    arguments: launch.Arguments,
    config: Any,
    members: Mapping[str, Member],
    data: Splits,
    *,
    model: str,
    may_change: Sequence[str],
    evaluate: Evaluate,
) -> None:
    """What an experiment with several models does after its images are there: train all, then measure and draw.

    Args:
        argv: the command line; its first word names the experiment.
        arguments: what `launch.parse` found besides the config.
        config: the experiment's config, with the field `training`.
        members: folder within the workdir -> model.
        data: the images.
        model: name in the zoo of the model that the config's field `model` is of.
        may_change: dotted names of settings that may differ when the run is resumed.
        evaluate: (trained models by folder, workdir, folder to write to, interruption) -> what the finished run notes;
            called on all hosts.
    """
    root = Path(arguments.workdir)
    with launch.errors():
        if arguments.extend:
            raise ValueError("--extend: start another workdir, in which all models are trained for longer.")
        plans, loaded = [], {}
        if arguments.evaluate:
            loaded = {folder: load(root / folder, each.model, each.config) for folder, each in members.items()}
        else:
            alike: dict[tuple[str, Any], list[str]] = {}
            for folder, each in members.items():
                alike.setdefault((each.model, each.config), []).append(folder)
            for (name, own), folders in alike.items():
                found = plan(name, own, data, members[folders[0]].seed, config.training)
                plans.append(f"{', '.join(folders)}\n{found}")
    if arguments.dry_run:
        print("\n\n".join(plans))
        return
    for folder, member in members.items():
        for name, weight in getattr(member.config, "divergence_weights", {}).items():
            effective = member.config.effective_weight(weight)
            _log.info("%s: %s weighs %g, which is %.3g per dimension and pixel value", folder, name, weight, effective)
    if arguments.evaluate:
        evaluate(loaded, root, root / "evaluation", Interruption())
        return
    settings = {
        "experiment": Path(argv[0]).stem,
        "model": model,
        "config": dataclasses.asdict(config),
        "data_sha256": data.sha256(),
    }
    with launch.session(arguments.workdir, settings, may_change) as (workdir, interruption):
        trained = {}
        for folder, member in members.items():
            _log.info("model %s", folder)
            own = settings_of(member.model, member.config, data, member.seed)
            trained[folder] = train(
                workdir.path / folder, own, member.config, data, config.training, interruption, may_change
            )
        results = evaluate(trained, workdir.path, workdir.path, interruption)
        if launch.is_first():
            workdir.finish(**results)


def settings_of(model: str, config: Any, data: Splits, seed: int) -> dict[str, Any]:
    """What config.json says of the run of a model that is trained inside an experiment."""
    return {
        "model": model,
        "config": {"seed": seed, "model": dataclasses.asdict(config)},
        "data_sha256": data.sha256(),
    }


def train(
    folder: str | Path,
    settings: Mapping[str, Any],
    config: Any,
    data: Splits,
    training: loop.Settings | None = None,
    interruption: Interruption | None = None,
    may_change: Sequence[str] = (),
) -> runs.Run:
    """Trains a model in a folder of its own, which `runs.load` loads as well; goes on where it was stopped.

    Args:
        folder: its workdir.
        settings: what `settings_of` returned.
        config: the model's config.
        data: its images.
        training: how it is watched and saved.
        interruption: see `train.loop.fit`.
        may_change: dotted names of settings that may differ when the run is resumed.
    """
    workdir = Workdir(folder)
    with workdir.lock():
        workdir.configure(settings, may_change=may_change)
        return fit(workdir.path, settings, config, data, training, interruption)


def load(folder: str | Path, model: str, config: Any) -> runs.Run:
    """Loads a model that `train` has trained.

    Raises:
        FileNotFoundError: there is none in that folder.
        ValueError: it is another model, or of another config.
    """
    run = runs.load(folder)
    if run.settings["model"] != model:
        raise ValueError(f"{folder} is a run of the model {run.settings['model']!r}; expected {model!r}.")
    for field in dataclasses.fields(config):
        own, asked = getattr(run.config, field.name), getattr(config, field.name)
        if own != asked:
            raise ValueError(
                f"the model in {folder} was trained with other {field.name} than is asked for: {_short(own)}, not "
                f"{_short(asked)}; --evaluate takes models as they are."
            )
    return run


def _short(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, tuple) and len(value) > 10 else repr(value)


def notes(run: runs.Run, data: Splits) -> list[str]:
    """What a report must say of the images on which a model is measured."""
    if run.settings["data_sha256"] == data.sha256():
        return []
    return ["These are other images than those of the run, which may have been trained on some of them."]


def fit(
    workdir: Path,
    settings: Mapping[str, Any],
    config: Any,
    data: Splits,
    training: loop.Settings | None = None,
    interruption: Interruption | None = None,
) -> runs.Run:
    """Trains in a workdir that is locked and configured; see `train`."""
    module, seed = ZOO[settings["model"]], settings["config"]["seed"]
    model, phases = module.build(config), phases_of(settings["model"], config, data, seed)
    state = loop.fit(
        model,
        phases,
        lambda phase: _batches(phase, data, seed),
        workdir=workdir,
        seed=seed,
        validation=data.validation.arrays,
        settings=training,
        interruption=interruption,
    )
    return runs.Run.of(model, config, state, phases[-1].name, settings)


def _batches(phase: Phase, data: Splits, seed: int) -> Source:
    shuffle = phase.options.get("shuffle", True)
    return data.batches(phase.image_size, phase.batch_size, seed, phase.start, shuffle)


def phases_of(model: str, config: Any, data: Splits, seed: int) -> tuple[Any, ...]:
    """The phases of a model on such images.

    Raises:
        ValueError: there are too few images for a batch.
    """
    return ZOO[model].phases(config, data.batches(config.image_size, config.batch_size, seed).steps_per_epoch)


def plan(model: str, config: Any, data: Splits, seed: int, training: loop.Settings) -> str:
    """Checks that a model can be trained on such images, and says what that would be; see `launch.plan`.

    Raises:
        ValueError: it cannot.
    """
    phases = phases_of(model, config, data, seed)
    placement = training.place()
    loop.check_phases(phases, placement)
    for phase in phases:
        placement.check_batch_size(phase.batch_size // phase.options.get("parts", 1))  # what is in the networks at once
    example = loop.example(_batches(phases[0], data, seed), phases[0])
    return launch.plan(ZOO[model].build(config), phases, example, data.provenance)


def in_chunks(function: Callable[..., Any], size: int = 250) -> Callable[..., Any]:
    """The function on `size` examples at a time, its results on the host: a whole split need not fit on the device."""

    def chunked(*values: Any) -> Any:
        starts = range(0, len(values[0]), size)
        parts = [jax.device_get(function(*(value[start : start + size] for value in values))) for start in starts]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    return chunked


def pixels(split: Split) -> jax.Array:
    """The images of a split, [N, H, W, C] in [-1, 1]."""
    return images.to_float(jnp.asarray(split["image"]))


def to_bytes(pictures: jax.Array | np.ndarray) -> np.ndarray:
    """Images in [-1, 1] as uint8 on the host."""
    return np.asarray(images.to_uint8(jnp.asarray(pictures)))


def traversal(
    run: runs.Run, x: jax.Array, examples: jax.Array, reach: float, steps: int, rows: int = 6
) -> dict[str, np.ndarray]:
    """Pictures along the latent dimensions with the largest KL, from the code of one image.

    Args:
        run: a trained variational autoencoder.
        x: the image, [1, H, W, C] in [-1, 1].
        examples: images that tell the KL of each dimension, [N, H, W, C].
        reach: each dimension goes from minus to plus this value; the prior's standard deviation is 1.
        steps: V, pictures per dimension.
        rows: how many dimensions.

    Returns:
        {name and KL of the dimension: uint8 [V, H, W, C]}.
    """
    mean, logvar = in_chunks(run.encode)(examples)
    kl = np.asarray(gaussian.kl_divergence(mean, logvar, 0.0, 0.0).mean(0))
    values, code = jnp.linspace(-reach, reach, steps), run.encode(x)[0][0]
    found = {}
    for dimension in np.argsort(-kl)[:rows]:
        codes = jnp.tile(code, (steps, 1)).at[:, dimension].set(values)
        found[f"z{dimension}, KL {kl[dimension]:.2f}"] = to_bytes(run.decode(codes))
    return found
