"""VAE/GAN and its family: errors measured by a discriminator instead of pixels, faces edited along attribute vectors.

    python experiments/celeba_vaegan.py
    python experiments/celeba_vaegan.py --config.models=gan,vae,vae_dis,vae_gan --workdir=runs/vaegan_family
    python experiments/celeba_vaegan.py --preset=paper --config.data.source=CelebA --workdir=runs/celeba_vaegan

Trains VAE/GAN, and the models that it is compared with where `models` names them, on the same images, rendered faces,
CelebA or your own, each in a folder of its own within the workdir. Then compares samples and reconstructions with
held-out images, in the features of a classifier of the training images' attributes, if they have any; looks for signs
of collapse; asks the classifier what attribute vectors do to reconstructions; and draws samples, reconstructions and
edits along attribute vectors. The same command resumes a run that was stopped.

On two CPU cores the first command takes 6 minutes, and ends at a squared error per value of about .028. In four epochs
of 6,000 faces of CelebA at these widths, the VAE has the smallest squared error (.017; VAE/GAN .043).

Reference:
    Larsen et al., 2016, Autoencoding beyond pixels using a learned similarity metric, arXiv:1512.09300.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.formats import celeba
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import ClassifierConfig, Measure, Member, PriorConfig
from mvae_jax.experiment.suites import adversarial as suite
from mvae_jax.experiment.suites import collapse, priors
from mvae_jax.models import autoencoders, vae_gan


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        data: the images.
        models: those to train: "vae_gan", "gan", "vae" and "vae_dis".
        model: VAE/GAN. The others have its networks, training and number of epochs, of which the VAE with the learned
            distance spends half on its GAN; but the VAE, whose error is that of pixels, has Adam, and no augmentation.
        gan_margin: margin of the gates of the GAN, also where it is a phase.
        vae_learning_rate: Adam's rate.
        classifier: in whose features images are compared, and which reads attributes from edited ones.
        prior: over the codes of images, learned once the models are trained; its samples are compared with those of the
            model's own prior and of a mixture of Gaussians. 0 epochs, the default here, learn none.
        evaluation: how the models are measured and drawn.
    """

    data: sources.Config = faces.Config()
    models: tuple[str, ...] = ("vae_gan",)
    model: vae_gan.VAEGANConfig = vae_gan.VAEGANConfig()
    gan_margin: float = 0.4
    vae_learning_rate: float = 3e-4
    classifier: ClassifierConfig = ClassifierConfig()
    prior: PriorConfig = PriorConfig(epochs=0)
    evaluation: suite.Evaluation = suite.Evaluation()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models or len(set(self.models)) != len(self.models) or set(self.models) - set(suite.TITLES):
            raise ValueError(f"models are {self.models}; expected some of {', '.join(suite.TITLES)}, and none twice.")
        if "vae_dis" in self.models and self.model.epochs < 2:
            raise ValueError(f"model.epochs is {self.model.epochs}; expected at least 2, for vae_dis has two phases.")
        models_of(self)


def models_of(config: Config) -> dict[str, Any]:
    """The models: name in the zoo, which is that of the folder, -> config."""
    model, first = config.model, config.model.epochs // 2
    lengths = {"epochs": model.epochs - first, "adversarial_epochs": first}
    common = {field.name: getattr(model, field.name) for field in dataclasses.fields(vae_gan.VAEDisConfig)[:-1]}
    common["margin"] = config.gan_margin
    of_gan = {field.name for field in dataclasses.fields(vae_gan.GANConfig)}
    models = {
        "gan": lambda: vae_gan.GANConfig(**{name: value for name, value in common.items() if name in of_gan}),
        "vae": lambda: _vae(config),
        "vae_dis": lambda: vae_gan.VAEDisConfig(**common | lengths),
        "vae_gan": lambda: model,
    }
    return {name: models[name]() for name in config.models}


def _vae(config: Config) -> autoencoders.VAEConfig:
    """The VAE with the networks of VAE/GAN; refuses those that it cannot have."""
    model = config.model
    plain = autoencoders.VAEConfig(
        image_size=model.image_size,
        channels=model.channels,
        network="larsen",
        widths=model.encoder_widths,
        latent_size=model.latent_size,
        observation_scale=0.5,  # half the squared error of values in [-1, 1]
        epochs=model.epochs,
        batch_size=model.batch_size,
        learning_rate=config.vae_learning_rate,
        compute_dtype=model.compute_dtype,
    )
    encoder, decoder = plain.encoder(2), plain.decoder()
    if decoder != model.decoder() or encoder != model.encoder():
        raise ValueError(
            f"model.decoder_widths are {model.decoder_widths}, grid_width {model.grid_width} and encoder_hidden "
            f"{model.encoder_hidden}; expected {decoder.widths}, {decoder.grid_width} and {encoder.hidden}, to which "
            "the VAE is bound by encoder_widths: change them, or leave the VAE out of models."
        )
    return plain


def members(config: Config, data: Any) -> dict[str, Member]:
    """The models by folder."""
    return {name: Member(name, model, config.seed) for name, model in models_of(config).items()}


def _laptop() -> Config:
    """VAE/GAN at a quarter of the widths, for two CPU cores.

    In so few steps the published gamma would leave reconstructions to the encoder alone.
    """
    model = vae_gan.VAEGANConfig(
        latent_size=64,
        encoder_widths=(16, 32, 64),
        encoder_hidden=256,
        decoder_widths=(64, 32, 8),
        grid_width=64,
        discriminator_widths=(8, 32, 64, 64),
        discriminator_hidden=128,
        gamma=1e-3,
        epochs=4,
        batch_size=16,
        learning_rate=7e-4,
    )
    return Config(model=model, evaluation=suite.Evaluation(edited_images=125))


_ALL = celeba.Config(source="CelebA", crop="larsen", subset_size=0, partitions="train+validation/test")
_REFERENCE = Config(
    data=_ALL,
    model=vae_gan.VAEGANConfig.reference(),
    evaluation=suite.Evaluation(vector_images=10_000, sampled_vectors=True),
)


def _title_of(folder: str) -> str:
    return suite.TITLES.get(folder, folder)


EXPERIMENT = experiment.Experiment(
    name="celeba_vaegan",
    title="VAE/GAN",
    description=__doc__ or "",
    presets={"laptop": _laptop(), "paper": Config(data=_ALL, models=tuple(suite.TITLES)), "reference": _REFERENCE},
    data=(*sources.with_attributes("larsen"), *sources.without_attributes()),
    model="vae_gan",
    members=members,
    title_of=_title_of,
    check=lambda config, data: suite.check(data, config.classifier),
    headline=suite.headline,
    curves=("squared_error", "players_*"),
    measures=(
        Measure(
            "models",
            suite.measure,
            title="Samples and reconstructions",
            reading="Distances and errors are the better the lower, PSNR the higher; sharpness is right at 1.",
            text=suite.explain,
            figures=("reconstructions", "samples_*"),
            words=suite.WORDS,
        ),
        Measure(
            "stability",
            suite.stability,
            title="Signs of collapse",
            reading="A spread of 1 is the variety of real images, 0 one image over and over.",
            text=collapse.TEXT,
            parts=suite.stability_parts,
            lines=lambda trained, signs: (),
        ),
        Measure(
            "attribute_vectors",
            suite.attribute_vectors,
            title="Attribute vectors",
            text=suite.explain_edits,
            figures=("sliders", "edits"),
            parts=suite.attribute_vector_parts,
            lines=suite.attribute_vector_lines,
        ),
        priors.measure_of(_title_of),
    ),
    figures=(suite.samples, suite.reconstructions, suite.edits, suite.learning_curves, priors.figures_of(_title_of)),
    problems=suite.problems,
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
