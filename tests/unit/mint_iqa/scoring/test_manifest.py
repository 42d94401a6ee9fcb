"""Manifests: what stands in a row reaches its item, however long or foreign."""

import pytest

from instruct_data.importers.table import ScoreColumn, TableColumns, read_table
from mint_iqa.scoring.manifest import read_manifest
from mint_iqa.tables.reading import Findings

SCRIPTS = [
    "狐狸在雪中",
    "лиса в снегу",
    "الثعلب في الثلج",
    "🦊❄️",
    "e\u0301" * 50,
    "\u202egnorw",
    "नमस्ते",
    "שועל",
]


@pytest.mark.parametrize("prompt", ["fox " * 250_000, *SCRIPTS])
def test_a_prompt_of_a_megabyte_or_another_script_is_read_as_it_is(tmp_path, prompt):
    path = tmp_path / "m.csv"
    path.write_text(f"image,prompt\na.png,{prompt}\nb.png,a cat\n", encoding="utf-8")
    assert [item.prompt for item in read_manifest(path)] == [prompt, "a cat"]


def test_a_long_prompt_in_a_table_of_scores_is_read_as_well(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"image,prompt,mos\na.png,{'fox ' * 250_000},3\n")
    columns = TableColumns({"quality": ScoreColumn("mos", 1, 5)}, prompt="prompt")
    (rating,) = read_table(path, columns, Findings(path))
    assert rating.mos == {"quality": 50.0} and len(rating.prompt or "") == 1_000_000


@pytest.mark.parametrize("score", ["nan", "NaN", "inf", "-inf", "1e999", "0x1", "", "three"])
def test_a_score_that_is_no_number_is_a_problem_of_its_line(tmp_path, score):
    path = tmp_path / "t.csv"
    path.write_text(f"image,mos\na.png,{score}\nb.png,3\n")
    findings = Findings(path)
    ratings = read_table(path, TableColumns({"quality": ScoreColumn("mos", 1, 5)}), findings)
    assert [rating.image for rating in ratings] == ["b.png"]
    assert findings.problems == [(2, f"mos {score!r} is not a number")]
