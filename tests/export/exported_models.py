"""Models that the tests of exports share, as drawn."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import zoo

from mvae_jax import _json, export, runs
from mvae_jax.models import latent_flow


@functools.cache
def run_of(name):
    """A model as drawn, as if it had been trained for some steps."""
    row = zoo.TABLE[name]
    model, batch = row.model(), jax.tree.map(jnp.asarray, row.batch(2))
    params, state = jax.jit(model.init)(jax.random.key(0), batch)
    config = json.loads(json.dumps(dataclasses.asdict(row.config)))
    settings = {"format": runs.FORMAT, "model": name, "config": {"seed": 3, "model": config}}
    return runs.Run(model, row.config, row.start(params), state, "training", 7, settings)


@functools.cache
def prior_of(name):
    """A learned prior of the codes of such a model, whose network says something."""
    config, generator = zoo.TABLE[name].config, np.random.default_rng(0)
    names, size = getattr(config, "attributes", ()), config.latent_size
    flow = dataclasses.replace(zoo.LATENT_FLOW, latent_size=size, attributes=names, attribute_rows=20)
    codes = {"code": (1 + 2 * generator.normal(size=(40, size))).astype(np.float32)}
    codes["attributes"] = generator.integers(0, 2, (40, len(names))).astype(np.float32)
    model = latent_flow.build(flow, **latent_flow.from_data(flow, codes))
    params, state = jax.jit(model.init)(jax.random.key(0), {each: array[:2] for each, array in codes.items()})
    params = jax.tree.map(lambda x: x + 0.3 * generator.normal(size=x.shape).astype(np.float32), params)
    settings = json.loads(json.dumps({"model": dataclasses.asdict(flow), "seed": 3}))
    settings = {"format": runs.FORMAT, "model": "latent_flow", "config": settings}
    return runs.Run(model, flow, params, state, "training", 5, settings)


def forge(folder, **entries):
    """Entries of export.json are replaced, or removed by `...`, and all sums are computed anew."""
    manifest = json.loads((folder / "export.json").read_text())
    manifest["files"] = {name: export.folder._sum(folder / name) for name in manifest["files"]}
    manifest = {name: value for name, value in {**manifest, **entries}.items() if value is not ...}
    (folder / "export.json").write_text(json.dumps(_json.with_sum(manifest)))


# Packages of an environment in which JAX alone is installed, with the libraries that lie beside them.
ALONE = ("jax", "jaxlib", "numpy", "numpy.libs", "ml_dtypes", "opt_einsum", "scipy", "scipy.libs", "flatbuffers")


def card_program(folder):
    """The last program of a card, which needs JAX alone."""
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[-1]


def run_alone(code, folder, packages):
    """Output of a program in a folder, with those packages alone in sight (-S leaves out site-packages).

    Args:
        code: the program.
        folder: where it runs.
        packages: an empty folder for links to the packages.
    """
    site = Path(jax.__file__).parents[1]
    for name in ALONE:
        if (site / name).exists():
            (packages / name).symlink_to(site / name)
    code = "import importlib.util\nassert not importlib.util.find_spec('flax')\n" + code
    command = [sys.executable, "-S", "-W", "error", "-c", code]
    variables = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
