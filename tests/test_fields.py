"""Fields of nested dataclasses: their names, values and meanings, and what earlier versions recorded of them."""

import dataclasses
import inspect
import json

import pytest

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


def test_meanings_are_read_from_docstrings_as_python_3_13_compiles_them(monkeypatch):
    monkeypatch.setattr(Inner, "__doc__", inspect.cleandoc(Inner.__doc__))
    test_meanings_are_those_of_the_docstring()


def test_meanings_are_inherited_and_replaced():
    expected = {"rates": "numbers between nought and one.", "names": "other words.", "inner": "a group."}
    assert fields.meanings(Outer) == expected


def test_leaves_have_dotted_names():
    expected = {"rates": (0.1, 0.2), "names": "a", "inner.rates": (0.1, 0.2), "inner.names": "b"}
    assert dict(fields.leaves(Outer())) == expected
    assert dict(fields.leaves(Inner(), "x.")) == {"x.rates": (0.1, 0.2), "x.names": "a"}
    names = [name for name, _ in fields.leaves(multimodal.Config()) if name.endswith("epochs")]
    assert names == ["unimodal.epochs", "alignment.epochs", "adversarial.epochs"]


# --- what earlier versions recorded ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Part:
    name: str = "whole"
    scale: float = dataclasses.field(default=1.0, metadata={"before": 0.5})


@dataclasses.dataclass(frozen=True)
class Parts:
    parts: tuple[Part, ...] = (Part(), Part("other"))


def test_each_item_of_a_tuple_of_dataclasses_is_completed():
    recorded = {"parts": [{"name": "a"}, {"name": "b", "scale": 2.0}, {"name": "c"}]}
    completed = fields.as_now(Parts(), recorded, file="config.json", name="config")
    assert completed == {"parts": [{"name": n, "scale": s} for n, s in (("a", 0.5), ("b", 2.0), ("c", 0.5))]}
    recorded["parts"][1]["colour"] = "red"
    with pytest.raises(
        ValueError, match=r'config.json has config.parts\[1\].colour = "red", which this version does not'
    ):
        fields.as_now(Parts(), recorded, file="config.json", name="config")
    passed = fields.as_now(Parts(), recorded, file="config.json", name="config", ignore_removed=True, warn=False)
    assert passed == completed


@dataclasses.dataclass(frozen=True)
class Late:
    name: str = "late"
    epsilon: float = dataclasses.field(default=1e-8, metadata={"unlike": "its items had none."})


@dataclasses.dataclass(frozen=True)
class LateParts:
    parts: tuple[Late, ...] = (Late(),)


def test_what_is_unlike_in_an_item_of_a_tuple_is_told():
    assert fields.unlike(LateParts(), {"parts": [{"name": "a"}]}) == ["its items had none."]
    assert fields.unlike(LateParts(), {"parts": [{"name": "a", "epsilon": 0.1}]}) == []


@dataclasses.dataclass(frozen=True)
class Classifier:
    workdir: str = ""
    epochs: int = 5


@dataclasses.dataclass(frozen=True)
class Evaluation:
    images: int = 10
    by: dict[str, int] = dataclasses.field(default_factory=lambda: {"hand": 1})


@dataclasses.dataclass(frozen=True)
class Faces:
    source: str = "rendered"
    size: int = 8
    kind: str = dataclasses.field(init=False, default="faces")


@dataclasses.dataclass(frozen=True)
class Experiment:
    seed: int
    data: Faces = Faces(size=16)
    classifier: Classifier = Classifier(epochs=3)
    evaluation: Evaluation = Evaluation(images=20)
    epsilon: float = dataclasses.field(default=1e-8, metadata={"before": 1e-5, "unlike": "the others had it too."})


NOW = Experiment(1)


def as_now(recorded, **options):
    return fields.as_now(NOW, recorded, file="config.json", name="config", **options)


def test_a_whole_record_stays_as_it_is():
    recorded = json.loads(json.dumps(dataclasses.asdict(Experiment(7, epsilon=0.5, evaluation=Evaluation(3, {})))))
    before = json.dumps(recorded)
    assert as_now(recorded) == recorded
    assert fields.unlike(NOW, recorded) == []
    assert json.dumps(recorded) == before


def test_what_came_later_counts_as_before():
    recorded = {"data": {"kind": "faces", "source": "x"}, "evaluation": {"by": {"eye": 2}}}
    assert as_now(recorded) == {
        "data": {"kind": "faces", "source": "x", "size": 8},  # by its own class
        "classifier": {"workdir": "", "epochs": 3},  # came as a whole
        "evaluation": {"images": 10, "by": {"eye": 2}},
        "epsilon": 1e-5,
    }
    assert fields.unlike(NOW, recorded) == ["the others had it too."]


def test_old_names_are_those_of_today():
    recorded = {"seed": 1, "judge": {"workdir": "x"}, "evaluation": {"judge_epochs": 7, "images": 1}}
    now = as_now(recorded)
    assert (now["classifier"], now["evaluation"]["images"]) == ({"workdir": "x", "epochs": 7}, 1)
    assert now.keys() == {field.name for field in dataclasses.fields(Experiment)}
    assert recorded["judge"] == {"workdir": "x"}
    for old, new in fields.RENAMED.items():
        assert fields.renamed(old) == new
    assert fields.renamed("judge.workdir") == "classifier.workdir"
    assert fields.renamed("judges") == "judges"


def test_an_old_name_beside_the_new_one_is_not_passed_over():
    with pytest.raises(ValueError, match=r"config\.json has config\.judge = \{\}, which this version does not have"):
        as_now({"judge": {}, "classifier": {}})


def test_an_old_name_is_none_of_a_config_without_the_new_one():
    with pytest.raises(ValueError, match=r"x has config\.model\.judge = 1, which"):
        fields.as_now(Inner(), {"judge": 1}, file="x", name="config.model")


def test_what_was_removed_is_named_wherever_it_is(caplog):
    recorded = {"seed": 1, "data": {"kind": "faces", "crop": "a"}, "evaluation": {"by": {"any": 1}}, "sizes": [1, 2]}
    with pytest.raises(ValueError, match=r"^config.json has config") as error:
        as_now(recorded)
    removed = 'config.data.crop = "a", config.sizes = [1, 2], which this version does not have'
    assert f"{removed}: go on with" in str(error.value)
    now = as_now(recorded, ignore_removed=True)
    assert f"{removed}: passed over." in caplog.text
    assert now["data"] == {"kind": "faces", "source": "rendered", "size": 8}
    assert now["evaluation"]["by"] == {"any": 1}
    assert "sizes" not in now


@pytest.mark.parametrize("kind", [{"kind": "birds"}, {}], ids=str)
def test_data_of_another_kind_keep_their_fields(kind):
    assert as_now({"data": {**kind, "crop": "a"}})["data"] == {**kind, "crop": "a", "source": "rendered", "size": 8}


@pytest.mark.parametrize("recorded", [None, 3, "x", [{"seed": 1}]], ids=str)
def test_what_is_no_record_is_refused(recorded):
    with pytest.raises(ValueError, match=r"config\.json has config = .*; expected settings by name"):
        as_now(recorded)
