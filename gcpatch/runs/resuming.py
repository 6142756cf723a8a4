"""What a run that is taken up again does anew: images that are no longer those of their records."""

import os
from collections.abc import Iterable, Sized
from contextlib import closing

from gcpatch.data.prefetch import prefetch
from gcpatch.data.sources import Item
from gcpatch.runs.journal import Journal, fingerprint
from gcpatch.runs.progress import Progress

THREADS = min(8, os.cpu_count() or 1)  # that read, and as many that write


def compared(
    journal: Journal, items: Iterable[Item], watch: Progress, *, done: str
) -> Iterable[Item]:
    """The items, once records that are no longer of what is there are dropped.

    Args:
        journal: the run's folder.
        items: the images that are named now.
        watch: is told of what changed.
        done: what is done to an image, such as "attacked".
    """
    recorded = journal.recorded
    if not recorded:
        return items
    items = list(items)
    known = [item for item in items if item.id in recorded]
    changed, unread = set(), set()
    with closing(prefetch(_fingerprint_now, known, THREADS)) as fingerprints:
        for item, future in fingerprints:
            if watch.stopped:
                return ()
            try:
                found = future.result()
            except Exception:  # as it was read once, its record stays
                unread.add(item.id)
                continue
            if found != recorded[item.id]:
                changed.add(item.id)
    others = recorded.keys() - {item.id for item in known}
    recorded.clear()
    if changed:
        journal.forget(changed)
        watch.again(len(changed))
        watch.note(
            _count(
                changed,
                f"image changed since its record and is {done} again",
                f"images changed since their record and are {done} again",
            )
        )
    if unread:
        watch.note(
            _count(
                unread,
                "image cannot be read any more; its record stays",
                "images cannot be read any more; their records stay",
            )
        )
    if others:
        watch.note(
            _count(
                others,
                "record is of an image that is not named now; it stays",
                "records are of images that are not named now; they stay",
            )
        )
    return items


def fingerprint_of(item: Item, sha256: str) -> str:
    """What a record of the item is of, where its picture has this SHA-256."""
    return fingerprint(sha256, item.target or None, item.label or None)


def _fingerprint_now(item: Item) -> str:
    return fingerprint_of(item, item.digest())


def _count(of: Sized, one: str, several: str) -> str:
    return f"{len(of)} {one if len(of) == 1 else several}"
