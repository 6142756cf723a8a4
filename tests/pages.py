"""Runs made by hand, and what a browser and a parser see of their pages."""

import hashlib
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from gcpatch.report.figures import write_pictures

SIDE, PATCH = 48, 14
NAMES = ["stripes", "checks", "dots", "rings", "zigzag", "plain, unpatterned ground (bare)"]
HOSTILE = "</script><img src=x onerror=alert(1)>"
SETTINGS = {
    "gcpatch": "0.1.0",
    "model": "mini_vgg",
    "weights": {
        "name": "bundled",
        "digest": "sha256:" + 8 * "0123abcd",
        "target layer": "features.9",
    },
    "objective": "hide",
    "patch": {"size": 64, "ratio": 1.0, "position": [0, 160]},
    "attack": {
        "steps": 400,
        "optimizer": "sign",
        "learning_rate": 0.005,
        "ce_weight": 0.05,
        "ce_gate": True,
        "init": None,
        "stop": {"patience": 7, "below": 0.0},
    },
    "seed": 0,
    "versions": {"python": "3.11.9", "jax": "0.10.2", "flax": "0.12.8", "opencv": "5.0.0"},
    "device": "cpu",
    "started": "2026-01-31T12:00:00Z",
    "command": "gcpatch attack photos/ --model mini_vgg --objective hide --out runs/photos",
}


def scene(rng, side=SIDE):
    """A disc with a pattern on a shaded ground, uint8 [side, side, 3], and its centre."""
    y, x = np.mgrid[:side, :side] / side
    row, column = rng.uniform(0.45, 0.65, 2)
    ground = rng.uniform(60, 200, 3) * (0.7 + 0.5 * y[..., None])
    waves = 0.5 + 0.5 * np.sin(rng.uniform(20, 60) * (x + rng.uniform(-1, 1) * y))
    colours = rng.uniform(0, 255, (2, 3))
    disc = (y - row) ** 2 + (x - column) ** 2 < 0.08
    surface = waves[..., None] * colours[0] + (1 - waves[..., None]) * colours[1]
    image = np.where(disc[..., None], surface, ground) + rng.normal(0, 4, (side, side, 1))
    return np.clip(image, 0, 255).astype(np.uint8), (row, column)


def blob(row, column, width, cells=14):
    y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))


def record(rng, name, **changes):
    """A plausible record of results.jsonl for a finished image."""
    label, explanation = bool(rng.random() < 0.8), bool(rng.random() < 0.6)
    classes = rng.permutation(len(NAMES))[:2].tolist()
    clean, target = ({"id": i, "name": NAMES[i]} for i in classes)
    chance = float(rng.uniform(0.5, 0.9999))
    attacked = (target if label else clean) | {"probability": chance}
    cross_entropy = float(rng.gamma(2, 0.05))
    return {
        "id": name,
        "source": f"photos/{name}.jpg",
        "sha256": hashlib.sha256(name.encode(errors="replace")).hexdigest(),
        "model": "mini_vgg",
        "objective": "hide",
        "target": target,
        "clean": clean | {"probability": float(rng.uniform(0.4, 1))},
        "adversarial": attacked,
        "png": {"id": attacked["id"], "probability": chance * 0.99},
        "steps": int(rng.integers(40, 401)),
        "converged": bool(rng.random() < 0.5),
        "fooled_class": label,
        "fooled_explanation": explanation,
        "fooled_both": label and explanation,
        "energy_clean": float(rng.uniform(0.02, 0.3)),
        "energy_adversarial": float(rng.uniform(0, 0.05 if explanation else 0.3)),
        "pointing_clean": False,
        "pointing_adversarial": not explanation,
        "map_iou": float(rng.uniform(0, 1)),
        "map_rank_correlation": float(rng.uniform(-0.2, 1)),
        "loss": {
            "total": cross_entropy / 20 + 1e-5,
            "cross_entropy": cross_entropy,
            "explanation": 1e-5,
        },
        "linf": 1.0,
        "l2": float(rng.uniform(10, 40)),
        "psnr": float(rng.uniform(10, 25)),
        "pixels_changed_share": 0.0816,
        "error": None,
    } | changes


def failure(name, error="the file is not an image that OpenCV can decode"):
    """A record of an image that could not be done: `error` is said, the rest is null."""
    empty = dict.fromkeys(record(np.random.default_rng(0), name))
    return empty | {"id": name, "source": f"photos/{name}", "error": error}


def history(rng, steps):
    x = np.arange(steps)
    cross_entropy = 8 * np.exp(-x / rng.uniform(15, 60)) + rng.gamma(1, 0.05, steps)
    explanation = 2e-2 * np.exp(-x / rng.uniform(40, 200)) * rng.uniform(0.6, 1.4, steps)
    total = explanation + 0.05 * cross_entropy
    return {"total": total, "cross_entropy": cross_entropy, "explanation": explanation}


def make_run(folder, records, *, settings=SETTINGS, losses=True, pictures=0, side=SIDE, seed=0):
    """Write a run's folder: its settings and records, losses, and the first images' pictures."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(settings))
    (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    done = [r for r in records if not r.get("error")]
    if losses:
        arrays = {
            f"{r['id']}/{term}": values.astype(np.float32)
            for r in done
            for term, values in history(rng, r["steps"]).items()
        }
        np.savez(folder / "histories.npz", **arrays)
    for r in done[:pictures]:
        clean, (row, column) = scene(rng, side)
        size = round(side * PATCH / SIDE)
        patch = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        attacked = clean.copy()
        attacked[:size, -size:] = patch
        write_pictures(
            folder / "images" / r["id"],
            clean=clean,
            adversarial=attacked,
            patch=patch,
            heat_clean=blob(row, column, 0.13),
            heat_adversarial=blob(*((0.75, 0.3) if r["fooled_explanation"] else (0.15, 0.85)), 0.1),
            box=(0, side - size, size),
            record=r,
        )
    return folder


def many(count, seed=1):
    rng = np.random.default_rng(seed)
    return [record(rng, f"scene_{i:04d}") for i in range(count)]


def decoded(column):
    """The values of a column of the page's table, its strings put together again."""
    if "names" not in column:
        return column["values"]
    coded, names = iter(column["names"]), [""]
    for shared, rest in zip(coded, coded, strict=True):
        names.append(names[-1][:shared] + rest)
    return [None if n is None else names[n + 1] for n in column["values"]]


class Page(HTMLParser):
    """A page taken apart: every attribute, the text of each headline, the data; tags must close."""

    EMPTY = frozenset({"meta", "input", "img", "br", "link"})

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.text = path.read_text(encoding="utf-8")
        self.open, self.tags, self.metrics, self.inside = [], [], {}, {}
        self.feed(self.text)
        self.close()
        assert not self.open
        self.data = json.loads(self.inside["data"], parse_constant=pytest.fail)
        self.columns = {c["key"]: decoded(c) for c in self.data["columns"]}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY and not self.get_starttag_text().endswith("/>"):
            self.open.append(self.tags[-1])

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, attributes in self.open:
            if "data-metric" in attributes:
                texts = self.metrics.setdefault(attributes["data-metric"], [])
                texts += [data.strip()] if data.strip() else []
        for key in (self.open[-1][1].get("id"), self.open[-1][0]) if self.open else ():
            self.inside[key] = self.inside.get(key, "") + data


WRAPPER = """<!doctype html><title>waiting</title>
<iframe src="report.html" width="390" height="800" style="border: 0"></iframe>
<script>
const told = {}, frame = document.querySelector("iframe");
addEventListener("load", () => {
  const page = frame.contentDocument, root = page.documentElement;
  const all = what => [...page.querySelectorAll(what)];
  const ids = () => all("#rows th").map(c => c.textContent);
  const head = name => all("th").find(h => h.textContent === name);
  try {
    told.data = {...root.dataset};
    page.getElementById("picker").open = true;
    told.widths = [root.scrollWidth, frame.contentWindow.innerWidth];
    told.rows = ids();
    told.cards = all(".card").map(c => c.id);
    told.links = all("#rows a").map(a => a.getAttribute("href"));
    told.lazy = all(".card img").every(i => i.loading === "lazy" && i.alt);
    told.bands = [all("#charts path.band").length, all("#charts path.median").length];
    const lines = all("#charts path").map(p => p.getAttribute("d"));
    told.broken = lines.filter(d => /NaN|Infinity/.test(d)).length;
    told.notes = all("#cards-note, #records-note, #failures-note").map(n => n.textContent);
    told.heads = all("thead th").map(h => h.textContent);
    told.groups = all("#run summary, #run dt").map(n => n.textContent);
    told.errors = all("#failures p").map(p => p.textContent);
    const turn = page.getElementById("turn");
    if (!turn.hidden) {
      const to = page.getElementById("page"), pages = page.getElementById("pages");
      told.pages = [to.value, pages.textContent, page.getElementById("previous").disabled];
      page.getElementById("next").click();
      told.second = ids();
      to.value = 99;
      to.dispatchEvent(new Event("change"));
      told.last = [to.value, page.getElementById("next").disabled, ids()];
    }
    head("Steps").firstChild.click();
    told.down = [head("Steps").ariaSort, ids()];
    head("Steps").firstChild.click();
    told.up = [head("Steps").ariaSort, ids()];
    page.getElementById("search").value = "SCENE_0202";
    page.getElementById("search").dispatchEvent(new Event("input"));
    told.found = [ids(), page.getElementById("count").textContent, turn.hidden];
    page.getElementById("search").value = "";
    const choose = value => {
      page.getElementById("status").value = value;
      page.getElementById("status").dispatchEvent(new Event("change"));
    };
    choose("not fooled");
    told.not = [ids(), all(".card").map(c => c.id), all("#histograms h3").length];
    choose("");
    told.captions = all(".card:first-child figcaption").map(c => c.textContent);
    told.about = all(".card:first-child p").map(p => p.textContent);
    told.blank = all(".blank").map(b => b.closest(".card").id);
    told.choices = all("#choices label").map(l => l.textContent.trim());
    const picked = all("#choices label").find(l => l.textContent === " PSNR, dB");
    told.picked = [!!head("PSNR, dB")];
    picked.firstChild.click();
    told.picked.push(!!head("PSNR, dB"));
    const content = page.getElementById("content");
    told.skip = [page.querySelector("a").getAttribute("href"), content.tabIndex];
    told.failed = page.getElementById("failed").hidden;
    const log = page.getElementById("scale-log");
    log.click();
    told.log = all("#charts svg").map(s => s.getAttribute("aria-label"));
    told.scripts = all("script").length;
    told.nodes = all("*").length;
    told.error = root.dataset.error ?? null;
  } catch (error) { told.failure = String(error.stack); }
  document.body.append(document.createElement("pre"));
  document.querySelector("pre").textContent = JSON.stringify(told);
});
</script>"""


def browse(folder):
    """What the wrapper page saw in the report of `folder`, in a frame as wide as a phone."""
    wrapper = folder / "wrapper.html"
    wrapper.write_text(WRAPPER)
    command = [
        *(shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--allow-file-access-from-files", "--virtual-time-budget=20000", "--dump-dom"),
        *(f"--user-data-dir={folder / 'profile'}", wrapper.as_uri()),
    ]
    out = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True).stdout
    found = re.search(r"<pre>(.*?)</pre>", out, re.DOTALL)
    assert found, out[-2000:]
    return json.loads(unescape(found[1]))


needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
