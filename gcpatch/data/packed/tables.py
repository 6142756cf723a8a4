"""Images in the rows of Parquet files and of Hugging Face `datasets` folders; needs pyarrow."""

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from threading import Lock
from typing import Any

from gcpatch.data.images import SUFFIXES, ImageError
from gcpatch.data.listing import Entry, Hint

KINDS = (".parquet", ".arrow")
ROWS = 16  # read together
KEPT = 4  # of these
LABELS = ("label", "labels")


def files(folder: str) -> list[str]:
    """The tables below a folder, sorted, if it holds some and no image file; else nothing."""
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        if any(name.lower().endswith(SUFFIXES) for name in names):
            return []
        found += [
            os.path.join(root, name)
            for name in names
            if name.lower().endswith(KINDS) and not name.startswith((".", "cache-"))
        ]
    return sorted(found)


def entries(source: str, origin: str, real: Callable[[str], str]) -> Iterator[Entry]:
    """The images of a table, one a row; reads no image, and its labels alone.

    Images lie in the column that `datasets` says is one, or `image`: bytes, or `{bytes, path}`;
    classes in `label`, by the names that `datasets` keeps, or as they are.

    Args:
        source: a `.parquet` or `.arrow` file.
        origin: the source whose labels count together.
        real: the absolute path of a folder without links.

    Raises:
        ImageError: pyarrow is missing, or this is no whole table with an image column.
    """
    table = _Table(source)
    where = os.path.join(real(os.path.dirname(source)), os.path.basename(source))
    for row, label in enumerate(table.labels()):
        yield Entry(
            f"{where}/row-{row}",
            f"{source}:{row}",
            source,
            read=partial(table.read, row),
            hint=None if label is None else Hint(origin, label),
        )


class _Table:
    """A file whose rows are read in order, or anew from the row that is asked for."""

    def __init__(self, source: str):
        self.source, self.lock = source, Lock()
        self.kept: OrderedDict[int, list[Any]] = OrderedDict()
        self.next = 0
        self.batches: Iterator[list[Any]] = iter(())
        try:
            import pyarrow
            from pyarrow import dataset

            self.errors = (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError)
        except ImportError:
            raise ImageError(
                f"{source!r} needs pyarrow; pip install 'gcpatch[parquet]' brings it."
            ) from None
        try:
            if source.lower().endswith(".parquet"):
                self.data = dataset.dataset(source, format="parquet")
                schema = self.data.schema
            else:
                with pyarrow.memory_map(source) as file:
                    self.data = pyarrow.ipc.open_stream(file).read_all()  # stays on the disk
                schema = self.data.schema
            features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            self.features = features.get("info", {}).get("features", {})
        except (*self.errors, AttributeError, RecursionError) as error:
            raise ImageError(
                f"{source!r} is no whole table ({_short(error)}); fetch or write it again."
            ) from None
        said = [n for n, f in self.features.items() if _kind(f) == "Image" and n in schema.names]
        self.image = next(iter(said), "image")
        if self.image not in schema.names:
            raise ImageError(
                f"{source!r} has no column image among {', '.join(schema.names)}; name one so."
            )
        self.label = next((name for name in LABELS if name in schema.names), None)

    def labels(self) -> Iterator[str | None]:
        """Each row's class, if it has one."""
        try:
            if self.label is None:
                count = getattr(self.data, "num_rows", None)
                yield from [None] * (self.data.count_rows() if count is None else count)
                return
            feature = self.features.get(self.label)
            names = feature.get("names") if _kind(feature) == "ClassLabel" else None
            for batch in self._batches(self.label, 2**14):
                for value in batch:
                    yield _name(value, names)
        except self.errors as error:
            raise ImageError(
                f"{self.source!r} cannot be read ({_short(error)}); fetch or write it again."
            ) from None

    def read(self, row: int) -> bytes:
        """The bytes of a row's image; raises ImageError where it has none."""
        name = f"{self.source}:{row}"
        try:
            with self.lock:
                value = self._batch(row // ROWS)[row % ROWS].as_py()
        except (*self.errors, IndexError) as error:
            raise ImageError(
                f"{name!r} cannot be read ({_short(error)}); mend the table."
            ) from None
        found = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(found, bytes):
            raise ImageError(f"{name!r} has no bytes of an image; embed them in the table.")
        return found

    def _batch(self, number: int) -> list[Any]:
        if number not in self.kept and number < self.next:
            self.next = 0
        if self.next == 0:
            self.batches = self._batches(self.image, ROWS)
        while number not in self.kept:
            self.kept[self.next] = next(self.batches, [])
            self.next += 1
            if len(self.kept) > KEPT:
                self.kept.popitem(last=False)
            if not self.kept[self.next - 1]:
                raise IndexError("the table is shorter than it was")
        return self.kept[number]

    def _batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        """A column's values, so many together whatever the file's own batches are."""
        if hasattr(self.data, "to_batches") and not hasattr(self.data, "count_rows"):
            found = self.data.select([column]).to_batches(max_chunksize=rows)
        else:
            found = self.data.to_batches(
                columns=[column], batch_size=rows, batch_readahead=1, fragment_readahead=1
            )
        values = (value for batch in found for value in batch.column(0))
        while some := list(islice(values, rows)):
            yield some


def _kind(feature: Any) -> Any:
    return feature.get("_type") if isinstance(feature, dict) else None


def _name(value: Any, names: Any) -> str | None:
    plain = value.as_py()
    if plain is None or plain == -1:
        return None
    if isinstance(names, list) and isinstance(plain, int) and 0 <= plain < len(names):
        return str(names[plain])
    return str(plain).strip() or None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
