"""StyleALAE's checkpoints as its authors release them, such as FFHQ's model_157.pth, read without running them.

A checkpoint holds state dicts of the networks, of their moving averages (names with "_s"), and of optimisers, which are
passed over. Level 0 has 4 pixels here; the released encoder counts from the largest resolution on.

Reference:
    Pidhorskyi et al., 2020, arXiv:2004.04467; github.com/podgorskiy/ALAE.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvae_jax.models.alae import style
from mvae_jax.models.alae.style_config import Config
from mvae_jax.nets.style import FUSED_FROM
from mvae_jax.nets.torch_weights import read_tensors
from mvae_jax.objective import ModelState, Params


def load(path: str | Path, *, averaged: bool = True) -> tuple[Config, Params, ModelState]:
    """Reads a released checkpoint of StyleALAE; sizes follow from its tensors.

    The mean latent is that of training, of which no average is kept.

    Args:
        path: the `.pth` file.
        averaged: take the moving averages of the parameters, as the paper's figures do, or else the parameters.

    Returns:
        The model's Config, of which only what the networks say is known, its parameters, and its state.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or its networks are not StyleALAE's.
    """
    path = Path(path).expanduser()
    suffix = "_s" if averaged else ""
    names = {name: f"{name}{suffix}" for name in ("generator", "discriminator", "mapping_fl", "mapping_tl")}
    wanted = tuple(f"models/{name}/" for name in (*names.values(), "dlatent_avg"))
    tensors = _Tensors(read_tensors(path, lambda name: name.startswith(wanted), nested=True), names)
    try:
        return _networks(tensors)
    except Exception as error:  # whatever tensors of other shapes provoke, the reader learns which file has them
        raise ValueError(
            f"{path} is no checkpoint of StyleALAE ({error or type(error).__name__}): give one that the released code "
            "wrote, with encoder, generator and both mappings, or averaged=False if it has no averages."
        ) from error


def _networks(tensors: _Tensors) -> tuple[Config, Params, ModelState]:
    config = tensors.config()
    params = {
        "mapping": tensors.dense("mapping_fl", ".fc", config.mapping_layers),
        "discriminator": tensors.dense("mapping_tl", "", _DISCRIMINATOR_LAYERS),
        **{group: tensors.generator(level) for level, group in enumerate(config.groups("generator"))},
        **{group: tensors.encoder(level, config) for level, group in enumerate(config.groups("encoder"))},
    }
    state: dict[str, Any] = {group: {} for group in params}
    state["mapping"] = {"mean_latent": tensors.array("dlatent_avg", "buff")[0]}
    batch = {"image": jax.ShapeDtypeStruct((1, config.image_size, config.image_size, config.channels), jnp.uint8)}
    expected = jax.eval_shape(style.build(config).init, jax.random.key(0), batch)
    for keys, leaf in jax.tree.leaves_with_path(expected):
        found = (params, state)
        for key in keys:
            found = found[getattr(key, "idx", getattr(key, "key", None))]  # type: ignore[index, assignment]
        if found.shape != leaf.shape:  # type: ignore[attr-defined]
            raise ValueError(
                f"{jax.tree_util.keystr(keys)} of shape {found.shape}, expected {leaf.shape} by its other sizes"  # type: ignore[attr-defined]
            )
    if more := tensors.unread():
        raise ValueError(f"{more[0]} and {len(more) - 1} more tensors, which no StyleALAE of its other sizes has")
    return config, params, state


_DISCRIMINATOR_LAYERS = 3


class _Tensors:
    """The tensors of a checkpoint by network and name."""

    def __init__(self, tensors: dict[str, np.ndarray], names: dict[str, str]) -> None:
        self._tensors, self._names, self._read = tensors, names, set[str]()

    def array(self, network: str, name: str) -> jax.Array:
        """A tensor as float32, its axes as in the file."""
        full = f"models/{self._names.get(network, network)}/{name}"
        if full not in self._tensors:
            raise ValueError(f"it has no {full}")
        self._read.add(full)
        return jnp.asarray(self._tensors[full], jnp.float32)

    def count(self, network: str, blocks: str) -> int:
        """How many blocks of a kind a network has."""
        prefix = f"models/{self._names[network]}/{blocks}."
        return len({name.removeprefix(prefix).split(".")[0] for name in self._tensors if name.startswith(prefix)})

    def unread(self) -> list[str]:
        """Names of the tensors that no array was made of, but for the constant kernels of blurs."""
        return sorted(name for name in self._tensors.keys() - self._read if not name.endswith(".blur.weight"))

    def config(self) -> Config:
        """The Config that the sizes of the tensors say."""
        constant = self.array("generator", "const")
        first = self.array("discriminator", "from_rgb.0.from_rgb.weight")
        return Config(
            image_size=2 ** (self.count("generator", "decode_block") + 1),
            channels=first.shape[1],
            latent_size=self.array("generator", "decode_block.0.style_1.weight").shape[1],
            first_width=first.shape[0],
            most_width=constant.shape[1],
            mapping_layers=max(1, self.count("mapping_fl", "map_blocks")),
        )

    def dense(self, network: str, inner: str, count: int) -> dict[str, Any]:
        """Dense layers one after another."""
        return {f"Dense_{i}": self.linear(network, f"map_blocks.{i}{inner}") for i in range(count)}

    def linear(self, network: str, name: str) -> dict[str, jax.Array]:
        """Kernel [C, O] and bias."""
        return {"kernel": self.array(network, f"{name}.weight").T, "bias": self.array(network, f"{name}.bias")}

    def kernel(self, network: str, name: str, *, transposed: bool = False) -> dict[str, jax.Array]:
        """Kernel [k, k, C, O] of a convolution [O, C, k, k], or of a transposed one, [C, O, k, k], which paints it."""
        weight = self.array(network, f"{name}.weight")
        return {"kernel": weight.transpose(2, 3, 0, 1)[::-1, ::-1] if transposed else weight.transpose(2, 3, 1, 0)}

    def generator(self, level: int) -> dict[str, Any]:
        """One resolution of G."""
        name = f"decode_block.{level}"
        block: dict[str, Any] = {}
        if level:
            fused = 4 * 2**level >= FUSED_FROM
            block["conv_1"] = self.kernel("generator", f"{name}.conv_1", transposed=fused)
        else:
            block["constant"] = self.array("generator", "const")[0].transpose(1, 2, 0)
        block["conv_2"] = self.kernel("generator", f"{name}.conv_2")
        for layer in (1, 2):
            block[f"noise_{layer}"] = self.array("generator", f"{name}.noise_weight_{layer}").ravel()
            block[f"bias_{layer}"] = self.array("generator", f"{name}.bias_{layer}").ravel()
            block[f"style_{layer}"] = self.linear("generator", f"{name}.style_{layer}")
        rgb = f"to_rgb.{level}.to_rgb"
        to_rgb = {"to_rgb": self.kernel("generator", rgb), "bias": self.array("generator", f"{rgb}.bias")}
        return {"block": block, "to_rgb": to_rgb}

    def encoder(self, level: int, config: Config) -> dict[str, Any]:
        """One resolution of E."""
        index = config.levels - 1 - level
        name = f"encode_block.{index}"
        block: dict[str, Any] = {}
        for layer in (1, 2):
            block[f"conv_{layer}"] = self.kernel("discriminator", f"{name}.conv_{layer}")
            block[f"bias_{layer}"] = self.array("discriminator", f"{name}.bias_{layer}").ravel()
            block[f"style_{layer}"] = self.linear("discriminator", f"{name}.style_{layer}")
        rgb = f"from_rgb.{index}.from_rgb"
        from_rgb = {"from_rgb": self.kernel("discriminator", rgb), "bias": self.array("discriminator", f"{rgb}.bias")}
        return {"block": block, "from_rgb": from_rgb}
