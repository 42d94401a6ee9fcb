"""Feeds mutated files to every reader: each must be read or refused with MintIQAError, within 5 s and 1 GB.

    python -m tests.fuzz.campaign --inputs 1000000 --output runs/fuzz     # `make fuzz`; about an hour
    python -m tests.fuzz.campaign --inputs 20000 --only png manifest      # only some readers

Atheris (libFuzzer) mutates the seeds of tests/fuzz/readers.py and the finds in tests/fuzz/corpus, guided by
the coverage of our code and Pillow's. The readers run one after another, each in a separate process with the
same seed, so that a run can be repeated. An input that breaks a rule is kept in OUTPUT with its traceback.
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SECONDS, MEGABYTES = 5, 1024  # CPU time, so that a busy machine causes no finds; resident memory
HANG_SECONDS = 120  # wall-clock time after which libFuzzer gives up
BATCH = 20_000
INSTRUMENTED = ["mint_iqa", "instruct_data", "PIL"]


@dataclass
class Tally:
    """The outcomes of one reader's inputs; slowest: in seconds; megabytes: of the whole process."""

    reader: str
    seed: int
    inputs: int = 0
    read: int = 0
    refused: int = 0
    finds: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    megabytes: int = 0

    def __str__(self) -> str:
        return (
            f"{self.reader:14} seed {self.seed}  {self.inputs:>9,} inputs  {self.read:>8,} read  "
            f"{self.refused:>8,} refused  slowest {self.slowest:5.2f} s  peak {self.megabytes:>4} MB  "
            f"finds {len(self.finds)}"
        )


def fuzz(name: str, inputs: int, seed: int, output: Path) -> None:
    """Fuzz one reader in this process, which ends after `inputs` mutated inputs."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.readers import READERS, seeds_of
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    seeds = output / "seeds" / name
    seeds.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds_of(name)):
        (seeds / f"{number:04}").write_bytes(data)
    known = {path.read_bytes() for path in seeds.iterdir()} | {b"", b"\n"}  # libFuzzer starts with these
    longest = max(65_536, *map(len, known))
    tally = Tally(name, seed)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def one_input(data: bytes) -> None:
        judge(tally, READERS[name].read, data, folder, output)
        if data in known:  # unchanged seeds count as tried, not as mutated
            return
        tally.inputs += 1
        if tally.inputs % BATCH == 0 or tally.inputs == inputs:
            _report(tally, output)
        if tally.inputs == inputs:
            shutil.rmtree(folder)
            os._exit(0)  # libFuzzer would take SystemExit for a crash

    limits = [f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={longest}", "-runs=-1"]
    quiet = ["-verbosity=0", "-print_final_stats=0", f"-artifact_prefix={output}/{name}-"]
    atheris.Setup([sys.argv[0], *limits, *quiet, f"-seed={seed}", str(seeds)], one_input)
    atheris.Fuzz()


def judge(tally: Tally, read: Any, data: bytes, folder: Path, output: Path) -> None:
    """Read `data` and record the outcome in `tally`; errors other than MintIQAError are kept in `output`."""
    from mint_iqa.errors import MintIQAError

    start = time.process_time()
    try:
        read(data, folder)
        tally.read += 1
    except MintIQAError:
        tally.refused += 1
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
        _keep(tally, kind, data, output, traceback.format_exc())
    seconds = time.process_time() - start
    tally.slowest = max(tally.slowest, seconds)
    if seconds > SECONDS:
        _keep(tally, f"took more than {SECONDS} s", data, output, f"{seconds:.1f} s")


def _keep(tally: Tally, kind: str, data: bytes, output: Path, why: str) -> None:
    if kind not in tally.finds:
        stem = output / f"{tally.reader}-{hashlib.sha256(data).hexdigest()[:12]}"
        stem.with_suffix(".bin").write_bytes(data)
        stem.with_suffix(".txt").write_text(why)
    tally.finds[kind] = tally.finds.get(kind, 0) + 1


def _report(tally: Tally, output: Path) -> None:
    import resource

    tally.megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(tally, flush=True)
    (output / f"{tally.reader}.json").write_text(json.dumps(asdict(tally), indent=2))


def campaign(inputs: int, seed: int, output: Path, only: list[str] | None) -> Iterator[Tally]:
    """Fuzz every reader in a separate process; `inputs` are divided by the readers' shares."""
    from tests.fuzz.readers import READERS

    chosen = {name: reader for name, reader in READERS.items() if not only or name in only}
    total = sum(reader.share for reader in chosen.values())
    output.mkdir(parents=True, exist_ok=True)
    left = inputs
    for position, (name, reader) in enumerate(chosen.items(), 1):
        own = left if position == len(chosen) else inputs * reader.share // total
        left -= own
        command = [sys.executable, "-m", "tests.fuzz.campaign", "--reader", name, "--inputs", str(own)]
        with (output / f"{name}.log").open("w") as log:  # messages of libtiff and libFuzzer
            done = subprocess.run([*command, "--seed", str(seed), "--output", str(output)], stderr=log)
        result = output / f"{name}.json"
        tally = Tally(**json.loads(result.read_text())) if result.exists() else Tally(name, seed)
        if tally.inputs < own:
            tally.finds[f"stopped with code {done.returncode} before input {own:,}"] = 1
        yield tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="mutated inputs over all readers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--only", nargs="*", help="names of readers")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        fuzz(options.reader, options.inputs, options.seed, options.output)
    tallies = list(campaign(options.inputs, options.seed, options.output, options.only))
    print(f"\n{sum(t.inputs for t in tallies):,} mutated inputs over {len(tallies)} readers:")
    for tally in tallies:
        print(tally, *(f"\n    {count:,} x {kind}" for kind, count in tally.finds.items()), sep="")
    return 1 if any(tally.finds for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
