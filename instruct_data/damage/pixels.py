"""Arrays of pixels: rounding to bytes, CIELAB and back, and a Gaussian blur that is fast at any width."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Bytes = NDArray[np.uint8]  # [H, W, 3], sRGB
Floats = NDArray[np.float32]

# sRGB (IEC 61966-2-1) to CIE XYZ, each row divided by the D65 white point.
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])
_XYZ_TO_RGB = np.linalg.inv(_RGB_TO_XYZ).astype(np.float32)
_CODES = np.arange(256) / 255
_LINEAR = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4).astype(np.float32)
_KNEE = 6 / 29  # the CIELAB curve is a straight line below it and a cube root above


def to_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Round and clip values on 0..255; any shape."""
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def rgb_to_lab(pixels: Bytes) -> Floats:
    """uint8[H, W, 3] -> float32[3, H, W]: L on 0..100, a and b about -110..110 (0 is gray)."""
    linear = np.take(_LINEAR, pixels).reshape(-1, 3).T
    xyz = _RGB_TO_XYZ.astype(np.float32) @ linear
    x, y, z = np.where(xyz > _KNEE**3, np.cbrt(xyz), xyz / np.float32(3 * _KNEE**2) + np.float32(4 / 29))
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)]).reshape(3, *pixels.shape[:2])


def lab_to_rgb(lab: Floats) -> Bytes:
    """The inverse of `rgb_to_lab`; colors that sRGB lacks are clipped channel by channel."""
    y = (lab[0] + 16) / 116
    roots = np.stack([y + lab[1] / 500, y, y - lab[2] / 200]).reshape(3, -1)
    xyz = np.where(roots > _KNEE, roots**3, np.float32(3 * _KNEE**2) * (roots - np.float32(4 / 29)))
    linear = np.clip(_XYZ_TO_RGB @ xyz, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
    return to_bytes(255 * encoded.T.reshape(*lab.shape[1:], 3))


def blur(plane: Floats, sigma: float) -> Floats:
    """Gaussian blur of float32[H, W]; above a sigma of 4 pixels on a smaller copy, which looks the same."""
    if sigma <= 4:
        return ndimage.gaussian_filter(plane, sigma, truncate=2.0)
    height, width = plane.shape
    factor = sigma / 2
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX))
    # Shrinking (a box) and enlarging (a tent) already contribute factor^2 / 4 of the variance sigma^2.
    blurred = ndimage.gaussian_filter(small, (sigma**2 / factor**2 - 0.25) ** 0.5, truncate=2.0)
    return np.asarray(Image.fromarray(blurred).resize((width, height), Image.Resampling.BILINEAR))
