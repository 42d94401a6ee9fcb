"""Training CLIP-AGIQA: what is kept apart, what learns, what a killed run loses, and what is reported."""

import json
import re
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import default_collate
from transformers import CLIPConfig, CLIPModel

from instruct_data.recipes import read_settings
from mint_iqa.clip_agiqa.assessor import ClipAgiqaAssessor
from mint_iqa.clip_agiqa.model import ClipAgiqaConfig
from mint_iqa.clip_agiqa.towers import ClipTowers
from mint_iqa.errors import MintIQAError
from mint_iqa.folds import prompt_folds
from mint_iqa.metrics import bootstrap_interval
from tests import tiny_clip
from tests.training_world import REPOSITORY, write_pictures
from train import clip_agiqa
from train.clip_agiqa import (
    ClipAgiqaLearner,
    ClipAgiqaRecipe,
    ClipAgiqaTrainer,
    RatedCrops,
    in_turns,
    split_round,
    train,
)
from train.data import sets
from train.data.rounds import best_epoch
from train.engine import commands
from train.measure import clip_agiqa as measured
from train.measure.clip_agiqa import report

CONFIGS = REPOSITORY / "configs" / "clip_agiqa"
SIDE = 48  # of the fixture's pictures


def kill_after_first_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """While `patch` lasts, a run ends as Ctrl-C ends it, right after its first checkpoint."""
    save = ClipAgiqaTrainer._save_checkpoint

    def save_and_die(self: Any, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        raise KeyboardInterrupt

    patch.setattr(ClipAgiqaTrainer, "_save_checkpoint", save_and_die)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clip_agiqa")
    write_pictures(root / "data")
    tiny_clip.clip().save_pretrained(root / "clip")
    return root


@pytest.fixture(autouse=True)
def small_world(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINT_IQA_DATA", str(root))
    monkeypatch.setattr(clip_agiqa, "VALIDATION_PART", 4)  # an eighth of 16 pictures has no correlation
    monkeypatch.setattr(measured, "bootstrap_interval", partial(bootstrap_interval, samples=20))


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return sets.agiqa3k(sets.data_root())


def recipe(root: Path, output: Path, **settings: Any) -> ClipAgiqaRecipe:
    small: dict[str, Any] = {"backbone": str(root / "clip"), "rounds": 1, "epochs": 3, "batch_size": 4}
    small |= {"output": str(output), "log_steps": 1, "threads": 1, "learning_rate": 1e-2}
    return ClipAgiqaRecipe(**(small | settings))


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINT_IQA_DATA", str(root))
        patch.setattr(clip_agiqa, "VALIDATION_PART", 4)
        return train(recipe(root, tmp_path_factory.mktemp("finished") / "run"))


# --- what is kept apart ---


def test_parts_share_no_prompt_and_no_picture_and_rounds_differ(rows: list[dict[str, str]]) -> None:
    tests = []
    for number in range(3):
        parts = asdict(split_round(rows, number))
        assert sorted(np.concatenate(list(parts.values()))) == list(range(len(rows)))
        for key in ("prompt", "sha256"):
            found = [{rows[i][key] for i in chosen} for chosen in parts.values()]
            assert sum(map(len, found)) == len(set.union(*found))
        tests.append(tuple(parts["test"]))
        assert len(parts["test"]) == len(rows) // 5
    # The linked pictures are the largest set, which is dealt first: here the first fold holds them each time.
    assert len({tuple(split_round(rows, number).validation) for number in range(3)}) > 1


def test_round_0_tests_on_fold_0_of_all_other_trainings(rows: list[dict[str, str]]) -> None:
    fold = prompt_folds([r["prompt"] for r in rows], [r["sha256"] for r in rows], 5, seed=0)
    assert np.array_equal(split_round(rows, 0).test, (fold == 0).nonzero()[0])


# --- examples ---


def crops(root: Path, rows: list[dict[str, str]], **settings: Any) -> RatedCrops:
    towers = ClipTowers(tiny_clip.clip())
    return RatedCrops(rows, np.arange(10), recipe(root, root / "run", **settings), towers)


def test_an_epoch_is_whole_batches_of_different_pictures(root: Path, rows: list[dict[str, str]]) -> None:
    found = crops(root, rows)
    assert found.steps == 2 and len(found) == 3 * 8
    epochs = found.order.reshape(3, 8)
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_crops_are_windows_of_the_picture_some_mirrored_and_keep_its_scores(
    root: Path, rows: list[dict[str, str]]
) -> None:
    found = crops(root, rows, epochs=4)
    mirrored = 0
    for i in range(len(found)):
        item, row = found[i], rows[found.order[i]]
        assert item["mos_quality"].item() == pytest.approx(float(row["mos_quality"]))
        assert item["mos_align"].item() == pytest.approx(float(row["mos_align"]))
        whole = clip_agiqa.normalize(clip_agiqa.pixels_of(row["path"]), found.mean, found.std)
        windows = whole.unfold(1, 32, 1).unfold(2, 32, 1)  # [3, 17, 17, 32, 32]
        plain, flipped = (
            (windows == crop[:, None, None]).all(dim=(0, 3, 4)).any()
            for crop in (item["pixel_values"], item["pixel_values"].flip(-1))
        )
        assert plain or flipped
        mirrored += bool(flipped)
    assert 0 < mirrored < len(found)
    assert torch.equal(found[3]["pixel_values"], found[3]["pixel_values"])


def test_pictures_are_scaled_where_the_recipe_says_so(root: Path, rows: list[dict[str, str]]) -> None:
    found = crops(root, rows, short_side=32)
    small = clip_agiqa.resize(clip_agiqa.pixels_of(rows[found.order[0]]["path"]), 32)
    whole = clip_agiqa.normalize(small, found.mean, found.std)
    assert any(torch.equal(found[0]["pixel_values"], view) for view in (whole, whole.flip(-1)))


def test_a_picture_smaller_than_a_crop_is_named(root: Path, rows: list[dict[str, str]]) -> None:
    found = crops(root, rows)
    found.size = SIDE + 1
    with pytest.raises(MintIQAError, match="png has a side under 49 pixels: set short_side"):
        found[0]


# --- what learns ---


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        ({}, ()),
        ({"vision_depth": 0}, ("prompts_vis", "proj")),
        ({"text_depth": 0}, ("ctx", "prompts_text")),
        ({"auxiliary": False}, ("auxiliary", "proj")),
    ],
    ids=["full", "text only", "vision only", "no alignment task"],
)
def test_gradient_reaches_the_prompts_and_their_fusion_and_nothing_else(
    root: Path, rows: list[dict[str, str]], tmp_path: Path, settings: dict[str, Any], absent: tuple[str, ...]
) -> None:
    chosen = recipe(root, tmp_path / "run", epochs=1, **settings)
    model = clip_agiqa.build_model(chosen)
    found = RatedCrops(rows, np.arange(4), chosen, model.towers)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ClipAgiqaLearner(model, chosen).train()(default_collate([found[0], found[1]]))["mse"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    clip_agiqa.trainer_of(chosen, model, found).train()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert reached == moved == model.learned().keys()
    parts = ("auxiliary", "ctx", "prompts_text", "prompts_vis", "proj")
    assert {part for part in parts if not any(part in name for name in moved)} == set(absent)


def test_the_loss_of_a_few_pictures_falls(finished: Path) -> None:
    (state,) = (finished / "round0").glob("checkpoint-*/trainer_state.json")
    losses = [e["loss"] for e in json.loads(state.read_text())["log_history"] if "loss" in e]
    assert len(losses) == 9
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_checkpoint_holds_what_is_learned_and_no_backbone(finished: Path) -> None:
    (checkpoint,) = (finished / "round0").glob("checkpoint-*")
    names = load_file(checkpoint / "trained.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"auxiliary", "target"}


@pytest.mark.parametrize(("save_steps", "saved"), [(100, 3), (2, 2)], ids=["after an epoch", "within one"])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights_and_scores(
    root: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_steps: int, saved: int
) -> None:
    settings = recipe(root, tmp_path / "run", save_steps=save_steps)
    with monkeypatch.context() as patch:
        kill_after_first_checkpoint(patch)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    round0 = tmp_path / "run" / "round0"
    assert [p.name for p in round0.glob("checkpoint-*")] == [f"checkpoint-{saved}"]
    for later in (2, 9):  # of a run that came further, and was killed before a checkpoint said so
        perfect = {"quality": list(range(8)), "correspondence": list(range(8))}
        (round0 / f"epoch{later}.json").write_text(json.dumps(perfect))
    with pytest.raises(MintIQAError, match="continue it with --resume"):
        train(settings)
    steps = steps_of(monkeypatch)
    train(settings, resume=True)
    assert len(steps) == 9 - saved  # it did not start over
    assert sorted(p.name for p in round0.glob("epoch*.json")) == [f"epoch{n}.json" for n in (1, 2, 3)]
    (once,), (again,) = ((d / "round0").glob("checkpoint-*") for d in (finished, tmp_path / "run"))
    first, second = (load_file(c / "trained.safetensors") for c in (once, again))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    for epoch in (1, 2, 3):
        one, other = (d / "round0" / f"epoch{epoch}.json" for d in (finished, tmp_path / "run"))
        assert one.read_text() == other.read_text()


def test_a_finished_run_is_left_as_it_is(root: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = steps_of(monkeypatch)
    train(recipe(root, finished), resume=True)
    assert steps == []
    assert read_settings(ClipAgiqaRecipe, finished / "recipe.json") == recipe(root, finished)
    with pytest.raises(MintIQAError, match=r"begun with another recipe \(differing: learning_rate\)"):
        train(recipe(root, finished, learning_rate=1e-3), resume=True)


def steps_of(patch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []
    compute = ClipAgiqaTrainer.compute_loss

    def counted(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        steps.append(1)
        return compute(self, *args, **kwargs)

    patch.setattr(ClipAgiqaTrainer, "compute_loss", counted)
    return steps


def test_scores_of_several_processes_come_back_in_the_order_of_the_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everyone = [[0.0, 3.0, 6.0], [1.0, 4.0], [2.0, 5.0]]
    monkeypatch.setattr(clip_agiqa, "processes", lambda: 3)
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda parts, own: parts.__setitem__(slice(None), everyone)
    )
    assert in_turns(everyone[0]) == [float(i) for i in range(7)]


def test_a_backbone_that_is_not_there_ends_in_one_sentence(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(asdict(recipe(root, tmp_path / "run", backbone=str(tmp_path / "none")))))
    monkeypatch.setattr(sys, "argv", ["train.clip_agiqa", str(file)])
    assert commands.command(ClipAgiqaRecipe, train, None) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ") and str(tmp_path / "none") in message


# --- what comes out ---


def test_the_kept_model_is_that_of_the_best_epoch_and_is_served(
    finished: Path, rows: list[dict[str, str]]
) -> None:
    folder = finished / "round0"
    best = best_epoch(folder, "validation")
    images = json.loads((folder / "pictures.json").read_text())
    expected = json.loads((folder / f"epoch{best}.json").read_text())
    assessor = ClipAgiqaAssessor.from_pretrained(folder / "model")
    paths = {row["image"]: row["path"] for row in rows}
    for i in range(3):
        scores = assessor.assess(paths[images[i]["image"]], "any prompt").scores
        assert scores.quality == pytest.approx(expected["quality"][i] * 100, abs=1e-3)
        assert scores.correspondence == pytest.approx(expected["correspondence"][i] * 100, abs=1e-3)


def test_too_few_pictures_for_one_batch_are_said_to_be(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MintIQAError, match="do not fill one batch of 64"):
        train(recipe(root, tmp_path / "run", batch_size=64))


def test_a_folder_that_holds_a_model_and_no_recipe_is_trained_into(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "round0" / "model").mkdir(parents=True)
    assert (train(recipe(root, tmp_path / "run", epochs=1), resume=True) / "round0" / "epoch1.json").exists()


def test_without_epochs_the_sentences_alone_score(root: Path, tmp_path: Path) -> None:
    output = train(recipe(root, tmp_path / "run", epochs=0, text_depth=0, vision_depth=0))
    scores = json.loads((output / "round0" / "epoch0.json").read_text())
    assert len(scores["quality"]) == len(scores["correspondence"]) == 8
    assert len(set(scores["quality"])) > 1
    assert next(report(output)) == "epoch chosen by the validation pictures: 0"
    written = (output / "round0" / "epoch0.json").stat().st_mtime_ns
    settings = recipe(root, output, epochs=0, text_depth=0, vision_depth=0, rounds=2)
    train(settings, resume=True)  # one round more
    assert (output / "round0" / "epoch0.json").stat().st_mtime_ns == written
    assert (output / "round1" / "epoch0.json").exists()
    with pytest.raises(MintIQAError, match="begun with another recipe"):
        train(replace(settings, auxiliary=False), resume=True)


def test_the_learning_rate_warms_up_and_stays(root: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    chosen = recipe(root, tmp_path / "run", epochs=2, warmup=0.5)
    model = clip_agiqa.build_model(chosen)
    trainer = clip_agiqa.trainer_of(chosen, model, RatedCrops(rows, np.arange(10), chosen, model.towers))
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == [0.0, 0.5e-2, 1e-2, 1e-2]


def invented(output: Path, number: int, scores: dict[int, list[float]]) -> None:
    """A round of three validation and three test pictures with human scores 1, 2, 3."""
    folder = output / f"round{number}"
    folder.mkdir(parents=True)
    labels = [
        {"part": part, "image": "", "prompt": f"{part} {mos}", "mos_quality": mos, "mos_align": 4 - mos}
        for part in ("validation", "test")
        for mos in (1.0, 2.0, 3.0)
    ]
    (folder / "pictures.json").write_text(json.dumps(labels))
    for epoch, quality in scores.items():
        found = {"quality": quality, "correspondence": quality}
        (folder / f"epoch{epoch}.json").write_text(json.dumps(found))


def test_either_way_of_choosing_the_epoch_is_reported(tmp_path: Path) -> None:
    # Epoch 1 is right on the validation pictures alone, epoch 2 on the test pictures alone.
    invented(tmp_path, 0, {1: [0.1, 0.2, 0.3, 0.3, 0.2, 0.1], 2: [0.3, 0.2, 0.1, 0.1, 0.2, 0.3]})
    by_validation, quality, alignment, by_test, best, _ = report(tmp_path)
    assert by_validation == "epoch chosen by the validation pictures: 1"
    assert quality.startswith("  quality: SRCC -1.0000 [") and "3 pictures" in quality
    assert alignment.startswith("  correspondence: SRCC 1.0000 [")
    assert by_test == "epoch chosen by the test pictures: 2"
    assert best.startswith("  quality: SRCC 1.0000 [")


def test_several_rounds_give_a_mean_with_its_interval(tmp_path: Path) -> None:
    for number in range(3):
        invented(tmp_path, number, {1: [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]})
    lines = list(report(tmp_path))
    assert lines[0] == "epoch chosen by the validation pictures: 1, 1, 1"
    over = "1.0000 +- 0.0000 (95 % over 3 rounds)"
    assert lines[1] == f"  quality: SRCC {over}, PLCC {over}"


# --- recipes ---


def test_every_documented_setting_is_one() -> None:
    document = (REPOSITORY / "docs" / "clip_agiqa.md").read_text(encoding="utf-8")
    documented = re.findall(r"--set ((?:\w+=\S+ ?)+?)(?=[`\n])", document)
    assert len(documented) >= 4
    for settings in documented:
        read_settings(ClipAgiqaRecipe, CONFIGS / "agiqa3k_nano.yaml", settings.split())


def test_the_papers_recipe_trains_the_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_settings(ClipAgiqaRecipe, CONFIGS / "agiqa3k_b32.yaml")
    assert asdict(read) == asdict(ClipAgiqaRecipe()) | {"output": "runs/clip_agiqa_b32"}
    assert (read.rounds, read.epochs, read.batch_size, read.learning_rate) == (10, 50, 64, 1e-4)
    with torch.device("meta"):
        backbone = CLIPModel(CLIPConfig())  # transformers' default is ViT-B/32
        monkeypatch.setattr(clip_agiqa, "load_backbone", {read.backbone: backbone}.get)
        model = clip_agiqa.build_model(read)
    assert model.config == ClipAgiqaConfig()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 14_410_752
