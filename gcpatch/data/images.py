"""Image files: read them as the networks want them, write PNGs.

`read_image` reads what Pillow reads of `KINDS`, told apart by content and not by suffix.
Every refusal is an `ImageError`: one sentence that names the file and says what to do.
"""

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader, BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    TiffImageFile,
)

from gcpatch.errors import UserError
from gcpatch.files import atomic_write

# Pillow's memory comes in blocks; those over glibc's 32 MB are given back when they are free, and
# smaller ones stay with the thread that had them.
Image.core.set_block_size(2**26)

RESIZE_MODES = ("stretch", "crop")
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, 0]  # OpenCV's own: 2.5x larger
MAX_PIXELS = 100_000_000
_WANTED = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JXL", "PPM")
_FOUND = Image.registered_extensions()  # what the Pillow that is installed reads
SUFFIXES = tuple(sorted(suffix for suffix, kind in _FOUND.items() if kind in _WANTED))
# No other kind is opened, because Pillow runs programs for some, such as EPS.
KINDS = tuple(kind for kind in _WANTED if kind in _FOUND.values() and kind != "MPO")


class ImageError(UserError):
    """A file that cannot be used as an image, or a source without images; one sentence."""


# ---------------------------------------------------------------- reading and writing


def read_image(
    path: str | Path,
    size: int,
    resize_mode: str = "stretch",
    resize: int | None = None,
    interpolation: str = "bilinear",
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The pixels that the command line sees of a file: `decode` of its bytes.

    Raises `ImageError` also where it cannot be read.
    """
    return decode(read_bytes(path), path, size, resize_mode, resize, interpolation)


def decode(
    data: bytes,
    name: str | Path,
    size: int,
    resize_mode: str = "stretch",
    resize: int | None = None,
    interpolation: str = "bilinear",
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The picture in a file's bytes as 8-bit RGB; errors call it `name`.

    It is what Pillow reads: turned upright by its EXIF orientation (`ImageOps.exif_transpose`),
    laid over white, converted to RGB (colour profiles are not applied), and of an animation or a
    file of pages the first. Grey of 16 bits becomes 8 by rounding value / 257.

    Args:
        data: a file of one of `KINDS`.
        name: the file's.
        size: the sides of the result in pixels, 1 to 10000.
        resize_mode: `stretch` resizes both sides straight to `size`: INTER_AREA for a side that
            shrinks, INTER_LINEAR for one that grows. `crop` is torchvision's evaluation
            transform, pixel for pixel: the shorter side to `resize` by Pillow's (antialiased)
            interpolation, then the centre.
        resize: for `crop`, at least `size`; None for round(size * 256 / 224).
        interpolation: for `crop`, bilinear or bicubic.

    Raises:
        ImageError: the file is damaged, cut short, not an image, above `MAX_PIXELS` (checked in
            the header, before decoding), or of a kind whose colours would be a guess. Not
            noticed: damage that leaves the structure of a file whole (of PNG, all is noticed).
        ValueError: there is no such size or resize mode.
    """
    if not 1 <= size <= 10_000:
        raise ValueError(f"size must be a whole number from 1 to 10000, not {size!r}.")
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode must be one of {RESIZE_MODES}, not {resize_mode!r}.")
    shorter = round(size * 256 / 224) if resize is None else resize
    if not size <= shorter <= 20_000:
        raise ValueError(f"resize must be from the size {size} to 20000, not {resize!r}.")
    with _refusals(name), _in_turn(data) as found:
        image = _rgb(found)
        if resize_mode == "stretch":
            return _stretch(image, size)
        return _crop(image, size, shorter, Image.Resampling[interpolation.upper()])


def several_frames(data: bytes) -> bool:
    """Whether a file that `decode` has read holds more than the one frame or page that it took."""
    with _strictly(), suppress(Exception):  # a damaged second frame is none
        return bool(getattr(_opened(data), "is_animated", False))
    return False


def read_mask(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """A picture's grey level times its opacity, at its own size; errors as of `read_image`."""
    data = read_bytes(path)
    with _refusals(path), _in_turn(data) as found:
        return cv2.cvtColor(np.asarray(_rgb(found, ground="black")), cv2.COLOR_RGB2GRAY)


def read_png(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """A PNG as 8-bit RGB at its own size: exactly what `write_png` was given.

    Grey comes back as three equal channels. Raises `ImageError` as `read_image` does, and for a
    file that is not a PNG.
    """
    data = read_bytes(path)
    with _refusals(path), _in_turn(data, kinds=("PNG",)) as found:
        return np.array(_rgb(found))


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
    try:
        with atomic_write(Path(path)) as draft:
            draft.write_bytes(cv2.imencode(".png", pixels, PNG)[1].tobytes())
    except (OSError, ValueError, cv2.error) as error:
        message = _cannot(path, "be written", error, "check that the folder exists and has room")
        raise ImageError(message) from None


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


@contextmanager
def _refusals(name: str | Path) -> Iterator[None]:
    """Puts the file's name before an `ImageError`, and makes one of all that a decoder raises."""
    try:
        with _strictly():
            yield
    except ImageError as error:
        raise ImageError(f"{str(name)!r} {error}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{str(name)!r} {_TOO_LARGE}") from None
    except Exception:  # a damaged file makes Pillow raise whatever comes
        what = "is damaged, cut short or of a rare variant"
        raise ImageError(f"{str(name)!r} {what}; fetch it again or save it as PNG.") from None


_TOO_LARGE = f"has more than the {MAX_PIXELS} pixels that are read; make it smaller."
_lock, _threads, _before = threading.Lock(), 0, ExitStack()


@contextmanager
def _strictly() -> Iterator[None]:
    """Pillow without warnings, and refusing cut files, whatever the program has set.

    Both are settings of the process: the last thread to leave puts back what the first one found.
    """
    global _threads
    with _lock:
        _threads += 1
        if _threads == 1:
            _before.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            lenient = ImageFile.LOAD_TRUNCATED_IMAGES
            _before.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _lock:
            _threads -= 1
            if not _threads:
                _before.close()


_turn, _pixels = threading.Condition(), 0


@contextmanager
def _in_turn(data: bytes, kinds: tuple[str, ...] = KINDS) -> Iterator[ImageFile.ImageFile]:
    """An opened picture, once those of other threads and it have at most `MAX_PIXELS` together.

    So however many threads read, they take about a gigabyte at most.
    """
    global _pixels
    image = _opened(data, kinds)
    own = image.width * image.height
    with _turn:
        _turn.wait_for(lambda: _pixels + own <= MAX_PIXELS)
        _pixels += own
    try:
        if image.format == "PNG":
            image.verify()  # all checksums; Pillow compares few of them when it decodes
            image = _opened(data, kinds)
        yield image
    finally:
        with _turn:
            _pixels -= own
            _turn.notify_all()


def _rgb(image: ImageFile.ImageFile, ground: str = "white") -> Image.Image:
    """The first frame as RGB: upright, of 8 bits, laid over `ground` where it is clear."""
    _check_colours(image)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        levels = (np.asarray(image, np.uint32) + 128) // 257
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    clear = image if image.mode == "RGBA" else image.convert("RGBA")
    laid = Image.new("RGB", clear.size, ground)
    laid.paste(clear, mask=clear)
    image.close()  # lets go of its memory
    return laid


def _opened(data: bytes, kinds: tuple[str, ...] = KINDS) -> ImageFile.ImageFile:
    """A picture of which only the header is read, of a bearable size."""
    if not data:
        raise ImageError("is empty (0 bytes); fetch it again or leave it out.")
    try:
        image = Image.open(stream := BytesIO(data), formats=kinds)
    except UnidentifiedImageError:
        known = ", ".join(kinds)
        raise ImageError(f"is not an image that can be read ({known}); save it as PNG.") from None
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ImageError(_TOO_LARGE)
    if image.format == "JPEG":
        end = data.find(b"\xff\xd9", stream.tell())
        if end < 0:  # where anything follows the cut, Pillow takes the rest for grey
            raise ImageError("is a JPEG file cut short; fetch it again or leave it out.")
        if data.count(b"\xff\xda", 0, end) * pixels > 50 * MAX_PIXELS:  # each visits all pixels
            raise ImageError("is a JPEG file of too many scans; save it anew or leave it out.")
    return image


def _check_colours(image: ImageFile.ImageFile) -> None:
    """Refuses or mends, before it is decoded, what Pillow would get wrong without a word."""
    if image.mode in ("F", "I"):
        kind = "float" if image.mode == "F" else "integer"
        raise ImageError(f"has {kind} pixels, whose white is unknown; save it as 8-bit PNG.")
    if isinstance(image, TiffImageFile):
        _check_tiff(image)
    if image.format == "PNG" and "transparency" in image.info and image.tile[0].args in _INEXACT:
        raise ImageError("marks a colour of other than 8 bits as clear; save it with alpha.")


_INEXACT = ("L;2", "L;4", "I;16B", "RGB;16B")  # a PNG's pixels are scaled, its clear colour is not


def _check_tiff(image: TiffImageFile) -> None:
    bits = set(image.tag_v2.get(BITSPERSAMPLE, (1,)))
    plain = bits == {16 if image.mode.startswith("I;16") else 8}
    plain &= image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) != 0  # white is 0
    planar = image.tag_v2.get(PLANAR_CONFIGURATION) == 2 and image.tile[0].codec_name == "raw"
    if planar and bits == {16} and image.mode in ("RGB", "RGBA"):  # Pillow takes them for 8 bits
        order = "B" if image.tag_v2.prefix == b"MM" else "L"
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))  # type: ignore[index]
            for tile in image.tile
        ]
    elif not plain and (planar or image.mode.startswith("I;16")):
        raise ImageError(f"is a TIFF of a rare kind ({max(bits)} bits); save it as PNG.")


# ---------------------------------------------------------------- resizing


def _stretch(image: Image.Image, size: int) -> np.ndarray:
    pixels = np.asarray(image)
    sides = min(image.width, size), min(image.height, size)
    shrunk = cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)


def _crop(
    image: Image.Image, size: int, shorter: int, interpolation: Image.Resampling
) -> np.ndarray:
    short = min(image.size)
    width, height = (int(shorter * side / short) for side in image.size)
    if width * height > MAX_PIXELS:
        raise ImageError(f"is too long and thin to resize its shorter side to {shorter}; crop it.")
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), interpolation)
    return np.array(resized.crop((left, top, left + size, top + size)))
