"""Stage 2: explanations. Stage 1 stays frozen; the bridge, Q-Former 2's own layers, the projection and the
LLM's LoRA learn to say what the picture shows.

    python -m train.stage2 configs/nano/stage2.yaml
    python -m train.stage2 configs/nano/finetune_answers.yaml --set instructions=built output=runs/told
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from instruct_data.settings import read_settings
from mint_iqa.assessor import Assessor, find_checkpoint
from mint_iqa.configuration import MintIQAConfig
from mint_iqa.errors import MintIQAError
from mint_iqa.language import LanguageModel
from mint_iqa.modeling import MintIQAModel
from mint_iqa.processing import MintIQAProcessor
from mint_iqa.records import ModelInfo
from mint_iqa.vocabulary import FAULT_WORDS, FaultName
from train import pictures
from train.instructions import Found, Instructions, detected, draw_instructions
from train.plan import CLEAN_FROM, Sources, read_sources, split
from train.settings import Optimisation, Stage1
from train.stage1 import STAGE2_PARTS, StopAfter, arguments
from train.told import examples_of, read_samples, tell_loss

GROUNDING_SCALE = 10.0  # of the cosines: at 1 six words could never be told apart with certainty
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Stage2(Optimisation):
    """Recipe of a stage-2 run."""

    output: str = "runs/stage2"
    stage1: str = "runs/stage1"  # a finished stage-1 run: its model and its split
    start: str | None = None  # in place of it: a model that explains already (nano, a folder), to go on from
    examples: int = 8000
    instructions: str | None = None  # in place of examples: samples of instruct_data, file or folder
    images: str | None = None  # folder of their pictures; their own if left out
    passes: float = 1.0  # over these samples
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_learning_rate: float = 5e-4
    lora_targets: list[str] = field(default_factory=lambda: list(LORA_TARGETS))
    grounding_weight: float = 0.5  # of `Explainer.grounding_loss` beside the answer's cross-entropy
    resume: bool = True


class Explainer(nn.Module):
    """Both halves under one roof, as the Trainer wants it."""

    def __init__(self, model: MintIQAModel, language: LanguageModel, grounding_weight: float) -> None:
        super().__init__()
        self.model, self.language, self.grounding_weight = model, language, grounding_weight
        self.accepts_loss_kwargs = False

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        soft = self._soft(inputs)
        return self.answer_loss(soft, inputs) + self.grounding_weight * self.grounding_loss(soft, inputs)

    def grounding_loss(self, soft: Tensor, inputs: dict[str, Any]) -> Tensor:
        """How far the mean soft token is from the words for its picture's fault, among those for every fault.

        The answers alone teach slowly what to read from soft tokens: one word in thirty names a fault. Where
        the LLM's own embeddings of the words lie, it finds them at once. 0 where no example shows a fault.
        """
        rows = [i for i, fault in enumerate(inputs["fault"]) if fault]
        if not rows:
            return soft.new_zeros(())
        names = list(FAULT_WORDS)
        words = torch.stack([self.language.embed(self._word_ids(name)).mean(dim=0) for name in names])
        words = normalize((words - words.mean(dim=0)).float(), dim=-1)
        seen = normalize(soft[rows].float().mean(dim=1), dim=-1)
        wanted = torch.tensor([names.index(inputs["fault"][i]) for i in rows], device=seen.device)
        return cross_entropy(GROUNDING_SCALE * seen @ words.T, wanted)

    def _word_ids(self, name: FaultName) -> list[int]:
        tokenize = self.language.tokenizer
        return [
            t for w in FAULT_WORDS[name] for t in tokenize(f" {w}", add_special_tokens=False)["input_ids"]
        ]

    def answer_loss(self, soft: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Mean cross-entropy over the answers' tokens (section 3.3)."""
        prefixes = [self.language.prefix(s, t) for s, t in zip(soft, inputs["tokens"], strict=True)]
        answers = inputs["answers"]
        rows = [torch.cat([p, self.language.embed(a[:-1])]) for p, a in zip(prefixes, answers, strict=True)]
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(r) for r in rows])
        mask = (torch.arange(embeds.shape[1]) < lengths.unsqueeze(1)).long()
        causal = self.language.model.get_base_model()
        hidden = causal.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        # Logits at the answer's positions alone: the vocabulary is what costs.
        wanted = torch.cat(
            [hidden[i, len(p) - 1 : len(r)] for i, (p, r) in enumerate(zip(prefixes, rows, strict=True))]
        )
        return cross_entropy(causal.lm_head(wanted).float(), torch.tensor([t for a in answers for t in a]))

    def _soft(self, inputs: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            encoded = self.model.encode_image(inputs["pixel_values"])
            scored = self.model.score(encoded, inputs["prompt_ids"], inputs["prompt_mask"])
        soft = self.model.soft_prompt(
            encoded, scored.quality_vectors, inputs["question_ids"], inputs["question_mask"]
        )
        return soft * (~inputs["blind"]).to(soft).view(-1, 1, 1)


class Stage2Trainer(Trainer):
    """Saves and resumes what trains, and nothing else."""

    def __init__(self, recipe: Stage2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe = recipe

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, *_: Any, **__: Any) -> torch.optim.Optimizer:
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in trained if "lora_" in n], "lr": self.recipe.lora_learning_rate},
            {"params": [p for n, p in trained if "lora_" not in n], "lr": self.recipe.learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            return model(inputs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trainable_state(self.model), folder / "trained.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / "trained.safetensors")
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in state.items():
                parameters[name].copy_(tensor)


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


def prepare(model: MintIQAModel) -> None:
    """Stage 2 starts where stage 1 ended: Q-Former 2 is a copy of Q-Former 1, and its own layers train."""
    model.qformer2.load_state_dict(model.qformer1.state_dict())
    freeze_for_stage2(model)


def freeze_for_stage2(model: MintIQAModel) -> None:
    """Stage 2 trains the bridge, the projection and Q-Former 2 but for what it has from its part."""
    if model.vision2 is not None:
        raise ValueError("a second tower is not trained by this recipe")
    for name, parameter in model.named_parameters():
        own = name.startswith(STAGE2_PARTS) and not name.startswith(tuple(model.config.referenced))
        parameter.requires_grad_(own)


def with_lora(language: LanguageModel, recipe: Stage2) -> None:
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules=recipe.lora_targets,
        task_type="CAUSAL_LM",
    )
    language.model = get_peft_model(language.model, config)


def save_adapter(language: LanguageModel, folder: Path, config: MintIQAConfig) -> None:
    """The LoRA weights alone; their config names the part and not the folder that it lies in here."""
    language.model.half().save_pretrained(folder)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = config.parts.get("language") or config.language.get("source")
    path.write_text(json.dumps(settings, indent=2))
    (folder / "README.md").unlink(missing_ok=True)  # peft's unfilled model card, which names that folder too


@torch.inference_mode()
def find_faults(model: MintIQAModel, processor: MintIQAProcessor, sources: Sources, rows: list[int]) -> Found:
    """What stage 1 detects in the clean pictures of low quality among `rows`."""
    low = {i for i in rows if float(sources.human[i]["mos_quality"]) / 5 < CLEAN_FROM}
    chosen = [i for i, r in enumerate(sources.rows["agiqa3k"]) if r.variant == "clean" and r.source in low]
    inner = pictures.centre(processor.image_size)
    found: Found = {}
    for start in range(0, len(chosen), 32):
        part = chosen[start : start + 32]
        text = processor.text([sources.human[sources.rows["agiqa3k"][i].source]["prompt"] for i in part])
        pixels = processor.normalize(sources.pixels["agiqa3k"][part][:, inner, inner])
        with torch.autocast("cpu", torch.bfloat16):
            severities = model(pixels, text.ids, text.mask).faults.float().sigmoid()
        found |= {i: detected(s.tolist(), model.config.faults) for i, s in zip(part, severities, strict=True)}
    return found


def begin(recipe: Stage2) -> tuple[MintIQAModel, MintIQAProcessor, LanguageModel]:
    """Where the run starts: a finished stage 1 and a fresh stage 2, or a model with both (`start`)."""
    folder = find_checkpoint(recipe.start) if recipe.start else Path(recipe.stage1) / "model"
    model = MintIQAModel.from_pretrained(folder, dtype=torch.float32).eval()
    own = folder / "language"
    if recipe.start and (own / "config.json").is_file():
        raise MintIQAError("bad_config", f"{own} is a whole LLM: stage 2 goes on from a LoRA adapter only.")
    language = LanguageModel.load(model.config, None, dtype=torch.float32)
    if recipe.start and own.is_dir():
        freeze_for_stage2(model)
        language.model = PeftModel.from_pretrained(language.model, own, is_trainable=True)
    else:
        prepare(model)
        with_lora(language, recipe)
    return model, MintIQAProcessor.from_config(model.config, folder), language


def drawn(
    recipe: Stage2, model: MintIQAModel, processor: MintIQAProcessor, language: LanguageModel
) -> Instructions:
    """Examples of AGIQA-3K's and Flickr8k's pictures with known faults, of stage 1's training side."""
    sources = read_sources()
    scores_recipe = Stage1(**json.loads((Path(recipe.stage1) / "recipe.json").read_text()))
    rows = split(sources.human, scores_recipe).train.tolist()
    photographs = range(len(sources.photographs) - scores_recipe.held_out_photographs)
    found = find_faults(model, processor, sources, rows)
    examples = draw_instructions(sources, rows, photographs, found, recipe.examples, recipe.seed)
    return Instructions(examples, sources, processor, language)


def train(recipe: Stage2) -> Path:
    """Run the recipe; the folder of the whole model, both stages."""
    set_seed(recipe.seed)
    told = None if recipe.instructions is None else read_samples(recipe.instructions, recipe.images)
    model, processor, language = begin(recipe)
    explainer = Explainer(model, language, recipe.grounding_weight)
    measured = None
    if told is None:
        data = drawn(recipe, model, processor, language)
    else:
        scorer = Assessor(model, processor, ModelInfo(name="", revision=""))
        data, measured = examples_of(told, scorer, language, recipe.passes, recipe.seed)
        tell_loss("before", explainer, measured, recipe.batch_size)
    trainer = Stage2Trainer(
        recipe,
        model=explainer,
        args=arguments(recipe, recipe.output),
        train_dataset=data,
        data_collator=data.collate,
    )
    if recipe.stop_after:
        trainer.add_callback(StopAfter(recipe.stop_after))
    # Dropout would only blur the few numbers that a small adapter learns; nothing here is in training mode.
    checkpoint = (
        get_last_checkpoint(recipe.output) if recipe.resume and os.path.isdir(recipe.output) else None
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if measured is not None:
        tell_loss("after", explainer, measured, recipe.batch_size)
    folder = Path(recipe.output) / "model"
    model.half().save_pretrained(folder, max_shard_size="90MB")
    if "text" not in model.config.parts:
        processor.tokenizer.save_pretrained(folder)
    save_adapter(language, folder / "language", model.config)
    (Path(recipe.output) / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="a YAML file of configs/")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="override a setting")
    options = parser.parse_args()
    try:
        print(f"Trained: {train(read_settings(Stage2, options.recipe, options.set))}")
    except MintIQAError as error:
        print(error.message, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
