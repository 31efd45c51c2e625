"""Our side of `tools/benchmark.py`: one model in one phase, in a process of its own.

The argument is a JSON object of settings. The first line on standard output says what the first step took and gave, or,
where nothing is to be run, what compiling it took; then each line on standard input is answered by one line of JSON:

    steps N     {"seconds": [of a step, in each dispatch], "peak_bytes": most memory held so far}
    product     {"flops_per_second": of a large matrix product}
    program     {"flops": of a step, "collectives": {kind: {"count": ..., "bytes": ...}}, "memory": {"arguments": bytes
                of state and examples on one device, "temporary": of what the program needs besides}}
    digest      {"digest": sha256 of the parameters}
    quit
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from _measuring import resident_bytes

from mvae_jax import attributes, augmentation, random, runs
from mvae_jax.cpu import convolution
from mvae_jax.cpu.memory import keep_freed_memory, return_freed_memory
from mvae_jax.experiment import listing
from mvae_jax.models import ZOO, multimodal, multimodal_vaes
from mvae_jax.objective import Batch, Model, Phase
from mvae_jax.train import state as states
from mvae_jax.train.devices import place
from mvae_jax.train.program import compile_step
from mvae_jax.train.step import make_train_step

OF_FAMILY = ("mvae", "mmvae", "mopoe")  # multimodal VAEs
_STEPS_PER_EPOCH = 1000
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast|ragged-all-to-all"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model that can be measured.

    Attributes:
        presets: name -> config, of its experiment; without random changes of the images.
        default: any config of its class.
        build: config -> model.
        phases: (config, steps per epoch) -> phases.
        data: (config, phase, examples) -> resident arrays of noise.
        draws: (config, key of a step, batch) -> the random numbers of that step, by the names that the PyTorch side
            gives them.
        terms: (config, phase) -> weights of the loss terms, and what else the PyTorch side needs to know of the phase.
    """

    presets: Callable[[], Mapping[str, Any]]
    default: Any
    build: Callable[[Any], Model]
    phases: Callable[[Any, int], tuple[Phase, ...]]
    data: Callable[[Any, Phase, int], dict[str, np.ndarray]]
    draws: Callable[[Any, jax.Array, Batch], dict[str, jax.Array]]
    terms: Callable[[Any, Phase], dict[str, float]]

    def phase(self, config: Any, name: str) -> Phase:
        """The phase of that name, as if a run began with it."""
        found = {phase.name: phase for phase in self.phases(config, _STEPS_PER_EPOCH)}
        if name not in found:
            raise ValueError(f"there is no phase {name!r}; choose of {', '.join(found)}.")
        return dataclasses.replace(found[name], start=0)


def _multimodal_presets() -> Mapping[str, Any]:
    # The counterparts are of the paper's model, without a private part.
    presets = listing.load("celebahq_mvae").presets
    return {name: config.model for name, config in presets.items() if not config.model.private_size}


def _described_data(config: Any, phase: Phase, count: int) -> dict[str, np.ndarray]:
    """Images of the model's size with attributes."""
    generator = np.random.default_rng(0)
    height, width = np.broadcast_to(config.image_size, 2)
    return {
        "image": generator.integers(0, 256, (count, height, width, 3), np.uint8),
        "attributes": generator.integers(0, 2, (count, len(config.attributes))).astype(np.float32),
    }


def _multimodal_draws(config: multimodal.Config, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    latent, pixels = (len(batch["image"]), config.latent_size), batch["image"].shape
    # The numbers are those that the model folds into the key of a step.
    draw = {"image": (1, latent, 1.0), "text": (2, latent, 1.0)}
    draw |= {name: (number, pixels, config.instance_noise) for number, name in ((3, "real"), (4, "fake"))}
    return {
        name: deviation * random.standard_normal(jax.random.fold_in(key, number), shape)
        for name, (number, shape, deviation) in draw.items()
    }


def _image_data(config: Any, phase: Phase, count: int) -> dict[str, np.ndarray]:
    """Images of the phase's size."""
    size: Any = phase.image_size
    shape = (count, size, size, config.channels)
    return {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}


def _latent_draws(**numbers: int) -> Callable[[Any, jax.Array, Batch], dict[str, jax.Array]]:
    """Draws of z, by the numbers that the model folds into the key of a step."""

    def draws(config: Any, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        shape = (len(batch["image"]), config.latent_size)
        return {
            name: random.standard_normal(jax.random.fold_in(key, number), shape) for name, number in numbers.items()
        }

    return draws


def _variational_presets(model: str) -> Mapping[str, Any]:
    experiment = listing.load("celeba_vae")
    found = {name: experiment.members(config, None).values() for name, config in experiment.presets.items()}
    return {name: next(own.config for own in members if own.model == model) for name, members in found.items()}


def _alae_presets() -> Mapping[str, Any]:
    found = {name: config.model for name, config in listing.load("mnist_alae").presets.items()}
    return found | {"laptop": dataclasses.replace(found["laptop"], image_size=8)}  # of the digits of scikit-learn


def _vae_gan_presets() -> Mapping[str, Any]:
    presets = listing.load("celeba_vaegan").presets
    return {name: dataclasses.replace(config.model, augment=False) for name, config in presets.items()}


def _classifier_presets() -> Mapping[str, Any]:
    """Without what is drawn for each example, which the PyTorch side cannot be given."""
    on = augmentation.Augmentation()
    off = augmentation.Augmentation(**{name: type(value)(0) for name, value in dataclasses.asdict(on).items()})
    presets = listing.load("attribute_classifier").presets
    return {name: dataclasses.replace(config.model, dropout=0.0, augmentation=off) for name, config in presets.items()}


def _cvae_presets() -> Mapping[str, Any]:
    """With the attributes that the data of the preset have: ten of rendered faces, 40 of CelebA, 512 of birds."""
    presets = listing.load("attribute_cvae").presets
    counts = {"laptop": len(attributes.FACE), "celeba": 40, "cub": 512}
    return {
        name: dataclasses.replace(config.model, attributes=tuple(f"attribute_{i}" for i in range(counts[name])))
        for name, config in presets.items()
    }


def _style_alae_presets() -> Mapping[str, Any]:
    return {name: config.model for name, config in listing.load("stylealae").presets.items()}


def _family_presets(model: str) -> Mapping[str, Any]:
    """On images with attributes; without weights that rise over epochs."""
    presets = listing.load("multimodal_family").presets
    found = {}
    for name in ("laptop", "faces"):
        shared = presets[name].model
        image, described = ZOO[model].config().modalities
        shape = (shared.image_size,) * 2 + (3,)
        image = dataclasses.replace(image, shape=shape, widths=shared.widths, scale=shared.scale)
        described = dataclasses.replace(described, widths=(shared.units,))
        config = ZOO[model].config(modalities=(image, described), latent_size=shared.latent_size)
        known = {"batch_size", "learning_rate", "samples"} & {field.name for field in dataclasses.fields(config)}
        changes: dict[str, Any] = {field: getattr(shared, field) for field in known}
        if hasattr(config, "warmup_epochs"):
            changes["warmup_epochs"] = 0
        found[name] = dataclasses.replace(config, **changes)
    return found


def _family_draws(config: Any, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Noise, and of MoPoE-VAE which set of modalities each example is drawn from."""
    count, total = len(batch["image"]), len(config.modalities)
    shapes = {
        multimodal_vaes.MVAEConfig: (count, 1 + total, config.latent_size),
        multimodal_vaes.MMVAEConfig: (count, total, getattr(config, "samples", 1), config.latent_size),
        multimodal_vaes.MoPoEConfig: (count, config.latent_size),
    }
    drawn = {"latent": random.standard_normal(jax.random.fold_in(key, 0), shapes[type(config)])}
    if isinstance(config, multimodal_vaes.MoPoEConfig):
        share = random.uniform(jax.random.fold_in(key, 1), (count,))
        drawn["component"] = jnp.floor(share * (2**total - 1))
    if isinstance(config, multimodal_vaes.MMVAEConfig):  # four axes would be those of images
        drawn["latent"] = drawn["latent"].reshape(count, -1, config.latent_size)
    return drawn


def _subject(
    name: str,
    presets: Callable[[], Mapping[str, Any]],
    data: Callable[[Any, Phase, int], dict[str, np.ndarray]] = _image_data,
    draws: Callable[[Any, jax.Array, Batch], dict[str, jax.Array]] = lambda config, key, batch: {},
    terms: Callable[[Any, Phase], dict[str, float]] = lambda config, phase: {},
) -> Subject:
    """A model of the zoo; by default of images alone, without draws, and with nothing more to be told."""
    entry = ZOO[name]
    return Subject(presets, entry.config(), entry.build, entry.phases, data, draws, terms)


def _variational(name: str) -> Subject:
    """A VAE of `experiments/celeba_vae.py`."""
    return _subject(
        name,
        lambda: _variational_presets(name),
        draws=_latent_draws(latent=1),
        terms=lambda config, phase: config.divergence_weights | {"dataset_size": _STEPS_PER_EPOCH * config.batch_size},
    )


def _of_family(name: str) -> Subject:
    """A multimodal VAE that MultiVae has too, of images and attributes."""
    return _subject(
        name,
        lambda: _family_presets(name),
        _described_data,
        _family_draws,
        lambda config, phase: config.weights,
    )


SUBJECTS = {
    "vae": _variational("vae"),
    "beta_tcvae": _variational("beta_tcvae"),
    "multimodal": _subject(
        "multimodal",
        _multimodal_presets,
        _described_data,
        _multimodal_draws,
        lambda config, phase: multimodal.term_weights(config, phase.weights, perceptual=False),
    ),
    "alae": _subject(
        "alae",
        _alae_presets,
        draws=_latent_draws(discriminator=1, generator=2, reciprocity=3),
        terms=lambda config, phase: {} if phase.ema_decay is None else {"ema_decay": phase.ema_decay},
    ),
    "vae_gan": _subject("vae_gan", _vae_gan_presets, draws=_latent_draws(latent=3, prior=4)),
    "attribute_classifier": _subject("attribute_classifier", _classifier_presets, _described_data),
    "cvae": _subject("cvae", _cvae_presets, _described_data, _latent_draws(latent=1)),
    "style_alae": _subject("style_alae", _style_alae_presets),
    **{name: _of_family(name) for name in OF_FAMILY},
}


class Worker:
    """A model in one phase: its program, its state and a resident data set of noise.

    The first step is timed from the start of tracing until its metrics are on the host: tracing, lowering, compilation
    (or loading from the cache) and one step. Drawing the parameters comes before and does not count.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        subject = self._subject = SUBJECTS[settings["model"]]
        config = self._config = runs.rebuild(subject.default, settings["config"])
        self._model, self._phase = subject.build(config), subject.phase(config, settings["phase"])
        if settings["devices"] > len(jax.devices()):
            raise ValueError(f"{settings['devices']} devices are asked for; there are {len(jax.devices())}.")
        self._at_once, self._batch_size = settings["steps_per_dispatch"], self._phase.batch_size
        self._examples, self._generator = settings["examples"], np.random.default_rng(0)
        placement = place(jax.devices()[: settings["devices"]], shard_state=settings["shard_state"])
        placement.check_batch_size(self._batch_size)
        data = subject.data(config, self._phase, self._examples)
        self._batch = {name: array[: self._batch_size] for name, array in data.items()}

        def create(key: jax.Array, batch: Batch) -> states.TrainState:
            return states.create(self._model, self._phase, key, batch)

        key = jax.random.key(0)
        self._shapes = jax.eval_shape(create, key, self._batch)
        self.greeting = {
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": placement.mesh.size,
            "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        }
        if not settings["run"]:
            start = time.perf_counter()
            targets = placement.spread_targets(data)
            _, self._compiled = _compile(
                self._step(), placement, self._shapes, targets, self._batch_size, self._at_once
            )
            self.greeting["compile_seconds"] = time.perf_counter() - start
            return
        self._state = jax.jit(create, out_shardings=placement.shardings(self._shapes))(key, self._batch)
        if settings["export"]:
            draws = subject.draws(config, jax.random.fold_in(self._state.key, self._state.step), self._batch)
            _export(settings["export"], self._state.params, self._batch, draws)
        jax.block_until_ready(self._state)
        arrays = placement.spread(data)
        start = time.perf_counter()
        self._take, self._compiled = _compile(
            self._step(), placement, self._shapes, arrays, self._batch_size, self._at_once
        )
        self._state, sums = self._take(self._state, np.arange(self._batch_size, dtype=np.int32)[None])
        losses = sums.means()
        self.greeting |= {"first_step_seconds": time.perf_counter() - start, "losses": losses}

    def _step(self) -> Any:
        return make_train_step(self._model.rounds(self._phase), self._model.optimizers(self._phase), self._phase)

    def _plain_step(self) -> Any:
        """Without what saves memory: of a loop over parts XLA counts one, and of what is computed again both."""
        saving = {"examples_at_once": (0,), "recomputed_from": 0}
        fields = {field.name for field in dataclasses.fields(self._config)}
        plain = dataclasses.replace(self._config, **{name: off for name, off in saving.items() if name in fields})
        model, phase = self._subject.build(plain), self._subject.phase(plain, self._phase.name)
        return make_train_step(model.rounds(phase), model.optimizers(phase), phase)

    def steps(self, count: str) -> dict[str, Any]:
        """Trains at least so many steps, each dispatch on random batches; one time per dispatch."""
        seconds = []
        for _ in range(math.ceil(int(count) / self._at_once)):
            size = (self._at_once, self._batch_size)
            start = time.perf_counter()
            indices = self._generator.integers(0, self._examples, size, np.int32)
            self._state, _ = jax.block_until_ready(self._take(self._state, indices))
            seconds.append((time.perf_counter() - start) / self._at_once)
        return {"seconds": seconds, "peak_bytes": _peak_bytes()}

    def product(self, _: str) -> dict[str, float]:
        """Rate of a matrix product in the dtype of the model, on one device: the yardstick of utilisation."""
        size: int = 2048 if jax.default_backend() == "cpu" else 8192
        matrix = jnp.ones((size, size), getattr(self._config, "compute_dtype", "float32"))
        multiply, seconds = jax.jit(jnp.matmul), []
        multiply(matrix, matrix).block_until_ready()
        for _repetition in range(5):
            start = time.perf_counter()
            multiply(matrix, matrix).block_until_ready()
            seconds.append(time.perf_counter() - start)
        return {"flops_per_second": 2.0 * size**3 / statistics.median(seconds)}

    def digest(self, _: str) -> dict[str, str]:
        """Digest of the parameters, to compare the bits of two runs."""
        sha256 = hashlib.sha256()
        for leaf in jax.tree.leaves(self._state.params):
            sha256.update(np.asarray(leaf).tobytes())
        return {"digest": sha256.hexdigest()}

    def program(self, _: str) -> dict[str, Any]:
        """Floating-point operations of a step, and collectives and memory of the compiled program."""
        flops, memory = model_flops(self._plain_step, self._shapes, self._batch), self._compiled.memory_analysis()
        taken = {"arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes}
        return {"flops": flops, "collectives": collectives(self._compiled.as_text()), "memory": taken}


def _compile(
    step: Any, placement: Any, shapes: Any, arrays: Mapping[str, Any], batch_size: int, at_once: int
) -> tuple[Callable[[Any, np.ndarray], tuple[Any, Any]], Any]:
    """(state, indices [steps, B]) -> (state, metrics' sums), and the executable: all contact with `train`."""
    program = compile_step(step, placement, shapes, arrays, batch_size, most_steps=at_once)
    return_freed_memory()  # as the training loop does

    def take(state: Any, indices: np.ndarray) -> tuple[Any, Any]:
        out = program(state, program.zeros, arrays, indices, np.zeros(1, np.float32))
        return out.state, out.sums

    return take, program.compiled


def model_flops(make_step: Callable[[], Callable[..., Any]], *shapes: Any) -> float:
    """Floating-point operations of a step, by XLA's cost analysis of what it compiles for a CPU.

    Convolutions are in their plain form: the canonical one multiplies by zeros. What is computed twice and merged by
    XLA counts once; an unmerged repetition counts.

    Args:
        make_step: returns a new function, so that nothing traced in another form is found again.
        *shapes: its arguments, or their shapes.
    """
    plain = mock.patch.object(convolution, "default_formulation", return_value="plain")
    with plain, jax.default_device(jax.local_devices(backend="cpu")[0]):  # other backends hide products in calls
        compiled = jax.jit(make_step()).lower(*shapes).compile({"xla_backend_optimization_level": "0"})
    costs: Any = compiled.cost_analysis()
    return costs["flops"]


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Counts the collectives in the text of a compiled program, and the bytes of their results on one device.

    An asynchronous pair counts once, at its start; an instruction in a loop counts once.

    Returns:
        {kind: {"count": instructions, "bytes": of all results}}.
    """
    found: dict[str, dict[str, int]] = {}
    for shape, kind, start in re.findall(rf"= (\S.*?) ({_KINDS})(-start)?\(", text):
        if start and kind != "all-reduce":  # (operands, results, ...); an all-reduce has its results alone
            shape = _elements(shape)[1]
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += _bytes(shape)
    return found


def _elements(shape: str) -> list[str]:
    """The elements of a tuple's shape: "(f32[2]{0}, (s8[], s8[]))" to ["f32[2]{0}", "(s8[], s8[])"]."""
    elements, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            elements.append("")
        else:
            elements[-1] += letter
    return [element.strip() for element in elements]


def _bytes(shape: str) -> int:
    """Bytes of an array's or a tuple's shape, such as "(bf16[8,3]{1,0}, pred[])"."""
    total = 0
    for kind, sizes in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape):
        width = re.search(r"\d+", kind)
        bits = int(width[0]) if width else 8 * (kind == "pred")
        total += math.prod(map(int, sizes.split(","))) * bits // 8 if sizes else bits // 8
    return total


def _export(path: str, params: Any, batch: Batch, draws: Mapping[str, jax.Array]) -> None:
    """What the other side needs for the same first step; batch and draws are marked by their first letter."""
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    arrays |= {f"+{name}": value for name, value in batch.items()}
    arrays |= {f"-{name}": value for name, value in draws.items()}
    found: Any = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(path, **found)


def _peak_bytes() -> int:
    """On an accelerator its memory's peak, on a CPU that of the process, both including the compiler's."""
    found: Iterable[Mapping[str, int]] = (device.memory_stats() or {} for device in jax.local_devices())
    peaks = [stats["peak_bytes_in_use"] for stats in found if "peak_bytes_in_use" in stats]
    return max(peaks) if peaks else resident_bytes(resource.getrusage(resource.RUSAGE_SELF))


def main() -> None:
    """Serves commands until "quit" or the end of input."""
    keep_freed_memory()  # as every experiment does
    try:
        worker = Worker(json.loads(sys.argv[1]))
    except ValueError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps(worker.greeting), flush=True)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "quit":
            break
        print(json.dumps(getattr(worker, command)(argument)), flush=True)


if __name__ == "__main__":
    main()
