"""python benchmarks/folders.py    # 3 minutes; prints a table, writes only temporary files

The rate of scoring a folder of files, compared with the model alone.

The model's own rate: nano on pictures that are already read and fitted, in batches of 8, on torch's default
number of threads. The folder's rate: the same pictures as JPEG files of 512 x 512, read by other processes,
with their records appended to a journal. Both take turns, so that other load on the machine affects them
equally. On a busy machine, processor time says more: the model's share of the total, including the start of
the readers, bounds the ratio when every core is busy. With OMP_NUM_THREADS=1 and --readers 0 one core does
everything: this is the rate per second of its time that docs/measurements.md uses.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mint_iqa.scoring.batches import batches_of, read_fitted, score_batches
from mint_iqa.scoring.folders import find_items
from mint_iqa.scoring.journal import Done, append, open_after

if TYPE_CHECKING:
    from mint_iqa.assessor import Assessor

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BATCH = 8
PROMPT = "a smiling astronaut in an orange space suit"


def make_pictures(folder: Path, count: int) -> None:
    source = Image.open(EXAMPLES / "astronaut.jpg").convert("RGB").resize((512, 512))
    for i in range(count):
        source.save(folder / f"{i:06}.jpg", quality=90)


def cpu_seconds() -> float:
    """CPU seconds of this process and of the readers that have ended."""
    for child in multiprocessing.active_children():
        child.join()
    return sum(os.times()[:4])


def model_rate(assessor: "Assessor", folder: Path, count: int) -> float:
    read = [read_fitted(item.source, assessor.processor.fit) for item in find_items([str(folder)])[:BATCH]]
    batch = [(picture, PROMPT) for picture in read]
    start = time.perf_counter()
    for _ in range(count // BATCH):
        list(assessor.assess_many(batch, batch_size=BATCH))
    return count / (time.perf_counter() - start)


def folder_rate(assessor: "Assessor", folder: Path, readers: int) -> float:
    """Images per second after the first batch: a run of hours starts its readers only once."""
    batches = batches_of(find_items([str(folder)], PROMPT), BATCH)
    with open_after(folder / "scores.jsonl", Done()) as journal:
        scored = score_batches(assessor, batches, explain=False, readers=readers)
        append(journal, next(scored))
        start, count = time.perf_counter(), 0
        for records in scored:
            append(journal, records)
            count += len(records)
    return count / (time.perf_counter() - start)


def memory() -> float:
    """Peak memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    import torch  # here, because every reader also imports this file

    from mint_iqa.assessor import Assessor

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--pictures", type=int, default=160, help="a multiple of 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    assessor = Assessor.from_pretrained(options.model, device="cpu")
    ratios, shares, rates = [], [], []
    print(f"{torch.get_num_threads()} threads, {options.readers} readers, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, options.pictures)
        model_rate(assessor, folder, BATCH)  # the first pass is slower
        for _ in range(options.rounds):
            begin = cpu_seconds()
            alone = model_rate(assessor, folder, options.pictures)
            middle = cpu_seconds()
            whole = folder_rate(assessor, folder, options.readers)
            end = cpu_seconds()
            ratios.append(whole / alone)
            shares.append((middle - begin) / (end - middle))
            rates.append(options.pictures / (end - middle))
            print(
                f"model alone {alone:6.1f} images/s, folder {whole:6.1f} images/s: {ratios[-1]:.0%}; "
                f"time {shares[-1]:.0%} the model's; memory so far {memory():.0f} MiB",
                flush=True,
            )
    ratio, share, rate = (sorted(values)[options.rounds // 2] for values in (ratios, shares, rates))
    print(
        f"medians of {options.rounds} rounds: {ratio:.0%} of the model's own rate, {share:.0%} its own time,"
    )
    print(f"{rate:.1f} images a second of processor time")


if __name__ == "__main__":
    main()
