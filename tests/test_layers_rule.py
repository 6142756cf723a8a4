"""Imports point one way: gcpatch never reaches torch, convert or experiments, its verbs aside."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gcpatch

ROOT = Path(gcpatch.__file__).parent
FORBIDDEN = {"torch", "torchvision", "convert", "experiments"}
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(ROOT)], "gcpatch.")
    if module.name not in ("gcpatch.cli", "gcpatch.__main__")
)  # fmt: skip

BLOCKED = """
import importlib, importlib.abc, sys
class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden}:
            raise AssertionError(f"{{name}} was imported")
sys.meta_path.insert(0, Wall())
for name in {modules}:
    importlib.import_module(name)
assert not {forbidden} & {{name.partition(".")[0] for name in sys.modules}}
print(len(sys.modules))
"""


# What is further right may import what is further left.
ORDER = (
    ("networks", "hoisting", "scores", "patches"),
    ("rectifiers",),
    ("incremental", "explainers"),
    ("sliding", "gradients"),
    ("occlusions", "losses"),
    ("methods", "attacks"),
    ("campaigns",),
)


def test_there_are_modules_to_check():
    assert {"gcpatch.networks.zoo", "gcpatch.checkpoints", "gcpatch.attacks"} <= set(MODULES)
    assert {f"gcpatch.{name}" for level in ORDER for name in level} <= set(MODULES)


@pytest.mark.parametrize("level", range(len(ORDER)))
def test_explainers_losses_and_attacks_import_one_way(level):
    above = {name for names in ORDER[level + 1 :] for name in names}
    for name in ORDER[level]:
        path = ROOT / name
        for file in path.glob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
            found = {
                part
                for node in ast.walk(ast.parse(file.read_text("utf-8")))
                if isinstance(node, ast.ImportFrom) and node.module
                for part in (node.module.split(".")[1:2] or [alias.name for alias in node.names])
                if node.module.partition(".")[0] == "gcpatch"
            }
            assert not found & above, file


def test_importing_the_library_imports_nothing_forbidden():
    code = BLOCKED.format(forbidden=FORBIDDEN, modules=["gcpatch", *MODULES])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_no_function_imports_anything_forbidden(module):
    path = ROOT.parent / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    assert not found & FORBIDDEN
