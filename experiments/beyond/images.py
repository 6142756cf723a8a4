"""What a cell's records say of each of its images."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from gcpatch.attacks.blending import coverage
from gcpatch.attacks.objectives import fooled_explanation
from gcpatch.attacks.regions import Patch
from gcpatch.evaluation import metrics

SIDE = 224


class Images(NamedTuple):
    """One value for each image, in the order of their names; NaN where there is none.

    Attributes:
        fooled: the top class of the PNG is the target.
        hidden, highlighted: the map is as `hide` and `highlight` want it, whatever the objective.
        goal: steps until the objective was met, with its margin; infinite if it was not.
        answered: steps until the target's probability was a half; infinite if it never was.
        target_before: the share of the target's map inside the patch, before the attack.
        psnr, linf: in decibels, and in pixels of [0, 1].
        patch, object: the share of the target's map there, after the attack; NaN of no heat.
        patch_before, object_before: the same of the clean image's top class.
    """

    fooled: Bool[np.ndarray, " n"]
    hidden: Bool[np.ndarray, " n"]
    highlighted: Bool[np.ndarray, " n"]
    goal: Float[np.ndarray, " n"]
    answered: Float[np.ndarray, " n"]
    target_before: Float[np.ndarray, " n"]
    psnr: Float[np.ndarray, " n"]
    linf: Float[np.ndarray, " n"]
    patch: Float[np.ndarray, " n"]
    object: Float[np.ndarray, " n"]
    patch_before: Float[np.ndarray, " n"]
    object_before: Float[np.ndarray, " n"]


def read(run: Path, maps: Path) -> Images:
    """The images of a whole run; `maps` holds Grad-CAM of their clean classes by name."""
    lines = (run / "results.jsonl").read_text().splitlines()
    records = sorted(map(json.loads, lines), key=lambda record: record["id"])
    records = [record for record in records if record["error"] is None]
    settings = json.loads((run / "run.json").read_text())["settings"]["patch"]
    patch = Patch(**{name: settings[name] for name in ("size", "ratio", "position")})
    corner = np.asarray(patch.corner(SIDE, SIDE))

    def column(key: str) -> Float[np.ndarray, " n"]:
        return np.array([record[key] for record in records], float)

    there, on_object = column("energy_adversarial"), column("object_energy_adversarial")

    def judged(objective: str) -> Bool[np.ndarray, " n"]:
        names = "energy_adversarial", "pointing_adversarial"
        found = ([record[name] for name in names] for record in records)
        return np.array([fooled_explanation(objective, *pair) for pair in found])

    with np.load(run / "histories.npz") as histories, np.load(maps) as clean:
        curves = [histories[f"{record['id']}/cross_entropy"] for record in records]
        heats = [clean[record["id"]] for record in records]
    covered = np.asarray(coverage(heats[0].shape, (SIDE, SIDE), corner, (patch.size, patch.size)))
    constant = np.isnan(column("map_rank_correlation"))
    empty = constant & (there + on_object == 0)
    return Images(
        column("fooled_class") > 0,
        judged("hide"),
        judged("highlight"),
        np.where(column("converged") > 0, column("steps"), np.inf),
        np.array([first(curve <= np.log(2)) for curve in curves]),
        column("energy_clean"),
        column("psnr"),
        column("linf"),
        np.where(empty, np.nan, there),
        np.where(empty, np.nan, on_object),
        np.array([metrics.energy(heat, covered) for heat in heats]),
        column("object_energy_clean"),
    )


def first(met: Bool[np.ndarray, " steps"]) -> float:
    """The first step, counted from 1, at which something is met; infinite if at none."""
    return float(met.argmax() + 1) if met.any() else np.inf
