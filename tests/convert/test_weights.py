"""Files of weights as people have them: each gives torch's logits, or one line."""

import argparse
import pathlib
import pickle
import sys
import tracemalloc
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from convert import ConvertError, weights
from convert.checking import twins
from convert.operators import torchvision
from convert.settings import Settings
from convert.torchvision import convert, load_weights, twin
from gcpatch.data import images
from gcpatch.networks import Preprocessing

LAYER = "classifier.3.weight"
SGD = {"state": {}, "param_groups": [{"lr": 0.1}]}


class Tuned(NamedTuple):
    """A mini with a head of its own in torch, an image, and torch's logits for it."""

    state: dict[str, Any]
    image: np.ndarray
    logits: np.ndarray


@pytest.fixture(scope="module")
def tuned():
    """A VGG with five classes and hidden layers of other widths."""
    torch.manual_seed(0)
    model = twin("mini_vgg", classes=5, hidden=(20, 12))
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    inputs = torch.from_numpy(((image - 0.5) / 0.25).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return Tuned(model.state_dict(), image[0], model(inputs)[0].numpy())


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def cast(state, dtype):
    return {key: value.to(dtype) for key, value in state.items()}


WRAPPINGS = {
    "plain": lambda s: s,
    "model_state_dict": lambda s: {"epoch": 3, "model_state_dict": s, "optimizer_state_dict": SGD},
    "net": lambda s: {"net": prefixed(s, "module."), "acc": 95.1},
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "callbacks": {}},
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "parallel_compiled": lambda s: prefixed(s, "module._orig_mod."),
    "averaged": lambda s: {"n_averaged": torch.tensor(3)} | prefixed(s, "module."),
    "criterion": lambda s: prefixed(s, "net.encoder.") | {"criterion.weight": torch.ones(5)},
    "features_parallel": lambda s: {
        "state_dict": {key.replace("features.", "features.module."): v for key, v in s.items()}
    },
    "namespace": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
    "others": lambda s: {"w": s, "best": np.float64(3), "path": pathlib.Path("x"), "a": np.ones(2)},
    "tuple": lambda s: (s, SGD),
    "deep": lambda s: {"a": {"b": {"c": prefixed(s, "student.")}}},
    "ema": lambda s: {"model": prefixed(s, "model."), "ema": prefixed(cast(s, torch.float64), "")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_state_dicts_give_torchs_logits(wrapping, tuned, tmp_path):
    torch.save(WRAPPINGS[wrapping](tuned.state), tmp_path / "it.pth")
    key = "ema" if wrapping == "ema" else None
    settings = Settings(mean=(0.5,) * 3, std=(0.25,) * 3)
    network = convert("mini_vgg", tmp_path / "it.pth", settings, key).network
    assert network.categories == tuple(f"class {i}" for i in range(5))
    assert network.options == {"hidden": [20, 12]}
    np.testing.assert_allclose(network(jnp.asarray(tuned.image)), tuned.logits, atol=1e-6)


@pytest.mark.parametrize(
    ("wrapping", "said"),
    [
        ("plain", ()),
        (
            "model_state_dict",
            ("took model_state_dict; left out epoch, optimizer_state_dict",),
        ),
        ("net", ("took net without 'module.' before the names; left out acc",)),
        ("averaged", ("took module without 'module.' before the names; left out n_averaged",)),
        (
            "criterion",
            (
                "took net.encoder without 'net.encoder.' before the names; left out "
                "criterion.weight",
            ),
        ),
        ("others", ("took w; left out best, path, a",)),
        ("deep", ("took a.b.c without 'student.' before the names",)),
    ],
)
def test_it_says_what_was_taken_and_what_was_left(wrapping, said, tuned, tmp_path):
    torch.save(WRAPPINGS[wrapping](tuned.state), tmp_path / "it.pth")
    assert load_weights("mini_vgg", tmp_path / "it.pth").notes == said


def test_safetensors(tuned, tmp_path, monkeypatch):
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "it.safetensors"
    save_file(prefixed(tuned.state, "model."), path)
    found = load_weights("mini_vgg", path).state_dict
    assert all(torch.equal(found[key], value) for key, value in tuned.state.items())
    path.write_bytes(path.read_bytes()[:500])
    refused("cannot be read: it is damaged", path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    refused("is read by the package safetensors: pip install safetensors", path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_made_whole(kind, tuned, tmp_path):
    torch.save(cast(tuned.state, kind), tmp_path / "it.pth")
    network = convert(None, tmp_path / "it.pth").network
    expected = tuned.state["features.0.bias"].to(kind).float().numpy()
    assert np.array_equal(network.features[0].bias[...], expected)


# --- Refused in one line --------------------------------------------------------------------------


def refused(match, path, name="mini_vgg"):
    with pytest.raises(ConvertError, match=match) as caught:
        convert(name, path)
    message = str(caught.value)
    assert "\n" not in message and "weights_only" not in message and "add_safe" not in message
    return message


def quantised(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


HUGE = torch.zeros(1).expand(10**6, 10**6)
ODD = {
    "quantised": (quantised, "quantised"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "sparse": (lambda t: t.to_sparse(), "sparse"),
    "meta": (lambda t: t.to("meta"), "meta: without values"),
    "complex": (lambda t: t.to(torch.complex64), "complex64"),
    "integer": (lambda t: t.to(torch.int8), "int8"),
    "expanded": (lambda t: torch.zeros(1).expand(t.shape), "larger than what is stored of it"),
    "huge": (lambda t: HUGE, "larger than what is stored of it"),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of quantised and sparse tensors
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_named(kind, tuned, tmp_path):
    make, why = ODD[kind]
    torch.save(tuned.state | {LAYER: make(tuned.state[LAYER])}, tmp_path / "it.pth")
    tracemalloc.start()
    refused(rf"no plain floating-point tensor: {LAYER} \({why}\)$", tmp_path / "it.pth")
    assert tracemalloc.get_traced_memory()[1] < 1e8
    tracemalloc.stop()


@pytest.mark.parametrize("key", ["classifier.6.bias", "classifier.0.bias", "features.0.weight"])
def test_a_tensor_that_claims_to_be_huge_costs_nothing(key, tuned, tmp_path):
    huge = torch.zeros(1).expand(10**12) if key.endswith("bias") else HUGE
    torch.save(tuned.state | {key: huge}, tmp_path / "it.pth")
    for name in ("mini_vgg", None):
        with pytest.raises(ConvertError, match=r"larger than|no network that is known"):
            convert(name, tmp_path / "it.pth")


class Runs:
    """Something that a pickle could only make by running code."""

    def __reduce__(self):
        return print, ("code of a weights file ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors$"),
        ({"epoch": 3}, "holds no tensors$"),
        (torch.nn.Linear(2, 2), "holds a pickled torch.nn.modules.linear.Linear, which could run"),
        ({"model": torch.nn.Linear(2, 2)}, "holds a pickled torch.nn.modules.linear.Linear, which"),
        ({"extra": Runs()}, "holds a pickled .*print, which could run code"),
        (
            {"a": {"conv.weight": torch.ones(1)}},
            "these are not the weights of mini_vgg; missing: .*unknown: conv.weight",
        ),
    ],
    ids=range(6),
)
def test_what_is_no_state_dict(content, message, tmp_path, capfd):
    torch.save(content, tmp_path / "it.pth")
    refused(message, tmp_path / "it.pth")
    assert "ran" not in capfd.readouterr().out


def test_code_beside_weights_never_runs(tuned, tmp_path, capfd):
    torch.save({"model": tuned.state, "extra": Runs()}, tmp_path / "it.pth")
    assert load_weights("mini_vgg", tmp_path / "it.pth").notes == ("took model; left out extra",)
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle(protocol, tuned, tmp_path, capfd):
    for content in ({"a": 3}, Runs()):
        (tmp_path / "it.pth").write_bytes(pickle.dumps(content, protocol=protocol))
        refused("is a bare pickle, which could run code and is not read", tmp_path / "it.pth")
    assert "ran" not in capfd.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_program(tmp_path):
    module = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(module, str(tmp_path / "it.pth"))
    refused(r"holds a compiled program .* save its weights alone, torch.save", tmp_path / "it.pth")


def test_objects_beside_an_old_file_are_refused(tuned, tmp_path):
    content = {"model": tuned.state, "args": argparse.Namespace()}
    torch.save(content, tmp_path / "it.pth", _use_new_zipfile_serialization=False)
    refused("holds a pickled argparse.Namespace, which could run code", tmp_path / "it.pth")


def test_two_that_fit_are_named(tuned, tmp_path):
    torch.save(WRAPPINGS["ema"](tuned.state), tmp_path / "it.pth")
    refused("holds several that fit: model and ema; choose one with --key", tmp_path / "it.pth")
    with pytest.raises(ConvertError, match="holds no weights under 'x'; there are model, ema"):
        convert("mini_vgg", tmp_path / "it.pth", key="x")


# --- The network that a file is of ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["mini_vgg_bn", "mini_wide_resnet", "mini_resnext"])
def test_the_network_is_told_from_names_and_shapes(name, tmp_path):
    torch.save(
        {"net": prefixed(twin(name, classes=3).state_dict(), "module.")}, tmp_path / "it.pth"
    )
    assert load_weights(None, tmp_path / "it.pth").name == name


def test_no_network_has_these_names(tmp_path):
    state = twin("mini_resnext").state_dict()
    torch.save(state | {"layer5.weight": torch.ones(3)}, tmp_path / "it.pth")
    refused(
        r"nearest is mini_resnext, with 1 that differ\): name one, or", tmp_path / "it.pth", None
    )
    refused("unknown: layer5.weight", tmp_path / "it.pth", "mini_resnext")


def test_layers_beside_a_network_may_be_part_of_it(tuned, tmp_path):
    state = prefixed(tuned.state, "backbone.") | {"head.weight": torch.ones(3, 5)}
    torch.save({"state_dict": state}, tmp_path / "it.pth")
    message = refused(r"holds layers beside the network \(head.weight\)", tmp_path / "it.pth")
    assert message.endswith("`gcpatch convert module:factory`; else --key state_dict")
    assert len(load_weights("mini_vgg", tmp_path / "it.pth", "state_dict").state_dict) == 18


# --- What images it takes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "choice", "resize"),
    [("vgg19", "IMAGENET1K_V1", 256), ("resnet50", "IMAGENET1K_V2", 232)],
)
def test_torchvision_says_what_images_its_weights_take(name, choice, resize, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "download", lambda name, member: {"head": torch.ones(1)})
    found = load_weights(name, choice).preprocessing
    assert found == Preprocessing(resize=resize)
    pixels = np.random.default_rng(1).integers(0, 256, (310, 417, 3), np.uint8)
    images.write_png(tmp_path / "it.png", pixels)
    ours = images.read_image(
        tmp_path / "it.png", found.size, "crop", found.resize, found.interpolation
    )
    transforms = torchvision.models.get_model_weights(name)[choice].transforms()
    theirs = transforms(Image.fromarray(pixels))
    unit = ours.astype(np.float32) / 255
    normal = (unit - np.float32(found.mean)) / np.float32(found.std)
    np.testing.assert_allclose(normal.transpose(2, 0, 1), theirs, atol=1e-6)


def test_bicubic_is_torchvisions_too(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (90, 70, 3), np.uint8)
    images.write_png(tmp_path / "it.png", pixels)
    transforms = torchvision.transforms
    bicubic = transforms.InterpolationMode.BICUBIC
    theirs = transforms.CenterCrop(32)(transforms.Resize(40, bicubic)(Image.fromarray(pixels)))
    ours = images.read_image(tmp_path / "it.png", 32, "crop", 40, "bicubic")
    assert np.array_equal(ours, np.asarray(theirs))


def test_torchvisions_own_file_is_known_by_its_name(tmp_path, monkeypatch):
    torch.save(twin("mini_resnext").state_dict(), tmp_path / "resnet50-11ad3fa6.pth")
    monkeypatch.setattr(weights.hashlib, "file_digest", lambda *_: _Digest())
    monkeypatch.setattr(weights, "shapes", lambda name: twins.twin("mini_resnext").state_dict())
    found = load_weights("resnet50", tmp_path / "resnet50-11ad3fa6.pth")
    assert found.preprocessing == Preprocessing(resize=232)


class _Digest:
    def hexdigest(self):
        return "11ad3fa6" + "0" * 56


def test_what_is_not_said_is_assumed_aloud(tuned, tmp_path):
    torch.save(tuned.state, tmp_path / "it.pth")
    (note,) = convert("mini_vgg", tmp_path / "it.pth").notes
    assert note == (
        "assumes mean 0.485,0.456,0.406, std 0.229,0.224,0.225, size 224, resize 256, "
        "interpolation bilinear; --mean, --std, --size, --resize, --interpolation say otherwise"
    )
    some = Settings(mean=(0.5,) * 3, std=(0.5,) * 3, size=64)
    converted = convert("mini_vgg", tmp_path / "it.pth", some)
    assert converted.notes == (
        "assumes resize 73, interpolation bilinear; --resize, --interpolation say otherwise",
    )
    assert converted.network.preprocessing == Preprocessing((0.5,) * 3, (0.5,) * 3, 64, 73)
