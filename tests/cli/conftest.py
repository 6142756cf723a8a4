"""What the verbs' tests share."""

import numpy as np
import pytest

from gcpatch import cli
from gcpatch.data import images


@pytest.fixture
def photos(tmp_path):
    """A folder of two pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 50, 60, 3), np.uint8)
    for i, picture in enumerate(pixels):
        images.write_png(folder / f"photo{i}.png", picture)
    return folder


@pytest.fixture
def refuse(capsys):
    """Runs a command that must be refused; returns the one line that says why."""

    def run(*arguments):
        assert cli.main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.strip().splitlines()
        assert "Traceback" not in line
        return line

    return run
