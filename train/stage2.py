"""Stage 2: explanations. Stage 1 stays frozen; the bridge, Q-Former 2, the projection and the LLM's LoRA
learn to say what the picture shows.

    python -m train.stage2 configs/nano/explain.yaml
    python -m train.stage2 configs/nano/finetune_answers.yaml --set instructions=built output=runs/told

Launchers, --set and --resume as for train.stage1.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import set_seed

from mint_iqa.assessor import Assessor
from mint_iqa.checkpoints.finding import find_checkpoint
from mint_iqa.errors import MintIQAError
from mint_iqa.files import written_whole
from mint_iqa.language.llm import LanguageModel
from mint_iqa.language.loading import keep_gradients, placement
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.model.references import named_llm
from mint_iqa.records import ModelInfo
from mint_iqa.vocabulary import FAULT_WORDS
from train.data import pictures
from train.data.looks import CLEAN_FROM
from train.data.questions import Found, InstructionSet, StoredInstructions, detected, draw_instructions
from train.data.samples import FileInstructions, Samples, examples_of, read_samples
from train.data.sets import learned_of, split
from train.data.sources import Sources, read_sources
from train.engine.checkpoints import FIGURE, begin, bind, held_out, rank, save_model, writing
from train.engine.commands import command
from train.engine.distributed import whole_batch
from train.engine.parameters import STAGE1_PARTS, Learner, declare
from train.engine.precision import autocast
from train.engine.recipes import Stage2
from train.engine.trainer import PlanTrainer, device, run_to_end

GROUNDING_SCALE = 10.0  # of the cosines: at 1 six words could never be told apart with certainty


class Explainer(Learner):
    """Model and LLM as one module for the Trainer: instructions -> the parts of their loss."""

    def __init__(self, model: MintIQAModel, language: LanguageModel, recipe: Stage2) -> None:
        super().__init__()
        self.model, self.language, self.recipe = model, language, recipe

    def forward(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        # Here and not around it: engines that wrap a module switch an outer autocast off.
        with autocast(inputs["pixel_values"].device.type, self.recipe.bf16):
            soft = self.soft_tokens(inputs)
            grounding = self.recipe.grounding_weight * self.grounding_loss(soft, inputs)
            return {"answer": self.answer_loss(soft, inputs), "grounding": grounding}

    def grounding_loss(self, soft: Tensor, inputs: dict[str, Any]) -> Tensor:
        """How far the mean soft token is from the words for its picture's fault, among those for every fault.

        The answers alone teach slowly what to read from soft tokens: one word in thirty names a fault. Where
        the LLM's own embeddings of the words lie, it finds them at once. 0 where no example shows a fault.
        """
        names = list(FAULT_WORDS)
        ids = [[t for word in FAULT_WORDS[name] for t in self.language.word_ids(word)] for name in names]
        words = torch.stack([self.language.embed(own).mean(dim=0) for own in ids])
        words = normalize((words - words.mean(dim=0)).float(), dim=-1)
        seen = normalize(soft.float().mean(dim=1), dim=-1)
        # -100: no fault to show.
        numbers = [names.index(fault) if fault else -100 for fault in inputs["fault"]]
        wanted = torch.tensor(numbers, device=seen.device)
        each = whole_batch(cross_entropy(GROUNDING_SCALE * seen @ words.T, wanted, reduction="none"))
        return each.sum() / (whole_batch(wanted) >= 0).sum().clamp(min=1)

    def answer_loss(self, soft: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Mean cross-entropy over the answers' tokens (section 3.3)."""
        prefixes = [self.language.prefix(s, t) for s, t in zip(soft, inputs["tokens"], strict=True)]
        answers = inputs["answers"]
        rows = [torch.cat([p, self.language.embed(a[:-1])]) for p, a in zip(prefixes, answers, strict=True)]
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(r) for r in rows], device=embeds.device)
        mask = (torch.arange(embeds.shape[1], device=embeds.device) < lengths.unsqueeze(1)).long()
        causal = self._causal()
        hidden = causal.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
        # Logits at the answer's positions only: the vocabulary is what costs.
        wanted = torch.cat(
            [hidden[i, len(p) - 1 : len(r)] for i, (p, r) in enumerate(zip(prefixes, rows, strict=True))]
        )
        tokens = torch.tensor([t for a in answers for t in a], device=embeds.device)
        each = cross_entropy(causal.lm_head(wanted).float(), tokens, reduction="none")
        counts = torch.tensor([len(a) for a in answers], device=embeds.device)
        sums = torch.stack([part.sum() for part in each.split(counts.tolist())])
        return whole_batch(sums).sum() / whole_batch(counts).sum()

    def _causal(self) -> Any:
        """The LLM without the adapter's wrapping."""
        model = self.language.model
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def soft_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """float[B, Q2, Dl]: soft tokens of each picture; zeros where the LLM must answer without them."""
        encoded = self.model.encode_image(inputs["pixel_values"])
        scored = self.model.score(encoded, inputs["prompt_ids"], inputs["prompt_mask"])
        soft = self.model.soft_prompt(
            encoded, scored.quality_vectors, inputs["question_ids"], inputs["question_mask"]
        )
        return soft * (~inputs["blind"]).to(soft).view(-1, 1, 1)


def language_to_teach(config: MintIQAConfig, recipe: Stage2) -> LanguageModel:
    """The LLM that the recipe names, or else the config, frozen, with the recipe's LoRA.

    MintIQAError if its width differs from that of the model's soft tokens.
    """
    wanted = recipe.language
    settings = {"dtype": getattr(torch, wanted.dtype)}
    settings |= placement(wanted.quantization, None, device(), torch.bfloat16)
    language = LanguageModel.load(named_llm(config), None, config.language["hidden_size"], **settings)
    keep_gradients(language.model)
    if (adapter := adapter_of(recipe)) is not None:
        language.model = PeftModel.from_pretrained(language.model, adapter, is_trainable=True)
    elif recipe.lora.rank:
        language.add_lora(recipe.lora.rank, recipe.lora.alpha, recipe.lora.targets or None)
    if wanted.gradient_checkpointing:
        language.model.gradient_checkpointing_enable({"use_reentrant": False})
    return language


def folder_of(recipe: Stage2) -> Path:
    """The model that the run starts from: a finished stage 1, or one with both stages (`start`)."""
    return find_checkpoint(recipe.start) if recipe.start else Path(recipe.stage1) / "model"


def adapter_of(recipe: Stage2) -> Path | None:
    """The LoRA adapter of a `start`. MintIQAError if it has a whole LLM instead."""
    own = folder_of(recipe) / "language"
    if not recipe.start or not own.is_dir():
        return None
    if (own / "config.json").is_file():
        raise MintIQAError("bad_config", f"{own} is a whole LLM: stage 2 continues from a LoRA adapter only.")
    return own


def save_adapter(
    language: LanguageModel, learned: dict[str, Tensor], folder: Path, config: MintIQAConfig
) -> None:
    """The LoRA weights alone; their config names the part and not the folder that it lies in here."""
    inner = "language.model."
    state = {name.removeprefix(inner): t.half() for name, t in learned.items() if name.startswith(inner)}
    language.model.save_pretrained(folder, state_dict=state)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = config.parts.get("language") or config.language.get("source")
    path.write_text(json.dumps(settings, indent=2))
    (folder / "README.md").unlink(missing_ok=True)  # peft's unfilled model card, which names that folder too


@torch.inference_mode()
def find_faults(model: MintIQAModel, processor: MintIQAProcessor, sources: Sources, rows: list[int]) -> Found:
    """What stage 1 detects in the clean pictures of low quality among `rows`; none without a fault head."""
    if not model.config.faults:
        return {}
    low = {i for i in rows if float(sources.human[i]["mos_quality"]) / 5 < CLEAN_FROM}
    chosen = [i for i, r in enumerate(sources.rows["agiqa3k"]) if r.variant == "clean" and r.source in low]
    inner = pictures.center(processor.image_size)
    found: Found = {}
    for start in range(0, len(chosen), 32):
        part = chosen[start : start + 32]
        text = processor.tokenize([sources.human[sources.rows["agiqa3k"][i].source]["prompt"] for i in part])
        pixels = processor.normalize(sources.pixels["agiqa3k"][part][:, inner, inner])
        inputs = [tensor.to(model.device) for tensor in (pixels, text.ids, text.mask)]
        with autocast(model.device.type):
            severities = model(*inputs).faults.float().sigmoid()
        found |= {i: detected(s.tolist(), model.config.faults) for i, s in zip(part, severities, strict=True)}
    return found


def data_of(
    recipe: Stage2, samples: Samples | None, explainer: Explainer, processor: MintIQAProcessor
) -> tuple[InstructionSet, FileInstructions | None]:
    """Training examples in order, and validation examples. samples: the recipe's own data."""
    explainer.model.eval()
    if samples is None:
        return drawn(recipe, explainer, processor), None
    scorer = Assessor(explainer.model, processor, ModelInfo(name="", revision=""))
    return examples_of(samples, scorer, explainer.language, recipe.passes, recipe.seed)


def drawn(recipe: Stage2, explainer: Explainer, processor: MintIQAProcessor) -> StoredInstructions:
    """Pictures of stage 1's own training split, with true answers."""
    sources = read_sources(processor.image_size)
    first = held_out(Path(recipe.stage1))
    rows = split(sources.human, first).train.tolist()
    photographs = range(learned_of(sources.photographs, first.held_out_photographs))
    found = find_faults(explainer.model, processor, sources, rows)
    examples = draw_instructions(sources, rows, photographs, found, recipe.examples, recipe.seed)
    return StoredInstructions(examples, sources, processor, explainer.language)


def start_of(recipe: Stage2) -> tuple[MintIQAModel, MintIQAProcessor]:
    """What stage 1 left, with Q-Former 2 as a copy of Q-Former 1 where the recipe says so, or `start`."""
    folder = folder_of(recipe)
    set_seed(recipe.seed)
    model = MintIQAModel.from_pretrained(folder, dtype=torch.float32)
    if recipe.copy_qformer and not recipe.start:
        model.qformer2.load_state_dict(model.qformer1.state_dict())
    if recipe.language.source:
        model.config.language["source"] = recipe.language.source
    return model, MintIQAProcessor.from_config(model.config, folder)


def explainer_of(recipe: Stage2, model: MintIQAModel) -> Explainer:
    """The model with its LLM, and what the recipe names trains."""
    explainer = Explainer(model, language_to_teach(model.config, recipe), recipe)
    declare(explainer, recipe.trains, model.config.is_referenced, foreign=STAGE1_PARTS)
    return explainer


def parameter_groups(explainer: Explainer, recipe: Stage2) -> list[dict[str, Any]]:
    """AdamW's: LoRA has a learning rate of its own."""
    trained = {n: p for n, p in explainer.parameters_by_name().items() if p.requires_grad}
    lora = {n: p for n, p in trained.items() if "lora_" in n}
    rates = (
        (list(lora.values()), recipe.lora.learning_rate),
        ([p for n, p in trained.items() if n not in lora], recipe.learning_rate),
    )
    return [{"params": p, "lr": rate, "weight_decay": recipe.weight_decay} for p, rate in rates if p]


def train(recipe: Stage2, resume: bool = False, deepspeed: Path | None = None) -> Path:
    """Run the recipe; the folder of the whole model, both stages."""
    # First: a broken line is found in a second, and loading the models takes ten.
    samples = read_samples(recipe.instructions, recipe.images) if recipe.instructions else None
    checkpoint = begin(recipe, resume)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if samples is not None:
        bind(Path(recipe.output), "instructions", samples.digest())
    model, processor = start_of(recipe)
    explainer = explainer_of(recipe, model.to(device()))
    data, measured = data_of(recipe, samples, explainer, processor)
    if measured is not None:
        print_validation_loss("before", explainer, measured, recipe.batch_size)
    groups = parameter_groups(explainer, recipe)
    trainer = PlanTrainer(recipe, explainer, groups, data, data.collate, deepspeed)
    learned = run_to_end(trainer, checkpoint)
    if measured is not None:
        print_validation_loss("after", explainer, measured, recipe.batch_size)
    folder = Path(recipe.output) / "model"
    if rank() == 0:
        print(f"{FIGURE}{trainer.last_loss()}", flush=True)
        finish(recipe, explainer.language, learned, folder)
    return folder


def finish(recipe: Stage2, language: LanguageModel, learned: dict[str, Tensor], folder: Path) -> None:
    """Write the model: what stage 1 left, to the bit, and what was learned beside it."""
    model, processor = start_of(recipe)
    own = model.state_dict()
    for name in learned.keys() & own.keys():
        own[name].copy_(learned[name])
    model.config.language.pop("taught", None)
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder), written_whole(folder) as temporary:
        save_model(model, processor, temporary)
        if recipe.lora.rank or adapter_of(recipe):
            save_adapter(language, learned, temporary / "language", model.config)


@torch.inference_mode()
def print_validation_loss(
    when: str, explainer: Explainer, data: FileInstructions, batch_size: int
) -> float | None:
    """Print and return the mean cross-entropy of the answers' tokens, in nats; None without an example."""
    if not len(data):
        return None
    explainer.eval()
    total, tokens = 0.0, 0
    for start in range(0, len(data), batch_size):
        given = data.collate(data.examples[start : start + batch_size])
        batch = {k: v.to(explainer.model.device) if torch.is_tensor(v) else v for k, v in given.items()}
        count = sum(map(len, batch["answers"]))
        total += count * float(explainer.answer_loss(explainer.soft_tokens(batch), batch))
        tokens += count
    print(f"Loss on {len(data)} validation samples {when}: {total / tokens:.3f}", flush=True)
    return total / tokens


if __name__ == "__main__":
    sys.exit(command(Stage2, train, __doc__))
