"""Archives that gzip has compressed: their plain contents lie in a temporary file meanwhile."""

import atexit
import gzip
import os
import shutil
import tempfile
import zlib

from gcpatch.data import images
from gcpatch.data.images import ImageError

MOST = 2**30, 200  # bytes that any archive may unpack to, and for each byte of a larger one
PIECE = 2**20


def unpacked(source: str) -> str:
    """A file with what `source` unpacks to, which goes when the program ends.

    It lies where temporary files do (`TMPDIR`).

    Raises:
        ImageError: this is no whole gzip file, there is no room, or it unpacks to more than `MOST`
            allows, which pictures never do.
    """
    with images.opened(source) as file:
        most = max(MOST[0], MOST[1] * os.fstat(file.fileno()).st_size)
        try:
            folder = tempfile.mkdtemp(prefix="gcpatch-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            plain = os.path.join(folder, "plain.tar")
            with gzip.open(file) as stream, open(plain, "wb") as draft:
                while piece := stream.read(PIECE):
                    if draft.tell() + len(piece) > most:
                        raise ImageError(f"{source!r} unpacks to over {most} bytes; pack a .tar.")
                    draft.write(piece)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ImageError(
                f"{source!r} is no whole gzip file ({error}); fetch or pack it again."
            ) from None
        except OSError as error:
            raise ImageError(
                f"{source!r} cannot be unpacked ({error.strerror}); set TMPDIR to a folder with "
                "room, or pack a .tar, which is read in place."
            ) from None
    return plain
