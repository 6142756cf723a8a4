"""What the tests of networks share."""

import jax
import pytest


@pytest.fixture
def accelerator(monkeypatch):
    """Makes the layers lower as they do where there is an accelerator."""

    def switch():
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    return switch
