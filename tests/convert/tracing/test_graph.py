"""Graphs against the PyTorch modules that they were traced from: operations, blocks, networks."""

import sys
import types

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from closeness import assert_close

from convert import ConvertError
from convert.operators import torchvision
from convert.tracing.graph import build, from_module
from gcpatch.errors import UserError
from gcpatch.explainers.cam import grad_cam
from gcpatch.networks import Preprocessing, parameters

nn, F = torch.nn, torch.nn.functional
SIDE = 8
TINY = Preprocessing(size=SIDE, resize=SIDE)


class Of(nn.Module):
    """A function of torch's, and the modules that it uses, as one module."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, nn.Parameter(module) if torch.is_tensor(module) else module)

    def forward(self, x):
        return self.function(self, x)


def behind_convolution(module):
    """A classifier whose classes are all values that a module gives for six channels."""
    return nn.Sequential(nn.Conv2d(3, 6, 1), module, nn.Flatten())


def scatter(module, seed=0):
    """The module in float64, evaluated, with every parameter and statistic random."""
    torch.manual_seed(seed)
    module = module.double().eval().requires_grad_(False)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value))
    return module


def pixels(side=SIDE):
    return np.random.default_rng(1).random((side, side, 3))


def tensor(network, image):
    value = (image - np.array(network.mean)) / np.array(network.std)
    return torch.tensor(value.transpose(2, 0, 1)[None], requires_grad=True)


@jax.jit
def with_gradient(network, image, weights):
    logits, back = jax.vjp(network, image)
    return logits, back(weights)[0]


def check(module, preprocessing=TINY, tolerance=1e-12):
    """Compares logits and their gradient by the image; returns the network."""
    module = scatter(module)
    network = from_module(module, "x", preprocessing=preprocessing)
    image = pixels(preprocessing.size)
    inputs = tensor(network, image)
    expected = module(inputs)[0]
    weights = np.random.default_rng(2).normal(size=expected.shape)
    (expected * torch.tensor(weights)).sum().backward()
    logits, gradient = with_gradient(network, image, weights)
    theirs = inputs.grad[0].numpy().transpose(1, 2, 0) / np.array(network.std)
    for ours, other in ((logits, expected.detach().numpy()), (gradient, theirs)):
        assert np.linalg.norm(other) > 0
        assert np.linalg.norm(ours - other) <= tolerance * np.linalg.norm(other)
    return network


def shuffle(module, x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def squeeze_and_excite(module, x):
    return x * torch.sigmoid(module.fc(x.mean((2, 3))).view(-1, 6, 1, 1)).expand_as(x)


CASES = {
    "convolution": nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
    "groups and dilation": nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=2, bias=False),
    "depthwise": nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=6),
    "same": nn.Conv2d(6, 4, 4, padding="same"),
    "padded before": nn.Sequential(nn.ZeroPad2d((0, 1, 2, 1)), nn.Conv2d(6, 4, 3)),
    "padded with ones": nn.ConstantPad2d((1, 0, 0, 2), 1.0),
    "standardised weights": Of(
        lambda m, x: F.conv2d(x, m.w - m.w.mean((1, 2, 3), keepdim=True)), w=torch.ones(4, 6, 2, 2)
    ),
    "batch norm": nn.BatchNorm2d(6, eps=1e-3),
    "group norm": nn.GroupNorm(3, 6),
    "layer norm of a map": nn.LayerNorm([6, 8, 8]),
    "layer norm of channels": Of(
        lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(6)
    ),
    "linear of channels, kept last": Of(
        lambda m, x: F.gelu(m.fc(x.permute(0, 2, 3, 1))), fc=nn.Linear(6, 3)
    ),
    "linear of columns": nn.Linear(8, 3),
    "activations": nn.Sequential(
        nn.ReLU(), nn.BatchNorm2d(6), nn.ReLU6(), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.ELU(0.7)
    ),
    "smooth activations": nn.Sequential(
        nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Tanh(), nn.Sigmoid(), nn.Mish(), nn.Softplus()
    ),
    "hard activations": nn.Sequential(
        nn.Hardswish(), nn.BatchNorm2d(6), nn.Hardsigmoid(), nn.BatchNorm2d(6), nn.Hardtanh(-1, 2)
    ),
    "scaled activations": nn.Sequential(nn.SELU(), nn.CELU(0.5), nn.PReLU(6)),
    "softmax": nn.Softmax(1),
    "maximum": nn.MaxPool2d(3, 2, 1),
    "maximum that hangs over": nn.MaxPool2d(3, 2, ceil_mode=True),
    "mean": nn.AvgPool2d(3, 2, 1),
    "mean without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "mean that hangs over": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "mean by a divisor": nn.AvgPool2d(2, divisor_override=3),
    "bins": nn.AdaptiveAvgPool2d(3),
    "global maximum": nn.AdaptiveMaxPool2d(1),
    "sums and products": Of(lambda m, x: (1 - x * 2 + x.square()) / (3 + x**2) - 2 / (x**2 + 1)),
    "layer scale": Of(lambda m, x: x + m.scale * torch.tanh(x), scale=torch.ones(6, 1, 1)),
    "concatenation": Of(lambda m, x: torch.cat([x, torch.tanh(x)], 1)),
    "chunks": Of(lambda m, x: torch.cat(x.chunk(2, 1)[::-1], dim=1)),
    "slices": Of(lambda m, x: x[:, 1:5, ::2, 1:-1] + x[:, :4, 1::2, 2:]),
    "shuffle": Of(shuffle),
    "squeeze and excite": Of(squeeze_and_excite, fc=nn.Linear(6, 6)),
    "norm of a map": Of(lambda m, x: x / (x.norm(dim=(2, 3), keepdim=True) + 1)),
    "a vector's axes": Of(lambda m, x: x.mean((2, 3))[:, :, None].squeeze(2).unsqueeze(1)),
    "rows as columns": Of(lambda m, x: x.transpose(2, 3)),
    "flattened twice": Of(lambda m, x: x.flatten(2).permute(0, 2, 1).reshape(-1, 4, 16, 6)),
    "enlarged": nn.Upsample(scale_factor=2),
    "dropout": nn.Sequential(nn.Dropout(), nn.Identity(), nn.Dropout2d()),
}


# torch's derivative of the hard sigmoid has a sixth in float32.
TOLERANCES = {"hard activations": 1e-7}


@pytest.mark.parametrize("case", CASES)
def test_operations(case, x64):
    check(behind_convolution(CASES[case]), tolerance=TOLERANCES.get(case, 1e-12))


class Residual(nn.Module):
    """A block that overwrites its values, as torchvision's do, behind a stem of two branches."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y += x
        x = self.relu(y)
        return self.fc(torch.flatten(self.pool(y), 1))


def test_names_keys_layers_and_the_map_that_is_explained(x64):
    network = check(Residual())
    assert [node["name"] for node in network.describe()["nodes"]] == [
        "conv1",
        "bn1",
        "relu",
        "conv2",
        "add",
        "relu_1",
        "pool",
        "flatten",
        "fc",
    ]
    assert set(parameters(network)) == {
        "conv1.kernel",
        "bn1.scale",
        "bn1.bias",
        "bn1.mean",
        "bn1.var",
        "conv2.kernel",
        "conv2.bias",
        "fc.kernel",
        "fc.bias",
    }
    assert network.target_layer == "relu_1"
    assert list(network.stages()) == [
        "conv1",
        "bn1",
        "relu",
        "add",
        "relu_1",
        "pool",
        "flatten",
        "fc",
    ]
    with pytest.raises(UserError, match=r"cannot be cut at conv2, because .* it can be at .*add"):
        network.split("conv2")


def test_grad_cam(x64):
    module = scatter(Residual())
    network = from_module(module, "x", preprocessing=TINY, target_layer="bn1")
    kept = {}
    module.bn1.register_forward_hook(lambda m, i, o: kept.update(map=o) or o.clone())
    inputs = tensor(network, pixels())
    (gradient,) = torch.autograd.grad(module(inputs)[0, 3], kept["map"])
    heat = torch.relu((gradient.mean((2, 3), keepdim=True) * kept["map"]).sum(1))[0].detach()
    assert heat.max() > 0
    np.testing.assert_allclose(grad_cam(network, pixels(), 3), heat, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, size", [("shufflenet_v2_x0_5", 64), ("squeezenet1_1", 64), ("mobilenet_v3_small", 64)]
)
def test_torchvision_s_own(name, size, x64):
    module = torchvision.models.get_model(name, weights=None, num_classes=10)
    for part in module.modules():  # see TOLERANCES
        for key, child in part.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(part, key, Of(lambda m, x: F.relu6(x + 3) / 6))
    check(module, Preprocessing(size=size, resize=size), tolerance=1e-10)


def test_other_sizes_than_the_traced_one(x64):
    module = scatter(behind_convolution(Of(shuffle))[:2].append(nn.AdaptiveAvgPool2d(1)))
    module.append(nn.Flatten())
    network = from_module(module, "x", preprocessing=TINY)
    image = pixels(13)
    expected = module(tensor(network, image))[0].detach()
    np.testing.assert_allclose(network(image), expected, rtol=1e-12, atol=1e-12)
    batch = np.stack([[image, image[::-1]]])
    np.testing.assert_allclose(network(batch)[0, 0], expected, rtol=1e-12, atol=1e-12)


def by_value(module, x):
    return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


REFUSED = {
    "attention": (
        Of(lambda m, x: F.scaled_dot_product_attention(x, x, x).flatten(1)),
        "networks with attention, such as vision transformers, cannot be converted",
    ),
    "data-dependent": (Of(by_value), "decides by its input's values what it computes"),
    "unknown": (
        Of(lambda m, x: torch.fft.fft2(x).real.flatten(1)),
        "operation fft_fft2 in the network itself cannot be converted: known are .*, adaptive_avg",
    ),
    "weights from the image": (
        Of(lambda m, x: F.conv2d(x, x[:1, :, :3, :3].mean((0,)).expand(2, 3, 3, 3)).flatten(1)),
        "operation .* in the network itself cannot be converted",
    ),
    "several outputs": (Of(lambda m, x: (x.flatten(1), x.mean((2, 3)))), "gives 2 outputs"),
    "no logits": (nn.Conv2d(3, 2, 1), r"gives \[images, 2, 8, 8\] instead of logits"),
    "one class": (
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(128, 1)),
        "gives one logit; a classifier has two classes or more",
    ),
    "across images": (Of(lambda m, x: (x - x.mean(0)).flatten(1)), "over the images of a batch"),
    "batch statistics": (behind_convolution(nn.InstanceNorm2d(6)), "statistics of the batch"),
    "no map": (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), "no map of more than one cell"),
    "another size": (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), "with images of 8 pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_gets_one_sentence(case):
    module, message = REFUSED[case]
    with pytest.raises(ConvertError, match=message) as error:
        from_module(module, "x", preprocessing=TINY)
    assert "\n" not in str(error.value)


def test_weights_in_half_precision():
    module = scatter(behind_convolution(nn.ReLU())).to(torch.bfloat16)
    network = from_module(module, "x", preprocessing=TINY)
    expected = module.float()(tensor(network, pixels()).float())[0].detach()
    assert_close(network(pixels()), expected)


def test_values_that_are_not_finite_are_refused():
    module = behind_convolution(nn.ReLU())
    module[0].bias.data[2] = torch.nan
    with pytest.raises(ConvertError, match=r"parameter 0\.bias holds other values than finite"):
        from_module(module, "x", preprocessing=TINY)


def test_specs(monkeypatch):
    factories = types.ModuleType("factories")
    factories.good, factories.bad, factories.other = Residual, lambda: 1 / 0, lambda: 3
    monkeypatch.setitem(sys.modules, "factories", factories)
    assert isinstance(build("factories:good"), Residual)
    assert not build("factories:good").training
    assert type(build("torchvision:squeezenet1_1")).__name__ == "SqueezeNet"
    monkeypatch.setitem(sys.modules, "timm", None)
    for spec, message in {
        "factories:bad": r"factories:bad gives no module \(ZeroDivisionError: division by zero\)",
        "factories:other": "factories:other gives a int instead of a torch.nn.Module",
        "factories:missing": "there is no network 'factories:missing'",
        "no_such_module:factory": "there is no network .*No module named",
        "torchvision:alexnot": "gives no module",
        "timm:resnet18": "timm is not installed: pip install timm",
    }.items():
        with pytest.raises(ConvertError, match=message):
            build(spec)
