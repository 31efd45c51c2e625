"""The same training steps in PyTorch: the other side of `tools/benchmark.py --against=torch`.

A worker for an environment of its own, which has PyTorch and NumPy, of the multimodal VAEs MultiVae too, and neither
JAX nor this project. Its argument is a JSON object; it then answers each line on standard input by one line of JSON:

    steps N        {"seconds": [N numbers], "peak_bytes": most memory held so far}
    losses FILE    {"losses": {name: value}} of one step from the parameters, batch and noise of an .npz
    quit

The steps, in `_torch_models`, and of multimodal VAEs in `_multivae_models`, are written as a PyTorch user would: stock
layers and optimisers, one forward pass shared by discriminator and VAE, `clip_grad_norm_` where the paper clips.
Variant "tuned" adds channels_last, a fused optimiser and TensorFloat-32 where there is such. Unlike ours, the step has
no guard against numbers that are not finite, takes no means of its metrics and keeps the first learning rate. Running
statistics of batch norm also follow the passes whose statistics ours drops; that costs the same and no loss depends on
it.

Where an odd number of pixels has to be padded, ours, like TensorFlow, pads one more at the end; convolutions of PyTorch
with the same padding on both sides leave the last one unread. So kernels and images of ours are turned by 180 degrees
here, which changes no loss and no norm.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from _torch_models import PEERS, SelfAttention
from torch import nn

# --- parameters of the JAX side --------------------------------------------------------------------------------------

_KINDS = {
    nn.Conv2d: "Conv",
    nn.ConvTranspose2d: "ConvTranspose",
    nn.BatchNorm1d: "BatchNorm",
    nn.BatchNorm2d: "BatchNorm",
    nn.Linear: "Dense",
}


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
        if name in ("trunk", "branch", "head"):
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
    """Each parameter of a layer with its values in PyTorch's axis order, turned by 180 degrees."""
    if not [*module.parameters()]:
        return
    if isinstance(module, SelfAttention):
        joint, output = f"{path}/queries_keys_values", f"{path}/output"
        yield module.attention.in_proj_weight, arrays[f"{joint}/kernel"].T
        yield module.attention.in_proj_bias, arrays[f"{joint}/bias"]
        yield module.attention.out_proj.weight, arrays[f"{output}/kernel"].T
        yield module.attention.out_proj.bias, arrays[f"{output}/bias"]
        return
    outputs = getattr(module, "channels_out", None)
    if isinstance(module, nn.Linear):
        kernel = _channels_first(arrays[f"{path}/kernel"], getattr(module, "channels_in", None))
        yield module.weight, _channels_first(kernel.T, outputs)
    elif isinstance(module, nn.Conv2d):
        yield module.weight, arrays[f"{path}/kernel"][::-1, ::-1].transpose(3, 2, 0, 1)
    elif isinstance(module, nn.ConvTranspose2d):
        yield module.weight, arrays[f"{path}/kernel"][::-1, ::-1].transpose(2, 3, 0, 1)
    else:
        yield module.weight, _channels_first(arrays[f"{path}/scale"], outputs)
    if module.bias is not None:
        yield module.bias, _channels_first(arrays[f"{path}/bias"], outputs)


def _channels_first(array: np.ndarray, channels: int | None) -> np.ndarray:
    """Reorders a first axis of (pixels, channels), as NHWC flattens, to (channels, pixels), last pixels first."""
    if channels is None:  # no pixels
        return array
    split = array.reshape(-1, channels, *array.shape[1:])[::-1]
    return split.swapaxes(0, 1).reshape(array.shape)


# --- the worker ------------------------------------------------------------------------------------------------------


def _peer(model: str) -> type[Any]:
    if model in PEERS:
        return PEERS[model]
    import _multivae_models  # which needs MultiVae

    return _multivae_models.PEERS[model]


class Worker:
    """One model in one phase, its optimisers and a resident data set of noise."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        config = settings["config"]
        peer = _peer(settings["model"])
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
        self.arrays = {}
        for name, (*shape, channels) in settings["arrays"].items():
            size = (settings["examples"], channels, *shape)
            self.arrays[name] = torch.randint(256, size, dtype=torch.uint8, device=self.device)
            if not shape:  # no images
                self.arrays[name] = (self.arrays[name] % 2).float()

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
            name: value.permute(0, 3, 1, 2).flip(2, 3).contiguous(memory_format=self.format)
            if value.ndim == 4
            else value
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
