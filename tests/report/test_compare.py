"""Runs side by side: numbers by hand, what cannot be compared, and the page."""

import json

import numpy as np
import pytest
from pages import HOSTILE, Page, browse, failure, make_run, many, needs_chromium

from gcpatch import cli
from gcpatch.data.images import write_png
from gcpatch.evaluation.intervals import paired_difference
from gcpatch.report.compare import compare
from gcpatch.report.table import columns

SETTINGS = {"attack": {"objective": "hide", "steps": 300}, "shard": "1/1", "seed": 0}
A, B = {"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}


def record(name, both=True, **changes):
    found = {
        "id": name,
        "sha256": f"content of {name}",
        "source": f"photos/{name}",
        "model": "mini_vgg",
        "objective": "hide",
        "target": B,
        "label": A,
        "clean": A | {"probability": 0.9},
        "adversarial": (B if both else A) | {"probability": 0.8},
        "png": {"id": int(both), "probability": 0.8},
        "steps": 10,
        "fooled_class": both,
        "fooled_explanation": both,
        "fooled_both": both,
        "energy_adversarial": 0.01 if both else 0.3,
        "energy_ring_adversarial": 0.02 if both else 0.4,
        "pointing_adversarial": False,
        "error": None,
        "skipped": None,
    }
    return found | changes


def run(folder, records, **options):
    settings = SETTINGS | options.pop("settings", {})
    whole = {"settings": settings, "device": "cpu", "started": f"at {folder.name}"}
    return make_run(folder, records, settings=whole, losses=False, **options)


def pair(tmp_path, first, second, **options):
    """The comparison of two runs of hand-made records."""
    folders = run(tmp_path / "first", first), run(tmp_path / "second", second, **options)
    (found,) = compare(folders).pairs
    return found


def of(found, key):
    return next(d for d in found.differences if d.key == key)


def test_differences_are_of_the_images_in_both(tmp_path):
    first = [record("a"), record("b"), record("c", both=False), record("alone")]
    first.append(failure("broken"))
    second = [record("c", steps=30), record("a", both=False, steps=20), record("b", steps=10)]
    second.append(record("broken"))
    found = pair(tmp_path, first, second)
    assert found.images == 3 and found.verdict == "fooled_both" and found.notes == []
    both = of(found, "fooled_both")
    assert (both.images, both.first, both.second, both.value) == (3, 2 / 3, 2 / 3, 0)
    flags = np.array([[1, 1, 0], [0, 1, 1]], bool)
    assert (both.value, both.low, both.high) == paired_difference(*flags)
    steps = of(found, "steps")
    assert (steps.first, steps.second, steps.value) == (10, 20, 10)
    assert steps.low == 0 and steps.high == 20  # the smallest and largest means of three draws
    assert of(found, "energy_adversarial").value == pytest.approx(0)
    assert of(found, "accuracy_robust").first == pytest.approx(1 / 3)
    assert [*found.changed] == [(0, 1, True), (2, 0, False)]
    assert "energy_clean" not in {d.key for d in found.differences}


def test_images_are_matched_by_id_then_by_content(tmp_path):
    first = [record("a"), record("b"), record("c"), record("d")]
    second = [
        record("moved", sha256="content of a", both=False),
        record("b", sha256="other"),
        record("c", target=A),
        record("d", model="mini_vgg_bn"),
        record("a2", sha256="content of a"),
    ]
    found = pair(tmp_path, first, second)
    assert found.images == 1 and len(found.changed) <= 1
    assert "Only second has mini_vgg_bn, which is not compared." in found.notes
    assert "1 image has another target in second and cannot be paired." in found.notes


def test_untargeted_images_are_matched_whatever_class_is_seen(tmp_path):
    away = [each | {"mode": "untargeted"} for each in (A, B)]
    first = [record("a", target=away[0]), record("b", target=away[0])]
    second = [record("a", target=away[1], both=False), record("b", target=A)]
    found = pair(tmp_path, first, second)
    assert found.images == 1 and [*found.changed] == [(0, 0, True)]
    assert "1 image has another target in second and cannot be paired." in found.notes
    (column,) = columns(first, [("Target", "class", "target")])
    assert column["names"] == [0, "untargeted"]  # which cards take for: the class that is seen


def test_runs_that_share_no_image_say_so(tmp_path):
    found = pair(tmp_path, [record("a")], [record("b")])
    (note,) = found.notes
    assert note.startswith("first and second share no image with the same target")
    assert found.differences == found.changed == []


def test_two_networks_are_paired_with_a_warning(tmp_path):
    second = [record("a", both=False, model="mini_resnext"), record("b", model="mini_resnext")]
    found = pair(tmp_path, [record("a"), record("b")], second)
    (note,) = found.notes
    assert note.startswith("first attacks mini_vgg and second attacks mini_resnext:")
    assert found.images == 2 and of(found, "fooled_both").value == -0.5
    many_networks = [record("a"), record("b", model="x")]
    third = pair(tmp_path / "more", many_networks, second)
    assert third.images == 0 and "Only first has mini_vgg, x" in third.notes[0]


def test_other_weights_of_one_network_are_said(tmp_path):
    digests = [{"weights_digest": {"mini_vgg": text}} for text in ("0a", "0b")]
    folders = [
        run(tmp_path / d["weights_digest"]["mini_vgg"], [record("a")], settings=d) for d in digests
    ]
    found = compare(folders)
    assert found.pairs[0].notes == [
        "mini_vgg has other weights in the two runs: it is not the same network."
    ]
    assert found.settings == {"weights_digest.mini_vgg": ["0a", "0b"]}


def test_objectives_that_want_the_opposite_are_compared_by_the_class(tmp_path):
    highlight = {"objective": "highlight", "energy_adversarial": 0.9}
    second = [record("a", **highlight), record("b", both=False, **highlight)]
    found = pair(tmp_path, [record("a"), record("b")], second)
    (note,) = found.notes
    assert note.startswith("hide and highlight want different things of the explanation")
    assert found.verdict == "fooled_class" and [*found.changed] == [(1, 1, True)]
    keys = {d.key for d in found.differences}
    assert "fooled_class" in keys and not keys & {"fooled_both", "fooled_explanation"}
    for name in ("hide", "subramanya"):  # which both hide
        alike = [record("a", objective=name)]
        assert not pair(tmp_path / name, [record("a")], alike).notes
    own = pair(tmp_path / "own", [record("a")], [record("a", objective="mine")])
    assert own.verdict == "fooled_class" and own.notes[0].startswith("hide and mine want")


def test_the_baseline_is_judged_as_what_it_is_compared_with(tmp_path):
    nothing = {"objective": "classify", "fooled_explanation": None, "fooled_both": None}
    first = [record("a", **nothing), record("b", **nothing | {"energy_adversarial": 0.3})]
    found = pair(tmp_path, first, [record("a"), record("b")])
    assert found.notes == [
        "classify wants nothing of the explanation, which is judged as that of hide."
    ]
    assert of(found, "fooled_explanation").first == of(found, "fooled_both").first == 0.5
    assert of(found, "fooled_both").second == 1 and [*found.changed] == [(1, 1, False)]
    neither = pair(tmp_path / "n", first, first)
    assert neither.verdict == "fooled_class"
    assert neither.notes == ["No explanation is judged in both runs: sides are those of the class."]


def test_settings_that_differ(tmp_path):
    other = {"attack": {"objective": "hide", "steps": 9}, "shard": "2/2", "patch": {"size": 8}}
    folders = [run(tmp_path / "a", [record("a")]), run(tmp_path / "b", [], settings=other)]
    found = compare(folders)
    assert found.settings == {"attack.steps": [300, 9], "patch.size": [None, 8]}
    again = run(tmp_path / "deep" / "a", [record("a")])
    assert compare([folders[0], again]).names == [str(folders[0]), str(again)]


def test_bad_folders_and_names_are_one_sentence(tmp_path, capsys):
    one = run(tmp_path / "one", [record("a")])

    def refused(*arguments):
        assert cli.main(["compare", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        return err

    assert "name two runs or more" in refused(one)
    assert "is named twice" in refused(one, tmp_path / "one")
    assert "There is no folder" in refused(one, tmp_path / "gone")
    assert "has no run.json" in refused(one, tmp_path)
    two = run(tmp_path / "two", [record("a")])
    assert "the page is a file .html" in refused(one, two, "--out", tmp_path / "x.pdf")
    assert "cannot write" in refused(one, two, "--out", tmp_path / "gone" / "x.html")


def test_the_table_and_json(tmp_path, capsys):
    first = run(tmp_path / "a", [record("x"), record("y")])
    second = run(tmp_path / "b", [record("x", both=False), record("y")], settings={"seed": 1})
    assert cli.main(["compare", str(first), str(second)]) == 0
    out = capsys.readouterr().out
    assert "seed     0  1" in out and "a and b: 2 images in both" in out
    line = next(line.split("  ") for line in out.splitlines() if line.startswith("Both fooled "))
    assert [c.strip() for c in line if c.strip()][:4] == ["Both fooled", "2", "100.0 %", "50.0 %"]
    assert line[-1].startswith("-50.0 [")
    assert "fooled, class and explanation, in one alone: 1 only in a, 0 only in b" in out
    assert cli.main(["compare", str(first), str(second), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["fooled_both"] for r in found["runs"]] == [1, 0.5]
    (pair,) = found["pairs"]
    assert pair["names"] == ["a", "b"] and pair["images"] == 2
    (changed,) = pair["changed"]
    assert changed == {"id": "x", "id_second": "x", "target": B, "first": True, "second": False}
    assert {d["key"]: d["value"] for d in pair["differences"]}["fooled_both"] == -0.5


def test_the_page_shows_what_changed_sides(tmp_path, capsys):
    shown = [r | {"fooled_explanation": True, "fooled_both": True} for r in many(3)]
    other = [r | {"fooled_explanation": False, "fooled_both": n == 1} for n, r in enumerate(shown)]
    hostile = [record(n, target=B | {"name": HOSTILE}) for n in ("../../secret", HOSTILE)]
    secret = tmp_path / "secret"
    secret.mkdir()
    write_png(secret / "adversarial.png", np.zeros((9, 9, 3), np.uint8))
    changed = [r | {"fooled_both": False} for r in hostile]
    first = run(tmp_path / "runs" / "<b>", shown + hostile, pictures=3)
    second = run(tmp_path / "runs" / "c", other + changed, pictures=3, settings={"model": HOSTILE})
    page = tmp_path / "page.html"
    assert cli.main(["compare", str(first), str(second), "--out", str(page)]) == 0
    assert capsys.readouterr().out.endswith(f"page: {page}\n")
    found = Page(page)
    assert "<img" not in found.text and "<b>" not in found.text
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert found.columns["id"] == ["scene_0000", "scene_0002", "../../secret", HOSTILE]
    assert set(found.columns["status"]) == {"only in <b>"}
    assert [card["row"] for card in found.data["cards"]] == [0, 1]
    assert all(len(card["pictures"]) == 4 for card in found.data["cards"])
    assert "4 images are fooled in one run and not in another" in found.text


@needs_chromium
def test_the_page_of_a_comparison_opens_in_chromium(tmp_path):
    shown = [r | {"fooled_both": True} for r in many(3)]
    shown[2] |= {"map_empty": True}
    other = [r | {"fooled_both": n == 1} for n, r in enumerate(shown)]
    folders = run(tmp_path / "a", shown, pictures=3), run(tmp_path / "b", other, pictures=3)
    assert cli.main(["compare", *map(str, folders), "--out", str(tmp_path / "report.html")]) == 0
    told = browse(tmp_path)
    assert told["data"] == {"shown": "2", "rows": "2", "ready": "yes"}  # and no error
    assert told["rows"] == ["scene_0000", "scene_0002"]
    assert told["cards"] == ["card-0", "card-1"] and told["widths"][0] <= 390
