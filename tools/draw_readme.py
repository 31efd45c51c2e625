r"""Draws the pictures of README and of the pages from trained runs, into docs/images.

    make train
    python experiments/mnist_alae.py --config.models=alae --config.seeds=0
    python experiments/celeba_vaegan.py
    python experiments/stylealae.py
    python tools/draw_readme.py --multimodal runs/celebahq_mvae --digits runs/mnist_alae/alae/seed_0 \
        --vae-gan runs/celeba_vaegan/vae_gan --style-alae runs/stylealae/style_alae --workdir runs/pictures

Any of these may be left out: what is given is drawn, and from --multimodal and --workdir the picture of README. The
attribute CVAE and the beta-TCVAE of shapes are trained here, within WORKDIR, in a few minutes on two CPU cores; a run
that is complete is loaded. No picture has an image of a data set that belongs to somebody: faces and shapes are
rendered, digits are those of scikit-learn, and runs on other images are refused. Nothing is chosen by hand: draws are
the first of a fixed key.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mvae_jax import exits, gaussian, models, runs
from mvae_jax.data import captions
from mvae_jax.data.formats import mnist
from mvae_jax.data.rendered import faces, shapes
from mvae_jax.eval import batched
from mvae_jax.train import loop
from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.workdir import PROVENANCE
from mvae_jax.viz import grids

CAPTIONS = (
    "a young woman with black hair who is smiling",
    "a bald man who is wearing eyeglasses",
    "a young woman with blond hair",
)
EDITS = {
    "smiling": {"smiling": 1},
    "with eyeglasses": {"eyeglasses": 1},
    "blond": {"blond_hair": 1, "black_hair": 0, "bald": 0},
}
SIZE = 32  # of the images of what is trained here, in pixels
UNSEEN = 1_000_003  # seed of faces on which no preset trains
RENDERED, DIGITS = "rendered faces", "digits of scikit-learn"  # images, as provenance names them


def train_cvae(folder: Path) -> runs.Run:
    """An attribute CVAE of rendered faces."""
    renders = faces.sample(42, 4000, SIZE)
    config = models.cvae.Config(
        image_size=(SIZE, SIZE), attributes=faces.ATTRIBUTES, latent_size=32, widths=(32, 64, 64), beta=0.7,
        epochs=10, batch_size=16, learning_rate=2e-3,
    )  # fmt: skip
    return runs.train(folder, "cvae", config, {"image": renders.images, "attributes": renders.attributes})


def ellipses() -> np.ndarray:
    """Upright ellipses, uint8 [1536, S, S, 1]: six sizes, 32 places from left to right, 8 from top to bottom."""
    scale, x, y = (grid.ravel() for grid in np.meshgrid(range(6), range(32), range(8, 24, 2), indexing="ij"))
    return shapes.render(np.stack([np.ones_like(x), scale, np.zeros_like(x), x, y], axis=1), SIZE)


def train_beta_tcvae(folder: Path) -> runs.Run:
    """A beta-TCVAE of ellipses."""
    config = models.autoencoders.BetaTCVAEConfig(
        image_size=SIZE, channels=1, network="dense", widths=(256, 128), latent_size=6, likelihood="bernoulli",
        epochs=60, batch_size=64, learning_rate=2e-3, total_correlation_weight=5.0,
    )  # fmt: skip
    return runs.train(folder, "beta_tcvae", config, {"image": ellipses()}, settings=loop.Settings(validate_every=20))


def drawn_from_captions(run: runs.Run, count: int = 4) -> dict[str, np.ndarray]:
    """Caption -> images that the multimodal VAE draws from it, uint8 [count, S, S, 3]."""
    names = run.config.attributes
    read = [captions.read(caption, names) for caption in CAPTIONS]
    values, said = np.stack([each.values for each in read]), np.stack([each.said for each in read])
    mean, logvar = run.encode_attributes(values, said.astype(np.float32))
    keys = jax.random.split(jax.random.key(0), count)
    images = [batched.to_bytes(run.decode_image(gaussian.sample(key, mean, logvar))) for key in keys]
    return dict(zip(CAPTIONS, np.stack(images, axis=1), strict=True))


def edited(run: runs.Run, count: int = 4) -> dict[str, np.ndarray]:
    """What was done -> rendered faces, reconstructed and edited by the attribute CVAE, uint8 [count, S, S, 3]."""
    names, renders = run.config.attributes, faces.sample(UNSEEN, count, run.config.image_size[0])
    mean, _ = run.encode(batched.pixels({"image": renders.images}), jnp.asarray(renders.attributes))
    rows = {"rendered faces": renders.images}
    for title, changes in {"reconstructed": {}, **EDITS}.items():
        attributes = renders.attributes.copy()
        for name, value in changes.items():
            attributes[:, names.index(name)] = value
        rows[title] = batched.to_bytes(run.decode(mean, jnp.asarray(attributes)))
    return rows


def traversed(run: runs.Run, rows: int = 3, count: int = 6) -> dict[str, np.ndarray]:
    """Dimension -> images along it, uint8 [count, S, S, 1], of those dimensions that move most over the ellipses."""
    codes = batched.in_chunks(lambda x: run.encode(x)[0])(batched.pixels({"image": ellipses()}))
    dimensions = np.argsort(-codes.std(0))[:rows]
    values = jnp.linspace(-2.0, 2.0, count)
    middle = shapes.render(np.array([[1, 3, 0, 16, 16]]), run.config.image_size)  # an ellipse
    start = jnp.repeat(run.encode(batched.pixels({"image": middle}))[0], count, axis=0)
    return {
        f"latent dimension {d}": batched.to_bytes(run.decode(start.at[:, d].set(values))) for d in sorted(dimensions)
    }


def reconstructed(run: runs.Run, title: str, images: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Title -> images, uint8 [B, S, S, C]: those given, a model's reconstructions of them, and its samples.

    Args:
        run: of a model that encodes.
        title: of the images.
        images: uint8 [B, S, S, C], on which it was not trained.
        name: of the model.
    """
    output = run.decode(run.encode(batched.pixels({"image": images}))[0])
    samples = run.sample(jax.random.key(0), len(images))
    return {
        title: images,
        f"reconstructed by {name}": batched.to_bytes(output),
        f"drawn by {name}": batched.to_bytes(samples),
    }


def reconstructed_digits(run: runs.Run) -> dict[str, np.ndarray]:
    """Held-out digits, ALAE's reconstructions, and its samples."""
    return reconstructed(run, "digits", mnist.load().validation.arrays["image"][:12], "ALAE")


def reconstructed_faces(run: runs.Run, name: str) -> dict[str, np.ndarray]:
    """Rendered faces on which no preset trains, a model's reconstructions, and its samples."""
    return reconstructed(run, "rendered faces", faces.sample(UNSEEN, 8, run.config.image_size).images, name)


def trained(workdir: str | Path, model: str, data: str) -> runs.Run:
    """The run in a folder; one of another model, on other images than may be shown, or not at its end is refused.

    Args:
        workdir: of the run.
        model: its name in the zoo.
        data: what the run's provenance calls its images.
    """
    run = runs.load(workdir)
    origin = run.settings.get(PROVENANCE, {}).get("data", {})
    found = run.settings["model"], origin.get("data_set") or origin.get("source") or "images that it does not name"
    if found != (model, data):
        raise ValueError(f"{workdir} is a run of {found[0]} on {found[1]}; expected one of {model} on {data}.")
    *_, last = models.ZOO[model].phases(run.config, 1)
    with Checkpoints(Path(workdir), [run.phase]) as checkpoints:
        ended = run.phase == last.name and checkpoints.metadata(run.phase, run.step)["final"]
    if not ended:
        raise ValueError(
            f"{workdir} was stopped in phase {run.phase} at step {run.step}; train it to its end, by the same command."
        )
    return run


def sheet(rows: dict[str, np.ndarray], pixels: int) -> Image.Image:
    """Rows of pictures, each below its title; a picture has about so many pixels on a side."""
    images = np.stack([*rows.values()])
    return grids.text_to_image([*rows], images, scale=max(1, round(pixels / images.shape[2])))


def joined(sheets: list[Image.Image]) -> Image.Image:
    """Sheets from left to right on white."""
    whole = Image.new("RGB", (sum(each.width for each in sheets), max(each.height for each in sheets)), "white")
    left = 0
    for each in sheets:
        whole.paste(each, (left, 0))
        left += each.width
    return whole


def pictures(arguments: argparse.Namespace) -> dict[str, Image.Image]:
    """Name -> picture, of all that is asked for."""
    drawn = {}
    if arguments.multimodal:
        run = trained(arguments.multimodal, "multimodal", RENDERED)
        drawn["captions"] = sheet(drawn_from_captions(run), 128)
    if arguments.digits:
        drawn["digits"] = sheet(reconstructed_digits(trained(arguments.digits, "alae", DIGITS)), 48)
    if arguments.vae_gan:
        run = trained(arguments.vae_gan, "vae_gan", RENDERED)
        drawn["vae_gan"] = sheet(reconstructed_faces(run, "VAE/GAN"), 64)
    if arguments.style_alae:
        run = trained(arguments.style_alae, "style_alae", RENDERED)
        drawn["style_alae"] = sheet(reconstructed_faces(run, "StyleALAE"), 64)
    if arguments.workdir:
        of_edits = edited(train_cvae(arguments.workdir / "cvae"), 8)
        of_shapes = traversed(train_beta_tcvae(arguments.workdir / "beta_tcvae"), 3, 9)
        drawn |= {"edits": sheet(of_edits, 64), "shapes": sheet(of_shapes, 64)}
        if "captions" in drawn:
            faces_few = {name: row[:4] for name, row in of_edits.items()}
            shapes_few = {name: row[::2] for name, row in of_shapes.items()}
            drawn["readme"] = joined([drawn["captions"], sheet(faces_few, 64), sheet(shapes_few, 96)])
    return drawn


def main(arguments: list[str]) -> int:
    """Draws; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of_models = {"multimodal": "multimodal", "digits": "alae", "vae-gan": "vae_gan", "style-alae": "style_alae"}
    for name, model in of_models.items():
        parser.add_argument(f"--{name}", metavar="RUN", help=f"workdir of a {model} run")
    parser.add_argument("--workdir", type=Path, help="of the two runs that are trained here")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    parsed = parser.parse_args(arguments)
    with exits.errors():
        drawn = pictures(parsed)
        if not drawn:
            raise ValueError("nothing is asked for; expected a run, such as --vae-gan=RUN, or --workdir.")
        parsed.output.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            path = parsed.output / f"{name}.webp"
            picture.save(path, quality=82, method=6)
            print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
