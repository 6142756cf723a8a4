from gcpatch.cli import printing
from gcpatch.report.summary import summarize


def record(model, fooled, **more):
    known = {"id": "x", "model": model, "error": None, "skipped": None, "fooled_class": fooled}
    return known | more


def test_rates_have_their_intervals(capsys):
    printing.summary(summarize([record("a", False)] * 6))
    assert capsys.readouterr().out == "6 images, 0 failed\nfooled: class 0.0% [0.0%, 39.0%]\n"


def test_each_network_has_its_own_rates(capsys):
    one = {"label": {"id": 1}, "clean": {"id": 1}, "png": {"id": 2}}
    printing.summary(summarize([record("a", True, **one), record("b", False)]))
    assert capsys.readouterr().out.splitlines() == [
        "2 images, 0 failed",
        "a, fooled: class 100.0% [20.7%, 100.0%]",
        "a, accuracy: clean 100.0% [20.7%, 100.0%], attacked 0.0% [0.0%, 79.3%]",
        "b, fooled: class 0.0% [0.0%, 79.3%]",
    ]


def test_without_results_there_are_no_rates(capsys):
    failed = record("a", None) | {"error": "gone"}
    printing.summary(summarize([failed, record("a", None, skipped="already")]))
    assert capsys.readouterr().out == "2 images, 1 failed, 1 skipped\n"
