"""Models pushed to and pulled from a server on loopback, by the Hub's own library and its cache."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from exported_models import prior_of, run_of
from fake_hub import serving

from mvae_jax import runs
from mvae_jax.experiment import prior
from mvae_jax.export import folder as folders
from mvae_jax.export import hub as module


@pytest.fixture
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture
def command(hub, tmp_path):
    """Status, output and messages of a command that knows no other server than the fake one."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_TOKEN": "hf_of_nobody",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }

    def command(*arguments, **others):
        line = [sys.executable, "-m", "mvae_jax", *map(str, arguments)]
        done = subprocess.run(line, cwd=tmp_path, env={**variables, **others}, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return command


@pytest.fixture
def exported(tmp_path):
    return run_of("vae").export(tmp_path / "vae")


def test_a_pushed_model_is_pulled_to_the_same_bits(command, hub, exported, tmp_path):
    status, out, err = command("push", "vae", "someone/faces")
    assert (status, err) == (0, "")
    assert out == f"{hub.address}/someone/faces/commit/{hub.commit('someone/faces')}\n"
    assert hub.private == {"someone/faces": True}
    there = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert set(hub.repositories["someone/faces"]) == there

    status, out, err = command("pull", "someone/faces", "pulled")
    assert (status, out, err) == (0, f"pulled: commit {hub.commit('someone/faces')}\n", "")
    pulled = tmp_path / "pulled"
    assert {path.name for path in pulled.iterdir()} == {
        "README.md",
        "config.json",
        "export.json",
        "weights.safetensors",
    }
    run, loaded = run_of("vae"), runs.load(pulled)
    z = np.ones((2, run.config.latent_size), np.float32)
    np.testing.assert_array_equal(run.decode(z), loaded.decode(z))
    jax.tree.map(np.testing.assert_array_equal, run.params, loaded.params)

    # From the cache, unless the server has another version; and again over what was pulled.
    before = len([line for line in hub.requests if line.startswith("GET /someone")])
    assert command("pull", "someone/faces", "pulled")[0] == 0
    assert len([line for line in hub.requests if line.startswith("GET /someone")]) == before
    assert command("pull", "someone/faces", "whole", "--functions")[0] == 0
    assert (tmp_path / "whole/functions/decode.jax").read_bytes() == (exported / "functions/decode.jax").read_bytes()


def test_a_learned_prior_goes_along_and_makes_way(command, hub, tmp_path):
    folder, run = tmp_path / "vae", run_of("vae")
    run.export(folder, prior=prior_of("vae"))
    assert command("push", "vae", "someone/faces")[0] == 0
    assert command("pull", "someone/faces", "pulled")[0] == 0
    drawn = prior.Prior(prior_of("vae")).sample_freely(jax.random.key(0), 3)
    pulled = prior.load(tmp_path / "pulled", runs.load(tmp_path / "pulled"))
    np.testing.assert_array_equal(pulled.sample_freely(jax.random.key(0), 3), drawn)
    assert not (tmp_path / "pulled/latent_flow/functions").exists()
    assert command("pull", "someone/faces", "whole", "--functions")[0] == 0
    assert {path.relative_to(folder) for path in folder.rglob("*")} == {
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*")
    }
    run.export(folder)
    assert command("push", "vae", "someone/faces")[0] == 0
    assert not [name for name in hub.repositories["someone/faces"] if name.startswith("latent_flow")]


def test_what_is_damaged_or_no_export_is_not_pulled(command, hub, exported, tmp_path):
    hub.repositories["someone/other"] = {"pytorch_model.bin": b"\x80\x02cos\nsystem\n"}
    status, _, err = command("pull", "someone/other", "pulled")
    assert (status, err.count("\n")) == (2, 1)
    assert "someone/other has no export.json: expected a model that `mvae-jax push` put there" in err
    assert not [line for line in hub.requests if "pytorch_model" in line]  # not even downloaded

    files = {path.name: path.read_bytes() for path in exported.iterdir() if path.is_file()}
    hub.repositories["someone/damaged"] = files | {"weights.safetensors": files["weights.safetensors"][:-1] + b"\1"}
    status, _, err = command("pull", "someone/damaged", "pulled")
    assert status == 2
    assert f"someone/damaged, commit {hub.commit('someone/damaged')}: weights.safetensors is not as it was expo" in err
    assert "exported: pull it again, or report the repository" in err
    status, _, err = command("pull", "nobody/nothing", "pulled")
    assert (status, err.count("\n")) == (2, 1)
    assert f"nobody/nothing cannot be pulled from {hub.address}" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "vae"]


def test_pull_takes_neither_what_others_cached_nor_an_old_answer(command, hub, exported, tmp_path):
    """Other programs cache what an export has not; a server that does not answer gives no commit."""
    files = {path.name: path.read_bytes() for path in exported.iterdir() if path.is_file()}
    hub.repositories["someone/faces"] = {**files, ".gitattributes": b"*.safetensors filter=lfs\n"}
    assert command("pull", "someone/faces", "pulled")[0] == 0
    (snapshot,) = (tmp_path / "cache").glob("hub/models--someone--faces/snapshots/*")
    (snapshot / ".gitattributes").write_bytes(b"*.safetensors filter=lfs\n")
    assert command("pull", "someone/faces", "pulled") == (0, f"pulled: commit {snapshot.name}\n", "")
    status, _, err = command("pull", "someone/faces", "pulled", "--revision=v2")
    assert (status, err.count("\n")) == (2, 1)
    assert "give a --revision that is there" in err
    hub.failing = 500
    status, _, err = command("pull", "someone/faces", "pulled")
    assert (status, err.count("\n")) == (2, 1)
    assert f"someone/faces cannot be pulled from {hub.address}" in err


def test_a_full_disk_of_the_cache_is_named(command, hub, exported, tmp_path, small_disk):
    files = {path.name: path.read_bytes() for path in exported.iterdir() if path.is_file()}
    hub.repositories["someone/faces"] = {**files, "weights.safetensors": bytes(2**20)}
    cache = small_disk(256)
    status, _, err = command("pull", "someone/faces", "pulled", HF_HOME=str(cache))
    assert status == 2
    assert f"{cache}/hub cannot be written: No space left on device" in err
    assert "hf auth login" not in err


def test_push_keeps_what_is_no_export_and_who_may_see_it(command, hub, exported):
    hub.repositories |= {"someone/thesis": {"thesis.tex": b"mine"}, "someone/open": {".gitattributes": b""}}
    hub.private["someone/open"] = False
    status, _, err = command("push", "vae", "someone/thesis")
    assert (status, err.count("\n")) == (2, 1)
    assert "someone/thesis has files and is no export (thesis.tex): choose another repository" in err
    status, _, err = command("push", "vae", "someone/open")
    assert (status, err.count("\n")) == (2, 1)
    assert "someone/open is public: give --public" in err
    assert hub.repositories["someone/thesis"] == {"thesis.tex": b"mine"}
    assert set(hub.repositories["someone/open"]) == {".gitattributes"}
    hub.repositories["someone/open"] |= {"export.json": b"", "functions/old.jax": b"", "notes.txt": b"mine"}
    assert command("push", "vae", "someone/open", "--public")[0] == 0
    there = set(hub.repositories["someone/open"])
    assert {"notes.txt", ".gitattributes", "functions/decode.jax"} <= there
    assert "functions/old.jax" not in there


def test_only_untouched_exports_are_pushed(command, hub, exported):
    (exported / "README.md").write_text("mine")
    status, _, err = command("push", "vae", "someone/faces")
    assert status == 2
    assert "README.md is not as it was exported: export the model again" in err
    (exported / "export.json").unlink()
    status, _, err = command("push", "vae", "someone/faces")
    assert status == 2
    assert "expected a folder that `mvae-jax export` wrote" in err
    assert hub.requests == []


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path, exported):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: module.push(exported, "someone/faces"),
        lambda: module.pull("someone/faces", tmp_path / "new"),
    ):
        with pytest.raises(ValueError, match=r"pip install 'mvae-jax\[hub\]'"):
            call()


def test_exporting_and_loading_ask_no_server(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    run = runs.load(run_of("vae").export(tmp_path / "vae", with_functions=False))
    assert json.loads((tmp_path / "vae" / folders.MANIFEST).read_text())["step"] == run.step
    assert hub.requests == []
