r"""VAEs of several modalities side by side: how well does each do with a modality that most examples lack?

    python experiments/multimodal_family.py
    python experiments/multimodal_family.py --preset=faces --config.data.source=CelebAMask-HQ.zip --workdir=runs/family
    python experiments/multimodal_family.py --preset=digits --config.data.digits=MNIST --config.classifier.epochs=5 \
        --workdir=runs/digits
    python experiments/multimodal_family.py --config.models=mopoe,jmvae --config.hidden=0.0,0.9,0.99 --workdir=runs/two

Trains MVAE, MMVAE, MoPoE-VAE, MVTCAE, MMVAE+, JMVAE, CADA-VAE and Kim's model on images with attributes, under one
budget: the same latent size, networks, batch size, learning rate and number of steps. A share of the training examples
loses its attributes, another one in each row; held-out examples keep all. Then reads attributes from images, draws
images from attributes, tells fitting from unfitting pairs, and measures likelihoods, Frechet distances of images and
what a linear probe reads from codes. Of digits there are five views, of which each but the first is hidden of such a
share, and their coherence is measured. The same command resumes a run that was stopped.

Kim's model needs both modalities of every example: where attributes are hidden, it trains on the other examples alone,
which stand again and again, so that it has as many steps as the others. Its decoders and phases are its own. The last
row is a VAE of images alone, whose codes a flow learns to draw by attributes, as far as examples have them.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from mvae_jax import experiment
from mvae_jax.data import sources
from mvae_jax.data.formats import celebamask_hq, five_views, folder
from mvae_jax.data.rendered import faces
from mvae_jax.experiment import ClassifierConfig, Member, PriorConfig, sheets
from mvae_jax.experiment.suites import family_figures, family_rows, modalities, trials
from mvae_jax.experiment.suites import multimodal_family as suite
from mvae_jax.models import multimodal, multimodal_vaes
from mvae_jax.models.multimodal_vaes import Modality

OF_FACES = (modalities.KIM, modalities.UNIMODAL)  # need attributes


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all models share.

    Attributes:
        image_size: height and width of the images in pixels; of Kim's model 32, 64 or 128. Digits keep their size.
        latent_size: dimensions that all modalities share.
        private_size: dimensions that each kind of image has for itself besides, in MMVAE+ alone.
        widths: channels of the image encoders' convolutions, each of which halves the image; decoders have them in
            reverse.
        units: of the hidden layer of networks of what is no image, and of the layers that join all in JMVAE.
        scale: standard deviation of the Gaussian likelihood of pixel values in [0, 1]; Kim's model has none.
        pose_scale: standard deviation of the Gaussian likelihood of the pose, in units of 30 degrees.
        samples: K of MMVAE and MMVAE+.
        warmup_epochs: over which the weights of the divergences rise, of MVAE, MoPoE-VAE, MVTCAE, JMVAE and CADA-VAE.
        epochs: passes over the training examples; of Kim's model a third for each of its phases, the rest for the last.
        batch_size: examples per step.
        learning_rate: Adam's rate; of Kim's discriminator a tenth.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations.
    """

    image_size: int = 64
    latent_size: int = 64
    private_size: int = 32
    widths: tuple[int, ...] = (32, 64, 128, 256)
    units: int = 512
    scale: float = 0.2
    pose_scale: float = 0.1
    samples: int = 10
    warmup_epochs: int = 5
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 5e-4
    compute_dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Config(experiment.Config):
    """Everything that determines a run.

    Attributes:
        seed: of the draws of the evaluation.
        seeds: of initialisation, draws, order and choice of the examples that lose something; a model each.
        data: images with attributes, or views of digits.
        models: rows of the tables, all or some.
        hidden: shares of the training examples that lose their attributes, or of digits each view but the first, from 0
            to below 1; each is trained.
        pose: whether the pose of heads is a third modality, of all but Kim's model and the flow.
        model: what all models share.
        classifier: what reads drawn images, and in whose features they are compared.
        prior: the learned prior of "unimodal", by which that draws.
        evaluation: how the models are scored.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    data: sources.Config = faces.Config()
    models: tuple[str, ...] = tuple(family_rows.MODELS)
    hidden: tuple[float, ...] = (0.0, 0.5, 0.9)
    pose: bool = False
    model: Shared = Shared()
    classifier: ClassifierConfig = ClassifierConfig()
    prior: PriorConfig = PriorConfig()
    evaluation: modalities.Evaluation = modalities.Evaluation()

    def __post_init__(self) -> None:
        super().__post_init__()
        trials.check_seeds(self.seeds)
        trials.check_distinct(models=self.models, hidden=[f"{share:g}" for share in self.hidden])
        unknown = [name for name in self.models if name not in family_rows.MODELS]
        if unknown:
            raise ValueError(f"models has {unknown[0]!r}; choose from {', '.join(family_rows.MODELS)}.")
        if not all(0 <= share < 1 for share in self.hidden):
            raise ValueError(f"hidden are {self.hidden}; expected shares from 0 to below 1, such as 0.9.")
        if modalities.UNIMODAL in self.models and not self.prior.epochs:
            raise ValueError(
                f"prior.epochs is 0, and {modalities.UNIMODAL!r} draws by a learned prior; expected at least 1, or "
                "models without it."
            )


def modalities_of(shared: Shared, data: Any, private_size: int = 0) -> tuple[Modality, ...]:
    """The modalities of the data's arrays.

    Args:
        shared: settings of all models.
        data: the data.
        private_size: of each that is an image.
    """
    picture: dict[str, Any] = {"widths": shared.widths, "scale": shared.scale, "private_size": private_size}
    if not data.attributes:
        return tuple(Modality(name, data.train[name].shape[1:], **picture) for name in modalities.view_names(data))
    image = Modality("image", data.train["image"].shape[1:], **picture)
    others: dict[str, Any] = {"network": "dense", "widths": (shared.units,)}
    attributes = Modality("attributes", (len(data.attributes),), "bernoulli", labels=data.attributes, **others)
    pose = Modality("pose", (3,), scale=shared.pose_scale, **others)
    return (image, attributes, pose) if "pose" in data.train.arrays else (image, attributes)


def config_of(name: str, shared: Shared, data: Any) -> Any:
    """The config of one model."""
    if name == modalities.KIM:
        return kim(shared, data)
    kinds = {
        "mvae": multimodal_vaes.MVAEConfig,
        "mmvae": multimodal_vaes.MMVAEConfig,
        "mopoe": multimodal_vaes.MoPoEConfig,
        "mvtcae": multimodal_vaes.MVTCAEConfig,
        "mmvae_plus": multimodal_vaes.MMVAEPlusConfig,
        "jmvae": multimodal_vaes.JMVAEConfig,
        "cada_vae": multimodal_vaes.CADAVAEConfig,
        modalities.UNIMODAL: multimodal_vaes.CADAVAEConfig,
    }
    kind: Any = kinds[name]
    known = {field.name for field in dataclasses.fields(kind)}
    common = {key: value for key, value in dataclasses.asdict(shared).items() if key in known}
    common["modalities"] = modalities_of(shared, data, shared.private_size * (name == "mmvae_plus"))
    if name == "jmvae":
        common["joint_widths"] = (shared.units,) * 2
    if name == modalities.UNIMODAL:
        common |= {"beta": 1.0, "gamma": 0.0, "delta": 0.0}
    return kind(**common)


def kim(shared: Shared, data: Any) -> multimodal.Config:
    """Kim's model at these widths: the decoder's four stages have the widths in reverse, the widest one repeated."""
    default = multimodal.Config()
    third, widest = shared.epochs // 3, shared.widths[-1]
    reverse = shared.widths[::-1]
    return multimodal.Config(
        image_size=data.train["image"].shape[1],
        attributes=data.attributes,
        latent_size=shared.latent_size,
        encoder_widths=shared.widths,
        decoder_widths=((widest,) * max(0, 4 - len(reverse)) + reverse)[:4],
        decoder_hidden=shared.units,
        text_hidden=shared.units,
        discriminator_widths=shared.widths[:3],
        attention_heads=next(heads for heads in (8, 4, 2, 1) if widest % heads == 0),
        unimodal=dataclasses.replace(default.unimodal, epochs=third),
        alignment=dataclasses.replace(default.alignment, epochs=third),
        adversarial=dataclasses.replace(default.adversarial, epochs=shared.epochs - 2 * third),
        batch_size=shared.batch_size,
        learning_rate=shared.learning_rate,
        discriminator_learning_rate=shared.learning_rate / 10,
        compute_dtype=shared.compute_dtype,
    )


def members(config: Config, data: Any) -> dict[str, Member]:
    """A model per row, share and seed, by folder; of digits those alone that need no attributes."""
    names = [name for name in config.models if data.attributes or name not in OF_FACES]
    if not names:
        raise ValueError(
            f"models are {', '.join(config.models)}, and the data have no attributes, which they need; expected other "
            "models besides, or images with attributes."
        )
    hidden = ("attributes",) if data.attributes else modalities.view_names(data)[1:]
    found = {}
    for name in names:
        model = config_of(name, config.model, data)
        needs = ("image", "attributes") if name == modalities.KIM else ()
        for share in config.hidden:
            for seed in config.seeds:
                found[family_rows.folder(name, share, seed)] = Member(
                    *("cada_vae" if name == modalities.UNIMODAL else name, model, seed),
                    sheet=sheets.reconstructions_and_samples if name == modalities.UNIMODAL else family_figures.sheet,
                    hidden=dict.fromkeys(hidden, share),
                    needs=needs,
                )
    return found


def notes(config: Config) -> list[str]:
    """What is special of the models that need attributes."""
    if isinstance(config.data, five_views.Config):
        left_out = [family_rows.MODELS[name] for name in config.models if name in OF_FACES]
        return [f"Left out of the comparison of digits, which have no attributes: {name}." for name in left_out]
    return [suite.KIM_ALONE] if modalities.KIM in config.models and any(config.hidden) else []


def request(config: Config) -> sources.Request:
    """Images with attributes, which some of a user's images may lack, and the pose where it is asked for."""
    return sources.Request(config.model.image_size, pose=config.pose, missing_attributes=True)


# Widths and lengths for two CPU cores: with so few steps, weights of divergences have no time to rise for long.
_LAPTOP = Config(
    seeds=(0,),
    hidden=(0.0, 0.9),
    model=Shared(
        image_size=32,
        latent_size=32,
        private_size=16,
        widths=(16, 32, 64),
        units=128,
        samples=2,
        warmup_epochs=1,
        epochs=6,
        learning_rate=2e-3,
    ),
    evaluation=modalities.Evaluation(images=500, likelihood_images=200, likelihood_samples=20, probed=2000),
)

# Five views of each digit. A model that mixes its modalities' posteriors decodes every view from each: few samples.
# After 5 epochs of scikit-learn's 1,500 digits a classifier hardly reads them yet.
_DIGITS = Config(
    data=five_views.Config(),
    classifier=ClassifierConfig(epochs=100),
    models=tuple(name for name in family_rows.MODELS if name not in OF_FACES),
    model=Shared(widths=(32, 64, 128), samples=2, epochs=30, warmup_epochs=5),
)

EXPERIMENT = experiment.Experiment(
    name="multimodal_family",
    title="VAEs of several modalities",
    description=__doc__ or "",
    presets={"laptop": _LAPTOP, "faces": Config(), "digits": _DIGITS},
    data=(
        faces.Config(),
        celebamask_hq.Config(source="CelebAMask-HQ"),
        folder.Config(source="images"),
        five_views.Config(),
    ),
    model="mvae",
    members=members,
    request=request,
    check=suite.check,
    notes=notes,
    headline=suite.headline,
    title_of=family_rows.title_of,
    measures=suite.MEASURES,
    figures=(family_figures.figures,),
    problems=suite.problems,
    learns_prior=lambda folder: folder.startswith(f"{modalities.UNIMODAL}/"),
)

if __name__ == "__main__":
    experiment.run(EXPERIMENT, sys.argv)
