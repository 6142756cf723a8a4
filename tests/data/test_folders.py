"""gcpatch.folders: which files are found, which are counted, and what is gcpatch's own."""

import os
from pathlib import Path

import pytest
from packing import write

from gcpatch.data import sources
from gcpatch.data.folders import find_files
from gcpatch.data.images import ImageError
from gcpatch.data.listing import LeftOut, image_id, real_folder


@pytest.fixture
def tree(tmp_path, monkeypatch):
    names = ["b.jpg", "a.PNG", "notes.txt", "cats/1.jpeg", "cats/deep/2.tiff", "dogs/1.webp"]
    names += [".hidden.png", ".cache/3.png", "dogs/[1].gif", "dogs/x y.bmp", "empty/readme.md"]
    for name in names:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL = ["a.PNG", "b.jpg", "cats/1.jpeg", "cats/deep/2.tiff", "dogs/1.webp", "dogs/[1].gif"]
ALL += ["dogs/x y.bmp"]


def listed(*sources, without=None):
    left = LeftOut()
    return find_files(list(map(str, sources)), real_folder, left, without), list(left.notes())


def find_images(*sources, **options):
    return [Path(entry.path) for entry in listed(*sources, **options)[0]]


def found(*sources, **options):
    return [path.relative_to("data").as_posix() for path in find_images(*sources, **options)]


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["data"], ALL),
        (["data/", "./data", "data/cats"], ALL),
        (["data/b.jpg"], ["b.jpg"]),
        (["data/notes.txt"], ["notes.txt"]),
        (["data/b.jpg", "data/a.PNG", "data/b.jpg", "./data/b.jpg"], ["a.PNG", "b.jpg"]),
        (["data/*"], ALL),
        (["data/*.*"], ["a.PNG", "b.jpg"]),
        (["data/*.jpg", "data/[ab].*"], ["a.PNG", "b.jpg"]),
        (["data/**/*.jpeg"], ["cats/1.jpeg"]),
        (["data/**"], ALL),
        (["data/**/1.*"], ["cats/1.jpeg", "dogs/1.webp"]),
        (["data/?ogs"], ["dogs/1.webp", "dogs/[1].gif", "dogs/x y.bmp"]),
        (["data/dogs/[1].gif"], ["dogs/[1].gif"]),
        (["data/dogs/[[]1].gif"], ["dogs/[1].gif"]),
        (["data/.cache"], [".cache/3.png"]),
        (["data/.cache/*.png"], [".cache/3.png"]),
        (["data/.hidden.png"], [".hidden.png"]),
        (["data/*/../b.jpg"], ["b.jpg"]),
    ],
)
def test_sources(tree, sources, names):
    if ".." in sources[0]:
        assert [os.path.realpath(path) for path in find_images(*sources)] == [
            os.path.realpath("data/b.jpg")
        ]
    else:
        assert found(*sources) == names


def test_absolute_sources_and_bare_strings_and_paths(tree):
    assert find_images(f"{tree}/data/*.jpg") == [tree / "data" / "b.jpg"]
    assert find_images(f"{tree}/data/**/1.jpeg") == [tree / "data" / "cats" / "1.jpeg"]
    assert find_images(f"//{tree}/data/*.jpg")[0].name == "b.jpg"
    assert find_images("data/b.jpg") == [Path("data/b.jpg")]
    assert find_images(tree / "data" / "b.jpg") == [tree / "data" / "b.jpg"]


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("data/no.jpg", "matches no image"),
        ("data/*.gif", "matches no image"),
        ("data/*.txt", "matches no image"),
        ("data/empty", "folder without images"),
        ("data/em*", "matches no image"),
        ("", "matches no image"),
        ("a\0b", "matches no image"),
        ("a**b", "matches no image"),
        ("n" * 3000, "matches no image"),
        ("[", "matches no image"),
    ],
)
def test_nothing_found(tree, source, word):
    for named in ([source], ["data/b.jpg", source]):
        with pytest.raises(ImageError) as caught:
            find_images(*named)
        message = str(caught.value)
        assert repr(source) in message and word in message and ".jpeg" in message
        assert "\n" not in message


def test_links_are_followed_once(tree):
    for name, target in (("up", ".."), ("self", "."), ("again", "../dogs"), ("far", "../../other")):
        os.symlink(target, f"data/cats/{name}")
    (tree / "other").mkdir()
    (tree / "other" / "o.png").touch()
    os.symlink("b.jpg", "data/c.jpg")
    os.symlink("gone.jpg", "data/dangling.jpg")
    names = found("data")
    assert len(names) == len(ALL) + 2 and "c.jpg" not in names
    assert "dangling.jpg" in names and "cats/far/o.png" in names
    assert len({os.path.realpath(f"data/{name}") for name in names}) == len(names)
    assert found("data/**/*.bmp") == ["dogs/x y.bmp"]  # ends, and follows no link


def test_a_folder_that_cannot_be_listed(tree, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(ImageError, match=r"'data' cannot be listed .Permission denied.; check"):
        find_images("data")


def test_a_folder_named_like_an_image(tree):
    (tree / "data" / "album.jpg").mkdir()
    (tree / "data" / "album.jpg" / "inner.png").touch()
    assert "album.jpg/inner.png" in found("data/*.jpg") and "album.jpg" not in found("data")


def test_a_file_has_one_id_by_whichever_link_it_is_found(tree):
    os.symlink("b.jpg", "data/aa.jpg")
    os.symlink("../b.jpg", "data/cats/z.jpg")
    for source in ("data", "data/b.jpg", "data/aa.jpg", "data/cats"):
        ids = [image_id(entry.identity) for entry in listed(source)[0]]
        assert ids.count(image_id(str(tree / "data" / "b.jpg"))) == 1


# ---------------------------------------------------------------- gcpatch's own


OURS = {
    "a run": ["run.json", "images/x-1/adversarial.png", "images/x-1/history.npz", "report.png"],
    "a run that lost its settings": ["images/x-1/adversarial.png", "images/x-1/history.npz"],
    "explain": ["x-1/heat.npy", "x-1/overlay.png", "x-1/heatmap.png"],
    "transfer": ["transfer.jsonl", "transfer.png"],
    "parts": ["part-1-of-2/run.json", "part-1-of-2/images/x-1/panel.png"],
}


@pytest.mark.parametrize("files", OURS.values(), ids=OURS)
@pytest.mark.parametrize("source", ["data", "data/*", "data/**/*.png", "data/o*", "."])
def test_what_gcpatch_wrote_is_left_out_and_said_once(tree, files, source):
    write("data/top.png"), write("data/other/fine.png"), write("data/ok/fine.png")
    before, _ = listed(source)
    for file in files:
        write(f"data/out/{file}")
    entries, notes = listed(source)
    assert entries == before
    (note,) = [note for note in notes if "gcpatch's own" in note]
    assert note.startswith("left out 1 folder of gcpatch's own: ") and "/out" in note


def test_several_folders_are_one_note(tree):
    for name in "abc":
        write(f"data/{name}-run/run.json")
    (note,) = [note for note in listed("data")[1] if "own" in note]
    assert note == "left out 3 folders of gcpatch's own: 'data/a-run', ..."


def test_the_output_folder_is_left_out_though_nothing_marks_it(tree):
    write("data/out/images/half.png")
    for without in ("data/out", tree / "data" / "out", "data/../data/out"):
        for source in ("data", "data/**/*.[pPjgwtb]*", "data/*"):
            assert "out/images/half.png" in found(source)
            assert "out/images/half.png" not in found(source, without=Path(without))
    os.symlink("data/out", "elsewhere")
    assert found("data", "data/out/images/half.png", without=Path("elsewhere")) == ALL
    assert "cats/1.jpeg" not in found("data", without=Path("data/cats"))
    assert found("data/out", without=Path("not-there")) == ["out/images/half.png"]


@pytest.mark.parametrize("source", ["run", "run/", "ru[n]", "run/images", "run/i*/x", "run/*/*/a*"])
def test_only_gcpatchs_own_is_nothing(tree, source):
    write("run/run.json"), write("run/images/x/adversarial.png"), write("run/images/x/history.npz")
    assert listed(source)[0] == []
    assert found("data", source, source) == ALL  # as when a shell spells out photos/*
    with pytest.raises(ImageError, match=r"^All images lie in what gcpatch wrote: 'run.*; name"):
        sources.find([source], 16, "stretch")
    assert find_images("run/images/x/adversarial.png")  # a file that is named is taken
    with pytest.raises(ImageError, match="gcpatch wrote: 'run'"):
        sources.find(["run/images/x/adversarial.png"], 16, "stretch", Path("run"))


# ---------------------------------------------------------------- what is not read


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (["1.heic", "2.HEIC", "3.mov"], "skipped 3 files: 2 .heic, 1 .mov"),
        (["deep/1.heic"], "skipped 1 file: 1 .heic"),
        (["a", "b/c"], "skipped 2 files: 2 without suffix"),
        ([".hidden", ".git/x.txt"], None),
        (
            [f"x.{n}" for n in "abcdefghij"],
            "skipped 10 files: 1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 1 .f, 1 .g, 1 .h, 2 others",
        ),
    ],
)
def test_what_a_folder_holds_and_is_not_read_is_counted_in_one_line(tmp_path, files, note):
    for file in ["x.png", *files]:
        write(tmp_path / "photos" / file)
    assert listed(tmp_path / "photos")[1] == ([note] if note else [])
    twice = listed(tmp_path / "photos", tmp_path / "photos", f"{tmp_path}/phot*")
    assert twice[1] == ([note] if note else [])


def test_files_that_a_pattern_matches_are_counted_and_others_not(tree):
    write("data/x.mov")
    assert listed("data/*.*")[1] == ["skipped 2 files: 1 .mov, 1 .txt"]
    assert listed("data/*.jpg")[1] == [] and listed("data/b.jpg")[1] == []


# ---------------------------------------------------------------- class folders


def test_the_folders_below_a_source_may_be_classes(tree):
    def hints(*sources):
        return {Path(e.path).name: e.hint and tuple(e.hint) for e in listed(*sources)[0]}

    whole = hints("data")
    assert whole["b.jpg"] is None and whole["1.jpeg"] == ("data", "cats")
    assert whole["2.tiff"] == ("data", "cats") and whole["x y.bmp"] == ("data", "dogs")
    assert hints("data/cats") == {"1.jpeg": None, "2.tiff": ("data/cats", "deep")}
    for pattern in ("data/*", "data/*/*", "data/**/*.*", f"{tree}/data/?[oa]?s"):
        root = pattern.partition("/data")[0] + "/data" if pattern[0] == "/" else "data"
        assert hints(pattern)["1.jpeg"] == (root, "cats")
    assert hints("data/cats/1.jpeg") == {"1.jpeg": None}
    for several in (("data/cats/1.jpeg", "data/cats", "data"), ("data", "data/cats/1.jpeg")):
        assert hints(*several)["1.jpeg"] == ("data", "cats")
