"""A picture of any size -> the windows that CLIP-AGIQA scores."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mint_iqa.errors import MintIQAError

STRIDE = 64  # pixels between crops
MAX_CROPS = 64  # as many as a picture of 672 x 672 has


def resize(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """RGB uint8[H, W, 3] -> the same with the given short side, in pixels (bicubic, antialiased)."""
    height, width = image.shape[:2]
    factor = short_side / min(height, width)
    size = max(short_side, round(width * factor)), max(short_side, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def crops(
    image: NDArray[np.uint8] | Tensor,
    size: int = 224,
    limit: int = MAX_CROPS,
    mean: Sequence[float] = OPENAI_CLIP_MEAN,
    std: Sequence[float] = OPENAI_CLIP_STD,
) -> Tensor:
    """RGB uint8[H, W, 3], or float[3, H, W] normalized already -> float[N, 3, size, size], normalized.

    Windows every 64 pixels from the upper left corner on, row by row, nothing resized. Where these are more
    than `limit`, fewer rows and columns of them, spread evenly over the same area. MintIQAError for an image
    smaller than a window.
    """
    pixels = image if isinstance(image, Tensor) else normalize(image, mean, std)
    height, width = pixels.shape[1:]
    if min(height, width) < size:
        raise MintIQAError(
            "image_too_small",
            f"The image has {width} x {height} pixels: give one of at least {size} pixels a side.",
        )
    rows, columns = (height - size) // STRIDE + 1, (width - size) // STRIDE + 1
    kept_rows = min(rows, max(1, int((limit * rows / columns) ** 0.5)))
    kept_columns = min(columns, max(1, limit // kept_rows))
    kept_rows = min(rows, max(1, limit // kept_columns))
    tops, lefts = _starts(rows, kept_rows), _starts(columns, kept_columns)
    return torch.stack([pixels[:, y : y + size, x : x + size] for y in tops for x in lefts])


def _starts(count: int, kept: int) -> list[int]:
    """Pixel offsets of `kept` windows, evenly over those of `count` windows every STRIDE pixels."""
    last = (count - 1) * STRIDE
    return [round(last * i / (kept - 1)) for i in range(kept)] if kept > 1 else [last // 2]


def normalize(image: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """RGB uint8[H, W, 3] -> float[3, H, W] with the towers' mean and deviation taken out."""
    if image.dtype != np.uint8:
        raise ValueError(f"an array is taken for 0..255: give uint8, not {image.dtype}")
    pixels = torch.tensor(image).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
