import json

import jax
import numpy as np
import pytest
from packing import id_of
from PIL import Image

import gcpatch
from gcpatch import cli
from gcpatch.data import images
from gcpatch.runs import campaign

MINI = ["--model", "mini_resnext", "--weights", "random"]


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
        (["--colormap", "rainbow"], "there is no colormap 'rainbow'; choose one of jet, viridis"),
        (["--size", "300"], "a patch of 300x300 at top-right does not lie inside"),
        (["--size", "0"], "size is 0; it must be at least 1"),
        (["--position", "0,200"], "does not lie inside an image of 224x224"),
        (["--position", "middle"], "there is no position 'middle'"),
        (["--position", "1,b"], "the position '1,b' is not ROW,COLUMN"),
        (["--ratio", "0"], "ratio is 0.0"),
        (["--ratio", "1.5"], "ratio is 1.5"),
        (["--ratio", "nan"], "ratio is nan"),
        (["--steps", "0"], "steps is 0; it must be at least 1"),
        (["--learning-rate", "-1"], "learning_rate is -1.0"),
        (["--ce-weight", "-1"], "ce_weight is -1.0"),
        (["--batch", "0"], "the batch is 0"),
        (["--budget", "2d"], "the budget is '2d'; it must be seconds (90 or 90s), minutes (15m)"),
        (["--budget", "0"], "the budget is '0'"),
        (["--budget", ""], "the budget is ''"),
        (["--budget", "30m1h"], "the budget is '30m1h'"),
        (["--budget", "1h30"], "the budget is '1h30'"),  # minutes, or seconds?
        (["--shard", "3/2"], "the shard '3/2' is not I/N"),
        (["--weights", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(options, message, photos, tmp_path, refuse):
    base = {"--model": "mini_resnext", "--weights": "random", "--out": tmp_path / "run"}
    given = base | dict(zip(options[::2], options[1::2], strict=True))
    line = refuse("attack", photos, *(part for pair in given.items() for part in pair))
    assert message in line
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_a_missing_file_and_a_folder_that_cannot_be(photos, tmp_path, refuse):
    (tmp_path / "empty").mkdir()
    run = tmp_path / "run"
    assert "empty" in refuse("attack", tmp_path / "empty", *MINI, "--out", run)
    assert "gone.png" in refuse("attack", photos / "gone.png", *MINI, "--out", run)
    blocked = photos / "photo0.png" / "run"
    line = refuse("attack", photos, *MINI, "--out", blocked, "--steps", "1")
    assert "cannot write to the folder" in line
    assert "gone" in refuse("report", tmp_path / "gone")


def test_a_network_without_weights_says_how_to_bring_them(photos, tmp_path, monkeypatch, refuse):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "home"))
    line = refuse("attack", photos, "--model", "vgg19_bn", "--out", tmp_path / "run")
    assert "gcpatch convert vgg19_bn --weights FILE.pth" in line


def test_attack_then_resume_then_report(photos, tmp_path, capsys, refuse):
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
    assert "--resume" in refuse(*command)
    line = refuse(*command, "--resume", "--colormap", "turbo")
    assert "colormap was 'jet' and is 'turbo'" in line
    older = json.loads((run / "run.json").read_text())
    del older["settings"]["colormap"]  # which goes on as jet
    (run / "run.json").write_text(json.dumps(older))
    (photos / "broken.jpg").unlink()
    assert cli.main([*command, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    (run / "report.html").unlink()
    assert cli.main(["report", str(run)]) == 0
    assert (run / "report.html").exists()


def test_shards_part_the_images(photos, tmp_path, capsys, refuse):
    ids = []
    for part in (1, 2, 3):
        out = tmp_path / f"part-{part}"
        options = ["--steps", "1", "--shard", f"{part}/3", "--out", str(out)]
        assert cli.main(["attack", str(photos), *MINI, *options]) == 0
        lines = (out / "results.jsonl").read_text().splitlines()
        ids.append([json.loads(line)["id"] for line in lines])
    capsys.readouterr()
    assert ids == [[id_of(photos / "photo0.png")], [id_of(photos / "photo1.png")], []]
    line = refuse("attack", photos, *MINI, "--out", tmp_path, "--shard", "4/3")
    assert "'4/3' is not I/N" in line
    options = ["--shard", "1/2", "--distributed", "127.0.0.1:1,1,0"]
    assert "leave out --shard" in refuse("attack", photos, *MINI, "--out", tmp_path, *options)
    line = refuse("attack", photos, *MINI, "--out", tmp_path, "--distributed", "here")
    assert "'here' is not HOST:PORT,N,I" in line


def test_the_limit_is_taken_before_shards_and_lifted_by_resume(
    photos, tmp_path, monkeypatch, capsys, refuse
):
    (photos / "val").mkdir()
    for name in "abcde":
        images.write_png(photos / "val" / f"{name}.png", np.zeros((4, 4, 3), np.uint8))
    given = []
    monkeypatch.setattr(campaign, "run", lambda *run, **options: given.append(run[2]) or iter(()))
    command = ["attack", str(photos / "val"), *MINI, "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--limit", "3", "--shard", "2/2"]) == 0
    assert cli.main([*command, "--limit", "4", "--shard", "2/2", "--resume"]) == 0
    assert cli.main([*command, "--limit", "9", "--shard", "2/2", "--resume"]) == 0
    names = [[item.source[-5] for item in items] for items in given]
    assert names == [["b"], ["b", "d"], ["b", "d"]]
    capsys.readouterr()
    for limit in ("0", "-1"):
        line = refuse(*command, "--limit", limit)
        assert f"--limit is {limit}; it must be at least 1" in line


def test_labels_do_not_depend_on_the_limit(photos, tmp_path, monkeypatch, capsys):
    for folder in ("1", "holidays"):
        (photos / "val" / folder).mkdir(parents=True)
        images.write_png(photos / "val" / folder / "1.png", np.zeros((4, 4, 3), np.uint8))
    given = []
    monkeypatch.setattr(campaign, "run", lambda *run, **options: given.extend(run[2]) or iter(()))
    options = ["--limit", "1", "--out", str(tmp_path / "run")]
    assert cli.main(["attack", str(photos / "val"), *MINI, *options]) == 0
    assert [item.label for item in given] == [None]


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


@pytest.mark.parametrize("out", ["out", "deep/er/out", "./out/", "../photos/out"])
def test_a_second_run_does_not_attack_the_first_ones_pictures(photos, monkeypatch, capsys, out):
    monkeypatch.chdir(photos)
    (photos / "deep").mkdir()
    given = []
    monkeypatch.setattr(campaign, "run", lambda *run, **options: given.append(run[2]) or iter(()))
    for again in ([], ["--resume"]):
        assert cli.main(["attack", ".", *MINI, "--out", out, *again]) == 0
        images.write_png(photos / out / "images" / "heatmap.png", np.zeros((4, 4, 3), np.uint8))
    first, second = ([item.source for item in items] for items in given)
    assert first == second == ["photo0.png", "photo1.png"]
    assert "left out 1 folder of gcpatch's own: " in capsys.readouterr().err


def test_the_clear_part_of_a_mask_stays_as_it_is(photos, tmp_path, capsys):
    mask = np.full((56, 56, 4), 255, np.uint8)
    mask[:, 14:, 3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = ["--mask", str(tmp_path / "mask.png"), "--steps", "1", "--out", str(tmp_path / "run")]
    assert cli.main(["attack", str(photos / "photo0.png"), *MINI, *options]) == 0
    folder = tmp_path / "run" / "images" / id_of(photos / "photo0.png")
    apart = images.read_png(folder / "adversarial.png") != images.read_image(
        photos / "photo0.png", 224
    )
    assert apart[:, :56].any() and not apart[:, 56:].any()
