"""Commands of train/ end in one sentence and exit code 2 where something is missing."""

import runpy
import sys
from pathlib import Path

import pytest

from mint_iqa.errors import MintIQAError
from train.engine.commands import ends_in_a_sentence

FOLDERS = ("none", "--output", "out")


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("pictures", (), "set $MINT_IQA_DATA"),
        ("features", ("none",), "none/model"),
        ("alignment", FOLDERS, "none/model"),
        ("tuning", FOLDERS, "python -m train.data.features none"),
        ("tuning", (*FOLDERS, "--test-fold", "5"), "test_fold is 5 of 5 folds"),
        ("matching", FOLDERS, "none/recipe.json"),
        ("evaluate", ("none",), "none/recipe.json"),
        ("evaluate_answers", ("nano",), "set $MINT_IQA_DATA"),
        ("evaluate", ("none", "--summary"), "none/evaluation.json"),
        ("cross_validate", ("none",), "set $MINT_IQA_DATA"),
        ("clip_agiqa_report", ("none",), "none holds no round"),
        ("ablation", ("none", "nano"), "set $MINT_IQA_DATA"),
        ("release", ("none", "out"), "none/model"),
        ("slots", ("none", "labels.json", "pictures"), "none"),
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
