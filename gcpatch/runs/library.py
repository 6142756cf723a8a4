"""Libraries of patches, one a target: made from images, kept after each, taken up again."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from gcpatch.attacks.patches import Library, LibraryError, Origin, origin_of
from gcpatch.attacks.regions import Region
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.universal import Through, universal
from gcpatch.attacks.views import Views
from gcpatch.data import labels
from gcpatch.data.prefetch import prefetch
from gcpatch.data.sources import Item
from gcpatch.networks import Network
from gcpatch.runs.options import Options

THREADS = 4  # that read
# Of a run's own library: images of a patch, out of so many, steps, and for how many images of a
# target that pays: a patch is 400 image-steps, and saves an image about 50.
IMAGES, CANDIDATES, STEPS, PAYS = 8, 16, 50, 10


class Seen(NamedTuple):
    """Images that patches are made from.

    Attributes:
        images: RGB in [0, 1].
        tops: what each is taken for.
        digest: of the files.
        unread: why others could not be read.
    """

    images: Float[np.ndarray, "n h w 3"]
    tops: Int[np.ndarray, " n"]
    digest: str
    unread: list[str]


def see(network: Network, items: Iterable[Item]) -> Seen:
    """Reads images, and asks the network what they are.

    Raises:
        LibraryError: none of them can be read.
    """
    top = jax.jit(lambda network, image: network(image).argmax())
    images, tops, unread, total = [], [], [], hashlib.sha256()
    with closing(prefetch(lambda item: item.read(), items, THREADS)) as read:
        for item, future in read:
            try:
                picture = future.result()
            except Exception as error:  # whatever is wrong with this one image
                unread.append(item.blame(error))
                continue
            images.append(picture.pixels.astype(np.float32) / 255)
            tops.append(int(top(network, images[-1])))
            total.update(picture.sha256.encode())
    if not images:
        raise LibraryError(f"none of the images can be read: {unread[0]}")
    return Seen(np.stack(images), np.asarray(tops), total.hexdigest(), unread)


def make_library(
    path: Path,
    networks: Sequence[Network],
    seen: Seen,
    targets: Sequence[int],
    region: Region,
    attack: Attack,
    *,
    views: Views | None = None,
    through: Through | None = None,
    most: int | None = None,
    batch: int = 16,
    seed: int = 0,
    more: Mapping[str, Any] | None = None,
    on_target: Callable[[str], None] = lambda name: None,
    on_step: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda text: None,
) -> Library:
    """A universal patch for each target, in a file that is written after each.

    A target's patch depends on the images, the settings and the seed, and on no other target. It
    is made from the images that are not taken for the target already.

    Args:
        path: the file; targets that it holds are not made again.
        networks, region, attack, views, through, batch, seed: as of `universal`.
        seen: the images.
        targets: classes.
        most: the first images alone, so many for each target.
        more: what else the file's `Origin` shall say.
        on_target: told of each target, by name, before it is made.
        on_step: called after each step.
        note: told of each target that has no image.

    Raises:
        LibraryError: the file holds patches of another origin or cannot be written, or no target
            has an image.
    """
    origin = origin_of(
        region,
        seen.images.shape[1:3],
        attack,
        networks,
        views=views and asdict(views),
        batch=batch,
        seed=seed,
        images=seen.digest,
        **(more or {}),
    )
    made = dict(_begun(path, origin)) if path.exists() else {}
    for target in targets:
        if target in made:
            continue
        name, others = networks[0].categories[target], seen.images[seen.tops != target][:most]
        if not len(others):
            note(f"{name}: every image is taken for it already")
            continue
        on_target(name)
        found = universal(
            networks,
            others,
            [target] * len(others),
            region,
            attack,
            views=views,
            through=through,
            batch=batch,
            seed=seed,
            on_step=lambda losses: on_step(),
        )
        made[target] = replace(found.patch, origin=origin)
        Library(made.values()).save(path)
    if not made:
        raise LibraryError("no target has an image that is not taken for it already")
    return Library(made.values())


def targets_that_pay(items: Sequence[Item], rule: str, categories: Sequence[str]) -> list[int]:
    """The targets of which a run has so many images that a patch to start from pays.

    Counted before any image is read: an image's own target, or that of the run; by a rule each
    class is expected equally often.
    """
    expected = Counter[int]()
    for text, count in Counter(item.target or rule for item in items).items():
        if text in labels.RULES:
            expected.update(dict.fromkeys(range(len(categories)), count / len(categories)))
            continue
        with suppress(labels.LabelError):  # its images' records say so
            expected[labels.find(text, categories)] += count
    return sorted(target for target, count in expected.items() if count >= PAYS)


def own_library(
    folder: Path,
    network: Network,
    items: Sequence[Item],
    region: Region,
    attack: Attack,
    options: Options,
    *,
    on_step: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda text: None,
) -> Library | None:
    """The library of a run's own images (`--init auto`), for the targets for which it pays.

    It is made once, in the run's folder, of `CANDIDATES` images that lie evenly in the whole list,
    which every shard has: folders come sorted by class, so that the first images would be of one.

    Args:
        folder: where it is kept; what is there whole is taken as it is.
        network, region, attack: of the run.
        items: all images of the run, also those of other shards.
        options: the run's.
        on_step: called after each step.
        note: told what comes of it.

    Returns:
        The library; None where none pays, or none can be made.
    """
    whole, begun = folder / "library.npz", folder / "begun.npz"
    if whole.exists():
        return Library.load(whole)
    targets = targets_that_pay(items, options.target, network.categories)
    note(f"patches to start from pay for {len(targets)} of {len(network.categories)} targets")
    if not targets:
        return None
    count = min(CANDIDATES, len(items))
    few = [items[i * len(items) // count] for i in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        made = make_library(
            begun,
            [network],
            see(network, few),
            targets,
            region,
            replace(attack, steps=STEPS, reach="exact"),
            most=IMAGES,
            batch=IMAGES,
            seed=options.seed,
            on_step=on_step,
            note=note,
        )
    except LibraryError as error:
        note(f"no patches to start from: {error}")
        return None
    begun.replace(whole)
    return made


def _begun(path: Path, origin: Origin) -> Library:
    """The library that a file holds; LibraryError where it was made in another way."""
    found = Library.load(path)
    mine, asked = asdict(found.origin), asdict(origin)
    differing = [
        f"{key} was {mine[key]} and is {asked[key]}" for key in asked if mine[key] != asked[key]
    ]
    if differing:
        raise LibraryError(f"{path} holds patches that were made otherwise: {'; '.join(differing)}")
    return found
