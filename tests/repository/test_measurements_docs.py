"""What docs/measurements.md computes follows from what it says was measured."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "measurements.md").read_text(encoding="utf-8")
RATE = float(re.search(r"([\d.]+) images a second and core \|", TEXT)[1])
CORE_HOURS = 1e6 / (RATE * 3600)
ROWS = re.findall(r"^\| \$([\d.]+) \| \$([\d.]+) \| ([\d.]+) h \| ([\d.]+) h \|$", TEXT, re.MULTILINE)


def test_the_core_hours_follow_from_the_rate():
    assert f"a million pictures take {CORE_HOURS:.1f} core hours" in TEXT


@pytest.mark.parametrize(("price", "cost", "on_8", "on_64"), ROWS)
def test_each_row_follows_from_the_formula(price, cost, on_8, on_64):
    assert cost == f"{float(price) * CORE_HOURS:.2f}"
    assert (on_8, on_64) == (f"{CORE_HOURS / 8:.1f}", f"{CORE_HOURS / 64:.1f}")


def test_there_are_rows_and_the_command_names_an_engine():
    assert len(ROWS) == 3 and "--engine ray --workers 2" in TEXT
