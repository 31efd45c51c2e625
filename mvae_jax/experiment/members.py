"""The models that an experiment trains: planned, trained one after another, and loaded again."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvae_jax import runs
from mvae_jax.data import missing
from mvae_jax.data.batches import Dataset, Splits
from mvae_jax.experiment import provenance, sheets
from mvae_jax.files import expanded
from mvae_jax.models import ZOO
from mvae_jax.objective import Model
from mvae_jax.train import loop
from mvae_jax.train.signals import Interruption
from mvae_jax.train.workdir import Workdir, WorkdirBusy

_log = logging.getLogger("experiment")


@dataclasses.dataclass(frozen=True)
class Member:
    """A model that an experiment trains, alone or beside others.

    Attributes:
        model: its name in the zoo.
        config: its config.
        seed: of its initialisation, its draws and the order of its images.
        arguments: what `build` takes besides the config, such as pretrained weights.
        digests: checksums of these, name -> value, which a resumed run must have again.
        sheet: what a sheet of held-out images shows while the model trains.
        hidden: name of a modality -> share of the training examples that lose it, see `data.missing.hide`; the seed
            chooses them. Validation examples keep all. A resumed run must have the same shares.
        needs: modalities without which an example is not trained on; the others stand in for it, so that the steps are
            as many, see `data.missing.complete`.
    """

    model: str
    config: Any
    seed: int
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    digests: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    sheet: sheets.Rows = sheets.reconstructions_and_samples
    hidden: Mapping[str, float] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def build(self) -> Model:
        """The model's pure functions."""
        return ZOO[self.model].build(self.config, **self.arguments)

    @property
    def view(self) -> dict[str, Any]:
        """What config.json says of the part of the data that it trains on; {} of a model that trains on all."""
        view = {"hidden": dict(self.hidden), "needs": list(self.needs)}
        return {name: value for name, value in view.items() if value}

    def seen(self, data: Dataset) -> Dataset:
        """The part of an experiment's data that it trains on.

        Raises:
            ValueError: they are not in memory, or have no such modality, or no example is left.
        """
        return part_of(data, self.view, self.seed)

    def plan(self, data: Dataset, training: loop.Settings | None = None) -> runs.Plan:
        """The training on what it sees of such images; refuses what cannot be trained, see `runs.plan`."""
        return self.plan_on(self.seen(data), training)

    def plan_on(self, part: Dataset, training: loop.Settings | None = None) -> runs.Plan:
        """The training on what `seen` returned."""
        built = self.build() if self.arguments else None  # else the data may give arguments
        return runs.plan(self.model, self.config, part, seed=self.seed, settings=training, built=built)

    def settings(self, data: Dataset) -> dict[str, Any]:
        """Content of config.json of a model with a folder of its own, of the whole data of which it sees a part."""
        return runs.config_json(self.model, self.config, data, self.seed) | dict(self.digests) | self.view

    def configure(self, workdir: Workdir, data: Dataset, **options: Any) -> None:
        """Writes or checks config.json of a model with a folder of its own.

        Args:
            workdir: that folder.
            data: the whole data, of which it may see a part.
            **options: see `Workdir.configure`.
        """
        configs, epochs = {"config.model": self.config}, runs.lengths_of(self.model)
        settings = provenance.with_start(self.settings(data), workdir.path, data.provenance)
        workdir.configure(settings, configs=configs, epochs=epochs, **options)


def part_of(data: Any, view: Mapping[str, Any], seed: int) -> Any:
    """The part of a data set that a model sees.

    Args:
        data: the whole.
        view: what config.json says, of which "hidden" and "needs" count, see `Member`.
        seed: of the model.

    Raises:
        ValueError: the data are not in memory, or have no such modality, or no example is left.
    """
    chosen = _view_of(view)
    if not chosen:
        return data
    if not isinstance(data, Splits):
        raise ValueError(f"a model is to see a part of {type(data).__name__}; expected data that are in memory.")
    part = missing.hide(data, chosen["hidden"], seed) if "hidden" in chosen else data
    part = missing.complete(part, chosen["needs"]) if "needs" in chosen else part
    return dataclasses.replace(part, provenance={**data.provenance, **chosen})


def _view_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("hidden", "needs") if name in settings}


def plan(members: Mapping[str, Member], data: Dataset, training: loop.Settings) -> dict[str, runs.Plan]:
    """The training of each member by folder; those that differ in their seed alone are checked once.

    Members that see the same part of the data share it in memory.

    Raises:
        ValueError: a member cannot be trained on such images.
    """
    alike: dict[tuple[Any, ...], runs.Plan] = {}
    parts: dict[tuple[Any, ...], Dataset] = {}
    plans = {}
    for folder, member in members.items():
        view = json.dumps(member.view, sort_keys=True)
        kind, part = (member.model, member.config, view), (view, member.seed if member.hidden else None)
        if part not in parts:
            parts[part] = member.seen(data)
        if kind not in alike:
            alike[kind] = member.plan_on(parts[part], training)
        plans[folder] = dataclasses.replace(alike[kind], seed=member.seed, data=parts[part])
    return plans


def start_of(start_from: str, folder: str) -> str:
    """Where a member finds its first parameters: its folder in another run's workdir, or that workdir itself."""
    within = start_from and expanded(start_from) / folder
    return str(within if within and within.is_dir() else start_from)


def starts(plans: Mapping[str, runs.Plan], start_from: str, workdir: Path) -> dict[str, Path | None]:
    """Checkpoints from which the members would start by folder; None for a member that goes on with its own.

    Raises:
        ValueError: the checkpoint to start from is of another model.
        FileNotFoundError: there is none.
    """
    if not start_from:
        return {}
    return {
        folder: planned.check_start(start_of(start_from, folder), workdir / folder) for folder, planned in plans.items()
    }


def check_checkpoints(plans: Mapping[str, runs.Plan], workdir: Path) -> None:
    """Refuses members that have checkpoints of which none can be gone on with, see `train.checkpoint`.

    Raises:
        ValueError: there is such a member.
    """
    for folder, planned in plans.items():
        planned.check_checkpoints(workdir / folder)


def describe(plans: Mapping[str, runs.Plan], starts: Mapping[str, Path | None]) -> str:
    """Describes what would be trained: parameters, memory, phases and data; nothing is compiled or allocated.

    Args:
        plans: folder -> what `plan` returned.
        starts: what `starts` returned.
    """
    # Members that differ in their seed alone share a model, whose state is traced once.
    by_model: dict[int, str] = {}
    texts: dict[str, list[str]] = {}
    for folder, planned in plans.items():
        text = by_model.setdefault(id(planned.model), "") or str(planned)
        by_model[id(planned.model)] = text
        start = starts.get(folder)
        texts.setdefault(f"{text}\n  start: {start}" if start else text, []).append(folder)
    return "\n\n".join("\n".join([*filter(None, [", ".join(names)]), text]) for text, names in texts.items())


def train_in_folder(
    member: Member,
    planned: runs.Plan,
    data: Dataset,
    folder: Path,
    *,
    interruption: Interruption | None = None,
    start_from: str = "",
    watched: Mapping[str, Any] | None = None,
    **options: Any,
) -> runs.Run:
    """Trains a member in a folder of its own, which `runs.load` loads as well; goes on where it was stopped.

    Args:
        member: the model.
        planned: what `plan` returned for it.
        data: the whole data, of which `planned` has what the member sees.
        folder: its workdir.
        interruption: see `train.loop.fit`.
        start_from: likewise.
        watched: by what it is watched: `on_validation` and `observer`, likewise.
        **options: of `Workdir.configure`, such as `may_change` and `extend`.
    """
    workdir = Workdir(folder)
    with workdir.lock():
        member.configure(workdir, data, **options)
        return planned.fit(workdir, interruption=interruption, start_from=start_from or None, **(watched or {}))


def train_when_free(
    member: Member,
    planned: runs.Plan,
    data: Dataset,
    folder: Path,
    *,
    interruption: Interruption | None = None,
    **options: Any,
) -> runs.Run:
    """`train_in_folder`, once no other process trains there: a run itself and its evaluation want the same."""
    waited = False
    while True:
        try:
            return train_in_folder(member, planned, data, folder, interruption=interruption, **options)
        except WorkdirBusy as error:
            if not waited:
                _log.info("%s", error)
            waited = True
            (interruption or Interruption()).check()
            time.sleep(1)


def check_begun(members: Mapping[str, Member], data: Dataset, workdir: Path, **options: Any) -> None:
    """Refuses members that were begun with other settings, before any is trained; writes nothing.

    Args:
        members: folder -> member.
        data: the whole data.
        workdir: where the folders are.
        **options: of `Workdir.configure`.

    Raises:
        ValueError: there is such a member.
    """
    for folder, member in members.items():
        if folder and (workdir / folder / "config.json").exists():
            member.configure(Workdir(workdir / folder), data, write=False, **options)


def load(member: Member, folder: Path, phase: str = "", *, ignore_removed: bool = False) -> runs.Run:
    """Loads a member that was trained.

    Args:
        member: the model.
        folder: its workdir.
        phase: the phase whose last checkpoint is taken; "" for the newest of all.
        ignore_removed: see `runs.load`.

    Raises:
        FileNotFoundError: there is no run in that folder, or no checkpoint of the phase yet.
        ValueError: it is another model, or of another config, or has no such phase.
    """
    run = runs.load(folder, phase=phase or None, ignore_removed=ignore_removed)
    if run.settings["model"] != member.model:
        raise ValueError(f"{folder} is a run of the model {run.settings['model']!r}; expected {member.model!r}.")
    for field in dataclasses.fields(member.config):
        trained, asked = getattr(run.config, field.name), getattr(member.config, field.name)
        if trained != asked:
            raise ValueError(
                f"the model in {folder} was trained with other {field.name} than is asked for: {_short(trained)}, not "
                f"{_short(asked)}; --evaluate takes models as they are."
            )
    trained_on = _view_of(run.settings)
    if trained_on != member.view:
        raise ValueError(
            f"the model in {folder} was trained on {_part(trained_on)}, not {_part(member.view)} as is asked for; "
            "--evaluate takes models as they are."
        )
    return run


def _part(view: Mapping[str, Any]) -> str:
    return f"a part of the data ({json.dumps(view)})" if view else "all of the data"


def _short(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, tuple) and len(value) > 10 else repr(value)


def log_weights(members: Mapping[str, Member]) -> None:
    """Logs what each divergence weighs where errors and divergences are means instead of sums."""
    for folder, member in members.items():
        for name, weight in getattr(member.config, "divergence_weights", {}).items():
            effective = member.config.effective_weight(weight)
            _log.info(
                "%s: %s weighs %g, which is %.3g per dimension and pixel value",
                *(folder or member.model, name, weight, effective),
            )
