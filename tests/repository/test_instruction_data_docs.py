"""What docs/instruction_data.md shows and tells people to type is so."""

import json
import re
import shlex
import shutil
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from instruct_data.__main__ import main
from instruct_data.records import InstructionSample, RatedImage, schema

LABELS = Path(__file__).parents[1] / "labels"
TEXT = (LABELS.parents[1] / "docs" / "instruction_data.md").read_text(encoding="utf-8")
SAMPLE, RATING = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL))
COMMANDS = re.findall(r"^python -m instruct_data (.*)$", TEXT, re.MULTILINE)


def test_the_commands_run_in_their_order(tmp_path, monkeypatch, capsys):
    shutil.copytree(LABELS, tmp_path, dirs_exist_ok=True)
    shutil.copytree(LABELS.parents[1] / "configs", tmp_path / "configs")
    for i, name in enumerate(
        ["boat.png", *re.findall(r"(?m)^[\w.-]+\.jpg", (LABELS / "data.csv").read_text())]
    ):
        Image.effect_noise((64, 48), 10 * i + 10).convert("RGB").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        assert main(shlex.split(command)) == 0, f"{command}: {capsys.readouterr().err}"


@pytest.mark.parametrize(
    "name", ["aigciqa2023", "aigciqa2023-raw", "agiqa3k", "live", "clive", "kadid", "llava", "csv"]
)
def test_every_importer_has_its_command_and_its_row(name):
    assert any(command.startswith(f"import {name} ") for command in COMMANDS)
    assert f"| `{name}` |" in TEXT


@pytest.mark.parametrize(("kind", "example"), [(InstructionSample, SAMPLE), (RatedImage, RATING)])
def test_the_examples_are_records(kind, example):
    kind.model_validate_json(json.dumps(example), strict=True)
    jsonschema.validate(example, schema(kind))


def test_the_sample_shows_every_field_and_the_table_explains_it():
    assert SAMPLE.keys() == InstructionSample.model_fields.keys()
    assert [name for name in SAMPLE if f"`{name}`" not in TEXT] == []
