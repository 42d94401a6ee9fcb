"""Intervals of few draws: they take longest, and these tests are about what stands beside them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from mint_iqa import metrics

DRAWS = 40


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from train import finetune, tune
    from train.measure import clip_agiqa, judging, predictions, scores

    for module in (finetune, tune, clip_agiqa, judging, predictions, scores):
        monkeypatch.setattr(module, "bootstrap_interval", of_few_draws(metrics.bootstrap_interval))


def of_few_draws(interval: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(interval)
    def short(*args: Any, samples: int = DRAWS, **settings: Any) -> Any:
        return interval(*args, samples=min(samples, DRAWS), **settings)

    return short
