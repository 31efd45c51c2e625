"""Experiments: from a command line to a report.

An experiment is data, an `Experiment`: presets, members, measures and figures. `run` does all the rest, once for all:
it parses flags, finds the data, plans, trains every member, resumes, measures, draws, and writes scores.json, figures
and report.html.
"""

from mvae_jax.experiment.classifier import Classifier
from mvae_jax.experiment.classifier import Config as ClassifierConfig
from mvae_jax.experiment.declaration import (
    Config,
    Experiment,
    Figures,
    Headline,
    Measure,
    Number,
    Results,
    Trained,
)
from mvae_jax.experiment.members import Member
from mvae_jax.experiment.prior import Config as PriorConfig
from mvae_jax.experiment.runner import run

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Config",
    "Experiment",
    "Figures",
    "Headline",
    "Measure",
    "Member",
    "Number",
    "PriorConfig",
    "Results",
    "Trained",
    "run",
]
