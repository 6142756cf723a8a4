"""Networks of one's own on the command line, of JAX and of PyTorch, in every verb."""

import json
import sys

import pytest

from gcpatch import cli
from gcpatch.networks import checkpoints

torch = pytest.importorskip("torch")

JAX = """
import gcpatch, jax.numpy as jnp, numpy as np
SCALE = {scale}

def network():
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * SCALE
    return gcpatch.adapt(
        (lambda w, x: jnp.tanh(x @ w), lambda w, a: a.mean((-3, -2))), params=jnp.asarray(weights),
        categories=tuple("abcd"), mean=(0.5,) * 3, std=(0.5,) * 3, size=14, name="own",
    )
"""
TORCH = """
from torch import nn, manual_seed

def network(slope=0):
    manual_seed({seed})
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_jax.py").write_text(JAX.format(scale=1))
    (tmp_path / "own_torch.py").write_text(TORCH.format(seed=0))
    yield
    for name in ("own_jax", "own_torch"):
        sys.modules.pop(name, None)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def attack(photos, out, *more):
    size = ["--size", "6", "--steps", "2", "--target", "runner-up"]
    return run("attack", photos, *size, "--out", out, *more)


def test_a_network_of_jax_is_explained_attacked_and_taken_up_again(
    photos, tmp_path, capsys, refuse
):
    own = ["--model", "own_jax:network"]
    assert run("explain", photos, *own, "--out", tmp_path / "maps") == 0
    assert attack(photos, tmp_path / "run", *own) == 0
    assert attack(photos, tmp_path / "run", *own, "--resume") == 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["model"] == "own" and list(settings["weights_digest"]) == ["own"]
    assert run("transfer", tmp_path / "run", "--models", "own_jax:network") == 0
    capsys.readouterr()
    assert "own are not at hand" in refuse("verify", "--run", tmp_path / "run")
    import own_jax

    own_jax.SCALE = 2
    again = ["attack", photos, "--size", "6", "--steps", "2", "--target", "runner-up", *own]
    line = refuse(*again, "--out", tmp_path / "run", "--resume")
    assert "holds a run of other settings: weights_digest.own was" in line


def test_a_network_of_jax_is_verified_by_itself(tmp_path, capsys):
    assert run("verify", "own_jax:network", "--json", "--out", tmp_path / "c.json") == 0
    out, err = capsys.readouterr()
    assert "own: no PyTorch twin (it is a network of JAX): only what gcpatch can check" in err
    found, written = json.loads(out), json.loads((tmp_path / "c.json").read_text())
    assert found["passed"] and written["passed"]
    assert found["rows"] == written["networks"][0]["rows"]
    assert (tmp_path / "c.html").is_file()


def test_what_is_wrong_is_one_line(photos, tmp_path, refuse):
    explain = ["explain", photos, "--out", tmp_path / "maps", "--model"]
    assert "run `gcpatch convert own_torch:network`" in refuse(*explain, "own_torch:network")
    line = refuse(*explain, "own_jax:network", "--weights", "random")
    assert "--weights goes with a network's name; own_jax:network has its own" in line
    line = refuse("convert", "own_jax:network")
    assert "own_jax:network gives a network of JAX: --model own_jax:network takes it" in line
    line = refuse("convert", "torchvision:vgg16", "--weights", "random")
    assert "vgg16 is written out here: `gcpatch convert vgg16`" in line
    assert "is for networks; a run has" in refuse("verify", "--run", "x", "--out", "c.json")
    assert "a certificate is a file .json" in refuse("verify", "mini_vgg", "--out", "c.txt")


def test_a_network_of_pytorch_is_converted_attacked_and_verified(photos, tmp_path, capsys, refuse):
    small = ["--size", "14", "--resize", "14"]
    assert run("convert", "own_torch:network", *small, "--name", "pets") == 0
    assert attack(photos, tmp_path / "run", "--model", "pets") == 0
    capsys.readouterr()
    assert run("verify", "--run", tmp_path / "run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 2 and found["differing"] == [] and found["passed"]
    options = ["--images", photos, "--steps", "0", "--json"]
    assert run("verify", "pets", *options, "--out", "c.json") == 0
    network = json.loads((tmp_path / "c.json").read_text())["networks"][0]
    assert network["source"] == "own_torch:network" and network["architecture"] == "graph"
    assert (
        network["compared_with"] == "own_torch:network with the network's own weights, written back"
    )
    assert network["digest"] == checkpoints.digest(checkpoints.load("pets"))
    capsys.readouterr()
    assert run("convert", "pets", "--to-torch") == 0
    state = torch.load(tmp_path / "pets.pth", weights_only=True)
    import own_torch

    assert all(torch.equal(state[k], v) for k, v in own_torch.network().state_dict().items())
    (tmp_path / "own_torch.py").unlink()
    del sys.modules["own_torch"]
    assert run("verify", "pets", *options) == 0
    assert (
        "pets: no PyTorch twin (there is no network 'own_torch:network'" in capsys.readouterr().err
    )
    assert "PyTorch cannot judge a run of pets" in refuse("verify", "--run", tmp_path / "run")


def test_weights_of_a_file_for_an_imported_alias(photos, tmp_path, capsys):
    small = ["--size", "14", "--resize", "14"]
    assert run("convert", "own_torch:network", *small, "--name", "pets") == 0
    import own_torch

    module = own_torch.network()
    torch.nn.init.ones_(module[4].bias)
    torch.save({"model": module.state_dict()}, tmp_path / "tuned.pth")
    options = ["--images", photos, "--steps", "0", "--weights", "tuned.pth", "--out", "c.json"]
    assert run("verify", "pets", *options) == 0
    network = json.loads((tmp_path / "c.json").read_text())["networks"][0]
    assert network["network"] == "pets" and network["preprocessing"]["size"] == 14
    assert network["source"] == "own_torch:network tuned.pth"
    assert network["digest"] != checkpoints.digest(checkpoints.load("pets"))
