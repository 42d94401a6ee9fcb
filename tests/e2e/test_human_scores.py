"""The shipped model compared with people: it learned from these prompts, so this guards loading and
preprocessing and is no figure. The figures are those of folds (train.examine)."""

import numpy as np
import pytest

from instruct_data.damage.faults import apply_fault
from mint_iqa.images import read_image
from mint_iqa.metrics import srcc
from train.data import pictures, sets
from train.data.sets import split
from train.engine.recipes import Stage1

pytestmark = pytest.mark.data
PICTURES = 90


@pytest.fixture(scope="module")
def rows(data_root):
    human = sets.agiqa3k(data_root)
    unseen = split(human, Stage1(test_fold=0)).test
    return [human[i] for i in np.random.default_rng(0).permutation(unseen)[:PICTURES]]


@pytest.fixture(scope="module")
def clean(nano, rows):
    """Eight good pictures and their scores."""
    images = [read_image(row["path"]).rgb for row in rows if float(row["mos_quality"]) >= 3][:8]
    return images, list(nano.assess_many([(image, None) for image in images]))


def test_scores_follow_human_opinion_on_unseen_prompts(nano, rows):
    scores = [r.scores for r in nano.assess_many([(row["path"], row["prompt"]) for row in rows])]
    # Limits well below the measured figures: this test guards loading and preprocessing, not the third digit.
    assert srcc([s.quality for s in scores], [float(r["mos_quality"]) for r in rows]) > 0.7
    assert srcc([s.correspondence for s in scores], [float(r["mos_align"]) for r in rows]) > 0.5


@pytest.mark.parametrize("fault", pictures.KADID_FAULTS)
def test_a_strong_fault_lowers_quality_and_is_detected(nano, clean, fault):
    rng = np.random.default_rng(1)
    images, before = clean
    faulted = [apply_fault(image, fault, 5, rng).image for image in images]
    after = list(nano.assess_many([(image, None) for image in faulted]))
    assert np.mean([a.scores.quality < b.scores.quality for a, b in zip(after, before, strict=True)]) >= 0.75
    family = {"compression", "pixelation"} if fault in ("compression", "pixelation") else {fault}
    assert np.mean([bool(family & {f.name for f in a.faults}) for a in after]) >= 0.6
