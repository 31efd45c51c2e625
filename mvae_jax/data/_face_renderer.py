"""Draws one face as a function of its attributes and factors, in JAX so that XLA fuses the arithmetic.

Coordinates: the picture spans [-1, 1] in both directions, u to the right and v down, whatever its size in pixels.
Head coordinates (X right, Y down, Z towards the viewer) coincide with them in a frontal view, where the pupils lie at
about (+-0.30, -0.06), the mouth at (0, 0.51) and the chin at (0, 0.87), as in the aligned crops of CelebAMask-HQ.

The head is a stack of ellipses, one per height Y, which a ray meets in closed form; nose, lips, eye sockets and
wrinkles are a bump map on it. Everything on the skin is painted in head coordinates, so it turns with the head.
Colours are linear-light RGB, [3, H, W], until the sensor at the end.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    """exp(-sum t^2 / 2): a smooth blob in the coordinates that the terms measure in standard deviations."""
    return jnp.exp(-0.5 * sum(t * t for t in terms))


def _ramp(x: jax.Array, width: jax.Array | float) -> jax.Array:
    """Smooth step from 0 to 1 over `width` centred at x = 0."""
    t = jnp.clip(x / width + 0.5, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _lerp(a: jax.Array | float, b: jax.Array | float, weight: jax.Array | float) -> jax.Array:
    return a + (b - a) * weight


def _rgb(*rgb: float) -> jax.Array:
    """An sRGB colour in [0, 255] as linear light, [3, 1, 1]."""
    return jnp.asarray((np.asarray(rgb, np.float32) / 255.0) ** 2.2).reshape(3, 1, 1)


def _palette(position: jax.Array, *colours: tuple[float, float, float]) -> jax.Array:
    """Interpolates between equally spaced sRGB colours; position runs from 0 to 1."""
    table = jnp.concatenate([_rgb(*c) for c in colours], axis=1)[..., 0]  # [3, n]
    knots = jnp.linspace(0.0, 1.0, len(colours))
    return jax.vmap(lambda channel: jnp.interp(position, knots, channel))(table).reshape(3, 1, 1)


def _hash(bits: jax.Array) -> jax.Array:
    """A hash of uint32 (two multiply-xorshift rounds) as float32 in [0, 1): noise without a generator's state."""
    for multiplier in (0x7FEB352D, 0x846CA68B):
        bits = (bits ^ (bits >> 16)) * jnp.uint32(multiplier)
    return (bits >> 8).astype(jnp.float32) / 2**24


def _proportions(a: Scalars, f: Scalars) -> dict[str, jax.Array]:
    """What the attributes and the factors, each in [-1, 1], say about the head, its hair and its paint."""
    old, male, female = 1.0 - a["young"], a["male"], a["female"]
    smile = a["smiling"] * (0.75 + 0.25 * f["expression"]) + (1.0 - a["smiling"]) * (0.12 * f["expression"] - 0.02)
    other = 1.0 - a["black_hair"] - a["blond_hair"]
    grey = old * _ramp(f["hair_hue"] + 0.55, 0.8)  # most of the old are grey, where no colour is named
    brown = _palette(
        0.5 + 0.5 * f["hair_shade"], (46, 32, 25), (72, 48, 34), (104, 72, 48), (136, 98, 66)
    )
    red = _palette(0.5 + 0.5 * f["hair_shade"], (90, 36, 20), (160, 78, 40))
    silver = _palette(0.5 + 0.5 * f["hair_shade"], (92, 88, 86), (196, 194, 192))
    natural = _lerp(_lerp(brown, red, _ramp(f["hair_hue"] - 0.7, 0.4) * (1.0 - old)), silver, grey)
    black = _palette(0.5 + 0.5 * f["hair_shade"], (12, 10, 11), (44, 36, 33))
    blond = _palette(0.5 + 0.5 * f["hair_shade"], (148, 112, 68), (188, 150, 96), (226, 198, 148))
    hair_length = 0.55 * female - 0.35 * male + 0.45 * f["hair_length"] - 0.1 * old
    skin = _palette(
        0.5 + 0.5 * f["skin_tone"], (84, 52, 38), (142, 96, 70), (190, 140, 112), (216, 170, 144), (234, 196, 174)
    )
    skin = skin * (1.0 + 0.07 * f["undertone"] * jnp.array([1.0, -0.3, -1.0]).reshape(3, 1, 1))
    skin = _lerp(skin, 0.9 * skin.mean(), 0.12 * old)
    beard = male * (1.0 - 0.1 * old) * jnp.maximum(f["beard"] - 0.1, 0.0) / 0.9
    return {
        "old": old, "male": male, "female": female, "smile": smile,
        "teeth": jnp.maximum(a["smiling"] * _ramp(f["mouth_open"] + 0.55, 0.6),
                             0.7 * _ramp(f["mouth_open"] - 0.75, 0.3)),
        "width": 0.5 + 0.03 * f["face_width"] + 0.012 * male,
        "jaw": 2.15 + 0.35 * f["jaw"] + 0.45 * male + 0.2 * old,
        "chin": CHIN + 0.035 * f["face_length"] + 0.015 * male,
        "eye_x": 0.297 + 0.018 * f["eye_distance"],
        "eye_width": 0.104 * (1.0 + 0.1 * f["eye_size"] - 0.07 * old - 0.03 * male),
        "eye_open": 1.0 + 0.2 * f["eye_size"] - 0.15 * male - 0.18 * old - 0.25 * jnp.maximum(smile, 0.0),
        "brow_y": EYE_LINE - 0.142 + 0.022 * male - 0.018 * f["brow_height"] - 0.012 * female,
        "brow_thickness": 0.021 + 0.009 * male + 0.006 * f["brow_thickness"] - 0.003 * female,
        "brow_arch": 0.03 * female + 0.02 * f["brow_arch"] + 0.012,
        "nose_width": 1.0 + 0.14 * f["nose_width"] + 0.12 * male + 0.1 * old,
        "nose_tip": 0.265 + 0.025 * f["nose_length"] + 0.012 * old + 0.008 * male,
        "mouth_y": MOUTH_LINE + 0.015 * f["mouth_height"] + 0.01 * male,
        "mouth_width": 0.168 + 0.016 * f["mouth_width"] + 0.008 * male + 0.06 * jnp.maximum(smile, 0.0),
        "lip": (1.0 + 0.25 * f["lip_thickness"]) * (1.0 - 0.22 * male - 0.2 * old + 0.1 * a["wearing_lipstick"]),
        "hair_length": hair_length,
        "hair_long": _ramp(hair_length - 0.12, 0.3),
        "hair_volume": 0.075 + 0.035 * f["hair_volume"] + 0.025 * female,
        "hairline": -0.6 + 0.07 * f["hairline"] - 0.05 * male * old,
        "fringe": _ramp(f["fringe"] - 0.6 + 0.25 * male, 0.5),
        "bald": a["bald"], "hair": _lerp(natural, _lerp(blond, black, a["black_hair"]), 1.0 - other),
        "skin": skin, "beard": beard,
        "mustache": a["mustache"], "glasses": a["eyeglasses"], "lipstick": a["wearing_lipstick"],
        "makeup": female * (0.5 + 0.5 * f["makeup"]) * (1.0 - 0.4 * old),
    }  # fmt: skip


def _profile(y: jax.Array, p: Scalars) -> tuple[jax.Array, jax.Array]:
    """Half width and half depth of the head's horizontal section at height Y."""
    up, down = jnp.maximum(-y, 0.0) / 0.88, jnp.maximum(y, 0.0) / p["chin"]
    width = jnp.sqrt(jnp.maximum((1.0 - up**2.5) * (1.0 - down ** p["jaw"]), 1e-4))
    depth = jnp.sqrt(jnp.maximum((1.0 - up**2.4) * (1.0 - down**4.5), 1e-4))
    return p["width"] * width, 0.58 * depth


def _trace(u: jax.Array, v: jax.Array, p: Scalars, f: Scalars) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Where parallel rays meet the head: X, Y, Z and the distance inside the silhouette (negative outside).

    A section is the ellipse X = A sin t, Z = C cos t; turned by the yaw, u = W sin(t + d) with
    W^2 = (A cos yaw)^2 + (C sin yaw)^2, which gives t. The pitch couples Y to Z: two fixed-point iterations.
    """
    yaw, pitch = -jnp.deg2rad(f["yaw"]), jnp.deg2rad(f["pitch"])  # CelebAMask-HQ: positive yaw looks to the left
    z = jnp.full_like(u, NEAR)
    for _ in range(2):
        y = (v + z * jnp.sin(pitch)) / jnp.cos(pitch)
        a, c = _profile(y, p)
        along, across = a * jnp.cos(yaw), c * jnp.sin(yaw)
        reach = jnp.sqrt(along**2 + across**2)
        s = jnp.clip(u / reach, -0.999, 0.999)
        q = jnp.sqrt(1.0 - s * s)
        x, z = a * (s * along - q * across) / reach, c * (q * along + s * across) / reach
    return x, y, z, reach - jnp.abs(u)


def _relief(x: jax.Array, y: jax.Array, p: Scalars, f: Scalars) -> jax.Array:
    """Height of the features over the smooth head, even in X."""
    xa, old = jnp.abs(x), p["old"]
    w, tip = p["nose_width"], p["nose_tip"]
    bridge = 0.085 * _ramp(y + 0.16, 0.3) * _ramp(tip - 0.01 - y, 0.09) * _lerp(0.55, 1.0, (y + 0.15) / 0.42)
    height = bridge * _gauss(x / (0.05 * w))
    height += 0.075 * _gauss(x / (0.052 * w), (y - tip + 0.025) / 0.042)
    height += 0.045 * _gauss((xa - 0.088 * w) / 0.03, (y - tip - 0.004) / 0.032)
    height -= 0.05 * _gauss((xa - p["eye_x"] * 0.85) / 0.13, (y - EYE_LINE) / 0.06)
    height += 0.03 * _gauss((xa - p["eye_x"]) / 0.07, (y - EYE_LINE) / 0.04)
    height += (0.018 + 0.016 * p["male"]) * _gauss((xa - 0.22) / 0.16, (y - p["brow_y"] - 0.02) / 0.05)
    cheek = 0.025 + 0.035 * jnp.maximum(p["smile"], 0.0) + 0.01 * f["cheekbones"]
    height += cheek * _gauss((xa - 0.31) / 0.11, (y - 0.2 + 0.03 * p["smile"]) / 0.1)
    height += 0.03 * _gauss(x / 0.2, (y - p["mouth_y"]) / 0.12)
    height += 0.022 * p["lip"] * _gauss(x / 0.11, (y - p["mouth_y"] - 0.035) / 0.022)
    height -= 0.02 * _gauss(x / 0.1, (y - p["mouth_y"] - 0.1) / 0.028)
    height += 0.03 * _gauss(x / 0.11, (y - p["chin"] + 0.13) / 0.06)
    fold = xa - 0.1 * w - (0.14 + 0.05 * jnp.maximum(p["smile"], 0.0)) * (y - tip) / 0.24
    crease = 0.006 + 0.02 * jnp.maximum(p["smile"], 0.0) + 0.03 * old
    height -= crease * _gauss(fold / 0.024, (y - 0.4) / 0.09)
    furrow = 0.5 + 0.5 * jnp.sin(y * 62.0 + 3.0 * x * x + 2.0 * f["texture"])
    height += 0.0075 * old * furrow * _gauss(x / 0.24, (y + 0.4) / 0.09)
    height -= 0.014 * old * _gauss((xa - p["eye_x"]) / 0.09, (y - EYE_LINE - 0.105) / 0.018)
    return height


def _normal(
    x: jax.Array, y: jax.Array, z: jax.Array, p: Scalars, f: Scalars
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Unit normal of the head with its relief, turned with the head into picture coordinates."""
    one = jnp.ones_like(x)
    (a, c), (da, dc) = jax.jvp(lambda t: _profile(t, p), (y,), (one,))
    _, hx = jax.jvp(lambda t: _relief(t, y, p, f), (x,), (one,))
    _, hy = jax.jvp(lambda t: _relief(x, t, p, f), (y,), (one,))
    nx, ny, nz = x / a**2, -(x * x * da / a**3 + z * z * dc / c**3), z / c**2
    scale = jax.lax.rsqrt(nx * nx + ny * ny + nz * nz)
    nx, ny, nz = nx * scale - hx, ny * scale - hy, nz * scale
    yaw, pitch = -jnp.deg2rad(f["yaw"]), jnp.deg2rad(f["pitch"])
    nx, nz = nx * jnp.cos(yaw) + nz * jnp.sin(yaw), nz * jnp.cos(yaw) - nx * jnp.sin(yaw)
    ny, nz = ny * jnp.cos(pitch) - nz * jnp.sin(pitch), nz * jnp.cos(pitch) + ny * jnp.sin(pitch)
    scale = jax.lax.rsqrt(nx * nx + ny * ny + nz * nz)
    return nx * scale, ny * scale, nz * scale


def _light(normal: tuple[jax.Array, jax.Array, jax.Array], f: Scalars, wrap: float) -> jax.Array:
    """Key light with soft terminator plus a sky that is brighter above, [3, H, W]; red wraps further (skin)."""
    azimuth, elevation = 0.9 * f["light_azimuth"], 0.45 + 0.4 * f["light_elevation"]
    direction = (jnp.sin(azimuth) * jnp.cos(elevation), -jnp.sin(elevation), jnp.cos(azimuth) * jnp.cos(elevation))
    cosine = sum(n * d for n, d in zip(normal, direction, strict=True))
    soft = wrap * jnp.array([1.25, 1.0, 0.9]).reshape(3, 1, 1)
    diffuse = jnp.maximum(cosine + soft, 0.0) / (1.0 + soft)
    ambient = 0.5 - 0.22 * f["light_contrast"]
    return (1.0 - ambient) * 1.25 * diffuse + ambient * (0.75 - 0.3 * normal[1])


def _background(u: jax.Array, v: jax.Array, f: Scalars) -> jax.Array:
    """Out-of-focus surroundings: a tinted gradient and, in clutter, large blurred patches of other colours."""
    level = 0.5 + 0.5 * f["background_value"]
    hue = jnp.pi * (f["background_hue"] + jnp.array([0.0, 2.0 / 3.0, -2.0 / 3.0]).reshape(3, 1, 1))
    tint = 1.0 + (0.18 + 0.3 * f["background_saturation"] * f["background_saturation"]) * jnp.cos(hue)
    colour = (0.02 + 0.93 * level**1.6) * tint
    gradient = u * jnp.cos(3.0 * f["background_gradient"]) + v * jnp.sin(3.0 * f["background_gradient"])
    colour = colour * (1.0 + 0.3 * gradient)
    bits = ((f["texture"] + 1.0) * 2**22).astype(jnp.uint32) * jnp.uint32(64)
    clutter = jnp.maximum(f["clutter"] + 0.3, 0.0)
    for patch in range(6):
        r = [_hash(bits + jnp.uint32(8 * patch + i)) for i in range(7)]
        du, dv = (u - 2.4 * r[0] + 1.2) / (0.12 + 0.35 * r[1]), (v - 2.4 * r[2] + 1.2) / (0.12 + 0.5 * r[3])
        shape = _ramp(1.0 - jnp.maximum(jnp.abs(du), jnp.abs(dv)), 1.2) if patch % 2 else _gauss(du, dv)
        shade = jnp.stack([r[4], 0.5 * (r[4] + r[5]), r[6]]).reshape(3, 1, 1) ** 2
        colour = _lerp(colour, shade, 0.75 * clutter * shape)
    return colour


def _strands(t: jax.Array, phase: jax.Array) -> jax.Array:
    """Brightness of hair across its strands, about zero."""
    return sum(
        weight * jnp.sin(t * frequency + phase * (3.0 + 2.0 * i))
        for i, (frequency, weight) in enumerate(((9.0, 0.30), (19.0, 0.28), (37.0, 0.22), (61.0, 0.18)))
    )  # type: ignore[return-value]


def _paint_eyes(skin: jax.Array, x: jax.Array, y: jax.Array, p: Scalars, f: Scalars, aa: float) -> jax.Array:
    """Brows, sockets, lids, lashes and eyeballs."""
    xa = jnp.abs(x)
    dx = (xa - p["eye_x"]) / p["eye_width"]
    bow = jnp.maximum(1.0 - dx * dx, 0.0)
    middle = EYE_LINE - 0.012 * (f["eye_tilt"] + 0.4) * dx
    upper = middle - 0.047 * p["eye_open"] * bow**0.7
    lower = middle + 0.031 * p["eye_open"] * bow
    # Sockets: darker towards the nose and above the lid; bags below in the old.
    socket = _gauss((xa - p["eye_x"] * 0.93) / 0.13, (y - EYE_LINE + 0.045) / 0.055)
    skin = skin * (1.0 - (0.3 + 0.1 * p["male"]) * socket * jnp.array([0.75, 1.0, 1.0]).reshape(3, 1, 1))
    bags = _gauss(dx / 0.8, (y - lower - 0.045) / 0.016)
    skin = skin * (1.0 - (0.08 + 0.3 * p["old"]) * bags)
    shadow = _gauss(dx / 0.9, (y - upper + 0.03) / 0.026) * p["makeup"]
    skin = _lerp(skin, skin * _rgb(165, 130, 140), 0.7 * shadow)
    crease = _gauss(dx / 0.85, (y - upper + 0.033) / 0.01)
    skin = skin * (1.0 - 0.35 * crease)
    # The ball: sclera in the lid's shadow, iris, pupil, a window's reflection.
    ball = _ramp(y - upper, 0.5 * aa + 0.01) * _ramp(lower - y, 0.5 * aa + 0.01)
    gaze = x - jnp.sign(x) * p["eye_x"] - 0.02 * f["gaze"]
    radius = jnp.sqrt(gaze * gaze + (y - EYE_LINE + 0.006) ** 2)
    iris_colour = _palette(
        0.5 + 0.5 * f["eye_colour"], (34, 22, 16), (58, 38, 24), (78, 62, 40), (84, 100, 96), (96, 128, 150)
    )
    white = _rgb(214, 204, 198) * (0.45 + 0.55 * _ramp(y - upper - 0.02, 0.06)) * (1.0 - 0.25 * dx * dx)
    eye = _lerp(white, iris_colour, _ramp(0.047 - radius, 0.015))
    eye = _lerp(eye, _rgb(8, 6, 6), _ramp(0.021 - radius, 0.014))
    eye = eye + 0.75 * _gauss((gaze - 0.014) / 0.009, (y - EYE_LINE + 0.02) / 0.009)
    skin = _lerp(skin, eye, ball)
    # Lash lines, then brows over everything.
    lash = _gauss((y - upper + 0.002) / (0.008 + 0.007 * p["makeup"])) * _ramp(1.08 - jnp.abs(dx), 0.2)
    skin = _lerp(skin, _rgb(24, 16, 14), (0.62 + 0.35 * p["makeup"]) * lash)
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
    xa, smile = jnp.abs(x), jnp.maximum(p["smile"], 0.0)
    dx = x / p["mouth_width"]
    bow = jnp.maximum(1.0 - dx * dx, 0.0)
    line = p["mouth_y"] - (0.075 * p["smile"] - 0.006) * (dx * dx - 0.35)
    gap = p["teeth"] * (0.02 + 0.035 * smile) * bow**0.6
    inner_top, inner_low = line - 0.5 * gap, line + gap
    cupid = 1.0 - 0.3 * _gauss(x / 0.022) + 0.12 * _gauss((xa - 0.045) / 0.03)
    top = inner_top - 0.037 * p["lip"] * (1.0 - 0.25 * smile) * bow**0.8 * cupid
    low = inner_low + 0.052 * p["lip"] * (1.0 - 0.25 * smile) * bow**0.6
    beard_colour = 0.75 * _lerp(p["hair"], _rgb(40, 30, 26), 0.35)
    strands = 1.0 + 0.35 * _strands(x + 0.25 * y, f["texture"])
    # Beard: jaw and cheeks below a line from the ear to the corner of the mouth; light stubble everywhere else.
    border = _lerp(0.5, 0.2, jnp.clip((xa - 0.1) / 0.3, 0.0, 1.0))
    jaw = _ramp(y - border, 0.16) * (1.0 - 0.4 * _gauss(x / 0.12, (y - p["mouth_y"] - 0.1) / 0.04))
    under_nose = _gauss(x / 0.13, (y - 0.405) / 0.05)
    density = jnp.maximum(jaw, 0.35 * under_nose)
    amount = jnp.where(p["beard"] > 0.6, 0.85, 0.55 * p["beard"] / 0.6)
    skin = _lerp(skin, beard_colour * strands, amount * density)
    # Moustache: from under the nose to the upper lip, drooping with its style.
    mx = x / (0.17 + 0.025 * f["mustache_style"])
    droop = p["mouth_y"] - 0.062 - 0.1 * p["smile"] * (0.3 * mx * mx - 0.1) + (0.05 + 0.03 * f["mustache_style"]) * mx**2
    hair = _gauss((y - droop) / (0.034 + 0.006 * f["mustache_style"])) * _ramp(1.0 - jnp.abs(mx), 0.35)
    hair = jnp.minimum(1.35 * hair, 1.0) * (1.0 - 0.25 * _gauss(x / 0.018))
    skin = _lerp(skin, beard_colour * strands, (0.92 - 0.12 * p["old"]) * p["mustache"] * hair)
    # Lips.
    lips = _ramp(y - top, 1.2 * aa) * _ramp(low - y, 1.2 * aa) * (bow > 0.0)
    natural = p["skin"] * _lerp(_rgb(222, 168, 165), _rgb(205, 160, 155), p["male"])
    rouge = _palette(0.5 + 0.5 * f["lip_colour"], (118, 22, 34), (176, 30, 44), (196, 70, 84), (206, 108, 112))
    strength = p["lipstick"] * (0.8 + 0.1 * f["makeup"])
    shade = skin.mean(0, keepdims=True) / p["skin"].mean()
    lip = _lerp(natural, rouge, strength) * shade * _lerp(0.8, 1.12, _ramp(y - line, 0.04))
    lip = lip + (0.05 + 0.12 * p["lipstick"]) * shade * _gauss(x / 0.07, (y - low + 0.03) / 0.01)
    skin = _lerp(skin, lip, 0.92 * lips)
    skin = skin * (1.0 - 0.22 * _gauss(dx / 0.7, (y - low - 0.022) / 0.018))
    # Between the lips: a dark line, or teeth in the dark of the mouth.
    inside = _ramp(y - inner_top, aa) * _ramp(inner_low - y, aa) * _ramp(gap, 0.02)
    teeth = _rgb(228, 220, 208) * _ramp(0.82 - jnp.abs(dx), 0.35) * _ramp(inner_low - y, 0.03)
    skin = _lerp(skin, 0.85 * shade * _lerp(_rgb(60, 18, 18), teeth, 0.35 + 0.65 * smile), inside)
    closed = _gauss((y - line) / 0.0085) * _ramp(1.03 - jnp.abs(dx), 0.12) * (1.0 - _ramp(gap, 0.02))
    skin = _lerp(skin, 0.35 * skin * _rgb(200, 130, 130), 0.8 * closed)
    corner = _gauss((xa - p["mouth_width"]) / 0.018, (y - p["mouth_y"] + 0.045 * p["smile"]) / 0.02)
    return skin * (1.0 - 0.35 * corner)


def _paint_skin(x: jax.Array, y: jax.Array, p: Scalars, f: Scalars) -> jax.Array:
    """Skin with its blush and blotches, nostrils, the nose's cast shadow and the creases of age."""
    xa, old, w, tip = jnp.abs(x), p["old"], p["nose_width"], p["nose_tip"]
    blush = _gauss((xa - 0.3) / 0.12, (y - 0.22) / 0.1) + 0.6 * _gauss(x / 0.07, (y - tip) / 0.06)
    red = jnp.array([0.02, -0.16, -0.14]).reshape(3, 1, 1)
    skin = p["skin"] * (1.0 + (0.55 + 0.3 * p["makeup"] + 0.2 * f["undertone"]) * blush * red)
    phase = 9.0 * f["texture"]
    blotch = jnp.sin(23.0 * x + 3.0 * jnp.sin(17.0 * y + phase)) * jnp.sin(19.0 * y + 3.0 * jnp.sin(13.0 * x - phase))
    skin = skin * (1.0 + (0.02 + 0.06 * old) * blotch)
    # Under the nose: nostrils, then the shadow that falls away from the light.
    nostril = _gauss((xa - 0.05 * w) / (0.022 * w), (y - tip - 0.047) / 0.014)
    skin = skin * (1.0 - 0.75 * nostril)
    side = f["light_azimuth"]
    cast = _gauss((x + 0.04 * side) / (0.085 * w), (y - tip - 0.068 - 0.015 * f["light_elevation"]) / 0.024)
    flank = _gauss((x + jnp.sign(side) * 0.095) / 0.04, (y - tip + 0.12) / 0.12) * jnp.abs(side)
    wing = _gauss((xa - 0.115 * w) / 0.014, (y - tip - 0.005) / 0.032)
    skin = skin * (1.0 - 0.32 * cast) * (1.0 - 0.3 * flank) * (1.0 - 0.25 * wing)
    fold = xa - 0.1 * w - (0.14 + 0.05 * jnp.maximum(p["smile"], 0.0)) * (y - tip) / 0.24
    crease = _gauss(fold / 0.014, (y - 0.4) / 0.08) * (0.06 + 0.16 * jnp.maximum(p["smile"], 0.0) + 0.24 * old)
    furrow = jnp.maximum(jnp.sin(y * 62.0 + 3.0 * x * x + 2.0 * f["texture"]), 0.0) * _gauss(x / 0.24, (y + 0.4) / 0.08)
    jowl = _gauss((xa - 0.21) / 0.02, (y - 0.64) / 0.07)
    return skin * (1.0 - crease) * (1.0 - 0.16 * old * furrow) * (1.0 - 0.2 * old * jowl)


def _paint_glasses(picture: jax.Array, x: jax.Array, y: jax.Array, p: Scalars, f: Scalars, aa: float) -> jax.Array:
    """Frame, lenses and their shadow, a little in front of the face."""
    yaw, pitch = -jnp.deg2rad(f["yaw"]), jnp.deg2rad(f["pitch"])
    x, y = x - 0.09 * jnp.sin(yaw), y + 0.09 * jnp.sin(pitch)
    xa = jnp.abs(x)
    size = 1.0 + 0.14 * f["glasses_size"]
    gx = (xa - p["eye_x"] + 0.008) / (0.178 * size)
    gy = (y - EYE_LINE - 0.02) / (0.118 * size)
    power = 3.0 + 1.0 * f["glasses_shape"]
    r = (jnp.abs(gx) ** power + jnp.abs(gy) ** power + 1e-6) ** (1.0 / power)
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
    result = _lerp(result, _rgb(22, 20, 20), tint * lens) + glare * lens
    return _lerp(picture, _lerp(result, colour, rim), p["glasses"])


def _scene(u: jax.Array, v: jax.Array, p: Scalars, f: Scalars, aa: float) -> jax.Array:
    """The whole picture in linear light, [3, H, W], at the points (u, v)."""
    yaw, pitch, roll = -jnp.deg2rad(f["yaw"]), jnp.deg2rad(f["pitch"]), jnp.deg2rad(f["roll"])
    picture = _background(u, v, f)
    # The crop keeps pupils and mouth in place: what turns and shifts is the rest of the head.
    scale = 1.0 + 0.05 * f["scale"]
    du, dv = (u - 0.03 * f["shift_u"]) / scale, (v - 0.2 - 0.03 * f["shift_v"]) / scale
    u, v = du * jnp.cos(roll) + dv * jnp.sin(roll), dv * jnp.cos(roll) - du * jnp.sin(roll) + 0.2
    hu, hv = u + NEAR * jnp.sin(yaw), v - NEAR * jnp.sin(pitch)

    # Hair's outline: a cap over the skull that runs down into long hair or ends above the ears.
    wave = p["hair_long"] * (0.5 + 0.5 * f["hair_wave"])
    phase = 3.0 * f["texture"]
    au = jnp.abs(hu - 0.03 * f["hair_part"])
    top = 0.88 + 1.1 * p["hair_volume"]
    wide = p["width"] + p["hair_volume"] * _lerp(0.45, 1.25, p["hair_long"])
    cap = wide * jnp.sqrt(jnp.maximum(1.0 - (jnp.maximum(-hv, 0.0) / top) ** 2.5, 0.0))
    fall = jnp.maximum(hv, 0.0)
    outline = cap + p["hair_long"] * (0.12 + 0.14 * f["hair_volume"]) * fall
    outline += wave * 0.035 * jnp.sin(11.0 * hv + 2.0 * phase + 2.0 * jnp.sign(hu)) * _ramp(hv + 0.3, 0.6)
    strands_t = (hu - 0.2 * f["hair_part"]) / (0.35 + 0.45 * (hv + 1.0)) + wave * 0.12 * jnp.sin(8.0 * hv + phase)
    strands = _strands(5.0 * strands_t * (1.0 + 0.1 * hv), phase)
    end = 0.1 + 1.1 * jnp.maximum(p["hair_length"], 0.0) + 0.1 * strands
    fuzz = 0.05 + 0.06 * p["hair_long"]
    outer = _ramp(outline - au + 0.02 * strands, fuzz) * _ramp(end - hv, 0.16) * (1.0 - p["bald"])
    ny, nx = jnp.clip(hv / top, -1.0, 0.35), jnp.clip(hu / (wide + 0.1), -1.0, 1.0)
    nz = jnp.sqrt(jnp.maximum(1.05 - nx * nx - ny * ny, 0.05))
    hair_light = _light((nx, ny, nz), f, 0.25)
    ring = _gauss((hv + 0.62 - 0.25 * hu * hu + 0.08 * f["light_elevation"]) / 0.13)
    ring += 0.6 * p["hair_long"] * _gauss((hv - 0.25 - 0.1 * f["hair_wave"]) / 0.2) * _gauss((au - wide + 0.05) / 0.1)
    gloss = (0.25 + 0.8 * p["hair"]) * ring * jnp.maximum(0.4 + strands, 0.0)
    hair = hair_light * (p["hair"] * (0.95 + 0.75 * strands) + 0.22 * gloss)

    # Shoulders and neck stay behind when the head turns.
    bu = u - 0.25 * jnp.sin(yaw)
    neck_half = 0.3 + 0.075 * p["male"] + 0.02 * f["face_width"] + 0.12 * _ramp(v - 0.95, 0.35)
    s = jnp.clip(bu / neck_half, -0.98, 0.98)
    neck_light = _light((s, -0.1 * jnp.ones_like(s), jnp.sqrt(1.0 - s * s)), f, 0.3)
    chin_v = p["chin"] + NEAR * jnp.sin(pitch)
    under_chin = 1.0 - 0.62 * _gauss(jnp.maximum(v - chin_v + 0.2 * bu * bu, 0.0) / 0.13, bu / 0.6)
    slope = 0.83 + 0.1 * f["clothes_height"] + 0.35 * jnp.maximum(jnp.abs(bu) - neck_half, 0.0)
    slope += 0.3 * jnp.maximum(neck_half - jnp.abs(bu), 0.0) * (1.0 + f["clothes_collar"])
    cloth_hue = jnp.pi * (f["clothes_hue"] + jnp.array([0.0, 2.0 / 3.0, -2.0 / 3.0]).reshape(3, 1, 1))
    cloth = (0.015 + 0.75 * (0.5 + 0.5 * f["clothes_value"]) ** 3) * (1.0 + 0.5 * jnp.cos(cloth_hue))
    cloth = cloth * _light((0.6 * bu, -0.5 * jnp.ones_like(bu), 0.7 * jnp.ones_like(bu)), f, 0.3)
    back = outer * _lerp(1.0, 0.0, p["bald"])
    picture = _lerp(picture, cloth * (1.0 + 0.08 * jnp.sin(9.0 * bu + 14.0 * v)), _ramp(v - slope, 0.03))
    picture = _lerp(picture, 0.6 * hair, back)
    neck = _ramp(neck_half - jnp.abs(bu), 0.03) * _ramp(v - 0.35, 0.1) * _ramp(slope - v, 0.03)
    picture = _lerp(picture, 0.92 * p["skin"] * neck_light * under_chin, neck)

    # Ears, then the head.
    ear_u = jnp.abs(hu + 0.04 * jnp.sin(yaw)) - p["width"] * jnp.cos(yaw) - 0.015
    ear = jnp.sqrt((ear_u / 0.06) ** 2 + ((hv - 0.06 + 0.25 * ear_u) / 0.15) ** 2)
    ear_light = _light((0.6 * jnp.sign(hu), -0.1 * jnp.ones_like(hu), 0.8 * jnp.ones_like(hu)), f, 0.3)
    inner = 1.0 - 0.4 * _gauss(ear / 0.45)
    picture = _lerp(picture, p["skin"] * _rgb(246, 214, 208) * ear_light * inner, _ramp(1.0 - ear, 0.2))
    x, y, z, inside = _trace(hu, hv, p, f)
    x = x - _relief(x, y, p, f) * jnp.sin(yaw)
    normal = _normal(x, y, z, p, f)
    skin = _paint_skin(x, y, p, f)
    skin = _paint_eyes(skin, x, y, p, f, aa)
    skin = _paint_mouth(skin, x, y, p, f, aa)
    sheen = jnp.maximum(normal[2] - 0.25 * normal[1] + 0.25 * f["light_azimuth"] * normal[0], 0.0)
    face = skin * _light(normal, f, 0.22) + 0.07 * (1.0 + 0.5 * f["shine"]) * (sheen / 1.08) ** 24
    rim = _ramp(inside, 0.16)
    face = face * _lerp(0.72, 1.0, rim)

    # The opening of the hair: above the hairline and outside the side locks, hair covers the skin.
    lean = x - 0.22 * f["hair_part"]
    line = p["hairline"] + _lerp(1.7, 0.6, p["fringe"]) * jnp.abs(lean) ** 2.4 + 0.02 * strands
    line = _lerp(line, -0.24 + 0.08 * f["hairline"] + 0.03 * strands, p["fringe"])
    recede = p["male"] * p["old"] * (0.6 + 0.4 * f["hairline"])
    line = line - 0.16 * recede * _gauss((jnp.abs(x) - 0.25) / 0.1)
    lock = _lerp(0.62, 0.465 + 0.05 * f["hair_locks"], p["hair_long"]) + 0.05 * jnp.maximum(y, 0.0) * p["hair_long"]
    above = _ramp(line - y, 0.05) * _ramp(0.12 + 1.2 * p["hair_long"] - y, 0.12)
    covered = jnp.maximum(above, _ramp(jnp.abs(lean) + 0.012 * strands - lock, 0.05) * p["hair_long"])
    covered = covered * (1.0 - p["bald"])
    fall_shadow = _ramp(line - y + 0.1, 0.24) * (1.0 - p["bald"])
    face = face * (1.0 - 0.42 * fall_shadow)
    picture = _lerp(picture, face, _ramp(inside, 2.5 * aa))
    picture = _lerp(picture, hair, outer * covered)
    return _paint_glasses(picture, x, y, p, f, aa)


def render_one(attributes: Mapping[str, jax.Array], factors: Mapping[str, jax.Array], size: int) -> jax.Array:
    """Renders one face.

    Args:
        attributes: name -> scalar in {0, 1}.
        factors: name -> scalar; degrees for yaw, pitch and roll, else [-1, 1].
        size: height and width in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    n = SUPERSAMPLING * size
    axis = (2.0 * jnp.arange(n, dtype=jnp.float32) + 1.0) / n - 1.0
    v, u = jnp.meshgrid(axis, axis, indexing="ij")
    linear = _scene(u, v, _proportions(attributes, factors), factors, 2.0 / n)
    exposure = 2.0 ** (0.4 * factors["exposure"])
    balance = 1.0 + 0.09 * factors["temperature"] * jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1)
    linear = jnp.maximum(linear * exposure * balance, 1e-5)
    tone = 1.02 * jnp.minimum(linear, 4.0) / (1.0 + 0.12 * linear)  # highlights roll off
    encoded = tone ** (1.0 / 2.2)
    # One Gaussian both averages the rays of a pixel and puts the lens out of focus: rows, then columns.
    centres = (2.0 * jnp.arange(size, dtype=jnp.float32) + 1.0) / size - 1.0
    blur = jnp.sqrt((0.9 / size) ** 2 + (0.017 * (0.5 + 0.5 * factors["defocus"])) ** 2)
    kernel = _gauss((centres[:, None] - axis[None]) / blur)
    kernel = kernel / kernel.sum(1, keepdims=True)
    image = jnp.einsum("iv,cvu,ju->ijc", kernel, encoded, kernel)
    image = 0.5 + (image - 0.5) * (1.0 + 0.15 * factors["contrast"])
    pixel = jnp.arange(size * size * 3, dtype=jnp.uint32).reshape(size, size, 3)
    bits = ((factors["texture"] + 1.0) * 2**22).astype(jnp.uint32) * jnp.uint32(2654435761)
    grain = sum(_hash(pixel * jnp.uint32(4) + bits + jnp.uint32(i)) for i in range(3)) - 1.5  # sd 1/2
    image = image + (0.012 + 0.01 * factors["noise"]) * grain
    return jnp.clip(jnp.round(255.0 * image), 0.0, 255.0).astype(jnp.uint8)
