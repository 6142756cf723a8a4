"""The certificate of a comparison: all that it is of, and a page that loads nothing."""

import hashlib
import json
import re

import numpy as np
import pytest

pytest.importorskip("torch")

from convert.checking import certificate
from convert.checking.comparison import Row
from convert.verify import Pictures, Verified
from gcpatch.errors import UserError
from gcpatch.networks import checkpoints

PIXELS = np.zeros((1, 6, 6, 3), np.uint8)


def verified(network, *rows):
    images = Pictures(PIXELS, ["<a>.png"], [hashlib.sha256(b"a").hexdigest()])
    return Verified([*rows], network, None, "mine:net", "no PyTorch twin", "float32", images)


def row(quantity, relative=1e-7):
    return Row("flat", quantity, relative, relative, 1e-4, relative <= 1e-4)


def test_it_says_all_that_it_is_of(flat, tmp_path):
    certificate.write(tmp_path / "c.json", [verified(flat, row("logits"), row("map", np.inf))])
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["passed"] is False
    assert set(found["versions"]) == {"gcpatch", "jax", "torch", "torchvision"}
    (network,) = found["networks"]
    assert network["digest"] == checkpoints.digest(flat)
    assert network["preprocessing"]["mean"] == list(flat.mean)
    assert (network["source"], network["compared_with"]) == ("mine:net", "no PyTorch twin")
    assert network["images"] == [{"name": "<a>.png", "sha256": hashlib.sha256(b"a").hexdigest()}]
    assert [(one["quantity"], one["max_abs"], one["passed"]) for one in network["rows"]] == [
        ("logits", 1e-7, True),
        ("map", None, False),
    ]


def test_its_page_stands_alone(flat, tmp_path):
    certificate.write(tmp_path / "c.html", [verified(flat, row("logits"), row("<b>", 1.0))])
    assert [path.name for path in tmp_path.iterdir()] == ["c.html"]
    page = (tmp_path / "c.html").read_text()
    assert not re.search(r"\b(src|href)=|url\(|<script|\{\{", page)
    assert "default-src 'none'" in page and "style-src 'sha256-" in page
    assert "1 of 2 quantities beyond their tolerances" in page
    assert "&lt;b&gt;" in page and "&lt;a&gt;.png" in page and "<b>" not in page
    assert checkpoints.digest(flat) in page


def test_names_that_it_cannot_have(tmp_path):
    with pytest.raises(UserError, match=r"a certificate is a file \.json .* or \.html"):
        certificate.check(tmp_path / "c.txt")
    with pytest.raises(UserError, match="there is no folder"):
        certificate.check(tmp_path / "no" / "c.json")
