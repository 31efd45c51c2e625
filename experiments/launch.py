"""The command line that every experiment shares: flags in, typed frozen dataclasses out, exit codes.

A field of the experiment's Config is a flag, `--config.model.latent_size=128`; its meaning in `--help` is its entry
in the Attributes section of its class's docstring. Below this module nobody sees a flag or a ConfigDict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from absl import flags
from clu.parameter_overview import count_parameters
from jax.experimental import multihost_utils
from ml_collections import config_dict, config_flags

from mvae_jax import runs
from mvae_jax.data.decode import default_cache_folder
from mvae_jax.objective import Batch, Model, Phase
from mvae_jax.train import loop
from mvae_jax.train.devices import keep_compiled_programs, keep_freed_memory
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import Workdir, WorkdirBusy
from mvae_jax.viz import report

_log = logging.getLogger("launch")
ConfigT = TypeVar("ConfigT")
_PATIENCE = 24 * 3600  # seconds that processes which are done wait for the one that judges and draws
_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command line says besides the config.

    Attributes:
        workdir: folder of the run.
        preset: name of the preset that the config started from.
        dry_run: print what would be done, and stop.
        extend: the last phase may be longer than when the run was started.
        evaluate: judge the newest checkpoint, and train nothing; the config started from the workdir's instead of the
            preset.
    """

    workdir: str
    preset: str
    dry_run: bool
    extend: bool = False
    evaluate: bool = False


def parse(
    argv: Sequence[str], presets: Mapping[str, ConfigT], *, workdir: str, description: str
) -> tuple[ConfigT, Arguments]:
    """Reads a command line; the first preset is the default, and with `--evaluate` the workdir's config.json.

    A misspelt flag or field, a value of the wrong type or one that the config refuses ends the program with one
    line on standard error and status 2; `--help` prints every field and ends it with status 0.

    Args:
        argv: `sys.argv`.
        presets: name -> config.
        workdir: default of `--workdir`.
        description: first lines of `--help`.
    """
    keep_freed_memory()
    arguments = [re.sub(r"^--?(dry|compilation)-", r"--\1_", argument) for argument in argv[1:]]
    names = list(presets)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", workdir, "Folder of the run; the same command resumes it.", flag_values=values)
    flags.DEFINE_enum("preset", names[0], names, "Config to start from.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print parameters, memory, phases and data, and stop.", flag_values=values)
    flags.DEFINE_bool(
        "extend", False, "Go on, also after the end, where the last phase has become longer.", flag_values=values
    )
    flags.DEFINE_bool(
        "evaluate",
        False,
        "Judge the workdir's newest checkpoint as it is, without training: report and figures go to its folder "
        "`evaluation`.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "compilation_cache",
        str(default_cache_folder() / "compiled"),
        "Folder that keeps compiled programs, so that the same program is compiled once; empty for none.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "distributed", False, "One of several processes that the cluster's environment describes.", flag_values=values
    )
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, where there are several and no cluster.", flag_values=values
    )
    flags.DEFINE_integer("processes", 1, "How many processes there are, with --coordinator.", flag_values=values)
    flags.DEFINE_integer("process", 0, "Number of this process, from 0 on, with --coordinator.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this list.", short_name="h", flag_values=values)
    try:
        known = [a for a in arguments if not a.startswith(("--config.", "-config."))]
        _refuse_detached_values(arguments)
        rest = values([argv[0], *known])[1:]
        if rest:
            raise ValueError(f"unexpected argument {rest[0]!r}; settings are written --config.field=value.")
        if not values.workdir:
            raise ValueError("--workdir is empty; expected a folder.")
        default = presets[values.preset]
        if values.help:
            print(_help(values, default, description))
            sys.exit(0)
        if values.evaluate:
            for name in ("preset", "extend", "dry_run"):
                if values[name].present:
                    flag = name.replace("_", "-")
                    raise ValueError(
                        f"--{flag} cannot go with --evaluate: the workdir's config counts, nothing is trained."
                    )
            default = config_of(values.workdir, default)
        config = _override(default, [a for a in arguments if a not in known])
        _join(values)
    except (flags.Error, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        fail(str(error.args[0]) if isinstance(error, KeyError) else str(error))
    start_logging()
    if values.compilation_cache:
        _log.info("compiled programs are kept in %s", keep_compiled_programs(values.compilation_cache))
    return config, Arguments(values.workdir, values.preset, values.dry_run, values.extend, values.evaluate)


def _join(values: flags.FlagValues) -> None:
    """Joins the other processes of the run, where there are any."""
    if values.coordinator:
        if not 0 <= values.process < values.processes:
            raise ValueError(f"--process is {values.process}; expected a number below --processes={values.processes}.")
        described: dict[str, Any] = {
            "coordinator_address": values.coordinator,
            "num_processes": values.processes,
            "process_id": values.process,
        }
    elif values.distributed:
        described = {}
    elif values.processes != 1 or values.process != 0:
        raise ValueError("--processes and --process need --coordinator=HOST:PORT, the address of process 0.")
    else:
        return
    try:
        jax.distributed.initialize(**described, shutdown_timeout_seconds=_PATIENCE)
    except RuntimeError as error:
        raise ValueError(f"the processes of this run did not find each other: {error}") from error


def is_first() -> bool:
    """Whether this is the process that judges and draws, of several the first."""
    return jax.process_index() == 0


def start_logging() -> None:
    """Log lines with the time of day go to standard error; of several processes the first tells."""
    logging.getLogger("jax").setLevel(logging.WARNING)  # it lists the accelerators that are not there
    logging.basicConfig(
        level=logging.INFO if is_first() else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )


def fail(message: str) -> NoReturn:
    """Ends the program with one line on standard error and status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """While a run is prepared: what a user can mend ends the program with its message and status 2, no traceback."""
    try:
        yield
    except (ValueError, OSError, WorkdirBusy) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def session(
    path: str,
    settings: Mapping[str, Any],
    may_change: Sequence[str],
    *,
    epochs: Sequence[str] = (),
    extend: bool = False,
) -> Iterator[tuple[Workdir, Interruption]]:
    """Holds a workdir for one run: one process, the settings that it started with, signals noted.

    A workdir that is finished ends the program with status 0; SIGTERM and Ctrl-C end it with 143 and 130; training
    that diverges and a disk that fails, with a message and 1. Any other error is ours, and keeps its traceback.

    Args:
        path: the workdir.
        settings: goes to config.json; a workdir with other settings is refused.
        may_change: dotted names of settings that may differ when a run is resumed.
        epochs: dotted names of the phases' lengths in their order.
        extend: the last phase may have become longer; see `Workdir.configure`.
    """
    with contextlib.ExitStack() as stack:
        with _first_decides():
            with errors():
                workdir = Workdir(path)
                stack.enter_context(workdir.lock())
                workdir.configure(settings, may_change=may_change, epochs=epochs, extend=extend)
            if is_first() and workdir.is_finished:
                print(f"{workdir.path} is finished; its report is {workdir.path / 'report.html'}.")
                sys.exit(0)
        interruption = stack.enter_context(Interruption())
        try:
            yield workdir, interruption
        except (loop.TrainingDiverged, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)


@contextlib.contextmanager
def _first_decides() -> Iterator[None]:
    """If the first of several processes ends here, all do, with its status."""
    status = -1
    try:
        yield
    except SystemExit as end:
        status = int(end.code or 0)
    if jax.process_count() > 1:
        status = int(multihost_utils.broadcast_one_to_all(np.array(status)))
    if status >= 0:
        sys.exit(status)


def plan(model: Model, phases: Sequence[Phase], batch: Batch, data: Mapping[str, Any]) -> str:
    """What a run would do: parameters, memory, phases and data; nothing is compiled or allocated."""
    state = jax.eval_shape(
        lambda key, batch: loop.states.create(model, phases[0], key, batch), jax.random.key(0), batch
    )

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
        f"  {phase.name}: steps {phase.start:,} to {phase.end:,}, {phase.batch_size} images of {phase.image_size} px"
        for phase in phases
    ]
    lines += ["data:", *(f"  {name}: {value}" for name, value in data.items())]
    return "\n".join(lines)


def how_it_was_made(
    argv: Sequence[str], run: runs.Run, provenance: Mapping[str, Any], config: Any
) -> list[report.Part | str]:
    """The last parts of a report: what is needed to make it again."""
    return [
        report.heading("How it was made"),
        report.code(shlex.join(["python", *argv])),
        report.values({"phase": run.phase, "step": run.step, "seed": run.settings["config"]["seed"]}, "Checkpoint"),
        report.values(provenance, "Data"),
        report.details("Config", [report.values(dataclasses.asdict(config))]),
        report.values(report.versions(), "Versions"),
    ]


def _refuse_detached_values(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if argument.startswith(("--config.", "-config.")) and "=" not in argument:
            raise ValueError(f"{argument} has no value; write {argument}=VALUE.")


def config_of(workdir: str | os.PathLike[str], default: ConfigT) -> ConfigT:
    """The config of the run in a workdir; what config.json does not say is as in `default`.

    Raises:
        FileNotFoundError: there is no run in that folder.
        ValueError: it is a run of another experiment.
    """
    settings = runs.read_settings(workdir)
    try:
        return runs.rebuild(default, settings["config"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{workdir} is not a run of this experiment: {error}") from error


def _override(default: ConfigT, settings: Sequence[str]) -> ConfigT:
    """Applies `--config.x.y=value` settings to a nested frozen dataclass."""
    config, fields = _to_config_dict(default), dict(_leaves(default))
    for setting in settings:
        path, text = setting.split("=", 1)
        name = path.lstrip("-").removeprefix("config.")
        _check_name(name, fields)
        config.update_from_flattened_dict({name: _read(name, text, fields[name])})
    return runs.rebuild(default, config)


def _read(name: str, text: str, old: Any) -> Any:
    """Reads a value of the type of `old` by way of ml_collections' flags."""
    several = isinstance(old, tuple)
    kind = type(old[0]) if several else type(old)
    expected = f"{_KINDS[kind].removeprefix('a ')}s, separated by commas" if several else _KINDS[kind]
    wrong = f"--config.{name} is {text!r}; expected {expected}."
    values, arguments = flags.FlagValues(), ["experiment", f"--config.value={text}"]
    field = config_dict.ConfigDict({"value": old})
    config_flags.DEFINE_config_dict("config", field, flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except flags.IllegalFlagValueError:
        raise ValueError(wrong) from None
    items = values.config.value if several else (values.config.value,)
    if several and kind is float:
        items = tuple(float(item) if type(item) is int else item for item in items)
    if not all(type(item) is kind and (kind is not float or math.isfinite(item)) for item in items):
        raise ValueError(wrong)
    if several and kind is str:
        items = tuple(part.strip() for item in items for part in item.split(","))  # quotes may be left out
    return items if several else items[0]


def _check_name(path: str, fields: Mapping[str, Any]) -> None:
    if path in fields:
        return
    children = [name for name in fields if name.startswith(f"{path}.")]
    if children:
        raise ValueError(f"--config.{path} is a group of fields; set one of them, such as --config.{children[0]}.")
    close = difflib.get_close_matches(path, fields, n=1, cutoff=0.5)
    hint = f"did you mean --config.{close[0]}?" if close else "--help lists every field."
    raise ValueError(f"there is no field --config.{path}; {hint}")


def _to_config_dict(config: Any) -> config_dict.ConfigDict:
    return config_dict.ConfigDict(
        {
            field.name: _to_config_dict(value) if dataclasses.is_dataclass(value) else value
            for field in dataclasses.fields(config)
            for value in [getattr(config, field.name)]
        }
    )


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def meanings(config_class: type) -> dict[str, str]:
    """Reads the Attributes sections of a dataclass's docstring and of those that it inherits: {field: meaning}."""
    entries: dict[str, str] = {}
    for base in config_class.__bases__:
        entries |= meanings(base)
    section = (config_class.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
    for line in section.splitlines():
        start = re.match(r" {8}(\w+): (.*)", line)
        if start:
            name = start[1]
            entries[name] = start[2]
        elif line.startswith(" " * 12) and entries:
            entries[name] += f" {line.strip()}"
        elif line.strip():
            break
    return entries


def _help(values: flags.FlagValues, default: Any, description: str) -> str:
    lines = [description.strip(), "", "flags:"]
    for flag in (flag for flags_of_module in values.flags_by_module_dict().values() for flag in flags_of_module):
        lines += [f"  --{flag.name.replace('_', '-')}={flag.default}", f"      {flag.help}"]
    lines += ["", f"config (defaults of preset {values.preset!r}):", *_help_fields(default, "")]
    return "\n".join(lines)


def _help_fields(config: Any, prefix: str) -> Iterator[str]:
    texts = meanings(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _help_fields(value, f"{prefix}{field.name}.")
        else:
            yield f"  --config.{prefix}{field.name}={value!r}  [{type(value).__name__}]"
            yield f"      {texts[field.name]}"
