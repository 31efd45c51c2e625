"""Runs any `objective.Model`: state, step, phases, devices, checkpoints, logs. Knows no model."""
