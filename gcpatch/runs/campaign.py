"""Many images through one attack, and what became of each, as records in a run's folder."""

import datetime
import itertools
import platform
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcpatch.attacks import regions
from gcpatch.attacks.patches import AdversarialPatch, Library
from gcpatch.attacks.regions import Region
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.slots import InProgress, Result, Slots, corner_of, stream
from gcpatch.attacks.step import Losses, Problem, evaluate, init_state, make_problem
from gcpatch.data import images
from gcpatch.data.labels import UNTARGETED
from gcpatch.data.prefetch import prefetch
from gcpatch.data.sources import Item
from gcpatch.errors import UserError
from gcpatch.networks import Network
from gcpatch.networks.checkpoints import digest
from gcpatch.runs.deferred import Deferred
from gcpatch.runs.journal import Journal
from gcpatch.runs.options import PRECISIONS, Options
from gcpatch.runs.outcome import FIELDS, Clean, Skipped, draw, evaluate_result, look_at, seeds
from gcpatch.runs.progress import Progress
from gcpatch.runs.resuming import THREADS, compared, fingerprint_of
from gcpatch.runs.snapshots import Saved, Snapshots

LAG = 4 * THREADS  # images whose files may wait to be written
PACKAGES = ("gcpatch", "jax", "flax", "optax", "numpy", "opencv-python-headless", "pillow")


def describe(
    networks: list[Network],
    patch: Region | AdversarialPatch,
    attack: Attack,
    settings: dict[str, Any],
    *,
    command: str | None = None,
) -> dict[str, Any]:
    """What a run's `run.json` holds: the settings, which `--resume` compares, and where it runs.

    Args:
        networks: that are attacked.
        patch: where the perturbation lies, or the perturbation itself.
        attack: how it is optimised.
        settings: further ones.
        command: what a shell would have to run again, if there is such a command.
    """
    settings = settings | {
        "weights_digest": {network.name: digest(network) for network in networks},
        "objective": attack.objective.name,
        "patch": patch.origin.region
        if isinstance(patch, AdversarialPatch)
        else regions.describe(patch),
        "attack": attack.describe(),
    }
    return surroundings(settings, command)


def surroundings(settings: dict[str, Any], command: str | None) -> dict[str, Any]:
    """What `run.json` holds of any run; arguments as of `describe`."""
    device = jax.devices()[0]
    return {
        "settings": settings,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": f"{device.platform}: {device.device_kind}",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def run(
    journal: Journal,
    network: Network,
    items: Iterable[Item],
    patch: Region,
    attack: Attack,
    *,
    options: Options | None = None,
    batch: int = 8,
    devices: Sequence[jax.Device] | None = None,
    watch: Progress | None = None,
    write_artifacts: bool = True,
    library: Library | None = None,
) -> Iterator[dict[str, Any]]:
    """Attacks the items that the journal lacks and writes their files and records.

    Images are read ahead of the devices and written behind them, in threads. An item that cannot
    be done costs only itself: its record says why, as does that of one that is `skipped` because it
    is taken for its target as it is. Where a run is resumed, an item whose content, own target or
    own label is no longer that of its record is attacked again. What is under way is kept in
    snapshots, which the next run in the same folder takes up; the outcome is that of a run without
    a break.

    Args:
        journal: the run's folder.
        network: the network to fool.
        items: the images.
        patch: where the perturbation lies, and its ratio.
        attack: how to optimise it.
        options: target, seed, precision and snapshots; `Options()` if None.
        batch: how many images a device optimises at a time. Records do not depend on the number
            of devices; they depend on this, by rounding.
        devices: to share the images; JAX's default device if None.
        watch: is told what happens, and may ask for an end.
        write_artifacts: whether to draw maps, overlay, patch and panel; `adversarial.png`, on which
            the verdict is measured, is always written.
        library: patches from which the images start, each from its target's; those of other
            targets start as `attack.init` says. The records say which, as `start`.

    Yields:
        The new records, in the order in which the images are done.

    Raises:
        AttackError: the run is untargeted, and the objective or the library needs targets.
        OSError: the run's folder cannot be written; what is recorded is whole.
    """
    options, watch = options or Options(), watch or Progress()
    if options.target == UNTARGETED:
        attack.check_untargeted(library)
    campaign = _Campaign(journal, network, patch, attack, options, watch, write_artifacts, library)
    yield from campaign.run(items, batch, devices)


def judge(
    journal: Journal,
    network: Network,
    items: Iterable[Item],
    patch: AdversarialPatch,
    attack: Attack,
    *,
    watch: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Lays a patch over the items that the journal lacks; files and records are as of `run`.

    Args:
        journal, network, items, watch: as of `run`.
        patch: an untargeted patch, or one with a target, which `patch.check(network)` knows.
        attack: whose objective, layer and explainer judge. No step is taken: `steps` are 0, and the
            history is the patch's one evaluation.

    Yields, raises:
        As `run`.
    """
    target = UNTARGETED if patch.untargeted else str(patch.target)
    options, watch = Options(target=target), watch or Progress()
    campaign = _Judged(journal, network, patch, attack, options, watch, True)
    yield from campaign.run(items, 1, None)


class _Stop(Exception):  # noqa: N818
    """Somebody asked for an end."""


class _Campaign:
    """A run: images that are read, attacked and written at the same time."""

    def __init__(
        self, journal, network, patch, attack, options, watch, write_artifacts, library=None
    ):
        self.journal, self.network, self.attack = journal, network, attack
        self.options, self.watch, self.write_artifacts = options, watch, write_artifacts
        self.patch, self.place, self.library = patch, cache(patch.place), library
        self.name = attack.objective.name
        self.waiting: dict[int, Clean] = {}
        self.begun, self.told = 0, False  # images, each time one is; of files of several frames
        self.writing: deque[Future[dict[str, Any]]] = deque()
        self.snapshots = Snapshots(journal.folder / "snapshots")
        self.in_progress: dict[str, Saved] | None = None  # of a snapshot, until done
        self.deferred = Deferred(journal.folder / "deferred")
        self.last: list[Item] = []  # images that were deferred

    def run(self, items, batch, devices) -> Iterator[dict[str, Any]]:
        saved, every = time.monotonic(), self.options.checkpoint_every

        def on_chunk(slots: Slots) -> None:
            nonlocal saved
            if self.watch.stopped or time.monotonic() - saved >= every:
                self._save(slots)
                saved = time.monotonic()
            if self.watch.stopped:
                raise _Stop

        with (
            ThreadPoolExecutor(THREADS, "write") as pool,
            closing(self._problems(items, pool)) as problems,
            closing(self.snapshots),
        ):
            if (first := next(problems, None)) is not None:
                place = self.place(*self.waiting[0].picture.pixels.shape[:2])
                outcomes = self._outcomes(
                    itertools.chain([first], problems), place, batch, on_chunk, devices
                )
                with suppress(_Stop):
                    for number, finished in outcomes:
                        clean = self._left(number)
                        self.writing.append(pool.submit(self._write, clean, finished))
                        yield from self._written(LAG)
            yield from self._written(0)
        if not self.watch.stopped:
            self.snapshots.clear()
            self.deferred.clear()

    def _outcomes(self, problems, place, batch, on_chunk, devices):
        return stream(
            self.network,
            problems,
            place.shape,
            self.attack,
            batch,
            self.watch.steps,
            PRECISIONS[self.options.precision],
            corner_of(place),
            self._smaller,
            on_chunk,
            devices,
            self._defer,
        )

    def _problems(self, items, pool) -> Generator[Problem | InProgress, None, None]:
        """What is to be attacked: first what was never deferred, then what is by then."""
        items = compared(self.journal, items, self.watch, done="attacked")
        fresh = (item for item in items if item.id not in self.journal.done)
        yield from self._read_ahead((item for item in fresh if not self._is_last(item)), pool)
        while self.last:
            last, self.last = self.last, []
            yield from self._read_ahead(last, pool)

    def _is_last(self, item: Item) -> bool:
        """Whether an earlier run deferred an image, which is then kept for the end."""
        if found := item.id in self.deferred:
            self.last.append(item)
        return found

    def _read_ahead(self, items, pool) -> Generator[Problem | InProgress, None, None]:
        """The problems of items that threads read ahead."""
        with closing(prefetch(self._look, items, THREADS)) as looks:
            for item, future in looks:
                if self.watch.stopped:
                    return
                try:
                    clean = future.result()
                except Skipped as skip:
                    self.writing.append(pool.submit(self._append, item, skip.record))
                    continue
                except Exception as error:  # whatever is wrong with this one image
                    self.writing.append(pool.submit(self._append, item, blamed(item, error)))
                    continue
                if clean.picture.several and not self.told:
                    self.watch.note(item.of_several())
                    self.told = True
                self.waiting[self.begun] = clean
                self.begun += 1
                yield self._problem(clean)

    def _problem(self, clean: Clean) -> Problem | InProgress:
        picture = clean.picture
        place = self.place(*picture.pixels.shape[:2])
        image = jnp.asarray(picture.pixels, jnp.float32) / 255
        start = self._start(clean)
        problem = make_problem(
            self.network,
            image,
            clean.target,
            self.attack,
            placement=place,
            key=jax.random.key(seeds(self.options.seed, picture.sha256)[1]),
            label=clean.label,
            clean_heat=clean.heat,
            clean_heat_of_target=clean.heat_of_target,
            start=None if start is None else start.start(image),
        )
        if self.in_progress is None:
            begin = partial(init_state, shape=place.shape)
            self.like = jax.eval_shape(begin, self.network, problem, attack=self.attack)
            self.in_progress = self.snapshots.load(self.like, self.watch.note)
        kept = (
            self.in_progress.get(clean.item.id),
            self.deferred.load(clean.item.id, self.like, self.watch.note),
        )
        known = fingerprint_of(clean.item, picture.sha256)
        of_this = (saved for saved in kept if saved and saved.fingerprint == known)
        found = max(of_this, key=lambda saved: int(saved.state.step), default=None)
        return problem if found is None else InProgress(problem, found.state, found.history)

    def _defer(self, place: int, attack: InProgress) -> None:
        """Puts an image aside, behind all others."""
        clean = self._left(place)
        self.deferred.save(clean.item.id, _saved(clean, attack))
        self.last.append(clean.item)

    def _left(self, place: int) -> Clean:
        """An image that leaves its slot, of which the next snapshot needs nothing."""
        clean = self.waiting.pop(place)
        (self.in_progress or {}).pop(clean.item.id, None)
        return clean

    def _start(self, clean: Clean) -> AdversarialPatch | None:
        """The patch from which an image starts, if the library has one for its target."""
        return None if self.library is None else self.library.get(clean.target)

    def _look(self, item: Item) -> Clean:
        clean = look_at(
            self.network,
            item,
            self.attack,
            rule=self.options.target,
            seed=self.options.seed,
        )
        self.place(*clean.picture.pixels.shape[:2])
        return clean

    def _save(self, slots: Slots) -> None:
        """Puts what is in the slots on the disk, behind the files of what has left them."""
        wait(self.writing)
        in_progress = dict(self.in_progress or {})
        for place, attack in slots.underway().items():
            clean = self.waiting[place]
            in_progress[clean.item.id] = _saved(clean, attack)
        try:
            self.snapshots.save(in_progress)
        except Exception as error:  # a snapshot is a precaution, whatever Orbax has against it
            self.watch.note(f"no snapshot could be written: {error}")

    def _smaller(self, batch: int) -> None:
        self.watch.note(f"out of memory: going on with --batch {batch}")

    def _written(self, most: int) -> Iterator[dict[str, Any]]:
        """The records that are on the disk by now; waits until at most so many are not."""
        while self.writing and (len(self.writing) > most or self.writing[0].done()):
            record = self.writing.popleft().result()
            self.watch.record(record)
            yield record

    def _write(self, clean: Clean, finished: Result) -> dict[str, Any]:
        """An image's files and then its record."""
        conclude = partial(self._conclude, clean, finished)
        try:
            if not np.isfinite(finished.history.total[-1]):
                raise UserError(
                    f"the loss is {finished.history.total[-1]} at step {finished.steps}; "
                    "nothing can be optimised from there"
                )
            with self._folder():
                record = self.journal.store(clean.item.id, conclude, finished.history)
        except OSError:
            raise
        except Exception as error:  # whatever is wrong with this one image
            record = blamed(clean.item, error)
        record = self._append(clean.item, record)
        self.deferred.drop(clean.item.id)
        return record

    def _conclude(self, clean: Clean, finished: Result, folder: Path) -> dict[str, Any]:
        """Writes an image's pictures and measures the attack on the one that is read again."""
        place = self.place(*clean.picture.pixels.shape[:2])
        file = folder / "adversarial.png"
        images.write_png(file, np.rint(finished.adversarial * 255).astype(np.uint8))
        after = images.read_png(file)
        record, heat = evaluate_result(
            self.network, clean, finished, self.attack, png=after, place=place
        )
        if self.write_artifacts:
            draw(folder, clean, after, heat, place, record, self.options.colormap)
        if self.library is not None:
            record["start"] = "library" if self._start(clean) else self.attack.init
        return record

    @contextmanager
    def _folder(self) -> Iterator[None]:
        """Says of what cannot be written whether the run's folder is still there."""
        try:
            yield
        except (OSError, images.ImageError) as error:
            gone = not self.journal.folder.is_dir()
            what = "the run's folder is gone" if gone else f"cannot be written ({error})"
            raise OSError(f"{self.journal.folder}: {what}") from None

    def _append(self, item: Item, record: dict[str, Any]) -> dict[str, Any]:
        known = {
            "id": item.id,
            "source": item.source,
            "model": self.network.name,
            "objective": self.name,
            "error": None,
        }
        record = dict.fromkeys(FIELDS) | known | record
        if item.target or item.label:
            record["asked"] = {"target": item.target or None, "label": item.label or None}
        with self._folder():
            self.journal.append(record)
        return record


class _Judged(_Campaign):
    """A run whose patch is there already."""

    def _outcomes(self, problems, place, batch, on_chunk, devices):
        rows, columns = place.shape
        for number, problem in enumerate(problems):
            if self.watch.stopped:
                raise _Stop
            adversarial = self.patch.apply(problem.image)
            row, column = place.corner
            tile = adversarial[row : row + rows, column : column + columns]
            losses, lacking = _evaluate(self.network, tile, problem, self.attack)
            yield (
                number,
                Result(
                    adversarial,
                    tile,
                    0,
                    bool(lacking == 0),
                    Losses(*map(float, losses)),
                    jax.tree.map(np.atleast_1d, losses),
                ),
            )


_evaluate = jax.jit(lambda *given: evaluate(*given)[1])


def _saved(clean: Clean, attack: InProgress) -> Saved:
    known = fingerprint_of(clean.item, clean.picture.sha256)
    return Saved(known, attack.state, attack.history)


def blamed(item: Item, error: Exception) -> dict[str, str]:
    """The record of an image without a result."""
    if not isinstance(error, UserError):
        error = UserError(f"{type(error).__name__}: {error}")
    return {"error": item.blame(error)}
