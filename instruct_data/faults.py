"""Faults made on purpose, so that what is wrong with a picture, how much and where, is known exactly.

Blur, noise, compression, darkness and pixelation are five of the 25 distortions of KADID-10k (Lin, Hosu and
Saupe 2019, "KADID-10k: A Large-scale Artificially Distorted IQA Database") at its five levels, so each comes
with the score people gave it. Malformation is ours: a local structural artefact of the kinds generated
pictures have, with its mask and no human score.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mint_iqa.vocabulary import FAULTS, FaultName

Floats = NDArray[np.float32]

# Level by level, the strengths of the KADID-10k generation code (function `imdist_generator`).
BLUR_SIGMAS = (0.1, 0.5, 1.0, 2.0, 5.0)  # pixels
NOISE_VARIANCES = (0.001, 0.002, 0.003, 0.005, 0.01)  # of values on 0..1
JPEG_QUALITIES = (43, 36, 24, 7, 4)
DARKEN_AMOUNTS = (0.05, 0.1, 0.2, 0.4, 0.8)
PIXELATE_STRENGTHS = (0.01, 0.05, 0.1, 0.2, 0.5)

# Mean differential opinion score per level over KADID-10k's 81 photographs, mapped from 1..5 to 0..1
# (higher is better): its distortions gaussian_blur, white_noise_rgb, jpeg, darken and pixelate.
KADID_SCORES: dict[FaultName, tuple[float, ...]] = {
    "blur": (0.9224, 0.8763, 0.5822, 0.3746, 0.2605),
    "noise": (0.7786, 0.6781, 0.6090, 0.5419, 0.4601),
    "compression": (0.8676, 0.8491, 0.7732, 0.3891, 0.2700),
    "darkness": (0.9201, 0.9055, 0.8462, 0.7070, 0.4442),
    "pixelation": (0.7778, 0.6197, 0.5800, 0.5589, 0.2991),
}

# KADID-10k has no score for an untouched photograph. Its invisible distortions (a blur of sigma 0.1, a mean
# shift of 0, the weakest darkening) got .920 to .922, the ceiling of its raters; untouched lies just above.
CLEAN_SCORE = 0.93
# The bottom of the raters' scale in practice: the strongest blur got .26.
WORST_SCORE = 0.25

# A malformed region's share of the picture, and how far it bends, by level; chosen by eye.
MALFORMED_SHARES = (0.03, 0.06, 0.11, 0.17, 0.25)
MALFORMED_AMPLITUDES = (0.45, 0.55, 0.65, 0.8, 1.0)


@dataclass(frozen=True)
class Faulted:
    """A picture with one known fault.

    image: RGB, the size of the original; level: 1 (weakest) .. 5;
    severity: 0 (invisible) .. 1 (as bad as it gets); mask: float32[H, W] on 0..1, 1 where the fault is;
    mean_score: what people gave this fault at this level, 0..1, higher is better, None for malformation.
    """

    image: Image.Image
    name: FaultName
    level: int
    severity: float
    mask: Floats
    mean_score: float | None


def apply_fault(
    image: Image.Image, name: FaultName, level: int, rng: np.random.Generator, scale: float = 1.0
) -> Faulted:
    """Put one fault into an RGB image; the same generator state gives the same result, to the bit.

    `level` runs from 1 to 5. `scale` multiplies the strengths measured in pixels (blur, pixelation): below 1
    for pictures smaller than KADID-10k's 512 x 384, so that they look as bad at the size people see them.
    Raises ValueError for an image that isn't RGB, an unknown fault, a level outside 1..5 or a scale <= 0.
    """
    if image.mode != "RGB" or name not in FAULTS or level not in range(1, 6) or scale <= 0:
        raise ValueError(f"cannot apply {name!r} at level {level!r}, scale {scale} to a {image.mode} image")
    pixels = np.asarray(image)  # [H, W, 3] uint8
    if name == "malformation":
        faulty, mask = _malform(pixels, level, rng)
    else:
        faulty, mask = _degrade(pixels, name, level, rng, scale), np.ones(pixels.shape[:2], np.float32)
    scores = KADID_SCORES.get(name)
    score = scores[level - 1] if scores else None
    return Faulted(Image.fromarray(faulty), name, level, severity_of(name, level), mask, score)


def severity_of(name: FaultName, level: int) -> float:
    """How bad a fault is at a level (1..5), on 0..1: by human scores where there are any, else level / 5."""
    if name not in KADID_SCORES:
        return level / 5
    loss = (CLEAN_SCORE - KADID_SCORES[name][level - 1]) / (CLEAN_SCORE - WORST_SCORE)
    return float(np.clip(loss, 0.0, 1.0))


# --- whole-picture faults: uint8[H, W, 3] -> uint8[H, W, 3] ---


def _degrade(
    pixels: NDArray[np.uint8], name: FaultName, level: int, rng: np.random.Generator, scale: float
) -> NDArray[np.uint8]:
    i = level - 1
    if name == "blur":
        return _blur(pixels, BLUR_SIGMAS[i] * scale)
    if name == "noise":
        return _noise(pixels, NOISE_VARIANCES[i], rng)
    if name == "compression":
        return _compress(pixels, JPEG_QUALITIES[i])
    if name == "darkness":
        return _darken(pixels, DARKEN_AMOUNTS[i])
    return _pixelate(pixels, PIXELATE_STRENGTHS[i], scale)


def _blur(pixels: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    # truncate=2 gives KADID-10k's window of 2 * ceil(2 sigma) + 1 pixels. float32 planes: uint8 ones would
    # be rounded down between the two passes.
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    blurred = ndimage.gaussian_filter(planes, (0, sigma, sigma), truncate=2.0)
    return _to_bytes(blurred.transpose(1, 2, 0))


def _noise(pixels: NDArray[np.uint8], variance: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    grains = rng.standard_normal(pixels.shape, dtype=np.float32)
    return _to_bytes(pixels + grains * np.float32(255 * variance**0.5))


def _compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _darken(pixels: NDArray[np.uint8], amount: float) -> NDArray[np.uint8]:
    # KADID-10k's tone curve: the parabola through (0, 0), (1/2, 1/2 - amount / 2) and (1, 1).
    x = np.arange(256, dtype=np.float32) / 255
    curve: NDArray[np.uint8] = _to_bytes(255 * (x - 2 * amount * x * (1 - x)))
    return np.take(curve, pixels)


def _pixelate(pixels: NDArray[np.uint8], strength: float, scale: float) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    # A block of one pixel changes nothing, so it's the part above one that scales.
    block = 1 + scale * (1 / (0.95 - strength**0.6) - 1)
    small = (max(1, int(width / block)), max(1, int(height / block)))
    nearest = Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize(small, nearest).resize((width, height), nearest))


def _to_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


# --- malformation: where to read each pixel of one soft-edged region from ---


@dataclass(frozen=True)
class _Region:
    """A rotated ellipse. y, x: pixels from its centre, float32[h, w] over its bounding box; corner: (row,
    column) of that box; reach: its mean radius in pixels; mask: float32[h, w], 1 inside, 0 at the rim."""

    y: Floats
    x: Floats
    corner: tuple[int, int]
    reach: float
    mask: Floats


# (region, amplitude 0..1, rng) -> displacement (dy, dx) in pixels, float32[h, w] each
_Displacement = Callable[[_Region, float, np.random.Generator], tuple[Floats, Floats]]


def _malform(
    pixels: NDArray[np.uint8], level: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Floats]:
    displacement, slides = _MALFORMATIONS[rng.integers(len(_MALFORMATIONS))]
    # What bends needs a wide rim to fade in; what is laid over would show the picture through it.
    region = _region(pixels, MALFORMED_SHARES[level - 1], 0.3 if slides else 0.12, rng)
    dy, dx = displacement(region, MALFORMED_AMPLITUDES[level - 1], rng)
    if slides:
        # Bending that fades towards the rim leaves no seam.
        dy, dx = dy * region.mask, dx * region.mask
    rows, columns = region.mask.shape
    top, left = region.corner
    faulty = pixels.copy()
    window = faulty[top : top + rows, left : left + columns]
    window[:] = _resample(pixels, region, dy, dx, blend=not slides)
    mask = np.zeros(pixels.shape[:2], np.float32)
    mask[top : top + rows, left : left + columns] = region.mask
    return faulty, mask


def _resample(
    pixels: NDArray[np.uint8], region: _Region, dy: Floats, dx: Floats, blend: bool
) -> NDArray[np.uint8]:
    rows, columns = region.mask.shape
    top, left = region.corner
    # Only the ellipse is read, not its box: reading is nearly all of the time this takes.
    y, x = (part.astype(np.float32) for part in np.nonzero(region.mask))
    inside = region.mask > 0
    places = np.stack([y + top + dy[inside], x + left + dx[inside]])
    read = [ndimage.map_coordinates(pixels[..., c], places, np.float32, 1, "mirror") for c in range(3)]
    patch = pixels[top : top + rows, left : left + columns].copy()
    new = np.stack(read, axis=-1)
    if blend:
        new = patch[inside] + region.mask[inside][:, None] * (new - patch[inside])
    patch[inside] = _to_bytes(new)
    return patch


def _region(pixels: NDArray[np.uint8], share: float, rim: float, rng: np.random.Generator) -> _Region:
    """An ellipse of `share` of the picture, its mask fading over `rim` of its radius, somewhere visible."""
    height, width = pixels.shape[:2]
    reach = (share * height * width / np.pi) ** 0.5
    stretch, turn = rng.uniform(0.8, 1.25), rng.uniform(0, np.pi)
    half = reach * max(stretch, 1 / stretch) * 1.15
    cy, cx = _busy_place(pixels, half, rng)
    top, bottom = max(0, int(cy - half)), min(height, int(cy + half) + 1)
    left, right = max(0, int(cx - half)), min(width, int(cx + half) + 1)
    y = np.broadcast_to(np.arange(top, bottom, dtype=np.float32)[:, None] - cy, (bottom - top, right - left))
    x = np.broadcast_to(np.arange(left, right, dtype=np.float32) - cx, y.shape)
    u = (x * np.cos(turn) + y * np.sin(turn)) / (reach * stretch)
    v = (y * np.cos(turn) - x * np.sin(turn)) / (reach / stretch)
    edge = np.clip((1 + rim / 2 - np.hypot(u, v)) / rim, 0, 1)
    mask = (edge * edge * (3 - 2 * edge)).astype(np.float32)
    return _Region(y.astype(np.float32), x.astype(np.float32), (top, left), reach, mask)


def _busy_place(pixels: NDArray[np.uint8], half: float, rng: np.random.Generator) -> tuple[float, float]:
    """A centre whose surroundings have structure: bending an empty sky would be a fault nobody can see."""
    height, width = pixels.shape[:2]
    y = rng.uniform(min(half, height / 2), max(height - half, height / 2), 12).astype(np.float32)
    x = rng.uniform(min(half, width / 2), max(width - half, width / 2), 12).astype(np.float32)
    step = max(1, min(height, width) // 96)
    grey = pixels[::step, ::step, 1].astype(np.float32)
    edges = np.hypot(*np.gradient(grey)) if min(grey.shape) > 1 else np.zeros_like(grey)
    busy = ndimage.uniform_filter(edges, max(3, int(half / step)))
    row = (y / step).astype(int).clip(0, busy.shape[0] - 1)
    column = (x / step).astype(int).clip(0, busy.shape[1] - 1)
    best = rng.choice(np.argsort(busy[row, column])[-3:])  # of the three busiest of twelve
    return float(y[best]), float(x[best])


def _smooth_field(shape: tuple[int, ...], cells: int, rng: np.random.Generator) -> Floats:
    """Random hills and hollows on about -1..1: `cells` x `cells` control points, smoothly joined."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def _warp(region: _Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    size = np.float32(0.55 * amplitude * region.reach)
    shape = region.mask.shape
    return size * _smooth_field(shape, 6, rng), size * _smooth_field(shape, 6, rng)


def _duplicate(region: _Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    distance, angle = region.reach * (0.5 + 0.6 * amplitude), rng.uniform(0, 2 * np.pi)
    shift = np.zeros_like(region.mask)
    return shift + np.float32(distance * np.sin(angle)), shift + np.float32(distance * np.cos(angle))


def _melt(region: _Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A swirl, then a stretch along one direction in strands, as wax runs."""
    spin = rng.choice([-1, 1]) * 1.8 * amplitude * np.exp(-(region.y**2 + region.x**2) / region.reach**2)
    sin, cos = np.sin(spin), np.cos(spin)
    dy, dx = region.x * sin + region.y * (cos - 1), region.x * (cos - 1) - region.y * sin
    strands = _smooth_field((1, region.mask.shape[1]), 9, rng)
    run = np.float32(0.6 * amplitude * region.reach) * strands - np.float32(0.5 * amplitude) * region.y
    return (dy + run).astype(np.float32), dx.astype(np.float32)


def _break_symmetry(region: _Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A mirrored patch, tilted so that it doesn't fit even where the picture is symmetric."""
    tilt = rng.choice([-1, 1]) * np.float32(0.25 + 0.4 * amplitude)
    sin, cos = np.sin(tilt), np.cos(tilt)
    y, x = region.y * cos - region.x * sin, -region.x * cos - region.y * sin
    return y - region.y, x - region.x


def _scramble(region: _Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Small pieces read from each other's places; their joints are stretched, not cut."""
    cells = int(rng.integers(6, 10))
    size = 0.6 * amplitude * region.reach
    coarse = rng.uniform(-size, size, (2, cells, cells)).astype(np.float32)
    rows, columns = region.mask.shape
    joint = max(1, int(region.reach / 12))
    wide = coarse[:, np.arange(rows) * cells // rows][:, :, np.arange(columns) * cells // columns]
    dy, dx = ndimage.uniform_filter(wide, (0, joint, joint))
    return dy, dx


# Each with whether it slides (bends what is there) or is laid over the picture with a feathered edge.
_MALFORMATIONS: tuple[tuple[_Displacement, bool], ...] = (
    (_warp, True),
    (_duplicate, False),
    (_melt, True),
    (_break_symmetry, False),
    (_scramble, True),
)
