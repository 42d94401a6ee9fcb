"""Loads causal LMs of any family: in which precision, on which devices, with which adapter."""

import importlib.util
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerBase

from mint_iqa.checkpoints import checks
from mint_iqa.checkpoints.tokenizers import read_tokenizer
from mint_iqa.errors import MintIQAError
from mint_iqa.quiet import quiet_transformers, silence_bitsandbytes

QUANTIZATIONS = ("nf4", "int8", "int8-steps")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def placement(
    quantization: str | None, device_map: str | None, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Settings of `LanguageModel.load`: how the LLM alone is quantized, and where it goes.

    quantization: nf4 (4 bits a weight, computed in `dtype`) | int8 | int8-steps (see `step_in_int8`).
    device_map: one of DEVICE_MAPS, spreads it over all GPUs; None: to `device`.
    Empty where neither is asked for. MintIQAError for an unknown value, or without bitsandbytes.
    """
    for option, word, known in (
        ("quantization", quantization, QUANTIZATIONS),
        ("device_map", device_map, DEVICE_MAPS),
    ):
        if word is not None and word not in known:
            raise MintIQAError("bad_argument", f"There is no {option} {word!r}: use {', '.join(known)}.")
    if quantization is None:
        return {} if device_map is None else {"device_map": device_map}
    if quantization == "int8-steps":
        if device.type != "cpu" or dtype != torch.float32 or device_map is not None:
            raise MintIQAError(
                "bad_argument", "int8-steps is for a CPU and float32: leave out other options."
            )
        return {"int8_steps": True}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MintIQAError(
            "extra_missing", "Quantization needs bitsandbytes: run `pip install 'mint-iqa[quantization]'`."
        )
    silence_bitsandbytes()
    bits = {"load_in_8bit": True} if quantization == "int8" else {"load_in_4bit": True}
    config = BitsAndBytesConfig(**bits, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config, "device_map": device_map or {"": device}}


def check_own(folder: Path) -> None:
    """MintIQAError unless the config of a checkpoint's own LLM describes one of its weights' size."""
    checks.read_config(folder)
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # any value may be of any type, and each is used somewhere else
        raise MintIQAError(
            "bad_checkpoint", f"No LLM can be built from {folder / 'config.json'}: {checks.RENEW}."
        ) from error
    checks.check_size(folder, model)


def load_llm(source: Path, settings: dict[str, Any], can_read: bool = True) -> tuple[Any, Any]:
    """The LLM in a local folder and its tokenizer, None unless `can_read`.

    settings go to transformers: dtype, and those of `placement`. Raises MintIQAError for a folder without a
    decoder-only LLM, with weights missing, or when memory runs out.
    """
    tokenizer = _tokenizer(source) if can_read else None
    try:
        with quiet_transformers():
            # Eager attention is the fastest here: one new token at a time against a short prefix.
            model, info = AutoModelForCausalLM.from_pretrained(
                source,
                attn_implementation="eager",
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,  # explicit, or transformers would ask at a terminal
                **settings,
            )
    except (OSError, SafetensorError) as error:
        raise MintIQAError(
            "bad_checkpoint",
            f"{source} holds no readable LLM (its weights as safetensors): download or convert it again.",
        ) from error
    except (MemoryError, torch.OutOfMemoryError):  # not the fault of a file
        raise
    except Exception as error:  # damaged files reach every layer of transformers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(". ")
        raise MintIQAError(
            "bad_checkpoint",
            f"The LLM in {source} can't be loaded as a causal LM ({reason}): choose another.",
        ) from error
    if lacking := sorted(info["missing_keys"]):
        raise MintIQAError(
            "bad_checkpoint",
            f"The LLM in {source} lacks {', '.join(lacking[:3])}: download or convert it again.",
        )
    # bitsandbytes' fast kernel for CPUs fails on layers that are not a multiple of its blocks.
    linear = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    _never_repack(layer for layer in linear if layer.in_features % 64 or layer.out_features % 32)
    return model, tokenizer


def _tokenizer(source: Path) -> PreTrainedTokenizerBase:
    tokenizer = read_tokenizer(source)
    if len(tokenizer) < 100:  # a folder without its files silently gives an empty vocabulary
        raise MintIQAError(
            "tokenizer_missing", f"The LLM in {source} has no tokenizer: copy its tokenizer files there."
        )
    return tokenizer


def _check_rank(adapter: Path, settings: dict[str, Any]) -> None:
    """ValueError for a rank above that of the stored matrices: peft would make them before it compares."""
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        stored = max(min(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    if max([settings.get("r") or 0, *(settings.get("rank_pattern") or {}).values()]) > stored:
        raise ValueError("the rank is not that of the weights")


def with_adapter(model: Any, adapter: Path) -> Any:
    """LoRA weights added to the base for good, so that an answer costs no more; beside it if quantized."""
    silence_bitsandbytes()  # peft looks for it
    from peft import PeftModel

    if not (adapter / "adapter_model.safetensors").is_file():
        raise MintIQAError(
            "bad_checkpoint", f"{adapter} has no adapter_model.safetensors: convert or train it again."
        )
    try:
        settings = json.loads((adapter / "adapter_config.json").read_bytes())
        checks.check_settings(adapter / "adapter_config.json", settings)
        _check_rank(adapter, settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, adapter)
        return adapted if getattr(model, "is_quantized", False) else adapted.merge_and_unload()
    except MintIQAError:
        raise
    except Exception as error:  # damaged files reach every layer of peft
        raise MintIQAError(
            "bad_checkpoint", f"{adapter} holds no readable adapter: {checks.RENEW}."
        ) from error


def keep_gradients(model: nn.Module) -> None:
    """Before training through a 4-bit LLM on a CPU.

    With AVX512-BF16, one forward pass in eval mode repacks the weights for good, and later gradients silently
    vanish (bitsandbytes 0.50).
    """
    _never_repack(model.modules())


def _never_repack(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
