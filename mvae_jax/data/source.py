"""Contract of a kind of data set: the settings that a user gives, and how it is recognised, loaded and verified.

A kind is a module with a `Config` and a `Source`, and one line in `sources.SOURCES`. Configs inherit the fields that
several kinds share, with their meaning, so a kind has the fields that it uses and no others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from mvae_jax.data.archive import DEPTH, Archive
from mvae_jax.data.batches import Dataset

_MOST_IMAGES = 2**22

# --- settings ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    """Choice of the images.

    Attributes:
        source: name or path of the data set.
        kind: name of the kind of data set in `sources.SOURCES`. It follows from the class; records of a run keep it.
    """

    source: str
    kind: str = dataclasses.field(init=False, default="")

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("data.source is empty; expected the name or the path of a data set.")


def check_counts(**counts: int) -> None:
    """Raises ValueError if a setting asks for more images than a memory holds."""
    for name, count in counts.items():
        if count > _MOST_IMAGES:
            raise ValueError(
                f"data.{name} is {count}; expected at most {_MOST_IMAGES} images, which a memory may hold."
            )


def check_seed(seed: int) -> None:
    """Raises ValueError if the seed of a choice is negative."""
    if seed < 0:
        raise ValueError(f"data.seed is {seed}; expected at least 0.")


@dataclasses.dataclass(frozen=True)
class Cached(Config):
    """Images that are decoded once.

    Attributes:
        cache_folder: where decoded images are kept; "" for the user's cache folder.
    """

    cache_folder: str = ""


@dataclasses.dataclass(frozen=True)
class Split(Config):
    """Images of which some are chosen at random for validation, others for calibration.

    Attributes:
        validation_fraction: part of the images for training and validation that is only validated on.
        calibration_size: further images, from which the threshold of the consistency check is taken.
        seed: of the choice of images.
    """

    validation_fraction: float = 0.1
    calibration_size: int = 500
    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_size < 1:
            raise ValueError(f"calibration_size is {self.calibration_size}; expected at least 1, for the threshold.")
        check_counts(calibration_size=self.calibration_size)
        check_seed(self.seed)


@dataclasses.dataclass(frozen=True)
class Subset(Split):
    """A part of the images, split.

    Attributes:
        subset_size: images for training and validation together.
    """

    subset_size: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(subset_size=self.subset_size)
        is_part = 0 <= self.validation_fraction <= 1  # no infinity, which has no whole number near it
        if self.subset_size and not (is_part and 1 <= self.validation_size < self.subset_size):
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} of subset_size {self.subset_size}; expected to "
                "leave images for training and for validation."
            )

    @property
    def validation_size(self) -> int:
        """Images of the subset that are only validated on."""
        return round(self.subset_size * self.validation_fraction)

    def check_not_all(self) -> None:
        """Raises ValueError if the subset is everything there is, of images that are drawn without end."""
        if not self.subset_size:
            raise ValueError(
                f"data.subset_size is 0, all images of CelebA or CelebAMask-HQ, but data.source is {self.kind}; give "
                "the path of CelebA's folder or zip, or the other's, --config.data.source=PATH, or a number of images."
            )


@dataclasses.dataclass(frozen=True)
class Factors(Config):
    """Images of which the generative factors are known; no two splits share an image.

    Attributes:
        train_size: images for training.
        validation_size: others, from which all scores are taken, but the FactorVAE score.
        seed: of the choice of images.
    """

    train_size: int = 64_000
    validation_size: int = 5000
    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_size < 1 or self.validation_size < 100:
            raise ValueError(
                f"data.train_size is {self.train_size} and data.validation_size {self.validation_size}; expected at "
                "least 1, and 100 to take scores from."
            )
        check_counts(train_size=self.train_size, validation_size=self.validation_size)
        check_seed(self.seed)


# --- contract ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Request:
    """Demands of a model on its images.

    Attributes:
        image_size: height and width in pixels, or one number for both; of pictures that are no squares, a number is the
            height. Digits keep the size that they are published with.
        attributes: names in the order of the attribute vector; None for all that the data set has, and of
            CelebAMask-HQ and rendered faces for the ten of the multimodal VAE.
        growing: whether phases train on images of several sizes: of a pyramid, each then reads those of its size.
        pose: whether the splits are to have "pose", see `batches.Split`. Only who asks gets it: the checksum of the
            data is over all arrays, and runs that did without it go on.
        missing_attributes: whether images may have none of the attributes known: where there are such, the splits have
            "present/attributes". Otherwise they are refused.
        empty_splits: whether a user's CSV may give no image to a split, which is then empty. Otherwise it is refused.
    """

    image_size: int | tuple[int, int] = 64
    attributes: tuple[str, ...] | None = None
    growing: bool = False
    pose: bool = False
    missing_attributes: bool = False
    empty_splits: bool = False

    def side(self, kind: str) -> int:
        """Height and width of square images, in pixels.

        Args:
            kind: name of the data set, for the message.

        Raises:
            ValueError: height and width differ.
        """
        if isinstance(self.image_size, int):
            return self.image_size
        height, width = self.image_size
        if height != width:
            raise ValueError(f"image_size is {self.image_size}; expected one number: images of {kind} are square.")
        return height


@dataclasses.dataclass(frozen=True)
class Source:
    """A kind of data set: an entry of `sources.SOURCES`.

    Attributes:
        config: class of its settings; `config.kind` is the name of the entry.
        load: (config, request) -> the images; `batches.Splits`, unless the request is of a model that grows.
        verify: (config, attributes=None) -> sentences that say what is wrong with the files; of a CSV with the given
            attributes, all for None.
        remarks: like `verify`, sentences about what is right, but not for every model.
        keywords: sources that are no paths, such as "rendered".
        holds: (folder or zip, or a folder in it, name of a user's CSV) -> whether the data set is directly there.
        depth: how many folders may lie between what the user names and the data set, at most `archive.DEPTH`.
        looked_for: words for what `holds` looks for; "{csv}" stands for the name of the CSV. "" without files.
        any_shape: whether height and width of the images may differ.
        fallback: `holds` is asked of the whole alone, and where no other kind is there.
        named_by_path: whether a report calls the images by their folder or file, as those of a user have no other name.
        has_attributes: whether there are attributes to ask for.
        has_pose: whether there is a pose to ask for.
    """

    config: type[Config]
    load: Callable[[Any, Request], Dataset]
    verify: Callable[..., Iterator[str]]
    remarks: Callable[..., Iterator[str]] = lambda config, attributes=None: iter(())
    keywords: tuple[str, ...] = ()
    holds: Callable[[Archive, str], bool] = lambda place, csv: False
    depth: int = 0
    looked_for: str = ""
    any_shape: bool = False
    fallback: bool = False
    named_by_path: bool = False
    has_attributes: bool = True
    has_pose: bool = False

    @property
    def name(self) -> str:
        """Words for this kind, as logs and messages say it."""
        return self.config.kind


def published(
    config: type[Config],
    load: Callable[..., Dataset],
    defects: Callable[[str], Iterator[str]],
    *,
    holds: Callable[[Archive], bool],
    looked_for: str,
    any_shape: bool = False,
    has_pose: bool = False,
) -> Source:
    """A data set as it is published, of which images are decoded once.

    Args:
        config: class of its settings, which has `settings(request)` and `cache_folder`.
        load: (path, settings, cache_folder=...) -> the images; where there is a pose, also with `Request.pose`.
        defects: (path) -> sentences that say what is wrong with the files.
        holds: (folder or zip, or a folder in it) -> whether the data set is directly there.
        looked_for: as for `Source`.
        any_shape: likewise.
        has_pose: likewise.
    """

    def load_config(config: Any, request: Request) -> Dataset:
        options = {"pose": request.pose} if has_pose else {}
        return load(config.source, config.settings(request), cache_folder=config.cache_folder or None, **options)

    def verify(config: Any, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
        return defects(config.source)

    return Source(
        config,
        load_config,
        verify,
        holds=lambda place, csv: holds(place),
        depth=DEPTH,
        looked_for=looked_for,
        any_shape=any_shape,
        has_pose=has_pose,
    )


def no_files(config: Config, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
    """The `verify` of images that are drawn: there is nothing to be wrong with."""
    return iter(())
