"""The wheel, built and installed into an environment that holds nothing else."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "mvae_jax").rglob("*.py")}
    assert {name for name in names if name.startswith("mvae_jax/")} == sources | {"mvae_jax/py.typed"}
    assert all(name.startswith(("mvae_jax/", "mvae_jax-")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_installs_and_imports_in_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}

    def run(*arguments):
        done = subprocess.run([python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    modules = (
        "losses, gaussian, images, nets, models, objective, runs, train.loop, data.faces, eval.consistency, viz.report"
    )
    imports = "\n".join(f"import mvae_jax.{module.strip()}" for module in modules.split(","))
    out = run("-W", "error", "-c", f"{imports}\nimport sys; print(mvae_jax.__file__, 'tensorflow' in sys.modules)")
    file, tensorflow = out.split()
    assert Path(file).is_relative_to(tmp_path)
    assert tensorflow == "False"
