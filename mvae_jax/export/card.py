"""The card of an exported model: what it is, on what it was trained, what for, and what it cannot do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import mvae_jax
from mvae_jax.export.functions import CODES

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
{draws}result = {name}(weights, {arguments})
```"""

_RUN_PRIOR = """\
prior = read_weights(FOLDER / "{folder}/weights.safetensors")
codes_of_noise = jax.export.deserialize(bytearray((FOLDER / "{folder}/functions/codes_of_noise.jax").read_bytes())).call
rng = np.random.default_rng(0)
noise = rng.standard_normal((4, {size}), np.float32)
{rows}
codes = codes_of_noise(prior, noise, attributes, known, np.float32(1))  # more than 1 heeds the attributes more
"""

_ROWS = """\
kept = prior["model_state/flow/attributes"]  # of training examples
attributes = kept[rng.integers(len(kept), size=4)]
known = np.ones_like(attributes)"""

_NO_ROWS = """\
attributes = known = np.zeros((4, {count}), np.float32)"""

_PRIOR = """\
`{folder}/` has a prior that was learned over the codes of the training images{given}: a rectified flow of {count:,}
parameters, step {step:,}. It is an export as well, with its own card. `mvae-jax use generate` draws by it. In Python:

```python
import jax

from mvae_jax import runs
from mvae_jax.experiment import prior

run = runs.load(FOLDER)
codes = prior.load(FOLDER, run).sample_freely(jax.random.key(0), 4)
```"""


_IMAGES = "Images are float32 in [-1, 1], as which a byte is `byte / 127.5 - 1`."

_DRAWS = """\
Functions that draw are not exported: draw a code from N(0, I), or as `map` and `prior` say, and decode it."""

_NOISE = """\
Noise is from N(0, I). An attribute whose `known` is 0 is not given. A guidance of 1 heeds those that are given as the
training examples have them, one above 1 more, at the cost of diversity."""

_DRAWS_LEARNED = """
The program below draws it by the learned prior, of attributes as the training examples have them."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """A learned prior, for the card of the model over whose codes it is.

    Attributes:
        folder: of its export, within that of the model.
        run: the prior.
        functions: as for `write`.
        arrays: its weights by name.
    """

    folder: str
    run: Any
    functions: Mapping[str, Any]
    arrays: Mapping[str, Any]


def write(
    run: Any,
    functions: Mapping[str, Any],
    arrays: Mapping[str, Any],
    scores: Mapping[str, Any],
    member: str,
    license: str,
    learned: Prior | None = None,
) -> str:
    """The text of a card, in Markdown with the fields that the Hugging Face Hub reads.

    Args:
        run: as of `folder.write`.
        functions: name -> "arguments" and "result", as `functions.lower` describes them.
        arrays: the weights by name.
        scores: of an evaluation.
        member: name of the model in the scores.
        license: of the weights.
        learned: the learned prior over its codes.
    """
    settings, name = run.settings, run.settings["model"]
    count, examples = _count(arrays), _examples(run.config)
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
        *(["## Learned prior", _prior(learned)] if learned else []),
        "## How to use it",
        "With mvae_jax, in Python or on the command line:",
        "```python\nfrom mvae_jax import runs\n\nrun = runs.load(FOLDER)  # the folder of this card\n```",
    ]
    if functions:
        parts += [
            "With JAX and flatbuffers alone (`pip install jax flatbuffers`), on a CPU, a GPU or a TPU:",
            "\n".join(_signatures(functions)),
            *([_IMAGES] if run.config.image_size is not None else []),
            *([_DRAWS + (_DRAWS_LEARNED if learned else "")] if "decode" in functions else []),
            *([_NOISE] if "codes_of_noise" in functions else []),
            _RUN.format(**_shown(functions, learned)),
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


def _count(arrays: Mapping[str, Any]) -> int:
    """Parameters."""
    return sum(array.size for key, array in arrays.items() if key.startswith("params/"))


def _prior(learned: Prior) -> str:
    given = ", given attributes of which any may be unknown" if learned.run.config.attributes else ""
    count = _count(learned.arrays)
    return _PRIOR.format(folder=learned.folder, given=given, count=count, step=learned.run.step)


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


def _shown(functions: Mapping[str, Any], learned: Prior | None) -> dict[str, str]:
    """The function of the example, a decoder where there is one, and arguments for a batch of four.

    They are zeros, but noise is drawn. A decoder's are codes that the learned prior draws, if there is one, and their
    attributes.
    """
    name = next((name for name in functions if name.startswith("decode")), next(iter(functions)))

    def zeros(shapes: Any) -> str:
        if isinstance(shapes, list):
            return f"({', '.join(map(zeros, shapes))})"
        dtype, axes = shapes.rstrip("]").split("[")
        sizes = ["4" if axis == "batch" else axis for axis in axes.split(",") if axis]
        return f"np.zeros(({', '.join(sizes)}{',' * (len(sizes) == 1)}), np.{dtype})"

    arguments, draws = {key: zeros(shapes) for key, shapes in functions[name]["arguments"].items()}, ""
    if noise := arguments.get("noise"):
        arguments["noise"] = noise.replace("np.zeros(", "np.random.default_rng(0).standard_normal(")
    if learned and {*CODES} & {*arguments}:
        drawn = {**dict.fromkeys(CODES, "codes"), "attributes": "attributes"}
        arguments = {key: drawn.get(key, value) for key, value in arguments.items()}
        config = learned.run.config
        keeps = "model_state/flow/attributes" in learned.arrays
        rows = _ROWS if keeps else _NO_ROWS.format(count=len(config.attributes))
        draws = _RUN_PRIOR.format(folder=learned.folder, size=config.latent_size, rows=rows)
    return {"name": name, "draws": draws, "arguments": ", ".join(arguments.values())}
