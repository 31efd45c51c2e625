"""Fields of nested dataclasses: their names, values and meanings."""

import dataclasses

from mvae_jax import fields
from mvae_jax.models import multimodal


@dataclasses.dataclass(frozen=True)
class Inner:
    """Numbers.

    Attributes:
        rates: numbers between
            nought and one.
        names: words.

    A sentence that is no entry: not one.
    """

    rates: tuple[float, ...] = (0.1, 0.2)
    names: str = "a"


@dataclasses.dataclass(frozen=True)
class Outer(Inner):
    """More.

    Attributes:
        names: other words.
        inner: a group.
    """

    inner: Inner = Inner(names="b")


def test_meanings_are_those_of_the_docstring():
    assert fields.meanings(Inner) == {"rates": "numbers between nought and one.", "names": "words."}


def test_meanings_are_inherited_and_replaced():
    expected = {"rates": "numbers between nought and one.", "names": "other words.", "inner": "a group."}
    assert fields.meanings(Outer) == expected


def test_leaves_have_dotted_names():
    expected = {"rates": (0.1, 0.2), "names": "a", "inner.rates": (0.1, 0.2), "inner.names": "b"}
    assert dict(fields.leaves(Outer())) == expected
    assert dict(fields.leaves(Inner(), "x.")) == {"x.rates": (0.1, 0.2), "x.names": "a"}
    names = [name for name, _ in fields.leaves(multimodal.Config()) if name.endswith("epochs")]
    assert names == ["unimodal.epochs", "alignment.epochs", "adversarial.epochs"]
