"""A contact sheet: one picture with every distortion and artifact at every level, for judgment by eye."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instruct_data.damage.artifacts import ARTIFACTS, add_artifact
from instruct_data.damage.distortions import DISTORTIONS, LEVELS, Distorted, distort

CELL_SIDE = 256  # pixels: the longest side of a picture
KADID_SIDE = 512  # pixels: the longest side of the pictures on which the levels were rated
REGION_SHARE = 0.25
LABEL_HEIGHT = 18  # pixels of a line of text


def contact_sheet(image: Image.Image, in_region: bool, seed: int = 0) -> Image.Image:
    """A row per distortion and artifact, a column per level, and the severity below each picture.

    `in_region` puts the distortions into a quarter of the picture instead of all of it. Every cell has the
    same seed, so that the levels differ only in strength.
    """
    small = image.copy()
    small.thumbnail((CELL_SIDE, CELL_SIDE), Image.Resampling.LANCZOS)
    width, height = small.width + 4, small.height + 2 * LABEL_HEIGHT
    names = [*DISTORTIONS, *ARTIFACTS]
    sheet = Image.new("RGB", (width * len(LEVELS), height * len(names)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LABEL_HEIGHT - 5)
    for row, name in enumerate(names):
        draw.text((4, row * height + 1), name, "black", font)
        for column, result in enumerate(_levels(small, name, in_region, seed)):
            left, top = column * width, row * height + LABEL_HEIGHT
            sheet.paste(result.image, (left, top))
            caption = f"level {result.level:g}, severity {result.severity:.2f}"
            draw.text((left + 4, top + small.height + 1), caption, "grey", font)
    return sheet


def _levels(image: Image.Image, name: str, in_region: bool, seed: int) -> Iterator[Distorted]:
    for level in LEVELS:
        rng = np.random.default_rng(seed)
        if name in ARTIFACTS:
            yield add_artifact(image, name, level, rng)
        else:
            scale = max(image.size) / KADID_SIDE
            yield distort(image, name, level, rng, REGION_SHARE if in_region else None, scale)
