"""A VAE with a learned similarity (Larsen et al., 2016, VAE_Dis_l): first a GAN, then a VAE that it measures.

In phase "adversarial" decoder and discriminator play the game of `gan`. In phase "similarity" the encoder joins the
decoder, which goes on from there, and both minimise KL(q(z | x) || N(0, I)) and half the squared distance between image
and reconstruction in the discriminator's features. The discriminator is frozen and normalises by its running
statistics, which the paper leaves open.

Groups: "encoder", "decoder", "discriminator".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from mvae_jax import gaussian
from mvae_jax.models import _larsen
from mvae_jax.models._checks import check_at_least
from mvae_jax.models._larsen import Networks
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round


@dataclasses.dataclass(frozen=True)
class Config(_larsen.AutoencodingConfig):
    """The VAE with a learned similarity; no code was released for it, so what is not the GAN's is our choice.

    Attributes:
        adversarial_epochs: passes over the training images in phase "adversarial"; `epochs` are those of phase
            "similarity".
    """

    margin: float = 0.4
    adversarial_epochs: int = 22

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "adversarial_epochs")


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """First "adversarial", then "similarity"."""
    steps = config.adversarial_epochs * steps_per_epoch
    adversarial = _larsen.phase(config, "adversarial", ("decoder", "discriminator"), steps)
    similarity = _larsen.phase(
        config, "similarity", ("encoder", "decoder"), config.epochs * steps_per_epoch, start=steps
    )
    # The mean squared gradients of the game say nothing about those of another objective.
    return adversarial, dataclasses.replace(similarity, reset_optimizers=True)


def build(config: Config) -> Model:
    """Builds the model's pure functions; see `_larsen.model` for those beside encode, decode and sample.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, S, S, C]}. Validation's "loss" is the discriminator's error
        in phase "adversarial", and the objective in phase "similarity".
    """

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        if phase.name == "adversarial":
            return (_larsen.game_round(config, phase, axis_name),)

        def similarity_losses(
            params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array
        ) -> Losses:
            networks = Networks(config, params, state, train=True, axis_name=axis_name)
            x = _larsen.training_images(config, batch, key, axis_name)
            (mean, logvar), encoder_stats = networks.encode(x)
            z = gaussian.sample(jax.random.fold_in(key, 3), mean, logvar, axis_name)
            reconstruction, decoder_stats = networks.decode(z)
            found = _larsen.errors(Networks(config, params, state), x, reconstruction, mean, logvar)
            metrics = {name: values.mean() for name, values in found.items()}
            loss = metrics["similarity"] + metrics["kl"]
            return Losses(
                _larsen.reduced(config, phase, {"vae": loss}),
                {"loss": loss, **metrics},
                {"encoder": encoder_stats, "decoder": decoder_stats},
            )

        return (Round({"vae": ("encoder", "decoder")}, similarity_losses),)

    def evaluate(phase: Phase) -> Callable[..., dict[str, jax.Array]]:
        if phase.name == "adversarial":
            return _larsen.evaluate_game(config)
        return _larsen.evaluate_reconstructions(config)

    return _larsen.model(config, rounds, evaluate)
