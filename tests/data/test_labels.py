import re

import jax.numpy as jnp
import numpy as np
import pytest

from gcpatch.data import labels
from gcpatch.evaluation import transfer

NAMES = ("tabby", "tiger cat", "Afghan hound", "acorn")
LOGITS = np.array([0.5, 3.0, -1.0, 2.0], np.float32)
TWICE = ("crane", "Cardigan", "maillot", "cardigan", "crane", "maillot", "T-shirt", "t_shirt")
IMAGENET = tuple(
    {0: "tench", 281: "tabby", 999: "toilet_tissue"}.get(n, f"x{n}") for n in range(1000)
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tabby", 0),
        ("Tiger_Cat", 1),
        ("tiger-cat", 1),
        (" AFGHAN HOUND ", 2),
        ("afghan  hound", 2),
        ("3", 3),
        ("0", 0),
        ("3.0", 3),
        ("3.", 3),
        (" 3 ", 3),
        ("3.000", 3),
        ("003", 3),
        ("0.0", 0),
    ],
)
def test_a_class_is_found_by_name_or_number(text, found):
    assert labels.find(text, NAMES) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tigercat", "there is no class 'tigercat'; near it are tiger cat"),
        ("lynx", "there is no class 'lynx'; the IDs are 0 to 3"),
        ("4", "there is no class 4; the IDs are 0 to 3"),
        ("4.0", "there is no class 4.0; the IDs are 0 to 3"),
        ("3.5", "there is no class '3.5'; the IDs are 0 to 3"),
        ("-1", "there is no class '-1'; the IDs are 0 to 3"),
        ("1e0", "there is no class '1e0'; the IDs are 0 to 3"),
        ("9" * 5000, "there is no class '9"),
        ("", "there is no class ''; the IDs are 0 to 3"),
        ("nan", "there is no class 'nan'; the IDs are 0 to 3"),
        ("n02123045", "there is no class 'n02123045': these are not ImageNet's 1000; give a name"),
    ],
)
def test_what_is_no_class_names_the_nearest_if_there_are_any(text, message):
    with pytest.raises(labels.LabelError, match=f"^{re.escape(message)}"):
        labels.find(text, NAMES)


@pytest.mark.parametrize(
    "text, found", [("Cardigan", 1), ("cardigan", 3), ("T-shirt", 6), ("t_shirt", 7)]
)
def test_the_exact_spelling_goes_first(text, found):
    assert labels.find(text, TWICE) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", "crane is class 0 and class 4; give the number"),
        ("Crane", "Crane is class 0 and class 4; give the number"),
        ("maillot", "maillot is class 2 and class 5; give the number"),
        ("CARDIGAN", "CARDIGAN is class 1 and class 3; give the number"),
        ("t shirt", "t shirt is class 6 and class 7; give the number"),
    ],
)
def test_an_ambiguous_name_is_refused_with_all_its_numbers(text, message):
    for refuse in (labels.find, labels.check):
        with pytest.raises(labels.LabelError, match=f"^{message}"):
            refuse(text, TWICE)


def test_names_that_are_numbers_are_names_first():
    assert labels.find("3", ("1", "2", "3")) == 2 and labels.find("0", ("1", "2", "3")) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [("n01440764", 0), ("n02123045", 281), ("n15075141", 999), ("n02012849", 134)],
)
def test_wordnet_ids_of_imagenet(text, found):
    assert labels.find(text, IMAGENET) == found


def test_wordnet_ids_elsewhere():
    with pytest.raises(labels.LabelError, match="'n00000001': it is none of ImageNet's 1000; give"):
        labels.find("n00000001", IMAGENET)
    with pytest.raises(labels.LabelError, match="these are not ImageNet's 1000"):
        labels.find("n02123045", IMAGENET[::-1])
    assert labels.find("n02123045", ("n01440764", "n02123045")) == 1  # their own names


def test_the_table_of_wordnet_ids_is_in_the_order_of_the_classes():
    """ImageNet's classes are numbered in the order of their WordNet IDs."""
    ids = list(labels._index(IMAGENET).wordnet)
    assert len(ids) == 1000 == len(set(ids)) and ids == sorted(ids)
    assert all(labels.WORDNET.fullmatch(one) for one in ids)


def test_rules_choose_by_the_order_of_the_logits():
    assert labels.choose("runner-up", LOGITS, NAMES, (0, 0)) == 3
    assert labels.choose("least-likely", LOGITS, NAMES, (0, 0)) == 2
    assert labels.choose("tabby", LOGITS, NAMES, (0, 0)) == 0


def test_untargeted_is_a_target_that_is_no_class():
    labels.check("untargeted", NAMES[:2])  # where other rules lack a choice
    for own, rule in (("", "untargeted"), ("", "tabby"), (None, "untargeted"), ("1", "random")):
        labels.check_own(own, rule)
    labels.check_own("untargeted", "untargeted")
    for own, rule in (("tabby", "untargeted"), ("untargeted", "random")):
        with pytest.raises(labels.LabelError, match=f"own target is '{own}' and that of the run"):
            labels.check_own(own, rule)


def test_an_untargeted_attack_has_nothing_to_do_where_the_label_is_not_seen():
    logits = np.float32([0, 3, 1, 2])
    labels.check_right(1, logits, NAMES)
    with pytest.raises(
        labels.AlreadyTarget, match=f"{NAMES[1]!r} already, and not for {NAMES[3]!r}"
    ):
        labels.check_right(3, logits, NAMES)


def test_random_targets_cover_every_class_but_the_images_own():
    drawn = [labels.choose("random", LOGITS, NAMES, (0, i)) for i in range(200)]
    assert set(drawn) == {0, 2, 3}
    assert drawn == [labels.choose("random", LOGITS, NAMES, (0, i)) for i in range(200)]


@pytest.mark.parametrize("rule", ["tiger cat", "1", "1.0", "TIGER_CAT"])
def test_a_target_that_the_image_has_already_says_so(rule):
    with pytest.raises(labels.AlreadyTarget, match="taken for the target 'tiger cat' already"):
        labels.choose(rule, LOGITS, NAMES, (0, 0))


@pytest.mark.parametrize("rule", ["random", "least-likely", "runner-up", "a", "0"])
def test_a_head_with_one_output_has_no_target(rule):
    for refuse in (
        labels.check,
        lambda *given: labels.choose(given[0], LOGITS[:1], given[1], (0, 0)),
    ):
        with pytest.raises(labels.LabelError, match="of 1 class cannot be fooled; it needs 2"):
            refuse(rule, ("a",))


@pytest.mark.parametrize("rule", ["least-likely", "runner-up"])
def test_two_classes_have_no_order_to_choose_from(rule):
    with pytest.raises(labels.LabelError, match="the runner-up is the least likely one, and the o"):
        labels.check(rule, ("a", "b"))
    labels.check(rule, ("a", "b", "c"))
    assert labels.choose("random", LOGITS[:2], ("a", "b"), (0, 0)) == 0
    assert labels.choose("a", LOGITS[:2], ("a", "b"), (0, 0)) == 0


def test_check_names_the_rules_beside_the_classes():
    labels.check("random", NAMES)
    labels.check("2", NAMES)
    with pytest.raises(labels.LabelError, match="random, least-likely, runner-up"):
        labels.check("lynx", NAMES)


@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_transfer_takes_the_recorded_number_where_it_has_the_recorded_name(number):
    recorded = {"id": number, "name": TWICE[number]}
    assert transfer._target(recorded, TWICE) == number
    other = ("x", *NAMES)
    assert transfer._target({"id": 0, "name": "tabby"}, other) == 1
    with pytest.raises(labels.LabelError, match="crane is class 1 and class 5"):
        transfer._target({"id": 0, "name": "crane"}, ("x", *TWICE))


@pytest.mark.parametrize(
    ("targets", "ids"),
    [
        (["tabby", "3", "tiger-cat"], [0, 3, 1]),
        ([0, 3, np.int32(2)], [0, 3, 2]),
        (np.array([1, 2]), [1, 2]),
        (jnp.array([1, 2]), [1, 2]),
        (["tabby", 3, "2.0"], [0, 3, 2]),
        ((), []),
    ],
)
def test_targets_by_name_number_or_both(targets, ids):
    found = labels.as_ids(targets, NAMES)
    assert found.tolist() == ids and found.dtype == np.int64


def test_a_number_is_an_id_though_a_class_has_its_name():
    assert labels.as_ids([1, "1"], ("1", "2")).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lynx", "target 1: there is no class 'lynx'; the IDs are 0 to 3"),
        ("tigercat", "target 1: there is no class 'tigercat'; near it are tiger cat"),
        (4, "target 1 is 4; the IDs are 0 to 3, or give a name"),
        (-1, "target 1 is -1; the IDs are 0 to 3"),
        (1.0, "target 1 is 1.0; the IDs are 0 to 3"),
        (True, "target 1 is True; the IDs are 0 to 3"),
        (None, "target 1 is None; the IDs are 0 to 3"),
    ],
)
def test_a_target_that_is_no_class_is_named(target, message):
    with pytest.raises(labels.LabelError, match=f"^{re.escape(message)}"):
        labels.as_ids(["tabby", target], NAMES)


def test_what_is_no_class_is_not_repeated_at_length():
    with pytest.raises(labels.LabelError) as caught:
        labels.find("y" * 10**6, NAMES)
    assert len(str(caught.value)) < 200
