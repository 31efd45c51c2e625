"""Models of the zoo in plain PyTorch: networks, losses and steps, for `tools/torch_peer.py`.

Each model is a module whose children are the parameter groups of ours, with

    only                                what the config must say: other variants are not written here
    __init__(config, weights)           of the fields of its `Config`, and of what the benchmark tells of the phase
    optimizers(fused=...)               {name: optimiser}
    step(batch, optimizers, noise)      one step on {"image": uint8 [B, C, H, W], ...}, on drawn noise or on the given;
                                        returns losses and, at least for given noise, norms of gradients
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = Mapping[str, torch.Tensor]


leaky_relu = functools.partial(nn.LeakyReLU, 0.2)


class ResidualBlock(nn.Module):
    """x + BN(Conv3(LeakyReLU(BN(Conv3 x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            leaky_relu(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to the same."""
        return x + self.branch(x)


class ResidualDense(nn.Module):
    """x + Linear(LeakyReLU(Linear x))."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(size, size), leaky_relu(), nn.Linear(size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, D] to the same."""
        return x + self.branch(x)


class SelfAttention(nn.Module):
    """Self-attention over the pixels of a grid, with a residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to the same."""
        tokens = x.flatten(2).transpose(1, 2)
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return x + attended.transpose(1, 2).reshape(x.shape)


class GaussianHeads(nn.Module):
    """A trunk, and linear heads for mean and log variance; `channels` if they flatten a feature map."""

    def __init__(self, trunk: nn.Sequential, features: int, latent_size: int, channels: int | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.mean, self.logvar = nn.Linear(features, latent_size), nn.Linear(features, latent_size)
        self.mean.channels_in = self.logvar.channels_in = channels

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, ...] to (mean, logvar), each float32 [B, D]."""
        h = self.trunk(x).flatten(1)
        return self.mean(h).float(), self.logvar(h).float()


def image_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Strided convolutions with batch norm, then the two heads."""
    layers, channels = [], 3
    for width in config["encoder_widths"]:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), leaky_relu()]
        channels = width
    pixels = (config["image_size"] // 2 ** len(config["encoder_widths"])) ** 2
    return GaussianHeads(nn.Sequential(*layers), pixels * channels, config["latent_size"], channels)


def image_decoder(config: Mapping[str, Any]) -> nn.Module:
    """Dense layers to a grid, attention over it, then transposed convolutions with residual blocks."""
    widths, hidden = config["decoder_widths"], config["decoder_hidden"]
    grid = config["image_size"] // 2 ** len(widths)
    to_grid = nn.Linear(hidden, grid * grid * widths[0])
    to_grid.channels_out = widths[0]
    layers = [nn.Linear(config["latent_size"], hidden), leaky_relu(), ResidualDense(hidden), to_grid, leaky_relu()]
    layers.append(nn.Unflatten(1, (widths[0], grid, grid)))
    if config["attention"]:
        layers.append(SelfAttention(widths[0], config["attention_heads"]))
    channels = widths[0]
    for width in widths:
        layers += [nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), leaky_relu()]
        layers.append(ResidualBlock(width))
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1))


def patch_discriminator(widths: list[int]) -> nn.Module:
    """Strided convolutions, the first without batch norm, to one logit per patch."""
    layers, channels = [], 3
    for stage, width in enumerate(widths):
        layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
        layers += [nn.BatchNorm2d(width), leaky_relu()] if stage else [leaky_relu()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, padding=1))


def kl(mean_p: torch.Tensor, logvar_p: torch.Tensor, mean_q: torch.Tensor, logvar_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of every dimension."""
    difference = logvar_p - logvar_q
    return 0.5 * (difference.exp() - 1 - difference + (mean_p - mean_q) ** 2 / logvar_q.exp())


class Multimodal(nn.Module):
    """The multimodal VAE of faces and attributes (Kim, 2024) and its losses."""

    only: ClassVar = {
        "score_direction": "img||txt",
        "score_reduction": "example",
        "discriminator_penalty": "r1",
        "joint_decoding": True,
        "released_averages": False,
    }

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.config, self.weights = config, weights
        latent, hidden, attributes = config["latent_size"], config["text_hidden"], len(config["attributes"])
        trunk = nn.Sequential(
            nn.Linear(attributes, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.vae = nn.ModuleDict(
            {
                "image_encoder": image_encoder(config),
                "image_decoder": image_decoder(config),
                "text_encoder": GaussianHeads(trunk, 2 * latent, latent),
                "text_decoder": nn.Sequential(
                    nn.Linear(latent, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, attributes)
                ),
            }
        )
        self.discriminator = patch_discriminator(config["discriminator_widths"])

    def optimizers(self, **options: Any) -> dict[str, torch.optim.Optimizer]:
        """AdamW of each group."""
        settings = {"vae": "", "discriminator": "discriminator_"} if "adversarial" in self.weights else {"vae": ""}
        return {
            group: torch.optim.AdamW(
                getattr(self, group).parameters(),
                lr=self.config[f"{prefix}learning_rate"],
                betas=(0.5, 0.999),
                weight_decay=self.config[f"{prefix}weight_decay"],
                **options,
            )
            for group, prefix in settings.items()
        }

    def attribute_error(self, logits: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy, in which large errors count more where the config says so."""
        errors = F.binary_cross_entropy_with_logits(logits, a, reduction="none")
        if self.config["penalise_text_errors"]:
            penalised = self.config["text_error_factor"] * errors
            errors = torch.where(errors > self.config["text_error_limit"], penalised, errors)
        return errors.mean()

    def noise(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """A step's random numbers: of the two latents, and on the discriminator's inputs."""
        latents = {name: torch.randn(len(x), self.config["latent_size"], device=x.device) for name in ("image", "text")}
        if "adversarial" not in self.weights:
            return latents
        deviation = self.config["instance_noise"]
        return latents | {name: deviation * torch.randn_like(x) for name in ("real", "fake")}

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """One step, on drawn noise or on the given; returns its losses and the norms of its gradients."""
        x, a = batch["image"].float() / 127.5 - 1.0, batch["attributes"]
        noise = self.noise(x) if noise is None else noise
        vae, weights, latent = self.vae, self.weights, self.config["latent_size"]
        amp = torch.autocast(x.device.type, torch.bfloat16, enabled=self.config["compute_dtype"] == "bfloat16")
        metrics: dict[str, torch.Tensor] = {}
        with amp:
            image: tuple[torch.Tensor, torch.Tensor] = vae["image_encoder"](x)
            text: tuple[torch.Tensor, torch.Tensor] = vae["text_encoder"](a)
            z_image, z_text = (
                mean + torch.exp(0.5 * logvar) * noise[name]
                for name, (mean, logvar) in (("image", image), ("text", text))
            )
            z = torch.cat([z_image, z_text]) if "image_from_text" in weights else z_image
            pixels = torch.tanh(vae["image_decoder"](z).float())
            from_image = pixels[: len(x)]
            logits = {"text_from_text": vae["text_decoder"](z_text).float()}
            if "text_from_image" in weights or "attribute_agreement" in weights:
                logits["text_from_image"] = vae["text_decoder"](z_image).float()
        if "adversarial" in weights:
            metrics |= self._discriminator_step(x, from_image.detach(), noise, optimizers, amp)

        terms = {name: self.attribute_error(value, a) for name, value in logits.items()}
        for name, generated in zip(("image_from_image", "image_from_text"), pixels.split(len(x)), strict=False):
            terms[name] = F.mse_loss(generated, x)
            if f"{name}_identity" in weights:
                with amp:
                    mean, _ = vae["image_encoder"](generated)
                terms[f"{name}_identity"] = 1 - F.cosine_similarity(image[0], mean).mean()
        if "attribute_agreement" in weights:
            first, second = (value.sigmoid() for value in logits.values())
            terms["attribute_agreement"] = F.mse_loss(first, second)
            divergence = kl(*image, *text).sum(1) / latent
            terms["posterior_matching"] = divergence.mean()
            terms["inconsistency"] = (1 - 1 / (1 + divergence)).mean()
        if "image_kl" in weights:
            zero = torch.zeros((), device=x.device)
            terms["image_kl"], terms["text_kl"] = kl(*image, zero, zero).mean(), kl(*text, zero, zero).mean()
        if "adversarial" in weights:
            self.discriminator.requires_grad_(False)
            with amp:
                verdict = self.discriminator(from_image).float()
            terms["adversarial"] = F.softplus(-verdict).mean()
        terms = {name: terms[name] for name in weights}
        norm = update(sum(weights[name] * term for name, term in terms.items()), vae, optimizers["vae"])
        self.discriminator.requires_grad_(True)
        return metrics | terms | {"vae/gradient_norm": norm}

    def _discriminator_step(
        self, real: torch.Tensor, fake: torch.Tensor, noise: Tensors, optimizers: Mapping[str, Any], amp: Any
    ) -> dict[str, torch.Tensor]:
        with amp:
            real_logits = self.discriminator(real + noise["real"]).float()
            fake_logits = self.discriminator(fake + noise["fake"]).float()
            inputs = real.detach().requires_grad_()
            verdict = self.discriminator(inputs).float().mean((1, 2, 3)).sum()
        (slope,) = torch.autograd.grad(verdict, inputs, create_graph=True)
        penalty = 0.5 * slope.square().sum((1, 2, 3)).mean()
        error = 0.5 * (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean())
        loss = self.weights["adversarial"] * (error + self.config["discriminator_penalty_weight"] * penalty)
        norm = update(loss, self.discriminator, optimizers["discriminator"])
        return {
            "discriminator/error": error,
            "discriminator/penalty": penalty,
            "discriminator/gradient_norm": norm,
        }


def update(loss: torch.Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Backward pass, clipping to norm 1 and optimiser step; returns the norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return norm


class VAE(nn.Module):
    """The VAE in the networks of Schik's overview, and its loss."""

    only: ClassVar = {
        "network": "convolutional",
        "batch_statistics": True,
        "likelihood": "gaussian",
        "learn_scale": False,
        "kl": "closed_form",
        "free_bits": 0.0,
        "warmup_epochs": 0,
        "posterior_scale": "exponential",
    }

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.config, self.weights = config, weights
        latent, channels = config["latent_size"], config["channels"]
        layers: list[nn.Module] = []
        for width in config["widths"]:
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False), *_normalised(width)]
            channels = width
        layers.append(nn.Conv2d(channels, latent, 4, stride=2, padding=1, bias=False))
        self.encoder = GaussianHeads(nn.Sequential(*layers), latent, latent)
        layers, channels = [nn.Unflatten(1, (latent, 1, 1))], latent
        widths = [*config["widths"][::-1], config["channels"]]
        for stage, width in enumerate(widths):
            geometry = (
                {"kernel_size": 4, "stride": 2, "padding": 1} if stage > 1 else {"kernel_size": 4 if stage else 1}
            )
            bias = stage == len(widths) - 2
            layers += [nn.ConvTranspose2d(channels, width, **geometry, bias=bias), *_normalised(width)]
            channels = width
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels, channels, 5, padding=2, bias=False))

    def optimizers(self, **options: Any) -> dict[str, torch.optim.Optimizer]:
        """One Adam for both networks."""
        return {"vae": torch.optim.Adam(self.parameters(), lr=self.config["learning_rate"], eps=1e-7, **options)}

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """One step, on drawn noise or on the given; returns its losses and the norms of its gradients."""
        x = batch["image"].float() / 255
        amp = torch.autocast(x.device.type, torch.bfloat16, enabled=self.config["compute_dtype"] == "bfloat16")
        with amp:
            mean, logvar = self.encoder(x)
            drawn = torch.randn_like(mean) if noise is None else noise["latent"]
            z = mean + torch.exp(0.5 * logvar) * drawn
            output = torch.sigmoid(self.decoder(z).float())
        scale = self.config["observation_scale"]
        constant = math.log(2 * math.pi * scale**2)
        terms = {
            "reconstruction": 0.5 * (((x - output) / scale) ** 2 + constant).sum((1, 2, 3)).mean(),
            "kl": kl(mean, logvar, torch.zeros_like(mean), torch.zeros_like(mean)).sum(1).mean(),
        }
        loss = terms["reconstruction"] + terms["kl"] + self.regulariser(z, mean, logvar)
        optimizers["vae"].zero_grad(set_to_none=True)
        loss.backward()
        norms = _norms(self, noise)
        optimizers["vae"].step()
        return terms | {"loss": loss} | norms

    def regulariser(self, z: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor | float:
        """What is added to the KL divergence."""
        return 0.0


class BetaTCVAE(VAE):
    """The beta-TCVAE with minibatch-weighted sampling."""

    only: ClassVar = VAE.only | {"estimator": "mws", "variance_as_scale": False}

    def regulariser(self, z: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor | float:
        """The three parts of the KL divergence, each times its weight beyond 1."""
        pairs = gaussian_log_prob(z[:, None], mean[None], logvar[None])
        normaliser = math.log(len(z) * self.weights["dataset_size"])
        joint = pairs.sum(2).logsumexp(1) - normaliser
        marginals = (pairs.logsumexp(1) - normaliser).sum(1)
        own = gaussian_log_prob(z, mean, logvar).sum(1)
        prior = gaussian_log_prob(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
        parts = {
            "mutual_information": own - joint,
            "total_correlation": joint - marginals,
            "dimension_wise_kl": marginals - prior,
        }
        used = [(self.weights[name] - 1) * part for name, part in parts.items() if self.weights[name] != 1]
        return sum(used).mean() if used else 0.0


def gaussian_log_prob(x: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Logarithm of N(x | mean, exp(logvar)) of every element."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean) ** 2 / logvar.exp())


def _normalised(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.LeakyReLU(0.3)


class ALAE(nn.Module):
    """The adversarial latent autoencoder with MLPs, and its three rounds."""

    only: ClassVar = {"discriminator_activation": "none", "move_mapping_by_reciprocity": False}
    rates: ClassVar = {"mapping": 0.1, "generator": 1.0, "encoder": 1.0, "discriminator": 0.1}

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.config, self.weights = config, weights
        latent, widths, layers = config["latent_size"], config["widths"], config["mapping_layers"]
        shape = (config["channels"], config["image_size"], config["image_size"])
        from_pixels, to_pixels = nn.Linear(math.prod(shape), widths[0]), nn.Linear(widths[-1], math.prod(shape))
        from_pixels.channels_in = to_pixels.channels_out = shape[0]
        first, *slopes = config["encoder_slopes"]
        self.mapping = nn.Sequential(
            nn.RMSNorm(latent, eps=1e-8, elementwise_affine=False), *_dense([latent] * (layers + 1), [0.2] * layers)
        )
        self.generator = nn.Sequential(
            *_dense([latent, *widths], config["generator_slopes"]), to_pixels, nn.Unflatten(1, shape)
        )
        self.encoder = nn.Sequential(nn.Flatten(), from_pixels, nn.LeakyReLU(first), *_dense([*widths, latent], slopes))
        hidden = [nn.Linear(latent, latent) for _ in range(config["discriminator_layers"] - 1)]
        self.discriminator = nn.Sequential(*hidden, nn.Linear(latent, 1), nn.Flatten(0))
        self.register_buffer("mean_latent", torch.zeros(latent))

    def optimizers(self, **options: Any) -> dict[str, torch.optim.Optimizer]:
        """Adam of each network with a rate for each layer; and the moving averages, where the parameters are."""
        self.averages = []
        if "ema_decay" in self.weights:
            average = get_ema_multi_avg_fn(self.weights["ema_decay"])
            self.averages = [AveragedModel(network, multi_avg_fn=average) for network in self.children()]
        return {
            name: torch.optim.Adam(self._equalised(name), betas=(0.0, 0.99), eps=1e-8, **options) for name in self.rates
        }

    def _equalised(self, name: str) -> list[dict[str, Any]]:
        rate, groups = self.rates[name] * self.config["learning_rate"], defaultdict(list)
        for parameter in getattr(self, name).parameters():
            is_weight = parameter.ndim == 2
            groups[rate * math.sqrt(2 / parameter.shape[1]) if is_weight else rate].append(parameter)
        return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """One step, on drawn noise or on the given; returns its losses and the norms of its gradients."""
        x, latent = (batch["image"].float() / 255).requires_grad_(), self.config["latent_size"]
        amp = torch.autocast(x.device.type, torch.bfloat16, enabled=self.config["compute_dtype"] == "bfloat16")
        rounds = ("discriminator", "generator", "reciprocity")
        z = noise or {name: torch.randn(len(x), latent, device=x.device) for name in rounds}
        with amp:
            with torch.no_grad():
                generated = self.generator(self.mapping(z["discriminator"])).float()
            real, fake = (self.discriminator(self.encoder(images)).float() for images in (x, generated))
        (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        r1 = slope.square().sum((1, 2, 3)).mean()
        real_error, fake_error = F.softplus(-real).mean(), F.softplus(fake).mean()
        loss = real_error + fake_error + 0.5 * self.config["r1_weight"] * r1
        self._move(loss, optimizers, "encoder", "discriminator")

        with amp:
            w = self.mapping(z["generator"]).float()
            verdict = self.discriminator(self.encoder(self.generator(w))).float()
        error = F.softplus(-verdict).mean()
        self._move(error, optimizers, "mapping", "generator")
        self.mean_latent.lerp_(w.detach().mean(0), 1 - self.config["mean_latent_decay"])

        with amp:
            with torch.no_grad():
                w = self.mapping(z["reciprocity"]).float()
            recovered = self.encoder(self.generator(w)).float()
        reciprocity = F.mse_loss(recovered, w)
        self._move(reciprocity, optimizers, "encoder", "generator")
        for average, network in zip(self.averages, self.children(), strict=False):
            average.update_parameters(network)
        found = {"discriminator/real_error": real_error, "discriminator/fake_error": fake_error, "discriminator/r1": r1}
        return found | {"generator/error": error, "reciprocity/error": reciprocity} | _norms(self, noise)

    def _move(self, loss: torch.Tensor, optimizers: Mapping[str, torch.optim.Optimizer], *names: str) -> None:
        """Descends the loss in some of the networks alone."""
        for name in names:
            optimizers[name].zero_grad(set_to_none=True)
        loss.backward(inputs=[parameter for name in names for parameter in getattr(self, name).parameters()])
        for name in names:
            optimizers[name].step()


def _dense(sizes: Sequence[int], slopes: Sequence[float]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for size, width, slope in zip(sizes[:-1], sizes[1:], slopes, strict=True):
        layers += [nn.Linear(size, width), nn.LeakyReLU(slope)]
    return layers


class SimilarityDiscriminator(nn.Module):
    """A logit for each image, behind the features in which VAE/GAN compares images."""

    def __init__(self, trunk: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B]."""
        return self.head(self.trunk(x))


class VAEGAN(nn.Module):
    """VAE/GAN (Larsen et al., 2016): three objectives of one forward pass, and a game whose players may have to wait.

    All gradients are computed, also those of a player that waits, as ours and the released code do.
    """

    only: ClassVar = {
        "augment": False,
        "gating": True,
        "complement": True,
        "discriminate_reconstructions": False,
        "separate_statistics": False,
        "batch_reduction": "mean",
    }

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.config = config
        latent, channels, size = config["latent_size"], config["channels"], config["image_size"]
        trunk, channels = _halving(channels, config["encoder_widths"])
        hidden, pixels = config["encoder_hidden"], (size // 2 ** len(config["encoder_widths"])) ** 2
        self.encoder = GaussianHeads(nn.Sequential(*trunk, *_flattened(pixels, channels, hidden)), hidden, latent)

        grid, channels = size // 2 ** len(config["decoder_widths"]), config["grid_width"]
        units = grid * grid * channels
        to_grid, statistics = nn.Linear(latent, units, bias=False), nn.BatchNorm1d(units)
        to_grid.channels_out = statistics.channels_out = channels
        layers = [to_grid, statistics, nn.ReLU(), nn.Unflatten(1, (channels, grid, grid))]
        for width in config["decoder_widths"]:
            layers.append(nn.ConvTranspose2d(channels, width, 5, stride=2, padding=2, output_padding=1, bias=False))
            layers += [nn.BatchNorm2d(width, eps=1e-6), nn.ReLU()]
            channels = width
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels, config["channels"], 5, padding=2))

        first, *widths, last = config["discriminator_widths"]
        trunk, channels = _halving(first, widths)
        trunk = [nn.Conv2d(config["channels"], first, 5, padding=2), nn.ReLU(), *trunk]
        trunk.append(nn.Conv2d(channels, last, 5, stride=2, padding=2, bias=False))
        hidden, pixels = config["discriminator_hidden"], (size // 2 ** (len(widths) + 1)) ** 2
        head = [nn.BatchNorm2d(last, eps=1e-6), nn.ReLU(), *_flattened(pixels, last, hidden)]
        self.discriminator = SimilarityDiscriminator(
            nn.Sequential(*trunk), nn.Sequential(*head, nn.Linear(hidden, 1), nn.Flatten(0))
        )

    def optimizers(self, fused: bool = False) -> dict[str, torch.optim.Optimizer]:
        """RMSProp of each network, with a decay of its weights but the heads'; there is no fused form, but foreach."""
        size, found = self.config["batch_size"], {}
        for name, network in self.named_children():
            groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
            for path, parameter in network.named_parameters():
                groups[parameter.ndim > 1 and not path.startswith(("mean", "logvar"))].append(parameter)
            found[name] = torch.optim.RMSprop(
                [
                    {"params": groups[True], "weight_decay": 2 * self.config["weight_decay"] / size},
                    {"params": groups[False]},
                ],
                lr=self.config["learning_rate"],
                alpha=0.9,
                eps=1e-8 / size,
                foreach=fused or None,
            )
        return found

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """One step, on drawn noise or on the given; returns its losses and the norms of its gradients."""
        config, x = self.config, batch["image"].float() / 127.5 - 1.0
        amp = torch.autocast(x.device.type, torch.bfloat16, enabled=config["compute_dtype"] == "bfloat16")
        with amp:
            mean, logvar = self.encoder(x)
            drawn = noise or {name: torch.randn_like(mean) for name in ("latent", "prior")}
            z = mean + torch.exp(0.5 * logvar) * drawn["latent"]
            decoded = torch.tanh(self.decoder(torch.cat([z, drawn["prior"]])).float())
            reconstruction, generated = decoded.chunk(2)
            rebuilt, original = self.discriminator.trunk(torch.cat([reconstruction, x])).float().chunk(2)
            real, fake = self.discriminator(torch.cat([x, generated])).float().chunk(2)
        similarity = 0.5 * (rebuilt - original.detach()).square().sum((1, 2, 3)).mean()
        divergence = kl(mean, logvar, torch.zeros_like(mean), torch.zeros_like(mean)).sum(1).mean()
        real_error = -(real.sigmoid() + config["epsilon"]).log().mean()
        fake_error = -((-fake).sigmoid() + config["epsilon"]).log().mean()
        weight, gamma = config["real_weight"], config["gamma"]
        objectives = {
            "encoder": similarity + divergence,
            "decoder": gamma * similarity - (1 - gamma) * fake_error,
            "discriminator": weight * real_error + (1 - weight) * fake_error,
        }
        networks = dict(self.named_children())
        for name, objective in objectives.items():
            optimizers[name].zero_grad(set_to_none=True)
            objective.backward(inputs=[*networks[name].parameters()], retain_graph=name != "discriminator")
        ahead = torch.minimum(real_error, fake_error) < config["equilibrium"] - config["margin"]
        behind = torch.maximum(real_error, fake_error) > config["equilibrium"] + config["margin"]
        moves = {"decoder": ~behind | ahead, "discriminator": ~ahead | behind}
        for name, optimizer in optimizers.items():
            if moves.get(name, True):
                optimizer.step()
        found = {"similarity": similarity, "kl": divergence}
        found |= {"discriminator/real_error": real_error, "discriminator/fake_error": fake_error}
        found |= {f"{name}/objective": objective for name, objective in objectives.items()}
        found |= {f"{name}/updated": move for name, move in moves.items()}
        return found | _norms(self, noise)


class AttributeClassifier(nn.Module):
    """The attribute classifier, without dropout."""

    only: ClassVar = {"dropout": 0.0}

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.config = config
        layers, channels, size = [], 3, config["image_size"]
        for stage, width in enumerate(config["widths"]):
            layers.append(nn.Conv2d(channels, width, 3, stride=1 if stage else 2, padding=1, bias=False))
            layers += [nn.MaxPool2d(2)] if stage else []
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            channels, size = width, size // 2
        features = nn.Linear(size * size * channels, config["hidden"])
        features.channels_in = channels
        self.classifier = nn.Module()
        self.classifier.trunk, self.classifier.features = nn.Sequential(*layers), features
        self.classifier.logits = nn.Linear(config["hidden"], len(config["attributes"]))

    def optimizers(self, **options: Any) -> dict[str, torch.optim.Optimizer]:
        """AdamW."""
        rate, decay = self.config["learning_rate"], self.config["weight_decay"]
        return {"classifier": torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=decay, **options)}

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """One step; returns its losses and the norms of its gradients."""
        x, attributes, net = batch["image"].float() / 127.5 - 1, batch["attributes"], self.classifier
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config["compute_dtype"] == "bfloat16"):
            logits = net.logits(F.relu(net.features(net.trunk(x).flatten(1)))).float()
        loss = F.binary_cross_entropy_with_logits(logits, attributes)
        optimizers["classifier"].zero_grad(set_to_none=True)
        loss.backward()
        norms = _norms(self, noise)
        optimizers["classifier"].step()
        return {"loss": loss, "accuracy": ((logits > 0) == (attributes > 0.5)).float().mean()} | norms


class CVAE(nn.Module):
    """The attribute CVAE, whose first convolution sees the attributes at every pixel."""

    only: ClassVar = {"prior": "standard"}

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.config, (height, width), attributes = config, config["image_size"], len(config["attributes"])
        factor, (*_, last) = 2 ** len(config["widths"]), config["widths"]
        rows, columns = -(-height // factor), -(-width // factor)
        # The parameters are turned by 180 degrees, and with them the side on which images are filled up.
        self.missing = (columns * factor - width, 0, rows * factor - height, 0)
        layers, channels = [], 3 + attributes
        for stage in config["widths"]:
            layers += [nn.Conv2d(channels, stage, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = stage
        self.encoder = GaussianHeads(nn.Sequential(*layers), rows * columns * last, config["latent_size"], last)
        dense = nn.Linear(config["latent_size"] + attributes, rows * columns * last)
        dense.channels_out = last
        layers = [dense, nn.Unflatten(1, (last, rows, columns))]
        for stage, channels in enumerate((*config["widths"][-2::-1], 3)):
            layers += [nn.ReLU()] if stage else []
            layers.append(nn.ConvTranspose2d(last, channels, 4, stride=2, padding=1))
            last = channels
        self.decoder = nn.Sequential(*layers)

    def optimizers(self, **options: Any) -> dict[str, torch.optim.Optimizer]:
        """One Adam for both networks."""
        return {"cvae": torch.optim.Adam(self.parameters(), lr=self.config["learning_rate"], **options)}

    def step(
        self, batch: Tensors, optimizers: Mapping[str, torch.optim.Optimizer], noise: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """One step, on drawn noise or on the given; returns its losses and the norms of its gradients."""
        x, a = batch["image"].float() / 255, batch["attributes"]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config["compute_dtype"] == "bfloat16"):
            tiled = a[:, :, None, None].expand(-1, -1, *x.shape[2:])
            mean, logvar = self.encoder(F.pad(torch.cat([x, tiled], 1), self.missing))
            drawn = torch.randn_like(mean) if noise is None else noise["latent"]
            z = mean + torch.exp(0.5 * logvar) * drawn
            output = torch.sigmoid(self.decoder(torch.cat([z, a], 1)).float())
        left, _, top, _ = self.missing
        error = (output[:, :, top:, left:] - x).square().sum((1, 2, 3)).mean()
        divergence = kl(mean, logvar, torch.zeros_like(mean), torch.zeros_like(mean)).sum(1).mean()
        loss = (1 - self.config["beta"]) * error + self.config["beta"] * divergence
        optimizers["cvae"].zero_grad(set_to_none=True)
        loss.backward()
        norms = _norms(self, noise)
        optimizers["cvae"].step()
        return {"loss": loss, "squared_error": error, "kl": divergence} | norms


def _halving(channels: int, widths: Sequence[int]) -> tuple[list[nn.Module], int]:
    """Convolutions that halve the image, each with batch norm, and the channels that they put out."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 5, stride=2, padding=2, bias=False)]
        layers += [nn.BatchNorm2d(width, eps=1e-6), nn.ReLU()]
        channels = width
    return layers, channels


def _flattened(pixels: int, channels: int, hidden: int) -> list[nn.Module]:
    """A hidden layer behind a feature map."""
    dense = nn.Linear(pixels * channels, hidden, bias=False)
    dense.channels_in = channels
    return [nn.Flatten(), dense, nn.BatchNorm1d(hidden), nn.ReLU()]


def _norms(model: nn.Module, noise: Tensors | None) -> dict[str, torch.Tensor]:
    """Norm of each network's gradients, where the noise was given: steps that are timed do without.

    In float64: on a CPU, PyTorch's norm of ten million numbers in float32 is wrong by 1e-3.
    """
    if noise is None:
        return {}
    networks = model.named_children()
    squares = {name: [p.grad.double().square().sum() for p in net.parameters()] for name, net in networks}
    return {f"{name}/gradient_norm": sum(found).sqrt() for name, found in squares.items()}


PEERS: dict[str, type[Any]] = {
    "multimodal": Multimodal,
    "vae": VAE,
    "beta_tcvae": BetaTCVAE,
    "alae": ALAE,
    "vae_gan": VAEGAN,
    "attribute_classifier": AttributeClassifier,
    "cvae": CVAE,
}
