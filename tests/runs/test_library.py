"""Libraries of patches: of which images they are made, and when that pays."""

import numpy as np
import pytest
from tinies import FLAT

from gcpatch.attacks.patches import Library, LibraryError
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.universal import universal
from gcpatch.data.sources import Item, Picture
from gcpatch.errors import UserError
from gcpatch.runs import library
from gcpatch.runs.options import Options

HOW, PATCH = Attack(objective="classify", steps=3, ce_weight=1.0), Patch(2)
PIXELS = np.random.default_rng(2).integers(0, 256, (9, FLAT, FLAT, 3), np.uint8)


def item(index, target=None):
    def read():
        if index < 0:
            raise UserError("torn")
        return Picture(PIXELS[index], f"{index:064x}")

    return Item(f"image{index}", f"image {index}", read, target)


@pytest.fixture
def seen(flat):
    return library.see(flat, [item(i) for i in (0, -1, 1, 2, 3)])


def test_what_cannot_be_read_is_left_out(flat, seen):
    assert seen.unread == ["torn"]
    np.testing.assert_array_equal(seen.images, np.float32(PIXELS[:4]) / 255)
    np.testing.assert_array_equal(seen.tops, np.asarray(flat(seen.images)).argmax(-1))
    with pytest.raises(LibraryError, match="none of the images can be read: torn"):
        library.see(flat, [item(-1)])


def test_a_patch_is_of_the_images_that_are_not_its_target_and_of_no_other_target(
    flat, seen, tmp_path
):
    assert len(set(seen.tops.tolist())) > 1
    both = library.make_library(
        tmp_path / "both.npz", [flat], seen, [0, 1, 2], PATCH, HOW, most=2, batch=2, seed=4
    )
    for target, patch in both.items():
        others = seen.images[seen.tops != target][:2]
        alone = universal([flat], others, [target] * 2, PATCH, HOW, batch=2, seed=4)
        np.testing.assert_array_equal(patch.noise, alone.noise)
    assert Library.load(tmp_path / "both.npz").digest == both.digest


def test_no_image_for_any_target(flat, seen, tmp_path):
    notes = []
    alike = seen._replace(tops=np.zeros_like(seen.tops))
    with pytest.raises(LibraryError, match="no target has an image"):
        library.make_library(
            tmp_path / "none.npz", [flat], alike, [0], PATCH, HOW, note=notes.append
        )
    assert notes == ["a: every image is taken for it already"]


def test_for_which_targets_it_pays(flat, monkeypatch):
    monkeypatch.setattr(library, "PAYS", 4)
    names = flat.categories
    some = [item(i, "b") for i in range(4)] + [item(i) for i in range(9)]
    assert library.targets_that_pay(some, "c", names) == [1, 2]
    assert library.targets_that_pay(some, "random", names) == [1]  # 3 for each, and 4 for b
    assert library.targets_that_pay(some * 2, "runner-up", names) == [0, 1, 2]
    assert library.targets_that_pay([item(0, "nobody")] * 9, "a", names) == []


def test_the_images_of_a_runs_own_library_lie_evenly_in_the_list(flat, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "CANDIDATES", 3)
    monkeypatch.setattr(library, "PAYS", 1)
    looked = []
    monkeypatch.setattr(library, "see", lambda network, few: looked.extend(few) or SEEN)
    few = [item(i) for i in range(9)]
    library.own_library(tmp_path / "a", flat, few, PATCH, HOW, Options(target="a"))
    assert [one.id for one in looked] == ["image0", "image3", "image6"]


SEEN = library.Seen(np.float32(PIXELS[:2]) / 255, np.asarray([1, 2]), "digest", [])


def test_none_where_none_can_be_made(flat, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "PAYS", 1)
    notes = []
    torn = [item(-1)] * 5
    found = library.own_library(
        tmp_path / "a", flat, torn, PATCH, HOW, Options(target="a"), note=notes.append
    )
    assert found is None
    assert notes[-1] == "no patches to start from: none of the images can be read: torn"
