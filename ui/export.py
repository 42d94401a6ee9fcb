"""Records as files to take away: JSON as `mint-iqa` writes it, and CSV for a spreadsheet."""

import csv
import io
import json
from collections.abc import Iterable

from mint_iqa.records import Assessment, FailedAssessment, Record
from mint_iqa.vocabulary import DIMENSIONS

CSV_COLUMNS = (
    "image", "prompt", *DIMENSIONS, *(f"{name}_level" for name in DIMENSIONS),
    "faults", "warnings", "error", "image_sha256", "model", "revision",
)  # fmt: skip
# A cell that begins so is a formula to a spreadsheet, and names of files come from strangers.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def json_text(records: Iterable[Record]) -> str:
    """An array of records, each of which meets `mint_iqa.records.schema()`."""
    return json.dumps([r.model_dump(mode="json") for r in records], indent=2, ensure_ascii=False) + "\n"


def csv_text(records: Iterable[Assessment | FailedAssessment]) -> str:
    """One row a picture, with a header; the columns image and prompt can be read as a manifest again."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: _cell(value) for name, value in _row(record).items()})
    return buffer.getvalue()


def _row(record: Assessment | FailedAssessment) -> dict[str, object]:
    row: dict[str, object] = {
        "image": record.image, "prompt": record.prompt, "image_sha256": record.image_sha256,
        "model": record.model.name, "revision": record.model.revision,
    }  # fmt: skip
    if isinstance(record, FailedAssessment):
        return {**row, "error": record.error.message}
    written = record.model_dump(mode="json")
    levels = {f"{name}_level": level for name, level in written["levels"].items()}
    faults = "; ".join(f"{fault['name']} {fault['severity']:.2f}" for fault in written["faults"])
    return {**row, **written["scores"], **levels, "faults": faults, "warnings": " ".join(record.warnings)}


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
