"""The paper's figures come from records, and the same seed gives the same ones."""

import csv
import json

import numpy as np
import pytest
from packing import plain

pytest.importorskip("matplotlib")

from experiments.paper import experiment4, findings, layers, loss_curves, page
from experiments.paper.findings import Check, judge
from experiments.paper.study import TITLES, Cell, Study
from gcpatch.data.images import read_png, write_png
from gcpatch.errors import UserError

SCENES, STEPS = 2, 3


def small(out) -> Study:
    """A study in which one mini stands for all four networks."""
    study = Study("mini", "scenes", SCENES, STEPS, out)
    study.networks = dict.fromkeys(TITLES, "mini_vgg")
    return study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def finding(folder):
    return experiment4.experiment(small(folder))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_an_experiment_draws_its_figures_and_writes_its_records(finding):
    assert [path.name for path in finding.pictures] == ["figure-12.png", "figure-13.png"]
    assert all(read_png(path).std() > 10 for path in finding.pictures)
    rows = rows_of(finding.table)
    assert [row["network"] for row in rows] == ["VGG19"] * SCENES + ["ResNeXt101"] * SCENES
    assert {int(row["steps"]) for row in rows} <= set(range(1, STEPS + 1))


def test_the_same_seed_gives_the_same_table(finding, tmp_path):
    again = experiment4.experiment(small(tmp_path))
    assert again.table.read_bytes() == finding.table.read_bytes()
    assert again.verdicts == finding.verdicts


def test_a_changed_record_changes_table_and_sentence(finding, folder):
    path = folder / "runs" / "mini_vgg-printed-32" / "results.jsonl"
    kept = path.read_text()
    records = [
        json.loads(line) | {"energy_adversarial": 0.75, "map_iou": 0.9}
        for line in kept.splitlines()
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    before = finding.table.read_bytes()
    changed = experiment4.experiment(small(folder))
    path.write_text(kept)
    assert changed.table.read_bytes() != before
    finding.table.write_bytes(before)
    (verdict,) = changed.verdicts
    assert verdict != finding.verdicts[0]
    assert "the patch has 75.0 % of the target's heat" in verdict
    assert verdict.endswith("But: the hot halves of the maps before and after overlap by 90.0 %.")


def test_curves_are_medians_that_keep_the_last_value(tmp_path):
    cell = Cell("VGG19", "mini_vgg", "shown-32", tmp_path, [{"id": n} for n in "abc"])
    curves = {"a": [5.0, 4, 3], "b": [9.0], "c": [1.0, 1, 1]}
    np.savez(
        tmp_path / "histories.npz",
        **{
            f"{name}/{term}": np.array(values)
            for name, values in curves.items()
            for term in ("total", "cross_entropy", "explanation")
        },
    )
    assert loss_curves.median(cell, "explanation").tolist() == [5, 4, 3]


def test_table_1_is_the_zoos(tmp_path):
    finding = layers.experiment(small(tmp_path))
    layers_said, cells_said = finding.verdicts
    assert layers_said.startswith("layers: Reproduces: ")
    assert "VGG19-BN has 16 and 4 under them. But: Wide ResNet101 has 4 and 1" in cells_said
    printed = ["features.35", "features.51", "layer4.2", "layer4.2"]
    for column in ("in the paper", "in the zoo"):
        assert [row[column] for row in rows_of(finding.table)] == printed


@pytest.mark.parametrize(
    ("holds", "sentence"),
    [
        ([True, True], "Reproduces: 0; 1."),
        ([True, False], "Reproduces in part: 0. But: 1."),
        ([False, False], "Does not reproduce: 0; 1."),
        ([], "Cannot be told."),
    ],
)
def test_a_claim_is_judged_by_its_checks(holds, sentence):
    assert judge([None, *(Check(str(i), h) for i, h in enumerate(holds))]) == sentence


def test_objects_that_nobody_knows_are_left_out(tmp_path):
    record = {
        "id": "a",
        "fooled_class": True,
        "energy_clean": 0.1,
        "energy_adversarial": 0.9,
        "pointing_adversarial": True,
        "psnr": None,
    }
    cell = Cell("VGG19", "vgg19", "shown-64", tmp_path, [record])
    assert judge(findings.lit([cell])).startswith("Reproduces: 1 of 1 images")
    assert findings.rows([cell])[0]["heat on the object"] == "– → –"


def test_images_that_fail_are_counted_and_left_out(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "bad.png").write_bytes(b"no picture")
    write_png(pictures / "good.png", np.full((64, 64, 3), 90, np.uint8))
    study = Study("mini", str(pictures), 0, STEPS, tmp_path)
    study.networks = dict.fromkeys(TITLES, "mini_vgg")
    finding = experiment4.experiment(study)
    assert [plain(row["id"]) for row in rows_of(finding.table)] == ["good"] * 2
    assert {row["images"] for row in finding.rows} == {"1, 1 failed"}
    text = page.write(study, [("python -m one", finding)]).read_text()
    assert "2 of 4 results are missing; 2 times: " in text and "bad.png" in text
    (pictures / "good.png").unlink()
    with pytest.raises(UserError, match="no image has a result in"):
        Study("mini", str(pictures), 0, STEPS, tmp_path / "none").cell("VGG19", "left")


def test_only_the_method_of_16_takes_its_own_steps(tmp_path):
    assert Study("mini", "scenes", 1, None, tmp_path).steps == {
        "printed-64": 300,
        "printed-32": 300,
        "shown-64": 300,
        "shown-32": 300,
        "left": 750,
        "right": 750,
    }


def test_the_page_holds_everything(finding, folder):
    text = page.write(small(folder), [("python -m one", finding)]).read_text()
    assert text.count('src="data:image/webp') == len(finding.pictures)
    assert "src=" not in text.replace('src="data:', "") and "<script" not in text
    for said in (finding.claim, *finding.verdicts, finding.table.name, "python -m one"):
        assert page.escape(said) in text
