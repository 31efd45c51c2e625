"""A model's functions as programs that JAX alone runs: weights and arrays in, arrays out, for any size of batch.

One file serves CPU, CUDA and TPU. Where a convolution is written otherwise for a CPU, the file has both forms, and XLA
keeps the one of the platform that it is compiled for.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from mvae_jax.cpu import convolution
from mvae_jax.export import weights
from mvae_jax.numerics import in_float32
from mvae_jax.objective import Model, ModelState, Params

PLATFORMS = ("cpu", "cuda", "tpu")
CODES = ("z", "w", "code")  # arguments that are codes, by the names that the models of the zoo give them
_BATCH = "batch"
_SCOPE = jax.export.SymbolicScope()


def lower(
    model: Model, config: Any, params: Params, model_state: ModelState
) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Each of the model's functions that takes arrays alone, compiled as far as that is possible without a device.

    Functions that draw (a key, a number of samples) are left out: draw a code and decode it.

    Args:
        model: the model's pure functions.
        config: the model's Config.
        params: {group: parameters}.
        model_state: {group: batch statistics}.

    Yields:
        Name, content of the file, and what its arguments and its result are, by shapes and types.

    Raises:
        ValueError: flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401  (JAX writes and reads exported functions by it)
    except ImportError as error:
        raise ValueError(
            "flatbuffers is not installed, by which JAX writes functions: pip install 'mvae-jax[export]', or export "
            "weights alone."
        ) from error
    arrays, empty = weights.flat(params, model_state)
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    with jax.enable_x64(False), convolution.for_every_platform(), _without_locations():
        for name, function, arguments in callables(model, config):
            compiled = jax.jit(_of_weights(function, empty))
            exported = jax.export.export(compiled, platforms=PLATFORMS)(shapes, *arguments.values())
            yield (
                name,
                bytes(exported.serialize()),
                {
                    "arguments": {key: _described(value) for key, value in arguments.items()},
                    "result": _described(jax.tree.unflatten(exported.out_tree, exported.out_avals)),
                },
            )


def named(model: Model) -> dict[str, Callable[..., Any]]:
    """All functions of (params, model_state, ...) that a model has, by name."""
    plain = {"encode": model.encode, "decode": model.decode, "sample": model.sample, **model.functions}
    return {name: function for name, function in plain.items() if function is not None}


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """What is lowered says nothing of the files and lines from which it comes: paths of this machine."""
    option = "jax_traceback_in_locations_limit"
    before = jax.config.values[option]
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def callables(model: Model, config: Any) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Functions that are exported: name, function of (params, model_state, ...), shapes of its further arguments."""
    shared = _examples(config)
    modalities = {f"encode_{m.name}": m.shape for m in getattr(config, "modalities", ())}
    for name, function in named(model).items():
        examples = shared
        if name in modalities:
            examples = {**shared, "x": jax.ShapeDtypeStruct((_batch(), *modalities[name]), jnp.float32)}
        arguments = [*inspect.signature(function).parameters][2:]
        if arguments and all(argument in examples for argument in arguments):
            yield name, function, {argument: examples[argument] for argument in arguments}
    if model.decode and "truncate" in model.functions:  # StyleALAE, which decodes a latent for each layer as well
        layers = 2 * (config.image_size.bit_length() - 2)
        batch, size = shared["w"].shape
        yield "decode_layers", model.decode, {"w": jax.ShapeDtypeStruct((batch, layers, size), jnp.float32)}


def _examples(config: Any) -> dict[str, Any]:
    """Shapes of arguments by their names, which all models of the zoo use alike; what draws is not among them."""
    batch = _batch()

    def of(*shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    found: dict[str, Any] = {"psi": of(), "guidance": of()}
    if config.image_size is not None:  # a model of codes has no images
        found["x"] = of(batch, *image_shape(config))
    if modalities := getattr(config, "modalities", ()):
        found["values"] = {modality.name: of(batch, *modality.shape) for modality in modalities}
        found["present"] = {modality.name: of(batch) for modality in modalities}
    if size := code_size(config):
        latent = of(batch, size)
        found |= {**dict.fromkeys(CODES, latent), "noise": latent, "posterior": (latent, latent)}
    if hasattr(config, "attributes"):  # a prior may have none
        found |= dict.fromkeys(("attributes", "said", "known"), of(batch, len(config.attributes)))
    return found


def code_size(config: Any) -> int:
    """Dimensions of a model's codes; 0 of a model without any."""
    return getattr(config, "code_size", 0) or getattr(config, "latent_size", 0)


def _batch() -> Any:
    """Size of a batch, one symbol wherever it stands: those of one scope are equal."""
    return jax.export.symbolic_shape(_BATCH, scope=_SCOPE)[0]


def image_shape(config: Any) -> tuple[int, int, int]:
    """(H, W, C) of the images of a model that has any."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return height, width, getattr(config, "channels", 3)


def _of_weights(function: Callable[..., Any], empty: Sequence[str]) -> Callable[..., Any]:
    @in_float32
    def run(arrays: Mapping[str, jax.Array], *arguments: Any) -> Any:
        return _plain(function(*weights.nested(arrays, empty), *arguments))

    return run


def _plain(result: Any) -> Any:
    """Named tuples as mappings, without what is None: readers need not know our classes."""
    if hasattr(result, "_asdict"):
        return {name: value for name, value in result._asdict().items() if value is not None}
    return result


def _described(tree: Any) -> Any:
    """Shapes and types of a tree as JSON: "float32[batch,64,64,3]"."""
    if isinstance(tree, Mapping):
        return {name: _described(value) for name, value in tree.items()}
    if isinstance(tree, Sequence):
        return [_described(value) for value in tree]
    return f"{tree.dtype}[{','.join(map(str, tree.shape))}]"
