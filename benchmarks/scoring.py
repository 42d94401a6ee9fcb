"""python benchmarks/scoring.py    # 1 minute; prints a table, writes nothing

The time of a score, cold from the command line and warm in batches.

Cold is a new process of `mint-iqa score` with the converted parts in the cache and the weights on disk. Warm
includes reading and decoding the files. The ratio compares batches with one picture at a time.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from mint_iqa.assessor import Assessor

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PICTURES = 96
BATCH = 8

COLD = """
import json, time
t0 = time.perf_counter()
from mint_iqa.assessor import Assessor
t1 = time.perf_counter()
assessor = Assessor.from_pretrained("nano")
t2 = time.perf_counter()
assessor.assess(PICTURE, "a smiling astronaut", explain=False)
t3 = time.perf_counter()
print(json.dumps({"import": t1 - t0, "load": t2 - t1, "compute": t3 - t2}))
"""


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def cold(runs: int = 5) -> None:
    picture = str(EXAMPLES / "astronaut.jpg")
    command = [sys.executable, "-m", "mint_iqa.cli", "score", picture, "--no-explain", "--format", "json"]
    walls, shares = [], []
    for _ in range(runs + 1):  # the first run fills the page cache and is dropped
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        walls.append(time.perf_counter() - start)
        code = COLD.replace("PICTURE", repr(picture))
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        shares.append(json.loads(done.stdout))
    parts = {key: median([s[key] for s in shares[1:]]) for key in shares[0]}
    total = sum(parts.values())
    listed = ", ".join(f"{key} {value:.2f} s ({100 * value / total:.0f} %)" for key, value in parts.items())
    print(f"cold `mint-iqa score` of one picture: median {median(walls[1:]):.2f} s of {runs}; {listed}")


def warm() -> None:
    from mint_iqa.assessor import Assessor

    assessor = Assessor.from_pretrained("nano")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        source = Image.open(EXAMPLES / "astronaut.jpg").convert("RGB").resize((512, 512))
        for i in range(PICTURES):
            paths.append(Path(folder) / f"{i}.jpg")
            source.save(paths[-1], quality=90)
        alone, batches = rate(assessor, paths, 1), rate(assessor, paths, BATCH)
        # Without its examiner a model scores by vision tower, Q-Former 1 and heads, as nano did until 0.2.
        assessor.model.examiner = None
        heads = rate(assessor, paths, BATCH)
    print(
        f"warm, {PICTURES} JPEG files of 512 x 512: {batches:.1f} images/s in batches of {BATCH}, "
        f"{batches / alone:.2f} times the {alone:.1f} images/s of one at a time, and {batches / heads:.2f} "
        f"times the {heads:.1f} images/s of tower, Q-Former 1 and heads"
    )


def rate(assessor: "Assessor", paths: list[Path], size: int) -> float:
    """Images per second in batches of `size`."""
    list(assessor.assess_many([(p, "an astronaut") for p in paths[:BATCH]], batch_size=size))
    start = time.perf_counter()
    list(assessor.assess_many([(p, "an astronaut") for p in paths], batch_size=size))
    return len(paths) / (time.perf_counter() - start)


if __name__ == "__main__":
    cold()
    warm()
