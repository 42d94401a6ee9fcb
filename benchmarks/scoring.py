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

from PIL import Image

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
        rates = {}
        for size in (1, BATCH):
            list(assessor.assess_many([(p, "an astronaut") for p in paths[:BATCH]], batch_size=size))
            start = time.perf_counter()
            list(assessor.assess_many([(p, "an astronaut") for p in paths], batch_size=size))
            rates[size] = PICTURES / (time.perf_counter() - start)
    print(
        f"warm, {PICTURES} JPEG files of 512 x 512: {rates[BATCH]:.1f} images/s in batches of {BATCH}, "
        f"{rates[BATCH] / rates[1]:.2f} times the {rates[1]:.1f} images/s of one at a time"
    )


if __name__ == "__main__":
    cold()
    warm()
