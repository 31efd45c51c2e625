"""Draws a small picture of each model of the zoo, from what the experiments train by default, into docs/images/zoo.

    make train
    python experiments/celeba_vae.py
    python experiments/attribute_cvae.py
    python experiments/mnist_alae.py
    python experiments/stylealae.py
    python experiments/celeba_vaegan.py --config.models=gan,vae,vae_dis,vae_gan
    python experiments/multimodal_family.py
    python tools/draw_zoo.py runs

Each model shows its first draws of a fixed key: of the attributes of faces on which it was not trained, where it takes
attributes, else from its prior; the plain autoencoder, which draws nothing, shows reconstructions of those faces. A
model without a run keeps the picture that it has. Runs on images that somebody owns, and runs that have not come to
their end, are refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import numpy as np
from draw_readme import DIGITS, RENDERED, UNSEEN, trained
from PIL import Image

from mvae_jax import exits, runs
from mvae_jax.data.rendered import faces
from mvae_jax.eval import batched
from mvae_jax.experiment import prior, sheets
from mvae_jax.experiment.suites.modalities import ATTRIBUTES, Modalities

DRAWS, SIDE, GAP = 3, 48, 2  # images of a picture, pixels of each, and between two
FLOW, MULTIMODAL = "latent_flow", "multimodal"  # a model of codes, and the one whose codes it draws
# Model -> its run in the folder of all workdirs.
PLACES = {
    MULTIMODAL: "celebahq_mvae",
    "autoencoder": "celeba_vae/autoencoder",
    "vae": "celeba_vae/vae",
    "beta_vae": "celeba_vae/beta_vae_5",
    "beta_tcvae": "celeba_vae/beta_tcvae_5",
    "cvae": "attribute_cvae/beta_0.5",
    **{name: f"celeba_vaegan/{name}" for name in ("vae_gan", "vae_dis", "gan")},
    **{name: f"mnist_alae/{name}/seed_0" for name in ("alae", "bigan", "latent_regressor", "joint_latent_regressor")},
    "style_alae": "stylealae/style_alae",
    **{
        name: f"multimodal_family/{name}/hidden_0/seed_0"
        for name in ("mvae", "mmvae", "mopoe", "mvtcae", "mmvae_plus", "jmvae", "cada_vae")
    },
}


def draws(run: runs.Run) -> jax.Array:
    """What a model draws, or else reconstructs, float [3, S, S, C] in [-1, 1]."""
    key, attributes = jax.random.key(0), faces.sample(UNSEEN, DRAWS).attributes
    if "decode_image" in run.functions:
        model = Modalities.of(run)
        return run.decode_image(model.codes(key, {ATTRIBUTES: attributes}, DRAWS))
    if run.model.sample is None:
        images = faces.sample(UNSEEN, DRAWS, run.config.image_size).images
        return run.decode(run.encode(batched.pixels({"image": images}))[0])
    return run.sample(key, *(sheets.given_attributes(run.sample, {ATTRIBUTES: attributes}) or (DRAWS,)))


def strip(images: np.ndarray) -> Image.Image:
    """Images from left to right, uint8 [3, S, S, C]; those that are smaller than their place keep sharp pixels."""
    whole = Image.new("RGB", (DRAWS * (SIDE + GAP) - GAP, SIDE), "white")
    way = Image.Resampling.LANCZOS if images.shape[1] > SIDE / 2 else Image.Resampling.NEAREST
    for number, image in enumerate(images):
        picture = Image.fromarray(image.squeeze() if image.shape[-1] == 1 else image).convert("RGB")
        whole.paste(picture.resize((SIDE, SIDE), way), (number * (SIDE + GAP), 0))
    return whole


def pictures(folder: Path) -> dict[str, Image.Image]:
    """Model -> picture, of all whose runs are in a folder."""
    drawn = {}
    for name, place in PLACES.items():
        if not (folder / place).exists():
            continue
        run = trained(folder / place, name, DIGITS if place.startswith("mnist_alae") else RENDERED)
        drawn[name] = strip(batched.to_bytes(draws(run)))
        if name == MULTIMODAL and (learned := prior.load(folder / place, run)):
            unseen = faces.sample(UNSEEN, DRAWS).attributes
            codes = learned.sample(jax.random.key(0), unseen, np.ones_like(unseen))
            drawn[FLOW] = strip(batched.to_bytes(run.decode(codes)))
    return drawn


def main(arguments: list[str]) -> int:
    """Draws; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder with the workdirs of the experiments")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "zoo")
    parsed = parser.parse_args(arguments)
    with exits.errors():
        drawn = pictures(parsed.runs)
        if not drawn:
            raise ValueError(f"{parsed.runs} has none of {', '.join(PLACES.values())}; expected one at least.")
        parsed.output.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            picture.save(parsed.output / f"{name}.webp", quality=85, method=6)
        print(f"{parsed.output}: {', '.join(drawn)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
