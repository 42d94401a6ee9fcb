"""What is learned of prompts last: they come nearer to pictures that show them, and nothing else changes."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from mint_iqa.model.fresh import load_model
from mint_iqa.model.heads import mapped
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from tests import tiny
from tests.training_world import NANO, PROMPTS, World, living_in
from train import match
from train.data import sets
from train.data.sets import split
from train.engine.commands import step
from train.engine.recipes import HeldOut, Match, Stage1
from train.heads.readout import refresh
from train.match import Pairs, fit_map, is_learned, learn_map

SETTINGS = Match()
WIDTH = 16
HELD_OUT = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("matching")) as world:
        yield world


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run")
    load_model(str(world.config))[0].save_pretrained(folder / "model")
    recipe = Stage1(test_fold=0, held_out_photographs=HELD_OUT)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe)))
    return folder


@pytest.fixture(scope="module")
def matched(run: Path) -> Path:
    return command(run, run.parent / "matched")


def command(run: Path, output: Path, *settings: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments(run, output, *settings))
        assert step(Match, match.match, "") == 0
    return output


def arguments(run: Path, output: Path, *settings: str) -> list[str]:
    return ["match", str(NANO / "match.yaml"), "--set", f"start={run}", f"output={output}", *settings]


def turned(pictures_: int = 240, prompts: int = 60, seed: int = 0) -> tuple[Pairs, Tensor, Tensor]:
    """Pictures of prompts that lie where a turn of the prompts would put them, folds by prompt, and for each
    picture another prompt of its fold."""
    generator = torch.Generator().manual_seed(seed)
    sentences = normalize(torch.randn(prompts, WIDTH, generator=generator), dim=-1)
    skew = 0.3 * torch.randn(WIDTH, WIDTH, generator=generator)
    turn = torch.linalg.matrix_exp(skew - skew.T)
    own = torch.arange(pictures_) % prompts
    noise = 0.1 * torch.randn(pictures_, WIDTH, generator=generator)
    vectors = normalize(sentences[own] @ turn.T + noise, dim=-1)
    pairs = Pairs(vectors, own.unsqueeze(1), sentences, torch.ones(pictures_))
    return pairs, own % 4, ((own + 4) % prompts).unsqueeze(1)


# --- what is learned ---


def test_prompts_that_were_not_learned_from_are_told_apart_better() -> None:
    pairs, fold, unrelated = turned()
    _, _, figures = learn_map(pairs, fold, unrelated, pairs[:0], SETTINGS)
    assert figures["auc"] > figures["auc_before"] + 0.02


def test_nearly_all_pictures_that_show_their_prompt_lie_above_the_knee() -> None:
    pairs, fold, unrelated = turned()
    found = [
        learn_map(pairs, fold, unrelated, pairs, replace(SETTINGS, missed=share))[1] for share in (0.05, 0.5)
    ]
    assert found[0] < found[1]
    weight = fit_map([pairs], 0.05, SETTINGS)
    cosines = (pairs.vectors * mapped(pairs.sentences, weight)[pairs.texts[:, 0]]).sum(dim=1)
    assert (cosines > found[0]).float().mean() > 0.9


def test_a_picture_that_does_not_show_its_prompt_teaches_nothing() -> None:
    pairs, *_ = turned()
    wrong = pairs.texts.clone()
    wrong[::2] = (wrong[::2] + 7) % len(pairs.sentences)
    shown = torch.ones(len(wrong))
    shown[::2] = 0
    sound = fit_map([pairs[torch.arange(1, len(wrong), 2)]], 0.05, SETTINGS)
    mixed = fit_map([replace(pairs, texts=wrong, shown=shown)], 0.05, SETTINGS)
    # The same but for the prompts among which the right one is to be found.
    assert torch.nn.functional.cosine_similarity(sound.flatten(), mixed.flatten(), dim=0) > 0.9


def test_the_stronger_it_is_held_the_less_prompts_are_moved() -> None:
    pairs, *_ = turned()
    sizes = [fit_map([pairs], penalty, SETTINGS).norm() for penalty in (1.0, 0.1, 0.01)]
    assert sizes == sorted(sizes) and sizes[0] > 0


# --- the command ---


def test_all_other_weights_keep_their_bytes(run: Path, matched: Path) -> None:
    (before,) = (run / "model").glob("model*.safetensors")
    kept, new = sorted((matched / "model").glob("model*.safetensors"))
    assert digest(before) == digest(kept)
    assert all(is_learned(name) for name in load_file(new))
    assert (matched / "recipe.json").exists()


def test_only_correspondence_changes_and_only_with_a_prompt(run: Path, matched: Path) -> None:
    first, second = (
        MintIQAModel.from_pretrained(r / "model", dtype=torch.float32).eval() for r in (run, matched)
    )
    assert second.config.matching and not first.config.matching
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    text = MintIQAProcessor.from_config(first.config, first.folder).tokenize(list(PROMPTS[:3]))
    with torch.no_grad():
        one, two = (model(pixels, text.ids, text.mask) for model in (first, second))
    torch.testing.assert_close(two.scores[:, :2], one.scores[:, :2])
    torch.testing.assert_close(two.faults, one.faults)
    assert (two.scores[:, 2] - one.scores[:, 2]).abs().min() > 1e-5


def test_what_the_run_kept_out_is_not_looked_at(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    see = match.image_vectors
    monkeypatch.setattr(
        match, "image_vectors", lambda m, p, paths: (looked.extend(paths), see(m, p, paths))[1]
    )
    command(run, tmp_path / "again")
    human = sets.agiqa3k(sets.data_root())
    kept_out = split(human, HeldOut(test_fold=0)).test
    photographs = [str(p["path"]) for p in sets.flickr8k(sets.data_root())]
    assert len(kept_out) and not {human[i]["path"] for i in kept_out} & set(looked)
    assert set(photographs) - set(looked) == set(photographs[-HELD_OUT:])


def test_learning_again_replaces_what_was_learned_and_looks_at_no_picture_twice(
    run: Path, matched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "again"
    shutil.copytree(matched, output)
    monkeypatch.setattr(match, "image_vectors", lambda *_: pytest.fail("looked again"))
    first, again = learned(matched), learned(command(run, output, "slope=1.5"))
    assert (first["alignment.slope"], again["alignment.slope"]) == (SETTINGS.slope, 1.5)
    assert torch.equal(first["alignment.prompt_map.weight"], again["alignment.prompt_map.weight"])


def test_what_was_learned_before_is_no_start(matched: Path, tmp_path: Path) -> None:
    """Not even where it lies in a file with other weights."""
    MintIQAModel.from_pretrained(matched / "model").save_pretrained(tmp_path / "run" / "model")
    shutil.copy(matched / "recipe.json", tmp_path / "run")
    first, over = learned(matched), learned(command(tmp_path / "run", tmp_path / "over"))
    for name, value in first.items():
        torch.testing.assert_close(over[name], value, atol=2e-3, rtol=0)
    files = sorted((tmp_path / "over" / "model").glob("model*.safetensors"))
    assert len(files) == 2 and not any(map(is_learned, load_file(files[0])))


def test_fresh_heads_forget_it(matched: Path) -> None:
    model = MintIQAModel.from_pretrained(matched / "model", dtype=torch.float32)
    assert model.alignment.slope > 0 and model.alignment.prompt_map.weight.any()
    refresh(model)
    assert model.alignment.slope == 0 and not model.alignment.prompt_map.weight.any()


def test_a_model_without_a_sentence_space_is_refused_in_a_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.model(alignment=None).save_pretrained(tmp_path / "model")
    shutil.copy(run / "recipe.json", tmp_path)
    monkeypatch.setattr(sys, "argv", arguments(tmp_path, tmp_path / "out"))
    assert step(Match, match.match, "") == 2
    assert "no alignment encoder" in capsys.readouterr().err


def learned(output: Path) -> dict[str, Tensor]:
    return load_file(sorted((output / "model").glob("model*.safetensors"))[-1])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
