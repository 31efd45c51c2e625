"""The attribute classifier: its accuracies on images that it was not trained on."""

from __future__ import annotations

import dataclasses

from mvae_jax.eval import cross_modal
from mvae_jax.experiment import classifier
from mvae_jax.experiment.declaration import Figures, Headline, Number, Results, Trained, plain
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
    # of all attributes together
    "count": "images",
    "macro_f1": "mean F1",
    "blind_macro_f1": "mean F1, always yes",
    "exact_match": "all attributes right",
    "majority_exact_match": "most frequent attributes",
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
    return [
        report.table(
            [{WORDS[key]: value for key, value in row.items()} | {"attribute": plain(row["name"])} for row in rows]
        )
    ]


def headline(trained: Trained, results: Results) -> Headline:
    """How many attributes are read rightly, one by one and all of an image, and which one is read worst."""
    held_out = results["held_out"]
    known = [score for score in held_out.attributes if score.balanced_accuracy is not None]
    numbers = [
        Number(
            f"{held_out.accuracy:.1%}",
            "of the attributes of held-out images are read rightly",
            f"always the more frequent answer: {held_out.majority_accuracy:.1%}",
            held_out.accuracy > held_out.majority_accuracy,
        ),
        Number(
            f"{held_out.exact_match:.1%}",
            "of the held-out images have all their attributes read rightly",
            f"always the most frequent ones: {held_out.majority_exact_match:.1%}",
            held_out.exact_match > held_out.majority_exact_match,
        ),
    ]
    if known:
        worst = min(known, key=lambda score: score.balanced_accuracy)
        text = f"is the balanced accuracy of {plain(worst.name)}, the attribute that is read worst"
        numbers.append(Number(f"{worst.balanced_accuracy:.1%}", text, "guessing: 50%", worst.balanced_accuracy > 0.5))
    return Headline(numbers, "attributes", fits=False)


def figures(trained: Trained, results: Results) -> Figures:
    """Some of the images, the accuracy of each attribute, and the loss over training."""
    by_name = {score.name: score for score in results["held_out"].attributes}
    return {
        "data": ("Held-out images", grids.grid(trained.data.validation["image"][:_SHOWN])),
        "attributes": (
            "Accuracy on held-out images: bars should be longer than the black mark, always the more frequent answer",
            scores.attribute_bars(
                {"accuracy": {plain(name): score.accuracy for name, score in by_name.items()}},
                baseline={plain(name): score.majority_accuracy for name, score in by_name.items()},
                baseline_label="majority class",
            ),
        ),
        "losses": (
            "What is minimised, cross-entropy in nats per attribute, and the share of attributes read rightly: lines "
            "without dots are of training images, those with dots of held-out ones",
            curves.losses(trained.records[""], {"Loss": ["loss"], "Accuracy": ["accuracy"]}),
        ),
    }
