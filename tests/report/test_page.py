"""The report page of a run: what it reads, what it counts, what it refuses, and that it opens."""

import base64
import csv
import hashlib
import json
import math
import os
import re
import shutil
import statistics
import sys
from contextlib import suppress

import cv2
import numpy as np
import pytest
from pages import (
    HOSTILE,
    SETTINGS,
    Page,
    browse,
    failure,
    make_run,
    many,
    needs_chromium,
    record,
)
from pyarrow import parquet

from gcpatch import cli
from gcpatch.data.images import write_png
from gcpatch.evaluation import intervals
from gcpatch.report.export import write_export
from gcpatch.report.figures import percent
from gcpatch.report.page import write_page, write_report
from gcpatch.report.records import ReportError, attacked, gather, images_of, read_records
from gcpatch.report.table import columns, status


def report(folder, records, **options):
    return Page(write_report(make_run(folder, records, **options)))


# ---- numbers -------------------------------------------------------------------------------------


def test_the_headline_numbers_are_those_of_the_records(tmp_path):
    records = [*many(23), failure("a.jpg"), failure("b.jpg")]
    done = records[:23]
    page = report(tmp_path, records, losses=False)

    def rate(key):
        count = sum(r[key] for r in done)
        _, low, high = intervals.rate(count, 23)
        return [
            f"{key.split('_')[1].capitalize()} fooled",
            f"{100 * count / 23:.1f} %",
            f"{count} of 23",
            f"95 % interval {percent(low)} to {percent(high)}",
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
    assert page.columns["id"] == [r["id"] for r in records]
    assert page.columns["error"] == [r["error"] for r in records]
    assert page.columns["clean"] == [*(r["clean"]["name"] for r in done), None, None]
    assert page.columns["pointing_adversarial"][:23] == [r["pointing_adversarial"] for r in done]
    assert page.columns["steps"] == [r["steps"] for r in records]
    np.testing.assert_allclose(
        page.columns["loss.total"][:23], [r["loss"]["total"] for r in done], rtol=1e-4
    )
    assert page.data["settings"] == SETTINGS
    assert page.data["summary"]["fooled_both"] == sum(r["fooled_both"] for r in done) / 23
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
    assert page.columns["energy_clean"][0] is page.columns["psnr"][1] is None
    assert page.columns["clean"][1] is page.columns["loss.total"][2] is None


@pytest.mark.parametrize(
    "records", [[], [failure("a.jpg")], [{"id": "a"}], [{"id": "a", "error": None}]]
)
def test_a_run_without_results_still_has_a_page(tmp_path, records):
    page = report(tmp_path, records, losses=False)
    assert page.metrics["steps"][1] == page.metrics["energy"][1] == "–"
    assert page.data["cards"] == [] and page.data["curves"] is None


def test_several_networks_have_rates_of_their_own(tmp_path):
    records = many(9)
    for n, r in enumerate(records):
        r |= {"model": "first" if n < 6 else "<i>", "fooled_class": n >= 6}
    page = report(tmp_path, records, losses=False)
    table = page.text[page.text.index('id="networks">') :]
    table = table[table.index("<tbody>") : table.index("</table>")]
    first, other = (re.findall("<t[dh].*?>(.*?)</t[dh]>", row) for row in table.split("<tr>")[1:])
    assert first[:3] == ["first", "6", "0.0 % (0.0 % to 39.0 %)"]
    assert other[:3] == ["&lt;i&gt;", "3", "100.0 % (43.9 % to 100.0 %)"]
    means = [sum(r[f"energy_{side}"] for r in records[6:]) / 3 for side in ("clean", "adversarial")]
    assert other[5:] == ["–", " → ".join(map(percent, means))]
    found = page.data["summary"]["networks"]
    assert found["first"]["fooled_class"] == 0 and found["<i>"]["intervals"]["fooled_class"][1] == 1
    assert 'id="networks"' not in report(tmp_path / "one", many(3), losses=False).text


def test_the_last_record_of_an_id_counts(tmp_path):
    first, second, third = many(3)
    again = second | {"steps": second["steps"] + 1}
    failed = failure(first["id"])
    page = report(tmp_path, [failed, first, second, third, again], losses=False)
    assert page.columns["id"] == [r["id"] for r in (first, third, again)]
    assert page.columns["steps"] == [r["steps"] for r in (first, third, again)]
    assert page.metrics["done"][1:] == ["3", "of 3; 0 failed"]


# ---- reading -------------------------------------------------------------------------------------


def test_a_torn_last_line_is_left_out(tmp_path):
    records = many(3)
    make_run(tmp_path, records)
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for torn in (b'{"id": "x", "ste', '{"id": "é'.encode()[:-1], b"12", b"\n\n"):
        path.write_bytes(whole + torn)
        assert list(read_records(tmp_path)) == records


STRANGE = [
    '{"id": "x", "ste',
    "[]",
    "null",
    "{}{}",
    "{}",
    '{"id": 3}',
    '{"id": "x", "target": "cat"}',
]


@pytest.mark.parametrize("line", STRANGE)
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    make_run(tmp_path, many(2), losses=False)
    path = tmp_path / "results.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n\n{line}\n{second}\n", encoding="utf-8")
    with pytest.raises(ReportError, match=r"results\.jsonl, line 3 is no record"):
        list(read_records(tmp_path))
    notes = []
    assert len(list(read_records(tmp_path, notes.append))) == 2
    assert notes == [f"line 3 of {path}, which is no record"]
    path.write_text(f"{first}\n{line}", encoding="utf-8")
    assert len(list(read_records(tmp_path, notes.append))) == 1
    assert notes[1:] == [f"line 2 of {path}, which is cut short"]


def test_a_folder_that_is_no_run_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ReportError, match="no folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"has no run\.json"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{}")
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


def damaged(folder):
    """A run of six images that has lost something in every way."""
    make_run(folder, many(6), pictures=6)
    lines = (folder / "results.jsonl").read_text().splitlines()
    lines[1:1] = ['{"id": "x", "ste', '{"id": "y", "target": "cat"}']
    (folder / "results.jsonl").write_text("\n".join([*lines, '{"id": "z"']))
    (folder / "histories.npz").write_bytes(b"junk")
    shutil.rmtree(folder / "images" / "scene_0002")
    (folder / "images" / "scene_0003" / "panel.png").write_bytes(b"torn")
    (folder / "images" / "scene_0004" / "panel.png").unlink()
    return folder


def test_what_a_report_leaves_out_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gcpatch.report.records.NOTED", 99)
    run = damaged(tmp_path)
    assert cli.main(["report", str(run)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("gcpatch report: left out: ") and said.count("\n") == 1
    for part in (
        "line 2 of",
        "line 3 of",
        "line 9 of",
        "which is cut short",
        f"pictures that are not there of 1 image ({run}/images/scene_0002)",
        f"pictures that cannot be read of 1 image ({run}/images/scene_0003)",
        f"clean pictures, for want of a panel.png, of 1 image ({run}/images/scene_0004)",
        f"{run}/histories.npz, which cannot be read",
    ):
        assert part in said
    monkeypatch.undo()
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().err.endswith("; and 4 more\n")
    assert Page(run / "report.html").metrics["done"][1:] == ["6", "of 6; 0 failed"]


def test_of_a_whole_run_nothing_is_left_out(tmp_path, capsys):
    make_run(tmp_path, [*many(3), failure("a.jpg")], pictures=3)
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


# ---- losses --------------------------------------------------------------------------------------


def test_the_curves_are_the_histories_thinned(tmp_path):
    records = many(70)
    make_run(tmp_path, records)
    curves = Page(write_report(tmp_path)).data["curves"]
    assert curves["count"] == 70
    with np.load(tmp_path / "histories.npz") as stored:
        whole = [stored[f"{r['id']}/cross_entropy"] for r in records]
    longest = max(map(len, whole))
    held = np.stack([np.pad(v, (0, longest - len(v)), "edge") for v in whole])
    assert curves["x"][:10] == list(range(10)) and curves["x"][-1] == curves["last"] == longest - 1
    assert len(curves["x"]) <= 150
    for name, share in (("low", 0.1), ("median", 0.5), ("high", 0.9)):
        wanted = np.quantile(held, share, axis=0)[curves["x"]]
        np.testing.assert_allclose(curves["cross_entropy"][name], wanted, rtol=1e-3)


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
    assert curves["count"] == 2
    assert curves["total"] == {"low": [2] * 5, "median": [2] * 5, "high": [2] * 5}
    assert curves["explanation"]["median"] == [1.5, 2, 2.5, 2.5, 2.5]
    only = {k: v for k, v in arrays.items() if k.startswith(names[0])}
    np.savez(tmp_path / "histories.npz", **only)
    alone = Page(write_report(tmp_path)).data["curves"]
    assert alone["total"]["median"] == [None] * 5
    assert alone["explanation"]["high"] == [1, None, 3, 3, 3]
    whole = (tmp_path / "histories.npz").read_bytes()
    for broken in (b"", b"junk", whole[:100], whole[:-30]):
        (tmp_path / "histories.npz").write_bytes(broken)
        assert Page(write_report(tmp_path)).data["curves"] is None


def test_before_a_run_ends_the_images_own_histories_are_read(tmp_path):
    make_run(tmp_path, many(2), losses=False, pictures=1)
    curves = {t: np.float32([3, 2, 1]) for t in ("total", "cross_entropy", "explanation")}
    np.savez(tmp_path / "images" / "scene_0000" / "history.npz", **curves)
    found = Page(write_report(tmp_path)).data["curves"]
    assert found["count"] == 1 and found["total"]["median"] == [3, 2, 1]


# ---- pictures ------------------------------------------------------------------------------------


def decode(source):
    assert source.startswith("data:image/jpeg;base64,")
    data = np.frombuffer(base64.b64decode(source.partition(",")[2], validate=True), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)


def test_a_card_shows_clean_and_attacked_image_and_map(tmp_path):
    make_run(tmp_path, many(2), pictures=2, side=96)
    cards = Page(write_report(tmp_path)).data["cards"]
    assert [card["row"] for card in cards] == [0, 1]
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
    assert [card["row"] for card in cards] == [0, 1]
    for card in cards:
        assert [picture is None for picture in card["pictures"]] == [True, True, False, False]


def test_pictures_outside_the_run_are_not_taken(tmp_path):
    run = make_run(tmp_path / "run", many(1), losses=False, pictures=1)
    shutil.copytree(run / "images" / "scene_0000", tmp_path / "secret")
    for name in ("../../secret", str(tmp_path / "secret"), "", ".", "a\x00b", "x" * 5000):
        page = report(run, [many(1)[0] | {"id": name}], losses=False)
        assert page.data["cards"] == [], name
        assert page.data["links"]["of"] == [None], name
    (run / "images" / "link").symlink_to(tmp_path / "secret")
    linked = report(run, [many(1)[0] | {"id": "link"}], losses=False)
    assert linked.data["cards"] == [] and linked.data["links"]["of"] == [None]
    for file in (run / "images" / "scene_0000").iterdir():
        file.unlink()
        file.symlink_to(tmp_path / "secret" / file.name)
    linked = report(run, many(1), losses=False)
    assert linked.data["cards"] == [] and linked.data["links"]["of"] == [None]


@pytest.mark.parametrize("name", ["../../secret", "..", "a/b", "/etc", "", "a\x00b"])
def test_no_verb_follows_an_id_that_is_a_path(tmp_path, name):
    with pytest.raises(ReportError, match="is no name of a folder in images/"):
        images_of(tmp_path, name)
    done = many(1)[0] | {"id": name}
    settings = {"settings": {"patch": {"size": 14, "ratio": 1.0, "position": "top-right"}}}
    make_run(tmp_path / "run", [done], settings=settings, losses=False)
    with pytest.raises(ReportError, match="is no name of a folder in images/"):
        attacked(tmp_path / "run")


def test_a_row_leads_to_its_panel_from_wherever_the_page_is(tmp_path):
    run = make_run(tmp_path / "a b: c", [*many(2), failure("x")], losses=False, pictures=1)
    found = Page(write_report(run)).data["links"]
    assert found == {"folders": ["images/"], "of": [0, None, None]}
    (tmp_path / "pages").mkdir()
    page = Page(write_page(gather([run]), tmp_path / "pages"))
    assert page.data["links"]["folders"] == ["../a%20b%3A%20c/images/"]
    (run / "images" / "scene_0000" / "panel.png").unlink()
    assert Page(write_report(run)).data["links"]["of"] == [None] * 3


def test_the_maps_of_a_page_in_other_colours(tmp_path, capsys):
    run = make_run(tmp_path, many(1), losses=False, pictures=1)
    before = Page(write_report(run))
    assert "coloured by OpenCV's jet, blue for 0 and red for the maximum" in before.text
    assert cli.main(["report", str(run), "--colormap", "viridis"]) == 0
    after = Page(run / "report.html")
    assert "coloured by OpenCV's viridis, violet for 0 and yellow for the maximum" in after.text
    old, new = (page.data["cards"][0]["pictures"] for page in (before, after))
    changes = [np.abs(decode(a) - decode(b)).mean() for a, b in zip(old, new, strict=True)]
    assert changes[0] < 1 and changes[2] < 1 and changes[1] > 20 and changes[3] > 20
    capsys.readouterr()
    assert "there is no colormap 'rainbow'" in refused(capsys, run, "--colormap", "rainbow")
    drawn = {"settings": SETTINGS | {"colormap": "viridis"}}
    make_run(run, many(1), settings=drawn, losses=False)
    assert "OpenCV's viridis" in write_report(run).read_text()


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
    tricks += ["\U0001f600a", "\U0001f600b"]  # each two letters in Python, three in JavaScript
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
    assert page.data["settings"] == settings
    assert page.columns["id"] == [*page.columns["clean"][:-1], "broken"]
    assert page.columns["id"] == [r["id"] for r in records]
    assert page.columns["error"][-1] == HOSTILE
    assert page.inside["title"] == f"gcpatch: {HOSTILE} · hide"


def test_the_table_holds_every_record_in_few_bytes(tmp_path):
    records = [*many(480), *(failure(f"broken_{i}") for i in range(20))]
    records = [r | {"id": f"{n}_{r['id']}"} for n in range(10) for r in records]
    page = report(tmp_path, records, losses=False)
    assert page.data["counts"] == {"records": 5000, "done": 4800, "failed": 200}
    assert page.metrics["done"][1:] == ["4,800", "of 5,000; 200 failed"]
    assert page.columns["id"] == [r["id"] for r in records]
    assert page.columns["source"] == [r["source"] for r in records]
    assert page.columns["steps"] == [r["steps"] for r in records]
    assert all(len(values) == 5000 for values in page.columns.values())
    assert len(page.text) < 300 * 5000


def test_columns_that_tell_nothing_are_left_out(tmp_path):
    records = many(3)
    sometimes = {"model", "objective", "label", "error", "object_energy_clean"}
    assert not sometimes & set(report(tmp_path, records, losses=False).columns)
    told = {"label": {"id": 3, "name": "rings"}, "object_energy_clean": 0.5, "error": "broken"}
    records[1] |= told | {"model": "other", "objective": "highlight"}
    page = report(tmp_path, records, losses=False)
    assert sometimes <= set(page.columns)
    assert page.columns["label"] == [None, "rings", None]
    assert page.columns["model"] == ["mini_vgg", "other", "mini_vgg"]


def test_names_are_in_order_and_shares_below_one_stay_below(tmp_path):
    names = ["b", "Ü10", "a10", "A9", "a09", "ü9", "\U0001f600b", "\U0001f600a", "7" * 5000]
    rng = np.random.default_rng(0)
    chances = [1 - 1e-9, 1.0, 0.999996, 1e-9, 0.0, -0.0, 5e-324, 0.5, 1 / 3]
    records = [
        record(rng, name, png={"id": 0, "probability": chance})
        for name, chance in zip(names, chances, strict=True)
    ]
    page = report(tmp_path, records, losses=False)
    assert page.columns["id"] == names
    (places,) = (c["values"] for c in page.data["columns"] if c["key"] == "id")
    order = [name for _, name in sorted(zip(places, names, strict=True))]
    assert order == ["7" * 5000, "A9", "a09", "a10", "b", "ü9", "Ü10", *names[7:5:-1]]
    found = page.columns["png.probability"]
    assert [p == 1 for p in found] == [p == 1 for p in chances]
    assert [p > 0 for p in found] == [p > 0 for p in chances]
    np.testing.assert_allclose(found, chances, rtol=2e-5)


def test_only_so_many_cards(tmp_path, monkeypatch):
    monkeypatch.setattr("gcpatch.report.cards.CARDS", 3)
    records = [record | {"fooled_both": True} for record in many(5)]
    page = report(tmp_path, records, pictures=5, losses=False)
    assert [card["row"] for card in page.data["cards"]] == [0, 1, 3]
    assert page.data["counts"]["done"] == 5


def test_of_what_is_rare_every_card_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("gcpatch.report.cards.CARDS", 6)
    rare = {"fooled_both": False, "fooled_class": False, "fooled_explanation": False}
    records = [r | (rare if n in (7, 9) else {"fooled_both": True}) for n, r in enumerate(many(10))]
    page = report(tmp_path, records, pictures=10, losses=False)
    assert [card["row"] for card in page.data["cards"]] == [0, 2, 4, 6, 7, 9]


def test_the_same_run_gives_the_same_page(tmp_path):
    make_run(tmp_path, many(2), pictures=1)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


# ---- several runs as one -------------------------------------------------------------------------


def campaign(folder, parts, **settings):
    """Runs in folder/part-1, ... with the given records; `settings` change those of the last."""
    common = {"model": "mini_vgg", "objective": "hide", "seed": 0, "attack": {"steps": 400}}
    for n, records in enumerate(parts, 1):
        own = common | {"shard": f"{n}/{len(parts)}"} | (settings if n == len(parts) else {})
        whole = {"settings": own, "device": "cpu", "started": f"on day {n}"}
        make_run(folder / f"part-{n}", records, settings=whole, pictures=1, seed=n)
    return folder


def refused(capsys, *arguments):
    """The one line that says why `gcpatch report` refuses."""
    assert cli.main(["report", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def test_parts_of_a_campaign_are_one_run(tmp_path, capsys):
    records = [*many(11), failure("broken")]
    campaign(tmp_path, [records[n::11] for n in range(11)])  # part-2 before part-10
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.columns["id"] == [r["id"] for n in range(11) for r in records[n::11]]
    assert page.data["counts"] == {"records": 12, "done": 11, "failed": 1}
    assert page.data["curves"]["count"] == 11 and len(page.data["cards"]) == 11
    assert [card["row"] for card in page.data["cards"]] == [0, *range(2, 12)]
    assert page.data["settings"]["settings"]["attack"] == {"steps": 400}
    assert page.data["settings"]["device"] == "cpu"
    assert page.data["settings"]["parts"]["part-11"] == {
        "started": "on day 11",
        "shard": "11/11",
    }
    assert "11 runs together" in page.text
    alone = Page(write_report(tmp_path / "part-1"))
    assert alone.data["cards"][0]["pictures"] == page.data["cards"][0]["pictures"]
    whole = make_run(tmp_path / "whole", records)
    assert cli.main(["report", str(whole)]) == 0
    merged, single = (json.loads((f / "summary.json").read_text()) for f in (tmp_path, whole))
    assert list(merged) == list(single) and (merged["images"], merged["failed"]) == (12, 1)
    for key, value in single.items():
        exact = value is None or key == "intervals"
        assert merged[key] == (value if exact else pytest.approx(value, rel=1e-12))


def test_several_folders_need_a_place_for_their_page(tmp_path, capsys):
    campaign(tmp_path, [many(2), many(4)[2:]])
    runs = [tmp_path / "part-1", tmp_path / "part-2"]
    assert "--out FOLDER" in refused(capsys, *runs)
    assert "holds a run of its own" in refused(capsys, *runs, "--out", runs[0])
    assert "part-3" in refused(capsys, *runs, tmp_path / "part-3", "--out", tmp_path)
    (tmp_path / "file").touch()
    assert "cannot write" in refused(capsys, *runs, "--out", tmp_path / "file" / "all")
    assert not any((run / "report.html").exists() for run in runs)
    assert cli.main(["report", *map(str, runs), "--out", str(tmp_path / "new" / "all")]) == 0
    assert Page(tmp_path / "new" / "all" / "report.html").data["counts"]["records"] == 4
    capsys.readouterr()
    (tmp_path / "part-3").mkdir()
    assert "part-3 has no run.json" in refused(capsys, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed is 0 and 1"),
        ({"attack": {"steps": 9}}, "attack.steps is 400 and 9"),
        ({"preset": "x", "model": None}, "model is 'mini_vgg' and None; preset is None and 'x'"),
    ],
)
def test_runs_of_other_settings_are_refused(tmp_path, capsys, changes, said):
    campaign(tmp_path, [many(1), many(2), many(3)], **changes)
    line = refused(capsys, tmp_path)
    assert f"{tmp_path / 'part-1'} and {tmp_path / 'part-3'} have other settings: {said}." in line
    assert not (tmp_path / "report.html").exists()


def test_runs_without_settings_are_not_merged(tmp_path):
    for name in ("part-1", "part-2"):
        make_run(tmp_path / name, many(1))
    with pytest.raises(ReportError, match=r"part-1/run\.json has no settings"):
        write_report(tmp_path)


def test_an_image_of_two_parts_counts_once(tmp_path, capsys):
    one, two, three = many(3)
    again = one | {"source": "elsewhere/a.jpg", "steps": 1}
    campaign(tmp_path, [[one, failure("x"), two], [again, record(np.random.default_rng(), "x")]])
    (tmp_path / "part-2" / "results.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in (again, three | {"id": "x", "source": "photos/x"}))
    )
    page = Page(write_report(tmp_path))
    assert page.columns["id"] == [one["id"], "x", two["id"]]
    assert page.columns["steps"] == [one["steps"], three["steps"], two["steps"]]
    assert page.data["counts"]["failed"] == 0
    for changes, said in (
        ({"sha256": "other"}, f"sha256 {one['sha256']} in {tmp_path / 'part-1'}, other in"),
        ({"sha256": "other", "source": "b"}, f"source {one['source']} in"),
        ({"sha256": None, "source": "b", "error": "broken"}, "b in " + str(tmp_path / "part-2")),
    ):
        campaign(tmp_path, [[one], [one | changes]])
        line = refused(capsys, tmp_path)
        assert f"The id {one['id']!r} is of different images: " in line and said in line


# ---- export --------------------------------------------------------------------------------------


def exported(records, path):
    """{column: values} of an exported file, CSV's text made into what JSON would say."""
    write_export(records, path)
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pydict()
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    words = {"": None, "True": True, "False": False, "inf": math.inf}

    def value(text):
        with suppress(ValueError):
            return words[text] if text in words else json.loads(text)
        return text

    return {name: [value(row[n]) for row in rows] for n, name in enumerate(head)}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_exported_table_is_the_records(tmp_path, suffix):
    records = [failure("broken", 'it said "no",\nthen stopped'), *many(40)]
    records[1] |= {"object_energy_clean": 0.25, "source": "photos/ü, \U0001f600.jpg"}
    records[2] |= {"psnr": math.inf, "fooled_both": None}
    found = exported(records, tmp_path / f"all{suffix}")
    flat = [
        {
            key if name is None else f"{key}.{name}": value
            for key, inner in r.items()
            for name, value in (inner.items() if isinstance(inner, dict) else [(None, inner)])
        }
        for r in records
    ]
    assert list(found) == list(dict.fromkeys(key for r in flat[1:] for key in r))
    assert {"target.id", "clean.probability", "loss.total", "error"} <= set(found)
    for name, values in found.items():
        assert values == [r.get(name) for r in flat], name
    assert list(tmp_path.iterdir()) == [tmp_path / f"all{suffix}"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_any_record_can_be_exported(tmp_path, suffix):
    path = tmp_path / f"all{suffix}"
    odd = [
        {"id": 1, "x": [1, "a"], "y": True},
        {"id": "\ud800", "y": 0.5, "z": {"a": {"b": 10**30}}},
    ]
    found = exported([*odd, {"z": None}], path)
    assert list(found) == ["id", "x", "y", "z.a.b"]
    assert [str(v) for v in found["id"]] == ["1", "?", "None"]
    for empty in ([], [{}]):
        assert exported(empty, path) == {}


def test_export_of_several_runs(tmp_path, capsys, monkeypatch):
    campaign(tmp_path, [many(2), many(5)[2:]])
    path = tmp_path / "all.csv"
    runs = [tmp_path / "part-1", tmp_path / "part-2"]
    assert cli.main(["report", *map(str, runs), "--export", str(path)]) == 0
    assert capsys.readouterr().out.split() == [str(path)]
    with open(path, newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [r["id"] for r in many(5)]
    line = refused(capsys, tmp_path, "--export", tmp_path / "all.xlsx")
    assert "all.xlsx ends in '.xlsx'; choose one of .csv, .parquet" in line
    assert "cannot write" in refused(capsys, tmp_path, "--export", tmp_path / "no" / "all.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = refused(capsys, tmp_path, "--export", tmp_path / "all.parquet")
    assert "needs pyarrow: pip install 'gcpatch[parquet]'" in line
    assert not (tmp_path / "report.html").exists()


# ---- in a browser --------------------------------------------------------------------------------


@needs_chromium
def test_page_opens_in_chromium(tmp_path, monkeypatch):
    monkeypatch.setattr("gcpatch.report.cards.CARDS", 2)
    records = [*many(229), failure("broken.jpg", "the file is empty")]
    for r, both, steps in zip(records, (True, False, True), (50, 60, 70), strict=False):
        r |= dict.fromkeys(("fooled_class", "fooled_explanation", "fooled_both"), both)
        r |= {"steps": steps, "map_empty": not both, "label": {"id": 0, "name": "stripes"}}
        r |= {"energy_adversarial": 0.021, "energy_ring_adversarial": 0.05}
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
    assert told["data"] == {"shown": "230", "rows": "230", "ready": "yes"}
    assert told["widths"][0] <= told["widths"][1] == 390
    names = [r["id"] for r in records]
    assert told["rows"] == names[:100]
    assert told["pages"] == ["1", "of 3", True]
    assert told["second"] == names[100:200]
    assert told["last"] == ["3", True, names[200:]]
    assert told["cards"] == ["card-0", "card-1"] and told["lazy"]  # the rare, one of the others
    assert told["links"] == ["#card-0", "#card-1", "images/scene_0002/panel.png"]
    assert told["bands"] == [3, 3] and told["broken"] == 0
    assert told["notes"] == [
        "2 of 2 pictures on this page for the 230 rows above, in their order.",
        "1 of 230 images have no result:",
    ]
    assert told["skip"] == ["#content", -1] and not told["failed"]
    assert told["errors"] == ["the file is empty"]
    assert "Model" not in told["heads"] and "Object energy, clean" not in told["choices"]
    assert told["picked"] == [False, True]
    assert {"patch", "attack", "stop.patience", "versions", "command"} <= set(told["groups"])
    down = sorted(records[:-1], key=lambda r: -r["steps"])
    up = sorted(down, key=lambda r: r["steps"])
    assert told["down"] == ["descending", [r["id"] for r in down[:100]]]
    assert told["up"] == ["ascending", [r["id"] for r in up[:100]]]
    assert told["found"] == [["scene_0202"], "1 of 230 rows", True]
    missed = [r for r in up if status(r) not in ("both", "class")]
    assert told["not"] == [[r["id"] for r in missed[:100]], ["card-1"], 3]
    shown = records[0]
    captions = ["clean: " + shown["clean"]["name"], "explains: " + shown["clean"]["name"]]
    captions += [
        "attacked: " + shown["adversarial"]["name"],
        "explains: " + shown["target"]["name"],
    ]
    for found, begins in zip(told["captions"], captions, strict=True):
        assert found.startswith(begins)
    assert told["captions"][3].endswith("2.1\xa0% in the patch, 5.0\xa0% with its ring")
    (about,) = told["about"]
    assert about == f"Target: {shown['target']['name']} · true class: stripes · 50 steps · panel"
    assert told["blank"] == ["card-1"]
    assert all("logarithmic axis" in label for label in told["log"])


@needs_chromium
def test_strings_of_a_run_stay_strings_in_chromium(tmp_path):
    records, settings = hostile()
    first = many(1)[0] | {"model": HOSTILE, "object_energy_clean": 0.5}
    settings = {"settings": settings, "python": "3.11"}
    make_run(tmp_path, [first, *records], settings=settings, losses=False, pictures=1)
    write_report(tmp_path)
    told = browse(tmp_path)
    assert "failure" not in told and told["error"] is None and told["scripts"] == 2
    assert "Model" in told["heads"] and "Object energy, clean" in told["choices"]
    assert {"python", "patch", "stop.patience", HOSTILE} <= set(told["groups"])
    assert told["errors"] == [HOSTILE]
    assert {HOSTILE, "\U0001f600a", "\U0001f600b"} <= set(told["rows"])
    assert told["widths"][0] <= 390


@needs_chromium
def test_a_page_of_2000_images_stays_small_and_quick(tmp_path):
    make_run(tmp_path, many(2000), losses=False, pictures=1, side=224)
    for n in range(1, 70):
        (tmp_path / "images" / f"scene_{n:04d}").mkdir()
        for name in ("adversarial", "panel"):
            first = tmp_path / "images" / "scene_0000" / f"{name}.png"
            os.link(first, tmp_path / "images" / f"scene_{n:04d}" / f"{name}.png")
    size = write_report(tmp_path).stat().st_size
    told = browse(tmp_path)
    assert told["error"] is None and told["data"]["rows"] == "2000"
    assert size < 6e6  # 60 cards of four pictures, and 300 bytes a record
    assert len(told["cards"]) == 12 and told["nodes"] < 5000


@needs_chromium
def test_a_page_without_failures_has_no_heading_for_them(tmp_path):
    make_run(tmp_path, many(2), pictures=1)
    write_report(tmp_path)
    assert browse(tmp_path)["failed"]


def test_the_table_says_why_an_image_was_skipped():
    done = {"id": "a", "error": None, "skipped": None}
    skipped = done | {"id": "b", "skipped": "the image is taken for the target already"}
    assert "skipped" not in {column["key"] for column in columns([done])}
    found = {column["key"]: column for column in columns([done, skipped])}
    assert found["skipped"]["heading"] == "Skipped because"
    assert found["skipped"]["names"] == [0, skipped["skipped"]]
    assert found["skipped"]["values"] == [None, 0]


def test_skipped_images_are_counted_in_the_headline(tmp_path):
    records = [{"id": n, "error": None, "skipped": n == "b" or None} for n in "ab"]
    lines = [json.dumps(r | {"skipped": r["skipped"] and "already"}) for r in records]
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    assert "of 2; 0 failed, 1 skipped" in write_report(tmp_path).read_text()
