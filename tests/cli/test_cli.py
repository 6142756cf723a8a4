import io
import subprocess
import sys
import time
from importlib import metadata

import pytest

from gcpatch import cli
from gcpatch.attacks.fields import STARTS
from gcpatch.attacks.objectives import OBJECTIVES
from gcpatch.attacks.presets import PRESETS
from gcpatch.attacks.regions import CORNERS
from gcpatch.attacks.settings import OPTIMIZERS
from gcpatch.cli import models, printing
from gcpatch.data.images import RESIZE_MODES
from gcpatch.explainers.registry import METHODS
from gcpatch.runs.options import PRECISIONS

VERBS = [
    "demo",
    "attack",
    "universal",
    "apply",
    "explain",
    "convert",
    "verify",
    "models",
    "bench",
    "transfer",
    "report",
]


@pytest.mark.parametrize("verb", VERBS)
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


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["models", "--jsn"], "--jsn"),
        (["models", "--js"], "--js"),  # no abbreviations
        (["report", "run", "--metod", "lime"], "--metod lime"),
        (["explain", "x", "--mod", "mini_vgg", "--out", "y", "--model", "z"], "--mod mini_vgg"),
    ],
)
def test_an_unknown_option_shows_the_usage_of_its_verb(arguments, wrong, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"usage: gcpatch {arguments[0]} [-h]")
    assert error.endswith(f"gcpatch {arguments[0]}: error: unrecognized arguments: {wrong}\n")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"gcpatch {metadata.version('gcpatch')}\n"


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("attack --objective", OBJECTIVES),
        ("attack --optimizer", OPTIMIZERS),
        ("attack --init", STARTS),
        ("attack --position", CORNERS),
        ("attack --preset", PRESETS),
        ("attack --precision", PRECISIONS),
        ("attack --resize-mode", RESIZE_MODES),
        ("transfer --methods", METHODS),
    ],
)
def test_help_lists_what_a_registry_names(command, names, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.split() == [*names]


def test_what_a_stream_cannot_say_is_replaced(monkeypatch):
    def run(options):
        printing.table(head=("image", "class"), rows=[("fotoś.png", "schlüssel"), ("\udce9", "-")])
        return 0

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(models, "run", run)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["models"]) == 0
    stream.flush()
    lines = stream.buffer.getvalue().decode("ascii").splitlines()
    assert lines[2:] == ["foto\\u015b.png  schl\\xfcssel", "\\udce9          -"]


def test_help_is_quick_and_imports_no_jax():
    code = "import sys; from gcpatch import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\nassert 'jax' not in sys.modules"  # noqa: E501
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.monotonic() - start < 5  # a second on an idle machine; JAX alone takes longer
