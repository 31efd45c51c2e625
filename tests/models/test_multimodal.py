"""The multimodal VAE: every term, weight, route and switch, against NumPy transcriptions of the paper's formulas."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import MULTIMODAL, faces

from mvae_jax import augmentation, nets, random, testing
from mvae_jax.augmentation import Perturbation
from mvae_jax.data.batches import Batches, Split
from mvae_jax.models import multimodal
from mvae_jax.models.multimodal import Config, PhaseConfig
from mvae_jax.models.multimodal.networks import draw_said, training_images
from mvae_jax.nets import multimodal as modules
from mvae_jax.nets import vgg
from mvae_jax.objective import Posterior

BATCH = 4
STEPS = 3  # per epoch
KEY = jax.random.key(7)
CONFIG = dataclasses.replace(
    MULTIMODAL,
    encoder_widths=(4,),
    decoder_widths=(8,),
    discriminator_widths=(4, 4),
    batch_size=BATCH,
    unimodal=PhaseConfig(epochs=1, reconstruction=2.0, text=1.0),
    alignment=PhaseConfig(epochs=2, reconstruction=1.1, text=0.9, consistency=0.7, kl=0.3, cross=0.4),
    adversarial=PhaseConfig(
        epochs=3, reconstruction=1.2, text=0.8, consistency=0.5, kl=0.2, cross=0.6, adversarial=0.1
    ),
)
VGG_NET = vgg.VGGFeatures((2, 2, 2, 2, 2))
VGG = (nets.init(VGG_NET, jax.random.key(1), jnp.zeros((1, 32, 32, 3)))[0], vgg.VGGDescription("", "", VGG_NET.widths))
SWITCHES = {
    "default": {},
    "penalised text errors": {"penalise_text_errors": True},
    "text errors penalised otherwise": {
        "penalise_text_errors": True,
        "text_error_factor": 3.0,
        "text_error_limit": 0.5,
    },
    "score from text to image": {"score_direction": "txt||img"},
    "score of the batch": {"score_reduction": "batch"},
    "modalities decoded apart": {"joint_decoding": False},
    "VGG on raw images": {"normalise_vgg_input": False},
    "released averages": {"released_averages": True},
    "a private part": {"private_size": 3},
    "a private part, decoded apart": {"private_size": 3, "joint_decoding": False, "released_averages": True},
    "a coarse image": {"coarse_size": 4},
    "posteriors that start narrow": {"initial_logvar": -3.0},
    "released code": {
        name: getattr(Config.reference(), name)
        for name in (
            *("score_direction", "score_reduction", "joint_decoding", "normalise_vgg_input"),
            "released_averages",
        )
    },
}


def change(**fields):
    return dataclasses.replace(CONFIG, **fields)


def phase_of(config, index):
    return multimodal.phases(config, STEPS)[index]


def batch():
    return jax.tree.map(jnp.asarray, faces(BATCH))


@functools.cache
def variables(private_size=0, coarse_size=0, icnr=False):
    """Parameters and batch statistics, no longer zeros and ones where initialisation left those."""
    generator, config = np.random.default_rng(3), change(private_size=private_size, coarse_size=coarse_size, icnr=icnr)
    params, state = multimodal.build(config, VGG).init(jax.random.key(0), batch())
    params = jax.tree.map(lambda p: p + 0.1 * generator.normal(size=p.shape).astype(np.float32), params)
    return params, jax.tree.map(lambda s: s + generator.uniform(0.0, 0.5, s.shape).astype(np.float32), state)


def variables_of(config):
    """Those of the shapes and the start that a config gives them."""
    return variables(config.private_size, config.coarse_size, config.icnr)


def losses_of(config, index, trains, *, step=0, values=None, weights=VGG):
    """What the round of phase `index` that trains this group returns."""
    (round_,) = (r for r in multimodal.build(config, weights).rounds(phase_of(config, index)) if trains in r.trains)
    params, state = values or variables_of(config)
    return round_.losses(params, state, batch(), KEY, jnp.asarray(step))


# --- the transcription ---------------------------------------------------------------------------------------------


def networks(config):
    return {
        "image_encoder": modules.GaussianImageEncoder(
            config.latent_size, config.encoder_widths, config.coarse_size, config.initial_logvar
        ),
        "text_encoder": modules.GaussianAttributeEncoder(config.latent_size, config.text_hidden, config.initial_logvar),
        "image_decoder": modules.AttentionImageDecoder(
            config.image_size,
            config.decoder_widths,
            config.decoder_hidden,
            config.attention,
            config.attention_heads,
            config.coarse_size,
        ),
        "text_decoder": modules.AttributeDecoder(len(config.attributes), config.text_hidden),
        "discriminator": modules.PatchDiscriminator(config.discriminator_widths),
        "vgg": vgg.VGGFeatures(VGG_NET.widths, config.normalise_vgg_input),
    }


class Runner:
    """Runs networks in turn and keeps their batch statistics."""

    def __init__(self, config, train, values=None):
        self.networks, self.train = networks(config), train
        params, state = values or variables_of(config)
        self.params = {**params["vae"], "discriminator": params["discriminator"], "vgg": params["vgg"]}
        self.stats = {**state["vae"], "discriminator": state["discriminator"], "vgg": {}}

    def __call__(self, name, value, keep=True):
        value = jnp.asarray(value, jnp.float32)
        output, stats = nets.apply(
            self.networks[name], self.params[name], self.stats[name], value, train=self.train and name != "vgg"
        )
        if keep:
            self.stats[name] = stats
        return jax.tree.map(lambda x: np.asarray(x, np.float64), output)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cross_entropy(probability, target):
    return -target * np.log(probability) - (1 - target) * np.log(1 - probability)


def kl(p, q):
    """KL(p || q), a mean over dimensions."""
    return testing.kl_divergence(*p, *q).mean(1)


def noise_of(number, shape):
    return np.asarray(random.standard_normal(jax.random.fold_in(KEY, number), shape), np.float64)


def transcribe(config, *, train, cross=True):
    """All terms, [B] or a number, from what the networks put out, and the batch statistics after the step.

    Without `cross` no image is made from text, and the terms on it are missing.
    """
    data, run = batch(), Runner(config, train)
    x, bits = np.asarray(data["image"], np.float64) / 127.5 - 1, np.asarray(data["attributes"], np.float64)
    image, text = run("image_encoder", x), run("text_encoder", bits)
    draws = [noise_of(number, means.shape) if train else 0.0 for number, (means, _) in ((1, image), (2, text))]
    z_image, z_text = (m + np.exp(lv / 2) * noise for (m, lv), noise in zip((image, text), draws, strict=True))
    both_have = config.latent_size - config.private_size
    z_text = np.concatenate([z_text[:, :both_have], z_image[:, both_have:]], axis=1)  # the image's own private part
    made = {}
    if cross and config.joint_decoding:
        both = run("image_decoder", np.concatenate([z_image, z_text]))
        made["image_from_image"], made["image_from_text"] = both[:BATCH], both[BATCH:]
    else:
        made["image_from_image"] = run("image_decoder", z_image)
        if cross or (train and config.released_averages):
            made["image_from_text"] = run("image_decoder", z_text)
    if train and config.released_averages:
        for pixels in (x, made["image_from_image"], x, made["image_from_text"]):
            run("image_encoder", pixels)
    if not cross:
        made.pop("image_from_text", None)
    straight, crossed = (sigmoid(run("text_decoder", z[:, :both_have])) for z in (z_text, z_image))

    def pixels(name, generated):
        identity = run("image_encoder", generated, keep=False)[0]
        norms = np.linalg.norm(image[0], axis=1) * np.linalg.norm(identity, axis=1)
        return {
            name: ((generated - x) ** 2).mean((1, 2, 3)),
            f"{name}_perceptual": ((run("vgg", generated) - run("vgg", x)) ** 2).mean((1, 2, 3)),
            f"{name}_identity": 1 - (image[0] * identity).sum(1) / norms,
        }

    def text_error(probability):
        errors = cross_entropy(probability, bits)
        factor, limit = config.text_error_factor, config.text_error_limit
        return np.where((errors > limit) & config.penalise_text_errors, factor * errors, errors).mean(1)

    shared, private = (
        [tuple(part[:, dimensions] for part in posterior) for posterior in (image, text)]
        for dimensions in (slice(both_have), slice(both_have, None))
    )
    score_kl = kl(*shared) if config.score_direction == "img||txt" else kl(*shared[::-1])
    if config.score_reduction == "batch" and train:
        score_kl = score_kl.mean()
    image_prior, text_prior = (2 * (np.zeros_like(means),) for means, _ in (image, text))
    terms = {
        "text_from_text": text_error(straight),
        "text_from_image": text_error(crossed),
        "attribute_agreement": ((straight - crossed) ** 2).mean(1),
        "posterior_matching": kl(*shared) + (kl(*private) if config.private_size else 0.0),
        "inconsistency": 1 - 1 / (1 + score_kl),
        "image_kl": kl(image, image_prior),
        "text_kl": kl(shared[1], (text_prior[0][:, :both_have], text_prior[1][:, :both_have])),
        "adversarial": -np.log(sigmoid(run("discriminator", made["image_from_image"], keep=False))).mean((1, 2, 3)),
    }
    for name, generated in made.items():
        terms |= pixels(name, generated)
    return terms, run.stats


def weights_of(phase):
    """The published factors within each term, with a phase's weights."""
    return {
        "image_from_image": phase.reconstruction,
        "image_from_image_perceptual": 0.05 * phase.reconstruction,
        "image_from_image_identity": 0.1 * phase.reconstruction,
        "text_from_text": phase.text,
        "text_from_image": phase.cross,
        "image_from_text": phase.cross,
        "image_from_text_perceptual": 0.1 * phase.cross,
        "image_from_text_identity": 0.1 * phase.cross,
        "attribute_agreement": phase.consistency,
        "posterior_matching": phase.consistency,
        "inconsistency": phase.consistency,
        "image_kl": phase.kl,
        "text_kl": phase.kl,
        "adversarial": phase.adversarial,
    }


def assert_close(got, expected, rtol=2e-5, atol=2e-6):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


# --- phases and configuration --------------------------------------------------------------------------------------


def test_the_published_schedule():
    split = Split({"image": np.zeros((4500, 1, 1, 3), np.uint8)})
    steps_per_epoch = Batches(split, Config().batch_size, seed=0).steps_per_epoch
    assert steps_per_epoch == 281
    phases = multimodal.phases(Config(), steps_per_epoch)
    assert [(phase.name, phase.start, phase.steps) for phase in phases] == [
        ("unimodal", 0, 40 * 281),
        ("alignment", 40 * 281, 30 * 281),
        ("adversarial", 70 * 281, 70 * 281),
    ]
    names = ("reconstruction", "text", "consistency", "kl", "cross", "adversarial")
    assert [tuple(phase.weights[name] for name in names) for phase in phases] == [
        (2.0, 1.0, 0.0, 0.0, 0.0, 0.0),
        (1.0, 1.0, 0.05, 0.005, 0.1, 0.0),
        (1.0, 1.0, 0.2, 0.01, 0.3, 0.001),
    ]
    for phase in phases:
        assert set(phase.weights) == set(names)
        assert (phase.batch_size, phase.image_size) == (16, 64)
        assert phase.learning_rates == {"vae": 1e-4, "discriminator": 1e-5}
        assert (phase.reset_optimizers, phase.ema_decay) == (False, None)


def test_rates_rise_and_fall_over_the_whole_run():
    config = change(cosine_decay=True, learning_rate=2.0, discriminator_learning_rate=0.5)
    phases = multimodal.phases(config, 20)
    rates = np.array([phase.learning_rates["vae"](step) for phase in phases for step in range(phase.steps)])
    steps, warm = len(rates), 6  # a twentieth of 120
    assert steps == 120
    rise = 2.0 * (np.arange(warm) + 1) / (warm + 1)
    fall = 1.0 + np.cos(np.pi * np.arange(steps - warm) / (steps - warm))
    np.testing.assert_allclose(rates, np.concatenate([rise, fall]), atol=1e-6)
    others = [phase.learning_rates["discriminator"](step) for phase in phases for step in range(phase.steps)]
    np.testing.assert_allclose(others, rates / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ({"unimodal"}, [("alignment", 0, 6), ("adversarial", 6, 9)]),
        ({"alignment"}, [("unimodal", 0, 3), ("adversarial", 3, 9)]),
        ({"unimodal", "adversarial"}, [("alignment", 0, 6)]),
        ({"unimodal", "alignment", "adversarial"}, []),
    ],
)
def test_a_phase_of_no_epochs_is_left_out(left_out, expected):
    config = change(**{name: dataclasses.replace(getattr(CONFIG, name), epochs=0) for name in left_out})
    assert [(phase.name, phase.start, phase.steps) for phase in multimodal.phases(config, STEPS)] == expected


def test_terms_of_the_published_phases():
    phases = multimodal.phases(Config(), 281)
    first, second, third = (multimodal.term_weights(Config(), phase.weights, perceptual=True) for phase in phases)
    assert first == pytest.approx(
        {
            "image_from_image": 2.0,
            "image_from_image_perceptual": 0.1,
            "image_from_image_identity": 0.2,
            "text_from_text": 1.0,
        }
    )
    assert second == pytest.approx(
        {
            "image_from_image": 1.0,
            "image_from_image_perceptual": 0.05,
            "image_from_image_identity": 0.1,
            "text_from_text": 1.0,
            "text_from_image": 0.1,
            "image_from_text": 0.1,
            "image_from_text_perceptual": 0.01,
            "image_from_text_identity": 0.01,
            "attribute_agreement": 0.05,
            "posterior_matching": 0.05,
            "inconsistency": 0.05,
            "image_kl": 0.005,
            "text_kl": 0.005,
        }
    )
    assert third == pytest.approx(
        {
            "image_from_image": 1.0,
            "image_from_image_perceptual": 0.05,
            "image_from_image_identity": 0.1,
            "text_from_text": 1.0,
            "text_from_image": 0.3,
            "image_from_text": 0.3,
            "image_from_text_perceptual": 0.03,
            "image_from_text_identity": 0.03,
            "attribute_agreement": 0.2,
            "posterior_matching": 0.2,
            "inconsistency": 0.2,
            "image_kl": 0.01,
            "text_kl": 0.01,
            "adversarial": 0.001,
        }
    )
    for phase, weights in zip(phases, (first, second, third), strict=True):
        without = multimodal.term_weights(Config(), phase.weights, perceptual=False)
        assert without == {name: weight for name, weight in weights.items() if not name.endswith("perceptual")}


def test_the_released_code_differs_in_six_choices():
    default, reference = dataclasses.asdict(Config()), dataclasses.asdict(Config.reference())
    assert {name: (default[name], reference[name]) for name in default if default[name] != reference[name]} == {
        "normalise_vgg_input": (True, False),
        "score_direction": ("img||txt", "txt||img"),
        "score_reduction": ("example", "batch"),
        "discriminator_penalty": ("r1", "interpolation"),
        "joint_decoding": (True, False),
        "released_averages": (False, True),
    }
    assert default["attention"]
    assert not default["penalise_text_errors"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 48}, r"image_size is 48; choose one of 32, 64, 128\."),
        ({"score_direction": "both"}, r"score_direction is 'both'; choose one of 'img\|\|txt', 'txt\|\|img'\."),
        ({"score_reduction": "mean"}, r"score_reduction is 'mean'; choose one of 'example', 'batch'\."),
        ({"discriminator_penalty": "r2"}, r"discriminator_penalty is 'r2'; choose one of 'r1', 'interpolation'\."),
        ({"compute_dtype": "float16"}, r"compute_dtype is 'float16'; choose one of 'float32', 'bfloat16'\."),
        ({"latent_size": 0}, r"latent_size is 0; expected at least 1\."),
        ({"batch_size": -1}, r"batch_size is -1; expected at least 1\."),
        ({"attention_heads": 0}, r"attention_heads is 0; expected at least 1\."),
        ({"encoder_widths": ()}, r"encoder_widths are \(\); expected at least one, and each at least 1\."),
        ({"discriminator_widths": (4, 0)}, r"discriminator_widths are \(4, 0\); expected at least one, and each at"),
        ({"text_error_factor": 0.5}, r"text_error_factor is 0\.5; expected at least 1\."),
        ({"text_error_limit": -0.1}, r"text_error_limit is -0\.1; expected at least 0\."),
        ({"text_error_factor": 4.0}, r"text_error_factor is 4\.0, but no error .*: set penalise_text_errors=true, or"),
        ({"text_error_limit": 0.3}, r"text_error_limit is 0\.3, but no error .* expected 0\.15, .*_text_errors=true"),
        ({"private_size": 256}, r"private_size is 256; expected 0 to 255, below latent_size: some of the latent space"),
        ({"private_size": -1}, r"private_size is -1; expected 0 to 255"),
        ({"coarse_size": 5}, r"coarse_size is 5; expected 0 or a divisor of image_size, 64, such as 16\."),
        ({"coarse_size": -4}, r"coarse_size is -4; expected at least 0\."),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; expected a number above 0\."),
        ({"gradient_clip": float("nan")}, r"gradient_clip is nan; expected a number above 0\."),
        ({"attributes": ()}, r"attributes are \(\); expected at least one name"),
        ({"attributes": ("bald", "bald")}, r"attributes are \('bald', 'bald'\); .* no name twice\."),
        ({"decoder_widths": (12, 8)}, r"decoder_widths\[0\] is 12; expected a multiple of attention_heads, 8\."),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(PhaseConfig)])
def test_negative_lengths_and_weights_are_refused(name):
    with pytest.raises(ValueError, match=rf"a phase's {name} is -1; expected at least 0\."):
        dataclasses.replace(CONFIG.adversarial, **{name: -1})


def test_heads_need_not_divide_without_attention():
    assert Config(attention=False, decoder_widths=(12, 8)).decoder_widths == (12, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (faces(2, size=64), r"batch\['image'\] has shape \(2, 64, 64, 3\); expected \(B, 32, 32, 3\), as the model's"),
        (faces(2, attributes=9), r"batch\['attributes'\] has shape \(2, 9\); expected \(B, 10\), as the model's"),
    ],
)
def test_data_of_other_shapes_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        multimodal.build(CONFIG).init(KEY, data)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("count", [1, 7])
def test_image_sizes_and_numbers_of_attributes(size, count):
    config = change(image_size=size, attributes=tuple("abcdefg"[:count]), encoder_widths=(4, 4, 4))
    config = dataclasses.replace(config, decoder_widths=(8, 4, 4, 4), discriminator_widths=(4, 4, 4))
    data = faces(2, size, count)
    model = multimodal.build(config)

    def run(key):
        params, state = model.init(key, data)
        logits = model.functions["decode_attributes"](params, state, jnp.zeros((3, 8)))
        return params, model.sample(params, state, key, 3), logits

    params, samples, logits = jax.eval_shape(run, KEY)
    assert samples.shape == (3, size, size, 3)
    assert logits.shape == (3, count)
    assert params["vae"]["image_encoder"]["mean"]["kernel"].shape == ((size // 8) ** 2 * 4, 8)
    assert params["vae"]["text_encoder"]["Dense_0"]["kernel"].shape == (count, 16)


# --- the terms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "switch"),
    [
        *((index, switch) for index in (0, 1) for switch in ("default", "released averages")),
        *((2, switch) for switch in SWITCHES),
    ],
)
def test_terms_and_their_sum_in_training(index, switch):
    config = change(**SWITCHES[switch])
    phase = (config.unimodal, config.alignment, config.adversarial)[index]
    weights = weights_of(phase)
    expected, stats = transcribe(config, train=True, cross=phase.cross > 0)
    means = {name: np.mean(term) for name, term in expected.items() if weights[name]}
    adversarial = weights["adversarial"] * means.get("adversarial", 0.0)
    total = sum(weights[name] * mean for name, mean in means.items())
    out = losses_of(config, index, "vae")
    assert_close(dict(out.objectives), {"vae": total})
    assert_close(dict(out.metrics), {"loss": total - adversarial, **means})
    # Every network that is trained counts its pass; the discriminator's pass does not count, and identity passes only
    # with the released averages.
    del stats["discriminator"], stats["vgg"]
    assert_close(dict(out.state), {"vae": stats})


@pytest.mark.parametrize("index", [0, 1, 2])
def test_released_averages_are_those_of_a_loop_over_all_image_sets(index):
    config = change(released_averages=True, joint_decoding=False)
    data, run, (params, state) = batch(), Runner(config, train=True), variables()
    x, bits = np.asarray(data["image"], np.float64) / 127.5 - 1, data["attributes"]
    sets = {"image": x}
    for number, (name, value) in enumerate((("image", x), ("text", bits)), start=1):
        mean, logvar = run(f"{name}_encoder", value)
        z = mean + np.exp(logvar / 2) * noise_of(number, mean.shape)
        sets[f"from_{name}"] = run("image_decoder", z)  # the decoder counts both, in this order
    encoder = jax.tree.map(lambda p: np.asarray(p, np.float64), params["vae"]["image_encoder"]["Conv_0"])
    averages = state["vae"]["image_encoder"]["BatchNorm_0"]
    average, variance = (np.asarray(averages[name], np.float64) for name in ("mean", "var"))
    for name in ("image", "image", "from_image", "image", "from_text"):
        channels = (convolve(sets[name], encoder["kernel"], 2) + encoder["bias"]).reshape(-1, 4)
        average = 0.9 * average + 0.1 * channels.mean(0)
        variance = 0.9 * variance + 0.1 * channels.var(0, ddof=1)
    found = losses_of(config, index, "vae").state["vae"]
    assert_close(dict(found["image_encoder"]["BatchNorm_0"]), {"mean": average, "var": variance})
    assert_close(dict(found["image_decoder"]), dict(run.stats["image_decoder"]))
    without = losses_of(change(joint_decoding=False), index, "vae").state["vae"]
    assert abs(without["image_encoder"]["BatchNorm_0"]["mean"] - average).max() > 1e-3


@pytest.mark.parametrize("switch", SWITCHES)
def test_evaluation_takes_means_and_running_statistics(switch):
    config = change(**SWITCHES[switch])
    expected, _ = transcribe(config, train=False)
    weights = weights_of(config.adversarial)
    del expected["adversarial"]
    loss = sum(weights[name] * term for name, term in expected.items())
    evaluate = multimodal.build(config, VGG).evaluate(phase_of(config, 2))
    got = evaluate(*variables_of(config), batch(), KEY)
    assert_close(dict(got), {"loss": loss, **expected})
    assert_close(got, evaluate(*variables_of(config), batch(), jax.random.key(99)), rtol=0, atol=0)


def test_evaluation_of_a_phase_whose_only_term_is_the_discriminator():
    only = PhaseConfig(epochs=1, reconstruction=0.0, text=0.0, adversarial=1.0)
    config = change(adversarial=only)
    got = multimodal.build(config).evaluate(phase_of(config, 2))(*variables(), batch(), KEY)
    assert_close(got, {"loss": np.zeros(BATCH)})


# --- who learns from what ------------------------------------------------------------------------------------------

ROUTES = {
    "image_from_image": {"image_encoder", "image_decoder"},
    "image_from_image_perceptual": {"image_encoder", "image_decoder"},
    "image_from_image_identity": {"image_encoder", "image_decoder"},
    "image_from_text": {"text_encoder", "image_decoder"},
    "image_from_text_perceptual": {"text_encoder", "image_decoder"},
    "image_from_text_identity": {"text_encoder", "image_decoder", "image_encoder"},
    "text_from_text": {"text_encoder", "text_decoder"},
    "text_from_image": {"image_encoder", "text_decoder"},
    "attribute_agreement": {"image_encoder", "text_encoder", "text_decoder"},
    "posterior_matching": {"image_encoder", "text_encoder"},
    "inconsistency": {"image_encoder", "text_encoder"},
    "image_kl": {"image_encoder"},
    "text_kl": {"text_encoder"},
    "adversarial": {"image_encoder", "image_decoder"},
}


def test_gradients_of_every_term():
    """Which networks they reach, and their size against central differences along a random direction."""
    (params, state), generator = variables(), np.random.default_rng(0)

    @jax.jit
    def metrics(vae):
        return dict(losses_of(CONFIG, 2, "vae", values=({**params, "vae": vae}, state)).metrics)

    vae = params["vae"]
    values, pull = jax.vjp(metrics, vae)
    pull = jax.jit(pull)
    direction = jax.tree.map(lambda p: generator.normal(size=p.shape).astype(np.float32), vae)
    step = 0.003 / np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(direction)))
    ahead = metrics(jax.tree.map(lambda p, d: p + step * d, vae, direction))
    behind = metrics(jax.tree.map(lambda p, d: p - step * d, vae, direction))
    for name, expected in ROUTES.items():
        if name.startswith("image_from") or name == "adversarial":
            # In a joint batch all images depend on both encoders, through the decoder's batch statistics.
            expected = {*expected, "image_encoder", "text_encoder"}
        (gradient,) = pull({other: jnp.float32(other == name) for other in values})
        reached = {net for net, tree in gradient.items() if any((leaf != 0).any() for leaf in jax.tree.leaves(tree))}
        assert reached == expected, name
        slope = jax.tree.reduce(np.add, jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction))
        np.testing.assert_allclose(slope * step, (ahead[name] - behind[name]) / 2, rtol=0.03, err_msg=name)


def test_modalities_that_are_decoded_apart_do_not_meet_in_the_decoder():
    config = change(joint_decoding=False)
    params, state = variables()
    before = losses_of(config, 2, "vae").metrics
    routes = {name: set() for name in ROUTES}
    for network, tree in params["vae"].items():
        moved = {**params, "vae": {**params["vae"], network: jax.tree.map(lambda p: 1.1 * p + 0.1, tree)}}
        after = losses_of(config, 2, "vae", values=(moved, state)).metrics
        for name, nets_ in routes.items():
            nets_.update({network} if before[name] != after[name] else ())
    assert routes == ROUTES


def test_rounds_train_the_discriminator_first_and_nothing_else():
    for index, expected in enumerate(
        [
            [{"vae": ("vae",)}],
            [{"vae": ("vae",)}],
            [{"discriminator": ("discriminator",)}, {"vae": ("vae",)}],
        ]
    ):
        assert [round_.trains for round_ in multimodal.build(CONFIG).rounds(phase_of(CONFIG, index))] == expected


# --- weights of zero -----------------------------------------------------------------------------------------------


def test_phases_without_a_discriminator_never_touch_it():
    params, state = ({"vae": tree["vae"]} for tree in variables())
    for index in (0, 1):
        out = losses_of(CONFIG, index, "vae", values=(params, state), weights=None)
        assert np.isfinite(out.objectives["vae"])
        assert not any(name.endswith("perceptual") or name.startswith("adv") for name in out.metrics)
    with pytest.raises(KeyError, match="discriminator"):
        losses_of(CONFIG, 2, "vae", values=(params, state), weights=None)


def test_a_weight_of_zero_costs_nothing():
    """Floating-point operations of one loss evaluation, before any optimisation by the compiler."""
    params, state = variables()
    data = batch()

    def flops(function, *args):
        return jax.jit(function).lower(*args).cost_analysis()["flops"]

    def network(name, value):
        run = Runner(CONFIG, train=True)
        return flops(lambda p: nets.apply(run.networks[name], p, run.stats[name], value, train=True), run.params[name])

    def objectives(config):
        return flops(lambda p: losses_of(config, 1, "vae", values=(p, state), weights=None).objectives, params)

    z = jnp.zeros((BATCH, CONFIG.latent_size))
    encoder, decoder = network("image_encoder", jnp.zeros((BATCH, 32, 32, 3))), network("image_decoder", z)
    text_encoder, text_decoder = network("text_encoder", data["attributes"]), network("text_decoder", z)
    first = change(alignment=CONFIG.unimodal)
    expected = {
        dataclasses.replace(first, identity_weight=0.0): encoder + decoder + text_encoder + text_decoder,
        first: 2 * encoder + decoder + text_encoder + text_decoder,
        CONFIG: 3 * encoder + 2 * decoder + text_encoder + 2 * text_decoder,
        dataclasses.replace(CONFIG, cross_identity_weight=0.0): 2 * (encoder + decoder + text_decoder) + text_encoder,
    }
    for config, cost in expected.items():
        assert objectives(config) == pytest.approx(cost, rel=0.004)


# --- the discriminator's side --------------------------------------------------------------------------------------


def scene(config, step, values=None):
    """Real and reconstructed images, the latter as the other round is about to make them, and the noise on both."""
    data, run = batch(), Runner(config, train=True, values=values)
    real = np.asarray(data["image"], np.float64) / 127.5 - 1
    (mean, logvar), (text_mean, text_logvar) = run("image_encoder", real), run("text_encoder", data["attributes"])
    z = mean + np.exp(logvar / 2) * noise_of(1, mean.shape)
    z_text = text_mean + np.exp(text_logvar / 2) * noise_of(2, mean.shape)
    fake = run("image_decoder", np.concatenate([z, z_text]) if config.joint_decoding else z)[:BATCH]
    deviation = config.instance_noise * config.instance_noise_decay ** (step // STEPS)
    return run, real, fake, deviation * noise_of(3, real.shape), deviation * noise_of(4, real.shape)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("step", [0, 2, 3, 8])
def test_the_discriminator_sees_noise_that_fades_with_the_epochs(step, joint):
    config = change(joint_decoding=joint, instance_noise=0.5, instance_noise_decay=0.6)
    run, real, fake, real_noise, fake_noise = scene(config, step)
    real_logits, fake_logits = run("discriminator", real + real_noise), run("discriminator", fake + fake_noise)
    error = 0.5 * (-np.log(sigmoid(real_logits)).mean() - np.log(1 - sigmoid(fake_logits)).mean())
    out = losses_of(config, 2, "discriminator", step=step)
    assert out.metrics["discriminator/error"] == pytest.approx(error, rel=2e-5)
    assert out.metrics["discriminator/real_accuracy"] == pytest.approx((real_logits > 0).mean())
    assert out.metrics["discriminator/fake_accuracy"] == pytest.approx((fake_logits < 0).mean())
    objective = 0.1 * (out.metrics["discriminator/error"] + 10.0 * out.metrics["discriminator/penalty"])
    assert_close(dict(out.objectives), {"discriminator": objective})
    # Real, then reconstructed images update the statistics; the penalty's pass does not.
    assert_close(dict(out.state), {"discriminator": run.stats["discriminator"]})


def windows(size, stride):
    """Where the 4x4 windows of a convolution lie in an image that is padded by one pixel."""
    corners = range(0, size - 1, stride)
    return [
        (i, j, np.s_[:, stride * i : stride * i + 4, stride * j : stride * j + 4])
        for i in range(len(corners))
        for j in range(len(corners))
    ]


def convolve(x, kernel, stride):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = len(range(0, x.shape[1] - 1, stride))
    y = np.zeros((len(x), size, size, kernel.shape[-1]))
    for i, j, window in windows(x.shape[1], stride):
        y[:, i, j] = np.tensordot(padded[window], kernel, 3)
    return y


def convolve_back(gradient, kernel, stride, size):
    padded = np.zeros((len(gradient), size + 2, size + 2, kernel.shape[2]))
    for i, j, window in windows(size, stride):
        padded[window] += np.einsum("bo,hwco->bhwc", gradient[:, i, j], kernel)
    return padded[:, 1:-1, 1:-1]


@functools.cache
def shallow_discriminator():
    """A discriminator of one hidden layer, which has no batch norm: configuration, all variables, its own alone."""
    generator, (params, state) = np.random.default_rng(5), variables()
    shapes = {"Conv_0": (3, 5), "Conv_1": (5, 1)}
    own = {
        name: {"kernel": 0.3 * generator.normal(size=(4, 4, *channels)), "bias": generator.normal(size=channels[1:])}
        for name, channels in shapes.items()
    }
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), own)
    values = ({**params, "discriminator": single}, {**state, "discriminator": {}})
    return change(discriminator_widths=(5,)), values, jax.tree.map(lambda x: np.asarray(x, np.float64), single)


def image_gradient(own, x, of_logits):
    """Gradient with respect to images, [B, 32, 32, 3], given that with respect to the logits, a function of them."""
    first, second = own["Conv_0"], own["Conv_1"]
    h = convolve(x, first["kernel"], 2) + first["bias"]
    slopes = np.where(h > 0, 1.0, 0.2)
    logits = convolve(h * slopes, second["kernel"], 1) + second["bias"]
    hidden = convolve_back(of_logits(logits), second["kernel"], 1, 16)
    return convolve_back(hidden * slopes, first["kernel"], 2, 32)


def test_r1_is_half_the_squared_gradient_of_the_mean_patch_logit_at_real_images():
    config, values, own = shallow_discriminator()
    _, real, _, _, _ = scene(config, 0, values)
    gradient = image_gradient(own, real, lambda logits: np.full_like(logits, 1 / 15**2))
    out = losses_of(config, 2, "discriminator", values=values)
    expected = 0.5 * (gradient**2).sum((1, 2, 3)).mean()
    assert out.metrics["discriminator/penalty"] == pytest.approx(expected, rel=2e-5)


def test_the_released_code_penalises_probabilities_between_real_and_reconstructed_images():
    config, values, own = shallow_discriminator()
    config = dataclasses.replace(config, discriminator_penalty="interpolation")
    _, real, fake, _, _ = scene(config, 0, values)
    share = np.asarray(random.uniform(jax.random.fold_in(KEY, 5), (BATCH,)), np.float64)[:, None, None, None]
    between = share * real + (1 - share) * fake
    gradient = image_gradient(own, between, lambda logits: sigmoid(logits) * (1 - sigmoid(logits)))
    expected = ((np.sqrt((gradient**2).sum((1, 2, 3))) - 1) ** 2).mean()
    out = losses_of(config, 2, "discriminator", values=values)
    assert out.metrics["discriminator/penalty"] == pytest.approx(expected, rel=2e-5)
    error, weight = out.metrics["discriminator/error"], config.adversarial.adversarial
    assert out.objectives["discriminator"] == pytest.approx(float(weight * (error + 10 * expected)), rel=2e-5)


def test_r1_of_a_discriminator_with_batch_norm():
    """Batch statistics couple the examples; the images carry no noise."""
    run, real, _, _, _ = scene(CONFIG, 0)

    def critic(pixels):
        logits, _ = nets.apply(
            run.networks["discriminator"], run.params["discriminator"], run.stats["discriminator"], pixels, train=True
        )
        return logits.mean((1, 2, 3)).sum()

    gradient = np.asarray(jax.grad(critic)(jnp.asarray(real, jnp.float32)), np.float64)
    out = losses_of(CONFIG, 2, "discriminator")
    expected = 0.5 * (gradient**2).sum((1, 2, 3)).mean()
    assert out.metrics["discriminator/penalty"] == pytest.approx(expected, rel=1e-4)


# --- one batch over several devices ---------------------------------------------------------------------------------


def test_the_score_of_a_batch_is_that_of_all_devices():
    only = PhaseConfig(epochs=1, reconstruction=0.0, text=0.0, consistency=1.0)
    config = change(alignment=only, score_reduction="batch")
    phase, (params, state) = phase_of(config, 1), variables()

    def run(axis_name):
        (round_,) = multimodal.build(config).rounds(phase, axis_name)

        def losses(vae, data):
            out = round_.losses({**params, "vae": vae}, state, data, KEY, jnp.asarray(0))
            return out.objectives["vae"], out.metrics

        return jax.value_and_grad(losses, has_aux=True)

    whole = jax.jit(run(None))(params["vae"], batch())
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch())
    parts = jax.jit(jax.vmap(run("data"), in_axes=(None, 0), axis_name="data"))(params["vae"], halves)
    assert_close(jax.tree.map(lambda x: x.mean(0), parts), whole, rtol=1e-4, atol=1e-5)
    (_, metrics), _ = parts
    assert metrics["inconsistency"][0] == metrics["inconsistency"][1]
    assert metrics["posterior_matching"][0] != metrics["posterior_matching"][1]


# --- optimisers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "decay"), [("vae", 0.01), ("discriminator", 0.02)])
def test_adamw_with_clipped_gradients(group, decay):
    model = multimodal.build(Config())
    first, _, last = (model.optimizers(phase)[group] for phase in multimodal.phases(Config(), 281))
    params = {"w": jnp.array([3.0, -2.0]), "b": jnp.array([0.5])}
    theta, m, v = np.array([3.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    state = first.init(params)
    # Norms 13, clipped to 1, and 0.5, left alone; another phase's optimiser goes on with the first one's state.
    for t, (optimizer, gradient) in enumerate(zip((first, last), ([3, 4, -12], [0.3, 0.4, 0.0]), strict=True), 1):
        updates, state = optimizer.update(
            {"w": jnp.array(gradient[:2], jnp.float32), "b": jnp.array(gradient[2:], jnp.float32)}, state, params
        )
        clipped = np.array(gradient) * min(1.0, 1.0 / np.linalg.norm(gradient))
        m, v = 0.5 * m + 0.5 * clipped, 0.999 * v + 0.001 * clipped**2
        expected = -m / (1 - 0.5**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) - decay * theta
        np.testing.assert_allclose([*updates["w"], *updates["b"]], expected, rtol=5e-5)


# --- terms ---------------------------------------------------------------------------------------------------------


def test_terms_are_functions_of_arrays():
    rng = np.random.default_rng(0)
    x, output = rng.uniform(-1, 1, (2, 3, 4, 4, 3))
    mean = rng.normal(size=(3, 5))
    weight = rng.normal(size=(48, 5))
    arrays = [jnp.asarray(value, jnp.float32) for value in (output, x, mean)]

    def encode(pixels):
        return pixels.reshape(3, 48) @ jnp.asarray(weight, jnp.float32)

    codes = output.reshape(3, 48) @ weight
    cosine = (codes * mean).sum(1) / np.linalg.norm(codes, axis=1) / np.linalg.norm(mean, axis=1)
    expected = {
        "a": ((output - x) ** 2).mean((1, 2, 3)),
        "a_perceptual": ((2 * output - 2 * x) ** 2).mean((1, 2, 3)),
        "a_identity": 1 - cosine,
    }
    assert_close(multimodal.image_terms("a", *arrays, features=lambda pixels: 2 * pixels, encode=encode), expected)
    assert_close(multimodal.image_terms("a", *arrays), {"a": expected["a"]})

    logits, other = rng.normal(size=(2, 3, 10))
    bits = rng.integers(0, 2, (3, 10)).astype(np.float64)
    p, q = (1 / (1 + np.exp(-value)) for value in (logits, other))
    entropy = -(bits * np.log(p) + (1 - bits) * np.log(1 - p)).mean(1)
    logits, other, bits = (jnp.asarray(value, jnp.float32) for value in (logits, other, bits))
    assert_close(multimodal.attribute_error(CONFIG, logits, bits), entropy)
    errors = -np.log(np.where(np.asarray(bits) == 1, p, 1 - p))
    for factor, limit in ((8.0, 0.15), (3.0, 0.6)):
        penalised = change(penalise_text_errors=True, text_error_factor=factor, text_error_limit=limit)
        expected = np.where(errors > limit, factor * errors, errors).mean(1)
        assert_close(multimodal.attribute_error(penalised, logits, bits), expected)
    assert_close(multimodal.attribute_agreement(logits, other), ((p - q) ** 2).mean(1))


def test_posterior_terms_are_divergences_per_dimension():
    rng = np.random.default_rng(1)
    image, text = rng.normal(size=(2, 2, 3, CONFIG.latent_size))
    posteriors = [tuple(jnp.asarray(value, jnp.float32) for value in pair) for pair in (image, text)]

    def divergence(first, second):
        (mean, logvar), (other_mean, other_logvar) = first, second
        ratio = np.exp(logvar - other_logvar) + (mean - other_mean) ** 2 / np.exp(other_logvar)
        return 0.5 * (ratio - 1 - logvar + other_logvar).mean(1)

    prior = np.zeros_like(image)
    expected = {
        "posterior_matching": divergence(image, text),
        "inconsistency": 1 - 1 / (1 + divergence(image, text)),
        "image_kl": divergence(image, prior),
        "text_kl": divergence(text, prior),
    }
    weights = dict.fromkeys(expected, 1.0)
    assert_close(multimodal.posterior_terms(CONFIG, weights, *posteriors), expected)
    assert set(multimodal.posterior_terms(CONFIG, {"posterior_matching": 1.0}, *posteriors)) == {"posterior_matching"}
    released = change(score_direction="txt||img", score_reduction="batch")
    score = 1 - 1 / (1 + divergence(text, image).mean())
    assert_close(multimodal.inconsistency(released, *posteriors), np.full(3, score))


# --- captions that leave attributes open ---------------------------------------------------------------------------


def networks_of(config, axis_name=None):
    return multimodal.Networks(config, axis_name=axis_name)


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.8])
def test_every_attribute_is_hidden_with_the_probability_and_the_genders_together(probability):
    """The share of N = 20,000 captions, within five standard deviations of a rate that differs by caption."""
    said = np.asarray(draw_said(networks_of(Config(unknown_attributes=probability)), KEY, 20_000))
    assert set(np.unique(said)) == {0.0, 1.0}
    assert np.abs(1 - said.mean(0) - probability).max() < 5 * np.sqrt(probability * (1 - probability) / 20_000)
    male, female = (Config().attributes.index(name) for name in ("male", "female"))
    assert (said[:, male] == said[:, female]).all()
    # With U^((1 - p) / p) for a rate, two other attributes are hidden at once with the mean of its square, p / (2 - p).
    both = (1 - said[:, 0]) * (1 - said[:, 3])
    expected = probability / (2 - probability)
    assert abs(both.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000)


def test_at_one_half_any_number_of_words_is_as_likely():
    """Nine words, so ten numbers: a rate that is uniform makes the number uniform."""
    said = np.asarray(draw_said(networks_of(Config(unknown_attributes=0.5)), KEY, 20_000))
    words = np.delete(said, Config().attributes.index("male"), axis=1).sum(1).astype(int)
    assert np.abs(np.bincount(words, minlength=10) / 20_000 - 0.1).max() < 5 * np.sqrt(0.09 / 20_000)


def test_what_is_hidden_does_not_depend_on_how_the_batch_is_spread():
    config = change(unknown_attributes=0.5)
    whole = draw_said(networks_of(config), KEY, 8)
    halves = jax.vmap(lambda _: draw_said(networks_of(config, "data"), KEY, 4), axis_name="data")(jnp.arange(2))
    np.testing.assert_array_equal(halves.reshape(8, -1), whole)
    assert draw_said(networks_of(CONFIG), KEY, 8) is None


def test_the_papers_text_encoder_sees_values_alone_and_takes_silence_for_no():
    a, said = batch()["attributes"], jnp.zeros((BATCH, 10)).at[:, :5].set(1)
    paper = networks_of(CONFIG)
    np.testing.assert_array_equal(paper.caption(a), a)
    np.testing.assert_array_equal(paper.caption(a, said), a.at[:, 5:].set(0))
    open_captions = networks_of(change(unknown_attributes=0.3))
    np.testing.assert_array_equal(open_captions.caption(a), jnp.concatenate([a, jnp.ones_like(a)], 1))
    np.testing.assert_array_equal(open_captions.caption(a, said), jnp.concatenate([a.at[:, 5:].set(0), said], 1))
    # A value that is not said is not seen.
    np.testing.assert_array_equal(open_captions.caption(1 - a, 0 * said), open_captions.caption(a, 0 * said))


@functools.cache
def knowing():
    """Config, parameters and state of a model that knows of unknown attributes; the rest is as of `variables`."""
    config = change(unknown_attributes=0.4)
    drawn, _ = multimodal.build(config, VGG).init(jax.random.key(0), batch())
    params, state = variables()
    return config, {**params, "vae": {**params["vae"], "text_encoder": drawn["vae"]["text_encoder"]}}, state


def test_only_the_text_encoders_first_layer_differs():
    _, params, _ = knowing()
    shapes, others = (jax.tree.map(jnp.shape, tree["vae"]) for tree in (params, variables()[0]))
    assert shapes["text_encoder"]["Dense_0"].pop("kernel") == (20, 16)
    assert others["text_encoder"]["Dense_0"].pop("kernel") == (10, 16)
    assert shapes == others


def terms_of(config, params, state, *, train, weights=None):
    nets_of = multimodal.Networks(config, params["vgg"], VGG_NET)
    names = weights or nets_of.weights(phase_of(config, 2))
    return multimodal.terms(nets_of, names, params, state, batch(), KEY, train=train)[0]


def test_terms_ask_for_what_was_said():
    """Of texts from text what was said, of images from text by the share of it, of texts from images everything."""
    config, params, state = knowing()
    found = terms_of(config, params, state, train=True)
    nets_of, x = multimodal.Networks(config), np.asarray(batch()["image"], np.float64) / 127.5 - 1
    bits, said = (np.asarray(value, np.float64) for value in (batch()["attributes"], draw_said(nets_of, KEY, BATCH)))
    assert 0 < said.mean() < 1
    run = Runner(config, True, (params, state))
    image, text = run("image_encoder", x), run("text_encoder", np.concatenate([bits * said, said], 1))
    z_image, z_text = (
        m + np.exp(lv / 2) * noise_of(number, (BATCH, config.latent_size))
        for number, (m, lv) in ((1, image), (2, text))
    )
    _, from_text = np.split(run("image_decoder", np.concatenate([z_image, z_text])), 2)
    straight, crossed = sigmoid(run("text_decoder", z_text)), sigmoid(run("text_decoder", z_image))
    expected = {
        "text_from_text": (said * cross_entropy(straight, bits)).sum(1) / 10,
        "text_from_image": cross_entropy(crossed, bits).mean(1),
        "attribute_agreement": (said * (straight - crossed) ** 2).sum(1) / 10,
        "image_from_text": said.mean(1) * ((from_text - x) ** 2).mean((1, 2, 3)),
        "posterior_matching": kl(image, text),
        "inconsistency": 1 - 1 / (1 + kl(image, text)),
        "text_kl": kl(text, (np.zeros_like(text[0]), np.zeros_like(text[0]))),
    }
    assert_close({name: found[name] for name in expected}, expected)
    penalised = terms_of(dataclasses.replace(config, penalise_text_errors=True), params, state, train=True)
    errors = cross_entropy(straight, bits)
    errors = np.where(errors > 0.15, 8 * errors, errors)
    assert_close(penalised["text_from_text"], (said * errors).sum(1) / 10)


def test_validation_is_of_whole_captions():
    config, params, state = knowing()
    found = terms_of(config, params, state, train=False)
    bits, run = np.asarray(batch()["attributes"], np.float64), Runner(config, False, (params, state))
    mean, _ = run("text_encoder", np.concatenate([bits, np.ones_like(bits)], 1))
    assert_close(found["text_from_text"], cross_entropy(sigmoid(run("text_decoder", mean)), bits).mean(1))


def test_a_caption_that_says_nothing_is_legal_and_asks_for_nothing():
    config, params, state = knowing()
    config = dataclasses.replace(config, unknown_attributes=0.9999)
    said = draw_said(networks_of(config), KEY, BATCH)
    assert not np.asarray(said).any()
    found = terms_of(config, params, state, train=True)
    for name in ("text_from_text", "attribute_agreement", "image_from_text", "image_from_text_identity"):
        np.testing.assert_array_equal(found[name], 0)
    assert (np.asarray(found["posterior_matching"]) > 0).all()  # it learns all images' codes
    (round_,) = multimodal.build(config, VGG).rounds(phase_of(config, 1))
    gradient = jax.grad(
        lambda vae: round_.losses({**params, "vae": vae}, state, batch(), KEY, jnp.asarray(0)).objectives["vae"]
    )(params["vae"])
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_matching_pulls_the_codes_of_images_by_the_share_that_was_said():
    rng = np.random.default_rng(5)
    image, text = (
        tuple(jnp.asarray(part, jnp.float32) for part in pair)
        for pair in rng.normal(size=(2, 2, 3, CONFIG.latent_size))
    )
    share, weights = jnp.array([0.0, 0.25, 1.0]), {"posterior_matching": 1.0, "inconsistency": 1.0, "image_kl": 1.0}

    def gradients(share, names=("posterior_matching", "inconsistency")):
        def total(image, text):
            terms = multimodal.posterior_terms(CONFIG, weights, image, text, share=share)
            return sum(terms[name].sum() for name in names)

        return jax.grad(total, (0, 1))(image, text)

    (whole_image, whole_text), (image_side, text_side) = gradients(None), gradients(share)
    assert_close(image_side, tuple(share[:, None] * part for part in whole_image))
    assert_close(text_side, whole_text)
    assert_close(gradients(share, ("image_kl",)), gradients(None, ("image_kl",)))
    terms = [multimodal.posterior_terms(CONFIG, weights, image, text, share=part) for part in (None, share)]
    assert_close(terms[1], terms[0], rtol=1e-6)


def test_the_text_posterior_that_matches_best_is_as_wide_as_what_its_caption_leaves_open():
    """Of five images of one caption: the posterior has their codes' mean, and their variance plus that of the means."""
    rng = np.random.default_rng(6)
    mean, logvar = rng.normal(size=(2, 5, CONFIG.latent_size))
    best_mean = mean.mean(0)
    best_logvar = np.log(np.exp(logvar).mean(0) + ((mean - best_mean) ** 2).mean(0))
    codes = tuple(jnp.asarray(part, jnp.float32) for part in (mean, logvar))

    def divergence(text):
        text = tuple(jnp.broadcast_to(part, codes[0].shape) for part in text)
        return multimodal.posterior_terms(CONFIG, {"posterior_matching": 1.0}, codes, text)["posterior_matching"].mean()

    best = tuple(jnp.asarray(part, jnp.float32) for part in (best_mean, best_logvar))
    slope = jax.grad(divergence)(best)
    assert max(float(jnp.abs(part).max()) for part in slope) < 1e-6
    for step in (0.1, -0.1):
        assert float(divergence((best[0] + step, best[1]))) > float(divergence(best)) + 1e-4
        assert float(divergence((best[0], best[1] + step))) > float(divergence(best)) + 1e-4
    assert (best_logvar > np.log(np.exp(logvar).mean(0))).all()  # wider than any one code on average


def test_functions_take_what_was_said():
    config, params, state = knowing()
    model, a = multimodal.build(config, VGG), batch()["attributes"]
    functions = {name: functools.partial(function, params, state) for name, function in model.functions.items()}
    said = jnp.ones_like(a).at[:, 3:].set(0)
    assert_close(functions["encode_attributes"](a), functions["encode_attributes"](a, jnp.ones_like(a)), rtol=0, atol=0)
    other = a.at[:, 3:].set(1 - a[:, 3:])
    assert_close(functions["encode_attributes"](a, said), functions["encode_attributes"](other, said), rtol=0, atol=0)
    denied = functions["encode_attributes"](a * said)
    assert float(jnp.abs(functions["encode_attributes"](a, said).mean - denied.mean).max()) > 1e-2
    pixels = jnp.asarray(batch()["image"], jnp.float32) / 127.5 - 1
    image, text = functions["encode_image"](pixels), functions["encode_attributes"](a, said)
    precision = np.exp(-np.asarray(image.logvar)) + np.exp(-np.asarray(text.logvar)) + 1
    assert_close(functions["fuse"](pixels, a, said).logvar, -np.log(precision))


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5, float("nan")])
def test_probabilities_of_unknown_attributes_are_checked(probability):
    with pytest.raises(
        ValueError, match=r"unknown_attributes is .*; expected a probability of at least 0, for captions"
    ):
        change(unknown_attributes=probability)


# --- images that are changed at random -----------------------------------------------------------------------------


def test_both_rounds_see_the_same_changed_images_and_validation_the_images_themselves():
    config, data = change(augment=True), batch()
    nets_of = networks_of(config)
    x = training_images(nets_of, data, KEY)
    plain = np.asarray(data["image"], np.float32) / 127.5 - 1
    assert x.shape == plain.shape
    assert float(np.abs(x - plain).max()) > 0.1
    keys = random.example_keys(jax.random.fold_in(KEY, 7), BATCH)
    expected = augmentation.perturb(keys, jnp.asarray(plain), config.augmentation, jax.random.fold_in(KEY, 8))
    np.testing.assert_allclose(x, expected, atol=1e-6)
    params, state = variables()
    assert_close(
        terms_of(config, params, state, train=False), terms_of(CONFIG, params, state, train=False), rtol=0, atol=0
    )
    moved = {"image": data["image"], "attributes": data["attributes"]}
    run = Runner(config, True)
    image = run("image_encoder", x)
    found = multimodal.terms(
        multimodal.Networks(config, params["vgg"], VGG_NET),
        {"image_kl": 1.0, "text_kl": 1.0},
        params,
        state,
        moved,
        KEY,
        train=True,
    )[0]
    assert_close(found["image_kl"], kl(image, (np.zeros_like(image[0]), np.zeros_like(image[0]))))


# --- inference -----------------------------------------------------------------------------------------------------


def test_functions_are_those_of_evaluation():
    model, run, data = multimodal.build(CONFIG, VGG), Runner(CONFIG, train=False), batch()
    params, state = variables()
    x = np.asarray(data["image"], np.float64) / 127.5 - 1
    pixels, bits = jnp.asarray(x, jnp.float32), data["attributes"]
    z = noise_of(11, (BATCH, CONFIG.latent_size))
    functions = {name: functools.partial(function, params, state) for name, function in model.functions.items()}
    image, text = run("image_encoder", x), run("text_encoder", bits)
    assert_close(functions["encode_image"](pixels), Posterior(*image))
    assert_close(model.encode(params, state, pixels), Posterior(*image))
    assert_close(functions["encode_attributes"](bits), Posterior(*text))
    assert_close(functions["decode_image"](jnp.asarray(z, jnp.float32)), run("image_decoder", z))
    assert_close(model.decode(params, state, jnp.asarray(z, jnp.float32)), run("image_decoder", z))
    logits = functions["decode_attributes"](jnp.asarray(z, jnp.float32))
    assert_close(logits, run("text_decoder", z))
    assert float(logits.min()) < 0  # no probabilities

    # Precisions of both posteriors and of the prior add.
    (image_mean, image_logvar), (text_mean, text_logvar) = image, text
    precision = np.exp(-image_logvar) + np.exp(-text_logvar) + 1
    mean = (image_mean * np.exp(-image_logvar) + text_mean * np.exp(-text_logvar)) / precision
    assert_close(functions["fuse"](pixels, bits), Posterior(mean, -np.log(precision)))

    samples = model.sample(params, state, KEY, BATCH)
    assert_close(samples, run("image_decoder", np.asarray(random.standard_normal(KEY, (BATCH, 8)))))
    assert samples.shape == (BATCH, 32, 32, 3)
    assert float(jnp.abs(samples).max()) <= 1


def test_the_text_decoder_does_not_read_the_private_part():
    config = change(private_size=3)
    decode = functools.partial(multimodal.build(config).functions["decode_attributes"], *variables_of(config))
    z = jnp.asarray(noise_of(11, (BATCH, config.latent_size)), jnp.float32)
    assert_close(decode(z), Runner(config, train=False)("text_decoder", z[:, :5]))
    assert_close(decode(z), decode(z.at[:, 5:].add(1.0)), rtol=0, atol=0)


def test_matching_moves_the_text_alone_in_the_private_part():
    config = change(private_size=3)
    image, text = jax.random.normal(KEY, (2, 2, BATCH, config.latent_size))

    def matching(image, text):
        weights = {"posterior_matching": 1.0}
        return multimodal.posterior_terms(config, weights, tuple(image), tuple(text))["posterior_matching"].sum()

    of_image, of_text = jax.grad(matching, (0, 1))(image, text)
    reached = [(np.abs(gradient) > 1e-6).all((0, 1)).tolist() for gradient in (of_image, of_text)]
    assert reached == [[True] * 5 + [False] * 3, [True] * 8]


# --- VGG -----------------------------------------------------------------------------------------------------------


def test_vgg_is_a_group_that_nobody_trains():
    model = multimodal.build(CONFIG, VGG)
    params, state = model.init(KEY, batch())
    assert set(params) == {"vae", "discriminator", "vgg"}
    assert_close(params["vgg"], VGG[0], rtol=0, atol=0)
    assert set(state) == {"vae", "discriminator"}
    for phase in multimodal.phases(CONFIG, STEPS):
        assert set(model.optimizers(phase)) == {"vae", "discriminator"}
        assert not any("vgg" in groups for round_ in model.rounds(phase) for groups in round_.trains.values())


def test_without_vgg_only_the_perceptual_terms_are_missing():
    given = losses_of(CONFIG, 2, "vae").metrics
    absent = losses_of(CONFIG, 2, "vae", weights=None).metrics
    perceptual = {name: given[name] for name in given if name.endswith("_perceptual")}
    assert set(given) - set(absent) == set(perceptual) == {"image_from_image_perceptual", "image_from_text_perceptual"}
    weights = weights_of(CONFIG.adversarial)
    difference = float(sum(weights[name] * value for name, value in perceptual.items()))
    assert given["loss"] - absent["loss"] == pytest.approx(difference, abs=2e-6)
    assert difference > 1e-4


# --- every field of the configuration does something ---------------------------------------------------------------


def effects(config):
    """Numbers and shapes that a field may change, by what it changes."""
    model = multimodal.build(config, VGG)
    phases = multimodal.phases(config, STEPS)
    rates = phases[-1].learning_rates
    dummy = {"w": jnp.array([0.2, -0.3])}

    def update(group):
        optimizer = model.optimizers(phases[-1])[group]
        moved, _ = optimizer.update({"w": jnp.array([1.0, 0.1])}, optimizer.init(dummy), dummy)
        rate = rates[group]
        return moved["w"].tolist(), [float(rate(step)) for step in range(STEPS)] if callable(rate) else rate

    data = faces(BATCH, config.image_size, len(config.attributes))
    params = jax.eval_shape(lambda key: model.init(key, data)[0], KEY)
    shapes = [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in jax.tree.leaves_with_path(params)]
    result = {
        "phases": [(phase.steps, phase.batch_size, phase.image_size) for phase in phases],
        "shapes": shapes,
        "vae update": update("vae"),
        "discriminator update": update("discriminator"),
    }
    given = [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in jax.tree.leaves_with_path(variables()[0])]
    if shapes == given:
        for group in ("vae", "discriminator"):
            out = losses_of(config, -1, group, step=STEPS)
            result[f"{group} loss"] = float(out.objectives[group])
            if group == "vae":
                result["averages"] = [float(leaf.sum()) for leaf in jax.tree.leaves(out.state)]
    return result


BOTH_LOSSES = {"vae loss", "discriminator loss"}  # the discriminator judges what the other networks make
EFFECTS = {
    "image_size": (64, {"shapes", "phases"}),
    "attributes": (tuple("abcdefghi"), {"shapes"}),
    "latent_size": (6, {"shapes"}),
    "private_size": (3, {"shapes"}),
    "encoder_widths": ((6,), {"shapes"}),
    "decoder_widths": ((4,), {"shapes"}),
    "decoder_hidden": (12, {"shapes"}),
    "text_hidden": (12, {"shapes"}),
    "discriminator_widths": ((4,), {"shapes"}),
    "attention": (False, {"shapes"}),
    "attention_heads": (4, {*BOTH_LOSSES, "averages"}),
    "coarse_size": (4, {"shapes"}),
    "icnr": (True, {*BOTH_LOSSES, "averages"}),
    "initial_logvar": (-3.0, {*BOTH_LOSSES, "averages"}),
    "unimodal": (dataclasses.replace(CONFIG.unimodal, epochs=5), {"phases"}),
    "alignment": (dataclasses.replace(CONFIG.alignment, epochs=5), {"phases"}),
    "adversarial": (dataclasses.replace(CONFIG.adversarial, epochs=5), {"phases"}),
    "batch_size": (5, {"phases"}),
    "learning_rate": (0.1, {"vae update"}),
    "discriminator_learning_rate": (0.1, {"discriminator update"}),
    "cosine_decay": (True, {"vae update", "discriminator update"}),
    "weight_decay": (0.1, {"vae update"}),
    "discriminator_weight_decay": (0.1, {"discriminator update"}),
    "gradient_clip": (1e-8, {"vae update", "discriminator update"}),
    "perceptual_weight": (1.0, {"vae loss"}),
    "identity_weight": (1.0, {"vae loss"}),
    "cross_perceptual_weight": (1.0, {"vae loss"}),
    "cross_identity_weight": (1.0, {"vae loss"}),
    "normalise_vgg_input": (False, {"vae loss"}),
    "penalise_text_errors": (True, {"vae loss"}),
    "text_error_factor": (4.0, {"vae loss"}),
    "text_error_limit": (0.5, {"vae loss"}),
    "score_direction": ("txt||img", {"vae loss"}),
    "score_reduction": ("batch", {"vae loss"}),
    "discriminator_penalty": ("interpolation", {"discriminator loss"}),
    "discriminator_penalty_weight": (1.0, {"discriminator loss"}),
    "joint_decoding": (False, {*BOTH_LOSSES, "averages"}),
    "released_averages": (True, {"averages"}),
    "unknown_attributes": (0.5, {"shapes"}),
    "augment": (True, {*BOTH_LOSSES, "averages"}),
    "augmentation": (Perturbation(flip=1.0), {*BOTH_LOSSES, "averages"}),
    "instance_noise": (0.5, {"discriminator loss"}),
    "instance_noise_decay": (0.1, {"discriminator loss"}),
    "compute_dtype": ("bfloat16", {*BOTH_LOSSES, "averages"}),
}
PENALISED = {"penalise_text_errors": True}
# What these fields need.
BASES = {"text_error_factor": PENALISED, "text_error_limit": PENALISED, "augmentation": {"augment": True}}
PHASE_EFFECTS = {
    "epochs": (5, {"phases"}),
    "reconstruction": (2.0, {"vae loss"}),
    "text": (2.0, {"vae loss"}),
    "consistency": (2.0, {"vae loss"}),
    "kl": (2.0, {"vae loss"}),
    "cross": (2.0, {"vae loss"}),
    "adversarial": (2.0, BOTH_LOSSES),
}


def test_the_tables_of_effects_are_complete():
    assert set(EFFECTS) == {field.name for field in dataclasses.fields(Config)}
    assert set(PHASE_EFFECTS) == {field.name for field in dataclasses.fields(PhaseConfig)}


@functools.cache
def unchanged(**base):
    return effects(change(**base))


def assert_changes(config, expected, **base):
    changed = effects(config)
    assert {name for name, value in changed.items() if value != unchanged(**base)[name]} == expected


@pytest.mark.parametrize("name", EFFECTS)
def test_every_field_has_its_effect_and_no_other(name):
    (value, expected), base = EFFECTS[name], BASES.get(name, {})
    assert_changes(change(**{name: value}, **base), expected, **base)


@pytest.mark.parametrize("name", PHASE_EFFECTS)
def test_every_field_of_a_phase_has_its_effect_and_no_other(name):
    value, expected = PHASE_EFFECTS[name]
    assert_changes(change(adversarial=dataclasses.replace(CONFIG.adversarial, **{name: value})), expected)
