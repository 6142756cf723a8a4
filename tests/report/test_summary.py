"""gcpatch.summary: accuracies, and rates among what was right."""

import pytest

from gcpatch.evaluation.intervals import rate
from gcpatch.report.summary import summarize


def record(label, clean, png, fooled=None, **more):
    named = {"label": label, "clean": clean, "png": png}
    found = {key: None if value is None else {"id": value} for key, value in named.items()}
    return found | {"id": "x", "error": None, "skipped": None, "fooled_class": fooled} | more


RIGHT_HELD, RIGHT_FOOLED = record(1, 1, 1, False), record(1, 1, 2, True)
WRONG, WRONG_THEN_RIGHT = record(1, 2, 3, True), record(1, 2, 1, False)
UNKNOWN = record(None, 1, 2, True)
SKIPPED = record(1, 1, None, skipped="it is the target already")
SKIPPED_WRONG = record(1, 2, None, skipped="it is the target already")
FAILED = record(None, None, None, error="gone")


@pytest.mark.parametrize(
    ("records", "clean", "robust", "of_correct"),
    [
        ([], None, None, None),
        ([UNKNOWN, FAILED], None, None, None),
        ([RIGHT_HELD], 1, 1, 0),
        ([RIGHT_FOOLED], 1, 0, 1),
        ([WRONG], 0, 0, None),
        ([WRONG_THEN_RIGHT], 0, 0, None),  # an attack makes no network right
        ([SKIPPED], 1, 1, None),
        ([SKIPPED_WRONG], 0, 0, None),
        ([RIGHT_HELD, RIGHT_FOOLED, WRONG, UNKNOWN, FAILED, SKIPPED], 3 / 4, 2 / 4, 1 / 2),
    ],
)
def test_accuracies(records, clean, robust, of_correct):
    found = summarize(records)
    assert (found["accuracy_clean"], found["accuracy_robust"]) == (clean, robust)
    assert found["fooled_class_of_correct"] == of_correct
    assert found["fooled_both_of_correct"] is None
    assert found["skipped"] == sum(bool(record["skipped"]) for record in records)
    assert found["failed"] == sum(bool(record["error"]) for record in records)


def test_records_of_before_and_strange_ones_have_no_accuracy():
    old = {"id": "x", "error": None, "fooled_class": True, "label": "tabby", "clean": 3}
    assert summarize([old])["accuracy_clean"] is None and summarize([old])["fooled_class"] == 1


def test_rates_have_wilsons_interval_and_each_network_its_own():
    records = [record(1, 1, 1, False, model="a")] * 6 + [record(1, 1, 2, True, model="b")]
    found = summarize(records)
    assert found["intervals"]["fooled_class"] == [*rate(1, 7)[1:]]
    assert "fooled_both" not in found["intervals"] and "steps" not in found["intervals"]
    assert found["networks"]["a"]["intervals"]["fooled_class"] == [*rate(0, 6)[1:]]
    assert found["networks"]["b"]["fooled_class"] == 1
    assert "networks" not in summarize(records[:6])
    assert summarize([record(1, 1, 2, 7)])["fooled_class"] is None  # no flag
