"""Heads that people put in the place of torchvision's."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import ConvertError
from convert.reading import heads
from convert.torchvision import from_torch, twin

nn = torch.nn


def logits_agree(model, network, note):
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    inputs = (image - np.float32(network.mean)) / np.float32(network.std)
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(network(jnp.asarray(image)), theirs, atol=1e-5)
    assert (note is None) == (not isinstance(last_of(model), nn.Sequential))


def last_of(model):
    return model.fc if hasattr(model, "fc") else model.classifier[6]


@pytest.mark.parametrize(
    "head",
    [
        nn.Linear(256, 8),
        nn.Sequential(nn.Dropout(), nn.Linear(256, 8)),
        nn.Sequential(nn.Linear(256, 8)),
    ],
    ids=["linear", "dropout", "sequential"],
)
def test_a_resnet_with_a_head_of_its_own(head):
    model = twin("mini_resnext")
    model.fc = head
    settled = heads.settle(model.state_dict(), "mini_resnext")
    network = from_torch(settled.state_dict, "mini_resnext")
    assert network.categories == tuple(f"class {i}" for i in range(8))
    logits_agree(model, network, settled.note)


@pytest.mark.parametrize("head", [nn.Linear(12, 5), nn.Sequential(nn.Dropout(), nn.Linear(12, 5))])
def test_a_vgg_with_a_classifier_of_its_own(head):
    model = twin("mini_vgg_bn", hidden=(20, 12))
    model.classifier[6] = head
    settled = heads.settle(model.state_dict(), "mini_vgg_bn")
    network = from_torch(settled.state_dict, "mini_vgg_bn")
    assert network.options == {"hidden": [20, 12]}
    logits_agree(model, network, settled.note)


def test_it_says_what_it_assumes():
    model = twin("mini_resnext")
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(256, 8))
    note = heads.settle(model.state_dict(), "mini_resnext").note
    assert note == "assumes that fc.1 is all that acts in the head fc"


@pytest.mark.parametrize(
    ("name", "place", "head", "message"),
    [
        (
            "mini_resnext",
            "fc",
            nn.Sequential(nn.Linear(256, 8), nn.Tanh(), nn.Linear(8, 8)),
            r"the head fc has 2 linear layers \(fc.0, fc.2\), and what lies between",
        ),
        (
            "mini_vgg",
            "classifier",
            nn.Sequential(nn.Dropout(), nn.Linear(4704, 8), nn.ReLU(), nn.Linear(8, 8)),
            "has linear layers at classifier.1, classifier.3 and not at classifier.0",
        ),
        (
            "mini_vgg",
            "classifier",
            nn.Linear(4704, 8),
            "the classifier has linear layers at classifier and not at classifier.0",
        ),
    ],
)
def test_several_linear_layers_are_not_guessed(name, place, head, message):
    model = twin(name)
    setattr(model, place, head)
    with pytest.raises(ConvertError, match=message) as caught:
        heads.settle(model.state_dict(), name)
    assert "`gcpatch convert module:factory`" in str(caught.value)


def test_what_is_more_than_a_linear_layer_is_refused():
    model = twin("mini_resnext")
    model.fc = nn.Sequential(nn.BatchNorm1d(256), nn.Linear(256, 8))
    settled = heads.settle(model.state_dict(), "mini_resnext")
    with pytest.raises(ConvertError, match=r"missing: fc.bias, fc.weight; unknown: fc.0.weight"):
        from_torch(settled.state_dict, "mini_resnext")


@pytest.mark.parametrize(("count", "outputs"), [(0, "no outputs"), (1, "one output")])
def test_a_head_needs_two_classes(count, outputs):
    state = twin("mini_resnext").state_dict()
    state |= {key: state[key][:count] for key in ("fc.weight", "fc.bias")}
    with pytest.raises(ConvertError, match=f"the head fc has {outputs}; it needs two classes"):
        from_torch(state, "mini_resnext")
