"""gcpatch.images against files made here, with PIL as an independent reader and writer."""

import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from gcpatch import images
from gcpatch.images import (
    ImageError,
    decode,
    read_bytes,
    read_image,
    read_png,
    write_png,
)

HEIGHT, WIDTH = 48, 48


def picture(height=HEIGHT, width=WIDTH):
    """Smooth (survives JPEG), every channel different, no symmetry."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = 230 * x * (1 - 0.5 * y), 200 * y**2, 40 + 180 * np.exp(-8 * ((x - 0.2) ** 2 + y**2))
    return np.stack(channels, -1).astype(np.uint8)


def noise(height=HEIGHT, width=WIDTH):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[0x112] = orientation
    return block


def chunk(kind, body):
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def png(width, height, depth, colour, rows, *before):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(before) + body


@pytest.fixture
def put(tmp_path):
    def put(data, name="picture.bin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return put


def pil(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def refused(path, *words, size=HEIGHT, read=None):
    """The message: one line, one sentence, the file's name and a remedy in it."""
    with pytest.raises(ImageError) as caught:
        read(path) if read else read_image(path, size)
    message = str(caught.value)
    assert message.startswith(repr(str(path))) and message.endswith(".")
    assert "\n" not in message and "; " in message and "OpenCV" not in message
    assert ". " not in message.removeprefix(repr(str(path)))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for word in words:
        assert word in message
    return message


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("kind", "tolerance", "options"),
    [
        ("PNG", 0, {}),
        ("BMP", 0, {}),
        ("WEBP", 0, {"lossless": True}),
        ("WEBP", 5, {"quality": 90}),
        ("JPEG", 3, {"quality": 95}),
        ("JPEG", 3, {"quality": 95, "progressive": True}),
        ("TIFF", 0, {}),
        ("TIFF", 0, {"compression": "tiff_lzw"}),
        ("TIFF", 0, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", 0, {"compression": "packbits"}),
    ],
)
def test_formats_are_told_by_content_and_match_pil(put, kind, tolerance, options):
    data = encode(picture(), kind, **options)
    image = read_image(put(data, "misnamed.txt"), HEIGHT)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_allclose(image.astype(int), pil(data), atol=tolerance)
    assert abs(image.astype(int) - picture()).mean() < 6  # not BGR


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_gif(put, mode, interlace):
    data = encode(Image.fromarray(picture()).convert(mode), "GIF", interlace=interlace)
    np.testing.assert_array_equal(read_image(put(data), HEIGHT), pil(data))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
def test_grey_becomes_three_equal_channels(put, kind):
    grey = picture()[..., 0]
    image = read_image(put(encode(grey, kind)), HEIGHT)
    assert (image == image[..., :1]).all()
    np.testing.assert_allclose(image[..., 0].astype(int), grey, atol=4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["P", "1"])
def test_palette_and_one_bit(put, kind, mode):
    data = encode(Image.fromarray(picture()).convert(mode), kind)
    np.testing.assert_array_equal(read_image(put(data), HEIGHT), pil(data))


def test_grey_of_two_and_four_bits_is_scaled(put):
    assert read_png(put(png(4, 1, 2, 0, b"\0\x1b")))[0, :, 0].tolist() == [0, 85, 170, 255]
    assert read_png(put(png(2, 1, 4, 0, b"\0\x1f")))[0, :, 0].tolist() == [17, 255]


def test_cmyk_jpeg_matches_pil(put):
    data = encode(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    np.testing.assert_allclose(read_image(put(data), HEIGHT).astype(int), pil(data), atol=2)


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_divided_by_257_and_rounded(put, extension, channels):
    values = np.array([0, 128, 129, 256, 257, 385, 386, 32768, 65406, 65407, 65535], np.uint16)
    side = len(values)
    deep = np.repeat(np.tile(values, (side, 1))[..., None], channels, 2)
    deep = deep if channels == 3 else deep[..., 0]
    image = read_image(put(cv2.imencode(extension, deep)[1].tobytes()), side)
    assert image[0, :, 1].tolist() == [round(int(value) / 257) for value in values]
    assert image[0, :, 1].tolist() == [0, 0, 1, 1, 1, 1, 2, 128, 254, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_over_white(put, kind):
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    data = encode(np.dstack([picture(), alpha]), kind, **({"lossless": True, "exact": True}))
    white = Image.new("RGBA", (WIDTH, HEIGHT), "white")
    expected = Image.alpha_composite(white, Image.open(io.BytesIO(data)).convert("RGBA"))
    image = read_image(put(data), HEIGHT)
    np.testing.assert_allclose(image.astype(int), np.asarray(expected)[..., :3], atol=1)
    assert (image[:, 0] == 255).all() and (image[:, -1] == picture()[:, -1]).all()


def test_transparency_of_grey_palette_gif_and_sixteen_bits(put):
    grey = np.dstack([np.full((2, 2), 100, np.uint8), np.full((2, 2), 51, np.uint8)])
    assert (read_image(put(encode(Image.fromarray(grey, "LA"), "PNG")), 2) == 224).all()
    paletted = Image.new("P", (2, 2), 1)
    paletted.putpalette([0, 0, 0, 200, 10, 10])
    paletted.putpixel((0, 0), 0)
    for kind in ("PNG", "GIF"):
        image = read_image(put(encode(paletted, kind, transparency=0)), 2)
        assert image[0, 0].tolist() == [255, 255, 255] and image[1, 1].tolist() == [200, 10, 10]
    deep = np.zeros((2, 2, 4), np.uint16)
    deep[..., 3] = 32768
    assert (read_image(put(cv2.imencode(".png", deep)[1].tobytes()), 2) == 127).all()
    refused(put(png(2, 1, 8, 0, b"\0\5\7", chunk(b"tRNS", b"\0\5"))), "transparent")


def test_tiff_with_more_channels_is_refused_and_not_guessed(put):
    for mode in ("RGBA", "LA", "CMYK"):
        data = encode(Image.fromarray(picture()).convert(mode), "TIFF")
        refused(put(data), "TIFF", f"{len(mode)} channels", "PNG")


def test_tiff_of_inverted_grey(put):
    data = encode(picture()[..., 0], "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(put(data), HEIGHT), pil(data))
    deep = encode(picture()[..., 0].astype(np.uint16) * 257, "TIFF", tiffinfo={262: 0})
    refused(put(deep), "16 bits")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation_or_page(put, kind):
    second = Image.fromarray(255 - picture())
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(picture(), kind, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    image = read_image(put(data), HEIGHT).astype(int)
    np.testing.assert_array_equal(image, pil(data))
    assert abs(image - picture()).mean() < 8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (cv2.imencode(".hdr", np.ones((4, 4, 3), np.float32))[1].tobytes(), ["Radiance HDR"]),
        (cv2.imencode(".pfm", np.ones((4, 4, 3), np.float32))[1].tobytes(), ["PFM"]),
        (b"v/1\x01\2\0\0\0channels", ["OpenEXR"]),
        (encode(np.ones((4, 4), np.float32), "TIFF"), ["float32", "PNG"]),
        (encode(np.ones((4, 4), np.int32), "TIFF"), ["int32"]),
        (encode(picture(), "AVIF"), ["AVIF"]),
        (encode(picture(), "TIFF", big_tiff=True), ["BigTIFF"]),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ["SVG"]),
        (b"just a note to self", ["not an image", "JPEG", "WebP"]),
        (b"BMW is a car maker, not a bitmap", ["not an image"]),
        (b"\0", ["not an image"]),
        (b"", ["empty"]),
    ],
)
def test_other_kinds_are_refused_by_name(put, data, words, capfd):
    refused(put(data, "photo.jpg"), *words)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(put, kind, orientation):
    data = encode(picture(), kind, exif=exif(orientation))
    image = read_image(put(data), HEIGHT).astype(int)
    expected = pil(data).astype(int)
    np.testing.assert_allclose(image, expected, atol=5)
    if orientation > 1:  # the comparison must be able to fail
        assert abs(expected - picture()).mean() > 20


def test_exif_orientation_of_other_pixels(put):
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:9] = 0
    clear = read_image(put(encode(np.dstack([picture(), alpha]), "PNG", exif=exif(6))), HEIGHT)
    assert (clear[:, -9:] == 255).all() and not (clear[:9, :-9] == 255).all()
    deep = picture()[..., 0].astype(np.uint16) * 257
    turned = read_image(put(encode(deep, "TIFF", exif=exif(6))), HEIGHT)
    np.testing.assert_array_equal(turned[..., 0], np.rot90(picture()[..., 0], -1))


def test_damaged_exif_or_absurd_orientation_is_ignored(put):
    for block in (exif(99).tobytes(), b"Exif\0\0MM", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        data = encode(picture(), "JPEG", exif=block)
        assert abs(read_image(put(data), HEIGHT).astype(int) - picture()).mean() < 3


# ---------------------------------------------------------------- size


def test_own_size_is_left_alone(put):
    for mode, size in (("stretch", 40), ("crop", 224)):
        side = 256 if mode == "crop" else size
        image = noise(side, side)
        edge = (side - size) // 2
        inner = image[edge : edge + size, edge : edge + size]
        np.testing.assert_array_equal(read_image(put(encode(image, "PNG")), size, mode), inner)


def test_stretch_averages_when_shrinking_and_interpolates_when_growing(put):
    image = noise(64, 96)
    shrunk = read_image(put(encode(image, "PNG")), 32)
    blocks = image.reshape(32, 2, 32, 3, 3).mean((1, 3))
    np.testing.assert_allclose(shrunk.astype(float), blocks, atol=1)
    grown = read_image(put(encode(noise(8, 8), "PNG")), 16).astype(float)
    expected = np.asarray(Image.fromarray(noise(8, 8)).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(grown, expected, atol=1)


def test_stretch_of_a_strip_averages_along_and_interpolates_across(put):
    strip = noise(4, 640)
    image = read_image(put(encode(strip, "PNG")), 64).astype(float)
    averaged = strip.reshape(4, 64, 10, 3).mean(2)
    expected = cv2.resize(averaged, (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(image, expected, atol=1.5)


@pytest.mark.parametrize("make", [picture, noise])
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (300, 300), (90, 61), (7, 300)])
@pytest.mark.parametrize("size", [224, 64, 33])
def test_crop_is_torchvisions_resize_and_centre_crop(put, make, shape, size):
    image = make(*shape)
    height, width = shape
    short = round(size * 256 / 224)
    tall, wide = (
        (int(short * height / width), short)
        if width <= height
        else (short, int(short * width / height))
    )
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    resized = Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[top : top + size, left : left + size].astype(int)
    difference = abs(read_image(put(encode(image, "PNG")), size, "crop").astype(int) - expected)
    assert difference.max() <= 1 and difference.mean() < 0.3


@pytest.mark.parametrize("mode", images.RESIZE_MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1), (2, 3)])
def test_tiny_and_extreme_shapes(put, mode, shape):
    image = np.full((*shape, 3), (10, 120, 240), np.uint8)
    for size in (1, 224):
        out = read_image(put(encode(image, "PNG")), size, mode)
        assert out.shape == (size, size, 3) and (out == image[0, 0]).all()


@pytest.mark.parametrize("size", [0, -3, 10_001])
def test_bad_sizes(put, size):
    with pytest.raises(ValueError, match="size") as caught:
        read_image(put(encode(picture(), "PNG")), size)
    assert repr(size) in str(caught.value) and not isinstance(caught.value, ImageError)


@pytest.mark.parametrize("mode", ["squash", "", "Crop"])
def test_bad_resize_modes(put, mode):
    with pytest.raises(ValueError, match="'stretch', 'crop'") as caught:
        read_image(put(encode(picture(), "PNG")), 8, mode)
    assert repr(mode) in str(caught.value) and not isinstance(caught.value, ImageError)


# ---------------------------------------------------------------- damage

KINDS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_files_cut_short_are_refused_quietly(put, kind, share, capfd):
    data = encode(noise(), kind)
    refused(put(data[: int(len(data) * share)], "photo.jpg"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_cut_of_jpeg_and_png_is_refused_without_noise(put, kind, capfd):
    data = encode(noise(16, 16), kind)
    for length in range(12, len(data), max(1, len(data) // 150)):
        refused(put(data[:length]), f"{kind} file cut short")
    refused(put(data[:-1]), "cut short")
    assert capfd.readouterr().err == ""


def test_a_cut_jpeg_is_not_saved_by_zeros_or_by_its_thumbnail(put):
    data = encode(picture(200, 200), "JPEG", exif=b"Exif\0\0" + encode(picture(8, 8), "JPEG"))
    assert data.count(b"\xff\xd9") == 2
    assert read_image(put(data), 50).shape == (50, 50, 3)
    refused(put(data[: len(data) // 2]), "cut short")
    refused(put(data[: len(data) // 2] + bytes(len(data))), "cut short")
    progressive = encode(picture(200, 200), "JPEG", progressive=True)
    refused(put(progressive[: len(progressive) * 3 // 4]), "cut short")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [b"\0" * 500, b"garbage \xff\xd8\xff\xe0 IEND" * 20, b"\xff"])
def test_a_tail_does_no_harm(put, kind, tail):
    data = encode(picture(), kind)
    whole = read_image(put(data), HEIGHT)
    np.testing.assert_array_equal(read_image(put(data + tail), HEIGHT), whole)


def test_png_checksums(put, capfd):
    data = encode(noise(), "PNG")
    for at in (20, len(data) // 2, len(data) - 14):
        broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        refused(put(broken), "damaged", "PNG")
    assert capfd.readouterr().err == ""


def test_damage_behind_right_checksums(put):
    refused(put(png(64, 64, 8, 2, b"too few rows")), "damaged")
    refused(put(png(0, 5, 8, 2, b"")), "damaged")
    nothing = b"\xff\xd8\xff\xe0\0\x04ab\xff\xd9"
    refused(put(nothing), "JPEG file cut short")


def test_random_damage_never_escapes_as_another_error(put, capfd):
    generator = np.random.default_rng(1)
    for kind in KINDS:
        data = np.frombuffer(encode(picture(24, 20), kind), np.uint8)
        for _ in range(60):
            broken = data.copy()
            at = generator.integers(0, min(len(data), 200), 4)
            broken[at] = generator.integers(0, 256, 4)
            path = put(broken.tobytes())
            try:
                assert read_image(path, 8).shape == (8, 8, 3)
            except ImageError as error:
                assert str(error).startswith(repr(str(path)))
    assert "grfmt" not in capfd.readouterr().err  # OpenCV's own log


def test_the_log_level_is_put_back_even_by_threads(put):
    logging = getattr(cv2.utils, "logging", cv2)
    before = logging.getLogLevel()
    path = put(encode(noise(), "TIFF")[:-40])
    try:
        logging.setLogLevel(2)
        threads = [
            threading.Thread(target=lambda: [refused(path) for _ in range(20)]) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert logging.getLogLevel() == 2
    finally:
        logging.setLogLevel(before)


# ---------------------------------------------------------------- bombs


def bomb(kind, side):
    """A small file whose header claims side x side pixels."""
    data = bytearray(encode(picture(), kind))
    if kind == "PNG":
        return png(side, side, 8, 2, b"")
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    if kind == "BMP":
        data[18:26] = struct.pack("<ii", side, -side)
    if kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    if kind == "WEBP":
        data[26:30] = struct.pack("<HH", side, side)
    if kind == "TIFF":
        return (
            encode(Image.fromarray(picture()), "TIFF", tiffinfo={})
            .replace(struct.pack("<HHII", 256, 4, 1, WIDTH), struct.pack("<HHII", 256, 4, 1, side))
            .replace(struct.pack("<HHII", 257, 4, 1, HEIGHT), struct.pack("<HHII", 257, 4, 1, side))
        )
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_bombs_are_refused_before_decoding(put, kind, monkeypatch):
    monkeypatch.setattr(images, "_pixels", lambda data: pytest.fail("decoded"))
    refused(put(bomb(kind, 16000)), "16000 x 16000", str(images.MAX_PIXELS), "smaller")


def test_jpeg_tables_before_the_frame_and_a_second_smaller_frame(put):
    data = encode(picture(31, 57), "JPEG")
    frame, table = data.index(b"\xff\xc0"), data.index(b"\xff\xc4")
    scan = data.index(b"\xff\xda")
    swapped = data[:frame] + data[table:scan] + data[frame:table] + data[scan:]
    np.testing.assert_array_equal(read_image(put(swapped), 8), read_image(put(data), 8))
    assert images._jpeg_size(swapped) == (57, 31)
    huge = bomb("JPEG", 16000)
    at = huge.index(b"\xff\xda") + 14
    refused(put(huge[:at] + data[frame:table] + huge[at:]), "16000 x 16000")


def test_bombs_in_the_other_webp_headers(put):
    lossless = bytearray(encode(picture(), "WEBP", lossless=True))
    assert lossless[12:16] == b"VP8L"
    lossless[21:25] = struct.pack("<I", 0x0FFFFFFF)
    refused(put(bytes(lossless)), "16384 x 16384")
    extended = bytearray(encode(picture(), "WEBP", exif=exif(1)))
    assert extended[12:16] == b"VP8X"
    extended[24:30] = b"\xff" * 6
    refused(put(bytes(extended)), "16777216 x 16777216")


@pytest.mark.parametrize("kind", [*KINDS, "lossless", "extended", "progressive", "big-endian"])
def test_headers_tell_the_true_size(put, kind, monkeypatch):
    options = {
        "lossless": ("WEBP", {"lossless": True}),
        "extended": ("WEBP", {"exif": exif(1)}),
        "progressive": ("JPEG", {"progressive": True}),
    }
    kind, options = options.get(kind, (kind, {}))
    if kind == "big-endian":
        data = encode(Image.fromarray(picture(31, 57)[..., 0].astype(">u2")), "TIFF")
        assert data[:2] == b"MM"
    else:
        data = encode(picture(31, 57), kind, **options)
    monkeypatch.setattr(images, "MAX_PIXELS", 31 * 57)
    read_image(put(data), 8)
    monkeypatch.setattr(images, "MAX_PIXELS", 31 * 57 - 1)
    refused(put(data), "57 x 31 pixels")


def test_old_bitmap_header(put):
    rows = bytes([1, 2, 3, 4, 5, 6, 0, 0])  # one row of two BGR pixels, padded to four
    data = (
        b"BM" + struct.pack("<IHHI", 34, 0, 0, 26) + struct.pack("<IHHHH", 12, 2, 1, 1, 24) + rows
    )
    assert read_image(put(data), 1).shape == (1, 1, 3)
    wide = (
        b"BM" + struct.pack("<IHHI", 34, 0, 0, 26) + struct.pack("<IHHHH", 12, 60000, 60000, 1, 24)
    )
    refused(put(wide + rows), "60000 x 60000")


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.jpg"
    with open(path, "wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(17 * images.MAX_PIXELS)
    refused(path, "more bytes")


def test_opencvs_own_limits_are_translated(put, monkeypatch):
    refused(put(png(1_000_001, 1, 8, 0, bytes(1_000_002))), "damaged or of a rare variant")

    def fail(*arguments, **options):
        raise cv2.error("OpenCV(5) pixels <= CV_IO_MAX_IMAGE_PIXELS")

    monkeypatch.setattr(cv2, "imdecodeWithMetadata", fail)
    refused(put(encode(picture(), "PNG")), "damaged or of a rare variant")


# ---------------------------------------------------------------- files


def test_missing_folder_pipe_and_link_loop(tmp_path):
    for read in (None, read_bytes, read_png):
        refused(tmp_path / "no.png", "No such file", read=read)
        refused(tmp_path, "folder", read=read)
        os.path.exists(tmp_path / "pipe") or os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "device", read=read)
        os.path.lexists(tmp_path / "loop") or os.symlink("loop", tmp_path / "loop")
        refused(tmp_path / "loop", "cannot be read", read=read)
        refused("a\0b", "cannot be read", read=read)
        refused(tmp_path / ("n" * 3000), "too long", read=read)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission(put):
    path = put(encode(picture(), "PNG"))
    path.chmod(0)
    refused(path, "Permission denied", "permissions")


def test_permission_as_root_too(put, monkeypatch):
    def deny(*arguments, **options):
        raise PermissionError(13, "Permission denied", "x")

    path = put(encode(picture(), "PNG"))
    monkeypatch.setattr("builtins.open", deny)
    refused(path, "Permission denied", "permissions")
    refused(path, "Permission denied", read=read_bytes)


@pytest.mark.parametrize(
    "name", ["a b.png", "ünï 漢字.png", "line\nbreak.png", "[1]*?.png", "-rf.png"]
)
def test_odd_names_are_read_written_and_named_in_one_line(tmp_path, name):
    write_png(tmp_path / name, picture())
    np.testing.assert_array_equal(read_png(tmp_path / name), picture())
    (tmp_path / name).write_bytes(b"no")
    refused(tmp_path / name, "not an image")


def test_undecodable_names(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
    write_png(path, picture())
    assert read_image(path, 8).shape == (8, 8, 3)
    path.write_bytes(b"no")
    refused(path, "not an image").encode()  # the message can be printed


def test_bytes_of_a_part_of_a_file(put):
    data = encode(noise(), "PNG")
    path = put(b"before" + data + b"behind")
    part = read_bytes(path, 6, len(data))
    assert part == data and read_bytes(path) == path.read_bytes()
    np.testing.assert_array_equal(decode(part, "x", HEIGHT), noise())
    refused("x", "is empty", read=lambda name: decode(b"", name, HEIGHT))
    refused(path, "more bytes", read=lambda path: read_bytes(path, 0, 17 * images.MAX_PIXELS))


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (224, 224, 3), (2, 3000, 3)])
def test_png_round_trip_is_exact_and_pil_agrees(tmp_path, shape):
    image = noise(*shape[:2])
    write_png(tmp_path / "x.png", image)
    np.testing.assert_array_equal(read_png(tmp_path / "x.png"), image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    again = read_png(str(tmp_path / "x.png"))
    np.testing.assert_array_equal(again, image)
    assert again.flags.c_contiguous and again.flags.writeable


def test_grey_round_trip(tmp_path):
    grey = noise()[..., 0]
    write_png(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "grey.png")), grey)
    np.testing.assert_array_equal(read_png(tmp_path / "grey.png"), np.dstack([grey] * 3))


def test_views_are_written_as_they_look(tmp_path):
    for view in (
        noise()[::-1, ::2],
        noise().swapaxes(0, 1),
        np.broadcast_to(noise()[:1], (9, 48, 3)),
    ):
        write_png(tmp_path / "view.png", view)
        np.testing.assert_array_equal(read_png(tmp_path / "view.png"), view)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_only_eight_bit_pictures_are_written(tmp_path, image):
    with pytest.raises(ValueError, match="uint8") as caught:
        write_png(tmp_path / "x.png", image)
    assert str(list(image.shape)) in str(caught.value) and not list(tmp_path.iterdir())


def test_read_png_takes_only_png(put):
    refused(put(encode(picture(), "JPEG")), "JPEG", "only PNG", read=read_png)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    write_png(path, picture())

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    refused(path, "No space left", "room", read=lambda path: write_png(path, noise()))
    monkeypatch.undo()
    monkeypatch.setattr(Path, "write_bytes", fail)
    refused(path, "No space left", read=lambda path: write_png(path, noise()))
    monkeypatch.undo()
    np.testing.assert_array_equal(read_png(path), picture())
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_can_be_written(tmp_path):
    def write(path):
        write_png(path, picture())

    refused(tmp_path / "no" / "x.png", "No such file", "folder", read=write)
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "cannot be written", read=write)
    refused("a\0b", "cannot be written", read=write)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_written_files_obey_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_png(tmp_path / "x.png", picture())
    finally:
        os.umask(before)
    assert (tmp_path / "x.png").stat().st_mode & 0o777 == 0o640


def test_a_killed_writer_leaves_only_whole_files(tmp_path):
    script = (
        "import sys, numpy as np; from gcpatch.images import write_png\n"
        "image = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)\n"
        "print('go', flush=True)\n"
        "while True: write_png(sys.argv[1], image)"
    )
    path = tmp_path / "x.png"
    for delay in (0.05, 0.08, 0.13):
        command = [sys.executable, "-c", script, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            while not path.exists():
                pass
            threading.Event().wait(delay)
            writer.kill()
        assert read_png(path).shape == (700, 700, 3)


def test_only_numpy_and_opencv_are_needed():
    script = (
        f"import runpy, sys; runpy.run_path({images.__file__!r}); "
        "sys.exit(bool({'PIL', 'torch', 'jax', 'flax'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
