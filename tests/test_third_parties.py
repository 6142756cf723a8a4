"""Every explainer that captum or pytorch-grad-cam has too, on the minis, in float64."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import double  # noqa: E402

import gcpatch  # noqa: E402
from convert.reference import Classifier  # noqa: E402
from convert.torchvision import to_torch, twin  # noqa: E402
from gcpatch import explainers, gradients, scores  # noqa: E402
from gcpatch.networks import MINIS  # noqa: E402
from gcpatch.occlusion import occlusion  # noqa: E402
from gcpatch.rectifiers import smooth  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import pytorch_grad_cam
    from captum import attr
    from pytorch_grad_cam import base_cam, guided_backprop
    from pytorch_grad_cam.utils import svd_on_activations

SIDE, SHARPNESS = 64, 7.0
CAMS = {
    "grad-cam": pytorch_grad_cam.GradCAM,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "grad-cam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgrad-cam": pytorch_grad_cam.XGradCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
}
SCORES = {
    "logit": lambda logits, label: logits[label],
    "log_softmax": lambda logits, label: torch.log_softmax(logits, -1)[label],
    "margin": lambda logits, label: (
        logits[label] - logits[[i for i in range(len(logits)) if i != label]].max()
    ),
}


class Pixels(torch.nn.Module):
    """A twin on pixels in [0, 1], in float64, its ReLUs not in place and each in one place only."""

    def __init__(self, network, relu=torch.nn.ReLU):
        super().__init__()
        self.model = twin(network.name).double()
        self.model.load_state_dict(to_torch(network))
        self.model.eval()
        for module in list(self.model.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.ReLU):
                    setattr(module, name, relu())
        is_vgg = hasattr(self.model, "features")
        self.layer = self.model.features[-2] if is_vgg else self.model.layer4[-1]

    def forward(self, images):
        return self.model(Classifier({}, "").normalize(images))


@pytest.fixture(scope="module", params=MINIS)
def case(request):
    """A mini in both worlds, an image and a class."""
    with jax.enable_x64(True):
        network = double(gcpatch.load(request.param))
        image = np.random.default_rng(3).random((SIDE, SIDE, 3))
        label = int(jax.jit(network)(jnp.asarray(image)).argsort()[-2])  # of the top one 1 - p is lost
        yield network, Pixels(network), image, label


def tensor(image):
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]


def colours_last(found):
    return found[0].detach().permute(1, 2, 0).numpy()


def agree(ours, wanted, tolerance=1e-10):
    assert ours.shape == wanted.shape
    assert np.linalg.norm(wanted) > 0
    assert np.linalg.norm(ours - wanted) <= tolerance * np.linalg.norm(wanted)


def cam(kind, model, image, score, label, monkeypatch):
    monkeypatch.setattr(base_cam, "scale_cam_image", lambda cam, target_size=None: cam)
    with kind(model, [model.layer]) as found:
        return found(tensor(image), [lambda logits: SCORES[score](logits, label)])[0]


def test_the_cam_family(case, monkeypatch):
    network, model, image, label = case
    every = {
        (method, score): lambda network, method=method, score=score: explainers.METHODS[method](
            network, image, label, score=getattr(scores, score)
        )
        for method in CAMS
        for score in (SCORES if method == "layercam" else ["logit"])
    }
    ours = jax.jit(lambda network: {key: found(network) for key, found in every.items()})(network)
    for (method, score), heat in ours.items():
        agree(heat, cam(CAMS[method], model, image, score, label, monkeypatch))
