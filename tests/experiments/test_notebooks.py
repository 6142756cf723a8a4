"""The notebooks: kept small, with the outputs of a whole run; and they run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import notebooks

FOLDER = Path(notebooks.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
MOST = 500_000  # bytes, of all notebooks
SAID = {
    "attack_and_look": "fooled both: ",
    "own_loss": "its gradient is finite: True",
    "own_network": "the same verdict on ",
    "port_and_prove": "the same map: True",
}


def outputs(path):
    """The outputs of the code cells, which were all run, in order."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    return [output for cell in code for output in cell["outputs"]]


def test_they_are_small_and_have_their_outputs():
    assert set(NAMES) == set(SAID)
    assert sum((FOLDER / f"{name}.ipynb").stat().st_size for name in NAMES) < MOST
    for name in NAMES:
        found = outputs(FOLDER / f"{name}.ipynb")
        assert {output["output_type"] for output in found} <= {"stream", "execute_result"}
        assert any("image/png" in output.get("data", {}) for output in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path):
    pytest.importorskip("nbclient")
    command = [sys.executable, "-m", "experiments.notebooks", name, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = ["".join(output.get("text", "")) for output in outputs(tmp_path / f"{name}.ipynb")]
    assert SAID[name] in "".join(texts)
