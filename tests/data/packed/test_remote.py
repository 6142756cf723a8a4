"""gcpatch.data.packed.remote: images at addresses, here in fsspec's own memory."""

import sys

import cv2
import numpy as np
import pytest
from packing import find, notes, refusal

from gcpatch.data.images import ImageError

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket():
    """Two labelled images and a text in memory."""
    system = fsspec.filesystem("memory")
    for level, name in enumerate(("cat/a.png", "dog/b.PNG", "dog/notes.txt", "dog/.hidden.png")):
        picture = cv2.imencode(".png", np.full((8, 8, 3), level, np.uint8))[1].tobytes()
        system.pipe(f"/photos/{name}", picture)
    yield system
    system.rm("/photos", recursive=True)


def test_a_folder_is_searched_and_its_folders_are_labels(bucket):
    cat, dog = find("memory://photos/")
    assert cat.source == "memory:///photos/cat/a.png"
    assert [item.hint.name for item in (cat, dog)] == ["cat", "dog"]
    assert dog.read().pixels.max() == 1 and dog.digest() == dog.read().sha256
    assert notes("memory://photos/") == ["skipped 1 file: 1 .txt"]


@pytest.mark.parametrize("source", ["memory://photos/cat/a.png", "memory://photos/*/*.png"])
def test_a_file_and_a_glob(bucket, source):
    (item,) = find(source)
    assert item.id == find("memory://photos")[0].id and item.hint is None


def test_what_vanishes_costs_itself_alone(bucket):
    (item,) = find("memory://photos/cat")
    bucket.rm("/photos/cat/a.png")
    with pytest.raises(ImageError, match="cannot be read"):
        item.read()


def test_what_cannot_be_listed(bucket, monkeypatch):
    assert "has no image" in refusal("memory://nowhere/")
    assert "cannot be listed (" in refusal("nonsense://photos/")
    assert "is read from disks alone" in refusal("memory://photos/val.tar")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert "pip install 'gcpatch[remote]'" in refusal("memory://photos/")
