"""A picture to damage, and how much was damaged."""

import numpy as np
from PIL import Image
from scipy import ndimage

from instruct_data.damage.distortions import Distorted


def hills() -> Image.Image:
    """Smooth hills with edges in them, 160 x 128: structure everywhere, no flat place."""
    rng = np.random.default_rng(5)
    height = ndimage.gaussian_filter(rng.standard_normal((128, 160, 3)), (5, 5, 0))
    height = 0.5 + 0.25 * height / height.std() + 0.15 * np.sign(height)
    return Image.fromarray((255 * height.clip(0, 1)).astype(np.uint8))


def change(before: Image.Image, result: Distorted) -> np.ndarray:
    """Absolute change per pixel, float[H, W], on 0..255."""
    return np.abs(np.asarray(result.image, float) - np.asarray(before, float)).mean(-1)
