"""Reads the sources of `convert.start`: InstructBLIP, BLIP-2 or CLIP, and the BERT that adds to them."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModel, CLIPVisionModel, PretrainedConfig

from mint_iqa.checkpoints.finding import find_folder
from mint_iqa.errors import MintIQAError
from mint_iqa.model.qformer import qformer_state
from mint_iqa.quiet import quiet_transformers

QFORMER_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
WORDS = "qformer.embeddings.word_embeddings.weight"
# Constants that modules compute themselves and older libraries saved.
DERIVED = re.compile(r".*(position_ids|rotary_emb\.inv_freq)")
QUERY_TOKENS = 32  # as in BLIP-2; of a Q-Former that starts from a BERT


@dataclass
class Given:
    """Weights under InstructBLIP's names, and the settings that fit them.

    blip: whether the source has a Q-Former of its own. text: where the weights in `from_text` come from.
    llm: the config of the source's own decoder-only LLM.
    """

    folder: Path
    weights: dict[str, Tensor]
    vision: dict[str, Any]
    blip: bool = False
    qformer: dict[str, Any] = field(default_factory=dict)
    query_tokens: int = QUERY_TOKENS
    llm: PretrainedConfig | None = None
    text_tokenizer: Path = Path()
    text: str = ""
    from_text: frozenset[str] = frozenset()

    def origin(self, name: str) -> str:
        """Where the weight `name` comes from, in a word or two."""
        return self.text if name in self.from_text else name.split(".")[0]


def read_source(folder: Path, text: str | None) -> Given:
    """`folder` as `save_pretrained` of transformers writes it; `text`: folder or hub id of a BERT.

    MintIQAError for another kind of model, and when a BERT is missing or does not fit.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise MintIQAError(
            "bad_checkpoint", f"{folder} has no config.json that transformers knows."
        ) from error
    if config.model_type in ("instructblip", "blip-2"):
        given = _read_blip(folder, config)
    elif config.model_type in ("clip", "clip_vision_model"):
        given = _read_clip(folder, config)
    else:
        raise MintIQAError(
            "bad_checkpoint",
            f"{folder} holds a model of type {config.model_type!r}: give an InstructBLIP, BLIP-2 or CLIP.",
        )
    if WORDS not in given.weights:
        _add_text(given, text)
    elif text is not None:
        raise MintIQAError(
            "bad_argument", f"The Q-Former in {folder} reads text by itself: leave --text out."
        )
    return given


def _settings(config: PretrainedConfig) -> dict[str, Any]:
    """A tower's config as MintIQAConfig.vision wants it."""
    dropped = ("transformers_version", "architectures", "dtype", "initializer_range", "initializer_factor")
    settings = {k: v for k, v in config.to_diff_dict().items() if k not in dropped}
    # BLIP-2's tower is InstructBLIP's.
    kind = settings["model_type"].replace("blip_2", "instructblip")
    return {**settings, "model_type": kind}


def _read_blip(folder: Path, config: PretrainedConfig) -> Given:
    weights = {
        # BLIP-2 has no text embeddings, but the norm behind them.
        re.sub(r"^qformer\.layernorm\.", "qformer.embeddings.layernorm.", name): tensor
        for name, tensor in mapped(folder).items()
        if not DERIVED.fullmatch(name)
    }
    qformer = {key: getattr(config.qformer_config, key) for key in QFORMER_KEYS}
    return Given(
        folder,
        weights,
        _settings(config.vision_config),
        blip=True,
        qformer={**qformer, "cross_attention_frequency": config.qformer_config.cross_attention_frequency},
        query_tokens=config.num_query_tokens,
        llm=config.text_config if config.use_decoder_only_language_model else None,
        text_tokenizer=folder / "qformer_tokenizer",
    )


def _read_clip(folder: Path, config: PretrainedConfig) -> Given:
    try:
        with quiet_transformers():
            tower, info = CLIPVisionModel.from_pretrained(
                folder, dtype="auto", use_safetensors=True, output_loading_info=True
            )
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder) from error
    if lacking := sorted(info["missing_keys"]):
        raise MintIQAError(
            "bad_checkpoint", f"The CLIP in {folder} lacks {', '.join(lacking[:3])}: download it again."
        )
    weights = {f"vision_model.{name}": tensor for name, tensor in tower.state_dict().items()}
    return Given(folder, weights, _settings(getattr(config, "vision_config", config)))


def mapped(folder: Path) -> dict[str, Tensor]:
    """Every tensor that save_pretrained left in `folder`, mapped from disk: read when it is used."""
    index = folder / "model.safetensors.index.json"
    try:
        files = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else None
        weights: dict[str, Tensor] = {}
        for name in sorted(files or {"model.safetensors"}):
            with safe_open(folder / name, "pt") as file:
                names = file.keys()
                weights |= {key: file.get_tensor(key) for key in names}
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _unreadable(folder) from error
    return weights


def _unreadable(folder: Path) -> MintIQAError:
    return MintIQAError(
        "bad_checkpoint",
        f"{folder} holds no readable safetensors: download it again, or save it with save_pretrained of "
        "transformers 5.",
    )


def _add_text(given: Given, text: str | None) -> None:
    """Fill what the source's Q-Former lacks, all of it for a CLIP, from the BERT `text`."""
    if text is None:
        raise MintIQAError(
            "text_missing",
            f"{given.folder} has no Q-Former that reads text: name a BERT for it with --text, such as "
            "bert-base-uncased.",
        )
    folder = find_folder(text, "BERT")
    try:
        with quiet_transformers():
            bert = AutoModel.from_pretrained(folder, dtype="auto", use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(folder) from error
    if bert.config.model_type != "bert":
        raise MintIQAError(
            "bad_checkpoint", f"--text {folder} is a {bert.config.model_type}: name a BERT, whose layers fit."
        )
    if given.qformer and given.qformer["hidden_size"] != bert.config.hidden_size:
        raise MintIQAError(
            "bad_checkpoint",
            f"--text {folder} is {bert.config.hidden_size} wide, but the Q-Former in {given.folder} "
            f"{given.qformer['hidden_size']}: name a BERT of that width.",
        )
    settings = {key: getattr(bert.config, key) for key in QFORMER_KEYS}
    words = {key: settings[key] for key in ("vocab_size", "max_position_embeddings")}
    given.qformer = {**(given.qformer or settings), **words}
    layers = given.qformer["num_hidden_layers"]
    added = {
        f"qformer.{name}": tensor
        for name, tensor in qformer_state(bert.state_dict()).items()
        if f"qformer.{name}" not in given.weights and _layer(name) < layers
    }
    given.weights |= added
    given.from_text, given.text, given.text_tokenizer = frozenset(added), f"{folder.name} (BERT)", folder


def _layer(name: str) -> int:
    found = re.search(r"\.layer\.(\d+)\.", name)
    return int(found[1]) if found else -1
