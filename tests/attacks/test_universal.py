"""One patch for many images, networks and views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tinies import FLAT

import gcpatch
from gcpatch.attacks import universal as universal_module
from gcpatch.attacks.regions import Patch, PatchError
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.attacks.step import Losses, evaluate, make_problem
from gcpatch.attacks.universal import _evaluate, apply_patch, universal
from gcpatch.attacks.views import View, Views, apply_view
from gcpatch.data import scenes
from gcpatch.networks import fill, parameters

SIDE, SIZE = 40, 12


def pixels(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def view(row, column, scale=1.0, degrees=0.0, brightness=0.0):
    angle = np.deg2rad(degrees)
    return View(
        jnp.asarray([row, column], jnp.float32),
        *(jnp.asarray(value, jnp.float32) for value in (scale, angle, brightness)),
    )


def region_of(corner, size=SIZE):
    region = np.zeros((SIDE, SIDE, 1), np.float32)
    region[corner[0] : corner[0] + size, corner[1] : corner[1] + size] = 1
    return region


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_an_upright_view_is_the_pasted_patch(ratio):
    image, noise = pixels(SIDE, SIDE, 3), pixels(SIZE, SIZE, 3, seed=1)
    worn, region = apply_patch(image, noise, Patch(SIZE, ratio, (7, 20)))
    seen, inside = apply_view(image, noise, ratio, view(7 + 5.5, 20 + 5.5))
    np.testing.assert_array_equal(region, region_of((7, 20)))
    np.testing.assert_array_equal(inside, region)
    np.testing.assert_allclose(seen, worn, atol=1e-6)
    assert np.abs(worn - image).max() > 0.1


def test_a_quarter_turn_is_that_of_the_pixels():
    image, noise = pixels(SIDE, SIDE, 3), pixels(SIZE, SIZE, 3, seed=1)
    turned, _ = apply_view(image, noise, 1.0, view(17.5, 21.5, degrees=90))
    expected, _ = apply_view(image, jnp.rot90(noise), 1.0, view(17.5, 21.5))
    np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_scale_and_brightness():
    image, noise = pixels(SIDE, SIDE, 3), pixels(SIZE, SIZE, 3, seed=1)
    small, inside = apply_view(image, noise, 1.0, view(19.5, 19.5, scale=0.5, brightness=0.2))
    np.testing.assert_array_equal(inside, region_of((17, 17), SIZE // 2))
    means = noise.reshape(6, 2, 6, 2, 3).mean((1, 3))  # two by two pixels lie under each
    np.testing.assert_allclose(small[17:23, 17:23], jnp.clip(means + 0.2, 0, 1), atol=1e-5)


def test_draws_lie_inside_and_vary_as_asked():
    views = Views((0.5, 2.0), 30.0, 0.3)
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.vmap(lambda key: views.draw(key, (SIDE, SIDE), SIZE))(keys)
    noise, image = jnp.ones((SIZE, SIZE, 3)), jnp.zeros((SIDE, SIDE, 3))
    _, inside = jax.vmap(lambda view: apply_view(image, noise, 1.0, view))(drawn)
    area = (SIZE * np.asarray(drawn.scale)) ** 2  # nothing is cut off
    np.testing.assert_allclose(np.asarray(inside.sum((1, 2, 3))), area, rtol=0.12)
    assert 0.5 <= drawn.scale.min() < 0.6 and 1.8 < drawn.scale.max() <= 2.0
    assert np.rad2deg(np.abs(drawn.angle).max()) <= 30.001
    assert 0.2 < np.abs(drawn.brightness).max() <= 0.3
    assert np.ptp(np.asarray(drawn.centre[:, 0])) > 15


@pytest.mark.parametrize(
    "wrong", [{"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"degrees": 200.0}, {"brightness": 2.0}]
)
def test_views_that_cannot_be(wrong):
    with pytest.raises(PatchError, match=next(iter(wrong))):
        Views(**wrong)


@pytest.mark.parametrize("objective", ["hide", "highlight"])
def test_the_loss_of_one_image_is_the_attacks(tiny, objective):
    network, patch = tiny, Patch(SIZE, 0.7)
    image, noise, how = (
        pixels(28, 28, 3),
        pixels(SIZE, SIZE, 3, seed=1),
        Attack(objective=objective),
    )
    problem = make_problem(
        network, image, 2, Attack(), placement=patch.place(28, 28), key=jax.random.key(0)
    )
    place = patch.place(28, 28)
    total, losses = _evaluate(
        network, noise, how, place, None, None, None, problem, jax.random.key(1)
    )
    worn, _ = apply_patch(image, noise, patch)
    expected, (same, _) = evaluate(network, worn[:SIZE, -SIZE:], problem, how)
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    np.testing.assert_allclose(losses, same, rtol=1e-4, atol=1e-6)


def test_what_the_image_goes_through_counts(tiny):
    network, patch, image = tiny, Patch(SIZE), pixels(28, 28, 3)
    problem = make_problem(
        network, image, 2, Attack(), placement=patch.place(28, 28), key=jax.random.key(0)
    )
    noise, key = pixels(SIZE, SIZE, 3, seed=1), jax.random.key(1)
    grey = jnp.full((28, 28, 3), 0.5)
    for through, seen in (
        (lambda image, key: grey, grey),
        (None, apply_patch(image, noise, patch)[0]),
    ):
        place = patch.place(28, 28)
        _, losses = _evaluate(network, noise, Attack(), place, None, None, through, problem, key)
        expected = -jax.nn.log_softmax(network(seen))[2]
        np.testing.assert_allclose(losses.cross_entropy, expected, rtol=1e-4)


@pytest.mark.slow
def test_an_ensembles_patch_lowers_the_loss_on_every_image_and_network():
    networks = [gcpatch.load("mini_wide_resnet"), gcpatch.load("mini_resnext")]
    drawn, target = scenes.draw_batch(4, 6, size=64).image, 2
    how = Attack(objective="classify", steps=50, ce_weight=1.0)
    told = []
    found = universal(networks, drawn, [target] * 6, Patch(32), how, batch=4, on_step=told.append)
    assert found.noise.min() >= 0 and found.noise.max() <= 1
    assert found.history.total.shape == (50,) and len(told) == 50
    for network in networks:
        worn = jnp.stack([apply_patch(image, found.noise, Patch(32))[0] for image in drawn])
        before, after = (
            -np.asarray(jax.nn.log_softmax(network(images)))[:, target] for images in (drawn, worn)
        )
        assert (after < before - 1).mean() >= 0.8


def test_the_same_seed_gives_the_same_patch_and_another_another(tiny):
    network, drawn = tiny, pixels(3, 28, 28, 3)
    how = Attack(objective="hide", steps=3, init="random")

    def made(seed):
        options = {"views": Views(), "batch": 2, "seed": seed}
        return universal([network], drawn, [0, 1, 2], Patch(SIZE), how, **options)

    first, again, other = made(0), made(0), made(1)
    np.testing.assert_array_equal(first.noise, again.noise)
    np.testing.assert_array_equal(first.history, again.history)
    assert np.abs(first.noise - other.noise).max() > 0.1
    assert isinstance(first.history, Losses)


def test_what_cannot_be(tiny):
    network, drawn = gcpatch.load("mini_vgg"), pixels(2, 48, 48, 3)
    with pytest.raises(AttackError, match="same categories"):
        universal([network, tiny], drawn, [1, 2], Patch(SIZE), Attack())
    with pytest.raises(AttackError, match="of one at least"):
        universal([], drawn, [1, 2], Patch(SIZE), Attack())
    with pytest.raises(AttackError, match="2 images; give a list of as many targets"):
        universal([network], drawn, [1], Patch(SIZE), Attack())
    with pytest.raises(PatchError, match="inside an image"):
        universal([network], drawn, [1, 2], Patch(49), Attack())


def test_an_ensemble_descends_the_mean_of_its_networks(flat):
    images, how = pixels(2, FLAT, FLAT, 3), Attack(objective="classify", steps=3, ce_weight=1.0)
    other = fill(flat, {"weights": -2 * np.asarray(parameters(flat)["weights"])})
    made = {
        names: universal(networks, images, [0, 1], Patch(2), how, batch=2)
        for names, networks in {"a": [flat], "b": [other], "ab": [flat, other]}.items()
    }
    first = {names: found.history.total[0] for names, found in made.items()}
    np.testing.assert_allclose(first["ab"], (first["a"] + first["b"]) / 2, rtol=1e-5)
    assert np.abs(made["ab"].noise - made["a"].noise).max() > 1e-3
    assert np.abs(made["ab"].noise - made["b"].noise).max() > 1e-3


@pytest.mark.parametrize("init", ["mean", "random"])
@pytest.mark.parametrize("kind", ["patch", "frame", "mask", "bounded"])
def test_a_universal_perturbation_of_every_kind(flat, kind, init, tmp_path):
    white = np.zeros((FLAT, FLAT, 3), np.uint8)
    white[:3, :4] = 255
    gcpatch.data.images.write_png(tmp_path / "mask.png", white)
    region = {
        "patch": Patch(3, 0.5),
        "frame": gcpatch.Frame(1),
        "mask": gcpatch.Mask(str(tmp_path / "mask.png")),
        "bounded": gcpatch.Bounded(16),
    }[kind]
    drawn = pixels(3, FLAT, FLAT, 3) * 0.8 + 0.1
    how = Attack(objective="classify", steps=30, ce_weight=1.0, confidence=0.99, init=init)
    made = universal([flat], drawn, [1] * 3, region, how, batch=3)
    worn = made.patch.apply(drawn)
    changed = (worn != np.asarray(drawn)).any((0, 3))
    place = region.place(FLAT, FLAT)
    allowed = np.asarray(apply_patch(drawn[0], made.noise, region)[1])[..., 0] > 0
    assert (changed == allowed).all()
    assert allowed.sum() == {"patch": 9, "frame": 20, "mask": 12, "bounded": 36}[kind]
    if place.bound:
        assert np.abs(worn - drawn).max() <= 16 / 255 + 1e-6
    before, after = (np.asarray(jax.nn.log_softmax(flat(x)))[:, 1] for x in (drawn, worn))
    assert (after > before).all()
    assert made.patch.target_name == "b" and made.patch.region == region
    for image, seen in zip(drawn, worn, strict=True):
        np.testing.assert_array_equal(apply_patch(image, made.noise, region)[0], seen)


def test_views_are_of_a_patch_and_targets_may_differ(flat):
    drawn, how = pixels(2, FLAT, FLAT, 3), Attack(objective="classify", steps=1)
    with pytest.raises(AttackError, match="views are of a Patch"):
        universal([flat], drawn, [0, 1], gcpatch.Frame(1), how, views=Views())
    assert universal([flat], drawn, [0, 1], Patch(2), how).patch.target is None


def test_only_what_the_patch_reaches_is_evaluated_and_gives_the_same(tiny, monkeypatch):
    drawn, how = pixels(3, 28, 28, 3), Attack(objective="highlight", steps=2)
    found = universal([tiny], drawn, [0, 1, 2], Patch(8), how, batch=3)
    monkeypatch.setattr(universal_module, "MOST_KEPT", 0)
    full = universal([tiny], drawn, [0, 1, 2], Patch(8), how, batch=3)
    np.testing.assert_allclose(found.history, full.history, rtol=1e-3, atol=1e-5)
    reach = universal_module._reach
    monkeypatch.undo()
    assert reach(tiny, drawn, Patch(8).place(28, 28), how) is not None
    monkeypatch.setattr(universal_module, "MOST_KEPT", 0)
    assert reach(tiny, drawn, Patch(8).place(28, 28), how) is None
