"""gcpatch.data.braces: lists of sources, as a shell expands them."""

import subprocess

import numpy as np
import pytest
from packing import find, names, pack, refusal, write

from gcpatch.data import braces, images


@pytest.mark.parametrize(
    "text",
    [
        "photos/{00..11}.tar",
        "{a,b}{1..3}",
        "{3..1}",
        "{8..010}",
        "{08..9}",
        "x{a,}y",
        "{a}",
        "{}",
        "{a,b",
        "a,b}",
        "{1..}",
        "plain",
    ],
)
def test_lists_are_what_bash_makes_of_them(text):
    shell = subprocess.run(["bash", "-c", f"echo {text}"], text=True, capture_output=True)
    assert braces.expand(text) == shell.stdout.split()


def test_nested_lists():
    assert sorted(braces.expand("{{a,b},c}/{0..1}")) == [f"{x}/{n}" for x in "abc" for n in "01"]


def test_lists_name_sources_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("x/a.png")
    write("y/a.png")
    for number in range(2):
        pack(f"0{number}.tar", {"a.png": b"x"})
    assert names("{x,y}/") == ["x/a.png", "y/a.png"]
    assert names("{00..01}.tar") == ["00.tar:a.png", "01.tar:a.png"]
    assert "'02.tar' cannot be read" in refusal("{00..02}.tar")
    images.write_png("{x,y}.png", np.zeros((4, 4, 3), np.uint8))
    (item,) = find("{x,y}.png")
    assert item.read().pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("text", ["{0..999999999}", "{1..999}{1..999}", "{1..9}" * 30])
def test_endless_lists_are_refused(text):
    assert refusal(text) == f"{text!r} names more than 100000 sources; name a folder or a list."
