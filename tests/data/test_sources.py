"""gcpatch.inputs: what sources name together, in which order, and what a run makes of it."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from packing import find, pack, plain, refusal, write

from gcpatch import cli
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.slots import Result
from gcpatch.attacks.step import Losses
from gcpatch.data import images
from gcpatch.data import sources as sources_of
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal
from gcpatch.runs.options import Options

MINI = ["--model", "mini_resnext", "--weights", "random"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with four pictures, which is also the working folder's `photos`."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), np.uint8)
    for name, picture in zip(("b", "a", "deep/c", "deep/a"), pixels, strict=True):
        os.makedirs("photos/deep", exist_ok=True)
        images.write_png(f"photos/{name}.png", picture)
    return tmp_path / "photos"


# ---------------------------------------------------------------- files


def test_files_are_found_and_named_as_images_does(data):
    paths = [Path("photos", name) for name in ("a.png", "b.png", "deep/a.png", "deep/c.png")]
    items = find("photos", "photos/a.png", "photos/*.png")
    assert [item.source for item in items] == list(map(str, paths))
    assert [plain(item.id) for item in items] == ["a", "b", "a", "c"]
    for item, path in zip(items, paths, strict=True):
        picture = item.read()
        np.testing.assert_array_equal(picture.pixels, images.read_image(path, 16))
        assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (item.target, item.label, item.listed) == (None, None, "")


def test_a_file_is_read_once(data, monkeypatch):
    """The digest is of the bytes that were decoded, though the file may change at any time."""
    (item,) = find("photos/a.png")
    expected = item.read()
    read, calls = images.read_bytes, []

    def read_then_overwrite(path, *place):
        calls.append(path)
        content = read(path, *place)
        (data / "a.png").write_bytes(b"changed")
        return content

    monkeypatch.setattr(images, "read_bytes", read_then_overwrite)
    picture = item.read()
    assert picture.sha256 == expected.sha256 and calls == ["photos/a.png"]
    np.testing.assert_array_equal(picture.pixels, expected.pixels)


def test_listing_reads_no_image(data, monkeypatch):
    write("photos/list.csv", "path\na.png\ngone.png\n")
    monkeypatch.setattr(images, "decode", None)
    monkeypatch.setattr(images, "read_bytes", None)
    assert len(find("photos/list.csv", "photos", pack("x.tar", {"t.png": b"no"}))) == 6


def test_no_sources_and_sources_without_images(data):
    assert "No images were named" in refusal()
    assert "'nothing' matches no image" in refusal("photos", "nothing")


def test_all_kinds_are_mixed_under_stable_ids(data):
    picture = (data / "a.png").read_bytes()
    pack("x.tar", {"2/a.png": picture, "10-x/a.png": picture, "10/a.png": picture})
    write("photos/list.csv", "path\nnew.png\nb.png\n")
    given = ["photos", "x.tar", "photos/deep/*.png", "photos/list.csv"]
    items = find(*given)
    assert [item.source for item in items] == [
        "x.tar:10/a.png",
        "x.tar:10-x/a.png",
        "x.tar:2/a.png",
        "photos/new.png",
        "photos/b.png",
        "photos/a.png",
        "photos/deep/a.png",
        "photos/deep/c.png",
    ]
    assert len({item.id for item in items}) == 8
    assert items == find(*given)


# ---------------------------------------------------------------- many


def test_a_long_list_is_cheap(data, monkeypatch):
    """A kilobyte an image is enough, and no file is looked at."""
    looked: list[str] = []
    lstat = os.lstat
    find(write("list.csv", "path\nx.jpg\n"))
    lines = (f"{i % 100}/{i}.jpg,{i % 100}\n" for i in range(1000))
    write("list.csv", "path,label\n" + "".join(lines))
    monkeypatch.setattr(os, "lstat", lambda path: looked.append(path) or lstat(path))
    tracemalloc.start()
    items = find("list.csv")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not any(path.endswith(".jpg") for path in looked) and len(looked) < 110 * 6
    assert len(items) == 1000 and held < 1e6 and peak < 1.5e6


# ---------------------------------------------------------------- campaigns and the command line


def invert(network, problems, shape, *options):
    """In place of an attack: the negative, and the label as the loss."""
    for number, problem in enumerate(problems):
        picture = 1 - np.asarray(problem.image)
        losses = Losses(0.0, 0.0, float(problem.label))
        history = Losses(*np.zeros((3, 1), np.float32))
        yield number, Result(picture, picture[: shape[0], : shape[1]], 1, False, losses, history)


def test_a_campaign_follows_the_manifest(tiny, data, tmp_path, monkeypatch):
    lines = ["path,target,label", "a.png,runner-up,B", "b.png,,", "deep/c.png,lynx,a"]
    write("photos/list.csv", "\n".join([*lines, "gone.png,,", "deep/a.png,,owl"]))
    pack("x.tar", {"t.png": (data / "a.png").read_bytes(), "u.png": b"no"})
    monkeypatch.setattr(campaign, "stream", invert)
    attack, patch = Attack(), Patch(4)
    journal = Journal(tmp_path / "run", campaign.describe([tiny], patch, attack, {}))
    items = sources_of.find(["photos/list.csv", "x.tar"], 32, "stretch").items
    records = campaign.run(
        journal, tiny, items, patch, attack, options=Options(target="least-likely"), batch=2
    )
    found = {os.path.relpath(record["source"], "photos"): record for record in records}
    logits = np.asarray(tiny(np.float32(items[0].read().pixels) / 255))
    least, second, top = map(int, np.argsort(logits))
    assert (
        found["a.png"]["target"]["id"] == second
        and found["../x.tar:t.png"]["target"]["id"] == least
    )
    assert found["a.png"]["label"] == {"id": 1, "name": "b"}
    assert found["a.png"]["loss"]["explanation"] == 1
    assert found["a.png"]["clean"]["id"] == top != 1
    assert found["b.png"]["label"] is None and found["../x.tar:t.png"]["label"] is None
    assert found["../x.tar:t.png"]["loss"]["explanation"] == top
    assert found["../x.tar:t.png"]["sha256"] == found["a.png"]["sha256"]
    errors = {name: record["error"] for name, record in found.items() if record["error"]}
    assert set(errors) == {"deep/c.png", "gone.png", "deep/a.png", "../x.tar:u.png"}
    assert errors["deep/c.png"] == (
        "photos/list.csv, line 4: there is no class 'lynx'; the IDs are 0 to 2; "
        "or choose one of random, least-likely, runner-up, untargeted"
    )
    assert errors["gone.png"].startswith(
        "photos/list.csv, line 5: 'photos/gone.png' cannot be read"
    )
    unknown = "photos/list.csv, line 6: there is no class 'owl'; the IDs are 0 to 2"
    assert errors["deep/a.png"] == unknown
    assert errors["../x.tar:u.png"].startswith("'x.tar:u.png' is not an image")


def test_a_bad_source_is_one_line_and_exit_2(data, capsys):
    write("x.csv", "path\na,b\n")
    assert cli.main(["attack", "photos", "x.csv", *MINI, "--out", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gcpatch attack: x.csv, line 2: ") and not os.path.exists("run")


def test_explain_takes_the_same_sources(data, capsys):
    write("photos/list.csv", "path,label\nb.png,rings\ngone.png,\n")
    pack("x.tar", {"t.png": (data / "a.png").read_bytes()})
    command = ["explain", "x.tar", "photos/list.csv", *MINI, "--out", "maps", "--json"]
    assert cli.main(command) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [plain(row["id"]) for row in rows] == ["t", "b", "gone"]
    assert rows[2]["error"].startswith("photos/list.csv, line 3: ")
    for row in rows[:2]:
        assert os.path.exists(f"maps/images/{row['id']}/grad-cam/overlay.png")
