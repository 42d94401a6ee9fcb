"""Small files that are made to take minutes or gigabytes are refused at once; harmless relatives are read."""

import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mint_iqa.errors import MintIQAError
from mint_iqa.images import MAX_PIXELS, read_image

pytestmark = pytest.mark.slow


KEPT = Path(__file__).parents[2] / "fuzz/corpus"
SIDE = 7071  # a square of all the pixels allowed


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def refusal(data):
    """The code, after at most five seconds of computing."""
    start = time.process_time()
    with pytest.raises(MintIQAError) as caught:
        read_image(data)
    assert time.process_time() - start < 5
    return caught.value.code


def gif(before=b"", after=b""):
    """One frame with blocks before or after it."""
    plain = encoded(Image.new("P", (16, 16)), "GIF")
    frame = plain.index(b",\0\0\0\0\x10\0")
    return plain[:frame] + before + plain[frame:-1] + after + b";"


def comment(pieces, size=1):
    return b"!\xfe" + (bytes([size]) + b"x" * size) * pieces + b"\0"


def bmp(width, height, runs):
    """Run-length-compressed, with a black palette."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + b"\0" * 1024 + runs


def jpeg(scans, size=(512, 512)):
    """Progressive, its last scan repeated."""
    plain = encoded(Image.new("RGB", size), "JPEG", progressive=True)
    return plain[:-2] + plain[plain.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def tiff(strips):
    """16 x 16 grey pixels that are said to lie in so many strips."""
    tags = [
        (256, 1, 16),
        (257, 1, 16),
        (258, 1, 8),
        (259, 1, 1),
        (262, 1, 1),
        (273, strips, 110),
        (278, 1, 1),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + b"\0" * (20 + 4 * strips)


def chunk(name, data=b""):
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width=16, height=16, bits=8, kind=2, samples=3, more=b""):
    packer = zlib.compressobj(9)
    row = bytes(1 + (width * samples * bits + 7) // 8)
    pixels = b"".join([packer.compress(row) for _ in range(height)] + [packer.flush()])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", pixels) + chunk(b"IEND")


def test_a_gif_with_a_long_comment_is_refused_and_with_a_short_one_read():
    assert refusal(gif(comment(1_000_000))) == "image_too_complex"
    assert refusal(gif(comment(20_000, size=255))) == "image_too_complex"
    assert read_image(gif(comment(1000))).warnings == ()


def test_what_follows_the_first_frame_of_a_gif_costs_nothing():
    start = time.process_time()
    assert read_image(gif(after=comment(1_000_000))).warnings == ()
    assert time.process_time() - start < 2
    second = gif()[gif().index(b",\0\0\0\0\x10\0") : -1]
    assert "frames" in read_image(gif(after=comment(3) + second)).warnings[0]


@pytest.mark.parametrize("runs", [b"\1\1\0\0" * 8, b"\0\2\xff\xff" * 4])
def test_a_wide_run_length_compressed_bmp_is_refused(runs):
    assert refusal(bmp(6_000_000, 8, runs)) == "image_too_large"


def test_a_run_length_compressed_bmp_of_usual_size_is_read():
    assert read_image(bmp(200, 100, b"\xc8\0\0\0" * 100)).rgb.size == (200, 100)


def test_a_jpeg_of_hundreds_of_scans_is_refused_and_of_a_dozen_read():
    assert refusal(jpeg(scans=1000)) == "image_too_complex"
    assert read_image(jpeg(scans=10)).rgb.size == (512, 512)


def test_a_jpeg_with_endless_headers_is_refused():
    plain = encoded(Image.new("RGB", (16, 16)), "JPEG")
    exif = b"\xff\xe1\xff\xffExif\0\0II*\0\x08\0\0\0" + bytes(65519)
    for filler in (b"\xff\xfe\0\2" * 5_000_000, b"\xff" * 20_000_000, exif * 500):
        assert refusal(plain[:2] + filler + plain[2:]) == "image_too_complex"


def test_a_png_of_millions_of_chunks_is_refused():
    assert refusal(png(more=chunk(b"zzZz") * 1_000_000)) == "image_too_complex"


def test_a_tiff_of_a_million_strips_is_refused_and_of_sixteen_read():
    assert refusal(tiff(strips=1_000_000)) == "image_too_complex"
    assert read_image(tiff(strips=16)).rgb.size == (16, 16)


def test_exif_of_megabytes_is_not_parsed():
    values = 2_000_000
    tag = struct.pack("<HHHII", 1, 0x0112, 3, values, 26) + bytes(4)
    data = png(more=chunk(b"eXIf", b"II*\0\x08\0\0\0" + tag + bytes(2 * values)))
    assert "EXIF" in read_image(data).warnings[0]


def test_text_that_unpacks_to_gigabytes_is_refused():
    packed = zlib.compress(b"a" * 900_000)
    assert refusal(png(more=chunk(b"zTXt", b"k\0\0" + packed) * 100)) == "image_truncated"


BIGGEST = {
    "png_rgba": lambda: png(SIDE, SIDE, kind=6, samples=4),
    "png_rgba16": lambda: png(SIDE, SIDE, bits=16, kind=6, samples=4),
    "tiff_float": lambda: encoded(Image.new("F", (SIDE, SIDE)), "TIFF", compression="tiff_adobe_deflate"),
    "webp_rgba": lambda: encoded(Image.new("RGBA", (SIDE, SIDE)), "WEBP", lossless=True),
}
# Not getrusage: its peak begins with that of the process that started this one.
MEASURE = """
import re, sys
from mint_iqa.images import read_image
print(read_image(sys.argv[1]).rgb.size)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", BIGGEST)
def test_a_bomb_of_all_pixels_allowed_takes_less_than_a_gigabyte(kind, tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(BIGGEST[kind]())
    assert path.stat().st_size < 2**19
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 1000


def test_converting_in_bands_changes_no_pixel():
    ramp = np.linspace(-1, 2, 1500 * 1000, dtype=np.float32).reshape(1500, 1000)
    expected = np.rint((ramp.astype(float) + 1) / 3 * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(read_image(Image.fromarray(ramp)).rgb)[..., 0], expected)
    rgba = np.random.default_rng(0).integers(0, 256, (1500, 1000, 4), dtype=np.uint8)
    whole = Image.alpha_composite(Image.new("RGBA", (1000, 1500), "white"), Image.fromarray(rgba))
    assert np.array_equal(np.asarray(read_image(Image.fromarray(rgba)).rgb), np.asarray(whole.convert("RGB")))


def test_a_thread_of_a_picture_is_too_small_and_a_long_one_is_read():
    assert refusal(encoded(Image.new("RGB", (1, 1)), "PNG")) == "image_too_small"
    assert refusal(encoded(Image.new("RGB", (1, 50_000)), "PNG")) == "image_too_small"
    assert read_image(encoded(Image.new("RGB", (8, 50_000)), "PNG")).rgb.size == (8, 50_000)
    assert refusal(png(MAX_PIXELS // 8 + 1, 8, bits=1, kind=0, samples=1)) == "image_too_large"


@pytest.mark.parametrize("first", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_file_of_two_kinds_is_read_as_what_it_begins_with(first):
    """A picture with a zip archive, a page and another picture behind it."""
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    more = b"PK\3\4" + b"<script>alert(1)</script>" + encoded(Image.new("RGB", (16, 16)), "PNG")
    read = read_image(encoded(red, first) + more)
    assert read.rgb.getpixel((8, 8)) == pytest.approx((255, 0, 0), abs=4)


def test_a_page_or_script_that_contains_a_picture_is_none():
    for head in (b"<svg>", b"%PDF-1.4\n", b"#!/bin/sh\n", b"PK\3\4"):
        assert refusal(head + png()) == "image_not_an_image"


def test_a_tiff_whose_directory_lies_beyond_all_memory_is_refused():
    assert refusal((KEPT / "tiff/directory_beyond_all_memory.tif").read_bytes()) == "image_truncated"
