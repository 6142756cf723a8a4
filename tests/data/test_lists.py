"""gcpatch.lists: manifests of images, and what bad ones say."""

import json
import os

import numpy as np
import pytest
from packing import find, names, pack, plain, refusal, write

from gcpatch.data import images, labels
from gcpatch.data.images import ImageError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with four pictures, which is also the working folder's `photos`."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), np.uint8)
    for name, picture in zip(("b", "a", "deep/c", "deep/a"), pixels, strict=True):
        os.makedirs("photos/deep", exist_ok=True)
        images.write_png(f"photos/{name}.png", picture)
    return tmp_path / "photos"


def test_a_csv_keeps_its_order_and_gives_classes(data):
    lines = [
        "\ufeffPath, target,note,LABEL ",
        'b.png, "owl, great",x,',
        "",
        '"deep/c.png", random,, 5',
    ]
    owl, fifth = find(write("photos/list.csv", "\r\n".join(lines)))
    assert (plain(owl.id), owl.source) == ("b", "photos/b.png")
    assert owl[3:6] == ("owl, great", None, "photos/list.csv, line 2")
    assert (plain(fifth.id), fifth.source) == ("c", "photos/deep/c.png")
    assert fifth[3:6] == ("random", "5", "photos/list.csv, line 4")
    np.testing.assert_array_equal(fifth.read().pixels, images.read_image("photos/deep/c.png", 16))
    assert fifth.blame(ValueError("no")) == "photos/list.csv, line 4: no"


def test_a_jsonl_is_read_likewise(data):
    rows = [{"path": str(data / "b.png"), "label": 5, "x": [1]}, {"path": "é \n.png", "target": ""}]
    lines = [json.dumps(rows[0]), "", json.dumps(rows[1], ensure_ascii=False)]
    first, second = find(write("photos/list.JSONL", "\n".join(lines)))
    assert (plain(first.id), first.source) == ("b", str(data / "b.png"))
    assert first[3:6] == (None, "5", "photos/list.JSONL, line 1")
    assert (plain(second.id), second.source) == ("e", "photos/é \n.png")
    assert second[3:6] == (None, None, "photos/list.JSONL, line 3")
    with pytest.raises(ImageError, match="No such file"):
        second.read()


def test_a_path_leads_from_the_manifests_folder_wherever_that_is(data, monkeypatch):
    os.mkdir("lists")
    write("lists/list.csv", "path\n../photos/a.png\n")
    assert names("lists/list.csv") == ["lists/../photos/a.png"]
    monkeypatch.chdir("lists")
    assert names("list.csv") == ["../photos/a.png"]
    assert find("list.csv")[0].read().pixels.shape == (16, 16, 3)


def test_an_image_that_is_named_twice_is_taken_once(data):
    write("photos/one.csv", "path,target\nb.png,5\n./deep/../b.png, 5\n")
    write("photos/two.jsonl", json.dumps({"path": "b.png", "target": 5}))
    items = find("photos", "photos/two.jsonl", "photos/b.png", "photos/one.csv")
    assert [item.source for item in items[1:]] == names("photos/a.png", "photos/deep")
    assert (items[0].source, items[0].target) == ("photos/b.png", "5")
    write("photos/one.csv", "path,target\nb.png,5\nb.png,6\n")
    line = refusal("photos/one.csv")
    for word in ("photos/one.csv, line 3: ", "'photos/b.png'", "photos/one.csv, line 2"):
        assert word in line
    write("photos/one.csv", "path\nb.png\n")
    assert "photos/one.csv, line 2: " in refusal("photos/two.jsonl", "photos/one.csv")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "", ["'x.csv' names no image"]),
        ("x.csv", "path,target\n\n", ["'x.csv' names no image"]),
        ("x.csv", "file,target\na,b\n", ["x.csv, line 1: ", "no column path", "file, target"]),
        ("x.csv", "\n\na.png\n", ["x.csv, line 3: ", "no column path", "a.png"]),
        ("x.csv", "path,target\na,b\na\n", ["x.csv, line 3: ", "1 fields", "header of 2"]),
        ("x.csv", "path,target\na,b,c\n", ["x.csv, line 2: ", "3 fields", "header of 2"]),
        ("x.csv", 'path\na\n"b\nc\nd\n', ["x.csv, line 3: ", "unexpected end"]),
        ("x.csv", 'path\n"a"b\n', ["x.csv, line 2: ", "no CSV"]),
        ("x.csv", "path\n" + "a" * 200_000, ["x.csv, line 2: ", "field limit"]),
        ("x.csv", "path\ra\r", ["x.csv, line 1: ", "no CSV"]),
        ("x.csv", "path,label\n,5\n", ["x.csv, line 2: path is ''"]),
        ("x.csv", b"path\na\nb\xe9\n", ["x.csv, line 3: ", "not UTF-8"]),
        ("x.csv", "path\na\n".encode("utf-16"), ["x.csv, line 1: ", "not UTF-8"]),
        ("x.jsonl", "\n \n", ["'x.jsonl' names no image"]),
        ("x.jsonl", '{"path": "a"}\n{"path": "b"\n', ["x.jsonl, line 2: ", "no JSON object"]),
        ("x.jsonl", '["a"]\n', ["x.jsonl, line 1: ", "no JSON object"]),
        ("x.jsonl", "[" * 200_000, ["x.jsonl, line 1: ", "no JSON object"]),
        ("x.jsonl", '{"file": "a"}\n', ["x.jsonl, line 1: path is None"]),
        ("x.jsonl", '{"path": 5}\n', ["x.jsonl, line 1: path is 5"]),
        ("x.jsonl", '{"path": "a", "label": ["x"]}\n', ["line 1: label is ['x']"]),
        ("x.jsonl", '{"path": "a", "target": true}\n', ["line 1: target is True"]),
    ],
)
def test_a_bad_manifest_is_refused_with_its_name_and_line(data, name, text, words):
    line = refusal("photos", write(name, text))
    assert all(word in line for word in words)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.tar"])
def test_lists_that_are_missing_or_folders(data, name):
    assert f"'{name}' cannot be read (No such file" in refusal(name)
    assert "cannot be read" in refusal(f"\0{name}")
    os.mkfifo(f"pipe-{name}")
    assert "folder or a device" in refusal(f"pipe-{name}")
    (data / "deep").rename(name)
    assert f"'{name}' is a folder; write '{name}/'" in refusal(name)
    assert names(f"{name}/") == [f"{name}/a.png", f"{name}/c.png"]


# ---------------------------------------------------------------- as pandas writes


@pytest.mark.parametrize(
    ("cell", "number"), [("3.0", 3), ("3.", 3), (" 3 ", 3), ("3", 3), ("03", 3), ("0.0", 0)]
)
def test_numbers_as_pandas_writes_them(data, cell, number):
    (item,) = find(write("photos/list.csv", f"path,target,label\na.png,{cell},{cell}\n"))
    names = tuple("abcde")
    assert labels.find(item.label, names) == labels.find(item.target, names) == number


def test_floats_of_json_and_gaps(data):
    rows = [{"path": "a.png", "label": 3.0, "target": None}, {"path": "b.png", "label": 3.5}]
    whole, half = find(write("photos/list.jsonl", "\n".join(map(json.dumps, rows))))
    assert labels.find(whole.label, tuple("abcde")) == 3 and whole.target is None
    with pytest.raises(labels.LabelError, match=r"there is no class '3\.5'"):
        labels.find(half.label, tuple("abcde"))
    (first, second) = find(
        write("photos/pandas.csv", "path,target,label\na.png,3.0,2.0\nb.png,,\n")
    )
    assert (first.target, first.label) == ("3.0", "2.0")
    assert (second.target, second.label) == (None, None)


# ---------------------------------------------------------------- members of archives


@pytest.mark.parametrize("cell", ["s/x.tar/d/b.png", "s/x.tar:d/b.png", "./s/x.tar/./d/b.png"])
def test_a_manifest_names_members_of_archives(data, cell):
    os.mkdir("s")
    pack("s/x.tar", {"d/b.png": (data / "b.png").read_bytes(), "a.png": b"", "d/b.cls": b"9"})
    write("list.csv", f"path,target,label\n{cell},random,4\n")
    (item,) = find("list.csv")
    assert (item.source.removeprefix("./"), item.target, item.label) == (
        "s/x.tar:d/b.png",
        "random",
        "4",
    )
    assert item.listed == "list.csv, line 2" and item.hint.name == "9"
    np.testing.assert_array_equal(item.read().pixels, images.read_image("photos/b.png", 16))
    for sources in (("list.csv", "s/x.tar"), ("s/x.tar", "list.csv")):  # the manifest's classes
        several = {item.source.removeprefix("./"): item.label for item in find(*sources)}
        assert several == {"s/x.tar:d/b.png": "4", "s/x.tar:a.png": None}
    write("more.csv", f"path,label\n{cell},5\n")
    assert "another target or label than in list.csv, line 2" in refusal("list.csv", "more.csv")


def test_members_that_are_not_there_cost_only_themselves(data):
    pack("x.tar", {"a.png": b""})
    os.mkdir("folder.tar")
    pack("folder.tar/x.tar", {"c.png": (data / "a.png").read_bytes()})
    write("folder.tar/a.png", (data / "a.png").read_bytes())
    cells = ["x.tar/gone.png", "gone.tar/a.png", "folder.tar/a.png", "x.tar/../photos/a.png"]
    cells += ["folder.tar/x.tar/c.png"]
    gone, no_archive, folder, climbing, nested = find(
        write("list.csv", "\n".join(["path", *cells]))
    )
    for item in (gone, no_archive, climbing):
        with pytest.raises(ImageError, match="cannot be read"):
            item.read()
    assert folder.read().pixels.shape == nested.read().pixels.shape == (16, 16, 3)
    write("x.tar", b"no archive")
    assert "'x.tar' is no whole tar archive" in refusal("list.csv")


def test_paths_that_no_file_can_have_cost_only_themselves(data):
    cells = ["a\0b.png", "a\0b/c.png", "\ud800.png", "\ud800/x.png", "n" * 3000, "x.tar/\0", "a/.."]
    rows = [*({"path": cell} for cell in cells), {"path": "photos/a.png"}]
    items = find(write("list.jsonl", "\n".join(map(json.dumps, rows))))
    for item in items[:-1]:
        with pytest.raises(ImageError, match=r"cannot be read|is a folder"):
            item.read()
    assert items[-1].read().pixels.shape == (16, 16, 3)
