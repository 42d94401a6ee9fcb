"""A start for training from other people's weights: InstructBLIP, BLIP-2 or CLIP, a BERT and any causal LM.

Both stages get the same tower and the same Q-Former, and the bridge is zero: at first stage 2 is exactly
InstructBLIP (MINT-IQA section 3.3). Weights that no source provides, mainly the score heads, are new
and must be trained. All others are mapped from disk and written a shard at a time.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mint_iqa.checkpoints.checks import differences, misfit, shapes_of
from mint_iqa.checkpoints.finding import find_folder
from mint_iqa.checkpoints.tokenizers import fitting_tokenizer
from mint_iqa.convert.other_models import Given, read_source
from mint_iqa.convert.published import CLIP_MEAN, CLIP_STD
from mint_iqa.convert.writing import check_new, write_part
from mint_iqa.errors import MintIQAError
from mint_iqa.files import written_whole
from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.quiet import quiet_transformers

# Always new, and what only a whole InstructBLIP or BLIP-2 brings.
NEW = re.compile(r"heads\.|bridge\.|familiar_")
NEW_WITHOUT_LLM = re.compile(r"language_projection\.")
NEW_WITHOUT_BLIP = re.compile(r"qformer[12]\.(query_tokens|encoder\..*\.crossattention\.)|vision\.readout\.")
SHARED_BLOCKS = 22 / 39  # share of the blocks that serve both stages, as published (section 4.1)
MAX_PROMPT_TOKENS = 256  # as in published training


@dataclass(frozen=True)
class Origin:
    """So many `parameters` of our `part` come from `source`."""

    part: str
    source: str
    parameters: int


@dataclass(frozen=True)
class Start:
    """What `initialize` wrote, and which parts of the source it left out."""

    folder: Path
    origins: tuple[Origin, ...]
    unused: tuple[str, ...]


def initialize(
    source: str | Path,
    folder: Path,
    text: str | None = None,
    llm: str | None = None,
    tokenizers: Path | None = None,
) -> Start:
    """Write a model to train to the new folder `folder`.

    source: folder or hub id of an InstructBLIP, BLIP-2 or CLIP, as `save_pretrained` writes it.
    text: of a BERT; its layers read the prompt where the source has no Q-Former that does (BLIP-2, CLIP).
    llm: of another LLM than the source's. It stays where it is, and the projection into it is new.
    tokenizers: a folder laid out as InstructBLIP's, if they are not in the source.
    Raises MintIQAError when a source is missing or of another kind, when weights are missing, unknown or of
    another shape, or when `folder` has something in it.
    """
    check_new(folder)
    given = read_source(find_folder(source, "model"), text)
    unused = _drop_llm(given) if llm is not None else set()
    config = _config(given, llm)
    with torch.device("meta"):
        model = MintIQAModel(config)
        own_llm = AutoModelForCausalLM.from_config(given.llm) if llm is None else None
    theirs = {name: their_name(name, config.vision["branch_at"]) for name in model.state_dict()}
    _check(given, model, theirs)
    new = [name for name, origin in theirs.items() if origin not in given.weights]
    state = {n: given.weights[origin] for n, origin in theirs.items() if origin in given.weights}
    state |= new_weights(model, new)
    language = _language(given, own_llm) if own_llm is not None else {}
    speakers = _tokenizers(given, config, own_llm, tokenizers)
    try:
        with written_whole(folder) as temporary:
            write_part(model, state, temporary)
            if own_llm is not None:
                write_part(own_llm, language, temporary / "language")
            for place, tokenizer in speakers.items():
                tokenizer.save_pretrained(temporary / place)
    except OSError as error:
        raise MintIQAError("output_unwritable", f"{folder} can't be written: {error.strerror}.") from error
    origins = _origins(state, {n: given.origin(theirs[n]) for n in state if n not in new}, language)
    unused |= {n.split(".")[0] for n in given.weights.keys() - set(theirs.values())} - {"language_model"}
    return Start(folder, origins, tuple(sorted(unused)))


def _drop_llm(given: Given) -> set[str]:
    """Forget the source's LLM and the projection into it; their names, where it had any."""
    prefixes = ("language_model", "language_projection")
    dropped = [name for name in given.weights if name.startswith(prefixes)]
    for name in dropped:
        del given.weights[name]
    given.llm = None
    return {name.split(".")[0] for name in dropped}


def their_name(name: str, branch_at: int) -> str:
    """What InstructBLIP calls the weight `name` of `MintIQAModel`; unchanged where it has no such weight."""
    if block := re.match(r"vision2\.blocks\.(\d+)\.", name):
        return f"vision_model.encoder.layers.{int(block[1]) + branch_at}.{name[block.end() :]}"
    for ours, theirs in (
        (r"vision\.backbone\.", "vision_model."),
        (r"vision2\.norm\.", "vision_model.post_layernorm."),
        (r"qformer[12]\.encoder\.", "qformer."),
        (r"qformer[12]\.query_tokens", "query_tokens"),
    ):
        if re.match(ours, name):
            return re.sub(ours, theirs, name, count=1)
    return name


def _config(given: Given, llm: str | None) -> MintIQAConfig:
    depth = given.vision["num_hidden_layers"]
    if given.blip:
        taps, branch_at = [depth], round(depth * SHARED_BLOCKS)
    else:
        # Nothing was trained on the last block's output yet, and middle blocks say more about quality.
        taps, branch_at = sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)}), depth
    processor = {"image_size": given.vision["image_size"], "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    # Squeezed whole into the square, as InstructBLIP's are, but for very long pictures.
    processor |= {"max_aspect": 2.0}
    processor |= {"max_prompt_tokens": min(MAX_PROMPT_TOKENS, given.qformer["max_position_embeddings"])}
    return MintIQAConfig(
        vision={**given.vision, "taps": taps, "branch_at": branch_at},
        qformer=given.qformer,
        query_tokens=given.query_tokens,
        language=_language_config(given, llm),
        processor=processor,
    )


def _language_config(given: Given, llm: str | None) -> dict[str, Any]:
    if llm is not None:
        folder = find_folder(llm, "LLM")
        with quiet_transformers():
            width = AutoConfig.from_pretrained(folder).get_text_config().hidden_size
        is_local = (Path(llm).expanduser() / "config.json").is_file()
        return {"hidden_size": width, "source": str(folder.resolve()) if is_local else llm}
    if given.llm is None:
        raise MintIQAError(
            "llm_missing",
            f"{given.folder} brings no decoder-only LLM: name one with --llm, folder or hub id.",
        )
    return {"hidden_size": given.llm.hidden_size}


def _check(given: Given, model: MintIQAModel, theirs: dict[str, str]) -> None:
    """MintIQAError unless everything that the source should bring is there, fits and is used."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    may_be_new = [NEW] if given.blip else [NEW, NEW_WITHOUT_BLIP]
    may_be_new += [] if given.llm is not None else [NEW_WITHOUT_LLM]
    brought = {name: given.weights[origin] for name, origin in theirs.items() if origin in given.weights}
    parts = tuple({origin.split(".")[0] for origin in theirs.values()})
    missing = {theirs[n] for n in shapes.keys() - brought.keys() if not any(p.match(n) for p in may_be_new)}
    unknown = (n for n in given.weights if n.startswith(parts) and n not in theirs.values())
    reshaped = {theirs[n] for n, t in brought.items() if t.shape != shapes[n]}
    if found := differences(missing, unknown, reshaped):
        raise MintIQAError(
            "bad_checkpoint",
            f"The weights in {given.folder} do not fit its config ({found}): save them again with "
            "save_pretrained of transformers 5.",
        )


def new_weights(model: PreTrainedModel, names: Iterable[str]) -> dict[str, Tensor]:
    """Weights of a `model` on the meta device as a new one would have them, the same at every call."""
    names = list(names)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        zeros = torch.zeros(getattr(module, leaf).shape, device="cpu")
        setattr(module, leaf, nn.Parameter(zeros) if leaf in module._parameters else zeros)
    for module in model.modules():
        module._is_hf_initialized = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.initialize_weights()
    state = model.state_dict()
    return {name: state[name] for name in names}


def _language(given: Given, llm: PreTrainedModel) -> dict[str, Tensor]:
    """The source's LLM under its own names; MintIQAError unless it is whole."""
    prefix = "language_model."
    state = {n.removeprefix(prefix): t for n, t in given.weights.items() if n.startswith(prefix)}
    expected = llm.state_dict()
    tied = set(llm.all_tied_weights_keys) if llm.config.tie_word_embeddings else set()
    wanted = {prefix + name: shape for name, shape in shapes_of(expected).items()}
    own = {prefix + name: shape for name, shape in shapes_of(state).items()}
    if found := misfit(wanted, own, may_lack=[prefix + name for name in tied]):
        raise MintIQAError(
            "bad_checkpoint",
            f"The LLM in {given.folder} does not fit its config ({found}): save it again with "
            "save_pretrained of transformers 5, or name another with --llm.",
        )
    return state


def _tokenizers(
    given: Given, config: MintIQAConfig, own_llm: PreTrainedModel | None, folder: Path | None
) -> dict[str, Any]:
    """Place below the output -> tokenizer."""
    text = folder / "qformer_tokenizer" if folder and not given.text else given.text_tokenizer
    found = {".": fitting_tokenizer(text, config.qformer["vocab_size"])}
    if own_llm is not None:
        found["language"] = fitting_tokenizer(folder or given.folder, own_llm.config.vocab_size)
    return found


def _origins(
    state: dict[str, Tensor], sources: dict[str, str], language: dict[str, Tensor]
) -> tuple[Origin, ...]:
    counts: dict[tuple[str, str], int] = {}
    for name, tensor in state.items():
        key = name.split(".")[0], sources.get(name, "new")
        counts[key] = counts.get(key, 0) + tensor.numel()
    if language:
        counts["language", "language_model"] = sum(tensor.numel() for tensor in language.values())
    # What `novelty` measures against is set when training ends; it is not a weight.
    return tuple(Origin(part, source, n) for (part, source), n in counts.items() if "familiar" not in part)
