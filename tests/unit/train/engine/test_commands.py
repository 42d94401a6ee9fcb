"""Commands of train/ end in one sentence and exit code 2 where something is missing."""

import runpy
import sys
from pathlib import Path

import pytest

from mint_iqa.errors import MintIQAError
from tests.training_world import REPOSITORY
from train.engine.commands import ends_in_a_sentence

NANO = REPOSITORY / "configs" / "nano"
NONE = ("--set", "start=none", "output=out")


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("prepare", (), "set $MINT_IQA_DATA"),
        ("align", (str(NANO / "align.yaml"), *NONE), "none/recipe.json"),
        ("tune", (str(NANO / "tune.yaml"), *NONE), "none/recipe.json"),
        ("tune", (str(NANO / "tune.yaml"), *NONE, "test_fold=5"), "test_fold is 5 of 5 folds"),
        ("match", (str(NANO / "match.yaml"), *NONE), "none/recipe.json"),
        ("nano", ("--set", "bake.temperature=200"), "a step of pretrain"),
        ("measure.scores", ("none",), "none/recipe.json"),
        ("measure.answers", ("nano",), "set $MINT_IQA_DATA"),
        ("measure.scores", ("none", "--summary"), "none/evaluation.json"),
        ("measure.generators", (str(NANO / "tune.yaml"), *NONE), "set $MINT_IQA_DATA"),
        ("measure.clip_agiqa", ("none",), "none holds no round"),
        ("measure.ablation", (str(NANO / "tune.yaml"), "nano"), "set $MINT_IQA_DATA"),
        ("release", ("none", "out"), "none/model"),
        ("measure.slots", ("none", "labels.json", "pictures"), "none"),
        ("finetune", ("none.yaml",), "none.yaml"),
    ],
)
def test_what_is_missing_is_named_in_one_sentence(
    module: str,
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINT_IQA_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, f"train.{module}", raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"train.{module}", run_name="__main__")
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert words in printed.err


def test_a_command_that_ends_well_has_exit_code_0_and_a_stopped_one_130(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    def complain() -> None:
        raise MintIQAError("bad", "It is bad: mend it.")

    assert [ends_in_a_sentence(f)() for f in (lambda: None, stop, complain)] == [0, 130, 2]
    assert capsys.readouterr().err == "\nStopped.\nerror: It is bad: mend it.\n"
