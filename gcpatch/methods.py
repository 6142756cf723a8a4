"""Every explainer by its name on the command line, with its default settings."""

import jax

from gcpatch import explainers, gradients, occlusions
from gcpatch.explainers import Explainer

METHODS: dict[str, Explainer] = {**explainers.METHODS, **gradients.METHODS, **occlusions.METHODS}


def compiled(name: str) -> Explainer:
    """An explainer as one program; occlusion is compiled already, in pieces."""
    return METHODS[name] if name in occlusions.METHODS else jax.jit(METHODS[name])
