"""The one way from the command line of an experiment to its report."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mvae_jax import exits, files, runs, terminal
from mvae_jax.data import sources
from mvae_jax.experiment import (
    classifier,
    flags,
    forecast,
    members,
    named,
    pages,
    prior,
    processes,
    provenance,
    session,
)
from mvae_jax.experiment.declaration import Config, Experiment, Measure, Results, Trained
from mvae_jax.experiment.live import Live
from mvae_jax.experiment.members import Member
from mvae_jax.experiment.stages import Stages
from mvae_jax.models import ZOO
from mvae_jax.numerics import in_32_bits
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.observer import Observer
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import Workdir

_log = logging.getLogger("experiment")

# Settings that may differ when a run is resumed: where files lie and how they are read, but not what they hold; how
# the run is watched; and what is measured of trained models.
MAY_CHANGE = (
    *("config.training", "config.evaluation", "config.classifier"),
    *(f"config.data.{name}" for name in ("source", "kind", "digits", "cache_folder", "resident_gib", "workers")),
)

CLASSIFIER, PRIOR = "attribute classifier", "learned prior"  # names for people of what is trained beside the models


@in_32_bits
def run(experiment: Experiment, argv: Sequence[str]) -> None:
    """Does what a command line asks for: trains all models of an experiment, measures, draws and reports.

    Args:
        experiment: the experiment.
        argv: the command line; its first word is the program's.
    """
    with exits.program():
        config, arguments = flags.parse(
            argv,
            experiment.presets,
            workdir=f"runs/{experiment.name}",
            description=experiment.description,
            data=experiment.data,
            experiment=experiment.name,
        )
        with processes.together(), Interruption() as interruption:
            _run(experiment, argv, config, arguments, interruption)


def _run(
    experiment: Experiment, argv: Sequence[str], config: Any, arguments: flags.Arguments, interruption: Interruption
) -> None:
    root, starts = Path(arguments.workdir).expanduser(), {}
    loaded: dict[str, runs.Run] = {}
    plans: dict[str, runs.Plan] = {}
    own: dict[str, Any] = {
        "configs": {"config": config},
        "epochs": runs.lengths_of(experiment.model),
        "flag": flags.argument,
    }
    options: dict[str, Any] = {"extend": arguments.extend, "ignore_removed": arguments.ignore_removed}
    may_change = (*MAY_CHANGE, *experiment.may_change)
    with session.errors():
        # A run that goes on has its parameters, whatever has become of the run from which it started.
        named.check(config, but=["start_from"] if (root / "config.json").exists() else [])
        settings = _settings(experiment, config) | dict(experiment.check_files(config))
    if not (arguments.evaluate or arguments.dry_run):
        session.check(arguments.workdir, settings, may_change, **own, **options)
    with session.errors():
        data = load(experiment, config)
        chosen = experiment.members(config, data)
        _refuse_unused(experiment, config, arguments, data, chosen)
        if arguments.evaluate:
            loaded = {
                folder: members.load(member, root / folder, arguments.phase, ignore_removed=arguments.ignore_removed)
                for folder, member in chosen.items()
            }
        else:
            plans = members.plan(chosen, data, config.training)
            starts = members.starts(plans, config.start_from, root)
            if arguments.extend:
                for planned in plans.values():
                    planned.check_extension()
    notes = list(experiment.notes(config))
    if arguments.evaluate:
        notes += pages.newest(loaded)
    for note in notes:
        _log.warning(note)
    if arguments.dry_run:
        terminal.echo(f"{members.describe(plans, starts)}\n\n{provenance.text(provenance.start())}")
        return
    members.log_weights(chosen)
    if arguments.evaluate:
        if any(name.startswith("prior.") for name in arguments.given):
            # Whoever names it asks for it: a run that was finished without a prior gets one here.
            with session.errors(), session.failures():
                _priors(config, _prior_owners(experiment, config, loaded, data), data, root, interruption, _unobserved)
        stages = Stages()
        with session.failures():
            trained = gather(experiment, config, loaded, data, root, interruption, stages)
            trained.provenance["measured"] = provenance.start()
            _report(experiment, argv, trained, root / "evaluation" / arguments.phase, notes, stages)
        return
    settings |= _checksums(data, chosen)

    def check() -> None:
        members.check_begun(chosen, data, root, may_change=experiment.may_change, **options)
        members.check_checkpoints(plans, root)

    with (
        session.session(
            arguments.workdir,
            provenance.with_start(settings, root, data.provenance),
            may_change,
            check=check,
            interruption=interruption,
            **own,
            **options,
        ) as (workdir, _),
        _live(experiment, config, data, plans, workdir.path, notes) as live,
    ):
        stages = Stages(lambda clause: live.tell(f"Trained; {clause}"))
        fitted = _train(experiment, config, data, chosen, plans, workdir, interruption, options, live)
        with files.noting(lambda: "What was trained is saved: it goes on with measures and figures."):
            trained = gather(
                *(experiment, config, fitted, data, workdir.path, interruption, stages, live.member), learn_priors=True
            )
            if session.is_first():
                scores = _report(experiment, argv, trained, workdir.path, notes, stages)
                live.finish()
                workdir.finish(scores=scores, provenance=trained.provenance)


def _live(
    experiment: Experiment,
    config: Any,
    data: Any,
    plans: Mapping[str, runs.Plan],
    workdir: Path,
    notes: Sequence[str],
) -> Live:
    """The page of the run while it trains."""
    parts = [part for folder, planned in plans.items() for part in forecast.parts(folder, planned.phases)]
    if hasattr(config, "classifier") and data.attributes:
        parts += classifier.parts(data, config.classifier, config.seed)
    if hasattr(config, "prior"):
        owners = {folder: planned for folder, planned in plans.items() if experiment.learns_prior(folder)}
        parts += prior.parts(owners, config.prior)
    title = pages.title(experiment, workdir)
    lead = pages.plan(experiment, {folder: planned.config for folder, planned in plans.items()}, data)
    share = config.training.drawing_share
    title_of = functools.partial(_title_of, experiment)
    return Live(workdir, title, parts, lead=lead, title_of=title_of, share=share, notes=notes)


def _title_of(experiment: Experiment, label: str) -> str:
    """The name for people of what a run trains: a model, the attribute classifier, a prior."""
    folder, _, last = label.rpartition("/")
    if label == classifier.FOLDER:
        return CLASSIFIER
    if last == prior.FOLDER:
        return ", ".join(filter(None, (folder and experiment.title_of(folder), PRIOR)))
    return experiment.title_of(label)


def _refuse_unused(
    experiment: Experiment, config: Any, arguments: flags.Arguments, data: Any, chosen: Mapping[str, Member]
) -> None:
    """Refuses a setting that was given, and without which all models would be the same.

    Raises:
        ValueError: there is such a setting.
    """
    measured = ("data", "evaluation", "classifier", "prior", "training")  # read by the runner and by measures
    known = {field.name for field in dataclasses.fields(Config)}
    for name in arguments.given:
        section, _, field = name.partition(".")
        value = flags.value_of(config, name)
        if section in (*measured, *known) or value == flags.value_of(arguments.base, name):
            continue
        if section == "model" and all(getattr(member.config, field, None) == value for member in chosen.values()):
            continue  # as the images have it
        try:
            other = flags.replaced(config, name, flags.value_of(arguments.base, name))
            without = experiment.members(other, data)
        except ValueError:  # the other settings do not go without it
            continue
        asked = experiment.request(config)
        # Data of another request are other data. The size is left out: digits keep theirs whatever is asked.
        if dataclasses.replace(experiment.request(other), image_size=asked.image_size) != asked:
            continue
        if [_identity(item) for item in without.items()] == [_identity(item) for item in chosen.items()]:
            if _began_with(arguments, config, name, value):
                continue
            raise ValueError(
                f"--config.{name} changes none of the models that are trained, "
                f"{', '.join(filter(None, chosen)) or experiment.model}: they take it from the images or from another "
                "setting, or have no use for it; leave it out."
            )


def _began_with(arguments: flags.Arguments, config: Any, name: str, value: Any) -> bool:
    """Whether the workdir holds a run that an earlier version began with a value that now is none of the preset's."""
    try:
        begun = flags.config_of(arguments.workdir, config, ignore_removed=arguments.ignore_removed)
        return bool(flags.value_of(begun, name) == value)
    except (OSError, ValueError, AttributeError):
        return False


def _identity(item: tuple[str, Member]) -> tuple[Any, ...]:
    folder, member = item
    return folder, member.model, member.config, member.seed, dict(member.digests), member.view


def _settings(experiment: Experiment, config: Any) -> dict[str, Any]:
    """Content of the workdir's config.json that is known before the images are."""
    return {
        "format": runs.FORMAT,
        "experiment": experiment.name,
        "model": experiment.model,
        "config": dataclasses.asdict(config),
    }


def _checksums(data: Any, chosen: Mapping[str, Member]) -> dict[str, Any]:
    """The rest of that content: what images and weights are, and which part of the images a model in it sees."""
    digests = {name: value for member in chosen.values() for name, value in member.digests.items()}
    return {"data_sha256": data.sha256(), **digests, **(chosen[""].view if "" in chosen else {})}


def _train(
    experiment: Experiment,
    config: Any,
    data: Any,
    chosen: Mapping[str, Member],
    plans: Mapping[str, runs.Plan],
    workdir: Workdir,
    interruption: Interruption,
    resumption: Mapping[str, Any],
    live: Live,
) -> dict[str, runs.Run]:
    """Trains all members, one after another; goes on where they were stopped."""
    trained: dict[str, runs.Run] = {}
    for folder, member in chosen.items():
        options: dict[str, Any] = {
            "interruption": interruption,
            "start_from": members.start_of(config.start_from, folder),
        }
        watched: dict[str, Any] = {
            "on_validation": live.on_validation(folder, plans[folder], member.sheet),
            "observer": live.member(folder),
        }
        if not folder:  # the workdir is the model's own, and locked and configured already
            trained[folder] = plans[folder].fit(workdir, **options, **watched)
            continue
        _log.info("model %s", folder)
        trained[folder] = members.train_in_folder(
            member,
            plans[folder],
            data,
            workdir.path / folder,
            watched=watched,
            may_change=experiment.may_change,
            **resumption,
            **options,
        )
    return trained


def _unobserved(label: str) -> Observer:
    return Observer()


def gather(
    experiment: Experiment,
    config: Any,
    fitted: Mapping[str, runs.Run],
    data: Any,
    workdir: Path,
    interruption: Interruption | None = None,
    stages: Stages | None = None,
    observe: Callable[[str], Observer] = _unobserved,
    learn_priors: bool = False,
) -> Trained:
    """The trained models with all that they are measured with; on all hosts at once.

    Args:
        experiment: the experiment.
        config: its config.
        fitted: folder -> model.
        data: the images to measure on.
        workdir: where the models lie, and the classifier that is trained where none is named.
        interruption: whose context lives, if any does.
        stages: of the run, to which classifier and priors belong; by default new ones.
        observe: observer of the training of the classifier, and of a prior, by its name.
        learn_priors: whether those that are missing are trained.
    """
    reader, stages = None, stages or Stages()
    wanted = getattr(config, "classifier", None)
    if wanted and data.attributes and (wanted.epochs or wanted.workdir):
        with stages.stage(CLASSIFIER, "the attribute classifier, which reads generated images"):
            options: dict[str, Any] = {"interruption": interruption, "observer": observe(classifier.FOLDER)}
            reader = classifier.obtain(workdir, data, config.classifier, seed=config.seed, **options)
    priors = {}
    if hasattr(config, "prior") and config.prior.epochs:
        with stages.stage(PRIOR, "the learned prior over codes, by which images are drawn"):
            owners = _prior_owners(experiment, config, fitted, data)
            priors = _priors(config, owners, data, workdir, interruption, observe if learn_priors else None)
    earlier = {}
    if experiment.stages:
        earlier = {folder: _stages(run, workdir / folder) for folder, run in fitted.items()}
    return Trained(
        config,
        fitted,
        data,
        reader,
        {folder: _records(workdir / folder, run.step) for folder, run in fitted.items()},
        earlier,
        priors,
        interruption or Interruption(),
        workdir,
    )


def _prior_owners(
    experiment: Experiment, config: Any, fitted: Mapping[str, runs.Run], data: Any
) -> dict[str, runs.Run]:
    """The models that may have a learned prior: those that have codes, and were trained on these images."""
    return {
        folder: run
        for folder, run in fitted.items()
        if config.prior.epochs
        and experiment.learns_prior(folder)
        and prior.can_have(run)
        and run.settings["data_sha256"] == data.sha256()
    }


def _priors(
    config: Any,
    fitted: Mapping[str, runs.Run],
    data: Any,
    workdir: Path,
    interruption: Interruption | None,
    observe: Callable[[str], Observer] | None,
) -> dict[str, prior.Prior]:
    """Folder of each model -> its learned prior; without `observe` none is trained."""
    priors = {}
    for folder, run in fitted.items():
        if observe:
            options: dict[str, Any] = {"interruption": interruption, "observer": observe(prior.label(folder))}
            priors[folder] = prior.train(workdir / folder, data, config.prior, run=run, seed=config.seed, **options)
        elif found := prior.load(workdir / folder, run):
            priors[folder] = found
    return priors


def _records(folder: Path, step: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to a step: what comes later is of other parameters."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        _log.warning("%s does not exist: nothing tells how the training went.", path)
        return []
    return [line for line in read_metrics(path) if line["step"] <= step]


def _stages(run: runs.Run, folder: Path) -> dict[str, runs.Run]:
    """The model at the end of each phase up to that of the run."""
    names = [phase.name for phase in ZOO[run.settings["model"]].phases(run.config, 1)]
    earlier = {name: runs.load(folder, phase=name) for name in names[: names.index(run.phase)]}
    # Functions of one model are compiled once, whatever the parameters.
    return {name: dataclasses.replace(stage, model=run.model) for name, stage in earlier.items()} | {run.phase: run}


def _report(
    experiment: Experiment,
    argv: Sequence[str],
    trained: Trained,
    folder: Path,
    notes: Sequence[str],
    stages: Stages,
) -> dict[str, Any]:
    """Measures and draws; writes scores.json, figures and report.html into a folder, and returns the scores."""
    with stages.stage("measures", f"measuring: {', '.join(_words(item) for item in experiment.measures)}") as begin:
        results = measure(experiment, trained, begin)
    problems = [*pages.other_images(trained), *experiment.problems(trained, results)]
    for problem in problems:
        _log.warning(problem)
    with stages.stage("figures", "drawing the figures") as begin:
        figures = draw(experiment, trained, results, begin)
    trained.provenance.update(provenance.summary(trained.workdir, trained.records, stages.seconds))
    scores = pages.scores(trained, results)
    pages.write(experiment, argv, trained, results, scores, figures, folder, [*notes, *problems])
    return scores


def _words(measure: Measure) -> str:
    return measure.name.replace("_", " ")


def load(experiment: Experiment, config: Any) -> Any:
    """The images that a config asks for, rendered or read; refuses those that cannot be measured on."""
    request = experiment.request(config)
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    data = sources.load(config.data, **fields)
    experiment.check(config, data)
    if hasattr(config, "classifier") and data.attributes:
        classifier.check(data, config.classifier, config.seed)
    return data


def _silent(clause: str) -> None:
    """Tells nobody what begins."""


def measure(experiment: Experiment, trained: Trained, begin: Callable[[str], None] = _silent) -> dict[str, Any]:
    """The results of all measures, by name; logs each of them, and says in a clause which one begins."""
    results = {}
    for number, item in enumerate(experiment.measures, start=1):
        begin(f"measuring {number} of {len(experiment.measures)}: {item.title or _words(item)}")
        results[item.name] = item.measure(trained)
        for line in pages.lines(item, trained, results[item.name]):
            _log.info("%s", line)
        trained.interruption.check()
    return results


def draw(
    experiment: Experiment, trained: Trained, results: Results, begin: Callable[[str], None] = _silent
) -> dict[str, tuple[str, Any]]:
    """All figures: name of the file -> caption and picture; says in a clause which part of them begins."""
    figures: dict[str, tuple[str, Any]] = {}
    for number, function in enumerate(experiment.figures, start=1):
        begin(f"drawing figures, part {number} of {len(experiment.figures)}")
        figures |= function(trained, results)
        trained.interruption.check()
    return figures
