import errno
import gc
import hashlib
import json
import shutil
import signal
from dataclasses import replace
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packing import id_of
from PIL import Image

from gcpatch.attacks import engine, slots
from gcpatch.attacks.blending import coverage
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.data import hints, images, sources
from gcpatch.errors import UserError
from gcpatch.evaluation import metrics
from gcpatch.explainers import cam
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal
from gcpatch.runs.options import Options
from gcpatch.runs.progress import Progress

KEY = itemgetter("id")
PATCH = Patch(10, 0.5)
ATTACK = Attack(objective="hide", steps=3)


@pytest.fixture
def files(tmp_path):
    """Four pictures, the third of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), np.uint8)
    for i, picture in enumerate(pixels):
        images.write_png(folder / f"photo{i}.png", picture)
    (folder / "photo2.png").write_bytes(b"this is no picture")
    return sorted(folder.iterdir())


def attack(network, files, folder, *, how=ATTACK, **options):
    described = campaign.describe([network], PATCH, how, {"seed": 0})
    journal = Journal(folder, described, resume=options.pop("resume", False))
    items = sources.find(files, 32, "stretch").items
    asked = {name: options.pop(name) for name in ("target", "checkpoint_every") if name in options}
    given = {"batch": 2, "options": Options(**asked)} | options
    records = list(campaign.run(journal, network, items, PATCH, how, **given))
    return journal, records


def test_every_image_gets_its_files_and_a_record_and_a_bad_one_costs_only_itself(
    tiny, files, tmp_path
):
    journal, records = attack(tiny, files, tmp_path / "run")
    summary = journal.close()
    assert (summary["images"], summary["failed"]) == (4, 1)
    by_id = {record["id"]: record for record in records}
    assert set(by_id) == set(map(id_of, files))
    assert "photo2.png" in by_id[id_of(files[2])]["error"]
    lines = (tmp_path / "run/results.jsonl").read_text().splitlines()
    assert sorted(map(json.loads, lines), key=KEY) == sorted(records, key=KEY)
    for record in records:
        assert set(campaign.FIELDS) <= set(record)
        names = {path.name for path in (tmp_path / "run/images").glob(f"{record['id']}/*.png")}
        wanted = {"adversarial", "patch", "overlay", "mask", "heatmap", "panel"}
        assert names == (set() if record["error"] else {f"{name}.png" for name in wanted})


def test_the_verdict_is_that_of_the_png(tiny, files, tmp_path):
    _, records = attack(tiny, files[:2], tmp_path / "run")
    for record, path in zip(records, files[:2], strict=True):
        before = images.read_image(path, 32)
        after = images.read_png(tmp_path / "run/images" / record["id"] / "adversarial.png")
        logits = np.asarray(tiny(np.float32(after) / 255))
        assert record["png"]["id"] == logits.argmax()
        odds = np.asarray(jax.nn.softmax(logits))
        assert record["png"]["probability"] == pytest.approx(odds.max(), abs=1e-5)
        assert record["fooled_class"] == (logits.argmax() == record["target"]["id"])
        assert record["clean"]["id"] == np.asarray(tiny(np.float32(before) / 255)).argmax()
        assert record["target"]["id"] != record["clean"]["id"]
        assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        outside = np.ones((32, 32), bool)
        outside[:10, -10:] = False
        np.testing.assert_array_equal(after[outside], before[outside])
        assert np.abs(np.int16(after) - before).max() <= 128  # ratio 0.5 of 255, rounded
        assert record["pixels_changed_share"] <= 100 / 32**2


def test_the_clean_energy_is_that_of_the_targets_map(tiny, files, tmp_path):
    _, (record,) = attack(tiny, files[:1], tmp_path / "run", target="least-likely")
    image = np.float32(images.read_image(files[0], 32)) / 255
    heats = [np.asarray(cam.grad_cam(tiny, image, record[k]["id"])) for k in ("target", "clean")]
    covered = np.asarray(coverage(heats[0].shape, (32, 32), (0, 22), (10, 10)))
    of_target, of_top = (metrics.energy(heat, covered) for heat in heats)
    assert abs(of_target - of_top) > 1e-3
    assert record["energy_clean"] == pytest.approx(of_target, rel=1e-5)


def test_the_verdict_is_that_of_another_picture_if_that_is_what_the_png_holds(
    tiny, files, tmp_path, monkeypatch
):
    other = np.full((32, 32, 3), 200, np.uint8)
    own = int(np.asarray(tiny(np.float32(other) / 255)).argmax())
    monkeypatch.setattr(images, "read_png", lambda path: other)
    _, (record,) = attack(tiny, files[:1], tmp_path / "run", target="runner-up")
    assert record["png"]["id"] == own
    assert record["fooled_class"] == (own == record["target"]["id"])
    monkeypatch.undo()
    target = str(own)  # and with the other picture's class as the target it is fooled
    monkeypatch.setattr(images, "read_png", lambda path: other)
    _, (record,) = attack(tiny, files[1:2], tmp_path / "other", target=target)
    assert record["skipped"] or record["fooled_class"] is True


def test_without_artifacts_the_records_are_the_same(tiny, files, tmp_path):
    _, records = attack(tiny, files[:2], tmp_path / "drawn")
    _, plain = attack(tiny, files[:2], tmp_path / "plain", write_artifacts=False)
    assert records == plain
    pictures = sorted(
        path.relative_to(tmp_path / "plain") for path in tmp_path.rglob("plain/**/*.png")
    )
    assert [path.name for path in pictures] == ["adversarial.png"] * 2
    for path in pictures:
        assert (tmp_path / "plain" / path).read_bytes() == (tmp_path / "drawn" / path).read_bytes()


def test_a_run_says_by_which_command_it_was_made(tiny):
    assert campaign.describe([tiny], PATCH, ATTACK, {})["command"] is None
    described = campaign.describe([tiny], PATCH, ATTACK, {}, command="gcpatch attack 'a b'")
    assert described["command"] == "gcpatch attack 'a b'"


class Listening(Progress):
    """Keeps what it is told."""

    def __init__(self):
        self.notes, self.count = [], 0

    def note(self, text):
        self.notes.append(text)

    def again(self, count):
        self.count += count


def listed(path, rows):
    """A manifest of files with their targets and labels."""
    path.write_text("path,target,label\n" + "".join(f"{','.join(row)}\n" for row in rows))
    return [path]


def resume(network, sources, folder, **options):
    """Goes on with a run; the records by id, those that are new, and what was said."""
    gc.collect()  # what held the folder is gone
    watch = Listening()
    journal, new = attack(network, sources, folder, resume=True, watch=watch, **options)
    records = list(journal.records())
    assert len(records) == len({record["id"] for record in records})
    return {record["id"]: record for record in records}, new, watch


AGAIN = "1 image changed since its record and is attacked again"


def test_a_picture_that_was_replaced_is_attacked_again(tiny, files, tmp_path):
    files = files[:2]
    first = {record["id"]: record for record in attack(tiny, files, tmp_path / "run")[1]}
    images.write_png(files[0], images.read_image(files[1], 48))
    records, new, watch = resume(tiny, files, tmp_path / "run")
    assert (watch.notes, watch.count) == ([AGAIN], 1)
    assert [record["id"] for record in new] == [id_of(files[0])]
    assert records[id_of(files[0])] == new[0] != first[id_of(files[0])]
    assert new[0]["sha256"] == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert records[id_of(files[1])] == first[id_of(files[1])]
    assert resume(tiny, files, tmp_path / "run")[1] == []


@pytest.mark.parametrize("changed", [("2", ""), ("1", "b"), ("", ""), ("random", "")])
def test_a_target_or_label_that_changed_is_attacked_again(tiny, files, tmp_path, changed):
    def manifest(own):
        return listed(tmp_path / "list.csv", [(str(files[0]), *own), (str(files[1]), "1", "a")])

    attack(tiny, manifest(("1", "")), tmp_path / "run")
    assert resume(tiny, manifest(("1", "")), tmp_path / "run")[1:2] == ([],)
    records, new, watch = resume(tiny, manifest(changed), tmp_path / "run")
    assert watch.notes == [AGAIN]
    assert [record["id"] for record in new] == [id_of(files[0])] and len(records) == 2
    asked = {"target": changed[0] or None, "label": changed[1] or None}
    assert new[0].get("asked") == (asked if any(changed) else None)


def test_files_of_several_frames_are_said_once(tiny, tmp_path):
    frames = [Image.fromarray(np.full((9, 9, 3), 40 * n, np.uint8)) for n in range(3)]
    for name in ("a.gif", "b.png", "c.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    frames[1].save(tmp_path / "d.png")
    files, watch = sorted(tmp_path.iterdir()), Listening()
    _, records = attack(tiny, files, tmp_path / "run", watch=watch)
    assert [record["error"] for record in records] == [None] * 4
    said = "has several frames or pages; of such files the first is taken"
    assert watch.notes == [f"{str(files[0])!r} {said}"]
    watch = Listening()
    attack(tiny, files[3:], tmp_path / "alone", watch=watch)
    assert watch.notes == []


def test_an_added_file_and_another_folder_with_the_same_names(tiny, files, tmp_path):
    first = attack(tiny, files[:1], tmp_path / "run")[1]
    records, new, watch = resume(tiny, [files[1], files[0]], tmp_path / "run")
    assert [record["id"] for record in new] == [id_of(files[1])] and watch.notes == []
    assert records[id_of(files[0])] == first[0]
    other = tmp_path / "other"
    other.mkdir()
    for name, source in ((files[0].name, files[1]), (files[1].name, files[3])):
        shutil.copy(source, other / name)
    records, new, watch = resume(tiny, sorted(other.iterdir()), tmp_path / "run")
    assert len(records) == 4 and len(new) == 2
    assert watch.notes == ["2 records are of images that are not named now; they stay"]


def test_a_picture_that_is_gone_costs_no_record(tiny, files, tmp_path):
    first = attack(tiny, files[:2], tmp_path / "run")[1]
    items = sources.find(files[:2], 32, "stretch").items
    files[0].unlink()
    gc.collect()
    described = campaign.describe([tiny], PATCH, ATTACK, {"seed": 0})
    journal, watch = Journal(tmp_path / "run", described, resume=True), Listening()
    assert list(campaign.run(journal, tiny, items, PATCH, ATTACK, watch=watch)) == []
    assert sorted(journal.records(), key=KEY) == sorted(first, key=KEY)
    assert watch.notes == ["1 image cannot be read any more; its record stays"]


# ---- untargeted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 60])
def test_an_untargeted_record_is_of_the_class_that_is_seen(tiny, files, tmp_path, steps):
    how = replace(ATTACK, objective="highlight", steps=steps, confidence=0.4)
    _, records = attack(tiny, files[:2], tmp_path / "run", how=how, target="untargeted")
    for record in records:
        after = np.float32(images.read_png(next(tmp_path.glob(f"run/images/{record['id']}/adv*"))))
        seen = int(tiny(after / 255).argmax())
        assert record["target"] == {
            "id": seen,
            "name": tiny.categories[seen],
            "mode": "untargeted",
        }
        assert record["png"]["id"] == seen
        assert record["fooled_class"] == (seen != record["clean"]["id"])
        before = images.read_image(next(f for f in files if id_of(f) == record["id"]), 32)
        for key, pixels in (("adversarial", after), ("clean", np.float32(before))):
            heat = np.asarray(cam.grad_cam(tiny, pixels / 255, seen))
            covered = np.asarray(coverage(heat.shape, (32, 32), (0, 22), (10, 10), 0.5))
            assert record[f"energy_{key}"] == pytest.approx(metrics.energy(heat, covered), rel=1e-4)
        assert record["fooled_both"] == (record["fooled_class"] and record["fooled_explanation"])
    assert any(record["fooled_class"] for record in records) == (steps > 1)


def test_an_image_that_is_not_taken_for_its_label_is_skipped(tiny, files, tmp_path):
    top = int(tiny(np.float32(images.read_image(files[0], 32)) / 255).argmax())
    right, wrong = tiny.categories[top], tiny.categories[top - 1]
    for own in (("", right), ("untargeted", wrong), ("c", ""), ("runner-up", right)):
        listed(tmp_path / "list.csv", [(str(files[0]), *own)])
        folder = tmp_path / "-".join(own)
        _, (record,) = attack(tiny, [tmp_path / "list.csv"], folder, target="untargeted")
        if own[0] in ("c", "runner-up"):
            assert f"own target is '{own[0]}' and that of the run 'untargeted'" in record["error"]
        elif own[1] == wrong:
            said = f"the image is taken for {right!r} already, and not for {wrong!r}"
            assert (record["skipped"], record["error"]) == (said, None)
            assert record["target"] == {"id": top, "name": right, "mode": "untargeted"}
        else:
            assert record["skipped"] is None and record["label"]["id"] == top
    listed(tmp_path / "list.csv", [(str(files[0]), "untargeted", "")])
    _, (record,) = attack(tiny, [tmp_path / "list.csv"], tmp_path / "run")
    assert "attacks of a run are all targeted or all untargeted" in record["error"]


def test_an_untargeted_run_that_is_stopped_is_taken_up_where_it_was(
    tiny, files, tmp_path, monkeypatch
):
    monkeypatch.setattr(slots, "CHUNK", 1)
    how = dict(how=replace(ATTACK, steps=5, confidence=0.999), target="untargeted")
    attack(tiny, files, tmp_path / "whole", **how)[0].close()
    attack(tiny, files, tmp_path / "parts", watch=Impatient(5), **how)[0].release()
    assert (tmp_path / "parts/snapshots").is_dir()
    attack(tiny, files, tmp_path / "parts", resume=True, **how)[0].close()
    same_runs(tmp_path / "whole", tmp_path / "parts")


class Impatient(Progress):
    """Asks for an end after so many image-steps."""

    def __init__(self, most):
        self.most = most

    def steps(self, count):
        self.most -= count
        self.stopped = signal.SIGTERM if self.most <= 0 else None

    def note(self, text):
        raise AssertionError(text)


def same_runs(first, second):
    """Asserts that two runs' folders hold the same records and the same files, byte for byte."""
    lines = (sorted((run / "results.jsonl").read_text().splitlines()) for run in (first, second))
    assert next(lines) == next(lines)
    files, others = (
        {path.relative_to(run): path for path in run.glob("images/**/*") if path.is_file()}
        for run in (first, second)
    )
    assert files.keys() == others.keys()
    for name, path in files.items():
        assert path.read_bytes() == others[name].read_bytes(), name


@pytest.mark.parametrize("most", [1, 5, 11])
def test_a_stopped_run_is_taken_up_where_it_was(tiny, files, tmp_path, monkeypatch, most):
    monkeypatch.setattr(slots, "CHUNK", 1)
    how = dict(how=replace(ATTACK, steps=5, confidence=0.999))
    attack(tiny, files, tmp_path / "whole", **how)[0].close()
    journal, before = attack(tiny, files, tmp_path / "parts", watch=Impatient(most), **how)
    journal.release()
    assert (tmp_path / "parts/snapshots").is_dir()
    taken = []

    class Counting(Progress):
        def steps(self, count):
            taken.append(count)

    watch = Counting()
    journal, after = attack(tiny, files, tmp_path / "parts", resume=True, watch=watch, **how)
    journal.close()
    assert len({record["id"] for record in [*before, *after]}) == 4
    same_runs(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "parts/snapshots").exists()
    steps = sum(record["steps"] for record in journal.records() if record["error"] is None)
    assert steps - sum(taken) >= most  # nothing was done twice
    with np.load(tmp_path / "parts/histories.npz") as histories:
        assert {len(curve) for curve in histories.values()} == {5}


def refreshing(monkeypatch, every):
    """Refreshes in the near field come after so many steps, whatever they cost."""

    def choose(*arguments, **options):
        found = engine.choose_reach(*arguments, **options)
        return found._replace(every=found.every and every)

    monkeypatch.setattr(slots, "choose_reach", choose)


@pytest.mark.parametrize("most", [1, 7])
def test_a_stopped_run_in_the_near_field_is_taken_up_bit_for_bit(
    tiny, files, tmp_path, monkeypatch, most
):
    refreshing(monkeypatch, every=2)
    how = dict(how=replace(ATTACK, steps=5, confidence=0.999, reach=0))
    attack(tiny, files, tmp_path / "whole", **how)[0].close()
    attack(tiny, files, tmp_path / "parts", watch=Impatient(most), **how)[0].release()
    assert (tmp_path / "parts/snapshots").is_dir()
    journal, _ = attack(tiny, files, tmp_path / "parts", resume=True, **how)
    journal.close()
    same_runs(tmp_path / "whole", tmp_path / "parts")
    reaches = [record["reach"] for record in journal.records() if not record["error"]]
    wanted = {"mode": "near", "margin": 0, "every": 2, "refreshes": 3, "stalled": False}
    assert reaches == 3 * [wanted]


@pytest.fixture
def stuck(files, monkeypatch):
    """An attack whose best step is the first photo's first one, and the others' last one."""
    first = images.read_image(files[0], 32)[0, 0, 0] / 255

    def loss(evidence):
        mine = jnp.abs(evidence.image[0, 0, 0] - first) < 1e-4
        return jnp.where(mine, 1.0, evidence.tile.mean())

    monkeypatch.setattr(slots, "CHUNK", 1)
    return Attack(objective=loss, ce_weight=0.0, steps=6, learning_rate=0.01)


@pytest.mark.parametrize("restart", [False, True])
def test_an_image_that_stalls_is_continued_after_all_others(tiny, files, tmp_path, stuck, restart):
    taken = []

    class Counting(Progress):
        def steps(self, count):
            taken.append(count)

    how = dict(how=replace(stuck, restart=restart), batch=1)
    journal, records = attack(tiny, files, tmp_path / "run", watch=Counting(), **how)
    journal.close()
    done = [record for record in records if not record["error"]]
    assert [record["id"] for record in done] == [id_of(files[i]) for i in (1, 3, 0)]
    assert [record["steps"] for record in done] == [6] * 3 and sum(taken) == 18
    assert not (tmp_path / "run/deferred").exists()
    attack(tiny, files[:1], tmp_path / "alone", **how)[0].close()  # nobody waits for its slot
    name = f"images/{id_of(files[0])}"
    for path in (tmp_path / "alone" / name).iterdir():
        assert path.read_bytes() == (tmp_path / "run" / name / path.name).read_bytes()


@pytest.mark.parametrize("reach, restart", [("exact", False), ("exact", True), (0, False)])
@pytest.mark.parametrize("most", [3, 6, 17])
def test_a_stopped_run_knows_what_it_has_deferred(
    tiny, files, tmp_path, monkeypatch, stuck, most, reach, restart
):
    refreshing(monkeypatch, every=1)
    how = dict(how=replace(stuck, reach=reach, restart=restart), batch=1)
    attack(tiny, files, tmp_path / "whole", **how)[0].close()
    journal, _ = attack(tiny, files, tmp_path / "parts", watch=Impatient(most), **how)
    journal.release()
    waits = [path.stem for path in tmp_path.glob("parts/deferred/*")]
    assert waits == ([] if most == 3 else [id_of(files[0])])
    journal, after = attack(tiny, files, tmp_path / "parts", resume=True, **how)
    journal.close()
    late = bool(waits) or reach == 0  # in the near field the state says that it has stalled
    assert (after[-1]["id"] == id_of(files[0])) == late
    same_runs(tmp_path / "whole", tmp_path / "parts")
    done = [record for record in journal.records() if not record["error"]]
    stalled = [record["id"] for record in done if record["reach"]["stalled"]]
    assert stalled == ([] if reach == "exact" else [id_of(files[0])])


@pytest.mark.parametrize("most", [5, 13, 16])
def test_a_stopped_run_whose_last_images_stall_in_the_near_field(
    tiny, files, tmp_path, monkeypatch, stuck, most
):
    refreshing(monkeypatch, every=1)
    last = replace(stuck, objective=lambda evidence: 0 * evidence.tile.sum() + 1.0, reach=0)
    how = dict(how=last, batch=2)
    attack(tiny, files, tmp_path / "whole", **how)[0].close()
    attack(tiny, files, tmp_path / "parts", watch=Impatient(most), **how)[0].release()
    journal, _ = attack(tiny, files, tmp_path / "parts", resume=True, **how)
    journal.close()
    same_runs(tmp_path / "whole", tmp_path / "parts")
    reaches = [record["reach"] for record in journal.records() if not record["error"]]
    assert [(each["stalled"], each["refreshes"]) for each in reaches] == 3 * [(True, 4)]


def test_a_deferred_image_that_cannot_be_read_begins_anew(tiny, files, tmp_path, stuck):
    how = dict(how=stuck, batch=1)
    attack(tiny, files, tmp_path / "whole", **how)[0].close()
    attack(tiny, files, tmp_path / "parts", watch=Impatient(6), **how)[0].release()
    (file,) = tmp_path.glob("parts/deferred/*")
    file.write_bytes(file.read_bytes()[:100])
    watch = Listening()
    attack(tiny, files, tmp_path / "parts", resume=True, watch=watch, **how)[0].close()
    (note,) = watch.notes
    assert str(file) in note and note.endswith("its image begins anew")
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_what_is_not_taken_up_yet_is_kept_by_the_next_snapshot(tiny, files, tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "CHUNK", 1)
    how = dict(how=replace(ATTACK, steps=5, confidence=0.999))
    attack(tiny, files, tmp_path / "parts", watch=Impatient(4), **how)[0].release()
    again = dict(resume=True, batch=1, **how)
    attack(tiny, files, tmp_path / "parts", watch=Impatient(1), **again)[0].release()
    taken = []
    watch = Progress()
    watch.steps = taken.append
    journal, _ = attack(tiny, files, tmp_path / "parts", watch=watch, **again)
    journal.close()
    assert sum(taken) == 3 * 5 - 4 - 1


def test_what_waits_behind_stalled_images_is_kept_by_the_next_snapshot(
    tiny, files, tmp_path, monkeypatch, stuck
):
    refreshing(monkeypatch, every=1)
    how = dict(how=replace(stuck, reach=0), batch=3)
    taken = []
    for most in (12, 1, None):  # at first one image has stalled, and the others have not
        watch = Progress() if most is None else Impatient(most)
        count = watch.steps
        watch.steps = lambda steps, count=count: (taken.append(steps), count(steps))
        attack(tiny, files, tmp_path / "run", resume=bool(taken), watch=watch, **how)[0].release()
    assert sum(taken) == 3 * 6


def test_a_snapshot_that_cannot_be_read_leaves_the_one_before(tiny, files, tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "CHUNK", 1)
    how = dict(how=replace(ATTACK, steps=5, confidence=0.999))
    attack(tiny, files, tmp_path / "whole", **how)[0].close()
    stopped = Impatient(4)
    journal, _ = attack(
        tiny, files, tmp_path / "parts", watch=stopped, checkpoint_every=1e-9, **how
    )
    journal.release()
    kept = sorted(tmp_path.glob("parts/snapshots/[0-9]*"), key=lambda path: int(path.name))
    assert len(kept) == 2
    for path in kept[-1].glob("arrays/**/*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(path.read_bytes()[::-1])
    notes = []
    watch = Progress()
    watch.note = notes.append
    journal, _ = attack(tiny, files, tmp_path / "parts", resume=True, watch=watch, **how)
    journal.close()
    assert len(notes) == 1
    assert str(kept[-1]) in notes[0]
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_an_image_that_changed_is_not_taken_up(tiny, files, tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "CHUNK", 1)
    how = dict(how=replace(ATTACK, steps=5, confidence=0.999))
    attack(tiny, files, tmp_path / "parts", watch=Impatient(1), **how)[0].release()
    images.write_png(files[0], images.read_image(files[1], 32))
    journal, _ = attack(tiny, files, tmp_path / "parts", resume=True, **how)
    attack(tiny, files, tmp_path / "whole", **how)[0].close()
    journal.close()
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_an_attack_for_another_target_is_not_taken_up(tiny, files, tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "CHUNK", 1)
    how = dict(how=replace(ATTACK, steps=5, confidence=0.999))

    def manifest(target):
        return listed(tmp_path / "list.csv", [(str(files[0]), target, "")])

    attack(tiny, manifest("1"), tmp_path / "parts", watch=Impatient(1), **how)[0].release()
    journal, _ = attack(tiny, manifest("2"), tmp_path / "parts", resume=True, **how)
    attack(tiny, manifest("2"), tmp_path / "whole", **how)[0].close()
    journal.close()
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_loss_that_is_no_number_costs_only_its_image(tiny, files, tmp_path):
    def brittle(evidence):
        return jnp.where(evidence.target == 1, jnp.nan, 1) * evidence.heat.mean()

    options = dict(how=Attack(objective=brittle, steps=4), target="1")
    _, records = attack(tiny, [*files[:2], files[3]], tmp_path / "run", **options)
    assert {record["error"] for record in records} == {
        "the loss is nan at step 1; nothing can be optimised from there"
    }

    def once(evidence):
        bad = (evidence.target == 1) & (jnp.abs(evidence.image[0, 0, 0] - first) < 1e-4)
        return jnp.where(bad, jnp.nan, 1) * evidence.heat.mean()

    first = images.read_image(files[0], 32)[0, 0, 0] / 255
    options["how"] = Attack(objective=once, steps=4)
    _, records = attack(tiny, [*files[:2], files[3]], tmp_path / "one", **options)
    assert [record["id"] for record in records if record["error"]] == [id_of(files[0])]


def test_a_full_disk_ends_the_run_and_loses_nothing(tiny, files, tmp_path, monkeypatch):
    attack(tiny, files, tmp_path / "whole")[0].close()
    store, stored = Journal.store, []

    def full(self, identity, *arguments):
        if stored:
            raise OSError(errno.ENOSPC, "No space left on device")
        stored.append(identity)
        return store(self, identity, *arguments)

    monkeypatch.setattr(Journal, "store", full)
    with pytest.raises(OSError, match="No space left on device"):
        attack(tiny, files, tmp_path / "parts")
    monkeypatch.undo()
    gc.collect()  # what held the folder is gone
    journal, records = attack(tiny, files, tmp_path / "parts", resume=True)
    journal.close()
    assert len(records) == 3
    same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_folder_that_is_removed_ends_the_run(tiny, files, tmp_path):
    class Vandal(Progress):
        def steps(self, count):
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(OSError, match=f"{tmp_path / 'run'}: the run's folder is gone"):
        attack(tiny, files, tmp_path / "run", watch=Vandal())


def test_an_image_that_vanishes_or_breaks_a_thread_costs_only_itself(tiny, files, tmp_path):
    def explode():
        raise RuntimeError("boom")

    items = sources.find(files, 32, "stretch").items
    items[1] = items[1]._replace(read=explode)
    files[0].unlink()
    described = campaign.describe([tiny], PATCH, ATTACK, {})
    journal = Journal(tmp_path / "run", described)
    found = list(campaign.run(journal, tiny, items, PATCH, ATTACK, batch=2))
    errors = {record["id"]: record["error"] for record in found}
    assert "photo0.png' cannot be read" in errors[id_of(files[0])]
    assert errors[id_of(files[1])] == "RuntimeError: boom"
    assert errors[id_of(files[3])] is None


@pytest.mark.parametrize("spelled", [str, "{}.0".format, "abc".__getitem__, "ABC".__getitem__])
def test_an_image_that_has_the_target_already_is_skipped(tiny, files, tmp_path, spelled):
    own = int(np.asarray(tiny(np.float32(images.read_image(files[0], 32)) / 255)).argmax())
    journal, (record,) = attack(tiny, files[:1], tmp_path / "run", target=spelled(own))
    assert record["error"] is None and "already" in record["skipped"] and record["steps"] is None
    assert record["sha256"] == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert record["target"]["id"] == record["clean"]["id"] == own and record["label"] is None
    summary = journal.close()
    assert (summary["images"], summary["failed"], summary["skipped"]) == (1, 0, 1)
    assert summary["fooled_class"] is None
    assert attack(tiny, files[:1], tmp_path / "run", resume=True)[1] == []


def test_the_folders_of_the_images_are_labels(tiny, files, tmp_path):
    for folder, file in zip("ab", files, strict=False):
        (tmp_path / "val" / folder).mkdir(parents=True)
        file.rename(tmp_path / "val" / folder / file.name)
    items = sources.find([tmp_path / "val"], 32, "stretch").items
    items = hints.labelled(items, tiny.categories).items
    journal = Journal(tmp_path / "run", campaign.describe([tiny], PATCH, ATTACK, {}))
    records = list(campaign.run(journal, tiny, items, PATCH, ATTACK, batch=2))
    assert {record["source"][-12:-11]: record["label"]["id"] for record in records} == {
        "a": 0,
        "b": 1,
    }
    right = [record["clean"]["id"] == record["label"]["id"] for record in records]
    assert journal.close()["accuracy_clean"] == sum(right) / 2


def test_scenes_know_their_object(tiny, tmp_path):
    described = campaign.describe([tiny], PATCH, ATTACK, {})
    journal = Journal(tmp_path / "run", described)
    items = sources.from_scenes(3, 2, 32)
    records = list(campaign.run(journal, tiny, items, PATCH, ATTACK, batch=2))
    assert [record["id"] for record in records] == ["scene-3-0000", "scene-3-0001"]
    assert all(0 <= record["object_energy_clean"] <= 1 for record in records)


def test_an_objective_of_ones_own_is_named_in_the_records(tiny, files, tmp_path):
    def centre(evidence):
        return evidence.heat[1, 1]

    attack = Attack(objective=centre, steps=2)
    described = campaign.describe([tiny], PATCH, attack, {})
    assert described["settings"]["objective"] == "centre"
    journal = Journal(tmp_path / "run", described)
    items = sources.find(files[:1], 32, "stretch").items
    (record,) = campaign.run(journal, tiny, items, PATCH, attack, batch=1)
    assert (record["objective"], record["fooled_both"]) == ("centre", None)


def test_look_explains_the_top_class_where_none_is_given(tiny):
    image = np.float32(np.random.default_rng(0).random((32, 32, 3)))
    logits, heat = cam.classify_and_explain(tiny, image)
    _, same = cam.classify_and_explain(tiny, image, int(logits.argmax()))
    np.testing.assert_array_equal(heat, same)


def test_an_unknown_target_stops_a_run_before_it_starts(tiny, files, tmp_path):
    _, records = attack(tiny, files[:1], tmp_path / "run", target="lynx")
    assert "no class 'lynx'" in records[0]["error"]
    assert issubclass(images.ImageError, UserError)
