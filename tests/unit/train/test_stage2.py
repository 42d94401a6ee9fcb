"""Stage 2: it learns to explain and leaves the scores alone, to the bit."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from instruct_data.recipes import read_settings
from mint_iqa.checkpoints.parts import part_folder
from mint_iqa.errors import MintIQAError
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.modeling import MintIQAModel, ScoreOutput
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.model.references import load_language
from mint_iqa.vocabulary import FAULT_WORDS
from tests.training_world import NANO, SIZE, TRAINS, WIDTH, World, living_in
from train import prepare, stage1, stage2
from train.data.questions import StoredInstructions, draw_instructions
from train.data.sources import read_sources
from train.engine.parameters import STAGE1_PARTS, Learner, declare, trained_state
from train.engine.recipes import Lora, Stage1, Stage2
from train.engine.trainer import WEIGHTS, PlanTrainer, run_to_end
from train.stage2 import Explainer, explainer_of, parameter_groups, start_of

LORA_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("stage2")) as world:
        prepare.build_all(SIZE)
        yield world


@pytest.fixture(scope="module")
def first(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("first") / "run"
    stage1.train(
        Stage1(
            model=str(world.config), output=str(run), human_epochs=1.0, test_fold=0, batch_size=8,
            trains=list(TRAINS), held_out_photographs=2, threads=1, bf16=False, learning_rate=3e-3,
        )
    )  # fmt: skip
    return run


def recipe(first: Path, output: Path, **settings: Any) -> Stage2:
    small: dict[str, Any] = {"stage1": str(first), "output": str(output), "examples": 40, "batch_size": 8}
    small |= {"lora": Lora(rank=4), "warmup": 0.0, "bf16": False, "log_steps": 1, "save_steps": 2}
    return Stage2(**(small | settings))


@pytest.fixture(scope="module")
def second(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage2.train(recipe(first, tmp_path_factory.mktemp("second") / "run"))


@pytest.fixture
def explainer(first: Path) -> Explainer:
    settings = recipe(first, Path("unused"))
    model, _ = start_of(settings)
    return explainer_of(settings, model).eval()


def data_for(explainer: Explainer, count: int) -> StoredInstructions:
    sources = read_sources(SIZE)
    examples = draw_instructions(sources, range(14), range(4), {}, count, seed=1)
    processor = MintIQAProcessor.from_config(explainer.model.config)
    return StoredInstructions(examples, sources, processor, explainer.language)


def batch_of(explainer: Explainer, count: int = 6, blind: bool | None = None) -> dict[str, Any]:
    data = data_for(explainer, count)
    items = [e if blind is None else replace(e, blind=blind) for e in data.examples]
    return data.collate(items)


def parameters(module: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters()}


# --- what trains ---


def test_nano_trains_exactly_these_besides_lora() -> None:
    with torch.device("meta"):
        model = MintIQAModel(MintIQAConfig(**json.loads((NANO / "model.json").read_text())))
    *parts, lora = read_settings(Stage2, NANO / "explain.yaml").trains
    learner = Learner()
    learner.model = model
    declare(learner, parts, model.config.is_referenced, STAGE1_PARTS)
    trains = [n for n, p in model.named_parameters() if p.requires_grad]
    owners = Counter(n.split(".")[0] for n in trains)
    assert owners == {"qformer2": 1 + 3 * 10 + 6 * (2 + 4), "bridge": 2, "language_projection": 2}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 9_098_576
    inner = Counter(n.split(".")[5] for n in trains if n.startswith("qformer2.encoder."))
    assert inner == {"crossattention": 30, "intermediate_query": 12, "output_query": 24}
    assert lora == "language.*lora_[AB].*"


def test_of_the_language_model_only_lora_trains(explainer: Explainer) -> None:
    trains = [n for n, p in explainer.language.named_parameters() if p.requires_grad]
    assert Counter((n.split(".")[-4], n.split(".")[-3]) for n in trains) == {
        (layer, half): 2 for layer in LORA_LAYERS for half in ("lora_A", "lora_B")
    }


def test_q_former_2_starts_as_q_former_1(explainer: Explainer) -> None:
    one, two = explainer.model.qformer1.state_dict(), explainer.model.qformer2.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_at_the_start_the_answer_is_that_of_the_untouched_language_model(explainer: Explainer) -> None:
    ids = torch.arange(20).unsqueeze(0)
    adapted = explainer.language.model(input_ids=ids).logits
    with explainer.language.model.disable_adapter():
        assert torch.equal(adapted, explainer.language.model(input_ids=ids).logits)


def test_a_step_changes_what_trains_and_nothing_else(
    explainer: Explainer, first: Path, tmp_path: Path
) -> None:
    data = data_for(explainer, 16)
    settings = recipe(first, tmp_path / "run", batch_size=16, learning_rate=1e-2)
    settings.lora.learning_rate = 1e-2
    before = parameters(explainer)
    trains = {n for n, p in explainer.named_parameters() if p.requires_grad}
    trainer = PlanTrainer(settings, explainer, parameter_groups(explainer, settings), data, data.collate)
    run_to_end(trainer, None)
    assert trainer.state.global_step == 1
    changed = {n for n, old in before.items() if not torch.equal(old, explainer.get_parameter(n))}
    assert changed == trains
    assert all(p.abs().max() > 0 for n, p in explainer.named_parameters() if "lora_B" in n)


# --- the loss ---


def full_logits_loss(explainer: Explainer, batch: dict[str, Any]) -> Tensor:
    """The textbook form: every position's logits, and labels of -100 for all but the answers' tokens."""
    rows, labels = [], []
    language = explainer.language
    for soft, tokens, answer in zip(
        explainer.soft_tokens(batch), batch["tokens"], batch["answers"], strict=True
    ):
        prefix = language.prefix(soft, tokens)
        rows.append(torch.cat([prefix, language.embed(answer)]))
        labels.append(torch.tensor([-100] * len(prefix) + answer))
    embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    mask = torch.stack([(torch.arange(embeds.shape[1]) < len(row)).long() for row in rows])
    return language.model(inputs_embeds=embeds, attention_mask=mask, labels=padded).loss


def answer_loss(explainer: Explainer, batch: dict[str, Any]) -> Tensor:
    return explainer.answer_loss(explainer.soft_tokens(batch), batch)


def test_the_loss_is_that_of_the_answers_tokens_and_no_others(explainer: Explainer) -> None:
    batch = batch_of(explainer)
    assert len({len(a) for a in batch["answers"]}) > 1
    assert torch.allclose(answer_loss(explainer, batch), full_logits_loss(explainer, batch), atol=1e-5)


def test_a_batch_costs_what_its_examples_cost_alone(explainer: Explainer) -> None:
    data = data_for(explainer, 3)
    batches = [data.collate([e]) for e in data.examples]
    alone = [(len(b["answers"][0]), answer_loss(explainer, b)) for b in batches]
    together = answer_loss(explainer, data.collate(data.examples))
    weighted = sum(n * loss for n, loss in alone) / sum(n for n, _ in alone)
    assert torch.allclose(together, weighted, atol=1e-5)


def test_an_answer_is_learnt_up_to_and_with_its_end(explainer: Explainer) -> None:
    data = data_for(explainer, 5)
    batch = data.collate(data.examples)
    tokenizer = explainer.language.tokenizer
    for example, answer in zip(data.examples, batch["answers"], strict=True):
        assert answer[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert tokenizer.decode(answer[:-1]) == example.answer


def test_the_prompt_holds_scores_question_and_history_but_not_the_answer(explainer: Explainer) -> None:
    data = data_for(explainer, 60)
    chosen = [e for e in data.examples if e.history][:3]
    assert chosen
    for example, (before, after) in zip(chosen, data.collate(chosen)["tokens"], strict=True):
        text = explainer.language.tokenizer.decode(before + after)
        assert "Scores: quality " in text and example.question in text and example.history[0][1] in text
        assert text.endswith("<|im_start|>assistant\n")


def test_a_blind_example_sees_nothing_of_its_picture(explainer: Explainer) -> None:
    seeing, blind = batch_of(explainer, blind=False), batch_of(explainer, blind=True)
    assert explainer.soft_tokens(seeing).abs().amax(dim=(1, 2)).min() > 0
    assert explainer.soft_tokens(blind).abs().max() == 0
    other = blind | {"pixel_values": torch.randn_like(blind["pixel_values"])}
    assert torch.equal(loss_of(explainer, blind), loss_of(explainer, other))
    moved = seeing | {"pixel_values": other["pixel_values"]}
    assert not torch.equal(loss_of(explainer, seeing), loss_of(explainer, moved))


def ids_of(explainer: Explainer, name: str) -> list[int]:
    return [t for word in FAULT_WORDS[name] for t in explainer.language.word_ids(word)]


def test_soft_tokens_are_grounded_where_they_lie_at_the_words_for_their_fault(explainer: Explainer) -> None:
    words = {
        name: explainer.language.embed(ids_of(explainer, name)).mean(dim=0)
        for name in ("blur", "noise", "darkness")
    }
    soft = torch.stack([words["blur"], words["noise"], words["darkness"]]).unsqueeze(1)
    told = [
        float(explainer.grounding_loss(soft, {"fault": list(faults)}))
        for faults in (("blur", "noise", "darkness"), ("noise", "darkness", "blur"), (None, "noise", None))
    ]
    assert told[0] < 0.5 < 2 < told[1] and told[2] < 0.5
    assert explainer.grounding_loss(soft, {"fault": [None] * 3}) == 0


def test_the_loss_weighs_grounding_beside_the_answers(explainer: Explainer) -> None:
    batch = batch_of(explainer, 12)
    assert any(batch["fault"])
    grounding = explainer.grounding_loss(explainer.soft_tokens(batch), batch)
    whole = loss_of(explainer, batch)
    assert torch.allclose(whole, answer_loss(explainer, batch) + 0.5 * grounding, atol=1e-5)


def loss_of(explainer: Explainer, batch: dict[str, Any]) -> Tensor:
    return torch.stack(list(explainer(batch).values())).sum()


# --- whole runs ---


def test_the_loss_falls(first: Path, tmp_path: Path) -> None:
    settings = recipe(first, tmp_path / "run", examples=200, learning_rate=3e-3, save_steps=100)
    settings.lora.learning_rate = 1e-2
    stage2.train(settings)
    last = max((tmp_path / "run").glob("checkpoint-*"))
    losses = [
        e["loss"] for e in json.loads((last / "trainer_state.json").read_text())["log_history"] if "loss" in e
    ]
    assert len(losses) == 25
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def scores_of(folder: Path) -> ScoreOutput:
    model = MintIQAModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = MintIQAProcessor.from_config(model.config)
    text = processor.tokenize(["a dog on a beach", "", "red car"])
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        return model(pixels, text.ids, text.mask)


def test_the_scores_are_those_of_stage_1_to_the_bit(first: Path, second: Path) -> None:
    before, after = scores_of(first / "model"), scores_of(second)
    for name in ("scores", "faults", "quality_vectors", "similarity"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name


def test_the_explanation_is_no_longer_that_of_stage_1(first: Path, second: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (first / "model", second))
    assert before.keys() == after.keys()
    assert not MintIQAModel.from_pretrained(first / "model").config.language["taught"]
    assert "taught" not in MintIQAModel.from_pretrained(second).config.language
    differing = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert differing == {"qformer2", "bridge", "language_projection"}


def test_the_saved_folder_answers_like_the_trained_one(second: Path) -> None:
    config = MintIQAModel.from_pretrained(second).config
    merged = load_language(config, second / "language", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(part_folder(config.parts["language"]), dtype=torch.float32)
    soft = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    scores: dict[Any, float | None] = {"quality": 34.0, "authenticity": 50.0, "correspondence": None}
    prefix = merged.prefix(soft, merged.tokens(scores, "Why?", ())).unsqueeze(0)
    with torch.inference_mode():
        untouched = base(inputs_embeds=prefix).logits
        unmerged = PeftModel.from_pretrained(base, second / "language").eval()(inputs_embeds=prefix).logits
        own = merged.model(inputs_embeds=prefix).logits
    assert torch.allclose(own, unmerged, atol=1e-5)
    assert not torch.allclose(own, untouched, atol=1e-3)
    assert not any("lora_" in name for name, _ in merged.named_parameters())


def test_a_folder_without_an_adapter_is_refused(second: Path, tmp_path: Path) -> None:
    config = MintIQAModel.from_pretrained(second).config
    with pytest.raises(MintIQAError) as caught:
        load_language(config, tmp_path, dtype=torch.float32)
    assert caught.value.code == "bad_checkpoint"


def test_the_saved_adapter_names_its_part_and_no_folder_of_this_machine(world: World, second: Path) -> None:
    files = sorted(path.name for path in (second / "language").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    settings = json.loads((second / "language" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "smollm2_135m"
    for path in second.rglob("*.json"):
        assert str(world.cache) not in path.read_text()


def test_a_checkpoint_holds_what_trains_and_nothing_else(second: Path, explainer: Explainer) -> None:
    (checkpoint,) = second.parent.glob("checkpoint-*")
    assert load_file(checkpoint / WEIGHTS).keys() == trained_state(explainer).keys()
