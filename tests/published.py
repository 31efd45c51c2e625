"""Tiny data sets in the layouts in which the real ones are published, with images of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_celeba(path: Path, rng: np.random.Generator) -> None:
    """40 images, 20 of them for training and 10 each for validation and test."""
    names = [f"{n:06}.jpg" for n in range(1, 41)]
    (path / "img_align_celeba").mkdir(parents=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (218, 178, 3), np.uint8)).save(path / "img_align_celeba" / name)
    rows = [f"{name} {1 if i % 2 else -1} 1 {-1 if i % 3 else 1}" for i, name in enumerate(names)]
    (path / "list_attr_celeba.txt").write_text("\n".join(["40", "Smiling Young Male", *rows]))
    partitions = [f"{name} {max(0, i // 10 - 1)}" for i, name in enumerate(names)]
    (path / "list_eval_partition.txt").write_text("\n".join(partitions))


def write_cub(path: Path, rng: np.random.Generator, count: int = 6) -> None:
    """Images of two species in turn, the second half of them for training."""
    files = [f"00{i % 2 + 1}.Bird/{i}.jpg" for i in range(count)]
    index = range(1, count + 1)
    for file in files:
        (path / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(path / "images" / file)
    texts = {
        "images.txt": [f"{i} {file}" for i, file in enumerate(files, 1)],
        "image_class_labels.txt": [f"{i} {(i - 1) % 2 + 1}" for i in index],
        "train_test_split.txt": [f"{i} {int(i > count // 2)}" for i in index],
        "bounding_boxes.txt": [f"{i} 2 2 6 5" for i in index],
        "classes.txt": ["1 001.Bird", "2 002.Bird"],
        "attributes.txt": ["1 has_wings::yes"],
        "attributes/class_attribute_labels_continuous.txt": ["10", "90"],
    }
    (path / "attributes").mkdir()
    for name, lines in texts.items():
        (path / name).write_text("\n".join(lines))
