"""Learned prior over the codes of a trained run: a model `latent_flow` in the run's folder, by which images are drawn.

Any run that encodes and decodes can have one: `prior.train("runs/vae", data)`. It is of one checkpoint, whose codes it
has learned, and another checkpoint of the run never draws by it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import export, images, runs
from mvae_jax.data.batches import Dataset, Examples, Split, Splits
from mvae_jax.experiment import forecast, members
from mvae_jax.experiment.forecast import Part
from mvae_jax.experiment.members import Member
from mvae_jax.experiment.sheets import given_attributes
from mvae_jax.files import expanded
from mvae_jax.models import ZOO, latent_flow
from mvae_jax.train import config_file
from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.config_file import run_of
from mvae_jax.train.observer import Observer
from mvae_jax.train.signals import Interruption

FOLDER = export.PRIOR  # within the run's folder, and in an export of it
GUIDANCE = 2.0  # of images drawn from captions: at 1 fewer show what the caption says, and they differ more
FREE_GUIDANCE = 1.5  # of images drawn without one, whose attributes are drawn first: nearer to real ones than at 1
_CHUNK = 250  # images encoded at a time


@dataclasses.dataclass(frozen=True)
class Config:
    """The learned prior over the codes of the training images, by which images are drawn.

    Attributes:
        epochs: of its training, passes over the codes; 0 leaves it out.
        codes: "draws" of the posteriors, anew in each step, or their "means". A deterministic encoder's are one.
    """

    epochs: int = 40
    codes: str = "draws"

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"prior.epochs is {self.epochs}; expected at least 0.")
        if self.codes not in ("draws", "means"):
            raise ValueError(f"prior.codes is {self.codes!r}; choose one of 'draws', 'means'.")


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """A learned prior.

    Attributes:
        run: the flow.
    """

    run: runs.Run

    def __str__(self) -> str:
        return f"the learned prior over codes (latent_flow, step {self.run.step})"

    def is_complete(self, folder: Path) -> bool:
        """Whether its training, in that folder, has come to its end."""
        with Checkpoints(folder, [self.run.phase]) as checkpoints:
            return bool(checkpoints.metadata(self.run.phase, self.run.step)["final"])

    def sample(
        self, key: jax.Array, attributes: Any, known: Any, *, guidance: float = 1.0, temperature: float = 1.0
    ) -> jax.Array:
        """Codes [B, D] for rows of attributes, [B, A], of which some are known: `latent_flow.model.sample_codes`."""
        return self.run.sample_codes(key, attributes, known, guidance=guidance, temperature=temperature)

    def sample_freely(self, key: jax.Array, count: int) -> jax.Array:
        """Codes [count, D] of no caption: of attributes as the training examples have them, where they have any."""
        nothing = np.zeros((count, len(self.run.config.attributes)), np.float32)
        draws_attributes = bool(self.run.config.attributes and self.run.config.attribute_rows)
        return self.sample(key, nothing, nothing, guidance=FREE_GUIDANCE if draws_attributes else 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Codes(Splits):
    """Codes of images, as a data set.

    Attributes:
        origin: run, checkpoint and images that they are of.
    """

    origin: Mapping[str, Any]

    def sha256(self) -> str:
        """Checksum of the origin: codes are computed again where a training goes on, elsewhere with other roundings."""
        return _checksum(self.origin)


def _checksum(origin: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def can_have(run: runs.Run | runs.Plan) -> bool:
    """Whether a model has codes that a prior can learn."""
    return bool(run.model.encode and run.model.decode)


@functools.lru_cache(maxsize=2)
def encode(workdir: Path, run: runs.Run, data: Any, codes: str = "draws") -> Codes:
    """Codes of all images of a data set; encoded once, whoever asks for them.

    Args:
        workdir: of the run.
        run: the model.
        data: the images, a `Dataset`.
        codes: see `Config`.

    Returns:
        Splits of "code" [N, D], of the images that are not missing, "deviation" [N, D] for draws of posteriors,
        "attributes" [N, A] of data that have them, and "present/attributes" [N] where some have none.

    Raises:
        ValueError: the model does not encode.
    """
    if not can_have(run):
        raise ValueError(
            f"{workdir} is a run of the model {run.settings['model']!r}, which has no codes to learn a prior over; "
            "expected one that encodes and decodes."
        )
    splits: dict[str, Split] = {}
    for name in ("train", "validation"):
        splits[name] = _of_split(run, data.examples(name, run.config.image_size), codes)
    splits["calibration"] = splits["train"].first(0)
    if len(data.calibration):  # a data set of which none are set aside need not know of such a split
        splits["calibration"] = _of_split(run, data.examples("calibration", run.config.image_size), codes)
    provenance = {"codes_of": f"{workdir}, phase {run.phase}, step {run.step}", **data.provenance}
    return Codes(**splits, attributes=data.attributes, provenance=provenance, origin=_origin(workdir, run, codes))


def _of_split(run: runs.Run, examples: Examples, codes: str) -> Split:
    parts: dict[str, list[np.ndarray]] = {}
    # An image that is missing has no code. What is read from a disk has all images.
    there = np.flatnonzero(examples.present("image")) if isinstance(examples, Split) else np.arange(len(examples))
    for start in range(0, len(there), _CHUNK):
        chunk = examples.take(there[start : start + _CHUNK])
        mean, logvar = run.encode(images.to_float(jnp.asarray(chunk["image"])), *given_attributes(run.encode, chunk))
        arrays = {"code": mean}
        if codes == "draws" and logvar is not None:
            arrays["deviation"] = np.exp(0.5 * np.asarray(logvar))
        arrays.update({each: chunk[each] for each in ("attributes", "present/attributes") if each in chunk})
        for name, array in arrays.items():
            parts.setdefault(name, []).append(np.asarray(array, np.float32))
    return Split({name: np.concatenate(arrays) for name, arrays in parts.items()})


def _origin(workdir: Path, run: runs.Run, codes: str) -> dict[str, Any]:
    """What codes are of; a run of an earlier version, which has no id, is known by its images and its checkpoint."""
    images_sha256 = run.settings["data_sha256"]
    return {
        **{"run_id": run_of(workdir), "data_sha256": images_sha256},
        **{"phase": run.phase, "step": run.step, "codes": codes},
    }


def _origins(workdir: Path, run: runs.Run, codes: str) -> list[dict[str, Any]]:
    """What codes may be of: a run of an earlier version has no id, until it goes on."""
    origin = _origin(workdir, run, codes)
    return [origin, {**origin, "run_id": ""}]


def folder_of(workdir: Path, run: runs.Run) -> Path:
    """Folder of the prior of a checkpoint: its workdir, which `runs.load` loads as well."""
    return workdir / FOLDER / f"{run.phase}_{run.step}"


def load(workdir: str | os.PathLike[str], run: runs.Run) -> Prior | None:
    """The learned prior of a run's checkpoint; None where none was trained to its end, or exported with it.

    Args:
        workdir: of the run, or an export.
        run: the model, as `runs.load(workdir)` gives it.

    Raises:
        FileNotFoundError: a file of the prior in an export is missing.
        ValueError: what lies in its place was learned from other codes, or is damaged.
    """
    workdir = expanded(workdir).resolve()
    if export.is_export(workdir):
        return _exported(workdir, run)
    folder = folder_of(workdir, run)
    try:
        flow = runs.load(folder)
    except FileNotFoundError:
        return None
    origins = [_checksum(origin) for codes in ("draws", "means") for origin in _origins(workdir, run, codes)]
    if flow.settings["model"] != "latent_flow" or flow.settings["data_sha256"] not in origins:
        raise ValueError(
            f"{folder} was not learned from the codes of this run's checkpoint of phase {run.phase} at step "
            f"{run.step}; remove it, and train it again."
        )
    learned = Prior(flow)
    return learned if learned.is_complete(folder) else None


def _exported(folder: Path, run: runs.Run) -> Prior | None:
    """The prior that was exported with a model; the sums of the export say that they belong together."""
    within = export.prior(folder)
    if not within:
        return None
    flow = runs.load(within)
    export.check_prior(run, flow, str(within))
    return Prior(flow)


def member(data: Codes, config: Config, seed: int) -> Member:
    """The prior over such codes, as a member of an experiment."""
    devices, count = jax.device_count(), len(data.train)
    chosen = latent_flow.Config(
        latent_size=data.train["code"].shape[1],
        attributes=data.attributes,
        epochs=config.epochs,
        batch_size=_batch_size(count, devices),
    )
    return Member("latent_flow", chosen, seed)


def _batch_size(count: int, devices: int) -> int:
    return max(devices, min(latent_flow.Config.batch_size, count) // devices * devices)


def parts(plans: Mapping[str, runs.Plan], config: Config) -> list[Part]:
    """What the training of the priors adds to that of a run."""
    result = []
    for folder, planned in plans.items() if config.epochs else ():
        if can_have(planned):
            count = len(planned.data.examples("train", planned.config.image_size))
            batch_size = _batch_size(count, jax.device_count())
            chosen = latent_flow.Config(epochs=config.epochs, batch_size=batch_size)
            result += forecast.parts(label(folder), ZOO["latent_flow"].phases(chosen, count // batch_size))
    return result


def label(folder: str) -> str:
    """Name of the prior of a member, by the member's folder."""
    return f"{folder}/{FOLDER}" if folder else FOLDER


def train(
    workdir: str | os.PathLike[str],
    data: Dataset | Mapping[str, Any],
    config: Config | None = None,
    *,
    run: runs.Run | None = None,
    seed: int = 42,
    interruption: Interruption | None = None,
    observer: Observer | None = None,
) -> Prior:
    """Trains the prior of a run's checkpoint in the run's folder, or goes on there; loads one that is complete.

    Of a run that saw a part of the data it learns that part, such as no attributes that were hidden.

    Args:
        workdir: of the run.
        data: the images that the run was trained on, as `runs.train` takes them.
        config: how it is trained.
        run: the model, as `runs.load(workdir)` gives it, which is the default.
        seed: of the training.
        interruption: see `train.loop.fit`.
        observer: likewise.

    Raises:
        ValueError: the model has no codes, these are not the images that it was trained on, the prior was begun with
            other settings, or the folder is an export.
        FileNotFoundError: there is no run in that folder.
    """
    workdir, config = expanded(workdir).resolve(), config or Config()
    config_file.refuse_export(workdir)
    run = run or runs.load(workdir)
    examples: Any = data  # a protocol has no hash for `encode`
    if isinstance(data, Mapping):
        examples = runs.split(data, tuple(getattr(run.config, "attributes", ())))
    learned = load(workdir, run)
    if learned:
        _check_settings(learned, folder_of(workdir, run), config, _origins(workdir, run, config.codes))
        return learned
    if run.settings["data_sha256"] != examples.sha256():
        raise ValueError(
            f"{workdir} was trained on other images than these; give those that it was trained on, whose codes the "
            "prior is to learn."
        )
    codes = encode(workdir, run, members.part_of(examples, run.settings, run.settings["config"]["seed"]), config.codes)
    chosen = member(codes, config, seed)
    begun = folder_of(workdir, run) / config_file.NAME
    if begun.exists():  # one that an earlier version began kept no rows, and no setting would say so
        rows = runs.read_settings(begun.parent)["config"]["model"].get("attribute_rows", 0)
        chosen = dataclasses.replace(chosen, config=dataclasses.replace(chosen.config, attribute_rows=rows))
    options: dict[str, Any] = {"interruption": interruption, "watched": {"observer": observer}}
    return Prior(members.train_when_free(chosen, chosen.plan(codes), codes, folder_of(workdir, run), **options))


def _check_settings(learned: Prior, folder: Path, config: Config, origins: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a prior that was trained otherwise than the config says."""
    same_codes = learned.run.settings["data_sha256"] in map(_checksum, origins)
    if learned.run.config.epochs != config.epochs or not same_codes:
        raise ValueError(
            f"{folder} has a learned prior of {learned.run.config.epochs} epochs"
            f"{'' if same_codes else ' over other codes'}; the settings ask for prior.epochs={config.epochs} and "
            f"prior.codes={config.codes}: leave these out, or remove the folder to train it again."
        )
