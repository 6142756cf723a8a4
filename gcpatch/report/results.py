"""A run's folder as Python sees it: `gcpatch.read_run`."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import UInt8

from gcpatch.attacks.step import Losses
from gcpatch.data.images import read_png
from gcpatch.errors import UserError
from gcpatch.report.cards import UNREADABLE
from gcpatch.report.export import table
from gcpatch.report.records import ReportError, gather, images_of
from gcpatch.report.summary import summarize
from gcpatch.report.table import status


class Pictures(Mapping[str, UInt8[np.ndarray, "height width 3"]]):
    """The PNGs of an image by name, such as `panel`, each read when it is asked for.

    Args:
        folder: of the image's files.
    """

    def __init__(self, folder: Path):
        found = sorted(folder.rglob("*.png"))
        self.paths = {str(path.relative_to(folder).with_suffix("")): path for path in found}

    def __getitem__(self, name: str) -> UInt8[np.ndarray, "height width 3"]:
        return read_png(self.paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"<pictures: {', '.join(self.paths) or 'none'}>"


class ImageResult:
    """One image of a run; its files are read when they are asked for.

    Attributes:
        record: its line in results.jsonl.
        folder: where its files are, if there are any.
    """

    def __init__(self, record: dict[str, Any], folder: Path):
        self.record, self.folder = record, folder

    @cached_property
    def pictures(self) -> Pictures:
        """Its pictures by name."""
        return Pictures(self.folder)

    @cached_property
    def history(self) -> Losses | None:
        """The losses at every step of its attack, `[steps]` each; None if it has none.

        Raises:
            ReportError: the file is damaged.
        """
        path = self.folder / "history.npz"
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return Losses(*(arrays[name] for name in Losses._fields))
        except UNREADABLE as error:
            raise ReportError(f"{path} cannot be read ({error})") from None

    def _repr_png_(self) -> bytes | None:
        path = self.pictures.paths.get("panel")
        return path.read_bytes() if path else None

    def __repr__(self) -> str:
        return f"<{self.record['id']}: {status(self.record)}>"


class _Column(Sequence[Any]):
    """One thing of every image of a run, read when it is asked for."""

    def __init__(self, run: "RunResults", name: str):
        self.run, self.name = run, name

    def __getitem__(self, index: Any) -> Any:
        found = self.run[index]
        if isinstance(found, list):
            return [getattr(one, self.name) for one in found]
        return getattr(found, self.name)

    def __len__(self) -> int:
        return len(self.run)


class RunResults(Sequence[ImageResult]):
    """The images of a run, in the order of its records; `read_run` makes it.

    Attributes:
        settings: what `run.json` holds.
        records: a dictionary for each image, as in results.jsonl.
        histories: of each image the losses at every step, None where it has none.
        pictures: of each image its pictures by name, such as `run.pictures[0]["panel"]`.
        summary: rates and means over the records, with their intervals.
    """

    def __init__(self, folders: Sequence[Path]):
        self.settings, self.records, homes = gather(folders)
        self.histories, self.pictures = _Column(self, "history"), _Column(self, "pictures")
        self.images = [
            ImageResult(record, images_of(home, record["id"]))
            for record, home in zip(self.records, homes, strict=True)
        ]

    @overload
    def __getitem__(self, index: int) -> ImageResult: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageResult]: ...
    def __getitem__(self, index):
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As in summary.json, of the records that there are."""
        return summarize(self.records)

    def to_pandas(self) -> Any:
        """The records as a `pandas.DataFrame`: a row an image, nested fields with dots.

        Raises:
            UserError: pandas is missing.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install 'gcpatch[pandas]'") from None
        names, rows = table(self.records)
        return pandas.DataFrame(list(rows), columns=names)

    def __repr__(self) -> str:
        counts = (f"{self.summary[name]} {name}" for name in ("images", "failed", "skipped"))
        return f"<run: {', '.join(counts)}>"


def read_run(folder: str | Path) -> RunResults:
    """The results of a run, or of the parts of one campaign, by index.

        run = gcpatch.read_run("runs/hide")
        run.records[0], run.histories[0].total, run.pictures[0]["panel"]
        frame = run.to_pandas()

    Args:
        folder: that `gcpatch attack` or `campaign.run` wrote, or one with such folders `part-*`.

    Raises:
        UserError: it is no such folder, or a line of its results is no record.
    """
    return RunResults([Path(folder)])
