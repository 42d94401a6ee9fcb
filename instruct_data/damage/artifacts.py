"""Structural artifacts like those of generated pictures, each in one region with its mask.

Nobody rated them, so they have a severity by level but no human score. Areas and strengths were chosen by
eye.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from instruct_data.damage.distortions import Distorted, at_level
from instruct_data.damage.garble import garbled_text
from instruct_data.damage.pixels import Bytes, Floats, to_bytes
from instruct_data.damage.regions import Region, around, busy_ellipse

# By level: the damaged region's share of the picture, and the strength of the damage.
AREA_SHARES = (0.03, 0.06, 0.11, 0.17, 0.25)
AMPLITUDES = (0.45, 0.55, 0.65, 0.8, 1.0)

# (region, amplitude 0..1, rng) -> displacement (dy, dx) in pixels, float32[h, w] each
_Displacement = Callable[[Region, float, np.random.Generator], tuple[Floats, Floats]]


def kept_authenticity(severity: float) -> float:
    """The share of its authenticity that a picture keeps with an artifact of this severity, 0..1.

    This is an assumption, since nobody rated artifacts: the worst one takes away four fifths.
    """
    return 1 - 0.8 * severity


def add_artifact(image: Image.Image, name: str, level: float, rng: np.random.Generator) -> Distorted:
    """Put one of `ARTIFACTS` into an RGB image; the same generator state gives the same bits.

    `level` runs from 1 to 5 and sets the share of the picture and the strength; severity is level / 5.
    Raises ValueError for an image that isn't RGB, an unknown artifact or a level outside 1..5.
    """
    if image.mode != "RGB" or name not in ARTIFACTS or not 1 <= level <= 5:
        raise ValueError(f"cannot apply {name!r} at level {level!r} to a {image.mode} image")
    pixels = np.asarray(image)
    share, amplitude = at_level(AREA_SHARES, level), at_level(AMPLITUDES, level)
    if name in _DISPLACEMENTS:
        region, patch = _bend(pixels, name, share, amplitude, rng)
    else:
        draw = garbled_text if name == "garbled_text" else _seam
        region, patch = draw(pixels, share, amplitude, rng)
    faulty, mask = region.put(pixels, patch)
    return Distorted(Image.fromarray(faulty), name, level, level / 5, mask, None)


# --- bends: a displacement of the pixels of one soft-edged region ---


def _bend(
    pixels: Bytes, name: str, share: float, amplitude: float, rng: np.random.Generator
) -> tuple[Region, Bytes]:
    displacement, slides = _DISPLACEMENTS[name]
    # A bend fades in over a wide rim. An overlay would show the picture through it.
    region = busy_ellipse(pixels, share, 0.3 if slides else 0.12, rng)
    dy, dx = displacement(region, amplitude, rng)
    if slides:
        # A bend that fades towards the rim leaves no seam.
        dy, dx = dy * region.mask, dx * region.mask
    return region, _resample(pixels, region, dy, dx, blend=not slides)


def _resample(pixels: Bytes, region: Region, dy: Floats, dx: Floats, blend: bool) -> Bytes:
    top, left = region.corner
    # Read only what the mask covers, not its box: reading takes nearly all of the time.
    y, x = (part.astype(np.float32) for part in np.nonzero(region.mask))
    inside = region.mask > 0
    places = np.stack([y + top + dy[inside], x + left + dx[inside]])
    read = [ndimage.map_coordinates(pixels[..., c], places, np.float32, 1, "mirror") for c in range(3)]
    patch = pixels[region.window].copy()
    new = np.stack(read, axis=-1)
    if blend:
        new = patch[inside] + region.mask[inside][:, None] * (new - patch[inside])
    patch[inside] = to_bytes(new)
    return patch


def _smooth_field(shape: tuple[int, ...], cells: int, rng: np.random.Generator) -> Floats:
    """A smooth random field on about -1..1, from `cells` x `cells` control points."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def _warp(region: Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    size = np.float32(0.55 * amplitude * region.reach)
    shape = region.mask.shape
    return size * _smooth_field(shape, 6, rng), size * _smooth_field(shape, 6, rng)


def _duplicate(region: Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    distance, angle = region.reach * (0.5 + 0.6 * amplitude), rng.uniform(0, 2 * np.pi)
    shift = np.zeros_like(region.mask)
    return shift + np.float32(distance * np.sin(angle)), shift + np.float32(distance * np.cos(angle))


def _melt(region: Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A swirl, then a stretch in strands along one direction, like running wax."""
    spin = rng.choice([-1, 1]) * 1.8 * amplitude * np.exp(-(region.y**2 + region.x**2) / region.reach**2)
    sin, cos = np.sin(spin), np.cos(spin)
    dy, dx = region.x * sin + region.y * (cos - 1), region.x * (cos - 1) - region.y * sin
    strands = _smooth_field((1, region.mask.shape[1]), 9, rng)
    run = np.float32(0.6 * amplitude * region.reach) * strands - np.float32(0.5 * amplitude) * region.y
    return (dy + run).astype(np.float32), dx.astype(np.float32)


def _break_symmetry(region: Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A mirrored patch, tilted so that it doesn't fit even where the picture is symmetric."""
    tilt = rng.choice([-1, 1]) * np.float32(0.25 + 0.4 * amplitude)
    sin, cos = np.sin(tilt), np.cos(tilt)
    y, x = region.y * cos - region.x * sin, -region.x * cos - region.y * sin
    return y - region.y, x - region.x


def _scramble(region: Region, amplitude: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Small pieces read from nearby places; their joints are stretched, not cut."""
    cells = int(rng.integers(6, 10))
    size = 0.6 * amplitude * region.reach
    coarse = rng.uniform(-size, size, (2, cells, cells)).astype(np.float32)
    rows, columns = region.mask.shape
    joint = max(1, int(region.reach / 12))
    wide = coarse[:, np.arange(rows) * cells // rows][:, :, np.arange(columns) * cells // columns]
    dy, dx = ndimage.uniform_filter(wide, (0, joint, joint))
    return dy, dx


# The flag says whether it slides (bends the picture) or is an overlay with a feathered edge.
_DISPLACEMENTS: dict[str, tuple[_Displacement, bool]] = {
    "warp": (_warp, True),
    "duplicate": (_duplicate, False),
    "melt": (_melt, True),
    "broken_symmetry": (_break_symmetry, False),
    "scramble": (_scramble, True),
}
BENDS: tuple[str, ...] = tuple(_DISPLACEMENTS)  # "malformation" draws from this order
ARTIFACTS: tuple[str, ...] = (*BENDS, "garbled_text", "seam")


# --- seams of tiled generation ---


def _seam(pixels: Bytes, share: float, amplitude: float, rng: np.random.Generator) -> tuple[Region, Bytes]:
    """A straight cut where two tiles don't fit: they are displaced along it in opposite directions and differ
    in brightness; both effects fade with the distance from the cut."""
    upright = bool(rng.integers(2))
    region = _band(pixels, upright, rng.uniform(0.3, 0.7), share)
    side: Floats = np.sign(region.x if upright else region.y) * region.mask
    strength = amplitude * share**0.5
    shift: Floats = side * np.float32(rng.choice([-1, 1]) * 0.09 * strength * min(pixels.shape[:2]))
    dy, dx = (shift, np.zeros_like(shift)) if upright else (np.zeros_like(shift), shift)
    tone: Floats = side * np.float32(rng.choice([-1, 1]) * 0.25 * strength)
    moved = _resample(pixels, region, dy, dx, blend=False)
    return region, to_bytes(moved * (1 + tone[..., None]))


def _band(pixels: Bytes, upright: bool, at: float, share: float) -> Region:
    """A band along a line at a share `at` of the width (or the height), fading out on both sides."""
    height, width = pixels.shape[:2]
    across = width if upright else height
    reach = max(2.0, share * across)
    if upright:
        corner, y, x = around(pixels, (height / 2, at * across), (height, reach))
    else:
        corner, y, x = around(pixels, (at * across, width / 2), (reach, width))
    mask: Floats = np.clip(1 - np.abs(x if upright else y) / np.float32(reach), 0, 1)
    return Region(y, x, corner, reach, mask)
