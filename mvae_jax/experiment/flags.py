"""The command line that every experiment shares: flags in, typed frozen dataclasses out.

A field of the experiment's Config is a flag, `--config.model.latent_size=128`; its meaning in `--help` is its entry
in the Attributes section of its class's docstring. The fields of `--config.data` are those of the kind of data that
`--config.data.source` is. Below this module nobody sees a flag or a ConfigDict.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags
from ml_collections import config_dict, config_flags

from mvae_jax import runs, terminal
from mvae_jax.cpu.memory import keep_freed_memory
from mvae_jax.data import sources
from mvae_jax.data.formats import catalogue, folder
from mvae_jax.exits import fail, message
from mvae_jax.experiment import listing, processes, session
from mvae_jax.fields import as_now, leaves, meanings, renamed
from mvae_jax.train.workdir import resolved

_log = logging.getLogger("experiment")
ConfigT = TypeVar("ConfigT")
_SHOWN = 3  # most names that a message proposes
_TEXTS = {  # what a flag expects that takes any text
    "workdir": "a folder",
    "compilation_cache": "a folder",
    "phase": "the name of a phase",
    "coordinator": "HOST:PORT",
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command line says besides the config.

    Attributes:
        workdir: folder of the run.
        preset: name of the preset that the config started from.
        dry_run: print what would be done, and stop.
        extend: the last phase may be longer than when the run was started.
        ignore_removed: settings of the workdir that this version does not have are passed over.
        evaluate: measure the newest checkpoint, and train nothing but a prior that is asked for; the config started
            from the workdir's instead of the preset.
        phase: with `evaluate`, the phase whose last checkpoint is measured; "" for the newest of all.
        given: dotted names of the config's fields that were set, in their order.
        base: the config before they were.
    """

    workdir: str
    preset: str
    dry_run: bool
    extend: bool = False
    ignore_removed: bool = False
    evaluate: bool = False
    phase: str = ""
    given: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    base: Any = dataclasses.field(default=None, compare=False)


def parse(
    argv: Sequence[str],
    presets: Mapping[str, ConfigT],
    *,
    workdir: str,
    description: str,
    data: Sequence[sources.Config] = (),
    experiment: str = "",
) -> tuple[ConfigT, Arguments]:
    """Reads a command line; the first preset is the default, and with `--evaluate` the workdir's config.json.

    A misspelt flag or field, a value of the wrong type or one that the config refuses ends the program with one
    line on standard error and status 2; `--help` prints every field and ends it with status 0.

    Args:
        argv: `sys.argv`.
        presets: name -> config.
        workdir: default of `--workdir`.
        description: first lines of `--help`.
        data: the kinds of data that the config's field `data` may be, with the defaults of this experiment.
        experiment: its name; "" for an experiment that has none, and takes any run.
    """
    keep_freed_memory()
    arguments = ["--help=chosen" if argument in ("-h", "-help", "--help") else argument for argument in argv[1:]]
    with session.errors():
        programs = runs.default_programs_folder()
    names = list(presets)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", workdir, "Folder of the run; the same command resumes it.", flag_values=values)
    flags.DEFINE_enum("preset", names[0], names, "Config to start from.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print parameters, memory, phases and data, and stop.", flag_values=values)
    flags.DEFINE_bool(
        "extend", False, "Go on, also after the end, where the last phase has become longer.", flag_values=values
    )
    flags.DEFINE_bool(
        "ignore_removed",
        False,
        "Pass over, with a warning, settings of the workdir's config.json that this version does not have.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "evaluate",
        False,
        "Measure the workdir's newest checkpoint as it is, without training: report and figures go to its folder "
        "`evaluation`. With --config.prior.epochs a learned prior is trained where it has none.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "phase",
        "",
        "With --evaluate: measure the last checkpoint of this phase instead, into `evaluation/PHASE`.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "compilation_cache",
        str(programs),
        "Folder that keeps compiled programs, so that the same program is compiled once; empty for none.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "verbose",
        False,
        "Log also what concerns those who work on this code, as idle devices.",
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
    flags.DEFINE_enum(
        "help",
        None,
        ["chosen", "all"],
        "Show this list; =all with the settings of every kind of data, not only of the chosen one.",
        flag_values=values,
    )
    try:
        given, settings, rest = _split_arguments(arguments, values, presets[names[0]])
        values([argv[0], *given])
        _refuse_without_value(settings, presets[names[0]], data)
        if rest and None not in settings.values():
            raise ValueError(
                f"unexpected argument {rest[0]!r}; settings are written --config.field=value, and flags --flag=value."
            )
        if not values.workdir:
            raise ValueError("--workdir is empty; expected a folder.")
        default = presets[values.preset]
        if values.help:
            if "data.source" in settings:
                default = _with_source(default, settings, data)
            terminal.echo(_help(values, default, description, data if values.help == "all" else ()))
            sys.exit(0)
        if values["phase"].present and not (values.evaluate and values.phase):
            raise ValueError(
                f"--phase is {values.phase!r}; expected the name of a phase, and --evaluate beside it: it says which "
                "phase is measured, and a run trains all of its phases."
            )
        if values.evaluate:
            for name in ("preset", "extend", "dry_run"):
                if values[name].present:
                    flag = name.replace("_", "-")
                    raise ValueError(
                        f"--{flag} cannot go with --evaluate: the workdir's config counts, nothing is trained."
                    )
            default = config_of(values.workdir, default, experiment=experiment, ignore_removed=values.ignore_removed)
        resolved(values.workdir)
        base = _with_source(default, settings, data)
        config = _override(base, settings)
        _join(values)
    except BrokenPipeError:  # of --help, to a reader who has gone
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        fail(str(error.args[0]) if isinstance(error, KeyError) else message(error))
    session.start_logging(values.verbose)
    if values.compilation_cache:
        kept = runs.keep_compiled_programs(values.compilation_cache)
        if kept:
            _log.debug("compiled programs are kept in %s", kept)
    return config, Arguments(
        values.workdir,
        values.preset,
        values.dry_run,
        values.extend,
        values.ignore_removed,
        values.evaluate,
        values.phase,
        tuple(settings),
        base,
    )


def _join(values: flags.FlagValues) -> None:
    """Joins the other processes of the run, where there are any."""
    if values.coordinator:
        if not 0 <= values.process < values.processes:
            raise ValueError(f"--process is {values.process}; expected a number below --processes={values.processes}.")
        if not re.fullmatch(r".+:\d+", values.coordinator):
            raise ValueError(f"--coordinator is {values.coordinator!r}; expected HOST:PORT, such as host0:1234.")
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
        processes.join(**described)
    except RuntimeError as error:
        raise ValueError(f"the processes of this run did not find each other: {error}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"--distributed is given, but the environment does not tell the processes ({str(error).rstrip('.')}): "
            "begin them by srun (also within salloc), by mpirun or on a TPU pod, or give --coordinator=HOST:PORT, "
            "--processes and --process to each; without any of these there is one process."
        ) from error


def _split_arguments(
    arguments: Sequence[str], values: flags.FlagValues, config: Any
) -> tuple[list[str], dict[str, str | None], list[str]]:
    """Flags, each with its value in it, the texts of fields, of which None has none, and what is neither.

    Raises:
        ValueError: a flag is not there, has no value, or one that it cannot take.
    """
    given: list[str] = []
    settings: dict[str, str | None] = {}
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, is_attached, text = word.lstrip("-").partition("=")
        if word == "--":
            return given, settings, [*rest, *words]
        if not _is_flag(word):
            rest.append(word)
            continue
        if name.startswith("config."):
            field = renamed(name.removeprefix("config."))
            if settings.get(field, "") is not None:  # one without a value stays wrong
                settings[field] = text if is_attached else None
            continue
        flag, no = _flag(name, values)
        if flag is None:
            raise ValueError(_unknown_flag(word, values, config))
        if not is_attached and not flag.boolean and words and not _is_flag(words[0]):
            is_attached, text = "=", words.pop(0)
        _check_value(flag, no, text if is_attached else None)
        given.append(f"--{no}{flag.name}{is_attached}{text}")
    return given, settings, rest


def _is_flag(word: str) -> bool:
    """Whether an argument is a flag, and no number below zero."""
    return bool(re.match(r"--?[^\W\d]", word))


def _flag(name: str, values: flags.FlagValues) -> tuple[flags.Flag[Any] | None, str]:
    """The flag that a name means, and "no" if it says no to it; None if there is none. Hyphens are underscores."""
    name = name.replace("-", "_")
    if name in values:
        return values[name], ""
    denied = re.sub("^no_?", "", name)
    return (values[denied], "no") if denied in values and values[denied].boolean else (None, "")


def _check_value(flag: flags.Flag[Any], no: str, text: str | None) -> None:
    """Refuses a flag without a value, or with one that it cannot take."""
    name = f"--{no and 'no-'}{flag.name.replace('_', '-')}"
    if isinstance(flag.parser, flags.EnumParser):
        expected = f"one of {', '.join(flag.parser.enum_values)}"
    else:
        expected = _TEXTS.get(flag.name) or _KINDS[type(flag.default)]
    if text is None and not flag.boolean:
        example = shlex.quote(f"{name}={'VALUE' if flag.default in (None, '') else flag.default}")
        raise ValueError(f"{name} has no value; expected {expected}: write {example}.")
    if no and text is not None:
        raise ValueError(f"{name} is {text!r}; expected no value: write {name} alone.")
    try:
        flag.parser.parse("true" if text is None else text)
    except ValueError:
        alone = f"; {name} alone is true" if flag.boolean else ""
        raise ValueError(f"{name} is {text!r}; expected {expected}{alone}.") from None


def argument(name: str, value: Any) -> str:
    """The argument, quoted for a shell, that sets a field to a value; "" for what no argument sets.

    Args:
        name: as config.json names it, "config.model.epochs".
        value: as JSON has it.
    """
    items = value if isinstance(value, list) else [value]
    if not name.startswith("config.") or not items or not all(isinstance(item, str | int | float) for item in items):
        return ""
    texts = [str(item).lower() if isinstance(item, bool) else str(item) for item in items]
    return shlex.quote(f"--{name}={','.join(texts)}")


def _with_source(default: ConfigT, settings: Mapping[str, str | None], data: Sequence[sources.Config]) -> ConfigT:
    """The config with the settings of the kind of data that its source is."""
    if not data:
        return default
    before: sources.Config = default.data  # type: ignore[attr-defined]
    csv = str(settings.get("data.csv") or getattr(before, "csv", folder.CSV))
    source = settings.get("data.source")
    chosen = data_at(before.source if source is None else source, (*data, before), csv)
    return dataclasses.replace(default, data=chosen)  # type: ignore[type-var]


def data_at(source: str, choices: Sequence[sources.Config], csv: str = folder.CSV) -> sources.Config:
    """The settings of the data at a source: those of the last choice that is of its kind.

    Data that were prepared for TFDS take the settings of the published ones.

    Args:
        source: name or path.
        choices: settings of the kinds that may be there.
        csv: name of the CSV by which a user's images are recognised.

    Raises:
        FileNotFoundError: there is nothing at the path, or nothing that is known.
        ValueError: it is of another kind.
    """
    kind = sources.recognise(source, csv=csv)
    for choice in reversed(choices):
        if isinstance(choice, kind.config):
            return dataclasses.replace(choice, source=source)
    for choice in reversed(choices):
        if issubclass(kind.config, catalogue.PREPARED) and isinstance(choice, kind.config.__mro__[1]):
            common = set(sources.fields_of(kind.config)) - {"source"}
            return kind.config(source, **{name: getattr(choice, name) for name in common})
    names = ", ".join(sources.of(choice).name for choice in choices[:-1])
    remedy = "" if kind.has_attributes else f" {sources.NEED_OF_ATTRIBUTES}"
    seen = f" {sources.looked_for(csv)}" if kind.fallback else ""
    raise ValueError(
        f"{source} is {kind.name}, which this experiment does not take; expected one of: {names}.{remedy}{seen}"
    )


def config_of(
    workdir: str | os.PathLike[str], default: ConfigT, *, experiment: str = "", ignore_removed: bool = False
) -> ConfigT:
    """The config of the run in a workdir; what config.json does not say counts as `fields.as_now` says.

    Args:
        workdir: of the run.
        default: a config of the experiment, which tells the fields.
        experiment: its name; "" for any run.
        ignore_removed: pass over, with a warning, settings that this version does not have.

    Raises:
        FileNotFoundError: there is no run in that folder.
        ValueError: it is a run of another experiment, or has settings that this version does not have.
    """
    settings = runs.read_settings(workdir)
    recorded, of = settings["config"], listing.current(settings.get("experiment", ""))
    if experiment and of != experiment and "format" in settings:  # the first format did not name experiments
        whose = f"the experiment {of!r}" if of else "one model"
        raise ValueError(f"{workdir} is a run of {whose}, expected one of the experiment {experiment!r}: give another.")
    data = recorded.get("data") if hasattr(default, "data") else None
    with _of_this_experiment(workdir):
        if isinstance(data, Mapping):
            kind = sources.recorded(data).config
            default = dataclasses.replace(default, data=kind(source=data["source"]))  # type: ignore[type-var]
    file = f"{workdir}/config.json"
    values = as_now(default, recorded, file=file, name="config", ignore_removed=ignore_removed)
    with _of_this_experiment(workdir):
        if isinstance(data, Mapping):
            values["data"] = sources.restore(values["data"])
        return runs.rebuild(default, values)


@contextlib.contextmanager
def _of_this_experiment(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Names the workdir in what is wrong with its settings."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{workdir} is not a run of this experiment: {error}") from error


def _override(default: ConfigT, settings: Mapping[str, str | None]) -> ConfigT:
    """Applies settings, field -> text, to a nested frozen dataclass."""
    config, fields = _to_config_dict(default), dict(leaves(default))
    for name, text in settings.items():
        _check_name(name, fields, default)
        config.update_from_flattened_dict({name: _read(name, text, fields[name])})
    return runs.rebuild(default, config)


def _refuse_without_value(settings: Mapping[str, str | None], default: Any, data: Sequence[sources.Config]) -> None:
    """Refuses fields, of any kind of data, that were given without a value, before another mistake follows from it."""
    fields = {f"data.{name}": value for choice in data for name, value in leaves(choice)} | dict(leaves(default))
    for name, text in settings.items():
        if text is None and name in fields:
            _read(name, None, fields[name])


def _read(name: str, text: str | None, old: Any) -> Any:
    """Reads a value of the type of `old` by way of ml_collections' flags."""
    several = isinstance(old, tuple)
    kind = type(old[0]) if several else type(old)
    expected = f"{_KINDS[kind].removeprefix('a ')}s, separated by commas" if several else _KINDS[kind]
    if text is None:
        example = argument(f"config.{name}", list(old) if several else old) or f"--config.{name}=VALUE"
        raise ValueError(f"--config.{name} has no value; expected {expected}: write {example}.")
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


def _check_name(path: str, fields: Mapping[str, Any], config: Any) -> None:
    if path in fields:
        return
    users = sources.users_of(path.removeprefix("data.")) if path.startswith("data.") else ()
    if users and isinstance(config.data, sources.Config):
        raise ValueError(
            f"--config.{path} is a setting of {', '.join(users)}; the data here are {config.data.kind}, which have no "
            "use for it: leave it out."
        )
    children = [name for name in fields if name.startswith(f"{path}.")]
    if children:
        raise ValueError(f"--config.{path} is a group of fields; set one of them, such as --config.{children[0]}.")
    hint = _nearest(path, _arguments(fields)) or "--help lists every field."
    raise ValueError(f"there is no field --config.{path}; {hint}")


def _unknown_flag(argument: str, values: flags.FlagValues, config: Any) -> str:
    """What to tell a user of an argument whose flag is not there."""
    name, fields = argument.lstrip("-").partition("=")[0], [field for field, _ in leaves(config)]
    if name == "config":
        hint = f"settings are written one by one, such as --config.{fields[0]}=VALUE."
    else:
        known = _arguments(fields) | {flag.replace("_", "-"): f"--{flag.replace('_', '-')}" for flag in values}
        hint = _nearest(re.sub(r"^no[-_]?config\.", "", name), known) or "--help lists every flag."
    return f"there is no flag {argument}; {hint}"


def _arguments(fields: Iterable[str]) -> dict[str, str]:
    """Field -> its argument."""
    return {field: f"--config.{field}" for field in fields}


def _nearest(name: str, known: Mapping[str, str]) -> str:
    """Asks whether the arguments were meant whose names end in a name, or else the most alike; "" for none."""
    ends = [other for other in known if f".{other}".endswith(f".{name}")]
    close = ends[:_SHOWN] or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {' or '.join(known[other] for other in close)}?" if close else ""


def value_of(config: Any, name: str) -> Any:
    """The value of a field by its dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def replaced(config: ConfigT, name: str, value: Any) -> ConfigT:
    """A nested frozen dataclass with another value of a field, by its dotted name."""
    first, _, rest = name.partition(".")
    if rest:
        value = replaced(getattr(config, first), rest, value)
    return dataclasses.replace(config, **{first: value})  # type: ignore[type-var]


def _to_config_dict(config: Any) -> config_dict.ConfigDict:
    return config_dict.ConfigDict(
        {
            field.name: _to_config_dict(value) if dataclasses.is_dataclass(value) else value
            for field in dataclasses.fields(config)
            if field.init
            for value in [getattr(config, field.name)]
        }
    )


def _help(values: flags.FlagValues, default: Any, description: str, data: Sequence[sources.Config]) -> str:
    lines = [description.strip(), "", "flags:"]
    for flag in (flag for flags_of_module in values.flags_by_module_dict().values() for flag in flags_of_module):
        default_text = "" if flag.default is None else f"={flag.default}"
        lines += [f"  --{flag.name.replace('_', '-')}{default_text}", f"      {flag.help}"]
    lines += ["", f"config (defaults of preset {values.preset!r}):", *_help_fields(default, "")]
    for other in data:
        if not isinstance(default.data, type(other)):
            lines += ["", f"config.data where the source is {sources.of(other).name}:", *_help_fields(other, "data.")]
    lines += [
        "",
        "Ids such as MM-13, where a paper and its released code disagree, are explained in docs/discrepancies.md.",
    ]
    return "\n".join(lines)


def _help_fields(config: Any, prefix: str) -> Iterator[str]:
    texts = meanings(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _help_fields(value, f"{prefix}{field.name}.")
        elif field.init:
            yield f"  --config.{prefix}{field.name}={value!r}  [{type(value).__name__}]"
            yield f"      {texts[field.name]}"
