"""Stage 1: the three scores (and named faults), from captions, human scores and known faults.

    python -m train.stage1 configs/nano/pretrain.yaml
    python -m train.stage1 configs/nano/stage1.yaml --set test_fold=1 output=runs/fold1

A run writes checkpoints into its output folder and goes on from the last one when started again.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from instruct_data.settings import read_settings
from mint_iqa.configuration import MintIQAConfig
from mint_iqa.modeling import EncodedImage, MintIQAModel, ScoreOutput
from mint_iqa.pretrained import cache_root, initialise
from mint_iqa.processing import MintIQAProcessor
from train.plan import Looks, Sources, draw, read_sources
from train.settings import Optimisation, Stage1

STAGE2_PARTS = ("qformer2.", "vision2.", "bridge.", "language_projection.")


def load_model(source: str) -> tuple[MintIQAModel, MintIQAProcessor]:
    """A checkpoint's folder, or a config file whose parts are the start."""
    if Path(source).is_dir():
        model = MintIQAModel.from_pretrained(source, dtype=torch.float32)
    else:
        model = MintIQAModel(MintIQAConfig(**json.loads(Path(source).read_text())))
        initialise(model)
    return model, MintIQAProcessor.from_config(model.config, Path(source))


def freeze_for_stage1(model: MintIQAModel, blocks: int) -> None:
    """Stage 1 trains the tower above `blocks`, Q-Former 1 without word embeddings, heads and alignment."""
    model.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name.startswith(STAGE2_PARTS) or name.startswith(tuple(model.config.referenced)):
            parameter.requires_grad_(False)
        elif name.startswith("vision.backbone."):
            parameter.requires_grad_(0 <= blocks <= _depth(name))
    for name in ("embeddings", "layernorm"):  # the final norm is unused where several blocks are tapped
        getattr(model.vision.backbone, name).requires_grad_(False)


def _depth(name: str) -> int:
    """Number of the tower block that a parameter belongs to; -1 outside the blocks."""
    parts = name.split(".")
    return int(parts[parts.index("layer") + 1]) if "layer" in parts else -1


def parameter_groups(model: nn.Module, recipe: Optimisation, blocks: int) -> list[dict[str, Any]]:
    """AdamW groups: the tower's learning rate falls from block to block; vectors are not decayed."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = recipe.learning_rate if name.startswith("qformer") else recipe.head_learning_rate
            if name.startswith("vision.backbone."):
                rate = recipe.tower_learning_rate * recipe.layer_decay ** (blocks - 1 - _depth(name))
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def masked_l1(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error where the target is known, per column, summed over them (MINT-IQA section 3.2)."""
    known = ~torch.isnan(targets)
    errors = (predictions - torch.nan_to_num(targets)).abs() * known
    return (errors.sum(dim=0) / known.sum(dim=0).clamp(min=1)).sum()


def severity_loss(logits: Tensor, severities: Tensor) -> Tensor:
    """Mean cross-entropy with severities 0..1 as soft labels; unknown ones (NaN) are left out."""
    known = ~torch.isnan(severities)
    each = binary_cross_entropy_with_logits(logits, torch.nan_to_num(severities), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def rank_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Hinge over all pairs of a column whose targets differ: in the right order by up to the difference."""
    difference = targets.unsqueeze(0) - targets.unsqueeze(1)
    predicted = predictions.unsqueeze(0) - predictions.unsqueeze(1)
    known = difference > 0.02
    hinge = (difference.clamp(max=0.2) - predicted).clamp(min=0)
    return (hinge.nan_to_num() * known).sum() / known.sum().clamp(min=1)


class StopAfter(TrainerCallback):
    """Ends a run early without changing its learning-rate schedule."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.steps


class Stage1Trainer(Trainer):
    """transformers' Trainer with our loss; examples come in the order of the plan."""

    def __init__(self, recipe: Stage1, captions: Tensor | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe, self.captions = recipe, captions
        self.sentences: dict[tuple[int, ...], Tensor] = {}

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, *_: Any, **__: Any) -> torch.optim.Optimizer:
        groups = parameter_groups(self.model, self.recipe, self.model.config.vision["num_hidden_layers"])
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Transformers saves the tower's attention under older names, which only `from_pretrained` translates
        # back: the Trainer itself would skip those weights with a warning and go on from the start's.
        saved = MintIQAModel.from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        self.model.load_state_dict(saved.state_dict())

    def compute_loss(self, model: MintIQAModel, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        # Accelerate's autocast wraps `forward` only, and we call the model's parts.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            encoded = model.encode_image(inputs["pixel_values"])
            first = self._score(model, encoded, inputs["prompt_ids"], inputs["prompt_mask"])
            second = self._score(model, encoded, inputs["second_ids"], inputs["second_mask"])
            parts = self.losses(inputs, first, second)
            if self.captions is not None and (inputs["captions"] >= 0).any():
                contrast = self.contrast(model, encoded.image_embeds, inputs["captions"])
                parts["contrast"] = self.recipe.contrastive_weight * contrast
        self._note(parts)
        return torch.stack(list(parts.values())).sum()

    def _score(self, model: MintIQAModel, encoded: EncodedImage, ids: Tensor, mask: Tensor) -> ScoreOutput:
        """`model.score`, with the frozen sentence vectors remembered: prompts come again every epoch."""
        if model.alignment is None:
            return model.score(encoded, ids, mask)
        keys = [tuple(row[:n]) for row, n in zip(ids.tolist(), mask.sum(dim=1).tolist(), strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self.sentences]
        if new:
            vectors = model.alignment.encode_text(ids[new], mask[new])
            self.sentences |= {keys[i]: vector for i, vector in zip(new, vectors, strict=True)}
        return model.score(encoded, ids, mask, torch.stack([self.sentences[key] for key in keys]))

    def losses(self, inputs: dict[str, Tensor], first: ScoreOutput, second: ScoreOutput) -> dict[str, Tensor]:
        targets = inputs["targets"]
        wrong = torch.cat([targets[:, :2], inputs["second_correspondence"].unsqueeze(1)], dim=1)
        human = inputs["human"]
        losses = {
            "first": masked_l1(first.scores.float(), targets),
            "second": masked_l1(second.scores.float(), wrong),
            "faults": self.recipe.fault_weight
            * (
                severity_loss(first.faults.float(), inputs["faults"])
                + severity_loss(second.faults.float(), inputs["faults"])
            ),
        }
        # Right against wrong prompt of one picture: by half of what tells a matching picture from another.
        gap = first.scores[:, 2].float() - second.scores[:, 2].float()
        wanted = 0.5 * (targets[:, 2] - inputs["second_correspondence"])
        losses["pair"] = self.recipe.rank_weight * (wanted - gap).clamp(min=0).nan_to_num().mean()
        if human.sum() > 1:
            ranked = sum(rank_loss(first.scores[human, k].float(), targets[human, k]) for k in (0, 2))
            losses["rank"] = self.recipe.rank_weight * ranked
        return losses

    def contrast(self, model: MintIQAModel, image_embeds: Tensor, rows: Tensor) -> Tensor:
        """Each photograph against one caption of every photograph (its own caption in the right place)."""
        used = rows >= 0
        image = model.alignment.encode_image(image_embeds[used])
        photographs = rows[used] // 5
        bank = self.captions[torch.arange(len(self.captions)), rows[used][0] % 5].clone()
        bank[photographs] = self.captions[photographs, rows[used] % 5]
        logits = model.alignment.logit_scale.exp().clamp(max=100) * image @ bank.T
        return cross_entropy(logits, photographs)

    def _note(self, parts: dict[str, Tensor]) -> None:
        if self.state.global_step % self.args.logging_steps == 0:
            self.log({k: round(v.item(), 4) for k, v in parts.items()})


@torch.no_grad()
def caption_bank(model: MintIQAModel, processor: MintIQAProcessor, sources: Sources) -> Tensor:
    """float[N, 5, Dt]: the frozen sentence vectors of every photograph's five captions; computed once."""
    path = cache_root() / "pictures" / "captions.safetensors"
    if not path.exists():
        texts = [(p["captions"] * 5)[:5] for p in sources.photographs]
        flat = sorted({t for five in texts for t in five}, key=len)
        vectors: dict[str, Tensor] = {}
        for start in range(0, len(flat), 256):
            batch = flat[start : start + 256]
            text = processor.text(batch)
            with torch.autocast(model.device.type, torch.bfloat16):
                vectors |= dict(zip(batch, model.alignment.encode_text(text.ids, text.mask), strict=True))
        save_file(
            {"captions": torch.stack([torch.stack([vectors[t] for t in five]) for five in texts])}, path
        )
    return load_file(path)["captions"]


def arguments(recipe: Optimisation, output: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=output,
        per_device_train_batch_size=recipe.batch_size,
        num_train_epochs=1,
        seed=recipe.seed,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        max_grad_norm=1.0,
        bf16=recipe.bf16,
        logging_steps=recipe.log_steps,
        save_steps=recipe.save_steps,
        save_total_limit=1,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )


def train(recipe: Stage1) -> Path:
    """Run the recipe; the trained model's folder."""
    set_seed(recipe.seed)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    model, processor = load_model(recipe.model)
    freeze_for_stage1(model, recipe.freeze_blocks)
    sources = read_sources()
    looks = Looks(draw(sources, recipe), sources, processor)
    captions = caption_bank(model, processor, sources) if recipe.photograph_epochs else None
    trainer = Stage1Trainer(
        recipe,
        captions,
        model=model,
        args=arguments(recipe, recipe.output),
        train_dataset=looks,
        data_collator=looks.collate,
        callbacks=[StopAfter(recipe.stop_after)] if recipe.stop_after else [],
    )
    checkpoint = (
        get_last_checkpoint(recipe.output) if recipe.resume and os.path.isdir(recipe.output) else None
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    folder = Path(recipe.output) / "model"
    model.half().save_pretrained(folder, max_shard_size="90MB")
    (folder.parent / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="a YAML file of configs/")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override a setting")
    options = parser.parse_args()
    print(f"Trained: {train(read_settings(Stage1, options.recipe, options.set))}")


if __name__ == "__main__":
    main()
