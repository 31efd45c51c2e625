"""Several multimodal VAEs on one page, judged on the same images and captions.

    python experiments/compare_runs.py runs/L128 runs/L256 runs/L512 --output=runs/comparison

The images are those of the first run (or of --source), for all runs; a page in the output folder shows the rows of
table 2, the loss curves of figure 8, and what each model makes of the same inputs. Runs may be finished or not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import celebahq_mvae
import launch
import multimodal_evaluation as evaluation
import numpy as np
from judge import Judge
from training import pixels, to_bytes

from mvae_jax import runs
from mvae_jax.data.batches import Splits
from mvae_jax.train.logging import read_metrics
from mvae_jax.train.workdir import atomic_write
from mvae_jax.viz import curves, grids, report

_log = logging.getLogger("compare_runs")
_SHOWN = 12
_TEXTS = 6


def main(argv: list[str]) -> None:
    """Judges, draws and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", type=Path, help="folders of the runs, in the order of the page")
    parser.add_argument("--output", type=Path, default=Path("runs/comparison"), help="folder of the page")
    parser.add_argument("--source", help="images to judge on; by default those of the first run")
    arguments = parser.parse_args(argv[1:])
    launch.start_logging()
    with launch.errors():
        if len({path.resolve() for path in arguments.workdirs}) < len(arguments.workdirs):
            raise ValueError(f"a run is named twice among {', '.join(map(str, arguments.workdirs))}; name each once.")
        (arguments.output / "figures").mkdir(parents=True, exist_ok=True)
        found = {_label(path, arguments.workdirs): runs.load(path) for path in arguments.workdirs}
        config = launch.config_of(arguments.workdirs[0], celebahq_mvae.Config())
        if arguments.source:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=arguments.source))
        for label, run in found.items():
            _check(label, run, config)
        data = celebahq_mvae.load_data(config)
        evaluation.check(data)
        reader = celebahq_mvae.judge_of(config, data, arguments.output)
    scores = {}
    for label, run in found.items():
        scores[label] = evaluation.evaluate(run, data, reader, seed=config.seed)
        f1 = scores[label].benchmark.result.rates.f1
        _log.info("%s: latent size %d, consistency F1 %.3f", label, run.config.latent_size, f1)
    records = {
        label: read_metrics(path / "metrics.jsonl") for label, path in zip(found, arguments.workdirs, strict=True)
    }
    files = report.save_figures(_draw(found, data, records), arguments.output / "figures")
    digest = data.sha256()
    notes = [
        f"{label} was trained on other images, and may have seen some of these."
        for label, run in found.items()
        if run.settings.get("data_sha256") != digest
    ]
    atomic_write(
        arguments.output / "scores.json",
        json.dumps({label: each.to_dict() for label, each in scores.items()}, indent=2) + "\n",
    )
    seeds = {label: run.settings["config"]["seed"] for label, run in found.items()}
    page = arguments.output / "report.html"
    report.write(
        page,
        "Comparison of " + ", ".join(found),
        [
            *(report.note(text) for text in notes),
            *_tables(found, scores, reader, published=celebahq_mvae.published(data)),
            report.heading("Figures"),
            *(report.figure(path, caption) for caption, path in files.items()),
            report.heading("How it was made"),
            report.code(shlex.join(["python", *argv])),
            report.values({"evaluation": config.seed, **seeds}, "Seeds"),
            report.values(data.provenance, "Data"),
            *(
                report.details(f"Config of {label}", [report.values(dict(run.settings["config"]))])
                for label, run in found.items()
            ),
            report.values(report.versions(), "Versions"),
        ],
    )
    _log.info("report: %s", page)


def _label(path: Path, others: list[Path]) -> str:
    """The folder's name, or the whole path where two folders have one name."""
    names = [other.resolve().name for other in others]
    return path.resolve().name if names.count(path.resolve().name) == 1 else str(path)


def _check(label: str, run: runs.Run, config: celebahq_mvae.Config) -> None:
    if run.settings["model"] != "multimodal":
        raise ValueError(f"{label} is a run of the model {run.settings['model']!r}; expected 'multimodal'.")
    ours, theirs = ((c.attributes, c.image_size) for c in (config.model, run.config))
    if ours != theirs:
        raise ValueError(
            f"{label} has attributes {', '.join(theirs[0])} and images of {theirs[1]} px, the first run "
            f"{', '.join(ours[0])} and {ours[1]} px; the same inputs need the same of both."
        )


def _tables(
    found: dict[str, runs.Run], scores: dict[str, evaluation.Scores], judge: Judge | None, *, published: bool
) -> list[report.Part | str]:
    rows = [evaluation.consistency_row(label, scores[label], run.config.latent_size) for label, run in found.items()]
    sizes = sorted({run.config.latent_size for run in found.values()} & set(evaluation.PUBLISHED))
    if published:
        rows += [evaluation.published_row(size) for size in sizes]
    generated = [
        {"": label, "latent size": found[label].config.latent_size, "step": each.step, "phase": each.phase}
        | {"image to text, accuracy": each.image_to_text.accuracy, "exact match": each.image_to_text.exact_match}
        | {f"judge: {name}": judged.accuracy for name, judged in each.judged.items()}
        | {"PSNR, dB": each.quality["psnr"], "SSIM": each.quality["ssim"]}
        | {f"diversity in {name}": value.ratio for name, value in each.diversity.items()}
        for label, each in scores.items()
    ]
    result = next(iter(scores.values())).benchmark.result
    return [
        report.heading("Consistency of image and text (table 2)"),
        f"The same {result.validation_images} images, mismatches and {result.calibration_images} calibration images "
        "for all. Match is the positive class; 95 % intervals over images and curations.",
        report.table(rows),
        report.heading("From one modality to the other"),
        *([str(judge)] if judge else []),
        report.table(generated),
    ]


def _draw(found: dict[str, runs.Run], data: Splits, records: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    shown = data.validation.first(_SHOWN)
    x, names = pixels(shown), data.attributes
    texts = evaluation.different(shown["attributes"])[:_TEXTS]
    sentences = evaluation.write(texts, names)

    def decoded(run: runs.Run, posterior: Any) -> np.ndarray:
        return to_bytes(run.decode_image(posterior[0]))

    means = {label: decoded(run, run.encode_attributes(texts)) for label, run in found.items()}
    trained = {label: lines for label, lines in records.items() if any("loss" in line for line in lines)}
    return ({"losses": ("Loss of each run (figure 8)", curves.runs(trained, "loss"))} if trained else {}) | {
        "reconstructions": (
            "Reconstructions of the same held-out images",
            grids.comparison(
                {"original": shown["image"]}
                | {label: decoded(run, run.encode_image(x)) for label, run in found.items()}
            ),
        ),
        "from_text": (
            "The same captions, decoded from the mean of their posteriors: " + "; ".join(sentences),
            grids.comparison(means),
        ),
    }


if __name__ == "__main__":
    main(sys.argv)
