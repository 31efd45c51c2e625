"""Judges the rendered faces: do they show their attributes, and are those not trivial to read?

    python tools/judge_faces.py CelebAMask-HQ.zip --sheet runs/attributes.png

Trains a small classifier on real faces and reads renders with it; fits a linear probe to the pixels of renders; and
draws every attribute off and on with identity and nuisance factors held.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mvae_jax import images
from mvae_jax.data import celebamask_hq, faces
from mvae_jax.data.batches import Batches, Split
from mvae_jax.viz import grids

JUDGED = tuple(name for name in faces.ATTRIBUTES if name != "female")
COLUMNS = [faces.ATTRIBUTES.index(name) for name in JUDGED]
HAIR = ("black_hair", "blond_hair", "bald")


class Classifier(nn.Module):
    """Four convolutions and two dense layers; logits [B, A] from images [B, 64, 64, 3] in [-1, 1]."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Runs the network."""
        for stage, width in enumerate((32, 64, 96, 128)):
            x = nn.Conv(width, (3, 3), strides=2 if stage == 0 else 1, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
            if stage:
                b, h, w, c = x.shape
                x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        x = nn.Dropout(0.4, deterministic=not train)(x.reshape(len(x), -1))
        x = nn.Dropout(0.3, deterministic=not train)(nn.relu(nn.Dense(128)(x)))
        return nn.Dense(len(JUDGED))(x)


def augment(x: jax.Array, key: jax.Array) -> jax.Array:
    """Flips, shifts, light, colour, saturation, blur and noise, so that the classifier looks at shapes."""
    keys = jax.random.split(key, 9)
    one = (len(x), 1, 1, 1)
    x = jnp.where(jax.random.bernoulli(keys[0], 0.5, one), x[:, :, ::-1], x)
    gain = 0.25 * jax.random.normal(keys[1], one) + 0.1 * jax.random.normal(keys[2], (len(x), 1, 1, 3))
    x = x * jnp.exp(gain) + 0.1 * jax.random.normal(keys[3], (len(x), 1, 1, 3))
    padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    shifts = jax.random.randint(keys[4], (len(x), 2), 0, 9)
    x = jax.vmap(lambda image, s: jax.lax.dynamic_slice(image, (s[0], s[1], 0), x.shape[1:]))(padded, shifts)
    grey = x.mean(-1, keepdims=True)
    x = grey + (x - grey) * (0.3 + jax.random.uniform(keys[5], one))
    blurred = (x + jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1)) / 3
    blurred = (blurred + jnp.roll(blurred, 1, 2) + jnp.roll(blurred, -1, 2)) / 3
    x = x + (blurred - x) * jnp.maximum(0.0, jax.random.uniform(keys[6], one, minval=-1.0))
    return x + 0.06 * jax.random.uniform(keys[7], one) * jax.random.normal(keys[8], x.shape)


def train_classifier(real: Split, epochs: int, seed: int) -> Any:
    """Trains on real faces; returns the variables of `Classifier`."""
    batches = Batches(real, 64, seed)
    steps = epochs * batches.steps_per_epoch
    variables = Classifier().init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)), False)
    optimizer = optax.adamw(optax.cosine_onecycle_schedule(steps, 2e-3), weight_decay=2e-2)
    opt_state = optimizer.init(variables["params"])

    @jax.jit
    def step(variables: Any, opt_state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        augmentation, dropout = jax.random.split(key)
        x, y = augment(images.to_float(batch["image"]), augmentation), batch["attributes"][:, jnp.array(COLUMNS)]

        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, updated = Classifier().apply(
                {**variables, "params": params}, x, True, rngs={"dropout": dropout}, mutable=["batch_stats"]
            )
            return optax.sigmoid_binary_cross_entropy(logits, y).mean(), updated

        gradient, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(gradient, opt_state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), **updated}, opt_state

    for number in range(steps):
        batch = {name: jnp.asarray(array) for name, array in batches.batch_at(number).items()}
        variables, opt_state = step(variables, opt_state, batch, jax.random.key(seed + 1 + number))
    return variables


def aurocs(variables: Any, pictures: np.ndarray, attributes: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve of each attribute."""
    logits = jax.jit(lambda x: Classifier().apply(variables, images.to_float(x), False))
    scores = np.concatenate([logits(pictures[i : i + 500]) for i in range(0, len(pictures), 500)])
    return {
        name: roc_auc_score(attributes[:, c], scores[:, i])
        for i, (name, c) in enumerate(zip(JUDGED, COLUMNS, strict=True))
    }


def linear_probe(seed: int, train: int, test: int) -> dict[str, float]:
    """Accuracy of a logistic regression on the pixels of renders."""
    drawn = faces.sample(seed, train + test)
    pixels = drawn.images.reshape(train + test, -1) / 255.0
    pixels = pixels - pixels[:train].mean(0)
    # The same regression in the span of the training images: an orthogonal basis, with fewer columns.
    _, _, basis = np.linalg.svd(pixels[:train], full_matrices=False)
    features = pixels @ basis.T
    result = {}
    for name, column in zip(JUDGED, COLUMNS, strict=True):
        labels = drawn.attributes[:, column]
        probe = LogisticRegression(C=0.1, max_iter=300).fit(features[:train], labels[:train])
        result[name] = probe.score(features[train:], labels[train:])
    return result


def attribute_sheet(seed: int, columns: int) -> Any:
    """Each attribute off and on, everything else held."""
    drawn = faces.sample(seed, columns)
    rows = {}
    for name in JUDGED:
        for value in (0.0, 1.0):
            attributes = dict(zip(faces.ATTRIBUTES, drawn.attributes.T.copy(), strict=True))
            if name in HAIR:
                attributes |= dict.fromkeys(HAIR, np.zeros(columns))
            if name in ("bald", "mustache"):
                attributes |= {"male": np.ones(columns), "wearing_lipstick": np.zeros(columns)}
            if name == "wearing_lipstick":
                attributes |= dict.fromkeys(("male", "bald", "mustache"), np.zeros(columns))
            attributes[name] = np.full(columns, value)
            attributes["female"] = 1.0 - attributes["male"]
            rows[f"{'' if value else 'not '}{name}"] = faces.render(
                np.stack(list(attributes.values()), 1), drawn.factors
            )
    return grids.comparison(rows, columns=columns, scale=1)


def main() -> None:
    """Prints a line per attribute; writes the sheet if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="CelebAMask-HQ, its folder or a zip")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the classifier")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--sheet", type=Path, help="where to write the sheet of attributes, a PNG")
    arguments = parser.parse_args()
    if arguments.sheet:
        attribute_sheet(arguments.seed, 10).save(arguments.sheet)
    probe = linear_probe(arguments.seed, 4000, 1000)
    real = celebamask_hq.load(arguments.data, celebamask_hq.Settings(subset_size=6000, seed=arguments.seed))
    variables = train_classifier(real.train, arguments.epochs, arguments.seed)
    held_out = aurocs(variables, real.validation["image"], real.validation["attributes"])
    drawn = faces.sample(arguments.seed, 4000)
    rendered = aurocs(variables, drawn.images, drawn.attributes)
    print(f"{'attribute':18} {'AUROC real':>10} {'AUROC render':>12} {'probe accuracy':>14}")
    for name in JUDGED:
        print(f"{name:18} {held_out[name]:10.3f} {rendered[name]:12.3f} {probe[name]:14.3f}")


if __name__ == "__main__":
    main()
