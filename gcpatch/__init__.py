"""Adversarial patches that fool an image classifier and its Grad-CAM explanation, in JAX.

    network = gcpatch.load("mini_vgg_bn")
    heat = gcpatch.grad_cam(network, image, label)
    results = gcpatch.attack(network, images, targets, gcpatch.Patch(), gcpatch.Attack())

Le, Kang and Kim, "Robust Adversarial Attack Against Explainable Deep Classification Models Based
on Adversarial Images With Different Patch Sizes and Perturbation Ratios", IEEE Access, 2021.

The public names are listed once, in `__init__.pyi`, and imported at their first use, so that
`gcpatch --help` need not wait for JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
