"""A contact sheet: one picture with every distortion and artifact at every level, to judge them by eye."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instruct_data.damage.artifacts import ARTIFACTS, add_artifact
from instruct_data.damage.distortions import DISTORTIONS, LEVELS, Distorted, distort

CELL = 256  # pixels, of a picture's longest side
KADID_SIDE = 512  # pixels, of the pictures that the levels were rated on
REGION = 0.25  # share of the picture
LABEL = 18  # pixels, of a line of text


def contact_sheet(image: Image.Image, in_region: bool, seed: int = 0) -> Image.Image:
    """A row for each distortion and artifact, a column for each level, below each picture its severity.

    `in_region` puts the distortions into a quarter of the picture instead of all of it. The same seed in
    every cell, so that the levels differ in strength only.
    """
    small = image.copy()
    small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    width, height = small.width + 4, small.height + 2 * LABEL
    names = [*DISTORTIONS, *ARTIFACTS]
    sheet = Image.new("RGB", (width * len(LEVELS), height * len(names)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LABEL - 5)
    for row, name in enumerate(names):
        draw.text((4, row * height + 1), name, "black", font)
        for column, result in enumerate(_levels(small, name, in_region, seed)):
            left, top = column * width, row * height + LABEL
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
            yield distort(image, name, level, rng, REGION if in_region else None, scale)
