"""The verbs of patches: made, applied, and attacks that start from them."""

import json
import sys

import numpy as np
import pytest

import gcpatch
from gcpatch import cli
from gcpatch.attacks.settings import AttackError
from gcpatch.data import images
from gcpatch.runs import library

OWN = """
import gcpatch, jax.numpy as jnp, numpy as np

def network(seed=0):
    weights = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    return gcpatch.adapt(
        (lambda w, x: jnp.tanh(x @ w), lambda w, a: a.mean((-3, -2))), params=jnp.asarray(weights),
        categories=tuple("abcd"), mean=(0.5,) * 3, std=(0.5,) * 3, size=14, name=f"own{seed}",
    )

def other():
    return network(1)
"""
SMALL = ["--size", "5", "--steps", "3"]
MODEL = ["--model", "own:network"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    yield
    sys.modules.pop("own", None)


@pytest.fixture
def refuse(refuse, capsys):
    def run(*arguments):
        capsys.readouterr()  # of what went before
        return refuse(*arguments)

    return run


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def make(photos, out, *more):
    return run("universal", photos, *MODEL, *SMALL, "--batch", 2, "--out", out, *more)


def records(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


def settings(folder):
    return json.loads((folder / "run.json").read_text())["settings"]


def test_a_patch_a_target_and_going_on(photos, tmp_path, capsys, refuse):
    (photos / "broken.png").write_bytes(b"")
    assert make(photos, tmp_path / "some.npz", "--targets", "a,c") == 1  # for the broken file
    assert "broken" in capsys.readouterr().err
    (photos / "broken.png").unlink()
    assert make(photos, tmp_path / "two.npz", "--targets", "a,2") == 0
    assert "2 patches" in capsys.readouterr().out
    assert "go on with --resume" in refuse("universal", photos, *MODEL, "--out", "two.npz")
    held = gcpatch.Library.load("two.npz")
    assert [patch.target_name for patch in held.values()] == ["a", "c"]
    assert make(photos, tmp_path / "two.npz", "--targets", "all", "--resume", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["target"]["name"] for row in rows] == list("abcd")
    assert all(row["images"] in (1, 2) and 0 <= row["energy"] <= 1 for row in rows)
    assert make(photos, tmp_path / "all.npz", "--targets", "all") == 0
    once, again = (gcpatch.Library.load(name) for name in ("all.npz", "two.npz"))
    assert once.digest == again.digest
    assert once[0].origin.attack["steps"] == 3 and once[0].region == gcpatch.Patch(5)
    capsys.readouterr()
    line = refuse("universal", photos, *MODEL, "--size", 4, "--out", "two.npz", "--resume")
    assert "made otherwise: region was" in line


def test_every_kind_of_patch(photos, tmp_path, refuse):
    for name, more in {
        "views": ["--views", "--degrees", "5"],
        "ensemble": ["--model", "own:other"],
        "through": ["--through", "bits-4"],
        "frame": ["--frame", "2"],
        "linf": ["--linf", "8"],
    }.items():
        size = [] if name in ("frame", "linf") else ["--size", "5"]
        out = tmp_path / f"{name}.npz"
        command = ["universal", photos, *MODEL, *size, *more, "--steps", 2, "--batch", 2]
        assert run(*command, "--targets", "b", "--out", out) == 0
        patch = gcpatch.AdversarialPatch.load(out)
        assert patch.origin.region["kind"] == (name if name in ("frame", "linf") else "patch")
        assert len(patch.origin.networks) == (2 if name == "ensemble" else 1)
        assert (patch.origin.more["views"] or {}).get("degrees") == (5 if name == "views" else None)
        assert patch.origin.more["through"] == ("bits-4" if name == "through" else None)
    assert "no defence 'fog'" in refuse(
        "universal", photos, *MODEL, *SMALL, "--through", "fog", "--out", "x.npz"
    )
    assert "no class 'z'" in refuse(
        "universal", photos, *MODEL, *SMALL, "--targets", "a,z", "--out", "x.npz"
    )
    assert "scale" in refuse("universal", photos, *MODEL, "--scale", "2,1", "--out", "x.npz")


def test_pictures_of_a_patch(photos, tmp_path, capsys, refuse):
    make(photos, tmp_path / "two.npz", "--targets", "a,c", "--ratio", "0.5")
    line = refuse("apply", "two.npz", photos, "--out", tmp_path / "worn")
    assert "holds the patches of a, c; --target is none" in line
    (photos / "broken.png").write_bytes(b"")
    assert run("apply", "two.npz", photos, "--target", "c", "--out", tmp_path / "worn") == 1
    patch = gcpatch.Library.load("two.npz")[2]
    written = sorted((tmp_path / "worn").iterdir())
    assert len(written) == 2
    for path, photo in zip(written, sorted(photos.glob("photo*")), strict=True):
        clean = images.read_image(photo, 14)
        worn = images.read_png(path)
        np.testing.assert_array_equal(worn[5:], clean[5:])
        np.testing.assert_array_equal(worn, np.rint(patch.apply(np.float32(clean) / 255) * 255))
        assert (worn != clean).any()


def test_a_patch_before_a_network_is_a_run(photos, tmp_path, capsys, refuse):
    make(photos, tmp_path / "patch.npz", "--targets", "b", "--objective", "highlight")
    run("attack", photos, *MODEL, *SMALL, "--target", "b", "--out", tmp_path / "attacked")
    capsys.readouterr()
    out = tmp_path / "applied"
    assert run("apply", "patch.npz", photos, *MODEL, "--out", out) == 0
    assert "meets" not in capsys.readouterr().err
    assert "go on with --resume" in refuse("apply", "patch.npz", photos, *MODEL, "--out", out)
    assert run("apply", "patch.npz", photos, *MODEL, "--out", out, "--resume") == 0
    attacked, applied = records(tmp_path / "attacked"), records(out)
    assert attacked.keys() == applied.keys() and len(applied) == 2
    patch = gcpatch.AdversarialPatch.load("patch.npz")
    for name, record in applied.items():
        assert record.keys() == attacked[name].keys()
        if record["skipped"]:
            continue
        assert (record["steps"], record["objective"]) == (0, "highlight")
        assert record["target"]["name"] == "b"
        files = {path.name for path in (out / "images" / name).iterdir()}
        assert files == {path.name for path in (tmp_path / "attacked/images" / name).iterdir()}
        worn = images.read_png(out / "images" / name / "adversarial.png")
        clean = images.read_image(photos / f"{name.rpartition('-')[0]}.png", 14)
        np.testing.assert_array_equal(worn, np.rint(patch.apply(np.float32(clean) / 255) * 255))
    assert (out / "report.html").is_file() and (out / "summary.json").is_file()
    assert settings(out)["applied"] == gcpatch.Library([patch]).digest
    assert settings(out)["attack"]["steps"] == 3
    assert run("apply", "patch.npz", photos, "--model", "own:other", "--out", tmp_path / "b") == 0
    assert "the patches were made for own0" in capsys.readouterr().err
    assert settings(tmp_path / "b")["made_for"] == patch.origin.networks
    line = refuse("apply", "patch.npz", photos, "--model", "mini_resnext", "--out", tmp_path / "c")
    assert "class 1, 'b', which is no class of mini_resnext" in line


def attack(photos, out, *more):
    return run("attack", photos, *MODEL, *SMALL, "--out", out, *more)


def test_untargeted_attacks(photos, tmp_path, capsys, refuse):
    """Transferred, compared, applied, and what they refuse."""
    away, wanted = ["--target", "untargeted"], {"mode": "untargeted"}
    for out in ("away", "again"):
        assert attack(photos, tmp_path / out, *away, "--steps", 60) == 0
    found = records(tmp_path / "away")
    assert any(record["fooled_class"] for record in found.values())
    capsys.readouterr()
    assert run("transfer", "away", "--models", "own:network", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    for mean, key in (("fooled_class", "fooled_class"), ("energy", "energy_adversarial")):
        expected = np.mean([record[key] for record in found.values()])
        assert row[mean]["value"] == pytest.approx(expected, rel=1e-4)
    assert run("compare", "away", "again", "--json") == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["images"] == len(found) == 2

    network = sys.modules["own"].network()
    image = np.float32(images.read_image(photos / "photo0.png", 14)) / 255
    how = gcpatch.Attack(objective="classify", steps=60)
    (made,) = gcpatch.attack(network, image[None], None, gcpatch.Patch(5), how)
    made.patch.save("patch.npz")
    assert run("apply", "patch.npz", photos, *MODEL, "--out", "applied") == 0
    for record in records(tmp_path / "applied").values():
        assert record["target"] == {k: record["adversarial"][k] for k in ("id", "name")} | wanted
        assert record["fooled_class"] == (record["png"]["id"] != record["clean"]["id"])

    new = ["attack", photos, *MODEL, *away, "--out", "new"]
    assert "swap needs a target" in refuse(*new, "--objective", "swap")
    for init in ("auto", "patch.npz"):
        assert "a library has a patch for each target" in refuse(*new, "--init", init)
    line = refuse(
        "universal", photos, *MODEL, *SMALL, "--targets", "untargeted", "--out", "new.npz"
    )
    assert "a patch for many images needs a target" in line
    with pytest.raises(AttackError, match="many images needs"):
        gcpatch.universal([network], image[None], None, gcpatch.Patch(5), how)
    assert not list(tmp_path.glob("new*"))


def test_attacks_start_from_a_library(photos, tmp_path, capsys, refuse):
    make(photos, tmp_path / "all.npz", "--targets", "all")
    warm = ["--init", "all.npz", "--batch"]
    assert attack(photos, tmp_path / "warm", *warm, 2) == 0
    assert attack(photos, tmp_path / "cold") == 0
    for i in (1, 2):
        assert attack(photos, tmp_path / f"part-{i}", *warm, 1, "--shard", f"{i}/2") == 0
    held = gcpatch.Library.load("all.npz")
    assert settings(tmp_path / "warm")["library"] == held.digest
    assert "library" not in settings(tmp_path / "cold")
    started = records(tmp_path / "warm")
    assert started == records(tmp_path / "part-1") | records(tmp_path / "part-2")
    network = sys.modules["own"].network()
    for name, record in started.items():
        assert record["start"] == "library"
        worn = held[record["target"]["id"]].apply(
            np.float32(images.read_image(photos / f"{name.rpartition('-')[0]}.png", 14)) / 255
        )
        logits = np.asarray(network(worn), np.float64)
        entropy = np.log(np.exp(logits).sum()) - logits[record["target"]["id"]]
        with np.load(tmp_path / "warm/images" / name / "history.npz") as history:
            assert history["cross_entropy"][0] == pytest.approx(entropy, rel=1e-3)
    capsys.readouterr()
    assert (
        run("attack", photos, *MODEL, *SMALL, "--out", tmp_path / "warm", *warm, 2, "--resume") == 0
    )
    make(photos, tmp_path / "other.npz", "--targets", "all", "--seed", "1")
    capsys.readouterr()
    again = ["attack", photos, *MODEL, *SMALL, "--out", tmp_path / "warm", "--resume"]
    assert "library was" in refuse(*again, "--init", "other.npz")
    assert "library was" in refuse(*again)


def test_libraries_that_do_not_do(photos, tmp_path, capsys, refuse):
    make(photos, tmp_path / "two.npz", "--targets", "a,c")
    capsys.readouterr()
    out = ["--out", tmp_path / "run", "--init", "two.npz"]
    line = refuse("attack", photos, *MODEL, *SMALL, *out, "--target", "b")
    assert "the library has no patch for 1 of the targets, such as b" in line
    assert "for 2 of the targets" in refuse("attack", photos, *MODEL, *SMALL, *out)  # random
    line = refuse("attack", photos, *MODEL, "--size", 4, *out, "--target", "a")
    assert "patch of 5x5 pixels, and the attack is of a patch of 4x4" in line
    assert "cannot read" in refuse("attack", photos, *MODEL, *SMALL, *out[:2], "--init", "gone.npz")
    assert not (tmp_path / "run").exists()
    (tmp_path / "list.csv").write_text(
        f"path,target\n{photos}/photo0.png,a\n{photos}/photo1.png,nobody\n"
    )
    listed = [
        "attack",
        "list.csv",
        *MODEL,
        *SMALL,
        *out,
        "--target",
        "c",
        "--objective",
        "classify",
    ]
    assert run(*listed) == 1
    assert "made for hide; this run is for classify" in capsys.readouterr().err
    assert [record["error"] is None for record in records(tmp_path / "run").values()].count(
        False
    ) == 1


def test_a_run_makes_its_own_library_where_that_pays(photos, tmp_path, capsys, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 20, 20, 3), np.uint8)
    for i, picture in enumerate(pixels):
        images.write_png(photos / f"more{i}.png", picture)
    monkeypatch.setattr(library, "PAYS", 5)
    monkeypatch.setattr(library, "STEPS", 4)
    auto = ["--init", "auto", "--batch", "2"]
    assert attack(photos, tmp_path / "rare", *auto) == 0  # 2 images a class
    assert "pay for 0 of 4 targets" in capsys.readouterr().err
    assert not any("start" in record for record in records(tmp_path / "rare").values())
    auto += ["--target", "c"]
    assert attack(photos, tmp_path / "whole", *auto) == 0
    assert "pay for 1 of 4 targets" in capsys.readouterr().err
    for i in (1, 2):
        assert attack(photos, tmp_path / f"part-{i}", *auto, "--shard", f"{i}/2") == 0
    whole = records(tmp_path / "whole")
    assert whole == records(tmp_path / "part-1") | records(tmp_path / "part-2")
    assert {record["start"] for record in whole.values() if not record["skipped"]} == {"library"}
    held = gcpatch.Library.load(tmp_path / "whole/library/library.npz")
    described = json.loads((tmp_path / "whole/run.json").read_text())
    assert (described["settings"]["library"], described["library"]) == ("auto", held.digest)
    assert list(held) == [2] and held.origin.attack["steps"] == 4
    before = (tmp_path / "whole/library/library.npz").stat().st_mtime_ns
    assert attack(photos, tmp_path / "whole", *auto, "--resume") == 0
    assert (tmp_path / "whole/library/library.npz").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "whole/run.json").read_text())["library"] == held.digest
