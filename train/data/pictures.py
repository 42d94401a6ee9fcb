"""Training pictures, decoded and faulted once: uint8[N, S, S, 3] memory-mapped, with one table row each.

    python -m train.prepare            # $MINT_IQA_DATA, default ../shared; 3 minutes on 2 cores, 11 GB

Faults are applied at the picture's own size, before the resize that the model sees, because a blur or a JPEG
block has a size in pixels. Nothing is ever regenerated during training, so the loader costs no compute.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from instruct_data.damage import distortions
from instruct_data.damage.faults import KADID_NAMES, KADID_SCORES, apply_fault, severity_of
from mint_iqa.errors import MintIQAError
from mint_iqa.files import cache_root, write_whole
from mint_iqa.images import Fit, read_image
from mint_iqa.vocabulary import FaultName
from train.data.sets import SETS, naming_what_is_missing, paths_of
from train.engine.checkpoints import writing

# Flickr8k's photographs are squeezed to this side. Copies of generated pictures at this size keep the model
# from reading "photograph" off the missing detail.
SMALL_SIDE = 192
KADID_SIDE = 512
KADID_FAULTS: tuple[FaultName, ...] = tuple(KADID_NAMES)
CLEAN = "clean"


def stored_side(image_size: int) -> int:
    """Side of stored pictures, in pixels, for a model that sees `image_size`.

    A twentieth more, and 12 at least: room for random crops at nearly the test scale.
    """
    return image_size + max(12, 3 * image_size // 56)


@dataclass(frozen=True)
class Row:
    """One training picture. source: index into its set's own table; fault: None for a clean picture."""

    source: int
    variant: str  # clean | small | fault
    fault: FaultName | None = None
    level: int = 0
    severity: float = 0.0


def variants(source: int, path: str, kinds: tuple[str, ...], seed: int) -> Iterator[tuple[Row, Image.Image]]:
    """The picture itself and one seeded variant of each kind: small | kadid | malformation."""
    image = read_image(path).rgb
    rng = np.random.default_rng((seed, source))
    yield Row(source, CLEAN), image
    for kind in kinds:
        if kind == "small":
            yield Row(source, "small"), image.resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BICUBIC)
            continue
        name: FaultName = (
            "malformation" if kind == "malformation" else KADID_FAULTS[rng.integers(len(KADID_FAULTS))]
        )
        level = int(rng.integers(1, 6))
        faulted = apply_fault(image, name, level, rng, scale=max(image.size) / KADID_SIDE)
        yield Row(source, "fault", name, level, severity_of(name, level)), faulted.image


def _work(job: tuple[Fit, int, str, tuple[str, ...], int]) -> list[tuple[Row, NDArray[np.uint8]]]:
    fit, source, path, kinds, seed = job
    return [(row, np.asarray(fit(image))) for row, image in variants(source, path, kinds, seed)]


def build(
    name: str,
    image_size: int,
    paths: list[str],
    kinds: tuple[str, ...],
    seed: int = 0,
    max_aspect: float = math.inf,
) -> None:
    """Write `name`.npy and `name`.json into the cache; a finished pair of the same files is left as it is.

    If several processes need it, one builds it and the others wait.
    """
    folder = pictures_folder(image_size)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        if _stored(folder, name).get("made_of") != made_of(paths):
            _build(folder, name, Fit(stored_side(image_size), max_aspect), paths, kinds, seed)


def are_stored(image_size: int) -> bool:
    """Whether the training pictures of both sets are stored, made from today's files."""
    folder = pictures_folder(image_size)
    return all(_stored(folder, name).get("made_of") == made_of(paths_of(name)) for name in SETS)


def made_of(paths: Sequence[str]) -> str:
    """A digest of the files that stored pictures come from: their names and sizes, in order."""
    with naming_what_is_missing():
        files = [(Path(path).name, Path(path).stat().st_size) for path in paths]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _stored(folder: Path, name: str) -> dict[str, Any]:
    """made_of and rows of stored pictures; empty if they are missing or in an older format."""
    path = folder / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _build(folder: Path, name: str, fit: Fit, paths: list[str], kinds: tuple[str, ...], seed: int) -> None:
    count, side = len(paths) * (1 + len(kinds)), fit.side
    file = folder / f"{name}.npy"
    for old in (folder / f"{name}.json", file):
        old.unlink(missing_ok=True)  # not written over: a run may still be reading it
    with writing(file):
        pixels = np.lib.format.open_memmap(file, "w+", np.uint8, (count, side, side, 3))
        if hasattr(os, "posix_fallocate"):  # not on macOS
            # Reserve the space now: a disk that fills up later kills the process as it writes a page.
            with file.open("rb+") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    jobs = [(fit, i, path, kinds, seed) for i, path in enumerate(paths)]
    rows: list[dict[str, object]] = []
    with Pool() as pool:
        for result in tqdm(pool.imap(_work, jobs, chunksize=16), total=len(jobs), desc=name, disable=None):
            for row, image in result:
                pixels[len(rows)] = image
                rows.append(asdict(row))
    pixels.flush()
    with writing(folder):
        found = {"made_of": made_of(paths), "rows": rows}
        write_whole(folder / f"{name}.json", json.dumps(found))  # last: it marks the pixels as complete


def kept_quality(fault: str, level: int) -> float:
    """Share of its quality that a picture keeps under a KADID-10k distortion, by the human means; 0..1."""
    return distortions.kept_quality(KADID_SCORES[fault][level - 1])  # type: ignore[index]


def load(
    name: str, image_size: int, paths: Sequence[str] | None = None
) -> tuple[NDArray[np.uint8], list[Row]]:
    """Pixels and their table, for a model that sees `image_size`.

    MintIQAError if they were not built, or were built from other files than `paths`.
    """
    folder = pictures_folder(image_size)
    stored = _stored(folder, name)
    if not stored or (paths is not None and stored["made_of"] != made_of(paths)):
        missing = "are of other files" if stored else "are not built"
        raise MintIQAError(
            "pictures_missing",
            f"The training pictures of {name} {missing}: "
            f"run python -m train.prepare --image-size {image_size}.",
        )
    return np.load(folder / f"{name}.npy", mmap_mode="r"), [Row(**row) for row in stored["rows"]]


def center(size: int) -> slice:
    """Rows (or columns) of a stored picture that make its middle `size` pixels."""
    edge = (stored_side(size) - size) // 2
    return slice(edge, edge + size)


def pictures_folder(image_size: int) -> Path:
    return cache_root() / "pictures" / str(image_size)
