"""gcpatch.checkpoints: what is saved comes back bit for bit, and nothing else comes back."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from gcpatch.data import scenes
from gcpatch.errors import UserError
from gcpatch.networks import (
    MINIS,
    NAMES,
    Preprocessing,
    checkpoints,
    create,
    fill,
    manifests,
    parameters,
    random,
)
from gcpatch.networks.checkpoints import CheckpointError

NAME = "mini_resnext"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def network():
    return random(NAME, 5)


@pytest.fixture(scope="module")
def original(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "checkpoint"
    checkpoints.save(network, folder, "random seed 5")
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy"))


def arrays(network):
    return {key: np.asarray(value) for key, value in parameters(network).items()}


def assert_same(one, two):
    one_arrays, two_arrays = arrays(one), arrays(two)
    assert one_arrays.keys() == two_arrays.keys()
    for key, value in one_arrays.items():
        assert value.dtype == two_arrays[key].dtype
        assert value.tobytes() == two_arrays[key].tobytes(), key
    assert nnx.graphdef(one) == nnx.graphdef(two)


def edit(folder, **fields):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not ...}))


def rewrite(folder, values):
    """Puts other arrays into a checkpoint without saying so in its manifest's digest."""
    shutil.rmtree(folder / "parameters")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "parameters", values)
    edit(folder, files=manifests.hash_files(folder / "parameters"))


def refused(match, folder, name=None):
    with pytest.raises(CheckpointError, match=match) as caught:
        checkpoints.read(folder, name)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


# --- Round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MINIS)
def test_round_trip_is_exact(name, tmp_path):
    network = random(name, 1)
    checkpoints.save(network, tmp_path / "new" / name, "random seed 1")
    assert_same(checkpoints.read(tmp_path / "new" / name, name), network)
    assert os.listdir(tmp_path / "new") == [name]  # no drafts


def test_round_trip_keeps_what_is_not_a_parameter(tmp_path):
    network = random("mini_vgg", 1)
    preprocessing = Preprocessing((0.1, 1 / 3, 0.7), (1.0, 0.5, 0.25), 192, 219, "bicubic")
    network = fill(create("mini_vgg", tuple("abcdefghij"), preprocessing), parameters(network))
    network.name = "alias"
    network.target_layer = "features.6"
    checkpoints.save(network, tmp_path / "it", "here")
    back = checkpoints.read(tmp_path / "it")
    assert_same(back, network)
    assert np.array_equal(back.normalize(jnp.ones(3)), network.normalize(jnp.ones(3)))


def test_round_trip_in_float64(x64, tmp_path):
    network = random(NAME, 1, "float64")
    checkpoints.save(network, tmp_path / "it", "here")
    assert_same(checkpoints.read(tmp_path / "it"), network)


def test_manifest(network, tmp_path):
    written = checkpoints.save(network, tmp_path / "it", "scenes", {"torch": "9.9"})
    manifest = json.loads((tmp_path / "it" / "manifest.json").read_text())
    assert manifest == written
    assert {key: manifest[key] for key in ("format", "network", "source", "target_layer")} == {
        "format": 2,
        "network": NAME,
        "source": "scenes",
        "target_layer": "layer4",
    }
    assert tuple(manifest["categories"]) == scenes.CATEGORIES
    assert manifest["mean"] == [0.485, 0.456, 0.406]
    assert manifest["std"] == [0.229, 0.224, 0.225]
    assert (manifest["size"], manifest["resize"], manifest["interpolation"]) == (
        224,
        256,
        "bilinear",
    )
    assert manifest["versions"]["jax"] == jax.__version__
    assert manifest["versions"]["torch"] == "9.9"
    assert {"gcpatch", "flax", "orbax-checkpoint"} < manifest["versions"].keys()
    statistics = sum(v.size for k, v in arrays(network).items() if k.endswith((".mean", ".var")))
    assert manifest["parameters"] == sum(v.size for v in arrays(network).values()) - statistics


# --- Digest ---------------------------------------------------------------------------------------


def test_digest_is_what_it_says(network):
    known = {
        "network": NAME,
        "options": {},
        "target_layer": "layer4",
        "categories": list(scenes.CATEGORIES),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "size": 224,
        "resize": 256,
        "interpolation": "bilinear",
    }
    text = f"{json.dumps(known, sort_keys=True)}\n{digest_of_arrays(network)}".encode()
    assert checkpoints.digest(network) == hashlib.sha256(text).hexdigest()


def digest_of_arrays(network):
    """What the digest was in format 1."""
    text = b"".join(
        f"{key} float32 {value.shape}\n".encode() + value.tobytes()
        for key, value in sorted(arrays(network).items())
    )
    return hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"target_layer": "layer3"},
        {"categories": tuple("abcdefghij")},
        *(
            {"preprocessing": Preprocessing(**one)}
            for one in (
                {"mean": (0.5, 0.5, 0.5)},
                {"std": (0.5, 0.5, 0.5)},
                {"size": 192},
                {"resize": 232},
                {"interpolation": "bicubic"},
            )
        ),
    ],
    ids=str,
)
def test_digest_covers_what_makes_a_network(network, change):
    other = fill(create(NAME), parameters(network))
    assert checkpoints.digest(other) == checkpoints.digest(network)
    for key, value in change.items():
        setattr(other, key, value)
    assert checkpoints.digest(other) != checkpoints.digest(network)
    other = fill(create(NAME), parameters(network))
    other.name = "alias"
    assert checkpoints.digest(other) == checkpoints.digest(network)


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.zeros((2, 3), np.float32), "c": np.ones(2, np.float32)},
        {"a": np.zeros((3, 2), np.float32), "b": np.ones(2, np.float32)},
        {"a": np.zeros((2, 3), np.int32), "b": np.ones(2, np.float32)},
        {"a": np.zeros((2, 3), np.float32), "b": np.float32([1, np.nextafter(1, 2, dtype="f4")])},
        {"a": np.float32([[0, 0, 0], [0, 0, -0.0]]), "b": np.ones(2, np.float32)},
        {"a": np.zeros((2, 3), np.float32)},
    ],
)
def test_digest_sees_every_difference(other):
    values = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
    assert manifests.digest(values) == manifests.digest(dict(reversed(values.items())))
    assert manifests.digest(values) != manifests.digest(other)


def test_digest_goes_by_values_and_not_by_memory_order():
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert manifests.digest({"a": value}) == manifests.digest({"a": np.asfortranarray(value)})
    assert manifests.digest({"a": np.float32(1)}) != manifests.digest({"a": np.ones(1, np.float32)})


def test_digest_of_a_network_without_weights_is_an_error():
    with pytest.raises(TypeError):
        checkpoints.digest(create(NAME))


# --- Reading what is not whole --------------------------------------------------------------------


def test_not_a_folder(tmp_path):
    refused("not a checkpoint's folder; `gcpatch convert", tmp_path / "nowhere")
    (tmp_path / "weights.pth").touch()
    refused("not a checkpoint's folder; `gcpatch convert", tmp_path / "weights.pth")


def test_no_manifest(folder):
    (folder / "manifest.json").unlink()
    refused(r"not a checkpoint: it has no manifest\.json", folder)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'{"format": 1,'])
def test_broken_manifest(folder, text):
    (folder / "manifest.json").write_bytes(text)
    refused("cannot be read", folder)


@pytest.mark.parametrize("text", ["[]", "3", "{}", "null"])
def test_foreign_manifest(folder, text):
    (folder / "manifest.json").write_text(text)
    refused("is broken: it has no 'format'", folder)


@pytest.mark.parametrize("field", manifests.FIELDS)
@pytest.mark.parametrize("value", [None, ...], ids=["null", "absent"])
def test_incomplete_manifest(folder, field, value):
    edit(folder, **{field: value})
    refused(f"is broken: it has no '{field}'", folder)


def test_newer_format(folder):
    edit(folder, format=3, digest=...)
    refused("has format 3, this gcpatch reads up to 2: install a newer one", folder)


def test_the_first_format_is_still_read(folder, network):
    new = dict.fromkeys(("name", "options", "size", "resize", "interpolation"), ...)
    edit(folder, format=1, digest=digest_of_arrays(network), **new)
    assert_same(checkpoints.read(folder), network)
    edit(folder, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    assert checkpoints.read(folder).preprocessing == Preprocessing((0.5,) * 3, (0.5,) * 3)
    edit(folder, digest="0")
    refused("is damaged", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5, 0.5]}, "does not fit"),
        ({"std": [0.5, 0.0, 0.5]}, "std is .* over 0"),
        ({"size": 300}, "size is 300 and resize 256"),
        ({"size": 0}, "size is 0"),
        ({"interpolation": "nearest"}, "no interpolation 'nearest'"),
        ({"mean": ["x", 1, 2]}, "does not fit"),
        ({"options": {"hidden": [3]}}, "no option 'hidden'"),
        ({"options": {"more": 3}}, "does not fit"),
        ({"size": 192}, "settings are not those of its digest"),
        ({"categories": list("abcdefghij")}, "settings are not those of its digest"),
        ({"target_layer": "layer3"}, "settings are not those of its digest"),
    ],
    ids=str,
)
def test_altered_settings(folder, change, message):
    edit(folder, **change)
    refused(message, folder)


def test_another_network(folder):
    refused(f"holds {NAME} and not mini_vgg", folder, "mini_vgg")


def test_another_network_under_a_false_name(folder):
    edit(folder, network="mini_wide_resnet")
    refused("does not fit.*layer1.0.conv2.kernel has shape", folder, "mini_wide_resnet")
    edit(folder, network="mini_vgg_bn", target_layer="features.2")
    refused("does not fit.*missing classifier.0.bias", folder, "mini_vgg_bn")


def test_unknown_network_and_layer(folder):
    edit(folder, network="vgg99")
    refused("does not fit.*no network 'vgg99'", folder)
    edit(folder, network=NAME, target_layer="layer9")
    refused("does not fit.*no layer 'layer9'", folder)


def test_other_number_of_categories(folder):
    edit(folder, categories=["a", "b"])
    refused(r"does not fit.*fc.bias has shape \(10,\) instead of \(2,\)", folder)


def test_missing_extra_and_misshapen_parameters(folder, network):
    values = arrays(network)
    values["fc.more"] = values.pop("fc.bias")
    values["conv1.kernel"] = values["conv1.kernel"][:3]
    rewrite(folder, values)
    refused(
        r"missing fc.bias \(10,\); extra fc.more \(10,\); conv1.kernel has shape \(3, 7", folder
    )


def test_one_altered_value(folder, network):
    values = arrays(network)
    values["fc.bias"] = np.nextafter(values["fc.bias"], np.float32(9))
    rewrite(folder, values)
    refused("is damaged: its parameters or settings are not those of its digest", folder)


def test_other_type(folder, network):
    rewrite(folder, {key: value.astype(np.float64) for key, value in arrays(network).items()})
    refused("is damaged: its parameters or settings are not those of its digest", folder)


def test_no_parameters(folder):
    shutil.rmtree(folder / "parameters")
    refused(
        "is damaged .*missing, extra or altered.*run `gcpatch convert mini_resnext` again", folder
    )
    edit(folder, files={})
    refused("parameters is damaged or incomplete", folder)  # what Orbax says


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_to_any_file_is_found_and_named(folder, damage, capfd):
    files = [path for path in folder.glob("parameters/**/*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        if damage == "gone":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[:middle] if content else b"x")
        else:
            changed = bytes(byte ^ 1 for byte in content[middle : middle + 1])
            path.write_bytes(content[:middle] + changed + content[middle + 1 :] or b"x")
        refused(
            rf"is damaged \({path.relative_to(folder / 'parameters')} missing, extra or", folder
        )
        path.write_bytes(content)
    checkpoints.read(folder)
    assert capfd.readouterr().err == ""


def test_an_extra_file_is_found_and_named(folder):
    (folder / "parameters" / "more").touch()
    refused(r"is damaged \(more missing, extra or altered\)", folder)


def test_reading_changes_nothing(folder):
    before = manifests.hash_files(folder)
    checkpoints.read(folder)
    assert manifests.hash_files(folder) == before


# --- Writing --------------------------------------------------------------------------------------


def test_overwrites_a_checkpoint(folder):
    other = random("mini_vgg", 2)
    checkpoints.save(other, folder, "here")
    assert_same(checkpoints.read(folder), other)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_empty_folder_and_a_link_to_one_are_fine(network, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    checkpoints.save(network, tmp_path / "link", "here")
    assert_same(checkpoints.read(tmp_path / "real"), network)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("file", ["notes.txt", ".hidden", "manifest.json", "parameters/x"])
def test_spares_what_is_not_its_own(network, tmp_path, file):
    path = tmp_path / "mine" / file
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(CheckpointError, match="mine is in use and no checkpoint: choose another"):
        checkpoints.save(network, tmp_path / "mine", "here")
    assert path.read_text() == "precious"


def test_spares_files_beside_a_checkpoint_and_foreign_manifests(network, folder):
    (folder / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="in use"):
        checkpoints.save(network, folder, "here")
    (folder / "notes.txt").unlink()
    (folder / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(CheckpointError, match="is broken"):
        checkpoints.save(network, folder, "here")


def test_refuses_a_file(network, tmp_path):
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match=r"in use|cannot be written"):
            checkpoints.save(network, path, "here")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("place", ["orbax", "manifest", "rename"])
def test_a_failed_save_leaves_the_old_checkpoint(network, folder, monkeypatch, failure, place):
    def fail(self, *_):
        raise failure

    replace = os.replace
    with monkeypatch.context() as patch:
        if place == "orbax":
            patch.setattr(ocp.StandardCheckpointer, "wait_until_finished", fail)
        elif place == "manifest":
            patch.setattr(checkpoints.json, "dumps", fail)
        else:
            calls = []
            patch.setattr(
                os,
                "replace",
                lambda path, to: (
                    calls.append(path),
                    fail(path) if len(calls) == 2 else replace(path, to),
                ),
            )
        with pytest.raises((CheckpointError, KeyboardInterrupt)) as caught:
            checkpoints.save(random("mini_vgg"), folder, "here")
    if isinstance(failure, OSError):
        assert str(caught.value) == f"{folder} cannot be written: disk full"
    assert_same(checkpoints.read(folder), network)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# --- load -----------------------------------------------------------------------------------------


def test_load_random():
    assert_same(checkpoints.load(NAME, "random", seed=3), random(NAME, 3))


def test_load_a_folder(folder, network):
    assert_same(checkpoints.load(NAME, folder), network)
    assert_same(checkpoints.load(NAME, str(folder)), network)
    with pytest.raises(CheckpointError, match=f"holds {NAME} and not mini_vgg"):
        checkpoints.load("mini_vgg", folder)


def test_load_a_converted_network(network, home):
    checkpoints.save(network, home / NAME, "here")
    assert_same(checkpoints.load(NAME), network)


def test_load_prefers_the_converted_and_never_hides_that_it_is_broken(network, home):
    checkpoints.save(network, home / NAME, "here")
    (home / NAME / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        checkpoints.load(NAME)


def test_load_an_alias_and_a_folder_in_the_place_of_a_name(network, home, tmp_path, monkeypatch):
    named = fill(create(NAME), parameters(network))
    named.name = "mine"
    checkpoints.save(named, home / "mine", "here")
    checkpoints.save(named, tmp_path / "folder", "here")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "folder", "./folder", str(tmp_path / "folder")):
        assert_same(checkpoints.load(name), named)
    assert checkpoints.load("mine").architecture == NAME
    for name in (NAME, "mine"):
        assert_same(checkpoints.load(name, "folder"), named)
    with pytest.raises(CheckpointError, match="holds mine and not mini_vgg"):
        checkpoints.load("mini_vgg", "folder")
    with pytest.raises(CheckpointError, match="is not a checkpoint's folder"):
        checkpoints.load("./nowhere")
    with pytest.raises(UserError, match=r"no network 'yours'; choose one of .*, mine, or a check"):
        checkpoints.load("yours")


def test_a_folder_of_the_users_does_not_hide_an_alias(network, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (NAME, "photos"):
        (tmp_path / folder).mkdir()
    assert checkpoints.digest(checkpoints.load(NAME)) == checkpoints.bundled()[NAME]["digest"]
    with pytest.raises(UserError, match="no network 'photos'"):
        checkpoints.load("photos")


def test_load_what_is_not_there():
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load("vgg19_bn")
    assert str(caught.value) == (
        "vgg19_bn is not converted yet: run `gcpatch convert vgg19_bn` (downloads torchvision's "
        "weights) or `gcpatch convert vgg19_bn --weights FILE.pth`; `--weights random` works "
        "without weights"
    )


def test_load_an_unknown_name():
    with pytest.raises(UserError, match=r"no network 'vgg'; choose one of vgg11, .*mini_resnext"):
        checkpoints.load("vgg")


def test_load_needs_no_torch(folder, network):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from gcpatch.networks import checkpoints\n"
        "print(checkpoints.digest(checkpoints.load(sys.argv[1], sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, NAME, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == checkpoints.digest(network), done.stderr


# --- The weights in the package -------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "package" / "weights").mkdir(parents=True)
    monkeypatch.setattr(checkpoints.importlib.resources, "files", lambda name: tmp_path / "package")
    return tmp_path / "package" / "weights"


def halves(network):
    return {key: value.astype(np.float16) for key, value in arrays(network).items()}


def test_load_from_the_package(package, network, home):
    np.savez(package / f"{NAME}.npz", **halves(network))
    rounded = {key: value.astype(np.float32) for key, value in halves(network).items()}
    expected = fill(create(NAME), rounded)
    assert_same(checkpoints.load(NAME), expected)
    assert set(checkpoints.bundled()) == {NAME}
    assert checkpoints.bundled()[NAME]["source"] == "scenes"
    assert checkpoints.bundled()[NAME]["digest"] == checkpoints.digest(expected)
    checkpoints.save(network, home / NAME, "here")
    assert_same(checkpoints.load(NAME), network)


@pytest.mark.parametrize("name", MINIS)
def test_the_package_has_weights_for_every_mini(name):
    values = arrays(checkpoints.load(name))
    assert {str(value.dtype) for value in values.values()} == {"float32"}
    assert all(np.isfinite(value).all() for value in values.values())
    assert all(value.min() > 0 for key, value in values.items() if key.endswith(".var"))


def test_load_from_an_empty_package(package):
    with pytest.raises(CheckpointError, match=f"{NAME} is not converted yet"):
        checkpoints.load(NAME)


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "pickle", "missing", "shape"])
def test_load_from_a_damaged_package(package, network, damage):
    path, values = package / f"{NAME}.npz", halves(network)
    if damage == "pickle":
        values["fc.bias"] = np.array([{}] * 10, object)
    if damage == "missing":
        del values["fc.bias"]
    if damage == "shape":
        values["fc.bias"] = values["fc.bias"][:3]
    np.savez(path, **values)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "flip":
        where = content.index(values["fc.kernel"].tobytes())
        path.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    with pytest.raises(CheckpointError, match=re.escape(f"{path} is damaged")) as caught:
        checkpoints.load(NAME)
    assert "\n" not in str(caught.value)


# --- home, installed ------------------------------------------------------------------------------


def test_home(monkeypatch):
    assert checkpoints.home() == Path(os.environ["GCPATCH_HOME"])
    monkeypatch.setenv("GCPATCH_HOME", "~/weights")
    assert checkpoints.home() == Path.home() / "weights"
    monkeypatch.delenv("GCPATCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert checkpoints.home() == Path("/cache/gcpatch")
    for unset in ("", None):
        monkeypatch.delenv("XDG_CACHE_HOME")
        if unset is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert checkpoints.home() == Path.home() / ".cache" / "gcpatch"
        monkeypatch.setenv("XDG_CACHE_HOME", "")


def test_installed(network, home):
    assert checkpoints.installed() == {}
    manifest = checkpoints.save(network, home / NAME, "here")
    checkpoints.save(network, home / "mini_vgg", "misplaced")
    (home / "mini_vgg_bn").mkdir()
    (home / "else").mkdir()
    assert checkpoints.installed() == {NAME: manifest}
    assert set(checkpoints.installed()) <= set(NAMES)
