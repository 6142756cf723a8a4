"""gcpatch.archives: members read in place, sidecars, and archives that nobody would pack."""

import gzip
import hashlib
import os
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from packing import find, notes, pack, refusal, write

from experiments.hostile.files import block, link
from gcpatch.data import archives, images
from gcpatch.data import sources as sources_of
from gcpatch.data.images import ImageError
from gcpatch.data.packed import gzipped


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with four pictures, which is also the working folder's `photos`."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), np.uint8)
    for name, picture in zip(("b", "a", "deep/c", "deep/a"), pixels, strict=True):
        os.makedirs("photos/deep", exist_ok=True)
        images.write_png(f"photos/{name}.png", picture)
    return tmp_path / "photos"


def test_members_are_read_in_place(data):
    content = {name: (data / name).read_bytes() for name in ("b.png", "deep/a.png", "a.png")}
    members = {f"./{name}": content[name] for name in content}
    members |= {"notes.txt": b"x", "._b.png": b"x", ".cache/b.png": b"x", "deep": b"x"}
    members |= {"é" * 200 + ".jpg": content["b.png"], "../../photos/b.png": content["a.png"]}
    kinds = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE
    members |= {f"{kind}.png": link(f"{kind}.png", "/etc/passwd", kind) for kind in kinds}
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        items, notes = sources_of.find([pack("x.tar", members, format=form)], 16, "stretch")
        wanted = ["../../photos/b.png", "a.png", "b.png", "deep/a.png", "é" * 200 + ".jpg"]
        assert [item.source for item in items] == [f"x.tar:{name}" for name in wanted]
        assert notes == ["skipped 5 files: 2 links, 1 .txt, 1 pipe, 1 without suffix"]
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


@pytest.mark.parametrize("name", ["x.tar.xz", "x.tar.bz2", "X.TAR.ZST"])
def test_compressed_archives_are_refused(data, name):
    assert refusal(name) == f"{name!r} is compressed; decompress it to a plain .tar first."


# ---------------------------------------------------------------- gzip


def zipped(members):
    """What gzip makes of `x.tar`, which this packs."""
    with open(pack("x.tar", members), "rb") as file:
        return gzip.compress(file.read())


@pytest.mark.parametrize("name", ["x.tar.gz", "X.TGZ"])
def test_what_gzip_has_compressed_is_read_as_the_plain_archive(data, name):
    pictures = {f"deep/{name}.png": (data / f"{name}.png").read_bytes() for name in "ab"}
    members = pictures | {"deep/a.cls": b"3", "notes.txt": b"x"}
    write(name, zipped(members))
    (plain, said), (items, told) = (
        sources_of.find([source], 16, "stretch") for source in ("x.tar", name)
    )
    assert said == told == ["skipped 1 file: 1 .txt"]
    assert [item.source for item in items] == [f"{name}:{member}" for member in pictures]
    os.unlink(name)  # what was listed is read, whatever becomes of the archive
    for item, other in zip(items, plain, strict=True):
        assert item.read().sha256 == other.read().sha256
        assert item.id != other.id
        assert (item.hint and item.hint.name) == (other.hint and other.hint.name)
    write("list.csv", f"path,label\n{name}/deep/b.png,5\n")
    write(name, zipped(members))
    (listed,) = find("list.csv")
    assert listed.label == "5" and listed.id == items[1].id
    assert listed.read().sha256 == items[1].digest()


def test_gzip_files_that_nobody_would_pack(data, monkeypatch):
    monkeypatch.setattr(gzipped, "MOST", (2**20, 10))
    whole = zipped({"a.png": os.urandom(2**12)})
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:-8] + bytes(8)):
        line = refusal(write("x.tgz", content))
        assert re.match(r"'x.tgz' is no whole (gzip file|tar archive) \(", line), content
    assert "'x.tgz' is no whole tar archive" in refusal(write("x.tgz", gzip.compress(b"x" * 999)))
    bomb = gzip.compress(bytes(2**22))
    assert refusal(write("x.tgz", bomb)) == "'x.tgz' unpacks to over 1048576 bytes; pack a .tar."
    monkeypatch.setattr(gzipped.tempfile, "tempdir", str(data / "gone"))
    assert "set TMPDIR to a folder" in refusal(write("x.tgz", whole))


def test_unpacked_archives_go_with_the_program(data):
    write("x.tgz", zipped({"a.png": b"a"}))
    code = "from gcpatch.data.packed.gzipped import unpacked; print(unpacked('x.tgz'))"
    path = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=True
    ).stdout.strip()
    assert path.endswith("plain.tar") and not os.path.exists(os.path.dirname(path))


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


# ---------------------------------------------------------------- sidecars


def labels(*sources):
    found = sources_of.find(sources, 16, "stretch").items
    return {item.source.partition(":")[2]: item.hint and item.hint.name for item in found}


@pytest.mark.parametrize(
    ("sidecars", "name"),
    [
        ({"1.cls": b"207"}, "207"),
        ({"1.cls": b" tabby \n"}, "tabby"),
        ({"1.CLS": b"3"}, "3"),
        ({"1.json": b'{"label": 207, "key": "1"}'}, "207"),
        ({"1.json": b'{"cls": "tabby", "label": 5}'}, "tabby"),
        ({"1.json": b'{"cls": null, "label": 5.0}'}, "5.0"),
        ({"1.json": b'{"label": 5}', "1.cls": b"6"}, "6"),
        ({"1.cls": b"6", "1.json": b'{"label": 5}'}, "6"),
        ({"2.cls": b"6", "a/1.cls": b"6"}, None),
        ({"1.json": b'{"label": true}'}, None),
        ({"1.json": b'{"label": [3]}'}, None),
        ({"1.json": b"[3]"}, None),
        ({"1.json": b"{"}, None),
        ({"1.json": b"[" * 200_000}, None),
        ({"1.json": b'{"label": ' + b"9" * 5000 + b"}"}, None),
        ({"1.cls": b"\xff\xfe"}, None),
        ({"1.cls": b""}, None),
        ({"1.cls": b"1" * (archives.HEADER + 1)}, None),
    ],
)
def test_sidecars_of_webdataset_give_the_class(tmp_path, monkeypatch, sidecars, name):
    monkeypatch.chdir(tmp_path)
    before = pack("x.tar", {**sidecars, "1.jpg": b""})
    assert labels(before) == {"1.jpg": name}
    assert labels(pack("y.tar", {"1.jpg": b"", **sidecars})) == {"1.jpg": name}
    elsewhere = "2.cls" in sidecars
    assert bool(notes("x.tar")) == (name is None and not elsewhere)


def test_a_sidecar_has_the_stem_of_its_image_or_its_first_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    members = {"d/1.left.jpg": b"", "d/1.right.jpg": b"", "d/1.cls": b"7", "1.jpg": b""}
    members |= {"n1.cat.jpg": b"", "n1.dog.jpg": b"", "n1.cat.cls": b"1", "n1.dog.cls": b"2"}
    assert labels(pack("x.tar", members)) == {
        "d/1.left.jpg": "7",
        "d/1.right.jpg": "7",
        "1.jpg": None,
        "n1.cat.jpg": "1",
        "n1.dog.jpg": "2",
    }


# ---------------------------------------------------------------- hostile


def test_links_devices_and_unknown_members_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"Z")
    members = {f"{n}.png": link(f"{n}.png", "/etc/passwd", kind) for n, kind in enumerate(kinds)}
    members |= {"a.png": b"", "b.heic": b"", "c.mov": b"", "d": link("d", "", tarfile.DIRTYPE)}
    pack("x.tar", members)
    note = "skipped 7 files: 2 devices, 2 links, 1 .heic, 1 .mov, 1 of unknown kind"
    assert notes("x.tar") == notes("x.tar", "./x.tar") == [note]


@pytest.mark.parametrize("name", ["/etc/x.png", "../../x.png", "a/../../x.png", "//x.png"])
def test_members_never_lead_outside(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (item,) = find(pack("x.tar", {name: b"content"}))
    assert item.id.startswith("x-") and "/" not in item.id
    with pytest.raises(ImageError):
        item.read()
    assert os.listdir() == ["x.tar"]


def attributes(**values):
    """The text of a pax header."""
    text = b""
    for key, value in values.items():
        rest = f" {key}={value}\n".encode()
        length = len(rest) + len(str(len(rest) + len(str(len(rest)))))
        text += str(length).encode() + rest
    return text


PICTURE = block("a.png", tarfile.REGTYPE, 3, b"abc")
END = bytes(1024)
HOSTILE = {
    "digits": (b"9" * 300_000, "is malformed"),
    "digits in a value": (attributes(path="9" * 300_000), "a row of over 255 digits"),
    "digits in a comment": (attributes(comment="9" * 256), "a row of over 255 digits"),
    "digits behind the end": (b"\0" + b"9" * 1000, "a row of over 255 digits"),
    "digits as a length": (b"0" * 255 + b"9 a=b\n", "is malformed"),
    "a length that is too long": (b"99 a=b\n", "is malformed"),
    "a length that is too short": (b"5 a=bcd\n", "is malformed"),
    "a length beyond the header": (b"9999999 a=b\n", "is malformed"),
    "a length of nothing": (b"9 a=bcde\n0 a=b\n", "is malformed"),
    "no length": (b"a=b\n", "is malformed"),
    "no key": (b"6 =bc\n", "is malformed"),
    "one key over all records": (b"2 " * 5000 + b"=\n", "is malformed"),
    "many attributes": (attributes(**{f"a{n}": n for n in range(257)}), "over 256 attributes"),
    "a sparse map": (attributes(**{"GNU.sparse.map": "0,1"}), "is sparse"),
    "a sparse version": (attributes(**{"GNU.sparse.major": "1"}), "is sparse"),
    "a negative size": (attributes(size="-512"), "is sparse or of negative size"),
}


@pytest.mark.parametrize(("text", "why"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE])
def test_a_header_is_checked_before_tarfile_parses_it(tmp_path, monkeypatch, text, why, kind):
    """So that no interpreter's pattern ever sees it; nothing here looks at a clock."""
    if why.endswith("negative size"):
        kind = tarfile.XHDTYPE
    else:
        monkeypatch.setattr(tarfile.TarInfo, "_proc_pax", None)
    for before in (b"", PICTURE):
        whole = before + block("pax", kind, len(text), text) + PICTURE + END
        line = refusal(write(tmp_path / "x.tar", whole))
        assert ("is no whole tar archive (" in line and why in line and "'pax'" in line) or (
            kind == tarfile.XHDTYPE and "'a.png'" in line
        )


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
@pytest.mark.parametrize("size", [-512, 2**20 + 1, 8**11 - 1])
def test_headers_of_strange_sizes_are_not_read(tmp_path, kind, size):
    line = refusal(write(tmp_path / "x.tar", PICTURE + block("long", kind, size) + PICTURE + END))
    assert f"the header 'long' has {size} bytes" in line


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_chain_of_headers_is_no_traceback(tmp_path, kind):
    chain = block("next", kind, 9, b"9 a=bcde\n") * 3000
    assert "is no whole tar archive (" in refusal(write(tmp_path / "x.tar", chain + PICTURE + END))


def test_global_attributes_do_not_pile_up(tmp_path):
    each = [attributes(**{f"a{n}-{m}": n for n in range(200)}) for m in range(3)]
    headers = b"".join(block("pax", tarfile.XGLTYPE, len(text), text) for text in each)
    line = refusal(write(tmp_path / "x.tar", headers + PICTURE + END))
    assert "over 256 attributes" in line


def test_the_headers_that_people_write_are_read(tmp_path):
    name = "été/" + "n" * 200 + "/" + "1" * 200 + ".jpg"
    info = tarfile.TarInfo(name)
    info.pax_headers = {"SCHILY.xattr.user.note": "x" * 60_000, "mtime": "1700000000.123456789"}
    info.mtime = 1700000000.5
    path = pack(
        str(tmp_path / "x.tar"),
        {name: info},
        format=tarfile.PAX_FORMAT,
        pax_headers={"comment": "b" * 40},
    )
    assert [item.source for item in find(path)] == [f"{path}:{name}"]
