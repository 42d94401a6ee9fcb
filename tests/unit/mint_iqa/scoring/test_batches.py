"""Batches scored while other processes read: the same records, whatever happens to the readers."""

import multiprocessing
import os
import time

import numpy as np
import pytest
from PIL import Image

from mint_iqa.assessor import Assessor
from mint_iqa.images import ReadImage
from mint_iqa.records import FailedAssessment, Failure
from mint_iqa.scoring.batches import (
    BATCHES_AHEAD,
    Readers,
    batches_of,
    read_fitted,
    readers_for,
    score_batches,
)
from mint_iqa.scoring.manifest import Item
from tests.deadly import Deadly

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def assessor(tiny_checkpoint):
    return Assessor.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Nine pictures of different sizes; a broken one, a missing one and an unusable row among them."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = []
    for i, size in enumerate([(40, 30), (64, 64), (28, 28), (150, 40), (33, 99), (90, 60)]):
        paths.append(folder / f"{i}.png")
        Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize(size).save(paths[-1])
    paths[2].with_name("broken.png").write_bytes(paths[2].read_bytes()[:50])
    found = [
        Item(p.name, p, "a red fox" if i % 2 else None, metadata={"id": str(i)}) for i, p in enumerate(paths)
    ]
    row = Item("", "", problem=Failure(code="image_missing", message="Row 3 has an empty image: fill it in."))
    odd = [Item("broken.png", folder / "broken.png"), Item("gone.png", folder / "gone.png", "a cat"), row]
    return [*found[:3], *odd, *found[3:]]


def json_of(batches):
    return [record.model_dump_json() for batch in batches for record in batch]


def test_records_are_the_same_whether_other_processes_read_or_not(assessor, items):
    batches = batches_of(items, 4)
    alone = list(score_batches(assessor, batches, explain=False, readers=0))
    helped = list(score_batches(assessor, batches, explain=False, readers=2))
    assert json_of(helped) == json_of(alone)
    assert [len(batch) for batch in helped] == [4, 4, 1]
    records = [record for batch in helped for record in batch]
    assert [r.image for r in records] == [item.image for item in items]
    assert [r.metadata for r in records] == [item.metadata for item in items]
    assert [isinstance(r, FailedAssessment) for r in records] == [False] * 3 + [True] * 3 + [False] * 3
    assert "very elongated (150 x 40)" in records[6].warnings[0]  # its size before it was fitted


def test_a_picture_fitted_by_a_reader_is_small_and_the_model_sees_the_same(assessor, items):
    read = read_fitted(items[0].source, assessor.processor.fit)
    assert isinstance(read, ReadImage)
    assert (read.rgb.size, read.size) == ((28, 28), (40, 30))
    (one,), (other,) = (assessor.assess_many([(p, None)]) for p in (read, items[0].source))
    assert one.scores == other.scores


def test_readers_stay_a_few_batches_ahead_however_long_the_list(assessor, items, monkeypatch):
    submitted = []
    original = Readers.submit
    monkeypatch.setattr(Readers, "submit", lambda self, item: submitted.append(item) or original(self, item))
    scored = score_batches(assessor, batches_of([items[0]] * 100, 2), explain=False, readers=1)
    next(scored)
    assert len(submitted) == 2 * (BATCHES_AHEAD + 1)
    scored.close()


def test_a_picture_that_ends_its_reader_costs_only_itself(assessor, items, monkeypatch):
    expected = json_of(score_batches(assessor, batches_of(items, 4), explain=False, readers=0))
    monkeypatch.setattr(assessor.processor, "fit", Deadly(assessor.processor.fit))
    records = json_of(score_batches(assessor, batches_of(items, 4), explain=False, readers=1))
    assert "image_ends_reader" in records[1]
    assert records[:1] + records[2:] == expected[:1] + expected[2:]


def test_no_reader_is_left_when_the_run_ends_early(assessor, items):
    scored = score_batches(assessor, batches_of([items[0]] * 20, 2), explain=False, readers=1)
    next(scored)
    scored.close()
    deadline = time.monotonic() + 20
    # Asked again and again: where the pool's own thread has just reaped it, `Process.join` returns at once,
    # and the process counts as alive for a moment more.
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def test_a_few_batches_are_read_without_further_processes():
    assert readers_for(1) == 0
    assert readers_for(1000) == os.cpu_count()
