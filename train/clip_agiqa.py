"""CLIP-AGIQA (arXiv 2406.16641): prompts learned from AGIQA-3K's human scores, by the paper's protocol.

    python -m train.clip_agiqa configs/clip_agiqa/agiqa3k_b32.yaml
    python -m train.clip_agiqa configs/clip_agiqa/agiqa3k_nano.yaml --set text_depth=0 output=runs/vision_only
    python -m train.clip_agiqa configs/clip_agiqa/agiqa3k_b32.yaml --report

Every round keeps other prompts apart: a fifth of the pictures tests, and an eighth of the others validates.
After each epoch both are scored. The epoch is chosen by the validation pictures, and, to compare with
published figures, by the test pictures themselves. A run goes on where it ended when started again.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from instruct_data.settings import read_settings
from mint_iqa.clip_agiqa import ClipAgiqa, ClipAgiqaConfig
from mint_iqa.clip_agiqa_crops import normalize, resize
from mint_iqa.clip_agiqa_files import load_backbone
from mint_iqa.clip_agiqa_towers import Towers, towers_of
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from mint_iqa.metrics import prompt_folds
from train import pictures
from train.clip_agiqa_report import TASKS, best_epoch, label, report, write_epoch

TEST_PART, VALIDATION_PART = 5, 8  # a fifth of all, an eighth of the rest
Judge = Callable[[ClipAgiqa], dict[str, list[float]]]


@dataclass
class ClipAgiqaRecipe:
    """The defaults are the paper's."""

    output: str = "runs/clip_agiqa"
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
    schedule: str = "constant"  # of the learning rate: constant, cosine, ...
    bf16: bool = False
    seed: int = 0
    threads: int = 0  # 0: torch's choice
    log_steps: int = 10


@dataclass(frozen=True)
class Split:
    """Row numbers of AGIQA-3K; no two parts share a prompt or a picture."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split(rows: list[dict[str, str]], number: int) -> Split:
    """Of round `number`. The test pictures of round 0 are fold 0 of all other trainings here."""
    everything = np.arange(len(rows))
    is_test = _folds(rows, everything, TEST_PART, number) == 0
    rest = everything[~is_test]
    is_validation = _folds(rows, rest, VALIDATION_PART, number) == 0
    return Split(rest[~is_validation], rest[is_validation], everything[is_test])


def _folds(rows: list[dict[str, str]], chosen: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    prompts, hashes = ([rows[i][key] for i in chosen] for key in ("prompt", "sha256"))
    return prompt_folds(prompts, hashes, folds, seed)


class Crops(Dataset[dict[str, Tensor]]):
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
        mos = {key: torch.tensor(float(row[key])) for key in TASKS.values()}
        return {"pixel_values": normalize(crop.copy(), self.mean, self.std), **mos}


def pixels_of(path: str) -> NDArray[np.uint8]:
    return np.asarray(read_image(path).rgb)


class Learner(nn.Module):
    """The model with its loss, as Trainer calls them."""

    def __init__(self, model: ClipAgiqa) -> None:
        super().__init__()
        self.clip_agiqa = model

    def forward(self, pixel_values: Tensor, mos_quality: Tensor, mos_align: Tensor) -> dict[str, Tensor]:
        output = self.clip_agiqa(pixel_values)
        return {"loss": self.clip_agiqa.loss(output, mos_quality, mos_align)}


class ClipAgiqaTrainer(Trainer):
    """transformers' Trainer with plain Adam; a checkpoint holds what is learned and no backbone."""

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, *_: Any, **__: Any) -> torch.optim.Optimizer:
        learned = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learned, lr=self.args.learning_rate)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.model.clip_agiqa.learned(), folder / "model.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.clip_agiqa.load_learned(Path(resume_from_checkpoint) / "model.safetensors")


class AfterEachEpoch(TrainerCallback):
    """Scores the pictures kept apart, and keeps the model that is the best on those that validate."""

    def __init__(self, model: ClipAgiqa, steps: int, folder: Path, judge: Judge) -> None:
        self.model, self.steps, self.folder, self.judge = model, steps, folder, judge

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step % self.steps == 0:
            keep(self.folder, state.global_step // self.steps, self.model, self.judge(self.model))


def keep(folder: Path, epoch: int, model: ClipAgiqa, scores: dict[str, list[float]]) -> None:
    """Write an epoch's scores, and the model if no epoch before was better."""
    write_epoch(folder, epoch, scores)
    if best_epoch(folder, "validation") == epoch:
        model.save_pretrained(folder / "model")


@torch.inference_mode()
def judge(
    model: ClipAgiqa, rows: list[dict[str, str]], chosen: NDArray[np.int64], bf16: bool
) -> dict[str, list[float]]:
    """Scores 0..1 of the chosen rows by task, as `ClipAgiqa.score` gives them."""
    model.eval()
    with torch.autocast(model.backbone.device.type, torch.bfloat16, enabled=bf16):
        outputs = [model.score(pixels_of(rows[i]["path"]), alignment=True) for i in chosen]
    scores = {"quality": [o.perceptual.item() for o in outputs]}
    if model.auxiliary is not None:
        scores["correspondence"] = [o.alignment.item() for o in outputs if o.alignment is not None]
    return scores


def build(recipe: ClipAgiqaRecipe) -> ClipAgiqa:
    """An untrained model; MintIQAError if the recipe's backbone can't be loaded or takes no prompts."""
    backbone = load_backbone(recipe.backbone)
    towers = towers_of(backbone)
    depths = {
        "text_depth": len(towers.text_layers) if recipe.text_depth is None else recipe.text_depth,
        "vision_depth": len(towers.vision_layers) if recipe.vision_depth is None else recipe.vision_depth,
    }
    config = ClipAgiqaConfig(
        backbone=recipe.backbone,
        prompt_length=recipe.prompt_length,
        auxiliary=recipe.auxiliary,
        alignment_weight=recipe.alignment_weight,
        short_side=recipe.short_side,
        perceptual=towers.perceptual,
        alignment=towers.alignment,
        **depths,
    )
    return ClipAgiqa(backbone, config)


def train_round(recipe: ClipAgiqaRecipe, rows: list[dict[str, str]], number: int) -> None:
    """One split; leaves in round<number>/ the scores of each epoch and, in model/, the best of them."""
    folder = Path(recipe.output) / f"round{number}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = split(rows, number)
    set_seed(recipe.seed + number)
    model = build(recipe)
    kept_apart = np.concatenate([parts.validation, parts.test])
    label(folder, rows, {"validation": parts.validation, "test": parts.test})
    score = partial(judge, rows=rows, chosen=kept_apart, bf16=recipe.bf16)
    if recipe.epochs == 0:
        return keep(folder, 0, model, score(model))
    crops = Crops(rows, parts.train, recipe, model.towers)
    trainer = ClipAgiqaTrainer(
        model=Learner(model),
        args=arguments(recipe, folder, crops.steps),
        train_dataset=crops,
        callbacks=[AfterEachEpoch(model, crops.steps, folder, score)],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    return None


def arguments(recipe: ClipAgiqaRecipe, folder: Path, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.batch_size,
        num_train_epochs=1,  # `Crops` holds all epochs
        seed=recipe.seed,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        max_grad_norm=0.0,
        bf16=recipe.bf16,
        logging_steps=recipe.log_steps,
        save_steps=steps,
        save_total_limit=1,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )


def train(recipe: ClipAgiqaRecipe) -> Path:
    """Run all rounds of a recipe, or what is left of them; the output folder."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    rows = pictures.agiqa3k(pictures.data_root())
    output = Path(recipe.output)
    for number in range(recipe.rounds):
        if not (output / f"round{number}" / f"epoch{recipe.epochs}.json").exists():
            train_round(recipe, rows, number)
    (output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
    return output


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="a YAML file of configs/clip_agiqa")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--report", action="store_true", help="only read what is there")
    options = parser.parse_args()
    recipe = read_settings(ClipAgiqaRecipe, options.recipe, options.set)
    output = Path(recipe.output) if options.report else train(recipe)
    print("\n".join(report(output)))


if __name__ == "__main__":
    main()
