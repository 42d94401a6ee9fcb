"""Metrics agree with values worked out by hand, refuse what they can't measure, and folds don't leak."""

import math
import warnings

import numpy as np
import pytest

from mint_iqa.errors import MintIQAError
from mint_iqa.folds import prompt_folds
from mint_iqa.metrics import bootstrap_interval, krcc, plcc, rmse, roc_auc, srcc

CORRELATIONS = [srcc, plcc, krcc]


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_perfect_agreement_is_1_and_perfect_disagreement_is_minus_1(metric):
    assert metric([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert metric([1, 2, 3, 4], [40, 30, 20, 10]) == pytest.approx(-1)


def test_correlations_match_values_worked_out_by_hand():
    x, y = [1, 2, 3, 4], [1, 3, 2, 4]
    assert srcc(x, y) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert krcc(x, y) == pytest.approx((5 - 1) / 6)
    assert plcc([0, 0, 3], [0, 1, 5]) == pytest.approx(9 / math.sqrt(6 * 14))


def test_ranks_ignore_the_scale_but_the_linear_correlation_does_not():
    x = np.array([1.0, 2.0, 3.0, 9.0])
    assert srcc(x, np.exp(x)) == pytest.approx(1)
    assert plcc(x, np.exp(x)) < 0.99


def test_ties_are_shared_ranks():
    assert srcc([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)
    assert krcc([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


def test_rmse_is_in_the_unit_of_the_labels():
    assert rmse([1, 2, 3], [1, 2, 6]) == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_a_constant_side_has_no_correlation_and_no_warning(metric):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(metric([5, 5, 5], [1, 2, 3]))
        assert math.isnan(metric([1, 2, 3], [5, 5, 5]))


@pytest.mark.parametrize("metric", [*CORRELATIONS, rmse, roc_auc])
@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        ([1, 2], [0, 1]),
        ([1, 2, math.nan], [0, 1, 1]),
        ([1, 2, 3], [0, 1, math.inf]),
        ([1, 2, 3], [0, 1]),
        ([[1, 2, 3]], [[0, 1, 1]]),
        (["a", "b", "c"], [0, 1, 1]),
        ([1, None, 3], [0, 1, 1]),
    ],
)
def test_what_cannot_be_measured_is_an_error(metric, predictions, labels):
    with pytest.raises(MintIQAError) as caught:
        metric(predictions, labels)
    assert caught.value.code == "bad_argument"


def test_roc_auc_is_the_share_of_pairs_in_the_right_order():
    assert roc_auc([1, 2, 3, 4], [False, False, True, True]) == 1
    assert roc_auc([4, 3, 2, 1], [False, False, True, True]) == 0
    assert roc_auc([1, 3, 2, 4], [False, False, True, True]) == 0.75
    assert roc_auc([1, 1, 1], [True, False, True]) == 0.5
    assert math.isnan(roc_auc([1, 2, 3], [True, True, True]))


def sample(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=rows)
    return labels + rng.normal(size=rows), labels


def test_the_interval_holds_the_value_and_is_repeatable():
    predictions, labels = sample()
    low, high = bootstrap_interval(plcc, predictions, labels, samples=300)
    assert low < plcc(predictions, labels) < high
    assert (low, high) == bootstrap_interval(plcc, predictions, labels, samples=300)
    assert (low, high) != bootstrap_interval(plcc, predictions, labels, samples=300, seed=1)


@pytest.mark.slow
def test_more_confidence_is_a_wider_interval_and_more_rows_a_narrower_one():
    def width(rows, confidence):
        low, high = bootstrap_interval(plcc, *sample(rows), samples=300, confidence=confidence)
        return high - low

    assert width(200, 0.99) > width(200, 0.8)
    assert width(1000, 0.95) < width(50, 0.95)


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = 1 / math.sqrt(2)
    intervals = [
        bootstrap_interval(plcc, *sample(80, seed), samples=200, confidence=0.9) for seed in range(60)
    ]
    assert 0.8 <= np.mean([low < truth < high for low, high in intervals]) <= 0.99


def test_copies_of_a_row_do_not_narrow_the_interval_when_they_are_one_group():
    predictions, labels = (np.repeat(values, 5) for values in sample(40))
    groups = np.repeat(np.arange(40), 5).tolist()
    as_rows = bootstrap_interval(plcc, predictions, labels, samples=300)
    as_groups = bootstrap_interval(plcc, predictions, labels, groups=groups, samples=300)
    assert as_groups[1] - as_groups[0] > 1.5 * (as_rows[1] - as_rows[0])


def test_resamples_without_a_value_are_left_out():
    low, high = bootstrap_interval(srcc, [1, 2, 3], [1, 2, 3], groups=["a", "b", "b"], samples=50)
    assert (low, high) == pytest.approx((1, 1))
    assert np.isnan(bootstrap_interval(srcc, [1, 1, 1], [1, 2, 3], samples=20)).all()


@pytest.mark.parametrize("options", [{"groups": ["a"]}, {"samples": 0}, {"confidence": 1.0}])
def test_an_interval_needs_sensible_options(options):
    with pytest.raises(MintIQAError):
        bootstrap_interval(plcc, [1, 2, 3], [1, 2, 3], **options)


def test_folds_keep_a_prompt_together_whatever_its_spelling():
    prompts = [f"prompt {row % 20}" for row in range(100)]
    prompts[0] = "  PROMPT  0"
    folds = prompt_folds(prompts, None, 5, seed=0)
    for number in range(20):
        assert len(set(folds[number::20])) == 1


def test_folds_keep_an_image_together_even_along_a_chain_of_prompts():
    prompts = ["a", "a", "b", "b", "c", "d", "e"]
    hashes = ["1", "2", "2", "3", "3", "4", "5"]
    folds = prompt_folds(prompts, hashes, 2, seed=0)
    assert len(set(folds[:5])) == 1
    assert set(folds) == {0, 1}


def test_a_row_can_join_two_sets_that_were_apart_until_then():
    folds = prompt_folds(["a", "b", "a", "c"], ["1", "2", "2", "3"], 2, seed=0)
    assert len(set(folds[:3])) == 1


def test_a_prompt_that_reads_like_a_hash_links_nothing():
    assert len(set(prompt_folds(["x", "y"], ["y", "x"], 2, seed=0))) == 2


def test_empty_prompts_and_hashes_link_nothing():
    assert sorted(prompt_folds([""] * 4, [""] * 4, 4, seed=0)) == [0, 1, 2, 3]


def test_folds_are_balanced_deterministic_and_seeded():
    prompts = [f"prompt {row % 37}" for row in range(400)]
    folds = prompt_folds(prompts, None, 5, seed=3)
    sizes = np.bincount(folds, minlength=5)
    assert sizes.sum() == 400
    assert sizes.max() - sizes.min() <= 11
    assert np.array_equal(folds, prompt_folds(prompts, None, 5, seed=3))
    assert not np.array_equal(folds, prompt_folds(prompts, None, 5, seed=4))


@pytest.mark.parametrize(
    ("prompts", "hashes", "folds"),
    [(["a", "a", "b"], None, 3), (["a", "b"], ["1"], 2), (["a", "b"], None, 1)],
)
def test_folds_that_cannot_be_made_are_an_error(prompts, hashes, folds):
    with pytest.raises(MintIQAError):
        prompt_folds(prompts, hashes, folds, seed=0)
