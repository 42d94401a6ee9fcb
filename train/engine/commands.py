"""Commands of train/: they take a recipe, and end well or with one sentence and exit code 2."""

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

import torch

from instruct_data.recipes import add_recipe, read_settings
from mint_iqa.errors import MintIQAError
from train.engine.checkpoints import rank
from train.engine.trainer import Recipe

R = TypeVar("R")


def exit_code(main: Callable[[], None], stopped: str = "Stopped.") -> int:
    """Run a command. 2: a MintIQAError's sentence went to stderr; 130: Ctrl-C, with `stopped` there."""
    try:
        main()
    except MintIQAError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    return 0


def ends_in_a_sentence(main: Callable[[], None]) -> Callable[[], int]:
    """`main` as a function that gives its `exit_code`."""

    @wraps(main)
    def command() -> int:
        return exit_code(main)

    return command


def step(kind: type[R], run: Callable[[R], object], text: str) -> int:
    """Read the recipe that the command line names and run it in this one process; the exit code."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe(parser)
    options = parser.parse_args()

    def main() -> None:
        run(read_settings(kind, options.recipe, options.set))

    return exit_code(main)


def command(kind: type[Recipe], train: Callable[[Recipe, bool, Path | None], Path], text: str) -> int:
    """Read the recipe that the command line names and train; the exit code. 2: one sentence says why not."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--deepspeed", type=Path, metavar="JSON", help="one of configs/deepspeed")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    options = parser.parse_args()

    def run() -> None:
        folder = train(read_settings(kind, options.recipe, options.set), options.resume, options.deepspeed)
        if rank() == 0:
            print(f"Trained: {folder}")

    try:
        return exit_code(run, "Stopped; --resume continues from the last checkpoint.")
    finally:
        if torch.distributed.is_initialized():
            # At interpreter exit, gloo's threads may abort a finished process (pytorch/pytorch#179291).
            torch.distributed.destroy_process_group()
