import numpy as np
import pytest

from experiments import claims


def record(fooled=True, energy=0.5, psnr=20.0, ce=0.1, first=1.0):
    return {
        "fooled_class": fooled,
        "pointing_adversarial": fooled,
        "energy_adversarial": energy,
        "psnr": psnr,
        "loss": {"cross_entropy": ce, "explanation": ce},
        "first": {"cross_entropy": first, "explanation": first},
    }


@pytest.fixture
def found():
    """Four images: 64 pixels fool all, 32 pixels one, and leave less heat and a higher loss."""
    big = {name: record() for name in "abcd"}
    small = {name: record(name == "a", 0.05, 32.0, ce=3.0) for name in "abcd"}
    corner = {"left": small, "right": big}
    return (
        corner
        | {f"{v}-64": big for v in claims.VARIANTS}
        | {f"{v}-32": small for v in claims.VARIANTS}
    )


def test_each_claim_is_told_with_its_interval(found):
    told = {claim.split(" (")[0]: cells for claim, *cells in claims.rows(found)}
    assert told["64 pixels at 100 % fool the label"] == ["100% [51, 100]"] * 2
    assert told["32 pixels at 20 % fool the label less often"][0].startswith("100%, 25%: -75% [")
    assert told["... make the patch hot: its share of the heat; at least 10 % in"][0] == (
        "5% [5, 5]; 0% [0, 49]"
    )
    assert told["... and are less visible"][0] == "20, 32: +12 [12, 12]"
    assert told["Cross-entropy ends higher for 32 pixels at 20 %"][0] == "0.1, 3: +2.9 [2.9, 2.9]"
    assert told["[16]'s method: the patch's share of the heat"][0].startswith("50 %, 5 %: -45 [")
    down = "64 pixels bring cross-entropy down, and the Grad-CAM loss"
    assert told[down][0] == "100% [51, 100]; 100% [51, 100]"


def test_pairs_are_of_the_images_that_both_settings_have(found):
    without = {name: each for name, each in found["left"].items() if name != "a"}
    assert claims.Pair(found["right"], without).rates(claims.fooled).startswith("100%, 0%: -100%")
    assert len(claims.Pair(found["right"], without).both[0]) == 3


def test_the_first_losses_are_those_of_the_histories(tmp_path):
    cell = claims.cells(7)[0]
    (tmp_path / cell.name).mkdir()
    losses = {
        f"a/{term}": np.array([2.0, 1.0]) for term in ("total", "cross_entropy", "explanation")
    }
    np.savez(tmp_path / cell.name / "histories.npz", **losses)
    known = {"id": "a", "error": None, "skipped": None, "label": None, **record()}
    found = claims.records_of(cell, [known], tmp_path)
    assert found["a"]["first"]["cross_entropy"] == 2.0 and claims.fallen("cross_entropy")(
        found["a"]
    )
    assert cell.attack.steps == 7
