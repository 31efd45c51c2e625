"""pythae's side of `tools/whole_runs.py`: its VAE and its training pipeline, for an environment of its own.

The networks are those of `_torch_models`, given to pythae as encoder and decoder of the user's own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import _torch_models
import _whole_run
import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import nn


class Encoder(BaseEncoder):
    """A network that returns means and log variances."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> ModelOutput:
        """[B, C, H, W] to two of [B, D]."""
        mean, logvar = self.network(x)
        return ModelOutput(embedding=mean, log_covariance=logvar)


class Decoder(BaseDecoder):
    """A network that returns logits of pixel values."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: torch.Tensor) -> ModelOutput:
        """[B, D] to [B, C, H, W] in [0, 1]."""
        return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))


class Epochs(TrainingCallback):
    """Notes the training loss and the end of each epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ends: list[float] = []

    def on_log(self, training_config: Any, logs: Any, **kwargs: Any) -> None:
        """Called when an epoch is over."""
        self.losses.append(float(logs["train_epoch_loss"]))
        self.ends.append(time.perf_counter())


def main() -> None:
    """Trains and saves, or only counts the parameters."""
    settings, epochs = _whole_run.settings(), Epochs()
    config = settings["config"]
    networks = _torch_models.VAE(config, {})
    for module in networks.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    shape = (config["channels"], config["image_size"], config["image_size"])
    model = VAE(
        VAEConfig(input_dim=shape, latent_dim=config["latent_size"], reconstruction_loss="mse"),
        encoder=Encoder(networks.encoder),
        decoder=Decoder(networks.decoder),
    )
    if not settings["count_only"]:
        images = _whole_run.images(settings).transpose(0, 3, 1, 2).astype(np.float32) / 255
        training = BaseTrainerConfig(
            output_dir=str(Path(settings["folder"], "run")),
            num_epochs=config["epochs"],
            per_device_train_batch_size=config["batch_size"],
            per_device_eval_batch_size=config["batch_size"],
            learning_rate=config["learning_rate"],
            optimizer_cls="Adam",
            optimizer_params={"eps": 1e-7},
        )
        pipeline = TrainingPipeline(model=model, training_config=training)
        pipeline(images[: settings["train"]], images[settings["train"] :], callbacks=[epochs])
    _whole_run.answer(settings, (parameter.numel() for parameter in model.parameters()), epochs.losses, epochs.ends)


if __name__ == "__main__":
    main()
