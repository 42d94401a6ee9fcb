"""What CLIP-AGIQA's rounds leave, one file an epoch, and how well their scores agree with people's.

    python -m train.clip_agiqa_report runs/clip_agiqa

A round's folder has pictures.json, which says what was kept apart, and epoch<n>.json with its scores.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mint_iqa.errors import MintIQAError
from mint_iqa.metrics import Metric, bootstrap_interval, plcc, srcc, t_interval
from train.commands import ends_in_a_sentence
from train.pictures import LABELS
from train.resume import write_whole


def label(folder: Path, rows: list[dict[str, str]], parts: dict[str, Iterable[int]]) -> None:
    """Write what the scores of a round belong to; parts: numbers of rows of validation and test, in order."""
    kept = [
        {"part": part, "image": rows[i]["image"], "prompt": rows[i]["prompt"]}
        | {key: float(rows[i][key]) for key in LABELS.values()}
        for part, chosen in parts.items()
        for i in chosen
    ]
    write_whole(folder / "pictures.json", json.dumps(kept))


def write_epoch(folder: Path, epoch: int, scores: dict[str, list[float]]) -> None:
    """scores: 0..1, by task, in the order of `label`."""
    write_whole(folder / f"epoch{epoch}.json", json.dumps(scores))


def of_part(folder: Path, epoch: int, task: str, part: str) -> tuple[list[float], list[float], list[str]]:
    """(scores, human scores, prompts) of the validation or the test pictures after an epoch."""
    labels = json.loads((folder / "pictures.json").read_text())
    scores = json.loads((folder / f"epoch{epoch}.json").read_text())[task]
    chosen = [
        (s, x[LABELS[task]], x["prompt"]) for s, x in zip(scores, labels, strict=True) if x["part"] == part
    ]
    predictions, human, prompts = (list(column) for column in zip(*chosen, strict=True))
    return predictions, human, prompts


def best_epoch(folder: Path, part: str) -> int:
    """The epoch with the highest quality SRCC on a part, the first of equal ones."""
    epochs = sorted(int(path.stem.removeprefix("epoch")) for path in folder.glob("epoch*.json"))
    found = {epoch: srcc(*of_part(folder, epoch, "quality", part)[:2]) for epoch in epochs}
    return max(found, key=lambda epoch: np.nan_to_num(found[epoch], nan=-1.0))


def report(output: Path) -> Iterator[str]:
    """Lines for people: agreement on the test pictures, by either way of choosing the epoch."""
    folders = sorted(output.glob("round*"), key=lambda path: int(path.name.removeprefix("round")))
    folders = [folder for folder in folders if any(folder.glob("epoch*.json"))]
    for part in ("validation", "test") if folders else ():
        epochs = [best_epoch(folder, part) for folder in folders]
        yield f"epoch chosen by the {part} pictures: {', '.join(map(str, epochs))}"
        first = json.loads((folders[0] / f"epoch{epochs[0]}.json").read_text())
        for task in (name for name in LABELS if name in first):
            results = [of_part(f, e, task, "test") for f, e in zip(folders, epochs, strict=True)]
            yield f"  {task}: SRCC {_agreement(srcc, results)}, PLCC {_agreement(plcc, results)}"


def _agreement(metric: Metric, results: list[tuple[list[float], list[float], list[str]]]) -> str:
    values = [metric(predictions, human) for predictions, human, _ in results]
    if len(results) > 1:
        mean, half = t_interval(values)
        return f"{mean:.4f} +- {half:.4f} (95 % over {len(values)} rounds)"
    ((predictions, human, prompts),) = results
    low, high = bootstrap_interval(metric, predictions, human, groups=prompts)
    return f"{values[0]:.4f} [{low:.4f}, {high:.4f}] (95 % over prompts, {len(human)} pictures)"


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the output of train.clip_agiqa, finished or not")
    run = parser.parse_args().run
    lines = list(report(run))
    if not lines:
        raise MintIQAError(
            "nothing_to_report",
            f"{run} holds no round of train.clip_agiqa yet: check the path, or train first.",
        )
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
