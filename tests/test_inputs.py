"""gcpatch.inputs: what sources name, in which order, under which ids, and what bad ones say."""

import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gcpatch import campaigns, cli, images, inputs
from gcpatch.attacks import Attack, Losses
from gcpatch.images import ImageError
from gcpatch.journal import Journal
from gcpatch.patches import Patch
from gcpatch.slots import Finished

MINI = ["--model", "mini_resnext", "--weights", "random"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with four pictures, which is also the working folder's `photos`."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), np.uint8)
    for name, picture in zip(("b", "a", "deep/c", "deep/a"), pixels, strict=True):
        os.makedirs("photos/deep", exist_ok=True)
        images.write_png(f"photos/{name}.png", picture)
    return tmp_path / "photos"


def find(*sources):
    return inputs.find(sources, 16, "stretch")


def sources(*names):
    return [item.source for item in find(*names)]


def refusal(*names):
    """The one line that refuses these sources."""
    with pytest.raises(ImageError) as caught:
        find(*names)
    message = str(caught.value)
    assert "\n" not in message and "; " in message
    return message


def write(path, text):
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


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# ---------------------------------------------------------------- files


def test_files_are_found_and_named_as_images_does(data):
    paths = images.find_images(["photos"])
    items = find("photos", "photos/a.png", "photos/*.png")
    assert [item.source for item in items] == list(map(str, paths))
    assert [item.id for item in items] == ["photos-a", "b", "deep-a", "c"]
    for item, path in zip(items, paths, strict=True):
        picture = item.read()
        np.testing.assert_array_equal(picture.pixels, images.read_image(path, 16))
        assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (item.target, item.label, item.listed) == (None, None, "")


def test_a_file_is_read_once(data, monkeypatch):
    """The digest is of the bytes that were decoded, though the file may change at any time."""
    (item,) = find("photos/a.png")
    expected = item.read()
    read, calls = images.read_bytes, []

    def read_then_overwrite(path, *place):
        calls.append(path)
        content = read(path, *place)
        (data / "a.png").write_bytes(b"changed")
        return content

    monkeypatch.setattr(images, "read_bytes", read_then_overwrite)
    picture = item.read()
    assert picture.sha256 == expected.sha256 and calls == ["photos/a.png"]
    np.testing.assert_array_equal(picture.pixels, expected.pixels)


def test_listing_reads_no_image(data, monkeypatch):
    write("photos/list.csv", "path\na.png\ngone.png\n")
    monkeypatch.setattr(images, "decode", None)
    monkeypatch.setattr(images, "read_bytes", None)
    assert len(find("photos/list.csv", "photos", pack("x.tar", {"t.png": b"no"}))) == 6


def test_no_sources_and_sources_without_images(data):
    assert "No images were named" in refusal()
    assert "'nothing' matches no image" in refusal("photos", "nothing")


# ---------------------------------------------------------------- manifests


def test_a_csv_keeps_its_order_and_gives_classes(data):
    lines = [
        "\ufeffPath, target,note,LABEL ",
        'b.png, "owl, great",x,',
        "",
        '"deep/c.png", random,, 5',
    ]
    owl, fifth = find(write("photos/list.csv", "\r\n".join(lines)))
    assert owl[:2] == ("b", "photos/b.png")
    assert owl[3:] == ("owl, great", None, "photos/list.csv, line 2")
    assert fifth[:2] == ("c", "photos/deep/c.png")
    assert fifth[3:] == ("random", "5", "photos/list.csv, line 4")
    np.testing.assert_array_equal(fifth.read().pixels, images.read_image("photos/deep/c.png", 16))
    assert fifth.blame(ValueError("no")) == "photos/list.csv, line 4: no"


def test_a_jsonl_is_read_likewise(data):
    rows = [{"path": str(data / "b.png"), "label": 5, "x": [1]}, {"path": "é \n.png", "target": ""}]
    lines = [json.dumps(rows[0]), "", json.dumps(rows[1], ensure_ascii=False)]
    first, second = find(write("photos/list.JSONL", "\n".join(lines)))
    assert first[:2] == ("b", str(data / "b.png"))
    assert first[3:] == (None, "5", "photos/list.JSONL, line 1")
    assert second[:2] == ("é_", "photos/é \n.png")
    assert second[3:] == (None, None, "photos/list.JSONL, line 3")
    with pytest.raises(ImageError, match="No such file"):
        second.read()


def test_a_path_leads_from_the_manifests_folder_wherever_that_is(data, monkeypatch):
    os.mkdir("lists")
    write("lists/list.csv", "path\n../photos/a.png\n")
    assert sources("lists/list.csv") == ["lists/../photos/a.png"]
    monkeypatch.chdir("lists")
    assert sources("list.csv") == ["../photos/a.png"]
    assert find("list.csv")[0].read().pixels.shape == (16, 16, 3)


def test_an_image_that_is_named_twice_is_taken_once(data):
    write("photos/one.csv", "path,target\nb.png,5\n./deep/../b.png, 5\n")
    write("photos/two.jsonl", json.dumps({"path": "b.png", "target": 5}))
    items = find("photos", "photos/two.jsonl", "photos/b.png", "photos/one.csv")
    assert [item.source for item in items[1:]] == sources("photos/a.png", "photos/deep")
    assert (items[0].source, items[0].target) == ("photos/b.png", "5")
    write("photos/one.csv", "path,target\nb.png,5\nb.png,6\n")
    line = refusal("photos/one.csv")
    for word in ("photos/one.csv, line 3: ", "'photos/b.png'", "photos/one.csv, line 2"):
        assert word in line
    write("photos/one.csv", "path\nb.png\n")
    assert "photos/one.csv, line 2: " in refusal("photos/two.jsonl", "photos/one.csv")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "", ["'x.csv' names no image"]),
        ("x.csv", "path,target\n\n", ["'x.csv' names no image"]),
        ("x.csv", "file,target\na,b\n", ["x.csv, line 1: ", "no column path", "file, target"]),
        ("x.csv", "\n\na.png\n", ["x.csv, line 3: ", "no column path", "a.png"]),
        ("x.csv", "path,target\na,b\na\n", ["x.csv, line 3: ", "1 fields", "header of 2"]),
        ("x.csv", "path,target\na,b,c\n", ["x.csv, line 2: ", "3 fields", "header of 2"]),
        ("x.csv", 'path\na\n"b\nc\nd\n', ["x.csv, line 3: ", "unexpected end"]),
        ("x.csv", 'path\n"a"b\n', ["x.csv, line 2: ", "no CSV"]),
        ("x.csv", "path\n" + "a" * 200_000, ["x.csv, line 2: ", "field limit"]),
        ("x.csv", "path\ra\r", ["x.csv, line 1: ", "no CSV"]),
        ("x.csv", "path,label\n,5\n", ["x.csv, line 2: path is ''"]),
        ("x.csv", b"path\na\nb\xe9\n", ["x.csv, line 3: ", "not UTF-8"]),
        ("x.csv", "path\na\n".encode("utf-16"), ["x.csv, line 1: ", "not UTF-8"]),
        ("x.jsonl", "\n \n", ["'x.jsonl' names no image"]),
        ("x.jsonl", '{"path": "a"}\n{"path": "b"\n', ["x.jsonl, line 2: ", "no JSON object"]),
        ("x.jsonl", '["a"]\n', ["x.jsonl, line 1: ", "no JSON object"]),
        ("x.jsonl", "[" * 200_000, ["x.jsonl, line 1: ", "no JSON object"]),
        ("x.jsonl", '{"file": "a"}\n', ["x.jsonl, line 1: path is None"]),
        ("x.jsonl", '{"path": 5}\n', ["x.jsonl, line 1: path is 5"]),
        ("x.jsonl", '{"path": "a", "label": ["x"]}\n', ["line 1: label is ['x']"]),
        ("x.jsonl", '{"path": "a", "target": true}\n', ["line 1: target is True"]),
    ],
)  # fmt: skip
def test_a_bad_manifest_is_refused_with_its_name_and_line(data, name, text, words):
    line = refusal("photos", write(name, text))
    assert all(word in line for word in words)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.tar"])
def test_lists_that_are_missing_or_folders(data, name):
    assert f"'{name}' cannot be read (No such file" in refusal(name)
    assert "cannot be read" in refusal(f"\0{name}")
    os.mkfifo(f"pipe-{name}")
    assert "folder or a device" in refusal(f"pipe-{name}")
    (data / "deep").rename(name)
    assert f"'{name}' is a folder; write '{name}/'" in refusal(name)
    assert sources(f"{name}/") == [f"{name}/a.png", f"{name}/c.png"]


# ---------------------------------------------------------------- archives


def test_members_are_read_in_place(data):
    content = {name: (data / name).read_bytes() for name in ("b.png", "deep/a.png", "a.png")}
    members = {f"./{name}": content[name] for name in content}
    members |= {"notes.txt": b"x", "._b.png": b"x", ".cache/b.png": b"x", "deep": b"x"}
    members |= {"é" * 200 + ".jpg": content["b.png"], "../../photos/b.png": content["a.png"]}
    kinds = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE
    members |= {f"{kind}.png": link(f"{kind}.png", "/etc/passwd", kind) for kind in kinds}
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        items = find(pack("x.tar", members, format=form))
        wanted = ["../../photos/b.png", "a.png", "b.png", "deep/a.png", "é" * 200 + ".jpg"]
        assert [item.source for item in items] == [f"x.tar:{name}" for name in wanted]
        assert [item.id for item in items] == ["photos-b", "x.tar-a", "x.tar-b", "deep-a", "é" * 50]
        originals = [content[name] for name in ("a.png", "a.png", "b.png", "deep/a.png", "b.png")]
        with ThreadPoolExecutor(8) as pool:
            pictures = list(pool.map(lambda item: item.read(), items * 20))
        for picture, original in zip(pictures, originals * 20, strict=True):
            assert picture.sha256 == hashlib.sha256(original).hexdigest()
            np.testing.assert_array_equal(picture.pixels, images.decode(original, "", 16))
    assert sorted(os.listdir()) == ["photos", "x.tar"]


def test_of_members_of_one_name_the_last_counts(data):
    pack("x.tar", {"x.png": b"old"})
    with tarfile.open("x.tar", "a") as archive:
        archive.add("photos/b.png", "./x.png")
    (item,) = find("x.tar", "./x.tar")
    assert item.read().sha256 == hashlib.sha256((data / "b.png").read_bytes()).hexdigest()


def test_all_kinds_are_mixed_under_stable_ids(data):
    picture = (data / "a.png").read_bytes()
    pack("x.tar", {"2/a.png": picture, "10-x/a.png": picture, "10/a.png": picture})
    write("photos/list.csv", "path\nnew.png\nb.png\n")
    given = ["photos", "x.tar", "photos/deep/*.png", "photos/list.csv"]
    items = find(*given)
    assert [(item.id, item.source) for item in items] == [
        ("10-a", "x.tar:10/a.png"), ("10-x-a", "x.tar:10-x/a.png"), ("2-a", "x.tar:2/a.png"),
        ("new", "photos/new.png"), ("b", "photos/b.png"),
        ("photos-a", "photos/a.png"), ("deep-a", "photos/deep/a.png"), ("c", "photos/deep/c.png"),
    ]  # fmt: skip
    assert items == find(*given)


def test_a_cut_or_damaged_archive_is_refused_wherever_it_was_hit(data):
    pack("x.tar", {"a.png": b"a" * 700, "b.png": b"b" * 700})  # 3 blocks each, then 2 and padding
    whole = (data.parent / "x.tar").read_bytes()
    for length in (0, 1, 511, 512, 600, 1535, 1536, 1700, 2048, 3071, 3072, 3500):
        line = refusal(write("cut.tar", whole[:length]))
        assert line.startswith("'cut.tar' is no whole tar archive ("), length
    assert len(find(write("cut.tar", whole[: 3072 + 512]))) == 2  # one block marks the end
    for at in (0, 150, 1536, 1536 + 150):
        damaged = whole[:at] + b"\xff" + whole[at + 1 :]
        assert "no whole tar" in refusal(write("cut.tar", damaged)), at
    negative = bytearray(whole)
    negative[1536 + 124 : 1536 + 136] = b"\xff" * 10 + b"\xfe\0"  # -512: back to itself
    checksum = sum(negative[1536:1684]) + 8 * 32 + sum(negative[1692:2048])
    negative[1684:1692] = b"%06o\0 " % checksum
    assert "'b.png' is sparse or of negative size" in refusal(write("cut.tar", bytes(negative)))
    pack("cut.tar", {"c.png": link("c.png", "", tarfile.GNUTYPE_SPARSE)})
    assert "'c.png' is sparse" in refusal("cut.tar")


@pytest.mark.parametrize("content", [b"", b"no archive" * 100, b"\x1f\x8b" + bytes(999)])
def test_what_is_no_archive(data, content):
    assert refusal(write("x.tar", content)).startswith("'x.tar' is no whole tar archive (")


@pytest.mark.parametrize("name", ["x.tar.gz", "X.TGZ", "x.tar.xz", "x.tar.bz2", "x.tar.zst"])
def test_compressed_archives_are_refused(data, name):
    assert refusal(name) == f"{name!r} is compressed; decompress it to a plain .tar first."


def test_an_archive_without_images(data):
    assert "'x.tar' names no image" in refusal(pack("x.tar", {"notes.txt": b"x"}))
    assert "'x.tar' names no image" in refusal(pack("x.tar", {}))


def test_an_archive_that_changes_after_it_was_listed_costs_its_images(data):
    items = find(pack("x.tar", {"a.png": b"a" * 700, "b.png": (data / "b.png").read_bytes()}))
    os.truncate("x.tar", 2100)
    with pytest.raises(ImageError, match=r"^'x.tar:b.png' is cut short"):
        items[1].read()
    with pytest.raises(ImageError, match=r"^'x.tar:a.png' is not an image"):
        items[0].read()
    os.unlink("x.tar")
    with pytest.raises(ImageError, match=r"'x.tar' cannot be read"):
        items[0].read()


# ---------------------------------------------------------------- many


def test_a_long_list_is_cheap(data, monkeypatch):
    """A kilobyte an image is enough, and no file is looked at."""
    find(write("list.csv", "path\nx.jpg\n"))
    lines = (f"{i % 100}/{i}.jpg,{i % 100}\n" for i in range(1000))
    write("list.csv", "path,label\n" + "".join(lines))
    monkeypatch.setattr(os, "lstat", None)
    monkeypatch.setattr(os, "readlink", None)
    tracemalloc.start()
    items = find("list.csv")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(items) == 1000 and held < 1e6 and peak < 1.5e6


# ---------------------------------------------------------------- campaigns and the command line


def invert(network, problems, shape, *options):
    """In place of an attack: the negative, and the label as the loss."""
    for number, problem in enumerate(problems):
        picture = 1 - np.asarray(problem.image)
        losses = Losses(0.0, 0.0, float(problem.label))
        history = Losses(*np.zeros((3, 1), np.float32))
        yield number, Finished(picture, picture[: shape[0], : shape[1]], 1, False, losses, history)


def test_a_campaign_follows_the_manifest(tiny, data, tmp_path, monkeypatch):
    lines = ["path,target,label", "a.png,runner-up,B", "b.png,,", "deep/c.png,lynx,a"]
    write("photos/list.csv", "\n".join([*lines, "gone.png,,", "deep/a.png,,owl"]))
    pack("x.tar", {"t.png": (data / "a.png").read_bytes(), "u.png": b"no"})
    monkeypatch.setattr(campaigns, "stream", invert)
    attack, patch = Attack(), Patch(4)
    journal = Journal(tmp_path / "run", campaigns.describe([tiny], patch, attack, {}))
    items = inputs.find(["photos/list.csv", "x.tar"], 32, "stretch")
    records = campaigns.run(journal, tiny, items, patch, attack, target="least-likely", batch=2)
    found = {record["id"]: record for record in records}
    logits = np.asarray(tiny(np.float32(items[0].read().pixels) / 255))
    least, second, top = map(int, np.argsort(logits))
    assert found["photos-a"]["target"]["id"] == second and found["t"]["target"]["id"] == least
    assert found["photos-a"]["label"] == {"id": 1, "name": "b"}
    assert found["photos-a"]["loss"]["explanation"] == 1
    assert found["photos-a"]["clean"]["id"] == top != 1
    assert found["b"]["label"] is None and found["t"]["label"] is None
    assert found["t"]["loss"]["explanation"] == top
    assert found["t"]["sha256"] == found["photos-a"]["sha256"]
    errors = {name: record["error"] for name, record in found.items() if record["error"]}
    assert set(errors) == {"c", "gone", "deep-a", "u"}
    near = "near it are a, b, c"
    assert errors["c"] == (
        f"photos/list.csv, line 4: there is no class 'lynx'; {near}; "
        "or choose one of random, least-likely, runner-up"
    )
    assert errors["gone"].startswith("photos/list.csv, line 5: 'photos/gone.png' cannot be read")
    assert errors["deep-a"] == f"photos/list.csv, line 6: there is no class 'owl'; {near}"
    assert errors["u"].startswith("'x.tar:u.png' is not an image")


def test_a_bad_source_is_one_line_and_exit_2(data, capsys):
    write("x.csv", "path\na,b\n")
    assert cli.main(["attack", "photos", "x.csv", *MINI, "--out", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gcpatch attack: x.csv, line 2: ") and not os.path.exists("run")


def test_explain_takes_the_same_sources(data, capsys):
    write("photos/list.csv", "path,label\nb.png,owl\ngone.png,\n")
    pack("x.tar", {"t.png": (data / "a.png").read_bytes()})
    command = ["explain", "x.tar", "photos/list.csv", *MINI, "--out", "maps", "--json"]
    assert cli.main(command) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == ["t", "b", "gone"]
    assert rows[2]["error"].startswith("photos/list.csv, line 3: ")
    assert os.path.exists("maps/t/heatmap.png") and os.path.exists("maps/b/heatmap.png")
