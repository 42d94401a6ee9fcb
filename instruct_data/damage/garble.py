"""Pseudo-text like that of image generators: lines of marks that look like letters but are not."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from instruct_data.damage.pixels import Bytes, Floats
from instruct_data.damage.regions import Region, around, busy_place

_OVERSAMPLING = 3  # the text is drawn larger and then shrunk, for smooth strokes


def garbled_text(
    pixels: Bytes, share: float, amplitude: float, rng: np.random.Generator
) -> tuple[Region, Bytes]:
    """A plate that covers `share` of the picture, in the color of the background, with lines of pseudo-text;
    a higher amplitude (0..1) bends the lines more."""
    height, width = pixels.shape[:2]
    tall = (share * height * width / rng.uniform(1.8, 2.6)) ** 0.5
    wide = min(share * height * width / max(tall, 1), 0.95 * width)
    center = busy_place(pixels, 0.6 * wide, rng)
    half = (tall / 2, wide / 2)
    corner, y, x = around(pixels, center, (tall / 2 + wide / 6, wide / 2 + tall / 6))  # room for the tilt
    tilt = rng.uniform(-0.2, 0.2)
    u, v = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    rim = max(1.0, tall / 20)
    inside = np.minimum((half[0] - np.abs(v)) / rim, (half[1] - np.abs(u)) / rim)
    region = Region(y, x, corner, tall / 2, np.clip(inside, 0, 1).astype(np.float32))
    ink = _bent(_lines(round(wide), round(tall), rng), u + half[1], v + half[0], amplitude, rng)
    before = pixels[region.window]
    return region, region.blend(before, _inked(before, region.mask, ink, rng))


def _inked(before: Bytes, mask: Floats, ink: Floats, rng: np.random.Generator) -> Floats:
    """The plate with ink, float32[h, w, 3]: light on dark or dark on light, for the higher contrast."""
    color = np.average(before.reshape(-1, 3), axis=0, weights=mask.ravel() + 1e-3)
    dark = color.mean() > 110
    paper = color + (0.35 if dark else -0.35) * np.abs((255 if dark else 0) - color)
    written = np.clip((30 if dark else 225) + rng.uniform(-30, 30, 3), 0, 255)
    plate = 0.2 * before + 0.8 * paper
    return (plate + 0.9 * ink[..., None] * (written - plate)).astype(np.float32)


def _bent(page: Floats, x: Floats, y: Floats, amplitude: float, rng: np.random.Generator) -> Floats:
    """The page read at (x, y), with lines that wave by up to a quarter of a line."""
    period, phase = page.shape[1] / rng.uniform(1.5, 3.5), rng.uniform(0, 2 * np.pi)
    wave = amplitude * page.shape[0] / 20 * np.sin(2 * np.pi * x / max(period, 1) + phase)
    return ndimage.map_coordinates(page, np.stack([y + wave, x]), np.float32, 1, "constant")


def _lines(width: int, height: int, rng: np.random.Generator) -> Floats:
    """A page with one to four lines of words: float32[height, width], 1 is ink."""
    size = (max(1, width), max(1, height))
    page = Image.new("L", (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING))
    draw = ImageDraw.Draw(page)
    lines = int(rng.integers(1, 5))
    line = page.height / (lines + 0.3)
    for row in range(lines):
        x, base = 0.3 * line, (row + 0.85) * line
        while x < page.width - 0.5 * line:
            for _ in range(rng.integers(2, 8)):  # the letters of a word
                letter = line * rng.uniform(0.22, 0.4)
                if x + letter > page.width - 0.2 * line:
                    break
                _letter(draw, (x, base), (letter, 0.42 * line), max(1, round(0.08 * line)), rng)
                x += 1.25 * letter
            x += 0.3 * line
    ink: Floats = np.asarray(page.resize(size, Image.Resampling.BOX), np.float32) / np.float32(255)
    return ink


def _letter(
    draw: ImageDraw.ImageDraw,
    foot: tuple[float, float],
    size: tuple[float, float],
    pen: int,
    rng: np.random.Generator,
) -> None:
    """Draw two or three strokes of a letter; `foot` is its lower left corner."""
    (x, y), (w, h) = foot, size
    rise, fall = rng.choice([0, 0, 0.7]) * h, rng.choice([0, 0, 0, 0.5]) * h
    for stroke in rng.choice(6, int(rng.integers(2, 4)), replace=False):
        if stroke < 2:  # a stem, left or right
            draw.line([x + stroke * w, y - h - rise, x + stroke * w, y + fall], 255, pen)
        elif stroke < 4:  # a bowl, whole or open
            start, end = (0, 360) if rng.random() < 0.3 else (a := int(rng.integers(360)), a + 230)
            draw.arc([x, y - h, x + w, y], start, end, 255, pen)
        elif stroke == 4:  # a bar
            height = y - h * rng.uniform(0.1, 1)
            draw.line([x - 0.1 * w, height, x + 1.1 * w, height], 255, pen)
        else:  # a diagonal
            draw.line([(x, y - h), (x + w, y)][:: rng.choice([-1, 1])], 255, pen)
