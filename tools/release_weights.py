"""Small weights to start from: trains, exports and checks the models that may be given away.

    python tools/release_weights.py weights
    python tools/release_weights.py weights --only digits
    python tools/release_weights.py weights --check

Their images are drawn by this package (faces, shapes) or come with scikit-learn (digits), so that no photograph of a
person and no data set with terms of its own is in them. Each folder is an export of at most 10 MB with its card, loads
to the outputs that the trained run has, and stands with the sums of its files in SHA256SUMS, for `sha256sum -c`.
--check compares a folder of weights with its sums and loads every model. --trial trains on a few images for one epoch:
it tries the script, its weights are of no use, and it takes no folder with others. A run that was stopped goes on (in
WEIGHTS/.runs, or WEIGHTS/.trials).

Mistakes end with one line and status 2, and files that differ with status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvae_jax import exits, files, runs
from mvae_jax.data import sources
from mvae_jax.data.batches import Dataset
from mvae_jax.data.rendered import faces, shapes
from mvae_jax.experiment import listing, provenance
from mvae_jax.models import autoencoders, multimodal

LICENSE, MOST_BYTES, SUMS = "apache-2.0", 10_000_000, "SHA256SUMS"
RUNS, TRIALS, TRAINED = (
    ".runs",
    ".trials",
    "trained",
)  # folders of the workdirs, and the mark of a training that has ended
Data = Dataset | dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Release:
    """A model that may be given away.

    Attributes:
        model: name in the zoo.
        config: (trial) -> the model's Config.
        data: (trial) -> images to train and to validate on.
        kind: of the images, as the card names them.
    """

    model: str
    config: Callable[[bool], Any]
    data: Callable[[bool], Data]
    kind: str


def _faces_config(trial: bool) -> multimodal.Config:
    """The preset of the experiment, narrower where most of its parameters are, by which it keeps below 10 MB."""
    config = dataclasses.replace(
        listing.load("celebahq_mvae").presets["laptop_private"].model, encoder_widths=(32, 64, 48), decoder_hidden=96
    )
    if not trial:
        return config
    phases = {name: getattr(config, name) for name in ("unimodal", "alignment", "adversarial")}
    epochs = {name: dataclasses.replace(phase, epochs=int(name == "unimodal")) for name, phase in phases.items()}
    return dataclasses.replace(
        config, image_size=32, encoder_widths=(4, 8, 8), decoder_widths=(8, 8, 4, 4), decoder_hidden=8, text_hidden=8,
        discriminator_widths=(4, 8, 8), latent_size=8, private_size=4, attention_heads=2, batch_size=8, **epochs,
    )  # fmt: skip


def _faces(trial: bool) -> Data:
    """Rendered faces with the attributes that captions say; a trial draws 40, at half of the size."""
    if not trial:
        return sources.load(faces.Config(), image_size=64)
    drawn = faces.sample(0, 40)
    return {"image": drawn.images[:, ::2, ::2], "attributes": drawn.attributes}


def _shapes_config(trial: bool) -> autoencoders.BetaTCVAEConfig:
    small: dict[str, Any] = {"image_size": 16, "widths": (4, 4, 4), "epochs": 1, "batch_size": 8} if trial else {}
    full: dict[str, Any] = {"image_size": 64, "widths": (16, 32, 32, 64, 64), "epochs": 20, "likelihood": "bernoulli"}
    return autoencoders.BetaTCVAEConfig(channels=1, latent_size=10, total_correlation_weight=6.0, **{**full, **small})


def _shapes(trial: bool) -> Data:
    """Shapes whose five factors are drawn at random."""
    if not trial:
        return sources.load(shapes.Config(), image_size=64)
    return {"image": np.random.default_rng(0).integers(0, 2, (24, 16, 16, 1)).astype(np.uint8) * 255}


def _digits_config(trial: bool) -> autoencoders.VAEConfig:
    epochs, width = (1, 8) if trial else (100, 256)
    return autoencoders.VAEConfig(
        image_size=8,
        channels=1,
        network="dense",
        widths=(width,),
        latent_size=8,
        learn_scale=True,  # at a fixed one the codes say nothing of so few pixels
        epochs=epochs,
        batch_size=32,
    )


def _digits(trial: bool) -> Data:
    """Digits that come with scikit-learn, 8x8 pixels of 17 shades."""
    from sklearn.datasets import load_digits

    images = (load_digits().images[..., None] * 15.9).astype(np.uint8)
    return {"image": images[:64] if trial else images}


RELEASES = {
    "faces": Release("multimodal", _faces_config, _faces, "rendered faces"),
    "shapes": Release("beta_tcvae", _shapes_config, _shapes, "shapes"),
    "digits": Release("vae", _digits_config, _digits, "digits of scikit-learn"),
}


def make(name: str, folder: Path, trial: bool) -> None:
    """Trains a model, exports it, and compares what was exported with what was trained."""
    release = RELEASES[name]
    data = release.data(trial)
    workdir = folder / (TRIALS if trial else RUNS) / name
    starts = _starts(workdir)
    trained = runs.train(workdir, release.model, release.config(trial), data)
    (workdir / TRAINED).touch()
    origin = {"data": {"data_set": release.kind}, "starts": starts}
    run = dataclasses.replace(trained, settings={**trained.settings, "provenance": origin})
    exported = run.export(folder / name, license=LICENSE)
    size = sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise ValueError(f"{exported} has {size:,} bytes, expected at most {MOST_BYTES:,}: make its Config narrower.")
    loaded, key = runs.load(exported), jax.random.key(0)
    if not np.array_equal(loaded.sample(key, 4), trained.sample(key, 4)):
        raise ValueError(f"{exported} gives other samples than the run from which it was exported.")
    print(f"{exported}: {files.readable(size)}, phase {run.phase}, step {run.step:,}")


def _starts(workdir: Path) -> list[dict[str, Any]]:
    """Notes where and from what a training starts, unless it has ended, beside those before it, and returns all.

    They have neither commands nor paths of the machine: these folders are for others.
    """
    noted = workdir / "starts.json"
    known = json.loads(noted.read_text()) if noted.exists() else []
    if (workdir / TRAINED).exists():
        return known
    start = provenance.start()
    known.append({key: start[key] for key in start if key != "command"})
    workdir.mkdir(parents=True, exist_ok=True)
    files.atomic_write(noted, json.dumps(known))
    return known


def sums(folder: Path) -> str:
    """A line for each file of each model: sha256 and name."""
    paths = sorted(path for name in RELEASES for path in (folder / name).rglob("*") if path.is_file())
    digests = ((hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(folder).as_posix()) for path in paths)
    return "".join(f"{digest}  {name}\n" for digest, name in digests)


def check(folder: Path) -> int:
    """Compares the files with their sums and loads every model; 1 if any differs."""
    path = folder / SUMS
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a folder of weights that this script wrote.")
    noted, there = path.read_text(), sums(folder)
    if wrong := [line for line in noted.splitlines() if "  " not in line]:
        raise ValueError(f"{path} has the line {wrong[0]!r:.80}, expected a sum, two spaces and a name: restore it.")
    differing = sorted({line.split("  ", 1)[1] for line in {*noted.splitlines()} ^ {*there.splitlines()}})
    for name in differing:
        print(f"{name} differs from {SUMS}")
    for name in RELEASES:
        if (folder / name).exists() and not differing:
            print(repr(runs.load(folder / name)))
    return int(bool(differing))


def main(arguments: list[str]) -> int:
    """Makes or checks the weights; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the weights, a folder for each model and the sums")
    parser.add_argument("--only", choices=[*RELEASES], action="append", help="this model; may be given several times")
    parser.add_argument("--check", action="store_true", help="train nothing: compare with the sums and load")
    parser.add_argument("--trial", action="store_true", help="a few images and one epoch")
    parsed = parser.parse_args(arguments)
    with exits.errors():
        if parsed.check:
            return check(parsed.folder)
        trials = (parsed.folder / TRIALS).exists()
        if trials != parsed.trial and (trials or (parsed.folder / SUMS).exists()):
            kind = "trials" if trials else "weights that are no trials"
            raise ValueError(f"{parsed.folder} has {kind}, which would be replaced: give another folder.")
        for name in parsed.only or RELEASES:
            make(name, parsed.folder, parsed.trial)
        files.atomic_write(parsed.folder / SUMS, sums(parsed.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
