import dataclasses
import json
import time

import jax
import numpy as np
import pytest
import tinies
from packing import id_of, plain
from pages import Page
from PIL import Image

import gcpatch
from gcpatch import cli
from gcpatch.data import images
from gcpatch.evaluation.faithfulness import faithfulness
from gcpatch.explainers import registry
from gcpatch.report.figures import coloured, upsample
from gcpatch.runs import explaining

MINI = ["--model", "mini_resnext", "--weights", "random"]


def test_explain_draws_every_image(photos, tmp_path, capsys, refuse):
    (photos / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "maps"
    assert cli.main(["explain", str(photos), *MINI, "--out", str(out), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [plain(row["id"]) for row in rows] == ["broken", "photo0", "photo1"]
    home = out / "images"
    overlay = home / rows[1]["id"] / "grad-cam" / "overlay.png"
    assert images.read_png(overlay).shape == (224, 224, 3)
    assert np.load(home / rows[2]["id"] / "grad-cam" / "heat.npy").shape == (7, 7)
    assert json.loads((out / "run.json").read_text())["settings"]["methods"] == ["grad-cam"]
    assert rows[1]["label"]["name"]
    few = ["--out", str(tmp_path / "few"), "--limit", "2"]
    assert cli.main(["explain", str(photos), *MINI, *few]) == 1
    assert "photo0" in (printed := capsys.readouterr().out) and "photo1" not in printed
    assert "--limit is 0" in refuse("explain", photos, *MINI, "--out", out, "--limit", "0")
    line = refuse("explain", photos, *MINI, "--out", out, "--method", "lime")
    assert "there is no method 'lime'; choose one of grad-cam, hirescam, grad-cam++" in line


def test_a_second_run_in_the_same_folder_takes_the_same_images(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    (photos / "notes.heic").touch()
    command = ["explain", ".", *MINI, "--json", "--out"]
    for out, notes in (("maps", 0), ("maps", 1), ("more", 1)):
        assert cli.main([*command, out, "--resume"]) == 0
        printed, said = capsys.readouterr()
        assert [row["source"] for row in json.loads(printed)] == ["photo0.png", "photo1.png"]
        skipped, *left = [line for line in said.splitlines() if line.startswith("gcpatch")]
        assert skipped == "gcpatch explain: skipped 1 file: 1 .heic"
        assert len(left) == notes and all(
            "left out " in line and "'./maps" in line for line in left
        )


def test_explain_by_another_method(photos, tmp_path, capsys):
    source, out = str(photos / "photo0.png"), tmp_path / "maps"
    options = ["--method", "gradient-x-input", "--label", "3", "--colormap", "viridis"]
    options += ["--out", str(out)]
    assert cli.main(["explain", source, *MINI, *options]) == 0
    image = images.read_image(source, 224).astype(np.float32) / 255
    wanted = jax.jit(gcpatch.gradient_x_input)(gcpatch.load("mini_resnext", "random"), image, 3)
    home = out / "images" / id_of(source) / "gradient-x-input"
    heat = np.load(home / "heat.npy")
    assert heat.min() < 0 < heat.max()
    np.testing.assert_allclose(heat, wanted, rtol=1e-3, atol=1e-4 * heat.max())
    drawn = images.read_png(home / "heatmap.png")
    np.testing.assert_array_equal(drawn, coloured(upsample(heat, 224), "viridis"))


def test_every_method_is_listed(capsys):
    contract = (
        "grad-cam hirescam grad-cam++ xgrad-cam layercam input-gradient gradient-x-input "
        "smoothgrad integrated-gradients guided-backprop occlusion"
    )
    with pytest.raises(SystemExit) as end:
        cli.main(["explain", "--method", "help"])
    assert end.value.code == 0
    found = capsys.readouterr().out.split()
    assert found == [*registry.METHODS] and {*contract.split()} < {*found}


def test_files_of_several_frames_are_said_once(tmp_path, capsys):
    frames = [Image.fromarray(np.full((9, 9, 3), 40 * n, np.uint8)) for n in range(2)]
    for name in ("a.gif", "b.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert cli.main(["explain", str(tmp_path), *MINI, "--out", str(tmp_path / "out")]) == 0
    (line,) = [s for s in capsys.readouterr().err.splitlines() if "several frames" in s]
    assert f"{str(tmp_path / 'a.gif')!r} has several frames" in line


@pytest.fixture
def tiny_model(monkeypatch):
    """Has `--model mini_vgg` name the tiny VGG, of classes a, b and c, for images of 28 pixels."""
    network = tinies.vgg()
    network.preprocessing = dataclasses.replace(network.preprocessing, size=28)
    monkeypatch.setattr("gcpatch.cli.explain.load_network", lambda *_: network)
    return network


def rows_of(capsys, *command):
    """The status of a command and the rows that it prints."""
    status = cli.main([*map(str, command), "--model", "mini_vgg", "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_methods_side_by_side_with_labels_of_a_manifest(photos, tmp_path, capsys, tiny_model):
    manifest = photos / "list.csv"
    manifest.write_text("path,label\nphoto0.png,b\nphoto1.png,\n")
    out = tmp_path / "maps"
    command = ["explain", manifest, "--methods", "layercam,grad-cam,layercam", "--faithfulness"]
    status, rows = rows_of(capsys, *command, "--out", out)
    assert status == 0 and rows[0]["label"] == {"id": 1, "name": "b"}
    assert rows[1]["label"]["id"] == rows[1]["top"]["id"]
    read = gcpatch.read_run(out)
    assert len(read) == 2 and repr(read[0]).endswith(": explained>")
    pixels = np.stack([one["image"] for one in read.pictures]).astype(np.float32) / 255
    labels = [row["label"]["id"] for row in rows]
    assert list(rows[0]["maps"]) == ["layercam", "grad-cam"]
    for method in rows[0]["maps"]:
        maps = gcpatch.explain(tiny_model, pixels, labels, method)
        measured = faithfulness(tiny_model, pixels, labels, maps)
        for n, row in enumerate(rows):
            heat = np.load(out / "images" / row["id"] / method / "heat.npy")
            np.testing.assert_allclose(heat, maps[n], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(row["maps"][method]["road"], measured.road[n], atol=1e-3)
    summary = json.loads((out / "summary.json").read_text())
    mean, low, high = summary["methods"]["grad-cam"]["deletion"]
    assert low <= mean <= high and summary["images"] == 2
    np.testing.assert_allclose(
        mean, np.mean([row["maps"]["grad-cam"]["deletion"] for row in rows]), rtol=1e-6
    )
    page = Page(out / "report.html")
    assert page.data["methods"] == ["layercam", "grad-cam"]
    assert [len(card["pictures"]) for card in page.data["cards"]] == [3, 3]
    assert page.columns["maps.grad-cam.road"][0] == pytest.approx(
        rows[0]["maps"]["grad-cam"]["road"], rel=1e-4
    )
    status, rows = rows_of(capsys, "explain", manifest, "--label", "2", "--out", tmp_path / "other")
    assert [row["label"]["name"] for row in rows] == ["c", "c"]


def test_an_explaining_run_is_taken_up(photos, tmp_path, capsys, tiny_model, refuse):
    out = tmp_path / "maps"
    command = ["explain", photos, "--out", out]
    (photos / "photo2.png").write_bytes(b"no picture")
    status, rows = rows_of(capsys, *command)
    assert status == 1 and rows[2]["error"]
    kept = out / "images" / rows[0]["id"] / "panel.png"
    before = kept.stat().st_mtime_ns
    images.write_png(photos / "photo1.png", np.zeros((40, 40, 3), np.uint8))
    images.write_png(photos / "photo2.png", np.full((40, 40, 3), 200, np.uint8))
    status, again = rows_of(capsys, *command, "--resume")
    assert status == 0 and again[0] == rows[0] and kept.stat().st_mtime_ns == before
    assert again[1]["sha256"] != rows[1]["sha256"] and not again[2]["error"]
    line = refuse(*command, "--model", "mini_vgg")
    assert "go on with --resume" in line
    line = refuse(*command, "--model", "mini_vgg", "--resume", "--methods", "hirescam,layercam")
    assert "methods was ['grad-cam'] and is ['hirescam', 'layercam']" in line


def test_a_budget_ends_an_explaining_run_in_good_order(
    photos, tmp_path, capsys, monkeypatch, tiny_model
):
    explain = explaining.explain_batch

    def slow(*arguments, **options):
        time.sleep(1)
        return explain(*arguments, **options)

    monkeypatch.setattr(explaining, "explain_batch", slow)
    command = ["explain", str(photos), "--batch", "1", "--out", str(tmp_path / "maps")]
    assert cli.main([*command, "--model", "mini_vgg", "--budget", "1s"]) == 142
    assert capsys.readouterr().err.endswith(
        "gcpatch explain: the budget is spent; go on with the same command and --resume\n"
    )
    (line,) = (tmp_path / "maps/results.jsonl").read_text().splitlines()
    status, rows = rows_of(capsys, *command, "--resume")
    assert status == 0 and len(rows) == 2 and rows[0] == json.loads(line)


def test_parts_make_one_page(photos, tmp_path, capsys, tiny_model):
    for part in (1, 2):
        out = tmp_path / "maps" / f"part-{part}"
        status, rows = rows_of(capsys, "explain", photos, "--shard", f"{part}/2", "--out", out)
        assert status == 0 and [plain(row["id"]) for row in rows] == [f"photo{part - 1}"]
    assert cli.main(["report", str(tmp_path / "maps")]) == 0
    page = Page(tmp_path / "maps" / "report.html")
    assert len(page.data["cards"]) == 2 and page.data["methods"] == ["grad-cam"]


def test_what_cannot_be_asked_of_explain(photos, tmp_path, refuse):
    command = ["explain", photos, *MINI, "--out", tmp_path / "maps"]
    line = refuse(*command, "--method", "grad-cam", "--methods", "layercam")
    assert line.endswith("--method and --methods exclude each other")
    assert "there is no method 'lime'" in refuse(*command, "--methods", "grad-cam,lime")
    assert "the batch is 0; it must be" in refuse(*command, "--batch", "0")
    assert "the shard '3/2' is not I/N" in refuse(*command, "--shard", "3/2")
    assert not (tmp_path / "maps").exists()
