"""Stand-ins for what `mint-iqa evaluate` compares: records of scored images and human scores of them."""

import csv
from collections.abc import Sequence
from pathlib import Path

from mint_iqa.records import Assessment, FailedAssessment, Failure, Levels, ModelInfo, Scores

MODEL = ModelInfo(name="stand-in", revision="1")
GENERATORS = ("alpha", "beta")
PROMPTS = 15


def record(image: str, quality: float, prompt: str | None = "a fox") -> Assessment:
    scores = Scores(quality=quality, authenticity=50, correspondence=100 - quality if prompt else None)
    return Assessment(image=image, prompt=prompt, model=MODEL, scores=scores, levels=Levels.of(scores))


def failure(image: str) -> FailedAssessment:
    return FailedAssessment(image=image, model=MODEL, error=Failure(code="image_missing", message="Gone."))


def write_scores(path: Path, records: Sequence[Assessment | FailedAssessment]) -> Path:
    path.write_text("".join(each.model_dump_json() + "\n" for each in records))
    return path


def write_labels(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows(count: int) -> list[dict[str, object]]:
    """Quality 0..5 that rises with the number of the image; alignment that falls."""
    return [
        {"image": f"images/{i}.png", "prompt": f"prompt {i % PROMPTS}", "generator": GENERATORS[i % 2],
         "mos_quality": 5 * i / count, "mos_align": 5 - 5 * i / count}
        for i in range(count)
    ]  # fmt: skip


def perfect(folder: Path, count: int = 60) -> tuple[Path, Path]:
    """scores.jsonl and labels.csv of which both dimensions agree."""
    records = [record(f"images/{i}.png", 100 * i / count, f"prompt {i % PROMPTS}") for i in range(count)]
    return write_scores(folder / "scores.jsonl", records), write_labels(folder / "labels.csv", rows(count))
