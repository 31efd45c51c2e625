"""A trained multimodal VAE or attribute CVAE at work, one line each:

    mvae-jax use generate runs/celebahq_mvae "a smiling young woman with blond hair" -o faces.png
    mvae-jax use caption runs/celebahq_mvae photo.jpg
    mvae-jax use check runs/celebahq_mvae photo.jpg "a bald man who is wearing eyeglasses"
    mvae-jax use interpolate runs/celebahq_mvae "a young man" photo.jpg -o between.png
    mvae-jax use fuse runs/celebahq_mvae photo.jpg "a smiling woman" -o fused.png

    mvae-jax use generate runs/attribute_cvae/beta_0.9 "a smiling young woman with blond hair"
    mvae-jax use edit runs/attribute_cvae/beta_0.5 photo.jpg "a young man" --add smiling,eyeglasses --remove young
    mvae-jax use generate runs/cvae_cub/beta_0.9 "001.Black_footed_Albatross, has_wing_color::brown"
    mvae-jax use attributes runs/cvae_cub/beta_0.9

The first five are the multimodal VAE's, the others the CVAE's; `generate` and `attributes` serve both. Attributes that
no sentence can say, as those of birds, are given by their names, with commas between. `edit` encodes the image with
the attributes that it shows, and decodes the mean of that with others.

Any JPEG, PNG or WebP will do: the central part that has the proportions of the training images is resized to their
size, and a line says so. The model knows images as its training images show them: faces upright, frontal, filling the
picture.
`check` judges the words that the caption says, and no others: it is a match, with status 0, if the text decoder reads
each from the image with a probability above the threshold that the run's evaluation took from calibration images, else
a mismatch, with status 1. The paper's score and its verdict stand beside it. Mistakes end with one line and status 2.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mvae_jax import exits, gaussian, images, random, runs
from mvae_jax.commands import _pictures
from mvae_jax.commands._parser import Parser, output_folder, typed_path
from mvae_jax.data import captions, decode
from mvae_jax.eval import consistency, cross_modal, partial_captions
from mvae_jax.experiment import evaluations, prior, provenance, typical
from mvae_jax.files import expanded
from mvae_jax.terminal import echo
from mvae_jax.viz import grids

Posterior = tuple[jax.Array, jax.Array]
_MOST = 256  # pictures of one sheet
_MOST_SCALE = 1000  # of the draws' deviation, or of their guidance: far above all that give a picture


def generate(arguments: argparse.Namespace) -> int:
    """Images from a sentence or from names of attributes."""
    run = _load(arguments, "multimodal", "cvae")
    attributes, said = _caption(run, arguments.caption)
    _check_count("--count", arguments.count)
    if not 0 <= arguments.seed < 2**32:
        raise ValueError(f"--seed is {arguments.seed}; expected a number from 0 to 2**32 - 1.")
    least = {"temperature": "the mean of what is said", "guidance": "no regard to the caption"}
    for flag, meaning in least.items():
        value = getattr(arguments, flag)
        if value is not None and not 0 <= value <= _MOST_SCALE:
            raise ValueError(f"--{flag} is {value}; expected 0 ({meaning}) to {_MOST_SCALE}.")
    z = _codes(run, arguments, *(np.repeat(part, arguments.count, axis=0) for part in (attributes, said)))
    conditional = run.settings["model"] == "cvae"
    samples = run.decode(z, np.repeat(attributes, len(z), axis=0)) if conditional else run.decode_image(z)
    _save(arguments.output, _bytes(samples), title=arguments.caption)
    return 0


def _codes(run: runs.Run, arguments: argparse.Namespace, attributes: np.ndarray, said: np.ndarray) -> jax.Array:
    """A code for each row of attributes, [B, A], of which some are said, by the prior that the command names.

    It says which one drew.
    """
    learned = None if arguments.prior == "own" else prior.load(arguments.workdir, run)
    if arguments.prior == "flow" and not learned:
        raise ValueError(
            f"{arguments.workdir} has no learned prior of its checkpoint of phase {run.phase} at step {run.step}; give "
            "--prior=own, or the command that trained the run once more, which trains its prior."
        )
    own = "the model's prior" if run.settings["model"] == "cvae" else "the posterior of the caption"
    echo(f"{arguments.workdir}: codes are drawn from {learned or own}", stream=sys.stderr)
    key, temperature = jax.random.key(arguments.seed), arguments.temperature
    if learned:
        guidance = prior.GUIDANCE if arguments.guidance is None else arguments.guidance
        # What is not said is denied to a conditional decoder, so its codes are those of images without it.
        known = np.ones_like(attributes) if run.settings["model"] == "cvae" else np.float32(said)
        return learned.sample(key, attributes, known, guidance=guidance, temperature=temperature)
    if arguments.guidance is not None:
        raise ValueError(f"--guidance is {arguments.guidance}, but {own} knows no guidance; expected a learned prior.")
    mean, logvar = run.prior(attributes) if "prior" in run.functions else run.encode_attributes(attributes, said)
    return mean + temperature * jnp.exp(logvar / 2) * random.standard_normal(key, mean.shape)


def edit(arguments: argparse.Namespace) -> int:
    """Image with other attributes than those that it shows, by a CVAE."""
    run = _load(arguments, "cvae")
    shown, _ = _caption(run, arguments.caption)
    other = _changed(run, shown, arguments.add, arguments.remove)
    pixels = _pixels(run, arguments, arguments.image, shown)
    code = run.encode(pixels, shown)[0]
    edited = _bytes(run.decode(code, other))
    if _is_folder(arguments.output):
        _save(arguments.output, edited)
        return 0
    changes = {"with": arguments.add, "without": arguments.remove}
    changed = " and ".join(f"{word} {', '.join(_names(run, texts))}" for word, texts in changes.items() if texts)
    pictures = np.concatenate([_bytes(pixels), _bytes(run.decode(code, shown)), edited])
    captions = ["the image", "its reconstruction", changed]
    _pictures.write(arguments.output, grids.grid(pictures, captions, columns=3, title=arguments.caption))
    return 0


def attributes(arguments: argparse.Namespace) -> int:
    """Names of the attributes that a model was trained on, one a line."""
    echo("\n".join(_load(arguments, "multimodal", "cvae").config.attributes))
    return 0


def caption(arguments: argparse.Namespace) -> int:
    """Sentence for an image, and the probability of each attribute."""
    run = _load(arguments)
    mean, _ = run.encode_image(_pixels(run, arguments, arguments.image))
    probabilities = _probabilities(run, mean)
    sentence = captions.write(np.array([*probabilities.values()]) > 0.5, run.config.attributes)
    if arguments.json:
        print(json.dumps({"caption": sentence, "probabilities": probabilities}))
        return 0
    echo(sentence)
    width = max(map(len, probabilities))
    for name, probability in probabilities.items():
        echo(f"  {name:{width}}  {probability:.3f}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Agreement of a sentence with an image, word by word; status 1 for a mismatch."""
    run = _load(arguments)
    attributes, said = _caption(run, arguments.caption)
    threshold, of_score, divergence = _decision(run, arguments)
    posterior = run.shared(run.encode_image(_pixels(run, arguments, arguments.image)))
    text_posterior = run.shared(run.encode_attributes(attributes, said))
    logits = run.decode_attributes(posterior[0])
    words = _said(run, partial_captions.word_probabilities(logits, attributes), said)
    probability = float(partial_captions.caption_probability(logits, attributes, said)[0])
    score = float(consistency.consistency_score(posterior, text_posterior, **divergence)[0])
    match, score_match = probability > threshold, None if of_score is None else score > of_score
    disagreeing = [name for name, word in words.items() if not word > threshold]
    text = {name: bool(value) for name, value in _said(run, attributes, said).items()}
    if arguments.json:
        by_words = {"match": match, "probability": probability, "threshold": threshold, "disagreeing": disagreeing}
        by_score = {"score": score, "score_threshold": of_score, "score_match": score_match}
        in_image = _probabilities(run, posterior[0])
        print(json.dumps({**by_words, "text": text, "words": words, "image": in_image, **by_score}))
        return int(not match)
    least = min(words, key=lambda name: words[name], default=None)
    reason = "the caption says no attribute"
    if least:
        reason = f"probability {probability:.3f} of {'' if text[least] else 'no '}{least}"
    echo(f"{_verdict(match)} by words: {reason}, threshold {threshold:.3f}")
    for name, word in words.items():
        answer, fits = "yes" if text[name] else "no", "disagrees" if name in disagreeing else "agrees"
        echo(f"  {name}: the text says {answer}, the image {fits} (probability {word:.3f})")
    if score_match is None:
        echo(f"the paper's score: {score:.3f}; the run has no threshold for it, as it was not evaluated")
    else:
        echo(f"{_verdict(score_match)} by the paper's score: {score:.3f}, threshold {of_score:.3f}")
    return int(not match)


def _verdict(match: bool) -> str:
    return "match" if match else "mismatch"


def _said(run: runs.Run, values: Any, said: np.ndarray) -> dict[str, float]:
    """The values, [1, A], of those attributes that a caption says, [1, A]."""
    pairs = zip(run.config.attributes, np.asarray(values)[0].tolist(), said[0], strict=True)
    return {name: value for name, value, stated in pairs if stated}


def interpolate(arguments: argparse.Namespace) -> int:
    """Pictures between two captions, two images, or one of each."""
    run = _load(arguments)
    _check_count("--steps", arguments.steps, least=2)
    start, end = (_encode(run, arguments, text)[0] for text in (arguments.start, arguments.end))
    between = gaussian.slerp if arguments.spherical else gaussian.lerp
    fractions = np.linspace(0, 1, arguments.steps)
    pictures = _bytes(run.decode_image(jnp.concatenate([between(start, end, fraction) for fraction in fractions])))
    if _is_folder(arguments.output):
        _save(arguments.output, pictures)
    else:
        _pictures.write(arguments.output, grids.interpolation([arguments.start], [arguments.end], pictures[None]))
    return 0


def fuse(arguments: argparse.Namespace) -> int:
    """Image that agrees with both an image and a sentence."""
    run = _load(arguments)
    caption, pixels = _caption(run, arguments.caption), _pixels(run, arguments, arguments.image)
    mean, _ = run.fuse(pixels, *caption)
    means = {
        "from the image": run.encode_image(pixels)[0],
        "from the text": run.encode_attributes(*caption)[0],
        "from both": mean,
    }
    decoded = {label: _bytes(run.decode_image(z)) for label, z in means.items()}
    echo(captions.write(np.asarray(run.decode_attributes(mean)[0] > 0, np.float32), run.config.attributes))
    if _is_folder(arguments.output):
        _save(arguments.output, decoded["from both"])
    else:
        pictures = np.concatenate([_bytes(pixels), *decoded.values()])
        _pictures.write(
            arguments.output, grids.grid(pictures, ["the image", *decoded], columns=4, title=arguments.caption)
        )
    return 0


def _load(arguments: argparse.Namespace, *models: str) -> runs.Run:
    """The run, of one of the models, by default of the multimodal VAE."""
    options = {"best": arguments.best, "ignore_removed": arguments.ignore_removed}
    run = runs.load(arguments.workdir, phase=arguments.phase, **options)
    models = models or ("multimodal",)
    if run.settings["model"] not in models:
        raise ValueError(
            f"{arguments.workdir} holds a run of the model {run.settings['model']!r}; expected "
            f"{' or '.join(map(repr, models))} for this command: name another run, or use this one from Python, "
            f"`mvae_jax.runs.load('{arguments.workdir}')`."
        )
    if trained := provenance.images(run.settings):
        echo(f"{arguments.workdir}: trained on {trained}", stream=sys.stderr)
    return run


def _caption(run: runs.Run, text: str) -> captions.Caption:
    """Attributes, [1, A], that a sentence states, and which it says.

    Where the model has some that no sentence can say, names with commas between, which say all: no other is there.
    """
    names = run.config.attributes
    try:
        captions.check_names(names)
    except ValueError:
        given = _names(run, [text])
        values = np.array([[name in given for name in names]], np.float32)
        return captions.Caption(values, np.ones(values.shape, bool))
    return captions.Caption(*(part[None] for part in captions.read(text, names)))


def _names(run: runs.Run, texts: Sequence[str]) -> list[str]:
    """Names of attributes of the model from texts that have them with commas between."""
    given = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    known = run.config.attributes
    for name in given:
        if name not in known:
            close = " or ".join(map(repr, difflib.get_close_matches(name, known))) or repr(known[0])
            raise ValueError(
                f"{name!r} is not an attribute of the model; expected names with commas between, such as {close}: "
                "`mvae-jax use attributes` lists all."
            )
    if not given:
        raise ValueError(f"{', '.join(texts)!r} names no attribute; expected names such as {known[0]!r}.")
    return given


def _changed(run: runs.Run, shown: np.ndarray, add: Sequence[str], remove: Sequence[str]) -> np.ndarray:
    """Attributes [1, A] with those of --add and without those of --remove."""
    if not add and not remove:
        raise ValueError("neither --add nor --remove is given; expected the attributes that are to change.")
    other, flags = shown.copy(), {"--add": (add, 1), "--remove": (remove, 0)}
    for flag, (texts, value) in flags.items():
        for name in _names(run, texts) if texts else ():
            column = run.config.attributes.index(name)
            if shown[0, column] == value:
                having = "has already" if value else "does not have"
                raise ValueError(
                    f"{flag} is {name!r}, which the image {having} by its caption; expected an attribute that changes: "
                    "correct the caption, or leave it out."
                )
            other[0, column] = value
    names = run.config.attributes
    if cross_modal.well_formed(shown, names)[0] and not cross_modal.well_formed(other, names)[0]:
        groups = (*consistency.GENDER, *consistency.HAIR)
        left = [repr(name) for name, value in zip(names, other[0], strict=True) if value and name in groups]
        raise ValueError(
            f"after the changes the image would be {' and '.join(left) or 'of no gender'}; expected one gender and at "
            "most one hair colour: --remove what an attribute replaces, or --add what replaces it."
        )
    return other


def _pixels(run: runs.Run, arguments: argparse.Namespace, path: str, attributes: np.ndarray | None = None) -> jax.Array:
    """An image file as the model reads it, [1, H, W, C]; says what was done to it, and if it is an unusual one.

    Args:
        run: the model.
        arguments: of the command.
        path: of the file.
        attributes: those of the image, [1, A], of a conditional model.
    """
    picture, note = decode.read_image(path, run.config.image_size)
    if note:
        echo(f"{path}: {note}", stream=sys.stderr)
    pixels = images.to_float(jnp.asarray(picture[None]))
    known = (_limits(scores, key) for key, scores in evaluations.of_checkpoint(run, arguments.workdir))
    limits = next(filter(None, known), None)
    reasons = typical.excess(typical.terms(run, pixels, attributes), limits) if limits else []
    if reasons:
        trained = provenance.images(run.settings)
        echo(
            f"warning: {path} is unlike the images that the model was trained on{f', {trained}' if trained else ''}: "
            f"{'; '.join(reasons)}. What the model makes of such an image may be wrong.",
            stream=sys.stderr,
        )
    return pixels


def _limits(scores: dict[str, Any], key: str) -> dict[str, Any] | None:
    """What images like those of the training do not exceed; None where an evaluation does not say it."""
    rows = scores.get(typical.NAME)
    row = rows.get(key) if isinstance(rows, dict) else None
    is_whole = isinstance(row, dict) and all(isinstance(row.get(name), int | float) for name in typical.WORDS)
    return row if is_whole else None


def _probabilities(run: runs.Run, mean: jax.Array) -> dict[str, float]:
    """Probability of each attribute in the image whose posterior has this mean, [1, D]."""
    probabilities = jax.nn.sigmoid(run.decode_attributes(mean)[0])
    return dict(zip(run.config.attributes, np.asarray(probabilities, float).round(4).tolist(), strict=True))


def _encode(run: runs.Run, arguments: argparse.Namespace, text: str) -> Posterior:
    """The posterior of an image file or of a sentence."""
    if text.lower().endswith(decode.SUFFIXES) or os.path.exists(text):
        return run.encode_image(_pixels(run, arguments, text))
    return run.encode_attributes(*_caption(run, text))


def _decision(run: runs.Run, arguments: argparse.Namespace) -> tuple[float, float | None, dict[str, str]]:
    """Thresholds of the words and of the paper's score, from the calibration images, and the divergence of the score.

    The words' may be given. Where the checkpoint was never evaluated, the score has none and the default divergence.
    """
    given, folder = arguments.threshold, expanded(arguments.workdir)
    if given is not None and not 0 <= given <= 1:
        raise ValueError(f"--threshold is {given}; expected 0 to 1, as probabilities are.")
    words, of_score, divergence = given, None, {}
    for _, scores in evaluations.of_checkpoint(run, folder):
        measured = scores.get("consistency")
        if of_score is None and isinstance(measured, dict) and isinstance(measured.get("threshold"), int | float):
            of_score = float(measured["threshold"])
            divergence = {name: measured[name] for name in ("direction", "reduction") if name in measured}
        verdicts = scores.get("verdicts")
        thresholds = verdicts.get("thresholds") if isinstance(verdicts, dict) else None
        if words is None and isinstance(thresholds, dict) and isinstance(thresholds.get("words"), int | float):
            words = float(thresholds["words"])
    if words is not None:
        return words, of_score, divergence
    raise ValueError(
        f"{folder} has no threshold for words of its checkpoint of phase {run.phase} at step {run.step}, as no "
        "evaluation by this version has calibrated it: evaluate it by "
        f"'mvae-jax experiments celebahq_mvae --evaluate --phase={run.phase} --workdir={folder}', or give --threshold."
    )


def _save(output: Path, pictures: np.ndarray, title: str = "") -> None:
    """A sheet, or a file per picture where `output` is a folder."""
    if not _is_folder(output):
        _pictures.write(output, grids.grid(pictures, title=title))
        return
    output.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        _pictures.write(output / f"{number:03d}.png", Image.fromarray(picture))


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _bytes(pixels: jax.Array) -> np.ndarray:
    return np.asarray(images.to_uint8(pixels))


def _check_count(flag: str, value: int, least: int = 1) -> None:
    if not least <= value <= _MOST:
        raise ValueError(f"{flag} is {value}; expected {least} to {_MOST}.")


def _check_output(arguments: argparse.Namespace) -> None:
    """Refuses an output that would replace an input."""
    output = getattr(arguments, "output", None)
    for name in ("image", "start", "end"):
        given = getattr(arguments, name, None)
        if given and output and os.path.isfile(given) and Path(given).resolve() == output.resolve():
            raise ValueError(f"--output is {output}, an input; choose another file.")


def _output(text: str) -> Path:
    return output_folder(text) if _is_folder(typed_path(text)) else _pictures.path(text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mvae-jax use", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        function: Callable[[argparse.Namespace], int], *positional: tuple[str, str], output: str = ""
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        command.add_argument("workdir", help="folder of a run, finished or still training, or of an export")
        command.add_argument("--phase", help="take this phase's checkpoint; by default the newest")
        command.add_argument("--best", action="store_true", help="the checkpoint with the lowest validation loss")
        text = "pass over settings of the run that this version does not have"
        command.add_argument("--ignore-removed", action="store_true", help=text)
        for name, text in positional:
            command.add_argument(name, help=text)
        if output:
            text = "a .png, .jpg or .webp for a sheet, or a folder for single pictures (default: %(default)s)"
            command.add_argument("-o", "--output", type=_output, default=output, help=text)
        command.set_defaults(function=function)
        return command

    sentence = (
        "caption",
        'a sentence or keywords, such as "a smiling man with a mustache"; names of attributes with commas between '
        "where the model has some that no sentence can say",
    )
    image = ("image", "a JPEG, PNG or WebP of any size")
    command = add(generate, sentence, output="generated.png")
    command.add_argument("--count", type=int, default=12, help="how many images (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    command.add_argument(
        "--temperature", type=float, default=1.0, help="scale of the draws' deviation; 0 gives the mean of what is said"
    )
    text = "learned prior (flow), or the caption's posterior or the CVAE's prior (own); by default flow if there is one"
    command.add_argument("--prior", choices=("flow", "own"), help=text)
    text = f"how much the learned prior heeds the caption; above 1 draws are less diverse (default: {prior.GUIDANCE:g})"
    command.add_argument("--guidance", type=float, help=text)
    command = add(caption, image)
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add(check, image, sentence)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument(
        "--threshold", type=float, help="probability that all words have to exceed; by default the run's own"
    )
    ends = [(name, 'a caption, or an image file ending in ".jpg" or ".png"') for name in ("start", "end")]
    command = add(interpolate, *ends, output="interpolation.png")
    command.add_argument("--steps", type=int, default=8, help="pictures, both ends among them (default: %(default)s)")
    command.add_argument("--spherical", action="store_true", help="along a great circle in place of a straight line")
    add(fuse, image, sentence, output="fused.png")
    command = add(edit, image, sentence, output="edited.png")
    for flag, what in (("--add", "that the image is to get"), ("--remove", "that it is to lose")):
        text = f"attributes {what}, by their names with commas between; may be given several times"
        command.add_argument(flag, action="append", default=[], metavar="NAMES", help=text)
    add(attributes)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    logging.getLogger("jax").setLevel(logging.WARNING)  # it lists the accelerators that are not there
    parsed = _parser().parse_args(arguments)
    runs.keep_compiled_programs()
    with exits.errors():
        _check_output(parsed)
        return parsed.function(parsed)
