import hashlib
import json

import jax
import numpy as np
import pytest

from gcpatch import campaigns, images, inputs
from gcpatch.attacks import Attack
from gcpatch.errors import UserError
from gcpatch.journal import Journal
from gcpatch.patches import Patch

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
    return images.find_images([str(folder)])


def attack(network, files, folder, **options):
    described = campaigns.describe([network], PATCH, ATTACK, {"seed": 0})
    journal = Journal(folder, described, resume=options.pop("resume", False))
    items = inputs.find(files, 32, "stretch")
    records = campaigns.run(journal, network, items, PATCH, ATTACK, batch=2, **options)
    return journal, records


def test_every_image_gets_its_files_and_a_record_and_a_bad_one_costs_only_itself(
    tiny, files, tmp_path
):
    journal, records = attack(tiny, files, tmp_path / "run")
    summary = journal.close()
    assert (summary["images"], summary["failed"]) == (4, 1)
    by_id = {record["id"]: record for record in records}
    assert set(by_id) == {"photo0", "photo1", "photo2", "photo3"}
    assert "photo2.png" in by_id["photo2"]["error"]
    lines = (tmp_path / "run/results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    for record in records:
        assert set(campaigns.FIELDS) <= set(record)
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


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, files, tmp_path):
    _, whole = attack(tiny, files, tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(record):
        raise StopError

    with pytest.raises(StopError):
        attack(tiny, files, tmp_path / "parts", on_record=stop)
    journal, rest = attack(tiny, files, tmp_path / "parts", resume=True)
    assert 0 < len(rest) < len(whole)

    def key(record):
        return record["id"]

    assert sorted(journal.records(), key=key) == sorted(whole, key=key)
    for name in ("photo0", "photo1", "photo3"):
        first, second = (
            images.read_png(tmp_path / run / "images" / name / "panel.png")
            for run in ("whole", "parts")
        )
        np.testing.assert_array_equal(first, second)


def test_an_image_that_has_the_target_already_gets_an_error(tiny, files, tmp_path):
    own = int(np.asarray(tiny(np.float32(images.read_image(files[0], 32)) / 255)).argmax())
    _, records = attack(tiny, files[:1], tmp_path / "run", target=str(own))
    assert "already" in records[0]["error"]
    assert records[0]["steps"] is None


def test_scenes_know_their_object(tiny, tmp_path):
    described = campaigns.describe([tiny], PATCH, ATTACK, {})
    journal = Journal(tmp_path / "run", described)
    items = inputs.from_scenes(3, 2, 32)
    records = campaigns.run(journal, tiny, items, PATCH, ATTACK, batch=2)
    assert [record["id"] for record in records] == ["scene-3-0000", "scene-3-0001"]
    assert all(0 <= record["object_energy_clean"] <= 1 for record in records)


def test_an_objective_of_ones_own_is_named_in_the_records(tiny, files, tmp_path):
    def centre(evidence):
        return evidence.heat[1, 1]

    attack = Attack(objective=centre, steps=2)
    described = campaigns.describe([tiny], PATCH, attack, {})
    assert described["settings"]["objective"] == "centre"
    journal = Journal(tmp_path / "run", described)
    items = inputs.find(files[:1], 32, "stretch")
    (record,) = campaigns.run(journal, tiny, items, PATCH, attack, batch=1)
    assert (record["objective"], record["fooled_both"]) == ("centre", None)


def test_look_explains_the_top_class_where_none_is_given(tiny):
    image = np.float32(np.random.default_rng(0).random((32, 32, 3)))
    logits, heat = campaigns.look(tiny, image, -1)
    _, same = campaigns.look(tiny, image, int(logits.argmax()))
    np.testing.assert_array_equal(heat, same)


def test_an_unknown_target_stops_a_run_before_it_starts(tiny, files, tmp_path):
    _, records = attack(tiny, files[:1], tmp_path / "run", target="lynx")
    assert "no class 'lynx'" in records[0]["error"]
    assert issubclass(images.ImageError, UserError)
