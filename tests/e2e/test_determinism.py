"""The same picture, prompt and weights give the same record: again, in other batches, on other threads, and
as tests/golden/nano/assessments.jsonl has it."""

import pytest
import torch

from mint_iqa.records import Assessment
from tests.golden_assessments import EXAMPLES, GOLDEN, assess

TOLERANCE = 0.01  # points of 100
ROUNDING = 0.005  # the file has two decimals
REWRITE = "nano has other weights than the golden file: see that the change is meant, then run\n"
REWRITE += "    python -m tests.golden_assessments"


@pytest.fixture(scope="module")
def one_by_one(nano):
    return assess(nano, batch_size=1)


def full_scores(record):
    return {name: score for name, score in iter(record.scores) if score is not None}


def assert_agree(records, others, tolerance):
    assert len(records) == len(others) == 20
    for one, other in zip(records, others, strict=True):
        assert one.image == other.image
        assert full_scores(one) == pytest.approx(full_scores(other), abs=tolerance), one.image
        assert [f.name for f in one.faults] == [f.name for f in other.faults], one.image


def test_the_golden_assessments_are_met(nano, one_by_one):
    golden = [Assessment.model_validate_json(line) for line in GOLDEN.read_text("utf-8").splitlines()]
    assert golden[0].model.revision == nano.model_info.revision, REWRITE
    assert_agree(one_by_one, golden, TOLERANCE + ROUNDING)
    for one, expected in zip(one_by_one, golden, strict=True):
        assert (one.prompt, one.image_sha256, one.warnings) == (
            expected.prompt,
            expected.image_sha256,
            expected.warnings,
        )


def test_scores_do_not_depend_on_batch_neighbors_or_history(nano, one_by_one):
    "".join(nano.ask(EXAMPLES / "chelsea.jpg", "Why does it score low?"))
    for size in (3, 20):
        assert_agree(assess(nano, batch_size=size), one_by_one, TOLERANCE)


def test_scores_agree_to_a_hundredth_of_a_point_whatever_the_number_of_threads(nano, one_by_one):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert_agree(assess(nano, batch_size=4), one_by_one, TOLERANCE)
    finally:
        torch.set_num_threads(threads)
