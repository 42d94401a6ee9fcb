"""What a picture file may cost to open: small files that would take minutes or gigabytes are refused.

Pillow limits neither a JPEG's scans, nor the values of a TIFF tag, nor the blocks that it reads one by one in
Python: files of a megabyte took minutes, or gigabytes. These limits lie far above what pictures need.
"""

import io
import struct

from PIL import Image
from PIL.ImageFile import ImageFile

from mint_iqa.errors import MintIQAError

MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 2**20
MIN_SIDE = 8

MAX_SCANS = 64  # encoders write about ten; each costs a pass over all pixels (libjpeg-turbo's LJT-01-004)
MAX_TAG_VALUES = 100_000  # one per strip or tile
MAX_RUN_LENGTH_PIXELS = 4_000_000  # Pillow expands such a BMP in Python
MAX_HEADER_BYTES = 8 * 2**20  # profiles and thumbnails; Pillow joins their pieces in quadratic time
MAX_READS = 500_000
MAX_GIF_READS = 5_000  # Pillow joins the pieces of a comment, 255 bytes each, in quadratic time
_TEXT_OR_BYTES = (1, 2, 7)  # TIFF types that stay one object; of other types, each value becomes an object


class TooCostlyError(Exception):
    """A limit of this module was passed while Pillow read."""


class LimitedFile(io.BytesIO):
    """A file in memory that counts how often it is read, and how much of it before `header_done`."""

    def __init__(self, data: bytes, reads: int, header_bytes: int) -> None:
        super().__init__(data)
        self._reads_left, self._header_left = reads, header_bytes

    def header_done(self) -> None:
        """From here on only the number of reads counts."""
        self._header_left = MAX_BYTES * MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self._reads_left -= 1
        self._header_left -= len(part)
        if self._reads_left < 0 or self._header_left < 0:
            raise TooCostlyError
        return part


def check_file(data: bytes, format: str, label: str) -> LimitedFile:
    """The bytes as Pillow may read them; MintIQAError (`image_too_complex`) for too many scans or tags."""
    if format == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
        raise too_complex(label)
    if format == "TIFF" and _most_values(data) > MAX_TAG_VALUES:
        raise too_complex(label)
    whole = format in ("WEBP", "TIFF")  # WebP is read at once; layers of a TIFF are one large tag
    reads = MAX_GIF_READS if format == "GIF" else MAX_READS
    return LimitedFile(data, reads, len(data) * 4 if whole else MAX_HEADER_BYTES)


def check_size(image: Image.Image, label: str, max_pixels: int) -> None:
    """MintIQAError (`image_too_large`, `image_too_small`) for sizes outside the limits."""
    width, height = image.size
    shown = f"{width} x {height} pixels"
    if isinstance(image, ImageFile) and any(tile.codec_name == "bmp_rle" for tile in image.tile):
        max_pixels = min(max_pixels, MAX_RUN_LENGTH_PIXELS)
    if width * height > max_pixels:
        raise MintIQAError(
            "image_too_large", f"{label} has {shown}, more than the {max_pixels:,} allowed: make it smaller."
        )
    if min(image.size) < MIN_SIDE:
        raise MintIQAError(
            "image_too_small", f"{label} has {shown}: give an image of at least {MIN_SIDE} pixels a side."
        )


def too_complex(label: str) -> MintIQAError:
    return MintIQAError(
        "image_too_complex", f"{label} has far more parts than a picture needs: export it again as PNG."
    )


def _most_values(data: bytes) -> int:
    """How many values the longest tag of a TIFF's first page has; 0 where Pillow will not find any either."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    start, length, entry = (8, "Q", "HHQ8x") if big else (4, "H", "HHL4x")
    try:
        (directory,) = struct.unpack_from(order + ("Q" if big else "L"), data, start)
        (tags,) = struct.unpack_from(order + length, data, directory)
    except (struct.error, OverflowError):
        return 0
    first = directory + struct.calcsize(order + length)
    size = struct.calcsize(order + entry)
    last = min(first + tags * size, len(data) - (len(data) - first) % size)
    entries = struct.iter_unpack(order + entry, memoryview(data)[first:last])
    return max((values for _, kind, values in entries if kind not in _TEXT_OR_BYTES), default=0)


def gif_goes_on(blocks: memoryview, position: int) -> bool:
    """Whether another frame follows the one whose first block is at `position` (GIF89a, 15 and 20 to 26).

    Pillow would read the next frame's header as well, whatever that costs.
    """
    try:
        position = _after_blocks(blocks, position)
        while blocks[position] == ord("!"):
            position = _after_blocks(blocks, position + 2)
        return blocks[position] == ord(",")
    except IndexError:
        return False


def _after_blocks(blocks: memoryview, position: int) -> int:
    while size := blocks[position]:
        position += size + 1
    return position + 1
