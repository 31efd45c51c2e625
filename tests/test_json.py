"""JSON that is damaged or hostile, and the files of runs and pyramids in which it may be."""

from __future__ import annotations

import json

import pytest

from mvae_jax import _json, runs
from mvae_jax.data import pyramid
from mvae_jax.train import logging
from mvae_jax.train.workdir import Workdir

DEEP = {
    "lists": "[" * 100_000 + "]" * 100_000,
    "mappings": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "not so deep": "[" * 500 + "]" * 500,
    "open": "[" * 200_000,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_json_is_refused(text, tmp_path, caplog):
    with pytest.raises(ValueError, match=r"nested (too deeply|more than 32 deep)"):
        _json.loads(text)
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{file} is not that of a run of a model of the zoo .*nested"):
        runs.load(tmp_path)
    with pytest.raises(ValueError, match=rf"^{file} is not JSON \(it is nested .*; restore it, or choose another"):
        Workdir(tmp_path).configure({"a": 1})
    (tmp_path / "manifest.json").write_text(f'{{"format": "mvae_jax pyramid", "version": 1, "shards": {text}}}')
    (message,) = pyramid.defects(tmp_path)
    assert message.startswith(f"{tmp_path}/manifest.json is damaged (ValueError: it is nested")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + text + "\n")
    assert logging.read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]
    assert "1 damaged line (2)" in caplog.text


def test_what_is_not_deep_is_read(tmp_path):
    value = {"a": [1, 2.5, None, "x", {"b": [[]]}], "c": {}}
    for _ in range(20):
        value = {"inner": value}
    assert _json.loads(json.dumps(value)) == value
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert _json.load(tmp_path / "a.json") == value
    assert _json.loads("3") == 3


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(_json, "MAX_BYTES", 100)
    (tmp_path / "config.json").write_text(json.dumps({"a": "x" * 200}))
    with pytest.raises(ValueError, match=r"config.json is not JSON \(it has 209 bytes, expected at most 100\)"):
        Workdir(tmp_path).configure({"a": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not that of a run"),
        ({"model": "vae", "config": {"model": {}}, "format": "2"}, 'has format "2"; expected 1 to 2: restore the file'),
        ({"model": "vae", "config": {"model": {}}, "format": None}, "has format null; expected 1 to 2"),
        ({"model": ["vae"], "config": {"model": {}}}, r"is of the model \['vae'\]; this version has"),
        ({"model": {}, "config": {"model": {}}}, r"is of the model {}; this version has"),
        ({"model": "vae", "config": {"model": 3}}, "has config.model = 3; expected settings by name"),
        ({"model": "vae", "config": {"model": {"epochs": "x"}}}, "has no settings of a model of this version"),
        (
            {"model": "vae", "config": {"model": {"epoch": 1}}},
            "has config.model.epoch = 1, which this version does not have",
        ),
    ],
)
def test_settings_of_other_types_are_refused(content, message, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{file} .*{message}"):
        runs.load(tmp_path)
