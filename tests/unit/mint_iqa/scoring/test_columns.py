"""Records as CSV and Parquet: every value in its column, whole files or none."""

import csv
import io

import pytest

from mint_iqa.errors import MintIQAError
from mint_iqa.records import (
    Assessment,
    Explanation,
    FailedAssessment,
    Fault,
    Intervals,
    Levels,
    ModelInfo,
    Scores,
)
from mint_iqa.scoring import columns
from mint_iqa.scoring.columns import COLUMNS, row_of, write_rows, write_table
from mint_iqa.scoring.manifest import read_manifest

MODEL = ModelInfo(name="nano", revision="0")


def assessed(image="a.png", prompt="a red fox", **changes):
    scores = Scores(quality=79.996, authenticity=41.874, correspondence=90 if prompt else None)
    words = Explanation(quality="Sharp.", authenticity="Real.", correspondence=None, overall="All in all.")
    data = {
        "faults": (Fault(name="blur", severity=0.624),),
        "explanation": words,
        "warnings": ("One.", "Two."),
    }
    return Assessment(
        image=image, prompt=prompt, model=MODEL, scores=scores, levels=Levels.of(scores), **(data | changes)
    )


FAILED = FailedAssessment(
    image="b.png", model=MODEL, error={"code": "image_missing", "message": "b.png does not exist."}
)


def read_csv(records, metadata=()):
    buffer = io.StringIO(newline="")
    write_rows(records, buffer, metadata)
    return list(csv.DictReader(io.StringIO(buffer.getvalue(), newline="")))


def test_a_row_holds_what_the_json_holds():
    row = row_of(assessed(metadata={"id": "7"}))
    assert (row["quality"], row["authenticity"], row["correspondence"]) == (80.0, 41.87, 90.0)
    assert (row["quality_level"], row["authenticity_level"]) == ("excellent", "fair")
    assert (row["fault_blur"], row["warnings"], row["metadata_id"]) == (0.62, "One. Two.", "7")
    assert (row["overall_explanation"], row["correspondence_explanation"]) == ("All in all.", None)
    assert row.keys() - set(COLUMNS) == {"metadata_id"}


def test_the_ends_of_the_intervals_have_columns_beside_the_scores():
    intervals = Intervals(quality=(70.126, 85), authenticity=(30, 50), correspondence=None)
    row = row_of(assessed(intervals=intervals))
    assert (row["quality_low"], row["quality_high"]) == (70.13, 85.0)
    assert (row["authenticity_low"], row["authenticity_high"]) == (30.0, 50.0)
    assert row.keys() <= set(COLUMNS) and "correspondence_low" not in row
    assert COLUMNS[2:7] == ("quality", "authenticity", "correspondence", "quality_low", "quality_high")
    (cells,) = read_csv([assessed(intervals=intervals)])
    assert (cells["authenticity_high"], cells["correspondence_low"]) == ("50.0", "")
    assert read_csv([assessed()])[0]["quality_low"] == ""


def test_a_failure_has_no_scores_and_says_why():
    row = row_of(FAILED)
    assert (row["error_code"], row["error"]) == ("image_missing", "b.png does not exist.")
    assert "quality" not in row


def test_csv_has_every_column_and_a_row_for_every_record():
    rows = read_csv([assessed(metadata={"id": "7"}), FAILED], ["id"])
    assert list(rows[0]) == [*COLUMNS, "metadata_id"]
    assert [row["image"] for row in rows] == ["a.png", "b.png"]
    assert (rows[0]["quality"], rows[1]["quality"], rows[1]["metadata_id"]) == ("80.0", "", "")


@pytest.mark.parametrize("text", ['a "red", fox', "two\nlines", "a\rb", "a\r\nb", "狐 🦊", "a\u2028b"])
def test_csv_gives_any_prompt_back(text):
    assert read_csv([assessed(prompt=text)])[0]["prompt"] == text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_formula_is_no_formula_in_a_spreadsheet(text):
    assert read_csv([assessed(image=text)])[0]["image"] == f"'{text}"


def test_csv_can_be_read_as_a_manifest(tmp_path):
    write_table([assessed()], tmp_path / "scores.csv")
    (item,) = read_manifest(tmp_path / "scores.csv")
    assert (item.image, item.prompt) == ("a.png", "a red fox")


def test_parquet_has_the_same_columns_with_numbers_as_numbers(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(columns, "ROW_GROUP", 2)
    intervals = Intervals(quality=(70, 85), authenticity=None, correspondence=None)
    records = [assessed(metadata={"id": "7"}), FAILED]
    records.append(assessed(prompt=None, explanation=None, intervals=intervals))
    write_table(records, tmp_path / "scores.parquet", ["id"])
    table = parquet.read_table(tmp_path / "scores.parquet")
    assert table.column_names == [*COLUMNS, "metadata_id"]
    assert table["quality"].to_pylist() == [80.0, None, 80.0]
    assert table["quality_high"].to_pylist() == [None, None, 85.0]
    assert table["fault_blur"].to_pylist() == [0.62, None, 0.62]
    assert table["fault_noise"].to_pylist() == [None] * 3
    assert table["metadata_id"].to_pylist() == ["7", None, None]
    assert table.schema.field("correspondence").type == "double"


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_a_file_is_replaced_as_a_whole_or_stays_as_it_was(tmp_path, name):
    path = tmp_path / name
    path.write_text("as it was")

    def records():
        yield assessed()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(records(), path)
    assert path.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_without_pyarrow_parquet_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MintIQAError, match=r"mint-iqa\[parquet\]"):
        columns.need_pyarrow()
