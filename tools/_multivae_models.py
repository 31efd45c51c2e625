"""MultiVae's models on networks like ours, for `tools/torch_peer.py`, whose environment has MultiVae then.

They are modules as those of `_torch_models`. Data have the modalities "image" and "attributes".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import mock

import torch
from _torch_models import GaussianHeads, Tensors, _norms
from multivae import models
from multivae.data.datasets.base import MultimodalBaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder
from torch import nn


class Encoder(BaseEncoder):
    """A network of one modality, with heads for means and log variances."""

    def __init__(self, modality: Mapping[str, Any], latent_size: int) -> None:
        super().__init__()
        self.latent_dim, widths = latent_size, modality["widths"]
        layers: list[nn.Module] = []
        if modality["network"] == "dense":
            (size,), features, channels = modality["shape"], widths[-1], None
            for width in widths:
                layers += [nn.Linear(size, width), nn.ReLU()]
                size = width
        else:
            height, width, size = modality["shape"]
            features, channels = height * width // 4 ** len(widths) * widths[-1], widths[-1]
            for stage in widths:
                layers += [nn.Conv2d(size, stage, 4, stride=2, padding=1), nn.ReLU()]
                size = stage
        self.head = GaussianHeads(nn.Sequential(*layers), features, latent_size, channels)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        """[B, ...] to two of [B, D]."""
        mean, logvar = self.head(x)
        return ModelOutput(embedding=mean, log_covariance=logvar)


class Decoder(BaseDecoder):
    """A network of one modality: logits, and of images means in [0, 1]."""

    def __init__(self, modality: Mapping[str, Any], latent_size: int) -> None:
        super().__init__()
        self.latent_dim, widths = latent_size, modality["widths"]
        layers: list[nn.Module] = []
        if modality["network"] == "dense":
            (size,) = modality["shape"]
            for width in widths[::-1]:
                layers += [nn.Linear(latent_size, width), nn.ReLU()]
                latent_size = width
            layers.append(nn.Linear(latent_size, size))
        else:
            height, width, channels = modality["shape"]
            last, factor = widths[-1], 2 ** len(widths)
            dense = nn.Linear(latent_size, height * width // factor**2 * last)
            dense.channels_out = last
            layers = [dense, nn.ReLU(), nn.Unflatten(1, (last, height // factor, width // factor))]
            for stage, channels_out in enumerate((*widths[-2::-1], channels)):
                layers += [nn.ReLU()] if stage else []
                layers.append(nn.ConvTranspose2d(last, channels_out, 4, stride=2, padding=1))
                last = channels_out
            layers.append(nn.Sigmoid())
        self.trunk = nn.Sequential(*layers)

    def forward(self, z: torch.Tensor) -> ModelOutput:
        """[B, D] to [B, ...]."""
        return ModelOutput(reconstruction=self.trunk(z).float().contiguous())  # MultiVae takes views of it


def _arguments(kind: Any, config: Mapping[str, Any], weights: Mapping[str, float], **settings: Any) -> tuple[Any, ...]:
    """What MultiVae's models take: their config, encoders and decoders."""
    modalities, size = {m["name"]: m for m in config["modalities"]}, config["latent_size"]
    likelihoods = {"gaussian": "normal"}
    return (
        kind(
            n_modalities=len(modalities),
            latent_dim=size,
            input_dims={name: tuple(m["shape"]) for name, m in modalities.items()},
            uses_likelihood_rescaling=True,
            rescale_factors=dict(weights),
            decoders_dist={name: likelihoods.get(m["likelihood"], m["likelihood"]) for name, m in modalities.items()},
            decoder_dist_params={name: {"scale": m["scale"]} for name, m in modalities.items()},
            **settings,
        ),
        {name: Encoder(m, size) for name, m in modalities.items()},
        {name: Decoder(m, size) for name, m in modalities.items()},
    )


class _Steps(nn.Module):
    """A training step of a model of MultiVae, as its trainer takes it."""

    config: Mapping[str, Any]
    only: ClassVar[dict[str, Any]] = {"compute_dtype": "float32"}

    def optimizers(self, **options: Any) -> dict[str, torch.optim.Optimizer]:
        """One Adam for all networks."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return {"all": torch.optim.Adam(trained, lr=self.config["learning_rate"], **options)}

    def draws(self, noise: Tensors) -> list[torch.Tensor]:
        """The normal draws of one step in MultiVae's order."""
        return [noise["latent"]]

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """One step, on drawn noise or on the given; returns its loss and the norms of its gradients."""
        inputs = MultimodalBaseDataset({**batch, "image": batch["image"].contiguous().float() / 255})
        if noise is None:
            loss = self(inputs).loss
        else:
            drawn = iter(self.draws(noise))
            with mock.patch("torch.distributions.normal._standard_normal", side_effect=drawn):
                loss = self(inputs).loss
        optimizers["all"].zero_grad(set_to_none=True)
        loss.backward()
        norms = _norms(self, noise)
        optimizers["all"].step()
        return {"loss": loss} | norms


class MVAE(_Steps, models.MVAE):
    """The product of experts, trained on all modalities and on each alone."""

    only: ClassVar[dict[str, Any]] = {**_Steps.only, "unimodal": True, "subsets": 0, "warmup_epochs": 0}

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        models.MVAE.__init__(self, *_arguments(models.MVAEConfig, config, weights, k=0, warmup=0, beta=config["beta"]))
        self.config = config

    def draws(self, noise: Tensors) -> list[torch.Tensor]:
        """Of all modalities, then of each."""
        return [*noise["latent"].unbind(1)]


class MMVAE(_Steps, models.MMVAE):
    """The mixture of experts, here of Gaussians. Its loss is a sum over the batch in MultiVae."""

    only: ClassVar[dict[str, Any]] = _Steps.only

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        settings = {"K": config["samples"], "prior_and_posterior_dist": "normal", "learn_prior": False}
        settings["loss"] = f"{config['estimator']}_looser"
        models.MMVAE.__init__(self, *_arguments(models.MMVAEConfig, config, weights, **settings))
        self.config = config

    def draws(self, noise: Tensors) -> list[torch.Tensor]:
        """Of each modality, K for each example."""
        latent = noise["latent"].unflatten(1, (len(self.encoders), -1))
        return [part.transpose(0, 1) for part in latent.unbind(1)]

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """See `_Steps.step`; means over the batch are given."""
        found = super().step(batch, optimizers, noise)
        return {name: value / len(batch["image"]) for name, value in found.items()}


class MoPoE(_Steps, models.MoPoE):
    """The mixture of products of experts. MultiVae draws the k-th part of a batch from the k-th set of modalities."""

    only: ClassVar[dict[str, Any]] = {**_Steps.only, "warmup_epochs": 0}
    _component: torch.Tensor | None = None

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        models.MoPoE.__init__(self, *_arguments(models.MoPoEConfig, config, weights, beta=config["beta"]))
        self.config = config

    def deterministic_mixture_component_selection(
        self, mus: torch.Tensor, logvars: torch.Tensor, weights: torch.Tensor
    ) -> list[torch.Tensor]:
        """MultiVae's; where the noise is given, the sets of the examples are given too."""
        if self._component is None:
            return super().deterministic_mixture_component_selection(mus, logvars, weights)
        rows = torch.arange(len(self._component))
        return [part[self._component.long(), rows] for part in (mus, logvars)]

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """See `_Steps.step`."""
        self._component = None if noise is None else noise["component"]
        return super().step(batch, optimizers, noise)


PEERS: dict[str, type[Any]] = {"mvae": MVAE, "mmvae": MMVAE, "mopoe": MoPoE}
