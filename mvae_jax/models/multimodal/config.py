"""Config of the multimodal VAE: networks, phases, weights."""

from __future__ import annotations

import dataclasses

from mvae_jax import attributes as face_attributes
from mvae_jax.augmentation import Perturbation
from mvae_jax.models.checks import (
    check_at_least,
    check_attributes,
    check_choice,
    check_compute_dtype,
    check_positive,
    check_widths,
)


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """Length of a phase and the weights of its loss terms (paper, section 5.4).

    Attributes:
        epochs: passes over the training images.
        reconstruction: weight of squared error, perceptual and identity term of the reconstructed image.
        text: weight of the reconstructed attributes.
        consistency: weight of the agreement of the attributes read from both latents (MM-12), of the matching of the
            two posteriors, and of the consistency score.
        kl: weight of each modality's KL to the standard normal.
        cross: weight of image from text and text from image.
        adversarial: weight of the loss against the patch discriminator, and of the discriminator's loss.
    """

    epochs: int
    reconstruction: float
    text: float
    consistency: float = 0.0
    kl: float = 0.0
    cross: float = 0.0
    adversarial: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 0:
                raise ValueError(f"a phase's {name} is {value}; expected at least 0.")

    def weights(self) -> dict[str, float]:
        """The weights alone, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "epochs"}


@dataclasses.dataclass(frozen=True)
class Config:
    """The multimodal VAE; defaults are the paper's, repaired where paper and released code disagree.

    Attributes:
        image_size: height and width of the images in pixels: 32, 64 or 128.
        attributes: names of the attribute bits, in order.
        latent_size: dimensions of the shared latent space; the paper has 128, 256 and 512.
        private_size: how many of them, the last ones, hold what captions do not say, such as light, pose and identity;
            0 is the paper. Matching moves the text's posterior alone there, which learns how the codes of a caption's
            images lie, while an image keeps its own; the text decoder and the consistency score do not see them, and
            an image that is decoded from its text has them from the image.
        encoder_widths: channels of the image encoder's convolutions.
        decoder_widths: channels of the image decoder's four stages.
        decoder_hidden: units of the image decoder's dense layers.
        text_hidden: units of the text encoder's and decoder's hidden layer.
        discriminator_widths: channels of the patch discriminator's convolutions.
        attention: self-attention over the coarsest feature map of the image decoder (MM-09).
        attention_heads: heads of that attention.
        coarse_size: height and width of a coarse image that the image encoder's heads see too, and that the decoder
            adds to its output by one linear map of the latent; 0 is the paper, which has none.
        icnr: transposed convolutions of the image decoder start as nearest upsampling and a convolution (Aitken et al.,
            2017), which draws no checkerboard; the paper's start from independent weights.
        initial_logvar: log variance that both posteriors start around. The paper's 0 hides the codes, which are small
            at first, behind noise of deviation 1.
        unimodal: first phase, each modality for itself.
        alignment: second phase, the two latent spaces are aligned.
        adversarial: third phase, with the patch discriminator.
        batch_size: examples per step.
        learning_rate: AdamW's rate for encoders and decoders.
        discriminator_learning_rate: AdamW's rate for the discriminator.
        cosine_decay: both rates rise in the first twentieth of the run and then fall to zero along half a cosine;
            otherwise they are constant, as in the paper.
        weight_decay: AdamW's decay for encoders and decoders (MM-11).
        discriminator_weight_decay: AdamW's decay for the discriminator (MM-11).
        gradient_clip: largest global gradient norm of each group.
        perceptual_weight: weight of the VGG term within the reconstruction (MM-13).
        identity_weight: weight of the identity term within the reconstruction (MM-13). The decoder is taught by it what
            the image encoder answers to, which may be a pattern of dots.
        cross_perceptual_weight: weight of the VGG term of the image from text (MM-13).
        cross_identity_weight: weight of the identity term of the image from text (MM-13).
        normalise_vgg_input: give VGG the ImageNet-normalised images it was trained on; the released code does not.
        penalise_text_errors: let large errors of attributes count more (MM-03).
        text_error_factor: how often such an error counts, at least 1.
        text_error_limit: cross-entropy of an attribute, in nats, above which it does.
        score_direction: KL of the training score, "img||txt" or "txt||img" (MM-02).
        score_reduction: "example" takes the mean of the scores, "batch" the score of the mean KL (MM-14); evaluation,
            which gives one number per example, always does the former.
        discriminator_penalty: "r1" on real images, of the mean logit over patches, as the discriminator's error is a
            mean over patches; or "interpolation", the released code's gradient penalty on its probabilities (MM-08).
        discriminator_penalty_weight: weight of that penalty; R1 carries a further factor of one half.
        joint_decoding: decode the latents of both modalities as one batch, so that the decoder's batch norm trains on
            the mixture whose statistics it has in evaluation; the released code decodes them one after the other,
            and its running statistics then fit neither.
        released_averages: keep the running statistics of image encoder and decoder as the released code does (MM-15):
            those of the encoder also count generated images, and in every phase the decoder decodes the texts too.
        unknown_attributes: probability that an attribute of a training caption is hidden, in [0, 1). The paper's
            captions say all attributes, yes or no, which is 0. Above 0 the text encoder sees which attributes are
            said, and a caption may leave any of them open; see `networks.draw_said` and the module `objective`.
        augment: change images at random in training, so that faces may lie otherwise than in the training images.
        augmentation: how.
        instance_noise: standard deviation of the noise on the discriminator's inputs in the phase's first epoch.
        instance_noise_decay: factor of that deviation per epoch.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; parameters, statistics,
            posteriors and losses are float32 with either, so that a run can be loaded with the other.
    """

    image_size: int = 64
    attributes: tuple[str, ...] = face_attributes.FACE
    latent_size: int = 256
    private_size: int = 0
    encoder_widths: tuple[int, ...] = (64, 128, 256)
    decoder_widths: tuple[int, ...] = (512, 256, 128, 64)
    decoder_hidden: int = 2048
    text_hidden: int = 512
    discriminator_widths: tuple[int, ...] = (64, 128, 256)
    attention: bool = True
    attention_heads: int = 8
    coarse_size: int = 0
    icnr: bool = False
    initial_logvar: float = 0.0
    unimodal: PhaseConfig = PhaseConfig(epochs=40, reconstruction=2.0, text=1.0)
    alignment: PhaseConfig = PhaseConfig(epochs=30, reconstruction=1.0, text=1.0, consistency=0.05, kl=0.005, cross=0.1)
    adversarial: PhaseConfig = PhaseConfig(
        epochs=70, reconstruction=1.0, text=1.0, consistency=0.2, kl=0.01, cross=0.3, adversarial=0.001
    )
    batch_size: int = 16
    learning_rate: float = 1e-4
    discriminator_learning_rate: float = 1e-5
    cosine_decay: bool = False
    weight_decay: float = 0.01
    discriminator_weight_decay: float = 0.02
    gradient_clip: float = 1.0
    perceptual_weight: float = 0.05
    identity_weight: float = 0.1
    cross_perceptual_weight: float = 0.1
    cross_identity_weight: float = 0.1
    normalise_vgg_input: bool = True
    penalise_text_errors: bool = False
    text_error_factor: float = 8.0
    text_error_limit: float = 0.15
    score_direction: str = "img||txt"
    score_reduction: str = "example"
    discriminator_penalty: str = "r1"
    discriminator_penalty_weight: float = 10.0
    joint_decoding: bool = True
    released_averages: bool = False
    unknown_attributes: float = 0.0
    augment: bool = False
    augmentation: Perturbation = Perturbation(
        translation=0.06, scale=0.12, rotation=0.05, gamma=0.3, contrast=0.2, hue=0.0
    )
    instance_noise: float = 0.01
    instance_noise_decay: float = 0.9
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        choices = {
            "image_size": (32, 64, 128),
            "score_direction": ("img||txt", "txt||img"),
            "score_reduction": ("example", "batch"),
            "discriminator_penalty": ("r1", "interpolation"),
        }
        for name, allowed in choices.items():
            check_choice(self, name, allowed)
        check_at_least(self, 1, "latent_size", "batch_size", "decoder_hidden", "text_hidden", "attention_heads")
        check_at_least(self, 0, "coarse_size")
        check_at_least(self, 1, "text_error_factor")
        check_at_least(self, 0, "text_error_limit")
        check_widths(self, "encoder_widths", "decoder_widths", "discriminator_widths")
        check_positive(self, "learning_rate", "discriminator_learning_rate", "gradient_clip")
        check_attributes(self)
        if self.coarse_size and self.image_size % self.coarse_size:
            raise ValueError(
                f"coarse_size is {self.coarse_size}; expected 0 or a divisor of image_size, {self.image_size}, such as "
                f"{self.image_size // 4}."
            )
        if not 0 <= self.unknown_attributes < 1:
            raise ValueError(
                f"unknown_attributes is {self.unknown_attributes}; expected a probability of at least 0, for captions "
                "that say every attribute, and less than 1."
            )
        check_compute_dtype(self)
        for name in ("text_error_factor", "text_error_limit"):
            if not self.penalise_text_errors and getattr(self, name) != getattr(Config, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but no error of the texts is penalised; expected "
                    f"{getattr(Config, name)}, which is not used then: set penalise_text_errors=true, or leave it out."
                )
        if not 0 <= self.private_size < self.latent_size:
            raise ValueError(
                f"private_size is {self.private_size}; expected 0 to {self.latent_size - 1}, below latent_size: some "
                "of the latent space has to be shared."
            )
        if self.attention and self.decoder_widths[0] % self.attention_heads:
            raise ValueError(
                f"decoder_widths[0] is {self.decoder_widths[0]}; expected a multiple of attention_heads, "
                f"{self.attention_heads}."
            )

    @property
    def shared_size(self) -> int:
        """Dimensions of the latent space that images and texts share."""
        return self.latent_size - self.private_size

    @classmethod
    def reference(cls) -> Config:
        """The released code's behaviour."""
        return cls(
            normalise_vgg_input=False,
            score_direction="txt||img",
            score_reduction="batch",
            discriminator_penalty="interpolation",
            joint_decoding=False,
            released_averages=True,
        )
