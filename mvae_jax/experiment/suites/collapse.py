"""Signs of collapse of several models in log and report."""

from __future__ import annotations

from collections.abc import Mapping

from mvae_jax.eval.stability import Stability
from mvae_jax.experiment.declaration import plain
from mvae_jax.viz import report

TEXT = (
    "Spread is the variety of samples relative to real images. The discriminator's accuracies and the shares of steps "
    "in which gates let a player move are of the last tenth of the steps; gradient norms are medians."
)


def parts(titles: Mapping[str, str], signs: Mapping[str, Stability]) -> list[report.Part | str]:
    """Table of signs of collapse.

    Args:
        titles: folder of a model -> its name in the table.
        signs: folder -> signs.
    """
    rows = []
    for folder, of_model in signs.items():
        row = {"model": titles[folder], "spread": of_model.spread}
        if of_model.reconstruction_error is not None:
            row["error of reconstructions, of that from other images"] = of_model.reconstruction_error
        if of_model.label_share is not None:
            row["samples of one label"] = of_model.label_share
        row |= {"real images recognised": of_model.real_accuracy, "generated ones": of_model.fake_accuracy}
        row |= {f"{plain(objective)} moves": share for objective, share in of_model.updated_late.items()}
        rows.append(
            row | {f"{plain(name)}, gradient norm": norm.median for name, norm in of_model.gradient_norms.items()}
        )
    return [report.table(rows)]


def problems(titles: Mapping[str, str], signs: Mapping[str, Stability]) -> list[str]:
    """What is wrong, a sentence each; arguments as for `parts`."""
    return [f"{titles[folder]}: {problem}" for folder, of_model in signs.items() for problem in of_model.problems]
