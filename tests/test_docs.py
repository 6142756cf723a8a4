"""The reference that `make docs` makes of the docstrings."""

import pytest

import gcpatch

doc = pytest.importorskip("pdoc.doc")


def test_every_public_name_is_in_the_reference_and_says_what_it_is():
    public = {name: getattr(gcpatch, name) for name in gcpatch.__all__}  # imported at first use
    members = doc.Module(gcpatch).members
    assert members.keys() == public.keys()
    for name, member in members.items():
        assert member.docstring or member.kind == "variable", name
