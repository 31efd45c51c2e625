"""Five views of digits as a source: `data.views` of MNIST, a data set of its layout, or scikit-learn's digits.

    python EXPERIMENT --config.data.source=five_views --config.data.digits=MNIST

The views are drawn anew at each start, from a seed, and take no room on the disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from mvae_jax.data import source
from mvae_jax.data.batches import Split, Splits
from mvae_jax.data.formats import mnist
from mvae_jax.data.views import five_views

NAME = "five_views"


def load(digits: str = mnist.DIGITS, seed: int = 42) -> Splits:
    """Draws the views of each split of the digits from digits of that split alone.

    Args:
        digits: "digits", those of scikit-learn, or a path, as for `mnist.load`.
        seed: of the views, not negative; those of each split are drawn from a seed that follows from it.

    Returns:
        The splits of `mnist.load`: "image", "stripes", "checks", "inverted" and "rotated" are uint8 [N, H, W, 3], of
        the digits' size, "label" is int32 [N], and "index" the number of the digit in "image". There are no attributes,
        and no calibration images. Their provenance holds that of the digits, their checksum too, and the seed.

    Raises:
        FileNotFoundError: the path or a file in it is missing.
        ValueError: a file is damaged or is of another layout, or images and labels do not fit together.
    """
    whole = mnist.load(digits)
    train, validation, calibration = (
        Split({**five_views(split["image"][..., 0], split["label"], _seed(seed, number)), "index": split["index"]})
        for number, (_, split) in enumerate(whole)
    )
    origin = {**whole.provenance, "data_set": Config.kind, "digits": whole.provenance["data_set"], "seed": seed}
    return Splits(train, validation, calibration, (), origin)


def _seed(seed: int, split: int) -> int:
    """A seed of the split's own: with one for all, the first examples of each would have the same backgrounds."""
    return int(np.random.SeedSequence([seed, split]).generate_state(1)[0])


@dataclasses.dataclass(frozen=True)
class Config(source.Config):
    """Five views of digits.

    Attributes:
        source: "five_views".
        digits: what they are drawn from: "digits", those of scikit-learn, 8 x 8 pixels, or a path: folder or zip with
            the official files of MNIST, or of a data set of the same layout, or Keras's mnist.npz.
        seed: of the views.
    """

    source: str = NAME
    kind: str = dataclasses.field(init=False, default="five views of digits")
    digits: str = mnist.DIGITS
    seed: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.digits:
            raise ValueError(f"data.digits is empty; expected {mnist.DIGITS!r} or the path of MNIST.")
        source.check_seed(self.seed)


def _verify(config: Config, attributes: tuple[str, ...] | None = None) -> Iterator[str]:
    return mnist.SOURCE.verify(mnist.Config(config.digits), attributes)


SOURCE = source.Source(
    Config,
    lambda config, request: load(config.digits, config.seed),
    _verify,
    keywords=(NAME,),
    has_attributes=False,
)
