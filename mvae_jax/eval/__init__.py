"""Measures of finished models: from arrays, or from pure encode functions that the caller passes in."""
