"""MintIQAModel: image and prompt -> three scores; image and question -> soft tokens for an LLM.

Axes: B batch, P patches, S statistics, Q queries, T prompt tokens, I instruction tokens, K dimensions,
F faults, Dv image_embeds, Dq Q-Former, Dl LLM. Section numbers are those of MINT-IQA (arXiv 2405.07346).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mint_iqa.checkpoints import checks
from mint_iqa.errors import MintIQAError
from mint_iqa.language.llm import MAX_NEW_TOKENS, LanguageModel
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.examiner import Examination, Examiner, Reading
from mint_iqa.model.heads import Alignment, FaultHead, ScoreHead, Shortcut
from mint_iqa.model.qformer import QFormer
from mint_iqa.model.references import LanguageOnDemand, fill_referenced
from mint_iqa.model.vision import PIXEL_STATISTICS, VisionBranch, VisionTower
from mint_iqa.quiet import quiet_transformers
from mint_iqa.vocabulary import FAULTS

FAMILIAR_AXES = 32


@dataclass
class EncodedImage:
    """One picture, encoded once; every prompt, question and chat turn reuses it.

    Both embeds float[B, P, Dv], of stage 1 and of stage 2: the same tensor when the stages share all blocks.
    explain_embeds has P = 0 where only scores were wanted.
    statistics: float[B, S], see `VisionTower.forward`.
    """

    image_embeds: Tensor
    explain_embeds: Tensor
    statistics: Tensor

    @staticmethod
    def together(parts: "Sequence[EncodedImage]") -> "EncodedImage":
        """One batch of several, for scores alone."""
        image_embeds = torch.cat([part.image_embeds for part in parts])
        return EncodedImage(image_embeds, image_embeds[:, :0], torch.cat([part.statistics for part in parts]))

    def one(self, i: int) -> "EncodedImage":
        """Picture `i` alone."""
        part = slice(i, i + 1)
        return EncodedImage(self.image_embeds[part], self.explain_embeds[part], self.statistics[part])


@dataclass
class ScoreOutput:
    """Stage 1: scores float[B, K] around 0..1, faults float[B, F] logits, quality_vectors float[B, Q, Dq].

    similarity: cosine of image and prompt, float[B]; None without an alignment encoder.
    """

    scores: Tensor
    faults: Tensor | None
    quality_vectors: Tensor
    similarity: Tensor | None


@dataclass
class AnswerOutput:
    """Stage 2: loss, a scalar (mean cross-entropy over the labeled tokens of the batch); soft_prompt
    float[B, Q, Dl], what the LLM saw; query_output float[B, Q, Dq], before the projection."""

    loss: Tensor
    soft_prompt: Tensor
    query_output: Tensor


class MintIQAModel(PreTrainedModel):  # type: ignore[misc]  # transformers is typed in part only
    """Scores (stage 1) and soft tokens for explanations (stage 2).

    The LLM itself is `language`, loaded only for a question and not a part of this module.
    `folder`: where this model was loaded from; None for a fresh one.
    """

    config_class = MintIQAConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    _no_split_modules: ClassVar[list[str]] = ["Dinov2Layer", "CLIPEncoderLayer", "InstructBlipEncoderLayer"]

    def __init__(self, config: MintIQAConfig) -> None:
        super().__init__(config)
        self.vision = VisionTower(config.vision)
        embeds_width = self.vision.readout.width
        depth = self.vision.backbone.config.num_hidden_layers
        self.vision2 = VisionBranch(config.vision) if self.vision.branch_at < depth else None
        self.qformer1 = QFormer(config, embeds_width)
        self.qformer2 = QFormer(config, embeds_width)
        width = self.qformer1.encoder.config.hidden_size
        statistics = PIXEL_STATISTICS + 3 * len(self.vision.taps) * self.vision.backbone.config.hidden_size
        hidden = width if config.shortcut_hidden is None else config.shortcut_hidden
        self.shortcut = Shortcut(statistics, width, hidden) if config.shortcut else None
        self.heads = nn.ModuleDict({name: ScoreHead(width, **config.heads) for name in config.dimensions})
        self.fault_head = FaultHead(width, len(config.faults)) if config.faults else None
        self.alignment = (
            Alignment(config.alignment, embeds_width, config.matching) if config.alignment else None
        )
        self.examiner = None
        if config.examiner is not None and config.alignment is not None:
            self.examiner = Examiner(config.examiner, config.alignment["hidden_size"], len(config.faults))
        self.bridge = nn.Conv1d(config.query_tokens, config.query_tokens, kernel_size=1)
        self.language_projection = nn.Linear(width, config.language["hidden_size"])
        # Whitened principal axes of the training pictures' mean image_embeds, scaled for `novelty`; see
        # train.release.measure_familiarity.
        self.register_buffer("familiar_mean", torch.zeros(embeds_width))
        self.register_buffer("familiar_axes", torch.zeros(embeds_width, FAMILIAR_AXES))
        self.folder: Path | None = None
        self.language = LanguageOnDemand(config, None, {})
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QFormer):
            nn.init.normal_(module.query_tokens, std=0.02)
        if module is self:
            # transformers skips modules without weights of their own, such as heads.
            self.renew_heads()
        if isinstance(module, Alignment) and module.prompt_map is not None:
            nn.init.zeros_(module.prompt_map.weight)
        if module is getattr(self, "bridge", None):
            # Zero: at the start stage 2 is exactly InstructBLIP (section 3.3).
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def renew_heads(self) -> None:
        """New random weights for what reads the quality vectors: shortcut, score heads, fault head."""
        heads = (m for m in self.modules() if isinstance(m, Shortcut | ScoreHead | FaultHead))
        for layer in (layer for head in heads for layer in head.layers if isinstance(layer, nn.Linear)):
            # With smaller weights, four layers in a row would hardly learn for hundreds of steps.
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def encode_image(self, pixel_values: Tensor, explain: bool = True) -> EncodedImage:
        """pixel_values float[B, 3, H, W] -> EncodedImage; `explain`: for stage 2 as well."""
        image_embeds, statistics, shared = self.vision(pixel_values)
        explain_embeds = image_embeds[:, :0]
        if explain:
            explain_embeds = image_embeds if self.vision2 is None else self.vision2(shared)
        return EncodedImage(image_embeds, explain_embeds, statistics)

    def score(
        self,
        encoded: EncodedImage,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        prompt_vectors: Tensor | None = None,
    ) -> ScoreOutput:
        """Stage 1. prompt_ids int[B, T], prompt_mask int[B, T] (1 = token). Scores are not clamped.

        prompt_vectors float[B, Dt]: what `alignment.encode_text` gave for the same prompts, if known already.
        """
        vectors = self.qformer1(encoded.image_embeds, prompt_ids, prompt_mask)
        image_vectors = None
        if self.alignment is not None:
            image_vectors = self.alignment.image_vector(encoded.image_embeds)
            if prompt_vectors is None:
                prompt_vectors = self.alignment.encode_text(prompt_ids, prompt_mask)
        return self.apply_heads(vectors, encoded.statistics, image_vectors, prompt_vectors)

    def apply_heads(
        self,
        query_output: Tensor,
        statistics: Tensor,
        image_vectors: Tensor | None,
        prompt_vectors: Tensor | None,
    ) -> ScoreOutput:
        """The heads, on what Q-Former 1 and the sentence space say: query_output float[B, Q, Dq], vectors
        float[B, Dt]. Linear in the queries, so their mean as float[B, 1, Dq] gives the same scores."""
        vectors = query_output if self.shortcut is None else self.shortcut(query_output, statistics)
        scores = {name: head(vectors) for name, head in self.heads.items()}
        similarity = None
        if self.alignment is not None and image_vectors is not None and prompt_vectors is not None:
            # The cosine alone: any layer that sees the prompt memorizes a few hundred prompts.
            similarity = (image_vectors * self.alignment.map_prompt(prompt_vectors)).sum(dim=-1)
            scores["correspondence"] = scores["correspondence"] + self.alignment.bonus(similarity)
        faults = self.fault_head(vectors) if self.fault_head is not None else None
        return ScoreOutput(torch.stack(list(scores.values()), dim=-1), faults, vectors, similarity)

    def examine(self, reading: Reading, prompt_ids: Tensor, prompt_mask: Tensor) -> Examination:
        """What the examiner says of pictures that it has read, each with its prompt; see `score` for
        those."""
        assert self.examiner is not None and self.alignment is not None
        return self.examiner.judge(reading, self.alignment.encode_text(prompt_ids, prompt_mask))

    def novelty(self, encoded: EncodedImage) -> Tensor:
        """How unlike the training pictures, float[B]: above 1 farther than 99.5 % of them; 0: unmeasured."""
        pooled = encoded.image_embeds.float().mean(dim=1)
        whitened = (pooled - self.familiar_mean.float()) @ self.familiar_axes.float()
        novelty: Tensor = whitened.square().mean(dim=-1)
        return novelty

    def soft_prompt(
        self,
        encoded: EncodedImage,
        quality_vectors: Tensor,
        instruction_ids: Tensor,
        instruction_mask: Tensor,
    ) -> Tensor:
        """Stage 2: float[B, Q, Dl], what the LLM sees of the picture for this question."""
        soft_prompt: Tensor = self.language_projection(
            self._query_output(encoded.explain_embeds, quality_vectors, instruction_ids, instruction_mask)
        )
        return soft_prompt

    def _query_output(self, explain_embeds: Tensor, vectors: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        query_output: Tensor = self.qformer2(explain_embeds, ids, mask, shift=self.bridge(vectors))
        return query_output

    def forward(self, pixel_values: Tensor, prompt_ids: Tensor, prompt_mask: Tensor) -> ScoreOutput:
        return self.score(self.encode_image(pixel_values, explain=False), prompt_ids, prompt_mask)

    def forward_scores(self, pixel_values: Tensor, prompt_ids: Tensor, prompt_mask: Tensor) -> ScoreOutput:
        """Stage 1 in one call: pixel_values float[B, 3, H, W], prompt_ids and prompt_mask as in `score`."""
        output: ScoreOutput = self(pixel_values, prompt_ids, prompt_mask)
        return output

    def forward_answer(
        self,
        pixel_values: Tensor,
        quality_vectors: Tensor,
        instruction_ids: Tensor,
        instruction_mask: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
    ) -> AnswerOutput:
        """Stage 2 in one call, with teacher forcing (section 3.3).

        quality_vectors float[B, Q, Dq] of `forward_scores`; instruction_ids, instruction_mask int[B, I]: the
        question in the Q-Former's tokens. input_ids, attention_mask, labels int[B, L] in the LLM's: per item
        BOS, question, answer, EOS, then padding; labels are -100 outside the answer.
        """
        query_output = self._answer_queries(pixel_values, quality_vectors, instruction_ids, instruction_mask)
        soft_prompt = self.language_projection(query_output)
        loss = self.language_model().loss(soft_prompt, input_ids, attention_mask, labels)
        return AnswerOutput(loss, soft_prompt, query_output)

    @torch.inference_mode()
    def generate_answer(
        self,
        pixel_values: Tensor,
        quality_vectors: Tensor,
        instruction_ids: Tensor,
        instruction_mask: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int = MAX_NEW_TOKENS,
        ignore_eos: bool = False,
    ) -> Tensor:
        """Greedy answers: the new tokens alone, int[B, N], as `LanguageModel.generate` gives them.

        As `forward_answer`, with input_ids, attention_mask int[B, L] of BOS and question, however padded.
        """
        query_output = self._answer_queries(pixel_values, quality_vectors, instruction_ids, instruction_mask)
        soft_prompt = self.language_projection(query_output)
        language = self.language_model()
        return language.generate(soft_prompt, input_ids, attention_mask, max_new_tokens, ignore_eos)

    def _answer_queries(self, pixel_values: Tensor, vectors: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """query_output float[B, Q, Dq] without stage 1's own blocks, which an answer doesn't need."""
        if self.vision2 is None:
            explain_embeds, *_ = self.vision(pixel_values)
        else:
            explain_embeds = self.vision2(self.vision.shared(pixel_values))
        return self._query_output(explain_embeds, vectors, ids, mask)

    def language_model(self) -> LanguageModel:
        """The LLM in this model's dtype, on its device unless its settings say otherwise; loaded once.

        MintIQAError when the checkpoint neither brings nor names one that can be read.
        """
        return self.language(self.dtype, self.device)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *args: Any,
        language_settings: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "MintIQAModel":
        """A saved folder, and the packaged parts it references.

        language_settings: what `loading.placement` gave: how the LLM is quantized, and where it goes.

        MintIQAError (`bad_checkpoint`) if config or weights are damaged, pickled, of another model or a later
        version, or if a weight is missing, unknown, of another shape or not finite.
        """
        folder = Path(path)
        config = _config_of(folder)
        settings = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below
        try:
            with quiet_transformers():
                model, info = super().from_pretrained(
                    folder, *args, config=config, use_safetensors=True, **settings
                )
        except Exception as error:  # damaged files reach every layer of transformers
            raise MintIQAError(
                "bad_checkpoint",
                f"{path} holds no readable config and weights: download or convert the checkpoint again.",
            ) from error
        _check_keys(path, config, info)
        fill_referenced(model.state_dict(), config)
        checks.check_finite(model, path)
        loaded: MintIQAModel = model
        loaded.folder = folder
        loaded.language = LanguageOnDemand(config, folder, language_settings or {})
        return loaded

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As transformers does, without the weights that come from packaged parts."""
        kept = {k: v for k, v in self.state_dict().items() if not self.config.is_referenced(k)}
        super().save_pretrained(*args, **{"state_dict": kept, **kwargs})


def _config_of(folder: Path) -> MintIQAConfig:
    """The config of a saved folder; MintIQAError unless it describes a model of its weights' size."""
    settings = checks.read_config(folder, MintIQAConfig.model_type)
    try:
        config: MintIQAConfig = MintIQAConfig.from_dict(settings)
        _check_config(config)
        with torch.device("meta"):
            model = MintIQAModel(config)
    except MintIQAError:
        raise
    except Exception as error:  # any value may be of any type, and each is used somewhere else
        reason = " ".join(str(error).split())
        raise MintIQAError(
            "bad_checkpoint",
            f"No model can be built from {folder / 'config.json'} ({reason:.100}): {checks.RENEW}.",
        ) from error
    checks.check_size(folder, model, config.is_referenced)
    return config


def _check_config(config: MintIQAConfig) -> None:
    """ValueError for what would fail only when it is used."""
    if unknown := [name for name in config.faults if name not in FAULTS]:
        raise ValueError(f"there is no fault {unknown[0]!r}")
    if not all(isinstance(name, str) for name in config.referenced):
        raise ValueError("referenced names are text")
    if not 0 <= config.heads["index"] < config.heads["outputs"]:
        raise ValueError("heads.index must be one of its outputs")


def _check_keys(path: str | Path, config: MintIQAConfig, info: dict[str, Any]) -> None:
    """MintIQAError unless the file held exactly what the config asks for and does not reference."""
    missing = (name for name in info["missing_keys"] if not config.is_referenced(name))
    reshaped = (name for name, *_ in info["mismatched_keys"])
    if found := checks.differences(missing, info["unexpected_keys"], reshaped):
        raise MintIQAError(
            "bad_checkpoint",
            f"The weights in {path} do not fit its config ({found}): download or convert them again.",
        )
