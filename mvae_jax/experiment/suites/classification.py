"""The attribute classifier: its accuracies on images that it was not trained on."""

from __future__ import annotations

import dataclasses

from mvae_jax.eval import cross_modal
from mvae_jax.experiment import classifier
from mvae_jax.experiment.declaration import Figures, Results, Trained
from mvae_jax.viz import curves, grids, report, scores

WORDS = {
    "name": "attribute",
    "prevalence": "share of images",
    "accuracy": "accuracy",
    "majority_accuracy": "majority class",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auroc": "AUROC",
}
_SHOWN = 18  # images


def measure(trained: Trained) -> cross_modal.AttributeScores:
    """Accuracies of the classifier on the held-out images."""
    return classifier.measured(trained.run, trained.data).held_out


def explain(trained: Trained, held_out: cross_modal.AttributeScores) -> str:
    """The accuracies over all attributes, in words."""
    return str(classifier.Classifier(trained.run, held_out))


def parts(trained: Trained, held_out: cross_modal.AttributeScores) -> list[report.Part | str]:
    """Table of the attributes one by one."""
    rows = [dataclasses.asdict(score) for score in held_out.attributes]
    return [report.table([{WORDS[key]: value for key, value in row.items()} for row in rows])]


def figures(trained: Trained, results: Results) -> Figures:
    """Some of the images, the accuracy of each attribute, and the loss over training."""
    by_name = {score.name: score for score in results["held_out"].attributes}
    return {
        "data": ("Held-out images", grids.grid(trained.data.validation["image"][:_SHOWN])),
        "attributes": (
            "Accuracy on held-out images",
            scores.attribute_bars(
                {"accuracy": {name: score.accuracy for name, score in by_name.items()}},
                baseline={name: score.majority_accuracy for name, score in by_name.items()},
                baseline_label="majority class",
            ),
        ),
        "losses": (
            "Loss and accuracy",
            curves.losses(trained.records[""], {"Loss": ["loss"], "Accuracy": ["accuracy"]}),
        ),
    }
