import jax.numpy as jnp
import pytest

from experiments import small_patch


def record(identity, fooled):
    known = {"error": None, "skipped": None, "label": None}
    return known | {"id": identity, "fooled_class": fooled}


def test_any_of_the_strategies_counts_image_by_image():
    runs = {
        "one": [record("a", True), record("b", False), record("c", False)],
        "two": [record("a", False), record("b", True), record("c", False)],
    }
    *_, one, two, best = small_patch.table(runs)
    assert one.startswith("| one | 3 | 33% [") and two.startswith("| two | 3 | 33% [")
    assert best.startswith("| any of them | 3 | 67% [")


def test_the_margin_is_what_the_target_lacks():
    class Seen:
        logits, target = jnp.array([1.0, 4.0, 2.0]), 2

    assert small_patch.margin(Seen) == 2.0


@pytest.mark.parametrize(
    ("lead", "lacking"), [(-0.2, 0.21), (0.0, 0.01), (0.004, 0.006), (0.02, 0)]
)
def test_a_tie_is_not_clearly_the_target(lead, lacking):
    class Seen:
        logits, target = jnp.log(jnp.array([0.2, 0.4 - lead / 2, 0.4 + lead / 2])), 2

    assert small_patch.not_clearly(Seen) == pytest.approx(lacking, abs=1e-6)


def test_every_strategy_asks_for_the_top_class_alone_with_the_same_patch():
    found = small_patch.cells(2000)
    assert len(found) >= 4 and len({cell.name for cell in found}) == len(found)
    for cell in found:
        assert cell.patch == small_patch.PATCH and cell.attack.steps == 2000
        assert cell.attack.confidence == 0
