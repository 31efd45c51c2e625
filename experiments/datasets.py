"""Which images an experiment sees: the source in its config, and how it is recognised."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from mvae_jax.data import catalogue, celeba, celebamask_hq, cub, faces, folder, pyramid
from mvae_jax.data.archive import open_archive
from mvae_jax.data.batches import Splits

_log = logging.getLogger(__name__)

RENDERED = "rendered"
PREPARED = "CelebAMask-HQ, prepared for TFDS"
CELEBAMASK_HQ = "CelebAMask-HQ"
PREPARED_CELEBA = "CelebA, prepared for TFDS"
CELEBA = "CelebA"
CUB = "CUB-200-2011"
FOLDER = "images with a CSV"
PYRAMID = "images at every resolution"


@dataclasses.dataclass(frozen=True)
class Config:
    """Which images.

    Attributes:
        source: "rendered" draws faces; otherwise a path: CelebAMask-HQ or CelebA, its folder or a zip, or prepared by
            tools/prepare_data.py; CUB-200-2011, its folder or a zip; or your own images with a CSV of attributes, a
            folder or a zip; or what `tools/prepare_data.py pyramid` has made.
        csv: your own images: name of the CSV, with columns "file", attributes (0 or 1) and, if wanted, "split".
        crop: CelebA: part of the picture, "larsen" (148 x 148, blurred before it shrinks), "schik" (118 x 118),
            "schik_nearest", "alae" (128 x 128) or "none" (218 x 178); CUB-200-2011: "none" (squeezed), "square" (the
            central one) or "box" (the bird's). "" for the first of them.
        partitions: CelebA: the official partitions for training, for validation and, if wanted, for calibration;
            "train+validation/test" trains on two and validates on the third.
        subset_size: images for training and validation together; 0 for all of CelebA's partitions. Of your own images,
            of CUB-200-2011 and of pyramids all are used.
        validation_fraction: part of them that is only validated on.
        calibration_size: further images, from which the threshold of the consistency check is taken.
        minimum_attributes: CelebAMask-HQ: how many of the attributes an image must have (MM-10).
        seed: of the rendered faces, or of the choice of images.
        cache_folder: where decoded images are kept; "" for the user's cache folder.
        held_out: pyramids, for a model that grows: how many held-out images are read, to validate on and to measure.
        resident_gib: likewise: resolutions of which the training images take more are read from the disk while they are
            trained on; all smaller ones are read at the beginning, and stay on the devices during their phases.
        workers: pyramids: processes that read ahead; 0 for threads.
    """

    source: str = RENDERED
    csv: str = folder.CSV
    crop: str = ""
    partitions: str = "train/validation/test"
    subset_size: int = 5000
    validation_fraction: float = 0.1
    calibration_size: int = 500
    minimum_attributes: int = 3
    seed: int = 42
    cache_folder: str = ""
    held_out: int = 1000
    resident_gib: float = 2.0
    workers: int = 0

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(f"data.source is empty; expected {RENDERED!r} or the path of a data set.")
        if self.calibration_size < 1:
            raise ValueError(f"calibration_size is {self.calibration_size}; expected at least 1, for the threshold.")
        if self.subset_size and not 1 <= self.validation_size < self.subset_size:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} of subset_size {self.subset_size}; expected to "
                "leave images for training and for validation."
            )
        if not (self.held_out >= 1 and self.resident_gib >= 0 and self.workers >= 0):
            raise ValueError(
                f"data.held_out is {self.held_out}, data.resident_gib {self.resident_gib} and data.workers "
                f"{self.workers}; expected at least 1, and neither of the others below 0."
            )
        if self.seed < 0:
            raise ValueError(f"data.seed is {self.seed}; expected at least 0.")

    @property
    def validation_size(self) -> int:
        """Images of the subset that are only validated on."""
        return round(self.subset_size * self.validation_fraction)


def load(
    config: Config,
    attributes: Sequence[str] | None = None,
    image_size: int | tuple[int, int] = 64,
    growing: bool = False,
) -> Splits:
    """Renders or reads the images.

    Args:
        config: which images.
        attributes: names in the order of the attribute vector; None for all of a CSV, of CelebA or of CUB-200-2011,
            else for the ten of the multimodal VAE.
        image_size: height and width in pixels; CelebA and CUB-200-2011 take both, see `celeba.Settings`.
        growing: of a pyramid, read images to train on when a phase needs them, at its size, see
            `pyramid.PyramidSplits`; otherwise all of that size are read.

    Raises:
        FileNotFoundError: there is nothing at the source, or nothing that is known.
        ValueError: what is there is damaged, lacks an attribute or has too few images.
    """
    kind = recognise(config)
    _log.info("data: %s%s", kind, "" if kind == RENDERED else f", {config.source}")
    cache_folder = config.cache_folder or None
    if kind == CUB:
        return cub.load(config.source, cub_settings(config, attributes, image_size), cache_folder=cache_folder)
    if kind == CELEBA:
        return celeba.load(config.source, celeba_settings(config, attributes, image_size), cache_folder=cache_folder)
    if kind == PREPARED_CELEBA:
        return catalogue.load(config.source, celeba_settings(config, attributes, image_size))
    if not isinstance(image_size, int):
        raise ValueError(f"image_size is {image_size}; expected one number: images of {kind} are square.")
    if kind == PYRAMID:
        if attributes:
            raise ValueError(f"{config.source} is a pyramid, which has no attributes; expected a data set that has.")
        images = pyramid.load(config.source)
        if not growing:
            return images.splits(image_size)
        return pyramid.PyramidSplits.of(
            images,
            image_size,
            held_out=config.held_out,
            resident_bytes=config.resident_gib * 2**30,
            workers=config.workers,
        )
    if kind == FOLDER:
        own = folder_settings(config, attributes, image_size)
        return folder.load(config.source, own, cache_folder=cache_folder)
    if not config.subset_size:
        raise ValueError(
            f"data.subset_size is 0, all images of CelebA, but data.source is {kind}; give the path of CelebA's folder "
            "or zip, --config.data.source=PATH, or a number of images."
        )
    names = faces.ATTRIBUTES if attributes is None else tuple(attributes)
    if kind == RENDERED:
        return faces.splits(
            config.seed,
            config.subset_size,
            config.validation_size,
            config.calibration_size,
            image_size=image_size,
            attributes=names,
        )
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


def celeba_settings(
    config: Config, attributes: Sequence[str] | None, image_size: int | tuple[int, int] = 64
) -> celeba.Settings:
    """What the config says to `celeba`."""
    parts = [tuple(part.split("+")) for part in config.partitions.split("/")]
    if len(parts) not in (2, 3):
        raise ValueError(
            f"data.partitions is {config.partitions!r}; expected those for training, for validation and, if wanted, "
            "for calibration, such as 'train/validation/test' or 'train+validation/test'."
        )
    train, validation, calibration = (*parts, ())[:3]
    return celeba.Settings(
        image_size=image_size,
        crop=config.crop or celeba.Settings.crop,
        attributes=None if attributes is None else tuple(attributes),
        train=train,
        validation=validation,
        calibration=calibration,
        train_size=config.subset_size - config.validation_size or None,
        validation_size=config.validation_size or None,
        calibration_size=config.calibration_size if calibration else None,
        seed=config.seed,
    )


def cub_settings(
    config: Config, attributes: Sequence[str] | None, image_size: int | tuple[int, int] = 64
) -> cub.Settings:
    """What the config says to `cub`."""
    return cub.Settings(
        image_size=image_size,
        crop=config.crop or cub.Settings.crop,
        attributes=None if attributes is None else tuple(attributes),
    )


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
    if pyramid.found(config.source):
        return PYRAMID
    for name, kind in ((catalogue.CELEBAMASK_HQ, PREPARED), (catalogue.CELEBA, PREPARED_CELEBA)):
        if catalogue.find(config.source, name):
            return kind
    if not Path(config.source).expanduser().exists():
        raise FileNotFoundError(
            f"There is no folder or zip {config.source}: give the path of a data set on this machine, or {RENDERED!r}."
        )
    with open_archive(config.source) as archive:
        if folder.find(archive, config.csv):
            return FOLDER
        for kind, module in ((CELEBAMASK_HQ, celebamask_hq), (CUB, cub), (CELEBA, celeba)):
            if module.find(archive):
                return kind
    raise FileNotFoundError(
        f"{config.source} does not hold CelebAMask-HQ, nor anything else that is known. Looked for: your own images, "
        f"{config.csv} in it or in one folder in it (the setting csv gives another name); CelebAMask-HQ, "
        f"{celebamask_hq.ATTRIBUTE_FILE}, {celebamask_hq.POSE_FILE} and {celebamask_hq.IMAGE_FOLDER}/ in it or in its "
        f"folder CelebAMask-HQ/; CelebA, {celeba.ATTRIBUTE_LIST}.txt, {celeba.PARTITION_LIST}.txt and "
        f"img_align_celeba/ in it or in a folder in it; CUB-200-2011, {cub.IMAGE_LIST} and {cub.IMAGE_FOLDER}/ in it "
        "or in its folder CUB_200_2011/; prepared for TFDS, celebamask_hq/64px/1.0.0/dataset_info.json or the like. If "
        "it is still zipped, give the path of the zip. Images without attributes are prepared for models that need "
        f"none by `tools/prepare_data.py pyramid`, which makes a folder with {pyramid.MANIFEST}."
    )
