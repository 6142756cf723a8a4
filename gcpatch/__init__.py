"""Adversarial patches that fool an image classifier and its Grad-CAM explanation, in JAX.

    network = gcpatch.load("mini_vgg_bn")
    heat = gcpatch.grad_cam(network, image, label)
    results = gcpatch.attack(network, images, targets, gcpatch.Patch(), gcpatch.Attack())

Le, Kang and Kim, "Robust Adversarial Attack Against Explainable Deep Classification Models Based
on Adversarial Images With Different Patch Sizes and Perturbation Ratios", IEEE Access, 2021.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcpatch.attacks import Attack
    from gcpatch.checkpoints import load
    from gcpatch.defences import defence
    from gcpatch.expectation import universal, wear
    from gcpatch.explainers import (
        eigen_cam,
        grad_cam,
        grad_cam_plus_plus,
        hirescam,
        layercam,
        xgrad_cam,
    )
    from gcpatch.gradients import (
        gradient_x_input,
        guided_backprop,
        input_gradient,
        integrated_gradients,
        smoothgrad,
    )
    from gcpatch.images import read_image
    from gcpatch.losses import Evidence
    from gcpatch.networks import Network
    from gcpatch.occlusions import occlusion
    from gcpatch.patches import Patch
    from gcpatch.presets import PRESETS
    from gcpatch.rectifiers import smooth
    from gcpatch.regions import Bounded, Frame, Mask
    from gcpatch.slots import Finished, attack
    from gcpatch.views import Views

# Names are imported at first use, so that `gcpatch --help` need not wait for JAX.
_HOMES = {
    "Attack": "attacks",
    "Bounded": "regions",
    "Evidence": "losses",
    "Finished": "slots",
    "Frame": "regions",
    "Mask": "regions",
    "Network": "networks",
    "PRESETS": "presets",
    "Patch": "patches",
    "Views": "views",
    "attack": "slots",
    "defence": "defences",
    "eigen_cam": "explainers",
    "grad_cam": "explainers",
    "grad_cam_plus_plus": "explainers",
    "gradient_x_input": "gradients",
    "guided_backprop": "gradients",
    "hirescam": "explainers",
    "input_gradient": "gradients",
    "integrated_gradients": "gradients",
    "layercam": "explainers",
    "load": "checkpoints",
    "occlusion": "occlusions",
    "read_image": "images",
    "smooth": "rectifiers",
    "smoothgrad": "gradients",
    "xgrad_cam": "explainers",
    "universal": "expectation",
    "wear": "expectation",
}
__all__ = [
    "PRESETS",
    "Attack",
    "Bounded",
    "Evidence",
    "Finished",
    "Frame",
    "Mask",
    "Network",
    "Patch",
    "Views",
    "attack",
    "defence",
    "eigen_cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_x_input",
    "guided_backprop",
    "hirescam",
    "input_gradient",
    "integrated_gradients",
    "layercam",
    "load",
    "occlusion",
    "read_image",
    "smooth",
    "smoothgrad",
    "universal",
    "wear",
    "xgrad_cam",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"gcpatch has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"gcpatch.{_HOMES[name]}"), name)
