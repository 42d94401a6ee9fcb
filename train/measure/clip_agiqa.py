"""What CLIP-AGIQA's rounds leave, one file an epoch, and how well their scores agree with people's.

    python -m train.measure.clip_agiqa runs/clip_agiqa

A round's folder has pictures.json, which says what was kept apart, and epoch<n>.json with its scores.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from mint_iqa.errors import MintIQAError
from mint_iqa.metrics import Metric, bootstrap_interval, plcc, srcc, t_interval
from train.data.rounds import best_epoch, read_part
from train.data.sets import LABELS
from train.engine.commands import ends_in_a_sentence


def report(output: Path) -> Iterator[str]:
    """Lines for people: agreement on the test pictures, by either way of choosing the epoch."""
    folders = sorted(output.glob("round*"), key=lambda path: int(path.name.removeprefix("round")))
    folders = [folder for folder in folders if any(folder.glob("epoch*.json"))]
    for part in ("validation", "test") if folders else ():
        epochs = [best_epoch(folder, part) for folder in folders]
        yield f"epoch chosen by the {part} pictures: {', '.join(map(str, epochs))}"
        first = json.loads((folders[0] / f"epoch{epochs[0]}.json").read_text())
        for task in (name for name in LABELS if name in first):
            results = [read_part(f, e, task, "test") for f, e in zip(folders, epochs, strict=True)]
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
