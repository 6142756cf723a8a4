"""Procedural labelled scenes: one patterned object on a textured ground, with its exact mask.

The label is the *pattern* on the object's surface. Outline, colours, light, place, and the
pattern's angle, phase and scale are drawn independently of it. The object keeps out of the four
corner squares of side `CORNER` (where patches go) and inside the picture, by construction: its
radial outline is scaled to less than the free length of every ray from its centre.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

CANVAS = 224.0  # lengths below are in units of a picture of this side, whatever `size` is
CORNER = 64.0
AREA = 0.065, 0.29  # smallest and largest object, as a share of the picture
TRIES = 64  # places to choose from, the middle among them
CHUNK = 16  # draw_batch computes aligned chunks of this many scenes
ANGLES = 512  # samples of an outline
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Field = Float[Array, "height width"]
Colour = Float[Array, "3"]


class Scene(NamedTuple):
    """A picture in [0, 1] (RGB), the index of its class in `CATEGORIES`, the object's pixels."""

    image: Float[Array, "*batch height width 3"]
    label: Int[Array, "*batch"]
    mask: Bool[Array, "*batch height width"]


# --- Patterns: (u, v) in periods -> distance (in periods, roughly) inside the first colour --------


def _wrap(t: Field) -> Field:
    return t - jnp.floor(t) - 0.5


def _stripes(u: Field, v: Field) -> Field:
    return jnp.abs(_wrap(u)) - 0.25


def _checks(u: Field, v: Field) -> Field:
    a, b = jnp.abs(_wrap(u)) - 0.25, jnp.abs(_wrap(v)) - 0.25
    return jnp.sign(a * b) * jnp.minimum(jnp.abs(a), jnp.abs(b))


def _dots(u: Field, v: Field) -> Field:
    return 0.32 - jnp.hypot(_wrap(u), _wrap(v))


def _rings(u: Field, v: Field) -> Field:
    return 0.1 - jnp.abs(jnp.hypot(_wrap(u), _wrap(v)) - 0.33)


def _zigzag(u: Field, v: Field) -> Field:
    return 0.7 * (jnp.abs(_wrap(u + 1.4 * jnp.abs(_wrap(v / 1.4)))) - 0.25)


def _bricks(u: Field, v: Field) -> Field:
    along = _wrap(u + 0.5 * jnp.floor(2 * v))
    return jnp.minimum(0.5 - jnp.abs(along), 0.25 - 0.5 * jnp.abs(_wrap(2 * v))) - 0.06


def _crosses(u: Field, v: Field) -> Field:
    a, b = jnp.abs(_wrap(u)), jnp.abs(_wrap(v))
    return jnp.minimum(0.4 - jnp.maximum(a, b), 0.13 - jnp.minimum(a, b))


def _triangles(u: Field, v: Field) -> Field:
    a, b = jnp.abs(_wrap(u)), _wrap(v) + 0.1
    return 0.23 - jnp.maximum(0.866 * a + 0.5 * b, -b)


def _scales(u: Field, v: Field) -> Field:
    across = _wrap(u + 0.5 * jnp.floor(2 * v))
    return 0.1 - jnp.abs(jnp.hypot(across, 0.5 * _wrap(2 * v) - 0.25) - 0.42)


def _blotches(u: Field, v: Field) -> Field:
    """A sum of plane waves in five directions, whose ratios never repeat: irregular islands."""
    waves = ((0.71, 0.13), (0.37, 0.62), (-0.23, 0.81), (-0.59, 0.34), (0.93, -0.29))
    height = jnp.zeros_like(u)
    for a, b in waves:
        t = _wrap(a * u + b * v + 3 * a)
        height += 2 * t * (0.5 - jnp.abs(t))  # nearly 0.12 sin(2 pi t)
    return height


_PATTERNS: dict[str, tuple[Callable[[Field, Field], Field], float]] = {  # with relative period
    "stripes": (_stripes, 0.8),
    "checks": (_checks, 1.15),
    "dots": (_dots, 0.9),
    "rings": (_rings, 1.25),
    "zigzag": (_zigzag, 0.9),
    "bricks": (_bricks, 1.35),
    "crosses": (_crosses, 1.1),
    "triangles": (_triangles, 1.1),
    "scales": (_scales, 1.35),
    "blotches": (_blotches, 1.1),
}
CATEGORIES: tuple[str, ...] = tuple(_PATTERNS)


# --- Parts ----------------------------------------------------------------------------------------


def _octaves(key: PRNGKeyArray, sides: tuple[int, ...], size: int) -> list[Field]:
    """Value noise: for each side n, a random n x n grid in [-1, 1], upsampled smoothly."""
    flat = jax.random.uniform(key, (sum(n * n for n in sides),), minval=-1)
    parts = jnp.split(flat, np.cumsum([n * n for n in sides])[:-1])
    grids = [part.reshape(n, n) for part, n in zip(parts, sides, strict=True)]
    return [jax.image.resize(grid, (size, size), "cubic") for grid in grids]


def _colour(tint: Float[Array, "2"], luminance: Float[Array, ""]) -> Colour:
    """The colour of this hue and, about, saturation (in [0, 1]), at exactly this luminance."""
    pure = jnp.clip(jnp.abs((6 * tint[0] + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    colour = 1 - (0.2 + 0.7 * tint[1]) * (1 - pure)
    bright = colour @ LUMA
    darker = colour * luminance / bright
    lighter = 1 - (1 - colour) * (1 - luminance) / (1 - bright)
    return jnp.where(luminance < bright, darker, lighter)


def _palette(key: PRNGKeyArray) -> Float[Array, "2 3"]:
    """Two colours whose luminances differ by 0.35 to 0.6, in either order."""
    dark, step, order, *tints = jax.random.uniform(key, (7,))
    light = 0.1 + 0.25 * dark + jnp.array([0, 0.35 + 0.25 * step])
    light = jnp.where(order < 0.5, light, light[::-1])
    return jax.vmap(_colour)(jnp.stack(tints).reshape(2, 2), light)


def _outline(key: PRNGKeyArray) -> Float[Array, " angle"]:
    """Radius, at most 1, in `ANGLES` directions: a polygon, star or blob; stretched and turned."""
    kind, corners, notch, stretch, turn, *waves = jax.random.uniform(key, (15,))
    turned = jnp.arange(ANGLES) * (2 * jnp.pi / ANGLES) + 2 * jnp.pi * turn
    x, y = jnp.cos(turned), jnp.sin(turned) / (0.65 + 0.35 * stretch)
    t = jnp.arctan2(y, x)

    # Straight edges from corners at radius 1 to notches at radius q, half a sector (a) further on;
    # q = cos a is the regular polygon, less is a star.
    a = jnp.pi / (3 + jnp.floor(5 * corners))
    straight, deep = jnp.cos(a), 0.4 * a / jnp.sin(a)
    q = straight + jnp.maximum(2 * notch - 1, 0) * (deep - straight)
    fold = jnp.abs((t + a) % (2 * a) - a)
    rise, run = q * jnp.sin(a), 1 - q * jnp.cos(a)
    cornered = rise / (run * jnp.sin(fold) + rise * jnp.cos(fold))

    order = np.arange(1, 6)[:, None]
    height, phase = jnp.stack(waves).reshape(2, 5, 1)
    wave = jnp.sum(0.2 * height / order**0.5 * jnp.cos(order * t + 2 * jnp.pi * phase), axis=0)

    radius = jnp.where(kind < 0.4, 1 + wave, cornered) / jnp.hypot(x, y)
    return radius / radius.max()


def _room(
    centre: Float[Array, "2"], outline: Float[Array, " angle"], margin: float
) -> Float[Array, ""]:
    """Largest scale at which the outline, put here, keeps out of the corners and off the border.

    What is allowed is a cross, two crossing bars. A ray from a point inside a bar may run to that
    bar's end, and from a point inside both to the farther of the two ends.
    """
    angle = jnp.arange(ANGLES) * (2 * jnp.pi / ANGLES)
    ray = jnp.stack([jnp.cos(angle), jnp.sin(angle)])  # [2, angle]
    free = []
    for inset in (jnp.array([0.0, CORNER]), jnp.array([CORNER, 0.0])):
        low, high = centre - inset - margin, CANVAS - inset - margin - centre
        bar = jnp.min(jnp.where(ray > 0, high[:, None], low[:, None]) / jnp.abs(ray), axis=0)
        free.append(jnp.where(jnp.min(jnp.minimum(low, high)) > 0, bar, 0))
    return jnp.min(jnp.maximum(*free) / outline)


def _place(
    key: PRNGKeyArray, outline: Float[Array, " angle"], margin: float
) -> tuple[Float[Array, "2"], Float[Array, ""]]:
    """Centre and scale: a scale first, then a centre with room for it, drawn outwards or not."""
    random = jax.random.uniform(key, (TRIES, 3))
    middle = np.full(2, CANVAS / 2, np.float32)
    centres = (CANVAS * random[:, 1:]).at[0].set(middle)
    room = jax.vmap(_room, in_axes=(0, None, None))(centres, outline, margin)
    smallest, largest = jnp.sqrt(CANVAS**2 * np.array(AREA) / (jnp.pi * jnp.mean(outline**2)))
    share, pull = random[0, 1:]  # unused above
    scale = smallest + (jnp.minimum(largest, room[0]) - smallest) * share**1.5
    outward = jnp.linalg.norm(centres - middle, axis=-1) * (6 / CANVAS)
    best = jnp.argmax(jnp.where(room >= scale, random[:, 0] + pull * outward, -1))
    return centres[best], scale  # at worst the middle


def _ground(
    key: PRNGKeyArray, across: Field, octaves: list[Field]
) -> Float[Array, "3 height width"]:
    """Three colours in soft drifts, under fractal noise of random contrast."""
    steep, slope, contrast, *rest = jax.random.uniform(key, (17,))
    weights, light, tints = rest[:5], jnp.stack(rest[5:8]), jnp.stack(rest[8:]).reshape(3, 2)
    one, two, three = jax.vmap(_colour)(tints, 0.12 + 0.76 * light)[..., None, None]
    first, second, third, *grain = octaves
    drift = first + 0.4 * third + (2 * slope - 1) * across
    colour = one + jax.nn.sigmoid((1 + 12 * steep**2) * drift) * (two - one)
    colour += 0.4 * (1 + second) * (three - colour)
    noise = sum(weight * octave for weight, octave in zip(weights, grain, strict=True))
    return colour + ((0.02 + 0.16 * contrast) * noise)


def _render(key: PRNGKeyArray, label: Int[Array, ""], size: int) -> Scene:
    """The scene of this key with the pattern of this label; nothing else depends on the label."""
    k_outline, k_place, k_pattern, k_palette, k_ground, k_light, k_noise = jax.random.split(key, 7)
    pixel = CANVAS / size
    x, y = jnp.meshgrid(*2 * [(jnp.arange(size) + 0.5) * pixel])

    outline = _outline(k_outline)
    centre, scale = _place(k_place, outline, 1.5 * pixel)
    x, y = x - centre[0], y - centre[1]
    turn = jnp.arctan2(y, x) * (ANGLES / (2 * jnp.pi))
    step = jnp.roll(outline, -1) - outline
    upright = jax.lax.rsqrt(1 + (step * ANGLES / (2 * jnp.pi) / outline) ** 2)
    table = jnp.stack([outline * scale, step * scale, upright], axis=-1)
    base, rise, upright = jnp.moveaxis(table[jnp.floor(turn).astype(int) % ANGLES], -1, 0)
    inside = (base + rise * (turn - jnp.floor(turn)) - jnp.hypot(x, y)) * upright
    alpha = jnp.clip(0.5 + inside / pixel, 0, 1)

    angle, period, *phase = jax.random.uniform(k_pattern, (4,))
    period = (11 + 5 * period) * jnp.array([relative for _, relative in _PATTERNS.values()])[label]
    cos, sin = jnp.cos(2 * jnp.pi * angle), jnp.sin(2 * jnp.pi * angle)
    u = (cos * x + sin * y) / period + 50 * phase[0]
    v = (cos * y - sin * x) / period + 50 * phase[1]
    shade = jax.lax.switch(label, [pattern for pattern, _ in _PATTERNS.values()], u, v)
    shade = jnp.clip(0.5 + shade * period / pixel, 0, 1)
    one, two = _palette(k_palette)[..., None, None]  # channels first: twice as fast, on the CPU
    surface = two + shade * (one - two)

    light = jax.random.uniform(k_light, (4,), minval=-1)
    octaves = _octaves(k_noise, (3, 4, 7, 9, 15, 28, 56, 112), size)
    gradient = 0.15 * (light[0] * x + light[1] * y) / scale
    surface *= 1 + gradient + 0.1 * octaves[2] + 0.06 * (octaves[5] + octaves[7])
    ground = _ground(k_ground, (light[2] * x + light[3] * y) / (CANVAS / 2), octaves)
    image = jnp.clip(ground + alpha * (surface - ground), 0, 1)
    return Scene(jnp.moveaxis(image, 0, -1), label, alpha > 0.5)


# --- Scenes ---------------------------------------------------------------------------------------


def draw(key: PRNGKeyArray, size: int = 224) -> Scene:
    """One scene: image [size, size, 3], label [], mask [size, size]. `size` is static under jit."""
    k_label, k_scene = jax.random.split(key)
    return _render(k_scene, jax.random.randint(k_label, (), 0, len(CATEGORIES)), size)


@partial(jax.jit, static_argnames="size")
def _chunk(seed: Int[Array, ""], chunk: Int[Array, ""], size: int) -> Scene:
    index = chunk * CHUNK + jnp.arange(CHUNK)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(index)
    return jax.vmap(partial(draw, size=size))(keys)


def draw_batch(seed: int, count: int, size: int = 224, start: int = 0) -> Scene:
    """Scenes start .. start + count of this seed's endless sequence, leading axis [count].

    Scene i is `draw(fold_in(key(seed), i))`, the same bit for bit whatever the batch: it is always
    computed at the same place of the same compiled chunk.
    """
    if count < 1 or start < 0:
        raise ValueError(f"count must be at least 1 and start at least 0; got {count} and {start}")
    first = start // CHUNK
    chunks = [_chunk(seed, c, size) for c in range(first, -(-(start + count) // CHUNK))]
    keep = slice(start - first * CHUNK, start - first * CHUNK + count)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[keep], *chunks)
