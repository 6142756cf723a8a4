"""What is in a campaign's slots, kept on the disk from time to time, to be taken up again.

A snapshot is an Orbax checkpoint of the states and of the losses so far; the last two are kept, so
that one that cannot be read leaves another.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gcpatch.attacks.step import Losses, State

KEPT = 2


class Saved(NamedTuple):
    """An image's attack as a snapshot has it: what it is of (`journal.fingerprint`), its state, and
    its losses so far, `[steps]` each."""

    fingerprint: str
    state: State
    history: Losses


class Snapshots:
    """The snapshots in a run's folder.

    Args:
        folder: where they are; made when the first is saved.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self._manager: Any = None

    def save(self, in_progress: Mapping[str, Saved]) -> None:
        """Writes the attacks under way, by their images' ids, while the caller goes on."""
        if not in_progress:
            return
        import orbax.checkpoint as ocp

        arrays, about = pack(in_progress)
        manager = self._opened()
        manager.save(
            (manager.latest_step() or 0) + 1,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)
            ),
            force=True,
        )

    def load(self, like: State, note: Callable[[str], None]) -> dict[str, Saved]:
        """The attacks under way in the latest snapshot that can be read.

        Args:
            like: a state (or its shapes) of the attacks.
            note: told of each snapshot that cannot be read.
        """
        if not self.folder.is_dir():
            return {}
        manager = self._opened()
        for number in sorted(manager.all_steps(), reverse=True):
            try:
                return self._read(number, like)
            except Exception as error:  # whatever Orbax raises for what a crash left
                reason = str(error).partition("\n")[0][:200]
                note(f"the snapshot {self.folder / str(number)} cannot be read ({reason})")
        return {}

    def _read(self, number: int, like: State) -> dict[str, Saved]:
        import orbax.checkpoint as ocp

        with _quiet("asyncio"):
            found = self._opened().restore(
                number,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
                ),
            )
        return unpack(found.arrays, found.about, like)

    def clear(self) -> None:
        """Removes all snapshots: nothing is under way."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        if self._manager:
            self._manager.close()
            self._manager = None

    def _opened(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            self._manager = ocp.CheckpointManager(
                self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=KEPT)
            )
        return self._manager


def pack(in_progress: Mapping[str, Saved]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attacks under way, by their images' ids, as arrays, and what JSON can say of them."""
    kept = list(in_progress.values())
    states = jax.tree.map(lambda *rows: np.stack(rows), *(each.state for each in kept))
    leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(states))}
    histories = np.concatenate([np.stack(each.history) for each in kept], 1)
    about = {
        "ids": list(in_progress),
        "fingerprints": [each.fingerprint for each in kept],
        "steps": [len(each.history.total) for each in kept],
    }
    return {"states": leaves, "histories": histories}, about


def unpack(arrays: Mapping[str, Any], about: dict[str, Any], like: State) -> dict[str, Saved]:
    """What was packed; `like` is a state (or its shapes) of the attacks.

    Raises:
        ValueError: the states are of other shapes.
    """
    leaves, structure = jax.tree.flatten(like)
    stored = [arrays["states"][str(i)] for i in range(len(leaves))]
    for leaf, wanted in zip(stored, leaves, strict=True):
        if leaf.shape[1:] != wanted.shape or leaf.dtype != wanted.dtype:
            raise ValueError(f"{leaf.dtype}{leaf.shape[1:]} is no {wanted.dtype}{wanted.shape}")
    histories = np.split(arrays["histories"], np.cumsum(about["steps"])[:-1], axis=1)
    in_progress = {}
    for i, identity in enumerate(about["ids"]):
        state = jax.tree.unflatten(structure, [leaf[i] for leaf in stored])
        in_progress[identity] = Saved(about["fingerprints"][i], state, Losses(*histories[i]))
    return in_progress


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silences a logger: of a damaged file Orbax's tasks complain there, beside the exception."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
