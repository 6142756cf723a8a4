"""A run's folder by index, and the panel of a result that no folder holds."""

import builtins
import json

import cv2
import jax
import numpy as np
import pytest
from pages import failure, make_run, many

import gcpatch
from gcpatch.attacks.settings import Attack
from gcpatch.errors import UserError
from gcpatch.report.figures import panel_tiles


@pytest.fixture
def folder(tmp_path):
    """A run of two images, of which only the first has pictures, and one that failed."""
    return make_run(tmp_path / "run", [*many(2), failure("broken")], losses=False, pictures=1)


def test_records_pictures_and_histories_by_index(folder):
    home = folder / "images" / "scene_0000"
    np.savez(home / "history.npz", total=[2.0, 1.0], cross_entropy=[1.0, 0.5], explanation=[0, 0])
    run = gcpatch.read_run(folder)
    assert len(run) == 3 and [one.record for one in run] == list(run.records)
    assert [record["id"] for record in run.records] == ["scene_0000", "scene_0001", "broken"]
    assert run.histories[0].total.tolist() == [2, 1] and run.histories[1] is None
    assert run.histories[-1] is None and len(run.histories[:2]) == 2
    wanted = cv2.imread(str(home / "panel.png"))[..., ::-1]
    np.testing.assert_array_equal(run.pictures[0]["panel"], wanted)
    assert "mask" in run.pictures[0] and not run.pictures[2]
    assert run[0]._repr_png_() == (home / "panel.png").read_bytes()
    assert run[1]._repr_png_() is None and repr(run[2]) == "<broken: failed>"
    assert run.summary["images"] == 3 and run.summary["failed"] == 1
    assert repr(run) == "<run: 3 images, 1 failed, 0 skipped>"
    assert run.settings["model"] == "mini_vgg"
    with pytest.raises(IndexError):
        run[3]


def test_what_is_no_run_is_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        gcpatch.read_run(tmp_path / "nowhere")
    (folder / "images" / "scene_0000" / "history.npz").write_bytes(b"PK\3\4 no archive")
    with pytest.raises(UserError, match="npz cannot be read"):
        _ = gcpatch.read_run(str(folder)).histories[0]
    with open(folder / "results.jsonl", "a") as file:
        file.write(json.dumps({"id": "../../leads/out"}) + "\n")
    with pytest.raises(UserError, match="no name of a folder"):
        gcpatch.read_run(folder)


def test_pandas_is_asked_for(folder, monkeypatch):
    find = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"to_pandas needs pandas: pip install 'gcpatch\[pandas\]'"):
        gcpatch.read_run(folder).to_pandas()


def test_a_frame_has_a_row_an_image(folder):
    pytest.importorskip("pandas")
    frame = gcpatch.read_run(folder).to_pandas()
    assert len(frame) == 3 and frame["id"][1] == "scene_0001"
    assert frame["target.id"][0] == gcpatch.read_run(folder).records[0]["target"]["id"]


def test_a_result_shows_itself(flat):
    images = np.random.default_rng(2).random((2, 6, 6, 3), np.float32)
    before = np.asarray(jax.vmap(flat)(images)).argmax(-1)
    targets = (before + 1) % 3
    how = Attack(objective="hide", steps=40, learning_rate=0.5)
    first, second = gcpatch.attack(flat, images, targets, gcpatch.Patch(3), how)
    seen = flat.categories[int(flat(first.adversarial).argmax())]
    assert repr(first).startswith("Result(verdict='") and f"class='{seen}'" in repr(first)
    assert f"steps={first.steps})" in repr(first) and "energy=" in repr(first)
    assert len(repr(first)) < 90 and repr(second) != repr(first)
    shown = cv2.imdecode(np.frombuffer(first._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    clean = panel_tiles(shown)[0][..., ::-1]
    step = len(clean) // 6
    np.testing.assert_array_equal(clean[::step, ::step], np.rint(images[0] * 255))
    bare = first._replace(asked=None)
    assert repr(bare) == f"Result(converged={first.converged}, steps={first.steps})"
    assert bare._repr_png_() is None
