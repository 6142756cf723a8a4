"""gcpatch.images against Pillow, on files made here, and against torchvision's transforms."""

import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

import gcpatch
from experiments import formats
from experiments.formats import bmp, chunk, encode, exif, png, reference, tiff
from experiments.hostile.files import claiming, many_scans, packed
from gcpatch.data import images
from gcpatch.data.images import (
    ImageError,
    decode,
    read_bytes,
    read_image,
    read_mask,
    read_png,
    several_frames,
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


@pytest.fixture
def put(tmp_path):
    def put(data, name="picture.bin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return put


def refused(path, *words, size=HEIGHT, read=None):
    """The message: one line, one sentence, the file's name and a remedy in it."""
    with pytest.raises(ImageError) as caught:
        read(path) if read else read_image(path, size)
    message = str(caught.value)
    assert message.startswith(repr(str(path))) and message.endswith(".")
    assert "\n" not in message and "; " in message and "Pillow" not in message
    assert ". " not in message.removeprefix(repr(str(path)))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for word in words:
        assert word in message
    return message


# ---------------------------------------------------------------- formats

FILES = [*formats.made_by_pillow(), *formats.made_by_hand()]
WHOLE = {"JPEG", "WEBP", "AVIF", "GIF"}  # containers of which nothing needs to be refused


@pytest.mark.parametrize("container", sorted({file.container for file in FILES}))
def test_files_are_read_as_pillow_reads_them_or_refused(container, capfd):
    found = {file.name: formats.verdict(file) for file in FILES if file.container == container}
    tally = Counter(found.values())
    assert not [name for name, verdict in found.items() if verdict == "different"]
    assert tally["equal"] > tally["refused"] * (1e9 if container in WHOLE else 1)
    assert capfd.readouterr() == ("", "")


def test_the_table_notices_what_is_read_otherwise(monkeypatch):
    nothing = SimpleNamespace(exif_transpose=lambda image, in_place: None)
    monkeypatch.setattr(images, "ImageOps", nothing)
    turned = {file.name: formats.verdict(file) for file in FILES if file.container == "WEBP"}
    assert {name for name, verdict in turned.items() if verdict == "different"} == {
        name for name in turned if re.search("EXIF.*[HI]$|turned [2-8]", name)
    }


FOUR = np.dstack([picture()[..., ::-1], np.zeros((HEIGHT, WIDTH), np.uint8)])
DEEP = picture().astype(int) * 257
MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
TURNED = np.rot90(picture(), -1)


@pytest.mark.parametrize(
    ("data", "truth"),
    [
        (bmp(FOUR, 32), picture()),
        (bmp(FOUR, 32, 52, MASKS[:3]), picture()),
        (bmp(FOUR, 32, 124, MASKS[:3]), picture()),
        (bmp(FOUR, 32, upside=True), picture()),
        (tiff(DEEP, 16, 2, planar=True), picture()),
        (tiff(DEEP, 16, 2, planar=True, order=">"), picture()),
        (tiff(DEEP, 16, 2, planar=True, strips=5), picture()),
        (tiff(np.dstack([DEEP, DEEP[..., 0] * 0 + 65535]), 16, 2, planar=True), picture()),
        (png(picture(), 8, 2, chunk(b"eXIf", b"Exif\0\0" + exif(6))), TURNED),
        (png(picture(), 8, 2, chunk(b"eXIf", exif(6, "<"))), TURNED),
        (encode(picture(), "WEBP", lossless=True, exif=exif(6, prefix=b"Exif\0\0")), TURNED),
        (encode(picture(), "TIFF", tiffinfo={274: 6}), TURNED),
        (encode(picture()[..., 0], "TIFF", tiffinfo={262: 0}), picture()[..., :1]),
        (tiff(picture()[..., :1], 8, 0), 255 - picture()[..., :1]),
        (encode(picture(), "TIFF", big_tiff=True), picture()),
        (encode(picture(), "PPM"), picture()),
    ],
)
def test_what_is_in_the_file_is_what_is_read(data, truth, put):
    found = read_image(put(data, "misnamed.txt"), HEIGHT)
    np.testing.assert_array_equal(found, np.broadcast_to(truth, found.shape))
    assert found.flags.c_contiguous and found.dtype == np.uint8


@pytest.mark.parametrize("header", [12, 40, 64])
def test_the_palettes_of_old_bitmaps(header, put):
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 256
    image = read_image(put(bmp(indices, 8, header)), HEIGHT)  # of blue 255 - v
    expected = np.concatenate([255 - indices, indices, indices], 2)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("depth, order", [("png", ">"), ("tiff", "<"), ("tiff", ">")])
def test_sixteen_bits_of_grey_are_divided_by_257_and_rounded(depth, order, put):
    values = np.array([0, 128, 129, 256, 257, 385, 386, 32768, 65406, 65407, 65535])
    deep = np.tile(values, (len(values), 1))[..., None]
    data = png(deep, 16, 0) if depth == "png" else tiff(deep, 16, 1, order=order)
    image = read_image(put(data), len(values))
    assert image[0, :, 1].tolist() == [round(int(value) / 257) for value in values]
    assert image[0, :, 1].tolist() == [0, 0, 1, 1, 1, 1, 2, 128, 254, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_transparency_is_laid_over_white(put, kind):
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    options = {"quality": 100} if kind == "AVIF" else {"lossless": True, "exact": True}
    image = read_image(put(encode(np.dstack([picture(), alpha]), kind, **options)), HEIGHT)
    share = alpha[..., None] / 255
    expected = np.rint(picture() * share + 255 * (1 - share))
    np.testing.assert_allclose(image, expected, atol=4 if kind == "AVIF" else 0)
    assert (image[:, 0] == 255).all()


def test_transparency_of_grey_palette_and_gif(put):
    grey = np.dstack([np.full((2, 2), 100, np.uint8), np.full((2, 2), 51, np.uint8)])
    assert (read_image(put(encode(Image.fromarray(grey, "LA"), "PNG")), 2) == 224).all()
    paletted = Image.new("P", (2, 2), 1)
    paletted.putpalette([0, 0, 0, 200, 10, 10])
    paletted.putpixel((0, 0), 0)
    for kind in ("PNG", "GIF"):
        image = read_image(put(encode(paletted, kind, transparency=0)), 2)
        assert image[0, 0].tolist() == [255, 255, 255] and image[1, 1].tolist() == [200, 10, 10]
    row = np.array([[[5], [7]]] * 2)
    clear = read_image(put(png(row, 8, 0, chunk(b"tRNS", b"\0\5"))), 2)
    assert clear[0].tolist() == [[255] * 3, [7] * 3]
    for depth in (2, 4, 16):  # Pillow compares the file's level with the pixels' scaled one
        refused(put(png(row % 4, depth, 0, chunk(b"tRNS", b"\0\1"))), "clear", "alpha")


def test_the_first_frame_of_a_gif_that_does_not_cover_it(put):
    data = bytearray(encode(Image.fromarray(picture(5, 6)).quantize(16), "GIF"))
    at = data.index(b"\x2c\0\0\0\0")
    data[6:10], data[at + 1 : at + 5] = struct.pack("<HH", 12, 12), struct.pack("<HH", 4, 3)
    image = read_image(put(bytes(data)), 12)
    np.testing.assert_array_equal(image, reference(bytes(data)))
    assert (image[:3] == image[0, 0]).all() and len(np.unique(image[3:8, 4:10])) > 5


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_first_frame_of_an_animation_or_page(put, kind):
    second = Image.fromarray(255 - picture())
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(picture(), kind, save_all=True, append_images=[second], **options)
    image = read_image(put(data), HEIGHT)
    np.testing.assert_array_equal(image, reference(data))
    assert abs(image.astype(int) - picture()).mean() < 8
    assert several_frames(data)
    alone = encode(picture(), "JPEG" if kind == "MPO" else kind)
    assert not several_frames(alone)
    assert not several_frames(alone[: len(alone) // 2]) and not several_frames(b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (cv2.imencode(".hdr", np.ones((4, 4, 3), np.float32))[1].tobytes(), ["not an image"]),
        (cv2.imencode(".pfm", np.ones((4, 4), np.float32))[1].tobytes(), ["float"]),
        (encode(np.ones((4, 4), np.float32), "TIFF"), ["float", "PNG"]),
        (encode(np.ones((4, 4), np.int32), "TIFF"), ["integer"]),
        (tiff(DEEP[..., :1], 16, 0), ["TIFF", "16 bits"]),
        (tiff(DEEP[..., :1], 16, 1, t258=(12,)), ["TIFF", "12 bits"]),
        (tiff(picture()[..., :1], 8, 0, planar=True), ["TIFF", "8 bits"]),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", ["not an image"]),
        (encode(picture(), "EPS"), ["not an image"]),
        (encode(picture(), "PDF"), ["not an image"]),
        (encode(picture(), "TGA"), ["not an image"]),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ["not an image", "JPEG", "WEBP"]),
        (b"BMW is a car maker, not a bitmap", []),
        (b"\0", ["not an image"]),
        (b"", ["empty"]),
    ],
)
def test_other_kinds_are_refused(put, data, words, capfd):
    refused(put(data, "photo.jpg"), *words)
    assert capfd.readouterr() == ("", "")


def test_suffixes():
    assert {".avif", ".jfif", ".jpe", ".jpeg", ".png", ".tiff", ".webp"} < set(images.SUFFIXES)
    assert not {".eps", ".pdf", ".svg", ".txt", ".heic"} & set(images.SUFFIXES)


def test_read_image_is_public(put):
    path = put(encode(picture(60, 70), "PNG"))
    np.testing.assert_array_equal(gcpatch.read_image(path, 32), read_image(path, 32))
    assert "read_image" in gcpatch.__all__


# ---------------------------------------------------------------- masks


def test_a_mask_is_grey_times_opacity(put):
    white = np.full((4, 4, 4), 255, np.uint8)
    white[:2, :, 3] = 0
    white[2, :, 3] = 51
    white[3, 0, :3] = 100
    for data in (encode(white, "PNG"), encode(white, "TIFF")):
        mask = read_mask(put(data))
        assert mask.tolist() == [[0] * 4, [0] * 4, [51] * 4, [100, 255, 255, 255]]
    grey = Image.fromarray(white[..., [0, 3]].copy(), "LA")
    np.testing.assert_array_equal(read_mask(put(encode(grey, "PNG"))), mask)
    opaque = read_mask(put(encode(picture(), "PNG")))
    np.testing.assert_array_equal(opaque, cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY))
    refused(put(b"no"), "not an image", read=read_mask)


# ---------------------------------------------------------------- orientation


def test_damaged_exif_or_absurd_orientation_is_ignored(put):
    for block in (exif(99), b"MM", b"II*\0\xff\xff\xff\xff"):
        data = encode(picture(), "JPEG", exif=b"Exif\0\0" + block)
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


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (300, 300), (91, 61), (57, 300)])
@pytest.mark.parametrize(
    "size, resize", [(224, 256), (224, 232), (224, 224), (299, 342), (33, None)]
)
def test_crop_is_torchvisions_transform(put, shape, size, resize):
    from convert.operators import torchvision

    transform = torchvision.transforms._presets.ImageClassification(
        crop_size=size, resize_size=resize or round(size * 256 / 224), mean=(0, 0, 0), std=(1, 1, 1)
    )
    data = encode(noise(*shape), "PNG")
    expected = transform(Image.fromarray(noise(*shape))).permute(1, 2, 0).numpy() * 255
    found = decode(data, "x", size, "crop", resize)
    np.testing.assert_array_equal(found, np.rint(expected))
    if resize == 256:
        np.testing.assert_array_equal(read_image(put(data), size, "crop"), found)


def test_the_shorter_side_of_crop():
    data = encode(picture(), "PNG")
    for resize in (223, 20_001):
        with pytest.raises(ValueError, match=f"resize must be from the size 224 .* not {resize}"):
            decode(data, "x", 224, "crop", resize)


@pytest.mark.parametrize("mode", images.RESIZE_MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
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


def test_what_crop_would_make_huge_is_refused(put):
    path = put(encode(noise(1, 20_000), "PNG"))
    assert read_image(path, 224).shape == (224, 224, 3)
    refused(path, "long and thin", "256", read=lambda path: read_image(path, 224, "crop"))


# ---------------------------------------------------------------- damage

KINDS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "PPM"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_files_cut_short_are_refused_quietly(put, kind, share, capfd):
    data = encode(noise(), kind)
    refused(put(data[: int(len(data) * share)], "photo.jpg"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_cut_of_jpeg_and_png_is_refused_without_noise(put, kind, capfd):
    data = encode(noise(16, 16), kind)
    end = 1 if kind == "JPEG" else 5  # of a PNG, the end's own checksum may be missing
    for length in (*range(12, len(data) - end, max(1, len(data) // 150)), len(data) - end):
        refused(put(data[:length]))
    assert capfd.readouterr().err == ""


def test_a_cut_jpeg_is_not_saved_by_zeros_or_by_its_thumbnail(put):
    data = encode(picture(200, 200), "JPEG", exif=b"Exif\0\0" + encode(picture(8, 8), "JPEG"))
    assert data.count(b"\xff\xd9") == 2
    assert read_image(put(data), 50).shape == (50, 50, 3)
    refused(put(data[: len(data) // 2]), "cut short")
    for zeros in (len(data), 50 * len(data)):  # the latter are enough for Pillow
        refused(put(data[: len(data) // 2] + bytes(zeros)), "cut short")
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
        refused(put(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]))
    assert capfd.readouterr().err == ""


def test_damage_behind_right_checksums(put):
    whole = png(noise(), 8, 2)
    few = chunk(b"IDAT", zlib.compress(b"too few rows"))
    refused(put(whole[:33] + few + whole[-12:]), "damaged")
    refused(put(b"\xff\xd8\xff\xe0\0\x04ab\xff\xd9"))


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
    assert capfd.readouterr() == ("", "")


def test_pillows_settings_are_put_back_even_by_threads(put, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path, filters = put(encode(noise(), "TIFF")[:-40]), images.warnings.filters[:]
    threads = [threading.Thread(target=lambda: [refused(path)] * 20) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES and images.warnings.filters == filters


def test_pillows_warnings_do_not_come_through(put, monkeypatch, recwarn):
    data = encode(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)  # it warns up to twice that
    images.warnings.simplefilter("error")
    assert read_image(put(data), HEIGHT).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UserWarning):
        Image.open(put(data)).getexif()


# ---------------------------------------------------------------- bombs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [10_001, 16_000])  # Pillow itself refuses from 13378 on
def test_bombs_are_refused_before_decoding(put, kind, side, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    refused(put(claiming(kind, side)), str(images.MAX_PIXELS), "smaller")


def test_the_limit_holds_where_pillows_own_is_switched_off(put, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(put(claiming("PNG", 60_000)), str(images.MAX_PIXELS), "smaller")


def test_a_jpeg_of_many_scans_is_refused_before_decoding(put, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    refused(put(many_scans()), "scans")


@pytest.mark.parametrize("kind", ["iTXt", "zTXt", "iCCP"])
def test_texts_and_profiles_that_unpack_to_much_are_refused(put, kind):
    refused(put(packed(kind)), "damaged")


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_is_that_of_the_pixels(put, kind, monkeypatch):
    data = encode(picture(31, 57), kind)
    monkeypatch.setattr(images, "MAX_PIXELS", 31 * 57)
    read_image(put(data), 8)
    monkeypatch.setattr(images, "MAX_PIXELS", 31 * 57 - 1)
    refused(put(data), "pixels that are read")


def test_threads_decode_no_more_than_the_limit_together(monkeypatch):
    data, now, most = encode(picture(), "PNG"), 0, 0
    monkeypatch.setattr(images, "MAX_PIXELS", 5 * HEIGHT * WIDTH // 2)
    rgb, lock = images._rgb, threading.Lock()

    def watched(image):
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        threading.Event().wait(0.01)
        with lock:
            now -= 1
        return rgb(image)

    monkeypatch.setattr(images, "_rgb", watched)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(data, "x", 8), range(16)))
        broken = [pool.submit(decode, data[:-40], "x", 8) for _ in range(8)]
    assert most == 2 and images._pixels == 0
    assert all(isinstance(future.exception(), ImageError) for future in broken)


def test_the_memory_of_large_pictures_is_given_back():
    """glibc keeps what is freed in blocks up to 32 MB, for each thread that had some."""
    assert Image.core.get_block_size() > 2**25


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.jpg"
    with open(path, "wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(17 * images.MAX_PIXELS)
    refused(path, "more bytes")


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
    refused(put(encode(picture(), "JPEG")), "(PNG)", read=read_png)


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
        "import sys, numpy as np; from gcpatch.data.images import write_png\n"
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
        "sys.exit(bool({'torch', 'jax', 'flax'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
