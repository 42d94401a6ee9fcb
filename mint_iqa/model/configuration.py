"""MintIQAConfig: every size and every source of a MINT-IQA model, in one JSON file."""

from fnmatch import fnmatchcase
from typing import Any

from transformers import PretrainedConfig

from mint_iqa.checkpoints.checks import VERSION
from mint_iqa.vocabulary import DIMENSIONS

PUBLISHED_VISION: dict[str, Any] = {
    "model_type": "instructblip_vision_model",
    "taps": [39],
    "branch_at": 22,
    "final_norm_eps": 1e-5,
}


class MintIQAConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is typed in part only
    """Configuration of `MintIQAModel`.

    vision: `model_type` (dinov2 | clip_vision_model | instructblip_vision_model), the Hugging Face config of
        that tower, and how the Q-Formers see it:
        `taps`: block counts (1-based, ascending) whose outputs become image_embeds; published: `[depth]`.
        `branch_at`: the first `branch_at` blocks serve both stages; stage 2 owns a second copy of the rest.
        At 0 nothing is shared, the patch embedding included; at the depth everything.
        `embeds_width`: Dv after fusing several taps (at `[depth]` ignored: Dv is then the tower's width).
        `final_norm_eps`: epsilon of the LayerNorm after the last block, where it differs from the blocks' own
        (published: 1e-5 after blocks of 1e-6).
    qformer: config of both Q-Formers (transformers' InstructBlipQFormerConfig) without `encoder_hidden_size`.
    query_tokens: Q.
    shortcut: whether statistics of the whole picture join the quality vectors (not in the published model).
    shortcut_hidden: its hidden units; None: as many as a quality vector has numbers.
    heads: `hidden`, `outputs` and `index` of each score head (published: 48, 3 and 1; MINT-IQA section 3.2).
    faults: names that the fault head detects; empty for a model without one.
    alignment: config of a frozen sentence encoder (BertConfig) whose space image and prompt share, or None.
    matching: whether prompts are mapped, and cosines weighed, as train.match learned it.
    examiner: sizes of the examiner that gives scores, intervals and faults instead of the heads, see
        `Examiner`; None for a model without one. It needs `alignment` for its prompts.
    language: `hidden_size` of the LLM; `source`: where `load_language` finds it; `taught`: false where
        stage 2 is still to come, so that what the LLM says has no basis yet.
    processor: `image_size`, `fitted_size`, `image_mean`, `image_std`, `max_aspect`, `max_prompt_tokens`
        (MintIQAProcessor).
    parts: names of the packaged parts (see `checkpoints.parts.PARTS`) that fill what a checkpoint references.
    referenced: shell patterns for the beginnings of names of weights that are filled from `parts` and not
        saved (`is_referenced`).
    checkpoint_version: of the form of this file; a reader refuses any but its own.
    """

    model_type = "mint_iqa"

    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        qformer: dict[str, Any] | None = None,
        query_tokens: int = 32,
        shortcut: bool = False,
        shortcut_hidden: int | None = None,
        heads: dict[str, int] | None = None,
        faults: list[str] | None = None,
        alignment: dict[str, Any] | None = None,
        matching: bool = False,
        examiner: dict[str, Any] | None = None,
        language: dict[str, Any] | None = None,
        processor: dict[str, Any] | None = None,
        parts: dict[str, str] | None = None,
        referenced: list[str] | None = None,
        checkpoint_version: int = VERSION,
        **kwargs: Any,
    ) -> None:
        self.vision = vision or dict(PUBLISHED_VISION)
        self.qformer = qformer or {}
        self.query_tokens = query_tokens
        self.shortcut = shortcut
        self.shortcut_hidden = shortcut_hidden
        self.heads = heads or {"hidden": 48, "outputs": 3, "index": 1}
        self.faults = list(faults or [])
        self.alignment = alignment
        self.matching = matching
        self.examiner = examiner
        self.language = language or {"hidden_size": 4096}
        self.processor = processor or {}
        self.parts = dict(parts or {})
        self.referenced = list(referenced or [])
        self.checkpoint_version = checkpoint_version
        super().__init__(**kwargs)

    def is_referenced(self, name: str) -> bool:
        """Whether a weight's name begins with one of `referenced`.

        Shell patterns and not regular expressions: a stranger's expression could take forever to match.

        >>> config = MintIQAConfig(referenced=["qformer2.encoder.layer.[0-9].output."])
        >>> config.is_referenced("qformer2.encoder.layer.3.output.dense.bias")
        True
        """
        return any(fnmatchcase(name, f"{pattern}*") for pattern in self.referenced)

    @property
    def dimensions(self) -> tuple[str, ...]:
        return DIMENSIONS
