"""Runs shown to other networks, explainers and defences."""

import csv
import json

import numpy as np
import pytest

from gcpatch import cli
from gcpatch.data import images, scenes
from gcpatch.evaluation import transfer
from gcpatch.evaluation.intervals import rate
from gcpatch.report import matrix
from gcpatch.report.records import read_records


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two scenes attacked by `highlight`, and an image that cannot be read."""
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "photos").mkdir()
    for i, image in enumerate(np.asarray(scenes.draw_batch(8, 2, size=224).image)):
        pixels = np.rint(image * 255).astype(np.uint8)
        images.write_png(folder / "photos" / f"{i}.png", pixels)
    (folder / "photos" / "bad.png").write_bytes(b"nothing")
    common = ["--model", "mini_vgg", "--objective", "highlight", "--steps", "3", "--batch", "2"]
    options = [*common, "--target", "runner-up", "--out", str(folder / "run")]
    assert cli.main(["attack", str(folder / "photos"), *options]) == 1
    return folder / "run"


def test_on_its_own_network_it_says_what_the_records_say(run, capsys, tmp_path):
    capsys.readouterr()
    options = ["--models", "mini_vgg,mini_vgg_bn", "--methods", "grad-cam,hirescam", "--json"]
    defences = ["--defences", "bits-3,crop-60", "--out", str(tmp_path / "out")]
    assert cli.main(["transfer", str(run), *options, *defences]) == 0
    means = json.loads(capsys.readouterr().out)
    assert len(means) == 2 * 2 * 3 and {row["images"] for row in means} == {2}
    lines = (tmp_path / "out" / "transfer.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 2 * 2 * 3 * 2
    for record in read_records(run):
        if record["error"]:
            continue
        (own,) = (
            row
            for row in rows
            if row["id"] == record["id"]
            and [row[key] for key in ("network", "method", "defence")]
            == ["mini_vgg", "grad-cam", "none"]
        )
        np.testing.assert_allclose(own["energy"], record["energy_adversarial"], rtol=1e-4)
        for key, same in (("fooled_class", "fooled_class"), ("pointing", "pointing_adversarial")):
            assert own[key] == record[same]
        assert own["fooled_explanation"] == record["fooled_explanation"]
        np.testing.assert_allclose(own["area"], 64**2 / 224**2, rtol=1e-6)
    cropped = [row["area"] for row in rows if row["defence"] == "crop-60"]
    assert np.ptp(cropped) > 0.01  # each image is cropped on its own, the patch with it
    table = list(csv.DictReader((tmp_path / "out" / "transfer.csv").read_text().splitlines()))
    expected = [f"{row['energy']['value']:.6f}" for row in means]
    assert [f"{float(row['energy_mean']):.6f}" for row in table] == expected
    picture = images.read_png(tmp_path / "out" / "transfer.png")
    assert picture.shape[0] > 6 * matrix.CELL[1] and len(np.unique(picture)) > 50


def test_a_table_for_people(run, capsys):
    capsys.readouterr()
    assert cli.main(["transfer", str(run), "--models", "mini_vgg", "--images", "1"]) == 0
    head, _, line = capsys.readouterr().out.splitlines()
    assert head.split()[-4:] == ["explanation", "energy", "pointing", "area"]
    assert "[" in line and line.split()[:6] == [
        "run",
        "mini_vgg",
        "highlight",
        "none",
        "mini_vgg",
        "grad-cam",
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--methods", "grad-kam"], "no method 'grad-kam'"),
        (["--models", "mini"], "mini"),
        (["--defences", "jpeg-0"], "jpeg-0"),
        (["--images", "0"], "--images is 0"),
    ],
)
def test_wrong_usage(run, options, message, capsys):
    assert cli.main(["transfer", str(run), "--models", "mini_vgg", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("settings", [None, "{}", '{"settings": {"patch": {"radius": 3}}}'])
def test_no_run(tmp_path, capsys, settings):
    if settings:
        (tmp_path / "run.json").write_text(settings)
        (tmp_path / "results.jsonl").write_text("")
    assert cli.main(["transfer", str(tmp_path), "--models", "mini_vgg"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_means_are_of_each_group():
    rows = [
        dict.fromkeys(transfer.GROUP, "x")
        | {
            "network": network,
            "id": str(i),
            "fooled_class": i < share,
            "energy": i / 4,
            "fooled_explanation": None,
            "pointing": True,
            "area": 0.1,
        }
        for network, share in (("a", 1), ("b", 3))
        for i in range(4)
    ]
    second, first = transfer.summarise(reversed(rows))
    assert (first["network"], second["network"]) == ("a", "b")
    assert (first["fooled_class"]["value"], second["fooled_class"]["value"]) == (0.25, 0.75)
    assert first["energy"]["value"] == 0.375 and first["fooled_explanation"] is None
    assert 0 <= first["energy"]["low"] < 0.375 < first["energy"]["high"] <= 0.75
    assert first["pointing"] == rate(4, 4)._asdict()


def test_a_target_is_found_by_its_name_where_classes_have_other_numbers():
    recorded = {"id": 0, "name": "b"}
    assert transfer._target(recorded, ("b", "a")) == 0
    assert transfer._target(recorded, ("a", "b")) == 1
