"""Stage 1: the three scores (and named faults), from captions, human scores and known faults.

    python -m train.stage1 configs/nano/pretrain.yaml
    python -m train.stage1 configs/nano/end_to_end.yaml --set test_fold=1 output=runs/fold1
    torchrun --nproc_per_node 2 -m train.stage1 configs/nano/end_to_end.yaml
    deepspeed --num_gpus 2 --module train.stage1 configs/nano/end_to_end.yaml \\
        --deepspeed configs/deepspeed/zero2.json

A run that was cut off continues with --resume and ends with the weights that it would have had.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import set_seed

from mint_iqa.files import written_whole
from mint_iqa.model.fresh import load_model
from mint_iqa.model.modeling import EncodedImage, MintIQAModel, ScoreOutput
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.vocabulary import CORRESPONDENCE
from train.data import pictures
from train.data.captions import caption_bank
from train.data.looks import Looks, draw_examples
from train.data.ratings import Ratings, write_rated
from train.data.sets import RATED_COLUMNS, learned_of
from train.data.sources import sources_of, split_rated
from train.engine.checkpoints import FIGURE, begin, bind, rank, save_model, writing
from train.engine.commands import command
from train.engine.distributed import processes, whole_batch
from train.engine.parameters import STAGE2_PARTS, Learner, alignment_of, declare, faults_in, restore
from train.engine.precision import autocast
from train.engine.recipes import Stage1
from train.engine.trainer import PlanTrainer, device, run_to_end
from train.heads.losses import masked_l1, rank_loss, severity_loss


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


class ScoreLearner(Learner):
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
                contrast = self.contrast(
                    alignment_of(self.model).image_vector(encoded.image_embeds), captions
                )
                parts["contrast"] = self.recipe.contrastive_weight * contrast
        return parts

    def _score(self, encoded: EncodedImage, ids: Tensor, mask: Tensor) -> ScoreOutput:
        """`model.score`, with the frozen sentence vectors remembered: prompts come again every epoch."""
        if (
            self.model.alignment is None or processes() > 1
        ):  # processes that share weights must all call the same modules
            return self.model.score(encoded, ids, mask)
        keys = [tuple(row[:n]) for row, n in zip(ids.tolist(), mask.sum(dim=1).tolist(), strict=True)]
        for i, key in enumerate(keys):
            if key not in self.sentences:
                # One by one: in a batch the last bits depend on the neighbors, and a resumed run has others.
                part = slice(i, i + 1), slice(len(key))
                self.sentences[key] = self.model.alignment.encode_text(ids[part], mask[part])[0]
        return self.model.score(encoded, ids, mask, torch.stack([self.sentences[key] for key in keys]))

    def losses(self, inputs: dict[str, Tensor], first: ScoreOutput, second: ScoreOutput) -> dict[str, Tensor]:
        keys = ("targets", "second_correspondence", "human")
        targets, mismatch, human = (whole_batch(inputs[key]) for key in keys)
        scores, second_scores = (whole_batch(output.scores.float()) for output in (first, second))
        wrong = targets.clone()
        wrong[:, CORRESPONDENCE] = mismatch
        losses = {"first": masked_l1(scores, targets), "second": masked_l1(second_scores, wrong)}
        if self.model.fault_head is not None:
            severities = whole_batch(inputs["faults"])
            both = [severity_loss(whole_batch(faults_in(o).float()), severities) for o in (first, second)]
            losses["faults"] = self.recipe.fault_weight * (both[0] + both[1])
        # Right against wrong prompt of one picture: by half of what tells a matching picture from another.
        gap = scores[:, CORRESPONDENCE] - second_scores[:, CORRESPONDENCE]
        wanted = 0.5 * (targets[:, CORRESPONDENCE] - mismatch)
        losses["pair"] = self.recipe.rank_weight * (wanted - gap).clamp(min=0).nan_to_num().mean()
        if human.sum() > 1:
            ranked = [rank_loss(scores[human, k], targets[human, k]) for k in RATED_COLUMNS]
            losses["rank"] = self.recipe.rank_weight * torch.stack(ranked).sum()
        return losses

    def contrast(self, image_vectors: Tensor, rows: Tensor) -> Tensor:
        """Each photograph against one caption of every photograph (its own caption in the right place).

        image_vectors float[b, Dt] of this process; rows int[B] of the whole batch, -1 for no photograph.
        """
        assert self.captions is not None  # otherwise there is nothing to contrast
        self.captions = self.captions.to(rows.device)
        used = rows >= 0
        image = whole_batch(image_vectors)[used]
        photographs = rows[used] // 5
        everyone = torch.arange(len(self.captions), device=rows.device)
        bank = self.captions[everyone, rows[used][0] % 5].clone()
        bank[photographs] = self.captions[photographs, rows[used] % 5]
        alignment = alignment_of(self.model)
        logits = alignment.logit_scale.exp().clamp(max=100) * image @ alignment.map_prompt(bank).T
        return cross_entropy(logits, photographs)


def data_of(recipe: Stage1, model: MintIQAModel, processor: MintIQAProcessor) -> tuple[Looks, Tensor | None]:
    """What the run looks at, in order, and the caption bank where photographs are among it."""
    sources = sources_of(recipe, processor.image_size, processor.max_aspect)
    if sources.ratings:
        keep_ratings(recipe, sources.ratings)
    captions = None
    if recipe.photograph_epochs:
        learned = learned_of(sources.photographs, recipe.held_out_photographs)
        captions = caption_bank(model, processor, sources.photographs)[:learned]
    return Looks(draw_examples(sources, recipe), sources, processor), captions


def keep_ratings(recipe: Stage1, ratings: Ratings) -> None:
    """Write beside the weights what the run learns from, and the pictures that it keeps apart (test.csv).

    MintIQAError where a run would continue with other ratings than it began with.
    """
    output = Path(recipe.output)
    bind(output, "ratings", ratings.digest())
    if rank() == 0:
        print("\n".join(ratings.notes), file=sys.stderr)
        with writing(output):
            write_rated(output / "test.csv", ratings, split_rated(ratings, recipe).test)


def learner_of(recipe: Stage1) -> tuple[ScoreLearner, MintIQAProcessor]:
    """The model at the start of the run, always with the same weights; what the recipe names trains."""
    set_seed(recipe.seed)
    model, processor = load_model(recipe.model)
    scorer = ScoreLearner(model, recipe)
    declare(scorer, recipe.trains, model.config.is_referenced, foreign=STAGE2_PARTS)
    return scorer, processor


def train(recipe: Stage1, resume: bool = False, deepspeed: Path | None = None) -> Path:
    """Run the recipe; the trained model's folder."""
    checkpoint = begin(recipe, resume)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    scorer, processor = learner_of(recipe)
    data, scorer.captions = data_of(recipe, scorer.model.to(device()), processor)
    groups = parameter_groups(scorer.model, recipe)
    trainer = PlanTrainer(recipe, scorer, groups, data, data.collate, deepspeed)
    learned = run_to_end(trainer, checkpoint)
    folder = Path(recipe.output) / "model"
    if rank() == 0:
        finished, processor = learner_of(recipe)  # untrained weights are again those of the start, to the bit
        restore(finished, learned)
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{FIGURE}{trainer.last_loss()}", flush=True)
        with writing(folder), written_whole(folder) as temporary:
            finished.model.config.language["taught"] = False
            finished.model.config.processor["fitted_size"] = pictures.stored_side(processor.image_size)
            save_model(finished.model, processor, temporary)
    return folder


if __name__ == "__main__":
    sys.exit(command(Stage1, train, __doc__))
