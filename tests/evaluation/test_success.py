"""The time to a proven image counts what is proven, in every mode."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tinies import FLAT

from gcpatch import cli
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.cli import bench as bench_verb
from gcpatch.errors import UserError
from gcpatch.evaluation import bench, success
from gcpatch.evaluation.success import Attacker, Attempt, Case, Mode, Setting
from gcpatch.networks import Preprocessing

SETTING = Setting(Patch(2), Attack(objective="hide", steps=30), 2)
PLACE = Patch(2).place(FLAT, FLAT)


def pictures(count, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (count, FLAT, FLAT, 3))
    return (values / 255).astype(np.float32)


def class_of(network, image):
    return int(network(jnp.asarray(image)).argmax())


def fixed(attempts, **options):
    """A mode that gives these attempts, as far as there are cases."""

    def prepare(network, setting):
        return Attacker(lambda cases, steps: iter(attempts[: len(cases)]), "as told")

    return Mode(prepare, **options)


def test_a_row_counts_what_is_proven(flat):
    images = pictures(3)
    top = [class_of(flat, image) for image in images]
    cases = [Case(images[0], top[0]), Case(images[1], top[1]), Case(images[2], (top[2] + 1) % 3)]
    attempts = [Attempt(n, image, 10 * n + 2, PLACE) for n, image in enumerate(images)]
    row = success.measure(flat, cases, "m", fixed(attempts, class_only=True), SETTING)
    assert (row.fooled, row.images, row.judged) == (2, 3, "class")
    assert (row.steps_median, row.steps_mean, row.note) == (12, 12, "as told")
    assert row.seconds_per_image == pytest.approx(3600 / row.images_per_hour)
    few = success.measure(flat, cases, "m", fixed(attempts, class_only=True, most=1), SETTING)
    assert (few.images, few.fooled) == (1, 1)


def test_nothing_proven_has_no_seconds(flat):
    (image,) = pictures(1)
    wrong = (class_of(flat, image) + 1) % 3
    mode = fixed([Attempt(0, image, 5, PLACE)])
    row = success.measure(flat, [Case(image, wrong)], "m", mode, SETTING)
    assert (row.fooled, row.images_per_hour, row.seconds_per_image) == (0, 0.0, None)


def test_the_verdict_is_that_of_the_picture_in_eight_bits(flat):
    """Half a level in every pixel makes another class; the PNG does not have it."""
    weights = np.asarray(flat.weights[...])
    for image in pictures(200):
        label = class_of(flat, image)
        other = int(np.asarray(flat(jnp.asarray(image))).argsort()[-2])
        slope = np.sign(weights[..., other] - weights[..., label])
        nudged = np.clip(image + 0.4 / 255 * slope, 0, 1).astype(np.float32)
        if class_of(flat, nudged) == other:
            break
    else:
        pytest.fail("no image lies close enough to another class")
    attempt = Attempt(0, nudged, 1, PLACE)
    assert not success.proven(flat, attempt, other, SETTING.attack, class_only=True)
    assert success.proven(flat, attempt, label, SETTING.attack, class_only=True)


def test_the_map_must_be_fooled_too(flat):
    """One class, one image: hidden or not is what the objective says of its map."""
    image = pictures(1, seed=3)[0]
    label = class_of(flat, image)
    answers = {
        name: success.proven(flat, Attempt(0, image, 1, PLACE), label, Attack(objective=name))
        for name in ("classify", "hide", "highlight")
    }
    assert answers["classify"]
    assert not (answers["hide"] and answers["highlight"])


def test_full_and_incremental_find_the_same(flat):
    images = pictures(3)
    cases = [Case(image, (class_of(flat, image) + 1) % 3) for image in images]
    rows = [
        success.measure(flat, cases, name, mode, SETTING) for name, mode in success.MODES.items()
    ]
    assert len({(row.fooled, row.steps_mean, row.steps_90) for row in rows}) == 1
    assert rows[0].images == 3


def test_scenes_for_those_who_know_them(flat):
    with pytest.raises(UserError, match="flat knows no scenes; give photographs with --images"):
        success.cases_of(flat, None)


def test_targets_are_never_the_top_class(flat, tmp_path, monkeypatch):
    for number, image in enumerate(pictures(4)):
        success.images.write_png(tmp_path / f"{number}.png", np.rint(image * 255).astype(np.uint8))
    flat.preprocessing = Preprocessing(size=FLAT, resize=FLAT)
    cases = success.cases_of(flat, [str(tmp_path)], count=3)
    assert len(cases) == 3
    assert all(case.target != class_of(flat, case.image) for case in cases)
    again = success.cases_of(flat, [str(tmp_path)], count=3)
    assert [case.target for case in again] == [case.target for case in cases]


ROW = success.Row("net", "m", 2, 2, "class and map", 4, 3, 9.0, 400.0, 20.0, 15.0, 40.0, 1.0, 5)
PACE = bench.Row("big", 2, 2, "v", 10.0, 0.2, 0.0, 7, 3.0)


def test_an_estimate_is_steps_by_their_cost():
    row = success.estimated(PACE, ROW)
    assert row.images_per_hour == pytest.approx(3600 * 10 / 20 * 3 / 4)
    assert row.seconds_per_image == pytest.approx(20 / 10 / 0.75)
    assert row.estimate
    assert "net" in row.note
    assert (row.network, row.prepare_seconds, row.peak_memory_bytes) == ("big", 3.0, 7)


def test_a_mode_that_cannot_be_is_left_out_once(flat):
    def prepare(network, setting):
        raise UserError("it is not installed")

    (image,) = pictures(1)
    attacked = [(flat, [Case(image, 0)])] * 2
    modes = {
        "gone": Mode(prepare),
        "here": fixed([Attempt(0, image, 5, PLACE)], variant="v"),
    }
    told = []
    rows = success.compare(
        attacked,
        [flat],
        modes=modes,
        paces={"v": lambda **how: PACE},
        setting=SETTING,
        on_error=told.append,
    )
    assert [(row.mode, row.estimate) for row in rows] == [
        ("here", False),
        ("here", False),
        ("here", True),
    ]
    assert told == ["without gone: it is not installed"]


def test_the_command_line_prints_rows(flat, capsys, monkeypatch):
    (image,) = pictures(1)
    mode = fixed([Attempt(0, image, 5, Patch(32).place(224, 224))], class_only=True, variant="v")
    monkeypatch.setattr(bench, "product_peak", lambda: 1e9)
    monkeypatch.setattr(bench_verb, "modes_to_success", lambda: {"m": mode})
    monkeypatch.setattr(bench_verb, "measures_of_variants", lambda: {"v": lambda **how: PACE})
    monkeypatch.setattr(bench_verb, "load_network", lambda name, weights: flat)
    monkeypatch.setattr("gcpatch.networks.random", lambda name: flat)
    case = Case(image, class_of(flat, image))
    monkeypatch.setattr(success, "cases_of", lambda network, images, count: [case])
    arguments = ["bench", "--to-success", "--networks", "mini_vgg,vgg19", "--sizes", "2"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["network"], row["estimate"]) for row in found["rows"]] == [
        ("flat", False),
        ("big", True),
    ]
    assert cli.main(arguments) == 0
    assert "1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "vgg19"], "the weights of vgg19 are random"),
        (["--steps", "0"], "steps is 0"),
        (["--images", "nowhere.csv", "--networks", "vgg18"], "vgg18"),
    ],
)
def test_bad_options_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("gcpatch.networks.random", lambda name: None)
    assert cli.main(["bench", "--to-success", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_goes_with_proven_images_alone(capsys):
    assert cli.main(["bench", "--images", "a.png"]) == 2
    assert "--images goes with --to-success" in capsys.readouterr().err
