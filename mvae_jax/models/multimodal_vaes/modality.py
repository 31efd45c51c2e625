"""A modality of a multimodal VAE as data: its values, its likelihood, its networks."""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax import images, losses
from mvae_jax.models.checks import check_at_least, check_choice, check_positive, check_widths
from mvae_jax.nets import autoencoders, modalities

LIKELIHOODS = ("gaussian", "laplace", "bernoulli", "categorical")
NETWORKS = ("convolutional", "dense")


@dataclasses.dataclass(frozen=True)
class Modality:
    """A modality: an array of the batch, and how it is encoded, decoded and judged.

    A shape of three numbers is that of an image: uint8 in the batch, in [0, 1] for the networks and the likelihood, of
    which the mean is a sigmoid. Other values are floats as they are.

    Attributes:
        name: of its array in the batch, [B, *shape]. "present/NAME", float [B], is 0 where it is missing, else 1.
        shape: of one example: (H, W, C) of an image, (D,) of a vector, (L, C) of L categorical variables.
        likelihood: "gaussian", "laplace", "bernoulli", whose values are in [0, 1], or "categorical", whose last axis is
            one-hot, or probabilities that sum to 1.
        scale: standard deviation of the Gaussian, or scale of the Laplace distribution.
        network: "convolutional", for images, or "dense".
        widths: channels of the encoder's convolutions, each of which halves the image, or units of its hidden layers;
            the decoder has them in reverse.
        weight: of its log-likelihood in the objective; None for the number of values of the largest modality by its
            own, which keeps small ones from being neglected.
        private_size: dimensions of the latent space that it has for itself; for `MMVAEPlusConfig` alone.
        labels: names of its values, such as those of attributes; () where they have none.
    """

    name: str = "image"
    shape: tuple[int, ...] = (64, 64, 3)
    likelihood: str = "gaussian"
    scale: float = 1.0
    network: str = "convolutional"
    widths: tuple[int, ...] = (32, 64, 128, 256)
    weight: float | None = None
    private_size: int = 0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name == "subset":
            raise ValueError(
                f"the name of a modality is {self.name!r}; expected a word of letters, digits and underscores, such as "
                "'image', and not 'subset': functions of the model are named after it."
            )
        sizes = self.shape if isinstance(self.shape, tuple) else ()
        if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(
                f"shape of {self.name} is {self.shape}; expected a tuple of at least one axis, each a whole number of "
                "at least 1, such as (10,)."
            )
        check_choice(self, "likelihood", LIKELIHOODS)
        of_faces = len(self.shape) == 1 and self.likelihood == "bernoulli"
        if not {"attributes": of_faces, "image": self.is_image}.get(self.name, True):
            raise ValueError(
                f"{self.name} has shape {self.shape} and likelihood {self.likelihood!r}, but in data 'image' is uint8 "
                "[N, H, W, C] and 'attributes' are [N, A] in {0, 1}, for 'bernoulli': choose another name."
            )
        check_choice(self, "network", NETWORKS)
        check_widths(self, "widths")
        check_positive(self, "scale")
        check_at_least(self, 0, "private_size")
        if self.weight is not None:
            check_at_least(self, 0, "weight")
            if self.weight == math.inf:
                raise ValueError(f"weight of {self.name} is {self.weight}; expected a finite number of at least 0.")
        if self.network == "convolutional" and not self.is_image:
            raise ValueError(
                f"network of {self.name} is 'convolutional', but its shape is {self.shape}; expected 'dense', or the "
                "(H, W, C) of an image."
            )
        if self.likelihood == "categorical" and self.is_image:
            raise ValueError(f"likelihood of {self.name} is 'categorical'; expected another one for an image.")
        if self.scale != 1 and self.likelihood not in ("gaussian", "laplace"):
            raise ValueError(
                f"scale of {self.name} is {self.scale}, but a {self.likelihood} likelihood has none: use 1."
            )
        if self.labels and len(self.labels) != self.shape[-1]:
            raise ValueError(
                f"{self.name} has {len(self.labels)} labels; expected {self.shape[-1]}, one for each value, or none."
            )

    @property
    def is_image(self) -> bool:
        """Whether its values are pixels."""
        return len(self.shape) == 3

    @property
    def size(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)

    def check(self, values: np.ndarray, present: np.ndarray) -> None:
        """Refuses values that its likelihood is not for.

        Args:
            values: of all examples, [N, ...].
            present: [N], 0 where there is no value, whatever stands there.

        Raises:
            ValueError: their shape is another; images are not uint8; what else is there is not finite, is not in [0, 1]
                for a Bernoulli, or not one-hot for a categorical likelihood.
        """
        hint = {"bernoulli": "values in [0, 1]", "categorical": "one-hot rows, or probabilities that sum to 1"}
        needs = "uint8 in [0, 255]" if self.is_image else hint.get(self.likelihood, "finite numbers")
        expected = (
            f"expected {needs}, (N, {', '.join(map(str, self.shape))}), as its likelihood {self.likelihood!r} has."
        )
        if values.shape[1:] != self.shape or (self.is_image and values.dtype != np.uint8):
            raise ValueError(f"{self.name!r} is {values.dtype} of shape {values.shape}; {expected}")
        if self.is_image:
            return
        there = values[present != 0]
        right = np.isfinite(there)
        if self.likelihood == "bernoulli":
            right = (there >= 0) & (there <= 1)
        elif self.likelihood == "categorical":
            right = (there >= 0) & (np.abs(there.sum(-1, keepdims=True) - 1) < 1e-3)
        if not right.all():
            wrong = there[np.broadcast_to(~right, there.shape)]
            raise ValueError(f"{self.name!r} holds {float(wrong[np.abs(wrong).argmax()]):g}; {expected}")

    def encoder(self, latent_size: int, heads: int, dtype: str) -> nn.Module:
        """Network from values to `heads` vectors [B, latent_size]."""
        network = modalities.StridedEncoder if self.network == "convolutional" else autoencoders.DenseEncoder
        return network(latent_size, self.widths, heads, dtype)

    def decoder(self, dtype: str) -> nn.Module:
        """Network from latents to outputs [B, *shape], without a bound."""
        if self.network == "convolutional":
            return modalities.StridedDecoder(self.shape, self.widths, dtype)
        return autoencoders.DenseDecoder(self.shape, self.widths, dtype)

    def to_float(self, values: jax.Array) -> jax.Array:
        """What networks and likelihood see: images, uint8 or float in [-1, 1], in [0, 1], others as they are."""
        return images.to_unit_interval(values) if self.is_image else values.astype(jnp.float32)

    def mean(self, output: jax.Array) -> jax.Array:
        """Images in [-1, 1], means of other continuous values, logits of discrete ones, of outputs [B, *shape]."""
        return images.from_unit_interval(jax.nn.sigmoid(output)) if self.is_image else output

    def log_likelihood(self, output: jax.Array, values: jax.Array) -> jax.Array:
        """Log p(values | output), [B] in nats: of outputs [B, *shape] and of values as `to_float` returns them."""
        if self.likelihood == "bernoulli":
            return -losses.bernoulli_nll(output, values)
        if self.likelihood == "categorical":
            return -losses.categorical_nll(output, values)
        mean = jax.nn.sigmoid(output) if self.is_image else output
        if self.likelihood == "laplace":
            return -losses.laplace_nll(values, mean, math.log(self.scale))
        return -losses.gaussian_nll(values, mean, 2 * math.log(self.scale))
