"""The six faults that the model names, put into pictures on purpose. So the fault, its strength and its place
are known exactly.

Five are distortions of KADID-10k under the model's names. Malformation is any artifact that bends a part of
the picture.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from instruct_data.damage.artifacts import BENDS, add_artifact
from instruct_data.damage.distortions import DISTORTIONS, LEVELS, Distorted, distort, severity_of_score
from mint_iqa.vocabulary import FAULTS, FaultName

KADID_NAMES: dict[FaultName, str] = {
    "blur": "gaussian_blur",
    "noise": "white_noise_rgb",
    "compression": "jpeg",
    "darkness": "darken",
    "pixelation": "pixelate",
}
# The model's name for each distortion or artifact. It has no name for the others (a shift of color, a seam).
FAULT_OF: dict[str, FaultName] = {
    **dict.fromkeys(("gaussian_blur", "lens_blur", "motion_blur"), "blur"),
    **dict.fromkeys(
        ("white_noise_rgb", "white_noise_ycbcr", "impulse_noise", "multiplicative_noise"), "noise"
    ),
    **dict.fromkeys(("jpeg", "jpeg2000"), "compression"),
    "darken": "darkness",
    "pixelate": "pixelation",
    **dict.fromkeys(BENDS, "malformation"),
}
# Mean human score per level, 0..1, higher is better.
KADID_SCORES: dict[FaultName, tuple[float, ...]] = {
    fault: DISTORTIONS[name].scores for fault, name in KADID_NAMES.items()
}


def apply_fault(
    image: Image.Image, name: FaultName, level: int, rng: np.random.Generator, scale: float = 1.0
) -> Distorted:
    """Put one fault into an RGB image; the same generator state gives the same bits.

    `level` runs from 1 to 5. `scale` multiplies strengths in pixels (blur, pixelation). It is below 1 for
    pictures smaller than KADID-10k's 512 x 384, so that they look equally bad at the size people see.
    Raises ValueError for an image that isn't RGB, an unknown fault, a level outside 1..5 or a scale <= 0.
    """
    if name not in FAULTS or level not in LEVELS or scale <= 0:
        raise ValueError(f"cannot apply {name!r} at level {level!r}, scale {scale} to a {image.mode} image")
    if name in KADID_NAMES:
        result = distort(image, KADID_NAMES[name], level, rng, scale=scale)
    else:
        result = add_artifact(image, BENDS[rng.integers(len(BENDS))], level, rng)
    return replace(result, name=name)


def severity_of(name: FaultName, level: int) -> float:
    """The severity of a fault at a level (1..5), on 0..1: from human scores if they exist, else level / 5."""
    return severity_of_score(KADID_SCORES[name][level - 1]) if name in KADID_SCORES else level / 5
