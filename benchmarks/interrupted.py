"""python benchmarks/interrupted.py --pictures 20000 --kills 5    # exit code 1 if anything differs

A run that is killed and resumed again and again, compared with an uninterrupted one.

A tiny model with random weights scores small pictures, in folders whose names are in several scripts and with
a loop of links. `kill -9` hits `mint-iqa score --resume` at random moments. After every kill, each line of
the output must be a record, and no reading process may survive. At the end, both outputs must have the same
bytes.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("plain", "Füchse", "狐", "with space")
BATCH = 8


def make_pictures(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / FOLDERS[0] / "loop").symlink_to(folder, target_is_directory=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        width, height = (int(side) for side in rng.integers(28, 96, 2))
        coarse.resize((width, height)).save(folder / FOLDERS[i % len(FOLDERS)] / f"{i:06}.png")
    (folder / FOLDERS[0] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but not for long")


def make_model(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT))
    from tests import tiny

    return tiny.save(folder / "model", tiny.save_language(folder / "language"))


def arguments(model: Path, output: Path, *options: str) -> list[str]:
    command = ["score", "pictures", "--model", str(model), "--output", output.name]
    return [*command, "--batch-size", str(BATCH), *options]


def run_here(model: Path, output: Path, *options: str) -> None:
    """An uninterrupted run in this process."""
    from mint_iqa import cli

    with contextlib.chdir(output.parent), contextlib.redirect_stderr(io.StringIO()):
        cli.main(arguments(model, output, *options))


def start(model: Path, output: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mint_iqa.cli", *arguments(model, output, *options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=output.parent, env=environment, stderr=subprocess.DEVNULL)


def lines_in(output: Path) -> int:
    return output.read_bytes().count(b"\n") if output.exists() else 0


def run_and_kill(model: Path, output: Path, more: int) -> int:
    """Kill a run after about `more` new records, and return the number of lines, which are all records."""
    before = lines_in(output)
    run = start(model, output, "--resume")
    children: list[int] = []
    while run.poll() is None and lines_in(output) < before + more:
        children = children_of(run.pid) or children
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    for line in output.read_bytes().split(b"\n")[:-1]:
        json.loads(line)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        if time.monotonic() > deadline:
            sys.exit(f"Reading processes outlived the run: {children}")
        time.sleep(0.1)
    return lines_in(output)


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder / "pictures", options.pictures)
        model = make_model(folder)
        alone, resumed = folder / "alone.jsonl", folder / "resumed.jsonl"
        began = time.monotonic()
        run_here(model, alone)
        print(f"uninterrupted: {lines_in(alone)} records in {time.monotonic() - began:.0f} s", flush=True)
        for _ in range(options.kills):
            more = moments.randint(1, max(1, options.pictures // (options.kills + 1)))
            print(f"killed with {run_and_kill(model, resumed, more)} records in the output", flush=True)
        run_here(model, resumed, "--resume")
        same = alone.read_bytes() == resumed.read_bytes()
        images = [json.loads(line)["image"] for line in resumed.read_bytes().splitlines()]
    print(f"resumed: {len(images)} records, {len(set(images))} images, same to the byte: {same}")
    return 0 if same and len(images) == len(set(images)) == options.pictures + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
