"""Draws faces as functions of their attributes and factors, in JAX so that XLA fuses the arithmetic.

Coordinates: the picture spans [-1, 1] in both directions, u to the right and v down, whatever its size in pixels.
Head coordinates (X right, Y down, Z towards the viewer) coincide with them in a frontal view, where the pupils lie
at about (+-0.30, -0.06), the mouth at (0, 0.51) and the chin at (0, 0.87), as in the crops of CelebAMask-HQ.

The head is a stack of ellipses, one per height Y, which a ray meets in closed form; nose, lips, eye sockets and
wrinkles are a bump map on it. Everything on the skin is painted in head coordinates, so it turns with the head.
Of one face, colours are linear-light RGB, [3, H, W] or [3, 1, 1], until the sensor at the end; masks and coordinates
are [1, H, W], numbers [1, 1, 1].

Sampling: there are `SUPERSAMPLING`^2 rays per pixel, which a Gaussian averages at the end (`_photograph`). Until then
an image has n = `SUPERSAMPLING` * size samples in a row, 2 / n apart: `aa` is that distance.

Masks: what is painted has a mask in [0, 1]. It is smooth, since a hard edge would flicker from pixel to pixel when the
face moves a little: hard things have a border as wide as a few samples, soft ones a wide ramp (`_ramp`) or a blob that
fades out everywhere (`_gauss`). The product of masks is their intersection, the maximum their union.

Blending: `_lerp(picture, colour, mask)` covers, as opaque paint does; `picture * (1 - strength * mask)` darkens, as
shadow, crease or tint do, and keeps the colour below. Later strokes lie over earlier ones: the order is that of depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EYE_LINE = -0.06  # v of the pupils
MOUTH_LINE = 0.51  # v of the closed lips
CHIN = 0.87  # v of the chin
NEAR = 0.48  # Z of the plane through pupils and mouth, which the crop keeps centred when the head turns
SUPERSAMPLING = 2  # rays per pixel and direction

Scalars = Mapping[str, jax.Array]


def _gauss(*terms: jax.Array) -> jax.Array:
    """A smooth blob, about exp(-sum t^2 / 2), in coordinates t measured in standard deviations.

    Computed as (1 - sum t^2 / 8)^4, zero beyond t = sqrt(8), because exp costs as much as thirty multiplications.
    """
    return jnp.maximum(1.0 - 0.125 * sum(t * t for t in terms), 0.0) ** 4


def _wave(t: jax.Array) -> jax.Array:
    """A smooth wave of period 2 pi between -1 and 1, within 6 % of the sine (two parabolas a period)."""
    t = t / (2.0 * np.pi)
    t = t - jnp.floor(t + 0.5)  # periods from the nearest upward crossing of 0, in [-1/2, 1/2)
    return 8.0 * t * (1.0 - 2.0 * jnp.abs(t))


def _ramp(x: Any, width: Any) -> Any:
    """Smooth step from 0 to 1 over `width` centred at x = 0; of NumPy or JAX arrays, like the next ones.

    As a mask it is 1 where x, a distance inside a border, is positive: `_ramp(y - top, w) * _ramp(low - y, w)` is the
    band between two lines.
    """
    t = (x / width + 0.5).clip(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _lerp(a: Any, b: Any, weight: Any) -> Any:
    """Blends from a to b; with a mask as the weight, b is painted over a."""
    return a + (b - a) * weight


def _rgb(*rgb: float) -> np.ndarray:
    """A display colour in [0, 255] as linear light, with gamma 2: [3, 1, 1]."""
    return ((np.asarray(rgb, np.float32) / 255.0) ** 2).reshape(3, 1, 1)


def _channels(red: float, green: float, blue: float) -> np.ndarray:
    """Numbers per channel, [3, 1, 1]."""
    return np.array([red, green, blue], np.float32).reshape(3, 1, 1)


def _palette(position: Any, *colours: tuple[float, float, float]) -> Any:
    """Interpolates between equally spaced display colours; position runs from 0 to 1."""
    place = position * (len(colours) - 1)
    # A colour weighs most at its place and nothing from its neighbours on; the weights add up to 1.
    hats = [(1.0 - abs(place - i)).clip(0.0) for i in range(len(colours))]
    return sum(_rgb(*c) * hat for c, hat in zip(colours, hats, strict=True))


def _hash(bits: jax.Array) -> jax.Array:
    """A hash of uint32 (two multiply-xorshift rounds) as float32 in [0, 1): noise without a generator's state."""
    for multiplier in (0x7FEB352D, 0x846CA68B):
        bits = (bits ^ (bits >> 16)) * jnp.uint32(multiplier)
    return (bits >> 8).astype(jnp.float32) / 2**24


def proportions(a: Mapping[str, np.ndarray], f: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Measures of the head, its hair and its paint by attributes and factors; all of it independent of the pixels.

    Args:
        a: attributes, name -> [B, 1, 1, 1] in {0, 1}.
        f: factors, name -> [B, 1, 1, 1] in [-1, 1].

    Returns:
        name -> [B, 1, 1, 1], colours [B, 3, 1, 1]. An attribute shifts the range that a factor moves in.
    """
    old, male, female = 1.0 - a["young"], a["male"], a["female"]
    # Expression moves a smile between 0.5 and 1 and no smile about 0: the attribute can always be seen.
    smile = a["smiling"] * (0.75 + 0.25 * f["expression"]) + (1.0 - a["smiling"]) * (0.12 * f["expression"] - 0.02)
    # Hair: brown, red or silver by the factors, unless the attributes name black or blond.
    other = 1.0 - a["black_hair"] - a["blond_hair"]
    grey = old * _ramp(f["hair_hue"] + 0.55, 0.8)  # most of the old are grey, where no colour is named
    brown = _palette(0.5 + 0.5 * f["hair_shade"], (27, 19, 15), (56, 37, 26), (92, 62, 41), (140, 104, 68))
    red = _palette(0.5 + 0.5 * f["hair_shade"], (90, 36, 20), (160, 78, 40))
    silver = _palette(0.5 + 0.5 * f["hair_shade"], (92, 88, 86), (196, 194, 192))
    natural = _lerp(_lerp(brown, red, _ramp(f["hair_hue"] - 0.7, 0.4) * (1.0 - old)), silver, grey)
    black = _palette(0.5 + 0.5 * f["hair_shade"], (10, 8, 9), (40, 30, 26))
    blond = _palette(0.5 + 0.5 * f["hair_shade"], (120, 88, 54), (172, 134, 84), (220, 192, 144))
    hair_length = 0.45 * female - 0.3 * male + 0.55 * f["hair_length"] - 0.1 * old
    # Skin: tone from dark to light, undertone from cool to warm; the old are a little greyer.
    skin = _palette(
        0.5 + 0.5 * f["skin_tone"], (112, 72, 52), (184, 128, 96), (214, 158, 126), (226, 174, 146), (234, 190, 166)
    )
    skin = skin * (1.0 + 0.07 * f["undertone"] * _channels(1.0, -0.3, -1.0))
    skin = _lerp(skin, 0.9 * skin.mean(-3, keepdims=True), 0.12 * old)
    # About a third of the factor's range is a shaven face.
    beard = male * (f["beard"] + 0.3).clip(0.0) / 1.3
    return {
        "old": old, "male": male, "female": female, "smile": smile,
        "teeth": np.maximum(
            a["smiling"] * _ramp(f["mouth_open"] + 0.55, 0.6), 0.7 * _ramp(f["mouth_open"] - 0.75, 0.3)
        ),
        "width": 0.53 + 0.03 * f["face_width"] + 0.012 * male,
        "jaw": -0.25 + 0.2 * f["jaw"] + 0.35 * male + 0.1 * old,
        "chin": CHIN + 0.035 * f["face_length"] + 0.015 * male,
        "eye_x": 0.297 + 0.018 * f["eye_distance"],
        "eye_width": 0.116 * (1.0 + 0.1 * f["eye_size"] - 0.07 * old - 0.03 * male),
        "eye_open": 1.0 + 0.2 * f["eye_size"] - 0.15 * male - 0.18 * old - 0.25 * smile.clip(0.0),
        "brow_y": EYE_LINE - 0.142 + 0.022 * male - 0.018 * f["brow_height"] - 0.012 * female,
        "brow_thickness": 0.022 + 0.009 * male + 0.008 * f["brow_thickness"] - 0.003 * female,
        "brow_arch": 0.03 * female + 0.02 * f["brow_arch"] + 0.012,
        "nose_width": 1.0 + 0.14 * f["nose_width"] + 0.12 * male + 0.1 * old,
        "nose_tip": 0.265 + 0.025 * f["nose_length"] + 0.012 * old + 0.008 * male,
        "mouth_y": MOUTH_LINE + 0.025 * f["mouth_height"] + 0.01 * male,
        "mouth_width": 0.178 + 0.022 * f["mouth_width"] + 0.008 * male + 0.07 * smile.clip(0.0),
        "lip": (1.0 + 0.25 * f["lip_thickness"]) * (1.0 - 0.22 * male - 0.2 * old + 0.1 * a["wearing_lipstick"]),
        "hair_length": hair_length,
        "hair_long": _ramp(hair_length - 0.12, 0.3),
        "hair_volume": 0.11 + 0.05 * f["hair_volume"] + 0.03 * female,
        "hairline": -0.6 + 0.07 * f["hairline"] - 0.05 * male * old,
        "fringe": _ramp(f["fringe"] - 0.62 - 0.15 * male, 0.5),
        "bald": a["bald"], "hair": _lerp(natural, _lerp(blond, black, a["black_hair"]), 1.0 - other),
        "skin": skin, "beard": beard,
        "mustache": a["mustache"], "glasses": a["eyeglasses"], "lipstick": a["wearing_lipstick"],
        "makeup": female * (0.5 + 0.5 * f["makeup"]) * (1.0 - 0.4 * old),
    }  # fmt: skip


def _profile(y: jax.Array, p: Scalars) -> tuple[jax.Array, jax.Array]:
    """Half width and half depth of the head's horizontal section at height Y."""
    # Squared fractions of the way up to the crown and down to the chin; one of them is 0.
    up, down = jnp.maximum(-y, 0.0) / 0.88, jnp.maximum(y, 0.0) / p["chin"]
    up, down = up * up, down * down
    skull = 1.0 - up * _lerp(1.0, up, 0.7)
    width = jnp.sqrt(jnp.maximum(skull * (1.0 - down * _lerp(1.0, down, p["jaw"])), 1e-4))
    depth = jnp.sqrt(jnp.maximum(skull * (1.0 - down * down), 1e-4))
    return p["width"] * width, 0.58 * depth


def _trace(u: jax.Array, v: jax.Array, p: Scalars, f: Scalars) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Points where parallel rays meet the head: X, Y, Z and the distance inside the silhouette (negative outside).

    A section is the ellipse X = A sin t, Z = C cos t; turned by the yaw, u = W sin(t + d) with
    W^2 = (A cos yaw)^2 + (C sin yaw)^2, which gives t. The pitch couples Y to Z: two fixed-point iterations.
    """
    yaw, pitch = -jnp.deg2rad(f["yaw"]), jnp.deg2rad(f["pitch"])  # CelebAMask-HQ: positive yaw looks to the left
    z = jnp.full_like(u, NEAR)  # the start: all points at the depth of the eyes
    for _ in range(2):
        y = (v + z * jnp.sin(pitch)) / jnp.cos(pitch)
        a, c = _profile(y, p)
        along, across = a * jnp.cos(yaw), c * jnp.sin(yaw)
        reach = jnp.sqrt(along**2 + across**2)
        # Sine and cosine of t + d. Rays beside the head are clipped to its edge, where `inside` is negative.
        s = jnp.clip(u / reach, -0.999, 0.999)
        q = jnp.sqrt(1.0 - s * s)
        x, z = a * (s * along - q * across) / reach, c * (q * along + s * across) / reach
    return x, y, z, reach - jnp.abs(u) - 0.1 * (a < 0.02)  # beyond crown and chin


def _relief(x: jax.Array, y: jax.Array, p: Scalars, f: Scalars) -> jax.Array:
    """Height of the features over the smooth head, even in X."""
    xa, old = jnp.abs(x), p["old"]
    w, tip = p["nose_width"], p["nose_tip"]
    # Nose: its bridge, which rises to the tip; the tip; the wings.
    bridge = 0.06 * _ramp(y + 0.16, 0.3) * _ramp(tip - 0.01 - y, 0.09) * _lerp(0.55, 1.0, (y + 0.15) / 0.42)
    height = bridge * _gauss(x / (0.058 * w))
    height += 0.06 * _gauss(x / (0.058 * w), (y - tip + 0.02) / 0.05)
    height += 0.022 * _gauss((xa - 0.088 * w) / 0.034, (y - tip - 0.004) / 0.032)
    # Eyes: the socket, the ball in it, the ridge of the brow.
    height -= 0.036 * _gauss((xa - p["eye_x"] * 0.85) / 0.13, (y - EYE_LINE) / 0.06)
    height += 0.03 * _gauss((xa - p["eye_x"]) / 0.07, (y - EYE_LINE) / 0.04)
    height += (0.018 + 0.016 * p["male"]) * _gauss((xa - 0.22) / 0.16, (y - p["brow_y"] - 0.02) / 0.05)
    # Cheeks rise with the smile; then the muzzle, the lower lip, the groove below it and the chin.
    cheek = 0.025 + 0.035 * jnp.maximum(p["smile"], 0.0) + 0.025 * f["cheekbones"]
    height += cheek * _gauss((xa - 0.31) / 0.11, (y - 0.2 + 0.03 * p["smile"]) / 0.1)
    height += 0.02 * _gauss(x / 0.22, (y - p["mouth_y"]) / 0.16)
    height += 0.022 * p["lip"] * _gauss(x / 0.11, (y - p["mouth_y"] - 0.035) / 0.022)
    height -= 0.01 * _gauss(x / 0.12, (y - p["mouth_y"] - 0.11) / 0.035)
    height += 0.035 * _gauss(x / 0.13, (y - p["chin"] + 0.11) / 0.07)
    # Folds from the nose to the corners of the mouth, furrows of the brow and bags below the eyes, for the old.
    fold = xa - 0.1 * w - (0.14 + 0.05 * jnp.maximum(p["smile"], 0.0)) * (y - tip) / 0.24
    crease = 0.002 + 0.007 * jnp.maximum(p["smile"], 0.0) + 0.013 * old
    height -= crease * _gauss(fold / 0.03, (y - 0.4) / 0.09)
    furrow = 0.5 + 0.5 * _wave(y * 62.0 + 3.0 * x * x + 2.0 * f["texture"])
    height += 0.0075 * old * furrow * _gauss(x / 0.24, (y + 0.4) / 0.09)
    height -= 0.014 * old * _gauss((xa - p["eye_x"]) / 0.09, (y - EYE_LINE - 0.105) / 0.018)
    return height


def _normal(
    x: jax.Array, y: jax.Array, z: jax.Array, height: jax.Array, p: Scalars, f: Scalars
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Unit normal, in picture coordinates, of the head with its relief of the given height."""
    # Of the smooth head it is the gradient of X^2 / A(Y)^2 + Z^2 / C(Y)^2 (halved), whose slopes come from a jvp.
    (a, c), (da, dc) = jax.jvp(lambda t: _profile(t, p), (y,), (jnp.ones_like(y),))
    nx, ny, nz = x / a**2, -(x * x * da / a**3 + z * z * dc / c**3), z / c**2
    # From head to picture coordinates.
    yaw, pitch = -jnp.deg2rad(f["yaw"]), jnp.deg2rad(f["pitch"])
    nx, nz = nx * jnp.cos(yaw) + nz * jnp.sin(yaw), nz * jnp.cos(yaw) - nx * jnp.sin(yaw)
    ny, nz = ny * jnp.cos(pitch) - nz * jnp.sin(pitch), nz * jnp.cos(pitch) + ny * jnp.sin(pitch)
    scale = jax.lax.rsqrt(nx * nx + ny * ny + nz * nz)
    # The bump map tilts it against the slope of the relief, measured between neighbouring rays.
    down, right = jnp.gradient(height, 2.0 / height.shape[-1], axis=(-2, -1))
    nx, ny, nz = nx * scale - right, ny * scale - down, nz * scale
    scale = jax.lax.rsqrt(nx * nx + ny * ny + nz * nz)
    return nx * scale, ny * scale, nz * scale


def _light(normal: tuple[jax.Array, jax.Array, jax.Array], f: Scalars, wrap: float) -> jax.Array:
    """Key light with soft terminator plus a sky that is brighter above, [3, H, W]; red wraps further (skin)."""
    azimuth, elevation = 0.8 * f["light_azimuth"], 0.25 + 0.35 * f["light_elevation"]
    direction = (jnp.sin(azimuth) * jnp.cos(elevation), -jnp.sin(elevation), jnp.cos(azimuth) * jnp.cos(elevation))
    cosine = sum(n * d for n, d in zip(normal, direction, strict=True))
    soft = wrap * _channels(1.25, 1.0, 0.9)  # light reaches this far beyond a right angle, as it does under skin
    diffuse = jnp.maximum(cosine + soft, 0.0) / (1.0 + soft)
    ambient = 0.42 - 0.2 * f["light_contrast"]
    return (1.0 - ambient) * 1.7 * diffuse + ambient * (1.0 - 0.2 * normal[1])


def _background(u: jax.Array, v: jax.Array, f: Scalars) -> jax.Array:
    """Out-of-focus surroundings: a tinted gradient and, in clutter, large blurred patches of other colours."""
    level = 0.5 + 0.5 * f["background_value"]
    # The phases of the three channels are a third of a turn apart, so a turn of the hue visits all colours.
    hue = np.pi * (f["background_hue"] + _channels(0.0, 2.0 / 3.0, -2.0 / 3.0))
    tint = 1.0 + (0.04 + 0.4 * jnp.maximum(f["background_saturation"], 0.0) ** 2) * jnp.cos(hue)
    colour = (0.005 + 0.9 * _ramp(level - 0.55, 0.95) ** 2) * tint * _channels(1.04, 1.0, 0.93)
    gradient = u * jnp.cos(3.0 * f["background_gradient"]) + v * jnp.sin(3.0 * f["background_gradient"])
    colour = colour * (1.0 + 0.3 * gradient)
    # Six patches of seven random numbers: place and size in both directions, and three for the colour. They are a hash
    # of the texture, so the face's own factors fix them; 64 > 42 keeps those of two textures apart.
    bits = ((f["texture"] + 1.0) * 2**22).astype(jnp.uint32) * jnp.uint32(64)
    clutter = jnp.maximum(f["clutter"] + 0.3, 0.0)
    random = _hash(bits[None] + jnp.arange(42, dtype=jnp.uint32).reshape(42, 1, 1, 1))
    for patch in range(6):
        r = random[7 * patch : 7 * patch + 7]
        du, dv = (u - 2.4 * r[0] + 1.2) / (0.12 + 0.35 * r[1]), (v - 2.4 * r[2] + 1.2) / (0.12 + 0.5 * r[3])
        shape = _ramp(1.0 - jnp.maximum(jnp.abs(du), jnp.abs(dv)), 1.2) if patch % 2 else _gauss(du, dv)
        shade = jnp.concatenate([r[4], 0.8 * r[4] + 0.2 * r[5], 0.65 * r[4] + 0.35 * r[6]]) ** 2
        colour = _lerp(colour, shade, 0.75 * clutter * shape)
    return colour


def _strands(t: jax.Array, phase: jax.Array) -> jax.Array:
    """Brightness of hair across its strands, about zero."""
    # Waves of frequencies without a common period, the coordinate itself bent, so that no strand repeats.
    t = t + 0.12 * _wave(5.0 * t + 2.0 * phase)
    return sum(
        weight * _wave(t * frequency + phase * (3.0 + 2.0 * i))
        for i, (frequency, weight) in enumerate(((4.1, 0.34), (9.7, 0.28), (17.3, 0.2), (33.0, 0.14)))
    )  # type: ignore[return-value]


def _paint_eyes(skin: jax.Array, x: jax.Array, y: jax.Array, p: Scalars, f: Scalars, aa: float) -> jax.Array:
    """Brows, sockets, lids, lashes and eyeballs."""
    # Everything is even in X; dx runs from -1 at the inner corner to 1 at the outer one, and `bow` is the arc between.
    xa = jnp.abs(x)
    dx = (xa - p["eye_x"]) / p["eye_width"]
    bow = jnp.maximum(1.0 - dx * dx, 0.0)
    middle = EYE_LINE - 0.012 * (f["eye_tilt"] + 0.4) * dx
    upper = middle - 0.054 * p["eye_open"] * _lerp(bow, jnp.sqrt(bow), 0.6)
    lower = middle + 0.036 * p["eye_open"] * bow
    # Sockets: darker towards the nose and above the lid; bags below in the old.
    socket = _gauss((xa - p["eye_x"] * 0.93) / 0.13, (y - EYE_LINE + 0.045) / 0.055)
    skin = skin * (1.0 - (0.3 + 0.08 * p["male"]) * socket * _channels(0.75, 1.0, 1.0))
    bags = _gauss(dx / 0.8, (y - lower - 0.045) / 0.016)
    skin = skin * (1.0 - (0.08 + 0.3 * p["old"]) * bags)
    shadow = _gauss(dx / 0.9, (y - upper + 0.03) / 0.026) * p["makeup"]
    skin = _lerp(skin, skin * _rgb(165, 130, 140), 0.85 * shadow)
    crease = _gauss(dx / 0.85, (y - upper + 0.033) / 0.01)
    skin = skin * (1.0 - 0.35 * crease)
    # The ball: sclera in the lid's shadow, iris, pupil, a window's reflection.
    ball = _ramp(y - upper, 0.5 * aa + 0.01) * _ramp(lower - y, 0.5 * aa + 0.01) * _ramp(0.98 - jnp.abs(dx), 0.08)
    # Both eyes look the same way, so here alone the sign of X counts.
    gaze = x - jnp.sign(x) * p["eye_x"] - 0.02 * f["gaze"]
    radius = jnp.sqrt(gaze * gaze + (y - EYE_LINE + 0.006) ** 2)
    pale = (0.5 + 0.5 * f["eye_colour"]) * (0.8 + 0.2 * f["skin_tone"])  # blue eyes go with light skin
    iris = _palette(pale, (26, 17, 13), (56, 36, 24), (84, 66, 42), (88, 108, 100), (98, 138, 166))
    white = _rgb(206, 196, 192) * (0.35 + 0.55 * _ramp(y - upper - 0.02, 0.06)) * (1.0 - 0.25 * dx * dx)
    eye = _lerp(white, iris, _ramp(0.055 - radius, 0.015))
    eye = _lerp(eye, _rgb(8, 6, 6), _ramp(0.02 - radius, 0.014))
    eye = eye + 0.75 * _gauss((gaze - 0.014) / 0.009, (y - EYE_LINE + 0.02) / 0.009)
    skin = _lerp(skin, eye, ball)
    # Lash lines, then brows over everything.
    lash = _gauss((y - upper + 0.002) / (0.011 + 0.009 * p["makeup"])) * _ramp(1.08 - jnp.abs(dx), 0.2)
    skin = _lerp(skin, _rgb(24, 16, 14), (0.75 + 0.25 * p["makeup"]) * lash)
    under = _gauss((y - lower) / (0.006 + 0.004 * p["makeup"])) * _ramp(1.0 - jnp.abs(dx), 0.2)
    skin = _lerp(skin, _rgb(50, 30, 26), (0.25 + 0.4 * p["makeup"]) * under)
    bx = (xa - p["eye_x"] - 0.005) / 0.135
    line = p["brow_y"] + p["brow_arch"] * (bx * bx - 0.55 * bx - 0.25)
    thickness = p["brow_thickness"] * (1.0 - 0.35 * jnp.maximum(bx, 0.0))
    brow = _gauss((y - line) / thickness) * _ramp(1.0 - jnp.abs(bx), 0.3)
    colour = _lerp(_rgb(52, 38, 30), p["hair"], 0.45) * 0.6
    return _lerp(skin, colour, (0.72 + 0.18 * p["male"] - 0.25 * p["old"] * p["female"]) * brow)


def _paint_mouth(skin: jax.Array, x: jax.Array, y: jax.Array, p: Scalars, f: Scalars, aa: float) -> jax.Array:
    """Lips, teeth, the fold beside the mouth, moustache and beard."""
    # Four curves over dx, -1 to 1 from corner to corner: top and low are the lips' outlines, inner_top and inner_low
    # the edges of the gap between them, which is closed without teeth. A smile lifts the corners of them all.
    xa, smile = jnp.abs(x), jnp.maximum(p["smile"], 0.0)
    dx = x / p["mouth_width"]
    bow = jnp.maximum(1.0 - dx * dx, 0.0)
    line = p["mouth_y"] - (0.08 * p["smile"] + 0.004) * (dx * dx - 0.35)
    gap = p["teeth"] * (0.02 + 0.05 * smile) * _lerp(bow, jnp.sqrt(bow), 0.8)
    inner_top, inner_low = line - 0.5 * gap, line + gap
    cupid = 1.0 - 0.3 * _gauss(x / 0.022) + 0.12 * _gauss((xa - 0.045) / 0.03)
    top = inner_top - 0.037 * p["lip"] * (1.0 - 0.25 * smile) * _lerp(bow, jnp.sqrt(bow), 0.4) * cupid
    low = inner_low + 0.052 * p["lip"] * (1.0 - 0.25 * smile) * _lerp(bow, jnp.sqrt(bow), 0.8)
    beard_colour = 0.75 * _lerp(p["hair"], _rgb(40, 30, 26), 0.35)
    strands = 1.0 + 0.35 * _strands(x + 0.25 * y, f["texture"])
    # Beard: jaw and cheeks below a line from the ear to the corner of the mouth; light stubble everywhere else.
    border = _lerp(0.5, 0.2, jnp.clip((xa - 0.1) / 0.3, 0.0, 1.0))
    jaw = _ramp(y - border, 0.26) * (1.0 - 0.4 * _gauss(x / 0.12, (y - p["mouth_y"] - 0.1) / 0.04))
    under_nose = _gauss(x / 0.13, (y - 0.405) / 0.05)
    density = jnp.maximum(jaw, 0.35 * under_nose)
    amount = 0.45 * p["beard"] + 0.4 * _ramp(p["beard"] - 0.75, 0.1)
    skin = _lerp(skin, beard_colour * strands, amount * density)
    # Moustache: from under the nose to the upper lip, drooping with its style.
    mx = x / (0.165 + 0.035 * f["mustache_style"])
    droop = (
        p["mouth_y"] - 0.062 - 0.1 * p["smile"] * (0.3 * mx * mx - 0.1) + (0.05 + 0.03 * f["mustache_style"]) * mx**2
    )
    hair = _gauss((y - droop) / (0.034 + 0.006 * f["mustache_style"])) * _ramp(1.0 - jnp.abs(mx), 0.35)
    hair = jnp.minimum(1.35 * hair, 1.0) * (1.0 - 0.25 * _gauss(x / 0.018))
    opacity = p["mustache"] * (0.8 - 0.1 * p["old"] + 0.15 * f["mustache_style"])
    skin = _lerp(skin, beard_colour * strands, opacity * hair)
    # Lips.
    lips = _ramp(y - top, 1.2 * aa) * _ramp(low - y, 1.2 * aa) * (bow > 0.0)
    natural = p["skin"] * _lerp(_rgb(226, 186, 180), _rgb(210, 176, 168), p["male"])
    rouge = _palette(0.5 + 0.5 * f["lip_colour"], (120, 14, 30), (186, 22, 40), (206, 50, 74), (214, 86, 104))
    strength = p["lipstick"] * (0.85 + 0.1 * f["makeup"])
    shade = skin.mean(0, keepdims=True) / p["skin"].mean(0, keepdims=True)  # lips lie in the shadows painted so far
    lip = _lerp(natural, rouge, strength) * shade * _lerp(0.8, 1.12, _ramp(y - line, 0.04))
    lip = lip + (0.05 + 0.12 * p["lipstick"]) * shade * _gauss(x / 0.07, (y - low + 0.03) / 0.01)
    skin = _lerp(skin, lip, 0.92 * lips)
    skin = skin * (1.0 - 0.22 * _gauss(dx / 0.7, (y - low - 0.022) / 0.018))
    # Between the lips: a dark line, or teeth in the dark of the mouth.
    inside = _ramp(y - inner_top, aa) * _ramp(inner_low - y, aa) * _ramp(gap, 0.02)
    teeth = _rgb(248, 242, 232) * _ramp(0.82 - jnp.abs(dx), 0.35) * _ramp(inner_low - y, 0.03)
    skin = _lerp(skin, 0.95 * shade * _lerp(_rgb(60, 18, 18), teeth, 0.35 + 0.65 * smile), inside)
    closed = _gauss((y - line) / 0.0085) * _ramp(1.03 - jnp.abs(dx), 0.12) * (1.0 - _ramp(gap, 0.02))
    skin = _lerp(skin, 0.35 * skin * _rgb(200, 130, 130), 0.8 * closed)
    corner = _gauss((xa - p["mouth_width"]) / 0.018, (y - p["mouth_y"] + 0.045 * p["smile"]) / 0.02)
    return skin * (1.0 - 0.35 * corner)


def _paint_skin(x: jax.Array, y: jax.Array, p: Scalars, f: Scalars) -> jax.Array:
    """Skin with its blush and blotches, nostrils, the nose's cast shadow and the creases of age."""
    xa, old, w, tip = jnp.abs(x), p["old"], p["nose_width"], p["nose_tip"]
    # Blush takes away green and blue, on cheeks and the tip of the nose; blotches are a product of bent waves.
    blush = _gauss((xa - 0.3) / 0.12, (y - 0.22) / 0.1) + 0.6 * _gauss(x / 0.07, (y - tip) / 0.06)
    red = _channels(0.02, -0.16, -0.14)
    skin = p["skin"] * (1.0 + (0.55 + 0.3 * p["makeup"] + 0.2 * f["undertone"]) * blush * red)
    phase = 9.0 * f["texture"]
    blotch = _wave(23.0 * x + 3.0 * _wave(17.0 * y + phase)) * _wave(19.0 * y + 3.0 * _wave(13.0 * x - phase))
    skin = skin * (1.0 + (0.02 + 0.035 * old) * blotch)
    # Under the nose: nostrils, then the shadow that falls away from the light.
    nostril = _gauss((xa - 0.05 * w) / (0.02 * w), (y - tip - 0.05) / 0.011)
    skin = skin * (1.0 - 0.6 * nostril)
    side = f["light_azimuth"]
    cast = _gauss((x + 0.04 * side) / (0.085 * w), (y - tip - 0.068 - 0.015 * f["light_elevation"]) / 0.024)
    flank = _gauss((x + jnp.sign(side) * 0.095) / 0.04, (y - tip + 0.12) / 0.12) * jnp.abs(side)
    wing = _gauss((xa - 0.115 * w) / 0.014, (y - tip - 0.005) / 0.032)
    skin = skin * (1.0 - 0.25 * cast) * (1.0 - 0.22 * flank) * (1.0 - 0.16 * wing)
    # Age darkens the folds and furrows that `_relief` has, at the same places.
    fold = xa - 0.1 * w - (0.14 + 0.05 * jnp.maximum(p["smile"], 0.0)) * (y - tip) / 0.24
    crease = _gauss(fold / 0.014, (y - 0.4) / 0.08) * (0.03 + 0.12 * jnp.maximum(p["smile"], 0.0) + 0.2 * old)
    furrow = jnp.maximum(_wave(y * 62.0 + 3.0 * x * x + 2.0 * f["texture"]), 0.0) * _gauss(x / 0.24, (y + 0.4) / 0.08)
    jowl = _gauss((xa - 0.21) / 0.02, (y - 0.64) / 0.07)
    return skin * (1.0 - crease) * (1.0 - 0.16 * old * furrow) * (1.0 - 0.2 * old * jowl)


def _paint_glasses(
    picture: jax.Array, x: jax.Array, y: jax.Array, inside: jax.Array, p: Scalars, f: Scalars, aa: float
) -> jax.Array:
    """Frame, lenses and their shadow, a little in front of the face."""
    yaw, pitch = -jnp.deg2rad(f["yaw"]), jnp.deg2rad(f["pitch"])
    x, y = x - 0.09 * jnp.sin(yaw), y + 0.09 * jnp.sin(pitch)  # parallax: they are 0.09 nearer than the skin
    xa = jnp.abs(x)
    size = 1.0 + 0.14 * f["glasses_size"]
    gx = (xa - p["eye_x"] + 0.008) / (0.178 * size)
    gy = (y - EYE_LINE - 0.02) / (0.118 * size)
    gx2, gy2 = gx * gx, gy * gy
    square = 0.5 + 0.5 * f["glasses_shape"]  # from an ellipse to a fourth-power superellipse
    r = jnp.sqrt(_lerp(gx2 + gy2, jnp.sqrt(gx2 * gx2 + gy2 * gy2), square) + 1e-6)
    # r is 1 on the rim, less in the lens. The frame is the union of rims, bridge and temples.
    thickness = 0.1 + 0.06 * f["glasses_weight"]
    rim = _ramp(thickness - jnp.abs(r - 1.0), 6.0 * aa)
    rim = jnp.maximum(rim, _ramp(0.014 - jnp.abs(y - EYE_LINE + 0.03), aa) * _ramp(0.13 - xa, aa))
    temple = _ramp(0.016 - jnp.abs(y - EYE_LINE + 0.045), aa) * _ramp(xa - p["eye_x"] - 0.17 * size, aa)
    rim = jnp.maximum(rim, temple)
    colour = _palette(0.5 + 0.5 * f["glasses_colour"], (10, 9, 10), (20, 17, 17), (62, 34, 22), (120, 108, 92))
    lens = _ramp(1.0 - r, 0.1)
    tint = _lerp(0.1, 0.88, _ramp(f["lens_tint"] - 0.72, 0.2))
    glare = 0.05 * _ramp(gx - gy - 0.5, 0.6) * (1.0 - tint)
    shadow = _gauss((r - 1.12) / 0.09) * _ramp(y - EYE_LINE, 0.1)
    result = picture * (1.0 - 0.3 * shadow)
    # Shadow, lens and frame are painted for everybody; who wears none keeps the picture.
    result = _lerp(result, _rgb(22, 20, 20), tint * lens) + glare * lens
    return _lerp(picture, _lerp(result, colour, rim), p["glasses"] * _ramp(inside + 0.04, 0.04))


def _paint_hair(hu: jax.Array, hv: jax.Array, p: Scalars, f: Scalars) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mass of hair around the skull: its colour with highlights, its outline's mask, its strands."""
    wave, phase = p["hair_long"] * (0.5 + 0.5 * f["hair_wave"]), 3.0 * f["texture"]
    # Outline: half the width at every height, an arc above the ears, below it wider and wavy where hair is long.
    au = jnp.abs(hu - 0.03 * f["hair_part"])
    top = 0.89 + 1.2 * p["hair_volume"]
    wide = p["width"] + p["hair_volume"] * _lerp(0.6, 1.4, p["hair_long"])
    lift = (jnp.maximum(-hv, 0.0) / top) ** 2
    outline = wide * jnp.sqrt(jnp.maximum(1.0 - lift * (0.4 + 0.6 * lift), 0.0))
    outline += p["hair_long"] * (0.12 + 0.14 * f["hair_volume"]) * jnp.maximum(hv, 0.0)
    outline += wave * 0.035 * _wave(11.0 * hv + 2.0 * phase + 2.0 * jnp.sign(hu)) * _ramp(hv + 0.3, 0.6)
    # Strands fan out from the parting: `across` counts them, narrower at the top.
    across = (hu - 0.2 * f["hair_part"]) / (0.35 + 0.45 * (hv + 1.0)) + wave * 0.12 * _wave(8.0 * hv + phase)
    across += (1.0 - p["hair_long"]) * 0.8 * f["hair_part"] * hv  # short hair is combed to one side
    strands = _strands(5.0 * across * (1.0 + 0.1 * hv), phase)
    end = 0.1 + 1.1 * jnp.maximum(p["hair_length"], 0.0) + 0.1 * strands
    fuzz = 0.05 + 0.06 * p["hair_long"]
    # Within the outline, below the top and above the ends, all with ragged borders; the bald have none of it.
    mask = (
        _ramp(outline - au + 0.02 * strands - 0.3 * fuzz, fuzz)
        * _ramp(top + hv, 0.03)
        * _ramp(end - hv, 0.16)
        * (1.0 - p["bald"])
    )
    # Light on a ball in place of the hair; gloss is a ring around the crown, and a second one on long hair.
    ny, nx = jnp.clip(hv / top, -1.0, 0.35), jnp.clip(hu / (wide + 0.1), -1.0, 1.0)
    nz = jnp.sqrt(jnp.maximum(1.05 - nx * nx - ny * ny, 0.05))
    ring = _gauss((hv + 0.62 - 0.25 * hu * hu + 0.08 * f["light_elevation"]) / 0.13)
    ring += 0.6 * p["hair_long"] * _gauss((hv - 0.25 - 0.1 * f["hair_wave"]) / 0.2) * _gauss((au - wide + 0.05) / 0.1)
    gloss = (0.1 + 0.8 * p["hair"]) * ring * jnp.maximum(0.4 + strands, 0.0)
    colour = 0.65 * _light((nx, ny, nz), f, 0.25) * (p["hair"] * (0.95 + 0.5 * strands) + 0.22 * gloss)
    return colour, mask, strands


def _paint_body(
    picture: jax.Array,
    u: jax.Array,
    v: jax.Array,
    hair: tuple[jax.Array, jax.Array, jax.Array],
    p: Scalars,
    f: Scalars,
) -> jax.Array:
    """Clothes, the hair behind the neck, the neck in the chin's shadow; u is measured from the spine."""
    colour, mask, _ = hair
    # The neck is a cylinder, `slope` the border of the clothes: shoulders fall from it, a collar dips in the middle.
    neck_half = 0.25 + 0.09 * p["male"] + 0.02 * f["face_width"] + 0.12 * _ramp(v - 0.95, 0.35)
    slope = 0.83 + 0.1 * f["clothes_height"] + 0.35 * jnp.maximum(jnp.abs(u) - neck_half, 0.0)
    slope += 0.3 * jnp.maximum(neck_half - jnp.abs(u), 0.0) * (1.0 + f["clothes_collar"])
    hue = np.pi * (f["clothes_hue"] + _channels(0.0, 2.0 / 3.0, -2.0 / 3.0))
    cloth = (0.01 + 0.7 * (0.5 + 0.5 * f["clothes_value"]) ** 4) * (1.0 + 0.4 * jnp.cos(hue))
    cloth = cloth * _light((0.6 * u, -0.5 * jnp.ones_like(u), 0.7 * jnp.ones_like(u)), f, 0.3)
    picture = _lerp(picture, cloth * (1.0 + 0.08 * _wave(9.0 * u + 14.0 * v)), _ramp(v - slope, 0.03))
    picture = _lerp(picture, 0.6 * colour, mask)
    # The sine of the cylinder's angle, which is its normal; then the shadow of the chin, fading downwards.
    s = jnp.clip(u / neck_half, -0.98, 0.98)
    light = _light((s, -0.1 * jnp.ones_like(s), jnp.sqrt(1.0 - s * s)), f, 0.3)
    chin = p["chin"] + NEAR * jnp.sin(jnp.deg2rad(f["pitch"]))
    shadow = 1.0 - 0.55 * _gauss(jnp.maximum(v - chin + 0.5 * u * u, 0.0) / 0.1)
    neck = _ramp(neck_half - jnp.abs(u), 0.03) * _ramp(v - 0.55, 0.2) * _ramp(slope - v, 0.03)
    return _lerp(picture, p["skin"] * light * shadow, neck)


def _paint_ears(picture: jax.Array, hu: jax.Array, hv: jax.Array, p: Scalars, f: Scalars) -> jax.Array:
    """Ears at the sides of the head, which will cover most of the far one when it turns."""
    yaw = -jnp.deg2rad(f["yaw"])
    du = jnp.abs(hu + 0.04 * jnp.sin(yaw)) - p["width"] * jnp.cos(yaw) - 0.015
    ear = jnp.sqrt((du / 0.06) ** 2 + ((hv - 0.06 + 0.25 * du) / 0.15) ** 2)
    light = _light((0.6 * jnp.sign(hu), -0.1 * jnp.ones_like(hu), 0.8 * jnp.ones_like(hu)), f, 0.3)
    colour = p["skin"] * _rgb(246, 214, 208) * light * (1.0 - 0.4 * _gauss(ear / 0.45))
    return _lerp(picture, colour, _ramp(1.0 - ear, 0.2))


def _paint_head(
    picture: jax.Array,
    skin: jax.Array,
    surface: tuple[jax.Array, ...],
    hair: tuple[jax.Array, jax.Array, jax.Array],
    p: Scalars,
    f: Scalars,
    aa: float,
) -> jax.Array:
    """Lights the painted skin, puts the head over the body and the hair around the face over it."""
    (x, y, z, inside, height), (colour, mask, strands) = surface, hair
    # Skin in diffuse light, a highlight where the normal looks halfway to the light, and a darker rim.
    normal = _normal(x, y, z, height, p, f)
    sheen = jnp.maximum(normal[2] - 0.25 * normal[1] + 0.25 * f["light_azimuth"] * normal[0], 0.0)
    face = skin * _light(normal, f, 0.22) + 0.09 * (1.0 + f["shine"]) * (sheen / 1.08) ** 24
    face = face * _lerp(0.72, 1.0, _ramp(inside, 0.16))
    # Above the hairline and outside the side locks, hair covers the skin.
    lean = x - 0.16 * f["hair_part"]
    line = p["hairline"] + _lerp(1.2, 0.6, p["fringe"]) * lean * lean + 0.02 * strands
    line = _lerp(line, -0.24 + 0.08 * f["hairline"] + 0.03 * strands, p["fringe"])
    line += 22.0 * jnp.maximum(jnp.abs(x) - 0.36, 0.0) ** 2  # temples and sideburns
    recede = p["male"] * p["old"] * (0.6 + 0.4 * f["hairline"])
    line = line - 0.16 * recede * _gauss((jnp.abs(x) - 0.25) / 0.1)
    lock = _lerp(0.62, 0.45 + 0.04 * f["hair_locks"], p["hair_long"]) + 0.05 * jnp.maximum(y, 0.0) * p["hair_long"]
    covered = _ramp(line - y, 0.05) * _ramp(0.12 + 1.2 * p["hair_long"] - y, 0.12)
    covered = jnp.maximum(covered, _ramp(jnp.abs(x) + 0.012 * strands - lock, 0.05) * p["hair_long"])
    # Hair shades the skin below it.
    face = face * (1.0 - 0.42 * _ramp(line - y + 0.1, 0.24) * (1.0 - p["bald"]))
    picture = _lerp(picture, face, _ramp(inside, 2.5 * aa))
    return _lerp(picture, colour, mask * covered * (1.0 - p["bald"]))


def _photograph(scene: jax.Array, f: Scalars, size: int) -> jax.Array:
    """Camera: exposure, white balance, highlight roll-off, focus, contrast, grain; [3, n, n] to uint8."""
    # Light to display values: exposure in stops, a warm or cold tint, then gamma 2 with a shoulder for the highlights.
    balance = 1.0 + (0.03 + 0.1 * f["temperature"]) * _channels(1.0, 0.0, -1.0)
    linear = jnp.maximum(scene * 2.0 ** (0.45 * f["exposure"]) * balance, 0.0)
    encoded = jnp.sqrt(linear * 1.1 / (1.0 + 0.16 * linear))
    # One Gaussian both averages the rays of a pixel and puts the lens out of focus: rows, then columns.
    blur = jnp.sqrt((0.65 / size) ** 2 + (0.012 * (0.5 + 0.5 * f["defocus"])) ** 2)
    kernel = _gauss((_axis(size)[:, None] - _axis(scene.shape[-1])[None])[None] / blur)[0]
    kernel = kernel / kernel.sum(1, keepdims=True)
    image = jnp.einsum("iv,cvu,ju->ijc", kernel, encoded, kernel)
    image = 0.5 + (image - 0.5) * (1.0 + 0.15 * f["contrast"])
    # Grain: three hashes of pixel and texture, whose sum is nearly normal.
    pixel = jnp.arange(size * size * 3, dtype=jnp.uint32).reshape(size, size, 3)
    bits = ((f["texture"] + 1.0) * 2**22).astype(jnp.uint32) * jnp.uint32(2654435761)
    grain = sum(_hash(pixel * jnp.uint32(4) + bits + jnp.uint32(i)) for i in range(3)) - 1.5  # sd 1/2
    image = image + (0.012 + 0.01 * f["noise"]) * grain
    return jnp.clip(jnp.round(255.0 * image), 0.0, 255.0).astype(jnp.uint8)


def _axis(n: int) -> jax.Array:
    """Centres of n equal cells of [-1, 1]."""
    return (2.0 * jnp.arange(n, dtype=jnp.float32) + 1.0) / n - 1.0


def _turn(u: jax.Array, v: jax.Array, f: Scalars) -> tuple[jax.Array, jax.Array]:
    """Picture coordinates with roll, scale and shift undone, about the middle between eyes and mouth."""
    roll, scale = jnp.deg2rad(f["roll"]), 1.0 + 0.08 * f["scale"]
    u, v = (u - 0.06 * f["shift_u"]) / scale, (v - 0.2 - 0.05 * f["shift_v"]) / scale
    return u * jnp.cos(roll) + v * jnp.sin(roll), v * jnp.cos(roll) - u * jnp.sin(roll) + 0.2


def render(p: Scalars, f: Scalars, size: int) -> jax.Array:
    """Renders a batch of faces, each by itself.

    The work is split into passes over the batch, each a loop over its faces, because XLA fuses within a loop's body
    only: in one body it would recompute the geometry in every brush stroke.

    Args:
        p: what `proportions` makes of the attributes and factors.
        f: the factors, name -> [B, 1, 1, 1]; degrees for yaw, pitch and roll, else [-1, 1].
        size: height and width in pixels.

    Returns:
        uint8 [B, size, size, 3].
    """
    n = SUPERSAMPLING * size
    aa = 2.0 / n  # distance of two rays, in picture coordinates
    v0, u0 = (grid[None] for grid in jnp.meshgrid(_axis(n), _axis(n), indexing="ij"))

    def each(function: Callable[..., Any], *arrays: Any) -> Any:
        """Runs a function on one face after the other: a pass."""
        return jax.lax.map(lambda example: function(*example), arrays)

    def brush(function: Callable[..., Any], window: tuple[float, float, float], canvas: Any, *maps: Any) -> Any:
        """Paints within a window only: top, bottom and half width, wide enough for every pose and shift."""
        top, bottom, half = window
        rows = slice(int((1.0 + top) / 2.0 * n), int((1.0 + bottom) / 2.0 * n))
        area = (..., rows, slice(int((1.0 - half) / 2.0 * n), int((1.0 + half) / 2.0 * n)))
        painted = each(partial(function, aa=aa), canvas[area], *(m[area] for m in maps), p, f)
        return canvas.at[area].set(painted)

    def body_and_head(p: Scalars, f: Scalars) -> Any:
        u, v = _turn(u0, v0, f)
        # The crop keeps pupils and mouth in place: what a turn moves is the rest of the head, and the spine.
        sin_yaw, sin_pitch = jnp.sin(jnp.deg2rad(f["yaw"])), jnp.sin(jnp.deg2rad(f["pitch"]))
        hu, hv = u - NEAR * sin_yaw, v - NEAR * sin_pitch
        return (u + 0.2 * sin_yaw, v), (hu, hv), _trace(hu, hv, p, f)

    # The relief is looked up where a ray meets the smooth head. When the head turns, what stands out is seen shifted,
    # so the paint is looked up at shifted coordinates.
    def relief(x: jax.Array, y: jax.Array, p: Scalars, f: Scalars) -> Any:
        height = _relief(x, y, p, f)
        return (
            x + height * jnp.sin(jnp.deg2rad(f["yaw"])),
            y + height * jnp.sin(jnp.deg2rad(f["pitch"])),
            height,
        )

    # Geometry, then paint on the skin; then the picture from the back to the front.
    body, head, (x, y, z, inside) = each(body_and_head, p, f)
    x, y, height = each(relief, x, y, p, f)
    skin = each(_paint_skin, x, y, p, f)
    skin = brush(_paint_eyes, (-0.55, 0.35, 0.85), skin, x, y)
    skin = brush(_paint_mouth, (-0.15, 1.0, 0.8), skin, x, y)
    hair = each(_paint_hair, *head, p, f)
    picture = each(partial(_background, u0, v0), f)
    picture = each(_paint_body, picture, *body, hair, p, f)
    picture = each(_paint_ears, picture, *head, p, f)
    picture = each(partial(_paint_head, aa=aa), picture, skin, (x, y, z, inside, height), hair, p, f)
    picture = brush(_paint_glasses, (-0.5, 0.45, 0.95), picture, x, y, inside)
    return each(partial(_photograph, size=size), picture, f)
