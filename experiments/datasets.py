"""Which images an experiment sees: the source in its config, and how it is recognised."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from mvae_jax.data import catalogue, celebamask_hq, faces, folder
from mvae_jax.data.archive import open_archive
from mvae_jax.data.batches import Splits

_log = logging.getLogger(__name__)

RENDERED = "rendered"
PREPARED = "CelebAMask-HQ, prepared for TFDS"
CELEBAMASK_HQ = "CelebAMask-HQ"
FOLDER = "images with a CSV"


@dataclasses.dataclass(frozen=True)
class Config:
    """Which images.

    Attributes:
        source: "rendered" draws faces; otherwise a path: CelebAMask-HQ, its folder or a zip, or prepared by
            tools/prepare_data.py; or your own images with a CSV of attributes, a folder or a zip.
        csv: your own images: name of the CSV, with columns "file", attributes (0 or 1) and, if wanted, "split".
        subset_size: images for training and validation together; of your own images, all are used.
        validation_fraction: part of them that is only validated on.
        calibration_size: further images, from which the threshold of the consistency check is taken.
        minimum_attributes: CelebAMask-HQ: how many of the attributes an image must have (MM-10).
        seed: of the rendered faces, or of the choice of images.
        cache_folder: where decoded images are kept; "" for the user's cache folder.
    """

    source: str = RENDERED
    csv: str = folder.CSV
    subset_size: int = 5000
    validation_fraction: float = 0.1
    calibration_size: int = 500
    minimum_attributes: int = 3
    seed: int = 42
    cache_folder: str = ""

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(f"data.source is empty; expected {RENDERED!r} or the path of a data set.")
        if self.calibration_size < 1:
            raise ValueError(f"calibration_size is {self.calibration_size}; expected at least 1, for the threshold.")
        if not 1 <= self.validation_size < self.subset_size:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} of subset_size {self.subset_size}; expected to "
                "leave images for training and for validation."
            )
        if self.seed < 0:
            raise ValueError(f"data.seed is {self.seed}; expected at least 0.")

    @property
    def validation_size(self) -> int:
        """Images of the subset that are only validated on."""
        return round(self.subset_size * self.validation_fraction)


def load(config: Config, attributes: Sequence[str] | None = None, image_size: int = 64) -> Splits:
    """Renders or reads the images.

    Args:
        config: which images.
        attributes: names in the order of the attribute vector; None for all columns of a CSV, else for the ten of
            the multimodal VAE.
        image_size: height and width in pixels.

    Raises:
        FileNotFoundError: there is nothing at the source, or nothing that is known.
        ValueError: what is there is damaged, lacks an attribute or has too few images.
    """
    names = faces.ATTRIBUTES if attributes is None else tuple(attributes)
    kind = recognise(config)
    _log.info("data: %s%s", kind, "" if kind == RENDERED else f", {config.source}")
    if kind == RENDERED:
        return faces.splits(
            config.seed,
            config.subset_size,
            config.validation_size,
            config.calibration_size,
            image_size=image_size,
            attributes=names,
        )
    cache_folder = config.cache_folder or None
    if kind == FOLDER:
        own = folder_settings(config, attributes, image_size)
        return folder.load(config.source, own, cache_folder=cache_folder)
    settings = celebamask_hq.Settings(
        image_size=image_size,
        attributes=names,
        minimum_attributes=config.minimum_attributes,
        subset_size=config.subset_size,
        validation_fraction=config.validation_fraction,
        calibration_size=config.calibration_size,
        seed=config.seed,
    )
    if kind == PREPARED:
        return catalogue.load(config.source, settings)
    return celebamask_hq.load(config.source, settings, cache_folder=cache_folder)


def folder_settings(config: Config, attributes: Sequence[str] | None, image_size: int = 64) -> folder.Settings:
    """What the config says to `folder`."""
    return folder.Settings(
        image_size=image_size,
        attributes=None if attributes is None else tuple(attributes),
        validation_fraction=config.validation_fraction,
        calibration_size=config.calibration_size,
        seed=config.seed,
        csv=config.csv,
    )


def recognise(config: Config) -> str:
    """Returns what the source is, by what is in it.

    Raises:
        FileNotFoundError: there is nothing, or nothing that is known.
        ValueError: it is a damaged zip.
    """
    if config.source == RENDERED:
        return RENDERED
    if catalogue.find(config.source):
        return PREPARED
    if not Path(config.source).expanduser().exists():
        raise FileNotFoundError(
            f"There is no folder or zip {config.source}: give the path of a data set on this machine, or {RENDERED!r}."
        )
    with open_archive(config.source) as archive:
        if folder.find(archive, config.csv):
            return FOLDER
        if celebamask_hq.find(archive):
            return CELEBAMASK_HQ
    raise FileNotFoundError(
        f"{config.source} does not hold CelebAMask-HQ, nor anything else that is known. Looked for: your own images, "
        f"{config.csv} in it or in one folder in it (the setting csv gives another name); CelebAMask-HQ, "
        f"{celebamask_hq.ATTRIBUTE_FILE}, {celebamask_hq.POSE_FILE} and {celebamask_hq.IMAGE_FOLDER}/ in it or in its "
        "folder CelebAMask-HQ/; prepared for TFDS, celebamask_hq/64px/1.0.0/dataset_info.json or the like. If it is "
        "still zipped, give the path of the zip."
    )
