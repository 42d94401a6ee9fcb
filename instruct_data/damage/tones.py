"""KADID-10k's distortions of color, brightness and contrast, after its generation code.

Each takes (pixels, strength, rng, scale) and returns uint8[H, W, 3]. Distortions without random draws ignore
`rng`, and those without lengths in pixels ignore `scale`. `distortions.DISTORTIONS` has the strengths.
"""

import numpy as np
from PIL import Image
from scipy import interpolate, ndimage

from instruct_data.damage.pixels import Bytes, Floats, blur, lab_to_rgb, rgb_to_lab, to_bytes

_CODES: Floats = np.arange(256, dtype=np.float32) / np.float32(255)


def color_diffusion(pixels: Bytes, amount: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Color bleeds over edges: chroma is blurred (sigma 1.5 amount + 2 pixels) and scaled by the amount."""
    lab = rgb_to_lab(pixels)
    for plane in (1, 2):
        lab[plane] = np.float32(amount) * blur(lab[plane], (1.5 * amount + 2) * scale)
    return lab_to_rgb(lab)


def color_shift(pixels: Bytes, amount: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Moves green by `amount` pixels to the right and down, at edges. KADID-10k moves it by whole pixels;
    here levels and scales can be fractions, and so can the shift."""
    direction = rng.random(2)
    green = pixels[..., 1].astype(np.float32)
    step = direction / np.hypot(*direction) * amount * scale
    moved = ndimage.shift(green, step, order=1, mode="nearest")
    faulty = pixels.copy()
    faulty[..., 1] = to_bytes(green + _edges(pixels, 4 * scale) * (moved - green))
    return faulty


def _edges(pixels: Bytes, sigma: float) -> Floats:
    """A blurred edge map: float32[H, W], 0 in the flattest hundredth of the picture, 1 in the sharpest."""
    gray = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)
    slopes = [ndimage.correlate1d(gray, (-0.5, 0, 0.5), axis, mode="nearest") for axis in (0, 1)]
    strength = blur(np.hypot(*slopes), sigma)
    low, high = np.percentile(strength[::2, ::2], (1, 99))
    return np.clip((strength - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)


def color_quantization(pixels: Bytes, colors: float, rng: np.random.Generator, scale: float) -> Bytes:
    """A palette of `colors` colors with Floyd-Steinberg dithering."""
    image = Image.fromarray(pixels)
    # Median cut, Pillow's default, spends 64 colors on a brown cat and none on its green eyes.
    palette = image.quantize(round(colors), Image.Quantize.FASTOCTREE)
    return np.asarray(image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB"))


def color_saturation_hsv(pixels: Bytes, factor: float, rng: np.random.Generator, scale: float) -> Bytes:
    """HSV's saturation times the factor. Below 0, hues become their complements."""
    value = pixels.max(axis=-1, keepdims=True).astype(np.float32)
    return to_bytes(value - np.float32(factor) * (value - pixels))


def color_saturation_lab(pixels: Bytes, factor: float, rng: np.random.Generator, scale: float) -> Bytes:
    """CIELAB's chroma times the factor, which looks gaudy."""
    lab = rgb_to_lab(pixels)
    lab[1:] *= np.float32(factor)
    return lab_to_rgb(lab)


def brighten(pixels: Bytes, amount: float, rng: np.random.Generator, scale: float) -> Bytes:
    """The tone curve of `darken` turned upwards: two parts on R, G and B, one part on lightness."""
    lab = rgb_to_lab(pixels)
    lab[0] = 100 * np.clip(_parabola(lab[0] / np.float32(100), -amount), 0, 1)
    on_rgb = 255 * np.clip(_parabola(_CODES, -amount), 0, 1)
    return to_bytes((2 * np.take(on_rgb, pixels) + lab_to_rgb(lab)) / 3)


def darken(pixels: Bytes, amount: float, rng: np.random.Generator, scale: float) -> Bytes:
    """The tone curve through (0, 0), (1/2, 1/2 - amount / 2) and (1, 1)."""
    return np.take(to_bytes(255 * _parabola(_CODES, amount)), pixels)


def _parabola(x: Floats, amount: float) -> Floats:
    return x - 2 * amount * x * (1 - x)


def mean_shift(pixels: Bytes, amount: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Every value raised (or, below 0, lowered) by the same share of the range, and clipped.

    The generation code then stretches the result to 0..1. That step is left out: in a photograph with black
    and white it would turn the shift of the mean into a change of contrast.
    """
    return np.take(to_bytes(255 * (_CODES + np.float32(amount))), pixels)


def contrast_change(pixels: Bytes, amount: float, rng: np.random.Generator, scale: float) -> Bytes:
    """The cubic spline through (.3, .25 - amount / 4), (.5, .5) and (.7, .75 + amount / 4). An amount above
    -.2 makes it steeper than the original, one below makes it flatter."""
    ends = (0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1)
    curve = interpolate.CubicSpline((0, 0.3, 0.5, 0.7, 1), ends)
    return np.take(to_bytes(255 * curve(_CODES)), pixels)


def quantization(pixels: Bytes, thresholds: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Evenly spaced thresholds in each channel, which leave `thresholds` + 1 steps of brightness from 0 to
    255.

    The generation code uses Otsu's thresholds. The even ones, from which it starts, give bands of the same
    width in every picture.
    """
    count = round(thresholds)
    step = np.arange(256) * (count + 1) // 256
    return np.take(to_bytes(step * 255 / count), pixels)
