"""The table of the zoo's tests: every model with nets small enough to compile in seconds."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from mvae_jax.models import attribute_classifier, multimodal
from mvae_jax.objective import Model, Phase

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """A model, its phases and one batch on which everything is tried."""

    model: Callable[[], Model]
    phases: Callable[[], tuple[Phase, ...]]
    batch: Callable[[int], Mapping[str, np.ndarray]]


MULTIMODAL = multimodal.Config(
    image_size=32,
    latent_size=8,
    encoder_widths=(4, 8, 8),
    decoder_widths=(8, 8, 4, 4),
    decoder_hidden=16,
    text_hidden=16,
    discriminator_widths=(4, 8, 8),
    attention_heads=2,
    batch_size=BATCH,
    learning_rate=1e-3,
    discriminator_learning_rate=1e-3,
    unimodal=dataclasses.replace(multimodal.Config().unimodal, epochs=1),
    alignment=dataclasses.replace(multimodal.Config().alignment, epochs=1),
    adversarial=dataclasses.replace(multimodal.Config().adversarial, epochs=1, adversarial=0.1),
)

ATTRIBUTE_CLASSIFIER = attribute_classifier.Config(
    image_size=32, widths=(4, 8, 8), hidden=16, epochs=1, batch_size=BATCH, learning_rate=1e-3
)


def faces(count: int, size: int = 32, attributes: int = 10) -> dict[str, np.ndarray]:
    """Noise with a brightness that depends on the attributes."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2, (count, attributes)).astype(np.float32)
    noise = generator.integers(0, 128, (count, size, size, 3)).astype(np.float32)
    return {"image": (noise + 12 * bits.sum(1)[:, None, None, None]).astype(np.uint8), "attributes": bits}


TABLE = {
    "multimodal": Row(
        model=lambda: multimodal.build(MULTIMODAL),
        phases=lambda: multimodal.phases(MULTIMODAL, steps_per_epoch=3),
        batch=faces,
    ),
    "attribute_classifier": Row(
        model=lambda: attribute_classifier.build(ATTRIBUTE_CLASSIFIER),
        phases=lambda: attribute_classifier.phases(ATTRIBUTE_CLASSIFIER, steps_per_epoch=3),
        batch=faces,
    ),
}
