"""python examples/make.py: builds the demo pictures in this folder from photographs of scikit-image.

They are good pictures, the same pictures with one known fault, and one picture with a wrong prompt, so that
each score visibly changes.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs in a checkout, not in the wheel

from instruct_data.damage.faults import apply_fault
from mint_iqa.vocabulary import FaultName

LONGEST_SIDE = 512  # pixels
JPEG_QUALITY = 92

# file -> (photograph, fault, level)
PICTURES: dict[str, tuple[str, FaultName | None, int]] = {
    "astronaut.jpg": ("astronaut", None, 0),
    "coffee.jpg": ("coffee", None, 0),
    "coffee_blurred.jpg": ("coffee", "blur", 5),
    "chelsea.jpg": ("chelsea", None, 0),
    "chelsea_malformed.jpg": ("chelsea", "malformation", 4),
    "rocket.jpg": ("rocket", None, 0),
    "rocket_noisy.jpg": ("rocket", "noise", 5),
}
CAT = "a close photo of a ginger tabby cat"
COFFEE = "a cup of coffee on a wooden table"
ROCKET = "a rocket on its launch pad at dusk"
MANIFEST = (
    ("astronaut.jpg", "a smiling astronaut in an orange space suit"),
    ("coffee.jpg", COFFEE),
    ("coffee_blurred.jpg", COFFEE),
    ("chelsea.jpg", CAT),
    ("chelsea.jpg", "a red sports car driving along the beach"),
    ("chelsea_malformed.jpg", CAT),
    ("rocket.jpg", ROCKET),
    ("rocket_noisy.jpg", ROCKET),
)


def make(folder: Path) -> None:
    """Write the pictures and `demo.csv` (columns image, prompt) into an existing folder."""
    for file, (photograph, fault, level) in PICTURES.items():
        image = Image.fromarray(getattr(data, photograph)()).convert("RGB")
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        if fault:
            image = apply_fault(image, fault, level, np.random.default_rng(1)).image
        image.save(folder / file, quality=JPEG_QUALITY, optimize=True)
    with (folder / "demo.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table, lineterminator="\n").writerows([("image", "prompt"), *MANIFEST])


if __name__ == "__main__":
    make(Path(__file__).resolve().parent)
