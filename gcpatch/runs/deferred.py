"""Images whose attack has stalled: each is put aside in a file until all others have begun."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gcpatch.attacks.step import State
from gcpatch.files import atomic_write
from gcpatch.runs.snapshots import Saved, pack, unpack


class Deferred:
    """The attacks that were put aside, by their images' ids.

    Args:
        folder: where they are; made when the first is put aside.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __contains__(self, identity: str) -> bool:
        return self._file(identity).exists()

    def save(self, identity: str, saved: Saved) -> None:
        """Puts an attack aside."""
        self.folder.mkdir(exist_ok=True)
        arrays, about = pack({identity: saved})
        named = {"histories": arrays["histories"], "about": json.dumps(about), **arrays["states"]}
        with atomic_write(self._file(identity)) as draft, draft.open("wb") as file:
            np.savez(file, **named)

    def load(self, identity: str, like: State, note: Callable[[str], None]) -> Saved | None:
        """An attack that was put aside; None without one that can be read.

        `like` is a state (or its shapes) of the attacks; `note` is told of what cannot be read.
        """
        if identity not in self:
            return None
        try:
            with self._file(identity).open("rb") as file, np.load(file) as found:
                arrays = {"states": found, "histories": found["histories"]}
                return unpack(arrays, json.loads(str(found["about"])), like)[identity]
        except Exception as error:  # whatever NumPy has against a damaged file
            note(f"{self._file(identity)} cannot be read ({error}); its image begins anew")
            return None

    def drop(self, identity: str) -> None:
        """Forgets an image that is done."""
        self._file(identity).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forgets all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, identity: str) -> Path:
        return self.folder / f"{identity}.npz"
