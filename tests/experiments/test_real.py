import subprocess
import sys

import numpy as np
import pytest

from experiments import real
from gcpatch.data import images, sources
from gcpatch.errors import UserError
from tests import tinies


def record(identity, **values):
    known = {
        "id": identity,
        "error": None,
        "skipped": None,
        "label": {"id": 1},
        "clean": {"id": 1},
        "png": {"id": 2},
        "fooled_class": True,
        "fooled_explanation": True,
        "fooled_both": True,
        "fooled_explanation_ring": False,
        "energy_adversarial": 0.02,
        "steps": 10,
        "psnr": 20.0,
    }
    return known | values


def test_only_what_the_network_has_right_counts():
    records = [record("a"), record("b", clean={"id": 0}), record("c", error="no"), record("d")]
    assert [*real.right(records)] == ["a", "d"]


def test_a_row_is_of_the_records_and_its_differences_are_image_by_image():
    (cell, *_) = real.cells(5)
    records = [record("a"), record("b", fooled_both=False, fooled_class=False, steps=30)]
    baseline = [record("b"), record("a")]
    found = dict(zip(real.HEAD, real.row(cell, records, baseline), strict=True))
    assert found["cell"] == "classify-64-1.0" and found["images"] == "2"
    assert found["class"].startswith("50% [") and found["hidden with the ring"].startswith("0% [0%")
    assert found["robust accuracy"].startswith("0% [")
    assert found["steps, median"].startswith("20 [10, 30]")
    assert found["both less `classify`"].startswith("-50% [-91%, +27%]")


def test_what_failed_is_told(tmp_path):
    (cell, *_) = real.cells(1)
    network = tinies.flat()
    lost = record("b", error="b.png: there is no class 'lynx'", label=None, clean=None)
    lines = list(real.table(network, {cell: [record("a"), lost]}))
    assert f"{cell.name}: 1 of 2 images failed: b.png: there is no class 'lynx'\n" in lines

    def gone():
        raise images.ImageError("gone.png is not there")

    with pytest.raises(UserError, match=r"no image has a result in .*: .*gone.png"):
        real.attack(cell, network, [sources.Item("gone", "gone.png", gone)], 1, tmp_path)


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    lines = ["path,label"]
    for i, picture in enumerate(pixels):
        images.write_png(tmp_path / f"{i}.png", picture)
        lines.append(f"{i}.png,{i}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    command = [sys.executable, "-m", "experiments.real", "--network", "mini_vgg", "--steps", "2"]
    command += ["--images", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]
    command += ["--cells", "classify-64-1.0,hide-64-1.0"]
    first = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert first == again and "| hide-64-1.0 |" in first
    assert (tmp_path / "out" / "table.md").read_text().strip() == first.strip()
