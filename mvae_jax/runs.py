"""Models of the zoo, trained and loaded: `run = train("runs/vae", "vae", config, data)`, `run = load("runs/vae")`.

Both give a `Run`, whose functions are those of the model with its parameters: `run.encode(images)`. `train` is made of
pieces that an experiment uses one by one: `plan` checks a model on its data and trains nothing, `config_json` is what
must stay the same when a run goes on, and `Plan.fit` trains within a workdir that is locked and configured.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mvae_jax import _json, export, fields
from mvae_jax.data.batches import Dataset, Split, Splits, permutation
from mvae_jax.data.decode import default_cache_folder
from mvae_jax.models import ZOO
from mvae_jax.numerics import in_32_bits, in_float32
from mvae_jax.objective import INCOMPARABLE, Batch, Model, ModelState, Params, Phase
from mvae_jax.train import config_file, devices, loop
from mvae_jax.train import state as states
from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.devices import Placement
from mvae_jax.train.feed import Source
from mvae_jax.train.observer import Observer
from mvae_jax.train.signals import Interruption
from mvae_jax.train.state import TrainState
from mvae_jax.train.workdir import PROVENANCE, Workdir, check_format, folder_of

ConfigT = TypeVar("ConfigT")
FORMAT = 2  # of config.json; files without a number are of the first
_NAMED = 8  # most runs that a message names
_SHAPES = ("count", "size")  # arguments of a model's functions that are shapes: each value compiles anew


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A model with the parameters of a checkpoint.

    The model's functions are attributes, compiled, and hold parameters and state already: `run.encode(images)`,
    `run.decode(z)`, `run.sample(key, count)`, and those of `run.model.functions`, such as `run.encode_image`. Those of
    a conditional model take attributes: `run.encode(images, attributes)`, `run.sample(key, attributes)`.

    Attributes:
        model: the model's pure functions.
        config: the model's Config.
        params: {group: parameters}; the moving average where the run kept one.
        model_state: {group: batch statistics}.
        phase: name of the checkpoint's phase.
        step: steps done at the checkpoint.
        settings: what config.json says of the run.
    """

    model: Model
    config: Any
    params: Params
    model_state: ModelState
    phase: str
    step: int
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model, config: Any, state: TrainState, phase: str, settings: Mapping[str, Any]) -> Run:
        """A run from a state in memory, as if it had been loaded; on all hosts at once."""

        def first(leaf: jax.Array) -> jax.Array:
            if not leaf.is_fully_replicated:
                leaf = jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))  # type: ignore[attr-defined]
            return leaf.addressable_data(0)

        trained = {**state.params, **(state.ema or {})}, state.model_state
        params, model_state = _bound_nowhere(jax.tree.map(first, trained))
        return cls(model, config, params, model_state, phase, int(state.step), settings)

    @classmethod
    def imported(cls, model: str, config: Any, params: Params, model_state: ModelState, source: str) -> Run:
        """A run of a model that was trained elsewhere, such as `models.alae.released.load` reads; it may be exported.

        Args:
            model: name in the zoo.
            config: the model's Config.
            params: {group: parameters}.
            model_state: {group: batch statistics}.
            source: where it comes from, in words.
        """
        settings = {
            "format": FORMAT,
            "model": model,
            "config": {"model": json.loads(json.dumps(dataclasses.asdict(config)))},
            PROVENANCE: {"data": {"source": source}},
        }
        return cls(ZOO[model].build(config), config, params, model_state, "imported", 0, settings)

    @functools.cached_property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The model's functions by name, compiled, with parameters and state filled in."""
        named = export.functions.named(self.model)
        return {name: _bind(name, function, self.params, self.model_state) for name, function in named.items()}

    def export(self, folder: str | os.PathLike[str], **options: Any) -> Path:
        """Writes a folder that holds this model and needs no workdir; `load` reads it.

        Args:
            folder: the folder to write, in place of nothing or of an export that nobody changed.
            **options: prior, scores, member, license and with_functions, see `export.write`.

        Returns:
            The folder.

        Raises:
            DiskFull: the system has no room for it.
            FileExistsError: there is something else.
            ValueError: flatbuffers is not installed, by which functions are written; the prior is none over codes of
                this model; or the phase trained images that are smaller than those of the functions.
        """
        phases = {phase.name: phase for phase in ZOO[self.settings["model"]].phases(self.config, 1)}
        phase = phases.get(self.phase)  # one that was trained elsewhere has none
        if phase and phase.image_size != self.config.image_size and options.get("with_functions", True):
            raise ValueError(
                f"phase {self.phase!r} trained images of {phase.image_size} px, and functions are for those of "
                f"{self.config.image_size} px: export a later phase, or weights alone (--weights-only; from Python "
                "with_functions=False)."
            )
        return export.write(self, folder, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in self.functions:
            raise AttributeError(f"this run has no function {name!r}; it has {', '.join(sorted(self.functions))}.")
        return self.functions[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.functions})

    def __repr__(self) -> str:
        functions = ", ".join(sorted(self.functions))
        return f"<run of {self.settings.get('model')}: phase {self.phase}, step {self.step}; functions {functions}>"


def _bound_nowhere(tree: Any) -> Any:
    """Arrays on the default device that follow the others of a function, as to the mesh that its caller has set."""
    with devices.without_mesh():
        return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


_MEANINGS = {
    "encode": "Encodes images, float [B, H, W, C] in [-1, 1]: mean and log variance of their codes, each [B, D].",
    "decode": "Decodes codes, [B, D]: images [B, H, W, C] in [-1, 1].",
    "sample": "Draws `count` images from the prior with a key: [count, H, W, C] in [-1, 1].",
}


def _bind(name: str, function: Callable[..., Any], params: Params, state: ModelState) -> Callable[..., Any]:
    """A model's function, compiled, with its first two arguments filled in; name, docstring and signature tell so."""
    signature = inspect.signature(function)
    compiled = jax.jit(function, static_argnames=[shape for shape in _SHAPES if shape in signature.parameters])

    @in_float32
    @in_32_bits
    def bound(*arguments: Any, **named: Any) -> Any:
        return compiled(params, state, *arguments, **named)

    described = function.func if isinstance(function, functools.partial) else function
    bound.__name__ = bound.__qualname__ = name
    bound.__doc__ = inspect.getdoc(described) or _MEANINGS.get(name)
    bound.__signature__ = signature.replace(parameters=[*signature.parameters.values()][2:])  # type: ignore[attr-defined]
    return bound


# --- loading --------------------------------------------------------------------------------------------------------


def load(
    workdir: str | os.PathLike[str], *, phase: str | None = None, best: bool = False, ignore_removed: bool = False
) -> Run:
    """Restores the model of a run, which may be finished, stopped or in training, or of an export.

    Settings that an earlier version did not have count as in its runs, see `fields.as_now`.

    Args:
        workdir: folder of the run, or of an export, which has one checkpoint alone.
        phase: a phase's name; by default the newest that has a checkpoint.
        best: take the phase's checkpoint with the lowest validation loss instead of its last.
        ignore_removed: pass over, with a warning, settings of an earlier version that this one does not have.

    Raises:
        FileNotFoundError: there is no run in that folder, or it has no such checkpoint yet.
        ValueError: the run's model, a setting of it or the phase is unknown, the best checkpoint is asked of a phase
            whose validation losses do not compare, a file is damaged, or JAX finds no device.
    """
    devices.check()
    folder = folder_of(workdir)
    settings = read_settings(folder)
    entry = ZOO[settings["model"]]
    default, recorded, file = entry.config(), settings["config"]["model"], folder / config_file.NAME
    values = fields.as_now(default, recorded, file=file, name="config.model", ignore_removed=ignore_removed)
    try:
        config = rebuild(default, values)
        phases = {phase.name: phase for phase in entry.phases(config, 1)}
        model = entry.build(config)
    except Exception as error:  # whatever impossible values provoke, the reader learns which file has them
        raise ValueError(f"{file} has no settings of a model of this version: {error}") from error
    if export.is_export(folder):
        return _load_export(folder, model, config, settings, phase, best)
    if phase is not None and phase not in phases:
        raise ValueError(f"{folder} has no phase {phase!r}; its phases are {', '.join(phases)}.")
    with Checkpoints(folder, list(phases)) as checkpoints:
        name, step, saved = _restore(folder, checkpoints, phases, phase, best)
    params, state = _bound_nowhere(({**saved["params"], **(saved["ema"] or {})}, saved["model_state"]))
    return Run(model, config, params, state, name, step, settings)


def _load_export(
    folder: Path, model: Model, config: Any, settings: Mapping[str, Any], phase: str | None, best: bool
) -> Run:
    found = export.read(folder)
    if best or phase not in (None, found.phase):
        raise ValueError(
            f"{folder} is an export of phase {found.phase!r}, step {found.step}, and has no other checkpoint: "
            "leave out phase and best, or load the run."
        )
    export.check_weights(folder, found, model, config)
    params, state = _bound_nowhere((found.params, found.model_state))
    return Run(model, config, params, state, found.phase, found.step, settings)


def read_settings(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads config.json of a run: "model", a name of the zoo, "config" with the model's as "model", and more.

    Raises:
        FileNotFoundError: there is no run in that folder.
        ValueError: the file is damaged, was changed since it was written, is of a later format, or of a model that
            this version does not have.
    """
    path = folder_of(workdir) / config_file.NAME
    if not path.is_file():
        remedy = _within(path.parent) or "Give the folder that a training wrote (--workdir), or an export."
        raise FileNotFoundError(f"{path} does not exist; expected the workdir of a run. {remedy}")
    try:
        settings = _json.load(path)
        model, _ = settings["model"], settings["config"]["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not that of a run of a model of the zoo ({error!r}): give that of a run."
        ) from error
    check_format(path, settings, FORMAT)
    settings, _ = config_file.opened(path, settings)
    if model not in list(ZOO):
        raise ValueError(f"{path} is of the model {model!r}; this version has {', '.join(ZOO)}.")
    return settings


def _within(folder: Path) -> str:
    """A sentence that names the runs in a folder which holds no model itself, as an experiment's; "" for none."""
    found = sorted(path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{config_file.NAME}"))
    names = ", ".join(str(path.relative_to(folder)) for path in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if found[_NAMED:] else ""
    return f"It holds runs of its own: {names}{more}. Give one of them, such as {found[0]}." if found else ""


def _restore(
    folder: Path, checkpoints: Checkpoints, phases: Mapping[str, Phase], phase: str | None, best: bool
) -> tuple[str, int, Any]:
    """Chooses a checkpoint and restores it: phase, step and state."""
    failed = None
    while True:
        name = phase or (checkpoints.latest() or ("any phase", 0))[0]
        if best and name in phases and not phases[name].comparable:
            raise ValueError(
                f"{folder} has no best checkpoint of phase {name}, whose validation loss compares with no other: "
                f"{INCOMPARABLE}. Leave out best, and the newest one is taken."
            )
        step = checkpoints.best(name) if best else max(checkpoints.steps(name), default=None)
        if step is None:
            remedy = _within(folder) or "Wait until the training has saved one, or choose another run or phase."
            raise FileNotFoundError(f"{folder} has no {'best ' if best else ''}checkpoint of {name} yet. {remedy}")
        try:
            return name, step, checkpoints.restore(name, step, parts=("params", "ema", "model_state"))
        except Exception:
            if failed == (name, step):
                raise
            failed = name, step  # unless it is damaged, the process that trains has just put another in its place


def rebuild(default: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """A nested frozen dataclass from nested mappings, such as JSON gives: the inverse of `dataclasses.asdict`.

    Args:
        default: an instance, which tells the types and what `values` does not say.
        values: field -> value; lists become tuples. A dataclass takes the place of the default as it is. Where the
            default is a tuple of dataclasses, each item is one of their kind, and what it does not say is as that kind
            has it by default.

    Raises:
        ValueError: `values` has a field that the dataclass does not have.
    """
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(default)})  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"{type(default).__qualname__} has no field {', '.join(unknown)}: another version wrote it.")
    changes = {}
    for field in dataclasses.fields(default):  # type: ignore[arg-type]
        if field.name in values:
            old, new = getattr(default, field.name), values[field.name]
            if isinstance(old, tuple) and old and dataclasses.is_dataclass(old[0]):
                kind: Any = type(old[0])
                changes[field.name] = tuple(_rebuilt(kind(), item) for item in new)
            else:
                changes[field.name] = _rebuilt(old, new)
    return dataclasses.replace(default, **changes)  # type: ignore[type-var]


def _rebuilt(old: Any, new: Any) -> Any:
    nested = dataclasses.is_dataclass(old) and not dataclasses.is_dataclass(new)
    return rebuild(old, new) if nested else _frozen(new)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


# --- compiled programs ---------------------------------------------------------------------------------------------


def default_programs_folder() -> Path:
    """Folder of the user's cache in which compiled programs are kept."""
    return default_cache_folder() / "compiled"


def keep_compiled_programs(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """`train.devices.keep_compiled_programs`, by default in the user's cache: what experiments compile, commands use.

    Args:
        folder: where to keep them; None for the default.
    """
    return devices.keep_compiled_programs(default_programs_folder() if folder is None else folder)


# --- training -------------------------------------------------------------------------------------------------------


def train(
    workdir: str | os.PathLike[str],
    model: str,
    config: Any,
    data: Dataset | Mapping[str, Any],
    *,
    seed: int = 42,
    settings: loop.Settings | None = None,
    interruption: Interruption | None = None,
    on_validation: loop.OnValidation | None = None,
    start_from: str | os.PathLike[str] | None = None,
    may_change: Collection[str] = (),
    extend: bool = False,
    ignore_removed: bool = False,
) -> Run:
    """Trains a model of the zoo in a folder of its own, which `load` loads as well.

    The same call goes on with a run that was stopped or killed, to the same bits, and loads one that is complete.

    Args:
        workdir: folder of the run.
        model: name in the zoo, such as "vae".
        config: the model's Config.
        data: images to train and to validate on: a `data.batches.Dataset`, such as `data.sources.load` gives; or arrays
            {"image": uint8 [N, H, W, C], "attributes": [N, A] in {0, 1}}, the latter for models that learn them,
            {"code": float32 [N, D], ...} for a model of codes, or the modalities of a multimodal VAE with masks, see
            `Split`. Of arrays a tenth is only validated on, for all seeds the same.
        seed: of the initialisation, of every draw and of the order of the images.
        settings: how the run is watched, saved and spread over devices; this may change when it goes on.
        interruption: if requested, the state is saved and `Interrupted` raised; by default Ctrl-C stops at once.
        on_validation: called after each validation, see `train.loop.fit`.
        start_from: workdir of another run, or folder of its checkpoint, whose parameters this one starts with.
        may_change: dotted names of entries of config.json that may differ when the run goes on.
        extend: the last phase may have become longer since the run was started.
        ignore_removed: pass over, with a warning, settings of an earlier version that this one does not have.

    Returns:
        The model with the parameters after the last step.

    Raises:
        FileNotFoundError: `start_from` has no checkpoint.
        ValueError: model, config and data do not go together, or the folder holds a run with other settings, or one
            whose checkpoints are all damaged.
        WorkdirBusy: another process trains in that folder.
        TrainingDiverged: too many consecutive steps were not finite; the checkpoints before stay.
        Interrupted: the interruption was requested and the state is saved.
    """
    planned = plan(model, config, data, seed=seed, settings=settings)
    if extend:
        planned.check_extension()
    if start_from:
        planned.check_start(start_from, workdir)
    folder = Workdir(workdir)
    with folder.lock():
        planned.check_checkpoints(folder.path)
        folder.configure(
            config_json(model, config, planned.data, seed, start_from),
            configs={"config.model": config},
            may_change=may_change,
            epochs=lengths_of(model),
            extend=extend,
            ignore_removed=ignore_removed,
        )
        return planned.fit(folder, interruption=interruption, on_validation=on_validation, start_from=start_from)


def config_json(
    model: str, config: Any, data: Dataset, seed: int, start_from: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Content of config.json, which must be the same when a run goes on; `read_settings` reads it."""
    start = {"start_from": os.fspath(start_from)} if start_from else {}
    return {
        "format": FORMAT,
        "model": model,
        "config": {"seed": seed, "model": dataclasses.asdict(config), **start},
        "data_sha256": data.sha256(),
    }


def lengths_of(model: str) -> tuple[str, ...]:
    """Dotted names in config.json of the lengths of a model's phases, see `Workdir.configure`."""
    return tuple(f"config.model.{name}" for name in ZOO[model].lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A model, its data and its phases, which go together; `str` says what the training would be.

    Attributes:
        name: of the model in the zoo.
        config: the model's Config.
        model: the model's pure functions.
        phases: one after another.
        data: the images.
        seed: of the run.
        settings: how it is watched, saved and spread over devices.
        placement: the devices.
    """

    name: str
    config: Any
    model: Model
    phases: tuple[Phase, ...]
    data: Dataset
    seed: int
    settings: loop.Settings
    placement: Placement

    def batches(self, phase: Phase) -> Source:
        """The images in the order in which a phase visits them."""
        return self.data.batches(phase.image_size, phase.batch_size, self.seed, phase.start, phase.shuffle)

    @functools.cached_property
    def example(self) -> Batch:
        """A batch of the first phase, for shapes only."""
        return loop.example(self.batches(self.phases[0]), self.phases[0])

    def __str__(self) -> str:
        return describe(self.model, self.phases, self.example, self.data.provenance)

    def check_start(self, start_from: str | os.PathLike[str], workdir: str | os.PathLike[str]) -> Path | None:
        """Refuses another run's checkpoint from which this training could not start, see `loop.check_start`."""
        return loop.check_start(self.model, self.phases, self.example, start_from=start_from, workdir=workdir)

    def check_checkpoints(self, workdir: str | os.PathLike[str]) -> None:
        """Refuses a workdir with checkpoints of which none can be gone on with, see `Checkpoints.check`."""
        with Checkpoints(workdir, [phase.name for phase in self.phases]) as checkpoints:
            checkpoints.check()

    def check_extension(self) -> None:
        """Refuses a last phase whose longer form is another training, not more of the same.

        Raises:
            ValueError: a learning rate is a schedule over the steps of the phase.
        """
        last = self.phases[-1]
        scheduled = [group for group, rate in last.learning_rates.items() if callable(rate)]
        if scheduled:
            raise ValueError(
                f"phase {last.name!r} cannot be extended: the learning rate of {', '.join(scheduled)} is a schedule "
                "over its steps, so a longer phase differs from the start. Train it in another workdir."
            )

    def fit(
        self,
        workdir: Workdir,
        *,
        interruption: Interruption | None = None,
        on_validation: loop.OnValidation | None = None,
        start_from: str | os.PathLike[str] | None = None,
        observer: Observer | None = None,
    ) -> Run:
        """Trains in a workdir that is locked and configured, or goes on there; see `train`."""
        state = loop.fit(
            self.model,
            self.phases,
            self.batches,
            workdir=workdir.path,
            seed=self.seed,
            validation=self.data.validation.arrays,
            settings=self.settings,
            placement=self.placement,
            interruption=interruption,
            on_validation=on_validation,
            start_from=start_from,
            observer=observer,
        )
        return Run.of(self.model, self.config, state, self.phases[-1].name, read_settings(workdir.path))


def plan(
    model: str,
    config: Any,
    data: Dataset | Mapping[str, Any],
    *,
    seed: int = 42,
    settings: loop.Settings | None = None,
    built: Model | None = None,
) -> Plan:
    """Checks that a model can be trained on such data, without training, compiling or writing anything.

    Args:
        model: name in the zoo.
        config: the model's Config.
        data: as for `train`.
        seed: of the run.
        settings: how it is watched, saved and spread over devices.
        built: the model's functions where they need more than the config, such as VGG's weights.

    Raises:
        ValueError: the zoo has no such model, or its config, the data and the devices do not go together.
    """
    if model not in ZOO:
        close = difflib.get_close_matches(model, ZOO, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the zoo has {', '.join(ZOO)}."
        raise ValueError(f"model is {model!r}; {hint}")
    entry, settings = ZOO[model], settings or loop.Settings()
    kind = type(entry.config())
    if type(config) is not kind:
        raise ValueError(
            f"config is {config!r:.80}; expected a {kind.__module__}.{kind.__name__}, as {model!r} has it."
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; expected a number from 0 to 2**32 - 1.")
    names = tuple(getattr(config, "attributes", ()))
    if isinstance(data, Mapping):
        data = split(data, names)
    elif not hasattr(data, "batches"):
        raise ValueError(
            f"data are a {type(data).__name__}; expected arrays by name, {{'image': uint8 [N, H, W, C]}}, or what "
            "`mvae_jax.data.sources.load` gives."
        )
    if names and names != data.attributes:
        raise ValueError(
            f"the model learns the attributes {', '.join(names)}, and the data have "
            f"{', '.join(data.attributes) or 'none'}; expected the same in the same order: set the config's "
            "`attributes`, or give the data theirs."
        )
    for split_name, each in data if isinstance(data, Splits) and not entry.takes_missing else ():
        for value in ("image", *(("attributes",) if names else ())):
            if lacking := int((~each.present(value)).sum()):
                raise ValueError(
                    f"{value} of {lacking} of the {len(each)} examples for {split_name} are missing, as "
                    f"'present/{value}' says, and {model!r} needs all; expected complete examples: leave the others "
                    "out, or train a multimodal VAE, to which any may be missing."
                )
    if not len(data.validation):
        raise ValueError("the validation split has no image; expected at least one: set some of the images aside.")
    steps_per_epoch = data.batches(config.image_size, config.batch_size, seed).steps_per_epoch
    phases, placement = entry.phases(config, steps_per_epoch), settings.place()
    loop.check_phases(phases, placement)
    for phase in phases:
        placement.check_batch_size(phase.batch_size // phase.parts)  # what is in the networks at once
    if built is None:
        examples = data.examples("train", config.image_size).arrays if entry.from_data else {}
        built = entry.build(config, **(entry.from_data(config, examples) if entry.from_data else {}))
    if entry.check_data and isinstance(data, Splits):
        for _, some in data:
            entry.check_data(config, some.arrays)
    planned = Plan(model, config, built, phases, data, seed, settings, placement)
    _state(planned.model, phases, planned.example)  # the model refuses images that it is not for
    return planned


def split(arrays: Mapping[str, Any], names: tuple[str, ...] = ()) -> Splits:
    """Arrays [N, ...] in two, as `train` has them: a tenth is validated on, drawn without regard to their order.

    Args:
        arrays: as for `train`.
        names: of the attributes; by default they are numbered.

    Raises:
        ValueError: the arrays are not what `train` takes.
    """
    whole = {name: np.asarray(array) for name, array in arrays.items()}
    if "attributes" in whole:
        attributes = whole["attributes"].astype(np.float32)
        whole["attributes"] = attributes
        there = attributes[Split(whole).present("attributes")]
        if not np.isin(there, (0, 1)).all():
            value = there[~np.isin(there, (0, 1))][0]
            raise ValueError(f"'attributes' hold {value:g}; expected 0 or 1: does the image have the attribute?")
        columns = attributes.shape[1] if attributes.ndim == 2 else 0
        names = names or tuple(f"attribute_{column}" for column in range(columns))
    else:
        names = ()
    all_of_them = Split(whole)
    order, held_out = permutation(len(all_of_them), 0), max(1, len(all_of_them) // 10)
    train, validation = (all_of_them.take(np.sort(part)) for part in (order[held_out:], order[:held_out]))
    provenance = {"data_set": "arrays", "counts": {"train": len(all_of_them) - held_out, "validation": held_out}}
    return Splits(Split(train), Split(validation), all_of_them.first(0), names, provenance)


def describe(model: Model, phases: Sequence[Phase], batch: Batch, data: Mapping[str, Any]) -> str:
    """Parameters, memory, phases and data of a training; nothing is compiled or allocated.

    Args:
        model: the model.
        phases: its phases.
        batch: one batch, for shapes only.
        data: name -> what is to be said of the data.
    """
    from clu.parameter_overview import count_parameters

    state = _state(model, phases, batch)
    trained = {group: state.params[group] for phase in phases for group in model.optimizers(phase)}
    frozen = {group: params for group, params in state.params.items() if group not in trained}
    # Parameters, and for trained ones the gradient and two moments, all float32.
    floats = count_parameters(state.params) + 3 * count_parameters(trained)
    lines = ["parameters:"]
    for kind, groups in (("", trained), (" (frozen)", frozen)):
        for group, params in groups.items():
            lines.append(f"  {group}{kind}: {count_parameters(params):,}")
            parts = {name: part for name, part in params.items() if len(jax.tree.leaves(part)) > 2}
            lines += [f"    {name}: {count_parameters(part):,}" for name, part in parts.items()]
    lines.append(f"memory: {floats * 4 / 2**20:,.0f} MiB for the state, activations besides")
    lines.append("phases:")
    lines += [
        f"  {phase.name}: steps {phase.start:,} to {phase.end:,}, {phase.batch_size} "
        + (f"images of {phase.image_size} px" if phase.image_size else "codes" if "code" in batch else "examples")
        for phase in phases
    ]
    lines += ["data:", *(f"  {name}: {value}" for name, value in data.items())]
    return "\n".join(lines)


def _state(model: Model, phases: Sequence[Phase], batch: Batch) -> TrainState:
    """Shapes of the state before the first step."""
    return jax.eval_shape(lambda key, batch: states.create(model, phases[0], key, batch), jax.random.key(0), batch)
