"""Where gcpatch keeps what it makes once: converted weights and compiled programs."""

import os
from pathlib import Path


def home() -> Path:
    """$GCPATCH_HOME, or gcpatch in the user's cache folder."""
    if folder := os.environ.get("GCPATCH_HOME"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gcpatch"
