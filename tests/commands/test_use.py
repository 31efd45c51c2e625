"""A trained model at work from the command line: what it prints, draws and refuses."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from PIL import Image

from mvae_jax import images, random, runs
from mvae_jax.commands import export, use
from mvae_jax.data import captions, decode
from mvae_jax.data.rendered import faces
from mvae_jax.eval import consistency
from mvae_jax.experiment import prior
from mvae_jax.train.workdir import Workdir

CAPTION = "a smiling young woman with blond hair"


CONFIG = dataclasses.replace(
    zoo.MULTIMODAL,
    alignment=dataclasses.replace(zoo.MULTIMODAL.alignment, epochs=0),
    adversarial=dataclasses.replace(zoo.MULTIMODAL.adversarial, epochs=0),
)
BIRDS = ("has_wing_color::brown", "has_size::small_(5_-_9_in)", "001.Black_footed_Albatross", "002.Laysan_Albatross")
SCORES = {
    "checkpoints": {"": {"phase": "unimodal", "step": 6}},
    "consistency": {"f1": 0.9, "threshold": 0.4},
    "verdicts": {"thresholds": {"words": 0.45, "score": 0.4}},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with its scores, and pictures beside it."""
    folder = tmp_path_factory.mktemp("use")
    renders = faces.sample(0, 54)
    arrays = {"image": renders.images[:, ::2, ::2], "attributes": renders.attributes}
    runs.train(folder / "run", "multimodal", CONFIG, arrays)
    Workdir(folder / "run").finish(scores=SCORES)
    runs.train(folder / "cvae", "cvae", zoo.CVAE, zoo.faces(16, zoo.CVAE.image_size))
    birds = dataclasses.replace(zoo.CVAE, attributes=BIRDS)
    runs.train(folder / "birds", "cvae", birds, zoo.faces(16, birds.image_size, len(BIRDS)))
    face = faces.sample(3, 1).images[0]
    Image.fromarray(face).resize((90, 70)).save(folder / "face.png")
    Image.fromarray(face).resize((32, 32)).save(folder / "square.png")
    (folder / "text.png").write_text("<html>")
    return folder


@pytest.fixture(scope="module")
def run(workdir):
    return runs.load(workdir / "run")


@pytest.fixture(scope="module")
def conditional(workdir):
    return runs.load(workdir / "cvae")


@pytest.fixture
def command(calling):
    """Exit status, output and messages of a command in the folder of the run."""
    return calling(use.main)


@pytest.fixture
def exporting(calling):
    """The same of `mvae-jax export`."""
    return calling(export.main)


@pytest.fixture
def calling(workdir, monkeypatch, capsys):
    def calling(main):
        def command(*arguments):
            monkeypatch.chdir(workdir)
            capsys.readouterr()
            try:
                code = main(arguments)
            except SystemExit as end:
                code = end.code
            return code, *capsys.readouterr()

        return command

    return calling


def picture(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


def pixels(path):
    return images.to_float(jnp.asarray(picture(path)[None]))


def test_generate_draws_from_the_captions_posterior(command, workdir, run):
    arguments = ["generate", "run", CAPTION, "--count=3", "--seed=5"]
    assert command(*arguments, "--temperature=0.5", "-o", "drawn") == (
        0,
        "".join(f"drawn/{number:03d}.png\n" for number in range(3)),
        "run: codes are drawn from the posterior of the caption\n",
    )
    mean, logvar = run.encode_attributes(captions.read(CAPTION, run.config.attributes).values[None])
    noise = random.standard_normal(jax.random.key(5), (3, mean.shape[1]))
    expected = images.to_uint8(run.decode_image(mean + 0.5 * jnp.exp(logvar / 2) * noise))
    result = [picture(workdir / f"drawn/{number:03d}.png") for number in range(3)]
    np.testing.assert_array_equal(result, expected)
    assert command(*arguments)[:2] == (0, "generated.png\n")
    assert command(*arguments, "-o", "made/generated.webp")[:2] == (0, "made/generated.webp\n")
    assert (workdir / "made/generated.webp").read_bytes()[8:12] == b"WEBP"
    assert picture(workdir / "generated.png").shape[1] > 300


def test_temperature_zero_is_the_mean(command, workdir):
    assert command("generate", "run", CAPTION, "--count=2", "--temperature=0", "-o", "means")[0] == 0
    first, second = (picture(workdir / f"means/00{number}.png") for number in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_caption_prints_sentence_and_probabilities(command, workdir, run):
    code, out, err = command("caption", "run", "square.png", "--json")
    result = json.loads(out)
    mean, _ = run.encode_image(pixels(workdir / "square.png"))
    expected = jax.nn.sigmoid(run.decode_attributes(mean)[0])
    assert (code, err) == (0, "")
    np.testing.assert_allclose(list(result["probabilities"].values()), expected, atol=1e-4)
    assert result["caption"] == captions.write(np.asarray(expected > 0.5, float), run.config.attributes)
    assert command("caption", "run", "square.png")[1].splitlines()[0] == result["caption"]


def test_an_image_of_any_size_is_cropped_and_that_is_said(command):
    code, out, err = command("caption", "run", "face.png")
    assert (code, len(out.splitlines())) == (0, 11)
    assert err == "face.png: cropped 90 x 70 to the central 70 x 70, resized to 32 x 32\n"


def reading(run, workdir):
    """Probability of each attribute in the image, by its name, as the text decoder's logits say by hand."""
    logits = np.asarray(run.decode_attributes(run.encode_image(pixels(workdir / "square.png"))[0])[0], np.float64)
    return dict(zip(run.config.attributes, 1 / (1 + np.exp(-logits)), strict=True))


@pytest.mark.parametrize("caption", [CAPTION, "a man without glasses", "bald", "not smiling", "old"])
def test_check_judges_the_words_that_are_said_by_the_runs_threshold(command, workdir, run, caption):
    code, out, _ = command("check", "run", "square.png", caption, "--json")
    result, inside = json.loads(out), reading(run, workdir)
    said = {
        CAPTION: {"smiling": True, "young": True, "female": True, "male": False, "blond_hair": True},
        "a man without glasses": {"male": True, "female": False, "eyeglasses": False},
        "bald": {"bald": True},
        "not smiling": {"smiling": False},
        "old": {"young": False},
    }[caption]
    assert result["text"] == said
    expected = {name: inside[name] if value else 1 - inside[name] for name, value in said.items()}
    assert result["words"] == pytest.approx(expected, abs=1e-6)
    assert result["probability"] == pytest.approx(min(expected.values()), abs=1e-6)
    assert result["threshold"] == 0.45
    assert set(result["disagreeing"]) == {name for name, value in expected.items() if value <= 0.45}
    assert (result["match"], code) == ((True, 0) if min(expected.values()) > 0.45 else (False, 1))


def test_check_shows_the_papers_score_and_its_own_verdict_beside_that_of_the_words(command, workdir, run):
    attributes = captions.read(CAPTION, run.config.attributes).values[None]
    posterior = run.encode_image(pixels(workdir / "square.png"))
    score = float(consistency.consistency_score(posterior, run.encode_attributes(attributes))[0])
    result = json.loads(command("check", "run", "square.png", CAPTION, "--json")[1])
    assert result["score"] == pytest.approx(score, abs=1e-6)
    assert (result["score_threshold"], result["score_match"]) == (0.4, score > 0.4)
    verdict = "match" if score > 0.4 else "mismatch"
    last = command("check", "run", "square.png", CAPTION, "--threshold=0")[1].splitlines()[-1]
    assert last == f"{verdict} by the paper's score: {score:.3f}, threshold 0.400"


def test_what_was_not_said_is_not_spoken_of(command):
    """A face without a word fits, and of others no attribute is mentioned but those of the caption."""
    code, out, _ = command("check", "run", "square.png", "a person")
    assert code == 0
    assert out.splitlines()[0] == "match by words: the caption says no attribute, threshold 0.450"
    assert len(out.splitlines()) == 2
    for caption, named in (("a woman", {"male", "female"}), ("no lipstick", {"wearing_lipstick"})):
        lines = command("check", "run", "square.png", caption)[1].splitlines()[1:-1]
        assert {line.split(":")[0].strip() for line in lines} == named
    assert " of no wearing_lipstick, threshold" in command("check", "run", "square.png", "no lipstick")[1]


@pytest.mark.parametrize("threshold", [[], ["--threshold=0.2"]])
def test_check_scores_as_the_runs_evaluation_did(command, workdir, run, finished, threshold):
    divergence = {"direction": "txt||img", "reduction": "sum"}
    finished.write_text(json.dumps({"scores": {**SCORES, "consistency": {"threshold": 0.4, **divergence}}}))
    attributes = captions.read(CAPTION, run.config.attributes).values[None]
    posteriors = run.encode_image(pixels(workdir / "square.png")), run.encode_attributes(attributes)
    result = json.loads(command("check", "run", "square.png", CAPTION, "--json", *threshold)[1])
    expected = float(consistency.consistency_score(*posteriors, **divergence)[0])
    assert result["score"] == pytest.approx(expected, abs=1e-6)
    assert abs(expected - float(consistency.consistency_score(*posteriors)[0])) > 1e-3
    assert (result["threshold"], result["score_threshold"]) == (0.2 if threshold else 0.45, 0.4)


@pytest.mark.parametrize(("threshold", "answer", "status"), [(0.0, "match", 0), (1.0, "mismatch", 1)])
def test_check_takes_a_threshold_and_answers_by_its_status(command, workdir, run, threshold, answer, status):
    code, out, _ = command("check", "run", "square.png", "bald", f"--threshold={threshold}")
    assert code == status
    probability = reading(run, workdir)["bald"]
    fits = "disagrees" if status else "agrees"
    assert out.splitlines()[:2] == [
        f"{answer} by words: probability {probability:.3f} of bald, threshold {threshold:.3f}",
        f"  bald: the text says yes, the image {fits} (probability {probability:.3f})",
    ]


def test_of_a_run_that_was_not_evaluated_the_score_has_no_verdict(command, finished):
    finished.unlink()
    _, out, _ = command("check", "run", "square.png", "bald", "--threshold=0.3")
    assert out.splitlines()[-1].endswith("the run has no threshold for it, as it was not evaluated")
    result = json.loads(command("check", "run", "square.png", "bald", "--threshold=0.3", "--json")[1])
    assert (result["score_threshold"], result["score_match"]) == (None, None)


@pytest.fixture
def finished(workdir):
    """The run's file of scores, which is put back."""
    path = workdir / "run" / "finished.json"
    content = path.read_bytes()
    yield path
    path.write_bytes(content)
    shutil.rmtree(workdir / "run" / "evaluation", ignore_errors=True)


FIRST_FORMAT = {"phase": "unimodal", "step": 6, "verdicts": {"thresholds": {"words": 0.3}}}


@pytest.mark.parametrize(
    ("file", "content", "threshold"),
    [
        ("finished.json", {"finished": "today", **FIRST_FORMAT}, 0.3),
        ("evaluation/scores.json", FIRST_FORMAT, 0.3),
        ("evaluation/scores.json", SCORES, 0.45),
        ("evaluation/unimodal/scores.json", SCORES, 0.45),
    ],
)
def test_the_threshold_is_in_either_file_of_either_format(command, finished, file, content, threshold):
    finished.unlink()
    path = finished.parent / file
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(content))
    assert json.loads(command("check", "run", "square.png", "bald", "--json")[1])["threshold"] == threshold


def test_the_newest_evaluation_counts(command, finished):
    later = finished.parent / "evaluation" / "scores.json"
    later.parent.mkdir()
    later.write_text(json.dumps({**FIRST_FORMAT, "consistency": {"threshold": 0.7}}))
    for ahead, expected in ((60, (0.3, 0.7)), (-60, (0.45, SCORES["consistency"]["threshold"]))):
        moment = finished.stat().st_mtime + ahead
        os.utime(later, (moment, moment))
        told = json.loads(command("check", "run", "square.png", "bald", "--json")[1])
        assert (told["threshold"], told["score_threshold"]) == expected


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        json.dumps({"finished": "today"}),
        json.dumps({"finished": "today", "scores": SCORES | {"checkpoints": {"": {"phase": "unimodal", "step": 5}}}}),
        json.dumps({"finished": "today", "scores": {**SCORES, "verdicts": {"thresholds": {"words": None}}}}),
        json.dumps({"finished": "today", "scores": {**SCORES, "verdicts": None}}),  # of an earlier version
    ],
)
def test_check_without_a_threshold_says_how_to_get_one(command, finished, content):
    finished.unlink() if content is None else finished.write_text(content)
    code, _, err = command("check", "run", "square.png", "bald")
    assert code == 2
    assert "has no threshold for words of its checkpoint of phase unimodal at step 6" in err
    assert "'mvae-jax experiments celebahq_mvae --evaluate --phase=unimodal --workdir=run'" in err


def test_interpolation_goes_from_end_to_end(command, workdir, run):
    assert command("interpolate", "run", CAPTION, "square.png", "--steps=3", "-o", "between")[0] == 0
    start, _ = run.encode_attributes(captions.read(CAPTION, run.config.attributes).values[None])
    end, _ = run.encode_image(pixels(workdir / "square.png"))
    expected = images.to_uint8(run.decode_image(jnp.concatenate([start, (start + end) / 2, end])))
    result = [picture(workdir / f"between/00{number}.png") for number in range(3)]
    np.testing.assert_allclose(result, expected, atol=1)
    assert command("interpolate", "run", "bald", CAPTION, "--spherical")[:2] == (0, "interpolation.png\n")


def test_fuse_decodes_the_product_of_both_posteriors(command, workdir, run):
    code, out, _ = command("fuse", "run", "square.png", CAPTION, "-o", "fused")
    attributes = captions.read(CAPTION, run.config.attributes).values[None]
    mean, _ = run.fuse(pixels(workdir / "square.png"), attributes)
    assert code == 0
    assert out.splitlines()[0] == captions.write(
        np.asarray(run.decode_attributes(mean)[0] > 0, float), run.config.attributes
    )
    np.testing.assert_array_equal(picture(workdir / "fused/000.png"), images.to_uint8(run.decode_image(mean))[0])
    assert command("fuse", "run", "square.png", CAPTION)[1].endswith("fused.png\n")


def test_a_cvae_generates_from_the_prior_of_the_attributes(command, workdir, conditional):
    assert command("generate", "cvae", CAPTION, "--count=3", "--seed=5", "-o", "conditional")[0] == 0
    attributes = captions.read(CAPTION, conditional.config.attributes).values[None]
    expected = images.to_uint8(conditional.sample(jax.random.key(5), np.tile(attributes, (3, 1))))
    result = [picture(workdir / f"conditional/{number:03d}.png") for number in range(3)]
    np.testing.assert_array_equal(result, expected)
    command("generate", "cvae", CAPTION, "--count=1", "--temperature=0", "-o", "mean")
    mean, _ = conditional.prior(attributes)
    expected = images.to_uint8(conditional.decode(mean, attributes))
    np.testing.assert_array_equal([picture(workdir / "mean/000.png")], expected)


@pytest.fixture(scope="module")
def learned(workdir):
    """A CVAE with a learned prior."""
    shutil.copytree(workdir / "cvae", workdir / "learned")
    return prior.train(workdir / "learned", zoo.faces(16, zoo.CVAE.image_size), prior.Config(epochs=1))


def test_generate_draws_by_the_learned_prior_where_there_is_one_and_says_so(command, workdir, conditional, learned):
    rows = np.tile(captions.read(CAPTION, conditional.config.attributes).values[None], (3, 1))
    code, _, err = command("generate", "learned", CAPTION, "--count=3", "--seed=5", "--guidance=2", "-o", "by_flow")
    assert code == 0
    assert "learned: codes are drawn from the learned prior over codes (latent_flow, step 1)" in err
    codes = learned.sample(jax.random.key(5), rows, np.ones_like(rows), guidance=2.0)
    expected = images.to_uint8(conditional.decode(codes, rows))
    np.testing.assert_array_equal([picture(workdir / f"by_flow/{number:03d}.png") for number in range(3)], expected)
    code, _, err = command("generate", "learned", CAPTION, "--count=3", "--seed=5", "--prior=own", "-o", "by_own")
    assert code == 0
    assert "learned: codes are drawn from the model's prior" in err
    expected = images.to_uint8(conditional.sample(jax.random.key(5), rows))
    np.testing.assert_array_equal([picture(workdir / f"by_own/{number:03d}.png") for number in range(3)], expected)


def test_an_export_takes_the_learned_prior_along_and_draws_by_it(command, exporting, workdir, learned):
    code, out, _ = exporting("learned", "with_prior", "--weights-only")
    assert code == 0
    assert "with_prior/latent_flow/weights.safetensors: " in out
    for name in ("learned", "with_prior"):
        code, _, err = command("generate", name, CAPTION, "--count=2", "--seed=5", "-o", f"{name}_drawn.png")
        assert code == 0
        assert f"{name}: codes are drawn from the learned prior over codes (latent_flow, step 1)" in err
    assert (workdir / "learned_drawn.png").read_bytes() == (workdir / "with_prior_drawn.png").read_bytes()


def test_a_prior_that_is_still_training_is_not_exported_and_that_is_said(exporting, workdir, learned, monkeypatch):
    monkeypatch.setattr(prior.Prior, "is_complete", lambda *_: False)
    code, out, _ = exporting("learned", "without_prior", "--weights-only")
    assert code == 0
    begun = prior.folder_of(workdir / "learned", runs.load(workdir / "learned"))
    assert out.splitlines()[-1] == (
        f"The learned prior in {begun} is not exported: its training has not come to its end."
    )
    assert not (workdir / "without_prior/latent_flow").exists()


def test_birds_have_their_attributes_by_name(command, workdir):
    birds = runs.load(workdir / "birds")
    assert command("attributes", "birds") == (0, "".join(f"{name}\n" for name in BIRDS), "")
    names = "002.Laysan_Albatross, has_wing_color::brown"
    assert command("generate", "birds", names, "--count=2", "-o", "birds_drawn")[0] == 0
    expected = birds.sample(jax.random.key(0), np.array([[1, 0, 0, 1]] * 2, np.float32))
    result = [picture(workdir / f"birds_drawn/00{number}.png") for number in range(2)]
    np.testing.assert_array_equal(result, images.to_uint8(expected))


def test_an_edit_decodes_the_mean_of_the_image_with_other_attributes(command, workdir, conditional):
    names = conditional.config.attributes
    edit = ["edit", "cvae", "square.png", "a smiling man", "--add=bald,eyeglasses", "--remove=smiling"]
    code, out, err = command(*edit, "-o", "edited")
    assert (code, out) == (0, "edited/000.png\n")
    assert err == "square.png: cropped 32 x 32 to the central 25 x 32, resized to 14 x 18\n"
    x, _ = decode.read_image(workdir / "square.png", conditional.config.image_size)
    x = images.to_float(jnp.asarray(x[None]))
    shown, other = (captions.read(text, names).values[None] for text in ("a smiling man", "a bald man with eyeglasses"))
    expected = images.to_uint8(conditional.decode(conditional.encode(x, shown).mean, other))
    np.testing.assert_array_equal([picture(workdir / "edited/000.png")], expected)
    assert (expected != images.to_uint8(conditional.decode(conditional.encode(x, shown).mean, shown))).any()
    assert command(*edit)[:2] == (0, "edited.png\n")
    assert picture(workdir / "edited.png").shape[1] > 3 * 160


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["caption", "cvae", "square.png"],
            "cvae holds a run of the model 'cvae'; expected 'multimodal' for this command: name another run, or "
            "use this one from Python, `mvae_jax.runs.load('",
        ),
        (["edit", "run", "square.png", "bald", "--add=young"], "of the model 'multimodal'; expected 'cvae'"),
        (["edit", "cvae", "square.png", "bald"], "neither --add nor --remove is given"),
        (["edit", "cvae", "square.png", "bald", "--add=bald"], "--add is 'bald', which the image has already"),
        (
            ["edit", "cvae", "square.png", "bald", "--add=young", "--remove=young"],
            "--remove is 'young', which the image",
        ),
        (["edit", "cvae", "square.png", "a woman", "--add=male"], "would be 'male' and 'female'; expected one gender"),
        (["edit", "cvae", "square.png", "a man", "--remove=male"], "would be of no gender; expected one gender and at"),
        (
            ["edit", "cvae", "square.png", "a bald man", "--add=blond_hair"],
            "would be 'male' and 'blond_hair' and 'bald'; expected one gender and at most one hair colour: --remove",
        ),
        (["edit", "cvae", "square.png", "bald", "--add=smilling"], "'smilling' is not an attribute of the model"),
        (["edit", "cvae", "square.png", "bald", "--add=smilling"], "such as 'smiling'"),
        (["edit", "cvae", "square.png", "bald", "--add=,"], "names no attribute; expected names such as 'young'"),
        (["edit", "cvae", "square.png", "bald", "--add=young", "-o", "square.png"], "square.png, an input"),
        (["generate", "birds", "brown wings"], "'brown wings' is not an attribute of the model"),
        (["generate", "birds", "Laysan_Albatross"], "such as '002.Laysan_Albatross'"),
        (["generate", "cvae", "gray hair"], "the model has no attribute 'gray_hair'"),
        (["caption", "none", "square.png"], "none/config.json does not exist"),
        (["caption", ".", "square.png"], "It holds runs of its own: birds, cvae, "),
        (["caption", "run", "none.png"], "There is no file none.png: give the path of a JPEG, PNG or WebP image"),
        (
            ["caption", "run", "run"],
            "run is a folder, expected a file: give the path of a JPEG, PNG",
        ),
        (
            ["caption", "run", "text.png"],
            "text.png (6 bytes) cannot be used: it is no JPEG, PNG or WebP image: give",
        ),
        (["caption", "run", ""], "the path '' is empty: give that of a file"),
        (["caption", "run", "square.png", "--phase=last"], "has no phase 'last'"),
        (["generate", "run", "a womann"], "did you mean 'woman'"),
        (["generate", "run", "gray hair"], "the model has no attribute 'gray_hair'"),
        (["generate", "run", ""], "Cannot read '': it is empty. The model knows: "),
        (["generate", "run", ", !"], "Cannot read ', !': it is empty. The model knows: "),
        (["generate", "run", "bald", "--count=0"], "--count is 0"),
        (["generate", "run", "bald", "--temperature=1e39"], "1e+39; expected 0 (the mean of what is said) to 1000"),
        (["generate", "run", "bald", "--temperature=-1"], "--temperature is -1"),
        (["generate", "run", "bald", "--temperature=nan"], "--temperature is nan"),
        (["generate", "run", "bald", "--guidance=-1"], "--guidance is -1"),
        (["generate", "run", "bald", "--guidance=2"], "the posterior of the caption knows no guidance"),
        (["generate", "run", "bald", "--prior=flow"], "run has no learned prior of its checkpoint of phase unimodal"),
        (["interpolate", "run", "bald", "bald", "--steps=1"], "--steps is 1"),
        (["generate", "run", "bald", "-o", "faces.gif"], "'faces.gif' does not end with .png, .jpg, .jpeg, .webp"),
        (["generate", "none", "bald", "-o", "text.png/faces.png"], "text.png is no folder"),
        (["generate", "run", "bald", "--seed=-1"], "--seed is -1"),
        (["generate", "run", "bald", f"--seed={2**63}"], "expected a number from 0 to 2**32 - 1"),
        (["generate", "~none-such/run", "bald"], "~none-such/run"),
        (["check", "run", "square.png", "bald", "--threshold=nan"], "--threshold is nan"),
        (["fuse", "run", "square.png", "bald", "-o", "./square.png"], "square.png, an input"),
        (["interpolate", "run", "bald", "text.png"], "text.png"),
        (["draw", "run"], "invalid choice: 'draw'"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_with_a_message(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("error: ") == 1


def test_settings_that_were_removed_are_passed_over_if_told_so(command, workdir):
    shutil.copytree(workdir / "run", workdir / "removed")
    path = workdir / "removed" / "config.json"
    settings = json.loads(path.read_text())
    settings["config"]["model"]["spin"] = 3
    path.write_text(json.dumps(settings | {"sha256": None}))
    code, _, err = command("attributes", "removed")
    assert code == 2
    assert "config.json has config.model.spin = 3, which this version does not have" in err
    code, out, _ = command("attributes", "removed", "--ignore-removed")
    assert (code, out) == (0, command("attributes", "run")[1])


@pytest.fixture
def experiments_run(workdir, run):
    """Adds to the run what an experiment says of it: on what it was trained, and the errors of images like those."""

    def add(folder, scores, key):
        settings = json.loads((workdir / folder / "config.json").read_text())
        settings["provenance"] = {"data": {"source": "rendered faces"}, "starts": []}
        (workdir / folder / "config.json").write_text(json.dumps(settings | {"sha256": None}))
        place = workdir / folder if key == "" else (workdir / folder).parent
        (place / "evaluation").mkdir()
        loaded = runs.load(workdir / folder)
        checkpoints = {key: {"phase": loaded.phase, "step": loaded.step}}
        (place / "evaluation" / "scores.json").write_text(json.dumps({"checkpoints": checkpoints, **scores}))

    before = {folder: (workdir / folder / "config.json").read_bytes() for folder in ("run", "cvae")}
    yield add
    for folder, content in before.items():
        (workdir / folder / "config.json").write_bytes(content)
        shutil.rmtree(workdir / folder / "evaluation", ignore_errors=True)
    shutil.rmtree(workdir / "evaluation", ignore_errors=True)


def numbers_of(run, path, attributes=None):
    """Mean squared error of an image's reconstruction in [0, 1] and KL of its posterior from N(0, I)."""
    picture, _ = decode.read_image(path, run.config.image_size)
    x = picture[None] / np.float32(127.5) - 1
    if attributes is None:
        mean, logvar = map(np.asarray, run.encode_image(x))
        decoded = np.asarray(run.decode_image(mean))
    else:
        mean, logvar = map(np.asarray, run.encode(x, attributes))
        decoded = np.asarray(run.decode(mean, attributes))
    return float(np.square((x - decoded) / 2).mean()), float((np.exp(logvar) + mean**2 - 1 - logvar).sum() / 2)


@pytest.mark.parametrize("unlike", ["reconstruction_error", "kl", None])
def test_an_image_unlike_the_training_images_is_a_warning(command, workdir, run, experiments_run, unlike):
    error, kl = numbers_of(run, workdir / "square.png")
    limits = {"reconstruction_error": 1.01 * error, "kl": 1.01 * kl}
    if unlike:
        limits[unlike] /= 1.02
    experiments_run("run", {"typical_images": {"": limits}}, "")
    for arguments in (["caption", "run", "square.png"], ["interpolate", "run", "bald", "square.png"]):
        code, _, err = command(*arguments)
        assert (code, err.splitlines()[0]) == (0, "run: trained on rendered faces")
        (*_, last) = err.splitlines()
        if unlike is None:
            assert "warning" not in err
            continue
        assert last.startswith(
            "warning: square.png is unlike the images that the model was trained on, rendered faces: its "
        )
        value, limit = {"reconstruction_error": error, "kl": kl}[unlike], limits[unlike]
        assert f"is {value:.3g}, that of 99% of such images at most {limit:.3g}. What" in last


def test_a_member_of_an_experiment_finds_its_limits_beside_those_of_the_others(command, workdir, experiments_run):
    conditional = runs.load(workdir / "cvae")
    shown = captions.read("a smiling man", conditional.config.attributes).values[None]
    error, _ = numbers_of(conditional, workdir / "square.png", shown)
    edit = ["edit", "cvae", "square.png", "a smiling man", "--add=bald"]
    experiments_run("cvae", {"typical_images": {"cvae": {"reconstruction_error": 0.9 * error, "kl": 1e6}}}, "cvae")
    assert f"its reconstruction error is {error:.3g}, that of 99% of such images at most" in command(*edit)[2]


@pytest.mark.parametrize("scores", [{}, {"typical_images": 3}, {"typical_images": {"": {"kl": "x"}}}])
def test_a_run_without_limits_says_nothing_of_an_image(command, experiments_run, scores):
    experiments_run("run", scores, "")
    assert command("caption", "run", "square.png")[2] == "run: trained on rendered faces\n"


def test_a_caption_that_is_not_understood_says_which_words_are(command, run):
    _, _, err = command("generate", "run", "a tall woman")
    assert "unknown word 'tall'" in err
    known = err.split("The model knows: ")[1].rstrip(".\n").split(", ")
    assert {"man", "woman", "young", "eyeglasses"} <= set(known)
    assert len(known) == len(run.config.attributes)
    for words in known:
        captions.read(words, run.config.attributes)


def test_a_run_of_another_model_is_named(command, workdir, run):
    settings = json.loads((workdir / "run" / "config.json").read_text())
    other = workdir / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(settings | {"model": "none", "sha256": None}))
    code, _, err = command("caption", "other", "square.png")
    assert code == 2
    assert "is of the model 'none'" in err


# --- exports in place of runs ----------------------------------------------------------------------------------------


def test_commands_take_an_export_in_place_of_the_run(command, exporting, workdir):
    code, out, err = exporting("run", "taken", "--weights-only", "--license=apache-2.0")
    assert (code, err) == (0, "")
    names = ("README.md", "config.json", "export.json", "scores.json", "weights.safetensors")
    assert [line.split(":")[0] for line in out.splitlines()] == [f"taken/{name}" for name in names]
    assert json.loads((workdir / "taken/scores.json").read_text()) == SCORES
    assert "| consistency: f1 | 0.9 |" in (workdir / "taken/README.md").read_text()
    (workdir / "taken").rename(workdir / "elsewhere")
    check = ("face.png", CAPTION, "--json")
    assert command("check", "elsewhere", *check)[:2] == command("check", "run", *check)[:2]
    for name in ("run", "elsewhere"):
        assert command("generate", name, CAPTION, "--count=2", "-o", f"{name}_drawn.png")[0] == 0
    assert (workdir / "run_drawn.png").read_bytes() == (workdir / "elsewhere_drawn.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "."), "exists and is no export: choose another folder, or remove it"),
        (("run", "run", "--weights-only"), "exists and is no export"),
        (("nowhere", "taken"), "does not exist; expected the workdir of a run"),
        (("run", "taken", "--phase=later"), "has no phase 'later'"),
    ],
)
def test_exports_that_cannot_be_are_refused_in_one_line(arguments, message, exporting):
    code, out, err = exporting(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
