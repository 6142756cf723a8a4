"""Makers of hostile files: pictures that claim much, archives that nobody would pack."""

import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.formats import chunk, encode, picture, png, tiff


def small() -> np.ndarray:
    """uint8 `[48, 64, 3]`: noise, a picture that is good."""
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def claiming(kind: str, side: int) -> bytes:
    """A small file whose header claims side x side pixels."""
    sides = struct.pack("<HH", side, side)
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + body
    if kind == "PPM":
        return f"P6 {side} {side} 255\n".encode()
    if kind == "TIFF":
        return tiff(picture()[..., :3], 8, 2, t256=(side,), t257=(side,))
    data = bytearray(encode(picture()[..., :3].copy(), kind))
    if kind in ("JPEG", "AVIF"):
        marker, skipped, form = {"JPEG": (b"\xff\xc0", 5, ">HH"), "AVIF": (b"ispe", 8, ">II")}[kind]
        struct.pack_into(form, data, data.index(marker) + skipped, side, side)
    if kind == "BMP":
        data[18:26] = struct.pack("<ii", side, -side)
    if kind == "GIF":
        data[6:10] = sides
    if kind == "WEBP":
        data[26:30] = sides
    return bytes(data)


def packed(kind: str, bytes_unpacked: int = 30_000_000) -> bytes:
    """A PNG with a text or profile that unpacks to so many bytes."""
    start = {"iTXt": b"k\0\1\0\0\0", "zTXt": b"k\0\0", "iCCP": b"k\0\0"}[kind]
    body = chunk(kind.encode(), start + zlib.compress(bytes(bytes_unpacked), 1))
    return png(picture(), 8, 6, body)


def large_png(side: int, colour: int) -> bytes:
    """A PNG of side x side black or clear pixels, as many as are read, in few bytes."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    pack = zlib.compressobj(1)
    row = bytes(1 + side * channels)
    body = b"".join(pack.compress(row) for _ in range(side)) + pack.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def many_scans() -> bytes:
    """A progressive JPEG of 81 million pixels with a hundred scans more."""
    data = encode(picture()[..., :3].copy(), "JPEG", progressive=True)
    at = data.index(b"\xff\xc2") + 5
    data = data[:at] + struct.pack(">HH", 9000, 9000) + data[at + 4 :]
    end = len(data) - 2
    return data[:end] + data[data.rindex(b"\xff\xda") : end] * 100 + data[end:]


def endless_tiff() -> bytes:
    """A TIFF whose first page says that it is also the next one."""
    data = bytearray(tiff(picture()[..., :3], 8, 2))
    entries = struct.unpack_from("<H", data, 8)[0]
    struct.pack_into("<I", data, 10 + 12 * entries, 8)
    return bytes(data)


def block(name: str, kind: bytes, size: int, content: bytes = b"") -> bytes:
    """A member of a tar, of a type and with a size that need not be true."""
    info = tarfile.TarInfo(name)
    info.type = kind
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"%011o\0" % size if size >= 0 else b"\xff" * 10 + b"\xfe\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    """A member that is a link, device or pipe."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pack(path: Path, members: Mapping[str, bytes | tarfile.TarInfo]) -> None:
    """A tar of {name: bytes, or a whole TarInfo}."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
