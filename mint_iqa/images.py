"""Anything a user calls an image -> one validated RGB picture.

Opens PNG, JPEG, WebP, GIF, BMP and TIFF, and nothing else. What the file says about its size is believed only
as far as the limits allow, and is checked before any pixel is decoded.
"""

import hashlib
import io
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mint_iqa.errors import MintIQAError
from mint_iqa.image_limits import (
    MAX_BYTES,
    MAX_PIXELS,
    TooCostlyError,
    check_file,
    check_size,
    gif_goes_on,
    too_complex,
)

MAX_EXIF_BYTES = 2**20
# Pixels converted at once: a picture of the largest size would take gigabytes on the way to RGB.
BAND = 2**20

# First bytes of each format. The readers are called directly: `Image.open` would apply Pillow's own pixel
# limit, which can only be changed for the whole process.
_READERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
)

# EXIF orientation -> what turns the stored pixels upright (EXIF 2.3, 4.6.4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Source = str | Path | bytes | Image.Image
Fitting = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class ReadImage:
    """A picture ready to be scored.

    `rgb` is upright, 8 bit, mode RGB, at least 8 pixels per side; `size` (width, height) is its size as
    read, even if `rgb` was fitted to a model later; `sha256` is the hex digest of the file's bytes
    (None for a PIL image, which has no file); `warnings` says in plain words what was done to the picture.
    """

    rgb: Image.Image
    size: tuple[int, int]
    sha256: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """RGB image of any shape -> RGB side x side (bicubic, antialiased); idempotent.

    The whole picture is squeezed into the square if the ratio of its sides is at most `max_aspect`; a longer
    one is first cropped to its middle part of that ratio. This is not in processing.py because processes that
    only read pictures should not load torch.
    """

    side: int
    max_aspect: float

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        long_side = self.max_aspect * min(width, height)
        spare_x, spare_y = max(0.0, width - long_side) / 2, max(0.0, height - long_side) / 2
        box = (spare_x, spare_y, width - spare_x, height - spare_y)
        return image.resize((self.side, self.side), Image.Resampling.BICUBIC, box=box)


def read_image(source: Source, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> ReadImage:
    """Read a path, the bytes of a file, or a PIL image as one upright RGB picture.

    The EXIF orientation is applied, transparency is laid on white, 16-bit and float pixels are scaled to 8
    bit, and of several frames or pages the first is taken; a warning says so wherever that was a choice.
    `max_pixels` limits width x height, `max_bytes` the size of the file.

    Raises MintIQAError, and nothing else, for whatever can't be read: `image_missing`, `image_is_a_folder`,
    `image_unreadable`, `image_empty`, `image_not_an_image`, `image_truncated`, `image_too_large`,
    `image_too_small`, `image_too_complex`, `image_bad_pixels`, `bad_argument`.
    """
    if isinstance(source, Image.Image):
        return _decode(lambda: source, "the PIL image", None, max_pixels)
    if isinstance(source, bytes):
        return _decode_bytes(source, "the image data", max_pixels, max_bytes)
    if isinstance(source, str | Path):
        return _decode_bytes(_file_bytes(source, max_bytes), str(source), max_pixels, max_bytes)
    raise MintIQAError(
        "bad_argument", f"An image can't be a {type(source).__name__}: give a path, bytes or a PIL image."
    )


def _file_bytes(source: str | Path, max_bytes: int) -> bytes:
    if "://" in str(source):
        raise MintIQAError(
            "image_missing", f"{source} is a web address: download the image and give its path."
        )
    path = Path(source)
    try:
        mode = path.stat().st_mode
        if str(source) and stat.S_ISDIR(mode):
            raise MintIQAError("image_is_a_folder", f"{source} is a folder: name the image files in it.")
        if not stat.S_ISREG(mode):  # reading a pipe or device could wait forever
            raise MintIQAError("image_missing", f"{str(source)!r} is not a file: give the path of an image.")
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise MintIQAError("image_missing", f"{source} does not exist: check the path.") from None
    except PermissionError:
        raise MintIQAError("image_unreadable", f"{source} may not be read: change its permissions.") from None
    except (OSError, ValueError) as error:
        raise MintIQAError(
            "image_unreadable", f"{source!s:.200} can't be read ({error}): check the path."
        ) from None


def _decode_bytes(data: bytes, label: str, max_pixels: int, max_bytes: int) -> ReadImage:
    if not data:
        raise MintIQAError("image_empty", f"{label} is empty: save or download it again.")
    if len(data) > max_bytes:
        limit = f"{max_bytes / 2**20:.3g} MiB"
        raise MintIQAError("image_too_large", f"{label} is larger than {limit}: save it smaller.")
    reader = _reader_of(data, label)
    file = check_file(data, reader.format or "", label)
    digest = hashlib.sha256(data).hexdigest()

    def open_file() -> ImageFile:
        image = reader(file)
        file.header_done()
        return image

    return _decode(open_file, label, digest, max_pixels)


def _reader_of(data: bytes, label: str) -> type[ImageFile]:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    for signature, reader in _READERS:
        if data.startswith(signature):
            return reader
    raise MintIQAError(
        "image_not_an_image", f"{label} is not a PNG, JPEG, WebP, GIF, BMP or TIFF image: convert it to PNG."
    )


def _decode(opener: Callable[[], Image.Image], label: str, digest: str | None, max_pixels: int) -> ReadImage:
    try:
        image = opener()
        check_size(image, label, max_pixels)
        has_more_frames = isinstance(image, ImageFile) and _has_more_frames(image)
        image.load()
        rgb, warnings = _upright_rgb(image, label, has_more_frames)
        return ReadImage(rgb, rgb.size, digest, warnings)
    except MintIQAError:
        raise
    except TooCostlyError:
        raise too_complex(label) from None
    except MemoryError:
        raise MintIQAError("image_too_large", f"{label} does not fit into memory: save it smaller.") from None
    except Exception as error:  # Pillow's readers raise anything: SyntaxError, struct.error, ...
        raise MintIQAError(
            "image_truncated", f"{label} is cut short or damaged: copy or export it again."
        ) from error


def _upright_rgb(
    image: Image.Image, label: str, has_more_frames: bool
) -> tuple[Image.Image, tuple[str, ...]]:
    rgb, warnings = _to_rgb(image, label)
    orientation, orientation_warnings = _orientation(image)
    if has_more_frames:
        kind = "pages" if image.format == "TIFF" else "frames"
        warnings += (f"it has several {kind}: only the first was used",)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return rgb, warnings + orientation_warnings


def _orientation(image: Image.Image) -> tuple[int, tuple[str, ...]]:
    try:
        if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
            raise ValueError("too long to be parsed")
        return int(image.getexif().get(ExifTags.Base.Orientation, 1)), ()
    except Exception:  # damaged EXIF can raise anything, but the pixels may still be good
        return 1, ("its EXIF data is damaged: it may be rotated",)


def _has_more_frames(image: ImageFile) -> bool:
    if isinstance(image, GifImageFile) and image.tile and isinstance(image.fp, io.BytesIO):
        return gif_goes_on(image.fp.getbuffer(), image.tile[0].offset)
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # this looks for a GIF's second frame; a damaged one counts as one
        return True


def _to_rgb(image: Image.Image, label: str) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode.startswith("I;16"):
        return _in_bands(image, _from_16_bit), ()
    if image.mode in ("F", "I"):
        return _from_32_bit(image, label)
    if not image.has_transparency_data:
        return (image.copy() if image.mode == "RGB" else image.convert("RGB")), ()
    lowest = min(_alpha_of(band).getextrema()[0] for _, band in _bands(image))
    warnings = () if lowest == 255 else ("its transparent parts were laid on white",)
    return _in_bands(image, _on_white), warnings


def _bands(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """Horizontal strips of some `BAND` pixels, each with its box."""
    width, height = image.size
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        yield box, image.crop(box)


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for box, band in _bands(image):
        rgb.paste(convert(band), box)
    return rgb


def _alpha_of(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").getchannel("A")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    shades = np.rint(np.arange(65536) / 257).astype(np.uint8)  # Pillow's convert would clip at 255
    if isinstance(key := image.info.get("transparency"), int):  # the one gray that a PNG declares transparent
        shades[key] = 255
    return Image.fromarray(shades[np.asarray(image)]).convert("RGB")


def _from_32_bit(image: Image.Image, label: str) -> tuple[Image.Image, tuple[str, ...]]:
    extrema = [f(np.asarray(band)) for _, band in _bands(image) for f in (np.min, np.max)]
    if not np.isfinite(extrema).all():  # both are NaN if any value is
        raise MintIQAError("image_bad_pixels", f"{label} has pixels that are not numbers: save it as PNG.")
    is_float = image.mode == "F"
    low, high = _value_range(float(min(extrema)), float(max(extrema)), is_float=is_float)
    kind = "float" if is_float else "32-bit"

    def scaled(band: Image.Image) -> Image.Image:
        values = np.asarray(band).astype(np.float64)
        return Image.fromarray(np.rint((values - low) / (high - low) * 255).astype(np.uint8)).convert("RGB")

    warning = f"its {kind} pixels were read as {low:g} (black) to {high:g} (white)"
    return _in_bands(image, scaled), (warning,)


def _value_range(low: float, high: float, *, is_float: bool) -> tuple[float, float]:
    """The usual range that holds all values: 0..1 (floats only), 0..255, 0..65535; else their own."""
    for ceiling in (1.0, 255.0, 65535.0)[not is_float :]:
        if low >= 0 and high <= ceiling:
            return 0.0, ceiling
    return low, high if high > low else low + 1
