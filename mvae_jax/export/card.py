"""The card of an exported model: what it is, on what it was trained, what for, and what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mvae_jax

_MOST_SCORES = 40  # rows of the table
_REAL_FACES = ("celeba", "ffhq", "lfw")  # what is in the names of data sets of photographed faces
# Data sets of this package that show nobody, by their whole names.
_NO_PERSON = {
    *("rendered faces", "faces with factors", "dSprites", "shapes", "rendered shapes"),
    *("MNIST", "digits of scikit-learn", "five views of digits", "CUB-200-2011"),
}

_USE = """\
Research and teaching: samples, reconstructions, latent spaces, comparison with other models. It is not made to identify
people, to decide anything about them, or to give out its images as photographs."""

_LIMITS = """\
- It knows {examples} like those that it was trained on, and says something of any other, too.
- What it learned is what its training images show, with their imbalances.
- Attributes and captions that it reads from images are guesses."""

_CONSENT = {
    "real": """\
The training images are photographs of real people, and nothing here says that they agreed to it. Do not use it to make
or change images of a person who has not agreed, and do not present its images as evidence of anything. The data set's
terms of use apply to what is done with the weights.""",
    "none": "No image of a real person was used.",
    "unknown": """\
Not known: nothing here says whether people can be seen in the training images, or that they agreed to it. Do not use it
to make or change images of a person who has not agreed.""",
}

_RUN = """\
```python
import json
from pathlib import Path

import jax
import jax.export
import numpy as np

FOLDER = Path(".")  # of this card


def read_weights(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    entries.pop("__metadata__", None)
    dtypes = {{"F32": np.float32, "I32": np.int32, "U32": np.uint32, "BOOL": np.bool_}}
    arrays = {{}}
    for name, entry in entries.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(data[begin:end], dtypes[entry["dtype"]]).reshape(entry["shape"])
    return arrays


weights = read_weights(FOLDER / "weights.safetensors")
{name} = jax.export.deserialize(bytearray((FOLDER / "functions/{name}.jax").read_bytes())).call
result = {name}(weights, {arguments})
```"""


_IMAGES = "Images are float32 in [-1, 1], as which a byte is `byte / 127.5 - 1`."

_DRAWS = """\
Functions that draw are not exported: draw a code from N(0, I), or as `map` and `prior` say, and decode it."""


def write(
    run: Any,
    functions: Mapping[str, Any],
    arrays: Mapping[str, Any],
    scores: Mapping[str, Any],
    member: str,
    license: str,
) -> str:
    """The text of a card, in Markdown with the fields that the Hugging Face Hub reads.

    Args:
        run: as of `folder.write`.
        functions: name -> "arguments" and "result", as `functions.lower` describes them.
        arrays: the weights by name.
        scores: of an evaluation.
        member: name of the model in the scores.
        license: of the weights.
    """
    settings, name = run.settings, run.settings["model"]
    count = sum(array.size for key, array in arrays.items() if key.startswith("params/"))
    examples = _examples(run.config)
    head = ["---", "library_name: mvae-jax", *([f"license: {license}"] if license else []), "tags:"]
    head += [f"- {tag}" for tag in ("jax", "flax", "generative-model", name)] + ["---"]
    parts = [
        "\n".join(head),
        f"# {name}",
        f"`{name}` of mvae_jax {mvae_jax.__version__}, phase {run.phase}, step "
        f"{run.step:,}: {count:,} parameters, {examples}.",
        "## Data",
        _data(settings),
        "## Intended use",
        _USE,
        "## Limits",
        _LIMITS.format(examples=examples),
        "## Consent",
        _CONSENT[_people(settings)],
        "## License",
        f"{license}, of the weights." if license else "The owner of the weights has stated none.",
        "## Scores",
        _table(scores, member),
        "## How to use it",
        "With mvae_jax, in Python or on the command line:",
        "```python\nfrom mvae_jax import runs\n\nrun = runs.load(FOLDER)  # the folder of this card\n```",
    ]
    if functions:
        parts += [
            "With JAX and flatbuffers alone (`pip install jax flatbuffers`), on a CPU, a GPU or a TPU:",
            "\n".join(_signatures(functions)),
            *([_IMAGES] if run.config.image_size is not None else []),
            *([_DRAWS] if "decode" in functions else []),
            _RUN.format(**_shown(functions)),
        ]
    return "\n\n".join(parts) + "\n"


def _examples(config: Any) -> str:
    """What a model takes and gives, in words."""
    if names := [modality.name for modality in getattr(config, "modalities", ())]:
        return f"examples of {', '.join(names)}"
    if config.image_size is None:
        return f"codes of {config.latent_size} dimensions"
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return f"images of {height} x {width} pixels"


def _people(settings: Mapping[str, Any]) -> str:
    """Whether the images show real people: "real", "none" or "unknown"."""
    names = _names(settings)
    if any(faces in name.lower() for name in names for faces in _REAL_FACES):
        return "real"
    return "none" if names and names[0] in _NO_PERSON else "unknown"


def _names(settings: Mapping[str, Any]) -> list[str]:
    """Names of the data set, the surest first; none where a run was trained on arrays that nothing describes."""
    config = settings["config"].get("data", {})
    data = settings.get("provenance", {}).get("data", {})
    return [str(name) for name in (config.get("kind"), data.get("data_set"), data.get("source")) if name]


def _data(settings: Mapping[str, Any]) -> str:
    data = settings.get("provenance", {}).get("data", {})
    lines = [f"- data set: {(_names(settings) or ['arrays of its owner'])[0]}"]
    counts = data.get("counts", {})
    lines += [f"- {split} images: {number:,}" for split, number in counts.items() if isinstance(number, int)]
    if names := settings["config"]["model"].get("attributes"):
        lines.append(f"- attributes: {', '.join(map(str, names))}")
    starts = settings.get("provenance", {}).get("starts", [])
    if starts and (commit := starts[-1].get("commit")):
        lines.append(f"- trained by commit {commit}")
    lines.append(f"- seed: {settings['config'].get('seed', 'not known')}; all settings are in `config.json`")
    return "\n".join(lines)


def _table(scores: Mapping[str, Any], member: str) -> str:
    rows = list(_numbers(scores, member))
    if not rows:
        return "Not evaluated."
    lines = ["| measure | value |", "|---|---|", *(f"| {name} | {value:.4g} |" for name, value in rows[:_MOST_SCORES])]
    return "\n".join(lines) + "\n\nAll are in `scores.json`; what they mean stands in the documentation of mvae_jax."


def _numbers(scores: Mapping[str, Any], member: str) -> Iterator[tuple[str, float]]:
    """Numbers of the model itself: those of a measure, or of the measure's row of this model."""
    for measure, result in scores.items():
        row = result.get(member, result) if isinstance(result, Mapping) else {}
        for name, value in row.items() if measure != "checkpoints" and isinstance(row, Mapping) else ():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield f"{measure}: {name}", value


def _signatures(functions: Mapping[str, Any]) -> Iterator[str]:
    for name, shapes in functions.items():
        arguments = ", ".join(f"{key}: {_text(value)}" for key, value in shapes["arguments"].items())
        yield f"- `{name}(weights, {arguments})` gives `{_text(shapes['result'])}`"


def _text(shapes: Any) -> str:
    if isinstance(shapes, Mapping):
        return "{" + ", ".join(f"{name}: {_text(value)}" for name, value in shapes.items()) + "}"
    return f"({', '.join(map(_text, shapes))})" if isinstance(shapes, list) else shapes


def _shown(functions: Mapping[str, Any]) -> dict[str, str]:
    """The function of the example, a decoder where there is one, and arguments of zeros for a batch of four."""
    name = next((name for name in functions if name.startswith("decode")), next(iter(functions)))

    def zeros(shapes: Any) -> str:
        if isinstance(shapes, list):
            return f"({', '.join(map(zeros, shapes))})"
        dtype, axes = shapes.rstrip("]").split("[")
        sizes = ["4" if axis == "batch" else axis for axis in axes.split(",") if axis]
        return f"np.zeros(({', '.join(sizes)}{',' * (len(sizes) == 1)}), np.{dtype})"

    return {"name": name, "arguments": ", ".join(map(zeros, functions[name]["arguments"].values()))}
