"""gcpatch.data.packed.tables: images in the rows of Parquet files and of `datasets` folders."""

import json
import sys

import cv2
import numpy as np
import pytest
from packing import find, refusal, write

from gcpatch.data.images import ImageError

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet

CLASSES = ["cat", "dog"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}


def png(level):
    return cv2.imencode(".png", np.full((8, 8, 3), level, np.uint8))[1].tobytes()


def table(count=40, described=True):
    rows = [{"bytes": png(n), "path": f"{n}.png"} for n in range(count)]
    made = pyarrow.table({"image": rows, "label": [n % 3 - 1 for n in range(count)]})
    about = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return made.replace_schema_metadata(about) if described else made


def save(folder, made):
    """As `datasets.save_to_disk` does."""
    write(str(folder / "dataset_info.json"), "{}")
    write(str(folder / "state.json"), "{}")
    with pyarrow.ipc.new_stream(str(folder / "data-0.arrow"), made.schema) as stream:
        stream.write_table(made, max_chunksize=7)


@pytest.mark.parametrize("kind", ["file", "parquet folder", "datasets folder"])
def test_rows_are_images_with_labels(tmp_path, kind):
    source = tmp_path / "train"
    source.mkdir()
    if kind == "datasets folder":
        save(source, table())
    else:
        parquet.write_table(table(), source / "0.parquet", row_group_size=11)
    items = find(source / "0.parquet" if kind == "file" else source)
    assert len(items) == len({item.id for item in items}) == 40
    assert [item.hint and item.hint.name for item in items[:3]] == [None, "cat", "dog"]
    for n in (0, 39, 1, 20, 21, 5):  # forwards, and back to what is not kept any more
        assert (items[n].read().pixels == n).all()


def test_plain_columns_and_rows_without_bytes(tmp_path):
    made = pyarrow.table({"image": [png(3), None], "label": ["tabby", None]})
    parquet.write_table(made, tmp_path / "x.parquet")
    first, second = find(tmp_path / "x.parquet")
    assert first.hint.name == "tabby" and second.hint is None and (first.read().pixels == 3).all()
    with pytest.raises(ImageError, match="has no bytes of an image; embed"):
        second.read()


def test_tables_that_are_none(tmp_path, monkeypatch):
    path = str(tmp_path / "x.parquet")
    parquet.write_table(table(3), path)
    whole = (tmp_path / "x.parquet").read_bytes()
    for content in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2]):
        assert "is no whole table (" in refusal(write(path, content))
    assert "is no whole table (" in refusal(write(str(tmp_path / "x.arrow"), b"no"))
    parquet.write_table(pyarrow.table({"a": [1]}), path)
    assert "has no column image among a; name one so" in refusal(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow; pip install 'gcpatch[parquet]'" in refusal(path)
