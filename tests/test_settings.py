import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gcpatch import settings
from gcpatch.attacks.regions import KINDS
from gcpatch.attacks.settings import Attack
from gcpatch.cli.options import add_fields, given
from gcpatch.errors import UserError
from gcpatch.runs.options import Options
from gcpatch.settings import at_least, check, documented, over, setting

README = Path(__file__).parents[1] / "gcpatch" / "attacks" / "README.md"


@documented
@dataclass(frozen=True)
class Kettle:
    """A kettle."""

    litres: float = setting(1.5, "how much it holds", value="L", parse=float, range=over(0))
    cups: int = setting(4, "how many it fills", value="N", parse=int, range=at_least(1))
    init: str = setting("mean", "how it begins", value="START", registry="init")
    lid: bool = setting(True, "whether it has one")
    label: str | None = setting(None, "what is on it", value="TEXT", otherwise="nothing")


class KettleError(UserError):
    pass


def test_the_docstring_names_every_setting():
    assert Kettle.__doc__.startswith("A kettle.\n\n    Attributes:\n")
    assert "        litres: how much it holds (default 1.5).\n" in Kettle.__doc__
    assert "        label: what is on it (default nothing).\n" in Kettle.__doc__
    for kind in (Attack, Options, *KINDS.values()):
        for field, about in settings.settings_of(kind):
            assert f"        {field.name}: {about.text}"[:60] in kind.__doc__


@pytest.mark.parametrize(
    "values, message",
    [
        ({"litres": 0.0}, "litres is 0.0; it must be over 0"),
        ({"litres": float("nan")}, "litres is nan; it must be over 0"),
        ({"litres": True}, "litres is True; it must be a number"),
        ({"cups": True}, "cups is True; it must be a whole number"),
        ({"cups": 0}, "cups is 0; it must be at least 1"),
        ({"init": "cold"}, "there is no init 'cold'; choose one of mean, image, random, clean"),
    ],
)
def test_what_is_out_of_range_or_no_name(values, message):
    with pytest.raises(KettleError, match=message):
        check(Kettle(**values), KettleError)
    check(Kettle(), KettleError)


def test_numbers_of_numpy_become_those_that_json_knows():
    kettle = Kettle(litres=np.float32(0.5), cups=np.int64(5))
    check(kettle, KettleError)
    assert json.dumps([kettle.litres, kettle.cups]) == "[0.5, 5]"


def test_options_are_made_of_what_has_a_value():
    parser = argparse.ArgumentParser()
    add_fields(parser, Kettle)
    assert {action.dest for action in parser._actions} == {
        "help",
        "litres",
        "cups",
        "init",
        "label",
    }
    assert given(parser.parse_args([]), Kettle) == {}
    found = given(parser.parse_args(["--litres", "2", "--init", "image", "--label", "tea"]), Kettle)
    assert found == {"litres": 2.0, "init": "image", "label": "tea"}
    text = parser.format_help()
    assert "how much it holds (default 1.5)" in text and "`--init help`" in text


def test_every_registry_has_names_and_every_setting_s_registry_is_one():
    assert all(settings.names_of(what) for what in settings.REGISTRIES)
    for kind in (Attack, Options, *KINDS.values()):
        for _, about in settings.settings_of(kind):
            assert about.registry is None or about.registry in settings.REGISTRIES


def test_the_readme_has_the_table_of_settings():
    assert settings.table([KINDS["patch"], Attack, Options]) in README.read_text("utf-8")
