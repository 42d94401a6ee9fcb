"""Fresh heads and every block of the tower, tuned together from the pixels: what ships as stage 1.

    python -m train.tune runs/aligned --test-fold 0 --output runs/stage1

The Q-Former, the projections and the sentence encoder stay as they are; what they said of each look before is
cached (train.data.features). With the tuned tower they say something else, which matters little: on fold 0 quality
SRCC is .8262 by the code that serves, and .8259 here. Kept are running averages of the weights. A checkpoint
after every pass lets a stopped run go on. 50 minutes on 2 cores, settling (train.heads.own_units) included.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from train.data import sets
from train.data.features import load_features
from train.data.sets import FOLDS, check_fold
from train.engine.checkpoints import checkpoints, writing
from train.engine.commands import ends_in_a_sentence
from train.engine.recipes import Stage1
from train.heads.own_units import Settling, settle
from train.heads.tuned import Tuning, run


def save(model: MintIQAModel, output: Path, start: Path, test_fold: int | None) -> None:
    """A finished stage-1 run: the model in float16, and what train.measure.scores and stage 2 must know of it."""
    model.config.language["taught"] = False
    recipe = Stage1(output=str(output), model=str(start), folds=FOLDS, test_fold=test_fold)
    with writing(output, "run it again: it goes on from its last pass"):
        model.half().save_pretrained(output / "model", max_shard_size="90MB")
        (output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run with a model and its features (train.data.features)")
    parser.add_argument("--test-fold", type=int, default=None, help="keep this fold out")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    check_fold(options.test_fold, FOLDS)
    checkpoint = options.output / "tuning.pt"
    if checkpoints(options.output) or ((options.output / "model").exists() and not checkpoint.exists()):
        raise MintIQAError(
            "output_exists", f"{options.output} holds another run: name another --output, or delete it."
        )
    features = load_features(options.run)
    rows = (features["fold"] != (-2 if options.test_fold is None else options.test_fold)).nonzero().squeeze(1)
    human = sets.agiqa3k(sets.data_root())
    readout = run(options.run, features, rows, human, Tuning(), checkpoint)
    settle(readout, rows, Settling())
    save(readout.model, options.output, options.run, options.test_fold)
    checkpoint.unlink()


if __name__ == "__main__":
    sys.exit(main())
