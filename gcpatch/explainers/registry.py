"""Every explainer by its name on the command line, with its default settings."""

import jax

from gcpatch.explainers import cam, gradients, occlusion
from gcpatch.explainers.cam import Explainer

METHODS: dict[str, Explainer] = {**cam.METHODS, **gradients.METHODS, **occlusion.METHODS}
# Whose one image is a batch of its own, of samples or windows.
ONE_BY_ONE = ("smoothgrad", "integrated-gradients", *occlusion.METHODS)


def compiled(name: str) -> Explainer:
    """An explainer as one program; occlusion is compiled already, in pieces."""
    return METHODS[name] if name in occlusion.METHODS else jax.jit(METHODS[name])
