"""What ends a process that reads pictures, as too little memory does. It is imported there: no torch."""

import os
from dataclasses import dataclass

from PIL import Image

from mint_iqa.images import Fit


@dataclass(frozen=True)
class Deadly:
    """Fits pictures; one of 64 x 64 ends the process."""

    fit: Fit

    def __call__(self, image: Image.Image) -> Image.Image:
        if image.size == (64, 64):
            os._exit(137)
        return self.fit(image)
