"""Many images explained, in batches, as records and pictures in a run's folder."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gcpatch.data import images, labels
from gcpatch.data.prefetch import prefetch
from gcpatch.data.sources import Item, Picture
from gcpatch.evaluation.faithfulness import faithfulness
from gcpatch.explainers.batches import Explained, explain_batch
from gcpatch.networks import Network
from gcpatch.networks.checkpoints import digest
from gcpatch.report import figures
from gcpatch.report.explained.panel import panel
from gcpatch.runs.campaign import blamed, surroundings
from gcpatch.runs.journal import Journal
from gcpatch.runs.progress import Progress
from gcpatch.runs.resuming import THREADS, compared

TOP = "top"  # the rule for a label: the image's top class


def describe(network: Network, settings: dict[str, Any], *, command: str) -> dict[str, Any]:
    """What the folder's `run.json` holds.

    Args:
        network: that is explained.
        settings: which a run that is taken up again must share: `methods` and all else.
        command: what a shell would have to run again.
    """
    known = {"model": network.name, "weights_digest": {network.name: digest(network)}}
    return surroundings(known | settings, command)


def run(
    journal: Journal,
    network: Network,
    items: Iterable[Item],
    *,
    methods: tuple[str, ...],
    label: str | None = None,
    faithful: bool = False,
    colormap: str = figures.JET,
    batch: int = 8,
    watch: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Explains the items that the journal lacks and writes their maps and records.

    An image that cannot be done costs only itself: its record says why. One whose content or own
    label is no longer that of its record is explained again.

    Args:
        journal: the run's folder.
        network: the network to explain.
        items: the images.
        methods: keys of `registry.METHODS`.
        label: the class to explain, by name or number, or `top`; None for an image's own label
            and, where it has none, its top class.
        faithful: whether to measure how faithful each map is.
        colormap: of the maps in pictures.
        batch: how many images are explained at a time.
        watch: is told what happens, and may ask for an end.

    Yields:
        The new records, in the order of the items.

    Raises:
        OSError: the run's folder cannot be written; what is recorded is whole.
    """
    watch = watch or Progress()
    items = compared(journal, items, watch, done="explained")
    fresh = (item for item in items if item.id not in journal.done)
    explaining = _Explaining(journal, network, methods, label, faithful, colormap, watch)
    writing: deque[Future[dict[str, Any]]] = deque()
    with (
        ThreadPoolExecutor(THREADS, "write") as pool,
        closing(prefetch(explaining.read, fresh, THREADS)) as looks,
    ):
        while not watch.stopped and (part := list(islice(looks, batch))):
            before, writing = writing, deque()
            for item, what in explaining.explained(part, batch):
                writing.append(pool.submit(explaining.write, item, what))
            yield from _recorded(journal, before, watch)
        yield from _recorded(journal, writing, watch)


def _recorded(
    journal: Journal, writing: Iterable[Future[dict[str, Any]]], watch: Progress
) -> Iterator[dict[str, Any]]:
    """Appends the records whose files are written, in their order."""
    for future in writing:
        record = future.result()
        journal.append(record)
        watch.record(record)
        yield record


class _Ready:
    """An image that can be explained."""

    def __init__(self, picture: Picture, label: int | None):
        self.picture, self.label = picture, label
        self.found: Explained | None = None  # of this one image
        self.measured: dict[str, dict[str, float | bool]] = {}


class _Explaining:
    """What every image of a run has in common."""

    def __init__(self, journal, network, methods, label, faithful, colormap, watch):
        self.journal, self.network, self.methods = journal, network, methods
        self.label, self.faithful, self.colormap, self.watch = label, faithful, colormap, watch
        self.told, self.most = False, 0

    def read(self, item: Item) -> _Ready:
        """The picture and the class to explain, None for the top one."""
        given = item.label if self.label is None else self.label
        if not given or self.label == TOP:
            return _Ready(item.read(), None)
        try:
            label = labels.find(given, self.network.categories)
        except labels.LabelError as error:
            raise labels.LabelError(f"{error}; --label top explains the top class") from None
        return _Ready(item.read(), label)

    def explained(
        self, looks: Sequence[tuple[Item, Future[_Ready]]], batch: int
    ) -> Iterator[tuple[Item, _Ready | Exception]]:
        """Each item with what was found of it, or why there is nothing."""
        ready: list[_Ready] = []
        found: list[tuple[Item, _Ready | Exception]] = []
        for item, future in looks:
            try:
                ready.append(future.result())
                found.append((item, ready[-1]))
            except Exception as error:  # whatever is wrong with this one image
                found.append((item, error))
                continue
            if ready[-1].picture.several and not self.told:
                self.watch.note(item.of_several())
                self.told = True
        if ready:
            self._explain(ready, batch)
        yield from found

    def _explain(self, ready: list[_Ready], batch: int) -> None:
        """Explains a batch, in smaller parts where the memory runs out."""
        self.most = min(self.most or batch, batch)
        for start in range(0, len(ready), self.most):
            part = ready[start : start + self.most]
            try:
                self._explain_part(part, self.most)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or self.most == 1:
                    raise
                self.most = self.most // 2
                self.watch.note(f"out of memory: going on with --batch {self.most}")
                return self._explain(ready[start:], batch)
        return None

    def _explain_part(self, part: list[_Ready], size: int) -> None:
        pixels = np.stack([one.picture.pixels for one in part]).astype(np.float32) / 255
        given = [one.label for one in part]
        found = explain_batch(self.network, pixels, given, self.methods, size=size)
        for n, one in enumerate(part):
            maps = {method: found.maps[method][n] for method in self.methods}
            one.found = Explained(found.logits[n], found.labels[n], maps)
            one.measured = {method: {"empty": not heat.any()} for method, heat in maps.items()}
        for method in self.methods if self.faithful else ():
            columns = faithfulness(self.network, pixels, found.labels, found.maps[method])
            for n, one in enumerate(part):
                values = {key: float(column[n]) for key, column in columns._asdict().items()}
                one.measured[method] |= values

    def write(self, item: Item, what: _Ready | Exception) -> dict[str, Any]:
        """An image's files; returns its record."""
        record: dict[str, Any] = {"id": item.id, "source": item.source, "model": self.network.name}
        record |= {"label": None, "probability": None, "top": None, "maps": None, "error": None}
        if isinstance(what, Exception):
            record |= blamed(item, what)
        else:
            try:
                record |= self.journal.store(item.id, lambda folder: self._draw(folder, what))
            except (OSError, images.ImageError) as error:
                raise OSError(f"{self.journal.folder}: cannot be written ({error})") from None
            except Exception as error:  # whatever is wrong with this one image
                record |= blamed(item, error)
        if item.target or item.label:
            record["asked"] = {"target": item.target or None, "label": item.label or None}
        return record

    def _draw(self, folder: Path, what: _Ready) -> dict[str, Any]:
        assert what.found is not None
        logits, label, maps = what.found
        odds = np.asarray(jax.nn.softmax(logits))
        names, top = self.network.categories, int(odds.argmax())
        pixels = what.picture.pixels
        images.write_png(folder / "image.png", pixels)
        overlays = {}
        for method, heat in maps.items():
            (folder / method).mkdir()
            values = figures.upsample(heat, len(pixels))
            overlays[method] = figures.overlay(pixels, values, self.colormap)
            images.write_png(
                folder / method / "heatmap.png", figures.coloured(values, self.colormap)
            )
            images.write_png(folder / method / "overlay.png", overlays[method])
            np.save(folder / method / "heat.npy", heat)
        record = {
            "sha256": what.picture.sha256,
            "label": {"id": int(label), "name": names[label]},
            "probability": float(odds[label]),
            "top": {"id": top, "name": names[top], "probability": float(odds[top])},
            "maps": what.measured,
        }
        images.write_png(folder / "panel.png", panel(pixels, overlays, record))
        return record
