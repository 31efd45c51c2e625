"""StyleALAE: its phases, what each of them trains and sees, and how it blends, mixes and truncates."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import BATCH, STYLE_ALAE, tiny_faces

from mvae_jax import images, nets, random, runs
from mvae_jax.data.batches import Batches, Split
from mvae_jax.models.alae import rounds
from mvae_jax.models.alae import style as style_alae
from mvae_jax.nets import style
from mvae_jax.train import loop
from mvae_jax.train import state as states
from mvae_jax.train.checkpoint import Checkpoints
from mvae_jax.train.devices import place
from mvae_jax.train.step import make_train_step

KEY = jax.random.key(5)
FADE = 1  # stabilise_4, fade_8, stabilise_8


@functools.cache
def state_of(config=STYLE_ALAE):
    """A first state whose parameters are no longer zeros and ones where initialisation left those."""
    model, phase, rng = style_alae.build(config), style_alae.phases(config, 1)[0], np.random.default_rng(0)
    state = jax.jit(lambda key: states.create(model, phase, key, tiny_faces(BATCH)))(KEY)
    params = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), jax.device_get(state.params))
    model_state = dict(state.model_state) | {"mapping": {"mean_latent": jnp.asarray([0.3, -0.2, 0.1, 0.5])}}
    return model, state.replace(params=jax.tree.map(jnp.asarray, params), model_state=model_state)


def batch():
    return jax.tree.map(jnp.asarray, tiny_faces(BATCH))


# --- phases ----------------------------------------------------------------------------------------------------------


def test_phases_are_counted_in_images_and_train_what_has_grown():
    config = style_alae.Config(image_size=32, fade_images=1000, stabilise_images=600, last_images=2000)
    found = style_alae.phases(config, steps_per_epoch=7)
    names = ["stabilise_4", "fade_8", "stabilise_8", "fade_16", "stabilise_16", "fade_32", "stabilise_32"]
    assert [phase.name for phase in found] == names
    assert [phase.batch_size for phase in found] == [512, 256, 256, 128, 128, 64, 64]
    assert [phase.steps for phase in found] == [2, 4, 3, 8, 5, 16, 32]  # images by batch, rounded up
    assert [phase.start for phase in found] == [0, 2, 6, 9, 17, 22, 38]
    assert [phase.image_size for phase in found] == [4, 8, 8, 16, 16, 32, 32]
    assert [phase.reset_optimizers for phase in found] == [name.startswith("fade") for name in names]
    assert found[3].ema_decay == pytest.approx(0.5 ** (128 / 10_000))
    for phase in found:
        sizes = [size for size in (4, 8, 16, 32) if size <= phase.image_size]
        grown = {f"{network}_{size}" for network in ("generator", "encoder") for size in sizes}
        assert set(phase.learning_rates) == {"mapping", "discriminator", *grown}
    last = style_alae.phases(style_alae.Config(), 1)[-1]
    assert (last.name, last.batch_size, last.learning_rates["mapping"], last.steps) == (
        "stabilise_1024",
        32,
        3e-3,
        31250,
    )


def test_the_blend_rises_along_half_a_cosine():
    phases = style_alae.phases(dataclasses.replace(STYLE_ALAE, fade_images=8 * BATCH), 1)
    blends = [float(style_alae.blend_of(phases[FADE], jnp.int32(step))) for step in (0, 2, 4, 6, 8)]
    expected = [0.5 + 0.5 * math.sin(math.pi * t - math.pi / 2) for t in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(blends, expected, atol=1e-6)
    assert style_alae.blend_of(phases[2], jnp.int32(3)) == 1.0


def test_averages_appear_with_their_resolution_and_optimisers_start_anew():
    model, state = state_of()
    _, fade, _ = style_alae.phases(STYLE_ALAE, 1)
    assert set(state.ema) == set(state.opt_state) == {"mapping", "discriminator", "generator_4", "encoder_4"}
    state = state.replace(ema=jax.tree.map(lambda leaf: leaf + 1.0, state.ema))
    grown = states.start_phase(state, model, fade)
    assert set(grown.ema) == set(grown.opt_state) == set(fade.learning_rates) == set(state.params)
    jax.tree.map(np.testing.assert_array_equal, {group: grown.ema[group] for group in state.ema}, state.ema)
    jax.tree.map(np.testing.assert_array_equal, grown.ema["encoder_8"], state.params["encoder_8"])
    kept = states.start_phase(state, model, dataclasses.replace(fade, reset_optimizers=False))
    assert kept.opt_state["generator_4"] is state.opt_state["generator_4"]


# --- what a step sees ------------------------------------------------------------------------------------------------


def outcome(number, config, index, step=1):
    """Losses of a round in a phase."""
    model, state = state_of(config)
    phase = style_alae.phases(config, 1)[index]
    round_ = model.rounds(phase)[number]
    return jax.jit(round_.losses)(state.params, state.model_state, batch(), KEY, jnp.int32(step))


@pytest.mark.parametrize("index", [0, FADE, 2])
def test_the_reciprocity_is_its_transcription(index):
    """Fresh z, one latent for all layers, noise, and the square of what the encoder does not give back."""
    _, state = state_of()
    phase, params = style_alae.phases(STYLE_ALAE, 1)[index], state.params
    levels, blend = phase.options["level"] + 1, style_alae.blend_of(phase, jnp.int32(1))
    z = random.standard_normal(jax.random.fold_in(KEY, 3), (BATCH, 4))
    mapping = style_alae.MappingNetwork(4, 2)
    w = nets.apply(mapping, params["mapping"], {}, z, train=False)[0]
    noise = style.Noise(random.example_keys(jax.random.split(jax.random.fold_in(KEY, 13), 4)[3], BATCH))
    generator, encoder = style.Generator(STYLE_ALAE.widths), style.Encoder(STYLE_ALAE.widths, 4)
    own, theirs = ([params[f"{net}_{size}"] for size in (4, 8)[:levels]] for net in ("generator", "encoder"))
    x = generator(own, jnp.repeat(w[:, None], 2 * levels, 1), noise, blend)
    expected = jnp.square(encoder(theirs, x, blend) - w).mean()
    out = outcome(2, STYLE_ALAE, index)
    np.testing.assert_allclose(out.objectives["reciprocity"], expected, rtol=1e-4)


def test_real_images_are_blended_as_generated_ones_and_mirrored():
    """With R1 alone to tell: the penalty of the images that the encoder should see."""
    config = dataclasses.replace(STYLE_ALAE, flip=1.0, style_mixing=0.0)
    _, state = state_of(config)
    fade = style_alae.phases(config, 1)[FADE]
    x = np.asarray(images.to_float(batch()["image"]))[:, :, ::-1]
    blend = float(style_alae.blend_of(fade, jnp.int32(1)))
    small = x.reshape(BATCH, 4, 2, 4, 2, 3).mean((2, 4))
    seen = jnp.asarray(blend * x + (1 - blend) * small.repeat(2, 1).repeat(2, 2))
    encoder, discriminator = style.Encoder(config.widths, 4), style_alae.LatentDiscriminator(4, outputs=8)

    def logit(pixels):
        w = encoder([state.params["encoder_4"], state.params["encoder_8"]], pixels, blend)
        return nets.apply(discriminator, state.params["discriminator"], {}, w, train=False)[0]

    expected = jnp.square(jax.grad(lambda pixels: logit(pixels).sum())(seen)).sum((1, 2, 3)).mean()
    out = outcome(0, config, FADE)
    np.testing.assert_allclose(out.metrics["discriminator/r1"], expected, rtol=1e-3)
    np.testing.assert_allclose(out.metrics["discriminator/real_accuracy"], (logit(seen) > 0).mean(), atol=1e-6)


def test_a_lazy_penalty_weighs_as_many_times_as_much():
    lazy = dataclasses.replace(STYLE_ALAE, r1_every=4, flip=0.0)
    model, _ = state_of(lazy)
    rounds = model.rounds(style_alae.phases(lazy, 1)[0])
    assert [round_.every for round_ in rounds] == [1, 4, 1, 1]
    always = outcome(0, dataclasses.replace(STYLE_ALAE, flip=0.0), 0)
    assert "discriminator/r1" not in outcome(0, lazy, 0).metrics
    found = outcome(1, lazy, 0)
    np.testing.assert_allclose(found.metrics["discriminator/r1"], always.metrics["discriminator/r1"], rtol=1e-5)
    np.testing.assert_allclose(found.objectives["r1"], 5.0 * 4 * found.metrics["discriminator/r1"], rtol=1e-5)


@pytest.mark.slow
def test_rounds_move_their_networks_alone():
    for move_mapping in (False, True):
        config = dataclasses.replace(STYLE_ALAE, move_mapping_by_reciprocity=move_mapping)
        model, state = state_of(config)
        phase = style_alae.phases(config, 1)[2]
        state = states.start_phase(state, model, phase)
        moved = []
        for round_ in model.rounds(phase):
            step = jax.jit(make_train_step([round_], model.optimizers(phase), phase))
            after, _ = step(state, batch())
            moved.append(
                {
                    g
                    for g in state.params
                    if any(
                        bool((a != b).any())
                        for a, b in zip(jax.tree.leaves(state.params[g]), jax.tree.leaves(after.params[g]), strict=True)
                    )
                }
            )
        encoder, generator = {"encoder_4", "encoder_8"}, {"generator_4", "generator_8"}
        third = encoder | generator | ({"mapping"} if move_mapping else set())
        assert moved == [encoder | {"discriminator"}, generator | {"mapping"}, third]


# --- latents of layers -----------------------------------------------------------------------------------------------


def test_mixing_gives_layers_from_a_random_one_on_another_latent(monkeypatch):
    """Of a hundred draws: in nine of ten a cut after 1 to L layers, that of all of them among these."""
    cuts = []
    monkeypatch.setattr(style.Generator, "__call__", lambda self, params, w, noise, blend: cuts.append(w) or w)
    _, state = state_of()
    config = dataclasses.replace(STYLE_ALAE, style_mixing=0.9)
    round_ = style_alae.build(config).rounds(style_alae.phases(config, 1)[2])[1]
    monkeypatch.setattr(style.Encoder, "__call__", lambda self, params, x, blend=1.0: x.mean(1))
    for number in range(100):
        round_.losses(state.params, state.model_state, batch(), jax.random.key(number), jnp.int32(0))
    firsts = [int((np.asarray(w) == np.asarray(w)[:, :1]).all((0, 2)).sum()) for w in cuts]
    assert all(w.shape == (BATCH, 4, 4) for w in cuts)
    counts = np.bincount(firsts, minlength=5)
    assert counts[0] == 0
    assert all(10 <= count <= 36 for count in counts[1:4])  # 22.5 expected
    assert 18 <= counts[4] <= 48  # 32.5: uncut by the coin, or cut behind the last


def test_samples_are_mixed_as_often_as_asked_each_by_its_own_key():
    """Of 4,000 with six layers, by .9: each cut from 1 to 5 has .15 of them, no cut .1 + .15."""
    keys = random.example_keys(jax.random.key(3), 4000)
    ones, twos = (jnp.full((4000, 6, 2), value) for value in (1.0, 2.0))
    found = np.asarray(style_alae.mixed_at_random(ones, twos, keys, 0.9))
    assert (np.diff(found, axis=1) >= 0).all()  # the other latent has all of the layers from a first one on
    counts = np.bincount((found[..., 0] == 1).sum(1), minlength=7)
    assert counts[0] == 0
    expected = 4000 * np.array([0.15] * 5 + [0.25])
    assert (np.abs(counts[1:] - expected) < 4 * np.sqrt(expected)).all()
    np.testing.assert_array_equal(style_alae.mixed_at_random(ones[:9], twos[:9], keys[:9], 0.9), found[:9])
    np.testing.assert_array_equal(style_alae.mixed_at_random(ones, twos, keys, 0.0), ones)


def test_truncation_pulls_the_first_eight_layers_to_the_mean():
    config = dataclasses.replace(STYLE_ALAE, image_size=64, first_width=2)
    model, state = style_alae.build(config), {"mapping": {"mean_latent": jnp.asarray([1.0, 2.0, 3.0, 4.0])}}
    truncate = model.functions["truncate"]
    w = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4)), jnp.float32)
    np.testing.assert_array_equal(truncate({}, state, w, 1.0), np.repeat(w[:, None], 10, 1))
    found = np.asarray(truncate({}, state, w, 0.7))
    np.testing.assert_allclose(
        found[:, :8], np.repeat((0.7 * w + 0.3 * state["mapping"]["mean_latent"][None])[:, None], 8, 1), rtol=1e-6
    )
    np.testing.assert_array_equal(found[:, 8:], np.repeat(w[:, None], 2, 1))


def test_a_run_samples_every_resolution(tmp_path):
    """Through `runs.Run`, which compiles: size is a shape."""
    model, state = state_of()
    run = runs.Run(model, STYLE_ALAE, state.params, state.model_state, "stabilise_8", 0, {})
    for size in (4, 8):
        expected = model.sample(state.params, state.model_state, KEY, 3, size=size, truncation=0.5)
        np.testing.assert_allclose(run.sample(KEY, 3, size=size, truncation=0.5), expected, atol=1e-5)


def test_images_of_every_resolution_are_encoded_and_drawn():
    model, state = state_of()
    x = images.to_float(batch()["image"])
    for size in (4, 8):
        w, logvar = model.encode(state.params, state.model_state, style_alae.shrunk(x, size))
        assert (w.shape, logvar) == ((BATCH, 4), None)
        drawn = model.sample(state.params, state.model_state, KEY, 3, truncation=0.5, size=size)
        assert drawn.shape == (3, size, size, 3)
        assert model.decode(state.params, state.model_state, jnp.zeros((2, size // 2, 4))).shape == (2, size, size, 3)
    for layers in (1, 3, 6):
        with pytest.raises(ValueError, match="expected two layers for each resolution, at most 4"):
            model.decode(state.params, state.model_state, jnp.zeros((2, layers, 4)))
    with pytest.raises(ValueError, match="images have 16 px; expected one of 4, 8"):
        model.encode(state.params, state.model_state, jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 48}, "image_size is 48; expected 4 times a power of 2"),
        ({"batch_sizes": ()}, "batch_sizes are"),
        ({"learning_rates": (0.0,)}, "learning_rates are"),
        ({"style_mixing": 1.5}, "style_mixing is 1.5; expected from 0 to 1"),
        ({"discriminator_activation": "relu"}, "discriminator_activation is 'relu'"),
        ({"fade_images": 0}, "fade_images is 0; expected at least 1"),
        ({"examples_at_once": (3,)}, "examples_at_once is 3 at 4 px; expected a divisor of the batch size"),
    ],
)
def test_configs_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(STYLE_ALAE, **fields)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_was_stopped_within_a_fade_ends_with_the_same_bits(tmp_path):
    examples = Split(dict(tiny_faces(4 * BATCH)))
    phases = style_alae.phases(STYLE_ALAE, 1)[: FADE + 1]  # of three steps each

    def ended(workdir, stop=None):
        def batches(phase):
            source = Batches(examples, phase.batch_size, 7, phase.start)

            class Stopping:
                arrays, steps_per_epoch = source.arrays, source.steps_per_epoch

                def indices_at(self, step):
                    if step == stop:
                        raise KeyboardInterrupt
                    return source.indices_at(step)

            return Stopping()

        settings = loop.Settings(steps_per_dispatch=1, checkpoint_every=1)
        return loop.fit(
            style_alae.build(STYLE_ALAE),
            phases,
            batches,
            workdir=tmp_path / workdir,
            seed=7,
            settings=settings,
            placement=place(jax.devices()[:1]),
        )

    whole = ended("whole")
    with pytest.raises(KeyboardInterrupt):
        ended("parts", stop=phases[FADE].start + 2)
    with Checkpoints(tmp_path / "parts", [phase.name for phase in phases]) as checkpoints:
        name, step = checkpoints.latest()
    assert name == "fade_8"
    assert phases[FADE].start < step < phases[FADE].end
    again = ended("parts")
    assert int(again.step) == phases[FADE].end
    ends = [state.replace(key=jax.random.key_data(state.key)) for state in (whole, again)]
    for (path, a), b in zip(jax.tree.leaves_with_path(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)


# --- memory ----------------------------------------------------------------------------------------------------------


@functools.cache
def step_of(index, examples_at_once=0, recomputed_from=0):
    """How the parameters move, and the metrics."""
    saving = {"examples_at_once": (examples_at_once,), "recomputed_from": recomputed_from}
    config = dataclasses.replace(STYLE_ALAE, learning_rates=(0.01,), **saving)
    model, state = state_of(config)
    phase = style_alae.phases(config, 1)[index]
    state = states.start_phase(state, model, phase)
    sgd = dict.fromkeys(model.optimizers(phase), optax.sgd(1.0))
    state = state.replace(opt_state={group: each.init(state.params[group]) for group, each in sgd.items()})
    after, metrics = jax.jit(make_train_step(model.rounds(phase), sgd, phase))(state, batch())
    return jax.tree.map(lambda new, old: new - old, after.params, state.params), metrics


@pytest.mark.slow
@pytest.mark.parametrize("index", [FADE, 2])
@pytest.mark.parametrize("fields", [{"examples_at_once": BATCH // 4}, {"recomputed_from": 4}])
def test_what_saves_memory_takes_the_same_step(fields, index):
    """Gradients of a batch in parts add up to those of the batch; blocks that compute twice compute the same."""
    (plain, metrics), (saving, found) = step_of(index), step_of(index, **fields)
    for name, value in metrics.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
    for (path, a), b in zip(jax.tree.leaves_with_path(plain), jax.tree.leaves(saving), strict=True):
        scale = float(jnp.abs(a).max())
        np.testing.assert_allclose(b, a, atol=1e-3 * scale + 2e-7, err_msg=jax.tree_util.keystr(path))


def test_parts_take_examples_at_equal_distances():
    seen = []
    x = jnp.arange(6.0)
    found = rounds.in_parts(lambda a, b: seen.append(a.shape) or (a + b, a), 3, x, 10 * x)
    np.testing.assert_array_equal(found[0], 11 * x)
    np.testing.assert_array_equal(found[1], x)
    assert set(seen) == {(2,)}
    with pytest.raises(ValueError, match="a batch of 6 examples cannot be cut into 4 equal parts"):
        rounds.in_parts(lambda a: a, 4, x)


def test_validation_is_in_parts_too():
    config = dataclasses.replace(STYLE_ALAE, examples_at_once=(2,))
    terms = []
    for own in (STYLE_ALAE, config):
        model, state = state_of(own)
        evaluate = model.evaluate(style_alae.phases(own, 1)[2])
        terms.append(jax.jit(evaluate)(state.params, state.model_state, batch(), KEY))
    for name, value in terms[0].items():
        np.testing.assert_allclose(terms[1][name], value, rtol=1e-4)


def test_fewer_activations_are_kept_for_the_backward_pass():
    """Numbers that a gradient keeps from its forward pass, beside parameters; activations are most of them."""
    config = dataclasses.replace(STYLE_ALAE, image_size=32, first_width=8, most_width=8, flip=0.0)
    params, state = style_alae.build(config).init(KEY, {"image": jnp.zeros((1, 32, 32, 3), jnp.uint8)})
    kept = {}
    for name, fields in {"whole": {}, "part": {"examples_at_once": (1,)}, "blocks": {"recomputed_from": 32}}.items():
        own = dataclasses.replace(config, batch_sizes=(16,), **fields)
        round_ = style_alae.build(own).rounds(style_alae.phases(own, 1)[-1])[2]

        def backward(params, round_=round_):
            batch = {"image": jnp.zeros((16, 32, 32, 3), jnp.uint8)}
            return jax.vjp(lambda p: round_.losses(p, state, batch, KEY, 0).objectives["reciprocity"], params)[1]

        kept[name] = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, params)))
    assert kept["part"] < kept["whole"] / 10  # latents and noise alone
    assert kept["blocks"] < kept["whole"] / 2  # of five sixths the inputs alone


def test_a_pyramid_gives_each_resolution_its_own_images():
    """Images of the phase's size, means of the larger ones' pixels in float, give the same losses."""
    model, state = state_of(dataclasses.replace(STYLE_ALAE, flip=0.0))
    phase = style_alae.phases(STYLE_ALAE, 1)[0]
    large = np.repeat(np.repeat(np.asarray(batch()["image"])[:, ::2, ::2], 2, 1), 2, 2)
    round_ = model.rounds(phase)[0]
    found = [
        round_.losses(state.params, state.model_state, {"image": jnp.asarray(x)}, KEY, jnp.int32(0)).objectives
        for x in (large, large[:, ::2, ::2])
    ]
    np.testing.assert_allclose(found[0]["discriminator"], found[1]["discriminator"], rtol=1e-6)
    with pytest.raises(ValueError, match="images have 4 px; expected at least the 8 px"):
        style_alae.shrunk(jnp.zeros((1, 4, 4, 3)), 8)
