"""A run of the toy that is killed or loses bits of what it has saved: the same command ends with the same bits."""

import shutil
import signal

import killed
import numpy as np
import pytest

pytestmark = pytest.mark.promise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def train(folder):
    with killed.server(folder) as train:
        yield train


@pytest.fixture(scope="module")
def whole(train, folder):
    return killed.undisturbed(train, folder)


def test_kills_at_random_moments(train, folder, whole, disturbed, count, promise):
    rng, of = np.random.default_rng(0), count(3, 40)

    def kill(name):
        status, _ = train(name, delay=rng.uniform(0.0, whole.seconds))
        if status == 0:
            return None
        return "" if status == -signal.SIGKILL else f"ended with {status}"

    def end(name):
        if not (folder / "runs" / name / "finished.json").exists():
            killed.check_end(folder, name, whole, *train(name))
        return ""

    promise("kills, the toy at random moments", of, disturbed(of, kill, end))


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def truncate(path, rng):
    with path.open("ab") as file:
        file.truncate(int(rng.integers(path.stat().st_size)))


DAMAGE = {"flipped bits": flip, "files cut off": truncate, "files deleted": lambda path, rng: path.unlink()}


@pytest.fixture(scope="module")
def killed_run(train, folder, whole):
    """A workdir with checkpoints of both phases, of which those of the second are needed to go on from there."""
    status, _ = train("killed", step=12)
    assert status == -signal.SIGKILL
    assert all((folder / "runs/killed/checkpoints" / phase).is_dir() for phase in ("first", "second"))
    return folder / "runs/killed"


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_checkpoints_are_refused_or_harmless(train, folder, whole, killed_run, count, promise, kind):
    """Of the newest checkpoint, mostly, or of any."""
    rng, of, refused, broken = np.random.default_rng(len(kind)), count(1, 25), 0, []
    for number in range(of):
        name = f"{kind.replace(' ', '_')}{number}"
        workdir = shutil.copytree(killed_run, folder / "runs" / name)
        found = workdir.glob("checkpoints/*/*")  # a kill in a save leaves a folder that is no checkpoint
        checkpoints = sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name))
        chosen = checkpoints[-1] if rng.random() < 0.7 else checkpoints[rng.integers(len(checkpoints))]
        files = sorted(path for path in chosen.rglob("*") if path.is_file() and path.stat().st_size)
        damaged = files[rng.integers(len(files))]
        DAMAGE[kind](damaged, rng)
        status, words = train(name)
        if status == 2 or words[:1] == ["refused:"]:
            refused += 1
        elif (status, words) != (0, [whole.digest]):
            broken.append(f"{damaged}: ended with {status}, {' '.join(words)}")
        shutil.rmtree(workdir)
    promise(f"checkpoints, {kind}", of, broken, f"{refused} refused, the others went on to the same bits")
