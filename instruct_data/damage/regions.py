"""Soft-edged regions of a picture, for faults that don't cover all of it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from instruct_data.damage.pixels import Bytes, Floats, to_bytes


@dataclass(frozen=True)
class Region:
    """A part of a picture.

    y, x: distance from its center in pixels, float32[h, w] over its bounding box; corner: (row, column) of
    the box; reach: its mean radius in pixels; mask: float32[h, w], 1 inside, falling to 0 at the rim.
    """

    y: Floats
    x: Floats
    corner: tuple[int, int]
    reach: float
    mask: Floats

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the bounding box."""
        (top, left), (rows, columns) = self.corner, self.mask.shape
        return slice(top, top + rows), slice(left, left + columns)

    @property
    def core(self) -> tuple[slice, slice]:
        """The rows and columns of a square well inside the mask."""
        away = [np.abs(distance) for distance in (self.y[:, 0], self.x[0])]
        near = [np.flatnonzero(d <= max(0.55 * self.reach, d.min())) for d in away]
        rows, columns = (slice(c + n[0], c + n[-1] + 1) for c, n in zip(self.corner, near, strict=True))
        return rows, columns

    def put(self, pixels: Bytes, patch: Bytes) -> tuple[Bytes, Floats]:
        """The picture with `patch` (uint8[h, w, 3]) in the window, and the mask over the whole picture."""
        faulty, mask = pixels.copy(), np.zeros(pixels.shape[:2], np.float32)
        faulty[self.window], mask[self.window] = patch, self.mask
        return faulty, mask

    def blend(self, before: Bytes, after: Floats | Bytes) -> Bytes:
        """`after` blended over `before` by the mask, both [h, w, 3]; exactly `before` where the mask is 0."""
        return to_bytes(before + self.mask[..., None] * (after - before.astype(np.float32)))


def busy_ellipse(pixels: Bytes, share: float, rim: float, rng: np.random.Generator) -> Region:
    """A rotated ellipse of `share` of the picture in a busy place; it fades out over `rim` of its radius."""
    height, width = pixels.shape[:2]
    reach = (share * height * width / np.pi) ** 0.5
    stretch, turn = rng.uniform(0.8, 1.25), rng.uniform(0, np.pi)
    half = reach * max(stretch, 1 / stretch) * 1.15
    cy, cx = busy_place(pixels, half, rng)
    corner, y, x = around(pixels, (cy, cx), (half, half))
    u = (x * np.cos(turn) + y * np.sin(turn)) / (reach * stretch)
    v = (y * np.cos(turn) - x * np.sin(turn)) / (reach / stretch)
    edge = np.clip((1 + rim / 2 - np.hypot(u, v)) / rim, 0, 1)
    mask = (edge * edge * (3 - 2 * edge)).astype(np.float32)
    return Region(y, x, corner, reach, mask)


def busy_place(pixels: Bytes, half: float, rng: np.random.Generator) -> tuple[float, float]:
    """A center with structure around it: nobody would see a bend in an empty sky."""
    height, width = pixels.shape[:2]
    y = rng.uniform(min(half, height / 2), max(height - half, height / 2), 12).astype(np.float32)
    x = rng.uniform(min(half, width / 2), max(width - half, width / 2), 12).astype(np.float32)
    step = max(1, min(height, width) // 96)
    gray = pixels[::step, ::step, 1].astype(np.float32)
    edges = np.hypot(*np.gradient(gray)) if min(gray.shape) > 1 else np.zeros_like(gray)
    busy = ndimage.uniform_filter(edges, max(3, int(half / step)))
    row = (y / step).astype(int).clip(0, busy.shape[0] - 1)
    column = (x / step).astype(int).clip(0, busy.shape[1] - 1)
    best = rng.choice(np.argsort(busy[row, column])[-3:])  # one of the three busiest of twelve places
    return float(y[best]), float(x[best])


def around(
    pixels: Bytes, center: tuple[float, float], half: tuple[float, float]
) -> tuple[tuple[int, int], Floats, Floats]:
    """The box of `half` (height, width) pixels on each side of a center, clipped to the picture: its corner,
    and the distances y and x from the center, float32[h, w]."""
    (top, bottom), (left, right) = (
        (max(0, int(c - h)), min(side, int(c + h) + 1))
        for c, h, side in zip(center, half, pixels.shape[:2], strict=True)
    )
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    return (top, left), y - np.float32(center[0]), x - np.float32(center[1])
