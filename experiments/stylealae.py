"""StyleALAE: a style-based autoencoder that grows from 4 pixels to the resolution asked for.

    python experiments/stylealae.py
    python experiments/stylealae.py --preset=celeba --config.data.source=CelebA --workdir=runs/stylealae_celeba
    python experiments/stylealae.py --preset=ffhq --config.data.source=ffhq --workdir=runs/stylealae_ffhq \
        --config.evaluation.inception=pt_inception-2015-12-05-6726825d.pth \
        --config.evaluation.vgg=vgg16-397923af.pth --config.evaluation.lpips=vgg.pth

Trains on rendered faces, on other data sets of faces with attributes, on your own images, or, where these do not fit
into memory, on what `mvae-jax data pyramid` has made of them. Then compares samples and reconstructions with held-out
images, at every stage of growth; measures perceptual path lengths in Z and in W; and draws samples, reconstructions,
styles mixed from two faces, interpolations, and edits along attribute directions. The same command resumes a run that
was stopped.

The presets ffhq, lsun_bedroom and celebahq256 measure as published: Frechet distances of 50,000 samples with mixed
styles and of reconstructions from training images, and path lengths over 50,000 pairs, of faces within the published
crop. That takes the weights of the networks that compare images. To compare with all test images instead:
--config.evaluation.frechet.reference=held-out --config.evaluation.frechet.reference_images=0.

On two CPU cores the first command takes 10 minutes, and ends at a Frechet distance of samples of about 61, a PSNR of
reconstructions of 17 dB and an SSIM of .51.

Reference:
    Pidhorskyi et al., 2020, Adversarial latent autoencoders, arXiv:2004.04467.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.formats import celeba
from mvae_jax.data.pyramid import dataset as pyramid
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import ClassifierConfig, Measure, Member, PriorConfig
from mvae_jax.experiment.suites import priors, style_frechet
from mvae_jax.experiment.suites import style as suite
from mvae_jax.models.alae import style as style_alae


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        data: the images.
        model: StyleALAE.
        classifier: in whose features images are compared, and which reads attributes for edits.
        prior: over the codes in W, learned once the model is trained; its samples are compared with those of the
            model's own prior and of a mixture of Gaussians. 0 epochs, the default here, learn none.
        evaluation: how the model is measured and drawn.
    """

    data: sources.Config = faces.Config()
    model: style_alae.Config = style_alae.Config()
    classifier: ClassifierConfig = ClassifierConfig()
    prior: PriorConfig = PriorConfig(epochs=0)
    evaluation: suite.Evaluation = suite.Evaluation()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.channels != 3:
            raise ValueError(f"model.channels is {self.model.channels}; expected 3, of faces.")


def members(config: Config, data: Any) -> dict[str, Member]:
    """The model, in a folder of its own."""
    return {suite.FOLDER: Member("style_alae", config.model, config.seed, sheet=suite.sheet)}


def notes(config: Config) -> tuple[str, ...]:
    """What is not measured for want of weights."""
    return suite.notes(config.evaluation)


def check(config: Config, data: Any) -> None:
    """Refuses images that cannot be measured on."""
    suite.check(data, config.evaluation, config.model.image_size)


def check_files(config: Config) -> dict[str, str | None]:
    """Refuses files of weights that are missing or of other networks; no run depends on them."""
    suite.check_files(config.evaluation, config.model.image_size)
    return {}


def _laptop() -> Config:
    """Rendered faces up to 32 pixels, narrow and short, for two CPU cores."""
    model = style_alae.Config(
        image_size=32,
        latent_size=64,
        first_width=16,
        most_width=64,
        mapping_layers=4,
        batch_sizes=(64, 64, 32, 16),
        learning_rates=(0.003,),
        fade_images=6_000,
        stabilise_images=6_000,
        last_images=12_000,
        r1_weight=1.0,
        ema_half_life=500.0,
    )
    return Config(model=model, evaluation=suite.Evaluation(path_pairs=1000))


def _celeba() -> Config:
    """CelebA at 128 pixels, each phase as long as in the released code, but for a shorter beginning at 4."""
    model = style_alae.Config(
        image_size=128,
        latent_size=256,
        first_width=64,
        most_width=256,
        learning_rates=(0.0015,),
        fade_images=548_000,  # three epochs
        stabilise_images=548_000,
        last_images=8_580_000,
    )
    data = celeba.Config(source="CelebA", crop="alae", subset_size=0, partitions="train+validation/test")
    return Config(data=data, model=model)


# 50,000 images of each kind, as the released code has them; of CelebA-HQ, whose 27,000 training images are fewer, all.
_FRECHET = style_frechet.Protocol(samples=50_000, reference_images=50_000, reconstructions=50_000)
_ALL = dataclasses.replace(_FRECHET, reference_images=0, reconstructions=0)
_FACES = suite.Evaluation(frechet=_FRECHET, path_pairs=50_000, path_seeds=1, path_crop="face")


def _ffhq() -> Config:
    """FFHQ at 1024 pixels. What is kept at full size, to be drawn and compared in pairs, is less: it takes memory."""
    return Config(data=pyramid.Config(source="ffhq"), evaluation=dataclasses.replace(_FACES, images=200))


def _lsun_bedroom() -> Config:
    """LSUN's bedrooms at 256 pixels, each phase as long as in the released code, but for a shorter beginning at 4."""
    model = style_alae.Config(
        image_size=256,
        first_width=32,
        fade_images=758_000,  # an epoch of the released code, a quarter of the images (AL-07)
        stabilise_images=758_000,
        last_images=75_000_000,
    )
    evaluation = dataclasses.replace(_FACES, path_crop="")
    return Config(data=pyramid.Config(source="lsun_bedroom"), model=model, evaluation=evaluation)


def _celebahq256() -> Config:
    """CelebA-HQ at 256 pixels, likewise."""
    model = style_alae.Config(
        image_size=256,
        first_width=64,
        learning_rates=(0.0015,),
        fade_images=435_000,  # 15 epochs of the released code
        stabilise_images=435_000,
        last_images=2_465_000,
    )
    evaluation = dataclasses.replace(_FACES, frechet=_ALL)
    return Config(data=pyramid.Config(source="celeba_hq"), model=model, evaluation=evaluation)


EXPERIMENT = experiment.Experiment(
    name="stylealae",
    title="StyleALAE",
    description=__doc__ or "",
    presets={
        "laptop": _laptop(),
        "celeba": _celeba(),
        "ffhq": _ffhq(),
        "lsun_bedroom": _lsun_bedroom(),
        "celebahq256": _celebahq256(),
    },
    data=(*sources.with_attributes("alae"), *sources.without_attributes()),
    model="style_alae",
    members=members,
    request=lambda config: sources.Request(config.model.image_size, growing=True),
    check=check,
    check_files=check_files,
    notes=notes,
    headline=suite.headline,
    curves=("players",),
    title_of=suite.title_of,
    measures=(
        Measure(
            "quality",
            suite.quality,
            title="Samples and reconstructions",
            reading="Distances and errors are the better the lower; PSNR, SSIM, precision and recall the higher.",
            figures=("samples", "truncated", "reconstructions", "mixing", "edits"),
            text=suite.explain_quality,
            words=suite.WORDS,
            label="",
        ),
        Measure(
            "frechet_distances",
            suite.frechet_distances,
            title="Frechet distances over many images",
            text=suite.explain_frechet_distances,
            words=suite.WORDS | style_frechet.WORDS,
            label="",
        ),
        Measure(
            "growth",
            suite.growth,
            title="Growth",
            reading="The Frechet distance of samples should fall from phase to phase.",
            figures=("growth",),
            text="Of the last checkpoint of each phase; pictures of smaller resolutions are enlarged to be compared "
            "with images at full size. Speeds are those since the last start, with validations and checkpoints.",
            words=suite.WORDS,
            label="phase",
        ),
        Measure(
            "path_lengths",
            suite.path_lengths,
            title="Perceptual path length",
            reading="The shorter a path, the more smoothly one image turns into another along it.",
            figures=("interpolations",),
            text=suite.explain_path_lengths,
            words=suite.WORDS,
            label="path",
        ),
        priors.measure_of(suite.title_of),
        Measure("stability", suite.stability, parts=lambda trained, signs: (), lines=lambda trained, signs: ()),
    ),
    figures=(suite.pictures, suite.learning_curves, suite.edits, priors.figures_of(suite.title_of)),
    problems=suite.problems,
    # They save memory and change no result, and a resolution may turn out to need them.
    may_change=("config.model.examples_at_once", "config.model.recomputed_from"),
    stages=True,
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
