"""A trained multimodal VAE at work, one line each:

    python tools/use_model.py generate runs/celebahq_mvae "a smiling young woman with blond hair" -o faces.png
    python tools/use_model.py caption runs/celebahq_mvae photo.jpg
    python tools/use_model.py check runs/celebahq_mvae photo.jpg "a bald man who is wearing eyeglasses"
    python tools/use_model.py interpolate runs/celebahq_mvae "a young man" photo.jpg -o between.png
    python tools/use_model.py fuse runs/celebahq_mvae photo.jpg "a smiling woman" -o fused.png

Any JPEG, PNG or WebP will do: it is cropped to its central square and resized to what the model was trained on, and a
line says so. The model knows faces as its training images show them: upright, frontal, filling the picture.
`check` ends with status 0 for a match and 1 for a mismatch; mistakes end with one line and status 2.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mvae_jax import gaussian, images, runs
from mvae_jax.data import captions, decode
from mvae_jax.eval import consistency
from mvae_jax.viz import grids

Posterior = tuple[jax.Array, jax.Array]
_SUFFIXES = (".jpg", ".jpeg", ".png")
_MOST = 256  # pictures of one sheet


def generate(arguments: argparse.Namespace) -> None:
    """Caption to images."""
    run = _load(arguments)
    mean, logvar = run.encode_attributes(_attributes(run, arguments.caption))
    _count("--count", arguments.count)
    if not 0 <= arguments.seed < 2**32:
        raise ValueError(f"--seed is {arguments.seed}; expected a number from 0 to 2**32 - 1.")
    if not 0 <= arguments.temperature < float("inf"):
        raise ValueError(f"--temperature is {arguments.temperature}; expected 0 (the mean of the caption) or more.")
    shape = (arguments.count, mean.shape[1])
    noise = gaussian.standard_normal(jax.random.key(arguments.seed), shape)
    drawn = run.decode_image(mean + arguments.temperature * jnp.exp(logvar / 2) * noise)
    _save(arguments.output, _bytes(drawn), title=arguments.caption)


def caption(arguments: argparse.Namespace) -> None:
    """Image to sentence, with the probability of each attribute."""
    run = _load(arguments)
    mean, _ = run.encode_image(_pixels(run, arguments.image))
    seen = _probabilities(run, mean)
    sentence = captions.write(np.array([*seen.values()]) > 0.5, run.config.attributes)
    if arguments.json:
        print(json.dumps({"caption": sentence, "probabilities": seen}))
        return
    print(sentence)
    width = max(map(len, seen))
    for name, probability in seen.items():
        print(f"  {name:{width}}  {probability:.3f}")


def check(arguments: argparse.Namespace) -> None:
    """Does the sentence describe the image? Status 1 if not."""
    run = _load(arguments)
    stated = _attributes(run, arguments.caption)
    threshold = _threshold(run, arguments)
    image = run.encode_image(_pixels(run, arguments.image))
    score = float(consistency.consistency_score(image, run.encode_attributes(stated))[0])
    verdict = "match" if score > threshold else "mismatch"
    # What the text decoder reads from the image names a wrong attribute more reliably than the score does.
    seen = _probabilities(run, image[0])
    said = dict(zip(run.config.attributes, stated[0].tolist(), strict=True))
    disagreeing = sorted(
        (name for name in seen if abs(seen[name] - said[name]) > 0.5), key=lambda name: -abs(seen[name] - said[name])
    )
    if arguments.json:
        found = {"score": score, "threshold": threshold, "verdict": verdict, "disagreeing": disagreeing}
        print(json.dumps({**found, "text": said, "image": seen}))
    else:
        print(f"{verdict}: score {score:.3f}, threshold {threshold:.3f}")
        for name in disagreeing:
            answers = ("yes", "no") if said[name] else ("no", "yes")
            print("  {}: the text says {}, the image {} (probability {:.3f})".format(name, *answers, seen[name]))
        if not disagreeing:
            print("  no attribute disagrees")
    sys.exit(verdict == "mismatch")


def interpolate(arguments: argparse.Namespace) -> None:
    """Pictures between two captions, two images, or one of each."""
    run = _load(arguments)
    _count("--steps", arguments.steps, least=2)
    start, end = (_encode(run, text)[0] for text in (arguments.start, arguments.end))
    way = gaussian.slerp if arguments.spherical else gaussian.lerp
    fractions = np.linspace(0, 1, arguments.steps)
    pictures = _bytes(run.decode_image(jnp.concatenate([way(start, end, fraction) for fraction in fractions])))
    if _is_folder(arguments.output):
        _save(arguments.output, pictures)
    else:
        _write(arguments.output, grids.interpolation([arguments.start], [arguments.end], pictures[None]))


def fuse(arguments: argparse.Namespace) -> None:
    """The image that agrees with both an image and a sentence."""
    run = _load(arguments)
    attributes, pixels = _attributes(run, arguments.caption), _pixels(run, arguments.image)
    mean, _ = run.fuse(pixels, attributes)
    means = {
        "from the image": run.encode_image(pixels)[0],
        "from the text": run.encode_attributes(attributes)[0],
        "from both": mean,
    }
    decoded = {label: _bytes(run.decode_image(z)) for label, z in means.items()}
    print(captions.write(np.asarray(run.decode_attributes(mean)[0] > 0, np.float32), run.config.attributes))
    if _is_folder(arguments.output):
        _save(arguments.output, decoded["from both"])
    else:
        shown = np.concatenate([_bytes(pixels), *decoded.values()])
        _write(arguments.output, grids.grid(shown, ["the image", *decoded], columns=4, title=arguments.caption))


def _load(arguments: argparse.Namespace) -> runs.Run:
    try:
        run = runs.load(arguments.workdir, phase=arguments.phase, best=arguments.best)
    except RuntimeError as error:  # "~someone" whom nobody knows
        raise ValueError(f"{arguments.workdir}: {error}") from error
    if run.settings["model"] != "multimodal":
        raise ValueError(
            f"{arguments.workdir} holds a run of the model {run.settings['model']!r}; expected 'multimodal'."
        )
    return run


def _attributes(run: runs.Run, sentence: str) -> np.ndarray:
    return captions.read(sentence, run.config.attributes)[None]


def _pixels(run: runs.Run, path: str) -> jax.Array:
    picture, note = decode.read_image(path, run.config.image_size)
    if note:
        print(f"{path}: {note}", file=sys.stderr)
    return images.to_float(jnp.asarray(picture[None]))


def _probabilities(run: runs.Run, mean: jax.Array) -> dict[str, float]:
    """Probability of each attribute in the image whose posterior has this mean, [1, D]."""
    probabilities = jax.nn.sigmoid(run.decode_attributes(mean)[0])
    return dict(zip(run.config.attributes, np.asarray(probabilities, float).round(4).tolist(), strict=True))


def _encode(run: runs.Run, text: str) -> Posterior:
    """The posterior of an image file or of a sentence."""
    if text.lower().endswith(_SUFFIXES) or os.path.exists(text):
        return run.encode_image(_pixels(run, text))
    return run.encode_attributes(_attributes(run, text))


def _threshold(run: runs.Run, arguments: argparse.Namespace) -> float:
    """The threshold that the run's evaluation took from its calibration images."""
    if arguments.threshold is not None:
        if not 0 <= arguments.threshold <= 1:
            raise ValueError(f"--threshold is {arguments.threshold}; expected 0 to 1, as scores are.")
        return arguments.threshold
    folder = Path(arguments.workdir).expanduser()
    for path in (folder / "finished.json", folder / "evaluation" / "scores.json"):
        scores = _read_scores(path)
        if (scores.get("phase"), scores.get("step")) == (run.phase, run.step):
            return float(scores["consistency"]["threshold"])
    raise ValueError(
        f"{folder} has no threshold for its checkpoint of phase {run.phase} at step {run.step}: judge it by "
        f"'python experiments/celebahq_mvae.py --evaluate --workdir={folder}', or give --threshold."
    )


def _read_scores(path: Path) -> Mapping[str, Any]:
    try:
        scores = json.loads(path.read_text())
        float(scores["consistency"]["threshold"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return scores


def _save(output: Path, pictures: np.ndarray, title: str = "") -> None:
    """A sheet, or a file per picture where `output` is a folder."""
    if not _is_folder(output):
        _write(output, grids.grid(pictures, title=title))
        return
    output.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        _write(output / f"{number:03d}.png", Image.fromarray(picture))


def _write(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    print(path)


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _bytes(pixels: jax.Array) -> np.ndarray:
    return np.asarray(images.to_uint8(pixels))


def _count(flag: str, value: int, least: int = 1) -> None:
    if not least <= value <= _MOST:
        raise ValueError(f"{flag} is {value}; expected {least} to {_MOST}.")


def _keep_inputs(arguments: argparse.Namespace) -> None:
    """Refuses an output that would replace an input."""
    output = getattr(arguments, "output", None)
    for name in ("image", "start", "end"):
        given = getattr(arguments, name, None)
        if given and output and os.path.isfile(given) and Path(given).resolve() == output.resolve():
            raise ValueError(f"--output is {output}, an input; choose another file.")


def _output(text: str) -> Path:
    path = Path(os.path.expanduser(text))
    if path.suffix.lower() not in ("", *_SUFFIXES):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a .png or .jpg file nor a folder")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("workdir", help="folder of a run, finished or still training")
    model.add_argument("--phase", help="take this phase's checkpoint; by default the newest")
    model.add_argument("--best", action="store_true", help="the checkpoint with the lowest validation loss")

    def add(function: Any, *positional: tuple[str, str], output: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(function.__name__, parents=[model], help=function.__doc__)
        for name, text in positional:
            command.add_argument(name, help=text)
        if output:
            text = "a .png or .jpg for a sheet, or a folder for single pictures (default: %(default)s)"
            command.add_argument("-o", "--output", type=_output, default=Path(output), help=text)
        command.set_defaults(function=function)
        return command

    sentence = ("caption", 'a sentence or keywords, such as "a smiling man with a mustache"')
    image = ("image", "a JPEG, PNG or WebP of any size")
    command = add(generate, sentence, output="generated.png")
    command.add_argument("--count", type=int, default=12, help="how many images (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    command.add_argument(
        "--temperature", type=float, default=1.0, help="scale of the draws' deviation; 0 gives the mean"
    )
    command = add(caption, image)
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add(check, image, sentence)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--threshold", type=float, help="score above which a pair matches; by default the run's own")
    ends = [(name, 'a caption, or an image file ending in ".jpg" or ".png"') for name in ("start", "end")]
    command = add(interpolate, *ends, output="interpolation.png")
    command.add_argument("--steps", type=int, default=8, help="pictures, both ends among them (default: %(default)s)")
    command.add_argument("--spherical", action="store_true", help="along a great circle in place of a straight line")
    add(fuse, image, sentence, output="fused.png")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command."""
    logging.getLogger("jax").setLevel(logging.WARNING)  # it lists the accelerators that are not there
    arguments = _parser().parse_args(argv)
    try:
        _keep_inputs(arguments)
        arguments.function(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
