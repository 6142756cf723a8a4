"""Whether gcpatch reads pictures as Pillow does, on some 700 files of all sorts, or on yours.

    python -m experiments.formats [FOLDER...]

The files are made here: by Pillow's writers, and packed by hand where they cannot (PNG of every
depth, BMP of every header, TIFF of planes). The reference is Pillow, turned upright by
`ImageOps.exif_transpose` and laid over white; grey of 16 bits is value / 257, rounded (Pillow clips
it at 255), and planes of 16 bits are unpacked here (Pillow takes them for 8). Exits with 1 where
any file is read otherwise and not refused.
"""

import argparse
import itertools
import os
import struct
import sys
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from gcpatch.data import images
from gcpatch.data.folders import find_files
from gcpatch.data.listing import LeftOut

HEIGHT, WIDTH = 13, 19
ORIENTATIONS = range(1, 9)
ADAM7 = (  # each pass's first column and row, and its steps
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


class File(NamedTuple):
    """A picture's file: its container, what is special about it, and its bytes."""

    container: str
    name: str
    data: bytes


def picture() -> np.ndarray:
    """uint8 `[13, 19, 4]`: smooth, every channel different, no symmetry, some of it clear."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    glow = 40 + 180 * np.exp(-8 * ((x - 0.2) ** 2 + y**2))
    channels = 230 * x * (1 - 0.5 * y), 200 * y**2, glow, 255 * np.clip(1.2 - x * y, 0, 1)
    return np.stack(channels, -1).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """A file by Pillow's writer."""
    stream = BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def in_mode(mode: str) -> Image.Image:
    """The picture in one of Pillow's modes."""
    clear = Image.fromarray(picture())
    if mode.startswith(("I", "F")):
        grey = np.asarray(clear.convert("RGB").convert("L"))
        kind = {"I": np.int32, "F": np.float32}.get(mode, np.uint16)
        return Image.fromarray(grey.astype(kind) * 257 + 100)
    if mode == "PA":
        return clear.convert("RGB").quantize(16).convert("PA")
    if mode == "LAB":
        return Image.fromarray(picture()[..., :3].copy(), "LAB")
    return clear if mode == "RGBA" else clear.convert("LA" if mode == "LA" else "RGB").convert(mode)


def exif(orientation: int, order: str = ">", kind: str = "H", prefix: bytes = b"") -> bytes:
    """An EXIF block that holds the orientation alone."""
    value = struct.pack(order + kind, orientation).ljust(4, b"\0")
    start = b"MM\0*" if order == ">" else b"II*\0"
    number = {"B": 1, "H": 3, "I": 4}[kind]
    return prefix + start + struct.pack(order + "IHHHI", 8, 1, 274, number, 1) + value + bytes(4)


def bits(samples: np.ndarray, depth: int, order: str = ">") -> list[bytes]:
    """Each row of `[h, n]` samples, packed to whole bytes."""
    if depth > 8:
        return [row.astype(f"{order}u{depth // 8}").tobytes() for row in samples]
    planes = samples[..., None] >> np.arange(depth)[::-1] & 1
    return [row.tobytes() for row in np.packbits(planes.reshape(len(samples), -1), axis=1)]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG's chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: np.ndarray, depth: int, colour: int, *before: bytes, adam7: bool = False) -> bytes:
    """A PNG of `[h, w, c]` samples; chunks of `before` stand in front of the pixels."""
    height, width = samples.shape[:2]
    passes = ADAM7 if adam7 else ((0, 0, 1, 1),)
    parts = [samples[y::down, x::across] for x, y, across, down in passes]
    rows = [row for part in parts if part.size for row in bits(part.reshape(len(part), -1), depth)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, adam7)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(before)
    return start + body + chunk(b"IEND", b"")


def bmp(
    samples: np.ndarray,
    depth: int,
    header: int = 40,
    masks: tuple[int, ...] = (),
    upside: bool = False,
) -> bytes:
    """A BMP of `[h, w, bytes]` (or `[h, w, 1]` indices) with a grey palette to 8 bits."""
    height, width = samples.shape[:2]
    rows = bits(samples.reshape(height, -1), min(depth, 8))
    rows = [row + bytes(-len(row) % 4) for row in (rows if upside else rows[::-1])]
    levels = [255 * index // ((1 << depth) - 1) for index in range(1 << depth if depth <= 8 else 0)]
    palette = b"".join(bytes([v, v, 255 - v] + [0] * (header > 12)) for v in levels)
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, depth)
    else:
        sides = width, -height if upside else height
        how = 3 if masks else 0
        info = struct.pack("<IiiHHIIiiII", header, *sides, 1, depth, how, 0, 0, 0, len(levels), 0)
        info += struct.pack(f"<{len(masks)}I", *masks)
        info = info.ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    body = info + palette + b"".join(rows)
    return b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, start) + body


def tiff(
    samples: np.ndarray,
    depth: int,
    photometric: int,
    planar: bool = False,
    order: str = "<",
    strips: int = 1,
    **tags: tuple[int, ...],
) -> bytes:
    """An uncompressed TIFF of `[h, w, c]` samples; `tags` by number, as `t338=(2,)`."""
    height, width, count = samples.shape
    planes = np.moveaxis(samples, 2, 0) if planar else samples.reshape(1, height, -1)
    each = -(-height // strips)
    blocks = [
        b"".join(bits(plane[top : top + each], depth, order))
        for plane in planes
        for top in range(0, height, each)
    ]
    found: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (depth,) * count,
        259: (1,),
        262: (photometric,),
        273: tuple(np.cumsum([4096, *map(len, blocks[:-1])]).tolist()),
        277: (count,),
        278: (each,),
        279: tuple(map(len, blocks)),
        284: (1 + planar,),
    }
    found |= {int(name[1:]): values for name, values in tags.items()}
    entries, more, start = b"", b"", 8 + 2 + 12 * len(found) + 4
    for tag, values in sorted(found.items()):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if len(packed) > 4:
            packed, more = struct.pack(order + "I", start + len(more)), more + packed
        entries += struct.pack(order + "HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(found))
    return (head + entries + bytes(4) + more).ljust(4096, b"\0") + b"".join(blocks)


def made_by_pillow() -> Iterator[File]:
    """Modes, settings and orientations that Pillow writes."""
    written = {
        "JPEG": "L RGB CMYK YCbCr",
        "PNG": "1 L LA I;16 P RGB RGBA",
        "WEBP": "L RGB RGBA",
        "TIFF": "1 L LA P PA RGB RGBA CMYK YCbCr LAB I;16 I F",
        "AVIF": "L RGB RGBA",
    }
    plain = {"GIF": "1 L P RGB RGBA", "BMP": "1 L P RGB RGBA", "PPM": "1 L RGB I"}
    settings: dict[str, list[dict[str, Any]]] = {
        "JPEG": [{"progressive": True}, {"subsampling": 0}, {"quality": 30, "optimize": True}],
        "WEBP": [{"lossless": True}, {"quality": 20}],
        "TIFF": [
            {"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd")
        ]
        + [{"big_tiff": True}],
    }
    for kind, modes in written.items():
        for mode in modes.split():
            for orientation in ORIENTATIONS:
                data = encode(in_mode(mode), kind, exif=exif(orientation, prefix=b"Exif\0\0"))
                yield File(kind, f"{mode}, turned {orientation}", data)
            for options in settings.get(kind, []):
                yield File(kind, f"{mode} {options}", encode(in_mode(mode), kind, **options))
    for kind, modes in plain.items():
        for mode in modes.split():
            yield File(kind, mode, encode(in_mode(mode), kind))
    for mode, compression in (("1", "group4"), ("L", "jpeg"), ("RGB", "jpeg")):
        data = encode(in_mode(mode), "TIFF", compression=compression)
        yield File("TIFF", f"{mode} {compression}", data)
    for interlace in (0, 1):
        data = encode(in_mode("P"), "GIF", interlace=interlace, transparency=7)
        yield File("GIF", f"transparent, interlace {interlace}", data)
    for clear in (3, bytes(range(0, 255, 3))):
        data = encode(in_mode("P"), "PNG", transparency=clear)
        yield File("PNG", f"palette with {clear!r:.9} clear", data)
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        other = Image.fromarray(255 - picture()[..., :3])
        data = encode(in_mode("RGB"), kind, save_all=True, append_images=[other])
        yield File(kind, "two frames", data)


def made_by_hand() -> Iterator[File]:
    """What Pillow does not write."""
    clear = picture()
    grey = clear[..., :3].mean(-1, keepdims=True).astype(np.uint8)
    yield from _pngs(clear, grey)
    yield from _bmps(clear, grey)
    yield from _tiffs(clear, grey)
    for order in "<>":
        for kind in "BHI":
            block = exif(6, order, kind)
            for prefix in (b"", b"Exif\0\0"):
                data = png(clear, 8, 6, chunk(b"eXIf", prefix + block))
                yield File("PNG", f"EXIF {prefix + block[:2]!r} {kind}", data)
            for container in ("JPEG", "WEBP"):
                data = encode(in_mode("RGB"), container, exif=b"Exif\0\0" + block)
                yield File(container, f"EXIF {block[:2]!r} {kind}", data)


def _pngs(clear: np.ndarray, grey: np.ndarray) -> Iterator[File]:
    """Every depth and colour type, with and without Adam7 and tRNS."""
    colours = {0: grey, 2: clear[..., :3], 3: grey, 4: np.dstack([grey, clear[..., 3]]), 6: clear}
    for depth in (1, 2, 4, 8, 16):
        for colour, samples in colours.items():
            if (depth < 8 and colour not in (0, 3)) or (depth, colour) == (16, 3):
                continue
            scaled = samples.astype(int) * 256 + 77 if depth == 16 else samples >> 8 - depth
            before, trns = [], scaled[0, 0].astype(">u2").tobytes()
            if colour == 3:
                before = [chunk(b"PLTE", (bytes(range(0, 240, 5)) * 16)[: 3 << depth])]
                trns = bytes(range(0, 256, 17))[: 1 << depth]
            for adam7 in (False, True):
                name = f"depth {depth}, colour {colour}{', Adam7' * adam7}"
                yield File("PNG", name, png(scaled, depth, colour, *before, adam7=adam7))
                if colour < 4:
                    data = png(scaled, depth, colour, *before, chunk(b"tRNS", trns), adam7=adam7)
                    yield File("PNG", f"{name}, tRNS", data)


def _bmps(clear: np.ndarray, grey: np.ndarray) -> Iterator[File]:
    """Every header and depth; alpha that is set or zero; masks."""
    blue, alpha = clear[..., 2::-1], clear[..., 3]
    words = clear[..., :3].astype("<u2") >> 3 << np.array([10, 5, 0], "<u2")
    packed = words.sum(-1).astype("<u2")[..., None].view(np.uint8)
    rgb = (0xFF0000, 0xFF00, 0xFF)
    for header in (12, 40, 52, 56, 64, 108, 124):
        made = {f"{d} bits": bmp(grey >> 8 - d, d, header) for d in (1, 2, 4, 8)}
        made["24 bits"] = bmp(blue, 24, header)
        if header > 12:
            made["upside down"] = bmp(blue, 24, header, upside=True)
            made["16 bits"] = bmp(packed, 16, header)
            made["16 bits, masks"] = bmp(packed, 16, header, (0x7C00, 0x3E0, 0x1F))
            for name, last in (("zero", 0 * alpha), ("set", alpha)):
                four = np.dstack([blue, last])
                made[f"32 bits, alpha {name}"] = bmp(four, 32, header)
                made[f"32 bits, alpha {name}, 3 masks"] = bmp(four, 32, header, rgb)
                made[f"32 bits, alpha {name}, 4 masks"] = bmp(four, 32, header, (*rgb, 255 << 24))
                masks = tuple(mask << 8 for mask in rgb)
                made[f"32 bits, alpha {name}, first"] = bmp(
                    four[..., [3, 0, 1, 2]], 32, header, masks
                )
        for name, data in made.items():
            yield File("BMP", f"{name}, header {header}", data)


def _tiffs(clear: np.ndarray, grey: np.ndarray) -> Iterator[File]:
    """Depths and colours, in pixels and in planes, of both byte orders."""
    kinds: dict[str, tuple[np.ndarray, int, dict[str, tuple[int, ...]]]] = {
        "RGB": (clear[..., :3], 2, {}),
        "RGBA": (clear, 2, {"t338": (2,)}),
        "RGBa": (clear, 2, {"t338": (1,)}),
        "RGBX": (clear, 2, {"t338": (0,)}),
        "CMYK": (clear, 5, {}),
        "LA": (np.dstack([grey, clear[..., 3]]), 1, {"t338": (2,)}),
        "YCbCr": (clear[..., :3], 6, {"t530": (1, 1)}),
        "LAB": (clear[..., :3], 8, {}),
    }
    for order, planar in itertools.product("<>", (False, True)):
        where = f"{', planes' * planar} {order}"
        for depth, photometric in itertools.product((1, 2, 4, 8, 16, 32), (0, 1)):
            level = (grey * 2.0 ** (depth - 8)).astype(np.int64)
            data = tiff(level, depth, photometric, planar, order)
            yield File("TIFF", f"grey {depth} {photometric}{where}", data)
        for depth, strips, name in itertools.product((8, 16), (1, 4), kinds):
            samples, photometric, tags = kinds[name]
            scaled = samples.astype(int) * 257 if depth == 16 else samples
            data = tiff(scaled, depth, photometric, planar, order, strips, **tags)
            yield File("TIFF", f"{name} {depth}, {strips} strips{where}", data)


def planes(image: Any, data: bytes) -> np.ndarray | None:
    """`[h, w, c]`, the high bytes of an uncompressed TIFF of 16-bit planes; None of others."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(284) != 2 or tags.get(259) != 1 or set(tags[258]) != {16} or len(tags[258]) < 3:
        return None
    blocks = [data[at : at + n] for at, n in zip(tags[273], tags[279], strict=True)]
    order = "<u2" if data[:2] == b"II" else ">u2"
    values = np.frombuffer(b"".join(blocks), order).reshape(len(tags[258]), *image.size[::-1])
    return np.moveaxis(values >> 8, 0, 2).astype(np.uint8)


def reference(data: bytes) -> np.ndarray | None:
    """uint8 `[h, w, 3]`, or None where Pillow does not read it."""
    try:
        image: Image.Image = Image.open(BytesIO(data))
        if (levels := planes(image, data)) is not None and image.mode in ("RGB", "RGBA"):
            image = Image.fromarray(levels)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        return np.asarray(image.convert("RGB"))
    except Exception:
        return None


def verdict(file: File) -> str:
    """`equal`, `refused` or `different`, at a size that loses no pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = reference(file.data)
    side = 64 if expected is None else max(expected.shape)
    try:
        found = images.decode(file.data, file.name, side)
    except images.ImageError:
        return "refused"
    if expected is None:
        return "different"
    same = np.array_equal(found, images.decode(encode(expected, "PNG"), "reference", side))
    return "equal" if same else "different"


def main() -> int:
    """Prints the table, and each file that is read otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="read these instead")
    folders = parser.parse_args().folders
    files = [
        File(Path(entry.path).suffix.lower(), entry.path, Path(entry.path).read_bytes())
        for entry in find_files(folders, os.path.realpath, LeftOut())
    ] or [*made_by_pillow(), *made_by_hand()]
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for file in files:
        found = verdict(file)
        table[file.container][found] += 1
        if found == "different":
            print(f"different: {file.container} {file.name}")
    rows = [*table.items(), ("all", sum(table.values(), Counter()))]
    print("| container | equal | refused | different |\n|---|---|---|---|")
    for name, row in rows:
        print(f"| {name} | {row['equal']} | {row['refused']} | {row['different']} |")
    return int(rows[-1][1]["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
