"""PyTorch's modes do what they say: the reference's steps, slot by slot; [16] at its own place."""

import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gcpatch
from convert import ConvertError, reference
from convert import success as theirs
from convert.checking.comparison import classifier, tensor
from convert.torchvision import to_torch
from gcpatch.attacks.patches import LibraryError
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.evaluation import bench, success
from gcpatch.evaluation.bench import images_for
from gcpatch.evaluation.success import Case, Setting
from gcpatch.networks import Preprocessing, random

SIDE = 64
SETTING = Setting(Patch(24), Attack(objective="hide", steps=3), 2)


@pytest.fixture(scope="module")
def network():
    made = random("mini_vgg_bn", 2)
    made.preprocessing = Preprocessing(size=SIDE, resize=SIDE)
    return made


@pytest.fixture(scope="module")
def cases():
    return [
        Case(image, target) for image, target in zip(images_for(3, SIDE), (3, 7, 1), strict=True)
    ]


def slots_of(network, count):
    return theirs.Refilled(
        network,
        to_torch(network),
        np.zeros((count, SIDE, SIDE, 3), np.float32),
        [0] * count,
        Patch(24).corner(SIDE, SIDE),
        24,
        compiled=False,
    )


def test_the_batch_lacks_what_the_reference_lacks(network, cases):
    batch = slots_of(network, 1)
    settings = reference.Settings("hide", "adam", 0.1, 3, 24, Patch(24).corner(SIDE, SIDE))
    image, target = cases[0]
    noise = torch.zeros(3, 24, 24)
    model = classifier(network, to_torch(network))
    wanted = reference.attack(model, tensor(image), noise, target, settings)
    batch.put(0, Case(image, target), None)
    found = [float(batch.advance()[0][0]) for _ in range(3)]
    assert found == pytest.approx([losses.shortfall for losses in wanted.history], rel=1e-2)


def test_a_slot_taken_twice_begins_anew(network, cases):
    few = {a.number: a for a in theirs.refill(slots_of(network, 2), cases, 2, SETTING)}
    alone = {a.number: a for a in theirs.refill(slots_of(network, 1), cases[2:], 2, SETTING)}
    assert few.keys() == {0, 1, 2}
    assert [few[number].steps for number in range(3)] == [2, 2, 2]
    same = np.isclose(few[2].adversarial, alone[0].adversarial, atol=1e-2)
    assert same.mean() > 0.99  # adam's first steps are signs, which rounding turns near 0
    assert not np.allclose(few[2].adversarial, cases[2].image)


def test_an_image_leaves_when_it_lacks_nothing(network, cases, monkeypatch):
    batch = slots_of(network, 2)
    advance, turns = batch.advance, iter([[1.0, 0.0], [0.5, 2.0], [0.7, 0.0]])
    monkeypatch.setattr(batch, "advance", lambda: (np.asarray(next(turns)), advance()[1]))
    found = [(a.number, a.steps) for a in theirs.refill(batch, cases, 3, SETTING)]
    assert found == [(1, 1), (0, 3), (2, 2)]


def test_a_warm_start_begins_at_the_patch(network, cases):
    made = gcpatch.universal(
        [network],
        np.stack([case.image for case in cases]),
        [3] * len(cases),
        SETTING.patch,
        replace(SETTING.attack, steps=2),
    )
    library = gcpatch.Library([made.patch])
    case, setting = cases[0], SETTING._replace(library=library)
    (theirs_,) = theirs.refill(slots_of(network, 1), [case], 1, setting)
    for mode in ("gcpatch-full", "gcpatch-incremental"):
        attacker = success.warm(success.MODES[mode], library).prepare(network, SETTING)
        (ours,) = attacker.attack([case], 1)
        (row, column), (rows, columns), _, _ = ours.place
        tile = ours.adversarial[row : row + rows, column : column + columns]
        np.testing.assert_allclose(tile, made.patch.noise, atol=1e-6)
        np.testing.assert_allclose(ours.adversarial, theirs_.adversarial, atol=1e-6)
    with pytest.raises(LibraryError, match="no patch for 1 of the targets"):
        attacker.attack([case, Case(case.image, 7)], 1)


def test_only_the_patch_changes(network, cases):
    (attempt,) = theirs.subramanya(network, SETTING).attack(cases[:1], 2)
    (row, column), (rows, columns), _, _ = attempt.place
    changed = (attempt.adversarial != cases[0].image).any(-1)
    changed[row : row + rows, column : column + columns] = False
    assert not changed.any()
    assert not np.allclose(attempt.adversarial, cases[0].image)
    assert (attempt.place.corner, attempt.steps) == ((0, 0), 2)  # [16]'s own corner


@pytest.mark.filterwarnings("ignore")
def test_arts_patch_lies_where_ours_does(network, cases):
    pytest.importorskip("art")
    (attempt,) = theirs.art(network, SETTING).attack(cases[:1], 20)
    changed = np.abs(attempt.adversarial - cases[0].image).max(-1) > 1e-4
    (row, column), (rows, columns), _, _ = attempt.place
    assert changed[row : row + rows, column : column + columns].mean() > 0.99
    changed[row : row + rows, column : column + columns] = False
    assert not changed.any()
    assert attempt.steps == 20


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("raise ModuleNotFoundError('none', name='art')", "pip install adversarial-r[a-z-]+x$"),
        ("import not_there", r"'not_there'\): pip install adversarial-r[a-z-]+x not_there$"),
    ],
)
def test_without_art_or_what_it_needs_there_is_a_sentence(
    network, tmp_path, monkeypatch, line, sentence
):
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "__init__.py").write_text(line)
    for name in [name for name in sys.modules if name.split(".")[0] == "art"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConvertError, match=sentence):
        theirs.art(network, SETTING)


def test_the_fastest_way_an_image_is_taken(network, monkeypatch):
    paces = {(1, False): 2, (1, True): 2, (2, False): 3, (2, True): 6, (4, False): 7, (4, True): 5}

    class Paced:
        def __init__(self, network, weights, images, *arguments, compiled, **options):
            self.way = len(images), compiled

        def advance(self):
            return paces[self.way]

    monkeypatch.setattr(theirs, "Refilled", Paced)
    monkeypatch.setattr(theirs, "clock", lambda step, repeats: bench.Timing(0.0, step(), 0.0))
    attacker = theirs.batched(network, SETTING)
    assert attacker.note == "compiled, 4 at a time"  # 1.25 an image; the fewest a step are 2


def test_the_batched_attack_hides_and_nothing_else(network):
    with pytest.raises(AttackError, match="attacks `hide`, not 'highlight'"):
        theirs.batched(network, SETTING._replace(attack=Attack(objective="highlight")))
