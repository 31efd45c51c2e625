"""The questions to a GPU: each names what exists, none is lost where time ends, and all are answered at a tiny size."""

import json
import sys

import gpu_check
import pytest
from _benchmark_worker import SUBJECTS


def answers(monkeypatch, path, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments, "-o", str(path)])
    gpu_check.main()
    return json.loads(path.read_text())


def test_what_there_is_no_time_for_is_listed(monkeypatch, tmp_path):
    found = answers(monkeypatch, tmp_path / "found.json", "--seconds=0")
    assert [answer["error"] for answer in found] == ["no time left"] * len(found)
    assert {answer["kind"] for answer in found} == {"layers", "model", "dispatch", "batch", "bits"}
    for asked in (answer["asked"] for answer in found if answer["kind"] != "layers"):
        subject = SUBJECTS[asked["model"]]
        config = subject.presets()[asked["preset"]]
        assert subject.phase(config, asked["phase"]).name == asked["phase"]
        assert set(asked["fields"]) <= set(vars(config))


def test_a_folder_that_is_not_there_is_refused_before_anything_is_asked(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        answers(monkeypatch, tmp_path / "no" / "found.json")
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.slow  # a process for each question
def test_every_kind_of_question_is_answered(monkeypatch, tmp_path):
    found = answers(monkeypatch, tmp_path / "found.json", "--tiny")
    assert not [answer for answer in found if "error" in answer]
    assert {answer["kind"] for answer in found} == {"layers", "model", "dispatch", "batch", "bits"}
    for answer in found:
        if answer["kind"] == "layers":
            (milliseconds,) = answer["milliseconds"].values()
            assert all(milliseconds[formulation] > 0 for formulation in ("plain", "canonical"))
        else:
            assert answer["images_per_second"] > 0
            assert 0 < answer["of_product"] < 1
    assert all(answer["same_bits"] for answer in found if answer["kind"] == "bits")


@pytest.mark.slow
def test_a_process_that_takes_too_long_is_ended():
    (kind, asked), *_ = [job for job in gpu_check.jobs(tiny=True) if job[0] == "model"]
    with pytest.raises(RuntimeError, match="ended with status -9"):
        gpu_check.ask(kind, asked, 1.0)
