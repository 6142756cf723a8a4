"""Networks that a user's function makes: what is taken, and the sentence for all else."""

import sys
import types

import pytest

from gcpatch.errors import UserError
from gcpatch.networks import factories


@pytest.fixture
def mine(monkeypatch, flat):
    module = types.ModuleType("mine")
    module.good, module.three = lambda: flat, lambda: 3

    def boom():
        raise ValueError("of two\nlines")

    def own():
        raise UserError("what adapt says")

    module.boom, module.own = boom, own
    monkeypatch.setitem(sys.modules, "mine", module)


def test_a_factory_s_network(mine, flat):
    assert factories.load("mine:good") is flat


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine:three", "mine:three gives int instead of a gcpatch.Network, as gcpatch.adapt"),
        ("mine:boom", "mine:boom raises ValueError: of two lines"),
        ("mine:own", "what adapt says"),
        ("mine:none", "there is no network 'mine:none': module 'mine' has no attribute 'none'"),
        ("no_such_module:net", "there is no network 'no_such_module:net': No module named"),
        ("torchvision:densenet121", "run `gcpatch convert torchvision:densenet121` and name what"),
    ],
)
def test_all_else_is_one_sentence(mine, spec, message):
    with pytest.raises(UserError) as error:
        factories.load(spec)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_module_of_pytorch_is_to_be_converted(mine):
    torch = pytest.importorskip("torch")
    sys.modules["mine"].module = lambda: torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="mine:module is a network of PyTorch: run `gcpatch conv"):
        factories.load("mine:module")


def test_what_is_a_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert factories.is_spec("mine:net") and factories.is_spec("timm:resnet18")
    assert not factories.is_spec("a:b") and not factories.is_spec("vgg16")


def test_the_current_folder_is_searched(tmp_path, monkeypatch):
    (tmp_path / "nearby.py").write_text("def three():\n    return 3\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != ""])
    monkeypatch.chdir(tmp_path)
    assert factories.make("nearby:three") == 3
    assert factories.make("nearby:three") == 3 and sys.path.count("") == 1
