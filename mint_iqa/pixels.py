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
# Compression leaves ringing around hard edges: of the pixels of a block that holds one, less than this share
# equals its neighbors then (at most .25 in KADID-10k's levels; .66 to .88 in drawings and text saved without
# loss). Told by at least so many blocks.
CLEAN_SHARE, EDGE_BLOCKS = 0.4, 20


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
    if (_blocks(across).mean(axis=2) < FLAT_STEP).mean() > FLAT_SHARE:
        found.add("noise")
    steps = np.maximum(_blocks(across[:-1]), _blocks(down[:, :-1]))
    edges = steps[(steps > SHARP_STEP).any(axis=2)]
    if len(edges) >= EDGE_BLOCKS and np.median((edges < FLAT_STEP).mean(axis=1)) > CLEAN_SHARE:
        found.add("compression")
    return frozenset(found)


def _light(image: Image.Image) -> NDArray[np.float32]:
    """Brightness, float32[H, W] on 0..255."""
    return np.asarray(image.convert("L"), dtype=np.float32)


def _blocks(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Steps of blocks of 8 x 8, float32[H // 8, W // 8, 64]."""
    height, width = (length // 8 for length in steps.shape)
    parts = steps[: 8 * height, : 8 * width].reshape(height, 8, width, 8)
    return parts.transpose(0, 2, 1, 3).reshape(height, width, 64)
