"""CLIP-AGIQA (arXiv 2406.16641): prompts learned from AGIQA-3K's human scores, by the paper's protocol.

    python -m train.clip_agiqa configs/clip_agiqa/agiqa3k_b32.yaml
    python -m train.clip_agiqa configs/clip_agiqa/agiqa3k_nano.yaml --set text_depth=0 output=runs/vision_only
    torchrun --nproc_per_node 2 -m train.clip_agiqa configs/clip_agiqa/agiqa3k_b32.yaml
    deepspeed --num_gpus 2 --module train.clip_agiqa configs/clip_agiqa/agiqa3k_b32.yaml \\
        --deepspeed configs/deepspeed/zero2.json

Every round keeps other prompts apart: a fifth of the pictures tests, and an eighth of the others validates.
After each epoch both are scored. The epoch is chosen by the validation pictures, and, to compare with
published figures, by the test pictures themselves. A run that was cut off continues with --resume.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import Dataset, default_collate
from transformers import TrainerCallback, TrainerState, set_seed

from mint_iqa.clip_agiqa.crops import normalize, resize
from mint_iqa.clip_agiqa.files import load_backbone
from mint_iqa.clip_agiqa.model import ClipAgiqa, ClipAgiqaConfig, ClipAgiqaOutput
from mint_iqa.clip_agiqa.towers import Towers, towers_of
from mint_iqa.errors import MintIQAError
from mint_iqa.files import write_whole
from mint_iqa.folds import prompt_folds
from mint_iqa.images import read_image
from train.data import sets
from train.data.rounds import best_epoch, write_epoch, write_pictures
from train.data.sets import LABELS
from train.engine.checkpoints import begin, rank, writing
from train.engine.commands import command
from train.engine.distributed import processes, whole_batch
from train.engine.parameters import Learner, declare
from train.engine.precision import autocast
from train.engine.recipes import Optimization
from train.engine.trainer import PlanTrainer, arguments, device, run_to_end
from train.measure.clip_agiqa import report

TEST_PART, VALIDATION_PART = 5, 8  # a fifth of all, an eighth of the rest
ScorePictures = Callable[[ClipAgiqa], dict[str, list[float]]]


@dataclass
class ClipAgiqaRecipe(Optimization):
    """The defaults are the paper's. Numbers of steps are per round."""

    output: str = "runs/clip_agiqa"
    trains: list[str] = field(default_factory=lambda: ["(auxiliary|target)"])
    backbone: str = "openai/clip-vit-base-patch32"  # folder or hub id of a CLIP, or the folder of a MINT-IQA
    prompt_length: int = 8
    text_depth: int | None = None  # layers with a text prompt; None: all of them, 0: none
    vision_depth: int | None = None  # the same in the image tower
    auxiliary: bool = True  # alignment is learned too
    alignment_weight: float = 0.1
    short_side: int | None = None  # pixels to scale to before cropping; None: crops of the picture as it is
    rounds: int = 10
    epochs: int = 50  # 0: only score, without learning
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of the learning rate, after the warm-up
    warmup: float = 0.0
    bf16: bool = False


@dataclass(frozen=True)
class Parts:
    """Row numbers of AGIQA-3K; no two parts share a prompt or a picture."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split_round(rows: list[dict[str, str]], number: int) -> Parts:
    """Of round `number`. The test pictures of round 0 are fold 0 of all other trainings here."""
    everything = np.arange(len(rows))
    is_test = _folds(rows, everything, TEST_PART, number) == 0
    rest = everything[~is_test]
    is_validation = _folds(rows, rest, VALIDATION_PART, number) == 0
    return Parts(rest[~is_validation], rest[is_validation], everything[is_test])


def _folds(rows: list[dict[str, str]], chosen: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    prompts, hashes = ([rows[i][key] for i in chosen] for key in ("prompt", "sha256"))
    return prompt_folds(prompts, hashes, folds, seed)


class RatedCrops(Dataset[dict[str, Tensor]]):
    """A round's examples in order, all epochs in a row: random crops, mirrored half of the time.

    An epoch is a whole number of batches; which pictures are left over changes from epoch to epoch.
    """

    def __init__(
        self, rows: list[dict[str, str]], chosen: NDArray[np.int64], recipe: ClipAgiqaRecipe, towers: Towers
    ) -> None:
        self.rows, self.short_side = rows, recipe.short_side
        self.size, self.mean, self.std = towers.image_size, towers.mean, towers.std
        rng = np.random.default_rng(recipe.seed)
        self.steps = len(chosen) // recipe.batch_size  # of an epoch
        kept = self.steps * recipe.batch_size
        epochs = [rng.permutation(chosen)[:kept] for _ in range(recipe.epochs)]
        self.order = np.concatenate(epochs)
        self.seeds = rng.integers(2**31, size=len(self.order))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row, rng = self.rows[self.order[index]], np.random.default_rng(self.seeds[index])
        image = pixels_of(row["path"])
        image = image if self.short_side is None else resize(image, self.short_side)
        spare = np.array(image.shape[:2]) - self.size
        if spare.min() < 0:
            raise MintIQAError(
                "image_too_small",
                f"{row['path']} has a side under {self.size} pixels: set short_side to {self.size} or more.",
            )
        top, left = rng.integers(spare + 1)
        crop = image[top : top + self.size, left : left + self.size]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        mos = {key: torch.tensor(float(row[key])) for key in LABELS.values()}
        return {"pixel_values": normalize(crop.copy(), self.mean, self.std), **mos}


def pixels_of(path: str) -> NDArray[np.uint8]:
    return np.asarray(read_image(path).rgb)


class ClipAgiqaLearner(Learner):
    """A batch of crops -> the loss of both tasks, over the crops of every process."""

    def __init__(self, model: ClipAgiqa, recipe: ClipAgiqaRecipe) -> None:
        super().__init__()
        self.model, self.bf16 = model, recipe.bf16
        declare(self, recipe.trains, lambda _: False, foreign=("backbone.",))

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        # Here and not around it: engines that wrap a module switch an outer autocast off.
        with autocast(inputs["pixel_values"].device.type, self.bf16):
            output = self.model(inputs["pixel_values"])
        alignment = None if output.alignment is None else whole_batch(output.alignment)
        everyone = ClipAgiqaOutput(whole_batch(output.perceptual), alignment)
        mos = (whole_batch(inputs[key]) for key in LABELS.values())
        return {"mse": self.model.loss(everyone, *mos)}


class ClipAgiqaTrainer(PlanTrainer):
    """With the paper's plain Adam, which is AdamW without decay."""

    def create_optimizer(self, *_: Any, **__: Any) -> torch.optim.Optimizer:
        self.optimizer = torch.optim.AdamW(self.groups)
        return self.optimizer


class AfterEachEpoch(TrainerCallback):
    """Scores the held-out pictures, and keeps the model that is best on the validation part."""

    def __init__(self, model: ClipAgiqa, steps: int, folder: Path, score: ScorePictures) -> None:
        self.model, self.steps, self.folder, self.score = model, steps, folder, score

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step % self.steps == 0:
            control.should_save = True
            keep(self.folder, state.global_step // self.steps, self.model, self.score(self.model))


def keep(folder: Path, epoch: int, model: ClipAgiqa, scores: dict[str, list[float]]) -> None:
    """Write an epoch's scores, and the model if it is the best so far; only the first process writes."""
    if rank() == 0:
        with writing(folder):
            write_epoch(folder, epoch, scores)
        if best_epoch(folder, "validation") == epoch:
            model.save_pretrained(folder / "model")


@torch.inference_mode()
def score_pictures(
    model: ClipAgiqa, rows: list[dict[str, str]], chosen: NDArray[np.int64], bf16: bool
) -> dict[str, list[float]]:
    """Scores 0..1 of the chosen rows by task, as `ClipAgiqa.score` gives them; processes share the work."""
    model.eval()
    with autocast(model.backbone.device.type, bf16):
        outputs = [
            model.score(pixels_of(rows[i]["path"]), alignment=True) for i in chosen[rank() :: processes()]
        ]
    scores = {"quality": in_turns([o.perceptual.item() for o in outputs])}
    if model.auxiliary is not None:
        scores["correspondence"] = in_turns([o.alignment.item() for o in outputs if o.alignment is not None])
    return scores


def in_turns(own: list[float]) -> list[float]:
    """The values of all processes, one of each in turn."""
    if processes() == 1:
        return own
    parts: list[list[float]] = [[] for _ in range(processes())]
    dist.all_gather_object(parts, own)
    return [values[k] for k in range(len(parts[0])) for values in parts if k < len(values)]


def build_model(recipe: ClipAgiqaRecipe) -> ClipAgiqa:
    """An untrained model; MintIQAError if the recipe's backbone can't be loaded or can't take prompts."""
    backbone = load_backbone(recipe.backbone)
    towers = towers_of(backbone)
    config = ClipAgiqaConfig(
        backbone=recipe.backbone,
        prompt_length=recipe.prompt_length,
        auxiliary=recipe.auxiliary,
        alignment_weight=recipe.alignment_weight,
        short_side=recipe.short_side,
        perceptual=towers.perceptual,
        alignment=towers.alignment,
        text_depth=len(towers.text_layers) if recipe.text_depth is None else recipe.text_depth,
        vision_depth=len(towers.vision_layers) if recipe.vision_depth is None else recipe.vision_depth,
    )
    return ClipAgiqa(backbone, config)


def train_round(
    recipe: ClipAgiqaRecipe, rows: list[dict[str, str]], number: int, resume: bool, deepspeed: Path | None
) -> None:
    """One split; leaves in round<number>/ the scores of each epoch and, in model/, the best of them."""
    folder = Path(recipe.output) / f"round{number}"
    checkpoint = begin(recipe, resume, folder)
    recipe = replace(recipe, output=str(folder))
    settings = arguments(recipe, deepspeed)  # several processes find each other here
    if deepspeed is not None and settings.hf_deepspeed_config.is_zero3():
        raise MintIQAError(
            "bad_config",
            f"{deepspeed} shares out the weights, which CLIP-AGIQA needs whole after each epoch: take ZeRO 1 "
            "or 2.",
        )
    parts = split_round(rows, number)
    set_seed(recipe.seed + number)
    model = build_model(recipe)
    kept_apart = np.concatenate([parts.validation, parts.test])
    if rank() == 0:
        with writing(folder):
            write_pictures(folder, rows, {"validation": parts.validation, "test": parts.test})
    score = partial(score_pictures, rows=rows, chosen=kept_apart, bf16=recipe.bf16)
    if recipe.epochs == 0:
        return None if (folder / "model").exists() else keep(folder, 0, model.to(device()), score(model))
    crops = RatedCrops(rows, parts.train, recipe, model.towers)
    trainer = trainer_of(recipe, model, crops, deepspeed)
    done = 0 if checkpoint is None else int(checkpoint.name.split("-")[1])
    forget_epochs(folder, after=done // crops.steps)
    trainer.add_callback(AfterEachEpoch(model, crops.steps, folder, score))
    run_to_end(trainer, checkpoint)
    return None


def forget_epochs(folder: Path, after: int) -> None:
    """Remove the scores of later epochs, which a killed run may have left: the best epoch would
    be chosen among them too."""
    for path in folder.glob("epoch*.json") if rank() == 0 else ():
        if int(path.stem.removeprefix("epoch")) > after:
            path.unlink()


def _collate(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return default_collate(list(items))  # type: ignore[no-any-return]


def trainer_of(
    recipe: ClipAgiqaRecipe, model: ClipAgiqa, crops: RatedCrops, deepspeed: Path | None = None
) -> ClipAgiqaTrainer:
    learner = ClipAgiqaLearner(model, recipe)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": learned, "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}]
    schedule = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    other = {"lr_scheduler_type": schedule, "max_grad_norm": 0.0}
    return ClipAgiqaTrainer(recipe, learner, groups, crops, _collate, deepspeed, **other)


def train(recipe: ClipAgiqaRecipe, resume: bool = False, deepspeed: Path | None = None) -> Path:
    """Run all rounds of a recipe, or what is left of them; the output folder."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    rows = sets.agiqa3k(sets.data_root())
    for number in range(recipe.rounds):
        train_round(recipe, rows, number, resume, deepspeed)
        if processes() > 1:
            dist.barrier()  # before one reads what another may still write
    if rank() == 0:
        write_whole(Path(recipe.output) / "recipe.json", json.dumps(asdict(recipe), indent=2))
        print("\n".join(report(Path(recipe.output))))
    return Path(recipe.output)


if __name__ == "__main__":
    sys.exit(command(ClipAgiqaRecipe, train, __doc__))
