"""What a person, a log or TensorBoard sees of a campaign while it runs."""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from gcpatch.runs.board import Board

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS = 10.0  # between two looks of a log and of TensorBoard at the status
CALM_SECONDS = 60.0  # between two lines where there is neither a terminal nor a log
SCALARS = ("images_per_second", "image_steps_per_second", "memory_bytes", "failed", "fooled")


class Progress:
    """The protocol of those who watch a campaign: it calls these methods, from one thread.

    Each does nothing here; a class of your own has those it wants, and `campaign.run(...,
    watch=...)` takes it. A signal's number in `stopped` ends the run after the steps in hand.

    For Weights & Biases:

        class Wandb(Progress):
            def __init__(self, project):
                self.run = wandb.init(project=project)

            def record(self, record):
                if record["error"] is None:
                    self.run.log({name: record[name] for name in ("fooled_class", "steps")})

    For MLflow, where `self.done` counts the images:

            def record(self, record):
                self.done += 1
                mlflow.log_metric("fooled_class", float(bool(record["fooled_class"])), self.done)
    """

    stopped: int | None = None  # the signal that asked for an end; SIGALRM at the end of a budget

    def record(self, record: dict[str, Any]) -> None:
        """An image is done, or failed."""

    def again(self, count: int) -> None:
        """So many images that counted as done are attacked again."""

    def steps(self, count: int) -> None:
        """So many image-steps were taken."""

    def note(self, text: str) -> None:
        """Something out of the ordinary happened."""


class ConsoleProgress(Progress):
    """Counts, and shows a bar on a terminal, JSON lines in a log, and tells TensorBoard.

    Where standard error is no terminal, a line a minute and one at the end stand for the bar.

    Args:
        images: how many there are.
        done: how many of them an earlier run has done.
        log: whether to write JSON lines to standard error, instead of a bar.
        doing: what is done to the images.
        board: what writes for TensorBoard, if anything does.
    """

    def __init__(
        self,
        images: int,
        done: int = 0,
        *,
        log: bool = False,
        doing: str = "attacking",
        board: Board | None = None,
    ):
        from tqdm import tqdm

        self.finished, self.failed, self.taken, self.fooled = 0, 0, 0, 0
        self.skipped, self.doing = 0, doing
        self.log, self.start, self.said = log, time.monotonic(), 0.0
        self.bar = tqdm(
            total=images,
            initial=done,
            unit=" images",
            desc=doing,
            dynamic_ncols=True,
            disable=log or None,  # None: where there is no terminal
        )
        self.bar.set_postfix_str("reading images and compiling")
        self.calm = self.bar.disable and not log
        self.told = time.monotonic()
        self.images, self.left = images, images - done
        self.board = board

    def __enter__(self) -> "ConsoleProgress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        if self.calm:
            self._tell()
        self._say("end", **self.status())
        self._draw()
        if self.board:
            self.board.close()

    def record(self, record: dict[str, Any]) -> None:
        """Counts an image."""
        both = record.get("fooled_both")
        self.finished += 1
        self.failed += record["error"] is not None
        self.fooled += bool(record.get("fooled_class") if both is None else both)
        self.skipped += bool(record.get("skipped"))
        self._say("record", id=record["id"], error=record["error"])
        if record["error"]:
            self.note(f"{record['id']}: {record['error']}")
        if self.board:
            self.board.record(record)
        self.bar.update()

    def again(self, count: int) -> None:
        """Takes so many images off those that an earlier run has done."""
        self.left += count
        self.bar.n -= count
        self.bar.refresh()

    def steps(self, count: int) -> None:
        """Shows the pace; from time to time also in the log and in TensorBoard."""
        self.taken += count
        status = self.status()
        self.bar.set_postfix_str(self._pace(status))
        if self.calm and time.monotonic() - self.told >= CALM_SECONDS:
            self._tell()
        if time.monotonic() - self.said >= SECONDS:
            self.said = time.monotonic()
            self._say("status", **status)
            self._draw()

    def note(self, text: str) -> None:
        """Writes a line above the bar, or into the log."""
        if self.log:
            self._say("note", text=text)
        else:
            self.bar.write(text, file=sys.stderr)

    def status(self) -> dict[str, Any]:
        """Counts, rates, memory and the time that is left."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        rate = self.finished / seconds
        return {
            "done": self.finished - self.failed - self.skipped,
            "failed": self.failed,
            "skipped": self.skipped,
            "left": self.left - self.finished,
            "seconds": round(seconds, 3),
            "images_per_second": rate,
            "image_steps_per_second": self.taken / seconds,
            "memory_bytes": memory(),
            "seconds_left": (self.left - self.finished) / rate if rate else None,
        }

    @contextmanager
    def signals(self, until: float | None = None) -> Iterator[None]:
        """Meanwhile SIGINT and SIGTERM ask for an end (twice: at once), SIGUSR1 for the status.

        So does the clock `time.monotonic`, if it is to be asked, once it is `until`.
        """

        def stop(number, _):
            if self.stopped is not None:
                raise KeyboardInterrupt
            self.stopped = number
            self.note(f"{signal.Signals(number).name}: stopping after these steps; again: at once")

        def spent(number, _):
            if self.stopped is None:
                self.stopped = number
                self.note("the budget is spent: stopping after these steps; a signal: at once")

        def tell(*_):
            self.note(json.dumps(self.status()))

        handlers = dict.fromkeys(SIGNALS, stop) | {signal.SIGALRM: spent, signal.SIGUSR1: tell}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        if until is not None:
            signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pace(self, status: dict[str, Any]) -> str:
        steps = f"{status['image_steps_per_second']:.0f} image-steps/s"
        parts = [steps] if self.taken or self.doing == "attacking" else []
        parts += [f"{status['memory_bytes'] / 1e9:.1f} GB"]
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(parts)

    def _tell(self) -> None:
        """One line, for those who read what was written and see no bar."""
        status, self.told = self.status(), time.monotonic()
        done = f"{self.images - status['left']}/{self.images} images"
        line = f"{self.doing}: {done} in {status['seconds']:.0f} s, {self._pace(status)}"
        print(line, file=sys.stderr, flush=True)

    def _say(self, event: str, **values: Any) -> None:
        if self.log:
            line = {"time": time.time(), "event": event} | values
            print(json.dumps(line), file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self.board:
            status = self.status() | {"fooled": self.fooled / max(1, self.finished)}
            self.board.pace({name: status[name] for name in SCALARS})


def memory() -> int:
    """Bytes in use: the most of a device's, or on CPUs the process's."""
    used = [stats["bytes_in_use"] for d in jax.local_devices() if (stats := d.memory_stats())]
    if used:
        return max(used)
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
