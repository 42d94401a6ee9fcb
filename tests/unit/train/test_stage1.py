"""Stage 1: what trains and what does not, what the losses measure, and that a killed run loses nothing."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from instruct_data.recipes import read_settings
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.fresh import load_model
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from tests.training_world import NANO, SIZE, TRAINS, World, living_in
from train import prepare, stage1
from train.data.looks import Looks, draw_examples
from train.data.sources import read_sources
from train.engine.parameters import STAGE2_PARTS, declare
from train.engine.recipes import Stage1
from train.engine.trainer import PlanTrainer, run_to_end
from train.heads.losses import masked_l1, rank_loss
from train.stage1 import ScoreLearner, learner_of, parameter_groups

NAN = float("nan")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("stage1")) as world:
        prepare.build_all(SIZE)
        yield world


def recipe(world: World, output: Path, **settings: Any) -> Stage1:
    small: dict[str, Any] = {"model": str(world.config), "output": str(output), "batch_size": 4}
    small |= {"trains": list(TRAINS), "held_out_photographs": 2, "test_fold": 0, "warmup": 0.0}
    small |= {"human_epochs": 1.0, "photograph_epochs": 1.0, "log_steps": 1, "bf16": False, "threads": 1}
    return Stage1(**(small | settings))


def state(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage1.train(recipe(world, tmp_path_factory.mktemp("uninterrupted") / "run", save_steps=3))


# --- what trains ---


@pytest.fixture(scope="module")
def nano() -> MintIQAModel:
    """nano as its recipe trains it."""
    with torch.device("meta"):
        model = MintIQAModel(MintIQAConfig(**json.loads((NANO / "model.json").read_text())))
    settings = read_settings(Stage1, NANO / "end_to_end.yaml")
    declare(ScoreLearner(model, settings), settings.trains, model.config.is_referenced, STAGE2_PARTS)
    return model


def trainable(model: MintIQAModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_nano_trains_exactly_these(nano: MintIQAModel) -> None:
    owners = Counter(".".join(name.split(".")[:2]) for name in trainable(nano))
    assert owners == {
        "vision.backbone": 8 * 18, "vision.readout": 4 * 2 + 2 * 2,
        "qformer1.query_tokens": 1, "qformer1.encoder": 3 + 6 * (10 + 2 * 6) + 3 * 10,
        "heads.quality": 4, "heads.authenticity": 4, "heads.correspondence": 4, "fault_head.layers": 4,
        "alignment.image_projection": 4, "alignment.logit_scale": 1, "alignment.gain": 1,
        "shortcut.layers": 4, "shortcut.query_gain": 1,
    }  # fmt: skip
    assert sum(p.numel() for p in nano.parameters() if p.requires_grad) == 38_120_363


def test_nano_trains_the_upper_eight_blocks_of_the_tower(nano: MintIQAModel) -> None:
    blocks = {n.split(".")[4] for n in trainable(nano) if n.startswith("vision.backbone.")}
    assert blocks == {str(number) for number in range(4, 12)}


def test_neither_word_embeddings_nor_the_sentence_encoder_nor_stage_2_train(nano: MintIQAModel) -> None:
    frozen = "qformer1.encoder.embeddings.word", "alignment.text_encoder", "qformer2", "bridge", "language"
    assert not [name for name in trainable(nano) if name.startswith(frozen)]
    assert {"qformer1.encoder.embeddings.position_embeddings.weight"} <= trainable(nano)


def test_a_step_changes_what_trains_and_nothing_else(world: World, tmp_path: Path) -> None:
    settings = recipe(world, tmp_path / "run", human_epochs=4, photograph_epochs=3, batch_size=60)
    scorer, _ = learner_of(settings)
    before = {n: p.detach().clone() for n, p in scorer.model.named_parameters()}
    trains = trainable(scorer.model)
    learned = learnt_in_one_step(settings, scorer)
    assert learned.keys() == trains
    after = dict(scorer.model.named_parameters())
    changed = {n for n, old in before.items() if not torch.equal(after[n], old)}
    assert all(torch.equal(after[n], learned[n]) for n in trains)
    # The last layer's text half is read by nobody, since only the queries leave the Q-Former: its matrices
    # are decayed, and its vectors stay.
    unread = "qformer1.encoder.encoder.layer.1.intermediate.", "qformer1.encoder.encoder.layer.1.output."
    still = {n for n in trains if n.startswith(unread) and before[n].ndim == 1}
    assert len(still) == 4
    assert changed == trains - still


def learnt_in_one_step(settings: Stage1, scorer: ScoreLearner) -> dict[str, Tensor]:
    data, scorer.captions = stage1.data_of(
        settings, scorer.model, MintIQAProcessor.from_config(scorer.model.config)
    )
    groups = parameter_groups(scorer.model, settings)
    trainer = PlanTrainer(replace(settings, stop_after=1), scorer, groups, data, data.collate)
    return run_to_end(trainer, None)


def test_nothing_is_dropped_out_of_nano_in_training(nano: MintIQAModel) -> None:
    """Above all not from the frozen sentence encoder, whose vectors a run computes once and remembers."""
    nano.train()
    on = [
        name
        for name, part in nano.named_modules()
        if isinstance(part, nn.Dropout) and part.training and part.p
    ]
    assert on == []


# --- learning rates ---


def test_the_towers_learning_rate_falls_from_block_to_block(nano: MintIQAModel) -> None:
    settings = Stage1(learning_rate=3e-4, head_learning_rate=7e-4, tower_learning_rate=1e-4, layer_decay=0.8)
    groups = parameter_groups(nano, settings)
    names = {id(p): n for n, p in nano.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert rates.keys() == trainable(nano)
    for name, parameter in nano.named_parameters():
        if name in rates:
            assert decays[name] == (0.05 if parameter.ndim > 1 else 0.0)
            block = int(name.split(".")[4]) if name.startswith("vision.backbone.") else None
            other = 3e-4 if name.startswith("qformer1.") else 7e-4
            assert rates[name] == pytest.approx(other if block is None else 1e-4 * 0.8 ** (11 - block))


# --- losses, by hand ---


def test_masked_l1_is_the_mean_error_of_each_column_summed() -> None:
    predictions = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    targets = torch.tensor([[0.0, 0.0], [0.2, 0.4]])
    assert masked_l1(predictions, targets).item() == pytest.approx((0.5 + 0.2) / 2 + (0 + 0.6) / 2)


def test_masked_l1_counts_only_what_is_known() -> None:
    predictions = torch.tensor([[0.5, 9.0], [0.1, 1.0], [0.0, 9.0]], requires_grad=True)
    targets = torch.tensor([[0.0, NAN], [0.2, 0.4], [0.0, NAN]])
    loss = masked_l1(predictions, targets)
    loss.backward()
    assert loss.item() == pytest.approx(0.6 / 3 + 0.6)
    assert predictions.grad is not None
    assert predictions.grad[:, 1].tolist() == [0.0, 1.0, 0.0]


def test_masked_l1_of_a_column_without_targets_is_nothing() -> None:
    assert masked_l1(torch.ones(2, 2), torch.tensor([[NAN, 1.0], [NAN, 1.0]])).item() == 0.0


def test_rank_loss_is_nothing_where_the_order_is_right_by_enough() -> None:
    assert rank_loss(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1.0, 0.9, 0.5])).item() == 0.0


def test_rank_loss_asks_for_the_difference_up_to_a_limit() -> None:
    # Differences .1 and .6 (as .2) and .5 (as .2) against predictions that do not differ at all.
    loss = rank_loss(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.8, 0.7, 0.2]))
    assert loss.item() == pytest.approx((0.1 + 0.2 + 0.2) / 3)


def test_rank_loss_grows_with_a_wrong_order() -> None:
    assert rank_loss(torch.tensor([0.0, 0.3]), torch.tensor([0.9, 0.1])).item() == pytest.approx(0.5)


def test_rank_loss_ignores_near_ties_and_unknown_targets() -> None:
    predictions = torch.tensor([0.0, 1.0, 5.0], requires_grad=True)
    loss = rank_loss(predictions, torch.tensor([0.51, 0.5, NAN]))
    loss.backward()
    assert loss.item() == 0.0
    assert predictions.grad is not None and predictions.grad.tolist() == [0.0, 0.0, 0.0]


def test_unknown_faults_and_prompts_do_not_move_the_model(world: World, tmp_path: Path) -> None:
    """A batch of which nothing is known costs nothing and its gradient is nothing, not NaN."""
    settings = recipe(world, tmp_path / "run", photograph_epochs=0.0)
    scorer, processor = learner_of(settings)
    sources = read_sources(SIZE)
    looks = Looks(draw_examples(sources, settings), sources, processor)
    batch = looks.collate([looks[0], looks[1]])
    for key in ("targets", "second_correspondence", "faults"):
        batch[key] = torch.full_like(batch[key], NAN)
    loss = torch.stack(list(scorer(batch).values())).sum()
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.abs().sum() for p in scorer.parameters())


# --- whole runs ---


def test_the_loss_of_a_few_pictures_falls(world: World, tmp_path: Path) -> None:
    settings = recipe(
        world, tmp_path / "run", human_epochs=12.0, faulted_share=0.0, photograph_epochs=0.0,
        learning_rate=3e-3, head_learning_rate=3e-3, batch_size=16,
    )  # fmt: skip
    stage1.train(settings)
    losses = [entry["first"] for entry in history(tmp_path / "run") if "first" in entry]
    assert len(losses) > 8
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def history(run: Path) -> list[dict[str, float]]:
    last = max(run.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


def test_a_run_leaves_its_model_and_its_recipe(world: World, uninterrupted: Path) -> None:
    written = Stage1(**json.loads((uninterrupted.parent / "recipe.json").read_text()))
    assert asdict(written) == asdict(recipe(world, uninterrupted.parent, save_steps=3))
    assert {t.dtype for t in state(uninterrupted).values()} == {torch.float16}
    assert json.loads((uninterrupted / "config.json").read_text())["language"]["taught"] is False


def test_a_saved_model_leaves_out_what_its_parts_bring_and_loads_whole(uninterrupted: Path) -> None:
    config = json.loads((uninterrupted / "config.json").read_text())
    assert not [name for name in state(uninterrupted) if name.startswith(tuple(config["referenced"]))]
    model, _ = load_model(str(uninterrupted))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    first, second = model.qformer1.encoder.state_dict(), model.qformer2.encoder.state_dict()
    shared = "encoder.layer.0.attention.attention.query.weight"
    assert torch.equal(first[shared], second[shared])


def test_the_same_recipe_gives_the_same_weights(world: World, uninterrupted: Path, tmp_path: Path) -> None:
    again = state(stage1.train(recipe(world, tmp_path / "run", save_steps=3)))
    assert again.keys() == state(uninterrupted).keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state(uninterrupted).items())


def test_a_run_that_stops_early_keeps_its_schedule(world: World, uninterrupted: Path, tmp_path: Path) -> None:
    folder = stage1.train(recipe(world, tmp_path / "run", save_steps=3, stop_after=3))
    assert folder.is_dir()
    early, whole = (
        [entry["learning_rate"] for entry in history(run) if "learning_rate" in entry]
        for run in (tmp_path / "run", uninterrupted.parent)
    )
    assert len(whole) > 3 and early == whole[:3]


def test_a_run_goes_on_from_a_saved_model(world: World, uninterrupted: Path, tmp_path: Path) -> None:
    settings = recipe(
        world, tmp_path / "run", model=str(uninterrupted), learning_rate=0.0, head_learning_rate=0.0,
        tower_learning_rate=0.0,
    )  # fmt: skip
    folder = stage1.train(settings)
    # Nothing learned, so nothing may have changed on the way through loading and saving.
    assert all(torch.equal(state(folder)[name], tensor) for name, tensor in state(uninterrupted).items())


@torch.no_grad()
def test_a_prompt_is_the_same_vector_whatever_it_is_batched_with(world: World) -> None:
    """To the bit: a resumed run meets prompts among other neighbors than one that was not cut off."""
    model, processor = load_model(str(world.config))
    prompts = [
        "a dog on a beach",
        "king with a sword",
        "red car",
        "robot playing guitar near a wooden bridge",
    ]
    encoded = model.encode_image(torch.zeros(len(prompts), 3, SIZE, SIZE))
    together, alone = (ScoreLearner(model, Stage1(bf16=False)) for _ in range(2))
    text = processor.tokenize(prompts)
    together._score(encoded, text.ids, text.mask)
    for i, prompt in enumerate(prompts):
        own = processor.tokenize([prompt])
        alone._score(encoded.one(i), own.ids, own.mask)
    assert together.sentences.keys() == alone.sentences.keys()
    for key, vector in together.sentences.items():
        assert torch.equal(vector, alone.sentences[key])
