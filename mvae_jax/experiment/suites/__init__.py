"""Whole evaluations: measures and figures of families of models, as experiments declare them.

Each module has functions of `Trained` models that return typed results with snake_case keys, the words that go with
the keys, and the figures that are drawn from them.
"""
