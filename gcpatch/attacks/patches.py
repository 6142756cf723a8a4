"""Optimised patches as objects: laid over other images, kept in files, one for each target."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np
from jaxtyping import Float

from gcpatch.attacks import regions
from gcpatch.attacks.blending import overlay
from gcpatch.attacks.objectives import OBJECTIVES
from gcpatch.attacks.regions import Bounded, Mask, PatchError, Placement, Region
from gcpatch.attacks.settings import OPTIMIZERS, Attack
from gcpatch.data.labels import UNTARGETED
from gcpatch.errors import UserError
from gcpatch.explainers import checks
from gcpatch.explainers.cam import METHODS
from gcpatch.files import atomic_write
from gcpatch.networks import Network
from gcpatch.networks.checkpoints import digest
from gcpatch.networks.network import ArrayLike

# What NumPy and JSON raise for a file that is damaged, or none of ours.
UNREADABLE = (ValueError, KeyError, TypeError, EOFError, MemoryError, RecursionError, BadZipFile)


class LibraryError(UserError):
    """A file of patches that cannot be used, or that lacks the one that is asked for."""


@dataclass(frozen=True)
class Origin:
    """What a patch was made for and how, as JSON has it; all patches of a library share it.

    Attributes:
        region: where it lies, as `regions.describe` says.
        image_size: height and width of its images.
        attack: how it was optimised, as `Attack.describe` says.
        networks: those that it shall fool, by name, with their digests.
        more: what else is known, such as views.
    """

    region: dict[str, Any]
    image_size: list[int]
    attack: dict[str, Any]
    networks: dict[str, str]
    more: dict[str, Any] = field(default_factory=dict)


def origin_of(
    region: Region,
    image_size: tuple[int, ...],
    attack: Attack,
    networks: Iterable[Network],
    **more: Any,
) -> Origin:
    """The origin of patches that are made now."""
    found = Origin(
        regions.describe(region),
        list(image_size),
        attack.describe(),
        {network.name: digest(network) for network in networks},
        more,
    )
    return Origin(**json.loads(json.dumps(asdict(found))))


def attack_of(origin: Origin) -> Attack:
    """How patches were optimised, as far as names say it; by what judges them, `classify` at least.

    Raises:
        AttackError: a setting is out of range.
    """
    known = {f.name: origin.attack[f.name] for f in fields(Attack) if f.name in origin.attack}
    for name, registry in (
        ("objective", OBJECTIVES),
        ("explainer", METHODS),
        ("optimizer", OPTIMIZERS),
    ):
        if known.get(name) not in registry:
            known.pop(name, None)
    return Attack(**{"objective": "classify"} | known)


@dataclass(frozen=True, eq=False, kw_only=True)
class AdversarialPatch:
    """An optimised patch, or another perturbation: its pixels, and what they are for.

    Attributes:
        noise: N of eq. 4, in [0, 1], before it is blended; of a `Bounded` what is added to pixels.
        target: the class that images shall be taken for; None where they had several, or none.
        target_name: that class's name.
        origin: for what else it was made, and how.
        mask: of a `Mask`, P of each pixel, so that the patch needs its file no more.
    """

    noise: Float[np.ndarray, "rows columns 3"]
    target: int | None
    target_name: str | None
    origin: Origin
    mask: Float[np.ndarray, "rows columns 1"] | None = None

    @property
    def region(self) -> Region:
        """Where it lies."""
        return regions.region(self.origin.region)

    @property
    def objective(self) -> str:
        """The objective's name."""
        return self.origin.attack["objective"]

    @property
    def untargeted(self) -> bool:
        """Whether any class but the label will do."""
        return self.origin.more.get("mode") == UNTARGETED

    def __repr__(self) -> str:
        target = UNTARGETED if self.untargeted else self.target_name or "several targets"
        networks = ", ".join(self.origin.networks)
        return f"AdversarialPatch({target}, {self.objective}, {self.region}, {networks})"

    def place(self, height: int, width: int) -> Placement:
        """The patch in an image of this size.

        Raises:
            PatchError: it does not fit.
        """
        shape = self.noise.shape[:2]
        if self.mask is not None:
            place = Placement((0, 0), (height, width), self.mask)
        else:
            place = self.region.place(height, width)
        if place.shape != shape:
            raise PatchError(
                f"the patch is for images of {shape[0]}x{shape[1]}, and not of {height}x{width}"
            )
        return place

    def apply(self, images: Float[ArrayLike, "*n h w 3"]) -> Float[np.ndarray, "*n h w 3"]:
        """Images with the patch (paper, eq. 4); other pixels are untouched, bit for bit.

        Args:
            images: RGB in [0, 1], one or several.

        Raises:
            UserError: they are no such images.
            PatchError: the patch does not fit.
        """
        found = checks.floats(images, what="the image")
        if found.ndim < 3 or found.shape[-1] != 3:
            raise LibraryError(
                f"the images have shape {list(found.shape)} instead of [..., height, width, 3]"
            )
        place = self.place(*found.shape[-3:-1])
        flat = found.reshape(-1, *found.shape[-3:])
        laid = jax.vmap(partial(overlay, noise=self.noise, place=place))(flat)
        return np.asarray(laid).reshape(found.shape)

    def start(self, image: Float[ArrayLike, "h w 3"]) -> Float[ArrayLike, "rows columns 3"]:
        """The noise, in pixels, from which an attack on this image may start."""
        return image + self.noise if isinstance(self.region, Bounded) else self.noise

    def check(self, network: Network) -> str | None:
        """As `Library.check`."""
        return Library([self]).check(network)

    def save(self, path: str | Path) -> None:
        """Writes the patch as one `.npz`; LibraryError where that cannot be."""
        Library([self]).save(path)

    @classmethod
    def load(cls, path: str | Path) -> "AdversarialPatch":
        """The patch that a file holds.

        Raises:
            LibraryError: the file cannot be read, or holds several.
        """
        found = list(Library.load(path).values())
        if len(found) != 1:
            raise LibraryError(f"{path} holds {len(found)} patches; read it with Library.load")
        return found[0]


def patch_of(
    noise: Float[ArrayLike, "rows columns 3"],
    target: int | None,
    *,
    network: Network,
    region: Region,
    origin: Origin,
) -> AdversarialPatch:
    """A patch that was just made, for a class of a network."""
    mask = np.asarray(region.place(*origin.image_size).ratio) if isinstance(region, Mask) else None
    return AdversarialPatch(
        noise=np.asarray(noise, np.float32),
        target=target,
        target_name=None if target is None else network.categories[target],
        origin=origin,
        mask=mask,
    )


class Library(Mapping[int | None, AdversarialPatch]):
    """Patches of one origin by their targets: `library[target]`.

    Raises:
        LibraryError: there is none, they have different origins, or two have one target.
    """

    def __init__(self, patches: Iterable[AdversarialPatch]):
        found = list(patches)
        self._patches = {patch.target: patch for patch in found}
        if not found or len(self._patches) < len(found):
            raise LibraryError("a library has at least one patch, and one for each target")
        self.origin = found[0].origin
        if any(patch.origin != self.origin for patch in found):
            raise LibraryError("the patches of a library are made alike, for the same networks")

    def __getitem__(self, target: int | None) -> AdversarialPatch:
        return self._patches[target]

    def __iter__(self) -> Iterator[int | None]:
        return iter(self._patches)

    def __len__(self) -> int:
        return len(self._patches)

    def __repr__(self) -> str:
        return f"Library({list(self.values())})"

    @property
    def digest(self) -> str:
        """The SHA-256 of all that is in it, in the order of the targets."""
        total = hashlib.sha256(json.dumps(asdict(self.origin), sort_keys=True).encode())
        for target in sorted(self, key=str):
            patch = self[target]
            total.update(f"{target} {patch.target_name} {patch.noise.shape}".encode())
            for array in (patch.noise, patch.mask):
                total.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return total.hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes the library as one `.npz` without pickle, all of it or nothing.

        It holds `noise` `[n, rows, columns, 3]`, `mask` of a `Mask`, and `about` as JSON.

        Raises:
            LibraryError: the file cannot be written.
        """
        patches = list(self.values())
        about = {
            "origin": asdict(self.origin),
            "targets": [[patch.target, patch.target_name] for patch in patches],
        }
        arrays: dict[str, Any] = {"noise": np.stack([patch.noise for patch in patches])}
        if patches[0].mask is not None:
            arrays["mask"] = patches[0].mask
        try:
            with atomic_write(Path(path)) as draft, draft.open("wb") as file:
                np.savez(file, about=np.asarray(json.dumps(about)), **arrays)
        except OSError as error:
            raise LibraryError(f"cannot write {path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: str | Path) -> "Library":
        """The library that a file holds.

        Raises:
            LibraryError: it cannot be read, or is no library.
        """
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                about, noise, mask = json.loads(str(file["about"])), file["noise"], file.get("mask")
            origin = Origin(**about["origin"])
            found = [
                AdversarialPatch(
                    noise=one, target=target, target_name=name, origin=origin, mask=mask
                )
                for one, (target, name) in zip(noise, about["targets"], strict=True)
            ]
            if noise.dtype != np.float32 or not np.isfinite(noise).all():
                raise ValueError("its pixels are no finite numbers")
            for patch in found:
                patch.place(*origin.image_size)
        except OSError as error:
            raise LibraryError(f"cannot read {path}: {error.strerror or error}") from None
        except UNREADABLE as error:
            reason = str(error).partition("\n")[0][:100] or type(error).__name__
            raise LibraryError(f"{path} holds no patches that gcpatch wrote ({reason})") from None
        return cls(found)

    def check(self, network: Network) -> str | None:
        """What a person should know before the patches meet this network; None if nothing.

        Raises:
            LibraryError: a target is none of its classes.
        """
        names = dict(enumerate(network.categories))
        for target, patch in self.items():
            if target is not None and names.get(target) != patch.target_name:
                raise LibraryError(
                    f"a patch is for class {target}, {patch.target_name!r}, which is no class of "
                    f"{network.name}"
                )
        if (own := digest(network)) in self.origin.networks.values():
            return None
        known = ", ".join(f"{name} {made[:8]}" for name, made in self.origin.networks.items())
        return f"the patches were made for {known}; {network.name} is {own[:8]}"

    def check_starts(
        self,
        network: Network,
        region: Region,
        image_size: tuple[int, ...],
        targets: Iterable[int],
    ) -> str | None:
        """What a person should know before attacks of these targets start from the patches.

        Raises:
            LibraryError: there is none for a target, or they are of other classes, of another kind
                of region, or of another shape.
        """
        note, noise = self.check(network), next(iter(self.values())).noise
        kinds = self.origin.region["kind"], regions.describe(region)["kind"]
        shapes = noise.shape[:2], region.place(*image_size).shape
        if kinds[0] != kinds[1] or shapes[0] != shapes[1]:
            mine, asked = (
                f"{kind} of {r}x{c} pixels" for kind, (r, c) in zip(kinds, shapes, strict=True)
            )
            raise LibraryError(f"the library has a {mine}, and the attack is of a {asked}")
        if missing := sorted(set(targets) - set(self)):
            names = ", ".join(network.categories[target] for target in missing[:3])
            raise LibraryError(
                f"the library has no patch for {len(missing)} of the targets, such as {names}; "
                "make them with gcpatch universal --targets"
            )
        return note
