"""Several training runs one after the other in the processes of one launcher: starting those takes longest.

    torchrun --nproc_per_node 2 -m tests.several_runs JOBS.json

JOBS.json: a list of {"module": "train.stage1", "arguments": [...], "data": MINT_IQA_DATA}. The last one runs
as the command that it is, with what the launcher adds to its arguments; those before it only train, since a
command ends the group of its processes.
"""

import argparse
import importlib
import json
import os
import runpy
import sys
from pathlib import Path

from instruct_data.recipes import add_recipe, read_settings
from train.clip_agiqa import ClipAgiqaRecipe
from train.engine.recipes import Stage1, Stage2

KINDS = {"train.stage1": Stage1, "train.stage2": Stage2, "train.clip_agiqa": ClipAgiqaRecipe}


def train(module: str, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_recipe(parser)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--deepspeed", type=Path)
    options = parser.parse_args(arguments)
    recipe = read_settings(KINDS[module], options.recipe, options.set)
    importlib.import_module(module).train(recipe, options.resume, options.deepspeed)


def main() -> None:
    (file,) = (argument for argument in sys.argv[1:] if argument.endswith(".json"))
    added = [argument for argument in sys.argv[1:] if argument != file]
    *jobs, last = json.loads(Path(file).read_text())
    for job in jobs:
        os.environ["MINT_IQA_DATA"] = job["data"]
        train(job["module"], job["arguments"])
    os.environ["MINT_IQA_DATA"] = last["data"]
    sys.argv = [last["module"], *added, *last["arguments"]]
    sys.modules.pop(last["module"], None)
    runpy.run_module(last["module"], run_name="__main__")


if __name__ == "__main__":
    main()
