"""The same training steps in plain PyTorch: the other side of `tools/benchmark.py --against=torch`.

A worker for an environment of its own, which has PyTorch and NumPy and neither JAX nor this project. Its argument is a
JSON object; it then answers each line on standard input by one line of JSON:

    steps N        {"seconds": [N numbers], "peak_bytes": most memory held so far}
    losses FILE    {"losses": {name: value}} of one step from the parameters, batch and noise of an .npz
    quit

The steps are written as a PyTorch user would: stock layers, one forward pass shared by discriminator and VAE,
`clip_grad_norm_` where the paper clips. Variant "tuned" adds channels_last, a fused optimiser and TensorFloat-32 where
there is such. Unlike ours, the step has no guard against numbers that are not finite, and takes no means of its
metrics. Running statistics of batch norm also follow the passes whose statistics ours drops; that costs the same and no
loss depends on it.
"""

from __future__ import annotations

import functools
import json
import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

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

    def __init__(self, trunk: nn.Sequential, features: int, latent_size: int, channels: int = 1) -> None:
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
        "penalise_text_errors": False,
        "score_direction": "img||txt",
        "score_reduction": "example",
        "discriminator_penalty": "r1",
        "joint_decoding": True,
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

        terms = {name: F.binary_cross_entropy_with_logits(value, a) for name, value in logits.items()}
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
        norms = {} if noise is None else {f"{name}/gradient_norm": _norm(net) for name, net in self.named_children()}
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


def _norm(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).norm()


PEERS: dict[str, type[Any]] = {"multimodal": Multimodal, "vae": VAE, "beta_tcvae": BetaTCVAE}


def update(loss: torch.Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Backward pass, clipping to norm 1 and optimiser step; returns the norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return norm


# --- parameters of the JAX side --------------------------------------------------------------------------------------

_KINDS = {nn.Conv2d: "Conv", nn.ConvTranspose2d: "ConvTranspose", nn.BatchNorm2d: "BatchNorm", nn.Linear: "Dense"}


def load_parameters(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Copies parameters named as Flax names them, such as "vae/image_encoder/Conv_0/kernel"."""
    with torch.no_grad():
        for path, module in _layers(model, ""):
            for parameter, array in _pairs(module, path, arrays):
                parameter.copy_(torch.from_numpy(np.array(array)))


def _layers(module: nn.Module, prefix: str, counts: Counter[str] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Layers by their Flax names: an attribute's is its own, a member of a Sequential's its class and number."""
    counts = Counter() if counts is None else counts
    for name, child in module.named_children():
        if name in ("trunk", "branch"):
            yield from _layers(child, prefix, counts)
            continue
        if name.isdecimal():
            kind = _KINDS.get(type(child), type(child).__name__)
            name = f"{kind}_{counts[kind]}"
            counts[kind] += 1
        if isinstance(child, SelfAttention) or not [*child.children()]:
            yield f"{prefix}{name}", child
        else:
            yield from _layers(child, f"{prefix}{name}/")


def _pairs(module: nn.Module, path: str, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[nn.Parameter, np.ndarray]]:
    """Each parameter of a layer with its values in PyTorch's axis order."""
    if not [*module.parameters()]:
        return
    if isinstance(module, SelfAttention):
        joint, output = f"{path}/queries_keys_values", f"{path}/output"
        yield module.attention.in_proj_weight, arrays[f"{joint}/kernel"].T
        yield module.attention.in_proj_bias, arrays[f"{joint}/bias"]
        yield module.attention.out_proj.weight, arrays[f"{output}/kernel"].T
        yield module.attention.out_proj.bias, arrays[f"{output}/bias"]
        return
    outputs = getattr(module, "channels_out", 1)
    if isinstance(module, nn.Linear):
        kernel = _channels_first(arrays[f"{path}/kernel"], getattr(module, "channels_in", 1))
        yield module.weight, _channels_first(kernel.T, outputs)
    elif isinstance(module, nn.Conv2d):
        yield module.weight, arrays[f"{path}/kernel"].transpose(3, 2, 0, 1)
    elif isinstance(module, nn.ConvTranspose2d):
        yield module.weight, arrays[f"{path}/kernel"].transpose(2, 3, 0, 1)
    else:
        yield module.weight, arrays[f"{path}/scale"]
    if module.bias is not None:
        yield module.bias, _channels_first(arrays[f"{path}/bias"], outputs)


def _channels_first(array: np.ndarray, channels: int) -> np.ndarray:
    """Reorders the first axis from (pixels, channels), as NHWC flattens, to (channels, pixels)."""
    split = array.reshape(-1, channels, *array.shape[1:])
    return split.swapaxes(0, 1).reshape(array.shape)


# --- the worker ------------------------------------------------------------------------------------------------------


class Worker:
    """One model in one phase, its optimisers and a resident data set of noise."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        config = settings["config"]
        peer = PEERS[settings["model"]]
        unknown = {name: config[name] for name, value in peer.only.items() if config[name] != value}
        if unknown:
            raise ValueError(f"the PyTorch side is written for {peer.only}, not for {unknown}.")
        if settings["threads"]:
            torch.set_num_threads(settings["threads"])
        torch.manual_seed(0)
        tuned = settings["variant"] == "tuned"
        if tuned:
            torch.set_float32_matmul_precision("high")
        self.format = torch.channels_last if tuned else torch.contiguous_format
        self.device = torch.device(settings["device"])
        self.batch_size = config["batch_size"]
        self.model = peer(config, settings["weights"]).to(self.device, memory_format=self.format)
        self.optimizers = self.model.optimizers(**({"fused": True} if tuned else {}))
        size, count = config["image_size"], settings["examples"]
        shape = (count, config.get("channels", 3), size, size)
        self.arrays = {"image": torch.randint(256, shape, dtype=torch.uint8, device=self.device)}
        if "attributes" in config:
            self.arrays["attributes"] = torch.randint(2, (count, len(config["attributes"])), device=self.device).float()

    def steps(self, count: str) -> dict[str, Any]:
        """Trains so many steps, each on a random batch."""
        seconds = []
        for _ in range(int(count)):
            start = time.perf_counter()
            indices = torch.randint(len(self.arrays["image"]), (self.batch_size,), device=self.device)
            batch = {name: array[indices] for name, array in self.arrays.items()}
            batch["image"] = batch["image"].contiguous(memory_format=self.format)
            self.model.step(batch, self.optimizers)
            self._synchronise()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "peak_bytes": self._peak_bytes()}

    def losses(self, path: str) -> dict[str, Any]:
        """Losses and gradient norms of one step from given parameters, on a given batch and noise."""
        with np.load(path) as file:
            load_parameters(self.model, {name: file[name] for name in file.files})
            given = {name: torch.from_numpy(file[name]).to(self.device) for name in file.files if name[0] in "+-"}
        given = {
            name: value.permute(0, 3, 1, 2).contiguous(memory_format=self.format) if value.ndim == 4 else value
            for name, value in given.items()
        }
        batch, noise = ({name[1:]: value for name, value in given.items() if name[0] == sign} for sign in "+-")
        metrics = self.model.step(batch, self.optimizers, noise)
        return {"losses": {name: value.item() for name, value in metrics.items()}}

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _peak_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Serves commands until "quit" or the end of input."""
    try:
        worker = Worker(json.loads(sys.argv[1]))
    except ValueError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "quit":
            break
        answer = {"steps": worker.steps, "losses": worker.losses}[command](argument)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
