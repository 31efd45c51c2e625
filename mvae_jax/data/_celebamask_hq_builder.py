"""The builder of CelebAMask-HQ for TensorFlow Datasets; needs TFDS, not TensorFlow. See `catalogue`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mvae_jax.data import celebamask_hq, decode

_CHUNK = 1024  # images that are decoded at a time


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """Which size of images.

    Attributes:
        image_size: height and width in pixels.
    """

    image_size: int

    @classmethod
    def of(cls, image_size: int) -> Config:
        """The config for a size."""
        return cls(name=f"{image_size}px", description=f"{image_size} x {image_size} pixels.", image_size=image_size)


class Builder(tfds.core.GeneratorBasedBuilder):
    """All images of CelebAMask-HQ with their annotations, in the order of their numbers.

    Attributes:
        source: folder or zip of the published files; None for TFDS's folder of manual downloads.
    """

    name = "celebamask_hq"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012 (TFDS's own way)
    BUILDER_CONFIGS = [Config.of(size) for size in (64, 128, 256)]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the folder CelebAMask-HQ there."

    def __init__(self, *, source: str | Path | None = None, **options: Any) -> None:
        self.source = source
        super().__init__(**options)

    @classmethod
    def of(cls, image_size: int, **options: Any) -> Builder:
        """The builder for a size."""
        name = f"{image_size}px"
        return cls(config=name if name in cls.builder_configs else Config.of(image_size), **options)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.image_size
        raw = tfds.features.Encoding.BYTES  # otherwise float64 would be stored as float32
        return self.dataset_info_from_configs(
            description=(
                "Faces with 40 attributes and the pose of the head; for non-commercial research. `metadata.json` names "
                "the attributes. The images are resized from the published ones by Lanczos' kernel."
            ),
            homepage="https://github.com/switchablenorms/CelebAMask-HQ",
            citation="Lee et al., MaskGAN: Towards Diverse and Interactive Facial Image Manipulation, CVPR 2020.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(size, size, 3), dtype=np.uint8, encoding=raw),
                    "attributes": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
                    "pose": tfds.features.Tensor(shape=(3,), dtype=np.float64, encoding=raw),
                    "index": np.int32,
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples(self.source or dl_manager.manual_dir)}

    def _generate_examples(self, path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
        size = self.builder_config.image_size
        with celebamask_hq.open_source(path) as source:
            table, pixels = source.table, []
            for start in range(0, len(table.index), _CHUNK):
                rows = range(start, min(start + _CHUNK, len(table.index)))
                files = [celebamask_hq.image_file(table.index[row]) for row in rows]
                images, sizes = decode.decode_images(
                    source.archive, files, lambda image: celebamask_hq.resize(image, size)
                )
                pixels.append(sizes)
                for row, image in zip(rows, images, strict=True):
                    index = int(table.index[row])
                    annotations = {"attributes": table.attributes[row], "pose": table.pose[row], "index": index}
                    yield index, {"image": image, **annotations}
            self.info.metadata.update(
                image_size=size,
                attributes=table.names,
                image_files=decode.describe_sizes(np.concatenate(pixels)),
                source_checksum=source.checksum(np.arange(len(table.index))),
                annotations_checksum=source.annotations_checksum,
            )
