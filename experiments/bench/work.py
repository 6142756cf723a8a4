"""How many multiply-adds a network's trunk takes."""

import jax

from gcpatch.attacks import engine
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.evaluation.bench import side_of
from gcpatch.interpreters.work import multiply_adds
from gcpatch.networks import Network


def trunk_work(network: Network, size: int, margin: int | None = None) -> tuple[int, int]:
    """Multiply-adds of the trunk for one image: in full, and of what a corner patch reaches."""

    def trunk(network, image):
        return network.split()[0](image)

    side = side_of(network)
    image = jax.ShapeDtypeStruct((side, side, 3), "float32")
    tile = jax.ShapeDtypeStruct((size, size, 3), "float32")
    corner = Patch(size).corner(side, side)
    reach, places = engine.reach_of(network, image, corner=corner, size=size, margin=margin)
    memory = jax.eval_shape(reach.precompute, network, image, places).memory
    return multiply_adds(trunk, network, image), multiply_adds(reach.run, network, memory, tile)


def with_looks(wide: int, reached: int, every: int | None) -> float:
    """What a step reaches, forward, and its part of an exact look every so many steps.

    A look is forward alone, and a step forward and backward, so that half of it counts.
    """
    return reached + (wide / (2 * every) if every else 0)


def near_work(network: Network, size: int) -> float:
    """As the second of `trunk_work`, in the near field, with its exact looks."""
    side = side_of(network)
    image, corner = jax.ShapeDtypeStruct((side, side, 3), "float32"), Patch(size).corner(side, side)
    found = engine.choose_reach(
        network, image, corner=corner, size=size, attack=Attack(reach="near")
    )
    (_, wide), (_, reached) = trunk_work(network, size), trunk_work(network, size, found.margin)
    return with_looks(wide, reached, found.every)
