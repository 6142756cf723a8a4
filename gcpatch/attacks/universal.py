"""One patch for many images, several networks and any view: the same losses, in expectation."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from gcpatch.attacks.blending import coverage, cut, overlay, paste
from gcpatch.attacks.engine import reach_of, remember
from gcpatch.attacks.patches import AdversarialPatch, origin_of, patch_of
from gcpatch.attacks.regions import Patch, Placement, Region
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.attacks.slots import Targets, corner_of, images_and_targets
from gcpatch.attacks.step import Losses, Problem, loss_from_activations, make_problem
from gcpatch.attacks.views import Views, apply_view
from gcpatch.explainers import checks
from gcpatch.interpreters.incremental import Incremental, Placed
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

MOST_KEPT = 2**30  # bytes of what is kept of images, where only what a patch reaches is evaluated
Image = Float[ArrayLike, "h w 3"]
Through = Callable[[Image, PRNGKeyArray], Image]


class Universal(NamedTuple):
    """A patch for many images.

    Attributes:
        noise: its pixels (N, eq. 4), in [0, 1]; of a `Bounded` what is added to each.
        history: the mean losses of each step's images, `[steps]` each.
        patch: the patch as an object.
    """

    noise: Float[np.ndarray, "rows columns 3"]
    history: Losses
    patch: AdversarialPatch


def apply_patch(
    image: Float[ArrayLike, "h w 3"],
    noise: Float[ArrayLike, "rows columns 3"],
    patch: Region,
    views: Views | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 1"]]:
    """The image with the patch (paper, eq. 4), and where it lies (1 or 0).

    Args:
        image: RGB in [0, 1].
        noise: the patch's pixels; of a `Bounded` what is added to each.
        patch: its size, ratio and place.
        views: if given, the patch lies as a draw from them says, and not at its place.
        key: of that draw.

    Raises:
        UserError: the image or the patch's pixels are no floats in [0, 1], or of other shapes.
        PatchError: the patch does not lie inside the image.
    """
    image, noise = checks.image(image), checks.image(noise, what="the patch")
    place = patch.place(*image.shape[:2])
    if noise.shape[:2] != place.shape:
        raise AttackError(
            f"the patch has {list(noise.shape[:2])} pixels instead of {list(place.shape)}"
        )
    return _apply(image, noise, place, views, key)


def _apply(
    image: Float[Array, "h w 3"],
    noise: Float[Array, "rows columns 3"],
    place: Placement,
    views: Views | None,
    key: PRNGKeyArray | None,
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 1"]]:
    if views is not None and key is not None:
        view = views.draw(key, (image.shape[0], image.shape[1]), noise.shape[0])
        return apply_view(image, noise, place.ratio, view)
    inside = jnp.broadcast_to(jnp.asarray(place.ratio) > 0, noise.shape).astype(image.dtype)
    region = paste(jnp.zeros_like(image), inside, jnp.asarray(place.corner))
    return overlay(image, noise, place), region[..., :1]


wear = apply_patch  # its name in 0.1.0


def universal(
    networks: Sequence[Network],
    images: Float[ArrayLike, "n h w 3"],
    targets: Targets | None,
    patch: Region,
    attack: Attack,
    *,
    views: Views | None = None,
    through: Through | None = None,
    batch: int = 16,
    seed: int = 0,
    on_step: Callable[[Losses], None] = lambda losses: None,
) -> Universal:
    """One patch that is to fool every network on every image, in every view.

    Each step draws `batch` images, with replacement, and a view of the patch in each, and descends
    the mean over images and networks of the attack's loss (Brown et al., 2017; Athalye et al.,
    2018). Several networks make an ensemble; one image under views, a robust patch of its own.

    Args:
        networks: which have the same categories.
        images: RGB in [0, 1].
        targets: the class that each image shall be taken for, by ID or name.
        patch: where it lies: a `Patch`, whose place does not count where there are views, or a
            `Frame`, a `Mask`, or the whole image `Bounded`.
        attack: how to optimise. All steps are taken, whatever its patience; it begins with the
            mean colour (`Bounded` with no change), unless at `random`.
        views: to draw the placements of a `Patch` from.
        through: what each image goes through before the networks, such as a defence.
        batch: images a step.
        seed: of the `random` start and of all draws.
        on_step: told of each step's mean losses.

    Raises:
        UserError: there is no network, their categories differ, there are no targets, or images or
            targets are not as for `gcpatch.attack`.
    """
    if isinstance(networks, Network) or not networks:
        raise AttackError("give a list of the networks to fool, of one at least")
    if views is not None and not isinstance(patch, Patch):
        raise AttackError(f"views are of a Patch; {patch!r} is none")
    if through is not None and not callable(through):
        raise AttackError(
            f"through is {through!r}; give a function of an image and a key, such as "
            "gcpatch.defence('jpeg-50').attack"
        )
    if attack.reach != "exact":
        raise AttackError(
            f"the reach is {attack.reach!r}, but the steps of a patch for many images are exact; "
            "leave it out"
        )
    if len({network.categories for network in networks}) != 1:
        raise AttackError("the networks of an ensemble must have the same categories")
    if targets is None:
        raise AttackError(
            "a patch for many images needs their targets; untargeted is gcpatch.attack alone"
        )
    images, targets = images_and_targets(networks[0], images, targets)
    place = patch.place(*images.shape[1:3])
    rests = views is None and through is None and corner_of(place) is not None
    reaches = [_reach(network, images, place, attack) if rests else None for network in networks]
    problems = [
        _remembered(
            network,
            _problems_of(network, images, targets, attack, batch)._replace(image=images),
            reach,
        )
        for network, reach in zip(networks, reaches, strict=True)
    ]
    programs = tuple(reach and reach.program for reach in reaches)
    begin, draws = jax.random.split(jax.random.key(seed))
    least, most = _limits(networks[0], place)
    noise = jnp.zeros((*place.shape, 3))  # the mean colour, or no change
    if attack.init == "random":
        noise = jax.random.uniform(begin, noise.shape, minval=least, maxval=most)
    state, history = attack.transformation.init(noise), []
    for key in jax.random.split(draws, attack.steps):
        noise, state, losses = _step(
            list(networks),
            noise,
            state,
            problems,
            attack,
            key,
            place,
            programs,
            views,
            through,
            batch,
        )
        history.append(losses)
        on_step(losses)
    found = _pixels(networks[0], jnp.clip(noise, least, most), place)
    several = len(set(targets.tolist())) > 1
    origin = origin_of(patch, images.shape[1:3], attack, networks)
    made = patch_of(
        found,
        None if several else int(targets[0]),
        network=networks[0],
        region=patch,
        origin=origin,
    )
    return Universal(made.noise, jax.tree.map(lambda *steps: np.stack(steps), *history), made)


def _limits(network: Network, place: Placement) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    """The least and the most that the noise may be, in normalised units."""
    if place.bound is None:
        return network.normalize(jnp.zeros(3)), network.normalize(jnp.ones(3))
    most = place.bound / jnp.asarray(network.std)
    return -most, most


def _pixels(network: Network, noise: Float[Array, "r c 3"], place: Placement):
    """The noise in pixels; where there is a bound, what is added to them."""
    return network.denormalize(noise) if place.bound is None else noise * jnp.asarray(network.std)


def _reach(
    network: Network, images: Float[Array, "n h w 3"], place: Placement, attack: Attack
) -> Placed | None:
    """What a patch at rest can reach; None where that of all images would take too much memory."""
    reach = reach_of(
        network, images[0], corner=place.corner, size=place.shape[0], layer=attack.layer
    )
    kept = jax.eval_shape(reach.program.precompute, network, images[0], reach.places).memory
    numbers = sum(leaf.size for leaf in jax.tree.leaves(kept))
    return reach if 4 * numbers * len(images) <= MOST_KEPT else None


def _remembered(network: Network, problems: Problem, reach: Placed | None) -> Problem:
    """The problems with what the incremental evaluation needs of their images, if there is one."""
    if reach is None:
        return problems
    singly = [jax.tree.map(itemgetter(i), problems) for i in range(len(problems.image))]
    kept = [remember(network, problem, reach).memory for problem in singly]
    return problems._replace(memory=jax.tree.map(lambda *each: jnp.stack(each), *kept))


@partial(jax.jit, static_argnames="batch")
def _problems_of(network: Network, images, targets, attack: Attack, batch: int) -> Problem:
    """Every image's problem, with a leading axis, without the images themselves."""

    def one(pair):
        image, target = pair
        nowhere = Placement((0, 0), (1, 1), 1.0)
        problem = make_problem(
            network, image, target, attack, placement=nowhere, key=jax.random.key(0)
        )
        return problem._replace(image=jnp.zeros((1, 1, 3)))

    return lax.map(one, (images, targets), batch_size=batch)


@partial(jax.jit, static_argnames=("programs", "views", "through", "batch"))
def _step(
    networks: list[Network],
    noise: Float[Array, "rows columns 3"],
    state: optax.OptState,
    problems: list[Problem],
    attack: Attack,
    key: PRNGKeyArray,
    place: Placement,
    programs: tuple[Incremental | None, ...],
    views: Views | None,
    through: Through | None,
    batch: int,
) -> tuple[Any, Any, Losses]:
    first = networks[0]
    choice, draws = jax.random.split(key)
    chosen = jax.random.randint(choice, (batch,), 0, len(problems[0].image))

    def loss(noise):
        pixels, totals, seen = _pixels(first, noise, place), [], []
        for network, every, program in zip(networks, problems, programs, strict=True):
            some = jax.tree.map(lambda leaf: leaf[chosen], every)
            evaluate = partial(_evaluate, network, pixels, attack, place, program, views, through)
            total, losses = jax.vmap(evaluate)(some, jax.random.split(draws, batch))
            totals.append(total.mean())
            seen.append(jax.tree.map(jnp.mean, losses))
        mean = jax.tree.map(lambda *parts: sum(parts) / len(parts), *seen)
        return sum(totals) / len(totals), mean

    gradient, losses = jax.grad(loss, has_aux=True)(noise)
    updates, state = attack.transformation.update(gradient, state, noise)
    noise = optax.apply_updates(noise, updates)
    if attack.project or place.bound is not None:
        noise = jnp.clip(noise, *_limits(first, place))
    return noise, state, losses


def _evaluate(network, pixels, attack, place, program, views, through, problem, key):
    """The loss of one image in one view; by `program`, if any, of what a patch at rest reaches."""
    drawn, passed = jax.random.split(key)
    image, region = _apply(problem.image, pixels, place, views, drawn)
    image = image if through is None else jnp.asarray(through(image, passed))
    trunk, head = network.split(attack.layer)
    if program is None:
        activations = trunk(image)
    else:
        tile = cut(image, jnp.asarray(place.corner), pixels.shape[:2])
        activations = program.run(network, problem.memory, tile)
    size = problem.image.shape[:2]
    covered = coverage(activations.shape[:2], size, (0, 0), size, region)
    total, (losses, _) = loss_from_activations(
        head, activations, image, pixels, covered, problem, attack
    )
    return total, losses
