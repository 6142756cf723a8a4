import json

import numpy as np
import pytest

from gcpatch import cli
from gcpatch.networks import Preprocessing, checkpoints, random

torch = pytest.importorskip("torch")

from convert.torchvision import to_torch, twin

SAID = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.25", "--size", "64", "--resize", "72"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tuned(tmp_path):
    """A mini with five classes, as somebody has saved it, and their names."""
    torch.manual_seed(1)
    model = twin("mini_resnext", classes=5)
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "tuned.pth")
    (tmp_path / "classes.txt").write_text("cat\ndog\nfox\nowl\nbee\n")
    return tmp_path / "tuned.pth"


def convert(*arguments):
    assert cli.main(["convert", *map(str, arguments)]) == 0


def test_convert_random_weights_and_back(tmp_path, capsys, refuse):
    convert("mini_resnext", "--weights", "random")
    assert "random seed 0" in capsys.readouterr().out
    convert("mini_resnext", "--to-torch", "--out", tmp_path)
    state = torch.load(tmp_path / "mini_resnext.pth", weights_only=True)
    assert state["conv1.weight"].shape == (8, 3, 7, 7)
    capsys.readouterr()
    assert "vgg20" in refuse("convert", "vgg20")


def test_all_that_is_said_is_kept(tuned, tmp_path, capsys):
    classes = ["--classes", tmp_path / "classes.txt"]
    more = ["--interpolation", "bicubic", "--layer", "layer3", "--name", "mine"]
    convert("mini_resnext", "--weights", tuned, *SAID, *classes, *more)
    out, err = capsys.readouterr()
    assert out.startswith("mine from tuned.pth sha256 ")
    assert err == "gcpatch convert: took model; left out epoch\n"
    network = checkpoints.load("mine")
    assert network.preprocessing == Preprocessing(
        (0.5, 0.5, 0.5), (0.5, 0.5, 0.25), 64, 72, "bicubic"
    )
    assert network.categories == ("cat", "dog", "fox", "owl", "bee")
    assert (network.name, network.architecture) == ("mine", "mini_resnext")
    assert network.target_layer == "layer3.0"


def test_the_network_is_guessed_and_what_is_not_said_is_assumed_aloud(tuned, capsys):
    convert("--weights", tuned, "--name", "mine")
    _, assumed = capsys.readouterr().err.splitlines()
    assert "assumes mean 0.485,0.456,0.406" in assumed and "size 224, resize 256" in assumed
    assert checkpoints.load("mine").architecture == "mini_resnext"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mean", "0.5"], "--mean is '0.5'; it must be three numbers"),
        (["--mean", "0.5,nan,0.5"], "--mean is '0.5,nan,0.5'; it must be three numbers"),
        (["--mean", "123,117,104"], "it must be three numbers from 0 to 1"),
        (["--std", "0,1,1"], "it must be three numbers over 0"),
        (["--size", "-1"], "--size is '-1'; it must be a whole number of pixels"),
        (["--size", "300", "--resize", "256"], "size is 300 and resize 256"),
        (["--interpolation", "area"], "no interpolation 'area'; choose one of bilinear, bicubic"),
        (["--layer", "layer7"], "has no layer 'layer7'; it has conv1, bn1"),
        (["--layer", "fc"], "the explained layer gives [5] and no map"),
        (["--name", "a/b"], "the name 'a/b' is not allowed"),
        (["--name", "vgg16"], "the name vgg16 is another network's than mini_resnext"),
        (["--classes", "gone.txt"], "the classes gone.txt cannot be read"),
        (["--key", "ema"], "holds no weights under 'ema'; there are model"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, tuned, home, refuse):
    assert message in refuse("convert", "mini_resnext", "--weights", tuned, *arguments)
    assert not home.exists() or not checkpoints.installed()


def test_too_few_names(tuned, tmp_path, refuse):
    (tmp_path / "two.txt").write_text("a\nb\n")
    line = refuse("convert", "--weights", tuned, "--classes", tmp_path / "two.txt")
    assert "mini_resnext has 5 classes, and there are 2 names for them" in line
    assert "name a network, or a file" in refuse("convert")
    assert "no tensors" in refuse("convert", "--weights", _empty(tmp_path))


def _empty(folder):
    torch.save({}, folder / "empty.pth")
    return folder / "empty.pth"


def test_another_network_of_the_same_name_asks_for_force(tuned, capsys, refuse):
    convert("--weights", tuned, "--name", "mine")
    convert("--weights", tuned, "--name", "mine")
    capsys.readouterr()
    again = ["convert", "--weights", tuned, "--name", "mine", "--size", "64"]
    assert "mine is converted already, from tuned.pth sha256" in refuse(*again)
    assert checkpoints.load("mine").preprocessing.size == 224
    assert cli.main([*map(str, again), "--force"]) == 0
    assert checkpoints.load("mine").preprocessing.size == 64


def test_models_shows_what_is_converted(tuned, capsys, monkeypatch):
    from gcpatch import networks

    monkeypatch.setattr(networks, "NAMES", ("mini_resnext",))
    convert("--weights", tuned, "--name", "mine", *SAID)
    capsys.readouterr()
    assert cli.main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["mini_resnext", "mine"]
    mine = rows["mine"]
    assert (mine["network"], mine["classes"], mine["size"]) == ("mini_resnext", 5, 64)
    assert mine["std"] == [0.5, 0.5, 0.25]
    assert mine["digest"] == checkpoints.digest(checkpoints.load("mine"))
    assert mine["parameters"] < rows["mini_resnext"]["parameters"]
    assert cli.main(["models"]) == 0
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line[:5] == ["mine", "mini_resnext", f"{mine['parameters']:,}", "5", "64"]
    assert mine["digest"][:8] in line


def explained(capsys, photos, out, *arguments):
    options = ["--out", str(out), "--json", *map(str, arguments)]
    assert cli.main(["explain", str(photos), *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    return [(row["label"]["name"], row["probability"]) for row in rows]


def test_a_network_is_found_by_alias_folder_and_weights(tuned, tmp_path, photos, home, capsys):
    classes = ["--classes", tmp_path / "classes.txt"]
    convert("--weights", tuned, "--name", "mine", *SAID, *classes)
    convert("--weights", tuned, "--name", "mine", *SAID, *classes, "--out", tmp_path / "folder")
    capsys.readouterr()
    one = explained(capsys, photos, tmp_path / "a", "--model", "mine")
    folder = tmp_path / "folder"
    assert explained(capsys, photos, tmp_path / "b", "--model", folder) == one
    given = ["--model", "mini_resnext", "--weights", folder]
    assert explained(capsys, photos, tmp_path / "c", *given) == one
    given = ["--model", "mine", "--weights", tuned]  # the file's weights, as the alias takes images
    assert explained(capsys, photos, tmp_path / "d", *given) == one
    other = explained(capsys, photos, tmp_path / "e", "--model", "mini_resnext", "--weights", tuned)
    assert other != one
    maps = np.load(next((tmp_path / "a").glob("images/*/*/heat.npy")))
    assert maps.shape == (2, 2)


def test_the_pixels_and_logits_are_torchs(tuned, tmp_path, photos, capsys):
    from PIL import Image

    from convert.operators import torchvision

    convert("--weights", tuned, "--name", "mine", *SAID)
    capsys.readouterr()
    ours = explained(capsys, photos, tmp_path / "a", "--model", "mine", "--resize-mode", "crop")
    model = twin("mini_resnext", classes=5)
    model.load_state_dict(torch.load(tuned, weights_only=True)["model"])
    transforms = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(72),
            torchvision.transforms.CenterCrop(64),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.25)),
        ]
    )
    for path, (name, probability) in zip(sorted(photos.iterdir()), ours, strict=True):
        with Image.open(path) as picture, torch.no_grad():
            odds = model(transforms(picture)[None])[0].softmax(0)
        assert name == f"class {int(odds.argmax())}"
        assert probability == pytest.approx(float(odds.max()), rel=1e-4)


def test_patches_lie_in_the_networks_own_images(tuned, tmp_path, photos, capsys, refuse):
    convert("--weights", tuned, "--name", "mine", *SAID)
    capsys.readouterr()
    attack = ["attack", photos, "--model", "mine", "--steps", "1", "--target", "3"]
    assert "does not lie inside an image of 64x64" in refuse(
        *attack, "--out", tmp_path / "no", "--size", "65"
    )
    command = [*attack, "--out", tmp_path / "run", "--size", "16"]
    assert cli.main(list(map(str, command))) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    network = checkpoints.load("mine")
    assert run["settings"]["weights_digest"] == {"mine": checkpoints.digest(network)}
    capsys.readouterr()
    line = refuse("transfer", tmp_path / "run", "--models", "mini_resnext", "--weights", "random")
    assert "the images of run have 64 pixels a side and mini_resnext takes 224" in line
    assert cli.main(["verify", "--run", str(tmp_path / "run")]) == 0
    assert cli.main(["transfer", str(tmp_path / "run"), "--models", "mine"]) == 0


def test_a_run_is_not_resumed_with_another_preprocessing(tuned, tmp_path, photos, capsys, refuse):
    convert("--weights", tuned, "--name", "mine", *SAID)
    command = ["attack", photos, "--model", "mine", "--steps", "1", "--size", "16"]
    command += ["--out", tmp_path / "run", "--resume"]
    assert cli.main(list(map(str, command))) == 0
    convert("--weights", tuned, "--name", "mine", *SAID[:4], "--size", "64", "--force")
    capsys.readouterr()
    assert "weights_digest.mine was" in refuse(*command)


def test_verify_takes_an_alias(tuned, photos, capsys):
    convert("--weights", tuned, "--name", "mine", *SAID)
    capsys.readouterr()
    command = ["verify", "mine", "--images", photos, "--steps", "0"]
    for weights in ([], ["--weights", str(tuned)]):
        assert cli.main([*map(str, command), *weights, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert {row["network"] for row in rows} == {"mine"}


def test_an_alias_goes_back_to_torch(tuned, tmp_path, capsys):
    convert("--weights", tuned, "--name", "mine")
    convert("mine", "--to-torch", "--out", tmp_path)
    back = torch.load(tmp_path / "mine.pth", weights_only=True)
    state = torch.load(tuned, weights_only=True)["model"]
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_random_weights_take_settings_too(tmp_path):
    convert("mini_vgg", "--weights", "random", "--size", "96", "--name", "mine")
    network = checkpoints.load("mine")
    assert network.preprocessing == Preprocessing(size=96, resize=110)
    same = to_torch(random("mini_vgg"))
    assert all(torch.equal(value, same[key]) for key, value in to_torch(network).items())
