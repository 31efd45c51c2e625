"""Multimodal VAE of faces and attribute captions (Kim, 2024): two VAEs that share one latent space.

An image VAE and a text VAE (the text is a vector of attribute bits) are trained in three phases: each for itself,
then aligned (cross-modal reconstruction, matching of the two posteriors), then with a patch discriminator on the
reconstructions. Every term of the published loss is a mean over pixels, bits or latent dimensions, so the
[B] sums of `mvae_jax.losses` are divided here and the published weights hold.

Groups: "vae" (both encoders, both decoders: one optimiser, one gradient clip), "discriminator", and "vgg", which is
there only if weights are given and is never trained.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mvae_jax import attributes as face_attributes
from mvae_jax import gaussian, images, losses, nets
from mvae_jax.models._checks import check_at_least, check_attributes, check_choice, check_positive, check_widths
from mvae_jax.nets import conv, mlp, patch_discriminator, vgg
from mvae_jax.objective import Batch, Losses, Model, ModelState, Params, Phase, Round
from mvae_jax.optimizers import clip_by_global_norm


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
        adversarial: weight of the patch discriminator's verdict, and of its own loss.
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
        encoder_widths: channels of the image encoder's convolutions.
        decoder_widths: channels of the image decoder's four stages.
        decoder_hidden: units of the image decoder's dense layers.
        text_hidden: units of the text encoder's and decoder's hidden layer.
        discriminator_widths: channels of the patch discriminator's convolutions.
        attention: self-attention over the coarsest feature map of the image decoder (MM-09).
        attention_heads: heads of that attention.
        unimodal: first phase, each modality for itself.
        alignment: second phase, the two latent spaces are aligned.
        adversarial: third phase, with the patch discriminator.
        batch_size: examples per step.
        learning_rate: AdamW's rate for encoders and decoders.
        discriminator_learning_rate: AdamW's rate for the discriminator.
        weight_decay: AdamW's decay for encoders and decoders (MM-11).
        discriminator_weight_decay: AdamW's decay for the discriminator (MM-11).
        gradient_clip: largest global gradient norm of each group.
        perceptual_weight: weight of the VGG term within the reconstruction (MM-13).
        identity_weight: weight of the identity term within the reconstruction (MM-13).
        cross_perceptual_weight: weight of the VGG term of the image from text (MM-13).
        cross_identity_weight: weight of the identity term of the image from text (MM-13).
        normalise_vgg_input: give VGG the ImageNet-normalised images it was trained on; the released code does not.
        penalise_text_errors: multiply an attribute's error by 8 where it is above 0.15 (MM-03).
        score_direction: KL of the training score, "img||txt" or "txt||img" (MM-02).
        score_reduction: "example" takes the mean of the scores, "batch" the score of the mean KL (MM-14); evaluation,
            which gives one number per example, always does the former.
        discriminator_penalty: "r1" on real images, of the mean logit over patches, as the discriminator's error is a
            mean over patches; or "interpolation", the released code's gradient penalty on its probabilities (MM-08).
        discriminator_penalty_weight: weight of that penalty; R1 carries a further factor of one half.
        joint_decoding: decode the latents of both modalities as one batch, so that the decoder's batch norm trains on
            the mixture whose statistics it has in evaluation; the released code decodes them one after the other,
            and its running statistics then fit neither.
        instance_noise: standard deviation of the noise on the discriminator's inputs in the phase's first epoch.
        instance_noise_decay: factor of that deviation per epoch.
        compute_dtype: "float32", or "bfloat16" for the networks' products and activations; parameters, statistics,
            posteriors and losses are float32 with either, so that a run can be loaded with the other.
    """

    image_size: int = 64
    attributes: tuple[str, ...] = face_attributes.FACE
    latent_size: int = 256
    encoder_widths: tuple[int, ...] = (64, 128, 256)
    decoder_widths: tuple[int, ...] = (512, 256, 128, 64)
    decoder_hidden: int = 2048
    text_hidden: int = 512
    discriminator_widths: tuple[int, ...] = (64, 128, 256)
    attention: bool = True
    attention_heads: int = 8
    unimodal: PhaseConfig = PhaseConfig(epochs=40, reconstruction=2.0, text=1.0)
    alignment: PhaseConfig = PhaseConfig(epochs=30, reconstruction=1.0, text=1.0, consistency=0.05, kl=0.005, cross=0.1)
    adversarial: PhaseConfig = PhaseConfig(
        epochs=70, reconstruction=1.0, text=1.0, consistency=0.2, kl=0.01, cross=0.3, adversarial=0.001
    )
    batch_size: int = 16
    learning_rate: float = 1e-4
    discriminator_learning_rate: float = 1e-5
    weight_decay: float = 0.01
    discriminator_weight_decay: float = 0.02
    gradient_clip: float = 1.0
    perceptual_weight: float = 0.05
    identity_weight: float = 0.1
    cross_perceptual_weight: float = 0.1
    cross_identity_weight: float = 0.1
    normalise_vgg_input: bool = True
    penalise_text_errors: bool = False
    score_direction: str = "img||txt"
    score_reduction: str = "example"
    discriminator_penalty: str = "r1"
    discriminator_penalty_weight: float = 10.0
    joint_decoding: bool = True
    instance_noise: float = 0.01
    instance_noise_decay: float = 0.9
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        choices = {
            "image_size": (32, 64, 128),
            "score_direction": ("img||txt", "txt||img"),
            "score_reduction": ("example", "batch"),
            "discriminator_penalty": ("r1", "interpolation"),
            "compute_dtype": ("float32", "bfloat16"),
        }
        for name, allowed in choices.items():
            check_choice(self, name, allowed)
        check_at_least(self, 1, "latent_size", "batch_size", "decoder_hidden", "text_hidden", "attention_heads")
        check_widths(self, "encoder_widths", "decoder_widths", "discriminator_widths")
        check_positive(self, "learning_rate", "discriminator_learning_rate", "gradient_clip")
        check_attributes(self)
        if self.attention and self.decoder_widths[0] % self.attention_heads:
            raise ValueError(
                f"decoder_widths[0] is {self.decoder_widths[0]}; expected a multiple of attention_heads, "
                f"{self.attention_heads}."
            )

    @classmethod
    def reference(cls) -> Config:
        """The released code's behaviour."""
        return cls(
            normalise_vgg_input=False,
            score_direction="txt||img",
            score_reduction="batch",
            discriminator_penalty="interpolation",
            joint_decoding=False,
        )


def phases(config: Config, steps_per_epoch: int) -> tuple[Phase, ...]:
    """The three phases one after another; a phase of no epochs is left out."""
    result: list[Phase] = []
    for name in ("unimodal", "alignment", "adversarial"):
        phase: PhaseConfig = getattr(config, name)
        if phase.epochs:
            result.append(
                Phase(
                    name=name,
                    steps=phase.epochs * steps_per_epoch,
                    start=result[-1].end if result else 0,
                    batch_size=config.batch_size,
                    image_size=config.image_size,
                    learning_rates={
                        "vae": config.learning_rate,
                        "discriminator": config.discriminator_learning_rate,
                    },
                    weights=phase.weights(),
                    options={"steps_per_epoch": steps_per_epoch},
                )
            )
    return tuple(result)


def build(config: Config, vgg_weights: tuple[Params, vgg.VGGDescription] | None = None) -> Model:
    """Builds the model's pure functions.

    Args:
        config: the model.
        vgg_weights: what `nets.vgg.load_vgg` returned; without it the perceptual terms are off.

    Returns:
        A `Model` that trains on batches {"image": uint8 [B, H, W, 3], "attributes": float32 [B, A]}. Its
        `functions` take (params, model_state, ...) and work in evaluation mode:
        encode_image(images in [-1, 1]) -> (mean, logvar); encode_attributes(attributes) -> (mean, logvar);
        decode_image(z) -> images in [-1, 1]; decode_attributes(z) -> logits [B, A];
        fuse(images, attributes) -> (mean, logvar) of the product of both posteriors and the prior.
    """
    vgg_params, vgg_net = None, None
    if vgg_weights is not None:
        vgg_params, description = vgg_weights
        vgg_net = vgg.VGGFeatures(description.widths, config.normalise_vgg_input, config.compute_dtype)
    networks = _Networks.of(config, vgg_net)

    def init(key: jax.Array, batch: Batch) -> tuple[Params, ModelState]:
        size = config.image_size
        images.check_batch(batch, image=(size, size, 3), attributes=(len(config.attributes),))
        x, a = images.to_float(batch["image"]), batch["attributes"]
        z = jnp.zeros((len(x), config.latent_size))
        inputs = {"image_encoder": x, "text_encoder": a, "image_decoder": z, "text_decoder": z, "discriminator": x}
        params, stats = {}, {}
        for draw, (name, value) in enumerate(inputs.items()):
            params[name], stats[name] = nets.init(getattr(networks, name), jax.random.fold_in(key, draw), value)
        groups = {"discriminator": params.pop("discriminator"), "vae": params}
        if vgg_params is not None:
            groups["vgg"] = jax.tree.map(jnp.asarray, vgg_params)
        return groups, {"discriminator": stats.pop("discriminator"), "vae": stats}

    def optimizers(phase: Phase) -> dict[str, optax.GradientTransformation]:
        del phase  # the same in all three, whose memory is carried over
        decays = {"vae": config.weight_decay, "discriminator": config.discriminator_weight_decay}
        return {
            group: optax.chain(
                clip_by_global_norm(config.gradient_clip),
                optax.adamw(1.0, b1=0.5, b2=0.999, weight_decay=decay),
            )
            for group, decay in decays.items()
        }

    def rounds(phase: Phase, axis_name: str | None = None) -> tuple[Round, ...]:
        mapped = _Networks.of(config, vgg_net, axis_name)
        weights = term_weights(config, phase.weights, perceptual=vgg_net is not None)

        def vae_losses(params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array) -> Losses:
            terms, stats = mapped.terms(weights, params, state, batch, key, train=True)
            means = {name: term.mean() for name, term in terms.items()}
            weighted = {name: weights[name] * mean for name, mean in means.items()}
            # The discriminator's verdict is no measure of a model: "loss" is what validation reports as well.
            verdict = weighted.pop("adversarial", 0.0)
            loss = sum(weighted.values(), start=jnp.zeros(()))
            return Losses({"vae": loss + verdict}, {"loss": loss, **means}, {"vae": stats})

        def discriminator_losses(
            params: Params, state: ModelState, batch: Batch, key: jax.Array, step: jax.Array
        ) -> Losses:
            return mapped.discriminator_losses(phase, weights, params, state, batch, key, step)

        vae = Round({"vae": ("vae",)}, vae_losses)
        if "adversarial" not in weights:
            return (vae,)
        return (Round({"discriminator": ("discriminator",)}, discriminator_losses), vae)

    def evaluate(phase: Phase) -> Any:
        weights = term_weights(config, phase.weights, perceptual=vgg_net is not None)
        weights.pop("adversarial", None)
        per_example = _Networks.of(dataclasses.replace(config, score_reduction="example"), vgg_net)

        def terms(params: Params, state: ModelState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            terms, _ = per_example.terms(weights, params, state, batch, key, train=False)
            weighted = (weights[name] * term for name, term in terms.items())
            return {"loss": sum(weighted, start=jnp.zeros(len(batch["image"]))), **terms}

        return terms

    def run(name: str, params: Params, state: ModelState, value: jax.Array) -> Any:
        return networks.run(name, params["vae"], state["vae"], value, train=False)[0]

    encode_image = functools.partial(run, "image_encoder")
    encode_attributes = functools.partial(run, "text_encoder")
    decode_image = functools.partial(run, "image_decoder")
    decode_attributes = functools.partial(run, "text_decoder")

    def fuse(params: Params, state: ModelState, x: jax.Array, attributes: jax.Array) -> tuple[jax.Array, jax.Array]:
        image_mean, image_logvar = encode_image(params, state, x)
        text_mean, text_logvar = encode_attributes(params, state, attributes)
        return gaussian.product_of_experts([image_mean, text_mean], [image_logvar, text_logvar])

    def sample(params: Params, state: ModelState, key: jax.Array, count: int) -> jax.Array:
        return decode_image(params, state, gaussian.standard_normal(key, (count, config.latent_size)))

    return Model(
        init=init,
        rounds=rounds,
        optimizers=optimizers,
        evaluate=evaluate,
        encode=encode_image,
        decode=decode_image,
        sample=sample,
        functions={
            "encode_image": encode_image,
            "encode_attributes": encode_attributes,
            "decode_image": decode_image,
            "decode_attributes": decode_attributes,
            "fuse": fuse,
        },
    )


def term_weights(config: Config, weights: Mapping[str, float], perceptual: bool) -> dict[str, float]:
    """Weight of each loss term in a phase; terms of weight zero are absent, and are not computed.

    Args:
        config: the model.
        weights: the phase's weights, as `PhaseConfig.weights` names them.
        perceptual: whether VGG weights are there.
    """
    reconstruction, cross, consistency = weights["reconstruction"], weights["cross"], weights["consistency"]
    table = {
        "image_from_image": reconstruction,
        "image_from_image_perceptual": reconstruction * config.perceptual_weight * perceptual,
        "image_from_image_identity": reconstruction * config.identity_weight,
        "text_from_text": weights["text"],
        "text_from_image": cross,
        "image_from_text": cross,
        "image_from_text_perceptual": cross * config.cross_perceptual_weight * perceptual,
        "image_from_text_identity": cross * config.cross_identity_weight,
        "attribute_agreement": consistency,
        "posterior_matching": consistency,
        "inconsistency": consistency,
        "image_kl": weights["kl"],
        "text_kl": weights["kl"],
        "adversarial": weights["adversarial"],
    }
    return {name: weight for name, weight in table.items() if weight}


class _Generated(NamedTuple):
    image: tuple[jax.Array, jax.Array]  # posteriors: mean, logvar
    text: tuple[jax.Array, jax.Array]
    z_image: jax.Array
    z_text: jax.Array
    from_image: jax.Array
    from_text: jax.Array | None
    stats: ModelState


@dataclasses.dataclass(frozen=True)
class _Networks:
    config: Config
    axis_name: str | None
    features: vgg.VGGFeatures | None
    image_encoder: conv.GaussianImageEncoder
    text_encoder: mlp.GaussianAttributeEncoder
    image_decoder: conv.AttentionImageDecoder
    text_decoder: mlp.AttributeDecoder
    discriminator: patch_discriminator.PatchDiscriminator

    @classmethod
    def of(cls, config: Config, vgg_net: vgg.VGGFeatures | None, axis_name: str | None = None) -> _Networks:
        dtype = config.compute_dtype
        return cls(
            config,
            axis_name,
            vgg_net,
            conv.GaussianImageEncoder(config.latent_size, config.encoder_widths, axis_name, dtype),
            mlp.GaussianAttributeEncoder(config.latent_size, config.text_hidden, dtype),
            conv.AttentionImageDecoder(
                config.image_size,
                config.decoder_widths,
                config.decoder_hidden,
                config.attention,
                config.attention_heads,
                axis_name,
                dtype,
            ),
            mlp.AttributeDecoder(len(config.attributes), config.text_hidden, dtype),
            patch_discriminator.PatchDiscriminator(config.discriminator_widths, axis_name, dtype),
        )

    def run(self, name: str, params: Params, stats: ModelState, value: jax.Array, *, train: bool) -> tuple[Any, Any]:
        """Runs one network; returns its output and its new batch statistics."""
        return nets.apply(getattr(self, name), params[name], stats[name], value, train=train)

    def generate(
        self,
        weights: Mapping[str, float],
        params: Params,
        stats: ModelState,
        x: jax.Array,
        attributes: jax.Array,
        key: jax.Array,
        *,
        train: bool,
    ) -> _Generated:
        """Encodes both modalities and decodes images; z is sampled in training, and the mean in evaluation."""
        stats = dict(stats)

        def run(name: str, value: jax.Array) -> Any:
            out, stats[name] = self.run(name, params, stats, value, train=train)
            return out

        def draw(number: int, mean: jax.Array, logvar: jax.Array) -> jax.Array:
            if not train:
                return mean
            return gaussian.sample(jax.random.fold_in(key, number), mean, logvar, self.axis_name)

        image, text = run("image_encoder", x), run("text_encoder", attributes)
        z_image, z_text = draw(1, *image), draw(2, *text)
        from_text = None
        if "image_from_text" not in weights:
            from_image = run("image_decoder", z_image)
        elif self.config.joint_decoding:
            from_image, from_text = jnp.split(run("image_decoder", jnp.concatenate([z_image, z_text])), 2)
        else:
            from_image, from_text = run("image_decoder", z_image), run("image_decoder", z_text)
        return _Generated(image, text, z_image, z_text, from_image, from_text, stats)

    def terms(
        self,
        weights: Mapping[str, float],
        params: Params,
        state: ModelState,
        batch: Batch,
        key: jax.Array,
        *,
        train: bool,
    ) -> tuple[dict[str, jax.Array], ModelState]:
        """Computes the terms that `weights` names, each [B] and a mean over event axes, and new batch statistics."""
        config, vae = self.config, params["vae"]
        x, a = images.to_float(batch["image"]), batch["attributes"]
        generated = self.generate(weights, vae, state["vae"], x, a, key, train=train)
        image, text, stats = generated.image, generated.text, generated.stats

        def decode_attributes(z: jax.Array) -> jax.Array:
            return self.run("text_decoder", vae, stats, z, train=train)[0]

        text_logits = decode_attributes(generated.z_text)
        terms: dict[str, jax.Array] = {}

        def compare_images(name: str, pixels: jax.Array) -> None:
            terms[name] = losses.squared_error(pixels, x) / x[0].size
            if self.features is not None and f"{name}_perceptual" in weights:
                theirs, ours = (self.features.apply({"params": params["vgg"]}, y) for y in (x, pixels))
                terms[f"{name}_perceptual"] = losses.feature_distance(ours, theirs) / ours[0].size
            if f"{name}_identity" in weights:
                # Statistics of generated images must not reach the encoder's running averages.
                (mean, _), _ = self.run("image_encoder", vae, stats, pixels, train=train)
                terms[f"{name}_identity"] = losses.cosine_distance(image[0], mean)

        def compare_attributes(name: str, logits: jax.Array) -> None:
            error = losses.penalised_bernoulli_nll if config.penalise_text_errors else losses.bernoulli_nll
            terms[name] = error(logits, a) / a.shape[1]

        compare_images("image_from_image", generated.from_image)
        compare_attributes("text_from_text", text_logits)
        if generated.from_text is not None:
            compare_images("image_from_text", generated.from_text)
        if "text_from_image" in weights or "attribute_agreement" in weights:
            crossed_logits = decode_attributes(generated.z_image)
        if "text_from_image" in weights:
            compare_attributes("text_from_image", crossed_logits)
        if "attribute_agreement" in weights:
            agreement = losses.squared_error(jax.nn.sigmoid(text_logits), jax.nn.sigmoid(crossed_logits))
            terms["attribute_agreement"] = agreement / a.shape[1]
        if "posterior_matching" in weights:
            terms["posterior_matching"] = losses.kl_diag_gaussians(*image, *text) / config.latent_size
        if "inconsistency" in weights:
            first, second = (image, text) if config.score_direction == "img||txt" else (text, image)
            divergence = losses.kl_diag_gaussians(*first, *second) / config.latent_size
            if config.score_reduction == "batch":
                mean = divergence.mean()
                divergence = jnp.full_like(
                    divergence, mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)
                )
            terms["inconsistency"] = 1.0 - 1.0 / (1.0 + divergence)
        if "image_kl" in weights:
            terms["image_kl"] = losses.kl_standard_normal(*image) / config.latent_size
            terms["text_kl"] = losses.kl_standard_normal(*text) / config.latent_size
        if "adversarial" in weights:
            # The discriminator's statistics are its own round's business: those of this pass are dropped.
            logits, _ = self.run("discriminator", params, state, generated.from_image, train=True)
            terms["adversarial"] = losses.non_saturating_generator(logits) / logits[0].size
        return {name: term for name, term in terms.items() if name in weights}, stats

    def discriminator_losses(
        self,
        phase: Phase,
        weights: Mapping[str, float],
        params: Params,
        state: ModelState,
        batch: Batch,
        key: jax.Array,
        step: jax.Array,
    ) -> Losses:
        """The discriminator's side: real against reconstructed patches, both noisy, and a gradient penalty."""
        config = self.config
        real = images.to_float(batch["image"])
        generated = self.generate(weights, params["vae"], state["vae"], real, batch["attributes"], key, train=True)
        fake = generated.from_image  # what the other round is about to compute as well

        epoch = (step // phase.options["steps_per_epoch"]).astype(jnp.float32)
        deviation = config.instance_noise * config.instance_noise_decay**epoch
        noise = [
            deviation * gaussian.standard_normal(jax.random.fold_in(key, draw), real.shape, self.axis_name)
            for draw in (3, 4)
        ]

        def discriminate(pixels: jax.Array, stats: ModelState) -> tuple[jax.Array, ModelState]:
            return nets.apply(self.discriminator, params["discriminator"], stats, pixels, train=True)

        real_logits, stats = discriminate(real + noise[0], state["discriminator"])
        fake_logits, stats = discriminate(fake + noise[1], stats)

        def critic(pixels: jax.Array) -> jax.Array:
            logits, _ = discriminate(pixels, stats)
            if config.discriminator_penalty == "interpolation":
                return jax.nn.sigmoid(logits)
            return logits.mean((1, 2, 3))

        if config.discriminator_penalty == "interpolation":
            fraction = gaussian.uniform(jax.random.fold_in(key, 5), (len(real),), self.axis_name)
            penalty = losses.gradient_penalty(critic, real, fake, fraction).mean()
        else:
            penalty = 0.5 * losses.r1_penalty(critic, real).mean()
        sides = losses.logistic_discriminator(real_logits, fake_logits)
        error = 0.5 * (sides.real.mean() + sides.fake.mean()) / real_logits[0].size
        objective = phase.weights["adversarial"] * (error + config.discriminator_penalty_weight * penalty)
        metrics = {
            "discriminator/error": error,
            "discriminator/penalty": penalty,
            "discriminator/real_accuracy": (real_logits > 0).mean(),
            "discriminator/fake_accuracy": (fake_logits < 0).mean(),
        }
        return Losses({"discriminator": objective}, metrics, {"discriminator": stats})
