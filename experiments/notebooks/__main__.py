"""Runs the notebooks from top to bottom and writes them with their outputs, which are kept small.

    python -m experiments.notebooks --out runs/notebooks
    python -m experiments.notebooks own_loss              # in place

Each runs in an empty folder of its own. Needs `pip install '.[notebooks]'`.
"""

import argparse
import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
WIDTH, COLOURS = 560, 64  # of pictures


def execute(path: Path) -> Any:
    """The notebook with the outputs of a fresh run; an error in a cell is raised."""
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec}  # and no versions
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kept = [small(one) for one in cell.outputs if one.get("name") != "stderr"]
            texts = [one for one in kept if one.output_type == "stream"]
            for one in texts[1:]:  # a process writes piece by piece
                texts[0].text += one.text
            cell.outputs = texts[:1] + [one for one in kept if one.output_type != "stream"]
    return notebook


def small(output: Any) -> Any:
    """An output whose picture is no wider than `WIDTH` and has `COLOURS` at most."""
    png = output.get("data", {}).get("image/png")
    if png:
        output["data"].pop("image/jpeg", None)
        picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.quantize(COLOURS).save(file, "PNG", optimize=True)
        output["data"]["image/png"] = base64.b64encode(file.getvalue()).decode()
    return output


def main() -> None:
    """The command line; see the top of this file."""
    names = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(names)} (all)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (in place)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no notebook {min(unknown)}; choose of {', '.join(names)}")
    # So that `gcpatch` in a cell is the one that is installed here.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or names:
        nbformat.write(execute(HERE / f"{name}.ipynb"), options.out / f"{name}.ipynb")
        print(options.out / f"{name}.ipynb")


if __name__ == "__main__":
    main()
