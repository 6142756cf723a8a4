"""Files, archives and lists for the tests of sources."""

import io
import os
import tarfile

import pytest

from gcpatch.data import sources as sources_of
from gcpatch.data.images import ImageError
from gcpatch.data.listing import image_id


def find(*sources, **options):
    return sources_of.find(sources, 16, "stretch", **options).items


def id_of(path):
    """The id of a file."""
    return image_id(os.path.realpath(path))


def plain(identity):
    """An id without its digits."""
    return identity.rpartition("-")[0]


def notes(*sources, **options):
    return sources_of.find(sources, 16, "stretch", **options).notes


def names(*sources, **options):
    return [item.source for item in find(*sources, **options)]


def refusal(*sources, **options):
    """The one line that refuses these sources."""
    with pytest.raises(ImageError) as caught:
        find(*sources, **options)
    message = str(caught.value)
    assert "\n" not in message and "; " in message
    return message


def write(path, text=b""):
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    return path


def pack(path, members, **options):
    """A tar of {name: bytes, or a whole TarInfo}."""
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = 0 if info is content else len(content)
            archive.addfile(info, None if info is content else io.BytesIO(content))
    return path
