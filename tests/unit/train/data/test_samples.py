"""Stage 2 on one's own instruction data: it goes on from a finished model and keeps its scores."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from instruct_data.records import InstructionSample, read_jsonl, write_jsonl
from mint_iqa.assessor import Assessor
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from tests import tiny
from train import stage2
from train.data.questions import Instruction
from train.data.samples import FileInstructions, examples_of, read_samples
from train.engine.commands import command
from train.engine.parameters import trained_state
from train.engine.recipes import Lora, Stage2
from train.stage2 import Explainer, explainer_of, print_validation_loss, start_of

ROOT = Path(__file__).resolve().parents[4]
ANSWERS = ("The red fox is noisy.", "It is a painting.", "The snow is under a cat.", "It is clearly blurry.")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINT_IQA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a build writes it: 16 samples of 8 pictures to learn, 4 to measure on."""
    folder = tmp_path_factory.mktemp("built")
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    write_jsonl(folder / "train.jsonl", [sample(i % 8, answer=ANSWERS[i % 4]) for i in range(16)])
    held_out = [sample(i, answer=ANSWERS[i], split="validation") for i in range(4)]
    write_jsonl(folder / "validation.jsonl", held_out)
    return folder


def sample(number: int = 0, **changes: Any) -> InstructionSample:
    fields = {"image": f"{number}.png", "source": "own", "split": "train", "question": "How is it?"}
    return InstructionSample(**{**fields, "answer": "It is fair.", **changes})


def recipe(start: Path, instructions: Path, output: Path, **settings: Any) -> Stage2:
    small: dict[str, Any] = {"batch_size": 4, "lora": Lora(rank=4, learning_rate=1e-2), "warmup": 0.0}
    small |= {"bf16": False, "log_steps": 1, "learning_rate": 3e-3, "passes": 8.0}
    return Stage2(start=str(start), instructions=str(instructions), output=str(output), **(small | settings))


@pytest.fixture(scope="module")
def told(tiny_checkpoint: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage2.train(recipe(tiny_checkpoint, folder, tmp_path_factory.mktemp("runs") / "told"))


def explainer_from(start: Path) -> Explainer:
    recipe = Stage2(start=str(start), lora=Lora(rank=4))
    return explainer_of(recipe, start_of(recipe)[0].eval())


@pytest.fixture(scope="module")
def explainer(tiny_checkpoint: Path) -> Explainer:
    return explainer_from(tiny_checkpoint)


def read(
    explainer: Explainer, source: Path, passes: float = 1.0, seed: int = 0
) -> tuple[FileInstructions, FileInstructions]:
    scorer = Assessor.from_pretrained(explainer.model.folder)
    return examples_of(read_samples(str(source), None), scorer, explainer.language, passes, seed)


def example(explainer: Explainer, folder: Path, **fields: Any) -> Instruction:
    write_jsonl(folder / "one.jsonl", [sample(**fields)])
    return read(explainer, folder / "one.jsonl")[0].examples[0]


# --- whole runs ---


def test_answers_of_the_validation_side_become_likelier(
    tiny_checkpoint: Path, told: Path, folder: Path
) -> None:
    def loss(start: Path) -> float:
        explainer = explainer_from(start)
        found = print_validation_loss("now", explainer, read(explainer, folder)[1], 4)
        assert found is not None
        return found

    assert loss(told) < 0.8 * loss(tiny_checkpoint)


def test_the_scores_stay_to_the_bit_and_the_folder_answers(
    tiny_checkpoint: Path, told: Path, folder: Path
) -> None:
    before, after = (load_file(path / "model.safetensors") for path in (tiny_checkpoint, told))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name].half(), after[name])}
    assert changed == {"qformer2", "bridge", "language_projection"}
    assessor = Assessor.from_pretrained(told)
    assert assessor.assess(folder / "1.png", "a red fox").explanation


def test_a_run_goes_on_from_the_adapter_of_its_start(told: Path) -> None:
    explainer = explainer_from(told)
    model, language = explainer.model, explainer.language
    saved = load_file(told / "language" / "adapter_model.safetensors")
    lora = {n: p for n, p in language.named_parameters() if p.requires_grad}
    assert len(saved) == len(lora) > 0
    assert all("lora_" in name for name in lora)
    assert sorted(float(t.float().sum()) for t in saved.values()) == pytest.approx(
        sorted(float(p.detach().sum()) for p in lora.values()), abs=1e-5
    )
    own = load_file(told / "model.safetensors")
    assert torch.equal(own["qformer2.query_tokens"].float(), model.qformer2.query_tokens)


def test_a_run_does_not_go_on_with_other_instructions(
    tiny_checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "built"
    shutil.copytree(folder, own)
    settings = recipe(tiny_checkpoint, own, tmp_path / "run", stop_after=1)
    stage2.train(settings)
    assert list((tmp_path / "run").glob("checkpoint-*"))
    learned = read_jsonl(own / "train.jsonl", InstructionSample)
    write_jsonl(own / "train.jsonl", [sample(0, answer="It is poor."), *learned[1:]])
    with pytest.raises(MintIQAError, match="begun with other instructions") as caught:
        stage2.train(settings, resume=True)
    assert caught.value.code == "other_recipe"


def test_a_second_run_trains_what_the_first_did(tiny_checkpoint: Path, told: Path) -> None:
    names = []
    for start in (tiny_checkpoint, told):
        names.append(trained_state(explainer_from(start)).keys())
    assert names[0] == names[1]


def test_a_whole_llm_in_the_start_is_refused(
    tiny_checkpoint: Path, tiny_language: Path, tmp_path: Path
) -> None:
    start = tiny.save(tmp_path / "start", tiny_language)
    tiny.save_language(start / "language")
    with pytest.raises(MintIQAError, match="LoRA adapter only"):
        explainer_from(start)


# --- examples ---


def test_the_whole_picture_is_seen_as_the_assessor_sees_it(explainer: Explainer, folder: Path) -> None:
    data, _ = read(explainer, folder)
    processor = data.processor
    item = data.examples[3]
    image = read_image(data.paths[item.pixels[1]]).rgb
    assert torch.equal(data.collate([item])["pixel_values"], processor.pixel_values([image]))


def test_the_scores_in_words_are_those_that_the_answer_was_written_from(
    explainer: Explainer, folder: Path
) -> None:
    told = example(explainer, folder, scores={"quality": 12.5}, dimension="quality", mos=12.5)
    assert told.scores == {"quality": 12.5, "authenticity": None, "correspondence": None}


def test_an_answer_without_scores_is_read_beside_those_of_the_model(
    explainer: Explainer, folder: Path
) -> None:
    assessed = Assessor.from_pretrained(explainer.model.folder).assess(folder / "2.png", explain=False)
    told = example(explainer, folder, number=2)
    assert told.scores["quality"] == pytest.approx(assessed.scores.quality, abs=0.01)
    assert told.scores["correspondence"] is None
    prompted = example(explainer, folder, number=2, prompt="red fox")
    assert prompted.scores["correspondence"] is not None


@pytest.mark.parametrize(
    ("detects", "fields", "wanted"),
    [
        (False, {}, (True, None)),
        (True, {}, (False, None)),
        (False, {"distortion": "motion_blur", "level": 5}, (False, "blur")),
        (False, {"distortion": "motion_blur", "level": 1}, (True, None)),
        (False, {"distortion": "color_shift", "level": 5}, (True, None)),
    ],
)
def test_soft_tokens_are_there_where_a_fault_is_known_or_detected(
    explainer: Explainer, folder: Path, detects: bool, fields: dict[str, Any], wanted: tuple[bool, Any]
) -> None:
    scorer = Assessor.from_pretrained(explainer.model.folder)
    last = scorer.model.fault_head.layers[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 9.0 if detects else -9.0)
    write_jsonl(folder / "one.jsonl", [sample(**fields)])
    told = read_samples(str(folder / "one.jsonl"), None)
    data, _ = examples_of(told, scorer, explainer.language, 1.0, 0)
    assert (data.examples[0].blind, data.examples[0].fault) == wanted


def test_earlier_turns_and_the_prompt_come_along(explainer: Explainer, folder: Path) -> None:
    turn = {"question": "What?", "answer": "A fox."}
    told = example(explainer, folder, prompt="red fox", history=[turn])
    assert (told.prompt, told.history) == ("red fox", (("What?", "A fox."),))


def test_validation_samples_are_measured_on_and_test_samples_are_left_alone(
    explainer: Explainer, folder: Path
) -> None:
    splits = ["train", "validation", "test", None]
    write_jsonl(folder / "mixed.jsonl", [sample(i, split=split) for i, split in enumerate(splits)])
    learned, measured = read(explainer, folder / "mixed.jsonl")
    assert {learned.paths[e.pixels[1]].name for e in learned.examples} == {"0.png", "3.png"}
    assert [measured.paths[e.pixels[1]].name for e in measured.examples] == ["1.png"]


def test_every_pass_has_each_sample_once_in_a_seeded_order(explainer: Explainer, folder: Path) -> None:
    data, other = (read(explainer, folder, passes=2.5, seed=seed)[0] for seed in (0, 1))
    numbers = [e.pixels[1] for e in data.examples]
    assert len(numbers) == 40
    assert sorted(numbers[:16]) == sorted(numbers[16:32]) == list(range(16))
    assert numbers[:16] != numbers[16:32] != [e.pixels[1] for e in other.examples][16:32]
    assert replace(data.examples[0]) == read(explainer, folder, passes=2.5)[0].examples[0]


# --- what can't be used ---


def test_missing_pictures_are_counted_and_the_first_is_named(explainer: Explainer, folder: Path) -> None:
    write_jsonl(folder / "lost.jsonl", [sample(0), sample(77)])
    with pytest.raises(MintIQAError, match=r"'77\.png' of .*lost\.jsonl .*1 of 2 images"):
        read(explainer, folder / "lost.jsonl")


def test_a_file_without_a_training_sample_is_refused(explainer: Explainer, folder: Path) -> None:
    write_jsonl(folder / "none.jsonl", [sample(0, split="test")])
    with pytest.raises(MintIQAError, match="no sample to learn from"):
        read(explainer, folder / "none.jsonl")


def test_the_command_ends_with_one_sentence_about_a_broken_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "1.png"}\n')
    settings = [f"instructions={tmp_path}/a.jsonl", f"output={tmp_path}/run"]
    recipe = str(ROOT / "configs" / "nano" / "finetune_answers.yaml")
    monkeypatch.setattr(sys, "argv", ["stage2", recipe, "--set", *settings])
    assert command(Stage2, stage2.train, "") == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/a.jsonl has 1 problem: line 1: ")
