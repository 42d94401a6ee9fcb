"""The 25 distortions of KADID-10k at any level from 1 to 5, with the score that people gave each: Lin, Hosu
and Saupe 2019, "KADID-10k: A Large-scale Artificially Distorted IQA Database"."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from instruct_data.damage import details, tones
from instruct_data.damage.pixels import Bytes, Floats
from instruct_data.damage.regions import Region, busy_ellipse

LEVELS = (1, 2, 3, 4, 5)

# KADID-10k has no score for an unchanged photograph. Its invisible distortions (a blur of sigma 0.1, a mean
# shift of 0, the weakest darkening) got .920 to .922, the highest scores. An unchanged one is put just above.
CLEAN_SCORE = 0.93
# The lowest score in practice: the strongest blur got .26.
WORST_SCORE = 0.25
# The raters' scale ran from 1 to 5, and scores are a fifth of it. A rating of 1 means no quality.
LOWEST_SCORE = 0.2


@dataclass(frozen=True)
class Distorted:
    """A picture with one known fault.

    image: RGB, the size of the original; level: 1 (weakest) .. 5, may be a fraction;
    severity: 0 (invisible) .. 1 (worst), inside the mask; mask: float32[H, W] on 0..1, 1 where the fault is,
    0 where the picture is unchanged; mean_score: people's score for this distortion and level over a whole
    photograph, 0..1, higher is better, None for a fault that nobody rated.
    """

    image: Image.Image
    name: str
    level: float
    severity: float
    mask: Floats
    mean_score: float | None


@dataclass(frozen=True)
class Distortion:
    """A distortion of KADID-10k.

    apply: (pixels, strength, rng, scale) -> pixels; strengths: by level, from the generation code (function
    `imdist_generator`); scores: by level, the mean differential opinion score over 81 photographs, a fifth of
    the raters' 1..5, higher is better; patches: whether it inserts whole patches and leaves the rest of the
    picture unchanged.
    """

    apply: Callable[[Bytes, float, np.random.Generator, float], Bytes]
    strengths: tuple[float, ...]
    scores: tuple[float, ...]
    patches: bool = False


# fmt: off
DISTORTIONS: dict[str, Distortion] = {
    "gaussian_blur": Distortion(
        details.gaussian_blur, (0.1, 0.5, 1, 2, 5), (0.9224, 0.8763, 0.5822, 0.3746, 0.2605)),
    "lens_blur": Distortion(
        details.lens_blur, (1, 2, 4, 6, 8), (0.7725, 0.5307, 0.3512, 0.2884, 0.2598)),
    "motion_blur": Distortion(
        details.motion_blur, (1, 2, 4, 6, 10), (0.9208, 0.8190, 0.5696, 0.4350, 0.3336)),
    "color_diffusion": Distortion(
        tones.color_diffusion, (1, 3, 6, 8, 12), (0.8990, 0.5204, 0.3512, 0.3210, 0.2788)),
    "color_shift": Distortion(
        tones.color_shift, (1, 3, 6, 8, 12), (0.8453, 0.5091, 0.3833, 0.3707, 0.3728)),
    "color_quantization": Distortion(
        tones.color_quantization, (64, 48, 32, 16, 8), (0.8216, 0.7947, 0.7437, 0.6406, 0.4850)),
    "color_saturation_hsv": Distortion(
        tones.color_saturation_hsv, (0.4, 0.2, 0.1, 0, -0.4), (0.5493, 0.4669, 0.4524, 0.4487, 0.4055)),
    "color_saturation_lab": Distortion(
        tones.color_saturation_lab, (1, 2, 3, 6, 9), (0.9160, 0.6661, 0.5297, 0.3631, 0.3050)),
    "jpeg2000": Distortion(
        details.jpeg2000, (16, 32, 45, 120, 400), (0.9106, 0.8409, 0.7747, 0.4890, 0.2788)),
    "jpeg": Distortion(
        details.jpeg, (43, 36, 24, 7, 4), (0.8676, 0.8491, 0.7732, 0.3891, 0.2700)),
    "white_noise_rgb": Distortion(
        details.white_noise_rgb, (0.001, 0.002, 0.003, 0.005, 0.01),
        (0.7786, 0.6781, 0.6090, 0.5419, 0.4601)),
    "white_noise_ycbcr": Distortion(
        details.white_noise_ycbcr, (0.0001, 0.0005, 0.001, 0.002, 0.003),
        (0.8937, 0.7365, 0.6340, 0.5374, 0.4760)),
    "impulse_noise": Distortion(
        details.impulse_noise, (0.001, 0.005, 0.01, 0.02, 0.03), (0.7168, 0.5861, 0.5225, 0.4625, 0.4264)),
    "multiplicative_noise": Distortion(
        details.multiplicative_noise, (0.001, 0.005, 0.01, 0.02, 0.05),
        (0.8809, 0.7163, 0.6168, 0.5279, 0.4235)),
    "denoise": Distortion(
        details.denoise, (0.01, 0.03, 0.05, 0.1, 0.15), (0.7335, 0.5454, 0.4405, 0.3310, 0.2933)),
    "brighten": Distortion(
        tones.brighten, (0.1, 0.2, 0.4, 0.7, 1.1), (0.9011, 0.8575, 0.7265, 0.5402, 0.3619)),
    "darken": Distortion(
        tones.darken, (0.05, 0.1, 0.2, 0.4, 0.8), (0.9201, 0.9055, 0.8462, 0.7070, 0.4442)),
    # From bright to dark, and weakest in the middle.
    "mean_shift": Distortion(
        tones.mean_shift, (0.15, 0.08, 0, -0.08, -0.15), (0.8436, 0.9038, 0.9206, 0.8739, 0.7807)),
    "jitter": Distortion(
        details.jitter, (0.05, 0.1, 0.2, 0.5, 1), (0.8839, 0.8173, 0.6470, 0.3697, 0.2677)),
    "non_eccentricity_patch": Distortion(
        details.non_eccentricity_patch, (20, 40, 60, 80, 100), (0.8667, 0.7876, 0.7545, 0.6929, 0.6522),
        patches=True),
    "pixelate": Distortion(
        details.pixelate, (0.01, 0.05, 0.1, 0.2, 0.5), (0.7778, 0.6197, 0.5800, 0.5589, 0.2991)),
    "quantization": Distortion(
        tones.quantization, (20, 16, 13, 10, 7), (0.8337, 0.7867, 0.7372, 0.6746, 0.5598)),
    "color_block": Distortion(
        details.color_block, (2, 4, 6, 8, 10), (0.5374, 0.4718, 0.4599, 0.4252, 0.4070), patches=True),
    "high_sharpen": Distortion(
        details.high_sharpen, (1, 2, 3, 6, 12), (0.7158, 0.5272, 0.4273, 0.3227, 0.2672)),
    # From steep to flat. Levels 3 and 4 change equally much, but -.2 between them changes nothing, which the
    # interpolated score cannot express.
    "contrast_change": Distortion(
        tones.contrast_change, (0.3, 0.15, 0, -0.4, -0.6), (0.6839, 0.7717, 0.8580, 0.8283, 0.6648)),
}
# fmt: on


def distort(
    image: Image.Image,
    name: str,
    level: float,
    rng: np.random.Generator,
    region: float | None = None,
    scale: float = 1.0,
) -> Distorted:
    """Put one of `DISTORTIONS` into an RGB image; the same generator state gives the same bits.

    `level` runs from 1 to 5; strength and score are interpolated between whole levels. `region` is the share
    of the picture (above 0, up to 1) that a soft-edged ellipse around something visible covers; without it
    the whole picture is distorted. `scale` multiplies lengths in pixels (the width of a blur, the size of a
    block). It is below 1 for pictures smaller than KADID-10k's 512 x 384, so that they look equally bad at
    the size people see.
    Raises ValueError for an image that isn't RGB, an unknown name, a level outside 1..5, a region outside
    0..1 or a scale <= 0.
    """
    known = image.mode == "RGB" and name in DISTORTIONS
    if not (known and 1 <= level <= 5 and (region is None or 0 < region <= 1) and scale > 0):
        where = "the whole" if region is None else f"a share {region}"
        raise ValueError(
            f"cannot apply {name!r} at level {level!r}, scale {scale}, to {where} of a {image.mode} image"
        )
    kind, pixels = DISTORTIONS[name], np.asarray(image)
    place = None if region is None else busy_ellipse(pixels, region, 0.3, rng)
    strength, score = at_level(kind.strengths, level), at_level(kind.scores, level)
    faulty, mask = _apply(kind, pixels, strength, rng, scale, place)
    return Distorted(Image.fromarray(faulty), name, level, severity_of_score(score), mask, score)


def at_level(values: Sequence[float], level: float) -> float:
    """The value at a level from 1 to 5, interpolated between whole levels."""
    return float(np.interp(level, LEVELS, values))


def severity_of_score(score: float) -> float:
    """The severity of a mean score on 0..1: 0 is as good as unchanged, 1 is the worst that people report."""
    return float(np.clip((CLEAN_SCORE - score) / (CLEAN_SCORE - WORST_SCORE), 0.0, 1.0))


def kept_quality(score: float) -> float:
    """The share of its quality that a picture keeps under a distortion with this mean score, 0..1."""
    return float(np.clip((score - LOWEST_SCORE) / (CLEAN_SCORE - LOWEST_SCORE), 0.0, 1.0))


def _apply(
    kind: Distortion,
    pixels: Bytes,
    strength: float,
    rng: np.random.Generator,
    scale: float,
    place: Region | None,
) -> tuple[Bytes, Floats]:
    if kind.patches:  # patches with hard edges: they lie inside the place, and the mask is exactly them
        faulty = pixels.copy()
        window = np.s_[:, :] if place is None else place.core
        faulty[window] = kind.apply(pixels[window], strength, rng, scale)
        return faulty, (faulty != pixels).any(axis=-1).astype(np.float32)
    faulty = kind.apply(pixels, strength, rng, scale)
    if place is None:
        return faulty, np.ones(pixels.shape[:2], np.float32)
    return place.put(pixels, place.blend(pixels[place.window], faulty[place.window]))
