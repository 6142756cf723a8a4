"""Patches as objects: laid over images, saved, gathered by target."""

import subprocess
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tinies import FLAT

import gcpatch
from gcpatch import AdversarialPatch, Attack, Bounded, Frame, Library, Mask, Patch
from gcpatch.attacks.patches import LibraryError
from gcpatch.attacks.regions import PatchError
from gcpatch.data import images
from gcpatch.networks import fill, parameters

HOW = Attack(objective="classify", steps=2, ce_weight=1.0)
PATCH = Patch(3)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.fixture
def mask(tmp_path):
    """A picture of a region: grey in one corner, white in the other."""
    grey = np.zeros((FLAT, FLAT, 3), np.uint8)
    grey[:2, :3], grey[4:, 4:] = 120, 255
    images.write_png(tmp_path / "mask.png", grey)
    return tmp_path / "mask.png"


@pytest.fixture(params=["patch", "blended", "frame", "mask", "bounded"])
def region(request, mask):
    """One of each kind."""
    return {
        "patch": Patch(3),
        "blended": Patch(3, 0.3, (1, 2)),
        "frame": Frame(1, 0.5),
        "mask": Mask(str(mask), 0.6),
        "bounded": Bounded(8),
    }[request.param]


def test_the_patch_of_an_attack_gives_its_image_again(flat, region):
    drawn = pixels(2, FLAT, FLAT, 3)
    for result, image in zip(gcpatch.attack(flat, drawn, [0, 1], region, HOW), drawn, strict=True):
        again = result.patch.apply(image)
        np.testing.assert_allclose(again, result.adversarial, atol=1e-6)
        assert np.abs(again - image).max() > 0.01
        untouched = (result.adversarial == image).all(-1)
        np.testing.assert_array_equal(again[untouched], image[untouched])


def test_the_noise_is_kept_and_not_only_its_blend(flat):
    image = np.zeros((1, FLAT, FLAT, 3), np.float32)
    how = replace(HOW, init="image")  # of black pixels
    (result,) = gcpatch.attack(flat, image, [0], Patch(3, 0.2), how)
    np.testing.assert_allclose(0.2 * result.patch.noise, result.tile, atol=1e-6)
    white = result.patch.apply(np.ones((FLAT, FLAT, 3), np.float32))
    np.testing.assert_allclose(white[:3, -3:], 0.8 + result.tile, atol=1e-6)


def test_the_patch_where_the_first_step_saw_the_clean_image(flat):
    drawn = pixels(1, FLAT, FLAT, 3)
    (result,) = gcpatch.attack(flat, drawn, [0], Patch(3), replace(HOW, init="clean", steps=1))
    np.testing.assert_array_equal(result.adversarial, drawn[0])
    np.testing.assert_allclose(result.patch.apply(drawn[0]), drawn[0], atol=1e-6)


def test_what_a_patch_knows(flat, region):
    (result,) = gcpatch.attack(flat, pixels(1, FLAT, FLAT, 3), ["b"], region, HOW)
    patch = result.patch
    assert (patch.target, patch.target_name, patch.objective) == (1, "b", "classify")
    assert patch.region == region
    assert list(patch.origin.networks) == ["flat"] and patch.origin.attack["steps"] == 2
    assert patch.origin.image_size == [FLAT, FLAT]
    assert "classify" in repr(patch) and len(repr(patch)) < 200


def test_a_saved_patch_is_the_same_in_another_process(flat, region, mask, tmp_path):
    drawn = pixels(2, FLAT, FLAT, 3)
    (result,) = gcpatch.attack(flat, drawn[:1], [2], region, HOW)
    result.patch.save(tmp_path / "patch.npz")
    mask.unlink()  # the patch holds what it needs
    np.save(tmp_path / "images.npy", drawn)
    code = (
        "import sys, numpy as np, gcpatch; folder = sys.argv[1]\n"
        "patch = gcpatch.AdversarialPatch.load(folder + '/patch.npz')\n"
        "np.save(folder + '/attacked.npy', patch.apply(np.load(folder + '/images.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "attacked.npy"), result.patch.apply(drawn))
    loaded = AdversarialPatch.load(tmp_path / "patch.npz")
    assert (loaded.origin, loaded.target_name) == (result.patch.origin, "c")


def made(flat, targets, seed=0, **changes):
    drawn = pixels(len(targets), FLAT, FLAT, 3, seed=seed)
    how = replace(HOW, **changes)
    return [result.patch for result in gcpatch.attack(flat, drawn, targets, Patch(3), how)]


def test_a_library_has_one_patch_for_each_target(flat, tmp_path):
    library = Library(made(flat, [2, 0]))
    library.save(tmp_path / "library.npz")
    again = Library.load(tmp_path / "library.npz")
    assert list(again) == [2, 0] and again.digest == library.digest
    for target, patch in library.items():
        np.testing.assert_array_equal(again[target].noise, patch.noise)
    assert Library(reversed(list(library.values()))).digest == library.digest
    assert Library(made(flat, [2, 0], seed=1)).digest != library.digest
    assert Library(made(flat, [2, 1])).digest != library.digest
    with pytest.raises(LibraryError, match="holds 2 patches"):
        AdversarialPatch.load(tmp_path / "library.npz")


def test_what_is_no_library(flat):
    one, two = made(flat, [0]), made(flat, [1], steps=3)
    for wrong, match in (
        ([], "at least one"),
        (one * 2, "one for each target"),
        (one + two, "made alike"),
    ):
        with pytest.raises(LibraryError, match=match):
            Library(wrong)


def test_files_that_cannot_be_read(flat, tmp_path):
    path = tmp_path / "patch.npz"
    made(flat, [0])[0].save(path)
    whole = path.read_bytes()
    with np.load(path) as file:
        about = file["about"]
    for content in (b"", b"no zip", whole[: len(whole) // 2], whole[:-200]):
        path.write_bytes(content)
        with pytest.raises(LibraryError, match=r"patch\.npz holds no patches"):
            Library.load(path)
    ones = np.ones((1, 3, 3, 3), np.float32)
    for noise in (ones * np.nan, ones.astype(int), ones[:, :2], ones[0], np.ones((2, 3, 3, 3))):
        np.savez(path, about=about, noise=noise)
        with pytest.raises(LibraryError, match=r"patch\.npz holds no patches"):
            Library.load(path)
    for wrong in ("[", "[1]", '{"origin": {}, "targets": []}', "[" * 100_000):
        np.savez(path, about=np.asarray(wrong), noise=ones)
        with pytest.raises(LibraryError, match=r"patch\.npz holds no patches"):
            Library.load(path)
    np.savez(path, about=np.asarray({"a": 1}, object), noise=ones)  # a pickle
    with pytest.raises(LibraryError, match=r"patch\.npz holds no patches"):
        Library.load(path)
    with pytest.raises(LibraryError, match=r"cannot read .*nowhere"):
        Library.load(tmp_path / "nowhere.npz")
    with pytest.raises(LibraryError, match="cannot write"):
        made(flat, [0])[0].save(tmp_path / "nowhere/patch.npz")


def test_images_that_a_patch_does_not_fit(flat):
    patch = made(flat, [0])[0]
    assert patch.apply(pixels(2, 9, 8, 3)).shape == (2, 9, 8, 3)
    with pytest.raises(PatchError, match="inside an image"):
        patch.apply(pixels(2, 2, 3))
    with pytest.raises(gcpatch.errors.UserError, match="float"):
        patch.apply(2 * pixels(FLAT, FLAT, 3))
    (frame,) = gcpatch.attack(flat, pixels(1, FLAT, FLAT, 3), [0], Frame(1), HOW)
    with pytest.raises(PatchError, match="for images of 6x6, and not of 7x7"):
        frame.patch.apply(pixels(7, 7, 3))


def test_an_attack_starts_from_its_targets_patch(flat, region):
    drawn = pixels(3, FLAT, FLAT, 3)
    first = gcpatch.attack(flat, drawn[:2], [1, 2], region, replace(HOW, steps=20))
    library = Library(result.patch for result in first)
    cold = gcpatch.attack(flat, drawn, [2, 1, 2], region, HOW)
    warm = gcpatch.attack(flat, drawn, [2, 1, 2], region, HOW, library=library)
    for i, target in enumerate([2, 1, 2]):
        worn = library[target].apply(drawn[i])
        began = -np.log(np.asarray(_odds(flat, worn))[target])
        assert warm[i].history.cross_entropy[0] == pytest.approx(began, rel=1e-3, abs=1e-5)
        assert began < cold[i].history.cross_entropy[0] / 1.1


def _odds(network, image):
    logits = np.asarray(network(jnp.asarray(image)), np.float64)
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def test_libraries_that_do_not_suit(flat, tiny_resnet):
    library, drawn = Library(made(flat, [1])), pixels(1, FLAT, FLAT, 3)

    def refused(match, network=flat, targets=(1,), region=PATCH):
        with pytest.raises(LibraryError, match=match):
            gcpatch.attack(network, drawn, list(targets), region, HOW, library=library)

    refused("no patch for 1 of the targets, such as c", targets=[2])
    refused("a patch of 3x3 pixels, and the attack is of a patch of 2x2", region=Patch(2))
    refused("and the attack is of a linf of 6x6", region=Bounded(8))
    one = library[1]
    other = Library([replace(one, target_name="z")])
    with pytest.raises(LibraryError, match="class 1, 'z', which is no class of flat"):
        other.check(flat)
    assert library.check(flat) is None
    twin = fill(flat, {"weights": 2 * np.asarray(parameters(flat)["weights"])})
    assert "were made for flat" in library.check(twin)
