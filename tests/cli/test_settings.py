import argparse
import re

import pytest

from gcpatch import Attack, Patch
from gcpatch.cli.attack.settings import add_settings, objective, region_and_attack
from gcpatch.errors import UserError
from gcpatch.settings import default_of, settings_of


def test_presets_can_be_changed_by_options():
    parser = argparse.ArgumentParser()
    add_settings(parser)
    common = ["--preset", "subramanya"]
    patch, attack = region_and_attack(parser.parse_args(common))
    assert (patch.position, attack.steps, attack.learning_rate) == ((0, 0), 750, 0.005)
    changed = ["--steps", "5", "--position", "1,2", "--optimizer", "adam"]
    patch, attack = region_and_attack(parser.parse_args([*common, *changed]))
    assert (patch.position, attack.steps, attack.optimizer) == ((1, 2), 5, "adam")
    assert attack.learning_rate is None
    assert (patch.size, attack.objective.name) == (64, "subramanya")


def test_a_reach_is_a_name_or_a_number_of_cells():
    parser = argparse.ArgumentParser()
    add_settings(parser)
    reaches = [
        region_and_attack(parser.parse_args(arguments))[1].reach
        for arguments in ([], ["--reach", "near"], ["--reach", "3"], ["--preset", "paper-64"])
    ]
    assert reaches == ["exact", "near", 3, "exact"]
    with pytest.raises(UserError, match="the reach is 'far'; it must be exact, near, or a whole"):
        region_and_attack(parser.parse_args(["--reach", "far"]))
    with pytest.raises(UserError, match="--reach 3 is for a square patch; leave it out"):
        region_and_attack(parser.parse_args(["--reach", "3", "--frame", "9"]))


def test_an_objective_from_a_module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def centre(evidence):\n    return evidence.heat[0, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert objective("mine:centre").__name__ == "centre"


@pytest.mark.parametrize("text", ["nowhere:shine", ":shine", "bare:", "bare:rim", "torn:rim"])
def test_an_objective_that_cannot_be_had(text, tmp_path, monkeypatch):
    (tmp_path / "bare.py").touch()
    (tmp_path / "torn.py").write_text("def rim(:")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"there is no objective '{text}': "):
        objective(text)


def test_the_help_tells_the_defaults_of_the_classes():
    defaults = {
        field.name: default_of(field, about)
        for kind in (Patch, Attack)
        for field, about in settings_of(kind)
    }
    parser = argparse.ArgumentParser()
    add_settings(parser)
    told = {
        action.dest: match[1]
        for action in parser._actions
        if (match := re.search(r"default ([^);]+)", action.help))
    }
    assert {"size", "ratio", "position", "objective", "steps", "ce_weight"} < told.keys()
    assert told == {name: defaults[name] for name in told}


def test_what_takes_the_place_of_a_patch_refuses_its_options():
    parser = argparse.ArgumentParser()
    add_settings(parser)
    patch, _ = region_and_attack(parser.parse_args(["--frame", "9", "--ratio", "0.5"]))
    assert (patch.width, patch.ratio) == (9, 0.5)
    for option in ("--position", "top-left"), ("--size", "8"):
        with pytest.raises(ValueError, match=f"{option[0]} and --frame exclude each other"):
            region_and_attack(parser.parse_args(["--frame", "9", *option]))
