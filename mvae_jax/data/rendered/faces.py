"""Rendered faces: the data set that needs no download.

Shaded portraits, framed like the aligned crops of CelebAMask-HQ, with the ten attributes of the multimodal VAE, the
pose and every continuous factor known exactly. Attributes depend on one another as in photographs (moustaches on
men, grey hair on the old). The factors are independent of the attributes and of one another; what an attribute does
to the picture is added when it is drawn, so one attribute can be toggled with everything else held.

Example i is a function of (seed, i) alone: its random numbers are a block of a counter-based generator, and each
picture is computed by itself, so any split into batches, threads or workers gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from mvae_jax.attributes import FACE as ATTRIBUTES
from mvae_jax.data import source
from mvae_jax.data.batches import Splits, check_factors
from mvae_jax.data.rendered import _face_renderer
from mvae_jax.numerics import in_32_bits

RENDERED = "rendered"

# Largest angles in degrees, within the pose filter of the multimodal VAE. Positive yaw looks to the left of the
# picture and positive pitch up, as CelebAMask-HQ annotates them; positive roll is clockwise.
POSE: dict[str, float] = {"yaw": 20.0, "pitch": 15.0, "roll": 12.0}

POSE_UNIT = 30.0  # degrees; in it the angles of faces that look ahead are of order one

FACTORS: tuple[str, ...] = (
    *POSE,
    # identity
    *("face_width", "face_length", "jaw", "cheekbones"),
    *("eye_distance", "eye_size", "eye_tilt", "eye_colour", "brow_height", "brow_thickness", "brow_arch"),
    *("nose_width", "nose_length", "mouth_width", "mouth_height", "lip_thickness"),
    *("skin_tone", "undertone"),
    *("hair_shade", "hair_hue", "hair_length", "hair_volume", "hair_wave", "hair_part", "hair_locks", "hairline"),
    *("fringe", "beard", "mustache_style", "makeup", "lip_colour"),
    *("glasses_size", "glasses_shape", "glasses_weight", "glasses_colour", "lens_tint"),
    # the moment
    *("expression", "mouth_open", "gaze", "scale", "shift_u", "shift_v"),
    # nuisance: light, surroundings, camera
    *("light_azimuth", "light_elevation", "light_contrast", "shine"),
    *("background_hue", "background_saturation", "background_value", "background_gradient", "clutter"),
    *("clothes_hue", "clothes_value", "clothes_height", "clothes_collar"),
    *("exposure", "temperature", "contrast", "defocus", "noise", "texture"),
)

# What scores of disentanglement take as the generative factors of a face, name -> number of values: the one attribute
# that depends on no other, and factors that change every face much, in bins of equal probability. Independent as they
# are, any combination of their values can be drawn.
BINS: dict[str, int] = {
    "male": 2,
    **dict.fromkeys(POSE, 8),
    **dict.fromkeys(("skin_tone", "light_azimuth", "background_value", "exposure", "scale", "shift_u", "shift_v"), 8),
}

IMAGE_SIZES = (32, 64, 128)

_CHUNK_PIXELS = 8 * 64 * 64  # of one compiled call: enough to pay for the call, few enough to stay in cache
_DRAWS = 8 + 2 * len(FACTORS) + (-(8 + 2 * len(FACTORS))) % 4  # uniforms per example, whole Philox counters


class Faces(NamedTuple):
    """Rendered faces and what they show.

    Attributes:
        images: uint8 [N, H, W, 3].
        attributes: float32 [N, 10] in {0, 1}, columns `ATTRIBUTES`.
        factors: float32 [N, F], columns `FACTORS`: degrees for yaw, pitch, roll, else [-1, 1] with 0 the average.
    """

    images: np.ndarray
    attributes: np.ndarray
    factors: np.ndarray


@functools.cache
def _renderer(image_size: int) -> Callable[..., jax.Array]:
    """The compiled program; the last call of a batch is padded, so there is one per image size.

    It is optimised whatever XLA_FLAGS say: the bytes of a face shall not depend on them, and without LLVM's
    optimisations a face takes eight times as long.
    """
    options = {"xla_backend_optimization_level": 3}
    return jax.jit(functools.partial(_face_renderer.render, size=image_size), compiler_options=options)


def render(attributes: np.ndarray, factors: np.ndarray, image_size: int = 64) -> np.ndarray:
    """Draws faces; a pure function of its arguments, each face of its own row.

    Runs on the CPU whatever accelerator there is, so that the bytes do not depend on it, in one thread per core.

    Args:
        attributes: [N, 10] in {0, 1}, columns `ATTRIBUTES`; female = 1 - male, and at most one of black_hair,
            blond_hair and bald.
        factors: [N, F], columns `FACTORS`: yaw, pitch and roll in degrees, the others in [-1, 1].
        image_size: height and width in pixels, one of `IMAGE_SIZES`.

    Returns:
        uint8 [N, image_size, image_size, 3].

    Raises:
        ValueError: shape, range or image size is wrong, attributes contradict one another, or JAX_PLATFORMS leaves the
            CPU out.
    """
    attributes, factors = np.asarray(attributes, np.float32), np.asarray(factors, np.float32)
    _check(attributes, factors, image_size)
    count, size = len(attributes), _CHUNK_PIXELS // image_size**2
    if count == 0:
        return np.zeros((0, image_size, image_size, 3), np.uint8)
    program, cpu = _renderer(image_size), _cpu()

    @in_32_bits  # in each thread
    def chunk(start: int) -> np.ndarray:
        rows = np.minimum(np.arange(start, start + size), count - 1)
        a = dict(zip(ATTRIBUTES, attributes[rows].T.reshape(-1, size, 1, 1, 1), strict=True))
        f = dict(zip(FACTORS, factors[rows].T.reshape(-1, size, 1, 1, 1), strict=True))
        with jax.default_device(cpu):
            return np.asarray(program(_face_renderer.proportions(a, f), f))

    done = [chunk(0)]  # alone, so that one thread compiles
    if count > size:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done += pool.map(chunk, range(size, count, size))
    return np.concatenate(done)[:count]


def _cpu() -> jax.Device:
    """The device that draws."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except Exception as error:  # RuntimeError; where JAX sees none at all, an AssertionError
        asked = jax.config.values["jax_platforms"]
        raise ValueError(
            f"JAX_PLATFORMS is {asked!r}, and faces are drawn by the CPU; unset it, or add the CPU, as in "
            "JAX_PLATFORMS=cuda,cpu."
        ) from error


def _check(attributes: np.ndarray, factors: np.ndarray, image_size: int) -> None:
    """Raises ValueError unless `render` can draw this."""
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image_size is {image_size}, expected one of {IMAGE_SIZES}.")
    if attributes.ndim != 2 or attributes.shape[1] != len(ATTRIBUTES):
        raise ValueError(f"attributes have shape {attributes.shape}, expected [N, {len(ATTRIBUTES)}]: {ATTRIBUTES}.")
    if factors.shape != (len(attributes), len(FACTORS)):
        raise ValueError(
            f"factors have shape {factors.shape}, expected [{len(attributes)}, {len(FACTORS)}]: one row per row of "
            "attributes, one column per name in faces.FACTORS."
        )
    if not np.isin(attributes, (0.0, 1.0)).all():
        wrong = attributes[~np.isin(attributes, (0.0, 1.0))][0]
        raise ValueError(f"attributes contain {wrong}, expected only 0 and 1.")
    column = dict(zip(ATTRIBUTES, attributes.T, strict=True))
    if (column["female"] != 1.0 - column["male"]).any():
        raise ValueError("attributes have female different from 1 - male; set the two columns together.")
    if (column["black_hair"] + column["blond_hair"] + column["bald"] > 1.0).any():
        raise ValueError("attributes set more than one of black_hair, blond_hair and bald; at most one can be 1.")
    limits = np.array([POSE.get(name, 1.0) for name in FACTORS], np.float32)
    outside = ~(np.abs(factors) <= limits)  # catches NaN too
    if outside.any():
        row, j = np.argwhere(outside)[0]
        raise ValueError(f"factor {FACTORS[j]!r} of row {row} is {factors[row, j]}, expected within +-{limits[j]:g}.")


def _attributes(uniform: np.ndarray) -> np.ndarray:
    """Attributes with the dependencies of photographs, from eight independent uniforms per row."""
    u_male, u_young, u_smile, u_glasses, u_bald, u_hair, u_mustache, u_lipstick = uniform.T
    male = u_male < 0.5
    young = u_young < np.where(male, 0.66, 0.8)
    smiling = u_smile < np.where(male, 0.42, 0.56)
    eyeglasses = u_glasses < np.where(young, 0.08, 0.22) + 0.06 * male
    bald = male & (u_bald < np.where(young, 0.07, 0.32))
    black = ~bald & (u_hair < np.where(young, 0.32, 0.14))
    blond = ~bald & (u_hair > np.where(male, 0.88, 0.68))
    mustache = male & (u_mustache < np.where(young, 0.22, 0.32))
    lipstick = u_lipstick < np.where(male, 0.01, np.where(young, 0.74, 0.58))
    columns = (young, male, ~male, smiling, eyeglasses, black, blond, bald, mustache, lipstick)
    return np.stack(columns, axis=1).astype(np.float32)


def sample(seed: int, count: int, image_size: int = 64, first: int = 0) -> Faces:
    """Draws examples `first` to `first + count - 1` of the endless data set named by `seed`.

    Pose has a triangular density on its range, every other factor is uniform; all are independent.

    Args:
        seed: which data set, at least 0.
        count: examples to draw, at least 0.
        image_size: one of `IMAGE_SIZES`; the same faces at every size.
        first: index of the first example, at least 0.

    Returns:
        The examples, in order.

    Raises:
        ValueError: an argument is out of range.
    """
    return _drawn(_uniforms(seed, count, first), image_size)


def _uniforms(seed: int, count: int, first: int) -> np.ndarray:
    """The independent uniforms in [0, 1) that examples are made of: float64 [count, 8 + 2 F], eight for attributes."""
    if min(seed, count, first) < 0:
        raise ValueError(f"seed {seed}, count {count} and first {first} must be at least 0.")
    # Philox computes its n-th block of four numbers from (key, n) directly.
    generator = np.random.Generator(np.random.Philox(key=seed, counter=first * (_DRAWS // 4)))
    return generator.random((count, _DRAWS))[:, : 8 + 2 * len(FACTORS)]


def _drawn(uniform: np.ndarray, image_size: int, given: Mapping[str, np.ndarray] | None = None) -> Faces:
    """The examples that `_uniforms` make, with some factors, name -> [N], given instead."""
    attributes = _attributes(uniform[:, :8])
    draws = 2.0 * uniform[:, 8:].reshape(len(uniform), len(FACTORS), 2) - 1.0
    limits = np.array(list(POSE.values()))
    pose = limits * draws[:, : len(POSE)].mean(-1)
    factors = np.concatenate([pose, draws[:, len(POSE) :, 0]], axis=1).astype(np.float32)
    for name, values in (given or {}).items():
        factors[:, FACTORS.index(name)] = values
    return Faces(render(attributes, factors, image_size), attributes, factors)


def bins_of(faces: Faces) -> np.ndarray:
    """Returns the values of the factors `BINS` of faces, int32 [N, len(BINS)]; they are uniform and independent."""
    columns = [faces.attributes[:, ATTRIBUTES.index("male")]]
    for name, size in list(BINS.items())[1:]:
        values = faces.factors[:, FACTORS.index(name)].astype(np.float64) / POSE.get(name, 1.0)
        if name in POSE:  # the distribution function of the triangular density, to [-1, 1]
            values = np.sign(values) * (1.0 - (1.0 - np.abs(values)) ** 2)
        columns.append(np.minimum((values + 1.0) / 2.0 * size, size - 1))
    return np.stack(columns, axis=1).astype(np.int32)


def sample_bins(bins: np.ndarray, seed: int, image_size: int = 64, first: int = 0) -> Faces:
    """Draws faces with given values of the factors `BINS`; everything else varies as in `sample`.

    Where the values are drawn uniformly, the faces are distributed as those of `sample`.

    Args:
        bins: values of the factors, int [N, len(BINS)], columns `BINS`.
        seed: which draws of everything else, at least 0.
        image_size: one of `IMAGE_SIZES`.
        first: number of the first draw of everything else, at least 0; to go on, add N after every call.

    Returns:
        N faces, of which `bins_of` gives `bins`.

    Raises:
        ValueError: an argument is out of range.
    """
    bins = check_factors(bins, BINS)
    uniform = _uniforms(seed, len(bins), first)
    uniform[:, 0] = (1 - bins[:, 0] + uniform[:, 0]) / 2.0  # men are below one half
    given = {}
    for (name, size), column in list(zip(BINS.items(), bins.T, strict=True))[1:]:
        # Not so near an edge that rounding to float32 would cross it.
        within = uniform[:, 8 + 2 * FACTORS.index(name)].clip(1e-4, 1.0 - 1e-4)
        values = 2.0 * (column + within) / size - 1.0
        if name in POSE:  # the inverse of the triangular density's distribution function
            values = np.sign(values) * (1.0 - np.sqrt(1.0 - np.abs(values)))
        given[name] = POSE.get(name, 1.0) * values
    return _drawn(uniform, image_size, given)


def splits(
    seed: int = 42,
    subset_size: int = 5000,
    validation_size: int = 500,
    calibration_size: int = 500,
    *,
    image_size: int = 64,
    attributes: tuple[str, ...] = ATTRIBUTES,
    pose: bool = False,
) -> Splits:
    """Draws a data set: examples 0 to subset_size + calibration_size - 1 of `sample`, cut into splits.

    Args:
        seed: which data set, at least 0.
        subset_size: examples for training and validation together.
        validation_size: how many of them, the last ones, are validated on.
        calibration_size: examples after them for calibration.
        image_size: one of `IMAGE_SIZES`.
        attributes: which of `ATTRIBUTES`, in the order of the attribute vector.
        pose: whether the splits have "pose" too, yaw, pitch and roll, float32 [N, 3], see `in_pose_units`.

    Returns:
        The three splits; "index" is the example's number in `sample`.

    Raises:
        ValueError: an argument is out of range, or an attribute is not rendered.
    """
    unknown = sorted(set(attributes) - set(ATTRIBUTES))
    if unknown:
        raise ValueError(
            f"rendered faces have no attribute {', '.join(unknown)}; they have {', '.join(ATTRIBUTES)}. Give a data "
            "set that has it as the source."
        )
    if not 0 < validation_size < subset_size:
        raise ValueError(
            f"validation_size is {validation_size} of subset_size {subset_size}, expected to leave images for training "
            "and for validation."
        )
    count = subset_size + calibration_size
    drawn = sample(seed, count, image_size)
    arrays = {
        "image": drawn.images,
        "attributes": drawn.attributes[:, [ATTRIBUTES.index(name) for name in attributes]],
        "index": np.arange(count, dtype=np.int32),
    }
    if pose:
        arrays["pose"] = in_pose_units(drawn.factors[:, : len(POSE)])
    provenance = {"source": "rendered faces", "seed": seed, "images": count}
    return Splits.cut(arrays, subset_size - validation_size, validation_size, attributes, provenance)


def in_pose_units(degrees: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll in units of `POSE_UNIT`, 30 degrees: float32 [N, 3] of angles [N, 3] in degrees."""
    return (np.asarray(degrees, np.float64) / POSE_UNIT).astype(np.float32)


# The official order of CelebA's annotations, a header line of the file.
_CELEBA_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair "
    "Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup "
    "High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose "
    "Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat "
    "Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)


def write_celebamask_hq(folder: str | os.PathLike[str], faces: Faces) -> None:
    """Writes faces as CelebAMask-HQ is published: JPEG images, attribute and pose annotations.

    The annotations name all 40 official attributes; those that are not rendered are -1 (absent) everywhere.

    Args:
        folder: receives `CelebAMask-HQ/`; made where it does not exist.
        faces: what to write; image N of the files is row N.
    """
    root = Path(folder) / "CelebAMask-HQ"
    images = root / "CelebA-HQ-img"
    images.mkdir(parents=True, exist_ok=True)
    column = {
        name.lower(): 2 * values.astype(int) - 1 for name, values in zip(ATTRIBUTES, faces.attributes.T, strict=True)
    }
    absent = np.full(len(faces.images), -1)
    signs = np.stack([column.get(name.lower(), absent) for name in _CELEBA_NAMES.split()], axis=1)
    attribute_lines = [str(len(faces.images)), _CELEBA_NAMES]
    pose_lines = [str(len(faces.images)), "Yaw Pitch Raw"]  # sic, as published
    for i, (image, row, factors) in enumerate(zip(faces.images, signs, faces.factors, strict=True)):
        Image.fromarray(image).save(images / f"{i}.jpg", quality=95)
        attribute_lines.append(f"{i}.jpg  " + " ".join(map(str, row)))
        pose_lines.append(f"{i}.jpg " + " ".join(map(str, factors[: len(POSE)])))
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(attribute_lines) + "\n")
    (root / "CelebAMask-HQ-pose-anno.txt").write_text("\n".join(pose_lines) + "\n")


# --- as a source ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config(source.Subset):
    """Rendered faces.

    Attributes:
        source: "rendered".
        seed: of the faces.
    """

    source: str = RENDERED
    kind: str = dataclasses.field(init=False, default="rendered faces")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_not_all()


def _load(config: Config, request: source.Request) -> Splits:
    return splits(
        config.seed,
        config.subset_size,
        config.validation_size,
        config.calibration_size,
        image_size=request.side(config.kind),
        attributes=ATTRIBUTES if request.attributes is None else request.attributes,
        pose=request.pose,
    )


SOURCE = source.Source(Config, _load, source.no_files, keywords=(RENDERED,), has_pose=True)
