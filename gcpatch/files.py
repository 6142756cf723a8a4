"""Where gcpatch keeps what it makes once, and files that are whole or not there.

`atomic_write` and `atomic_directory` write a draft beside the place, bring it to the disk, and only
then give it its name. So what has its name is whole, whether the process is killed or the power is
cut, and what was there before stays until then. A draft that a kill leaves behind is a hidden file
or folder `.*.draft`.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gcpatch.errors import UserError

DRAFTS = ".*.draft"  # what a kill leaves, as a pattern
NOT_HERE = (errno.EINVAL, errno.ENOTSUP)  # of file systems that cannot bring a folder to the disk


def home() -> Path:
    """$GCPATCH_HOME, or gcpatch in the user's cache folder.

    Raises:
        UserError: there is neither, nor a home folder.
    """
    folder = os.environ.get("GCPATCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(folder).expanduser() if folder else Path(cache).expanduser() / "gcpatch"
    except RuntimeError:
        raise UserError(
            "this user has no home folder for converted weights; set GCPATCH_HOME to a folder"
        ) from None


def programs() -> Path | None:
    """The folder for compiled programs, or None: it cannot be made, or others may write to it."""
    folder = home() / "programs"
    try:
        make_folder(folder)
        found = [part.stat() for part in (folder, folder.parent)]
    except OSError:
        return None
    private = all(part.st_uid == os.getuid() and not part.st_mode & 0o022 for part in found)
    return folder if private else None


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it; of `home()` and below they are the user's alone (0700)."""
    with suppress(UserError):
        if folder.resolve().is_relative_to(home().resolve()) and not folder.is_dir():
            make_folder(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def is_name(text: str) -> bool:
    """Whether a text is one name in a folder, and no path that would lead elsewhere."""
    return text not in ("", ".", "..") and not any(letter in text for letter in "/\\\0")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A draft to be written, which takes the place of the file `path` once it is whole.

    Raises:
        OSError: the file cannot be written; what was there is as it was.
    """
    draft = _draft(path)
    try:
        yield draft
        _sync(draft)
        os.replace(draft, path)
        _sync(path.parent)
    finally:
        with suppress(OSError, ValueError):
            draft.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """An empty draft folder to be filled, which takes the place of the folder `path` at the end.

    Raises:
        OSError: the folder cannot be written; what was there is as it was.
    """
    draft, old = _draft(path), _draft(path)
    draft.mkdir()
    try:
        yield draft
        for folder, _, names in os.walk(draft, topdown=False):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(draft, path)
        except BaseException:
            if old.exists():
                os.replace(old, path)
            raise
        _sync(path.parent)
    finally:
        for rest in (draft, old):
            shutil.rmtree(rest, ignore_errors=True)


def _draft(path: Path) -> Path:
    return path.parent / f".{secrets.token_hex(8)}.draft"


def _sync(path: Path) -> None:
    """Brings a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_HERE:
            raise
    finally:
        os.close(descriptor)
