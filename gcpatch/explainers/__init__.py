"""Explanations: pure functions `(network, image, label, *, ...) -> [h, w]`."""

from gcpatch.explainers.cam import Cam as Cam
from gcpatch.explainers.cam import Explainer as Explainer
from gcpatch.explainers.cam import Head as Head
from gcpatch.explainers.cam import eigen_cam as eigen_cam
from gcpatch.explainers.cam import grad_cam as grad_cam
from gcpatch.explainers.cam import grad_cam_plus_plus as grad_cam_plus_plus
from gcpatch.explainers.cam import hirescam as hirescam
from gcpatch.explainers.cam import layercam as layercam
from gcpatch.explainers.cam import xgrad_cam as xgrad_cam
