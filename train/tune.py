"""Tunes fresh heads and every block of the tower together, from the pixels: the scores that ship.

    python -m train.tune configs/nano/tune.yaml
    python -m train.tune configs/nano/tune.yaml --set test_fold=1 output=runs/fold1

The Q-Former, the projections and the sentence encoder stay as they are; what they say of each picture before
is computed first (train.data.features). With the tuned tower they say something else, which matters little:
on fold 0 quality SRCC is .8262 by the code that serves, and .8259 here. The running average of the weights is
kept. At the end the heads for authenticity and faults are fitted to the tower (train.heads.own_units). A
checkpoint after every pass lets a stopped run continue.
"""

import sys
from pathlib import Path

import numpy as np
from torch import Tensor

from mint_iqa.errors import MintIQAError
from mint_iqa.metrics import bootstrap_interval, srcc
from mint_iqa.vocabulary import QUALITY
from train.data import sets
from train.data.features import load_features
from train.data.sets import FOLDS, check_fold
from train.engine.checkpoints import checkpoints, leave, save_alone, writing
from train.engine.commands import step
from train.engine.recipes import HeldOut, Tune
from train.heads.own_units import fit_own_units
from train.heads.readout import Readout
from train.heads.tuned import tune_model


def tune(recipe: Tune) -> None:
    """Run the recipe: OUTPUT/model. It continues from its last pass where it was stopped.

    MintIQAError if the output holds another run, or the recipe keeps out something that doesn't exist.
    """
    output = Path(recipe.output)
    _check(recipe, output)
    checkpoint = output / "tune.pt"
    features = load_features(Path(recipe.start), recipe.photographs)
    learned = features["fold"] != (-2 if recipe.test_fold is None else recipe.test_fold)
    rows = learned.nonzero().squeeze(1)
    human = sets.agiqa3k(sets.data_root())
    readout = tune_model(Path(recipe.start), features, rows, human, recipe, checkpoint)
    fit_own_units(readout, rows, recipe.own_units)
    figure = quality_on(readout, (~learned & features["human"]).nonzero().squeeze(1))
    model = readout.model
    model.config.language["taught"] = False
    kept = HeldOut(recipe.folds, recipe.test_fold, None, recipe.held_out_photographs)
    with writing(output, "run it again: it continues from its last pass"):
        leave(output, recipe, kept, figure)
        save_alone(model, output / "model")
    checkpoint.unlink()


def _check(recipe: Tune, output: Path) -> None:
    check_fold(recipe.test_fold, recipe.folds)
    if recipe.folds != FOLDS or recipe.leave_out is not None:
        raise MintIQAError(
            "bad_config",
            f"Tuning keeps out one of {FOLDS} folds or none: set folds={FOLDS} and leave_out=null "
            "(train.measure.generators leaves generators out).",
        )
    if checkpoints(output) or ((output / "model").exists() and not (output / "tune.pt").exists()):
        raise MintIQAError(
            "output_exists", f"{output} holds another run: name another --set output=, or delete it."
        )


def quality_on(readout: Readout, rows: Tensor) -> str:
    """SRCC of quality on these looks, with its 95 % bootstrap interval over prompts."""
    if len(rows) < 3:
        return "not measured: no fold was kept out"
    first, _ = readout.scores(rows)
    human = [readout.human[i] for i in readout.features["source"][rows].tolist()]
    labels = np.array([float(row["mos_quality"]) for row in human])
    predicted, groups = first[:, QUALITY], [row["prompt"] for row in human]
    low, high = bootstrap_interval(srcc, predicted, labels, groups=groups, samples=500)
    return (
        f"quality SRCC {srcc(predicted, labels):.3f} [{low:.3f}, {high:.3f}] on {len(rows)} pictures kept out"
    )


if __name__ == "__main__":
    sys.exit(step(Tune, tune, __doc__))
