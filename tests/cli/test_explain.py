import json

import jax
import numpy as np
import pytest
from packing import id_of, plain
from PIL import Image

import gcpatch
from gcpatch import cli
from gcpatch.data import images
from gcpatch.explainers import registry
from gcpatch.report.figures import coloured, upsample

MINI = ["--model", "mini_resnext", "--weights", "random"]


def test_explain_draws_every_image(photos, tmp_path, capsys, refuse):
    (photos / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "maps"
    assert cli.main(["explain", str(photos), *MINI, "--out", str(out), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [plain(row["id"]) for row in rows] == ["broken", "photo0", "photo1"]
    assert images.read_png(out / rows[1]["id"] / "overlay.png").shape == (224, 224, 3)
    assert np.load(out / rows[2]["id"] / "heat.npy").shape == (7, 7)
    assert rows[1]["label"]["name"]
    assert cli.main(["explain", str(photos), *MINI, "--out", str(out), "--limit", "2"]) == 1
    assert "photo0" in (printed := capsys.readouterr().out) and "photo1" not in printed
    assert "--limit is 0" in refuse("explain", photos, *MINI, "--out", out, "--limit", "0")
    line = refuse("explain", photos, *MINI, "--out", out, "--method", "lime")
    assert "there is no method 'lime'; choose one of grad-cam, hirescam, grad-cam++" in line


def test_a_second_run_in_the_same_folder_takes_the_same_images(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    (photos / "notes.heic").touch()
    command = ["explain", ".", *MINI, "--json", "--out"]
    for out, notes in (("maps", 0), ("maps", 1), ("more", 1)):
        assert cli.main([*command, out]) == 0
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
    heat = np.load(out / id_of(source) / "heat.npy")
    assert heat.min() < 0 < heat.max()
    np.testing.assert_allclose(heat, wanted, rtol=1e-3, atol=1e-4 * heat.max())
    drawn = images.read_png(out / id_of(source) / "heatmap.png")
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
    assert line.startswith(f"gcpatch explain: {str(tmp_path / 'a.gif')!r} has several frames")
