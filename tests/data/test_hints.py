"""gcpatch.hints: labels from folders and sidecars."""

import pytest
from packing import find, pack, write

from gcpatch.data.hints import labelled

NAMES = ("tabby", "tiger cat", "Afghan hound", "acorn", "n01440764", "n02123045")


def found(*sources):
    items, notes = labelled(find(*sources), NAMES)
    return {item.source: item.label for item in items}, notes


@pytest.mark.parametrize(
    "folders",
    [
        ("tabby", "Tiger_Cat"),
        ("0", "3"),
        ("n01440764", "n02123045"),
        ("0", "acorn"),
        ("acorn", "acorn/x"),
    ],
)
def test_the_folders_of_imagefolder_are_labels(tmp_path, monkeypatch, folders):
    monkeypatch.chdir(tmp_path)
    for folder in folders:
        write(f"val/{folder}/1.jpg")
    write("val/top.jpg"), write("val/readme.txt")
    labels, notes = found("val")
    assert labels == {"val/top.jpg": None} | {
        f"val/{folder}/1.jpg": folder.partition("/")[0] for folder in folders
    }
    count = len({folder.partition("/")[0] for folder in folders})
    assert notes == [f"val: labels from {count} classes of folders or sidecars"]
    assert found("val/*/*.jpg")[0].items() <= labels.items()


@pytest.mark.parametrize("other", ["holiday", "6", "3.5", "n00000001", "deep/tabby"])
def test_one_folder_that_is_no_class_and_none_is(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    for source in ("a", "b"):
        write(f"{source}/tabby/1.jpg")
    write(f"a/{other}/2.jpg")
    labels, notes = found("a", "b")
    assert labels == {"a/tabby/1.jpg": None, f"a/{other}/2.jpg": None, "b/tabby/1.jpg": "tabby"}
    assert len(notes) == 2 and notes[0].startswith(
        "a: no labels from folders or sidecars: there is"
    )


def test_sidecars_are_labels_of_their_archive_and_manifests_go_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack("x.tar", {"1.jpg": b"", "1.cls": b"3", "2.jpg": b"", "2.json": b'{"label": "acorn"}'})
    pack("y.tar", {"1.jpg": b"", "1.cls": b"3", "2.jpg": b"", "2.cls": b"77", "3.jpg": b""})
    labels, notes = found("x.tar", "y.tar")
    assert labels == {"x.tar:1.jpg": "3", "x.tar:2.jpg": "acorn"} | {
        f"y.tar:{n}.jpg": None for n in (1, 2, 3)
    }
    no = "y.tar: no labels from folders or sidecars: there is no class 77; the IDs are 0 to 5"
    assert notes == ["x.tar: labels from 2 classes of folders or sidecars", no]
    write("list.csv", "path,label\ny.tar/2.jpg,tabby\ny.tar/1.jpg,\n")
    assert found("list.csv")[0] == {"y.tar:2.jpg": "tabby", "y.tar:1.jpg": "3"}


def test_nothing_to_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert found(write("a/1.jpg"), "a") == ({"a/1.jpg": None}, [])
