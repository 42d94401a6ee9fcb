"""Records as files to take away: JSON as `mint-iqa` writes it, and CSV for a spreadsheet."""

import io
import json
from collections.abc import Iterable

from mint_iqa.columns import write_rows
from mint_iqa.records import Assessment, FailedAssessment, Record


def json_text(records: Iterable[Record]) -> str:
    """An array of records, each of which meets `mint_iqa.records.schema()`."""
    return json.dumps([r.model_dump(mode="json") for r in records], indent=2, ensure_ascii=False) + "\n"


def csv_text(records: Iterable[Assessment | FailedAssessment]) -> str:
    """One row a picture, in the columns of `mint-iqa score --output scores.csv`."""
    buffer = io.StringIO()
    write_rows(records, buffer)
    return buffer.getvalue()
