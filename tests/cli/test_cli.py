import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from packing import id_of, plain

import gcpatch
from gcpatch import cli, networks
from gcpatch.data import images
from gcpatch.explainers import registry
from gcpatch.runs import campaign

MINI = ["--model", "mini_resnext", "--weights", "random"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 50, 60, 3), np.uint8)
    for i, picture in enumerate(pixels):
        images.write_png(folder / f"photo{i}.png", picture)
    return folder


def refuse(capsys, *arguments):
    """Runs a command that must be refused; returns the one line that says why."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.strip().splitlines()
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "vgg20"], "there is no network 'vgg20'; choose one of vgg11"),
        (["--target", "lynx"], "there is no class 'lynx'"),
        (["--optimizer", "lion"], "there is no optimizer 'lion'; choose one of sign, sgd"),
        (["--objective", "shine"], "there is no objective 'shine'; choose one of hide"),
        (["--objective", "nowhere:shine"], "there is no objective 'nowhere:shine'"),
        (["--preset", "paper-16"], "there is no preset 'paper-16'; choose one of paper-64"),
        (["--init", "zero"], "there is no init 'zero'; choose one of mean"),
        (["--resize-mode", "fit"], "there is no resize mode 'fit'; choose one of stretch, crop"),
        (["--precision", "float8"], "there is no precision 'float8'"),
        (["--size", "300"], "a patch of 300x300 at top-right does not lie inside"),
        (["--size", "0"], "the patch's size is 0"),
        (["--position", "0,200"], "does not lie inside an image of 224x224"),
        (["--position", "middle"], "there is no position 'middle'"),
        (["--position", "1,b"], "the position '1,b' is not ROW,COLUMN"),
        (["--ratio", "0"], "the ratio is 0.0"),
        (["--ratio", "1.5"], "the ratio is 1.5"),
        (["--ratio", "nan"], "the ratio is nan"),
        (["--steps", "0"], "steps is 0; it must be at least 1"),
        (["--learning-rate", "-1"], "the learning rate is -1.0"),
        (["--ce-weight", "-1"], "ce_weight is -1.0"),
        (["--batch", "0"], "the batch is 0"),
        (["--shard", "3/2"], "the shard '3/2' is not I/N"),
        (["--weights", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(options, message, photos, tmp_path, capsys):
    base = {"--model": "mini_resnext", "--weights": "random", "--out": tmp_path / "run"}
    given = base | dict(zip(options[::2], options[1::2], strict=True))
    line = refuse(capsys, "attack", photos, *(part for pair in given.items() for part in pair))
    assert message in line
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_a_missing_file_and_a_folder_that_cannot_be(photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    run = tmp_path / "run"
    assert "empty" in refuse(capsys, "attack", tmp_path / "empty", *MINI, "--out", run)
    assert "gone.png" in refuse(capsys, "attack", photos / "gone.png", *MINI, "--out", run)
    blocked = photos / "photo0.png" / "run"
    line = refuse(capsys, "attack", photos, *MINI, "--out", blocked, "--steps", "1")
    assert "cannot write to the folder" in line
    assert "gone" in refuse(capsys, "report", tmp_path / "gone")


def test_a_network_without_weights_says_how_to_bring_them(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "home"))
    line = refuse(capsys, "attack", photos, "--model", "vgg19_bn", "--out", tmp_path / "run")
    assert "gcpatch convert vgg19_bn --weights FILE.pth" in line


def test_attack_then_resume_then_report(photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"")
    run = tmp_path / "run"
    command = ["attack", str(photos), *MINI, "--out", str(run), "--steps", "2", "--batch", "2"]
    assert cli.main(command) == 1  # for the broken file
    out, err = capsys.readouterr()
    assert "3 images, 1 failed" in out
    assert "broken" in err
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert settings["attack"]["steps"] == 2
    records = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert sorted(record["id"] for record in records) == sorted(
        id_of(photos / name) for name in ("broken.jpg", "photo0.png", "photo1.png")
    )
    for name in ("photo0.png", "photo1.png"):
        assert (run / "images" / id_of(photos / name) / "panel.png").exists()
    assert "--resume" in refuse(capsys, *command)
    (photos / "broken.jpg").unlink()
    assert cli.main([*command, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    (run / "report.html").unlink()
    assert cli.main(["report", str(run)]) == 0
    assert (run / "report.html").exists()


def test_presets_can_be_changed_by_options():
    parser = cli._parser()
    common = ["attack", "x", "--model", "mini_vgg", "--out", "y", "--preset", "subramanya"]
    patch, attack = cli._settings(parser.parse_args(common))
    assert (patch.position, attack.steps, attack.learning_rate) == ((0, 0), 750, 0.005)
    changed = ["--steps", "5", "--position", "1,2", "--optimizer", "adam"]
    patch, attack = cli._settings(parser.parse_args([*common, *changed]))
    assert (patch.position, attack.steps, attack.optimizer) == ((1, 2), 5, "adam")
    assert attack.learning_rate is None
    assert (patch.size, attack.objective.name) == (64, "subramanya")


def test_an_objective_from_a_module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def centre(evidence):\n    return evidence.heat[0, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli._objective("mine:centre").__name__ == "centre"


def test_shards_part_the_images(photos, tmp_path, capsys):
    ids = []
    for part in (1, 2, 3):
        out = tmp_path / f"part-{part}"
        options = ["--steps", "1", "--shard", f"{part}/3", "--out", str(out)]
        assert cli.main(["attack", str(photos), *MINI, *options]) == 0
        lines = (out / "results.jsonl").read_text().splitlines()
        ids.append([json.loads(line)["id"] for line in lines])
    capsys.readouterr()
    assert ids == [[id_of(photos / "photo0.png")], [id_of(photos / "photo1.png")], []]
    line = refuse(capsys, "attack", photos, *MINI, "--out", tmp_path, "--shard", "4/3")
    assert "'4/3' is not I/N" in line
    options = ["--shard", "1/2", "--distributed", "127.0.0.1:1,1,0"]
    assert "leave out --shard" in refuse(
        capsys, "attack", photos, *MINI, "--out", tmp_path, *options
    )
    line = refuse(capsys, "attack", photos, *MINI, "--out", tmp_path, "--distributed", "here")
    assert "'here' is not HOST:PORT,N,I" in line


def test_explain_draws_every_image(photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "maps"
    assert cli.main(["explain", str(photos), *MINI, "--out", str(out), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [plain(row["id"]) for row in rows] == ["broken", "photo0", "photo1"]
    assert images.read_png(out / rows[1]["id"] / "overlay.png").shape == (224, 224, 3)
    assert np.load(out / rows[2]["id"] / "heat.npy").shape == (7, 7)
    assert rows[1]["label"]["name"]
    line = refuse(capsys, "explain", photos, *MINI, "--out", out, "--method", "lime")
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


def test_an_image_that_is_the_target_already_is_no_failure(photos, tmp_path, capsys):
    source = photos / "photo0.png"
    image = images.read_image(source, 224).astype(np.float32) / 255
    own = int(jax.jit(gcpatch.load("mini_resnext", "random"))(image).argmax())
    options = ["--target", f"{own}.0", "--out", str(tmp_path / "run")]
    assert cli.main(["attack", str(source), *MINI, *options]) == 0
    out = capsys.readouterr().out
    assert "1 images, 0 failed, 1 skipped" in out and "already" in out
    assert cli.main(["report", str(tmp_path / "run")]) == 0


def test_every_shard_gets_the_labels_of_the_whole_list(photos, tmp_path, monkeypatch, capsys):
    network = gcpatch.load("mini_resnext", "random")
    folders = [network.categories[2].upper(), "1", "holidays"]
    for folder in folders:
        (photos / "val" / folder).mkdir(parents=True)
        (photos / "val" / folder / "1.png").touch()
    given = []
    monkeypatch.setattr(campaign, "run", lambda *run, **options: given.extend(run[2]) or iter(()))
    for shard in ("1/3", "2/3", "3/3"):
        options = ["--shard", shard, "--out", str(tmp_path / shard.replace("/", "-"))]
        assert cli.main(["attack", str(photos / "val"), *MINI, *options]) == 0
        assert "no labels from folders or sidecars: there is no class" in capsys.readouterr().err
    assert [item.label for item in given] == [None] * 3
    (photos / "val" / "holidays" / "1.png").unlink()
    options = ["--shard", "1/2", "--out", str(tmp_path / "run")]
    assert cli.main(["attack", str(photos / "val"), *MINI, *options]) == 0
    assert "labels from 2 classes" in capsys.readouterr().err and given[-1].label == "1"


def test_explain_by_another_method(photos, tmp_path, capsys):
    source, out = str(photos / "photo0.png"), tmp_path / "maps"
    options = ["--method", "gradient-x-input", "--label", "3", "--out", str(out)]
    assert cli.main(["explain", source, *MINI, *options]) == 0
    image = images.read_image(source, 224).astype(np.float32) / 255
    wanted = jax.jit(gcpatch.gradient_x_input)(gcpatch.load("mini_resnext", "random"), image, 3)
    heat = np.load(out / id_of(source) / "heat.npy")
    assert heat.min() < 0 < heat.max()
    np.testing.assert_allclose(heat, wanted, rtol=1e-3, atol=1e-4 * heat.max())


def test_every_method_is_in_the_help(capsys):
    contract = (
        "grad-cam hirescam grad-cam++ xgrad-cam layercam input-gradient gradient-x-input "
        "smoothgrad integrated-gradients guided-backprop occlusion"
    )
    with pytest.raises(SystemExit):
        cli.main(["explain", "--help"])
    found = capsys.readouterr().out
    assert {*contract.split()} < registry.METHODS.keys()
    assert all(name in found for name in contract.split())


def test_models_lists_them_all(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path))
    monkeypatch.setattr(networks, "NAMES", ("vgg19", "vgg19_bn", "mini_vgg"))
    assert cli.main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["vgg19_bn"]["parameters"] == 143_678_248
    assert rows["vgg19_bn"]["target_layer"] == "features.51"
    assert rows["mini_vgg"]["weights"] == "bundled"
    assert rows["vgg19"]["weights"] is None


def test_convert_random_weights_and_back(tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "home"))
    assert cli.main(["convert", "mini_resnext", "--weights", "random"]) == 0
    assert "random seed 0" in capsys.readouterr().out
    arguments = ["convert", "mini_resnext", "--to-torch", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    state = torch.load(tmp_path / "mini_resnext.pth", weights_only=True)
    assert state["conv1.weight"].shape == (8, 3, 7, 7)
    capsys.readouterr()
    assert "vgg20" in refuse(capsys, "convert", "vgg20")


@pytest.mark.parametrize("verb", ["demo", "attack", "explain", "convert", "models", "report"])
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--help"])
    assert end.value.code == 0
    assert f"example:\n  gcpatch {verb}" in capsys.readouterr().out


def test_wrong_usage_exits_2(capsys):
    for arguments in ([], ["dance"], ["attack"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2


def test_help_is_quick_and_imports_no_jax():
    code = "import sys; from gcpatch import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\nassert 'jax' not in sys.modules"  # noqa: E501
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.monotonic() - start < 5  # a second on an idle machine; JAX alone takes longer
