import numpy as np
import pytest

from gcpatch import labels

NAMES = ("tabby", "tiger cat", "Afghan hound", "acorn")
LOGITS = np.array([0.5, 3.0, -1.0, 2.0], np.float32)


@pytest.mark.parametrize(
    ("text", "found"), [("tabby", 0), ("Tiger_Cat", 1), (" AFGHAN HOUND ", 2), ("3", 3), ("0", 0)]
)
def test_a_class_is_found_by_name_in_any_case_or_by_number(text, found):
    assert labels.find(text, NAMES) == found


def test_an_unknown_class_names_the_nearest():
    with pytest.raises(labels.LabelError, match="no class 'tigercat'; near it are tiger cat"):
        labels.find("tigercat", NAMES)
    with pytest.raises(labels.LabelError, match="no class 4; the IDs are 0 to 3"):
        labels.find("4", NAMES)


def test_rules_choose_by_the_order_of_the_logits():
    assert labels.choose("runner-up", LOGITS, NAMES, (0, 0)) == 3
    assert labels.choose("least-likely", LOGITS, NAMES, (0, 0)) == 2
    assert labels.choose("tabby", LOGITS, NAMES, (0, 0)) == 0


def test_random_targets_cover_every_class_but_the_images_own():
    drawn = [labels.choose("random", LOGITS, NAMES, (0, i)) for i in range(200)]
    assert set(drawn) == {0, 2, 3}
    assert drawn == [labels.choose("random", LOGITS, NAMES, (0, i)) for i in range(200)]


def test_a_target_that_the_image_has_already_is_refused():
    with pytest.raises(labels.LabelError, match="taken for the target 'tiger cat' already"):
        labels.choose("tiger cat", LOGITS, NAMES, (0, 0))


def test_check_names_the_rules_beside_the_classes():
    labels.check("random", NAMES)
    labels.check("2", NAMES)
    with pytest.raises(labels.LabelError, match="random, least-likely, runner-up"):
        labels.check("lynx", NAMES)
