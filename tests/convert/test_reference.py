"""The plain PyTorch reference: against results by hand, third parties' Grad-CAM, and gcpatch."""

import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tinies import double

from convert import reference
from convert.checking.comparison import tensor
from convert.checking.twins import _small_vgg
from convert.reference import Classifier, Settings
from convert.torchvision import to_torch, twin
from gcpatch.attacks.engine import advance
from gcpatch.attacks.presets import PRESETS
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import LEARNING_RATES, Attack
from gcpatch.attacks.step import Problem, init_state
from gcpatch.explainers.cam import grad_cam
from gcpatch.networks import MINIS, PAPER, random

SETTINGS = Settings("hide", "sgd", 1.0, 1, 1, (0, 1), balance=False)


def tensors(*values):
    return torch.tensor(values, dtype=torch.float64)


def classifier(head, normalized=False):
    """The image itself as activations, and a head on `[1, 3, h, w]`."""
    scale = {} if normalized else {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    return Classifier({"features": lambda x: 1 * x, "head": head}, "features", **scale)


IMAGE = tensors([[0.0, 0.5], [1.0, 0.25]], [[0.5, 0.5], [0.0, 0.0]], [[0.25, 0.0], [0.5, 1.0]])
WEIGHTS = tensors([1.0, -2.0, 0.5], [-1.0, -1.0, -1.0])


def linear(x):
    """y_c = sum_k W[c, k] * (the sum of A^k), so that alpha is W[c]."""
    return x.sum((2, 3)) @ WEIGHTS.T


def squares(x):
    """y = sum_k (the sum of A^k)^2 / 2, so that alpha_k is the sum of A^k."""
    return (x.sum((2, 3)) ** 2).sum(1, keepdim=True) / 2


# ---- Grad-CAM by hand ----------------------------------------------------------------------------


def test_the_map_of_a_linear_head_is_the_weighted_sum_of_its_channels():
    found = reference.grad_cam(classifier(linear), IMAGE, 0)
    assert found.logits.tolist() == [1.75 - 2 + 0.875, -(1.75 + 1 + 1.75)]
    assert found.alpha.tolist() == WEIGHTS[0].tolist()
    assert found.heat.tolist() == [[0, 0], [1.25, 0.75]]  # -0.875 and -0.5 are cut off
    assert not reference.grad_cam(classifier(linear), IMAGE, 1).heat.any()


def test_the_gradient_goes_through_alpha():
    image = IMAGE.clone().requires_grad_()
    found = reference.grad_cam(classifier(squares), image, 0)
    assert found.alpha.tolist() == [1.75, 1.0, 1.75]
    (gradient,) = torch.autograd.grad(found.heat[0, 1], image)
    # G_01 = sum_k S_k A^k_01: S_k at that cell, and A^k_01 at every cell.
    wanted = found.alpha[:, None, None] * tensors([0, 1], [0, 0]) + IMAGE[:, :1, 1:]
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-15)


def test_images_are_normalised():
    ours = classifier(linear, normalized=True)
    mean, std = tensors(0.485, 0.456, 0.406), tensors(0.229, 0.224, 0.225)
    values = (IMAGE - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(ours.normalize(IMAGE), values, rtol=1e-15, atol=0)
    assert torch.equal(reference.grad_cam(ours, IMAGE, 0).outputs["features"][0], values)


def test_taken_apart_torchvisions_module_computes_the_same():
    for name in ("mini_vgg_bn", "mini_resnext"):
        model = twin(name)
        image = torch.rand(3, 64, 64)
        with torch.no_grad():
            wanted = model(Classifier({}, "").normalize(image)[None])[0]
        taken = reference.take_apart(model)
        assert torch.equal(reference.grad_cam(taken, image, 0).logits, wanted)
        assert taken.layer == {"mini_vgg_bn": "features.21", "mini_resnext": "layer4.0"}[name]
    assert reference.take_apart(twin("vgg11")).layer == "features.19"


# ---- losses by hand ------------------------------------------------------------------------------


def test_coverage_is_the_share_of_each_cell():
    patch = reference.coverage((14, 14), (224, 224), (0, 160), 64)
    assert patch.sum() == 16
    assert (patch[:4, 10:] == 1).all()
    odd = reference.coverage((7, 7), (224, 224), (0, 150), 64)
    np.testing.assert_allclose(odd[0], [0, 0, 0, 0, 10 / 32, 1, 22 / 32], rtol=1e-15)
    np.testing.assert_allclose(odd[:, 5], [1, 1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("objective", "size", "wanted"),
    [
        ("hide", 64, (1 * 1 + 4 * 0.5) / 1.5),
        ("highlight", 64, 1 - (1 * 1 + 4 * 0.5) / 10),
        ("classify", 64, 0),
        ("paper", 64, 10 / 16),
        ("paper", 32, 8 / 16),
        ("subramanya", 64, 10 / (10 + 1e-10) / 16),
    ],
)
def test_losses_of_a_map(objective, size, wanted):
    heat = torch.zeros(5, 5, dtype=torch.float64)
    heat[0, 0], heat[0, 1], heat[1, 1], heat[2, 2] = 1, 4, 3, 2
    covered = torch.zeros(5, 5, dtype=torch.float64)
    covered[0, 0], covered[0, 1] = 1, 0.5
    settings = replace(SETTINGS, objective=objective, size=size)
    assert float(reference.explanation_loss(heat, covered, settings)) == pytest.approx(wanted)


def test_an_empty_map_is_nothing_to_divide_by():
    nothing = torch.zeros(5, 5)
    for objective, wanted in (("highlight", 1), ("subramanya", 0), ("hide", 0)):
        settings = replace(SETTINGS, objective=objective)
        assert reference.explanation_loss(nothing, torch.ones(5, 5), settings) == wanted


def test_doubt_is_what_the_target_lacks():
    logits = torch.log(tensors(0.7, 0.2, 0.1))
    assert reference.confidence_gap(logits, 0, 0.0) == 0
    assert reference.confidence_gap(logits, 0, 0.9) == pytest.approx(0.2)
    assert reference.confidence_gap(logits, 1, 0.0) == pytest.approx(0.5)
    assert reference.confidence_gap(logits, 1, 0.9) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("gate", "confidence", "target", "counts"),
    [(True, 0.0, 0, 0), (True, 0.999, 0, 1), (True, 0.0, 1, 1), (False, 0.0, 0, 1)],
)
def test_the_gate_of_the_cross_entropy(gate, confidence, target, counts):
    settings = replace(SETTINGS, ce_gate=gate, confidence=confidence, ce_weight=2.0)
    found = reference.evaluate(classifier(linear), IMAGE, target, settings)
    odds = torch.log_softmax(tensors(0.625, -4.5), 0)
    assert float(found.cross_entropy) == pytest.approx(-float(odds[target]))
    assert float(found.total - found.explanation) == pytest.approx(
        -2 * counts * float(odds[target])
    )


# ---- the optimisers by hand, where the gradient is constant --------------------------------------


def constant(optimizer, steps, rate=0.01, start=(0.9, 0.1, 0.9), **more):
    """How far N gets where the loss is the map's sum / 16, and the map A^0 - 2 A^1 + 0.5 A^2."""
    settings = replace(
        SETTINGS,
        objective="paper",
        optimizer=optimizer,
        learning_rate=rate,
        steps=steps,
        corner=(0, 0),
        ce_weight=0.0,
        **more,
    )
    image = tensors([[0.9] * 2] * 2, [[0.1] * 2] * 2, [[0.9] * 2] * 2)
    noise = tensors(*start)[:, None, None]
    found = reference.attack(classifier(linear), image, noise, 0, settings)
    return (found.noise - noise).flatten(), found


G = tensors(1.0, -2.0, 0.5) / 16


@pytest.mark.parametrize(
    ("optimizer", "wanted"),
    [
        ("sign", -3 * 0.01 * G.sign()),
        ("sgd", -3 * 0.01 * G),
        ("momentum", -0.01 * G * (1 + 1.9 + 2.71)),
        ("adam", -3 * 0.01 * G.sign()),
    ],
)
def test_three_steps_along_a_constant_gradient(optimizer, wanted):
    moved, found = constant(optimizer, 3)
    torch.testing.assert_close(moved, wanted, rtol=1e-6, atol=0)
    assert len(found.history) == 3


def test_the_ratio_and_the_units_scale_the_gradient():
    moved, _ = constant("sgd", 1, ratio=0.25)
    torch.testing.assert_close(moved, -0.01 * G * 0.25, rtol=1e-12, atol=0)


def test_the_noise_is_kept_to_valid_pixels_where_it_is_projected():
    moved, _ = constant("sign", 1, rate=2.0)
    assert moved.tolist() == pytest.approx([-0.9, 0.9, -0.9])
    moved, found = constant("sign", 2, rate=2.0, project=False)
    assert moved.tolist() == pytest.approx([-2, 2, -2])  # the second gradient is 0
    assert found.best_tile.flatten().tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("clean_first", "seen"), [(True, [0.9, 0.1, 0.9]), (False, [0.7, 0.3, 0.7])]
)
def test_the_first_step_may_see_the_clean_image(clean_first, seen):
    _, found = constant("sgd", 1, start=(0.5, 0.5, 0.5), ratio=0.5, clean_first=clean_first)
    assert found.best_tile.flatten().tolist() == pytest.approx(seen)


# ---- gcpatch -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_twin(tiny):
    model = _small_vgg(3, plan=(4, "M", 6, "M"), normalized=False, hidden=(8, 8)).double()
    model.load_state_dict(to_torch(tiny))
    return reference.take_apart(model)


def attacked(tiny, tiny_twin, patch, attack, side=28, target=1):
    """The same attack of one image by gcpatch and by the reference, in float64."""
    network = double(tiny)
    image = np.random.default_rng(8).random((side, side, 3))
    label = int(network(jnp.asarray(image)).argmax())
    corner = patch.corner(side, side)
    problem = Problem(
        jnp.asarray(image),
        jnp.asarray(label),
        None if target is None else jnp.asarray(target),
        jnp.asarray(patch.ratio, jnp.float64),
        jnp.asarray(corner),
        jax.random.key(4),
        jnp.zeros((1, 1)),
        jnp.zeros((1, 1)),
    )
    state = init_state(network, problem, (patch.size, patch.size), attack)
    settings = Settings(
        attack.objective.name,
        attack.optimizer,
        attack.learning_rate or LEARNING_RATES[attack.optimizer],
        attack.steps,
        patch.size,
        corner,
        patch.ratio,
        attack.ce_weight,
        attack.ce_gate,
        attack.confidence,
        attack.project,
        attack.init == "clean",
        attack.patience,
        attack.balance,
        attack.ring,
        label=label,
    )
    theirs = reference.attack(tiny_twin, tensor(image), tensor(state.noise), target, settings)
    batch = jax.tree.map(lambda leaf: leaf[None], (state, problem))
    states, history = advance(network, *batch, attack, attack.steps)
    return jax.tree.map(lambda leaf: leaf[0], states), history, theirs


def agree(state, history, theirs):
    assert int(state.step) == len(theirs.history)
    for ours, wanted in ((state.noise, theirs.noise), (state.best_tile, theirs.best_tile)):
        np.testing.assert_allclose(ours, wanted.numpy().transpose(1, 2, 0), rtol=0, atol=1e-9)
    for term in history._fields:
        wanted = [float(getattr(losses, term).detach()) for losses in theirs.history]
        ours = getattr(history, term)[: len(wanted), 0]
        np.testing.assert_allclose(ours, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("objective", "optimizer"),
    [(name, "adam") for name in reference.OBJECTIVES]
    + [("hide", name) for name in ("sign", "sgd", "momentum")],
)
def test_gcpatch_takes_the_same_steps(tiny, tiny_twin, x64, objective, optimizer):
    attack = Attack(objective=objective, optimizer=optimizer, init="random", steps=12)
    agree(*attacked(tiny, tiny_twin, Patch(8, 0.7, (3, 9)), attack))


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "classify", "confidence": 0.5, "steps": 200},
        {"objective": "classify", "confidence": 0.5, "steps": 200, "patience": 4},
        {"objective": "highlight", "confidence": 0.3, "steps": 200},
        {"ce_gate": False, "ce_weight": 0.7, "init": "image"},
        {"optimizer": "sign", "learning_rate": 1.0, "project": False, "init": "random"},
        {"balance": False, "ce_weight": 0.05},
        {"ring": 1, "objective": "hide"},
        {"ring": 2, "objective": "hide", "balance": False},
    ],
)
def test_gcpatch_ends_at_the_same_step_with_the_same_patch(tiny, tiny_twin, x64, changes):
    attack = Attack(**{"steps": 12, **changes})
    agree(*attacked(tiny, tiny_twin, Patch(12), attack))


@pytest.mark.parametrize("objective", ["hide", "highlight", "classify"])
def test_untargeted_gcpatch_takes_the_same_steps(tiny, tiny_twin, x64, objective):
    """Away from the image's class, to the same other one in the end."""
    attack = Attack(objective=objective, steps=60, confidence=0.5, init="random")
    states, history, theirs = attacked(tiny, tiny_twin, Patch(12), attack, target=None)
    agree(states, history, theirs)
    assert 1 < len(theirs.history) < 60


@pytest.mark.parametrize("preset", PRESETS)
def test_gcpatch_presets_take_the_same_steps(tiny, tiny_twin, x64, preset):
    patch, attack = PRESETS[preset]
    small = Patch(8, patch.ratio, (0, 5))
    start = "clean" if attack.init == "clean" else "random"  # a mean colour has equal maxima
    agree(*attacked(tiny, tiny_twin, small, replace(attack, steps=12, init=start)))


# ---- third parties -------------------------------------------------------------------------------


def captum_map(model, layer, inputs, label):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from captum.attr import LayerGradCam
    found = LayerGradCam(model, layer).attribute(inputs, label, relu_attributions=True)
    return found[0, 0].detach().numpy()


def grad_cam_package_map(model, layer, inputs, label):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from pytorch_grad_cam import GradCAM, base_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    with pytest.MonkeyPatch.context() as patch, GradCAM(model, [layer]) as cam:
        patch.setattr(base_cam, "scale_cam_image", lambda cam, target_size=None: cam)
        return cam(inputs, [ClassifierOutputTarget(label)])[0]


def third_parties_agree(name, side):
    network = random(name)
    model = twin(name)
    model.load_state_dict(to_torch(network))
    layer = model.features[-2] if hasattr(model, "features") else model.layer4[-1]
    image = np.random.default_rng(3).random((side, side, 3), np.float32)
    ours = jax.jit(grad_cam)
    inputs = Classifier({}, "").normalize(tensor(image))[None]
    hot = 0
    for label in range(5):
        heat = np.asarray(ours(network, image, label))
        for other in (captum_map, grad_cam_package_map):
            wanted = other(model, layer, inputs, label)
            assert heat.shape == wanted.shape
            assert np.linalg.norm(heat - wanted) <= 1e-4 * np.linalg.norm(wanted), other.__name__
        hot += heat.any()
    assert hot, "none of the maps has anything in it"


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIS)
def test_third_parties_give_the_minis_the_same_map(name):
    third_parties_agree(name, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_third_parties_give_the_papers_networks_the_same_map(name):
    third_parties_agree(name, 224)
