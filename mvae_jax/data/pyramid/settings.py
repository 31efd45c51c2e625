"""Settings of a pyramid, and the recipes of published data sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mvae_jax.data.formats import celeba

SPLITS = ("train", "validation")
SMALLEST = 4  # pixels


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Use of a published data set.

    Attributes:
        image_size: height and width of its largest images, in pixels.
        train: images to train on, the first in natural order of their names; None for all but those of validation.
        validation: images to validate on, the last ones.
        crop: part of each picture, one of `CROPS`.
    """

    image_size: int
    train: int | None
    validation: int
    crop: str = "none"


# Those of ALAE. Which 3,000 images of CelebA-HQ the paper tests on is not known: here it is the last (AL-04), and no
# image is in both splits (AL-B6). A run of the released code takes a quarter of LSUN's bedrooms, ours take all (AL-07).
RECIPES: Mapping[str, Recipe] = {
    "ffhq": Recipe(1024, 60_000, 10_000),
    "celeba_hq": Recipe(256, 27_000, 3_000),
    "lsun_bedroom": Recipe(256, None, 10_000, "center"),
    "celeba": Recipe(128, 182_637, 19_962, "alae"),
}
_NO_RECIPE = Recipe(256, None, 0)

# "none" takes square images alone; "center" takes the central squares; "alae" takes the part of CelebA's pictures that
# ALAE does, trains on the official partitions train and validation, and validates on test.
CROPS = ("none", "center", "alae")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choice of the images, and their size.

    Attributes:
        recipe: one of `RECIPES`, which sees to it that all of the data set is there; "" for one's own images.
        image_size: height and width of the largest images in pixels, 4 times a power of 2; 0 for the recipe's, and
            without one 256, or 128 with the crop "alae".
        crop: part of each picture, "none" (they are square), "center" (the central square) or "alae" (CelebA, with its
            lists); "" for the recipe's, or "none".
        validation_fraction: own and rendered images: part of them that is only validated on.
        count: how many faces are rendered.
        seed: of the random split, or of the rendered faces.
        shard_images: images in a shard; 0 for as many as fill 1 GiB at the largest size, or a 256th of the split.
    """

    recipe: str = ""
    image_size: int = 0
    crop: str = ""
    validation_fraction: float = 0.1
    count: int = 10_000
    seed: int = 42
    shard_images: int = 0

    def __post_init__(self) -> None:
        if self.recipe and self.recipe not in RECIPES:
            raise ValueError(f"recipe is {self.recipe!r}, expected {', '.join(RECIPES)}, or none for your own images.")
        if self.chosen_crop not in CROPS:
            raise ValueError(f"crop is {self.crop!r}, expected {', '.join(CROPS)}.")
        size, most = self.sizes[-1], min(celeba.CROPS["alae"].proportions)
        if size < SMALLEST or size & (size - 1):
            raise ValueError(f"image_size is {size}, expected 4 times a power of 2: 4, 8, 16, ...")
        if self.chosen_crop == "alae" and size > most:
            raise ValueError(f"image_size is {size}, but the crop 'alae' has {most} pixels: choose at most {most}.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}, expected a part between 0 and 1.")
        if self.count < 2 or self.seed < 0 or self.shard_images < 0:
            raise ValueError(
                f"count is {self.count}, seed {self.seed} and shard_images {self.shard_images}, expected at least 2 "
                "faces and no negative number."
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The resolutions in pixels, the smallest first."""
        largest = self.image_size or self._defaults.image_size
        return (*(2**power for power in range(2, largest.bit_length() - 1)), largest)

    @property
    def chosen_crop(self) -> str:
        """The crop, the recipe's where none is given."""
        return self.crop or self._defaults.crop

    @property
    def published(self) -> Recipe | None:
        """The recipe, if there is one."""
        return RECIPES.get(self.recipe)

    @property
    def _defaults(self) -> Recipe:
        return self.published or (RECIPES["celeba"] if self.crop == "alae" else _NO_RECIPE)
