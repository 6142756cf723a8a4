"""What `pip install gcpatch` brings: two top-level packages, and nothing that could collide."""

import tomllib
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parent.parent


def test_only_gcpatch_and_convert_are_installed():
    chosen = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), **chosen["packages"]["find"])
    assert {name.partition(".")[0] for name in found} == {"gcpatch", "convert"}
    assert "py-modules" not in chosen
