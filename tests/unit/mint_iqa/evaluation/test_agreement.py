"""Figures beside human scores are what they should be where the answer is known beforehand."""

import math

import numpy as np
import pytest

from mint_iqa.errors import MintIQAError
from mint_iqa.evaluation import agreement as module
from mint_iqa.evaluation.agreement import (
    METRICS,
    ScoredLabels,
    agreement,
    baselines,
    calibration,
    figures,
    over_rounds,
)
from mint_iqa.evaluation.logistic import Logistic, fit_logistic
from mint_iqa.evaluation.rounds import choose_on_validation, fold_rounds, prompt_rounds
from mint_iqa.metrics import plcc, rmse, srcc, t_interval


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(module, "BOOTSTRAP_SAMPLES", 60)


# --- the logistic ---


@pytest.mark.parametrize("curve", [Logistic(0, 5, 40, 7), Logistic(5, 1, 60, 20), Logistic(0, 1, 50, 0.5)])
def test_a_logistic_relation_is_recovered_whatever_its_direction(curve):
    scores = np.linspace(0, 100, 60)
    found = fit_logistic(scores, curve(scores))
    assert plcc(found(scores), curve(scores)) == pytest.approx(1, abs=1e-6)
    assert rmse(found(scores), curve(scores)) < 1e-3


def test_its_parameters_come_back_in_their_own_units():
    scores = np.linspace(0, 100, 60)
    found = fit_logistic(scores, Logistic(1, 5, 40, 7)(scores))
    assert (found.lowest, found.highest) == pytest.approx((1, 5))
    assert (found.middle, found.width) == pytest.approx((40, 7))


def test_a_straight_line_is_nearly_a_logistic():
    scores = np.linspace(0, 100, 60)
    assert rmse(fit_logistic(scores, 3 * scores + 1)(scores), 3 * scores + 1) < 0.1


def test_noise_does_not_throw_it_off():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 100, 400)
    truth = Logistic(0, 5, 40, 7)
    found = fit_logistic(scores, truth(scores) + rng.normal(0, 0.3, 400))
    assert rmse(found(scores), truth(scores)) < 0.1


def test_the_curve_never_fits_worse_than_a_constant():
    rng = np.random.default_rng(1)
    for _ in range(10):
        scores, labels = rng.normal(size=(2, 12))
        assert rmse(fit_logistic(scores, labels)(scores), labels) <= labels.std() + 1e-9


def test_a_constant_side_gives_the_mean_and_four_rows_are_refused():
    assert fit_logistic([5.0] * 6, [1, 2, 3, 4, 5, 6])([5.0, 7.0]) == pytest.approx([3.5, 3.5])
    with pytest.raises(MintIQAError, match="at least 5 rows"):
        fit_logistic([1, 2, 3, 4], [1, 2, 3, 4])


# --- figures ---


def compared(scores, labels, prompts=20, generators=(), same_unit=True):
    n = len(scores)
    return ScoredLabels(
        np.asarray(scores, float), np.asarray(labels, float), [f"prompt {i % prompts}" for i in range(n)],
        [""] * n, list(generators) or [""] * n, same_unit,
    )  # fmt: skip


def values(found):
    return {name: figure.value for name, figure in found.values.items()}


def test_perfect_scores_have_perfect_figures():
    labels = np.random.default_rng(0).uniform(0, 100, 60)
    found = agreement(compared(labels, labels))
    overall = values(found.overall)
    assert all(overall[name] == pytest.approx(1) for name in ("srcc", "krcc", "plcc"))
    assert overall["rmse"] == 0 and overall["rmse_mapped"] < 0.5
    assert found.rounds.mean["srcc"] == pytest.approx(1) and found.rounds.std["srcc"] == pytest.approx(0)


def test_reversed_scores_have_reversed_ranks_but_a_curve_that_falls_is_a_fit():
    labels = np.random.default_rng(0).uniform(0, 100, 60)
    overall = values(agreement(compared(100 - labels, labels)).overall)
    assert overall["srcc"] == overall["krcc"] == pytest.approx(-1)
    assert overall["plcc_mapped"] == pytest.approx(1, abs=1e-3)


def test_a_sigmoid_relation_is_perfect_after_the_logistic_only():
    scores = np.linspace(0, 100, 60)
    overall = values(agreement(compared(scores, Logistic(0, 5, 50, 6)(scores))).overall)
    assert overall["plcc"] < 0.98 and overall["plcc_mapped"] == pytest.approx(1, abs=1e-6)


def test_constant_scores_say_nothing_and_break_nothing():
    found = agreement(compared([50.0] * 30, np.arange(30)))
    assert math.isnan(found.overall.values["srcc"].value) and math.isnan(found.overall.values["srcc"].low)
    assert found.overall.values["rmse_mapped"].value == pytest.approx(np.arange(30).std())


def test_ties_share_their_ranks():
    found = figures(compared([1, 1, 2] * 4, [1, 2, 3] * 4), np.asarray)
    assert found.values["srcc"].value == pytest.approx(srcc([1, 1, 2] * 4, [1, 2, 3] * 4))
    assert found.values["krcc"].value < 1


def test_an_error_in_other_units_is_not_given():
    scores = np.linspace(0, 100, 40)
    found = agreement(compared(scores, scores / 20, same_unit=False)).overall
    assert math.isnan(found.values["rmse"].value) and found.values["rmse_mapped"].value < 0.05


def noisy(rows=120, noise=20.0, prompts=30):
    rng = np.random.default_rng(2)
    labels = rng.uniform(0, 100, rows)
    generators = [("alpha", "beta")[i % 2] for i in range(rows)]
    return compared(labels + rng.normal(0, noise, rows), labels, prompts, generators)


def test_intervals_hold_their_figures():
    found = agreement(noisy())
    for part in (found.overall, *found.generators.values()):
        assert part.values.keys() == METRICS.keys()
        assert all(f.low <= f.value <= f.high for f in part.values.values())


def test_images_of_one_prompt_are_resampled_together():
    rng = np.random.default_rng(3)
    labels, scores = (np.repeat(rng.normal(size=15), 8) for _ in range(2))
    copies = ScoredLabels(scores, labels, np.repeat(np.arange(15), 8).astype(str).tolist(), [""] * 120,
                        [""] * 120, True)  # fmt: skip
    apart = ScoredLabels(scores, labels, [str(i) for i in range(120)], [""] * 120, [""] * 120, True)
    together, alone = (figures(data, np.asarray).values["srcc"] for data in (copies, apart))
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_every_generator_has_its_own_figures():
    data = noisy()
    found = agreement(data).generators
    assert list(found) == ["alpha", "beta"] and found["alpha"].n == 60
    assert values(found["beta"])["srcc"] == srcc(data.scores[1::2], data.labels[1::2])


def test_nine_images_are_too_few():
    with pytest.raises(MintIQAError, match="9 images"):
        agreement(compared(range(9), range(9)))


# --- baselines ---


def test_the_generator_mean_reaches_what_generators_explain():
    rng = np.random.default_rng(4)
    names = np.array(["a", "b", "c"])[np.arange(120) % 3]
    labels = 30.0 * (np.arange(120) % 3) + rng.normal(size=120)
    guess = baselines(compared(labels, labels, 40, names.tolist()))["generator mean"]
    assert plcc(guess, labels) > 0.99


def test_where_generators_and_prompts_explain_nothing_neither_mean_seems_to():
    rng = np.random.default_rng(5)
    names = [("a", "b")[i] for i in rng.integers(2, size=1200)]
    labels = rng.normal(size=1200)
    found = baselines(compared(np.zeros(1200), labels, 200, names))
    assert all(abs(srcc(found[name], labels)) < 0.1 for name in ("generator mean", "prompt mean"))


def test_the_prompt_mean_leaves_the_image_itself_out():
    labels = np.arange(40, dtype=float)
    guess = baselines(compared(labels, labels, prompts=20))["prompt mean"]
    assert guess[0] == 20 and guess[20] == 0  # two images a prompt: each gets the other's label
    changed = labels.copy()
    changed[0] = 1e6
    assert baselines(compared(labels, changed, prompts=20))["prompt mean"][0] == 20


def test_no_baseline_stands_where_nothing_is_known():
    assert baselines(compared(range(30), range(30), prompts=30)) == {}


# --- rounds ---


def test_rounds_and_folds_test_unseen_prompts_and_are_named():
    data = noisy()
    assert over_rounds(data).protocol == "10 random splits by prompt, 80/20"
    assert over_rounds(data, folds=5).protocol == "5 folds by prompt"
    assert 0 < over_rounds(data).std["srcc"] < 0.2


def test_too_few_prompts_have_no_rounds_unless_folds_are_demanded():
    data = compared(range(30), range(30), prompts=3)
    found = agreement(data)
    assert found.rounds is None and found.baselines == {}
    with pytest.raises(MintIQAError, match="folds"):
        agreement(data, folds=5)


def test_no_prompt_has_two_roles_in_a_round_and_parts_are_as_asked():
    prompts = [f"prompt {i % 50}" for i in range(300)]
    rounds = prompt_rounds(prompts, None, rounds=4)
    for each in rounds:
        roles = [{prompts[i] for i in rows} for rows in (each.train, each.validation, each.test)]
        assert [len(role) for role in roles] == [35, 5, 10]
        assert len(set.union(*roles)) == 50
    assert len({tuple(each.test) for each in rounds}) == 4
    assert np.array_equal(rounds[2].test, prompt_rounds(prompts, None, rounds=4)[2].test)


def test_every_row_is_tested_in_exactly_one_fold():
    rounds = fold_rounds([f"prompt {i % 11}" for i in range(60)], None, 5)
    assert sorted(np.concatenate([each.test for each in rounds])) == list(range(60))
    assert all(not set(each.train) & set(each.test) and not len(each.validation) for each in rounds)


@pytest.mark.parametrize("parts", [(0, 1, 1), (1, 1, 0), (-1, 1, 1)])
def test_rounds_need_something_to_train_and_to_test(parts):
    with pytest.raises(MintIQAError):
        prompt_rounds(["a", "b", "c"], None, 1, parts=parts)


# --- choosing ---


def test_validation_chooses_and_test_only_reports():
    chosen = choose_on_validation(
        [[0.5, 0.7, math.nan], [0.9, 0.2, 0.1]], [[0.9, 0.6, 1.0], [0.8, 0.99, 0.5]]
    )
    assert chosen.candidates == (1, 0) and chosen.test == (0.6, 0.8)
    assert chosen.mean == pytest.approx(0.7) and chosen.std == pytest.approx(math.sqrt(0.02))


def test_choosing_by_noise_promises_nothing_on_test():
    rng = np.random.default_rng(6)
    validation, test = rng.normal(0.8, 0.05, (2, 200, 30))
    assert choose_on_validation(validation, test).mean == pytest.approx(0.8, abs=0.015)
    assert test.max(axis=1).mean() > 0.88  # what choosing on test would have claimed


@pytest.mark.parametrize(
    "tables", [([0.5], [0.5]), ([[0.5]], [[0.5, 0.6]]), ([[math.nan]], [[0.5]]), ([], [])]
)
def test_nothing_to_choose_from_is_an_error(tables):
    with pytest.raises(MintIQAError):
        choose_on_validation(*tables)


# --- calibration ---


def test_calibration_bins_are_equal_parts_with_intervals():
    rng = np.random.default_rng(7)
    predicted = rng.uniform(0, 100, 205)
    bins = calibration(predicted, predicted + rng.normal(0, 5, 205))
    assert len(bins) == 10 and {b.n for b in bins} == {20, 21}
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)
    assert np.mean([abs(b.labeled - b.predicted) <= b.half_width for b in bins]) >= 0.7


def test_residuals_come_from_a_curve_that_has_not_seen_the_image():
    data = noisy(60)
    before = agreement(data).predicted[0]
    data.labels[0] += 1000
    assert agreement(data).predicted[0] == before


def test_a_t_interval_is_that_of_the_tables():
    assert t_interval([1.0, 0.8]) == pytest.approx((0.9, 1.2706), abs=1e-4)
    assert math.isnan(t_interval([1.0])[1])
