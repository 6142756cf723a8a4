"""Settings by name: the paper's two cases, and [16]'s."""

from dataclasses import replace

from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack

_LITERAL = Attack(
    optimizer="sign",
    ce_weight=0.05,
    balance=False,
    ce_gate=True,
    confidence=0.0,
    project=False,
)
_PAPER = replace(_LITERAL, objective="paper", steps=1000, learning_rate=0.05)

PRESETS: dict[str, tuple[Patch, Attack]] = {
    # Experiments 1 and 4: 64 pixels, all of them the patch's, at column 150 as printed.
    "paper-64": (Patch(64, 1.0, (0, 150)), _PAPER),
    # Experiments 2 and 3: 32 pixels, a fifth of each pixel the patch's.
    "paper-32": (Patch(32, 0.2, (0, 150)), _PAPER),
    # Subramanya et al., 2019, whose method the paper builds on.
    "subramanya": (
        Patch(64, 1.0, (0, 0)),
        replace(
            _LITERAL,
            objective="subramanya",
            steps=750,
            learning_rate=0.005,
            init="clean",
            patience=7,
        ),
    ),
}
