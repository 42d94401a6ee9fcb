"""What pixels alone prove about faults: a fault that they contradict is not named, however sure a network is.

Networks learned faults on photographs and generated pictures; on graphics, pixel art or an empty frame they
guess.
The limits acquit hardly any picture that has the fault from level 3 of KADID-10k up.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mint_iqa.vocabulary import FAULTS, FaultName

EMPTY_SPREAD = 2.0  # standard deviation of brightness, of 255, below which there is nothing to see
BRIGHT_MEDIAN = 128.0  # a picture half of which is brighter is not dark
SHARP_STEP = 80.0  # brightness from one pixel to the next ...
SHARP_SHARE = 0.002  # ... over this share of the pixels: edges that no blur leaves
FLAT_STEP = 0.5  # mean step inside a block of 8 x 8 pixels that has no grain ...
FLAT_SHARE = 0.1  # ... and the share of such blocks that noise over the whole picture would not leave


def contradicted(image: Image.Image) -> frozenset[FaultName]:
    """Faults that an RGB image, at the size that the model sees, can't have. Of an empty one: all."""
    light = _light(image)
    if light.std() < EMPTY_SPREAD:
        return frozenset(FAULTS)
    across, down = np.abs(np.diff(light, axis=1)), np.abs(np.diff(light, axis=0))
    found: set[FaultName] = set()
    if np.median(light) > BRIGHT_MEDIAN:
        found.add("darkness")
    if max((across > SHARP_STEP).mean(), (down > SHARP_STEP).mean()) > SHARP_SHARE:
        found.add("blur")
    if (_blocks(across) < FLAT_STEP).mean() > FLAT_SHARE:
        found.add("noise")
    return frozenset(found)


def _light(image: Image.Image) -> NDArray[np.float32]:
    """Brightness, float32[H, W] on 0..255."""
    return np.asarray(image.convert("L"), dtype=np.float32)


def _blocks(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of blocks of 8 x 8."""
    height, width = (length // 8 * 8 for length in steps.shape)
    blocks: NDArray[np.float32] = (
        steps[:height, :width].reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3))
    )
    return blocks
