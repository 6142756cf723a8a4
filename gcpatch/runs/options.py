"""What can be set of a run, beside the attack itself."""

from dataclasses import dataclass

from gcpatch.errors import UserError
from gcpatch.settings import Range, check, documented, over, setting

MOST_SEED = 2**32 - 1
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}


class OptionError(UserError):
    """An option that cannot be: it is unknown or out of range."""


@documented
@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run goes.

    Raises:
        OptionError: a value is unknown or out of range.
    """

    target: str = setting(
        "random",
        "the class that each image shall be taken for, unless a manifest says; `untargeted`: any "
        "but its label, or where it has none, but the class that it is taken for",
        value="NAME|ID|random|least-likely|runner-up|untargeted",
    )
    seed: int = setting(
        0,
        "of all that is random; an image's own numbers come from it and from the image's content",
        value="N",
        parse=int,
        range=Range(f"0 to {MOST_SEED}", lambda value: 0 <= value <= MOST_SEED),
    )
    precision: str = setting(
        "float32",
        "of the optimisation on accelerators; verdicts are always in float32",
        value="NAME",
        registry="precision",
    )
    colormap: str = setting(
        "jet",
        "of the maps in pictures; jet is the paper's",
        value="NAME",
        registry="colormap",
    )
    checkpoint_every: float = setting(
        60.0,
        "how often what is under way is kept for --resume",
        value="SECONDS",
        parse=float,
        range=over(0),
    )

    def __post_init__(self):
        check(self, OptionError)
