"""Validation of the rendered faces: do they show their attributes, and are those not trivial to read?

    python tools/validate_rendered_faces.py CelebAMask-HQ.zip --sheet runs/attributes.png

Trains the attribute classifier on real faces and reads renders with it; fits a linear probe to the pixels of renders;
and draws every attribute off and on with identity and nuisance factors held.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression

from mvae_jax import images, runs
from mvae_jax.data.formats import celebamask_hq
from mvae_jax.data.rendered import faces
from mvae_jax.eval.classification import auroc
from mvae_jax.eval.consistency import HAIR
from mvae_jax.models import ZOO
from mvae_jax.viz import grids

VALIDATED = tuple(name for name in faces.ATTRIBUTES if name != "female")
COLUMNS = [faces.ATTRIBUTES.index(name) for name in VALIDATED]


def aurocs(classifier: runs.Run, pictures: np.ndarray, attributes: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve of each attribute."""
    parts = [pictures[start : start + 250] for start in range(0, len(pictures), 250)]
    logits = np.concatenate([classifier.logits(images.to_float(jnp.asarray(part))) for part in parts])
    return {
        name: auroc(logits[attributes[:, c] == 1, c], logits[attributes[:, c] == 0, c])
        for name, c in zip(VALIDATED, COLUMNS, strict=True)
    }


def linear_probe(seed: int, train: int, test: int) -> dict[str, float]:
    """Accuracy of a logistic regression on the pixels of renders."""
    renders = faces.sample(seed, train + test)
    pixels = renders.images.reshape(train + test, -1) / 255.0
    pixels = pixels - pixels[:train].mean(0)
    # The same regression in the span of the training images: an orthogonal basis, with fewer columns.
    _, _, basis = np.linalg.svd(pixels[:train], full_matrices=False)
    features = pixels @ basis.T
    result = {}
    for name, column in zip(VALIDATED, COLUMNS, strict=True):
        labels = renders.attributes[:, column]
        probe = LogisticRegression(C=0.1, max_iter=300).fit(features[:train], labels[:train])
        result[name] = probe.score(features[train:], labels[train:])
    return result


def attribute_sheet(seed: int, columns: int) -> Any:
    """Each attribute off and on, everything else held."""
    renders = faces.sample(seed, columns)
    rows = {}
    for name in VALIDATED:
        for value in (0.0, 1.0):
            attributes = dict(zip(faces.ATTRIBUTES, renders.attributes.T.copy(), strict=True))
            if name in HAIR:
                attributes |= dict.fromkeys(HAIR, np.zeros(columns))
            if name in ("bald", "mustache"):
                attributes |= {"male": np.ones(columns), "wearing_lipstick": np.zeros(columns)}
            if name == "wearing_lipstick":
                attributes |= dict.fromkeys(("male", "bald", "mustache"), np.zeros(columns))
            attributes[name] = np.full(columns, value)
            attributes["female"] = 1.0 - attributes["male"]
            rows[f"{'' if value else 'not '}{name}"] = faces.render(
                np.stack(list(attributes.values()), 1), renders.factors
            )
    return grids.comparison(rows, columns=columns, scale=1)


def main() -> None:
    """Prints a line per attribute; writes the sheet if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="CelebAMask-HQ, its folder or a zip")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the classifier")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--workdir", help="where the classifier is kept, or resumed; by default it is not kept")
    parser.add_argument("--sheet", type=Path, help="where to write the sheet of attributes, a PNG")
    arguments = parser.parse_args()
    if arguments.sheet:
        attribute_sheet(arguments.seed, 10).save(arguments.sheet)
    probe = linear_probe(arguments.seed, 4000, 1000)
    real = celebamask_hq.load(arguments.data, celebamask_hq.Settings(subset_size=6000, seed=arguments.seed))
    with tempfile.TemporaryDirectory() as temporary:
        config = dataclasses.replace(
            ZOO["attribute_classifier"].config(), attributes=real.attributes, epochs=arguments.epochs
        )
        folder = arguments.workdir or temporary
        classifier = runs.train(folder, "attribute_classifier", config, real, seed=arguments.seed)
    held_out = aurocs(classifier, real.validation["image"], real.validation["attributes"])
    renders = faces.sample(arguments.seed, 4000)
    rendered = aurocs(classifier, renders.images, renders.attributes)
    print(f"{'attribute':18} {'AUROC real':>10} {'AUROC render':>12} {'probe accuracy':>14}")
    for name in VALIDATED:
        print(f"{name:18} {held_out[name]:10.3f} {rendered[name]:12.3f} {probe[name]:14.3f}")


if __name__ == "__main__":
    main()
