"""One patch for many images, several networks and any view: the same losses, in expectation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from gcpatch.attacks.blending import blend, coverage, cut, paste
from gcpatch.attacks.regions import Patch, Placement
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.attacks.slots import Targets, images_and_targets
from gcpatch.attacks.step import Losses, Problem, loss_from_activations, make_problem
from gcpatch.attacks.views import Views, apply_view
from gcpatch.explainers import checks
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

Image = Float[ArrayLike, "h w 3"]
Through = Callable[[Image, PRNGKeyArray], Image]


class Universal(NamedTuple):
    """A patch for many images.

    Attributes:
        noise: its pixels (N, eq. 4), in [0, 1].
        history: the mean losses of each step's images, `[steps]` each.
    """

    noise: Float[np.ndarray, "s s 3"]
    history: Losses


def apply_patch(
    image: Float[ArrayLike, "h w 3"],
    noise: Float[ArrayLike, "s s 3"],
    patch: Patch,
    views: Views | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 1"]]:
    """The image with the patch (paper, eq. 4), and where it lies (1 or 0).

    Args:
        image: RGB in [0, 1].
        noise: the patch's pixels.
        patch: its size, ratio and place.
        views: if given, the patch lies as a draw from them says, and not at its place.
        key: of that draw.

    Raises:
        UserError: the image or the patch's pixels are no floats in [0, 1], or of other shapes.
        PatchError: the patch does not lie inside the image.
    """
    image, noise = checks.image(image), checks.image(noise, what="the patch")
    if noise.shape[:2] != (patch.size, patch.size):
        raise AttackError(
            f"the patch has {list(noise.shape[:2])} pixels instead of {[patch.size] * 2}"
        )
    if views is not None and key is not None:
        view = views.draw(key, (image.shape[0], image.shape[1]), patch.size)
        return apply_view(image, noise, patch.ratio, view)
    place = patch.place(image.shape[0], image.shape[1])
    tile = blend(cut(image, jnp.asarray(place.corner), place.shape), noise, place.ratio)
    region = paste(jnp.zeros_like(image), jnp.ones_like(tile), jnp.asarray(place.corner))
    return paste(image, tile, jnp.asarray(place.corner)), region[..., :1]


wear = apply_patch  # its name in 0.1.0


def universal(
    networks: Sequence[Network],
    images: Float[ArrayLike, "n h w 3"],
    targets: Targets,
    patch: Patch,
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
        patch: its size and ratio, and its place unless there are views.
        attack: how to optimise. All steps are taken, whatever its patience; it begins with the
            mean colour, unless at `random`.
        views: to draw the patch's placements from.
        through: what each image goes through before the networks, such as a defence.
        batch: images a step.
        seed: of the `random` start and of all draws.
        on_step: told of each step's mean losses.

    Raises:
        UserError: there is no network, their categories differ, or images or targets are not as
            for `gcpatch.attack`.
    """
    if isinstance(networks, Network) or not networks:
        raise AttackError("give a list of the networks to fool, of one at least")
    if not isinstance(patch, Patch):
        raise AttackError(f"a universal perturbation is a Patch; {patch!r} is none")
    if through is not None and not callable(through):
        raise AttackError(
            f"through is {through!r}; give a function of an image and a key, such as "
            "gcpatch.defence('jpeg-50').attack"
        )
    if attack.reach != "exact":
        raise AttackError(
            f"the reach is {attack.reach!r}, but a universal patch is evaluated in whole images; "
            "leave it out"
        )
    if len({network.categories for network in networks}) != 1:
        raise AttackError("the networks of an ensemble must have the same categories")
    images, targets = images_and_targets(networks[0], images, targets)
    place = patch.place(*images.shape[1:3])
    problems = [
        _problems_of(network, images, targets, attack, place, batch)._replace(image=images)
        for network in networks
    ]
    begin, draws = jax.random.split(jax.random.key(seed))
    shape = (patch.size, patch.size, 3)
    noise = jnp.zeros(shape)  # the mean colour
    if attack.init == "random":
        noise = networks[0].normalize(jax.random.uniform(begin, shape))
    state, history = attack.transformation.init(noise), []
    for key in jax.random.split(draws, attack.steps):
        noise, state, losses = _step(
            list(networks), noise, state, problems, attack, key, patch, views, through, batch
        )
        history.append(losses)
        on_step(losses)
    found = np.clip(np.asarray(networks[0].denormalize(noise)), 0, 1)
    return Universal(found, jax.tree.map(lambda *steps: np.stack(steps), *history))


@partial(jax.jit, static_argnames=("place", "batch"))
def _problems_of(
    network: Network, images, targets, attack: Attack, place: Placement, batch: int
) -> Problem:
    """Every image's problem, with a leading axis, without the images themselves."""

    def one(pair):
        image, target = pair
        problem = make_problem(
            network, image, target, attack, placement=place, key=jax.random.key(0)
        )
        return problem._replace(image=jnp.zeros((1, 1, 3)))

    return lax.map(one, (images, targets), batch_size=batch)


@partial(jax.jit, static_argnames=("patch", "views", "through", "batch"))
def _step(
    networks: list[Network],
    noise: Float[Array, "s s 3"],
    state: optax.OptState,
    problems: list[Problem],
    attack: Attack,
    key: PRNGKeyArray,
    patch: Patch,
    views: Views | None,
    through: Through | None,
    batch: int,
) -> tuple[Any, Any, Losses]:
    first = networks[0]
    choice, draws = jax.random.split(key)
    chosen = jax.random.randint(choice, (batch,), 0, len(problems[0].image))

    def loss(noise):
        pixels, totals, seen = first.denormalize(noise), [], []
        for network, every in zip(networks, problems, strict=True):
            some = jax.tree.map(lambda leaf: leaf[chosen], every)
            evaluate = partial(_evaluate, network, pixels, attack, patch, views, through)
            total, losses = jax.vmap(evaluate)(some, jax.random.split(draws, batch))
            totals.append(total.mean())
            seen.append(jax.tree.map(jnp.mean, losses))
        mean = jax.tree.map(lambda *parts: sum(parts) / len(parts), *seen)
        return sum(totals) / len(totals), mean

    gradient, losses = jax.grad(loss, has_aux=True)(noise)
    updates, state = attack.transformation.update(gradient, state, noise)
    noise = optax.apply_updates(noise, updates)
    if attack.project:
        black, white = first.normalize(jnp.asarray([[0.0] * 3, [1.0] * 3], noise.dtype))
        noise = jnp.clip(noise, black, white)
    return noise, state, losses


def _evaluate(network, pixels, attack, patch, views, through, problem, key):
    """The loss of one image in one view."""
    drawn, passed = jax.random.split(key)
    image, region = apply_patch(problem.image, pixels, patch, views, drawn)
    image = image if through is None else jnp.asarray(through(image, passed))
    trunk, head = network.split(attack.layer)
    activations = trunk(image)
    size = problem.image.shape[:2]
    covered = coverage(activations.shape[:2], size, (0, 0), size, region)
    total, (losses, _) = loss_from_activations(
        head, activations, image, pixels, covered, problem, attack
    )
    return total, losses
