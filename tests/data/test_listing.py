"""gcpatch.listing: ids that an image has by itself, and notes on what is left out."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from packing import find, pack, write

from gcpatch.data.listing import LeftOut, image_id, native, real_folder


@pytest.mark.parametrize(
    ("identity", "readable"),
    [
        ("/a/photo0.png", "photo0"),
        ("/a/n01.cat.jpg", "n01.cat"),
        ("/a/x y\n[z].png", "x_y_z"),
        ("/a/été.png", "ete"),
        ("/a/漢字.png", ""),
        ("/a/....png", ""),
        ("/a/-rf.png", "rf"),
        ("/a/" + "n" * 250 + ".png", "n" * 80),
        ("/a/x.tar/b/1.jpg", "1"),
        ("/a/no-suffix", "no-suffix"),
        ("/a/\ud800.png", "png"),
        (os.fsdecode(b"/a/\xff\xfe-b.png"), "b"),
    ],
)
def test_an_id_is_the_name_made_readable_and_a_digest_of_the_place(identity, readable):
    found = image_id(identity)
    assert re.fullmatch(rf"{re.escape(readable)}-?[0-9a-f]{{12}}", found)
    assert image_id("/b" + identity[2:]).startswith(f"{readable}-" if readable else "")
    assert image_id("/b" + identity[2:]) != found


def test_ids_differ_where_places_do_though_case_is_ignored_and_are_folders(tmp_path):
    generator = np.random.default_rng(0)
    letters = list("aAbé-._ 漢/\n1𠀀")
    places = {"".join(generator.choice(letters, generator.integers(1, 9))) for _ in range(3000)}
    places |= {f"/{name}.{suffix}" for name in ("a", "A", "ä") for suffix in ("png", "PNG", "jpg")}
    places |= {"/e\u0301.png", "/\u00e9.png", "/x/a-1.png", "/x-a/1.png", "/x/a/1.png"}
    ids = {image_id(place).casefold() for place in places}
    assert len(ids) == len(places)
    for name in ids:
        (tmp_path / name).mkdir()
        assert name.isascii() and name[0] not in ".-" and len(name) <= 93


LISTS = {  # what a list gains, which leaves the ids of the others alone
    "a file of another suffix": ["photos/1.jpg"],
    "a file of another case": ["photos/A.png"],
    "a name in a sub-folder": ["photos/a/1.png"],
    "names that end in numbers": ["photos/1-2.png", "photos/photos-1.png"],
    "a hundred": [f"photos/{n}/1.png" for n in range(100)],
}


@pytest.mark.parametrize("added", LISTS.values(), ids=LISTS)
def test_an_id_does_not_depend_on_what_else_is_there(tmp_path, monkeypatch, added):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/1.png", "photos/a.png", "photos/deep/a.png"):
        write(name)
    before = {item.source: item.id for item in find("photos")}
    for name in added:
        write(name)
    after = {item.source: item.id for item in find("photos")}
    assert len(before) == 3 and len(set(after.values())) == len(after) == 3 + len(added)
    assert before.items() < after.items()


def test_an_id_does_not_depend_on_the_other_sources_or_on_how_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "b/1.png", "b/deep/1.png"):
        write(name)
    pack("x.tar", {"1.png": b"", "a/1.png": b""})
    pack("y.tar", {"1.png": b""})
    write("list.csv", "path\na/1.png\nx.tar/a/1.png\n")
    alone = [{item.id for item in find(source)} for source in ("a", "b", "x.tar", "y.tar")]
    assert sum(map(len, alone)) == len(set.union(*alone)) == 6
    every = find("y.tar", "b", "x.tar", "b/deep", "a", "list.csv", "a/*")
    assert {item.id for item in every} == set.union(*alone) and len(every) == 6
    os.symlink(tmp_path / "a", "elsewhere")
    spelled = ["a", "./a/", "b/../a", str(tmp_path / "a"), "a/1.png", "a/*.png", "elsewhere"]
    assert all({item.id for item in find(source)} == alone[0] for source in spelled)
    monkeypatch.chdir("b")
    assert {item.id for item in find("../a")} == alone[0]
    assert {item.id for item in find("../list.csv")} < alone[0] | alone[2]


SCRIPT = """
import json, sys
from gcpatch.data.sources import find
found = find(sys.argv[1:], 8, "stretch").items
read = [item.read().sha256 for item in found]
print(json.dumps([[item.id for item in found], read]))
"""


def test_ids_and_files_are_the_same_in_every_locale(tmp_path):
    from gcpatch.data import images

    folder = tmp_path / "été"
    folder.mkdir()
    for n, name in enumerate(["é.png", "z.png", "漢.png"]):
        images.write_png(folder / name, np.full((4, 4, 3), n, np.uint8))
    content = (folder / "é.png").read_bytes()
    pack(tmp_path / "x.tar", {"ü.png": content, "é/漢.png": content})
    write(tmp_path / "list.csv", "path\nété/漢.png\nx.tar/ü.png\n")
    sources = [str(tmp_path / name) for name in ("list.csv", "x.tar", "été")]
    outputs = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, *sources],
            env=os.environ | locale,
            capture_output=True,
            check=True,
        ).stdout
        for locale in (
            {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        )
    }
    (output,) = outputs
    ids, read = json.loads(output)
    assert len(set(ids)) == 5 and len(set(read)) == 3


def test_paths_that_no_file_can_have():
    assert native("\ud800") == "\ud800" and native("é") == os.fsdecode("é".encode())
    assert real_folder("a\0b").endswith("a\0b")
    assert real_folder("").startswith("/")


def test_notes():
    left = LeftOut()
    assert list(left.notes()) == []
    for n, (name, kind) in enumerate(
        [
            ("a.HEIC", None),
            ("b.heic", None),
            ("c", None),
            ("d", "link"),
            ("e", "link"),
            ("f", "pipe"),
        ]
    ):
        left.file(f"{n}/{name}", kind)
    left.folders["x"] += 1
    assert list(left.notes()) == [
        "skipped 6 files: 2 .heic, 2 links, 1 pipe, 1 without suffix",
        "left out 1 folder of gcpatch's own: 'x'",
    ]
