"""Two processes learn what one learns: torchrun, and DeepSpeed's ZeRO 1 to 3, on CPU.

Each launcher starts its two processes once, and they make one run after the other (tests/several_runs.py).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
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
    """A finished run of stage 1 in one process, with every loss."""
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
    """Two rounds of CLIP-AGIQA, on enough pictures for a validation set."""
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


def losses(output: str | Path) -> list[float]:
    (state,) = Path(output).glob("checkpoint-*/trainer_state.json")
    return [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


@dataclass(frozen=True)
class Job:
    """A recipe to run into `output`, with options for its command."""

    recipe: Optimization
    output: Path
    options: tuple[str, ...] = ()
    data: Path | None = None  # None: the world's

    def arguments(self) -> list[str]:
        file = self.output.parent / f"{self.output.name}-{len(list(self.output.parent.glob('*.yaml')))}.yaml"
        file.write_text(yaml.safe_dump(asdict(self.recipe)))
        return [str(file), "--set", f"output={self.output}", *self.options]


def launch(launcher: list[str], world: World, jobs: list[Job]) -> None:
    """Run every job in turn in the same two processes, started as in the documentation."""
    listed = [
        {
            "module": MODULES[type(job.recipe)],
            "arguments": job.arguments(),
            "data": str(job.data or world.data),
        }
        for job in jobs
    ]
    file = jobs[0].output.parent / "jobs.json"
    file.write_text(json.dumps(listed))
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "tests.several_runs", str(file)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def prompt_jobs(prompts: ClipAgiqaRecipe, output: Path, *options: str) -> list[Job]:
    """A run that stops after 5 of 14 steps of each round, and its continuation."""
    data = Path(prompts.output).parent
    return [
        Job(replace(prompts, stop_after=5), output, options, data),
        Job(prompts, output, (*options, "--resume"), data),
    ]


def assert_same_run(output: Path, recipe: Optimization) -> None:
    one, two = losses(recipe.output), losses(output)
    assert len(one) == len(two) >= 5
    assert two == pytest.approx(one, abs=CLOSE, rel=0)
    single, shared = (load_file(Path(run) / "model" / "model.safetensors") for run in (recipe.output, output))
    assert single.keys() == shared.keys()
    # Saved in float16, where a number can be off by one step, 2**-10 of its size.
    assert all(torch.allclose(single[k].float(), shared[k].float(), atol=CLOSE, rtol=2**-10) for k in single)


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


@pytest.fixture(scope="module")
def with_torchrun(
    world: World, first: Stage1, prompts: ClipAgiqaRecipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The outputs of two processes started by torchrun."""
    folder = tmp_path_factory.mktemp("torchrun")
    launch(TORCHRUN, world, [*prompt_jobs(prompts, folder / "prompts"), Job(first, folder / "scores")])
    return folder


def test_torchrun_learns_what_one_process_learns(first: Stage1, with_torchrun: Path) -> None:
    assert_same_run(with_torchrun / "scores", first)


def test_torchrun_learns_the_prompts_that_one_process_learns(
    prompts: ClipAgiqaRecipe, with_torchrun: Path
) -> None:
    assert_same_rounds(with_torchrun / "prompts", prompts)


@pytest.fixture(scope="module")
def with_deepspeed(
    world: World,
    first: Stage1,
    second: Stage2,
    prompts: ClipAgiqaRecipe,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The outputs of DeepSpeed's processes, which compile a kernel once.

    A machine of CI has what that takes (`make compiler`).
    """
    if not shutil.which(os.environ.get("CXX", "c++")):
        if os.environ.get("CI") == "true":
            pytest.fail("no C++ compiler: run `make compiler`")
        pytest.skip("no C++ compiler, which DeepSpeed on CPU needs: make compiler")
    folder = tmp_path_factory.mktemp("deepspeed")

    def zero(stage: int) -> tuple[str, str]:
        return "--deepspeed", f"configs/deepspeed/zero{stage}.json"

    jobs = [Job(first, folder / f"scores{stage}", zero(stage)) for stage in (2, 3)]
    for stage in (1, 2):
        jobs += prompt_jobs(prompts, folder / f"prompts{stage}", *zero(stage))
    jobs += [Job(second, folder / "answers3", zero(3)), Job(first, folder / "scores1", zero(1))]
    launch(DEEPSPEED, world, jobs)
    return folder


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_zero_learns_what_one_process_learns(first: Stage1, with_deepspeed: Path, zero: int) -> None:
    assert_same_run(with_deepspeed / f"scores{zero}", first)


@pytest.mark.parametrize("zero", [1, 2])
def test_zero_learns_the_prompts_that_one_process_learns(
    prompts: ClipAgiqaRecipe, with_deepspeed: Path, zero: int
) -> None:
    assert_same_rounds(with_deepspeed / f"prompts{zero}", prompts)


def test_zero_3_teaches_the_language_model_as_one_process_does(second: Stage2, with_deepspeed: Path) -> None:
    output = with_deepspeed / "answers3"
    assert_same_run(output, second)
    adapters = [
        load_file(Path(run) / "model/language/adapter_model.safetensors") for run in (second.output, output)
    ]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(
        torch.allclose(adapters[0][k].float(), adapters[1][k].float(), atol=CLOSE) for k in adapters[0]
    )
