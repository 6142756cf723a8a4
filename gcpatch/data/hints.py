"""True classes from folders and sidecars, which count only where a network knows all of them."""

from collections.abc import Iterable, Sequence

from gcpatch.data import labels
from gcpatch.data.sources import Found, Item


def labelled(items: Iterable[Item], categories: Sequence[str]) -> Found:
    """The items, with the labels that their folders and sidecars give.

    A source's folders (or an archive's sidecars) label all of its images if each of their names is
    a class, and none otherwise; a manifest's own label goes before them. The notes say which.
    """
    items = list(items)
    names: dict[str, set[str]] = {}
    for item in items:
        if item.hint and not item.label:
            names.setdefault(item.hint.origin, set()).add(item.hint.name)
    known, notes = set(), []
    for origin, some in names.items():
        try:
            for name in sorted(some):
                labels.find(name, categories)
        except labels.LabelError as error:
            notes.append(f"{origin}: no labels from folders or sidecars: {error}")
        else:
            known.add(origin)
            notes.append(f"{origin}: labels from {len(some)} classes of folders or sidecars")
    return Found(
        [
            item._replace(label=item.hint.name)
            if item.hint and not item.label and item.hint.origin in known
            else item
            for item in items
        ],
        notes,
    )
