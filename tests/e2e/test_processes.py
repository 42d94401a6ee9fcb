"""Two processes learn what one learns: torchrun, and DeepSpeed's ZeRO 1 to 3, on CPU."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests import tiny_clip
from tests.training_world import PROMPTS, REPOSITORY, SIZE, TRAINS, World, living_in, write_pictures
from train import clip_agiqa, prepare, stage1, stage2
from train.clip_agiqa import ClipAgiqaRecipe
from train.engine.recipes import Lora, Optimization, Stage1, Stage2

CLOSE = 1e-3
MODULES = {Stage1: "train.stage1", Stage2: "train.stage2", ClipAgiqaRecipe: "train.clip_agiqa"}
BIN = Path(sys.executable).parent
TORCHRUN = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29561", "-m"]
DEEPSPEED = ["deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", "29562", "--module"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("processes")) as world:
        prepare.build_all(SIZE)
        yield world


@pytest.fixture(scope="module")
def first(world: World, tmp_path_factory: pytest.TempPathFactory) -> Stage1:
    """A finished run of stage 1 in one process: every loss takes part in it."""
    recipe = Stage1(
        model=str(world.config), output=str(tmp_path_factory.mktemp("first") / "run"), trains=list(TRAINS),
        human_epochs=1.0, photograph_epochs=1.0, held_out_photographs=2, test_fold=0, batch_size=4,
        warmup=0.0, log_steps=1, bf16=False, threads=1,
    )  # fmt: skip
    stage1.train(recipe)
    return recipe


@pytest.fixture(scope="module")
def second(first: Stage1, tmp_path_factory: pytest.TempPathFactory) -> Stage2:
    recipe = Stage2(
        stage1=first.output, output=str(tmp_path_factory.mktemp("second") / "run"), examples=40, batch_size=8,
        lora=Lora(rank=4), warmup=0.0, log_steps=1, bf16=False, threads=1,
    )  # fmt: skip
    stage2.train(recipe)
    return recipe


@pytest.fixture(scope="module")
def prompts(world: World, tmp_path_factory: pytest.TempPathFactory) -> ClipAgiqaRecipe:
    """CLIP-AGIQA, two rounds of it, on enough pictures to validate with."""
    folder = tmp_path_factory.mktemp("prompts")
    write_pictures(folder / "data", [f"{number} {prompt}" for number in ("one", "two") for prompt in PROMPTS])
    tiny_clip.clip().save_pretrained(folder / "clip")
    recipe = ClipAgiqaRecipe(
        backbone=str(folder / "clip"), output=str(folder / "run"), rounds=2, epochs=2, batch_size=4,
        learning_rate=1e-3, log_steps=1, threads=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINT_IQA_DATA", str(folder))
        clip_agiqa.train(recipe)
    return recipe


@pytest.fixture
def its_pictures(prompts: ClipAgiqaRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINT_IQA_DATA", str(Path(prompts.output).parent))


def losses(output: str | Path) -> list[float]:
    (state,) = Path(output).glob("checkpoint-*/trainer_state.json")
    return [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


def launched(launcher: list[str], recipe: Optimization, output: Path, *arguments: str) -> Path:
    """Run the recipe into `output` by two processes, as the documentation says."""
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(asdict(recipe)))
    module = MODULES[type(recipe)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, module, str(file), "--set", f"output={output}", *arguments],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return output


def assert_same_run(output: Path, recipe: Optimization) -> None:
    one, two = losses(recipe.output), losses(output)
    assert len(one) == len(two) >= 5
    assert two == pytest.approx(one, abs=CLOSE, rel=0)
    single, shared = (load_file(Path(run) / "model" / "model.safetensors") for run in (recipe.output, output))
    assert single.keys() == shared.keys()
    # Saved in float16, where a number may lie one step of 2**-10 of its size away.
    assert all(torch.allclose(single[k].float(), shared[k].float(), atol=CLOSE, rtol=2**-10) for k in single)


def test_torchrun_learns_what_one_process_learns(first: Stage1, tmp_path: Path) -> None:
    assert_same_run(launched(TORCHRUN, first, tmp_path / "run"), first)


def assert_same_rounds(output: Path, recipe: ClipAgiqaRecipe) -> None:
    for number in range(recipe.rounds):
        one, other = (Path(run) / f"round{number}" for run in (recipe.output, output))
        assert losses(other) == pytest.approx(losses(one), abs=CLOSE, rel=0)
        for epoch in range(1, recipe.epochs + 1):
            single, shared = (json.loads((run / f"epoch{epoch}.json").read_text()) for run in (one, other))
            assert shared == {task: pytest.approx(scores, abs=CLOSE) for task, scores in single.items()}
        weights = [load_file(run / "model" / "model.safetensors") for run in (one, other)]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.allclose(weights[0][k], weights[1][k], atol=CLOSE) for k in weights[0])


@pytest.mark.usefixtures("its_pictures")
def test_torchrun_learns_the_prompts_that_one_process_learns(
    prompts: ClipAgiqaRecipe, tmp_path: Path
) -> None:
    output = launched(TORCHRUN, replace(prompts, stop_after=5), tmp_path / "run")  # of 14 steps a round
    launched(TORCHRUN, prompts, output, "--resume")
    assert_same_rounds(output, prompts)


@pytest.fixture
def compiler() -> None:
    """DeepSpeed on CPU compiles a kernel once; a machine of CI has what that takes (`make compiler`)."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        if os.environ.get("CI") == "true":
            pytest.fail("no C++ compiler: run `make compiler`")
        pytest.skip("no C++ compiler, which DeepSpeed on CPU needs: make compiler")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_zero_learns_what_one_process_learns(first: Stage1, tmp_path: Path, zero: int) -> None:
    config = f"configs/deepspeed/zero{zero}.json"
    assert_same_run(launched(DEEPSPEED, first, tmp_path / "run", "--deepspeed", config), first)


@pytest.mark.usefixtures("compiler", "its_pictures")
@pytest.mark.parametrize("zero", [1, 2])
def test_zero_learns_the_prompts_that_one_process_learns(
    prompts: ClipAgiqaRecipe, tmp_path: Path, zero: int
) -> None:
    options = ["--deepspeed", f"configs/deepspeed/zero{zero}.json"]
    output = launched(DEEPSPEED, replace(prompts, stop_after=5), tmp_path / "run", *options)
    launched(DEEPSPEED, prompts, output, *options, "--resume")
    assert_same_rounds(output, prompts)


@pytest.mark.usefixtures("compiler")
def test_zero_3_teaches_the_language_model_as_one_process_does(second: Stage2, tmp_path: Path) -> None:
    config = "configs/deepspeed/zero3.json"
    output = launched(DEEPSPEED, second, tmp_path / "run", "--deepspeed", config)
    assert_same_run(output, second)
    adapters = [
        load_file(Path(run) / "model/language/adapter_model.safetensors") for run in (second.output, output)
    ]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(
        torch.allclose(adapters[0][k].float(), adapters[1][k].float(), atol=CLOSE) for k in adapters[0]
    )
