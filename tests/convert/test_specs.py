"""Modules named with a colon: their weights, what is known of their images, and what is refused."""

import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import ConvertError
from convert.settings import Settings
from convert.specs import convert
from gcpatch.networks import Preprocessing, parameters

nn = torch.nn
SMALL = Settings(size=16, resize=16)
SQUEEZED = Settings(size=32, resize=32)


def factory():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


@pytest.fixture(autouse=True)
def mine(monkeypatch):
    module = types.ModuleType("mine")
    module.network = factory
    monkeypatch.setitem(sys.modules, "mine", module)


def kernel(made):
    return np.asarray(parameters(made.network)["4.kernel"])


def test_a_factory_with_its_own_weights_and_with_a_file_s(tmp_path):
    made = convert("mine:network", settings=SMALL)
    assert (made.network.name, made.source) == ("network", "mine:network")
    assert made.network.preprocessing.size == 16
    assert made.notes == (
        "assumes mean 0.485,0.456,0.406, std 0.229,0.224,0.225, interpolation bilinear; "
        "--mean, --std, --interpolation say otherwise",
    )
    module = factory()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}},
        tmp_path / "mine.pth",
    )
    filled = convert("mine:network", tmp_path / "mine.pth", SMALL)
    np.testing.assert_array_equal(kernel(filled), module[4].weight.detach().numpy().T)
    assert not np.array_equal(kernel(filled), kernel(made))


def test_a_head_for_other_classes(tmp_path):
    head = {"4.1.weight": torch.ones(7, 4), "4.1.bias": torch.arange(7.0)}
    body = {key: value for key, value in factory().state_dict().items() if key[0] != "4"}
    for name, tensors in (
        ("dropout", body | head),
        ("plain", body | {key.replace("4.1", "4"): value for key, value in head.items()}),
    ):
        torch.save(tensors, tmp_path / f"{name}.pth")
        made = convert("mine:network", tmp_path / f"{name}.pth", SMALL)
        assert len(made.network.categories) == 7
        np.testing.assert_array_equal(kernel(made), np.ones((4, 7)))
        assert any("assumes that 4.1" in note for note in made.notes) == (name == "dropout")
    two = body | head | {"4.3.weight": torch.ones(7, 7), "4.3.bias": torch.zeros(7)}
    torch.save(two, tmp_path / "two.pth")
    with pytest.raises(ConvertError, match=r"two\.pth.*2 linear layers.*module:factory"):
        convert("mine:network", tmp_path / "two.pth", SMALL)


def test_random_weights_follow_from_the_seed_and_leave_torch_s_alone():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    first, again = (
        parameters(convert("torchvision:squeezenet1_1", "random", SQUEEZED).network)
        for _ in range(2)
    )
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
    assert torch.equal(torch.rand(3), wanted)


def test_a_factory_has_its_own_weights_and_no_random_ones():
    with pytest.raises(ConvertError, match="mine:network has its own weights, and no random ones"):
        convert("mine:network", "random", SMALL)


class Torn(nn.Module):
    def train(self, mode=True):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: sys.exit(7), r"mine:network gives no module \(SystemExit: 7\)"),
        (Torn, r"mine:network gives no module \(RuntimeError: no\)"),
        (lambda: nn.Sequential(factory(), nn.Softmax(-1)), "ends in a softmax"),
    ],
)
def test_factories_that_give_no_network(make, message):
    sys.modules["mine"].network = make
    with pytest.raises(ConvertError, match=message):
        convert("mine:network", None, SMALL)


def test_what_the_user_says():
    said = Settings(
        mean=(0.5, 0.5, 0.5), size=16, resize=18, categories=("a", "b", "c"), layer="0", name="pets"
    )
    network = convert("mine:network", None, said).network
    assert network.preprocessing == Preprocessing(mean=(0.5, 0.5, 0.5), size=16, resize=18)
    assert (network.name, network.target_layer) == ("pets", "0")
    assert network.categories == ("a", "b", "c")


def test_timm_s_own_preprocessing():
    pytest.importorskip("timm")
    network = convert("timm:test_convnext", "random").network
    assert network.preprocessing == Preprocessing((0.5,) * 3, (0.5,) * 3, 160, 168, "bicubic")


def test_weights_that_do_not_fit(tmp_path):
    for name, change, message in (
        ("other", {"4.weight": torch.zeros(7, 9), "4.bias": torch.zeros(7)}, "does not fit"),
        ("one", {"4.weight": torch.zeros(1, 4), "4.bias": torch.zeros(1)}, "has one output"),
        ("float8", {"0.bias": torch.zeros(4).to(torch.float8_e4m3fn)}, r"0\.bias \(float8"),
        ("nan", {"0.bias": torch.full((4,), torch.nan)}, r"0\.bias \(not finite\)"),
        ("meta", {"0.bias": torch.zeros(4, device="meta")}, r"0\.bias \(meta"),
        ("huge", {"0.bias": torch.zeros(1).expand(10**12)}, "0\\.bias"),
    ):
        torch.save(factory().state_dict() | change, tmp_path / f"{name}.pth")
        with pytest.raises(ConvertError, match=rf"{name}\.pth.*{message}"):
            convert("mine:network", tmp_path / f"{name}.pth", SMALL)
    with pytest.raises(ConvertError, match="mine:network has no weights 'V1'; give a file"):
        convert("mine:network", "V1", SMALL)
    with pytest.raises(ConvertError, match="squeezenet1_1 has no weights 'V9'; choose IMAGENET1K"):
        convert("torchvision:squeezenet1_1", "V9", SMALL)
