"""Procedural labelled scenes: one patterned object on a textured ground, with its exact mask.

The label is the *pattern* on the object's surface. Outline, colours, light, place, and the
pattern's angle, phase and scale are drawn independently of it. The object keeps out of the four
corner squares of side `CORNER` (where patches go) and inside the picture, by construction: its
outline lies in a disc whose radius is at most the distance from its centre to either.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

CANVAS = 224.0  # lengths below are in units of a picture of this side, whatever `size` is
CORNER = 64.0
AREA = 0.065, 0.29  # smallest and largest object, as a share of the picture
CHUNK = 16  # draw_batch computes aligned chunks of this many scenes
ANGLES = 512  # samples of an outline
LUMA = jnp.array([0.299, 0.587, 0.114])

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
    return 0.12 * sum(jnp.sin(2 * jnp.pi * (a * u + b * v) + 9 * a) for a, b in waves)


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


def _noise(key: PRNGKeyArray, grids: tuple[int, ...], size: int) -> Float[Array, "octave size size"]:
    """Value noise in [-1, 1]: one octave for each random grid, upsampled bilinearly."""
    octaves = [jax.random.uniform(jax.random.fold_in(key, n), (n, n), minval=-1) for n in grids]
    return jnp.stack([jax.image.resize(octave, (size, size), "cubic") for octave in octaves])


def _colour(key: PRNGKeyArray, luminance: Float[Array, ""]) -> Colour:
    """A random hue and saturation at exactly this luminance."""
    hue, saturation = jax.random.uniform(key, (2,))
    pure = jnp.clip(jnp.abs((6 * hue + jnp.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    colour = 1 - (0.2 + 0.7 * saturation) * (1 - pure)
    bright = colour @ LUMA
    darker = colour * luminance / bright
    lighter = 1 - (1 - colour) * (1 - luminance) / (1 - bright)
    return jnp.where(luminance < bright, darker, lighter)


def _palette(key: PRNGKeyArray) -> Float[Array, "2 3"]:
    """Two colours whose luminances differ by 0.35 to 0.6, in either order."""
    k_dark, k_step, k_order, k_colours = jax.random.split(key, 4)
    dark = jax.random.uniform(k_dark, minval=0.1, maxval=0.35)
    pair = jnp.stack([dark, dark + jax.random.uniform(k_step, minval=0.35, maxval=0.6)])
    pair = jnp.where(jax.random.bernoulli(k_order), pair, pair[::-1])
    return jax.vmap(_colour)(jax.random.split(k_colours), pair)


def _outline(key: PRNGKeyArray) -> Float[Array, "angle"]:
    """Radius, at most 1, in `ANGLES` directions: a polygon, star or blob; stretched and turned."""
    k_kind, k_corners, k_notch, k_waves, k_stretch, k_turn = jax.random.split(key, 6)
    angle = jnp.linspace(0, 2 * jnp.pi, ANGLES, endpoint=False)
    stretch = jax.random.uniform(k_stretch, minval=0.7)
    turned = angle + jax.random.uniform(k_turn, maxval=2 * jnp.pi)
    x, y = jnp.cos(turned), jnp.sin(turned) / stretch
    t = jnp.arctan2(y, x)

    # Straight edges from corners at radius 1 to notches at radius `notch`, half a sector (a) on;
    # notch = cos a is the regular polygon, less is a star.
    corners = jax.random.randint(k_corners, (), 3, 8)
    a = jnp.pi / corners
    notch = jax.random.uniform(k_notch, minval=-1.0)
    notch = jnp.cos(a) + jnp.maximum(notch, 0) * (0.4 * a / jnp.sin(a) - jnp.cos(a))
    fold = jnp.abs((t + a) % (2 * a) - a)
    cornered = notch * jnp.sin(a) / (
        jnp.sin(fold) * (1 - notch * jnp.cos(a)) + jnp.cos(fold) * notch * jnp.sin(a)
    )
    order = jnp.arange(1, 6)[:, None]
    height, phase = jax.random.uniform(k_waves, (2, 5, 1))
    waves = jnp.sum(0.2 * height * jnp.cos(order * t + 2 * jnp.pi * phase) / order**0.5, axis=0)

    smooth = jax.random.bernoulli(k_kind, 0.4)
    radius = jnp.where(smooth, 1 + waves, cornered) / jnp.hypot(x, y)
    return radius / radius.max()


def _room(
    centre: Float[Array, "2"], outline: Float[Array, "angle"], margin: float
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
    key: PRNGKeyArray, outline: Float[Array, "angle"], margin: float
) -> tuple[Float[Array, "2"], Float[Array, ""]]:
    """Centre and scale: a scale first, then a centre uniform among those with room for it."""
    k_centre, k_scale = jax.random.split(key)
    smallest, largest = jnp.sqrt(CANVAS**2 * jnp.array(AREA) / (jnp.pi * jnp.mean(outline**2)))
    middle = jnp.full(2, CANVAS / 2)
    largest = jnp.minimum(largest, _room(middle, outline, margin))
    scale = jax.random.uniform(k_scale, minval=smallest, maxval=largest)
    centres = jax.random.uniform(k_centre, (64, 2), maxval=CANVAS).at[-1].set(middle)
    room = jax.vmap(_room, in_axes=(0, None, None))(centres, outline, margin)
    return centres[jnp.argmax(room >= scale)], scale  # the first with room; the middle has it


def _ground(key: PRNGKeyArray, across: Field, size: int) -> Float[Array, "size size 3"]:
    """Two or three colours in soft drifts, under fractal noise of random contrast."""
    k_drift, k_grain, k_colours, k_light, k_weights = jax.random.split(key, 5)
    light = jax.random.uniform(k_light, (3,), minval=0.12, maxval=0.88)
    first, second, third = jax.vmap(_colour)(jax.random.split(k_colours, 3), light)
    edge, slope, contrast, *weights = jax.random.uniform(k_weights, (9,))
    drift = _noise(k_drift, (3, 4, 7), size)
    steep = 1 + 12 * edge**2
    mix = jax.nn.sigmoid(steep * (drift[0] + 0.4 * drift[2] + 2 * (slope - 0.5) * across))
    colour = first + mix[..., None] * (second - first)
    colour += (0.4 * (1 + drift[1]))[..., None] * (third - colour)
    grain = jnp.tensordot(jnp.stack(weights), _noise(k_grain, (9, 15, 28, 56, 112, 160), size), 1)
    return colour + ((0.02 + 0.16 * contrast) * grain)[..., None]


def _render(key: PRNGKeyArray, label: Int[Array, ""], size: int) -> Scene:
    """The scene of this key with the pattern of this label; nothing else depends on the label."""
    k_outline, k_place, k_pattern, k_palette, k_ground, k_light, k_skin = jax.random.split(key, 7)
    pixel = CANVAS / size
    x, y = jnp.meshgrid(*2 * [(jnp.arange(size) + 0.5) * pixel])

    outline = _outline(k_outline)
    centre, scale = _place(k_place, outline, 1.5 * pixel)
    x, y = x - centre[0], y - centre[1]
    turn = jnp.arctan2(y, x) * (ANGLES / (2 * jnp.pi))
    step = jnp.roll(outline, -1) - outline
    upright = jax.lax.rsqrt(1 + (step * ANGLES / (2 * jnp.pi) / outline) ** 2)
    table = jnp.stack([outline, step, upright], axis=-1) * scale
    base, rise, upright = jnp.moveaxis(table[jnp.floor(turn).astype(int) % ANGLES], -1, 0)
    inside = (base + rise * (turn - jnp.floor(turn)) - jnp.hypot(x, y)) * upright / scale
    alpha = jnp.clip(0.5 + inside / pixel, 0, 1)

    angle, period, *phase = jax.random.uniform(k_pattern, (4,))
    period = (11 + 5 * period) * jnp.array([relative for _, relative in _PATTERNS.values()])[label]
    cos, sin = jnp.cos(2 * jnp.pi * angle), jnp.sin(2 * jnp.pi * angle)
    u = (cos * x + sin * y) / period + 50 * phase[0]
    v = (cos * y - sin * x) / period + 50 * phase[1]
    shade = jax.lax.switch(label, [pattern for pattern, _ in _PATTERNS.values()], u, v)
    shade = jnp.clip(0.5 + shade * period / pixel, 0, 1)
    one, two = _palette(k_palette)
    surface = two + shade[..., None] * (one - two)

    light = jax.random.uniform(k_light, (4,), minval=-1)
    gradient = 0.2 * (light[0] * x + light[1] * y) / scale
    skin = jnp.tensordot(jnp.array([0.1, 0.06, 0.06]), _noise(k_skin, (6, 40, 112), size), 1)
    surface *= (1 + gradient + skin)[..., None]
    across = (light[2] * x + light[3] * y) / (CANVAS / 2)
    ground = _ground(k_ground, across, size)
    image = jnp.clip(ground + alpha[..., None] * (surface - ground), 0, 1)
    return Scene(image, label, alpha > 0.5)


# --- Scenes ---------------------------------------------------------------------------------------


def draw(key: PRNGKeyArray, size: int = 224) -> Scene:
    """One scene: image [size, size, 3], label [], mask [size, size]. `size` is static under jit."""
    k_label, k_scene = jax.random.split(key)
    return _render(k_scene, jax.random.randint(k_label, (), 0, len(CATEGORIES)), size)


@partial(jax.jit, static_argnames="size")
def _chunk(seed: int, chunk: int, size: int) -> Scene:
    index = chunk * CHUNK + jnp.arange(CHUNK)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(index)
    return jax.vmap(partial(draw, size=size))(keys)


def draw_batch(seed: int, count: int, size: int = 224, start: int = 0) -> Scene:
    """Scenes start .. start + count of this seed's endless sequence, leading axis [count].

    Scene i is `draw(fold_in(key(seed), i))`, the same bit for bit whatever the batch: it is always
    computed at the same place of the same compiled chunk.
    """
    first = start // CHUNK
    chunks = [_chunk(seed, c, size) for c in range(first, -(-(start + count) // CHUNK))]
    keep = slice(start - first * CHUNK, start - first * CHUNK + count)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[keep], *chunks)
