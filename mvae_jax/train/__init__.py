"""Runs any `objective.Model`: state, step, phases, devices, checkpoints, logs. Knows no model.

`loop.fit` trains through all phases and resumes; `step` and `program` are the step as a function and as a compiled
program, in which `sharing` computes once what rounds have in common; `state` is what it changes. `feed` brings examples
to the devices that `devices` lays out, and `dispatch` keeps these busy. `workdir`, `config_file`, `checkpoint`,
`manifests` and `logging` write a run's files, and `trackers` sends its metrics elsewhere; `observer` is told how far it
is; `signals` lets it save before it ends.
"""

from mvae_jax import _lazy

__getattr__, __dir__ = _lazy.modules(__name__)
