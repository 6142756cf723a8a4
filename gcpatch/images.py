"""Image files: read them as the networks want them, write PNGs.

`read_image` reads JPEG, PNG, BMP, GIF, WebP and TIFF, told apart by content and not by suffix.
Every refusal is an `ImageError`: one sentence that names the file and says what to do.
"""

import os
import re
import stat
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

import cv2
import numpy as np

from gcpatch.errors import UserError

RESIZE_MODES = ("stretch", "crop")
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, 0]  # OpenCV's own: 2.5x larger
MAX_PIXELS = 100_000_000
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class ImageError(UserError):
    """A file that cannot be used as an image, or a source without images; one sentence."""


# ---------------------------------------------------------------- reading and writing


def read_image(path: str | Path, size: int, resize_mode: str = "stretch") -> np.ndarray:
    """`decode` of a file's bytes; raises `ImageError` also where they cannot be read."""
    return decode(read_bytes(path), path, size, resize_mode)


def decode(data: bytes, name: str | Path, size: int, resize_mode: str = "stretch") -> np.ndarray:
    """The picture in a file's bytes as uint8 `[size, size, 3]` RGB; errors call it `name`.

    Turned upright by its EXIF orientation; grey, palette and CMYK become RGB (colour profiles are
    not applied); transparency is laid over white; 16 bits become 8 by rounding value / 257; of an
    animation or a file of pages, the first.

    `stretch` resizes both sides straight to `size`: INTER_AREA for a side that shrinks,
    INTER_LINEAR for one that grows. `crop` is torchvision's evaluation transform: the short side
    to round(size * 256 / 224) by antialiased bilinear, then the centre, within one level of PIL.

    Raises `ImageError` for a file that is damaged, cut short, not an image, above `MAX_PIXELS`
    (checked in the header, before decoding), of float pixels, or a TIFF with transparency or CMYK;
    `ValueError` for a size or resize mode that does not exist. Not noticed: damage that
    leaves the structure of a JPEG, BMP, GIF or TIFF whole, such as a cut JPEG with an end marker
    behind it (the rest is grey then).
    """
    if not 1 <= size <= 10_000:
        raise ValueError(f"size must be a whole number from 1 to 10000, not {size!r}.")
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode must be one of {RESIZE_MODES}, not {resize_mode!r}.")
    return (_stretch if resize_mode == "stretch" else _crop)(_decode(data, name), size)


def read_png(path: str | Path) -> np.ndarray:
    """A PNG as uint8 `[h, w, 3]` RGB at its own size: exactly what `write_png` was given.

    Grey comes back as three equal channels. Raises `ImageError` as `read_image` does, and for a
    file that is not a PNG.
    """
    return _decode(read_bytes(path), path, only="PNG")


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 `[h, w, 3]` RGB or `[h, w]` grey as PNG; `path` only ever holds a whole file.

    Raises `ValueError` for another dtype or shape, `ImageError` where it cannot be written.
    """
    image = np.asarray(image)
    grey_or_rgb = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not grey_or_rgb or not image.size:
        found = f"{image.dtype} of shape {list(image.shape)}"
        raise ValueError(f"image must be uint8 of shape [h, w, 3] or [h, w], not {found}.")
    pixels = np.ascontiguousarray(image[..., ::-1] if image.ndim == 3 else image)
    part = Path(path).parent / f".{uuid.uuid4().hex}.part"  # the same folder, so replace is atomic
    try:
        part.write_bytes(cv2.imencode(".png", pixels, PNG)[1].tobytes())
        os.replace(part, path)
    except (OSError, ValueError, cv2.error) as error:
        message = _cannot(path, "be written", error, "check that the folder exists and has room")
        raise ImageError(message) from None
    finally:
        with suppress(OSError, ValueError):
            part.unlink()


def read_bytes(path: str | Path, start: int = 0, length: int = -1) -> bytes:
    """The bytes of a file, or at most `length` of them from `start` on.

    Raises `ImageError` for a file that cannot be read, or for more bytes than an image may have.
    """
    with opened(path) as file:
        size = length if length >= 0 else os.fstat(file.fileno()).st_size
        if size > 16 * MAX_PIXELS:
            limit = f"takes more bytes than {MAX_PIXELS} pixels need"
            raise ImageError(f"{str(path)!r} {limit}; make it smaller.")
        file.seek(start)
        return file.read(length)


@contextmanager
def opened(path: str | Path) -> Iterator[BufferedReader]:
    """A file, open for reading; raises `ImageError` where it, or what is done with it, fails."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ImageError(f"{str(path)!r} is a folder or a device; name an image file.")
        with open(path, "rb") as file:
            yield file
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        message = _cannot(path, "be read", error, "check its name and permissions")
        raise ImageError(message) from None


def _cannot(path: str | Path, what: str, error: Exception, remedy: str) -> str:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return f"{str(path)!r} cannot {what} ({reason}); {remedy}."


# ---------------------------------------------------------------- decoding


def _decode(data: bytes, name: str | Path, only: str = "") -> np.ndarray:
    """uint8 `[h, w, 3]` RGB, upright; `only` names the one format to take."""
    try:
        _check(data, only)
        return _pixels(data)
    except ImageError as error:
        raise ImageError(f"{str(name)!r} {error}") from None


def _check(data: bytes, only: str) -> None:
    """Raises `ImageError` unless `data` is a whole file of a known format and a bearable size."""
    if not data:
        raise ImageError("is empty (0 bytes); fetch it again or leave it out.")
    kind = next((name for name in _MAGIC if re.match(_MAGIC[name], data, re.DOTALL)), None)
    if kind not in _SIZES or only not in ("", kind):
        what = f"is of the kind {kind}" if kind else "is not an image"
        known = only or ", ".join(_SIZES)
        raise ImageError(f"{what}, and only {known} can be read; convert it or leave it out.")
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, IndexError):
        raise ImageError(f"is a {kind} file cut short; fetch it again or leave it out.") from None
    if width * height > MAX_PIXELS:
        limit = f"more than the {MAX_PIXELS} that are read"
        raise ImageError(f"has {width} x {height} pixels, {limit}; make it smaller.")


def _pixels(data: bytes) -> np.ndarray:
    encoded, image = np.frombuffer(data, np.uint8), None
    with _quiet_opencv(), suppress(cv2.error, MemoryError):
        image, kinds, blocks = cv2.imdecodeWithMetadata(encoded, flags=cv2.IMREAD_UNCHANGED)
    if image is None or not image.size:
        raise ImageError("is damaged or of a rare variant; save it anew as PNG or leave it out.")
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageError(f"has {image.dtype} pixels, whose white is unknown; save it as 8-bit PNG.")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.shape[2] == 4:
        colour, alpha = image[..., :3].astype(np.uint16), image[..., 3:].astype(np.uint16)
        image = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    metadata = dict(zip(kinds, blocks, strict=True))
    exif = metadata.get(cv2.IMAGE_METADATA_EXIF, np.empty(0, np.uint8)).tobytes()
    return np.ascontiguousarray(_upright(image[..., ::-1], exif))


def _upright(image: np.ndarray, exif: bytes) -> np.ndarray:
    orientation = 1
    with suppress(struct.error):  # none, or damaged
        orientation = _tiff_tags(exif).get(274, 1)
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image[::-1] if orientation in (3, 4, 7, 8) else image


_lock = threading.Lock()
_levels: list[int] = []


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """OpenCV's log off; the last thread to leave puts back the level that the first one found."""
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 4 has these functions at the top
    with _lock:
        _levels.append(logging.getLogLevel())
        logging.setLogLevel(0)
    try:
        yield
    finally:
        with _lock:
            level = _levels.pop()
            if not _levels:
                logging.setLogLevel(level)


# ---------------------------------------------------------------- resizing


def _stretch(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    shrunk = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)


def _crop(image: np.ndarray, size: int) -> np.ndarray:
    short = min(image.shape[:2])
    target = round(size * 256 / 224)
    for _ in range(2):  # rows, then columns
        resized = int(target * image.shape[0] / short)
        image = _bilinear_rows(image, resized, round((resized - size) / 2), size).swapaxes(0, 1)
    return np.ascontiguousarray(np.rint(image).astype(np.uint8))


def _bilinear_rows(image: np.ndarray, resized: int, start: int, count: int) -> np.ndarray:
    """Rows `start : start + count` of `image` resized to `resized` rows, float32.

    PIL's antialiased bilinear: a tent as wide as two source pixels or two target pixels.
    """
    image, rows = np.ascontiguousarray(image), np.empty((count, *image.shape[1:]), np.float32)
    scale = len(image) / resized
    reach = max(scale, 1.0)
    for row in range(count):
        centre = (start + row + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), len(image))
        tent = 1 - np.abs(np.arange(first, last) + 0.5 - centre) / reach
        rows[row] = np.tensordot(np.float32(tent / tent.sum()), image[first:last], axes=1)
    return rows


# ---------------------------------------------------------------- headers: width and height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks the segments to the end marker, so a thumbnail's markers do not count."""
    at, size = 2, None
    while found := _JPEG_MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == 0xD9 and size:
            return size
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not size:
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = width, height
        at += struct.unpack_from(">H", data, at)[0]
    raise IndexError


# Any marker but stuffed zeros, TEM, restarts and start of image, which carry no length.
_JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")


def _png_size(data: bytes) -> tuple[int, int]:
    """Walks the chunks to IEND and compares every checksum."""
    at, kind, view = 8, b"", memoryview(data)
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if checksum != zlib.crc32(view[at + 4 : at + 8 + length]):
            raise ImageError("is damaged (a PNG checksum is wrong); fetch it again.")
        if kind == b"tRNS" and data[25] == 0:
            raise ImageError("marks one grey level as transparent; save it with an alpha channel.")
        at += 12 + length
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _bmp_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18)
    return abs(width), abs(height)


def _webp_size(data: bytes) -> tuple[int, int]:
    if data[12:16] == b"VP8X":
        (bits,) = struct.unpack_from("<Q", data, 24)  # two sides less one, 24 bits each
        return 1 + (bits & 0xFFFFFF), 1 + (bits >> 24 & 0xFFFFFF)
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)  # the same, 14 bits each
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    tags = _tiff_tags(data)
    bits, photometric, samples = (tags.get(tag, 1) for tag in (258, 262, 277))
    if samples not in (1, 3):
        raise ImageError(f"is a TIFF of {samples} channels, and only 1 or 3 are read; save as PNG.")
    if bits not in (1, 2, 4, 8, 32, 64) and (bits, photometric) not in ((16, 1), (16, 2)):
        raise ImageError(f"is a TIFF of a rare kind ({bits} bits); save it as PNG.")
    return tags.get(256, 0), tags.get(257, 0)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The first value of the tags that matter here, in a TIFF's or EXIF block's first directory."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    tags = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number, offset = struct.unpack_from(order + "HHII", data, entry)
        if tag in (256, 257, 258, 262, 274, 277) and kind in (3, 4):
            inline = number * (2 if kind == 3 else 4) <= 4
            where = entry + 8 if inline else offset
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, where)
    return tags


_SIZES = {
    "JPEG": _jpeg_size,
    "PNG": _png_size,
    "BMP": _bmp_size,
    "GIF": lambda data: struct.unpack_from("<HH", data, 6),
    "WebP": _webp_size,
    "TIFF": _tiff_size,
}
_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF.{4}WEBP",
    "TIFF": rb"II\*\0|MM\0\*",
    "BigTIFF": rb"II\+\0|MM\0\+",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?R",
    "PFM": rb"P[Ff]\s",
    "HEIC or AVIF": rb".{4}ftyp(hei|hev|mif|msf|avi)",
    "JPEG 2000": rb"\0\0\0\x0cjP  ",
    "SVG or XML": rb"\s*<(svg|\?xml)",
    "PDF": rb"%PDF",
}
