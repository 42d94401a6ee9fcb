"""A long list of items -> records, batch by batch, while other processes read the next pictures."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from mint_iqa.errors import MintIQAError
from mint_iqa.images import Fitting, ReadImage, read_image
from mint_iqa.records import Assessment, FailedAssessment, Failure
from mint_iqa.scoring.manifest import Item
from mint_iqa.scoring.scorer import Scorer

Batch: TypeAlias = Sequence[Item]
Reading: TypeAlias = Future[ReadImage | Failure]  # by another process
Scored: TypeAlias = Assessment | FailedAssessment
Batches: TypeAlias = Generator[list[Scored], None, None]  # in their order

BATCHES_AHEAD = 4
FEW_BATCHES = 8  # for no more, starting processes takes longer than they save


def batches_of(items: Sequence[Item], batch_size: int) -> list[Batch]:
    """Neighbors share a batch, the unusable ones included: what is in a batch depends on the list alone."""
    return [items[i : i + batch_size] for i in range(0, len(items), batch_size)]


def readers_for(batches: int) -> int:
    """How many processes should read the pictures of so many batches: one per core, or none for a few."""
    return 0 if batches <= FEW_BATCHES else os.cpu_count() or 1


def score_batches(assessor: Scorer, batches: Sequence[Batch], *, explain: bool, readers: int) -> Batches:
    """The records of one batch after the other, each as soon as it is ready; never raises for a bad item.

    readers: processes that read pictures and fit them to the model, so that what crosses over is small and
    all of one size; they are at most `BATCHES_AHEAD` batches ahead. 0: the assessor reads them itself.
    """
    fit = assessor.fit
    if not readers or fit is None:
        for batch in batches:
            yield _score(assessor, batch, [item.problem or item.source for item in batch], explain)
        return
    pool = Readers(readers, fit)
    try:
        for batch, pictures in _read_ahead(pool, batches):
            yield _score(assessor, batch, pictures, explain)
    finally:
        pool.close()


def _read_ahead(
    pool: "Readers", batches: Sequence[Batch]
) -> Iterator[tuple[Batch, list[ReadImage | Failure]]]:
    ahead: deque[tuple[Batch, list[Reading | Failure]]] = deque()

    def next_ready() -> tuple[Batch, list[ReadImage | Failure]]:
        batch, readings = ahead.popleft()
        return batch, [pool.result(item, reading) for item, reading in zip(batch, readings, strict=True)]

    for batch in batches:
        ahead.append((batch, [item.problem or pool.submit(item) for item in batch]))
        if len(ahead) > BATCHES_AHEAD:
            yield next_ready()
    while ahead:
        yield next_ready()


def _score(
    assessor: Scorer,
    batch: Batch,
    pictures: Sequence[ReadImage | str | Path | Failure],
    explain: bool,
) -> list[Scored]:
    pairs = list(zip(batch, pictures, strict=True))
    sound = [(picture, item.prompt) for item, picture in pairs if not isinstance(picture, Failure)]
    results = iter(assessor.assess_many(sound, batch_size=len(batch), explain=explain))
    return [
        _failed(assessor, item, picture)
        if isinstance(picture, Failure)
        else next(results).with_origin(item.image, item.metadata)
        for item, picture in pairs
    ]


def _failed(assessor: Scorer, item: Item, failure: Failure) -> FailedAssessment:
    return FailedAssessment(
        image=item.image,
        prompt=item.prompt,
        metadata=item.metadata,
        model=assessor.model_info,
        error=failure,
    )


class Readers:
    """Processes that read pictures. One that dies, say of too little memory, costs at most its picture."""

    def __init__(self, processes: int, fit: Fitting) -> None:
        self._processes, self._fit = processes, fit
        self._pool = _pool(processes)
        self._single: ProcessPoolExecutor | None = None  # retries pictures that a dead process lost

    def submit(self, item: Item) -> Reading:
        try:
            return self._pool.submit(read_fitted, item.source, self._fit)
        except BrokenProcessPool:
            self._pool = _pool(self._processes)
            return self._pool.submit(read_fitted, item.source, self._fit)

    def result(self, item: Item, reading: Reading | Failure) -> ReadImage | Failure:
        if isinstance(reading, Failure):
            return reading
        try:
            return reading.result()
        except BrokenProcessPool:  # whichever picture it was, all pictures in progress are lost
            return self._read_alone(item)

    def _read_alone(self, item: Item) -> ReadImage | Failure:
        self._single = self._single or _pool(1)
        try:
            return self._single.submit(read_fitted, item.source, self._fit).result()
        except BrokenProcessPool:
            self._single = None
            message = f"Reading {item.image} ended the process: check the file, and the free memory."
            return Failure(code="image_ends_reader", message=message)

    def close(self) -> None:
        for pool in filter(None, (self._pool, self._single)):
            pool.shutdown(wait=False, cancel_futures=True)


def read_fitted(source: str | Path, fit: Fitting) -> ReadImage | Failure:
    """What a reading process does with a picture."""
    try:
        read = read_image(source)
        return replace(read, rgb=fit(read.rgb))
    except MintIQAError as error:
        return Failure.of(error)


def _pool(processes: int) -> ProcessPoolExecutor:
    # spawn: a fork would copy the locks of torch's threads as they happen to be.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start_reading)


def _start_reading() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal
    if hasattr(os, "nice"):
        os.nice(5)  # they are ahead: the model should not wait for a core
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent killed with -9 tells nobody, and the pool's own pipe never closes: each worker holds both ends.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
