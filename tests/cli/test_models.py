import json

from gcpatch import cli, networks


def test_models_lists_them_all(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path))
    monkeypatch.setattr(networks, "NAMES", ("vgg19", "vgg19_bn", "mini_vgg"))
    assert cli.main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["vgg19_bn"]["parameters"] == 143_678_248
    assert rows["vgg19_bn"]["target_layer"] == "features.51"
    assert rows["mini_vgg"]["weights"] == "bundled"
    assert rows["vgg19"]["weights"] is None
