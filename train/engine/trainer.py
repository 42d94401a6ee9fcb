"""A training run: one pass over examples drawn beforehand, which survives being killed.

On one process, under `torchrun`, or under `deepspeed`; a checkpoint holds what trains, the optimizer and the
random state, and counts once it is complete.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler, Subset
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, unset_hf_deepspeed_config

from mint_iqa.errors import MintIQAError
from mint_iqa.files import write_whole
from train.engine.checkpoints import COMPLETE_MARK, checkpoints, rank, world_size, writing
from train.engine.distributed import own_share
from train.engine.parameters import Learner, describe, restore, trained_state
from train.engine.recipes import Optimization

Recipe = TypeVar("Recipe", bound=Optimization)
WEIGHTS = "trained.safetensors"


def device() -> torch.device:
    """The device of this process, known before the Trainer exists."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


# --- the Trainer ---


def arguments(recipe: Optimization, deepspeed: Path | None = None, **other: Any) -> TrainingArguments:
    """other: settings that replace these. MintIQAError if the batch can't be divided, or DeepSpeed can't
    start."""
    parts = world_size() * recipe.accumulation
    if recipe.batch_size % parts:
        raise MintIQAError(
            "bad_config",
            f"batch_size {recipe.batch_size} can't be shared by processes x accumulation = {parts}.",
        )
    if deepspeed is not None:
        _check_deepspeed(deepspeed)
    on_cpu = not torch.cuda.is_available()
    ours: dict[str, Any] = {
        "output_dir": recipe.output,
        "per_device_train_batch_size": recipe.batch_size // parts,
        "gradient_accumulation_steps": recipe.accumulation,
        "num_train_epochs": 1,
        "dataloader_drop_last": True,  # or the last step would depend on the number of processes
        "seed": recipe.seed,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": recipe.warmup,
        "max_grad_norm": 1.0,
        "logging_steps": recipe.log_steps,
        "logging_nan_inf_filter": False,
        "save_steps": recipe.save_steps,
        "remove_unused_columns": False,
        "report_to": "none",
        "deepspeed": str(deepspeed) if deepspeed else None,
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and world_size() > 1 else None,
        "disable_tqdm": False,
    }
    settings = TrainingArguments(**(ours | other))
    # One process drives one GPU: the Trainer would split batches over all that it sees.
    settings._n_gpu = min(settings.n_gpu, 1)
    if settings.world_size != world_size():
        raise MintIQAError(
            "not_distributed",
            f"{world_size()} processes were started and {settings.world_size} found each other.",
        )
    return settings


def _check_deepspeed(config: Path) -> None:
    if not config.is_file():
        raise MintIQAError(
            "config_missing", f"--deepspeed {config} can't be read: configs/deepspeed has three."
        )
    if "LOCAL_RANK" not in os.environ:
        raise MintIQAError(
            "not_distributed",
            "--deepspeed needs its launcher: deepspeed --num_gpus N --module train.stage1 ...",
        )
    compiler = os.environ.get("CXX", "c++")
    if not torch.cuda.is_available() and not (shutil.which(compiler) and shutil.which("ninja")):
        raise MintIQAError(
            "compiler_missing",
            f"DeepSpeed on CPU needs {compiler} and ninja on the PATH: install g++, activate .venv.",
        )


class Progress(ProgressCallback):
    """A bar that estimates the remaining time from the steps of this run alone."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            done, self.current_step = state.global_step, state.global_step
            self.training_bar = tqdm(total=state.max_steps, initial=done, desc="Training", dynamic_ncols=True)


class PlanTrainer(Trainer):
    """transformers' Trainer over a plan: examples in their order, and only what trains in a checkpoint."""

    def __init__(
        self,
        recipe: Optimization,
        learner: Learner,
        groups: list[dict[str, Any]],
        data: Dataset[Any],
        collate: Callable[[Sequence[Any]], dict[str, Any]],
        deepspeed: Path | None = None,
        **other: Any,
    ) -> None:
        """groups: AdamW's. other: as for `arguments`. MintIQAError if the plan doesn't fill one batch."""
        self.recipe, self.groups = recipe, groups
        self.planned = len(data) // recipe.batch_size  # type: ignore[arg-type]
        if not self.planned:
            raise MintIQAError(
                "too_few_examples",
                f"{len(data)} examples do not fill one batch of {recipe.batch_size}: "  # type: ignore[arg-type]
                "lower batch_size or add passes.",
            )
        if deepspeed is not None:
            for parameter in learner.parameters():
                if parameter.ndim == 0:
                    parameter.data = parameter.data.view(1)  # DeepSpeed broadcasts no scalars
        steps = min(self.planned, recipe.stop_after or self.planned)
        logs = TensorBoardCallback()
        logs.logging_dir = str(Path(recipe.output) / "logs")
        super().__init__(
            model=learner,
            args=arguments(recipe, deepspeed, **other),
            train_dataset=Subset(data, range(steps * recipe.batch_size)),
            data_collator=collate,
            callbacks=[logs],
        )
        self.remove_callback(ProgressCallback)
        self.add_callback(Progress())
        self.model_accepts_loss_kwargs = False
        self.latest: dict[str, Tensor] = {}
        # It may silently fall back to plain data parallelism.
        if (self.accelerator.distributed_type == DistributedType.DEEPSPEED) != (deepspeed is not None):
            raise MintIQAError("not_distributed", "--deepspeed was given and DeepSpeed did not start.")

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, *_: Any, **__: Any) -> torch.optim.Optimizer:
        self.optimizer = torch.optim.AdamW(self.groups, betas=(0.9, 0.99), fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        return super().create_scheduler(self.planned, optimizer)  # a run that stops early keeps its schedule

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        parts = model(inputs)
        self.latest = {name: part.detach() for name, part in parts.items()}
        loss = torch.stack(list(parts.values())).sum()
        if not loss.isfinite():
            self._refuse(inputs)
        return own_share(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        parts = {name: part.item() for name, part in self.latest.items()} if "loss" in logs else {}
        super().log(logs | parts, start_time)

    def last_loss(self) -> str:
        """The figure of a run whose only measure is its loss."""
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        last = f"{losses[-1]:.3f}" if losses else "not logged"
        return f"loss {last} at the end of {self.state.global_step} steps"

    def _refuse(self, inputs: dict[str, Any]) -> None:
        """Keep the batch and end the run; the weights are still those before it."""
        step = self.state.global_step
        folder = Path(self.args.output_dir) / "bad_batch" / f"step-{step}-process-{rank()}"
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.cpu().contiguous() for k, v in inputs.items() if isinstance(v, Tensor)}
        save_file(tensors, folder / "inputs.safetensors")
        first = step * self.recipe.batch_size
        others = {k: v for k, v in inputs.items() if not isinstance(v, Tensor)}
        others |= {
            "losses": {k: str(v.item()) for k, v in self.latest.items()},
            "examples_of_step": [first, first + self.recipe.batch_size],
        }
        (folder / "inputs.json").write_text(json.dumps(others, indent=2))
        bad = [name for name, part in self.latest.items() if not part.isfinite()]
        raise MintIQAError(
            "loss_not_finite",
            f"The loss is no longer a number at step {step} ({', '.join(bad)}). Its batch is saved in "
            f"{folder}: look for a value there that can't be, or lower the learning rates.",
        )

    # --- checkpoints ---

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        output = Path(self.args.output_dir)
        folder = output / f"checkpoint-{self.state.global_step}"
        with writing(folder):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        with writing(folder):
            write_whole(folder / COMPLETE_MARK, json.dumps({"processes": world_size()}))
        # Only now, so that a complete one exists at any moment.
        for older in checkpoints(output):
            if older != folder:
                shutil.rmtree(older)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        if state_dict == {}:  # what the Trainer passes if ZeRO-3 was not told to gather
            raise MintIQAError(
                "bad_config",
                "ZeRO-3 needs stage3_gather_16bit_weights_on_model_save in the DeepSpeed config.",
            )
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_state(self.model, state_dict), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        restore(self.model, load_file(Path(resume_from_checkpoint) / WEIGHTS))


def run_to_end(trainer: PlanTrainer, checkpoint: Path | None) -> dict[str, Tensor]:
    """Train; the learned weights as `trained_state` gives them, empty in all processes but the first."""
    if rank() == 0:
        print(describe(trainer.model), file=sys.stderr)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    unset_hf_deepspeed_config()  # or `from_pretrained` would still partition what it loads under ZeRO-3
    if rank():
        return {}
    # The Trainer saves after the last step.
    return load_file(checkpoints(Path(trainer.args.output_dir))[-1] / WEIGHTS)


# --- command line ---
