"""What can be set of an attack and of views: each field's meaning, default and choices.

`settings.py` makes an `Attack` of them and `views.py` `Views`; here they stand without JAX, for the
command line's help.
"""

from dataclasses import dataclass
from typing import Any

from gcpatch.settings import PROBABILITY, at_least, over, setting

STARTS = ("mean", "image", "random", "clean")
REACHES = ("exact", "near")


def as_reach(text: str) -> str | int:
    """A reach as the command line writes it: a name, or a number of cells."""
    return int(text) if text.isdecimal() else text


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of `Attack`."""

    objective: Any = setting(
        "hide",
        "what to minimise and to reach: a name, or a function of `gcpatch.Evidence`",
        value="NAME|MODULE:FUNCTION",
        registry="objective",
    )
    steps: int = setting(
        1000, "the most steps for an image", value="N", parse=int, range=at_least(1)
    )
    optimizer: Any = setting(
        "adam",
        "how the patch is optimised, in the network's normalised units as [16]: a name, or in "
        "Python any optax transformation, which brings its own rate",
        value="NAME",
        registry="optimizer",
    )
    learning_rate: float | None = setting(
        None,
        "a named optimiser's step",
        value="RATE",
        parse=float,
        range=over(0),
        otherwise="the optimiser's own",
    )
    ce_weight: float = setting(
        3.0,
        "the weight of the cross-entropy beside the objective, alpha in eq. 5",
        value="ALPHA",
        parse=float,
        range=at_least(0),
    )
    balance: bool = setting(
        True,
        "whether each of the two losses is divided by the length of its gradient by the layer's "
        "activations, so that `ce_weight` means the same for every network and loss",
    )
    ring: int = setting(
        0,
        "how many rings of cells around the patch `hide` clears as well, so that the heat is not "
        "only moved aside; the verdict is on the patch's own cells, beside it that with one ring",
        value="CELLS",
        parse=int,
        range=at_least(0),
    )
    ce_gate: bool = setting(
        True, "whether the cross-entropy counts only while `confidence` is not reached"
    )
    confidence: float = setting(
        0.9,
        "the probability of the target that is enough; 0 asks for the top class alone",
        range=PROBABILITY,
    )
    init: str = setting(
        "mean",
        "the patch before the first step: the `mean` colour, the `image` itself, `random` pixels, "
        "or `clean`: the mean colour, but the first step sees the clean image, as [16]; on the "
        "command line also what `gcpatch universal` wrote, of which each image takes its target's "
        "patch, or `auto`: the run makes such a library of its own images where that pays",
        value="START|FILE.npz|auto",
        registry="init",
    )
    project: bool = setting(True, "whether the patch is kept to valid pixels; the image always is")
    patience: int = setting(
        1, "stop once the goal is met for so many steps in a row", parse=int, range=at_least(1)
    )
    restart: bool = setting(
        False,
        "whether an image whose best step is half of the steps ago begins anew, once, from "
        "`random` pixels; its best step so far is kept, and its steps are counted on; not in the "
        "near field",
    )
    layer: str | None = setting(
        None,
        "the layer whose map is attacked and judged",
        value="NAME",
        otherwise="the network's target layer",
    )
    explainer: Any = setting(
        "grad-cam",
        "what makes that map: a name, or in Python a `gcpatch.explainers.Cam`",
        value="NAME",
        registry="explainer",
    )
    reach: Any = setting(
        "exact",
        "how far a step follows what a square patch changes: `exact`, as far as it goes; a number "
        "of cells around the patch's own in each map, beyond which values are those of the last "
        "exact look; or `near`, which chooses the number by the cost. What is done is always "
        "decided by an exact look",
        value="exact|near|CELLS",
        parse=as_reach,
    )


def pair(text: str) -> tuple[float, float]:
    """Two numbers as the command line has them; ValueError where they are none."""
    first, second = map(float, text.split(","))
    return first, second


@dataclass(frozen=True)
class ViewFields:
    """The fields of `Views`."""

    scale: tuple[float, float] = setting(
        (0.8, 1.25),
        "the least and the most side of a patch in a view, relative to its own",
        value="LEAST,MOST",
        parse=pair,
        otherwise="0.8,1.25",
    )
    degrees: float = setting(
        20.0, "the most that it is turned, either way", value="DEGREES", parse=float
    )
    brightness: float = setting(
        0.1, "the most that is added to or taken from its pixels", value="SHARE", parse=float
    )
