"""The table "to change X, open Y" of docs/architecture.md: each of its changes, made in a copy of the code.

One copy takes a fourth score dimension, a seventh fault, another vision tower, another family of LLMs and
another label format, none of which touches more files than its row names; then all of them are used.
"""

# ruff: noqa: E501 - lines of the code that they change

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training_world import REPOSITORY

VOCABULARY, RECORDS = "mint_iqa/vocabulary.py", "mint_iqa/records.py"
FAULTS, WORDINGS = "instruct_data/damage/faults.py", "instruct_data/answers/wordings.py"
VISION, COMMAND = "mint_iqa/model/vision.py", "instruct_data/importers/command.py"
IMPORTER = "instruct_data/importers/lines.py"  # a new file
Edits = dict[str, list[tuple[str, str]]]

# What the table calls the change: by file, text and what takes its place.
CHANGES: dict[str, Edits] = {
    "a fourth score dimension": {
        VOCABULARY: [
            (
                'Dimension = Literal["quality", "authenticity", "correspondence"]',
                'Dimension = Literal["quality", "authenticity", "correspondence", "aesthetics"]',
            ),
            (
                'DIMENSIONS: tuple[Dimension, ...] = ("quality", "authenticity", "correspondence")',
                'DIMENSIONS: tuple[Dimension, ...] = ("quality", "authenticity", "correspondence", "aesthetics")',
            ),
            ('"correspondence": frozenset(),', '"correspondence": frozenset(), "aesthetics": frozenset(),'),
            ('    "overall": "Why', '    "aesthetics": "How beautiful is the image?",\n    "overall": "Why'),
        ],
        RECORDS: [
            ("\n\nclass Intervals(", "\n    aesthetics: Score | None = None\n\n\nclass Intervals("),
            ("\n    @model_validator(mode=\"after\")\n    def _low", "    aesthetics: Interval | None = None\n\n    @model_validator(mode=\"after\")\n    def _low"),
            ("\n    @classmethod\n    def of(cls, scores", "    aesthetics: Level | None = None\n\n    @classmethod\n    def of(cls, scores"),
            ("\n\nclass ModelInfo(", "\n    aesthetics: Text | None = None\n\n\nclass ModelInfo("),
        ],
    },
    "a seventh fault": {
        VOCABULARY: [
            ('"pixelation", "malformation"]', '"pixelation", "malformation", "blocks"]'),
            ('"pixelation", "malformation")', '"pixelation", "malformation", "blocks")'),
            ('    "malformation": ("malform"', '    "blocks": ("patch",),\n    "malformation": ("malform"'),
            ('    "malformation": ("malformed in', '    "blocks": ("patched",),\n    "malformation": ("malformed in'),
            ('"darkness", "pixelation"}),', '"darkness", "pixelation", "blocks"}),'),
        ],
        FAULTS: [('    "pixelation": "pixelate",\n', '    "pixelation": "pixelate",\n    "blocks": "color_block",\n')],
        WORDINGS: [("REMEDIES: dict[FaultName, tuple[str, ...]] = {\n",
                    'REMEDIES: dict[FaultName, tuple[str, ...]] = {\n    "blocks": ("repaint the patches",),\n')],
    },
    "another vision tower": {
        VISION: [
            ("    PreTrainedModel,\n)", "    PreTrainedModel,\n    ViTConfig,\n    ViTModel,\n)"),
            ('= {\n    "dinov2":', '= {\n    "vit": (ViTConfig, ViTModel),\n    "dinov2":'),
            (
                "    if isinstance(backbone, Dinov2Model):",
                "    if isinstance(backbone, ViTModel):\n"
                "        return backbone.embeddings, backbone.layers, backbone.layernorm\n"
                "    if isinstance(backbone, Dinov2Model):",
            ),
        ],
    },
    "another LLM family": {},
    "another label format": {
        IMPORTER: [
            (
                "",
                "from instruct_data.records import RatedImage\n"
                "from mint_iqa.tables.reading import read_text\n\n\n"
                "def read_lines(path, findings):\n"
                "    rows = [line.split() for line in read_text(path).splitlines()]\n"
                "    return [RatedImage(image=i, source='lines', mos={'aesthetics': float(m)}) for i, m in rows]\n",
            )
        ],
        COMMAND: [
            (
                "from instruct_data.importers.llava import read_llava\n",
                "from instruct_data.importers.lines import read_lines\n"
                "from instruct_data.importers.llava import read_llava\n",
            ),
            ('    _format(formats, "llava"', '    _format(formats, "lines", read_lines, "a line an image")\n    _format(formats, "llava"'),
        ],
    },
}  # fmt: skip

USE = """
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

from instruct_data.__main__ import main
from instruct_data.answers.templates import make_sample
from instruct_data.damage.faults import apply_fault, severity_of
from mint_iqa import Assessor
from mint_iqa.cli.panel import panel
from mint_iqa.language.chat import scores_in_words
from mint_iqa.language.llm import LanguageModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.records import ModelInfo, schema
from mint_iqa.vocabulary import DIMENSIONS, FAULTS, named_faults
from tests import tiny, tiny_llms
from train.heads.losses import masked_l1
from train.data.pictures import KADID_FAULTS

assert "changed" in sys.modules["mint_iqa"].__file__

# Dimension, fault and tower: one model has them all.
vision = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
          "intermediate_size": 64, "image_size": 28, "patch_size": 14, "taps": [1, 2, 4], "branch_at": 4,
          "embeds_width": 24}
model = tiny.lively(tiny.model(vision=vision, faults=list(FAULTS)))
assert list(model.heads) == [*DIMENSIONS] and len(DIMENSIONS) == 4
assert model.fault_head.layers[-1].out_features == len(FAULTS) == 7
processor = MintIQAProcessor(model.config, tiny.text_tokenizer())
assessor = Assessor(model, processor, ModelInfo(name="tiny", revision="1"))
record = assessor.assess(Image.effect_noise((64, 48), 90).convert("RGB"), "a red fox", explain=False)
assert 0 <= record.scores.aesthetics <= 100 and record.levels.aesthetics
assert "aesthetics" in str(schema()) and "aesthetics " in scores_in_words(record.scores.model_dump())
assert panel(record)

loss = masked_l1(torch.rand(2, 4), torch.tensor([[0.5, float("nan"), 0.5, 0.2], [float("nan")] * 4]))
assert loss.isfinite()

# The fault is made, has a severity, is asked about and named.
picture = Image.new("RGB", (256, 256), "gray")
assert apply_fault(picture, "blocks", 4, np.random.default_rng(0)).image != picture
assert "blocks" in KADID_FAULTS and 0 < severity_of("blocks", 4) <= 1
scores = {"quality": 20.0, "authenticity": 50.0, "correspondence": None, "aesthetics": 40.0}
sample = make_sample("why_low", scores, [("blocks", 0.9)], None, np.random.default_rng(0))
assert named_faults(sample.answer) == {"blocks"}, sample.answer

# A family that nothing here names.
words = tiny_llms.tokenizer("qwen")
config = AutoConfig.for_model("gpt_neox", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                              num_attention_heads=4, vocab_size=len(words), eos_token_id=words.eos_token_id)
AutoModelForCausalLM.from_config(config).save_pretrained("neox")
words.save_pretrained("neox")
language = LanguageModel.load(Path("neox"), None, 32)
language.add_lora(2, 4)
prefix = language.prefix(torch.zeros(4, 32), language.tokens(record.scores.model_dump(), "Why?", ()))
assert isinstance("".join(language.stream(prefix, max_new_tokens=4)), str)

# The label format is a command.
Path("labels.txt").write_text("a.png 70\\nb.png 35.5\\n")
assert main(["import", "lines", "labels.txt", "--output", "ratings.jsonl"]) == 0
assert Path("ratings.jsonl").read_text().count("aesthetics") == 2
print("all used")
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with every change made, each text found exactly once."""
    copy = tmp_path_factory.mktemp("changed")
    left_out = shutil.ignore_patterns("weights", "__pycache__", "golden", "unit", "e2e", "browser")
    for name in ("mint_iqa", "instruct_data", "train", "tests"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=left_out)
    for edits in CHANGES.values():
        for name, pairs in edits.items():
            path = copy / name
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            for old, new in pairs:
                assert not old or text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
                text = text.replace(old, new) if old else new
            path.write_text(text, encoding="utf-8")
    return copy


def test_each_change_opens_the_files_that_the_table_names_and_three_at_most() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z][^|]*?) \| (.*) \|$", text, re.MULTILINE))
    assert CHANGES.keys() <= rows.keys()
    for change, cell in rows.items():
        files = [name for name in re.findall(r"`([\w/]+/[\w.]*)`", cell) if "/" in name]
        assert len(files) <= 3, change
        assert [f for f in files if not (REPOSITORY / f).exists()] == []
    for change, edits in CHANGES.items():
        there = [name for name in edits if (REPOSITORY / name).exists()]
        assert len(edits) <= 3 and [name for name in there if f"`{name}`" not in rows[change]] == [], change


def test_what_was_added_works_together(copy: Path) -> None:
    done = subprocess.run([sys.executable, "-c", USE], cwd=copy, capture_output=True, text=True)
    assert done.stdout.strip().endswith("all used"), done.stderr[-3000:]
