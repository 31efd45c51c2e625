"""The rectified flow against closed forms: Gaussian codes, of which velocity, flow and least error are known."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvae_jax import random, runs
from mvae_jax.models import latent_flow
from mvae_jax.models.latent_flow import model as flows
from mvae_jax.models.latent_flow import paths

MEAN = np.array([1.0, -2.0, 0.5], np.float32)
ROOT = np.array([[1.5, 0.0, 0.0], [-0.6, 0.4, 0.0], [0.3, 0.2, 1.0]], np.float32)
COVARIANCE = ROOT @ ROOT.T
CONFIG = latent_flow.Config(latent_size=3, attributes=("young", "smiling"), width=16, blocks=2)


def exact(x, t):
    """E[code - noise | x_t] for codes from N(MEAN, COVARIANCE)."""
    identity = np.eye(3, dtype=np.float32)

    def one(x, t):
        spread = (1 - t) ** 2 * identity + t**2 * COVARIANCE
        return MEAN + (t * COVARIANCE - (1 - t) * identity) @ jnp.linalg.solve(spread, x - t * MEAN)

    return jax.vmap(one)(jnp.asarray(x), jnp.asarray(t))


def matrix_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def transport_error(steps, solver):
    """Largest distance from the exact flow, which carries x to MEAN + COVARIANCE^(1/2) x."""
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    carried = jax.jit(paths.transport, static_argnums=(0, 3))(exact, x, steps, solver)
    return np.abs(carried - (MEAN + x @ matrix_root(COVARIANCE.astype(np.float64)))).max()


def test_the_exact_field_carries_noise_to_the_gaussian():
    assert transport_error(64, "heun") < 2e-3
    assert transport_error(64, "euler") > 1e-2


@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("euler", 1)])
def test_the_error_falls_with_the_order_of_the_solver(solver, order):
    errors = [transport_error(steps, solver) for steps in (16, 32, 64)]
    falls = np.log2([errors[0] / errors[1], errors[1] / errors[2]])
    np.testing.assert_allclose(falls, order, atol=0.35)


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="solver is 'midpoint'; choose one of 'heun', 'euler'"):
        paths.transport(exact, jnp.zeros((1, 3)), 4, "midpoint")


@pytest.mark.parametrize("time", [0.0, 0.3, 0.8])
def test_the_error_is_least_for_the_exact_field_and_what_its_closed_form_says(time):
    generator, count = np.random.default_rng(1), 200_000
    noise = generator.normal(size=(count, 3)).astype(np.float32)
    code = (MEAN + generator.normal(size=(count, 3)) @ ROOT.T).astype(np.float32)
    t = np.full(count, time, np.float32)
    field = exact(paths.point(noise, code, t), t)
    error = paths.velocity_error(field, noise, code)
    spread = (1 - time) ** 2 * np.eye(3) + time**2 * COVARIANCE
    gain = (time * COVARIANCE - (1 - time) * np.eye(3)) @ np.linalg.inv(spread)
    least = np.trace(COVARIANCE + np.eye(3) - gain @ spread @ gain.T)
    margin = 5 * error.std() / np.sqrt(count)
    assert abs(error.mean() - least) < margin
    off = np.array([0.3, 0.0, -0.4], np.float32)  # of squared length 0.25
    assert abs(paths.velocity_error(field + jnp.asarray(off)[None], noise, code).mean() - least - 0.25) < 2 * margin


def test_the_gaussian_velocity_is_that_of_the_standard_normal():
    x, t = jnp.array([[1.0, -2.0], [3.0, 0.5]]), jnp.array([0.25, 0.5])
    np.testing.assert_allclose(paths.gaussian_velocity(x, t), [[-0.8, 1.6], [0.0, 0.0]], rtol=1e-6)


def test_guidance_goes_from_no_condition_to_the_condition_and_beyond():
    known, unknown = jnp.array([[2.0]]), jnp.array([[1.0]])
    assert [float(paths.guided(known, unknown, g)[0, 0]) for g in (0.0, 1.0, 2.5)] == [1.0, 2.0, 3.5]


def gaussian_codes(count=4000):
    generator = np.random.default_rng(2)
    code = (MEAN + generator.normal(size=(count, 3)) @ ROOT.T).astype(np.float32)
    return {"code": code, "attributes": generator.integers(0, 2, (count, 2)).astype(np.float32)}


@pytest.mark.parametrize("standardise", ["whiten", "scale"])
def test_training_codes_are_standardised_and_restored(standardise):
    config = latent_flow.Config(latent_size=3, attributes=(), standardise=standardise)
    code = gaussian_codes()["code"]
    state = {"flow": latent_flow.statistics(config, {"code": code})}
    x = np.asarray(flows.standardised(state, code))
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    covariance = np.cov(x, rowvar=False, bias=True)
    expected = np.eye(3) if standardise == "whiten" else np.corrcoef(code, rowvar=False)
    np.testing.assert_allclose(covariance, expected, atol=1e-4)
    np.testing.assert_allclose(flows.restored(state, x), code, atol=1e-5)


def test_statistics_count_what_posteriors_add():
    data = gaussian_codes()
    code, deviation = data["code"], np.full_like(data["code"], [0.5, 1.0, 2.0])
    found = latent_flow.statistics(CONFIG, {**data, "deviation": deviation})
    expected = np.cov(code, rowvar=False, bias=True) + np.diag([0.25, 1.0, 4.0])
    np.testing.assert_allclose(found["scale"] @ found["scale"].T, expected, rtol=1e-4, atol=1e-5)


def test_dimensions_that_never_vary_stay_finite():
    data = gaussian_codes()
    found = latent_flow.statistics(CONFIG, {**data, "code": data["code"] * np.array([1, 0, 1], np.float32)})
    assert all(np.isfinite(value).all() for value in found.values())
    assert np.abs(found["inverse"]).max() < 1e4


def untrained(data):
    built = latent_flow.build(CONFIG, **latent_flow.from_data(CONFIG, data))
    batch = {name: array[:4] for name, array in data.items()}
    return built, built.init(jax.random.key(0), batch)


def test_the_untrained_flow_is_the_best_gaussian_of_the_codes():
    data = gaussian_codes()
    built, (params, state) = untrained(data)
    zeros = np.zeros((20_000, 2), np.float32)
    drawn = jax.jit(built.functions["sample_codes"])(params, state, jax.random.key(1), zeros, zeros)
    np.testing.assert_allclose(drawn.mean(0), data["code"].mean(0), atol=0.05)
    np.testing.assert_allclose(
        np.cov(drawn, rowvar=False), np.cov(data["code"], rowvar=False), atol=0.05 * COVARIANCE.max()
    )
    still = built.functions["sample_codes"](params, state, jax.random.key(1), zeros[:2], zeros[:2], temperature=0.0)
    np.testing.assert_allclose(still, np.tile(data["code"].mean(0), (2, 1)), atol=1e-5)


def with_a_network_that_speaks(params):
    """Parameters of which none are zero."""
    generator = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: leaf + 0.3 * generator.normal(size=leaf.shape).astype(np.float32), params)


def test_the_value_of_an_unknown_attribute_does_not_count():
    _, (params, state) = untrained(gaussian_codes())
    params = with_a_network_that_speaks(params)
    x, t = np.ones((3, 3), np.float32), np.full(3, 0.4, np.float32)
    values = np.array([[0, 0], [0, 1], [1, 1]], np.float32)

    def given(known):
        return flows.velocity(CONFIG, params, state, x, t, values, np.tile(np.float32(known), (3, 1)))

    first = given([1, 0])
    np.testing.assert_array_equal(first[0], first[1])
    assert np.abs(first[1] - first[2]).max() > 1e-3
    nothing, both = given([0, 0]), given([1, 1])
    np.testing.assert_array_equal(nothing[0], nothing[2])
    assert np.abs(nothing[0] - first[0]).max() > 1e-3
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_guidance_of_0_draws_without_the_condition_and_1_with_it():
    built, (params, state) = untrained(gaussian_codes())
    params, ones = with_a_network_that_speaks(params), np.ones((5, 2), np.float32)
    sample, key = jax.jit(built.functions["sample_codes"]), jax.random.key(4)
    given = sample(params, state, key, ones, ones)
    bare = latent_flow.build(dataclasses.replace(CONFIG, attribute_rows=0)).functions["sample_codes"]
    free = bare(params, state, key, ones, 0 * ones)
    assert np.abs(free - given).max() > 1e-2
    np.testing.assert_allclose(sample(params, state, key, ones, ones, guidance=0.0), free, atol=1e-5)
    np.testing.assert_allclose(sample(params, state, key, ones, ones, guidance=1.0), given, atol=1e-5)
    assert np.abs(sample(params, state, key, ones, ones, guidance=3.0) - given).max() > 1e-2


def test_noise_and_attributes_alone_determine_the_codes():
    """`sample_codes` is `codes_of_noise` of noise and of attributes that it draws."""
    built, (params, state) = untrained(gaussian_codes())
    params, half = with_a_network_that_speaks(params), np.tile(np.float32([1, 0]), (5, 1))
    rows_key, noise_key = jax.random.split(jax.random.key(4))
    rows = flows.completed(CONFIG, state, rows_key, half, half)
    noise = 0.5 * random.standard_normal(noise_key, (5, 3))
    for guidance in (1.0, 2.0):
        drawn = built.functions["sample_codes"](
            params, state, jax.random.key(4), half, half, guidance=guidance, temperature=0.5
        )
        codes = built.functions["codes_of_noise"](params, state, noise, *rows, guidance)
        np.testing.assert_allclose(codes, drawn, rtol=1e-6, atol=1e-6)


def completed(kept, attributes, known, count=20_000):
    """So many completions of one row by a model that keeps such rows."""
    config = dataclasses.replace(CONFIG, attributes=tuple("abc"), attribute_rows=len(kept))
    rows = (np.tile(np.float32(row), (count, 1)) for row in (attributes, known))
    return flows.completed(config, {"flow": {"attributes": np.float32(kept)}}, jax.random.key(8), *rows)


def test_unknown_attributes_are_drawn_as_the_training_examples_have_them():
    kept = [[0, 0, 1], [0, 1, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]]

    def check(attributes, known, expected):
        rows, all_known = completed(kept, attributes, known)
        assert np.all(all_known == 1)
        shares = {row: float((np.asarray(rows) == row).all(1).mean()) for row in expected}
        assert shares == pytest.approx(expected, abs=0.02)

    check([1, 1, 1], [0, 0, 0], {(0, 0, 1): 0.2, (0, 1, 0): 0.4, (1, 1, 1): 0.2, (1, 0, 0): 0.2})
    check([0, 1, 1], [1, 0, 0], {(0, 1, 0): 2 / 3, (0, 0, 1): 1 / 3})
    check([0, 1, 1], [0, 1, 1], {(1, 1, 1): 1.0})
    check([0, np.nan, np.nan], [1, 0, 0], {(0, 1, 0): 2 / 3, (0, 0, 1): 1 / 3})
    check([0, 0, 0], [1, 1, 1], {(0, 0, 0): 1.0})  # what is known stays, though no example has it


def test_what_no_training_example_has_is_completed_by_those_that_agree_in_most():
    rows, _ = completed([[0, 0, 1], [1, 1, 0], [1, 0, 0]], [0, 1, 0], [1, 1, 0], count=4000)
    np.testing.assert_array_equal(rows[:, :2], np.tile(np.float32([0, 1]), (4000, 1)))
    np.testing.assert_allclose(
        rows[:, 2].mean(), 0.5, atol=0.03
    )  # the first and the second agree in one, the last in none


def test_a_model_that_keeps_no_rows_leaves_open_what_is_unknown():
    rows, known = completed([], [0, 1, 0], [1, 1, 0], count=2)
    np.testing.assert_array_equal(rows, [[0, 1, 0]] * 2)
    np.testing.assert_array_equal(known, [[1, 1, 0]] * 2)


def test_rows_are_kept_of_the_training_examples_each_alike_often():
    config = dataclasses.replace(CONFIG, attribute_rows=10)
    bits = np.float32([[0, 0], [0, 1], [1, 0], [1, 1]])
    data = {"code": gaussian_codes(4)["code"], "attributes": bits}
    kept = latent_flow.statistics(config, data)["attributes"]
    assert kept.shape == (10, 2)
    assert sorted(int((kept == row).all(1).sum()) for row in bits) == [2, 2, 3, 3]


def test_attributes_that_are_missing_are_neither_known_nor_kept():
    data = gaussian_codes(8)
    there = np.float32([1, 0] * 4)
    nothing = {
        **data,
        "attributes": np.where(there[:, None] != 0, data["attributes"], np.float32(np.nan)),
        "present/attributes": there,
    }
    kept = latent_flow.statistics(CONFIG, nothing)["attributes"]
    assert kept.max() == 1
    _, (params, state) = untrained(data)
    params, known = with_a_network_that_speaks(params), np.ones((8, 2), np.float32)

    def loss(batch, known):
        return np.asarray(flows.terms(CONFIG, params, state, batch, jax.random.key(9), known)["loss"])

    expected = np.where(there != 0, loss(data, known), loss(data, 0 * known))
    np.testing.assert_allclose(loss(nothing, known), expected, rtol=1e-5)
    assert np.abs(loss(data, known) - expected).max() > 1e-3
    with pytest.raises(
        ValueError, match="present/attributes is 0 of all 8 training examples; expected attributes of some"
    ):
        latent_flow.statistics(CONFIG, {**nothing, "present/attributes": 0 * there})


def test_any_number_of_attributes_is_hidden_alike_often():
    config = latent_flow.Config(unconditional=0.2)
    known = np.asarray(flows.hidden_at_random(config, jax.random.key(5), 40_000))
    counts = np.bincount(known.sum(1).astype(int), minlength=11) / len(known)
    # Hidden each with a probability from U(0, 1), any number of ten is left with probability 1 / 11.
    np.testing.assert_allclose(counts, np.r_[0.2 + 0.8 / 11, np.full(10, 0.8 / 11)], atol=0.007)
    np.testing.assert_allclose(known.mean(0), 0.4, atol=0.015)


def test_it_learns_what_an_attribute_says_of_the_codes_and_what_it_leaves_open(tmp_path):
    """Codes of two hills along the first axis, which the first attribute tells apart; the second says nothing."""
    generator, count = np.random.default_rng(6), 4400
    bits = generator.integers(0, 2, (count, 2)).astype(np.float32)
    code = generator.normal(size=(count, 2)).astype(np.float32) * np.float32([0.5, 2.0])
    code[:, 0] += 3 * (2 * bits[:, 0] - 1)
    config = latent_flow.Config(
        latent_size=2,
        attributes=("young", "smiling"),
        width=32,
        blocks=2,
        epochs=25,
        learning_rate=5e-3,
        ema_decay=0.98,
    )
    run = runs.train(tmp_path, "latent_flow", config, {"code": code, "attributes": bits})
    ones = np.ones((2000, 2), np.float32)
    drawn = {
        known: np.asarray(run.sample_codes(jax.random.key(7), ones * np.float32([1, 0]), ones * np.float32(known)))
        for known in ((0, 0), (1, 0), (0, 1))
    }
    assert 0.4 < (drawn[0, 0][:, 0] > 0).mean() < 0.6
    assert 0.4 < (drawn[0, 1][:, 0] > 0).mean() < 0.6
    assert (drawn[1, 0][:, 0] > 0).mean() > 0.98
    assert (np.abs(drawn[0, 0][:, 0]) < 1).mean() < 0.05  # between the hills; of the best Gaussian a quarter lies there
    np.testing.assert_allclose(drawn[1, 0].mean(0), [3, 0], atol=0.3)
    np.testing.assert_allclose(drawn[1, 0].std(0), [0.5, 2.0], atol=0.25)
    loaded = runs.load(tmp_path)
    np.testing.assert_array_equal(
        loaded.sample_codes(jax.random.key(7), ones, ones), run.sample_codes(jax.random.key(7), ones, ones)
    )
    np.testing.assert_allclose(loaded.model_state["flow"]["mean"], code.mean(0), atol=0.3)  # of nine tenths of them
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validated = [line["loss"] for line in lines if line.get("split") == "validation"]
    assert validated[-1] < validated[0]


def test_codes_without_attributes_are_learned_too(tmp_path):
    config = latent_flow.Config(latent_size=3, attributes=(), width=8, blocks=1, epochs=1, batch_size=60)
    run = runs.train(tmp_path, "latent_flow", config, {"code": gaussian_codes(200)["code"]})
    nothing = np.zeros((4, 0), np.float32)
    assert run.sample_codes(jax.random.key(0), nothing, nothing).shape == (4, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"image": np.zeros((40, 8, 8, 3), np.uint8)}, "the data have 'image'; the model learns from 'code' as well"),
        ({"code": np.zeros((40, 4), np.float32)}, r"batch\['code'\] has shape \(36, 4\); expected \(B, 3\)"),
        ({"code": np.zeros((40, 3))}, r"'code' is float64 of shape \(40, 3\), expected float32 \[N, D\]"),
    ],
)
def test_other_data_are_refused(data, message):
    config = latent_flow.Config(latent_size=3, attributes=(), batch_size=20)
    with pytest.raises(ValueError, match=message):
        runs.plan("latent_flow", config, data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"standardise": "none"}, "standardise is 'none'; choose one of 'whiten', 'scale'"),
        ({"solver": "rk4"}, "solver is 'rk4'; choose one of 'heun', 'euler'"),
        ({"unconditional": 1.0}, "unconditional is 1.0; expected at least 0 and less than 1"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1; expected at least 0 and less than 1"),
        ({"attributes": ("young", "young")}, "no name twice"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a number above 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        latent_flow.Config(**changes)
