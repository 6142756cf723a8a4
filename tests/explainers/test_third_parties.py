"""Every explainer that captum or pytorch-grad-cam has too, on the minis and scenes, in float64."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tinies import double

import gcpatch
from convert.reference import Classifier
from convert.torchvision import to_torch, twin
from gcpatch.data import scenes
from gcpatch.evaluation.faithfulness import deletion, imputed
from gcpatch.explainers import (
    cam,
    gradients,
    scores,
)
from gcpatch.explainers.occlusion import occlusion
from gcpatch.interpreters.relu import smooth
from gcpatch.networks import MINIS

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import pytorch_grad_cam
    from captum import attr
    from pytorch_grad_cam import base_cam, guided_backprop
    from pytorch_grad_cam.utils import svd_on_activations

run = jax.jit(lambda network, image: network(image))
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


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=MINIS)
def case(request):
    """A mini in both worlds, an image and a class."""
    with jax.enable_x64(True):
        network = double(gcpatch.load(request.param))
        image = np.asarray(scenes.draw(jax.random.key(3), SIDE).image, np.float64)
        label = int(run(network, image).argsort()[-2])  # of the top one 1 - p is lost
        yield network, Pixels(network), image, label


@pytest.fixture
def captum_in_doubles(monkeypatch):
    """captum rounds the sizes of steps, and what windows cost, to float32."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tensor(image):
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].requires_grad_()


def colours_last(found):
    return found[0].detach().permute(1, 2, 0).numpy()


def agree(ours, wanted, tolerance=1e-10):
    assert ours.shape == wanted.shape
    assert np.linalg.norm(wanted) > 0
    assert np.linalg.norm(ours - wanted) <= tolerance * np.linalg.norm(wanted)


def their_cam(kind, model, image, score, label, monkeypatch):
    monkeypatch.setattr(base_cam, "scale_cam_image", lambda cam, target_size=None: cam)
    with kind(model, [model.layer]) as found:
        return found(tensor(image), [lambda logits: SCORES[score](logits, label)])[0]


def test_the_cam_family(case, monkeypatch):
    network, model, image, label = case
    every = {
        (method, score): lambda network, method=method, score=score: cam.METHODS[method](
            network, image, label, score=getattr(scores, score)
        )
        for method in CAMS
        for score in (SCORES if method == "layercam" else ["logit"])
    }
    ours = jax.jit(lambda network: {key: found(network) for key, found in every.items()})(network)
    for (method, score), heat in ours.items():
        agree(heat, their_cam(CAMS[method], model, image, score, label, monkeypatch))


def test_the_gradient_family(case, captum_in_doubles):
    network, model, image, label = case
    inputs, key = tensor(image), jax.random.key(5)
    noise = 0.1 * jax.random.normal(key, (8, *image.shape), np.float64)

    @jax.jit
    def explain(network):
        return {
            "margin": gradients.input_gradient(network, image, label, score=scores.margin),
            "smooth": gradients.input_gradient(smooth(network, SHARPNESS), image, label),
            "x": gradients.gradient_x_input(network, image, label),
            "noise": gradients.smoothgrad(network, image, label, key=key, samples=8, sigma=0.1),
            "path": gradients.integrated_gradients(network, image, label, baseline=0.3, steps=9),
            "guided": gradients.guided_backprop(network, image, label),
        }

    ours = explain(network)

    def saliency(found):
        return np.abs(colours_last(found)).max(-1)

    found = attr.Saliency(lambda x: SCORES["margin"](model(x)[0], label)[None])
    agree(ours["margin"], saliency(found.attribute(inputs)))
    softened = Pixels(network, lambda: torch.nn.Softplus(SHARPNESS, threshold=700))
    agree(ours["smooth"], saliency(attr.Saliency(softened).attribute(inputs, label)))
    found = attr.InputXGradient(model).attribute(inputs, label)
    agree(ours["x"], colours_last(found).sum(-1))
    noisy = torch.cat([tensor(image + one) for one in noise]).detach().requires_grad_()
    found = attr.Saliency(model).attribute(noisy, label, abs=False).mean(0, keepdim=True)
    agree(ours["noise"], saliency(found))
    found = attr.IntegratedGradients(model).attribute(inputs, 0.3, label, n_steps=9)
    agree(ours["path"], colours_last(found).sum(-1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # captum sets hooks, and says so
        found = attr.GuidedBackprop(model).attribute(inputs, label)
    agree(ours["guided"], saliency(found))
    found = guided_backprop.GuidedBackpropReLUModel(model)(inputs, label)
    agree(ours["guided"], np.abs(found).max(-1))


def test_occlusion(case, captum_in_doubles):
    network, model, image, label = case
    ours = occlusion(network, image, label, baseline=0.5)
    found = attr.Occlusion(model).attribute(
        tensor(image), (3, 16, 16), (3, 8, 8), 0.5, label, perturbations_per_eval=49
    )
    agree(ours, colours_last(found)[..., 0])


def test_eigen_cam_but_for_its_sign_and_its_float32(case):
    network, _, image, label = case
    activations = np.asarray(network.split()[0](jnp.asarray(image))).transpose(2, 0, 1)
    wanted = svd_on_activations.get_2d_projection(activations[None])
    wanted *= np.sign(wanted.ravel()[np.abs(wanted).argmax()])
    agree(cam.eigen_cam(network, image, label), np.maximum(wanted[0], 0), 1e-6)


# ---- faithfulness


@pytest.fixture(scope="module")
def quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


@pytest.mark.parametrize("name", MINIS)
def test_quantus_deletes_alike(quantus, name):
    network, steps = gcpatch.load(name), 16
    image = scenes.draw(jax.random.key(3), SIDE).image
    label = int(run(network, image).argmax())
    heat = np.random.default_rng(0).permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.float32)
    model = twin(name)
    model.load_state_dict(to_torch(network))
    flipping = quantus.PixelFlipping(
        features_in_step=SIDE * SIDE // steps,  # of which a pixel has three
        normalise=False,
        perturb_baseline=0.0,  # of normalised pixels: the mean colour
        disable_warnings=True,
    )
    (curve,) = flipping(
        model=model.eval(),
        x_batch=np.asarray(network.normalize(image)).transpose(2, 0, 1)[None],
        y_batch=np.array([label]),
        a_batch=heat[None, None],
        softmax=True,
        device="cpu",
    )
    before = jax.nn.softmax(run(network, image))[label]
    area = np.trapezoid([float(before), *curve[2::3]]) / steps
    np.testing.assert_allclose(deletion(network, image, label, heat, steps=steps), area, rtol=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_quantus_imputes_alike(quantus, share):
    rng = np.random.default_rng(1)
    image, removed = rng.random((16, 20, 3), np.float32), rng.random((16, 20)) < share
    theirs = quantus.perturb_func.noisy_linear_imputation(
        image.transpose(2, 0, 1), np.flatnonzero(removed), noise=0
    )
    np.testing.assert_allclose(imputed(image, removed), theirs.transpose(1, 2, 0), atol=2e-3)
