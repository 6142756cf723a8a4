"""What `gcpatch verify --out FILE` writes: a certificate, as JSON and as a page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from convert.torchvision import VERSIONS
from convert.verify import Verified
from gcpatch.errors import UserError
from gcpatch.files import atomic_write
from gcpatch.networks import checkpoints, manifests
from gcpatch.report.page import fill

KINDS = (".json", ".html")
HEAD = ("quantity", "largest error", "relative", "tolerance")
PACKAGES = ("gcpatch", "jax")


def check(path: Path) -> None:
    """Raises UserError where a certificate cannot have this name."""
    if path.suffix not in KINDS:
        raise UserError(f"--out is {path}; a certificate is a file .json (and a page) or .html")
    if not path.resolve().parent.is_dir():
        raise UserError(f"--out is {path}; there is no folder {path.parent}")


def write(path: Path, found: Sequence[Verified]) -> None:
    """Writes a certificate: FILE.json and FILE.html beside it, or the page alone.

    Raises:
        OSError: a file cannot be written; what was there is as it was.
    """
    content = describe(found)
    if path.suffix == ".json":
        text = json.dumps(content, indent=1, allow_nan=False)
        with atomic_write(path) as draft:
            draft.write_text(text + "\n", "utf-8")
    with atomic_write(path.with_suffix(".html")) as draft:
        draft.write_text(_page(content), "utf-8", newline="\n")


def describe(found: Sequence[Verified]) -> dict[str, Any]:
    """All of a certificate, as JSON has it."""
    networks = [_network(one) for one in found]
    return {
        "passed": all(network["passed"] for network in networks),
        "versions": {name: manifests.version(name) for name in PACKAGES} | VERSIONS,
        "networks": networks,
    }


def _network(found: Verified) -> dict[str, Any]:
    network = found.network
    pictures = zip(found.images.names, found.images.sha256, strict=True)
    return {
        "network": network.name,
        "architecture": network.architecture,
        "digest": checkpoints.digest(network),
        "target_layer": network.target_layer,
        "classes": len(network.categories),
        "preprocessing": asdict(network.preprocessing),
        "source": found.source,
        "compared_with": found.beside,
        "precision": found.precision,
        "images": [{"name": name, "sha256": sha256} for name, sha256 in pictures],
        "rows": [finite(row._asdict()) for row in found.rows],
        "passed": all(row.passed for row in found.rows),
    }


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for JSON, which has no infinity."""
    return {key: None if value == math.inf else value for key, value in row.items()}


# ---- the page


def _page(content: Mapping[str, Any]) -> str:
    networks = content["networks"]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    failed = sum(not row["passed"] for network in networks for row in network["rows"])
    count = sum(len(network["rows"]) for network in networks)
    verdict = f"{count} quantities, all within their tolerances"
    if failed:
        verdict = f"{failed} of {count} quantities beyond their tolerances"
    mark = '<span class="verdict {}">{}</span> {}'
    passed = ("yes", "passed") if content["passed"] else ("no", "failed")
    parts = {
        "heading": escape(", ".join(network["network"] for network in networks)),
        "verdict": mark.format(*passed, verdict),
        "said": escape(f"Written by gcpatch verify, with {versions}."),
        "networks": "\n".join(map(_section, networks)),
    }
    template = files("convert.checking").joinpath("certificate.html").read_text("utf-8")
    return fill(template, parts)


def _section(network: Mapping[str, Any]) -> str:
    taken = network["preprocessing"]
    facts = {
        "architecture": network["architecture"],
        "digest": network["digest"],
        "weights": network["source"],
        "compared with": network["compared_with"],
        "precision": network["precision"],
        "target layer": network["target_layer"],
        "classes": f"{network['classes']:,}",
        "images": f"{taken['size']} pixels of {taken['resize']}, {taken['interpolation']}",
        "mean": ", ".join(f"{value:g}" for value in taken["mean"]),
        "std": ", ".join(f"{value:g}" for value in taken["std"]),
    }
    listed = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in facts.items()
    )
    images = "".join(
        f"<tr><td>{escape(image['name'])}</td><td>{image['sha256']}</td></tr>\n"
        for image in network["images"]
    )
    head = "".join(
        f'<th scope="col"{" class=number" * (i > 0)}>{h}</th>' for i, h in enumerate(HEAD)
    )
    return f"""<section>
<h2>{escape(network["network"])}</h2>
<dl>{listed}</dl>
<h2>Quantities</h2>
<p class="soft">Largest over the images; relative is ||ours - theirs|| / ||theirs||.</p>
<div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{"".join(map(_line, network["rows"]))}</tbody></table></div>
<h2>Images</h2>
<div class="scroll"><table>
<thead><tr><th scope="col">image</th><th scope="col">SHA-256</th></tr></thead>
<tbody>
{images}</tbody></table></div>
</section>"""


def _line(row: Mapping[str, Any]) -> str:
    numbers = (row[key] for key in ("max_abs", "relative", "tolerance"))
    cells = "".join(f'<td class="number">{"–" if n is None else f"{n:.1e}"}</td>' for n in numbers)
    mark = "" if row["passed"] else ' class="no"'
    return f"<tr{mark}><td>{escape(row['quantity'])}</td>{cells}</tr>\n"
