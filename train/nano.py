"""Runs all steps of nano in order: finished ones are skipped, interrupted ones continue.

    python -m train.nano            # about 3 hours on 2 cores, with the pictures under $MINT_IQA_DATA
    python -m train.nano --plan     # the list of steps, and what is done already
    python -m train.nano --set tune.test_fold=null explain.examples=8000

Every step is a command of its own and writes to the folder of its name in runs/. Its minutes and its figure
are printed when it ends and kept in runs/nano.json. The weights in mint_iqa/weights are not touched: use
runs/release with --model, or copy it there.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from instruct_data.recipes import read_settings
from mint_iqa.errors import MintIQAError
from mint_iqa.files import write_whole
from train.data.pictures import are_stored
from train.engine.checkpoints import FIGURE
from train.engine.commands import ends_in_a_sentence
from train.engine.recipes import Stage1
from train.prepare import image_size_of

RUNS = Path("runs")
RECORD = RUNS / "nano.json"


@dataclass(frozen=True)
class Step:
    """name: of the step, its folder in runs/ and its recipe; module and arguments: its command.

    writes: a file that exists once the step is finished; None: pictures in the user cache. minutes: on 2
    cores. figure: how the line begins in which the command says how well it went.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    writes: Path | None
    minutes: int
    purpose: str
    figure: str = FIGURE

    @property
    def command(self) -> str:
        return " ".join(["python -m", self.module, *self.arguments])


def _learning(name: str, module: str, minutes: int, purpose: str, *options: str) -> Step:
    arguments = (f"configs/nano/{name}.yaml", *options)
    return Step(name, module, arguments, RUNS / name / "model", minutes, purpose)


STEPS = (
    Step("prepare", "train.prepare", (), None, 3, "pictures, decoded and faulted once"),
    _learning("pretrain", "train.stage1", 16, "what words and faults look like", "--resume"),
    _learning("align", "train.align", 5, "the sentence space, from captions"),
    _learning("tune", "train.tune", 90, "scores and faults, from people"),
    _learning("explain", "train.stage2", 45, "answers", "--resume"),
    _learning("examine", "train.examine", 40, "scores, intervals and faults; measured on folds by prompt"),
    Step(
        "release", "train.release", ("runs/examine", "runs/release"),
        RUNS / "release" / "language" / "adapter_model.safetensors", 2, "the folder that ships",
    ),
    Step(
        "answers", "train.measure.answers", ("runs/release", "--output", "runs/release/answers.json"),
        RUNS / "release" / "answers.json", 20, "measures the answers on what was kept out", "names the fault",
    ),
)  # fmt: skip


def plan() -> Iterator[str]:
    """One line per step: its number, name, command, where it writes, and its minutes on 2 cores."""
    width = max(len(step.command) for step in STEPS)
    for number, step in enumerate(STEPS, 1):
        place = f"{number}/{len(STEPS)}  {step.name:<8}"
        yield f"{place}  {step.command:<{width}}  {step.minutes:>2} min  {step.purpose}"


def is_finished(step: Step, image_size: int) -> bool:
    return are_stored(image_size) if step.writes is None else step.writes.exists()


def settings_of(step: Step, overrides: Sequence[str]) -> list[str]:
    """The overrides of this step among all of the form STEP.KEY=VALUE."""
    return [text.removeprefix(f"{step.name}.") for text in overrides if text.startswith(f"{step.name}.")]


def check_overrides(overrides: Sequence[str]) -> None:
    """MintIQAError for an override of a step that doesn't exist or has no recipe."""
    with_recipe = [step.name for step in STEPS if step.arguments and step.arguments[0].endswith(".yaml")]
    for text in overrides:
        if text.split(".")[0] not in with_recipe or "=" not in text:
            raise MintIQAError(
                "bad_argument",
                f"--set {text!r} is not of the form STEP.KEY=VALUE with a step of {', '.join(with_recipe)}.",
            )


def run(overrides: Sequence[str]) -> None:
    """Run every unfinished step, in order; MintIQAError if one fails."""
    check_overrides(overrides)
    pretrain = settings_of(STEPS[1], overrides)
    image_size = image_size_of(read_settings(Stage1, STEPS[1].arguments[0], pretrain).model)
    done = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for number, step in enumerate(STEPS, 1):
        title = f"[{number}/{len(STEPS)}] {step.name}"
        if is_finished(step, image_size):
            print(f"{title}: finished{_result(done.get(step.name))}", flush=True)
            continue
        options = ["--set", *own] if (own := settings_of(step, overrides)) else []
        options += ["--image-size", str(image_size)] if step.writes is None else []
        print(f"{title}: {step.command}, about {step.minutes} minutes", flush=True)
        started = time.monotonic()
        figure = follow([sys.executable, "-u", "-m", step.module, *step.arguments, *options], step)
        done[step.name] = {"minutes": round((time.monotonic() - started) / 60, 1), "figure": figure}
        RUNS.mkdir(exist_ok=True)
        write_whole(RECORD, json.dumps(done, indent=2))
        print(f"{title}: finished{_result(done[step.name])}", flush=True)


def follow(command: Sequence[str], step: Step) -> str:
    """Run a command and show what it prints; the last line that begins as its figure does, or "".

    MintIQAError if it fails.
    """
    figure = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith(step.figure):
                figure = line.removeprefix(FIGURE).strip()
    if process.returncode:
        raise MintIQAError(
            "step_failed",
            f"Step {step.name} ended with exit code {process.returncode}, for the reason above: run "
            "train.nano again, and it continues there.",
        )
    return figure


def _result(done: dict[str, object] | None) -> str:
    if done is None:
        return ""
    return f" in {done['minutes']} minutes" + (f": {done['figure']}" if done["figure"] else "")


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", action="store_true", help="print the steps and do nothing")
    parser.add_argument(
        "--set", nargs="*", default=[], action="extend", metavar="STEP.KEY=VALUE", help="override settings"
    )
    options = parser.parse_args()
    if options.plan:
        print("\n".join(plan()))
    else:
        run(options.set)


if __name__ == "__main__":
    sys.exit(main())
