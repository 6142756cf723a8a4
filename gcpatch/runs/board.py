"""What TensorBoard shows of a run: its pace, and of each image the losses, verdicts and panel."""

from collections import Counter
from pathlib import Path
from typing import Any

from gcpatch.data.images import ImageError, read_png
from gcpatch.errors import UserError

VERDICTS = ("fooled_class", "fooled_explanation", "fooled_both")
MOST_PANELS = 32  # of a run


class Board:
    """Writes events, by the number of images that are done.

    Args:
        folder: for the events.
        done: images that an earlier run has done.
        pictures: the run's `images`, of whose panels the first are shown.

    Raises:
        UserError: tensorboardX, which writes them, is missing.
    """

    def __init__(self, folder: Path, done: int = 0, pictures: Path | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "--tensorboard needs tensorboardX: pip install 'gcpatch[tensorboard]'"
            ) from None
        self.writer = SummaryWriter(str(folder))
        self.images, self.pictures, self.panels = done, pictures, 0
        self.judged, self.fooled = Counter[str](), Counter[str]()

    def pace(self, values: dict[str, float]) -> None:
        """Scalars of the run as a whole."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, self.images)

    def record(self, record: dict[str, Any]) -> None:
        """An image is done: its losses, the rates since this process began, and its panel."""
        self.images += 1
        if record["error"] or record.get("skipped"):
            return
        for name, value in (record.get("loss") or {}).items():
            self.writer.add_scalar(f"loss/{name}", value, self.images)
        for name in VERDICTS:
            if record.get(name) is not None:
                self.judged[name] += 1
                self.fooled[name] += record[name]
                rate = self.fooled[name] / self.judged[name]
                self.writer.add_scalar(f"rate/{name}", rate, self.images)
        if self.pictures is not None and self.panels < MOST_PANELS:
            self._panel(record["id"], self.pictures / record["id"] / "panel.png")

    def _panel(self, name: str, path: Path) -> None:
        try:
            panel = read_png(path)
        except ImageError:  # a run that writes no panels
            return
        self.writer.add_image(name, panel, self.images, dataformats="HWC")
        self.panels += 1

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()
