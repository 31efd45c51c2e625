"""Our side of `tools/whole_runs.py`: a VAE of the zoo trained from Python, as the README has it."""

from __future__ import annotations

import math
import time
from pathlib import Path

import _whole_run
import jax

from mvae_jax import runs
from mvae_jax.cpu.memory import keep_freed_memory
from mvae_jax.models import autoencoders
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.loop import Settings


def main() -> None:
    """Trains and saves, or only counts the parameters."""
    settings = _whole_run.settings()
    folder, losses, ends = Path(settings["folder"]), [], []
    keep_freed_memory()
    runs.keep_compiled_programs(settings["programs"])
    config = runs.rebuild(autoencoders.VAEConfig(), settings["config"])
    data = {"image": _whole_run.images(settings)}
    if settings["count_only"]:
        plan, key = runs.plan("vae", config, data), jax.random.key(0)
        params, _ = jax.eval_shape(plan.model.init, key, plan.example)
    else:
        run = runs.train(
            folder / "run",
            "vae",
            config,
            data,
            settings=Settings(log_every=settings["train"] // config.batch_size),
            on_validation=lambda *_: ends.append(time.perf_counter()),
        )
        params, records = run.params, read_metrics(folder / "run" / "metrics.jsonl")
        # Others leave out the constant of a Gaussian of deviation one.
        constant = 0.5 * math.log(2 * math.pi) * math.prod(config.image_shape)
        losses = [record["loss"] - constant for record in records if record.get("split") == "train"]
    _whole_run.answer(settings, (leaf.size for leaf in jax.tree.leaves(params)), losses, ends)


if __name__ == "__main__":
    main()
