"""Config of StyleALAE: sizes, schedule, weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mvae_jax.models.checks import check_at_least, check_choice, check_compute_dtype
from mvae_jax.nets import style


@dataclasses.dataclass(frozen=True)
class Config:
    """StyleALAE; defaults are the paper's for FFHQ, repaired where paper and released code disagree.

    Attributes:
        image_size: largest height and width in pixels: 4 times a power of 2.
        channels: of the images.
        latent_size: dimensions of z and of w.
        first_width: channels at the largest resolution; they double with each halving.
        most_width: up to so many.
        mapping_layers: layers of F.
        discriminator_activation: between the layers of D: "none" as published, which makes D affine, or "leaky_relu"
            (AL-03).
        batch_sizes: examples per step of each resolution from 4 pixels on; the last one holds for all further ones.
        examples_at_once: how many of them, over all devices, are in the networks at a time, likewise; 0 for all. Fewer
            take less memory and one more forward pass, and give the same step: gradients add up.
        recomputed_from: blocks of images of at least so many pixels keep no activations for the backward pass, which
            computes them again; 0 for none. With few examples at once, 0 is often enough.
        learning_rates: of Adam with equalised learning rates, likewise.
        fade_images: images over which a resolution is blended in.
        stabilise_images: images after that, and at 4 pixels.
        last_images: images of the last phase; 0 for `stabilise_images`.
        reset_optimizers: forget the optimisers' state when a resolution begins, as released.
        style_mixing: share of the steps in which layers from a random one on take another latent.
        r1_weight: gamma, of which half multiplies the R1 penalty on real images (AL-01).
        r1_every: steps between penalties, each of which then weighs as many times as much.
        move_mapping_by_reciprocity: let the third round move F too, as released (AL-02).
        mean_latent_decay: per step, of the running mean of w that truncation needs.
        ema_half_life: images after which a parameter has half of its weight in the moving average; 0 keeps none.
        flip: probability of a mirror image.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; statistics, losses and
            parameters are float32 with either.
    """

    image_size: int = 1024
    channels: int = 3
    latent_size: int = 512
    first_width: int = 16
    most_width: int = 512
    mapping_layers: int = 8
    discriminator_activation: str = "none"
    batch_sizes: tuple[int, ...] = (512, 256, 128, 64, 32)
    examples_at_once: tuple[int, ...] = (0,)
    recomputed_from: int = 512
    learning_rates: tuple[float, ...] = (0.0015, 0.0015, 0.0015, 0.0015, 0.0015, 0.0015, 0.002, 0.003, 0.003)
    fade_images: int = 500_000
    stabilise_images: int = 500_000
    last_images: int = 1_000_000
    reset_optimizers: bool = True
    style_mixing: float = 0.9
    r1_weight: float = 10.0
    r1_every: int = 1
    move_mapping_by_reciprocity: bool = False
    mean_latent_decay: float = 0.985
    ema_half_life: float = 10_000.0
    flip: float = 0.5
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self, "discriminator_activation", ("none", "leaky_relu"))
        check_compute_dtype(self)
        if self.image_size < 4 or self.image_size != 4 * 2 ** (self.levels - 1):
            raise ValueError(f"image_size is {self.image_size}; expected 4 times a power of 2: 4, 8, 16, ...")
        names = ("channels", "latent_size", "first_width", "most_width", "mapping_layers", "r1_every")
        check_at_least(self, 1, *names, "fade_images", "stabilise_images")
        check_at_least(self, 0, "last_images", "r1_weight", "ema_half_life")
        for name in ("style_mixing", "flip", "mean_latent_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected from 0 to 1.")
        for name in ("batch_sizes", "learning_rates"):
            values = getattr(self, name)
            if not values or not all(value > 0 for value in values):
                raise ValueError(f"{name} are {values}; expected at least one number, and all above 0.")
        if not self.examples_at_once:
            raise ValueError("examples_at_once are (); expected at least one number; 0 for the whole batch.")
        check_at_least(self, 0, "recomputed_from")
        for level, size in enumerate(self.sizes):
            batch_size, at_once = self.at(level, "batch_sizes"), self.at(level, "examples_at_once")
            if at_once < 0 or (at_once and batch_size % at_once):
                raise ValueError(
                    f"examples_at_once is {at_once} at {size} px; expected a divisor of the batch size {batch_size}, "
                    "or 0 for the whole batch."
                )

    @classmethod
    def reference(cls) -> Config:
        """As the released code (AL-02)."""
        return cls(move_mapping_by_reciprocity=True)

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return max(1, round(math.log2(max(self.image_size, 4))) - 1)

    def at(self, level: int, name: str) -> Any:
        """The value of a field that has one for each resolution, of which the last holds for all further ones."""
        values = getattr(self, name)
        return values[min(level, len(values) - 1)]

    @property
    def batch_size(self) -> int:
        """The largest batch of all resolutions."""
        return max(self.at(level, "batch_sizes") for level in range(self.levels))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The resolutions in pixels."""
        return tuple(4 * 2**level for level in range(self.levels))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each resolution."""
        return style.widths(self.levels, self.first_width, self.most_width)

    def level_of(self, size: int) -> int:
        """Number of a resolution, from 0.

        Raises:
            ValueError: the model does not have it.
        """
        if size not in self.sizes:
            raise ValueError(f"images have {size} px; expected one of {', '.join(map(str, self.sizes))}.")
        return self.sizes.index(size)

    def groups(self, network: str, levels: int | None = None) -> tuple[str, ...]:
        """Parameter groups of "generator" or "encoder" up to a number of resolutions, all by default."""
        return tuple(f"{network}_{size}" for size in self.sizes[:levels])
