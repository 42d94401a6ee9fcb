"""Stage 1: the three scores (and named faults), from captions, human scores and known faults.

    python -m train.stage1 configs/nano/pretrain.yaml
    python -m train.stage1 configs/nano/stage1.yaml --set test_fold=1 output=runs/fold1
    torchrun --nproc_per_node 2 -m train.stage1 configs/nano/stage1.yaml
    deepspeed --num_gpus 2 --module train.stage1 configs/nano/stage1.yaml \\
        --deepspeed configs/deepspeed/zero2.json

A run that was cut off goes on with --resume and ends with the weights that it would have had.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import set_seed

from mint_iqa.assessor import find_checkpoint
from mint_iqa.configuration import MintIQAConfig
from mint_iqa.modeling import EncodedImage, MintIQAModel, ScoreOutput
from mint_iqa.pretrained import cache_root, initialise, written_whole
from mint_iqa.processing import MintIQAProcessor
from mint_iqa.reading import read_bytes
from train import pictures
from train.plan import Looks, draw
from train.precision import autocast
from train.rated import Ratings, write_rated
from train.resume import begin, bind, rank, writing
from train.run import PlanTrainer, command, device, run_to_end
from train.settings import Stage1
from train.sources import learned_of, sources_of, split_rated
from train.trainable import STAGE2_PARTS, Learner, declare, restore
from train.whole_batch import processes, whole_batch


def load_model(source: str) -> tuple[MintIQAModel, MintIQAProcessor]:
    """A preset, a checkpoint's folder or hub id, or a config file whose parts are the start."""
    if Path(source).suffix == ".json":
        model = MintIQAModel(MintIQAConfig(**json.loads(read_bytes(Path(source)))))
        initialise(model)
        return model, MintIQAProcessor.from_config(model.config, Path(source))
    folder = find_checkpoint(source)
    model = MintIQAModel.from_pretrained(folder, dtype=torch.float32)
    return model, MintIQAProcessor.from_config(model.config, folder)


def _depth(name: str) -> int:
    """Number of the tower block that a parameter belongs to; -1 outside the blocks."""
    parts = name.split(".")
    where = next((i for i, part in enumerate(parts) if part in ("layer", "layers")), None)
    return -1 if where is None else int(parts[where + 1])


def parameter_groups(model: MintIQAModel, recipe: Stage1) -> list[dict[str, Any]]:
    """AdamW groups: the tower's learning rate falls from block to block; vectors are not decayed."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    last = len(model.vision.blocks()) - 1
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = recipe.learning_rate if name.startswith("qformer") else recipe.head_learning_rate
            if name.startswith("vision.backbone."):
                rate = recipe.tower_learning_rate * recipe.layer_decay ** (last - _depth(name))
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


class Scorer(Learner):
    """Stage 1 as the Trainer drives it: a batch of looks -> the parts of its loss."""

    def __init__(self, model: MintIQAModel, recipe: Stage1, captions: Tensor | None = None) -> None:
        """captions: `caption_bank`, for the contrastive loss."""
        super().__init__()
        self.model, self.recipe, self.captions = model, recipe, captions
        self.sentences: dict[tuple[int, ...], Tensor] = {}

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        # Here and not around it: engines that wrap a module switch an outer autocast off.
        with autocast(inputs["pixel_values"].device.type, self.recipe.bf16):
            encoded = self.model.encode_image(inputs["pixel_values"])
            first = self._score(encoded, inputs["prompt_ids"], inputs["prompt_mask"])
            second = self._score(encoded, inputs["second_ids"], inputs["second_mask"])
            parts = self.losses(inputs, first, second)
            captions = whole_batch(inputs["captions"])
            if self.captions is not None and (captions >= 0).any():
                contrast = self.contrast(self.model.alignment.encode_image(encoded.image_embeds), captions)
                parts["contrast"] = self.recipe.contrastive_weight * contrast
        return parts

    def _score(self, encoded: EncodedImage, ids: Tensor, mask: Tensor) -> ScoreOutput:
        """`model.score`, with the frozen sentence vectors remembered: prompts come again every epoch."""
        if self.model.alignment is None or processes() > 1:  # sharing weights, all must call the same modules
            return self.model.score(encoded, ids, mask)
        keys = [tuple(row[:n]) for row, n in zip(ids.tolist(), mask.sum(dim=1).tolist(), strict=True)]
        for i, key in enumerate(keys):
            if key not in self.sentences:
                # One by one: in a batch its last bits are its neighbours', and a resumed run has others.
                part = slice(i, i + 1), slice(len(key))
                self.sentences[key] = self.model.alignment.encode_text(ids[part], mask[part])[0]
        return self.model.score(encoded, ids, mask, torch.stack([self.sentences[key] for key in keys]))

    def losses(self, inputs: dict[str, Tensor], first: ScoreOutput, second: ScoreOutput) -> dict[str, Tensor]:
        keys = ("targets", "second_correspondence", "human")
        targets, mismatch, human = (whole_batch(inputs[key]) for key in keys)
        scores, second_scores = (whole_batch(output.scores.float()) for output in (first, second))
        wrong = torch.cat([targets[:, :2], mismatch.unsqueeze(1)], dim=1)
        losses = {"first": masked_l1(scores, targets), "second": masked_l1(second_scores, wrong)}
        if first.faults is not None and second.faults is not None:
            severities = whole_batch(inputs["faults"])
            both = [severity_loss(whole_batch(o.faults.float()), severities) for o in (first, second)]
            losses["faults"] = self.recipe.fault_weight * (both[0] + both[1])
        # Right against wrong prompt of one picture: by half of what tells a matching picture from another.
        gap = scores[:, 2] - second_scores[:, 2]
        wanted = 0.5 * (targets[:, 2] - mismatch)
        losses["pair"] = self.recipe.rank_weight * (wanted - gap).clamp(min=0).nan_to_num().mean()
        if human.sum() > 1:
            ranked = sum(rank_loss(scores[human, k], targets[human, k]) for k in (0, 2))
            losses["rank"] = self.recipe.rank_weight * ranked
        return losses

    def contrast(self, image_vectors: Tensor, rows: Tensor) -> Tensor:
        """Each photograph against one caption of every photograph (its own caption in the right place).

        image_vectors float[b, Dt] of this process; rows int[B] of the whole batch, -1 for no photograph.
        """
        self.captions = self.captions.to(rows.device)
        used = rows >= 0
        image = whole_batch(image_vectors)[used]
        photographs = rows[used] // 5
        everyone = torch.arange(len(self.captions), device=rows.device)
        bank = self.captions[everyone, rows[used][0] % 5].clone()
        bank[photographs] = self.captions[photographs, rows[used] % 5]
        alignment = self.model.alignment
        logits = alignment.logit_scale.exp().clamp(max=100) * image @ alignment.place(bank).T
        return cross_entropy(logits, photographs)


@torch.no_grad()
def caption_bank(
    model: MintIQAModel, processor: MintIQAProcessor, photographs: Sequence[dict[str, Any]]
) -> Tensor:
    """float[N, 5, Dt]: the frozen sentence vectors of each photograph's five captions; computed once."""
    texts = [(p["captions"] * 5)[:5] for p in photographs]
    made_of = hashlib.sha256(json.dumps(texts).encode())
    for weight in model.alignment.text_encoder.state_dict().values():
        made_of.update(weight.cpu().contiguous().numpy().tobytes())
    path = cache_root() / "pictures" / f"captions-{made_of.hexdigest()[:16]}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        flat = sorted({t for five in texts for t in five}, key=len)
        vectors: dict[str, Tensor] = {}
        for start in range(0, len(flat), 256):
            batch = flat[start : start + 256]
            text = processor.text(batch)
            ids, mask = text.ids.to(model.device), text.mask.to(model.device)
            with autocast(model.device.type):
                vectors |= dict(zip(batch, model.alignment.encode_text(ids, mask).cpu(), strict=True))
        bank = torch.stack([torch.stack([vectors[t] for t in five]) for five in texts])
        # Under its name only when it is whole, whatever kills the process.
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        with writing(path):
            save_file({"captions": bank}, temporary)
            temporary.replace(path)
    return load_file(path)["captions"]


def data_of(recipe: Stage1, model: MintIQAModel, processor: MintIQAProcessor) -> tuple[Looks, Tensor | None]:
    """What the run looks at, in order, and the caption bank where photographs are among it."""
    sources = sources_of(recipe, processor.image_size, processor.max_aspect)
    if sources.ratings:
        keep_ratings(recipe, sources.ratings)
    captions = None
    if recipe.photograph_epochs:
        learned = learned_of(sources.photographs, recipe.held_out_photographs)
        captions = caption_bank(model, processor, sources.photographs)[:learned]
    return Looks(draw(sources, recipe), sources, processor), captions


def keep_ratings(recipe: Stage1, ratings: Ratings) -> None:
    """Write beside the weights what the run learns from, and the pictures that it keeps apart (test.csv).

    MintIQAError where a run goes on with other ratings than it began with.
    """
    output = Path(recipe.output)
    bind(output, "ratings", ratings.digest())
    if rank() == 0:
        print("\n".join(ratings.notes), file=sys.stderr)
        with writing(output):
            write_rated(output / "test.csv", ratings, split_rated(ratings, recipe).test)


def scorer_of(recipe: Stage1) -> tuple[Scorer, MintIQAProcessor]:
    """The start of the run: the same weights whenever it is called, and what the recipe names trains."""
    set_seed(recipe.seed)
    model, processor = load_model(recipe.model)
    scorer = Scorer(model, recipe)
    declare(scorer, recipe.trains, model.config.referenced, foreign=STAGE2_PARTS)
    return scorer, processor


def save_model(model: MintIQAModel, processor: MintIQAProcessor, folder: Path) -> None:
    """In float16, with the tokenizer where no part brings it."""
    model.half().save_pretrained(folder, max_shard_size="90MB")
    if "text" not in model.config.parts:
        processor.tokenizer.save_pretrained(folder)


def train(recipe: Stage1, resume: bool = False, deepspeed: Path | None = None) -> Path:
    """Run the recipe; the trained model's folder."""
    checkpoint = begin(recipe, resume)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    scorer, processor = scorer_of(recipe)
    data, scorer.captions = data_of(recipe, scorer.model.to(device()), processor)
    groups = parameter_groups(scorer.model, recipe)
    trainer = PlanTrainer(recipe, scorer, groups, data, data.collate, deepspeed)
    learnt = run_to_end(trainer, checkpoint)
    folder = Path(recipe.output) / "model"
    if rank() == 0:
        finished, processor = scorer_of(recipe)  # what didn't train is again that of the start, to the bit
        restore(finished, learnt)
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder), written_whole(folder) as temporary:
            finished.model.config.language["taught"] = False
            finished.model.config.processor["fitted_size"] = pictures.stored_side(processor.image_size)
            save_model(finished.model, processor, temporary)
    return folder


if __name__ == "__main__":
    sys.exit(command(Stage1, train, __doc__))
