import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gcpatch.errors import UserError
from gcpatch.files import atomic_directory, atomic_write, home, make_folder, programs


@pytest.fixture
def written(monkeypatch):
    """What reaches the disk and takes its name, in order: ("sync" or "name", path)."""
    events, sync, replace = [], os.fsync, os.replace

    def spy_sync(descriptor):
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        sync(descriptor)

    def spy_replace(source, to):
        events.append(("name", Path(to)))
        replace(source, to)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(os, "replace", spy_replace)
    return events


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, written):
    path = tmp_path / "a.txt"
    for text in ("first", "second"):
        written.clear()
        with atomic_write(path) as draft:
            draft.write_text(text)
        assert written == [("sync", draft), ("name", path), ("sync", tmp_path)]
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, written):
    place = tmp_path / "a"
    for text in ("first", "second"):
        written.clear()
        with atomic_directory(place) as draft:
            (draft / "inner").mkdir()
            (draft / "inner" / "file").write_text(text)
        names = [path for what, path in written if what == "name"]
        assert names[-1] == place and len(names) == (1 if text == "first" else 2)
        before = [path for what, path in written[: written.index(("name", names[0]))]]
        assert before == [draft / "inner" / "file", draft / "inner", draft]
        assert written[-1] == ("sync", tmp_path)
        assert (place / "inner" / "file").read_text() == text
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_what_fails_leaves_what_was_there(tmp_path, error):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(type(error)), atomic_write(tmp_path / "file") as draft:
        draft.write_text("half")
        raise error
    with pytest.raises(type(error)), atomic_directory(tmp_path / "folder") as draft:
        (draft / "half").touch()
        raise error
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "old"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    replace, calls = os.replace, []

    def fail_second(source, to):
        calls.append(to)
        if len(calls) == 2:
            raise OSError("disk full")
        replace(source, to)

    monkeypatch.setattr(os, "replace", fail_second)
    with pytest.raises(OSError, match="disk full"), atomic_directory(tmp_path / "a") as draft:
        (draft / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "old"]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_of_the_cache_are_the_users_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "cache" / "gcpatch"))
    assert programs() == tmp_path / "cache" / "gcpatch" / "programs"
    assert mode(programs()) == mode(programs().parent) == 0o700
    assert mode(tmp_path / "cache") == 0o777 & ~umask()
    make_folder(tmp_path / "elsewhere")
    assert mode(tmp_path / "elsewhere") == 0o777 & ~umask()


def umask():
    found = os.umask(0)
    os.umask(found)
    return found


@pytest.mark.parametrize("folder", ["gcpatch", "gcpatch/programs"])
def test_programs_in_a_folder_that_others_may_write_to_are_not_used(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("GCPATCH_HOME", str(tmp_path / "gcpatch"))
    assert programs()
    (tmp_path / folder).chmod(0o770)
    assert programs() is None


def test_without_a_home_one_sentence_names_what_to_set(monkeypatch):
    def nobody(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("GCPATCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(UserError, match=r"has no home folder .* set GCPATCH_HOME to a folder$"):
        home()


def test_without_a_home_and_with_an_unknown_user_a_verb_answers_in_one_line(tmp_path):
    code = (
        "import os, sys, pwd\n"
        "def nobody(*_): raise KeyError('unknown user')\n"
        "pwd.getpwuid = pwd.getpwnam = nobody\n"
        "from gcpatch.cli import main\n"
        "sys.exit(main(['models']))"
    )
    known = {k: v for k, v in os.environ.items() if k not in ("HOME", "GCPATCH_HOME")}
    known |= {"XDG_CACHE_HOME": "", "PYTHONPATH": os.getcwd()}
    known.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True)
    assert done.returncode == 2 and "GCPATCH_HOME" in done.stderr
    assert done.stderr.count("\n") == 1
