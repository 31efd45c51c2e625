"""The folder of an exported model, written as a whole and read back with its sums compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import _json, files
from mvae_jax.export import card, functions, weights
from mvae_jax.objective import Model, ModelState, Params
from mvae_jax.train import config_file
from mvae_jax.train.workdir import check_format

MANIFEST, WEIGHTS, SCORES, CARD, FUNCTIONS, PRIOR = (
    config_file.EXPORT,
    "weights.safetensors",
    "scores.json",
    "README.md",
    "functions",
    "latent_flow",
)
ALL_FUNCTIONS = (FUNCTIONS, f"{PRIOR}/{FUNCTIONS}")  # folders for programs without this package
FORMAT = 1  # of export.json
# What else export.json says of an export that is read, and of which kind it is.
_KINDS = {"phase": str, "step": int, "member": str, "without_arrays": list, "functions": dict, "files": dict}


class Run(Protocol):
    """What is exported of a `runs.Run`; its attributes are those of that class."""

    @property
    def model(self) -> Model: ...  # noqa: D102

    @property
    def config(self) -> Any: ...  # noqa: D102

    @property
    def params(self) -> Params: ...  # noqa: D102

    @property
    def model_state(self) -> ModelState: ...  # noqa: D102

    @property
    def phase(self) -> str: ...  # noqa: D102

    @property
    def step(self) -> int: ...  # noqa: D102

    @property
    def settings(self) -> Mapping[str, Any]: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Export:
    """What an exported folder says of a model, without its settings.

    Attributes:
        params: {group: parameters}.
        model_state: {group: batch statistics}.
        phase: of the checkpoint.
        step: of the checkpoint.
        member: name of the model in scores.json, "" where there was one alone.
    """

    params: dict[str, Any]
    model_state: dict[str, Any]
    phase: str
    step: int
    member: str


def is_export(folder: Path) -> bool:
    """Whether a folder has the file that only exports have."""
    return (folder / MANIFEST).is_file()


def write(
    run: Run,
    folder: str | os.PathLike[str],
    *,
    prior: Run | None = None,
    scores: Mapping[str, Any] | None = None,
    member: str = "",
    license: str = "",
    with_functions: bool = True,
) -> Path:
    """Writes a folder that holds a model and needs no workdir, in place of nothing or of an untouched export.

    Args:
        run: the model with its parameters.
        folder: the folder to write.
        prior: the prior that was learned over the codes of this checkpoint, a run of `latent_flow`, which goes along.
        scores: what an evaluation of this checkpoint says, as in scores.json.
        member: name of the model in the scores, "" where there was one alone.
        license: of the weights, as an SPDX identifier such as "apache-2.0"; "" states none.
        with_functions: write functions for programs without this package, too.

    Returns:
        The folder.

    Raises:
        DiskFull: the system has no room for it.
        FileExistsError: there is something that is no export, or one whose files were changed.
        ValueError: flatbuffers is not installed, the license is no identifier, the folder is a mount point, or the
            prior is none over codes of this model.
    """
    if license and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise ValueError(f"license is {license!r}; expected an SPDX identifier, such as apache-2.0, or none.")
    folder = check_replaceable(folder)
    if prior:
        check_prior(run, prior, "prior")
    with files.whole_folder(folder) as new:
        learned = _fill(new / PRIOR, prior, license=license, with_functions=with_functions) if prior else None
        _fill(new, run, learned, scores or {}, member, license, with_functions)
    return folder


def _fill(
    folder: Path,
    run: Run,
    learned: card.Prior | None = None,
    scores: Mapping[str, Any] | None = None,
    member: str = "",
    license: str = "",
    with_functions: bool = True,
) -> card.Prior:
    """Writes the files of one model, and returns what the card of the model whose prior it is says of it."""
    arrays, empty = weights.flat(run.params, run.model_state)
    described: dict[str, Any] = {}
    folder.mkdir(exist_ok=True)
    weights.write(folder / WEIGHTS, arrays)
    # The id of the weights is that of the "run", so that equal exports are equal.
    (folder / config_file.NAME).write_text(config_file.sealed(run.settings, _sum(folder / WEIGHTS)[:32]), "utf-8")
    if scores:
        (folder / SCORES).write_text(json.dumps(scores, indent=2) + "\n", "utf-8")
    if with_functions:
        (folder / FUNCTIONS).mkdir()
        for name, program, shapes in functions.lower(run.model, run.config, run.params, run.model_state):
            file = f"{FUNCTIONS}/{name}.jax"
            (folder / file).write_bytes(program)
            described[name] = {"file": file, **shapes}
    text = card.write(run, described, arrays, scores or {}, member, license, learned)
    (folder / CARD).write_text(text, "utf-8")
    manifest = {
        "format": FORMAT,
        "phase": run.phase,
        "step": run.step,
        "member": member,
        "without_arrays": empty,
        "functions": described,
        "jax": jax.__version__,
        "platforms": list(functions.PLATFORMS),
        "files": _sums(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(_json.with_sum(manifest), indent=2, sort_keys=True) + "\n", "utf-8")
    return card.Prior(PRIOR, run, described, arrays)


def read(folder: Path) -> Export:
    """Reads the weights of an exported folder; its settings are in config.json, its functions are not touched.

    Args:
        folder: of the export.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not as it was exported, or of a later format.
    """
    manifest = _manifest(folder)
    for name in (WEIGHTS, config_file.NAME):
        _check_file(folder, manifest, name)
    arrays = weights.read(folder / WEIGHTS)
    try:
        params, state = weights.nested(arrays, manifest["without_arrays"])
    except ValueError as error:
        raise ValueError(f"{folder} has no weights of a model ({error}): copy it again.") from error
    return Export(params, state, manifest["phase"], manifest["step"], manifest["member"])


def check_weights(folder: Path, found: Export, model: Model, config: Any) -> None:
    """Compares names, shapes and types of weights with those that the model draws, before its functions meet them.

    Nothing is allocated for what the settings say: they are the file's.

    Args:
        folder: of the export.
        found: what `read` returned.
        model: the model's pure functions.
        config: the model's Config.

    Raises:
        ValueError: the weights are not those of this model, or nothing can be drawn by such settings.
    """
    try:
        with jax.enable_x64(False):
            drawn = _described(*jax.eval_shape(model.init, jax.random.key(0), _batch(config)))
    except Exception as error:  # whatever impossible settings provoke, the reader learns which file has them
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        path = folder / config_file.NAME
        raise ValueError(f"{path} has no settings of a model ({reason}): copy it again.") from error
    has = _described(found.params, found.model_state)
    differing = [name for name in sorted({*drawn, *has}) if drawn.get(name) != has.get(name)]
    if differing:
        name, more = differing[0], f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise ValueError(
            f"{folder} has {name} of shape {has.get(name)}, expected {drawn.get(name)} by {config_file.NAME}{more}: "
            "export the model again."
        )


def _batch(config: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of one, by which a model draws its parameters."""
    shapes: dict[str, tuple[int, ...]] = {"code": (1, getattr(config, "latent_size", 1))}
    if config.image_size is not None:
        shapes = {"image": (1, *functions.image_shape(config))}
    if names := getattr(config, "attributes", ()):
        shapes["attributes"] = (1, len(names))
    dtypes = {"image": jnp.uint8}
    for modality in getattr(config, "modalities", ()):
        shapes[modality.name] = (1, *modality.shape)
        dtypes |= {modality.name: jnp.uint8} if modality.is_image else {}
    return {name: jax.ShapeDtypeStruct(shape, dtypes.get(name, jnp.float32)) for name, shape in shapes.items()}


def _described(params: Params, model_state: ModelState) -> dict[str, str]:
    """Name -> "float32[3,4]", or "no arrays" of a branch without any."""
    arrays, empty = weights.flat(params, model_state)
    described = {name: f"{np.dtype(x.dtype)}[{','.join(map(str, x.shape))}]" for name, x in arrays.items()}
    return described | dict.fromkeys(empty, "no arrays")


def scores(folder: Path) -> tuple[str, Path | None]:
    """Name of the model in the export's scores.json, and this file; None where the export has none.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not as it was exported.
    """
    manifest = _manifest(folder)
    if SCORES not in manifest["files"]:
        return "", None
    _check_file(folder, manifest, SCORES)
    return manifest["member"], folder / SCORES


def prior(folder: Path) -> Path | None:
    """Folder of the learned prior in an export, which is an export as well; None where it has none.

    What lies there besides is no part of the export, and counts as not there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not as it was exported.
    """
    manifest, name = _manifest(folder), f"{PRIOR}/{MANIFEST}"
    if name not in manifest["files"]:
        return None
    _check_file(folder, manifest, name)
    return folder / PRIOR


def check_prior(run: Run, prior: Run, name: str) -> None:
    """Refuses a learned prior that draws no codes of a model.

    Args:
        run: the model.
        prior: the prior.
        name: of the prior, for the message.

    Raises:
        ValueError: it is another model, or over other codes or attributes.
    """
    size, found = functions.code_size(run.config), f"a run of {prior.settings['model']!r}"
    if prior.settings["model"] == PRIOR:
        learned = prior.config.attributes
        if prior.config.latent_size == size and getattr(run.config, "attributes", learned) == learned:
            return
        found += f" over codes of {prior.config.latent_size} dimensions, given {len(learned)} attributes"
    names = f"the {len(run.config.attributes)}" if hasattr(run.config, "attributes") else "any"
    raise ValueError(
        f"{name} is {found}; expected one of {PRIOR!r} over codes of {size} dimensions, given {names} attributes of "
        f"this {run.settings['model']!r}: export the run again, with its own prior."
    )


def _check_file(folder: Path, manifest: Mapping[str, Any], name: str) -> None:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder / name} does not exist; expected all files of an export: copy it again.")
    if manifest["files"].get(name) != _sum(folder / name):
        raise ValueError(f"{folder / name} is not as it was exported (its sha256 differs): copy it again.")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = _json.load(path)
        intact = _json.has_its_sum(manifest)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not that of an export ({error}): copy it again.") from error
    if not intact:
        raise ValueError(f"{path} was changed since it was exported: copy it again.")
    # Its sum is its own: anybody can write one.
    check_format(path, manifest, FORMAT)
    for name, kind in _KINDS.items():
        if type(manifest.get(name)) is not kind:
            given = repr(manifest.get(name))[:80]
            raise ValueError(f"{path} has {name} = {given}, expected a {kind.__name__}: copy the export again.")
    if not re.fullmatch(r"\w[\w .-]*", manifest["phase"]) or manifest["step"] < 0:  # names of files have the phase
        at = f"phase {manifest['phase']!r:.80} and step {manifest['step']}"
        raise ValueError(f"{path} has {at}, expected the name of a phase and a count: copy the export again.")
    if not all(isinstance(name, str) for name in manifest["without_arrays"]):
        raise ValueError(f"{path} has without_arrays that are no names: copy the export again.")
    return manifest


def check_replaceable(path: str | os.PathLike[str]) -> Path:
    """Path of the folder that a typed one means; refuses one that holds anything but an export as it was written.

    Raises:
        FileExistsError: it does.
        ValueError: it cannot be written, see `files.check_output`.
    """
    folder = files.expanded(path)
    if folder.exists() and not is_export(folder) and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is no export: choose another folder, or remove it.")
    files.check_output(folder, folder=True)
    if is_export(folder) and (changed := _changed(folder)):
        raise FileExistsError(
            f"{folder / changed} is not as it was exported: choose another folder, or remove the export."
        )
    return folder


def verify(folder: Path, remedy: str = "export the model again") -> None:
    """Refuses a folder that is no export, or not as it was written.

    Args:
        folder: the export.
        remedy: what the message advises.

    Raises:
        FileNotFoundError: it is no export.
        ValueError: a file was changed, added or removed.
    """
    if not is_export(folder):
        raise FileNotFoundError(f"{folder / MANIFEST} does not exist; expected a folder that `mvae-jax export` wrote.")
    if changed := _changed(folder):
        raise ValueError(f"{folder / changed} is not as it was exported: {remedy}.")


def _changed(folder: Path) -> str | None:
    """A file that is not as it was exported. Functions may be missing as a whole, as where they were not pulled."""
    noted, there = _manifest(folder)["files"], _sums(folder)
    for absent in (name for name in ALL_FUNCTIONS if not (folder / name).exists()):
        noted = {name: value for name, value in noted.items() if not name.startswith(f"{absent}/")}
    names = sorted(noted.keys() | there.keys() - {MANIFEST})
    return next((name for name in names if noted.get(name) != there.get(name)), None)


def _sums(folder: Path) -> dict[str, str]:
    """Sums of all files of a folder, by their names within it."""
    return {path.relative_to(folder).as_posix(): _sum(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
