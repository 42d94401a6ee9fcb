"""The published MINT-IQA checkpoint: its dimensions, and what it calls the weights of `MintIQAModel`.

One state dict holds both stages: `qformer1.*` with its ViT and heads, `qformer2.*` with its ViT and the LLM.
"""

import re
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError
from torch import Tensor
from transformers import LlamaConfig

from mint_iqa.checkpoints import checks
from mint_iqa.errors import MintIQAError
from mint_iqa.model.configuration import MintIQAConfig

State = dict[str, Tensor]

# Beside the checkpoint's keys: left over from BLIP-2's pretraining, read by no published forward pass.
UNUSED = re.compile(r"qformer[12]\.(temp|(vision|text)_proj\.(weight|bias))")
# Counters and constants that our modules compute themselves.
DERIVED = re.compile(
    r"qformer[12]\.Qformer\.bert\.embeddings\.position_ids"
    r"|qformer2\.llm_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
)
# How usual a picture is was never measured for it: zeros, see `MintIQAModel.novelty`.
OURS = ("familiar_mean", "familiar_axes")

HEADS = {"quality": "quality1", "authenticity": "quality2", "correspondence": "quality3"}
WORDS = "Qformer.bert.embeddings.word_embeddings.weight"
LLM = "qformer2.llm_model."
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

# Our names -> theirs, in this order, below each stage's prefix.
TOWER = (
    ("backbone.embeddings.", "stem."),
    ("backbone.encoder.layers.", "blocks."),
    ("backbone.post_layernorm.", "norm."),
    ("stem.class_embedding", "visual_encoder.cls_token"),
    ("stem.position_embedding", "visual_encoder.pos_embed"),
    ("stem.patch_embedding.", "visual_encoder.patch_embed.proj."),
    ("blocks.", "visual_encoder.blocks."),
    ("self_attn.projection.", "attn.proj."),
    ("self_attn.", "attn."),
    ("layer_norm", "norm"),
)
QFORMER = (
    ("encoder.embeddings.layernorm.", "encoder.embeddings.LayerNorm."),
    ("attention.attention.", "attention.self."),  # crossattention too
)


# Upper bounds: nothing larger exists, and even a model without weights would never finish building.
Size = Annotated[int, Field(gt=0, le=checks.LARGEST_NUMBER)]
Depth = Annotated[int, Field(gt=0, le=checks.MAX_LAYERS_OR_LABELS)]
Token = Annotated[int, Field(ge=-1, le=checks.LARGEST_NUMBER)]


class Dimensions(BaseModel):
    """Sizes of a checkpoint in the published format; the defaults are those of the published model.

    `None`: read from the checkpoint, where added tokens have enlarged the vocabularies. Images and patches
    are measured in pixels, positions in tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: Size = 224
    patch_size: Size = 14
    vision_width: Size = 1408
    vision_layers: Depth = 39
    vision_heads: Size = 16
    vision_mlp: Size = 6144
    vision_norm_eps: PositiveFloat = 1e-6
    ln_vision_eps: PositiveFloat = 1e-5
    qformer_width: Size = 768
    qformer_layers: Depth = 12
    qformer_heads: Size = 12
    qformer_mlp: Size = 3072
    qformer_vocab: Size | None = None
    qformer_positions: Size = 512
    qformer_norm_eps: PositiveFloat = 1e-12
    cross_attention_every: Size = 2
    query_tokens: Size = 32
    head_hidden: Size = 48
    head_outputs: Size = 3
    llm_width: Size = 4096
    llm_layers: Depth = 32
    llm_heads: Size = 32
    llm_mlp: Size = 11008
    llm_vocab: Size | None = None
    llm_positions: Size = 2048
    llm_rms_norm_eps: PositiveFloat = 1e-6
    llm_bos: Token = 1
    llm_eos: Token = 2
    llm_pad: Token | None = None  # the vocabulary's last entry, which InstructBLIP adds


def read_dimensions(path: Path | None, state: State) -> Dimensions:
    """The published dimensions, changed as the JSON file `path` says, completed from the checkpoint.

    Raises MintIQAError for a file that is missing, is not JSON, or has names that `Dimensions` lacks.
    """
    try:
        dims = Dimensions() if path is None else Dimensions.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MintIQAError(
            "config_missing", f"--config {path} can't be read ({error.strerror}): check the path."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise MintIQAError(
            "bad_config", f"--config {path} is not a list of dimensions: {first['msg']} ({where})."
        ) from None
    qformer_vocab = dims.qformer_vocab or _rows(state, f"qformer1.{WORDS}")
    llm_vocab = dims.llm_vocab or _rows(state, f"{LLM}model.embed_tokens.weight")
    llm_pad = llm_vocab - 1 if dims.llm_pad is None else dims.llm_pad
    return dims.model_copy(
        update={"qformer_vocab": qformer_vocab, "llm_vocab": llm_vocab, "llm_pad": llm_pad}
    )


def _rows(state: State, name: str) -> int:
    return len(state[name]) if name in state else 1  # its absence is reported with all others


def model_config(dims: Dimensions, branch_at: int) -> MintIQAConfig:
    """`branch_at`: how many blocks of the two towers are equal, see `MintIQAConfig`."""
    vision = {
        "model_type": "instructblip_vision_model",
        "image_size": dims.image_size,
        "patch_size": dims.patch_size,
        "hidden_size": dims.vision_width,
        "num_hidden_layers": dims.vision_layers,
        "num_attention_heads": dims.vision_heads,
        "intermediate_size": dims.vision_mlp,
        "layer_norm_eps": dims.vision_norm_eps,
        "final_norm_eps": dims.ln_vision_eps,
        "taps": [dims.vision_layers],
        "branch_at": branch_at,
    }
    qformer = {
        "vocab_size": dims.qformer_vocab,
        "hidden_size": dims.qformer_width,
        "num_hidden_layers": dims.qformer_layers,
        "num_attention_heads": dims.qformer_heads,
        "intermediate_size": dims.qformer_mlp,
        "max_position_embeddings": dims.qformer_positions,
        "layer_norm_eps": dims.qformer_norm_eps,
        "cross_attention_frequency": dims.cross_attention_every,
    }
    # Published inference cuts the prompt at 35 tokens and crops the middle square.
    processor = {"image_size": dims.image_size, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    processor |= {"max_aspect": 1.0, "max_prompt_tokens": 35}
    return MintIQAConfig(
        vision=vision,
        qformer=qformer,
        query_tokens=dims.query_tokens,
        heads={"hidden": dims.head_hidden, "outputs": dims.head_outputs, "index": 1},
        language={"hidden_size": dims.llm_width},
        processor=processor,
    )


def llm_config(dims: Dimensions) -> LlamaConfig:
    settings: dict[str, Any] = {
        "vocab_size": dims.llm_vocab,
        "hidden_size": dims.llm_width,
        "num_hidden_layers": dims.llm_layers,
        "num_attention_heads": dims.llm_heads,
        "intermediate_size": dims.llm_mlp,
        "max_position_embeddings": dims.llm_positions,
        "rms_norm_eps": dims.llm_rms_norm_eps,
        "bos_token_id": dims.llm_bos,
        "eos_token_id": dims.llm_eos,
        "pad_token_id": dims.llm_pad,
    }
    return LlamaConfig(**settings)


def published_names(name: str, branch_at: int) -> tuple[str, ...]:
    """What the published checkpoint calls the weight `name` of `MintIQAModel`.

    Two names for a bias whose middle third is zero, none for what it doesn't have.
    """
    if name in OURS:
        return ()
    part, rest = name.split(".", 1)
    if part == "heads":
        dimension, _, layer = rest.split(".", 2)
        return (f"qformer1.{HEADS[dimension]}.{layer}",)
    if part in ("bridge", "language_projection"):
        return (f"qformer2.{'zero_forward' if part == 'bridge' else 'llm_proj'}.{rest}",)
    if part in ("qformer1", "qformer2"):
        rest = _renamed(rest, QFORMER)
        return (f"{part}.{rest.replace('encoder.', 'Qformer.bert.', 1)}",)
    stage, first = ("qformer1", 0) if part == "vision" else ("qformer2", branch_at)
    return tuple(f"{stage}.{own}" for own in _tower_names(rest, first))


def _tower_names(name: str, first: int) -> tuple[str, ...]:
    """`first`: which block of the published tower our block 0 is."""
    name = _renamed(name, TOWER)
    if name.startswith("norm."):
        return (f"ln_vision.{name.removeprefix('norm.')}",)
    name = re.sub(r"(?<=blocks\.)\d+", lambda number: str(int(number[0]) + first), name)
    if name.endswith("attn.qkv.bias"):
        stem = name.removesuffix("qkv.bias")
        return f"{stem}q_bias", f"{stem}v_bias"
    return (name,)


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def weight(state: State, names: tuple[str, ...], shape: torch.Size) -> Tensor:
    """The tensor behind `published_names`."""
    if not names:
        return torch.zeros(shape)
    if len(names) == 1:
        return state[names[0]]
    query, value = (state[name] for name in names)
    return torch.cat([query, torch.zeros_like(value), value])  # keys have no bias


def shared_blocks(state: State, depth: int) -> int:
    """How many first blocks of the two towers are equal in every number; 0 if what comes before them differs.

    `depth` only if the last LayerNorm is equal as well: sharing every block shares it too.
    """

    def equal(prefix: str) -> bool:
        names = [n for n in state if n.startswith(f"qformer1.{prefix}")]
        return all(_equal(state[n], state[n.replace("qformer1.", "qformer2.", 1)]) for n in names)

    if not all(equal(f"visual_encoder.{part}") for part in ("cls_token", "pos_embed", "patch_embed.")):
        return 0
    blocks = 0
    while blocks < depth and equal(f"visual_encoder.blocks.{blocks}."):
        blocks += 1
    return blocks if blocks < depth or equal("ln_vision.") else depth - 1


def _equal(one: Tensor, other: Tensor) -> bool:
    wider = torch.promote_types(one.dtype, other.dtype)  # either tower may be stored in half precision
    return torch.equal(one.to(wider), other.to(wider))
