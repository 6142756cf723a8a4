"""convert.torchvision against torchvision itself, on the same weights."""

import gc
import hashlib
import io
import pickle
import subprocess
import sys
import urllib.error
from email.message import Message

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convert import ConvertError, weights
from convert.checking import twins
from convert.operators import _declare_operators, torchvision
from convert.reading.leaves import counters
from convert.torchvision import (
    VERSIONS,
    from_torch,
    load_weights,
    save_torch,
    to_torch,
    twin,
)
from gcpatch.data import (
    labels,
    scenes,
)
from gcpatch.errors import UserError
from gcpatch.networks import MINIS, NAMES, PAPER, create, parameters, random

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
SIZES = [(224, 224), (160, 160), (256, 192)]


def images(size, dtype, count=2):
    return np.random.default_rng(7).random((count, *size, 3)).astype(dtype)


def scatter(model, seed=0):
    """A torch module with every parameter and statistic random, and no two of them alike."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: value.clone()
        if value.dtype == torch.int64
        else torch.rand(value.shape, generator=generator) + 0.5
        if key.endswith("running_var")
        else torch.randn(value.shape, generator=generator) * (2 / value[:1].numel()) ** 0.5
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state, strict=True)
    return model


def relative_errors(network, model, pixels):
    """The largest difference at each stage, relative to the largest value there."""
    ours = network.activations(jax.numpy.asarray(pixels))
    theirs = twins.activations(model, twins.torch_input(network, pixels), ours)
    assert set(ours) - set(theirs) <= {"flatten"}
    assert all(ours[stage].shape == theirs[stage].shape for stage in theirs)
    return {
        stage: np.abs(ours[stage] - theirs[stage]).max() / np.abs(theirs[stage]).max()
        for stage in theirs
    }


def assert_parity(name, dtype, sizes):
    network, model = random(name, 3, dtype), twin(name).to(getattr(torch, dtype))
    model.load_state_dict(to_torch(network), strict=True)
    for size in sizes:
        errors = relative_errors(network, model, images(size, dtype))
        worst = max(errors, key=errors.get)
        print(
            f"{name} {dtype} {size}: logits {list(errors.values())[-1]:.1e}, "
            f"worst stage {worst} {errors[worst]:.1e}"
        )
        assert errors[worst] <= TOLERANCE[dtype], worst


# --- Parity ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIS)
def test_a_mini_computes_what_its_twin_does(name):
    assert_parity(name, "float32", SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIS)
def test_a_mini_computes_what_its_twin_does_in_float64(name, x64):
    assert_parity(name, "float64", SIZES)


@pytest.mark.parametrize("name", MINIS)
def test_torch_weights_compute_here_what_they_compute_there(name):
    model = scatter(twin(name))
    network = from_torch(model.state_dict(), name)
    errors = relative_errors(network, model, images((64, 96), "float32"))
    assert max(errors.values()) <= TOLERANCE["float32"]


def test_input_is_what_torchvision_normalises():
    network, pixels = create("mini_vgg"), images((5, 4), "float32")
    expected = torchvision.transforms.functional.normalize(
        torch.from_numpy(pixels).permute(0, 3, 1, 2), network.mean, network.std
    )
    assert torch.allclose(twins.torch_input(network, pixels), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_a_full_network_computes_what_its_twin_does(name):
    assert_parity(name, "float32", [(224, 224), (160, 192)])
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_a_full_network_computes_what_its_twin_does_in_float64(name, x64):
    assert_parity(name, "float64", [(224, 224)])
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_network_has_torchvisions_keys_and_shapes(name):
    with torch.device("meta"):
        model = twin(name)
    shapes = weights.shapes(name)
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == shapes | dict.fromkeys(counters(shapes), ())


# --- Twins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MINIS)
def test_twins_are_torchvisions_own_modules(name):
    model = twin(name)
    assert isinstance(model, (torchvision.models.VGG, torchvision.models.ResNet))
    assert not model.training
    assert not any(value.is_meta for value in model.state_dict().values())
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, len(scenes.CATEGORIES))
        assert twin(name, classes=3)(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_full_twin():
    model = twin("resnet50", classes=7)
    assert not model.training
    assert model.fc.out_features == 7


# --- Round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MINIS)
def test_round_trip_is_exact(name):
    state = scatter(twin(name)).state_dict()
    back = to_torch(from_torch(state, name))
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert back[key].dtype == value.dtype
        assert torch.equal(back[key], value), key
        assert back[key].is_contiguous()


def test_round_trip_is_exact_in_float64(x64):
    state = scatter(twin("mini_vgg_bn")).double().state_dict()
    back = to_torch(from_torch(state, "mini_vgg_bn"))
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert {value.dtype for value in back.values()} == {torch.float64, torch.int64}


def test_half_precision_becomes_single():
    state = scatter(twin("mini_vgg")).state_dict()
    for dtype in (torch.float16, torch.bfloat16):
        network = from_torch({key: value.to(dtype) for key, value in state.items()}, "mini_vgg")
        assert {str(value.dtype) for value in parameters(network).values()} == {"float32"}
        back = to_torch(network)
        assert all(torch.equal(back[key], value.to(dtype).float()) for key, value in state.items())


def test_weights_are_copies():
    state = scatter(twin("mini_vgg")).state_dict()
    network = from_torch(state, "mini_vgg")
    before = {key: np.array(value) for key, value in parameters(network).items()}
    exported = to_torch(network)
    for tensor in [*state.values(), *exported.values()]:
        tensor.zero_()
    assert all(np.array_equal(before[k], value) for k, value in parameters(network).items())


def test_layouts_by_hand():
    state = twin("mini_vgg").state_dict()
    state["classifier.0.weight"] = torch.arange(64 * 96 * 49).reshape(64, 96 * 49).float()
    state["classifier.3.weight"] = torch.arange(64 * 64).reshape(64, 64).float()
    state["features.3.weight"][5, 3, 1, 2] = 99.0
    values = parameters(from_torch(state, "mini_vgg"))
    # Row 2, column 5 of channel 7 of the pooled map is torch's input 7 * 49 + 2 * 7 + 5.
    flat = 7 * 49 + 2 * 7 + 5
    assert values["classifier.0.kernel"].shape == (7, 7, 96, 64)
    first = state["classifier.0.weight"]
    assert values["classifier.0.kernel"][2, 5, 7, 11] == float(first[11, flat])
    assert values["classifier.3.kernel"][8, 9] == 9 * 64 + 8
    assert values["features.3.kernel"].shape == (3, 3, 8, 16)
    assert values["features.3.kernel"][1, 2, 3, 5] == 99.0


def test_categories():
    names = ("cat", "dog", "bird")
    network = from_torch(twin("mini_resnext", classes=3).state_dict(), "mini_resnext", names)
    assert network.categories == names
    assert from_torch(twin("mini_vgg").state_dict(), "mini_vgg").categories == scenes.CATEGORIES


# --- State_dicts that do not fit ------------------------------------------------------------------


def refused(match, state, name="mini_resnext"):
    with pytest.raises(ConvertError, match=match) as caught:
        from_torch(state, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def state():
    return dict(twin("mini_resnext").state_dict())


def test_missing_and_unknown_and_misshapen_keys_are_all_listed(state):
    state["fc.scale"] = state.pop("fc.bias")
    state["layer2.0.bn1.average"] = state.pop("layer2.0.bn1.running_mean")
    state["conv1.weight"] = torch.zeros(8, 3, 3, 3)
    state["fc.weight"] = state["fc.weight"].T
    message = refused("these are not", state)
    assert message == (
        "these are not the weights of mini_resnext; missing: fc.bias, "
        "layer2.0.bn1.running_mean; unknown: fc.scale, layer2.0.bn1.average; misshapen: "
        "conv1.weight (8, 3, 3, 3) instead of (8, 3, 7, 7), fc.weight (256, 10) instead of "
        "(10, 256)"
    )


def test_long_lists_are_cut(state):
    unknown = {f"x{i}": torch.zeros(1) for i in range(13)}
    message = refused("missing: bn1.bias, ", unknown)
    assert f"and {sum('num_batches' not in key for key in state) - 10} more; unknown: " in message
    assert message.endswith("x8, x9 and 3 more")
    refused("x8, x9$", state | {f"x{i}": torch.zeros(1) for i in range(10)})


def test_step_counters_may_be_absent_and_nothing_else(state):
    for key in list(state):
        if key.endswith("num_batches_tracked"):
            del state[key]
    from_torch(state, "mini_resnext")
    state["fc.num_batches_tracked"] = torch.tensor(0)
    refused("unknown: fc.num_batches_tracked$", state)
    vgg = dict(twin("mini_vgg_bn").state_dict())
    refused("unknown: .*num_batches_tracked", vgg, "mini_vgg")


def test_another_networks_weights(state):
    refused("missing: classifier.0.bias.*unknown: conv1.weight", state, "mini_vgg")
    refused(
        r"misshapen: layer1.0.conv2.weight \(16, 4, 3, 3\) instead of \(16, 16",
        state,
        "mini_wide_resnet",
    )


def test_other_number_of_classes():
    few = twin("mini_vgg", classes=3).state_dict()
    assert from_torch(few, "mini_vgg").categories == ("class 0", "class 1", "class 2")
    with pytest.raises(ConvertError, match=r"classifier.6 has 3 outputs, and there are 2 classes'"):
        from_torch(few, "mini_vgg", ("a", "b"))
    few["classifier.6.weight"] = torch.zeros(4, 64)
    refused(r"misshapen: classifier.6.weight \(4, 64\) instead of \(3, 64\)", few, "mini_vgg")


@pytest.mark.parametrize("value", [3, None, "text", torch.zeros(10, dtype=torch.int8)])
def test_what_is_no_floating_point_tensor(state, value):
    state["fc.bias"] = value
    refused(r"no plain floating-point tensor: fc.bias \((int|NoneType|str|int8)\)$", state)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite(state, value):
    state["fc.weight"][3, 4] = value
    refused("not finite: fc.weight$", state)


def test_unknown_name(state):
    with pytest.raises(UserError, match="no network 'resnet'; choose one of vgg11, "):
        from_torch(state, "resnet")
    with pytest.raises(UserError, match="no network 'resnet'; choose one of vgg11, "):
        load_weights("resnet")


# --- Files ----------------------------------------------------------------------------------------


@pytest.fixture
def path(state, tmp_path):
    torch.save(state, tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def unreadable(match, path, name="mini_resnext"):
    with pytest.raises(ConvertError, match=match) as caught:
        load_weights(name, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_file(path, state):
    for given in (path, str(path)):
        loaded = load_weights("mini_resnext", given)
        assert loaded.state_dict.keys() == state.keys()
        assert all(torch.equal(loaded.state_dict[key], value) for key, value in state.items())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert loaded.source == f"mine.pth sha256 {digest}"
        assert loaded.categories == scenes.CATEGORIES


def test_file_in_the_old_format(path, state):
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert load_weights("mini_resnext", path).state_dict.keys() == state.keys()


def test_file_with_the_usual_wrappings(path, state):
    wrapped = {f"module.{key}": value for key, value in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, path)
    assert load_weights("mini_resnext", path).state_dict.keys() == state.keys()
    torch.save({"state_dict": wrapped | {"module.fc.more": torch.zeros(1)}}, path)
    assert "fc.more" in load_weights("mini_resnext", path).state_dict  # which from_torch refuses


@pytest.mark.parametrize(
    "name, key, count, first",
    [
        ("resnet50", "fc.bias", 1000, "tench"),
        ("vgg11", "classifier.6.bias", 1000, "tench"),
        ("resnet50", "fc.bias", 7, "class 0"),
        ("mini_vgg", "classifier.6.bias", 10, scenes.CATEGORIES[0]),
        ("mini_vgg", "classifier.6.bias", 1000, "class 0"),
    ],
)
def test_categories_of_a_file(path, name, key, count, first):
    torch.save({key: torch.zeros(count)}, path)
    categories = load_weights(name, path).categories
    assert len(categories) == count
    assert categories[0] == first
    assert count != 7 or categories[6] == "class 6"


@pytest.mark.parametrize("head", [{"fc.weight": torch.ones(2)}, {"fc.bias": torch.zeros(())}])
def test_categories_of_a_file_without_a_last_layer(path, head):
    torch.save(head, path)
    loaded = load_weights("mini_resnext", path)
    assert loaded.categories is None
    refused("missing: bn1.bias", loaded.state_dict)


def test_missing_file_and_folder(tmp_path):
    unreadable("cannot be read: No such file", tmp_path / "nothing.pth")
    unreadable("cannot be read: No such file", tmp_path / "nothing.bin")
    unreadable("cannot be read: Is a directory", tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"hello world"])
def test_not_torchs_file(path, content):
    path.write_bytes(content)
    unreadable("cannot be read: it is damaged or not a file of torch.save", path)


def test_somebody_elses_archive(path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    path.write_bytes(buffer.getvalue())
    unreadable("cannot be read: it is damaged or not a file of torch.save", path)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file(path, state, zipped):
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for length in (len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        unreadable("cannot be read: it is damaged", path)


def test_altered_file(path, state):
    content = path.read_bytes()
    where = content.index(state["fc.weight"].numpy().tobytes()) + 5
    path.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    assert torch.load(path, weights_only=True)  # torch does not notice
    unreadable("cannot be read: it is damaged.*the checksum of .* in it is wrong", path)


class Malice:
    def __reduce__(self):
        return print, ("code of a weights file ran",)


def test_pickled_objects_are_refused(path, capfd):
    torch.save({"state_dict": {}, "extra": Malice()}, path)
    unreadable(r"holds a pickled .*print, which could run code and is not read: save the", path)
    torch.save(torch.nn.Linear(2, 2), path)
    unreadable("holds a pickled torch.nn.modules.linear.Linear, which could run code", path)
    path.write_bytes(pickle.dumps(Malice()))
    unreadable("is a bare pickle, which could run code and is not read: save the weights", path)
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {1: torch.zeros(1)}, 3, {}])
def test_no_state_dict(path, content):
    torch.save(content, path)
    unreadable(f"holds (a {type(content).__name__} instead of a state_dict|no tensors$)", path)


def test_torchvisions_file_names_state_a_hash(path):
    official = path.rename(path.with_name("resnet50-0676ba61.pth"))
    unreadable("incomplete or altered: its sha256 begins with", official, "resnet50")
    digest = hashlib.sha256(official.read_bytes()).hexdigest()
    assert load_weights("resnet101", official).source.endswith(digest)  # a name like any other


# --- torchvision's own weights --------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize(
    "choice", ["IMAGENET1K_V1", "DEFAULT", "VGG11_Weights.IMAGENET1K_V1", "VGG11_Weights.DEFAULT"]
)
def test_torchvisions_weights(hub, choice):
    hub.mkdir(parents=True)
    torch.save({"classifier.6.bias": torch.ones(1000)}, hub / "vgg11-8a719046.pth")
    loaded = load_weights("vgg11", choice)
    assert loaded.state_dict["classifier.6.bias"].sum() == 1000
    assert loaded.source == "torchvision IMAGENET1K_V1"
    assert loaded.categories[0] == "tench"
    assert len(loaded.categories) == 1000


def test_the_default_are_the_papers(hub, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "download", lambda name, member: asked.append(str(member)) or {})
    assert load_weights("wide_resnet101_2").source == "torchvision IMAGENET1K_V1"
    assert load_weights("wide_resnet101_2", "DEFAULT").source == "torchvision IMAGENET1K_V2"
    assert asked == [
        "Wide_ResNet101_2_Weights.IMAGENET1K_V1",
        "Wide_ResNet101_2_Weights.IMAGENET1K_V2",
    ]


def test_without_a_network(hub, monkeypatch):
    def fail(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    with pytest.raises(ConvertError) as caught:
        load_weights("vgg19_bn")
    assert str(caught.value) == (
        "torchvision could not fetch IMAGENET1K_V1 of vgg19_bn (<urlopen error Name or service not "
        "known>): fetch https://download.pytorch.org/models/vgg19_bn-c79401a0.pth by hand, then "
        "run `gcpatch convert vgg19_bn --weights vgg19_bn-c79401a0.pth`"
    )


def test_a_download_is_verified(hub, monkeypatch):
    class Answer(io.BytesIO):
        headers = {"Content-Length": "4"}  # noqa: RUF012

        def info(self):
            message = Message()
            message["Content-Length"] = "4"
            return message

    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: Answer(b"fake"))
    with pytest.raises(ConvertError, match=r"could not fetch .*invalid hash value"):
        load_weights("vgg19_bn")
    assert list(hub.glob("*")) == []


def test_a_damaged_download_in_the_cache(hub):
    hub.mkdir(parents=True)
    (hub / "vgg19_bn-c79401a0.pth").write_bytes(b"hello world")
    with pytest.raises(ConvertError, match="could not fetch"):
        load_weights("vgg19_bn")


def test_unknown_weights():
    with pytest.raises(ConvertError) as caught:
        load_weights("resnet50", "IMAGENET22K")
    assert str(caught.value) == (
        "resnet50 has no weights 'IMAGENET22K'; choose IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, "
        "a FILE.pth"
    )
    with pytest.raises(ConvertError, match=r"vgg19 has no weights 'ResNet50_Weights.DEFAULT'"):
        load_weights("vgg19", "ResNet50_Weights.DEFAULT")
    with pytest.raises(ConvertError, match=r"mini_vgg has no weights 'DEFAULT'; choose a FILE.pth"):
        load_weights("mini_vgg", "DEFAULT")


def test_weights_without_classes_are_no_choice():
    with pytest.raises(ConvertError, match=r"choose IMAGENET1K_V1, DEFAULT, a FILE.pth"):
        load_weights("vgg16", "IMAGENET1K_FEATURES")


# --- save_torch -----------------------------------------------------------------------------------


def test_save_torch(tmp_path):
    network = random("mini_vgg_bn", 2)
    save_torch(to_torch(network), tmp_path / "new" / "mini.pth")
    model = twin("mini_vgg_bn")
    model.load_state_dict(torch.load(tmp_path / "new" / "mini.pth", weights_only=True), strict=True)
    back = from_torch(
        load_weights("mini_vgg_bn", tmp_path / "new" / "mini.pth").state_dict, "mini_vgg_bn"
    )
    assert all(
        np.array_equal(a, b)
        for a, b in zip(parameters(network).values(), parameters(back).values(), strict=True)
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mini.pth"]


def test_save_torch_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "mini.pth"
    path.write_text("precious")

    def fail(_, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(ConvertError, match=r"mini\.pth cannot be written: disk full"):
        save_torch(to_torch(random("mini_vgg")), path)
    assert path.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["mini.pth"]
    with pytest.raises(ConvertError, match="cannot be written"):
        save_torch(to_torch(random("mini_vgg")), path / "below.pth")


# --- torch itself ---------------------------------------------------------------------------------


def test_versions():
    assert VERSIONS["torch"] == torch.__version__
    assert type(VERSIONS["torch"]) is str


def test_declaring_operators_twice_or_beside_others_is_fine():
    _declare_operators(torch)
    _declare_operators(torch)
    assert torchvision.models.get_model("resnet50", weights=None)


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_without_torch_the_error_says_what_to_install(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from convert import ConvertError\n"
        "try:\n    import convert.torchvision\nexcept ConvertError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("conversion needs PyTorch and torchvision (import of torch")
    assert done.stdout.endswith("install gcpatch[convert]\n")


def test_wordnet_ids_and_torchvisions_names_agree():
    names = torchvision.models.VGG19_Weights.IMAGENET1K_V1.meta["categories"]
    known = {
        "n01693334": "green lizard",
        "n02088094": "Afghan hound",
        "n02101556": "clumber",
        "n02114712": "red wolf",
        "n02268853": "damselfly",
        "n02487347": "macaque",
        "n03000684": "chain saw",
        "n03272010": "electric guitar",
        "n03775071": "mitten",
        "n04133789": "sandal",
        "n07614500": "ice cream",
        "n12267677": "acorn",
    }
    assert {one: names[labels.find(one, names)] for one in known} == known
