"""Whatever a user calls an image becomes one upright RGB picture, or one MintIQAError."""

import contextlib
import hashlib
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(size=(64, 48), mode="RGB"):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def error_of(source, **limits):
    with pytest.raises(MintIQAError) as caught:
        read_image(source, **limits)
    return caught.value


def corner(image):
    return read_image(image).rgb.getpixel((0, 0))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(format):
    picture = noise()
    read = read_image(encoded(picture, format, **({"lossless": True} if format == "WEBP" else {})))
    assert np.array_equal(np.asarray(read.rgb), np.asarray(picture))
    assert read.warnings == ()


@pytest.mark.parametrize("format", ["JPEG", "GIF"])
def test_lossy_formats_are_read(format):
    assert read_image(encoded(Image.new("RGB", (16, 9), RED), format)).rgb.size == (16, 9)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX", "I", "F", "I;16"]
)
def test_a_pil_image_of_any_mode_becomes_rgb(mode):
    source = (
        Image.new("L", (16, 16), 255).convert(mode) if mode in ("I", "F", "I;16") else noise((16, 16), mode)
    )
    assert read_image(source).rgb.mode == "RGB"


def test_lab_colors_become_the_right_rgb():
    grey = Image.new("LAB", (16, 16), (255, 128, 128))
    assert min(corner(encoded(grey, "TIFF"))) > 250


def test_the_digest_is_that_of_the_file(tmp_path):
    path = tmp_path / "a.png"
    noise().save(path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_image(path).sha256 == read_image(str(path)).sha256 == expected
    assert read_image(path.read_bytes()).sha256 == expected


def test_a_pil_image_has_no_digest_and_is_not_touched():
    source = noise(mode="RGBA")
    before = source.tobytes()
    assert read_image(source).sha256 is None
    assert (source.mode, source.tobytes()) == ("RGBA", before)
    opaque = noise()
    read_image(opaque).rgb.putpixel((0, 0), RED)
    assert opaque.getpixel((0, 0)) != RED


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_rotated_photograph_is_turned_upright(orientation, format):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what the camera did: the inverse transposition
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste("white", (0, 0, 24, 16))
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_image(encoded(stored, format, exif=exif))
    difference = np.abs(np.asarray(read.rgb, int) - np.asarray(upright, int))
    assert read.rgb.size == (48, 32)
    assert difference.mean() < 3


def test_damaged_exif_costs_a_warning_not_the_picture():
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40)
    assert read_image(data).rgb.size == (64, 48)
    orientation_of_a_word = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"
    assert "rotated" in read_image(encoded(noise(), "JPEG", exif=orientation_of_a_word)).warnings[0]


def test_transparent_parts_are_laid_on_white_and_said_so():
    for mode, color in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        read = read_image(encoded(Image.new(mode, (16, 16), color)))
        assert read.rgb.getpixel((0, 0)) == WHITE
        assert "transparent" in read.warnings[0]
    assert corner(Image.new("RGBA", (16, 16), (255, 0, 0, 128))) == pytest.approx((255, 127, 127), abs=1)


def test_an_opaque_alpha_channel_is_not_worth_a_warning():
    assert read_image(Image.new("RGBA", (16, 16), (255, 0, 0, 255))).warnings == ()


def test_a_transparent_palette_entry_is_laid_on_white():
    picture = Image.new("P", (16, 16), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    assert corner(encoded(picture)) == GREEN
    assert corner(encoded(picture, transparency=1)) == WHITE
    assert corner(encoded(picture, "GIF", transparency=1)) == WHITE
    assert corner(encoded(picture, transparency=bytes([255, 0]))) == WHITE


def test_a_transparent_color_key_is_laid_on_white():
    assert corner(encoded(Image.new("RGB", (16, 16), RED), transparency=RED)) == WHITE
    assert corner(encoded(Image.new("L", (16, 16), 9), transparency=9)) == WHITE
    deep = Image.fromarray(np.full((16, 16), 900, np.uint16))
    assert corner(encoded(deep, transparency=900)) == WHITE


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(format):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    read = read_image(encoded(Image.fromarray(np.tile(ramp, (16, 1))), format))
    assert np.array_equal(np.asarray(read.rgb)[0, :, 0], np.arange(256))


def png_16_bit_rgb(value):
    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = (b"\0" + struct.pack(">3H", value, 0, 65535) * 16) * 16
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bit_color_is_scaled_not_clipped():
    assert corner(png_16_bit_rgb(0x8000)) == (128, 0, 255)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([7e9, 7e9, 7e9], [0, 0, 0]),
    ],
)
def test_float_pixels_are_scaled_by_the_range_that_holds_them(values, expected):
    pixels = np.tile(np.array(values, np.float32), (12, 4))
    read = read_image(encoded(Image.fromarray(pixels), "TIFF"))
    assert np.asarray(read.rgb)[0, :3, 0].tolist() == expected
    assert "float pixels were read as" in read.warnings[0]


def test_32_bit_integers_are_scaled_not_clipped():
    pixels = np.tile(np.array([0, 32768, 65535], np.int32), (12, 4))
    assert np.asarray(read_image(Image.fromarray(pixels)).rgb)[0, :3, 0].tolist() == [0, 128, 255]


def test_pixels_that_are_not_numbers_are_an_error():
    pixels = np.full((16, 16), np.nan, np.float32)
    assert error_of(encoded(Image.fromarray(pixels), "TIFF")).code == "image_bad_pixels"


def test_cmyk_jpegs_keep_their_colors():
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert corner(encoded(red, "JPEG", quality=95)) == pytest.approx(RED, abs=4)


@pytest.mark.parametrize(
    ("format", "word"), [("GIF", "frames"), ("PNG", "frames"), ("WEBP", "frames"), ("TIFF", "pages")]
)
def test_of_several_frames_the_first_is_taken_and_said_so(format, word):
    options = {"lossless": True} if format == "WEBP" else {}
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, GREEN)]
    read = read_image(encoded(frames[0], format, save_all=True, append_images=frames[1:], **options))
    assert read.rgb.getpixel((0, 0)) == RED
    assert word in read.warnings[0]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_an_error_that_names_it(format, tmp_path):
    whole = encoded(noise((200, 200)), format)
    for part in (0.02, 0.3, 0.6, 0.9):
        path = tmp_path / f"cut{part}.img"
        path.write_bytes(whole[: max(12, int(len(whole) * part))])
        error = error_of(path)
        assert error.code == "image_truncated"
        assert str(path) in error.message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_bytes_give_a_picture_or_a_mint_error_and_nothing_else(format):
    whole = encoded(noise((40, 40)), format)
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(whole)
        for position in rng.integers(12, len(whole), 8):
            damaged[position] = rng.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on damaged TIFF tags
            with contextlib.suppress(MintIQAError):
                read_image(bytes(damaged), max_pixels=10**6)


def test_files_that_are_no_image_are_errors_that_say_what_to_do(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    codes = {
        "empty.png": "image_empty",
        "text.png": "image_not_an_image",
        "none.png": "image_missing",
        "text.png/a.png": "image_missing",
        ".": "image_is_a_folder",
        "n" * 5000: "image_unreadable",
        "nul\0.png": "image_unreadable",
    }
    for name, code in codes.items():
        error = error_of(tmp_path / name)
        assert error.code == code
        assert ": " in error.message


def test_other_formats_are_not_opened():
    assert error_of(encoded(noise(), "PPM")).code == "image_not_an_image"
    assert error_of(encoded(noise(), "ICO")).code == "image_not_an_image"


def test_a_web_address_is_told_apart_from_a_missing_file():
    assert "download" in error_of("https://example.org/a.png").message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert error_of(tmp_path / "pipe.png").code == "image_missing"


def test_a_file_without_read_permission_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    noise().save(path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "permissions" in error_of(path).message


@pytest.mark.parametrize("source", [None, 3, np.zeros((8, 8, 3))])
def test_something_else_entirely_is_a_bad_argument(source):
    assert error_of(source).code == "bad_argument"


def test_size_is_checked_before_a_pixel_is_decoded():
    header = bytearray(png_16_bit_rgb(0))
    header[16:24] = struct.pack(">II", 60000, 60000)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own limit stays silent
        error = error_of(bytes(header))
    assert error.code == "image_too_large"
    assert "60000 x 60000" in error.message


def test_limits_can_be_changed():
    data = encoded(noise((64, 48)))
    assert read_image(data, max_pixels=64 * 48, max_bytes=len(data)).rgb.size == (64, 48)
    assert error_of(data, max_pixels=64 * 48 - 1).code == "image_too_large"
    assert error_of(data, max_bytes=len(data) - 1).code == "image_too_large"
    assert error_of(noise((64, 48)), max_pixels=100).code == "image_too_large"


def test_pictures_under_8_pixels_a_side_are_too_small():
    assert error_of(encoded(noise((7, 100)))).code == "image_too_small"
    assert read_image(encoded(noise((8, 8)))).rgb.size == (8, 8)


def test_many_threads_read_the_same_pictures():
    sources = [encoded(noise(), format, **({"lossless": True} if format == "WEBP" else {}))
               for format in ("PNG", "TIFF", "WEBP", "BMP")] * 20  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        pixels = {np.asarray(read.rgb).tobytes() for read in pool.map(read_image, sources)}
    assert len(pixels) == 1
