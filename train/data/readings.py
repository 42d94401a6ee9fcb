"""What the examiner's networks see of training pictures, whole and damaged: computed once, kept in the cache.

Every picture has variants whose faults are known: `clean`, one with a `fault` of KADID-10k, one `malformed`,
one `resaved` (cropped, resized and compressed at random, as pictures on the web are) and one `small`, so that
neither size nor compression tells a photograph from a generated picture.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from instruct_data.damage.faults import apply_fault, severity_of
from mint_iqa.files import cache_root
from mint_iqa.images import Fit, read_image
from mint_iqa.model.cnn import statistics
from mint_iqa.model.examiner import FIRST_GRID_STAGE, GRID, Examiner, cells_of
from mint_iqa.model.processing import DETAIL_SIDE, cnn_values
from mint_iqa.vocabulary import FAULTS, FaultName
from train.data import sets
from train.data.pictures import KADID_FAULTS, made_of
from train.engine.checkpoints import kept_arrays

Floats = NDArray[np.float32]
# The variants, and the number that seeds each.
KINDS = {"clean": 0, "fault": 1, "malformed": 2, "resaved": 3, "small": 4}
GRID_SETS, GRID_KINDS = ("agiqa3k", "biq2021"), ("clean", "malformed", "resaved")  # whose cells are kept
DETAIL_FIT = Fit(DETAIL_SIDE, 2.0)
# Raised when what is computed changes.
FORMAT = "1"
LEVELS = (2, 6)  # of malformations: level 1 can hardly be seen
RESAVED_SIDES = (320, 384, 448, 512, 640, 768)
SMALL_SIDE = 192  # of Flickr8k's photographs here
RESAVED_FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR)
QUALITIES = (40, 97)  # of JPEG and WebP


@dataclass(frozen=True)
class Readings:
    """Of N pictures: statistics float32[N, S], pooled float32[N, HEAD], logits float32[N, CLASSES],
    severities float32[N, F] (0..1, of faults that were put in), level int[N], cells float16[N, C, GRID, GRID]
    (of `GRID_KINDS`, else empty) and mask float32[N, GRID, GRID] (share of a cell that is malformed)."""

    statistics: Floats
    pooled: Floats
    logits: Floats
    severities: Floats
    level: NDArray[np.int64]
    cells: NDArray[np.float16]
    mask: Floats


def variant(
    image: Image.Image, kind: str, number: int
) -> tuple[Image.Image, FaultName | None, int, NDArray[np.float32] | None]:
    """Picture `number` of its set as one of `KINDS`: with its fault (None: none), its level and its mask."""
    rng = np.random.default_rng((KINDS[kind], number))
    if kind == "clean":
        return image, None, 0, None
    if kind == "resaved":
        return _resaved(_cropped(image, rng), rng), None, 0, None
    if kind == "small":
        return _resaved(image, rng, (SMALL_SIDE,)), None, 0, None
    if kind == "malformed":
        made = apply_fault(image, "malformation", int(rng.integers(*LEVELS)), rng)
        # Saved like the others: a bent part has no trace of the first compression, and would show by that.
        return _resaved(made.image, rng), "malformation", int(made.level), made.mask
    name = KADID_FAULTS[rng.integers(len(KADID_FAULTS))]
    made = apply_fault(image, name, int(rng.integers(1, 6)), rng)
    return made.image, name, int(made.level), None


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Half of them lose up to 30 % a side."""
    width, height = image.size
    if rng.random() < 0.5:
        return image
    w, h = int(width * rng.uniform(0.7, 1)), int(height * rng.uniform(0.7, 1))
    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return image.crop((x, y, x + w, y + h))


def _resaved(
    image: Image.Image, rng: np.random.Generator, sides: tuple[int, ...] = RESAVED_SIDES
) -> Image.Image:
    side = int(rng.choice(sides))
    image = image.resize((side, side), RESAVED_FILTERS[rng.integers(len(RESAVED_FILTERS))])
    file = io.BytesIO()
    image.save(file, "JPEG" if rng.random() < 0.8 else "WEBP", quality=int(rng.integers(*QUALITIES)))
    return Image.open(file).convert("RGB")


_networks: Examiner  # of a worker process


def _start_worker(examiner: Examiner) -> None:
    global _networks
    torch.set_num_threads(1)
    _networks = examiner


@torch.inference_mode()
def _read(job: tuple[str, str, int, bool]) -> dict[str, NDArray[Any]]:
    path, kind, number, with_cells = job
    image, name, level, mask = variant(read_image(path).rgb, kind, number)
    detail, concept = cnn_values([DETAIL_FIT(image)])
    outputs = _networks.detail.stages(detail)
    pooled = _networks.concepts.pooled(concept)
    severities = np.zeros(len(FAULTS), np.float32)
    if name is not None:
        severities[FAULTS.index(name)] = severity_of(name, level)
    cells = cells_of(outputs[FIRST_GRID_STAGE:])[0] if with_cells else torch.empty(0)
    return {
        "statistics": statistics(outputs)[0].numpy(), "pooled": pooled[0].numpy(),
        "logits": _networks.concepts.classifier(pooled)[0].numpy(), "severities": severities,
        "level": np.array(level), "cells": cells.half().numpy(), "mask": _cell_mask(mask),
    }  # fmt: skip


def _cell_mask(mask: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Share of every cell of the grid that the fault covers, float32[GRID, GRID]."""
    if mask is None:
        return np.zeros((GRID, GRID), np.float32)
    return np.asarray(Image.fromarray(mask).resize((GRID, GRID), Image.Resampling.BOX))


def read(examiner: Examiner, name: str, kind: str, numbers: Sequence[int]) -> Readings:
    """Pictures `numbers` of a set, in one of `KINDS`, from the cache if they were read before.

    Every picture takes a quarter of a second of a core. MintIQAError if a file is missing or damaged.
    """
    paths = sets.paths_of(name)
    digest = hashlib.sha256(f"{FORMAT} {made_of(paths)} {list(numbers)}".encode()).hexdigest()[:12]
    file = cache_root() / "readings" / f"{name}-{kind}-{digest}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    with_cells = kind in GRID_KINDS and name in GRID_SETS
    jobs = [(paths[number], kind, number, with_cells) for number in numbers]

    def read_all() -> dict[str, NDArray[Any]]:
        with Pool(initializer=_start_worker, initargs=(examiner,)) as pool:
            shown = tqdm(pool.imap(_read, jobs, chunksize=8), f"{name}, {kind}", len(jobs), disable=None)
            rows = list(shown)
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    with FileLock(file.with_suffix(".lock")):
        return Readings(**kept_arrays(file, read_all))
