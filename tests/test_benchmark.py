"""What the benchmark counts, compares, prints and refuses."""

import dataclasses
import functools
import json
import math
import os
import sys
import time

import _benchmark_worker as worker
import _measuring
import benchmark
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mvae_jax.cpu.convolution import convolution, transposed_convolution
from mvae_jax.models import multimodal

pytestmark = pytest.mark.slow  # serves the repository

TORCH = os.environ.get("MVAE_JAX_TORCH_PYTHON", "")
MULTIVAE = os.environ.get("MVAE_JAX_MULTIVAE_PYTHON", "")
TINY = [
    "image_size=32",
    "latent_size=8",
    "encoder_widths=4,8,8",
    "decoder_widths=8,8,4,4",
    "decoder_hidden=16",
    "text_hidden=16",
    "discriminator_widths=4,8,8",
    "attention_heads=2",
]
SMALL = [*(part for pair in TINY for part in ("--set", pair)), "--batch-size=4", "--rounds=1", "--patience=0"]

_VAE = {"image_size": "16", "widths": "4,8,8", "latent_size": "4", "batch_size": "8"}
TINY_OF = {
    "vae": _VAE,
    "beta_tcvae": _VAE,
    "alae": {"image_size": "8", "channels": "3", "widths": "16,16", "latent_size": "8", "batch_size": "8"},
    "vae_gan": {
        "image_size": "16",
        "latent_size": "8",
        "encoder_widths": "8,8",
        "encoder_hidden": "16",
        "grid_width": "8",
        "decoder_widths": "8,8",
        "discriminator_widths": "4,8,8",
        "discriminator_hidden": "16",
        "equilibrium": "3",  # the discriminator waits
        "batch_size": "6",
    },
}


def small(model):
    """Arguments that measure a tiny model, one round at any load."""
    sizes = [f"--set={name}={value}" for name, value in TINY_OF[model].items()]
    return [f"--model={model}", *sizes, "--rounds=1", "--patience=0"]


def run(capsys, *arguments):
    """Exit status, output and messages of a command."""
    capsys.readouterr()
    code = 0
    try:
        benchmark.main(arguments)
    except SystemExit as end:
        code = int(end.code)
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("%ar = f32[256,128]{1,0} all-reduce(%x), channel_id=1, to_apply=%add", "all-reduce", 256 * 128 * 4),
        ("  ROOT %ar = (bf16[8]{0}, f32[]) all-reduce(%x, %y), channel_id=1", "all-reduce", 8 * 2 + 4),
        ("%s = f32[10]{0} all-reduce-start(%x)", "all-reduce", 40),
        ("%s = (f32[10]{0}, f32[3]{0}) all-reduce-start(%x, %y)", "all-reduce", 52),
        ("%ag = s8[4,6]{1,0} all-gather(%x), dimensions={0}", "all-gather", 24),
        ("%s = (f32[2,6]{1,0}, f32[8,6]{1,0}) all-gather-start(%x), dimensions={0}", "all-gather", 8 * 6 * 4),
        ("%s = ((f32[2]{0}, s32[1]{0}), (f32[8]{0}, s32[4]{0})) all-gather-start(%x, %y)", "all-gather", 48),
        ("%rs = f64[5]{0} reduce-scatter(%x), dimensions={0}", "reduce-scatter", 40),
        ("%s = ((f32[8]{0}), f32[2]{0:T(128)}, u32[]) reduce-scatter-start(%x)", "reduce-scatter", 8),
        ("%a = (pred[3]{0}, pred[3]{0}) all-to-all(%x, %y)", "all-to-all", 6),
        ("%c = u8[7]{0} collective-permute(%x), source_target_pairs={{0,1}}", "collective-permute", 7),
        ("%s = (f16[7]{0}, f16[7]{0}, u32[], u32[]) collective-permute-start(%x)", "collective-permute", 14),
        ("%s = (c64[2]{0}, f8e4m3fn[3]{0}) all-to-all(%x, %y)", "all-to-all", 19),
    ],
)
def test_collectives_of_a_line(line, kind, size):
    assert worker.collectives(line) == {kind: {"count": 1, "bytes": size}}


def test_collectives_are_counted_once():
    text = """
    %s = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), dimensions={0}, metadata={op_name="all-reduce(a)"}
    %d = f32[8]{0} all-gather-done(%s)
    %all-reduce.3 = f32[4]{0} all-reduce(%d), to_apply=%add
    %all-reduce.4 = f32[2]{0} all-reduce(%d), to_apply=%add
    %f = f32[4]{0} fusion(%all-reduce.3), calls=%all-reduce-like
    %g = f32[4]{0} get-tuple-element(%all-reduce.3), index=0
    """
    expected = {"all-gather": {"count": 1, "bytes": 32}, "all-reduce": {"count": 2, "bytes": 24}}
    assert worker.collectives(text) == expected


def test_collectives_of_a_sharded_program():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=split)

    def compiled(function, out):
        return jax.jit(function, out_shardings=out).lower(x).compile().as_text()

    assert worker.collectives(compiled(lambda x: x.T @ x, whole)) == {"all-reduce": {"count": 1, "bytes": 6 * 6 * 4}}
    assert worker.collectives(compiled(lambda x: x, whole)) == {"all-gather": {"count": 1, "bytes": 8 * 6 * 4}}
    assert worker.collectives(compiled(lambda x: 2 * x, split)) == {}


def test_flops_are_those_of_a_hand_count():
    x, kernel = jnp.ones((3, 8, 8, 2)), jnp.ones((3, 3, 2, 5))
    painted, dense = jnp.ones((4, 4, 5, 7)), jnp.ones((12 * 12 * 7, 11))

    def step(x, kernel, painted, dense):
        h = convolution(x, kernel, padding="VALID")  # 6 x 6 pixels
        h = transposed_convolution(h, painted, padding="SAME")  # 12 x 12 pixels; the border's taps fall outside
        return h.reshape(3, -1) @ dense

    products = 3 * (6 * 6 * 9 * 2 * 5 + (6 * 4 - 2) ** 2 * 5 * 7 + 12 * 12 * 7 * 11)
    found = worker.model_flops(lambda: step, x, kernel, painted, dense)
    assert found == pytest.approx(2 * products, rel=1e-3)  # XLA also counts a few additions
    # What is asked for twice is computed once.
    twice = worker.model_flops(lambda: lambda *a: (step(*a), jnp.tanh(step(*a))), x, kernel, painted, dense)
    assert twice == pytest.approx(found, rel=1e-3)


def test_flops_do_not_depend_on_the_formulation(monkeypatch):
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 3))

    def make_step():
        return lambda x, kernel: transposed_convolution(x, kernel)

    found = set()
    for formulation in ("canonical", "plain"):
        monkeypatch.setattr(worker.convolution, "default_formulation", lambda chosen=formulation: chosen)
        found.add(worker.model_flops(make_step, x, kernel))
        assert worker.convolution.default_formulation() == formulation
    assert len(found) == 1
    assert found.pop() == pytest.approx(2 * 2 * (8 * 4 - 2) ** 2 * 3 * 3, rel=1e-3)


def test_exported_noise_is_that_of_the_model():
    """Without it, the two sides would be compared on different latents."""
    config = benchmark.changed(multimodal.Config(), dict(pair.split("=") for pair in TINY))
    subject = worker.SUBJECTS["multimodal"]
    phase = subject.phase(config, "unimodal")
    model, batch = subject.build(config), subject.data(config, subject.phases(config, 1)[0], 4)
    params, state = model.init(jax.random.key(0), batch)
    key = jax.random.key(7)
    metrics = jax.jit(model.rounds(phase)[0].losses)(params, state, batch, key, jnp.zeros((), jnp.int32)).metrics
    draws, a = subject.draws(config, key, batch), batch["attributes"]
    # The networks of the text are the same in training and in evaluation: they have no batch norm.
    mean, logvar = model.functions["encode_attributes"](params, state, a)
    logits = model.functions["decode_attributes"](params, state, mean + jnp.exp(logvar / 2) * draws["text"])
    error = (a * jax.nn.softplus(-logits) + (1 - a) * jax.nn.softplus(logits)).mean()
    np.testing.assert_allclose(metrics["text_from_text"], error, rtol=1e-5)
    assert draws["real"].shape == batch["image"].shape
    assert 0.5 < draws["fake"].std() / config.instance_noise < 1.5


@pytest.mark.parametrize("name", TINY_OF)
def test_exported_latents_are_those_of_the_model(monkeypatch, name):
    subject = worker.SUBJECTS[name]
    config = benchmark.changed(subject.presets()["laptop"], TINY_OF[name])
    model, (phase,) = subject.build(config), subject.phases(config, 1)
    batch = subject.data(config, phase, 4)
    params, state = model.init(jax.random.key(0), batch)
    key, drawn = jax.random.key(7), []
    exported = subject.draws(config, key, batch)
    original = worker.random.standard_normal

    def record(*arguments):
        drawn.append(original(*arguments))
        return drawn[-1]

    monkeypatch.setattr(worker.random, "standard_normal", record)
    for round_ in model.rounds(phase):
        round_.losses(params, state, batch, key, jnp.zeros((), jnp.int32))
    np.testing.assert_array_equal(drawn, list(exported.values()))


def test_alae_takes_many_steps_at_once():
    config = benchmark.changed(worker.SUBJECTS["alae"].default, TINY_OF["alae"])
    settings = {"devices": 1, "shard_state": False, "steps_per_dispatch": 30, "examples": 8, "export": ""}
    settings["run"] = True
    measured = worker.Worker({"model": "alae", "config": dataclasses.asdict(config), "phase": "training"} | settings)
    assert len(measured.steps("60")["seconds"]) == 2
    assert int(measured._state.step) == 61
    assert int(measured._state.skipped) == 0


def test_summary_takes_ratios_within_quiet_rounds():
    def turn(quiet, ours, theirs):
        sides = {"jax": ours, "torch": theirs}
        return {"quiet": quiet, "sides": {name: {"seconds": s, "peak_bytes": s[0]} for name, s in sides.items()}}

    rounds = [turn(True, [1, 2, 3], [4, 4, 10]), turn(True, [4, 4, 4], [4, 4, 4]), turn(False, [9], [1])]
    found = benchmark.summarise(rounds, 8)
    assert found["quiet_rounds"] == found["used_rounds"] == 2
    assert found["sides"]["torch"]["ratios"] == [2, 1]
    assert found["sides"]["torch"]["ratio"] == 1.5
    assert found["sides"]["jax"]["median"] == 3.5
    assert found["sides"]["jax"]["images_per_second"] == pytest.approx(8 / 3.5)
    assert (found["sides"]["jax"]["least"], found["sides"]["jax"]["most"]) == (1, 4)
    noisy = benchmark.summarise(rounds[2:], 8)
    assert (noisy["quiet_rounds"], noisy["used_rounds"]) == (0, 1)


def test_sides_must_compute_the_same():
    compare = functools.partial(benchmark.compare, peer="torch", tolerance=1e-3)
    assert compare({"a": 1.0, "b": 2.0}, {"a": 1.0005}) == {"a": pytest.approx(0.0005, rel=1e-3)}
    assert compare({"vae/gradient_norm": 1.005}, {"vae/gradient_norm": 1.0})
    for ours, theirs in ((1.0, 1.002), (math.nan, 1.0), (1.0, math.nan)):
        with pytest.raises(benchmark.Disagreement, match="not the same model"):
            compare({"a": ours}, {"a": theirs})
    with pytest.raises(benchmark.Disagreement, match="gradient_norm"):
        compare({"vae/gradient_norm": 1.02}, {"vae/gradient_norm": 1.0})


def test_others_are_told_from_a_side():
    def spin():
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
        return 5

    began, spent = time.perf_counter(), time.process_time()
    result, others = _measuring.load_of_others(spin, time.process_time)
    own = (time.process_time() - spent) / (time.perf_counter() - began)
    assert result == 5
    if others is not None:
        assert 0 <= others <= (os.cpu_count() or 1) - own + 0.3


def test_settings_are_read_as_their_types():
    config = multimodal.Config()
    settings = {"encoder_widths": "4,8", "attention": "false", "learning_rate": "0.5", "latent_size": "7"}
    found = benchmark.changed(config, settings)
    assert (found.encoder_widths, found.attention, found.learning_rate, found.latent_size) == ((4, 8), False, 0.5, 7)
    assert benchmark.points("batch_size=1,4") == [
        ("batch_size=1", {"batch_size": "1"}),
        ("batch_size=4", {"batch_size": "4"}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset=huge"], "choose of laptop, paper, reference"),
        (["--phases=first"], "choose of unimodal, alignment, adversarial"),
        (["--set", "latent=8"], "no field 'latent'"),
        (["--set", "latent_size=eight"], "latent_size is 'eight'"),
        (["--set", "attention=1"], "attention is '1'"),
        (["--set", "unimodal=1"], "unimodal is '1'"),
        (["--set", "image_size=48"], "image_size is 48"),
        (["--sweep=batch_size"], "expected FIELD=VALUE"),
        (["--compile-only", "--against=torch"], "runs nothing, so there is nothing to compare"),
        (["--model=style_alae", "--against=torch"], "no counterpart in PyTorch"),
        (["--sweep=batch_size=1,,4"], "expected FIELD=VALUE"),
        (["--sweep=devices=0"], "devices=0"),
        (["--rounds=0"], "--rounds is 0"),
        (["--threads=1000"], "--threads is 1000"),
        (["--against=torch"], "needs --torch-python"),
        (["--against=torch", "--torch-python=/no/such/python"], "does not run"),
        (["--against=torch", f"--torch-python={sys.executable}"], "torch==2.13.0"),
        (["--model=mopoe", "--against=torch", f"--torch-python={sys.executable}"], "multivae==1.0.3"),
    ],
)
def test_mistakes_end_with_one_line(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert not out
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_worker_s_mistakes_are_ours_to_tell(capsys):
    code, out, err = run(capsys, *SMALL, "--phases=unimodal", "--sweep=devices=3")
    assert (code, out) == (2, "")
    assert "batch size 4 cannot be split over 3 devices" in err


def test_a_small_model_on_two_devices(capsys, tmp_path):
    output = tmp_path / "found.json"
    arguments = ["--phases=unimodal", "--sweep=devices=2", "--steps=3", "--steps-per-dispatch=2", "--markdown"]
    code, out, err = run(capsys, *SMALL, *arguments, "-o", str(output))
    assert code == 0, err
    found = json.loads(output.read_text())
    (record,) = found["records"]
    assert (record["point"], record["phase"], record["devices"], record["batch_size"]) == (
        "devices=2",
        "unimodal",
        2,
        4,
    )
    assert record["versions"]["jax"] == jax.__version__
    assert record["compile_seconds"]["cold"] > record["compile_seconds"]["cached"] > 0
    (*_, turn) = record["rounds"]
    assert len(turn["sides"]["jax"]["seconds"]) == 2  # two dispatches of two steps
    ours = record["sides"]["jax"]
    assert 0 < ours["least"] <= ours["median"] <= ours["most"]
    assert ours["peak_bytes"] > 2**26
    # The gradients of all parameters are summed over both devices.
    parameters = sum(leaf.size for leaf in jax.tree.leaves(_parameters()))
    assert record["collectives"]["all-reduce"]["bytes"] >= 4 * parameters
    assert record["utilisation"] == pytest.approx(record["flops"] / ours["median"] / record["product_flops_per_second"])
    assert f"{record['flops'] / 1e9:.2f} GFLOP/step" in out
    assert "| unimodal, devices=2 |" in out


def test_a_program_that_is_only_compiled(capsys, tmp_path):
    """Memory of the state: parameters, Adam's second moments and moving averages, and a batch of 8 examples."""
    output = tmp_path / "found.json"
    arguments = [*small("alae")[:-2], "--compile-only", "--sweep=devices=1,2", "--markdown", "-o", str(output)]
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    one, two = json.loads(output.read_text())["records"]
    subject = worker.SUBJECTS["alae"]
    config = benchmark.changed(subject.presets()["laptop"], TINY_OF["alae"])
    params, _ = jax.eval_shape(
        subject.build(config).init, jax.random.key(0), subject.data(config, subject.phases(config, 1)[0], 8)
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert 3 * 4 * count + 8 * 192 <= one["memory"]["arguments"] <= 3 * 4 * count + 8 * 192 + 2**12
    assert one["memory"]["temporary"] > 0
    assert one["flops"] == two["flops"] > 0
    assert one["collectives"] == {}
    assert (
        two["collectives"]["all-reduce"]["bytes"] > 0.9 * 4 * count
    )  # gradients; those of small layers are computed twice
    assert "sides" not in one
    assert f"of each device {one['memory']['arguments'] / 2**20:.0f} MiB for state" in out
    assert "| training, devices=2 | 8 | 2 |" in out


def _parameters():
    config = benchmark.changed(multimodal.Config(), dict(pair.split("=") for pair in TINY))
    subject = worker.SUBJECTS["multimodal"]
    batch = subject.data(config, subject.phases(config, 1)[0], 2)
    return jax.eval_shape(subject.build(config).init, jax.random.key(0), batch)[0]["vae"]


@pytest.mark.skipif(not TORCH, reason="MVAE_JAX_TORCH_PYTHON names no interpreter that has PyTorch")
@pytest.mark.parametrize("preset", ["laptop", "paper"])  # the latter penalises large errors of attributes
def test_pytorch_computes_the_same(capsys, tmp_path, preset):
    output = tmp_path / "found.json"
    arguments = ["--phases=adversarial", "--steps=1", "--against=torch", f"--torch-python={TORCH}", "-o", str(output)]
    code, out, err = run(capsys, *SMALL, f"--preset={preset}", *arguments)
    assert code == 0, err
    (record,) = json.loads(output.read_text())["records"]
    for name in ("torch default", "torch tuned"):
        terms = worker.SUBJECTS["multimodal"].phase(multimodal.Config(), "adversarial").weights
        found = record["differences"][name]
        assert {"inconsistency", "adversarial", "discriminator/penalty", "discriminator/gradient_norm"} <= set(found)
        assert len(found) > len(terms)
        assert max(value for key, value in found.items() if "norm" not in key) < 1e-4
        assert record["sides"][name]["ratio"] > 0
    assert "same as torch tuned" in out


@pytest.mark.skipif(not TORCH, reason="MVAE_JAX_TORCH_PYTHON names no interpreter that has PyTorch")
@pytest.mark.parametrize(
    ("model", "groups", "losses"),
    [
        ("vae", "encoder decoder", "loss reconstruction kl"),
        ("beta_tcvae", "encoder decoder", "loss reconstruction kl"),
        (
            "alae",
            "mapping generator encoder discriminator",
            "discriminator/real_error discriminator/fake_error discriminator/r1 generator/error reciprocity/error",
        ),
        (
            "vae_gan",
            "encoder decoder discriminator",
            "similarity kl discriminator/real_error discriminator/fake_error encoder/objective decoder/objective "
            "discriminator/objective decoder/updated discriminator/updated",
        ),
    ],
    ids=["vae", "beta_tcvae", "alae", "vae_gan"],
)
def test_pytorch_computes_the_same_of_other_models(capsys, tmp_path, model, groups, losses):
    output = tmp_path / "found.json"
    arguments = ["--steps=1", "--against=torch", f"--torch-python={TORCH}", "-o", str(output)]
    code, _, err = run(capsys, *small(model), *arguments)
    assert code == 0, err
    (record,) = json.loads(output.read_text())["records"]
    for name in ("torch default", "torch tuned"):
        found = record["differences"][name]
        assert set(found) == {*losses.split(), *(f"{group}/gradient_norm" for group in groups.split())}
        assert max(found.values()) < 1e-3


@pytest.mark.skipif(not MULTIVAE, reason="MVAE_JAX_MULTIVAE_PYTHON names no interpreter that has MultiVae")
@pytest.mark.parametrize("model", worker.OF_FAMILY)
def test_multivae_computes_the_same(capsys, tmp_path, model):
    output = tmp_path / "found.json"
    arguments = ["--batch-size=9", "--steps=1", "--rounds=1", "--patience=0", "-o", str(output)]
    # With "dreg" MultiVae's loss is not the bound, of which it has the gradient.
    arguments += ["--set=estimator=iwae"] if model == "mmvae" else []
    code, _, err = run(capsys, f"--model={model}", *arguments, "--against=torch", f"--torch-python={MULTIVAE}")
    assert code == 0, err
    (record,) = json.loads(output.read_text())["records"]
    for name in ("torch default", "torch tuned"):
        found = record["differences"][name]
        assert set(found) == {"loss", "encoders/gradient_norm", "decoders/gradient_norm"}
        assert max(found.values()) < 1e-5
