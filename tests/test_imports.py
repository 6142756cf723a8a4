"""A folder imports only from those below it; nothing in gcpatch reaches torch or experiments."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gcpatch

ROOT = Path(gcpatch.__file__).parent
FORBIDDEN = {"torch", "torchvision", "convert", "experiments"}
# What is further right may import what is further left.
ORDER = (
    "errors",
    "files",
    "settings",
    "data",
    "networks",
    "interpreters",
    "losses",
    "explainers",
    "scores",
    "attacks",
    "evaluation",
    "report",
    "runs",
    "cli",
    "__main__",
)
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
MOST = 12  # modules in a folder


def home(path: Path) -> str:
    """The folder or module right under gcpatch that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Everything that a file imports, wherever in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_folder_has_its_place():
    assert {home(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    own = ORDER.index(home(path))
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "gcpatch" and rest.partition(".")[0] in ORDER:
            assert ORDER.index(rest.partition(".")[0]) <= own, name
        assert top not in FORBIDDEN or home(path) == "cli", name


def test_no_folder_is_crowded():
    for folder in {path.parent for path in FILES} - {ROOT}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST, folder


def test_importing_the_library_imports_nothing_forbidden():
    names = [
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        for path in FILES
        if home(path) not in ("cli", "__main__")
    ]
    code = (
        f"import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name.removesuffix('.__init__'))\n"
        f"assert not {FORBIDDEN!r} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# What 0.1.0 had; programs that use it go on.
NAMES = """
PRESETS Attack Bounded Evidence Finished Frame Mask Network Patch Views attack defence eigen_cam
grad_cam grad_cam_plus_plus gradient_x_input guided_backprop hirescam input_gradient
integrated_gradients layercam load occlusion smooth smoothgrad universal wear xgrad_cam
"""


def test_public_names_stay():
    assert set(NAMES.split()) <= set(dir(gcpatch))
    assert all(getattr(gcpatch, name) is not None for name in NAMES.split())
    code = (
        "import gcpatch.losses, gcpatch.networks, gcpatch.explainers, gcpatch.scores, gcpatch.cli"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
