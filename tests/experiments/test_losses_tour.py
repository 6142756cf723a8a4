"""The experiments on losses, with tiny settings."""

import re

import numpy as np
import pytest

import gcpatch
from experiments import losses as bench
from experiments import losses_tour
from experiments.losses_tour import CHAPTERS, FIVE, Tour, curve
from gcpatch.attacks.blending import coverage
from gcpatch.data.images import read_png
from gcpatch.evaluation.metrics import energy


@pytest.fixture
def network(tiny, monkeypatch):
    """One with something in every map, and scenes just large enough for a patch."""
    for module in (bench, losses_tour):
        monkeypatch.setattr(module, "SIDE", 72)
    return gcpatch.smooth(tiny)


@pytest.mark.slow
def test_the_tour_writes_its_page_and_pictures(network, tmp_path, monkeypatch):
    monkeypatch.setattr(losses_tour, "FIVE", dict([*FIVE.items()][-1:]))
    tour = Tour(tmp_path, network, count=2, steps=2)
    for chapter in CHAPTERS:
        chapter(tour)
    page = tour.write().read_text()
    shown = re.findall(r'src="(.*?)\.png"', page)
    assert shown == [
        "clean",
        "other",
        "classify",
        *losses_tour.FIVE,
        "not_below",
        "cross",
        "second",
    ]
    for name in shown:
        picture = read_png(tmp_path / f"{name}.png")
        assert picture.shape == (160, (2 if name == "second" else 4) * 166, 3)
        assert len(np.unique(picture)) > 50
    assert page.count("<svg") == 3
    assert page.count("<p>Taken for the other class: ") == 4


def test_a_curve_goes_from_the_first_value_to_the_last():
    points = re.search(r'points="(.*?)"', curve(np.asarray([3.0, 1.0, 2.0])))[1]
    assert points == "0,5.0 300,95.0 600,50.0"


@pytest.mark.slow
def test_the_table_has_a_line_for_each_loss(network):
    found, lines = bench.Bench(network, bench.REGIONS["patch"], 3), []
    chosen = bench.rows((36, 36), "patch")[:2]
    bench.table(found, chosen, 5, lambda *cells: lines.append(cells))
    assert [line[0] for line in lines[2:]] == ["`classify`", "`hide`", "`highlight`"]
    (*before, hidden), (*same, shown) = (
        [float(cell.split(" [")[0]) for cell in line[2:5]] for line in lines[3:]
    )
    assert before == same  # the clean image, and a plain attack
    assert hidden < shown


@pytest.mark.slow
def test_a_quantity_is_measured_on_the_image_with_its_tile(network):
    found = bench.Bench(network, bench.REGIONS["patch"], 2)
    rows = bench.rows((36, 36), "patch")
    quantities = [row.quantity for row in rows if row.loss in ("hide", "top-k")] + [bench.fooled]
    on_patch, hottest, fooled = map(np.asarray, found.measure(found.clean(), quantities))
    for i, problem in enumerate(found.problems):
        clean, heat = np.asarray(problem.clean_heat), np.asarray(problem.clean_heat_of_target)
        covered = coverage((36, 36), (72, 72), problem.corner, (64, 64))
        np.testing.assert_allclose(on_patch[i], energy(heat, np.asarray(covered)), rtol=1e-5)
        ten = clean >= np.sort(clean.ravel())[-10]
        np.testing.assert_allclose(hottest[i], energy(heat, ten.astype(float)), rtol=1e-5)
    np.testing.assert_array_equal(fooled, 0)  # no target is what the network names
