import numpy as np
import pytest

from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.slots import Result
from gcpatch.attacks.step import Losses
from gcpatch.data.sources import Item, Picture
from gcpatch.runs.outcome import evaluate_result, look_at

LOSSES = Losses(3.0, 2.0, 1.0)


def looked(network):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    item = Item("a", "drawn", lambda: Picture(pixels, "0123abcd" * 8))
    return look_at(network, item, Attack(), rule="random", seed=0)


def test_the_verdict_is_of_the_png_and_of_nothing_else(tiny):
    clean = looked(tiny)
    adversarial = np.random.default_rng(1).random((32, 32, 3), np.float32)
    result = Result(
        adversarial=adversarial,
        tile=adversarial[:10, -10:],
        steps=7,
        converged=True,
        losses=LOSSES,
        history=Losses(*np.zeros((3, 7), np.float32)),
    )
    place = Patch(10).place(32, 32)
    png = clean.picture.pixels.copy()
    png[:10, -10:] ^= 1
    record, heat = evaluate_result(
        tiny, clean, result, Attack(objective="hide"), png=png, place=place
    )
    logits = np.asarray(tiny(np.float32(png) / 255))
    assert record["png"]["id"] == logits.argmax()
    assert record["adversarial"]["id"] == np.asarray(tiny(adversarial)).argmax()
    assert record["fooled_class"] == (logits.argmax() == clean.target)
    assert record["pixels_changed_share"] == 100 / 32**2 and record["linf"] == 1 / 255
    assert (record["steps"], record["converged"], record["loss"]["total"]) == (7, True, 3)
    assert heat.shape == clean.heat.shape
    assert record["energy_ring_adversarial"] >= record["energy_adversarial"]
    assert record["fooled_explanation_ring"] == (record["energy_ring_adversarial"] <= 0.05)
    assert record["map_empty"] == (not heat.any())
    again = evaluate_result(
        tiny, clean, result, Attack(objective="hide"), png=png, place=place
    ).record
    assert again == record


@pytest.mark.parametrize(
    "objective, judged", [("hide", bool), ("highlight", None), ("classify", None)]
)
def test_only_what_hides_is_judged_with_the_ring(tiny, objective, judged):
    clean, place = looked(tiny), Patch(10).place(32, 32)
    pixels = np.float32(clean.picture.pixels) / 255
    result = Result(pixels, pixels[:10, -10:], 1, False, LOSSES, Losses(*np.zeros((3, 1))))
    attack = Attack(objective=objective)
    record, _ = evaluate_result(tiny, clean, result, attack, png=clean.picture.pixels, place=place)
    assert record["energy_ring_clean"] == pytest.approx(record["energy_ring_adversarial"])
    found = record["fooled_explanation_ring"]
    assert found is None if judged is None else isinstance(found, bool)
