import pytest

from gcpatch import cli


def test_convert_random_weights_and_back(tmp_path, capsys, monkeypatch, refuse):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "home"))
    assert cli.main(["convert", "mini_resnext", "--weights", "random"]) == 0
    assert "random seed 0" in capsys.readouterr().out
    arguments = ["convert", "mini_resnext", "--to-torch", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    state = torch.load(tmp_path / "mini_resnext.pth", weights_only=True)
    assert state["conv1.weight"].shape == (8, 3, 7, 7)
    capsys.readouterr()
    assert "vgg20" in refuse("convert", "vgg20")
