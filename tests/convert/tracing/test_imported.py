"""Imported networks beside their modules of PyTorch: it passes, and each planted fault is named."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import ConvertError
from convert.checking.comparison import compare, first_difference
from convert.tracing.graph import from_module
from convert.tracing.imported import Imported, to_torch
from gcpatch.networks import Preprocessing, fill, parameters
from gcpatch.networks.graph import create

nn = torch.nn
SIDE = 14
SMALL = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), SIDE, SIDE)


class Block(nn.Module):
    """Two calls of one ReLU that overwrites, a sum, and a concatenation."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(x)
        y = self.bn(self.conv(x))
        y += x
        return torch.cat([self.relu(y), x], 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 3), Block()
        self.last, self.drop, self.fc = nn.Conv2d(8, 5, 1), nn.Dropout(), nn.Linear(5, 4)

    def forward(self, x):
        x = torch.relu(self.last(self.block(self.stem(x))))
        return self.fc(self.drop(x.mean((2, 3))))


class ChannelsLast(nn.Module):
    """A map that torch has as [n, h, w, c], as ConvNeXt's blocks do."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return self.fc(torch.tanh(x)).mean((1, 2))


def scattered(module):
    torch.manual_seed(0)
    module = module.eval().requires_grad_(False)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value))
    return module


def pictures(count=1):
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def pair():
    module = scattered(Net())
    return from_module(module, "net", preprocessing=SMALL), module


def test_stages_and_attacks_agree_in_float64(pair):
    network, module = pair
    rows = compare(network, module, pictures(), "float64", steps=2, optimizers=["sign", "adam"])
    assert first_difference(rows) is None
    quantities = [row.quantity for row in rows]
    assert quantities[:11] == [
        "normalize",
        "stem",
        "block.relu",
        "block.conv",
        "block.bn",
        "block.relu_1",
        "block.cat",
        "last",
        "drop",
        "fc",
        "logits",
    ]
    for wanted in ("map", "hide: gradient", "highlight: gradient", "patch after 2 sign steps"):
        assert wanted in quantities
    assert network.target_layer == "relu"  # a function, which no hook sees


def test_a_map_with_its_channels_last():
    module = scattered(ChannelsLast())
    network = from_module(module, "last", preprocessing=SMALL, target_layer="tanh")
    rows = compare(network, module, pictures(), "float64")
    assert first_difference(rows) is None
    assert "norm" in [row.quantity for row in rows]


def tampered(network, change):
    """The network of a graph after a change of its nodes, by name."""
    graph = network.describe()
    change({node["name"]: node for node in graph["nodes"]}, graph["nodes"])
    made = create(json.loads(json.dumps(graph)), "net", network.categories, SMALL)
    return fill(made, parameters(network))


def wrong_order(nodes, _):
    """The sum is taken of what the block begins with before its ReLU."""
    nodes["block.add"]["inputs"] = ["block.bn", "stem"]


def missing_relu(nodes, order):
    order.remove(nodes["block.relu_1"])
    nodes["block.cat"]["inputs"][0] = "block.add"


def epsilon(nodes, _):
    nodes["block.bn"]["attributes"]["epsilon"] = 1e-3


def swapped_parts(nodes, _):
    nodes["block.cat"]["inputs"].reverse()


FAULTS = {
    wrong_order: "block.relu_1",
    missing_relu: "block.relu_1",
    epsilon: "block.bn",
    swapped_parts: "block.cat",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_named(pair, fault, monkeypatch):
    from convert.checking import comparison

    monkeypatch.setattr(comparison, "LOSSES_ON", 0)
    network, module = pair
    rows = compare(tampered(network, fault), module, pictures())
    assert first_difference(rows).quantity == FAULTS[fault]


@pytest.mark.parametrize("kind", [Net, ChannelsLast])
def test_weights_are_written_back(kind):
    module = scattered(kind())
    network = from_module(module, "net", preprocessing=SMALL)
    back = to_torch(network, scattered(kind()).apply(lambda part: part.zero_grad()))
    other = kind().eval()
    assert not torch.equal(other.fc.weight, module.fc.weight)
    other.load_state_dict(to_torch(network, other))
    for key, value in module.state_dict().items():
        assert back[key].dtype == value.dtype
        if "num_batches" not in key:
            assert torch.equal(other.state_dict()[key], value)


class Standardised(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        weight = self.conv.weight - self.conv.weight.mean((1, 2, 3), keepdim=True)
        return self.fc(torch.relu(nn.functional.conv2d(x, weight)).mean((2, 3)))


def test_weights_that_cannot_be_written_back_are_named(pair):
    network = from_module(scattered(Standardised()), "std", preprocessing=SMALL)
    with pytest.raises(ConvertError, match=r"std does not say what .*kernel was in PyTorch"):
        to_torch(network, Standardised().eval())
    with pytest.raises(ConvertError, match="of net is not the PyTorch module's: it has changed"):
        to_torch(pair[0], scattered(ChannelsLast()))


def test_a_layer_without_a_map(pair):
    network, module = pair
    with pytest.raises(ConvertError, match="PyTorch's module has no map at fc of net"):
        Imported(network, module, layer="fc")
