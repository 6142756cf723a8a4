"""Programs read and evaluated in other ways: incrementally, in parts, with other ReLUs."""
