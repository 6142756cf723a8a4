"""The report page of a run: what it reads, what it counts, what it refuses, and that it opens."""

import base64
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import time
from html import unescape
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from gcpatch.images import write_png
from gcpatch.render import write_pictures
from gcpatch.report import ReportError, read_records, write_report

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


def report(folder, records, **options):
    return Page(write_report(make_run(folder, records, **options)))


# ---- numbers -------------------------------------------------------------------------------------


def test_the_headline_numbers_are_those_of_the_records(tmp_path):
    records = [*many(23), failure("a.jpg"), failure("b.jpg")]
    done = records[:23]
    page = report(tmp_path, records, losses=False)

    def rate(key):
        count = sum(r[key] for r in done)
        return [
            f"{key.split('_')[1].capitalize()} fooled",
            f"{100 * count / 23:.1f} %",
            f"{count} of 23",
        ]

    assert page.metrics["done"] == ["Images done", "23", "of 25; 2 failed"]
    for key in ("fooled_class", "fooled_explanation", "fooled_both"):
        assert page.metrics[key] == rate(key)
    before, after = (
        100 * sum(r[f"energy_{side}"] for r in done) / 23 for side in ("clean", "adversarial")
    )
    assert page.metrics["energy"][1] == f"{before:.1f} % → {after:.1f} %"
    assert page.metrics["steps"][1] == f"{statistics.median(r['steps'] for r in done):g}"
    assert page.metrics["steps"][2] == f"{sum(r['converged'] for r in done)} of 23 converged"
    assert page.data["counts"] == {"records": 25, "done": 23, "failed": 2}
    assert page.data["records"] == records
    assert [r["id"] for r in page.data["failures"]] == ["a.jpg", "b.jpg"]
    assert page.data["settings"] == SETTINGS
    assert page.inside["title"] == "gcpatch: mini_vgg · hide"


def test_what_is_not_measured_is_not_counted(tmp_path):
    """`classify` has no fooled explanation; some numbers may be null, missing, NaN or infinite."""
    records = many(4)
    for r in records:
        r |= {"objective": "classify", "fooled_explanation": None, "fooled_both": None}
    records[0] |= {"energy_clean": float("nan"), "steps": None, "fooled_class": None}
    records[1] |= {"energy_adversarial": float("inf"), "psnr": float("-inf"), "clean": None}
    del records[2]["energy_clean"], records[2]["loss"]
    page = report(tmp_path, records, losses=False)
    assert page.metrics["fooled_explanation"][1:] == ["–", "not measured"]
    assert page.metrics["fooled_class"][2].endswith("of 3")
    shares = [f"{100 * records[3][f'energy_{side}']:.1f} %" for side in ("clean", "adversarial")]
    assert page.metrics["energy"][1:] == [" → ".join(shares), "mean of 1, clean → attacked"]
    assert page.data["records"][0]["energy_clean"] is None
    assert page.data["records"][1]["psnr"] is None


@pytest.mark.parametrize("records", [[], [failure("a.jpg")], [{}], [{"error": None}] * 2])
def test_a_run_without_results_still_has_a_page(tmp_path, records):
    page = report(tmp_path, records, losses=False)
    assert page.metrics["steps"][1] == page.metrics["energy"][1] == "–"
    assert page.data["cards"] == [] and page.data["curves"] is None


def test_the_last_record_of_an_id_counts(tmp_path):
    first, second, third = many(3)
    again = second | {"fooled_class": not second["fooled_class"]}
    failed = failure(first["id"])
    page = report(tmp_path, [failed, first, second, third, again], losses=False)
    assert page.data["records"] == [first, third, again]
    assert page.metrics["done"][1:] == ["3", "of 3; 0 failed"]


# ---- reading -------------------------------------------------------------------------------------


def test_a_torn_last_line_is_left_out(tmp_path):
    records = many(3)
    make_run(tmp_path, records)
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for torn in (b'{"id": "x", "ste', '{"id": "é'.encode()[:-1], b"12", b'{"id"}\n', b"\n\n"):
        path.write_bytes(whole + torn)
        assert read_records(tmp_path) == records


@pytest.mark.parametrize("line", ['{"id": "x", "ste', "[]", "null", "{}{}"])
def test_a_broken_line_before_the_last_is_named(tmp_path, line):
    make_run(tmp_path, many(2), losses=False)
    path = tmp_path / "results.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n\n{line}\n{second}\n", encoding="utf-8")
    with pytest.raises(ReportError, match=r"results\.jsonl, line 3: "):
        read_records(tmp_path)


def test_a_folder_that_is_no_run_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ReportError, match="no folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"has no results\.jsonl"):
        write_report(tmp_path)
    make_run(tmp_path, [], losses=False)
    for text in ("{", "[1]", "\x00"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ReportError, match=r"run\.json does not hold one JSON object\.$"):
            write_report(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ReportError, match=r"has no run\.json"):
        write_report(tmp_path)
    assert issubclass(ReportError, ValueError)


# ---- losses --------------------------------------------------------------------------------------


def test_the_curves_are_the_histories_thinned(tmp_path):
    records = many(70)
    make_run(tmp_path, records)
    curves = Page(write_report(tmp_path)).data["curves"]
    assert curves["count"] == 70 and len(curves["images"]) == 60
    with np.load(tmp_path / "histories.npz") as stored:
        whole = {r["id"]: stored[f"{r['id']}/cross_entropy"] for r in records}
    for curve in curves["images"]:
        values = whole[curve["id"]]
        assert curve["x"][:10] == list(range(10)) and curve["x"][-1] == len(values) - 1
        assert len(curve["x"]) <= 150
        np.testing.assert_allclose(curve["cross_entropy"], values[curve["x"]], rtol=1e-3)
    longest = max(map(len, whole.values()))
    held = np.stack([np.pad(v, (0, longest - len(v)), "edge") for v in whole.values()])
    median = np.median(held, 0)[curves["median"]["x"]]
    assert curves["last"] == longest - 1
    np.testing.assert_allclose(curves["median"]["cross_entropy"], median, rtol=1e-3)


def test_losses_may_be_nan_short_empty_or_broken(tmp_path):
    make_run(tmp_path, many(4), losses=False)
    names = [f"scene_{i:04d}" for i in range(4)]
    arrays = {f"{names[0]}/{t}": np.full(5, np.nan, np.float32) for t in ("total", "cross_entropy")}
    arrays[f"{names[0]}/explanation"] = np.array([1, np.inf, 3], np.float32)
    arrays |= {
        f"{names[1]}/{t}": np.float32([2]) for t in ("total", "cross_entropy", "explanation")
    }
    arrays |= {f"{names[2]}/{t}": np.float32([]) for t in ("total", "cross_entropy", "explanation")}
    arrays[f"{names[3]}/total"] = np.float32([1, 2])
    np.savez(tmp_path / "histories.npz", **arrays)
    curves = Page(write_report(tmp_path)).data["curves"]
    assert [c["id"] for c in curves["images"]] == names[:2]
    assert curves["images"][0]["total"] == [None] * 3
    assert curves["images"][0]["explanation"] == [1, None, 3]
    assert curves["median"]["total"] == [2] * 5
    whole = (tmp_path / "histories.npz").read_bytes()
    for broken in (b"", b"junk", whole[:100], whole[:-30]):
        (tmp_path / "histories.npz").write_bytes(broken)
        assert Page(write_report(tmp_path)).data["curves"] is None


def test_before_a_run_ends_the_images_own_histories_are_read(tmp_path):
    make_run(tmp_path, many(2), losses=False, pictures=1)
    curves = {t: np.float32([3, 2, 1]) for t in ("total", "cross_entropy", "explanation")}
    np.savez(tmp_path / "images" / "scene_0000" / "history.npz", **curves)
    found = Page(write_report(tmp_path)).data["curves"]
    assert found["count"] == 1 and found["median"]["total"] == [3, 2, 1]


# ---- pictures ------------------------------------------------------------------------------------


def decode(source):
    assert source.startswith("data:image/jpeg;base64,")
    data = np.frombuffer(base64.b64decode(source.partition(",")[2], validate=True), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)


def test_a_card_shows_clean_and_attacked_image_and_map(tmp_path):
    make_run(tmp_path, many(2), pictures=2, side=96)
    cards = Page(write_report(tmp_path)).data["cards"]
    assert [card["record"]["id"] for card in cards] == ["scene_0000", "scene_0001"]
    clean, clean_map, attacked, attacked_map = map(decode, cards[0]["pictures"])
    folder = tmp_path / "images" / "scene_0000"
    for name, picture in (("adversarial", attacked), ("overlay", attacked_map)):
        whole = cv2.imread(str(folder / f"{name}.png"))[..., ::-1].astype(float)
        small = cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA)
        assert np.abs(small - whole)[32:].mean() < 4  # below the patch's noise
    assert np.abs(clean - attacked)[64:].mean() < 2 < np.abs(clean - attacked)[:48, -48:].mean()
    assert np.abs(clean_map - clean).mean() > 10


def test_without_a_sound_panel_the_attacked_side_is_shown_alone(tmp_path):
    make_run(tmp_path, many(4), pictures=4)
    images = tmp_path / "images"
    (images / "scene_0000" / "panel.png").unlink()
    write_png(images / "scene_0001" / "panel.png", np.zeros((30, 90, 3), np.uint8))
    (images / "scene_0002" / "panel.png").write_bytes(b"torn")
    shutil.rmtree(images / "scene_0003")
    cards = Page(write_report(tmp_path)).data["cards"]
    assert [card["record"]["id"] for card in cards] == ["scene_0000", "scene_0001"]
    for card in cards:
        assert [picture is None for picture in card["pictures"]] == [True, True, False, False]


def test_pictures_outside_the_run_are_not_taken(tmp_path):
    run = make_run(tmp_path / "run", many(1), losses=False, pictures=1)
    shutil.copytree(run / "images" / "scene_0000", tmp_path / "secret")
    for name in ("../../secret", str(tmp_path / "secret"), "", ".", "a\x00b", "x" * 5000):
        page = report(run, [many(1)[0] | {"id": name}], losses=False)
        assert page.data["cards"] == [], name


# ---- the page ------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_loads_nothing(tmp_path):
    page = report(tmp_path, many(3), pictures=3)
    assert list(tmp_path.glob("report*")) == [tmp_path / "report.html"]
    assert not re.search(r"https?://|@import|url\(|\bfetch\(|XMLHttp|\beval\b|innerHTML", page.text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"link", "iframe", "object", "embed", "base", "form", "img"}
    for tag, attributes in page.tags:
        assert "src" not in attributes and "style" not in attributes
        assert attributes.get("href", "#")[0] == "#", tag
        assert not any(name.startswith("on") for name in attributes)
    names = [a["id"] for _, a in page.tags if "id" in a]
    assert len(names) == len(set(names))
    assert "{{" not in page.text


def test_the_policy_allows_the_pages_own_style_and_script_alone(tmp_path):
    page = report(tmp_path, many(1))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def hostile():
    """A run whose every string tries to break out of its place."""
    rng = np.random.default_rng(5)
    tricks = [HOSTILE, "<!--<script>", "]]>", "{{data}}", "\u2028\ud800", "__proto__", "a\"'&lt;b"]
    records = [
        record(rng, trick, clean={"id": 0, "name": trick, "probability": 0.5}, source=trick)
        for trick in tricks
    ]
    settings = SETTINGS | {"model": HOSTILE, "started": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}}
    return [*records, failure("broken", HOSTILE)], settings


def test_strings_of_a_run_stay_strings(tmp_path):
    records, settings = hostile()
    page = report(tmp_path / "<b>run", records, settings=settings, losses=False)
    assert "<img" not in page.text and "<b>" not in page.text
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert page.data["records"] == records and page.data["settings"] == settings
    assert page.inside["title"] == f"gcpatch: {HOSTILE} · hide"


def test_two_and_a_half_thousand_records(tmp_path):
    records = [*many(2300), *(failure(f"broken_{i}") for i in range(200))]
    make_run(tmp_path, records, pictures=0)
    start = time.process_time()
    page = Page(write_report(tmp_path))
    assert time.process_time() - start < 60
    assert page.data["records"] == records[:2000]
    assert page.data["counts"] == {"records": 2500, "done": 2300, "failed": 200}
    assert page.metrics["done"][1:] == ["2,300", "of 2,500; 200 failed"]
    assert len(page.text) < 4_000_000


def test_at_most_sixty_cards(tmp_path):
    page = report(tmp_path, many(63), pictures=63, losses=False)
    assert len(page.data["cards"]) == 60
    assert page.data["counts"]["done"] == 63 and page.data["most"] == 60


def test_the_same_run_gives_the_same_page(tmp_path):
    make_run(tmp_path, many(2), pictures=1)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


# ---- in a browser --------------------------------------------------------------------------------

WRAPPER = """<!doctype html><title>waiting</title>
<iframe src="report.html" width="390" height="800" style="border: 0"></iframe>
<script>
const told = {}, frame = document.querySelector("iframe");
addEventListener("load", () => {
  const page = frame.contentDocument, root = page.documentElement;
  const all = what => [...page.querySelectorAll(what)];
  const ids = () => all("#rows tr:not([hidden]) td:first-child").map(c => c.textContent);
  const head = name => all("th").find(h => h.textContent === name);
  try {
    told.data = {...root.dataset};
    told.widths = [root.scrollWidth, frame.contentWindow.innerWidth];
    told.rows = ids();
    told.cards = all(".card").length;
    told.lazy = all(".card img").every(i => i.loading === "lazy" && i.alt);
    told.curves = all("#charts path.one").length;
    const lines = all("#charts path").map(p => p.getAttribute("d"));
    told.broken = lines.filter(d => /NaN|Infinity/.test(d)).length;
    told.gaps = lines.filter(d => d.lastIndexOf("M") > 0).length;
    told.notes = all("#cards-note, #records-note, #failures-note").map(n => n.textContent);
    told.heads = all("th").map(h => h.textContent);
    told.groups = all("#run summary, #run dt").map(n => n.textContent);
    told.errors = all("#failures p").map(p => p.textContent);
    head("Steps").firstChild.click();
    told.down = [head("Steps").ariaSort, ids()];
    head("Steps").firstChild.click();
    told.up = [head("Steps").ariaSort, ids()];
    page.getElementById("search").value = "SCENE_0002";
    page.getElementById("search").dispatchEvent(new Event("input"));
    told.found = [ids(), page.getElementById("count").textContent];
    const seen = kind => getComputedStyle(page.querySelector(".card ." + kind)).visibility;
    const settle = () => page.getAnimations().forEach(a => a.finish());
    told.attacked = [seen("before"), seen("after")];
    page.getElementById("show-all-clean").click(); settle();
    told.clean = [seen("before"), seen("after")];
    page.querySelector(".card img").click(); settle();
    told.again = [seen("before"), seen("after")];
    page.getElementById("scale-log").click();
    told.scripts = all("script").length;
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


@needs_chromium
def test_page_opens_in_chromium(tmp_path):
    records = [*many(5), failure("broken.jpg", "the file is empty")]
    long = "an_identifier_without_any_place_to_break_" * 4
    records[3] |= {"id": long, "clean": {"id": 1, "name": long, "probability": 0.5}}
    make_run(tmp_path, records, pictures=3)
    with np.load(tmp_path / "histories.npz") as stored:
        arrays = dict(stored)
    arrays["scene_0000/total"][4:6] = np.nan
    np.savez(tmp_path / "histories.npz", **arrays)
    write_report(tmp_path)
    told = browse(tmp_path)
    assert "failure" not in told and told["error"] is None
    assert told["data"] == {"shown": "6", "rows": "6", "ready": "yes"}
    assert told["widths"][0] <= told["widths"][1] == 390
    assert told["rows"] == [r["id"] for r in records]
    assert told["cards"] == 3 and told["lazy"]
    assert told["curves"] == 3 * 5 and told["broken"] == 0 and told["gaps"] == 1
    assert told["notes"] == [
        "3 of 5 finished images are shown; the others have no readable pictures in images/.",
        "All 6 records. Click on a heading to sort.",
        "1 of 6 images have no result:",
    ]
    assert told["errors"] == ["the file is empty"]
    assert "Model" not in told["heads"] and "Object energy, clean" not in told["heads"]
    assert {"patch", "attack", "stop.patience", "versions", "command"} <= set(told["groups"])
    by_steps = [r["id"] for r in sorted(records[:5], key=lambda r: r["steps"])]
    assert told["down"] == ["descending", [*by_steps[::-1], "broken.jpg"]]
    assert told["up"] == ["ascending", [*by_steps, "broken.jpg"]]
    assert told["found"] == [["scene_0002"], "1 of 6 rows"]
    assert told["attacked"] == told["again"] == ["hidden", "visible"]
    assert told["clean"] == ["visible", "hidden"]


@needs_chromium
def test_strings_of_a_run_stay_strings_in_chromium(tmp_path):
    records, settings = hostile()
    first = many(1)[0] | {"model": HOSTILE, "object_energy_clean": 0.5}
    settings = {"settings": settings, "python": "3.11"}
    make_run(tmp_path, [first, *records], settings=settings, losses=False, pictures=1)
    write_report(tmp_path)
    told = browse(tmp_path)
    assert "failure" not in told and told["error"] is None and told["scripts"] == 2
    assert {"Model", "Object energy, clean"} <= set(told["heads"])
    assert {"python", "patch", "stop.patience", HOSTILE} <= set(told["groups"])
    assert told["errors"] == [HOSTILE] and HOSTILE in told["rows"]
    assert told["widths"][0] <= 390
