"""Builders for TensorFlow Datasets; they need TFDS, not TensorFlow. See `catalogue`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mvae_jax.data import decode
from mvae_jax.data.formats import celeba, celebamask_hq, listing

_CHUNK = 1024  # images that are decoded at a time


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """Size and part of the images.

    Attributes:
        size: height and width in pixels.
        crop: part of the picture, for data sets that have a choice.
    """

    size: tuple[int, int]
    crop: str = "none"


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """All images of a data set with their annotations, in the order of its table.

    Attributes:
        source: folder or zip of the published files.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012 (TFDS's own way)
    TEXTS: ClassVar[dict[str, str]]  # description, homepage, citation
    FURTHER: ClassVar[dict[str, Any]]  # features that are columns of the table, besides attributes and index

    def __init__(self, *, source: str | Path, **options: Any) -> None:
        self.source = source
        self._sizes: list[np.ndarray] = []
        super().__init__(**options)

    @classmethod
    def of(cls, config: Config, **options: Any) -> _Builder:
        """The builder for a config; TFDS warns of one that the class does not list."""

        class Listing(cls, skip_registration=True):  # type: ignore
            name = cls.name
            BUILDER_CONFIGS = [config]  # noqa: RUF012 (TFDS's own way)

        return Listing(config=config, **options)

    def open(self) -> AbstractContextManager[listing.Published]:
        """Opens the source."""
        raise NotImplementedError

    def cut(self, image: Image.Image) -> Image.Image:
        """Makes an image of a file's."""
        raise NotImplementedError

    def splits(self, table: Any) -> dict[str, np.ndarray]:
        """The splits of TFDS: rows of the table."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        raw = tfds.features.Encoding.BYTES
        return self.dataset_info_from_configs(
            **self.TEXTS,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(*self.builder_config.size, 3), dtype=np.uint8, encoding=raw),
                    "attributes": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
                    "index": np.int32,
                    **self.FURTHER,
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        with self.open() as source:
            splits = self.splits(source.table)
        return {name: self._generate_examples(rows) for name, rows in splits.items()}

    def _generate_examples(self, rows: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        with self.open() as source:
            table = source.table
            columns = {name: getattr(table, name) for name in ("attributes", "index", *self.FURTHER)}
            for chunk in np.split(rows, range(_CHUNK, len(rows), _CHUNK)):
                images, sizes = decode.decode_images(source.archive, source.files(chunk), self.cut)
                self._sizes.append(sizes)
                for row, image in zip(chunk, images, strict=True):
                    yield (
                        int(table.index[row]),
                        {
                            "image": image,
                            **{name: column[row] for name, column in columns.items()},
                        },
                    )
            self.info.metadata.update(
                attributes=table.names,
                image_files=decode.describe_sizes(np.concatenate(self._sizes)),
                source_checksum=source.checksum(np.arange(len(table.index))),
                annotations_checksum=source.annotations_checksum,
            )


class CelebAMaskHQ(_Builder):
    """CelebAMask-HQ, in the order of the image numbers."""

    name = "celebamask_hq"
    TEXTS: ClassVar[dict[str, str]] = {
        "description": (
            "Faces with 40 attributes and the pose of the head; for non-commercial research. `metadata.json` names "
            "the attributes. The images are resized from the published ones by Lanczos' kernel."
        ),
        "homepage": "https://github.com/switchablenorms/CelebAMask-HQ",
        "citation": "Lee et al., MaskGAN: Towards Diverse and Interactive Facial Image Manipulation, CVPR 2020.",
    }
    FURTHER: ClassVar[dict[str, Any]] = {
        # Without an encoding float64 would be stored as float32.
        "pose": tfds.features.Tensor(shape=(3,), dtype=np.float64, encoding=tfds.features.Encoding.BYTES)
    }

    def open(self) -> AbstractContextManager[listing.Published]:
        return celebamask_hq.open_published(self.source)

    def cut(self, image: Image.Image) -> Image.Image:
        return celebamask_hq.resize(image, self.builder_config.size[0])

    def splits(self, table: Any) -> dict[str, np.ndarray]:
        return {"train": np.arange(len(table.index))}


class CelebA(_Builder):
    """CelebA, each of the official partitions in the order of the image numbers."""

    name = "celeba"
    TEXTS: ClassVar[dict[str, str]] = {
        "description": (
            "Aligned faces with 40 attributes in the official partitions; for non-commercial research. `metadata.json` "
            "names the attributes. The images are cropped and resized; `identity` is 0 where it is not known."
        ),
        "homepage": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "citation": "Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015.",
    }
    FURTHER: ClassVar[dict[str, Any]] = {"partition": np.int32, "identity": np.int32}

    def open(self) -> AbstractContextManager[listing.Published]:
        return celeba.open_published(self.source)

    def cut(self, image: Image.Image) -> Image.Image:
        return celeba.cut(image, self.builder_config.crop, self.builder_config.size)

    def splits(self, table: Any) -> dict[str, np.ndarray]:
        rows = {name: np.flatnonzero(table.partition == i) for i, name in enumerate(celeba.PARTITIONS)}
        return {name: chosen for name, chosen in rows.items() if len(chosen)}
