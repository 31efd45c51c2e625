"""Registry of the kinds of data sets: a path or a name is recognised, loaded and verified as its kind does it.

    config = sources.recognise("CelebA.zip").config("CelebA.zip", crop="schik")
    images = sources.load(config, image_size=64)

A data set is added by a module with a `Config` and a `Source`, see `source`, and one line in `SOURCES`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, overload

from mvae_jax.data.archive import levels, open_archive
from mvae_jax.data.batches import Dataset, Splits
from mvae_jax.data.formats import catalogue, celeba, celebamask_hq, cub, five_views, folder, images, mnist
from mvae_jax.data.pyramid import dataset as pyramids
from mvae_jax.data.rendered import binned_faces, faces, shapes
from mvae_jax.data.source import Config, Request, Source
from mvae_jax.files import expanded

__all__ = [
    *("SOURCES", "Config", "Request", "Source", "fields_of", "load", "looked_for", "of", "recognise", "recorded"),
    *("remarks", "restore", "users_of", "verify", "with_attributes", "without_attributes"),
]

_log = logging.getLogger(__name__)

# Of those in one folder the first counts. A user puts a CSV beside published images deliberately, so it comes before.
SOURCES: dict[str, Source] = {
    entry.name: entry
    for entry in (
        faces.SOURCE,
        binned_faces.SOURCE,
        pyramids.SOURCE,
        catalogue.CELEBAMASK_HQ_SOURCE,
        catalogue.CELEBA_SOURCE,
        folder.SOURCE,
        celebamask_hq.SOURCE,
        cub.SOURCE,
        celeba.SOURCE,
        shapes.SOURCE,
        mnist.SOURCE,
        five_views.SOURCE,
        images.SOURCE,
    )
}


NEED_OF_ATTRIBUTES = (
    "List those of your images in attributes.csv beside them (a line 'file,smiling,red_car', then one like 'a.jpg,1,0' "
    "for each image), or train what needs none: experiments/celeba_vae.py, celeba_vaegan.py or stylealae.py."
)


def with_attributes(crop: str = "") -> tuple[Config, ...]:
    """Settings of the kinds of data that have attributes, as an experiment lists them: faces, birds, one's own images.

    Args:
        crop: of CelebA.
    """
    return (
        faces.Config(),
        celebamask_hq.Config(source="CelebAMask-HQ"),
        celeba.Config(source="CelebA", crop=crop),
        cub.Config(source="CUB_200_2011"),
        folder.Config(source="images"),
    )


def without_attributes() -> tuple[Config, ...]:
    """Settings of the kinds of data that have none: images alone, and at every resolution."""
    return images.Config(source="images"), pyramids.Config(source="pyramid")


def recognise(source: str, *, csv: str = folder.CSV) -> Source:
    """Returns the kind of a data set, by its name or by what is in its folder or zip.

    Args:
        source: a name, such as "rendered", or a path.
        csv: name of the CSV by which a user's images are recognised.

    Raises:
        FileNotFoundError: there is nothing at the path, or nothing that is known.
        ValueError: the source is empty, or a damaged zip, or no zip.
    """
    for entry in SOURCES.values():
        if source in entry.keywords:
            return entry
    names = [repr(word) for entry in SOURCES.values() for word in entry.keywords]
    expected = f"the path of a data set on this machine, or {', '.join(names[:-1])} or {names[-1]}."
    if not source:
        raise ValueError(f"data.source is empty; expected {expected}")
    if not expanded(source).exists():
        raise FileNotFoundError(f"There is no folder or zip {source}: give {expected}")
    several = ""
    kinds = [entry for entry in SOURCES.values() if not entry.fallback]
    with open_archive(source) as archive:
        for depth, places in enumerate(levels(archive)):
            for entry in kinds:
                there = [place for place in places if depth <= entry.depth and entry.holds(place, csv)]
                if len(there) == 1:
                    return entry
                if there:
                    one, other = (place.where("") for place in there[:2])
                    several = several or f" {entry.name} is in {one} and in {other}: give the path of one."
        if not several:
            for entry in SOURCES.values():
                if entry.fallback and entry.holds(archive, csv):
                    return entry
    raise FileNotFoundError(
        f"{source} does not hold CelebAMask-HQ, nor anything else that is known.{several} {looked_for(csv)} If it is "
        "still zipped, give the path of the zip."
    )


def looked_for(csv: str = folder.CSV) -> str:
    """What `recognise` looks for in a folder or zip, as a sentence.

    Args:
        csv: as there.
    """
    files = "; ".join(
        entry.looked_for.format(csv=csv) + " in it or in one folder in it" * (entry.depth > 0)
        for entry in SOURCES.values()
        if entry.looked_for
    )
    return f"Looked for: {files}."


def of(config: Config) -> Source:
    """Returns the kind of data set to which a config belongs.

    Raises:
        ValueError: the source is a path, and images of this kind are drawn.
    """
    entry, path = SOURCES[config.kind], config.source
    if entry.keywords and not entry.looked_for and path not in entry.keywords:
        raise ValueError(
            f"data.source is {path!r}, but {entry.name} are drawn, and read from no file; expected "
            f"{' or '.join(map(repr, entry.keywords))}. From Python, what is at a path has the Config of its kind, "
            "data.sources.recognise(PATH).config(PATH)."
        )
    return entry


@overload
def load(
    config: Config,
    *,
    image_size: int | tuple[int, int] = 64,
    attributes: Sequence[str] | None = None,
    growing: Literal[False] = False,
    pose: bool = False,
    missing_attributes: bool = False,
    empty_splits: bool = False,
) -> Splits: ...


@overload
def load(
    config: Config,
    *,
    image_size: int | tuple[int, int] = 64,
    attributes: Sequence[str] | None = None,
    growing: bool,
    pose: bool = False,
    missing_attributes: bool = False,
    empty_splits: bool = False,
) -> Dataset: ...


def load(
    config: Config,
    *,
    image_size: int | tuple[int, int] = 64,
    attributes: Sequence[str] | None = None,
    growing: bool = False,
    pose: bool = False,
    missing_attributes: bool = False,
    empty_splits: bool = False,
) -> Any:
    """Renders or reads the images.

    Args:
        config: which images.
        image_size: see `Request`, like the next ones.
        attributes: names in the order of the attribute vector.
        growing: whether phases train on images of several sizes.
        pose: whether the splits are to have the pose of heads.
        missing_attributes: whether images may have no attributes.
        empty_splits: whether a user's CSV may give no image to a split.

    Returns:
        The images, with those to train on in memory as `Splits`. For a model that grows they need not be: of a pyramid
        they are `pyramid.PyramidData`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, there are too few images, or none with such an attribute, of such a size, or
            with a pose.
    """
    entry = of(config)
    _log.info("data: %s", config.source if config.source in entry.keywords else f"{entry.name}, {config.source}")
    if attributes and not entry.has_attributes:
        raise ValueError(
            f"data.source is {config.source}, {entry.name}, which has no attributes; expected a data set that has. "
            f"{NEED_OF_ATTRIBUTES}"
        )
    if pose and not entry.has_pose:
        raise ValueError(
            f"data.source is {config.source}, {entry.name}, which has no pose; expected one of "
            f"{', '.join(name for name, other in SOURCES.items() if other.has_pose)}."
        )
    names = None if attributes is None else tuple(attributes)
    return entry.load(config, Request(image_size, names, growing, pose, missing_attributes, empty_splits))


def verify(config: Config, attributes: Sequence[str] | None = None) -> Iterator[str]:
    """Reads every file of a data set and yields what is wrong.

    Args:
        config: which data set.
        attributes: those that a user's CSV must have; None for all of its columns.

    Raises:
        FileNotFoundError: there is no such data set.
        ValueError: the file is no zip, or damaged as a whole.
    """
    return of(config).verify(config, None if attributes is None else tuple(attributes))


def remarks(config: Config, attributes: Sequence[str] | None = None) -> Iterator[str]:
    """Yields what is right with a data set without defects, but not for every model; arguments as of `verify`."""
    return of(config).remarks(config, None if attributes is None else tuple(attributes))


def fields_of(kind: type[Config]) -> tuple[str, ...]:
    """Returns the names of the settings that a user gives."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


def users_of(field: str) -> tuple[str, ...]:
    """Returns the names of the kinds of data sets that have a setting of such a name."""
    return tuple(name for name, entry in SOURCES.items() if field in fields_of(entry.config))


def recorded(values: Mapping[str, Any]) -> Source:
    """The kind of the data that the record of a run says.

    Args:
        values: fields by name. Runs begun before `kind` was recorded have the fields of all kinds: then the kind is
            recognised by the source.

    Raises:
        FileNotFoundError: the kind is not recorded, and nothing is at the source.
        ValueError: there is no such kind.
    """
    kind = values.get("kind")
    if kind is not None and kind not in list(SOURCES):
        raise ValueError(f"data.kind is {kind!r}; expected one of {', '.join(map(repr, SOURCES))}.")
    return SOURCES[kind] if kind else recognise(values["source"], csv=values.get("csv", folder.CSV))


def restore(values: Mapping[str, Any]) -> Config:
    """Makes a config of what the record of a run says.

    Args:
        values: fields by name, lists for tuples; see `recorded`. Without a kind, what it does not use is dropped.

    Raises:
        FileNotFoundError: the kind is not recorded, and nothing is at the source.
        ValueError: there is no such kind, it has no such field, or a value is out of range.
    """
    kind, entry = values.get("kind"), recorded(values)
    known = fields_of(entry.config)
    unknown = sorted(values.keys() - {*known, "kind"})
    if kind and unknown:
        raise ValueError(f"{entry.name} has no setting {', '.join(unknown)}; expected {', '.join(known)}.")
    given = {name: values[name] for name in known if name in values}
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return entry.config(**settings)
