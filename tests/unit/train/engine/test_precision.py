"""Training computes in bfloat16 only where the processor does."""

import pytest
import torch

from train.engine import precision

SQUARE = torch.ones(4, 4)


def product(wanted: bool) -> torch.dtype:
    with precision.autocast("cpu", wanted):
        return (SQUARE @ SQUARE).dtype


@pytest.mark.parametrize(("has", "kind"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_used_where_the_processor_has_it(
    has: bool, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: has)
    assert (product(wanted=True), precision.half_type()) == (kind, kind)


def test_bfloat16_is_not_used_where_the_recipe_does_not_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    assert product(wanted=False) == torch.float32


@pytest.mark.parametrize("has", [True, False])
def test_on_x86_it_is_the_instructions_for_it_that_count(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not AVX-512 alone, where bfloat16 is emulated."""
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    precision.has_bfloat16.cache_clear()
    try:
        assert precision.has_bfloat16("cpu") == has
    finally:
        precision.has_bfloat16.cache_clear()
