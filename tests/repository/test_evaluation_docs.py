"""What docs/evaluation.md tells people to type works, and the names that it lists are those of the code."""

import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from mint_iqa import cli
from mint_iqa.assessor import Assessor
from mint_iqa.evaluation import agreement
from mint_iqa.evaluation.labels import USUAL_NAMES
from tests.evaluated import rows, write_labels
from tests.unit.train.measure.test_slots import write_labels as write_slot_labels
from train.data import sets

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(mint-iqa .*|python -m train\..*)$", TEXT, re.MULTILINE)
PROMPTS = ("a red fox", "a wooden boat", "two lamps", "a stone bridge", "an old car", "a green bottle")


def human_rows(folder: Path) -> list[dict[str, str]]:
    found = []
    for i, prompt in enumerate(PROMPTS):
        name = str(folder / f"agi{i}.png")
        Image.effect_noise((48, 48), 40 + i).convert("RGB").save(name)
        numbers = {"mos_quality": "4.0", "mos_align": "4.0"}
        found.append(
            {"path": name, "image": name, "prompt": prompt, "sha256": str(i), "generator": "a", **numbers}
        )
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> Path:
    """Everything that the commands read, with a tiny model in nano's place."""
    table = rows(20)
    (tmp_path / "images").mkdir()
    for i, row in enumerate(table):
        Image.effect_noise((40, 40), 5 * i + 5).convert("RGB").save(tmp_path / str(row["image"]))
    write_labels(tmp_path / "labels.csv", table)
    write_labels(tmp_path / "pictures.csv", [{k: row[k] for k in ("image", "prompt")} for row in table])
    own = [{"file": r["image"], "text": r["prompt"], "dmos": i, "realism": i} for i, r in enumerate(table)]
    write_labels(tmp_path / "ratings.csv", own)
    ratings = [{"image": r["image"], "source": "mine", "mos": {"quality": i}} for i, r in enumerate(table)]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ratings))
    (tmp_path / "pictures").mkdir()
    write_slot_labels(tmp_path / "pictures").rename(tmp_path / "AIGIQA2023.json")

    tiny = Assessor.from_pretrained(tiny_checkpoint, device="cpu")
    monkeypatch.setattr(Assessor, "from_pretrained", lambda *_, **__: tiny)
    monkeypatch.setattr(sets, "agiqa3k", lambda root: human_rows(tmp_path))
    monkeypatch.setattr(agreement, "BOOTSTRAP_SAMPLES", 10)
    monkeypatch.setattr(agreement, "ROUNDS", 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_in_their_order(folder, monkeypatch, capsys):
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program == "mint-iqa":
            assert cli.main(arguments) == 0, f"{command}: {capsys.readouterr().err}"
        else:
            module, *options = arguments[1:]
            monkeypatch.setattr(sys, "argv", [module, *options])
            assert import_module(module).main() == 0
    for name in ("evaluation/report.html", "evaluation/evaluation.json", "answers.json", "slots.json"):
        assert (folder / name).stat().st_size > 0, name
    json.loads((folder / "answers.json").read_text(), parse_constant=pytest.fail)


def test_the_example_prints_what_it_says(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.strip() == example.rsplit("# ", 1)[1].strip()


@pytest.mark.parametrize("what", USUAL_NAMES)
def test_every_usual_name_is_listed(what):
    assert [name for name in USUAL_NAMES[what] if f"`{name}`" not in TEXT] == []
